//! The handshake of a connection: CONNECT and its answer; and the good-bye at its end.

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use super::member::{Attempt, Member};
use super::settings::Settings;
use crate::mqtt::codec;
use crate::mqtt::connection::{NoPacket, first_packet};
use crate::mqtt::credentials::Known;
use crate::mqtt::inbox::{self, Inbox};
use crate::mqtt::packet::{ConnAck, Connect, Version, reason, unexpected_auth};
use crate::mqtt::reach::{self, HANDSHAKE_TIMEOUT, NoLink, refusal};
use crate::mqtt::receiver::TOPIC_ALIAS_MAX;
use crate::mqtt::transport::Stream;
use crate::mqtt::write;

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
        let Settings { address, tls, .. } = &self.shared.settings;
        reach::reach(&address.host, address.port, tls.as_ref()).await.map_err(Attempt::Again)
    }

    /// Does the other half, from the CONNECT on.
    pub(super) async fn greet(&self, stream: Stream, version: Version, begin: Begin) -> Result<Shaken, Attempt> {
        timeout(HANDSHAKE_TIMEOUT, self.introduce(stream, version, begin))
            .await
            .map_err(|_| Attempt::Again("the broker does not answer CONNECT".to_owned()))?
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
            Some(NoLink::Older) => Err(Attempt::Older),
            Some(NoLink::Failed(why)) => Err(Attempt::Again(why)),
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
