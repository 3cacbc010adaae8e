//! The last message of each topic whose publisher asked for it to be kept.
//!
//! A restart finds them again: each is a note in the log, in the record of the message that it is, or, of a sink's row, in a
//! record of its own, and is seen by others when that is durable.
//!
//! ```text
//!   key     't' │ topic
//!   value   version: 1 │ QoS: u8 │ length: u32 │ properties of MQTT 5, as on the wire │ payload
//!   numbers big-endian
//! ```
//!
//! A message that expires has its whole time again after a restart: how long the program was away is not counted. All of them
//! have [`RETAINED_BYTES_MAX`] at most, since each checkpoint holds them all.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use tidemill_engine::source::Note;
use tokio::time::Instant;

use super::super::attributes::expiry_of_properties;
use super::super::packet::QoS;
use super::super::properties::Reader;
use super::filter;
use super::hub::{Publication, expiry_of};

/// The first byte of a retained message's key.
const RETAINED: u8 = b't';
const VERSION: u8 = 1;

/// How many topics may have a retained message.
pub(super) const RETAINED_MAX: usize = 10_000;
/// How many bytes all of them may have.
pub(super) const RETAINED_BYTES_MAX: usize = 16 << 20;

/// Retained messages by topic.
#[derive(Debug, Default)]
pub(super) struct Retained {
    messages: BTreeMap<String, Arc<Publication>>,
    bytes: usize,
    /// What has expired, and the log still knows.
    gone: Vec<Note>,
}

impl Retained {
    /// Keeps a message in place of an older one; an empty one only removes. Returns `false` if there is no room.
    pub(super) fn keep(&mut self, publication: &Publication, now: Instant) -> bool {
        let topic = publication.topic();
        if let Some(older) = self.messages.remove(topic) {
            self.bytes -= byte_count(&older);
        }
        if publication.payload.is_empty() {
            return true;
        }
        if !self.has_room(byte_count(publication)) {
            self.drop_expired(now);
        }
        if !self.has_room(byte_count(publication)) {
            return false;
        }
        self.bytes += byte_count(publication);
        self.messages.insert(topic.to_owned(), Arc::new(publication.detached()));
        true
    }

    /// Returns what a filter takes, in the order of topics.
    pub(super) fn find(&self, wanted: &str, now: Instant) -> Vec<Arc<Publication>> {
        // All that match begin with what stands before the first wildcard; without one there is one topic at most. The
        // slash before '#' is left out, since 'a/#' takes 'a'.
        let literal = wanted.split(['+', '#']).next().unwrap_or_default();
        if literal.len() == wanted.len() {
            return self.messages.get(wanted).filter(|p| !p.is_expired(now)).cloned().into_iter().collect();
        }
        let prefix = literal.strip_suffix('/').unwrap_or(literal);
        self.messages
            .range(prefix.to_owned()..)
            .take_while(|(topic, _)| topic.starts_with(prefix))
            .filter(|(topic, publication)| filter::matches(wanted, topic) && !publication.is_expired(now))
            .map(|(_, publication)| Arc::clone(publication))
            .collect()
    }

    /// Returns what the log must know of a message that is going to be kept, and of others that it need not know any more.
    pub(super) fn notes_of(&mut self, publication: &Publication) -> impl Iterator<Item = Note> {
        let topic = publication.topic();
        let older = self.messages.get(topic).map(|older| byte_count(older));
        // Not exact while others publish: what is noted and has no room after all is forgotten at the next start.
        let has_room = older.is_some() || self.messages.len() < RETAINED_MAX;
        let bytes = self.bytes - older.unwrap_or(0) + byte_count(publication);
        let note = match has_room && bytes <= RETAINED_BYTES_MAX && !publication.payload.is_empty() {
            true => Some(remember(publication)),
            false => older.is_some().then(|| Note::forget(key(topic))),
        };
        std::mem::take(&mut self.gone).into_iter().chain(note)
    }

    /// Begins with what the log knows; returns what it need not know any more.
    pub(super) fn restore(&mut self, notes: &BTreeMap<Bytes, Bytes>, now: Instant) -> Vec<Note> {
        *self = Retained::default();
        let ours = notes.iter().filter(|(key, _)| key.first() == Some(&RETAINED));
        let is_kept = |retained: &mut Retained, key: &Bytes, value: &Bytes| {
            recall(key, value, now).is_some_and(|publication| retained.keep(&publication, now))
        };
        ours.filter(|(key, value)| !is_kept(self, key, value)).map(|(key, _)| Note::forget(key.clone())).collect()
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.messages.len() < RETAINED_MAX && self.bytes + bytes <= RETAINED_BYTES_MAX
    }

    fn drop_expired(&mut self, now: Instant) {
        let gone = &mut self.gone;
        self.messages.retain(|topic, publication| {
            let is_expired = publication.is_expired(now);
            if is_expired {
                gone.push(Note::forget(key(topic)));
            }
            !is_expired
        });
        self.bytes = self.messages.values().map(|publication| byte_count(publication)).sum();
    }
}

fn key(topic: &str) -> Bytes {
    let mut key = BytesMut::with_capacity(1 + topic.len());
    key.put_u8(RETAINED);
    key.put_slice(topic.as_bytes());
    key.freeze()
}

fn remember(publication: &Publication) -> Note {
    let Publication { properties, payload, .. } = publication;
    let mut value = BytesMut::with_capacity(6 + properties.len() + payload.len());
    value.put_u8(VERSION);
    value.put_u8(publication.qos as u8);
    // They came in a packet, whose length has 28 bits.
    value.put_u32(u32::try_from(properties.len()).unwrap_or(0));
    value.put_slice(properties);
    value.put_slice(payload);
    Note::new(key(publication.topic()), value.freeze())
}

/// Reads a note; `None` if it is not one of a retained message, or not of a version that we know.
fn recall(key: &[u8], value: &[u8], now: Instant) -> Option<Publication> {
    let topic = std::str::from_utf8(key.strip_prefix(&[RETAINED])?).ok()?;
    let mut reader = Reader { packet: "note", bytes: value };
    if reader.u8().ok()? != VERSION {
        return None;
    }
    let qos = QoS::from_bits(reader.u8().ok()?)?;
    let length = reader.take(4, "a number").ok()?.try_into().ok().map(u32::from_be_bytes)?;
    let properties = Bytes::copy_from_slice(reader.take(usize::try_from(length).ok()?, "properties").ok()?);
    Some(Publication {
        topic: Bytes::copy_from_slice(topic.as_bytes()),
        payload: Bytes::copy_from_slice(reader.bytes),
        qos,
        retain: true,
        expires_at: expiry_of(expiry_of_properties(&properties), now),
        properties,
        publisher: None,
    })
}

fn byte_count(publication: &Publication) -> usize {
    128 + 2 * publication.topic.len() + publication.payload.len() + publication.properties.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(topic: &str, payload: &str) -> Publication {
        Publication {
            topic: Bytes::copy_from_slice(topic.as_bytes()),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            qos: QoS::AtLeastOnce,
            retain: true,
            properties: Bytes::new(),
            publisher: None,
            expires_at: None,
        }
    }

    #[test]
    fn the_last_message_of_a_topic_is_found_by_any_filter_that_takes_it() {
        let now = Instant::now();
        let mut retained = Retained::default();
        for (topic, payload) in
            [("a", "1"), ("a/b", "2"), ("a/b/c", "3"), ("ab", "4"), ("a/b", "5"), ("x", "6"), ("x", "")]
        {
            assert!(retained.keep(&message(topic, payload), now));
        }
        let found = |filter: &str| -> Vec<String> {
            let found = retained.find(filter, now);
            found.iter().map(|p| String::from_utf8_lossy(&p.payload).into_owned()).collect()
        };
        assert_eq!(found("a/b"), ["5"]);
        assert_eq!(found("a/#"), ["1", "5", "3"]);
        assert_eq!(found("a/+"), ["5"]);
        assert_eq!(found("+"), ["1", "4"]);
        assert_eq!(found("#"), ["1", "5", "3", "4"]);
        assert!(found("x").is_empty(), "an empty message removes");
    }

    #[test]
    fn there_is_a_bound_and_what_has_expired_makes_room() {
        let now = Instant::now();
        let later = now + std::time::Duration::from_secs(60);
        let mut retained = Retained::default();
        for idx in 0..RETAINED_MAX {
            let expires_at = (idx == 0).then_some(now + std::time::Duration::from_secs(5));
            assert!(retained.keep(&Publication { expires_at, ..message(&format!("t/{idx}"), "x") }, now));
        }
        assert!(!retained.keep(&message("one/more", "x"), now));
        assert!(retained.keep(&message("t/1", "y"), now), "a topic that is there may change");
        assert!(retained.keep(&message("one/more", "x"), later));
        let notes: Vec<Note> = retained.notes_of(&message("t/1", "")).collect();
        assert_eq!(notes, [Note::forget("tt/0"), Note::forget("tt/1")], "what has expired, and what is removed");
        let large = "x".repeat(RETAINED_BYTES_MAX);
        assert!(!retained.keep(&message("t/2", &large), later));
    }

    #[test]
    fn what_is_kept_is_found_again_after_a_restart() {
        let now = Instant::now();
        let mut retained = Retained::default();
        let mut log: BTreeMap<Bytes, Bytes> = BTreeMap::from([(Bytes::from("sa"), Bytes::from("of others"))]);
        // Expires after 60 seconds, and says what it is.
        let properties = Bytes::from_static(b"\x02\0\0\0\x3c\x03\0\x01j");
        let rich = Publication { properties, qos: QoS::ExactlyOnce, ..message("rich", "{}") };
        for publication in [message("a", "1"), message("b", "2"), message("a", "3"), message("b", ""), rich] {
            for Note { key, value } in retained.notes_of(&publication) {
                if value.is_empty() {
                    log.remove(&key)
                } else {
                    log.insert(key, value)
                };
            }
            assert!(retained.keep(&publication, now));
        }
        log.insert(Bytes::from("todd"), Bytes::from("\x09"));
        let mut again = Retained::default();
        assert_eq!(again.restore(&log, now), [Note::forget("todd")]);
        let found = again.find("#", now);
        assert_eq!(found.iter().map(|p| p.topic()).collect::<Vec<_>>(), ["a", "rich"]);
        assert_eq!((&found[0].payload[..], found[0].qos), (&b"3"[..], QoS::AtLeastOnce));
        assert_eq!((found[1].qos, found[1].properties.len()), (QoS::ExactlyOnce, 9));
        let later = now + std::time::Duration::from_secs(61);
        assert_eq!(again.find("#", later).len(), 1, "the other has expired");
    }
}
