//! `tidemill restore`: back to an older checkpoint.

use std::fmt::Write as _;

use serde_json::{Value, json};
use tidemill::Result;
use tidemill::assemble::{self, Folder, Restored};
use tidemill_engine::epoch::Epoch;

use crate::cli::{OutputFormat, RestoreArgs};
use crate::commands::words::count;
use crate::commands::{answer, existing_folder, settings};
use crate::config::Config;

/// Files that are named for each table; the rest is counted.
const FILES_SHOWN_MAX: usize = 10;

/// Goes back, and says what was taken out of which table.
pub(crate) fn restore(args: RestoreArgs, config: &Config, format: OutputFormat) -> Result<()> {
    let data = args.data.unwrap_or_else(|| config.data.clone());
    // A folder that is not there is a mistake in the command, and not to be made.
    existing_folder(&data)?;
    let folder = Folder::open(&data)?;
    let restored = assemble::restore(&folder, Epoch(args.to), &settings(config))?;
    match format {
        OutputFormat::Json => answer(format!("{:#}\n", to_json(&restored)).as_bytes()),
        OutputFormat::Table | OutputFormat::Csv => answer(describe(&restored, &folder).as_bytes()),
    }
}

fn describe(restored: &Restored, folder: &Folder) -> String {
    let mut text = String::new();
    let (data, epoch) = (folder.path().display(), restored.epoch);
    let Some(manifest) = restored.manifest else {
        return format!(
            "{data}: it is at epoch {epoch} already, and no table has anything behind it; nothing was changed\n"
        );
    };
    let _ = writeln!(text, "{data}: back at epoch {epoch}, by manifest {manifest}");
    for table in &restored.tables {
        let path = table.path.display();
        if table.removed.is_empty() {
            let _ = writeln!(text, "  table {}  nothing was behind it  {path}", table.name);
            continue;
        }
        let files = count(table.removed.len(), "file");
        let _ =
            writeln!(text, "  table {}  {files} taken out, its last epoch is {}  {path}", table.name, table.committed);
        for file in table.removed.iter().take(FILES_SHOWN_MAX) {
            let _ = writeln!(text, "    {file}");
        }
        if let Some(more) = table.removed.len().checked_sub(FILES_SHOWN_MAX).filter(|more| *more > 0) {
            let _ = writeln!(text, "    and {more} more");
        }
    }
    for (table, why) in &restored.kept {
        let _ = writeln!(text, "  table {table}  stays as it is: {why}");
    }
    text + "The files stay on disk for 24 hours. The next start continues from this checkpoint and replays the log behind \
            it:\nnothing that was acknowledged is lost, and the rows that were taken out are computed again.\n"
}

fn to_json(restored: &Restored) -> Value {
    json!({
        "epoch": restored.epoch,
        "changed": restored.manifest.is_some(),
        "manifest": restored.manifest,
        "tables": restored.tables.iter().map(|table| json!({
            "name": table.name, "path": table.path, "committed": table.committed, "generation": table.generation,
            "removed": table.removed,
        })).collect::<Vec<_>>(),
        "kept": restored.kept.iter().map(|(name, why)| json!({"name": name, "why": why})).collect::<Vec<_>>(),
    })
}
