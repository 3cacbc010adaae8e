//! What checkpoints cost, and what they save.
//!
//! - `interval`: the same pipeline with a checkpoint every second and with none, on disk.
//! - `state`: a million keys with four aggregates: handed over, written, read, restored.
//! - `recovery`: the program, killed: from its start to the first acknowledgement, and to all of its windows.

mod workload;

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use tidemill::assemble::Settings;
use tidemill_engine::aggregate::{AggregateCall, AggregateKind, Layout, Selection};
use tidemill_engine::checkpoint::Store;
use tidemill_engine::epoch::Epoch;
use tidemill_engine::expr::{Column, ExprRef};
use tidemill_engine::key::KeyGroups;
use tidemill_engine::plan::window_schema;
use tidemill_engine::storage::LocalStorage;
use tidemill_engine::time::Watermark;
use tidemill_engine::window::{KeyColumn, PaneCodec, PaneSnapshot, SavedPane, WindowAssigner, WindowState};
use workload::Count;

const KEYS: usize = 1_000_000;
const WINDOW_US: i64 = 3_600_000_000;

/// Readings in one request to the program.
const REQUEST_ROWS: usize = 20_000;
/// Requests that fill the log which a killed program reads again.
const REQUESTS: usize = 150;
/// More than any start needs.
const START_MAX: Duration = Duration::from_secs(120);

fn main() {
    if workload::wanted("interval") {
        // Ten seconds and more of each, so that there are checkpoints enough to tell.
        interval(10_000, 500_000_000);
        interval(1_000_000, 120_000_000);
    }
    if workload::wanted("state") {
        state();
    }
    if workload::wanted("recovery") {
        recovery("the log is read from its beginning", "3600s");
        recovery("a checkpoint every second", "1s");
    }
}

fn interval(keys: usize, rows: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    let sql = format!(
        "CREATE SOURCE r (device TEXT NOT NULL, ts TIMESTAMP NOT NULL, temperature DOUBLE NOT NULL, WATERMARK FOR ts AS ts - \
         INTERVAL '1 second') WITH (connector = 'generate', rows = {rows}, keys = {keys}, interval = '10 us'); \
         CREATE MATERIALIZED VIEW w AS SELECT device, window_start, window_end, count(*) AS n, avg(temperature) AS mean, \
         min(temperature) AS low, max(temperature) AS high FROM TUMBLE(r, ts, INTERVAL '1 minute') \
         GROUP BY device, window_start, window_end;"
    );
    let mut counts = Vec::new();
    let every_second = || counts.push(runtime.block_on(pipeline(&sql, Duration::from_secs(1))));
    let never = || {
        runtime.block_on(pipeline(&sql, Duration::from_secs(3_600)));
    };
    let (mut every_second, mut never) = (every_second, never);
    let times = workload::interleaved(Count::Wall, 3, &mut [&mut every_second, &mut never]);
    let what = format!("generate -> window of {keys} keys -> table, 2 workers; checkpoints in a run: {counts:?}");
    let names = ["a checkpoint every second", "one at the end"];
    workload::report(&what, "M rows/s", rows as f64 / 1e6, &names, &times);
}

/// Runs a pipeline to its end; returns how many checkpoints it made.
async fn pipeline(sql: &str, checkpoint_interval: Duration) -> u64 {
    let settings = Settings { workers: 2, checkpoint_interval, ..Settings::default() };
    workload::run(sql, &settings).await.checkpoint.count
}

/// `count, avg, min, max` by device.
struct Query {
    layout: Layout,
    keys: KeyColumn,
}

impl Query {
    fn new() -> Query {
        let layout = Layout::new(&calls(), |_| false);
        Query { layout, keys: KeyColumn::new(vec![(DataType::Utf8View, false)]).expect("text") }
    }

    fn state(self) -> WindowState {
        let schema = window_schema(&[("device".to_owned(), DataType::Utf8View, false)], &calls());
        WindowState::new(WindowAssigner::Tumbling { size_us: WINDOW_US }, self.layout, self.keys, schema)
    }
}

fn calls() -> Vec<AggregateCall> {
    let temperature: ExprRef = Arc::new(Column { index: 2, name: "temperature".to_owned() });
    [AggregateKind::Count, AggregateKind::Avg, AggregateKind::Min, AggregateKind::Max]
        .map(|kind| AggregateCall {
            kind,
            argument: Some(Arc::clone(&temperature)),
            argument_type: DataType::Float64,
            name: format!("{kind:?}"),
        })
        .into()
}

fn state() {
    let mut state = Query::new().state();
    let batches = workload::readings(4 * KEYS, KEYS, 100_000);
    batches.iter().for_each(|batch| update(&mut state, batch));
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::new(Arc::new(LocalStorage::open(folder.path()).expect("opens")));
    let codec = {
        let Query { layout, keys } = Query::new();
        PaneCodec::new(layout, keys)
    };

    let (panes, handed_over) = timed(|| state.snapshot());
    let (_, copied) = timed(|| update(&mut state, &batches[0]));
    let ((parts, bytes), written) = timed(|| {
        let mut packs = store.packs(Epoch(1), 1);
        let changed = panes.iter().filter_map(|(start, pane)| match pane {
            PaneSnapshot::Changed(pane) => Some((*start, pane)),
            PaneSnapshot::Unchanged => None,
        });
        let parts: Vec<_> = changed
            .map(|(start, pane)| (start, packs.add(&codec.encode(pane).expect("encodes")).expect("adds")))
            .collect();
        (parts, packs.finish().expect("writes"))
    });
    let keys: u64 = parts.iter().map(|(_, part)| part.rows).sum();
    let (rows, read) = timed(|| store.read_parts(parts.iter().map(|(_, part)| part)).expect("reads"));
    let (_, restored) = timed(|| {
        let panes: Vec<_> = parts
            .iter()
            .zip(rows)
            .map(|((start, _), rows)| (*start, vec![SavedPane { rows, groups: KeyGroups::ALL }]))
            .collect();
        let mut state = Query::new().state();
        state.restore(Watermark::UNKNOWN, &panes).expect("restores");
    });
    println!("state of {keys} keys with count, avg, min, max: {:.1} MB in packs", bytes as f64 / 1e6);
    for (what, time) in [
        ("handed over by the worker", handed_over),
        ("first batch after it (copies the pane)", copied),
        ("encoded, compressed, written, synced", written),
        ("read, checked, decompressed", read),
        ("restored", restored),
    ] {
        println!("  {what:<40} {:>8.1} ms", time.as_secs_f64() * 1e3);
    }
}

fn update(state: &mut WindowState, batch: &RecordBatch) {
    let keys: ArrayRef = Arc::clone(batch.column(0));
    let hashes = KeyColumn::hashes(&keys);
    let times = batch.column(1).as_primitive::<TimestampMicrosecondType>();
    let late = state.update(&keys, &hashes, times.values(), &[Arc::clone(batch.column(2))], Selection::All(keys.len()));
    assert!(late.is_empty(), "nothing is late");
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begin = workload::now(Count::Wall);
    let done = work();
    (done, workload::now(Count::Wall) - begin)
}

/// Fills the program's log with readings of a million devices in an open window, kills it, and starts it again.
fn recovery(what: &str, checkpoint: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
    runtime.block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let program = Program::new(folder.path(), checkpoint);
        let mut child = program.start();
        program.first_acknowledgement().await;
        let mut sent = 1;
        for request in 0..REQUESTS {
            let lines: String = (0..REQUEST_ROWS)
                .map(|row| {
                    let seq = request * REQUEST_ROWS + row;
                    let (device, minute, second) = (seq * 7_919 % KEYS, seq / 60 % 60, seq % 60);
                    let ts = format!("2026-01-01T00:{minute:02}:{second:02}Z");
                    format!("{{\"device\":\"dev-{device:07}\",\"ts\":\"{ts}\",\"temperature\":{}.5}}\n", seq % 50)
                })
                .collect();
            assert!(program.post(lines).await, "acknowledged");
            sent += REQUEST_ROWS;
        }
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        child.kill().expect("killed");
        child.wait().expect("gone");
        let (log, state) = (bytes_below(&folder.path().join("data/log")), bytes_below(&folder.path().join("data/checkpoint/state")));
        let begin = workload::now(Count::Wall);
        let mut child = program.start();
        program.first_acknowledgement().await;
        let acknowledged = workload::now(Count::Wall) - begin;
        program.all_windows(sent as u64 + 1).await;
        let right = workload::now(Count::Wall) - begin;
        child.kill().expect("killed");
        child.wait().expect("gone");
        println!(
            "after kill -9, {sent} readings, {what}: {:.0} MB of log, {:.0} MB of state\n  first acknowledgement after {:>6.0} ms, \
             all windows right after {:>6.0} ms",
            log as f64 / 1e6,
            state as f64 / 1e6,
            acknowledged.as_secs_f64() * 1e3,
            right.as_secs_f64() * 1e3,
        );
    });
}

struct Program {
    command: Vec<String>,
    checkpoint: String,
    port: u16,
    client: reqwest::Client,
}

impl Program {
    #[expect(clippy::disallowed_methods, reason = "input for the benchmark, not data of the program")]
    fn new(folder: &std::path::Path, checkpoint: &str) -> Program {
        let sql = "CREATE SOURCE r (device TEXT NOT NULL, ts TIMESTAMP NOT NULL, temperature DOUBLE NOT NULL, WATERMARK FOR ts AS \
                   ts - INTERVAL '1 day') WITH (connector = 'http'); CREATE MATERIALIZED VIEW w AS SELECT device, window_start, \
                   window_end, count(*) AS n, avg(temperature) AS mean, min(temperature) AS low, max(temperature) AS high \
                   FROM TUMBLE(r, ts, INTERVAL '1 hour') GROUP BY device, window_start, window_end;";
        let path = folder.join("pipeline.sql");
        std::fs::write(&path, sql).expect("writes");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let data = folder.join("data");
        let words = [env!("CARGO_BIN_EXE_tidemill"), "serve", "--data"].map(str::to_owned);
        let command = words.into_iter().chain([data, path].map(|path| path.display().to_string())).collect();
        let client = reqwest::Client::builder().no_proxy().timeout(START_MAX).build().expect("a client");
        Program { command, checkpoint: checkpoint.to_owned(), port, client }
    }

    fn start(&self) -> Child {
        Command::new(&self.command[0])
            .args(&self.command[1..])
            .env("TIDEMILL__SERVER__HTTP", format!("127.0.0.1:{}", self.port))
            .env("TIDEMILL__DURABILITY__CHECKPOINT", &self.checkpoint)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts")
    }

    async fn post(&self, lines: String) -> bool {
        let url = format!("http://127.0.0.1:{}/api/v1/ingest/r", self.port);
        let request = self.client.post(url).header("content-type", "application/x-ndjson").body(lines);
        request.send().await.is_ok_and(|answer| answer.status().as_u16() == 200)
    }

    async fn first_acknowledgement(&self) {
        let line = "{\"device\":\"first\",\"ts\":\"2026-01-01T00:00:00Z\",\"temperature\":1.5}\n";
        while !self.post(line.to_owned()).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the window has seen all rows.
    async fn all_windows(&self, rows: u64) {
        let url = format!("http://127.0.0.1:{}/metrics", self.port);
        loop {
            let text = self.client.get(&url).send().await.expect("an answer").text().await.expect("a text");
            let line = text.lines().find(|line| line.starts_with("tidemill_view_rows_total{view=\"w\"}"));
            let seen = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).expect("the window's metric");
            if seen as u64 >= rows {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn bytes_below(folder: &std::path::Path) -> u64 {
    std::fs::read_dir(folder)
        .map_or(0, |entries| entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|found| found.len()).sum())
}
