//! What a reader sees of a table.

use arrow::datatypes::{Date32Type, TimestampMicrosecondType};

use super::*;
use crate::table::Value;

#[test]
fn a_snapshot_tells_what_was_written() {
    let storage = memory();
    let mut job = open(&storage, spec(Partitioning::Day("ts".to_owned()))).unwrap();
    let readings: [Reading; 6] = [
        (Some(NOVEMBER_20_US + 1), Some("b"), Some(f64::NAN), 3),
        (Some(NOVEMBER_20_US + 1_001), Some(""), None, u64::MAX),
        (Some(-1), Some("z"), Some(-2.5), 5),
        (Some(-DAY_US), None, Some(-0.0), 6),
        (None, Some("no time"), Some(1.0), 7),
        (Some(i64::MAX), Some("no year"), Some(1.0), 8),
    ];
    job.commit_epoch(1, rows(&readings));
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
    let mut job = open(&storage, spec(Partitioning::Column("device".to_owned()))).unwrap();
    let devices = [Some("a/../../b"), Some(""), None, Some("a b%"), Some("..")];
    let readings: Vec<Reading> = devices.iter().map(|device| (Some(1), *device, None, 1)).collect();
    job.commit_epoch(1, rows(&readings));
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
    let mut job = open(&storage, plain()).unwrap();
    let mut follower = snapshot(&storage);
    assert!(!follower.refresh(&*storage, DIR).unwrap());
    job.commit_epoch(1, row(1));
    job.commit_epoch(2, row(2));
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

#[test]
fn a_checkpoint_opens_the_same_table_even_when_it_is_damaged() {
    let storage = memory();
    let mut job = open(&storage, spec(Partitioning::Day("ts".to_owned()))).unwrap();
    for epoch in 1..=103 {
        job.commit_epoch(epoch, row(epoch));
    }
    let expected = snapshot(&storage);
    drop(job);
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
    let job = open(&storage, spec(Partitioning::Day("ts".to_owned()))).unwrap();
    assert_eq!((job.last_committed(), job.sink.version()), (103, Some(103)));
    storage.put(&checkpoint, &flipped).unwrap();
    assert!(refusal(open(&storage, spec(Partitioning::Day("ts".to_owned())))).contains("its checksum is"));
}
