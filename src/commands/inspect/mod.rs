//! `tidemill inspect`: what is in a data folder, in words. Takes no lock and changes nothing.

mod checkpoint;
mod log;
mod table;

use std::path::Path;

use serde_json::Value;
use tidemill::{Error, Result};

use crate::cli::{InspectArgs, InspectPart, OutputFormat};
use crate::commands::words::count;
use crate::commands::{answer, existing_folder};
use crate::config::Config;

/// What was found: for people, for programs, and what is damaged.
struct Found {
    text: String,
    json: Value,
    /// A sentence for each thing that is not what was written there: the file, and where in it.
    damage: Vec<String>,
}

/// Looks, and shows what it finds. Damage is an error of the environment, after everything else was shown.
pub(crate) fn inspect(args: &InspectArgs, config: &Config, format: OutputFormat) -> Result<()> {
    let data = args.data.as_deref().unwrap_or(&config.data);
    if format == OutputFormat::Csv {
        return Err(Error::Input("inspect answers in words or as JSON: say --format json, or nothing".to_owned()));
    }
    if args.verify && args.part != InspectPart::Table {
        return Err(Error::Input(
            "--verify is for tables; the log and the checkpoints are always read as a whole".to_owned(),
        ));
    }
    existing_folder(data)?;
    let name = args.name.as_deref();
    let found = match args.part {
        InspectPart::Log if name.is_some() => return Err(Error::Input("there is one log: give no name".to_owned())),
        InspectPart::Log => log::look(data)?,
        InspectPart::Checkpoint => checkpoint::look(data, name)?,
        InspectPart::Table => table::look(data, name, args.verify)?,
    };
    match format {
        OutputFormat::Json => answer(format!("{:#}\n", found.json).as_bytes())?,
        OutputFormat::Table | OutputFormat::Csv => answer(found.text.as_bytes())?,
    }
    if found.damage.is_empty() {
        return Ok(());
    }
    let things = count(found.damage.len(), "thing");
    let verb = if found.damage.len() == 1 { "is" } else { "are" };
    Err(Error::Environment(format!("{things} {verb} damaged:\n  {}", found.damage.join("\n  "))))
}

/// Says that a part of the folder is not there yet.
fn nothing(what: &str, data: &Path, json: Value) -> Found {
    let data = data.display();
    let text = format!("there is no {what} in {data} yet: start a pipeline with --data {data}\n");
    Found { text, json, damage: Vec::new() }
}
