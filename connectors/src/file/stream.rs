//! Files of columns that are read from their beginning: Arrow and Avro. A row is found by reading all that stand before it.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use tidemill_engine::source::{Chunk, Data, SourceError};

use super::unreadable;
use crate::format::{ArrowFile, AvroContainer, Encoding, Layout, Unreadable, Within};

/// Rows of a chunk, and of blocks of Avro that are joined: many have a few only.
const BATCH_ROWS: usize = 8_192;
/// Bytes of blocks that are joined.
const BATCH_BYTES: usize = 4 << 20;

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, String>> + Send>;

/// A file of columns, at a row.
pub(super) struct RowsReader {
    path: PathBuf,
    partition: String,
    encoding: Encoding,
    layout: Layout,
    /// Over all bytes.
    file_checksum: u32,
    schema: SchemaRef,
    batches: Batches,
    /// What is left of the batch that was read last.
    rest: Option<RecordBatch>,
    next: u64,
}

impl RowsReader {
    /// Opens a file at row `next`, and checks that its columns can become the declared ones.
    pub(super) fn open(
        path: &Path,
        partition: &str,
        encoding: Encoding,
        layout: &Layout,
        next: u64,
    ) -> Result<Self, SourceError> {
        let file_checksum = file_checksum(path).map_err(|error| unreadable(path, &error))?;
        let (schema, batches) = batches(path, encoding, layout)?;
        layout
            .check_columns(&schema)
            .map_err(|problem| SourceError::Environment(format!("{}: {problem}", path.display())))?;
        let mut reader = RowsReader {
            path: path.to_owned(),
            partition: partition.to_owned(),
            encoding,
            layout: layout.clone(),
            file_checksum,
            schema,
            batches,
            rest: None,
            next: 0,
        };
        reader.skip(next)?;
        Ok(reader)
    }

    pub(super) fn partition(&self) -> &str {
        &self.partition
    }

    /// The row that comes next.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Reads the next chunk; `None` at the end of the file.
    pub(super) fn next_chunk(&mut self) -> Result<Option<Chunk>, SourceError> {
        let Some(batch) = self.next_rows(BATCH_ROWS)? else { return Ok(None) };
        let (start, end) = (self.next, self.next + batch.num_rows() as u64);
        self.next = end;
        Ok(Some(Chunk::Range { start, end, data: Data::Columns(batch), checksum: self.checksum(start, end) }))
    }

    /// Reads a range again, behind or before the place where the reader stands.
    pub(super) fn range(&mut self, start: u64, end: u64) -> Result<(Data, u32), SourceError> {
        if start < self.next {
            (_, self.batches) = batches(&self.path, self.encoding, &self.layout)?;
            (self.rest, self.next) = (None, 0);
        }
        self.skip(start)?;
        let mut found = Vec::new();
        while self.next < end {
            let wanted = usize::try_from(end - self.next).unwrap_or(usize::MAX);
            let Some(batch) = self.next_rows(wanted)? else { break };
            self.next += batch.num_rows() as u64;
            found.push(batch);
        }
        if self.next != end {
            return Err(SourceError::Changed(format!(
                "file {} was read at rows {start}..{end} and has fewer now: put it back as it was",
                self.path.display()
            )));
        }
        let rows = concat_batches(&self.schema, &found).map_err(|error| self.damaged(&error))?;
        Ok((Data::Columns(rows), self.checksum(start, end)))
    }

    fn skip(&mut self, to: u64) -> Result<(), SourceError> {
        while self.next < to {
            let wanted = usize::try_from(to - self.next).unwrap_or(usize::MAX);
            let Some(batch) = self.next_rows(wanted)? else { break };
            self.next += batch.num_rows() as u64;
        }
        Ok(())
    }

    /// Returns up to so many rows, all of one batch.
    fn next_rows(&mut self, wanted: usize) -> Result<Option<RecordBatch>, SourceError> {
        loop {
            let batch = match self.rest.take() {
                Some(rest) => rest,
                None => match self.batches.next() {
                    None => return Ok(None),
                    Some(batch) => batch.map_err(|error| self.damaged(&error))?,
                },
            };
            let count = batch.num_rows().min(wanted);
            if batch.num_rows() > count {
                self.rest = Some(batch.slice(count, batch.num_rows() - count));
            }
            if count > 0 {
                return Ok(Some(batch.slice(0, count)));
            }
        }
    }

    fn checksum(&self, start: u64, end: u64) -> u32 {
        let checksum = crc32c::crc32c_append(self.file_checksum, &start.to_le_bytes());
        crc32c::crc32c_append(checksum, &end.to_le_bytes())
    }

    fn damaged(&self, error: &dyn std::fmt::Display) -> SourceError {
        damaged(&self.path, error)
    }
}

fn damaged(path: &Path, error: &dyn std::fmt::Display) -> SourceError {
    SourceError::Environment(format!("cannot read {}: {error}", path.display()))
}

fn batches(path: &Path, encoding: Encoding, layout: &Layout) -> Result<(SchemaRef, Batches), SourceError> {
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    if encoding == Encoding::Avro {
        let opened = AvroContainer::open(BufReader::new(file), layout, Within::File);
        let blocks = opened.map_err(|unreadable| match unreadable {
            Unreadable::Columns(problem) => SourceError::Environment(format!("{}: {problem}", path.display())),
            other => damaged(path, &other.reason()),
        })?;
        let schema = Arc::clone(blocks.schema());
        return Ok((Arc::clone(&schema), Box::new(joined(blocks, schema))));
    }
    let batches = ArrowFile::open(BufReader::new(file)).map_err(|unreadable| damaged(path, &unreadable.reason()))?;
    Ok((Arc::clone(batches.schema()), Box::new(batches.map(|batch| batch.map_err(Unreadable::reason)))))
}

/// Makes batches of about [`BATCH_ROWS`] of blocks that are smaller. The rows before one that cannot be read come first.
fn joined(
    mut blocks: impl Iterator<Item = Result<RecordBatch, Unreadable>>,
    schema: SchemaRef,
) -> impl Iterator<Item = Result<RecordBatch, String>> {
    let mut failed = None;
    std::iter::from_fn(move || {
        let (mut found, mut rows, mut bytes) = (Vec::new(), 0, 0);
        while failed.is_none() && rows < BATCH_ROWS && bytes < BATCH_BYTES {
            match blocks.next() {
                None => break,
                Some(Err(unreadable)) => failed = Some(unreadable.reason()),
                Some(Ok(block)) => {
                    rows += block.num_rows();
                    bytes += block.get_array_memory_size();
                    found.push(block);
                }
            }
        }
        match found.len() {
            0 => failed.take().map(Err),
            1 => found.pop().map(Ok),
            _ => Some(concat_batches(&schema, &found).map_err(|error| error.to_string())),
        }
    })
}

fn file_checksum(path: &Path) -> std::io::Result<u32> {
    const STEP_BYTES: usize = 1 << 20;
    let mut file = File::open(path)?;
    let mut step = vec![0; STEP_BYTES];
    let mut checksum = 0;
    loop {
        let count = file.read(&mut step)?;
        if count == 0 {
            return Ok(checksum);
        }
        checksum = crc32c::crc32c_append(checksum, &step[..count]);
    }
}
