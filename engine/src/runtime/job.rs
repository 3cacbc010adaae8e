//! A job: its threads and tasks, and how they begin and end.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use futures::FutureExt;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;

use super::egress::TableState;
use super::intake::{Queue, SourceIntake, SourceState};
use super::marks::Marks;
use super::positions::Positions;
use super::progress::Progress;
use super::recorder::{Recorded, RecorderError};
use super::restart::Restart;
use super::starting::{Starting, wait_for};
use super::{
    CheckpointStatus, DedupStatus, JobError, JobOptions, JobStatus, SourceStatus, Subscription, TableStatus,
    WindowStatus,
};
use crate::dataflow::{Counters, Failure};
use crate::epoch::Epoch;
use crate::plan::{DedupNode, NodeId, Operator, Plan, SourceNode, WindowNode};
use crate::sink::Sink;
use crate::source::{IntakeError, Resume, SourceError, Stop};

/// The folder of the ingest log, in the data folder.
pub const LOG_FOLDER: &str = "log";

/// How long a source may take to stop before it is dropped.
const SOURCE_STOP_MAX: Duration = Duration::from_secs(4);

/// What a job keeps of a table beside its thread.
pub(super) struct JobTable {
    pub(super) name: String,
    pub(super) state: Arc<TableState>,
    pub(super) live: broadcast::Sender<(Epoch, RecordBatch)>,
}

/// Resolves when the recorder has closed the log.
#[derive(Clone)]
pub(super) struct Ended(pub(super) watch::Receiver<()>);

impl Ended {
    pub(super) async fn wait(mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

/// A running job. Dropping it stops it without waiting; [`Job::stop`] waits.
pub struct Job {
    pub(super) positions: Arc<Positions>,
    pub(super) plan: Arc<Plan>,
    pub(super) sources: BTreeMap<NodeId, Arc<SourceState>>,
    pub(super) tables: Vec<JobTable>,
    pub(super) progress: Arc<Progress>,
    pub(super) marks: Arc<Marks>,
    pub(super) counters: Arc<Counters>,
    pub(super) failure: Failure,
    pub(super) log_bytes: Arc<AtomicU64>,
    pub(super) log_removed_bytes: Arc<AtomicU64>,
    pub(super) checkpoint: Arc<parking_lot::Mutex<CheckpointStatus>>,
    pub(super) queue: Queue,
    pub(super) stop: Stop,
    pub(super) tasks: parking_lot::Mutex<Option<JoinSet<()>>>,
    pub(super) ended: watch::Receiver<bool>,
    pub(super) recorded: Ended,
}

impl Job {
    /// Opens the log, replays it, and starts the sources. `sinks` has one for each of [`Plan::tables`], in that order.
    /// Returns when the log is replayed and every source has been told to run, so that a problem at the start is an
    /// error here.
    pub async fn start(plan: Plan, sinks: Vec<Box<dyn Sink>>, options: JobOptions) -> Result<Job, JobError> {
        let prepared = Prepared(Some(Arc::new(plan)));
        let plan = prepared.plan();
        for (_, source) in sources_of(&plan) {
            source.source.prepare().await.map_err(|error| source_error(source, error))?;
        }
        let (job, resume) = Job::replay(plan, sinks, options).await?;
        prepared.run();
        job.run_sources(resume);
        Ok(job)
    }

    /// Does what [`Job::start`] and [`Job::stop`] do, without the sources: replays the log, makes a checkpoint, commits
    /// what is complete, and removes what is old. Takes less room afterwards than before, as a rule.
    pub async fn settle(plan: Plan, sinks: Vec<Box<dyn Sink>>, options: JobOptions) -> Result<(), JobError> {
        let (job, _) = Job::replay(Arc::new(plan), sinks, options).await?;
        job.stop().await
    }

    /// Starts all but the sources. Returns where they go on, when the log is replayed.
    async fn replay(
        plan: Arc<Plan>,
        sinks: Vec<Box<dyn Sink>>,
        options: JobOptions,
    ) -> Result<(Job, BTreeMap<NodeId, Vec<Resume>>), JobError> {
        let names = names_of(&plan, &sinks, &options)?;
        let (plan_here, options_here) = (Arc::clone(&plan), options.clone());
        let restart = wait_for(move || Restart::prepare(&plan_here, &names, sinks, &options_here)).await??;
        let starting = {
            let options = options.clone();
            wait_for(move || Starting::new(plan, restart, &options)).await??
        };
        starting.replay(&options).await
    }

    /// Returns what the job is doing now.
    pub fn status(&self) -> JobStatus {
        let sources: Vec<SourceStatus> =
            sources_of(&self.plan).map(|(id, node)| self.source_status(id, node)).collect();
        let window = |(at, node): (usize, &crate::plan::Node)| match &node.operator {
            Operator::Window(window) => {
                let counters = &self.counters.windows[at];
                Some(WindowStatus {
                    name: window_name(NodeId(at), window),
                    rows: counters.rows.get(),
                    late: counters.late.get(),
                    results: counters.results.get(),
                })
            }
            _ => None,
        };
        let dedup = |(at, node): (usize, &crate::plan::Node)| match &node.operator {
            Operator::Dedup(dedup) => {
                let counters = &self.counters.dedups[at];
                Some(DedupStatus {
                    source: dedup_name(&self.plan, dedup),
                    taken: counters.taken.get(),
                    repeats: counters.repeats.get(),
                    late: counters.late.get(),
                    state_bytes: counters.state_bytes(),
                })
            }
            _ => None,
        };
        let table = |table: &JobTable| TableStatus {
            name: table.name.clone(),
            rows: table.state.rows.load(Ordering::Relaxed),
            committed: Epoch(table.state.committed.load(Ordering::Relaxed)),
        };
        let failure = self.failure.reason().map(|(_, reason)| reason);
        JobStatus {
            ready: failure.is_none()
                && self.sources.values().all(|source| source.was_connected.load(Ordering::Relaxed)),
            finished: failure.is_none() && *self.ended.borrow(),
            failure,
            sealed: self.progress.sealed(),
            completed: self.progress.completed(),
            log_bytes: self
                .log_bytes
                .load(Ordering::Relaxed)
                .saturating_sub(self.log_removed_bytes.load(Ordering::Relaxed)),
            checkpoint: self.checkpoint.lock().clone(),
            rows_in_flight: self.progress.in_flight(),
            sources,
            windows: self.plan.nodes.iter().enumerate().filter_map(window).collect(),
            dedups: self.plan.nodes.iter().enumerate().filter_map(dedup).collect(),
            tables: self.tables.iter().map(table).collect(),
        }
    }

    fn source_status(&self, id: NodeId, node: &SourceNode) -> SourceStatus {
        let (state, counters) = (&self.sources[&id], &self.counters.sources[id.0]);
        SourceStatus {
            name: node.name.clone(),
            connected: state.connected.load(Ordering::Relaxed),
            ended: state.ended.load(Ordering::Relaxed),
            messages: state.messages.load(Ordering::Relaxed),
            bytes: state.bytes.load(Ordering::Relaxed),
            rows: counters.rows.get(),
            dead: counters.dead.get(),
            quarantined: counters.quarantined.get(),
            nulled: counters.nulled.get(),
            dropped_attributes: counters.dropped_attributes.get(),
            errors: state.errors.lock().clone(),
            watermark: node.event_time.map(|_| counters.watermark()),
            targets: node.source.targets(),
        }
    }

    /// Returns live rows of a table from now on; `None` if there is no such table.
    pub fn subscribe(&self, table: &str) -> Option<Subscription> {
        let table = self.tables.iter().find(|known| known.name == table)?;
        Some(Subscription { receiver: table.live.subscribe() })
    }

    /// Waits until all sources have ended and everything is committed, or until the job fails. For a job with an
    /// unbounded source this ends only by a failure, or by [`Job::stop`].
    pub async fn finished(&self) -> Result<(), JobError> {
        let mut ended = self.ended.clone();
        let _ = ended.wait_for(|ended| *ended).await; // An error: the thread that says so has ended, too.
        self.outcome()
    }

    pub(super) fn outcome(&self) -> Result<(), JobError> {
        super::outcome_of(&self.failure)
    }

    /// Says that the workers have ended: what is complete is committed, and no more comes.
    pub(super) fn dataflow_ended(&self) {
        self.progress.end();
        self.marks.end();
    }

    /// Stops: sources first, then the log, then the dataflow; commits what is complete. Doing it again waits for the
    /// same end.
    pub async fn stop(&self) -> Result<(), JobError> {
        self.stop.cancel();
        let tasks = self.tasks.lock().take();
        if let Some(mut tasks) = tasks {
            let all = async { while tasks.join_next().await.is_some() {} };
            if tokio::time::timeout(SOURCE_STOP_MAX, all).await.is_err() {
                tracing::warn!("a source did not stop in time; it is dropped");
            }
        }
        self.queue.stop();
        let outcome = self.finished().await;
        self.recorded.clone().wait().await;
        outcome
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.stop.cancel();
        self.queue.stop();
    }
}

/// Returns the names of the tables, in the order of their sinks.
pub(super) fn names_of(plan: &Plan, sinks: &[Box<dyn Sink>], options: &JobOptions) -> Result<Vec<String>, JobError> {
    let names: Vec<String> = plan.tables().into_iter().map(|(name, _)| name).collect();
    if names.len() != sinks.len() || options.workers == 0 {
        let (tables, workers) = (names.len(), options.workers);
        return Err(JobError::Plan(format!("{} sinks for {tables} tables, on {workers} workers", sinks.len())));
    }
    Ok(names)
}

pub(super) fn sources_of(plan: &Plan) -> impl Iterator<Item = (NodeId, &SourceNode)> {
    plan.nodes.iter().enumerate().filter_map(|(at, node)| match &node.operator {
        Operator::Source(source) => Some((NodeId(at), source)),
        _ => None,
    })
}

/// Sources that are prepared: if the start is given up, they are released.
struct Prepared(Option<Arc<Plan>>);

impl Prepared {
    fn plan(&self) -> Arc<Plan> {
        Arc::clone(self.0.as_ref().expect("they do not run yet"))
    }

    fn run(mut self) {
        self.0 = None;
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        for (_, source) in self.0.iter().flat_map(|plan| sources_of(plan)) {
            source.source.release();
        }
    }
}

fn source_error(source: &SourceNode, error: crate::source::SourceError) -> JobError {
    JobError::Source { source_name: source.name.clone(), error }
}

impl Job {
    pub(super) fn recorded(&self, id: NodeId, node: &SourceNode, is_restored: bool) -> Recorded {
        Recorded {
            name: node.name.clone(),
            source: Arc::clone(&node.source),
            event_time: node.event_time,
            state: Arc::clone(&self.sources[&id]),
            is_restored,
            done: false,
        }
    }

    pub(super) fn replay_error(&self, error: RecorderError) -> JobError {
        match error {
            RecorderError::Log(error) => error.into(),
            RecorderError::Changed { source, problem } => {
                JobError::Environment(format!("source {source}: the log cannot be replayed: {problem}"))
            }
            RecorderError::Closed => {
                self.outcome().err().unwrap_or_else(|| JobError::Operator("the dataflow ended".to_owned()))
            }
        }
    }

    fn run_sources(&self, mut resume: BTreeMap<NodeId, Vec<Resume>>) {
        let mut tasks = self.tasks.lock();
        let tasks = tasks.as_mut().expect("not stopped yet");
        for (id, node) in sources_of(&self.plan) {
            let (source, name) = (Arc::clone(&node.source), node.name.clone());
            let (queue, failure, stop) = (self.queue.clone(), self.failure.clone(), self.stop.clone());
            let state = Arc::clone(&self.sources[&id]);
            let positions = Arc::clone(&self.positions);
            let intake =
                Arc::new(SourceIntake { source: id, queue: queue.clone(), state: Arc::clone(&state), positions });
            let resume = resume.remove(&id).unwrap_or_default();
            tasks.spawn(async move {
                let running = AssertUnwindSafe(source.run(intake, resume, stop.clone())).catch_unwind();
                let ended = running.await;
                state.connected.store(false, Ordering::Relaxed);
                let Ok(ended) = ended else {
                    return failure.set(format!("source {name} ended by an internal error"));
                };
                match ended {
                    Ok(()) if stop.is_cancelled() => {}
                    Ok(()) if source.bounded() => {
                        let _ = queue.done(id).await; // Stopping: then the end is recorded next time.
                    }
                    Ok(()) => failure.set(format!("source {name} ended, and has no end")),
                    Err(_) if stop.is_cancelled() => {}
                    // Not its own failure: the recorder says what has happened to the log.
                    Err(SourceError::Intake(IntakeError::LogFailed(_) | IntakeError::Stopping)) => {}
                    Err(error) => failure.set_environment(format!("source {name}: {error}")),
                }
            });
        }
    }
}

/// Returns the name of the source that is deduplicated.
pub(super) fn dedup_name(plan: &Plan, dedup: &DedupNode) -> String {
    match &plan.node(dedup.input).operator {
        Operator::Source(source) => source.name.clone(),
        _ => dedup.input.0.to_string(),
    }
}

/// Returns what a window is called in the status: the name of its late table without `$late`, or its number.
pub(super) fn window_name(id: NodeId, window: &WindowNode) -> String {
    window.late_table.as_deref().map_or_else(|| id.0.to_string(), |late| late.replace("$late", ""))
}
