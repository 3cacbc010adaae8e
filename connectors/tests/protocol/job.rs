//! A job in short: the order of steps of the engine's own checkpointer, recorder and restart, without their threads, over
//! the real log, fence, manifests, packs and tables.
//!
//! Its two tables are in `table.rs`: what a checkpoint holds is needed for both, the sum, and the rows that no file has.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tidemill_engine::checkpoint::{
    BufferState, Checkpoint, Holds, Manifest, PackWriter, PaneState, PartitionState, Store, TableState, WindowSaved,
};
use tidemill_engine::epoch::Epoch;
use tidemill_engine::fence::Incarnation;
use tidemill_engine::ingest::{LogWriter, PartitionId, Record, shrink};
use tidemill_engine::key::KeyGroups;
use tidemill_engine::sink::Committable;
use tidemill_engine::source::{Message, Offset};
use tidemill_engine::storage::Storage;
use tidemill_engine::time::Watermark;

use super::ablation::Ablation;
use super::judge::{Content, Row};
use super::machine::Process;
use super::start::{LOG, Recovered, finish_restore, recover, restore};
use super::table::{Outcome, TABLES, Table, WRITERS, batch, rows_of_epoch, with_epochs, words};

/// The id of the job.
pub(crate) const JOB: &str = "job";
/// The key of the state that the sums need.
pub(crate) const SUM: &str = "sum";
/// Rounds of a process that nothing happens to.
const ROUNDS: u32 = 5;

/// What the operators and the recorder know at the end of an epoch.
#[derive(Clone)]
struct AtEnd {
    total: i64,
    next_offset: u64,
    partitions: Vec<PartitionState>,
    is_marked: bool,
}

/// See the module.
pub(crate) struct Job {
    process: Process,
    random: SmallRng,
    ablation: Option<Ablation>,
    storage: Arc<dyn Storage>,
    store: Store,
    incarnation: Incarnation,
    log_id: String,
    tables: Vec<Table>,
    next_number: u64,
    parent: Option<u64>,
    base: u64,
    /// Where the sum was saved last, and which it was.
    saved_sum: Option<(i64, PaneState)>,
    /// Epochs that are closed and not older than the last decision.
    closed: BTreeMap<u64, AtEnd>,
    /// The last epoch that was decided.
    decided: Epoch,
    partitions: Vec<PartitionState>,
    total: i64,
    open: Epoch,
    next_offset: u64,
    /// Messages of the open epoch.
    messages: Vec<Row>,
}

/// Runs a process: recovery, perhaps going back, some input, checkpoints and commits.
pub(crate) fn run(process: &Process, storage: Arc<dyn Storage>, ablation: Option<Ablation>, restores: bool) -> Outcome {
    let mut recovered = recover(process, &storage)?;
    if restores && restore(process, &storage, &recovered, ablation)? {
        finish_restore(&storage, &recovered.store)?;
        // As the program does: restoring is a command of its own, and the next start goes on from there.
        drop(recovered);
        recovered = recover(process, &storage)?;
    }
    let (mut job, mut log) = Job::begin(process, storage, ablation, recovered)?;
    job.clean()?;
    for _ in 0..ROUNDS {
        if job.random.random_ratio(4, 5) {
            job.record(&mut log)?;
        }
        match job.random.random_range(0..6) {
            0..3 => job.checkpoint()?,
            3..5 => job.commit_some()?,
            _ => job.clean()?,
        }
        if ablation == Some(Ablation::GarbageByCheckpoint) {
            job.clean()?;
        }
    }
    if process.is_last() || job.random.random_ratio(1, 3) {
        job.stop(&mut log)?;
    }
    Ok(())
}

impl Job {
    fn begin(
        process: &Process,
        storage: Arc<dyn Storage>,
        ablation: Option<Ablation>,
        recovered: Recovered,
    ) -> Outcome<(Job, LogWriter)> {
        let Recovered { incarnation, store, start, checkpoint, parts, mut replay, log_id, sinks, bases } = recovered;
        let from = start.from.epoch();
        let mut job = Job {
            process: process.clone(),
            random: SmallRng::seed_from_u64(process.seed),
            ablation,
            storage,
            store,
            incarnation: incarnation.clone(),
            log_id,
            tables: Vec::new(),
            next_number: start.next_number,
            parent: start.newest,
            base: match start.from {
                tidemill_engine::checkpoint::From::Checkpoint { number, .. } => number,
                tidemill_engine::checkpoint::From::Beginning => 0,
            },
            saved_sum: None,
            closed: BTreeMap::new(),
            decided: from,
            partitions: Vec::new(),
            total: 0,
            open: from.next(),
            next_offset: 0,
            messages: Vec::new(),
        };
        if let Some(checkpoint) = &checkpoint {
            job.partitions.clone_from(&checkpoint.partitions);
            job.next_offset = checkpoint.next_offset;
            let pane = checkpoint.windows.get(SUM).and_then(|window| window.panes.first());
            let pane = pane.ok_or("a checkpoint without its state")?;
            job.total = parts[&pane.part].column(0).as_primitive::<Int64Type>().value(0);
            job.saved_sum = Some((job.total, pane.clone()));
        }
        for ((name, mut sink), base) in TABLES.into_iter().zip(sinks).zip(bases) {
            let committed = sink.last_committed();
            let saved = checkpoint.as_ref().filter(|checkpoint| committed < checkpoint.epoch);
            let saved: Vec<BufferState> =
                saved.and_then(|checkpoint| checkpoint.buffers.get(name)).cloned().unwrap_or_default();
            let mut waiting: BTreeMap<u64, Vec<Row>> = BTreeMap::new();
            for buffer in &saved {
                for (epoch, row) in with_epochs(&parts[&buffer.part]) {
                    // A process that was replaced may have committed some of them since.
                    if epoch > committed.0 {
                        waiting.entry(epoch).or_default().push(row);
                    }
                }
            }
            let writers = (0..WRITERS).map(|index| sink.writer(index)).collect();
            job.tables.push(Table {
                name,
                sink,
                writers,
                base,
                had: committed,
                committed,
                waiting,
                saved,
                saved_up_to: from,
                total: job.total,
            });
        }
        let mut passed: Vec<(u64, Content)> = Vec::new();
        while let Some(record) = replay.next().map_err(words)? {
            match record {
                Record::Open { source, name, .. } => job.declare(source, name),
                Record::Messages { messages, first, .. } => {
                    job.take(first.0, &messages);
                    job.next_offset = first.0 + messages.len() as u64;
                }
                Record::Seal { epoch, checkpoint, .. } => {
                    passed.push((epoch.0, job.close(epoch, checkpoint)));
                    let settled = replay.settled_epoch();
                    job.certain(passed.extract_if(.., |(epoch, _)| *epoch <= settled.0).collect());
                    // What waits long enough is committed while the log is replayed, and marked epochs are saved.
                    if settled > job.decided && job.random.random_ratio(1, 4) {
                        job.decide_up_to(settled)?;
                    }
                }
                Record::Range { .. } | Record::End { .. } => return Err("a record that nobody wrote".to_owned()),
            }
        }
        let writer = replay.finish().map_err(words)?.fenced_by(incarnation);
        job.certain(passed);
        Ok((job, writer))
    }

    fn certain(&self, epochs: Vec<(u64, Content)>) {
        for (epoch, content) in epochs {
            self.process.tell(|judge| judge.certain(epoch, &content));
        }
    }

    fn declare(&mut self, source: String, name: String) {
        self.partitions.push(PartitionState { source, name, next: 0, arrival_us: None, ended: false, notes: None });
    }

    fn take(&mut self, first: u64, messages: &[Message]) {
        let value = |message: &Message| std::str::from_utf8(&message.payload).ok()?.parse().ok();
        let rows =
            messages.iter().zip(first..).map(|(message, at)| (at.cast_signed(), value(message).expect("a number")));
        self.messages.extend(rows);
    }

    /// Ends an epoch: the operators compute its rows.
    fn close(&mut self, epoch: Epoch, is_marked: bool) -> Content {
        assert_eq!(epoch, self.open, "epochs follow each other");
        let messages = std::mem::take(&mut self.messages);
        for table in &mut self.tables {
            let rows = rows_of_epoch(table.name, epoch.0, &messages, &mut table.total);
            if epoch > table.had && !rows.is_empty() {
                table.waiting.insert(epoch.0, rows);
            }
            self.total = table.total;
        }
        let (total, next_offset, partitions) = (self.total, self.next_offset, self.partitions.clone());
        self.closed.insert(epoch.0, AtEnd { total, next_offset, partitions, is_marked });
        self.open = epoch.next();
        Content { messages, next_offset }
    }

    /// Records what a source brings, in one group, and acknowledges it.
    fn record(&mut self, log: &mut LogWriter) -> Outcome {
        if self.partitions.is_empty() {
            self.declare("s".to_owned(), "p".to_owned());
            log.append(&Record::Open { partition: PartitionId(0), source: "s".to_owned(), name: "p".to_owned() });
        }
        let mut fed = Vec::new();
        for _ in 0..self.random.random_range(1..=3) {
            let first = self.next_offset;
            for _ in 0..self.random.random_range(0..=2) {
                let payload = self.random.random_range(1..1000).to_string().into();
                let messages = vec![Message { payload, ..Message::default() }];
                let first = Offset(self.next_offset);
                log.append(&Record::Messages {
                    partition: PartitionId(0),
                    arrival_us: 0,
                    first,
                    messages: messages.clone(),
                    notes: Vec::new(),
                });
                self.take(first.0, &messages);
                self.next_offset += 1;
            }
            if self.next_offset > first || self.random.random() {
                let (epoch, checkpoint) = (self.open, self.random.random_ratio(1, 2));
                log.append(&Record::Seal { epoch, now_us: 0, checkpoint });
                fed.push((epoch.0, self.close(epoch, checkpoint)));
            }
        }
        log.sync().map_err(words)?;
        self.certain(fed);
        Ok(())
    }

    /// Makes a checkpoint of a marked epoch, if there is one.
    fn checkpoint(&mut self) -> Outcome {
        let marked: Vec<u64> =
            self.closed.iter().filter(|(at, end)| end.is_marked && **at > self.decided.0).map(|(at, _)| *at).collect();
        let Some(epoch) = marked.choose_at(&mut self.random) else { return Ok(()) };
        let due = self.some_due();
        self.decide(Epoch(epoch), true, &due)
    }

    /// Commits some of the tables.
    fn commit_some(&mut self) -> Outcome {
        let last = Epoch(self.open.0 - 1);
        if last <= self.decided {
            return Ok(());
        }
        let due = self.some_due();
        self.decide(last, false, &due)
    }

    fn decide_up_to(&mut self, settled: Epoch) -> Outcome {
        let is_marked = self.closed.get(&settled.0).is_some_and(|end| end.is_marked);
        let due = self.some_due();
        self.decide(settled, is_marked, &due)
    }

    fn some_due(&mut self) -> Vec<bool> {
        self.tables.iter().map(|_| self.random.random_ratio(1, 2)).collect()
    }

    fn stop(&mut self, log: &mut LogWriter) -> Outcome {
        let epoch = self.open;
        log.append(&Record::Seal { epoch, now_us: 0, checkpoint: true });
        let content = self.close(epoch, true);
        log.sync().map_err(words)?;
        self.certain(vec![(epoch.0, content)]);
        let due = vec![true; self.tables.len()];
        self.decide(epoch, true, &due)
    }

    /// Two phases: what the checkpointer does for an epoch that is complete and durable in the log.
    fn decide(&mut self, epoch: Epoch, is_marked: bool, due: &[bool]) -> Outcome {
        let mut order: Vec<usize> = (0..self.tables.len()).collect();
        order.shuffle(&mut self.random);
        let mut pending: BTreeMap<&str, Vec<Committable>> = BTreeMap::new();
        let store = self.store.clone();
        let mut packs = store.packs(epoch, self.incarnation.number());
        let end = self.closed.get(&epoch.0).cloned().ok_or("an epoch that is not closed")?;
        let mut holds = Holds::Refers(self.base);
        let sum = if is_marked { Some(self.save_sum(end.total, &mut packs)?) } else { None };
        for at in order.iter().copied() {
            let table = &mut self.tables[at];
            if due[at] {
                let committables = table.prepare(epoch)?;
                table.saved.clear();
                if !committables.is_empty() {
                    pending.insert(table.name, committables);
                }
            }
            if is_marked {
                table.save(epoch, &mut packs)?;
            }
        }
        if let Some(pane) = sum {
            let window = WindowSaved {
                name: SUM.to_owned(),
                watermark: Watermark::UNKNOWN,
                rows: 0,
                late: 0,
                results: 0,
                panes: vec![pane],
            };
            let saved = self.tables.iter().filter(|table| !table.saved.is_empty());
            let checkpoint = Checkpoint {
                epoch,
                sealed_us: 0,
                next_offset: end.next_offset,
                partitions: end.partitions,
                sources: BTreeMap::new(),
                windows: BTreeMap::from([(SUM.to_owned(), window)]),
                dedups: BTreeMap::new(),
                buffers: saved.map(|table| (table.name.to_owned(), table.saved.clone())).collect(),
            };
            packs.finish().map_err(words)?;
            holds = Holds::Checkpoint(Box::new(checkpoint));
        } else if pending.is_empty() {
            return Ok(());
        }
        self.decided = epoch;
        // Another one may have taken over since the last sync.
        self.incarnation.check().map_err(words)?;
        if self.ablation == Some(Ablation::CommitBeforeDecision) {
            self.commit(epoch, &order, &pending)?;
        }
        if self.ablation == Some(Ablation::LogShrunkEarly) {
            shrink(&*self.storage, LOG, epoch.next()).map_err(words)?;
        }
        self.write(epoch, holds, &pending)?;
        self.commit(epoch, &order, &pending)?;
        self.closed.retain(|at, _| *at > epoch.0);
        if is_marked { self.remove_what_is_old() } else { Ok(()) }
    }

    fn save_sum(&mut self, total: i64, packs: &mut PackWriter<'_>) -> Outcome<PaneState> {
        if let Some((_, pane)) = self.saved_sum.as_ref().filter(|(saved, _)| *saved == total) {
            return Ok(pane.clone());
        }
        let part = packs.add(&batch(&[("total", vec![total])])).map_err(words)?;
        let pane = PaneState { start_us: 0, groups: KeyGroups::ALL, part };
        self.saved_sum = Some((total, pane.clone()));
        Ok(pane)
    }

    fn write(&mut self, epoch: Epoch, holds: Holds, pending: &BTreeMap<&str, Vec<Committable>>) -> Outcome {
        let state = |table: &Table| TableState {
            base: table.base,
            committed: table.committed,
            pending: pending.get(table.name).cloned().unwrap_or_default(),
            generation: Some(table.sink.generation()),
        };
        let manifest = Manifest {
            version: Manifest::VERSION,
            number: self.next_number,
            incarnation: self.incarnation.number(),
            parent: self.parent,
            log_id: self.log_id.clone(),
            made_us: 0,
            epoch,
            holds,
            tables: self.tables.iter().map(|table| (table.name.to_owned(), state(table))).collect(),
            rewound_to: None,
        };
        let manifest = self.store.write(manifest).map_err(words)?;
        self.process.trace(|| {
            let state = |(name, table): (&String, &TableState)| {
                format!("{name} {}{}", table.committed, if table.pending.is_empty() { "" } else { "+" })
            };
            let tables: Vec<String> = manifest.tables.iter().map(state).collect();
            let is_state = if manifest.checkpoint().is_some() { "checkpoint" } else { "commit" };
            let (number, base, parent) = (manifest.number, manifest.base(), manifest.parent);
            format!("manifest {number} ({is_state} of {epoch}, base {base}, parent {parent:?}): {tables:?}")
        });
        (self.base, self.parent, self.next_number) = (manifest.base(), Some(manifest.number), manifest.number + 1);
        Ok(())
    }

    fn commit(&mut self, epoch: Epoch, order: &[usize], pending: &BTreeMap<&str, Vec<Committable>>) -> Outcome {
        for at in order {
            let table = &mut self.tables[*at];
            if let Some(committables) = pending.get(table.name) {
                table.sink.commit(epoch, committables).map_err(words)?;
                table.committed = table.sink.last_committed();
                self.process.trace(|| format!("committed {} {epoch}", table.name));
            }
        }
        Ok(())
    }

    fn remove_what_is_old(&mut self) -> Outcome {
        let collected = self.store.collect(self.incarnation.number()).map_err(words)?;
        if let Some(oldest) = collected.oldest {
            shrink(&*self.storage, LOG, oldest.next()).map_err(words)?;
        }
        Ok(())
    }

    fn clean(&mut self) -> Outcome {
        if self.ablation == Some(Ablation::GarbageByCheckpoint) {
            return super::ablation::clean_by_checkpoint(&*self.storage, &self.store);
        }
        for table in &mut self.tables {
            table.sink.clean().map_err(words)?;
        }
        Ok(())
    }
}

/// One of several, by chance.
trait ChooseAt {
    fn choose_at(&self, random: &mut SmallRng) -> Option<u64>;
}

impl ChooseAt for Vec<u64> {
    fn choose_at(&self, random: &mut SmallRng) -> Option<u64> {
        (!self.is_empty()).then(|| self[random.random_range(0..self.len())])
    }
}
