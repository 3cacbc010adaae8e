//! Routes for programs that already send elsewhere: they change their URL and nothing else.
//!
//! | route | protocol | source |
//! |---|---|---|
//! | `POST /influx/api/v2/write`, `POST /influx/write` | Influx line protocol | `bucket`, `db` |
//! | `POST /prom/api/v1/write` | Prometheus remote write 1 and 2 | `source`, or the one with this format |
//! | `POST /otlp/v1/metrics`, `POST /otlp/v1/logs` | OTLP over HTTP | the same |
//!
//! All of them go through [`admission`](super::admission): the answer says that the request is durable. They differ from
//! `/api/v1/ingest` in one thing. These clients drop what is refused, and nobody reads their logs: so points that cannot be
//! used do not refuse the others. They are stored with them, become dead letters, and are named in the answer. Only a body
//! that is not of its protocol at all is refused whole.

mod influx;
mod otlp;
mod prometheus;

use axum::http::StatusCode;
use bytes::Bytes;

use super::HttpIngest;
use super::admission::{Admitted, OnError, Post, Taken};
use super::api::parameter::Text;
use super::api::{Api, Media, Refusal, Told};
use super::problem::{Kind, Problem, RowError};
use crate::format::{PayloadEncoding, Protocol};

/// Errors of rows that an answer in one line of text names.
const ROWS_NAMED_MAX: usize = 10;
/// Bodies up to here are looked at where they are received.
const BYTES_CHECKED_INLINE_MAX: usize = 64 << 10;

/// The heading under which they stand in the description.
const TAG: &str = "protocols";

/// Which source, where its name is not part of the protocol.
const SOURCE: Text = Text {
    place: "query",
    name: "source",
    description: "which source, if there is more than one of this protocol",
    is_required: false,
};

/// What may be wrong with a request of any protocol, or with where its points go.
const REFUSALS: [Kind; 13] = [
    Kind::BadRows,
    Kind::EmptyBody,
    Kind::DamagedBody,
    Kind::BrokenBody,
    Kind::Parameter,
    Kind::UnknownSource,
    Kind::TooLarge,
    Kind::ContentType,
    Kind::ContentEncoding,
    Kind::LogFailed,
    Kind::Busy,
    Kind::NotRunning,
    Kind::ReadOnly,
];

pub(super) fn api() -> Api<HttpIngest> {
    Api::new(influx::operations()).and(Api::new([prometheus::operation()])).and(Api::new(otlp::operations()))
}

/// The refusals of a protocol that tells them in these ways.
fn refusals(told: Vec<Media>) -> impl Iterator<Item = Refusal> {
    let kinds = REFUSALS.into_iter().chain([Kind::SlowBody]);
    kinds.map(move |kind| kind.told(status_of(kind), Told::As(told.clone())))
}

/// Finds the source that a request is for: the one it names, or the only one of its protocol.
fn source_of(ingest: &HttpIngest, named: Option<&String>, protocol: Protocol) -> Result<String, Problem> {
    if let Some(name) = named {
        return Ok(name.clone());
    }
    let mut names = ingest.names_of(PayloadEncoding::Telemetry(protocol));
    match (names.len(), names.pop()) {
        (1, Some(name)) => Ok(name),
        (0, _) => {
            let detail = format!("no source has format = '{}'; nothing was stored", protocol.word());
            let hint = "create one with connector = 'http', or name another HTTP source: ?source=NAME";
            Err(Problem::new(Kind::UnknownSource, detail).hint(hint))
        }
        (_, last) => {
            names.extend(last);
            let detail = format!("{} sources have format = '{}'; nothing was stored", names.len(), protocol.word());
            Err(Problem::new(Kind::Parameter, detail).hint(format!("say which: ?source= one of {}", names.join(", "))))
        }
    }
}

/// Refuses a body that is not of its protocol at all, and stores all others.
async fn append(admitted: Admitted, protocol: Protocol, payload: Bytes) -> Result<Taken, Problem> {
    let checked = if payload.len() > BYTES_CHECKED_INLINE_MAX {
        let payload = payload.clone();
        let check = move || protocol.check_body(&payload);
        tokio::task::spawn_blocking(check).await.expect("looking at a body does not panic")
    } else {
        protocol.check_body(&payload)
    };
    if let Err(problem) = checked {
        return Err(admitted.refuse(Problem::new(Kind::BadRows, format!("{problem}; nothing was stored"))));
    }
    let encoding = Some(PayloadEncoding::Telemetry(protocol));
    admitted.append(Post { payload, encoding, on_error: OnError::DeadLetter, ..Post::default() }).await
}

/// Returns the status that makes these clients do the right thing: many repeat a request after no other 4xx than 429, and
/// a body that came too slowly can be sent again.
fn status_of(kind: Kind) -> StatusCode {
    match kind {
        Kind::SlowBody => StatusCode::SERVICE_UNAVAILABLE,
        kind => kind.status(),
    }
}

/// Says in one line what is wrong, and what to do about it.
fn line_of(problem: &Problem) -> String {
    match &problem.hint {
        Some(hint) => format!("{}: {hint}", problem.detail),
        None => problem.detail.clone(),
    }
}

/// Says in one line which rows are dead letters; `what` are they.
fn rejected(taken: &Taken, what: &str, named: impl Fn(&RowError) -> String) -> String {
    let total = taken.rows + taken.rejected_count;
    let mut text = format!(
        "partial write: {} of {total} {what} cannot be used and are dead letters of {}, the others are stored",
        taken.rejected_count, taken.source
    );
    for error in taken.rejected.iter().take(ROWS_NAMED_MAX) {
        text.push_str("; ");
        text.push_str(&named(error));
    }
    if taken.rejected_count > ROWS_NAMED_MAX {
        text.push_str("; …");
    }
    text
}

#[cfg(test)]
mod tests;
