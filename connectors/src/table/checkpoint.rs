//! Checkpoints of the Delta log: the state of the table at a version as one Parquet file, so that opening reads that
//! and the few versions after it instead of 17,280 a day.
//!
//! ```text
//!   00000000000000000100.checkpoint.parquet   one row for each action that still counts          durable first
//!   _last_checkpoint                          {"version":100,…}: which one to read                then this
//! ```
//! A process that dies between the two leaves a checkpoint that nobody reads at first. One that is damaged (its checksum
//! is in `_last_checkpoint`, that of what it says in its own footer) is passed over: the checkpoint before it and the
//! versions since then give the same.

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};
use tidemill_engine::storage::{Storage, StorageError};

use super::TableError;
use super::actions::{Action, Row, lines};
use super::log::DeltaLog;
use super::replay::Replay;
use super::snapshot::CRC32C_TAG;

/// Versions between two checkpoints; also told to other writers (`delta.checkpointInterval`).
pub(super) const INTERVAL_VERSIONS: u64 = 100;
const LAST_CHECKPOINT: &str = "_last_checkpoint";
const CHECKPOINT_SUFFIX: &str = ".checkpoint.parquet";
/// How long a removed file is remembered, for readers of older versions and for `VACUUM` of other engines.
const TOMBSTONE_AGE_MAX_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// The content of `_last_checkpoint`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pointer {
    version: u64,
    size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parts: Option<u64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
}

/// Writes the checkpoint of `version`; every version up to it must be durable.
pub(super) fn write(storage: &dyn Storage, dir: &str, version: u64, now_ms: i64) -> Result<(), TableError> {
    let log = DeltaLog { storage, dir };
    let Some(replay) = Replay::load_until(log, version)? else { return Ok(()) };
    let path = log.path(&file_name(replay.version));
    let version = replay.version;
    let rows = rows(replay, now_ms);
    let unusable = |problem: String| TableError::Unsupported {
        dir: dir.to_owned(),
        problem: format!("its checkpoint: {problem}"),
    };
    let bytes = encode(&rows).map_err(|error| unusable(error.to_string()))?;
    // Versions will be deleted because it is there: it must be read as it was written.
    decode(Bytes::from(bytes.clone())).map_err(|error| unusable(error.to_string()))?;
    match storage.put_new(&path, &bytes) {
        Ok(()) => {}
        Err(StorageError::Exists { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let crc32c = format!("{:08x}", crc32c::crc32c(&bytes));
    let tags = BTreeMap::from([(CRC32C_TAG.to_owned(), crc32c)]);
    let pointer = Pointer { version, size: rows.len() as u64, parts: None, tags };
    let pointer = serde_json::to_vec(&pointer).expect("text keys, to memory");
    Ok(storage.put(&log.path(LAST_CHECKPOINT), &pointer)?)
}

/// Returns which checkpoint is the newest; `None` if there is none.
pub(super) fn newest(log: DeltaLog) -> Result<Option<u64>, TableError> {
    Ok(pointer(log)?.map(|pointer| pointer.version))
}

/// Reads the newest checkpoint; `None` if there is none.
pub(super) fn read_newest(log: DeltaLog) -> Result<Option<Replay>, TableError> {
    let Some(pointer) = pointer(log)? else { return Ok(None) };
    if pointer.parts.is_some() {
        let problem = format!("its checkpoint of version {} has several parts", pointer.version);
        return Err(TableError::Unsupported { dir: log.dir.to_owned(), problem });
    }
    read_checked(log, pointer.version, pointer.tags.get(CRC32C_TAG).map(String::as_str)).map(Some)
}

/// Reads the checkpoint of a version.
pub(super) fn read(log: DeltaLog, version: u64) -> Result<Replay, TableError> {
    read_checked(log, version, None)
}

/// Lists the checkpoints that are there, in order, with their bytes.
pub(super) fn listed(log: DeltaLog) -> Result<Vec<(u64, u64)>, StorageError> {
    log.listed(CHECKPOINT_SUFFIX)
}

/// The name of a version's checkpoint in the log's folder.
pub(super) fn file_name(version: u64) -> String {
    format!("{version:020}{CHECKPOINT_SUFFIX}")
}

fn pointer(log: DeltaLog) -> Result<Option<Pointer>, TableError> {
    let Some(pointer) = log.get(LAST_CHECKPOINT)? else { return Ok(None) };
    let damaged =
        |error: serde_json::Error| TableError::Damaged { path: log.path(LAST_CHECKPOINT), problem: error.to_string() };
    serde_json::from_slice(&pointer).map(Some).map_err(damaged)
}

fn read_checked(log: DeltaLog, version: u64, expected: Option<&str>) -> Result<Replay, TableError> {
    let name = file_name(version);
    let damaged = |problem: String| TableError::Damaged { path: log.path(&name), problem };
    let bytes = log.get(&name)?.ok_or_else(|| damaged("it is missing".to_owned()))?;
    let crc32c = format!("{:08x}", crc32c::crc32c(&bytes));
    if let Some(expected) = expected
        && expected != crc32c
    {
        return Err(damaged(format!("its checksum is {crc32c}, not {expected} as written")));
    }
    // The Parquet reader panics on some damage, such as a dictionary whose count of values is 0 by a flipped bit.
    let rows = catch_unwind(|| decode(bytes))
        .map_err(|_| damaged("it is not a Parquet file that can be read".to_owned()))?
        .map_err(|error| damaged(error.to_string()))?;
    let actions = rows.into_iter().filter_map(Row::into_action).collect();
    Replay::from_actions(version, actions).ok_or_else(|| damaged("it has no protocol or no metaData".to_owned()))
}

fn rows(replay: Replay, now_ms: i64) -> Vec<Row> {
    let young = |at: Option<i64>| at.is_some_and(|at| at > now_ms - TOMBSTONE_AGE_MAX_MS);
    let removes = replay.removes.into_values().filter(|remove| young(remove.deletion_timestamp));
    [Action::Protocol(replay.protocol), Action::MetaData(replay.metadata)]
        .into_iter()
        .chain(replay.transactions.into_values().map(Action::Txn))
        .chain(removes.map(Action::Remove))
        .chain(replay.adds.into_values().map(Action::Add))
        .map(Row::from)
        .collect()
}

fn encode(rows: &[Row]) -> Result<Vec<u8>, ParquetError> {
    let schema = schema();
    let mut decoder =
        arrow_json::ReaderBuilder::new(Arc::clone(&schema)).with_batch_size(rows.len()).build_decoder()?;
    decoder.serialize(rows)?;
    let batch = decoder.flush()?.unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(&schema)));
    let seal = KeyValue::new(CRC32C_TAG.to_owned(), content_crc32c(rows));
    let properties = WriterProperties::builder()
        .set_created_by(concat!("tidemill version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::SNAPPY)
        .set_key_value_metadata(Some(vec![seal]))
        .build();
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(Vec::new(), schema, options)?;
    writer.write(&batch)?;
    writer.into_inner()
}

/// Reads the rows of a checkpoint, and refuses one whose rows are not what was written.
fn decode(bytes: Bytes) -> Result<Vec<Row>, ArrowError> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let settings = reader.metadata().file_metadata().key_value_metadata();
    let seal = settings
        .and_then(|settings| settings.iter().find(|setting| setting.key == CRC32C_TAG))
        .and_then(|setting| setting.value.clone());
    let mut rows = Vec::new();
    for batch in reader.build()? {
        let builder = arrow_json::WriterBuilder::new().with_explicit_nulls(true);
        let mut writer = builder.build::<_, arrow_json::writer::LineDelimited>(Vec::new());
        writer.write(&batch?)?;
        writer.finish()?;
        for line in writer.into_inner().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            rows.push(serde_json::from_slice(line).map_err(|error| ArrowError::JsonError(error.to_string()))?);
        }
    }
    match seal {
        Some(expected) if expected != content_crc32c(&rows) => {
            Err(ArrowError::ParquetError("its rows do not have the checksum that they were written with".to_owned()))
        }
        _ => Ok(rows),
    }
}

/// The checksum of what a checkpoint says: the newest one has that of its bytes in `_last_checkpoint`, an older one
/// only this.
fn content_crc32c(rows: &[Row]) -> String {
    format!("{:08x}", crc32c::crc32c(&lines(rows)))
}

/// The columns of a classic checkpoint, as the protocol has them.
fn schema() -> SchemaRef {
    let needed = |name: &str, data_type: DataType| Field::new(name, data_type, false);
    let maybe = |name: &str, data_type: DataType| Field::new(name, data_type, true);
    let group = |name: &str, fields: Vec<Field>| Field::new(name, DataType::Struct(Fields::from(fields)), true);
    let map = || {
        let entry = Fields::from(vec![needed("key", DataType::Utf8), maybe("value", DataType::Utf8)]);
        DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entry), false)), false)
    };
    let (text, long, int, boolean) = (DataType::Utf8, DataType::Int64, DataType::Int32, DataType::Boolean);
    let texts = DataType::List(Arc::new(Field::new("element", DataType::Utf8, false)));
    let format = DataType::Struct(Fields::from(vec![needed("provider", text.clone()), needed("options", map())]));
    Arc::new(Schema::new(vec![
        group(
            "txn",
            vec![needed("appId", text.clone()), needed("version", long.clone()), maybe("lastUpdated", long.clone())],
        ),
        group(
            "add",
            vec![
                needed("path", text.clone()),
                needed("partitionValues", map()),
                needed("size", long.clone()),
                needed("modificationTime", long.clone()),
                needed("dataChange", boolean.clone()),
                maybe("stats", text.clone()),
                maybe("tags", map()),
            ],
        ),
        group(
            "remove",
            vec![
                needed("path", text.clone()),
                maybe("deletionTimestamp", long.clone()),
                needed("dataChange", boolean.clone()),
                maybe("extendedFileMetadata", boolean),
                maybe("partitionValues", map()),
                maybe("size", long.clone()),
            ],
        ),
        group(
            "metaData",
            vec![
                needed("id", text.clone()),
                maybe("name", text.clone()),
                needed("format", format),
                needed("schemaString", text),
                needed("partitionColumns", texts),
                maybe("createdTime", long),
                needed("configuration", map()),
            ],
        ),
        group("protocol", vec![needed("minReaderVersion", int.clone()), needed("minWriterVersion", int)]),
    ]))
}

#[cfg(test)]
mod tests {
    use tidemill_engine::storage::MemoryStorage;

    use super::*;
    use crate::table::actions::{Add, Format, MetaData, Protocol, Remove, Txn};

    fn replay() -> Replay {
        let add = |path: &str, date: Option<&str>| Add {
            path: path.to_owned(),
            partition_values: BTreeMap::from([("date".to_owned(), date.map(str::to_owned))]),
            size: 7,
            modification_time: 1,
            data_change: true,
            stats: Some(r#"{"numRecords":1}"#.to_owned()),
            tags: Some(BTreeMap::from([("tidemill.lo".to_owned(), Some("1".to_owned()))])),
        };
        let remove = |path: &str, at| Remove {
            path: path.to_owned(),
            deletion_timestamp: Some(at),
            data_change: false,
            extended_file_metadata: None,
            partition_values: None,
            size: Some(1),
        };
        let metadata = MetaData {
            id: "1-2".to_owned(),
            name: None,
            format: Format { provider: "parquet".to_owned(), options: BTreeMap::new() },
            schema_string: "{}".to_owned(),
            partition_columns: vec!["date".to_owned()],
            created_time: Some(5),
            configuration: BTreeMap::from([("a".to_owned(), Some("b".to_owned()))]),
        };
        let txn = Txn { app_id: "tidemill/a/b".to_owned(), version: 9, last_updated: None };
        let actions = vec![
            Action::Protocol(Protocol { min_reader_version: 1, min_writer_version: 2 }),
            Action::MetaData(metadata),
            Action::Txn(txn),
            Action::Add(add("a", Some("2026-11-20"))),
            Action::Add(add("b", None)),
            Action::Remove(remove("old", 0)),
            Action::Remove(remove("young", 1_000_000_000_000)),
        ];
        Replay::from_actions(100, actions).unwrap()
    }

    #[test]
    fn a_checkpoint_holds_all_that_counts() {
        let before = replay();
        let bytes = encode(&rows(before.clone(), 1_000_000_000_001)).unwrap();
        let actions = decode(Bytes::from(bytes)).unwrap().into_iter().filter_map(Row::into_action).collect();
        let after = Replay::from_actions(100, actions).unwrap();
        assert_eq!(after.adds, before.adds);
        assert_eq!(after.transactions, before.transactions);
        assert_eq!((after.metadata, after.protocol), (before.metadata, before.protocol));
        assert_eq!(after.removes.keys().collect::<Vec<_>>(), ["young"]);
    }
    #[test]
    fn a_flipped_bit_in_an_older_checkpoint_never_reads_as_another_table() {
        let rows = rows(replay(), 1_000_000_000_001);
        let bytes = encode(&rows).unwrap();
        let storage = MemoryStorage::default();
        let log = DeltaLog { storage: &storage, dir: "t" };
        let (mut tried, mut found) = (0, 0);
        for at in (0..bytes.len()).step_by(5) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 4;
            storage.put(&log.path(&file_name(100)), &flipped).unwrap();
            tried += 1;
            match read(log, 100) {
                // The bit carries nothing: it is in statistics, or in a part of the footer that no reader needs.
                Ok(read) => assert_eq!((read.adds, read.transactions), (replay().adds, replay().transactions), "{at}"),
                Err(error) => {
                    assert!(matches!(error, TableError::Damaged { .. }), "{error}");
                    found += 1;
                }
            }
        }
        assert!(found > tried / 4, "{found} of {tried}");
    }
}
