//! Finds the rows that a vectorised reader cannot read, at little cost when there are none or few.
//!
//! A reader takes many rows at once and fails as a whole. After a failure the range is cut: at the row that failed if
//! the reader knows it, in halves if not, until the bad rows stand alone. What was read before is read again, so the
//! result is the same as if each row had been read by itself.

use std::ops::Range;

use arrow::array::RecordBatch;

use super::BATCH_ROWS;

/// Rows that are tried at once after a failure: where one row is bad, its neighbours often are too.
const ROWS_AFTER_FAILURE: usize = 32;

/// Where a reader failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// At this row; rows before it may be good.
    At(usize),
    /// At any row of the range.
    Somewhere,
}

/// What could be read.
#[derive(Debug, Default)]
pub(super) struct Salvaged {
    /// Row ranges with their columns, in order.
    pub(super) good: Vec<(Range<usize>, RecordBatch)>,
    /// The rows that cannot be read, in order.
    pub(super) bad: Vec<usize>,
}

/// Reads rows `0..row_count`, each of them once into `good` or `bad`. A reader must start afresh after a failure.
pub(super) fn salvage(
    row_count: usize,
    mut read: impl FnMut(Range<usize>) -> Result<RecordBatch, Failure>,
) -> Salvaged {
    let mut salvaged = Salvaged::default();
    let mut next = 0;
    let mut step = BATCH_ROWS;
    while next < row_count {
        let range = next..(next + step).min(row_count);
        next = range.end;
        match read(range.clone()) {
            Ok(batch) => {
                salvaged.good.push((range, batch));
                step = (step * 4).min(BATCH_ROWS);
            }
            Err(Failure::At(row)) => {
                assert!(range.contains(&row), "a reader fails inside its range");
                if row > range.start {
                    halve(range.start..row, &mut read, &mut salvaged);
                }
                salvaged.bad.push(row);
                next = row + 1;
                step = ROWS_AFTER_FAILURE;
            }
            Err(Failure::Somewhere) => cut(range, &mut read, &mut salvaged),
        }
    }
    salvaged
}

fn halve(
    range: Range<usize>,
    read: &mut impl FnMut(Range<usize>) -> Result<RecordBatch, Failure>,
    salvaged: &mut Salvaged,
) {
    match read(range.clone()) {
        Ok(batch) => salvaged.good.push((range, batch)),
        Err(_) => cut(range, read, salvaged),
    }
}

fn cut(
    range: Range<usize>,
    read: &mut impl FnMut(Range<usize>) -> Result<RecordBatch, Failure>,
    salvaged: &mut Salvaged,
) {
    if range.len() == 1 {
        return salvaged.bad.push(range.start);
    }
    let middle = range.start + range.len() / 2;
    halve(range.start..middle, read, salvaged);
    halve(middle..range.end, read, salvaged);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{RecordBatch, RecordBatchOptions};
    use arrow::datatypes::Schema;

    use super::*;

    #[test]
    fn every_row_comes_out_once_whatever_is_bad() {
        for seed in 0..200usize {
            let row_count = seed * 7 % 300;
            let is_bad = |row: usize| (row * 2_654_435_761 + seed * 97) % 101 < seed % 13;
            let knows_where = seed % 2 == 0;
            let salvaged = salvage(row_count, |range| match range.clone().find(|row| is_bad(*row)) {
                Some(row) if knows_where => Err(Failure::At(row)),
                Some(_) => Err(Failure::Somewhere),
                None => {
                    let options = RecordBatchOptions::new().with_row_count(Some(range.len()));
                    Ok(RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap())
                }
            });
            assert_eq!(salvaged.bad, (0..row_count).filter(|row| is_bad(*row)).collect::<Vec<_>>());
            let good: Vec<usize> = salvaged.good.iter().flat_map(|(range, _)| range.clone()).collect();
            assert_eq!(good, (0..row_count).filter(|row| !is_bad(*row)).collect::<Vec<_>>());
        }
    }
}
