//! A job: its threads and tasks, and how they begin and end.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use arrow::array::RecordBatch;
use crossbeam_channel::{Receiver, bounded};
use futures::FutureExt;
use tokio::sync::{broadcast, oneshot, watch};
use tokio::task::JoinSet;

use super::bridge::{Bridge, CHUNKS_QUEUED_MAX, Lane};
use super::buffer::RowBuffer;
use super::egress::{BATCHES_QUEUED_MAX, Egress, LIVE_BATCHES_MAX, TableState};
use super::intake::{Queue, REQUESTS_QUEUED_MAX, SourceIntake, SourceState};
use super::progress::Progress;
use super::recorder::{Recorded, Recorder, RecorderError, Replayed};
use super::worker::{self, Threads};
use super::{JobError, JobOptions, JobStatus, SourceStatus, Subscription, TableStatus, WindowStatus};
use crate::dataflow::{Blame, Context, Counters, Failure, Feed, Ports, TableFeed};
use crate::epoch::Epoch;
use crate::error::with_causes;
use crate::ingest::{Log, LogOptions};
use crate::plan::{NodeId, Operator, Plan, SourceNode};
use crate::sink::Sink;
use crate::source::{Resume, Stop};

/// The folder of the ingest log, in the data folder.
pub const LOG_FOLDER: &str = "log";

/// How long a source may take to stop before it is dropped.
const SOURCE_STOP_MAX: Duration = Duration::from_secs(4);

/// What a job keeps of a table beside its thread.
struct JobTable {
    name: String,
    state: Arc<TableState>,
    live: broadcast::Sender<(Epoch, RecordBatch)>,
}

/// A running job. Dropping it stops it without waiting; [`Job::stop`] waits.
pub struct Job {
    plan: Arc<Plan>,
    sources: BTreeMap<NodeId, Arc<SourceState>>,
    tables: Vec<JobTable>,
    progress: Arc<Progress>,
    counters: Arc<Counters>,
    failure: Failure,
    log_bytes: Arc<AtomicU64>,
    queue: Queue,
    stop: Stop,
    tasks: parking_lot::Mutex<Option<JoinSet<()>>>,
    ended: watch::Receiver<bool>,
}

impl Job {
    /// Opens the log, replays it, and starts the sources. `sinks` has one for each of [`Plan::tables`], in that order.
    /// Returns when the log is replayed and every source has been told to run, so that a problem at the start is an
    /// error here.
    pub async fn start(plan: Plan, sinks: Vec<Box<dyn Sink>>, options: JobOptions) -> Result<Job, JobError> {
        let plan = Arc::new(plan);
        let names: Vec<String> = plan.tables().into_iter().map(|(name, _)| name).collect();
        if names.len() != sinks.len() || options.workers == 0 {
            let (tables, workers) = (names.len(), options.workers);
            return Err(JobError::Plan(format!("{} sinks for {tables} tables, on {workers} workers", sinks.len())));
        }
        for (_, source) in sources_of(&plan) {
            source.source.prepare().await.map_err(|error| source_error(source, error))?;
        }
        let committed = sinks.iter().map(|sink| (sink.name().to_owned(), sink.last_committed())).collect();
        let starting = Starting::new(plan, names, sinks, &options);
        starting.replay_and_run(committed, &options).await
    }

    /// Returns what the job is doing now.
    pub fn status(&self) -> JobStatus {
        let sources: Vec<SourceStatus> =
            sources_of(&self.plan).map(|(id, node)| self.source_status(id, node)).collect();
        let window = |(at, node): (usize, &crate::plan::Node)| match &node.operator {
            Operator::Window(window) => {
                let counters = &self.counters.windows[at];
                let name =
                    window.late_table.as_deref().map_or_else(|| at.to_string(), |late| late.replace("$late", ""));
                Some(WindowStatus {
                    name,
                    rows: counters.rows.get(),
                    late: counters.late.get(),
                    results: counters.results.get(),
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
            log_bytes: self.log_bytes.load(Ordering::Relaxed),
            rows_in_flight: self.progress.in_flight(),
            sources,
            windows: self.plan.nodes.iter().enumerate().filter_map(window).collect(),
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
            errors: state.errors.lock().clone(),
            watermark: node.event_time.map(|_| counters.watermark()),
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

    fn outcome(&self) -> Result<(), JobError> {
        match self.failure.reason() {
            None => Ok(()),
            Some((Blame::Environment, reason)) => Err(JobError::Environment(reason)),
            Some((Blame::Operator, reason)) => Err(JobError::Operator(reason)),
        }
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
        self.finished().await
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.stop.cancel();
        self.queue.stop();
    }
}

fn sources_of(plan: &Plan) -> impl Iterator<Item = (NodeId, &SourceNode)> {
    plan.nodes.iter().enumerate().filter_map(|(at, node)| match &node.operator {
        Operator::Source(source) => Some((NodeId(at), source)),
        _ => None,
    })
}

fn source_error(source: &SourceNode, error: crate::source::SourceError) -> JobError {
    JobError::Source { source_name: source.name.clone(), error }
}

/// A job whose threads are being started.
struct Starting {
    job: Job,
    recorder_parts: RecorderParts,
    end: watch::Sender<bool>,
    egress: Vec<Egress>,
    context: Context,
    ports: Vec<Ports>,
    threads: Threads,
}

struct RecorderParts {
    requests: Receiver<super::intake::Request>,
    senders: BTreeMap<NodeId, Vec<crossbeam_channel::Sender<Feed>>>,
}

impl Starting {
    fn new(plan: Arc<Plan>, names: Vec<String>, sinks: Vec<Box<dyn Sink>>, options: &JobOptions) -> Starting {
        let threads = Threads::default();
        let waking = threads.clone();
        let failure = Failure::new(move || waking.unpark());
        let progress = Arc::new(Progress::default());
        let counters = Arc::new(Counters::new(plan.nodes.len()));
        let (sender, requests) = bounded(REQUESTS_QUEUED_MAX);
        let (end, ended) = watch::channel(false);

        let mut ports: Vec<Ports> =
            (0..options.workers).map(|_| Ports { sources: BTreeMap::new(), tables: BTreeMap::new() }).collect();
        let mut senders: BTreeMap<NodeId, Vec<_>> = BTreeMap::new();
        let mut sources = BTreeMap::new();
        for (id, node) in sources_of(&plan) {
            let state = SourceState::default();
            // What is read to its end cannot be disconnected.
            state.connected.store(node.source.bounded(), Ordering::Relaxed);
            state.was_connected.store(node.source.bounded(), Ordering::Relaxed);
            sources.insert(id, Arc::new(state));
            for port in &mut ports {
                let (sender, receiver) = bounded(CHUNKS_QUEUED_MAX);
                senders.entry(id).or_default().push(sender);
                port.sources.insert(id, receiver);
            }
        }
        let (mut egress, mut tables) = (Vec::new(), Vec::new());
        for (name, mut sink) in names.into_iter().zip(sinks) {
            let (sender, rows) = bounded(BATCHES_QUEUED_MAX);
            let (live, _) = broadcast::channel(LIVE_BATCHES_MAX);
            let state = Arc::new(TableState::default());
            state.committed.store(sink.last_committed().0, Ordering::Relaxed);
            for port in &mut ports {
                let feed = TableFeed { sender: sender.clone(), last_committed: sink.last_committed() };
                port.tables.insert(name.clone(), feed);
            }
            egress.push(Egress {
                writer: sink.writer(0),
                buffer: RowBuffer::default(),
                sink,
                rows,
                live: live.clone(),
                state: Arc::clone(&state),
                progress: Arc::clone(&progress),
                failure: failure.clone(),
                clock: Arc::clone(&options.clock),
                commit_interval: options.commit_interval,
            });
            tables.push(JobTable { name, state, live });
        }
        let context = Context {
            peers: options.workers,
            failure: failure.clone(),
            counters: Arc::clone(&counters),
            first: Epoch::FIRST,
        };
        let job = Job {
            plan,
            sources,
            tables,
            progress,
            counters,
            failure,
            log_bytes: Arc::default(),
            queue: Queue::new(sender),
            stop: Stop::new(),
            tasks: parking_lot::Mutex::new(Some(JoinSet::new())),
            ended,
        };
        Starting { job, recorder_parts: RecorderParts { requests, senders }, end, egress, context, ports, threads }
    }

    async fn replay_and_run(self, committed: Vec<(String, Epoch)>, options: &JobOptions) -> Result<Job, JobError> {
        let failure = self.job.failure.clone();
        let started = self.try_replay_and_run(committed, options).await;
        if started.is_err() {
            // Ends the threads that were started already.
            failure.set_environment("the start was given up".to_owned());
        }
        started
    }

    async fn try_replay_and_run(self, committed: Vec<(String, Epoch)>, options: &JobOptions) -> Result<Job, JobError> {
        let Starting { job, recorder_parts, end, egress, context, ports, threads } = self;
        let (storage, dice) = (Arc::clone(&options.storage), Arc::clone(&options.dice));
        let opening = move || Log::open(storage, LOG_FOLDER, &*dice, LogOptions::default());
        let log = wait_for(opening).await?.map_err(|error| JobError::Log(with_causes(&error)))?;

        // Workers.
        let (built_sender, built) = bounded(options.workers);
        let (plan, progress) = (Arc::clone(&job.plan), Arc::clone(&job.progress));
        let guards = worker::spawn(plan, context, ports, built_sender, threads, progress).map_err(JobError::Plan)?;
        let worker_count = options.workers;
        let wakes = wait_for(move || built.iter().take(worker_count).collect::<BTreeMap<_, _>>()).await?;

        // Tables, and the thread that sees everything end.
        let mut joins = Vec::new();
        for egress in egress {
            let name = format!("table {}", egress.sink.name());
            joins.push(spawn(name, move || egress.run())?);
        }
        let (progress, failure) = (Arc::clone(&job.progress), job.failure.clone());
        spawn("job".to_owned(), move || {
            for ended in guards.join() {
                if let Err(reason) = ended {
                    failure.set(format!("a worker ended: {reason}"));
                }
            }
            progress.end();
            for join in joins {
                if join.join().is_err() {
                    failure.set("a table's thread ended by an internal error".to_owned());
                }
            }
            let _ = end.send(true); // Nobody may be waiting.
        })?;

        let mut lanes: BTreeMap<NodeId, Lane> = BTreeMap::new();
        let mut senders = recorder_parts.senders;
        for (worker, wakes) in wakes {
            for (id, wake) in wakes.map_err(JobError::Plan)? {
                let senders = senders.remove(&id);
                let lane = lanes
                    .entry(id)
                    .or_insert_with(|| Lane { senders: senders.expect("one lane for each source"), wakes: Vec::new() });
                assert_eq!(lane.wakes.len(), worker, "workers in order");
                lane.wakes.push(wake);
            }
        }

        // The recorder: replays, says how far it came, then records.
        let bridge = Bridge::new(lanes, Arc::clone(&job.progress), job.failure.clone(), Epoch::FIRST);
        let recorded = sources_of(&job.plan).map(|(id, node)| (id, job.recorded(id, node))).collect();
        let (clock, log_bytes) = (Arc::clone(&options.clock), Arc::clone(&job.log_bytes));
        let mut recorder =
            Recorder::new(bridge, recorded, clock, options.epoch_interval, job.failure.clone(), log_bytes);
        let (replayed_sender, replayed) = oneshot::channel();
        let (go_sender, go) = oneshot::channel::<()>();
        let (requests, closer) = (recorder_parts.requests, job.queue.closer());
        spawn("recorder".to_owned(), move || match recorder.replay(log) {
            Err(error) => {
                let _ = replayed_sender.send(Err(error)); // The start was given up.
            }
            Ok((writer, found)) => {
                if replayed_sender.send(Ok(found)).is_ok() && go.blocking_recv().is_ok() {
                    recorder.record(writer, &requests);
                    closer.close(requests);
                }
            }
        })?;
        let ended = |_| JobError::Operator("the recorder ended by an internal error".to_owned());
        let replayed = replayed.await.map_err(ended)?.map_err(|error| job.replay_error(error))?;
        check_committed(&committed, &replayed)?;
        let _ = go_sender.send(()); // The recorder is waiting for it.
        job.run_sources(replayed.resume);
        Ok(job)
    }
}

impl Job {
    fn recorded(&self, id: NodeId, node: &SourceNode) -> Recorded {
        Recorded {
            name: node.name.clone(),
            source: Arc::clone(&node.source),
            event_time: node.event_time,
            state: Arc::clone(&self.sources[&id]),
            done: false,
        }
    }

    fn replay_error(&self, error: RecorderError) -> JobError {
        match error {
            RecorderError::Log(error) => JobError::Log(with_causes(&error)),
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
            let intake = Arc::new(SourceIntake { source: id, queue: queue.clone(), state: Arc::clone(&state) });
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
                    Err(error) => failure.set_environment(format!("source {name}: {error}")),
                }
            });
        }
    }
}

/// A table that is ahead of the log would silently swallow the rows of the epochs to come.
fn check_committed(committed: &[(String, Epoch)], replayed: &Replayed) -> Result<(), JobError> {
    for (table, epoch) in committed {
        if *epoch > replayed.sealed {
            return Err(JobError::Log(format!(
                "table {table} has committed epoch {epoch}, but the log ends at epoch {}: the log has lost its end. \
                 Restore the log's files from a backup, or move the data folder away to start anew",
                replayed.sealed
            )));
        }
    }
    Ok(())
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>, JobError> {
    thread::Builder::new()
        .name(name.clone())
        .spawn(run)
        .map_err(|error| JobError::Environment(format!("cannot start thread {name}: {error}")))
}

/// Runs something that blocks without holding a task up.
async fn wait_for<T: Send + 'static>(blocking: impl FnOnce() -> T + Send + 'static) -> Result<T, JobError> {
    tokio::task::spawn_blocking(blocking)
        .await
        .map_err(|error| JobError::Operator(format!("the start ended by an internal error: {error}")))
}
