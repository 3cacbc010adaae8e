//! The test of the test: a debug build that is asked to loses rows that were committed, and the verdict must find it.

use std::path::Path;

use serde_json::{Value, json};
use tidemill::{Error, Result};
use tidemill_engine::storage::{LocalStorage, Storage};
use tidemill_queries::history::TABLES_FOLDER;

use super::pipeline::UnderTest;

/// Asks for it.
const VARIABLE: &str = "TIDEMILL_VERIFY_LOSES_A_COMMIT";

/// Takes the files of the newest commit out of the table with the first source's rows, in a version of its own: what
/// another program that deletes rows would leave, and what no check of a single file can notice.
pub(super) fn lose_a_commit_if_asked(data: &Path, under_test: &UnderTest) -> Result<()> {
    if std::env::var_os(VARIABLE).is_none() {
        return Ok(());
    }
    let storage = LocalStorage::existing(data)?;
    let table = under_test.sources[0].before_end();
    let log = format!("{TABLES_FOLDER}/{table}/_delta_log");
    let commits: Vec<String> = storage.list(&log)?.into_iter().map(|entry| entry.name).collect();
    let mut commits = commits.iter().rev().filter_map(|name| name.strip_suffix(".json")?.parse::<u64>().ok());
    let newest = commits.clone().next();
    let nothing = || Error::Environment(format!("{VARIABLE}: there is no commit yet to lose; say more --seconds"));
    let removes = commits.find_map(|version| {
        let text = storage.get(&format!("{log}/{version:020}.json")).ok()?;
        let actions = String::from_utf8_lossy(&text).into_owned();
        let actions = actions.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let removes: Vec<String> = actions
            .filter_map(|action| action["add"]["path"].as_str().map(str::to_owned))
            .map(|path| json!({ "remove": { "path": path, "deletionTimestamp": 0, "dataChange": true } }).to_string())
            .collect();
        (!removes.is_empty()).then_some(removes)
    });
    let (Some(newest), Some(removes)) = (newest, removes) else { return Err(nothing()) };
    let path = format!("{log}/{:020}.json", newest + 1);
    Ok(storage.put_new(&path, (removes.join("\n") + "\n").as_bytes())?)
}
