//! Prometheus remote write. The version is told by the body; version 2 hears how much of each kind was written.
//!
//! | | |
//! |---|---|
//! | 204 | every sample is durable |
//! | 400 | what cannot be used is a dead letter, the others are durable; or nothing was stored, as the text says |
//! | 415 | another message than those of remote write |
//! | 5xx | Prometheus repeats it, after `Retry-After` seconds if there is one |

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::super::HttpIngest;
use super::super::api::{Media, Operation, Verb};
use super::super::problem::{Kind, Problem};
use super::{SOURCE, TAG, refusals};
use crate::format::{Protocol, Tally};

/// What version 2 calls its message.
const MESSAGE_V2: &str = "io.prometheus.write.v2.Request";
/// What version 1 calls its message, if it says it at all.
const MESSAGE_V1: &str = "prometheus.WriteRequest";

/// What a body is.
const MEDIA_TYPE: &str = "application/x-protobuf";

pub(super) fn operation() -> Operation<HttpIngest> {
    let not_post = || async { refusal(&Problem::new(Kind::Method, "samples are sent with POST")) };
    Operation::new(Verb::Post, "/prom/api/v1/write", "remote_write", write)
        .other_methods(not_post)
        .summary(TAG, "Takes Prometheus remote write 1.0 and 2.0")
        .parameters(&[&SOURCE])
        .bodies([Media::bytes(MEDIA_TYPE, "a WriteRequest, or with proto=io.prometheus.write.v2.Request that; snappy")])
        .answer(204, "every sample is durable", [])
        .refusals(refusals(vec![Media::bytes("text/plain", "what was refused, and that the rest is stored if it is")]))
}

async fn write(
    State(ingest): State<HttpIngest>,
    Query(parameters): Query<BTreeMap<String, String>>,
    request: Request<Body>,
) -> Response {
    let is_v2 = message_of(request.headers()) == Some(MESSAGE_V2);
    let (mut response, written) = match take(&ingest, &parameters, request).await {
        Ok((status, text, tally)) => ((status, text).into_response(), tally),
        Err(problem) => (refusal(&problem), Tally::default()),
    };
    if is_v2 {
        for (kind, count) in [("samples", written.samples), ("histograms", written.histograms), ("exemplars", 0)] {
            let name = format!("x-prometheus-remote-write-{kind}-written");
            let name = HeaderName::try_from(name).expect("a header's name");
            response.headers_mut().insert(name, HeaderValue::from(count));
        }
    }
    response
}

async fn take(
    ingest: &HttpIngest,
    parameters: &BTreeMap<String, String>,
    request: Request<Body>,
) -> Result<(StatusCode, String, Tally), Problem> {
    let source = super::source_of(ingest, parameters.get(SOURCE.name), Protocol::RemoteWrite)?;
    let mut admitted = ingest.admit(&source)?;
    let (mut head, body) = request.into_parts();
    // Remote write is snappy. Some senders do not say so, such as prometheus-remote-write of npm.
    let is_said = head.headers.contains_key(header::CONTENT_ENCODING);
    if !is_said {
        head.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("snappy"));
    }
    check_content_type(&head.headers).map_err(|problem| admitted.refuse(problem))?;
    let payload = admitted.read(&head.headers, body).await.map_err(|problem| match problem.kind {
        Kind::DamagedBody if !is_said => {
            problem.hint("remote write is taken for snappy: say Content-Encoding: identity where it is not")
        }
        _ => problem,
    })?;
    let sent = Tally::of(&payload);
    let taken = super::append(admitted, Protocol::RemoteWrite, payload).await?;
    if taken.rejected_count == 0 {
        return Ok((StatusCode::NO_CONTENT, String::new(), sent));
    }
    // One histogram is many rows: what is dead is taken from the samples first.
    let text = super::rejected(&taken, "samples", |error| error.message.clone());
    let samples = sent.samples.saturating_sub(taken.rejected_count);
    let histograms = if taken.rows == 0 { 0 } else { sent.histograms };
    Ok((StatusCode::BAD_REQUEST, text, Tally { samples, histograms, exemplars: 0 }))
}

/// Returns the message that a request says it brings.
fn message_of(headers: &HeaderMap) -> Option<&str> {
    let given = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let parameter = given.split(';').skip(1).find_map(|parameter| parameter.trim().strip_prefix("proto="))?;
    Some(parameter.trim_matches('"'))
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or("?"));
    let essence = given.split(';').next().unwrap_or_default().trim();
    let is_protobuf = essence.is_empty() || essence.eq_ignore_ascii_case(MEDIA_TYPE);
    if is_protobuf && message_of(headers).is_none_or(|message| [MESSAGE_V1, MESSAGE_V2].contains(&message)) {
        return Ok(());
    }
    Err(Problem::new(Kind::ContentType, format!("remote write is not sent as {given:?}; nothing was stored"))
        .hint("send application/x-protobuf, for version 2 with proto=io.prometheus.write.v2.Request"))
}

/// Prometheus logs the first line of a text.
fn refusal(problem: &Problem) -> Response {
    let mut response = (super::status_of(problem.kind), super::line_of(problem)).into_response();
    if let Some(seconds) = problem.kind.retry_after_s() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
