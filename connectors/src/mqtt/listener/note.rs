//! What the log knows of a session: one note for each client id.
//!
//! ```text
//!   key     's' │ client id
//!   value   version: 2 │ expiry: u32, seconds │ tag: u64 │ subscriptions …
//!           version: 1 │ expiry: u32, seconds │ subscriptions …      as older programs wrote it
//!           subscription: options: u8 │ id: u32, 0 for none │ length: u16 │ filter
//!           options: bits 0-1 QoS, bit 2 no-local, bit 3 retain-as-published
//!   numbers big-endian
//! ```
//!
//! The tag is that of the messages which wait for the session (`saved.rs`).
//!
//! At most 100 subscriptions, so a note has seven mebibytes at the very most, and some dozen bytes in life. The packet ids of
//! QoS 2 that a session holds are notes of their own, of the receiver.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use tidemill_engine::source::Note;

use super::super::packet::QoS;
use super::super::properties::Reader;
use super::delivery::Grant;
use super::sessions::Expiry;

/// The first byte of a session's key.
const SESSION: u8 = b's';
const VERSION: u8 = 2;
/// Without a tag.
const VERSION_1: u8 = 1;

/// Makes the note of a session.
pub(super) fn remember(client_id: &str, expiry: Expiry, tag: u64, subscriptions: &BTreeMap<String, Grant>) -> Note {
    let mut value = BytesMut::new();
    value.put_u8(VERSION);
    value.put_u32(expiry.0);
    value.put_u64(tag);
    for (filter, grant) in subscriptions {
        let options = grant.qos as u8 | u8::from(grant.no_local) << 2 | u8::from(grant.retain_as_published) << 3;
        value.put_u8(options);
        value.put_u32(grant.subscription_id.unwrap_or(0));
        // A filter came with such a length.
        value.put_u16(u16::try_from(filter.len()).unwrap_or(u16::MAX));
        value.put_slice(filter.as_bytes());
    }
    Note::new(key(client_id), value.freeze())
}

/// Makes the note that a session is over.
pub(super) fn forget(client_id: &str) -> Note {
    Note::forget(key(client_id))
}

fn key(client_id: &str) -> Bytes {
    let mut key = BytesMut::with_capacity(1 + client_id.len());
    key.put_u8(SESSION);
    key.put_slice(client_id.as_bytes());
    key.freeze()
}

/// What a note says of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recalled<'n> {
    pub(super) client_id: &'n str,
    pub(super) expiry: Expiry,
    /// It has none if an older version has written it.
    pub(super) tag: Option<u64>,
    pub(super) subscriptions: BTreeMap<String, Grant>,
}

/// Reads a note; `None` if it is not one of a session, or not of a version that we know.
pub(super) fn recall<'n>(key: &'n [u8], value: &[u8]) -> Option<Recalled<'n>> {
    let client_id = std::str::from_utf8(key.strip_prefix(&[SESSION])?).ok()?;
    let mut reader = Reader { packet: "note", bytes: value };
    let version = reader.u8().ok()?;
    let number = |reader: &mut Reader<'_>| reader.take(4, "a number").ok()?.try_into().ok().map(u32::from_be_bytes);
    let expiry = Expiry(number(&mut reader)?);
    let tag = match version {
        VERSION => Some(reader.take(8, "a number").ok()?.try_into().ok().map(u64::from_be_bytes)?),
        VERSION_1 => None,
        _ => return None,
    };
    let mut subscriptions = BTreeMap::new();
    while !reader.bytes.is_empty() {
        let options = reader.u8().ok()?;
        let subscription_id = Some(number(&mut reader)?).filter(|id| *id != 0);
        let filter = reader.text().ok()?.to_owned();
        let grant = Grant {
            qos: QoS::from_bits(options & 0b11)?,
            no_local: options & 0b100 != 0,
            retain_as_published: options & 0b1000 != 0,
            subscription_id,
        };
        subscriptions.insert(filter, grant);
    }
    Some(Recalled { client_id, expiry, tag, subscriptions })
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::super::results::Taken;
    use super::super::retained::Retained;
    use super::super::saved::Place;
    use super::super::{saved, will};
    use super::*;
    use crate::mqtt::remembered::Remembered;

    /// Whatever a log of another version holds: what is read is what would be written.
    #[test]
    fn fuzz_notes() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/src/mqtt/corpus/notes");
        tidemill_engine::testing::fuzz::fuzz(corpus, |input| {
            let Some((key_bytes, rest)) = input.split_first() else { return false };
            let (key, value) = rest.split_at(usize::from(*key_bytes).min(rest.len()));
            let notes = BTreeMap::from([(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))]);
            let mut sessions = Remembered::recall(&notes);
            let orphans = Retained::default().restore(&notes, Instant::now());
            assert!(orphans.iter().all(|note| note.value.is_empty()));
            let is_of_others = !sessions.is_empty() || (key.first() == Some(&b't') && orphans.is_empty());
            for session in sessions.values_mut() {
                assert!(session.end().iter().all(|note| note.value.is_empty()));
            }
            let now = Instant::now();
            let (waiting, orphans) = saved::recall(&notes, now);
            assert!(orphans.iter().all(|note| note.value.is_empty()));
            for (tag, messages) in &waiting {
                for (number, what, _) in messages {
                    let place = Place { tag: *tag, number: *number };
                    let note = match what {
                        saved::Waiting::Message(delivery) => place.waits(delivery),
                        saved::Waiting::Received => place.received(),
                    };
                    let (again, _) = saved::recall(&BTreeMap::from([(note.key, note.value)]), now);
                    assert_eq!(again[tag][0].1, *what);
                }
            }
            let will = will::recall(key, value);
            if let Some(recalled) = &will {
                let note = will::remember(recalled.client_id, recalled.due_at_us, &recalled.will);
                assert_eq!(will::recall(&note.key, &note.value).as_ref(), Some(recalled));
            }
            let is_outbox = key.first() == Some(&b'k') && Taken::default().restore(&notes).is_empty();
            let is_of_others = is_of_others || !waiting.is_empty() || will.is_some() || is_outbox;
            let Some(recalled) = recall(key, value) else { return is_of_others };
            let tag = recalled.tag.unwrap_or(7);
            let again = remember(recalled.client_id, recalled.expiry, tag, &recalled.subscriptions);
            assert_eq!(recall(&again.key, &again.value), Some(Recalled { tag: Some(tag), ..recalled }));
            true
        });
    }

    #[test]
    fn what_is_remembered_is_recalled() {
        let grant = |qos, id| Grant { qos, no_local: true, retain_as_published: false, subscription_id: id };
        let subscriptions = BTreeMap::from([
            ("a/+".to_owned(), grant(QoS::ExactlyOnce, Some(70_000))),
            ("ä/#".to_owned(), grant(QoS::AtMostOnce, None)),
        ]);
        let note = remember("press-7", Expiry(3_600), 1 << 60, &subscriptions);
        let recalled = recall(&note.key, &note.value).expect("a note of a session");
        let tag = Some(1 << 60);
        let expected = Recalled { client_id: "press-7", expiry: Expiry(3_600), tag, subscriptions };
        assert_eq!(recalled, expected);
        // As before there were tags.
        let older = [&[VERSION_1], &note.value[1..5], &note.value[13..]].concat();
        assert_eq!(recall(&note.key, &older), Some(Recalled { tag: None, ..expected }));
        assert_eq!(forget("press-7"), Note::forget(note.key));
    }

    #[test]
    fn a_note_that_is_cut_or_of_another_kind_is_not_recalled() {
        let grant = Grant { qos: QoS::AtMostOnce, no_local: false, retain_as_published: false, subscription_id: None };
        let note = remember("a", Expiry(1), 9, &BTreeMap::from([("topic".to_owned(), grant)]));
        let whole = 13;
        for length in (0..note.value.len()).filter(|length| *length != whole) {
            assert_eq!(recall(&note.key, &note.value[..length]), None, "{length}");
        }
        assert_eq!(recall(b"qa", &note.value), None);
    }
}
