//! The tables of the job: `raw` has a row for each message, `sums` one for each epoch with the sum of all messages so far.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use tidemill_connectors::table::{Partitioning, TableSpec};
use tidemill_engine::checkpoint::{BufferState, PackWriter, Part};
use tidemill_engine::epoch::Epoch;
use tidemill_engine::sink::{Committable, Sink, SinkWriter};

use super::job::JOB;
use super::judge::Row;

/// Its tables.
pub(crate) const TABLES: [&str; 2] = ["raw", "sums"];
/// Writers of each table.
pub(crate) const WRITERS: usize = 2;

/// What most steps come to.
pub(crate) type Outcome<T = ()> = Result<T, String>;

/// Turns any error into words.
pub(crate) fn words(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text += &format!(": {next}");
        cause = next.source();
    }
    text
}

/// The folder of a table.
pub(crate) fn table_dir(table: &str) -> String {
    format!("tables/{table}")
}

fn schema() -> SchemaRef {
    let field = |name: &str| Field::new(name, DataType::Int64, false);
    Arc::new(Schema::new(vec![field("key"), field("value")]))
}

/// What a table is.
pub(crate) fn spec(table: &str) -> TableSpec {
    TableSpec {
        name: table.to_owned(),
        schema: schema(),
        partition_by: Partitioning::None,
        sort: vec!["key".to_owned()],
        time_column: None,
        job: JOB.to_owned(),
        fingerprint: "f".to_owned(),
    }
}

/// What the views compute of an epoch; `total` is the state.
pub(crate) fn rows_of_epoch(table: &str, epoch: u64, messages: &[Row], total: &mut i64) -> Vec<Row> {
    *total += messages.iter().map(|(_, value)| value).sum::<i64>();
    if table == "raw" { messages.to_vec() } else { vec![(epoch.cast_signed(), *total)] }
}

/// Columns of integers.
pub(crate) fn batch(columns: &[(&str, Vec<i64>)]) -> RecordBatch {
    let columns = columns.iter().map(|(name, values)| (*name, Arc::new(Int64Array::from(values.clone())) as ArrayRef));
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

fn rows_batch(rows: &[Row]) -> RecordBatch {
    batch(&[("key", rows.iter().map(|row| row.0).collect()), ("value", rows.iter().map(|row| row.1).collect())])
}

/// A table, as the checkpointer knows it.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) sink: Box<dyn Sink>,
    pub(crate) writers: Vec<Box<dyn SinkWriter>>,
    pub(crate) base: Epoch,
    /// What it had when the process began: rows up to it are dropped.
    pub(crate) had: Epoch,
    pub(crate) committed: Epoch,
    /// Rows that no file has, by epoch.
    pub(crate) waiting: BTreeMap<u64, Vec<Row>>,
    pub(crate) saved: Vec<BufferState>,
    pub(crate) saved_up_to: Epoch,
    pub(crate) total: i64,
}

impl Table {
    /// Phase one: each writer has its share of the rows.
    pub(crate) fn prepare(&mut self, epoch: Epoch) -> Outcome<Vec<Committable>> {
        let later = self.waiting.split_off(&(epoch.0 + 1));
        let due = std::mem::replace(&mut self.waiting, later);
        let mut committables = Vec::new();
        for (index, writer) in self.writers.iter_mut().enumerate() {
            let share = |rows: &[Row]| -> Vec<Row> {
                rows.iter().filter(|row| row.0.rem_euclid(WRITERS as i64) == index as i64).copied().collect()
            };
            let rows: Vec<(Epoch, RecordBatch)> =
                due.iter().map(|(of, rows)| (Epoch(*of), rows_batch(&share(rows)))).collect();
            committables.extend(writer.prepare(epoch, &rows).map_err(words)?);
        }
        Ok(committables)
    }

    /// Saves the rows that no file and no earlier part has.
    pub(crate) fn save(&mut self, epoch: Epoch, packs: &mut PackWriter<'_>) -> Outcome {
        let new = self.waiting.range(self.saved_up_to.0 + 1..=epoch.0.max(self.saved_up_to.0));
        let (mut epochs, mut rows) = (Vec::new(), Vec::new());
        for (of, new) in new {
            epochs.extend(std::iter::repeat_n(of.cast_signed(), new.len()));
            rows.extend_from_slice(new);
        }
        self.saved_up_to = epoch;
        if rows.is_empty() {
            return Ok(());
        }
        let (keys, values) = rows.into_iter().unzip();
        let part: Part = packs.add(&batch(&[("key", keys), ("value", values), ("epoch", epochs)])).map_err(words)?;
        self.saved.push(BufferState { epoch, part });
        Ok(())
    }
}

/// Rows that a checkpoint held, each with its epoch.
pub(crate) fn with_epochs(rows: &RecordBatch) -> Vec<(u64, Row)> {
    let column = |idx: usize| rows.column(idx).as_primitive::<Int64Type>();
    (0..rows.num_rows())
        .map(|at| (column(2).value(at).cast_unsigned(), (column(0).value(at), column(1).value(at))))
        .collect()
}
