//! OTLP over HTTP: metrics and logs, in protobuf or JSON; the answer is in the form of the request.
//!
//! | | |
//! |---|---|
//! | 200 | durable; `partial_success` counts the points that are dead letters, and says why. The client does not repeat it |
//! | 400, 404, 413, 415 | nothing was stored, and the client does not repeat it; the body is a Status |
//! | 503 | the client repeats it, after `Retry-After` seconds if there is one |
//!
//! A failure of the log is 503 here: after a 500 clients of OTLP drop what they have, and then it is unknown whether it is
//! stored. Traces are not taken: 404 says so.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceResponse};
use prost::Message;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::super::HttpIngest;
use super::super::admission::Taken;
use super::super::api::{Components, Media, Operation, Refusal, Shape, Told, Verb};
use super::super::problem::{Kind, Problem};
use super::{SOURCE, TAG, refusals};
use crate::format::Protocol;

/// Bytes of a request once it is inflated: messages of many small parts take several times as much in memory.
const BYTES_MAX: usize = 8 << 20;

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

pub(super) fn operations() -> [Operation<HttpIngest>; 3] {
    let not_post = |headers: HeaderMap| async move {
        Form::of(&headers).unwrap_or(Form::Protobuf).refusal(&Problem::new(Kind::Method, "requests are sent with POST"))
    };
    let told = || Form::ALL.map(|form| form.media("what was refused, and what to do about it", status_shape)).to_vec();
    let written = |operation: Operation<HttpIngest>, signal: Signal| {
        operation
            .other_methods(not_post)
            .parameters(&[&SOURCE])
            .bodies(Form::ALL.map(|form| form.media("a request to export", signal.request)))
            .answer(
                200,
                "durable; partial_success says what is not",
                Form::ALL.map(|form| form.media("", signal.answer)),
            )
            .refusals(refusals(told()).map(|refusal| match refusal.code == Kind::LogFailed.code() {
                true => Refusal { status: Form::status_of(Kind::LogFailed).as_u16(), ..refusal },
                false => refusal,
            }))
    };
    [
        written(Operation::new(Verb::Post, "/otlp/v1/metrics", "otlp_metrics", metrics), METRICS)
            .summary(TAG, "Takes metrics of OpenTelemetry"),
        written(Operation::new(Verb::Post, "/otlp/v1/logs", "otlp_logs", logs), LOGS)
            .summary(TAG, "Takes logs of OpenTelemetry"),
        Operation::new(Verb::Post, "/otlp/v1/traces", "otlp_traces", traces)
            .other_methods(not_post)
            .summary(TAG, "Says that traces are not taken")
            .bodies(Form::ALL.map(|form| form.media("", <Map<String, Value> as Shape>::shape)))
            .refusals([Kind::UnknownSource.told(Form::status_of(Kind::UnknownSource), Told::As(told()))]),
    ]
}

/// How requests and answers of a signal look as JSON: as the types of OpenTelemetry are written.
#[derive(Clone, Copy)]
struct Signal {
    request: fn(&mut Components) -> Value,
    answer: fn(&mut Components) -> Value,
}

const METRICS: Signal = Signal {
    request: |components| request_shape("OtlpMetrics", "resourceMetrics", components),
    answer: |components| answer_shape("OtlpMetricsAnswer", "rejectedDataPoints", components),
};
const LOGS: Signal = Signal {
    request: |components| request_shape("OtlpLogs", "resourceLogs", components),
    answer: |components| answer_shape("OtlpLogsAnswer", "rejectedLogRecords", components),
};

fn request_shape(name: &'static str, resources: &str, components: &mut Components) -> Value {
    let what = "as opentelemetry-proto describes them";
    components
        .refer(name, |_| json!({"type": "object", "properties": {resources: {"type": "array", "description": what}}}))
}

fn answer_shape(name: &'static str, rejected: &str, components: &mut Components) -> Value {
    components.refer(name, |_| {
        let partial = json!({
            "type": ["object", "null"], "description": "null if everything is stored",
            "required": [rejected, "errorMessage"], "additionalProperties": false,
            "properties": {
                rejected: {"type": "integer", "minimum": 1, "description": "how many are dead letters"},
                "errorMessage": {"type": "string", "description": "why"},
            },
        });
        json!({
            "type": "object", "required": ["partialSuccess"], "additionalProperties": false,
            "properties": {"partialSuccess": partial},
        })
    })
}

fn status_shape(components: &mut Components) -> Value {
    components.refer("OtlpStatus", |_| {
        json!({
            "type": "object", "required": ["code", "message"], "additionalProperties": false,
            "properties": {
                "code": {"type": "integer", "description": "of gRPC"},
                "message": {"type": "string", "description": "what was refused, and what to do about it"},
            },
        })
    })
}

async fn traces(headers: HeaderMap) -> Response {
    let problem = Problem::new(Kind::UnknownSource, "traces are not taken; nothing was stored");
    let problem = problem.hint("send metrics to /otlp/v1/metrics and logs to /otlp/v1/logs");
    Form::of(&headers).unwrap_or(Form::Protobuf).refusal(&problem)
}

type Parameters = Query<BTreeMap<String, String>>;

async fn metrics(State(ingest): State<HttpIngest>, Query(parameters): Parameters, request: Request<Body>) -> Response {
    answer(&ingest, &parameters, request, Protocol::OtlpMetrics, |form, rejected| {
        let partial_success = rejected.map(|(rejected_data_points, error_message)| ExportMetricsPartialSuccess {
            rejected_data_points,
            error_message,
        });
        form.success(&ExportMetricsServiceResponse { partial_success })
    })
    .await
}

async fn logs(State(ingest): State<HttpIngest>, Query(parameters): Parameters, request: Request<Body>) -> Response {
    answer(&ingest, &parameters, request, Protocol::OtlpLogs, |form, rejected| {
        let partial_success = rejected.map(|(rejected_log_records, error_message)| ExportLogsPartialSuccess {
            rejected_log_records,
            error_message,
        });
        form.success(&ExportLogsServiceResponse { partial_success })
    })
    .await
}

async fn answer(
    ingest: &HttpIngest,
    parameters: &BTreeMap<String, String>,
    request: Request<Body>,
    protocol: Protocol,
    success: impl FnOnce(Form, Option<(i64, String)>) -> Response,
) -> Response {
    let form = Form::of(request.headers());
    match take(ingest, parameters, request, protocol).await {
        Ok(taken) => {
            let what = if protocol == Protocol::OtlpLogs { "log records" } else { "rows of data points" };
            let rejected = (taken.rejected_count > 0).then(|| {
                let text = super::rejected(&taken, what, |error| error.message.clone());
                (i64::try_from(taken.rejected_count).unwrap_or(i64::MAX), text)
            });
            success(form.unwrap_or(Form::Protobuf), rejected)
        }
        Err(problem) => form.unwrap_or(Form::Protobuf).refusal(&problem),
    }
}

async fn take(
    ingest: &HttpIngest,
    parameters: &BTreeMap<String, String>,
    request: Request<Body>,
    protocol: Protocol,
) -> Result<Taken, Problem> {
    let source = super::source_of(ingest, parameters.get(SOURCE.name), protocol)?;
    let mut admitted = ingest.admit(&source)?;
    let (head, body) = request.into_parts();
    if Form::of(&head.headers).is_none() {
        let given = head.headers.get(header::CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or("?"));
        let detail = format!("OTLP is not sent as {given:?}; nothing was stored");
        let problem = Problem::new(Kind::ContentType, detail).hint(format!("send {PROTOBUF} or {JSON}"));
        return Err(admitted.refuse(problem));
    }
    let payload = admitted.read(&head.headers, body).await?;
    // Much that is no JSON is a message of Protobuf without anything that we know in it, and would be gone.
    if Form::of(&head.headers) == Some(Form::Json) && payload.trim_ascii_start().first() != Some(&b'{') {
        let problem = Problem::new(Kind::BadRows, "the body is said to be JSON and is no object; nothing was stored");
        return Err(admitted.refuse(problem.hint(format!("send an object, or say Content-Type: {PROTOBUF}"))));
    }
    if payload.len() > BYTES_MAX {
        let detail = format!(
            "a request may have {} MiB, this one has {} bytes; nothing was stored",
            BYTES_MAX >> 20,
            payload.len()
        );
        return Err(admitted.refuse(Problem::new(Kind::TooLarge, detail).hint("send fewer points at once")));
    }
    super::append(admitted, protocol, payload).await
}

/// What a request is written in, and so its answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Protobuf,
    Json,
}

impl Form {
    const ALL: [Form; 2] = [Form::Protobuf, Form::Json];

    /// A failure of the log is 503 here: after a 500 these clients drop what they have.
    fn status_of(kind: Kind) -> StatusCode {
        if kind == Kind::LogFailed { StatusCode::SERVICE_UNAVAILABLE } else { super::status_of(kind) }
    }

    fn of(headers: &HeaderMap) -> Option<Form> {
        let given = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        let essence = given.split(';').next().unwrap_or_default().trim();
        Form::ALL.into_iter().find(|form| form.names().iter().any(|name| essence.eq_ignore_ascii_case(name)))
    }

    /// Its media types; the first is the one that answers have.
    fn names(self) -> &'static [&'static str] {
        match self {
            Form::Protobuf => &[PROTOBUF, "application/protobuf"],
            Form::Json => &[JSON],
        }
    }

    fn media(self, description: &'static str, shape: fn(&mut Components) -> Value) -> Media {
        match self {
            Form::Protobuf => Media::bytes(PROTOBUF, description),
            Form::Json => Media { name: JSON, description, shape },
        }
    }

    fn success(self, message: &(impl Message + Serialize)) -> Response {
        self.respond(
            StatusCode::OK,
            match self {
                Form::Protobuf => message.encode_to_vec(),
                Form::Json => serde_json::to_vec(message).expect("an answer is text and numbers"),
            },
        )
    }

    /// A `google.rpc.Status`: 1 code, 2 message.
    fn refusal(self, problem: &Problem) -> Response {
        let status = Form::status_of(problem.kind);
        let (code, message) = (grpc_code(status), super::line_of(problem));
        let mut response = self.respond(
            status,
            match self {
                Form::Json => json!({"code": code, "message": message}).to_string().into_bytes(),
                Form::Protobuf => {
                    let mut bytes = Vec::new();
                    prost::encoding::int32::encode(1, &code, &mut bytes);
                    prost::encoding::string::encode(2, &message, &mut bytes);
                    bytes
                }
            },
        );
        if let Some(seconds) = problem.kind.retry_after_s() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    fn respond(self, status: StatusCode, body: Vec<u8>) -> Response {
        (status, [(header::CONTENT_TYPE, self.names()[0])], body).into_response()
    }
}

/// The code of gRPC that says the same as a status.
fn grpc_code(status: StatusCode) -> i32 {
    match status {
        StatusCode::NOT_FOUND => 5,
        StatusCode::PAYLOAD_TOO_LARGE => 8,
        StatusCode::METHOD_NOT_ALLOWED => 12,
        StatusCode::SERVICE_UNAVAILABLE => 14,
        status if status.is_server_error() => 13,
        _ => 3,
    }
}
