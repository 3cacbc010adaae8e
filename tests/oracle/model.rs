//! The reference model, asked over a pipe.

use serde_json::Value;
use tidemill_engine::testing::{WindowCase, WindowOutcome, WindowResult};

use super::case;
use crate::harness::python::Conversation;

/// The running model.
pub(super) struct Model(Conversation);

impl Model {
    /// Starts it.
    pub(super) fn start() -> Model {
        Model(Conversation::with("oracle/serve.py"))
    }

    /// Asks for the outcome of a case.
    pub(super) fn run(&mut self, case: &WindowCase) -> WindowOutcome {
        let answer = self.0.ask(&case::to_json(case));
        let rows = |name: &str| answer[name].as_array().expect("a list").iter();
        let windows = rows("table").map(|row| {
            let values: Vec<i64> = row[3].as_array().expect("values").iter().map(number).collect();
            ((text(&row[0]), number(&row[1]), number(&row[2])), aggregates(&values))
        });
        let events = |name: &str| {
            let mut events: Vec<_> = rows(name).map(|e| (text(&e[1]), number(&e[2]), number(&e[4]))).collect();
            events.sort();
            events
        };
        WindowOutcome {
            windows: windows.collect(),
            late: events("late"),
            quarantined: events("quarantined"),
            watermark: if case.flush { None } else { answer["watermark"].as_i64() },
        }
    }
}

fn aggregates(values: &[i64]) -> WindowResult {
    let (count, sum) = (values.len() as i64, values.iter().sum::<i64>());
    WindowResult {
        count,
        sum,
        min: *values.iter().min().expect("a window has values"),
        max: *values.iter().max().expect("a window has values"),
        avg: sum as f64 / count as f64,
    }
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("{value} is not a whole number"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not text")).to_owned()
}
