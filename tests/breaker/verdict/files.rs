//! Files: each one that a version names is there, whole, with rows of the version's epochs only. Reads the Delta log by
//! itself.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

/// What was found in a table's folder.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) offences: Vec<String>,
    pub(super) versions: u64,
    /// Data files that no version names.
    pub(super) orphans: u64,
}

/// Looks at a table.
pub(super) fn look(dir: &Path) -> Found {
    let mut found = Found::default();
    let mut commits: Vec<(u64, String)> = Vec::new();
    for name in names_in(&dir.join("_delta_log")) {
        if let Some(version) = name.strip_suffix(".json").and_then(|number| number.parse().ok()) {
            let text = std::fs::read_to_string(dir.join("_delta_log").join(&name)).expect("a readable commit");
            commits.push((version, text));
        }
    }
    let mut epoch = -1;
    let mut named: BTreeMap<String, Value> = BTreeMap::new();
    for (at, (version, text)) in commits.iter().enumerate() {
        if at > 0 && commits[at - 1].0 + 1 != *version {
            found.offences.push(format!("there is no version before {version}"));
        }
        let mut actions: Vec<Value> = Vec::new();
        for line in text.lines() {
            match serde_json::from_str(line) {
                Ok(action) => actions.push(action),
                Err(error) => found.offences.push(format!("version {version}: {error}: {line}")),
            }
        }
        let before = epoch;
        epoch = actions.iter().find_map(|action| action["txn"]["version"].as_i64()).unwrap_or(epoch);
        for action in actions {
            if let Some(path) = action["add"]["path"].as_str() {
                check_epochs(&action["add"], (before, epoch), *version, &mut found.offences);
                named.insert(path.to_owned(), action["add"].clone());
            }
            // Then the version that named a row's file would not be the one that brought the row.
            if let Some(path) = action["remove"]["path"].as_str() {
                found.offences.push(format!("version {version} takes a file away, which no sink does: {path}"));
            }
        }
    }
    found.versions = commits.len() as u64;
    for (path, add) in &named {
        if let Err(problem) = check_bytes(&dir.join(path), add) {
            found.offences.push(format!("{path}: {problem}"));
        }
    }
    let data = names_in(dir).into_iter().filter(|name| name.ends_with(".parquet"));
    found.orphans = data.filter(|name| !named.contains_key(name)).count() as u64;
    found
}

/// A file of version v holds rows of the epochs behind the version before, and none above its own.
fn check_epochs(add: &Value, (before, epoch): (i64, i64), version: u64, offences: &mut Vec<String>) {
    let tag = |name: &str| add["tags"][name].as_str().and_then(|text| text.parse::<i64>().ok());
    match (tag("tidemill.lo"), tag("tidemill.hi")) {
        (Some(lo), Some(hi)) if before < lo && lo <= hi && hi <= epoch => {}
        (lo, hi) => offences.push(format!(
            "version {version} of epoch {epoch} after {before}: a file with epochs {lo:?} to {hi:?}: {}",
            add["path"]
        )),
    }
}

fn check_bytes(path: &Path, add: &Value) -> Result<(), String> {
    let bytes = std::fs::read(path).map_err(|error| format!("named, but {error}"))?;
    let size = bytes.len() as u64;
    if add["size"].as_u64() != Some(size) {
        return Err(format!("{size} bytes, not {}", add["size"]));
    }
    let crc = format!("{:08x}", crc32c::crc32c(&bytes));
    match add["tags"]["tidemill.crc32c"].as_str() {
        Some(named) if named == crc => Ok(()),
        named => Err(format!("its checksum is {crc}, not {named:?}")),
    }
}

/// Names in a folder, sorted.
fn names_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a readable folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("a readable folder").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
