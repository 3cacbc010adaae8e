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
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::super::HttpIngest;
use super::super::admission::Taken;
use super::super::problem::{Kind, Problem};
use crate::format::{Precision, Protocol};

/// The version of Influx whose write API this is; clients only look whether there is one.
const VERSION: &str = "2.7.0-tidemill";

const VERSION_HEADER: HeaderName = HeaderName::from_static("x-influxdb-version");
const BUILD_HEADER: HeaderName = HeaderName::from_static("x-influxdb-build");
const ERROR_HEADER: HeaderName = HeaderName::from_static("x-influxdb-error");

pub(super) fn router(ingest: HttpIngest) -> axum::Router {
    let not_post = |version: Version| {
        move || async move { version.answer(Err(Problem::new(Kind::Method, "points are sent with POST"))) }
    };
    axum::Router::new()
        .route("/influx/api/v2/write", post(write_v2).fallback(not_post(Version::Two)))
        .route("/influx/write", post(write_v1).fallback(not_post(Version::One)))
        .route("/influx/ping", get(ping))
        .route("/influx/health", get(health))
        .with_state(ingest)
}

/// The versions tell errors in their own ways.
#[derive(Clone, Copy)]
enum Version {
    One,
    Two,
}

async fn ping() -> impl IntoResponse {
    (StatusCode::NO_CONTENT, [(VERSION_HEADER, VERSION), (BUILD_HEADER, "tidemill")])
}

async fn health() -> Json<Value> {
    Json(json!({"name": "influxdb", "message": "ready for writes", "status": "pass", "checks": [], "version": VERSION}))
}

async fn write_v2(
    State(ingest): State<HttpIngest>,
    Query(parameters): Query<BTreeMap<String, String>>,
    request: Request<Body>,
) -> Response {
    let bucket = parameters.get("bucket").cloned();
    let source = bucket.ok_or_else(|| missing("bucket"));
    Version::Two.answer(write(&ingest, source, &parameters, request).await)
}

async fn write_v1(
    State(ingest): State<HttpIngest>,
    Query(parameters): Query<BTreeMap<String, String>>,
    request: Request<Body>,
) -> Response {
    let source = parameters.get("db").ok_or_else(|| missing("db")).map(|database| {
        // A retention policy may have a source of its own.
        let policy = parameters.get("rp").map(|policy| format!("{database}_{policy}"));
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
    let precision = match parameters.get("precision").filter(|word| !word.is_empty()) {
        None => None,
        Some(word) => Some(Precision::named(word).ok_or_else(|| {
            let detail = format!("the precision {word:?} is not known; nothing was stored");
            admitted.refuse(Problem::new(Kind::Parameter, detail).hint("known are ns, us, ms, s, m and h"))
        })?),
    };
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
                let mut response = self.refusal(super::status_of(&problem), &super::line_of(&problem));
                set_headers(response.headers_mut(), &problem);
                response
            }
        }
    }

    fn refusal(self, status: StatusCode, message: &str) -> Response {
        let body = match self {
            Version::One => json!({"error": message}),
            Version::Two => json!({"code": code_of(status), "message": message}),
        };
        let mut response = (status, [(VERSION_HEADER, VERSION)], Json(body)).into_response();
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
    if problem.kind == Kind::Method {
        headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
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
