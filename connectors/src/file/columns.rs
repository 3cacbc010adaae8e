//! Files of columns: one interface over Parquet, which finds a row quickly, and the formats that are read from the beginning.

use std::path::Path;

use tidemill_engine::source::{Chunk, Data, SourceError};

use super::parquet::ParquetReader;
use super::stream::RowsReader;
use crate::format::{Encoding, Layout};

/// A file of columns, at a row.
pub(super) enum ColumnsReader {
    Parquet(ParquetReader),
    Rows(RowsReader),
}

impl ColumnsReader {
    /// Opens a file at row `next`, and checks that its columns can become the declared ones.
    pub(super) fn open(
        path: &Path,
        partition: &str,
        encoding: Encoding,
        layout: &Layout,
        next: u64,
    ) -> Result<Self, SourceError> {
        Ok(match encoding {
            Encoding::Parquet => ColumnsReader::Parquet(ParquetReader::open(path, partition, layout, next)?),
            _ => ColumnsReader::Rows(RowsReader::open(path, partition, encoding, layout, next)?),
        })
    }

    pub(super) fn partition(&self) -> &str {
        match self {
            ColumnsReader::Parquet(reader) => reader.partition(),
            ColumnsReader::Rows(reader) => reader.partition(),
        }
    }

    /// The row that comes next.
    pub(super) fn next(&self) -> u64 {
        match self {
            ColumnsReader::Parquet(reader) => reader.next(),
            ColumnsReader::Rows(reader) => reader.next(),
        }
    }

    /// Finds out before anything starts whether the file can be read at all.
    pub(super) fn probe(&self) -> Result<(), SourceError> {
        match self {
            ColumnsReader::Parquet(reader) => reader.probe(),
            // Its header was read when it was opened.
            ColumnsReader::Rows(_) => Ok(()),
        }
    }

    /// Reads the next chunk; `None` at the end of the file.
    pub(super) fn next_chunk(&mut self) -> Result<Option<Chunk>, SourceError> {
        match self {
            ColumnsReader::Parquet(reader) => reader.next_chunk(),
            ColumnsReader::Rows(reader) => reader.next_chunk(),
        }
    }

    /// Reads a range again.
    pub(super) fn range(&mut self, start: u64, end: u64) -> Result<(Data, u32), SourceError> {
        match self {
            ColumnsReader::Parquet(reader) => match reader.next_range(start, end)? {
                Some(found) => Ok(found),
                None => reader.range(start, end),
            },
            ColumnsReader::Rows(reader) => reader.range(start, end),
        }
    }
}
