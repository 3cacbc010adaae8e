//! `tidemill restore` on a folder of the real program: the tables are read with foreign readers after the step back, and
//! once more when the program has gone on from there.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::harness::folder::Folder;
use crate::harness::ledger::rfc3339;
use crate::harness::program::{Serve, command, free_port, installed, program};
use crate::harness::tables::Judge;
use crate::harness::wait::eventually;

const PIPELINE: &str = "\
CREATE SOURCE readings (who TEXT, seq BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '2 seconds')
WITH (connector = 'http');
CREATE MATERIALIZED VIEW raw AS SELECT who, seq, ts FROM readings;
CREATE MATERIALIZED VIEW w AS
SELECT who, window_start, window_end, count(*) AS n, sum(seq) AS total
FROM TUMBLE(readings, ts, INTERVAL '5 seconds') GROUP BY who, window_start, window_end;
";

/// Rows of a request: an epoch has all of them or none.
const BATCH_ROWS: i64 = 10;
/// Waves of twelve requests each.
const WAVES: i64 = 5;
/// 2026-01-01, in microseconds.
const BEGIN_US: i64 = 1_767_225_600_000_000;

/// Rows of a table, as the judge reads them.
type Rows = Vec<Map<String, Value>>;

/// A folder with several checkpoints, whose program has stopped; and what its tables have then.
struct Scene {
    folder: Folder,
    serve: Serve,
    raw: Rows,
    windows: Rows,
}

impl Scene {
    async fn make(judge: &mut Judge) -> Scene {
        let folder = Folder::new();
        let mut serve = Serve::new(&folder, PIPELINE);
        serve.commit = Duration::from_millis(300);
        serve.environment.push(("TIDEMILL__DURABILITY__CHECKPOINT".to_owned(), "200ms".to_owned()));
        let mut program = serve.start_ready().await;
        let mut sent = 0;
        for wave in 1..=WAVES {
            if wave == WAVES {
                // However long it takes on a busy machine, the last wave has one checkpoint, that of the stop.
                program.stop().await;
                let seldom = ("TIDEMILL__DURABILITY__CHECKPOINT".to_owned(), "1h".to_owned());
                program = Serve { environment: vec![seldom], ..serve.clone() }.start_ready().await;
            }
            for _ in 0..12 {
                let batch: Vec<String> = (sent..sent + BATCH_ROWS)
                    .map(|seq| {
                        let ts = rfc3339(BEGIN_US + seq * 200_000);
                        json!({ "who": format!("d{}", seq % 3), "seq": seq, "ts": ts }).to_string()
                    })
                    .collect();
                program.http.ingest_durably("readings", &batch.join("\n")).await;
                sent += BATCH_ROWS;
            }
            if wave == WAVES {
                break;
            }
            // A checkpoint, and perhaps a commit, of its own for each wave.
            eventually("a checkpoint has all rows", Duration::from_secs(60), async || {
                let checkpoints = manifests(&serve.data);
                let offset = |found: &&Value| found["holds"]["checkpoint"]["next_offset"].as_i64();
                let newest = checkpoints.iter().filter_map(|found| offset(&found)).max();
                (newest == Some(wave * 12 * BATCH_ROWS)).then_some(())
            })
            .await;
        }
        program.stop().await;
        let (raw, windows) = tables(judge, &serve.data);
        assert_eq!(raw.len() as i64, sent);
        assert!(!windows.is_empty());
        Scene { folder, serve, raw, windows }
    }

    /// A copy of the stopped folder, to be restored by itself.
    fn copy(&self, name: &str) -> Serve {
        let data = self.folder.join(name);
        copy_folder(&self.serve.data, &data);
        Serve { data, http: free_port(), ..self.serve.clone() }
    }

    /// The same program goes on, and comes to the same tables.
    async fn goes_on(&self, serve: &Serve, judge: &mut Judge, what: &str) {
        serve.start_ready().await.stop().await;
        let (raw, windows) = tables(judge, &serve.data);
        assert_eq!(raw, self.raw, "{what}: each row once");
        assert_eq!(windows, self.windows, "{what}: the same windows");
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a writable folder");
    for entry in std::fs::read_dir(from).expect("a readable folder") {
        let entry = entry.expect("a readable folder");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a kind").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a readable file");
        }
    }
}

fn run(words: &[&str], data: &Path) -> (Option<i32>, String, String) {
    let data = data.to_str().expect("a plain name");
    let Output { status, stdout, stderr } =
        command(words.iter().chain(&["--data", data]), Path::new(".")).output().expect("the program starts");
    (status.code(), String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned())
}

fn inspect_checkpoints(data: &Path) -> Value {
    let (code, out, err) = run(&["inspect", "checkpoint", "--format", "json"], data);
    assert_eq!(code, Some(0), "{err}");
    serde_json::from_str(&out).expect("JSON")
}

fn manifests(data: &Path) -> Vec<Value> {
    inspect_checkpoints(data)["manifests"].as_array().expect("a list").clone()
}

fn tables(judge: &mut Judge, data: &Path) -> (Rows, Rows) {
    judge.table("raw", &data.join("tables/raw"));
    judge.table("w", &data.join("tables/w"));
    (judge.rows("SELECT * FROM raw ORDER BY ALL"), judge.rows("SELECT * FROM w ORDER BY ALL"))
}

#[tokio::test(flavor = "multi_thread")]
async fn going_back_takes_out_whole_epochs_and_going_on_brings_back_the_same_rows() {
    let judge = &mut Judge::new();
    let scene = Scene::make(judge).await;
    let usable =
        |found: &Value| found["usable"].as_bool().filter(|usable| *usable).and_then(|_| found["epoch"].as_u64());
    let mut epochs: Vec<u64> = manifests(&scene.serve.data).iter().filter_map(usable).collect();
    assert!(epochs.len() >= 3, "checkpoints are kept to go back to: {epochs:?}");
    epochs.push(0);
    let mut kept = Vec::new();
    for epoch in epochs {
        let serve = scene.copy(&format!("back-to-{epoch}"));
        let before = tables(judge, &serve.data);
        let (code, out, err) = run(&["restore", "--to", &epoch.to_string(), "--format", "json"], &serve.data);
        assert_eq!(code, Some(0), "{epoch}: {err}");
        let said: Value = serde_json::from_str(&out).expect("JSON");

        let (raw, windows) = tables(judge, &serve.data);
        assert_eq!(raw.len() as i64 % BATCH_ROWS, 0, "whole epochs");
        let mut seqs: Vec<i64> = raw.iter().map(|row| row["seq"].as_i64().expect("a number")).collect();
        seqs.sort_unstable();
        assert_eq!(seqs, (0..raw.len() as i64).collect::<Vec<_>>(), "a prefix of what was sent");
        assert!(windows.iter().all(|window| scene.windows.contains(window)), "no window of another time");
        let removed: usize = said["tables"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|t| t["removed"].as_array().expect("a list").len())
            .sum();
        let fewer = raw.len() + windows.len() < before.0.len() + before.1.len();
        assert_eq!(removed > 0, fewer, "what is gone is named: {said:#}");
        for table in said["tables"].as_array().expect("a list") {
            let path = PathBuf::from(table["path"].as_str().expect("a path"));
            for file in table["removed"].as_array().expect("a list") {
                assert!(path.join(file.as_str().expect("a path")).exists(), "files stay for readers of older versions");
            }
        }
        kept.push(raw.len());

        // Again: it is there already.
        let (code, out, err) = run(&["restore", "--to", &epoch.to_string()], &serve.data);
        assert_eq!(code, Some(0), "{err}");
        assert!(out.contains("nothing was changed"), "{out}");
        if epoch > 0 {
            let start = inspect_checkpoints(&serve.data)["start"]["epoch"].as_u64();
            assert_eq!(start, Some(epoch), "a start goes on from there");
        }
        scene.goes_on(&serve, judge, &format!("from epoch {epoch}")).await;
        scene.goes_on(&serve, judge, &format!("from epoch {epoch}, and once more")).await;
    }
    assert_eq!(kept.last(), Some(&0), "the beginning has nothing");
    assert!(kept.windows(2).any(|pair| pair[0] < pair[1]), "older checkpoints have fewer rows: {kept:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_dies_on_the_way_is_finished_by_the_next_start() {
    let judge = &mut Judge::new();
    let scene = Scene::make(judge).await;
    let found = manifests(&scene.serve.data);
    let oldest = found.iter().find(|found| found["usable"] == true).expect("a checkpoint");
    let epoch = oldest["epoch"].as_u64().expect("a number").to_string();
    // Names are made by links: the claim, the manifest, then a version of each table.
    for link in 2..=6 {
        let serve = scene.copy(&format!("killed-at-{link}"));
        let data = serve.data.to_str().expect("a plain name");
        let killed = std::process::Command::new(installed("strace"))
            .args(["-f", "-qq", "-o"])
            .arg(scene.folder.join("trace"))
            .args(["-e", "trace=link,linkat", "-e", &format!("inject=link,linkat:signal=KILL:when={link}")])
            .arg(program())
            .args(["restore", "--to", &epoch, "--data", data])
            .output()
            .expect("strace starts");
        assert!(!killed.status.success(), "it was killed: {killed:?}");
        if link == 4 {
            // By a second try, which finds what the first has left.
            let (code, out, err) = run(&["restore", "--to", &epoch], &serve.data);
            assert_eq!(code, Some(0), "{out}{err}");
        }
        if link > 2 {
            let start = inspect_checkpoints(&serve.data)["start"]["epoch"].to_string();
            assert_eq!(start, epoch, "it was decided");
        }
        scene.goes_on(&serve, judge, &format!("killed at link {link}")).await;
        let (code, _, err) = run(&["inspect", "table", "--verify"], &serve.data);
        assert_eq!(code, Some(0), "{err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_to_go_back_that_is_damaged_later_loses_no_rows() {
    let judge = &mut Judge::new();
    let scene = Scene::make(judge).await;
    let found = manifests(&scene.serve.data);
    let oldest = found.iter().find(|found| found["usable"] == true).expect("a checkpoint");
    let (code, _, err) = run(&["restore", "--to", &oldest["epoch"].to_string()], &scene.serve.data);
    assert_eq!(code, Some(0), "{err}");
    let mut names: Vec<PathBuf> = std::fs::read_dir(scene.serve.data.join("checkpoint/manifest"))
        .expect("a readable folder")
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    names.sort();
    let newest = names.last().expect("a manifest");
    let mut bytes = std::fs::read(newest).expect("a readable file");
    bytes[20] ^= 1;
    std::fs::write(newest, bytes).expect("a writable file");
    // The abandoned checkpoints look like the newest ones again, and count on rows that the tables have no more.
    scene.goes_on(&scene.serve, judge, "with a damaged decision").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_restored_is_refused_with_what_can() {
    let judge = &mut Judge::new();
    let scene = Scene::make(judge).await;
    let (code, _, err) = run(&["restore", "--to", "1"], &scene.folder.join("nowhere"));
    assert_eq!(code, Some(1), "{err}");
    assert!(!scene.folder.join("nowhere").exists(), "no folder is made");

    let (code, _, err) = run(&["restore", "--to", "999999"], &scene.serve.data);
    assert_eq!(code, Some(1), "{err}");
    let possible: Vec<u64> = manifests(&scene.serve.data)
        .iter()
        .filter(|found| found["usable"] == true)
        .map(|found| found["epoch"].as_u64().expect("a number"))
        .collect();
    assert!(possible.iter().all(|epoch| err.contains(&format!("{epoch} of 20"))), "{err}");
    assert!(err.contains("the beginning of the log") && err.contains("Nothing was changed"), "{err}");

    let program = scene.serve.start_ready().await;
    let (code, _, err) = run(&["restore", "--to", &possible[0].to_string()], &scene.serve.data);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("another process uses this folder; stop it first"), "{err}");
    program.stop().await;
    let (raw, windows) = tables(judge, &scene.serve.data);
    assert_eq!((raw, windows), (scene.raw, scene.windows), "nothing was changed");
}
