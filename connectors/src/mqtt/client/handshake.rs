//! The handshake of a connection: TCP, TLS, CONNECT and its answer; and the good-bye at its end.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::member::{Attempt, Member};
use crate::mqtt::codec;
use crate::mqtt::connection::{NoPacket, first_packet};
use crate::mqtt::credentials::Known;
use crate::mqtt::inbox::{self, Inbox};
use crate::mqtt::packet::{ConnAck, Connect, Version, reason, unexpected_auth};
use crate::mqtt::receiver::TOPIC_ALIAS_MAX;
use crate::mqtt::transport::Stream;
use crate::mqtt::write;

/// How long a broker may take to accept a connection, again for TLS, again to answer our CONNECT, and again our SUBSCRIBE.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How a session is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// With whatever the broker may have under our client id.
    Resume,
    /// Clean, and not to be kept either.
    Forget,
}

/// A connection that the broker has accepted, what came behind its answer, and the answer.
pub(super) type Shaken = (Stream, Inbox, ConnAck);

impl Member {
    /// Connects, and introduces itself.
    pub(super) async fn shake_hands(&self, version: Version, begin: Begin) -> Result<Shaken, Attempt> {
        self.greet(self.reach().await?, version, begin).await
    }

    /// Does the half of [`Member::shake_hands`] before the CONNECT.
    pub(super) async fn reach(&self) -> Result<Stream, Attempt> {
        let settings = &self.shared.settings;
        let again = Attempt::Again;
        let to = (settings.address.host.as_str(), settings.address.port);
        let tcp = timeout(HANDSHAKE_TIMEOUT, TcpStream::connect(to))
            .await
            .map_err(|_| again("the broker does not answer".to_owned()))?
            .map_err(|error| again(format!("cannot connect: {error}")))?;
        timeout(HANDSHAKE_TIMEOUT, self.secure(tcp))
            .await
            .map_err(|_| again("the broker does not answer the TLS handshake".to_owned()))?
            .map_err(again)
    }

    /// Does the other half, from the CONNECT on.
    pub(super) async fn greet(&self, stream: Stream, version: Version, begin: Begin) -> Result<Shaken, Attempt> {
        timeout(HANDSHAKE_TIMEOUT, self.introduce(stream, version, begin))
            .await
            .map_err(|_| Attempt::Again("the broker does not answer CONNECT".to_owned()))?
    }

    async fn secure(&self, tcp: TcpStream) -> Result<Stream, String> {
        let settings = &self.shared.settings;
        let Some(tls) = &settings.tls else { return Stream::plain(tcp).map_err(|error| error.to_string()) };
        let config = tls.config().await.map_err(|error| error.to_string())?;
        let name = tls.server_name(&settings.address.host).map_err(|error| error.to_string())?;
        Stream::connect_tls(tcp, config, name).await.map_err(|error| error.to_string())
    }

    /// Sends CONNECT and reads the answer.
    async fn introduce(&self, mut stream: Stream, version: Version, begin: Begin) -> Result<Shaken, Attempt> {
        let settings = &self.shared.settings;
        let again = Attempt::Again;
        let Known { username, password } =
            settings.credentials.read().await.map_err(|error| again(error.to_string()))?;
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
        let (header, frame) = match first_packet(&mut stream, &mut inbox, codec::CONNACK).await {
            Ok(packet) => packet,
            Err(no_packet) => return Err(self.no_answer(stream, version, no_packet).await),
        };
        let connack = inbox::connack(version, header, frame).map_err(|violation| again(violation.to_string()))?;
        match refusal(version, &connack) {
            None => Ok((stream, inbox, connack)),
            Some(attempt) => Err(attempt),
        }
    }

    /// Says why there is no CONNACK; to the broker too, where its answer was MQTT and cannot be ours.
    async fn no_answer(&self, stream: Stream, version: Version, no_packet: NoPacket) -> Attempt {
        let why = match no_packet {
            NoPacket::Closed => "the broker closed the connection without an answer to CONNECT".to_owned(),
            NoPacket::Io(error) => error.to_string(),
            NoPacket::Violation(violation) if violation == unexpected_auth() => {
                if version == Version::V5 {
                    disconnect(stream, version, violation.code(), &violation.to_string()).await;
                }
                return Attempt::Again(format!("the broker broke the protocol: {violation}"));
            }
            NoPacket::Violation(violation) => violation.to_string(),
        };
        Attempt::Again(match self.shared.settings.tls {
            Some(_) => why,
            None => format!("{why} (if it speaks TLS at this port, say mqtts:// in the url)"),
        })
    }
}

/// Sends DISCONNECT, and leaves the session's expiry as it is.
pub(super) async fn say_good_bye(stream: Stream, version: Version) {
    disconnect(stream, version, reason::SUCCESS, "").await;
}

async fn disconnect(mut stream: Stream, version: Version, code: u8, why: &str) {
    let mut out = BytesMut::new();
    write::disconnect(version, code, why, &mut out);
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
