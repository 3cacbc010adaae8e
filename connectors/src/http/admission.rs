//! The one way into the log for every route, whatever protocol it speaks.
//!
//! ```text
//!   HttpIngest::admit(source) ─► Admitted::read(headers, body) ─► Admitted::append(Post) ─► Taken: durable
//!      404, 503                     400 408 413 415 503      400 403 409 413 415 422 429 500 503
//! ```
//!
//! Each step gives a [`Problem`] instead, and but for [`Kind::LogFailed`] nothing was appended then. A route renders both
//! ends as its clients expect. Who is admitted keeps the source from ending until it is answered.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use axum::body::Body;
use axum::http::HeaderMap;
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};
use tidemill_engine::source::{Appended, Chunk, IntakeError, Message, Note, Offset, Receipt, Stage};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::api::{Components, Shape};
use super::body::{self, Reservation};
use super::content_encoding::ContentEncoding;
use super::once::{Begun, ContentHash, Once, Pass};
use super::problem::{Kind, Problem, RowError};
use super::verdict::{self, Verdict};
use super::{Endpoint, Found, HttpIngest, PARTITION};
use crate::format::PayloadEncoding;
use crate::options::nearest;

/// Bodies up to here are checked where they are received: that takes less than handing them over.
const BYTES_CHECKED_INLINE_MAX: usize = 64 << 10;

/// How often it is asked whether rows are in the tables, while somebody waits for it.
const COMMIT_CHECK: Duration = Duration::from_millis(10);

/// What happens with rows that cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// They refuse the whole request.
    #[default]
    Reject,
    /// They are stored too, and become dead letters.
    DeadLetter,
}

/// What the answer of a request waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// Nothing: its rows are checked and on their way to the log, and a crash may lose them.
    Accepted,
    /// Its rows are durable.
    #[default]
    Durable,
    /// Every table behind its source shows what came of its rows; at most so long.
    Committed(Duration),
}

/// How far the rows of a request are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reached {
    /// On their way to the log.
    Accepted,
    /// Durable.
    #[default]
    Durable,
    /// In the tables.
    Committed,
}

impl Shape for Reached {
    fn shape(_: &mut Components) -> Value {
        json!({"enum": [Reached::Accepted, Reached::Durable, Reached::Committed]})
    }
}

impl From<Stage> for Reached {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Durable => Reached::Durable,
            Stage::Committed => Reached::Committed,
        }
    }
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
    /// Who the request is, if it says so: then it is stored once, however often it comes.
    pub once: Option<Once>,
    /// What the answer waits for.
    pub ack: Ack,
}

/// What became of a request. Without rows there is no place in the log either.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// The source.
    pub source: String,
    /// Where its messages stand in the log; `None` if they are only accepted, or if it is known of a request that came
    /// again only that it is stored.
    pub at: Option<Appended>,
    /// How far its rows are.
    pub reached: Reached,
    /// Whether it had been stored before.
    pub duplicate: bool,
    /// Rows that can be used.
    pub rows: usize,
    /// Rows that are dead letters.
    pub rejected_count: usize,
    /// The first of them.
    pub rejected: Vec<RowError>,
}

impl Taken {
    /// Returns where the request stands, for people and for `GET /api/v1/positions/…`: `source@offset`.
    pub fn position(&self) -> Option<String> {
        self.at.map(|at| format!("{}@{}", self.source, at.next.0))
    }
}

/// A request that its source takes, with its share of what is limited.
pub struct Admitted {
    endpoint: Arc<Endpoint>,
    ingest: HttpIngest,
    reservation: Reservation,
    token: TaskTrackerToken,
    permit: OwnedSemaphorePermit,
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
        Ok(Admitted { endpoint, ingest: self.clone(), reservation, token, permit })
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
        let sent = body::read(body, headers, self.ingest.shared.body_time_max, &mut self.reservation).await?;
        if encoding == ContentEncoding::Identity {
            return Ok(sent);
        }
        let mut reservation = self.reservation.take();
        let (inflated, reservation) = blocking(move || (encoding.undo(sent, &mut reservation), reservation)).await;
        self.reservation = reservation;
        inflated
    }

    /// Checks the rows of a request, appends them as one piece, and waits for what the request wants to wait for.
    ///
    /// # Errors
    /// 400, 403, 409, 413, 415, 422, 429 or 503, and nothing was stored; or 500, and it is unknown whether something was.
    pub async fn append(self, post: Post) -> Result<Taken, Problem> {
        let Admitted { endpoint, ingest, reservation, token, permit } = self;
        let ack = post.ack;
        let mut taken = append(&ingest, &endpoint, post).await.map_err(|problem| endpoint.counted(problem))?;
        // What it held is the log's now, and nobody has to wait for it any more.
        drop((reservation, permit, token));
        if let (Ack::Committed(wait), Some(at)) = (ack, taken.at) {
            taken.reached = endpoint.committed(at.next, wait).await.map_or(Reached::Durable, Reached::from);
        }
        Ok(taken)
    }
}

impl Endpoint {
    fn counted(&self, problem: Problem) -> Problem {
        self.intake.count_error(problem.kind.counted_as());
        problem
    }

    /// Waits until what came of the messages before an offset is in the tables, at most so long and not when the source
    /// stops. Returns how far they are then; `None` if the log has not so many.
    pub(super) async fn committed(&self, before: Offset, wait: Duration) -> Option<Stage> {
        let committed = async {
            while self.intake.stage(before)? != Stage::Committed {
                tokio::time::sleep(COMMIT_CHECK).await;
            }
            Some(Stage::Committed)
        };
        tokio::select! {
            stage = committed => stage,
            () = tokio::time::sleep(wait) => self.intake.stage(before),
            () = self.stop.cancelled() => self.intake.stage(before),
        }
    }
}

async fn append(ingest: &HttpIngest, endpoint: &Arc<Endpoint>, post: Post) -> Result<Taken, Problem> {
    let encoding = post.encoding.unwrap_or(endpoint.format.own());
    let Post { payload, on_error, once, ack, .. } = post;
    let once = once.map(|once| (once, ContentHash::of(&payload, encoding, on_error)));
    // What brings its schema along may be much larger than it looks.
    let verdict = if payload.len() > BYTES_CHECKED_INLINE_MAX || encoding.of_body(&payload).enclosed().is_some() {
        let endpoint = Arc::clone(endpoint);
        let _turn = ingest.shared.checks.acquire().await.expect("the semaphore is never closed");
        blocking(move || verdict::of(&endpoint.format, encoding, &payload)).await?
    } else {
        verdict::of(&endpoint.format, encoding, &payload)?
    };
    let Verdict { messages, columns, rows, rejected, rejected_count } = verdict;
    if on_error == OnError::Reject && rejected_count > 0 {
        return Err(verdict::refused(rows, rejected, rejected_count));
    }
    if rows + rejected_count == 0 {
        // What some protocols send: comments, or only what is known about metrics.
        return Ok(Taken { source: endpoint.name.clone(), ..Taken::default() });
    }
    let source = endpoint.name.clone();
    let taken = |at: Option<Appended>, reached, duplicate| Taken {
        source,
        at,
        reached,
        duplicate,
        rows,
        rejected_count,
        rejected,
    };
    let durable = match once {
        None => queue(endpoint, chunk_of(messages, Vec::new(), columns))?,
        Some((once, hash)) => {
            let begun = endpoint.ledger.lock().begin(&once, hash, endpoint.clock.now_us())?;
            match begun {
                Begun::Again(at) => return Ok(taken(at, Reached::Durable, true)),
                Begun::New(pass, notes) => queue_once(endpoint, pass, chunk_of(messages, notes, columns))?,
            }
        }
    };
    if ack == Ack::Accepted {
        return Ok(taken(None, Reached::Accepted, false));
    }
    let at = durable.await.map_err(refused)?;
    Ok(taken(Some(at), Reached::Durable, false))
}

fn chunk_of(messages: Vec<Message>, notes: Vec<Note>, columns: Option<Vec<RecordBatch>>) -> Chunk {
    match columns {
        Some(columns) => Chunk::Decoded { messages, notes, columns },
        None if notes.is_empty() => Chunk::Messages(messages),
        None => Chunk::Noted(messages, notes),
    }
}

fn queue(endpoint: &Endpoint, chunk: Chunk) -> Result<Receipt, Problem> {
    match endpoint.intake.try_append(PARTITION, chunk) {
        None => Err(Problem::new(Kind::Busy, "the ingest log is behind; nothing was stored")),
        Some(queued) => queued.map_err(refused),
    }
}

/// The same for a request that names itself. Its fate is noted also if nobody waits for the answer any more: the client that
/// went away is the one that will ask again.
fn queue_once(endpoint: &Arc<Endpoint>, pass: Pass, chunk: Chunk) -> Result<Receipt, Problem> {
    let receipt = match queue(endpoint, chunk) {
        Ok(receipt) => receipt,
        Err(problem) => {
            endpoint.ledger.lock().never(pass);
            return Err(problem);
        }
    };
    let (endpoint, token) = (Arc::clone(endpoint), endpoint.requests.token());
    let noting = tokio::spawn(async move {
        let appended = receipt.await;
        match &appended {
            Ok(at) => endpoint.ledger.lock().done(pass, *at),
            // The log has failed, and with it this endpoint: the next one asks the log.
            Err(IntakeError::LogFailed(_)) => {}
            Err(_) => endpoint.ledger.lock().never(pass),
        }
        drop(token);
        appended
    });
    Ok(Box::pin(async { noting.await.unwrap_or(Err(IntakeError::Stopping)) }))
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

pub(super) fn unknown(name: &str, known: &[String]) -> Problem {
    let problem = Problem::new(Kind::UnknownSource, format!("there is no HTTP source {name:?}"));
    match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => problem.hint(format!("did you mean {near}?")),
        None if known.is_empty() => problem.hint("no source with connector = 'http' runs"),
        None => problem.hint(format!("known are {}", known.join(", "))),
    }
}
