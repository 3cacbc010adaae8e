//! A small text file that is read again when it changes: passwords and access rules.
//!
//! A file that cannot be read, or has a mistake, stops the start of the job, with its line. Later the last good content stays
//! in force, and the mistake is told once for each change: half a file saved by an editor must lock nobody out.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::watch;

/// The longest file that is read: some hundred thousand lines.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("cannot read {what} {path}: {source}")]
    Read { what: &'static str, path: String, source: std::io::Error },
    #[error("{what} {path} has {bytes} bytes, more than {FILE_BYTES_MAX}")]
    TooLong { what: &'static str, path: String, bytes: u64 },
    #[error("{what} {path}, line {line}: {problem}")]
    Line { what: &'static str, path: String, line: usize, problem: String },
}

/// A mistake in a text, by its line, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) line: usize,
    pub(super) problem: String,
}

/// How a file was when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<Duration>,
    #[cfg(unix)]
    inode: u64,
}

/// A file and what it says now.
pub(super) struct Watched<T> {
    what: &'static str,
    path: PathBuf,
    read: fn(&str) -> Result<T, Mistake>,
    stamp: Mutex<Option<Stamp>>,
    current: watch::Sender<Arc<T>>,
}

impl<T: Default> Watched<T> {
    /// Names a file; nothing is read before [`Watched::load`]. `what` names it in errors.
    pub(super) fn new(what: &'static str, path: PathBuf, read: fn(&str) -> Result<T, Mistake>) -> Self {
        Watched { what, path, read, stamp: Mutex::new(None), current: watch::Sender::new(Arc::default()) }
    }

    /// Reads the file, whatever was read before. Blocks.
    pub(super) fn load(&self) -> Result<(), FileError> {
        *self.stamp.lock() = None;
        self.look().map(|_| ())
    }

    /// Reads the file again if it has changed; returns whether it had. Blocks.
    pub(super) fn look(&self) -> Result<bool, FileError> {
        let path = || self.path.display().to_string();
        let cannot_read = |source| FileError::Read { what: self.what, path: path(), source };
        let found = match fs::metadata(&self.path) {
            Ok(metadata) => stamp(&metadata),
            Err(error) => {
                // Told once, not each time somebody looks.
                let known = self.stamp.lock().replace(GONE);
                return if known == Some(GONE) { Ok(false) } else { Err(cannot_read(error)) };
            }
        };
        if self.stamp.lock().replace(found) == Some(found) {
            return Ok(false);
        }
        if found.bytes > FILE_BYTES_MAX {
            return Err(FileError::TooLong { what: self.what, path: path(), bytes: found.bytes });
        }
        let text = fs::read_to_string(&self.path).map_err(cannot_read)?;
        let content = (self.read)(&text).map_err(|Mistake { line, problem }| FileError::Line {
            what: self.what,
            path: path(),
            line,
            problem,
        })?;
        self.current.send_replace(Arc::new(content));
        Ok(true)
    }

    /// Returns what the file says now.
    pub(super) fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.borrow())
    }

    /// Returns a view that knows when it has changed.
    pub(super) fn follow(&self) -> watch::Receiver<Arc<T>> {
        self.current.subscribe()
    }

    /// Returns the file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Stands for a file that is not there.
const GONE: Stamp = Stamp {
    bytes: u64::MAX,
    modified: None,
    #[cfg(unix)]
    inode: 0,
};

fn stamp(metadata: &fs::Metadata) -> Stamp {
    Stamp {
        bytes: metadata.len(),
        modified: metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()),
        #[cfg(unix)]
        inode: std::os::unix::fs::MetadataExt::ino(metadata),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn words(text: &str) -> Result<Vec<String>, Mistake> {
        match text.lines().position(|line| line == "bad") {
            Some(idx) => Err(Mistake { line: idx + 1, problem: "it says bad".to_owned() }),
            None => Ok(text.lines().map(str::to_owned).collect()),
        }
    }

    fn write(path: &Path, text: &str) {
        let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn a_mistake_saved_later_keeps_the_last_good_content_and_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words");
        let watched = Watched::new("words file", path.clone(), words);
        assert!(watched.load().unwrap_err().to_string().starts_with("cannot read words file "));
        write(&path, "one\n");
        watched.load().unwrap();
        assert_eq!(*watched.current(), ["one"]);
        assert!(!watched.look().unwrap(), "nothing changed");

        write(&path, "one\nbad\n");
        let error = watched.look().unwrap_err().to_string();
        assert!(error.ends_with("words, line 2: it says bad"), "{error}");
        assert!(!watched.look().unwrap(), "told once");
        assert_eq!(*watched.current(), ["one"]);

        fs::remove_file(&path).unwrap();
        assert!(watched.look().is_err());
        assert!(!watched.look().unwrap(), "told once");
        write(&path, "two\nwords\n");
        assert!(watched.look().unwrap());
        assert_eq!(*watched.current(), ["two", "words"]);
    }
}
