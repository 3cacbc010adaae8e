//! Logs that shrink: what is deleted, what is kept, and where segments end so that something can be.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

#[test]
fn what_is_kept_is_replayed_whatever_was_deleted() {
    for seed in 0..30 {
        let storage = MemoryStorage::default();
        let written = write_example(&storage, seed, 400);
        let bytes_before: usize = files(&storage).iter().map(|(_, bytes)| bytes.len()).sum();
        let (mut deleted, mut deleted_bytes) = (0, 0);
        for keep_from in 1..=last_sealed(&written).0 + 1 {
            let shrunk = shrink(&storage, DIR, Epoch(keep_from)).unwrap();
            assert_eq!(shrink(&storage, DIR, Epoch(keep_from)).unwrap(), Shrunk::default(), "it is done at once");
            deleted += shrunk.segments;
            deleted_bytes += shrunk.bytes;
            let epoch = Epoch(keep_from - 1);
            let records = read_behind(&storage, epoch).unwrap();
            assert_eq!(records[..], written[count_before(&written, epoch)..], "seed {seed}, from {keep_from}");
            // As small as it can be: the second segment holds something that is kept.
            if let [_, second, ..] = &segment::load(&storage, DIR).unwrap()[..] {
                assert!(second.header.start.epoch > Epoch(keep_from), "seed {seed}, from {keep_from}");
            }
        }
        let bytes_after: usize = files(&storage).iter().map(|(_, bytes)| bytes.len()).sum();
        assert_eq!(deleted_bytes, (bytes_before - bytes_after) as u64);
        assert!(deleted > 3, "seed {seed}: the test wants several segments, {deleted} were deleted");
    }
}

#[test]
fn the_last_segment_stays_and_a_folder_without_a_log_is_left_alone() {
    let storage = MemoryStorage::default();
    assert_eq!(shrink(&storage, DIR, Epoch(9)).unwrap(), Shrunk::default());
    assert_eq!(files(&storage), []);
    let written = write_example(&storage, 1, 400);
    storage.put(&format!("{DIR}/notes.txt"), b"mine").unwrap();
    shrink(&storage, DIR, Epoch(u64::MAX)).unwrap();
    assert_eq!(files(&storage).len(), 2);
    let (records, mut writer) = recover(&storage, options(400)).unwrap();
    assert!(written.ends_with(&records));
    writer.append(&seal(last_sealed(&written).0 + 1, false));
    writer.sync().unwrap();
}

#[test]
fn nothing_behind_damage_is_deleted() {
    let storage = MemoryStorage::default();
    let written = write_example(&storage, 2, 400);
    let paths: Vec<String> = files(&storage).into_iter().map(|(path, _)| path).collect();
    storage.delete(&paths[2]).unwrap();
    let error = shrink(&storage, DIR, last_sealed(&written)).unwrap_err();
    assert!(matches!(&error, LogError::Damaged { path, .. } if *path == paths[2]), "{error}");
    // The first one went before the gap was met; the one before the gap is needed to tell that there is one.
    let left: Vec<String> = files(&storage).into_iter().map(|(path, _)| path).collect();
    assert_eq!(left, [&paths[1..2], &paths[3..]].concat());
}

#[test]
fn a_log_shrinks_while_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Arc::new(LocalStorage::open(folder.path()).unwrap());
    let mut replay = Log::open(storage.clone(), DIR, &SeededDice::new(1), options(300)).unwrap();
    assert!(replay.next().unwrap().is_none());
    let mut writer = replay.finish().unwrap();
    let mut feed = Feed::new(8);
    let mut written = Vec::new();
    let (keep_from, done) = (AtomicU64::new(1), AtomicBool::new(false));
    let deleted = std::thread::scope(|scope| {
        let shrinker = scope.spawn(|| {
            let mut deleted = 0;
            while !done.load(Ordering::SeqCst) {
                deleted += shrink(&*storage, DIR, Epoch(keep_from.load(Ordering::SeqCst))).unwrap().segments;
            }
            deleted
        });
        while written.len() < 600 {
            let group = feed.group();
            append_all(&mut writer, &group);
            writer.sync().unwrap();
            written.extend(group);
            keep_from.store(last_sealed(&written).next().0, Ordering::SeqCst);
        }
        done.store(true, Ordering::SeqCst);
        shrinker.join().unwrap()
    });
    let deleted = deleted + shrink(&*storage, DIR, last_sealed(&written).next()).unwrap().segments;
    assert!(deleted > 20, "{deleted} segments were deleted");
    let mut replay = Log::open(storage, DIR, &SeededDice::new(1), options(300)).unwrap();
    let last = last_sealed(&written);
    replay.skip_to(last).unwrap();
    assert_eq!(read_all(&mut replay).unwrap()[..], written[count_before(&written, last)..]);
}

/// Writes messages and a Seal for each epoch, each synced; returns the sizes of the segments.
fn segment_sizes(options: LogOptions, epochs: u64, message_bytes: usize) -> Vec<usize> {
    let storage = MemoryStorage::default();
    let (_, mut writer) = recover(&storage, options).unwrap();
    let partition = PartitionId(0);
    writer.append(&Record::Open { partition, source: "s".to_owned(), name: "p".to_owned() });
    for epoch in 1..=epochs {
        let messages = vec![Message::new("", vec![1; message_bytes])];
        writer.append(&Record::Messages {
            partition,
            arrival_us: 0,
            first: Offset(epoch - 1),
            messages,
            notes: Vec::new(),
        });
        writer.append(&seal(epoch, epoch % 10 == 0));
        writer.sync().unwrap();
    }
    files(&storage).iter().map(|(_, bytes)| bytes.len()).collect()
}

#[test]
fn a_quiet_log_leaves_a_segment_at_a_checkpoint_long_before_it_is_full() {
    let options = LogOptions::default();
    let sizes = segment_sizes(options, 1_000, 10_000);
    // Ten epochs of 10 kB between two checkpoints: 1 MiB is passed by less than that.
    let most = options.checkpoint_segment_bytes_min as usize + 10 * 11_000;
    assert!(sizes.len() >= 9, "{sizes:?}");
    let (_, filled) = sizes.split_last().unwrap();
    assert!(filled.iter().all(|size| (1 << 20..most).contains(size)), "{sizes:?}");
}

#[test]
fn many_checkpoints_in_little_input_make_few_files() {
    assert_eq!(segment_sizes(LogOptions::default(), 5_000, 10).len(), 1);
}
