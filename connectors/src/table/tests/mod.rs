//! Tables from the outside: what a job writes is what a reader sees, once, whatever storage does in between.

mod clean;
mod commit;
mod crash_windows;
mod describe;
mod faults;
mod faulty;
mod reading;
mod refusal;
mod replace;
mod rewind;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidemill_engine::clock::{ManualClock, SeededDice};
use tidemill_engine::epoch::Epoch;
use tidemill_engine::sink::{Committable, Sink, SinkError, SinkWriter};
use tidemill_engine::storage::{MemoryStorage, Storage};

use super::log::DeltaLog;
use super::{DataFile, Partitioning, Snapshot, TableSink, TableSpec};

const DIR: &str = "tables/readings$raw";
const DAY_US: i64 = 86_400_000_000;
/// 2026-11-20T00:00:00Z.
const NOVEMBER_20_US: i64 = 20_777 * DAY_US;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new("device", DataType::Utf8, true),
        Field::new("temp", DataType::Float64, true),
        Field::new("seq", DataType::UInt64, false),
        Field::new("ok", DataType::Boolean, true),
    ]))
}

fn spec(partition_by: Partitioning) -> TableSpec {
    TableSpec {
        name: "readings$raw".to_owned(),
        schema: schema(),
        partition_by,
        sort: vec!["device".to_owned(), "ts".to_owned()],
        time_column: Some("ts".to_owned()),
        job: "job-1".to_owned(),
        fingerprint: "f1".to_owned(),
    }
}

type Reading<'a> = (Option<i64>, Option<&'a str>, Option<f64>, u64);

fn rows(readings: &[Reading]) -> RecordBatch {
    let ts: TimestampMicrosecondArray = readings.iter().map(|row| row.0).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(ts.with_timezone("UTC")),
        Arc::new(readings.iter().map(|row| row.1).collect::<StringArray>()),
        Arc::new(readings.iter().map(|row| row.2).collect::<Float64Array>()),
        Arc::new(readings.iter().map(|row| Some(row.3)).collect::<UInt64Array>()),
        Arc::new(readings.iter().map(|row| Some(row.3 % 2 == 0)).collect::<BooleanArray>()),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// One row that says which it is.
fn row(seq: u64) -> RecordBatch {
    rows(&[(Some(NOVEMBER_20_US + seq.cast_signed()), Some("a"), Some(1.5), seq)])
}

/// A table as one process has it: the committer and a writer.
struct Process {
    sink: TableSink,
    writer: Box<dyn SinkWriter>,
}

impl Process {
    fn new(mut sink: TableSink) -> Process {
        Process { writer: sink.writer(0), sink }
    }

    fn prepare(&mut self, epoch: u64, rows: &[(u64, RecordBatch)]) -> Result<Vec<Committable>, SinkError> {
        let rows: Vec<_> = rows.iter().map(|(of, rows)| (Epoch(*of), rows.clone())).collect();
        self.writer.prepare(Epoch(epoch), &rows)
    }

    fn write_epoch(&mut self, epoch: u64, rows: RecordBatch) -> Vec<Committable> {
        self.prepare(epoch, &[(epoch, rows)]).unwrap()
    }

    fn commit(&mut self, epoch: u64, committables: &[Committable]) -> Result<(), SinkError> {
        self.sink.commit(Epoch(epoch), committables)
    }

    fn commit_epoch(&mut self, epoch: u64, rows: RecordBatch) {
        let committables = self.write_epoch(epoch, rows);
        self.commit(epoch, &committables).unwrap();
    }

    fn last_committed(&self) -> u64 {
        self.sink.last_committed().0
    }
}

/// The dice of a new process.
fn dice() -> Arc<SeededDice> {
    static PROCESSES: AtomicUsize = AtomicUsize::new(0);
    Arc::new(SeededDice::new(PROCESSES.fetch_add(1, Ordering::SeqCst) as u64))
}

/// Looks at the table as a new process would.
fn look(storage: &Arc<dyn Storage>, spec: TableSpec) -> Result<TableSink, SinkError> {
    let clock = Arc::new(ManualClock::at(NOVEMBER_20_US));
    TableSink::open(Arc::clone(storage), DIR, spec, clock, dice())
}

/// Opens the table as a new process would, and goes on with it, or creates it.
fn open(storage: &Arc<dyn Storage>, spec: TableSpec) -> Result<Process, SinkError> {
    open_at(storage, spec, NOVEMBER_20_US)
}

/// The same at another time.
fn open_at(storage: &Arc<dyn Storage>, spec: TableSpec, now_us: i64) -> Result<Process, SinkError> {
    let clock = Arc::new(ManualClock::at(now_us));
    TableSink::create_or_open(Arc::clone(storage), DIR, spec, clock, dice()).map(Process::new)
}

fn memory() -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::default())
}

fn plain() -> TableSpec {
    spec(Partitioning::None)
}

fn snapshot(storage: &Arc<dyn Storage>) -> Snapshot {
    Snapshot::load(&**storage, DIR).unwrap().expect("the table is there")
}

fn read_file(storage: &Arc<dyn Storage>, file: &DataFile) -> Vec<RecordBatch> {
    let bytes = storage.get(&format!("{DIR}/{}", file.path)).unwrap();
    assert_eq!(bytes.len() as u64, file.size);
    assert_eq!(Some(crc32c::crc32c(&bytes)), file.crc32c);
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
    reader.map(Result::unwrap).collect()
}

/// All sequence numbers a reader finds, in order.
fn sequence_numbers(storage: &Arc<dyn Storage>) -> Vec<i128> {
    let mut found = Vec::new();
    for file in &snapshot(storage).files {
        for batch in read_file(storage, file) {
            let column = batch.column_by_name("seq").unwrap();
            found.extend(column.as_primitive::<arrow::datatypes::Decimal128Type>().values().iter().copied());
        }
    }
    found.sort_unstable();
    found
}

fn refusal<T>(result: Result<T, SinkError>) -> String {
    match result {
        Err(SinkError::Refused { problem, .. }) => problem,
        Err(other) => panic!("not refused but {other}"),
        Ok(_) => panic!("not refused"),
    }
}

/// The paths of all data files that are there, in the table or not.
fn files_on_disk(storage: &Arc<dyn Storage>) -> Vec<String> {
    DeltaLog { storage: &**storage, dir: DIR }.data_files().unwrap().into_keys().collect()
}

fn version_path(version: u64) -> String {
    format!("{DIR}/_delta_log/{version:020}.json")
}
