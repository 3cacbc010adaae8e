//! Logs of earlier format versions: they lie in `golden/` and must open for ever.
//!
//! Each was made by two processes: segments of several epochs, every kind of record of its version, and a segment that
//! recovery made. `golden/v1_torn/` is the same with its last record torn. Version 2 has records with notes and attributes.
//!
//! When a version 3 comes: leave the folders as they are, and the tests that open them. Give `records_of` its records, and
//! `NEWEST` its number; run the tests with `TIDEMILL_GOLDEN_OUT` set to the full path of an empty folder, and move `whole`
//! and `torn` from there to `golden/v3` and `golden/v3_torn`.

use super::*;

/// The format version that is written.
const NEWEST: u32 = 2;

/// Bytes that are missing at the end of the torn log.
const TORN_BYTES: usize = 5;

fn message(topic: &'static str, payload: &'static str) -> Message {
    Message::new(topic, payload)
}

/// The groups of the first and of the second process, of a format version.
fn groups(version: u32) -> [Vec<Vec<Record>>; 2] {
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
        notes: Vec::new(),
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
    let noted = Record::Messages {
        partition: PartitionId(0),
        arrival_us: 7,
        first: Offset(15),
        messages: Vec::new(),
        notes: vec![Note::new("7", "held"), Note::forget("6")],
    };
    let with_attributes = Record::Messages {
        partition: PartitionId(0),
        arrival_us: 8,
        first: Offset(15),
        messages: vec![Message { attributes: Bytes::from_static(b"\x02"), ..message("plant/1", "{\"t\":22.5}") }],
        notes: Vec::new(),
    };
    let last = match version {
        1 => vec![readings(15, &[message("plant/1", "{\"t\":22.5}")])],
        _ => vec![noted, with_attributes],
    };
    let second = vec![
        vec![open(2, "", ""), seal(4, true)],
        vec![readings(14, &[message("plant/1", "{\"t\":21.5}")]), seal(5, false)],
        [last, vec![seal(6, false)]].concat(),
    ];
    [first, second]
}

fn records(version: u32) -> Vec<Record> {
    groups(version).into_iter().flatten().flatten().collect()
}

/// Writes the log of which the golden files are one copy.
fn write_log() -> MemoryStorage {
    let storage = MemoryStorage::default();
    let options = LogOptions { segment_bytes_max: 400, checkpoint_segment_bytes_min: 300 };
    for process in groups(NEWEST) {
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
fn a_log_of_each_version_opens_with_every_record() {
    (1..=NEWEST).for_each(opens);
}

fn opens(version: u32) {
    let golden = || golden(&format!("v{version}"));
    let records = || records(version);
    let log = golden();
    assert!((3..=6).contains(&files(&log).len()), "several segments");
    let (found, mut writer) = recover(&log, LogOptions::default()).unwrap();
    assert_eq!(found, records());
    let next = seal(7, false);
    writer.append(&next);
    writer.sync().unwrap();
    assert_eq!(recover(&log, LogOptions::default()).unwrap().0, [records(), vec![next]].concat());

    let log = golden();
    for epoch in 0..=6 {
        assert_eq!(read_behind(&log, Epoch(epoch)).unwrap(), records()[count_before(&records(), Epoch(epoch))..]);
    }
    let description = describe(&log, DIR).unwrap().unwrap();
    assert_eq!((description.epochs, description.checkpoints, description.messages), (6, 2, 16));
}

#[test]
fn a_torn_log_of_each_version_opens_without_the_torn_record() {
    for version in 1..=NEWEST {
        let log = golden(&format!("v{version}_torn"));
        let (found, _) = recover(&log, LogOptions::default()).unwrap();
        assert_eq!(found, records(version)[..records(version).len() - 1]);
    }
}

#[test]
fn the_bytes_of_the_newest_version_stay_as_they_are() {
    let whole = write_log();
    if let Some(folder) = std::env::var_os("TIDEMILL_GOLDEN_OUT") {
        let out = LocalStorage::open(folder).unwrap();
        for (name, log) in [("whole", &whole), ("torn", &torn(&whole))] {
            for (path, bytes) in files(log) {
                out.put_new(&path.replacen(DIR, name, 1), &bytes).unwrap();
            }
        }
    }
    let (newest, newest_torn) = (format!("v{NEWEST}"), format!("v{NEWEST}_torn"));
    assert_eq!(files(&golden(&newest)), files(&whole), "who changes the format gives it a new version");
    assert_eq!(files(&golden(&newest_torn)), files(&torn(&whole)));
}

#[test]
fn a_log_with_a_segment_of_a_newer_version_is_refused_and_stays_byte_for_byte() {
    let segment_count = files(&golden("v1")).len();
    for newer in 0..segment_count {
        let log = golden("v1");
        let (path, bytes) = files(&log).swap_remove(newer);
        // All else may mean something else in a newer version: also a checksum that is elsewhere.
        let mut bytes = bytes.to_vec();
        bytes[8..12].copy_from_slice(&(NEWEST + 1).to_le_bytes());
        log.put(&path, &bytes).unwrap();
        let before = files(&log);
        let refusals =
            [open(&log, LogOptions::default()).map(drop).unwrap_err(), describe(&log, DIR).map(drop).unwrap_err()];
        for error in refusals {
            let is_it =
                matches!(&error, LogError::Newer { path: at, version } if *version == NEWEST + 1 && *at == path);
            assert!(is_it && error.to_string().contains("newer version of the program"), "{error}");
        }
        assert_eq!(files(&log), before);
    }
}
