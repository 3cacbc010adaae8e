//! The writer: phase one. Rows of one partition, sorted, become files that nobody knows of.
//!
//! Several writers of one table work side by side: each has an index in the names of its files, and they share nothing
//! that changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{concat_batches, partition, take_record_batch};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use tidemill_engine::epoch::Epoch;
use tidemill_engine::seeded_bugs::{SeededBug, is_planted};
use tidemill_engine::sink::{Committable, SinkError, SinkWriter};

use super::actions::Add;
use super::encode::{Encoded, FILE_BYTES_MAX, encode_files};
use super::layout::Layout;
use super::order::order_of;
use super::path::{FileName, encode_path, folder};
use super::sink::Shared;
use super::snapshot::{BOUNDS_TAG, CRC32C_TAG, GENERATION_TAG, HI_EPOCH_TAG, LO_EPOCH_TAG};
use super::stats::file_stats;
use super::value::Value;
use super::{TableError, refused};

/// Version of what a [`Committable`] of this sink says: an `add` action.
const COMMITTABLE_VERSION: u32 = 1;

/// See the module.
pub(super) struct TableWriter {
    shared: Arc<Shared>,
    index: usize,
    /// Epoch and sequence number of the next file's name.
    next_name: (Epoch, u32),
}

/// What all files of one call have in common.
struct Span {
    generation: u64,
    epoch: Epoch,
    lo: Epoch,
    hi: Epoch,
}

impl TableWriter {
    /// Makes a writer; no other one of this process may have the same index.
    pub(super) fn new(shared: Arc<Shared>, index: usize) -> TableWriter {
        TableWriter { shared, index, next_name: (Epoch::NONE, 0) }
    }

    fn encode_error(&self, problem: impl ToString) -> SinkError {
        SinkError::Encode { table: self.shared.spec.name.clone(), problem: problem.to_string() }
    }

    fn refused(&self, problem: String) -> SinkError {
        refused(&self.shared.spec.name, problem)
    }

    /// Writes the files of sorted rows of one partition, and returns how the log will name them.
    fn write_files(
        &mut self,
        rows: &RecordBatch,
        partition: Option<&Value>,
        span: &Span,
    ) -> Result<Vec<Add>, SinkError> {
        let shared = Arc::clone(&self.shared);
        let layout = &shared.layout;
        let rows = layout.file_rows(rows);
        let sort: Vec<usize> = layout
            .sort
            .iter()
            .map(|column| {
                layout.file.index_of(layout.stored.field(*column).name()).expect("a sorted column is in the file")
            })
            .collect();
        let column = layout.partition_column().map(|name| {
            let field = layout.table.field_with_name(name).expect("the partition column is in the table");
            (name.to_owned(), partition.and_then(|value| value.partition_text(field.data_type())))
        });
        let folder = column.as_ref().map(|(name, text)| folder(name, text.as_deref()));
        let partition_values: BTreeMap<String, Option<String>> = column.into_iter().collect();
        let files = encode_files(&rows, &sort, FILE_BYTES_MAX).map_err(|error| self.encode_error(error))?;
        let mut adds = Vec::with_capacity(files.len());
        for file in files {
            let name = self.next_file_name(span.epoch);
            let path = folder.as_ref().map_or_else(|| name.to_string(), |folder| format!("{folder}/{name}"));
            let at = shared.log().table_path(&path);
            let put = match is_planted(SeededBug::FileNamesReused) {
                true => shared.storage.put(&at, &file.bytes),
                false => shared.storage.put_new(&at, &file.bytes),
            };
            put.map_err(|source| TableError::from(source).into_sink_error(&shared.spec.name))?;
            adds.push(add(&file, &path, partition_values.clone(), shared.now_ms(), span));
        }
        Ok(adds)
    }

    /// Never returns the same name twice, also not for another try of one epoch.
    fn next_file_name(&mut self, epoch: Epoch) -> FileName {
        if self.next_name.0 != epoch {
            self.next_name = (epoch, 0);
        }
        let sequence = self.next_name.1;
        self.next_name.1 += 1;
        FileName { epoch, incarnation: self.shared.incarnation, writer: self.index, sequence }
    }
}

impl SinkWriter for TableWriter {
    fn prepare(&mut self, epoch: Epoch, rows: &[(Epoch, RecordBatch)]) -> Result<Vec<Committable>, SinkError> {
        let Some(generation) = self.shared.generation.get().copied() else {
            return Err(self.refused("rows were written before it was begun".to_owned()));
        };
        let due = || rows.iter().filter(|(_, rows)| rows.num_rows() > 0);
        let (Some(lo), Some(hi)) = (due().map(|(of, _)| *of).min(), due().map(|(of, _)| *of).max()) else {
            return Ok(Vec::new());
        };
        if hi > epoch {
            return Err(self.refused(format!("rows of epoch {hi} were to be prepared with those of epoch {epoch}")));
        }
        let shared = Arc::clone(&self.shared);
        let stored = due()
            .map(|(_, rows)| shared.layout.store(rows))
            .collect::<Result<Vec<RecordBatch>, String>>()
            .map_err(|problem| self.encode_error(problem))?;
        let rows = concat_batches(&shared.layout.stored, &stored).map_err(|error| self.encode_error(error))?;
        drop(stored);
        let parts = sorted_parts(&shared.layout, &rows).map_err(|error| self.encode_error(error))?;
        drop(rows);
        let span = Span { generation, epoch, lo, hi };
        let mut committables = Vec::new();
        for (partition, rows) in parts {
            committables.extend(self.write_files(&rows, partition.as_ref(), &span)?.iter().map(committable));
        }
        Ok(committables)
    }
}

fn committable(add: &Add) -> Committable {
    Committable {
        version: COMMITTABLE_VERSION,
        body: serde_json::to_string(add).expect("text keys, to memory"),
        summary: format!("{} ({} bytes)", add.path, add.size),
    }
}

/// Reads what [`TableWriter`] prepared, perhaps in another process.
pub(super) fn read_committable(committable: &Committable) -> Result<Add, String> {
    if committable.version != COMMITTABLE_VERSION {
        return Err(format!(
            "{} was prepared in version {} of the format, and {COMMITTABLE_VERSION} is known here: use the program that prepared it",
            committable.summary, committable.version
        ));
    }
    serde_json::from_str(&committable.body).map_err(|error| format!("{}: {error}", committable.summary))
}

fn add(
    file: &Encoded,
    path: &str,
    partition_values: BTreeMap<String, Option<String>>,
    now_ms: i64,
    span: &Span,
) -> Add {
    let stats = file_stats(&file.rows);
    let tags = [
        (LO_EPOCH_TAG, span.lo.to_string()),
        (HI_EPOCH_TAG, span.hi.to_string()),
        (BOUNDS_TAG, stats.exact),
        (CRC32C_TAG, format!("{:08x}", crc32c::crc32c(&file.bytes))),
    ];
    let generation = (span.generation > 0).then(|| (GENERATION_TAG, span.generation.to_string()));
    let tags = tags.into_iter().chain(generation);
    Add {
        path: encode_path(path),
        partition_values,
        size: i64::try_from(file.bytes.len()).expect("a file is small"),
        modification_time: now_ms,
        data_change: true,
        stats: Some(stats.json),
        tags: Some(tags.map(|(key, value)| (key.to_owned(), Some(value))).collect()),
    }
}

/// Sorts rows by partition and then by the table's sort columns, and cuts them at the borders of partitions.
fn sorted_parts(layout: &Layout, rows: &RecordBatch) -> Result<Vec<(Option<Value>, RecordBatch)>, ArrowError> {
    let partition_column = layout.partition_of(rows);
    let sorted_by = layout.sort.iter().map(|column| rows.column(*column));
    let by: Vec<ArrayRef> = partition_column.iter().chain(sorted_by).map(Arc::clone).collect();
    if by.is_empty() {
        return Ok(vec![(None, rows.clone())]);
    }
    let order = order_of(&by)?;
    let sorted = take_record_batch(rows, &order)?;
    let Some(partition_column) = partition_column else { return Ok(vec![(None, sorted)]) };
    let values = arrow::compute::take(&partition_column, &order, None)?;
    let ranges = partition(&[Arc::clone(&values)])?.ranges();
    Ok(ranges
        .into_iter()
        .map(|range| (value_at(&values, range.start), sorted.slice(range.start, range.len())))
        .collect())
}

/// Returns a partition's value; the layout lets only these types be one.
fn value_at(values: &ArrayRef, row: usize) -> Option<Value> {
    use arrow::datatypes::{Date32Type, Int8Type, Int16Type, Int32Type, Int64Type};
    if values.is_null(row) {
        return None;
    }
    Some(match values.data_type() {
        DataType::Boolean => Value::Boolean(values.as_boolean().value(row)),
        DataType::Int8 => Value::Integer(values.as_primitive::<Int8Type>().value(row).into()),
        DataType::Int16 => Value::Integer(values.as_primitive::<Int16Type>().value(row).into()),
        DataType::Int32 => Value::Integer(values.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => Value::Integer(values.as_primitive::<Int64Type>().value(row)),
        DataType::Date32 => Value::Integer(values.as_primitive::<Date32Type>().value(row).into()),
        DataType::Utf8View => Value::Text(values.as_string_view().value(row).into()),
        other => unreachable!("{other} is not the type of a partition column"),
    })
}
