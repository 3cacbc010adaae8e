//! `POST /api/v1/ingest/{source}`: how a request is taken and answered.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::HttpIngest;
use super::admission::{Ack, Post, Reached, Taken};
use super::api::parameter::Text;
use super::api::{Media, Operation, Verb};
use super::head::Head;
use super::media_type::MediaType;
use super::problem::{Kind, Problem, RowError};

const SOURCE: Text =
    Text { place: "path", name: "source", description: "a source with connector = 'http'", is_required: true };

/// What may be wrong with a request, or with where its rows go.
const REFUSALS: [Kind; 22] = [
    Kind::BadRows,
    Kind::EmptyBody,
    Kind::DamagedBody,
    Kind::BrokenBody,
    Kind::Parameter,
    Kind::Columns,
    Kind::Header,
    Kind::StaleEpoch,
    Kind::UnknownSource,
    Kind::SlowBody,
    Kind::InFlight,
    Kind::SequenceGap,
    Kind::TooLarge,
    Kind::ContentType,
    Kind::ContentEncoding,
    Kind::Reused,
    Kind::TooManyProducers,
    Kind::LogFailed,
    Kind::Busy,
    Kind::NotRunning,
    Kind::ReadOnly,
    Kind::KeysFull,
];

pub(super) fn operation() -> Operation<HttpIngest> {
    Operation::new(Verb::Post, "/api/v1/ingest/{source}", "ingest", answer)
        .other_methods(method_not_allowed)
        .summary("ingest", "Takes rows for a source")
        .parameters(&[&SOURCE])
        .parameters(Head::PARAMETERS)
        .bodies(MediaType::ALL.map(MediaType::media))
        .answer(200, "stored, now or before", [Media::json::<Accepted>("")])
        .answer(202, "not as far as was asked yet: state tells", [Media::json::<Accepted>("")])
        .with_headers(&[("location", "where to ask how far the rows are")])
        .refusals(REFUSALS.map(Kind::refusal))
}

async fn method_not_allowed() -> Response {
    Problem::new(Kind::Method, "rows are sent with POST").into_response()
}

/// What became of the rows.
#[derive(Serialize)]
struct Accepted {
    position: Option<String>,
    rows: usize,
    first_offset: Option<u64>,
    rejected: Vec<RowError>,
    rejected_count: usize,
    state: Reached,
    duplicate: bool,
}

crate::describe!(Accepted as "Taken" {
    position: "the source and the log offset after the last message, for GET /api/v1/positions/{position}",
    rows: "rows that can be used",
    first_offset: "the log offset of the first message",
    rejected: "the first of the others, which are dead letters",
    rejected_count: "how many others there are",
    state: "how far the rows are",
    duplicate: "whether the request had been stored before",
});

impl From<Taken> for Accepted {
    fn from(taken: Taken) -> Self {
        Accepted {
            position: taken.position(),
            first_offset: taken.at.map(|at| at.first.0),
            rows: taken.rows,
            rejected: taken.rejected,
            rejected_count: taken.rejected_count,
            state: taken.reached,
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
