//! What outlives a life: what was sent and acknowledged, the time, and the segments of the log that were removed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::FutureExt;
use tidemill::engine::source::Receipt;
use tidemill::engine::storage::{Disk, SimulatedDisk};

use super::scenario::BEGIN_US;

/// A chunk, and what became of it.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) act_idx: usize,
    /// How often it was sent.
    pub(super) sends: u32,
    /// How often it was acknowledged.
    pub(super) acked: u32,
}

/// The world as it is at an instant.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    pub(super) sent: Vec<Sent>,
    pub(super) now_us: i64,
    /// The next act of the script.
    pub(super) next_act: usize,
    /// Segments of the log that were removed, by name.
    pub(super) archive: BTreeMap<String, Arc<Vec<u8>>>,
}

/// The world while it goes on.
#[derive(Clone)]
pub(super) struct World(Arc<Mutex<Inner>>);

struct Inner {
    past: Past,
    /// Receipts that have not resolved, and the chunk of each.
    waiting: Vec<(usize, Receipt)>,
    /// Receipts that have resolved to an error.
    refused: u64,
}

impl World {
    pub(super) fn new() -> World {
        World::after(Past { now_us: BEGIN_US, ..Past::default() })
    }

    /// Goes on from a past.
    pub(super) fn after(past: Past) -> World {
        World(Arc::new(Mutex::new(Inner { past, waiting: Vec::new(), refused: 0 })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("nobody has panicked with it")
    }

    /// Returns the world at this instant, with everything that is acknowledged by now.
    pub(super) fn past(&self) -> Past {
        let mut inner = self.lock();
        inner.look();
        inner.past.clone()
    }

    /// Changes what is known.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Past) -> T) -> T {
        change(&mut self.lock().past)
    }

    /// Waits for a receipt from now on.
    pub(super) fn wait_for(&self, chunk: usize, receipt: Receipt) {
        self.lock().waiting.push((chunk, receipt));
    }

    /// Looks which receipts have resolved; returns how many have not.
    pub(super) fn look(&self) -> usize {
        let mut inner = self.lock();
        inner.look();
        inner.waiting.len()
    }

    /// Ends a life: nothing more is heard.
    pub(super) fn end_life(&self) {
        let mut inner = self.lock();
        inner.look();
        inner.waiting.clear();
    }

    /// Keeps a segment of the log that is about to be removed.
    pub(super) fn archive(&self, disk: &SimulatedDisk, path: &Path) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return };
        if !path.starts_with("data/log") && !path.starts_with("/data/log") || !name.ends_with(".log") {
            return;
        }
        // From a copy: reading is a call, and would change what is counted.
        if let Ok(bytes) = disk.kill().read(path) {
            self.lock().past.archive.entry(name.to_owned()).or_insert_with(|| Arc::new(bytes));
        }
    }
}

impl Inner {
    fn look(&mut self) {
        let Inner { past, waiting, refused } = self;
        waiting.retain_mut(|(chunk, receipt)| match receipt.now_or_never() {
            None => true,
            Some(Ok(_)) => {
                past.sent[*chunk].acked += 1;
                false
            }
            Some(Err(_)) => {
                *refused += 1;
                false
            }
        });
    }
}
