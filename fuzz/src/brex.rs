//! BREX: no text and no packet makes it panic, or lets it take more than it may.

use sluice_core::{
    brex::{Budget, Expression, STEP_LIMIT},
    format::Formatter,
};

/// The text of an expression, a line break, and a packet.
pub fn check(data: &[u8]) {
    let end = data.iter().position(|&byte| byte == b'\n').unwrap_or(data.len());
    let (text, packet) = (String::from_utf8_lossy(&data[..end]), data.get(end + 1..).unwrap_or_default());
    let expression = match Expression::parse(&text) {
        Ok(expression) => expression,
        Err(error) => {
            assert!((1..=text.chars().count() + 1).contains(&error.column), "{error}");
            assert!(!error.cause.is_empty() && !error.fix.is_empty());
            return;
        }
    };
    let mut budget = Budget::default();
    let value = expression.evaluate(packet, &mut budget);
    let mut steps = 0;
    let traced = expression.trace(packet, &mut Budget::default(), |part, value| {
        steps += 1;
        assert!(text.contains(part));
        drop(value.render(Formatter::Utf8));
    });
    assert_eq!(value, traced);
    assert!(steps <= STEP_LIMIT);
    assert_eq!(value.is_null(), value.render(Formatter::Hex).is_none());
    assert_eq!(value.is_null(), value.truth().is_none());
    // A packet that has used everything up gets null, and it is said.
    while !budget.exceeded() {
        expression.evaluate(packet, &mut budget);
    }
    assert!(expression.evaluate(packet, &mut budget).is_null());
    assert!(!expression.passes(packet, &mut budget));
}
