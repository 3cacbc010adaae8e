//! A disk in memory that stops, loses, tears and refuses, all by a seed: what crash and fault tests run on.
//!
//! ```text
//!   calls of a process ─► counted, traced ─► stopped? ─► fault? ─► done ─┐
//!                                            every call     EIO, ENOSPC, │
//!                                            fails          short        ▼
//!                             SimulatedDisk { what is written, what of it is durable }
//!                                  │ kill()                            │ crash(seed)
//!                                  ▼                                   ▼
//!                 everything written, synced or not       what was synced; of the rest any part
//! ```
//!
//! It is harsher than one file system on purpose. Of what was not synced a power loss leaves nothing, all, a prefix, or
//! any selection of sectors with zeros or garbage between, and of names any selection, whatever their order was; it
//! keeps only that a sector is written whole, that bytes which were synced stay, and that a rename loses never both names.
//! A file sync makes no name durable, and a folder sync no content. A file sync that fails drops what was written: it
//! can be read until the power is lost, and no later sync makes it durable. A folder sync that fails leaves its names
//! as they were, and the next one counts.
//!
//! What it does not do: symbolic links, `..`, the removal of folders, renames between folders, permissions, time.

mod content;
mod schedule;
mod tree;

#[cfg(test)]
mod tests;

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

pub use schedule::{Call, Failure, Fault, When};

use self::schedule::{Schedule, Verdict};
use self::tree::{Inode, Node, Tree, normal};
use super::{Disk, DiskEntry, DiskFile, FileKind, Metadata};
use crate::clock::{Dice, SeededDice};

/// A disk in memory. Clones share it; [`SimulatedDisk::kill`] and [`SimulatedDisk::crash`] make the next one.
///
/// Paths are taken from the root of the disk: `data`, `/data` and `./data` are the same.
///
/// ```
/// use std::sync::Arc;
/// use tidemill_engine::storage::simulated::{SimulatedDisk, When};
/// use tidemill_engine::storage::{LocalStorage, Storage};
///
/// let life = |disk: &SimulatedDisk| -> Result<(), Box<dyn std::error::Error>> {
///     let storage = LocalStorage::on(Arc::new(disk.clone()), "data")?;
///     Ok(storage.put_new("greeting", b"hello")?)
/// };
/// // Count the syncs of a life without an accident, then let the power go at each of them.
/// let disk = SimulatedDisk::new(7);
/// life(&disk)?;
/// for sync in 1..=disk.syncs() {
///     let disk = SimulatedDisk::new(7);
///     disk.stop_at_sync(sync, When::Before);
///     let acknowledged = life(&disk).is_ok();
///
///     let storage = LocalStorage::on(Arc::new(disk.crash(sync)), "data")?;
///     match storage.get("greeting") {
///         Ok(bytes) => assert_eq!(&bytes[..], b"hello"),
///         Err(_) => assert!(!acknowledged),
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    tree: Tree,
    schedule: Schedule,
    /// For the names of temporary files.
    dice: SeededDice,
    trace: u64,
}

impl SimulatedDisk {
    /// Makes an empty disk. The seed drives [`Disk::random`], so that two runs make the same names.
    pub fn new(seed: u64) -> Self {
        SimulatedDisk::with(Tree::default(), seed, 0)
    }

    fn with(tree: Tree, seed: u64, trace: u64) -> Self {
        let state = State { tree, schedule: Schedule::default(), dice: SeededDice::new(seed), trace };
        SimulatedDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// Returns the disk as the next process finds it after this one was killed: everything that was written is there,
    /// and what was not synced can still be lost by a later [`SimulatedDisk::crash`].
    ///
    /// The new disk has no stop, no faults, no locks and counters at 0; it keeps the capacity. This one is left as it
    /// is: a process that still runs on it changes nothing on the new one.
    pub fn kill(&self) -> SimulatedDisk {
        let state = self.state.lock();
        let trace = xxh3_64_with_seed(b"kill", state.trace);
        SimulatedDisk::with(state.tree.after_kill(), trace, trace)
    }

    /// Returns the disk as it is found after a power loss: what was synced is there, of the rest what the seed says.
    /// The new disk is otherwise as from [`SimulatedDisk::kill`].
    pub fn crash(&self, seed: u64) -> SimulatedDisk {
        let state = self.state.lock();
        let trace = xxh3_64_with_seed(&seed.to_le_bytes(), state.trace);
        // The dice depend on the past as well, so that the names of the next life are none of this one's.
        let dice = SeededDice::new(trace);
        SimulatedDisk::with(state.tree.after_power_loss(&dice), dice.roll(), trace)
    }

    /// Returns how many calls there were. The calls of a stopped disk do not count.
    pub fn calls(&self) -> u64 {
        self.state.lock().schedule.call_count
    }

    /// Returns how many of them were syncs, of files and of folders.
    pub fn syncs(&self) -> u64 {
        self.state.lock().schedule.sync_count
    }

    /// Returns how many of them were writes.
    pub fn writes(&self) -> u64 {
        self.state.lock().schedule.write_count
    }

    /// Stops the disk at the n-th call, counted from 1 as [`SimulatedDisk::calls`] does. From then on every call
    /// fails and nothing changes, as if the process were dead.
    pub fn stop_at_call(&self, n: u64, when: When) {
        self.state.lock().schedule.stop_at_call = Some((n, when));
    }

    /// Stops the disk at the n-th sync, counted from 1 as [`SimulatedDisk::syncs`] does.
    pub fn stop_at_sync(&self, n: u64, when: When) {
        self.state.lock().schedule.stop_at_sync = Some((n, when));
    }

    /// Stops the disk now.
    pub fn stop(&self) {
        self.state.lock().schedule.is_stopped = true;
    }

    /// Returns whether it has stopped.
    pub fn is_stopped(&self) -> bool {
        self.state.lock().schedule.is_stopped
    }

    /// Adds a fault. Of several that are due at one call the one that was injected first strikes.
    pub fn inject(&self, fault: Fault) {
        self.state.lock().schedule.faults.push(fault);
    }

    /// Takes all faults away. What they broke stays broken, and the capacity stays.
    pub fn heal(&self) {
        self.state.lock().schedule.faults.clear();
    }

    /// Limits the disk to so many bytes of files; `None` is no limit. A write takes what fits, the next one fails.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().tree.capacity_bytes = bytes;
    }

    /// Returns how many bytes the files hold: those with a name, and those that are open.
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().tree.used_bytes()
    }

    /// Flips one bit of a file: on the medium, and in what is read. Bit 0 is the lowest of the first byte.
    pub fn flip(&self, path: impl AsRef<Path>, bit: u64) -> io::Result<()> {
        let inode = self.state.lock().tree.file(&normal(path.as_ref()))?;
        let is_there = inode.lock().flip(bit);
        if is_there { Ok(()) } else { Err(io::Error::new(ErrorKind::InvalidInput, "the file is shorter than that")) }
    }

    /// Returns all files with their sizes in bytes, by path.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let files = self.state.lock().tree.files();
        files.into_iter().map(|(path, inode)| (path, inode.lock().written().len() as u64)).collect()
    }

    /// Returns a hash of all calls so far in their order, with kind, path, content and outcome, and of all kills and
    /// crashes before. Equal runs have equal hashes; threads that call in another order are another run.
    pub fn trace_hash(&self) -> u64 {
        self.state.lock().trace
    }

    /// Counts and traces a call, and does it unless the schedule says otherwise.
    fn call<T>(
        &self,
        call: Call,
        path: &Path,
        content: &[u8],
        run: impl FnOnce(&mut Tree, Option<Failure>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state.lock();
        let State { tree, schedule, trace, .. } = &mut *state;
        let verdict = schedule.admit(call, path);
        let result = match verdict {
            Verdict::Dead => return Err(stopped()),
            Verdict::Done | Verdict::DoneUnseen => run(tree, None),
            Verdict::Fails(failure) => run(tree, Some(failure)),
        };
        *trace = xxh3_64_with_seed(path.as_os_str().as_encoded_bytes(), *trace);
        for word in [call as u64, content.len() as u64, xxh3_64(content), u64::from(result.is_ok())] {
            *trace = xxh3_64_with_seed(&word.to_le_bytes(), *trace);
        }
        if verdict == Verdict::DoneUnseen { Err(stopped()) } else { result }
    }

    /// Makes a call that fails as a whole if it fails.
    fn simple<T>(
        &self,
        call: Call,
        path: &Path,
        content: &[u8],
        run: impl FnOnce(&mut Tree, &Path) -> io::Result<T>,
    ) -> io::Result<T> {
        let path = normal(path);
        self.call(call, &path, content, |tree, failure| match failure {
            Some(failure) => Err(failure.into()),
            None => run(tree, &path),
        })
    }

    /// Opens a file; the handle is made outside of the lock, which it takes again when it is dropped.
    fn opened(
        &self,
        call: Call,
        path: &Path,
        find: impl FnOnce(&mut Tree, &Path) -> io::Result<Inode>,
    ) -> io::Result<Box<dyn DiskFile>> {
        let inode = self.simple(call, path, &[], |tree, path| {
            let inode = find(tree, path)?;
            inode.lock().handles += 1;
            Ok(inode)
        })?;
        Ok(Box::new(SimulatedFile { disk: self.clone(), path: normal(path), inode, holds_lock: false }))
    }
}

fn stopped() -> io::Error {
    io::Error::other("the simulated disk has stopped")
}

impl Disk for SimulatedDisk {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.opened(Call::Create, path, Tree::create_file)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.opened(Call::Open, path, |tree, path| tree.file(path))
    }

    fn open_or_create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.opened(Call::Open, path, |tree, path| match tree.file(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => tree.create_file(path),
            found => found,
        })
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.simple(Call::Read, path, &[], |tree, path| Ok(tree.file(path)?.lock().written().to_vec()))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let from = normal(from);
        self.simple(Call::Link, to, from.as_os_str().as_encoded_bytes(), |tree, to| tree.link(&from, to))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let from = normal(from);
        self.simple(Call::Rename, to, from.as_os_str().as_encoded_bytes(), |tree, to| tree.rename(&from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.simple(Call::Remove, path, &[], Tree::remove)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.simple(Call::CreateFolder, path, &[], Tree::create_folder)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DiskEntry>> {
        let found = self.simple(Call::List, dir, &[], |tree, dir| tree.list(dir))?;
        Ok(found.into_iter().map(|(name, node)| DiskEntry { name: name.into(), kind: metadata(&node).kind }).collect())
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.simple(Call::Metadata, path, &[], |tree, path| Ok(metadata(&tree.find(path)?)))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.simple(Call::SyncFolder, dir, &[], Tree::sync_folder)
    }

    fn random(&self) -> u64 {
        self.state.lock().dice.roll()
    }
}

fn metadata(node: &Node) -> Metadata {
    match node {
        Node::File(inode) => Metadata { kind: FileKind::File, len: inode.lock().written().len() as u64 },
        Node::Folder(_) => Metadata { kind: FileKind::Folder, len: 0 },
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    path: PathBuf,
    inode: Inode,
    holds_lock: bool,
}

impl SimulatedFile {
    fn sync(&self) -> io::Result<()> {
        self.disk.call(Call::SyncFile, &self.path, &[], |_, failure| match failure {
            Some(failure) => {
                self.inode.lock().fail_sync();
                Err(failure.into())
            }
            None => {
                self.inode.lock().sync();
                Ok(())
            }
        })
    }
}

impl DiskFile for SimulatedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.disk.call(Call::Write, &self.path, bytes, |tree, failure| {
            let wanted = match failure {
                Some(Failure::Short) => bytes.len().div_ceil(2),
                Some(failure) => return Err(failure.into()),
                None => bytes.len(),
            };
            let count = tree.room_for(wanted);
            if count == 0 && wanted > 0 {
                return Err(Failure::NoSpace.into());
            }
            tree.append(&self.inode, &bytes[..count]);
            Ok(count)
        })
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let place = [offset, buf.len() as u64].map(u64::to_le_bytes).concat();
        self.disk.call(Call::Read, &self.path, &place, |_, failure| {
            let content = self.inode.lock();
            let from = content.written().len().min(usize::try_from(offset).unwrap_or(usize::MAX));
            let found = &content.written()[from..];
            let count = match failure {
                Some(Failure::Short) => buf.len().min(found.len()).div_ceil(2),
                Some(failure) => return Err(failure.into()),
                None => buf.len().min(found.len()),
            };
            buf[..count].copy_from_slice(&found[..count]);
            Ok(count)
        })
    }

    fn sync_all(&mut self) -> io::Result<()> {
        self.sync()
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.sync()
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.disk.simple(Call::SetLen, &self.path, &len.to_le_bytes(), |tree, _| {
            tree.set_len(&self.inode, len);
            Ok(())
        })
    }

    fn size(&self) -> io::Result<u64> {
        self.disk.simple(Call::Metadata, &self.path, &[], |_, _| Ok(self.inode.lock().written().len() as u64))
    }

    fn try_lock(&mut self) -> io::Result<()> {
        let result = self.disk.simple(Call::Lock, &self.path, &[], |_, _| {
            let mut content = self.inode.lock();
            if content.locked {
                return Err(ErrorKind::WouldBlock.into());
            }
            content.locked = true;
            Ok(())
        });
        self.holds_lock |= result.is_ok();
        result
    }
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        if self.holds_lock {
            self.inode.lock().locked = false;
        }
        state.tree.forget_handle(&self.inode);
    }
}
