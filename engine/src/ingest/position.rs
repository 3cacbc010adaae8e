//! Where a log stands, and which record may come next. The writer asserts it, the reader checks it.

use super::record::{PartitionId, Record};
use crate::epoch::Epoch;
use crate::source::Offset;

/// What the records so far lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// Offset of the next message.
    pub(super) next: Offset,
    /// The epoch that is open: the next Seal ends it.
    pub(super) epoch: Epoch,
    /// Partitions declared so far: the id of the next one.
    pub(super) partitions: u32,
}

impl Position {
    /// The start of every log.
    pub(super) const START: Position = Position { next: Offset(0), epoch: Epoch::FIRST, partitions: 0 };

    /// Moves over a record, or says why it cannot come here.
    pub(super) fn follow(&mut self, record: &Record) -> Result<(), String> {
        match record {
            Record::Open { partition, .. } => {
                if partition.0 != self.partitions {
                    return Err(format!("partition {} is declared, but {} is next", partition.0, self.partitions));
                }
                self.partitions = self.partitions.checked_add(1).ok_or("more partitions than there are numbers")?;
            }
            Record::Messages { partition, first, messages, .. } => {
                self.declared(*partition)?;
                self.advance(*first, messages.len() as u64)?;
            }
            Record::Range { partition, first, rows, .. } => {
                self.declared(*partition)?;
                self.advance(*first, *rows)?;
            }
            Record::End { partition } => self.declared(*partition)?,
            Record::Seal { epoch, .. } => {
                if *epoch != self.epoch {
                    return Err(format!("epoch {epoch} is sealed, but epoch {} is open", self.epoch));
                }
                self.epoch = Epoch(epoch.0.checked_add(1).ok_or("more epochs than there are numbers")?);
            }
        }
        Ok(())
    }

    fn declared(&self, partition: PartitionId) -> Result<(), String> {
        if partition.0 < self.partitions {
            Ok(())
        } else {
            Err(format!("partition {} is used, but only {} are declared", partition.0, self.partitions))
        }
    }

    fn advance(&mut self, first: Offset, count: u64) -> Result<(), String> {
        if first != self.next {
            return Err(format!("a record starts at offset {}, but {} is next", first.0, self.next.0));
        }
        self.next = Offset(first.0.checked_add(count).ok_or("more messages than there are offsets")?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_next_offset_epoch_and_partition_may_follow() {
        let partition = PartitionId(0);
        let open = |id| Record::Open { partition: PartitionId(id), source: String::new(), name: String::new() };
        let range = |first, rows| Record::Range {
            partition,
            arrival_us: 0,
            first: Offset(first),
            rows,
            start: 0,
            end: 0,
            checksum: 0,
        };
        let seal = |epoch| Record::Seal { epoch: Epoch(epoch), now_us: 0, checkpoint: false };

        let mut at = Position::START;
        for wrong in [open(1), range(0, 1), Record::End { partition }, seal(0), seal(2)] {
            at.follow(&wrong).unwrap_err();
        }
        for right in [open(0), range(0, 5), range(5, 0), seal(1), range(5, u64::MAX - 5), open(1), seal(2)] {
            at.follow(&right).unwrap();
        }
        for wrong in [open(1), range(5, 1), range(u64::MAX, 1), seal(2), seal(4)] {
            at.follow(&wrong).unwrap_err();
        }
        assert_eq!(at, Position { next: Offset(u64::MAX), epoch: Epoch(3), partitions: 2 });
    }
}
