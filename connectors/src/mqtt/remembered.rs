//! What outlives a connection: a session, as the ingest log knows it.
//!
//! One partition holds any number of sessions: a client of a broker has one for each of its connections, a listener has one
//! for each device. What the receiver knows of them stands in notes of the log, in the record of the messages they came with:
//!
//! ```text
//!   key                                          value
//!   'q' │ session name │ packet id: u16          content hashes: u64 each, in the order they came
//!   'r' │ session name │ topic hash: u64         content hash: u64, of the last retained copy taken
//!   'e' │ session name                           session epoch: u64
//!   numbers big-endian; other first bytes belong to others ('s' and 't': sessions and retained messages of the listener)
//! ```
//!
//! A session has at most 65,535 notes of ids and [`RETAINED_TOPICS_MAX`] of retained copies. Names are at most
//! [`NAME_BYTES_MAX`] bytes, whatever the client id: a device must not choose how large a checkpoint grows.

use std::collections::{BTreeMap, HashMap};

use bytes::{BufMut, Bytes, BytesMut};
use tidemill_engine::source::Note;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::held::{ContentHash, Held};

/// How many topics of a session may have a retained copy that is remembered.
pub(super) const RETAINED_TOPICS_MAX: usize = 100_000;
/// The longest name of a session. A client id is its own name if it fits.
const NAME_BYTES_MAX: usize = 64;

const HELD: u8 = b'q';
const RETAINED: u8 = b'r';
const EPOCH: u8 = b'e';

/// How long a session lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lasts {
    /// As its connection: nobody comes back to it, so there are no notes.
    Connection,
    /// Longer: through a kill and a power loss.
    InLog,
}

/// What becomes of a retained copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copy {
    /// It was not taken before.
    Fresh,
    /// It is the last that was taken, once more.
    Repeat,
    /// There are too many topics to remember this one: it is taken, and perhaps again.
    Forgotten,
}

/// A session between connections.
#[derive(Debug)]
pub(super) struct Remembered {
    name: Bytes,
    lasts: Lasts,
    epoch: u64,
    pub(super) held: Held,
    /// The last message taken of each topic that had a retained copy, by the topic's hash.
    retained: HashMap<u64, ContentHash>,
}

impl Remembered {
    /// Begins a session of a client id.
    pub(super) fn new(client_id: &str, lasts: Lasts) -> Self {
        Remembered::named(session_name(client_id), lasts)
    }

    fn named(name: Bytes, lasts: Lasts) -> Self {
        Remembered { name, lasts, epoch: 0, held: Held::default(), retained: HashMap::new() }
    }

    /// Finds all sessions in the notes of a partition, by [`session_name`].
    pub(super) fn recall(notes: &BTreeMap<Bytes, Bytes>) -> BTreeMap<Bytes, Remembered> {
        let mut sessions: BTreeMap<Bytes, Remembered> = BTreeMap::new();
        for (key, value) in notes {
            let Some(kind @ (HELD | RETAINED | EPOCH)) = key.first().copied() else { continue };
            let about_bytes = match kind {
                HELD => 2,
                RETAINED => 8,
                _ => 0,
            };
            let Some(name_end) = key.len().checked_sub(about_bytes).filter(|end| *end > 0) else { continue };
            let name = key.slice(1..name_end);
            let about = number(&key[name_end..]);
            let session = sessions.entry(name.clone()).or_insert_with(|| Remembered::named(name, Lasts::InLog));
            match kind {
                HELD => {
                    let hashes = value.chunks_exact(8).map(|hash| ContentHash(number(hash)));
                    session.held.restore(u16::try_from(about).unwrap_or_default(), hashes);
                }
                RETAINED => drop(session.retained.insert(about, ContentHash(number(value)))),
                _ => session.epoch = number(value),
            }
        }
        sessions
    }

    /// Returns how often the peer has lost this session.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Says whether it is known of the session that it was in use.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.epoch == 0
    }

    /// Begins a new epoch: the peer has lost the session, and its ids mean nothing any more. What was taken of retained
    /// copies stays, because they come again now. Returns what the log must know.
    pub(super) fn lose(&mut self) -> Vec<Note> {
        let mut notes = self.forget_held();
        self.epoch += 1;
        if self.lasts == Lasts::InLog {
            notes.push(Note::new(self.key(EPOCH, &[]), self.epoch.to_be_bytes().to_vec()));
        }
        notes
    }

    /// Ends the session for good: its client has asked for a new one, or will not come back. Returns what the log need not
    /// know any more.
    pub(super) fn end(&mut self) -> Vec<Note> {
        let mut notes = self.forget_held();
        if self.lasts == Lasts::InLog {
            let mut topics: Vec<u64> = self.retained.keys().copied().collect();
            topics.sort_unstable();
            notes.extend(topics.iter().map(|topic| Note::forget(self.key(RETAINED, &topic.to_be_bytes()))));
            if self.epoch > 0 {
                notes.push(Note::forget(self.key(EPOCH, &[])));
            }
        }
        self.retained.clear();
        self.epoch = 0;
        notes
    }

    fn forget_held(&mut self) -> Vec<Note> {
        let ids = self.held.ids();
        self.held.clear();
        match self.lasts {
            Lasts::Connection => Vec::new(),
            Lasts::InLog => ids.iter().map(|id| Note::forget(self.key(HELD, &id.to_be_bytes()))).collect(),
        }
    }

    /// Makes the note of what is held under an id now. `arena` is where its bytes are put.
    pub(super) fn note_of_held(&self, id: u16, arena: &mut Arena) -> Option<Note> {
        if self.lasts == Lasts::Connection {
            return None;
        }
        let count = self.held.hashes(id).count();
        let room = arena.room(1 + self.name.len() + 2 + count * 8);
        self.put_key(HELD, &id.to_be_bytes(), room);
        let key_bytes = room.len();
        self.held.hashes(id).for_each(|hash| room.put_u64(hash.0));
        Some(note_of(arena, key_bytes))
    }

    /// Decides about a retained copy.
    pub(super) fn retained_copy(&self, topic: &[u8], hash: ContentHash) -> Copy {
        match self.retained.get(&xxh3_64(topic)) {
            Some(last) if *last == hash => Copy::Repeat,
            None if self.retained.len() >= RETAINED_TOPICS_MAX => Copy::Forgotten,
            _ => Copy::Fresh,
        }
    }

    /// Remembers a retained copy that is taken; returns what the log must know.
    pub(super) fn took_retained(&mut self, topic: &[u8], hash: ContentHash, arena: &mut Arena) -> Option<Note> {
        let topic = xxh3_64(topic);
        if self.retained.insert(topic, hash) == Some(hash) || self.lasts == Lasts::Connection {
            return None;
        }
        let room = arena.room(1 + self.name.len() + 16);
        self.put_key(RETAINED, &topic.to_be_bytes(), room);
        let key_bytes = room.len();
        room.put_u64(hash.0);
        Some(note_of(arena, key_bytes))
    }

    /// Says whether a topic has had a retained copy. Then a message of it may be the next one.
    pub(super) fn has_retained(&self, topic: &[u8]) -> bool {
        !self.retained.is_empty() && self.retained.contains_key(&xxh3_64(topic))
    }

    fn put_key(&self, kind: u8, about: &[u8], out: &mut BytesMut) {
        out.put_u8(kind);
        out.put_slice(&self.name);
        out.put_slice(about);
    }

    fn key(&self, kind: u8, about: &[u8]) -> Bytes {
        let mut key = BytesMut::with_capacity(1 + self.name.len() + about.len());
        self.put_key(kind, about, &mut key);
        key.freeze()
    }
}

/// Returns the name of a client's session in notes: the id itself, or, of a long one, its beginning and a hash.
pub(super) fn session_name(client_id: &str) -> Bytes {
    let id = client_id.as_bytes();
    if id.len() <= NAME_BYTES_MAX {
        return Bytes::copy_from_slice(id);
    }
    let mut name = BytesMut::with_capacity(NAME_BYTES_MAX);
    name.put_slice(&id[..NAME_BYTES_MAX - 16]);
    name.put_u128(xxh3_128(id));
    name.freeze()
}

/// Reads a number of up to eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn note_of(arena: &mut Arena, key_bytes: usize) -> Note {
    let mut key = arena.take();
    let value = key.split_off(key_bytes);
    Note { key, value }
}

/// Where the small byte strings of one batch stand together: one allocation for a hundred of them.
#[derive(Debug, Default)]
pub(super) struct Arena(BytesMut);

impl Arena {
    const BYTES: usize = 4 << 10;

    /// Returns where to put `bytes` bytes, to be taken before there is room for others.
    pub(super) fn room(&mut self, bytes: usize) -> &mut BytesMut {
        if self.0.capacity() < bytes {
            self.0 = BytesMut::with_capacity(bytes.max(Arena::BYTES));
        }
        &mut self.0
    }

    /// Takes what was put there.
    pub(super) fn take(&mut self) -> Bytes {
        self.0.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fold(notes: Vec<Note>, into: &mut BTreeMap<Bytes, Bytes>) {
        for Note { key, value } in notes {
            if value.is_empty() {
                into.remove(&key)
            } else {
                into.insert(key, value)
            };
        }
    }

    #[test]
    fn sessions_are_found_again_in_the_notes_of_their_partition() {
        let mut arena = Arena::default();
        let mut log = BTreeMap::from([(Bytes::from("sx"), Bytes::from("of others"))]);
        let long = "x".repeat(3_000);
        for name in ["", "press-7", &long] {
            let mut session = Remembered::new(name, Lasts::InLog);
            session.held.begin_connection();
            for (id, hash) in [(1, 11), (65_535, 12), (65_535, 13)] {
                session.held.publish(id, ContentHash(hash)).expect("few");
                fold(session.note_of_held(id, &mut arena).into_iter().collect(), &mut log);
            }
            session.held.release(1).expect("held");
            fold(session.note_of_held(1, &mut arena).into_iter().collect(), &mut log);
            fold(session.took_retained(b"t", ContentHash(9), &mut arena).into_iter().collect(), &mut log);
        }
        assert!(log.keys().all(|key| key.len() <= 1 + NAME_BYTES_MAX + 8));
        let mut sessions = Remembered::recall(&log);
        assert_eq!(sessions.len(), 3);
        for name in ["", "press-7", &long] {
            let session = sessions.get_mut(&session_name(name)).expect("known");
            assert_eq!(session.held.ids(), [65_535]);
            assert_eq!(session.held.hashes(65_535).collect::<Vec<_>>(), [ContentHash(12), ContentHash(13)]);
            assert_eq!(session.retained_copy(b"t", ContentHash(9)), Copy::Repeat);
            assert_eq!(session.retained_copy(b"t", ContentHash(8)), Copy::Fresh);
            fold(session.end(), &mut log);
        }
        assert_eq!(log.len(), 1, "an ended session leaves nothing: {log:?}");
    }

    #[test]
    fn a_lost_session_forgets_ids_and_counts_an_epoch() {
        let mut log = BTreeMap::new();
        let mut arena = Arena::default();
        let mut session = Remembered::new("a", Lasts::InLog);
        session.held.begin_connection();
        session.held.publish(5, ContentHash(1)).expect("few");
        fold(session.note_of_held(5, &mut arena).into_iter().collect(), &mut log);
        fold(session.took_retained(b"t", ContentHash(9), &mut arena).into_iter().collect(), &mut log);
        fold(session.lose(), &mut log);
        let session = Remembered::recall(&log).remove(&session_name("a")).expect("known");
        assert!(session.held.is_empty());
        assert_eq!(session.epoch(), 1);
        assert_eq!(session.retained_copy(b"t", ContentHash(9)), Copy::Repeat, "it comes again now");
    }

    #[test]
    fn a_session_that_ends_with_its_connection_leaves_no_notes() {
        let mut arena = Arena::default();
        let mut session = Remembered::new("a", Lasts::Connection);
        session.held.begin_connection();
        session.held.publish(5, ContentHash(1)).expect("few");
        assert!(session.note_of_held(5, &mut arena).is_none());
        assert!(session.took_retained(b"t", ContentHash(9), &mut arena).is_none());
        assert!(session.lose().is_empty() && session.end().is_empty());
    }

    #[test]
    fn notes_that_make_no_sense_are_passed_over() {
        let odd = ["", "q", "qx", "r1234567", "rabc", "e"];
        let notes = odd.iter().map(|key| (Bytes::from(*key), Bytes::from("v"))).collect();
        for session in Remembered::recall(&notes).values() {
            assert!(session.held.is_empty());
        }
    }
}
