//! Logs of earlier format versions: they lie in `golden/` and must open for ever.
//!
//! `golden/v1/` was made by two processes: segments of several epochs, every kind of record, and a segment that recovery
//! made. `golden/v1_torn/` is the same with its last record torn.
//!
//! When a version 2 comes: leave `v1` as it is, and the tests that open it. Give `write_log` and the claim about bytes
//! the new version's folder; run the tests with `TIDEMILL_GOLDEN_OUT` set to the full path of an empty folder, move
//! `whole` and `torn` from there to `golden/v2` and `golden/v2_torn`, and add them to the tests that open.

use super::*;

/// Bytes that are missing at the end of the torn log.
const TORN_BYTES: usize = 5;

fn message(topic: &'static str, payload: &'static str) -> Message {
    Message { topic: Bytes::from_static(topic.as_bytes()), payload: Bytes::from_static(payload.as_bytes()) }
}

/// The groups of the first and of the second process.
fn groups() -> [Vec<Vec<Record>>; 2] {
    let open = |id: u32, source: &str, name: &str| Record::Open {
        partition: PartitionId(id),
        source: source.to_owned(),
        name: name.to_owned(),
    };
    let readings = |first: u64, messages: &[Message]| Record::Messages {
        partition: PartitionId(0),
        arrival_us: 1_763_640_000_000_000 + first as i64,
        first: Offset(first),
        messages: messages.to_vec(),
    };
    let range = |first: u64, start: u64| Record::Range {
        partition: PartitionId(1),
        arrival_us: -1,
        first: Offset(first),
        rows: 5,
        start,
        end: start + 120,
        checksum: 0xdead_beef,
    };
    let first = vec![
        vec![open(0, "readings", "mqtt/0"), open(1, "archive", "2026-11.csv")],
        vec![readings(0, &[message("plant/1", "{\"t\":20.5}"), message("plant/2", "{\"t\":19.0}")]), seal(1, false)],
        vec![range(2, 0), seal(2, true), readings(7, &[message("", "")])],
        vec![readings(8, &[]), range(8, 120), Record::End { partition: PartitionId(1) }, seal(3, false)],
        vec![readings(13, &[message("plant/größe", "no JSON \u{0} at all")])],
    ];
    let second = vec![
        vec![open(2, "", ""), seal(4, true)],
        vec![readings(14, &[message("plant/1", "{\"t\":21.5}")]), seal(5, false)],
        vec![readings(15, &[message("plant/1", "{\"t\":22.5}")]), seal(6, false)],
    ];
    [first, second]
}

fn records() -> Vec<Record> {
    groups().into_iter().flatten().flatten().collect()
}

/// Writes the log of which the golden files are one copy.
fn write_log() -> MemoryStorage {
    let storage = MemoryStorage::default();
    let options = LogOptions { segment_bytes_max: 400, checkpoint_segment_bytes_min: 300 };
    for process in groups() {
        let (_, mut writer) = recover(&storage, options).unwrap();
        for group in process {
            append_all(&mut writer, &group);
            writer.sync().unwrap();
        }
    }
    storage
}

fn torn(whole: &MemoryStorage) -> MemoryStorage {
    let torn = copy(whole);
    let (path, bytes) = files(&torn).pop().unwrap();
    torn.put(&path, &bytes[..bytes.len() - TORN_BYTES]).unwrap();
    torn
}

/// Returns a copy of a golden folder, so that nothing can change it.
fn golden(name: &str) -> MemoryStorage {
    let folder = format!("{}/src/ingest/tests/golden", env!("CARGO_MANIFEST_DIR"));
    let disk = LocalStorage::existing(folder).unwrap();
    let log = MemoryStorage::default();
    for entry in disk.list(name).unwrap() {
        log.put(&format!("{DIR}/{}", entry.name), &disk.get(&format!("{name}/{}", entry.name)).unwrap()).unwrap();
    }
    log
}

#[test]
fn a_log_of_version_1_opens_with_every_record() {
    let log = golden("v1");
    assert!((3..=6).contains(&files(&log).len()), "several segments");
    let (found, mut writer) = recover(&log, LogOptions::default()).unwrap();
    assert_eq!(found, records());
    let next = seal(7, false);
    writer.append(&next);
    writer.sync().unwrap();
    assert_eq!(recover(&log, LogOptions::default()).unwrap().0, [records(), vec![next]].concat());

    let log = golden("v1");
    for epoch in 0..=6 {
        assert_eq!(read_behind(&log, Epoch(epoch)).unwrap(), records()[count_before(&records(), Epoch(epoch))..]);
    }
    let description = describe(&log, DIR).unwrap().unwrap();
    assert_eq!((description.epochs, description.checkpoints, description.messages), (6, 2, 16));
}

#[test]
fn a_torn_log_of_version_1_opens_without_the_torn_record() {
    let log = golden("v1_torn");
    let (found, _) = recover(&log, LogOptions::default()).unwrap();
    assert_eq!(found, records()[..records().len() - 1]);
}

#[test]
fn the_bytes_of_version_1_stay_as_they_are() {
    let whole = write_log();
    if let Some(folder) = std::env::var_os("TIDEMILL_GOLDEN_OUT") {
        let out = LocalStorage::open(folder).unwrap();
        for (name, log) in [("whole", &whole), ("torn", &torn(&whole))] {
            for (path, bytes) in files(log) {
                out.put_new(&path.replacen(DIR, name, 1), &bytes).unwrap();
            }
        }
    }
    assert_eq!(files(&golden("v1")), files(&whole), "who changes the format gives it a new version");
    assert_eq!(files(&golden("v1_torn")), files(&torn(&whole)));
}

#[test]
fn a_log_with_a_segment_of_version_2_is_refused_and_stays_byte_for_byte() {
    let segment_count = files(&golden("v1")).len();
    for newer in 0..segment_count {
        let log = golden("v1");
        let (path, bytes) = files(&log).swap_remove(newer);
        // All else may mean something else in a newer version: also a checksum that is elsewhere.
        let mut bytes = bytes.to_vec();
        bytes[8..12].copy_from_slice(&2u32.to_le_bytes());
        log.put(&path, &bytes).unwrap();
        let before = files(&log);
        let refusals =
            [open(&log, LogOptions::default()).map(drop).unwrap_err(), describe(&log, DIR).map(drop).unwrap_err()];
        for error in refusals {
            let is_it = matches!(&error, LogError::Newer { path: at, version: 2 } if *at == path);
            assert!(is_it && error.to_string().contains("newer version of the program"), "{error}");
        }
        assert_eq!(files(&log), before);
    }
}
