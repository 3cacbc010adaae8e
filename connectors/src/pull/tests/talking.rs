//! WebSockets, against a server of the same library, and against what is none.

use std::sync::Arc;

use futures::{SinkExt, StreamExt};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

use super::lab::{Reply, Running, Server, answer, context, eventually, options, redirect};
use crate::pull::websocket::MESSAGE_BYTES_MAX;
use crate::pull::{WebsocketSource, websocket};

fn source(url: &str, more: &[(&str, &str)]) -> WebsocketSource {
    let mut options = options(&[&[("url", url)], more].concat());
    let source = websocket("s", &mut options, &context("")).expect("good options");
    options.finish().expect("no other options");
    source
}

/// What a server does with a connection, by its number.
type Script = fn(usize, WebSocketStream<TcpStream>, Arc<Mutex<Vec<String>>>) -> futures::future::BoxFuture<'static, ()>;

/// A server that lets a script talk; what it hears is kept, the request line first.
struct Talker {
    url: String,
    heard: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl Talker {
    async fn new(script: Script) -> Talker {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("ws://{}", listener.local_addr().expect("an address"));
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let serving = {
            let heard = Arc::clone(&heard);
            tokio::spawn(async move {
                for number in 0.. {
                    let (tcp, _) = listener.accept().await.expect("a client");
                    let asked = Arc::clone(&heard);
                    #[expect(clippy::result_large_err, reason = "the library's type")]
                    let look = |request: &Request, response: Response| {
                        let token = request.headers().get("authorization").map(|value| value.to_str().unwrap_or("?"));
                        asked.lock().push(format!("{} {}", request.uri(), token.unwrap_or_default()));
                        Ok(response)
                    };
                    let socket = accept_hdr_async(tcp, look).await.expect("a handshake");
                    tokio::spawn(script(number, socket, Arc::clone(&heard)));
                }
            })
        };
        Talker { url, heard, serving }
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[tokio::test]
async fn messages_come_after_our_own_and_again_after_the_server_has_gone() {
    let talker = Talker::new(|number, mut socket, heard| {
        Box::pin(async move {
            for _ in 0..2 {
                let Some(Ok(Frame::Text(text))) = socket.next().await else { panic!("a subscription") };
                heard.lock().push(text.to_string());
            }
            socket.send(Frame::text(format!("{{\"n\":{number}}}"))).await.expect("a listener");
            socket.send(Frame::Ping("x".into())).await.expect("a listener");
            socket.send(Frame::binary(vec![b'{', b'}'])).await.expect("a listener");
            let Some(Ok(Frame::Pong(pong))) = socket.next().await else { panic!("a pong") };
            assert_eq!(&pong[..], b"x");
            match number {
                0 => socket.close(None).await.expect("a good-bye"),
                1 => drop(socket),
                _ => assert!(!matches!(socket.next().await, Some(Ok(Frame::Text(_))))),
            }
        })
    })
    .await;
    let more = [("subscribe", "{\"op\":\"a\"}\n\n{\"op\":\"b\"}"), ("token", "t"), ("query.key", "k")];
    let running = Running::new(source(&format!("{}/feed", talker.url), &more), vec![]);
    assert_eq!(running.until_appended(6).await, ["{\"n\":0}", "{}", "{\"n\":1}", "{}", "{\"n\":2}", "{}"]);
    let expected = ["/feed?key=k Bearer t", "{\"op\":\"a\"}", "{\"op\":\"b\"}"];
    assert_eq!(talker.heard.lock()[..3], expected);
    assert_eq!(running.counted("disconnected"), 2);
    assert!(running.is_connected());
    running.stop().await;
}

#[tokio::test]
async fn who_says_nothing_is_pinged_and_who_does_not_answer_is_left() {
    let talker = Talker::new(|number, mut socket, heard| {
        Box::pin(async move {
            if number == 0 {
                // It lives, and has nothing to say: the library answers pings while it reads.
                for _ in 0..2 {
                    let Some(Ok(Frame::Ping(_))) = socket.next().await else { panic!("a ping") };
                    heard.lock().push("ping".to_owned());
                }
            }
            // Nobody reads any more: pings are not answered.
            std::future::pending::<()>().await;
        })
    })
    .await;
    let running = Running::new(source(&talker.url, &[("silence", "1 s")]), vec![]);
    running.until_counted("silence", 1).await;
    assert_eq!(talker.heard.lock()[1..3], ["ping", "ping"]);
    running.stop().await;
}

#[tokio::test]
async fn a_message_that_is_too_big_ends_the_connection_and_no_more() {
    let talker = Talker::new(|number, mut socket, _| {
        Box::pin(async move {
            if number == 0 {
                // The other side hangs up before it has read all of it.
                let _ = socket.send(Frame::binary(vec![b' '; MESSAGE_BYTES_MAX + 1])).await;
            } else {
                socket.send(Frame::text("{}")).await.expect("a listener");
            }
            while let Some(Ok(_)) = socket.next().await {}
        })
    })
    .await;
    let running = Running::new(source(&talker.url, &[]), vec![]);
    assert_eq!(running.until_appended(1).await[0], "{}");
    assert_eq!(running.counted("too_big"), 1);
    running.stop().await;
}

#[tokio::test]
async fn thousands_of_messages_come_in_order_and_in_few_records() {
    let talker = Talker::new(|_, mut socket, _| {
        Box::pin(async move {
            for n in 0..20_000 {
                socket.feed(Frame::text(n.to_string())).await.expect("a listener");
            }
            socket.flush().await.expect("a listener");
            while let Some(Ok(_)) = socket.next().await {}
        })
    })
    .await;
    let running = Running::new(source(&talker.url, &[]), vec![]);
    let payloads = running.until_appended(20_000).await;
    assert!(payloads.iter().enumerate().all(|(at, payload)| *payload == at.to_string()));
    let chunks = running.intake.chunks.lock().len();
    assert!(chunks < 5_000, "{chunks} records for 20,000 messages");
    running.stop().await;
}

#[tokio::test]
async fn what_is_no_websocket_says_why() {
    for (kind, reply, words) in [
        ("status", answer("401 Unauthorized", &[], b""), "401 in place of 101: say who we are"),
        ("status", redirect("wss://h/"), "a redirect is not followed"),
        ("status", answer("200 OK", &[], b"{}"), "200 in place of 101"),
        ("http", Reply::Whole(b"hello\r\n\r\n".to_vec()), "no WebSocket handshake"),
        ("timeout", Reply::Hang, "no answer within"),
    ] {
        let server = Server::new([reply]).await;
        let url = server.url.replace("http://", "ws://");
        let running = Running::new(source(&url, &[("timeout", "200 ms")]), vec![]);
        running.until_counted(kind, 1).await;
        let error = running.source.targets().remove(0).error.unwrap_or_default();
        assert!(error.contains(words), "{error}");
        running.stop().await;
    }
}

#[tokio::test]
async fn a_stop_says_good_bye() {
    let talker = Talker::new(|_, mut socket, heard| {
        Box::pin(async move {
            socket.send(Frame::text("{}")).await.expect("a listener");
            while let Some(Ok(frame)) = socket.next().await {
                heard.lock().push(format!("close: {}", frame.is_close()));
            }
        })
    })
    .await;
    let running = Running::new(source(&talker.url, &[]), vec![]);
    running.until_appended(1).await;
    running.stop().await;
    eventually(|| talker.heard.lock().contains(&"close: true".to_owned()).then_some(())).await;
}
