//! The judge: reads what is on the disk, and says what is wrong with it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, LazyLock, Mutex};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use tidemill::engine::checkpoint::CHECKPOINTS_KEPT;
use tidemill::engine::clock::SeededDice;
use tidemill::engine::fence::CLAIMS_KEPT;
use tidemill::engine::ingest::{Log, LogOptions, Record};
use tidemill::engine::source::Resume;
use tidemill::engine::storage::{LocalStorage, MemoryStorage, SimulatedDisk, Storage};

use super::reference::{History, history};
use super::scenario::{Act, Piece, Script, pipeline};
use super::world::{Past, Sent};

/// Says what is wrong with a disk whose job was stopped. `disk` is not changed.
pub(super) fn verdict(disk: &SimulatedDisk, past: &Past, script: &Script) -> Result<Seen, String> {
    let storage = LocalStorage::on(Arc::new(disk.kill()), "data").map_err(|error| error.to_string())?;
    let records = records(&storage, past)?;
    let history = history(&records);
    ledger(&history, past, script)?;
    let mut seen = Seen { epochs: history.sealed, ..Seen::default() };
    for table in &pipeline().tables {
        let expected =
            history.expected.get(table.name.as_str()).ok_or_else(|| format!("no model of {}", table.name))?;
        let (versions, rows) = table_versions(&storage, &table.name, expected)?;
        seen.versions += versions;
        seen.rows += rows;
    }
    Ok(seen)
}

/// What a judge has looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) epochs: u64,
    pub(super) versions: usize,
    pub(super) rows: usize,
}

/// Reads the whole log, with the segments that were removed.
fn records(storage: &LocalStorage, past: &Past) -> Result<Vec<Record>, String> {
    let whole = MemoryStorage::default();
    let put = |name: &str, bytes: &[u8]| whole.put(&format!("log/{name}"), bytes).map_err(|error| error.to_string());
    for (name, bytes) in &past.archive {
        put(name, bytes)?;
    }
    for entry in storage.list("log").map_err(|error| error.to_string())? {
        put(&entry.name, &storage.get(&format!("log/{}", entry.name)).map_err(|error| error.to_string())?)?;
    }
    let options = LogOptions::default();
    let mut replay =
        Log::open(Arc::new(whole), "log", &SeededDice::new(1), options).map_err(|error| error.to_string())?;
    if !replay.reach().whole {
        let segments = storage.list("log").map_err(|error| error.to_string())?;
        let (kept, segments) = (past.archive.keys().collect::<Vec<_>>(), segments.into_iter().map(|entry| entry.name));
        let segments: Vec<_> = segments.collect();
        return Err(format!(
            "the log does not reach back to its beginning: {kept:?} were removed, {segments:?} are there"
        ));
    }
    let mut records = Vec::new();
    while let Some(record) = replay.next().map_err(|error| error.to_string())? {
        records.push(record);
    }
    Ok(records)
}

/// Says whether a job that has just started tells its sources what the log says, and whether the log has what was
/// acknowledged. `disk` is not changed.
pub(super) fn resumed(
    disk: &SimulatedDisk,
    past: &Past,
    script: &Script,
    resume: &BTreeMap<String, Vec<Resume>>,
) -> Result<(), String> {
    let storage = LocalStorage::on(Arc::new(disk.kill()), "data").map_err(|error| error.to_string())?;
    let history = history(&records(&storage, past)?);
    ledger(&history, past, script)?;
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let mut told = BTreeMap::new();
    for (source, partitions) in resume {
        for Resume { partition, notes, .. } in partitions {
            let notes: BTreeMap<_, _> = notes.iter().map(|(key, value)| (text(key), text(value))).collect();
            told.insert((source.clone(), partition.clone()), notes);
        }
    }
    let noted = history.notes;
    if told == noted { Ok(()) } else { Err(format!("sources are told {told:?}, and have noted {noted:?}")) }
}

/// What was acknowledged is in the log, once for each time; what was sent is there at most as often. A chunk is there
/// whole, its messages with its notes, or not at all.
fn ledger(history: &History, past: &Past, script: &Script) -> Result<(), String> {
    let mut known: BTreeSet<&Piece> = BTreeSet::new();
    for sent in &past.sent {
        let Act::Send(piece) = &script.acts[sent.act_idx] else { unreachable!("only chunks are sent") };
        known.insert(piece);
        let count = history.pieces.get(piece).copied().unwrap_or(0);
        if count < sent.acked || count > sent.sends {
            let Sent { act_idx, sends, acked } = sent;
            return Err(format!(
                "chunk {act_idx} was sent {sends} times, acknowledged {acked} times, and is in the log {count} times"
            ));
        }
    }
    match history.pieces.keys().find(|piece| !known.contains(*piece)) {
        Some(piece) => Err(format!("this was never sent: {piece:?}")),
        None => Ok(()),
    }
}

/// Compares every version of a table with what it must hold; returns how many versions and rows there are.
fn table_versions(storage: &LocalStorage, name: &str, expected: &[(u64, String)]) -> Result<(usize, usize), String> {
    let dir = format!("tables/{name}");
    let wrong = |what: String| format!("table {name}: {what}");
    let mut rest = expected.to_vec();
    rest.sort_by_key(|(epoch, _)| *epoch);
    let (mut row_count, mut committed) = (0, 0);
    for version in 0.. {
        let path = format!("{dir}/_delta_log/{version:020}.json");
        let Ok(commit) = storage.get(&path) else {
            if let Some((epoch, row)) = rest.first() {
                return Err(wrong(format!("{} rows are missing, the first in epoch {epoch}: {row}", rest.len())));
            }
            return Ok((version, row_count));
        };
        let commit = String::from_utf8(commit.to_vec()).map_err(|error| wrong(error.to_string()))?;
        let (mut found, mut epoch) = (Vec::new(), None);
        for line in commit.lines() {
            let action: Value = serde_json::from_str(line).map_err(|error| wrong(format!("{path}: {error}")))?;
            if let Some(add) = action.get("add") {
                let file = add["path"].as_str().ok_or_else(|| wrong(format!("{path}: a file without a path")))?;
                let bytes = storage.get(&format!("{dir}/{file}")).map_err(|error| wrong(error.to_string()))?;
                found.extend(rows_of(name, bytes).map_err(wrong)?.iter().cloned());
            }
            if action.get("remove").is_some() {
                return Err(wrong(format!("{path} removes a file, and nobody asked for that")));
            }
            if let Some(txn) = action.get("txn") {
                epoch = txn["version"].as_u64();
            }
        }
        if version == 0 {
            continue;
        }
        let epoch = epoch.filter(|epoch| *epoch > committed).ok_or_else(|| wrong(format!("{path} does not go on")))?;
        committed = epoch;
        let end = rest.partition_point(|(of, _)| *of <= epoch);
        let mut must: Vec<String> = rest.drain(..end).map(|(_, row)| row).collect();
        must.sort();
        found.sort();
        if found != must {
            let missing: Vec<_> = must.iter().filter(|row| !found.contains(row)).take(3).collect();
            let too_many: Vec<_> = found.iter().filter(|row| !must.contains(row)).take(3).collect();
            return Err(wrong(format!(
                "version {version} (epoch {epoch}) adds {} rows and should add {}; missing {missing:?}, too many {too_many:?}",
                found.len(),
                must.len()
            )));
        }
        row_count += found.len();
    }
    unreachable!("a table ends")
}

/// The rows of each file that was read, by its bytes.
type Files = HashMap<Vec<u8>, Arc<Vec<String>>>;

/// Returns the rows of a Parquet file as text. Files are read once: images of one disk have most of them in common.
fn rows_of(table: &str, bytes: Bytes) -> Result<Arc<Vec<String>>, String> {
    static READ: LazyLock<Mutex<Files>> = LazyLock::new(Mutex::default);
    if let Some(rows) = READ.lock().expect("nobody panics with it").get(&bytes[..]) {
        return Ok(Arc::clone(rows));
    }
    let mut rows = Vec::new();
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).and_then(|builder| builder.build());
    for batch in reader.map_err(|error| error.to_string())? {
        let batch = batch.map_err(|error| error.to_string())?;
        rows.extend((0..batch.num_rows()).map(|row| text_of(table, &batch, row)));
    }
    let rows = Arc::new(rows);
    READ.lock().expect("nobody panics with it").insert(bytes.to_vec(), Arc::clone(&rows));
    Ok(rows)
}

fn text_of(table: &str, batch: &RecordBatch, row: usize) -> String {
    let columns: &[&str] = match table {
        _ if table.ends_with("$dead") => &["partition", "log_offset", "payload"],
        "tumbled" | "hopped" | "totals" | "totals$late" => {
            &["device", "window_start", "window_end", "n", "total", "lo", "hi"]
        }
        _ => &["device", "seq", "ts"],
    };
    let value = |name: &&str| {
        let column = batch.column_by_name(name).unwrap_or_else(|| panic!("{table} has no column {name}"));
        match column.data_type() {
            DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
            DataType::Timestamp(_, _) => column.as_primitive::<TimestampMicrosecondType>().value(row).to_string(),
            DataType::Utf8 => column.as_string::<i32>().value(row).to_owned(),
            DataType::Utf8View => column.as_string_view().value(row).to_owned(),
            DataType::Binary => String::from_utf8_lossy(column.as_binary::<i32>().value(row)).into_owned(),
            other => panic!("{table}.{name} is {other}"),
        }
    };
    columns.iter().map(value).collect::<Vec<_>>().join("|")
}

/// What a job leaves that was stopped after a clean start: nothing that nobody names, and no more of the past than is kept.
/// `before` is the disk as that start found it.
pub(super) fn garbage(disk: &SimulatedDisk, before: &SimulatedDisk) -> Result<(), String> {
    let storage = LocalStorage::on(Arc::new(disk.kill()), "data").map_err(|error| error.to_string())?;
    let storage_before = LocalStorage::on(Arc::new(before.kill()), "data").map_err(|error| error.to_string())?;
    let list = |dir: &str| storage.list(dir).map_err(|error| error.to_string());
    let text = |path: String| {
        storage.get(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).map_err(|error| error.to_string())
    };
    if let Some((path, _)) = disk.files().iter().find(|(path, _)| path.to_string_lossy().contains(".tmp-")) {
        return Err(format!("{} was left behind", path.display()));
    }
    // The own one beside them.
    if list("fence")?.len() as u64 > CLAIMS_KEPT + 1 {
        return Err("old claims of the fence are left".to_owned());
    }
    let manifests = list("checkpoint/manifest")?;
    if manifests.len() > CHECKPOINTS_KEPT + 2 {
        return Err(format!("{} manifests are kept", manifests.len()));
    }
    let mut named = String::new();
    for manifest in &manifests {
        named.push_str(&text(format!("checkpoint/manifest/{}", manifest.name))?);
    }
    if let Some(pack) = list("checkpoint/state")?.iter().find(|pack| !named.contains(&pack.name)) {
        return Err(format!("no manifest names {}", pack.name));
    }
    for table in &pipeline().tables {
        let dir = format!("tables/{}", table.name);
        // What was prepared for an epoch that the table has by now goes with the start after that.
        let (_, committed) = delta_log(&storage_before, &dir)?;
        let (log, _) = delta_log(&storage, &dir)?;
        for file in list(&dir)?.iter().filter(|file| file.name.ends_with(".parquet") && !log.contains(&file.name)) {
            let epoch: u64 = file.name[1..13].parse().map_err(|_| format!("{dir} has a file {}", file.name))?;
            if epoch <= committed {
                return Err(format!("no version of {dir} names {}, and {committed} was committed", file.name));
            }
        }
    }
    Ok(())
}

/// Returns the versions of a table as one text, and the last epoch that is committed.
fn delta_log(storage: &LocalStorage, dir: &str) -> Result<(String, u64), String> {
    let (mut log, mut committed) = (String::new(), 0);
    for entry in storage.list(&format!("{dir}/_delta_log")).map_err(|error| error.to_string())? {
        let commit = storage.get(&format!("{dir}/_delta_log/{}", entry.name)).map_err(|error| error.to_string())?;
        let commit = String::from_utf8_lossy(&commit);
        let actions = commit.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        committed = actions.filter_map(|action| action["txn"]["version"].as_u64()).fold(committed, u64::max);
        log.push_str(&commit);
    }
    Ok((log, committed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::life::{Settings, live};
    use crate::simulation::world::World;

    /// A life without an accident, and what it left.
    fn lived() -> (SimulatedDisk, Past, Script) {
        let (disk, world, script) = (SimulatedDisk::new(7), World::new(), Script::new(7, 40));
        live(&disk, &world, &script, &Settings::small(7, 2), None);
        let past = world.past();
        verdict(&disk, &past, &script).expect("right");
        garbage(&disk, &disk).expect("clean");
        (disk, past, script)
    }

    #[test]
    fn the_judge_sees_what_is_wrong() {
        let (disk, past, script) = lived();
        let tampered = |tamper: &dyn Fn(&LocalStorage)| {
            let disk = disk.kill();
            tamper(&LocalStorage::on(Arc::new(disk.clone()), "data").expect("a disk"));
            verdict(&disk, &past, &script).expect_err("it is wrong now")
        };
        let newest = |storage: &LocalStorage, dir: &str, suffix: &str| {
            let entries = storage.list(dir).expect("listed");
            let name = entries.iter().rev().find(|entry| entry.name.ends_with(suffix)).expect("there").name.clone();
            format!("{dir}/{name}")
        };
        for table in ["raw_r", "tumbled", "hopped", "totals", "tumbled$late", "r$dead"] {
            let log = format!("tables/{table}/_delta_log");
            let lost = tampered(&|storage| storage.delete(&newest(storage, &log, ".json")).expect("deleted"));
            assert!(lost.contains(table) && lost.contains("missing"), "{lost}");
            let gone = tampered(&|storage| {
                storage.delete(&newest(storage, &format!("tables/{table}"), ".parquet")).expect("deleted");
            });
            assert!(gone.contains("does not exist"), "{gone}");
            let twice = tampered(&|storage| {
                let last = newest(storage, &log, ".json");
                let commit = String::from_utf8(storage.get(&last).expect("read").to_vec()).expect("text");
                let add = commit.lines().find(|line| line.starts_with("{\"add\"")).expect("a file");
                storage.put(&last, format!("{commit}{add}\n").as_bytes()).expect("written");
            });
            assert!(twice.contains(table) && twice.contains("should add"), "{twice}");
        }
        let judged = |past: &Past| verdict(&disk, past, &script).expect_err("it is wrong now");
        let mut more = past.clone();
        more.sent[3].acked += 1;
        assert!(judged(&more).contains("acknowledged 2 times"));
        let mut fewer = past.clone();
        fewer.sent.remove(0);
        assert!(judged(&fewer).contains("was never sent"));
        let litter = disk.kill();
        let storage = LocalStorage::on(Arc::new(litter.clone()), "data").expect("a disk");
        storage.put("checkpoint/state/000000000001-00000000000000000001-0009.pack", b"").expect("written");
        assert!(garbage(&litter, &litter).expect_err("litter").contains("no manifest names"));
    }
}
