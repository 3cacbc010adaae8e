//! What a look at the folder shows.

use std::collections::BTreeSet;
use std::path::Path;

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
pub(super) struct Listing {
    /// The files, by name; what does not match the path too, since a file may have got another name.
    pub(super) entries: Vec<Entry>,
    /// Whether a file was not there any more under its name.
    pub(super) has_moved: bool,
}

/// Lists the folder.
pub(super) fn look(shared: &Shared) -> Result<Listing, SourceError> {
    let (folder, is_wanted) = paths::followed(&shared.path, &shared.base_dir, shared.encoding)?;
    let (mut entries, mut has_moved): (Vec<Entry>, bool) = (Vec::new(), false);
    for found in paths::names(&folder)?.take(ENTRIES_MAX) {
        let Ok((path, name)) = found else { continue };
        // What cannot be looked at is gone, or not for us.
        let Ok(metadata) = std::fs::metadata(&path) else {
            has_moved = true;
            continue;
        };
        if metadata.is_file() {
            let id = FileId::of(&metadata, &path);
            let relative = path.strip_prefix(&shared.base_dir).unwrap_or(&path);
            let is_wanted = is_wanted(&name);
            entries.push(Entry { path: text(relative), id, look: Look::of(&metadata), is_wanted });
        }
    }
    // A file of two names is followed by the first of them that is asked for.
    entries.sort_by(|a, b| (!a.is_wanted, &a.path).cmp(&(!b.is_wanted, &b.path)));
    let mut seen = BTreeSet::new();
    entries.retain(|entry| seen.insert(entry.id));
    Ok(Listing { entries, has_moved })
}

/// Whether two looks show the same files under the same names.
pub(super) fn are_same(one: &[Entry], other: &[Entry]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| (one.id, &one.path) == (other.id, &other.path))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
