//! NDJSON and CSV in blocks that end where a line ends.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parking_lot::Mutex;
use tidemill_engine::source::{Chunk, Data, Message, SourceError};

use super::input::{Input, Packing};
use super::numbered::line_topic;
use super::unreadable;
use crate::format::{BYTE_ORDER_MARK, Encoding, csv_record_end};

/// Bytes of a chunk, as long as its lines are shorter.
const BLOCK_BYTES: usize = 1 << 20;
/// Bytes that are searched for the end of a line. A longer line is cut, and its pieces become dead letters.
const LINE_BYTES_MAX: usize = 16 << 20;

/// Bytes that are looked at when a file is opened: a header row must end within them.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// For each file the line that begins at a byte, at the place where it was last read: chunks are mostly read in order,
/// so that lines need not be counted from the beginning.
#[derive(Default)]
pub(super) struct LineIndex(Mutex<HashMap<String, (u64, u64)>>);

/// What becomes of a last line that does not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastLine {
    /// It is a line: the file does not grow.
    IsWhole,
    /// It is not read yet: more of it may come.
    Waits,
}

/// A text file, at the beginning of a line.
pub(super) struct TextReader {
    path: PathBuf,
    partition: String,
    input: Input,
    encoding: Encoding,
    /// The header row of CSV with its line end; every chunk begins with it.
    header: Vec<u8>,
    next: u64,
    /// The number of the line at `next`, from 1.
    line: u64,
}

impl TextReader {
    /// Opens a file at byte `next`; 0 means its first row.
    pub(super) fn open(
        path: &Path,
        partition: &str,
        encoding: Encoding,
        next: u64,
        lines: &LineIndex,
    ) -> Result<Self, SourceError> {
        let input = Input::open(path, Packing::of(partition)).map_err(|error| unreadable(path, &error))?;
        let mut reader = TextReader::over(input, path, partition, encoding, next)?;
        reader.line = reader.count_lines(reader.next, lines)?;
        Ok(reader)
    }

    /// The same with an open file; `next` is the beginning of its first line.
    pub(super) fn over(
        input: Input,
        path: &Path,
        partition: &str,
        encoding: Encoding,
        next: u64,
    ) -> Result<Self, SourceError> {
        let (path, partition) = (path.to_owned(), partition.to_owned());
        let mut reader = TextReader { path, partition, input, encoding, header: Vec::new(), next, line: 1 };
        let first = reader.read(0, HEAD_BYTES_MAX)?;
        match encoding {
            Encoding::Csv { delimiter } => {
                let header_end = match csv_record_end(&first, delimiter) {
                    Some(end) => end + 1,
                    None if first.len() < HEAD_BYTES_MAX => first.len(),
                    None => {
                        return Err(SourceError::Environment(format!(
                            "the header row of {} does not end within {HEAD_BYTES_MAX} bytes",
                            reader.path.display()
                        )));
                    }
                };
                reader.header = first[..header_end].to_vec();
                reader.next = next.max(header_end as u64);
            }
            Encoding::Json => reader.refuse_array(&first)?,
            _ => {}
        }
        Ok(reader)
    }

    pub(super) fn partition(&self) -> &str {
        &self.partition
    }

    /// The byte that comes next.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// The number of the line that begins there, from 1.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// The number of the line that the first row is.
    pub(super) fn first_line(&self) -> u64 {
        1 + memchr::memchr_iter(b'\n', &self.header).count() as u64
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Says which number it has.
    pub(super) fn set_line(&mut self, line: u64) {
        self.line = line;
    }

    pub(super) fn input(&mut self) -> &mut Input {
        &mut self.input
    }

    /// Reads the next chunk; `None` at the end of the file.
    pub(super) fn next_chunk(&mut self, last_line: LastLine) -> Result<Option<Chunk>, SourceError> {
        let mut wanted = BLOCK_BYTES;
        let block = loop {
            let block = self.read(self.next, wanted)?;
            if block.len() < wanted {
                let mut block = block;
                if last_line == LastLine::Waits {
                    block.truncate(self.last_line_end(&block).unwrap_or(0));
                }
                break block;
            }
            match self.last_line_end(&block) {
                Some(end) => {
                    let mut block = block;
                    block.truncate(end);
                    break block;
                }
                None if wanted >= LINE_BYTES_MAX => break block,
                None => wanted *= 2,
            }
        };
        if block.is_empty() {
            return Ok(None);
        }
        let (start, end) = (self.next, self.next + block.len() as u64);
        let (data, checksum) = self.chunk(start, block);
        Ok(Some(Chunk::Range { start, end, data, checksum }))
    }

    /// Reads a range again; the reader must have been opened at its start.
    pub(super) fn range(&mut self, start: u64, end: u64) -> Result<(Data, u32), SourceError> {
        let length = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX).min(LINE_BYTES_MAX);
        let block = self.read(start, length)?;
        if start != self.next || start + block.len() as u64 != end {
            return Err(SourceError::Changed(format!(
                "file {} was read at {start}..{end} and is now shorter: put it back as it was",
                self.path.display()
            )));
        }
        Ok(self.chunk(start, block))
    }

    fn chunk(&mut self, start: u64, block: Vec<u8>) -> (Data, u32) {
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&self.header), &block);
        let line_count = memchr::memchr_iter(b'\n', &block).count() as u64;
        let header_lines = memchr::memchr_iter(b'\n', &self.header).count() as u64;
        let topic = line_topic(&self.partition, self.line.saturating_sub(header_lines));
        self.next = start + block.len() as u64;
        self.line += line_count;
        let payload = if self.header.is_empty() {
            let skipped = if start == 0 && block.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
            Bytes::from(block).slice(skipped..)
        } else {
            Bytes::from([self.header.as_slice(), &block].concat())
        };
        (Data::Messages(vec![Message::new(topic, payload)]), checksum)
    }

    fn last_line_end(&self, block: &[u8]) -> Option<usize> {
        let Encoding::Csv { delimiter } = self.encoding else {
            return memchr::memrchr(b'\n', block).map(|end| end + 1);
        };
        let mut end = 0;
        while let Some(length) = csv_record_end(&block[end..], delimiter) {
            end += length + 1;
        }
        (end > 0).then_some(end)
    }

    fn read(&mut self, start: u64, length: usize) -> Result<Vec<u8>, SourceError> {
        self.input.read(start, length).map_err(|error| unreadable(&self.path, &error))
    }

    /// One array over the whole file would be read as lines, all of them bad: better to say so at once.
    fn refuse_array(&self, first: &[u8]) -> Result<(), SourceError> {
        if first.strip_prefix(BYTE_ORDER_MARK).unwrap_or(first).trim_ascii_start().first() != Some(&b'[') {
            return Ok(());
        }
        Err(SourceError::Environment(format!(
            "{} holds a JSON array, but one object on each line is expected: jq -c '.[]' makes that of it",
            self.path.display()
        )))
    }

    fn count_lines(&mut self, at: u64, lines: &LineIndex) -> Result<u64, SourceError> {
        let known = lines.0.lock().get(&self.partition).copied();
        let (mut byte, mut line) = known.filter(|(byte, _)| *byte <= at).unwrap_or((0, 1));
        while byte < at {
            let length = usize::try_from(at - byte).unwrap_or(usize::MAX).min(BLOCK_BYTES);
            let block = self.read(byte, length)?;
            if block.is_empty() {
                break;
            }
            byte += block.len() as u64;
            line += memchr::memchr_iter(b'\n', &block).count() as u64;
        }
        lines.0.lock().insert(self.partition.clone(), (byte, line));
        Ok(line)
    }
}
