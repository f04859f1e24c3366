//! From text to operations: a parser by recursive descent, one function for each level of precedence.

use super::{
    lex::{Kind, SyntaxError, Token, error, lex},
    run::{Bound, DEPTH_LIMIT, Op, Program, Type},
    value::Binary,
};

/// Most characters of an expression.
pub const TEXT_LIMIT: usize = 4_096;
/// Most expressions inside each other, such as brackets.
pub const NESTING_LIMIT: usize = 32;

const SIMPLER: &str = "use a simpler expression, or let the handler decide";

// From weak to strong; the operators of a level stand beside each other and are read from the left.
const LEVELS: [&[(&str, Binary)]; 6] = [
    &[("==", Binary::Equal), ("=", Binary::Equal), ("!=", Binary::NotEqual)],
    &[("<", Binary::Less), ("<=", Binary::LessOrEqual), (">", Binary::Greater), (">=", Binary::GreaterOrEqual)],
    &[("&", Binary::BitAnd)],
    &[("<<", Binary::ShiftLeft), (">>", Binary::ShiftRight)],
    &[("+", Binary::Add), ("-", Binary::Subtract)],
    &[("*", Binary::Multiply), ("/", Binary::Divide), ("%", Binary::Remainder)],
];

pub(super) fn compile(text: &str) -> Result<Program, SyntaxError> {
    if let Some((at, _)) = text.char_indices().nth(TEXT_LIMIT) {
        let cause = format!("the expression has more than {TEXT_LIMIT} characters");
        return Err(error(text, at, cause, SIMPLER));
    }
    let mut parser = Parser { text, tokens: lex(text)?, at: 0, nesting: 0, code: Vec::new(), spans: Vec::new() };
    if parser.peek() == &Kind::End {
        return Err(error(text, 0, "the expression is empty", "write one such as [0] == 0xFE"));
    }
    parser.pipe()?;
    if parser.peek() != &Kind::End {
        return Err(parser.unexpected("an operator"));
    }
    let depth = depth(&parser.code);
    if depth > DEPTH_LIMIT {
        return Err(error(text, 0, "the expression keeps too many values at the same time", SIMPLER));
    }
    Ok(Program { code: parser.code.into(), spans: parser.spans.into(), depth })
}

/// Values that are on the stack at the same time, at most.
fn depth(code: &[Op]) -> usize {
    let popped = |bound: Bound| usize::from(bound == Bound::Calculated);
    let mut most = 0;
    // Both ways through a jump leave as many values, so the way straight on tells the depth everywhere.
    let mut now = 0usize;
    for op in code {
        match op {
            Op::Int(_) | Op::Real(_) | Op::Bool(_) | Op::Null | Op::Bytes(_) | Op::Text(_) => now += 1,
            Op::Range(start, end) => now = now + 1 - popped(*start) - popped(*end),
            Op::Span(offset, length) => now = now + 1 - popped(*offset) - popped(*length),
            Op::At(offset, _) => now = now + 1 - popped(*offset),
            Op::Binary(_) | Op::And | Op::Or | Op::IfSome(_) | Op::Unless(_) | Op::Jump(_) | Op::Leave => now -= 1,
            Op::Read(_) | Op::Negate | Op::Not | Op::IfFalse(_) | Op::IfTrue(_) | Op::Enter(_) => {}
        }
        most = most.max(now);
    }
    most
}

struct Parser<'t> {
    text: &'t str,
    tokens: Vec<Token>,
    at: usize,
    nesting: usize,
    code: Vec<Op>,
    spans: Vec<(usize, usize)>,
}

type Parsed = Result<(), SyntaxError>;

impl Parser<'_> {
    /// `a | b`: b reads what a gives.
    fn pipe(&mut self) -> Parsed {
        self.deeper()?;
        let start = self.token().start;
        self.ternary()?;
        while self.took("|") {
            let enter = self.emit(Op::Enter(0), start);
            self.ternary()?;
            self.emit(Op::Leave, start);
            self.code[enter] = Op::Enter(self.code.len());
        }
        self.nesting -= 1;
        Ok(())
    }

    /// `a ? b : c`, where c may be the next case
    fn ternary(&mut self) -> Parsed {
        let start = self.token().start;
        let mut jumps = Vec::new();
        self.coalesce()?;
        while self.took("?") {
            let unless = self.emit(Op::Unless(0), start);
            self.pipe()?;
            jumps.push(self.emit(Op::Jump(0), start));
            self.expect(":", "`:` and the value for the other case: a ? b : c")?;
            self.code[unless] = Op::Unless(self.code.len());
            self.coalesce()?;
        }
        for jump in jumps {
            self.code[jump] = Op::Jump(self.code.len());
        }
        Ok(())
    }

    /// `a ?? b`
    fn coalesce(&mut self) -> Parsed {
        let start = self.token().start;
        self.or()?;
        let mut jumps = Vec::new();
        while self.took("??") {
            jumps.push(self.emit(Op::IfSome(0), start));
            self.or()?;
        }
        for jump in jumps {
            self.code[jump] = Op::IfSome(self.code.len());
        }
        Ok(())
    }

    /// `a || b`
    fn or(&mut self) -> Parsed {
        let start = self.token().start;
        self.and()?;
        while self.took("||") {
            let jump = self.emit(Op::IfTrue(0), start);
            self.and()?;
            self.emit(Op::Or, start);
            self.code[jump] = Op::IfTrue(self.code.len());
        }
        Ok(())
    }

    /// `a && b`
    fn and(&mut self) -> Parsed {
        let start = self.token().start;
        self.binary(0)?;
        while self.took("&&") {
            let jump = self.emit(Op::IfFalse(0), start);
            self.binary(0)?;
            self.emit(Op::And, start);
            self.code[jump] = Op::IfFalse(self.code.len());
        }
        Ok(())
    }

    fn binary(&mut self, level: usize) -> Parsed {
        let Some(operators) = LEVELS.get(level) else { return self.unary() };
        let start = self.token().start;
        self.binary(level + 1)?;
        while let Some(&(_, operator)) = operators.iter().find(|(symbol, _)| self.is(symbol)) {
            self.at += 1;
            self.binary(level + 1)?;
            self.emit(Op::Binary(operator), start);
        }
        Ok(())
    }

    /// `!a`, `-a`
    fn unary(&mut self) -> Parsed {
        let start = self.token().start;
        let op = if self.took("!") {
            Op::Not
        } else if self.took("-") {
            Op::Negate
        } else {
            return self.primary();
        };
        self.deeper()?;
        self.unary()?;
        self.nesting -= 1;
        self.emit(op, start);
        Ok(())
    }

    fn deeper(&mut self) -> Parsed {
        self.nesting += 1;
        if self.nesting > NESTING_LIMIT {
            let cause = format!("more than {NESTING_LIMIT} expressions are inside each other");
            return Err(error(self.text, self.token().start, cause, SIMPLER));
        }
        Ok(())
    }

    fn primary(&mut self) -> Parsed {
        let Token { kind, start, .. } = self.token().clone();
        let op = match kind {
            Kind::Symbol("[") => return self.range(None, start),
            Kind::Symbol("(") => {
                self.at += 1;
                self.pipe()?;
                return self.expect(")", "`)`");
            }
            Kind::Hex(bytes) => Op::Bytes(bytes.into()),
            Kind::Integer(value) => Op::Int(value),
            Kind::Real(value) => Op::Real(value),
            Kind::Text(text) => Op::Text(text.into()),
            Kind::Name(name) => match name.as_str() {
                "true" => Op::Bool(true),
                "false" => Op::Bool(false),
                "null" => Op::Null,
                name => return self.typed(name, start),
            },
            Kind::Symbol(_) | Kind::End => return Err(self.unexpected("a range such as [0:2], or a value")),
        };
        self.at += 1;
        self.emit(op, start);
        Ok(())
    }

    /// `u16le[4]`, `utf8[0:2]`
    fn typed(&mut self, name: &str, start: usize) -> Parsed {
        let Some(kind) = Type::named(name) else {
            let fix = "types are u8 to u64, i8 to i64, f32 and f64 (with le or be), utf8 and hex; texts are in quotes";
            return Err(error(self.text, start, format!("{name:?} is no type"), fix));
        };
        self.at += 1;
        if !self.is("[") {
            let cause = format!("{name} reads nothing here");
            return Err(error(self.text, self.token().start, cause, format!("write where it reads: {name}[0]")));
        }
        self.range(Some(kind), start)
    }

    /// From `[` to `]`, then the type if there is one.
    fn range(&mut self, kind: Option<Type>, start: usize) -> Parsed {
        let bracket = self.token().start;
        self.at += 1;
        let op = if self.is("]") {
            Op::Range(Bound::Fixed(0), Bound::Fixed(0))
        } else {
            let first = if self.is(":") { Bound::Open } else { self.bound()? };
            if self.took(":") {
                let end = if self.is("]") { Bound::Open } else { self.bound()? };
                Op::Range(first, end)
            } else if self.took(",") {
                Op::Span(first, self.bound()?)
            } else {
                Op::At(first, kind.map_or(1, Type::width))
            }
        };
        self.expect("]", "`]`; ranges are [5], [2,4] for an offset and a length, [2:6], [2:] and [:]")?;
        self.emit(op, bracket);
        if let Some(kind) = kind {
            self.emit(Op::Read(kind), start);
        }
        Ok(())
    }

    fn bound(&mut self) -> Result<Bound, SyntaxError> {
        let before = self.code.len();
        self.pipe()?;
        if let [Op::Int(value)] = self.code[before..]
            && let Ok(value) = usize::try_from(value)
        {
            self.code.pop();
            self.spans.pop();
            return Ok(Bound::Fixed(value));
        }
        Ok(Bound::Calculated)
    }

    /// Adds an operation for the text from `start` to here; its index.
    fn emit(&mut self, op: Op, start: usize) -> usize {
        self.code.push(op);
        self.spans.push((start, self.tokens[self.at.max(1) - 1].end));
        self.code.len() - 1
    }

    fn token(&self) -> &Token {
        &self.tokens[self.at]
    }

    fn peek(&self) -> &Kind {
        &self.token().kind
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(self.peek(), Kind::Symbol(found) if *found == symbol)
    }

    fn took(&mut self, symbol: &str) -> bool {
        let is = self.is(symbol);
        self.at += usize::from(is);
        is
    }

    fn expect(&mut self, symbol: &str, what: &str) -> Parsed {
        if self.took(symbol) { Ok(()) } else { Err(self.unexpected(what)) }
    }

    fn unexpected(&self, wanted: &str) -> SyntaxError {
        let Token { kind, start, end } = self.token();
        let found = match kind {
            Kind::End => "the expression ends here".to_string(),
            _ => format!("{:?} is not expected here", &self.text[*start..*end]),
        };
        error(self.text, *start, found, format!("write {wanted}"))
    }
}
