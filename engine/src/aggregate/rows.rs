//! Selected rows of a batch, read in blocks that stay in the cache.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    DataType, Date32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};

use super::ordered::{ordered_f64, ordered_u64};

/// Rows that are accumulated together: their values and slots stay in the first-level cache.
pub(super) const BLOCK_ROWS: usize = 256;

/// Which rows of a batch to take.
#[derive(Clone, Copy, Debug)]
pub enum Selection<'a> {
    /// All of them: their number.
    All(usize),
    /// These, by index.
    Rows(&'a [u32]),
}

impl Selection<'_> {
    /// Returns how many rows are taken.
    pub fn count(&self) -> usize {
        match self {
            Selection::All(count) => *count,
            Selection::Rows(rows) => rows.len(),
        }
    }

    /// Copies the values of the selected rows from `start` on.
    #[inline]
    pub fn gather<V: Copy>(&self, values: &[V], start: usize, out: &mut [V]) {
        match self {
            Selection::All(_) => out.copy_from_slice(&values[start..start + out.len()]),
            Selection::Rows(rows) => {
                for (out, row) in out.iter_mut().zip(&rows[start..]) {
                    *out = values[*row as usize];
                }
            }
        }
    }

    /// Returns the batch's row of the selected row `at`.
    #[inline]
    pub fn row(&self, at: usize) -> usize {
        match self {
            Selection::All(_) => at,
            Selection::Rows(rows) => rows[at] as usize,
        }
    }
}

/// A block of selected rows of one column.
pub(super) struct Rows<'a> {
    pub(super) selection: Selection<'a>,
    pub(super) start: usize,
    pub(super) count: usize,
    pub(super) nulls: Option<&'a NullBuffer>,
}

impl Rows<'_> {
    /// Returns the batch's row at a place in the block.
    #[inline]
    pub(super) fn row(&self, at: usize) -> usize {
        self.selection.row(self.start + at)
    }

    /// Calls with the place in the block of each row that is not null.
    #[inline]
    pub(super) fn each_valid(&self, mut call: impl FnMut(usize)) {
        match self.nulls {
            None => (0..self.count).for_each(call),
            Some(nulls) => {
                for at in 0..self.count {
                    if nulls.is_valid(self.row(at)) {
                        call(at);
                    }
                }
            }
        }
    }

    #[inline]
    fn load<V: Copy, O>(&self, values: &[V], out: &mut [O; BLOCK_ROWS], convert: impl Fn(V) -> O) {
        match self.selection {
            Selection::All(_) => {
                for (out, value) in out.iter_mut().zip(&values[self.start..self.start + self.count]) {
                    *out = convert(*value);
                }
            }
            Selection::Rows(rows) => {
                for (out, row) in out.iter_mut().zip(&rows[self.start..self.start + self.count]) {
                    *out = convert(values[*row as usize]);
                }
            }
        }
    }

    /// Loads values as floats.
    pub(super) fn load_floats(&self, column: &ArrayRef, out: &mut [f64; BLOCK_ROWS]) {
        macro_rules! load {
            ($kind:ty) => {
                self.load(column.as_primitive::<$kind>().values(), out, |value| value as f64)
            };
        }
        match column.data_type() {
            DataType::Float64 => load!(Float64Type),
            DataType::Int64 => load!(Int64Type),
            DataType::Int32 => load!(Int32Type),
            DataType::Int16 => load!(Int16Type),
            DataType::Int8 => load!(Int8Type),
            DataType::UInt64 => load!(UInt64Type),
            DataType::UInt32 => load!(UInt32Type),
            DataType::UInt16 => load!(UInt16Type),
            DataType::UInt8 => load!(UInt8Type),
            other => unreachable!("no sum over {other}"),
        }
    }

    /// Loads values as integers in the same order.
    pub(super) fn load_ordered(&self, column: &ArrayRef, out: &mut [i64; BLOCK_ROWS]) {
        macro_rules! load {
            ($kind:ty) => {
                self.load(column.as_primitive::<$kind>().values(), out, i64::from)
            };
        }
        match column.data_type() {
            DataType::Float64 => self.load(column.as_primitive::<Float64Type>().values(), out, ordered_f64),
            DataType::Int64 => load!(Int64Type),
            DataType::Int32 => load!(Int32Type),
            DataType::Int16 => load!(Int16Type),
            DataType::Int8 => load!(Int8Type),
            DataType::UInt64 => self.load(column.as_primitive::<UInt64Type>().values(), out, ordered_u64),
            DataType::UInt32 => self.load(column.as_primitive::<UInt32Type>().values(), out, |v| ordered_u64(v.into())),
            DataType::UInt16 => self.load(column.as_primitive::<UInt16Type>().values(), out, |v| ordered_u64(v.into())),
            DataType::UInt8 => self.load(column.as_primitive::<UInt8Type>().values(), out, |v| ordered_u64(v.into())),
            DataType::Date32 => load!(Date32Type),
            DataType::Timestamp(TimeUnit::Microsecond, _) => load!(TimestampMicrosecondType),
            DataType::Timestamp(TimeUnit::Millisecond, _) => load!(TimestampMillisecondType),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => load!(TimestampNanosecondType),
            DataType::Timestamp(TimeUnit::Second, _) => load!(TimestampSecondType),
            DataType::Boolean => {
                let values = column.as_boolean().values();
                for (at, out) in out.iter_mut().enumerate().take(self.count) {
                    *out = i64::from(values.value(self.row(at)));
                }
            }
            other => unreachable!("no order over {other}"),
        }
    }
}
