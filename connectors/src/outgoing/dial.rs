//! Dialling: from a host and a port to a connection, TLS included, past the address policy.
//!
//! Names are looked up by the system, and what is connected to is one of the addresses that were judged: nothing is looked up
//! again in between, so a name server that answers something else the second time changes nothing.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::{Connected, Connection};
use tidemill_engine::source::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::OutgoingError;
use super::address::{AddressPolicy, Forbidden};
use crate::tls::{Side, TlsClient, TlsFailure};

/// How long one address gets to answer; another may.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long TLS may take to begin.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// So many addresses of a name are tried.
const ADDRESSES_MAX: usize = 4;

/// Looks names up.
pub trait Resolver: Send + Sync + 'static {
    /// Returns the addresses of a name, the best first.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// Asks the system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// Makes connections. Clones share what they trust.
#[derive(Clone)]
pub struct Dialer {
    policy: AddressPolicy,
    tls: Option<Arc<TlsClient>>,
    resolver: Arc<dyn Resolver>,
}

impl Dialer {
    /// Makes a dialer; `tls` is what connections with TLS trust and show.
    pub fn new(policy: AddressPolicy, tls: Option<Arc<TlsClient>>) -> Dialer {
        Dialer { policy, tls, resolver: Arc::new(SystemResolver) }
    }

    /// Looks names up elsewhere.
    #[must_use]
    pub fn with_resolver(self, resolver: Arc<dyn Resolver>) -> Dialer {
        Dialer { resolver, ..self }
    }

    /// Returns what it may connect to.
    pub fn policy(&self) -> &AddressPolicy {
        &self.policy
    }

    /// Connects without TLS. `host` is a name, or an address, an IPv6 one with or without its brackets.
    pub async fn plain(&self, host: &str, port: u16) -> Result<Stream, OutgoingError> {
        Ok(Stream(Box::new(self.tcp(host, port).await?)))
    }

    /// Connects with TLS.
    pub async fn tls(&self, host: &str, port: u16) -> Result<Stream, OutgoingError> {
        let failed = |problem: String| OutgoingError::Tls { host: host.to_owned(), problem };
        let Some(tls) = &self.tls else {
            return Err(failed("nothing says what to trust: the url that was written has no TLS".to_owned()));
        };
        let config = tls.config().await.map_err(|error| failed(error.to_string()))?;
        let name = tls.server_name(bare(host)).map_err(|error| failed(error.to_string()))?;
        let tcp = self.tcp(host, port).await?;
        match timeout(HANDSHAKE_MAX, TlsConnector::from(config).connect(name, tcp)).await {
            Ok(Ok(stream)) => Ok(Stream(Box::new(stream))),
            Ok(Err(error)) => Err(failed(explain(&error))),
            Err(_) => Err(failed(format!("the TLS handshake took longer than {HANDSHAKE_MAX:?}"))),
        }
    }

    async fn tcp(&self, host: &str, port: u16) -> Result<TcpStream, OutgoingError> {
        let mut last = None;
        for address in self.addresses(host, port).await? {
            let problem = match timeout(CONNECT_MAX, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // A request is written at once, and its answer awaited.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {CONNECT_MAX:?}"),
            };
            last = Some(OutgoingError::Connect { address, problem });
        }
        Err(last.unwrap_or_else(|| no_address(host, "it has none")))
    }

    /// Returns the addresses of a host that may be connected to, at least one.
    async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, OutgoingError> {
        let found = match bare(host).parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => self.resolver.resolve(host, port).await.map_err(|error| no_address(host, &error.to_string()))?,
        };
        let mut forbidden: Option<Forbidden> = None;
        let mut allowed = Vec::new();
        for address in found {
            match self.policy.check(address.ip()) {
                Ok(()) if allowed.len() < ADDRESSES_MAX => allowed.push(address),
                Ok(()) => break,
                Err(problem) => forbidden = forbidden.or(Some(problem)),
            }
        }
        match (allowed.is_empty(), forbidden) {
            (false, _) => Ok(allowed),
            (true, Some(problem)) => Err(OutgoingError::Forbidden { host: host.to_owned(), problem }),
            (true, None) => Err(no_address(host, "it has none")),
        }
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("policy", &self.policy).finish_non_exhaustive()
    }
}

fn no_address(host: &str, problem: &str) -> OutgoingError {
    OutgoingError::NoAddress { host: host.to_owned(), problem: problem.to_owned() }
}

/// Takes the brackets off an IPv6 address.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn explain(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => TlsFailure::new(Side::Client, error).to_string(),
        None if error.kind() == io::ErrorKind::UnexpectedEof => TlsFailure::closed(Side::Client).to_string(),
        None => error.to_string(),
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection.
pub struct Stream(Box<dyn Io>);

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}
