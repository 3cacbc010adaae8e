//! Polls: what is appended, what is compared, and what failures come to.

use std::time::Duration;

use tidemill_engine::source::Resume;

use super::lab::*;
use crate::pull::poll::{BODY_BYTES_MAX, Wanted};
use crate::pull::{HttpPollSource, http_poll};

fn poll(url: &str, more: &[(&str, &str)], wanted: Wanted) -> HttpPollSource {
    let mut options = options(&[&[("url", url), ("interval", "100 ms")], more].concat());
    let source = http_poll("s", &mut options, wanted, &context("")).expect("good options");
    options.finish().expect("no other options");
    source
}

#[tokio::test]
async fn every_answer_is_appended_and_asks_for_what_it_wants() {
    let server = Server::new([ok("{\"v\":1}"), ok(" \n"), answer("204 No Content", &[], b""), ok("{\"v\":1}")]).await;
    let running = Running::new(poll(&format!("{}/x?y=1", server.url), &[], Wanted::Json), vec![]);
    assert_eq!(running.until_appended(3).await[..3], ["{\"v\":1}", "{\"v\":1}", "{\"v\":1}"]);
    assert!(running.is_connected());
    let asked = server.asked();
    assert!(asked.len() >= 5, "an empty answer is no row: {asked:?}");
    let host = server.url.trim_start_matches("http://");
    for line in ["get /x?y=1 http/1.1", &format!("host: {host}"), "accept: application/json", "accept-encoding: gzip"] {
        assert!(asked[0].contains(line), "{line} in {}", asked[0]);
    }
    assert!(!asked[1].contains("if-none-match"));
    running.stop().await;
}

#[tokio::test]
async fn with_emit_changed_only_what_differs_from_the_last_one_is_appended_also_after_a_restart() {
    let tagged = |tag: &str, body: &str| answer("200 OK", &[&format!("etag: \"{tag}\"")], body.as_bytes());
    let not_modified = || answer("304 Not Modified", &[], b"");
    let server =
        Server::new([tagged("1", "a"), not_modified(), tagged("2", "a"), tagged("3", "b"), not_modified()]).await;
    let changed = || poll(&server.url, &[("emit", "changed")], Wanted::Csv);
    let running = Running::new(changed(), vec![]);
    let asked = server.until_asked(6).await;
    assert_eq!(running.payloads(), ["a", "b"]);
    assert!(!asked[0].contains("if-none-match"));
    for (request, tag) in [(1, "\"1\""), (2, "\"1\""), (5, "\"3\"")] {
        assert!(asked[request].contains(&format!("if-none-match: {tag}")), "{}", asked[request]);
    }
    let resume = running.resume(&server.url);
    running.stop().await;

    // The job has come back: the log says what the last one was.
    let before = server.asked().len();
    server.then([tagged("3", "b"), tagged("4", "c"), not_modified()]);
    let running = Running::new(changed(), vec![resume]);
    let asked = server.until_asked(before + 3).await;
    assert!(asked[before].contains("if-none-match: \"3\""), "{}", asked[before]);
    assert_eq!(running.until_appended(1).await, ["c"]);
    running.stop().await;

    // A record that did not come into the log is not compared with.
    let before = server.asked().len();
    server.then([tagged("4", "c"), not_modified()]);
    let running = Running::new(changed(), vec![Resume { partition: server.url.clone(), ..Resume::default() }]);
    assert_eq!(running.until_appended(1).await, ["c"]);
    assert!(!server.asked()[before].contains("if-none-match"));
    running.stop().await;
}

#[tokio::test]
async fn every_failure_is_counted_by_its_kind_and_the_breaker_opens_and_closes() {
    let bomb = answer("200 OK", &["content-encoding: gzip"], &gzip(&vec![b' '; BODY_BYTES_MAX + 1]));
    let cases = [
        ("status", answer("500 Internal Server Error", &[], b"{\"v\":1}")),
        ("status", answer("401 Unauthorized", &[], b"")),
        ("status", answer("304 Not Modified", &[], b"")),
        ("http", Reply::Reset),
        ("http", Reply::Whole(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{\"v\"".to_vec())),
        ("http", Reply::Whole(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())),
        ("http", answer("200 OK", &[&format!("x-long: {}", "x".repeat(1_000_000))], b"")),
        ("timeout", Reply::Hang),
        ("timeout", Reply::Open(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{\"v\"".to_vec())),
        ("too_big", bomb),
        ("too_big", Reply::Whole(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", BODY_BYTES_MAX + 1).into())),
        ("content", answer("200 OK", &["content-encoding: br"], b"{}")),
        ("content", answer("200 OK", &["content-encoding: gzip"], b"{\"v\":1}")),
    ];
    // All at once: each waits for its breaker.
    let judged = cases.into_iter().map(|(kind, reply)| async move {
        let shown = format!("{reply:?}").chars().take(60).collect::<String>();
        let server = Server::new([reply]).await;
        let patience = if kind == "timeout" { "200 ms" } else { "10 s" };
        let running = Running::new(poll(&server.url, &[("timeout", patience)], Wanted::Json), vec![]);
        running.until_counted(kind, 5).await;
        let status = running.source.targets().remove(0);
        assert_eq!((status.breaker, status.breaker_level, status.connected), ("open", 2, false), "{shown}");
        assert!(status.failures >= 5 && status.error.is_some() && !running.is_connected(), "{shown}: {status:?}");
        assert_eq!(running.payloads(), [""; 0], "{shown}");
        server.then([ok("{\"v\":2}")]);
        assert_eq!(running.until_appended(1).await[0], "{\"v\":2}", "{shown}");
        let status = running.source.targets().remove(0);
        assert_eq!((status.breaker, status.connected, status.error), ("closed", true, None), "{shown}");
        assert!(running.is_connected());
        running.stop().await;
    });
    futures::future::join_all(judged).await;
}

#[tokio::test]
async fn a_stop_is_heard_while_a_server_hangs_and_while_nobody_is_there() {
    let server = Server::new([Reply::Hang]).await;
    let running = Running::new(poll(&server.url, &[("timeout", "1 minute")], Wanted::Json), vec![]);
    server.until_asked(1).await;
    running.stop().await;
    let url = server.url.clone();
    drop(server);
    let running = Running::new(poll(&url, &[], Wanted::Json), vec![]);
    running.until_counted("unreachable", 3).await;
    running.stop().await;
}

#[tokio::test]
async fn a_target_that_is_down_holds_up_no_other_and_the_source_is_connected_all_the_same() {
    let (good, hangs) = (Server::new([ok("{}")]).await, Server::new([Reply::Hang]).await);
    let urls = format!("{}/a, {}/b", good.url, hangs.url);
    let running = Running::new(poll(&urls, &[("timeout", "150 ms")], Wanted::Json), vec![]);
    running.until_counted("timeout", 2).await;
    running.until_appended(3).await;
    assert!(running.is_connected());
    let up: Vec<bool> = running.source.targets().into_iter().map(|target| target.connected).collect();
    assert_eq!(up, [true, false]);
    let partitions: Vec<String> = running.intake.chunks.lock().iter().map(|(partition, _)| partition.clone()).collect();
    assert!(partitions.iter().all(|partition| *partition == format!("{}/a", good.url)), "{partitions:?}");
    assert!(running.intake.calls.lock().contains(&format!("open {}/b", hangs.url)));
    running.stop().await;
}

#[tokio::test]
async fn a_scrape_reports_whether_the_target_is_up_with_every_beat() {
    let server = Server::new([answer("200 OK", &["content-encoding: gzip"], &gzip(b"t 1\n"))]).await;
    let running = Running::new(poll(&server.url, &[], Wanted::Prometheus), vec![]);
    let payloads = running.until_appended(2).await;
    assert_eq!(payloads[0], "t 1\n");
    assert!(payloads[1].starts_with("up 1\nscrape_duration_seconds 0."), "{}", payloads[1]);
    assert!(server.asked()[0].contains("accept: text/plain;version=0.0.4"));
    assert_eq!(running.intake.chunks.lock().len(), 1, "a scrape and its report are one record");
    server.then([answer("503 Service Unavailable", &["retry-after: 1"], b"")]);
    let asked = server.asked().len();
    eventually(|| (running.payloads().iter().filter(|payload| *payload == "up 0\n").count() >= 4).then_some(())).await;
    assert!(server.asked().len() <= asked + 3, "it is reported though the server is left alone");
    server.then([ok("t 2\n")]);
    eventually(|| running.payloads().contains(&"t 2\n".to_owned()).then_some(())).await;
    running.stop().await;
}

#[tokio::test]
async fn polls_keep_their_interval_and_never_overlap() {
    let server = Server::new([ok("{}")]).await;
    let begin = tokio::time::Instant::now();
    let running = Running::new(poll(&server.url, &[("interval", "300 ms")], Wanted::Json), vec![]);
    server.until_asked(5).await;
    // The first beat is anywhere in the first 300 ms, the second in the 300 ms behind it, then each is 300 ms behind the other.
    assert!(begin.elapsed() >= Duration::from_millis(900), "{:?}", begin.elapsed());
    running.stop().await;
}

#[tokio::test]
async fn who_we_are_is_sent_and_a_changed_file_counts_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("token");
    crate::tls::testing::write_file(&path, "first\n");
    let file = path.to_str().expect("a path");
    let server = Server::new([ok("{}")]).await;
    let more = [("token_file", file), ("header.x-site", "a b"), ("header.x-path_env", "PATH"), ("query.key", "k&y")];
    let running = Running::new(poll(&format!("{}/?a=1", server.url), &more, Wanted::Json), vec![]);
    let asked = server.until_asked(1).await;
    for line in ["authorization: bearer first\r\n", "x-site: a b\r\n", "x-path: /", "get /?a=1&key=k%26y http"] {
        assert!(asked[0].contains(line), "{line} in {}", asked[0]);
    }
    crate::tls::testing::write_file(&path, "second");
    eventually(|| server.asked().last().filter(|head| head.contains("bearer second")).map(|_| ())).await;
    std::fs::remove_file(&path).expect("a file");
    running.until_counted("secret", 1).await;
    let error = running.source.targets().remove(0).error.unwrap_or_default();
    assert!(error.contains("cannot read the secret in") && !error.contains("second"), "{error}");
    running.stop().await;

    let basic = [("username", "Aladdin"), ("password", "open sesame")];
    let running = Running::new(poll(&server.url, &basic, Wanted::Json), vec![]);
    eventually(|| {
        let asked = server.asked();
        asked.last().filter(|head| head.contains("basic qwxhzgrpbjpvcgvuihnlc2ftzq==")).map(|_| ())
    })
    .await;
    running.stop().await;
}

#[test]
fn options_that_cannot_be_meant_are_refused() {
    let refusal = |pairs: &[(&str, &str)]| {
        let mut options = options(pairs);
        let made = http_poll("s", &mut options, Wanted::Json, &context(""));
        made.err().or_else(|| options.finish().err()).map(|error| error.to_string()).unwrap_or_default()
    };
    let url = ("url", "http://localhost/");
    for (pairs, words) in [
        (vec![], "option url: is missing"),
        (vec![("url", "http://u:p@h/")], "credentials do not belong in the URL"),
        (vec![url, ("interval", "1 ms")], "option interval: 1ms is not between 100ms"),
        (vec![url, ("timeout", "1 hour")], "option timeout"),
        (vec![url, ("emit", "some")], "'all', 'changed'"),
        (vec![url, ("tls.ca", "x.pem")], "say https:// in the url"),
        (vec![url, ("password", "x")], "needs a username"),
        (vec![url, ("username", "x")], "needs a password"),
        (vec![url, ("token", "x"), ("username", "x"), ("password", "x")], "keep one of them"),
        (vec![url, ("token_header", "x-key")], "needs a token"),
        (vec![url, ("header.host", "x")], "option header.host: is written by the source itself"),
        (vec![url, ("header.a b", "x")], "is not the name of a header"),
        (vec![url, ("header.x", "a\nb")], "line feed"),
        (vec![url, ("header.", "x")], "no name behind its point"),
        (vec![url, ("header.x", "1"), ("header.X", "2")], "is given twice"),
        (vec![url, ("intervall", "1 s")], "did you mean interval?"),
    ] {
        let problem = refusal(&pairs);
        assert!(problem.contains(words), "{pairs:?}: {problem}");
    }
}

/// A date is a wish like any other: it was heard as none before, and the server was asked again at once.
#[tokio::test]
async fn a_date_in_retry_after_is_heard() {
    let server =
        Server::new([answer("503 Service Unavailable", &["retry-after: Sat, 06 Nov 2094 08:00:00 GMT"], b"")]).await;
    let running = Running::new(poll(&server.url, &[], Wanted::Json), vec![]);
    server.until_asked(1).await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(server.asked().len(), 1, "it is left alone for as long as it asks, up to five minutes");
    running.stop().await;
}
