//! Going back: what was committed behind a checkpoint leaves the table in one version.

use super::faulty::{Fault, faulty_storage};
use super::*;
use crate::table::{Found, Rewind, Rewound, rewind};

const NOW_MS: i64 = NOVEMBER_20_US / 1_000;

fn back_to(to: u64, committed: u64, generation: u64) -> Rewind<'static> {
    Rewind { job: "job-1", name: "readings$raw", to: Epoch(to), committed: Epoch(committed), generation }
}

fn run(storage: &Arc<dyn Storage>, to: Rewind) -> Result<Rewound, SinkError> {
    rewind(&**storage, DIR, to, NOW_MS)
}

/// Files of the epochs 1, 2 to 3, and 4 to 6.
fn six_epochs(storage: &Arc<dyn Storage>) {
    let mut job = open(storage, plain()).unwrap();
    for epochs in [&[1][..], &[2, 3], &[4, 5, 6]] {
        let last = *epochs.last().unwrap();
        let rows: Vec<_> = epochs.iter().map(|epoch| (*epoch, row(*epoch))).collect();
        let committables = job.prepare(last, &rows).unwrap();
        job.commit(last, &committables).unwrap();
    }
}

#[test]
fn files_with_rows_behind_the_checkpoint_go_as_a_whole() {
    for (to, committed, left, removed) in [
        (6, 6, &[1, 2, 3, 4, 5, 6][..], 0),
        (5, 3, &[1, 2, 3], 1),
        (3, 3, &[1, 2, 3], 1),
        // All rows of a file are of before the checkpoint, and were committed after it.
        (7, 3, &[1, 2, 3], 1),
        (2, 1, &[1], 2),
        (0, 0, &[], 3),
    ] {
        let storage = memory();
        six_epochs(&storage);
        let rewound = run(&storage, back_to(to, committed, 1)).unwrap();
        assert_eq!(rewound, Rewound { files_removed: removed, version: Some(4) }, "to {to}");
        assert_eq!(sequence_numbers(&storage), left.iter().map(|seq| i128::from(*seq)).collect::<Vec<_>>());
        // Again, as after a crash: nothing.
        assert_eq!(run(&storage, back_to(to, committed, 1)).unwrap(), Rewound { files_removed: 0, version: Some(4) });
        let found = Found::Same { generation: 1, base: Epoch::NONE, last_committed: Epoch(committed) };
        assert_eq!(look(&storage, plain()).unwrap().found(), &found);
        // The rows between come again: from the checkpoint's buffer, and from the log.
        let mut job = open(&storage, plain()).unwrap();
        let again: Vec<_> = (committed + 1..=7).map(|epoch| (epoch, row(epoch))).collect();
        let committables = job.prepare(7, &again).unwrap();
        job.commit(7, &committables).unwrap();
        assert_eq!(sequence_numbers(&storage), [1, 2, 3, 4, 5, 6, 7], "to {to}");
        let before = Snapshot::load_at(&*storage, DIR, 3).unwrap().unwrap();
        assert_eq!(before.files.len(), 3, "the abandoned rows can still be looked at");
    }
}

#[test]
fn a_rewind_that_would_lose_or_double_rows_is_refused() {
    let storage = memory();
    six_epochs(&storage);
    let error = refusal(run(&storage, back_to(3, 2, 1)));
    assert!(error.contains("has rows of epochs 2 to 3, and the checkpoint says that epoch 2 is the last"), "{error}");
    // The table was ahead while the log was replayed: the checkpoint has no rows of 4 to 6 in its buffer.
    let error = refusal(run(&storage, back_to(5, 6, 1)));
    assert!(error.contains("had epoch 6 already when the checkpoint of epoch 5 was made"), "{error}");
    // An old copy of the table's folder was put back: of 7 and 8 there is nothing in it.
    let error = refusal(run(&storage, back_to(8, 8, 1)));
    assert!(error.contains("has rows up to epoch 6 only") && error.contains("counts on epoch 8"), "{error}");
    let other = Rewind { job: "job-2", ..back_to(3, 3, 1) };
    assert!(refusal(run(&storage, other)).contains("is filled by tidemill/job-1/readings$raw"));
    let add = r#"{"add":{"path":"c.parquet","partitionValues":{},"size":9,"modificationTime":1,"dataChange":false}}"#;
    storage.put_new(&version_path(4), add.as_bytes()).unwrap();
    let error = refusal(run(&storage, back_to(3, 3, 1)));
    assert!(error.contains("c.parquet was written by another program"), "{error}");
    assert_eq!(snapshot(&storage).version, 4, "nothing was written");
}

#[test]
fn without_a_table_there_is_nothing_to_take_out() {
    let storage = memory();
    assert_eq!(run(&storage, back_to(3, 3, 1)).unwrap(), Rewound { files_removed: 0, version: None });
    assert_eq!(storage.list("").unwrap(), []);
}

#[test]
fn a_process_that_was_written_off_cannot_commit_behind_a_rewind() {
    let storage = memory();
    six_epochs(&storage);
    let mut zombie = open(&storage, plain()).unwrap();
    let stale = zombie.write_epoch(7, row(7));
    run(&storage, back_to(3, 3, 1)).unwrap();
    assert!(refusal(zombie.commit(7, &stale)).contains("another process has replaced its content"));
    open(&storage, plain()).unwrap().commit(7, &stale).unwrap();
    assert_eq!(sequence_numbers(&storage), [1, 2, 3]);
}

#[test]
fn a_fault_while_going_back_leaves_the_old_or_the_new() {
    for fault in [Fault::Before, Fault::After, Fault::Sync, Fault::Lost] {
        for repeated in 1..=3 {
            let faulty = faulty_storage(&MemoryStorage::default());
            let storage: Arc<dyn Storage> = faulty.clone();
            six_epochs(&storage);
            faulty.interposer().fail_writes(&vec![Some(fault); repeated]);
            let mut tries = 0;
            while let Err(error) = run(&storage, back_to(3, 3, 4)) {
                assert!(matches!(error, SinkError::Storage { .. }), "{error}");
                assert!([3, 6].contains(&sequence_numbers(&storage).len()), "all or nothing");
                tries += 1;
                assert!(tries < 10, "{fault:?} x {repeated}");
            }
            assert_eq!((sequence_numbers(&storage), snapshot(&storage).version), (vec![1, 2, 3], 4), "{fault:?}");
        }
    }
}
