//! Expressions as the command line and the check of a configuration see them. Packets meet theirs in the core.

use pyo3::{exceptions::PyValueError, prelude::*};
use sluice_core::{
    brex::{Budget, Expression, Value},
    format::Formatter,
};

/// What is wrong with an expression: column, cause and fix. None: it can be parsed.
#[pyfunction]
pub fn brex_error(text: &str) -> Option<(usize, String, String)> {
    Expression::parse(text).err().map(|error| (error.column, error.cause, error.fix))
}

type Trace = (Vec<(String, Option<String>)>, Option<String>, Option<bool>, bool);

/// What an expression says of a packet: its parts with their values, its value, whether that is true, and whether the
/// packet would have cost too much.
#[pyfunction]
pub fn brex_trace(text: &str, packet: &[u8], formatter: &str) -> PyResult<Trace> {
    let expression = Expression::parse(text).map_err(|error| PyValueError::new_err(error.to_string()))?;
    let formatter = Formatter::from_name(formatter)
        .ok_or_else(|| PyValueError::new_err(format!("unknown formatter {formatter}")))?;
    let shown = |value: Value<'_>| value.render(formatter).map(|text| text.into_owned());
    let (mut budget, mut steps) = (Budget::default(), Vec::new());
    let value = expression.trace(packet, &mut budget, |part, value| steps.push((part.to_string(), shown(value))));
    Ok((steps, shown(value), value.truth(), budget.exceeded()))
}
