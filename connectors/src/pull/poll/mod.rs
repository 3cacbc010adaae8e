//! `connector = 'http_poll'`: asks one URL or several for their answer, again and again.
//!
//! ```text
//!              ┌──────────────────── next beat of `interval` ◄────────────────────────┐
//!              ▼                                                                      │
//!   beat ─► breaker ─► GET ─► 200 ─► body of at most BODY_BYTES_MAX ─► changed? ─► append ─► durable
//!              ▲        │      │ 204, 304: nothing new                    │ no: nothing
//!              │        ▼      ▼
//!              └── failed: again after 100 ms … 30 s, half of it by chance, however long the interval is
//! ```
//!
//! Each target is a partition and has a beat of its own, which begins at a moment that the dice choose: so they are not all asked
//! together. A beat that comes while an answer is awaited is left out; there is never more than one request to a target. A body is one message,
//! which may hold many rows.
//!
//! **`emit = 'changed'`** appends an answer only if its body differs from the last one that was appended of that target. What
//! is compared is a hash, which is a note in the log record of the body itself (`memory.rs`): so after a crash the comparison is with what
//! the log has, and with nothing else. With it requests are conditional, if the server says ETag or Last-Modified.
//! With `emit = 'all'` they are not: each answer is wanted, also one that says the same as before.
//!
//! **`format = 'prometheus'`** is a scrape. Each one is followed by a report of its own, in the same format, as Prometheus has it:
//! `up` is 1, or 0 if the target did not answer, so that a target that is down is a row and not the absence of one.

mod memory;
mod report;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, HeaderName, HeaderValue};
use tidemill_engine::source::{
    Chunk, Intake, IntakeError, Message, Note, Resume, Source, SourceError, Stop, TargetStatus,
};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout};

use super::fetch::{Answer, get};
use super::site::{Scheme, Site, Target};
use super::target::{Failure, Health, Own};
use crate::Context;
use crate::format::{Encoding, Protocol};
use crate::options::{OptionError, Options};
use memory::Memory;

/// Bytes of one answer, inflated.
pub const BODY_BYTES_MAX: usize = 8 << 20;
/// Answers that are read at once, over all targets of a source: so many bodies are in memory.
const POLLS_AT_ONCE_MAX: usize = 16;
/// Within this time all targets are asked for the first time.
const FIRST_WITHIN: Duration = Duration::from_secs(1);

const INTERVAL_DEFAULT: Duration = Duration::from_secs(10);
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
const TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// Which answers are appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Emit {
    All,
    Changed,
}

/// What an answer is asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// JSON, in any of its forms.
    Json,
    /// CSV.
    Csv,
    /// Prometheus' text format: a scrape.
    Prometheus,
    /// Any other text.
    Text,
}

impl Wanted {
    /// Returns what is asked for where an encoding is to be read.
    pub fn of(encoding: Encoding) -> Wanted {
        match encoding {
            Encoding::Json => Wanted::Json,
            Encoding::Csv { .. } => Wanted::Csv,
            Encoding::Telemetry(Protocol::Exposition) => Wanted::Prometheus,
            Encoding::Telemetry(_)
            | Encoding::Parquet
            | Encoding::Text
            | Encoding::Raw
            | Encoding::Avro
            | Encoding::Protobuf
            | Encoding::Arrow => Wanted::Text,
        }
    }

    fn accept(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Wanted::Json => "application/json, application/x-ndjson;q=0.9, */*;q=0.1",
            Wanted::Csv => "text/csv, text/*;q=0.5, */*;q=0.1",
            Wanted::Text => "text/plain, */*;q=0.1",
            Wanted::Prometheus => "text/plain;version=0.0.4, text/plain;q=0.5, */*;q=0.1",
        })
    }
}

/// A source that asks again and again.
pub struct HttpPollSource {
    shared: Arc<Shared>,
}

struct Shared {
    own: Own,
    site: Site,
    interval: Duration,
    timeout: Duration,
    emit: Emit,
    wanted: Wanted,
    room: Semaphore,
}

/// Makes the source from its options; does no I/O.
pub fn http_poll(
    name: &str,
    options: &mut Options,
    wanted: Wanted,
    context: &Context,
) -> Result<HttpPollSource, OptionError> {
    let site = Site::take(options, Scheme::Http, context)?;
    let shared = Shared {
        own: Own::new(name, context, site.targets.len()),
        site,
        interval: take_between(options, "interval", INTERVAL_MIN, INTERVAL_MAX)?.unwrap_or(INTERVAL_DEFAULT),
        timeout: take_timeout(options)?,
        emit: options.choice("emit", &[("all", Emit::All), ("changed", Emit::Changed)])?.unwrap_or(Emit::All),
        wanted,
        room: Semaphore::new(POLLS_AT_ONCE_MAX),
    };
    Ok(HttpPollSource { shared: Arc::new(shared) })
}

/// Takes how long a request may take: for what is polled with its answer, else with the answer's head.
pub(super) fn take_timeout(options: &mut Options) -> Result<Duration, OptionError> {
    Ok(take_between(options, "timeout", Duration::from_millis(1), TIMEOUT_MAX)?.unwrap_or(TIMEOUT_DEFAULT))
}

/// Takes a duration between two bounds.
pub(super) fn take_between(
    options: &mut Options,
    key: &'static str,
    min: Duration,
    max: Duration,
) -> Result<Option<Duration>, OptionError> {
    match options.duration(key)? {
        Some(value) if value < min || value > max => {
            Err(OptionError::new(key, format!("{value:?} is not between {min:?} and {} s", max.as_secs())))
        }
        value => Ok(value),
    }
}

#[async_trait::async_trait]
impl Source for HttpPollSource {
    fn bounded(&self) -> bool {
        false
    }

    async fn run(&self, intake: Arc<dyn Intake>, resume: Vec<Resume>, stop: Stop) -> Result<(), SourceError> {
        let shared = &self.shared;
        let task = |number: usize, health: Health, resume: Option<Resume>, stop: Stop| {
            let poller = Poller {
                shared: Arc::clone(shared),
                target: shared.site.targets[number].clone(),
                memory: Memory::recall(resume.as_ref().map(|resume| &resume.notes)),
                health,
            };
            poller.run(stop)
        };
        shared.own.run(&shared.site.targets, intake, resume, &stop, task).await
    }

    fn targets(&self) -> Vec<TargetStatus> {
        self.shared.own.status(&self.shared.site.targets)
    }
}

/// Asks one target.
struct Poller {
    shared: Arc<Shared>,
    target: Target,
    memory: Memory,
    health: Health,
}

/// What an answer came to.
enum Polled {
    /// There is nothing that was not there before.
    NothingNew,
    /// A body, and what to note of it.
    Body(Bytes, Memory),
}

impl Poller {
    async fn run(mut self, stop: Stop) -> Result<(), SourceError> {
        let interval = self.shared.interval;
        let mut next = Instant::now() + self.health.part_of(interval.min(FIRST_WITHIN));
        // All first requests are sent within a second; the beat of each target is found by chance again.
        let mut beat = next + self.health.part_of(interval);
        // While it fails, a scrape reports with each beat that it does, whether the breaker lets an attempt through or not.
        let mut report_at: Option<Instant> = None;
        loop {
            let until = report_at.map_or(next, |report_at| report_at.min(next));
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = sleep_until(until) => {}
            }
            if until < next {
                report_at = Some(until + interval);
                if self.append(vec![report::down()], Vec::new(), &stop).await? == Stopped::Yes {
                    return Ok(());
                }
                continue;
            }
            let begun_us = self.health.now_us();
            let (messages, notes) = match self.poll(&stop).await {
                None => return Ok(()),
                Some(Ok(polled)) => {
                    report_at = None;
                    while beat <= Instant::now() {
                        beat += interval;
                    }
                    next = beat;
                    let (mut messages, notes) = self.taken(polled);
                    if self.shared.wanted == Wanted::Prometheus {
                        messages.push(report::up(self.health.now_us() - begun_us));
                    }
                    (messages, notes)
                }
                Some(Err(failure)) => {
                    // The wait begins when the failure is noted: asked before, the clock would end it too early.
                    let wait = self.health.failed(&failure);
                    next = Instant::now() + wait;
                    if self.shared.wanted != Wanted::Prometheus || report_at.is_some() {
                        continue;
                    }
                    report_at = Some(Instant::now() + interval);
                    (vec![report::down()], Vec::new())
                }
            };
            if self.append(messages, notes, &stop).await? == Stopped::Yes {
                return Ok(());
            }
        }
    }

    /// Asks once; `None` when it is to stop.
    async fn poll(&mut self, stop: &Stop) -> Option<Result<Polled, Failure>> {
        let asked = async {
            let _room = self.shared.room.acquire().await.expect("it is never closed");
            self.health.attempt();
            match timeout(self.shared.timeout, self.ask()).await {
                Ok(polled) => polled,
                Err(_) => Err(Failure::new("timeout", format!("no answer within {:?}", self.shared.timeout))),
            }
        };
        let polled = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            polled = asked => polled,
        };
        if polled.is_ok() {
            self.health.connected();
            self.health.succeeded();
        }
        Some(polled)
    }

    async fn ask(&self) -> Result<Polled, Failure> {
        let mut ask: Vec<(HeaderName, HeaderValue)> =
            vec![(ACCEPT, self.shared.wanted.accept()), (ACCEPT_ENCODING, HeaderValue::from_static("gzip"))];
        if self.shared.emit == Emit::Changed {
            ask.extend(self.memory.conditions());
        }
        let answer = get(&self.shared.site, &self.target.url, &ask).await?;
        match answer.status {
            StatusCode::NO_CONTENT => Ok(Polled::NothingNew),
            StatusCode::NOT_MODIFIED if self.memory.is_some() => Ok(Polled::NothingNew),
            StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION => self.read(answer).await,
            _ => Err(answer.refused()),
        }
    }

    async fn read(&self, answer: Answer) -> Result<Polled, Failure> {
        let headers = answer.headers.clone();
        let body = answer.whole(BODY_BYTES_MAX).await?;
        if body.trim_ascii().is_empty() {
            return Ok(Polled::NothingNew);
        }
        let memory = Memory::of(&body, &headers);
        Ok(Polled::Body(body, memory))
    }

    /// Decides what is appended of an answer.
    fn taken(&mut self, polled: Polled) -> (Vec<Message>, Vec<Note>) {
        match (polled, self.shared.emit) {
            (Polled::NothingNew, _) => (Vec::new(), Vec::new()),
            (Polled::Body(body, _), Emit::All) => (vec![Message::new("", body)], Vec::new()),
            (Polled::Body(_, memory), Emit::Changed) if memory.is_same_body(&self.memory) => (Vec::new(), Vec::new()),
            (Polled::Body(body, memory), Emit::Changed) => {
                let notes = memory.notes(&self.memory);
                self.memory = memory;
                (vec![Message::new("", body)], notes)
            }
        }
    }

    /// Appends, and waits until it is durable: the next poll is an interval away. What is noted was in memory before; if the log fails, it
    /// is the job that ends.
    async fn append(&self, messages: Vec<Message>, notes: Vec<Note>, stop: &Stop) -> Result<Stopped, SourceError> {
        let chunk = match (messages.is_empty(), notes.is_empty()) {
            (true, true) => return Ok(Stopped::No),
            (false, true) => Chunk::Messages(messages),
            _ => Chunk::Noted(messages, notes),
        };
        let queued = tokio::select! {
            queued = self.health.intake().append(&self.target.name, chunk) => queued,
            () = stop.cancelled() => return Ok(Stopped::Yes),
        };
        match queued {
            Err(IntakeError::Stopping) => Ok(Stopped::Yes),
            queued => {
                queued?.await?;
                Ok(Stopped::No)
            }
        }
    }
}

/// Whether the source is to stop.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stopped {
    Yes,
    No,
}
