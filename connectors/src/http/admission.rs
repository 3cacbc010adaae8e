//! The one way into the log for every route, whatever protocol it speaks.
//!
//! ```text
//!   HttpIngest::admit(source) ─► Admitted::read(headers, body) ─► Admitted::append(Post) ─► Taken: durable
//!      404, 503                     400 408 413 415 503               400 413 415 500 503
//! ```
//!
//! Each step gives a [`Problem`] instead, and but for [`Kind::LogFailed`] nothing was appended then. A route renders both
//! ends as its clients expect. Who is admitted keeps the source from ending until it is answered.

use std::sync::Arc;

use axum::body::Body;
use axum::http::HeaderMap;
use bytes::Bytes;
use tidemill_engine::source::{Chunk, IntakeError, Offset};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::body::{self, Reservation};
use super::content_encoding::ContentEncoding;
use super::problem::{Kind, Problem, RowError};
use super::verdict::{self, Verdict};
use super::{Endpoint, Found, HttpIngest, PARTITION};
use crate::format::PayloadEncoding;
use crate::options::nearest;

/// Bodies up to here are checked where they are received: that takes less than handing them over.
const BYTES_CHECKED_INLINE_MAX: usize = 64 << 10;

/// What happens with rows that cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// They refuse the whole request.
    #[default]
    Reject,
    /// They are stored too, and become dead letters.
    DeadLetter,
}

/// What a request brings.
#[derive(Clone, Debug, Default)]
pub struct Post {
    /// The body, with its content encoding undone.
    pub payload: Bytes,
    /// The encoding of the body; `None`: as the source declares.
    pub encoding: Option<PayloadEncoding>,
    /// What happens with rows that cannot be used.
    pub on_error: OnError,
}

/// What became of a request: its rows are durable. Without rows there is no place in the log either.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// The source.
    pub source: String,
    /// The log offset of the request's first message.
    pub first: Offset,
    /// The log offset behind its last message.
    pub next: Offset,
    /// Rows that can be used.
    pub rows: usize,
    /// Rows that are dead letters.
    pub rejected_count: usize,
    /// The first of them.
    pub rejected: Vec<RowError>,
}

impl Taken {
    /// Returns where the request stands, for people and for `GET /api/v1/positions/…`: `source@offset`.
    pub fn position(&self) -> String {
        format!("{}@{}", self.source, self.next.0)
    }
}

/// A request that its source takes, with its share of what is limited.
pub struct Admitted {
    endpoint: Arc<Endpoint>,
    ingest: HttpIngest,
    reservation: Reservation,
    _token: TaskTrackerToken,
    _permit: OwnedSemaphorePermit,
}

impl HttpIngest {
    /// Lets a request for a source in. To be asked before anything of its body is read: a client that waits for
    /// `100 Continue` sends none of it in vain then.
    ///
    /// # Errors
    /// 404 if there is no such source, 503 while it does not run or too many requests are in flight.
    pub fn admit(&self, source: &str) -> Result<Admitted, Problem> {
        let (endpoint, token) = match self.find(source) {
            Found::Running(endpoint, token) => (endpoint, token),
            Found::NotRunning(state) => {
                return Err(Problem::new(Kind::NotRunning, format!("source {source} {state}; nothing was stored")));
            }
            Found::Refused(why) => {
                return Err(Problem::new(Kind::ReadOnly, format!("{why}; nothing was stored"))
                    .hint("send it again later: it is taken as soon as the data folder can be written again"));
            }
            Found::Unknown(known) => return Err(unknown(source, &known)),
        };
        let Ok(permit) = Arc::clone(&self.shared.requests).try_acquire_owned() else {
            let problem = Problem::new(Kind::Busy, "too many requests are in flight; nothing was stored");
            return Err(endpoint.counted(problem));
        };
        let reservation = Reservation::new(Arc::clone(&self.shared.bodies_kib));
        Ok(Admitted { endpoint, ingest: self.clone(), reservation, _token: token, _permit: permit })
    }
}

impl Admitted {
    /// Returns the encoding of bodies that say nothing else.
    pub fn own_encoding(&self) -> PayloadEncoding {
        self.endpoint.format.own()
    }

    /// Returns a problem with this request, counted among the errors of its source.
    pub fn refuse(&self, problem: Problem) -> Problem {
        self.endpoint.counted(problem)
    }

    /// Reads the body and undoes its content encoding, within limits of time, bytes and memory.
    ///
    /// # Errors
    /// 400, 408, 413, 415 or 503; nothing was stored.
    pub async fn read(&mut self, headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
        let read = self.read_within_limits(headers, body).await;
        read.map_err(|problem| self.endpoint.counted(problem))
    }

    async fn read_within_limits(&mut self, headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
        let encoding = ContentEncoding::of(headers)?;
        body::check_length(headers)?;
        let sent = body::read(body, self.ingest.shared.body_time_max, &mut self.reservation).await?;
        if encoding == ContentEncoding::Identity {
            return Ok(sent);
        }
        let mut reservation = self.reservation.take();
        let (inflated, reservation) = blocking(move || (encoding.undo(sent, &mut reservation), reservation)).await;
        self.reservation = reservation;
        inflated
    }

    /// Checks the rows of a request, appends them as one piece, and waits until they are durable.
    ///
    /// # Errors
    /// 400, 413, 415 or 503, and nothing was stored; or 500, and it is unknown whether something was.
    pub async fn append(self, post: Post) -> Result<Taken, Problem> {
        let appended = append(&self.endpoint, post).await;
        appended.map_err(|problem| self.endpoint.counted(problem))
    }
}

impl Endpoint {
    fn counted(&self, problem: Problem) -> Problem {
        self.intake.count_error(problem.kind.counted_as());
        problem
    }
}

async fn append(endpoint: &Arc<Endpoint>, post: Post) -> Result<Taken, Problem> {
    let encoding = post.encoding.unwrap_or(endpoint.format.own());
    let verdict = if post.payload.len() > BYTES_CHECKED_INLINE_MAX {
        let (endpoint, payload) = (Arc::clone(endpoint), post.payload);
        blocking(move || verdict::of(&endpoint.format, encoding, &payload)).await?
    } else {
        verdict::of(&endpoint.format, encoding, &post.payload)?
    };
    let Verdict { messages, rows, rejected, rejected_count } = verdict;
    if post.on_error == OnError::Reject && rejected_count > 0 {
        return Err(verdict::refused(rows, rejected, rejected_count));
    }
    if rows + rejected_count == 0 {
        // What some protocols send: comments, or only what is known about metrics.
        return Ok(Taken { source: endpoint.name.clone(), ..Taken::default() });
    }
    let Some(queued) = endpoint.intake.try_append(PARTITION, Chunk::Messages(messages)) else {
        return Err(Problem::new(Kind::Busy, "the ingest log is behind; nothing was stored"));
    };
    let receipt = queued.map_err(refused)?;
    let appended = receipt.await.map_err(refused)?;
    Ok(Taken {
        source: endpoint.name.clone(),
        first: appended.first,
        next: appended.next,
        rows,
        rejected_count,
        rejected,
    })
}

/// Computes where it is nobody's turn to wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("working on a body does not panic")
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

fn unknown(name: &str, known: &[String]) -> Problem {
    let problem = Problem::new(Kind::UnknownSource, format!("there is no HTTP source {name:?}"));
    match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => problem.hint(format!("did you mean {near}?")),
        None if known.is_empty() => problem.hint("no source with connector = 'http' runs"),
        None => problem.hint(format!("known are {}", known.join(", "))),
    }
}
