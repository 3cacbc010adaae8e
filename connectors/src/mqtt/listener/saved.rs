//! What the log knows of messages that a client must get although it is away, or we are: those of QoS 1 and 2 on their way to
//! a session that outlives its connection.
//!
//! ```text
//!   in the record of the message        the client has it (QoS 2)         the client is done with it
//!   'w' │ tag │ number = the message ──► … = received: PUBREL may leave ──► … forgotten
//!
//!   key     'w' │ tag of the session: u64 │ number of the message: u64
//!   value   version: 1 │ state: 0 waits, 1 received │ QoS: u8, bit 2 retain │ ids: u8 │ subscription ids: u32 each │
//!           length: u16 │ topic │ length: u32 │ properties of MQTT 5, as on the wire │ payload
//!           (nothing behind the state, once received)
//!   numbers big-endian
//! ```
//!
//! A session has a tag of its own, by chance, that stands in its note: messages for an older session of the same client are not
//! for the next. The packet id follows from the number, so after a restart a message has the id that it had before, and a client
//! that has kept the session knows it again.
//!
//! Whoever has acknowledged a message a moment before a crash gets it once more at QoS 1, and a PUBREL at QoS 2. As of retained
//! messages, the time of one that expires begins anew with a restart.
//!
//! All of them have [`SAVED_BYTES_MAX`] at most, since each checkpoint holds them all, and those of one record
//! [`SAVED_IN_RECORD_BYTES_MAX`]; what finds no room waits in memory only, and is counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use tidemill_engine::source::Note;
use tokio::time::Instant;

use super::super::attributes::expiry_of_properties;
use super::super::packet::QoS;
use super::super::properties::Reader;
use super::delivery::Delivery;
use super::hub::{Publication, expiry_of};

/// How many bytes of messages and wills of all sessions together the log may hold.
pub(super) const SAVED_BYTES_MAX: usize = 32 << 20;
/// How many of them one record of the log may have: a copy for each session adds up.
pub(super) const SAVED_IN_RECORD_BYTES_MAX: usize = 16 << 20;

/// The first byte of the key of a message that waits.
const WAITS: u8 = b'w';
const VERSION: u8 = 1;
const STATE_WAITS: u8 = 0;
const STATE_RECEIVED: u8 = 1;
const RETAIN_BIT: u8 = 0b100;

/// The room for what the log holds, of all sessions together.
#[derive(Debug, Default)]
pub(super) struct Room {
    bytes: AtomicUsize,
    /// What found no room since it was last asked.
    refused: AtomicUsize,
}

/// A piece of the room, until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    room: Arc<Room>,
    bytes: usize,
}

impl Room {
    /// Takes room for so many bytes, if there is.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Option<Share> {
        let taken = self.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| {
            let taken = taken.saturating_add(bytes);
            (taken <= SAVED_BYTES_MAX).then_some(taken)
        });
        if taken.is_err() {
            self.refuse();
            return None;
        }
        Some(Share { room: Arc::clone(self), bytes })
    }

    /// Takes room for what the log holds already, whether there is any or not.
    pub(super) fn take_over(self: &Arc<Self>, bytes: usize) -> Share {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        Share { room: Arc::clone(self), bytes }
    }

    /// Counts something that found no room.
    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many found no room since the last call.
    pub(super) fn take_refused(&self) -> usize {
        self.refused.swap(0, Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.room.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// The notes that one record of the log will have.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// The notes so far.
    pub(super) list: Vec<Note>,
    saved_bytes: usize,
}

impl Notes {
    /// Adds a note of what is saved for a session, if there is room in the record and in all.
    pub(super) fn save(&mut self, note: Note, room: &Arc<Room>) -> Option<Share> {
        let bytes = note.byte_count();
        if self.saved_bytes + bytes > SAVED_IN_RECORD_BYTES_MAX {
            room.refuse();
            return None;
        }
        let share = room.take(bytes)?;
        self.saved_bytes += bytes;
        self.list.push(note);
        Some(share)
    }

    /// Hands the notes over. They still count: they go into the same record as those to come.
    pub(super) fn take(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.list)
    }
}

/// Which message of which session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) tag: u64,
    pub(super) number: u64,
}

impl Place {
    fn key(self) -> Bytes {
        let mut key = BytesMut::with_capacity(17);
        key.put_u8(WAITS);
        key.put_u64(self.tag);
        key.put_u64(self.number);
        key.freeze()
    }

    fn of(key: &[u8]) -> Option<Place> {
        let (tag, number) = key.strip_prefix(&[WAITS])?.split_at_checked(8)?;
        Some(Place {
            tag: u64::from_be_bytes(tag.try_into().ok()?),
            number: u64::from_be_bytes(number.try_into().ok()?),
        })
    }

    /// Makes the note of a message that waits.
    pub(super) fn waits(self, delivery: &Delivery) -> Note {
        let Delivery { publication, qos, retain, subscription_ids } = delivery;
        let Publication { topic, properties, payload, .. } = &**publication;
        // As many filters as a session may have: less than 256. Topic and properties came in a packet with such lengths.
        let id_count = u8::try_from(subscription_ids.len()).unwrap_or(u8::MAX);
        let room = 10 + 4 * subscription_ids.len() + topic.len() + properties.len() + payload.len();
        let mut value = BytesMut::with_capacity(room);
        value.put_slice(&[VERSION, STATE_WAITS, *qos as u8 | if *retain { RETAIN_BIT } else { 0 }, id_count]);
        subscription_ids.iter().take(usize::from(id_count)).for_each(|id| value.put_u32(*id));
        value.put_u16(u16::try_from(topic.len()).unwrap_or(0));
        value.put_slice(topic);
        value.put_u32(u32::try_from(properties.len()).unwrap_or(0));
        value.put_slice(properties);
        value.put_slice(payload);
        Note::new(self.key(), value.freeze())
    }

    /// Makes the note that the client has received a message of QoS 2.
    pub(super) fn received(self) -> Note {
        Note::new(self.key(), Bytes::from_static(&[VERSION, STATE_RECEIVED]))
    }

    /// Makes the note that the client is done with a message.
    pub(super) fn done(self) -> Note {
        Note::forget(self.key())
    }
}

/// A message that the log knew when we started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// It has to be sent, and perhaps was.
    Message(Delivery),
    /// The client has it, and waits for its PUBREL.
    Received,
}

/// What the log knew, by session tag: the number of each message, in their order, what it is, and the bytes of its note.
pub(super) type BySession = BTreeMap<u64, Vec<(u64, Waiting, usize)>>;

/// Finds what the log knows; also returns what it need not know, because no version that we know has written it.
pub(super) fn recall(notes: &BTreeMap<Bytes, Bytes>, now: Instant) -> (BySession, Vec<Note>) {
    let (mut sessions, mut orphans) = (BySession::new(), Vec::new());
    for (key, value) in notes.iter().filter(|(key, _)| key.first() == Some(&WAITS)) {
        match Place::of(key).zip(read(value, now)) {
            Some((Place { tag, number }, waiting)) => {
                sessions.entry(tag).or_default().push((number, waiting, key.len() + value.len()));
            }
            None => orphans.push(Note::forget(key.clone())),
        }
    }
    (sessions, orphans)
}

fn read(value: &[u8], now: Instant) -> Option<Waiting> {
    let mut reader = Reader { packet: "note", bytes: value };
    if reader.u8().ok()? != VERSION {
        return None;
    }
    let number = |reader: &mut Reader<'_>| reader.take(4, "a number").ok()?.try_into().ok().map(u32::from_be_bytes);
    match reader.u8().ok()? {
        STATE_RECEIVED => return reader.bytes.is_empty().then_some(Waiting::Received),
        STATE_WAITS => {}
        _ => return None,
    }
    let flags = reader.u8().ok()?;
    let id_count = reader.u8().ok()?;
    let subscription_ids: Option<Vec<u32>> = (0..id_count).map(|_| number(&mut reader)).collect();
    let topic = Bytes::copy_from_slice(reader.text().ok()?.as_bytes());
    let length = number(&mut reader)?;
    let properties = Bytes::copy_from_slice(reader.take(usize::try_from(length).ok()?, "properties").ok()?);
    let qos = QoS::from_bits(flags & !RETAIN_BIT)?;
    let publication = Publication {
        topic,
        payload: Bytes::copy_from_slice(reader.bytes),
        qos,
        retain: flags & RETAIN_BIT != 0,
        expires_at: expiry_of(expiry_of_properties(&properties), now),
        properties,
        publisher: None,
    };
    let retain = publication.retain;
    let publication = Arc::new(publication);
    Some(Waiting::Message(Delivery { publication, qos, retain, subscription_ids: subscription_ids? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery() -> Delivery {
        let publication = Publication {
            topic: Bytes::from_static(b"plant/a"),
            payload: Bytes::from_static(b"{}"),
            qos: QoS::ExactlyOnce,
            retain: true,
            properties: Bytes::from_static(b"\x03\0\x01j"),
            publisher: None,
            expires_at: None,
        };
        Delivery {
            publication: Arc::new(publication),
            qos: QoS::ExactlyOnce,
            retain: true,
            subscription_ids: vec![7, 70_000],
        }
    }

    #[test]
    fn what_is_saved_is_found_again_by_its_session_and_number() {
        let now = Instant::now();
        let place = |tag, number| Place { tag, number };
        let notes = [place(2, 9).waits(&delivery()), place(2, 300).received(), place(1, 1).waits(&Delivery::default())];
        let notes: BTreeMap<Bytes, Bytes> = notes.into_iter().map(|note| (note.key, note.value)).collect();
        let (sessions, orphans) = recall(&notes, now);
        assert!(orphans.is_empty(), "{orphans:?}");
        let found: Vec<(u64, Waiting)> = sessions[&2].iter().map(|(number, what, _)| (*number, what.clone())).collect();
        assert_eq!(found, [(9, Waiting::Message(delivery())), (300, Waiting::Received)]);
        assert_eq!(sessions[&1][0].1, Waiting::Message(Delivery::default()));
        assert_eq!(place(2, 9).done(), Note::forget(place(2, 9).key()));
    }

    #[test]
    fn a_note_that_is_cut_is_not_taken_for_a_message() {
        let note = Place { tag: 1, number: 1 }.waits(&delivery());
        let payload_bytes = delivery().publication.payload.len();
        for length in 0..note.value.len() - payload_bytes {
            assert_eq!(read(&note.value[..length], Instant::now()), None, "{length}");
        }
        let notes = BTreeMap::from([(Bytes::from_static(b"w12345"), note.value)]);
        assert_eq!(recall(&notes, Instant::now()).1.len(), 1, "and not kept for ever");
    }

    #[test]
    fn there_is_a_bound_for_all_and_one_for_each_record() {
        let room = Arc::new(Room::default());
        let note = || Note::new("k", vec![0; SAVED_IN_RECORD_BYTES_MAX / 2 - 1]);
        let mut notes = Notes::default();
        let shares = [notes.save(note(), &room), notes.save(note(), &room), notes.save(note(), &room)];
        assert_eq!(shares.iter().flatten().count(), 2);
        assert_eq!(notes.take().len(), 2);
        assert!(notes.save(note(), &room).is_none(), "they go into the same record");
        let more: Vec<Share> = (0..9).flat_map(|_| Notes::default().save(note(), &room)).collect();
        assert_eq!((more.len(), room.take_refused()), (2, 9));
        drop((shares, more));
        assert_eq!(room.bytes(), 0);
    }
}
