//! DEDUP KEY against the same pipeline without it: generated rows, each with a number of its own, so that every key is new
//! and has to be remembered, which is what costs most.

mod workload;

use tidemill::assemble::Settings;
use workload::Count;

const ROWS: usize = 10_000_000;

const VIEW: &str = "CREATE MATERIALIZED VIEW w AS SELECT device, window_start, window_end, count(*) AS n, \
                    avg(temperature) AS mean, min(temperature) AS low, max(temperature) AS high \
                    FROM TUMBLE(r, ts, INTERVAL '10 seconds') GROUP BY device, window_start, window_end;";

/// What is called how. A minute of event time has 600,000 rows, so that forgetting is part of the work.
const VARIANTS: [(&str, &str); 4] = [
    ("without DEDUP KEY", ""),
    ("DEDUP KEY (seq), 1 minute", ", DEDUP KEY (seq) WITHIN INTERVAL '1 minute'"),
    ("DEDUP KEY (seq), 1 hour: all of them", ", DEDUP KEY (seq) WITHIN INTERVAL '1 hour'"),
    ("DEDUP KEY (device, seq), 1 minute", ", DEDUP KEY (device, seq) WITHIN INTERVAL '1 minute'"),
];

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    let pipelines = VARIANTS.map(|(_, dedup)| {
        format!(
            "CREATE SOURCE r (device TEXT NOT NULL, seq BIGINT NOT NULL, ts TIMESTAMP NOT NULL, \
             temperature DOUBLE NOT NULL, WATERMARK FOR ts AS ts - INTERVAL '1 second'{dedup}) \
             WITH (connector = 'generate', rows = {ROWS}, keys = 10000, interval = '100 us'); {VIEW}"
        )
    });
    for workers in [2, 1] {
        if !workload::wanted(&format!("{workers} worker")) {
            continue;
        }
        let run = |sql: &str| runtime.block_on(pipeline(sql, workers));
        let mut variants: Vec<_> = pipelines.iter().map(|sql| move || run(sql)).collect();
        let mut variants: Vec<&mut dyn FnMut()> = variants.iter_mut().map(|run| run as &mut dyn FnMut()).collect();
        let times = workload::interleaved(Count::Wall, 3, &mut variants);
        workload::report(
            &format!("generate -> dedup -> window -> table, {workers} worker(s)"),
            "M rows/s",
            ROWS as f64 / 1e6,
            &VARIANTS.map(|(name, _)| name),
            &times,
        );
    }
}

async fn pipeline(sql: &str, workers: usize) {
    let status = workload::run(sql, &Settings { workers, ..Settings::default() }).await;
    assert_eq!(status.windows[0].rows, ROWS as u64, "no row is a repeat");
    for dedup in &status.dedups {
        assert_eq!((dedup.taken, dedup.repeats, dedup.late), (ROWS as u64, 0, 0));
    }
}
