//! Runs plans on hand-made logs: the clock, the arrivals and the epochs are whatever the test says.
//!
//! A case is written into a real ingest log in memory and replayed by a real job, on as many workers as wanted. What
//! comes out is what would have been committed.

pub mod fuzz;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use parking_lot::Mutex;

use crate::aggregate::{AggregateCall, AggregateKind};
use crate::clock::{ManualClock, SeededDice};
use crate::decode::{Decoded, Decoder, Format, Place};
use crate::epoch::Epoch;
use crate::expr::{Column, ExprRef};
use crate::ingest::{Log, LogOptions, PartitionId, Record};
use crate::plan::{EventTimeNode, Operator, Plan, SourceNode, WindowNode, timestamp_type, window_schema};
use crate::runtime::{Job, JobError, JobOptions, JobStatus, LOG_FOLDER};
use crate::sink::{Committable, Found, Sink, SinkError, SinkWriter};
use crate::source::{Data, Intake, Message, Offset, Resume, Source, SourceError, Stop};
use crate::storage::MemoryStorage;
use crate::time::Watermark;
use crate::window::WindowAssigner;

/// One reading of a case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    /// Where it came in.
    pub partition: u32,
    /// Whose it is.
    pub key: String,
    /// When it happened, microseconds.
    pub time_us: i64,
    /// When it came in, microseconds.
    pub arrival_us: i64,
    /// What was read.
    pub value: i64,
}

/// One epoch of a case.
#[derive(Clone, Debug, Default)]
pub struct EpochInput {
    /// The time written in its Seal, microseconds.
    pub now_us: i64,
    /// Its readings.
    pub events: Vec<Event>,
}

/// A windowed query over hand-made epochs.
#[derive(Clone, Debug)]
pub struct WindowCase {
    /// Which windows.
    pub assigner: WindowAssigner,
    /// Watermark delay, microseconds.
    pub delay_us: i64,
    /// When a partition is idle, microseconds.
    pub idle_after_us: Option<i64>,
    /// When a reading is quarantined, microseconds.
    pub future_limit_us: Option<i64>,
    /// Whether the input ends, and all windows with it.
    pub flush: bool,
    /// The input.
    pub epochs: Vec<EpochInput>,
}

/// The aggregates of one window and key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WindowResult {
    /// `count(*)`.
    pub count: i64,
    /// `sum(value)`.
    pub sum: i64,
    /// `min(value)`.
    pub min: i64,
    /// `max(value)`.
    pub max: i64,
    /// `avg(value)`.
    pub avg: f64,
}

/// What a case gives.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowOutcome {
    /// By key, window start and end. A window that came out twice would be an error.
    pub windows: BTreeMap<(String, i64, i64), WindowResult>,
    /// Late readings as (key, time, value), sorted.
    pub late: Vec<(String, i64, i64)>,
    /// Quarantined readings as (key, time, value), sorted.
    pub quarantined: Vec<(String, i64, i64)>,
    /// The watermark at the end; `None` if there never was one.
    pub watermark: Option<i64>,
}

/// Runs a windowed query on a number of workers.
pub async fn run_windows(case: &WindowCase, workers: usize) -> Result<WindowOutcome, JobError> {
    let (tables, status) = replay(window_plan(case), &records(case), workers).await?;
    let mut windows = BTreeMap::new();
    for batch in &tables["windows"] {
        let integer = |at: usize| batch.column(at).as_primitive::<Int64Type>().clone();
        let time = |at: usize| batch.column(at).as_primitive::<TimestampMicrosecondType>().clone();
        let (keys, starts, ends) = (batch.column(0).as_string_view(), time(1), time(2));
        let (count, sum, min, max) = (integer(3), integer(4), integer(5), integer(6));
        let avg = batch.column(7).as_primitive::<Float64Type>();
        for row in 0..batch.num_rows() {
            let key = (keys.value(row).to_owned(), starts.value(row), ends.value(row));
            let result = WindowResult {
                count: count.value(row),
                sum: sum.value(row),
                min: min.value(row),
                max: max.value(row),
                avg: avg.value(row),
            };
            if windows.insert(key.clone(), result).is_some() {
                return Err(JobError::Operator(format!("window {key:?} came out twice")));
            }
        }
    }
    let watermark = status.sources[0].watermark.filter(|watermark| *watermark != Watermark::UNKNOWN);
    Ok(WindowOutcome {
        windows,
        late: events_of(&tables["windows$late"]),
        quarantined: events_of(&tables["events$quarantine"]),
        watermark: watermark.map(|watermark| watermark.0),
    })
}

/// Replays a log of these records through a plan; returns the rows of each table and the job's last status. Sources of
/// the plan are not run: a [`LogOnly`] is enough.
pub async fn replay(
    plan: Plan,
    records: &[Record],
    workers: usize,
) -> Result<(BTreeMap<String, Vec<RecordBatch>>, JobStatus), JobError> {
    let storage = Arc::new(MemoryStorage::default());
    let dice = Arc::new(SeededDice::new(1));
    let log_error = |error: crate::ingest::LogError| JobError::Log(error.to_string());
    let mut log = Log::open(Arc::<MemoryStorage>::clone(&storage), LOG_FOLDER, &*dice, LogOptions::default())
        .and_then(|mut empty| empty.next().map(|_| empty))
        .and_then(crate::ingest::Replay::finish)
        .map_err(log_error)?;
    records.iter().for_each(|record| {
        log.append(record);
    });
    log.sync().map_err(log_error)?;
    drop(log);

    let mut rows = BTreeMap::new();
    let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
    for (name, _) in plan.tables() {
        let collected = Collected::default();
        rows.insert(name.clone(), Arc::clone(&collected.committed));
        sinks.push(Box::new(CollectingSink { name, collected, last: Epoch::NONE }));
    }
    let options = JobOptions {
        storage,
        // The job may seal an idle epoch of its own: it must not be later than the log's last.
        clock: Arc::new(ManualClock::at(sealed_last_us(records))),
        dice,
        workers,
        checkpoint_interval: Duration::from_secs(3600),
        commit_interval: Duration::from_secs(3600),
        table_writers: 1,
        log: LogOptions::default(),
        live: BTreeMap::new(),
        epoch_interval: Duration::from_secs(3600),
    };
    let job = Job::start(plan, sinks, options).await?;
    job.stop().await?;
    let status = job.status();
    Ok((rows.into_iter().map(|(name, rows)| (name, std::mem::take(&mut *rows.lock()))).collect(), status))
}

/// Returns the time in the last Seal.
fn sealed_last_us(records: &[Record]) -> i64 {
    let sealed = |record: &Record| if let Record::Seal { now_us, .. } = record { Some(*now_us) } else { None };
    records.iter().rev().find_map(sealed).unwrap_or(0)
}

/// A source `events` that brings nothing but what the log has, without event time.
pub fn event_source() -> SourceNode {
    SourceNode {
        name: "events".to_owned(),
        identity: "events".to_owned(),
        source: Arc::new(LogOnly),
        format: Arc::new(EventFormat),
        event_time: None,
        dead_table: None,
        quarantine_table: None,
    }
}

/// A source whose input is all in the log already.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogOnly;

#[async_trait::async_trait]
impl Source for LogOnly {
    fn bounded(&self) -> bool {
        false
    }

    async fn run(&self, intake: Arc<dyn Intake>, _: Vec<Resume>, stop: Stop) -> Result<(), SourceError> {
        intake.set_connected(true);
        stop.cancelled().await;
        Ok(())
    }
}

/// A sink that keeps what is committed in memory.
pub(crate) struct CollectingSink {
    pub(crate) name: String,
    pub(crate) collected: Collected,
    pub(crate) last: Epoch,
}

#[derive(Clone, Default)]
pub(crate) struct Collected {
    prepared: Arc<Mutex<Vec<RecordBatch>>>,
    pub(crate) committed: Arc<Mutex<Vec<RecordBatch>>>,
}

impl Sink for CollectingSink {
    fn name(&self) -> &str {
        &self.name
    }

    fn found(&self) -> Found {
        Found::New
    }

    fn begin(&mut self, _: Epoch) -> Result<String, SinkError> {
        Ok("created".to_owned())
    }

    fn last_committed(&self) -> Epoch {
        self.last
    }

    fn writer(&mut self, _: usize) -> Box<dyn SinkWriter> {
        Box::new(self.collected.clone())
    }

    fn commit(&mut self, epoch: Epoch, _: &[Committable]) -> Result<(), SinkError> {
        self.collected.committed.lock().append(&mut self.collected.prepared.lock());
        self.last = epoch;
        Ok(())
    }
}

impl SinkWriter for Collected {
    fn prepare(&mut self, _: Epoch, rows: &[(Epoch, RecordBatch)]) -> Result<Vec<Committable>, SinkError> {
        self.prepared.lock().extend(rows.iter().map(|(_, rows)| rows.clone()));
        Ok(vec![Committable { version: 0, body: String::new(), summary: "in memory".to_owned() }])
    }
}

/// Decodes `key,time,value`.
pub(crate) struct EventFormat;

pub(crate) fn event_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("key", DataType::Utf8View, false),
        Field::new("ts", timestamp_type(), false),
        Field::new("value", DataType::Int64, false),
    ]))
}

impl Format for EventFormat {
    fn schema(&self) -> SchemaRef {
        event_schema()
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(EventFormat)
    }
}

impl Decoder for EventFormat {
    fn decode(&mut self, data: &Data, _: &Place<'_>) -> Decoded {
        let Data::Messages(messages) = data else { unreachable!("events are messages") };
        let (mut keys, mut times, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for message in messages {
            let text = std::str::from_utf8(&message.payload).expect("written by `records`");
            let mut parts = text.rsplitn(3, ',');
            let mut number = || parts.next().and_then(|part| part.parse::<i64>().ok()).expect("written by `records`");
            let (value, time_us) = (number(), number());
            keys.push(parts.next().expect("written by `records`"));
            times.push(time_us);
            values.push(value);
        }
        let times = TimestampMicrosecondArray::from(times).with_timezone("UTC");
        let columns: Vec<arrow::array::ArrayRef> =
            vec![Arc::new(StringViewArray::from(keys)), Arc::new(times), Arc::new(Int64Array::from(values))];
        let batch = RecordBatch::try_new(event_schema(), columns).expect("columns of one length");
        Decoded { batches: vec![batch], ..Decoded::default() }
    }
}

/// Returns the plan of a windowed query, over a source `events`, into the tables `windows`, `windows$late` and
/// `events$quarantine`.
pub(crate) fn window_plan(case: &WindowCase) -> Plan {
    let column = |index: usize, name: &str| -> ExprRef { Arc::new(Column { index, name: name.to_owned() }) };
    let call = |kind, name: &str| AggregateCall {
        kind,
        argument: (name != "count").then(|| column(2, "value")),
        argument_type: if name == "count" { DataType::Null } else { DataType::Int64 },
        name: name.to_owned(),
    };
    let aggregates = vec![
        call(AggregateKind::Count, "count"),
        call(AggregateKind::Sum, "sum"),
        call(AggregateKind::Min, "min"),
        call(AggregateKind::Max, "max"),
        call(AggregateKind::Avg, "avg"),
    ];
    let mut plan = Plan::default();
    let input = plan.push(
        event_schema(),
        Operator::Source(SourceNode {
            event_time: Some(EventTimeNode {
                column: 1,
                delay_us: case.delay_us,
                idle_after_us: case.idle_after_us,
                future_limit_us: case.future_limit_us,
            }),
            quarantine_table: Some("events$quarantine".to_owned()),
            ..event_source()
        }),
    );
    let schema = window_schema(&[("key".to_owned(), DataType::Utf8View, false)], &aggregates);
    let window = plan.push(
        Arc::clone(&schema),
        Operator::Window(WindowNode {
            identity: "windows".to_owned(),
            input,
            time_column: 1,
            assigner: case.assigner,
            keys: vec![column(0, "key")],
            aggregates,
            late_table: Some("windows$late".to_owned()),
        }),
    );
    plan.push(schema, Operator::Table { input: window, name: "windows".to_owned() });
    plan
}

fn records(case: &WindowCase) -> Vec<Record> {
    let mut records = Vec::new();
    let mut partitions: Vec<u32> = Vec::new();
    let mut first = Offset(0);
    let mut epoch = Epoch::FIRST;
    for input in &case.epochs {
        for event in &input.events {
            let place = partitions.iter().position(|known| *known == event.partition).unwrap_or_else(|| {
                let partition = PartitionId(partitions.len() as u32);
                records.push(Record::Open {
                    partition,
                    source: "events".to_owned(),
                    name: event.partition.to_string(),
                });
                partitions.push(event.partition);
                partitions.len() - 1
            });
            let payload = format!("{},{},{}", event.key, event.time_us, event.value);
            records.push(Record::Messages {
                partition: PartitionId(place as u32),
                arrival_us: event.arrival_us,
                first,
                messages: vec![Message::new("", payload)],
                notes: Vec::new(),
            });
            first.0 += 1;
        }
        records.push(Record::Seal { epoch, now_us: input.now_us, checkpoint: false });
        epoch = epoch.next();
    }
    if case.flush {
        records.extend((0..partitions.len() as u32).map(|place| Record::End { partition: PartitionId(place) }));
        let now_us = case.epochs.last().map_or(0, |input| input.now_us);
        records.push(Record::Seal { epoch, now_us, checkpoint: false });
    }
    records
}

fn events_of(batches: &[RecordBatch]) -> Vec<(String, i64, i64)> {
    let mut events = Vec::new();
    for batch in batches {
        let (keys, times) =
            (batch.column(0).as_string_view(), batch.column(1).as_primitive::<TimestampMicrosecondType>());
        let values = batch.column(2).as_primitive::<Int64Type>();
        events.extend((0..keys.len()).map(|row| (keys.value(row).to_owned(), times.value(row), values.value(row))));
    }
    events.sort();
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(key: &str, time_us: i64, value: i64) -> Event {
        Event { partition: 0, key: key.to_owned(), time_us, arrival_us: time_us, value }
    }

    fn case(flush: bool) -> WindowCase {
        WindowCase {
            assigner: WindowAssigner::Tumbling { size_us: 10 },
            delay_us: 2,
            idle_after_us: None,
            future_limit_us: Some(100),
            flush,
            epochs: vec![
                EpochInput { now_us: 1, events: vec![event("a", 1, 5), event("b", 3, 7)] },
                EpochInput { now_us: 2, events: vec![event("a", 12, 1), event("a", 9, 2)] },
                EpochInput { now_us: 3, events: vec![event("a", 4, 100), event("b", 15, 1)] },
            ],
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn windows_close_by_the_watermark_of_their_epoch() {
        for workers in [1, 2, 4] {
            let outcome = run_windows(&case(false), workers).await.expect("runs");
            let result = |count, sum, min, max, avg| WindowResult { count, sum, min, max, avg };
            let expected = [
                (("a".to_owned(), 0, 10), result(2, 7, 2, 5, 3.5)),
                (("b".to_owned(), 0, 10), result(1, 7, 7, 7, 7.0)),
            ];
            assert_eq!(outcome.windows, BTreeMap::from(expected), "on {workers} workers");
            assert_eq!(outcome.late, [("a".to_owned(), 4, 100)]);
            assert_eq!(outcome.watermark, Some(13));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_end_of_the_input_closes_what_is_open() {
        let outcome = run_windows(&case(true), 2).await.expect("runs");
        let counts: Vec<i64> = outcome.windows.values().map(|window| window.count).collect();
        assert_eq!(counts, [2, 1, 1, 1]);
        assert_eq!(outcome.watermark, Some(i64::MAX));
    }
}
