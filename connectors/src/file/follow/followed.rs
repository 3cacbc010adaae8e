//! One file that is followed: how far it was read, and the next piece of it.

use std::collections::VecDeque;
use std::fs::Metadata;
use std::path::Path;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidemill_engine::source::{Chunk, Data, Message, Note, SourceError};

use super::marks::{Copied, Marks};
use crate::file::columns::ColumnsReader;
use crate::file::input::Packing;
use crate::file::text::{LastLine, TextReader};
use crate::file::{Shared, unreadable};
use crate::format::{Encoding, csv_record_end, ipc_messages};

/// Looks at a folder in which a file has not changed before its last line counts as whole, if it was renamed or removed.
pub(super) const QUIET_SCANS: u32 = 3;
/// Bytes in which the header row of a CSV file must end.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// Which file it is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

/// What a look at the folder shows of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) size: u64,
    modified_ns: i128,
}

/// A file, and how far it was read. What is not skipped is its note in the log.
#[derive(Serialize, Deserialize)]
pub(super) struct Followed {
    /// Where it is now, or was last.
    pub(super) path: String,
    /// Where it was when it was found: what its rows are told to come from.
    pub(super) name: String,
    /// Of the files of a partition the one with the lesser number is read first.
    pub(super) order: u64,
    /// The byte that comes next, of what it holds if it is compressed; of a file of columns the row.
    pub(super) next: u64,
    line: u64,
    marks: Marks,
    /// The order of the file it is a copy of, if it goes on where that one was left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) copy_of: Option<u64>,
    /// Whether it is not there any more, and was read to its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_over: bool,
    /// Whether it was read to its end, if it is one that does not grow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_read: bool,
    #[serde(skip)]
    pub(super) partition: String,
    #[serde(skip)]
    pub(super) look: Option<Look>,
    /// Looks since it changed.
    #[serde(skip)]
    pub(super) quiet: u32,
    /// Looks since it was not there.
    #[serde(skip)]
    pub(super) missing: u32,
    #[serde(skip)]
    reader: Option<Reader>,
    /// Rows of columns that were read, as messages: how many, and what.
    #[serde(skip)]
    written: VecDeque<(usize, Bytes)>,
    /// Whether it was said that it cannot be read.
    #[serde(skip)]
    pub(super) is_told: bool,
}

/// A file that is open.
enum Reader {
    Text(TextReader),
    Columns(ColumnsReader),
}

/// What reading has given.
pub(super) enum Step {
    /// Messages, whose end is where the file stands now.
    Taken(Vec<Message>),
    /// There is nothing more now.
    AtEnd,
    /// What was read before is not in it any more.
    Changed,
    /// It cannot be read.
    Unreadable(SourceError),
}

impl FileId {
    pub(super) fn of(metadata: &Metadata, path: &Path) -> FileId {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let _ = path;
            FileId { device: metadata.dev(), inode: metadata.ino() }
        }
        #[cfg(not(unix))]
        {
            // A file is known by its name there: one that is renamed is another one.
            let _ = metadata;
            FileId { device: 0, inode: xxhash_rust::xxh3::xxh3_64(path.as_os_str().as_encoded_bytes()) }
        }
    }

    /// A number that no file has, for one whose own was given to another file.
    pub(super) fn stand_in(order: u64) -> FileId {
        FileId { device: u64::MAX, inode: order }
    }

    pub(super) fn key(self) -> Bytes {
        Bytes::from([self.device.to_be_bytes(), self.inode.to_be_bytes()].concat())
    }

    pub(super) fn from_key(key: &[u8]) -> Option<FileId> {
        let (device, inode) = (key.get(..8)?.try_into().ok()?, key.get(8..)?.try_into().ok()?);
        Some(FileId { device: u64::from_be_bytes(device), inode: u64::from_be_bytes(inode) })
    }
}

impl Look {
    pub(super) fn of(metadata: &Metadata) -> Look {
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        Look { size: metadata.len(), modified_ns: modified.map_or(0, |since| since.as_nanos() as i128) }
    }
}

impl Followed {
    /// A file that nothing was read of yet.
    pub(super) fn new(path: &str, partition: &str, order: u64) -> Followed {
        Followed {
            path: path.to_owned(),
            name: path.to_owned(),
            order,
            next: 0,
            line: 1,
            marks: Marks::default(),
            copy_of: None,
            is_over: false,
            is_read: false,
            partition: partition.to_owned(),
            look: None,
            quiet: 0,
            missing: 0,
            reader: None,
            written: VecDeque::new(),
            is_told: false,
        }
    }

    /// A file that goes on where another one was left.
    pub(super) fn copy_of(original: &Followed, copied: Copied, path: &str, order: u64) -> Followed {
        let (next, marks) = match copied {
            Copied::All => (original.next, original.marks.clone()),
            Copied::UpTo(end, marks) => (end, marks),
        };
        let (line, copy_of) = (original.line, Some(original.order));
        let name = original.name.clone();
        Followed { name, next, line, marks, copy_of, ..Followed::new(path, &original.partition, order) }
    }

    /// Begins anew, behind all that is known.
    pub(super) fn begin_anew(&mut self, order: u64) {
        *self = Followed { look: self.look, quiet: self.quiet, ..Followed::new(&self.path, &self.partition, order) };
    }

    pub(super) fn note(&self, id: FileId) -> Note {
        Note::new(id.key(), serde_json::to_vec(self).expect("text and numbers"))
    }

    pub(super) fn of_note(value: &[u8], partition: &str) -> Option<Followed> {
        let file: Followed = serde_json::from_slice(value).ok()?;
        file.marks.make_sense().then_some(())?;
        Some(Followed { partition: partition.to_owned(), ..file })
    }

    pub(super) fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Says whether a file holds what was read of this one.
    pub(super) fn is_in(&self, path: &str, shared: &Shared) -> bool {
        let opened = shared.open(path);
        // One that cannot be read now is not another one for that.
        opened.and_then(|mut input| self.marks.hold(&mut input)).unwrap_or(true)
    }

    pub(super) fn is_open(&self) -> bool {
        self.reader.is_some()
    }

    pub(super) fn close(&mut self) {
        self.reader = None;
        self.written.clear();
    }

    /// Whether more was read of it, or as much and it came later.
    pub(super) fn is_further_than(&self, other: &Followed) -> bool {
        (self.next, self.order) > (other.next, other.order)
    }

    /// Whether it has another name than the one it was found by, or none.
    pub(super) fn has_left_its_name(&self) -> bool {
        self.missing > 0 || self.path != self.name
    }

    /// Whether it has no name any more, or was given up.
    pub(super) fn is_gone(&self) -> bool {
        self.is_over || self.missing > 0
    }

    /// Whether it is shorter than what was read of it.
    pub(super) fn is_cut_off(&self, shared: &Shared) -> bool {
        !self.must_be_whole(shared) && self.look.is_some_and(|look| look.size < self.next)
    }

    /// Whether it is read only when nobody writes to it.
    pub(super) fn must_be_whole(&self, shared: &Shared) -> bool {
        shared.encoding.is_columns() || shared.packing(&self.path) != Packing::Plain
    }

    /// Looks at the open file, which may have no name any more.
    pub(super) fn look_at_open(&mut self) -> Option<Look> {
        let Some(Reader::Text(reader)) = &mut self.reader else { return None };
        reader.input().metadata().ok().map(|metadata| Look::of(&metadata))
    }

    /// Reads the next piece.
    pub(super) fn step(&mut self, id: FileId, shared: &Shared, last_line: LastLine) -> Step {
        let taken = match self.opened(id, shared, last_line) {
            Ok(Opened::Reader(mut reader)) => {
                let taken = match &mut *reader {
                    Reader::Text(reader) => self.step_text(reader, last_line),
                    Reader::Columns(reader) => self.step_columns(reader),
                };
                self.reader = Some(*reader);
                taken
            }
            Ok(Opened::NotYet) => Ok(Step::AtEnd),
            Ok(Opened::Changed) => Ok(Step::Changed),
            Err(error) => Err(error),
        };
        match taken {
            Ok(Step::Changed) => {
                self.close();
                Step::Changed
            }
            Ok(Step::AtEnd) if self.next == 0 && matches!(shared.encoding, Encoding::Csv { .. }) => {
                // Its header row is not for sure: the file may be written anew before the first row comes.
                self.reader = None;
                Step::AtEnd
            }
            Ok(step) => step,
            Err(error) => {
                self.close();
                Step::Unreadable(error)
            }
        }
    }

    fn opened(&mut self, id: FileId, shared: &Shared, last_line: LastLine) -> Result<Opened, SourceError> {
        if let Some(reader) = self.reader.take() {
            return Ok(Opened::Reader(Box::new(reader)));
        }
        let path = shared.base_dir.join(&self.path);
        let complain = |error: std::io::Error| unreadable(&path, &error);
        let mut input = shared.open(&self.path).map_err(complain)?;
        if FileId::of(&input.metadata().map_err(complain)?, &path) != id {
            // Its name was given to another file since the folder was looked at. The next look will tell.
            return Ok(Opened::NotYet);
        }
        if !self.marks.hold(&mut input).map_err(complain)? {
            return Ok(Opened::Changed);
        }
        if shared.encoding.is_columns() {
            self.marks = Marks::of_whole(&mut input).map_err(complain)?;
            let reader = ColumnsReader::open(&path, &self.name, shared.encoding, &shared.layout, self.next)?;
            return Ok(Opened::Reader(Box::new(Reader::Columns(reader))));
        }
        if let (Encoding::Csv { delimiter }, LastLine::Waits) = (shared.encoding, last_line) {
            let head = input.read(0, HEADER_BYTES_MAX).map_err(complain)?;
            if head.len() < HEADER_BYTES_MAX && csv_record_end(&head, delimiter).is_none() {
                return Ok(Opened::NotYet);
            }
        }
        let mut reader = TextReader::over(input, &path, &self.name, shared.encoding, self.next)?;
        reader.set_line(if self.next == 0 { reader.first_line() } else { self.line });
        Ok(Opened::Reader(Box::new(Reader::Text(reader))))
    }

    fn step_text(&mut self, reader: &mut TextReader, last_line: LastLine) -> Result<Step, SourceError> {
        let chunk = reader.next_chunk(last_line)?;
        let path = reader.path().to_owned();
        let complain = |error: std::io::Error| unreadable(&path, &error);
        let input = reader.input();
        // After the piece was read: so it is one of the file that was read before. Packed files do not change.
        let is_plain = input.packing() == Packing::Plain;
        let is_shorter = is_plain && input.metadata().map_err(complain)?.len() < self.next;
        if is_shorter || is_plain && !self.marks.hold(input).map_err(complain)? {
            return Ok(Step::Changed);
        }
        let Some(Chunk::Range { start, end, data: Data::Messages(messages), .. }) = chunk else {
            return Ok(Step::AtEnd);
        };
        let length = usize::try_from(end - start).unwrap_or(usize::MAX);
        let block = messages.last().map_or(&[][..], |message| &message.payload);
        let block = &block[block.len().saturating_sub(length)..];
        self.marks.advance(end, block, input).map_err(complain)?;
        (self.next, self.line) = (end, reader.line());
        Ok(Step::Taken(messages))
    }

    /// Rows of a file of columns go into the log as they are: so a replay does not need the file.
    fn step_columns(&mut self, reader: &mut ColumnsReader) -> Result<Step, SourceError> {
        if self.written.is_empty() {
            let Some(Chunk::Range { data: Data::Columns(rows), .. }) = reader.next_chunk()? else {
                return Ok(Step::AtEnd);
            };
            self.written = ipc_messages(&rows).map_err(SourceError::Environment)?.into();
        }
        let (rows, payload) = self.written.pop_front().expect("a batch has rows");
        self.next += rows as u64;
        Ok(Step::Taken(vec![Message::new(self.name.clone(), payload)]))
    }
}

/// What opening has given.
enum Opened {
    Reader(Box<Reader>),
    NotYet,
    Changed,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the log says of a file, it is understood or refused, and the file is read or is another one.
    #[test]
    fn fuzz_notes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.ndjson");
        #[expect(clippy::disallowed_methods, reason = "a file of the test, that no crash may harm")]
        std::fs::write(&path, "{\"n\":1}\n".repeat(300)).expect("writable");
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/src/file/follow/corpus");
        tidemill_engine::testing::fuzz::fuzz(corpus, |input| {
            let (key, value) = input.split_at(input.len().min(16));
            let _ = FileId::from_key(key);
            let Some(file) = Followed::of_note(value, "a.ndjson") else { return false };
            let mut opened = crate::file::input::Input::open(&path, Packing::Plain).expect("it is there");
            let _ = (file.marks.hold(&mut opened), file.marks.are_in(&mut opened));
            true
        });
    }
}
