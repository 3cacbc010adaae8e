//! `tidemill sniff` against a real broker: what it prints runs, and has rows.

use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::broker::{Broker, Devices, mosquitto_pub, mosquitto_pub_retained, now_ms};
use crate::harness::folder::Folder;
use crate::harness::program::{Serve, command, free_port, installed};

/// Enough for messages to come, whatever else the machine does.
const SECONDS: &str = "6";

async fn sniff(folder: &Folder, arguments: &[&str]) -> Output {
    let mut command = command(std::iter::once("sniff").chain(arguments.iter().copied()), folder.path());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    tokio::task::spawn_blocking(move || command.output().expect("the program starts")).await.expect("it ends")
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Publishes again and again until something else has ended.
async fn while_somebody<T>(publishes: impl Fn(), ends: impl Future<Output = T>) -> T {
    let publishing = async {
        loop {
            tokio::task::block_in_place(&publishes);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        ended = ends => ended,
        () = publishing => unreachable!("it has no end"),
    }
}

/// Looks whether the delay of the watermark is the next one above the lateness that was measured, which is told rounded: how
/// long a publisher takes to start is the machine's.
fn delay_is_that_of_the_lateness(sql: &str) {
    let (before, _) = sql.split_once(" s for 99 % of the readings").unwrap_or_else(|| panic!("no lateness in\n{sql}"));
    let late: f64 = before.rsplit(' ').next().expect("a word").parse().expect("seconds");
    let (_, after) =
        sql.split_once("WATERMARK FOR ts AS ts - INTERVAL '").unwrap_or_else(|| panic!("no delay in\n{sql}"));
    let delay = after.split('\'').next().expect("a first part");
    let known = [(0.0, "0"), (1.0, "1 second"), (2.0, "2 seconds"), (5.0, "5 seconds"), (10.0, "10 seconds")];
    let at = known.iter().position(|(_, words)| *words == delay).unwrap_or_else(|| panic!("{delay}"));
    assert!((known[at - 1].0 - 0.05..=known[at].0 + 0.05).contains(&late), "{delay} for {late} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_pipeline_is_accepted_and_its_windows_have_the_rows_of_the_devices() {
    let folder = Folder::new();
    let broker = Broker::start(&folder).await;
    // An hour old, and published by nobody while we listen.
    let old = format!("{{\"device\":\"f0\",\"temperature\":1,\"door\":false,\"ts\":{}}}", now_ms() - 3_600_000);
    mosquitto_pub_retained(broker.port, "plant/lab/f0/telemetry", &old);
    let devices = Devices::start(broker.port);
    let (code, sql, complained) = said(&sniff(&folder, &[&broker.url(), "plant/#", "--seconds", SECONDS]).await);
    assert_eq!(code, Some(0), "{complained}");
    delay_is_that_of_the_lateness(&sql);
    for piece in [
        "topic     = 'plant/lab/{device}/telemetry'",
        "-- device: level 3 of the topic says the same",
        "temperature DOUBLE NOT NULL",
        "door        BOOLEAN NOT NULL",
        "ts          TIMESTAMP NOT NULL",
        "time_unit = 'ms'",
        "Beside them 1 retained copy",
        "no JSON, such as \"on\" on plant/lab/lamp",
        "GROUP  BY device, window_start, window_end",
    ] {
        assert!(sql.contains(piece), "{piece:?} is not in\n{sql}");
    }

    let serve = Serve::new(&folder, &sql);
    let checked = command(["check", "pipeline.sql"], folder.path()).output().expect("the program starts");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    drop(devices);
    let program = serve.start_ready().await;
    for (device, ahead_ms) in [("f1", 0), ("f2", 0), ("f1", 130_000)] {
        let payload = format!("{{\"temperature\":5,\"door\":true,\"ts\":{}}}", now_ms() + ahead_ms);
        mosquitto_pub(broker.port, "5", 1, &format!("plant/lab/{device}/telemetry"), &payload);
    }
    program.http.query_until("SELECT count(DISTINCT device) AS n FROM readings_1m WHERE temperature_avg = 5", 2).await;
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_read_it_as_json_and_a_user_needs_a_password() {
    let folder = Folder::new();
    let users = folder.join("users");
    let made = std::process::Command::new(installed("mosquitto_passwd"))
        .args(["-b", "-c"])
        .arg(&users)
        .args(["tide", "s3cret"])
        .output()
        .expect("mosquitto_passwd starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let broker = Broker::with(&folder, &format!("allow_anonymous false\npassword_file {}\n", users.display())).await;
    let publish = || {
        let status = std::process::Command::new(installed("mosquitto_pub"))
            .args(["-p", &broker.port.to_string(), "-u", "tide", "-P", "s3cret", "-t", "m/a", "-m", "{\"v\":1}"])
            .status();
        assert!(status.expect("mosquitto_pub starts").success());
    };
    folder.write("password", "s3cret\n");
    let url = broker.url();
    let with_password = ["--username", "tide", "--password-file", "password", "--seconds", SECONDS, "--format", "json"];
    let arguments: Vec<&str> = [url.as_str(), "m/+"].into_iter().chain(with_password).collect();
    let output = while_somebody(publish, sniff(&folder, &arguments)).await;
    let (code, answer, complained) = said(&output);
    assert_eq!(code, Some(0), "{complained}");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer["columns"][0]["type"], "DOUBLE", "{answer:#}");
    assert_eq!((answer["topics"].as_u64(), answer["event_time"].is_null()), (Some(1), true), "{answer:#}");
    assert!(!answer.to_string().contains("s3cret"), "the secret is not printed: {answer:#}");
    assert!(answer["sql"].as_str().is_some_and(|sql| sql.contains("password_file = 'password'")), "{answer:#}");

    let (code, printed, complained) = said(&sniff(&folder, &[&url, "m/+", "--seconds", "1"]).await);
    assert_eq!((code, printed.as_str()), (Some(2), ""), "{complained}");
    assert!(complained.contains("not authorized"), "{complained}");
    for url in [&url, "http://127.0.0.1:1/x"] {
        let url = url.replace("://", "://tide:s3cret@");
        let (code, printed, complained) = said(&sniff(&folder, &[&url]).await);
        assert_eq!((code, printed.as_str()), (Some(1), ""), "{complained}");
        assert!(complained.contains("do not belong in the URL: use --username"), "{complained}");
        assert!(!complained.contains("s3cret"), "{complained}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_and_mistakes_end_with_what_to_check() {
    let folder = Folder::new();
    let broker = Broker::start(&folder).await;
    let url = broker.url();
    let nobody = format!("mqtt://127.0.0.1:{}", free_port());
    for (arguments, code, words) in [
        (vec![url.as_str(), "plant/#", "--seconds", "1"], 2, "nothing was heard on plant/#"),
        (vec![nobody.as_str()], 2, "cannot connect"),
        (vec![url.as_str(), "plant/#/x"], 1, "must be the last level"),
        (vec!["localhost:1883"], 1, "is not a URL"),
        (vec![url.as_str(), "--username", "a", "--password-env", "TIDEMILL_TEST_NO_SUCH"], 2, "TIDEMILL_TEST_NO_SUCH"),
    ] {
        let (found, printed, complained) = said(&sniff(&folder, &arguments).await);
        assert_eq!((found, printed.as_str()), (Some(code), ""), "{arguments:?}: {complained}");
        assert!(complained.contains(words), "{arguments:?}: {complained}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_that_tell_no_columns_are_pointed_to_the_formats() {
    let folder = Folder::new();
    let broker = Broker::start(&folder).await;
    let url = broker.url();
    let arguments = [url.as_str(), "csv/#", "--seconds", SECONDS];
    let publish = || mosquitto_pub(broker.port, "5", 1, "csv/a", "a,b\n1,2\n");
    let output = while_somebody(publish, sniff(&folder, &arguments)).await;
    let (code, printed, complained) = said(&output);
    assert_eq!((code, printed.as_str()), (Some(2), ""), "{complained}");
    for words in ["no JSON, such as", "by a source that says format = '…'"] {
        assert!(complained.contains(words), "{words:?} is not in {complained}");
    }
}
