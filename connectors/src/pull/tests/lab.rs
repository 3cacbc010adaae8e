//! A server that does what a list says, and a source that runs against it.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use parking_lot::Mutex;
use tidemill_engine::clock::{SeededDice, SystemClock};
use tidemill_engine::source::{Chunk, Intake, Note, Resume, Source, SourceError, Stop};
use tidemill_engine::storage::MemoryStorage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::options::Options;
use crate::outgoing::AddressPolicy;
use crate::testing::TestIntake;
use crate::{Context, HttpIngest};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the server does with one request.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// Writes this, and closes.
    Whole(Vec<u8>),
    /// Writes this, and keeps the connection.
    Open(Vec<u8>),
    /// Says nothing, and keeps the connection.
    Hang,
    /// Resets the connection.
    Reset,
}

/// Makes an answer with a body.
pub(super) fn answer(status: &str, headers: &[&str], body: &[u8]) -> Reply {
    let mut whole = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n", body.len()).into_bytes();
    for header in headers {
        let _ = write!(whole, "{header}\r\n");
    }
    whole.extend_from_slice(b"\r\n");
    whole.extend_from_slice(body);
    Reply::Whole(whole)
}

pub(super) fn ok(body: &str) -> Reply {
    answer("200 OK", &[], body.as_bytes())
}

pub(super) fn redirect(to: &str) -> Reply {
    answer("302 Found", &[&format!("location: {to}")], b"")
}

/// The head of an event stream and what follows it.
pub(super) fn stream(events: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{events}").into_bytes()
}

pub(super) fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

/// A server that answers each request with the next reply; the last one is repeated for ever.
pub(super) struct Server {
    pub(super) url: String,
    asked: Arc<Mutex<Vec<String>>>,
    replies: Arc<Mutex<VecDeque<Reply>>>,
    serving: JoinHandle<()>,
}

impl Server {
    pub(super) async fn new(replies: impl IntoIterator<Item = Reply>) -> Server {
        Server::at(Ipv4Addr::LOCALHOST, replies).await
    }

    pub(super) async fn at(address: Ipv4Addr, replies: impl IntoIterator<Item = Reply>) -> Server {
        let listener = TcpListener::bind((address, 0)).await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let replies = Arc::new(Mutex::new(replies.into_iter().collect()));
        let serving = tokio::spawn(serve(listener, Arc::clone(&asked), Arc::clone(&replies)));
        Server { url, asked, replies, serving }
    }

    /// Gives it other replies from now on.
    pub(super) fn then(&self, replies: impl IntoIterator<Item = Reply>) {
        *self.replies.lock() = replies.into_iter().collect();
    }

    /// Returns the heads of the requests so far, in lower case.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }

    /// Waits until it was asked so often.
    pub(super) async fn until_asked(&self, count: usize) -> Vec<String> {
        eventually(|| Some(self.asked()).filter(|asked| asked.len() >= count)).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, asked: Arc<Mutex<Vec<String>>>, replies: Arc<Mutex<VecDeque<Reply>>>) {
    let mut open = Vec::new();
    loop {
        let Ok((mut socket, _)) = listener.accept().await else { return };
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match socket.read_buf(&mut head).await {
                Ok(1..) => {}
                _ => break,
            }
        }
        asked.lock().push(String::from_utf8_lossy(&head).to_lowercase());
        let reply = {
            let mut replies = replies.lock();
            if replies.len() > 1 { replies.pop_front() } else { replies.front().cloned() }
        };
        match reply.expect("a reply") {
            Reply::Whole(bytes) => {
                // Who has read enough hangs up.
                let _ = socket.write_all(&bytes).await;
                let _ = socket.shutdown().await;
            }
            Reply::Open(bytes) => {
                socket.write_all(&bytes).await.expect("a reader");
                open.push(socket);
            }
            Reply::Hang => open.push(socket),
            Reply::Reset => reset(socket),
        }
    }
}

fn reset(socket: TcpStream) {
    socket.set_zero_linger().expect("a socket");
}

/// Looks again and again.
pub(super) async fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, looking).await.expect("it comes about in time")
}

/// A context in which `allow` may be reached by whatever outgoing requests may reach.
pub(super) fn context(allow: &str) -> Context {
    Context {
        storage: Arc::new(MemoryStorage::default()),
        base_dir: std::env::temp_dir(),
        clock: Arc::new(SystemClock),
        dice: Arc::new(SeededDice::new(7)),
        http: HttpIngest::new(),
        local_brokers: Default::default(),
        network: AddressPolicy::parse(allow).expect("networks"),
    }
}

pub(super) fn options(pairs: &[(&str, &str)]) -> Options {
    Options::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
}

/// A source that runs before an intake in memory.
pub(super) struct Running {
    pub(super) source: Arc<dyn Source>,
    pub(super) intake: Arc<TestIntake>,
    stop: Stop,
    running: JoinHandle<Result<(), SourceError>>,
}

impl Running {
    pub(super) fn new(source: impl Source, resume: Vec<Resume>) -> Running {
        let (source, intake, stop) = (Arc::new(source) as Arc<dyn Source>, Arc::<TestIntake>::default(), Stop::new());
        let running = {
            let (source, intake, stop) = (Arc::clone(&source), Arc::clone(&intake) as Arc<dyn Intake>, stop.clone());
            tokio::spawn(async move { source.run(intake, resume, stop).await })
        };
        Running { source, intake, stop, running }
    }

    /// Waits until so many messages were appended; returns their payloads.
    pub(super) async fn until_appended(&self, count: usize) -> Vec<String> {
        eventually(|| Some(self.payloads()).filter(|payloads| payloads.len() >= count)).await
    }

    pub(super) fn payloads(&self) -> Vec<String> {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        self.intake.messages().iter().map(|message| text(&message.payload)).collect()
    }

    /// Waits until something bad was counted so often.
    pub(super) async fn until_counted(&self, kind: &str, count: u64) {
        let counting = async {
            while self.counted(kind) < count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if timeout(PATIENCE, counting).await.is_err() {
            panic!("{kind} is counted {count} times: {:?}", self.intake.errors.lock());
        }
    }

    pub(super) fn counted(&self, kind: &str) -> u64 {
        self.intake.errors.lock().get(kind).copied().unwrap_or(0)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.intake.connected.load(Ordering::SeqCst)
    }

    /// What a restart would know of a partition.
    pub(super) fn resume(&self, partition: &str) -> Resume {
        let mut notes: BTreeMap<Bytes, Bytes> = BTreeMap::new();
        for (of, chunk) in self.intake.chunks.lock().iter().filter(|(of, _)| of == partition) {
            let Chunk::Noted(_, noted) = chunk else { continue };
            assert_eq!(of, partition);
            for Note { key, value } in noted {
                match value.is_empty() {
                    true => notes.remove(key),
                    false => notes.insert(key.clone(), value.clone()),
                };
            }
        }
        Resume { partition: partition.to_owned(), notes, ..Resume::default() }
    }

    /// Stops it, and expects that it ends at once and well.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        // Two seconds in which this process runs: a pause of the machine counts as little.
        for _ in 0..1_000 {
            if self.running.is_finished() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(self.running.is_finished(), "a stop is heard");
        self.running.await.expect("no panic").expect("it ends well");
    }
}
