//! Both kinds: whole, cut at every byte, hostile.

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, NullArray, StringArray, StringDictionaryBuilder};
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use arrow::ipc::writer::StreamWriter;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use tidemill_engine::source::Offset;
use tidemill_engine::testing::fuzz::fuzz;

use super::*;
use crate::Metadata;

fn layout() -> Layout {
    Layout::new(&Arc::new(Schema::new(vec![
        Metadata::Position.column("place"),
        Field::new("device", DataType::Utf8View, true),
        Field::new("v", DataType::Float64, false),
    ])))
}

fn columns() -> Vec<RecordBatch> {
    let mut names = StringDictionaryBuilder::<Int32Type>::new();
    ["a", "b", "a"].into_iter().for_each(|name| names.append_value(name));
    let values: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), None, Some(3.0)]));
    let first = [("device", Arc::new(names.finish()) as ArrayRef, true), ("v", values, true)];
    let first = RecordBatch::try_from_iter_with_nullable(first).expect("columns");
    vec![first.clone(), first.slice(0, 1)]
}

pub(crate) fn arrow_stream(batches: &[RecordBatch]) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batches[0].schema()).expect("a stream");
    batches.iter().for_each(|batch| writer.write(batch).expect("written"));
    writer.finish().expect("an end mark");
    writer.into_inner().expect("finished")
}

pub(crate) fn parquet_file(batches: &[RecordBatch], compression: Compression) -> Vec<u8> {
    let properties = WriterProperties::builder().set_compression(compression).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batches[0].schema(), Some(properties)).expect("a file");
    batches.iter().for_each(|batch| writer.write(batch).expect("written"));
    writer.into_inner().expect("finished")
}

fn decode(enclosed: Enclosed, payload: Vec<u8>) -> Result<Decoded, Unreadable> {
    let messages = [Message::new("", ""), Message::new("", payload)];
    let place = Place { runs: &[(Offset(7), 2)], ..Place::default() };
    enclosed.decode(&layout(), &messages, 1, &place)
}

fn each_kind() -> [(Enclosed, Vec<u8>); 3] {
    let zstd = Compression::ZSTD(ZstdLevel::try_new(3).expect("a level"));
    [
        (Enclosed::ArrowStream, arrow_stream(&columns())),
        (Enclosed::ParquetFile, parquet_file(&columns(), Compression::SNAPPY)),
        (Enclosed::ParquetFile, parquet_file(&columns(), zstd)),
    ]
}

#[test]
fn rows_come_out_with_the_place_of_their_message_and_bad_ones_say_which_they_are() {
    for (enclosed, payload) in each_kind() {
        let decoded = decode(enclosed, payload).expect("whole");
        let values: Vec<f64> = decoded
            .batches
            .iter()
            .flat_map(|batch| batch.column(2).as_primitive::<arrow::datatypes::Float64Type>().values().to_vec())
            .collect();
        assert_eq!(values, [1.0, 3.0, 1.0], "{enclosed:?}");
        for batch in &decoded.batches {
            assert_eq!(batch.schema(), *layout().schema());
            assert!(
                batch.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().iter().all(|place| *place == 8)
            );
        }
        assert_eq!(decoded.dead.len(), 1);
        assert_eq!(decoded.dead[0].message, 1);
        assert_eq!(decoded.dead[0].reason, "row 2: column v: missing or null, but declared NOT NULL");
    }
}

#[test]
fn what_is_cut_anywhere_is_damaged() {
    for (enclosed, payload) in each_kind() {
        for end in 0..payload.len() {
            match decode(enclosed, payload[..end].to_vec()) {
                Err(Unreadable::Damaged(reason)) => assert!(reason.starts_with("not a"), "{reason}"),
                other => panic!("{enclosed:?} cut at {end} of {}: {other:?}", payload.len()),
            }
        }
    }
}

#[test]
fn columns_that_do_not_fit_are_named() {
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    let other = RecordBatch::try_from_iter([("w", text)]).expect("a column");
    let only_device = RecordBatch::try_from_iter([("device", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]);
    for (batch, expected) in [(other, "has no column v"), (only_device.expect("a column"), "has no column v")] {
        for (enclosed, payload) in [
            (Enclosed::ArrowStream, arrow_stream(std::slice::from_ref(&batch))),
            (Enclosed::ParquetFile, parquet_file(std::slice::from_ref(&batch), Compression::UNCOMPRESSED)),
        ] {
            let Err(Unreadable::Columns(reason)) = decode(enclosed, payload) else { panic!("refused") };
            assert!(reason.contains(expected), "{reason}");
        }
    }
}

#[test]
fn a_claim_of_a_billion_rows_or_of_gigabytes_is_refused_before_it_is_believed() {
    let nulls: ArrayRef = Arc::new(NullArray::new(1 << 30));
    let many = RecordBatch::try_from_iter([("v", nulls)]).expect("a column");
    let refused = decode(Enclosed::ArrowStream, arrow_stream(&[many]));
    assert!(matches!(refused, Err(Unreadable::TooLarge(_))), "{refused:?}");
    // One text of 1 MiB after the other: equal ones, so that they take next to nothing.
    let text = "x".repeat(1 << 20);
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..80).map(|at| format!("{at}{text}"))));
    let values: ArrayRef = Arc::new(Float64Array::from(vec![1.0; 80]));
    let bomb = RecordBatch::try_from_iter([("device", texts), ("v", values)]).expect("columns");
    let bomb = parquet_file(&[bomb], Compression::ZSTD(ZstdLevel::try_new(3).expect("a level")));
    assert!(bomb.len() < 1 << 20, "{}", bomb.len());
    let refused = decode(Enclosed::ParquetFile, bomb);
    assert!(matches!(refused, Err(Unreadable::TooLarge(_))), "{refused:?}");
}

/// Whatever a payload holds, it is read or refused, and the limit of rows is kept.
fn reads_anything(enclosed: Enclosed, name: &str) {
    fuzz(format!("{}/src/format/corpus/{name}", env!("CARGO_MANIFEST_DIR")), |input| {
        let Ok(decoded) = decode(enclosed, input.to_vec()) else { return false };
        let rows: usize = decoded.batches.iter().map(RecordBatch::num_rows).sum();
        assert!(rows + decoded.dead.len() <= ENCLOSED_ROWS_MAX);
        true
    });
}

#[test]
fn fuzz_arrow_stream() {
    reads_anything(Enclosed::ArrowStream, "arrow_stream");
}

#[test]
fn fuzz_parquet_file() {
    reads_anything(Enclosed::ParquetFile, "parquet_file");
}
