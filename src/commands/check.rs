//! `tidemill check`: is this pipeline right? No network, nothing is written.

use std::fmt::Write as _;

use arrow::datatypes::Schema;
use serde_json::{Value, json};
use tidemill::assemble::{self, SqlFile};
use tidemill::{Error, Result};
use tidemill_engine::runtime::{Fate, Outlook};
use tidemill_queries::{Pipeline, type_name};

use crate::cli::{CheckArgs, OutputFormat};
use crate::commands::words::count;
use crate::commands::{answer, checking_context, explain};
use crate::config::Config;

/// Parses and plans pipeline files; shows what they define, or their mistakes.
pub(crate) fn check(args: CheckArgs, config: &Config, format: OutputFormat) -> Result<()> {
    let files = args.files.iter().map(|path| SqlFile::read(path)).collect::<Result<Vec<_>>>()?;
    let compiled = assemble::compile(&files, &checking_context(config)?);
    let mut outlook = None;
    if let Ok(pipeline) = &compiled {
        assemble::check_locations(pipeline)?;
        if let Some(data) = &args.data {
            outlook = Some(assemble::foresee(data, pipeline)?);
        }
    }
    match (compiled, format) {
        (Ok(pipeline), OutputFormat::Table) => {
            answer((describe(&pipeline) + &outlook.map(foretell).unwrap_or_default()).as_bytes())
        }
        (Ok(pipeline), OutputFormat::Json) => {
            let mut document = to_json(&pipeline);
            if let Some(outlook) = outlook {
                document["start"] = outlook_to_json(outlook);
            }
            answer(format!("{document:#}\n").as_bytes())
        }
        (Ok(pipeline), OutputFormat::Csv) => answer(to_csv(&pipeline).as_bytes()),
        (Err(mistakes), OutputFormat::Json) => {
            let errors: Vec<&tidemill_queries::Diagnostic> = mistakes.iter().map(|m| &m.diagnostic).collect();
            answer(format!("{:#}\n", json!({"ok": false, "errors": errors})).as_bytes())?;
            Err(Error::Input(count(errors.len(), "mistake")))
        }
        (Err(mistakes), OutputFormat::Table | OutputFormat::Csv) => Err(explain(mistakes)),
    }
}

fn describe(pipeline: &Pipeline) -> String {
    let mut text = String::new();
    let mut section = |kind: &str, name: &str, of: &str, schema: &Schema| {
        let _ = writeln!(text, "{kind} {name}{of}");
        let width = schema.fields().iter().map(|field| field.name().chars().count()).max().unwrap_or(0);
        for field in schema.fields() {
            let null = if field.is_nullable() { "" } else { " NOT NULL" };
            let _ = writeln!(text, "  {:width$}  {}{null}", field.name(), type_name(field.data_type()));
        }
    };
    for source in &pipeline.sources {
        let dedup = source.dedup.as_ref();
        let dedup = dedup.map(|dedup| format!("dedup key ({}) within {}", dedup.key.join(", "), dedup.within));
        let of = format!(" ({}){}", source.connector, dedup.map_or_else(String::new, |dedup| format!(" {dedup}")));
        section("source", &source.name, &of, &source.schema);
    }
    for view in &pipeline.views {
        section("view", &view.name, "", &view.schema);
    }
    for sink in &pipeline.sinks {
        section("sink", &sink.name, &format!(" of {} ({})", sink.of, sink.connected.connector), &sink.schema);
    }
    let tables: Vec<&str> = pipeline.tables.iter().map(|table| table.name.as_str()).collect();
    let _ = writeln!(text, "tables {}", if tables.is_empty() { "none".to_owned() } else { tables.join(", ") });
    let (sources, views) = (count(pipeline.sources.len(), "source"), count(pipeline.views.len(), "view"));
    let sinks = match pipeline.sinks.len() {
        0 => String::new(),
        sinks => format!(", {}", count(sinks, "sink")),
    };
    let _ = writeln!(text, "ok: {sources}, {views}, {}{sinks}", count(tables.len(), "table"));
    text
}

/// Says what a start would do: a line for each table.
fn foretell(outlook: Option<Outlook>) -> String {
    let Some(Outlook { reach, notes, tables }) = outlook else {
        return "start: there is no log, all is new\n".to_owned();
    };
    let mut text = format!("start: the log is replayed from {reach}\n");
    for (table, fate) in tables {
        let _ = writeln!(text, "  {table}: {fate}");
    }
    for note in notes {
        let _ = writeln!(text, "  note: {note}");
    }
    text
}

fn outlook_to_json(outlook: Option<Outlook>) -> Value {
    let Some(Outlook { reach, notes, tables }) = outlook else { return Value::Null };
    let table = |(name, fate): (String, Fate)| {
        let what = match fate {
            Fate::GoesOn { .. } => "goes_on",
            Fate::Unkept => "unkept",
            Fate::New(_) => "new",
            Fate::Gone { .. } => "gone",
            Fate::FilledAgain { .. } => "filled_again",
            Fate::Left => "left",
        };
        json!({"name": name, "fate": what, "text": fate.to_string()})
    };
    json!({
        "replay_behind_epoch": reach.from.epoch().0,
        "notes": notes,
        "tables": tables.into_iter().map(table).collect::<Vec<_>>(),
    })
}

fn to_json(pipeline: &Pipeline) -> Value {
    let columns = |schema: &Schema| -> Vec<Value> {
        let fields = schema.fields().iter();
        fields
            .map(|field| {
                json!({
                    "name": field.name(),
                    "type": type_name(field.data_type()),
                    "nullable": field.is_nullable(),
                })
            })
            .collect()
    };
    json!({
        "ok": true,
        "sources": pipeline.sources.iter().map(|source| json!({
            "name": source.name, "connector": source.connector, "columns": columns(&source.schema),
            "dedup": source.dedup.as_ref().map(|dedup| json!({"key": dedup.key, "within": dedup.within})),
        })).collect::<Vec<_>>(),
        "views": pipeline.views.iter().map(|view| json!({
            "name": view.name, "columns": columns(&view.schema),
        })).collect::<Vec<_>>(),
        "tables": pipeline.tables.iter().map(|table| json!({
            "name": table.name, "of": table.of, "location": table.location, "columns": columns(&table.schema),
        })).collect::<Vec<_>>(),
        "sinks": pipeline.sinks.iter().map(|sink| json!({
            "name": sink.name, "of": sink.of, "connector": sink.connected.connector, "columns": columns(&sink.schema),
        })).collect::<Vec<_>>(),
    })
}

/// A line for each column. Names are identifiers, so nothing needs quotes.
fn to_csv(pipeline: &Pipeline) -> String {
    let mut text = String::from("kind,name,column,type,nullable\n");
    let mut lines = |kind: &str, name: &str, schema: &Schema| {
        for field in schema.fields() {
            let (column, data_type) = (field.name(), type_name(field.data_type()));
            let _ = writeln!(text, "{kind},{name},{column},{data_type},{}", field.is_nullable());
        }
    };
    for source in &pipeline.sources {
        lines("source", &source.name, &source.schema);
    }
    for view in &pipeline.views {
        lines("view", &view.name, &view.schema);
    }
    for sink in &pipeline.sinks {
        lines("sink", &sink.name, &sink.schema);
    }
    text
}
