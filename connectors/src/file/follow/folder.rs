//! The folder that is followed: which files there are, which of them are known, and whose turn it is.
//!
//! What happens to a known file, by what a look at the folder shows:
//!
//! | what is seen | what it is | what is done |
//! |---|---|---|
//! | same inode, same beginning, longer | more was written | read on |
//! | same inode, another name | rotated by renaming | read on; its last line counts as whole when it is quiet |
//! | same inode, shorter or changed | cut off, or written anew | counted, read from its beginning or an error: `truncated` |
//! | … and a new file `NAME…` with what was read | rotated by copying and cutting off | the copy is read on, then the file from its beginning |
//! | no such inode, file still open | moved away or removed | read to its end while it grows |
//! | no such inode, a new file `NAME…` with what was read | compressed, or put in its place | read on there |
//! | no such inode, not open | removed while nobody looked | counted: what came behind the place is lost |

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tidemill_engine::source::{Message, Note, Resume, SourceError};

use super::Following;
use super::copies::Origin;
use super::followed::{FileId, Followed, Look, QUIET_SCANS, Step};
use super::listing::{self, Entry};
use crate::file::Shared;
use crate::file::text::LastLine;

/// Files that are followed at once.
const FILES_MAX: usize = 4_096;
/// Files that are open at once: those that were read last.
const FILES_OPEN_MAX: usize = 256;
/// Files that are gone and remembered, because compressed copies of them may come.
const FILES_OVER_MAX: usize = 64;
/// Partitions that bear the name of a file. All further files share one.
const PARTITIONS_MAX: usize = 1_000;
/// The partition of all further files.
const OTHERS: &str = "(further files)";

/// What goes into the log at once.
pub(super) struct Taken {
    pub(super) partition: String,
    pub(super) messages: Vec<Message>,
    pub(super) notes: Vec<Note>,
}

/// A folder, and all that is known of its files. Blocking.
pub(super) struct Folder {
    pub(super) shared: Arc<Shared>,
    pub(super) following: Following,
    pub(super) files: BTreeMap<FileId, Followed>,
    /// Files that are gone, the oldest first.
    over: VecDeque<FileId>,
    /// Files that may have something to read.
    pub(super) ready: VecDeque<FileId>,
    /// Files that may be copies, until nobody writes to them any more: how they looked, and for how many looks.
    pub(super) settling: BTreeMap<FileId, (Look, u32)>,
    /// Files that are open, that which was read last at the end.
    open: VecDeque<FileId>,
    partitions: BTreeSet<String>,
    next_order: u64,
    pub(super) notes: Vec<(String, Note)>,
    errors: Vec<&'static str>,
    is_told: bool,
}

impl Folder {
    /// Goes on from what the log knows.
    pub(super) fn new(shared: Arc<Shared>, following: Following, resume: &[Resume]) -> Result<Folder, SourceError> {
        let mut folder = Folder {
            shared,
            following,
            files: BTreeMap::new(),
            over: VecDeque::new(),
            ready: VecDeque::new(),
            settling: BTreeMap::new(),
            open: VecDeque::new(),
            partitions: BTreeSet::new(),
            next_order: 1,
            notes: Vec::new(),
            errors: Vec::new(),
            is_told: false,
        };
        for known in resume {
            folder.partitions.insert(known.partition.clone());
            if known.ended || known.next > 0 {
                return Err(SourceError::Changed(format!(
                    "file {} was read without follow = 'true': follow the folder with another --data folder, or as another source",
                    known.partition
                )));
            }
            for (key, value) in &known.notes {
                let file = FileId::from_key(key).zip(Followed::of_note(value, &known.partition));
                let Some((id, file)) = file else {
                    let partition = &known.partition;
                    return Err(SourceError::Changed(format!(
                        "the log has a note of {partition} that is not understood"
                    )));
                };
                folder.next_order = folder.next_order.max(file.order + 1);
                folder.files.insert(id, file);
            }
        }
        let mut over: Vec<FileId> = folder.files.iter().filter(|(_, file)| file.is_over).map(|(id, _)| *id).collect();
        over.sort_by_key(|id| folder.files[id].order);
        folder.over = over.into();
        Ok(folder)
    }

    /// Takes the notes that go with no messages.
    pub(super) fn take_notes(&mut self) -> Vec<Taken> {
        let taken = |(partition, note)| Taken { partition, messages: Vec::new(), notes: vec![note] };
        std::mem::take(&mut self.notes).into_iter().map(taken).collect()
    }

    /// Takes what is to be counted.
    pub(super) fn take_errors(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.errors)
    }

    /// Looks at the folder.
    pub(super) fn scan(&mut self) {
        let entries = match listing::look(&self.shared) {
            Ok(listing) => listing.entries,
            Err(error) => {
                if !std::mem::replace(&mut self.is_told, true) {
                    tracing::warn!(%error, "the folder cannot be read; it is tried again");
                    self.errors.push("unreadable");
                }
                return;
            }
        };
        self.is_told = false;
        self.look_at_known(&entries);
        for entry in &entries {
            if self.files.contains_key(&entry.id) {
                continue;
            }
            match self.origin(entry) {
                Origin::CopyOf(original, copied) if self.is_left(&self.files[&original]) || self.has_settled(entry) => {
                    self.adopt(original, entry, copied);
                }
                Origin::New if entry.is_wanted && (!self.may_be_copy(entry) || self.has_settled(entry)) => {
                    self.begin(entry);
                }
                Origin::CopyOf(..) | Origin::New | Origin::Unclear => continue,
            }
            self.settling.remove(&entry.id);
        }
        let listed: BTreeSet<FileId> = entries.iter().map(|entry| entry.id).collect();
        self.settling.retain(|id, _| listed.contains(id));
        self.give_up_missing();
    }

    /// Reads the next piece of one of the files; `None` when there is nothing more to read now.
    pub(super) fn read(&mut self) -> Result<Option<Taken>, SourceError> {
        while let Some(id) = self.next_ready() {
            let last_line = self.last_line(&self.files[&id]);
            let file = self.files.get_mut(&id).expect("ready files are known");
            let step = file.step(id, &self.shared, last_line);
            self.note_open(id);
            let file = self.files.get_mut(&id).expect("ready files are known");
            match step {
                Step::Taken(messages) => {
                    file.is_told = false;
                    self.ready.push_back(id);
                    let (partition, notes) = (file.partition.clone(), vec![file.note(id)]);
                    return Ok(Some(Taken { partition, messages, notes }));
                }
                Step::AtEnd if file.missing > 0 && last_line == LastLine::IsWhole => self.finish(id),
                Step::AtEnd if file.must_be_whole(&self.shared) => {
                    file.close();
                    if !std::mem::replace(&mut file.is_read, true) {
                        self.notes.push((file.partition.clone(), file.note(id)));
                    }
                }
                Step::AtEnd => {}
                Step::Changed => self.replaced(id)?,
                Step::Unreadable(error) => {
                    if !std::mem::replace(&mut file.is_told, true) {
                        tracing::warn!(path = file.path, %error, "a file cannot be read; it is tried again");
                        self.errors.push("unreadable");
                    }
                }
            }
        }
        Ok(None)
    }

    /// Takes the file whose turn it is: not one whose partition has an earlier file that is not read to its end.
    fn next_ready(&mut self) -> Option<FileId> {
        for _ in 0..self.ready.len() {
            let id = self.ready.pop_front()?;
            let Some(file) = self.files.get(&id) else { continue };
            let is_before = |other: &FileId| {
                self.files.get(other).is_some_and(|other| other.partition == file.partition && other.order < file.order)
            };
            if file.partition != OTHERS && self.ready.iter().any(is_before) {
                self.ready.push_back(id);
            } else {
                return Some(id);
            }
        }
        None
    }

    fn is_ready(&mut self, id: FileId) {
        if !self.ready.contains(&id) {
            self.ready.push_back(id);
        }
    }

    /// Says whether a line without an end is taken as it is.
    fn last_line(&self, file: &Followed) -> LastLine {
        let quiet_max = if file.has_left_its_name() { Some(QUIET_SCANS) } else { self.following.line_scans };
        match quiet_max {
            _ if file.must_be_whole(&self.shared) => LastLine::IsWhole,
            Some(max) if file.quiet >= max => LastLine::IsWhole,
            _ => LastLine::Waits,
        }
    }

    fn look_at_known(&mut self, entries: &[Entry]) {
        let found: BTreeMap<FileId, &Entry> = entries.iter().rev().map(|entry| (entry.id, entry)).collect();
        let mut ready = Vec::new();
        let is_another = |(id, file): (&FileId, &Followed)| {
            let entry = found.get(id)?;
            let is_in_doubt = file.is_over || entry.path != file.path && !file.is_open();
            let is_same = !is_in_doubt || file.is_in(&entry.path, &self.shared);
            (!is_same).then_some(*id)
        };
        let others: Vec<FileId> = self.files.iter().filter_map(is_another).collect();
        for id in others {
            // Its number was given to another file. What is known of it is kept: a copy may go on with it.
            let mut file = self.files.remove(&id).expect("known");
            let stand_in = FileId::stand_in(file.order);
            self.notes.push((file.partition.clone(), Note::forget(id.key())));
            self.notes.push((file.partition.clone(), file.note(stand_in)));
            self.over.iter_mut().filter(|over| **over == id).for_each(|over| *over = stand_in);
            file.look = None;
            self.files.insert(stand_in, file);
        }
        for (id, file) in &mut self.files {
            let entry = found.get(id);
            let look = match entry {
                Some(entry) => Some(entry.look),
                None if file.is_over => continue,
                None => file.look_at_open(),
            };
            let must_be_whole = file.must_be_whole(&self.shared);
            let has_left = match entry {
                Some(entry) => {
                    let has_left = file.path != entry.path;
                    file.path.clone_from(&entry.path);
                    (file.missing, file.is_over) = (0, false);
                    has_left
                }
                None => {
                    file.missing = file.missing.saturating_add(1);
                    file.missing == 1
                }
            };
            let has_changed = file.look != look;
            // Who writes may have something to end when the file gets another name.
            let is_quiet = !has_changed && (!has_left || must_be_whole);
            file.quiet = if is_quiet { file.quiet.saturating_add(1) } else { 0 };
            file.look = look;
            let is_due = match (must_be_whole, has_changed) {
                (true, _) => file.quiet == 1,
                (false, true) => true,
                (false, false) => look.is_some_and(|look| look.size > file.next),
            };
            if has_changed && must_be_whole {
                file.is_read = false;
            }
            if (is_due || file.missing > 0 || file.is_told) && (entry.is_some() || file.is_open()) {
                ready.push((file.order, *id));
            }
        }
        self.over.retain(|id| self.files.get(id).is_some_and(|file| file.is_over));
        ready.sort_unstable();
        ready.into_iter().for_each(|(_, id)| self.is_ready(id));
    }

    fn begin(&mut self, entry: &Entry) {
        if self.is_full() {
            return;
        }
        let is_named = self.partitions.len() < PARTITIONS_MAX || self.partitions.contains(&entry.path);
        let partition = if is_named { entry.path.clone() } else { OTHERS.to_owned() };
        self.partitions.insert(partition.clone());
        let order = self.take_order();
        self.watch(entry, Followed::new(&entry.path, &partition, order));
    }

    pub(super) fn watch(&mut self, entry: &Entry, mut file: Followed) {
        file.look = Some(entry.look);
        let is_due = !file.must_be_whole(&self.shared) && !file.is_over;
        self.files.insert(entry.id, file);
        if is_due {
            self.is_ready(entry.id);
        }
    }

    /// Deals with a file that does not hold any more what was read of it.
    fn replaced(&mut self, id: FileId) -> Result<(), SourceError> {
        // A copy may have come since the last look.
        let has_copy = self.has_copy(id) || self.find_copy(id);
        let file = &self.files[&id];
        if has_copy {
            tracing::info!(path = file.path, "a file was copied and cut off: it is read from its beginning");
        } else if !self.following.takes_truncated() {
            return Err(SourceError::Changed(format!(
                "file {} was read up to {} and has been cut off or written anew since: what it held behind that is lost; \
                 put it back, or say truncated = 'read' to read such files from their beginning",
                file.path, file.next
            )));
        } else {
            tracing::warn!(
                path = file.path,
                read = file.next,
                "a file was cut off or written anew: it is read from its beginning, and what was added before and not read is lost"
            );
            self.errors.push("truncated");
        }
        if file.has_left_its_name() {
            // What it was is gone, and nobody asked for what it is now.
            self.finish(id);
            return Ok(());
        }
        let order = self.take_order();
        let file = self.files.get_mut(&id).expect("known");
        file.begin_anew(order);
        let note = (file.partition.clone(), file.note(id));
        self.notes.push(note);
        self.is_ready(id);
        Ok(())
    }

    /// Ends with the files that are not there and that nobody can read any more.
    fn give_up_missing(&mut self) {
        let is_lost = |file: &Followed| file.missing > 0 && !file.is_over && !file.is_open();
        let lost: Vec<FileId> = self.files.iter().filter(|(_, file)| is_lost(file)).map(|(id, _)| *id).collect();
        for id in lost {
            let file = self.files.remove(&id).expect("known");
            self.tell_gone(&file);
            self.files.insert(id, file);
            self.finish(id);
        }
    }

    /// Says that a file is gone of which something may not have been read.
    fn tell_gone(&mut self, file: &Followed) {
        let is_read = match file.must_be_whole(&self.shared) {
            true => file.is_read,
            false => file.look.is_some_and(|look| look.size <= file.next),
        };
        if !is_read {
            let (path, read) = (&file.path, file.next);
            tracing::warn!(path, read, "a file is not there any more: what it held behind that place was not read");
            self.errors.push("gone");
        }
    }

    /// Remembers a file that is gone for a while, in place of the one that went first.
    pub(super) fn finish(&mut self, id: FileId) {
        let Some(file) = self.files.get_mut(&id) else { return };
        file.close();
        file.is_over = true;
        self.notes.push((file.partition.clone(), file.note(id)));
        self.ready.retain(|ready| *ready != id);
        self.over.push_back(id);
        while self.over.len() > FILES_OVER_MAX {
            let oldest = self.over.pop_front().expect("there are too many");
            if let Some(forgotten) = self.files.remove(&oldest) {
                self.notes.push((forgotten.partition, Note::forget(oldest.key())));
            }
        }
    }

    fn note_open(&mut self, id: FileId) {
        self.open.retain(|open| *open != id);
        if self.files.get(&id).is_some_and(Followed::is_open) {
            self.open.push_back(id);
        }
        while self.open.len() > FILES_OPEN_MAX {
            let oldest = self.open.pop_front().expect("there are too many");
            if let Some(file) = self.files.get_mut(&oldest) {
                file.close();
            }
        }
    }

    pub(super) fn is_full(&mut self) -> bool {
        let is_full = self.files.len() - self.over.len() >= FILES_MAX;
        if is_full && !self.errors.contains(&"files") {
            tracing::warn!(
                followed = FILES_MAX,
                "there are too many files to follow: some wait until others are removed"
            );
            self.errors.push("files");
        }
        is_full
    }

    pub(super) fn take_order(&mut self) -> u64 {
        self.next_order += 1;
        self.next_order - 1
    }
}
