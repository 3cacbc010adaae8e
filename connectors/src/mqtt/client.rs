//! `connector = 'mqtt'`: reads from an outside broker.
//!
//! ```text
//!            ┌──────────────── backoff 100 ms … 30 s, jittered, forgotten after 30 s of health ◄────────────┐
//!            ▼                                                                                              │
//!   connect ─► CONNECT (clean start 0) ─► CONNACK ─► SUBSCRIBE if needed ─► SUBACK ─► receive ─► lost ───────┤
//!                                           │ refused: warn                   │ refused, downgraded: stop    │
//!                                           ├─────────────────────────────────│──────────────────────────────┘
//!                                           │ version 5 unknown: once more with 3.1.1
//!                                                                             stop ─► acknowledge ─► DISCONNECT
//! ```
//!
//! The session at the broker is persistent and is never given up: the client id is stable, there is no UNSUBSCRIBE, and
//! DISCONNECT leaves the session's expiry alone. So what is published while we are away waits at the broker. If the broker has
//! lost the session all the same (`session_present` = 0 though we had one), that is warned and counted as `session_lost`:
//! messages may be missing, and only the broker could have kept them.
//!
//! `retained` says what to do with messages that the broker keeps as the last value of a topic. The default is `'skip'`: such
//! a message is a copy of an old reading, sent anew with each new subscription. With `'use'` it is a reading, once: the last
//! copy of each topic is remembered, and one that comes again after a lost session does not count again. Messages published
//! while we are subscribed are never of that kind, whether the publisher sets the flag or not.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tidemill_engine::clock::Dice;
use tidemill_engine::source::{Intake, IntakeError, Resume, Source, SourceError, Stop};
use tidemill_engine::storage::{Storage, StorageError};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::backoff::Backoff;
use super::codec;
use super::connection::{Connection, End, NoPacket, first_packet};
use super::inbox::{self, Inbox};
use super::keep_alive::KeepAlive;
use super::packet::{ConnAck, Connect, QoS, Version, reason};
use super::receiver::{RECEIVE_MAXIMUM, TOPIC_ALIAS_MAX};
use super::remembered::{Lasts, Remembered, session_name};
use super::session::{Retained, Session};
use super::topic::TopicPattern;
use super::transport::Stream;
use super::write;
use crate::Context;
use crate::options::{OptionError, Options};
use crate::tls::TlsClient;

/// The one partition of the source: a broker's topics have no order among each other that a partition could keep.
const PARTITION: &str = "broker";
const PORT_DEFAULT: u16 = 1883;
const TLS_PORT_DEFAULT: u16 = 8883;
const KEEP_ALIVE_DEFAULT: Duration = Duration::from_secs(30);
const SESSION_EXPIRY_DEFAULT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a broker may take to accept a connection, again to answer our CONNECT, and again our SUBSCRIBE.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that lived this long was healthy: the next failure starts with the shortest wait again.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// MQTT's length field has 16 bits.
pub(super) const FIELD_BYTES_MAX: usize = u16::MAX as usize;

/// A source that subscribes at a broker.
pub struct MqttSource {
    name: String,
    settings: Settings,
    storage: Arc<dyn Storage>,
    dice: Arc<dyn Dice>,
    /// From the options, or from storage once prepared.
    client_id: Mutex<Option<String>>,
}

#[derive(Clone, Debug)]
struct Settings {
    host: String,
    port: u16,
    tls: Option<Arc<TlsClient>>,
    filter: String,
    qos: QoS,
    username: Option<String>,
    password: Option<String>,
    version: Version,
    keep_alive_s: u16,
    session_expiry_s: u32,
    retained: Retained,
}

/// Makes the source from its options; does no I/O.
pub fn client(name: &str, options: &mut Options, context: &Context) -> Result<(MqttSource, TopicPattern), OptionError> {
    let Address { host, port, has_tls } = parse_url(&options.require("url")?)?;
    let tls = match has_tls {
        true => Some(Arc::new(TlsClient::take(options, &context.base_dir, &context.clock)?)),
        false => {
            TlsClient::refuse(options, "say mqtts:// in the url")?;
            None
        }
    };
    if let Some(tls) = &tls {
        tls.server_name(&host).map_err(|error| OptionError::new("url", error.to_string()))?;
    }
    let topic = options.require("topic")?;
    let pattern = TopicPattern::parse(&topic).map_err(|error| OptionError::new("topic", error.to_string()))?;
    let qos = match options.take("qos").as_deref() {
        Some("0") => QoS::AtMostOnce,
        Some("1") | None => QoS::AtLeastOnce,
        Some("2") => QoS::ExactlyOnce,
        Some(other) => return Err(OptionError::new("qos", format!("{other:?} is not one of '0', '1', '2'"))),
    };
    let client_id = options.take("client_id");
    if client_id.as_deref() == Some("") {
        let problem = "is empty: the broker could not find our session again; leave it out, and one is made and kept";
        return Err(OptionError::new("client_id", problem));
    }
    let username = options.take("username");
    let password = options.take("password");
    if password.is_some() && username.is_none() {
        return Err(OptionError::new("password", "needs a username beside it"));
    }
    for (key, value) in [("client_id", &client_id), ("username", &username), ("password", &password)] {
        if value.as_ref().is_some_and(|value| value.len() > FIELD_BYTES_MAX || value.contains('\0')) {
            return Err(OptionError::new(key, format!("must have at most {FIELD_BYTES_MAX} bytes and no NUL")));
        }
    }
    let version = options.choice("version", &[("5", Version::V5), ("3.1.1", Version::V311)])?.unwrap_or(Version::V5);
    let keep_alive_s = keep_alive_s(options)?;
    let session_expiry_s = session_expiry_s(options)?;
    let retained =
        options.choice("retained", &[("use", Retained::Use), ("skip", Retained::Skip)])?.unwrap_or(Retained::Skip);
    let settings = Settings {
        host,
        port,
        tls,
        filter: pattern.filter(),
        qos,
        username,
        password,
        version,
        keep_alive_s,
        session_expiry_s,
        retained,
    };
    let source = MqttSource {
        name: name.to_owned(),
        settings,
        storage: Arc::clone(&context.storage),
        dice: Arc::clone(&context.dice),
        client_id: Mutex::new(client_id),
    };
    Ok((source, pattern))
}

/// Takes option `keep_alive`.
pub(super) fn keep_alive_s(options: &mut Options) -> Result<u16, OptionError> {
    let keep_alive = options.duration("keep_alive")?.unwrap_or(KEEP_ALIVE_DEFAULT);
    whole_seconds(keep_alive)
        .and_then(|seconds| u16::try_from(seconds).ok())
        .filter(|seconds| *seconds > 0)
        .ok_or_else(|| OptionError::new("keep_alive", "must be whole seconds, from 1 to 65535"))
}

/// Takes option `session_expiry`.
pub(super) fn session_expiry_s(options: &mut Options) -> Result<u32, OptionError> {
    let session_expiry = options.duration("session_expiry")?.unwrap_or(SESSION_EXPIRY_DEFAULT);
    whole_seconds(session_expiry)
        .and_then(|seconds| u32::try_from(seconds).ok())
        .ok_or_else(|| OptionError::new("session_expiry", "must be whole seconds, at most 4294967295"))
}

fn whole_seconds(duration: Duration) -> Option<u64> {
    (duration.subsec_nanos() == 0).then_some(duration.as_secs())
}

/// Where a broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) has_tls: bool,
}

/// Reads `mqtt://host[:port]` or `mqtts://host[:port]`.
pub(super) fn parse_url(url: &str) -> Result<Address, OptionError> {
    let error = |problem: String| Err(OptionError::new("url", problem));
    let Some((scheme, rest)) = url.split_once("://") else {
        return error(format!("{url:?} is not a URL such as 'mqtt://broker.example.com:1883'"));
    };
    let has_tls = match scheme {
        "mqtt" => false,
        "mqtts" => true,
        "ssl" | "tls" => return error(format!("write mqtts:// in place of {scheme}://")),
        "tcp" => return error("write mqtt:// in place of tcp://".to_owned()),
        other => return error(format!("{other}:// is not supported: only mqtt:// and mqtts:// work")),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('@') {
        return error("credentials do not belong in the URL: use the options username and password".to_owned());
    }
    if rest.contains(['/', '?', '#']) {
        return error(format!("{url:?} has a path: a broker has only host and port"));
    }
    // An IPv6 address stands in brackets, because it holds colons itself.
    let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, port.strip_prefix(':').or(Some(port))),
        None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return error(format!("{url:?} has no host"));
    }
    let port = match port {
        None if has_tls => TLS_PORT_DEFAULT,
        None => PORT_DEFAULT,
        Some(text) => match text.parse::<u16>() {
            Ok(port) if port > 0 => port,
            _ => return error(format!("{text:?} is not a port")),
        },
    };
    Ok(Address { host: host.to_owned(), port, has_tls })
}

/// What one attempt came to.
enum Attempt {
    /// The program stops.
    Stopped,
    /// Connect again after a while, and why.
    Again(String),
    /// Connect again at once, with the older version.
    Older,
    /// Never again.
    Failed(SourceError),
}

/// What is known from one connection to the next.
struct Progress {
    version: Version,
    /// What the broker was last known to hold for us: `qos filter`.
    subscribed: Option<String>,
    /// When the current connection became ready.
    ready_at: Option<Instant>,
    /// The session, while no connection has it.
    remembered: Option<Remembered>,
}

#[async_trait::async_trait]
impl Source for MqttSource {
    fn bounded(&self) -> bool {
        false
    }

    /// Finds the client id, or makes one that stays.
    async fn prepare(&self) -> Result<(), SourceError> {
        if self.client_id.lock().is_some() {
            return Ok(());
        }
        let path = format!("sources/{}/client_id", self.name);
        let storage = Arc::clone(&self.storage);
        // 23 letters and digits: what every server must accept by MQTT-3.1.3-5.
        let fresh = format!("tidemill{:015x}", self.dice.roll() >> 4);
        let id = tokio::task::spawn_blocking(move || stored_or_new(&*storage, &path, &fresh))
            .await
            .map_err(|error| SourceError::Environment(format!("cannot keep the MQTT client id: {error}")))??;
        *self.client_id.lock() = Some(id);
        Ok(())
    }

    async fn run(&self, intake: Arc<dyn Intake>, resume: Vec<Resume>, stop: Stop) -> Result<(), SourceError> {
        intake.open(PARTITION).await?;
        let mut progress = Progress {
            version: self.settings.version,
            subscribed: self.load_subscribed().await,
            ready_at: None,
            remembered: resume
                .iter()
                .find(|resume| resume.partition == PARTITION)
                .and_then(|resume| Remembered::recall(&resume.notes).remove(&self.session_name())),
        };
        let mut backoff = Backoff::default();
        while !stop.is_cancelled() {
            let attempt = self.connect(&*intake, &stop, &mut progress).await;
            intake.set_connected(false);
            let healthy = progress.ready_at.take().is_some_and(|since| since.elapsed() >= HEALTHY_AFTER);
            if healthy {
                backoff = Backoff::default();
            }
            match attempt {
                Attempt::Stopped => break,
                Attempt::Failed(error) => return Err(error),
                Attempt::Older => {
                    info!(source = %self.name, "the broker does not know MQTT 5; going on with 3.1.1");
                    progress.version = Version::V311;
                }
                Attempt::Again(why) => {
                    let wait = backoff.next(&*self.dice);
                    let Settings { host, port, .. } = &self.settings;
                    warn!(source = %self.name, broker = %format_args!("{host}:{port}"), %why, ?wait, "not connected");
                    let _ = timeout(wait, stop.cancelled()).await;
                }
            }
        }
        Ok(())
    }
}

impl MqttSource {
    /// Returns the client id, once the source is prepared.
    pub fn client_id(&self) -> Option<String> {
        self.client_id.lock().clone()
    }

    async fn connect(&self, intake: &dyn Intake, stop: &Stop, progress: &mut Progress) -> Attempt {
        let handshake = async {
            let stream =
                timeout(HANDSHAKE_TIMEOUT, TcpStream::connect((self.settings.host.as_str(), self.settings.port)))
                    .await
                    .map_err(|_| Attempt::Again("the broker does not answer".to_owned()))?
                    .map_err(|error| Attempt::Again(format!("cannot connect: {error}")))?;
            let stream = timeout(HANDSHAKE_TIMEOUT, self.secure(stream))
                .await
                .map_err(|_| Attempt::Again("the broker does not answer the TLS handshake".to_owned()))?
                .map_err(Attempt::Again)?;
            timeout(HANDSHAKE_TIMEOUT, self.handshake(stream, progress.version))
                .await
                .map_err(|_| Attempt::Again("the broker does not answer CONNECT".to_owned()))?
        };
        let shaken = tokio::select! {
            biased;
            () = stop.cancelled() => return Attempt::Stopped,
            shaken = handshake => shaken,
        };
        match shaken {
            Ok((stream, inbox, connack)) => self.receive(intake, stop, progress, stream, inbox, connack).await,
            Err(attempt) => attempt,
        }
    }

    async fn secure(&self, tcp: TcpStream) -> Result<Stream, String> {
        let Some(tls) = &self.settings.tls else { return Stream::plain(tcp).map_err(|error| error.to_string()) };
        let config = tls.config().await.map_err(|error| error.to_string())?;
        let name = tls.server_name(&self.settings.host).map_err(|error| error.to_string())?;
        Stream::connect_tls(tcp, config, name).await.map_err(|error| error.to_string())
    }

    async fn handshake(&self, mut stream: Stream, version: Version) -> Result<(Stream, Inbox, ConnAck), Attempt> {
        let again = |problem: String| Attempt::Again(problem);
        let connect = Connect {
            client_id: self.client_id().expect("a source is prepared before it runs"),
            // A session that is not to outlive its connection leaves nothing behind; 3.1.1 knows no other way to say so.
            clean: self.settings.session_expiry_s == 0,
            keep_alive_s: self.settings.keep_alive_s,
            username: self.settings.username.clone(),
            password: self.settings.password.clone().map(Bytes::from),
            will: None,
            session_expiry_s: Some(self.settings.session_expiry_s),
            // Not announced: a broker would drop larger messages without a word.
            packet_bytes_max: None,
            receive_maximum: Some(RECEIVE_MAXIMUM),
            topic_alias_max: Some(TOPIC_ALIAS_MAX),
            auth_method: None,
        };
        let mut out = BytesMut::new();
        write::connect(version, &connect, &mut out).map_err(|error| again(error.to_string()))?;
        stream.write_all(&out).await.map_err(|error| again(error.to_string()))?;
        let mut inbox = Inbox::new();
        let (header, frame) =
            first_packet(&mut stream, &mut inbox, codec::CONNACK).await.map_err(|no_packet| match no_packet {
                NoPacket::Closed => again("the broker closed the connection without an answer to CONNECT".to_owned()),
                NoPacket::Io(error) => again(error.to_string()),
                NoPacket::Violation(violation) => again(violation.to_string()),
            })?;
        let connack = inbox::connack(version, header, frame).map_err(|violation| again(violation.to_string()))?;
        match refusal(version, &connack) {
            None => Ok((stream, inbox, connack)),
            Some(attempt) => Err(attempt),
        }
    }

    async fn receive(
        &self,
        intake: &dyn Intake,
        stop: &Stop,
        progress: &mut Progress,
        stream: Stream,
        inbox: Inbox,
        connack: ConnAck,
    ) -> Attempt {
        let settings = &self.settings;
        let wanted = format!("{} {}", settings.qos as u8, settings.filter);
        let remembered = progress.remembered.take();
        let was_in_use =
            progress.subscribed.is_some() || remembered.as_ref().is_some_and(|session| !session.is_empty());
        let remembered =
            remembered.unwrap_or_else(|| Remembered::new(&self.client_id().unwrap_or_default(), Lasts::InLog));
        if connack.session_expiry_s.is_some_and(|seconds| seconds < settings.session_expiry_s) {
            info!(source = %self.name, seconds = connack.session_expiry_s, "the broker keeps our session for less than asked");
        }
        let mut session = Session::client(progress.version, settings.retained, remembered);
        if !connack.session_present && was_in_use {
            session.lose_session();
            let epoch = session.epoch();
            warn!(source = %self.name, epoch, "the broker has lost our session: messages since the last connection may be missing");
        }
        // In 3.1.1 each SUBSCRIBE brings the retained messages again; in 5 it is idempotent, and heals what is broken.
        let subscribe = progress.version == Version::V5
            || !connack.session_present
            || progress.subscribed.as_ref() != Some(&wanted);
        if subscribe && let Err(violation) = session.subscribe(&settings.filter, settings.qos) {
            return Attempt::Failed(SourceError::Environment(violation.to_string()));
        }
        let keep_alive_s = connack.server_keep_alive_s.unwrap_or(settings.keep_alive_s);
        let now = Instant::now();
        progress.ready_at = Some(now);
        let connected = |intake: &dyn Intake| {
            let Settings { host, port, filter, .. } = settings;
            let session = if connack.session_present { "resumed" } else { "new" };
            info!(source = %self.name, broker = %format_args!("{host}:{port}"), %filter, session, "connected");
            intake.set_connected(true);
        };
        if !session.is_subscribing() {
            connected(intake);
        }
        let mut connection = Connection {
            stream,
            inbox,
            session,
            keep_alive: KeepAlive::client(Duration::from_secs(u64::from(keep_alive_s)), now),
            suback_by: now + HANDSHAKE_TIMEOUT,
            intake,
            partition: PARTITION,
        };
        let end = connection
            .run(stop, &Stop::new(), || {
                connected(intake);
                if progress.subscribed.as_ref() != Some(&wanted) {
                    self.store_subscribed(&wanted);
                    progress.subscribed = Some(wanted.clone());
                }
            })
            .await;
        progress.remembered = connection.take_remembered(&end);
        connection.close(&end).await;
        self.after(end)
    }

    fn after(&self, end: End) -> Attempt {
        let Settings { host, port, .. } = &self.settings;
        match end {
            End::Stopped | End::Intake(IntakeError::Stopping) => Attempt::Stopped,
            End::Intake(error) => Attempt::Failed(error.into()),
            End::Refused(why) => Attempt::Failed(SourceError::Environment(format!("source {}: {why}", self.name))),
            End::Disconnected { code: reason::TAKEN_OVER, .. } => {
                let id = self.client_id().unwrap_or_default();
                Attempt::Failed(SourceError::Environment(format!(
                    "source {}: another client took over our session at {host}:{port}: two programs use the client id {id:?}",
                    self.name
                )))
            }
            End::Disconnected { code, reason } => {
                let why = reason.map(|why| format!(": {why}")).unwrap_or_default();
                Attempt::Again(format!("the broker disconnected us (reason {code:#04x}{why})"))
            }
            End::Closed | End::TakenOver => Attempt::Again("the broker closed the connection".to_owned()),
            End::Violation(violation) => Attempt::Again(format!("the broker broke the protocol: {violation}")),
            End::Io(error) => Attempt::Again(error.to_string()),
        }
    }

    fn subscribed_path(&self) -> String {
        format!("sources/{}/subscribed", self.name)
    }

    /// Names the session in notes. Not by the address: a broker may move, and one that is another says that it has no session.
    fn session_name(&self) -> Bytes {
        session_name(&self.client_id().unwrap_or_default())
    }

    /// Names the session at the broker: `host:port client_id`.
    fn session_key(&self) -> String {
        format!("{}:{} {}", self.settings.host, self.settings.port, self.client_id().unwrap_or_default())
    }

    async fn load_subscribed(&self) -> Option<String> {
        let (storage, path) = (Arc::clone(&self.storage), self.subscribed_path());
        let read = tokio::task::spawn_blocking(move || storage.get(&path)).await;
        match read {
            // What another broker held, or held for another client id, says nothing about this session.
            Ok(Ok(bytes)) => {
                let text = String::from_utf8(bytes.to_vec()).ok()?;
                let (session, subscribed) = text.split_once('\n')?;
                (session == self.session_key()).then(|| subscribed.to_owned())
            }
            Ok(Err(StorageError::Missing { .. })) => None,
            Ok(Err(error)) => {
                warn!(source = %self.name, %error, "cannot read what was subscribed; subscribing again");
                None
            }
            Err(_) => None,
        }
    }

    /// Remembers the subscription in the background: without the note the next start only subscribes once more.
    fn store_subscribed(&self, wanted: &str) {
        let (storage, path, name) = (Arc::clone(&self.storage), self.subscribed_path(), self.name.clone());
        let note = format!("{}\n{wanted}", self.session_key());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = storage.put(&path, note.as_bytes()) {
                warn!(source = %name, %error, "cannot note what was subscribed");
            }
        });
    }
}

pub(super) fn stored_or_new(storage: &dyn Storage, path: &str, fresh: &str) -> Result<String, StorageError> {
    match storage.put_new(path, fresh.as_bytes()) {
        Ok(()) => Ok(fresh.to_owned()),
        Err(StorageError::Exists { .. }) => Ok(String::from_utf8_lossy(&storage.get(path)?).into_owned()),
        Err(error) => Err(error),
    }
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
        (Version::V311, 3) => "it is unavailable",
        (Version::V311, 4) | (Version::V5, reason::BAD_CREDENTIALS) => "bad username or password",
        (Version::V311, 5) | (Version::V5, reason::NOT_AUTHORIZED) => "not authorized",
        _ => "see the reason code",
    };
    let why = connack.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    Some(Attempt::Again(format!("the broker refused the connection: {words} (code {code:#04x}{why})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_host_and_port() {
        for (url, host, port, has_tls) in [
            ("mqtt://localhost", "localhost", 1883, false),
            ("mqtt://localhost:2883/", "localhost", 2883, false),
            ("mqtts://localhost", "localhost", 8883, true),
            ("mqtts://localhost:1883", "localhost", 1883, true),
            ("mqtt://10.0.0.1:1", "10.0.0.1", 1, false),
            ("mqtt://[::1]", "::1", 1883, false),
            ("mqtts://[::1]:2000", "::1", 2000, true),
        ] {
            assert_eq!(parse_url(url), Ok(Address { host: host.to_owned(), port, has_tls }), "{url}");
        }
        for (url, words) in [
            ("localhost:1883", "is not a URL"),
            ("ssl://x", "write mqtts://"),
            ("tcp://x", "write mqtt://"),
            ("ws://x", "only mqtt:// and mqtts:// work"),
            ("mqtt://u:p@x", "username and password"),
            ("mqtt://x/y", "has a path"),
            ("mqtt://", "has no host"),
            ("mqtt://x:0", "not a port"),
            ("mqtt://x:99999", "not a port"),
            ("mqtt://[::1]x", "not a port"),
        ] {
            let error = parse_url(url).expect_err(url).to_string();
            assert!(error.contains(words), "{url}: {error}");
        }
    }
}
