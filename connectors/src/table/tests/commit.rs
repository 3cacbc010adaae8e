//! Two phases: what is prepared, and what a commit makes of it.

use std::sync::Arc;

use arrow::array::{RecordBatch, UInt64Array};
use arrow::datatypes::Schema;
use tidemill_engine::epoch::Epoch;

use super::*;

#[test]
fn what_is_committed_is_there_after_a_restart_and_what_is_only_prepared_is_not() {
    let storage = memory();
    let mut job = open(&storage, plain()).unwrap();
    assert_eq!(job.last_committed(), 0);
    job.commit_epoch(3, row(1));
    job.write_epoch(5, row(2));
    drop(job);

    assert_eq!(sequence_numbers(&storage), [1]);
    let mut job = open(&storage, plain()).unwrap();
    assert_eq!(job.last_committed(), 3);
    job.commit_epoch(5, row(2));
    assert_eq!(sequence_numbers(&storage), [1, 2]);
    assert_eq!(snapshot(&storage).transactions["tidemill/job-1/readings$raw"], 5);
}

#[test]
fn committing_twice_counts_once() {
    let storage = memory();
    let mut job = open(&storage, plain()).unwrap();
    let committables = job.write_epoch(1, row(1));
    job.commit(1, &committables).unwrap();
    job.commit(1, &committables).unwrap();
    let mut successor = open(&storage, plain()).unwrap();
    successor.commit(1, &committables).unwrap();
    assert_eq!(sequence_numbers(&storage), [1]);
    assert_eq!(snapshot(&storage).version, 1);
}

#[test]
fn an_epoch_without_rows_makes_no_version() {
    let storage = memory();
    let mut job = open(&storage, plain()).unwrap();
    assert_eq!(job.write_epoch(1, row(1).slice(0, 0)), []);
    assert_eq!(job.prepare(1, &[]).unwrap(), []);
    job.commit(1, &[]).unwrap();
    assert_eq!((snapshot(&storage).version, job.last_committed()), (0, 0));
}

#[test]
fn a_successor_commits_what_was_prepared_unless_the_file_is_gone() {
    let storage = memory();
    let committables = open(&storage, plain()).unwrap().write_epoch(1, row(1));
    let file = storage.list(DIR).unwrap().into_iter().find(|entry| !entry.is_dir).unwrap().name;
    let bytes = storage.get(&format!("{DIR}/{file}")).unwrap();
    storage.delete(&format!("{DIR}/{file}")).unwrap();
    let mut successor = open(&storage, plain()).unwrap();
    let error = successor.commit(1, &committables).expect_err("the file is gone").to_string();
    assert!(error.contains(&file) && error.contains("is gone"), "{error}");
    storage.put_new(&format!("{DIR}/{file}"), &bytes).unwrap();
    successor.commit(1, &committables).unwrap();
    assert_eq!(sequence_numbers(&storage), [1]);
}

#[test]
fn a_file_says_which_epochs_have_rows_in_it() {
    let storage = memory();
    let mut job = open(&storage, plain()).unwrap();
    let committables = job.prepare(4, &[(3, row(2)), (2, row(1)), (4, row(3).slice(0, 0))]).unwrap();
    job.commit(4, &committables).unwrap();
    assert_eq!(sequence_numbers(&storage), [1, 2]);
    let file = snapshot(&storage).files[0].clone();
    assert_eq!((file.lo_epoch, file.hi_epoch), (Some(Epoch(2)), Some(Epoch(3))));
    assert_eq!(job.last_committed(), 4);
    let error = job.prepare(5, &[(6, row(4))]).expect_err("a later epoch").to_string();
    assert!(error.contains("rows of epoch 6 were to be prepared with those of epoch 5"), "{error}");
}

#[test]
fn commits_of_other_engines_are_stepped_over() {
    let storage = memory();
    let mut job = open(&storage, plain()).unwrap();
    for version in [1, 2] {
        storage.put_new(&version_path(version), b"{\"commitInfo\":{\"operation\":\"OPTIMIZE\"}}").unwrap();
    }
    job.commit_epoch(1, row(1));
    assert_eq!(snapshot(&storage).version, 3);
    assert_eq!(sequence_numbers(&storage), [1]);
}

#[test]
fn two_processes_of_one_job_do_not_count_twice() {
    let storage = memory();
    let mut zombie = open(&storage, plain()).unwrap();
    let mut successor = open(&storage, plain()).unwrap();
    let stale = zombie.write_epoch(2, row(1));
    successor.commit_epoch(2, row(1));
    zombie.commit(2, &stale).unwrap();
    assert_eq!(zombie.last_committed(), 2);
    // Epochs 3 and 4 in one commit here, 3 alone there.
    let stale = zombie.prepare(4, &[(3, row(3)), (4, row(4))]).unwrap();
    successor.commit_epoch(3, row(3));
    let error = zombie.commit(4, &stale).expect_err("overtaken").to_string();
    assert!(error.contains("stop one of the two"), "{error}");
    assert!(zombie.commit(4, &stale).is_err(), "it stays so");
    successor.commit_epoch(4, row(4));
    assert_eq!(sequence_numbers(&storage), [1, 3, 4]);
}

#[test]
fn a_null_in_a_not_null_column_is_an_error_and_not_a_panic() {
    let storage = memory();
    let mut job = open(&storage, plain()).unwrap();
    let mut columns = row(1).columns().to_vec();
    columns[3] = Arc::new(UInt64Array::from(vec![None]));
    let nullable =
        Schema::new(schema().fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>());
    let bad = RecordBatch::try_new(Arc::new(nullable), columns).unwrap();
    let error = job.prepare(1, &[(1, bad)]).expect_err("null in seq").to_string();
    assert!(error.contains("seq"), "{error}");
}

/// The names of what was prepared, as a refusal tells them.
fn name_of(committable: &Committable) -> &str {
    committable.summary.split(' ').next().unwrap()
}

#[test]
fn two_writers_prepare_side_by_side_and_are_committed_together() {
    let storage = memory();
    let mut job = open(&storage, plain()).unwrap();
    let writers: Vec<_> = (1..=2).map(|index| (index, job.sink.writer(index))).collect();
    let prepared: Vec<Vec<Committable>> = std::thread::scope(|scope| {
        let prepare = |(index, mut writer): (usize, Box<dyn SinkWriter>)| {
            writer.prepare(Epoch(1), &[(Epoch(1), row(index as u64))]).unwrap()
        };
        let running: Vec<_> = writers.into_iter().map(|writer| scope.spawn(move || prepare(writer))).collect();
        running.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    assert!(name_of(&prepared[0][0]).ends_with("-w00001-0000.parquet"), "{}", prepared[0][0].summary);
    assert!(name_of(&prepared[1][0]).ends_with("-w00002-0000.parquet"), "{}", prepared[1][0].summary);
    job.commit(1, &prepared.concat()).unwrap();
    assert_eq!(sequence_numbers(&storage), [1, 2]);
    assert_eq!(snapshot(&storage).version, 1);
}

#[test]
fn a_successor_names_the_file_of_one_writer_that_is_gone_or_damaged() {
    for (damage, words) in [(None, "is gone"), (Some(&b"short"[..]), "has 5 bytes, not ")] {
        let storage = memory();
        let mut job = open(&storage, plain()).unwrap();
        let mut second = job.sink.writer(1);
        let mut committables = job.write_epoch(1, row(1));
        committables.extend(second.prepare(Epoch(1), &[(Epoch(1), row(2))]).unwrap());
        let path = format!("{DIR}/{}", name_of(&committables[1]));
        let bytes = storage.get(&path).unwrap();
        match damage {
            None => storage.delete(&path).unwrap(),
            Some(damage) => storage.put(&path, damage).unwrap(),
        }
        let mut successor = open(&storage, plain()).unwrap();
        let error = refusal(successor.commit(1, &committables));
        assert!(error.contains(&path) && error.contains(words), "{error}");
        let mut flipped = bytes.to_vec();
        flipped[bytes.len() / 2] ^= 1;
        storage.put(&path, &flipped).unwrap();
        let error = refusal(successor.commit(1, &committables));
        assert!(error.contains(&path) && error.contains("has the checksum"), "{error}");
        assert_eq!(snapshot(&storage).version, 0, "nothing was committed");
        storage.put(&path, &bytes).unwrap();
        successor.commit(1, &committables).unwrap();
        assert_eq!(sequence_numbers(&storage), [1, 2]);
    }
}

#[test]
fn two_processes_that_roll_the_same_epoch_forward_at_once_commit_it_once() {
    let storage = memory();
    let committables = open(&storage, plain()).unwrap().write_epoch(1, row(1));
    let mut processes: Vec<Process> = (0..4).map(|_| open(&storage, plain()).unwrap()).collect();
    std::thread::scope(|scope| {
        for process in &mut processes {
            let committables = &committables;
            scope.spawn(move || process.commit(1, committables).unwrap());
        }
    });
    assert_eq!(processes.iter().map(Process::last_committed).collect::<Vec<_>>(), [1; 4]);
    assert_eq!((sequence_numbers(&storage), snapshot(&storage).version), (vec![1], 1));
}
