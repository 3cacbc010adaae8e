//! Influx: both versions of its write API, and what clients ask before they write.
//!
//! | | |
//! |---|---|
//! | 204 | every point is durable |
//! | 400 | `partial write`: the lines that are named are dead letters, the others are durable; repeating it would double those |
//! | 404, 413 | nothing was stored; Telegraf halves a batch that is too large |
//! | 503 | nothing was stored: the client repeats it after `Retry-After` seconds |
//! | 500 | unknown: the client repeats it |

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::super::HttpIngest;
use super::super::admission::Taken;
use super::super::api::parameter::{Text, Words};
use super::super::api::{Media, Operation, Verb};
use super::super::problem::{Kind, Problem};
use super::{TAG, refusals};
use crate::format::{Precision, Protocol};

/// The version of Influx whose write API this is; clients only look whether there is one.
const VERSION: &str = "2.7.0-tidemill";

const VERSION_HEADER: HeaderName = HeaderName::from_static("x-influxdb-version");
const BUILD_HEADER: HeaderName = HeaderName::from_static("x-influxdb-build");
const ERROR_HEADER: HeaderName = HeaderName::from_static("x-influxdb-error");

const fn names_source(name: &'static str) -> Text {
    Text { place: "query", name, description: "which source", is_required: true }
}

const BUCKET: Text = names_source("bucket");
const DATABASE: Text = names_source("db");
const POLICY: Text = Text {
    place: "query",
    name: "rp",
    description: "a retention policy: if there is a source db_rp, that one",
    is_required: false,
};
const PRECISION: Words<Precision> =
    Words { name: "precision", description: "what times count", words: &Precision::WORDS };

pub(super) fn operations() -> [Operation<HttpIngest>; 4] {
    let not_post = |version: Version| {
        move || async move { version.answer(Err(Problem::new(Kind::Method, "points are sent with POST"))) }
    };
    let lines = || [Media::bytes("text/plain", "line protocol")];
    let version = &[("x-influxdb-version", "of the write API")];
    [
        Operation::new(Verb::Post, "/influx/api/v2/write", "influx_2", write_v2)
            .other_methods(not_post(Version::Two))
            .summary(TAG, "Takes line protocol, as InfluxDB 2 does")
            .parameters(&[&BUCKET, &PRECISION])
            .bodies(lines())
            .answer(204, "every point is durable", [])
            .with_headers(version)
            .refusals(refusals(vec![Media::json::<Told2>("what was refused, and that the rest is stored if it is")])),
        Operation::new(Verb::Post, "/influx/write", "influx_1", write_v1)
            .other_methods(not_post(Version::One))
            .summary(TAG, "Takes line protocol, as InfluxDB 1 does")
            .parameters(&[&DATABASE, &POLICY, &PRECISION])
            .bodies(lines())
            .answer(204, "every point is durable", [])
            .with_headers(version)
            .refusals(refusals(vec![Media::json::<Told1>("what was refused, and that the rest is stored if it is")])),
        Operation::new(Verb::Get, "/influx/ping", "influx_ping", ping)
            .summary(TAG, "Says to clients of Influx that the program answers")
            .answer(204, "it does", [])
            .with_headers(version),
        Operation::new(Verb::Get, "/influx/health", "influx_health", health)
            .summary(TAG, "Says the same to those of version 2")
            .answer(200, "it does", [Media::json::<Health>("")]),
    ]
}

/// An error, as version 1 tells it.
#[derive(Serialize)]
struct Told1<'m> {
    error: &'m str,
}
crate::describe!(Told1<'m> as "Influx1Error" { error: "what is wrong, and what to do about it" });

/// An error, as version 2 tells it.
#[derive(Serialize)]
struct Told2<'m> {
    code: &'static str,
    message: &'m str,
}
crate::describe!(Told2<'m> as "Influx2Error" {
    code: "one of the words of Influx",
    message: "what is wrong, and what to do about it",
});

/// What clients of version 2 ask before they write.
#[derive(Serialize)]
struct Health {
    name: &'static str,
    message: &'static str,
    status: &'static str,
    checks: [&'static str; 0],
    version: &'static str,
}
crate::describe!(Health as "InfluxHealth" {
    name: "", message: "", status: "always pass", checks: "none", version: "of the write API",
});

/// The versions tell errors in their own ways.
#[derive(Clone, Copy)]
enum Version {
    One,
    Two,
}

async fn ping() -> impl IntoResponse {
    (StatusCode::NO_CONTENT, [(VERSION_HEADER, VERSION), (BUILD_HEADER, "tidemill")])
}

async fn health() -> Json<Health> {
    let message = "ready for writes";
    Json(Health { name: "influxdb", message, status: "pass", checks: [], version: VERSION })
}

async fn write_v2(
    State(ingest): State<HttpIngest>,
    Query(parameters): Query<BTreeMap<String, String>>,
    request: Request<Body>,
) -> Response {
    let bucket = parameters.get(BUCKET.name).cloned();
    let source = bucket.ok_or_else(|| missing(BUCKET.name));
    Version::Two.answer(write(&ingest, source, &parameters, request).await)
}

async fn write_v1(
    State(ingest): State<HttpIngest>,
    Query(parameters): Query<BTreeMap<String, String>>,
    request: Request<Body>,
) -> Response {
    let source = parameters.get(DATABASE.name).ok_or_else(|| missing(DATABASE.name)).map(|database| {
        // A retention policy may have a source of its own.
        let policy = parameters.get(POLICY.name).map(|policy| format!("{database}_{policy}"));
        policy.filter(|name| ingest.knows(name)).unwrap_or_else(|| database.clone())
    });
    Version::One.answer(write(&ingest, source, &parameters, request).await)
}

fn missing(parameter: &str) -> Problem {
    Problem::new(Kind::Parameter, format!("the parameter {parameter} is missing; nothing was stored"))
        .hint(format!("it names the source: ?{parameter}=NAME"))
}

async fn write(
    ingest: &HttpIngest,
    source: Result<String, Problem>,
    parameters: &BTreeMap<String, String>,
    request: Request<Body>,
) -> Result<Taken, Problem> {
    let mut admitted = ingest.admit(&source?)?;
    let word = parameters.get(PRECISION.name).filter(|word| !word.is_empty());
    let precision = word.map(|word| PRECISION.read(word).map_err(|problem| admitted.refuse(problem))).transpose()?;
    let (head, body) = request.into_parts();
    let payload = admitted.read(&head.headers, body).await?;
    // Without a word of the request times are nanoseconds here, whatever other ways into the source count.
    let precision = Some(precision.unwrap_or(Precision::Nanoseconds));
    super::append(admitted, Protocol::LineProtocol { precision }, payload).await
}

impl Version {
    fn answer(self, written: Result<Taken, Problem>) -> Response {
        match written {
            Ok(taken) if taken.rejected_count == 0 => {
                (StatusCode::NO_CONTENT, [(VERSION_HEADER, VERSION)]).into_response()
            }
            Ok(taken) => {
                let named = |error: &super::RowError| format!("line {}: {}", error.row, error.message);
                self.refusal(StatusCode::BAD_REQUEST, &super::rejected(&taken, "lines", named))
            }
            Err(problem) => {
                let mut response = self.refusal(super::status_of(problem.kind), &super::line_of(&problem));
                set_headers(response.headers_mut(), &problem);
                response
            }
        }
    }

    fn refusal(self, status: StatusCode, message: &str) -> Response {
        let told = [(VERSION_HEADER, VERSION)];
        let mut response = match self {
            Version::One => (status, told, Json(Told1 { error: message })).into_response(),
            Version::Two => (status, told, Json(Told2 { code: code_of(status), message })).into_response(),
        };
        // Some clients log this header and never look at the body.
        if let Ok(value) =
            HeaderValue::from_bytes(message.replace(|letter: char| !letter.is_ascii_graphic(), " ").as_bytes())
        {
            response.headers_mut().insert(ERROR_HEADER, value);
        }
        response
    }
}

fn set_headers(headers: &mut HeaderMap, problem: &Problem) {
    if let Some(seconds) = problem.kind.retry_after_s() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
}

/// The words of version 2.
fn code_of(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "not found",
        StatusCode::METHOD_NOT_ALLOWED => "method not allowed",
        StatusCode::PAYLOAD_TOO_LARGE => "request too large",
        StatusCode::TOO_MANY_REQUESTS => "too many requests",
        StatusCode::SERVICE_UNAVAILABLE => "unavailable",
        status if status.is_server_error() => "internal error",
        _ => "invalid",
    }
}
