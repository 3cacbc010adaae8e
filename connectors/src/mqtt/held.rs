//! The packet ids of QoS 2 that a session holds: which messages are in the log and not yet released by their sender.
//!
//! ```text
//!   PUBLISH 7, message A        7: [A]                  new: appended, PUBREC when durable
//!   PUBLISH 7, A again          7: [A]                  held: not appended, PUBREC
//!   PUBLISH 7, B                same connection         7: [A, B]   new; its PUBREC waits for the release of A
//!                               a later connection      7: [B]      new; A is stale: its release was lost with the sender's state
//!   PUBREL 7                    7: [B] or nothing       PUBCOMP when durable
//! ```
//!
//! The standard knows only the id, and a receiver that goes by it loses messages: a broker that came back with an old copy of
//! its state gives a held id to a new message, and may do so with DUP = 0 or 1. So what is held is id *and* content, and DUP is
//! not looked at. In a list those of the current connection stand first, in the order they came.
//!
//! Pure: notes of what has changed are for the caller to log, in the record of the message.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::packet::Violation;
use super::properties;

/// How many messages may be held under one id. More than one is a broker's mistake; Mosquitto 2.0.11 makes it with two.
pub(super) const HELD_PER_ID_MAX: usize = 16;

/// For how many ids a session keeps room when it holds none: ten thousand idle devices hold no tables.
const IDLE_IDS_MAX: usize = 64;

/// What a message is, apart from its id: two that have the same are the same message, sent twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ContentHash(pub(super) u64);

impl ContentHash {
    /// Hashes what the log has of a message, so that it can be computed again from there. The Message Expiry Interval is left
    /// out: a server counts it down with every send.
    pub(super) fn of(topic: &[u8], payload: &[u8], properties: &[u8]) -> ContentHash {
        let mut hash = xxh3_64_with_seed(payload, xxh3_64(topic));
        if !properties.is_empty() {
            // What came through the codec is whole.
            let _ = properties::read_block("PUBLISH", properties, properties::IN_PUBLISH, |id, _, raw| {
                if id != properties::MESSAGE_EXPIRY {
                    hash = xxh3_64_with_seed(raw, hash);
                }
            });
        }
        ContentHash(hash)
    }
}

/// One message that is in the log and not released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    hash: ContentHash,
    /// The connection that brought it last; 0: one of an earlier life of the program.
    connection: u64,
}

/// The messages under one id; nearly always one, so a list of one allocates nothing.
#[derive(Debug)]
struct Slot {
    first: Entry,
    more: Vec<Entry>,
}

/// What a PUBLISH at QoS 2 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    /// It is to be appended.
    pub(super) is_new: bool,
    /// Its PUBREC must wait until the message before it under this id is released.
    pub(super) waits: bool,
    /// Its id was held for another message.
    pub(super) is_reuse: bool,
    /// What is held under the id is not what it was: a note is due.
    pub(super) has_changed: bool,
    /// It is one more that this connection has not finished.
    pub(super) is_counted: bool,
}

/// What a PUBREL did to a held id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Released {
    /// It was one of those that this connection has not finished.
    pub(super) was_counted: bool,
    /// The next message under the id may have its PUBREC now.
    pub(super) next_waits: bool,
}

/// The ids of one session: at most 65,535, because an id has 16 bits and is not 0.
#[derive(Debug, Default)]
pub(super) struct Held {
    by_id: HashMap<u16, Slot, BuildHasherDefault<IdHasher>>,
    connection: u64,
}

impl Held {
    /// Takes back what was held under an id when the program stopped.
    pub(super) fn restore(&mut self, id: u16, hashes: impl Iterator<Item = ContentHash>) {
        let mut entries = hashes.map(|hash| Entry { hash, connection: 0 });
        if let Some(first) = entries.next() {
            self.by_id.insert(id, Slot { first, more: entries.take(HELD_PER_ID_MAX - 1).collect() });
        }
    }

    /// Begins a connection: what earlier ones have brought may be stale.
    pub(super) fn begin_connection(&mut self) {
        self.connection += 1;
    }

    /// Takes a PUBLISH.
    pub(super) fn publish(&mut self, id: u16, hash: ContentHash) -> Result<Arrival, Violation> {
        let connection = self.connection;
        let fresh = Entry { hash, connection };
        let Some(slot) = self.by_id.get_mut(&id) else {
            self.by_id.insert(id, Slot { first: fresh, more: Vec::new() });
            return Ok(Arrival { is_new: true, waits: false, is_reuse: false, has_changed: true, is_counted: true });
        };
        // The usual case of a resend: one message, the same.
        if slot.more.is_empty() && slot.first.hash == hash {
            let is_counted = slot.first.connection != connection;
            slot.first = fresh;
            return Ok(Arrival { is_new: false, waits: false, is_reuse: false, has_changed: false, is_counted });
        }
        let entries: Vec<Entry> = slot.entries().copied().collect();
        let place = entries.iter().position(|entry| entry.hash == hash);
        // A sender repeats in order: what an earlier connection brought before this one is not coming any more.
        let is_stale = |place_of: usize, entry: &Entry| {
            entry.connection != connection && place.is_none_or(|place| place_of < place)
        };
        let current = entries.iter().take_while(|entry| entry.connection == connection).count();
        let mut kept: Vec<Entry> = Vec::with_capacity(entries.len() + 1);
        for (place_of, entry) in entries.iter().enumerate() {
            if Some(place_of) == place {
                kept.push(fresh);
            } else if !is_stale(place_of, entry) {
                kept.push(*entry);
            }
        }
        if place.is_none() {
            kept.insert(current, fresh);
        }
        if kept.len() > HELD_PER_ID_MAX {
            let problem = format!("more than {HELD_PER_ID_MAX} messages are in flight under packet id {id}");
            return Err(Violation::Protocol(problem));
        }
        let before = entries.len();
        let is_counted = place.is_none_or(|place| entries[place].connection != connection);
        let arrival = Arrival {
            is_new: place.is_none(),
            waits: kept[0] != fresh,
            is_reuse: place.is_none(),
            has_changed: place.is_none() || kept.len() != before,
            is_counted,
        };
        *slot = Slot { first: kept[0], more: kept.split_off(1) };
        Ok(arrival)
    }

    /// Takes a PUBREL; `None` if nothing is held under the id.
    pub(super) fn release(&mut self, id: u16) -> Option<Released> {
        let slot = self.by_id.get_mut(&id)?;
        let was_counted = slot.first.connection == self.connection;
        if slot.more.is_empty() {
            self.by_id.remove(&id);
            if self.by_id.is_empty() && self.by_id.capacity() > IDLE_IDS_MAX {
                self.by_id = HashMap::default();
            }
            return Some(Released { was_counted, next_waits: false });
        }
        slot.first = slot.more.remove(0);
        Some(Released { was_counted, next_waits: slot.first.connection == self.connection })
    }

    /// Returns what is held under an id.
    pub(super) fn hashes(&self, id: u16) -> impl Iterator<Item = ContentHash> {
        let slot = self.by_id.get(&id);
        slot.into_iter().flat_map(Slot::entries).map(|entry| entry.hash)
    }

    /// Says whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Returns the ids that are held, lowest first.
    pub(super) fn ids(&self) -> Vec<u16> {
        let mut ids: Vec<u16> = self.by_id.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.by_id = HashMap::default();
    }
}

impl Slot {
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        std::iter::once(&self.first).chain(&self.more)
    }
}

/// Spreads packet ids. There are 65,535 of them, so no choice of ids makes a table slow, and the usual hash would cost more
/// than the look-up.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u16(u16::from(*byte)));
    }

    fn write_u16(&mut self, id: u16) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ContentHash = ContentHash(1);
    const B: ContentHash = ContentHash(2);
    const C: ContentHash = ContentHash(3);

    fn next_connection(held: &mut Held) {
        held.begin_connection();
    }

    fn publish(held: &mut Held, hash: ContentHash) -> (bool, bool) {
        let arrival = held.publish(7, hash).expect("few");
        (arrival.is_new, arrival.waits)
    }

    fn hashes(held: &Held) -> Vec<ContentHash> {
        held.hashes(7).collect()
    }

    #[test]
    fn held_and_same_is_a_duplicate_until_released() {
        let mut held = Held::default();
        next_connection(&mut held);
        assert_eq!(publish(&mut held, A), (true, false));
        assert_eq!(publish(&mut held, A), (false, false));
        next_connection(&mut held);
        assert_eq!(publish(&mut held, A), (false, false));
        assert_eq!(held.release(7), Some(Released { was_counted: true, next_waits: false }));
        assert_eq!(held.release(7), None);
        assert_eq!(publish(&mut held, A), (true, false), "the same reading again is a new message");
    }

    #[test]
    fn another_message_makes_that_of_an_earlier_connection_stale() {
        let mut held = Held::default();
        held.restore(7, [A].into_iter());
        next_connection(&mut held);
        let arrival = held.publish(7, B).expect("few");
        assert!(arrival.is_new && arrival.is_reuse && !arrival.waits && arrival.has_changed, "{arrival:?}");
        assert_eq!(hashes(&held), [B]);
    }

    #[test]
    fn two_messages_of_one_connection_are_released_one_after_the_other() {
        let mut held = Held::default();
        next_connection(&mut held);
        assert_eq!(publish(&mut held, A), (true, false));
        assert_eq!(publish(&mut held, B), (true, true));
        assert_eq!(publish(&mut held, B), (false, true), "sent twice, held once");
        assert_eq!(held.release(7), Some(Released { was_counted: true, next_waits: true }));
        assert_eq!(held.release(7), Some(Released { was_counted: true, next_waits: false }));
        assert!(held.is_empty());
    }

    #[test]
    fn after_a_cut_between_two_under_one_id_both_are_still_known() {
        let mut held = Held::default();
        held.restore(7, [A, B].into_iter());
        next_connection(&mut held);
        assert_eq!(publish(&mut held, A), (false, false));
        assert_eq!(publish(&mut held, B), (false, true));
        assert_eq!(hashes(&held), [A, B]);
        // Or the first has its PUBREC already and comes as a PUBREL.
        held.restore(7, [A, B].into_iter());
        next_connection(&mut held);
        assert_eq!(held.release(7), Some(Released { was_counted: false, next_waits: false }));
        assert_eq!(publish(&mut held, B), (false, false));
        // Or only the second comes: the first was never released, and never will be.
        held.restore(7, [A, B].into_iter());
        next_connection(&mut held);
        assert_eq!(publish(&mut held, B), (false, false));
        assert_eq!(hashes(&held), [B]);
        held.restore(7, [A, B].into_iter());
        next_connection(&mut held);
        assert_eq!(publish(&mut held, C), (true, false));
        assert_eq!(hashes(&held), [C]);
    }

    #[test]
    fn a_peer_cannot_pile_messages_up_under_one_id() {
        let mut held = Held::default();
        next_connection(&mut held);
        for number in 0..HELD_PER_ID_MAX as u64 {
            held.publish(7, ContentHash(number)).expect("few");
        }
        assert_eq!(held.publish(7, ContentHash(99)).expect_err("too many").code(), 0x82);
        assert_eq!(held.hashes(7).count(), HELD_PER_ID_MAX, "what was taken before is still held");
    }

    #[test]
    fn an_expiry_that_has_been_counted_down_is_the_same_message() {
        let with = |expiry: u8, value: &[u8]| {
            let properties = [&[2, 0, 0, 0, expiry, 38, 0, 1, b'k', 0, 1][..], value].concat();
            ContentHash::of(b"topic", b"payload", &properties)
        };
        assert_eq!(with(9, b"v"), with(1, b"v"));
        assert_ne!(with(9, b"v"), with(9, b"w"));
        let plain = ContentHash::of(b"topic", b"payload", &[]);
        assert_ne!(plain, ContentHash::of(b"topicp", b"ayload", &[]));
        assert_ne!(plain, ContentHash::of(b"payload", b"topic", &[]));
        assert_ne!(plain, with(9, b"v"));
    }
}
