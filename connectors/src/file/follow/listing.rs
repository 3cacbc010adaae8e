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

/// Lists the folder, by name. What does not match the path is listed too: a file may have got another name.
pub(super) fn entries(shared: &Shared) -> Result<Vec<Entry>, SourceError> {
    let (folder, is_wanted) = paths::followed(&shared.path, &shared.base_dir, shared.encoding)?;
    let mut entries: Vec<Entry> = Vec::new();
    for found in paths::names(&folder)?.take(ENTRIES_MAX) {
        let Ok((path, name)) = found else { continue };
        // What cannot be looked at is gone, or not for us.
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
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
    Ok(entries)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
