//! What a look at the folder shows.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tidemill_engine::source::SourceError;

use super::followed::{FileId, Followed, Look};
use crate::file::{Shared, paths};

/// Entries of a folder that are looked at.
const ENTRIES_MAX: usize = 65_536;

/// A file of the folder.
pub(super) struct Entry {
    pub(super) path: String,
    pub(super) id: FileId,
    pub(super) look: Look,
    pub(super) is_wanted: bool,
}

impl Entry {
    /// Whether its name is longer than one that a file has or had: `app.log.1` is named after `app.log`.
    pub(super) fn is_named_after(&self, file: &Followed) -> bool {
        [&file.path, &file.name].iter().any(|name| self.path.len() > name.len() && self.path.starts_with(name.as_str()))
    }
}

/// What a look has seen.
#[derive(Default)]
pub(super) struct Listing {
    /// The files, by name; what does not match the path too, since a file may have got another name.
    pub(super) entries: Vec<Entry>,
    /// Links that lead nowhere, by name. The file behind one may be about to get another name, or not be there at all.
    dangling: BTreeSet<(PathBuf, FileId)>,
    /// Whether a file was not there any more under its name.
    has_moved: bool,
}

impl Listing {
    fn names(&self) -> impl Iterator<Item = (FileId, &str)> {
        self.entries.iter().map(|entry| (entry.id, entry.path.as_str()))
    }

    /// Whether this look shows the same files under the same names as the one before, and none that is on its way from one name
    /// to another: a link that leads nowhere is none if it did so before.
    pub(super) fn is_quiet_since(&self, before: &Listing) -> bool {
        !self.has_moved && self.dangling == before.dangling && self.names().eq(before.names())
    }
}

/// Lists the folder.
pub(super) fn look(shared: &Shared) -> Result<Listing, SourceError> {
    let (folder, is_wanted) = paths::followed(&shared.path, &shared.base_dir, shared.encoding)?;
    let mut listing = Listing::default();
    for found in paths::names(&folder)?.take(ENTRIES_MAX) {
        let Ok((path, name)) = found else { continue };
        // What cannot be looked at is gone, or not for us.
        let Ok(metadata) = std::fs::metadata(&path) else {
            let link = std::fs::symlink_metadata(&path).ok().filter(std::fs::Metadata::is_symlink);
            match link.map(|link| FileId::of(&link, &path)) {
                Some(id) => listing.dangling.extend([(path, id)]),
                None => listing.has_moved = true,
            }
            continue;
        };
        if metadata.is_file() {
            let id = FileId::of(&metadata, &path);
            let relative = path.strip_prefix(&shared.base_dir).unwrap_or(&path);
            let is_wanted = is_wanted(&name);
            listing.entries.push(Entry { path: text(relative), id, look: Look::of(&metadata), is_wanted });
        }
    }
    // A file of two names is followed by the first of them that is asked for.
    listing.entries.sort_by(|a, b| (!a.is_wanted, &a.path).cmp(&(!b.is_wanted, &b.path)));
    let mut seen = BTreeSet::new();
    listing.entries.retain(|entry| seen.insert(entry.id));
    Ok(listing)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
