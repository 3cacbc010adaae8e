//! What all connections of one listener share, and the tasks that look after it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tidemill_engine::clock::Dice;
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
use super::sessions::{Kept, Sessions};
use super::watched::{FileError, Watched};
use super::will::Bequest;
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
    pub(super) handshakes: Handshakes,
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

    /// Puts back the sessions that the log knows, all of them without their clients, and what is retained. Returns what the log
    /// need not know any more.
    pub(super) fn restore(&self, resume: &[Resume]) -> Vec<Note> {
        self.sessions.clear();
        self.hub.forget_subscribers();
        let none = BTreeMap::new();
        let notes = resume.iter().find(|resume| resume.partition == PARTITION).map_or(&none, |resume| &resume.notes);
        let mut orphans = self.hub.restore_retained(notes);
        let mut remembered = Remembered::recall(notes);
        for (key, value) in notes {
            let Some((client_id, expiry, subscriptions)) = note::recall(key, value) else { continue };
            let mut kept = Kept::new(self.sessions.new_number(), self.first_number(), client_id);
            if let Some(remembered) = remembered.remove(&session_name(client_id)) {
                kept.remembered = remembered;
            }
            kept.mailbox.set_present(false);
            for (filter, grant) in &subscriptions {
                self.hub.subscribe(&kept.mailbox, filter, grant.clone());
            }
            kept.expiry = expiry;
            kept.noted = Some(expiry);
            kept.subscriptions = subscriptions;
            self.sessions.restore(client_id, kept);
        }
        // Packet ids of sessions that have ended: the program died before it could say so.
        orphans.extend(remembered.into_values().flat_map(|mut remembered| remembered.end()));
        orphans
    }

    /// Returns the number that a session's messages begin with.
    pub(super) fn first_number(&self) -> u64 {
        1 + self.dice.roll() % 65_535
    }

    /// Publishes what a client has left.
    pub(super) async fn publish_will(&self, bequest: Bequest, log: &Log) {
        let Bequest { will, publisher } = bequest;
        let Will { topic, payload, qos, retain, properties, .. } = will;
        let publish = Publish { topic, payload, qos, retain, properties, ..Publish::default() };
        if !std::str::from_utf8(&publish.topic).is_ok_and(|topic| self.pattern.accepts(topic)) {
            log.intake.count_error("topic");
        }
        let attributes = attributes::encode(&publish, &mut Arena::default());
        let message = Message { topic: publish.topic, payload: publish.payload, attributes };
        let publication = publication(&message, publisher);
        let notes = publication.iter().flat_map(|publication| self.hub.notes_of(publication)).collect();
        if log.append(vec![message], notes).await.is_ok()
            && let Some(publication) = publication
        {
            let _ = self.hub.publish(publication);
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
