//! `POST /api/v1/ingest/{source}`: what its head says, and how it is answered.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Request, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Serialize;

use super::HttpIngest;
use super::admission::{OnError, Post, Taken};
use super::problem::{Kind, Problem, RowError};
use crate::format::PayloadEncoding;

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

impl From<Taken> for Accepted {
    fn from(taken: Taken) -> Self {
        Accepted {
            position: taken.position(),
            rows: taken.rows,
            rejected: taken.rejected,
            rejected_count: taken.rejected_count,
        }
    }
}

async fn answer(
    State(ingest): State<HttpIngest>,
    Path(name): Path<String>,
    Query(parameters): Query<BTreeMap<String, String>>,
    request: Request<Body>,
) -> Response {
    match take(&ingest, &name, &parameters, request).await {
        Ok(taken) => Json(Accepted::from(taken)).into_response(),
        Err(problem) => problem.into_response(),
    }
}

async fn take(
    ingest: &HttpIngest,
    name: &str,
    parameters: &BTreeMap<String, String>,
    request: Request<Body>,
) -> Result<Taken, Problem> {
    let mut admitted = ingest.admit(name)?;
    let (head, body) = request.into_parts();
    let asked = (|| Ok((read_parameters(parameters)?, content_type(&head.headers, admitted.own_encoding())?)))();
    let (on_error, encoding) = asked.map_err(|problem| admitted.refuse(problem))?;
    let payload = admitted.read(&head.headers, body).await?;
    admitted.append(Post { payload, encoding, on_error }).await
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

/// Reads what a body is; `None` if the client does not say, and it is what the source declares.
fn content_type(headers: &HeaderMap, own: PayloadEncoding) -> Result<Option<PayloadEncoding>, Problem> {
    let given = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?").to_owned());
    let given = given.unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        // The form type is what `curl -d` says when nobody tells it otherwise.
        "" | "application/x-www-form-urlencoded" => Ok(None),
        "application/json" | "application/x-ndjson" | "application/ndjson" | "application/jsonl" => {
            Ok(Some(PayloadEncoding::Json))
        }
        "text/csv" => match own {
            PayloadEncoding::Csv { .. } => Ok(None),
            _ => Ok(Some(PayloadEncoding::Csv { delimiter: b',' })),
        },
        _ => {
            Err(Problem::new(Kind::ContentType, format!("the content type {essence} is not known; nothing was stored"))
                .hint("send application/x-ndjson, application/json or text/csv"))
        }
    }
}
