//! `tidemill inspect` says what is there, while the program runs and after it, and finds what is damaged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::disk::{self, Disk};
use crate::harness::folder::Folder;
use crate::harness::ledger::rfc3339;
use crate::harness::program::{Serve, command};
use crate::harness::wait::eventually;

const PIPELINE: &str = "\
CREATE SOURCE readings (who TEXT, seq BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '2 seconds')
WITH (connector = 'http');
CREATE MATERIALIZED VIEW raw AS SELECT who, seq, ts FROM readings;
CREATE MATERIALIZED VIEW w AS
SELECT who, window_start, window_end, count(*) AS n
FROM TUMBLE(readings, ts, INTERVAL '5 seconds') GROUP BY who, window_start, window_end;
";

const ROWS: u64 = 100;

/// Runs `tidemill inspect`: exit code, stdout, stderr.
fn inspect(words: &[&str], data: &Path) -> (Option<i32>, String, String) {
    let data = data.to_str().expect("a plain name");
    let words = [&["inspect"], words, &["--data", data]].concat();
    let output = command(words, Path::new(".")).output().expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn json_of(words: &[&str], data: &Path) -> Value {
    let (code, out, err) = inspect(&[words, &["--format", "json"]].concat(), data);
    assert_eq!(code, Some(0), "{err}");
    serde_json::from_str(&out).expect("JSON")
}

/// Every file below a folder, with its bytes.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("a readable folder") {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            files.append(&mut content(&path));
        } else {
            let bytes = std::fs::read(&path).expect("a readable file");
            files.insert(path, bytes);
        }
    }
    files
}

/// Turns one bit round in the middle of a file; again: turns it back.
fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).expect("a readable file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(path, bytes).expect("a writable file");
}

fn with_suffix<'a>(files: &'a BTreeMap<PathBuf, Vec<u8>>, folder: &Path, suffix: &str) -> &'a Path {
    let mut found = files.keys().filter(|path| path.starts_with(folder) && path.to_string_lossy().ends_with(suffix));
    found.next_back().unwrap_or_else(|| panic!("no {suffix} in {}", folder.display()))
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_is_there_while_the_program_runs_and_finds_damage_afterwards() {
    let folder = Folder::new();
    let mut serve = Serve::new(&folder, PIPELINE);
    serve.environment.push(("TIDEMILL__DURABILITY__CHECKPOINT".to_owned(), "200ms".to_owned()));
    let program = serve.start_ready().await;
    let rows: Vec<String> = (0..ROWS)
        .map(|seq| {
            let ts = rfc3339(1_767_225_600_000_000 + seq as i64 * 200_000);
            json!({ "who": format!("d{}", seq % 4), "seq": seq, "ts": ts }).to_string()
        })
        .collect();
    program.http.ingest_durably("readings", &rows.join("\n")).await;
    eventually("inspect finds all of it while it runs", Duration::from_secs(60), async || {
        let table = json_of(&["table", "raw"], &serve.data);
        let checkpoints = json_of(&["checkpoint"], &serve.data);
        let newest = checkpoints["manifests"].as_array()?.iter().rev().find(|found| found["usable"] == true)?;
        let sources = newest["holds"]["checkpoint"]["sources"].as_object()?;
        let counted = sources.values().next()?["rows"].as_u64()?;
        (table[0]["rows"] == ROWS && counted == ROWS).then_some(())
    })
    .await;
    assert_eq!(json_of(&["log"], &serve.data)["messages"], ROWS);
    program.stop().await;

    let data = serve.data.as_path();
    let before = content(data);
    let (code, said, err) = inspect(&["log"], data);
    assert_eq!(code, Some(0), "{err}");
    for words in ["from its beginning on", "100 messages", "sealed 20", "readings", "ends with a whole record"] {
        assert!(said.contains(words), "{words} is not in\n{said}");
    }
    let (code, said, err) = inspect(&["checkpoint"], data);
    assert_eq!(code, Some(0), "{err}");
    for words in [
        "source readings  watermark 2026-01-01T00:00:17.800Z; 100 messages, 100 rows, 0 dead",
        "window w  ",
        "open with 4 keys",
        "table raw  committed up to epoch",
        "a start goes on from checkpoint",
    ] {
        assert!(said.contains(words), "{words} is not in\n{said}");
    }
    let (code, said, err) = inspect(&["table", "--verify"], data);
    assert_eq!(code, Some(0), "{err}");
    for words in ["table raw  version ", "100 rows in ", ", whole", "never replaced", "table readings$dead"] {
        assert!(said.contains(words), "{words} is not in\n{said}");
    }
    assert_eq!(content(data), before, "it changes nothing");

    let log = with_suffix(&before, &data.join("log"), "").to_owned();
    let pack = with_suffix(&before, &data.join("checkpoint/state"), ".pack").to_owned();
    let manifest = with_suffix(&before, &data.join("checkpoint/manifest"), ".json").to_owned();
    let parquet = with_suffix(&before, &data.join("tables/raw"), ".parquet").to_owned();
    for (words, damaged) in [
        (&["log"][..], &log),
        (&["checkpoint"], &pack),
        (&["checkpoint"], &manifest),
        (&["table", "raw", "--verify"], &parquet),
    ] {
        flip(damaged);
        let (code, out, err) = inspect(words, data);
        let name = damaged.file_name().expect("a name").to_string_lossy().into_owned();
        assert_eq!(code, Some(2), "{words:?}: {out}{err}");
        assert!(err.contains(&name) && err.contains("damaged"), "{name} is not in {err}");
        flip(damaged);
    }
    std::fs::remove_file(&parquet).expect("our own file");
    let (code, _, err) = inspect(&["table", "raw"], data);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("the file is missing"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_needs_no_right_to_write() {
    let folder = Folder::new();
    let Some(disk) = Disk::to_fill(&folder, disk::SMALL) else { return };
    let mut serve = Serve::new(&folder, PIPELINE);
    serve.data = disk.mounted_at.join("data");
    let program = serve.start_ready().await;
    program.http.ingest_durably("readings", "{\"who\": \"a\", \"seq\": 1, \"ts\": \"2026-01-01T00:00:00Z\"}").await;
    program.stop().await;
    disk.allow_reading_only();
    for part in ["log", "checkpoint", "table"] {
        let (code, _, err) = inspect(&[part], &serve.data);
        assert_eq!(code, Some(0), "{part}: {err}");
    }
}

#[test]
fn what_is_not_there_is_told_with_what_to_do() {
    let folder = Folder::new();
    let nowhere = folder.join("nowhere");
    for part in ["log", "checkpoint", "table"] {
        let (code, _, err) = inspect(&[part], &nowhere);
        assert_eq!(code, Some(1), "{err}");
        assert!(err.contains("nowhere") && err.contains("--data"), "{err}");
        let (code, out, err) = inspect(&[part], folder.path());
        assert_eq!(code, Some(0), "{err}");
        assert!(out.contains("yet: start a pipeline"), "{out}");
    }
    assert!(!nowhere.exists());
    for words in [&["table", "--format", "csv"][..], &["log", "x"], &["checkpoint", "x"], &["log", "--verify"]] {
        let (code, _, err) = inspect(words, folder.path());
        assert_eq!(code, Some(1), "{words:?}: {err}");
    }
}
