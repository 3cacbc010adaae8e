//! Idempotency keys: each names one request, for a day.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tidemill_engine::source::{Appended, Note};
use tidemill_engine::time::{micros, secs};
use xxhash_rust::xxh3::xxh3_128;

use super::{Begun, ContentHash, FORGOTTEN_AT_ONCE_MAX, Pass, note_key, take_number};
use crate::http::problem::{Kind, Problem};

/// Bytes of a key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;
/// Keys of one source that are remembered; one more is refused, for to forget one silently would store its rows twice.
pub const KEYS_MAX: usize = 100_000;
/// How long a key is remembered.
pub const KEY_KEPT: Duration = secs(24 * 60 * 60);

pub(super) const NOTE: u8 = b'k';

#[derive(Debug, Default)]
pub(super) struct Keys {
    /// By the hash of the key: whatever a client likes to call its requests, they take the same room.
    by_hash: HashMap<u128, Request>,
    by_time: BTreeSet<(i64, u128)>,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    hash: ContentHash,
    taken_us: i64,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    InFlight,
    /// Durable, and where.
    Stored(Option<Appended>),
}

impl Keys {
    pub(super) fn recall(&mut self, key: &[u8], mut value: &[u8], at: Option<Appended>) {
        let Ok(key) = key.try_into().map(u128::from_be_bytes) else { return };
        let (hash, taken_us) = (ContentHash(take_number(&mut value)), take_number(&mut value) as i64);
        self.by_hash.insert(key, Request { hash, taken_us, state: State::Stored(at) });
        self.by_time.insert((taken_us, key));
    }

    pub(super) fn begin(&mut self, key: &str, hash: ContentHash, now_us: i64) -> Result<Begun, Problem> {
        let hashed = xxh3_128(key.as_bytes());
        match self.by_hash.get(&hashed) {
            Some(Request { state: State::InFlight, .. }) => {
                let detail =
                    format!("another request with the key {key:?} is on its way to the log; nothing was stored");
                return Err(Problem::new(Kind::InFlight, detail).hint("send it again after Retry-After"));
            }
            Some(known) if !is_forgotten(known.taken_us, now_us) => {
                if known.hash != hash {
                    let detail = format!("the key {key:?} was used for another body; nothing was stored");
                    return Err(Problem::new(Kind::Reused, detail).hint("use another key for each request"));
                }
                let State::Stored(at) = known.state else { unreachable!("in flight is told above") };
                return Ok(Begun::Again(at));
            }
            Some(known) => drop(self.by_time.remove(&(known.taken_us, hashed))),
            None if self.by_hash.len() >= KEYS_MAX => {
                return Err(Problem::new(
                    Kind::KeysFull,
                    format!("{KEYS_MAX} keys of the last 24 hours are remembered, and no more; nothing was stored"),
                )
                .hint("send more rows with each request, or number the requests: Producer-Id, -Epoch, -Seq"));
            }
            None => {}
        }
        self.by_hash.insert(hashed, Request { hash, taken_us: now_us, state: State::InFlight });
        let value = [hash.0.to_be_bytes(), now_us.to_be_bytes()].concat();
        Ok(Begun::New(Pass::Key(hashed), vec![Note::new(note_key(NOTE, &hashed.to_be_bytes()), value)]))
    }

    pub(super) fn done(&mut self, key: u128, at: Appended) {
        if let Some(request) = self.by_hash.get_mut(&key) {
            request.state = State::Stored(Some(at));
            self.by_time.insert((request.taken_us, key));
        }
    }

    pub(super) fn never(&mut self, key: u128) {
        self.by_hash.remove(&key);
    }

    /// Forgets some of those that are too old; returns what the log need not know any more.
    pub(super) fn forget(&mut self, now_us: i64) -> Vec<Note> {
        let mut notes = Vec::new();
        while notes.len() < FORGOTTEN_AT_ONCE_MAX
            && let Some((taken_us, key)) = self.by_time.first().copied()
            && is_forgotten(taken_us, now_us)
        {
            self.by_time.pop_first();
            self.by_hash.remove(&key);
            notes.push(Note::forget(note_key(NOTE, &key.to_be_bytes())));
        }
        notes
    }
}

fn is_forgotten(taken_us: i64, now_us: i64) -> bool {
    taken_us.saturating_add(micros(KEY_KEPT)) < now_us
}
