//! The sink: makes rows of a view durable in an outbox, in two phases.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrow::array::RecordBatch;
use tidemill_engine::clock::Dice;
use tidemill_engine::epoch::Epoch;
use tidemill_engine::sink::{Cleaned, Committable, Found, Sink, SinkError, SinkWriter};
use tidemill_engine::storage::{Storage, StorageError};

use super::delivery::{self, Delivery, Patience};
use super::papers::{About, Part, VERSION, seal, unseal};
use super::rows;
use super::shelf::{Limits, LoadError, Shelf};
use super::{Destination, Encoded, Encoder, Gauges};

/// The version of what a writer leaves for a commit.
const COMMITTABLE_VERSION: u32 = 1;

/// Which outbox it is, and how large it may become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxSpec {
    /// The sink's name.
    pub name: String,
    /// The id of the log that its rows come from.
    pub job: String,
    /// What its view computes; not what its options are: these may change while rows wait.
    pub fingerprint: String,
    /// How large it may become.
    pub limits: Limits,
    /// How long rows wait at most for a commit.
    pub commit_interval: Duration,
}

/// See the module.
pub struct OutboxSink {
    shared: Arc<Shared>,
    destination: Arc<dyn Destination>,
    dice: Arc<dyn Dice>,
    patience: Patience,
    about: Option<About>,
    found: Found,
    committed: Epoch,
    begun: Option<Begun>,
}

/// What the sink and its writers share.
struct Shared {
    storage: Arc<dyn Storage>,
    dir: String,
    spec: OutboxSpec,
    encoder: Arc<dyn Encoder>,
    gauges: Arc<Gauges>,
    /// In the names of all files of this process.
    incarnation: u64,
    /// Which content is written; nothing before [`Sink::begin`].
    generation: OnceLock<u64>,
}

/// What runs once the sink has begun. The courier ends before the shelf is given up.
struct Begun {
    shelf: Arc<Shelf>,
    _delivery: Delivery,
}

impl OutboxSink {
    /// Looks at the outbox in the folder `dir`, and writes nothing. Refuses one that is damaged, or of another log.
    pub fn open(
        storage: Arc<dyn Storage>,
        dir: &str,
        spec: OutboxSpec,
        destination: Arc<dyn Destination>,
        gauges: Arc<Gauges>,
        patience: Arc<AtomicU64>,
        dice: Arc<dyn Dice>,
    ) -> Result<OutboxSink, SinkError> {
        let encoder = destination.encoder();
        let shared = Shared {
            storage,
            dir: dir.to_owned(),
            spec,
            encoder,
            gauges,
            incarnation: dice.roll(),
            generation: OnceLock::new(),
        };
        let about = shared.about()?;
        let (mut found, mut committed) = (Found::New, Epoch::NONE);
        if let Some(about) = &about {
            if about.job != shared.spec.job || about.name != shared.spec.name {
                let problem = format!(
                    "{dir} is the outbox of {} of the log {}, and this job has the log {}: move it away, or restore the data folder as a whole",
                    about.name, about.job, shared.spec.job
                );
                return Err(shared.refused(problem));
            }
            if about.fingerprint == shared.spec.fingerprint {
                // Read here too, so that damage is told before anything begins.
                committed = shared.load(about)?.last_committed().unwrap_or(about.base).max(about.base);
                found = Found::Same { base: about.base, committed };
            } else {
                found = Found::Changed { what: "its view was changed".to_owned() };
            }
        }
        Ok(OutboxSink { shared: Arc::new(shared), destination, dice, patience, about, found, committed, begun: None })
    }

    /// Makes an outbox without rows: a new one, or one whose content is replaced. Returns how many rows were given up.
    fn replace(&mut self, base: Epoch) -> Result<u64, SinkError> {
        let shared = &self.shared;
        let (mut generation, mut first_row, mut given_up) = (0, 0, 0);
        if let Some(before) = &self.about {
            let shelf = shared.load(before)?;
            let (next_row, rows) = shelf.end();
            (generation, first_row, given_up) = (before.generation + 1, next_row, rows);
        }
        let about = About {
            version: VERSION,
            job: shared.spec.job.clone(),
            name: shared.spec.name.clone(),
            fingerprint: shared.spec.fingerprint.clone(),
            generation,
            base,
            first_row,
        };
        let path = format!("{}/about", shared.dir);
        shared.storage.put(&path, &seal(&about)).map_err(|error| shared.storage_error(error))?;
        self.about = Some(about);
        self.committed = base;
        Ok(given_up)
    }

    fn parts_of(&self, committables: &[Committable], generation: u64) -> Result<Vec<Part>, SinkError> {
        let mut parts = Vec::with_capacity(committables.len());
        for Committable { version, body, summary } in committables {
            let part: Part = match version {
                &COMMITTABLE_VERSION => serde_json::from_str(body).map_err(|error| error.to_string()),
                newer => Err(format!("it is of version {newer}, and this program reads version {COMMITTABLE_VERSION}")),
            }
            .map_err(|problem| self.shared.refused(format!("cannot commit {summary}: {problem}")))?;
            match part.generation.cmp(&generation) {
                std::cmp::Ordering::Equal => parts.push(part),
                // Its rows come again, from the log.
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Greater => {
                    let problem = format!(
                        "{summary} was prepared for a later content: the outbox's folder is older than the job's checkpoint"
                    );
                    return Err(self.shared.refused(problem));
                }
            }
        }
        Ok(parts)
    }

    /// What another process prepared may be gone or damaged: it is read before it is committed.
    fn check(&self, parts: &[Part]) -> Result<(), SinkError> {
        let own = format!("{:016x}", self.shared.incarnation);
        for part in parts.iter().filter(|part| !part.file.contains(&own)) {
            let path = format!("{}/rows/{}", self.shared.dir, part.file);
            let problem = match self.shared.storage.get(&path) {
                Ok(bytes) => match rows::read(bytes, 0) {
                    Ok(rows) if rows.len() as u64 == part.rows => continue,
                    Ok(rows) => format!("has {} rows, not {}", rows.len(), part.rows),
                    Err(problem) => format!("is damaged: {problem}"),
                },
                Err(StorageError::Missing { .. }) => "is gone".to_owned(),
                Err(error) => return Err(self.shared.storage_error(error)),
            };
            return Err(self
                .shared
                .refused(format!("{path} was prepared and {problem}: restore it; nothing was committed")));
        }
        Ok(())
    }
}

impl Shared {
    fn about(&self) -> Result<Option<About>, SinkError> {
        let path = format!("{}/about", self.dir);
        match self.storage.get(&path) {
            Err(StorageError::Missing { .. }) => Ok(None),
            Err(error) => Err(self.storage_error(error)),
            Ok(bytes) => unseal(&bytes).map(Some).map_err(|problem| {
                self.refused(format!("{path} is damaged: {problem}; restore it, or move the folder away to begin anew"))
            }),
        }
    }

    /// Makes durable what is there. A process that was killed may have left a file that can be seen and would not survive a
    /// loss of power: counted as committed like that, its rows would be gone once a later epoch is decided.
    fn sync(&self) -> Result<(), SinkError> {
        for folder in ["", "/rows", "/ready"] {
            match self.storage.sync_dir(&format!("{}{folder}", self.dir)) {
                Ok(()) | Err(StorageError::Missing { .. }) => {}
                Err(error) => return Err(self.storage_error(error)),
            }
        }
        Ok(())
    }

    fn load(&self, about: &About) -> Result<Shelf, SinkError> {
        Shelf::load(Arc::clone(&self.storage), &self.dir, about, Arc::clone(&self.gauges)).map_err(
            |error| match error {
                LoadError::Storage(error) => self.storage_error(error),
                damaged @ LoadError::Damaged { .. } => {
                    self.refused(format!("{damaged}; restore it, or move the folder away to begin anew"))
                }
            },
        )
    }

    fn refused(&self, problem: String) -> SinkError {
        SinkError::Refused { table: self.spec.name.clone(), problem }
    }

    fn storage_error(&self, source: StorageError) -> SinkError {
        SinkError::Storage { table: self.spec.name.clone(), source }
    }
}

impl Sink for OutboxSink {
    fn name(&self) -> &str {
        &self.shared.spec.name
    }

    fn found(&self) -> Found {
        self.found.clone()
    }

    fn begin(&mut self, base: Epoch) -> Result<String, SinkError> {
        let goes_on = match &self.about {
            Some(about) => about.fingerprint == self.shared.spec.fingerprint && about.base == base,
            None => false,
        };
        if self.begun.is_some() {
            return match goes_on {
                true => Ok("it had begun".to_owned()),
                false => Err(self.shared.refused(format!("it was begun before, and then behind epoch {base}"))),
            };
        }
        let done = match (goes_on, self.about.is_some()) {
            (true, _) => "the outbox goes on".to_owned(),
            (false, false) => {
                self.replace(base)?;
                "a new outbox".to_owned()
            }
            (false, true) => match self.replace(base)? {
                0 => "a new content of the outbox".to_owned(),
                rows => {
                    tracing::warn!(
                        sink = self.name(),
                        rows,
                        "rows of the view as it was before are not delivered any more"
                    );
                    format!("a new content of the outbox; {rows} rows of the view before were given up")
                }
            },
        };
        let about = self.about.as_ref().expect("made above if there was none");
        self.shared.sync()?;
        let shelf = Arc::new(self.shared.load(about)?);
        shelf.remove_delivered().map_err(|error| self.shared.storage_error(error))?;
        self.committed = shelf.last_committed().unwrap_or(about.base).max(about.base);
        let _ = self.shared.generation.set(about.generation);
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|_| self.shared.refused("an outbox needs the runtime of the program to deliver".to_owned()))?;
        let delivery = delivery::start(
            &runtime,
            Arc::clone(&shelf),
            about.clone(),
            self.destination.courier(),
            Arc::clone(&self.dice),
            Arc::clone(&self.patience),
        );
        self.begun = Some(Begun { shelf, _delivery: delivery });
        Ok(done)
    }

    fn generation(&self) -> u64 {
        match (&self.found, &self.begun, &self.about) {
            (Found::Same { .. }, _, Some(about)) | (_, Some(_), Some(about)) => about.generation,
            _ => 0,
        }
    }

    fn last_committed(&self) -> Epoch {
        self.committed
    }

    fn commit_interval(&self) -> Option<Duration> {
        Some(self.shared.spec.commit_interval)
    }

    fn keeps_order(&self) -> bool {
        true
    }

    fn writer(&mut self, index: usize) -> Box<dyn SinkWriter> {
        Box::new(Writer { shared: Arc::clone(&self.shared), index, sequence: 0 })
    }

    fn commit(&mut self, epoch: Epoch, committables: &[Committable]) -> Result<(), SinkError> {
        let Some(Begun { shelf, .. }) = &self.begun else {
            return Err(self.shared.refused(format!("epoch {epoch} was to be committed before it was begun")));
        };
        if committables.is_empty() || epoch <= self.committed {
            return Ok(());
        }
        let generation = self.generation();
        let parts = self.parts_of(committables, generation)?;
        if parts.is_empty() {
            return Ok(());
        }
        self.check(&parts)?;
        let dropped = self.shared.gauges.dropped.load(Ordering::Relaxed);
        let plan = shelf.plan(generation, epoch, parts, &self.shared.spec.limits);
        shelf.commit(plan).map_err(|error| self.shared.storage_error(error))?;
        self.committed = epoch;
        let rows = self.shared.gauges.dropped.load(Ordering::Relaxed) - dropped;
        if rows > 0 {
            let on_full = self.shared.spec.limits.on_full;
            tracing::error!(
                sink = self.name(),
                rows,
                ?on_full,
                "the outbox is full: rows are left out; the view's table has them"
            );
        }
        Ok(())
    }

    fn clean(&mut self) -> Result<Cleaned, SinkError> {
        let Some(Begun { shelf, .. }) = &self.begun else {
            return Err(self.shared.refused("it was to be cleaned before it was begun".to_owned()));
        };
        let (shared, generation) = (&self.shared, self.generation());
        let list = |folder: &str| {
            let dir = format!("{}/{folder}", shared.dir);
            shared.storage.list(&dir).map_err(|error| shared.storage_error(error))
        };
        let mut cleaned = Cleaned::default();
        let mut remove = |path: String, bytes: u64| {
            cleaned.files += 1;
            cleaned.bytes += bytes;
            shared.storage.delete(&path).map_err(|error| shared.storage_error(error))
        };
        let of_content = format!("{generation:06}-");
        for entry in list("ready")?.into_iter().filter(|entry| !entry.name.starts_with(&of_content)) {
            remove(format!("{}/ready/{}", shared.dir, entry.name), entry.size)?;
        }
        let named = shelf.files();
        for entry in list("rows")? {
            // What is prepared and not committed yet has a later epoch.
            let is_passed = epoch_of(&entry.name).is_some_and(|epoch| epoch <= self.committed);
            if is_passed && !named.contains(&entry.name) {
                remove(format!("{}/rows/{}", shared.dir, entry.name), entry.size)?;
            }
        }
        Ok(cleaned)
    }
}

/// Phase one: files of rows that nobody knows of.
struct Writer {
    shared: Arc<Shared>,
    index: usize,
    sequence: u64,
}

impl SinkWriter for Writer {
    fn prepare(&mut self, epoch: Epoch, rows: &[(Epoch, RecordBatch)]) -> Result<Vec<Committable>, SinkError> {
        let shared = &self.shared;
        let Some(generation) = shared.generation.get() else {
            return Err(shared.refused(format!("epoch {epoch} was to be prepared before it was begun")));
        };
        let mut encoded = Encoded::new(shared.spec.limits.bytes_max);
        for (_, batch) in rows {
            shared
                .encoder
                .encode(batch, &mut encoded)
                .map_err(|problem| SinkError::Encode { table: shared.spec.name.clone(), problem })?;
        }
        if let Some((count, why)) = encoded.rejected() {
            shared.gauges.count_rejected(count);
            tracing::warn!(
                sink = shared.spec.name,
                rows = count,
                why,
                "rows cannot be delivered; the view's table has them"
            );
        }
        let mut committables = Vec::new();
        for (bytes, row_count) in encoded.into_files() {
            let (index, sequence) = (self.index, self.sequence);
            let file = format!("e{:020}-{:016x}-w{index:05}-{sequence:04}", epoch.0, shared.incarnation);
            self.sequence += 1;
            let path = format!("{}/rows/{file}", shared.dir);
            shared.storage.put_new(&path, &bytes).map_err(|error| shared.storage_error(error))?;
            let summary = format!("{row_count} rows in {file}");
            let part = Part { file, rows: u64::from(row_count), bytes: bytes.len() as u64, generation: *generation };
            let body = serde_json::to_string(&part).expect("numbers and a text can be written");
            committables.push(Committable { version: COMMITTABLE_VERSION, body, summary });
        }
        Ok(committables)
    }
}

/// Reads the epoch from the name of a file of rows.
fn epoch_of(file: &str) -> Option<Epoch> {
    file.strip_prefix('e')?.split('-').next()?.parse().ok().map(Epoch)
}
