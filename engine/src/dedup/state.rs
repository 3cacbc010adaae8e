//! The state of one deduplicated source on one worker. Pure: no clock, no I/O, no timely.

use std::collections::BTreeMap;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::error::ArrowError;

use super::snapshot::StretchSnapshot;
use super::stretch::Stretch;
use crate::aggregate::Selection;
use crate::time::Watermark;
use crate::window::{KeyColumn, NO_GROUP, SavedPane};

/// From this many keys on a new stretch is made as big as the last one was; fewer may be stragglers.
const PRESIZE_KEYS_MIN: usize = 1_024;

/// What became of some rows. Every one of them is in one of these.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// The rows that go on, ascending.
    pub taken: Vec<u32>,
    /// The rows that are too old to tell, ascending.
    pub late: Vec<u32>,
    /// How many are repeats.
    pub repeats: u64,
}

/// Rows of one batch, as they are judged.
#[derive(Clone, Copy)]
pub struct Candidates<'a> {
    /// The key of each row.
    pub keys: &'a ArrayRef,
    /// The hash of each key.
    pub hashes: &'a [u64],
    /// The time of each row, microseconds.
    pub times_us: &'a [i64],
    /// Where it is true, the row has no key; `None`: all rows have one.
    pub keyless: Option<&'a BooleanArray>,
}

/// What is remembered of the keys of a worker, and the watermark that it was last forgotten by. See the
/// [module](super) for the rule.
pub struct DedupState {
    within_us: i64,
    keys: KeyColumn,
    watermark: Watermark,
    /// By their starts.
    stretches: BTreeMap<i64, Stretch>,
    numbers: Vec<u32>,
    run: Vec<u32>,
}

impl DedupState {
    /// Makes a state that remembers nothing.
    pub fn new(within_us: i64, keys: KeyColumn) -> DedupState {
        assert!(within_us > 0, "WITHIN is longer than nothing");
        DedupState {
            within_us,
            keys,
            watermark: Watermark::UNKNOWN,
            stretches: BTreeMap::new(),
            numbers: Vec::new(),
            run: Vec::new(),
        }
    }

    /// Returns the watermark of the last epoch that was closed.
    pub fn watermark(&self) -> Watermark {
        self.watermark
    }

    /// Judges the selected rows, in their order; calls follow the order of the log.
    pub fn judge(&mut self, rows: Candidates<'_>, selection: Selection<'_>) -> Judged {
        let mut judged = Judged { taken: Vec::with_capacity(selection.count()), ..Judged::default() };
        let (within_us, oldest_us) = (self.within_us, self.oldest_us());
        let mut run = std::mem::take(&mut self.run);
        let mut start_us = i64::MIN;
        for at in 0..selection.count() {
            let row = selection.row(at);
            if rows.keyless.is_some_and(|keyless| keyless.value(row)) {
                judged.taken.push(row as u32);
                continue;
            }
            let time_us = rows.times_us[row];
            if time_us < oldest_us {
                judged.late.push(row as u32);
                continue;
            }
            if (time_us.wrapping_sub(start_us) as u64) >= within_us as u64 {
                self.judge_run(start_us, &run, rows, &mut judged);
                run.clear();
                start_us = time_us - time_us.rem_euclid(within_us);
            }
            run.push(row as u32);
        }
        self.judge_run(start_us, &run, rows, &mut judged);
        run.clear();
        self.run = run;
        if rows.keyless.is_some() {
            judged.taken.sort_unstable();
        }
        judged
    }

    /// The earliest time that is remembered, and at which a row can be judged.
    fn oldest_us(&self) -> i64 {
        self.watermark.0.saturating_sub(self.within_us)
    }

    /// Judges rows that follow each other and lie in one stretch.
    fn judge_run(&mut self, start_us: i64, run: &[u32], rows: Candidates<'_>, judged: &mut Judged) {
        if run.is_empty() {
            return;
        }
        let (within_us, oldest_us) = (self.within_us, self.oldest_us());
        let mut numbers = std::mem::take(&mut self.numbers);
        // Only the run's own stretch changes: the neighbours are asked for all rows at once.
        let mut rest: Option<Vec<u32>> = None;
        for neighbour_us in [start_us - within_us, start_us + within_us] {
            let Some(neighbour) = self.stretches.get(&neighbour_us) else { continue };
            let asked = rest.as_deref().unwrap_or(run);
            neighbour.find(rows.keys, rows.hashes, Selection::Rows(asked), &mut numbers);
            if numbers.iter().all(|number| *number == NO_GROUP) {
                continue;
            }
            let is_repeat = |(row, number): (&u32, &u32)| {
                *number != NO_GROUP && {
                    let before_us = neighbour.time_us(*number);
                    before_us >= oldest_us && before_us.abs_diff(rows.times_us[*row as usize]) <= within_us as u64
                }
            };
            let kept = asked.iter().zip(&numbers).filter(|pair| !is_repeat(*pair)).map(|(row, _)| *row).collect();
            rest = Some(kept);
        }
        let asked = rest.as_deref().unwrap_or(run);
        judged.repeats += (run.len() - asked.len()) as u64;
        if !asked.is_empty() {
            let own = self.stretch(start_us, asked.len());
            own.intern(rows.keys, rows.hashes, Selection::Rows(asked), &mut numbers);
            for (row, number) in asked.iter().zip(&numbers) {
                if own.is_new(*number) || own.time_us(*number) < oldest_us {
                    own.remember(*number, rows.times_us[*row as usize]);
                    judged.taken.push(*row);
                } else {
                    judged.repeats += 1;
                }
            }
        }
        self.numbers = numbers;
    }

    fn stretch(&mut self, start_us: i64, row_count: usize) -> &mut Stretch {
        let newest = self.stretches.last_key_value();
        let expected = match newest {
            Some((newest_us, newest)) if row_count >= PRESIZE_KEYS_MIN && start_us > *newest_us => newest.key_count(),
            _ => 0,
        };
        self.stretches.entry(start_us).or_insert_with(|| Stretch::with_capacity(expected))
    }

    /// Ends an epoch: forgets what the watermark has passed. A watermark never moves back: an earlier one does nothing.
    pub fn close(&mut self, watermark: Watermark) {
        if watermark <= self.watermark {
            return;
        }
        self.watermark = watermark;
        while let Some(first) = self.stretches.first_entry() {
            // Its last instant is more than WITHIN behind.
            if first.key() + 2 * self.within_us > watermark.0 {
                break;
            }
            first.remove();
        }
    }

    /// Returns how many keys are held.
    pub fn key_count(&self) -> usize {
        self.stretches.values().map(Stretch::key_count).sum()
    }

    /// Returns the bytes held.
    pub fn bytes(&self) -> usize {
        self.stretches.values().map(Stretch::bytes).sum()
    }

    /// Hands everything over to a checkpoint, by stretches: what the last checkpoint has is only counted.
    pub fn snapshot(&mut self) -> Vec<StretchSnapshot> {
        let hand_over = |(start_us, stretch): (&i64, &mut Stretch)| {
            let (kept, new) = stretch.save();
            StretchSnapshot { start_us: *start_us, kept, new }
        };
        self.stretches.iter_mut().map(hand_over).collect()
    }

    /// Takes over what a checkpoint has, by starts of stretches; before the first row.
    pub fn restore(&mut self, watermark: Watermark, saved: &[(i64, Vec<SavedPane>)]) -> Result<(), ArrowError> {
        self.watermark = watermark;
        for (start_us, parts) in saved {
            let stretch = Stretch::restore(&self.keys, parts)?;
            self.stretches.insert(*start_us, stretch);
        }
        Ok(())
    }
}
