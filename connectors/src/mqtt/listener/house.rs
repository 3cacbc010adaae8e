//! What all connections of one listener share, and the tasks that look after it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tidemill_engine::clock::{Clock, Dice};
use tidemill_engine::source::{Chunk, Intake, IntakeError, Message, Note, Resume, Stop};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::super::attributes;
use super::super::packet::{Publish, Will};
use super::super::remembered::{Arena, Remembered, session_name};
use super::super::topic::TopicPattern;
use super::PARTITION;
use super::acl::Acl;
use super::auth::Door;
use super::guest::publication;
use super::hub::Hub;
use super::limits::Handshakes;
use super::note;
use super::results::Taken;
use super::saved::{self, Notes, Place};
use super::sessions::{Kept, Sessions};
use super::watched::{FileError, Watched};
use super::will::{self, Bequest, Recalled};
use crate::stall::Patience;
use crate::tls::TlsServer;

/// How often files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What the connections share.
pub(super) struct House {
    pub(super) name: String,
    pub(super) pattern: TopicPattern,
    pub(super) door: Door,
    pub(super) acl: Option<Arc<Watched<Acl>>>,
    pub(super) tls: Option<TlsServer>,
    /// The longest that a session may outlive its connection.
    pub(super) session_expiry_max_s: u32,
    pub(super) sessions: Sessions,
    pub(super) hub: Arc<Hub>,
    pub(super) taken: Arc<Taken>,
    pub(super) handshakes: Handshakes,
    /// How long a client that reads nothing is kept.
    pub(super) patience: Patience,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) dice: Arc<dyn Dice>,
}

/// How connections reach the log, and how one of them ends all when the log has failed.
#[derive(Clone)]
pub(super) struct Log {
    pub(super) intake: Arc<dyn Intake>,
    /// Ends all connections: because the program stops, or because the log has failed.
    pub(super) ending: Stop,
    pub(super) failed: Arc<Mutex<Option<IntakeError>>>,
}

impl Log {
    /// Appends, and waits until it is durable. An error ends the source.
    pub(super) async fn append(&self, messages: Vec<Message>, notes: Vec<Note>) -> Result<(), IntakeError> {
        let chunk = if notes.is_empty() { Chunk::Messages(messages) } else { Chunk::Noted(messages, notes) };
        let durable = match self.intake.append(PARTITION, chunk).await {
            Ok(receipt) => receipt.await.map(|_| ()),
            Err(error) => Err(error),
        };
        durable.inspect_err(|error| self.fail(error.clone()))
    }

    /// Ends the source: when the log has failed, nothing may be acknowledged any more, on any connection.
    pub(super) fn fail(&self, error: IntakeError) {
        match error {
            IntakeError::Stopping => {}
            error => {
                self.failed.lock().get_or_insert(error);
                self.ending.cancel();
            }
        }
    }
}

impl House {
    /// Reads the files. Blocks.
    pub(super) fn load(&self) -> Result<(), FileError> {
        if let Some(file) = self.door.file() {
            file.load()?;
        }
        if let Some(file) = &self.acl {
            file.load()?;
        }
        Ok(())
    }

    /// Puts back the sessions that the log knows, all of them without their clients, with what waits for them and their wills,
    /// and what is retained. Returns what the log must know instead, or need not know any more.
    pub(super) fn restore(&self, resume: &[Resume]) -> Vec<Note> {
        self.sessions.clear();
        self.hub.forget_subscribers();
        let (none, now) = (BTreeMap::new(), Instant::now());
        let notes = resume.iter().find(|resume| resume.partition == PARTITION).map_or(&none, |resume| &resume.notes);
        let mut changes = self.hub.restore_retained(notes);
        changes.extend(self.taken.restore(notes));
        let mut remembered = Remembered::recall(notes);
        let (mut waiting, orphans) = saved::recall(notes, now);
        changes.extend(orphans);
        let mut wills: BTreeMap<&str, Recalled<'_>> = BTreeMap::new();
        for (key, value) in notes.iter().filter(|(key, _)| will::is_will(key)) {
            match will::recall(key, value) {
                Some(recalled) => drop(wills.insert(recalled.client_id, recalled)),
                None => changes.push(Note::forget(key.clone())),
            }
        }
        for (key, value) in notes {
            let Some(note::Recalled { client_id, expiry, tag, subscriptions }) = note::recall(key, value) else {
                continue;
            };
            let messages = tag.and_then(|tag| waiting.remove(&tag)).unwrap_or_default();
            let first = messages.first().map_or_else(|| self.first_number(), |(number, ..)| *number);
            let mut kept = Kept::new(self.sessions.new_number(), first, client_id);
            if let Some(remembered) = remembered.remove(&session_name(client_id)) {
                kept.remembered = remembered;
            }
            kept.mailbox.set_present(false);
            let new_tag = self.hub.save(&kept.mailbox, tag.unwrap_or_else(|| self.new_tag()));
            if tag.is_none() {
                changes.push(note::remember(client_id, expiry, new_tag, &subscriptions));
            }
            for (number, what, bytes) in messages {
                kept.mailbox.restore(number, what, self.hub.room().take_over(bytes));
            }
            for (filter, grant) in &subscriptions {
                self.hub.subscribe(&kept.mailbox, filter, grant.clone());
            }
            kept.will = wills.remove(client_id).map(|recalled| self.restore_will(recalled, kept.mailbox.number, now));
            kept.expiry = expiry;
            kept.noted = Some(expiry);
            kept.subscriptions = subscriptions;
            self.sessions.restore(client_id, kept);
        }
        // Of sessions that have ended: the program died before it could say so.
        changes.extend(remembered.into_values().flat_map(|mut remembered| remembered.end()));
        let orphans = waiting.into_iter().flat_map(|(tag, messages)| messages.into_iter().map(move |m| (tag, m.0)));
        changes.extend(orphans.map(|(tag, number)| Place { tag, number }.done()));
        changes.extend(wills.into_keys().map(will::forget));
        changes
    }

    /// Puts a will back that waits for its time.
    fn restore_will(&self, recalled: Recalled<'_>, publisher: u64, now: Instant) -> (Instant, Bequest) {
        let Recalled { client_id, due_at_us, will } = recalled;
        let left_us = due_at_us.saturating_sub(self.clock.now_us());
        // Its note has as many bytes, nearly.
        let bytes = client_id.len() + will.topic.len() + will.properties.len() + will.payload.len();
        let saved = Some(self.hub.room().take_over(bytes));
        let bequest = Bequest { client_id: Arc::from(client_id), will, publisher, saved };
        (now + Duration::from_micros(u64::try_from(left_us).unwrap_or(0)), bequest)
    }

    /// Returns a tag for the messages of a session.
    pub(super) fn new_tag(&self) -> u64 {
        self.dice.roll()
    }

    /// Returns the number that a session's messages begin with.
    pub(super) fn first_number(&self) -> u64 {
        1 + self.dice.roll() % 65_535
    }

    /// Publishes what a client has left.
    pub(super) async fn publish_will(&self, bequest: Bequest, log: &Log) {
        let mut notes = Notes::default();
        notes.list.extend(bequest.forget());
        let Bequest { will, publisher, .. } = bequest;
        let Will { topic, payload, qos, retain, properties, .. } = will;
        let publish = Publish { topic, payload, qos, retain, properties, ..Publish::default() };
        if !std::str::from_utf8(&publish.topic).is_ok_and(|topic| self.pattern.accepts(topic)) {
            log.intake.count_error("topic");
        }
        let attributes = attributes::encode(&publish, &mut Arena::default());
        let message = Message { topic: publish.topic, payload: publish.payload, attributes };
        let announced = publication(&message, publisher).map(|publication| self.hub.announce(publication, &mut notes));
        if log.append(vec![message], notes.take()).await.is_ok()
            && let Some(announced) = announced
        {
            let _ = self.hub.publish(announced);
        }
    }

    /// Ends sessions that have expired, and publishes wills whose time has come, until the source stops.
    pub(super) async fn watch_sessions(self: Arc<Self>, log: Log) {
        while !log.ending.is_cancelled() {
            let due = self.sessions.next_due();
            tokio::select! {
                () = log.ending.cancelled() => return,
                () = self.sessions.changed.notified() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
            let (wills, expired) = self.sessions.take_due(Instant::now());
            for will in wills {
                self.publish_will(will, &log).await;
            }
            for id in expired {
                self.expire(&id, &log).await;
            }
        }
    }

    /// Ends a session that has expired; a client that comes back meanwhile waits for it, and begins anew.
    async fn expire(&self, id: &str, log: &Log) {
        let Some(claim) = self.sessions.claim_expired(id, Instant::now()) else { return };
        let mut entered = claim.enter().await;
        if let Some(kept) = entered.take() {
            let notes = kept.end(id, &self.hub);
            if !notes.is_empty() {
                // If the log takes no more, the source ends, and the session with it or at its next start.
                let _ = log.append(Vec::new(), notes).await;
            }
            info!(source = %self.name, client_id = id, "a session has expired");
        }
        self.sessions.leave(&claim, entered);
    }

    /// Reads files that have changed, and counts what was dropped, until the source stops.
    pub(super) async fn watch_files(self: Arc<Self>, log: Log) {
        loop {
            tokio::select! {
                () = log.ending.cancelled() => return,
                () = sleep(LOOK_INTERVAL) => {}
            }
            for _ in 0..self.hub.take_dropped() {
                log.intake.count_error("subscriber");
            }
            for _ in 0..self.hub.room().take_refused() {
                log.intake.count_error("subscriber_unsaved");
            }
            let house = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || house.look()).await.unwrap_or_default();
            for problem in looked {
                warn!(source = %self.name, %problem, "still the content from before");
                log.intake.count_error("file");
            }
        }
    }

    fn look(&self) -> Vec<FileError> {
        let mut problems = Vec::new();
        let mut note = |path: &std::path::Path, looked: Result<bool, FileError>| match looked {
            Ok(true) => info!(source = %self.name, path = %path.display(), "read again"),
            Ok(false) => {}
            Err(error) => problems.push(error),
        };
        if let Some(file) = self.door.file() {
            note(file.path(), file.look());
        }
        if let Some(file) = &self.acl {
            note(file.path(), file.look());
        }
        problems
    }
}

/// Returns an id for a client that has none.
pub(super) fn assigned_id(dice: &dyn Dice) -> String {
    format!("tidemill{:015x}", dice.roll() >> 4)
}

/// Copies what is kept for long: it must not hold the buffer that it was read into.
pub(super) fn detached(will: Will) -> Will {
    let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
    Will { topic: copy(&will.topic), payload: copy(&will.payload), properties: copy(&will.properties), ..will }
}
