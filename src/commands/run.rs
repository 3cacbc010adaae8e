//! `tidemill run`: one pipeline over bounded sources, to its end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;
use tidemill::assemble::{self, Folder, Outlets, stop_job};
use tidemill::{Error, Result};
use tidemill_connectors::outbox::OutboxStatus;
use tidemill_engine::runtime::JobStatus;
use tidemill_queries::{Pipeline, TableInfo};

use crate::cli::{OutputFormat, RunArgs};
use crate::commands::words::grouped;
use crate::commands::{STOP_MAX, answer, explain, read_and_check, settings, stop_requested, with_flags};
use crate::config::Config;

/// How long the last rows may take to leave.
const DELIVERY_MAX: Duration = Duration::from_secs(60 * 60);

/// Runs a pipeline file to the end of its sources, and says what came of it.
pub(crate) async fn run(args: RunArgs, config: Config, format: OutputFormat) -> Result<()> {
    let config = with_flags(config, args.folder);
    let (files, checked) = read_and_check(std::slice::from_ref(&args.file), &config)?;
    refuse_endless(&checked, &files[0].name)?;

    let settings = settings(&config);
    let folder = Folder::open(&config.data)?;
    let context = assemble::context(folder.storage(), &settings)?;
    let pipeline = assemble::compile(&files, &context).map_err(explain)?;
    let tables = pipeline.tables.clone();
    assemble::write_catalog(&folder, &tables)?;
    let outlets = Outlets::of(&pipeline);
    // The last rows leave while the job ends: all of them, as long as they are taken.
    outlets.sinks().iter().for_each(|sink| sink.connected.set_patience(DELIVERY_MAX));
    let sinks = outlets.open(&folder, &settings)?;
    let job = assemble::start_job(&folder, pipeline.plan, sinks, BTreeMap::new(), &settings).await?;

    let complete = tokio::select! {
        finished = job.finished() => finished.map(|()| true).map_err(Error::from),
        requested = stop_requested() => requested.map(|()| false),
    };
    outlets.sinks().iter().for_each(|sink| sink.connected.set_patience(Duration::ZERO));
    let status = job.status();
    let stopped = stop_job(&job, STOP_MAX).await;
    if !complete? {
        stopped?;
        return Err(Error::Environment("stopped before the end; run it again to continue where it stopped".into()));
    }
    stopped?;
    let outboxes = outlets.outboxes();

    eprint!("{}", summary(&files[0].name, &status, &tables, &outboxes, &folder)?);
    if format == OutputFormat::Json {
        answer(format!("{:#}\n", summary_json(&status, &tables, &outboxes, &folder)?).as_bytes())?;
    }
    Ok(())
}

fn refuse_endless(pipeline: &Pipeline, file: &str) -> Result<()> {
    let endless = assemble::unbounded_sources(&pipeline.plan);
    let named: Vec<String> = endless
        .iter()
        .map(|name| {
            let connector = pipeline.sources.iter().find(|source| source.name == *name).map(|s| s.connector.as_str());
            format!("{name} ({})", connector.unwrap_or("?"))
        })
        .collect();
    match named.as_slice() {
        [] => Ok(()),
        [one] => Err(Error::Input(format!(
            "source {one} has no end, and `run` waits for the end; use: tidemill serve {file}"
        ))),
        many => Err(Error::Input(format!(
            "sources {} have no end, and `run` waits for the end; use: tidemill serve {file}",
            many.join(", ")
        ))),
    }
}

/// Whether there was something to read, and every table held all its rows already.
fn nothing_new(status: &JobStatus) -> bool {
    status.sources.iter().any(|source| source.rows + source.dead > 0)
        && status.tables.iter().all(|table| table.rows == 0)
}

fn summary(
    file: &str,
    status: &JobStatus,
    tables: &[TableInfo],
    outboxes: &[OutboxStatus],
    folder: &Folder,
) -> Result<String> {
    let mut text = if nothing_new(status) {
        format!("{file}: nothing new: the tables had all their rows already, and none was written twice\n")
    } else {
        format!("{file}: complete\n")
    };
    for source in &status.sources {
        let _ =
            write!(text, "  source {}  {} rows in, {} dead", source.name, grouped(source.rows), grouped(source.dead));
        let more = [
            (source.quarantined, "from the future"),
            (source.nulled, "values NULL for their type"),
            (source.dropped_attributes, "attributes without a column"),
        ];
        for (count, what) in more.into_iter().filter(|(count, _)| *count > 0) {
            let _ = write!(text, ", {} {what}", grouped(count));
        }
        if let Some(dedup) = status.dedups.iter().find(|dedup| dedup.source == source.name) {
            let _ =
                write!(text, ", {} repeats dropped, {} too old to tell", grouped(dedup.repeats), grouped(dedup.late));
        }
        text.push('\n');
    }
    for window in &status.windows {
        let _ = writeln!(
            text,
            "  window {}  {} rows, {} late, {} results",
            window.name,
            grouped(window.rows),
            grouped(window.late),
            grouped(window.results)
        );
    }
    for table in tables {
        let rows = assemble::table_rows(folder, table)?;
        // The hidden parts are of interest when there is something in them.
        if rows == 0 && table.name.contains('$') {
            continue;
        }
        let path = assemble::table_path(folder.path(), table)?;
        let _ = writeln!(text, "  table {}  {} rows  {}", table.name, grouped(rows), path.display());
    }
    for sink in outboxes {
        let _ = write!(text, "  sink {}  {} rows delivered", sink.name, grouped(sink.delivered));
        let more = [(sink.dropped, "left out for want of room"), (sink.rejected, "that cannot be delivered")];
        for (count, what) in more.into_iter().filter(|(count, _)| *count > 0) {
            let _ = write!(text, ", {} {what}", grouped(count));
        }
        if sink.rows > 0 {
            let why = sink.error.as_deref().unwrap_or("stopped before the end");
            let _ = write!(text, ", {} wait in the outbox for the next run: {why}", grouped(sink.rows));
        }
        text.push('\n');
    }
    Ok(text)
}

fn summary_json(
    status: &JobStatus,
    tables: &[TableInfo],
    outboxes: &[OutboxStatus],
    folder: &Folder,
) -> Result<serde_json::Value> {
    let mut shown = Vec::new();
    for table in tables {
        let new_rows = status.tables.iter().find(|t| t.name == table.name).map_or(0, |t| t.rows);
        shown.push(json!({
            "name": table.name,
            "rows": assemble::table_rows(folder, table)?,
            "new_rows": new_rows,
            "path": assemble::table_path(folder.path(), table)?,
        }));
    }
    Ok(json!({
        "complete": true,
        "new": !nothing_new(status),
        "sources": status.sources.iter().map(|s| json!({
            "name": s.name, "rows": s.rows, "dead": s.dead, "quarantined": s.quarantined, "nulled": s.nulled,
            "dropped_attributes": s.dropped_attributes,
        })).collect::<Vec<_>>(),
        "dedups": status.dedups.iter().map(|d| json!({
            "source": d.source, "taken": d.taken, "repeats": d.repeats, "late": d.late,
        })).collect::<Vec<_>>(),
        "windows": status.windows.iter().map(|w| json!({
            "name": w.name, "rows": w.rows, "late": w.late, "results": w.results,
        })).collect::<Vec<_>>(),
        "tables": shown,
        "sinks": outboxes.iter().map(|sink| json!({
            "name": sink.name, "delivered": sink.delivered, "waiting": sink.rows, "dropped": sink.dropped,
            "rejected": sink.rejected, "error": sink.error,
        })).collect::<Vec<_>>(),
    }))
}
