//! What operators count, shared with whoever asks for the job's status.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::time::Watermark;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Returns the sum.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the operators of one source count, over all workers.
#[derive(Debug)]
pub struct SourceCounters {
    /// Rows that decoded and are not quarantined.
    pub rows: Counter,
    /// Dead letters.
    pub dead: Counter,
    /// Rows from the future.
    pub quarantined: Counter,
    /// Values that did not fit in their column, and are NULL.
    pub nulled: Counter,
    /// Tags, labels, fields and attributes that are in no column, since none is declared for them.
    pub dropped_attributes: Counter,
    watermark: AtomicI64,
}

impl Default for SourceCounters {
    fn default() -> Self {
        let watermark = AtomicI64::new(Watermark::UNKNOWN.0);
        SourceCounters {
            rows: Counter::default(),
            dead: Counter::default(),
            quarantined: Counter::default(),
            nulled: Counter::default(),
            dropped_attributes: Counter::default(),
            watermark,
        }
    }
}

impl SourceCounters {
    /// Returns the watermark at the last epoch that is complete.
    pub fn watermark(&self) -> Watermark {
        Watermark(self.watermark.load(Ordering::Relaxed))
    }

    pub(crate) fn set_watermark(&self, watermark: Watermark) {
        self.watermark.store(watermark.0, Ordering::Relaxed);
    }
}

/// What the operators of one windowed view count, over all workers.
#[derive(Debug, Default)]
pub struct WindowCounters {
    /// Rows that fell into at least one open window.
    pub rows: Counter,
    /// Rows too late for any.
    pub late: Counter,
    /// Result rows.
    pub results: Counter,
}

/// What the operators of one deduplicated source count, over all workers.
#[derive(Debug, Default)]
pub struct DedupCounters {
    /// Rows that went on.
    pub taken: Counter,
    /// Rows that were dropped, since they had come before.
    pub repeats: Counter,
    /// Rows that are too old to tell.
    pub late: Counter,
    state_bytes: AtomicI64,
}

impl DedupCounters {
    /// Returns the bytes of all that is remembered.
    pub fn state_bytes(&self) -> u64 {
        self.state_bytes.load(Ordering::Relaxed).try_into().unwrap_or(0)
    }

    /// Notes that the state of a worker has grown or shrunk.
    pub(crate) fn state_changed(&self, bytes: i64) {
        self.state_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The counters of a whole plan, by node.
#[derive(Debug)]
pub struct Counters {
    /// One for each node; used where the node is a source.
    pub sources: Vec<SourceCounters>,
    /// One for each node; used where the node is a window.
    pub windows: Vec<WindowCounters>,
    /// One for each node; used where the node is a deduplication.
    pub dedups: Vec<DedupCounters>,
}

impl Counters {
    /// Makes counters for a plan of this many nodes.
    pub fn new(node_count: usize) -> Counters {
        Counters {
            sources: (0..node_count).map(|_| SourceCounters::default()).collect(),
            windows: (0..node_count).map(|_| WindowCounters::default()).collect(),
            dedups: (0..node_count).map(|_| DedupCounters::default()).collect(),
        }
    }
}
