//! Whom a connection may reach.
//!
//! A target may be anywhere, since whoever writes a pipeline wants their own machines watched, and loopback is where an exporter
//! listens; only the metadata of a cloud has to be allowed by the configuration. A redirect is another matter: it is
//! the answer of a stranger. One from the public internet must not send us to what only we can reach, so behind a public
//! address every hop is judged by the policy for outgoing requests ([`Reach::ByPolicy`]). What counts is the address that is connected to,
//! not what a name said before.

use std::sync::Arc;

use url::Url;

use super::target::Failure;
use crate::outgoing::{AddressPolicy, Dialer, OutgoingError, Stream};
use crate::tls::TlsClient;

/// All networks; the metadata of clouds is in none of them.
const ANYWHERE: &str = "0.0.0.0/0,::/0";

/// Which addresses may be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Those of a target.
    Anywhere,
    /// Those that outgoing requests may go to.
    ByPolicy,
}

/// Makes the connections of a source.
pub(super) struct Dialers {
    by_policy: Dialer,
    anywhere: Dialer,
}

impl Dialers {
    pub(super) fn new(policy: &AddressPolicy, tls: TlsClient) -> Dialers {
        let tls = Some(Arc::new(tls));
        let anywhere = AddressPolicy::parse(ANYWHERE).expect("two networks");
        Dialers { by_policy: Dialer::new(policy.clone(), tls.clone()), anywhere: Dialer::new(anywhere, tls) }
    }

    /// Connects to the host of a URL. Returns what the next hop may reach as well.
    pub(super) async fn dial(&self, url: &Url, reach: Reach) -> Result<(Stream, Reach), Failure> {
        match (dial(&self.by_policy, url).await, reach) {
            (Ok(stream), _) => Ok((stream, Reach::ByPolicy)),
            // One that is not public is one's own: what it says may be trusted as much as the URL.
            (Err(OutgoingError::Forbidden { .. }), Reach::Anywhere) => {
                Ok((dial(&self.anywhere, url).await?, Reach::Anywhere))
            }
            (Err(error), _) => Err(error.into()),
        }
    }
}

async fn dial(dialer: &Dialer, url: &Url) -> Result<Stream, OutgoingError> {
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
    match url.scheme() {
        "https" | "wss" => dialer.tls(host, port).await,
        _ => dialer.plain(host, port).await,
    }
}

impl From<OutgoingError> for Failure {
    fn from(error: OutgoingError) -> Failure {
        let kind = match &error {
            OutgoingError::NoAddress { .. } | OutgoingError::Connect { .. } => "unreachable",
            OutgoingError::Forbidden { .. } => "forbidden",
            OutgoingError::Tls { .. } => "tls",
            OutgoingError::TimedOut => "timeout",
            OutgoingError::TooLarge(_) => "too_big",
            OutgoingError::Redirect(_) => "redirect",
            OutgoingError::Secret(_) => "secret",
            OutgoingError::Broken(_) | OutgoingError::BadUrl { .. } => "http",
        };
        Failure::new(kind, error.to_string())
    }
}
