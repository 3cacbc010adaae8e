use std::sync::Arc;

use arrow::datatypes::DataType;
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
