//! How a job ends when a part of it fails, and what it makes of a log that a crash has left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arrow::array::RecordBatch;
use crossbeam_channel::Sender;
use parking_lot::Mutex;

mod decisions;
mod dedup;
mod notes;
mod order;

use super::buffer::RowBuffer;
use super::checkpointer::{Checkpointer, Table};
use super::egress::{BATCHES_QUEUED_MAX, Egress, ORDERS_QUEUED_MAX, TableState};
use super::marks::Marks;
use super::progress::Progress;
use super::{Job, JobError, JobOptions, LOG_FOLDER};
use crate::checkpoint::{CHECKPOINTS_KEPT, CheckpointError, Holds, Manifest, Store, TableState as TableDecision};
use crate::clock::{Clock, SeededDice, SystemClock};
use crate::dataflow::{Failure, LogPlace, TableRows};
use crate::decode::Place;
use crate::epoch::Epoch;
use crate::fence::Incarnation;
use crate::ingest::{Log, LogOptions, PartitionId, Record};
use crate::plan::{Operator, Plan, SourceNode};
use crate::sink::{Committable, Found, Sink, SinkError, SinkWriter};
use crate::source::{Chunk, Data, Intake, Message, Offset, Resume, Source, SourceError, Stop};
use crate::storage::{LocalStorage, MemoryStorage, SimulatedDisk, Storage};
use crate::testing::{Collected, CollectingSink, EventFormat, event_schema, event_source};

/// Far more than a job needs that does not hang.
const HANGS_AFTER: Duration = Duration::from_secs(60);

/// What a source does when it runs.
#[derive(Clone, Copy)]
enum Does {
    /// Waits for the stop.
    Nothing,
    /// Appends an event again and again.
    Sends,
    /// Ends at once, as an input that has been read.
    Ends,
    Panics,
}

#[async_trait::async_trait]
impl Source for Does {
    fn bounded(&self) -> bool {
        matches!(self, Does::Ends)
    }

    async fn run(&self, intake: Arc<dyn Intake>, _: Vec<Resume>, stop: Stop) -> Result<(), SourceError> {
        intake.set_connected(true);
        match self {
            Does::Nothing => stop.cancelled().await,
            Does::Ends => {}
            Does::Panics => panic!("as the test wants"),
            Does::Sends => {
                while !stop.is_cancelled() {
                    let _ = intake.append("", Chunk::Messages(vec![event(1)])).await?.await;
                }
            }
        }
        Ok(())
    }
}

/// What a table's thread does when it is to write.
enum Writes {
    Fails,
    Panics,
    Collects(CollectingSink),
}

impl Sink for Writes {
    fn name(&self) -> &str {
        "table"
    }

    fn found(&self) -> Found {
        Found::New
    }

    fn begin(&mut self, _: Epoch) -> Result<String, SinkError> {
        Ok("created".to_owned())
    }

    fn last_committed(&self) -> Epoch {
        Epoch::NONE
    }

    fn writer(&mut self, index: usize) -> Box<dyn SinkWriter> {
        match self {
            Writes::Fails => Box::new(FailingWriter::Fails),
            Writes::Panics => Box::new(FailingWriter::Panics),
            Writes::Collects(sink) => sink.writer(index),
        }
    }

    fn commit(&mut self, epoch: Epoch, committables: &[Committable]) -> Result<(), SinkError> {
        if let Writes::Collects(sink) = self { sink.commit(epoch, committables) } else { Ok(()) }
    }
}

/// The writer of a table that fails.
enum FailingWriter {
    Fails,
    Panics,
}

impl SinkWriter for FailingWriter {
    fn prepare(&mut self, _: Epoch, rows: &[(Epoch, RecordBatch)]) -> Result<Vec<Committable>, SinkError> {
        match self {
            _ if rows.is_empty() => Ok(Vec::new()),
            FailingWriter::Fails => {
                Err(SinkError::Refused { table: "table".to_owned(), problem: "no room".to_owned() })
            }
            FailingWriter::Panics => panic!("as the test wants"),
        }
    }
}

fn event(value: i64) -> Message {
    Message::new("", format!("a,{value},{value}"))
}

fn collecting() -> (Writes, Arc<Mutex<Vec<RecordBatch>>>) {
    let collected = Collected::default();
    let committed = Arc::clone(&collected.committed);
    (Writes::Collects(CollectingSink { name: "table".to_owned(), collected, last: Epoch::NONE }), committed)
}

fn rows(committed: &Mutex<Vec<RecordBatch>>) -> usize {
    committed.lock().iter().map(RecordBatch::num_rows).sum()
}

/// Starts a job of one source and one table on what is in the storage.
async fn start(storage: Arc<dyn Storage>, source: Does, sink: impl Sink) -> Result<Job, JobError> {
    let (plan, options) = one_table(storage, source);
    Job::start(plan, vec![Box::new(sink)], options).await
}

/// Starts the same with a time between checkpoints, and a way to write the log.
async fn start_with(
    storage: Arc<dyn Storage>,
    source: Does,
    sink: Box<dyn Sink>,
    checkpoint_interval: Duration,
    log: LogOptions,
) -> Result<Job, JobError> {
    let (plan, options) = one_table(storage, source);
    Job::start(plan, vec![sink], JobOptions { checkpoint_interval, log, ..options }).await
}

/// Returns the plan of one source and one table.
fn one_table(storage: Arc<dyn Storage>, source: impl Source) -> (Plan, JobOptions) {
    let mut plan = Plan::default();
    let input = plan.push(event_schema(), Operator::Source(SourceNode { source: Arc::new(source), ..event_source() }));
    plan.push(event_schema(), Operator::Table { input, name: "table".to_owned() });
    let options = JobOptions {
        storage,
        clock: Arc::new(SystemClock),
        dice: Arc::new(SeededDice::new(1)),
        workers: 2,
        checkpoint_interval: Duration::from_secs(1),
        commit_interval: Duration::from_millis(1),
        table_writers: 2,
        log: LogOptions::default(),
        live: BTreeMap::new(),
        epoch_interval: Duration::from_millis(1),
    };
    (plan, options)
}

/// Writes a log as a killed process leaves it: three events, and no Seal.
fn unsealed(ended: bool) -> Arc<dyn Storage> {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    let mut replay =
        Log::open(Arc::clone(&storage), LOG_FOLDER, &SeededDice::new(2), LogOptions::default()).expect("a new log");
    assert!(replay.next().expect("readable").is_none());
    let mut log = replay.finish().expect("writable");
    let partition = PartitionId(0);
    log.append(&Record::Open { partition, source: "events".to_owned(), name: String::new() });
    let messages = vec![event(1), event(2), event(3)];
    log.append(&Record::Messages { partition, arrival_us: 5, first: Offset(0), messages, notes: Vec::new() });
    if ended {
        log.append(&Record::End { partition });
    }
    log.sync().expect("durable");
    storage
}

async fn failure(source: Does, sink: Writes) -> String {
    let job = start(Arc::new(MemoryStorage::default()), source, sink).await.expect("starts");
    let ended = tokio::time::timeout(HANGS_AFTER, job.finished()).await.expect("a job that failed ends by itself");
    // A source that waits for a receipt is told that there will be none.
    let stopped = tokio::time::timeout(HANGS_AFTER, job.stop()).await.expect("and can be stopped");
    assert!(stopped.is_err());
    ended.expect_err("a failure is no end").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_cannot_be_written_ends_the_job() {
    assert_eq!(failure(Does::Sends, Writes::Fails).await, "table table: no room");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_the_job_by_its_name_and_the_next_job_goes_on_when_there_is_space() {
    let disk = SimulatedDisk::new(7);
    let storage =
        || -> Arc<dyn Storage> { Arc::new(LocalStorage::on(Arc::new(disk.clone()), "data").expect("a folder")) };
    disk.set_capacity(Some(200_000));
    for _ in 0..3 {
        let (sink, committed) = collecting();
        let job = match start(storage(), Does::Sends, sink).await {
            Ok(job) => job,
            // So full that the next job does not come far.
            Err(error) => {
                assert!(error.is_disk_full(), "{error}");
                continue;
            }
        };
        let ended = tokio::time::timeout(HANGS_AFTER, job.finished()).await.expect("it ends by itself");
        let error = ended.expect_err("there is no room");
        assert!(error.is_disk_failure() && error.is_disk_full(), "{error}");
        assert!(job.stop().await.expect_err("the same").is_disk_full());
        assert_eq!(Arc::strong_count(&committed), 1, "all its threads have ended, and its table is closed");
    }
    disk.set_capacity(None);
    let (sink, _) = collecting();
    start(storage(), Does::Nothing, sink).await.expect("starts").stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_settles_commits_what_the_log_has_and_runs_no_source() {
    let storage = unsealed(false);
    let (sink, committed) = collecting();
    let (plan, options) = one_table(Arc::clone(&storage), Does::Panics);
    Job::settle(plan, vec![Box::new(sink)], options).await.expect("settles");
    assert_eq!(rows(&committed), 3);
    let store = Store::new(storage);
    let newest = *store.numbers().expect("readable").last().expect("a manifest");
    assert!(store.read(newest).expect("whole").checkpoint().is_some(), "its checkpoint is the last one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_table_ends_the_job() {
    let said = failure(Does::Sends, Writes::Panics).await;
    assert!(said.contains("internal error"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_source_ends_the_job() {
    let said = failure(Does::Panics, collecting().0).await;
    assert!(said.contains("source events"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_unsealed_is_committed_without_further_input() {
    let (sink, committed) = collecting();
    let job = start(unsealed(false), Does::Nothing, sink).await.expect("starts");
    let all = async {
        while rows(&committed) < 3 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(HANGS_AFTER, all).await.expect("committed without a stop and without input");
    job.stop().await.expect("stops");
    assert_eq!(rows(&committed), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_unsealed_is_committed_by_a_stop() {
    let (sink, committed) = collecting();
    start(unsealed(false), Does::Nothing, sink).await.expect("starts").stop().await.expect("stops");
    assert_eq!(rows(&committed), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_whose_end_was_not_sealed_is_committed_by_the_next_run() {
    let (sink, committed) = collecting();
    let job = start(unsealed(true), Does::Ends, sink).await.expect("starts");
    tokio::time::timeout(HANGS_AFTER, job.finished()).await.expect("ends").expect("well");
    assert_eq!(rows(&committed), 3);
}

/// A process that was written off, and is not dead yet.
fn zombie(decides: Vec<Committable>) -> Manifest {
    let table = TableDecision { pending: decides, ..TableDecision::default() };
    Manifest {
        version: Manifest::VERSION,
        number: 1,
        incarnation: 1,
        parent: None,
        log_id: String::new(),
        made_us: 0,
        epoch: Epoch(1),
        holds: Holds::Refers(0),
        tables: BTreeMap::from([("table".to_owned(), table)]),
        rewound_to: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_written_off_decides_nothing_behind_its_successor() {
    let storage = unsealed(false);
    Incarnation::claim(&storage, &SystemClock).expect("the first");
    let job = start(Arc::clone(&storage), Does::Nothing, collecting().0).await.expect("starts");
    let error = Store::new(storage).write(zombie(Vec::new())).expect_err("its number is taken");
    assert!(matches!(error, CheckpointError::Overtaken { .. }), "{error}");
    job.stop().await.expect("stops");
}

/// A table during whose beginning a process that was written off decides a commit.
struct Haunted {
    table: CollectingSink,
    storage: Arc<dyn Storage>,
}

impl Sink for Haunted {
    fn name(&self) -> &str {
        &self.table.name
    }

    fn found(&self) -> Found {
        Found::Same { base: Epoch::NONE, committed: Epoch::NONE }
    }

    fn begin(&mut self, base: Epoch) -> Result<String, SinkError> {
        let committable = Committable { version: 0, body: String::new(), summary: String::new() };
        Store::new(Arc::clone(&self.storage)).write(zombie(vec![committable])).expect("the number is free");
        self.table.begin(base)
    }

    fn last_committed(&self) -> Epoch {
        self.table.last_committed()
    }

    fn writer(&mut self, index: usize) -> Box<dyn SinkWriter> {
        self.table.writer(index)
    }

    fn commit(&mut self, epoch: Epoch, committables: &[Committable]) -> Result<(), SinkError> {
        self.table.commit(epoch, committables)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_at_the_last_moment_is_rolled_forward_and_not_committed_twice() {
    let storage = unsealed(false);
    let mut replay =
        Log::open(Arc::clone(&storage), LOG_FOLDER, &SeededDice::new(2), LogOptions::default()).expect("a log");
    while replay.next().expect("readable").is_some() {}
    let mut log = replay.finish().expect("writable");
    log.append(&Record::Seal { epoch: Epoch(1), now_us: 6, checkpoint: false });
    log.sync().expect("durable");
    Incarnation::claim(&storage, &SystemClock).expect("the first");
    let collected = Collected::default();
    let committed = Arc::clone(&collected.committed);
    let table = CollectingSink { name: "table".to_owned(), collected, last: Epoch::NONE };
    let sink = Haunted { table, storage: Arc::clone(&storage) };
    let job = start(storage, Does::Nothing, sink).await.expect("starts");
    assert_eq!(job.status().tables[0].committed, Epoch(1), "its files hold these rows");
    job.stop().await.expect("stops");
    assert_eq!(rows(&committed), 0, "the rows of epoch 1 come from its files only");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_nobody_waits_for_ends_without_replaying_everything() {
    let storage = unsealed(false);
    let mut replay =
        Log::open(Arc::clone(&storage), LOG_FOLDER, &SeededDice::new(2), LogOptions::default()).expect("a log");
    while replay.next().expect("readable").is_some() {}
    let mut log = replay.finish().expect("writable");
    const EPOCHS: u64 = 50_000;
    for epoch in 1..=EPOCHS {
        log.append(&Record::Seal { epoch: Epoch(epoch), now_us: 6, checkpoint: false });
        let messages = vec![event(1)];
        let first = Offset(epoch + 2);
        log.append(&Record::Messages { partition: PartitionId(0), arrival_us: 6, first, messages, notes: Vec::new() });
    }
    log.sync().expect("durable");
    let (sink, committed) = collecting();
    let start = start(storage, Does::Nothing, sink);
    tokio::time::timeout(Duration::from_millis(100), start).await.err().expect("the replay takes longer");
    let ended = async {
        while Arc::strong_count(&committed) > 1 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(HANGS_AFTER, ended).await.expect("all threads end");
    assert!(rows(&committed) < EPOCHS as usize / 2, "{}", rows(&committed));
}

/// Threads; the way to the table; how far the dataflow is; what the recorder marks.
type Deciding = (Vec<JoinHandle<()>>, Sender<TableRows>, Arc<Progress>, Arc<Marks>);

/// The threads of a table and the checkpointer, without a dataflow: what they are given, and what says how far it is.
fn deciding(sink: Writes) -> Deciding {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    let (clock, failure): (Arc<dyn Clock>, _) = (Arc::new(SystemClock), Failure::new(|| {}));
    let (progress, marks) = (Arc::new(Progress::default()), Arc::new(Marks::default()));
    let incarnation = Incarnation::claim(&storage, &*clock).expect("claims");
    let state = Arc::new(TableState::new(Epoch::NONE, 1));
    let (rows_sender, rows) = crossbeam_channel::bounded(BATCHES_QUEUED_MAX);
    let (orders_sender, orders) = crossbeam_channel::bounded(ORDERS_QUEUED_MAX);
    let mut sink: Box<dyn Sink> = Box::new(sink);
    let egress = Egress {
        name: "table".to_owned(),
        index: 0,
        writer: sink.writer(0),
        sink: Some(sink),
        buffer: RowBuffer::default(),
        rows,
        orders,
        live: tokio::sync::broadcast::channel(1).0,
        state: Arc::clone(&state),
        marks: Arc::clone(&marks),
        failure: failure.clone(),
        clock: Arc::clone(&clock),
    };
    let table = Table {
        name: "table".to_owned(),
        schema: event_schema(),
        state,
        orders: vec![orders_sender],
        base: Epoch::NONE,
        generation: 0,
        committed: Epoch::NONE,
        saved: Vec::new(),
        saved_up_to: Epoch::NONE,
        commit_interval: Duration::from_millis(1),
    };
    let checkpointer = Checkpointer {
        store: Store::new(Arc::clone(&storage)),
        storage: Arc::clone(&storage),
        clock: Arc::clone(&clock),
        progress: Arc::clone(&progress),
        marks: Arc::clone(&marks),
        snapshots: Arc::default(),
        failure,
        workers: 1,
        incarnation,
        log_id: String::new(),
        next_number: 1,
        parent: None,
        base: 0,
        decided_only: None,
        tables: vec![table],
        windows: BTreeMap::new(),
        dedups: BTreeMap::new(),
        sources: BTreeMap::new(),
        notes: BTreeMap::new(),
        log_removed_bytes: Arc::default(),
        status: Arc::default(),
    };
    let threads = vec![std::thread::spawn(move || egress.run()), std::thread::spawn(move || checkpointer.run())];
    (threads, rows_sender, progress, marks)
}

fn batch() -> RecordBatch {
    use crate::decode::Format;
    EventFormat.decoder().decode(&Data::Messages(vec![event(1)]), &Place::default()).batches.remove(0)
}

#[test]
fn a_table_commits_nothing_that_the_log_might_lose() {
    let (sink, committed) = collecting();
    let (running, sender, progress, marks) = deciding(sink);
    for epoch in [1, 2] {
        sender.send((Epoch(epoch), LogPlace::default(), batch())).expect("taken");
        progress.seal(Epoch(epoch));
    }
    progress.durable(Epoch(1));
    progress.complete(Some(Epoch(3)));
    drop(sender);
    progress.end();
    marks.end();
    running.into_iter().for_each(|thread| thread.join().expect("ends"));
    assert_eq!(rows(&committed), 1, "epoch 2 is complete, and perhaps in memory only");
}

#[test]
fn a_table_commits_while_the_dataflow_is_faster_than_its_thread() {
    let (sink, committed) = collecting();
    let (running, sender, progress, marks) = deciding(sink);
    progress.durable(Epoch(u64::MAX));
    let faster: Vec<_> = (0..2)
        .map(|_| {
            let (sender, committed, progress) = (sender.clone(), Arc::clone(&committed), Arc::clone(&progress));
            std::thread::spawn(move || {
                let batch = batch();
                // Until something is committed the channel is never empty.
                for sent in 0..5_000_000_u64 {
                    if sent > 100 && rows(&committed) > 0 {
                        return true;
                    }
                    sender.send((Epoch(1), LogPlace::default(), batch.clone())).expect("taken");
                    if sent == 100 {
                        progress.seal(Epoch(1));
                        progress.complete(Some(Epoch(2)));
                    }
                }
                false
            })
        })
        .collect();
    drop(sender);
    assert!(faster.into_iter().all(|sender| sender.join().expect("sends")), "no commit while rows kept coming");
    progress.end();
    marks.end();
    running.into_iter().for_each(|thread| thread.join().expect("ends"));
}
