//! The content of files: Arrow batches from an outbox become Parquet, lines of JSON, or CSV. The same batches make the same
//! bytes.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow_json::writer::{LineDelimited, WriterBuilder as JsonWriterBuilder};
use bytes::{Buf, Bytes};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::outbox::Row;

/// Rows of one piece in the outbox.
pub(super) const GROUP_ROWS_MAX: usize = 8_192;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileFormat {
    Parquet,
    NdJson,
    Csv,
}

impl FileFormat {
    pub(super) const WORDS: [(&str, FileFormat); 3] =
        [("parquet", FileFormat::Parquet), ("ndjson", FileFormat::NdJson), ("csv", FileFormat::Csv)];

    /// Returns what the names of such files end with.
    pub(super) fn extension(self) -> &'static str {
        match self {
            FileFormat::Parquet => "parquet",
            FileFormat::NdJson => "ndjson",
            FileFormat::Csv => "csv",
        }
    }

    /// Writes a file.
    pub(super) fn write(self, batches: &[RecordBatch]) -> Result<Vec<u8>, String> {
        let Some(first) = batches.first() else { return Ok(Vec::new()) };
        match self {
            FileFormat::Parquet => {
                let zstd = ZstdLevel::try_new(1).map_err(|error| error.to_string())?;
                let properties = WriterProperties::builder().set_compression(Compression::ZSTD(zstd)).build();
                let mut writer = ArrowWriter::try_new(Vec::new(), first.schema(), Some(properties))
                    .map_err(|error| error.to_string())?;
                for batch in batches {
                    writer.write(batch).map_err(|error| error.to_string())?;
                }
                writer.into_inner().map_err(|error| error.to_string())
            }
            FileFormat::NdJson => {
                let builder = JsonWriterBuilder::new().with_explicit_nulls(true);
                let mut writer = builder.build::<_, LineDelimited>(Vec::new());
                for batch in batches {
                    writer.write(batch).map_err(|error| error.to_string())?;
                }
                writer.finish().map_err(|error| error.to_string())?;
                Ok(writer.into_inner())
            }
            FileFormat::Csv => {
                let mut bytes = Vec::new();
                let mut writer = arrow_csv::WriterBuilder::new().with_header(true).build(&mut bytes);
                for batch in batches {
                    writer.write(&flat(batch)?).map_err(|error| error.to_string())?;
                }
                drop(writer);
                Ok(bytes)
            }
        }
    }
}

/// Makes JSON of what CSV has no field for: maps.
fn flat(batch: &RecordBatch) -> Result<RecordBatch, String> {
    if !batch.schema().fields().iter().any(|field| field.data_type().is_nested()) {
        return Ok(batch.clone());
    }
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if field.data_type().is_nested() {
            fields.push(Arc::new(Field::new(field.name(), DataType::Utf8, true)));
            columns.push(Arc::new(as_json(column)?) as ArrayRef);
        } else {
            fields.push(Arc::clone(field));
            columns.push(Arc::clone(column));
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|error| error.to_string())
}

fn as_json(column: &ArrayRef) -> Result<StringArray, String> {
    let only = RecordBatch::try_from_iter([("value", Arc::clone(column))]).map_err(|error| error.to_string())?;
    let mut writer = JsonWriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    writer.write(&only).and_then(|()| writer.finish()).map_err(|error| error.to_string())?;
    let lines = String::from_utf8(writer.into_inner()).map_err(|error| error.to_string())?;
    let value = |line: &str| {
        let value =
            line.strip_prefix(r#"{"value":"#).and_then(|rest| rest.strip_suffix('}')).ok_or("not a line of JSON")?;
        Ok((value != "null").then(|| value.to_owned()))
    };
    lines.lines().map(value).collect()
}

/// Rows of one schema that follow each other: `[first_row, end_row)`.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) first_row: u64,
    pub(super) end_row: u64,
    schema: SchemaRef,
    pub(super) batches: Vec<RecordBatch>,
}

/// Reads claimed rows. There is more than one piece if the columns have changed within them.
pub(super) fn pieces(rows: &[Row]) -> Result<Vec<Piece>, String> {
    let mut pieces: Vec<Piece> = Vec::new();
    for row in rows {
        if row.payload.is_empty() {
            continue;
        }
        for batch in from_ipc(&row.payload).map_err(|problem| format!("row {}: {problem}", row.number))? {
            let schema = batch.schema();
            match pieces.last_mut() {
                Some(piece) if piece.schema == schema => piece.batches.push(batch),
                before => {
                    if let Some(before) = before {
                        before.end_row = row.number;
                    }
                    pieces.push(Piece { first_row: row.number, end_row: 0, schema, batches: vec![batch] });
                }
            }
        }
    }
    if let (Some(piece), Some(last)) = (pieces.last_mut(), rows.last()) {
        piece.end_row = last.number + 1;
    }
    Ok(pieces)
}

/// Writes a batch so that it can be read again without anything else.
pub(super) fn to_ipc(batch: &RecordBatch) -> Result<Vec<u8>, String> {
    let columns = batch.columns().iter().map(compacted).collect();
    let batch = RecordBatch::try_new(batch.schema(), columns).map_err(|error| error.to_string())?;
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).map_err(|error| error.to_string())?;
    writer.write(&batch).map_err(|error| error.to_string())?;
    writer.into_inner().map_err(|error| error.to_string())
}

/// Texts of a few rows may still hold on to those of many that were filtered out.
fn compacted(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Utf8View => Arc::new(column.as_string_view().gc()),
        DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
        _ => Arc::clone(column),
    }
}

fn from_ipc(bytes: &Bytes) -> Result<Vec<RecordBatch>, String> {
    let reader = StreamReader::try_new(bytes.clone().reader(), None).map_err(|error| error.to_string())?;
    reader.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BinaryArray, Float64Array, Int64Array, MapBuilder, StringBuilder, StringViewArray, StringViewBuilder,
        TimestampMicrosecondArray,
    };
    use arrow::datatypes::{Float64Type, Int64Type};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;
    use crate::outbox::Row;

    fn batch(from: i64) -> RecordBatch {
        let columns: [(&str, ArrayRef); 4] = [
            ("n", Arc::new(Int64Array::from(vec![from, from + 1]))),
            ("device", Arc::new(StringViewArray::from(vec![Some("a,\"b\""), None]))),
            ("x", Arc::new(Float64Array::from(vec![f64::NAN, -0.5]))),
            ("at", Arc::new(TimestampMicrosecondArray::from(vec![0, 1_500_000]).with_timezone("+00:00"))),
        ];
        RecordBatch::try_from_iter(columns).expect("columns fit")
    }

    fn row(number: u64, payload: Vec<u8>) -> Row {
        Row { number, key: Bytes::new(), payload: payload.into() }
    }

    #[test]
    fn batches_come_back_from_an_outbox_and_are_parted_where_columns_change() {
        let narrow = batch(9).project(&[0]).expect("a column");
        let rows = [
            row(5, to_ipc(&batch(1)).expect("written")),
            row(6, vec![]),
            row(7, to_ipc(&batch(3)).expect("written")),
            row(8, vec![]),
            row(9, to_ipc(&narrow).expect("written")),
            row(10, vec![]),
        ];
        let pieces = pieces(&rows).expect("whole");
        let ranges: Vec<(u64, u64)> = pieces.iter().map(|piece| (piece.first_row, piece.end_row)).collect();
        assert_eq!(ranges, [(5, 9), (9, 11)]);
        assert_eq!(pieces[1].batches, [narrow]);
        assert_eq!(pieces[0].batches.len(), 2);
        let problem = super::pieces(&[row(3, b"no batch".to_vec())]).expect_err("no batch");
        assert!(problem.starts_with("row 3: "), "{problem}");
    }

    #[test]
    fn a_few_rows_of_many_carry_their_own_texts_only() {
        let texts =
            StringViewArray::from_iter_values((0..1_000).map(|n| format!("a text that is longer than a view: {n}")));
        let many = RecordBatch::try_from_iter([("text", Arc::new(texts) as ArrayRef)]).expect("a column");
        let bytes = to_ipc(&many.slice(7, 2)).expect("written");
        assert!(bytes.len() < 2_000, "{}", bytes.len());
        assert_eq!(from_ipc(&bytes.into()).expect("read"), [many.slice(7, 2)]);
    }

    #[test]
    fn maps_and_bytes_are_text_in_csv() {
        let mut labels = MapBuilder::new(None, StringBuilder::new(), StringViewBuilder::new());
        labels.keys().append_value("a,\"b\"");
        labels.values().append_value("1");
        labels.keys().append_value("n");
        labels.values().append_null();
        labels.append(true).expect("pairs");
        labels.append(false).expect("null");
        labels.append(true).expect("no pairs");
        let columns: [(&str, ArrayRef); 3] = [
            ("n", Arc::new(Int64Array::from(vec![1, 2, 3]))),
            ("labels", Arc::new(labels.finish())),
            ("raw", Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\x00\xff"), None, Some(b"")]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).expect("columns fit");
        let csv = String::from_utf8(FileFormat::Csv.write(&[batch]).expect("written")).expect("text");
        let labels = "\"{\"\"a,\\\"\"b\\\"\"\"\":\"\"1\"\",\"\"n\"\":null}\"";
        assert_eq!(csv, format!("n,labels,raw\n1,{labels},00ff\n2,,\n3,{{}},\n"));
    }

    #[test]
    fn files_hold_every_value_in_their_format_and_are_the_same_each_time() {
        let batches = [batch(1), batch(3)];
        for (_, format) in FileFormat::WORDS {
            assert_eq!(format.write(&batches), format.write(&batches), "{format:?}");
        }
        let text = |format: FileFormat| String::from_utf8(format.write(&batches).expect("written")).expect("text");
        assert_eq!(
            text(FileFormat::NdJson).lines().next(),
            Some(r#"{"n":1,"device":"a,\"b\"","x":null,"at":"1970-01-01T00:00:00Z"}"#)
        );
        let csv = text(FileFormat::Csv);
        assert_eq!(csv.lines().count(), 5, "one head: {csv}");
        assert!(csv.starts_with("n,device,x,at\n1,\"a,\"\"b\"\"\",NaN,1970-01-01T00:00:00Z\n2,,-0.5,"), "{csv}");
        let parquet = Bytes::from(FileFormat::Parquet.write(&batches).expect("written"));
        let reader = ParquetRecordBatchReaderBuilder::try_new(parquet).expect("Parquet").build().expect("a reader");
        let rows: Vec<RecordBatch> = reader.collect::<Result<_, _>>().expect("readable");
        assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 4);
        assert_eq!(rows[0].column(0).as_primitive::<Int64Type>().values(), &[1, 2, 3, 4]);
        assert!(rows[0].column(2).as_primitive::<Float64Type>().value(0).is_nan(), "not a number stays that");
    }
}
