//! A job with its HTTP service beside it: what `serve` and the demo are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidemill_connectors::http::HttpIngest;
use tidemill_engine::error::with_causes;
use tidemill_engine::runtime::{JobStatus, Subscription};
use tidemill_engine::source::Stop;
use tidemill_engine::storage::Reserve;
use tidemill_queries::Pipeline;
use tidemill_queries::server::{BindError, Bound, Exposure, Server, ServiceState, ServiceStatus};
use tidemill_queries::session::{Limits, Session};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

use super::supervisor::{Shown, Supervisor};
use super::{Folder, LiveRows, Outlets, Settings, history_of};
use crate::{Error, Result};

/// Batches of a table that someone who is shown its rows may be behind.
const LIVE_BATCHES_MAX: usize = 256;

/// How long clients have to take their last answers, or to end a request that nobody waits for any more.
const ANSWERS_MAX: Duration = Duration::from_secs(1);

/// A running job that answers HTTP, also while its disk fails: then it is read only.
pub struct Service {
    shown: Shown,
    live: LiveRows,
    address: SocketAddr,
    stop: Stop,
    supervising: JoinHandle<Result<()>>,
    ended: watch::Receiver<Option<Result<()>>>,
    stop_serving: Stop,
    serving: JoinHandle<std::io::Result<()>>,
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
    /// Starts the HTTP service, then the job: while the log is replayed, `/readyz` answers 503 and questions work. If the
    /// disk is full, the service is read only at first.
    pub async fn start(
        folder: Folder,
        pipeline: Pipeline,
        ingest: &HttpIngest,
        bound: Bound,
        settings: &Settings,
    ) -> Result<Service> {
        let history = Arc::new(history_of(&folder, &pipeline.tables)?);
        let live: LiveRows =
            pipeline.tables.iter().map(|table| (table.name.clone(), broadcast::channel(LIVE_BATCHES_MAX).0)).collect();
        let (shown, outlets) = (Shown::default(), Outlets::of(&pipeline));
        let supervisor = Supervisor {
            folder,
            plan: pipeline.plan,
            outlets: outlets.clone(),
            live: live.clone(),
            settings: settings.clone(),
            ingest: ingest.clone(),
            reserve: Reserve::default(),
            shown: shown.clone(),
        };

        let looked_at = shown.clone();
        let state = ServiceState {
            status: Arc::new(move || ServiceStatus { sinks: outlets.outboxes(), ..looked_at.status() }),
            session: Arc::new(Session::new(history, Limits::default())),
            extra: ingest.router(),
            version: env!("CARGO_PKG_VERSION"),
            clock: Arc::clone(&settings.clock),
        };
        let (address, stop_serving) = (bound.local_addr(), Stop::new());
        let serving = tokio::spawn(bound.serve(state, stop_serving.clone()));

        let begun = match supervisor.begin().await {
            Ok(begun) => begun,
            Err(error) => {
                stop_serving.cancel();
                return Err(error);
            }
        };
        let (stop, (ended_sender, ended)) = (Stop::new(), watch::channel(None));
        let supervising = tokio::spawn(supervisor.run(begun, stop.clone(), ended_sender));
        Ok(Service { shown, live, address, stop, supervising, ended, stop_serving, serving })
    }

    /// Waits until all sources have ended and everything is committed, or until the job fails by something else than its
    /// disk.
    pub async fn finished(&self) -> Result<()> {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(ended) => ended.clone().expect("waited for"),
            Err(_) => Err(Error::Internal("the task that keeps the job running has ended".to_owned())),
        }
    }

    /// Returns what the job is doing; `None` if none has run yet.
    pub fn status(&self) -> Option<JobStatus> {
        self.shown.status().job
    }

    /// Whether nothing is taken, because the data folder cannot be written.
    pub fn is_read_only(&self) -> bool {
        self.shown.is_read_only()
    }

    /// Returns live rows of a table from now on; `None` if there is no such table.
    pub fn subscribe(&self, table: &str) -> Option<Subscription> {
        Some(self.live.get(table)?.subscribe().into())
    }

    /// Returns where HTTP is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops the job, then the HTTP service, so that the last requests still get their answers. After `longest` the
    /// program may end all the same: what was acknowledged is in the log.
    pub async fn stop(self, longest: Duration) -> Result<()> {
        let stopping = async move {
            self.stop.cancel();
            let stopped = self.supervising.await;
            self.stop_serving.cancel();
            // A service that failed has no answers left to give; the job's end is what counts.
            let _ = tokio::time::timeout(ANSWERS_MAX, self.serving).await;
            stopped.unwrap_or_else(|error| Err(Error::Internal(format!("the job ended by an internal error: {error}"))))
        };
        match tokio::time::timeout(longest, stopping).await {
            Ok(stopped) => stopped,
            Err(_) => Err(super::not_in_time(longest)),
        }
    }
}
