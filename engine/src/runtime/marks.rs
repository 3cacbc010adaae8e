//! Marks: where the recorder and the checkpointer meet.
//!
//! The recorder marks an epoch when the interval has passed and no checkpoint is under way; the checkpointer takes the
//! mark, makes the checkpoint, and says that it is done. So one is under way at a time, and what waits is bounded.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::RecordBatch;
use parking_lot::{Condvar, Mutex};

use super::turns;
use crate::checkpoint::PartitionState;
use crate::dataflow::Failure;
use crate::epoch::Epoch;
use crate::plan::NodeId;

/// How often a waiting recorder looks whether the job has failed.
const FAILURE_CHECK: Duration = Duration::from_millis(100);

/// What the recorder knows at the end of a marked epoch.
#[derive(Clone, Debug)]
pub(super) struct Marked {
    pub(super) epoch: Epoch,
    pub(super) sealed_us: i64,
    pub(super) next_offset: u64,
    pub(super) partitions: Vec<PartitionState>,
    /// By a partition's place, all that it has noted; not those that have noted nothing since the last mark.
    pub(super) notes: Vec<(usize, RecordBatch)>,
    /// For each source, messages and bytes so far.
    pub(super) received: BTreeMap<NodeId, (u64, u64)>,
}

/// What the checkpointer has to do.
pub(super) enum Next {
    /// An epoch is marked.
    Marked(Marked),
    /// Rows may be waiting, or the time has passed.
    Look,
    /// The dataflow has ended.
    Ended,
}

/// See the module.
#[derive(Default)]
pub(super) struct Marks {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    marked: Option<Marked>,
    is_busy: bool,
    has_rows: bool,
    is_stopping: bool,
    has_ended: bool,
}

impl Marks {
    /// Whether no checkpoint is under way: only then may an epoch be marked.
    pub(super) fn is_idle(&self) -> bool {
        !self.state.lock().is_busy
    }

    /// Waits until no checkpoint is under way; returns whether that is so, and not that the job has failed.
    pub(super) fn wait_idle(&self, failure: &Failure) -> bool {
        let mut state = self.state.lock();
        while state.is_busy {
            if failure.is_set() {
                return false;
            }
            turns::wait(&self.changed, &mut state, Some(FAILURE_CHECK));
        }
        true
    }

    /// Marks an epoch; before any operator can close it.
    pub(super) fn mark(&self, marked: Marked) {
        let mut state = self.state.lock();
        assert!(!state.is_busy, "one checkpoint at a time");
        state.is_busy = true;
        state.marked = Some(marked);
        self.changed.notify_all();
    }

    /// Says that the checkpoint is made.
    pub(super) fn done(&self) {
        self.state.lock().is_busy = false;
        self.changed.notify_all();
    }

    /// Says that a table has rows that wait for a commit.
    pub(super) fn rows_wait(&self) {
        self.state.lock().has_rows = true;
        self.changed.notify_all();
    }

    /// Says that the next checkpoint or commit is the last one: nothing is to be left waiting.
    pub(super) fn stop(&self) {
        self.state.lock().is_stopping = true;
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.state.lock().is_stopping
    }

    /// Says that the dataflow has ended.
    pub(super) fn end(&self) {
        self.state.lock().has_ended = true;
        self.changed.notify_all();
    }

    /// Waits for something to do; at most `timeout`, if there is one.
    pub(super) fn next(&self, timeout: Option<Duration>) -> Next {
        let mut state = self.state.lock();
        loop {
            if let Some(marked) = state.marked.take() {
                return Next::Marked(marked);
            }
            if state.has_ended {
                return Next::Ended;
            }
            if std::mem::take(&mut state.has_rows) {
                return Next::Look;
            }
            if turns::wait(&self.changed, &mut state, timeout) {
                return Next::Look;
            }
        }
    }
}
