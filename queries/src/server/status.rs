//! Health and status as JSON: `/healthz`, `/readyz`, `/version`, `/api/v1/status`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tidemill_connectors::describe;
use tidemill_connectors::http::api::{Api, Media, Operation, Verb};

use super::document::{Document, SourceState, instant};
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
                .answer(200, "sources, windows, tables, sinks and checkpoints", [Media::json::<Document>("")])
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
    state: SourceState,
}
describe!(SourceReadiness { name: "of the source", state: "whether it can receive" });

/// Says what the job is doing.
async fn status(State(state): State<ServiceState>) -> Response {
    let status = (state.status)();
    if status.job.is_none() && status.read_only.is_none() {
        return problem_response(&Problem::new(ProblemKind::NotReady, "no job is running"));
    }
    Json(Document::of(&status)).into_response()
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
    let sources =
        sources.map(|source| SourceReadiness { name: source.name.to_string(), state: SourceState::of(source) });
    Readiness { ready, reason, sources: sources.collect() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidemill_engine::runtime::{JobStatus, SourceStatus};

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
}
