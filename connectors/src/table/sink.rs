//! The sink: buffers rows by epoch, writes them to files nobody knows of, then adds the files to the table.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringViewArray};
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, partition, take_record_batch};
use arrow::datatypes::DataType;
use tidemill_engine::clock::{Clock, Dice};
use tidemill_engine::epoch::Epoch;
use tidemill_engine::sink::{Committable, Sink, SinkError};
use tidemill_engine::storage::Storage;

use super::actions::Add;
use super::checkpoint;
use super::committer::Committer;
use super::encode::{Encoded, FILE_BYTES_MAX, encode_files};
use super::layout::{Layout, TableSpec};
use super::log::DeltaLog;
use super::path::{decode_path, encode_path, folder};
use super::snapshot::{BOUNDS_TAG, CRC32C_TAG, HI_EPOCH_TAG, LO_EPOCH_TAG};
use super::stats::file_stats;
use super::value::Value;

/// Version of what a [`Committable`] of this sink says: an `add` action.
const COMMITTABLE_VERSION: u32 = 1;
/// A string view array keeps the buffers of the batch it was cut from; above this much waste it is copied.
const VIEW_WASTE_BYTES_MAX: usize = 64 << 10;

/// A table that a job fills. See the module for how.
pub struct TableSink {
    storage: Arc<dyn Storage>,
    dir: String,
    clock: Arc<dyn Clock>,
    committer: Committer,
    /// In the names of all files of this process: what another one left behind is never written over.
    incarnation: u64,
    buffer: Vec<(Epoch, RecordBatch)>,
    buffered_bytes: usize,
    /// Epoch and sequence number of the next file's name.
    next_name: (Epoch, u32),
    file_bytes_max: usize,
    checkpointing: Option<JoinHandle<()>>,
}

impl TableSink {
    /// Opens the table in the folder `dir`, or creates it. Refuses one that is not what `spec` says, with what to do.
    pub fn open(
        storage: Arc<dyn Storage>,
        dir: &str,
        spec: TableSpec,
        clock: Arc<dyn Clock>,
        dice: Arc<dyn Dice>,
    ) -> Result<TableSink, SinkError> {
        let layout = Layout::of(&spec).map_err(|problem| SinkError::Refused { table: spec.name.clone(), problem })?;
        let random = u128::from(dice.roll()) << 64 | u128::from(dice.roll());
        let id = uuid::Builder::from_random_bytes(random.to_be_bytes()).into_uuid().to_string();
        let committer = Committer::open(&*storage, dir, spec, layout, &*clock, id)?;
        Ok(TableSink {
            storage,
            dir: dir.to_owned(),
            clock,
            committer,
            incarnation: dice.roll(),
            buffer: Vec::new(),
            buffered_bytes: 0,
            next_name: (Epoch::NONE, 0),
            file_bytes_max: FILE_BYTES_MAX,
            checkpointing: None,
        })
    }

    /// Returns the newest version of the table that this sink has written or seen.
    pub fn version(&self) -> u64 {
        self.committer.version()
    }

    fn log(&self) -> DeltaLog<'_> {
        DeltaLog { storage: &*self.storage, dir: &self.dir }
    }

    fn encode_error(&self, problem: impl ToString) -> SinkError {
        SinkError::Encode { table: self.name().to_owned(), problem: problem.to_string() }
    }

    /// Writes the files of sorted rows of one partition, and returns how the log will name them.
    fn write_files(
        &mut self,
        rows: &RecordBatch,
        partition: Option<&Value>,
        epoch: Epoch,
        span: (Epoch, Epoch),
    ) -> Result<Vec<Add>, SinkError> {
        let layout = self.committer.layout();
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
        let files = encode_files(&rows, &sort, self.file_bytes_max).map_err(|error| self.encode_error(error))?;
        let mut adds = Vec::with_capacity(files.len());
        for file in files {
            let name = self.next_file_name(epoch);
            let path = folder.as_ref().map_or_else(|| name.clone(), |folder| format!("{folder}/{name}"));
            self.storage
                .put_new(&self.log().table_path(&path), &file.bytes)
                .map_err(|source| SinkError::Storage { table: self.name().to_owned(), source })?;
            adds.push(add(&file, &path, partition_values.clone(), self.clock.now_us() / 1_000, span));
        }
        Ok(adds)
    }

    /// Never returns the same name twice, also not for another try of one epoch.
    fn next_file_name(&mut self, epoch: Epoch) -> String {
        if self.next_name.0 != epoch {
            self.next_name = (epoch, 0);
        }
        let sequence = self.next_name.1;
        self.next_name.1 += 1;
        format!("e{:012}-{:016x}-w00000-{sequence:04}.parquet", epoch.0, self.incarnation)
    }

    /// What another process prepared may be gone: it is checked before the log names it.
    fn check_files(&self, adds: &[Add]) -> Result<(), SinkError> {
        let incarnation = format!("-{:016x}-", self.incarnation);
        for add in adds.iter().filter(|add| !add.path.contains(&incarnation)) {
            let path = decode_path(&self.dir, &add.path).map_err(|error| error.into_sink_error(self.name()))?;
            let path = self.log().table_path(&path);
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
            let entries = self
                .storage
                .list(folder)
                .map_err(|source| SinkError::Storage { table: self.name().to_owned(), source })?;
            let size = entries.iter().find(|entry| entry.name == name).map(|entry| entry.size);
            if size.map(i64::try_from) != Some(Ok(add.size)) {
                let found = size.map_or("is gone".to_owned(), |size| format!("has {size} bytes, not {}", add.size));
                let problem = format!("{path} was prepared and {found}: restore it; nothing was committed");
                return Err(SinkError::Refused { table: self.name().to_owned(), problem });
            }
        }
        Ok(())
    }

    /// Makes a checkpoint of the log in the background, if it is time for one. One that fails costs only time at the
    /// next start, so it is told and not returned.
    fn checkpoint_if_due(&mut self) {
        let version = self.committer.version();
        if !version.is_multiple_of(checkpoint::INTERVAL_VERSIONS) {
            return;
        }
        if self.checkpointing.as_ref().is_some_and(|running| !running.is_finished()) {
            return;
        }
        let (storage, dir) = (Arc::clone(&self.storage), self.dir.clone());
        let (table, now_ms) = (self.name().to_owned(), self.clock.now_us() / 1_000);
        let work = move || match checkpoint::write(&*storage, &dir, version, now_ms) {
            Ok(()) => tracing::debug!(table, version, "log checkpoint written"),
            Err(error) => tracing::warn!(table, version, error = &error as &dyn std::error::Error, "no log checkpoint"),
        };
        match std::thread::Builder::new().name("table-checkpoint".to_owned()).spawn(work) {
            Ok(running) => self.checkpointing = Some(running),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "no thread for a log checkpoint"),
        }
    }
}

impl Drop for TableSink {
    fn drop(&mut self) {
        // Nothing of the sink touches storage after it is gone.
        if let Some(running) = self.checkpointing.take() {
            let _ = running.join();
        }
    }
}

impl Sink for TableSink {
    fn name(&self) -> &str {
        &self.committer.spec().name
    }

    fn last_committed(&self) -> Epoch {
        self.committer.last_committed()
    }

    fn write(&mut self, epoch: Epoch, rows: RecordBatch) -> Result<(), SinkError> {
        if epoch <= self.last_committed() || rows.num_rows() == 0 {
            return Ok(());
        }
        let rows = self.committer.layout().store(&rows).map_err(|problem| self.encode_error(problem))?;
        let rows = compact_views(rows);
        self.buffered_bytes += used_bytes(&rows);
        self.buffer.push((epoch, rows));
        Ok(())
    }

    fn buffered_bytes(&self) -> usize {
        self.buffered_bytes
    }

    fn prepare(&mut self, epoch: Epoch) -> Result<Vec<Committable>, SinkError> {
        let due: Vec<&(Epoch, RecordBatch)> = self.buffer.iter().filter(|(of, _)| *of <= epoch).collect();
        let (Some(lo), Some(hi)) = (due.iter().map(|(of, _)| *of).min(), due.iter().map(|(of, _)| *of).max()) else {
            return Ok(Vec::new());
        };
        let layout = self.committer.layout();
        let rows = concat_batches(&layout.stored, due.iter().map(|(_, rows)| rows))
            .map_err(|error| self.encode_error(error))?;
        let parts = sorted_parts(layout, &rows).map_err(|error| self.encode_error(error))?;
        drop(rows);
        let mut adds = Vec::new();
        for (partition, rows) in parts {
            adds.extend(self.write_files(&rows, partition.as_ref(), epoch, (lo, hi))?);
        }
        // Only now: after an error the rows are still here, and another try writes new files.
        self.buffer.retain(|(of, _)| *of > epoch);
        self.buffered_bytes = self.buffer.iter().map(|(_, rows)| used_bytes(rows)).sum();
        Ok(adds.iter().map(committable).collect())
    }

    fn commit(&mut self, epoch: Epoch, committables: &[Committable]) -> Result<(), SinkError> {
        if committables.is_empty() || epoch <= self.last_committed() {
            return Ok(());
        }
        let adds = committables
            .iter()
            .map(read_committable)
            .collect::<Result<Vec<Add>, String>>()
            .map_err(|problem| SinkError::Refused { table: self.name().to_owned(), problem })?;
        self.check_files(&adds)?;
        if self.committer.commit(&*self.storage, epoch, &adds, self.clock.now_us() / 1_000)? {
            self.checkpoint_if_due();
        }
        Ok(())
    }
}

fn committable(add: &Add) -> Committable {
    Committable {
        version: COMMITTABLE_VERSION,
        body: serde_json::to_string(add).expect("text keys, to memory"),
        summary: format!("{} ({} bytes)", add.path, add.size),
    }
}

fn read_committable(committable: &Committable) -> Result<Add, String> {
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
    (lo, hi): (Epoch, Epoch),
) -> Add {
    let stats = file_stats(&file.rows);
    let tags = [
        (LO_EPOCH_TAG, lo.to_string()),
        (HI_EPOCH_TAG, hi.to_string()),
        (BOUNDS_TAG, stats.exact),
        (CRC32C_TAG, format!("{:08x}", crc32c::crc32c(&file.bytes))),
    ];
    Add {
        path: encode_path(path),
        partition_values,
        size: i64::try_from(file.bytes.len()).expect("a file is small"),
        modification_time: now_ms,
        data_change: true,
        stats: Some(stats.json),
        tags: Some(tags.map(|(key, value)| (key.to_owned(), Some(value))).into()),
    }
}

/// Sorts rows by partition and then by the table's sort columns, and cuts them at the borders of partitions.
fn sorted_parts(
    layout: &Layout,
    rows: &RecordBatch,
) -> Result<Vec<(Option<Value>, RecordBatch)>, arrow::error::ArrowError> {
    let partition_column = layout.partition_of(rows);
    let by: Vec<SortColumn> = partition_column
        .iter()
        .chain(layout.sort.iter().map(|column| rows.column(*column)))
        .map(|values| SortColumn { values: Arc::clone(values), options: None })
        .collect();
    if by.is_empty() {
        return Ok(vec![(None, rows.clone())]);
    }
    let order = lexsort_to_indices(&by, None)?;
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
