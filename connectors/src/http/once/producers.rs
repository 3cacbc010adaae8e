//! Producers: clients that number their requests, as Kafka's do. What is kept of each is one row, whatever it sends.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tidemill_engine::source::{Appended, Note};
use tidemill_engine::time::{micros, secs};

use super::{Begun, ContentHash, FORGOTTEN_AT_ONCE_MAX, Pass, note_key, take_number};
use crate::http::problem::{Kind, Problem};

/// Bytes of a producer's id.
pub const PRODUCER_ID_BYTES_MAX: usize = 128;
/// Producers of one source that are remembered; one more is refused.
pub const PRODUCERS_MAX: usize = 10_000;
/// How long a producer may be silent before it is forgotten.
pub const PRODUCER_KEPT: Duration = secs(7 * 24 * 60 * 60);

pub(super) const NOTE: u8 = b'p';

#[derive(Debug, Default)]
pub(super) struct Producers {
    by_id: HashMap<String, Producer>,
    /// By when they were heard last.
    by_time: BTreeSet<(i64, String)>,
}

#[derive(Clone, Debug)]
struct Producer {
    last: Option<Last>,
    /// What is on its way to the log.
    next: Option<Last>,
}

/// A request of a producer.
#[derive(Clone, Copy, Debug)]
struct Last {
    epoch: u64,
    sequence: u64,
    hash: ContentHash,
    heard_us: i64,
    at: Option<Appended>,
}

impl Producers {
    pub(super) fn recall(&mut self, id: &[u8], mut value: &[u8], at: Option<Appended>) {
        let Ok(id) = std::str::from_utf8(id) else { return };
        let value = &mut value;
        let (epoch, sequence, hash) = (take_number(value), take_number(value), ContentHash(take_number(value)));
        let last = Last { epoch, sequence, hash, heard_us: take_number(value) as i64, at };
        self.by_time.insert((last.heard_us, id.to_owned()));
        self.by_id.insert(id.to_owned(), Producer { last: Some(last), next: None });
    }

    pub(super) fn begin(
        &mut self,
        id: &str,
        epoch: u64,
        sequence: u64,
        hash: ContentHash,
        now_us: i64,
    ) -> Result<Begun, Problem> {
        let known = self.by_id.get(id);
        if let Some(Producer { next: Some(_), .. }) = known {
            let detail = format!("another request of producer {id:?} is on its way to the log; nothing was stored");
            return Err(Problem::new(Kind::InFlight, detail)
                .hint("send the requests of a producer one after the other; this one again after Retry-After"));
        }
        let last = known.and_then(|producer| producer.last).filter(|last| !is_forgotten(last, now_us));
        if let Some(again) = compare(id, last.as_ref(), epoch, sequence, hash)? {
            return Ok(again);
        }
        if known.is_none() && self.by_id.len() >= PRODUCERS_MAX {
            return Err(Problem::new(
                Kind::TooManyProducers,
                format!("{PRODUCERS_MAX} producers are remembered, and this one is not among them; nothing was stored"),
            )
            .hint(
                "use fewer ids: one for a client, not for a request; each is forgotten after seven days of silence",
            ));
        }
        let next = Last { epoch, sequence, hash, heard_us: now_us, at: None };
        self.by_id.entry(id.to_owned()).or_insert(Producer { last: None, next: None }).next = Some(next);
        let numbers = [epoch, sequence, hash.0, now_us as u64];
        let value: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        Ok(Begun::New(Pass::Producer(id.to_owned()), vec![Note::new(note_key(NOTE, id.as_bytes()), value)]))
    }

    pub(super) fn done(&mut self, id: &str, at: Appended) {
        let Some(producer) = self.by_id.get_mut(id) else { return };
        let Some(next) = producer.next.take() else { return };
        if let Some(last) = producer.last.replace(Last { at: Some(at), ..next }) {
            self.by_time.remove(&(last.heard_us, id.to_owned()));
        }
        self.by_time.insert((next.heard_us, id.to_owned()));
    }

    pub(super) fn never(&mut self, id: &str) {
        if let Some(producer) = self.by_id.get_mut(id) {
            producer.next = None;
            if producer.last.is_none() {
                self.by_id.remove(id);
            }
        }
    }

    /// Forgets some of those that were silent for too long; returns what the log need not know any more.
    pub(super) fn forget(&mut self, now_us: i64) -> Vec<Note> {
        let mut notes = Vec::new();
        while notes.len() < FORGOTTEN_AT_ONCE_MAX
            && let Some((heard_us, id)) = self.by_time.first().cloned()
            && heard_us.saturating_add(micros(PRODUCER_KEPT)) < now_us
        {
            self.by_time.pop_first();
            match self.by_id.get_mut(&id) {
                // Its next note replaces the old one.
                Some(producer) if producer.next.is_some() => producer.last = None,
                _ => {
                    self.by_id.remove(&id);
                    notes.push(Note::forget(note_key(NOTE, id.as_bytes())));
                }
            }
        }
        notes
    }
}

fn is_forgotten(last: &Last, now_us: i64) -> bool {
    last.heard_us.saturating_add(micros(PRODUCER_KEPT)) < now_us
}

/// Decides by what was heard last; `None`: the request is the next one.
fn compare(
    id: &str,
    last: Option<&Last>,
    epoch: u64,
    sequence: u64,
    hash: ContentHash,
) -> Result<Option<Begun>, Problem> {
    let expected = match last {
        Some(last) if epoch < last.epoch => {
            let detail =
                format!("producer {id:?} is in epoch {}, this is of epoch {epoch}; nothing was stored", last.epoch);
            return Err(Problem::new(Kind::StaleEpoch, detail)
                .hint("somebody else goes on under this id: stop, or begin a greater epoch with sequence 0"));
        }
        Some(last) if epoch == last.epoch && sequence == last.sequence => {
            if hash != last.hash {
                let detail =
                    format!("request {sequence} of producer {id:?} was stored with another body; nothing was stored");
                return Err(Problem::new(Kind::Reused, detail).hint("give each request the next number"));
            }
            return Ok(Some(Begun::Again(last.at)));
        }
        Some(last) if epoch == last.epoch && sequence < last.sequence => return Ok(Some(Begun::Again(None))),
        Some(last) if epoch == last.epoch => last.sequence + 1,
        // A new epoch, or nobody we know: it counts from the beginning.
        _ => 0,
    };
    if sequence == expected {
        return Ok(None);
    }
    let detail = format!(
        "request {sequence} of producer {id:?} came, but {expected} is the next of epoch {epoch}; nothing was stored"
    );
    let problem = Problem::new(Kind::SequenceGap, detail).hint(match last {
        None => "nothing is known of this producer: begin with sequence 0, in a greater epoch if it has sent before",
        Some(_) => "send the missing requests first, or begin a greater epoch with sequence 0",
    });
    Err(Problem { expected_seq: Some(expected), ..problem })
}
