//! The folder `_delta_log`: names of versions, reading one, writing one.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidemill_engine::storage::{Storage, StorageError};

use super::TableError;
use super::actions::{Action, Commit, decode_commit};

/// How the names of commits end.
pub(super) const COMMIT_SUFFIX: &str = ".json";
/// How deep other writers may nest partitions; ours are one deep.
const FOLDERS_DEEP_MAX: usize = 8;

/// The log of one table: a view that is cheap to make.
#[derive(Clone, Copy)]
pub(super) struct DeltaLog<'a> {
    /// Where the data files lie too.
    pub(super) storage: &'a dyn Storage,
    /// The table's folder.
    pub(super) dir: &'a str,
}

impl DeltaLog<'_> {
    /// The log's folder.
    pub(super) fn folder(&self) -> String {
        self.table_path("_delta_log")
    }

    /// The path of something in the table's folder, which may be the storage's root.
    pub(super) fn table_path(&self, path: &str) -> String {
        if self.dir.is_empty() { path.to_owned() } else { format!("{}/{path}", self.dir) }
    }

    /// The path of something in the log's folder.
    pub(super) fn path(&self, name: &str) -> String {
        self.table_path(&format!("_delta_log/{name}"))
    }

    /// The path of a version's commit.
    pub(super) fn commit_path(&self, version: u64) -> String {
        self.path(&format!("{version:020}.json"))
    }

    /// Reads an object of the log's folder; `None` if it is not there.
    pub(super) fn get(&self, name: &str) -> Result<Option<Bytes>, StorageError> {
        found(self.storage.get(&self.path(name)))
    }

    /// Reads a version; `None` if it is not there.
    pub(super) fn read(&self, version: u64) -> Result<Option<Vec<Action>>, TableError> {
        let path = self.commit_path(version);
        match found(self.storage.get(&path))? {
            Some(bytes) => Ok(Some(decode_commit(&path, version, &bytes)?)),
            None => Ok(None),
        }
    }

    /// Writes a version that must not exist yet.
    pub(super) fn write(&self, version: u64, commit: &Commit) -> Result<(), StorageError> {
        self.storage.put_new(&self.commit_path(version), &commit.encode(version))
    }

    /// Makes what is visible in the log durable, before a decision is based on it.
    pub(super) fn sync(&self) -> Result<(), StorageError> {
        found(self.storage.sync_dir(&self.folder())).map(|_| ())
    }

    /// Lists the versions that are there, in order.
    pub(super) fn versions(&self) -> Result<Vec<u64>, StorageError> {
        Ok(self.listed(COMMIT_SUFFIX)?.into_iter().map(|(version, _)| version).collect())
    }

    /// Lists what is there of one kind: the version and the bytes, in order.
    pub(super) fn listed(&self, suffix: &str) -> Result<Vec<(u64, u64)>, StorageError> {
        let entries = found(self.storage.list(&self.folder()))?.unwrap_or_default();
        let version_of = |name: &str| name.strip_suffix(suffix).filter(|digits| digits.len() == 20)?.parse().ok();
        let mut versions: Vec<(u64, u64)> =
            entries.iter().filter_map(|entry| Some((version_of(&entry.name)?, entry.size))).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// Lists the files beside the log: path in the table's folder, and bytes. What begins with `_` or `.` is hidden, by
    /// the format's rule.
    pub(super) fn data_files(&self) -> Result<BTreeMap<String, u64>, StorageError> {
        let mut files = BTreeMap::new();
        let mut folders = vec![(String::new(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let listed = if folder.is_empty() { self.dir.to_owned() } else { self.table_path(&folder) };
            for entry in found(self.storage.list(&listed))?.unwrap_or_default() {
                if entry.name.starts_with(['_', '.']) {
                    continue;
                }
                let path = if folder.is_empty() { entry.name } else { format!("{folder}/{}", entry.name) };
                if !entry.is_dir {
                    files.insert(path, entry.size);
                } else if depth < FOLDERS_DEEP_MAX {
                    folders.push((path, depth + 1));
                }
            }
        }
        Ok(files)
    }
}

/// Turns "is not there" into `None`.
fn found<T>(result: Result<T, StorageError>) -> Result<Option<T>, StorageError> {
    match result {
        Ok(it) => Ok(Some(it)),
        Err(StorageError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
