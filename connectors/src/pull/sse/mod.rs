//! `connector = 'sse'`: server-sent events.
//!
//! ```text
//!        ┌───── again after `retry:`, or 100 ms … 30 s if it fails, half of it by chance ◄──────┐
//!        ▼                                                                                      │
//!   GET, Last-Event-ID ─► 200 text/event-stream ─► pieces ─► events ─► append ┬ rows           │
//!                           │ anything else                 `parser.rs`       └ note: the id   │
//!                           └───────────────────────────────────────── lost, silent ────────────┘
//! ```
//!
//! **The last id is a note in the log record of the events it came with.** After a crash the stream is asked for behind
//! what is in the log: an event that is not there had not come, one that is there is not asked for again. With a server that
//! sends ids and honours `Last-Event-ID`, each event is in the log exactly once. Without ids what is sent while we are away is
//! missed, and a server that begins anew with each connection sends twice what it sent before.
//!
//! One piece of the stream is one chunk, however many events it holds, and chunks are queued without waiting for each other: so
//! one sync of the log serves many events. What is queued is bounded, and then the stream is not read.
//!
//! `event = 'price,trade'` takes only these types. What is left out counts as seen: its id is noted like the others.

mod parser;

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use hyper::StatusCode;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use tidemill_engine::source::{Chunk, Intake, Message, Note, Resume, Source, SourceError, Stop, TargetStatus};
use tokio::time::{Instant, sleep_until};

use super::fetch::{Answer, get};
use super::poll::{take_between, take_timeout};
use super::reading::{self, End, Reading};
use super::site::{Scheme, Site, Target};
use super::target::{Failure, Health, Own};
use crate::Context;
use crate::options::{OptionError, Options};
use crate::receipts::Receipts;
pub use parser::EVENT_BYTES_MAX;
use parser::{Event, Parser, Said};

/// A stream that lived so long was healthy, also if it said nothing.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// A server that sends nothing for so long, not even a comment, is taken for lost.
const SILENCE_DEFAULT: Duration = Duration::from_secs(300);
const SILENCE_MIN: Duration = Duration::from_secs(1);
const SILENCE_MAX: Duration = Duration::from_secs(24 * 3600);
/// A server may make us wait so long between two connections.
const RETRY_MAX: Duration = Duration::from_secs(300);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The key of the one note.
const ID_NOTE: &[u8] = b"id";

/// A source of server-sent events.
pub struct SseSource {
    shared: Arc<Shared>,
}

struct Shared {
    own: Own,
    site: Site,
    timeout: Duration,
    silence: Duration,
    /// The types that are taken; empty: all.
    kinds: Vec<String>,
}

/// Makes the source from its options; does no I/O.
pub fn sse(name: &str, options: &mut Options, context: &Context) -> Result<SseSource, OptionError> {
    let site = Site::take(options, Scheme::Http, context)?;
    let kinds = match options.take("event") {
        None => Vec::new(),
        Some(list) => list.split(',').map(|kind| kind.trim().to_owned()).collect(),
    };
    if kinds.iter().any(String::is_empty) {
        return Err(OptionError::new(
            "event",
            "has an empty name in it: write 'price' or 'price, trade', or leave it out",
        ));
    }
    let shared = Shared {
        own: Own::new(name, context, site.targets.len()),
        site,
        timeout: take_timeout(options)?,
        silence: take_between(options, "silence", SILENCE_MIN, SILENCE_MAX)?.unwrap_or(SILENCE_DEFAULT),
        kinds,
    };
    Ok(SseSource { shared: Arc::new(shared) })
}

#[async_trait::async_trait]
impl Source for SseSource {
    fn bounded(&self) -> bool {
        false
    }

    async fn run(&self, intake: Arc<dyn Intake>, resume: Vec<Resume>, stop: Stop) -> Result<(), SourceError> {
        let shared = &self.shared;
        let task = |number: usize, health: Health, resume: Option<Resume>, stop: Stop| {
            let id = resume.and_then(|resume| resume.notes.get(ID_NOTE).cloned()).unwrap_or_default();
            let target = shared.site.targets[number].clone();
            reading::run(Listener { shared: Arc::clone(shared), target, health, id, retry: Duration::ZERO }, stop)
        };
        shared.own.run(&shared.site.targets, intake, resume, &stop, task).await
    }

    fn targets(&self) -> Vec<TargetStatus> {
        self.shared.own.status(&self.shared.site.targets)
    }
}

/// Listens to one target.
struct Listener {
    shared: Arc<Shared>,
    target: Target,
    health: Health,
    /// The id of the last event that was appended.
    id: Bytes,
    /// How long the server wants us to wait between two connections.
    retry: Duration,
}

impl Reading for Listener {
    type Connection = Answer;

    fn health(&mut self) -> &mut Health {
        &mut self.health
    }

    fn connect_max(&self) -> Duration {
        self.shared.timeout
    }

    fn pause(&self) -> Duration {
        self.retry
    }

    async fn read(&mut self, mut answer: Answer, receipts: &mut Receipts, stop: &Stop) -> End {
        let mut parser = Parser::new(self.id.clone());
        let (mut said, healthy_at) = (Vec::new(), Instant::now() + HEALTHY_AFTER);
        let mut is_proved = false;
        let mut silent_at = Instant::now() + self.shared.silence;
        loop {
            let piece = tokio::select! {
                biased;
                () = stop.cancelled() => return End::Stopped,
                piece = answer.piece() => piece,
                () = sleep_until(silent_at) => {
                    let why = format!("nothing was sent for {:?}, not even a comment", self.shared.silence);
                    return End::Lost(Failure::new("silence", why));
                }
                () = sleep_until(healthy_at), if !is_proved => {
                    is_proved = true;
                    self.health.succeeded();
                    continue;
                }
            };
            let piece = match piece {
                Ok(Some(piece)) => piece,
                Ok(None) => return End::Lost(Failure::new("disconnected", "the server has ended the stream")),
                Err(failure) => return End::Lost(Failure { kind: "disconnected", ..failure }),
            };
            silent_at = Instant::now() + self.shared.silence;
            parser.read(&piece, &mut said);
            let has_event = said.iter().any(|said| matches!(said, Said::Event(_)));
            if let Err(end) = self.append(&mut said, receipts, stop).await {
                return end;
            }
            if has_event && !is_proved {
                is_proved = true;
                self.health.succeeded();
            }
        }
    }

    async fn connect(&self) -> Result<Answer, Failure> {
        let mut ask = vec![
            (ACCEPT, HeaderValue::from_static("text/event-stream")),
            (ACCEPT_ENCODING, HeaderValue::from_static("identity")),
            (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        if !self.id.is_empty() {
            let id = HeaderValue::from_maybe_shared(self.id.clone());
            ask.push((LAST_EVENT_ID, id.expect("the parser gives no other ids")));
        }
        let answer = get(&self.shared.site, &self.target.url, &ask).await?;
        match answer.status {
            StatusCode::OK => {}
            // The standard's way to say that nothing will come any more. Nobody here could take that decision back.
            StatusCode::NO_CONTENT => {
                let why = "the server has nothing to stream (204)";
                return Err(Failure { asked: Some(RETRY_MAX), ..Failure::new("status", why) });
            }
            _ => return Err(answer.refused()),
        }
        let kind = answer.header(CONTENT_TYPE).unwrap_or_default().to_owned();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("text/event-stream") {
            let why = format!(
                "the answer is {kind:?} and no text/event-stream: for an answer with an end, connector = 'http_poll'"
            );
            return Err(Failure::new("content", why));
        }
        match answer.header(CONTENT_ENCODING) {
            None | Some("" | "identity") => Ok(answer),
            Some(other) => {
                Err(Failure::new("content", format!("the stream is packed ({other}), which was not asked for")))
            }
        }
    }
}

impl Listener {
    /// Appends what was said, with the id that counts behind it.
    async fn append(&mut self, said: &mut Vec<Said>, receipts: &mut Receipts, stop: &Stop) -> Result<(), End> {
        let (mut messages, mut id) = (Vec::with_capacity(said.len()), self.id.clone());
        for said in said.drain(..) {
            match said {
                Said::Event(event) => {
                    id = event.id.clone();
                    if self.is_wanted(&event.kind) {
                        messages.push(message(event));
                    }
                }
                Said::Id(new) => id = new,
                Said::TooBig(new) => {
                    id = new;
                    self.health.count("too_big", &format!("an event of more than {EVENT_BYTES_MAX} bytes"));
                }
                Said::BadId => self.health.count("bad_id", "an id that is too long, or that no header can carry"),
                Said::Retry(wait) => self.retry = wait.min(RETRY_MAX),
            }
        }
        let notes = match id == self.id {
            true => Vec::new(),
            false => vec![Note::new(ID_NOTE, id.clone())],
        };
        let chunk = match (messages.is_empty(), notes.is_empty()) {
            (true, true) => return Ok(()),
            (false, true) => Chunk::Messages(messages),
            _ => Chunk::Noted(messages, notes),
        };
        let queued = tokio::select! {
            queued = self.health.intake().append(&self.target.name, chunk) => queued,
            () = stop.cancelled() => return Err(End::Stopped),
        };
        let receipt = queued.map_err(End::from)?;
        // Queued in the order of the stream: whatever comes of it, what is asked for next is behind it.
        self.id = id;
        receipts.push(receipt).await.map_err(End::from)
    }

    fn is_wanted(&self, kind: &[u8]) -> bool {
        self.shared.kinds.is_empty() || self.shared.kinds.iter().any(|wanted| wanted.as_bytes() == kind)
    }
}

/// Makes a message: its topic is the type of the event, its attributes are a zero and the id.
fn message(event: Event) -> Message {
    let mut attributes = BytesMut::with_capacity(1 + event.id.len());
    if !event.id.is_empty() {
        attributes.put_u8(0);
        attributes.put_slice(&event.id);
    }
    Message { topic: event.kind, payload: event.data, attributes: attributes.freeze() }
}

/// Returns the id of the event that a message was.
pub(crate) fn event_id(message: &Message) -> Option<&str> {
    std::str::from_utf8(message.attributes.strip_prefix(&[0])?).ok()
}
