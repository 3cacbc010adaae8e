//! `POST /api/v1/query`: a question in JSON, its answer in the format that `Accept` names.
//!
//! The first pieces of an answer are held back until it ends or [`HELD_BYTES_MAX`] are there, so that nearly every
//! error has its own status. An error after that cuts the connection: the client sees an incomplete body, never a
//! short answer that looks whole.

use std::collections::VecDeque;
use std::io;

use axum::body::Body;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use serde::Deserialize;

use super::{BODY_BYTES_MAX, ServiceState, problem_response};
use crate::answer::{AnswerFormat, EncodedAnswer, TableVersion};
use crate::problem::{Problem, ProblemKind};
use crate::session::Parameter;

/// Bytes of an answer that are held back before its status is sent.
const HELD_BYTES_MAX: usize = 1 << 20;
/// Says which states of which tables were read.
const AS_OF: &str = "x-tidemill-as-of";

/// A question.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QueryRequest {
    /// One statement that reads.
    sql: String,
    /// Values for `$1`, `$2`, …: texts, numbers, truth values, null.
    #[serde(default)]
    params: Vec<serde_json::Value>,
}

/// Answers a question over tables, in the format that `Accept` names.
pub(super) async fn query(
    State(state): State<ServiceState>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    match answer(&state, &headers, body).await {
        Ok(response) => response,
        Err(problem) => {
            if matches!(problem.kind, ProblemKind::Internal | ProblemKind::Unreadable) {
                tracing::error!(code = problem.kind.code(), detail = %problem.detail, "a question failed");
            }
            problem_response(&problem)
        }
    }
}

async fn answer(
    state: &ServiceState,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let format = accepted_format(headers)?;
    let request = parse_request(headers, body)?;
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

fn parse_request(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<QueryRequest, Problem> {
    const EXAMPLE: &str = "send {\"sql\": \"SELECT …\"} with Content-Type: application/json";
    // A page of another site can send a form or plain text without being asked; it cannot send this.
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        let found = if content_type.is_empty() { "no content type" } else { content_type };
        return Err(
            Problem::new(ProblemKind::UnsupportedMediaType, format!("the request has {found}")).with_hint(EXAMPLE)
        );
    }
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(ProblemKind::TooBig, format!("the request has more than {BODY_BYTES_MAX} bytes"))
        }
        _ => Problem::new(ProblemKind::BadRequest, rejection.body_text()),
    })?;
    serde_json::from_slice(&body).map_err(|error| {
        Problem::new(ProblemKind::BadRequest, format!("the request's body is not a question: {error}"))
            .with_hint(EXAMPLE)
    })
}

fn parameter(value: serde_json::Value) -> Result<Parameter, Problem> {
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
