//! Tables, in words.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;
use tidemill::assemble::instant;
use tidemill::{Error, Result};
use tidemill_connectors::table::{self, Checksums, FileState, OrphanKind, TableDescription, TableError};
use tidemill_engine::error::with_causes;
use tidemill_engine::storage::LocalStorage;
use tidemill_queries::history::{History, TableLocation};

use super::Found;
use crate::commands::words::{bytes, count, grouped};

/// Files that are listed of one table; the rest is counted.
const FILES_LISTED_MAX: usize = 20;

pub(super) fn look(data: &Path, name: Option<&str>, verify: bool) -> Result<Found> {
    let history = History::discover(data).map_err(|error| Error::Environment(with_causes(&error)))?;
    let known: Vec<TableLocation> = history.catalog(data).tables.iter().map(|table| table.locate(data)).collect();
    if known.is_empty() {
        return Ok(super::nothing("table", data, Value::Array(Vec::new())));
    }
    let chosen: Vec<&TableLocation> = known.iter().filter(|table| name.is_none_or(|name| table.name == name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = known.iter().map(|table| table.name.as_str()).collect();
        return Err(Error::Input(format!(
            "there is no table {} in {}; there are {}",
            name.unwrap_or_default(),
            data.display(),
            names.join(", ")
        )));
    }
    let checksums = if verify { Checksums::Verify } else { Checksums::Skip };
    let mut found = Found { text: String::new(), json: Value::Null, damage: Vec::new() };
    let mut all = Vec::new();
    for table in chosen {
        all.push(add(&mut found, table, checksums)?);
    }
    found.json = Value::Array(all);
    Ok(found)
}

/// Adds a table's words; returns it for programs.
fn add(found: &mut Found, table: &TableLocation, checksums: Checksums) -> Result<Value> {
    let (name, path) = (&table.name, table.dir.display());
    let described = match (table.dir.parent(), table.dir.file_name().and_then(|name| name.to_str())) {
        (Some(parent), Some(dir)) if parent.is_dir() => {
            table::describe(&LocalStorage::existing(parent)?, dir, checksums)
        }
        _ => Ok(None),
    };
    let described = match described {
        Ok(Some(described)) => described,
        Ok(None) => {
            let _ = writeln!(found.text, "table {name}  nothing is there yet  {path}");
            return Ok(serde_json::json!({ "name": name, "path": table.dir, "version": null }));
        }
        Err(error @ TableError::Damaged { .. }) => {
            let _ = writeln!(found.text, "table {name}  DAMAGED  {path}\n  {error}");
            found.damage.push(format!("table {name}: {error}"));
            return Ok(serde_json::json!({ "name": name, "path": table.dir, "damaged": error.to_string() }));
        }
        Err(error) => return Err(Error::Environment(format!("table {name}: {}", with_causes(&error)))),
    };
    describe(found, table, &described);
    let mut json = serde_json::to_value(&described).expect("a description is texts and numbers");
    json["name"] = name.clone().into();
    json["path"] = table.dir.to_string_lossy().into();
    Ok(json)
}

fn describe(found: &mut Found, table: &TableLocation, described: &TableDescription) {
    let text = &mut found.text;
    let _ = writeln!(text, "table {}  version {}  {}", table.name, described.version, table.dir.display());
    let _ = writeln!(
        text,
        "  {} in {}, {}",
        count(described.rows as usize, "row"),
        count(described.files.len(), "file"),
        bytes(described.bytes)
    );
    let base = match described.base {
        0 => "from the beginning of the log".to_owned(),
        base => format!("from behind epoch {base}"),
    };
    let generation = match described.generation {
        0 => "never replaced".to_owned(),
        generation => format!("generation {generation}: its content was replaced, or taken back, so often"),
    };
    let _ = writeln!(text, "  {base}, up to epoch {}; {generation}", described.last_committed);
    if let Some(app_id) = &described.app_id {
        let _ = writeln!(text, "  filled by {app_id}");
    }
    for file in described.files.iter().take(FILES_LISTED_MAX) {
        let epochs = match (file.lo_epoch, file.hi_epoch) {
            (Some(lo), Some(hi)) => format!("epochs {lo} to {hi}"),
            _ => "of another program".to_owned(),
        };
        let rows = file.rows.map_or_else(|| "unknown rows".to_owned(), |rows| count(rows as usize, "row"));
        let state = match &file.state {
            FileState::Present => "",
            FileState::Whole => ", whole",
            FileState::WithoutChecksum => ", readable, without a checksum",
            FileState::Missing => ", MISSING",
            FileState::Damaged(_) => ", DAMAGED",
        };
        let _ = writeln!(text, "    {}  {epochs}, {rows}, {}{state}", file.path, bytes(file.bytes));
    }
    if described.files.len() > FILES_LISTED_MAX {
        let more = grouped((described.files.len() - FILES_LISTED_MAX) as u64);
        let _ = writeln!(text, "    and {more} more (--format json has all)");
    }
    left_over(text, described);
    let log = &described.log;
    let _ = writeln!(
        text,
        "  its log: {} from {} on, {}, {}",
        count(log.versions, "version"),
        log.first_version.unwrap_or(0),
        bytes(log.bytes),
        count(log.checkpoints.len(), "checkpoint")
    );
    if let Some(problem) = &log.newest_checkpoint_problem {
        let _ = writeln!(text, "  readers look for its newest checkpoint themselves: {problem}");
    }
    for file in &described.files {
        let path = table.dir.join(&file.path);
        match &file.state {
            FileState::Missing => found.damage.push(format!("{}: the file is missing", path.display())),
            FileState::Damaged(what) => found.damage.push(format!("{}: {what}", path.display())),
            FileState::Present | FileState::Whole | FileState::WithoutChecksum => {}
        }
    }
    for checkpoint in &log.checkpoints {
        if let FileState::Damaged(what) = &checkpoint.state {
            found.damage.push(format!("table {}, checkpoint of version {}: {what}", table.name, checkpoint.version));
        }
    }
}

/// Files that are on disk and not in the table.
fn left_over(text: &mut String, described: &TableDescription) {
    if !described.removed.is_empty() {
        let size = described.removed.iter().map(|file| file.bytes).sum();
        let last = described.removed.iter().filter_map(|file| file.deletable_at_ms).max();
        let until =
            last.map_or_else(String::new, |at_ms| format!(", the last one may go at {}", instant(at_ms * 1000)));
        let _ = writeln!(
            text,
            "  {} taken out and still there for readers of older versions, {}{until}",
            count(described.removed.len(), "file"),
            bytes(size)
        );
    }
    for (kind, what) in [
        (OrphanKind::Pending, "prepared for a commit to come"),
        (OrphanKind::Abandoned, "left by a crash; they will be deleted"),
        (OrphanKind::Unknown, "of another program; they stay"),
    ] {
        let orphans: Vec<_> = described.orphans.iter().filter(|orphan| orphan.kind == kind).collect();
        if !orphans.is_empty() {
            let size = orphans.iter().map(|orphan| orphan.bytes).sum();
            let _ = writeln!(text, "  {} {what}, {}", count(orphans.len(), "file"), bytes(size));
        }
    }
}
