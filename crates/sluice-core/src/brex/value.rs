//! Values, and what operators make of them.

use super::budget::Budget;
use crate::format::Formatter;
use std::{borrow::Cow, cmp::Ordering};

/// What an expression, or a part of it, gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'v> {
    /// Outside of the packet, or not to be calculated.
    Null,
    /// Of a comparison.
    Bool(bool),
    /// Of a typed read or arithmetic.
    Int(i128),
    /// Of a typed read or arithmetic; finite.
    Real(f64),
    /// A range or a hex literal. It counts as an unsigned number, most significant byte first.
    Bytes(&'v [u8]),
    /// Bytes that are shown as text: `utf8[…]` or a literal.
    Text(&'v [u8]),
    /// Bytes that are shown as hex digits: `hex[…]`.
    Hex(&'v [u8]),
}

/// Operators of two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    BitAnd,
    ShiftLeft,
    ShiftRight,
}

enum Number {
    Int(i128),
    Real(f64),
}

impl<'v> Value<'v> {
    /// Whether it counts as true: a number that is not 0, bytes of which one is not 0, text that is not empty. None: null.
    pub fn truth(self) -> Option<bool> {
        match self {
            Value::Null => None,
            Value::Bool(value) => Some(value),
            Value::Int(value) => Some(value != 0),
            Value::Real(value) => Some(value != 0.0),
            Value::Bytes(bytes) => Some(bytes.iter().any(|&byte| byte != 0)),
            Value::Text(bytes) | Value::Hex(bytes) => Some(!bytes.is_empty()),
        }
    }

    /// The bytes that a pipe hands on; numbers have none.
    pub fn bytes(self) -> Option<&'v [u8]> {
        match self {
            Value::Bytes(bytes) | Value::Text(bytes) | Value::Hex(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The value as text: bytes in `formatter`, numbers as decimals. None: null, or bytes that it
    /// cannot show.
    pub fn render(self, formatter: Formatter) -> Option<Cow<'v, str>> {
        Some(match self {
            Value::Null => return None,
            Value::Bool(value) => Cow::Borrowed(if value { "true" } else { "false" }),
            Value::Int(value) => Cow::Owned(value.to_string()),
            Value::Real(value) => Cow::Owned(value.to_string()),
            Value::Text(bytes) => String::from_utf8_lossy(bytes),
            Value::Hex(bytes) => Cow::Owned(shown(bytes, Formatter::Hex)?),
            Value::Bytes(bytes) => Cow::Owned(shown(bytes, formatter)?),
        })
    }

    /// The value as an offset or a length.
    pub(super) fn index(self) -> Option<usize> {
        match self.number()? {
            Number::Int(value) => usize::try_from(value).ok(),
            Number::Real(_) => None,
        }
    }

    pub(super) fn negated(self) -> Value<'v> {
        match self.number() {
            Some(Number::Int(value)) => value.checked_neg().map_or(Value::Null, Value::Int),
            Some(Number::Real(value)) => Value::Real(-value),
            None => Value::Null,
        }
    }

    pub(super) fn binary(self, operator: Binary, other: Value<'v>, budget: &mut Budget) -> Value<'v> {
        use Binary::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
        let test = |holds: fn(Ordering) -> bool, budget: &mut Budget| match self.compare(other, budget) {
            Some(ordering) => Value::Bool(holds(ordering)),
            None => Value::Null,
        };
        match operator {
            Equal => test(Ordering::is_eq, budget),
            NotEqual => test(Ordering::is_ne, budget),
            Less => test(Ordering::is_lt, budget),
            LessOrEqual => test(Ordering::is_le, budget),
            Greater => test(Ordering::is_gt, budget),
            GreaterOrEqual => test(Ordering::is_ge, budget),
            _ => self.calculate(operator, other).unwrap_or(Value::Null),
        }
    }

    fn calculate(self, operator: Binary, other: Value<'v>) -> Option<Value<'v>> {
        let (left, right) = match (self.number()?, other.number()?) {
            (Number::Int(left), Number::Int(right)) => return integers(operator, left, right).map(Value::Int),
            (Number::Int(left), Number::Real(right)) => (left as f64, right),
            (Number::Real(left), Number::Int(right)) => (left, right as f64),
            (Number::Real(left), Number::Real(right)) => (left, right),
        };
        let result = match operator {
            Binary::Add => left + right,
            Binary::Subtract => left - right,
            Binary::Multiply => left * right,
            Binary::Divide => left / right,
            Binary::Remainder => left % right,
            _ => return None,
        };
        result.is_finite().then_some(Value::Real(result))
    }

    /// Whether it is null.
    pub fn is_null(self) -> bool {
        matches!(self, Value::Null)
    }

    /// The value as a number. Text has none, and bytes have one if there are 1 to 15 of them.
    fn number(self) -> Option<Number> {
        match self {
            Value::Null | Value::Text(_) | Value::Hex(_) => None,
            Value::Bool(value) => Some(Number::Int(value.into())),
            Value::Int(value) => Some(Number::Int(value)),
            Value::Real(value) => Some(Number::Real(value)),
            Value::Bytes(bytes) => {
                let fits = (1..size_of::<i128>()).contains(&bytes.len());
                fits.then(|| Number::Int(bytes.iter().fold(0, |number, &byte| number << 8 | i128::from(byte))))
            }
        }
    }

    fn compare(self, other: Value<'v>, budget: &mut Budget) -> Option<Ordering> {
        use Value::{Bytes, Hex, Text};
        if let (Some(left), Some(right)) = (self.bytes(), other.bytes()) {
            if !budget.take(left.len().min(right.len())) {
                return None;
            }
            return Some(match (self, other) {
                (Hex(bytes), Text(text)) => digits(bytes).cmp(text.iter().map(u8::to_ascii_uppercase)),
                (Text(text), Hex(bytes)) => text.iter().map(u8::to_ascii_uppercase).cmp(digits(bytes)),
                (Bytes(left), Bytes(right)) if left.len() != right.len() && !left.is_empty() && !right.is_empty() => {
                    let (left, right) = (significant(left), significant(right));
                    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
                }
                _ => left.cmp(right),
            });
        }
        match (self.number()?, other.number()?) {
            (Number::Int(left), Number::Int(right)) => Some(left.cmp(&right)),
            (Number::Int(left), Number::Real(right)) => order(left, right),
            (Number::Real(left), Number::Int(right)) => order(right, left).map(Ordering::reverse),
            (Number::Real(left), Number::Real(right)) => left.partial_cmp(&right),
        }
    }
}

fn integers(operator: Binary, left: i128, right: i128) -> Option<i128> {
    match operator {
        Binary::Add => left.checked_add(right),
        Binary::Subtract => left.checked_sub(right),
        Binary::Multiply => left.checked_mul(right),
        Binary::Divide => left.checked_div(right),
        Binary::Remainder => left.checked_rem(right),
        Binary::BitAnd => Some(left & right),
        Binary::ShiftLeft => match right {
            0..127 => left.checked_mul(1 << right),
            _ => (left == 0 && right > 0).then_some(0),
        },
        Binary::ShiftRight => (right >= 0).then(|| left >> right.min(127)),
        _ => None,
    }
}

/// A whole number next to any other, without what is lost where it becomes a float.
fn order(left: i128, right: f64) -> Option<Ordering> {
    const END: f64 = i128::MAX as f64; // 2 to the power of 127
    if !(-END..END).contains(&right) {
        return 0.0.partial_cmp(&right);
    }
    let fraction = 0.0.partial_cmp(&right.fract())?;
    Some(left.cmp(&(right as i128)).then(fraction))
}

/// `bytes` without zeros in front.
fn significant(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.iter().position(|&byte| byte != 0).unwrap_or(bytes.len())..]
}

fn digits(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let digit = |nibble: u8| b"0123456789ABCDEF"[nibble as usize];
    bytes.iter().flat_map(move |&byte| [digit(byte >> 4), digit(byte & 15)])
}

fn shown(bytes: &[u8], formatter: Formatter) -> Option<String> {
    let mut json = Vec::new();
    formatter.view(bytes).ok()?.write(&mut json);
    Some(serde_json::from_slice(&json).expect("a formatter writes a JSON string"))
}
