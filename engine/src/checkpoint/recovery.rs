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
//! So a checkpoint is a place to start from only if each table has, or is about to get, all that the checkpoint counts as
//! committed in it.
//!
//! A table fits a checkpoint if the checkpoint has all the state that its rows come from, and it fits the beginning if its
//! own content begins there. One that needs no state fits wherever the replay brings all the rows that it does not have.
//! Whatever the start is, the replay gives the same rows: so a table that fits goes on without a change, and one that does
//! not is filled again as far as the log reaches.

use std::collections::{BTreeMap, BTreeSet};

use super::manifest::{Holds, Manifest, TableState};
use crate::epoch::Epoch;
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
        let what = if bad.is_empty() { "no checkpoint is there".to_owned() } else { bad.join("; ") };
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

/// A place where a replay could begin.
struct Candidate<'a> {
    from: From,
    manifest: Option<&'a Manifest>,
}

/// Returns all places where a replay could begin, oldest first; and why others cannot be one.
fn starts<'a>(
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
/// it is there already, or a part of it: see the module. And not if it is about another content of the table.
pub fn rolls_forward(newest: &Manifest, table: &str, committed: Epoch, generation: u64) -> bool {
    let of_this_content = |decided: &&TableState| decided.generation.unwrap_or(0) == generation;
    let decided = newest.tables.get(table).filter(|decided| !decided.pending.is_empty()).filter(of_this_content);
    decided.is_some_and(|decided| committed <= decided.committed && committed < newest.epoch)
}

impl Candidate<'_> {
    fn words(&self) -> String {
        match self.from {
            From::Beginning => "the beginning of the log".to_owned(),
            From::Checkpoint { epoch, .. } => format!("the checkpoint of epoch {epoch}"),
        }
    }

    /// Returns why rows would be missing that this checkpoint counts as committed, and that are neither in the table nor
    /// about to be; `None` if there are none.
    fn lag(&self, table: &FoundTable, newest: Option<&Manifest>) -> Option<String> {
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
    fn misfit(&self, table: &FoundTable) -> Option<String> {
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
    fn is_settled(&self, table: &FoundTable) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Checkpoint, TableState, WindowSaved};
    use crate::sink::Committable;
    use crate::time::Watermark;

    /// A manifest in short: its number, the epoch of its checkpoint, and the windows in it. Tables are `t` (which needs
    /// `w`) and `raw`, both from the beginning.
    fn manifest(number: u64, epoch: u64, windows: &[&str]) -> (u64, FoundManifest) {
        let window = WindowSaved {
            name: String::new(),
            watermark: Watermark::UNKNOWN,
            rows: 0,
            late: 0,
            results: 0,
            panes: Vec::new(),
        };
        let checkpoint = Checkpoint {
            epoch: Epoch(epoch),
            sealed_us: 0,
            next_offset: 0,
            partitions: Vec::new(),
            sources: BTreeMap::new(),
            windows: windows.iter().map(|key| ((*key).to_owned(), window.clone())).collect(),
            dedups: BTreeMap::new(),
            buffers: BTreeMap::new(),
        };
        let manifest = Manifest {
            version: 1,
            number,
            incarnation: 1,
            parent: None,
            log_id: "log".to_owned(),
            made_us: 0,
            epoch: Epoch(epoch),
            holds: Holds::Checkpoint(Box::new(checkpoint)),
            tables: ["t", "raw"].map(|name| (name.to_owned(), TableState::default())).into(),
            rewound_to: None,
        };
        (number, FoundManifest::Whole(Box::new(manifest)))
    }

    fn edit(found: (u64, FoundManifest), change: impl FnOnce(&mut Manifest)) -> (u64, FoundManifest) {
        let (number, FoundManifest::Whole(mut manifest)) = found else { panic!("whole") };
        change(&mut manifest);
        (number, FoundManifest::Whole(manifest))
    }

    fn same(name: &str, base: u64) -> FoundTable {
        let needs = if name == "raw" { BTreeSet::new() } else { BTreeSet::from(["w".to_owned()]) };
        FoundTable {
            name: name.to_owned(),
            found: Found::Same { base: Epoch(base), committed: Epoch(5) },
            generation: 0,
            needs,
        }
    }

    fn on(name: &str, found: Found) -> FoundTable {
        FoundTable { found, ..same(name, 0) }
    }

    /// The decision in one line.
    fn decided(
        first: u64,
        manifests: Vec<(u64, FoundManifest)>,
        damaged: &[(u64, &str)],
        tables: &[FoundTable],
    ) -> String {
        let log = FoundLog { id: "log".to_owned(), first: Epoch(first) };
        let damaged = damaged.iter().map(|(number, what)| (*number, (*what).to_owned())).collect();
        match decide(&log, &manifests.into_iter().collect(), &damaged, tables) {
            Decision::Refuse(why) => format!("refuse: {why}"),
            Decision::Start(start) => {
                let from = match start.from {
                    From::Beginning => "beginning".to_owned(),
                    From::Checkpoint { number, epoch } => format!("{number}@{epoch}"),
                };
                let rebuilt: Vec<&str> = start.rebuilt.keys().map(String::as_str).collect();
                let newest = start.newest.map_or("-".to_owned(), |newest| newest.to_string());
                format!("{from} newest {newest} next {} rebuild [{}]", start.next_number, rebuilt.join(" "))
            }
        }
    }

    #[test]
    fn every_row_of_the_table_of_decisions() {
        let both = || [same("t", 0), same("raw", 0)];
        let damage = |number| (number, FoundManifest::Damaged(format!("manifest {number} is damaged")));
        let newer = (9, FoundManifest::Newer("a newer program wrote it".to_owned()));
        let three = || vec![manifest(1, 10, &["w"]), manifest(2, 20, &["w"]), manifest(3, 30, &["w"])];
        let counts_on = |number, epoch, committed| {
            edit(manifest(number, epoch, &["w"]), |manifest| {
                manifest.tables.get_mut("t").expect("known").committed = Epoch(committed);
            })
        };
        let decides = |number, epoch| {
            edit(manifest(number, epoch, &["w"]), |manifest| {
                let committable = Committable { version: 1, body: String::new(), summary: String::new() };
                let table = manifest.tables.get_mut("t").expect("known");
                table.committed = Epoch(5);
                table.pending.push(committable);
            })
        };
        let refers_to = |number, to| edit(manifest(number, 35, &[]), |manifest| manifest.holds = Holds::Refers(to));
        let refers = edit(manifest(4, 35, &[]), |manifest| manifest.holds = Holds::Refers(3));
        let changed = on("t", Found::Changed { what: "the view was changed".to_owned() });
        let back = edit(manifest(4, 31, &["w"]), |manifest| {
            manifest.holds = Holds::Refers(1);
            manifest.rewound_to = Some(Epoch(10));
        });
        let later = edit(manifest(5, 15, &["w"]), |_| {});
        let without_t =
            |number, epoch| edit(manifest(number, epoch, &[]), |manifest| drop(manifest.tables.remove("t")));
        let with_late_t = |number, epoch, base| {
            edit(manifest(number, epoch, &["w"]), |manifest| {
                manifest.tables.get_mut("t").expect("known").base = Epoch(base);
            })
        };
        // `t` has epoch 5; a manifest that counts on more, or is about to commit more.
        let counting = |number, epoch, committed, pending: bool| {
            edit(manifest(number, epoch, &["w"]), |manifest| {
                let committable = Committable { version: 1, body: String::new(), summary: String::new() };
                let pending = if pending { vec![committable] } else { Vec::new() };
                let state = TableState { committed: Epoch(committed), pending, ..TableState::default() };
                manifest.tables.insert("t".to_owned(), state);
            })
        };
        let stepped_over = edit(manifest(3, 30, &["w"]), |manifest| manifest.parent = Some(1));
        let cases: Vec<(&str, String, &str)> = vec![
            (
                "the newest manifest is about to commit: rolled forward, and started from",
                decided(11, vec![manifest(1, 10, &["w"]), counting(2, 20, 5, true)], &[], &both()),
                "2@20 newest 2 next 3 rebuild []",
            ),
            (
                "the newest manifest is about to commit files of a content that was taken back: not rolled forward",
                decided(
                    11,
                    vec![manifest(1, 10, &["w"]), counting(2, 20, 5, true)],
                    &[],
                    &[FoundTable { generation: 1, ..same("t", 0) }, same("raw", 0)],
                ),
                "1@10 newest 2 next 3 rebuild []",
            ),
            (
                "a replaced process committed a part of it, late: what is left comes again from the log",
                decided(11, vec![manifest(1, 10, &["w"]), counting(2, 20, 4, true)], &[], &both()),
                "1@10 newest 2 next 3 rebuild []",
            ),
            (
                "a table that lost a commit is filled from the checkpoint before",
                decided(11, vec![manifest(1, 10, &["w"]), counting(2, 20, 15, false)], &[], &both()),
                "1@10 newest 2 next 3 rebuild []",
            ),
            (
                "a manifest that was stepped over, and then the newest is damaged",
                decided(
                    11,
                    vec![manifest(1, 10, &["w"]), manifest(2, 20, &["w"]), stepped_over],
                    &[(3, "damaged")],
                    &both(),
                ),
                "1@10 newest 3 next 4 rebuild []",
            ),
            (
                "a fresh folder",
                decided(1, vec![], &[], &[on("t", Found::New)]),
                "beginning newest - next 1 rebuild [t]",
            ),
            (
                "killed before the first checkpoint",
                decided(1, vec![], &[], &both()),
                "beginning newest - next 1 rebuild []",
            ),
            ("the newest checkpoint", decided(11, three(), &[], &both()), "3@30 newest 3 next 4 rebuild []"),
            (
                "a manifest that only commits builds on a checkpoint",
                decided(11, [three(), vec![refers]].concat(), &[], &both()),
                "3@30 newest 4 next 5 rebuild []",
            ),
            (
                "a damaged newest manifest: the one before",
                decided(11, vec![manifest(1, 10, &["w"]), manifest(2, 20, &["w"]), damage(3)], &[], &both()),
                "2@20 newest 2 next 4 rebuild []",
            ),
            (
                "damaged state of the newest: the one before",
                decided(11, three(), &[(3, "pack damaged")], &both()),
                "2@20 newest 3 next 4 rebuild []",
            ),
            (
                "all damaged, the log whole: all of it",
                decided(1, vec![damage(1), damage(2)], &[], &both()),
                "beginning newest - next 3 rebuild []",
            ),
            (
                "the log does not reach behind an older checkpoint",
                decided(21, three(), &[(3, "pack damaged")], &both()),
                "2@20 newest 3 next 4 rebuild []",
            ),
            (
                "a changed view is rebuilt from the oldest start, and the other goes on",
                decided(11, three(), &[], &[changed.clone(), same("raw", 0)]),
                "1@10 newest 3 next 4 rebuild [t]",
            ),
            (
                "a plain view that was away for a while goes on if the log reaches where it ended",
                decided(
                    4,
                    [manifest(1, 3, &["w"]), manifest(2, 20, &["w"])]
                        .map(|found| edit(found, |manifest| drop(manifest.tables.remove("raw"))))
                        .into(),
                    &[],
                    &both(),
                ),
                "1@3 newest 2 next 3 rebuild []",
            ),
            (
                "and is filled again if it does not",
                decided(
                    11,
                    three()
                        .into_iter()
                        .map(|found| edit(found, |manifest| drop(manifest.tables.remove("raw"))))
                        .collect(),
                    &[],
                    &both(),
                ),
                "1@10 newest 3 next 4 rebuild [raw]",
            ),
            (
                "a changed view, the log whole: from the beginning",
                decided(1, three(), &[], &[changed.clone(), same("raw", 0)]),
                "beginning newest 3 next 4 rebuild [t]",
            ),
            (
                "a new view, where the other began later: only as far back as the other can go on",
                decided(
                    1,
                    vec![without_t(1, 10), with_late_t(2, 20, 10), with_late_t(3, 30, 10)],
                    &[],
                    &[same("t", 10), on("raw", Found::New)],
                ),
                // At 10 it begins with nothing, as it did the first time.
                "1@10 newest 3 next 4 rebuild [raw]",
            ),
            (
                "killed while a view was rebuilt: the same rebuild goes on",
                decided(11, vec![without_t(1, 10)], &[], &[same("t", 10), same("raw", 0)]),
                "1@10 newest 1 next 2 rebuild []",
            ),
            (
                "a view that was away for a while goes on where it ended",
                decided(11, vec![manifest(1, 10, &["w"]), without_t(2, 20)], &[], &both()),
                "1@10 newest 2 next 3 rebuild []",
            ),
            (
                "but not if it still lacks what was decided for it there",
                decided(
                    11,
                    vec![
                        edit(manifest(1, 10, &["w"]), |manifest| {
                            let committable = Committable { version: 1, body: String::new(), summary: String::new() };
                            manifest.tables.get_mut("t").expect("known").pending.push(committable);
                        }),
                        without_t(2, 20),
                    ],
                    &[],
                    &both(),
                ),
                "1@10 newest 2 next 3 rebuild [t]",
            ),
            (
                "state that a checkpoint does not have",
                decided(11, vec![manifest(1, 10, &["other"])], &[], &both()),
                "1@10 newest 1 next 2 rebuild [t]",
            ),
            (
                "a table that has lost what the newest checkpoints count on: the one before, if it does not",
                decided(11, vec![manifest(1, 10, &["w"]), counts_on(2, 20, 6), counts_on(3, 30, 19)], &[], &both()),
                "1@10 newest 3 next 4 rebuild []",
            ),
            (
                "a commit that is decided in the newest manifest counts once it is rolled forward",
                decided(11, vec![manifest(1, 10, &["w"]), decides(2, 20)], &[], &both()),
                "2@20 newest 2 next 3 rebuild []",
            ),
            (
                "and one that was decided earlier has been made since",
                decided(11, vec![manifest(1, 10, &["w"]), decides(2, 20), refers_to(3, 2)], &[], &both()),
                "1@10 newest 3 next 4 rebuild []",
            ),
            (
                "somebody went back to epoch 10",
                decided(11, [three(), vec![back.clone()]].concat(), &[], &both()),
                "1@10 newest 4 next 5 rebuild []",
            ),
            (
                "and went on from there",
                decided(11, [three(), vec![back, later]].concat(), &[(5, "pack damaged")], &both()),
                "1@10 newest 5 next 6 rebuild []",
            ),
        ];
        for (case, found, expected) in cases {
            assert_eq!(found, expected, "{case}");
        }
        let refusals: Vec<(&str, String, &[&str])> = vec![
            ("a newer version", decided(1, [three(), vec![newer]].concat(), &[], &both()), &["a newer program"]),
            (
                "all damaged, the log shrunk",
                decided(11, vec![damage(1), damage(2)], &[], &both()),
                &[
                    "manifest 1 is damaged; manifest 2 is damaged",
                    "reaches back only to epoch 11",
                    "Nothing was changed",
                ],
            ),
            (
                "a table older than all checkpoints",
                decided(11, vec![counts_on(1, 10, 9), counts_on(2, 20, 19)], &[], &both()),
                &[
                    "table t has rows up to epoch 5 only",
                    "the checkpoint of epoch 10 counts on epoch 9",
                    "Nothing was changed",
                ],
            ),
            ("no checkpoints, the log shrunk", decided(11, vec![], &[], &both()), &["no checkpoint is there"]),
            (
                "another log",
                decided(1, vec![edit(manifest(1, 1, &[]), |m| m.log_id = "other".to_owned())], &[], &both()),
                &["belong to the log other"],
            ),
        ];
        for (case, found, expected) in refusals {
            for words in expected {
                assert!(found.starts_with("refuse: ") && found.contains(words), "{case}: {found}");
            }
        }
    }
}
