//! Files: text and files of columns, read once from their beginning to their end, or followed as they grow.
//!
//! Read once, each file is a partition, named by its path relative to the base folder. Files are read in turn, a chunk of each,
//! so that their event times advance together; the log keeps byte ranges (text) or row ranges (Parquet), and a replay
//! reads those again:
//!
//! ```text
//!   open a, open b ─► a[0, 1 MiB) ─► b[0, 1 MiB) ─► a[1 MiB, …) ─► … ─► end a ─► … ─► end b
//! ```
//!
//! So a file must not change while the log still needs it. A checksum over each range tells if it did. A folder that is followed
//! is different, since its files come and go: see the module `follow`.

mod columns;
mod follow;
mod input;
mod numbered;
mod parquet;
mod paths;
mod stream;
mod text;

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tidemill_engine::decode::Format;
use tidemill_engine::source::{Chunk, Data, Intake, IntakeError, Resume, Source, SourceError, Stop};

use self::columns::ColumnsReader;
use self::input::{Input, Packing};
use self::text::{LastLine, LineIndex, TextReader};
use crate::format::{Encoding, Layout, Protocol};
use crate::options::{OptionError, Options};
use crate::receipts::Receipts;

pub use self::follow::Following;
pub use self::numbered::NumberedFormat;

/// Files as a source: bounded, or followed.
pub struct FileSource {
    shared: Arc<Shared>,
    following: Option<Following>,
    files: Mutex<Vec<String>>,
}

/// What a reader on another thread needs.
struct Shared {
    path: String,
    base_dir: PathBuf,
    encoding: Encoding,
    layout: Layout,
    lines: LineIndex,
    /// Readers of a replay that cannot go to a place at once, each behind the last range that was read again.
    replayed: Mutex<HashMap<String, Reader>>,
}

impl FileSource {
    /// Makes a source of the files that `path` names: a file, a folder, or a pattern with `*` in its last part.
    pub fn new(path: &str, base_dir: &Path, encoding: Encoding, layout: Layout) -> Self {
        let (path, base_dir) = (path.to_owned(), base_dir.to_owned());
        let shared =
            Shared { path, base_dir, encoding, layout, lines: LineIndex::default(), replayed: Mutex::default() };
        FileSource { shared: Arc::new(shared), following: None, files: Mutex::default() }
    }

    /// Follows the files instead of reading them once.
    #[must_use]
    pub fn following(self, following: Option<Following>) -> Self {
        FileSource { following, ..self }
    }

    /// Returns the format of the files: its dead letters name file and line.
    pub fn format(&self) -> Arc<dyn Format> {
        let format = self.shared.encoding.format(self.shared.layout.clone());
        match self.shared.encoding.is_columns() {
            true => format,
            false => Arc::new(NumberedFormat::new(format)),
        }
    }

    /// Takes `format` and `delimiter`; without `format` the ending of `path` says what the files hold.
    pub fn take_encoding(path: &str, options: &mut Options) -> Result<Encoding, OptionError> {
        if let Some(packed) = paths::packed_ending(path) {
            let problem = format!(
                "{path:?} is compressed in a way that is not known ({packed}): unpack it first, or use .gz or .zst"
            );
            return Err(OptionError::new("path", problem));
        }
        let encoding = match Encoding::take(options)? {
            Some(Encoding::Protobuf) => {
                let problem = "'protobuf' is for messages: a file of them does not tell where one ends";
                return Err(OptionError::new("format", problem));
            }
            Some(Encoding::Raw) => {
                return Err(OptionError::new("format", "'raw' is for messages: say 'text', which gives a row for each line"));
            }
            Some(encoding) => encoding,
            None => paths::encoding_of(path).ok_or_else(|| {
                OptionError::new(
                    "format",
                    format!("is missing, and {path:?} does not tell: say format = 'json', 'csv', 'text', 'avro', 'arrow' or 'parquet'"),
                )
            })?,
        };
        if let Encoding::Telemetry(protocol) = encoding
            && protocol != Protocol::LINE_PROTOCOL
        {
            let problem = format!(
                "'{}' is for connector = 'http': files are json, csv, parquet or line_protocol",
                protocol.word()
            );
            return Err(OptionError::new("format", problem));
        }
        encoding.with_delimiter(options)
    }
}

#[async_trait::async_trait]
impl Source for FileSource {
    fn bounded(&self) -> bool {
        self.following.is_none()
    }

    async fn prepare(&self) -> Result<(), SourceError> {
        let shared = Arc::clone(&self.shared);
        if self.following.is_some() {
            let look = move || {
                let (folder, _) = paths::followed(&shared.path, &shared.base_dir, shared.encoding)?;
                paths::names(&folder).map(drop)
            };
            return blocking(look).await;
        }
        let find = move || {
            let files = paths::find(&shared.path, &shared.base_dir, shared.encoding)?;
            for file in &files {
                if let Reader::Columns(reader) = shared.reader(file, 0)? {
                    reader.probe()?;
                }
            }
            Ok::<_, SourceError>(files)
        };
        *self.files.lock() = blocking(find).await?;
        Ok(())
    }

    async fn run(&self, intake: Arc<dyn Intake>, resume: Vec<Resume>, stop: Stop) -> Result<(), SourceError> {
        self.shared.replayed.lock().clear();
        if let Some(following) = self.following {
            return follow::run(Arc::clone(&self.shared), following, intake, resume, stop).await;
        }
        if let Some(known) = resume.iter().find(|resume| !resume.notes.is_empty()) {
            return Err(SourceError::Changed(format!(
                "file {} was followed: say follow = 'true', or read it with another --data folder, or as another source",
                known.partition
            )));
        }
        let files = self.files.lock().clone();
        if let Some(gone) = resume.iter().find(|resume| !resume.ended && !files.contains(&resume.partition)) {
            return Err(SourceError::Changed(format!(
                "file {} was read up to {} and is not there any more",
                gone.partition, gone.next
            )));
        }
        let mut readers = VecDeque::with_capacity(files.len());
        for file in files {
            let known = resume.iter().find(|resume| resume.partition == file);
            if let Some(known) = known.filter(|known| known.ended) {
                if let Some(more) = self.shared.grown_by(&file, known.next) {
                    tracing::warn!(
                        file,
                        more_bytes = more,
                        "the file has grown since it was read to its end; what is new is NOT read: put it into a new file, \
                         or run anew with another --data folder"
                    );
                }
                continue;
            }
            intake.open(&file).await?;
            let (shared, next) = (Arc::clone(&self.shared), known.map_or(0, |known| known.next));
            readers.push_back(blocking(move || shared.reader(&file, next)).await?);
        }
        intake.set_connected(true);
        let mut receipts = Receipts::default();
        while let Some(mut reader) = readers.pop_front() {
            if stop.is_cancelled() {
                break;
            }
            let (reader, chunk) = blocking(move || {
                let chunk = reader.next_chunk()?;
                Ok((reader, chunk))
            })
            .await?;
            let partition = reader.partition().to_owned();
            let Some(chunk) = chunk else {
                intake.end(&partition).await?;
                continue;
            };
            let queued = tokio::select! {
                queued = intake.append(&partition, chunk) => queued,
                () = stop.cancelled() => break,
            };
            match queued {
                Err(IntakeError::Stopping) => break,
                queued => receipts.push(queued?).await?,
            }
            readers.push_back(reader);
        }
        Ok(receipts.all().await?)
    }

    fn reread(&self, partition: &str, start: u64, end: u64) -> Result<(Data, u32), SourceError> {
        let reread = || -> Result<(Data, u32), SourceError> {
            let replayed = self.shared.replayed.lock().remove(partition).filter(|reader| reader.next() == start);
            let reader = match replayed {
                Some(reader) => reader,
                None => self.shared.reader(partition, start)?,
            };
            self.shared.reread(partition, reader, start, end)
        };
        // The log needs what was there: whatever stands in the way now is a change.
        reread().map_err(|error| SourceError::Changed(error.to_string()))
    }
}

impl Shared {
    fn reader(&self, partition: &str, next: u64) -> Result<Reader, SourceError> {
        let path = self.base_dir.join(partition);
        Ok(match self.encoding.is_columns() {
            true => Reader::Columns(ColumnsReader::open(&path, partition, self.encoding, &self.layout, next)?),
            false => Reader::Text(TextReader::open(&path, partition, self.encoding, next, &self.lines)?),
        })
    }

    /// Says how a file is compressed as a whole; files of columns are not.
    fn packing(&self, path: &str) -> Packing {
        if self.encoding.is_columns() { Packing::Plain } else { Packing::of(path) }
    }

    fn open(&self, path: &str) -> std::io::Result<Input> {
        Input::open(&self.base_dir.join(path), self.packing(path))
    }

    /// Returns how many bytes a file has beyond those that were read of it. Its windows are closed: what is new would come
    /// too late for them, but to pass it over in silence would look as if it had been taken.
    fn grown_by(&self, partition: &str, end: u64) -> Option<u64> {
        if self.encoding.is_columns() || self.packing(partition) != Packing::Plain {
            return None;
        }
        let length = std::fs::metadata(self.base_dir.join(partition)).ok()?.len();
        // A partition without rows has no end of its own: a header alone, or nothing.
        (end > 0 && length > end).then(|| length - end)
    }

    fn reread(&self, partition: &str, reader: Reader, start: u64, end: u64) -> Result<(Data, u32), SourceError> {
        let mut reader = reader;
        let found = match &mut reader {
            Reader::Text(reader) => reader.range(start, end)?,
            Reader::Columns(reader) => reader.range(start, end)?,
        };
        if self.encoding.is_columns() || self.packing(partition) != Packing::Plain {
            self.replayed.lock().insert(partition.to_owned(), reader);
        }
        Ok(found)
    }
}

/// A file that is being read. Blocking.
enum Reader {
    Text(TextReader),
    Columns(ColumnsReader),
}

impl Reader {
    fn partition(&self) -> &str {
        match self {
            Reader::Text(reader) => reader.partition(),
            Reader::Columns(reader) => reader.partition(),
        }
    }

    fn next(&self) -> u64 {
        match self {
            Reader::Text(reader) => reader.next(),
            Reader::Columns(reader) => reader.next(),
        }
    }

    fn next_chunk(&mut self) -> Result<Option<Chunk>, SourceError> {
        match self {
            Reader::Text(reader) => reader.next_chunk(LastLine::IsWhole),
            Reader::Columns(reader) => reader.next_chunk(),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    tokio::task::spawn_blocking(work).await.expect("reading a file does not panic")
}

/// Names the file that the operating system refused.
fn unreadable(path: &Path, error: &std::io::Error) -> SourceError {
    SourceError::Environment(format!("cannot read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
