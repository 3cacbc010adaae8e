//! A server for tests: it answers as it is told, and keeps what it was sent.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use url::Url;

use crate::tls::TlsServer;

/// Says nothing, and goes on saying it.
pub(crate) const HANG: &str = "";
/// Stands behind an answer after which the connection is closed.
pub(crate) const CLOSE: char = '\u{4}';
/// Takes everything.
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Makes an answer of a request, as it was sent; with `None` the connection breaks off.
type Handler = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// A server on a port of its own, until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    listening: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Starts one that answers each request with the next of its texts, and then breaks off.
    pub(crate) async fn start(answers: &[&str]) -> Server {
        Server::with_tls(answers, None).await
    }

    pub(crate) async fn with_tls(answers: &[&str], tls: Option<TlsServer>) -> Server {
        let answers: VecDeque<String> = answers.iter().map(|text| (*text).to_owned()).collect();
        let answers = Mutex::new(answers);
        Server::run(Arc::new(move |_: &str| answers.lock().pop_front()), tls).await
    }

    /// Starts one that makes an answer of each request.
    pub(crate) async fn answering(handler: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Server {
        Server::run(Arc::new(handler), None).await
    }

    async fn run(handler: Handler, tls: Option<TlsServer>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (seen, connections) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicUsize>::default());
        let (seen_by, count) = (Arc::clone(&seen), Arc::clone(&connections));
        let listening = tokio::spawn(async move {
            let mut conversations = tokio::task::JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (handler, seen) = (Arc::clone(&handler), Arc::clone(&seen_by));
                match &tls {
                    None => drop(conversations.spawn(serve(tcp, handler, seen))),
                    Some(tls) => {
                        let acceptor = tokio_rustls::TlsAcceptor::from(tls.config().await.expect("good files"));
                        conversations.spawn(async move {
                            if let Ok(stream) = acceptor.accept(tcp).await {
                                serve(stream, handler, seen).await;
                            }
                        });
                    }
                }
            }
        });
        Server { address, seen, connections, listening }
    }

    pub(crate) fn url(&self, path: &str) -> Url {
        format!("http://{}{path}", self.address).parse().expect("a URL")
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, handler: Handler, seen: Arc<Mutex<Vec<String>>>) {
    while let Some(request) = read_request(&mut stream).await {
        let answer = handler(&request);
        seen.lock().push(request);
        let Some(answer) = answer else { return };
        if answer == HANG {
            return std::future::pending().await;
        }
        let whole = answer.trim_end_matches(CLOSE);
        if stream.write_all(whole.as_bytes()).await.is_err() || whole != answer {
            return;
        }
    }
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
            if body.len() >= length.parse::<usize>().expect("a length") {
                return Some(text);
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
