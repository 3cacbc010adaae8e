//! HTTP at full speed, with answers that wait for `fdatasync`.
//!
//! - `ingest`: large bodies of NDJSON over two connections: MB/s, and MB for each second of CPU of the whole program, which
//!   decodes the rows and computes windows, too; and one that keeps a table of all rows instead. The same with Arrow streams
//!   and with line protocol.
//! - `clients`: a thousand clients that keep their connections, each with one row in each request: answers a second.
//! - `decode`: NDJSON to columns, one thread, against DuckDB's `read_json` over the same file.
//!
//! `TIDEMILL_BENCH_PERCENT=1` takes a hundredth of it: to try the benchmark itself.

#![expect(clippy::disallowed_methods, reason = "a benchmark writes its own files")]

mod program;
mod workload;

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::ipc::writer::StreamWriter;
use program::Program;
use tidemill_connectors::format::{JsonFormat, Layout};
use tidemill_engine::decode::{Format, Place};
use tidemill_engine::source::{Data, Message};
use workload::{Count, now};

/// Bytes of one body of NDJSON, about.
const BODY_BYTES: usize = 4 << 20;
/// Rows of one body of columns, and of one of line protocol.
const COLUMN_ROWS: usize = 65_536;
const POINTS: usize = 50_000;
const BODIES: usize = 200;
const CONNECTIONS: usize = 2;
const CLIENTS: usize = 1_000;
const REQUESTS: usize = 300_000;
const DECODED_ROWS: usize = 2_000_000;
const ROUNDS: usize = 3;

const SOURCE: &str = "CREATE SOURCE bench (device TEXT NOT NULL, ts TIMESTAMP NOT NULL, temperature DOUBLE NOT NULL, \
    humidity DOUBLE NOT NULL, WATERMARK FOR ts AS ts - INTERVAL '1 hour') WITH (connector = 'http');";
const HISTORY: &str = "CREATE MATERIALIZED VIEW history AS SELECT device, ts, temperature, humidity FROM bench;";
/// Of 10,000 devices.
const WINDOWS: &str = "CREATE MATERIALIZED VIEW windows AS SELECT device, window_start, count(*) AS n, avg(temperature) AS t, \
    max(humidity) AS h FROM TUMBLE(bench, ts, INTERVAL '10 seconds') GROUP BY device, window_start;";

fn main() {
    if workload::wanted("ingest") {
        ingest();
    }
    if workload::wanted("clients") {
        clients();
    }
    if workload::wanted("decode") {
        decode();
    }
}

fn part(whole: usize) -> usize {
    let percent = std::env::var("TIDEMILL_BENCH_PERCENT").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    (whole * percent / 100).max(2)
}

/// Lines of at least so many bytes together, or so many rows.
fn lines(bytes: usize, rows: usize) -> String {
    let mut text = String::new();
    let mut row = 0;
    while text.len() < bytes && row < rows {
        let (device, celsius, humidity) =
            (row * 7_919 % 10_000, (row % 4_001) as f64 / 100.0, 30.0 + (row % 300) as f64 / 10.0);
        let (minute, second, ms) = (row / 60_000 % 60, row / 1_000 % 60, row % 1_000);
        let ts = format!("2026-01-01T00:{minute:02}:{second:02}.{ms:03}Z");
        writeln!(text, r#"{{"device":"dev-{device:05}","ts":"{ts}","temperature":{celsius},"humidity":{humidity}}}"#)
            .expect("writing to memory");
        row += 1;
    }
    text
}

fn ingest() {
    let text = lines(BODY_BYTES, usize::MAX);
    let text_rows = text.lines().count();
    let batch = workload::readings(COLUMN_ROWS, 10_000, 1_000).swap_remove(0);
    let mut writer = StreamWriter::try_new(Vec::new(), &workload::schema()).expect("a stream");
    writer.write(&batch).and_then(|()| writer.finish()).expect("memory");
    let columns = writer.into_inner().expect("finished");
    let points = points();
    let bodies: [(&str, &str, &str, &[u8], usize); 3] = [
        ("NDJSON", "/api/v1/ingest/bench", "application/x-ndjson", text.as_bytes(), text_rows),
        ("Arrow", "/api/v1/ingest/bench", "application/vnd.apache.arrow.stream", &columns, batch.num_rows()),
        ("line protocol", "/influx/api/v2/write?bucket=bench", "text/plain", &points, POINTS),
    ];
    for ((name, path, kind, body, rows), (kept, view)) in
        bodies.iter().flat_map(|body| [("windows", WINDOWS), ("all rows", HISTORY)].map(|view| (body, view)))
    {
        let folder = tempfile::tempdir().expect("a folder");
        let running = Program::new(folder.path(), &format!("{SOURCE}\n{view}\n")).start();
        let (bodies, mut rates) = (part(BODIES), Vec::new());
        for _ in 0..ROUNDS {
            let (begin, cpu) = (now(Count::Wall), running.cpu_s());
            std::thread::scope(|scope| {
                for _ in 0..CONNECTIONS {
                    scope.spawn(|| post_all(running.http, path, kind, body, bodies / CONNECTIONS));
                }
            });
            let megabytes = (body.len() * (bodies / CONNECTIONS) * CONNECTIONS) as f64 / 1e6;
            let wall = (now(Count::Wall) - begin).as_secs_f64();
            rates.push((megabytes / wall, megabytes / (running.cpu_s() - cpu).max(0.01)));
        }
        rates.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (wall, core) = rates[rates.len() / 2];
        let k_rows = |megabytes: f64| megabytes * 1e3 * *rows as f64 / body.len() as f64;
        println!(
            "{name}, {kept} in a table: {wall:.0} MB/s ({:.0} k rows/s) to durable over {CONNECTIONS} connections, {core:.0} MB ({:.0} k rows) \
             for each second of CPU",
            k_rows(wall),
            k_rows(core)
        );
        running.stop();
    }
}

/// The same readings as points of Influx.
fn points() -> Vec<u8> {
    let mut text = String::new();
    for row in 0..POINTS {
        let (device, celsius, humidity) =
            (row * 7_919 % 10_000, (row % 4_001) as f64 / 100.0, 30.0 + (row % 300) as f64 / 10.0);
        let ts = 1_767_225_600_000_000_000 + row as u64 * 1_000_000;
        writeln!(text, "reading,device=dev-{device:05} temperature={celsius},humidity={humidity} {ts}")
            .expect("writing to memory");
    }
    text.into_bytes()
}

/// Posts a body again and again on one connection; each answer must be of success.
fn post_all(port: u16, path: &str, kind: &str, body: &[u8], times: usize) {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("connects");
    socket.set_nodelay(true).expect("no delay");
    let head = head(path, kind, body.len());
    let mut answer = vec![0; 4 << 10];
    for _ in 0..times {
        loop {
            socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(body)).expect("sends");
            let count = socket.read(&mut answer).expect("an answer");
            let answer = String::from_utf8_lossy(&answer[..count]);
            if answer.starts_with("HTTP/1.1 20") {
                break;
            }
            // The log is behind the network: what it is there for.
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn head(path: &str, kind: &str, length: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n")
}

fn clients() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = Program::new(folder.path(), &format!("{SOURCE}\n{HISTORY}\n")).start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let (requests, mut rates) = (part(REQUESTS), Vec::new());
    for _ in 0..ROUNDS {
        let (begin, cpu) = (now(Count::Wall), running.cpu_s());
        runtime.block_on(keep_alive(running.http, requests));
        let wall = (now(Count::Wall) - begin).as_secs_f64();
        rates.push((requests as f64 / wall / 1e3, (running.cpu_s() - cpu) * 1e6 / requests as f64));
    }
    rates.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (rate, cpu_us) = rates[rates.len() / 2];
    println!("{CLIENTS} clients with one row each: {rate:.1} k acknowledged requests/s, {cpu_us:.1} us of CPU each");
    running.stop();
}

/// All clients together send so many requests, each the next when it has the answer to the last.
async fn keep_alive(port: u16, requests: usize) {
    let left = Arc::new(AtomicUsize::new(requests));
    let row = lines(1, 1);
    let request = Arc::new(head("/api/v1/ingest/bench", "application/json", row.len()) + &row);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (left, request) = (Arc::clone(&left), Arc::clone(&request));
        clients.spawn(async move {
            let socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("connects");
            socket.set_nodelay(true).expect("no delay");
            let mut answer = [0; 2 << 10];
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                write_all(&socket, request.as_bytes()).await;
                let count = read(&socket, &mut answer).await;
                assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..count]));
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("a client ends well");
    }
}

async fn write_all(socket: &tokio::net::TcpStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        socket.writable().await.expect("a socket");
        match socket.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}"),
        }
    }
}

async fn read(socket: &tokio::net::TcpStream, answer: &mut [u8]) -> usize {
    loop {
        socket.readable().await.expect("a socket");
        match socket.try_read(answer) {
            Ok(count) => return count,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}"),
        }
    }
}

fn decode() {
    let text = lines(usize::MAX, part(DECODED_ROWS));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rows.ndjson");
    std::fs::write(&file, &text).expect("writes");
    let rows = text.lines().count();
    let megabytes = text.len() as f64 / 1e6;
    let text = bytes::Bytes::from(text);
    let format = JsonFormat::new(Layout::new(&workload::schema()));
    let mut ours = || {
        let mut decoder = format.decoder();
        let (mut rest, mut count) = (text.clone(), 0);
        while !rest.is_empty() {
            let cut = rest.len().min(BODY_BYTES);
            let end = rest[..cut].iter().rposition(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
            let body = Data::Messages(vec![Message::new("", rest.split_to(end))]);
            count +=
                decoder.decode(&body, &Place::default()).batches.iter().map(|batch| batch.num_rows()).sum::<usize>();
        }
        assert_eq!(count, rows);
    };
    let time = workload::interleaved(Count::Thread, ROUNDS, &mut [&mut ours])[0];
    let theirs = duckdb_s(&file, rows);
    let (ours, theirs) = (megabytes / time.as_secs_f64(), megabytes / theirs);
    println!(
        "NDJSON to columns, one thread: tidemill {ours:.0} MB/s, DuckDB's read_json {theirs:.0} MB/s: {:.2}x",
        ours / theirs
    );
}

/// CPU time of DuckDB for the same, best of a few, in seconds.
fn duckdb_s(file: &Path, rows: usize) -> f64 {
    let script = format!(
        "import duckdb, time\n\
         c = duckdb.connect()\n\
         c.execute('SET threads = 1')\n\
         best = 1e9\n\
         for _ in range({ROUNDS}):\n\
         \x20   begin = time.process_time()\n\
         \x20   t = c.execute(\"SELECT * FROM read_json('{}', format = 'newline_delimited', columns = {{device: 'VARCHAR', \
         ts: 'TIMESTAMP', temperature: 'DOUBLE', humidity: 'DOUBLE'}})\").to_arrow_table()\n\
         \x20   best = min(best, time.process_time() - begin)\n\
         \x20   assert t.num_rows == {rows}\n\
         print(best)\n",
        file.display()
    );
    let cache = || PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache/tidemill/venv/bin/python");
    let python = std::env::var_os("TIDEMILL_PYTHON").map_or_else(cache, PathBuf::from);
    let told = Command::new(python).args(["-c", &script]).output().expect("Python: run `./check tools`");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    String::from_utf8_lossy(&told.stdout).trim().parse().expect("a number")
}
