//! What the commands do.

mod check;
mod inspect;
mod password;
mod restore;
mod run;
mod serve;
mod signals;
mod sniff;
mod sql;
mod verify;
mod words;

pub(crate) use check::check;
pub(crate) use inspect::inspect;
pub(crate) use password::password;
pub(crate) use restore::restore;
pub(crate) use run::run;
pub(crate) use serve::serve;
pub(crate) use signals::stop_requested;
pub(crate) use sniff::sniff;
pub(crate) use sql::sql;
pub(crate) use verify::verify;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemill::assemble::{self, Mistake, Settings, SqlFile};
use tidemill::{Error, Result};
use tidemill_queries::Pipeline;

use crate::cli::FolderArgs;
use crate::config::Config;
use crate::logging::takes_color;

/// A job has so long to stop; with [`SHUTDOWN_MAX`] the program ends within ten seconds of Ctrl-C.
pub(crate) const STOP_MAX: Duration = Duration::from_secs(8);
/// Threads that still wait for a disk have so long after that.
pub(crate) const SHUTDOWN_MAX: Duration = Duration::from_secs(1);

/// Returns how a job runs, by configuration and flags.
pub(crate) fn settings(config: &Config) -> Settings {
    // Field by field: a knob that is forgotten here does not compile.
    let Settings { clock, dice, .. } = Settings::default();
    Settings {
        workers: config.worker_count(),
        checkpoint_interval: config.checkpoint_interval,
        commit_interval: config.commit_interval,
        table_writers: config.table_writers,
        epoch_interval: config.epoch_interval,
        network: config.network.clone(),
        clock,
        dice,
    }
}

/// Makes sure that a data folder is there, for a command that does not make one.
fn existing_folder(data: &Path) -> Result<()> {
    if data.is_dir() {
        return Ok(());
    }
    Err(Error::Input(format!(
        "there is no folder {}: say with --data where the data folder of the pipeline is",
        data.display()
    )))
}

/// Puts flags over the configuration.
fn with_flags(mut config: Config, flags: FolderArgs) -> Config {
    if let Some(data) = flags.data {
        config.data = data;
    }
    if let Some(workers) = flags.workers {
        config.workers = workers.0;
    }
    config
}

/// Returns a context to check with: nothing is read or written.
fn checking_context(config: &Config) -> Result<tidemill_connectors::Context> {
    let network = config.network.clone();
    Ok(tidemill_connectors::Context { network, ..assemble::checking_context()? })
}

/// Reads pipeline files and checks them without touching anything: a mistake must not leave a data folder behind.
fn read_and_check(paths: &[PathBuf], config: &Config) -> Result<(Vec<SqlFile>, Pipeline)> {
    let files = paths.iter().map(|path| SqlFile::read(path)).collect::<Result<Vec<_>>>()?;
    let pipeline = assemble::compile(&files, &checking_context(config)?).map_err(explain)?;
    assemble::check_locations(&pipeline)?;
    Ok((files, pipeline))
}

/// Shows mistakes with carets on stderr, and returns the error that ends the command.
pub(crate) fn explain(mistakes: Vec<Mistake>) -> Error {
    let color = takes_color(&std::io::stderr());
    for mistake in &mistakes {
        eprintln!("{}\n", mistake.render(color).trim_end());
    }
    Error::Input(match mistakes.len() {
        1 => "the pipeline has a mistake".to_owned(),
        count => format!("the pipeline has {count} mistakes"),
    })
}

/// Writes an answer to stdout. A reader that has gone (`| head`) is no mistake.
pub(crate) fn answer(bytes: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::Environment(format!("cannot write the answer: {error}")))
        }
        _ => Ok(()),
    }
}
