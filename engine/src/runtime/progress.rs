//! How far the dataflow is: what the recorder waits for, and the tables commit up to.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::turns;
use crate::epoch::Epoch;

/// Shared between the recorder, the workers and the tables' threads.
#[derive(Debug, Default)]
pub(super) struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Last epoch that was closed towards the dataflow.
    sealed: Epoch,
    /// Last epoch whose results have all been handed to the tables' threads.
    completed: Epoch,
    /// Last epoch whose Seal is known to be durable.
    durable: Epoch,
    /// Messages of the epochs after `completed`.
    messages: BTreeMap<Epoch, u64>,
    /// Whether the workers have ended.
    ended: bool,
}

impl Progress {
    /// Begins behind an epoch that is complete and durable.
    pub(super) fn behind(epoch: Epoch) -> Progress {
        let state = State { sealed: epoch, completed: epoch, durable: epoch, ..State::default() };
        Progress { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Notes messages that go into an epoch.
    pub(super) fn feed(&self, epoch: Epoch, messages: u64) {
        *self.state.lock().messages.entry(epoch).or_default() += messages;
    }

    /// Notes that an epoch is closed towards the dataflow.
    pub(super) fn seal(&self, epoch: Epoch) {
        self.state.lock().sealed = epoch;
    }

    /// Notes that all epochs before the frontier are complete.
    pub(super) fn complete(&self, frontier: Option<Epoch>) {
        let mut state = self.state.lock();
        let completed = frontier.map_or(state.sealed, |frontier| Epoch(frontier.0.saturating_sub(1)));
        if completed > state.completed {
            state.completed = completed;
            state.messages = state.messages.split_off(&completed.next());
            self.changed.notify_all();
        }
    }

    /// Notes that the log is durable up to this epoch.
    pub(super) fn durable(&self, epoch: Epoch) {
        let mut state = self.state.lock();
        if state.durable != epoch {
            state.durable = epoch;
            self.changed.notify_all();
        }
    }

    /// Whether the log is sure to have an epoch after a power loss.
    pub(super) fn is_durable(&self, epoch: Epoch) -> bool {
        self.state.lock().durable >= epoch
    }

    /// The last epoch that tables may commit: complete, and never more than the log is sure to have after a power loss.
    pub(super) fn committable(&self) -> Epoch {
        let state = self.state.lock();
        state.completed.min(state.durable)
    }

    /// Notes that the workers have ended: nothing will be completed any more.
    pub(super) fn end(&self) {
        self.state.lock().ended = true;
        self.changed.notify_all();
    }

    pub(super) fn sealed(&self) -> Epoch {
        self.state.lock().sealed
    }

    pub(super) fn completed(&self) -> Epoch {
        self.state.lock().completed
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.state.lock().messages.values().sum()
    }

    /// Waits until an epoch is complete or the workers have ended; at most `timeout`. Returns whether it is.
    pub(super) fn wait_completed(&self, epoch: Epoch, timeout: Duration) -> bool {
        let mut state = self.state.lock();
        if state.completed < epoch && !state.ended {
            turns::wait(&self.changed, &mut state, Some(timeout));
        }
        state.completed >= epoch
    }

    /// Waits until tables may commit an epoch, or something has changed; at most `timeout`. Returns whether they may.
    pub(super) fn wait_committable(&self, epoch: Epoch, timeout: Duration) -> bool {
        let mut state = self.state.lock();
        if state.completed.min(state.durable) < epoch && !state.ended {
            turns::wait(&self.changed, &mut state, Some(timeout));
        }
        state.completed.min(state.durable) >= epoch
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state.lock().ended
    }
}
