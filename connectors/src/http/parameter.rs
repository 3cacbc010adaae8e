//! Query parameters: how their values are read, and how wrong ones are refused.

use std::time::Duration;

use super::problem::{Kind, Problem};
use crate::options::parse_duration;

/// Reads a time to wait.
pub(super) fn wait(value: &str, max: Duration) -> Result<Duration, Problem> {
    match parse_duration(value) {
        Some(wait) if wait <= max => Ok(wait),
        Some(_) => Err(wrong("wait", value).hint(format!("at most wait={}s", max.as_secs()))),
        None => Err(wrong("wait", value).hint("a duration such as wait=5s or wait=250ms")),
    }
}

/// Returns the refusal of a value.
pub(super) fn wrong(key: &str, value: &str) -> Problem {
    Problem::new(Kind::Parameter, format!("{key}={value} is not known; nothing was stored"))
}

/// Returns the refusal of a name.
pub(super) fn unknown(key: &str, hint: &str) -> Problem {
    Problem::new(Kind::Parameter, format!("the parameter {key} is not known; nothing was stored")).hint(hint)
}
