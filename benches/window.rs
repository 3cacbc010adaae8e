//! Window aggregation over batches in memory, against DataFusion's batch query over the same batches, one thread each;
//! and the whole dataflow with one and two workers.

mod workload;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use workload::Count;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use tidemill_engine::aggregate::{AggregateCall, AggregateKind, Layout, Selection};
use tidemill_engine::clock::{SystemClock, SystemDice};
use tidemill_engine::decode::{Decoded, Decoder, Format, Place};
use tidemill_engine::epoch::Epoch;
use tidemill_engine::expr::{Column, ExprRef};
use tidemill_engine::ingest::LogOptions;
use tidemill_engine::plan::{EventTimeNode, Operator, Plan, SourceNode, WindowNode, window_schema};
use tidemill_engine::runtime::{Job, JobOptions};
use tidemill_engine::sink::{Committable, Found, Sink, SinkError, SinkWriter};
use tidemill_engine::source::{Chunk, Data, Intake, Resume, Source, SourceError, Stop};
use tidemill_engine::storage::MemoryStorage;
use tidemill_engine::time::Watermark;
use tidemill_engine::window::{KeyColumn, WindowAssigner, WindowState};

const WINDOW: WindowAssigner = WindowAssigner::Tumbling { size_us: 10_000_000 };

fn main() {
    for (what, key_count, rows_per_second) in
        [("10 k text keys", 10_000, 100_000), ("1 M text keys", 1_000_000, 1_000_000)]
    {
        let batches = Arc::new(workload::readings(20_000_000, key_count, rows_per_second));
        let rows = batches.iter().map(RecordBatch::num_rows).sum::<usize>() as f64 / 1e6;
        if workload::wanted("operator") {
            operator(what, rows, &batches);
        }
        if workload::wanted("dataflow") {
            workers(what, rows, &batches);
        }
    }
}

fn operator(what: &str, rows: f64, batches: &[RecordBatch]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let (mut ours, mut theirs) = (0, 0);
    let times = workload::interleaved(
        Count::Thread,
        5,
        &mut [&mut || ours = window_operator(batches), &mut || theirs = runtime.block_on(batch_query(batches))],
    );
    assert_eq!(ours, theirs, "both give the same number of groups");
    workload::report(
        &format!("{what}, 20 M rows, 10 s windows, one thread: count, avg, min, max"),
        "M rows/s",
        rows,
        &["tidemill window operator", "DataFusion GROUP BY date_bin"],
        &times,
    );
}

fn workers(what: &str, rows: f64, batches: &Arc<Vec<RecordBatch>>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    let times = workload::interleaved(
        Count::Wall,
        5,
        &mut [&mut || runtime.block_on(dataflow(batches, 2)), &mut || runtime.block_on(dataflow(batches, 1))],
    );
    workload::report(
        &format!("{what}, the same through log, dataflow and exchange"),
        "M rows/s",
        rows,
        &["2 workers", "1 worker"],
        &times,
    );
}

fn calls() -> Vec<AggregateCall> {
    let argument =
        |index: usize, name: &str| -> Option<ExprRef> { Some(Arc::new(Column { index, name: name.to_owned() })) };
    let call = |kind, argument: Option<ExprRef>, name: &str| AggregateCall {
        kind,
        argument_type: if argument.is_some() { DataType::Float64 } else { DataType::Null },
        argument,
        name: name.to_owned(),
    };
    vec![
        call(AggregateKind::Count, None, "n"),
        call(AggregateKind::Avg, argument(2, "temperature"), "avg_t"),
        call(AggregateKind::Min, argument(2, "temperature"), "min_t"),
        call(AggregateKind::Max, argument(3, "humidity"), "max_h"),
    ]
}

/// Runs the window operator's state alone; returns the number of result rows.
fn window_operator(batches: &[RecordBatch]) -> usize {
    let calls = calls();
    let layout = Layout::new(&calls, |_| false);
    let keys = || KeyColumn::new(vec![(DataType::Utf8View, false)]).expect("a text key");
    let schema = window_schema(&[("device".to_owned(), DataType::Utf8View, false)], &calls);
    let mut state = WindowState::new(WINDOW, layout, keys(), schema);
    let mut results = 0;
    for batch in batches {
        let device = batch.column(0);
        let times = batch.column(1).as_primitive::<TimestampMicrosecondType>();
        let hashes = KeyColumn::hashes(device);
        let arguments = [Arc::clone(batch.column(2)), Arc::clone(batch.column(3))];
        let late = state.update(device, &hashes, times.values(), &arguments, Selection::All(device.len()));
        assert!(late.is_empty());
        let watermark = Watermark(times.value(times.len() - 1));
        results += state.close(watermark).expect("closes").iter().map(RecordBatch::num_rows).sum::<usize>();
    }
    results + state.close(Watermark::END).expect("closes").iter().map(RecordBatch::num_rows).sum::<usize>()
}

/// Runs DataFusion's batch query; returns the number of result rows.
async fn batch_query(batches: &[RecordBatch]) -> usize {
    let session = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    let table = MemTable::try_new(workload::schema(), vec![batches.to_vec()]).expect("a table");
    session.register_table("readings", Arc::new(table)).expect("registers");
    let sql = "SELECT device, date_bin(INTERVAL '10 seconds', ts) AS w, count(*), avg(temperature), min(temperature), \
               max(humidity) FROM readings GROUP BY 1, 2";
    let results = session.sql(sql).await.expect("plans").collect().await.expect("runs");
    results.iter().map(RecordBatch::num_rows).sum()
}

/// Runs the whole engine over the batches, with a log and tables in memory.
async fn dataflow(batches: &Arc<Vec<RecordBatch>>, workers: usize) {
    let mut plan = Plan::default();
    let source = Batches(Arc::clone(batches));
    let input = plan.push(
        workload::schema(),
        Operator::Source(SourceNode {
            name: "readings".to_owned(),
            identity: "readings".to_owned(),
            source: Arc::new(source),
            format: Arc::new(Columns),
            event_time: Some(EventTimeNode { column: 1, delay_us: 0, idle_after_us: None, future_limit_us: None }),
            dead_table: None,
            quarantine_table: None,
        }),
    );
    let calls = calls();
    let schema = window_schema(&[("device".to_owned(), DataType::Utf8View, false)], &calls);
    let window = WindowNode {
        identity: "windows".to_owned(),
        input,
        time_column: 1,
        assigner: WINDOW,
        keys: vec![Arc::new(Column { index: 0, name: "device".to_owned() })],
        aggregates: calls,
        late_table: None,
    };
    let window = plan.push(Arc::clone(&schema), Operator::Window(window));
    plan.push(schema, Operator::Table { input: window, name: "windows".to_owned() });
    let options = JobOptions {
        storage: Arc::new(MemoryStorage::default()),
        clock: Arc::new(SystemClock),
        dice: Arc::new(SystemDice),
        workers,
        checkpoint_interval: Duration::from_secs(10),
        commit_interval: Duration::from_secs(5),
        table_writers: 1,
        log: LogOptions::default(),
        live: BTreeMap::new(),
        epoch_interval: Duration::from_millis(50),
    };
    let job = Job::start(plan, vec![Box::new(Discard(Epoch::NONE))], options).await.expect("starts");
    job.finished().await.expect("finishes");
}

struct Batches(Arc<Vec<RecordBatch>>);

#[async_trait::async_trait]
impl Source for Batches {
    fn bounded(&self) -> bool {
        true
    }

    async fn run(&self, intake: Arc<dyn Intake>, _: Vec<Resume>, _: Stop) -> Result<(), SourceError> {
        intake.open("0").await?;
        for (at, batch) in self.0.iter().enumerate() {
            let (start, end) = (at as u64, at as u64 + 1);
            let chunk = Chunk::Range { start, end, data: Data::Columns(batch.clone()), checksum: 0 };
            drop(intake.append("0", chunk).await?);
        }
        intake.end("0").await?;
        Ok(())
    }
}

struct Columns;

impl Format for Columns {
    fn schema(&self) -> arrow::datatypes::SchemaRef {
        workload::schema()
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(Columns)
    }
}

impl Decoder for Columns {
    fn decode(&mut self, data: &Data, _: &Place<'_>) -> Decoded {
        let Data::Columns(batch) = data else { unreachable!("the source gives columns") };
        Decoded { batches: vec![batch.clone()], ..Decoded::default() }
    }
}

/// A table that forgets.
struct Discard(Epoch);

impl Sink for Discard {
    fn name(&self) -> &str {
        "windows"
    }

    fn found(&self) -> Found {
        Found::New
    }

    fn begin(&mut self, _: Epoch) -> Result<String, SinkError> {
        Ok("discarded".to_owned())
    }

    fn last_committed(&self) -> Epoch {
        self.0
    }

    fn writer(&mut self, _: usize) -> Box<dyn SinkWriter> {
        Box::new(DiscardWriter)
    }

    fn commit(&mut self, epoch: Epoch, _: &[Committable]) -> Result<(), SinkError> {
        self.0 = epoch;
        Ok(())
    }
}

/// The writer of [`Discard`].
struct DiscardWriter;

impl SinkWriter for DiscardWriter {
    fn prepare(&mut self, _: Epoch, _: &[(Epoch, RecordBatch)]) -> Result<Vec<Committable>, SinkError> {
        Ok(Vec::new())
    }
}
