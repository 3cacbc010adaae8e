//! Files of columns: one interface over Parquet, which finds a row quickly, and the formats that are read from the beginning.
//!
//! The libraries that read them panic on some bytes that only mean mischief. For whoever asks here such a file cannot be read,
//! as any other that is damaged.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use tidemill_engine::source::{Chunk, Data, SourceError};

use super::parquet::ParquetReader;
use super::stream::RowsReader;
use crate::format::{Encoding, Layout};

/// A file of columns, at a row. After an error it is not to be asked again.
pub(super) struct ColumnsReader {
    path: PathBuf,
    kind: Kind,
}

enum Kind {
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
        let kind = guarded(path, || {
            Ok(match encoding {
                Encoding::Parquet => Kind::Parquet(ParquetReader::open(path, partition, layout, next)?),
                _ => Kind::Rows(RowsReader::open(path, partition, encoding, layout, next)?),
            })
        })?;
        Ok(ColumnsReader { path: path.to_owned(), kind })
    }

    pub(super) fn partition(&self) -> &str {
        match &self.kind {
            Kind::Parquet(reader) => reader.partition(),
            Kind::Rows(reader) => reader.partition(),
        }
    }

    /// The row that comes next.
    pub(super) fn next(&self) -> u64 {
        match &self.kind {
            Kind::Parquet(reader) => reader.next(),
            Kind::Rows(reader) => reader.next(),
        }
    }

    /// Finds out before anything starts whether the file can be read at all.
    pub(super) fn probe(&self) -> Result<(), SourceError> {
        guarded(&self.path, || match &self.kind {
            Kind::Parquet(reader) => reader.probe(),
            // Its header was read when it was opened.
            Kind::Rows(_) => Ok(()),
        })
    }

    /// Reads the next chunk; `None` at the end of the file.
    pub(super) fn next_chunk(&mut self) -> Result<Option<Chunk>, SourceError> {
        guarded(&self.path, || match &mut self.kind {
            Kind::Parquet(reader) => reader.next_chunk(),
            Kind::Rows(reader) => reader.next_chunk(),
        })
    }

    /// Reads a range again.
    pub(super) fn range(&mut self, start: u64, end: u64) -> Result<(Data, u32), SourceError> {
        guarded(&self.path, || match &mut self.kind {
            Kind::Parquet(reader) => match reader.next_range(start, end)? {
                Some(found) => Ok(found),
                None => reader.range(start, end),
            },
            Kind::Rows(reader) => reader.range(start, end),
        })
    }
}

fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T, SourceError>) -> Result<T, SourceError> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
        Err(SourceError::Environment(format!("cannot read {}: it contradicts itself", path.display())))
    })
}
