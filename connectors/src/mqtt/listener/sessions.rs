//! The sessions of all clients, by client id: who owns one, what is kept while its client is away, and for how long.
//!
//! ```text
//!            claim                    enter                        leave
//!   CONNECT ───────► owner (the older   ─────► in the session ───────────► away ──(expires)──► gone
//!                    one is told to go)  waits                 │             ▲
//!                                        for the older         │             │ a restart: all that the log knows
//!                                                              └─(ends with its connection)──► gone
//! ```
//!
//! An id has one owner: the last that claimed it. The session itself is behind a lock that the owner holds from `enter` to
//! `leave`, so a newer connection finds all that the older one has acknowledged. In a storm of takeovers each claim ends the
//! one before it, which gives up where it waits: two are alive at most.
//!
//! What outlives the process are notes in the log: of the session (`note.rs`), of what its client must get (`saved.rs`), and of a
//! will that waits (`will.rs`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemill_engine::source::{Note, Stop};
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard};
use tokio::time::Instant;

use super::super::remembered::{Lasts, Remembered};
use super::delivery::Grant;
use super::hub::Hub;
use super::mailbox::Mailbox;
use super::note;
use super::outbox::Outbox;
use super::will::Bequest;

/// How many sessions may outlive their connections. Beyond it no new one is begun, by name.
pub(super) const SESSIONS_KEPT_MAX: usize = 10_000;
/// How many subscriptions a session may have.
pub(super) const SUBSCRIPTIONS_MAX: usize = 100;

/// How long a session outlives its connection, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Expiry(pub(super) u32);

impl Expiry {
    /// Says whether it outlives it at all.
    pub(super) fn outlives(self) -> bool {
        self.0 > 0
    }

    fn duration(self) -> Duration {
        Duration::from_secs(u64::from(self.0))
    }
}

/// A client's session.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) expiry: Expiry,
    pub(super) subscriptions: BTreeMap<String, Grant>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) outbox: Outbox,
    /// What is known of the messages that its client has sent.
    pub(super) remembered: Remembered,
    /// With which expiry the log knows it, if it does.
    pub(super) noted: Option<Expiry>,
    /// What is to be published, and when, if its client is not back by then.
    pub(super) will: Option<(Instant, Bequest)>,
}

impl Kept {
    /// Begins a session. `first` is the number of its first message: any, but not always the same one, so that a client
    /// that remembers packet ids from before a restart of ours does not take a new message for an old one.
    pub(super) fn new(number: u64, first: u64, client_id: &str) -> Kept {
        Kept {
            expiry: Expiry::default(),
            subscriptions: BTreeMap::new(),
            mailbox: Mailbox::new(number, first),
            outbox: Outbox::new(first),
            remembered: Remembered::new(client_id, Lasts::InLog),
            noted: None,
            will: None,
        }
    }

    /// Ends it: nothing is sent to it any more. Returns what the log need not know any more.
    pub(super) fn end(mut self, client_id: &str, hub: &Hub) -> Vec<Note> {
        for filter in self.subscriptions.keys() {
            hub.unsubscribe(self.mailbox.number, filter);
        }
        let mut notes = self.remembered.end();
        notes.extend(self.mailbox.stop_saving());
        notes.extend(self.noted.map(|_| note::forget(client_id)));
        notes
    }
}

type Slot = Arc<AsyncMutex<Option<Kept>>>;

struct Entry {
    /// The last that claimed it, until it leaves.
    owner: Option<(u64, Stop)>,
    slot: Slot,
    /// Whether it outlives its connection; there is a bound on those.
    is_kept: bool,
    expires_at: Option<Instant>,
    will_at: Option<Instant>,
}

#[derive(Default)]
struct Table {
    next_number: u64,
    kept_count: usize,
    by_id: HashMap<Arc<str>, Entry>,
    /// When to look at which entry.
    due: BTreeSet<(Instant, Arc<str>)>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Sessions {
    table: Mutex<Table>,
    /// Told when something is due earlier than before.
    pub(super) changed: Notify,
}

/// The right to a client id, until somebody else claims it.
pub(super) struct Claim {
    pub(super) id: Arc<str>,
    pub(super) number: u64,
    /// Cancelled when somebody else has claimed it.
    pub(super) taken_over: Stop,
    slot: Slot,
}

/// A session in the hands of its owner.
pub(super) type Entered = OwnedMutexGuard<Option<Kept>>;

/// There are [`SESSIONS_KEPT_MAX`] sessions already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany;

impl Sessions {
    /// Makes the caller the owner of an id; who owned it before is told to go.
    pub(super) fn claim(&self, id: &str) -> Claim {
        self.table.lock().claim(id)
    }

    /// Claims an id whose session has expired, unless its client is back.
    pub(super) fn claim_expired(&self, id: &str, now: Instant) -> Option<Claim> {
        let mut table = self.table.lock();
        let has_expired = table.by_id.get(id).is_some_and(|entry| entry.has_expired(now));
        has_expired.then(|| table.claim(id))
    }

    /// Returns a number that no other mailbox has.
    pub(super) fn new_number(&self) -> u64 {
        self.table.lock().next_number()
    }

    /// Says that a session shall outlive its connection, or shall not.
    pub(super) fn set_kept(&self, claim: &Claim, is_kept: bool) -> Result<(), TooMany> {
        let mut table = self.table.lock();
        let Table { kept_count, by_id, .. } = &mut *table;
        let Some(entry) = by_id.get_mut(&claim.id) else { return Ok(()) };
        match (entry.is_kept, is_kept) {
            (false, true) if *kept_count >= SESSIONS_KEPT_MAX => return Err(TooMany),
            (false, true) => *kept_count += 1,
            (true, false) => *kept_count -= 1,
            _ => {}
        }
        entry.is_kept = is_kept;
        Ok(())
    }

    /// Gives an id and its session back.
    pub(super) fn leave(&self, claim: &Claim, entered: Entered) {
        let expiry = entered.as_ref().map_or(Expiry(0), |kept| kept.expiry);
        let will_at = entered.as_ref().and_then(|kept| kept.will.as_ref()).map(|(at, _)| *at);
        // The lock first: whoever finds the id free must find the session free as well.
        drop(entered);
        let mut table = self.table.lock();
        let Table { by_id, due, kept_count, .. } = &mut *table;
        let Some(entry) = by_id.get_mut(&claim.id) else { return };
        if entry.owner.as_ref().is_none_or(|(number, _)| *number != claim.number) {
            return;
        }
        entry.owner = None;
        let now = Instant::now();
        if !expiry.outlives() {
            *kept_count -= usize::from(entry.is_kept);
            by_id.remove(&claim.id);
            return;
        }
        if expiry.0 != u32::MAX {
            let at = now + expiry.duration();
            entry.expires_at = Some(at);
            due.insert((at, Arc::clone(&claim.id)));
        }
        entry.will_at = will_at;
        due.extend(will_at.map(|at| (at, Arc::clone(&claim.id))));
        drop(table);
        self.changed.notify_one();
    }

    /// Puts back a session that the log knows; its client is away.
    pub(super) fn restore(&self, id: &str, kept: Kept) {
        let claim = self.claim(id);
        let mut entered =
            Arc::clone(&claim.slot).try_lock_owned().expect("nobody has a session before the source runs");
        *entered = Some(kept);
        // What the log knows is kept, even if a later version has a smaller bound.
        let mut table = self.table.lock();
        table.kept_count += 1;
        table.by_id.get_mut(&claim.id).expect("just claimed").is_kept = true;
        drop(table);
        self.leave(&claim, entered);
    }

    /// Returns when something is due next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.table.lock().due.first().map(|(at, _)| *at)
    }

    /// Takes what is due: wills to be published, and ids whose sessions have expired, for their owner-to-be to end.
    pub(super) fn take_due(&self, now: Instant) -> (Vec<Bequest>, Vec<Arc<str>>) {
        let mut table = self.table.lock();
        let (mut wills, mut expired) = (Vec::new(), Vec::new());
        while let Some((at, _)) = table.due.first()
            && *at <= now
        {
            let (_, id) = table.due.pop_first().expect("just seen");
            let Some(entry) = table.by_id.get_mut(&id) else { continue };
            // A session that ends ends its will's delay too.
            let has_expired = entry.has_expired(now);
            if entry.owner.is_none()
                && let Ok(mut slot) = entry.slot.try_lock()
                && let Some(kept) = slot.as_mut()
            {
                let will = kept.will.take_if(|(at, _)| *at <= now || has_expired);
                wills.extend(will.map(|(_, will)| will));
            }
            if has_expired && !expired.contains(&id) {
                expired.push(id);
            }
        }
        (wills, expired)
    }

    /// Forgets everything: the source begins again with what the log knows.
    pub(super) fn clear(&self) {
        let mut table = self.table.lock();
        let next_number = table.next_number;
        *table = Table { next_number, ..Table::default() };
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.table.lock().by_id.len()
    }
}

impl Claim {
    /// Waits until the older connection has left the session.
    pub(super) async fn enter(&self) -> Entered {
        Arc::clone(&self.slot).lock_owned().await
    }
}

impl Entry {
    fn has_expired(&self, now: Instant) -> bool {
        self.owner.is_none() && self.expires_at.is_some_and(|at| at <= now)
    }

    fn new() -> Entry {
        Entry { owner: None, slot: Arc::default(), is_kept: false, expires_at: None, will_at: None }
    }
}

impl Table {
    fn claim(&mut self, id: &str) -> Claim {
        let number = self.next_number();
        let id: Arc<str> = match self.by_id.get_key_value(id) {
            Some((id, _)) => Arc::clone(id),
            None => Arc::from(id),
        };
        let taken_over = Stop::new();
        let entry = self.by_id.entry(Arc::clone(&id)).or_insert_with(Entry::new);
        // Whoever comes and goes leaves no trace in the list of what is due.
        for at in [entry.expires_at.take(), entry.will_at.take()].into_iter().flatten() {
            self.due.remove(&(at, Arc::clone(&id)));
        }
        if let Some((_, older)) = entry.owner.replace((number, taken_over.clone())) {
            older.cancel();
        }
        Claim { id, number, taken_over, slot: Arc::clone(&entry.slot) }
    }

    fn next_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(expiry_s: u32) -> Kept {
        Kept { expiry: Expiry(expiry_s), ..Kept::new(1, 1, "a") }
    }

    #[tokio::test]
    async fn a_newer_connection_finds_what_the_older_one_left() {
        let sessions = Sessions::default();
        let first = sessions.claim("a");
        let mut entered = first.enter().await;
        *entered = Some(kept(60));
        let second = sessions.claim("a");
        assert!(first.taken_over.is_cancelled());
        let third = sessions.claim("a");
        assert!(second.taken_over.is_cancelled() && !third.taken_over.is_cancelled());
        sessions.leave(&first, entered);
        let entered = third.enter().await;
        assert_eq!(entered.as_ref().map(|kept| kept.expiry), Some(Expiry(60)));
        sessions.leave(&third, entered);
        assert_eq!(sessions.count(), 1);
    }

    #[tokio::test]
    async fn a_session_expires_when_its_client_is_away_for_so_long() {
        let sessions = Sessions::default();
        for (id, expiry_s) in [("a", 0), ("b", 10), ("c", u32::MAX)] {
            let claim = sessions.claim(id);
            let mut entered = claim.enter().await;
            *entered = Some(kept(expiry_s));
            sessions.leave(&claim, entered);
        }
        assert_eq!(sessions.count(), 2, "what ends with its connection is gone");
        let due = sessions.next_due().expect("one expires");
        let now = Instant::now();
        assert!((now..=now + Duration::from_secs(10)).contains(&due), "{due:?}");
        assert!(sessions.take_due(due - Duration::from_millis(1)).1.is_empty());
        let back = sessions.claim("b");
        assert!(sessions.take_due(now + Duration::from_secs(11)).1.is_empty(), "it is back");
        let entered = back.enter().await;
        sessions.leave(&back, entered);
        let (_, expired) = sessions.take_due(now + Duration::from_secs(20));
        assert_eq!(expired, [Arc::from("b")]);
    }

    #[tokio::test]
    async fn there_are_no_more_kept_sessions_than_the_bound() {
        let sessions = Sessions::default();
        for idx in 0..SESSIONS_KEPT_MAX {
            assert_eq!(sessions.set_kept(&sessions.claim(&format!("c{idx}")), true), Ok(()));
        }
        let one_more = sessions.claim("one more");
        assert_eq!(sessions.set_kept(&one_more, true), Err(TooMany));
        assert_eq!(sessions.set_kept(&sessions.claim("c0"), true), Ok(()), "an old one goes on");
        assert_eq!(sessions.set_kept(&sessions.claim("c0"), false), Ok(()));
        assert_eq!(sessions.set_kept(&one_more, true), Ok(()));
    }
}
