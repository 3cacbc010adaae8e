//! Sessions that another number of connections has left at the broker: emptied, and ended.
//!
//! ```text
//!   CONNECT ─► UNSUBSCRIBE ─► receive, acknowledge ─► nothing more for 5 s ─► DISCONNECT ─► CONNECT clean ─► DISCONNECT
//! ```
//!
//! Without that a broker would go on to queue for them, and a shared subscription would give them messages that nobody
//! fetches. A message that is published while the new connections are subscribed and the old one still is comes twice; that
//! can be when one connection becomes several or several one, never between several.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemill_engine::source::{BoxFuture, Chunk, Intake, IntakeError, Receipt, Resume, Stop};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::handshake::{Begin, say_good_bye};
use super::member::{Attempt, Member, Shared};
use super::record::Known;
use super::settings::CONNECTIONS_MAX;
use crate::backoff::Backoff;
use crate::mqtt::connection::End;
use crate::mqtt::packet::Version;
use crate::mqtt::remembered::{Lasts, Remembered, session_name};
use crate::mqtt::session::Session;

/// A session that has sent nothing for so long is empty: a broker sends what it has at once.
const QUIET: Duration = Duration::from_secs(5);

/// Finds the sessions that are at the broker and belong to none of the connections there are now.
pub(super) async fn left_behind(shared: &Arc<Shared>, client_id: &str) -> Vec<Member> {
    let connections = shared.settings.connections;
    let several = Member::all(shared, client_id, CONNECTIONS_MAX).into_iter();
    let candidates: Vec<Member> = match connections {
        1 => several.collect(),
        count => Member::all(shared, client_id, 1).into_iter().chain(several.skip(usize::from(count))).collect(),
    };
    let mut left = Vec::new();
    for member in candidates {
        match member.record.load().await {
            Known::Here(_) | Known::Asking(_) => left.push(member),
            Known::Elsewhere => warn!(
                source = %shared.name, path = %member.record.path,
                "an earlier start left a session at another broker or under another client id: what it holds is not read"
            ),
            Known::Never | Known::Lost => {}
        }
    }
    left
}

impl Member {
    /// Receives what the session holds, and ends it.
    pub(super) async fn retire(&self, resume: Option<Resume>, intake: Arc<dyn Intake>, stop: &Stop) {
        let Shared { name, settings, dice, .. } = &*self.shared;
        let mut remembered =
            resume.and_then(|resume| Remembered::recall(&resume.notes).remove(&session_name(&self.client_id)));
        let mut version = settings.version;
        let mut backoff = Backoff::default();
        info!(source = %name, client_id = %self.client_id, "emptying a session that is not needed any more");
        while !stop.is_cancelled() {
            match self.empty(version, &mut remembered, &intake, stop).await {
                Attempt::Stopped => return,
                Attempt::Older => version = Version::V311,
                Attempt::Cleaned => {
                    self.record.remove().await;
                    info!(source = %name, client_id = %self.client_id, "the session is empty, and gone");
                    return;
                }
                Attempt::Failed(error) => {
                    warn!(source = %name, client_id = %self.client_id, %error, "cannot empty a session");
                    return;
                }
                Attempt::Again(why) => {
                    let wait = backoff.next(&**dice);
                    warn!(source = %name, broker = %self.broker(), client_id = %self.client_id, %why, ?wait, "not connected");
                    let _ = timeout(wait, stop.cancelled()).await;
                }
            }
        }
    }

    async fn empty(
        &self,
        version: Version,
        remembered: &mut Option<Remembered>,
        intake: &Arc<dyn Intake>,
        stop: &Stop,
    ) -> Attempt {
        let settings = &self.shared.settings;
        let shaken = tokio::select! {
            biased;
            () = stop.cancelled() => return Attempt::Stopped,
            shaken = self.shake_hands(version, Begin::Resume) => shaken,
        };
        let (stream, inbox, connack) = match shaken {
            Ok(shaken) => shaken,
            Err(attempt) => return attempt,
        };
        if !connack.session_present {
            say_good_bye(stream, version).await;
            return self.forget(version).await;
        }
        let known = self.record.load().await;
        let mut filters: Vec<String> = known.filters().collect();
        if filters.is_empty() {
            // It was noted before it was subscribed, and may be all the same.
            filters.clone_from(&self.wanted.filters);
        }
        let session = remembered.take().unwrap_or_else(|| Remembered::new(&self.client_id, Lasts::InLog));
        let mut session = Session::client(version, settings.retained, session);
        if let Err(violation) = session.unsubscribe(filters) {
            return Attempt::Again(violation.to_string());
        }
        let now = Instant::now();
        let noticing = Noticing { intake: Arc::clone(intake), noticed: Mutex::new(now) };
        let mut connection = self.connection(stream, inbox, session, &connack, &noticing);
        let quiet = stop.child_token();
        let never = Stop::new();
        let watch = async {
            noticing.until_quiet().await;
            quiet.cancel();
            std::future::pending().await
        };
        let end = tokio::select! {
            ended = connection.run(&quiet, &never, || ()) => ended,
            never = watch => never,
        };
        *remembered = connection.take_remembered(&end);
        connection.close(&end).await;
        match end {
            End::Stopped if !stop.is_cancelled() => self.forget(version).await,
            end => self.after(end),
        }
    }
}

/// An intake that knows when it was used last.
struct Noticing {
    intake: Arc<dyn Intake>,
    noticed: Mutex<Instant>,
}

impl Noticing {
    async fn until_quiet(&self) {
        loop {
            let quiet_at = *self.noticed.lock() + QUIET;
            if Instant::now() >= quiet_at {
                return;
            }
            sleep_until(quiet_at).await;
        }
    }
}

impl Intake for Noticing {
    fn open(&self, partition: &str) -> BoxFuture<'_, Result<(), IntakeError>> {
        self.intake.open(partition)
    }

    fn append(&self, partition: &str, chunk: Chunk) -> BoxFuture<'_, Result<Receipt, IntakeError>> {
        *self.noticed.lock() = Instant::now();
        self.intake.append(partition, chunk)
    }

    fn try_append(&self, partition: &str, chunk: Chunk) -> Option<Result<Receipt, IntakeError>> {
        *self.noticed.lock() = Instant::now();
        self.intake.try_append(partition, chunk)
    }

    fn end(&self, partition: &str) -> BoxFuture<'_, Result<(), IntakeError>> {
        self.intake.end(partition)
    }

    fn set_connected(&self, connected: bool) {
        self.intake.set_connected(connected);
    }

    fn count_error(&self, kind: &'static str) {
        self.intake.count_error(kind);
    }
}
