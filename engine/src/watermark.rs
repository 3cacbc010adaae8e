//! The watermark of one source: partition maxima in, one watermark for each epoch out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::seeded_bugs::{SeededBug, is_planted};
use crate::time::Watermark;

/// What an epoch says about one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mark {
    /// Rows came, none of them quarantined.
    Seen {
        /// Which partition.
        partition: u32,
        /// Greatest event time, microseconds.
        time_us: i64,
        /// Latest arrival, microseconds.
        arrival_us: i64,
    },
    /// The partition exists and is bounded: it holds the watermark back until its first row, or its end.
    Declared {
        /// Which partition.
        partition: u32,
    },
    /// The partition has ended: it holds nothing back any more.
    Ended {
        /// Which partition.
        partition: u32,
    },
    /// The epoch ended at this time of the clock.
    Sealed {
        /// The time written in the Seal, microseconds.
        now_us: i64,
        /// Whether a checkpoint is made at its end.
        checkpoint: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Partition {
    time_us: Option<i64>,
    arrival_us: i64,
    ended: bool,
}

impl Default for Partition {
    fn default() -> Self {
        Partition { time_us: None, arrival_us: i64::MIN, ended: false }
    }
}

/// Folds marks: the greatest event time of each partition, the least over the partitions that are not idle, minus the
/// delay. Never falls. Marks of one epoch may come in any order.
///
/// A partition is idle when its epoch was sealed more than `idle_after` after the arrival of its last row. If all are
/// idle the watermark stays. When every partition of a bounded source has ended, it is [`Watermark::END`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatermarkFold {
    delay_us: i64,
    idle_after_us: Option<i64>,
    partitions: BTreeMap<u32, Partition>,
    sealed_us: i64,
    watermark: Watermark,
}

impl WatermarkFold {
    /// Makes a fold that has seen nothing.
    pub fn new(delay_us: i64, idle_after_us: Option<i64>) -> WatermarkFold {
        WatermarkFold {
            delay_us,
            idle_after_us,
            partitions: BTreeMap::new(),
            sealed_us: i64::MIN,
            watermark: Watermark::UNKNOWN,
        }
    }

    /// Takes a mark of the open epoch.
    pub fn mark(&mut self, mark: Mark) {
        match mark {
            Mark::Seen { partition, time_us, arrival_us } => {
                let seen = self.partitions.entry(partition).or_default();
                seen.time_us = Some(seen.time_us.map_or(time_us, |before| before.max(time_us)));
                if seen.arrival_us == i64::MIN || !is_planted(SeededBug::IdleForEver) {
                    seen.arrival_us = seen.arrival_us.max(arrival_us);
                }
            }
            Mark::Declared { partition } => {
                self.partitions.entry(partition).or_default();
            }
            Mark::Ended { partition } => self.partitions.entry(partition).or_default().ended = true,
            Mark::Sealed { now_us, .. } => self.sealed_us = self.sealed_us.max(now_us),
        }
    }

    /// Ends the epoch and returns its watermark.
    pub fn close(&mut self) -> Watermark {
        if !self.partitions.is_empty() && self.partitions.values().all(|partition| partition.ended) {
            self.watermark = Watermark::END;
            return self.watermark;
        }
        let mut least: Option<i64> = None;
        for partition in self.partitions.values().filter(|partition| !partition.ended) {
            match partition.time_us {
                None => return self.watermark, // Declared, and nothing came yet: anything may come.
                Some(_) if self.is_idle(partition) => {}
                Some(time_us) if is_planted(SeededBug::WatermarkIsMaximum) => least = least.max(Some(time_us)),
                Some(time_us) => least = Some(least.map_or(time_us, |before| before.min(time_us))),
            }
        }
        if let Some(time_us) = least {
            self.watermark = self.watermark.max(Watermark(time_us.saturating_sub(self.delay_us)));
        }
        self.watermark
    }

    /// Returns the time in the last Seal, microseconds.
    pub fn sealed_us(&self) -> i64 {
        self.sealed_us
    }

    fn is_idle(&self, partition: &Partition) -> bool {
        self.idle_after_us.is_some_and(|after_us| self.sealed_us.saturating_sub(partition.arrival_us) > after_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(fold: &mut WatermarkFold, marks: &[Mark]) -> Watermark {
        marks.iter().for_each(|mark| fold.mark(*mark));
        fold.close()
    }

    const fn sealed(now_us: i64) -> Mark {
        Mark::Sealed { now_us, checkpoint: false }
    }

    const fn seen(partition: u32, time_us: i64, arrival_us: i64) -> Mark {
        Mark::Seen { partition, time_us, arrival_us }
    }

    #[test]
    fn the_slowest_partition_decides_until_it_is_idle() {
        let mut fold = WatermarkFold::new(5, Some(100));
        assert_eq!(close(&mut fold, &[sealed(0)]), Watermark::UNKNOWN);
        assert_eq!(close(&mut fold, &[seen(1, 50, 0), seen(2, 20, 0), sealed(1)]), Watermark(15));
        assert_eq!(close(&mut fold, &[seen(1, 90, 60), sealed(100)]), Watermark(15));
        assert_eq!(close(&mut fold, &[sealed(101)]), Watermark(85), "2 is idle now");
        assert_eq!(close(&mut fold, &[seen(2, 30, 110), sealed(111)]), Watermark(85), "never falls");
        assert_eq!(close(&mut fold, &[sealed(999)]), Watermark(85), "all idle: it stays");
    }

    #[test]
    fn bounded_partitions_hold_until_they_begin_and_end() {
        let mut fold = WatermarkFold::new(0, None);
        let declared = [Mark::Declared { partition: 1 }, Mark::Declared { partition: 2 }];
        assert_eq!(close(&mut fold, &declared), Watermark::UNKNOWN);
        assert_eq!(close(&mut fold, &[seen(1, 50, 0)]), Watermark::UNKNOWN, "2 may still bring anything");
        assert_eq!(close(&mut fold, &[seen(2, 10, 0)]), Watermark(10));
        assert_eq!(close(&mut fold, &[Mark::Ended { partition: 2 }]), Watermark(50));
        assert_eq!(close(&mut fold, &[Mark::Ended { partition: 1 }]), Watermark::END);
    }
}
