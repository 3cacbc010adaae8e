//! What shall go wrong on a simulated disk, and when: counters of calls, the stop, and the faults.

use std::io;
use std::path::{Path, PathBuf};

use super::tree::normal;

/// A kind of call to a [`Disk`](crate::storage::Disk) or an open file of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// `create_new`.
    Create,
    /// `open`, `open_or_create`.
    Open,
    /// `read`, `read_at`.
    Read,
    /// `write`.
    Write,
    /// `set_len`.
    SetLen,
    /// `sync_all`, `sync_data`.
    SyncFile,
    /// `sync_dir`.
    SyncFolder,
    /// `hard_link`; its path is the new name.
    Link,
    /// `rename`; its path is the new name.
    Rename,
    /// `remove_file`.
    Remove,
    /// `create_dir`.
    CreateFolder,
    /// `list`.
    List,
    /// `metadata`, `size`.
    Metadata,
    /// `try_lock`.
    Lock,
}

/// Whether the call at which a disk stops still takes effect. Its caller sees an error either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// It does not.
    Before,
    /// It does, and nobody learns of it.
    After,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// `EIO`. A file sync that fails drops what was written, and the next one reports success.
    Io,
    /// `ENOSPC`.
    NoSpace,
    /// A write or a read takes half of the bytes, one at least; it reports how many.
    Short,
}

/// An order to fail: which calls, and how. Without more words the next call that matches fails, once.
///
/// ```
/// use tidemill_engine::storage::simulated::{Call, Failure, Fault};
///
/// // From the third write below data/log on, the disk is full.
/// let fault = Fault::at(Call::Write, Failure::NoSpace).below("data/log").nth(3).from_then_on();
/// ```
#[derive(Clone, Debug)]
pub struct Fault {
    /// Every kind, if none is given.
    call: Option<Call>,
    failure: Failure,
    below: Option<PathBuf>,
    /// Matching calls until it strikes; 0 if the next one fails.
    calls_left: u64,
    is_lasting: bool,
}

impl Fault {
    /// Lets a call of one kind fail. Panics if it is to be short and is neither a write nor a read.
    pub fn at(call: Call, failure: Failure) -> Self {
        let can_be_short = matches!(call, Call::Write | Call::Read);
        assert!(failure != Failure::Short || can_be_short, "{call:?} cannot be short");
        Fault { call: Some(call), failure, below: None, calls_left: 0, is_lasting: false }
    }

    /// Lets a call of any kind fail. Panics if it is to be short.
    pub fn at_any(failure: Failure) -> Self {
        assert!(failure != Failure::Short, "only writes and reads can be short");
        Fault { call: None, failure, below: None, calls_left: 0, is_lasting: false }
    }

    /// Lets the n-th call that matches fail, counted from 1 and from when the fault is injected.
    pub fn nth(mut self, n: u64) -> Self {
        assert!(n > 0, "calls are counted from 1");
        self.calls_left = n - 1;
        self
    }

    /// Lets all further calls that match fail too, until the disk is healed.
    pub fn from_then_on(mut self) -> Self {
        self.is_lasting = true;
        self
    }

    /// Matches only this path of the disk and what lies below it.
    pub fn below(mut self, path: impl AsRef<Path>) -> Self {
        self.below = Some(normal(path.as_ref()));
        self
    }

    fn matches(&self, call: Call, path: &Path) -> bool {
        self.call.is_none_or(|kind| kind == call) && self.below.as_ref().is_none_or(|below| path.starts_with(below))
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Done,
    /// Done, but the process is dead by the time it returns.
    DoneUnseen,
    Fails(Failure),
    /// Not done: the process is dead.
    Dead,
}

/// The counters and the orders.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    pub(super) call_count: u64,
    pub(super) sync_count: u64,
    pub(super) write_count: u64,
    pub(super) is_stopped: bool,
    pub(super) stop_at_call: Option<(u64, When)>,
    pub(super) stop_at_sync: Option<(u64, When)>,
    pub(super) faults: Vec<Fault>,
}

impl Schedule {
    /// Counts a call, and decides what becomes of it.
    pub(super) fn admit(&mut self, call: Call, path: &Path) -> Verdict {
        if self.is_stopped {
            return Verdict::Dead;
        }
        self.call_count += 1;
        let is_sync = matches!(call, Call::SyncFile | Call::SyncFolder);
        self.sync_count += u64::from(is_sync);
        self.write_count += u64::from(call == Call::Write);
        let due = |stop: Option<(u64, When)>, count: u64| stop.filter(|(n, _)| count >= *n).map(|(_, when)| when);
        let stop = due(self.stop_at_call, self.call_count)
            .or_else(|| due(self.stop_at_sync, self.sync_count).filter(|_| is_sync));
        if let Some(when) = stop {
            self.is_stopped = true;
            return if when == When::Before { Verdict::Dead } else { Verdict::DoneUnseen };
        }
        self.strike(call, path).map_or(Verdict::Done, Verdict::Fails)
    }

    /// Lets every fault that matches count the call; the first that is due strikes.
    fn strike(&mut self, call: Call, path: &Path) -> Option<Failure> {
        let mut failure = None;
        self.faults.retain_mut(|fault| {
            if !fault.matches(call, path) {
                return true;
            }
            if fault.calls_left > 0 {
                fault.calls_left -= 1;
                return true;
            }
            let strikes = failure.is_none();
            failure = failure.or(Some(fault.failure));
            fault.is_lasting || !strikes
        });
        failure
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> io::Error {
        // The numbers are the same on every Unix, so that the error looks like the real one.
        io::Error::from_raw_os_error(match failure {
            Failure::Io => 5,
            Failure::NoSpace => 28,
            Failure::Short => unreachable!("a short call is no error"),
        })
    }
}
