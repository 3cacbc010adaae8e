//! Health and status as JSON: `/healthz`, `/readyz`, `/version`, `/api/v1/status`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tidemill_engine::runtime::{JobStatus, SourceStatus};
use tidemill_engine::time::Watermark;

use super::{ServiceState, problem_response};
use crate::problem::{Problem, ProblemKind};

pub(super) async fn healthz() -> Response {
    Json(json!({"status": "ok"})).into_response()
}

pub(super) async fn version(State(state): State<ServiceState>) -> Response {
    Json(json!({"name": "tidemill", "version": state.version})).into_response()
}

pub(super) async fn readyz(State(state): State<ServiceState>) -> Response {
    let (ready, document) = readiness((state.status)().as_ref());
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(document)).into_response()
}

pub(super) async fn status(State(state): State<ServiceState>) -> Response {
    match (state.status)() {
        Some(status) => Json(status_document(&status)).into_response(),
        None => problem_response(&Problem::new(ProblemKind::NotReady, "no job is running")),
    }
}

/// Decides whether the service is ready, and says why not: one line for each source.
fn readiness(status: Option<&JobStatus>) -> (bool, Value) {
    let Some(status) = status else {
        return (
            false,
            json!({"ready": false, "reason": "the job has not started yet, or has stopped", "sources": []}),
        );
    };
    let ready = status.ready && status.failure.is_none();
    let reason = match (&status.failure, ready) {
        (Some(failure), _) => json!(format!("the job has failed: {failure}")),
        (None, true) => Value::Null,
        (None, false) => json!("not every source has been able to receive yet"),
    };
    let sources: Vec<Value> =
        status.sources.iter().map(|source| json!({"name": source.name, "state": source_state(source)})).collect();
    (ready, json!({"ready": ready, "reason": reason, "sources": sources}))
}

fn source_state(source: &SourceStatus) -> &'static str {
    match (source.ended, source.connected) {
        (true, _) => "ended",
        (false, true) => "connected",
        (false, false) => "not connected",
    }
}

fn status_document(status: &JobStatus) -> Value {
    let sources: Vec<Value> = status
        .sources
        .iter()
        .map(|source| {
            let errors: serde_json::Map<String, Value> =
                source.errors.iter().map(|(kind, count)| ((*kind).to_owned(), json!(count))).collect();
            json!({
                "name": source.name, "state": source_state(source), "messages": source.messages,
                "bytes": source.bytes, "rows": source.rows, "dead": source.dead,
                "quarantined": source.quarantined, "errors": errors,
                "watermark": source.watermark.map_or(Value::Null, watermark_value),
            })
        })
        .collect();
    let windows: Vec<Value> = status
        .windows
        .iter()
        .map(|window| json!({"name": window.name, "rows": window.rows, "late": window.late, "results": window.results}))
        .collect();
    let tables: Vec<Value> = status
        .tables
        .iter()
        .map(|table| json!({"name": table.name, "rows": table.rows, "committed_epoch": table.committed.0}))
        .collect();
    json!({
        "ready": status.ready, "finished": status.finished, "failure": status.failure,
        "sealed_epoch": status.sealed.0, "completed_epoch": status.completed.0,
        "log_bytes": status.log_bytes, "rows_in_flight": status.rows_in_flight,
        "sources": sources, "windows": windows, "tables": tables,
    })
}

/// Writes a watermark: RFC 3339, `null` before the first row, `"end"` after the last.
fn watermark_value(watermark: Watermark) -> Value {
    match watermark {
        Watermark::UNKNOWN => Value::Null,
        Watermark::END => json!("end"),
        Watermark(us) => match arrow::temporal_conversions::timestamp_us_to_datetime(us) {
            Some(time) => json!(format!("{}Z", time.format("%Y-%m-%dT%H:%M:%S%.f"))),
            None => Value::Null,
        },
    }
}

#[cfg(test)]
mod tests {
    use tidemill_engine::epoch::Epoch;
    use tidemill_engine::runtime::TableStatus;

    use super::*;

    fn source(name: &str, connected: bool) -> SourceStatus {
        SourceStatus { name: name.into(), connected, ..SourceStatus::default() }
    }

    #[test]
    fn readiness_names_the_source_that_holds_it_up() {
        let status = JobStatus { sources: vec![source("a", true), source("b", false)], ..JobStatus::default() };
        let (ready, document) = readiness(Some(&status));
        assert!(!ready);
        assert_eq!(document["sources"][1], json!({"name": "b", "state": "not connected"}));
        let (ready, _) = readiness(Some(&JobStatus { ready: true, ..status.clone() }));
        assert!(ready, "a source that lost its connection later does not take readiness away");
        let (ready, document) =
            readiness(Some(&JobStatus { ready: true, failure: Some("disk full".into()), ..status }));
        assert!(!ready && document["reason"] == "the job has failed: disk full", "{document}");
        assert!(!readiness(None).0);
    }

    #[test]
    fn status_shows_watermarks_as_times() {
        let watermarked = |watermark| SourceStatus { watermark, ..SourceStatus::default() };
        let status = JobStatus {
            sources: vec![
                watermarked(Some(Watermark(1_500_000))),
                watermarked(Some(Watermark::END)),
                watermarked(Some(Watermark::UNKNOWN)),
                watermarked(None),
            ],
            tables: vec![TableStatus { name: "t".into(), rows: 3, committed: Epoch(7) }],
            ..JobStatus::default()
        };
        let document = status_document(&status);
        let shown: Vec<&Value> = (0..4).map(|n| &document["sources"][n]["watermark"]).collect();
        assert_eq!(shown, [&json!("1970-01-01T00:00:01.500Z"), &json!("end"), &Value::Null, &Value::Null]);
        assert_eq!(document["tables"][0], json!({"name": "t", "rows": 3, "committed_epoch": 7}));
    }
}
