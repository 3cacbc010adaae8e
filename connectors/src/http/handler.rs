//! One request, from its head to its answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Request, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use serde::Serialize;
use tidemill_engine::decode::Place;
use tidemill_engine::source::{Chunk, Data, IntakeError, Message};

use super::body::{self, Reservation};
use super::problem::{Kind, Problem, ROW_ERRORS_MAX, RowError};
use super::{Endpoint, Found, HttpIngest, PARTITION};
use crate::format::{Encoding, offset_in, split_json};
use crate::options::nearest;

/// Rows of one request.
const ROWS_MAX: usize = 100_000;
/// Bytes of one row.
const ROW_BYTES_MAX: usize = 1 << 20;
/// Bodies up to here are checked where they are received: that takes less than handing them over.
const BYTES_CHECKED_INLINE_MAX: usize = 64 << 10;

pub(super) fn router(ingest: HttpIngest) -> axum::Router {
    axum::Router::new().route("/api/v1/ingest/{source}", post(answer).fallback(method_not_allowed)).with_state(ingest)
}

async fn method_not_allowed() -> Problem {
    Problem::new(Kind::Method, "rows are sent with POST")
}

#[derive(Serialize)]
struct Accepted {
    /// The source and the log offset after the request's last message.
    position: String,
    rows: usize,
    rejected: Vec<RowError>,
    rejected_count: usize,
}

/// What happens with rows that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnError {
    /// They refuse the whole request.
    Reject,
    /// They are stored too, and become dead letters.
    DeadLetter,
}

async fn answer(
    State(ingest): State<HttpIngest>,
    Path(name): Path<String>,
    Query(parameters): Query<BTreeMap<String, String>>,
    request: Request<Body>,
) -> Response {
    let (endpoint, _token) = match ingest.find(&name) {
        Found::Running(endpoint, token) => (endpoint, token),
        Found::NotRunning(state) => {
            return Problem::new(Kind::NotRunning, format!("source {name} {state}; nothing was stored"))
                .into_response();
        }
        Found::Refused(why) => {
            let problem = Problem::new(Kind::ReadOnly, format!("{why}; nothing was stored"));
            return problem
                .hint("send it again later: it is taken as soon as the data folder can be written again")
                .into_response();
        }
        Found::Unknown(known) => return unknown(&name, &known).into_response(),
    };
    match take(&ingest, &endpoint, &parameters, request).await {
        Ok(accepted) => Json(accepted).into_response(),
        Err(problem) => {
            endpoint.intake.count_error(problem.kind.counted_as());
            problem.into_response()
        }
    }
}

async fn take(
    ingest: &HttpIngest,
    endpoint: &Arc<Endpoint>,
    parameters: &BTreeMap<String, String>,
    request: Request<Body>,
) -> Result<Accepted, Problem> {
    let on_error = read_parameters(parameters)?;
    let Ok(_permit) = ingest.shared.requests.try_acquire() else {
        return Err(Problem::new(Kind::Busy, "too many requests are in flight; nothing was stored"));
    };
    let (head, sent) = request.into_parts();
    check_content_type(&head.headers, endpoint.encoding)?;
    let is_gzip = read_content_encoding(&head.headers)?;
    body::check_length(content_length(&head.headers))?;

    let mut reservation = Reservation::new(Arc::clone(&ingest.shared.bodies_kib));
    let sent = body::read(sent, ingest.shared.body_time_max, &mut reservation).await?;
    let checked = if is_gzip || sent.len() > BYTES_CHECKED_INLINE_MAX {
        let endpoint = Arc::clone(endpoint);
        let work = move || {
            let payload = if is_gzip { body::inflate(&sent, &mut reservation)? } else { sent };
            // The reservation is kept until the answer: the messages share the body's memory.
            Ok((check(&endpoint, &payload)?, reservation))
        };
        tokio::task::spawn_blocking(work).await.expect("checking a body does not panic")
    } else {
        check(endpoint, &sent).map(|checked| (checked, reservation))
    };
    let (checked, _reservation) = checked?;
    if on_error == OnError::Reject && checked.rejected_count > 0 {
        return Err(bad_rows(checked));
    }
    append(endpoint, checked).await
}

async fn append(endpoint: &Endpoint, checked: Checked) -> Result<Accepted, Problem> {
    let Some(queued) = endpoint.intake.try_append(PARTITION, Chunk::Messages(checked.messages)) else {
        return Err(Problem::new(Kind::Busy, "the ingest log is behind; nothing was stored"));
    };
    let receipt = queued.map_err(refused)?;
    let appended = receipt.await.map_err(refused)?;
    Ok(Accepted {
        position: format!("{}@{}", endpoint.name, appended.next.0),
        rows: checked.row_count,
        rejected: checked.rejected,
        rejected_count: checked.rejected_count,
    })
}

fn refused(error: IntakeError) -> Problem {
    match error {
        IntakeError::Stopping => Problem::new(Kind::NotRunning, "the source is stopping; nothing was stored"),
        IntakeError::TooBig { .. } => {
            Problem::new(Kind::TooLarge, format!("{error}; nothing was stored")).hint("send fewer rows at once")
        }
        IntakeError::LogFailed(_) => {
            Problem::new(Kind::LogFailed, format!("{error}; it is unknown whether the rows are stored"))
        }
    }
}

/// A body as messages, and what the source's decoder says about them.
struct Checked {
    messages: Vec<Message>,
    row_count: usize,
    rejected: Vec<RowError>,
    rejected_count: usize,
}

/// Splits a body and decodes it as the dataflow will do later. Each JSON row is a message of its own, so that a
/// position counts rows; a CSV body stays whole, because its header belongs to every row.
fn check(endpoint: &Endpoint, payload: &Bytes) -> Result<Checked, Problem> {
    if payload.trim_ascii().is_empty() {
        return Err(Problem::new(Kind::EmptyBody, "the body is empty").hint("send at least one row"));
    }
    let mut messages = Vec::new();
    match endpoint.encoding {
        Encoding::Json => {
            let mut row_count = 0;
            split_json(payload, |row| {
                row_count += 1;
                // Over the limit rows are counted only: a message is much larger than the smallest row.
                if row_count <= ROWS_MAX {
                    messages.push(Message::new("", payload.slice(row)));
                }
            });
            if row_count > ROWS_MAX {
                return Err(too_many_rows(row_count));
            }
        }
        _ => {
            messages.push(Message::new("", payload.clone()));
        }
    }
    if endpoint.encoding == Encoding::Json {
        check_row_sizes(&messages)?;
    }
    // Not recorded yet, so without a place: only whether the rows can be used is asked here.
    let data = Data::Messages(messages);
    let decoded = endpoint.format.decoder().decode(&data, &Place::default());
    let Data::Messages(messages) = data else { unreachable!("made of messages above") };
    let row_count = decoded.batches.iter().map(|batch| batch.num_rows()).sum();
    if row_count + decoded.dead.len() > ROWS_MAX {
        return Err(too_many_rows(row_count + decoded.dead.len()));
    }
    let rejected = decoded
        .dead
        .iter()
        .take(ROW_ERRORS_MAX)
        .map(|letter| RowError {
            row: match endpoint.encoding {
                Encoding::Json => letter.message + 1,
                _ => line_of(payload, &letter.payload),
            },
            message: letter.reason.clone(),
        })
        .collect();
    Ok(Checked { messages, row_count, rejected, rejected_count: decoded.dead.len() })
}

fn check_row_sizes(messages: &[Message]) -> Result<(), Problem> {
    match messages.iter().position(|message| message.payload.len() > ROW_BYTES_MAX) {
        None => Ok(()),
        Some(row) => Err(Problem::new(
            Kind::TooLarge,
            format!("row {} has more than {} MiB; nothing was stored", row + 1, ROW_BYTES_MAX >> 20),
        )),
    }
}

/// The number of a CSV row: how many lines stand before it, the header among them.
fn line_of(payload: &[u8], row: &[u8]) -> usize {
    let offset = offset_in(payload, row).unwrap_or(0);
    memchr::memchr_iter(b'\n', &payload[..offset]).count()
}

fn too_many_rows(count: usize) -> Problem {
    Problem::new(
        Kind::TooLarge,
        format!("a request may have {ROWS_MAX} rows, this one has {count}; nothing was stored"),
    )
    .hint("send fewer rows at once")
}

fn bad_rows(checked: Checked) -> Problem {
    let total = checked.row_count + checked.rejected_count;
    let problem = Problem::new(
        Kind::BadRows,
        format!("{} of {total} rows cannot be used; nothing was stored", checked.rejected_count),
    );
    Problem { errors: checked.rejected, ..problem }
        .hint("correct them, or add ?on_error=dead_letter to store the others and keep these as dead letters")
}

fn unknown(name: &str, known: &[String]) -> Problem {
    let problem = Problem::new(Kind::UnknownSource, format!("there is no HTTP source {name:?}"));
    match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => problem.hint(format!("did you mean {near}?")),
        None if known.is_empty() => problem.hint("no source with connector = 'http' runs"),
        None => problem.hint(format!("known are {}", known.join(", "))),
    }
}

fn read_parameters(parameters: &BTreeMap<String, String>) -> Result<OnError, Problem> {
    let mut on_error = OnError::Reject;
    for (key, value) in parameters {
        match (key.as_str(), value.as_str()) {
            ("on_error", "reject") => on_error = OnError::Reject,
            ("on_error", "dead_letter") => on_error = OnError::DeadLetter,
            ("ack", "durable") => {}
            ("on_error", _) => {
                return Err(Problem::new(
                    Kind::Parameter,
                    format!("on_error={value} is not known; nothing was stored"),
                )
                .hint("on_error=reject (the default) or on_error=dead_letter"));
            }
            // A level that is not kept must not be accepted silently.
            ("ack", _) => {
                return Err(Problem::new(Kind::Parameter, format!("ack={value} is not known; nothing was stored"))
                    .hint("ack=durable, which is the default"));
            }
            _ => {
                return Err(Problem::new(
                    Kind::Parameter,
                    format!("the parameter {key} is not known; nothing was stored"),
                )
                .hint("known are on_error and ack"));
            }
        }
    }
    Ok(on_error)
}

fn check_content_type(headers: &HeaderMap, encoding: Encoding) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?").to_owned());
    let given = given.unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    // The form type is what `curl -d` says when nobody tells it otherwise.
    let fits = matches!(essence.as_str(), "" | "application/x-www-form-urlencoded")
        || match encoding {
            Encoding::Json => matches!(
                essence.as_str(),
                "application/json" | "application/x-ndjson" | "application/ndjson" | "application/jsonl"
            ),
            Encoding::Csv { .. } => essence == "text/csv",
            _ => false,
        };
    if fits {
        return Ok(());
    }
    let expected = match encoding {
        Encoding::Csv { .. } => "text/csv",
        _ => "application/x-ndjson or application/json",
    };
    Err(Problem::new(Kind::ContentType, format!("this source does not take {essence}; nothing was stored"))
        .hint(format!("send {expected}")))
}

/// Says whether the body is gzip.
fn read_content_encoding(headers: &HeaderMap) -> Result<bool, Problem> {
    let mut is_gzip = false;
    for value in headers.get_all(header::CONTENT_ENCODING) {
        match value.to_str().unwrap_or("?").trim().to_ascii_lowercase().as_str() {
            "" | "identity" => {}
            "gzip" | "x-gzip" if !is_gzip => is_gzip = true,
            other => {
                return Err(Problem::new(
                    Kind::ContentEncoding,
                    format!("the content encoding {other} is not known; nothing was stored"),
                )
                .hint("use gzip, or none"));
            }
        }
    }
    Ok(is_gzip)
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
