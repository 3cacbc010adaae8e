//! Tables from the outside: what a job writes is what a reader sees, once, whatever storage does in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Date32Type, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use bytes::Bytes;
use parking_lot::Mutex;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidemill_engine::clock::{ManualClock, SeededDice};
use tidemill_engine::epoch::Epoch;
use tidemill_engine::sink::{Committable, Sink, SinkError};
use tidemill_engine::storage::{AppendFile, Entry, MemoryStorage, Storage, StorageError};

use super::{DataFile, Partitioning, Snapshot, TableSink, TableSpec, Value};

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
        app_id: "tidemill/job-1/readings$raw".to_owned(),
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

/// Opens the table as a new process would.
fn open(storage: &Arc<dyn Storage>, spec: TableSpec) -> Result<TableSink, SinkError> {
    static PROCESSES: AtomicUsize = AtomicUsize::new(0);
    let dice = SeededDice::new(PROCESSES.fetch_add(1, Ordering::SeqCst) as u64);
    TableSink::open(Arc::clone(storage), DIR, spec, Arc::new(ManualClock::at(NOVEMBER_20_US)), Arc::new(dice))
}

fn memory() -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::default())
}

fn plain() -> TableSpec {
    spec(Partitioning::None)
}

fn write_epoch(sink: &mut TableSink, epoch: u64, rows: RecordBatch) -> Vec<Committable> {
    sink.write(Epoch(epoch), rows).unwrap();
    sink.prepare(Epoch(epoch)).unwrap()
}

fn commit_epoch(sink: &mut TableSink, epoch: u64, rows: RecordBatch) {
    let committables = write_epoch(sink, epoch, rows);
    sink.commit(Epoch(epoch), &committables).unwrap();
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

fn refusal(result: Result<TableSink, SinkError>) -> String {
    match result {
        Err(SinkError::Refused { problem, .. }) => problem,
        Err(other) => panic!("not refused but {other}"),
        Ok(_) => panic!("not refused"),
    }
}

#[test]
fn what_is_committed_is_there_after_a_restart_and_what_is_only_prepared_is_not() {
    let storage = memory();
    let mut sink = open(&storage, plain()).unwrap();
    assert_eq!(sink.last_committed(), Epoch::NONE);
    commit_epoch(&mut sink, 3, row(1));
    write_epoch(&mut sink, 5, row(2));
    assert_eq!(sink.buffered_bytes(), 0);
    drop(sink);

    assert_eq!(sequence_numbers(&storage), [1]);
    let mut sink = open(&storage, plain()).unwrap();
    assert_eq!(sink.last_committed(), Epoch(3));
    // The replay sends everything again.
    sink.write(Epoch(3), row(1)).unwrap();
    commit_epoch(&mut sink, 5, row(2));
    assert_eq!(sequence_numbers(&storage), [1, 2]);
    assert_eq!(snapshot(&storage).transactions["tidemill/job-1/readings$raw"], 5);
}

#[test]
fn committing_twice_counts_once() {
    let storage = memory();
    let mut sink = open(&storage, plain()).unwrap();
    let committables = write_epoch(&mut sink, 1, row(1));
    sink.commit(Epoch(1), &committables).unwrap();
    sink.commit(Epoch(1), &committables).unwrap();
    let mut successor = open(&storage, plain()).unwrap();
    successor.commit(Epoch(1), &committables).unwrap();
    assert_eq!(sequence_numbers(&storage), [1]);
    assert_eq!(snapshot(&storage).version, 1);
}

#[test]
fn an_epoch_without_rows_makes_no_version() {
    let storage = memory();
    let mut sink = open(&storage, plain()).unwrap();
    sink.write(Epoch(1), row(1).slice(0, 0)).unwrap();
    assert_eq!(sink.prepare(Epoch(1)).unwrap(), []);
    sink.commit(Epoch(1), &[]).unwrap();
    assert_eq!((snapshot(&storage).version, sink.last_committed()), (0, Epoch::NONE));
}

#[test]
fn a_successor_commits_what_was_prepared_unless_the_file_is_gone() {
    let storage = memory();
    let committables = write_epoch(&mut open(&storage, plain()).unwrap(), 1, row(1));
    let file = storage.list(DIR).unwrap().into_iter().find(|entry| !entry.is_dir).unwrap().name;
    let bytes = storage.get(&format!("{DIR}/{file}")).unwrap();
    storage.delete(&format!("{DIR}/{file}")).unwrap();
    let mut successor = open(&storage, plain()).unwrap();
    let error = successor.commit(Epoch(1), &committables).expect_err("the file is gone").to_string();
    assert!(error.contains(&file) && error.contains("is gone"), "{error}");
    storage.put_new(&format!("{DIR}/{file}"), &bytes).unwrap();
    successor.commit(Epoch(1), &committables).unwrap();
    assert_eq!(sequence_numbers(&storage), [1]);
}

#[test]
fn rows_of_later_epochs_stay_for_the_next_commit() {
    let storage = memory();
    let mut sink = open(&storage, plain()).unwrap();
    for epoch in 1..=3 {
        sink.write(Epoch(epoch), row(epoch)).unwrap();
    }
    let committables = sink.prepare(Epoch(2)).unwrap();
    assert!(sink.buffered_bytes() > 0);
    sink.commit(Epoch(2), &committables).unwrap();
    assert_eq!(sequence_numbers(&storage), [1, 2]);
    let file = snapshot(&storage).files[0].clone();
    assert_eq!((file.lo_epoch, file.hi_epoch), (Some(Epoch(1)), Some(Epoch(2))));
    let committables = sink.prepare(Epoch(3)).unwrap();
    sink.commit(Epoch(3), &committables).unwrap();
    assert_eq!(sequence_numbers(&storage), [1, 2, 3]);
}

#[test]
fn a_snapshot_tells_what_was_written() {
    let storage = memory();
    let mut sink = open(&storage, spec(Partitioning::Day("ts".to_owned()))).unwrap();
    let readings: [Reading; 6] = [
        (Some(NOVEMBER_20_US + 1), Some("b"), Some(f64::NAN), 3),
        (Some(NOVEMBER_20_US + 1_001), Some(""), None, u64::MAX),
        (Some(-1), Some("z"), Some(-2.5), 5),
        (Some(-DAY_US), None, Some(-0.0), 6),
        (None, Some("no time"), Some(1.0), 7),
        (Some(i64::MAX), Some("no year"), Some(1.0), 8),
    ];
    commit_epoch(&mut sink, 1, rows(&readings));
    let snapshot = snapshot(&storage);
    let names: Vec<&str> = snapshot.schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["ts", "device", "temp", "seq", "ok", "date"]);
    assert_eq!(snapshot.partition_columns, ["date"]);
    let days: Vec<Option<Value>> = snapshot.files.iter().map(|file| file.partition_values[0].clone()).collect();
    assert_eq!(days, [Some(Value::Integer(-1)), Some(Value::Integer(20_777)), None]);
    assert!(snapshot.files[0].path.starts_with("date=1969-12-31/e000000000001-"), "{}", snapshot.files[0].path);
    assert_eq!(snapshot.files.iter().map(|file| file.rows.unwrap()).collect::<Vec<_>>(), [2, 2, 2]);

    let november = &snapshot.files[1];
    let [ts, device, temp, seq, ok, date] = &november.bounds[..] else { panic!("six columns") };
    assert_eq!(ts.min, Some(Value::Integer(NOVEMBER_20_US + 1)));
    assert_eq!(ts.max, Some(Value::Integer(NOVEMBER_20_US + 1_001)));
    assert!(ts.exact);
    assert_eq!((&device.min, &device.max), (&Some(Value::Text("".into())), &Some(Value::Text("b".into()))));
    assert_eq!((&temp.min, &temp.max, temp.null_count), (&None, &None, Some(1)), "NaN takes the bounds away");
    assert_eq!(seq.max, Some(Value::Decimal(u64::MAX.into())));
    assert_eq!((&ok.min, ok.null_count), (&None, Some(0)));
    assert_eq!(date.min, Some(Value::Integer(20_777)));
    let day = date.min.as_ref().unwrap().to_array(&DataType::Date32);
    assert_eq!(day.as_primitive::<Date32Type>().value(0), 20_777);

    // Sorted by device, then time; the partition's column is not in the file.
    let batch = &read_file(&storage, november)[0];
    assert_eq!(batch.num_columns(), 5);
    assert_eq!(batch.column(1).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["", "b"]);
    assert_eq!(batch.column(0).as_primitive::<TimestampMicrosecondType>().value(1), NOVEMBER_20_US + 1);
}

#[test]
fn a_partition_by_column_keeps_odd_values_in_the_folder() {
    let storage = memory();
    let mut sink = open(&storage, spec(Partitioning::Column("device".to_owned()))).unwrap();
    let devices = [Some("a/../../b"), Some(""), None, Some("a b%"), Some("..")];
    let readings: Vec<Reading> = devices.iter().map(|device| (Some(1), *device, None, 1)).collect();
    commit_epoch(&mut sink, 1, rows(&readings));
    let snapshot = snapshot(&storage);
    let mut values: Vec<Option<Value>> = snapshot.files.iter().map(|file| file.partition_values[0].clone()).collect();
    values.sort_by_key(|value| format!("{value:?}"));
    let text = |text: &str| Some(Value::Text(text.into()));
    assert_eq!(values, [None, text(".."), text("a b%"), text("a/../../b")]);
    for file in &snapshot.files {
        assert_eq!(file.path.matches('/').count(), 1, "{}", file.path);
        let rows: usize = read_file(&storage, file).iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows, if file.partition_values[0].is_none() { 2 } else { 1 });
    }
}

#[test]
fn a_reader_follows_version_by_version() {
    let storage = memory();
    let mut sink = open(&storage, plain()).unwrap();
    let mut follower = snapshot(&storage);
    assert!(!follower.refresh(&*storage, DIR).unwrap());
    commit_epoch(&mut sink, 1, row(1));
    commit_epoch(&mut sink, 2, row(2));
    assert!(follower.refresh(&*storage, DIR).unwrap());
    let fresh = snapshot(&storage);
    assert_eq!((follower.version, &follower.files), (2, &fresh.files));
    // Another engine puts the two files together.
    let removes = fresh.files.iter().map(|file| {
        format!("{{\"remove\":{{\"path\":\"{}\",\"dataChange\":false,\"deletionTimestamp\":1}}}}\n", file.path)
    });
    let add =
        r#"{"add":{"path":"part%20c.parquet","partitionValues":{},"size":9,"modificationTime":1,"dataChange":false}}"#;
    storage.put_new(&version_path(3), (removes.collect::<String>() + add).as_bytes()).unwrap();
    assert!(follower.refresh(&*storage, DIR).unwrap());
    assert_eq!(follower.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["part c.parquet"]);
    assert_eq!((follower.files[0].rows, follower.files[0].lo_epoch), (None, None));
    assert_eq!(follower.files, snapshot(&storage).files);
}

fn version_path(version: u64) -> String {
    format!("{DIR}/_delta_log/{version:020}.json")
}

#[test]
fn commits_of_other_engines_are_stepped_over() {
    let storage = memory();
    let mut sink = open(&storage, plain()).unwrap();
    for version in [1, 2] {
        storage.put_new(&version_path(version), b"{\"commitInfo\":{\"operation\":\"OPTIMIZE\"}}").unwrap();
    }
    commit_epoch(&mut sink, 1, row(1));
    assert_eq!(snapshot(&storage).version, 3);
    assert_eq!(sequence_numbers(&storage), [1]);
}

#[test]
fn a_table_that_others_change_is_written_no_more() {
    let storage = memory();
    let mut sink = open(&storage, plain()).unwrap();
    let upgrade = br#"{"protocol":{"minReaderVersion":3,"minWriterVersion":7}}"#;
    storage.put_new(&version_path(1), upgrade).unwrap();
    let committables = write_epoch(&mut sink, 1, row(1));
    let error = sink.commit(Epoch(1), &committables).expect_err("an upgraded table").to_string();
    assert!(error.contains("reader protocol 3 and writer protocol 7"), "{error}");
    assert!(storage.get(&version_path(2)).is_err(), "nothing was written");
}

#[test]
fn two_processes_of_one_job_do_not_count_twice() {
    let storage = memory();
    let mut zombie = open(&storage, plain()).unwrap();
    let mut successor = open(&storage, plain()).unwrap();
    let stale = write_epoch(&mut zombie, 2, row(1));
    commit_epoch(&mut successor, 2, row(1));
    zombie.commit(Epoch(2), &stale).unwrap();
    assert_eq!(zombie.last_committed(), Epoch(2));
    // Epochs 3 and 4 in one commit here, 3 alone there.
    zombie.write(Epoch(3), row(3)).unwrap();
    let stale = write_epoch(&mut zombie, 4, row(4));
    commit_epoch(&mut successor, 3, row(3));
    let error = zombie.commit(Epoch(4), &stale).expect_err("overtaken").to_string();
    assert!(error.contains("stop one of the two"), "{error}");
    assert!(zombie.commit(Epoch(4), &stale).is_err(), "it stays so");
    commit_epoch(&mut successor, 4, row(4));
    assert_eq!(sequence_numbers(&storage), [1, 3, 4]);
}

#[test]
fn a_table_that_is_not_this_one_is_refused_with_what_to_do() {
    let storage = memory();
    drop(open(&storage, spec(Partitioning::Day("ts".to_owned()))).unwrap());
    let day = || spec(Partitioning::Day("ts".to_owned()));
    let mut fields = schema().fields().to_vec();
    fields[2] = Arc::new(Field::new("temp", DataType::Int64, true));
    let other_type = TableSpec { schema: Arc::new(Schema::new(fields.clone())), ..day() };
    fields.pop();
    let fewer = TableSpec { schema: Arc::new(Schema::new(fields)), ..day() };
    for (spec, words) in [
        (other_type, "temp Float64 where the view has temp Int64"),
        (fewer, "temp Float64 where the view has temp Int64"),
        (plain(), "is partitioned by date, and the view wants it not partitioned"),
        (spec(Partitioning::Column("device".to_owned())), "and the view wants it partitioned by device"),
        (TableSpec { fingerprint: "f2".to_owned(), ..day() }, "the view was changed since this table was written"),
        (TableSpec { app_id: "tidemill/job-2/x".to_owned(), ..day() }, "is filled by tidemill/job-1/readings$raw"),
    ] {
        let problem = refusal(open(&storage, spec));
        assert!(problem.contains(words), "{problem}");
        assert!(problem.contains("name or location"), "{problem}");
    }
    assert!(open(&storage, day()).is_ok());
}

#[test]
fn a_table_of_another_program_is_refused() {
    let storage = memory();
    let foreign = concat!(
        r#"{"protocol":{"minReaderVersion":1,"minWriterVersion":2}}"#,
        "\n",
        r#"{"metaData":{"id":"1","format":{"provider":"parquet","options":{}},"schemaString":"{\"type\":\"struct\",\"fields\":[]}","partitionColumns":[],"configuration":{}}}"#
    );
    storage.put_new(&version_path(0), foreign.as_bytes()).unwrap();
    assert!(refusal(open(&storage, plain())).contains("a table of another program"));
}

#[test]
fn a_damaged_log_is_named_and_never_read_as_a_smaller_table() {
    for damage in [&b""[..], b"{\"txn\":{\"appId\"", b"\0\0\0\0"] {
        let storage = memory();
        let mut sink = open(&storage, plain()).unwrap();
        commit_epoch(&mut sink, 1, row(1));
        storage.put(&version_path(1), damage).unwrap();
        let problem = refusal(open(&storage, plain()));
        assert!(problem.contains(&version_path(1)) && problem.contains("is damaged"), "{problem}");
        assert!(Snapshot::load(&*storage, DIR).is_err());
    }
    for missing in [0, 1] {
        let storage = memory();
        let mut sink = open(&storage, plain()).unwrap();
        commit_epoch(&mut sink, 1, row(1));
        commit_epoch(&mut sink, 2, row(2));
        storage.delete(&version_path(missing)).unwrap();
        let problem = refusal(open(&storage, plain()));
        assert!(problem.contains(&version_path(missing)) && problem.contains("is missing"), "{problem}");
    }
}

#[test]
fn a_null_in_a_not_null_column_is_an_error_and_not_a_panic() {
    let storage = memory();
    let mut sink = open(&storage, plain()).unwrap();
    let mut columns = row(1).columns().to_vec();
    columns[3] = Arc::new(UInt64Array::from(vec![None]));
    let nullable =
        Schema::new(schema().fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>());
    let bad = RecordBatch::try_new(Arc::new(nullable), columns).unwrap();
    let error = sink.write(Epoch(1), bad).expect_err("null in seq").to_string();
    assert!(error.contains("seq"), "{error}");
}

#[test]
fn a_checkpoint_opens_the_same_table_even_when_it_is_damaged() {
    let storage = memory();
    let mut sink = open(&storage, spec(Partitioning::Day("ts".to_owned()))).unwrap();
    for epoch in 1..=103 {
        commit_epoch(&mut sink, epoch, row(epoch));
    }
    let expected = snapshot(&storage);
    drop(sink);
    let checkpoint = format!("{DIR}/_delta_log/{:020}.checkpoint.parquet", 100);
    let bytes = storage.get(&checkpoint).unwrap();
    assert_eq!(snapshot(&storage).files, expected.files);
    assert_eq!(sequence_numbers(&storage).len(), 103);

    let mut flipped = bytes.to_vec();
    flipped[bytes.len() / 2] ^= 1;
    storage.put(&checkpoint, &flipped).unwrap();
    assert_eq!(snapshot(&storage).files, expected.files, "read from the versions instead");
    storage.put(&checkpoint, &bytes).unwrap();
    for version in 0..=100 {
        storage.delete(&version_path(version)).unwrap();
    }
    let from_checkpoint = snapshot(&storage);
    assert_eq!((from_checkpoint.version, &from_checkpoint.files), (103, &expected.files));
    let sink = open(&storage, spec(Partitioning::Day("ts".to_owned()))).unwrap();
    assert_eq!((sink.last_committed(), sink.version()), (Epoch(103), 103));
    storage.put(&checkpoint, &flipped).unwrap();
    assert!(refusal(open(&storage, spec(Partitioning::Day("ts".to_owned())))).contains("its checksum is"));
}

/// What a call of [`Storage::put_new`] does instead of working.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Fails, nothing is there.
    Before,
    /// Fails, and it is there all the same.
    After,
    /// A sync fails; whether it is there, nobody knows.
    Sync,
}

/// Storage whose calls fail as told.
struct FaultyStorage {
    inner: MemoryStorage,
    /// Taken from the end, one for each `put_new`.
    faults: Mutex<Vec<Option<Fault>>>,
}

fn io_error(action: &'static str, path: &str) -> StorageError {
    StorageError::Io { action, path: path.to_owned(), source: std::io::Error::other("injected") }
}

impl Storage for FaultyStorage {
    fn put_new(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        match self.faults.lock().pop().flatten() {
            None => self.inner.put_new(path, bytes),
            Some(Fault::Before) => Err(io_error("write", path)),
            Some(Fault::After) => self.inner.put_new(path, bytes).and(Err(io_error("write", path))),
            Some(Fault::Sync) => self.inner.put_new(path, bytes).and(Err(io_error("sync the folder of", path))),
        }
    }
    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.inner.put(path, bytes)
    }
    fn get(&self, path: &str) -> Result<Bytes, StorageError> {
        self.inner.get(path)
    }
    fn list(&self, dir: &str) -> Result<Vec<Entry>, StorageError> {
        self.inner.list(dir)
    }
    fn delete(&self, path: &str) -> Result<(), StorageError> {
        self.inner.delete(path)
    }
    fn create(&self, path: &str) -> Result<Box<dyn AppendFile>, StorageError> {
        self.inner.create(path)
    }
    fn open(&self, path: &str) -> Result<Box<dyn AppendFile>, StorageError> {
        self.inner.open(path)
    }
    fn sync_dir(&self, dir: &str) -> Result<(), StorageError> {
        self.inner.sync_dir(dir)
    }
}

/// Runs three epochs to the end through any sequence of faults, opening the table anew after each error.
fn run_through(faults: &[Option<Fault>]) -> (usize, Arc<dyn Storage>) {
    let inner = MemoryStorage::default();
    let mut faults: Vec<Option<Fault>> = faults.to_vec();
    faults.reverse();
    let storage: Arc<dyn Storage> = Arc::new(FaultyStorage { inner: inner.clone(), faults: Mutex::new(faults) });
    let attempt = || -> Result<(), SinkError> {
        let mut sink = open(&storage, plain())?;
        for epoch in 1..=3 {
            sink.write(Epoch(epoch), row(epoch))?;
            let committables = sink.prepare(Epoch(epoch))?;
            sink.commit(Epoch(epoch), &committables)?;
        }
        Ok(())
    };
    let mut restarts = 0;
    while let Err(error) = attempt() {
        assert!(matches!(error, SinkError::Storage { .. }), "{error}");
        restarts += 1;
        assert!(restarts < 20, "{error}");
    }
    (restarts, Arc::new(inner))
}

#[test]
fn a_fault_at_any_write_neither_loses_nor_doubles_a_row() {
    // 0: creation; then a file and a version for each epoch.
    for at in 0..7 {
        for fault in [Fault::Before, Fault::After, Fault::Sync] {
            for repeated in 1..=3 {
                let mut faults = vec![None; at];
                faults.extend(vec![Some(fault); repeated]);
                let (_, storage) = run_through(&faults);
                assert_eq!(sequence_numbers(&storage), [1, 2, 3], "{fault:?} x {repeated} at write {at}");
            }
        }
    }
}

#[test]
fn a_version_that_never_lands_is_an_error_after_a_few_tries() {
    let mut faults = vec![None, None];
    faults.extend(vec![Some(Fault::Before); 6]);
    let (restarts, storage) = run_through(&faults);
    assert_eq!(restarts, 1, "five retries inside, then an error");
    assert_eq!(sequence_numbers(&storage), [1, 2, 3]);
}

#[test]
fn the_same_sink_goes_on_after_an_error_that_left_the_outcome_open() {
    let inner = MemoryStorage::default();
    let faults = Mutex::new(vec![Some(Fault::Sync), None, None]);
    let storage: Arc<dyn Storage> = Arc::new(FaultyStorage { inner, faults });
    let mut sink = open(&storage, plain()).unwrap();
    let committables = write_epoch(&mut sink, 1, row(1));
    assert!(sink.commit(Epoch(1), &committables).is_err());
    assert_eq!(sink.last_committed(), Epoch::NONE, "not known yet");
    sink.commit(Epoch(1), &committables).unwrap();
    assert_eq!((sink.last_committed(), sink.version()), (Epoch(1), 1));
    commit_epoch(&mut sink, 2, row(2));
    assert_eq!(sequence_numbers(&storage), [1, 2]);
}

#[test]
fn a_file_that_could_not_be_written_is_tried_again_under_another_name() {
    let inner = MemoryStorage::default();
    let faults = Mutex::new(vec![Some(Fault::After), None]);
    let storage: Arc<dyn Storage> = Arc::new(FaultyStorage { inner, faults });
    let mut sink = open(&storage, plain()).unwrap();
    sink.write(Epoch(1), row(1)).unwrap();
    assert!(sink.prepare(Epoch(1)).is_err());
    let committables = sink.prepare(Epoch(1)).unwrap();
    sink.commit(Epoch(1), &committables).unwrap();
    assert_eq!(sequence_numbers(&storage), [1]);
    assert!(snapshot(&storage).files[0].path.ends_with("-w00000-0001.parquet"));
}
