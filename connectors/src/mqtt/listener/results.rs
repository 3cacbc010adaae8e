//! The listener as the sinks of this process see it: rows come in, and go to all who subscribed.
//!
//! A sink that dies between a record of ours and its own cursor gives the same rows again. So the record that has rows for
//! sessions has a note of how far they go:
//!
//! ```text
//!   key     'k' │ name of the outbox
//!   value   version: 1 │ number behind the last row: u64
//!   numbers big-endian
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tidemill_engine::source::{BoxFuture, Note};
use tokio::time::{Instant, sleep};

use super::super::local::{LocalBroker, LocalMessage};
use super::house::Log;
use super::hub::{Announced, Hub, Publication};
use super::mailbox::Mailbox;
use super::saved::Notes;

/// How long a sink waits for subscribers that are behind, with each few hundred rows.
const SLOW_SUBSCRIBER_PATIENCE: Duration = Duration::from_secs(1);
/// How often it looks whether they are still.
const SLOW_SUBSCRIBER_LOOK: Duration = Duration::from_millis(5);

/// The first byte of the key of an outbox.
const OUTBOX: u8 = b'k';
const VERSION: u8 = 1;
/// How many outboxes are known. Of more the log has nothing, and a crash may bring their last rows twice.
const OUTBOXES_MAX: usize = 1_000;

/// How far the rows of each outbox are taken: those below a number are in the log, for all sessions that must not miss them.
#[derive(Debug, Default)]
pub(super) struct Taken(Mutex<BTreeMap<String, u64>>);

impl Taken {
    /// Begins with what the log knows; returns what it need not know any more.
    pub(super) fn restore(&self, notes: &BTreeMap<Bytes, Bytes>) -> Vec<Note> {
        let mut taken = self.0.lock();
        taken.clear();
        let mut unknown = Vec::new();
        for (key, value) in notes.iter().filter(|(key, _)| key.first() == Some(&OUTBOX)) {
            let outbox = std::str::from_utf8(&key[1..]).ok();
            let end = value.strip_prefix(&[VERSION]).and_then(|end| Some(u64::from_be_bytes(end.try_into().ok()?)));
            match outbox.zip(end).filter(|_| taken.len() < OUTBOXES_MAX) {
                Some((outbox, end)) => drop(taken.insert(outbox.to_owned(), end)),
                None => unknown.push(Note::forget(key.clone())),
            }
        }
        unknown
    }

    fn end(&self, outbox: &str) -> u64 {
        self.0.lock().get(outbox).copied().unwrap_or(0)
    }

    /// Makes the note of how far the rows of an outbox are taken, if there is room for it.
    fn note(&self, outbox: &str, end: u64) -> Option<Note> {
        let taken = self.0.lock();
        let is_known = taken.len() < OUTBOXES_MAX || taken.contains_key(outbox);
        is_known.then(|| {
            let key = [&[OUTBOX], outbox.as_bytes()].concat();
            Note::new(key, [&[VERSION][..], &end.to_be_bytes()].concat())
        })
    }

    fn set(&self, outbox: String, end: u64) {
        self.0.lock().insert(outbox, end);
    }
}

/// See the module.
pub(super) struct Results {
    pub(super) hub: Arc<Hub>,
    pub(super) taken: Arc<Taken>,
    pub(super) log: Log,
}

impl LocalBroker for Results {
    /// Gives rows of a sink to all who subscribed, when the log has what is retained of them, and what is for sessions that
    /// outlive their connections. A window that closes for many keys brings more rows at once than a mailbox holds,
    /// so a subscriber that reads gets time for it.
    fn publish(&self, outbox: String, mut messages: Vec<LocalMessage>) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let taken = self.taken.end(&outbox);
            messages.retain(|message| message.number >= taken);
            let Some(end) = messages.last().map(|last| last.number + 1) else { return Ok(()) };
            let mut notes = Notes::default();
            let announce = |message| self.hub.announce(publication(message), &mut notes);
            let announced: Vec<Announced> = messages.into_iter().map(announce).collect();
            let mut notes = notes.take();
            if !notes.is_empty() {
                let taken = self.taken.note(&outbox, end);
                let is_noted = taken.is_some();
                notes.extend(taken);
                self.log.append(Vec::new(), notes).await.map_err(|error| error.to_string())?;
                if is_noted {
                    self.taken.set(outbox, end);
                }
            }
            let mut slow: BTreeMap<u64, Arc<Mailbox>> = BTreeMap::new();
            for announced in announced {
                let heard_by = self.hub.publish(announced);
                slow.extend(heard_by.into_iter().filter(|m| m.is_half_full()).map(|mailbox| (mailbox.number, mailbox)));
            }
            let until = Instant::now() + SLOW_SUBSCRIBER_PATIENCE;
            while slow.values().any(|mailbox| mailbox.is_half_full()) && Instant::now() < until {
                sleep(SLOW_SUBSCRIBER_LOOK).await;
            }
            Ok(())
        })
    }
}

fn publication(message: LocalMessage) -> Publication {
    let LocalMessage { topic, payload, qos, retain, .. } = message;
    Publication { topic, payload, qos, retain, properties: Bytes::new(), publisher: None, expires_at: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_an_outbox_is_taken_is_found_again() {
        let taken = Taken::default();
        let note = taken.note("listener-1", 70_000).expect("there is room");
        let unknown = (Bytes::from_static(b"klistener-2"), Bytes::from_static(b"\x02abcdefgh"));
        let notes = BTreeMap::from([(note.key, note.value), unknown]);
        assert_eq!(taken.restore(&notes), [Note::forget("klistener-2")]);
        assert_eq!((taken.end("listener-1"), taken.end("listener-2")), (70_000, 0));
    }
}
