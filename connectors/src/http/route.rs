//! `POST /api/v1/ingest/{source}`: how a request is taken and answered.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Serialize;

use super::HttpIngest;
use super::admission::{Ack, Post, Reached, Taken};
use super::head::Head;
use super::problem::{Kind, Problem, RowError};

pub(super) fn router(ingest: HttpIngest) -> axum::Router {
    axum::Router::new().route("/api/v1/ingest/{source}", post(answer).fallback(method_not_allowed)).with_state(ingest)
}

async fn method_not_allowed() -> Response {
    Problem::new(Kind::Method, "rows are sent with POST").with_allow("POST")
}

/// What became of the rows.
#[derive(Serialize)]
struct Accepted {
    /// The source and the log offset after the request's last message, for `GET /api/v1/positions/…`.
    position: Option<String>,
    /// Rows that can be used.
    rows: usize,
    /// The log offset of its first message.
    first_offset: Option<u64>,
    /// The first of the others, which are dead letters.
    rejected: Vec<RowError>,
    /// How many others there are.
    rejected_count: usize,
    /// `accepted`, `durable` or `committed`.
    state: &'static str,
    /// Whether the request had been stored before.
    duplicate: bool,
}

impl From<Taken> for Accepted {
    fn from(taken: Taken) -> Self {
        Accepted {
            position: taken.position(),
            first_offset: taken.at.map(|at| at.first.0),
            rows: taken.rows,
            rejected: taken.rejected,
            rejected_count: taken.rejected_count,
            state: taken.reached.name(),
            duplicate: taken.duplicate,
        }
    }
}

/// Takes rows for a source. 200 means that they are durable, or in the tables if that was asked for.
async fn answer(
    State(ingest): State<HttpIngest>,
    name: Result<Path<String>, PathRejection>,
    parameters: Result<Query<BTreeMap<String, String>>, QueryRejection>,
    request: Request<Body>,
) -> Response {
    match take(&ingest, name, parameters, request).await {
        Ok((ack, taken)) => accepted(ack, taken),
        Err(problem) => problem.into_response(),
    }
}

/// 200 if the rows are as far as the client wanted to wait for, 202 if not.
fn accepted(ack: Ack, taken: Taken) -> Response {
    let is_reached = match ack {
        Ack::Accepted => taken.reached != Reached::Accepted,
        Ack::Durable => true,
        Ack::Committed(_) => taken.reached == Reached::Committed,
    };
    let status = if is_reached { StatusCode::OK } else { StatusCode::ACCEPTED };
    let location = taken.position().filter(|_| !is_reached).map(|position| format!("/api/v1/positions/{position}"));
    let mut response = (status, Json(Accepted::from(taken))).into_response();
    if let Some(location) = location.and_then(|location| HeaderValue::try_from(location).ok()) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

async fn take(
    ingest: &HttpIngest,
    name: Result<Path<String>, PathRejection>,
    parameters: Result<Query<BTreeMap<String, String>>, QueryRejection>,
    request: Request<Body>,
) -> Result<(Ack, Taken), Problem> {
    let name = name.map_err(|error| Problem::new(Kind::UnknownSource, error.body_text()))?.0;
    let mut admitted = ingest.admit(&name)?;
    let (head, body) = request.into_parts();
    let parameters = parameters.map_err(|error| Problem::new(Kind::Parameter, error.body_text()));
    let asked = parameters.and_then(|Query(given)| Head::read(&given, &head.headers, admitted.own_encoding()));
    let Head { on_error, ack, encoding, once } = asked.map_err(|problem| admitted.refuse(problem))?;
    let payload = admitted.read(&head.headers, body).await?;
    let taken = admitted.append(Post { payload, encoding, on_error, once, ack }).await?;
    Ok((ack, taken))
}
