//! Description: all that a table's folder says, for people who want to know why.

use std::collections::BTreeMap;

use serde::Serialize;
use tidemill_engine::storage::Storage;

use super::TableError;
use super::checkpoint;
use super::clean::{RETENTION_MS, Unnamed, unnamed};
use super::identity::{APP_ID_KEY, Content, FINGERPRINT_KEY, setting};
use super::log::{COMMIT_SUFFIX, DeltaLog};
use super::replay::Replay;
use super::snapshot::{DataFile, Snapshot};

/// Whether all bytes are read to look for damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// Only names and sizes are looked at.
    Skip,
    /// Each file is read.
    Verify,
}

/// A table, as it lies in its folder.
#[derive(Clone, Debug, Serialize)]
pub struct TableDescription {
    /// The newest version.
    pub version: u64,
    /// What the format asks of readers.
    pub reader_protocol: i32,
    /// What the format asks of writers.
    pub writer_protocol: i32,
    /// The table's name, if its maker said so.
    pub name: Option<String>,
    /// Who fills it; `None` for a table of another program.
    pub app_id: Option<String>,
    /// Identifies what the view computes.
    pub fingerprint: Option<String>,
    /// How often the content was replaced.
    pub generation: u64,
    /// The epoch that the content starts behind.
    pub base: u64,
    /// The last epoch in the table.
    pub last_committed: u64,
    /// The last epoch of each application and generation that ever committed.
    pub transactions: BTreeMap<String, i64>,
    /// Columns that split the files in folders.
    pub partition_columns: Vec<String>,
    /// Rows in all files, as far as their writers said.
    pub rows: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// The files of the newest version.
    pub files: Vec<FileDescription>,
    /// Files that were taken out and are still there.
    pub removed: Vec<RemovedFile>,
    /// Files that belong to no version.
    pub orphans: Vec<OrphanFile>,
    /// The log's versions that are there.
    pub log: LogDescription,
}

/// A file of the table.
#[derive(Clone, Debug, Serialize)]
pub struct FileDescription {
    /// In the table's folder.
    pub path: String,
    /// Bytes, as the log says.
    pub bytes: u64,
    /// Rows, if its writer said so.
    pub rows: Option<u64>,
    /// The first epoch with rows in it; `None` for a file of another program.
    pub lo_epoch: Option<u64>,
    /// The last epoch with rows in it.
    pub hi_epoch: Option<u64>,
    /// The value of each partition column; `None` is null.
    pub partition: BTreeMap<String, Option<String>>,
    /// CRC-32C in hexadecimal digits, as the log says; `None` for a file of another program.
    pub crc32c: Option<String>,
    /// What is there.
    pub state: FileState,
}

/// What is there where a file should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileState {
    /// A file with the right size, whose bytes were not read.
    Present,
    /// The bytes that were written.
    Whole,
    /// The right size, and nothing to compare the bytes with.
    WithoutChecksum,
    /// Nothing.
    Missing,
    /// Something else, in words.
    Damaged(String),
}

/// A file that was taken out of the table.
#[derive(Clone, Debug, Serialize)]
pub struct RemovedFile {
    /// In the table's folder.
    pub path: String,
    /// Bytes.
    pub bytes: u64,
    /// When, in milliseconds since 1970.
    pub removed_at_ms: Option<i64>,
    /// From when on it may be deleted, in milliseconds since 1970.
    pub deletable_at_ms: Option<i64>,
}

/// A file that belongs to no version.
#[derive(Clone, Debug, Serialize)]
pub struct OrphanFile {
    /// In the table's folder.
    pub path: String,
    /// Bytes.
    pub bytes: u64,
    /// Why it is there.
    pub kind: OrphanKind,
}

/// Why an orphan is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OrphanKind {
    /// Prepared for an epoch that the table has: it will be deleted.
    Abandoned,
    /// Prepared for an epoch to come: it may be committed.
    Pending,
    /// Not a file of this program.
    Unknown,
}

/// The folder `_delta_log`.
#[derive(Clone, Debug, Serialize)]
pub struct LogDescription {
    /// The oldest version that is there.
    pub first_version: Option<u64>,
    /// How many there are.
    pub versions: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// The checkpoint that readers start from.
    pub newest_checkpoint: Option<u64>,
    /// Why it is not known which one that is; readers look for it themselves then.
    pub newest_checkpoint_problem: Option<String>,
    /// All checkpoints.
    pub checkpoints: Vec<CheckpointDescription>,
}

/// A checkpoint of the log.
#[derive(Clone, Debug, Serialize)]
pub struct CheckpointDescription {
    /// The version that it holds.
    pub version: u64,
    /// Bytes.
    pub bytes: u64,
    /// What is there.
    pub state: FileState,
}

/// Describes the table in `dir`; `None` if there is none. Writes nothing.
pub fn describe(
    storage: &dyn Storage,
    dir: &str,
    checksums: Checksums,
) -> Result<Option<TableDescription>, TableError> {
    let log = DeltaLog { storage, dir };
    let Some(replay) = Replay::load(log)? else { return Ok(None) };
    let content =
        Content::of(&replay.metadata).map_err(|problem| TableError::Unsupported { dir: dir.to_owned(), problem })?;
    let app_id = setting(&replay.metadata, APP_ID_KEY).map(str::to_owned);
    let base_id = app_id.as_deref().unwrap_or_default();
    let on_disk = log.data_files()?;
    let (removed, orphans) = left_over(log, base_id, &replay, &on_disk)?;
    let mut description = TableDescription {
        version: replay.version,
        reader_protocol: replay.protocol.min_reader_version,
        writer_protocol: replay.protocol.min_writer_version,
        name: replay.metadata.name.clone(),
        fingerprint: setting(&replay.metadata, FINGERPRINT_KEY).map(str::to_owned),
        generation: content.generation,
        base: content.base.0,
        last_committed: content.last_committed(base_id, &replay.transactions).0,
        transactions: BTreeMap::new(),
        partition_columns: replay.metadata.partition_columns.clone(),
        rows: 0,
        bytes: 0,
        files: Vec::with_capacity(replay.adds.len()),
        removed,
        orphans,
        log: describe_log(log, checksums)?,
        app_id,
    };
    let texts: Vec<BTreeMap<String, Option<String>>> =
        replay.adds.values().map(|add| add.partition_values.clone()).collect();
    // The files of a snapshot are in the order of the log's.
    let snapshot = Snapshot::of(log, replay)?;
    description.transactions = snapshot.transactions;
    for (file, partition) in snapshot.files.iter().zip(texts) {
        description.rows += file.rows.unwrap_or(0);
        description.bytes += file.size;
        description.files.push(FileDescription {
            path: file.path.clone(),
            bytes: file.size,
            rows: file.rows,
            lo_epoch: file.lo_epoch.map(|epoch| epoch.0),
            hi_epoch: file.hi_epoch.map(|epoch| epoch.0),
            partition,
            crc32c: file.crc32c.map(|crc32c| format!("{crc32c:08x}")),
            state: file_state(log, file, on_disk.get(&file.path), checksums)?,
        });
    }
    Ok(Some(description))
}

fn left_over(
    log: DeltaLog,
    base_id: &str,
    replay: &Replay,
    on_disk: &BTreeMap<String, u64>,
) -> Result<(Vec<RemovedFile>, Vec<OrphanFile>), TableError> {
    let (mut removed, mut orphans) = (Vec::new(), Vec::new());
    for (path, why) in unnamed(log, base_id, replay, on_disk)? {
        let bytes = on_disk[&path];
        let kind = match why {
            Unnamed::Removed { at_ms } => {
                let deletable_at_ms = at_ms.map(|at_ms| at_ms + RETENTION_MS);
                removed.push(RemovedFile { path, bytes, removed_at_ms: at_ms, deletable_at_ms });
                continue;
            }
            Unnamed::Abandoned => OrphanKind::Abandoned,
            Unnamed::Pending => OrphanKind::Pending,
            Unnamed::Unknown => OrphanKind::Unknown,
        };
        orphans.push(OrphanFile { path, bytes, kind });
    }
    Ok((removed, orphans))
}

fn file_state(
    log: DeltaLog,
    file: &DataFile,
    found: Option<&u64>,
    checksums: Checksums,
) -> Result<FileState, TableError> {
    Ok(match (found, checksums) {
        (None, _) => FileState::Missing,
        (Some(size), _) if *size != file.size => {
            FileState::Damaged(format!("it has {size} bytes, not {} as written", file.size))
        }
        (Some(_), Checksums::Skip) => FileState::Present,
        (Some(_), Checksums::Verify) => match file.verify(&log.storage.get(&log.table_path(&file.path))?) {
            Ok(()) if file.crc32c.is_some() => FileState::Whole,
            Ok(()) => FileState::WithoutChecksum,
            Err(error) => FileState::Damaged(error.to_string()),
        },
    })
}

fn describe_log(log: DeltaLog, checksums: Checksums) -> Result<LogDescription, TableError> {
    let commits = log.listed(COMMIT_SUFFIX)?;
    let (newest_checkpoint, newest_checkpoint_problem) = match checkpoint::newest(log) {
        Ok(newest) => (newest, None),
        Err(TableError::Storage(error)) => return Err(error.into()),
        Err(error) => (None, Some(error.to_string())),
    };
    let mut listed: BTreeMap<u64, u64> = checkpoint::listed(log)?.into_iter().collect();
    // Readers are sent to it, so it should be there.
    newest_checkpoint.map(|version| listed.entry(version).or_default());
    let mut checkpoints = Vec::with_capacity(listed.len());
    for (version, bytes) in listed {
        let is_newest = newest_checkpoint == Some(version);
        // The newest is read in any case: without it other programs cannot read the table.
        let read = match (is_newest, checksums) {
            (true, _) => checkpoint::read_newest(log).map(drop),
            (false, Checksums::Verify) => checkpoint::read(log, version).map(drop),
            (false, Checksums::Skip) => Ok(()),
        };
        let state = match read {
            Ok(()) if checksums == Checksums::Verify => FileState::Whole,
            Ok(()) => FileState::Present,
            Err(TableError::Storage(error)) => return Err(error.into()),
            Err(error) => FileState::Damaged(error.to_string()),
        };
        checkpoints.push(CheckpointDescription { version, bytes, state });
    }
    Ok(LogDescription {
        first_version: commits.first().map(|(version, _)| *version),
        versions: commits.len(),
        bytes: commits.iter().map(|(_, bytes)| bytes).sum(),
        newest_checkpoint,
        newest_checkpoint_problem,
        checkpoints,
    })
}
