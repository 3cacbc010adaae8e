//! `GET /api/v1/openapi.json`: the whole API for programs, put together from what each module says of its routes.

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};
use tidemill_connectors::http::openapi as ingest;

use super::ServiceState;
use crate::answer::AnswerFormat;
use crate::problem::ProblemKind;

/// Describes the API.
pub(super) async fn openapi(State(state): State<ServiceState>) -> Json<Value> {
    Json(document(state.version))
}

fn document(version: &str) -> Value {
    let mut paths = own_paths();
    let (more_paths, mut schemas) = (ingest::paths(), ingest::schemas());
    merge(&mut paths, more_paths);
    merge(&mut schemas, own_schemas());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "tidemill", "version": version,
            "description": "Rows in, questions over what came of them, and how it is going.",
        },
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

fn own_paths() -> Value {
    let any = json!({"application/json": {"schema": {"type": "object"}}});
    let get = |id: &str, summary: &str, responses: Value| json!({"get": {"operationId": id, "tags": ["health"], "summary": summary, "responses": responses}});
    let ok = |content: &Value| json!({"200": {"description": "the answer", "content": content}});
    let mut ready = ok(&any);
    ready["503"] = json!({"description": "not yet, or read only", "content": any});
    let mut status = ok(&any);
    merge(&mut status, problems(&[ProblemKind::NotReady]));
    let text = json!({"text/plain": {"schema": {"type": "string"}}});
    json!({
        "/healthz": get("healthz", "Says that the process answers", ok(&any)),
        "/readyz": get("readyz", "Says whether every source runs, and if not, why", ready),
        "/version": get("version", "Names the program and its version", ok(&any)),
        "/metrics": get("metrics", "Tells counters and gauges for Prometheus", ok(&text)),
        "/api/v1/status": get("status", "Says what the job is doing", status),
        "/api/v1/openapi.json": get("openapi", "Describes the API", ok(&any)),
        "/api/v1/query": {"post": query()},
    })
}

fn query() -> Value {
    let formats: Map<String, Value> = AnswerFormat::ALL
        .iter()
        .map(|format| {
            let media_type = format.content_type().split(';').next().unwrap_or_default().to_owned();
            let is_json = media_type == "application/json";
            (media_type, if is_json { json!({"schema": {}}) } else { json!({"schema": {"type": "string"}}) })
        })
        .collect();
    let mut responses = json!({"200": {
        "description": "rows, in the format that Accept names",
        "headers": {"x-tidemill-as-of": {"description": "which state of which table was read", "schema": {"type": "string"}}},
        "content": formats,
    }});
    let kinds = [
        ProblemKind::BadRequest,
        ProblemKind::NotAcceptable,
        ProblemKind::TooBig,
        ProblemKind::UnsupportedMediaType,
        ProblemKind::InvalidQuery,
        ProblemKind::Unreadable,
        ProblemKind::Busy,
        ProblemKind::TimedOut,
    ];
    merge(&mut responses, problems(&kinds));
    json!({
        "operationId": "query", "tags": ["questions"], "summary": "Answers a question over tables",
        "requestBody": {"required": true, "content": {"application/json": {"schema": {
            "type": "object", "required": ["sql"], "additionalProperties": false,
            "properties": {
                "sql": {"type": "string", "description": "one statement that reads"},
                "params": {"type": "array", "description": "values for $1, $2, …",
                           "items": {"type": ["string", "number", "boolean", "null"]}},
            },
        }}}},
        "responses": responses,
    })
}

/// A response for each kind, by its status.
fn problems(kinds: &[ProblemKind]) -> Value {
    let one = |kind: &ProblemKind| {
        let schema = json!({"schema": {"$ref": "#/components/schemas/Problem"}});
        let mut response = json!({"description": kind.title(), "content": {"application/problem+json": schema}});
        if kind.status() == 503 {
            response["headers"] = json!({"retry-after": {"description": "seconds", "schema": {"type": "integer"}}});
        }
        (kind.status().to_string(), response)
    };
    Value::Object(kinds.iter().map(one).collect())
}

fn own_schemas() -> Value {
    let (text, count) = (json!({"type": "string"}), json!({"type": "integer", "minimum": 0}));
    json!({
        "Problem": {
            "type": "object", "required": ["type", "title", "status", "code", "detail"], "additionalProperties": false,
            "properties": {
                "type": text, "title": text, "status": count, "code": text, "detail": text, "hint": text,
                "span": {"type": "object", "required": ["line", "column", "length"], "additionalProperties": false,
                         "properties": {"line": count, "column": count, "length": count}},
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::PATHS;
    use super::*;

    #[test]
    fn every_path_of_the_service_is_described() {
        let document = document("1");
        let described: Vec<&String> = document["paths"].as_object().expect("paths").keys().collect();
        for path in PATHS {
            let (method, path) = path.split_once(' ').unwrap_or(("GET", path));
            let operation = &document["paths"][path][method.to_lowercase()];
            assert!(operation["responses"].is_object(), "{method} {path} is not among {described:?}");
        }
        assert_eq!(described.len(), PATHS.len());
    }
}
