//! One connection of a source: a session at the broker, through any number of connects.
//!
//! ```text
//!            ┌──────────────── backoff 100 ms … 30 s, jittered, forgotten after 30 s of health ◄────────────┐
//!            ▼                                                                                              │
//!   TCP ─► TLS ─► CONNECT ─► CONNACK ─► note ─► SUBSCRIBE if needed ─► SUBACK ─► receive ─► lost ─────────────┤
//!                              │ refused: warn                          │ refused, downgraded: stop         │
//!                              ├────────────────────────────────────────│───────────────────────────────────┘
//!                              │ version 5 unknown: once more with 3.1.1
//!                                                                    stop ─► acknowledge ─► DISCONNECT
//! ```
//!
//! A source that never had a session and finds one under its client id takes it: it is most likely its own, from before the
//! data folder was lost, and what waits there would be lost otherwise. With `on_foreign_session = 'forget'` it is thrown away
//! by a clean connection that is closed at once. That is done once; ever after the session is resumed, whatever address the
//! broker has by then.
//!
//! If the broker has lost it (`session_present` = 0 though we had one), that is warned and counted as `session_lost`: messages
//! may be missing, and only the broker could have kept them. What the log remembers of the lost one is void. With
//! `on_session_loss = 'fail'` it ends the source as well, once: the next start goes on.

use std::sync::Arc;
use std::time::Duration;

use tidemill_engine::clock::Dice;
use tidemill_engine::source::{Intake, IntakeError, Resume, SourceError, Stop};
use tidemill_engine::storage::Storage;
use tokio::time::{Instant, timeout};
use tracing::{error, info, warn};

use super::PARTITION;
use super::handshake::{Begin, Shaken, say_good_bye};
use super::record::{Known, Record};
use super::settings::{OnForeignSession, OnSessionLoss, Settings};
use crate::backoff::Backoff;
use crate::mqtt::connection::{Connection, End, PATIENCE};
use crate::mqtt::inbox::Inbox;
use crate::mqtt::keep_alive::KeepAlive;
use crate::mqtt::packet::{ConnAck, Version, reason};
use crate::mqtt::reach::HANDSHAKE_TIMEOUT;
use crate::mqtt::remembered::{Lasts, Remembered, session_name};
use crate::mqtt::session::{Retained, Session};
use crate::mqtt::subscribing::{DropCount, Drops, Wanted};
use crate::mqtt::transport::Stream;
use crate::stall::Stall;

/// A connection that lived this long was healthy: the next failure starts with the shortest wait again.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// What the members of a source have in common.
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) settings: Settings,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) dice: Arc<dyn Dice>,
}

/// One connection.
pub(super) struct Member {
    pub(super) shared: Arc<Shared>,
    pub(super) client_id: String,
    pub(super) partition: String,
    pub(super) wanted: Wanted,
    /// What becomes of copies that the broker has retained.
    retained: Retained,
    pub(super) record: Record,
}

/// What one attempt came to.
pub(super) enum Attempt {
    /// The program stops.
    Stopped,
    /// Connect again after a while, and why.
    Again(String),
    /// Connect again at once, with the older version.
    Older,
    /// Connect again at once: what stood under our client id is gone.
    Cleaned,
    /// Never again.
    Failed(SourceError),
}

/// What is known from one connection to the next.
struct Progress {
    version: Version,
    known: Known,
    /// When the current connection became ready.
    ready_at: Option<Instant>,
    /// The session, while no connection has it.
    remembered: Option<Remembered>,
    /// How many messages the broker has dropped, as far as it told.
    drops: DropCount,
}

impl Member {
    /// Makes the members of a source with a number of connections.
    pub(super) fn all(shared: &Arc<Shared>, client_id: &str, connections: u16) -> Vec<Member> {
        match connections {
            1 => vec![Member::new(shared, client_id.to_owned(), "", shared.settings.topics.filters())],
            count => {
                let group = format!("tm-{}-{client_id}", shared.name);
                let filters =
                    || shared.settings.topics.filters().into_iter().map(|filter| format!("$share/{group}/{filter}"));
                let member = |number| {
                    let suffix = format!("-{number}");
                    Member::new(shared, format!("{client_id}{suffix}"), &suffix, filters().collect())
                };
                (0..count).map(member).collect()
            }
        }
    }

    fn new(shared: &Arc<Shared>, client_id: String, suffix: &str, filters: Vec<String>) -> Member {
        let Settings { address, qos, on_downgrade, drops, retained, .. } = &shared.settings;
        // One of them is enough: the counter is the broker's, and each would get a copy of what is retained.
        let (drops, retained) =
            if ["", "-0"].contains(&suffix) { (*drops, *retained) } else { (Drops::Ignore, Retained::Skip) };
        let record = Record {
            storage: Arc::clone(&shared.storage),
            path: format!("sources/{}/subscribed{suffix}", shared.name),
            session: format!("{}:{} {client_id}", address.host, address.port),
        };
        let wanted = Wanted { filters, qos: *qos, on_downgrade: *on_downgrade, drops };
        let partition = format!("{PARTITION}{suffix}");
        Member { shared: Arc::clone(shared), client_id, partition, wanted, retained, record }
    }

    /// Returns the partition its messages go to.
    pub(super) fn partition(&self) -> &str {
        &self.partition
    }

    /// Receives until `stop`, over any number of connections. `ready` hears when it can receive, and when not.
    pub(super) async fn run(
        &self,
        resume: Option<Resume>,
        stop: &Stop,
        ready: impl Fn(bool),
        intake: &dyn Intake,
    ) -> Result<(), SourceError> {
        let Shared { name, settings, dice, .. } = &*self.shared;
        let recalled =
            resume.and_then(|resume| Remembered::recall(&resume.notes).remove(&session_name(&self.client_id)));
        let known = match self.record.load().await {
            // The log knows of a session, so there was one.
            Known::Never if recalled.is_some() => Known::Elsewhere,
            known => known,
        };
        let mut progress = Progress {
            version: settings.version,
            known,
            ready_at: None,
            remembered: recalled,
            drops: DropCount::default(),
        };
        let mut backoff = Backoff::default();
        while !stop.is_cancelled() {
            let attempt = self.connect(intake, stop, &ready, &mut progress).await;
            ready(false);
            let healthy = progress.ready_at.take().is_some_and(|since| since.elapsed() >= HEALTHY_AFTER);
            if healthy {
                backoff = Backoff::default();
            }
            match attempt {
                Attempt::Stopped => break,
                Attempt::Failed(error) => return Err(error),
                Attempt::Older => {
                    info!(source = %name, "the broker does not know MQTT 5; going on with 3.1.1");
                    progress.version = Version::V311;
                }
                Attempt::Cleaned => progress.known = Known::Elsewhere,
                Attempt::Again(why) => {
                    let wait = backoff.next(&**dice);
                    warn!(source = %name, broker = %self.broker(), client_id = %self.client_id, %why, ?wait, "not connected");
                    let _ = timeout(wait, stop.cancelled()).await;
                }
            }
        }
        Ok(())
    }

    pub(super) fn broker(&self) -> String {
        let address = &self.shared.settings.address;
        format!("{}:{}", address.host, address.port)
    }

    fn failed(&self, why: &str) -> Attempt {
        Attempt::Failed(SourceError::Environment(format!("source {}: {why}", self.shared.name)))
    }

    async fn connect(
        &self,
        intake: &dyn Intake,
        stop: &Stop,
        ready: &impl Fn(bool),
        progress: &mut Progress,
    ) -> Attempt {
        // Never with a clean start: in 3.1.1 such a session ends with its connection, and Mosquitto 2.0.11 does not save one of
        // version 5 either, whatever its expiry. It would be gone after the broker's next restart.
        let shaken = tokio::select! {
            biased;
            () = stop.cancelled() => return Attempt::Stopped,
            shaken = self.resume(progress) => shaken,
        };
        let (stream, inbox, connack) = match shaken {
            Ok(shaken) => shaken,
            Err(attempt) => return attempt,
        };
        if progress.known == Known::Never && connack.session_present {
            match self.shared.settings.on_foreign_session {
                OnForeignSession::Forget => {
                    let Shared { name, .. } = &*self.shared;
                    info!(source = %name, client_id = %self.client_id, "the broker has a session of somebody else under our client id: not used");
                    // The clean CONNECT takes the session over, which ends this connection.
                    let forgotten = self.forget(progress.version).await;
                    drop(stream);
                    return forgotten;
                }
                OnForeignSession::Keep => {
                    let Shared { name, .. } = &*self.shared;
                    warn!(
                        source = %name, broker = %self.broker(), client_id = %self.client_id,
                        "the broker has a session under our client id that our data folder does not know: what waits there is \
                         taken; if it is not ours, say on_foreign_session = 'forget', or another client_id"
                    );
                    progress.known = Known::Elsewhere;
                }
            }
        }
        self.receive(intake, stop, ready, progress, stream, inbox, connack).await
    }

    /// Connects to the session. That the broker has lost it, it says once: in 3.1.1, where only a new session is subscribed, it is
    /// noted before that an answer may be missed.
    async fn resume(&self, progress: &mut Progress) -> Result<Shaken, Attempt> {
        let stream = self.reach().await?;
        let known = progress.known.clone();
        let subscribed = match &known {
            Known::Here(Some(subscribed)) if progress.version == Version::V311 => subscribed,
            _ => return self.greet(stream, progress.version, Begin::Resume).await,
        };
        progress.known = Known::Asking(subscribed.clone());
        self.record.store(&progress.known).await.map_err(Attempt::Again)?;
        let shaken = self.greet(stream, progress.version, Begin::Resume).await?;
        if shaken.2.session_present {
            self.record.store(&known).await.map_err(Attempt::Again)?;
            progress.known = known;
        }
        Ok(shaken)
    }

    /// Ends the session that the broker has under our client id.
    pub(super) async fn forget(&self, version: Version) -> Attempt {
        match self.shake_hands(version, Begin::Forget).await {
            Ok((stream, ..)) => {
                say_good_bye(stream, version).await;
                Attempt::Cleaned
            }
            Err(attempt) => attempt,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one connection, used once")]
    async fn receive(
        &self,
        intake: &dyn Intake,
        stop: &Stop,
        ready: &impl Fn(bool),
        progress: &mut Progress,
        stream: Stream,
        inbox: Inbox,
        connack: ConnAck,
    ) -> Attempt {
        let Shared { name, settings, .. } = &*self.shared;
        if let Some(why) = self.cannot(&connack) {
            say_good_bye(stream, progress.version).await;
            return self.failed(&why);
        }
        let was_in_use =
            progress.known.is_here() || progress.remembered.as_ref().is_some_and(|session| !session.is_empty());
        // Told once: who was ended by it and is started again goes on.
        let has_lost = !connack.session_present && was_in_use && progress.known != Known::Lost;
        if connack.session_expiry_s.is_some_and(|seconds| seconds < settings.session_expiry_s) {
            info!(source = %name, seconds = connack.session_expiry_s, "the broker keeps our session for less than asked");
        }
        let forgets = has_lost || progress.known == Known::Lost;
        if has_lost && settings.on_session_loss == OnSessionLoss::Fail {
            intake.count_error("session_lost");
            if let Err(why) = self.record.store(&Known::Lost).await {
                return Attempt::Again(why);
            }
            say_good_bye(stream, progress.version).await;
            return self.failed(&format!(
                "the broker at {} has lost our session (client id {:?}): messages since the last connection may be missing. Start \
                 again to go on without them, or say on_session_loss = 'continue'",
                self.broker(),
                self.client_id
            ));
        }
        if forgets || !progress.known.is_here() {
            // Before the SUBSCRIBE: from there on the session may hold messages of ours.
            if let Err(why) = self.record.store(&Known::Here(None)).await {
                return Attempt::Again(why);
            }
            progress.known = Known::Here(None);
        }
        let remembered = progress.remembered.take().unwrap_or_else(|| Remembered::new(&self.client_id, Lasts::InLog));
        let mut session = Session::client(progress.version, self.retained, remembered);
        if forgets {
            session.lose_session();
            let epoch = session.epoch();
            error!(
                source = %name, broker = %self.broker(), client_id = %self.client_id, epoch,
                "the broker has lost our session: messages since the last connection may be missing"
            );
        }
        if self.wanted.drops == Drops::Watch {
            session.watch_drops(progress.drops.clone());
        }
        // In 3.1.1 each SUBSCRIBE brings the retained messages again; in 5 it is idempotent, and heals what is broken.
        let subscription = self.subscription();
        let subscribe =
            progress.version == Version::V5 || !connack.session_present || !progress.known.is_subscribed(&subscription);
        let old: Vec<String> = progress.known.filters().filter(|old| !self.wanted.filters.contains(old)).collect();
        let asked = match subscribe {
            true => session.subscribe(self.wanted.clone()),
            false => Ok(()),
        };
        // What an earlier version of the statement subscribed to is in the session still. Given up after the new is there: no
        // topic of both is missed.
        let asked = asked.and_then(|()| if old.is_empty() { Ok(()) } else { session.unsubscribe(old) });
        if let Err(violation) = asked {
            return self.failed(&violation.to_string());
        }
        progress.ready_at = Some(Instant::now());
        let connected = || {
            let session = if connack.session_present { "resumed" } else { "new" };
            let filters = self.wanted.filters.join(", ");
            info!(source = %name, broker = %self.broker(), %filters, session, "connected");
            ready(true);
        };
        if !session.is_subscribing() {
            connected();
        }
        let mut connection = self.connection(stream, inbox, session, &connack, intake);
        let end = connection
            .run(stop, &Stop::new(), || {
                connected();
                if !progress.known.is_subscribed(&subscription) {
                    self.record.store_later(&subscription);
                    progress.known = Known::Here(Some(subscription.clone()));
                }
            })
            .await;
        progress.remembered = connection.take_remembered(&end);
        connection.close(&end).await;
        self.after(end)
    }

    /// Makes the connection of a session, after its handshake.
    pub(super) fn connection<'c>(
        &'c self,
        stream: Stream,
        inbox: Inbox,
        session: Session,
        connack: &ConnAck,
        intake: &'c dyn Intake,
    ) -> Connection<'c> {
        let keep_alive_s = connack.server_keep_alive_s.unwrap_or(self.shared.settings.keep_alive_s);
        let now = Instant::now();
        Connection {
            stream,
            inbox,
            session,
            keep_alive: KeepAlive::client(Duration::from_secs(u64::from(keep_alive_s)), now),
            stall: Stall::new(PATIENCE),
            suback_by: now + HANDSHAKE_TIMEOUT,
            intake,
            partition: &self.partition,
        }
    }

    /// Writes what is subscribed to as a text, to be compared: QoS and what else, then a filter in each line.
    fn subscription(&self) -> String {
        let Wanted { filters, qos, drops, .. } = &self.wanted;
        let filters = filters.join("\n");
        let drops = match drops {
            Drops::Ignore => "",
            Drops::Watch => " drops",
        };
        format!("{}{drops}\n{filters}", *qos as u8)
    }

    /// Says what we need and the broker says it does not have.
    fn cannot(&self, connack: &ConnAck) -> Option<String> {
        let broker = self.broker();
        if self.shared.settings.connections > 1 && connack.shared_available == Some(false) {
            return Some(format!("the broker at {broker} has no shared subscriptions: say connections = '1'"));
        }
        let is_wild = |filter: &&String| filter.contains(['+', '#']);
        if connack.wildcards_available == Some(false)
            && let Some(filter) = self.wanted.filters.iter().find(is_wild)
        {
            return Some(format!("the broker at {broker} has no wildcards, and {filter} is one: name each topic"));
        }
        None
    }

    pub(super) fn after(&self, end: End) -> Attempt {
        match end {
            End::Stopped | End::Intake(IntakeError::Stopping) => Attempt::Stopped,
            End::Intake(error) => Attempt::Failed(error.into()),
            End::Refused(why) => self.failed(&why),
            End::Disconnected { code: reason::TAKEN_OVER, .. } => self.failed(&format!(
                "another client took over our session at {}: two programs use the client id {:?}",
                self.broker(),
                self.client_id
            )),
            End::Disconnected { code, reason } => {
                let why = reason.map(|why| format!(": {why}")).unwrap_or_default();
                Attempt::Again(format!("the broker disconnected us (reason {code:#04x}{why})"))
            }
            End::Closed | End::TakenOver => Attempt::Again("the broker closed the connection".to_owned()),
            End::Violation(violation) => Attempt::Again(format!("the broker broke the protocol: {violation}")),
            End::Io(error) => Attempt::Again(error.to_string()),
        }
    }
}
