//! One flipped bit in each kind of file: it is found before it changes an answer. The program refuses to start, or falls
//! back and says so, and names the file; a question over a damaged table is an error, or its answer is the right one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use tidemill_engine::checkpoint::{FoundManifest, Store};
use tidemill_engine::storage::LocalStorage;

use crate::harness::folder::Folder;
use crate::harness::program::{Serve, command, free_port};
use crate::harness::wait::eventually;

const PIPELINE: &str = "\
    CREATE SOURCE readings (device TEXT NOT NULL, v BIGINT NOT NULL, ts TIMESTAMP NOT NULL, \
        WATERMARK FOR ts AS ts - INTERVAL '1 day') WITH (connector = 'http');\n\
    CREATE MATERIALIZED VIEW history AS SELECT device, v, ts FROM readings;\n\
    CREATE MATERIALIZED VIEW minutes AS SELECT device, window_start, count(*) AS n, sum(v) AS total \
        FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY device, window_start;\n";

/// A debug build on a busy machine, with a commit in between.
const THERE_MAX: Duration = Duration::from_secs(60);
/// Rows of one request; requests.
const ROWS: i64 = 40;
const REQUESTS: i64 = 130;

/// A question that reads every row of the plain view, and no statistics.
const QUESTION: &str =
    "SELECT count(v + 1) AS n, sum(v) AS total, min(device) AS least, max(ts) AS latest FROM history";

/// Starts a program on a copy of the folder.
fn serve_on(copy: &Folder) -> Serve {
    Serve { data: copy.join("data"), http: free_port(), ..Serve::new(copy, PIPELINE) }
}

/// Fills a folder with everything there is: a log, commits, a checkpoint of a table's log, data files; and checkpoints, if they
/// come at that interval. Killed, so that the next start has something to replay.
async fn filled(checkpoint: &str) -> (Folder, String) {
    let folder = Folder::new();
    let mut serve = Serve::new(&folder, PIPELINE);
    serve.commit = Duration::from_millis(10);
    let environment = [("TIDEMILL__DURABILITY__CHECKPOINT", checkpoint), ("TIDEMILL__DURABILITY__EPOCH", "5ms")];
    serve.environment = environment.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    let program = serve.start_ready().await;
    let log = folder.join("data/tables/history/_delta_log");
    for request in 0..REQUESTS {
        let row = |row: i64| {
            let (v, second) = (request * ROWS + row, (request * ROWS + row) % 3_600);
            format!(
                "{{\"device\":\"d{}\",\"v\":{v},\"ts\":\"2026-01-01T00:{:02}:{:02}Z\"}}\n",
                row % 7,
                second / 60,
                second % 60
            )
        };
        program.http.ingest_durably("readings", &(0..ROWS).map(row).collect::<String>()).await;
        // So that each request has a commit of its own, which makes the table's log long enough for a checkpoint.
        is_there(&log.join(format!("{:020}.json", request + 1))).await;
    }
    is_there(&log.join("00000000000000000100.checkpoint.parquet")).await;
    let rows = ROWS * REQUESTS;
    program.http.settled("readings", rows.unsigned_abs()).await;
    program.http.query_until("SELECT count(v + 1) AS n FROM history", rows).await;
    let answer = format!("{:?}", program.http.query(QUESTION).await.expect("an answer"));
    program.kill9();
    (folder, answer)
}

async fn is_there(path: &Path) {
    eventually(&format!("there is {}", path.display()), THERE_MAX, async || path.exists().then_some(())).await;
}

/// Copies a folder, and flips one bit of one file in the copy.
fn flipped(from: &Folder, file: &Path, at: usize) -> Folder {
    let copy = Folder::new();
    copy_all(&from.join("data"), &copy.join("data"));
    let path = copy.join("data").join(file);
    let mut bytes = std::fs::read(&path).expect("the file");
    bytes[at] ^= 1 << (at % 8);
    std::fs::write(&path, bytes).expect("a writable file");
    copy
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a writable folder");
    for entry in std::fs::read_dir(from).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        let copy = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_all(&path, &copy);
        } else if path.file_name().is_some_and(|name| name != "reserve") {
            std::fs::copy(&path, &copy).expect("a copy");
        }
    }
}

/// Returns the files of a folder inside the data folder whose names end so, in order.
fn files(folder: &Folder, dir: &str, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("data").join(dir)).expect("a readable folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"));
    let mut found: Vec<PathBuf> =
        names.filter(|name| name.ends_with(ending)).map(|name| Path::new(dir).join(name)).collect();
    found.sort();
    assert!(!found.is_empty(), "there is no {dir}/*{ending}");
    found
}

fn size(folder: &Folder, file: &Path) -> usize {
    std::fs::metadata(folder.join("data").join(file)).expect("the file").len() as usize
}

fn name(file: &Path) -> &str {
    file.file_name().and_then(|name| name.to_str()).expect("a plain name")
}

fn sql(folder: &Folder) -> Output {
    let data = folder.join("data");
    command(["sql", "--data", data.to_str().expect("a plain name"), QUESTION], folder.path())
        .output()
        .expect("the program starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

/// Starts the program; returns what it answers once everything is dealt with, if it starts, and what it said.
async fn start(copy: &Folder) -> (Result<String, i32>, String) {
    let serve = serve_on(copy);
    let mut program = serve.start();
    let ended = eventually("it is ready, or has ended", THERE_MAX, async || {
        if let Some(status) = program.try_ended() {
            return Some(status.code());
        }
        (program.http.get("/readyz").await.ok()?.0 == 200).then_some(None)
    })
    .await;
    if let Some(code) = ended {
        return (Err(code), program.log());
    }
    program.http.settled("readings", (ROWS * REQUESTS).unsigned_abs()).await;
    program.http.query_until("SELECT count(v + 1) AS n FROM history", ROWS * REQUESTS).await;
    let answer = format!("{:?}", program.http.query(QUESTION).await.expect("an answer"));
    let said = program.log();
    program.stop().await;
    (Ok(answer), said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_the_log_refuses_the_start_and_names_the_place() {
    let (folder, _) = filled("1h").await;
    let segment = files(&folder, "log", ".log").remove(0);
    let size = size(&folder, &segment);
    for at in [20, size / 3, size / 2] {
        let copy = flipped(&folder, &segment, at);
        let (ended, said) = start(&copy).await;
        assert_eq!(ended, Err(2), "byte {at}: {said}");
        assert!(said.contains(name(&segment)) && said.contains("at byte"), "byte {at}: {said}");
    }
}

/// The newest manifest, that of the checkpoint which a start goes on from, and a pack which no other checkpoint has. A kill may
/// have left packs that nobody reads.
fn newest_checkpoint(folder: &Folder) -> BTreeSet<PathBuf> {
    let store = Store::new(Arc::new(LocalStorage::existing(folder.join("data")).expect("a folder")));
    let found = store.read_all().expect("a readable folder");
    let decided = found.keys().next_back().expect("a manifest");
    let with_state = found.values().filter_map(FoundManifest::whole).filter(|found| found.checkpoint().is_some());
    let mut with_state: Vec<_> = with_state.collect();
    let newest = with_state.pop().expect("a checkpoint");
    let older: Vec<&str> = with_state.iter().flat_map(|found| found.checkpoint().expect("one").packs()).collect();
    let packs = newest.checkpoint().expect("one").packs();
    let pack = packs.into_iter().rfind(|pack| !older.contains(pack)).expect("something has changed since");
    let manifest = |number: u64| PathBuf::from(format!("checkpoint/manifest/{number:020}.json"));
    BTreeSet::from([manifest(*decided), manifest(newest.number), Path::new("checkpoint/state").join(pack)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_a_checkpoint_falls_back_and_says_so() {
    let (folder, answer) = filled("300ms").await;
    for file in newest_checkpoint(&folder) {
        for at in [size(&folder, &file) / 4, size(&folder, &file) / 2] {
            let copy = flipped(&folder, &file, at);
            let (found, said) = start(&copy).await;
            assert_eq!(found.as_ref(), Ok(&answer), "{} byte {at}: {said}", name(&file));
            assert!(said.contains(name(&file)) && said.contains("is damaged"), "{} byte {at}: {said}", name(&file));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_a_table_is_an_error_or_changes_no_answer() {
    let (folder, _) = filled("1h").await;
    let right = sql(&folder);
    assert!(right.status.success(), "{}", said(&right));
    let log = "tables/history/_delta_log";
    let newest = files(&folder, log, ".json").pop().expect("a commit");
    let checkpoint = files(&folder, log, ".checkpoint.parquet").pop().expect("a checkpoint of the table's log");
    let data = files(&folder, "tables/history", ".parquet").remove(0);
    let mut found_in = Vec::new();
    for file in [&newest, &checkpoint, &data] {
        let size = size(&folder, file);
        for at in (1..=6).map(|part| size * part / 7) {
            let output = sql(&flipped(&folder, file, at));
            let told = said(&output);
            if output.status.success() {
                assert_eq!(output.stdout, right.stdout, "{} byte {at}: {told}", name(file));
            } else {
                assert!(told.contains(name(file)), "{} byte {at}: {told}", name(file));
                assert_eq!(output.status.code(), Some(2), "{} byte {at}: {told}", name(file));
                found_in.push(name(file));
            }
        }
    }
    // The table's log before its checkpoint says the same as the checkpoint; for the others there is no second source.
    assert!(found_in.contains(&name(&newest)), "{found_in:?}");
    assert_eq!(found_in.iter().filter(|found| **found == name(&data)).count(), 6, "{found_in:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_a_commit_refuses_the_start_and_names_the_file() {
    let (folder, _) = filled("1h").await;
    let newest = files(&folder, "tables/history/_delta_log", ".json").pop().expect("a commit");
    let copy = flipped(&folder, &newest, size(&folder, &newest) - 20);
    let (ended, said) = start(&copy).await;
    assert_eq!(ended, Err(2), "{said}");
    assert!(said.contains(name(&newest)) && said.contains("is damaged"), "{said}");
}
