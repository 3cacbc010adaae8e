//! Copies of files that are followed: a rotation by copying and cutting off makes one, compressing makes one, and so does
//! somebody who wants to keep a file. Each line of them is read once, in whichever file it comes first.
//!
//! A copy is told by its name, which begins with that of the file, and by its bytes, which are those that were read of the
//! file as far as it reaches. It is read on where the file was left, or from its own end if it has nothing more.

use std::io::ErrorKind;

use super::folder::Folder;
use super::followed::{FileId, Followed};
use super::listing::{self, Entry, Listing};
use super::marks::{Copied, Marks};
use crate::file::input::Packing;

/// Bytes that must have been read of a file before another one in its place can be known as the same: fewer may be equal by chance.
const REPLACED_BYTES_MIN: u64 = 256;
/// Looks at a folder in which names move, and how many in a row must show what the one before did.
const LOOKS_MAX: usize = 16;
const LOOKS_QUIET: usize = 2;

/// Where a file that was not known comes from.
pub(super) enum Origin {
    /// From nowhere.
    New,
    /// It holds what was read of another one.
    CopyOf(FileId, Copied),
    /// It may be a copy of one that is being read: that has to be finished first.
    Unclear,
}

impl Folder {
    /// Finds out whether a file that is not known holds what was read of one that is; of the furthest, if there are several, and
    /// of the last of those.
    pub(super) fn origin(&self, entry: &Entry) -> Origin {
        let mut best: Option<(FileId, Copied)> = None;
        for (id, file) in self.files.iter().filter(|(_, file)| file.next > 0) {
            let is_left = self.is_left(file);
            let is_replaced =
                file.is_gone() && [&file.path, &file.name].contains(&&entry.path) && file.next >= REPLACED_BYTES_MIN;
            let is_named_after = (entry.is_wanted || is_left) && entry.is_named_after(file);
            if !is_replaced && !is_named_after
                || best.as_ref().is_some_and(|(best, _)| self.files[best].is_further_than(file))
            {
                continue;
            }
            let copied = match is_left {
                true => self.shared.open(&entry.path).and_then(|mut input| file.marks().are_in(&mut input)),
                false => self.copied_of_standing(file, entry),
            };
            match copied {
                Ok(Some(Copied::UpTo(..))) if is_replaced => {}
                Ok(Some(copied)) => best = Some((*id, copied)),
                Ok(None) => {}
                // A compressed file that is being written is looked at again, before it could be taken for a new one.
                Err(_) if self.shared.packing(&entry.path) != Packing::Plain => return Origin::Unclear,
                // It has another name by now.
                Err(error) if error.kind() == ErrorKind::NotFound => return Origin::Unclear,
                Err(_) => {}
            }
        }
        match best {
            // What nothing was read of yet cannot be compared with its copy.
            None if self.may_be_copy_of_unread(entry) => Origin::Unclear,
            None => Origin::New,
            Some((id, _)) if self.is_read_on(id) => Origin::Unclear,
            Some((id, copied)) => Origin::CopyOf(id, copied),
        }
    }

    /// The same for a file that still stands there: what a copy has of it can be compared with it.
    fn copied_of_standing(&self, file: &Followed, entry: &Entry) -> std::io::Result<Option<Copied>> {
        let mut copy = self.shared.open(&entry.path)?;
        let is_plain = !file.must_be_whole(&self.shared) && copy.packing() == Packing::Plain;
        if is_plain && (1..=file.next).contains(&entry.look.size) {
            let marks = Marks::of_whole(&mut copy)?;
            let is_part = marks.hold(&mut self.shared.open(&file.path)?)?;
            return Ok(is_part.then_some(Copied::UpTo(entry.look.size, marks)));
        }
        file.marks().are_in(&mut copy)
    }

    /// Whether a file is gone or was cut off: what is a copy of it was made before.
    pub(super) fn is_left(&self, file: &Followed) -> bool {
        file.is_gone() || file.is_cut_off(&self.shared)
    }

    /// Whether a file is still being read: a copy would begin with what comes of it as well. One that has no name any more
    /// is, until it is known that nobody writes to it.
    fn is_read_on(&self, id: FileId) -> bool {
        let file = &self.files[&id];
        match self.is_left(file) {
            true => file.missing > 0 && file.is_open(),
            false => self.ready.contains(&id),
        }
    }

    /// Whether a file has the name that a copy would have.
    pub(super) fn may_be_copy(&self, entry: &Entry) -> bool {
        self.files.values().any(|file| file.next > 0 && entry.is_named_after(file))
    }

    /// Whether a file has the name that a copy of one would have that is about to be read.
    fn may_be_copy_of_unread(&self, entry: &Entry) -> bool {
        let is_unread = |file: &Followed| file.next == 0 && entry.is_named_after(file);
        self.ready.iter().filter_map(|id| self.files.get(id)).any(is_unread)
    }

    /// Whether nobody has written to a file for a while.
    pub(super) fn has_settled(&mut self, entry: &Entry) -> bool {
        let (look, quiet) = self.settling.entry(entry.id).or_insert((entry.look, 0));
        *quiet = if *look == entry.look { *quiet + 1 } else { 0 };
        *look = entry.look;
        *quiet > self.following.settle_scans
    }

    /// Goes on in a copy where the original was left.
    pub(super) fn adopt(&mut self, original: FileId, entry: &Entry, copied: Copied) {
        if self.is_full() {
            return;
        }
        let order = self.take_order();
        let file = &self.files[&original];
        let (path, of) = (&entry.path, &file.path);
        tracing::info!(path, of, read = file.next, "a copy of a file that was read: it is read on there");
        let copy = Followed::copy_of(file, copied, &entry.path, order);
        if file.missing > 0 && !file.is_open() {
            self.finish(original);
        }
        self.notes.push((copy.partition.clone(), copy.note(entry.id)));
        self.watch(entry, copy);
    }

    /// Whether a copy of a file is read already that was made when it was cut off: so it holds all that was read of the file.
    /// One of an earlier file of its name does not count, though it came later; nor does one that was made while the file went
    /// on.
    pub(super) fn has_copy(&self, id: FileId) -> bool {
        let file = &self.files[&id];
        self.files.values().any(|other| other.copy_of == Some(file.order) && other.next >= file.next)
    }

    /// Looks for a copy of a file that was cut off. Of a file that is renamed during a look neither name may be seen, and the
    /// next rotation renames them all: so what is not there is looked for until nothing has moved meanwhile.
    pub(super) fn find_copy(&mut self, id: FileId) -> bool {
        let (mut before, mut quiet) = (Listing::default(), 0);
        for _ in 0..LOOKS_MAX {
            let Ok(listing) = listing::look(&self.shared) else { return false };
            quiet = match self.find_copy_among(id, &listing.entries) {
                Found::Adopted => return true,
                Found::Nothing if listing.is_quiet_since(&before) => quiet + 1,
                Found::Nothing | Found::HasMoved => 0,
            };
            if quiet == LOOKS_QUIET {
                return false;
            }
            before = listing;
        }
        false
    }

    fn find_copy_among(&mut self, id: FileId, entries: &[Entry]) -> Found {
        if let Some(entry) = entries.iter().find(|entry| entry.id == id) {
            self.files.get_mut(&id).expect("known").look = Some(entry.look);
        }
        let mut found = Found::Nothing;
        for entry in entries.iter().filter(|entry| !self.files.contains_key(&entry.id)) {
            let file = &self.files[&id];
            if !entry.is_named_after(file) {
                continue;
            }
            let opened = self.shared.open(&entry.path);
            match opened.and_then(|mut input| file.marks().are_in(&mut input)) {
                Ok(Some(copied)) => {
                    self.adopt(id, entry, copied);
                    return Found::Adopted;
                }
                Err(error) if error.kind() == ErrorKind::NotFound => found = Found::HasMoved,
                Ok(None) | Err(_) => {}
            }
        }
        found
    }
}

/// What became of a search for a copy.
enum Found {
    /// It is read on.
    Adopted,
    /// There is none.
    Nothing,
    /// A file had another name when it was opened.
    HasMoved,
}
