//! A job with its HTTP service beside it: what `serve` and the demo are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tidemill_connectors::http::HttpIngest;
use tidemill_engine::error::with_causes;
use tidemill_engine::runtime::Job;
use tidemill_engine::source::Stop;
use tidemill_queries::Pipeline;
use tidemill_queries::server::{BindError, Bound, Exposure, Server, ServiceState};
use tidemill_queries::session::{Limits, Session};
use tokio::task::JoinHandle;

use super::{Folder, Settings, open_sinks, start_job, write_catalog};
use crate::{Error, Result};

/// How long clients have to take their last answers, or to end a request that nobody waits for any more.
const ANSWERS_MAX: Duration = Duration::from_secs(1);

/// A running job that answers HTTP.
pub struct Service {
    job: Arc<Job>,
    /// What the HTTP service looks at; empty before the job runs and after it has stopped.
    shown: Arc<RwLock<Option<Arc<Job>>>>,
    address: SocketAddr,
    stop_serving: Stop,
    serving: JoinHandle<std::io::Result<()>>,
    /// Held to the end: another process may begin only when this one is done.
    _folder: Folder,
}

/// Takes the port before anything else starts, so that a port in use is told at once.
pub async fn bind(address: &str, exposure: Exposure) -> Result<Bound, BindFailure> {
    let resolved = tokio::net::lookup_host(address).await.map_err(|error| {
        BindFailure::Other(Error::Input(format!(
            "server.http = {address:?} is not an address of this machine: {error}"
        )))
    })?;
    let mut last = None;
    for socket in resolved {
        match Server::bind(socket, exposure).await {
            Ok(bound) => return Ok(bound),
            Err(error) => last = Some(error),
        }
    }
    Err(match last {
        Some(BindError::InUse { .. }) => BindFailure::InUse(address.to_owned()),
        Some(error @ BindError::Exposed { .. }) => BindFailure::Other(Error::Input(error.to_string())),
        Some(error) => BindFailure::Other(Error::Environment(with_causes(&error))),
        None => BindFailure::Other(Error::Input(format!("server.http = {address:?} is no address"))),
    })
}

/// Why a port was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindFailure {
    /// Another program has it.
    InUse(String),
    /// Anything else.
    Other(Error),
}

impl From<BindFailure> for Error {
    fn from(failure: BindFailure) -> Self {
        match failure {
            BindFailure::InUse(address) => Error::Environment(format!(
                "cannot serve HTTP on {address}: the port is in use; stop the other program, or choose another port \
                 (server.http, or TIDEMILL__SERVER__HTTP)"
            )),
            BindFailure::Other(error) => error,
        }
    }
}

impl Service {
    /// Starts the HTTP service, then the job: while the log is replayed, `/readyz` answers 503 and questions work.
    pub async fn start(
        folder: Folder,
        pipeline: Pipeline,
        ingest: &HttpIngest,
        bound: Bound,
        settings: &Settings,
    ) -> Result<Service> {
        let (folder, history, sinks) = {
            let (settings, tables) = (settings.clone(), pipeline.tables);
            blocking(move || {
                let history = write_catalog(&folder, &tables)?;
                let sinks = open_sinks(&folder, &tables, &settings)?;
                Ok((folder, history, sinks))
            })
            .await?
        };

        let shown: Arc<RwLock<Option<Arc<Job>>>> = Arc::default();
        let looked_at = Arc::clone(&shown);
        let state = ServiceState {
            status: Arc::new(move || {
                looked_at.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|job| job.status())
            }),
            session: Arc::new(Session::new(Arc::new(history), Limits::default())),
            extra: ingest.router(),
            version: env!("CARGO_PKG_VERSION"),
            clock: Arc::clone(&settings.clock),
        };
        let (address, stop_serving) = (bound.local_addr(), Stop::new());
        let serving = tokio::spawn(bound.serve(state, stop_serving.clone()));

        let job = match start_job(&folder, pipeline.plan, sinks, BTreeMap::new(), settings).await {
            Ok(job) => Arc::new(job),
            Err(error) => {
                stop_serving.cancel();
                return Err(error);
            }
        };
        *shown.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&job));
        Ok(Service { job, shown, address, stop_serving, serving, _folder: folder })
    }

    /// Returns the job.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Returns where HTTP is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops the job, then the HTTP service, so that the last requests still get their answers. After `longest` the
    /// program may end all the same: what was acknowledged is in the log.
    pub async fn stop(self, longest: Duration) -> Result<()> {
        let stopping = async move {
            let stopped = self.job.stop().await;
            self.shown.write().unwrap_or_else(PoisonError::into_inner).take();
            self.stop_serving.cancel();
            // A service that failed has no answers left to give; the job's end is what counts.
            let _ = tokio::time::timeout(ANSWERS_MAX, self.serving).await;
            stopped
        };
        match tokio::time::timeout(longest, stopping).await {
            Ok(stopped) => Ok(stopped?),
            Err(_) => Err(super::not_in_time(longest)),
        }
    }
}

/// Runs what waits for a disk where it may wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::Internal(format!("cannot open the tables: {error}"))),
    }
}
