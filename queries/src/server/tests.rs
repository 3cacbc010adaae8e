//! The service over a real socket.

use std::net::{IpAddr, Ipv4Addr};

use axum::routing::{get, post};
use serde_json::{Value, json};
use tidemill_connectors::stall::Patience;
use tidemill_engine::clock::ManualClock;
use tidemill_engine::runtime::SourceStatus;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::answer::AnswerFormat;
use crate::history::History;
use crate::session::Limits;

struct Running {
    url: String,
    address: SocketAddr,
    status: Arc<parking_lot::Mutex<Option<JobStatus>>>,
    stop: Stop,
    ended: tokio::task::JoinHandle<io::Result<()>>,
}

async fn start(limits: Limits, extra: Router) -> Running {
    start_with(limits, extra, Connections::default()).await
}

async fn start_with(limits: Limits, extra: Router, connections: Connections) -> Running {
    let bound = Server::bind(loopback(0), Exposure::LoopbackOnly).await.expect("a free port");
    start_bound(limits, extra, Bound { connections, ..bound })
}

async fn start_with_bodies(bodies: Bodies) -> Running {
    let bound = Server::bind(loopback(0), Exposure::LoopbackOnly).await.expect("a free port");
    start_bound(Limits::default(), Router::new(), Bound { bodies, ..bound })
}

fn start_bound(limits: Limits, extra: Router, bound: Bound) -> Running {
    let address = bound.local_addr();
    let status = Arc::new(parking_lot::Mutex::new(None));
    let told = Arc::clone(&status);
    let state = ServiceState {
        status: Arc::new(move || ServiceStatus { job: told.lock().clone(), ..ServiceStatus::default() }),
        session: Arc::new(Session::new(Arc::new(History::default()), limits)),
        extra,
        clock: Arc::new(ManualClock::at(5_000_000)),
        version: "0.0.1",
    };
    let stop = Stop::new();
    let ended = tokio::spawn(bound.serve(state, stop.clone()));
    Running { url: format!("http://{address}"), address, status, stop, ended }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().expect("client")
}

async fn ask(running: &Running, body: Value) -> reqwest::Response {
    client().post(format!("{}/api/v1/query", running.url)).json(&body).send().await.expect("an answer")
}

async fn problem(response: reqwest::Response) -> (u16, Value) {
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let status = response.status().as_u16();
    let document: Value = response.json().await.expect("JSON");
    assert_eq!(document["status"], status);
    (status, document)
}

#[tokio::test]
async fn a_question_is_answered_in_each_format() {
    let running = start(Limits::default(), Router::new()).await;
    let response = ask(&running, json!({"sql": "SELECT 1 AS a, 'x' AS b"})).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"application/json".parse().unwrap())
    );
    let document: Value = response.json().await.expect("JSON");
    assert_eq!(
        document,
        json!({"columns": [{"name": "a", "type": "BIGINT"}, {"name": "b", "type": "TEXT"}],
               "rows": [{"a": 1, "b": "x"}], "row_count": 1})
    );
    for (accept, expected) in [
        ("application/x-ndjson", "{\"a\":1,\"b\":\"x\"}\n"),
        ("text/csv", "a,b\n1,x\n"),
        ("text/plain", "+---+---+\n| a | b |\n+---+---+\n| 1 | x |\n+---+---+\n(1 row)\n"),
    ] {
        let response = client()
            .post(format!("{}/api/v1/query", running.url))
            .header("accept", accept)
            .json(&json!({"sql": "SELECT $1 AS a, $2 AS b", "params": [1, "x"]}))
            .send()
            .await
            .expect("an answer");
        assert!(response.headers()["content-type"].to_str().unwrap().starts_with(accept));
        assert_eq!(response.text().await.expect("text"), expected);
    }
}

#[tokio::test]
async fn a_bad_request_is_a_problem_document_with_its_own_status() {
    let running = start(Limits::default(), Router::new()).await;
    let (status, document) = problem(ask(&running, json!({"sql": "SELECT x"})).await).await;
    assert_eq!((status, &document["code"]), (422, &json!("TM1107")));
    assert_eq!(document["span"], json!({"line": 1, "column": 8, "length": 1}));
    let (status, document) = problem(ask(&running, json!({"sql": "DROP TABLE t"})).await).await;
    assert_eq!((status, &document["title"]), (422, &json!("Questions only read")));
    assert_eq!(problem(ask(&running, json!({"query": "SELECT 1"})).await).await.0, 400);
    assert_eq!(problem(ask(&running, json!({"sql": "SELECT 1", "params": [{}]})).await).await.0, 400);
    assert_eq!(
        problem(ask(&running, json!({"sql": "SELECT 1 -- ".to_owned() + &"x".repeat(3 << 20)})).await).await.0,
        413
    );

    let post = |content_type: &'static str, accept: &'static str| {
        client()
            .post(format!("{}/api/v1/query", running.url))
            .header("content-type", content_type)
            .header("accept", accept)
            .body(r#"{"sql": "SELECT 1"}"#)
            .send()
    };
    assert_eq!(problem(post("text/plain", "*/*").await.unwrap()).await.0, 415);
    assert_eq!(problem(post("application/json", "image/png").await.unwrap()).await.0, 406);
}

#[tokio::test]
async fn an_unknown_path_tells_the_known_ones() {
    let running = start(Limits::default(), Router::new()).await;
    let (status, document) = problem(client().get(format!("{}/nowhere", running.url)).send().await.unwrap()).await;
    assert_eq!(status, 404);
    assert!(document["hint"].as_str().unwrap().contains("/api/v1/query"), "{document}");
    let (status, _) = problem(client().get(format!("{}/api/v1/query", running.url)).send().await.unwrap()).await;
    assert_eq!(status, 405);
}

#[tokio::test]
async fn health_readiness_status_and_metrics_follow_the_job() {
    let running = start(Limits::default(), Router::new()).await;
    let get = |path: &str| client().get(format!("{}{path}", running.url)).send();
    assert_eq!(get("/healthz").await.unwrap().status(), 200);
    assert_eq!(get("/readyz").await.unwrap().status(), 503);
    assert_eq!(get("/api/v1/status").await.unwrap().status(), 503);
    assert_eq!(get("/version").await.unwrap().json::<Value>().await.unwrap()["version"], "0.0.1");

    let source = SourceStatus { name: "readings".into(), messages: 7, ..SourceStatus::default() };
    *running.status.lock() = Some(JobStatus { sources: vec![source], ..JobStatus::default() });
    let response = get("/readyz").await.unwrap();
    assert_eq!(response.status(), 503);
    let document: Value = response.json().await.unwrap();
    assert_eq!(document["sources"], json!([{"name": "readings", "state": "not connected"}]));

    running.status.lock().as_mut().unwrap().ready = true;
    assert_eq!(get("/readyz").await.unwrap().status(), 200);
    let status: Value = get("/api/v1/status").await.unwrap().json().await.unwrap();
    assert_eq!(status["sources"][0]["messages"], 7);
    let metrics = get("/metrics").await.unwrap().text().await.unwrap();
    assert!(metrics.contains("tidemill_source_records_total{source=\"readings\"} 7\n"), "{metrics}");
}

#[tokio::test]
async fn routes_of_sources_stand_beside_ours() {
    let extra = Router::new().route("/api/v1/ingest/readings", post(|body: String| async move { body }));
    let running = start(Limits::default(), extra).await;
    // Their bodies have their own limit.
    let body = "x".repeat(1 << 20);
    let response =
        client().post(format!("{}/api/v1/ingest/readings", running.url)).body(body.clone()).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.text().await.unwrap() == body), (200, true));
    let (status, _) =
        problem(client().post(format!("{}/api/v1/ingest/other", running.url)).send().await.unwrap()).await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn a_big_answer_streams_and_a_late_error_cuts_it() {
    let running = start(Limits::default(), Router::new()).await;
    let response = client()
        .post(format!("{}/api/v1/query", running.url))
        .header("accept", "text/csv")
        .json(&json!({"sql": "SELECT value FROM generate_series(1, 500000)"}))
        .send()
        .await
        .unwrap();
    assert_eq!(response.text().await.unwrap().lines().count(), 500_001);

    let failing =
        json!({"sql": "SELECT 1 / (3000000 - value) AS x, repeat('y', 20) AS y FROM generate_series(1, 4000000)"});
    let response = ask(&running, failing).await;
    assert_eq!(response.status(), 200, "its first rows are right");
    assert!(response.bytes().await.is_err(), "the body must not look whole");
}

#[tokio::test]
async fn the_client_prints_answers_and_explains_refusals() {
    let running = start(Limits::default(), Router::new()).await;
    let mut out = Vec::new();
    // With or without the scheme.
    query_server(&running.address.to_string(), "SELECT 1 AS a", AnswerFormat::Csv, &mut out).await.expect("an answer");
    assert_eq!(out, b"a\n1\n");
    let error = query_server(&running.url, "SELECT b", AnswerFormat::Csv, &mut out).await.expect_err("refused");
    let ClientError::Refused(problem) = error else { panic!("{error}") };
    assert_eq!(problem.kind, ProblemKind::UnknownColumn);

    let free = Server::bind(loopback(0), Exposure::LoopbackOnly).await.unwrap().local_addr();
    let error =
        query_server(&format!("http://{free}"), "SELECT 1", AnswerFormat::Csv, &mut out).await.expect_err("nobody");
    assert!(error.to_string().contains("--data DIR"), "{error}");
    let error = query_server("http://", "SELECT 1", AnswerFormat::Csv, &mut out).await.expect_err("no address");
    assert!(matches!(error, ClientError::BadUrl { .. }), "{error}");
}

#[tokio::test]
async fn an_address_for_others_or_a_port_in_use_is_refused_with_a_reason() {
    let error = Server::bind("0.0.0.0:0".parse().unwrap(), Exposure::LoopbackOnly).await.expect_err("exposed");
    assert!(error.to_string().contains("no authentication"), "{error}");
    assert!(Server::bind("0.0.0.0:0".parse().unwrap(), Exposure::Insecure).await.is_ok());
    let taken = Server::bind(loopback(0), Exposure::LoopbackOnly).await.unwrap();
    let error = Server::bind(taken.local_addr(), Exposure::LoopbackOnly).await.expect_err("in use");
    assert!(matches!(error, BindError::InUse { .. }), "{error}");
}

#[tokio::test]
async fn stopping_takes_at_most_five_seconds_with_a_client_that_never_reads() {
    let running = start(Limits::default(), Router::new()).await;
    let mut slow = TcpStream::connect(running.address).await.unwrap();
    let body = r#"{"sql": "SELECT value FROM generate_series(1, 1000000000000)"}"#;
    let request = format!(
        "POST /api/v1/query HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    slow.write_all(request.as_bytes()).await.unwrap();
    let mut first = [0_u8; 15];
    slow.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    running.stop.cancel();
    // Without a limit it would be the client's, of half a minute, or none.
    let waited = tokio::time::timeout(SHUTDOWN_TIME_MAX + Duration::from_secs(15), running.ended).await;
    assert!(waited.expect("ends in time").expect("no panic").is_ok());
}

/// Nothing is sent to it for minutes, so that it has gone is not noticed by sending.
#[tokio::test]
async fn a_client_that_leaves_before_the_first_row_ends_its_question() {
    let running = start(Limits { queries_max: 1, ..Limits::default() }, Router::new()).await;
    for endless in [
        "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000000) b WHERE a.value % 7 = b.value % 5",
        "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
    ] {
        let asked = ask(&running, json!({ "sql": endless }));
        tokio::time::timeout(Duration::from_millis(300), asked).await.expect_err("it does not end");
        the_turn_is_free(&running, endless).await;
    }
}

#[tokio::test]
async fn connections_that_ask_nothing_make_room_for_those_that_do() {
    let few = Connections { connections_max: 3, silence_max: Duration::from_millis(200), ..Connections::default() };
    let running = start_with(Limits::default(), Router::new(), few).await;
    let _silent = TcpStream::connect(running.address).await.unwrap();
    let mut half_asked = TcpStream::connect(running.address).await.unwrap();
    half_asked.write_all(b"GET /healthz HTTP/1.1\r\nhost").await.unwrap();
    let mut answered = TcpStream::connect(running.address).await.unwrap();
    answered.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut first = [0_u8; 15];
    answered.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    // All three hold their slots now, and none of them ever closes.
    let asked = client().get(format!("{}/healthz", running.url)).send();
    let response = tokio::time::timeout(SOON, asked).await.expect("a slot").expect("an answer");
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_question_that_takes_long_is_not_silence() {
    let slow = Router::new().route(
        "/slow",
        get(|| async {
            tokio::time::sleep(Duration::from_millis(600)).await;
            "done"
        }),
    );
    let impatient = Connections { silence_max: Duration::from_millis(100), ..Connections::default() };
    let running = start_with(Limits::default(), slow, impatient).await;
    let response = client().get(format!("{}/slow", running.url)).send().await.expect("an answer");
    assert_eq!(response.text().await.expect("whole"), "done");
}

/// A body that nobody wants is taken from its client all the same: a reset would take the answer with it.
#[tokio::test]
async fn who_is_refused_by_the_head_of_a_request_is_told_why_while_it_still_sends() {
    let refusing = Router::new().route("/refusing", post(async || (StatusCode::PAYLOAD_TOO_LARGE, "too large")));
    let running = start_with(Limits::default(), refusing, Connections::default()).await;
    for _ in 0..20 {
        let mut stream = tokio::net::TcpStream::connect(running.address).await.expect("a connection");
        let head = format!("POST /refusing HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n", 8 << 20);
        stream.write_all(head.as_bytes()).await.expect("a head");
        for _ in 0..8 {
            stream.write_all(&vec![0; 1 << 20]).await.expect("the server reads it");
        }
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 413");
    }
    // Who waits to be asked for a body is not kept waiting.
    let mut stream = tokio::net::TcpStream::connect(running.address).await.expect("a connection");
    let head = "POST /refusing HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("a head");
    let mut answer = String::new();
    at_once(stream.read_to_string(&mut answer)).await.expect("text");
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

/// Sends a question and reads nothing of its answer but, if there is one, its status.
async fn ask_and_read_nothing(running: &Running, sql: &str) -> TcpStream {
    let mut stream = TcpStream::connect(running.address).await.expect("a connection");
    let body = json!({ "sql": sql }).to_string();
    let head = "POST /api/v1/query HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length";
    stream.write_all(format!("{head}: {}\r\n\r\n{body}", body.len()).as_bytes()).await.expect("a request");
    stream
}

const ENDLESS_ROWS: &str = "SELECT value FROM generate_series(1, 1000000000000)";
/// Rows that never come.
const ENDLESS_COUNT: &str =
    "SELECT count(*) AS n FROM generate_series(1, 1000000000) a, generate_series(1, 1000000000) b";
const SOON: Duration = Duration::from_secs(60);

/// Waits until a question is answered: who has the only turn loses it, which on a busy machine may take longer than a
/// question waits for one.
async fn the_turn_is_free(running: &Running, of: &str) {
    let answered = async {
        while ask(running, json!({"sql": "SELECT 1 AS a"})).await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, answered).await.unwrap_or_else(|_| panic!("it keeps its turn: {of}"));
}

/// Waits for three seconds at most in which this process runs: a pause of the machine counts as little.
async fn at_once<T>(awaited: impl Future<Output = T>) -> T {
    let mut awaited = std::pin::pin!(awaited);
    for _ in 0..300 {
        if let Ok(found) = tokio::time::timeout(Duration::from_millis(10), &mut awaited).await {
            return found;
        }
    }
    panic!("it is not at once")
}

#[tokio::test]
async fn a_client_that_never_reads_its_answer_loses_its_slot_and_its_question_its_turn() {
    let patience = Patience { time_max: Duration::from_millis(500), bytes_min: 64 << 10 };
    let one = Connections { connections_max: 1, patience, ..Connections::default() };
    let running = start_with(Limits { queries_max: 1, ..Limits::default() }, Router::new(), one).await;
    let _never_reads = ask_and_read_nothing(&running, ENDLESS_ROWS).await;
    // There is one slot and one turn, and it has both.
    the_turn_is_free(&running, ENDLESS_ROWS).await;
}

#[tokio::test]
async fn a_client_that_reads_a_byte_now_and_then_is_as_one_that_never_reads() {
    let patience = Patience { time_max: Duration::from_millis(500), bytes_min: 64 << 10 };
    let one = Connections { connections_max: 1, patience, ..Connections::default() };
    let running = start_with(Limits::default(), Router::new(), one).await;
    let mut trickling = ask_and_read_nothing(&running, ENDLESS_ROWS).await;
    let reading = tokio::spawn(async move {
        let mut byte = [0];
        while trickling.read_exact(&mut byte).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let asked = tokio::time::timeout(SOON, ask(&running, json!({"sql": "SELECT 1 AS a"}))).await;
    assert_eq!(asked.expect("a slot").status(), 200);
    reading.abort();
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_the_whole_answer() {
    let patience = Patience { time_max: Duration::from_secs(3), bytes_min: 64 << 10 };
    let running =
        start_with(Limits::default(), Router::new(), Connections { patience, ..Connections::default() }).await;
    let sql = "SELECT value FROM generate_series(1, 2000000)";
    let mut slow = ask_and_read_nothing(&running, sql).await;
    let started = tokio::time::Instant::now();
    let (mut buffer, mut bytes, mut last) = (vec![0; 512 << 10], 0, Vec::new());
    while let count @ 1.. = slow.read(&mut buffer).await.expect("the connection stands") {
        bytes += count;
        last = buffer[count.saturating_sub(32)..count].to_vec();
        if last.ends_with(b"0\r\n\r\n") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(bytes > 20 << 20, "{bytes} bytes");
    assert!(started.elapsed() > patience.time_max, "it takes longer than a stall may");
    assert!(last.ends_with(b"\r\n0\r\n\r\n"), "{}", String::from_utf8_lossy(&last));
}

#[tokio::test]
async fn a_question_without_a_row_ends_with_its_client() {
    let running = start(Limits { queries_max: 1, ..Limits::default() }, Router::new()).await;
    let going = ask_and_read_nothing(&running, ENDLESS_COUNT).await;
    // As soon as the first one has the turn.
    let sent_away = async { while ask(&running, json!({"sql": "SELECT 1 AS a"})).await.status() != 503 {} };
    tokio::time::timeout(SOON, sent_away).await.expect("the first one has the turn");
    drop(going);
    the_turn_is_free(&running, ENDLESS_COUNT).await;
}

#[tokio::test]
async fn a_question_that_is_sent_too_slowly_is_told_so() {
    let running = start_with_bodies(Bodies { time_max: Duration::from_millis(200), ..Bodies::default() }).await;
    let mut slow = TcpStream::connect(running.address).await.unwrap();
    let head =
        "POST /api/v1/query HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{";
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    tokio::time::timeout(SOON, slow.read_exact(&mut answer)).await.expect("in time").expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn a_connection_that_asks_no_more_makes_room() {
    let one = Connections { connections_max: 1, silence_max: Duration::from_millis(200), ..Connections::default() };
    let running = start_with(Limits::default(), Router::new(), one).await;
    let mut idle = TcpStream::connect(running.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut first = [0_u8; 15];
    idle.read_exact(&mut first).await.unwrap();
    let asked = client().get(format!("{}/healthz", running.url)).send();
    assert_eq!(tokio::time::timeout(SOON, asked).await.expect("a slot").expect("an answer").status(), 200);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_told_so() {
    let running = start(Limits::default(), Router::new()).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let head = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx-much: {}\r\n\r\n", "x".repeat(256 << 10));
    // Who still sends when the connection ends may see that only.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = String::new();
    let read = tokio::time::timeout(SOON, stream.read_to_string(&mut answer)).await.expect("in time");
    assert!(answer.starts_with("HTTP/1.1 431") || read.is_err(), "{answer}");
}
