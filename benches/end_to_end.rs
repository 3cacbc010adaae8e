//! The whole program but its server: a pipeline file, from the source to committed tables on disk.
//!
//! `generate` shows the engine without decoding; the NDJSON file is read, decoded, aggregated and committed, against
//! DataFusion reading and grouping the same file in one query that keeps nothing.

mod workload;

use std::io::{BufWriter, Write};
use std::path::Path;

use datafusion::prelude::{JsonReadOptions, SessionConfig, SessionContext};
use tidemill::assemble::Settings;
use workload::Count;

const GENERATED_ROWS: usize = 10_000_000;
const FILE_ROWS: usize = 2_000_000;

const VIEW: &str = "CREATE MATERIALIZED VIEW w AS SELECT device, window_start, window_end, count(*) AS n, \
                    avg(temperature) AS mean, min(temperature) AS low, max(temperature) AS high \
                    FROM TUMBLE(r, ts, INTERVAL '10 seconds') GROUP BY device, window_start, window_end;";

const COLUMNS: &str = "device TEXT NOT NULL, ts TIMESTAMP NOT NULL, temperature DOUBLE NOT NULL, \
                       WATERMARK FOR ts AS ts - INTERVAL '1 second'";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    if workload::wanted("generate") {
        let sql = format!(
            "CREATE SOURCE r ({COLUMNS}) WITH (connector = 'generate', rows = {GENERATED_ROWS}, keys = 10000, \
             interval = '100 us'); {VIEW}"
        );
        let times = workload::interleaved(
            Count::Wall,
            3,
            &mut [&mut || runtime.block_on(pipeline(&sql, 2)), &mut || runtime.block_on(pipeline(&sql, 1))],
        );
        let rows = GENERATED_ROWS as f64 / 1e6;
        workload::report("generate -> window -> table", "M rows/s", rows, &["2 workers", "1 worker"], &times);
    }
    if workload::wanted("file") {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("readings.ndjson");
        let bytes = write_readings(&path);
        let sql = format!("CREATE SOURCE r ({COLUMNS}) WITH (connector = 'file', path = '{}'); {VIEW}", path.display());
        let times = workload::interleaved(
            Count::Wall,
            3,
            &mut [
                &mut || runtime.block_on(pipeline(&sql, 2)),
                &mut || runtime.block_on(pipeline(&sql, 1)),
                &mut || runtime.block_on(batch(&path, 2)),
                &mut || runtime.block_on(batch(&path, 1)),
            ],
        );
        workload::report(
            &format!("NDJSON file of {} MB -> window -> table", bytes / 1_000_000),
            "M rows/s",
            FILE_ROWS as f64 / 1e6,
            &["2 workers", "1 worker", "DataFusion batch, 2 partitions", "DataFusion batch, 1 partition"],
            &times,
        );
    }
}

async fn pipeline(sql: &str, workers: usize) {
    let status = workload::run(sql, &Settings { workers, ..Settings::default() }).await;
    assert!(status.windows[0].results > 0, "windows came out");
}

async fn batch(path: &Path, partitions: usize) {
    let session = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(partitions));
    let options = JsonReadOptions::default().file_extension(".ndjson");
    session.register_json("r", path.to_str().expect("text"), options).await.expect("registers");
    let sql = "SELECT device, date_bin(INTERVAL '10 seconds', to_timestamp_micros(ts)) AS w, count(*), avg(temperature), \
               min(temperature), max(temperature) FROM r GROUP BY 1, 2";
    let results = session.sql(sql).await.expect("plans").collect().await.expect("runs");
    assert!(!results.is_empty(), "groups came out");
}

/// Writes readings of 10,000 devices; returns the bytes.
#[expect(clippy::disallowed_methods, reason = "input for the benchmark, not data of the program")]
fn write_readings(path: &Path) -> u64 {
    let mut file = BufWriter::new(std::fs::File::create(path).expect("creates"));
    for row in 0..FILE_ROWS {
        let (device, celsius) = (row * 7_919 % 10_000, (row % 4_001) as f64 / 100.0);
        let (minute, second, us) = (row / 600_000 % 60, row / 10_000 % 60, row % 10_000 * 100);
        let ts = format!("2026-01-01T00:{minute:02}:{second:02}.{us:06}Z");
        writeln!(file, r#"{{"device":"dev-{device:05}","ts":"{ts}","temperature":{celsius}}}"#).expect("writes");
    }
    file.flush().expect("writes");
    std::fs::metadata(path).expect("is there").len()
}
