//! TLS for everything with a socket: what to trust and what to show, from PEM files.
//!
//! ```text
//!   TlsClient   'tls.ca', 'tls.cert' + 'tls.key', 'tls.server_name'   ─► ClientConfig      we connect
//!   TlsServer   'tls.cert' + 'tls.key', 'tls.client_ca'               ─► ServerConfig      others connect to us
//!                        │
//!                     files: read again when they change, at most once a second
//! ```
//!
//! It fails closed. There is no option that switches a check off and no way from TLS back to plain text; what cannot be
//! verified is refused, and [`TlsFailure`] says what, and how to mend it. The cryptography is ring's and is passed explicitly:
//! a program that embeds us keeps its own default. The time that certificates are judged by is the [`Clock`]'s.
//!
//! A client whose files have become bad connects no more until they are good again. A server keeps what it had, and warns: a
//! certificate that is being exchanged, file after file, must not turn devices away.

mod failure;
mod files;
#[cfg(test)]
pub(crate) mod testing;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tidemill_engine::clock::Clock;

pub use failure::{Side, TlsFailure};
use files::{Files, Reloading};

use crate::options::{OptionError, Options};

/// What a TLS client trusts, and what it shows.
pub struct TlsClient {
    files: Arc<ClientFiles>,
    server_name: Option<ServerName<'static>>,
    config: Arc<Reloading<ClientConfig>>,
}

struct ClientFiles {
    ca: Option<PathBuf>,
    identity: Option<Identity>,
    clock: Arc<dyn Clock>,
}

/// What a TLS server shows, and whom it lets in.
pub struct TlsServer {
    files: Arc<ServerFiles>,
    config: Arc<Reloading<ServerConfig>>,
}

struct ServerFiles {
    identity: Identity,
    client_ca: Option<PathBuf>,
    clock: Arc<dyn Clock>,
}

/// A certificate with its chain, and its key.
struct Identity {
    certificates: PathBuf,
    key: PathBuf,
}

/// Why TLS cannot begin: what is wrong with the files.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path} for TLS: {problem}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system says.
        problem: String,
    },
    /// A file holds something else than what it should.
    #[error("{path} {problem}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The system trusts nobody, or does not say whom.
    #[error(
        "this machine has no list of trusted certificates ({0}): install the package ca-certificates, or name a CA's PEM file by 'tls.ca'"
    )]
    NoRoots(String),
    /// The library refuses the whole.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// The keys of the options of a client.
const CLIENT_KEYS: [&str; 4] = ["tls.ca", "tls.cert", "tls.key", "tls.server_name"];

impl TlsClient {
    /// Takes the options of a client: `tls.ca`, `tls.cert` and `tls.key`, `tls.server_name`. Relative paths begin at `base_dir`.
    /// Does no I/O.
    pub fn take(options: &mut Options, base_dir: &Path, clock: &Arc<dyn Clock>) -> Result<TlsClient, OptionError> {
        let ca = take_path(options, "tls.ca", base_dir)?;
        let identity = Identity::take(options, base_dir)?;
        let server_name = options.take("tls.server_name").map(|name| parse_server_name(&name)).transpose();
        let server_name = server_name.map_err(|problem| OptionError::new("tls.server_name", problem))?;
        Ok(TlsClient {
            files: Arc::new(ClientFiles { ca, identity, clock: Arc::clone(clock) }),
            server_name,
            config: Arc::default(),
        })
    }

    /// Refuses the options of a client where there is no TLS: they would promise what is not there.
    pub fn refuse(options: &mut Options, remedy: &str) -> Result<(), OptionError> {
        match CLIENT_KEYS.into_iter().find(|key| options.take(key).is_some()) {
            Some(key) => Err(OptionError::new(key, format!("has no meaning without TLS: {remedy}"))),
            None => Ok(()),
        }
    }

    /// Returns the configuration for a connection that begins now; reads the files if they have changed.
    pub async fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let (files, config) = (Arc::clone(&self.files), Arc::clone(&self.config));
        blocking(move || config.strict(&*files.clock, || files.read(), |read| files.build(read))).await
    }

    /// Returns the name that the server's certificate must be for: that of the options, or else the host's.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, TlsError> {
        match &self.server_name {
            Some(name) => Ok(name.clone()),
            None => parse_server_name(host).map_err(|problem| TlsError::Setup(format!("the host {problem}"))),
        }
    }
}

impl ClientFiles {
    fn read(&self) -> Result<Files, TlsError> {
        let identity = self.identity.iter().flat_map(|identity| [&identity.certificates, &identity.key]);
        Files::read(self.ca.iter().chain(identity))
    }

    fn build(&self, files: &Files) -> Result<ClientConfig, TlsError> {
        let roots = match &self.ca {
            Some(path) => files.roots(path)?,
            None => system_roots()?,
        };
        let builder = ClientConfig::builder_with_details(provider(), Arc::new(ClockTime(Arc::clone(&self.clock))))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Setup(error.to_string()))?
            .with_root_certificates(roots);
        match &self.identity {
            None => Ok(builder.with_no_client_auth()),
            Some(Identity { certificates, key }) => builder
                .with_client_auth_cert(files.certificates(certificates)?, files.key(key)?)
                .map_err(|error| files::mismatch(certificates, key, &error)),
        }
    }
}

impl TlsServer {
    /// Makes a server that shows the certificate and its chain in one PEM file, with the key in another. With `client_ca` only
    /// clients come in that show a certificate of one of the authorities in it. Does no I/O.
    pub fn new(certificates: PathBuf, key: PathBuf, client_ca: Option<PathBuf>, clock: &Arc<dyn Clock>) -> TlsServer {
        let identity = Identity { certificates, key };
        TlsServer {
            files: Arc::new(ServerFiles { identity, client_ca, clock: Arc::clone(clock) }),
            config: Arc::default(),
        }
    }

    /// Takes the options of a server: `tls.cert` and `tls.key`, `tls.client_ca`; `None` without them. Relative paths begin at
    /// `base_dir`. Does no I/O.
    pub fn take(
        options: &mut Options,
        base_dir: &Path,
        clock: &Arc<dyn Clock>,
    ) -> Result<Option<TlsServer>, OptionError> {
        let identity = Identity::take(options, base_dir)?;
        let client_ca = take_path(options, "tls.client_ca", base_dir)?;
        match (identity, client_ca) {
            (None, None) => Ok(None),
            (None, Some(_)) => {
                Err(OptionError::new("tls.client_ca", "needs the server's own 'tls.cert' and 'tls.key' beside it"))
            }
            (Some(Identity { certificates, key }), client_ca) => {
                Ok(Some(TlsServer::new(certificates, key, client_ca, clock)))
            }
        }
    }

    /// Returns the configuration for a connection that begins now; reads the files if they have changed.
    ///
    /// # Errors
    /// Only as long as the files have never been good.
    pub async fn config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let (files, config) = (Arc::clone(&self.files), Arc::clone(&self.config));
        blocking(move || config.lenient(&*files.clock, || files.read(), |read| files.build(read))).await
    }

    /// Says whether a client must show a certificate.
    pub fn demands_client_certificates(&self) -> bool {
        self.files.client_ca.is_some()
    }
}

impl ServerFiles {
    fn read(&self) -> Result<Files, TlsError> {
        Files::read([&self.identity.certificates, &self.identity.key].into_iter().chain(&self.client_ca))
    }

    fn build(&self, files: &Files) -> Result<ServerConfig, TlsError> {
        let provider = provider();
        let builder =
            ServerConfig::builder_with_details(Arc::clone(&provider), Arc::new(ClockTime(Arc::clone(&self.clock))))
                .with_safe_default_protocol_versions()
                .map_err(|error| TlsError::Setup(error.to_string()))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(files.roots(path)?), provider)
                    .build()
                    .map_err(|error| TlsError::Setup(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let Identity { certificates, key } = &self.identity;
        builder
            .with_single_cert(files.certificates(certificates)?, files.key(key)?)
            .map_err(|error| files::mismatch(certificates, key, &error))
    }
}

impl Identity {
    fn take(options: &mut Options, base_dir: &Path) -> Result<Option<Identity>, OptionError> {
        let certificates = take_path(options, "tls.cert", base_dir)?;
        let key = take_path(options, "tls.key", base_dir)?;
        match (certificates, key) {
            (Some(certificates), Some(key)) => Ok(Some(Identity { certificates, key })),
            (Some(_), None) => {
                Err(OptionError::new("tls.cert", "needs its private key beside it: 'tls.key' = 'FILE.pem'"))
            }
            (None, Some(_)) => {
                Err(OptionError::new("tls.key", "needs its certificate beside it: 'tls.cert' = 'FILE.pem'"))
            }
            (None, None) => Ok(None),
        }
    }
}

// What is shown nowhere: neither keys nor paths belong in a log by accident.
impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient").finish_non_exhaustive()
    }
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer").finish_non_exhaustive()
    }
}

fn take_path(options: &mut Options, key: &'static str, base_dir: &Path) -> Result<Option<PathBuf>, OptionError> {
    match options.take(key) {
        Some(path) if path.is_empty() => Err(OptionError::new(key, "is empty: name a PEM file, or leave it out")),
        path => Ok(path.map(|path| base_dir.join(path))),
    }
}

fn parse_server_name(name: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(name.to_owned())
        .map_err(|_| format!("{name:?} is neither a host name nor an address that a certificate could be for"))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // A list of hundreds always has some that cannot be used; what is needed of them shows when a server is not trusted.
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let problems: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(TlsError::NoRoots(if problems.is_empty() { "none found".to_owned() } else { problems.join("; ") }));
    }
    Ok(roots)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TlsError> + Send + 'static,
) -> Result<T, TlsError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| TlsError::Setup(error.to_string()))?
}

/// Our clock, as rustls asks it.
struct ClockTime(Arc<dyn Clock>);

impl fmt::Debug for ClockTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClockTime")
    }
}

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        // Before 1970 nothing is valid: no time is no connection.
        let now_us = u64::try_from(self.0.now_us()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_micros(now_us)))
    }
}
