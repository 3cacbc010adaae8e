//! OTLP logs: one log record is one row.
//!
//! | column | |
//! |---|---|
//! | `ts` | when it happened; else when it was observed, else when it arrived |
//! | `observed_ts` | |
//! | `severity`, `severity_number` | the text, or the name of its number's range: `TRACE` to `FATAL`; 1 to 24 |
//! | `body` | as text; what has parts is JSON |
//! | `event_name` | |
//! | `trace_id`, `span_id` | hexadecimal digits |
//! | `attributes`, `resource` | MAP<TEXT, TEXT>: those of the record, and of what sent it |
//! | `scope` | the name of the library that logged |
//! | any other | the attribute of its name: of the record, else of its resource |

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use tidemill_engine::source::Message;

use super::super::rows::Span;
use super::cell::Cell;
use super::otlp::{self, CommonPlaces, Shared};
use super::rows::{Names, Row, Rows};

/// The columns that are parts of every record.
pub(super) const PARTS: [&str; 11] = [
    "ts",
    "observed_ts",
    "severity",
    "severity_number",
    "body",
    "event_name",
    "trace_id",
    "span_id",
    "attributes",
    "resource",
    "scope",
];

/// The names of the ranges of severities, four numbers each.
const SEVERITIES: [&str; 6] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];

/// Reads the records of a message.
pub(super) fn read(message: &Message, whole: Span, names: &Names, rows: &mut Rows<'_>) {
    let request: ExportLogsServiceRequest = match otlp::parse(&message.payload) {
        Ok(request) => request,
        Err(problem) => return rows.dead.push(whole, problem),
    };
    let common = CommonPlaces::new(names);
    let mut row = Row::new(names);
    for of_resource in &request.resource_logs {
        for of_scope in &of_resource.scope_logs {
            let shared = Shared { resource: of_resource.resource.as_ref(), scope: of_scope.scope.as_ref() };
            for record in &of_scope.log_records {
                row.clear();
                common.set(&mut row, shared, &record.attributes);
                set(&mut row, names, record, rows.arrival_us);
                otlp::take(rows, &mut row, whole, record);
            }
        }
    }
}

/// Says why a body is no request.
pub(super) fn check(body: &[u8]) -> Result<(), String> {
    otlp::parse::<ExportLogsServiceRequest>(body).map(drop)
}

fn set<'m>(row: &mut Row<'m>, names: &Names, record: &'m LogRecord, arrival_us: i64) {
    let time_us = otlp::time(record.time_unix_nano).or(otlp::time(record.observed_time_unix_nano));
    row.set(names.part("ts"), Cell::Time(time_us.unwrap_or(arrival_us)));
    row.set(names.part("observed_ts"), otlp::time_or_null(record.observed_time_unix_nano));
    let range =
        usize::try_from(i64::from(record.severity_number) - 1).ok().and_then(|number| SEVERITIES.get(number / 4));
    let severity = if record.severity_text.is_empty() {
        range.copied().unwrap_or_default()
    } else {
        record.severity_text.as_str()
    };
    row.set(names.part("severity"), Cell::text_or_null(severity));
    let number = i64::from(record.severity_number);
    row.set(names.part("severity_number"), if number == 0 { Cell::Null } else { Cell::Int(number) });
    row.set(names.part("body"), otlp::cell(record.body.as_ref()));
    row.set(names.part("event_name"), Cell::text_or_null(&record.event_name));
    for (name, id) in [("trace_id", &record.trace_id), ("span_id", &record.span_id)] {
        row.set(names.part(name), if id.is_empty() { Cell::Null } else { Cell::Text(otlp::hex(id)) });
    }
}
