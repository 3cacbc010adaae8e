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
//! A source that never had a session throws away what a broker has under its client id, with a clean connection that is closed
//! at once: it is not its own. That is done once; ever after the session is resumed, whatever address the broker has by then. If the broker has lost it
//! (`session_present` = 0 though we had one), that is warned and counted as `session_lost`: messages may be missing, and only
//! the broker could have kept them. What the log remembers of the lost one is void. With `on_session_loss = 'fail'` it ends the source as well, once: the next start goes on.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemill_engine::clock::Dice;
use tidemill_engine::source::{Intake, IntakeError, Resume, SourceError, Stop};
use tidemill_engine::storage::Storage;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tracing::{error, info, warn};

use super::PARTITION;
use super::record::{Known, Record};
use super::settings::{OnSessionLoss, Settings};
use crate::backoff::Backoff;
use crate::mqtt::codec;
use crate::mqtt::connection::{Connection, End, NoPacket, first_packet};
use crate::mqtt::inbox::{self, Inbox};
use crate::mqtt::keep_alive::KeepAlive;
use crate::mqtt::packet::{ConnAck, Connect, Version, reason};
use crate::mqtt::receiver::TOPIC_ALIAS_MAX;
use crate::mqtt::remembered::{Lasts, Remembered, session_name};
use crate::mqtt::session::Session;
use crate::mqtt::subscribing::{DropCount, Drops, Wanted};
use crate::mqtt::transport::Stream;
use crate::mqtt::write;

/// How long a broker may take to accept a connection, again for TLS, again to answer our CONNECT, and again our SUBSCRIBE.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
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

/// How a session is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// With whatever the broker may have under our client id.
    Resume,
    /// Clean, and not to be kept either.
    Forget,
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
        let Settings { address, qos, on_downgrade, drops, .. } = &shared.settings;
        // One of them is enough: the counter is the broker's.
        let drops = if ["", "-0"].contains(&suffix) { *drops } else { Drops::Ignore };
        let record = Record {
            storage: Arc::clone(&shared.storage),
            path: format!("sources/{}/subscribed{suffix}", shared.name),
            session: format!("{}:{} {client_id}", address.host, address.port),
        };
        let wanted = Wanted { filters, qos: *qos, on_downgrade: *on_downgrade, drops };
        Member { shared: Arc::clone(shared), client_id, partition: format!("{PARTITION}{suffix}"), wanted, record }
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
            shaken = self.shake_hands(progress.version, Begin::Resume) => shaken,
        };
        let (stream, inbox, connack) = match shaken {
            Ok(shaken) => shaken,
            Err(attempt) => return attempt,
        };
        if progress.known == Known::Never && connack.session_present {
            return self.clean(stream, progress.version).await;
        }
        self.receive(intake, stop, ready, progress, stream, inbox, connack).await
    }

    /// Throws away a session that stands under our client id and is not ours.
    async fn clean(&self, stream: Stream, version: Version) -> Attempt {
        info!(source = %self.shared.name, client_id = %self.client_id, "the broker has a session of somebody else under our client id: not used");
        // The clean CONNECT takes the session over, which ends this connection.
        let cleaned = self.shake_hands(version, Begin::Forget).await;
        drop(stream);
        match cleaned {
            Ok((stream, ..)) => {
                say_good_bye(stream, version).await;
                Attempt::Cleaned
            }
            Err(attempt) => attempt,
        }
    }

    pub(super) async fn shake_hands(
        &self,
        version: Version,
        begin: Begin,
    ) -> Result<(Stream, Inbox, ConnAck), Attempt> {
        let settings = &self.shared.settings;
        let again = Attempt::Again;
        let to = (settings.address.host.as_str(), settings.address.port);
        let tcp = timeout(HANDSHAKE_TIMEOUT, TcpStream::connect(to))
            .await
            .map_err(|_| again("the broker does not answer".to_owned()))?
            .map_err(|error| again(format!("cannot connect: {error}")))?;
        let stream = timeout(HANDSHAKE_TIMEOUT, self.secure(tcp))
            .await
            .map_err(|_| again("the broker does not answer the TLS handshake".to_owned()))?
            .map_err(again)?;
        timeout(HANDSHAKE_TIMEOUT, self.introduce(stream, version, begin))
            .await
            .map_err(|_| again("the broker does not answer CONNECT".to_owned()))?
    }

    async fn secure(&self, tcp: TcpStream) -> Result<Stream, String> {
        let settings = &self.shared.settings;
        let Some(tls) = &settings.tls else { return Stream::plain(tcp).map_err(|error| error.to_string()) };
        let config = tls.config().await.map_err(|error| error.to_string())?;
        let name = tls.server_name(&settings.address.host).map_err(|error| error.to_string())?;
        Stream::connect_tls(tcp, config, name).await.map_err(|error| error.to_string())
    }

    /// Sends CONNECT and reads the answer.
    async fn introduce(
        &self,
        mut stream: Stream,
        version: Version,
        begin: Begin,
    ) -> Result<(Stream, Inbox, ConnAck), Attempt> {
        let settings = &self.shared.settings;
        let again = Attempt::Again;
        let (username, password) = settings.credentials().await.map_err(|error| again(error.to_string()))?;
        let connect = Connect {
            client_id: self.client_id.clone(),
            // A session that is not to outlive its connection leaves nothing behind; 3.1.1 knows no other way to say so.
            clean: begin != Begin::Resume || settings.session_expiry_s == 0,
            keep_alive_s: settings.keep_alive_s,
            username,
            password: password.map(Bytes::from),
            will: None,
            session_expiry_s: Some(if begin == Begin::Forget { 0 } else { settings.session_expiry_s }),
            // Not announced: a broker would drop larger messages without a word.
            packet_bytes_max: None,
            receive_maximum: Some(settings.receive_maximum),
            topic_alias_max: Some(TOPIC_ALIAS_MAX),
            auth_method: None,
        };
        let mut out = BytesMut::new();
        write::connect(version, &connect, &mut out).map_err(|error| again(error.to_string()))?;
        stream.write_all(&out).await.map_err(|error| again(error.to_string()))?;
        let mut inbox = Inbox::new();
        let (header, frame) = first_packet(&mut stream, &mut inbox, codec::CONNACK).await.map_err(|no_packet| {
            let why = match no_packet {
                NoPacket::Closed => "the broker closed the connection without an answer to CONNECT".to_owned(),
                NoPacket::Io(error) => error.to_string(),
                NoPacket::Violation(violation) => violation.to_string(),
            };
            again(match settings.tls {
                Some(_) => why,
                None => format!("{why} (if it speaks TLS at this port, say mqtts:// in the url)"),
            })
        })?;
        let connack = inbox::connack(version, header, frame).map_err(|violation| again(violation.to_string()))?;
        match refusal(version, &connack) {
            None => Ok((stream, inbox, connack)),
            Some(attempt) => Err(attempt),
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
        let mut session = Session::client(progress.version, settings.retained, remembered);
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
        let keep_alive_s = connack.server_keep_alive_s.unwrap_or(settings.keep_alive_s);
        let now = Instant::now();
        progress.ready_at = Some(now);
        let connected = || {
            let session = if connack.session_present { "resumed" } else { "new" };
            let filters = self.wanted.filters.join(", ");
            info!(source = %name, broker = %self.broker(), %filters, session, "connected");
            ready(true);
        };
        if !session.is_subscribing() {
            connected();
        }
        let mut connection = Connection {
            stream,
            inbox,
            session,
            keep_alive: KeepAlive::client(Duration::from_secs(u64::from(keep_alive_s)), now),
            suback_by: now + HANDSHAKE_TIMEOUT,
            intake,
            partition: &self.partition,
        };
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

/// Sends DISCONNECT, and leaves the session's expiry as it is.
pub(super) async fn say_good_bye(mut stream: Stream, version: Version) {
    let mut out = BytesMut::new();
    write::disconnect(version, reason::SUCCESS, "", &mut out);
    let _ = timeout(HANDSHAKE_TIMEOUT, async {
        stream.write_all(&out).await?;
        stream.shutdown().await
    })
    .await;
    stream.linger().await;
}

/// Decides what a CONNACK that does not accept means.
fn refusal(version: Version, connack: &ConnAck) -> Option<Attempt> {
    const UNACCEPTABLE_VERSION_311: u8 = 1;
    let code = connack.code;
    if code == reason::SUCCESS {
        return None;
    }
    if version == Version::V5 && (code == reason::UNSUPPORTED_VERSION || code == UNACCEPTABLE_VERSION_311) {
        return Some(Attempt::Older);
    }
    let words = match (version, code) {
        (Version::V311, 1) => "it does not speak MQTT 3.1.1",
        (Version::V311, 2) | (Version::V5, reason::CLIENT_ID_INVALID) => "it does not accept the client id",
        (Version::V311, 3) | (Version::V5, 0x88) => "it is unavailable",
        (Version::V311, 4) | (Version::V5, reason::BAD_CREDENTIALS) => "bad username or password",
        (Version::V311, 5) | (Version::V5, reason::NOT_AUTHORIZED) => "not authorized: check username and password",
        (Version::V5, 0x8A) => "this client is banned",
        (Version::V5, 0x97) => "its quota is exceeded",
        (Version::V5, 0x9C | 0x9D) => "use another server",
        (Version::V5, 0x9F) => "too many connections in a short time",
        _ => "see the reason code",
    };
    let mut why = connack.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    if let Some(server) = &connack.server_reference {
        why.push_str(&format!(", at {server}"));
    }
    Some(Attempt::Again(format!("the broker refused the connection: {words} (code {code:#04x}{why})")))
}
