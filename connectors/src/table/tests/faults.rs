//! Storage that fails: no fault loses a row or doubles one.

use super::faulty::{Fault, faulty_storage};
use super::*;

/// Runs three epochs to the end through any sequence of faults, opening the table anew after each error.
fn run_through(faults: &[Option<Fault>]) -> (usize, Arc<dyn Storage>) {
    let inner = MemoryStorage::default();
    let storage = faulty_storage(&inner);
    storage.interposer().fail_writes(faults);
    let storage: Arc<dyn Storage> = storage;
    let attempt = || -> Result<(), SinkError> {
        let mut job = open(&storage, plain())?;
        for epoch in 1..=3 {
            let committables = job.prepare(epoch, &[(epoch, row(epoch))])?;
            job.commit(epoch, &committables)?;
        }
        Ok(())
    };
    let mut restarts = 0;
    while let Err(error) = attempt() {
        assert!(matches!(error, SinkError::Storage { .. }), "{error}");
        restarts += 1;
        assert!(restarts < 20, "{error}");
    }
    (restarts, Arc::new(inner))
}

#[test]
fn a_fault_at_any_write_neither_loses_nor_doubles_a_row() {
    // 0: creation; then a file and a version for each epoch.
    for at in 0..7 {
        for fault in [Fault::Before, Fault::After, Fault::Sync, Fault::Lost] {
            for repeated in 1..=3 {
                let mut faults = vec![None; at];
                faults.extend(vec![Some(fault); repeated]);
                let (_, storage) = run_through(&faults);
                assert_eq!(sequence_numbers(&storage), [1, 2, 3], "{fault:?} x {repeated} at write {at}");
            }
        }
    }
}

#[test]
fn a_version_that_never_lands_is_an_error_after_a_few_tries() {
    let mut faults = vec![None, None];
    faults.extend(vec![Some(Fault::Before); 6]);
    let (restarts, storage) = run_through(&faults);
    assert_eq!(restarts, 1, "five retries inside, then an error");
    assert_eq!(sequence_numbers(&storage), [1, 2, 3]);
}

#[test]
fn the_same_sink_goes_on_after_an_error_that_left_the_outcome_open() {
    let faulty = faulty_storage(&MemoryStorage::default());
    faulty.interposer().fail_writes(&[None, None, Some(Fault::Sync)]);
    let storage: Arc<dyn Storage> = faulty;
    let mut job = open(&storage, plain()).unwrap();
    let committables = job.write_epoch(1, row(1));
    assert!(job.commit(1, &committables).is_err());
    assert_eq!(job.last_committed(), 0, "not known yet");
    job.commit(1, &committables).unwrap();
    assert_eq!((job.last_committed(), job.sink.version()), (1, Some(1)));
    job.commit_epoch(2, row(2));
    assert_eq!(sequence_numbers(&storage), [1, 2]);
}

#[test]
fn a_file_that_could_not_be_written_is_tried_again_under_another_name() {
    let faulty = faulty_storage(&MemoryStorage::default());
    faulty.interposer().fail_writes(&[None, Some(Fault::After)]);
    let storage: Arc<dyn Storage> = faulty;
    let mut job = open(&storage, plain()).unwrap();
    assert!(job.prepare(1, &[(1, row(1))]).is_err());
    let committables = job.write_epoch(1, row(1));
    job.commit(1, &committables).unwrap();
    assert_eq!(sequence_numbers(&storage), [1]);
    assert!(snapshot(&storage).files[0].path.ends_with("-w00000-0001.parquet"));
}
