//! What an outbox says of itself.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::breaker::{BreakerGauge, BreakerState};

/// The numbers of an outbox, shared by those who change and those who show them.
#[derive(Debug, Default)]
pub struct Gauges {
    pub(super) rows: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) delivered: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) rejected: AtomicU64,
    /// Of the rejected rows those that the cursor will pass, as if they were delivered.
    refused: AtomicU64,
    pub(super) is_connected: AtomicBool,
    pub(super) breaker: BreakerGauge,
    pub(super) error: Mutex<Option<String>>,
}

/// What an outbox says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutboxStatus {
    /// The sink's name.
    pub name: String,
    /// Where it delivers to.
    pub connector: &'static str,
    /// The view or source whose rows it delivers.
    pub of: String,
    /// Rows that are not delivered yet.
    pub rows: u64,
    /// Bytes of the files they lie in.
    pub bytes: u64,
    /// Rows delivered since the program began.
    pub delivered: u64,
    /// Attempts that failed since the program began.
    pub failures: u64,
    /// Rows left out because the outbox was full, in all its life.
    pub dropped: u64,
    /// Rows that cannot be delivered at all, since the program began.
    pub rejected: u64,
    /// Whether the other side takes rows now.
    pub connected: bool,
    /// How the breaker stands: whether it failed several times in a row.
    pub breaker: BreakerState,
    /// Why the last attempt failed, until one does not.
    pub error: Option<String>,
}

impl Gauges {
    /// Says whether the other side takes rows.
    pub fn set_connected(&self, is_connected: bool) {
        self.is_connected.store(is_connected, Ordering::Relaxed);
        // With rows it must take one first.
        if is_connected && self.rows.load(Ordering::Relaxed) == 0 {
            self.close_breaker();
        }
    }

    /// Says that a row was taken.
    pub(super) fn close_breaker(&self) {
        *self.error.lock() = None;
        if self.breaker.show(BreakerState::Closed) != BreakerState::Closed {
            tracing::info!("the breaker is closed: rows are delivered again");
        }
    }

    /// Counts a row that the other side will never take.
    pub fn count_rejected(&self, count: u64) {
        self.rejected.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts rows of the outbox that the other side has refused for ever; before they are confirmed.
    pub fn count_refused(&self, count: u64) {
        self.refused.fetch_add(count, Ordering::Relaxed);
        self.count_rejected(count);
    }

    /// Counts rows that the cursor has passed: those that were refused were not delivered.
    pub(super) fn count_passed(&self, count: u64) {
        let refused = self.refused.load(Ordering::Relaxed).min(count);
        self.refused.fetch_sub(refused, Ordering::Relaxed);
        self.delivered.fetch_add(count - refused, Ordering::Relaxed);
    }

    /// Returns everything at once.
    pub fn status(&self, name: &str, connector: &'static str, of: &str) -> OutboxStatus {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        OutboxStatus {
            name: name.to_owned(),
            connector,
            of: of.to_owned(),
            rows: read(&self.rows),
            bytes: read(&self.bytes),
            delivered: read(&self.delivered),
            failures: read(&self.failures),
            dropped: read(&self.dropped),
            rejected: read(&self.rejected),
            connected: self.is_connected.load(Ordering::Relaxed),
            breaker: self.breaker.state(),
            error: self.error.lock().clone(),
        }
    }
}
