//! The builder: what a small program sees.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use tidemill_connectors::Metadata;
use tidemill_engine::plan::Operator;
use tidemill_engine::source::{Intake, Resume, Source, SourceError, Stop};

use super::draft::Outlet;
use super::*;
use tidemill_engine::time::{minutes, secs};

/// A source that has nothing to say: these tests look at the plan only.
struct Silent;

#[async_trait::async_trait]
impl Source for Silent {
    fn bounded(&self) -> bool {
        true
    }

    async fn run(&self, _: Arc<dyn Intake>, _: Vec<Resume>, _: Stop) -> std::result::Result<(), SourceError> {
        Ok(())
    }
}

fn readings(mill: &Pipeline) -> Stream {
    mill.source("readings", Silent)
        .columns([text("device"), double("temperature"), timestamp("ts")])
        .event_time("ts")
        .lateness(secs(2))
}

fn mistake(build: impl FnOnce(&Pipeline)) -> String {
    let mill = Pipeline::open("unused");
    build(&mill);
    match mill.draft.finish() {
        Ok(_) => panic!("no mistake was found"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn metadata_is_a_column_and_another_kind_of_it_is_another_source() {
    let identity = |of: Metadata| {
        let mill = Pipeline::open("unused");
        let readings = mill.source("readings", Silent).columns([
            metadata("heard", Metadata::ArrivalTime),
            double("temperature"),
            metadata("said", of),
        ]);
        readings.event_time("heard").to_table("raw");
        let plan = mill.draft.finish().expect("a plan").plan;
        let Operator::Source(source) = &plan.nodes[0].operator else { panic!("a source comes first") };
        assert_eq!(plan.nodes[0].schema.field(2).name(), "said");
        source.identity.clone()
    };
    assert_ne!(identity(Metadata::ContentType), identity(Metadata::ResponseTopic));
}

#[test]
fn the_steps_become_a_plan_with_all_its_tables() {
    let mill = Pipeline::open("unused");
    let windows = readings(&mill)
        .filter("temperature > -100")
        .key_by(["device"])
        .window(tumbling(minutes(1)))
        .aggregate([count().named("n"), avg("temperature")]);
    windows.to_table("device_1m");
    let _live = windows.subscribe();
    let finished = mill.draft.finish().expect("a plan");

    let kinds: Vec<&str> = finished
        .plan
        .nodes
        .iter()
        .map(|node| match &node.operator {
            Operator::Source(_) => "source",
            Operator::Dedup(_) => "dedup",
            Operator::Filter { .. } => "filter",
            Operator::Project { .. } => "project",
            Operator::Window(_) => "window",
            Operator::Table { .. } => "table",
        })
        .collect();
    assert_eq!(kinds, ["source", "filter", "window", "table"]);
    let columns: Vec<String> = windows_columns(&finished.plan);
    assert_eq!(columns, ["device", "window_start", "window_end", "n", "avg_temperature"]);
    let tables: Vec<(String, bool)> = finished
        .outlets
        .iter()
        .map(|outlet| match outlet {
            Outlet::Table(table, live) => (table.name.clone(), live.is_some()),
            Outlet::Live(name, _) => (name.clone(), true),
        })
        .collect();
    let expected = [("readings$dead", false), ("device_1m$late", false), ("device_1m", true)];
    assert_eq!(tables, expected.map(|(name, live)| (name.to_owned(), live)));
}

fn windows_columns(plan: &tidemill_engine::plan::Plan) -> Vec<String> {
    let last = plan.nodes.last().expect("nodes");
    last.schema.fields().iter().map(|field| field.name().clone()).collect()
}

#[test]
fn a_subscription_needs_no_table() {
    let mill = Pipeline::open("unused");
    let _live = readings(&mill).subscribe();
    let finished = mill.draft.finish().expect("a plan");
    assert!(finished.outlets.iter().any(|outlet| matches!(outlet, Outlet::Live(..))));
}

#[test]
fn select_computes_columns_and_keeps_the_event_time() {
    let mill = Pipeline::open("unused");
    let windows = readings(&mill)
        .select([("ts", "ts"), ("fahrenheit", "temperature * 1.8 + 32")])
        .key_by([])
        .window(hopping(minutes(1), minutes(5)))
        .aggregate([max("fahrenheit")]);
    assert_eq!(windows.schema().field(2).data_type(), &DataType::Float64);
    windows.to_table("hot");
    mill.draft.finish().expect("the event time went on");
}

#[test]
fn the_first_mistake_is_told_with_the_nearest_name() {
    assert_eq!(
        mistake(|mill| {
            readings(mill).key_by(["devise"]).window(tumbling(secs(1))).aggregate([avg("temprature")]).to_table("t");
        }),
        "there is no column \"devise\"; did you mean \"device\"?"
    );
}

#[test]
fn what_cannot_be_is_refused_before_anything_starts() {
    for (expected, build) in [
        (
            "avg(\"device\") does not take",
            (|mill| {
                readings(mill).key_by([]).window(tumbling(secs(1))).aggregate([avg("device")]).to_table("t");
            }) as fn(&Pipeline),
        ),
        ("window: its size", |mill| {
            readings(mill).key_by([]).window(tumbling(secs(0))).aggregate([count()]).to_table("t");
        }),
        ("no event time", |mill| {
            let rows = mill.source("r", Silent).columns([text("device")]);
            rows.key_by([]).window(tumbling(secs(1))).aggregate([count()]).to_table("t");
        }),
        ("event_time(\"device\")", |mill| {
            mill.source("r", Silent).columns([text("device")]).event_time("device").to_table("t");
        }),
        ("lateness: say event_time", |mill| {
            mill.source("r", Silent).columns([timestamp("ts")]).lateness(secs(1)).to_table("t");
        }),
        ("two columns are called \"n\"", |mill| {
            let windows = readings(mill).key_by([]).window(tumbling(secs(1)));
            windows.aggregate([count().named("n"), max("temperature").named("n")]).to_table("t");
        }),
        ("two tables would be called \"readings$late\"", |mill| {
            let once = readings(mill).dedup(["device"], minutes(1));
            once.key_by([]).window(tumbling(secs(1))).aggregate([count()]).to_table("readings");
        }),
        ("only a source has repeats", |mill| {
            readings(mill).filter("temperature > 1").dedup(["device"], secs(5)).to_table("t");
        }),
        ("dedup(\"devise\")", |mill| {
            readings(mill).dedup(["devise"], secs(5)).to_table("t");
        }),
        ("from a second to a hundred years", |mill| {
            readings(mill).dedup(["device"], Duration::from_millis(5)).to_table("t");
        }),
        ("true or false", |mill| {
            readings(mill).filter("temperature + 1").to_table("t");
        }),
        ("a name has letters", |mill| {
            readings(mill).to_table("../etc/passwd");
        }),
        ("such a table already", |mill| {
            readings(mill).to_table("t").to_table("t");
        }),
        ("nothing leaves the pipeline", |mill| {
            readings(mill);
        }),
    ] {
        let told = mistake(build);
        assert!(told.contains(expected), "{expected}: {told}");
    }
}

#[derive(serde::Serialize)]
struct Reading {
    device: &'static str,
    temperature: f64,
    ts: String,
}

/// A pipeline over readings, whose windows of a minute go to a table and are shown.
fn per_minute(folder: &std::path::Path) -> (Pipeline, LiveRows, tokio::sync::mpsc::Sender<Reading>) {
    let mill = Pipeline::open(folder).workers(2).commit_every(Duration::from_millis(20));
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    let windows = mill
        .source("readings", tidemill_connectors::channel::Channel::new(receiver))
        .columns([text("device"), double("temperature"), timestamp("ts")])
        .event_time("ts")
        .key_by(["device"])
        .window(tumbling(minutes(1)))
        .aggregate([count().named("n")]);
    windows.to_table("device_1m");
    let live = windows.subscribe();
    (mill, live, sender)
}

async fn send(sender: &tokio::sync::mpsc::Sender<Reading>, minutes: std::ops::Range<u32>) {
    for minute in minutes {
        let ts = format!("2026-11-20T09:{minute:02}:30Z");
        sender.send(Reading { device: "a", temperature: 1.0, ts }).await.expect("the source runs");
    }
}

/// Waits for so many windows, or for the end; returns the minutes they begin at.
async fn shown(live: &mut LiveRows, count: usize) -> Vec<i64> {
    let mut starts = Vec::new();
    while starts.len() < count
        && let Some(rows) = live.next().await
    {
        let column = rows.column_by_name("window_start").expect("a window has a start");
        let column = column.as_primitive::<TimestampMicrosecondType>();
        starts.extend(column.values().iter().map(|us| us / 60_000_000 % 60));
    }
    starts.sort_unstable();
    starts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_pipeline_goes_on_where_it_was_and_shows_nothing_twice() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let (mill, mut live, sender) = per_minute(dir.path());
    let job = mill.start().await.expect("started");
    send(&sender, 0..3).await;
    assert_eq!(shown(&mut live, 2).await, [0, 1], "the third window is open");
    job.stop().await.expect("stopped");

    let (mill, mut live, sender) = per_minute(dir.path());
    let job = mill.start().await.expect("started again");
    send(&sender, 3..5).await;
    drop(sender);
    job.job.finished().await.expect("ran to its end");
    let status = job.status();
    job.drain().await.expect("stopped");
    assert_eq!(shown(&mut live, usize::MAX).await, [2, 3, 4]);
    assert_eq!(status.sources[0].messages, 5, "the log holds both runs");
    assert_eq!(status.windows[0].late, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reading_that_is_sent_again_counts_once_and_also_after_a_restart() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let once = || {
        let mill = Pipeline::open(dir.path()).workers(2).commit_every(Duration::from_millis(20));
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        let source = mill.source("readings", tidemill_connectors::channel::Channel::new(receiver));
        let columns = [text("device"), double("temperature"), timestamp("ts")];
        source.columns(columns).event_time("ts").dedup(["device", "ts"], minutes(10)).to_table("once");
        (mill, sender)
    };
    let (mill, sender) = once();
    let job = mill.start().await.expect("started");
    send(&sender, 0..3).await;
    send(&sender, 1..4).await;
    while job.status().dedups[0].taken + job.status().dedups[0].repeats < 6 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    job.stop().await.expect("stopped");

    let (mill, sender) = once();
    let job = mill.start().await.expect("started again");
    send(&sender, 2..6).await;
    drop(sender);
    job.job.finished().await.expect("ran to its end");
    let counts = job.status().dedups[0].clone();
    job.drain().await.expect("stopped");
    assert_eq!((counts.taken, counts.repeats, counts.late), (6, 4, 0));
    assert_eq!(counts.source, "readings");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_that_has_ended_has_passed_all_event_time() {
    let dir = tempfile::tempdir().expect("temporary folder");
    for (minutes, expected, late) in [(0..2, vec![0, 1], 0), (2..4, vec![], 2)] {
        let (mill, mut live, sender) = per_minute(dir.path());
        let job = mill.start().await.expect("started");
        send(&sender, minutes).await;
        drop(sender);
        job.job.finished().await.expect("ran to its end");
        let status = job.status();
        job.drain().await.expect("stopped");
        assert_eq!(shown(&mut live, usize::MAX).await, expected);
        assert_eq!(status.windows[0].late, late);
    }
}
