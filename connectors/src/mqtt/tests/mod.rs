//! What the tests share: an intake whose receipts the test gives out, and raw peers that speak bytes.

mod bytes;
mod client;
mod exactly_once;
mod guests;
mod kept;
mod lab;
mod listener;
mod members;
mod model;
mod mosquitto;
mod packets;
mod transport;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ::bytes::Bytes;
use parking_lot::Mutex;
use tidemill_engine::clock::{ManualClock, SeededDice};
use tidemill_engine::source::{Appended, BoxFuture, Chunk, Intake, IntakeError, Message, Offset, Receipt};
use tidemill_engine::storage::{AppendFile, Entry, Storage, StorageError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use crate::{Context, Options};

/// No wait of a test for one thing lasts longer, whoever else uses the machine: then something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

#[derive(Default)]
struct Inner {
    chunks: Vec<Vec<Message>>,
    /// What the log knows beside them.
    notes: BTreeMap<Bytes, Bytes>,
    open: VecDeque<oneshot::Sender<Result<Appended, IntakeError>>>,
    by_itself: bool,
    blocked: bool,
    errors: Vec<&'static str>,
    connected: bool,
    partitions: Vec<String>,
}

/// An intake whose receipts resolve when the test says so.
#[derive(Default)]
struct HandIntake {
    inner: Mutex<Inner>,
    changed: Notify,
}

impl HandIntake {
    /// Everything is durable at once.
    fn by_itself() -> Arc<Self> {
        let intake = HandIntake::default();
        intake.inner.lock().by_itself = true;
        Arc::new(intake)
    }

    /// Nothing is durable before [`HandIntake::release`].
    fn by_hand() -> Arc<Self> {
        Arc::default()
    }

    /// Resolves the oldest `count` receipts.
    fn release(&self, count: usize) {
        for _ in 0..count {
            let receipt = self.inner.lock().open.pop_front().expect("a receipt is open");
            let _ = receipt.send(Ok(appended()));
        }
    }

    /// Fails the oldest receipt.
    fn fail(&self) {
        let receipt = self.inner.lock().open.pop_front().expect("a receipt is open");
        let _ = receipt.send(Err(IntakeError::LogFailed("no space".to_owned())));
    }

    fn block(&self, blocked: bool) {
        self.inner.lock().blocked = blocked;
        self.changed.notify_waiters();
    }

    async fn until(&self, what: &str, holds: impl Fn(&Inner) -> bool) {
        soon(what, async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if holds(&self.inner.lock()) {
                    return;
                }
                changed.await;
            }
        })
        .await;
    }

    async fn until_messages(&self, count: usize) {
        self.until("messages", |inner| inner.chunks.iter().map(Vec::len).sum::<usize>() >= count).await;
    }

    async fn until_chunks(&self, count: usize) {
        self.until("chunks", |inner| inner.chunks.len() >= count).await;
    }

    async fn until_error(&self, kind: &'static str) {
        self.until(kind, |inner| inner.errors.contains(&kind)).await;
    }

    async fn until_connected(&self) {
        self.until("a connection", |inner| inner.connected).await;
    }

    fn messages(&self) -> Vec<(String, String)> {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        self.inner.lock().chunks.iter().flatten().map(|m| (text(&m.topic), text(&m.payload))).collect()
    }

    fn payloads(&self) -> Vec<String> {
        self.messages().into_iter().map(|(_, payload)| payload).collect()
    }
}

fn appended() -> Appended {
    Appended { first: Offset(0), next: Offset(1) }
}

impl Intake for HandIntake {
    fn open(&self, partition: &str) -> BoxFuture<'_, Result<(), IntakeError>> {
        self.inner.lock().partitions.push(partition.to_owned());
        Box::pin(async { Ok(()) })
    }

    fn append(&self, partition: &str, chunk: Chunk) -> BoxFuture<'_, Result<Receipt, IntakeError>> {
        assert!(self.inner.lock().partitions.iter().any(|open| open == partition), "{partition} was opened");
        Box::pin(async move {
            self.until("room", |inner| !inner.blocked).await;
            let (messages, notes) = match chunk {
                Chunk::Messages(messages) => (messages, Vec::new()),
                Chunk::Noted(messages, notes) => (messages, notes),
                Chunk::Range { .. } | Chunk::Decoded { .. } => panic!("MQTT sends messages as they come"),
            };
            assert!(!messages.is_empty() || !notes.is_empty(), "an empty chunk is a wasted sync");
            let (give, take) = oneshot::channel();
            {
                let mut inner = self.inner.lock();
                inner.chunks.push(messages);
                inner.notes.extend(notes.into_iter().map(|note| (note.key, note.value)));
                inner.notes.retain(|_, value| !value.is_empty());
                if inner.by_itself {
                    let _ = give.send(Ok(appended()));
                } else {
                    inner.open.push_back(give);
                }
            }
            self.changed.notify_waiters();
            let receipt: Receipt = Box::pin(async move { take.await.unwrap_or(Err(IntakeError::Stopping)) });
            Ok(receipt)
        })
    }

    fn try_append(&self, _: &str, _: Chunk) -> Option<Result<Receipt, IntakeError>> {
        None
    }

    fn end(&self, _: &str) -> BoxFuture<'_, Result<(), IntakeError>> {
        panic!("an MQTT source has no end")
    }

    fn set_connected(&self, connected: bool) {
        self.inner.lock().connected = connected;
        self.changed.notify_waiters();
    }

    fn count_error(&self, kind: &'static str) {
        self.inner.lock().errors.push(kind);
        self.changed.notify_waiters();
    }
}

/// Objects in memory: what a source keeps of itself.
#[derive(Default)]
struct Shelf(Mutex<BTreeMap<String, Bytes>>);

impl Storage for Shelf {
    fn put_new(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        let mut objects = self.0.lock();
        if objects.contains_key(path) {
            return Err(StorageError::Exists { path: path.to_owned() });
        }
        objects.insert(path.to_owned(), Bytes::copy_from_slice(bytes));
        Ok(())
    }
    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.0.lock().insert(path.to_owned(), Bytes::copy_from_slice(bytes));
        Ok(())
    }
    fn get(&self, path: &str) -> Result<Bytes, StorageError> {
        self.0.lock().get(path).cloned().ok_or_else(|| StorageError::Missing { path: path.to_owned() })
    }
    fn list(&self, _: &str) -> Result<Vec<Entry>, StorageError> {
        Ok(Vec::new())
    }
    fn delete(&self, path: &str) -> Result<(), StorageError> {
        self.0.lock().remove(path);
        Ok(())
    }
    fn create(&self, path: &str) -> Result<Box<dyn AppendFile>, StorageError> {
        Err(StorageError::BadPath { path: path.to_owned() })
    }
    fn open(&self, path: &str) -> Result<Box<dyn AppendFile>, StorageError> {
        Err(StorageError::BadPath { path: path.to_owned() })
    }
    fn sync_dir(&self, _: &str) -> Result<(), StorageError> {
        Ok(())
    }
}

fn context() -> Context {
    Context {
        storage: Arc::new(Shelf::default()),
        base_dir: ".".into(),
        clock: Arc::new(ManualClock::at(0)),
        dice: Arc::new(SeededDice::new(42)),
        http: crate::HttpIngest::new(),
        local_brokers: Default::default(),
        network: Default::default(),
    }
}

fn options(pairs: &[(&str, &str)]) -> Options {
    Options::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
}

/// The far end of a connection, in bytes.
struct Peer(TcpStream);

impl Peer {
    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.expect("the source still reads");
    }

    /// Reads one packet whole; `None` at the end of the stream.
    async fn packet(&mut self) -> Option<Vec<u8>> {
        soon("a packet", async {
            let mut packet = vec![self.0.read_u8().await.ok()?];
            let (mut remaining, mut shift) = (0usize, 0);
            loop {
                let byte = self.0.read_u8().await.ok()?;
                packet.push(byte);
                remaining |= usize::from(byte & 0x7F) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let start = packet.len();
            packet.resize(start + remaining, 0);
            self.0.read_exact(&mut packet[start..]).await.ok()?;
            Some(packet)
        })
        .await
    }

    /// Says whether nothing has come yet.
    async fn is_quiet(&mut self) -> bool {
        timeout(Duration::from_millis(20), self.0.peek(&mut [0])).await.is_err()
    }

    async fn expect(&mut self, packet: &[u8]) {
        let got = self.packet().await;
        assert_eq!(got.as_deref(), Some(packet), "got {got:02x?}, expected {packet:02x?}");
    }

    async fn expect_disconnect(&mut self, code: u8) {
        let got = self.packet().await.expect("a DISCONNECT");
        assert_eq!((got[0], got[2]), (0xE0, code), "{got:02x?}");
        assert_eq!(self.packet().await, None);
    }

    async fn expect_end(&mut self) {
        assert_eq!(self.packet().await, None);
    }
}

fn field(bytes: &[u8]) -> Vec<u8> {
    let mut field = u16::try_from(bytes.len()).expect("short").to_be_bytes().to_vec();
    field.extend_from_slice(bytes);
    field
}

fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut packet = vec![first];
    let mut length = body.len();
    loop {
        let more = if length > 127 { 0x80 } else { 0 };
        packet.push(u8::try_from(length & 0x7F).expect("7 bits") | more);
        length >>= 7;
        if length == 0 {
            break;
        }
    }
    packet.extend_from_slice(&body);
    packet
}

const NO_PROPERTIES: &[u8] = &[0];

/// A PUBLISH of 3.1.1; id 0 means QoS 0.
fn publish4(topic: &str, id: u16, payload: &str) -> Vec<u8> {
    let id_bytes = id.to_be_bytes();
    let (first, id_bytes): (u8, &[u8]) = if id == 0 { (0x30, &[]) } else { (0x32, &id_bytes) };
    packet(first, &[&field(topic.as_bytes()), id_bytes, payload.as_bytes()])
}

/// A PUBLISH of version 5 with a property block as given, its length included.
fn publish5(topic: &str, id: u16, properties: &[u8], payload: &str) -> Vec<u8> {
    let id_bytes = id.to_be_bytes();
    let (first, id_bytes): (u8, &[u8]) = if id == 0 { (0x30, &[]) } else { (0x32, &id_bytes) };
    packet(first, &[&field(topic.as_bytes()), id_bytes, properties, payload.as_bytes()])
}

fn puback(id: u16) -> Vec<u8> {
    packet(0x40, &[&id.to_be_bytes()])
}

const PINGREQ: &[u8] = &[0xC0, 0];
const PINGRESP: &[u8] = &[0xD0, 0];
