//! The state equals the model on random logs, cut into batches, spread over workers and restored from checkpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::DataType;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::model::{Fate, Model};
use super::*;
use crate::aggregate::Selection;
use crate::key::{KeyGroup, KeyGroups};
use crate::time::Watermark;
use crate::window::{KeyColumn, SavedPane};

/// A key of text, or of text and number.
fn column(is_wide: bool) -> KeyColumn {
    let mut fields = vec![(DataType::Utf8View, true)];
    fields.extend(is_wide.then_some((DataType::Int64, false)));
    KeyColumn::new(fields).expect("supported types")
}

/// Rows of one batch: a key, or none, and a time.
type Row = (Option<u32>, i64);

struct Batch {
    keys: ArrayRef,
    hashes: Vec<u64>,
    times_us: Vec<i64>,
    keyless: Option<BooleanArray>,
}

impl Batch {
    fn of(rows: &[Row], is_wide: bool) -> Batch {
        let name =
            |key: u32| if key.is_multiple_of(3) { format!("{key}") } else { format!("an event of number {key}") };
        let names: Vec<Option<String>> = rows.iter().map(|(key, _)| key.map(name)).collect();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(StringViewArray::from_iter(names.iter().map(Option::as_deref)))];
        if is_wide {
            columns.push(Arc::new(
                rows.iter().map(|(key, _)| Some(i64::from(key.unwrap_or(0) % 2))).collect::<Int64Array>(),
            ));
        }
        let keys = column(is_wide).keys(&columns, rows.len()).expect("keys");
        let keyless: BooleanArray = rows.iter().map(|(key, _)| Some(key.is_none())).collect();
        Batch {
            hashes: KeyColumn::hashes(&keys),
            keys,
            times_us: rows.iter().map(|(_, time_us)| *time_us).collect(),
            keyless: (keyless.true_count() > 0).then_some(keyless),
        }
    }

    fn candidates(&self) -> Candidates<'_> {
        let Batch { keys, hashes, times_us, keyless } = self;
        Candidates { keys, hashes, times_us, keyless: keyless.as_ref() }
    }
}

/// A checkpoint as it lies on disk: for each worker and stretch the parts, in order.
#[derive(Default)]
struct Checkpoint {
    watermark: Option<Watermark>,
    parts: BTreeMap<(usize, i64), Vec<SavedPane>>,
    rows_written: usize,
}

impl Checkpoint {
    fn take(&mut self, workers: &mut [DedupState], codec: &DedupCodec) {
        let mut parts = BTreeMap::new();
        let count = workers.len();
        for (worker, state) in workers.iter_mut().enumerate() {
            self.watermark = Some(state.watermark());
            for StretchSnapshot { start_us, kept, new } in state.snapshot() {
                let mut own = self.parts.remove(&(worker, start_us)).unwrap_or_default();
                assert!(kept <= own.len());
                own.truncate(kept);
                if let Some(new) = new {
                    let rows = codec.encode(&new).expect("encodes");
                    self.rows_written += rows.num_rows();
                    own.push(SavedPane { rows, groups: KeyGroups::of_worker(worker, count) });
                }
                parts.insert((worker, start_us), own);
            }
        }
        self.parts = parts;
    }

    /// Starts this many workers, and spreads the parts as they are spread over them.
    fn restore(&mut self, count: usize, within_us: i64, is_wide: bool) -> Vec<DedupState> {
        let parts: Vec<(i64, SavedPane)> = std::mem::take(&mut self.parts)
            .into_iter()
            .flat_map(|((_, start_us), parts)| parts.into_iter().map(move |part| (start_us, part)))
            .collect();
        let restore = |worker| {
            let own = KeyGroups::of_worker(worker, count);
            for (start_us, part) in &parts {
                if let Some(groups) = part.groups.shared_with(own) {
                    let share: &mut Vec<_> = self.parts.entry((worker, *start_us)).or_default();
                    share.push(SavedPane { groups, ..part.clone() });
                }
            }
            let share: Vec<(i64, Vec<SavedPane>)> = (self.parts.iter())
                .filter(|((of, _), _)| *of == worker)
                .map(|((_, start_us), parts)| (*start_us, parts.clone()))
                .collect();
            let mut state = DedupState::new(within_us, column(is_wide));
            state.restore(self.watermark.unwrap_or(Watermark::UNKNOWN), &share).expect("restores");
            state
        };
        (0..count).map(restore).collect()
    }
}

#[test]
fn each_event_is_taken_once_on_any_number_of_workers_and_through_restarts_from_checkpoints() {
    let mut fates = [0u64; 3];
    for seed in 0..300 {
        let mut dice = StdRng::seed_from_u64(seed);
        let (within_us, is_wide) = (dice.random_range(1..40), dice.random_bool(0.5));
        let (key_count, jitter) = (dice.random_range(1..60), dice.random_range(1..120));
        let delay = dice.random_range(0..60);
        let (mut model, mut checkpoint) = (Model::new(within_us), Checkpoint::default());
        let mut workers = checkpoint.restore(dice.random_range(1..5), within_us, is_wide);
        let codec = DedupCodec::new(column(is_wide));
        let (mut now_us, mut greatest_us) = (dice.random_range(-200..200), i64::MIN);
        let mut abandoned: Vec<Vec<Row>> = Vec::new();
        for _ in 0..dice.random_range(5..40) {
            now_us += dice.random_range(0..30);
            let mut rows: Vec<Row> = (0..dice.random_range(0..40))
                .map(|_| {
                    (
                        dice.random_bool(0.95).then(|| dice.random_range(0..key_count)),
                        now_us - dice.random_range(-jitter..jitter),
                    )
                })
                .collect();
            // What was sent before comes again, as it was.
            if let Some(again) = abandoned.last().filter(|_| dice.random_bool(0.5)) {
                rows.extend(again.iter().filter(|_| dice.random_bool(0.7)));
            }
            rows.shuffle(&mut dice);
            abandoned.push(rows.clone());
            let mut rest = rows.as_slice();
            while !rest.is_empty() {
                let (rows, behind) = rest.split_at(dice.random_range(1..=rest.len()));
                rest = behind;
                let batch = Batch::of(rows, is_wide);
                let mut found = vec![Fate::Repeat; rows.len()];
                let mut repeats = 0;
                let count = workers.len();
                for (worker, state) in workers.iter_mut().enumerate() {
                    let is_own = |row: &u32| KeyGroup::of(batch.hashes[*row as usize]).worker(count) == worker;
                    let own: Vec<u32> = (0..rows.len() as u32).filter(is_own).collect();
                    let judged = state.judge(batch.candidates(), Selection::Rows(&own));
                    assert!(judged.taken.is_sorted() && judged.late.is_sorted());
                    assert_eq!(judged.taken.len() + judged.late.len() + judged.repeats as usize, own.len());
                    judged.taken.iter().for_each(|row| found[*row as usize] = Fate::Taken);
                    judged.late.iter().for_each(|row| found[*row as usize] = Fate::TooOld);
                    repeats += judged.repeats;
                }
                let expected: Vec<Fate> = rows.iter().map(|(key, time_us)| model.judge(*key, *time_us)).collect();
                assert_eq!(found, expected, "seed {seed}, {count} workers, within {within_us}: {rows:?}");
                assert_eq!(repeats, found.iter().filter(|fate| **fate == Fate::Repeat).count() as u64);
                found.iter().for_each(|fate| fates[*fate as usize] += 1);
            }
            greatest_us = rows.iter().map(|(_, time_us)| *time_us).fold(greatest_us, i64::max);
            if greatest_us > i64::MIN && dice.random_bool(0.8) {
                let watermark = Watermark(greatest_us - delay);
                model.close(watermark);
                workers.iter_mut().for_each(|state| state.close(watermark));
            }
            if dice.random_bool(0.4) {
                checkpoint.take(&mut workers, &codec);
                if dice.random_bool(0.5) {
                    workers = checkpoint.restore(dice.random_range(1..5), within_us, is_wide);
                }
            }
        }
    }
    // A generator that never makes a row too old proves less than it says.
    assert!(fates.iter().all(|count| *count > 3_000), "taken, repeats, too old: {fates:?}");
}

/// One batch of these keys, all at one time.
fn at(time_us: i64, keys: std::ops::Range<u32>) -> Batch {
    Batch::of(&keys.map(|key| (Some(key), time_us)).collect::<Vec<_>>(), false)
}

fn judge(state: &mut DedupState, batch: &Batch) -> Judged {
    state.judge(batch.candidates(), Selection::All(batch.hashes.len()))
}

#[test]
fn a_copy_is_known_until_the_watermark_is_within_past_it_and_set_aside_from_then_on() {
    let mut state = DedupState::new(10, column(false));
    assert_eq!(judge(&mut state, &at(100, 0..1)).taken, [0]);
    state.close(Watermark(110));
    assert_eq!(judge(&mut state, &at(100, 0..1)).repeats, 1, "to the microsecond");
    state.close(Watermark(111));
    assert_eq!(judge(&mut state, &at(100, 0..2)).late, [0, 1], "whether it was there before is forgotten");
    assert_eq!(judge(&mut state, &at(101, 0..1)).taken, [0], "what it could repeat is forgotten");
    assert_eq!(judge(&mut state, &at(111, 0..1)).repeats, 1, "within ten, in the stretch behind");
    assert_eq!(judge(&mut state, &at(112, 0..1)).taken, [0], "more than ten later it is another event");
}

#[test]
fn memory_is_given_back_as_the_watermark_goes_on() {
    let mut state = DedupState::new(1_000, column(false));
    let mut most = 0;
    for step in 0..200 {
        let time_us = i64::from(step) * 100;
        assert_eq!(judge(&mut state, &at(time_us, step * 50..(step + 1) * 50)).taken.len(), 50);
        state.close(Watermark(time_us));
        most = most.max(state.key_count());
    }
    // 500 keys a stretch: the open one, and at most two behind it.
    assert!(most <= 1_500, "{most} keys at once");
    assert!(state.bytes() > 0);
    state.close(Watermark::END);
    assert_eq!((state.key_count(), state.bytes()), (0, 0));
}

#[test]
fn a_checkpoint_writes_what_was_added_and_each_key_a_few_times_only() {
    let (mut checkpoint, codec) = (Checkpoint::default(), DedupCodec::new(column(false)));
    let mut states = checkpoint.restore(1, 1_000_000, false);
    for step in 0..256 {
        judge(&mut states[0], &at(5, step * 10..(step + 1) * 10));
        checkpoint.take(&mut states, &codec);
    }
    let parts: Vec<usize> = checkpoint.parts.values().flatten().map(|part| part.rows.num_rows()).collect();
    assert_eq!(parts.iter().sum::<usize>(), 2_560, "every key is in one part");
    assert!(parts.len() <= 9, "{parts:?}");
    assert!(checkpoint.rows_written <= 2_560 * 9, "{} keys written", checkpoint.rows_written);
    let before = checkpoint.rows_written;
    checkpoint.take(&mut states, &codec);
    assert_eq!(checkpoint.rows_written, before, "nothing has changed");
    let batch: RecordBatch = checkpoint.parts[&(0, 0)][0].rows.clone();
    assert_eq!(
        batch.schema().fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(),
        ["group", "k0", "time"]
    );
}
