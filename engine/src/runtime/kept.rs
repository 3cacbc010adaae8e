//! What the checkpointer knows of keyed state: where the last checkpoint has each piece of it, and what was counted before.

use std::collections::BTreeMap;

use super::JobError;
use super::job::{dedup_name, window_name};
use super::restart::{Restart, shares};
use crate::checkpoint::{CheckpointError, DedupSaved, PackWriter, PaneState, Part, WindowSaved};
use crate::dataflow::{Counters, key_column, layout_and_keys};
use crate::dedup::{DedupCodec, StretchSnapshot};
use crate::key::KeyGroups;
use crate::plan::{NodeId, Operator, Plan};
use crate::time::Watermark;
use crate::window::{PaneCodec, PaneSnapshot};

/// For each worker and each pane or stretch, by its start, the pieces that the last checkpoint has of it.
pub(super) struct Pieces(BTreeMap<(usize, i64), Vec<PaneState>>);

/// A window as the checkpointer knows it.
pub(super) struct Window {
    pub(super) key: String,
    codec: PaneCodec,
    /// What it had counted when the job started, and its name.
    before: WindowSaved,
    pub(super) saved: Pieces,
}

/// A deduplicated source as the checkpointer knows it.
pub(super) struct Dedup {
    pub(super) key: String,
    codec: DedupCodec,
    /// What it had counted when the job started, and its name.
    before: DedupSaved,
    pub(super) saved: Pieces,
}

impl Window {
    /// Returns what the checkpointer knows of each window at the start.
    pub(super) fn all(
        plan: &Plan,
        keys: &BTreeMap<NodeId, String>,
        restart: &Restart,
        counters: &Counters,
        workers: usize,
    ) -> Result<BTreeMap<NodeId, Window>, JobError> {
        let mut windows = BTreeMap::new();
        for (at, node) in plan.nodes.iter().enumerate() {
            let Operator::Window(window) = &node.operator else { continue };
            let (id, key) = (NodeId(at), keys[&NodeId(at)].clone());
            let (layout, columns) = layout_and_keys(window, plan).map_err(JobError::Plan)?;
            let mut before = restart.window(&key).cloned().unwrap_or_else(|| WindowSaved {
                name: String::new(),
                watermark: Watermark::UNKNOWN,
                rows: 0,
                late: 0,
                results: 0,
                panes: Vec::new(),
            });
            before.name = window_name(id, window);
            counters.windows[at].rows.add(before.rows);
            counters.windows[at].late.add(before.late);
            counters.windows[at].results.add(before.results);
            let saved = Pieces::of(std::mem::take(&mut before.panes), workers);
            windows.insert(id, Window { key, codec: PaneCodec::new(layout, columns), before, saved });
        }
        Ok(windows)
    }

    /// Returns what a checkpoint says of it before any worker has handed over.
    pub(super) fn begin(&self) -> WindowSaved {
        WindowSaved { watermark: Watermark::UNKNOWN, ..self.before.clone() }
    }

    /// Notes where each pane of a worker is; what has changed becomes a new part.
    pub(super) fn save(
        &mut self,
        worker: usize,
        groups: KeyGroups,
        panes: Vec<(i64, PaneSnapshot)>,
        packs: &mut PackWriter<'_>,
    ) -> Result<(), CheckpointError> {
        let mut before = self.saved.take_worker(worker);
        for (start_us, snapshot) in panes {
            let pieces = match snapshot {
                PaneSnapshot::Unchanged => before.remove(&start_us).expect("saved by the checkpoint before"),
                PaneSnapshot::Changed(pane) => {
                    let part = packs.add(&self.codec.encode(&pane)?)?;
                    vec![PaneState { start_us, groups, part }]
                }
            };
            self.saved.0.insert((worker, start_us), pieces);
        }
        Ok(())
    }
}

impl Dedup {
    /// Returns what the checkpointer knows of each deduplicated source at the start.
    pub(super) fn all(
        plan: &Plan,
        keys: &BTreeMap<NodeId, String>,
        restart: &Restart,
        counters: &Counters,
        workers: usize,
    ) -> Result<BTreeMap<NodeId, Dedup>, JobError> {
        let mut dedups = BTreeMap::new();
        for (at, node) in plan.nodes.iter().enumerate() {
            let Operator::Dedup(dedup) = &node.operator else { continue };
            let key = keys[&NodeId(at)].clone();
            let columns = key_column(dedup, plan).map_err(JobError::Plan)?;
            let mut before = restart.dedup(&key).cloned().unwrap_or_else(|| DedupSaved {
                name: String::new(),
                watermark: Watermark::UNKNOWN,
                taken: 0,
                repeats: 0,
                late: 0,
                stretches: Vec::new(),
            });
            before.name = dedup_name(plan, dedup);
            counters.dedups[at].taken.add(before.taken);
            counters.dedups[at].repeats.add(before.repeats);
            counters.dedups[at].late.add(before.late);
            let saved = Pieces::of(std::mem::take(&mut before.stretches), workers);
            dedups.insert(NodeId(at), Dedup { key, codec: DedupCodec::new(columns), before, saved });
        }
        Ok(dedups)
    }

    /// Returns what a checkpoint says of it before any worker has handed over.
    pub(super) fn begin(&self) -> DedupSaved {
        DedupSaved { watermark: Watermark::UNKNOWN, ..self.before.clone() }
    }

    /// Notes where each stretch of a worker is; what was added becomes a new part.
    pub(super) fn save(
        &mut self,
        worker: usize,
        groups: KeyGroups,
        stretches: Vec<StretchSnapshot>,
        packs: &mut PackWriter<'_>,
    ) -> Result<(), CheckpointError> {
        let mut before = self.saved.take_worker(worker);
        for StretchSnapshot { start_us, kept, new } in stretches {
            let mut pieces = before.remove(&start_us).unwrap_or_default();
            assert!(kept <= pieces.len(), "a stretch counts on parts that no checkpoint has");
            pieces.truncate(kept);
            if let Some(new) = new {
                pieces.push(PaneState { start_us, groups, part: packs.add(&self.codec.encode(&new)?)? });
            }
            self.saved.0.insert((worker, start_us), pieces);
        }
        Ok(())
    }
}

impl Pieces {
    /// Returns which pieces each worker goes on with, by their starts, in their order.
    fn of(saved: Vec<PaneState>, workers: usize) -> Pieces {
        let mut pieces = BTreeMap::<_, Vec<_>>::new();
        for worker in 0..workers {
            for piece in shares(&saved, worker, workers) {
                pieces.entry((worker, piece.start_us)).or_default().push(piece);
            }
        }
        Pieces(pieces)
    }

    /// Takes out what is known of a worker.
    fn take_worker(&mut self, worker: usize) -> BTreeMap<i64, Vec<PaneState>> {
        let own = self.0.extract_if((worker, i64::MIN)..=(worker, i64::MAX), |_, _| true);
        own.map(|((_, start_us), pieces)| (start_us, pieces)).collect()
    }

    /// Returns all of them.
    pub(super) fn all(&self) -> Vec<PaneState> {
        self.0.values().flatten().cloned().collect()
    }

    /// Returns where they are.
    pub(super) fn parts(&self) -> impl Iterator<Item = &Part> {
        self.0.values().flatten().map(|piece| &piece.part)
    }

    /// The same, to say that they are elsewhere.
    pub(super) fn parts_mut(&mut self) -> impl Iterator<Item = &mut Part> {
        self.0.values_mut().flatten().map(|piece| &mut piece.part)
    }
}
