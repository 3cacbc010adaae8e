//! The row buffer: rows of one table that are in no file yet, by epoch, and within an epoch in the order of the log.
//!
//! They are part of a checkpoint, so what they hold in memory is what a checkpoint writes: batches that keep much more
//! alive than they show are copied when they come in, and the bytes are counted once.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringViewArray};

use crate::dataflow::LogPlace;
use crate::epoch::Epoch;

/// A string view array keeps the buffers of the batch it was cut from; above this much waste it is copied.
const VIEW_WASTE_BYTES_MAX: usize = 64 << 10;

/// See the module.
#[derive(Default)]
pub(super) struct RowBuffer {
    epochs: BTreeMap<Epoch, Vec<Buffered>>,
    bytes: usize,
}

/// Rows, and the bytes they need.
struct Buffered {
    place: LogPlace,
    rows: RecordBatch,
    bytes: usize,
}

impl RowBuffer {
    /// Takes rows of an epoch. Epochs may come in any order, and so may the rows of one: workers are not equally fast. Those
    /// of one place stay in the order in which they come.
    pub(super) fn push(&mut self, epoch: Epoch, place: LogPlace, rows: RecordBatch) {
        if rows.num_rows() == 0 {
            return;
        }
        let rows = compact_views(rows);
        let bytes = used_bytes(&rows);
        self.bytes += bytes;
        let batches = self.epochs.entry(epoch).or_default();
        let at = batches.partition_point(|buffered| buffered.place <= place);
        batches.insert(at, Buffered { place, rows, bytes });
    }

    /// Returns the bytes of all rows.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the first epoch that has rows.
    pub(super) fn first(&self) -> Option<Epoch> {
        self.epochs.keys().next().copied()
    }

    /// Returns whether there are no rows.
    pub(super) fn is_empty(&self) -> bool {
        self.epochs.is_empty()
    }

    /// Takes the rows of all epochs up to and including `up_to` out, in the order of their epochs.
    pub(super) fn take(&mut self, up_to: Epoch) -> Vec<(Epoch, RecordBatch)> {
        let later = up_to.0.checked_add(1).map(|next| self.epochs.split_off(&Epoch(next))).unwrap_or_default();
        let due = std::mem::replace(&mut self.epochs, later);
        let mut taken = Vec::with_capacity(due.values().map(Vec::len).sum());
        for (epoch, batches) in due {
            for Buffered { rows, bytes, .. } in batches {
                self.bytes -= bytes;
                taken.push((epoch, rows));
            }
        }
        taken
    }

    /// Returns the rows that [`RowBuffer::take`] would take, and leaves them.
    pub(super) fn peek(&self, up_to: Epoch) -> impl Iterator<Item = (Epoch, &RecordBatch)> {
        self.epochs.range(..=up_to).flat_map(|(epoch, batches)| batches.iter().map(|buffered| (*epoch, &buffered.rows)))
    }
}

/// Copies string views that keep much more alive than they show.
fn compact_views(rows: RecordBatch) -> RecordBatch {
    let wasteful = |texts: &StringViewArray| {
        let held: usize = texts.data_buffers().iter().map(|buffer| buffer.len()).sum();
        held > 2 * texts.total_buffer_bytes_used() + VIEW_WASTE_BYTES_MAX
    };
    let (schema, columns, _) = rows.into_parts();
    let columns = columns.into_iter().map(|column| match column.as_string_view_opt() {
        Some(texts) if wasteful(texts) => Arc::new(texts.gc()) as ArrayRef,
        _ => column,
    });
    RecordBatch::try_new(schema, columns.collect()).expect("the same columns as before")
}

/// Returns the bytes that rows need, not those of larger buffers they are cut from.
fn used_bytes(rows: &RecordBatch) -> usize {
    let of = |column: &ArrayRef| match column.as_string_view_opt() {
        Some(texts) => texts.len() * 16 + texts.total_buffer_bytes_used(),
        None => column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size()),
    };
    rows.columns().iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;
    use crate::source::Offset;

    fn numbers(values: impl IntoIterator<Item = i64>) -> RecordBatch {
        let values = Arc::new(Int64Array::from_iter_values(values)) as ArrayRef;
        RecordBatch::try_from_iter([("n", values)]).expect("one column")
    }

    fn texts(rows: impl Iterator<Item = String>) -> RecordBatch {
        let values = Arc::new(StringViewArray::from_iter_values(rows)) as ArrayRef;
        RecordBatch::try_from_iter([("text", values)]).expect("one column")
    }

    #[test]
    fn rows_of_later_epochs_stay_and_the_bytes_follow() {
        let mut buffer = RowBuffer::default();
        buffer.push(Epoch(2), LogPlace::default(), numbers([2]));
        buffer.push(Epoch(1), LogPlace::default(), numbers([1]));
        buffer.push(Epoch(3), LogPlace::default(), numbers([3, 3]));
        buffer.push(Epoch(1), LogPlace::default(), numbers([]));
        assert_eq!(buffer.bytes(), 4 * 8);
        let peeked: Vec<(Epoch, RecordBatch)> =
            buffer.peek(Epoch(2)).map(|(epoch, rows)| (epoch, rows.clone())).collect();
        assert_eq!(peeked, [(Epoch(1), numbers([1])), (Epoch(2), numbers([2]))], "by epoch, and none without rows");
        assert_eq!(buffer.take(Epoch(2)), peeked);
        assert_eq!((buffer.bytes(), buffer.is_empty()), (16, false));
        assert_eq!(buffer.take(Epoch(2)), []);
        assert_eq!(buffer.take(Epoch(3)).len(), 1);
        assert_eq!((buffer.bytes(), buffer.is_empty()), (0, true));
    }

    #[test]
    fn rows_of_an_epoch_leave_in_the_order_of_the_log_whichever_worker_was_faster() {
        let place = |first: u64, batch: u64| LogPlace { first: Offset(first), batch, arrival_us: 0 };
        let mut buffer = RowBuffer::default();
        for (epoch, place, number) in [
            (2, place(9, 0), 5),
            (1, place(4, 0), 3),
            (1, place(0, 1), 2),
            (2, place(9, 0), 6),
            (1, place(8, 0), 4),
            (1, place(0, 0), 1),
        ] {
            buffer.push(Epoch(epoch), place, numbers([number]));
        }
        let taken: Vec<RecordBatch> = buffer.take(Epoch(2)).into_iter().map(|(_, rows)| rows).collect();
        assert_eq!(taken, [1, 2, 3, 4, 5, 6].map(|number| numbers([number])));
    }

    #[test]
    fn a_few_rows_do_not_keep_the_batch_alive_that_they_are_cut_from() {
        let large = texts((0..10_000).map(|row| format!("a text of more than twelve bytes, {row}")));
        let mut buffer = RowBuffer::default();
        buffer.push(Epoch(1), LogPlace::default(), large.slice(7, 2));
        assert!(buffer.bytes() < 200, "{}", buffer.bytes());
        let (_, rows) = buffer.take(Epoch(1)).remove(0);
        assert_eq!(rows, large.slice(7, 2));
        let held: usize = rows.column(0).as_string_view().data_buffers().iter().map(|buffer| buffer.len()).sum();
        assert!(held < 1_000, "{held}");
    }
}
