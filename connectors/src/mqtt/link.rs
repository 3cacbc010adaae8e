//! A connection to a broker that publishes: its handshake, its bytes, its keep-alive.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::Interest;
use tokio::time::{Instant, timeout};

use super::codec::{self, Header};
use super::connection::PATIENCE;
use super::keep_alive::{Due, KeepAlive};
use super::packet::{ConnAck, Connect, FilterAck, Packet, QoS, Subscribe, Unsubscribe, Version, Violation, reason};
use super::reach::{self, HANDSHAKE_TIMEOUT, NoLink, refusal};
use super::sender::Outgoing;
use super::transport::Stream;
use super::write;
use crate::stall::Stall;
use crate::tls::TlsClient;

/// How long our last bytes may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// What a broker tells a publisher is short.
const PACKET_BYTES_MAX: usize = 1 << 20;
/// How many bytes may wait for the socket before no further message is written.
const OUT_BYTES_MAX: usize = 256 << 10;
/// How many bytes one read takes.
const READ_BYTES: usize = 16 << 10;

/// Where a broker is, and who we are to it.
#[derive(Clone, Debug)]
pub struct Broker {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How TLS is spoken to it, if it is.
    pub tls: Option<Arc<TlsClient>>,
    /// Our name: the session at the broker belongs to it.
    pub client_id: String,
    /// Who we are, if the broker asks.
    pub username: Option<String>,
    /// See `username`.
    pub password: Option<String>,
    /// How long a connection may be silent, in seconds; 0 is for ever.
    pub keep_alive_s: u16,
    /// How long the broker keeps the session without a connection, in seconds (version 5).
    pub session_expiry_s: u32,
}

/// A message to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its topic.
    pub topic: Bytes,
    /// Its payload.
    pub payload: Bytes,
    /// Whether the broker keeps it for those who subscribe later.
    pub retain: bool,
}

/// What a connection has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Session {
    /// The broker forgets what it knows of us.
    Clean,
    /// The broker goes on with what it knows of us, if it does.
    Kept,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Link {
    stream: Stream,
    version: Version,
    read: BytesMut,
    out: BytesMut,
    keep_alive: KeepAlive,
    stall: Stall,
    /// What the broker said of itself.
    pub(super) connack: ConnAck,
}

impl Link {
    /// Connects. After [`Session::Clean`] the session is one that the broker keeps.
    pub(super) async fn connect(broker: &Broker, version: Version, session: Session) -> Result<Link, NoLink> {
        Link::greet(Link::reach(broker).await?, broker, version, session).await
    }

    /// Does the half of [`Link::connect`] before the CONNECT.
    pub(super) async fn reach(broker: &Broker) -> Result<Stream, NoLink> {
        let reached = reach::reach(&broker.host, broker.port, broker.tls.as_deref()).await;
        reached.map_err(NoLink::Failed)
    }

    /// Does the other half, from the CONNECT on.
    pub(super) async fn greet(
        stream: Stream,
        broker: &Broker,
        version: Version,
        session: Session,
    ) -> Result<Link, NoLink> {
        let mut link = Link::shake_hands(stream, broker, version, session).await?;
        if session == Session::Clean {
            // One that begins clean ends with its connection in 3.1.1; and one of version 5, whatever its expiry, is not saved by
            // Mosquitto 2.0.11: it would be lost with the broker's next restart.
            link.close().await;
            link = Link::shake_hands(Link::reach(broker).await?, broker, version, Session::Kept).await?;
        }
        Ok(link)
    }

    async fn shake_hands(stream: Stream, broker: &Broker, version: Version, session: Session) -> Result<Link, NoLink> {
        let failed = |why: String| NoLink::Failed(why);
        let Broker { host, port, .. } = broker;
        let connect = Connect {
            client_id: broker.client_id.clone(),
            clean: session == Session::Clean,
            keep_alive_s: broker.keep_alive_s,
            username: broker.username.clone(),
            password: broker.password.clone().map(Bytes::from),
            session_expiry_s: Some(broker.session_expiry_s),
            ..Connect::default()
        };
        let keep_alive = KeepAlive::client(Duration::from_secs(broker.keep_alive_s.into()), Instant::now());
        let (read, out, connack) = (BytesMut::new(), BytesMut::new(), ConnAck::default());
        let mut link = Link { stream, version, read, out, keep_alive, stall: Stall::new(PATIENCE), connack };
        write::connect(version, &connect, &mut link.out).map_err(|error| failed(error.to_string()))?;
        let answer = timeout(HANDSHAKE_TIMEOUT, link.answer()).await;
        link.connack = answer
            .map_err(|_| failed(format!("the broker {host}:{port} does not answer CONNECT")))?
            .map_err(|error| failed(format!("the broker {host}:{port}: {error}")))?;
        match refusal(version, &link.connack) {
            Some(refusal) => Err(refusal),
            None => {
                let interval_s = link.connack.server_keep_alive_s.unwrap_or(broker.keep_alive_s);
                link.keep_alive = KeepAlive::client(Duration::from_secs(interval_s.into()), Instant::now());
                Ok(link)
            }
        }
    }

    async fn answer(&mut self) -> io::Result<ConnAck> {
        match self.heard().await? {
            Packet::ConnAck(connack) => Ok(*connack),
            other => Err(self.refuse(&other.unexpected()).await),
        }
    }

    /// Sends what is written, and waits for the next packet.
    async fn heard(&mut self) -> io::Result<Packet> {
        self.stream.write_all(&self.out).await?;
        self.out.clear();
        loop {
            if let Some(packet) = self.packet().map_err(|violation| invalid(&violation))? {
                return Ok(packet);
            }
            self.stream.ready(Interest::READABLE).await?;
            self.fill()?;
        }
    }

    /// Subscribes, before anything is published on this connection; returns the SUBACK.
    pub(super) async fn subscribe(&mut self, subscribe: &Subscribe) -> Result<FilterAck, String> {
        write::subscribe(self.version, subscribe, &mut self.out).map_err(|violation| violation.to_string())?;
        self.filter_ack("SUBSCRIBE", |packet| match packet {
            Packet::SubAck(ack) => Ok(ack),
            other => Err(other),
        })
        .await
    }

    /// Unsubscribes, before anything is published on this connection; returns the UNSUBACK.
    pub(super) async fn unsubscribe(&mut self, unsubscribe: &Unsubscribe) -> Result<FilterAck, String> {
        write::unsubscribe(self.version, unsubscribe, &mut self.out).map_err(|violation| violation.to_string())?;
        self.filter_ack("UNSUBSCRIBE", |packet| match packet {
            Packet::UnsubAck(ack) => Ok(ack),
            other => Err(other),
        })
        .await
    }

    async fn filter_ack(
        &mut self,
        asked: &str,
        wanted: impl Fn(Packet) -> Result<FilterAck, Packet>,
    ) -> Result<FilterAck, String> {
        let answer = async {
            loop {
                match wanted(self.heard().await?) {
                    Ok(ack) => return Ok(ack),
                    // Somebody publishes to the topic of a mark.
                    Err(Packet::Publish(publish)) if publish.qos == QoS::AtMostOnce => {}
                    Err(other) => return Err(self.refuse(&other.unexpected()).await),
                }
            }
        };
        let answer = timeout(HANDSHAKE_TIMEOUT, answer).await;
        let answer = answer.map_err(|_| format!("the broker does not answer {asked}"))?;
        answer.map_err(|error: io::Error| format!("no answer to {asked}: {error}"))
    }

    /// Tells the broker what is wrong with its answer, if it listens.
    async fn refuse(&mut self, violation: &Violation) -> io::Error {
        if self.version == Version::V5 {
            write::disconnect(self.version, violation.code(), &violation.to_string(), &mut self.out);
            let _ = timeout(CLOSE_TIMEOUT, self.stream.write_all(&self.out)).await;
        }
        invalid(violation)
    }

    /// Sets how long a broker that reads nothing is kept.
    #[cfg(test)]
    pub(super) fn set_stall(&mut self, stall: Stall) {
        self.stall = stall;
    }

    /// Returns how many messages the broker takes at a time.
    pub(super) fn window(&self) -> u16 {
        self.connack.receive_maximum.unwrap_or(u16::MAX)
    }

    /// Says why the broker cannot take what is to be published; `None` if it can.
    pub(super) fn lacks(&self, qos: QoS, retain: bool) -> Option<String> {
        let qos_max = self.connack.qos_max.unwrap_or(QoS::ExactlyOnce);
        if qos > qos_max {
            let (asked, granted) = (qos as u8, qos_max as u8);
            return Some(format!(
                "the broker takes at most QoS {granted}, and QoS {asked} is asked: use qos = '{granted}'"
            ));
        }
        let keeps = self.connack.retain_available.unwrap_or(true);
        (retain && !keeps).then(|| "the broker keeps no retained messages: use retain = 'false'".to_owned())
    }

    /// Says whether a message is more than the broker takes.
    pub(super) fn is_too_large(&self, message: &Message) -> bool {
        // The first byte, the length, the length of the topic, the id, and no properties.
        const AROUND_BYTES: usize = 1 + 4 + 2 + 2 + 1;
        let bytes = AROUND_BYTES + message.topic.len() + message.payload.len();
        let max = self.connack.packet_bytes_max.map_or(codec::PACKET_BYTES_MAX, |max| max as usize);
        bytes > max || message.topic.len() > usize::from(u16::MAX)
    }

    /// Says whether more may be written now.
    pub(super) fn has_room(&self) -> bool {
        self.out.len() < OUT_BYTES_MAX
    }

    /// Says whether everything written has left.
    pub(super) fn is_flushed(&self) -> bool {
        self.out.is_empty() && !self.stream.has_unsent()
    }

    /// Writes a packet.
    pub(super) fn put(&mut self, outgoing: Outgoing<'_, Message>) -> Result<(), Violation> {
        match outgoing {
            Outgoing::Publish { id, qos, dup, message, .. } => {
                let publish = super::packet::Publish {
                    topic: message.topic.clone(),
                    payload: message.payload.clone(),
                    qos,
                    retain: message.retain,
                    duplicate: dup,
                    id,
                    ..super::packet::Publish::default()
                };
                write::publish(self.version, &publish, &mut self.out)
            }
            Outgoing::Release { id } => {
                write::pubrel(self.version, id, reason::SUCCESS, &mut self.out);
                Ok(())
            }
            Outgoing::Unknown { id } => {
                write::pubrel(self.version, id, reason::PACKET_ID_NOT_FOUND, &mut self.out);
                Ok(())
            }
        }
    }

    /// Waits until the socket can be read, or takes more of what is to be written; then writes and reads. May be dropped
    /// and called again.
    pub(super) async fn turn(&mut self) -> io::Result<()> {
        self.flush()?;
        let interest = match self.is_flushed() {
            true => Interest::READABLE,
            false => Interest::READABLE | Interest::WRITABLE,
        };
        let ready = self.stream.ready(interest).await?;
        if ready.is_readable() || ready.is_read_closed() {
            self.fill()?;
        }
        Ok(())
    }

    /// Writes as much as the socket takes now. Fails when the broker has read nothing for too long: to be called now and then.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let before = self.stream.sent_bytes();
        self.write()?;
        let taken = usize::try_from(self.stream.sent_bytes() - before).unwrap_or(usize::MAX);
        if taken > 0 || !self.is_flushed() {
            self.stall.tried(taken, !self.is_flushed(), Instant::now())?;
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match self.stream.try_write(&self.out) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.out.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            self.keep_alive.sent(Instant::now());
        }
        self.stream.try_flush()
    }

    fn fill(&mut self) -> io::Result<()> {
        self.read.reserve(READ_BYTES);
        match self.stream.try_read(&mut self.read) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the broker closed the connection")),
            Ok(_) => {
                self.keep_alive.heard(Instant::now());
                Ok(())
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Returns the next packet that has come.
    pub(super) fn packet(&mut self) -> Result<Option<Packet>, Violation> {
        let Some(header) = Header::read(&self.read)? else { return Ok(None) };
        let bytes = header.frame_bytes();
        if bytes > PACKET_BYTES_MAX {
            return Err(Violation::TooLarge { bytes, max: PACKET_BYTES_MAX });
        }
        if self.read.len() < bytes {
            return Ok(None);
        }
        let frame = self.read.split_to(bytes).freeze();
        codec::read(self.version, header, frame).map(Some)
    }

    /// Sends a PINGREQ or gives the broker up if it is time; returns when to look again.
    pub(super) fn look_at_the_clock(&mut self) -> Result<Instant, String> {
        loop {
            match self.keep_alive.due(Instant::now()) {
                Due::At(until) => return Ok(until),
                Due::Ping => write::pingreq(&mut self.out),
                Due::Dead => return Err("the broker did not answer a PINGREQ".to_owned()),
            }
        }
    }

    /// Says good-bye. The session stays.
    pub(super) async fn close(mut self) {
        write::disconnect(self.version, reason::SUCCESS, "", &mut self.out);
        let _ = timeout(CLOSE_TIMEOUT, async {
            self.stream.write_all(&self.out).await?;
            self.stream.shutdown().await
        })
        .await;
        self.stream.linger().await;
    }
}

fn invalid(violation: &Violation) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, violation.to_string())
}
