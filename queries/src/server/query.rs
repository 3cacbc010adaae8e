//! `POST /api/v1/query`: a question in JSON, its answer in the format that `Accept` names.
//!
//! The first pieces of an answer are held back until it ends or [`HELD_BYTES_MAX`] are there, so that nearly every
//! error has its own status. An error after that cuts the connection: the client sees an incomplete body, never a
//! short answer that looks whole.

use std::collections::VecDeque;
use std::io;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use serde::Deserialize;
use tidemill_connectors::describe;
use tidemill_connectors::http::api::{Api, Components, Media, Operation, Shape, Verb};

use super::bodies::Bodies;
use super::{ServiceState, problem_response, refusal};
use crate::answer::{AnswerFormat, EncodedAnswer, TableVersion};
use crate::problem::{Problem, ProblemKind};
use crate::session::Parameter;

/// Bytes of an answer that are held back before its status is sent.
const HELD_BYTES_MAX: usize = 1 << 20;
/// Says which states of which tables were read.
const AS_OF: &str = "x-tidemill-as-of";

pub(super) fn api() -> Api<ServiceState> {
    let is_other_route = |kind: &ProblemKind| {
        matches!(kind, ProblemKind::UnknownPath | ProblemKind::MethodNotAllowed | ProblemKind::NotReady)
    };
    let kinds = ProblemKind::ALL.iter().copied().filter(|kind| !is_other_route(kind));
    Api::new([Operation::new(Verb::Post, "/api/v1/query", "query", query)
        .summary("questions", "Answers a question over tables")
        .bodies([Media::json::<QueryRequest>("")])
        .answer(200, "rows, in the format that Accept names", AnswerFormat::ALL.map(rows))
        .with_headers(&[(AS_OF, "which state of which table was read")])
        .refusals(kinds.map(refusal))])
}

fn rows(format: AnswerFormat) -> Media {
    match format {
        AnswerFormat::Json => Media::json::<serde_json::Map<String, serde_json::Value>>("columns, rows and row_count"),
        _ => Media::bytes(format.media_type(), ""),
    }
}

/// A question.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QueryRequest {
    sql: String,
    #[serde(default)]
    params: Vec<Scalar>,
}

describe!(QueryRequest {
    sql: "one statement that reads";
    params: "values for $1, $2, …",
});

/// A single value.
#[derive(Deserialize)]
#[serde(transparent)]
struct Scalar(serde_json::Value);

impl Shape for Scalar {
    fn shape(_: &mut Components) -> serde_json::Value {
        serde_json::json!({"type": ["string", "number", "boolean", "null"]})
    }
}

/// Answers a question over tables, in the format that `Accept` names.
async fn query(State(state): State<ServiceState>, Extension(bodies): Extension<Bodies>, request: Request) -> Response {
    match answer(&state, &bodies, request).await {
        Ok(response) => response,
        Err(problem) => {
            if matches!(problem.kind, ProblemKind::Internal | ProblemKind::Unreadable) {
                tracing::error!(code = problem.kind.code(), detail = %problem.detail, "a question failed");
            }
            problem_response(&problem)
        }
    }
}

async fn answer(state: &ServiceState, bodies: &Bodies, request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let format = accepted_format(&head.headers)?;
    check_content_type(&head.headers)?;
    let request = parse_request(&bodies.read(body).await?)?;
    let parameters = request.params.into_iter().map(parameter).collect::<Result<Vec<Parameter>, Problem>>()?;
    let answer = state.session.query_with(&request.sql, parameters).await?;
    let as_of = as_of_header(answer.versions());
    let body = held_body(answer.encode(format)).await?;
    let mut response = (StatusCode::OK, body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(as_of) = as_of {
        response.headers_mut().insert(AS_OF, as_of);
    }
    Ok(response)
}

fn accepted_format(headers: &HeaderMap) -> Result<AnswerFormat, Problem> {
    let accept = headers.get(header::ACCEPT).map_or(Some(""), |value| value.to_str().ok()).unwrap_or("?");
    AnswerFormat::from_accept(accept).ok_or_else(|| {
        Problem::new(ProblemKind::NotAcceptable, format!("an answer cannot be written as {accept}")).with_hint(
            "Accept: application/json, application/x-ndjson, text/csv, application/vnd.apache.arrow.stream or text/plain",
        )
    })
}

const EXAMPLE: &str = "send {\"sql\": \"SELECT …\"} with Content-Type: application/json";

/// A page of another site can send a form or plain text without being asked; it cannot send JSON.
fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let found = if content_type.is_empty() { "no content type" } else { content_type };
    Err(Problem::new(ProblemKind::UnsupportedMediaType, format!("the request has {found}")).with_hint(EXAMPLE))
}

fn parse_request(body: &[u8]) -> Result<QueryRequest, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        Problem::new(ProblemKind::BadRequest, format!("the request's body is not a question: {error}"))
            .with_hint(EXAMPLE)
    })
}

fn parameter(Scalar(value): Scalar) -> Result<Parameter, Problem> {
    match value {
        serde_json::Value::Null => Ok(Parameter::Null),
        serde_json::Value::Bool(value) => Ok(Parameter::Boolean(value)),
        serde_json::Value::String(value) => Ok(Parameter::Text(value)),
        serde_json::Value::Number(value) => match (value.as_i64(), value.as_f64()) {
            (Some(integer), _) => Ok(Parameter::Integer(integer)),
            (None, Some(number)) => Ok(Parameter::Number(number)),
            (None, None) => Err(Problem::new(ProblemKind::BadRequest, format!("the parameter {value} is no number"))),
        },
        other => Err(Problem::new(ProblemKind::BadRequest, format!("a parameter is a single value, not {other}"))),
    }
}

fn as_of_header(versions: &[TableVersion]) -> Option<HeaderValue> {
    let parts: Vec<String> = versions
        .iter()
        .map(|read| match read.version {
            Some(version) => format!("{}={version}", read.table),
            None => format!("{}=none", read.table),
        })
        .collect();
    if parts.is_empty() { None } else { HeaderValue::from_str(&parts.join(" ")).ok() }
}

async fn held_body(mut encoded: EncodedAnswer) -> Result<Body, Problem> {
    let mut held = VecDeque::new();
    let mut held_bytes = 0;
    while held_bytes < HELD_BYTES_MAX {
        match encoded.next().await {
            Some(piece) => {
                let piece = piece?;
                held_bytes += piece.len();
                held.push_back(piece);
            }
            None => {
                let whole: Vec<u8> = held.iter().flat_map(|piece: &Bytes| piece.iter().copied()).collect();
                return Ok(Body::from(whole));
            }
        }
    }
    Ok(Body::from_stream(stream::unfold((held, encoded), |(mut held, mut encoded)| async move {
        let piece = match held.pop_front() {
            Some(piece) => Ok(piece),
            None => encoded.next().await?.map_err(|problem| {
                tracing::warn!(code = problem.kind.code(), detail = %problem.detail, "an answer broke off");
                io::Error::other(problem)
            }),
        };
        Some((piece, (held, encoded)))
    })))
}
