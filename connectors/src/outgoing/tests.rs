//! The client against servers that lie, stumble, send us elsewhere and take their time.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use parking_lot::Mutex;
use tidemill_engine::clock::{Clock, ManualClock, SeededDice};
use tidemill_engine::source::BoxFuture;
use tidemill_engine::storage::MemoryStorage;
use tokio::time::Instant;
use url::Url;

use super::testing::{HANG, OK, Server};
use super::*;
use crate::options::{OptionError, Options};
use crate::tls::TlsServer;
use crate::tls::testing::{Authority, NOW_US};
use crate::{Context, HttpIngest};

/// Answers with the next of its lists, and the last one for ever.
struct Names(Mutex<Vec<Vec<SocketAddr>>>);

impl Names {
    fn new(answers: &[&[&str]], port: u16) -> Arc<Names> {
        let parse = |address: &&str| SocketAddr::new(address.parse().expect("an address"), port);
        Arc::new(Names(Mutex::new(answers.iter().map(|list| list.iter().map(parse).collect()).collect())))
    }
}

impl Resolver for Names {
    fn resolve<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            let mut answers = self.0.lock();
            Ok(if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() })
        })
    }
}

fn loopback() -> AddressPolicy {
    AddressPolicy::parse("127.0.0.0/8").expect("good")
}

fn ask(method: Method, url: Url) -> Ask {
    Ask { method, url, headers: HeaderMap::new(), body: Bytes::new() }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

async fn get(client: &HttpClient, url: Url) -> Result<(StatusCode, Bytes), OutgoingError> {
    let answer = client.send(ask(Method::GET, url), soon()).await?;
    let status = answer.status();
    Ok((status, read_body(answer.into_body(), 1_000, soon()).await?))
}

#[tokio::test]
async fn addresses_of_this_machine_are_connected_to_only_when_allowed_in_every_spelling() {
    let server = Server::start(&[OK; 20]).await;
    let port = server.address.port();
    let denied = HttpClient::new(Dialer::new(AddressPolicy::default(), None));
    let allowed = HttpClient::new(Dialer::new(loopback(), None));
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "%31%32%37.0.0.1",
        "１２７.0.0.1",
        "localhost",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
    ] {
        let url: Url = format!("http://{host}:{port}/").parse().expect(host);
        let problem = get(&denied, url.clone()).await.expect_err(host);
        assert!(matches!(problem, OutgoingError::Forbidden { .. }), "{host}: {problem}");
        assert!(problem.to_string().contains("a loopback address"), "{host}: {problem}");
        assert!(problem.to_string().contains("network.allow"), "{host}: {problem}");
        assert_eq!(server.seen.lock().len(), 0, "{host}");
        let (status, body) = get(&allowed, url).await.unwrap_or_else(|problem| panic!("{host}: {problem}"));
        assert_eq!((status, &body[..]), (StatusCode::OK, &b"ok"[..]), "{host}");
        server.seen.lock().clear();
    }
    for host in ["0.0.0.0", "0", "[::]", "169.254.169.254", "10.0.0.1", "[fd00:ec2::254]"] {
        let url: Url = format!("http://{host}:{port}/").parse().expect(host);
        let problem = get(&allowed, url).await.expect_err(host);
        assert!(matches!(problem, OutgoingError::Forbidden { .. }), "{host}: {problem}");
    }
}

#[tokio::test]
async fn a_name_is_judged_by_the_address_that_is_connected_to_each_time() {
    let server = Server::start(&[OK; 4]).await;
    let port = server.address.port();
    let url: Url = format!("http://rebinding.example:{port}/").parse().expect("a URL");
    // First it passes, then it leads inwards.
    let names = Names::new(&[&["127.0.0.2"], &["127.0.0.1"]], port);
    let only_second = AddressPolicy::parse("127.0.0.2").expect("good");
    let dialer = Dialer::new(only_second.clone(), None).with_resolver(names);
    // Each client has connections of its own, so it must connect anew.
    let first = get(&HttpClient::new(dialer.clone()), url.clone()).await;
    assert!(matches!(first, Err(OutgoingError::Connect { .. })), "nobody listens there: {first:?}");
    let second = get(&HttpClient::new(dialer), url.clone()).await;
    assert!(matches!(second, Err(OutgoingError::Forbidden { .. })), "{second:?}");
    assert_eq!(server.connections(), 0);
    let mixed = Names::new(&[&["127.0.0.1", "169.254.169.254"]], port);
    let problem = get(&HttpClient::new(Dialer::new(only_second, None).with_resolver(mixed)), url.clone()).await;
    assert!(matches!(problem, Err(OutgoingError::Forbidden { .. })), "{problem:?}");
    // What is allowed of several is used.
    let mixed = Names::new(&[&["10.0.0.1", "127.0.0.1"]], port);
    let got = get(&HttpClient::new(Dialer::new(loopback(), None).with_resolver(mixed)), url).await;
    assert_eq!(got.expect("an answer").0, StatusCode::OK);
}

#[tokio::test]
async fn redirects_stay_at_their_place_and_end() {
    let inner = Server::start(&[OK; 4]).await;
    let answer = |status: u16, location: &str| {
        format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nlocation: {location}\r\n\r\n")
    };
    let inward = format!("http://{}/secret", inner.address);
    for (method, first, words) in [
        (Method::GET, answer(302, &inward), "another place"),
        (Method::POST, answer(307, &inward), "another place"),
        (Method::GET, answer(302, "http://169.254.169.254/latest/meta-data"), "another place"),
        (Method::GET, answer(302, "//localhost/x"), "another place"),
        (Method::GET, answer(302, "file:///etc/passwd"), "another place"),
        (Method::GET, answer(302, "http://["), "no URL"),
        (Method::GET, "HTTP/1.1 302 x\r\ncontent-length: 0\r\n\r\n".to_owned(), "does not say where to"),
    ] {
        let server = Server::start(&[&first, OK]).await;
        let client = HttpClient::new(Dialer::new(loopback(), None));
        let problem = client.send(ask(method, server.url("/a")), soon()).await.expect_err(&first);
        assert!(problem.to_string().contains(words), "{first}: {problem}");
        assert_eq!(inner.connections(), 0, "{first}");
    }
    let client = HttpClient::new(Dialer::new(loopback(), None));
    let server = Server::start(&[&answer(301, "/b"), &answer(308, "c?d=e"), OK]).await;
    assert_eq!(get(&client, server.url("/a")).await.expect("an answer").0, StatusCode::OK);
    let paths: Vec<String> =
        server.seen.lock().iter().map(|seen| seen.split(' ').nth(1).expect("a path").to_owned()).collect();
    assert_eq!(paths, ["/a", "/b", "/c?d=e"]);
    // What is delivered is not turned into a question.
    let server = Server::start(&[&answer(303, "/b"), OK]).await;
    let got = client.send(ask(Method::POST, server.url("/a")), soon()).await.expect("an answer");
    assert_eq!(got.status(), StatusCode::SEE_OTHER);
    let round = answer(307, "/a");
    let server = Server::start(&[round.as_str(); 20]).await;
    let problem = client.send(ask(Method::PUT, server.url("/a")), soon()).await.expect_err("for ever");
    assert_eq!(problem.to_string(), "the server sends us on more than 5 times");
    assert_eq!(server.seen.lock().len(), REDIRECTS_MAX + 1);
}

#[tokio::test]
async fn answers_that_are_too_long_too_late_or_no_http_are_told() {
    let client = HttpClient::new(Dialer::new(loopback(), None));
    let long = format!("HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\n{}", "x".repeat(2_000));
    let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(200_000));
    for (answer, words) in [
        (long.as_str(), "the answer has more than 1000 bytes"),
        (head.as_str(), "the connection broke off: "),
        ("SSH-2.0-x\r\n\u{4}", "the connection broke off: "),
        ("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nhalf\u{4}", "the connection broke off: "),
    ] {
        let server = Server::start(&[answer]).await;
        let problem = get(&client, server.url("/")).await.expect_err(words).to_string();
        assert!(problem.starts_with(words), "{problem}");
    }
    let server = Server::start(&[HANG]).await;
    let until = Instant::now() + Duration::from_millis(100);
    let problem = client.send(ask(Method::GET, server.url("/")), until).await.expect_err("no answer");
    assert!(matches!(problem, OutgoingError::TimedOut), "{problem}");
    let nobody: Url = "http://127.0.0.1:1/".parse().expect("a URL");
    let problem = get(&client, nobody).await.expect_err("nobody").to_string();
    assert!(problem.starts_with("cannot connect to 127.0.0.1:1: "), "{problem}");
    let nameless: Url = "http://no-such-name.invalid/".parse().expect("a URL");
    let problem = get(&client, nameless).await.expect_err("nobody").to_string();
    assert!(problem.starts_with("cannot find the address of no-such-name.invalid"), "{problem}");
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let server = Server::start(&[OK; 5]).await;
    let client = HttpClient::new(Dialer::new(loopback(), None));
    for _ in 0..5 {
        get(&client, server.url("/")).await.expect("an answer");
    }
    assert_eq!((server.connections(), server.seen.lock().len()), (1, 5));
}

fn context(network: AddressPolicy) -> Context {
    Context {
        storage: Arc::new(MemoryStorage::default()),
        base_dir: "/nowhere".into(),
        clock: Arc::new(ManualClock::at(NOW_US)),
        dice: Arc::new(SeededDice::new(1)),
        http: HttpIngest::new(),
        local_brokers: Default::default(),
        network,
    }
}

fn endpoint(url: &str, options: &[(&str, &str)], context: &Context) -> Result<(Url, Endpoint), OptionError> {
    let mut options = Options::new(options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    let url = parse_url(url, context)?;
    let endpoint = Endpoint::take(&url, &mut options, context)?;
    options.finish()?;
    Ok((url, endpoint))
}

#[tokio::test]
async fn tls_trusts_the_authority_that_is_named_and_takes_the_name_that_is_told() {
    let authority = Authority::new("ours");
    let pair = authority.issue("receiver.example");
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW_US));
    let server = || TlsServer::new(pair.certificates.clone(), pair.key.clone(), None, &clock);
    let ca = authority.certificate();
    let ca = ca.to_str().expect("a path");
    let context = context(loopback());
    for (options, expected) in [
        (vec![("tls.ca", ca), ("tls.server_name", "receiver.example")], None),
        (vec![("tls.ca", ca)], Some("is for receiver.example, not for 127.0.0.1")),
        (vec![("tls.server_name", "receiver.example")], Some("issued by nobody we trust")),
    ] {
        let server = Server::with_tls(&[OK], Some(server())).await;
        let (url, endpoint) =
            endpoint(&format!("https://127.0.0.1:{}/", server.address.port()), &options, &context).expect("good");
        let got = endpoint.send(Method::POST, url, HeaderMap::new(), Bytes::from_static(b"x")).await;
        match (got, expected) {
            (Ok((answer, _)), None) => assert_eq!(answer.status(), StatusCode::OK),
            (Err(problem), Some(words)) => assert!(problem.to_string().contains(words), "{problem}"),
            (got, _) => panic!("{options:?}: {got:?}"),
        }
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"no TLS here\r\n\r\n").await;
        std::future::pending::<()>().await;
    });
    let (url, endpoint) = endpoint(&format!("https://127.0.0.1:{port}/"), &[("tls.ca", ca)], &context).expect("good");
    let problem = endpoint.send(Method::GET, url, HeaderMap::new(), Bytes::new()).await.expect_err("no TLS");
    assert!(problem.to_string().contains("does not speak TLS at this port"), "{problem}");
}

#[tokio::test]
async fn headers_and_credentials_are_sent_and_never_shown() {
    let context = context(loopback());
    for (options, header, value) in [
        (vec![("token", "s3cret")], "authorization", "Bearer s3cret"),
        (vec![("token", "s3cret"), ("token_header", "X-API-Key")], "x-api-key", "s3cret"),
        (vec![("username", "me"), ("password", "s3cret")], "authorization", "Basic bWU6czNjcmV0"),
        (vec![("header.X-Plant", "north 1")], "x-plant", "north 1"),
    ] {
        let server = Server::start(&[OK]).await;
        let (url, endpoint) = endpoint(server.url("/in?a=b").as_str(), &options, &context).expect("good");
        let own = HeaderMap::from_iter([("idempotency-key".parse().expect("a name"), HeaderValue::from_static("k"))]);
        let (answer, _) = endpoint.send(Method::PUT, url, own, Bytes::from_static(b"[1]")).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        let seen = server.seen.lock()[0].to_lowercase();
        let wanted = format!("\r\n{header}: {}\r\n", value.to_lowercase());
        assert!(seen.contains(&wanted), "{seen}");
        assert!(seen.starts_with("put /in?a=b http/1.1\r\n") && seen.ends_with("\r\n\r\n[1]"), "{seen}");
        assert!(seen.contains("\r\nidempotency-key: k\r\n") && seen.contains("\r\nuser-agent: tidemill/"), "{seen}");
        let shown = format!("{endpoint:?} {:?}", endpoint.headers().await.expect("headers").get(AUTHORIZATION));
        assert!(!shown.contains("s3cret") && !shown.contains("bWU6"), "{shown}");
    }
    let (url, endpoint) =
        endpoint("https://example.com", &[("token_env", "TIDEMILL_NO_SUCH_VARIABLE")], &context).expect("good");
    let problem = endpoint.send(Method::GET, url, HeaderMap::new(), Bytes::new()).await.expect_err("not set");
    assert!(problem.to_string().contains("TIDEMILL_NO_SUCH_VARIABLE is not set"), "{problem}");
}

#[test]
fn mistakes_name_the_option_and_the_remedy() {
    let context = context(AddressPolicy::default());
    for (url, words) in [
        ("example.com/x", "is not a URL: "),
        ("ftp://example.com", "is not a URL of HTTP"),
        ("https://", "is not a URL: "),
        ("https://me:pw@example.com", "say them by username and password_env"),
        ("https://example.com/#x", "write %23"),
        ("https://example.com:0/", "the port 0"),
        ("http://localhost:8080/", "127.0.0.1 is a loopback address"),
        ("http://192.168.1.4/", "add \"192.168.1.4\" to network.allow"),
        ("http://0x7f.1/", "127.0.0.1 is a loopback address"),
    ] {
        let problem = parse_url(url, &context).expect_err(url).to_string();
        assert!(problem.starts_with("option url: ") && problem.contains(words), "{url}: {problem}");
    }
    for (options, words) in [
        (vec![("header.bad name", "x")], "option header.bad name: \"bad name\" is not the name of a header"),
        (vec![("header.x", "a\r\nb: c")], "option header.x: holds a line break"),
        (vec![("header.Host", "x")], "is written by the program itself"),
        (vec![("token", "x"), ("password", "y")], "keep one of them"),
        (vec![("token", "x"), ("header.Authorization", "y")], "says what token or password says already"),
        (vec![("username", "x")], "needs a password beside it"),
        (vec![("password", "x")], "needs a username beside it"),
        (vec![("token_header", "x")], "needs a token beside it"),
        (vec![("token", "x"), ("token_header", "a b")], "is not the name of a header"),
        (vec![("timeout", "0 s")], "longer than nothing"),
        (vec![("timeout", "1 day")], "at most '10 minutes'"),
        (vec![("tokn", "x")], "did you mean token?"),
    ] {
        let problem = endpoint("https://example.com/x", &options, &context).expect_err(words).to_string();
        assert!(problem.contains(words), "{options:?}: {problem}");
    }
    let problem = endpoint("http://example.com/x", &[("tls.ca", "x")], &context).expect_err("no TLS").to_string();
    assert!(problem.contains("say https:// in the url"), "{problem}");
}

#[test]
fn fuzz_no_url_that_is_taken_leads_inward_by_an_address_of_its_own() {
    const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/outgoing/corpus/url");
    let context = context(AddressPolicy::default());
    tidemill_engine::testing::fuzz::fuzz(CORPUS, |input| {
        let Ok(url) = parse_url(&String::from_utf8_lossy(input), &context) else { return false };
        assert!(matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none());
        match url.host() {
            Some(url::Host::Ipv4(address)) => assert_eq!(address::special(address.into()), None, "{url}"),
            Some(url::Host::Ipv6(address)) => assert_eq!(address::special(address.into()), None, "{url}"),
            Some(url::Host::Domain(name)) => assert!(!name.is_empty() && name != "localhost", "{url}"),
            None => panic!("no host: {url}"),
        }
        true
    });
}

#[test]
fn fuzz_a_list_of_networks_allows_what_is_written_and_no_metadata_by_accident() {
    const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/outgoing/corpus/network");
    tidemill_engine::testing::fuzz::fuzz(CORPUS, |input| {
        let text = String::from_utf8_lossy(input);
        let Ok(policy) = AddressPolicy::parse(&text) else { return false };
        let metadata = "169.254.169.254";
        let names_it = text.contains(metadata) || text.to_lowercase().contains("a9fe");
        assert!(names_it || policy.check(metadata.parse().expect("an address")).is_err(), "{text}");
        policy.check("8.8.8.8".parse().expect("an address")).is_ok()
    });
}
