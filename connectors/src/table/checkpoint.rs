//! Checkpoints of the Delta log: the state of the table at a version as one Parquet file, so that opening reads that
//! and the few versions after it instead of 17,280 a day.
//!
//! ```text
//!   00000000000000000100.checkpoint.parquet   one row for each action that still counts          durable first
//!   _last_checkpoint                          {"version":100,…}: which one to read                then this
//! ```
//! A process that dies between the two leaves a checkpoint that nobody reads. One that is damaged (its checksum is in
//! `_last_checkpoint`) is passed over: the versions before it are still there and give the same.

use std::collections::BTreeMap;
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
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};
use tidemill_engine::storage::{Storage, StorageError};

use super::TableError;
use super::actions::{Action, Row};
use super::log::DeltaLog;
use super::replay::Replay;
use super::snapshot::CRC32C_TAG;

/// Versions between two checkpoints; also told to other writers (`delta.checkpointInterval`).
pub(super) const INTERVAL_VERSIONS: u64 = 100;
const LAST_CHECKPOINT: &str = "_last_checkpoint";
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
    let bytes = encode(&rows).map_err(|error| TableError::Unsupported {
        dir: dir.to_owned(),
        problem: format!("its checkpoint: {error}"),
    })?;
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

/// Reads the newest checkpoint; `None` if there is none.
pub(super) fn read_newest(log: DeltaLog) -> Result<Option<Replay>, TableError> {
    let Some(pointer) = log.get(LAST_CHECKPOINT)? else { return Ok(None) };
    let damaged = |name: &str, problem: String| TableError::Damaged { path: log.path(name), problem };
    let pointer: Pointer =
        serde_json::from_slice(&pointer).map_err(|error| damaged(LAST_CHECKPOINT, error.to_string()))?;
    let name = file_name(pointer.version);
    if pointer.parts.is_some() {
        let problem = format!("its checkpoint of version {} has several parts", pointer.version);
        return Err(TableError::Unsupported { dir: log.dir.to_owned(), problem });
    }
    let bytes = log.get(&name)?.ok_or_else(|| damaged(&name, "it is missing".to_owned()))?;
    let crc32c = format!("{:08x}", crc32c::crc32c(&bytes));
    match pointer.tags.get(CRC32C_TAG) {
        Some(expected) if *expected != crc32c => {
            return Err(damaged(&name, format!("its checksum is {crc32c}, not {expected} as written")));
        }
        _ => {}
    }
    let actions = decode(bytes).map_err(|error| damaged(&name, error.to_string()))?;
    Replay::from_actions(pointer.version, actions)
        .map(Some)
        .ok_or_else(|| damaged(&name, "it has no protocol or no metaData".to_owned()))
}

fn file_name(version: u64) -> String {
    format!("{version:020}.checkpoint.parquet")
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
    let properties = WriterProperties::builder()
        .set_created_by(concat!("tidemill version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::SNAPPY)
        .build();
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(Vec::new(), schema, options)?;
    writer.write(&batch)?;
    writer.into_inner()
}

fn decode(bytes: Bytes) -> Result<Vec<Action>, ArrowError> {
    let mut actions = Vec::new();
    for batch in ParquetRecordBatchReaderBuilder::try_new(bytes)?.build()? {
        let builder = arrow_json::WriterBuilder::new().with_explicit_nulls(true);
        let mut writer = builder.build::<_, arrow_json::writer::LineDelimited>(Vec::new());
        writer.write(&batch?)?;
        writer.finish()?;
        for line in writer.into_inner().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let row: Row = serde_json::from_slice(line).map_err(|error| ArrowError::JsonError(error.to_string()))?;
            actions.extend(row.into_action());
        }
    }
    Ok(actions)
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
        let after = Replay::from_actions(100, decode(Bytes::from(bytes)).unwrap()).unwrap();
        assert_eq!(after.adds, before.adds);
        assert_eq!(after.transactions, before.transactions);
        assert_eq!((after.metadata, after.protocol), (before.metadata, before.protocol));
        assert_eq!(after.removes.keys().collect::<Vec<_>>(), ["young"]);
    }
}
