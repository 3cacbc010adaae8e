//! Files: chunks, positions, dead letters, reading again.

use std::fs::File;

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{
    DataType, Field, Float64Type, Int64Type, Schema, TimeUnit as ArrowTimeUnit, TimestampMicrosecondType,
};
use tidemill_engine::decode::{DeadLetter, Place};

use super::*;
use crate::format::TimeUnit;
use crate::testing::TestIntake;

fn layout() -> Layout {
    let columns = Arc::new(Schema::new(vec![
        Field::new("device", DataType::Utf8View, true),
        Field::new("temperature", DataType::Float64, false),
        Field::new("ts", DataType::Timestamp(ArrowTimeUnit::Microsecond, Some("UTC".into())), true),
    ]));
    Layout::new(&columns).with_time_unit(Some(TimeUnit::Milliseconds))
}

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    for (name, contents) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = File::options().write(true).create(true).truncate(true).open(path).unwrap();
        file.write_all(contents).unwrap();
    }
    folder
}

fn source(folder: &tempfile::TempDir, path: &str) -> FileSource {
    let encoding = FileSource::take_encoding(path, &mut Options::default()).unwrap();
    FileSource::new(path, folder.path(), encoding, layout())
}

async fn run(source: &FileSource, resume: Vec<Resume>) -> Arc<TestIntake> {
    source.prepare().await.unwrap();
    let intake = Arc::new(TestIntake::default());
    source.run(Arc::clone(&intake) as Arc<dyn Intake>, resume, Stop::new()).await.unwrap();
    intake
}

fn decoded(source: &FileSource, intake: &TestIntake) -> (RecordBatch, Vec<DeadLetter>) {
    let format = source.format();
    let mut decoder = format.decoder();
    let (mut batches, mut dead) = (Vec::new(), Vec::new());
    for (_, chunk) in intake.chunks.lock().iter() {
        let Chunk::Range { data, .. } = chunk else { panic!("{chunk:?}") };
        let part = decoder.decode(data, &Place::default());
        batches.extend(part.batches);
        dead.extend(part.dead);
    }
    (concat_batches(&format.schema(), &batches).unwrap(), dead)
}

fn same(a: &Data, b: &Data) -> bool {
    match (a, b) {
        (Data::Messages(a), Data::Messages(b)) => a == b,
        (Data::Columns(a), Data::Columns(b)) => a == b,
        _ => false,
    }
}

/// Reads every chunk again, on a source that has seen nothing yet, and expects the same.
fn reread_all(source: &FileSource, intake: &TestIntake) {
    for (partition, chunk) in intake.chunks.lock().iter() {
        let Chunk::Range { start, end, data, checksum } = chunk else { panic!("{chunk:?}") };
        let (again, checksum_again) = source.reread(partition, *start, *end).unwrap();
        assert!(same(data, &again), "{partition} {start}..{end}");
        assert_eq!(*checksum, checksum_again);
    }
}

fn lines(count: usize, pad: usize) -> Vec<u8> {
    let line = |n: usize| format!("{{\"device\":\"{}\",\"temperature\":{n}}}\n", "x".repeat(pad));
    (0..count).map(line).collect::<String>().into_bytes()
}

#[tokio::test]
async fn ndjson_is_read_whole_in_turn_and_again() {
    let folder = folder(&[("in/b.ndjson", &lines(30_000, 80)), ("in/a.ndjson", &lines(100, 1)), ("in/c.csv", b"")]);
    let files = source(&folder, "in/*.ndjson");
    let intake = run(&files, Vec::new()).await;
    let (rows, dead) = decoded(&files, &intake);
    assert_eq!((rows.num_rows(), dead.len()), (30_100, 0));
    let calls = intake.calls.lock().clone();
    assert_eq!(calls[..4], ["open in/a.ndjson", "open in/b.ndjson", "append in/a.ndjson", "append in/b.ndjson"]);
    assert_eq!(calls.last().unwrap(), "end in/b.ndjson");
    assert!(calls.iter().filter(|call| *call == "append in/b.ndjson").count() > 2, "several chunks");
    reread_all(&source(&folder, "in/*.ndjson"), &intake);
}

#[tokio::test]
async fn a_resumed_run_reads_only_the_rest() {
    let folder = folder(&[("a.ndjson", &lines(30_000, 80)), ("b.ndjson", &lines(10, 0))]);
    let whole = source(&folder, "*.ndjson");
    let first = run(&whole, Vec::new()).await;
    let cut = match &first.chunks.lock()[0].1 {
        Chunk::Range { end, .. } => *end,
        Chunk::Messages(_) | Chunk::Noted(..) | Chunk::Decoded { .. } => unreachable!("files append ranges"),
    };
    let resume = vec![
        Resume { partition: "a.ndjson".to_owned(), next: cut, ended: false, ..Resume::default() },
        Resume { partition: "b.ndjson".to_owned(), next: 999, ended: true, ..Resume::default() },
    ];
    let rest = run(&source(&folder, "*.ndjson"), resume).await;
    let count = |intake: &TestIntake| intake.messages().iter().map(|message| message.payload.len()).sum::<usize>();
    assert_eq!(count(&rest) + cut as usize, std::fs::metadata(folder.path().join("a.ndjson")).unwrap().len() as usize);
    assert!(!rest.calls.lock().contains(&"open b.ndjson".to_owned()));
}

#[tokio::test]
async fn dead_letters_name_file_and_line() {
    let mut text = lines(20_000, 80);
    text.extend_from_slice(b"{\"temperature\":\"warm\"}\n\nnonsense");
    let folder = folder(&[("a.ndjson", &text), ("b.csv", b"device,temperature\na,1\n\"b\nb\",2\nc,warm\n")]);
    let files = source(&folder, "a.ndjson");
    let (rows, dead) = decoded(&files, &*run(&files, Vec::new()).await);
    assert_eq!(rows.num_rows(), 20_000);
    assert!(dead[0].reason.starts_with("a.ndjson line 20001: column temperature"), "{}", dead[0].reason);
    assert!(dead[1].reason.starts_with("a.ndjson line 20003: not JSON"), "{}", dead[1].reason);
    assert_eq!((&dead[1].topic[..], &dead[1].payload[..]), (&b"a.ndjson"[..], &b"nonsense"[..]));
    let files = source(&folder, "b.csv");
    let (_, dead) = decoded(&files, &*run(&files, Vec::new()).await);
    assert!(dead[0].reason.starts_with("b.csv line 5: column temperature"), "{}", dead[0].reason);
}

#[tokio::test]
async fn csv_chunks_carry_their_header_and_respect_quotes() {
    let mut text = b"\xEF\xBB\xBFtemperature,device,ts\n".to_vec();
    for n in 0..60_000 {
        text.extend_from_slice(format!("{n},\"line one\nline {n}\",{}\n", n * 1000).as_bytes());
    }
    let folder = folder(&[("a.csv", &text)]);
    let files = source(&folder, "a.csv");
    let intake = run(&files, Vec::new()).await;
    assert!(intake.chunks.lock().len() > 1);
    let (rows, dead) = decoded(&files, &intake);
    assert!(dead.is_empty(), "{:?}", dead[0]);
    assert_eq!(rows.num_rows(), 60_000);
    assert_eq!(rows.column(0).as_string_view().value(59_999), "line one\nline 59999");
    assert_eq!(rows.column(2).as_primitive::<TimestampMicrosecondType>().value(59_999), 59_999_000_000);
    reread_all(&source(&folder, "a.csv"), &intake);
}

fn parquet(rows: i64) -> Vec<u8> {
    let columns = Arc::new(Schema::new(vec![
        Field::new("ts", DataType::Int64, true),
        Field::new("other", DataType::Int64, true),
        Field::new("temperature", DataType::Int64, true),
        Field::new("device", DataType::Utf8, true),
    ]));
    let batch = RecordBatch::try_new(
        Arc::clone(&columns),
        vec![
            Arc::new(Int64Array::from_iter_values(0..rows)),
            Arc::new(Int64Array::from_iter_values(0..rows)),
            Arc::new((0..rows).map(|row| (row != 5).then_some(row)).collect::<Int64Array>()),
            Arc::new(StringArray::from_iter_values((0..rows).map(|row| format!("device-{row}")))),
        ],
    )
    .unwrap();
    let mut bytes = Vec::new();
    let mut writer = ::parquet::arrow::ArrowWriter::try_new(&mut bytes, columns, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

#[tokio::test]
async fn parquet_columns_are_cast_and_rows_that_do_not_fit_are_dead() {
    let folder = folder(&[("a.parquet", &parquet(100_000))]);
    let files = source(&folder, "a.parquet");
    let intake = run(&files, Vec::new()).await;
    let (rows, dead) = decoded(&files, &intake);
    assert_eq!((rows.num_rows(), dead.len()), (99_999, 1));
    assert_eq!(dead[0].payload, r#"{"ts":5,"device":"device-5"}"#);
    assert!(dead[0].reason.contains("temperature"), "{}", dead[0].reason);
    assert_eq!(rows.column(1).as_primitive::<Float64Type>().value(99_998), 99_999.0);
    assert_eq!(rows.column(2).as_primitive::<TimestampMicrosecondType>().value(7), 8_000);
    let again = source(&folder, "a.parquet");
    reread_all(&again, &intake);
    reread_all(&again, &intake);
    let (Data::Columns(odd), _) = again.reread("a.parquet", 40_000, 80_000).unwrap() else { panic!("no columns") };
    assert_eq!((odd.num_rows(), odd.column(0).as_primitive::<Int64Type>().value(0)), (40_000, 40_000));
    assert!(matches!(again.reread("a.parquet", 99_990, 100_001), Err(SourceError::Changed(_))));
    let resume = vec![Resume { partition: "a.parquet".to_owned(), next: 99_990, ended: false, ..Resume::default() }];
    let (rest, _) = decoded(&files, &*run(&source(&folder, "a.parquet"), resume).await);
    assert_eq!(rest.num_rows(), 10);
}

#[tokio::test]
async fn a_changed_file_is_noticed() {
    let folder = folder(&[("a.ndjson", &lines(10, 0)), ("a.parquet", &parquet(100))]);
    let text = source(&folder, "a.ndjson");
    let (_, before) = text.reread("a.ndjson", 0, 30).unwrap();
    let (_, columns_before) = source(&folder, "a.parquet").reread("a.parquet", 0, 10).unwrap();
    let overwrite = |name: &str, contents: &[u8]| {
        use std::io::Write;
        let mut file = File::options().write(true).truncate(true).open(folder.path().join(name)).unwrap();
        file.write_all(contents).unwrap();
    };
    overwrite("a.ndjson", &lines(10, 1));
    overwrite("a.parquet", &parquet(101));
    assert_ne!(text.reread("a.ndjson", 0, 30).unwrap().1, before);
    assert_ne!(source(&folder, "a.parquet").reread("a.parquet", 0, 10).unwrap().1, columns_before);
    overwrite("a.ndjson", b"{}");
    let error = text.reread("a.ndjson", 0, 30).unwrap_err();
    assert!(matches!(&error, SourceError::Changed(text) if text.contains("a.ndjson")), "{error:?}");
    std::fs::remove_file(folder.path().join("a.ndjson")).unwrap();
    assert!(matches!(text.reread("a.ndjson", 0, 30), Err(SourceError::Changed(_))));
}

#[tokio::test]
async fn what_cannot_be_read_is_named_before_anything_starts() {
    let folder = folder(&[
        ("array.json", b" [{\"temperature\":1}]"),
        ("bad.parquet", b"not parquet at all"),
        ("sub/x.txt", b""),
    ]);
    for (path, problem) in [
        ("missing.ndjson", "missing.ndjson"),
        ("no/*.ndjson", "no"),
        ("*.csv", "no file matches"),
        ("array.json", "jq -c"),
        ("bad.parquet", "bad.parquet"),
    ] {
        let error = source(&folder, path).prepare().await.unwrap_err();
        assert!(matches!(&error, SourceError::Environment(text) if text.contains(problem)), "{path}: {error:?}");
    }
    assert!(FileSource::take_encoding("sub", &mut Options::default()).is_err(), "a folder does not tell its format");
}

#[test]
fn a_file_that_has_grown_since_its_end_is_noticed() {
    let folder = folder(&[("a.ndjson", b"{\"temperature\":1}\n{\"temperature\":2}\n")]);
    let source = source(&folder, "a.ndjson");
    assert_eq!(source.shared.grown_by("a.ndjson", 18), Some(18));
    assert_eq!(source.shared.grown_by("a.ndjson", 36), None);
}

#[test]
fn compressed_files_of_other_kinds_are_refused_by_name() {
    let error = FileSource::take_encoding("a.ndjson.bz2", &mut Options::default()).expect_err("bzip2");
    assert!(error.to_string().contains("unpack it first, or use .gz or .zst"), "{error}");
}

#[tokio::test]
async fn the_same_source_goes_on_by_its_resume_after_its_log_has_failed() {
    let rows: String = (0..50_000).map(|n| format!("{{\"temperature\":{n}}}\n")).collect();
    let folder = folder(&[("a.json", rows.as_bytes())]);
    let source = source(&folder, "a.json");
    source.prepare().await.unwrap();
    let intake = Arc::new(TestIntake::default());
    intake.failed.store(true, std::sync::atomic::Ordering::SeqCst);
    let ended = source.run(Arc::clone(&intake) as Arc<dyn Intake>, Vec::new(), Stop::new()).await;
    assert!(matches!(ended, Err(SourceError::Intake(IntakeError::LogFailed(_)))), "{ended:?}");

    let (partition, Chunk::Range { end, .. }) = intake.chunks.lock()[0].clone() else { panic!("a range") };
    let again = run(&source, vec![Resume { partition, next: end, ended: false, ..Resume::default() }]).await;
    let (batch, dead) = decoded(&source, &again);
    assert!(dead.is_empty());
    let temperatures = batch.column_by_name("temperature").unwrap().as_primitive::<Float64Type>().values();
    let first = rows.as_bytes()[..end as usize].iter().filter(|byte| **byte == b'\n').count();
    assert_eq!((temperatures[0], temperatures.len()), (first as f64, 50_000 - first));
}

#[tokio::test]
async fn compressed_files_are_read_by_the_places_of_what_they_hold() {
    let text = lines(60_000, 20);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &text).unwrap();
    let folder =
        folder(&[("a.ndjson.gz", &gzip.finish().unwrap()), ("b.ndjson.zst", &zstd::encode_all(&text[..], 1).unwrap())]);
    for path in ["a.ndjson.gz", "b.ndjson.zst"] {
        let files = source(&folder, path);
        let intake = run(&files, Vec::new()).await;
        assert!(intake.chunks.lock().len() > 1);
        assert_eq!(decoded(&files, &intake).0.num_rows(), 60_000);
        let again = source(&folder, path);
        reread_all(&again, &intake);
        reread_all(&again, &intake);
        let (_, Chunk::Range { end, .. }) = intake.chunks.lock()[0].clone() else { panic!("a range") };
        let resume = Resume { partition: path.to_owned(), next: end, ..Resume::default() };
        let rest = run(&source(&folder, path), vec![resume]).await;
        assert_eq!(rest.chunks.lock().len() + 1, intake.chunks.lock().len());
    }
}

fn arrow_bytes(rows: i64, is_stream: bool) -> Vec<u8> {
    let ts = Arc::new(Int64Array::from_iter_values(0..rows));
    let temperature = Arc::new((0..rows).map(|row| (row != 5).then_some(row)).collect::<Int64Array>());
    let batch = RecordBatch::try_from_iter([("ts", ts as _), ("temperature", temperature as _)]).unwrap();
    let parts = [batch.slice(0, 10), batch.slice(10, rows as usize - 10)];
    let schema = batch.schema();
    if is_stream {
        let mut writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &schema).unwrap();
        parts.iter().for_each(|part| writer.write(part).unwrap());
        writer.finish().unwrap();
        return writer.into_inner().unwrap();
    }
    let mut writer = arrow::ipc::writer::FileWriter::try_new(Vec::new(), &schema).unwrap();
    parts.iter().for_each(|part| writer.write(part).unwrap());
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

fn avro_bytes(rows: i64) -> Vec<u8> {
    let ts = Arc::new(Int64Array::from_iter_values(0..rows));
    let temperature = Arc::new((0..rows).map(|row| (row != 5).then_some(row)).collect::<Int64Array>());
    let batch = RecordBatch::try_from_iter([("ts", ts as _), ("temperature", temperature as _)]).unwrap();
    let mut writer = arrow_avro::writer::AvroWriter::new(Vec::new(), Schema::clone(&batch.schema())).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    writer.into_inner()
}

/// Blocks of a row each, whose names have dots, and the last of which is not whole.
#[tokio::test]
async fn an_avro_file_that_is_cut_off_gives_the_rows_before_and_then_says_why() {
    const SCHEMA: &str = r#"{"type":"record","name":"plant.Row","fields":[{"name":"ts","type":"long"},
        {"name":"id","type":{"type":"fixed","name":"plant.hall.Id","size":1}},{"name":"other","type":"plant.hall.Id"},
        {"name":"temperature","type":["null","long"]}]}"#;
    let mut bytes = b"Obj\x01\x02\x16avro.schema".to_vec();
    // A length of two bytes.
    bytes.extend([(SCHEMA.len() << 1) as u8 | 0x80, (SCHEMA.len() >> 6) as u8]);
    bytes.extend(SCHEMA.bytes());
    bytes.push(0);
    bytes.extend([7; 16]);
    for row in 0..100u8 {
        bytes.extend([2, 12, 0x80 | (row << 1), row >> 6, b'a', b'b', 2, 2]);
        bytes.extend([7; 16]);
    }
    let whole = folder(&[("a.avro", &bytes)]);
    let files = source(&whole, "a.avro");
    let (rows, dead) = decoded(&files, &*run(&files, Vec::new()).await);
    assert_eq!((rows.num_rows(), dead.len()), (100, 0));
    let cut = folder(&[("a.avro", &bytes[..bytes.len() - 1])]);
    let layout = layout();
    let mut reader = ColumnsReader::open(&cut.path().join("a.avro"), "a.avro", Encoding::Avro, &layout, 0).unwrap();
    let Some(Chunk::Range { start, end, .. }) = reader.next_chunk().unwrap() else { panic!("rows") };
    assert_eq!((start, end), (0, 99));
    let error = reader.next_chunk().expect_err("cut off").to_string();
    assert!(error.contains("it ends in the middle, at byte "), "{error}");
}

#[tokio::test]
async fn arrow_and_avro_files_are_read_by_row() {
    let (file, stream, avro) = (arrow_bytes(30_000, false), arrow_bytes(30_000, true), avro_bytes(30_000));
    let folder = folder(&[
        ("a.arrow", &file),
        ("b.arrows", &stream),
        ("c.avro", &avro),
        ("bad.avro", b"nothing"),
        ("bad.arrow", b"no"),
    ]);
    for path in ["a.arrow", "b.arrows", "c.avro"] {
        let files = source(&folder, path);
        let intake = run(&files, Vec::new()).await;
        let (rows, dead) = decoded(&files, &intake);
        assert_eq!((rows.num_rows(), dead.len()), (29_999, 1), "{path}");
        assert_eq!(dead[0].payload, r#"{"ts":5}"#);
        assert_eq!(rows.column(2).as_primitive::<TimestampMicrosecondType>().value(29_998), 29_999_000);
        let again = source(&folder, path);
        reread_all(&again, &intake);
        reread_all(&again, &intake);
        let resume = Resume { partition: path.to_owned(), next: 29_990, ..Resume::default() };
        let (rest, _) = decoded(&files, &*run(&source(&folder, path), vec![resume]).await);
        assert_eq!(rest.num_rows(), 10);
        let (_, before) = again.reread(path, 0, 10).unwrap();
        let mut changed = std::fs::read(folder.path().join(path)).unwrap();
        *changed.last_mut().unwrap() ^= 1;
        std::io::Write::write_all(&mut File::options().write(true).open(folder.path().join(path)).unwrap(), &changed)
            .unwrap();
        let changed = source(&folder, path).reread(path, 0, 10);
        assert!(changed.is_err() || changed.unwrap().1 != before, "{path}");
    }
    for path in ["bad.avro", "bad.arrow"] {
        let error = source(&folder, path).prepare().await.unwrap_err();
        assert!(matches!(&error, SourceError::Environment(text) if text.contains(path)), "{error:?}");
    }
}

/// Whatever a file of columns holds, its rows come or it is said why not.
#[test]
fn fuzz_files() {
    let columns = Arc::new(Schema::new(vec![
        Field::new("n", DataType::Int64, true),
        Field::new("device", DataType::Utf8View, true),
    ]));
    let folder = tempfile::tempdir().expect("a folder");
    let layout = Layout::new(&columns);
    tidemill_engine::testing::fuzz::fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/src/file/corpus"), |input| {
        let Some((which, bytes)) = input.split_first() else { return false };
        let (encoding, name) = match which % 3 {
            0 => (Encoding::Avro, "a.avro"),
            1 => (Encoding::Arrow, "a.arrow"),
            _ => (Encoding::Parquet, "a.parquet"),
        };
        let path = folder.path().join(name);
        #[expect(clippy::disallowed_methods, reason = "a file of the test, that no crash may harm")]
        std::fs::write(&path, bytes).expect("writable");
        let Ok(mut reader) = ColumnsReader::open(&path, name, encoding, &layout, 0) else { return false };
        let mut rows = 0;
        loop {
            match reader.next_chunk() {
                Ok(Some(Chunk::Range { start, end, .. })) => {
                    assert!(start == rows && end > start, "rows are counted");
                    rows = end;
                    if rows > 100_000 {
                        return true;
                    }
                }
                Ok(Some(_)) => panic!("files append ranges"),
                Ok(None) => return rows > 0,
                Err(_) => return false,
            }
        }
    });
}
