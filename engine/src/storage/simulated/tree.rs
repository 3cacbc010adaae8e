//! The names of a simulated disk: folders, what of them is durable, and what a power loss makes of the difference.
//!
//! A folder keeps its names as every process sees them, as they are on the medium, and the changes between the two in
//! their order. A sync of the folder carries them all over. A power loss carries over none of them, the first few, or
//! any selection: stricter orders that some file systems keep are among these, and a protocol that relies on no more
//! than its own syncs cannot tell them apart.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::content::{Content, between};
use crate::clock::{Dice, SeededDice};

/// A file, whatever its names are. Locked only by who holds the lock of the whole disk.
pub(super) type Inode = Arc<Mutex<Content>>;

/// What a name stands for.
#[derive(Clone, Debug)]
pub(super) enum Node {
    File(Inode),
    /// Its index in [`Tree::folders`].
    Folder(usize),
}

type Names = BTreeMap<String, Node>;

#[derive(Debug, Default)]
struct Folder {
    names: Names,
    durable: Names,
    /// Changes that make `names` of `durable`, in their order.
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Add { name: String, node: Node },
    Remove { name: String },
    Rename { from: String, to: String, node: Node },
}

impl Change {
    fn apply(self, names: &mut Names) {
        match self {
            Change::Add { name, node } => drop(names.insert(name, node)),
            Change::Remove { name } => drop(names.remove(&name)),
            Change::Rename { from, to, node } => {
                names.remove(&from);
                names.insert(to, node);
            }
        }
    }

    /// A rename that was cut off may leave both names, never none.
    fn apply_partly(self, names: &mut Names) {
        match self {
            Change::Rename { to, node, .. } => drop(names.insert(to, node)),
            change => change.apply(names),
        }
    }
}

/// All names of a disk. The root is the first folder.
#[derive(Debug)]
pub(super) struct Tree {
    folders: Vec<Folder>,
    used_bytes: u64,
    pub(super) capacity_bytes: Option<u64>,
}

impl Default for Tree {
    fn default() -> Self {
        Tree { folders: vec![Folder::default()], used_bytes: 0, capacity_bytes: None }
    }
}

/// Returns a path in its one form: relative to the root of the disk, without `.`.
pub(super) fn normal(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir)).collect()
}

impl Tree {
    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<Node> {
        path.components().try_fold(Node::Folder(0), |at, part| {
            let Node::Folder(folder) = at else { return Err(ErrorKind::NotADirectory.into()) };
            self.folders[folder].names.get(name_of(part)?).cloned().ok_or_else(|| ErrorKind::NotFound.into())
        })
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<Inode> {
        match self.find(path)? {
            Node::File(inode) => Ok(inode),
            Node::Folder(_) => Err(ErrorKind::IsADirectory.into()),
        }
    }

    fn folder(&self, path: &Path) -> io::Result<usize> {
        match self.find(path)? {
            Node::Folder(folder) => Ok(folder),
            Node::File(_) => Err(ErrorKind::NotADirectory.into()),
        }
    }

    /// Returns the folder that a path lies in, and its name there.
    fn place(&self, path: &Path) -> io::Result<(usize, String)> {
        let last = path.components().next_back().ok_or(ErrorKind::InvalidInput)?;
        Ok((self.folder(path.parent().unwrap_or(Path::new("")))?, name_of(last)?.to_owned()))
    }

    fn free_place(&self, path: &Path) -> io::Result<(usize, String)> {
        let (folder, name) = self.place(path)?;
        if self.folders[folder].names.contains_key(&name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        Ok((folder, name))
    }

    fn change(&mut self, folder: usize, change: Change) {
        change.clone().apply(&mut self.folders[folder].names);
        self.folders[folder].pending.push(change);
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<Inode> {
        let (folder, name) = self.free_place(path)?;
        let inode = Inode::default();
        inode.lock().names = 1;
        self.change(folder, Change::Add { name, node: Node::File(inode.clone()) });
        Ok(inode)
    }

    pub(super) fn create_folder(&mut self, path: &Path) -> io::Result<()> {
        let (folder, name) = self.free_place(path)?;
        self.folders.push(Folder::default());
        let node = Node::Folder(self.folders.len() - 1);
        self.change(folder, Change::Add { name, node });
        Ok(())
    }

    pub(super) fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.find(from)?;
        let (folder, name) = self.free_place(to)?;
        let Node::File(inode) = node else { return Err(ErrorKind::PermissionDenied.into()) };
        inode.lock().names += 1;
        self.change(folder, Change::Add { name, node: Node::File(inode) });
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.file(from)?;
        let ((folder, from), (target_folder, to)) = (self.place(from)?, self.place(to)?);
        if folder != target_folder {
            return Err(io::Error::new(ErrorKind::Unsupported, "the simulated disk renames within one folder only"));
        }
        match self.folders[folder].names.get(&to).cloned() {
            Some(Node::Folder(_)) => return Err(ErrorKind::IsADirectory.into()),
            // Two names of one file: POSIX says that nothing happens.
            Some(Node::File(replaced)) if Arc::ptr_eq(&replaced, &inode) => return Ok(()),
            Some(Node::File(replaced)) => self.forget_name(&replaced),
            None => {}
        }
        self.change(folder, Change::Rename { from, to, node: Node::File(inode) });
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let inode = self.file(path)?;
        let (folder, name) = self.place(path)?;
        self.forget_name(&inode);
        self.change(folder, Change::Remove { name });
        Ok(())
    }

    pub(super) fn sync_folder(&mut self, path: &Path) -> io::Result<()> {
        let folder = self.folder(path)?;
        let Folder { durable, pending, .. } = &mut self.folders[folder];
        pending.drain(..).for_each(|change| change.apply(durable));
        Ok(())
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<(String, Node)>> {
        let folder = self.folder(path)?;
        Ok(self.folders[folder].names.iter().map(|(name, node)| (name.clone(), node.clone())).collect())
    }

    /// Returns how many of `count` bytes fit on the disk.
    pub(super) fn room_for(&self, count: usize) -> usize {
        let Some(capacity) = self.capacity_bytes else { return count };
        capacity.saturating_sub(self.used_bytes).min(count as u64) as usize
    }

    pub(super) fn append(&mut self, inode: &Inode, bytes: &[u8]) {
        inode.lock().append(bytes);
        self.used_bytes += bytes.len() as u64;
    }

    pub(super) fn set_len(&mut self, inode: &Inode, len: u64) {
        let mut content = inode.lock();
        self.used_bytes = self.used_bytes + len - content.written().len() as u64;
        content.set_len(len as usize);
    }

    fn forget_name(&mut self, inode: &Inode) {
        inode.lock().names -= 1;
        self.free(inode);
    }

    pub(super) fn forget_handle(&mut self, inode: &Inode) {
        inode.lock().handles -= 1;
        self.free(inode);
    }

    fn free(&mut self, inode: &Inode) {
        let content = inode.lock();
        if content.is_gone() {
            self.used_bytes -= content.written().len() as u64;
        }
    }

    /// Returns all files, by path.
    pub(super) fn files(&self) -> Vec<(PathBuf, Inode)> {
        let mut files = Vec::new();
        let mut folders = vec![(PathBuf::new(), 0)];
        while let Some((path, folder)) = folders.pop() {
            for (name, node) in &self.folders[folder].names {
                match node {
                    Node::File(inode) => files.push((path.join(name), inode.clone())),
                    Node::Folder(folder) => folders.push((path.join(name), *folder)),
                }
            }
        }
        files.sort_by(|left, right| left.0.cmp(&right.0));
        files
    }

    /// Returns the names and files that the next process finds after this one was killed, with what is still pending.
    pub(super) fn after_kill(&self) -> Tree {
        let mut copies = Copies::new(Content::after_kill);
        let folders = self.folders.iter().map(|folder| Folder {
            names: copies.names(&folder.names),
            durable: copies.names(&folder.durable),
            pending: folder.pending.iter().map(|change| copies.change(change)).collect(),
        });
        Tree { folders: folders.collect(), used_bytes: 0, capacity_bytes: self.capacity_bytes }.counted()
    }

    /// Returns what a power loss leaves of the names and files.
    pub(super) fn after_power_loss(&self, dice: &SeededDice) -> Tree {
        let mut copies = Copies::new(|content: &Content| content.after_power_loss(dice));
        let folders = self.folders.iter().map(|folder| {
            let names = copies.names(&folder.left(dice));
            Folder { durable: names.clone(), names, pending: Vec::new() }
        });
        Tree { folders: folders.collect(), used_bytes: 0, capacity_bytes: self.capacity_bytes }.counted()
    }

    /// Counts the names of each file, and the bytes in use.
    fn counted(mut self) -> Tree {
        for (_, inode) in self.files() {
            let mut content = inode.lock();
            content.names += 1;
            if content.names == 1 {
                self.used_bytes += content.written().len() as u64;
            }
        }
        self
    }
}

impl Folder {
    fn left(&self, dice: &SeededDice) -> Names {
        let mut names = self.durable.clone();
        match dice.roll() % 4 {
            0 => {}
            1 => names = self.names.clone(),
            2 => {
                let count = between(dice, 0, self.pending.len());
                self.pending[..count].iter().cloned().for_each(|change| change.apply(&mut names));
            }
            _ => {
                for change in self.pending.iter().cloned() {
                    match dice.roll() % 4 {
                        0 | 1 => change.apply(&mut names),
                        2 => change.apply_partly(&mut names),
                        _ => {}
                    }
                }
            }
        }
        names
    }
}

/// Copies files, each once, however many names it has.
struct Copies<F> {
    copy: F,
    /// By the address of the original; only looked up, never walked, so the addresses decide nothing.
    made: HashMap<usize, Inode>,
}

impl<F: Fn(&Content) -> Content> Copies<F> {
    fn new(copy: F) -> Self {
        Copies { copy, made: HashMap::new() }
    }

    fn node(&mut self, node: &Node) -> Node {
        match node {
            Node::Folder(folder) => Node::Folder(*folder),
            Node::File(inode) => {
                let made = self.made.entry(Arc::as_ptr(inode).addr());
                Node::File(made.or_insert_with(|| Arc::new(Mutex::new((self.copy)(&inode.lock())))).clone())
            }
        }
    }

    fn names(&mut self, names: &Names) -> Names {
        names.iter().map(|(name, node)| (name.clone(), self.node(node))).collect()
    }

    fn change(&mut self, change: &Change) -> Change {
        match change {
            Change::Add { name, node } => Change::Add { name: name.clone(), node: self.node(node) },
            Change::Remove { name } => Change::Remove { name: name.clone() },
            Change::Rename { from, to, node } => {
                Change::Rename { from: from.clone(), to: to.clone(), node: self.node(node) }
            }
        }
    }
}

fn name_of(part: Component<'_>) -> io::Result<&str> {
    match part {
        Component::Normal(name) => name.to_str().ok_or_else(|| ErrorKind::InvalidFilename.into()),
        _ => Err(io::Error::new(ErrorKind::Unsupported, "the simulated disk knows no `..`")),
    }
}
