//! The way to a broker: TCP, then TLS; and what its answer to our CONNECT means.

use std::time::Duration;

use tidemill_engine::error::with_causes;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::packet::{ConnAck, Version, reason};
use super::transport::Stream;
use crate::tls::TlsClient;

/// How long a broker may take to accept a connection, again for TLS, again to answer our CONNECT, and again our SUBSCRIBE.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoLink {
    /// The broker does not know version 5.
    Older,
    /// Anything else.
    Failed(String),
}

/// Connects, as far as the CONNECT.
pub(super) async fn reach(host: &str, port: u16, tls: Option<&TlsClient>) -> Result<Stream, String> {
    let tcp = timeout(HANDSHAKE_TIMEOUT, TcpStream::connect((host, port)))
        .await
        .map_err(|_| format!("the broker {host}:{port} does not answer"))?
        .map_err(|error| format!("cannot connect to {host}:{port}: {error}"))?;
    timeout(HANDSHAKE_TIMEOUT, secure(host, tls, tcp))
        .await
        .map_err(|_| format!("the broker {host}:{port} does not answer the TLS handshake"))?
        .map_err(|why| format!("the broker {host}:{port}: {why}"))
}

async fn secure(host: &str, tls: Option<&TlsClient>, tcp: TcpStream) -> Result<Stream, String> {
    let Some(tls) = tls else { return Stream::plain(tcp).map_err(|error| error.to_string()) };
    let config = tls.config().await.map_err(|error| with_causes(&error))?;
    let name = tls.server_name(host).map_err(|error| with_causes(&error))?;
    Stream::connect_tls(tcp, config, name).await.map_err(|error| error.to_string())
}

/// Decides what a CONNACK that does not accept means.
pub(super) fn refusal(version: Version, connack: &ConnAck) -> Option<NoLink> {
    const UNACCEPTABLE_VERSION_311: u8 = 1;
    let code = connack.code;
    let words = match (version, code) {
        (_, reason::SUCCESS) => return None,
        (Version::V5, reason::UNSUPPORTED_VERSION | UNACCEPTABLE_VERSION_311) => return Some(NoLink::Older),
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
    Some(NoLink::Failed(format!("the broker refused the connection: {words} (code {code:#04x}{why})")))
}
