//! The machine that a packet runs through: a stack of values, and the bytes that ranges read.

use super::{
    budget::Budget,
    value::{Binary, Value},
};

/// Most values on the stack.
pub(super) const DEPTH_LIMIT: usize = 64;

/// What an expression was compiled to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Program {
    pub code: Box<[Op]>,
    /// The part of the text that each operation stands for, in bytes.
    pub spans: Box<[(usize, usize)]>,
    /// Values that are on the stack at the same time: at most [`DEPTH_LIMIT`].
    pub depth: usize,
}

/// One operation. Jumps lead to an index in the code.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Op {
    Int(i128),
    Real(f64),
    Bool(bool),
    Null,
    Bytes(Box<[u8]>),
    Text(Box<[u8]>),
    /// `[start:end]`
    Range(Bound, Bound),
    /// `[offset, length]`
    Span(Bound, Bound),
    /// `[offset]`, for a type of this many bytes.
    At(Bound, usize),
    /// The top of the stack as a type.
    Read(Type),
    Binary(Binary),
    Negate,
    Not,
    /// False on top: jump, and keep it.
    IfFalse(usize),
    /// True on top: jump, and keep it.
    IfTrue(usize),
    And,
    Or,
    /// Not null on top: jump, and keep it; else drop it.
    IfSome(usize),
    /// Not true on top: jump. Drops it.
    Unless(usize),
    Jump(usize),
    /// Ranges read what is on top from here on; jumps if that has no bytes.
    Enter(usize),
    /// Ranges read again what they read before.
    Leave,
}

/// One side of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Open,
    Fixed(usize),
    /// It is on the stack.
    Calculated,
}

/// How bytes are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Integer { bytes: usize, signed: bool, little: bool },
    Real { bytes: usize, little: bool },
    Utf8,
    Hex,
}

impl Type {
    /// The type with this name: `u16` and `u16be` are the same.
    pub fn named(name: &str) -> Option<Type> {
        match name {
            "utf8" => return Some(Type::Utf8),
            "hex" => return Some(Type::Hex),
            _ => {}
        }
        let (word, little) = match (name.strip_suffix("le"), name.strip_suffix("be")) {
            (Some(word), _) => (word, true),
            (_, Some(word)) => (word, false),
            _ => (name, false),
        };
        let bytes = match word.get(1..)? {
            "8" => 1,
            "16" => 2,
            "32" => 4,
            "64" => 8,
            _ => return None,
        };
        match &word[..1] {
            "u" => Some(Type::Integer { bytes, signed: false, little }),
            "i" => Some(Type::Integer { bytes, signed: true, little }),
            "f" if bytes >= 4 => Some(Type::Real { bytes, little }),
            _ => None,
        }
    }

    /// Bytes that one value has.
    pub fn width(self) -> usize {
        match self {
            Type::Integer { bytes, .. } | Type::Real { bytes, .. } => bytes,
            Type::Utf8 | Type::Hex => 1,
        }
    }

    fn read(self, bytes: &[u8]) -> Value<'_> {
        match self {
            Type::Utf8 => Value::Text(bytes),
            Type::Hex => Value::Hex(bytes),
            Type::Integer { bytes: width, signed, little } => match raw(bytes, width, little) {
                Some(raw) if signed => Value::Int(i128::from((raw << (64 - 8 * width)) as i64 >> (64 - 8 * width))),
                Some(raw) => Value::Int(i128::from(raw)),
                None => Value::Null,
            },
            Type::Real { bytes: width, little } => match raw(bytes, width, little) {
                Some(raw) => {
                    let value = if width == 4 { f64::from(f32::from_bits(raw as u32)) } else { f64::from_bits(raw) };
                    if value.is_finite() { Value::Real(value) } else { Value::Null }
                }
                None => Value::Null,
            },
        }
    }
}

/// The first `width` bytes as an unsigned number.
fn raw(bytes: &[u8], width: usize, little: bool) -> Option<u64> {
    let bytes = bytes.get(..width)?;
    let push = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
    Some(if little { bytes.iter().rev().fold(0, push) } else { bytes.iter().fold(0, push) })
}

impl Program {
    /// What a packet gives. `step` gets what each operation gave, and the part of the text that it stands for.
    pub fn run<'v>(
        &'v self,
        packet: &'v [u8],
        budget: &mut Budget,
        step: &mut impl FnMut((usize, usize), Value<'v>),
    ) -> Value<'v> {
        // What a short expression needs is cheaper to clear.
        if self.depth <= 4 {
            run(self, packet, budget, &mut [Value::Null; 4], step)
        } else {
            run(self, packet, budget, &mut [Value::Null; DEPTH_LIMIT], step)
        }
    }
}

/// `stack` has room for what the program needs at most.
fn run<'v>(
    program: &'v Program,
    packet: &'v [u8],
    budget: &mut Budget,
    stack: &mut [Value<'v>],
    step: &mut impl FnMut((usize, usize), Value<'v>),
) -> Value<'v> {
    let mut stack = Stack { values: stack, top: 0 };
    let mut here = packet;
    let mut at = 0;
    while let Some(op) = program.code.get(at) {
        if !budget.step() {
            return Value::Null;
        }
        let span = program.spans[at];
        at += 1;
        let value = match *op {
            Op::Int(value) => Value::Int(value),
            Op::Real(value) => Value::Real(value),
            Op::Bool(value) => Value::Bool(value),
            Op::Null => Value::Null,
            Op::Bytes(ref bytes) => Value::Bytes(bytes),
            Op::Text(ref bytes) => Value::Text(bytes),
            Op::Range(start, end) => {
                let end = stack.bound(end, here.len());
                part(here, stack.bound(start, 0), end)
            }
            Op::Span(offset, length) => {
                let length = stack.bound(length, 0);
                let offset = stack.bound(offset, 0);
                part(here, offset, offset.zip(length).and_then(|(offset, length)| offset.checked_add(length)))
            }
            Op::At(offset, width) => {
                let offset = stack.bound(offset, 0);
                part(here, offset, offset.and_then(|offset| offset.checked_add(width)))
            }
            Op::Read(kind) => stack.pop().bytes().map_or(Value::Null, |bytes| kind.read(bytes)),
            Op::Binary(operator) => {
                let right = stack.pop();
                stack.pop().binary(operator, right, budget)
            }
            Op::Negate => stack.pop().negated(),
            Op::Not => truth(stack.pop(), budget).map_or(Value::Null, |truth| Value::Bool(!truth)),
            Op::And => match (truth(stack.pop(), budget), truth(stack.pop(), budget)) {
                (Some(false), _) => Value::Bool(false),
                (Some(true), Some(true)) => Value::Bool(true),
                _ => Value::Null,
            },
            Op::Or => match (truth(stack.pop(), budget), truth(stack.pop(), budget)) {
                (Some(true), _) => Value::Bool(true),
                (Some(false), Some(false)) => Value::Bool(false),
                _ => Value::Null,
            },
            Op::Leave => {
                let value = stack.pop();
                here = stack.pop().bytes().unwrap_or_default();
                stack.push(value);
                continue;
            }
            ref jump => {
                at = branch(jump, &mut stack, &mut here, budget).unwrap_or(at);
                continue;
            }
        };
        step(span, value);
        stack.push(value);
    }
    let value = stack.pop();
    if value.bytes().is_some_and(|bytes| !budget.take(bytes.len())) { Value::Null } else { value }
}

/// Where a jump leads, if it is taken.
fn branch<'v>(op: &Op, stack: &mut Stack<'_, 'v>, here: &mut &'v [u8], budget: &mut Budget) -> Option<usize> {
    let value = stack.pop();
    let mut truth = || truth(value, budget);
    match *op {
        Op::IfFalse(to) if truth() == Some(false) => {
            stack.push(Value::Bool(false));
            return Some(to);
        }
        Op::IfTrue(to) if truth() == Some(true) => {
            stack.push(Value::Bool(true));
            return Some(to);
        }
        Op::IfFalse(_) | Op::IfTrue(_) => stack.push(value),
        Op::IfSome(to) if !value.is_null() => {
            stack.push(value);
            return Some(to);
        }
        Op::Unless(to) if truth() != Some(true) => return Some(to),
        Op::Enter(to) => match value.bytes() {
            Some(bytes) => {
                stack.push(Value::Bytes(std::mem::replace(here, bytes)));
            }
            None => {
                stack.push(Value::Null);
                return Some(to);
            }
        },
        Op::Jump(to) => {
            stack.push(value);
            return Some(to);
        }
        _ => {}
    }
    None
}

/// Whether a value counts as true. To look for a byte that is not 0 costs each byte that is looked at.
fn truth(value: Value<'_>, budget: &mut Budget) -> Option<bool> {
    match value {
        Value::Bytes(bytes) => {
            let zeros = bytes.iter().position(|&byte| byte != 0);
            budget.take(zeros.unwrap_or(bytes.len())).then_some(zeros.is_some())
        }
        _ => value.truth(),
    }
}

fn part(bytes: &[u8], start: Option<usize>, end: Option<usize>) -> Value<'_> {
    start.zip(end).and_then(|(start, end)| bytes.get(start..end)).map_or(Value::Null, Value::Bytes)
}

struct Stack<'s, 'v> {
    values: &'s mut [Value<'v>],
    top: usize,
}

impl<'v> Stack<'_, 'v> {
    fn push(&mut self, value: Value<'v>) {
        self.values[self.top] = value;
        self.top += 1;
    }

    fn pop(&mut self) -> Value<'v> {
        self.top -= 1;
        self.values[self.top]
    }

    fn bound(&mut self, bound: Bound, open: usize) -> Option<usize> {
        match bound {
            Bound::Open => Some(open),
            Bound::Fixed(value) => Some(value),
            Bound::Calculated => self.pop().index(),
        }
    }
}
