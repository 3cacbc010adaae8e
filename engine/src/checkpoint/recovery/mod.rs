//! The decision where to start from: what was found in, what to do out. Pure.
//!
//! ```text
//!   newest manifest ──► a newer version wrote it, or it is of another log ─► refuse, untouched
//!        │ its commits are rolled forward first
//!        ▼
//!   newest checkpoint that is whole, and that the log reaches ──┐
//!   else the one before it, …                                   ├─► start ─► does every table fit?  yes ─► go on
//!   else the beginning, if the log is whole                     │                    │ no: it is new, or changed
//!   else refuse, and name what is damaged                       ┘                    ▼
//!                                              the oldest start at which all the others fit: rebuild it from there
//! ```
//! A process that was replaced may commit once more, late, and so may the decision of one that died at the last moment. What
//! it commits is what the replay gives, but it may be cut at other epochs:
//!
//! ```text
//!   in the table     ├── 1..4 ──┤── 5..6 ──┤             late; the newest manifest, which knows of 4, has decided 5..8
//!   decided                     ├──── 5..8 ────┤         is left: 7 and 8 come again from the log
//! ```
//! Somebody may have put an old copy of a table back, and then a commit that was decided since does not follow what is there:
//!
//! ```text
//!   in the table     ├── 1..2 ──┤                        a copy; the newest manifest knows of 4, and has decided 5..8
//!   decided                     .         ├── 5..8 ──┤   is left, since 3 and 4 would be missing for ever
//! ```
//! So a checkpoint is a place to start from only if each table has, or is about to get, all that the checkpoint counts as
//! committed in it.
//!
//! A table fits a checkpoint if the checkpoint has all the state that its rows come from, and it fits the beginning if its
//! own content begins there. One that needs no state fits wherever the replay brings all the rows that it does not have.
//! Whatever the start is, the replay gives the same rows: so a table that fits goes on without a change, and one that does
//! not is filled again as far as the log reaches.

mod candidate;

use std::collections::{BTreeMap, BTreeSet};

use self::candidate::{Candidate, starts};
use super::manifest::{Manifest, TableState};
use crate::epoch::Epoch;
use crate::seeded_bugs::{SeededBug, is_planted};
use crate::sink::Found;

/// What was found of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundLog {
    /// Its own id, in hexadecimal.
    pub id: String,
    /// The first epoch that can be replayed.
    pub first: Epoch,
}

/// What was found under the number of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub enum FoundManifest {
    /// One that can be read.
    Whole(Box<Manifest>),
    /// One that cannot; what is wrong with it, and where.
    Damaged(String),
    /// One of a newer version; what to do.
    Newer(String),
}

/// What is known of the parts that a checkpoint names, by the number of its manifest. Not listed: nothing bad.
pub type FoundCheckpoint = BTreeMap<u64, String>;

/// A table of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundTable {
    /// Its name.
    pub name: String,
    /// What is on disk.
    pub found: Found,
    /// Which content that is: see [`Sink::generation`](crate::sink::Sink::generation).
    pub generation: u64,
    /// Keys of the state that its rows come through.
    pub needs: BTreeSet<String>,
}

/// Where a replay begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The first record of the log.
    Beginning,
    /// Behind the epoch of the checkpoint in the manifest of this number.
    Checkpoint {
        /// The manifest.
        number: u64,
        /// The epoch.
        epoch: Epoch,
    },
}

/// How to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Where from.
    pub from: From,
    /// The number of the next manifest.
    pub next_number: u64,
    /// The newest manifest: its commits come first.
    pub newest: Option<u64>,
    /// Tables that are created, or filled again, with the reason; all others go on.
    pub rebuilt: BTreeMap<String, String>,
    /// What a person should know, in sentences.
    pub notes: Vec<String>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start like this.
    Start(Start),
    /// Do not start, and why; nothing was changed.
    Refuse(String),
}

impl FoundManifest {
    /// Returns the manifest, if it can be read.
    pub fn whole(&self) -> Option<&Manifest> {
        match self {
            FoundManifest::Whole(manifest) => Some(manifest),
            FoundManifest::Damaged(_) | FoundManifest::Newer(_) => None,
        }
    }
}

impl From {
    /// Returns the number of the manifest with the checkpoint; 0 is the beginning of the log.
    pub fn number(self) -> u64 {
        match self {
            From::Beginning => 0,
            From::Checkpoint { number, .. } => number,
        }
    }

    /// Returns the epoch behind which the replay begins.
    pub fn epoch(self) -> Epoch {
        match self {
            From::Beginning => Epoch::NONE,
            From::Checkpoint { epoch, .. } => epoch,
        }
    }
}

/// Decides. `manifests` are by number; `damaged` says which checkpoints have parts that cannot be read.
pub fn decide(
    log: &FoundLog,
    manifests: &BTreeMap<u64, FoundManifest>,
    damaged: &FoundCheckpoint,
    tables: &[FoundTable],
) -> Decision {
    let mut notes = Vec::new();
    for found in manifests.values() {
        if let FoundManifest::Newer(what) = found {
            return Decision::Refuse(what.clone());
        }
    }
    if let Some(other) = whole(manifests).find(|manifest| manifest.log_id != log.id) {
        return Decision::Refuse(format!(
            "the checkpoints belong to the log {}, and the log in this folder is {}: restore the folder as a whole from a \
             backup, or move it away to start anew",
            other.log_id, log.id
        ));
    }
    let mut bad: Vec<String> = Vec::new();
    let starts = starts(log, manifests, damaged, &mut bad);
    if starts.is_empty() {
        let newest = whole(manifests).filter_map(Manifest::checkpoint).next_back();
        let what = match newest {
            _ if !bad.is_empty() => bad.join("; "),
            Some(checkpoint) => {
                format!(
                    "the newest is of epoch {}, and the segments of the log behind it are missing",
                    checkpoint.epoch
                )
            }
            None => "no checkpoint is there".to_owned(),
        };
        return Decision::Refuse(format!(
            "cannot start from any checkpoint: {what}. The log reaches back only to epoch {}, so it cannot be replayed from \
             its beginning. Nothing was changed. Restore the folder from a backup, or move it away to start anew",
            log.first
        ));
    }
    let decided = whole(manifests).next_back();
    let lag = |start: &Candidate<'_>| tables.iter().find_map(|table| start.lag(table, decided));
    let Some(newest) = starts.iter().rev().find(|start| lag(start).is_none()) else {
        return Decision::Refuse(format!(
            "{}: the table's folder is older than the checkpoints, and the log reaches back only to epoch {}. Nothing was \
             changed. Restore the folder as a whole from a backup; or move the table's away, and it is filled again as far \
             as the log reaches back",
            starts.iter().find_map(lag).expect("none is without"),
            log.first
        ));
    };
    bad.extend(starts.last().and_then(lag));
    notes.extend(bad.iter().map(|what| format!("{what}; starting from {}", newest.words())));
    let mut rebuilt: BTreeMap<&str, String> =
        tables.iter().filter_map(|table| Some((table.name.as_str(), newest.misfit(table)?))).collect();
    let fits = |start: &Candidate<'_>| {
        let mut others = tables.iter().filter(|table| !rebuilt.contains_key(table.name.as_str()));
        others.all(|table| start.misfit(table).is_none() && start.lag(table, decided).is_none())
    };
    let from = if rebuilt.is_empty() {
        newest
    } else {
        starts.iter().find(|start| fits(start)).expect("all others fit the newest start")
    };
    // One that the newest start does not know may fit an older one: it goes on from there.
    let goes_on = |table: &&FoundTable| from.misfit(table).is_none() && from.is_settled(table);
    tables.iter().filter(goes_on).for_each(|table| drop(rebuilt.remove(table.name.as_str())));
    Decision::Start(Start {
        from: from.from,
        next_number: manifests.last_key_value().map_or(1, |(number, _)| number + 1),
        newest: decided.map(|manifest| manifest.number),
        rebuilt: rebuilt.into_iter().map(|(name, why)| (name.to_owned(), why)).collect(),
        notes,
    })
}

/// Returns the places that [`decide`] chooses from, oldest first, whatever the tables have.
pub fn possible_starts(
    log: &FoundLog,
    manifests: &BTreeMap<u64, FoundManifest>,
    damaged: &FoundCheckpoint,
) -> Vec<From> {
    starts(log, manifests, damaged, &mut Vec::new()).iter().map(|start| start.from).collect()
}

fn whole(manifests: &BTreeMap<u64, FoundManifest>) -> impl DoubleEndedIterator<Item = &Manifest> {
    manifests.values().filter_map(FoundManifest::whole)
}

/// Returns the numbers of the manifests, given in ascending order, that the newest one descends from: all but those that
/// were abandoned when somebody went back, and those of a replaced process that its successor has stepped over.
pub fn line_of_descent<'a>(manifests: impl DoubleEndedIterator<Item = &'a Manifest>) -> BTreeSet<u64> {
    let mut line = BTreeSet::new();
    let mut newest = u64::MAX;
    for manifest in manifests.rev() {
        if manifest.number > newest {
            continue;
        }
        line.insert(manifest.number);
        newest = match (manifest.rewound_to, manifest.parent) {
            // It builds on an older one; those in between are abandoned.
            (Some(_), _) => manifest.base(),
            (None, Some(parent)) => parent,
            (None, None) => manifest.number.saturating_sub(1),
        };
    }
    line
}

/// Returns whether the newest manifest's commit of a table is carried out by a start that finds `committed` in it. Not if
/// it is there already, or a part of it, and not if rows before it are missing: see the module. And not if it is about
/// another content of the table.
pub fn rolls_forward(newest: &Manifest, table: &str, committed: Epoch, generation: u64) -> bool {
    let of_this_content = |decided: &&TableState| decided.generation.unwrap_or(0) == generation;
    let decided = newest.tables.get(table).filter(|decided| !decided.pending.is_empty()).filter(of_this_content);
    let follows = |decided: &TableState| match is_planted(SeededBug::RolledOverHole) {
        true => committed <= decided.committed,
        false => committed == decided.committed,
    };
    decided.is_some_and(|decided| follows(decided) && committed < newest.epoch)
}

#[cfg(test)]
mod tests;
