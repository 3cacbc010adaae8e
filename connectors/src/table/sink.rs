//! The sink: one table that a job fills. Its writers prepare files that nobody knows of, then it adds them to the table.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use tidemill_engine::clock::{Clock, Dice};
use tidemill_engine::epoch::Epoch;
use tidemill_engine::seeded_bugs::{SeededBug, is_planted};
use tidemill_engine::sink;
use tidemill_engine::sink::{Cleaned, Committable, Sink, SinkError, SinkWriter};
use tidemill_engine::storage::{Storage, StorageError};

use super::actions::Add;
use super::checkpoint;
use super::clean::clean;
use super::committer::Committer;
use super::layout::{Layout, TableSpec};
use super::log::DeltaLog;
use super::opening::{Begun, Found, begin, changed_refusal, look};
use super::path::{FileName, decode_path};
use super::snapshot::{CRC32C_TAG, GENERATION_TAG};
use super::writer::{TableWriter, read_committable};
use super::{TableError, refused};

/// A table that a job fills. See the module for how.
pub struct TableSink {
    shared: Arc<Shared>,
    found: Found,
    /// The id of the table, should it be new.
    new_id: String,
    /// There is none before [`TableSink::begin`].
    committer: Option<Committer>,
    housekeeping: Option<JoinHandle<()>>,
}

/// What the parts of a sink share.
pub(super) struct Shared {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) dir: String,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) spec: TableSpec,
    pub(super) layout: Layout,
    /// In the names of all files of this process: what another one left behind is never written over.
    pub(super) incarnation: u64,
    /// Which content is written; nothing before [`TableSink::begin`].
    pub(super) generation: OnceLock<u64>,
}

impl Shared {
    /// The table's log.
    pub(super) fn log(&self) -> DeltaLog<'_> {
        DeltaLog { storage: &*self.storage, dir: &self.dir }
    }

    /// The time, as the log has it.
    pub(super) fn now_ms(&self) -> i64 {
        self.clock.now_us() / 1_000
    }

    fn clean(&self) -> Result<Cleaned, TableError> {
        clean(self.log(), &self.spec.base_id(), self.incarnation, self.now_ms())
    }
}

impl TableSink {
    /// Looks at the table in the folder `dir`, and writes nothing: see [`TableSink::found`] and [`TableSink::begin`].
    /// Refuses a table of somebody else, one that is damaged, and one that this program would break.
    pub fn open(
        storage: Arc<dyn Storage>,
        dir: &str,
        spec: TableSpec,
        clock: Arc<dyn Clock>,
        dice: Arc<dyn Dice>,
    ) -> Result<TableSink, SinkError> {
        let layout = Layout::of(&spec).map_err(|problem| refused(&spec.name, problem))?;
        let random = u128::from(dice.roll()) << 64 | u128::from(dice.roll());
        let new_id = uuid::Builder::from_random_bytes(random.to_be_bytes()).into_uuid().to_string();
        let incarnation = if is_planted(SeededBug::FileNamesReused) { 0 } else { dice.roll() };
        let (dir, generation) = (dir.to_owned(), OnceLock::new());
        let shared = Shared { storage, dir, clock, spec, layout, incarnation, generation };
        let found = look(shared.log(), &shared.spec, &shared.layout)?;
        Ok(TableSink { shared: Arc::new(shared), found, new_id, committer: None, housekeeping: None })
    }

    /// Opens the table and goes on where it ends, or creates it. Refuses one that is not what `spec` says.
    pub fn create_or_open(
        storage: Arc<dyn Storage>,
        dir: &str,
        spec: TableSpec,
        clock: Arc<dyn Clock>,
        dice: Arc<dyn Dice>,
    ) -> Result<TableSink, SinkError> {
        let mut sink = TableSink::open(storage, dir, spec, clock, dice)?;
        let base = match sink.found() {
            Found::New => Epoch::NONE,
            Found::Same { base, .. } => *base,
            Found::Changed { what } => return Err(sink.refused(changed_refusal(what))),
        };
        sink.begin(base)?;
        Ok(sink)
    }

    /// Returns what was there when the table was opened.
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// Makes the table ready for rows behind the epoch `base`: creates it, goes on with it, or replaces its content if
    /// the view was changed or the content starts elsewhere. Doing it again does nothing. Until then the sink and its
    /// writers refuse to write.
    pub fn begin(&mut self, base: Epoch) -> Result<Begun, SinkError> {
        let begun_before = self.committer.as_ref().map(|committer| committer.content().base);
        if let Some(before) = begun_before.filter(|before| *before != base) {
            return Err(self.refused(format!("it was begun behind epoch {before}, and then behind epoch {base}")));
        }
        let shared = &self.shared;
        let now_ms = shared.now_ms();
        let (begun, replay) = begin(shared.log(), &shared.spec, &shared.layout, base, &self.new_id, now_ms)?;
        let committer = Committer::new(Arc::clone(shared), &replay)?;
        let generation = committer.content().generation;
        if *shared.generation.get_or_init(|| generation) != generation {
            return Err(self.refused("it was begun before with another content: open it anew".to_owned()));
        }
        self.committer = Some(committer);
        Ok(begun)
    }

    /// Returns the newest version of the table that this sink has written or seen; `None` before
    /// [`TableSink::begin`].
    pub fn version(&self) -> Option<u64> {
        self.committer.as_ref().map(Committer::version)
    }

    fn refused(&self, problem: String) -> SinkError {
        refused(&self.shared.spec.name, problem)
    }

    /// Returns what of a commit belongs to the table's content. Files that were prepared for a content that has been
    /// replaced since do not: their rows come again, from the log.
    fn of_this_content(&self, committables: &[Committable], generation: u64) -> Result<Vec<Add>, SinkError> {
        let mut adds = Vec::with_capacity(committables.len());
        for committable in committables {
            let add = read_committable(committable).map_err(|problem| self.refused(problem))?;
            let of = tag(&add, GENERATION_TAG).map_or(Ok(0), str::parse::<u64>);
            match of {
                Ok(of) if of == generation => adds.push(add),
                Ok(of) if of < generation => {
                    tracing::info!(table = self.name(), file = add.path, "prepared for a content that was replaced");
                }
                _ => {
                    let problem = format!(
                        "{} was prepared for another content of the table than generation {generation}, which is there: the table's folder is older than the job's checkpoint",
                        committable.summary
                    );
                    return Err(self.refused(problem));
                }
            }
        }
        Ok(adds)
    }

    /// What another process prepared may be gone or damaged: it is checked before the log names it.
    fn check_files(&self, adds: &[Add]) -> Result<(), SinkError> {
        for add in adds {
            let log = self.shared.log();
            let path = decode_path(log.dir, &add.path).map_err(|error| error.into_sink_error(self.name()))?;
            if FileName::parse(&path).is_some_and(|name| name.incarnation == self.shared.incarnation) {
                continue;
            }
            let path = log.table_path(&path);
            let found = match log.storage.get(&path) {
                Ok(bytes) if i64::try_from(bytes.len()) != Ok(add.size) => {
                    format!("has {} bytes, not {}", bytes.len(), add.size)
                }
                Ok(bytes) => {
                    let crc32c = format!("{:08x}", crc32c::crc32c(&bytes));
                    match tag(add, CRC32C_TAG) {
                        Some(expected) if expected != crc32c => format!("has the checksum {crc32c}, not {expected}"),
                        _ => continue,
                    }
                }
                Err(StorageError::Missing { .. }) => "is gone".to_owned(),
                Err(error) => return Err(TableError::from(error).into_sink_error(self.name())),
            };
            let problem = format!("{path} was prepared and {found}: restore it; nothing was committed");
            return Err(self.refused(problem));
        }
        Ok(())
    }

    /// Makes a checkpoint of the log in the background, if it is time for one, and cleans up. If that fails, it costs only
    /// time and room until the next one, so it is told and not returned.
    fn keep_house_if_due(&mut self, version: u64) {
        if !version.is_multiple_of(checkpoint::INTERVAL_VERSIONS) {
            return;
        }
        if self.housekeeping.as_ref().is_some_and(|running| !running.is_finished()) {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let work = move || {
            let table = &shared.spec.name;
            let kept = checkpoint::write(&*shared.storage, &shared.dir, version, shared.now_ms());
            match kept.and_then(|()| shared.clean()) {
                Ok(cleaned) => tracing::debug!(table, version, ?cleaned, "log checkpoint written"),
                Err(error) => {
                    tracing::warn!(table, version, error = &error as &dyn std::error::Error, "no log checkpoint");
                }
            }
        };
        match std::thread::Builder::new().name("table-housekeeping".to_owned()).spawn(work) {
            Ok(running) => self.housekeeping = Some(running),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "no thread for a log checkpoint"),
        }
    }
}

impl Drop for TableSink {
    fn drop(&mut self) {
        // Nothing of the sink touches storage after it is gone.
        if let Some(running) = self.housekeeping.take() {
            let _ = running.join();
        }
    }
}

impl Sink for TableSink {
    fn name(&self) -> &str {
        &self.shared.spec.name
    }

    fn found(&self) -> sink::Found {
        match self.found().clone() {
            Found::New => sink::Found::New,
            Found::Same { base, last_committed, .. } => sink::Found::Same { base, committed: last_committed },
            Found::Changed { what } => sink::Found::Changed { what },
        }
    }

    fn begin(&mut self, base: Epoch) -> Result<String, SinkError> {
        TableSink::begin(self, base).map(|begun| begun.to_string())
    }

    fn generation(&self) -> u64 {
        match (&self.committer, &self.found) {
            (Some(committer), _) => committer.content().generation,
            (None, Found::Same { generation, .. }) => *generation,
            (None, Found::New | Found::Changed { .. }) => 0,
        }
    }

    fn last_committed(&self) -> Epoch {
        match (&self.committer, &self.found) {
            (Some(committer), _) => committer.last_committed(),
            (None, Found::Same { last_committed, .. }) => *last_committed,
            (None, Found::New | Found::Changed { .. }) => Epoch::NONE,
        }
    }

    fn writer(&mut self, index: usize) -> Box<dyn SinkWriter> {
        Box::new(TableWriter::new(Arc::clone(&self.shared), index))
    }

    fn commit(&mut self, epoch: Epoch, committables: &[Committable]) -> Result<(), SinkError> {
        let Some(committer) = &self.committer else {
            return Err(self.refused(format!("epoch {epoch} was to be committed before it was begun")));
        };
        if committables.is_empty() || epoch <= committer.last_committed() {
            return Ok(());
        }
        let adds = self.of_this_content(committables, committer.content().generation)?;
        if adds.is_empty() {
            return Ok(());
        }
        let is_own =
            |add: &Add| FileName::parse(&add.path).is_some_and(|name| name.incarnation == self.shared.incarnation);
        if is_planted(SeededBug::FileTakenForCommit) && !adds.iter().all(is_own) {
            return Ok(());
        }
        self.check_files(&adds)?;
        let committer = self.committer.as_mut().expect("looked at above");
        if committer.commit(epoch, &adds)? {
            let version = committer.version();
            self.keep_house_if_due(version);
        }
        Ok(())
    }

    fn clean(&mut self) -> Result<Cleaned, SinkError> {
        if self.committer.is_none() {
            return Err(self.refused("it was to be cleaned before it was begun".to_owned()));
        }
        self.shared.clean().map_err(|error| error.into_sink_error(self.name()))
    }
}

/// A tag of a file.
pub(super) fn tag<'a>(add: &'a Add, key: &str) -> Option<&'a str> {
    let tags: &BTreeMap<String, Option<String>> = add.tags.as_ref()?;
    tags.get(key)?.as_deref()
}
