//! Each kind: whole, cut at every byte, hostile.

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, NullArray, StringArray, StringDictionaryBuilder};
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow_avro::compression::CompressionCodec;
use arrow_avro::writer::format::AvroOcfFormat;
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

pub(crate) fn arrow_lz4(batches: &[RecordBatch]) -> Vec<u8> {
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME)).expect("lz4");
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &batches[0].schema(), options).expect("a stream");
    batches.iter().for_each(|batch| writer.write(batch).expect("written"));
    writer.finish().expect("an end mark");
    writer.into_inner().expect("finished")
}

/// A block for each batch.
pub(crate) fn avro_container(batches: &[RecordBatch], codec: Option<CompressionCodec>) -> Vec<u8> {
    let plain = |batch: &RecordBatch| {
        let columns = batch.columns().iter().zip(batch.schema_ref().fields()).map(|(column, field)| {
            let plain = match column.data_type() {
                DataType::Dictionary(_, _) => arrow::compute::cast(column, &DataType::Utf8).expect("text"),
                _ => Arc::clone(column),
            };
            (field.name().clone(), plain, true)
        });
        RecordBatch::try_from_iter_with_nullable(columns).expect("columns")
    };
    let batches: Vec<RecordBatch> = batches.iter().map(plain).collect();
    let writer = arrow_avro::writer::WriterBuilder::new(Schema::clone(&batches[0].schema())).with_compression(codec);
    let mut writer = writer.build::<_, AvroOcfFormat>(Vec::new()).expect("a container");
    batches.iter().for_each(|batch| writer.write(batch).expect("written"));
    writer.finish().expect("finished");
    writer.into_inner()
}

fn corpus(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/src/format/corpus/{name}", env!("CARGO_MANIFEST_DIR"))).expect("a file of the corpus")
}

fn each_kind() -> [(Enclosed, Vec<u8>); 6] {
    let zstd = Compression::ZSTD(ZstdLevel::try_new(3).expect("a level"));
    [
        (Enclosed::ArrowStream, arrow_stream(&columns())),
        (Enclosed::ArrowStream, arrow_lz4(&columns())),
        (Enclosed::AvroContainer, avro_container(&columns(), None)),
        (Enclosed::AvroContainer, avro_container(&columns(), Some(CompressionCodec::Snappy))),
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
        // A container may end behind its head, or behind any of its blocks.
        let is_whole =
            |end: usize| enclosed == Enclosed::AvroContainer && decode(enclosed, payload[..end].to_vec()).is_ok();
        let whole: Vec<usize> = (0..payload.len()).filter(|end| is_whole(*end)).collect();
        assert!(whole.len() <= 2, "{enclosed:?}: {whole:?}");
        for end in (0..payload.len()).filter(|end| !whole.contains(end)) {
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
            (Enclosed::AvroContainer, avro_container(std::slice::from_ref(&batch), None)),
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
    let parquet = parquet_file(&[bomb.clone()], Compression::ZSTD(ZstdLevel::try_new(3).expect("a level")));
    let bomb = std::slice::from_ref(&bomb);
    for (enclosed, bomb) in [
        (Enclosed::ParquetFile, parquet),
        (Enclosed::ArrowStream, arrow_lz4(bomb)),
        (Enclosed::AvroContainer, avro_container(bomb, Some(CompressionCodec::ZStandard))),
    ] {
        assert!(bomb.len() < 1 << 20, "{}", bomb.len());
        let refused = decode(enclosed, bomb);
        let Err(Unreadable::TooLarge(reason)) = refused else { panic!("{enclosed:?}: {refused:?}") };
        assert!(reason.contains("64 MiB"), "{reason}");
    }
}

#[test]
fn what_other_libraries_compress_is_read() {
    for name in ["arrow_stream/lz4", "arrow_stream/zstd"] {
        let decoded = decode(Enclosed::ArrowStream, corpus(name)).expect(name);
        let sum: f64 = decoded.batches.iter().flat_map(|batch| values(batch)).sum();
        assert_eq!((sum, decoded.dead.len()), (240.0, 0), "{name}");
    }
    for name in ["null", "deflate", "snappy", "zstandard"] {
        let decoded = decode(Enclosed::AvroContainer, corpus(&format!("avro_container/{name}"))).expect(name);
        let rows: usize = decoded.batches.iter().map(RecordBatch::num_rows).sum();
        let sum: f64 = decoded.batches.iter().flat_map(|batch| values(batch)).sum();
        assert_eq!((rows, sum, decoded.dead.len()), (40, 390.0, 0), "{name}");
    }
}

fn values(batch: &RecordBatch) -> Vec<f64> {
    batch.column(2).as_primitive::<arrow::datatypes::Float64Type>().values().to_vec()
}

#[test]
fn a_block_that_holds_more_or_less_than_its_rows_is_damaged_and_so_is_a_wrong_checksum() {
    let whole = corpus("avro_container/null");
    let mark = whole[whole.len() - 16..].to_vec();
    let first = whole.windows(16).position(|bytes| bytes == mark).expect("behind the head") + 16;
    // The first block has few rows: its count is one byte, and its length two.
    let count = whole[first];
    for other in [count + 2, count - 2] {
        let mut lying = whole.clone();
        lying[first] = other;
        let refused = decode(Enclosed::AvroContainer, lying);
        let Err(Unreadable::Damaged(reason)) = refused else { panic!("{refused:?}") };
        assert!(reason.contains(&format!("the block at byte {first}, behind 0 rows: ")), "{reason}");
    }
    let mut snappy = corpus("avro_container/snappy");
    let end = snappy.len() - 17;
    snappy[end] ^= 1;
    let Err(Unreadable::Damaged(reason)) = decode(Enclosed::AvroContainer, snappy) else { panic!("refused") };
    assert!(reason.contains("its checksum does not fit"), "{reason}");
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
fn fuzz_avro_container() {
    reads_anything(Enclosed::AvroContainer, "avro_container");
}

#[test]
fn fuzz_parquet_file() {
    reads_anything(Enclosed::ParquetFile, "parquet_file");
}
