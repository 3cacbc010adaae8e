//! The source itself: its options, its socket, and a task for each connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemill_engine::source::{Intake, IntakeError, Resume, Source, SourceError, Stop};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::super::connection::PATIENCE;
use super::super::local::LocalBrokers;
use super::super::topic::TopicPattern;
use super::PARTITION;
use super::acl::Acl;
use super::auth::Door;
use super::house::{House, Log};
use super::limits::{CONNECTIONS_MAX_DEFAULT, Handshakes, tune};
use super::results::Results;
use super::sessions::Sessions;
use super::visit::Visit;
use super::watched::Watched;
use crate::options::{OptionError, Options};
use crate::{Context, descriptors};

const BIND_DEFAULT: &str = "127.0.0.1:1883";
const BIND_TLS_DEFAULT: &str = "127.0.0.1:8883";
/// How long to wait when the system gives no more sockets.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How long a session may outlive its connection if the options say nothing.
const SESSION_EXPIRY_DEFAULT: Duration = Duration::from_secs(7 * 24 * 3600);

/// A source that listens for MQTT clients.
pub struct MqttListener {
    local_brokers: LocalBrokers,
    bind: String,
    connections_max: usize,
    bound: Mutex<Option<TcpListener>>,
    address: Mutex<Option<SocketAddr>>,
    house: Arc<House>,
}

/// Makes the source from its options; does no I/O.
pub fn listener(
    name: &str,
    options: &mut Options,
    context: &Context,
) -> Result<(MqttListener, TopicPattern), OptionError> {
    let tls = crate::tls::TlsServer::take(options, &context.base_dir, &context.clock)?;
    let default = if tls.is_some() { BIND_TLS_DEFAULT } else { BIND_DEFAULT };
    let bind = options.take("bind").unwrap_or_else(|| default.to_owned());
    let port = bind.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()));
    if !matches!(port, Some((host, Ok(_))) if !host.is_empty()) {
        return Err(OptionError::new("bind", format!("{bind:?} is not an address such as '{default}'")));
    }
    let topic = options.require("topic")?;
    let pattern = TopicPattern::parse(&topic).map_err(|error| OptionError::new("topic", error.to_string()))?;
    let file = |path: &str| context.base_dir.join(path);
    let door = Door::take(options, file)?;
    let acl = options.take("acl_file").map(|path| Arc::new(Watched::new("access file", file(&path), Acl::read)));
    let connections_max =
        options.parse("max_connections", "a number of connections")?.unwrap_or(CONNECTIONS_MAX_DEFAULT);
    if connections_max == 0 || connections_max > Semaphore::MAX_PERMITS {
        return Err(OptionError::new("max_connections", "must be at least 1"));
    }
    let session_expiry = options.duration("session_expiry")?.unwrap_or(SESSION_EXPIRY_DEFAULT);
    let house = House {
        name: name.to_owned(),
        pattern: pattern.clone(),
        door,
        acl,
        tls,
        // All bits set means "never" in MQTT; what is so long that it does not fit comes as near as possible.
        session_expiry_max_s: u32::try_from(session_expiry.as_secs()).unwrap_or(u32::MAX - 1),
        sessions: Sessions::default(),
        hub: Arc::default(),
        taken: Arc::default(),
        handshakes: Handshakes::default(),
        patience: PATIENCE,
        clock: Arc::clone(&context.clock),
        dice: Arc::clone(&context.dice),
    };
    let source = MqttListener {
        local_brokers: context.local_brokers.clone(),
        bind,
        connections_max,
        bound: Mutex::new(None),
        address: Mutex::new(None),
        house: Arc::new(house),
    };
    Ok((source, pattern))
}

impl MqttListener {
    /// Sets the address to listen at, `host:port`; port 0 takes any free one. To be called before the source is prepared.
    pub fn set_bind(&mut self, bind: impl Into<String>) {
        self.bind = bind.into();
    }

    /// Returns the address it listens at, once prepared.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        *self.address.lock()
    }

    /// Sets how long a client that reads nothing is kept.
    #[cfg(test)]
    pub(in crate::mqtt) fn set_patience(&mut self, patience: crate::stall::Patience) {
        Arc::get_mut(&mut self.house).expect("it does not run yet").patience = patience;
    }

    async fn read_files(&self) -> Result<(), SourceError> {
        let environment =
            |error: &dyn std::fmt::Display| SourceError::Environment(format!("source {}: {error}", self.house.name));
        let house = Arc::clone(&self.house);
        let loaded = tokio::task::spawn_blocking(move || house.load()).await;
        match loaded {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(environment(&error)),
            Err(error) => return Err(environment(&error)),
        }
        if let Some(tls) = &self.house.tls {
            tls.config().await.map_err(|error| environment(&error))?;
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Source for MqttListener {
    fn bounded(&self) -> bool {
        false
    }

    async fn prepare(&self) -> Result<(), SourceError> {
        self.read_files().await?;
        let House { name, .. } = &*self.house;
        let refused = |error: std::io::Error| {
            let bind = &self.bind;
            SourceError::Environment(match error.kind() {
                std::io::ErrorKind::AddrInUse => format!(
                    "source {name}: {bind} is in use by another program (perhaps a broker): stop it, or say bind = 'host:port'"
                ),
                _ => format!("source {name}: cannot listen for MQTT at {bind}: {error}"),
            })
        };
        self.release();
        // In a later run the same port as before, also if any was asked for: that is where the clients are.
        let before = *self.address.lock();
        let listener = match before {
            Some(address) => TcpListener::bind(address).await,
            None => TcpListener::bind(&self.bind).await,
        };
        let listener = listener.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        info!(source = %name, %address, tls = self.house.tls.is_some(), "listening for MQTT");
        if !address.ip().is_loopback() && self.house.door.is_open() {
            warn!(source = %name, %address, "anybody who reaches this address can publish: set password_file, or username and password");
        }
        *self.address.lock() = Some(address);
        *self.bound.lock() = Some(listener);
        Ok(())
    }

    fn release(&self) {
        drop(self.bound.lock().take());
    }

    async fn run(&self, intake: Arc<dyn Intake>, resume: Vec<Resume>, stop: Stop) -> Result<(), SourceError> {
        let listener = self.bound.lock().take().expect("a source is prepared before it runs");
        intake.open(PARTITION).await?;
        let failed: Arc<Mutex<Option<IntakeError>>> = Arc::default();
        let log = Log { intake, ending: stop.child_token(), failed: Arc::clone(&failed) };
        let changes = self.house.restore(&resume);
        if !changes.is_empty() {
            log.append(Vec::new(), changes).await?;
        }
        let tasks = TaskTracker::new();
        tasks.spawn(Arc::clone(&self.house).watch_sessions(log.clone()));
        tasks.spawn(Arc::clone(&self.house).watch_files(log.clone()));
        let results =
            Results { hub: Arc::clone(&self.house.hub), taken: Arc::clone(&self.house.taken), log: log.clone() };
        let _listed = self.local_brokers.add(&self.house.name, Arc::new(results));
        log.intake.set_connected(true);
        self.accept(&listener, &log, &tasks).await;
        log.intake.set_connected(false);
        drop(listener);
        tasks.close();
        tasks.wait().await;
        let failed = failed.lock().take();
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }
}

impl MqttListener {
    /// Accepts connections until the source ends.
    async fn accept(&self, listener: &TcpListener, log: &Log, tasks: &TaskTracker) {
        let permits = Arc::new(Semaphore::new(self.connections_max));
        loop {
            let accepted = tokio::select! {
                biased;
                () = log.ending.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer, &permits, log, tasks),
                Err(error) => {
                    warn!(source = %self.house.name, %error, "cannot accept a connection");
                    log.intake.count_error("accept");
                    let _ = timeout(ACCEPT_RETRY, log.ending.cancelled()).await;
                }
            }
        }
    }

    /// Gives a connection its task, if there is room for it.
    fn admit(&self, stream: TcpStream, peer: SocketAddr, permits: &Arc<Semaphore>, log: &Log, tasks: &TaskTracker) {
        let name = &self.house.name;
        if descriptors::are_scarce(&stream) {
            log.intake.count_error("descriptors");
            warn!(source = %name, %peer, "refused an MQTT connection: the process has nearly as many open files as it may have");
            return;
        }
        let Ok(permit) = Arc::clone(permits).try_acquire_owned() else {
            log.intake.count_error("connections");
            debug!(source = %name, %peer, max = self.connections_max, "too many connections");
            return;
        };
        if let Err(error) = tune(&stream) {
            debug!(source = %name, %peer, %error, "cannot set the options of a socket");
        }
        let visit = Visit { house: Arc::clone(&self.house), log: log.clone(), peer, _permit: permit };
        tasks.spawn(visit.serve(stream));
    }
}
