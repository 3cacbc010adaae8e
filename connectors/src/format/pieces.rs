//! Rows that were read in pieces, back in the order in which they were sent.

use arrow::array::RecordBatch;
use arrow::compute::interleave_record_batch;

use super::BATCH_ROWS;

/// Batches of one schema, with the numbers of their rows.
#[derive(Default)]
pub(super) struct Pieces {
    numbers: Vec<Vec<usize>>,
    batches: Vec<RecordBatch>,
}

impl Pieces {
    /// Adds rows; their numbers ascend, and none was there before.
    pub(super) fn push(&mut self, numbers: Vec<usize>, batch: RecordBatch) {
        debug_assert_eq!(numbers.len(), batch.num_rows());
        self.numbers.push(numbers);
        self.batches.push(batch);
    }

    /// Returns all rows by their numbers.
    pub(super) fn in_order(self) -> Vec<RecordBatch> {
        let Pieces { numbers, batches } = self;
        if numbers.windows(2).all(|pair| pair[0].last() < pair[1].first()) {
            return batches;
        }
        let places = numbers
            .iter()
            .enumerate()
            .flat_map(|(piece, numbers)| numbers.iter().enumerate().map(move |(row, number)| (*number, (piece, row))));
        let mut places: Vec<(usize, (usize, usize))> = places.collect();
        places.sort_unstable_by_key(|(number, _)| *number);
        let places: Vec<(usize, usize)> = places.into_iter().map(|(_, place)| place).collect();
        let batches: Vec<&RecordBatch> = batches.iter().collect();
        let rows = places.chunks(BATCH_ROWS);
        rows.map(|rows| interleave_record_batch(&batches, rows).expect("batches of one schema")).collect()
    }
}
