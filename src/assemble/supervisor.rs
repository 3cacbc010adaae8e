//! The supervisor: brings a job through failures of the disk, while the service goes on answering.
//!
//! ```text
//!   open ─► running ─── the disk fails ───► read only: the job is torn down, what comes is refused, questions go on
//!    ▲         │                               │ the disk is full              │ any other failure
//!    │         │ any other failure             ▼                               │
//!    │         ▼                          release the reserve, settle          │
//!    │       failed: the service's end         │                               │
//!    │                                         ▼                               ▼
//!    └──── enough room: the reserve is there ◄──────── wait 1 s, 2 s, … 30 s ◄─┘
//! ```
//! To settle is to replay the log without sources, make a checkpoint, commit what is complete, and remove what is old:
//! the reserve is the room for it. Then the log is short, and the disk a little less full.
//!
//! Nothing is repaired in a job that has failed: a sync that failed once may succeed the second time and have lost the
//! data. All its threads end, its tables are closed, and the next one begins with what is on the disk, as a new process
//! would.
//!
//! A start on a full disk is read only too: a supervisor of processes that starts the program again after a crash must
//! not take the tables away from those who ask. A start on a disk that fails otherwise is an error, since then perhaps the
//! folder is the wrong one.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tidemill_connectors::http::HttpIngest;
use tidemill_engine::plan::Plan;
use tidemill_engine::runtime::{Job, JobStatus};
use tidemill_engine::sink::Sink;
use tidemill_engine::source::Stop;
use tidemill_engine::storage::Reserve;
use tidemill_queries::server::{ReadOnly, ServiceStatus};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Folder, LiveRows, Outlets, Settings, job_options, write_catalog};
use crate::{Error, Result};

/// The shortest time between a failure and the next attempt; doubled with each failure.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// The longest time between two attempts: so long it may take until space that is there again is noticed.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// A job that ran so long was healthy: the next failure begins with the shortest wait.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// What a job is made of, as often as need be.
pub(super) struct Supervisor {
    pub(super) folder: Folder,
    pub(super) plan: Plan,
    pub(super) outlets: Outlets,
    pub(super) live: LiveRows,
    pub(super) settings: Settings,
    pub(super) ingest: HttpIngest,
    pub(super) reserve: Reserve,
    pub(super) shown: Shown,
}

/// What the service shows of itself; clones show the same.
#[derive(Clone, Default)]
pub(super) struct Shown(Arc<RwLock<State>>);

#[derive(Default)]
struct State {
    job: Option<Arc<Job>>,
    /// What the last job said at its end.
    last: Option<JobStatus>,
    read_only: Option<ReadOnly>,
    disk_failures: u64,
}

/// How the disk failed.
enum DiskFailure {
    /// There is no room left.
    Full,
    /// A write, a sync or a read failed.
    Broken,
}

impl DiskFailure {
    fn new(is_full: bool) -> Self {
        if is_full { DiskFailure::Full } else { DiskFailure::Broken }
    }
}

/// What a job begins as.
pub(super) struct Begun(Result<Arc<Job>, DiskFailure>);

impl Shown {
    pub(super) fn status(&self) -> ServiceStatus {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        ServiceStatus {
            job: state.job.as_ref().map(|job| job.status()).or_else(|| state.last.clone()),
            read_only: state.read_only.clone(),
            disk_failures: state.disk_failures,
            sinks: Vec::new(),
        }
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).read_only.is_some()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Supervisor {
    /// Starts the first job; on a full disk, none yet.
    pub(super) async fn begin(&self) -> Result<Begun> {
        match self.open().await {
            Ok(job) => Ok(Begun(Ok(job))),
            Err(Error::Disk { reason, is_full: true }) => {
                self.become_read_only(&reason);
                Ok(Begun(Err(DiskFailure::Full)))
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps a job running until `stop`, then stops it. Says in `ended` how it ended before, if it did.
    pub(super) async fn run(self, begun: Begun, stop: Stop, ended: watch::Sender<Option<Result<()>>>) -> Result<()> {
        let mut next = begun.0;
        let mut wait = WAIT_MIN;
        loop {
            let failure = match next {
                Err(failure) => failure,
                Ok(job) => {
                    self.go_on(&job);
                    let since = Instant::now();
                    let finished = tokio::select! {
                        finished = job.finished() => finished.map_err(Error::from),
                        () = stop.cancelled() => return Ok(job.stop().await?),
                    };
                    if since.elapsed() >= HEALTHY_AFTER {
                        wait = WAIT_MIN;
                    }
                    match finished {
                        Err(Error::Disk { reason, is_full }) => {
                            self.become_read_only(&reason);
                            self.tear_down(job).await;
                            DiskFailure::new(is_full)
                        }
                        finished => {
                            ended.send_replace(Some(finished));
                            stop.cancelled().await;
                            return Ok(job.stop().await?);
                        }
                    }
                }
            };
            let again = tokio::select! {
                again = self.try_again(failure, &mut wait) => again,
                // Nothing was taken, so nothing has to be finished.
                () = stop.cancelled() => return Ok(()),
            };
            next = match again {
                Ok(job) => Ok(job),
                Err(Error::Disk { reason, is_full }) => {
                    self.still_read_only(&reason);
                    Err(DiskFailure::new(is_full))
                }
                Err(error) => {
                    ended.send_replace(Some(Err(error)));
                    stop.cancelled().await;
                    return Ok(());
                }
            };
        }
    }

    /// Settles if the disk is full, waits, and starts the next job.
    async fn try_again(&self, failure: DiskFailure, wait: &mut Duration) -> Result<Arc<Job>> {
        if matches!(failure, DiskFailure::Full) {
            match self.settle().await {
                Ok(()) => tracing::info!("settled: a checkpoint is made, and what was complete is committed"),
                Err(Error::Disk { reason, .. }) => {
                    tracing::warn!(reason, "could not settle; the log has what was acknowledged");
                }
                Err(error) => return Err(error),
            }
        }
        loop {
            tokio::time::sleep(*wait).await;
            *wait = (*wait * 2).min(WAIT_MAX);
            // What is looked for is room, so that a job that starts has some; nothing else is tried before.
            match self.find_room().await {
                Err(Error::Disk { reason, is_full: true }) => self.still_read_only(&reason),
                Err(error) => return Err(error),
                Ok(()) => return self.open().await,
            }
        }
    }

    /// Opens everything from the disk, and starts a job.
    async fn open(&self) -> Result<Arc<Job>> {
        self.find_room().await?;
        let (folder, sinks) = self.open_tables().await?;
        let options = job_options(&folder, self.live.clone(), &self.settings);
        Ok(Arc::new(Job::start(self.plan.clone(), sinks, options).await?))
    }

    /// Does what can be done without input, with the room that was kept for it.
    async fn settle(&self) -> Result<()> {
        let (reserve, folder) = (self.reserve, self.folder.storage());
        blocking(move || Ok(reserve.release(folder.as_ref())?)).await?;
        let (folder, sinks) = self.open_tables().await?;
        let options = job_options(&folder, self.live.clone(), &self.settings);
        Ok(Job::settle(self.plan.clone(), sinks, options).await?)
    }

    async fn find_room(&self) -> Result<()> {
        let (reserve, folder) = (self.reserve, self.folder.storage());
        blocking(move || {
            reserve.ensure(folder.as_ref()).map_err(|error| match Error::from(error) {
                Error::Disk { reason, is_full: true } => {
                    let reason =
                        format!("there is no room for the reserve of {} MiB: {reason}", reserve.size_bytes() >> 20);
                    Error::Disk { reason, is_full: true }
                }
                error => error,
            })?;
            Ok(())
        })
        .await
    }

    async fn open_tables(&self) -> Result<(Folder, Vec<Box<dyn Sink>>)> {
        let folder = self.folder.reopened()?;
        let (settings, outlets) = (self.settings.clone(), self.outlets.clone());
        blocking(move || {
            write_catalog(&folder, outlets.tables())?;
            let sinks = outlets.open(&folder, &settings)?;
            Ok((folder, sinks))
        })
        .await
    }

    /// Waits until all threads of a job have ended and its tables are closed.
    async fn tear_down(&self, job: Arc<Job>) {
        // Its failure is known.
        let _ = job.stop().await;
        self.shown.change(|state| {
            state.last = Some(job.status());
            state.job = None;
        });
    }

    fn become_read_only(&self, reason: &str) {
        let since_us = self.settings.clock.now_us();
        self.shown.change(|state| {
            state.read_only = Some(ReadOnly { reason: reason.to_owned(), since_us });
            state.disk_failures += 1;
        });
        self.refuse(reason);
        tracing::error!(reason, "read only: nothing is acknowledged until the disk can be written again");
    }

    fn still_read_only(&self, reason: &str) {
        let mut is_new = false;
        self.shown.change(|state| {
            if let Some(read_only) = &mut state.read_only {
                is_new = read_only.reason != reason;
                reason.clone_into(&mut read_only.reason);
            }
        });
        self.refuse(reason);
        if is_new {
            tracing::warn!(reason, "still read only");
        }
    }

    fn refuse(&self, reason: &str) {
        self.ingest.refuse(&format!("the data folder cannot be written, so nothing is taken now: {reason}"));
    }

    fn go_on(&self, job: &Arc<Job>) {
        let mut before = None;
        self.shown.change(|state| {
            state.job = Some(Arc::clone(job));
            state.last = None;
            before = state.read_only.take();
        });
        self.ingest.take_again();
        if let Some(ReadOnly { since_us, .. }) = before {
            let seconds = (self.settings.clock.now_us() - since_us) / 1_000_000;
            tracing::info!(seconds, "the disk can be written again: no longer read only");
        }
    }
}

/// Runs what waits for a disk where it may wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::Internal(format!("cannot open the data folder: {error}"))),
    }
}
