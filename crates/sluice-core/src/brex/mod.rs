//! BREX, binary range expressions: what a packet is asked (`docs/reference/brex.md` has the grammar and its version).
//!
//! `[0] == 0xFE ? [3:5] : 0xFFFF` reads the first byte, and gives two bytes of the packet or a constant. An expression is
//! parsed once and compiled to a list of [operations](run); a packet runs through it without an allocation.
//!
//! - No packet is an error. What lies outside of the packet is [`Value::Null`], and so is what follows from it.
//! - A [`Budget`] bounds what a packet may cost, all of its expressions together. Beyond it everything is null.
//! - The text of an expression comes from a user. A [`SyntaxError`] has the column, what is wrong and what to write.

mod budget;
mod compile;
mod lex;
mod run;
mod value;

pub use budget::{BYTE_LIMIT, Budget, STEP_LIMIT};
pub use compile::{NESTING_LIMIT, TEXT_LIMIT};
pub use lex::SyntaxError;
pub use value::Value;

use run::Program;
use serde::Deserialize;

/// A parsed expression.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Expression {
    text: String,
    program: Program,
}

impl Expression {
    /// Parses an expression.
    pub fn parse(text: &str) -> Result<Expression, SyntaxError> {
        Ok(Expression { text: text.into(), program: compile::compile(text)? })
    }

    /// The text that was parsed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What the expression says of a packet.
    pub fn evaluate<'v>(&'v self, packet: &'v [u8], budget: &mut Budget) -> Value<'v> {
        self.program.run(packet, budget, &mut |_, _| {})
    }

    /// Whether the packet passes the expression as a filter: null does not.
    pub fn passes(&self, packet: &[u8], budget: &mut Budget) -> bool {
        self.evaluate(packet, budget).truth() == Some(true)
    }

    /// As [`evaluate`](Self::evaluate); `step` gets each part of the text with its value, in the order of evaluation.
    pub fn trace<'v>(
        &'v self,
        packet: &'v [u8],
        budget: &mut Budget,
        mut step: impl FnMut(&'v str, Value<'v>),
    ) -> Value<'v> {
        self.program.run(packet, budget, &mut |(start, end), value| step(&self.text[start..end], value))
    }
}

impl TryFrom<String> for Expression {
    type Error = SyntaxError;

    fn try_from(text: String) -> Result<Expression, SyntaxError> {
        Expression::parse(&text)
    }
}

#[cfg(test)]
mod tests;
