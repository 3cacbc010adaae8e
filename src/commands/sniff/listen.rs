//! Listening: the source itself, before a memory that keeps what it brings.
//!
//! So what was heard is what the source that is printed will hear: the same address, TLS, credentials and versions. Only
//! the session of MQTT differs: nothing is kept at the broker, at QoS 0, and retained copies are taken too, to be told apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidemill::assemble::checking_context;
use tidemill::{Error, Result};
use tidemill_connectors::mqtt::{self, Attributes};
use tidemill_connectors::{OptionError, Options};
use tidemill_engine::clock::{Clock, SystemClock};
use tidemill_engine::source::{
    Appended, BoxFuture, Chunk, Intake, IntakeError, Message, Offset, Receipt, Source, Stop,
};
use tokio::sync::Notify;

use super::sample::{Heard, Listening};
use crate::commands::stop_requested;

/// Messages that are kept.
const MESSAGES_MAX: usize = 200_000;
/// Bytes of them.
const BYTES_MAX: usize = 128 << 20;
/// Attempts to connect; each that fails has said why in the log.
const ATTEMPTS_MAX: u32 = 3;
/// All attempts together take no longer.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(15);

/// Listens for so long, or until somebody presses Ctrl-C.
///
/// `options` are those of the `mqtt` source but its topic and session.
pub(super) async fn listen(options: &[(String, String)], pattern: &str, duration: Duration) -> Result<Listening> {
    let own = [("topic", pattern), ("qos", "0"), ("retained", "use"), ("session_expiry", "0 s")];
    let own = own.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let mut options = Options::new(options.iter().cloned().chain(own));
    let refused = |error: OptionError| Error::Input(error.to_string());
    let (source, _) = mqtt::client("sniff", &mut options, &checking_context()?).map_err(refused)?;
    options.finish().map_err(refused)?;
    listen_to(source, duration).await
}

/// Runs a source for so long, or until somebody presses Ctrl-C, and keeps what it brings.
pub(super) async fn listen_to(source: impl Source, duration: Duration) -> Result<Listening> {
    source.prepare().await.map_err(|error| Error::Environment(error.to_string()))?;
    let ear = Arc::new(Ear::default());
    let stop = Stop::new();
    let running = {
        let (ear, stop) = (Arc::clone(&ear), stop.clone());
        tokio::spawn(async move { source.run(ear as Arc<dyn Intake>, Vec::new(), stop).await })
    };
    let waited = async {
        if tokio::time::timeout(CONNECT_TIME_MAX, ear.connected_or_given_up()).await.is_err() {
            return;
        }
        ear.begin();
        if ear.is_connected.load(Ordering::SeqCst) {
            tokio::time::sleep(duration).await;
        }
    };
    let mut running = running;
    let ended = tokio::select! {
        () = waited => None,
        requested = stop_requested() => { requested?; None }
        ended = &mut running => Some(ended),
    };
    stop.cancel();
    let ended = match ended {
        Some(ended) => ended,
        None => running.await,
    };
    ended
        .map_err(|error| Error::Internal(format!("listening ended: {error}")))?
        .map_err(|error| Error::Environment(error.to_string().replacen("source sniff: ", "", 1)))?;
    match ear.is_connected.load(Ordering::SeqCst) {
        true => Ok(ear.take()),
        false => Err(Error::Environment("cannot connect; the lines above say why".to_owned())),
    }
}

/// Keeps what a source brings.
#[derive(Default)]
struct Ear {
    kept: Mutex<Kept>,
    /// Whether there was a connection.
    is_connected: AtomicBool,
    failed_attempts: AtomicU32,
    changed: Notify,
    next: AtomicU64,
}

#[derive(Default)]
struct Kept {
    listening: Listening,
    bytes: usize,
    begin_us: i64,
}

impl Ear {
    /// Waits until there is a connection, or there will be none.
    async fn connected_or_given_up(&self) {
        loop {
            let changed = self.changed.notified();
            let is_connected = self.is_connected.load(Ordering::SeqCst);
            if is_connected || self.failed_attempts.load(Ordering::SeqCst) >= ATTEMPTS_MAX {
                return;
            }
            changed.await;
        }
    }

    /// The time that rates are measured against begins.
    fn begin(&self) {
        self.kept.lock().begin_us = SystemClock.monotonic_us();
    }

    fn take(&self) -> Listening {
        let kept = std::mem::take(&mut *self.kept.lock());
        let duration_us = (SystemClock.monotonic_us() - kept.begin_us).max(1);
        Listening { duration_us, ..kept.listening }
    }

    fn keep(&self, messages: Vec<Message>) -> Receipt {
        let arrival_us = SystemClock.now_us();
        let count = messages.len() as u64;
        let mut kept = self.kept.lock();
        for message in messages {
            kept.bytes += message.byte_count();
            if kept.listening.heard.len() >= MESSAGES_MAX || kept.bytes > BYTES_MAX {
                kept.listening.not_kept += 1;
                continue;
            }
            let retained = Attributes::of(&message).retain == Some(true);
            kept.listening.heard.push(Heard { message, arrival_us, retained });
        }
        let first = self.next.fetch_add(count, Ordering::SeqCst);
        Box::pin(std::future::ready(Ok(Appended { first: Offset(first), next: Offset(first + count) })))
    }
}

impl Intake for Ear {
    fn open(&self, _: &str) -> BoxFuture<'_, Result<(), IntakeError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn append(&self, partition: &str, chunk: Chunk) -> BoxFuture<'_, Result<Receipt, IntakeError>> {
        let taken = self.try_append(partition, chunk).unwrap_or(Err(IntakeError::Stopping));
        Box::pin(std::future::ready(taken))
    }

    fn try_append(&self, _: &str, chunk: Chunk) -> Option<Result<Receipt, IntakeError>> {
        let messages = match chunk {
            Chunk::Messages(messages) | Chunk::Noted(messages, _) | Chunk::Decoded { messages, .. } => messages,
            Chunk::Range { .. } => Vec::new(), // Of files and generators, which nobody listens to.
        };
        Some(Ok(self.keep(messages)))
    }

    fn end(&self, _: &str) -> BoxFuture<'_, Result<(), IntakeError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn set_connected(&self, connected: bool) {
        match connected {
            true => self.is_connected.store(true, Ordering::SeqCst),
            false => {
                self.failed_attempts.fetch_add(1, Ordering::SeqCst);
            }
        }
        // One waits, and looks again at both.
        self.changed.notify_one();
    }

    fn count_error(&self, _: &'static str) {}
}
