//! Replays that begin at a checkpoint, and how far back a log goes.

use super::*;

#[test]
fn a_replay_behind_any_epoch_yields_exactly_what_follows_its_seal() {
    for seed in 0..20 {
        let storage = MemoryStorage::default();
        let written = write_example(&storage, seed, 500);
        for epoch in 0..=last_sealed(&written).0 {
            let epoch = Epoch(epoch);
            let records = read_behind(&storage, epoch).unwrap();
            assert_eq!(records[..], written[count_before(&written, epoch)..], "seed {seed}, epoch {epoch}");
        }
    }
}

#[test]
fn a_log_goes_on_the_same_after_a_skipped_replay() {
    for seed in 0..20 {
        let storage = MemoryStorage::default();
        let mut written = write_example(&storage, seed, 900);
        let mut feed = Feed::new(seed + 1_000);
        for life in 0..5 {
            let epoch = Epoch(feed.random.random_range(0..=last_sealed(&written).0));
            let mut replay = open(&storage, options(900)).unwrap();
            replay.skip_to(epoch).unwrap();
            assert!(replay.settled_epoch() <= last_sealed(&written));
            let records = read_all(&mut replay).unwrap();
            assert_eq!(records[..], written[count_before(&written, epoch)..], "seed {seed}, life {life}");
            let mut writer = replay.finish().unwrap();
            feed.rewind(&written);
            assert_eq!((writer.next_offset(), writer.open_epoch()), (feed.position.next, feed.position.epoch));
            for _ in 0..life {
                let group = feed.group();
                append_all(&mut writer, &group);
                writer.sync().unwrap();
                written.extend(group);
            }
        }
        assert_eq!(recover(&storage, options(900)).unwrap().0, written);
    }
}

#[test]
fn segments_before_the_place_are_not_read() {
    let storage = MemoryStorage::default();
    let written = write_example(&storage, 3, 500);
    let last = last_sealed(&written);
    // Every byte behind the header of the first segment, and still nobody minds.
    let (path, bytes) = files(&storage).swap_remove(0);
    let mut garbled = bytes.to_vec();
    garbled[segment::HEADER_BYTES..].fill(0xa5);
    storage.put(&path, &garbled).unwrap();
    assert_eq!(read_behind(&storage, last).unwrap()[..], written[count_before(&written, last)..]);
    let error = read_behind(&storage, Epoch::NONE).unwrap_err();
    assert!(matches!(&error, LogError::Damaged { path: at, .. } if *at == path), "{error}");
}

#[test]
fn a_log_that_begins_later_is_refused_by_name_and_epoch_and_can_be_skipped_elsewhere() {
    let storage = MemoryStorage::default();
    let written = write_example(&storage, 5, 500);
    let whole = open(&storage, options(500)).unwrap();
    assert_eq!(whole.reach(), Reach { first: Epoch::FIRST, whole: true });

    let last = last_sealed(&written);
    assert!(shrink(&storage, DIR, last).unwrap().segments > 0);
    let before = files(&storage);
    let mut replay = open(&storage, options(500)).unwrap();
    let Reach { first, whole } = replay.reach();
    assert!(!whole && first > Epoch::FIRST && first <= last, "{first}");
    for epoch in [Epoch::NONE, Epoch(first.0 - 2)] {
        let error = replay.skip_to(epoch).unwrap_err();
        assert!(matches!(&error, LogError::BeginsLater { path, .. } if *path == before[0].0), "{error}");
        let text = error.to_string();
        assert!(text.contains(&format!("begins with epoch {first}")), "{text}");
        assert!(text.contains(&format!("checkpoint of epoch {} or later", first.0 - 1)), "{text}");
    }
    replay.skip_to(Epoch(first.0 - 1)).unwrap();
    let expected = &written[count_before(&written, Epoch(first.0 - 1))..];
    assert_eq!(read_all(&mut replay).unwrap(), expected);
    // Without a skip it begins with what is there.
    assert_eq!(read_all(&mut open(&storage, options(500)).unwrap()).unwrap(), expected);
    assert_eq!(files(&storage), before);
}

#[test]
fn a_log_that_has_lost_its_end_is_refused_by_name_and_epoch() {
    let storage = MemoryStorage::default();
    let written = write_example(&storage, 6, 500);
    let last = last_sealed(&written);
    let before = files(&storage);
    for epoch in [last.next(), Epoch(last.0 + 100), Epoch(u64::MAX)] {
        let mut replay = open(&storage, options(500)).unwrap();
        let error = replay.skip_to(epoch).unwrap_err();
        let LogError::EndsEarlier { path, last: found, .. } = &error else { panic!("{error}") };
        assert_eq!((path, *found), (&before[before.len() - 1].0, last));
        assert!(error.to_string().contains(&format!("ends with epoch {last}")), "{error}");
        assert!(matches!(replay.next(), Err(LogError::Poisoned(_))));
    }
    assert_eq!(files(&storage), before);
}

#[test]
fn the_age_of_a_log_is_that_of_the_oldest_seal_that_is_left() {
    let storage = MemoryStorage::default();
    let (_, mut writer) = recover(&storage, options(0)).unwrap();
    assert_eq!(open(&storage, options(0)).unwrap().oldest_sealed_us().unwrap(), None);
    for epoch in 1..=9 {
        writer.append(&seal(epoch, false));
        writer.sync().unwrap();
    }
    assert_eq!(open(&storage, options(0)).unwrap().oldest_sealed_us().unwrap(), Some(1_000));
    shrink(&storage, DIR, Epoch(6)).unwrap();
    let mut replay = open(&storage, options(0)).unwrap();
    replay.skip_to(Epoch(8)).unwrap();
    assert_eq!(replay.oldest_sealed_us().unwrap(), Some(6_000));
    assert_eq!(read_all(&mut replay).unwrap(), [seal(9, false)]);
}
