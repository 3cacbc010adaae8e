//! How many may come at a time, and how long they may take: what keeps the house standing when all come at once.
//!
//! | what | bound | beyond it |
//! |---|---|---|
//! | connections | `max_connections`, 10,000 | closed at once, counted as `connections` |
//! | open files of the process | nearly all | closed at once, counted as `descriptors` |
//! | connections without a whole CONNECT | [`HANDSHAKES_MAX`] | the one that has waited longest is closed, counted as `handshakes` |
//! | time for TLS and CONNECT | [`CONNECT_TIMEOUT`] | closed, counted as `connect_timeout` |
//! | time in which a client has to read something of what is sent to it | [`STALL_TIME_MAX`](crate::stall::STALL_TIME_MAX) | closed, counted as `stalled`; its session stays |
//! | bytes that the system holds for it | [`SEND_BUFFER_BYTES`] | written later |
//! | time in which a client without a keep-alive, or its network, may be gone | [`GONE_AFTER`], then nine times [`PROBE_INTERVAL`] | closed |
//! | passwords being checked | 2 | the next waits |
//! | a packet | 16 MiB | 0x95, counted as `oversize` |
//! | unacknowledged messages of a publisher | 16,384 | 0x93 |
//! | bytes that wait for the log | the intake's, for all connections | their sockets are not read |
//! | sessions that outlive their connections | 10,000 | refused: 0x97, in 3.1.1 code 3 |
//! | subscriptions of a session | 100 | refused: 0x97, in 3.1.1 0x80 |
//! | messages for one subscriber | 4,096 and 4 MiB waiting, 1,024 and 4 MiB unconfirmed | QoS 0 dropped; else 0x97 and the end of the connection |
//! | messages and wills that wait for sessions, all together | 32 MiB in the log | in memory only, counted as `subscriber_unsaved` |
//! | retained messages | 10,000 and 16 MiB | not retained |

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use tidemill_engine::source::Stop;
use tokio::net::TcpStream;

use crate::stall::SEND_BUFFER_BYTES;

/// How many connections are served if the options say nothing.
pub(super) const CONNECTIONS_MAX_DEFAULT: usize = 10_000;
/// How long a client may take until its CONNECT is there, TLS included, and to read our refusal.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How many connections may be on the way to their CONNECT. Who is slow on purpose can hold so many, and 512 KiB for each,
/// and no honest client waits behind them.
pub(in crate::mqtt) const HANDSHAKES_MAX: usize = 512;

/// A connection may say nothing for ever if its CONNECT says so. From here on the system asks whether the other machine is there.
const GONE_AFTER: Duration = Duration::from_secs(60);
/// How often it asks; it gives up after as many times as it always does, nine on Linux.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// Lets the system watch over a connection: what it holds for it, and whether there still is somebody.
pub(super) fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_send_buffer_size(SEND_BUFFER_BYTES as usize)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(GONE_AFTER).with_interval(PROBE_INTERVAL))
}

/// The connections on the way to their CONNECT, the longest on its way first.
#[derive(Default)]
pub(super) struct Handshakes {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next_number: u64,
    waiting: VecDeque<(u64, Stop)>,
}

impl Handshakes {
    /// Adds one; it ends when the returned stop is cancelled. Returns whether another had to go for it.
    pub(super) fn begin(&self) -> (Handshake<'_>, bool) {
        let mut inner = self.inner.lock();
        let mut evicted = false;
        if inner.waiting.len() >= HANDSHAKES_MAX
            && let Some((_, oldest)) = inner.waiting.pop_front()
        {
            oldest.cancel();
            evicted = true;
        }
        let number = inner.next_number;
        inner.next_number += 1;
        let evicted_by_others = Stop::new();
        inner.waiting.push_back((number, evicted_by_others.clone()));
        (Handshake { all: self, number, evicted: evicted_by_others }, evicted)
    }
}

/// One connection on its way to its CONNECT.
pub(super) struct Handshake<'h> {
    all: &'h Handshakes,
    number: u64,
    /// Cancelled when it must make room for others.
    pub(super) evicted: Stop,
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        let mut inner = self.all.inner.lock();
        if let Ok(at) = inner.waiting.binary_search_by_key(&self.number, |(number, _)| *number) {
            inner.waiting.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_system_watches_over_a_connection() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let _client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("a connection");
        let (stream, _) = listener.accept().await.expect("a connection");
        tune(&stream).expect("options");
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().expect("an option"));
        // Linux doubles it, for what it needs beside the bytes, as far as it may.
        assert!(socket.send_buffer_size().expect("an option") <= 2 * SEND_BUFFER_BYTES as usize);
    }

    #[test]
    fn the_one_that_waits_longest_makes_room() {
        let handshakes = Handshakes::default();
        let mut waiting: VecDeque<Handshake<'_>> = (0..HANDSHAKES_MAX).map(|_| handshakes.begin().0).collect();
        // One that is done makes room by itself.
        drop(waiting.remove(7));
        let (_first, evicted) = handshakes.begin();
        assert!(!evicted);
        let (_second, evicted) = handshakes.begin();
        assert!(evicted);
        assert!(waiting[0].evicted.is_cancelled());
        assert!(!waiting[1].evicted.is_cancelled());
    }
}
