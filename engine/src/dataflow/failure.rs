//! What happens when an operator fails: the job stops, and no epoch is completed any more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::error::panic_text;

/// Who has to act on a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// A broker, a file, another process: the reason says what to do.
    Environment,
    /// The disk: what was acknowledged is safe, and a later start goes on.
    Disk {
        /// Whether it has no room left.
        is_full: bool,
    },
    /// An operator: an expression that cannot be evaluated, or a bug.
    Operator,
}

/// The first failure of a job, shared by all its threads.
///
/// A panic in an operator would leave the other workers waiting for ever, so every operator runs inside
/// `Failure::guard`. After a failure operators do nothing, and keep their capabilities: an epoch whose rows were
/// not all computed must never look complete.
#[derive(Clone)]
pub struct Failure(Arc<Shared>);

struct Shared {
    failed: AtomicBool,
    reason: Mutex<Option<(Blame, String)>>,
    notify: Box<dyn Fn() + Send + Sync>,
}

impl Failure {
    /// Makes the shared slot; `notify` is called once, by whichever thread fails first.
    pub fn new(notify: impl Fn() + Send + Sync + 'static) -> Failure {
        Failure(Arc::new(Shared { failed: AtomicBool::new(false), reason: Mutex::new(None), notify: Box::new(notify) }))
    }

    /// Whether anything failed.
    pub fn is_set(&self) -> bool {
        self.0.failed.load(Ordering::Acquire)
    }

    /// Returns why, if anything failed.
    pub fn reason(&self) -> Option<(Blame, String)> {
        self.0.reason.lock().clone()
    }

    /// Records a failure of an operator; only the first failure counts.
    pub fn set(&self, reason: String) {
        self.record(Blame::Operator, reason);
    }

    /// Records a failure of the environment; only the first failure counts.
    pub fn set_environment(&self, reason: String) {
        self.record(Blame::Environment, reason);
    }

    /// Records a failure of the disk; only the first failure counts.
    pub fn set_disk(&self, reason: String, is_full: bool) {
        self.record(Blame::Disk { is_full }, reason);
    }

    fn record(&self, blame: Blame, reason: String) {
        {
            let mut first = self.0.reason.lock();
            if first.is_some() {
                return;
            }
            *first = Some((blame, reason));
            self.0.failed.store(true, Ordering::Release);
        }
        (self.0.notify)();
    }

    /// Runs a piece of an operator; an error or a panic in it becomes the job's failure.
    pub(crate) fn guard(&self, operator: &str, piece: impl FnOnce() -> Result<(), String>) {
        match catch_unwind(AssertUnwindSafe(piece)) {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => self.set(format!("{operator}: {reason}")),
            Err(panic) => self.set(format!("{operator}: internal error: {}", panic_text(&*panic))),
        }
    }
}
