//! A plan as text, for people and for tests.
//!
//! ```text
//! #0 source readings (device text not null, temperature double, ts timestamp not null)
//!    event time ts, 10s behind; undecodable rows to readings$dead
//! #1 dedup #0 by id within 10m
//!    rows too old to tell to readings$late
//! #2 filter #1 temperature@1 > 0
//! #3 window #2 tumble 1m on ts by device@0: count(*) as n, avg(temperature@1) as avg_c
//!    late rows to room_1m$late
//! #4 table #3 room_1m (device text not null, window_start timestamp not null, …)
//! ```

use std::fmt::Write as _;

use arrow::datatypes::Schema;
use tidemill_engine::aggregate::AggregateCall;
use tidemill_engine::plan::{DedupNode, Operator, Plan, SourceNode, WindowNode};
use tidemill_engine::window::WindowAssigner;

use super::types::{kind_name, shape};

/// Returns a plan as text, a node on each line.
pub fn explain(plan: &Plan) -> String {
    let mut out = String::new();
    for (place, node) in plan.nodes.iter().enumerate() {
        let _ = match &node.operator {
            Operator::Source(source) => write!(out, "#{place} {}", source_text(source, &node.schema)),
            Operator::Dedup(dedup) => {
                write!(out, "#{place} dedup #{} {}", dedup.input.0, dedup_text(dedup, &node.schema))
            }
            Operator::Filter { input, predicate } => write!(out, "#{place} filter #{} {predicate}", input.0),
            Operator::Project { input, columns } => {
                let named = columns.iter().zip(node.schema.fields()).map(|(column, field)| named(column, field.name()));
                write!(out, "#{place} project #{} {}", input.0, named.collect::<Vec<_>>().join(", "))
            }
            Operator::Window(window) => {
                let input = &plan.node(window.input).schema;
                write!(out, "#{place} window #{} {}", window.input.0, window_text(window, input, &node.schema))
            }
            Operator::Table { input, name } => {
                write!(out, "#{place} table #{} {name} ({})", input.0, columns_text(&node.schema))
            }
        };
        out.push('\n');
    }
    out
}

fn columns_text(schema: &Schema) -> String {
    schema.fields().iter().map(|field| shape(field)).collect::<Vec<_>>().join(", ")
}

fn source_text(source: &SourceNode, schema: &Schema) -> String {
    let mut text = format!("source {} ({})\n   ", source.name, columns_text(schema));
    if let Some(time) = &source.event_time {
        let _ = write!(text, "event time {}, {} behind", schema.field(time.column).name(), duration(time.delay_us));
        if let Some(idle_us) = time.idle_after_us {
            let _ = write!(text, ", idle after {}", duration(idle_us));
        }
        if let Some(limit_us) = time.future_limit_us {
            let _ = write!(text, ", at most {} ahead", duration(limit_us));
        }
        text.push_str("; ");
    }
    if let Some(table) = &source.dead_table {
        let _ = write!(text, "undecodable rows to {table}");
    }
    if let Some(table) = &source.quarantine_table {
        let _ = write!(text, ", rows from the future to {table}");
    }
    text
}

fn dedup_text(dedup: &DedupNode, schema: &Schema) -> String {
    let keys: Vec<&str> = dedup.keys.iter().map(|key| schema.field(*key).name().as_str()).collect();
    let late =
        dedup.late_table.as_ref().map_or_else(String::new, |table| format!("\n   rows too old to tell to {table}"));
    format!("by {} within {}{late}", keys.join(", "), duration(dedup.within_us))
}

fn window_text(window: &WindowNode, input: &Schema, output: &Schema) -> String {
    let keys: Vec<String> =
        window.keys.iter().zip(output.fields()).map(|(key, field)| named(key, field.name())).collect();
    let by = if keys.is_empty() { String::new() } else { format!(" by {}", keys.join(", ")) };
    let aggregates: Vec<String> = window.aggregates.iter().map(|call| named(&aggregate(call), &call.name)).collect();
    let aggregates = if aggregates.is_empty() { String::new() } else { format!(": {}", aggregates.join(", ")) };
    let time = input.field(window.time_column).name();
    let late = window.late_table.as_ref().map_or_else(String::new, |table| format!("\n   late rows to {table}"));
    format!("{} on {time}{by}{aggregates}{late}", assigner(&window.assigner))
}

/// An expression and the column it becomes, if that is called otherwise.
fn named(expression: &impl ToString, name: &str) -> String {
    let expression = expression.to_string();
    if expression == name { expression } else { format!("{expression} as {name}") }
}

/// Returns an aggregate as text, without its name.
fn aggregate(call: &AggregateCall) -> String {
    let kind = kind_name(call.kind);
    match &call.argument {
        Some(argument) => format!("{kind}({argument})"),
        None => format!("{kind}(*)"),
    }
}

/// Returns the kind and the widths of windows as text.
pub(super) fn assigner(assigner: &WindowAssigner) -> String {
    match assigner {
        WindowAssigner::Tumbling { size_us } => format!("tumble {}", duration(*size_us)),
        WindowAssigner::Hopping { size_us, slide_us } => {
            format!("hop {} every {}", duration(*size_us), duration(*slide_us))
        }
    }
}

/// Returns a length of time in its greatest whole unit.
fn duration(us: i64) -> String {
    let units = [(86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"), (1_000, "ms")];
    let unit = units.iter().find(|(unit_us, _)| us != 0 && us % unit_us == 0);
    unit.map_or_else(
        || if us == 0 { "0s".to_owned() } else { format!("{us}us") },
        |(unit_us, name)| format!("{}{name}", us / unit_us),
    )
}
