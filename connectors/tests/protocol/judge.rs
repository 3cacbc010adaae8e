//! The judge: knows what is certain, looks at the disk as a reader would, and says what does not fit.
//!
//! An epoch is certain once its Seal was reported durable to somebody: from then on it is in every log that is read, and
//! in every table that says that it has it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidemill_connectors::table::Snapshot;
use tidemill_engine::checkpoint::{CheckpointError, Store};
use tidemill_engine::storage::Storage;

use super::job::JOB;
use super::table::{TABLES, rows_of_epoch, table_dir};

/// Tables in which nothing has changed are read again after so many looks.
const LOOKS_PER_READING: u64 = 8;

/// And after so many, all that was ever in a table.
const LOOKS_PER_READING_BACK: u64 = 4 * LOOKS_PER_READING;

/// A row of a table.
pub(crate) type Row = (i64, i64);

/// What an epoch holds, and where the log stands behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    /// Offset and value of its messages.
    pub(crate) messages: Vec<Row>,
    /// Offset of the next message.
    pub(crate) next_offset: u64,
}

/// What a table says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    version: u64,
    generation: u64,
    committed: u64,
    files: Vec<String>,
}

/// See the module.
#[derive(Clone, Default)]
pub(crate) struct Judge {
    epochs: BTreeMap<u64, Content>,
    /// Table and epoch of every commit that a manifest has decided.
    decided: BTreeSet<(String, u64)>,
    manifests: BTreeSet<u64>,
    /// Rows of files, by table, path and checksum.
    files: BTreeMap<(String, String, u32), Vec<Row>>,
    seen: BTreeMap<&'static str, Seen>,
    /// How often it looked, and what it saw.
    pub(crate) looks: u64,
    /// Commits of tables that it saw.
    pub(crate) commits: u64,
    /// Manifests that it saw.
    pub(crate) manifest_count: u64,
    /// Of these, how many went back to an older checkpoint.
    pub(crate) restores: u64,
}

impl Judge {
    /// Takes an epoch for certain. An error if it was certain before, and something else.
    pub(crate) fn certain(&mut self, epoch: u64, content: &Content) -> Result<(), String> {
        let known = self.epochs.entry(epoch).or_insert_with(|| content.clone());
        if known != content {
            return Err(format!("epoch {epoch} was acknowledged as {known:?}, and is read as {content:?}"));
        }
        Ok(())
    }

    /// The last epoch that is certain.
    pub(crate) fn last_epoch(&self) -> u64 {
        self.epochs.last_key_value().map_or(0, |(epoch, _)| *epoch)
    }

    /// The disk is that of the next life: versions may be gone that were seen and not durable.
    pub(crate) fn next_life(&mut self) {
        self.manifests.clear();
        self.files.clear();
        self.seen.clear();
    }

    /// Looks at everything.
    pub(crate) fn look(&mut self, storage: &Arc<dyn Storage>) -> Result<(), String> {
        self.looks += 1;
        self.look_at_manifests(&Store::new(Arc::clone(storage)))?;
        TABLES.iter().try_for_each(|table| self.look_at_table(&**storage, table))
    }

    /// Looks whether the tables have all that is certain: at the end, when nobody holds anything back.
    pub(crate) fn look_at_the_end(&mut self, storage: &Arc<dyn Storage>) -> Result<(), String> {
        self.look(storage)?;
        for table in TABLES {
            let committed = self.seen.get(table).map_or(0, |seen| seen.committed);
            let (found, all) = (self.expected(table, committed), self.expected(table, self.last_epoch()));
            if found != all {
                return Err(format!("table {table} ends with epoch {committed}, and {} is certain", self.last_epoch()));
            }
        }
        Ok(())
    }

    fn look_at_manifests(&mut self, store: &Store) -> Result<(), String> {
        for number in store.numbers().map_err(|error| error.to_string())? {
            if self.manifests.contains(&number) {
                continue;
            }
            let manifest = match store.read(number) {
                Ok(manifest) => manifest,
                // What a power loss has left of one that was never durable; whoever starts finds out.
                Err(CheckpointError::Damaged { .. }) => continue,
                Err(error) => return Err(error.to_string()),
            };
            self.manifests.insert(number);
            self.manifest_count += 1;
            self.restores += u64::from(manifest.rewound_to.is_some());
            for (table, state) in &manifest.tables {
                if !state.pending.is_empty() {
                    self.decided.insert((table.clone(), manifest.epoch.0));
                }
            }
            if let Some(checkpoint) = manifest.checkpoint() {
                let Some(content) = self.epochs.get(&checkpoint.epoch.0) else {
                    return Err(format!("manifest {number} is of epoch {}, which is not certain", checkpoint.epoch));
                };
                if content.next_offset != checkpoint.next_offset {
                    return Err(format!("manifest {number} says offset {}: {content:?}", checkpoint.next_offset));
                }
            }
        }
        Ok(())
    }

    fn look_at_table(&mut self, storage: &dyn Storage, table: &'static str) -> Result<(), String> {
        let dir = table_dir(table);
        let told = |problem: String| format!("table {table}: {problem}");
        // Everything is read again now and then; in between only what has changed.
        if !self.looks.is_multiple_of(LOOKS_PER_READING)
            && let Some(seen) = self.seen.get(table)
            && !storage.list(&format!("{dir}/_delta_log")).is_ok_and(|listed| {
                listed.last().is_some_and(|newest| newest.name != format!("{:020}.json", seen.version))
            })
        {
            let on_disk = storage.list(&dir).map_err(|error| told(error.to_string()))?;
            let is_there = |file: &String| on_disk.iter().any(|entry| entry.name == *file);
            return match seen.files.iter().find(|file| !is_there(file)) {
                Some(gone) => Err(told(format!("{gone} is gone"))),
                None => Ok(()),
            };
        }
        let snapshot = match Snapshot::load(storage, &dir) {
            Ok(Some(snapshot)) => snapshot,
            Ok(None) => return Ok(()),
            Err(error) => return Err(told(error.to_string())),
        };
        let mut seen = seen(&snapshot, table);
        if let Some(before) = self.seen.get(table) {
            if (before.generation, before.committed) > (seen.generation, seen.committed) {
                let (was, is) = ((before.generation, before.committed), (seen.generation, seen.committed));
                return Err(told(format!("was at generation and epoch {was:?}, and is at {is:?}")));
            }
            self.commits += seen.version - before.version.min(seen.version);
        }
        if seen.committed > 0 && !self.decided.contains(&(table.to_owned(), seen.committed)) {
            return Err(told(format!("has epoch {}, which no manifest has decided", seen.committed)));
        }
        let mut rows = Vec::new();
        for file in &snapshot.files {
            let bytes = storage.get(&format!("{dir}/{}", file.path)).map_err(|error| told(error.to_string()))?;
            file.verify(&bytes).map_err(|error| told(error.to_string()))?;
            let key = (table.to_owned(), file.path.clone(), file.crc32c.expect("a file of ours"));
            seen.files.push(file.path.clone());
            rows.extend(self.files.entry(key).or_insert_with(|| rows_of(bytes)).iter().copied());
        }
        rows.sort_unstable();
        if self.last_epoch() < seen.committed {
            return Err(told(format!("has epoch {}, which is not certain", seen.committed)));
        }
        let expected = self.expected(table, seen.committed);
        if rows != expected {
            let lost: Vec<_> = expected.iter().filter(|row| !rows.contains(row)).collect();
            let more: Vec<_> = rows.iter().filter(|row| !expected.contains(row)).collect();
            let twice = rows.windows(2).filter(|pair| pair[0] == pair[1]).count();
            return Err(told(format!(
                "at epoch {}: {twice} rows twice, lost {lost:?}, invented {more:?}",
                seen.committed
            )));
        }
        if self.looks.is_multiple_of(LOOKS_PER_READING_BACK) {
            self.read_back(storage, table)?;
        }
        self.seen.insert(table, seen);
        Ok(())
    }

    /// What was in a table once can still be read: questions to older versions do.
    fn read_back(&self, storage: &dyn Storage, table: &str) -> Result<(), String> {
        for (_, path, crc32c) in self.files.keys().filter(|(of, _, _)| of == table) {
            let bytes = storage.get(&format!("{}/{path}", table_dir(table))).map_err(|error| error.to_string())?;
            if crc32c::crc32c(&bytes) != *crc32c {
                return Err(format!("table {table}: {path} was written over"));
            }
        }
        Ok(())
    }

    /// The rows of a table up to an epoch, sorted.
    fn expected(&self, table: &str, up_to: u64) -> Vec<Row> {
        let mut total = 0;
        let mut rows = Vec::new();
        for (epoch, content) in self.epochs.range(..=up_to) {
            rows.extend(rows_of_epoch(table, *epoch, &content.messages, &mut total));
        }
        rows.sort_unstable();
        rows
    }
}

fn seen(snapshot: &Snapshot, table: &str) -> Seen {
    let generation = snapshot.configuration.get("tidemill.generation").cloned().flatten();
    let generation: u64 = generation.map_or(0, |text| text.parse().expect("a number"));
    let app_id = match generation {
        0 => format!("tidemill/{JOB}/{table}"),
        generation => format!("tidemill/{JOB}/{table}@{generation}"),
    };
    let committed = snapshot.transactions.get(&app_id).copied().unwrap_or(0).cast_unsigned();
    Seen { version: snapshot.version, generation, committed, files: Vec::new() }
}

fn rows_of(bytes: bytes::Bytes) -> Vec<Row> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("Parquet").build().expect("Parquet");
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.expect("Parquet");
        let column = |idx: usize| batch.column(idx).as_primitive::<Int64Type>().values().clone();
        rows.extend(column(0).iter().copied().zip(column(1).iter().copied()));
    }
    rows
}
