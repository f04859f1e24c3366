//! The words of an expression.

/// An expression that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// The character where it is seen, from 1.
    pub column: usize,
    /// What is wrong.
    pub cause: String,
    /// What to write.
    pub fix: String,
}

impl std::fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "column {}: {}: {}", self.column, self.cause, self.fix)
    }
}

/// A word and where it stands, in bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// `0xFE00`: bytes.
    Hex(Vec<u8>),
    Integer(i128),
    Real(f64),
    /// `"GET"` or `'GET'`.
    Text(Vec<u8>),
    /// `u16le`, `true`.
    Name(String),
    Symbol(&'static str),
    End,
}

// Longer ones first.
const SYMBOLS: [&str; 27] = [
    "==", "!=", "<=", ">=", "<<", ">>", "&&", "||", "??", "[", "]", "(", ")", ",", ":", "?", "|", "=", "<", ">", "!",
    "+", "-", "*", "/", "%", "&",
];

/// The error at byte `at` of `text`.
pub(super) fn error(text: &str, at: usize, cause: impl Into<String>, fix: impl Into<String>) -> SyntaxError {
    SyntaxError { column: text[..at].chars().count() + 1, cause: cause.into(), fix: fix.into() }
}

/// All words of `text`, `End` last.
pub(super) fn lex(text: &str) -> Result<Vec<Token>, SyntaxError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        let rest = &text[at..];
        let Some(first) = rest.chars().next() else {
            tokens.push(Token { kind: Kind::End, start: at, end: at });
            return Ok(tokens);
        };
        let (kind, length) = match first {
            '0'..='9' => number(text, at)?,
            '"' | '\'' => string(text, at, first)?,
            'a'..='z' | 'A'..='Z' | '_' => {
                let length = word_length(rest);
                (Kind::Name(rest[..length].to_string()), length)
            }
            _ => {
                let symbol = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol)).ok_or_else(|| {
                    let fix = "write ranges such as [0:2], numbers, 0x literals, operators and parentheses";
                    error(text, at, format!("{first:?} has no meaning here"), fix)
                })?;
                (Kind::Symbol(symbol), symbol.len())
            }
        };
        tokens.push(Token { kind, start: at, end: at + length });
        at += length;
    }
}

fn word_length(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len())
}

fn number(text: &str, at: usize) -> Result<(Kind, usize), SyntaxError> {
    let rest = &text[at..];
    if rest.starts_with("0x") || rest.starts_with("0X") {
        let length = word_length(rest);
        let digits = &rest[2..length];
        let even = if digits.len() % 2 == 1 { format!("0{digits}") } else { digits.to_string() };
        return match crate::format::Formatter::Hex.read(&even) {
            Ok(bytes) if !bytes.is_empty() => Ok((Kind::Hex(bytes), length)),
            _ => Err(error(
                text,
                at,
                format!("{:?} is no hex literal", &rest[..length]),
                "write 0x and hex digits: 0xFE",
            )),
        };
    }
    let digits = |from: usize| rest[from..].find(|c: char| !c.is_ascii_digit()).map_or(rest.len(), |n| from + n);
    let mut end = digits(0);
    let whole = end;
    if rest[end..].starts_with('.') && rest[end + 1..].starts_with(|c: char| c.is_ascii_digit()) {
        end = digits(end + 1);
    }
    if rest[end..].starts_with(['e', 'E']) {
        let sign = usize::from(rest[end + 1..].starts_with(['+', '-']));
        let exponent = digits(end + 1 + sign);
        if exponent > end + 1 + sign {
            end = exponent;
        }
    }
    let length = end + word_length(&rest[end..]);
    let wrong = || error(text, at, format!("{:?} is no number", &rest[..length]), "write 12, 1.5, 1e7 or 0xFE");
    let kind = if end == whole {
        rest[..end].parse().ok().map(Kind::Integer)
    } else {
        rest[..end].parse().ok().map(Kind::Real)
    };
    match kind {
        Some(Kind::Real(value)) if !value.is_finite() => Err(wrong()),
        Some(kind) if length == end => Ok((kind, end)),
        _ => Err(wrong()),
    }
}

fn string(text: &str, at: usize, quote: char) -> Result<(Kind, usize), SyntaxError> {
    let inside = &text[at + 1..];
    let end = inside.find(quote).ok_or_else(|| {
        error(
            text,
            at,
            "this text does not end",
            format!("close it with {quote}; a text with {quote} goes into the other quotes"),
        )
    })?;
    Ok((Kind::Text(inside.as_bytes()[..end].to_vec()), end + 2))
}
