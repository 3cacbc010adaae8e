//! Problems: what a client gets instead of 200, as RFC 9457 says.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::api::{Refusal, Shape, Told};

/// Row errors that an answer lists; the count is complete.
pub const ROW_ERRORS_MAX: usize = 100;

/// A row that was refused, and why. Rows count from 1; in CSV the header is not counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RowError {
    /// Which row.
    pub row: usize,
    /// Which of the declared columns, if the row could be read as far as that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// What was expected and what was found.
    pub message: String,
}

crate::describe!(RowError {
    row: "from 1; in CSV the header is not counted",
    message: "what was expected and what was found";
    column: "which of the declared columns",
});

/// Why a request was refused: a closed set, each with its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// There is no such source.
    UnknownSource,
    /// The route does not take this method.
    Method,
    /// Some rows cannot be used.
    BadRows,
    /// There are no rows at all.
    EmptyBody,
    /// The body is of a type that is not known, or that the source cannot take.
    ContentType,
    /// The body is encoded in a way that is not known.
    ContentEncoding,
    /// A limit is passed.
    TooLarge,
    /// The body does not end as its encoding wants.
    DamagedBody,
    /// The body did not come in time.
    SlowBody,
    /// The connection broke.
    BrokenBody,
    /// A query parameter or a header is not known, or its value is not.
    Parameter,
    /// Too much is in flight.
    Busy,
    /// The source starts or stops.
    NotRunning,
    /// The disk cannot be written.
    ReadOnly,
    /// The log failed: nobody knows whether the rows are stored.
    LogFailed,
    /// The columns of the body cannot become the declared ones.
    Columns,
    /// A header is not what it should be.
    Header,
    /// The same request, or another one of its producer, is on its way to the log.
    InFlight,
    /// A number of a producer was left out.
    SequenceGap,
    /// The producer has begun a greater epoch.
    StaleEpoch,
    /// A key or a number comes again with another body.
    Reused,
    /// So many producers cannot be remembered.
    TooManyProducers,
    /// So many keys cannot be remembered.
    KeysFull,
    /// There is no such position.
    UnknownPosition,
}

impl Kind {
    /// Status, code, title, and the name under which the source counts it.
    fn facts(self) -> (StatusCode, &'static str, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Kind::UnknownSource => (S::NOT_FOUND, "TM2101", "Unknown source", "unknown_source"),
            Kind::Method => (S::METHOD_NOT_ALLOWED, "TM2102", "Method not allowed", "method"),
            Kind::BadRows => (S::BAD_REQUEST, "TM2103", "Rows cannot be used", "bad_rows"),
            Kind::EmptyBody => (S::BAD_REQUEST, "TM2104", "Empty body", "empty_body"),
            Kind::ContentType => (S::UNSUPPORTED_MEDIA_TYPE, "TM2105", "Unknown content type", "content_type"),
            Kind::ContentEncoding => {
                (S::UNSUPPORTED_MEDIA_TYPE, "TM2106", "Unknown content encoding", "content_encoding")
            }
            Kind::TooLarge => (S::PAYLOAD_TOO_LARGE, "TM2107", "Request too large", "too_large"),
            Kind::DamagedBody => (S::BAD_REQUEST, "TM2108", "Damaged body", "damaged_body"),
            Kind::SlowBody => (S::REQUEST_TIMEOUT, "TM2109", "Body too slow", "slow_body"),
            Kind::BrokenBody => (S::BAD_REQUEST, "TM2110", "Body broken off", "broken_body"),
            Kind::Parameter => (S::BAD_REQUEST, "TM2111", "Unknown parameter value", "parameter"),
            Kind::Busy => (S::SERVICE_UNAVAILABLE, "TM2112", "Too much in flight", "busy"),
            Kind::NotRunning => (S::SERVICE_UNAVAILABLE, "TM2113", "Source not running", "not_running"),
            Kind::LogFailed => (S::INTERNAL_SERVER_ERROR, "TM2114", "Ingest log failed", "log_failed"),
            Kind::ReadOnly => (S::SERVICE_UNAVAILABLE, "TM2115", "Read only", "read_only"),
            Kind::Columns => (S::BAD_REQUEST, "TM2116", "Columns do not fit", "columns"),
            Kind::Header => (S::BAD_REQUEST, "TM2117", "Header cannot be used", "header"),
            Kind::InFlight => (S::CONFLICT, "TM2118", "Request in flight", "in_flight"),
            Kind::SequenceGap => (S::CONFLICT, "TM2119", "Sequence number left out", "sequence_gap"),
            Kind::StaleEpoch => (S::FORBIDDEN, "TM2120", "Epoch is over", "stale_epoch"),
            Kind::Reused => (S::UNPROCESSABLE_ENTITY, "TM2121", "Used for another body", "reused"),
            Kind::TooManyProducers => (S::TOO_MANY_REQUESTS, "TM2122", "Too many producers", "too_many_producers"),
            Kind::KeysFull => (S::SERVICE_UNAVAILABLE, "TM2123", "Too many keys", "keys_full"),
            Kind::UnknownPosition => (S::NOT_FOUND, "TM2124", "Unknown position", "unknown_position"),
        }
    }

    pub(super) fn counted_as(self) -> &'static str {
        self.facts().3
    }

    /// Returns the status.
    pub fn status(self) -> StatusCode {
        self.facts().0
    }

    /// Returns its code, such as `TM2103`.
    pub fn code(self) -> &'static str {
        self.facts().1
    }

    /// Returns what people call it.
    pub fn title(self) -> &'static str {
        self.facts().2
    }

    /// Says how it is told as a problem document.
    pub fn refusal(self) -> Refusal {
        self.told(self.status(), Told::Document(Body::shape))
    }

    /// The same where a route of another protocol tells it in its own way.
    pub(super) fn told(self, status: StatusCode, told: Told) -> Refusal {
        Refusal {
            status: status.as_u16(),
            code: self.code(),
            title: self.title(),
            has_retry_after: self.retry_after_s().is_some(),
            told,
        }
    }

    /// Returns after how many seconds the same request may be taken; `None` if it never is, or must not be repeated blindly.
    pub fn retry_after_s(self) -> Option<u16> {
        match self {
            Kind::Busy | Kind::NotRunning | Kind::InFlight => Some(1),
            Kind::ReadOnly => Some(5),
            Kind::TooManyProducers | Kind::KeysFull => Some(60),
            _ => None,
        }
    }
}

/// A refusal. As a response it is a problem document (RFC 9457); a route of another protocol renders it as its clients
/// expect.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Which of the kinds.
    pub kind: Kind,
    /// What is wrong with this request, and what became of it.
    pub detail: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The rows that cannot be used, at most [`ROW_ERRORS_MAX`].
    pub errors: Vec<RowError>,
    /// The number that a producer should send next.
    pub expected_seq: Option<u64>,
}

impl Problem {
    /// Makes a refusal without a hint.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Problem { kind, detail: detail.into(), hint: None, errors: Vec::new(), expected_seq: None }
    }

    /// Says what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A problem document (RFC 9457).
#[derive(Serialize)]
struct Body<'p> {
    r#type: String,
    title: &'p str,
    status: u16,
    code: &'p str,
    detail: &'p str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'p str>,
    #[serde(skip_serializing_if = "<[RowError]>::is_empty")]
    errors: &'p [RowError],
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_seq: Option<u64>,
}

crate::describe!(Body<'p> as "IngestProblem" {
    r#type = "type": "urn:tidemill:error: and the code",
    title: "what kind of problem it is",
    status: "the status again",
    code: "a code that never changes its meaning, such as TM2103",
    detail: "what is wrong with this request, and what became of it";
    hint: "what to do about it",
    errors: "the first rows that cannot be used",
    expected_seq: "the number that a producer should send next",
});

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, code, title, _) = self.kind.facts();
        let body = Body {
            r#type: format!("urn:tidemill:error:{code}"),
            title,
            status: status.as_u16(),
            code,
            detail: &self.detail,
            hint: self.hint.as_deref(),
            errors: &self.errors,
            expected_seq: self.expected_seq,
        };
        let text = serde_json::to_string(&body).expect("a problem is text and numbers");
        let mut response = (status, text).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.kind.retry_after_s() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
