//! What a client wants published when it vanishes.
//!
//! ```text
//!   the connection ends without a good-bye, or with reason 0x04 ──(delay)──► published: logged, and sent to subscribers
//!                                                 │
//!                  the client comes back into its session: taken back
//! ```
//!
//! The delay ends early when the session ends. A good-bye takes the will back, and so does our own stop, which is no
//! misfortune of the device. A will that waits is a note in the log: after a restart it is published when its time has come, by
//! the clock, or taken back as before. The record that has it as a message has the end of its note.
//!
//! ```text
//!   key     'l' │ client id
//!   value   version: 1 │ due at: i64, microseconds since 1970 │ QoS: u8, bit 2 retain │ length: u16 │ topic │
//!           length: u32 │ properties of MQTT 5, as on the wire │ payload
//!   numbers big-endian
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tidemill_engine::source::Note;
use tokio::time::Instant;

use super::super::connection::End;
use super::super::packet::{QoS, Will, reason};
use super::super::properties::Reader;
use super::saved::Share;

/// The first byte of the key of a will that waits.
const WILL: u8 = b'l';
const VERSION: u8 = 1;
const RETAIN_BIT: u8 = 0b100;

/// A will whose client has vanished, with what is needed to publish it.
#[derive(Debug)]
pub(super) struct Bequest {
    pub(super) client_id: Arc<str>,
    pub(super) will: Will,
    /// The mailbox of the client, for those who said no-local.
    pub(super) publisher: u64,
    /// The room that its note takes, if the log knows it.
    pub(super) saved: Option<Share>,
}

impl Bequest {
    /// Returns what the log need not know any more, when it is published or taken back.
    pub(super) fn forget(&self) -> Option<Note> {
        self.saved.as_ref().map(|_| forget(&self.client_id))
    }
}

/// Makes the note of a will that waits.
pub(super) fn remember(client_id: &str, due_at_us: i64, will: &Will) -> Note {
    let Will { topic, payload, qos, retain, properties, .. } = will;
    let mut value = BytesMut::with_capacity(16 + topic.len() + properties.len() + payload.len());
    value.put_u8(VERSION);
    value.put_i64(due_at_us);
    value.put_u8(*qos as u8 | if *retain { RETAIN_BIT } else { 0 });
    // They came in a packet with such lengths.
    value.put_u16(u16::try_from(topic.len()).unwrap_or(0));
    value.put_slice(topic);
    value.put_u32(u32::try_from(properties.len()).unwrap_or(0));
    value.put_slice(properties);
    value.put_slice(payload);
    Note::new(key(client_id), value.freeze())
}

/// Makes the note that no will of a client waits.
pub(super) fn forget(client_id: &str) -> Note {
    Note::forget(key(client_id))
}

/// A will that the log knew when we started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recalled<'n> {
    pub(super) client_id: &'n str,
    pub(super) due_at_us: i64,
    pub(super) will: Will,
}

/// Says whether a note is one of a will, of any version.
pub(super) fn is_will(key: &[u8]) -> bool {
    key.first() == Some(&WILL)
}

/// Reads a note; `None` if it is not one of a will, or not of a version that we know.
pub(super) fn recall<'n>(key: &'n [u8], value: &[u8]) -> Option<Recalled<'n>> {
    let client_id = std::str::from_utf8(key.strip_prefix(&[WILL])?).ok()?;
    let mut reader = Reader { packet: "note", bytes: value };
    if reader.u8().ok()? != VERSION {
        return None;
    }
    let due_at_us = reader.take(8, "a number").ok()?.try_into().ok().map(i64::from_be_bytes)?;
    let flags = reader.u8().ok()?;
    let topic = Bytes::copy_from_slice(reader.text().ok()?.as_bytes());
    let length = reader.take(4, "a number").ok()?.try_into().ok().map(u32::from_be_bytes)?;
    let properties = Bytes::copy_from_slice(reader.take(usize::try_from(length).ok()?, "properties").ok()?);
    let will = Will {
        topic,
        payload: Bytes::copy_from_slice(reader.bytes),
        qos: QoS::from_bits(flags & !RETAIN_BIT)?,
        retain: flags & RETAIN_BIT != 0,
        delay_s: 0,
        properties,
    };
    Some(Recalled { client_id, due_at_us, will })
}

fn key(client_id: &str) -> Bytes {
    let mut key = BytesMut::with_capacity(1 + client_id.len());
    key.put_u8(WILL);
    key.put_slice(client_id.as_bytes());
    key.freeze()
}

/// Says whether the end of a connection is one that a will is for.
pub(super) fn is_due_after(end: &End) -> bool {
    match end {
        End::Disconnected { code, .. } => *code == reason::DISCONNECT_WITH_WILL,
        End::Stopped | End::Intake(_) => false,
        End::TakenOver | End::Closed | End::Violation(_) | End::Refused(_) | End::Io(_) => true,
    }
}

/// Returns when a will is to be published: after its delay, but not after its session.
pub(super) fn due_at(will: &Will, session_expiry_s: u32, now: Instant) -> Instant {
    now + Duration::from_secs(u64::from(will.delay_s.min(session_expiry_s)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_will_that_waits_is_recalled_and_a_note_that_is_cut_is_not() {
        let will = Will {
            topic: Bytes::from_static(b"plant/a/status"),
            payload: Bytes::from_static(b"gone"),
            qos: QoS::AtLeastOnce,
            retain: true,
            delay_s: 0,
            properties: Bytes::from_static(b"\x03\0\x01j"),
        };
        let note = remember("press-7", -5, &will);
        let recalled = recall(&note.key, &note.value).expect("a note of a will");
        assert_eq!(recalled, Recalled { client_id: "press-7", due_at_us: -5, will: will.clone() });
        for length in 0..note.value.len() - will.payload.len() {
            assert_eq!(recall(&note.key, &note.value[..length]), None, "{length}");
        }
        assert_eq!(recall(b"spress-7", &note.value), None);
    }
}
