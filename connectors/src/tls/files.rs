//! The PEM files behind a configuration, and when they are read again.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tidemill_engine::clock::Clock;

use super::TlsError;

/// A certificate bundle of every authority in the world has some 250 KB.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// How often files are looked at: a storm of connections reads them once.
const RELOAD_EVERY_US: i64 = 1_000_000;

/// What the files held when they were read.
pub(super) struct Files(BTreeMap<PathBuf, Vec<u8>>);

impl Files {
    pub(super) fn read<'p>(paths: impl IntoIterator<Item = &'p PathBuf>) -> Result<Files, TlsError> {
        let files = paths.into_iter().map(|path| Ok((path.clone(), read_file(path)?)));
        files.collect::<Result<_, _>>().map(Files)
    }

    /// Reads the certificates of authorities.
    pub(super) fn roots(&self, path: &Path) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for (idx, certificate) in self.certificates(path)?.into_iter().enumerate() {
            roots.add(certificate).map_err(|error| {
                content(
                    path,
                    format!("holds a certificate that cannot be trusted as an authority, number {}: {error}", idx + 1),
                )
            })?;
        }
        Ok(roots)
    }

    /// Reads a certificate with its chain.
    pub(super) fn certificates(&self, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(self.bytes(path))
            .collect::<Result<_, _>>()
            .map_err(|error| content(path, format!("is not a PEM file: {error}")))?;
        if certificates.is_empty() {
            let problem = "holds no certificate: a PEM file with -----BEGIN CERTIFICATE----- is needed";
            return Err(content(path, problem.to_owned()));
        }
        Ok(certificates)
    }

    /// Reads a private key.
    pub(super) fn key(&self, path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
        let bytes = self.bytes(path);
        let encrypted = String::from_utf8_lossy(bytes).lines().any(|line| {
            line.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY") || line.starts_with("Proc-Type: 4,ENCRYPTED")
        });
        if encrypted {
            let problem = "holds a key that is locked by a pass phrase: unlock it by `openssl pkey -in LOCKED.pem -out KEY.pem`, and let nobody else read it";
            return Err(content(path, problem.to_owned()));
        }
        PrivateKeyDer::from_pem_slice(bytes).map_err(|error| {
            content(
                path,
                format!("holds no private key: a PEM file with -----BEGIN PRIVATE KEY----- is needed ({error})"),
            )
        })
    }

    fn bytes(&self, path: &Path) -> &[u8] {
        self.0.get(path).map(Vec::as_slice).expect("a file is read before it is asked for")
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        hasher.finish()
    }
}

/// Says why a certificate and a key do not make a pair.
pub(super) fn mismatch(certificates: &Path, key: &Path, error: &rustls::Error) -> TlsError {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            content(key, format!("is not the key of the first certificate in {}", certificates.display()))
        }
        error => content(certificates, format!("with the key {} cannot be used: {error}", key.display())),
    }
}

fn content(path: &Path, problem: String) -> TlsError {
    TlsError::Content { path: path.to_owned(), problem }
}

fn read_file(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |problem: String| TlsError::Read { path: path.to_owned(), problem };
    let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(failed(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// A configuration that follows its files.
pub(super) struct Reloading<T>(Mutex<Option<Loaded<T>>>);

struct Loaded<T> {
    config: Arc<T>,
    /// Of the files as they were when last looked at, good or bad.
    fingerprint: u64,
    looked_at_us: i64,
}

impl<T> Default for Reloading<T> {
    fn default() -> Self {
        Reloading(Mutex::new(None))
    }
}

impl<T> Reloading<T> {
    /// Returns the configuration of the files as they are.
    pub(super) fn strict(
        &self,
        clock: &dyn Clock,
        read: impl FnOnce() -> Result<Files, TlsError>,
        build: impl FnOnce(&Files) -> Result<T, TlsError>,
    ) -> Result<Arc<T>, TlsError> {
        self.load(clock, read, build).inspect_err(|_| *self.0.lock() = None)
    }

    /// Returns the configuration of the files as they are, or as they last were good.
    pub(super) fn lenient(
        &self,
        clock: &dyn Clock,
        read: impl FnOnce() -> Result<Files, TlsError>,
        build: impl FnOnce(&Files) -> Result<T, TlsError>,
    ) -> Result<Arc<T>, TlsError> {
        self.load(clock, read, build).or_else(|error| match &mut *self.0.lock() {
            Some(loaded) => {
                tracing::warn!(%error, "the TLS files have become bad: going on with those before");
                Ok(Arc::clone(&loaded.config))
            }
            None => Err(error),
        })
    }

    /// The lock is held while files are read, so that a storm reads them once.
    fn load(
        &self,
        clock: &dyn Clock,
        read: impl FnOnce() -> Result<Files, TlsError>,
        build: impl FnOnce(&Files) -> Result<T, TlsError>,
    ) -> Result<Arc<T>, TlsError> {
        let mut slot = self.0.lock();
        let now_us = clock.monotonic_us();
        if let Some(loaded) = &mut *slot {
            if now_us - loaded.looked_at_us < RELOAD_EVERY_US {
                return Ok(Arc::clone(&loaded.config));
            }
            loaded.looked_at_us = now_us;
        }
        let files = read()?;
        let fingerprint = files.fingerprint();
        match &mut *slot {
            Some(loaded) if loaded.fingerprint == fingerprint => Ok(Arc::clone(&loaded.config)),
            slot => {
                // Noted first: bad files are tried, and warned of, once.
                if let Some(loaded) = slot {
                    loaded.fingerprint = fingerprint;
                }
                let config = Arc::new(build(&files)?);
                *slot = Some(Loaded { config: Arc::clone(&config), fingerprint, looked_at_us: now_us });
                Ok(config)
            }
        }
    }
}
