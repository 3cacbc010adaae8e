//! Health and status as JSON: `/healthz`, `/readyz`, `/version`, `/api/v1/status`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tidemill_connectors::describe;
use tidemill_connectors::http::api::{Api, Media, Operation, Verb};
use tidemill_connectors::outbox::OutboxStatus;
use tidemill_engine::runtime::{CheckpointStatus, JobStatus, SourceStatus};
use tidemill_engine::source::TargetStatus;
use tidemill_engine::time::Watermark;

use super::{ReadOnly, ServiceState, ServiceStatus, problem_response, refusal};
use crate::problem::{Problem, ProblemKind};

pub(super) fn api() -> Api<ServiceState> {
    Api::new(
        [
            Operation::new(Verb::Get, "/healthz", "healthz", healthz)
                .summary("health", "Says that the process answers")
                .answer(200, "it does", [Media::json::<Health>("")]),
            Operation::new(Verb::Get, "/readyz", "readyz", readyz)
                .summary("health", "Says whether every source runs, and if not, why")
                .answer(200, "every source runs", [Media::json::<Readiness>("")])
                .answer(503, "not yet, or read only", [Media::json::<Readiness>("")]),
            Operation::new(Verb::Get, "/version", "version", version)
                .summary("health", "Names the program and its version")
                .answer(200, "name and version", [Media::json::<Version>("")]),
            Operation::new(Verb::Get, "/api/v1/status", "status", status)
                .summary("health", "Says what the job is doing")
                .answer(200, "sources, windows, tables, sinks and checkpoints", [Media::json::<Map<String, Value>>("")])
                .refusals([refusal(ProblemKind::NotReady)]),
        ]
        .map(|operation| operation.refusals([refusal(ProblemKind::TimedOut)])),
    )
}

/// Says that the process answers.
async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
}
describe!(Health { status: "always ok" });

/// Names the program and its version.
async fn version(State(state): State<ServiceState>) -> Json<Version> {
    Json(Version { name: "tidemill", version: state.version })
}

#[derive(Serialize)]
struct Version {
    name: &'static str,
    version: &'static str,
}
describe!(Version { name: "of the program", version: "of the program" });

/// Says whether every source runs, and if not, why.
async fn readyz(State(state): State<ServiceState>) -> Response {
    let readiness = readiness(&(state.status)());
    let code = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(readiness)).into_response()
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    reason: Option<String>,
    sources: Vec<SourceReadiness>,
}
describe!(Readiness { ready: "whether every source runs", reason: "why not", sources: "one by one" });

#[derive(Serialize)]
struct SourceReadiness {
    name: String,
    state: &'static str,
}
describe!(SourceReadiness { name: "of the source", state: "connected, not connected or ended" });

/// Says what the job is doing.
async fn status(State(state): State<ServiceState>) -> Response {
    let status = (state.status)();
    if status.job.is_none() && status.read_only.is_none() {
        return problem_response(&Problem::new(ProblemKind::NotReady, "no job is running"));
    }
    Json(status_document(&status)).into_response()
}

/// Decides whether the service is ready, and says why not: one line for each source.
fn readiness(service: &ServiceStatus) -> Readiness {
    let not_ready = |reason: String| Readiness { ready: false, reason: Some(reason), sources: Vec::new() };
    if let Some(ReadOnly { reason, since_us }) = &service.read_only {
        return not_ready(format!("read only since {}: {reason}", instant(*since_us).unwrap_or_default()));
    }
    let Some(status) = &service.job else {
        return not_ready("the job has not started yet, or has stopped".to_owned());
    };
    let ready = status.ready && status.failure.is_none();
    let reason = match (&status.failure, ready) {
        (Some(failure), _) => Some(format!("the job has failed: {failure}")),
        (None, true) => None,
        (None, false) => Some("not every source has been able to receive yet".to_owned()),
    };
    let sources = status.sources.iter();
    let sources = sources.map(|source| SourceReadiness { name: source.name.to_string(), state: source_state(source) });
    Readiness { ready, reason, sources: sources.collect() }
}

fn source_state(source: &SourceStatus) -> &'static str {
    match (source.ended, source.connected) {
        (true, _) => "ended",
        (false, true) => "connected",
        (false, false) => "not connected",
    }
}

/// The service in one word.
fn state_of(service: &ServiceStatus) -> &'static str {
    match (&service.read_only, &service.job) {
        (Some(_), _) => "read_only",
        (None, None) => "starting",
        (None, Some(JobStatus { failure: Some(_), .. })) => "failed",
        (None, Some(JobStatus { finished: true, .. })) => "finished",
        (None, Some(_)) => "running",
    }
}

fn status_document(service: &ServiceStatus) -> Value {
    let nothing = JobStatus::default();
    let status = service.job.as_ref().unwrap_or(&nothing);
    let read_only = service
        .read_only
        .as_ref()
        .map(|ReadOnly { reason, since_us }| json!({"since": instant(*since_us), "reason": reason}));
    let sources: Vec<Value> = status
        .sources
        .iter()
        .map(|source| {
            let errors: serde_json::Map<String, Value> =
                source.errors.iter().map(|(kind, count)| ((*kind).to_owned(), json!(count))).collect();
            json!({
                "name": source.name, "state": source_state(source), "messages": source.messages,
                "bytes": source.bytes, "rows": source.rows, "dead": source.dead,
                "quarantined": source.quarantined, "nulled": source.nulled,
                "dropped_attributes": source.dropped_attributes, "errors": errors,
                "watermark": source.watermark.map_or(Value::Null, watermark_value),
                "targets": source.targets.iter().map(target_value).collect::<Vec<_>>(),
            })
        })
        .collect();
    let dedups: Vec<Value> = status
        .dedups
        .iter()
        .map(|dedup| {
            json!({
                "source": dedup.source, "taken": dedup.taken, "repeats": dedup.repeats, "late": dedup.late,
                "state_bytes": dedup.state_bytes,
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
    let sinks: Vec<Value> = service.sinks.iter().map(sink_value).collect();
    json!({
        "state": state_of(service), "read_only": read_only, "disk_failures": service.disk_failures,
        "ready": status.ready && service.read_only.is_none(), "finished": status.finished, "failure": status.failure,
        "sealed_epoch": status.sealed.0, "completed_epoch": status.completed.0,
        "log_bytes": status.log_bytes, "rows_in_flight": status.rows_in_flight,
        "checkpoint": checkpoint_value(&status.checkpoint),
        "sources": sources, "dedups": dedups, "windows": windows, "tables": tables, "sinks": sinks,
    })
}

fn target_value(target: &TargetStatus) -> Value {
    json!({
        "target": target.target, "connected": target.connected, "breaker": target.breaker,
        "failures": target.failures, "error": target.error,
    })
}

fn sink_value(sink: &OutboxStatus) -> Value {
    json!({
        "name": sink.name, "of": sink.of, "connector": sink.connector, "connected": sink.connected,
        "breaker": sink.breaker.word(), "error": sink.error,
        "outbox_rows": sink.rows, "outbox_bytes": sink.bytes, "delivered": sink.delivered,
        "failures": sink.failures, "dropped": sink.dropped, "rejected": sink.rejected,
    })
}

/// Writes a watermark: RFC 3339, `null` before the first row, `"end"` after the last.
fn watermark_value(watermark: Watermark) -> Value {
    match watermark {
        Watermark::UNKNOWN => Value::Null,
        Watermark::END => json!("end"),
        Watermark(us) => json!(instant(us)),
    }
}

/// Writes an instant as RFC 3339.
fn instant(us: i64) -> Option<String> {
    let time = arrow::temporal_conversions::timestamp_us_to_datetime(us)?;
    Some(format!("{}Z", time.format("%Y-%m-%dT%H:%M:%S%.f")))
}

fn checkpoint_value(checkpoint: &CheckpointStatus) -> Value {
    let made = Some(checkpoint.made_us).filter(|made_us| *made_us != 0).and_then(instant);
    json!({
        "epoch": checkpoint.epoch.0, "made": made, "seconds": checkpoint.duration_us as f64 / 1e6,
        "bytes": checkpoint.bytes, "count": checkpoint.count,
    })
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
        let of = |job: JobStatus| ServiceStatus { job: Some(job), ..ServiceStatus::default() };
        let readiness = |service: &ServiceStatus| {
            let readiness = readiness(service);
            (readiness.ready, json!(readiness))
        };
        let (ready, document) = readiness(&of(status.clone()));
        assert!(!ready);
        assert_eq!(document["sources"][1], json!({"name": "b", "state": "not connected"}));
        let (ready, _) = readiness(&of(JobStatus { ready: true, ..status.clone() }));
        assert!(ready, "a source that lost its connection later does not take readiness away");
        let (ready, document) =
            readiness(&of(JobStatus { ready: true, failure: Some("a bug".into()), ..status.clone() }));
        assert!(!ready && document["reason"] == "the job has failed: a bug", "{document}");
        assert!(!readiness(&ServiceStatus::default()).0);

        let read_only = Some(ReadOnly { reason: "disk full".into(), since_us: 1_500_000 });
        let (ready, document) = readiness(&ServiceStatus { read_only, ..of(JobStatus { ready: true, ..status }) });
        assert!(!ready);
        assert_eq!(document["reason"], "read only since 1970-01-01T00:00:01.500Z: disk full");
    }

    #[test]
    fn the_state_of_the_service_is_one_word() {
        let job = |change: fn(&mut JobStatus)| {
            let mut job = JobStatus::default();
            change(&mut job);
            Some(job)
        };
        let read_only = || Some(ReadOnly { reason: "disk full".into(), since_us: 0 });
        for (job, read_only, state) in [
            (None, None, "starting"),
            (job(|_| ()), None, "running"),
            (job(|job| job.finished = true), None, "finished"),
            (job(|job| job.failure = Some("a bug".into())), None, "failed"),
            (job(|job| job.failure = Some("disk full".into())), read_only(), "read_only"),
            (None, read_only(), "read_only"),
        ] {
            let document =
                status_document(&ServiceStatus { job, read_only: read_only.clone(), ..ServiceStatus::default() });
            assert_eq!(document["state"], state);
            assert_eq!(document["read_only"]["reason"].as_str(), read_only.map(|_| "disk full"));
        }
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
        let document = status_document(&ServiceStatus { job: Some(status), ..ServiceStatus::default() });
        let shown: Vec<&Value> = (0..4).map(|n| &document["sources"][n]["watermark"]).collect();
        assert_eq!(shown, [&json!("1970-01-01T00:00:01.500Z"), &json!("end"), &Value::Null, &Value::Null]);
        assert_eq!(document["tables"][0], json!({"name": "t", "rows": 3, "committed_epoch": 7}));
    }
}
