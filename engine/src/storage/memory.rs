//! The same in memory, for tests and examples.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{AppendFile, Entry, Storage, StorageError, checked, checked_dir};

/// A folder in memory. Clones share it, so that a test can open it again as a new process would.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage {
    tree: Arc<Mutex<Tree>>,
}

#[cfg(test)]
impl MemoryStorage {
    /// Returns a copy of its own, as a killed process leaves it behind.
    pub(crate) fn copy(&self) -> MemoryStorage {
        let tree = self.tree.lock();
        let objects = tree.objects.iter();
        let objects =
            objects.map(|(path, object)| (path.clone(), Arc::new(Mutex::new(object.lock().clone())))).collect();
        MemoryStorage { tree: Arc::new(Mutex::new(Tree { objects, folders: tree.folders.clone() })) }
    }
}

/// The bytes of one object. An open file keeps them when the object is replaced or deleted, as a file does.
type Object = Arc<Mutex<Vec<u8>>>;

#[derive(Debug, Default)]
struct Tree {
    objects: BTreeMap<String, Object>,
    /// Every folder that was ever made: a folder outlives its objects.
    folders: BTreeSet<String>,
}

impl Tree {
    fn get(&self, path: &str) -> Result<Object, StorageError> {
        self.objects.get(path).cloned().ok_or_else(|| StorageError::Missing { path: path.to_owned() })
    }

    fn insert(&mut self, path: &str, bytes: &[u8]) -> Result<Object, StorageError> {
        if self.folders.contains(path) {
            return Err(io_error("write", path, io::ErrorKind::IsADirectory.into()));
        }
        let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
        for parent in parents.clone() {
            if self.objects.contains_key(parent) {
                return Err(io_error("create the folder", parent, io::ErrorKind::NotADirectory.into()));
            }
        }
        self.folders.extend(parents.map(str::to_owned));
        let object = Object::new(Mutex::new(bytes.to_vec()));
        self.objects.insert(path.to_owned(), object.clone());
        Ok(object)
    }

    fn insert_new(&mut self, path: &str, bytes: &[u8]) -> Result<Object, StorageError> {
        if self.objects.contains_key(path) || self.folders.contains(path) {
            return Err(StorageError::Exists { path: path.to_owned() });
        }
        self.insert(path, bytes)
    }
}

impl Storage for MemoryStorage {
    fn put_new(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.tree.lock().insert_new(checked(path)?, bytes).map(drop)
    }

    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.tree.lock().insert(checked(path)?, bytes).map(drop)
    }

    fn get(&self, path: &str) -> Result<Bytes, StorageError> {
        let object = self.tree.lock().get(checked(path)?)?;
        let bytes = Bytes::copy_from_slice(&object.lock());
        Ok(bytes)
    }

    fn list(&self, dir: &str) -> Result<Vec<Entry>, StorageError> {
        let dir = checked_dir(dir)?;
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let tree = self.tree.lock();
        if tree.objects.contains_key(dir) {
            return Err(io_error("list", dir, io::ErrorKind::NotADirectory.into()));
        }
        let child = |path: &str| -> Option<String> {
            path.strip_prefix(&prefix).filter(|rest| !rest.contains('/')).map(str::to_owned)
        };
        let folders = tree.folders.iter().filter_map(|path| Some(Entry { name: child(path)?, size: 0, is_dir: true }));
        let objects = tree.objects.iter().filter_map(|(path, object)| {
            Some(Entry { name: child(path)?, size: object.lock().len() as u64, is_dir: false })
        });
        let mut entries: Vec<Entry> = folders.chain(objects).collect();
        entries.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(entries)
    }

    fn delete(&self, path: &str) -> Result<(), StorageError> {
        let path = checked(path)?;
        let mut tree = self.tree.lock();
        if tree.folders.contains(path) {
            return Err(io_error("delete", path, io::ErrorKind::IsADirectory.into()));
        }
        tree.objects.remove(path);
        Ok(())
    }

    fn create(&self, path: &str) -> Result<Box<dyn AppendFile>, StorageError> {
        let object = self.tree.lock().insert_new(checked(path)?, &[])?;
        Ok(Box::new(MemoryAppendFile { path: path.to_owned(), object }))
    }

    fn open(&self, path: &str) -> Result<Box<dyn AppendFile>, StorageError> {
        let object = self.tree.lock().get(checked(path)?)?;
        Ok(Box::new(MemoryAppendFile { path: path.to_owned(), object }))
    }

    fn sync_dir(&self, dir: &str) -> Result<(), StorageError> {
        checked_dir(dir).map(drop)
    }
}

struct MemoryAppendFile {
    path: String,
    object: Object,
}

impl AppendFile for MemoryAppendFile {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.object.lock().extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> Result<(), StorageError> {
        let mut bytes = self.object.lock();
        match usize::try_from(len) {
            Ok(len) if len <= bytes.len() => bytes.truncate(len),
            _ => {
                let error = io::Error::new(io::ErrorKind::InvalidInput, "the file is shorter than that");
                return Err(io_error("truncate", &self.path, error));
            }
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.object.lock().len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, StorageError> {
        let bytes = self.object.lock();
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let count = buf.len().min(bytes.len() - from);
        buf[..count].copy_from_slice(&bytes[from..from + count]);
        Ok(count)
    }
}

fn io_error(action: &'static str, path: &str, source: io::Error) -> StorageError {
    StorageError::Io { action, path: path.to_owned(), source }
}
