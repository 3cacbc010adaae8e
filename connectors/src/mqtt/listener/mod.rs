//! `connector = 'mqtt_listener'`: devices connect straight to us.
//!
//! Not a broker: nobody can subscribe, nothing is retained, and a PUBACK means more than any broker's: the message is in the
//! ingest log and survives power loss. What a device can expect:
//!
//! | it sends | it gets |
//! |---|---|
//! | CONNECT 3.1.1 or 5 | CONNACK, `session_present` = 0: a publisher of QoS 0 and 1 has no state at the server, so there is nothing to keep, and in version 5 the session expiry is 0 |
//! | CONNECT with an id in use | the older connection is closed (version 5: 0x8E) |
//! | CONNECT without an id | an assigned one (version 5); accepted with a clean session, else code 2 (3.1.1) |
//! | PUBLISH QoS 0 | logged |
//! | PUBLISH QoS 1 | logged, and PUBACK once durable, in order |
//! | PUBLISH QoS 2 | logged, PUBREC once durable; PUBREL gets PUBCOMP. Exactly once while the connection lasts |
//! | PUBLISH to a topic that the source's pattern does not match | logged and acknowledged (version 5: 0x10, no matching subscribers), counted as `topic`, and found among the dead letters. It does not vanish, and a device of 3.1.1, which cannot be told no, is not caught in an endless reconnect |
//! | the retain flag | taken as any other message |
//! | SUBSCRIBE | SUBACK with failure (0x80; version 5: 0x83) |
//! | a will | published as an ordinary message if the connection ends without a good-bye |
//! | silence for 1.5 keep-alives, or no CONNECT within 10 s | the end of the connection |
//! | a packet over 16 MiB | DISCONNECT 0x95, or the end of the connection |

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use tidemill_engine::clock::Dice;
use tidemill_engine::source::{Chunk, Intake, IntakeError, Message, Resume, Source, SourceError, Stop};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::codec::{self, ConnectError};
use super::connection::{Connection, End, NoPacket, first_packet};
use super::inbox::Inbox;
use super::keep_alive::KeepAlive;
use super::packet::{Connect, Version, Violation, Will, reason};
use super::remembered::{Lasts, Remembered};
use super::session::Session;
use super::topic::TopicPattern;
use super::transport::Stream;
use super::write;
use crate::Context;
use crate::descriptors;
use crate::options::{OptionError, Options};

/// The one partition of the source. A partition for each device would make the slowest one hold the watermark back.
const PARTITION: &str = "listener";
const BIND_DEFAULT: &str = "127.0.0.1:1883";
const CONNECTIONS_MAX_DEFAULT: usize = 10_000;
/// How long a client may take to send its CONNECT, and to read our refusal.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait when the system gives no more sockets.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A source that listens for MQTT clients.
pub struct MqttListener {
    bind: String,
    connections_max: usize,
    bound: Mutex<Option<TcpListener>>,
    address: Mutex<Option<SocketAddr>>,
    shared: Arc<Shared>,
}

/// What the connections share.
struct Shared {
    name: String,
    pattern: TopicPattern,
    username: Option<String>,
    password: Option<String>,
    dice: Arc<dyn Dice>,
    /// The connection that owns each client id: its number, and how to end it.
    clients: Mutex<Clients>,
}

#[derive(Default)]
struct Clients {
    next_number: u64,
    by_id: HashMap<String, (u64, Stop)>,
}

/// Makes the source from its options; does no I/O.
pub fn listener(
    name: &str,
    options: &mut Options,
    context: &Context,
) -> Result<(MqttListener, TopicPattern), OptionError> {
    let bind = options.take("bind").unwrap_or_else(|| BIND_DEFAULT.to_owned());
    let port = bind.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()));
    if !matches!(port, Some((host, Ok(_))) if !host.is_empty()) {
        return Err(OptionError::new("bind", format!("{bind:?} is not an address such as '{BIND_DEFAULT}'")));
    }
    let topic = options.require("topic")?;
    let pattern = TopicPattern::parse(&topic).map_err(|error| OptionError::new("topic", error.to_string()))?;
    let username = options.take("username");
    let password = options.take("password");
    if password.is_some() && username.is_none() {
        return Err(OptionError::new("password", "needs a username beside it"));
    }
    if username.is_some() && password.is_none() {
        return Err(OptionError::new("username", "needs a password beside it"));
    }
    let connections_max =
        options.parse("max_connections", "a number of connections")?.unwrap_or(CONNECTIONS_MAX_DEFAULT);
    if connections_max == 0 || connections_max > Semaphore::MAX_PERMITS {
        return Err(OptionError::new("max_connections", "must be at least 1"));
    }
    let shared = Shared {
        name: name.to_owned(),
        pattern: pattern.clone(),
        username,
        password,
        dice: Arc::clone(&context.dice),
        clients: Mutex::new(Clients::default()),
    };
    let source = MqttListener {
        bind,
        connections_max,
        bound: Mutex::new(None),
        address: Mutex::new(None),
        shared: Arc::new(shared),
    };
    Ok((source, pattern))
}

impl MqttListener {
    /// Sets the address to listen at, `host:port`; port 0 takes any free one. To be called before the source is prepared.
    pub fn set_bind(&mut self, bind: impl Into<String>) {
        self.bind = bind.into();
    }

    /// Returns the address it listens at, once prepared.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        *self.address.lock()
    }
}

#[async_trait::async_trait]
impl Source for MqttListener {
    fn bounded(&self) -> bool {
        false
    }

    async fn prepare(&self) -> Result<(), SourceError> {
        let Shared { name, .. } = &*self.shared;
        let refused = |error: std::io::Error| {
            let bind = &self.bind;
            SourceError::Environment(match error.kind() {
                std::io::ErrorKind::AddrInUse => format!(
                    "source {name}: {bind} is in use by another program (perhaps a broker): stop it, or say bind = 'host:port'"
                ),
                _ => format!("source {name}: cannot listen for MQTT at {bind}: {error}"),
            })
        };
        self.release();
        // In a later run the same port as before, also if any was asked for: that is where the clients are.
        let before = *self.address.lock();
        let listener = match before {
            Some(address) => TcpListener::bind(address).await,
            None => TcpListener::bind(&self.bind).await,
        };
        let listener = listener.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        info!(source = %name, %address, "listening for MQTT");
        if !address.ip().is_loopback() && self.shared.username.is_none() {
            warn!(source = %name, %address, "anybody who reaches this address can publish: set username and password");
        }
        *self.address.lock() = Some(address);
        *self.bound.lock() = Some(listener);
        Ok(())
    }

    fn release(&self) {
        drop(self.bound.lock().take());
    }

    async fn run(&self, intake: Arc<dyn Intake>, _resume: Vec<Resume>, stop: Stop) -> Result<(), SourceError> {
        let listener = self.bound.lock().take().expect("a source is prepared before it runs");
        intake.open(PARTITION).await?;
        let permits = Arc::new(Semaphore::new(self.connections_max));
        let tasks = TaskTracker::new();
        // Ends all connections: because the program stops, or because the log has failed one of them.
        let ending = stop.child_token();
        let failed: Arc<Mutex<Option<IntakeError>>> = Arc::default();
        intake.set_connected(true);
        loop {
            let accepted = tokio::select! {
                biased;
                () = ending.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(source = %self.shared.name, %error, "cannot accept a connection");
                    intake.count_error("accept");
                    let _ = timeout(ACCEPT_RETRY, ending.cancelled()).await;
                    continue;
                }
            };
            if descriptors::are_scarce(&stream) {
                intake.count_error("descriptors");
                warn!(source = %self.shared.name, %peer, "refused an MQTT connection: the process has nearly as many open files as it may have");
                continue;
            }
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                intake.count_error("connections");
                debug!(source = %self.shared.name, %peer, max = self.connections_max, "too many connections");
                continue;
            };
            let client = Client {
                shared: Arc::clone(&self.shared),
                intake: Arc::clone(&intake),
                peer,
                stop: ending.clone(),
                failed: Arc::clone(&failed),
                _permit: permit,
            };
            tasks.spawn(client.serve(stream));
        }
        intake.set_connected(false);
        drop(listener);
        tasks.close();
        tasks.wait().await;
        match failed.lock().take() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }
}

/// One connection's task.
struct Client {
    shared: Arc<Shared>,
    intake: Arc<dyn Intake>,
    peer: SocketAddr,
    stop: Stop,
    failed: Arc<Mutex<Option<IntakeError>>>,
    _permit: OwnedSemaphorePermit,
}

/// A client that may publish.
struct Accepted {
    version: Version,
    connect: Connect,
    /// The id in the CONNECT, or the one assigned; `None` in 3.1.1 without an id.
    id: Option<String>,
}

impl Client {
    async fn serve(self, stream: TcpStream) {
        let mut inbox = Inbox::new();
        let accepted = tokio::select! {
            biased;
            () = self.stop.cancelled() => return,
            // Boxed: the handshake is over soon, its room in the task is not needed for hours.
            accepted = Box::pin(self.accept(stream, &mut inbox)) => accepted,
        };
        let Some((stream, accepted)) = accepted else { return };
        let Accepted { version, connect, id } = accepted;
        let taken_over = Stop::new();
        let number = id.as_deref().map(|id| self.shared.register(id, &taken_over));
        let now = Instant::now();
        let remembered = Remembered::new(id.as_deref().unwrap_or_default(), Lasts::Connection);
        let connection = Connection {
            stream,
            inbox,
            session: Session::server(version, self.shared.pattern.clone(), connect.packet_bytes_max, remembered),
            keep_alive: KeepAlive::server(Duration::from_secs(u64::from(connect.keep_alive_s)), now),
            suback_by: now,
            intake: &*self.intake,
            partition: PARTITION,
        };
        let (end, _) = connection.run(&self.stop, &taken_over, || ()).await;
        if let (Some(id), Some(number)) = (&id, number) {
            self.shared.deregister(id, number);
        }
        self.log(&end, id.as_deref().unwrap_or_default());
        match (end, connect.will) {
            (End::Intake(error), _) => self.fail(error),
            // A good-bye deletes the will; our own stop is no misfortune of the device.
            (End::Disconnected { code, .. }, _) if code != reason::DISCONNECT_WITH_WILL => {}
            (End::Stopped, _) | (_, None) => {}
            (_, Some(will)) => self.publish_will(will).await,
        }
    }

    /// Waits for CONNECT and answers it.
    async fn accept(&self, stream: TcpStream, inbox: &mut Inbox) -> Option<(Stream, Accepted)> {
        let mut stream = match Stream::plain(stream) {
            Ok(stream) => stream,
            Err(error) => {
                debug!(peer = %self.peer, %error, "lost before CONNECT");
                return None;
            }
        };
        let packet = match timeout(CONNECT_TIMEOUT, first_packet(&mut stream, inbox, codec::CONNECT)).await {
            Err(_) => {
                self.count("connect_timeout", "no CONNECT in time");
                return None;
            }
            Ok(Err(NoPacket::Closed)) => return None,
            Ok(Err(NoPacket::Io(error))) => {
                debug!(peer = %self.peer, %error, "lost before CONNECT");
                return None;
            }
            Ok(Err(NoPacket::Violation(violation))) => {
                self.count(violation.kind(), &violation.to_string());
                return None;
            }
            Ok(Ok(packet)) => packet,
        };
        let (header, frame) = packet;
        match codec::read_connect(header, frame) {
            Ok((version, connect)) => match self.admit(version, connect) {
                Ok(accepted) => self.welcome(stream, accepted).await,
                Err((version, code, why)) => {
                    self.count(if code == reason::BAD_CREDENTIALS { "auth" } else { "protocol" }, why);
                    self.refuse(stream, version, code, why).await
                }
            },
            Err(ConnectError::Version(level)) => {
                self.count("version", &format!("MQTT protocol level {level}, only 3.1.1 (4) and 5 are known"));
                // Whoever asks for a newer version reads version 5, whoever asks for an older one 3.1.1.
                let version = if level > 5 { Version::V5 } else { Version::V311 };
                self.refuse(stream, version, reason::UNSUPPORTED_VERSION, "").await
            }
            Err(ConnectError::Violation(version, violation)) => {
                self.count(violation.kind(), &violation.to_string());
                match version {
                    Some(Version::V5) => {
                        self.refuse(stream, Version::V5, violation.code(), &violation.to_string()).await
                    }
                    _ => None,
                }
            }
        }
    }

    fn count(&self, kind: &'static str, why: &str) {
        self.intake.count_error(kind);
        warn!(source = %self.shared.name, peer = %self.peer, why, "refused an MQTT connection");
    }

    /// Decides whether a client may come in, and under which id.
    fn admit(&self, version: Version, connect: Connect) -> Result<Accepted, (Version, u8, &'static str)> {
        if connect.auth_method.is_some() {
            return Err((version, reason::BAD_AUTH_METHOD, "extended authentication is not supported"));
        }
        if !self.shared.knows(&connect) {
            return Err((version, reason::BAD_CREDENTIALS, "bad username or password"));
        }
        let id = match (connect.client_id.is_empty(), version) {
            (false, _) => Some(connect.client_id.clone()),
            (true, Version::V5) => Some(format!("tidemill{:015x}", self.shared.dice.roll() >> 4)),
            (true, Version::V311) if connect.clean => None,
            (true, Version::V311) => {
                return Err((version, reason::CLIENT_ID_INVALID, "an empty client id needs a clean session"));
            }
        };
        Ok(Accepted { version, connect, id })
    }

    async fn welcome(&self, mut stream: Stream, accepted: Accepted) -> Option<(Stream, Accepted)> {
        let assigned = accepted.id.as_deref().filter(|_| accepted.connect.client_id.is_empty());
        let mut out = BytesMut::new();
        write::accept(accepted.version, &accepted.connect, assigned, &mut out);
        match timeout(CONNECT_TIMEOUT, stream.write_all(&out)).await {
            Ok(Ok(())) => Some((stream, accepted)),
            _ => None,
        }
    }

    async fn refuse<T>(&self, mut stream: Stream, version: Version, code: u8, why: &str) -> Option<T> {
        let mut out = BytesMut::new();
        write::refuse(version, code, why, &mut out);
        let _ = timeout(CONNECT_TIMEOUT, async {
            stream.write_all(&out).await?;
            stream.shutdown().await
        })
        .await;
        stream.linger().await;
        None
    }

    fn log(&self, end: &End, id: &str) {
        let Client { shared, peer, .. } = self;
        match end {
            End::Violation(Violation::KeepAlive) => debug!(source = %shared.name, %peer, id, "silent too long"),
            End::Violation(violation) => {
                warn!(source = %shared.name, %peer, id, %violation, "closed an MQTT connection");
            }
            End::TakenOver => info!(source = %shared.name, %peer, id, "another connection took this client id over"),
            end => debug!(source = %shared.name, %peer, id, ?end, "an MQTT connection ended"),
        }
    }

    /// Publishes what the client left for the case that it vanishes.
    async fn publish_will(&self, will: Will) {
        let fits = std::str::from_utf8(&will.topic).is_ok_and(|topic| self.shared.pattern.accepts(topic));
        if !fits {
            self.intake.count_error("topic");
            return;
        }
        let message = Message::new(will.topic, will.payload);
        let durable = match self.intake.append(PARTITION, Chunk::Messages(vec![message])).await {
            Ok(receipt) => receipt.await.map(|_| ()),
            Err(error) => Err(error),
        };
        if let Err(error) = durable {
            self.fail(error);
        }
    }

    /// Ends the source: when the log has failed, nothing may be acknowledged any more, on any connection.
    fn fail(&self, error: IntakeError) {
        match error {
            IntakeError::Stopping => {}
            error => {
                self.failed.lock().get_or_insert(error);
                self.stop.cancel();
            }
        }
    }
}

impl Shared {
    /// Gives a client id to a new connection; the one that had it is ended.
    fn register(&self, id: &str, taken_over: &Stop) -> u64 {
        let mut clients = self.clients.lock();
        let number = clients.next_number;
        clients.next_number += 1;
        if let Some((_, older)) = clients.by_id.insert(id.to_owned(), (number, taken_over.clone())) {
            older.cancel();
        }
        number
    }

    /// Frees a client id, unless a newer connection has it.
    fn deregister(&self, id: &str, number: u64) {
        let mut clients = self.clients.lock();
        if clients.by_id.get(id).is_some_and(|(owner, _)| *owner == number) {
            clients.by_id.remove(id);
        }
    }

    fn knows(&self, connect: &Connect) -> bool {
        let (Some(username), Some(password)) = (&self.username, &self.password) else { return true };
        let given_name = connect.username.as_deref().unwrap_or_default();
        let given_password = connect.password.as_deref().unwrap_or_default();
        // Both are compared, whatever the first says: the time must not tell which was wrong.
        equal_in_constant_time(username.as_bytes(), given_name.as_bytes())
            & equal_in_constant_time(password.as_bytes(), given_password)
    }
}

/// Compares without stopping at the first difference. The time depends on the length of what was given only.
fn equal_in_constant_time(secret: &[u8], given: &[u8]) -> bool {
    let mut difference = u8::from(secret.len() != given.len());
    for (idx, byte) in given.iter().enumerate() {
        difference |= byte ^ secret.get(idx).copied().unwrap_or(!byte);
    }
    difference == 0
}
