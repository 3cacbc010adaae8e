//! Cases: a `.messages` file, and beside it a `.sql` file with the pipeline that is printed for them.
//!
//! ```text
//!   # What the case shows.
//!   pattern: plant/#
//!   +0.1 plant/a {"v": 1}       a message: seconds after 2026-11-20T09:00:00Z, topic, payload
//!   R+0.0 plant/a {"v": 1}      a retained copy
//! ```
//! After a change that is meant, write the `.sql` files anew with `TIDEMILL_BLESS=1`, and read them.

use std::path::PathBuf;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tidemill_engine::source::Message;

use super::sample::{Heard, Listening};
use super::*;

const BEGIN_US: i64 = 1_795_165_200_000_000;

fn options() -> Vec<(&'static str, String, Option<String>)> {
    vec![("connector", text_in_sql("mqtt"), None), ("url", text_in_sql("mqtt://localhost"), None)]
}

fn heard(line: &str) -> Heard {
    let (when, rest) = line.split_once(' ').expect("a topic");
    let (topic, payload) = rest.split_once(' ').unwrap_or((rest, ""));
    let (retained, when) = when.strip_prefix('R').map_or((false, when), |when| (true, when));
    let seconds: f64 = when.trim_start_matches('+').parse().expect("seconds");
    let message = Message::new(Bytes::from(topic.to_owned()), Bytes::from(payload.to_owned()));
    Heard { message, arrival_us: BEGIN_US + (seconds * 1e6) as i64, retained }
}

fn listening(heard: Vec<Heard>) -> Listening {
    Listening { heard, duration_us: 10_000_000, not_kept: 0 }
}

fn pipeline_for(text: &str) -> String {
    let pattern = text.lines().find_map(|line| line.strip_prefix("pattern: ")).expect("a pattern");
    let lines = text.lines().filter(|line| line.starts_with(['+', 'R']));
    let listening = listening(lines.map(heard).collect());
    let sniffed = infer::infer(&listening, pattern, options()).expect("readings");
    checked(&sniffed).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_case_gives_the_pipeline_written_beside_it() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/commands/sniff/cases");
    let files = std::fs::read_dir(&folder).expect("the folder of cases");
    let mut cases: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    cases.retain(|path| path.extension().is_some_and(|end| end == "messages"));
    cases.sort();
    assert!(cases.len() >= 12, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let found = pipeline_for(&std::fs::read_to_string(case).expect("a case"));
        let beside = case.with_extension("sql");
        if std::env::var_os("TIDEMILL_BLESS").is_some() {
            #[expect(clippy::disallowed_methods, reason = "a file of the sources, not of a user")]
            std::fs::write(&beside, &found).expect("the expected pipeline is written");
            continue;
        }
        let expected = std::fs::read_to_string(&beside).unwrap_or_default();
        if found != expected {
            wrong.push(format!("--- {}: expected\n{expected}--- found\n{found}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn whatever_is_heard_what_is_printed_is_a_pipeline() {
    const NAMES: [&str; 16] = [
        "ts",
        "time",
        "v",
        "V",
        "n",
        "order",
        "window_end",
        "a-b",
        "\u{e9}t\u{e9}",
        "",
        "x y",
        "'",
        "\"",
        "level1",
        "topic_level1",
        "--",
    ];
    const LEVELS: [&str; 8] = ["a", "b", "", "{v}", "o'x", "--", "a,b", "devices"];
    let values = |dice: &mut StdRng| match dice.random_range(0..9) {
        0 => Value::Null,
        1 => json!(dice.random_bool(0.5)),
        2 => json!(dice.random_range(-5..5)),
        3 => json!(1_795_165_200_i64 + dice.random_range(-100..100)),
        4 => json!(dice.random::<i64>()),
        5 => json!("2026-11-20T09:00:00Z"),
        6 => json!(["a", "'", "\n"].choose(dice)),
        7 => json!({"a": {"b": 1}}),
        _ => json!(1_795_165_200_000_i64),
    };
    let mut pipelines = 0;
    for seed in 0..400 {
        let mut dice = StdRng::seed_from_u64(seed);
        let messages = (0..dice.random_range(1..8)).map(|_| {
            let levels: Vec<&str> =
                (0..dice.random_range(1..4)).filter_map(|_| LEVELS.choose(&mut dice).copied()).collect();
            let members: serde_json::Map<String, Value> = (0..dice.random_range(0..6))
                .filter_map(|_| Some(((*NAMES.choose(&mut dice)?).to_owned(), values(&mut dice))))
                .collect();
            let payload = if dice.random_bool(0.1) { "on".to_owned() } else { Value::Object(members).to_string() };
            let message = Message::new(Bytes::from(format!("t{}", levels.join("/"))), Bytes::from(payload));
            Heard { message, arrival_us: BEGIN_US, retained: dice.random_bool(0.2) }
        });
        let listening = listening(messages.collect());
        let Ok(sniffed) = infer::infer(&listening, "#", options()) else { continue };
        checked(&sniffed).unwrap_or_else(|error| panic!("seed {seed}: {error}\n{listening:#?}"));
        pipelines += 1;
    }
    assert!(pipelines > 300, "{pipelines}");
}

#[test]
fn silence_and_noise_are_told_apart_with_what_to_look_at() {
    let args = || SniffArgs {
        url: "mqtt://h".into(),
        pattern: "plant/#".into(),
        seconds: 10,
        username: None,
        password_env: None,
        password_file: None,
        ca: None,
        token_env: None,
        subscribe: None,
    };
    let silence = infer::infer(&listening(Vec::new()), "#", options()).expect_err("nothing came");
    let error = explain(&silence, &args());
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("mosquitto_sub"), "{error}");
    let noise = infer::infer(&listening(vec![heard("+1 plant/lamp on\n")]), "#", options()).expect_err("no JSON");
    let error = explain(&noise, &args());
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("1 message that is no JSON, such as \"on\\n\" on plant/lamp"), "{error}");
}
