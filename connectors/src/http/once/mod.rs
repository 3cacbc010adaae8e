//! Once: what is known of requests that say who they are, so that one that comes again is not stored again.
//!
//! A request names itself in one of two ways, and what is known of it is a note in the record of its rows: both are durable
//! or neither, through a kill, a power loss and a checkpoint.
//!
//! ```text
//!   note      key                        value (numbers big-endian)
//!   producer  'p' │ id                   epoch: u64 │ sequence: u64 │ content hash: u64 │ time: i64
//!   key       'k' │ hash of key: u128    content hash: u64 │ time: i64
//! ```
//!
//! Where the rows stand is not in the note, since nobody knows it before they are appended: the log tells it with the note.
//! Times are microseconds since 1970 by the clock that took the request, and are recorded; what is forgotten is decided by
//! them and written as notes too.
//!
//! ```text
//!                      ┌─ again: nothing is appended, the answer tells where the rows are
//!   begin(request) ────┼─ refused: gap, older epoch, other content, in flight, no room
//!                      └─ new: [`Pass`] ─► append with its notes ─► done(where) │ nothing (dropped: as if never begun)
//! ```

mod keys;
mod producers;

use std::collections::BTreeMap;

use bytes::Bytes;
use tidemill_engine::source::{Appended, Note, Resume};
use xxhash_rust::xxh3::xxh3_64;

use self::keys::Keys;
use self::producers::Producers;
use super::admission::OnError;
use super::problem::Problem;
use crate::format::PayloadEncoding;

pub use keys::{IDEMPOTENCY_KEY_BYTES_MAX, KEY_KEPT, KEYS_MAX};
pub use producers::{PRODUCER_ID_BYTES_MAX, PRODUCER_KEPT, PRODUCERS_MAX};

/// What is forgotten at most with one request, so that none has to pay for many.
const FORGOTTEN_AT_ONCE_MAX: usize = 16;

/// How a request names itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Once {
    /// `Producer-Id`, `Producer-Epoch`, `Producer-Seq`: the requests of a producer are numbered.
    Producer {
        /// Who sends.
        id: String,
        /// Which life of it: a producer that has lost its count begins a new one.
        epoch: u64,
        /// Which request of that life, from 0.
        sequence: u64,
    },
    /// `Idempotency-Key`: whatever the client likes, another one for each request.
    Key(String),
}

/// Hash of what a request would store: two with equal hashes are the same request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentHash(u64);

impl ContentHash {
    pub(super) fn of(payload: &[u8], encoding: PayloadEncoding, on_error: OnError) -> ContentHash {
        // The same bytes may be one message or several.
        let framing: &[u8] = if encoding == PayloadEncoding::ProtobufDelimited { b"delimited" } else { b"" };
        let how = [&encoding.attributes()[..], &[on_error as u8], framing].concat();
        ContentHash(xxh3_64(payload) ^ xxh3_64(&how))
    }
}

/// What becomes of a request that names itself.
#[derive(Debug)]
pub(super) enum Begun {
    /// It is new, and goes into the log with these notes.
    New(Pass, Vec<Note>),
    /// It was stored before, there; `None` if only that it was is known.
    Again(Option<Appended>),
}

/// A request on its way to the log: to be handed back to [`Ledger::done`] or to [`Ledger::never`].
#[derive(Debug)]
pub(super) enum Pass {
    Producer(String),
    Key(u128),
}

/// What one source knows of its clients' requests.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    producers: Producers,
    keys: Keys,
}

impl Ledger {
    /// Goes on from what the log says.
    pub(super) fn recall(resume: Option<&Resume>) -> Ledger {
        let (none, nowhere) = (BTreeMap::new(), BTreeMap::new());
        let notes = resume.map_or(&none, |resume| &resume.notes);
        let places = resume.map_or(&nowhere, |resume| &resume.places);
        let mut ledger = Ledger::default();
        for (key, value) in notes {
            let at = places.get(key).copied();
            match key.first() {
                Some(&producers::NOTE) => ledger.producers.recall(&key[1..], value, at),
                Some(&keys::NOTE) => ledger.keys.recall(&key[1..], value, at),
                _ => {}
            }
        }
        ledger
    }

    /// Decides about a request.
    pub(super) fn begin(&mut self, once: &Once, hash: ContentHash, now_us: i64) -> Result<Begun, Problem> {
        // First, to make room. What the log does not hear of it, it tells again after a restart, and is too old then too.
        let mut notes = self.producers.forget(now_us);
        notes.extend(self.keys.forget(now_us));
        let begun = match once {
            Once::Producer { id, epoch, sequence } => self.producers.begin(id, *epoch, *sequence, hash, now_us)?,
            Once::Key(key) => self.keys.begin(key, hash, now_us)?,
        };
        Ok(match begun {
            Begun::New(pass, own) => {
                // Behind the others: one of them may be about the same producer.
                notes.extend(own);
                Begun::New(pass, notes)
            }
            again => again,
        })
    }

    /// Notes that a request is durable.
    pub(super) fn done(&mut self, pass: Pass, at: Appended) {
        match pass {
            Pass::Producer(id) => self.producers.done(&id, at),
            Pass::Key(key) => self.keys.done(key, at),
        }
    }

    /// Notes that nothing of a request was appended.
    pub(super) fn never(&mut self, pass: Pass) {
        match pass {
            Pass::Producer(id) => self.producers.never(&id),
            Pass::Key(key) => self.keys.never(key),
        }
    }
}

/// Makes a note's key.
fn note_key(kind: u8, about: &[u8]) -> Bytes {
    [&[kind], about].concat().into()
}

/// Reads a number from the front; 0 where there are too few bytes, which no version has written.
fn take_number(bytes: &mut &[u8]) -> u64 {
    match bytes.split_first_chunk::<8>() {
        Some((number, rest)) => {
            *bytes = rest;
            u64::from_be_bytes(*number)
        }
        None => 0,
    }
}

#[cfg(test)]
mod tests;
