//! What is refused leaves the log as it was, whatever the reason and on every route: so 429 and 503 may be sent again, with or
//! without a name, and nothing is there twice.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};

use super::{INGEST, NDJSON, log_at_rest, log_holds, post};
use crate::harness::disk::{self, Disk};
use crate::harness::folder::Folder;
use crate::harness::program::{Program, STOP_MAX, Serve, signal};
use crate::harness::strace::Strace;
use crate::harness::wait::eventually;

const PIPELINE: &str = "\
    CREATE SOURCE readings (v BIGINT NOT NULL, note TEXT) WITH (connector = 'http');\n\
    CREATE SOURCE cpu (host TEXT, usage DOUBLE NOT NULL) WITH (connector = 'http', format = 'line_protocol');\n\
    CREATE SOURCE samples (metric TEXT, value DOUBLE) WITH (connector = 'http', format = 'prometheus_remote_write');\n\
    CREATE SOURCE otel (metric TEXT, value DOUBLE, le DOUBLE) WITH (connector = 'http', format = 'otlp_metrics');\n\
    CREATE SOURCE logs (body TEXT) WITH (connector = 'http', format = 'otlp_logs');\n\
    CREATE MATERIALIZED VIEW history AS SELECT v, note FROM readings;\n\
    CREATE MATERIALIZED VIEW cpus AS SELECT host, usage FROM cpu;\n\
    CREATE MATERIALIZED VIEW sampled AS SELECT metric, value FROM samples;\n\
    CREATE MATERIALIZED VIEW measured AS SELECT metric, value FROM otel;\n\
    CREATE MATERIALIZED VIEW logged AS SELECT body FROM logs;\n";

/// The tables behind the sources, each with its column of names.
const TABLES: [(&str, &str); 5] =
    [("history", "note"), ("cpus", "host"), ("sampled", "metric"), ("measured", "metric"), ("logged", "body")];

const JSON: (&str, &str) = ("content-type", "application/json");
const CSV: (&str, &str) = ("content-type", "text/csv");

/// As `docs/http.md` says.
const REQUESTS_MAX: usize = 1_024;
/// As `docs/http.md` says, but for what is on its way.
const BODY_TIME_MAX: Duration = Duration::from_secs(28);
/// A pause of the machine does not last through so many times of a body.
const ATTEMPTS_MAX: usize = 5;
/// Longer than a queue takes to be full.
const SYNC_DELAY: &str = "fdatasync,fsync:delay_exit=20000000";
/// Requests after which a queue is full, whatever it may hold.
const LARGE_MAX: usize = 200;
/// Rounds of a program that starts and stops, in each of which somebody should be sent away.
const LIVES: std::ops::Range<usize> = 2..20;

/// A request with a name in its one row.
struct Request {
    path: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Request {
    /// One for each route, and for each way to say who it is.
    fn everywhere(name: &str) -> Vec<Request> {
        let request = |path, headers: &[(&'static str, &str)], body: Vec<u8>| Request {
            path,
            headers: headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
            body,
        };
        let row = || json!({"v": 1, "note": name}).to_string().into_bytes();
        let point = || format!("m,host={name} usage=1").into_bytes();
        let metrics = json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": [
            {"name": name, "gauge": {"dataPoints": [{"asDouble": 1.0}]}}]}]}]});
        let logs =
            json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {"stringValue": name}}]}]}]}).to_string();
        vec![
            request(INGEST, &[NDJSON], row()),
            request(INGEST, &[NDJSON, ("idempotency-key", name)], row()),
            request(INGEST, &[NDJSON, ("producer-id", name), ("producer-epoch", "0"), ("producer-seq", "0")], row()),
            request("/influx/api/v2/write?bucket=cpu", &[], point()),
            request("/influx/write?db=cpu", &[], point()),
            request("/prom/api/v1/write", &[("content-encoding", "snappy")], remote_write(name)),
            request("/otlp/v1/metrics", &[JSON], metrics.to_string().into_bytes()),
            request("/otlp/v1/logs", &[JSON], logs.into_bytes()),
        ]
    }

    /// Sends it: status, `Retry-After` and text of the answer. `None` if there was none.
    async fn send(&self, program: &Program) -> Option<(u16, Option<String>, String)> {
        let headers: Vec<(&str, &str)> = self.headers.iter().map(|(name, value)| (*name, &value[..])).collect();
        let answer = program.http.answer(self.path, &headers, self.body.clone()).await.ok()?;
        let retry_after = answer.headers().get("retry-after").map(|value| value.to_str().expect("text").to_owned());
        Some((answer.status().as_u16(), retry_after, answer.text().await.ok()?))
    }

    /// Sends it, and expects to be told to come again.
    async fn is_sent_away(&self, program: &Program, why: &str) {
        self.was_sent_away(self.send(program).await.expect("an answer"), why);
    }

    /// Looks at an answer that says to come again.
    fn was_sent_away(&self, (status, retry_after, text): (u16, Option<String>, String), why: &str) {
        assert_eq!(status, 503, "{}: {text}", self.path);
        let seconds = retry_after.and_then(|seconds| seconds.parse::<u64>().ok());
        assert!(seconds.is_some_and(|seconds| seconds > 0), "{}: Retry-After {seconds:?}", self.path);
        assert!(text.contains(why) && text.contains("nothing was stored"), "{}: {text}", self.path);
    }
}

/// The status that is expected, the path, headers, the body.
type Case<'c> = (u16, &'c str, &'c [(&'c str, &'c str)], Vec<u8>);

/// Remote write of version 1 with one sample of a metric.
fn remote_write(metric: &str) -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| {
        let length = u8::try_from(bytes.len()).expect("a small message");
        assert!(length < 128, "a length of one byte");
        [&[number << 3 | 2, length], bytes].concat()
    };
    let label = [field(1, b"__name__"), field(2, metric.as_bytes())].concat();
    let sample = [&[0x09][..], &1f64.to_le_bytes(), &[0x10, 1]].concat();
    let series = [field(1, &label), field(2, &sample)].concat();
    snap::raw::Encoder::new().compress_vec(&field(1, &series)).expect("snappy")
}

async fn is_in_no_table(program: &Program, name: &str) {
    for (table, column) in TABLES {
        let sql = format!("SELECT count(*) AS n FROM {table} WHERE {column} = '{name}'");
        let rows = program.http.query(&sql).await.expect("rows");
        assert_eq!(rows[0]["n"], 0, "{sql}");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_be_taken_leaves_the_log_as_it_was() {
    let folder = Folder::new();
    let mut serve = Serve::new(&folder, PIPELINE);
    serve.environment = vec![("TIDEMILL__DURABILITY__CHECKPOINT".to_owned(), "1h".to_owned())];
    let program = serve.start_ready().await;
    let key = [NDJSON, ("idempotency-key", "k")];
    let producer = |epoch: &'static str, sequence: &'static str| {
        [NDJSON, ("producer-id", "p"), ("producer-epoch", epoch), ("producer-seq", sequence)]
    };
    assert_eq!(post(&program, INGEST, &key, "{\"v\":1}").await.0, 200);
    assert_eq!(post(&program, INGEST, &producer("1", "0"), "{\"v\":1}").await.0, 200);
    let before = log_at_rest(&program, &serve.data).await;

    let (again, gap, stale) = (producer("1", "0"), producer("1", "5"), producer("0", "0"));
    let packed = gzip(b"{\"v\":1,\"note\":\"never\"}\n");
    let cases: Vec<Case> = vec![
        // A bad row in the middle, in every text.
        (400, INGEST, &[NDJSON], b"{\"v\":1}\n{\"v\":\"x\"}\n{\"v\":2}\n".to_vec()),
        (400, INGEST, &[NDJSON], b"{\"v\":1}\n{\"v\":\n{\"v\":2}\n".to_vec()),
        (400, INGEST, &[JSON], b"[{\"v\":1},{\"v\":null},{\"v\":2}]".to_vec()),
        (400, INGEST, &[CSV], b"v,note\n1,a\nx,b\n2,c\n".to_vec()),
        (400, INGEST, &[CSV], b"v,note\n1,a\n1,b,c\n2,c\n".to_vec()),
        (400, INGEST, &[NDJSON], Vec::new()),
        (400, "/api/v1/ingest/readings?acks=all", &[NDJSON], b"{\"v\":1}".to_vec()),
        // Damage, and what is too large.
        (400, INGEST, &[NDJSON, ("content-encoding", "gzip")], packed[..packed.len() - 4].to_vec()),
        (413, INGEST, &[NDJSON, ("content-encoding", "gzip")], gzip(&vec![b' '; 60 << 20])),
        (413, INGEST, &[NDJSON], "{\"v\":1}\n".repeat(100_001).into_bytes()),
        (415, INGEST, &[("content-type", "application/xml")], b"<v/>".to_vec()),
        (415, INGEST, &[NDJSON, ("content-encoding", "br")], b"{\"v\":1}".to_vec()),
        // Names.
        (404, "/api/v1/ingest/reading", &[NDJSON], b"{\"v\":1}".to_vec()),
        (400, INGEST, &[NDJSON, ("idempotency-key", "")], b"{\"v\":1}".to_vec()),
        (400, INGEST, &[NDJSON, ("producer-id", "p")], b"{\"v\":1}".to_vec()),
        (422, INGEST, &key, b"{\"v\":2}".to_vec()),
        (422, INGEST, &again, b"{\"v\":2}".to_vec()),
        (409, INGEST, &gap, b"{\"v\":2}".to_vec()),
        (403, INGEST, &stale, b"{\"v\":2}".to_vec()),
        // Other protocols.
        (404, "/influx/api/v2/write?bucket=gpu", &[], b"m usage=1".to_vec()),
        (400, "/influx/api/v2/write?bucket=cpu&precision=d", &[], b"m usage=1".to_vec()),
        (400, "/prom/api/v1/write", &[("content-encoding", "snappy")], b"no snappy".to_vec()),
        (400, "/prom/api/v1/write", &[], b"\x0a\x7f".to_vec()),
        (415, "/prom/api/v1/write", &[CSV], b"m 1".to_vec()),
        (400, "/otlp/v1/metrics", &[JSON], b"{\"resourceMetrics\": 7}".to_vec()),
        (415, "/otlp/v1/logs", &[CSV], b"x".to_vec()),
        (404, "/otlp/v1/traces", &[JSON], b"{}".to_vec()),
    ];
    for (expected, path, headers, body) in cases {
        let (status, text) = program.http.post_with(path, headers, body).await.expect("an answer");
        assert_eq!(status, expected, "{path} {headers:?}: {text}");
    }
    assert!(log_at_rest(&program, &serve.data).await == before, "the log has changed");

    // What comes again is told from its name, and is not written either.
    let (status, answer) = post(&program, INGEST, &key, "{\"v\":1}").await;
    assert_eq!((status, &answer["duplicate"]), (200, &json!(true)));
    assert!(log_at_rest(&program, &serve.data).await == before, "the log has changed");

    // Partial, again and again: the same rows each time, and with a key the same answer.
    let partial = format!("{INGEST}?on_error=dead_letter");
    let mixed = "{\"v\":1,\"note\":\"a\"}\n{\"v\":\"x\"}\n{\"v\":2,\"note\":\"b\"}\n";
    let mut told: Vec<Value> = Vec::new();
    for headers in [&[NDJSON][..], &[NDJSON], &[NDJSON, ("idempotency-key", "m")], &[NDJSON, ("idempotency-key", "m")]]
    {
        let (status, answer) = post(&program, &partial, headers, mixed).await;
        assert_eq!((status, &answer["rows"], &answer["rejected_count"]), (200, &json!(2), &json!(1)), "{answer}");
        told.push(answer);
    }
    assert!(told.iter().all(|answer| answer["rejected"] == told[0]["rejected"]), "{told:?}");
    assert_eq!((&told[3]["duplicate"], &told[3]["position"]), (&json!(true), &told[2]["position"]));
    program.http.query_until("SELECT count(v + 0) AS n FROM history WHERE note IN ('a', 'b')", 6).await;
    program.http.query_until("SELECT count(reason) AS n FROM \"readings$dead\"", 3).await;
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_sends_every_request_away_and_takes_it_once_when_there_is_space() {
    let folder = Folder::new();
    let Some(disk) = Disk::to_fill(&folder, disk::SMALL) else { return };
    let mut serve = Serve::new(&folder, PIPELINE);
    serve.data = disk.mounted_at.join("data");
    let program = serve.start_ready().await;
    let ballast = disk.fill();
    // Somebody has to write before it is noticed. Who asks then is not told "nothing was stored", but that nobody knows.
    eventually("it is read only", Duration::from_secs(60), async || {
        let _ = program.http.ingest("readings", "{\"v\":1,\"note\":\"before\"}".to_owned()).await;
        let (_, text) = program.http.get("/api/v1/status").await.ok()?;
        let status: Value = serde_json::from_str(&text).ok()?;
        (status["state"] == "read_only").then_some(())
    })
    .await;
    let requests = Request::everywhere("sent-away");
    for _ in 0..3 {
        for request in &requests {
            request.is_sent_away(&program, "").await;
        }
    }
    assert!(!log_holds(&serve.data, "sent-away"), "the log has what was refused");
    drop(ballast);
    eventually("it goes on by itself", Duration::from_secs(60), async || {
        (program.http.get("/readyz").await.ok()?.0 == 200).then_some(())
    })
    .await;
    is_in_no_table(&program, "sent-away").await;
    for request in &requests {
        let (status, _, text) = request.send(&program).await.expect("an answer");
        assert!(matches!(status, 200 | 204), "{}: {text}", request.path);
        assert!(!text.contains("\"duplicate\":true"), "{text}");
    }
    for ((table, column), expected) in TABLES.into_iter().zip([3, 2, 1, 1, 1]) {
        let sql = format!("SELECT count({column}) AS n FROM {table} WHERE {column} = 'sent-away'");
        program.http.query_until(&sql, expected).await;
    }
    program.stop().await;
}

/// Sends the head of a request and nothing of its body.
fn begun(serve: &Serve) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", serve.http)).expect("a connection");
    let head =
        format!("POST {INGEST} HTTP/1.1\r\nhost: h\r\ncontent-type: application/x-ndjson\r\ncontent-length: 8\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("a head");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_may_be_in_flight_are_sent_away_on_every_route() {
    let folder = Folder::new();
    let mut serve = Serve::new(&folder, PIPELINE);
    serve.environment = vec![("TIDEMILL__DURABILITY__CHECKPOINT".to_owned(), "1h".to_owned())];
    let program = serve.start_ready().await;
    // Bodies may take half a minute: what was seen in less time than that was seen while they were in flight.
    for attempt in 1.. {
        assert!(attempt <= ATTEMPTS_MAX, "the machine is too slow for this test");
        let before = log_at_rest(&program, &serve.data).await;
        let begin = Instant::now();
        let mut in_flight: Vec<TcpStream> = (0..REQUESTS_MAX).map(|_| begun(&serve)).collect();
        let probe = &Request::everywhere("probe")[0];
        eventually("all of them are in flight", Duration::from_secs(60), async || {
            // Over the limit it is sent away at once; below it, it is no row.
            let answer = program.http.post_with(probe.path, &[NDJSON], b"no row".to_vec()).await.ok()?;
            (answer.0 == 503 || begin.elapsed() > BODY_TIME_MAX).then_some(())
        })
        .await;
        let name = format!("sent-away-{attempt}");
        let mut answers = Vec::new();
        for request in Request::everywhere(&name) {
            answers.push((request.send(&program).await.expect("an answer"), request));
        }
        let health = program.http.get("/healthz").await.expect("an answer").0;
        let is_unchanged = log_at_rest(&program, &serve.data).await == before;
        // Who was in flight is served.
        let mut first = in_flight.pop().expect("many");
        let sent = first.write_all(b"{\"v\": 1}");
        let mut answer = [0; 12];
        let answered = first.read_exact(&mut answer);
        if begin.elapsed() > BODY_TIME_MAX {
            eprintln!("attempt {attempt} took {:?}", begin.elapsed());
            continue;
        }
        for (answer, request) in answers {
            request.was_sent_away(answer, "too many requests are in flight");
        }
        assert_eq!(health, 200);
        assert!(is_unchanged, "the log has changed");
        sent.and(answered).expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200");
        is_in_no_table(&program, &name).await;
        break;
    }
    for request in Request::everywhere("later") {
        let answer = eventually("it is taken", Duration::from_secs(60), async || {
            request.send(&program).await.filter(|(status, ..)| *status != 503)
        })
        .await;
        assert!(matches!(answer.0, 200 | 204), "{}: {}", request.path, answer.2);
    }
    program.stop().await;
}

/// A row of this number with three megabytes beside it.
fn large(number: usize) -> String {
    let filling: String = format!("{{\"v\":{number},\"note\":\"{}\"}}\n", "x".repeat(1_000)).repeat(3_000);
    format!("{filling}{{\"v\":{number},\"note\":\"number\"}}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_behind_takes_what_it_says_it_takes_and_nothing_else() {
    let folder = Folder::new();
    let serve = Serve::new(&folder, PIPELINE);
    let program = serve.start_ready().await;
    let strace = Strace::attach(program.pid(), &Strace::inject(&[SYNC_DELAY])).await;
    let (mut taken, mut sent_away) = (BTreeSet::new(), 0);
    for number in 0..LARGE_MAX {
        let headers = [("content-type", "application/x-ndjson")];
        let path = format!("{INGEST}?ack=accepted");
        let answer = program.http.answer(&path, &headers, large(number)).await.expect("an answer");
        match answer.status().as_u16() {
            202 => drop(taken.insert(number as i64)),
            503 => {
                assert!(answer.headers().contains_key("retry-after"));
                assert!(answer.text().await.expect("text").contains("TM2112"));
                sent_away += 1;
                break;
            }
            other => panic!("{other}: {}", answer.text().await.expect("text")),
        }
    }
    assert!(!taken.is_empty() && sent_away > 0, "{taken:?} {sent_away}");
    // The small ones are in the same queue: those that are taken wait for the disk.
    let small = Request::everywhere("sent-away");
    let answers = join_all(small.iter().map(|request| request.send(&program)));
    let (answers, ()) = tokio::join!(answers, async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        strace.detach().await;
    });
    for answer in answers {
        let (status, retry_after, text) = answer.expect("an answer");
        let is_told = status == 503 && retry_after.is_some() && text.contains("nothing was stored");
        assert!(is_told || matches!(status, 200 | 204 | 409), "{status} {text}");
    }
    let sql = "SELECT count(DISTINCT v) AS n FROM history WHERE note = 'number'";
    eventually("what was taken is in the table", Duration::from_secs(120), async || {
        let rows = program.http.query(sql).await.ok()?;
        (rows.first()?["n"].as_u64()? == taken.len() as u64).then_some(())
    })
    .await;
    let rows = program.http.query("SELECT v, count(*) AS n FROM history WHERE note = 'number' GROUP BY v").await;
    let found: BTreeSet<i64> = rows
        .expect("rows")
        .iter()
        .map(|row| {
            assert_eq!(row["n"], 1, "{row}");
            row["v"].as_i64().expect("a number")
        })
        .collect();
    assert_eq!(found, taken);
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_program_starts_and_stops_each_answer_is_true() {
    let folder = Folder::new();
    let mut serve = Serve::new(&folder, PIPELINE);
    serve.delay_syncs(Duration::from_millis(100));
    let (mut number, mut taken, mut unknown, mut sent_away) = (0_i64, BTreeSet::new(), BTreeSet::new(), 0);
    for life in 1..LIVES.end {
        let mut program = serve.start();
        let mut asked_to_stop: Option<Instant> = None;
        let mut served = 0;
        loop {
            number += 1;
            let row = format!("{{\"v\":{number}}}");
            let answer = program.http.answer(INGEST, &[NDJSON], row).await;
            match answer.map(|answer| (answer.status().as_u16(), answer.headers().contains_key("retry-after"))) {
                Ok((200, _)) => {
                    taken.insert(number);
                    served += 1;
                }
                Ok((503, true)) => sent_away += 1,
                // No answer, or a broken one: nobody knows. Most found nobody who listens.
                Err(_) => drop(unknown.insert(number)),
                Ok(other) => panic!("{other:?}"),
            }
            if served == 10 && asked_to_stop.is_none() {
                signal("TERM", program.pid());
                asked_to_stop = Some(Instant::now());
            }
            if asked_to_stop.is_some_and(|asked| asked.elapsed() > STOP_MAX) {
                panic!("it does not stop");
            }
            if let Some(ended) = program.try_ended() {
                assert!(ended.success(), "{ended}");
                break;
            }
        }
        if life >= LIVES.start && sent_away > 0 {
            break;
        }
    }
    eprintln!("{} taken, {sent_away} sent away, {} unknown", taken.len(), unknown.len());
    assert!(sent_away > 0, "nobody was sent away: the test has to ask more often");
    serve.under.clear();
    let program = serve.start_ready().await;
    let last = taken.len() as i64;
    eventually("what was taken is in the table", Duration::from_secs(60), async || {
        let rows = program.http.query("SELECT count(*) AS n FROM history").await.ok()?;
        (rows.first()?["n"].as_i64()? >= last).then_some(())
    })
    .await;
    let rows = program.http.query("SELECT v, count(*) AS n FROM history GROUP BY v").await.expect("rows");
    let found: BTreeSet<i64> = rows.iter().map(|row| row["v"].as_i64().expect("a number")).collect();
    assert!(rows.iter().all(|row| row["n"] == 1), "{rows:?}");
    assert!(taken.is_subset(&found), "an acknowledged row is missing: {:?}", taken.difference(&found));
    let strangers: Vec<&i64> = found.difference(&taken).filter(|number| !unknown.contains(number)).collect();
    assert!(strangers.is_empty(), "sent away, and stored: {strangers:?}");
    program.stop().await;
}
