//! The document of `/api/v1/status`: what the job is doing, member by member, as the description of the API says it too.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};
use tidemill_connectors::breaker::BreakerState;
use tidemill_connectors::describe;
use tidemill_connectors::http::api::{Components, Shape};
use tidemill_connectors::outbox::OutboxStatus;
use tidemill_engine::runtime::{CheckpointStatus, DedupStatus, JobStatus, SourceStatus, TableStatus, WindowStatus};
use tidemill_engine::source::TargetStatus;
use tidemill_engine::time::Watermark;

use super::{ReadOnly, ServiceStatus};

/// The service in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Starting,
    Running,
    Finished,
    Failed,
    ReadOnly,
}

impl State {
    fn of(service: &ServiceStatus) -> State {
        match (&service.read_only, &service.job) {
            (Some(_), _) => State::ReadOnly,
            (None, None) => State::Starting,
            (None, Some(JobStatus { failure: Some(_), .. })) => State::Failed,
            (None, Some(JobStatus { finished: true, .. })) => State::Finished,
            (None, Some(_)) => State::Running,
        }
    }
}

impl Shape for State {
    fn shape(_: &mut Components) -> Value {
        json!({"enum": [State::Starting, State::Running, State::Finished, State::Failed, State::ReadOnly]})
    }
}

/// A source in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SourceState {
    Connected,
    #[serde(rename = "not connected")]
    NotConnected,
    Ended,
}

impl SourceState {
    pub(super) fn of(source: &SourceStatus) -> SourceState {
        match (source.ended, source.connected) {
            (true, _) => SourceState::Ended,
            (false, true) => SourceState::Connected,
            (false, false) => SourceState::NotConnected,
        }
    }
}

impl Shape for SourceState {
    fn shape(_: &mut Components) -> Value {
        json!({"enum": [SourceState::Connected, SourceState::NotConnected, SourceState::Ended]})
    }
}

/// A circuit breaker in one word.
#[derive(Serialize)]
struct Breaker(&'static str);

impl Shape for Breaker {
    fn shape(_: &mut Components) -> Value {
        let words = [BreakerState::Closed, BreakerState::HalfOpen, BreakerState::Open].map(BreakerState::word);
        json!({"enum": words})
    }
}

/// All of it.
#[derive(Serialize)]
pub(super) struct Document {
    state: State,
    read_only: Option<Since>,
    disk_failures: u64,
    ready: bool,
    finished: bool,
    failure: Option<String>,
    sealed_epoch: u64,
    completed_epoch: u64,
    log_bytes: u64,
    rows_in_flight: u64,
    checkpoint: Checkpoint,
    sources: Vec<Source>,
    dedups: Vec<Dedup>,
    windows: Vec<Window>,
    tables: Vec<Table>,
    sinks: Vec<Sink>,
}

describe!(Document as "Status" {
    state: "the service in one word",
    read_only: "why nothing is taken, while nothing is",
    disk_failures: "how often the disk has failed since the program began",
    ready: "whether every source runs",
    finished: "whether all sources have ended and everything is committed",
    failure: "why the job has stopped by itself",
    sealed_epoch: "the last epoch whose input is whole in the log",
    completed_epoch: "the last epoch whose results have all left the dataflow",
    log_bytes: "bytes of the ingest log",
    rows_in_flight: "rows in the dataflow whose epoch is not completed",
    checkpoint: "the last one",
    sources: "in the order of the pipeline",
    dedups: "sources whose repeats are dropped",
    windows: "views with windows",
    tables: "in the order of the pipeline",
    sinks: "in the order of the pipeline",
});

impl Document {
    pub(super) fn of(service: &ServiceStatus) -> Document {
        let nothing = JobStatus::default();
        let job = service.job.as_ref().unwrap_or(&nothing);
        Document {
            state: State::of(service),
            read_only: service.read_only.as_ref().map(Since::of),
            disk_failures: service.disk_failures,
            ready: job.ready && service.read_only.is_none(),
            finished: job.finished,
            failure: job.failure.clone(),
            sealed_epoch: job.sealed.0,
            completed_epoch: job.completed.0,
            log_bytes: job.log_bytes,
            rows_in_flight: job.rows_in_flight,
            checkpoint: Checkpoint::of(&job.checkpoint),
            sources: job.sources.iter().map(Source::of).collect(),
            dedups: job.dedups.iter().map(Dedup::of).collect(),
            windows: job.windows.iter().map(Window::of).collect(),
            tables: job.tables.iter().map(Table::of).collect(),
            sinks: service.sinks.iter().map(Sink::of).collect(),
        }
    }
}

#[derive(Serialize)]
struct Since {
    since: Option<String>,
    reason: String,
}

describe!(Since as "ReadOnly" { since: "RFC 3339, UTC", reason: "what was tried, where, and why it failed" });

impl Since {
    fn of(read_only: &ReadOnly) -> Since {
        Since { since: instant(read_only.since_us), reason: read_only.reason.clone() }
    }
}

#[derive(Serialize)]
struct Checkpoint {
    epoch: u64,
    made: Option<String>,
    seconds: f64,
    bytes: u64,
    count: u64,
}

describe!(Checkpoint {
    epoch: "a restart begins behind it",
    made: "when, RFC 3339, UTC; null if this run has made none yet",
    seconds: "how long it took",
    bytes: "what it has written, beside what it names of earlier ones",
    count: "how many this run has made",
});

impl Checkpoint {
    fn of(checkpoint: &CheckpointStatus) -> Checkpoint {
        Checkpoint {
            epoch: checkpoint.epoch.0,
            made: Some(checkpoint.made_us).filter(|made_us| *made_us != 0).and_then(instant),
            seconds: checkpoint.duration_us as f64 / 1e6,
            bytes: checkpoint.bytes,
            count: checkpoint.count,
        }
    }
}

#[derive(Serialize)]
struct Source {
    name: String,
    state: SourceState,
    messages: u64,
    bytes: u64,
    rows: u64,
    dead: u64,
    quarantined: u64,
    nulled: u64,
    dropped_attributes: u64,
    errors: BTreeMap<String, u64>,
    watermark: Option<String>,
    targets: Vec<Target>,
}

describe!(Source {
    name: "of the source",
    state: "whether it can receive",
    messages: "messages, or rows of columns, in the log",
    bytes: "payload bytes in the log",
    rows: "rows that decoded and are not quarantined",
    dead: "dead letters",
    quarantined: "rows from the future",
    nulled: "values that did not fit in their column",
    dropped_attributes: "tags, labels, fields and attributes without a column",
    errors: "what was refused before the log, by kind",
    watermark: "RFC 3339, UTC; null before the first row and without an event time, end after the last row",
    targets: "the places it fetches from",
});

impl Source {
    fn of(source: &SourceStatus) -> Source {
        Source {
            name: source.name.clone(),
            state: SourceState::of(source),
            messages: source.messages,
            bytes: source.bytes,
            rows: source.rows,
            dead: source.dead,
            quarantined: source.quarantined,
            nulled: source.nulled,
            dropped_attributes: source.dropped_attributes,
            errors: source.errors.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
            watermark: source.watermark.and_then(watermark),
            targets: source.targets.iter().map(Target::of).collect(),
        }
    }
}

#[derive(Serialize)]
struct Target {
    target: String,
    connected: bool,
    breaker: Breaker,
    failures: u64,
    error: Option<String>,
}

describe!(Target {
    target: "as its options name it",
    connected: "whether it answered when it was last asked",
    breaker: "its circuit breaker",
    failures: "attempts that have failed since the program began",
    error: "why the last attempt failed, until one does not",
});

impl Target {
    fn of(target: &TargetStatus) -> Target {
        Target {
            target: target.target.clone(),
            connected: target.connected,
            breaker: Breaker(target.breaker),
            failures: target.failures,
            error: target.error.clone(),
        }
    }
}

#[derive(Serialize)]
struct Dedup {
    source: String,
    taken: u64,
    repeats: u64,
    late: u64,
    state_bytes: u64,
}

describe!(Dedup {
    source: "its name",
    taken: "rows that went on",
    repeats: "rows that had come before",
    late: "rows too old to tell",
    state_bytes: "bytes of the keys that are remembered",
});

impl Dedup {
    fn of(dedup: &DedupStatus) -> Dedup {
        let DedupStatus { source, taken, repeats, late, state_bytes } = dedup.clone();
        Dedup { source, taken, repeats, late, state_bytes }
    }
}

#[derive(Serialize)]
struct Window {
    name: String,
    rows: u64,
    late: u64,
    results: u64,
}

describe!(Window {
    name: "of the view",
    rows: "rows that fell into a window",
    late: "rows too late for any",
    results: "rows of results that have left",
});

impl Window {
    fn of(window: &WindowStatus) -> Window {
        let WindowStatus { name, rows, late, results } = window.clone();
        Window { name, rows, late, results }
    }
}

#[derive(Serialize)]
struct Table {
    name: String,
    rows: u64,
    committed_epoch: u64,
}

describe!(Table {
    name: "of the table",
    rows: "rows handed to it since the start",
    committed_epoch: "the last epoch that readers see",
});

impl Table {
    fn of(table: &TableStatus) -> Table {
        Table { name: table.name.clone(), rows: table.rows, committed_epoch: table.committed.0 }
    }
}

#[derive(Serialize)]
struct Sink {
    name: String,
    of: String,
    connector: &'static str,
    connected: bool,
    breaker: Breaker,
    error: Option<String>,
    outbox_rows: u64,
    outbox_bytes: u64,
    delivered: u64,
    failures: u64,
    dropped: u64,
    rejected: u64,
}

describe!(Sink {
    name: "of the sink",
    of: "the view or source whose rows it delivers",
    connector: "where it delivers to",
    connected: "whether the other side takes rows now",
    breaker: "its circuit breaker",
    error: "why the last attempt failed, until one does not",
    outbox_rows: "rows that are not delivered yet",
    outbox_bytes: "bytes of the files they lie in",
    delivered: "rows delivered since the program began",
    failures: "attempts that have failed since the program began",
    dropped: "rows left out because the outbox was full, in all its life",
    rejected: "rows that cannot be delivered at all, since the program began",
});

impl Sink {
    fn of(sink: &OutboxStatus) -> Sink {
        Sink {
            name: sink.name.clone(),
            of: sink.of.clone(),
            connector: sink.connector,
            connected: sink.connected,
            breaker: Breaker(sink.breaker.word()),
            error: sink.error.clone(),
            outbox_rows: sink.rows,
            outbox_bytes: sink.bytes,
            delivered: sink.delivered,
            failures: sink.failures,
            dropped: sink.dropped,
            rejected: sink.rejected,
        }
    }
}

/// Writes a watermark: RFC 3339, nothing before the first row, `end` after the last.
fn watermark(watermark: Watermark) -> Option<String> {
    match watermark {
        Watermark::UNKNOWN => None,
        Watermark::END => Some("end".to_owned()),
        Watermark(us) => instant(us),
    }
}

/// Writes an instant as RFC 3339.
pub(super) fn instant(us: i64) -> Option<String> {
    let time = arrow::temporal_conversions::timestamp_us_to_datetime(us)?;
    Some(format!("{}Z", time.format("%Y-%m-%dT%H:%M:%S%.f")))
}

#[cfg(test)]
mod tests;
