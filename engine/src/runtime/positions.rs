//! Positions: how far the messages before an offset have come, for whoever has sent them.
//!
//! ```text
//!   offset  0 ········ 120 ········ 190 ···· 204 ···· 211
//!           ├─ epoch 7 ─┼─ epoch 8 ─┼─ epoch 9 ─┤ open  │
//!           └─ committed┘           durable ────────────┘
//! ```
//!
//! The recorder says where each epoch ends; an epoch is committed for a source when it is complete and no table behind that
//! source has rows of it that are in no commit. What every table has committed is forgotten, so that what is kept are the
//! epochs of a commit interval, and [`SEALS_MAX`] at most.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use super::egress::TableState;
use super::progress::Progress;
use crate::epoch::Epoch;
use crate::plan::NodeId;
use crate::source::{Offset, Stage};

/// Ends of epochs that are remembered. Beyond it the oldest are taken for parts of the next: they are told to be committed
/// later than they are, never earlier.
const SEALS_MAX: usize = 16_384;

/// See the module.
pub(super) struct Positions {
    ends: Mutex<Ends>,
    progress: Arc<Progress>,
    /// The tables that a source's rows may come to.
    tables: BTreeMap<NodeId, Vec<Arc<TableState>>>,
}

#[derive(Default)]
struct Ends {
    /// Everything before it is durable.
    durable: Offset,
    /// Everything before it is committed by all tables.
    committed: Offset,
    /// The epochs after that, with the offset that each ends before.
    seals: VecDeque<(Epoch, Offset)>,
}

impl Positions {
    pub(super) fn new(progress: Arc<Progress>, tables: BTreeMap<NodeId, Vec<Arc<TableState>>>) -> Positions {
        Positions { ends: Mutex::default(), progress, tables }
    }

    /// Notes that everything before an offset is durable.
    pub(super) fn durable(&self, next: Offset) {
        self.ends.lock().durable = next;
    }

    /// Notes where an epoch ends.
    pub(super) fn sealed(&self, epoch: Epoch, next: Offset) {
        let mut ends = self.ends.lock();
        ends.seals.push_back((epoch, next));
        while let Some((epoch, next)) = ends.seals.front().copied()
            && self.is_committed(epoch, self.tables.values().flatten())
        {
            ends.committed = next;
            ends.seals.pop_front();
        }
        if ends.seals.len() > SEALS_MAX {
            ends.seals.pop_front();
        }
    }

    /// Returns how far the messages before an offset have come with a source; `None`: there are not so many.
    pub(super) fn stage(&self, source: NodeId, before: Offset) -> Option<Stage> {
        let epoch = {
            let ends = self.ends.lock();
            if before > ends.durable {
                return None;
            }
            if before <= ends.committed {
                return Some(Stage::Committed);
            }
            let place = ends.seals.partition_point(|(_, next)| *next < before);
            ends.seals.get(place).map(|(epoch, _)| *epoch)
        };
        let tables = self.tables.get(&source).into_iter().flatten();
        let is_committed = epoch.is_some_and(|epoch| self.is_committed(epoch, tables));
        Some(if is_committed { Stage::Committed } else { Stage::Durable })
    }

    fn is_committed<'t>(&self, epoch: Epoch, mut tables: impl Iterator<Item = &'t Arc<TableState>>) -> bool {
        // In this order: of an epoch that is complete no row is on its way to a table any more.
        self.progress.committable() >= epoch && tables.all(|table| table.has_committed(epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: NodeId = NodeId(0);
    const OTHER: NodeId = NodeId(1);

    #[test]
    fn an_offset_is_committed_with_its_epoch_by_the_tables_of_its_own_source() {
        let progress = Arc::new(Progress::behind(Epoch::NONE));
        let table = |_| Arc::new(TableState::new(Epoch::NONE, 1));
        let (own, other) = (table(0), table(1));
        let tables = BTreeMap::from([(SOURCE, vec![Arc::clone(&own)]), (OTHER, vec![Arc::clone(&other)])]);
        let positions = Positions::new(Arc::clone(&progress), tables);
        assert_eq!(positions.stage(SOURCE, Offset(0)), Some(Stage::Committed), "nothing is all there");
        assert_eq!(positions.stage(SOURCE, Offset(1)), None);
        positions.durable(Offset(7));
        assert_eq!(positions.stage(SOURCE, Offset(7)), Some(Stage::Durable), "of the open epoch");
        own.holds_from(0, Some(Epoch(1)));
        other.holds_from(0, Some(Epoch(1)));
        positions.sealed(Epoch(1), Offset(5));
        positions.sealed(Epoch(2), Offset(7));
        progress.seal(Epoch(2));
        progress.durable(Epoch(u64::MAX));
        own.holds_from(0, Some(Epoch(2)));
        assert_eq!(positions.stage(SOURCE, Offset(5)), Some(Stage::Durable), "not complete");
        progress.complete(None);
        assert_eq!(positions.stage(SOURCE, Offset(5)), Some(Stage::Committed));
        assert_eq!(positions.stage(SOURCE, Offset(6)), Some(Stage::Durable), "of the second epoch, which waits");
        assert_eq!(positions.stage(OTHER, Offset(5)), Some(Stage::Durable), "its table has committed nothing");
        own.queued().fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(positions.stage(SOURCE, Offset(5)), Some(Stage::Durable), "perhaps of the first epoch");
        own.queued().fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
        own.decides(true);
        own.holds_from(0, None);
        assert_eq!(positions.stage(SOURCE, Offset(7)), Some(Stage::Durable), "in files that nobody names");
        own.decided(Epoch(2));
        assert_eq!(positions.stage(SOURCE, Offset(7)), Some(Stage::Committed));
        assert_eq!(positions.ends.lock().seals.len(), 2, "the other source's table waits");
        other.holds_from(0, None);
        positions.sealed(Epoch(3), Offset(9));
        assert_eq!(positions.ends.lock().seals.len(), 1);
        assert_eq!(positions.stage(SOURCE, Offset(7)), Some(Stage::Committed));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_never_told_too_early() {
        let progress = Arc::new(Progress::behind(Epoch::NONE));
        let positions = Positions::new(progress, BTreeMap::new());
        for epoch in 1..=SEALS_MAX as u64 + 10 {
            positions.sealed(Epoch(epoch), Offset(epoch));
        }
        positions.durable(Offset(SEALS_MAX as u64 + 10));
        assert_eq!(positions.ends.lock().seals.len(), SEALS_MAX);
        assert_eq!(positions.stage(SOURCE, Offset(1)), Some(Stage::Durable));
    }
}
