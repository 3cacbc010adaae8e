//! What operators hand over at the end of a checkpoint's epoch, and what they begin with after a restart.
//!
//! An operator hands over and goes on: the state is shared, and copied by whoever changes it first. When the frontier has
//! passed the epoch, everything of it has been handed over, because an operator does it before it lets the epoch go.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::dedup::StretchSnapshot;
use crate::epoch::Epoch;
use crate::plan::NodeId;
use crate::time::Watermark;
use crate::watermark::WatermarkFold;
use crate::window::{PaneSnapshot, SavedPane};

/// What the source on one worker has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SourceCounts {
    pub(crate) rows: u64,
    pub(crate) dead: u64,
    pub(crate) quarantined: u64,
    pub(crate) nulled: u64,
    pub(crate) dropped_attributes: u64,
}

/// What one operator hands over on one worker.
pub(crate) enum Snapshot {
    Source { id: NodeId, counts: SourceCounts },
    Fold { id: NodeId, fold: WatermarkFold },
    Window { id: NodeId, worker: usize, snapshot: WindowSnapshot },
    Dedup { id: NodeId, worker: usize, snapshot: DedupSnapshot },
}

/// A window on one worker. Counts are of this run.
pub(crate) struct WindowSnapshot {
    pub(crate) watermark: Watermark,
    pub(crate) rows: u64,
    pub(crate) late: u64,
    pub(crate) results: u64,
    pub(crate) panes: Vec<(i64, PaneSnapshot)>,
}

/// A deduplication on one worker. Counts are of this run.
pub(crate) struct DedupSnapshot {
    pub(crate) watermark: Watermark,
    pub(crate) taken: u64,
    pub(crate) repeats: u64,
    pub(crate) late: u64,
    pub(crate) stretches: Vec<StretchSnapshot>,
}

/// Where snapshots are gathered. Bounded by what there is: one checkpoint is under way at a time.
#[derive(Default)]
pub(crate) struct Snapshots(Mutex<BTreeMap<Epoch, Vec<Snapshot>>>);

impl Snapshots {
    pub(crate) fn put(&self, epoch: Epoch, snapshot: Snapshot) {
        self.0.lock().entry(epoch).or_default().push(snapshot);
    }

    /// Takes everything of an epoch.
    pub(crate) fn take(&self, epoch: Epoch) -> Vec<Snapshot> {
        self.0.lock().remove(&epoch).unwrap_or_default()
    }
}

/// The state that one worker begins with.
#[derive(Default)]
pub(crate) struct Restored {
    pub(crate) folds: BTreeMap<NodeId, WatermarkFold>,
    pub(crate) windows: BTreeMap<NodeId, RestoredWindow>,
    /// Their stretches stand for panes.
    pub(crate) dedups: BTreeMap<NodeId, RestoredWindow>,
}

/// The state that a window begins with.
pub(crate) struct RestoredWindow {
    pub(crate) watermark: Watermark,
    pub(crate) panes: Vec<(i64, Vec<SavedPane>)>,
}
