//! `tidemill sniff` of URLs: what it prints runs, and has rows.

use std::process::Stdio;

use serde_json::Value;

use super::server::Server;
use crate::harness::folder::Folder;
use crate::harness::program::{Serve, command, free_port};

/// Enough for several polls, whatever else the machine does.
const SECONDS: &str = "6";

/// Runs it: exit code, what it printed, and what it complained about.
async fn sniff(folder: &Folder, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = command(std::iter::once("sniff").chain(arguments.iter().copied()), folder.path());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let ran = tokio::task::spawn_blocking(move || command.output().expect("the program starts"));
    let output = ran.await.expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_url_gives_a_pipeline_that_runs() {
    let server = Server::start();
    let events = server.url("/events?rate=200");
    for (url, more, pieces) in [
        (
            server.url("/metrics"),
            vec![],
            vec![
                "format    = 'prometheus'",
                "interval  = '10 seconds'",
                "changed meanwhile: requests_total",
                "target TEXT METADATA FROM 'url'",
                "room   TEXT",
            ],
        ),
        (
            server.url("/stations"),
            vec![],
            vec![
                "connector = 'http_poll'",
                "rows_at   = 'data.items'",
                "station     TEXT NOT NULL",
                "temperature DOUBLE NOT NULL",
                "ts          TIMESTAMP NOT NULL",
                "time_unit = 'ms'",
                "GROUP  BY station, window_start, window_end",
            ],
        ),
        (
            server.url("/table"),
            vec![],
            vec!["format    = 'csv'", "level        DOUBLE NOT NULL", "emit      = 'changed'"],
        ),
        (events, vec![], vec!["connector = 'sse'", "n       DOUBLE NOT NULL", "WATERMARK FOR ts"]),
        (
            server.websocket_url(),
            vec!["--subscribe", "{\"op\":\"subscribe\"}"],
            vec!["connector = 'websocket'", "subscribe = '{\"op\":\"subscribe\"}'", "station TEXT NOT NULL"],
        ),
    ] {
        let folder = Folder::new();
        let arguments: Vec<&str> = [&[url.as_str(), "--seconds", SECONDS], &more[..]].concat();
        let (code, sql, complained) = sniff(&folder, &arguments).await;
        assert_eq!(code, Some(0), "{url}: {complained}");
        for piece in pieces {
            assert!(sql.contains(piece), "{piece:?} is not in\n{sql}");
        }
        let name = if sql.contains("CREATE SOURCE metrics") { "metrics" } else { "readings" };
        let sql = format!("{sql}CREATE MATERIALIZED VIEW history AS SELECT * FROM {name};\n");
        let program = Serve::new(&folder, &sql).start_ready().await;
        program.http.query_until("SELECT CAST(count(*) > 1 AS INT) AS n FROM history", 1).await;
        let dead = program.http.query(&format!("SELECT count(*) AS n FROM \"{name}$dead\"")).await.expect("an answer");
        assert_eq!(dead[0]["n"], 0, "{url}: {sql}");
        program.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_read_it_as_json_and_mistakes_say_what_to_do() {
    let (folder, server) = (Folder::new(), Server::start());
    let (code, answer, complained) =
        sniff(&folder, &[&server.url("/metrics"), "--seconds", SECONDS, "--format", "json"]).await;
    assert_eq!(code, Some(0), "{complained}");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert!(answer["series"].as_u64().is_some_and(|series| series > 5), "{answer:#}");
    assert!(answer["changing"].as_array().is_some_and(|names| names.contains(&"requests_total".into())), "{answer:#}");
    let nobody = format!("http://127.0.0.1:{}/", free_port());
    for (arguments, code, words) in [
        (vec![nobody.as_str()], 2, "cannot be read: cannot connect"),
        (vec![&server.url("/nothing")], 2, "404 Not Found: is the path right?"),
        (vec!["http://u:p@h/"], 1, "credentials do not belong in the URL"),
        (vec![&server.websocket_url(), "--seconds", "1"], 2, "--subscribe"),
    ] {
        let (found, printed, complained) = sniff(&folder, &arguments).await;
        assert_eq!((found, printed.as_str()), (Some(code), ""), "{arguments:?}: {complained}");
        assert!(complained.contains(words), "{arguments:?}: {complained}");
    }
}
