//! Parquet by row ranges. Columns are matched by name; their types may differ as far as Arrow can cast them.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use tidemill_engine::source::{Chunk, Data, SourceError};

use super::unreadable;
use crate::format::Layout;

/// Rows of a chunk.
const CHUNK_ROWS: usize = 32_768;
/// Bytes of a footer that are believed.
const FOOTER_BYTES_MAX: u64 = 256 << 20;

/// A Parquet file, at a row.
pub(super) struct ParquetReader {
    path: PathBuf,
    partition: String,
    metadata: ArrowReaderMetadata,
    /// The footer describes every page of the file, with sizes and extremes: its checksum stands for the contents.
    footer_checksum: u32,
    projection: ProjectionMask,
    /// Opened by the first chunk.
    batches: Option<ParquetRecordBatchReader>,
    next: u64,
}

impl ParquetReader {
    /// Opens a file at row `next`, and checks that its columns can become the declared ones.
    pub(super) fn open(path: &Path, partition: &str, layout: &Layout, next: u64) -> Result<Self, SourceError> {
        let mut file = File::open(path).map_err(|error| unreadable(path, &error))?;
        let footer_checksum = footer_checksum(&mut file).map_err(|error| unreadable(path, &error))?;
        let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::default())
            .map_err(|error| SourceError::Environment(format!("cannot read {}: {error}", path.display())))?;
        let refused = |problem| SourceError::Environment(format!("{}: {problem}", path.display()));
        layout.check_columns(metadata.schema()).map_err(refused)?;
        let wanted = metadata.schema().fields().iter().enumerate();
        let names: Vec<&str> = layout.payload().fields().iter().map(|field| field.name().as_str()).collect();
        let leads_to = |field: &str, name: &str| {
            name.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let wanted = wanted.filter(|(_, field)| names.iter().any(|name| leads_to(field.name(), name)));
        let projection = ProjectionMask::roots(metadata.parquet_schema(), wanted.map(|(place, _)| place));
        Ok(ParquetReader {
            path: path.to_owned(),
            partition: partition.to_owned(),
            metadata,
            footer_checksum,
            projection,
            batches: None,
            next,
        })
    }

    pub(super) fn partition(&self) -> &str {
        &self.partition
    }

    /// The row that comes next.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Reads one row, to find out before anything starts whether the pages can be read at all.
    pub(super) fn probe(&self) -> Result<(), SourceError> {
        match self.batches(0, Some(1))?.next() {
            Some(Err(error)) => Err(self.damaged(&error)),
            _ => Ok(()),
        }
    }

    /// Reads the next chunk; `None` at the end of the file.
    pub(super) fn next_chunk(&mut self) -> Result<Option<Chunk>, SourceError> {
        if self.batches.is_none() {
            self.batches = Some(self.batches(self.next, None)?);
        }
        let batch = match self.batches.as_mut().and_then(Iterator::next) {
            None => return Ok(None),
            Some(batch) => batch.map_err(|error| self.damaged(&error))?,
        };
        let (start, end) = (self.next, self.next + batch.num_rows() as u64);
        self.next = end;
        Ok(Some(Chunk::Range { start, end, data: Data::Columns(batch), checksum: self.checksum(start, end) }))
    }

    /// Reads a range again as the next chunk, if it is the next chunk: a replay goes through the file in order, and to
    /// find a row anew would decode all rows of its row group that stand before it.
    pub(super) fn next_range(&mut self, start: u64, end: u64) -> Result<Option<(Data, u32)>, SourceError> {
        if self.next != start {
            return Ok(None);
        }
        match self.next_chunk()? {
            Some(Chunk::Range { end: found, data, checksum, .. }) if found == end => Ok(Some((data, checksum))),
            _ => Ok(None),
        }
    }

    /// Reads a range again, wherever the reader stands.
    pub(super) fn range(&self, start: u64, end: u64) -> Result<(Data, u32), SourceError> {
        let row_count = end.saturating_sub(start);
        let batches = self.batches(start, Some(row_count as usize))?;
        let batches: Vec<RecordBatch> = batches.collect::<Result<_, _>>().map_err(|error| self.damaged(&error))?;
        let found: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let Some(first) = batches.first().filter(|_| found as u64 == row_count) else {
            return Err(SourceError::Changed(format!(
                "file {} was read at rows {start}..{end} and has fewer now: put it back as it was",
                self.path.display()
            )));
        };
        let whole = concat_batches(&first.schema(), &batches).map_err(|error| self.damaged(&error))?;
        Ok((Data::Columns(whole), self.checksum(start, end)))
    }

    fn batches(&self, start: u64, limit: Option<usize>) -> Result<ParquetRecordBatchReader, SourceError> {
        let file = File::open(&self.path).map_err(|error| unreadable(&self.path, &error))?;
        let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
            .with_projection(self.projection.clone())
            .with_batch_size(CHUNK_ROWS)
            .with_offset(usize::try_from(start).unwrap_or(usize::MAX));
        if let Some(limit) = limit {
            builder = builder.with_limit(limit);
        }
        builder.build().map_err(|error| self.damaged(&error))
    }

    fn checksum(&self, start: u64, end: u64) -> u32 {
        let checksum = crc32c::crc32c_append(self.footer_checksum, &start.to_le_bytes());
        crc32c::crc32c_append(checksum, &end.to_le_bytes())
    }

    fn damaged(&self, error: &dyn std::fmt::Display) -> SourceError {
        SourceError::Environment(format!("cannot read {}: {error}", self.path.display()))
    }
}

/// `… footer | its length: 4 bytes | "PAR1"` at the end of the file, and the file's length.
fn footer_checksum(file: &mut File) -> std::io::Result<u32> {
    let size = file.seek(SeekFrom::End(0))?;
    let mut tail = [0u8; 8];
    file.seek(SeekFrom::Start(size.saturating_sub(8)))?;
    file.read_exact(&mut tail)?;
    let [a, b, c, d, ..] = tail;
    let length = u64::from(u32::from_le_bytes([a, b, c, d])).min(FOOTER_BYTES_MAX).min(size);
    let mut footer = Vec::with_capacity(length as usize);
    file.seek(SeekFrom::Start(size - length))?;
    file.take(length).read_to_end(&mut footer)?;
    Ok(crc32c::crc32c_append(crc32c::crc32c(&footer), &size.to_le_bytes()))
}
