//! A wire between a broker and the program that counts what passes, so that nobody has to believe how many messages were in
//! flight when it broke. A real broker may send more than its window: Mosquitto 2.0.11 sends all it has on a second resume.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const PUBLISH_QOS_1: u8 = 0x32;
const PUBACK: u8 = 0x40;
/// DUP and RETAIN do not change what a packet is.
const KIND: u8 = 0xF6;

/// A port that leads to a broker.
pub(super) struct Toll {
    /// Where the program connects.
    pub(super) port: u16,
    in_flight_at_breaks: Arc<AtomicU64>,
    running: JoinHandle<()>,
}

impl Toll {
    /// Begins to listen.
    pub(super) async fn before(broker: u16) -> Toll {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let in_flight_at_breaks = Arc::<AtomicU64>::default();
        let sum = Arc::clone(&in_flight_at_breaks);
        let running = tokio::spawn(async move {
            // One after the other: a new connection of the same client would end the old one at the broker, with whatever
            // acknowledgements it has not read yet.
            while let Ok((program, _)) = listener.accept().await {
                if let Ok(broker) = TcpStream::connect(("127.0.0.1", broker)).await {
                    sum.fetch_add(carry(program, broker).await, Ordering::SeqCst);
                }
            }
        });
        Toll { port, in_flight_at_breaks, running }
    }

    /// Returns how many messages of QoS 1 had reached the program, and their acknowledgements not us, when connections broke.
    pub(super) fn in_flight_at_breaks(&self) -> u64 {
        self.in_flight_at_breaks.load(Ordering::SeqCst)
    }
}

impl Drop for Toll {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// Carries bytes both ways until one side ends; returns how many messages were in flight then.
async fn carry(program: TcpStream, broker: TcpStream) -> u64 {
    let (from_program, to_program) = program.into_split();
    let (from_broker, to_broker) = broker.into_split();
    let (messages, acknowledgements) =
        tokio::join!(pass(from_broker, to_program, PUBLISH_QOS_1), pass(from_program, to_broker, PUBACK));
    messages.saturating_sub(acknowledgements)
}

/// Carries bytes one way until the end; returns how many packets of a kind there were.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, kind: u8) -> u64 {
    let mut bytes = vec![0; 64 << 10];
    let mut counter = Counter { kind, head: Vec::new(), skip: 0, count: 0 };
    let mut is_taken = true;
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        // What nobody takes any more is read all the same: to close with unread bytes would take back what was sent the other
        // way, acknowledgements that have been counted.
        if is_taken {
            counter.feed(&bytes[..length]);
            is_taken = to.write_all(&bytes[..length]).await.is_ok();
        }
    }
    // So that the other side reads to the end of what it was sent, and then learns that it is over.
    let _ = to.shutdown().await;
    counter.count
}

/// Counts packets in a stream of bytes.
struct Counter {
    kind: u8,
    /// The first byte and the length, as far as they are there.
    head: Vec<u8>,
    skip: usize,
    count: u64,
}

impl Counter {
    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let Some((byte, rest)) = bytes.split_first() else { return };
            bytes = rest;
            self.head.push(*byte);
            if self.head.len() > 1 && byte & 0x80 == 0 {
                self.skip = self.head[1..].iter().rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7F));
                self.count += u64::from(self.head[0] & KIND == self.kind);
                self.head.clear();
            }
        }
    }
}

#[test]
fn packets_are_counted_however_the_bytes_arrive() {
    use crate::harness::mqtt_script::words::{Version, encode};
    let lines = ["PUBLISH q1 id=1 v=1", "PUBACK 1", "PUBLISH q2 id=2 v=1", "PINGRESP", "PUBLISH q1 id=1 dup=1 v=1"];
    let mut bytes: Vec<u8> = lines.iter().flat_map(|line| encode(Version::V4, line)).collect();
    bytes.extend(encode(Version::V4, &format!("PUBLISH q1 id=7 payload={}", "x".repeat(300))));
    for piece in [1, 2, 3, 7, bytes.len()] {
        let mut counter = Counter { kind: PUBLISH_QOS_1, head: Vec::new(), skip: 0, count: 0 };
        bytes.chunks(piece).for_each(|piece| counter.feed(piece));
        assert_eq!(counter.count, 3, "in pieces of {piece}");
    }
}
