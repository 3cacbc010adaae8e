//! Rows to a folder, through kills, and a folder that cannot be written to.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tidemill_engine::clock::{Dice, SeededDice};
use tidemill_engine::storage::simulated::When;
use tidemill_engine::storage::{LocalStorage, MemoryStorage, SimulatedDisk};

use crate::breaker::BreakerState;
use crate::outbox::OutboxStatus;
use crate::sinks::testing::{Decided, commit, connected, in_memory};

/// The names of the visible files of a folder, and the numbers in them, in the order of the names.
fn found(folder: &Path) -> (Vec<String>, Vec<i64>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return (Vec::new(), Vec::new()) };
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    let mut numbers = Vec::new();
    for name in &names {
        let text = std::fs::read_to_string(folder.join(name)).expect("a file");
        for line in text.lines() {
            let row: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{name}: {error}: {line}"));
            numbers.push(row["n"].as_i64().expect("a number"));
        }
    }
    (names, numbers)
}

/// How many files of a folder are not visible yet.
fn unfinished(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries.filter(|entry| entry.as_ref().expect("an entry").file_name().as_encoded_bytes().starts_with(b".")).count()
}

fn options(path: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("connector", "file".to_owned()),
        ("path", path.display().to_string()),
        ("format", "ndjson".to_owned()),
        ("roll_interval", "50 ms".to_owned()),
    ]
}

fn borrowed<'a>(options: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    options.iter().map(|(key, value)| (*key, value.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_have_the_numbers_of_their_rows_and_are_made_when_they_are_due() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("out/deep");
    let mut given = options(&path);
    given[3].1 = "1 day".to_owned();
    given.push(("roll_bytes", "8 KiB".to_owned()));
    let opening = in_memory(&borrowed(&given));
    let mut sink = opening.begun().expect("it begins");
    for epoch in 0..10 {
        commit(&mut *sink, epoch + 1, epoch as i64 * 100..(epoch as i64 + 1) * 100);
    }
    opening.until("most of them are in files", |status| status.delivered >= 400).await;
    let (names, numbers) = found(&path);
    assert_eq!(numbers, (0..numbers.len() as i64).collect::<Vec<_>>());
    assert!(names.len() >= 2 && numbers.len() < 1_000, "the last ones wait for more: {names:?}");
    assert!(names[0].starts_with("alerts-01234567-000000000000-0000000"), "{names:?}");
    // What is closed waits for nothing.
    drop(sink);
    let (names, numbers) = found(&path);
    assert_eq!(numbers, (0..1_000).collect::<Vec<_>>());
    assert!(names.last().expect("files").ends_with("-000000001000.ndjson"), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_written_to_fails_alone_says_so_and_gets_everything_later() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("out");
    // A file stands where the folder should be.
    crate::tls::testing::write_file(&path, "in the way");
    let opening = in_memory(&borrowed(&options(&path)));
    let mut sink = opening.begun().expect("it begins");
    commit(&mut *sink, 1, 0..10);
    let status = opening.until("the breaker opens", |status| status.breaker == BreakerState::Open).await;
    assert!(status.error.as_deref().is_some_and(|error| error.contains("out")), "{status:?}");
    commit(&mut *sink, 2, 10..20);
    assert_eq!(opening.status().rows, 20);
    std::fs::remove_file(&path).expect("removed");
    let status = opening.until("all are delivered", |status| status.rows == 0).await;
    assert_eq!((status.breaker, status.error), (BreakerState::Closed, None));
    assert_eq!(found(&path).1, (0..20).collect::<Vec<_>>());
    // Somebody takes the folder away.
    std::fs::remove_dir_all(&path).expect("removed");
    commit(&mut *sink, 3, 20..30);
    opening.until("all are delivered", |status| status.rows == 0).await;
    assert_eq!(found(&path).1, (20..30).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn through_kills_and_power_losses_each_row_is_in_one_file() {
    let mut resumed = 0;
    for seed in 0..16 {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("out");
        let given = options(&path);
        let (dice, mut disk) = (SeededDice::new(seed), Arc::new(SimulatedDisk::new(seed)));
        let mut decided = Decided::default();
        for life in 0..14 {
            let is_last = life == 13;
            let Ok(storage) = LocalStorage::on(Arc::clone(&disk) as _, "data") else { panic!("a disk that works") };
            let opening = connected(Arc::new(storage), seed * 100 + life, &borrowed(&given)).expect("good options");
            if !is_last {
                let when = if dice.roll().is_multiple_of(2) { When::Before } else { When::After };
                disk.stop_at_call(disk.calls() + 1 + dice.roll() % 40, when);
            }
            let is_settled = |status: &OutboxStatus| status.rows == 0 || disk.is_stopped();
            let lived = decided.live(&opening, &dice, is_settled).await;
            assert!(lived.is_ok() || disk.is_stopped(), "seed {seed}: {:?}", lived.err());
            if let Ok(mut sink) = lived {
                if is_last {
                    // Whoever writes a file takes away what is half-written.
                    decided.commit(&mut *sink, &dice).expect("a disk that works");
                    opening.until("no half-written file is left", |_| unfinished(&path) == 0).await;
                }
                opening.until("all are delivered", is_settled).await;
                disk.stop();
                drop(sink);
            }
            disk = Arc::new(if dice.roll().is_multiple_of(2) { disk.kill() } else { disk.crash(seed + life) });
            // Half-written files of a kill.
            crate::tls::testing::write_file(&dir.path().join("orphan"), "x");
            if path.is_dir() && !is_last {
                std::fs::copy(dir.path().join("orphan"), path.join(format!(".tmp-{life}"))).expect("copied");
            }
        }
        let (names, numbers) = found(&path);
        assert_eq!(numbers, (0..decided.rows).collect::<Vec<_>>(), "seed {seed}: {names:?}");
        resumed += names.len();
    }
    assert!(resumed > 8, "{resumed} files");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_file_is_there_is_not_made_again_under_another_extension() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("out");
    let mut given = options(&path);
    let disk = Arc::new(SimulatedDisk::new(1));
    let storage = LocalStorage::on(Arc::clone(&disk) as _, "data").expect("a disk that works");
    let opening = connected(Arc::new(storage), 1, &borrowed(&given)).expect("good options");
    let mut sink = opening.begun().expect("it begins");
    commit(&mut *sink, 1, 0..10);
    // The file is there; whether that is remembered is left to the moment.
    let mut calls = 0;
    while found(&path).0.is_empty() && calls < 3_000 {
        calls += 1;
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    disk.stop();
    drop(sink);
    let disk = Arc::new(disk.kill());
    let storage = LocalStorage::on(Arc::clone(&disk) as _, "data").expect("a disk that works");
    given[2].1 = "csv".to_owned();
    let opening = connected(Arc::new(storage), 2, &borrowed(&given)).expect("good options");
    let mut sink = opening.begun().expect("it begins");
    commit(&mut *sink, 2, 10..12);
    opening.until("all are delivered", |status| status.rows == 0).await;
    drop(sink);
    let mut names: Vec<String> = std::fs::read_dir(&path)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    let ends: Vec<&str> = names.iter().map(|name| &name[name.len() - "000010.ndjson".len()..]).collect();
    assert!(ends[0].ends_with("10.ndjson") && ends[1].ends_with("12.csv") && ends.len() == 2, "{names:?}");
}

#[test]
fn mistakes_name_the_option_and_the_remedy() {
    let good = [("connector", "file"), ("path", "out"), ("format", "parquet")];
    let connected = |options: &[(&str, &str)]| connected(Arc::new(MemoryStorage::default()), 1, options);
    assert!(connected(&good).is_ok());
    assert!(connected(&good[..2]).err().expect("refused").to_string().contains("say 'parquet', 'ndjson' or 'csv'"));
    for (key, value, words) in [
        ("path", "", "is empty"),
        ("path", "s3://bucket/x", "give a folder of this machine"),
        ("format", "orc", "is not one of 'parquet', 'ndjson', 'csv'"),
        ("roll_bytes", "1 GiB", "must be from '1 B' to '256 MiB'"),
        ("roll_interval", "0 s", "longer than nothing"),
        ("roll_interval", "48 hours", "at most '1 day'"),
        ("columns", "m", "there is no column"),
        ("url", "x", "is not known here"),
    ] {
        let options: Vec<(&str, &str)> =
            good.into_iter().filter(|(known, _)| *known != key).chain([(key, value)]).collect();
        let problem = connected(&options).err().expect("refused").to_string();
        assert!(problem.contains(&format!("option {key}: ")) && problem.contains(words), "{key}: {problem}");
    }
}
