//! A peer of the program that sends numbered messages and never gives one up: a device at a listener or at a broker, or a
//! broker that the program has subscribed at. It goes on through any number of broken connections, resumes its session, and
//! writes a ledger that is on disk before a message leaves.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::ledger::{Kind, Ledger, Reading};
use super::mqtt_script::sender::{Ids, Sender};
use super::mqtt_script::words::{Version, decode, encode};

/// Between two attempts to connect.
const RECONNECT: Duration = Duration::from_millis(10);
/// How long the other side may take to connect, or for its answer to CONNECT.
const HANDSHAKE_MAX: Duration = Duration::from_secs(30);
/// Messages that are written, and synced to the ledger, together.
const BATCH_MAX: usize = 200;

/// Which side of MQTT it is.
#[derive(Debug)]
pub(crate) enum Role {
    /// A client: it connects to a port.
    Device {
        /// Of a listener or a broker.
        port: u16,
    },
    /// A broker of one subscriber, which connects to us.
    Broker(TcpListener),
}

/// What is sent, and how.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Who sends: the client id of a device, and the name in the ledger.
    pub(crate) who: String,
    /// Which side it is.
    pub(crate) role: Role,
    /// The version that a device speaks; a broker speaks that of its subscriber.
    pub(crate) version: Version,
    /// Of all messages.
    pub(crate) qos: u8,
    /// Of all messages.
    pub(crate) topic: String,
    /// How many may be in flight.
    pub(crate) window: usize,
    /// How packet ids are chosen.
    pub(crate) ids: Ids,
}

/// A running peer.
pub(crate) struct Peer {
    shared: Arc<Shared>,
    running: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    /// Messages below this number may be sent.
    until: AtomicI64,
    done: AtomicI64,
    stop: AtomicBool,
    changed: Notify,
    in_flight_at_breaks: AtomicU64,
    sessions_lost: AtomicU64,
}

impl Peer {
    /// Begins with no messages to send.
    pub(crate) fn begin(plan: Plan, ledgers: &Path) -> Peer {
        std::fs::create_dir_all(ledgers).expect("a writable folder");
        let shared = Arc::new(Shared::default());
        let ledger = Ledger::create(&ledgers.join(format!("{}.csv", plan.who)), &plan.who);
        let sender = Sender::new(plan.version, plan.qos, &plan.topic, plan.ids);
        let state = State { plan, ledger, sender, next: 0, connected_before: false, shared: Arc::clone(&shared) };
        Peer { shared, running: tokio::spawn(state.run()) }
    }

    /// Lets it send all messages below a number.
    pub(crate) fn send_until(&self, number: i64) {
        self.shared.until.store(number, Ordering::SeqCst);
        self.shared.changed.notify_one();
    }

    /// Returns how many messages are acknowledged for good; at QoS 0, sent.
    pub(crate) fn done(&self) -> i64 {
        assert!(!self.running.is_finished() || self.shared.stop.load(Ordering::SeqCst), "the peer failed, see above");
        self.shared.done.load(Ordering::SeqCst)
    }

    /// Returns how many messages were in flight when connections broke, all together.
    pub(crate) fn in_flight_at_breaks(&self) -> u64 {
        self.shared.in_flight_at_breaks.load(Ordering::SeqCst)
    }

    /// Returns how often a listener did not know the session of before.
    pub(crate) fn sessions_lost(&self) -> u64 {
        self.shared.sessions_lost.load(Ordering::SeqCst)
    }

    /// Ends it.
    pub(crate) async fn end(self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.running.abort();
        let _ = self.running.await;
    }
}

struct State {
    plan: Plan,
    ledger: Ledger,
    sender: Sender,
    next: i64,
    connected_before: bool,
    shared: Arc<Shared>,
}

impl State {
    async fn run(mut self) {
        loop {
            if let Ok(Some((mut stream, version, received))) =
                tokio::time::timeout(HANDSHAKE_MAX, self.open()).await.unwrap_or(Ok(None))
            {
                self.plan.version = version;
                let _ = self.talk(&mut stream, received).await;
                self.shared.in_flight_at_breaks.fetch_add(self.sender.in_flight() as u64, Ordering::SeqCst);
            }
            tokio::time::sleep(RECONNECT).await;
        }
    }

    /// Connects, up to a CONNACK that accepts.
    async fn open(&mut self) -> std::io::Result<Option<(TcpStream, Version, Vec<u8>)>> {
        let mut received = Vec::new();
        match &self.plan.role {
            Role::Device { port } => {
                let mut stream = TcpStream::connect(("127.0.0.1", *port)).await?;
                stream.set_nodelay(true)?;
                let Plan { version, who, .. } = &self.plan;
                let connect = match version {
                    Version::V4 => format!("CONNECT v4 id={who}"),
                    Version::V5 => format!("CONNECT v5 id={who} session_expiry=86400"),
                };
                stream.write_all(&encode(*version, &connect)).await?;
                let Some(connack) = next(&mut stream, *version, &mut received).await? else { return Ok(None) };
                if !connack.contains("rc=0x00") {
                    return Ok(None);
                }
                self.shared
                    .sessions_lost
                    .fetch_add(u64::from(self.connected_before && connack.contains("present=0")), Ordering::SeqCst);
                self.connected_before = true;
                Ok(Some((stream, *version, received)))
            }
            Role::Broker(listener) => {
                let (mut stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let version = loop {
                    if let Some(version) = super::mqtt_script::words::version_asked(&received) {
                        break version;
                    }
                    if stream.read_buf(&mut received).await? == 0 {
                        return Ok(None);
                    }
                };
                let Some(_connect) = next(&mut stream, version, &mut received).await? else { return Ok(None) };
                let present = u8::from(self.connected_before);
                stream.write_all(&encode(version, &format!("CONNACK present={present}"))).await?;
                // Messages come to a subscriber only.
                if !self.connected_before {
                    let Some(line) = next(&mut stream, version, &mut received).await? else { return Ok(None) };
                    stream.write_all(&self.suback(version, &line)).await?;
                }
                self.connected_before = true;
                Ok(Some((stream, version, received)))
            }
        }
    }

    fn suback(&self, version: Version, line: &str) -> Vec<u8> {
        let id = line.strip_prefix("SUBSCRIBE ").and_then(|rest| rest.split(' ').next()).expect("a SUBSCRIBE");
        encode(version, &format!("SUBACK {id} {:#04x}", self.plan.qos))
    }

    /// Sends and hears until the connection breaks.
    async fn talk(&mut self, stream: &mut TcpStream, mut received: Vec<u8>) -> std::io::Result<()> {
        self.sender.set_version(self.plan.version);
        stream.write_all(&self.sender.resume()).await?;
        let shared = Arc::clone(&self.shared);
        loop {
            let out = self.more();
            stream.write_all(&out).await?;
            let mut out = Vec::new();
            let mut done = Vec::new();
            while let Some((line, length)) = decode(self.plan.version, &received) {
                received.drain(..length);
                if line.starts_with("SUBSCRIBE ") {
                    out.extend(self.suback(self.plan.version, &line));
                } else if line == "PINGREQ" {
                    out.extend(encode(self.plan.version, "PINGRESP"));
                } else if line.starts_with("DISCONNECT") {
                    return Ok(());
                } else {
                    let (answer, number) = self.sender.hear(&line);
                    out.extend(answer);
                    done.extend(number.map(reading));
                }
            }
            self.ledger.acknowledged(&done, false);
            self.shared.done.fetch_add(done.len() as i64, Ordering::SeqCst);
            stream.write_all(&out).await?;
            if !done.is_empty() && self.may_send() > 0 {
                continue;
            }
            let more = self.may_send() > 0;
            tokio::select! {
                read = stream.read_buf(&mut received) => if read? == 0 {
                    return Ok(());
                },
                () = shared.changed.notified(), if !more => {}
                () = std::future::ready(()), if more => {}
            }
        }
    }

    fn may_send(&self) -> usize {
        let room = self.plan.window - self.sender.in_flight().min(self.plan.window);
        let left = self.shared.until.load(Ordering::SeqCst) - self.next;
        room.min(usize::try_from(left).unwrap_or(0)).min(BATCH_MAX)
    }

    /// Writes down and returns the next messages.
    fn more(&mut self) -> Vec<u8> {
        let readings: Vec<Reading> = (self.next..).take(self.may_send()).map(reading).collect();
        if readings.is_empty() {
            return Vec::new();
        }
        self.next += readings.len() as i64;
        self.ledger.sending(&readings);
        if self.plan.qos == 0 {
            self.shared.done.fetch_add(readings.len() as i64, Ordering::SeqCst);
        }
        readings.iter().flat_map(|reading| self.sender.publish(reading.seq, reading.json(&self.plan.who))).collect()
    }
}

/// The reading of a number: 2020 and a second for each thousand.
fn reading(seq: i64) -> Reading {
    Reading { seq, v: seq % 100, ts_us: 1_577_836_800_000_000 + seq * 1_000, kind: Kind::Plain }
}

async fn next(stream: &mut TcpStream, version: Version, received: &mut Vec<u8>) -> std::io::Result<Option<String>> {
    loop {
        if let Some((line, length)) = decode(version, received) {
            received.drain(..length);
            return Ok(Some(line));
        }
        if stream.read_buf(received).await? == 0 {
            return Ok(None);
        }
    }
}
