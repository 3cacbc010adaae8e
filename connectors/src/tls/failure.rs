//! Why a TLS connection did not come about, in words that say what to do.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, OtherError};

/// Which end of the connection tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// We connected to a server.
    Client,
    /// A client connected to us.
    Server,
}

/// What went wrong, explained.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsFailure(String);

impl TlsFailure {
    /// Explains an error of rustls.
    pub fn new(side: Side, error: &Error) -> TlsFailure {
        TlsFailure(match side {
            Side::Client => explain_to_client(error),
            Side::Server => explain_to_server(error),
        })
    }

    /// Explains that the other side closed before the handshake was done.
    pub fn closed(side: Side) -> TlsFailure {
        TlsFailure(match side {
            Side::Client => {
                "the server closed the connection during the TLS handshake: is TLS switched on at this port, and does \
                             it accept our certificate?"
                    .to_owned()
            }
            Side::Server => {
                "the client closed the connection during the TLS handshake: it may not trust our certificate".to_owned()
            }
        })
    }

    /// Turns it into an I/O error, whose text it is.
    pub fn into_io(self) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, self)
    }
}

fn explain_to_client(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(problem) => explain_certificate(problem),
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::MessageTooLarge) => {
            "the server does not speak TLS at this port: use its TLS port (by custom 8883 for MQTT, 443 for HTTP), or mqtt:// or http:// \
             if its answers need no protection"
                .to_owned()
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server demands a client certificate: name one by 'tls.cert' and 'tls.key'".to_owned()
        }
        Error::AlertReceived(
            alert @ (AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied),
        ) => format!(
            "the server does not accept our client certificate (TLS alert {alert:?}): 'tls.cert' must be issued by an authority it \
             trusts, be valid now, and be meant for clients"
        ),
        Error::AlertReceived(AlertDescription::HandshakeFailure) => {
            "the server broke off the TLS handshake (alert HandshakeFailure): it may demand a client certificate ('tls.cert' and \
             'tls.key'), or share no version or cipher with us (we speak TLS 1.2 and 1.3)"
                .to_owned()
        }
        Error::AlertReceived(AlertDescription::ProtocolVersion) | Error::PeerIncompatible(_) => {
            format!("the server and we have no version or cipher of TLS in common (we speak TLS 1.2 and 1.3): {error}")
        }
        Error::FailedToGetCurrentTime => {
            "no certificate can be judged: this machine's clock stands before 1970".to_owned()
        }
        error => format!("TLS with the server failed: {error}"),
    }
}

fn explain_certificate(problem: &CertificateError) -> String {
    match problem {
        CertificateError::UnknownIssuer => {
            "the server's certificate is issued by nobody we trust: if by an authority of your own, name its PEM file by 'tls.ca'"
                .to_owned()
        }
        CertificateError::BadSignature => {
            "the server's certificate is not signed by the authority it names: 'tls.ca' may be another authority of the same name"
                .to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names = match presented.as_slice() {
                [] => "for no name at all".to_owned(),
                names => format!("for {}", names.iter().map(|name| bare(name)).collect::<Vec<_>>().join(", ")),
            };
            format!(
                "the server's certificate is {names}, not for {}: connect by a name it is for, or say by 'tls.server_name' which \
                 one it must be for",
                expected.to_str()
            )
        }
        CertificateError::ExpiredContext { time, not_after } => {
            let days = time.as_secs().saturating_sub(not_after.as_secs()) / 86_400;
            format!("the server's certificate expired {days} days ago: renew it, unless this machine's clock is wrong")
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            let days = not_before.as_secs().saturating_sub(time.as_secs()) / 86_400;
            format!("the server's certificate is not valid before {days} days from now: is this machine's clock right?")
        }
        CertificateError::Other(other) if is_ca(other) => {
            "the server shows the certificate of an authority in place of its own: issue one for the server by that authority \
             (basicConstraints CA:FALSE)"
                .to_owned()
        }
        other => format!("the server's certificate is refused: {other}"),
    }
}

/// `DnsName("a")` is a to people.
fn bare(name: &str) -> &str {
    name.split_once('(').map_or(name, |(_, name)| name.trim_end_matches(')')).trim_matches('"')
}

fn is_ca(other: &OtherError) -> bool {
    other.0.to_string().contains("CaUsedAsEndEntity")
}

fn explain_to_server(error: &Error) -> String {
    match error {
        Error::NoCertificatesPresented => "the client shows no certificate, and 'tls.client_ca' demands one".to_owned(),
        Error::InvalidCertificate(problem) => format!("the client's certificate is refused: {problem}"),
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::MessageTooLarge) => {
            "the client does not speak TLS: it must connect by mqtts".to_owned()
        }
        Error::AlertReceived(alert) => format!("the client does not accept our certificate (TLS alert {alert:?})"),
        error => format!("TLS with the client failed: {error}"),
    }
}
