//! A start: from what a restart has found to the threads of a running job.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use arrow::array::RecordBatch;
use crossbeam_channel::{Receiver, Sender, bounded};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::bridge::{Bridge, CHUNKS_QUEUED_MAX, Lane};
use super::checkpointer::{Checkpointer, SourceKept, Table};
use super::egress::{Egress, TableState};
use super::intake::{Queue, REQUESTS_QUEUED_MAX, Request, SourceState};
use super::job::{Ended, Job, JobTable, sources_of};
use super::kept::{Dedup, Window};
use super::marks::Marks;
use super::notes::Notes;
use super::outlet::Shared;
use super::positions::Positions;
use super::progress::Progress;
use super::recorder::{Links, Recorder, Recording, check_committed};
use super::restart::Restart;
use super::turns::{self, Turns};
use super::worker::{self, Guards, Threads};
use super::{CheckpointStatus, JobError, JobOptions};
use crate::checkpoint::{BufferState, Checkpoint, Store};
use crate::dataflow::{Context, Counters, Failure, Feed, Ports, Snapshots, TableFeed};
use crate::epoch::Epoch;
use crate::fence::Incarnation;
use crate::ingest::Replay;
use crate::plan::{NodeId, Plan};
use crate::source::{Resume, Stop};

/// A job whose threads are being started.
pub(super) struct Starting {
    job: Job,
    recorder_parts: RecorderParts,
    end: watch::Sender<bool>,
    egress: Vec<Egress>,
    checkpointer: Checkpointer,
    context: Context,
    ports: Vec<Ports>,
    threads: Threads,
    incarnation: Incarnation,
    replay: Replay,
    checkpoint: Option<Checkpoint>,
    /// What each partition of the checkpoint has noted.
    notes: Vec<Notes>,
    /// The sources whose watermark goes on from the checkpoint.
    restored: BTreeSet<NodeId>,
    pub(super) committed: Vec<(String, Epoch)>,
}

struct RecorderParts {
    requests: Receiver<Request>,
    senders: BTreeMap<NodeId, Vec<Sender<Feed>>>,
    /// Dropped with the log.
    recording: watch::Sender<()>,
}

impl Starting {
    pub(super) fn new(plan: Arc<Plan>, restart: Restart, options: &JobOptions) -> Result<Starting, JobError> {
        let threads = Threads::default();
        let waking = threads.clone();
        let failure = Failure::new(move || waking.unpark());
        let from = restart.start.from.epoch();
        let progress = Arc::new(Progress::behind(from));
        let (marks, snapshots) = (Arc::new(Marks::default()), Arc::new(Snapshots::default()));
        let counters = Arc::new(Counters::new(plan.nodes.len()));
        let (sender, requests) = bounded(REQUESTS_QUEUED_MAX);
        let (end, ended) = watch::channel(false);
        let (recording, recorded) = watch::channel(());
        let keys = plan.state_keys();

        let mut ports: Vec<Ports> = (0..options.workers)
            .map(|worker| Ports {
                sources: BTreeMap::new(),
                tables: BTreeMap::new(),
                restored: restart.state_of(&keys, worker, options.workers),
            })
            .collect();
        let mut senders: BTreeMap<NodeId, Vec<_>> = BTreeMap::new();
        let (mut sources, mut kept) = (BTreeMap::new(), BTreeMap::new());
        for (id, node) in sources_of(&plan) {
            let state = SourceState::default();
            // What is read to its end cannot be disconnected.
            state.connected.store(node.source.bounded(), Ordering::Relaxed);
            state.was_connected.store(node.source.bounded(), Ordering::Relaxed);
            let before = restart.source(&keys[&id], &node.name);
            state.messages.store(before.messages, Ordering::Relaxed);
            state.bytes.store(before.bytes, Ordering::Relaxed);
            counters.sources[id.0].rows.add(before.rows);
            counters.sources[id.0].dead.add(before.dead);
            counters.sources[id.0].quarantined.add(before.quarantined);
            counters.sources[id.0].nulled.add(before.nulled);
            counters.sources[id.0].dropped_attributes.add(before.dropped_attributes);
            kept.insert(id, SourceKept { key: keys[&id].clone(), before });
            sources.insert(id, Arc::new(state));
            for port in &mut ports {
                let (sender, receiver) = bounded(CHUNKS_QUEUED_MAX);
                senders.entry(id).or_default().push(sender);
                port.sources.insert(id, receiver);
            }
        }
        let windows = Window::all(&plan, &keys, &restart, &counters, options.workers)?;
        let dedups = Dedup::all(&plan, &keys, &restart, &counters, options.workers)?;
        let restored = kept.iter().filter(|(_, kept)| restart.has_source(&kept.key)).map(|(id, _)| *id).collect();
        let status = Arc::new(parking_lot::Mutex::new(CheckpointStatus { epoch: from, ..CheckpointStatus::default() }));

        let (mut egress, mut tables, mut decided, mut committed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let Restart { sinks, bases, .. } = &restart;
        debug_assert_eq!(sinks.len(), bases.len());
        let shared = Shared { marks: &marks, failure: &failure, clock: &options.clock, live: &options.live };
        let buffered: Vec<Vec<(Epoch, RecordBatch)>> = plan
            .tables()
            .iter()
            .zip(sinks)
            .map(|((name, schema), sink)| restart.buffer_of(name, schema, sink.last_committed()))
            .collect::<Result<_, _>>()?;
        let saved: Vec<Vec<BufferState>> = plan
            .tables()
            .iter()
            .zip(&buffered)
            .map(|((name, _), rows)| if rows.is_empty() { Vec::new() } else { restart.buffers(name) })
            .collect();
        let (notes, notes_saved) = restart.notes()?;
        let Restart { incarnation, replay, log_id, start, checkpoint, sinks, bases, .. } = restart;
        let names = plan.tables();
        for (at, (((name, schema), sink), base)) in names.into_iter().zip(sinks).zip(bases).enumerate() {
            committed.push((name.clone(), sink.last_committed()));
            let has_one = name.contains('$') || sink.keeps_order();
            let writer_count = if has_one { 1 } else { options.table_writers.clamp(1, options.workers) };
            let (last_committed, generation) = (sink.last_committed(), sink.generation());
            let commit_interval = sink.commit_interval().unwrap_or(options.commit_interval);
            let outlet = shared.outlet(&name, sink, writer_count, buffered[at].clone());
            for (worker, port) in ports.iter_mut().enumerate() {
                let (sender, queued) = (outlet.rows[worker % writer_count].clone(), Arc::clone(outlet.state.queued()));
                port.tables.insert(name.clone(), TableFeed { sender, queued, last_committed });
            }
            decided.push(Table {
                name: name.clone(),
                schema,
                state: Arc::clone(&outlet.state),
                orders: outlet.orders,
                commit_interval,
                base,
                generation,
                committed: last_committed,
                saved: saved[at].clone(),
                saved_up_to: from,
            });
            tables.push(JobTable { name, state: outlet.state, live: outlet.live });
            egress.extend(outlet.writers);
        }
        let log_removed_bytes = Arc::<AtomicU64>::default();
        let checkpointer = Checkpointer {
            store: Store::new(Arc::clone(&options.storage)),
            storage: Arc::clone(&options.storage),
            clock: Arc::clone(&options.clock),
            progress: Arc::clone(&progress),
            marks: Arc::clone(&marks),
            snapshots: Arc::clone(&snapshots),
            failure: failure.clone(),
            workers: options.workers,
            incarnation: incarnation.clone(),
            log_id,
            next_number: start.next_number,
            parent: start.newest,
            base: start.from.number(),
            decided_only: None,
            tables: decided,
            windows,
            dedups,
            sources: kept,
            notes: notes_saved,
            log_removed_bytes: Arc::clone(&log_removed_bytes),
            status: Arc::clone(&status),
        };
        let context = Context {
            peers: options.workers,
            failure: failure.clone(),
            counters: Arc::clone(&counters),
            first: from.next(),
            snapshots,
        };
        let behind = |source: NodeId| -> Vec<Arc<TableState>> {
            let is_behind = |table: &&JobTable| plan.source_of(&table.name) == Some(source);
            tables.iter().filter(is_behind).map(|table| Arc::clone(&table.state)).collect()
        };
        let tables_of = sources_of(&plan).map(|(id, _)| (id, behind(id))).collect();
        let positions = Arc::new(Positions::new(Arc::clone(&progress), tables_of));
        let job = Job {
            positions,
            plan,
            sources,
            tables,
            progress,
            marks,
            counters,
            failure,
            log_bytes: Arc::default(),
            log_removed_bytes,
            checkpoint: status,
            queue: Queue::new(sender),
            stop: Stop::new(),
            tasks: parking_lot::Mutex::new(Some(JoinSet::new())),
            ended,
            recorded: Ended(recorded),
        };
        let recorder_parts = RecorderParts { requests, senders, recording };
        Ok(Starting {
            job,
            recorder_parts,
            end,
            egress,
            checkpointer,
            context,
            ports,
            threads,
            incarnation,
            replay,
            checkpoint,
            notes,
            restored,
            committed,
        })
    }

    /// Replays the log. If that fails, the threads that were started are waited for: what begins anew on this folder must
    /// not meet them.
    pub(super) async fn replay(self, options: &JobOptions) -> Result<(Job, BTreeMap<NodeId, Vec<Resume>>), JobError> {
        let (mut ended, recorded) = (self.job.ended.clone(), self.job.recorded.clone());
        let started = self.try_replay(options).await;
        if started.is_err() {
            let _ = ended.wait_for(|ended| *ended).await; // An error: the thread that says so was never started.
            recorded.wait().await;
        }
        started
    }

    async fn try_replay(self, options: &JobOptions) -> Result<(Job, BTreeMap<NodeId, Vec<Resume>>), JobError> {
        let committed = self.committed.clone();
        let (behind, has_checkpoint) = (self.context.first.0 - 1, self.checkpoint.is_some());
        let launching = Unfinished(Some(self.job.failure.clone()));
        let launched = {
            let options = options.clone();
            wait_for(move || self.launch(&options, None)).await??
        };
        let Launched { job, workers, egress, checkpointer, recording, end } = launched;
        // Behind the workers, which are waited for when they are dropped.
        let unfinished = launching;

        // Tables, who decides for them, and the thread that sees everything end.
        let mut joins = Vec::new();
        for egress in egress {
            joins.push(spawn(format!("table {}", egress.name), move || egress.run())?);
        }
        let deciding = spawn("checkpoint".to_owned(), move || checkpointer.run())?;
        let (progress, marks, failure) = (Arc::clone(&job.progress), Arc::clone(&job.marks), job.failure.clone());
        spawn("job".to_owned(), move || {
            for ended in workers.join() {
                if let Err(reason) = ended {
                    failure.set(format!("a worker ended: {reason}"));
                }
            }
            progress.end();
            marks.end();
            // The checkpointer's end ends the tables' threads.
            for join in std::iter::once(deciding).chain(joins) {
                if join.join().is_err() {
                    failure.set("a thread ended by an internal error".to_owned());
                }
            }
            let _ = end.send(true); // Nobody may be waiting.
        })?;

        // The recorder: replays, says how far it came, then records.
        let (replayed_sender, replayed) = oneshot::channel();
        let (go_sender, go) = oneshot::channel::<()>();
        spawn("recorder".to_owned(), move || {
            recording.run(|found| replayed_sender.send(found).is_ok() && go.blocking_recv().is_ok());
        })?;
        let ended = |_| JobError::Operator("the recorder ended by an internal error".to_owned());
        let replayed = replayed.await.map_err(ended)?.map_err(|error| job.replay_error(error))?;
        check_committed(&committed, &replayed)?;
        tracing::info!(
            behind,
            up_to = replayed.sealed.0,
            messages = replayed.messages,
            "the log is replayed behind {}",
            if has_checkpoint { "a checkpoint" } else { "its beginning" }
        );
        let _ = go_sender.send(()); // The recorder is waiting for it.
        unfinished.finished();
        Ok((job, replayed.resume))
    }

    /// Starts the workers and prepares what the other threads do. Blocking.
    pub(super) fn launch(self, options: &JobOptions, turns: Option<&Turns>) -> Result<Launched, JobError> {
        let Starting { job, recorder_parts, end, egress, checkpointer, context, ports, threads, .. } = self;
        let first = context.first;
        let (built_sender, built) = bounded(options.workers);
        let (plan, progress) = (Arc::clone(&job.plan), Arc::clone(&job.progress));
        let workers =
            worker::spawn(plan, context, ports, built_sender, threads, progress, turns).map_err(JobError::Plan)?;
        let mut wakes: BTreeMap<usize, _> = BTreeMap::new();
        while wakes.len() < options.workers {
            let Ok((worker, built)) = turns::recv(&built, None) else { break };
            wakes.insert(worker, built);
        }
        // After a failure the workers end by themselves; those of a simulation need their turns for that.
        while job.failure.is_set() && turns.is_some_and(|turns| turns.taken() > 1) {
            turns::pass();
        }
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
        let table_states = job.tables.iter().map(|table| Arc::clone(&table.state)).collect();
        let bridge = Bridge::new(lanes, Arc::clone(&job.progress), table_states, job.failure.clone(), first);
        let recorded =
            sources_of(&job.plan).map(|(id, node)| (id, job.recorded(id, node, self.restored.contains(&id)))).collect();
        let (clock, log_bytes) = (Arc::clone(&options.clock), Arc::clone(&job.log_bytes));
        let intervals = (options.epoch_interval, options.checkpoint_interval);
        let (marks, failure) = (Arc::clone(&job.marks), job.failure.clone());
        let positions = Arc::clone(&job.positions);
        let links = Links { marks, failure, log_bytes, positions };
        let mut recorder = Recorder::new(bridge, recorded, clock, intervals, links);
        if let Some(checkpoint) = &self.checkpoint {
            recorder.restore(checkpoint, self.notes);
        }
        let (requests, closer, recording) = (recorder_parts.requests, job.queue.closer(), recorder_parts.recording);
        let (replay, incarnation) = (self.replay, self.incarnation);
        let recording = Recording { recorder, replay, incarnation, requests, closer, recording };
        Ok(Launched { job, workers, egress, checkpointer, recording, end })
    }
}

/// A job whose dataflow runs, and whose other threads are prepared.
pub(super) struct Launched {
    pub(super) job: Job,
    pub(super) workers: Guards,
    pub(super) egress: Vec<Egress>,
    pub(super) checkpointer: Checkpointer,
    pub(super) recording: Recording,
    end: watch::Sender<bool>,
}

/// A start under way: if it is given up, by an error or by whoever waited for it, the threads that were started end.
struct Unfinished(Option<Failure>);

impl Unfinished {
    fn finished(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(failure) = self.0.take() {
            failure.set_environment("the start was given up".to_owned());
        }
    }
}

pub(super) fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>, JobError> {
    thread::Builder::new()
        .name(name.clone())
        .spawn(run)
        .map_err(|error| JobError::Environment(format!("cannot start thread {name}: {error}")))
}

/// Runs something that blocks without holding a task up.
pub(super) async fn wait_for<T: Send + 'static>(blocking: impl FnOnce() -> T + Send + 'static) -> Result<T, JobError> {
    tokio::task::spawn_blocking(blocking)
        .await
        .map_err(|error| JobError::Operator(format!("the start ended by an internal error: {error}")))
}
