//! What goes out over HTTP: the client, where it may go, and the options that every connector with a URL has.
//!
//! ```text
//!   Endpoint   url, method, headers, credentials, timeout, TLS       options of the pipeline
//!      │
//!   HttpClient requests, redirects, answers, connections kept        hyper
//!      │
//!   Dialer     look up, judge, connect, TLS                          the one way to a socket
//!      │
//!   AddressPolicy                                                    [network] of the configuration
//! ```
//! The client is hyper's and not reqwest's, although that is at hand: reqwest with TLS would load the machine's certificates for
//! every client of the program, demand that the process installs a provider of cryptography, and know neither
//! `tls.server_name` nor certificates that are exchanged while it runs.

pub mod address;
mod client;
mod dial;
mod endpoint;
mod retry_after;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

pub use address::{AddressPolicy, Forbidden};
pub use client::{Ask, HttpClient, REDIRECTS_MAX, read_body, shown};
pub use dial::{Dialer, Resolver, Stream, SystemResolver};
pub use endpoint::{Endpoint, parse_url};
pub use retry_after::retry_after;

use crate::secret::SecretError;

/// Why a request got no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OutgoingError {
    /// The name is unknown.
    #[error("cannot find the address of {host}: {problem}")]
    NoAddress {
        /// Whose.
        host: String,
        /// What the system says.
        problem: String,
    },
    /// We do not go there.
    #[error("cannot connect to {host}: {problem}")]
    Forbidden {
        /// The host as it was written.
        host: String,
        /// Its address, and what would allow it.
        problem: Forbidden,
    },
    /// Nobody there, or nobody who answers.
    #[error("cannot connect to {address}: {problem}")]
    Connect {
        /// The last address that was tried.
        address: SocketAddr,
        /// What the system says.
        problem: String,
    },
    /// TLS did not come about.
    #[error("cannot connect to {host}: {problem}")]
    Tls {
        /// With whom.
        host: String,
        /// Why, and what to do.
        problem: String,
    },
    /// It took too long.
    #[error("no answer within the timeout")]
    TimedOut,
    /// The connection broke off, or what came is no HTTP.
    #[error("the connection broke off: {0}")]
    Broken(String),
    /// The answer is too long.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    /// We are sent to where we do not go.
    #[error("{0}")]
    Redirect(String),
    /// The URL cannot be asked for.
    #[error("cannot ask for {url}: {problem}")]
    BadUrl {
        /// Without what may be secret in it.
        url: String,
        /// Why.
        problem: String,
    },
    /// A secret cannot be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
}
