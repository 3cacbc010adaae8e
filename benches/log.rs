//! The ingest log on the disk of the temporary folder: groups of messages, one fdatasync each, against the same bytes
//! written and synced by hand.

mod workload;

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use tidemill_engine::clock::SystemDice;
use tidemill_engine::epoch::Epoch;
use tidemill_engine::ingest::{Log, LogOptions, PartitionId, Record};
use tidemill_engine::source::{Message, Offset};
use tidemill_engine::storage::LocalStorage;
use workload::Count;

const GROUPS: usize = 100;

fn main() {
    for messages in [1usize, 100, 1_000, 10_000] {
        let payload = bytes::Bytes::from(vec![b'x'; 100]);
        let group = vec![Message::new("", payload); messages];
        let mut bytes = 0;
        let times =
            workload::interleaved(Count::Wall, 3, &mut [&mut || bytes = log(&group), &mut || by_hand(messages * 116)]);
        workload::report(
            &format!("{GROUPS} groups of {messages} messages of 100 B, {bytes} bytes in the log"),
            "k messages/s",
            (GROUPS * messages) as f64 / 1e3,
            &["log append and group sync", "write and fdatasync"],
            &times,
        );
    }
}

/// Appends and syncs the groups; returns the bytes of the log.
fn log(group: &[Message]) -> u64 {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = Arc::new(LocalStorage::open(folder.path()).expect("opens"));
    let mut replay = Log::open(storage, "log", &SystemDice, LogOptions::default()).expect("opens");
    assert!(replay.next().expect("reads").is_none());
    let mut writer = replay.finish().expect("writes");
    let partition = PartitionId(0);
    writer.append(&Record::Open { partition, source: "bench".to_owned(), name: "0".to_owned() });
    let mut record =
        Record::Messages { partition, arrival_us: 0, first: Offset(0), messages: group.to_vec(), notes: Vec::new() };
    for at in 0..GROUPS {
        if let Record::Messages { first, .. } = &mut record {
            *first = Offset((at * group.len()) as u64);
        }
        writer.append(&record);
        writer.append(&Record::Seal { epoch: Epoch(at as u64 + 1), now_us: 0, checkpoint: false });
        writer.sync().expect("syncs");
    }
    writer.bytes()
}

#[expect(clippy::disallowed_methods, reason = "the yardstick is what the system call costs")]
fn by_hand(bytes: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut file = File::create(folder.path().join("log")).expect("creates");
    let group = vec![b'x'; bytes];
    for _ in 0..GROUPS {
        file.write_all(&group).expect("writes");
        file.sync_data().expect("syncs");
    }
}
