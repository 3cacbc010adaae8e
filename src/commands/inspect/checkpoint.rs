//! Checkpoints and the decisions between them, in words.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tidemill::assemble::instant;
use tidemill::{Error, Result};
use tidemill_engine::checkpoint::{
    Checkpoint, CheckpointError, FoundCheckpoint, FoundLog, FoundManifest, From, Holds, Manifest, Part, Store,
    possible_starts,
};
use tidemill_engine::epoch::Epoch;
use tidemill_engine::error::with_causes;
use tidemill_engine::ingest;
use tidemill_engine::runtime::LOG_FOLDER;
use tidemill_engine::storage::{LocalStorage, Storage};
use tidemill_engine::time::Watermark;

use super::Found;
use crate::commands::words::{bytes, count, grouped};

/// How often it is read again when it changes meanwhile.
const ATTEMPTS_MAX: usize = 4;

pub(super) fn look(data: &Path, number: Option<&str>) -> Result<Found> {
    let number: Option<u64> = match number.map(str::parse) {
        None => None,
        Some(Ok(number)) => Some(number),
        Some(Err(_)) => {
            return Err(Error::Input("a checkpoint has a number: say tidemill inspect checkpoint 7".into()));
        }
    };
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::existing(data)?);
    let store = Store::new(Arc::clone(&storage));
    let mut seen = Seen::of(&storage, &store)?;
    for _ in 1..ATTEMPTS_MAX {
        // Another process may have removed what was read first, while the rest was read.
        if !seen.starts.is_empty() || store.numbers()? == seen.numbers {
            break;
        }
        seen = Seen::of(&storage, &store)?;
    }
    let Seen { manifests, bad, starts, log_problem, .. } = seen;
    if manifests.is_empty() {
        return Ok(super::nothing("checkpoint", data, json!({ "manifests": [], "start": null })));
    }
    if let Some(number) = number.filter(|number| !manifests.contains_key(number)) {
        let there: Vec<String> = manifests.keys().map(u64::to_string).collect();
        return Err(Error::Input(format!("there is no checkpoint {number}; there are {}", there.join(", "))));
    }

    let mut found = Found { text: String::new(), json: Value::Null, damage: Vec::new() };
    let mut shown = Vec::new();
    for (of, manifest) in manifests.iter().filter(|(of, _)| number.is_none_or(|number| number == **of)) {
        match manifest {
            FoundManifest::Whole(manifest) => {
                let usable =
                    starts.iter().any(|start| matches!(start, From::Checkpoint { number, .. } if number == of));
                let damage = bad.get(of).map(String::as_str);
                describe(&mut found.text, manifest, damage, usable);
                shown.push(to_json(manifest, damage, usable));
                found.damage.extend(damage.map(str::to_owned));
            }
            FoundManifest::Damaged(what) => {
                let _ = writeln!(found.text, "manifest {of}  DAMAGED: {what}");
                shown.push(json!({ "number": of, "damaged": what }));
                found.damage.push(what.clone());
            }
            FoundManifest::Newer(what) => {
                let _ = writeln!(found.text, "manifest {of}  {what}");
                shown.push(json!({ "number": of, "newer": what }));
            }
        }
    }
    let start = starts.last().copied();
    let words = match (&log_problem, start) {
        (Some(problem), _) => {
            found.damage.push(problem.clone());
            format!("a start is refused: {problem}")
        }
        (None, None) => {
            found.damage.push("no checkpoint can be used, and the log does not reach back to its beginning".to_owned());
            "a start is refused: no checkpoint can be used, and the log does not reach back to its beginning".to_owned()
        }
        (None, Some(From::Beginning)) => "a start reads the log from its beginning".to_owned(),
        (None, Some(From::Checkpoint { number, epoch })) => {
            format!("a start goes on from checkpoint {number}, behind epoch {epoch}, and reads the log from there")
        }
    };
    let _ = writeln!(found.text, "{words}");
    let start = match start {
        Some(From::Checkpoint { number, epoch }) => json!({ "number": number, "epoch": epoch }),
        Some(From::Beginning) => json!({ "number": 0, "epoch": 0 }),
        None => Value::Null,
    };
    found.json = json!({ "manifests": shown, "start": start, "words": words });
    Ok(found)
}

/// What is there, and what a start would do with it.
struct Seen {
    numbers: Vec<u64>,
    manifests: BTreeMap<u64, FoundManifest>,
    bad: FoundCheckpoint,
    starts: Vec<From>,
    log_problem: Option<String>,
}

impl Seen {
    fn of(storage: &Arc<dyn Storage>, store: &Store) -> Result<Seen> {
        let numbers = store.numbers()?;
        let manifests = store.read_all().map_err(|error| Error::Environment(with_causes(&error)))?;
        let (bad, manifests) = check_parts(store, manifests)?;
        let (log, log_problem) = match ingest::describe(&**storage, LOG_FOLDER) {
            Ok(Some(log)) => {
                let first = log.segments.first().map_or(Epoch::FIRST, |segment| segment.first_epoch);
                (Some(FoundLog { id: log.log_id, first }), None)
            }
            Ok(None) => (None, Some("there is no ingest log".to_owned())),
            Err(error) => (None, Some(with_causes(&error))),
        };
        let starts = log.as_ref().map_or_else(Vec::new, |log| possible_starts(log, &manifests, &bad));
        Ok(Seen { numbers, manifests, bad, starts, log_problem })
    }
}

/// Reads every part of every checkpoint. What another process has removed meanwhile is not there.
fn check_parts(
    store: &Store,
    mut manifests: BTreeMap<u64, FoundManifest>,
) -> Result<(FoundCheckpoint, BTreeMap<u64, FoundManifest>)> {
    let mut bad = BTreeMap::new();
    let mut gone = Vec::new();
    for (number, found) in &manifests {
        let FoundManifest::Whole(manifest) = found else { continue };
        let Some(checkpoint) = manifest.checkpoint() else { continue };
        match store.read_parts(checkpoint.parts()) {
            Ok(_) => {}
            Err(error @ CheckpointError::Damaged { .. }) => {
                let there = store.numbers().map_err(Error::from)?;
                if there.contains(number) {
                    bad.insert(*number, error.to_string());
                } else {
                    gone.push(*number);
                }
            }
            Err(error) => return Err(Error::Environment(with_causes(&error))),
        }
    }
    manifests.retain(|number, _| !gone.contains(number));
    Ok((bad, manifests))
}

fn describe(text: &mut String, manifest: &Manifest, damage: Option<&str>, usable: bool) {
    let _ = writeln!(
        text,
        "manifest {}  epoch {}  {}  by start {} of the program",
        manifest.number,
        manifest.epoch,
        instant(manifest.made_us),
        manifest.incarnation
    );
    if let Some(epoch) = manifest.rewound_to {
        let _ = writeln!(text, "  somebody went back: what came behind epoch {epoch} was abandoned in all tables");
    }
    match &manifest.holds {
        Holds::Refers(0) => {
            let _ = writeln!(text, "  decides commits only; builds on the beginning of the log");
        }
        Holds::Refers(number) => {
            let _ = writeln!(text, "  decides commits only; builds on checkpoint {number}");
        }
        Holds::Checkpoint(checkpoint) => {
            let use_ = match (damage, usable) {
                (Some(what), _) => format!("DAMAGED: {what}"),
                (None, true) => "whole".to_owned(),
                (None, false) => {
                    "whole, but a start cannot use it: it was abandoned, or the log begins later".to_owned()
                }
            };
            let (size, packs) = size_of(checkpoint);
            let _ =
                writeln!(text, "  holds a checkpoint: {} of state in {}, {use_}", bytes(size), count(packs, "pack"));
            describe_state(text, checkpoint);
        }
    }
    for (name, table) in &manifest.tables {
        let pending = match table.pending.len() {
            0 => String::new(),
            files => format!(", {} decided for epoch {}", count(files, "file"), manifest.epoch),
        };
        let base =
            if table.base == Epoch::NONE { String::new() } else { format!(", rows from behind epoch {}", table.base) };
        let generation =
            table.generation.map_or_else(String::new, |generation| format!(", generation {generation} from here on"));
        let _ =
            writeln!(text, "    table {name}  committed up to epoch {}{pending}{base}{generation}", table.committed);
    }
}

fn describe_state(text: &mut String, checkpoint: &Checkpoint) {
    let _ = writeln!(
        text,
        "    log  behind epoch {} of {}, the next message is number {}; {}",
        checkpoint.epoch,
        instant(checkpoint.sealed_us),
        grouped(checkpoint.next_offset),
        count(checkpoint.partitions.len(), "partition")
    );
    for source in checkpoint.sources.values() {
        let watermark =
            source.fold.as_ref().map_or_else(|| "no event time".to_owned(), |fold| watermark(fold.clone().close()));
        let _ = writeln!(
            text,
            "    source {}  {watermark}; {}, {}, {} dead, {} from the future",
            source.name,
            count(source.messages as usize, "message"),
            count(source.rows as usize, "row"),
            grouped(source.dead),
            grouped(source.quarantined)
        );
    }
    for dedup in checkpoint.dedups.values() {
        let keys: u64 = dedup.stretches.iter().map(|piece| piece.part.rows).sum();
        let _ = writeln!(
            text,
            "    dedup of {}  {}; {} remembered in {}; so far {} taken, {}, {} too old to tell",
            dedup.name,
            watermark(dedup.watermark),
            count(keys as usize, "key"),
            count(dedup.stretches.len(), "part"),
            grouped(dedup.taken),
            count(dedup.repeats as usize, "repeat"),
            grouped(dedup.late)
        );
    }
    for window in checkpoint.windows.values() {
        let starts: BTreeSet<i64> = window.panes.iter().map(|pane| pane.start_us).collect();
        let keys: u64 = window.panes.iter().map(|pane| pane.part.rows).sum();
        let _ = writeln!(
            text,
            "    window {}  {}; {} open with {}; so far {}, {} late, {}",
            window.name,
            watermark(window.watermark),
            count(starts.len(), "pane"),
            count(keys as usize, "key"),
            count(window.rows as usize, "row"),
            grouped(window.late),
            count(window.results as usize, "result")
        );
    }
    for (table, buffers) in &checkpoint.buffers {
        let rows: u64 = buffers.iter().map(|buffer| buffer.part.rows).sum();
        let _ = writeln!(text, "    table {table}  {} in no file yet", count(rows as usize, "row"));
    }
}

fn watermark(watermark: Watermark) -> String {
    match watermark {
        Watermark::UNKNOWN => "watermark unknown".to_owned(),
        Watermark::END => "input ended".to_owned(),
        Watermark(us) => format!("watermark {}", instant(us)),
    }
}

/// Returns the bytes of all parts, and the number of packs.
fn size_of(checkpoint: &Checkpoint) -> (u64, usize) {
    let parts: BTreeSet<(&str, u64, u64)> =
        checkpoint.parts().map(|Part { file, offset, length, .. }| (file.as_str(), *offset, *length)).collect();
    (parts.iter().map(|(_, _, length)| length).sum(), checkpoint.packs().len())
}

fn to_json(manifest: &Manifest, damage: Option<&str>, usable: bool) -> Value {
    let mut json = serde_json::to_value(manifest).expect("a manifest is texts and numbers");
    json["made"] = instant(manifest.made_us).into();
    if let Some(checkpoint) = manifest.checkpoint() {
        let (size, packs) = size_of(checkpoint);
        json["state_bytes"] = size.into();
        json["packs"] = packs.into();
        json["damaged"] = damage.into();
        json["usable"] = usable.into();
    }
    json
}
