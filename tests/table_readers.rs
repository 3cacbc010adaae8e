//! Tables on disk, read by strangers: deltalake, pyarrow, Polars and DuckDB each see exactly the rows that were written.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array,
    ListArray, RecordBatch, StringViewArray, StructArray, TimestampMicrosecondArray, UInt16Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use serde_json::{Value, json};
use tidemill_connectors::table::{Partitioning, Rewind, Snapshot, TableSink, TableSpec, rewind};
use tidemill_engine::clock::{ManualClock, SystemClock, SystemDice};
use tidemill_engine::epoch::Epoch;
use tidemill_engine::sink::{Sink, SinkWriter};
use tidemill_engine::storage::{LocalStorage, Storage};

use crate::harness::python::{interpreter, script};

const READERS: [&str; 4] = ["deltalake", "pyarrow", "polars", "duckdb"];
/// 2026-11-20T23:59:59.999999Z, the last microsecond of a day.
const LAST_OF_DAY_US: i64 = 20_778 * 86_400_000_000 - 1;
const NAMES: [&str; 6] =
    ["", "a b/c%", "..", "Größe=1", "x'y\"z", "a long name that is cut in the statistics, past 32"];

fn python(name: &str, arguments: &[&str]) -> Vec<Value> {
    let output = Command::new(interpreter())
        .arg(script(&format!("readers/{name}")))
        .args(arguments)
        .output()
        .expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Every type a table can hold, row by row with what is awkward in it: nulls, NaN, infinities, the ends of ranges.
fn all_types() -> RecordBatch {
    let times = [0, 1, -1, LAST_OF_DAY_US, LAST_OF_DAY_US + 1, -86_400_000_001];
    let point = StructArray::from(vec![(
        Arc::new(Field::new("x", DataType::Float64, true)),
        Arc::new(Float64Array::from(vec![Some(1.5), None, Some(0.0), Some(-1.0), None, Some(2.0)])) as ArrayRef,
    )]);
    let lists = [Some(vec![Some(1), None]), None, Some(vec![]), Some(vec![Some(3)]), None, Some(vec![None])];
    let floats = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 1e300, 0.1];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("seq", Arc::new(UInt64Array::from(vec![0, 1, 2, 3, 4, u64::MAX]))),
        ("ts", Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))),
        ("name", Arc::new(StringViewArray::from_iter_values(NAMES))),
        ("temp", Arc::new(Float64Array::from_iter_values(floats))),
        ("flag", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None, Some(true), None, Some(false)]))),
        ("small", Arc::new(Int8Array::from(vec![Some(-128), Some(127), None, Some(0), Some(1), None]))),
        ("port", Arc::new(UInt16Array::from(vec![Some(65_535), None, Some(0), Some(1), Some(2), Some(3)]))),
        ("ratio", Arc::new(Float32Array::from(vec![Some(0.1), None, Some(-1.5), Some(0.0), Some(3.0), Some(0.25)]))),
        ("born", Arc::new(Date32Array::from(vec![Some(0), Some(-1), None, Some(20_777), Some(1), Some(2)]))),
        ("price", {
            let digits = vec![Some(12_345), Some(-5), None, Some(0), Some(1), Some(999_999_999)];
            Arc::new(Decimal128Array::from(digits).with_precision_and_scale(20, 2).unwrap())
        }),
        ("raw", Arc::new(BinaryArray::from_vec(vec![b"", b"\0\xff", b"x", b"y", b"z", b"{}"]))),
        ("tags", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists))),
        ("point", Arc::new(point)),
        ("nothing", Arc::new(StringViewArray::from(vec![None::<&str>; 6]))),
    ];
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, column)| Field::new(*name, column.data_type().clone(), !matches!(*name, "seq" | "ts")))
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, column)| column).collect())
        .unwrap()
}

/// What each reader must print of them.
fn expected(partition_by: &Partitioning) -> Vec<Value> {
    let null = Value::Null;
    let days = ["1970-01-01", "1970-01-01", "1969-12-31", "2026-11-20", "2026-11-21", "1969-12-30"];
    let mut rows = vec![
        json!({"seq": 0, "ts": 0, "temp": "NaN", "flag": true, "small": -128, "port": 65535, "ratio": 0.1_f32, "born": "1970-01-01",
            "price": "123.45", "raw": "", "tags": [1, null], "point": {"x": 1.5}}),
        json!({"seq": 1, "ts": 1, "temp": "Infinity", "flag": false, "small": 127, "port": null, "ratio": null, "born": "1969-12-31",
            "price": "-0.05", "raw": "00ff", "tags": null, "point": {"x": null}}),
        json!({"seq": 2, "ts": -1, "temp": "-Infinity", "flag": null, "small": null, "port": 0, "ratio": -1.5, "born": null,
            "price": null, "raw": "78", "tags": [], "point": {"x": 0.0}}),
        json!({"seq": 3, "ts": LAST_OF_DAY_US, "temp": -0.0, "flag": true, "small": 0, "port": 1, "ratio": 0.0, "born": "2026-11-20",
            "price": 0, "raw": "79", "tags": [3], "point": {"x": -1.0}}),
        json!({"seq": 4, "ts": LAST_OF_DAY_US + 1, "temp": 1e300, "flag": null, "small": 1, "port": 2, "ratio": 3.0, "born": "1970-01-02",
            "price": "0.01", "raw": "7a", "tags": null, "point": {"x": null}}),
        json!({"seq": u64::MAX, "ts": -86_400_000_001_i64, "temp": 0.1, "flag": false, "small": null, "port": 3, "ratio": 0.25, "born": "1970-01-03",
            "price": "9999999.99", "raw": "7b7d", "tags": [null], "point": {"x": 2.0}}),
    ];
    for (index, row) in rows.iter_mut().enumerate() {
        row["nothing"] = null.clone();
        row["name"] = NAMES[index].into();
        match partition_by {
            Partitioning::None => {}
            Partitioning::Day(_) => row["date"] = days[index].into(),
            // The format has no empty text among partition values.
            Partitioning::Column(_) if NAMES[index].is_empty() => row["name"] = null.clone(),
            Partitioning::Column(_) => {}
        }
    }
    rows
}

struct Table {
    _folder: tempfile::TempDir,
    dir: String,
    storage: Arc<dyn Storage>,
    name: &'static str,
}

/// Writes each row in an epoch of its own.
fn write(name: &'static str, partition_by: Partitioning, rows: &[RecordBatch]) -> Table {
    let folder = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::open(folder.path()).unwrap());
    let spec = TableSpec {
        name: name.to_owned(),
        schema: rows[0].schema(),
        partition_by,
        sort: vec!["ts".to_owned()],
        time_column: Some("ts".to_owned()),
        job: "job".to_owned(),
        fingerprint: "1".to_owned(),
    };
    let mut sink =
        TableSink::create_or_open(Arc::clone(&storage), name, spec, Arc::new(SystemClock), Arc::new(SystemDice))
            .unwrap();
    let mut writer = sink.writer(0);
    for (index, rows) in rows.iter().enumerate() {
        let epoch = Epoch(index as u64 + 1);
        let committables = writer.prepare(epoch, &[(epoch, rows.clone())]).unwrap();
        sink.commit(epoch, &committables).unwrap();
    }
    // Prepared, and not committed: nobody may see it.
    let epoch = Epoch(rows.len() as u64 + 1);
    assert!(!writer.prepare(epoch, &[(epoch, rows[0].clone())]).unwrap().is_empty());
    let dir = folder.path().join(name).to_str().unwrap().to_owned();
    Table { _folder: folder, dir, storage, name }
}

fn every_reader_agrees(name: &'static str, partition_by: Partitioning) {
    let rows = all_types();
    let table = write(name, partition_by.clone(), &[rows.slice(0, 4), rows.slice(4, 2)]);
    // NaN and infinities are above 0.05 here, so a reader that skips files by wrong bounds is caught.
    let answers = python("compare_readers.py", &[&table.dir, "seq", "temp > 0.05 AND ts >= '1969-12-30T23:59:59Z'"]);
    assert_eq!(answers.iter().map(|answer| answer["reader"].as_str().unwrap()).collect::<Vec<_>>(), READERS);
    let snapshot = Snapshot::load(&*table.storage, table.name).unwrap().unwrap();
    let columns: Vec<&str> = snapshot.schema.fields().iter().map(|field| field.name().as_str()).collect();
    for answer in answers {
        let reader = &answer["reader"];
        assert_eq!(answer["rows"], Value::Array(expected(&partition_by)), "{reader}");
        assert_eq!(answer["columns"], json!(columns), "{reader}");
        assert_eq!(answer["found"], 4, "{reader}");
    }
}

#[test]
fn every_reader_sees_the_same_rows() {
    every_reader_agrees("readings", Partitioning::None);
}

#[test]
fn every_reader_sees_the_same_rows_by_day_and_under_a_name_with_a_dollar() {
    every_reader_agrees("readings$dead", Partitioning::Day("ts".to_owned()));
}

#[test]
fn every_reader_sees_the_same_rows_by_a_column_with_odd_values() {
    every_reader_agrees("room_1m$late", Partitioning::Column("name".to_owned()));
}

#[test]
fn readers_open_a_table_by_its_log_checkpoint() {
    let rows = all_types();
    let rows: Vec<RecordBatch> = (0..101).map(|index| rows.slice(index % 6, 1)).collect();
    let table = write("readings", Partitioning::Day("ts".to_owned()), &rows);
    let log = Path::new(&table.dir).join("_delta_log");
    assert!(log.join("00000000000000000100.checkpoint.parquet").exists());
    for version in 0..=100 {
        table.storage.delete(&format!("readings/_delta_log/{version:020}.json")).unwrap();
    }
    for answer in python("compare_readers.py", &[&table.dir, "seq"]) {
        assert_eq!(answer["found"], 101, "{}", answer["reader"]);
    }
}

/// Opens the table behind its base, as a process whose clock shows `now_us`.
fn begin(storage: &Arc<dyn Storage>, partition_by: Partitioning, now_us: i64) -> (TableSink, Box<dyn SinkWriter>) {
    let spec = TableSpec {
        name: "readings".to_owned(),
        schema: all_types().schema(),
        partition_by,
        sort: vec!["ts".to_owned()],
        time_column: Some("ts".to_owned()),
        job: "job".to_owned(),
        fingerprint: "1".to_owned(),
    };
    let clock = Arc::new(ManualClock::at(now_us));
    let mut sink = TableSink::open(Arc::clone(storage), "readings", spec, clock, Arc::new(SystemDice)).unwrap();
    sink.begin(Epoch::NONE).unwrap();
    let writer = sink.writer(0);
    (sink, writer)
}

#[test]
fn readers_see_a_table_that_was_replaced_and_rewound_and_cleaned() {
    let folder = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::open(folder.path()).unwrap());
    let rows = all_types();
    let commit = |(sink, writer): &mut (TableSink, Box<dyn SinkWriter>), epoch: u64| {
        let rows = rows.slice((epoch as usize - 1) % 6, 1);
        let committables = writer.prepare(Epoch(epoch), &[(Epoch(epoch), rows)]).unwrap();
        sink.commit(Epoch(epoch), &committables).unwrap();
    };
    // Each process waits at its end for the log checkpoint that it makes in the background.
    for epochs in [1..=150, 151..=205] {
        let mut by_day = begin(&storage, Partitioning::Day("ts".to_owned()), LAST_OF_DAY_US);
        epochs.for_each(|epoch| commit(&mut by_day, epoch));
    }
    let mut plain = begin(&storage, Partitioning::None, LAST_OF_DAY_US);
    (1..=6).for_each(|epoch| commit(&mut plain, epoch));
    drop(plain);
    let back = Rewind { job: "job", name: "readings", to: Epoch(4), committed: Epoch(4), generation: 2 };
    assert_eq!(rewind(&*storage, "readings", back, LAST_OF_DAY_US / 1_000).unwrap().files_removed, 2);
    let mut plain = begin(&storage, Partitioning::None, LAST_OF_DAY_US + 25 * 3_600_000_000);
    assert_eq!(plain.0.clean().unwrap().files, 205 + 2 + 100, "both contents' files, and the versions before 100");
    assert_eq!(plain.0.last_committed(), Epoch(4));
    (5..=6).for_each(|epoch| commit(&mut plain, epoch));
    let dir = folder.path().join("readings");
    for answer in python("compare_readers.py", &[dir.to_str().unwrap(), "seq"]) {
        let reader = &answer["reader"];
        assert_eq!(answer["rows"], Value::Array(expected(&Partitioning::None)), "{reader}");
    }
}

#[test]
fn sql_over_a_table_answers_in_lines_of_json() {
    let table = write("readings", Partitioning::None, &[all_types()]);
    let answer = python("read_table.py", &[&table.dir, "SELECT count(*) AS n, max(ts) AS last FROM t"]);
    assert_eq!(answer, [json!({"n": 6, "last": LAST_OF_DAY_US + 1})]);
    assert_eq!(python("read_table.py", &[&table.dir]).len(), 6);
}
