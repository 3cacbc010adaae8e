//! What people are told of a log.

use super::*;

fn description(storage: &MemoryStorage) -> Description {
    let before = files(storage);
    let description = describe(storage, DIR).unwrap().expect("there is a log");
    assert_eq!(files(storage), before, "nothing is changed");
    description
}

#[test]
fn a_description_counts_what_was_written() {
    for seed in 0..20 {
        let storage = MemoryStorage::default();
        let written = write_example(&storage, seed, 500);
        let found = description(&storage);
        let last = last_sealed(&written);
        let mut marked = Vec::new();
        let (mut messages, mut bytes) = (0, 0);
        for record in &written {
            match record {
                Record::Messages { messages: found, .. } => {
                    messages += found.len() as u64;
                    bytes += found.iter().map(|message| message.topic.len() + message.payload.len()).sum::<usize>();
                }
                Record::Range { rows, .. } => messages += rows,
                Record::Seal { epoch, checkpoint: true, .. } => marked.push(*epoch),
                _ => {}
            }
        }
        assert_eq!((found.messages, found.message_bytes), (messages, bytes as u64), "seed {seed}");
        assert_eq!(found.next_offset, messages);
        assert_eq!((found.epochs, found.last_epoch), (last.0, Some(last).filter(|last| *last > Epoch::NONE)));
        assert_eq!((found.checkpoints, found.last_checkpoint), (marked.len() as u64, marked.last().copied()));
        assert_eq!(found.open_records, (written.len() - count_before(&written, last)) as u64);
        let declared = written.iter().filter(|record| matches!(record, Record::Open { .. })).count();
        assert_eq!((found.partitions_declared as usize, found.partitions.len()), (declared, declared));
        assert_eq!((found.whole, &found.tail), (true, &TailState::Clean));
        let sizes: Vec<u64> = files(&storage).iter().map(|(_, bytes)| bytes.len() as u64).collect();
        assert_eq!(found.segments.iter().map(|segment| segment.bytes).collect::<Vec<_>>(), sizes);
        assert!(found.segments.iter().all(|segment| segment.counted_bytes <= segment.bytes));
    }
}

#[test]
fn a_shrunk_log_names_what_it_still_knows() {
    let storage = MemoryStorage::default();
    let written = write_example(&storage, 4, 500);
    shrink(&storage, DIR, last_sealed(&written).next()).unwrap();
    let found = description(&storage);
    assert!(!found.whole && found.segments[0].number > 1);
    assert!(found.partitions.len() <= found.partitions_declared as usize);
    assert!(found.partitions.iter().any(|partition| partition.name.is_none()), "{:?}", found.partitions);
    let text = serde_json::to_value(&found).unwrap();
    assert_eq!(text["tail"]["state"], "clean");
    assert_eq!(text["segments"][0]["path"], found.segments[0].path);
}

#[test]
fn a_torn_and_a_damaged_tail_are_told_apart_with_their_place() {
    let storage = MemoryStorage::default();
    let (_, mut writer) = recover(&storage, LogOptions::default()).unwrap();
    for epoch in 1..=3 {
        writer.append(&seal(epoch, false));
        writer.sync().unwrap();
    }
    let path = segment::path(DIR, 1);
    let whole = storage.get(&path).unwrap();
    let frame_bytes = frame::FRAME_BYTES + seal(1, false).encoded_len();
    let third_at = (segment::HEADER_BYTES + 2 * frame_bytes) as u64;

    storage.put(&path, &whole[..whole.len() - 1]).unwrap();
    let torn = description(&storage);
    let bytes = frame_bytes as u64 - 1;
    assert_eq!(torn.tail, TailState::Torn { path: path.clone(), at: third_at, bytes });
    assert_eq!((torn.epochs, torn.segments[0].counted_bytes), (2, third_at));

    let mut damaged = whole.to_vec();
    damaged[segment::HEADER_BYTES + frame_bytes + 3] ^= 1;
    storage.put(&path, &damaged).unwrap();
    let damaged = description(&storage);
    let second_at = (segment::HEADER_BYTES + frame_bytes) as u64;
    assert!(matches!(&damaged.tail, TailState::Damaged { at, .. } if *at == second_at), "{:?}", damaged.tail);
    assert_eq!(damaged.epochs, 1);
}

#[test]
fn a_folder_without_a_log_has_nothing_to_describe() {
    let storage = MemoryStorage::default();
    assert_eq!(describe(&storage, DIR).unwrap(), None);
    assert_eq!(files(&storage), [], "and none is made");
}
