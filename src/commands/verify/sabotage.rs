//! The test of the test: a debug build that is asked to loses rows that were committed, and the verdict must find it.

use std::path::Path;

use tidemill::{Error, Result};
use tidemill_engine::storage::{LocalStorage, Storage};
use tidemill_queries::history::TABLES_FOLDER;

use super::pipeline::UnderTest;

/// Asks for it.
const VARIABLE: &str = "TIDEMILL_VERIFY_LOSES_A_COMMIT";

/// Takes the files out of the newest commit of the first source's rows, as if they had never been written.
pub(super) fn lose_a_commit_if_asked(data: &Path, under_test: &UnderTest) -> Result<()> {
    if std::env::var_os(VARIABLE).is_none() {
        return Ok(());
    }
    let storage = LocalStorage::existing(data)?;
    let table = under_test.sources[0].before_end();
    let log = format!("{TABLES_FOLDER}/{table}/_delta_log");
    for entry in storage.list(&log)?.into_iter().rev().filter(|entry| entry.name.ends_with(".json")) {
        let path = format!("{log}/{}", entry.name);
        let text = String::from_utf8_lossy(&storage.get(&path)?).into_owned();
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("{\"add\"")).collect();
        if kept.len() < text.lines().count() {
            storage.put(&path, (kept.join("\n") + "\n").as_bytes())?;
            return Ok(());
        }
    }
    Err(Error::Environment(format!("{VARIABLE}: there is no commit yet to lose; say more --seconds")))
}
