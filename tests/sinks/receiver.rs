//! An HTTP receiver that remembers idempotency keys, and misbehaves as it is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::DELIVERY_MAX;
use crate::harness::wait::while_it_moves;

/// What it does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Takes it, and says so.
    Takes,
    /// Does not take it, and answers with a status.
    Answers(u16),
    /// Takes it, and answers 500 all the same.
    TakesAndFails,
    /// Takes it, and the connection breaks off before the answer.
    TakesAndResets,
    /// Reads it, and never answers.
    Hangs,
    /// Breaks off at once.
    Resets,
    /// Sends the sender on.
    Redirects(String),
}

/// What it has.
#[derive(Default)]
struct Taken {
    /// The body of each key.
    bodies: BTreeMap<String, String>,
    /// The numbers of the rows of new keys, as they came.
    numbers: Vec<u64>,
    requests: usize,
    /// What must not be.
    offences: Vec<String>,
}

/// A receiver on a port of its own. Dropping it ends it.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    mood: Arc<Mutex<Mood>>,
    taken: Arc<Mutex<Taken>>,
    connections: Arc<AtomicUsize>,
    listening: JoinHandle<()>,
}

impl Receiver {
    pub(crate) async fn start() -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (mood, taken) = (Arc::new(Mutex::new(Mood::Takes)), Arc::<Mutex<Taken>>::default());
        let connections = Arc::<AtomicUsize>::default();
        let (of_mood, of_taken, count) = (Arc::clone(&mood), Arc::clone(&taken), Arc::clone(&connections));
        let listening = tokio::spawn(async move {
            let mut conversations = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                conversations.spawn(converse(stream, Arc::clone(&of_mood), Arc::clone(&of_taken)));
            }
        });
        Receiver { address, mood, taken, connections, listening }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/in", self.address)
    }

    pub(crate) fn becomes(&self, mood: Mood) {
        *self.mood.lock().expect("no holder panics") = mood;
    }

    /// The numbers of the rows it has, as they came first.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        let taken = self.taken.lock().expect("no holder panics");
        assert!(taken.offences.is_empty(), "{:?}", taken.offences);
        taken.numbers.clone()
    }

    pub(crate) fn requests(&self) -> usize {
        self.taken.lock().expect("no holder panics").requests
    }

    pub(crate) fn keys(&self) -> usize {
        self.taken.lock().expect("no holder panics").bodies.len()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Waits until it has so many rows.
    pub(crate) async fn saw(&self, count: usize) {
        while_it_moves(&format!("{count} rows have arrived"), DELIVERY_MAX, async || {
            let so_far = self.numbers().len();
            if so_far >= count { Ok(()) } else { Err(so_far) }
        })
        .await;
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn converse(mut stream: TcpStream, mood: Arc<Mutex<Mood>>, taken: Arc<Mutex<Taken>>) {
    while let Some((key, body)) = read_request(&mut stream).await {
        let mood = mood.lock().expect("no holder panics").clone();
        let takes = matches!(mood, Mood::Takes | Mood::TakesAndFails | Mood::TakesAndResets);
        taken.lock().expect("no holder panics").note(key, body, takes);
        let answer = match mood {
            Mood::Takes => "204 No Content".to_owned(),
            Mood::TakesAndFails => "500 x".to_owned(),
            Mood::Answers(status) => format!("{status} x"),
            Mood::Redirects(to) => format!("307 x\r\nlocation: {to}"),
            Mood::Hangs => return std::future::pending().await,
            Mood::Resets | Mood::TakesAndResets => return,
        };
        if stream.write_all(format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await.is_err() {
            return;
        }
    }
}

impl Taken {
    fn note(&mut self, key: String, body: String, takes: bool) {
        self.requests += 1;
        if key.is_empty() {
            self.offences.push(format!("no key: {body}"));
        }
        match self.bodies.get(&key) {
            Some(before) if *before != body => self.offences.push(format!("{key} was {before} and is {body}")),
            Some(_) => {}
            None if takes => {
                let rows: Result<Vec<Value>, _> = serde_json::from_str(&body);
                match rows {
                    Ok(rows) => self.numbers.extend(rows.iter().filter_map(|row| row["n"].as_u64())),
                    Err(error) => self.offences.push(format!("{error}: {body}")),
                }
                self.bodies.insert(key, body);
            }
            None => {}
        }
    }
}

/// Reads a request: its key and its body.
async fn read_request(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            if body.len() >= header("content-length: ").parse::<usize>().expect("a length") {
                return Some((header("idempotency-key: ").to_owned(), body.to_owned()));
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
