//! Rows to a receiver that stumbles, refuses and dies, and from a program that does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tidemill_engine::clock::{Dice, SeededDice};
use tidemill_engine::storage::simulated::When;
use tidemill_engine::storage::{LocalStorage, SimulatedDisk};

use crate::breaker::BreakerState;
use crate::outbox::OutboxStatus;
use crate::outgoing::testing::{HANG, OK, Server};
use crate::sinks::testing::{Decided, Opening, commit, connected, in_memory};

/// A request as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Request {
    line: String,
    key: String,
    kind: String,
    body: String,
}

impl Request {
    fn parse(text: &str) -> Request {
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let header = |name: &str| {
            let found = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            found.unwrap_or_default().to_owned()
        };
        Request {
            line: head.lines().next().unwrap_or_default().to_owned(),
            key: header("idempotency-key"),
            kind: header("content-type"),
            body: body.to_owned(),
        }
    }

    /// The numbers in a JSON array.
    fn numbers(&self) -> Vec<i64> {
        let rows: Vec<Value> = serde_json::from_str(&self.body).expect("an array");
        rows.iter().map(|row| row["n"].as_i64().expect("a number")).collect()
    }
}

fn requests(server: &Server) -> Vec<Request> {
    server.seen.lock().iter().map(|text| Request::parse(text)).collect()
}

fn status(line: &str) -> Option<String> {
    Some(format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\n\r\n"))
}

fn sink_to(server: &Server, path: &str, more: &[(&str, &str)]) -> Opening {
    let url = format!("http://{}{path}", server.address);
    let mut options = vec![("connector", "http"), ("url", url.as_str())];
    options.extend(more);
    in_memory(&options)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_arrive_in_order_in_every_format_with_keys_of_their_own() {
    let array = r#"[{"n":0,"device":"d0"},{"n":1,"device":"d1"},{"n":2,"device":"d2"}]"#;
    for (options, kind, bodies, keys) in [
        (vec![], "application/json", vec![array], vec!["0-3"]),
        (
            vec![("format", "ndjson"), ("method", "put")],
            "application/x-ndjson",
            vec!["{\"n\":0,\"device\":\"d0\"}\n{\"n\":1,\"device\":\"d1\"}\n{\"n\":2,\"device\":\"d2\"}\n"],
            vec!["0-3"],
        ),
        (
            vec![("format", "csv"), ("batch_rows", "2")],
            "text/csv",
            vec!["n,device\r\n0,d0\r\n1,d1\r\n", "n,device\r\n2,d2\r\n"],
            vec!["0-2", "2-3"],
        ),
        (
            vec![("format", "object"), ("columns", "n")],
            "application/json",
            vec![r#"{"n":0}"#, r#"{"n":1}"#, r#"{"n":2}"#],
            vec!["0-1", "1-2", "2-3"],
        ),
        (
            vec![("columns", "n"), ("batch_bytes", "18 B")],
            "application/json",
            vec![r#"[{"n":0},{"n":1}]"#, r#"[{"n":2}]"#],
            vec!["0-2", "2-3"],
        ),
    ] {
        let server = Server::answering(|_| Some(OK.to_owned())).await;
        let opening = sink_to(&server, "/in", &options);
        let mut sink = opening.begun().expect("it begins");
        commit(&mut *sink, 1, 0..3);
        opening.until("all are delivered", |status| status.delivered == 3 && status.rows == 0).await;
        let seen = requests(&server);
        assert_eq!(seen.iter().map(|request| request.body.as_str()).collect::<Vec<_>>(), bodies, "{options:?}");
        let expected: Vec<String> = keys.iter().map(|key| format!("0123456789abcdef-alerts-{key}")).collect();
        assert_eq!(seen.iter().map(|request| request.key.clone()).collect::<Vec<_>>(), expected, "{options:?}");
        let method = if options.iter().any(|(_, value)| *value == "put") { "PUT" } else { "POST" };
        assert!(seen.iter().all(|request| request.kind == kind && request.line == format!("{method} /in HTTP/1.1")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_taken_now_is_sent_again_as_it_was_and_the_breaker_opens_and_closes() {
    for (name, answer, words) in [
        ("errors", status("500 Oops"), "answers 500"),
        ("busy", status("429 x"), "answers 429"),
        ("hangs", Some(HANG.to_owned()), "no answer within the timeout"),
        ("resets", None, "broke off"),
        ("wrong credentials", status("401 x"), "correct the sink"),
        ("wrong url", status("404 x"), "correct the sink"),
        ("turns to a question", status("303 x"), "correct the sink"),
    ] {
        let is_well = Arc::new(AtomicUsize::new(0));
        let well = Arc::clone(&is_well);
        let server = Server::answering(move |_| match well.load(Ordering::SeqCst) {
            0 => answer.clone(),
            _ => Some(OK.to_owned()),
        })
        .await;
        let opening = sink_to(&server, "/in", &[("timeout", "100 ms"), ("on_refused", "drop")]);
        let mut sink = opening.begun().expect("it begins");
        commit(&mut *sink, 1, 0..10);
        let status = opening.until("the breaker opens", |status| status.breaker == BreakerState::Open).await;
        assert!(status.error.as_deref().is_some_and(|error| error.contains(words)), "{name}: {status:?}");
        assert!(!status.connected && status.rows == 10 && status.rejected == 0, "{name}: {status:?}");
        commit(&mut *sink, 2, 10..12);
        is_well.store(1, Ordering::SeqCst);
        let status = opening.until("all are delivered", |status| status.rows == 0).await;
        assert_eq!((status.breaker, status.error), (BreakerState::Closed, None), "{name}");
        let seen = requests(&server);
        let first = &seen[0];
        let repeated = seen.iter().take_while(|request| request.key == first.key).collect::<Vec<_>>();
        assert!(repeated.len() > 5 && repeated.iter().all(|request| *request == first), "{name}: {seen:?}");
        assert_eq!(first.numbers(), (0..10).collect::<Vec<_>>(), "{name}");
        assert_eq!(seen.last().expect("one more").numbers(), [10, 11], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_to_wait_is_honoured() {
    let asked = AtomicUsize::new(0);
    let server = Server::answering(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Some("HTTP/1.1 503 x\r\nretry-after: 2\r\ncontent-length: 0\r\n\r\n".to_owned()),
        _ => Some(OK.to_owned()),
    })
    .await;
    let opening = sink_to(&server, "/in", &[]);
    let mut sink = opening.begun().expect("it begins");
    let began = tokio::time::Instant::now();
    commit(&mut *sink, 1, 0..10);
    opening.until("all are delivered", |status| status.rows == 0).await;
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(requests(&server).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_can_never_be_taken_hold_nothing_up_and_are_kept_as_the_sink_says() {
    for on_refused in ["keep", "drop"] {
        let server = Server::answering(|request| match request.contains("\"n\":1,") {
            true => status("422 Unprocessable"),
            false => Some(OK.to_owned()),
        })
        .await;
        let opening = sink_to(&server, "/in?token=x", &[("on_refused", on_refused), ("batch_rows", "2")]);
        let mut sink = opening.begun().expect("it begins");
        commit(&mut *sink, 1, 0..6);
        let status = opening.until("the others are delivered", |status| status.rows == 0).await;
        assert_eq!((status.rejected, status.breaker), (2, BreakerState::Closed), "{on_refused}");
        assert_eq!(status.delivered, 4, "what was refused was not delivered");
        let taken: Vec<Vec<i64>> = requests(&server).iter().map(Request::numbers).collect();
        assert_eq!(taken, [[0, 1], [2, 3], [4, 5]]);
        let kept = opening.context.storage.list("sinks/alerts/refused").expect("a folder");
        assert_eq!(kept.len(), usize::from(on_refused == "keep"));
        if let Some(entry) = kept.first() {
            let text = opening.context.storage.get(&format!("sinks/alerts/refused/{}", entry.name)).expect("a file");
            let text = String::from_utf8(text.to_vec()).expect("text");
            let lines: Vec<&str> = text.lines().collect();
            let head: Value = serde_json::from_str(lines[0]).expect("a head");
            assert_eq!((&head["status"], &head["rows"]), (&422.into(), &2.into()));
            assert_eq!(head["url"], format!("http://{}/in", server.address), "nothing secret is in it");
            assert_eq!(lines[1..], [r#"{"n":0,"device":"d0"}"#, r#"{"n":1,"device":"d1"}"#]);
        }
        drop(sink);
    }
    let server = Server::answering(|_| status("400 Bad")).await;
    let opening = sink_to(&server, "/in", &[("on_refused", "wait")]);
    let mut sink = opening.begun().expect("it begins");
    commit(&mut *sink, 1, 0..6);
    let status = opening.until("it waits", |status| status.breaker == BreakerState::Open).await;
    assert_eq!((status.rows, status.rejected), (6, 0));
    assert!(status.error.as_deref().is_some_and(|error| error.contains("holds up all behind them")), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_halved_until_it_fits_and_one_row_that_does_not_is_refused() {
    let server = Server::answering(|request| {
        let body = Request::parse(request).body;
        let is_large = body.matches("\"n\":").count() > 2 || body.contains("\"n\":5,");
        if is_large { status("413 Too Large") } else { Some(OK.to_owned()) }
    })
    .await;
    let opening = sink_to(&server, "/in", &[]);
    let mut sink = opening.begun().expect("it begins");
    commit(&mut *sink, 1, 0..8);
    let found = opening.until("the others are delivered", |status| status.rows == 0).await;
    assert_eq!((found.rejected, found.delivered), (1, 7));
    let taken = |request: &&Request| request.numbers().len() <= 2 && !request.numbers().contains(&5);
    let seen = requests(&server);
    let numbers: Vec<i64> = seen.iter().filter(taken).flat_map(Request::numbers).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 6, 7]);
    let keys: BTreeMap<&str, &str> = seen.iter().map(|request| (request.key.as_str(), request.body.as_str())).collect();
    assert_eq!(keys.len(), seen.len(), "each piece has a key of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_url_gets_its_rows_in_their_order() {
    let asked = AtomicUsize::new(0);
    let server = Server::answering(move |request| match asked.fetch_add(1, Ordering::SeqCst) {
        2 => status("503 x"),
        _ if request.starts_with("POST /of/d1/") => status("404 Not Found"),
        _ => Some(OK.to_owned()),
    })
    .await;
    let opening = sink_to(&server, "/of/{device}/in?n={device}", &[("columns", "n")]);
    let mut sink = opening.begun().expect("it begins");
    commit(&mut *sink, 1, 0..7);
    let status = opening.until("all are delivered", |status| status.rows == 0).await;
    assert_eq!(status.rejected, 2, "of a device that the receiver does not know");
    let seen = requests(&server);
    let paths: Vec<(&str, Vec<i64>)> = seen.iter().map(|request| (request.line.as_str(), request.numbers())).collect();
    assert_eq!(
        paths,
        [
            ("POST /of/d0/in?n=d0 HTTP/1.1", vec![0, 3, 6]),
            ("POST /of/d1/in?n=d1 HTTP/1.1", vec![1, 4]),
            ("POST /of/d2/in?n=d2 HTTP/1.1", vec![2, 5]),
            ("POST /of/d2/in?n=d2 HTTP/1.1", vec![2, 5]),
        ]
    );
    assert_eq!(seen[2].key, seen[3].key);
    assert!(seen[0].key != seen[1].key && seen[1].key != seen[2].key);
}

/// What a receiver has that remembers keys.
#[derive(Default)]
struct Taken {
    bodies: BTreeMap<String, String>,
    numbers: Vec<i64>,
    repeated: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn through_kills_and_power_losses_a_key_means_the_same_bytes_and_each_row_is_taken_once() {
    let mut repeated = 0;
    for seed in 0..6 {
        let (dice, mut disk) = (SeededDice::new(seed), Arc::new(SimulatedDisk::new(seed)));
        let taken = Arc::new(Mutex::new(Taken::default()));
        let (taken_by, moods) = (Arc::clone(&taken), Arc::new(SeededDice::new(seed + 100)));
        let is_calm = Arc::new(AtomicUsize::new(0));
        let calm = Arc::clone(&is_calm);
        // So many requests more are answered in this life: what is taken after them is not remembered.
        let answers = Arc::new(AtomicUsize::new(0));
        let is_silent = Arc::new(AtomicBool::new(false));
        let (left, silent) = (Arc::clone(&answers), Arc::clone(&is_silent));
        let server = Server::answering(move |text| {
            let request = Request::parse(text);
            let mood = if calm.load(Ordering::SeqCst) == 1 { 9 } else { moods.roll() % 10 };
            if mood == 0 {
                return status("500 before it was taken");
            }
            let numbers = request.numbers();
            let mut taken = taken_by.lock();
            let Taken { bodies, numbers: all, repeated } = &mut *taken;
            match bodies.get(&request.key) {
                Some(body) => {
                    assert_eq!(*body, request.body, "{}", request.key);
                    *repeated += 1;
                }
                None => {
                    all.extend(numbers);
                    bodies.insert(request.key, request.body);
                }
            }
            let is_answered = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
            silent.store(!is_answered, Ordering::SeqCst);
            match mood {
                // Taken, and the answer is lost.
                _ if !is_answered => None,
                1 => None,
                2 => status("502 after it was taken"),
                _ => Some(OK.to_owned()),
            }
        })
        .await;
        let url = format!("http://{}/in", server.address);
        let options = [("connector", "http"), ("url", url.as_str()), ("batch_rows", "7"), ("timeout", "2 s")];
        let mut decided = Decided::default();
        for life in 0..14 {
            let is_last = life == 13;
            let Ok(storage) = LocalStorage::on(Arc::clone(&disk) as _, "data") else { panic!("a disk that works") };
            let opening = connected(Arc::new(storage), seed * 100 + life, &options).expect("good options");
            is_silent.store(false, Ordering::SeqCst);
            if !is_last {
                let when = if dice.roll().is_multiple_of(2) { When::Before } else { When::After };
                disk.stop_at_call(disk.calls() + 1 + dice.roll() % 200, when);
                answers.store((dice.roll() % 6) as usize, Ordering::SeqCst);
            } else {
                answers.store(usize::MAX, Ordering::SeqCst);
                is_calm.store(1, Ordering::SeqCst);
            }
            let is_settled =
                |status: &OutboxStatus| status.rows == 0 || is_silent.load(Ordering::SeqCst) || disk.is_stopped();
            let lived = decided.live(&opening, &dice, is_settled).await;
            assert!(lived.is_ok() || disk.is_stopped(), "seed {seed}: {:?}", lived.err());
            if let Ok(sink) = lived {
                opening.until("all are delivered, or nothing will be", is_settled).await;
                disk.stop();
                drop(sink);
            }
            disk = Arc::new(if dice.roll().is_multiple_of(2) { disk.kill() } else { disk.crash(seed + life) });
        }
        let taken = taken.lock();
        assert_eq!(taken.numbers, (0..decided.rows).collect::<Vec<_>>(), "seed {seed}");
        repeated += taken.repeated;
    }
    assert!(repeated > 0, "no life ended between sending and remembering");
}

#[test]
fn mistakes_name_the_option_and_the_remedy() {
    let good = [("connector", "http"), ("url", "https://example.com/{device}")];
    let connected =
        |options: &[(&str, &str)]| connected(Arc::new(tidemill_engine::storage::MemoryStorage::default()), 1, options);
    assert!(connected(&good).is_ok());
    for (key, value, words) in [
        ("url", "https://{device}/x", "the server must be the same"),
        ("url", "example.com", "is not a URL"),
        ("url", "http://10.0.0.1/", "network.allow"),
        ("url", "https://example.com/{devise}", "did you mean device?"),
        ("method", "get", "is not one of 'post', 'put'"),
        ("format", "xml", "'json', 'ndjson', 'csv', 'object'"),
        ("columns", "m", "there is no column"),
        ("batch_rows", "0", "must be from 1 to 1000"),
        ("batch_rows", "1001", "must be from 1 to 1000"),
        ("batch_bytes", "1 GiB", "must be from '1 B' to '64 MiB'"),
        ("on_refused", "ignore", "is not one of 'keep', 'drop', 'wait'"),
        ("timeout", "0 s", "longer than nothing"),
        ("header.host", "x", "written by the program itself"),
        ("tokn", "x", "did you mean token?"),
        ("topic", "x", "is not known here"),
    ] {
        let options: Vec<(&str, &str)> =
            good.into_iter().filter(|(known, _)| *known != key).chain([(key, value)]).collect();
        let problem = connected(&options).err().expect("refused").to_string();
        assert!(problem.contains(&format!("option {key}: ")) && problem.contains(words), "{key}: {problem}");
    }
}
