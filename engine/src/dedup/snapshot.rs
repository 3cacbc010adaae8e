//! Stretches as columns: what a checkpoint keeps, and how a stretch is made of it again.
//!
//! A part of a stretch is a batch with a row for each key, sorted by key group, so that a worker takes exactly its share:
//!
//! ```text
//!   group   UInt8, ascending       which of the 256 key groups
//!   k0, k1  as the key's columns   the key, in columns: no internal form of a key is stored
//!   time    Int64                  when it was taken, microseconds since 1970
//! ```

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;

use super::stretch::{NewKeys, Stretch};
use crate::aggregate::Selection;
use crate::window::{KeyColumn, SavedPane, by_key_group};

/// What a worker hands over of a stretch.
pub struct StretchSnapshot {
    /// Start of the stretch, microseconds.
    pub start_us: i64,
    /// How many parts of the last checkpoint still hold, the first ones.
    pub kept: usize,
    /// What comes behind them, as a part of its own.
    pub new: Option<NewKeys>,
}

/// Turns keys of one deduplicated source into batches.
pub struct DedupCodec {
    keys: KeyColumn,
    schema: SchemaRef,
}

impl DedupCodec {
    /// Makes the codec of a source with these keys.
    pub fn new(keys: KeyColumn) -> DedupCodec {
        let mut fields = vec![Field::new("group", DataType::UInt8, false)];
        let key_field = |(at, (kind, _)): (usize, &(DataType, bool))| Field::new(format!("k{at}"), kind.clone(), true);
        fields.extend(keys.fields().iter().enumerate().map(key_field));
        fields.push(Field::new("time", DataType::Int64, false));
        DedupCodec { keys, schema: Arc::new(Schema::new(fields)) }
    }

    /// Returns the keys as a part.
    pub fn encode(&self, new: &NewKeys) -> Result<RecordBatch, ArrowError> {
        let hashes = new.keys.hashes();
        let sorted = by_key_group(hashes.len(), |at| hashes[at]);
        let order = || sorted.order.iter().map(|at| *at as usize);
        let mut columns: Vec<ArrayRef> = vec![Arc::new(sorted.key_groups())];
        columns.extend(self.keys.columns(order().map(|at| new.keys.key(at)))?);
        columns.push(Arc::new(Int64Array::from_iter_values(order().map(|at| new.times_us[at]))));
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }
}

impl Stretch {
    /// Makes a stretch of the parts that a checkpoint has, in their order.
    pub(super) fn restore(keys: &KeyColumn, saved: &[SavedPane]) -> Result<Stretch, ArrowError> {
        let shares: Vec<RecordBatch> = saved.iter().map(SavedPane::share).collect::<Result<_, _>>()?;
        let mut stretch = Stretch::with_capacity(shares.iter().map(RecordBatch::num_rows).sum());
        let mut numbers = Vec::new();
        let key_count = keys.fields().len();
        for share in shares {
            let (expected, found) = (key_count + 2, share.num_columns());
            let times = share.columns().last().and_then(|column| column.as_primitive_opt::<Int64Type>());
            let Some(times) = times.filter(|_| found == expected) else {
                let problem = format!("saved keys have {found} columns, not {expected} of which the last is a time");
                return Err(ArrowError::SchemaError(problem));
            };
            let key_column = keys.keys(&share.columns()[1..=key_count], share.num_rows())?;
            let hashes = KeyColumn::hashes(&key_column);
            let before = stretch.key_count();
            stretch.intern(&key_column, &hashes, Selection::All(share.num_rows()), &mut numbers);
            for (number, time_us) in numbers.iter().zip(times.values()) {
                if !stretch.is_new(*number) {
                    return Err(ArrowError::SchemaError("a key was saved twice".to_owned()));
                }
                stretch.remember(*number, *time_us);
            }
            stretch.restored(before);
        }
        Ok(stretch)
    }
}
