//! A folder of the local disk, with the fsync rules of files and of directories.
pub struct LocalStorage;
