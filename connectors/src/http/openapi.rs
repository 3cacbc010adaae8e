//! What the routes of ingest say of themselves, for the OpenAPI document of the service.
//!
//! The limits in it are those of the code, and the codes of problems are those of [`Kind`]; what a test finds in an answer
//! and not in here, or here and in no answer, fails.

use serde_json::{Map, Value, json};

use super::WAIT_MAX;
use super::head::{IDEMPOTENCY_KEY, PRODUCER_EPOCH, PRODUCER_ID, PRODUCER_SEQ};
use super::once::{IDEMPOTENCY_KEY_BYTES_MAX, PRODUCER_ID_BYTES_MAX};
use super::problem::{Kind, ROW_ERRORS_MAX};

/// Returns the paths.
pub fn paths() -> Value {
    let influx = "text/plain";
    let protobuf = "application/x-protobuf";
    json!({
        "/api/v1/ingest/{source}": {"post": ingest()},
        "/api/v1/positions/{position}": {"get": position()},
        "/influx/api/v2/write": {"post": written("influx_2", "line protocol, as to InfluxDB 2", "bucket", influx)},
        "/influx/write": {"post": written("influx_1", "line protocol, as to InfluxDB 1", "db", influx)},
        "/influx/ping": {"get": answered("influx_ping", "says to clients of Influx that the program answers")},
        "/influx/health": {"get": answered("influx_health", "the same for those of version 2")},
        "/prom/api/v1/write": {"post": written("remote_write", "remote write 1.0 and 2.0", "source", protobuf)},
        "/otlp/v1/metrics": {"post": written("otlp_metrics", "OTLP metrics", "source", protobuf)},
        "/otlp/v1/logs": {"post": written("otlp_logs", "OTLP logs", "source", protobuf)},
        "/otlp/v1/traces": {"post": answered("otlp_traces", "says that traces are not taken")},
    })
}

/// A route that speaks another protocol: its answers are what that protocol's clients expect.
fn written(id: &str, what: &str, names_source: &str, content_type: &str) -> Value {
    let mut operation = answered(id, what);
    operation["parameters"] = json!([{
        "in": "query", "name": names_source, "description": "which source", "schema": {"type": "string"},
        "required": names_source != "source",
    }]);
    operation["requestBody"] = json!({"content": {content_type: {"schema": {"type": "string"}}}});
    operation
}

fn answered(id: &str, what: &str) -> Value {
    json!({
        "operationId": id, "tags": ["protocols"], "summary": what,
        "responses": {"default": {"description": "as the protocol says"}},
    })
}

/// Returns the schemas that the paths refer to.
pub fn schemas() -> Value {
    let text = json!({"type": "string"});
    let count = json!({"type": "integer", "minimum": 0});
    let optional_count = json!({"type": ["integer", "null"], "minimum": 0});
    let row_error = json!({
        "type": "object", "required": ["row", "message"], "additionalProperties": false,
        "properties": {"row": count, "column": text, "message": text},
    });
    let rows = json!({"type": "array", "maxItems": ROW_ERRORS_MAX, "items": {"$ref": "#/components/schemas/RowError"}});
    json!({
        "RowError": row_error,
        "Taken": {
            "type": "object", "additionalProperties": false,
            "required": ["position", "rows", "first_offset", "rejected", "rejected_count", "state", "duplicate"],
            "properties": {
                "position": {"type": ["string", "null"], "description": "for GET /api/v1/positions/{position}"},
                "rows": count, "first_offset": optional_count, "rejected": rows, "rejected_count": count,
                "state": {"enum": ["accepted", "durable", "committed"]},
                "duplicate": {"type": "boolean", "description": "whether it had been stored before"},
            },
        },
        "Position": {
            "type": "object", "required": ["position", "state"], "additionalProperties": false,
            "properties": {"position": text, "state": {"enum": ["durable", "committed"]}},
        },
        "IngestProblem": {
            "type": "object", "required": ["type", "title", "status", "code", "detail"], "additionalProperties": false,
            "properties": {
                "type": text, "title": text, "status": count, "code": text, "detail": text, "hint": text, "errors": rows,
                "expected_seq": count,
            },
        },
    })
}

fn ingest() -> Value {
    let bytes = |content_type: &str, description: &str| {
        (content_type.to_owned(), json!({"schema": {"type": "string", "description": description}}))
    };
    let row = json!({"type": "object", "description": "the declared columns; others are left out"});
    let mut bodies: Map<String, Value> = [
        bytes("application/x-ndjson", "objects, each on a line of its own"),
        bytes("text/csv", "a header row, then rows"),
        bytes("application/vnd.apache.arrow.stream", "a stream of Arrow IPC with its end mark"),
        bytes("application/vnd.apache.parquet", "a Parquet file"),
    ]
    .into_iter()
    .collect();
    bodies.insert("application/json".to_owned(), json!({"schema": {"anyOf": [row, {"type": "array", "items": row}]}}));
    let on_error =
        parameter("query", "on_error", "what becomes of rows that cannot be used", &["reject", "dead_letter"]);
    let ack = parameter("query", "ack", "what the answer waits for", &["accepted", "durable", "committed"]);
    let named = |name: &str, bytes_max: usize, description: &str| {
        json!({
            "in": "header", "name": name, "description": description,
            "schema": {"type": "string", "minLength": 1, "maxLength": bytes_max},
        })
    };
    let numbered = |name: &str, description: &str| {
        json!({
            "in": "header", "name": name, "description": description,
            "schema": {"type": "integer", "minimum": 0, "maximum": u64::MAX - 1},
        })
    };
    let refusals = [
        Kind::BadRows,
        Kind::StaleEpoch,
        Kind::UnknownSource,
        Kind::SlowBody,
        Kind::InFlight,
        Kind::TooLarge,
        Kind::ContentType,
        Kind::Reused,
        Kind::TooManyProducers,
        Kind::LogFailed,
        Kind::Busy,
    ];
    json!({
        "operationId": "ingest", "tags": ["ingest"], "summary": "Takes rows for a source",
        "parameters": [
            {"in": "path", "name": "source", "required": true, "schema": {"type": "string", "minLength": 1},
             "description": "a source with connector = 'http'"},
            on_error, ack,
            named(PRODUCER_ID, PRODUCER_ID_BYTES_MAX, "who sends; with producer-epoch and producer-seq"),
            numbered(PRODUCER_EPOCH, "which life of the producer"),
            numbered(PRODUCER_SEQ, "which request of that life, from 0"),
            named(IDEMPOTENCY_KEY, IDEMPOTENCY_KEY_BYTES_MAX, "another way to name a request"),
        ],
        "requestBody": {"required": true, "content": bodies},
        "responses": responses(
            [("200", "Taken", "stored, now or before"), ("202", "Taken", "not as far as was asked yet: state tells")],
            &refusals,
        ),
    })
}

fn position() -> Value {
    let wait = format!("how long to wait for the commit, at most {} s", WAIT_MAX.as_secs());
    json!({
        "operationId": "position", "tags": ["ingest"], "summary": "Tells how far the rows before a position have come",
        "parameters": [
            {"in": "path", "name": "position", "required": true, "schema": {"type": "string", "minLength": 1},
             "description": "what the answer to a POST has said, such as readings@3"},
            {"in": "query", "name": "wait", "description": wait,
             "schema": {"type": "string", "pattern": "^[0-9]{1,3} ?(us|ms)$"}},
        ],
        "responses": responses(
            [("200", "Position", "durable or committed")],
            &[Kind::Parameter, Kind::UnknownPosition, Kind::Busy],
        ),
    })
}

fn parameter(place: &str, name: &str, description: &str, words: &[&str]) -> Value {
    json!({"in": place, "name": name, "description": description, "schema": {"type": "string", "enum": words}})
}

fn responses<const N: usize>(answers: [(&str, &str, &str); N], refusals: &[Kind]) -> Value {
    let schema = |name: &str| json!({"schema": {"$ref": format!("#/components/schemas/{name}")}});
    let mut responses = Map::new();
    for (status, name, description) in answers {
        let answer = json!({"description": description, "content": {"application/json": schema(name)}});
        responses.insert(status.to_owned(), answer);
    }
    for refusal in refusals {
        let mut answer = json!({
            "description": refusal.title(), "content": {"application/problem+json": schema("IngestProblem")},
        });
        if refusal.retry_after_s().is_some() {
            answer["headers"] = json!({"retry-after": {"description": "seconds", "schema": {"type": "integer"}}});
        }
        responses.insert(refusal.status().as_u16().to_string(), answer);
    }
    Value::Object(responses)
}
