//! Restore: going back to an older checkpoint, as one decision.
//!
//! ```text
//!   manifests    3 @20    4 @30    5 commits 35    6 rewound_to 20, refers to 3     ◄── the decision, written once
//!   tables       e10 e20           e30 e35         e10 e20, generation + 1          ◄── finished by whoever comes next
//!   next start                                     from checkpoint 3, the log behind epoch 20 is replayed
//! ```
//! The tables are a function of the log, so what is taken out is computed again: by a view that was repaired, or by
//! another version of the program. Nothing that was acknowledged is lost, since a checkpoint that the log does not reach
//! any more is not offered.
//!
//! The manifest names each table's next generation. A process that dies between it and the last table leaves tables
//! behind whose generation is smaller, and [`finish`] takes them there before anybody else uses the folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use tidemill_connectors::table::{self, Checksums, Rewind, TableDescription};
use tidemill_engine::checkpoint::{
    CheckpointError, FoundLog, FoundManifest, From, Holds, Manifest, Store, TableState, possible_starts,
};
use tidemill_engine::clock::Clock;
use tidemill_engine::epoch::Epoch;
use tidemill_engine::error::with_causes;
use tidemill_engine::fence::Incarnation;
use tidemill_engine::ingest::{Log, LogOptions};
use tidemill_engine::runtime::LOG_FOLDER;
use tidemill_engine::storage::{LocalStorage, Storage};
use tidemill_queries::history::{Catalog, TABLES_FOLDER};

use super::{Folder, Settings, instant};
use crate::{Error, Result};

/// What a restore did.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The epoch that it went back to.
    pub epoch: Epoch,
    /// The manifest that decides it; `None` if everything was there already.
    pub manifest: Option<u64>,
    /// The tables that went back.
    pub tables: Vec<RestoredTable>,
    /// Tables that stay as they are, and why.
    pub kept: Vec<(String, String)>,
}

/// A table that went back.
#[derive(Clone, Debug)]
pub struct RestoredTable {
    /// Its name.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// The last epoch that is in its files.
    pub committed: Epoch,
    /// Its generation from now on.
    pub generation: u64,
    /// The files that were taken out of it, in its folder.
    pub removed: Vec<String>,
}

/// Where a table lies.
struct Place {
    path: PathBuf,
    storage: Arc<dyn Storage>,
    dir: String,
}

/// A place to go back to.
struct Target<'a> {
    epoch: Epoch,
    /// The manifest with the checkpoint; `None` is the beginning of the log.
    manifest: Option<&'a Manifest>,
}

/// What becomes of a table.
enum Verdict {
    Rewind(RestoredTable),
    Keep(String),
}

/// Goes back to the checkpoint of an epoch; 0 is the beginning of the log. Blocking.
///
/// # Errors
/// Without such a checkpoint, says which there are, and changes nothing.
pub fn restore(folder: &Folder, to: Epoch, settings: &Settings) -> Result<Restored> {
    let storage = folder.storage();
    if storage.list(LOG_FOLDER)?.is_empty() {
        return Err(Error::Input(format!(
            "there is no ingest log in {}, so there is nothing to go back to: is this the data folder of a pipeline?",
            folder.path().display()
        )));
    }
    // Before anything is read that an earlier process may still write.
    let incarnation = Incarnation::claim(&storage, &*settings.clock)?;
    let store = Store::new(Arc::clone(&storage));
    store.sync()?;
    let replay = Log::open(Arc::clone(&storage), LOG_FOLDER, &*settings.dice, LogOptions::default())
        .map_err(|error| Error::Environment(with_causes(&error)))?;
    let log = FoundLog { id: format!("{:032x}", replay.log_id()), first: replay.reach().first };
    let manifests = store.read_all().map_err(|error| Error::Environment(with_causes(&error)))?;
    refuse_others(&log, &manifests)?;
    let target = target(&store, &log, &manifests, to)?;

    let places = places(folder, target.manifest)?;
    let (mut restored, mut kept, mut new_rows) = (Vec::new(), Vec::new(), false);
    for (name, place) in &places {
        let Some(found) = place.describe(name)? else { continue };
        new_rows |= found.last_committed > to.0;
        match judge(&target, &log.id, name, place, &found)? {
            Verdict::Rewind(table) => restored.push((table, found.base)),
            Verdict::Keep(why) => kept.push((name.clone(), why)),
        }
    }
    let newest = newest(&manifests);
    let number = target.manifest.map_or(0, |manifest| manifest.number);
    if newest.is_none_or(|newest| newest.number == number || newest.rewound_to == Some(to)) && !new_rows {
        return Ok(Restored { epoch: to, manifest: None, tables: Vec::new(), kept: Vec::new() });
    }

    let state = |(table, base): &(RestoredTable, u64)| TableState {
        base: Epoch(*base),
        committed: table.committed,
        pending: Vec::new(),
        generation: Some(table.generation),
    };
    let manifest = Manifest {
        version: Manifest::VERSION,
        number: manifests.last_key_value().map_or(1, |(number, _)| number + 1),
        incarnation: incarnation.number(),
        parent: newest.map(|newest| newest.number),
        log_id: log.id.clone(),
        made_us: settings.clock.now_us(),
        epoch: to,
        holds: Holds::Refers(number),
        tables: restored.iter().map(|known| (known.0.name.clone(), state(known))).collect(),
        rewound_to: Some(to),
    };
    // Who was replaced decides nothing more.
    incarnation.check().map_err(|error| Error::Environment(with_causes(&error)))?;
    let manifest = store.write(manifest).map_err(|error| Error::Environment(with_causes(&error)))?;
    rewind_tables(&manifest, &places, &*settings.clock)?;
    let tables = restored.into_iter().map(|(table, _)| table).collect();
    Ok(Restored { epoch: to, manifest: Some(manifest.number), tables, kept })
}

/// Finishes a restore that a crash has interrupted. Does nothing else.
pub(super) fn finish(folder: &Folder, clock: &dyn Clock) -> Result<()> {
    let store = Store::new(folder.storage());
    for number in store.numbers()?.into_iter().rev() {
        let manifest = match store.read(number) {
            Ok(manifest) => manifest,
            // What cannot be read is judged by the start.
            Err(CheckpointError::Damaged { .. }) => continue,
            Err(CheckpointError::Newer { .. }) => return Ok(()),
            Err(error) => return Err(Error::Environment(with_causes(&error))),
        };
        if manifest.rewound_to.is_none() {
            return Ok(());
        }
        // The decision may be visible and not yet durable.
        store.sync()?;
        return rewind_tables(&manifest, &places(folder, Some(&manifest))?, clock);
    }
    Ok(())
}

fn rewind_tables(manifest: &Manifest, places: &BTreeMap<String, Place>, clock: &dyn Clock) -> Result<()> {
    let Some(to) = manifest.rewound_to else { return Ok(()) };
    for (name, state) in &manifest.tables {
        let (Some(generation), Some(place)) = (state.generation, places.get(name)) else { continue };
        let rewind = Rewind { job: &manifest.log_id, name, to, committed: state.committed, generation };
        let rewound = table::rewind(&*place.storage, &place.dir, rewind, clock.now_us() / 1000)?;
        if rewound.files_removed > 0 {
            tracing::info!(table = name, epoch = to.0, files = rewound.files_removed, "restored");
        }
    }
    Ok(())
}

fn refuse_others(log: &FoundLog, manifests: &BTreeMap<u64, FoundManifest>) -> Result<()> {
    for found in manifests.values() {
        match found {
            FoundManifest::Newer(what) => return Err(Error::Environment(what.clone())),
            FoundManifest::Whole(manifest) if manifest.log_id != log.id => {
                return Err(Error::Environment(format!(
                    "the checkpoints belong to the log {}, and the log in this folder is {}: nothing was changed. \
                     Restore the folder as a whole from a backup",
                    manifest.log_id, log.id
                )));
            }
            FoundManifest::Whole(_) | FoundManifest::Damaged(_) => {}
        }
    }
    Ok(())
}

fn newest(manifests: &BTreeMap<u64, FoundManifest>) -> Option<&Manifest> {
    manifests.values().rev().find_map(FoundManifest::whole)
}

/// Finds the checkpoint of an epoch, all of whose parts can be read.
fn target<'a>(
    store: &Store,
    log: &FoundLog,
    manifests: &'a BTreeMap<u64, FoundManifest>,
    to: Epoch,
) -> Result<Target<'a>> {
    let (mut possible, mut found) = (Vec::new(), None);
    for start in possible_starts(log, manifests, &BTreeMap::new()) {
        let From::Checkpoint { number, epoch } = start else {
            possible.push("0, the beginning of the log".to_owned());
            if to == Epoch::NONE {
                found = Some(Target { epoch: to, manifest: None });
            }
            continue;
        };
        let Some(FoundManifest::Whole(manifest)) = manifests.get(&number) else { continue };
        let Some(checkpoint) = manifest.checkpoint() else { continue };
        match store.read_parts(checkpoint.parts()) {
            Ok(_) => {
                possible.push(format!("{epoch} of {}", instant(manifest.made_us)));
                if epoch == to {
                    found = Some(Target { epoch, manifest: Some(manifest) });
                }
            }
            Err(CheckpointError::Damaged { path, at, why }) => {
                if epoch == to {
                    possible.push(format!("not {epoch}: {path} is damaged at byte {at}: {why}"));
                }
            }
            Err(error) => return Err(Error::Environment(with_causes(&error))),
        }
    }
    found.ok_or_else(|| {
        let choice = match possible.as_slice() {
            [] => "no checkpoint can be used at all: see tidemill inspect checkpoint".to_owned(),
            possible => format!("possible are {}", possible.join("; ")),
        };
        Error::Input(format!(
            "cannot go back to epoch {to}: there is no whole checkpoint of it. Nothing was changed; {choice}"
        ))
    })
}

/// Decides what becomes of a table. Pure.
fn judge(target: &Target<'_>, job: &str, name: &str, place: &Place, found: &TableDescription) -> Result<Verdict> {
    let to = target.epoch;
    let refuse = |why: String| Error::Environment(format!("table {name}: {why}. Nothing was changed"));
    if found.app_id.as_deref() != Some(&format!("tidemill/{job}/{name}")) {
        return Err(refuse(format!("{} is not filled from this log", place.path.display())));
    }
    let known = target.manifest.and_then(|manifest| manifest.tables.get(name));
    let committed = match known {
        Some(known) if known.base.0 == found.base => {
            // A checkpoint that was made while the log was replayed knows of commits behind it.
            let committed = if known.pending.is_empty() { known.committed.min(to) } else { to };
            if found.last_committed < committed.0 {
                let lacks = match known.pending.is_empty() {
                    true => format!(
                        "it has rows up to epoch {} only, and that checkpoint counts on epoch {committed}",
                        found.last_committed
                    ),
                    false => format!("what was decided for epoch {to} is not committed yet"),
                };
                return Err(refuse(format!(
                    "{lacks}; start the pipeline once, which commits what is missing, stop it, and try again"
                )));
            }
            committed
        }
        // It was begun there: it has no rows of before.
        _ if found.base == to.0 => to,
        _ if found.base > to.0 => {
            return Ok(Verdict::Keep(format!(
                "its rows begin behind epoch {}, later than that: the next start fills it again as far as the log reaches",
                found.base
            )));
        }
        _ => {
            return Ok(Verdict::Keep(
                "that checkpoint does not know it: the next start fills it again as far as the log reaches".to_owned(),
            ));
        }
    };
    let mut removed = Vec::new();
    for file in &found.files {
        let (Some(lo), Some(hi)) = (file.lo_epoch, file.hi_epoch) else {
            return Err(refuse(format!("{} was written by another program, so nobody knows its epochs", file.path)));
        };
        if hi <= committed.0 {
            continue;
        }
        // As after a replay whose checkpoints were behind what the table had.
        if lo <= committed.0 {
            return Err(refuse(format!(
                "{} has rows on both sides of epoch {committed}, and that checkpoint does not have those before it; \
                 choose another epoch",
                file.path
            )));
        }
        removed.push(file.path.clone());
    }
    Ok(Verdict::Rewind(RestoredTable {
        name: name.to_owned(),
        path: place.path.clone(),
        committed,
        generation: found.generation + 1,
        removed,
    }))
}

/// Returns where the tables lie: those of the catalog, every other one in the folder of tables, and those that a manifest
/// knows.
fn places(folder: &Folder, manifest: Option<&Manifest>) -> Result<BTreeMap<String, Place>> {
    let storage = folder.storage();
    let mut names: BTreeSet<String> =
        storage.list(TABLES_FOLDER)?.into_iter().filter(|entry| entry.is_dir).map(|entry| entry.name).collect();
    let mut places = BTreeMap::new();
    let catalog = Catalog::read(&*storage, folder.path()).map_err(|error| Error::Environment(with_causes(&error)))?;
    for table in catalog.iter().flat_map(|catalog| &catalog.tables) {
        let path = table.locate(folder.path()).dir;
        if path == folder.path().join(TABLES_FOLDER).join(&table.name) {
            names.insert(table.name.clone());
            continue;
        }
        let (Some(parent), Some(dir)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return Err(Error::Environment(format!("table {}: {} is not a folder", table.name, path.display())));
        };
        if !path.is_dir() {
            continue;
        }
        names.remove(&table.name);
        let (storage, dir) = (Arc::new(LocalStorage::open(parent)?), dir.to_owned());
        places.insert(table.name.clone(), Place { path, storage, dir });
    }
    let known = manifest.iter().flat_map(|manifest| manifest.tables.keys());
    names.extend(known.filter(|name| !places.contains_key(*name)).cloned());
    for name in names {
        let place = Place::inside(folder, &name);
        places.insert(name, place);
    }
    Ok(places)
}

impl Place {
    fn inside(folder: &Folder, name: &str) -> Place {
        let dir = format!("{TABLES_FOLDER}/{name}");
        Place { path: folder.path().join(&dir), storage: folder.storage(), dir }
    }

    fn describe(&self, name: &str) -> Result<Option<TableDescription>> {
        table::describe(&*self.storage, &self.dir, Checksums::Skip)
            .map_err(|error| Error::Environment(format!("table {name}: {}", with_causes(&error))))
    }
}
