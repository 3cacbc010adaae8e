//! Cases: a `.sql` file, and beside it a `.expected` file with the plan, or with the mistakes as a person sees them.
//!
//! After a change that is meant, write the files anew with `TIDEMILL_BLESS=1`, and read them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Int64Type};
use tidemill_connectors::HttpIngest;
use tidemill_engine::clock::{ManualClock, SeededDice};
use tidemill_engine::plan::Operator;
use tidemill_engine::storage::MemoryStorage;
use tidemill_engine::testing::fuzz::fuzz;

use super::*;

fn context() -> Context {
    Context {
        storage: Arc::new(MemoryStorage::default()),
        base_dir: PathBuf::from("."),
        clock: Arc::new(ManualClock::at(0)),
        dice: Arc::new(SeededDice::new(1)),
        http: HttpIngest::new(),
        local_brokers: Default::default(),
        network: Default::default(),
    }
}

fn outcome(file: &str, text: &str) -> String {
    match compile(file, text, &context()) {
        Ok(pipeline) => {
            let mut out = explain(&pipeline.plan);
            for table in pipeline
                .tables
                .iter()
                .filter(|table| !table.name.contains("$dead") && !table.name.contains("$quarantine"))
            {
                let _ = write!(out, "{} of {}: {:?}", table.name, table.of, table.storage);
                let _ = write!(out, ", sorted by {}", table.sort.join(", "));
                let _ = write!(out, ", time {}", table.time_column.as_deref().unwrap_or("none"));
                if table.partition_by != Partitioning::None {
                    let _ = write!(out, ", partitioned by {:?}", table.partition_by);
                }
                if let Some(location) = &table.location {
                    let _ = write!(out, ", at {location}");
                }
                out.push('\n');
            }
            for sink in &pipeline.sinks {
                let _ = writeln!(out, "sink {} of {} to {}", sink.name, sink.of, sink.connected.connector);
            }
            out
        }
        Err(problems) => problems.iter().map(|problem| problem.render(text, false)).collect::<Vec<_>>().join("\n"),
    }
}

#[test]
fn every_case_gives_the_plan_or_the_mistakes_written_beside_it() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/planner/cases");
    let files = std::fs::read_dir(&folder).expect("the folder of cases");
    let cases: BTreeSet<PathBuf> = files
        .map(|file| file.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|end| end == "sql"))
        .collect();
    assert!(cases.len() >= 40, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let name = case.file_name().expect("a file").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(case).expect("a case");
        let found = outcome(&name, &text);
        let beside = case.with_extension("expected");
        if std::env::var_os("TIDEMILL_BLESS").is_some() {
            #[expect(clippy::disallowed_methods, reason = "a file of the sources, not of a user")]
            std::fs::write(&beside, &found).expect("the expected outcome is written");
            continue;
        }
        let expected = std::fs::read_to_string(&beside).unwrap_or_default();
        if found != expected {
            wrong.push(format!("--- {name}: expected\n{expected}--- found\n{found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_file_with_a_piece_missing_is_explained_at_a_place_in_it() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/planner/cases");
    let files = std::fs::read_dir(&folder).expect("the folder of cases");
    let mut cases: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    cases.retain(|path| path.extension().is_some_and(|end| end == "sql"));
    cases.sort();
    // Every word and sign is left out once, spread over the cases: all of them in all cases would take minutes.
    let stride: usize = std::env::var("TIDEMILL_EVERY").ok().and_then(|text| text.parse().ok()).unwrap_or(17);
    let mut refused = 0;
    for (number, case) in cases.iter().enumerate() {
        let text = std::fs::read_to_string(case).expect("a case");
        let pieces: Vec<&str> = text.split_inclusive(|letter: char| !letter.is_alphanumeric()).collect();
        for missing in (number % stride..pieces.len()).step_by(stride) {
            let broken: String =
                pieces.iter().enumerate().filter(|(place, _)| *place != missing).map(|(_, piece)| *piece).collect();
            let Err(problems) = compile("broken.sql", &broken, &context()) else { continue };
            refused += 1;
            for problem in problems {
                assert!(problem.line <= broken.lines().count() && !problem.message.is_empty(), "{broken}\n{problem:?}");
                assert!(problem.render(&broken, false).contains('^'), "{broken}");
            }
        }
    }
    assert!(refused > 100, "only {refused} were refused");
}

#[test]
fn deep_nesting_is_refused_and_does_not_end_the_process() {
    let deep = format!("{}1{}", "(".repeat(5_000), ")".repeat(5_000));
    let long = vec!["temperature"; 9_000].join(" + ");
    let longer = vec!["temperature"; 100_000].join(" + ");
    let text = format!(
        "{READINGS}CREATE MATERIALIZED VIEW a AS SELECT {deep} AS x FROM readings;\nCREATE MATERIALIZED VIEW b AS SELECT {long} AS x FROM readings;\nCREATE MATERIALIZED VIEW c AS SELECT {longer} AS x FROM readings;"
    );
    let problems = match compile("deep.sql", &text, &context()) {
        Ok(_) => panic!("nested too deeply"),
        Err(problems) => problems,
    };
    let messages: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "the expression is nested too deeply",
            "the expression is nested more than 250 deep",
            "a statement has at most 20000 words and signs"
        ]
    );
    let allowed = vec!["temperature"; 250].join(" + ");
    pipeline(&format!("CREATE MATERIALIZED VIEW v AS SELECT {allowed} AS x FROM readings;"));
}

const READINGS: &str = "CREATE SOURCE readings (device TEXT NOT NULL, temperature DOUBLE, ts TIMESTAMP NOT NULL,
    WATERMARK FOR ts AS ts - INTERVAL '10 seconds') WITH (connector = 'http');\n";

fn pipeline(views: &str) -> Pipeline {
    let text = format!("{READINGS}{views}");
    compile("test.sql", &text, &context()).unwrap_or_else(|problems| {
        panic!("{}", problems.iter().map(|problem| problem.render(&text, false)).collect::<String>())
    })
}

fn batch(devices: &[&str], temperatures: &[Option<f64>], ts_us: &[i64]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringViewArray::from_iter_values(devices)),
        Arc::new(Float64Array::from(temperatures.to_vec())),
        Arc::new(TimestampMicrosecondArray::from(ts_us.to_vec()).with_timezone("UTC")),
    ];
    let pipeline = pipeline("");
    RecordBatch::try_new(Arc::clone(&pipeline.sources[0].schema), columns).expect("columns of the source")
}

#[test]
fn projected_columns_have_the_types_the_plan_says() {
    let pipeline = pipeline(
        "CREATE MATERIALIZED VIEW v AS SELECT upper(device) AS name, temperature * 9 / 5 + 32 AS fahrenheit, \
         date_trunc('minute', ts) AS minute, concat(device, '-', 'x') AS tag, coalesce(temperature, 0) AS t, \
         CASE WHEN temperature > 5 THEN 'warm' ELSE 'cold' END AS class, temperature IS NULL AS missing, \
         CAST(ts AS DATE) AS day FROM readings;",
    );
    let input = batch(&["a", "b"], &[Some(10.0), None], &[61_000_000, 5]);
    let node = pipeline
        .plan
        .nodes
        .iter()
        .find(|node| matches!(node.operator, Operator::Project { .. }))
        .expect("a projection");
    let Operator::Project { columns, .. } = &node.operator else { unreachable!() };
    let made: Vec<ArrayRef> = columns.iter().map(|column| column.evaluate(&input).expect("it evaluates")).collect();
    let made = RecordBatch::try_new(Arc::clone(&node.schema), made).expect("types as the plan says");
    let shown = arrow::util::pretty::pretty_format_batches(&[made]).expect("text").to_string();
    let expected = "\
+------+------------+----------------------+-----+------+-------+---------+------------+
| name | fahrenheit | minute               | tag | t    | class | missing | day        |
+------+------------+----------------------+-----+------+-------+---------+------------+
| A    | 50.0       | 1970-01-01T00:01:00Z | a-x | 10.0 | warm  | false   | 1970-01-01 |
| B    |            | 1970-01-01T00:00:00Z | b-x | 0.0  | cold  | true    | 1970-01-01 |
+------+------------+----------------------+-----+------+-------+---------+------------+";
    assert_eq!(shown, expected);
}

#[test]
fn a_row_that_cannot_be_computed_gives_null_and_leaves_the_others_alone() {
    let pipeline = pipeline(
        "CREATE MATERIALIZED VIEW v AS SELECT CAST(device AS BIGINT) AS number, 10 / CAST(temperature AS BIGINT) AS share FROM readings;",
    );
    let input = batch(&["1", "two", "3", "4"], &[Some(5.0), Some(0.0), None, Some(2.0)], &[1, 2, 3, 4]);
    let node = pipeline.plan.nodes.iter().find(|node| matches!(node.operator, Operator::Project { .. }));
    let node = node.expect("a projection");
    let Operator::Project { columns, .. } = &node.operator else { unreachable!() };
    let made: Vec<ArrayRef> = columns.iter().map(|column| column.evaluate(&input).expect("it evaluates")).collect();
    let made = RecordBatch::try_new(Arc::clone(&node.schema), made).expect("columns that may be null");
    let numbers: Vec<_> = made.column(0).as_primitive::<Int64Type>().iter().collect();
    let shares: Vec<_> = made.column(1).as_primitive::<Int64Type>().iter().collect();
    assert_eq!(numbers, [Some(1), None, Some(3), Some(4)]);
    assert_eq!(shares, [Some(2), None, None, Some(5)]);
}

#[test]
fn a_row_that_asks_for_a_boundless_text_gives_null_and_leaves_the_others_alone() {
    let pipeline = pipeline(
        "CREATE MATERIALIZED VIEW v AS SELECT lpad(device, CAST(temperature AS BIGINT), '.') AS padded, \
         repeat(device, CAST(temperature AS BIGINT)) AS repeated FROM readings;",
    );
    let input = batch(&["a", "b", "c"], &[Some(3.0), Some(4e18), Some(2.0)], &[1, 2, 3]);
    let node = pipeline.plan.nodes.iter().find(|node| matches!(node.operator, Operator::Project { .. }));
    let Operator::Project { columns, .. } = &node.expect("a projection").operator else { unreachable!() };
    for (column, expected) in columns.iter().zip([["..a", "", ".c"], ["aaa", "", "cc"]]) {
        let made = column.evaluate(&input).expect("it evaluates");
        let texts = arrow::compute::cast(&made, &DataType::Utf8).expect("texts");
        let texts: Vec<&str> = texts.as_string::<i32>().iter().map(Option::unwrap_or_default).collect();
        assert_eq!((texts.as_slice(), made.is_null(1)), (expected.as_slice(), true));
    }
}

#[test]
fn a_filter_is_a_condition_over_the_rows_that_come_in() {
    let pipeline =
        pipeline("CREATE MATERIALIZED VIEW v AS SELECT device FROM readings WHERE temperature > 5 AND device <> 'b';");
    let input = batch(&["a", "b", "c"], &[Some(10.0), Some(10.0), None], &[1, 2, 3]);
    let predicate = pipeline.plan.nodes.iter().find_map(|node| match &node.operator {
        Operator::Filter { predicate, .. } => Some(predicate),
        _ => None,
    });
    let kept = predicate.expect("a filter").evaluate(&input).expect("it evaluates");
    assert_eq!(format!("{kept:?}"), "BooleanArray\n[\n  true,\n  false,\n  null,\n]");
}

#[test]
fn a_fingerprint_changes_with_the_content_and_with_nothing_else() {
    let view = |sql: &str| {
        let pipeline = pipeline(sql);
        pipeline.tables.iter().find(|table| table.name == "v").expect("the view").fingerprint.clone()
    };
    let first = view(
        "CREATE MATERIALIZED VIEW v AS SELECT device, window_end, avg(temperature) AS c \
         FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY device, window_end;",
    );
    let same = view(
        "create materialized view v with (location = '/elsewhere', storage = 'parquet') as -- a comment
         select r.device, r.window_end, AVG(r.temperature) c from tumble(readings, ts, interval '60' second) as r group by 1, 2 emit on window close;",
    );
    let other = view(
        "CREATE MATERIALIZED VIEW v AS SELECT device, window_end, avg(temperature) AS c \
         FROM TUMBLE(readings, ts, INTERVAL '1 minute') WHERE temperature > 0 GROUP BY device, window_end;",
    );
    assert_eq!(first, same);
    assert_ne!(first, other);
}

#[test]
fn tables_are_those_of_the_plan_in_its_order() {
    let pipeline = pipeline(
        "CREATE MATERIALIZED VIEW b AS SELECT device, window_end, n FROM a;
         CREATE MATERIALIZED VIEW a AS SELECT device, window_end, count(*) AS n
         FROM HOP(readings, ts, INTERVAL '10 seconds', INTERVAL '1 minute') GROUP BY device, window_end;",
    );
    let names: Vec<String> = pipeline.tables.iter().map(|table| table.name.clone()).collect();
    let planned: Vec<String> = pipeline.plan.tables().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, planned);
    assert_eq!(names, ["readings$dead", "readings$quarantine", "a$late", "a", "b"]);
    assert!(pipeline.tables.iter().zip(pipeline.plan.tables()).all(|(table, (_, schema))| table.schema == schema));
}

#[test]
fn fuzz_sql() {
    let cases = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/planner/cases");
    fuzz(cases, |input| {
        let text = String::from_utf8_lossy(input);
        match compile("fuzz.sql", &text, &context()) {
            Ok(_) => true,
            Err(problems) => {
                assert!(!problems.is_empty(), "a refusal says why");
                problems.iter().for_each(|problem| drop(problem.render(&text, false)));
                false
            }
        }
    });
}
