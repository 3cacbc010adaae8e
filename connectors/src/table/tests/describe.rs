//! The description of a table tells what is there, and what is wrong with it.

use super::*;
use crate::table::{Checksums, FileState, OrphanKind, TableDescription, checkpoint, describe};

fn description(storage: &Arc<dyn Storage>, checksums: Checksums) -> TableDescription {
    describe(&**storage, DIR, checksums).unwrap().expect("a table")
}

#[test]
fn a_description_tells_what_is_there() {
    let storage = memory();
    assert!(describe(&*storage, DIR, Checksums::Verify).unwrap().is_none());
    let daily = || spec(Partitioning::Day("ts".to_owned()));
    let mut job = open(&storage, plain()).unwrap();
    job.commit_epoch(1, row(1));
    let mut sink = look(&storage, daily()).unwrap();
    sink.begin(Epoch(1)).unwrap();
    let mut job = Process::new(sink);
    job.write_epoch(3, row(9));
    let committables = job.prepare(4, &[(2, row(2)), (4, row(4))]).unwrap();
    job.commit(4, &committables).unwrap();
    job.write_epoch(7, row(7));
    storage.put(&format!("{DIR}/note.txt"), b"not ours").unwrap();

    let table = description(&storage, Checksums::Verify);
    assert_eq!((table.version, table.reader_protocol, table.writer_protocol), (3, 1, 2));
    assert_eq!((table.generation, table.base, table.last_committed), (1, 1, 4));
    assert_eq!(table.app_id.as_deref(), Some("tidemill/job-1/readings$raw"));
    assert_eq!(table.transactions["tidemill/job-1/readings$raw@1"], 4);
    assert_eq!((table.rows, table.files.len(), table.partition_columns), (2, 1, vec!["date".to_owned()]));
    let file = &table.files[0];
    assert_eq!((file.rows, file.lo_epoch, file.hi_epoch), (Some(2), Some(2), Some(4)));
    assert_eq!(file.partition["date"].as_deref(), Some("2026-11-20"));
    assert_eq!(file.state, FileState::Whole);
    let day_ms = DAY_US / 1_000;
    let removed = &table.removed[0];
    assert_eq!(removed.removed_at_ms, Some(NOVEMBER_20_US / 1_000));
    assert_eq!(removed.deletable_at_ms, Some(NOVEMBER_20_US / 1_000 + day_ms));
    let kinds: Vec<OrphanKind> = table.orphans.iter().map(|orphan| orphan.kind).collect();
    assert_eq!(kinds, [OrphanKind::Abandoned, OrphanKind::Pending, OrphanKind::Unknown]);
    assert_eq!((table.log.first_version, table.log.versions, table.log.newest_checkpoint), (Some(0), 4, None));
    let json = serde_json::to_value(description(&storage, Checksums::Skip)).unwrap();
    assert_eq!(json["files"][0]["state"], "present");
}

#[test]
fn a_newest_checkpoint_that_readers_cannot_read_is_told_of_in_any_case() {
    let storage = memory();
    open(&storage, plain()).unwrap().commit_epoch(1, row(1));
    checkpoint::write(&*storage, DIR, 1, 0).unwrap();
    let state = || description(&storage, Checksums::Skip).log.checkpoints[0].state.clone();
    assert_eq!(state(), FileState::Present);
    let path = format!("{DIR}/_delta_log/{}", checkpoint::file_name(1));
    let bytes = storage.get(&path).unwrap();
    storage.put(&path, &bytes[1..]).unwrap();
    assert!(matches!(state(), FileState::Damaged(what) if what.contains("its checksum is")));
    storage.delete(&path).unwrap();
    assert!(matches!(state(), FileState::Damaged(what) if what.contains("it is missing")));
}

#[test]
fn a_damaged_file_is_found_when_the_bytes_are_read() {
    let storage = memory();
    let mut job = open(&storage, plain()).unwrap();
    job.commit_epoch(1, row(1));
    let file = snapshot(&storage).files[0].clone();
    let path = format!("{DIR}/{}", file.path);
    let bytes = storage.get(&path).unwrap();
    let state = |checksums| description(&storage, checksums).files[0].state.clone();
    // Each bit of a file counts, wherever it lies.
    for at in 0..bytes.len() {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1;
        assert!(file.verify(&flipped).unwrap_err().to_string().contains("its checksum is"), "byte {at}");
    }
    assert!(file.verify(&bytes).is_ok());
    let mut flipped = bytes.to_vec();
    flipped[bytes.len() / 2] ^= 1;
    storage.put(&path, &flipped).unwrap();
    assert_eq!(state(Checksums::Skip), FileState::Present);
    assert!(matches!(state(Checksums::Verify), FileState::Damaged(why) if why.contains("its checksum is")));
    storage.put(&path, &bytes[1..]).unwrap();
    assert!(matches!(state(Checksums::Skip), FileState::Damaged(why) if why.contains("bytes, not")));
    storage.delete(&path).unwrap();
    assert_eq!(state(Checksums::Skip), FileState::Missing);
}
