//! Assembly: from pipeline text and a data folder to a running job. `serve`, `run`, `demo` and the library's
//! [`Pipeline`](crate::Pipeline) all start here, so that they behave alike.
//!
//! ```text
//!   files ─► compile ─► plan ──────────────────────────► Job::start ─► running
//!                  └──► tables ─► open_sinks ─► sinks ──────┘
//!   data folder ─► Folder::open ─► lock ─► log id ─┘
//! ```

mod restore;
mod service;
mod supervisor;

pub use restore::{Restored, RestoredTable, restore};
pub use service::{BindFailure, Service, bind};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use tidemill_connectors::AddressPolicy;
use tidemill_connectors::http::HttpIngest;
use tidemill_connectors::mqtt::LocalBrokers;
use tidemill_connectors::outbox::OutboxStatus;
use tidemill_connectors::table::{self, TableSink, TableSpec};
use tidemill_engine::checkpoint::MANIFEST_FOLDER;
use tidemill_engine::clock::{Clock, Dice, SystemClock, SystemDice};
use tidemill_engine::epoch::Epoch;
use tidemill_engine::error::with_causes;
use tidemill_engine::ingest::{Log, LogOptions};
use tidemill_engine::plan::{Operator, Plan};
use tidemill_engine::runtime::{self, Job, JobError, JobOptions, LOG_FOLDER, Outlook};
use tidemill_engine::sink::Sink;
use tidemill_engine::storage::{Disk, FolderLock, LocalStorage, MemoryStorage, Storage, SystemDisk};
use tidemill_queries::history::{History, TABLES_FOLDER, TableLocation};
use tidemill_queries::{Diagnostic, SinkInfo, TableInfo};
use tokio::sync::broadcast;

use crate::{Error, Result};

/// How a job runs. Nothing here changes a result.
#[derive(Clone)]
pub struct Settings {
    /// Threads that compute, at least 1.
    pub workers: usize,
    /// Time between two checkpoints.
    pub checkpoint_interval: Duration,
    /// Time between two commits of a table.
    pub commit_interval: Duration,
    /// Threads that write the files of a table.
    pub table_writers: usize,
    /// Longest time an epoch stays open once it has rows.
    pub epoch_interval: Duration,
    /// Which addresses a pipeline's URLs may lead to, beside the public ones.
    pub network: AddressPolicy,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The dice.
    pub dice: Arc<dyn Dice>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            checkpoint_interval: Duration::from_secs(10),
            commit_interval: Duration::from_secs(5),
            table_writers: 1,
            epoch_interval: Duration::from_millis(50),
            network: AddressPolicy::default(),
            clock: Arc::new(SystemClock),
            dice: Arc::new(SystemDice),
        }
    }
}

/// A data folder that this process holds alone, until this is dropped.
pub struct Folder {
    disk: Arc<dyn Disk>,
    storage: Arc<LocalStorage>,
    /// None for one who only looks.
    lock: Option<Arc<FolderLock>>,
}

impl Folder {
    /// Opens a data folder, makes it if need be, locks it, and finishes a [`restore`] that a crash has interrupted:
    /// nobody may use its tables before.
    pub fn open(path: &Path) -> Result<Folder> {
        Folder::on(Arc::new(SystemDisk), path)
    }

    /// Does the same as [`Folder::open`] through another disk than the machine's. Questions, and tables outside of the
    /// folder, go past it: it must keep its files where the machine has them.
    pub fn on(disk: Arc<dyn Disk>, path: &Path) -> Result<Folder> {
        let storage = LocalStorage::on(Arc::clone(&disk), path)?;
        let lock = storage.lock()?;
        let folder = Folder { disk, storage: Arc::new(storage), lock: Some(Arc::new(lock)) };
        restore::finish(&folder, &SystemClock)?;
        Ok(folder)
    }

    /// Looks into a data folder that must be there; another process may run on it.
    fn look_into(path: &Path) -> Result<Folder> {
        Ok(Folder { disk: Arc::new(SystemDisk), storage: Arc::new(LocalStorage::existing(path)?), lock: None })
    }

    /// Opens the same folder anew, under the same lock: nothing is believed that was known of it before.
    fn reopened(&self) -> Result<Folder> {
        let storage = LocalStorage::on(Arc::clone(&self.disk), self.path())?;
        Ok(Folder { disk: Arc::clone(&self.disk), storage: Arc::new(storage), lock: self.lock.clone() })
    }

    /// Returns where it is.
    pub fn path(&self) -> &Path {
        self.storage.root()
    }

    /// Returns it as storage.
    pub fn storage(&self) -> Arc<dyn Storage> {
        Arc::clone(&self.storage) as Arc<dyn Storage>
    }
}

/// A pipeline file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlFile {
    /// What it is called in messages.
    pub name: String,
    /// Its text.
    pub text: String,
}

impl SqlFile {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<SqlFile> {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(SqlFile { name, text }),
            Err(error) => Err(Error::Input(format!("cannot read {name}: {error}"))),
        }
    }
}

/// A mistake in a pipeline file, with the file's text beside it.
#[derive(Clone, Debug)]
pub struct Mistake {
    /// What and where.
    pub diagnostic: Diagnostic,
    text: Arc<str>,
}

impl Mistake {
    /// Returns the mistake with its line and carets below.
    pub fn render(&self, color: bool) -> String {
        self.diagnostic.render(&self.text, color)
    }
}

/// Returns what connectors may need; relative paths in a pipeline file begin in the current folder.
pub fn context(storage: Arc<dyn Storage>, settings: &Settings) -> Result<tidemill_connectors::Context> {
    let base_dir = std::env::current_dir()
        .map_err(|error| Error::Environment(format!("cannot find out the current folder: {error}")))?;
    Ok(tidemill_connectors::Context {
        storage,
        base_dir,
        clock: Arc::clone(&settings.clock),
        dice: Arc::clone(&settings.dice),
        http: HttpIngest::new(),
        local_brokers: LocalBrokers::default(),
        network: settings.network.clone(),
    })
}

/// Returns a context to check with: nothing is read or written.
pub fn checking_context() -> Result<tidemill_connectors::Context> {
    context(Arc::new(MemoryStorage::default()), &Settings::default())
}

/// Compiles pipeline files as one: statements may stand in any order and in any file. Does no I/O.
pub fn compile(
    files: &[SqlFile],
    context: &tidemill_connectors::Context,
) -> Result<tidemill_queries::Pipeline, Vec<Mistake>> {
    let joined: String = files.iter().flat_map(|file| [file.text.as_str(), "\n"]).collect();
    let name = files.first().map_or("", |file| file.name.as_str());
    tidemill_queries::compile(name, &joined, context)
        .map_err(|diagnostics| diagnostics.into_iter().map(|diagnostic| place(files, diagnostic)).collect())
}

/// Finds locations that no table can have, before anything is opened.
pub fn check_locations(pipeline: &tidemill_queries::Pipeline) -> Result<()> {
    pipeline.tables.iter().try_for_each(|table| table_path(Path::new(""), table).map(|_| ()))
}

/// Moves a mistake from the joined text to its file.
fn place(files: &[SqlFile], mut diagnostic: Diagnostic) -> Mistake {
    // A message may name a second line, that of the other definition.
    const SECOND: &str = "first in line ";
    if let Some((before, number)) = diagnostic.message.split_once(SECOND)
        && let Ok(line) = number.parse()
        && let Some((file, line)) = file_of(files, line)
    {
        diagnostic.message = format!("{before}{SECOND}{line} of {}", file.name);
    }
    let Some((file, line)) = file_of(files, diagnostic.line) else {
        return Mistake { diagnostic, text: "".into() };
    };
    diagnostic.file.clone_from(&file.name);
    diagnostic.line = line;
    Mistake { diagnostic, text: file.text.as_str().into() }
}

/// Finds the file of a line of the joined text, and the line in it.
fn file_of(files: &[SqlFile], mut line: usize) -> Option<(&SqlFile, usize)> {
    for file in files {
        // The joined text has a line break behind each file, also behind one that ends with one.
        let line_count = file.text.matches('\n').count() + 1;
        if line <= line_count {
            return Some((file, line));
        }
        line -= line_count;
    }
    // Behind the last line: the end of the last file.
    files.last().map(|file| (file, file.text.lines().count().max(1)))
}

/// Returns the sources of a plan that have no end.
pub fn unbounded_sources(plan: &Plan) -> Vec<&str> {
    let endless = plan.nodes.iter().filter_map(|node| match &node.operator {
        Operator::Source(source) if !source.source.bounded() => Some(source.name.as_str()),
        _ => None,
    });
    endless.collect()
}

/// Returns where a table lies: an absolute path if the view says `location`, so that the list of tables means the same
/// wherever it is read.
pub fn table_path(folder: &Path, table: &TableInfo) -> Result<PathBuf> {
    let Some(location) = &table.location else { return Ok(folder.join(TABLES_FOLDER).join(&table.name)) };
    let unusable = |why: String| Error::Input(format!("table {}: location {location:?} {why}", table.name));
    let path = match location.split_once("://") {
        None => location.as_str(),
        Some(("file", path)) if path.starts_with('/') => path,
        Some((scheme, _)) => {
            return Err(unusable(format!("is for a later version: {scheme}:// cannot be written yet; give a folder")));
        }
    };
    std::path::absolute(path).map_err(|error| unusable(format!("is not a folder: {error}")))
}

/// Where the rows of a plan leave: its tables and its sinks.
#[derive(Clone)]
pub struct Outlets {
    order: Vec<String>,
    tables: Vec<TableInfo>,
    sinks: Vec<SinkInfo>,
}

impl Outlets {
    /// Returns those of a pipeline.
    pub fn of(pipeline: &tidemill_queries::Pipeline) -> Outlets {
        Outlets {
            order: pipeline.plan.tables().into_iter().map(|(name, _)| name).collect(),
            tables: pipeline.tables.clone(),
            sinks: pipeline.sinks.clone(),
        }
    }

    /// Returns those that are tables.
    pub fn tables(&self) -> &[TableInfo] {
        &self.tables
    }

    /// Returns those that deliver.
    pub fn sinks(&self) -> &[SinkInfo] {
        &self.sinks
    }

    /// Returns what the outboxes say of themselves.
    pub fn outboxes(&self) -> Vec<OutboxStatus> {
        self.sinks.iter().map(|sink| sink.connected.status(&sink.of)).collect()
    }

    /// Opens all, in the order of the plan. Blocking.
    pub fn open(&self, folder: &Folder, settings: &Settings) -> Result<Vec<Box<dyn Sink>>> {
        self.open_for(log_id(folder, settings)?, folder, settings)
    }

    fn open_for(&self, job: u128, folder: &Folder, settings: &Settings) -> Result<Vec<Box<dyn Sink>>> {
        let open = |name: &String| match self.sinks.iter().find(|sink| sink.name == *name) {
            Some(SinkInfo { connected, fingerprint, .. }) => {
                let (storage, dice) = (folder.storage(), Arc::clone(&settings.dice));
                Ok(connected.open(storage, format!("{job:032x}"), fingerprint.clone(), dice)?)
            }
            None => {
                let table = self.tables.iter().find(|table| table.name == *name);
                open_table(folder, job, table.expect("what is no sink is a table"), settings)
            }
        };
        self.order.iter().map(open).collect()
    }
}

/// Opens tables, in their order. Blocking.
pub fn open_sinks(folder: &Folder, tables: &[TableInfo], settings: &Settings) -> Result<Vec<Box<dyn Sink>>> {
    let job = log_id(folder, settings)?;
    tables.iter().map(|table| open_table(folder, job, table, settings)).collect()
}

fn open_table(folder: &Folder, job: u128, table: &TableInfo, settings: &Settings) -> Result<Box<dyn Sink>> {
    let (storage, dir) = table_storage(folder, table)?;
    let spec = TableSpec {
        name: table.name.clone(),
        schema: Arc::clone(&table.schema),
        partition_by: table.partition_by.clone(),
        sort: table.sort.clone(),
        time_column: table.time_column.clone(),
        job: format!("{job:032x}"),
        fingerprint: table.fingerprint.clone(),
    };
    let (clock, dice) = (Arc::clone(&settings.clock), Arc::clone(&settings.dice));
    let sink = TableSink::open(storage, &dir, spec, clock, dice)?;
    Ok(Box::new(sink))
}

/// Returns the storage that holds a table, and the table's folder in it.
fn table_storage(folder: &Folder, table: &TableInfo) -> Result<(Arc<dyn Storage>, String)> {
    let Some(location) = &table.location else {
        return Ok((folder.storage(), format!("{TABLES_FOLDER}/{}", table.name)));
    };
    let path = table_path(folder.path(), table)?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(Error::Input(format!("table {}: location {location:?} is not a folder", table.name)));
    };
    let storage: Arc<dyn Storage> = match &folder.lock {
        Some(_) => Arc::new(LocalStorage::open(parent)?),
        None if !parent.exists() => Arc::new(MemoryStorage::default()),
        None => Arc::new(LocalStorage::existing(parent)?),
    };
    Ok((storage, name.to_owned()))
}

/// Says what a start of this pipeline would do with a data folder, and does nothing of it: nothing is locked or written.
/// `None` if the folder has no log: then everything is new. Blocking.
///
/// Beside a running server a file may go that was just listed: then this fails, and may be tried again.
pub fn foresee(data: &Path, pipeline: &tidemill_queries::Pipeline) -> Result<Option<Outlook>> {
    let (folder, settings) = (Folder::look_into(data)?, Settings::default());
    let log = Log::existing(folder.storage(), LOG_FOLDER, LogOptions::default());
    let Some(log) = log.map_err(|error| Error::Environment(with_causes(&error)))? else { return Ok(None) };
    let sinks = Outlets::of(pipeline).open_for(log.log_id(), &folder, &settings)?;
    Ok(runtime::foresee(&pipeline.plan, &sinks, &folder.storage())?)
}

/// Counts the rows of a table as it lies on disk. Blocking.
pub fn table_rows(folder: &Folder, table: &TableInfo) -> Result<u64> {
    let (storage, dir) = table_storage(folder, table)?;
    let snapshot = table::Snapshot::load(storage.as_ref(), &dir)
        .map_err(|error| Error::Environment(format!("table {}: {}", table.name, with_causes(&error))))?;
    Ok(snapshot.map_or(0, |snapshot| snapshot.files.iter().filter_map(|file| file.rows).sum()))
}

/// Returns the tables as questions find them, and writes their list into the data folder, for `tidemill sql --data`.
pub fn write_catalog(folder: &Folder, tables: &[TableInfo]) -> Result<History> {
    let history = history_of(folder, tables)?;
    history.catalog(folder.path()).write(folder.storage().as_ref())?;
    Ok(history)
}

/// Returns the tables as questions find them; reads and writes nothing.
fn history_of(folder: &Folder, tables: &[TableInfo]) -> Result<History> {
    let mut locations = Vec::with_capacity(tables.len());
    for table in tables {
        let dir = table_path(folder.path(), table)?;
        locations.push(TableLocation { name: table.name.clone(), schema: Some(Arc::clone(&table.schema)), dir });
    }
    Ok(History::new(locations))
}

/// Makes sure that the ingest log exists, and returns its id: the tables belong to it. A folder whose log was deleted
/// gets another id, and the tables of the old one are refused then instead of filled twice.
fn log_id(folder: &Folder, settings: &Settings) -> Result<u128> {
    let storage = folder.storage();
    if storage.list(LOG_FOLDER)?.is_empty() && !storage.list(MANIFEST_FOLDER)?.is_empty() {
        return Err(Error::Environment(format!(
            "the ingest log is gone: {} is empty, and checkpoints of it are there. Nothing was changed. Restore the log's files \
             from a backup, or move the data folder away to start anew",
            folder.path().join(LOG_FOLDER).display()
        )));
    }
    let replay = Log::open(folder.storage(), LOG_FOLDER, settings.dice.as_ref(), LogOptions::default())
        .map_err(JobError::from)?;
    Ok(replay.log_id())
}

/// Where the rows of tables are shown as they leave, by the tables' names.
pub type LiveRows = BTreeMap<String, broadcast::Sender<(Epoch, RecordBatch)>>;

/// Starts a job: opens nothing but the log; the sinks are open already.
pub async fn start_job(
    folder: &Folder,
    plan: Plan,
    sinks: Vec<Box<dyn Sink>>,
    live: LiveRows,
    settings: &Settings,
) -> Result<Job> {
    Ok(Job::start(plan, sinks, job_options(folder, live, settings)).await?)
}

fn job_options(folder: &Folder, live: LiveRows, settings: &Settings) -> JobOptions {
    JobOptions {
        storage: folder.storage(),
        clock: Arc::clone(&settings.clock),
        dice: Arc::clone(&settings.dice),
        workers: settings.workers,
        checkpoint_interval: settings.checkpoint_interval,
        commit_interval: settings.commit_interval,
        table_writers: settings.table_writers,
        log: LogOptions::default(),
        live,
        epoch_interval: settings.epoch_interval,
    }
}

/// Returns an instant as RFC 3339 text, UTC.
pub fn instant(us: i64) -> String {
    let known = arrow::temporal_conversions::timestamp_us_to_datetime(us);
    known.map_or_else(|| format!("{us} us"), |instant| instant.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

/// The error of a job that takes too long to stop.
pub(crate) fn not_in_time(longest: Duration) -> Error {
    Error::Environment(format!(
        "the job did not stop within {} s, so the program ends without it. Nothing that was acknowledged is lost: the \
         next start goes on from the log",
        longest.as_secs()
    ))
}

/// Stops a job; gives up after `longest`.
pub async fn stop_job(job: &Job, longest: Duration) -> Result<()> {
    match tokio::time::timeout(longest, job.stop()).await {
        Ok(stopped) => Ok(stopped?),
        Err(_) => Err(not_in_time(longest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> SqlFile {
        SqlFile { name: name.into(), text: text.into() }
    }

    fn mistake_at(line: usize) -> Diagnostic {
        Diagnostic {
            file: "a.sql".into(),
            line,
            column: 1,
            length: 1,
            code: tidemill_queries::Code::Syntax,
            message: "x".into(),
            hint: None,
        }
    }

    #[test]
    fn a_mistake_is_shown_in_the_file_it_stands_in() {
        let files = [file("a.sql", "one\ntwo\n"), file("b.sql", "three"), file("c.sql", "four\nfive")];
        let joined: String = files.iter().flat_map(|file| [file.text.as_str(), "\n"]).collect();
        for (word, name, line) in [
            ("one", "a.sql", 1),
            ("two", "a.sql", 2),
            ("three", "b.sql", 1),
            ("four", "c.sql", 1),
            ("five", "c.sql", 2),
        ] {
            let at = joined.lines().position(|l| l == word).expect(word) + 1;
            let found = place(&files, mistake_at(at));
            assert_eq!((found.diagnostic.file.as_str(), found.diagnostic.line), (name, line), "{word}");
            assert!(found.render(false).contains(word), "{}", found.render(false));
        }
    }

    #[test]
    fn a_name_that_two_files_define_is_told_with_both_places() {
        let source = "CREATE SOURCE r (x DOUBLE) WITH (connector = 'http');";
        let files = [file("a.sql", &format!("\n{source}\n")), file("b.sql", source)];
        let mistakes = compile(&files, &checking_context().expect("a folder")).err().expect("defined twice");
        let shown: String = mistakes.iter().map(|mistake| mistake.render(false)).collect();
        assert!(shown.contains("first in line 2 of a.sql") && shown.contains("b.sql:1:"), "{shown}");
    }

    #[test]
    fn a_bucket_is_refused_before_anything_is_opened() {
        let text = "CREATE SOURCE r (x DOUBLE) WITH (connector = 'http');
            CREATE MATERIALIZED VIEW v WITH (location = 's3://acme/v') AS SELECT x FROM r;";
        let context = checking_context().expect("a folder");
        let Ok(pipeline) = compile(&[file("a.sql", text)], &context) else { panic!("the pipeline is right") };
        let error = check_locations(&pipeline).expect_err("no buckets yet");
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().contains("s3:// cannot be written yet; give a folder"), "{error}");
    }

    #[test]
    fn a_folder_has_one_owner_at_a_time() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("data");
        let folder = Folder::open(&path).expect("fresh folder");
        let Err(error) = Folder::open(&path) else { panic!("locked twice") };
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("another process uses this folder"), "{error}");
        drop(folder);
        Folder::open(&path).expect("released");
    }

    #[test]
    fn a_missing_file_is_the_users_input() {
        let error = SqlFile::read(Path::new("no/such.sql")).expect_err("missing");
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().starts_with("cannot read no/such.sql"), "{error}");
    }
}
