//! Parquet files, whole in memory.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;

use super::pages::uncompressed_bytes;
use super::{ENCLOSED_BYTES_MAX, ENCLOSED_ROWS_MAX, ENCLOSED_VALUES_MAX, Unreadable};
use crate::format::{BATCH_ROWS, Layout};

/// Reads the declared columns of a file.
pub(super) fn read(payload: &Bytes, layout: &Layout) -> Result<Vec<RecordBatch>, Unreadable> {
    let metadata = ArrowReaderMetadata::load(payload, ArrowReaderOptions::default()).map_err(damaged)?;
    let row_count = metadata.metadata().row_groups().iter().map(|group| group.num_rows().max(0) as u64);
    let row_count = row_count.fold(0u64, u64::saturating_add);
    if row_count > ENCLOSED_ROWS_MAX as u64 {
        return Err(Unreadable::TooLarge(format!(
            "a file may have {ENCLOSED_ROWS_MAX} rows, this one has {row_count}"
        )));
    }
    layout.check_columns(metadata.schema()).map_err(Unreadable::Columns)?;
    check_pages(payload, metadata.metadata())?;
    // Text as views: 100,000 rows may all show one long text of a dictionary, and copies of it would take gigabytes.
    let options = ArrowReaderOptions::default().with_schema(Arc::new(with_views(metadata.schema())));
    let metadata = ArrowReaderMetadata::try_new(Arc::clone(metadata.metadata()), options).map_err(damaged)?;
    let wanted = metadata.schema().fields().iter().enumerate();
    let wanted = wanted.filter(|(_, field)| layout.payload().column_with_name(field.name()).is_some());
    let projection = ProjectionMask::roots(metadata.parquet_schema(), wanted.map(|(place, _)| place));
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(payload.clone(), metadata)
        .with_projection(projection)
        .with_batch_size(BATCH_ROWS)
        .build()
        .map_err(damaged)?;
    let (mut batches, mut rows) = (Vec::new(), 0);
    for batch in reader {
        let batch = batch
            .map_err(|error| Unreadable::Damaged(format!("not a whole Parquet file: behind row {rows}: {error}")))?;
        rows += batch.num_rows();
        if rows > ENCLOSED_ROWS_MAX {
            return Err(Unreadable::TooLarge(format!("a file may have {ENCLOSED_ROWS_MAX} rows, this one has more")));
        }
        batches.push(batch);
    }
    Ok(batches)
}

fn damaged(error: ParquetError) -> Unreadable {
    Unreadable::Damaged(format!("not a whole Parquet file: {error}"))
}

/// Adds up what the pages say that they become.
fn check_pages(payload: &Bytes, metadata: &ParquetMetaData) -> Result<(), Unreadable> {
    let (mut sum, mut values) = (0u64, 0u64);
    for (group, columns) in metadata.row_groups().iter().enumerate() {
        for column in columns.columns() {
            values = values.saturating_add(u64::try_from(column.num_values()).unwrap_or(0));
            let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
            let range = usize::try_from(start).ok().zip(usize::try_from(column.compressed_size()).ok());
            let chunk = range.and_then(|(start, length)| payload.get(start..start.checked_add(length)?));
            let Some(bytes) = chunk.and_then(uncompressed_bytes) else {
                return Err(Unreadable::Damaged(format!(
                    "not a whole Parquet file: the pages of column {} in row group {} are not where they should be",
                    column.column_path().string(),
                    group + 1
                )));
            };
            sum = sum.saturating_add(bytes);
        }
    }
    // A list may repeat one value a billion times in a few bytes.
    if values > ENCLOSED_VALUES_MAX {
        return Err(Unreadable::TooLarge(format!(
            "a file may have {ENCLOSED_VALUES_MAX} values, this one has {values}"
        )));
    }
    if sum > ENCLOSED_BYTES_MAX {
        let max = ENCLOSED_BYTES_MAX >> 20;
        return Err(Unreadable::TooLarge(format!("the pages of a file may become {max} MiB, these become more")));
    }
    Ok(())
}

fn with_views(schema: &Schema) -> Schema {
    let as_view = |field: &Arc<Field>| match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View)),
        _ => Arc::clone(field),
    };
    Schema::new(schema.fields().iter().map(as_view).collect::<Vec<_>>())
}
