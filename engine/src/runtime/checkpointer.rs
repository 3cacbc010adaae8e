//! The checkpointer: the thread that decides. It gathers what operators and tables hand over, writes the manifest, and lets
//! the tables commit. The steps, and what a crash after each means, are drawn in [`checkpoint`](crate::checkpoint).
//!
//! ```text
//!   marked epoch complete ─┐                          ┌─► packs ─┐
//!                          ├─► prepare on all tables ─┤          ├─► manifest ─► commit on all tables ─► remove what is old
//!   rows wait long enough ─┘   (those that are due)   └──────────┘
//! ```

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt64Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use arrow::error::ArrowError;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::egress::{Order, Prepared, TableState};
use super::kept::{Dedup, Window};
use super::marks::{Marked, Marks, Next};
use super::progress::Progress;
use super::turns;
use super::{CheckpointStatus, JobError, LOG_FOLDER};
use crate::checkpoint::{
    BufferState, Checkpoint, CheckpointError, DedupSaved, Holds, Manifest, PackWriter, Part, SourceState, Store,
    TableState as TableDecision, WindowSaved, leave_sparse_packs,
};
use crate::clock::Clock;
use crate::dataflow::{Failure, Snapshot, Snapshots};
use crate::epoch::Epoch;
use crate::fence::{Fenced, Incarnation};
use crate::ingest;
use crate::key::KeyGroups;
use crate::plan::NodeId;
use crate::seeded_bugs::{SeededBug, is_planted};
use crate::sink::{Committable, SinkError};
use crate::storage::Storage;

/// How long a commit that has to wait for its epoch waits before it looks again.
const EPOCH_CHECK: Duration = Duration::from_millis(10);

/// How often a waiting checkpointer looks whether the job has failed.
const FAILURE_CHECK: Duration = Duration::from_millis(100);

/// The column that tells the epoch of a row that is in no file.
const EPOCH_COLUMN: &str = "tidemill$epoch";

/// Tables are cleaned after this many checkpoints, and at the start.
const CHECKPOINTS_BETWEEN_CLEANS: u64 = 64;

/// Why the checkpointer ended before its time.
pub(super) enum Ended {
    /// The job has failed elsewhere.
    Failed,
    Sink(SinkError),
    Checkpoint(CheckpointError),
    Log(ingest::LogError),
    Fenced(Fenced),
}

impl From<CheckpointError> for Ended {
    fn from(error: CheckpointError) -> Self {
        Ended::Checkpoint(error)
    }
}

impl From<SinkError> for Ended {
    fn from(error: SinkError) -> Self {
        Ended::Sink(error)
    }
}

/// A table as the checkpointer knows it.
pub(super) struct Table {
    pub(super) name: String,
    pub(super) schema: SchemaRef,
    pub(super) state: Arc<TableState>,
    /// One for each writer; the first has the table.
    pub(super) orders: Vec<Sender<Order>>,
    /// How long its rows wait at most for a commit.
    pub(super) commit_interval: Duration,
    pub(super) base: Epoch,
    pub(super) generation: u64,
    pub(super) committed: Epoch,
    /// Parts with rows that are in no file, and the epoch up to which they have them all.
    pub(super) saved: Vec<BufferState>,
    pub(super) saved_up_to: Epoch,
}

/// A source as the checkpointer knows it.
pub(super) struct SourceKept {
    pub(super) key: String,
    /// What it had counted when the job started.
    pub(super) before: SourceState,
}

/// See the module.
pub(super) struct Checkpointer {
    pub(super) store: Store,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) progress: Arc<Progress>,
    pub(super) marks: Arc<Marks>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) failure: Failure,
    pub(super) workers: usize,
    pub(super) incarnation: Incarnation,
    pub(super) log_id: String,
    pub(super) next_number: u64,
    /// The last manifest, and the one whose checkpoint a replay would start from.
    pub(super) parent: Option<u64>,
    pub(super) base: u64,
    /// The last manifest, if it only decided commits: the one after it makes it needless.
    pub(super) decided_only: Option<u64>,
    pub(super) tables: Vec<Table>,
    pub(super) windows: BTreeMap<NodeId, Window>,
    pub(super) dedups: BTreeMap<NodeId, Dedup>,
    pub(super) sources: BTreeMap<NodeId, SourceKept>,
    /// By a partition's place, where the newest checkpoint has its notes.
    pub(super) notes: BTreeMap<usize, Part>,
    pub(super) log_removed_bytes: Arc<AtomicU64>,
    pub(super) status: Arc<parking_lot::Mutex<CheckpointStatus>>,
}

impl Checkpointer {
    /// Runs until the dataflow has ended and everything is committed, or until the job fails.
    pub(super) fn run(mut self) {
        let failure = self.failure.clone();
        match catch_unwind(AssertUnwindSafe(|| self.serve())) {
            Ok(Ok(()) | Err(Ended::Failed)) => {}
            Ok(Err(Ended::Sink(error))) => JobError::from(error).end(&failure),
            Ok(Err(Ended::Checkpoint(error))) => JobError::from(error).end(&failure),
            Ok(Err(Ended::Log(error))) => JobError::from(error).end(&failure),
            Ok(Err(Ended::Fenced(error))) => JobError::from(error).end(&failure),
            Err(_) => failure.set("the checkpointer ended by an internal error".to_owned()),
        }
        self.marks.done();
    }

    fn serve(&mut self) -> Result<(), Ended> {
        self.store.sweep(self.incarnation.number())?;
        self.clean()?;
        loop {
            match self.marks.next(self.due_in()) {
                Next::Marked(marked) => {
                    let begun_us = self.clock.monotonic_us();
                    self.wait_for(marked.epoch)?;
                    self.decide(marked.epoch, Some(marked), self.marks.is_stopping())?;
                    self.status.lock().duration_us = self.clock.monotonic_us() - begun_us;
                    self.marks.done();
                }
                Next::Look => {
                    let epoch = self.progress.committable();
                    let is_due = self.tables.iter().any(|table| self.is_due(table));
                    if is_due && self.tables.iter().any(|table| table.committed < epoch && self.is_due(table)) {
                        self.decide(epoch, None, false)?;
                    }
                    if is_due && self.tables.iter().any(|table| self.is_due(table)) {
                        // What is due still belongs to an epoch that is not complete.
                        self.progress.wait_committable(epoch.next(), EPOCH_CHECK);
                    }
                }
                Next::Ended => {
                    if self.failure.is_set() {
                        return Err(Ended::Failed);
                    }
                    return self.decide(self.progress.committable(), None, true);
                }
            }
        }
    }

    /// Returns how long until the next commit is due; `None` if no rows wait.
    fn due_in(&self) -> Option<Duration> {
        let due_us = self.tables.iter().filter_map(|table| {
            let since_us = table.state.waiting_since_us()?;
            Some(since_us.saturating_add(crate::time::micros(table.commit_interval)))
        });
        let due_us = due_us.min()?;
        let left_us = due_us.saturating_sub(self.clock.monotonic_us());
        Some(Duration::from_micros(left_us.try_into().unwrap_or(0)))
    }

    fn is_due(&self, table: &Table) -> bool {
        let interval_us = crate::time::micros(table.commit_interval);
        let waited = |since_us: i64| self.clock.monotonic_us().saturating_sub(since_us) >= interval_us;
        table.state.is_full() || table.state.waiting_since_us().is_some_and(waited)
    }

    /// Waits until an epoch is complete, and durable in the log.
    fn wait_for(&self, epoch: Epoch) -> Result<(), Ended> {
        loop {
            // In this order: what is complete when the dataflow has ended was complete before.
            let has_ended = self.progress.has_ended();
            if self.progress.wait_committable(epoch, FAILURE_CHECK) {
                return Ok(());
            }
            if has_ended || self.failure.is_set() {
                self.failure.set(format!("the dataflow ended before epoch {epoch} was complete"));
                return Err(Ended::Failed);
            }
        }
    }

    /// Decides an epoch that is complete, and durable in the log: a checkpoint if it was marked, and the commit of all
    /// tables that are due.
    pub(super) fn decide(&mut self, epoch: Epoch, marked: Option<Marked>, are_all_due: bool) -> Result<(), Ended> {
        let is_early = |table: &Table| marked.is_some() && table.state.is_worth_a_file();
        let due: Vec<bool> =
            self.tables.iter().map(|table| are_all_due || self.is_due(table) || is_early(table)).collect();
        let asked: Vec<Option<Receiver<Result<Prepared, SinkError>>>> = self
            .tables
            .iter()
            .zip(&due)
            .map(|(table, is_due)| {
                table.state.decides(*is_due);
                (*is_due || marked.is_some()).then(|| table.ask(epoch, *is_due))
            })
            .collect();
        let mut packs_status = None;
        let store = self.store.clone();
        let mut checkpoint = match &marked {
            None => None,
            Some(marked) => {
                let mut packs = store.packs(epoch, self.incarnation.number());
                // Tables prepare meanwhile.
                let checkpoint = self.state(marked, &mut packs)?;
                // Rows are named until the next commit, by every checkpoint; panes mostly by one.
                packs.next_pack()?;
                Some((checkpoint, packs))
            }
        };
        let mut pending: BTreeMap<String, Vec<Committable>> = BTreeMap::new();
        for ((table, answers), is_due) in self.tables.iter_mut().zip(asked).zip(due.iter().copied()) {
            let Some(answers) = answers else { continue };
            let prepared = table.gather(answers, &self.failure)?;
            if is_due {
                table.saved.clear();
            }
            if let Some((_, packs)) = &mut checkpoint {
                table.save(&prepared.waiting, epoch, packs)?;
            }
            if !prepared.committables.is_empty() {
                pending.insert(table.name.clone(), prepared.committables);
            }
        }
        // An operator that failed has set this before any epoch without its rows could look complete.
        if self.failure.is_set() {
            return Err(Ended::Failed);
        }
        let holds = match checkpoint {
            None if pending.is_empty() => {
                self.decided(epoch, &due);
                return Ok(());
            }
            None => Holds::Refers(self.base),
            Some((mut checkpoint, packs)) => {
                let saved = self.tables.iter().filter(|table| !table.saved.is_empty());
                checkpoint.buffers = saved.map(|table| (table.name.clone(), table.saved.clone())).collect();
                packs_status = Some(packs.finish()?);
                Holds::Checkpoint(Box::new(checkpoint))
            }
        };
        if is_planted(SeededBug::CommitBeforeDecision) {
            self.commit(epoch, pending.clone())?;
        }
        if packs_status.is_some() && is_planted(SeededBug::LogShrunkEarly) {
            ingest::shrink(&*self.storage, LOG_FOLDER, epoch.next()).map_err(Ended::Log)?;
        }
        self.write(epoch, holds, &pending)?;
        self.commit(epoch, pending)?;
        self.decided(epoch, &due);
        let decided_only = (packs_status.is_none()).then_some(self.next_number - 1);
        if let Some(needless) = std::mem::replace(&mut self.decided_only, decided_only) {
            self.store.forget(needless).map_err(CheckpointError::from)?;
        }
        if let Some(bytes) = packs_status {
            self.remove_what_is_old(epoch, bytes)?;
        }
        Ok(())
    }

    /// Says that tables which were due have committed all they had up to an epoch.
    fn decided(&self, epoch: Epoch, due: &[bool]) {
        let due_tables = self.tables.iter().zip(due).filter(|(_, is_due)| **is_due);
        due_tables.for_each(|(table, _)| table.state.decided(epoch));
    }

    fn write(&mut self, epoch: Epoch, holds: Holds, pending: &BTreeMap<String, Vec<Committable>>) -> Result<(), Ended> {
        let decision = |table: &Table| TableDecision {
            base: table.base,
            committed: table.committed,
            pending: pending.get(&table.name).cloned().unwrap_or_default(),
            generation: Some(table.generation),
        };
        // Who was replaced decides nothing more. What slips through does no harm: its input was durable before the other
        // process began, so that one computes and commits the same.
        self.incarnation.check().map_err(Ended::Fenced)?;
        let manifest = self.store.write(Manifest {
            version: Manifest::VERSION,
            number: self.next_number,
            incarnation: self.incarnation.number(),
            parent: self.parent,
            log_id: self.log_id.clone(),
            made_us: self.clock.now_us(),
            epoch,
            holds,
            tables: self.tables.iter().map(|table| (table.name.clone(), decision(table))).collect(),
            rewound_to: None,
        })?;
        self.base = manifest.base();
        self.parent = Some(manifest.number);
        self.next_number = manifest.number + 1;
        Ok(())
    }

    /// Phase two. From here on there is no way back: what fails now is rolled forward by the next start.
    fn commit(&mut self, epoch: Epoch, mut pending: BTreeMap<String, Vec<Committable>>) -> Result<(), Ended> {
        let mut asked = Vec::new();
        for (at, table) in self.tables.iter().enumerate() {
            if let Some(committables) = pending.remove(&table.name) {
                let (answer, answers) = bounded(1);
                let _ = table.orders[0].send(Order::Commit { epoch, committables, answer });
                asked.push((at, answers));
            }
        }
        for (at, answers) in asked {
            let table = &mut self.tables[at];
            table.committed = answer_of(&answers, &self.failure)??;
            table.state.committed.store(table.committed.0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Returns the state of the job at the end of a marked epoch; new parts go into packs.
    fn state(&mut self, marked: &Marked, packs: &mut PackWriter<'_>) -> Result<Checkpoint, Ended> {
        let mut sources: BTreeMap<NodeId, SourceState> =
            self.sources.iter().map(|(id, kept)| (*id, kept.before.clone())).collect();
        for (id, (messages, bytes)) in &marked.received {
            if let Some(source) = sources.get_mut(id) {
                (source.messages, source.bytes) = (*messages, *bytes);
            }
        }
        let mut windows: BTreeMap<NodeId, WindowSaved> =
            self.windows.iter().map(|(id, window)| (*id, window.begin())).collect();
        let mut dedups: BTreeMap<NodeId, DedupSaved> =
            self.dedups.iter().map(|(id, dedup)| (*id, dedup.begin())).collect();
        let mut remembered = Vec::new();
        for snapshot in self.snapshots.take(marked.epoch) {
            match snapshot {
                Snapshot::Source { id, counts } => {
                    let source = sources.get_mut(&id).expect("a source of the plan");
                    source.rows += counts.rows;
                    source.dead += counts.dead;
                    source.quarantined += counts.quarantined;
                    source.nulled += counts.nulled;
                    source.dropped_attributes += counts.dropped_attributes;
                }
                Snapshot::Fold { id, fold } => {
                    sources.get_mut(&id).expect("a source of the plan").fold = Some(fold);
                }
                Snapshot::Window { id, worker, snapshot } => {
                    let kept = self.windows.get_mut(&id).expect("a window of the plan");
                    let saved = windows.get_mut(&id).expect("a window of the plan");
                    saved.watermark = snapshot.watermark;
                    saved.rows += snapshot.rows;
                    saved.late += snapshot.late;
                    saved.results += snapshot.results;
                    let groups = KeyGroups::of_worker(worker, self.workers);
                    kept.save(worker, groups, snapshot.panes, packs)?;
                }
                Snapshot::Dedup { id, worker, snapshot } => {
                    let saved = dedups.get_mut(&id).expect("a deduplication of the plan");
                    saved.watermark = snapshot.watermark;
                    saved.taken += snapshot.taken;
                    saved.repeats += snapshot.repeats;
                    saved.late += snapshot.late;
                    remembered.push((id, worker, snapshot.stretches));
                }
            }
        }
        // Keys are named for as long as they are remembered.
        packs.next_pack()?;
        for (id, worker, stretches) in remembered {
            let groups = KeyGroups::of_worker(worker, self.workers);
            self.dedups.get_mut(&id).expect("a deduplication of the plan").save(worker, groups, stretches, packs)?;
        }
        packs.next_pack()?;
        for (place, rows) in &marked.notes {
            match rows.num_rows() {
                0 => drop(self.notes.remove(place)),
                _ => drop(self.notes.insert(*place, packs.add(rows)?)),
            }
        }
        self.leave_sparse_packs(packs)?;
        for (id, window) in &self.windows {
            windows.get_mut(id).expect("made above").panes = window.saved.all();
        }
        for (id, dedup) in &self.dedups {
            dedups.get_mut(id).expect("made above").stretches = dedup.saved.all();
        }
        let mut partitions = marked.partitions.clone();
        for (place, part) in &self.notes {
            partitions[*place].notes = Some(part.clone());
        }
        let keyed = |id: &NodeId| self.windows[id].key.clone();
        Ok(Checkpoint {
            epoch: marked.epoch,
            sealed_us: marked.sealed_us,
            next_offset: marked.next_offset,
            partitions,
            sources: sources.into_iter().map(|(id, state)| (self.sources[&id].key.clone(), state)).collect(),
            windows: windows.into_iter().map(|(id, saved)| (keyed(&id), saved)).collect(),
            dedups: dedups.into_iter().map(|(id, saved)| (self.dedups[&id].key.clone(), saved)).collect(),
            buffers: BTreeMap::new(),
        })
    }

    /// Moves what has not changed out of packs that are mostly garbage. Not rows of tables: they are named only until the
    /// next commit.
    fn leave_sparse_packs(&mut self, packs: &mut PackWriter<'_>) -> Result<(), CheckpointError> {
        let panes = self.windows.values().flat_map(|window| window.saved.parts());
        let keys = self.dedups.values().flat_map(|dedup| dedup.saved.parts());
        let named = panes.chain(keys).chain(self.notes.values());
        let moved = leave_sparse_packs(&self.store, named, packs)?;
        if moved.is_empty() {
            return Ok(());
        }
        let panes = self.windows.values_mut().flat_map(|window| window.saved.parts_mut());
        let keys = self.dedups.values_mut().flat_map(|dedup| dedup.saved.parts_mut());
        for part in panes.chain(keys).chain(self.notes.values_mut()) {
            if let Some(there) = moved.get(part) {
                part.clone_from(there);
            }
        }
        Ok(())
    }

    /// Removes older checkpoints, and the log that no kept one needs.
    fn remove_what_is_old(&mut self, epoch: Epoch, bytes: u64) -> Result<(), Ended> {
        let collected = self.store.collect(self.incarnation.number())?;
        if let Some(oldest) = collected.oldest {
            let shrunk = ingest::shrink(&*self.storage, LOG_FOLDER, oldest.next()).map_err(Ended::Log)?;
            self.log_removed_bytes.fetch_add(shrunk.bytes, Ordering::Relaxed);
        }
        let count = {
            let mut status = self.status.lock();
            status.epoch = epoch;
            status.bytes = bytes;
            status.made_us = self.clock.now_us();
            status.count += 1;
            status.count
        };
        if count.is_multiple_of(CHECKPOINTS_BETWEEN_CLEANS) { self.clean() } else { Ok(()) }
    }

    fn clean(&self) -> Result<(), Ended> {
        for table in &self.tables {
            let (answer, answers) = bounded(1);
            let _ = table.orders[0].send(Order::Clean { answer });
            answer_of(&answers, &self.failure)??;
        }
        Ok(())
    }
}

impl Table {
    /// Orders phase one; the answers of all writers come on one channel.
    fn ask(&self, epoch: Epoch, is_due: bool) -> Receiver<Result<Prepared, SinkError>> {
        let (answer, answers) = bounded(self.orders.len());
        for orders in &self.orders {
            // A thread that has ended answers nothing, which is found when the answer is waited for.
            let _ = orders.send(Order::Prepare { epoch, is_due, answer: answer.clone() });
        }
        answers
    }

    fn gather(&self, answers: Receiver<Result<Prepared, SinkError>>, failure: &Failure) -> Result<Prepared, Ended> {
        let mut all = Prepared::default();
        for _ in &self.orders {
            let mut prepared = answer_of(&answers, failure)??;
            all.committables.append(&mut prepared.committables);
            all.waiting.append(&mut prepared.waiting);
        }
        Ok(all)
    }

    /// Saves the rows that no file and no earlier part has.
    fn save(
        &mut self,
        waiting: &[(Epoch, RecordBatch)],
        epoch: Epoch,
        packs: &mut PackWriter<'_>,
    ) -> Result<(), Ended> {
        let new: Vec<&(Epoch, RecordBatch)> = waiting.iter().filter(|(of, _)| *of > self.saved_up_to).collect();
        self.saved_up_to = epoch;
        if new.is_empty() {
            return Ok(());
        }
        let rows = with_epochs(&self.schema, &new).map_err(CheckpointError::from)?;
        self.saved.push(BufferState { epoch, part: packs.add(&rows)? });
        Ok(())
    }
}

/// Waits for an answer of a table's thread.
fn answer_of<T>(answers: &Receiver<T>, failure: &Failure) -> Result<T, Ended> {
    loop {
        match turns::recv(answers, Some(FAILURE_CHECK)) {
            Ok(answer) => return Ok(answer),
            Err(crossbeam_channel::RecvTimeoutError::Timeout) if !failure.is_set() => {}
            // A thread that ended has said why.
            Err(_) => return Err(Ended::Failed),
        }
    }
}

/// Joins rows to one batch, with the epoch of each beside them.
fn with_epochs(schema: &SchemaRef, rows: &[&(Epoch, RecordBatch)]) -> Result<RecordBatch, ArrowError> {
    let joined = concat_batches(schema, rows.iter().map(|(_, rows)| rows))?;
    let epochs = rows.iter().flat_map(|(epoch, rows)| std::iter::repeat_n(epoch.0, rows.num_rows()));
    let epochs: ArrayRef = Arc::new(UInt64Array::from_iter_values(epochs));
    let mut fields: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.push(Field::new(EPOCH_COLUMN, DataType::UInt64, false));
    let columns = joined.columns().iter().cloned().chain([epochs]).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

/// Takes rows apart again that were joined by [`with_epochs`].
pub(super) fn by_epoch(schema: &SchemaRef, rows: &RecordBatch) -> Result<Vec<(Epoch, RecordBatch)>, ArrowError> {
    let count = rows.num_columns().saturating_sub(1);
    let epochs = rows.column_by_name(EPOCH_COLUMN).and_then(|column| column.as_primitive_opt::<UInt64Type>());
    let epochs = epochs.ok_or_else(|| ArrowError::SchemaError("saved rows have no epochs".to_owned()))?;
    let plain = RecordBatch::try_new(Arc::clone(schema), rows.columns()[..count].to_vec())?;
    let (mut parts, mut start) = (Vec::new(), 0);
    for end in 1..=plain.num_rows() {
        if end == plain.num_rows() || epochs.value(end) != epochs.value(start) {
            parts.push((Epoch(epochs.value(start)), plain.slice(start, end - start)));
            start = end;
        }
    }
    Ok(parts)
}
