//! A data folder, what is sent to it, and what is in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tidemill_engine::checkpoint::{FoundManifest, Manifest, Store};
use tidemill_engine::storage::LocalStorage;

use crate::harness::folder::Folder;
use crate::harness::ledger::rfc3339;
use crate::harness::program::{Program, Serve, command};
use crate::harness::tables::Judge;
use crate::harness::wait::eventually;

/// The source of all pipelines here. `pad` makes the log grow.
pub(super) const SOURCE: &str = "CREATE SOURCE readings (device TEXT NOT NULL, seq BIGINT NOT NULL, v BIGINT NOT NULL, \
                                 ts TIMESTAMP NOT NULL, pad TEXT, WATERMARK FOR ts AS ts - INTERVAL '2 seconds') \
                                 WITH (connector = 'http');\n";

/// One view of each kind; with the source they fill all of [`TABLES`].
pub(super) const VIEWS: &str = "\
CREATE MATERIALIZED VIEW raw AS SELECT device, seq, v, ts FROM readings;\n\
CREATE MATERIALIZED VIEW tumbled AS SELECT device, window_start, window_end, count(*) AS n, sum(v) AS total, \
avg(v) AS mean FROM TUMBLE(readings, ts, INTERVAL '3 seconds') GROUP BY device, window_start, window_end;\n\
CREATE MATERIALIZED VIEW hopped AS SELECT device, window_start, window_end, count(*) AS n, max(v) AS greatest \
FROM HOP(readings, ts, INTERVAL '1 second', INTERVAL '3 seconds') GROUP BY device, window_start, window_end;\n";

/// Tables of that pipeline.
pub(super) const TABLES: [&str; 6] = ["raw", "tumbled", "hopped", "tumbled$late", "hopped$late", "readings$dead"];

/// 2020-01-01.
const BEGIN_US: i64 = 1_577_836_800_000_000;
/// Readings in a batch.
pub(super) const BATCH: i64 = 40;
/// Of these, dead letters.
const DEAD: i64 = 1;
const DEVICES: i64 = 7;
/// A checkpoint is made within this time, also on a busy machine.
const CHECKPOINT_MAX: Duration = Duration::from_secs(60);

/// A program with a data folder of its own.
pub(super) struct Scene {
    pub(super) folder: Folder,
    pub(super) serve: Serve,
    /// Batches that were sent.
    pub(super) batches: i64,
}

impl Scene {
    /// Prepares a pipeline over [`SOURCE`], with checkpoints and commits every 100 ms.
    pub(super) fn new(views: &str) -> Scene {
        let folder = Folder::new();
        let mut serve = Serve::new(&folder, &format!("{SOURCE}{views}"));
        serve.commit = Duration::from_millis(100);
        let mut scene = Scene { folder, serve, batches: 0 };
        scene.set("DURABILITY__CHECKPOINT", "100ms");
        scene
    }

    /// Starts the program and waits until its sources run.
    pub(super) async fn start_ready(&self) -> Program {
        self.keep_log();
        self.serve.start_ready().await
    }

    /// Links the segments of the log into a folder that the program does not know: what it will remove, the measure needs.
    /// The program is down.
    fn keep_log(&self) {
        let kept = self.folder.join("kept-log");
        fs::create_dir_all(&kept).expect("a writable folder");
        let Ok(log) = fs::read_dir(self.serve.data.join("log")) else { return };
        for segment in log.map(|entry| entry.expect("a readable folder").path()) {
            let link = kept.join(segment.file_name().expect("a file has a name"));
            if !link.exists() {
                fs::hard_link(&segment, &link).expect("a link on the same file system");
            }
        }
    }

    /// Sets a key of the configuration, from the next start on.
    pub(super) fn set(&mut self, key: &str, value: &str) {
        let key = format!("TIDEMILL__{key}");
        self.serve.environment.retain(|(known, _)| *known != key);
        self.serve.environment.push((key, value.to_owned()));
    }

    /// Replaces the pipeline, from the next start on.
    pub(super) fn change(&self, sql: &str) {
        self.folder.write("pipeline.sql", sql);
    }

    /// Sends batches of readings, each with a late one and a dead letter; they are acknowledged, and no more.
    pub(super) async fn send(&mut self, program: &Program, count: i64) {
        for _ in 0..count {
            program.http.ingest_durably("readings", &batch(self.batches, "")).await;
            self.batches += 1;
        }
    }

    /// Sends a batch whose text is longer by this much, none of it late.
    pub(super) async fn send_large(&mut self, program: &Program, bytes: usize) {
        let pad = "x".repeat(bytes / BATCH as usize);
        program.http.ingest_durably("readings", &batch(self.batches, &pad)).await;
        self.batches += 1;
    }

    /// Waits until everything that was sent has gone through the dataflow.
    pub(super) async fn settled(&self, program: &Program) {
        program.http.settled("readings", (self.batches * BATCH).unsigned_abs()).await;
    }

    /// Waits until a checkpoint holds everything that was sent; returns its epoch.
    pub(super) async fn checkpointed(&self, program: &Program) -> u64 {
        self.settled(program).await;
        self.checkpointed_up_to(status(program).await["sealed_epoch"].as_u64().expect("a number")).await
    }

    /// Waits until there is a checkpoint of this epoch or a later one; returns its epoch.
    pub(super) async fn checkpointed_up_to(&self, sealed: u64) -> u64 {
        eventually(&format!("there is a checkpoint of epoch {sealed}"), CHECKPOINT_MAX, async || {
            checkpoints(&self.serve.data).values().map(|manifest| manifest.epoch.0).find(|epoch| *epoch >= sealed)
        })
        .await
    }

    /// Starts the program, which must refuse, and returns what it says.
    pub(super) async fn refused(&self) -> String {
        let before = fs::read_to_string(&self.serve.log).unwrap_or_default().len();
        self.keep_log();
        let ended = self.serve.start().ended(Duration::from_secs(60)).await;
        let said = fs::read_to_string(&self.serve.log).expect("a readable log")[before..].to_owned();
        assert_eq!(ended.code(), Some(2), "{said}");
        said
    }

    /// Starts the program, and stops it when it is ready; returns what it has logged meanwhile.
    pub(super) async fn started_and_stopped(&self) -> Vec<Value> {
        let before = fs::read_to_string(&self.serve.log).unwrap_or_default().len();
        self.start_ready().await.stop().await;
        lines(&fs::read_to_string(&self.serve.log).expect("a readable log")[before..])
    }

    /// Returns a scene with a copy of this one's data folder.
    pub(super) fn copy(&self) -> Scene {
        let folder = Folder::new();
        copy_folder(&self.serve.data, &folder.join("data"));
        copy_folder(&self.folder.join("kept-log"), &folder.join("kept-log"));
        let sql = fs::read_to_string(&self.serve.pipeline).expect("a readable pipeline");
        let serve = Serve { environment: self.serve.environment.clone(), ..Serve::new(&folder, &sql) };
        Scene { folder, serve, batches: self.batches }
    }

    /// Returns a scene with nothing but all of this one's log, also what the program has removed of it.
    pub(super) fn log_alone(&self) -> Scene {
        self.keep_log();
        let scene = self.copy();
        for folder in ["checkpoint", "tables", "fence", "log"] {
            let _ = fs::remove_dir_all(scene.serve.data.join(folder));
        }
        copy_folder(&self.folder.join("kept-log"), &scene.serve.data.join("log"));
        scene
    }

    /// Returns the rows of tables, in an order that does not depend on how they came.
    pub(super) fn tables(&self, judge: &mut Judge, names: &[&str]) -> BTreeMap<String, Vec<String>> {
        tables(&self.serve.data, judge, names)
    }

    /// Asserts that the tables are what a fresh folder gets from the same log without any interruption.
    pub(super) async fn assert_as_uninterrupted(&self, names: &[&str]) {
        let fresh = self.log_alone();
        fresh.started_and_stopped().await;
        let mut judge = Judge::new();
        let (found, expected) = (self.tables(&mut judge, names), fresh.tables(&mut judge, names));
        for name in names {
            assert!(!expected[*name].is_empty(), "{name} proves nothing: it has no rows");
            assert_same(name, &found[*name], &expected[*name]);
        }
    }

    /// Runs `tidemill check --data` over the pipeline as it is now.
    pub(super) fn foretold(&self) -> String {
        let data = self.serve.data.to_str().expect("a plain name");
        let output = command(["check", "--data", data, "pipeline.sql"], self.folder.path()).output();
        let output = output.expect("the program starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }
}

/// Asserts that a table has exactly these rows; a difference is told in a few of them.
pub(super) fn assert_same(what: &str, found: &[String], expected: &[String]) {
    let without = |rows: &[String], others: &[String]| -> Vec<String> {
        let mut others: Vec<&String> = others.iter().collect();
        let is_surplus =
            |row: &&String| others.iter().position(|other| other == row).map(|at| others.remove(at)).is_none();
        rows.iter().filter(is_surplus).take(3).cloned().collect()
    };
    let (surplus, missing) = (without(found, expected), without(expected, found));
    assert!(
        surplus.is_empty() && missing.is_empty(),
        "{what} has {} rows, not {}; too many are {surplus:#?}; missing are {missing:#?}",
        found.len(),
        expected.len()
    );
}

/// Returns the rows of tables in a data folder, in an order that does not depend on how they came.
pub(super) fn tables(data: &Path, judge: &mut Judge, names: &[&str]) -> BTreeMap<String, Vec<String>> {
    let mut rows_of = |name: &&str| {
        judge.table("t", &data.join("tables").join(name));
        let rows = judge.rows("SELECT * FROM t ORDER BY ALL");
        ((*name).to_owned(), rows.into_iter().map(|row| Value::Object(row).to_string()).collect())
    };
    names.iter().map(&mut rows_of).collect()
}

/// Returns a batch as lines of JSON. Time goes on by a second; from the fourth batch on each has a reading that is late.
fn batch(number: i64, pad: &str) -> String {
    let mut lines = String::new();
    for idx in 0..BATCH {
        let seq = number * BATCH + idx;
        let ts_us = match idx {
            3 if number > 3 && pad.is_empty() => BEGIN_US + seq * 1_000,
            _ => BEGIN_US + number * 1_000_000 + idx * 20_000,
        };
        let (device, ts) = (format!("d{}", seq % DEVICES), rfc3339(ts_us));
        let v = if idx < BATCH - DEAD { (seq % 101).to_string() } else { "\"no number\"".to_owned() };
        let _ = writeln!(lines, r#"{{"device":"{device}","seq":{seq},"v":{v},"ts":"{ts}","pad":"{pad}"}}"#);
    }
    lines
}

/// Returns the manifests that hold a checkpoint, by number.
pub(super) fn checkpoints(data: &Path) -> BTreeMap<u64, Manifest> {
    let Ok(storage) = LocalStorage::existing(data) else { return BTreeMap::new() };
    let found = Store::new(Arc::new(storage)).read_all().expect("a readable folder");
    let whole = found.values().filter_map(FoundManifest::whole);
    let with_state = whole.filter(|manifest| manifest.checkpoint().is_some());
    with_state.map(|manifest| (manifest.number, manifest.clone())).collect()
}

/// Returns `/api/v1/status`.
pub(super) async fn status(program: &Program) -> Value {
    let (_, text) = program.http.get("/api/v1/status").await.expect("an answer");
    serde_json::from_str(&text).expect("JSON")
}

/// Reads the lines of a log.
pub(super) fn lines(log: &str) -> Vec<Value> {
    log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Returns the first line whose message has these words.
pub(super) fn line<'a>(lines: &'a [Value], words: &str) -> &'a Value {
    let says = |line: &&Value| line["message"].as_str().is_some_and(|message| message.contains(words));
    lines.iter().find(says).unwrap_or_else(|| panic!("nothing says {words:?}: {lines:#?}"))
}

/// Returns what the log says of a table's fate.
pub(super) fn fate<'a>(lines: &'a [Value], table: &str) -> &'a str {
    let fates = ["goes on", "filled from", "filled again from", "no more come"];
    let of_table = lines.iter().filter(|line| line["table"] == table).filter_map(|line| line["message"].as_str());
    let mut of_fate = of_table.filter(|message| fates.iter().any(|words| message.contains(words)));
    of_fate.next().unwrap_or_else(|| panic!("nothing is said of {table}: {lines:#?}"))
}

/// Returns the files of a folder whose path below it begins with `prefix`, with their bytes; without those that a kill has
/// left half-written, which the next start removes.
pub(super) fn files(root: &Path, prefix: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable folder").path();
            let below = path.strip_prefix(root).expect("below it").to_path_buf();
            let is_orphan = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".tmp-"));
            if path.is_dir() {
                folders.push(path);
            } else if !is_orphan && (below.starts_with(prefix) || prefix.is_empty()) {
                found.insert(below, fs::read(&path).expect("a readable file"));
            }
        }
    }
    found
}

/// Copies a folder with all that is in it.
pub(super) fn copy_folder(from: &Path, to: &Path) {
    for (below, bytes) in files(from, "") {
        let path = to.join(below);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a writable folder");
        fs::write(path, bytes).expect("a writable file");
    }
}
