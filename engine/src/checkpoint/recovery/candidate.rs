//! Candidates: the places where a replay could begin, and whether a table could go on from there.

use std::collections::BTreeMap;

use super::{FoundCheckpoint, FoundLog, FoundManifest, FoundTable, From, line_of_descent, rolls_forward, whole};
use crate::checkpoint::manifest::{Holds, Manifest};
use crate::epoch::Epoch;
use crate::sink::Found;

/// A place where a replay could begin.
pub(super) struct Candidate<'a> {
    pub(super) from: From,
    manifest: Option<&'a Manifest>,
}

/// Returns all places where a replay could begin, oldest first; and why others cannot be one.
pub(super) fn starts<'a>(
    log: &FoundLog,
    manifests: &'a BTreeMap<u64, FoundManifest>,
    damaged: &FoundCheckpoint,
    bad: &mut Vec<String>,
) -> Vec<Candidate<'a>> {
    let mut starts = Vec::new();
    if log.first == Epoch::FIRST {
        starts.push(Candidate { from: From::Beginning, manifest: None });
    }
    let line = line_of_descent(whole(manifests));
    for (number, found) in manifests {
        match found {
            FoundManifest::Damaged(what) => bad.push(what.clone()),
            FoundManifest::Newer(_) => {}
            FoundManifest::Whole(manifest) => {
                let Holds::Checkpoint(checkpoint) = &manifest.holds else { continue };
                match damaged.get(number) {
                    Some(what) => bad.push(what.clone()),
                    None if checkpoint.epoch.next() < log.first || !line.contains(number) => {}
                    None => starts.push(Candidate {
                        from: From::Checkpoint { number: *number, epoch: checkpoint.epoch },
                        manifest: Some(manifest),
                    }),
                }
            }
        }
    }
    starts
}

impl Candidate<'_> {
    pub(super) fn words(&self) -> String {
        match self.from {
            From::Beginning => "the beginning of the log".to_owned(),
            From::Checkpoint { epoch, .. } => format!("the checkpoint of epoch {epoch}"),
        }
    }

    /// Returns why rows would be missing that this checkpoint counts as committed, and that are neither in the table nor
    /// about to be; `None` if there are none.
    pub(super) fn lag(&self, table: &FoundTable, newest: Option<&Manifest>) -> Option<String> {
        let Found::Same { base, committed } = table.found else { return None };
        let manifest = self.manifest?;
        let known = manifest.tables.get(&table.name).filter(|known| known.base == base)?;
        let counted = if known.pending.is_empty() { known.committed } else { manifest.epoch };
        let has = match newest {
            Some(newest) if rolls_forward(newest, &table.name, committed, table.generation) => newest.epoch,
            _ => committed,
        };
        (has < counted).then(|| {
            let (name, words) = (&table.name, self.words());
            format!("table {name} has rows up to epoch {has} only, and {words} counts on epoch {counted}")
        })
    }

    /// Returns why a table cannot go on from here; `None` if it can.
    pub(super) fn misfit(&self, table: &FoundTable) -> Option<String> {
        let (base, committed) = match &table.found {
            Found::New => return Some("it is new".to_owned()),
            Found::Changed { what } => return Some(what.clone()),
            Found::Unkept => return self.lacks_state(table),
            Found::Same { base, committed } => (*base, *committed),
        };
        let Some(manifest) = self.manifest else {
            return (base != Epoch::NONE).then(|| "its rows begin later than the log".to_owned());
        };
        match manifest.tables.get(&table.name) {
            Some(known) if known.base == base => {}
            // It was begun here, and nothing was checkpointed since: the same replay goes on.
            _ if base == self.from.epoch() => return None,
            // Its rows come from the log alone, and it has all of those before the replay.
            _ if table.needs.is_empty() && committed >= self.from.epoch() => return None,
            _ => return Some(format!("{} does not know it", self.words())),
        }
        self.lacks_state(table)
    }

    /// Whether a table has what was decided for it here. For one that was away since, nobody has rolled it forward.
    pub(super) fn is_settled(&self, table: &FoundTable) -> bool {
        let Found::Same { committed, .. } = table.found else { return true };
        let decided = |manifest: &Manifest| Some((manifest.epoch, manifest.tables.get(&table.name)?.pending.len()));
        self.manifest.and_then(decided).is_none_or(|(epoch, pending)| pending == 0 || committed >= epoch)
    }

    fn lacks_state(&self, table: &FoundTable) -> Option<String> {
        let checkpoint = self.manifest?.checkpoint();
        let has = |key: &String| {
            checkpoint.is_some_and(|held| held.windows.contains_key(key) || held.dedups.contains_key(key))
        };
        let missing = !table.needs.iter().all(has);
        missing.then(|| format!("{} does not have its state", self.words()))
    }
}
