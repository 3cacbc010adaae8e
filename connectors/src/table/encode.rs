//! Encoding: rows of one partition, sorted, become Parquet files in memory.
//!
//! Sorted by (key, time) inside a file that spans one commit; row groups of 128 k rows; the page index; times as
//! `DELTA_BINARY_PACKED`, everything else with a dictionary (rounded sensor values repeat: half the size of a byte
//! stream split), zstd 1. No Arrow schema inside: it would make other readers meet Arrow's own string views.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

/// A file is closed when it has this many bytes; the next sequence number goes on.
pub(super) const FILE_BYTES_MAX: usize = 64 << 20;
/// Enough rows to make pages worth while, few enough that a query for one key skips most of the file.
const ROW_GROUP_ROWS: usize = 128 << 10;
/// Rows handed to the encoder at once, before the file's size is looked at again.
const SLICE_ROWS_MAX: usize = 16 << 10;
/// The same in bytes, for rows with large values.
const SLICE_BYTES_MAX: usize = 4 << 20;

/// A file, not written yet.
pub(super) struct Encoded {
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
    /// The rows in it.
    pub(super) rows: RecordBatch,
}

/// Encodes rows into as many files as `file_bytes_max` asks for, at least one. `sort` are the columns the rows are
/// sorted by.
pub(super) fn encode_files(
    rows: &RecordBatch,
    sort: &[usize],
    file_bytes_max: usize,
) -> Result<Vec<Encoded>, ParquetError> {
    let properties = properties(&rows.schema(), sort)?;
    let row_bytes = (rows.get_array_memory_size() / rows.num_rows().max(1)).max(1);
    let slice_rows = (SLICE_BYTES_MAX / row_bytes).clamp(1, SLICE_ROWS_MAX);
    let mut files = Vec::new();
    let mut begin = 0;
    while begin < rows.num_rows() {
        let options = ArrowWriterOptions::new().with_properties(properties.clone()).with_skip_arrow_metadata(true);
        let mut writer = ArrowWriter::try_new_with_options(Vec::new(), rows.schema(), options)?;
        let mut end = begin;
        while end < rows.num_rows() && writer.bytes_written() + writer.in_progress_size() < file_bytes_max {
            let count = slice_rows.min(rows.num_rows() - end);
            writer.write(&rows.slice(end, count))?;
            end += count;
        }
        files.push(Encoded { bytes: writer.into_inner()?, rows: rows.slice(begin, end - begin) });
        begin = end;
    }
    Ok(files)
}

fn properties(schema: &Schema, sort: &[usize]) -> Result<WriterProperties, ParquetError> {
    let mut builder = WriterProperties::builder()
        .set_created_by(concat!("tidemill version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_sorting_columns(sorting_columns(schema, sort));
    for field in schema.fields() {
        if matches!(field.data_type(), DataType::Timestamp(..)) {
            let path = ColumnPath::new(vec![field.name().clone()]);
            builder = builder
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
        }
    }
    Ok(builder.build())
}

/// Parquet counts leaves, not columns.
fn sorting_columns(schema: &Schema, sort: &[usize]) -> Option<Vec<SortingColumn>> {
    let leaf_of = |column: usize| schema.fields().iter().take(column).map(|field| leaves(field)).sum::<usize>();
    let columns = sort.iter().map(|column| SortingColumn {
        column_idx: i32::try_from(leaf_of(*column)).expect("fewer than two billion columns"),
        descending: false,
        nulls_first: true,
    });
    Some(columns.collect::<Vec<_>>()).filter(|columns| !columns.is_empty())
}

fn leaves(field: &Field) -> usize {
    match field.data_type() {
        DataType::Struct(fields) => fields.iter().map(|field| leaves(field)).sum(),
        DataType::List(element) => leaves(element),
        DataType::Map(entries, _) => leaves(entries),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use arrow::array::{Int64Array, StringViewArray, TimestampMicrosecondArray};
    use bytes::Bytes;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    fn rows(count: i64) -> RecordBatch {
        let texts: Vec<String> =
            (0..count).map(|i| format!("{:032x}", i.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64.cast_signed()))).collect();
        RecordBatch::try_from_iter([
            ("ts", Arc::new(TimestampMicrosecondArray::from_iter_values(0..count).with_timezone("UTC")) as _),
            ("text", Arc::new(StringViewArray::from_iter_values(texts)) as _),
            ("n", Arc::new(Int64Array::from_iter_values(0..count)) as _),
        ])
        .unwrap()
    }

    #[test]
    fn a_file_that_would_be_too_large_becomes_several() {
        let rows = rows(100_000);
        let files = encode_files(&rows, &[0], 200_000).unwrap();
        assert!(files.len() > 3, "{}", files.len());
        assert_eq!(files.iter().map(|file| file.rows.num_rows()).sum::<usize>(), 100_000);
        for file in files {
            assert!(file.bytes.len() < 2_000_000);
            let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(file.bytes)).unwrap();
            assert_eq!(reader.metadata().file_metadata().num_rows(), file.rows.num_rows() as i64);
        }
    }

    #[test]
    fn files_say_how_they_are_sorted_and_encode_time_by_difference() {
        let files = encode_files(&rows(1_000), &[2, 0], FILE_BYTES_MAX).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(files[0].bytes.clone())).unwrap();
        assert_eq!(reader.schema().field(1).data_type(), &DataType::Utf8, "no Arrow types inside");
        let group = reader.metadata().row_group(0);
        let sorted: Vec<i32> = group.sorting_columns().unwrap().iter().map(|column| column.column_idx).collect();
        assert_eq!(sorted, [2, 0]);
        assert!(group.column(0).encodings().any(|encoding| encoding == Encoding::DELTA_BINARY_PACKED));
        assert!(group.column(0).column_index_offset().is_some());
        assert!(reader.metadata().file_metadata().created_by().unwrap().starts_with("tidemill version "));
    }
}
