//! A temporary folder that is kept when its test fails, so that one can look.

use std::path::{Path, PathBuf};

/// Removed at the end of its test, unless the test has failed.
pub(crate) struct Folder(Option<tempfile::TempDir>);

impl Folder {
    /// Makes an empty folder.
    pub(crate) fn new() -> Folder {
        Folder(Some(tempfile::Builder::new().prefix("tidemill-test-").tempdir().expect("a temporary folder")))
    }

    /// Returns its path.
    pub(crate) fn path(&self) -> &Path {
        self.0.as_ref().expect("the folder lives until it is dropped").path()
    }

    /// Returns a path inside.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file inside and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.join(name);
        std::fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a writable folder");
        std::fs::write(&path, text).expect("a writable file");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(folder) = self.0.take()
        {
            eprintln!("kept for a look: {}", folder.keep().display());
        }
    }
}
