//! Snapshot: one version of a table, for those who read it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use tidemill_engine::epoch::Epoch;
use tidemill_engine::storage::Storage;

use super::TableError;
use super::actions::{Action, Add};
use super::checkpoint;
use super::log::DeltaLog;
use super::path::decode_path;
use super::replay::Replay;
pub use super::stats::ColumnBounds;
use super::stats::read_stats;
use super::types::parse_schema;
use super::value::Value;

/// Tags of an `add` that are this program's own.
pub(super) const LO_EPOCH_TAG: &str = "tidemill.lo";
/// See [`DataFile::hi_epoch`].
pub(super) const HI_EPOCH_TAG: &str = "tidemill.hi";
/// Which content of the table a file was prepared for; absent is the first one.
pub(super) const GENERATION_TAG: &str = "tidemill.generation";
/// Exact bounds, see [`ColumnBounds`].
pub(super) const BOUNDS_TAG: &str = "tidemill.bounds";
/// See [`DataFile::crc32c`].
pub(super) const CRC32C_TAG: &str = "tidemill.crc32c";

/// One version of a table: whole epochs, never half of one.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The version.
    pub version: u64,
    /// All columns, those of partitions at their place. Text is `Utf8View`, times are `Timestamp(µs, "UTC")`.
    pub schema: SchemaRef,
    /// Columns whose values are in [`DataFile::partition_values`] and not in the files.
    pub partition_columns: Vec<String>,
    /// What belongs to the table, in no order that means anything.
    pub files: Vec<Arc<DataFile>>,
    /// The last epoch of each application that writes here.
    pub transactions: BTreeMap<String, i64>,
    /// The settings of the table: `delta.*`, `tidemill.*`.
    pub configuration: BTreeMap<String, Option<String>>,
}

/// One Parquet file.
#[derive(Clone, Debug, PartialEq)]
pub struct DataFile {
    /// Relative to the table's folder, as [`Storage`] takes it behind that.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Rows, if its writer said so; ours always does.
    pub rows: Option<u64>,
    /// In the order of [`Snapshot::partition_columns`]; `None` is null.
    pub partition_values: Vec<Option<Value>>,
    /// In the order of [`Snapshot::schema`]; a partition's column has its value in both bounds.
    pub bounds: Vec<ColumnBounds>,
    /// The first epoch that has rows in it; `None` for a file of another writer.
    pub lo_epoch: Option<Epoch>,
    /// The last epoch that has rows in it; `None` for a file of another writer.
    pub hi_epoch: Option<Epoch>,
    /// CRC-32C of all its bytes; `None` for a file of another writer.
    pub crc32c: Option<u32>,
}

impl DataFile {
    /// Checks that these are the file's bytes, all of them, as they were written.
    pub fn verify(&self, bytes: &[u8]) -> Result<(), TableError> {
        let mut checksum = RunningChecksum::default();
        checksum.add(bytes);
        self.compare(&checksum).map_err(|problem| TableError::Damaged { path: self.path.clone(), problem })
    }

    /// Does the same as [`DataFile::verify`] for bytes that were read piece by piece; says what is wrong.
    pub fn compare(&self, read: &RunningChecksum) -> Result<(), String> {
        let RunningChecksum { bytes, crc32c } = *read;
        if bytes != self.size {
            return Err(format!("it has {bytes} bytes, not {} as written", self.size));
        }
        match self.crc32c {
            Some(expected) if expected != crc32c => {
                Err(format!("its checksum is {crc32c:08x}, not {expected:08x} as written"))
            }
            _ => Ok(()),
        }
    }
}

/// The checksum of a file that is read piece by piece.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunningChecksum {
    bytes: u64,
    crc32c: u32,
}

impl RunningChecksum {
    /// Adds the next bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
    }
}

impl Snapshot {
    /// Reads the newest version of the table in `dir`; `None` if there is no table.
    pub fn load(storage: &dyn Storage, dir: &str) -> Result<Option<Snapshot>, TableError> {
        let log = DeltaLog { storage, dir };
        Replay::load(log)?.map(|replay| Snapshot::of(log, replay)).transpose()
    }

    /// Reads a version of the table in `dir`; `None` if it is not there yet, or not any more.
    pub fn load_at(storage: &dyn Storage, dir: &str, version: u64) -> Result<Option<Snapshot>, TableError> {
        let log = DeltaLog { storage, dir };
        if log.get(&format!("{version:020}.json"))?.is_none() {
            return Ok(None);
        }
        Replay::load_until(log, version)?.map(|replay| Snapshot::of(log, replay)).transpose()
    }

    /// Makes a snapshot of a table's state; its files are in the order of the state's.
    pub(super) fn of(log: DeltaLog, replay: Replay) -> Result<Snapshot, TableError> {
        let schema = parse_schema(&replay.metadata.schema_string)
            .map_err(|problem| TableError::Unsupported { dir: log.dir.to_owned(), problem })?;
        let mut snapshot = Snapshot {
            version: replay.version,
            schema: Arc::new(schema),
            partition_columns: replay.metadata.partition_columns,
            files: Vec::with_capacity(replay.adds.len()),
            transactions: replay.transactions.into_iter().map(|(app_id, txn)| (app_id, txn.version)).collect(),
            configuration: replay.metadata.configuration,
        };
        for add in replay.adds.into_values() {
            let file = snapshot.data_file(log, &add)?;
            snapshot.files.push(Arc::new(file));
        }
        Ok(snapshot)
    }

    /// Goes on to the newest version: reads version + 1 and further until there is none. Returns whether there was
    /// one. After an error the snapshot is as it was.
    pub fn refresh(&mut self, storage: &dyn Storage, dir: &str) -> Result<bool, TableError> {
        let log = DeltaLog { storage, dir };
        let mut version = self.version;
        let mut commits = Vec::new();
        while let Some(actions) = log.read(version + 1)? {
            version += 1;
            commits.push(actions);
        }
        if version == self.version {
            // A reader that slept for longer than versions are kept finds none after its own.
            return match checkpoint::newest(log)? {
                Some(newest) if newest > version => self.load_again(storage, dir),
                _ => Ok(false),
            };
        }
        let of_table = |action: &Action| matches!(action, Action::Protocol(_) | Action::MetaData(_));
        if commits.iter().flatten().any(of_table) {
            // Another schema gives every file other bounds: rare enough to read it all again.
            return self.load_again(storage, dir);
        }
        self.advance(log, version, commits.into_iter().flatten())?;
        Ok(true)
    }

    fn load_again(&mut self, storage: &dyn Storage, dir: &str) -> Result<bool, TableError> {
        let Some(newest) = Snapshot::load(storage, dir)? else { return Ok(false) };
        let is_newer = newest.version > self.version;
        *self = newest;
        Ok(is_newer)
    }

    fn advance(
        &mut self,
        log: DeltaLog,
        version: u64,
        actions: impl Iterator<Item = Action>,
    ) -> Result<(), TableError> {
        let mut added: BTreeMap<String, Arc<DataFile>> = BTreeMap::new();
        let mut gone: HashSet<String> = HashSet::new();
        let mut transactions = BTreeMap::new();
        for action in actions {
            match action {
                Action::Add(add) => {
                    let file = self.data_file(log, &add)?;
                    // A file may be added again, with other statistics.
                    gone.insert(file.path.clone());
                    added.insert(file.path.clone(), Arc::new(file));
                }
                Action::Remove(remove) => {
                    let path = decode_path(log.dir, &remove.path)?;
                    added.remove(&path);
                    gone.insert(path);
                }
                Action::Txn(txn) => {
                    transactions.insert(txn.app_id, txn.version);
                }
                Action::Protocol(_) | Action::MetaData(_) => {}
            }
        }
        self.files.retain(|file| !gone.contains(&file.path));
        self.files.extend(added.into_values());
        self.transactions.extend(transactions);
        self.version = version;
        Ok(())
    }

    fn data_file(&self, log: DeltaLog, add: &Add) -> Result<DataFile, TableError> {
        let unsupported = |problem: String| TableError::Unsupported { dir: log.dir.to_owned(), problem };
        let tag = |key: &str| add.tags.as_ref().and_then(|tags| tags.get(key)).and_then(Option::as_deref);
        let (rows, mut bounds) = read_stats(&self.schema, add.stats.as_deref(), tag(BOUNDS_TAG))
            .map_err(|error| unsupported(format!("the statistics of {}: {error}", add.path)))?;
        let mut partition_values = Vec::with_capacity(self.partition_columns.len());
        for column in &self.partition_columns {
            let index = self
                .schema
                .index_of(column)
                .map_err(|_| unsupported(format!("it is partitioned by {column}, which is no column")))?;
            let value = partition_value(&self.schema, index, add).map_err(unsupported)?;
            bounds[index] = ColumnBounds {
                min: value.clone(),
                max: value.clone(),
                exact: true,
                null_count: if value.is_some() { Some(0) } else { rows },
            };
            partition_values.push(value);
        }
        Ok(DataFile {
            path: decode_path(log.dir, &add.path)?,
            size: u64::try_from(add.size).map_err(|_| unsupported(format!("{} has a negative size", add.path)))?,
            rows,
            partition_values,
            bounds,
            lo_epoch: tag(LO_EPOCH_TAG).and_then(|text| text.parse().ok()).map(Epoch),
            hi_epoch: tag(HI_EPOCH_TAG).and_then(|text| text.parse().ok()).map(Epoch),
            crc32c: tag(CRC32C_TAG).and_then(|text| u32::from_str_radix(text, 16).ok()),
        })
    }
}

/// The format has one word for null and for the empty text.
fn partition_value(schema: &Schema, index: usize, add: &Add) -> Result<Option<Value>, String> {
    let field = schema.field(index);
    match add.partition_values.get(field.name()).and_then(Option::as_deref) {
        None | Some("") => Ok(None),
        Some(text) => Value::parse_partition(text, field.data_type())
            .map(Some)
            .ok_or_else(|| format!("{}: {text:?} is no value of the partition column {}", add.path, field.name())),
    }
}
