//! The reference model, asked over a pipe.

use std::collections::BTreeMap;

use serde_json::Value;

use super::case::Case;
use crate::harness::python::Conversation;

/// What must come out of a log.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outcome {
    /// By key, start and end: the aggregates.
    pub(super) table: BTreeMap<(String, i64, i64), Aggregates>,
    /// Late rows as (key, event time, value), sorted.
    pub(super) late: Vec<(String, i64, i64)>,
    /// Rows from the future, likewise.
    pub(super) quarantined: Vec<(String, i64, i64)>,
    /// The last watermark, if anything is known.
    pub(super) watermark: Option<i64>,
}

/// The five aggregates of a window over `value`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Aggregates {
    pub(super) count: i64,
    pub(super) sum: i64,
    pub(super) min: i64,
    pub(super) max: i64,
    pub(super) avg: f64,
}

/// The running model.
pub(super) struct Model(Conversation);

impl Model {
    /// Starts it.
    pub(super) fn start() -> Model {
        Model(Conversation::with("oracle/serve.py"))
    }

    /// Asks for the outcome of a case.
    pub(super) fn run(&mut self, case: &Case) -> Outcome {
        let answer = self.0.ask(&case.to_json());
        let rows = |name: &str| answer[name].as_array().expect("a list").iter();
        let table = rows("table").map(|row| {
            let values: Vec<i64> = row[3].as_array().expect("values").iter().map(number).collect();
            ((text(&row[0]), number(&row[1]), number(&row[2])), Aggregates::of(&values))
        });
        let events = |name: &str| {
            let mut events: Vec<_> = rows(name).map(|e| (text(&e[1]), number(&e[2]), number(&e[4]))).collect();
            events.sort();
            events
        };
        Outcome {
            table: table.collect(),
            late: events("late"),
            quarantined: events("quarantined"),
            watermark: if case.flush { None } else { answer["watermark"].as_i64() },
        }
    }
}

impl Aggregates {
    fn of(values: &[i64]) -> Aggregates {
        let (count, sum) = (values.len() as i64, values.iter().sum::<i64>());
        Aggregates {
            count,
            sum,
            min: *values.iter().min().expect("a window has values"),
            max: *values.iter().max().expect("a window has values"),
            avg: sum as f64 / count as f64,
        }
    }
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("{value} is not a whole number"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not text")).to_owned()
}
