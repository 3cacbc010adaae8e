//! One connection, from the first byte to the last: CONNECT, its session, its packets, its will.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tidemill_engine::time::micros;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::super::codec::{self, ConnectError};
use super::super::connection::{Connection, End, NoPacket, first_packet};
use super::super::inbox::Inbox;
use super::super::keep_alive::KeepAlive;
use super::super::packet::{ConnAck, Connect, Version, Violation, reason};
use super::super::receiver::{RECEIVE_MAXIMUM, TOPIC_ALIAS_MAX};
use super::super::remembered::{Lasts, Remembered};
use super::super::session::Session;
use super::super::transport::Stream;
use super::super::write;
use super::acl::Access;
use super::auth::Who;
use super::guest::{Arrival, Guest, Rules};
use super::house::{House, Log, assigned_id, detached};
use super::limits::CONNECT_TIMEOUT;
use super::saved::Notes;
use super::sessions::{Claim, Entered, Expiry, Kept};
use super::will::{self, Bequest};
use super::{PARTITION, filter, note};
use crate::stall::Stall;

/// The longest client id: it is kept for each session, in every checkpoint.
const CLIENT_ID_BYTES_MAX: usize = 256;

/// One connection's task.
pub(super) struct Visit {
    pub(super) house: Arc<House>,
    pub(super) log: Log,
    pub(super) peer: SocketAddr,
    pub(super) _permit: OwnedSemaphorePermit,
}

/// A client that may come in.
struct Admitted {
    version: Version,
    connect: Connect,
    /// The id in the CONNECT, or one of ours.
    client_id: String,
    who: Who,
}

/// Why a client may not come in.
struct Refusal {
    version: Version,
    code: u8,
    why: String,
}

impl Visit {
    pub(super) async fn serve(self, stream: TcpStream) {
        let mut inbox = Inbox::new();
        // Boxed: the handshake is over soon, its room in the task is not needed for hours.
        let Some((stream, admitted)) = Box::pin(self.receive(stream, &mut inbox)).await else { return };
        let claim = self.house.sessions.claim(&admitted.client_id);
        let entered = tokio::select! {
            biased;
            () = self.log.ending.cancelled() => return,
            // Yet another connection has come with this id.
            () = claim.taken_over.cancelled() => return,
            entered = claim.enter() => entered,
        };
        self.stay(stream, inbox, admitted, claim, entered).await;
    }

    /// Waits for a CONNECT that may come in, as long as there is room and time for it.
    async fn receive(&self, stream: TcpStream, inbox: &mut Inbox) -> Option<(Stream, Admitted)> {
        let (handshake, evicted) = self.house.handshakes.begin();
        if evicted {
            self.log.intake.count_error("handshakes");
        }
        let read = tokio::select! {
            biased;
            () = self.log.ending.cancelled() => return None,
            () = handshake.evicted.cancelled() => return None,
            read = timeout(CONNECT_TIMEOUT, self.read_connect(stream, inbox)) => read,
        };
        // Whoever waits for a password to be checked has said all that it may.
        drop(handshake);
        let Ok(read) = read else {
            self.count("connect_timeout", "no CONNECT in time");
            return None;
        };
        let (stream, connect) = read?;
        let admitted = match connect {
            Ok((version, connect)) => match timeout(CONNECT_TIMEOUT, self.admit(version, connect)).await {
                Ok(admitted) => admitted,
                Err(_) => {
                    self.count("connect_timeout", "its password was not checked in time");
                    return None;
                }
            },
            Err(refusal) => Err(refusal),
        };
        match admitted {
            Ok(admitted) => Some((stream, admitted)),
            Err(refusal) => {
                self.refuse(stream, refusal).await;
                None
            }
        }
    }

    /// Does the handshake of TLS, and reads a CONNECT; `None` if nothing came that could be answered.
    async fn read_connect(
        &self,
        stream: TcpStream,
        inbox: &mut Inbox,
    ) -> Option<(Stream, Result<(Version, Connect), Refusal>)> {
        let mut stream = self.open(stream).await?;
        let (header, frame) = match first_packet(&mut stream, inbox, codec::CONNECT).await {
            Ok(packet) => packet,
            Err(NoPacket::Closed) => return None,
            Err(NoPacket::Io(error)) => {
                debug!(peer = %self.peer, %error, "lost before CONNECT");
                return None;
            }
            Err(NoPacket::Violation(violation)) => {
                self.count(violation.kind(), &violation.to_string());
                return None;
            }
        };
        let refusal = match codec::read_connect(header, frame) {
            Ok(connect) => return Some((stream, Ok(connect))),
            Err(ConnectError::Version(level)) => {
                self.count("version", &format!("MQTT protocol level {level}, only 3.1.1 (4) and 5 are known"));
                // Whoever asks for a newer version reads version 5, whoever asks for an older one 3.1.1.
                let version = if level > 5 { Version::V5 } else { Version::V311 };
                Refusal { version, code: reason::UNSUPPORTED_VERSION, why: String::new() }
            }
            Err(ConnectError::Violation(version, violation)) => {
                self.count(violation.kind(), &violation.to_string());
                let version = version.filter(|version| *version == Version::V5)?;
                Refusal { version, code: violation.code(), why: violation.to_string() }
            }
        };
        Some((stream, Err(refusal)))
    }

    async fn open(&self, stream: TcpStream) -> Option<Stream> {
        let Some(tls) = &self.house.tls else {
            return Stream::plain(stream)
                .inspect_err(|error| debug!(peer = %self.peer, %error, "lost before CONNECT"))
                .ok();
        };
        let opened = match tls.config().await {
            Ok(config) => Stream::accept_tls(stream, config).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        opened.inspect_err(|problem| self.count("tls", problem)).ok()
    }

    fn count(&self, kind: &'static str, why: &str) {
        self.log.intake.count_error(kind);
        warn!(source = %self.house.name, peer = %self.peer, why, "refused an MQTT connection");
    }

    /// Decides whether a client may come in, and under which id.
    async fn admit(&self, version: Version, connect: Connect) -> Result<Admitted, Refusal> {
        let refuse = |kind: &'static str, code: u8, why: &str| {
            self.count(kind, why);
            Refusal { version, code, why: why.to_owned() }
        };
        if connect.auth_method.is_some() {
            let why = "extended authentication is not supported";
            return Err(refuse("protocol", reason::BAD_AUTH_METHOD, why));
        }
        let Some(who) = self.house.door.check(connect.username.as_deref(), connect.password.as_deref()).await else {
            return Err(refuse("auth", reason::BAD_CREDENTIALS, "bad username or password"));
        };
        if connect.client_id.len() > CLIENT_ID_BYTES_MAX {
            return Err(refuse("protocol", reason::CLIENT_ID_INVALID, "the client id has more than 256 bytes"));
        }
        if connect.client_id.is_empty() && version == Version::V311 && !connect.clean {
            let why = "an empty client id needs a clean session";
            return Err(refuse("protocol", reason::CLIENT_ID_INVALID, why));
        }
        let client_id = match connect.client_id.as_str() {
            "" => assigned_id(&*self.house.dice),
            id => id.to_owned(),
        };
        let admitted = Admitted { version, connect, client_id, who };
        if let Some(will) = &admitted.connect.will {
            let topic = std::str::from_utf8(&will.topic).unwrap_or_default();
            if topic.contains(['+', '#']) || filter::problem(topic).is_some() {
                return Err(refuse("protocol", reason::TOPIC_NAME_INVALID, "the will's topic is no topic"));
            }
            if !self.rules(&admitted).permits().allow(Access::Write, topic) {
                return Err(refuse(
                    "acl",
                    reason::NOT_AUTHORIZED,
                    "the will's topic is not allowed by the access file",
                ));
            }
        }
        Ok(admitted)
    }

    fn rules(&self, admitted: &Admitted) -> Rules {
        let file = self.house.acl.as_ref().map(|file| file.follow());
        Rules::new(file, admitted.who.clone(), Arc::from(admitted.client_id.as_str()))
    }

    async fn refuse(&self, mut stream: Stream, refusal: Refusal) {
        let Refusal { version, code, why } = refusal;
        let mut out = BytesMut::new();
        write::refuse(version, code, &why, &mut out);
        let _ = timeout(CONNECT_TIMEOUT, async {
            stream.write_all(&out).await?;
            stream.shutdown().await
        })
        .await;
        stream.linger().await;
    }

    /// Has the session: answers CONNECT, and stays until the connection ends.
    async fn stay(self, stream: Stream, inbox: Inbox, mut admitted: Admitted, claim: Claim, mut entered: Entered) {
        let begun = match self.begin(&admitted, &claim, &mut entered).await {
            Ok(begun) => begun,
            Err(refusal) => {
                self.house.sessions.leave(&claim, entered);
                if let Some(refusal) = refusal {
                    self.refuse(stream, refusal).await;
                }
                return;
            }
        };
        let Begun { mut kept, connack } = begun;
        let remembered = std::mem::replace(&mut kept.remembered, Remembered::new("", Lasts::Connection));
        let mut out = BytesMut::new();
        write::connack(admitted.version, &connack, &mut out);
        let will = admitted.connect.will.take().map(detached);
        let publisher = kept.mailbox.number;
        let guest = Guest::new(Arrival {
            version: admitted.version,
            pattern: self.house.pattern.clone(),
            hub: Arc::clone(&self.house.hub),
            rules: self.rules(&admitted),
            client_id: Arc::clone(&claim.id),
            kept,
            session_expiry_max_s: self.house.session_expiry_max_s,
            packet_bytes_max: admitted.connect.packet_bytes_max,
            receive_maximum: admitted.connect.receive_maximum,
        });
        let now = Instant::now();
        let mut session = Session::server(admitted.version, guest, remembered);
        session.out = out;
        let keep_alive_s = u64::from(admitted.connect.keep_alive_s);
        drop(admitted);
        let mut connection = Connection {
            stream,
            inbox,
            session,
            keep_alive: KeepAlive::server(Duration::from_secs(keep_alive_s), now),
            stall: Stall::new(self.house.patience),
            suback_by: now,
            intake: &*self.log.intake,
            partition: PARTITION,
        };
        let end = connection.run(&self.log.ending, &claim.taken_over, || ()).await;
        let mut kept = connection.session.guest().expect("a session of the server has a guest").leave();
        if let Some(remembered) = connection.take_remembered(&end) {
            kept.remembered = remembered;
        }
        self.tell(&end, &claim.id);
        // Boxed, so that ten thousand idle connections do not reserve room for their end.
        let client_id = Arc::clone(&claim.id);
        let bequest = will.map(|will| Bequest { client_id, will, publisher, saved: None });
        Box::pin(self.depart(connection, end, kept, bequest, claim, entered)).await;
    }

    /// Gives the session back, then says good-bye, then publishes the will: whoever waits for the session waits no longer.
    async fn depart(
        &self,
        connection: Connection<'_>,
        end: End,
        mut kept: Kept,
        bequest: Option<Bequest>,
        claim: Claim,
        mut entered: Entered,
    ) {
        let now = Instant::now();
        let mut bequest = bequest.filter(|_| will::is_due_after(&end));
        let mut notes = Notes::default();
        if let Some(mut waiting) = bequest.take_if(|bequest| will::due_at(&bequest.will, kept.expiry.0, now) > now) {
            let due_at = will::due_at(&waiting.will, kept.expiry.0, now);
            let due_at_us = self.house.clock.now_us().saturating_add(micros(due_at - now));
            let note = will::remember(&claim.id, due_at_us, &waiting.will);
            waiting.saved = notes.save(note, self.house.hub.room());
            kept.will = Some((due_at, waiting));
        }
        let mut notes = notes.take();
        if kept.expiry.outlives() {
            notes.extend(kept.mailbox.take_gone());
            *entered = Some(kept);
        } else {
            notes.extend(kept.end(&claim.id, &self.house.hub));
        }
        if !notes.is_empty() && !matches!(end, End::Intake(_)) {
            // Before the id is free: a new session's note must come later.
            let _ = self.log.append(Vec::new(), notes).await;
        }
        self.house.sessions.leave(&claim, entered);
        connection.close(&end).await;
        if let Some(bequest) = bequest {
            self.house.publish_will(bequest, &self.log).await;
        }
        if let End::Intake(error) = end {
            self.log.fail(error);
        }
    }

    /// Takes up the session that is there, or begins a new one; what the log must know is durable when it returns.
    async fn begin(&self, admitted: &Admitted, claim: &Claim, entered: &mut Entered) -> Result<Begun, Option<Refusal>> {
        let Admitted { version, connect, .. } = admitted;
        let asked = match version {
            Version::V5 => connect.session_expiry_s.unwrap_or(0),
            Version::V311 if connect.clean => 0,
            Version::V311 => u32::MAX,
        };
        let expiry = Expiry(asked.min(self.house.session_expiry_max_s));
        let mut notes = Vec::new();
        let mut older = entered.take();
        if let Some(mut ended) = older.take_if(|_| connect.clean) {
            // The end of a session ends the delay of its will.
            if let Some((_, will)) = ended.will.take() {
                self.house.publish_will(will, &self.log).await;
            }
            notes = ended.end(&claim.id, &self.house.hub);
        }
        let session_present = older.is_some();
        let mut kept = match older {
            Some(older) => older,
            None => {
                let mut new = Kept::new(self.house.sessions.new_number(), self.house.first_number(), &claim.id);
                if !expiry.outlives() {
                    new.remembered = Remembered::new(&claim.id, Lasts::Connection);
                }
                new
            }
        };
        // Back within its delay.
        notes.extend(kept.will.take().and_then(|(_, will)| will.forget()));
        kept.expiry = expiry;
        if self.house.sessions.set_kept(claim, expiry.outlives()).is_err() {
            let why = "there are as many sessions as can be kept: ask for one that ends with its connection";
            self.count("sessions", why);
            return Err(Some(Refusal { version: *version, code: reason::QUOTA_EXCEEDED, why: why.to_owned() }));
        }
        let wanted = expiry.outlives().then_some(expiry);
        let tag = match wanted {
            Some(_) => self.house.hub.save(&kept.mailbox, self.house.new_tag()),
            None => {
                notes.extend(kept.mailbox.stop_saving());
                0
            }
        };
        if kept.noted != wanted {
            // Behind what ends the older session: of two notes of one key the later counts.
            notes.push(match wanted {
                Some(_) => note::remember(&claim.id, expiry, tag, &kept.subscriptions),
                None => note::forget(&claim.id),
            });
            kept.noted = wanted;
        }
        if !notes.is_empty() && self.log.append(Vec::new(), notes).await.is_err() {
            return Err(None);
        }
        let connack = ConnAck {
            session_present,
            session_expiry_s: (expiry.0 != asked).then_some(expiry.0),
            receive_maximum: Some(RECEIVE_MAXIMUM),
            topic_alias_max: Some(TOPIC_ALIAS_MAX),
            packet_bytes_max: u32::try_from(codec::PACKET_BYTES_MAX).ok(),
            shared_available: Some(false),
            assigned_client_id: connect.client_id.is_empty().then(|| claim.id.to_string()),
            ..ConnAck::default()
        };
        Ok(Begun { kept, connack })
    }

    fn tell(&self, end: &End, id: &str) {
        let (source, peer) = (&self.house.name, self.peer);
        match end {
            End::Violation(Violation::KeepAlive) => debug!(%source, %peer, id, "silent too long"),
            End::Violation(violation) => warn!(%source, %peer, id, %violation, "closed an MQTT connection"),
            End::TakenOver => info!(%source, %peer, id, "another connection took this client id over"),
            end => debug!(%source, %peer, id, ?end, "an MQTT connection ended"),
        }
    }
}

/// A session that has begun or goes on.
struct Begun {
    kept: Kept,
    connack: ConnAck,
}
