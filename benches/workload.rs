//! Readings for the benchmarks, seeded, and the ratio of two measurements of one run.

#![allow(dead_code, reason = "each benchmark uses what it needs")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill::assemble::{self, Folder, Settings, SqlFile};
use tidemill_engine::plan::timestamp_type;
use tidemill_engine::runtime::JobStatus;

/// Rows in one batch.
pub(crate) const BATCH_ROWS: usize = 32_768;

/// Columns `device`, `ts`, `temperature`, `humidity`.
pub(crate) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("device", DataType::Utf8View, false),
        Field::new("ts", timestamp_type(), false),
        Field::new("temperature", DataType::Float64, false),
        Field::new("humidity", DataType::Float64, false),
    ]))
}

/// Makes `row_count` readings of `key_count` devices, `rows_per_second` of event time, in time order.
pub(crate) fn readings(row_count: usize, key_count: usize, rows_per_second: i64) -> Vec<RecordBatch> {
    let names: Vec<String> = (0..key_count).map(|key| format!("dev-{key:07}")).collect();
    let mut state = 0x5eed_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut batches = Vec::new();
    for start in (0..row_count).step_by(BATCH_ROWS) {
        let count = BATCH_ROWS.min(row_count - start);
        let devices: StringViewArray =
            (0..count).map(|_| Some(names[random() as usize % key_count].as_str())).collect();
        let times = (start..start + count).map(|row| row as i64 * 1_000_000 / rows_per_second).collect::<Vec<_>>();
        let mut value = |scale: f64| (0..count).map(|_| (random() % 10_000) as f64 / 100.0 * scale).collect::<Vec<_>>();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(devices),
            Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")),
            Arc::new(Float64Array::from(value(1.0))),
            Arc::new(Float64Array::from(value(0.5))),
        ];
        batches.push(RecordBatch::try_new(schema(), columns).expect("columns of one length"));
    }
    batches
}

/// Runs a pipeline file in a folder of its own to its end; returns what the job says then.
pub(crate) async fn run(sql: &str, settings: &Settings) -> JobStatus {
    let data = tempfile::tempdir().expect("a folder");
    let folder = Folder::open(data.path()).expect("opens");
    let context = assemble::context(folder.storage(), settings).expect("a context");
    let file = SqlFile { name: "bench.sql".to_owned(), text: sql.to_owned() };
    let mistakes = |mistakes: Vec<assemble::Mistake>| mistakes.iter().map(|m| m.render(false)).collect::<String>();
    let pipeline = assemble::compile(&[file], &context).map_err(mistakes).expect("compiles");
    let sinks = assemble::open_sinks(&folder, &pipeline.tables, settings).expect("opens");
    let job = assemble::start_job(&folder, pipeline.plan, sinks, Default::default(), settings).await.expect("starts");
    job.finished().await.expect("finishes");
    job.status()
}

/// Whether a part of a benchmark is asked for: by a word on the command line, or by none.
pub(crate) fn wanted(part: &str) -> bool {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with("--")).peekable();
    words.peek().is_none() || words.any(|word| part.contains(&word))
}

/// What a measurement counts.
#[derive(Clone, Copy)]
pub(crate) enum Count {
    /// Time on the wall.
    Wall,
    /// Time that this thread was on a core: for variants of one thread, on a machine that does other work too.
    Thread,
}

/// Measures several variants in turn, several times, so that a change of the machine's mood meets all of them;
/// returns the median of each.
pub(crate) fn interleaved(count: Count, rounds: usize, variants: &mut [&mut dyn FnMut()]) -> Vec<Duration> {
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); variants.len()];
    for _ in 0..rounds {
        for (variant, times) in variants.iter_mut().zip(&mut times) {
            let start = now(count);
            variant();
            times.push(now(count) - start);
        }
    }
    times
        .into_iter()
        .map(|mut times| {
            times.sort();
            times[times.len() / 2]
        })
        .collect()
}

/// Returns the time that has passed since some fixed point.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
pub(crate) fn now(count: Count) -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let wall = START.get_or_init(Instant::now).elapsed();
    match count {
        Count::Wall => wall,
        // Linux says it in nanoseconds; elsewhere the wall has to do.
        Count::Thread => std::fs::read_to_string("/proc/thread-self/schedstat")
            .ok()
            .and_then(|text| text.split_whitespace().next()?.parse().ok())
            .map_or(wall, Duration::from_nanos),
    }
}

/// Prints rates and how many times the first variant is as fast as each other one.
pub(crate) fn report(what: &str, unit: &str, amount: f64, names: &[&str], times: &[Duration]) {
    println!("{what}");
    for (name, time) in names.iter().zip(times) {
        let ratio = time.as_secs_f64() / times[0].as_secs_f64();
        let rate = amount / time.as_secs_f64();
        println!("  {name:<34} {rate:>10.1} {unit}   first is {ratio:.2}x");
    }
}
