//! `tidemill verify` passes on pipelines as users write them, and finds what is lost.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::folder::Folder;
use crate::harness::program::command;
use crate::harness::python::script;

/// What a run of `tidemill verify` has left.
struct Ended {
    code: Option<i32>,
    line: Value,
    said: String,
    /// Folders that were not removed.
    kept: Vec<PathBuf>,
}

/// Verifies a pipeline; temporary folders go into `folder`.
fn verify(folder: &Folder, sql: &str, words: &[&str], environment: &[(&str, &str)]) -> Ended {
    folder.write("pipeline.sql", sql);
    let temporary = folder.join("temporary");
    std::fs::create_dir_all(&temporary).expect("a writable folder");
    let words = [&["verify", "pipeline.sql"], words].concat();
    let mut verify = command(words, folder.path());
    verify.env("TMPDIR", &temporary).envs(environment.iter().copied());
    let output = verify.output().expect("the program starts");
    let entries = std::fs::read_dir(&temporary).expect("a readable folder");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(stdout.lines().count() <= 1, "one line for programs: {stdout}");
    Ended {
        code: output.status.code(),
        line: serde_json::from_str(&stdout).unwrap_or(Value::Null),
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
        kept: entries.map(|entry| entry.expect("a readable folder").path()).collect(),
    }
}

/// Verifies a pipeline with a few kills; all must be well.
fn passes(sql: &str, seed: &str) -> Ended {
    let folder = Folder::new();
    let ended = verify(&folder, sql, &["--seconds", "8", "--kills", "4", "--seed", seed], &[]);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let number = |key: &str| ended.line[key].as_u64().unwrap_or_else(|| panic!("{key} is not in {}", ended.line));
    for key in ["missing", "duplicate", "invented", "wrong_windows"] {
        assert_eq!(number(key), 0, "{key}: {}", ended.said);
    }
    assert_eq!((number("kills"), ended.line["verdict"].as_str()), (4, Some("ok")));
    assert!(number("acknowledged") > 200 && number("rows") >= number("acknowledged"), "{}", ended.line);
    assert!(number("ms_to_ready_max") > 0);
    assert!(ended.kept.is_empty(), "nothing is left: {:?}", ended.kept);
    ended
}

fn sql_of_case(name: &str) -> String {
    let text = std::fs::read_to_string(script(&format!("cases/{name}.case"))).expect("a case");
    let (_, sql) = text.split_once("--- sql\n").expect("a case has SQL");
    sql.split("\n--- ").next().expect("a first part").to_owned()
}

#[test]
fn the_pipeline_of_the_readme_passes() {
    let readme = include_str!("../README.md");
    let (_, block) = readme.split_once("<!-- test: file cold_chain.sql -->\n```sql\n").expect("the pipeline");
    let ended = passes(block.split("```").next().expect("a first part"), "1");
    assert!(ended.line["windows"].as_u64().is_some_and(|windows| windows > 20), "{}", ended.line);
    for words in ["view history  ", "view room_1m  ", "0 missing and 0 doubled", "4 kills; ready again after"] {
        assert!(ended.said.contains(words), "{words} is not in\n{}", ended.said);
    }
}

/// What is fetched brings a URL along, and an event its id: views that read them are verified too.
#[test]
fn pipelines_that_fetch_pass() {
    for (seed, mark) in [("4", "CREATE SOURCE metrics ("), ("5", "CREATE SOURCE feed (")] {
        let page = include_str!("../docs/pull.md");
        let block = page.split("```").find(|block| block.contains(mark)).expect("a block of the page");
        passes(block.trim_start_matches("sql"), seed);
    }
}

#[test]
fn pipelines_with_several_sources_and_with_views_over_views_pass() {
    for (seed, case) in [("2", "sources_have_their_own_watermarks"), ("3", "windows_over_windows")] {
        let ended = passes(&sql_of_case(case), seed);
        assert!(ended.line["windows"].as_u64().is_some_and(|windows| windows > 10), "{case}: {}", ended.line);
    }
}

const OF_A_BROKER: &str = "\
CREATE SOURCE m (v DOUBLE NOT NULL, ok BOOLEAN, n SMALLINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '2 seconds')
WITH (connector = 'mqtt', url = 'mqtt://broker.invalid:1883', topic = 'plant/{site}/+/{device}', format = 'csv');
CREATE MATERIALIZED VIEW raw WITH (location = '/nowhere/that/is/theirs', partition_by = 'site') AS
SELECT site, device, v, ok, ts FROM m;
CREATE MATERIALIZED VIEW w AS
SELECT site, ok, window_start, count(*) AS count, avg(v) AS mean, sum(n) AS total
FROM HOP(m, ts, INTERVAL '10 seconds', INTERVAL '25 seconds') WHERE v > -20 GROUP BY site, ok, window_start;
";

#[test]
fn a_source_of_a_broker_is_fed_over_mqtt_and_nothing_of_theirs_is_touched() {
    let ended = passes(OF_A_BROKER, "4");
    assert!(!Path::new("/nowhere").exists());
    assert!(ended.line["redelivered"].is_u64(), "what QoS 1 repeats is counted by itself: {}", ended.line);
}

#[test]
fn rows_that_are_lost_are_found_and_the_folder_and_the_command_are_kept() {
    let folder = Folder::new();
    let words = ["--seconds", "6", "--kills", "2", "--seed", "5"];
    let ended = verify(&folder, OF_A_BROKER, &words, &[("TIDEMILL_VERIFY_LOSES_A_COMMIT", "1")]);
    assert_eq!(ended.code, Some(3), "{}", ended.said);
    assert!(ended.line["missing"].as_u64().is_some_and(|missing| missing > 0), "{} {}", ended.line, ended.said);
    assert_eq!(ended.line["verdict"], "failed");
    assert!(
        ended.said.contains("tidemill verify --seed 5 --kills 2 --seconds 6 --rate 500 pipeline.sql"),
        "{}",
        ended.said
    );
    let [kept] = ended.kept.as_slice() else { panic!("one folder: {:?}", ended.kept) };
    for path in ["pipeline.sql", "program.log", "ledgers/m", "data/log", "data/tables"] {
        assert!(kept.join(path).exists(), "{path} is kept");
    }
    assert!(ended.said.contains(&*kept.to_string_lossy()), "{}", ended.said);
}

#[test]
fn what_cannot_be_verified_is_the_users_input() {
    for (sql, words) in [
        (
            "CREATE SOURCE r (ok BOOLEAN) WITH (connector = 'http');\nCREATE MATERIALIZED VIEW v AS SELECT ok FROM r;",
            "no column whose values can all differ",
        ),
        ("CREATE SOURCE r (id BIGINT) WITH (connector = 'http');", "it needs a source and a view"),
        (
            "CREATE SOURCE r (id BIGINT) WITH (connector = 'http');\nCREATE MATERIALIZED VIEW v AS SELECT x FROM r;",
            "the pipeline has a mistake",
        ),
    ] {
        let folder = Folder::new();
        let ended = verify(&folder, sql, &[], &[]);
        assert_eq!(ended.code, Some(1), "{}", ended.said);
        assert!(ended.said.contains(words), "{words} is not in {}", ended.said);
        assert!(ended.kept.is_empty());
    }
}
