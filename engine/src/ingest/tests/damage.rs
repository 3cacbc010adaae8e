//! Damage: what was durable once and is not there any more as it was. It is refused, and nothing is changed.

use super::*;

/// A log of several segments and lives, and how many of its records are in groups before the last.
/// The last group lies whole in the last segment.
fn example() -> (MemoryStorage, Vec<Record>, usize) {
    let storage = MemoryStorage::default();
    let mut feed = Feed::new(16);
    let mut written = Vec::new();
    let mut before_last_group = 0;
    for _ in 0..3 {
        let (_, mut writer) = recover(&storage, options(700)).unwrap();
        for _ in 0..6 {
            before_last_group = written.len();
            let group = feed.group();
            append_all(&mut writer, &group);
            writer.sync().unwrap();
            written.extend(group);
        }
    }
    assert!(files(&storage).len() >= 4);
    (storage, written, before_last_group)
}

/// Asserts that the log is refused at a byte of `path`, and left as it is.
fn assert_refused(storage: &MemoryStorage, path: &str) {
    let before = files(storage);
    let error = recover(storage, options(700)).map(drop).unwrap_err();
    assert!(matches!(&error, LogError::Damaged { path: at, .. } if at == path), "{path}: {error}");
    assert!(error.to_string().contains("Restore"), "{error}");
    assert_eq!(files(storage), before);
}

#[test]
fn every_flipped_byte_is_found_or_in_a_tail_and_no_wrong_record_comes_out() {
    let (storage, written, before_last_group) = example();
    let (refused, cut, harmless) = flip_every_byte(&storage, &written, before_last_group, Epoch::NONE);
    assert!(refused > 10 * cut && cut > 0 && harmless > 0, "refused {refused}, cut {cut}, harmless {harmless}");
}

#[test]
fn every_flipped_byte_behind_a_checkpoint_is_found_also_after_a_shrink() {
    let (storage, written, before_last_group) = example();
    let checkpoint = Epoch(last_sealed(&written).0 / 2);
    let whole = flip_every_byte(&storage, &written, before_last_group, checkpoint);
    assert!(shrink(&storage, DIR, checkpoint.next()).unwrap().segments > 0);
    let (refused, cut, harmless) = flip_every_byte(&storage, &written, before_last_group, checkpoint);
    assert!(refused > 5 * cut && cut > 0, "refused {refused}, cut {cut}, harmless {harmless}");
    // What is gone was not read before, but for its headers.
    assert!(whole.0 - refused <= 4 * segment::HEADER_BYTES && whole.1 == cut && whole.2 > harmless, "{whole:?}");
}

/// Flips a bit in each byte of the log in turn, and replays it behind an epoch. Asserts that nothing wrong comes out, and
/// that nothing durable is cut; returns how often the log was refused, cut, or gave everything.
fn flip_every_byte(
    storage: &MemoryStorage,
    written: &[Record],
    before_last_group: usize,
    epoch: Epoch,
) -> (usize, usize, usize) {
    let mut random = SmallRng::seed_from_u64(1);
    let (mut refused, mut cut, mut harmless) = (0, 0, 0);
    let start = count_before(written, epoch);
    for (path, bytes) in files(storage) {
        for at in 0..bytes.len() {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1 << random.random_range(0..8);
            let damaged = copy(storage);
            damaged.put(&path, &flipped).unwrap();
            let before = files(&damaged);
            let mut replay = match open(&damaged, options(700)) {
                Ok(replay) => replay,
                Err(LogError::Damaged { .. } | LogError::Newer { .. }) => {
                    refused += 1;
                    continue;
                }
                Err(error) => panic!("{path} at {at}: {error}"),
            };
            match replay.skip_to(epoch).and_then(|()| read_all(&mut replay)) {
                Err(LogError::Damaged { .. }) => refused += 1,
                Err(error) => panic!("{path} at {at}: {error}"),
                Ok(records) => {
                    let count = start + records.len();
                    assert!(count >= before_last_group, "{path} at {at}: durable records were cut");
                    assert_eq!(records[..], written[start..count], "{path} at {at}");
                    // Harmless: before the checkpoint, or behind the end of a segment whose tail was copied to the next.
                    *(if count < written.len() { &mut cut } else { &mut harmless }) += 1;
                }
            }
            assert_eq!(files(&damaged), before, "{path} at {at}");
        }
    }
    (refused, cut, harmless)
}

#[test]
fn damage_in_the_last_segment_is_told_from_a_torn_tail_by_a_later_group() {
    let storage = MemoryStorage::default();
    let (_, mut writer) = recover(&storage, LogOptions::default()).unwrap();
    let mut feed = Feed::new(2);
    let mut ends = Vec::new();
    for _ in 0..3 {
        append_all(&mut writer, &feed.records(5));
        writer.sync().unwrap();
        ends.push(writer.bytes() as usize);
    }
    let path = segment::path(DIR, 1);
    let whole = storage.get(&path).unwrap();
    let inverted = |range: std::ops::Range<usize>| {
        let mut bytes = whole.to_vec();
        bytes[range].iter_mut().for_each(|byte| *byte = !*byte);
        let damaged = MemoryStorage::default();
        damaged.put(&path, &bytes).unwrap();
        damaged
    };
    // The second group's last byte: the third group is there, so the second was durable.
    assert_refused(&inverted(ends[1] - 1..ends[1]), &path);
    // All of the third group but its last record: that record is of the same group, which was never acknowledged.
    let (records, _) = recover(&inverted(ends[1]..ends[1] + 40), LogOptions::default()).unwrap();
    assert_eq!(records.len(), 10);
}

#[test]
fn missing_swapped_shortened_and_foreign_segments_are_refused() {
    let (storage, ..) = example();
    let (path, bytes): (Vec<String>, Vec<Bytes>) = files(&storage).into_iter().unzip();

    // Without the first one it is a log that was shrunk: see `skip.rs` for who needs what was in it.
    for missing in &path[1..path.len() - 1] {
        let damaged = copy(&storage);
        damaged.delete(missing).unwrap();
        assert_refused(&damaged, missing);
    }

    let damaged = copy(&storage);
    damaged.put(&path[1], &bytes[2]).unwrap();
    damaged.put(&path[2], &bytes[1]).unwrap();
    assert_refused(&damaged, &path[1]);

    // A segment of no bytes is no crash of ours: segments appear with their header.
    for shortened in 0..path.len() {
        for len in [0, 10, segment::HEADER_BYTES - 1] {
            let damaged = copy(&storage);
            damaged.put(&path[shortened], &bytes[shortened][..len]).unwrap();
            assert_refused(&damaged, &path[shortened]);
        }
    }
    let damaged = copy(&storage);
    damaged.put(&path[0], &bytes[0][..segment::HEADER_BYTES]).unwrap();
    assert_refused(&damaged, &path[0]);

    let other = MemoryStorage::default();
    Log::open(Arc::new(other.clone()), DIR, &SeededDice::new(99), LogOptions::default()).unwrap();
    let damaged = copy(&storage);
    damaged.put(&path[0], &other.get(&path[0]).unwrap()).unwrap();
    assert_refused(&damaged, &path[1]);
}

#[test]
fn blocks_that_were_copied_moved_or_zeroed_never_give_wrong_records() {
    let (storage, written, before_last_group) = example();
    let last_group_bytes: usize =
        written[before_last_group..].iter().map(|record| frame::FRAME_BYTES + record.encoded_len()).sum();
    let files = files(&storage);
    let mut random = SmallRng::seed_from_u64(3);
    for round in 0..2_000 {
        let (path, bytes) = &files[random.random_range(0..files.len())];
        let mut bytes = bytes.to_vec();
        let len = random.random_range(1..bytes.len().min(300));
        let to = random.random_range(0..=bytes.len() - len);
        match random.random_range(0..3) {
            0 => bytes[to..to + len].fill(0),
            1 => {
                let from = random.random_range(0..=bytes.len() - len);
                bytes.copy_within(from..from + len, to);
            }
            _ => {
                let other = &files[random.random_range(0..files.len())].1;
                let len = len.min(other.len());
                let from = random.random_range(0..=other.len() - len);
                bytes[to..to + len].copy_from_slice(&other[from..from + len]);
            }
        }
        let damaged = copy(&storage);
        damaged.put(path, &bytes).unwrap();
        match recover(&damaged, options(700)) {
            Err(LogError::Damaged { .. } | LogError::Newer { .. }) => {}
            Err(error) => panic!("round {round}: {error}"),
            Ok((records, _)) => {
                // Who wipes out the whole last group takes with it the proof that the one before was durable.
                let is_proof_hit = path == &files[files.len() - 1].0 && to + len > bytes.len() - last_group_bytes;
                assert!(records.len() >= before_last_group || is_proof_hit, "round {round}");
                assert_eq!(records[..], written[..records.len()], "round {round}");
            }
        }
    }
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let (storage, ..) = example();
    let path = segment::path(DIR, 3);
    let mut bytes = storage.get(&path).unwrap().to_vec();
    bytes[8] = segment::VERSION as u8 + 1;
    storage.put(&path, &bytes).unwrap();
    let before = files(&storage);
    let error = open(&storage, options(700)).map(drop).unwrap_err();
    assert!(matches!(error, LogError::Newer { version, .. } if version == segment::VERSION + 1), "{error}");
    assert!(error.to_string().contains("newer version of the program"), "{error}");
    assert_eq!(files(&storage), before);
}

#[test]
fn a_segment_that_starts_elsewhere_than_the_one_before_leads_is_refused() {
    let storage = MemoryStorage::default();
    let first = segment::Header::first(7);
    let gap = position::Position { next: Offset(1), ..position::Position::START };
    let second = first.successor(segment::HEADER_BYTES as u64, gap);
    storage.put(&segment::path(DIR, 1), &first.encode()).unwrap();
    storage.put(&segment::path(DIR, 2), &second.encode()).unwrap();
    assert_refused(&storage, &segment::path(DIR, 2));
}

#[test]
fn after_damage_the_replay_yields_nothing_more() {
    let (storage, ..) = example();
    let path = segment::path(DIR, 2);
    let mut bytes = storage.get(&path).unwrap().to_vec();
    bytes[segment::HEADER_BYTES + 20] ^= 1;
    storage.put(&path, &bytes).unwrap();
    let mut replay = open(&storage, options(700)).unwrap();
    let error = loop {
        match replay.next() {
            Ok(record) => assert!(record.is_some(), "the damage was not found"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LogError::Damaged { at: 80, .. }), "{error}");
    assert!(matches!(replay.next(), Err(LogError::Poisoned(_))));
}
