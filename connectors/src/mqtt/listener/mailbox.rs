//! The messages that wait for one subscriber, in the order of their numbers.
//!
//! ```text
//!   reserve: its note is on the way to the log ──(durable)──► ready ─┐
//!   put: in memory only ──────────────────────────────────────► ready ─┴─► take
//! ```
//!
//! A message for a session that outlives its connection has its place, and its number, from when its record is made, and is
//! taken when that is durable. So numbers, and with them packet ids, are the same after a restart; what stands behind such a
//! message waits for it.
//!
//! A mailbox takes [`MAILBOX_MESSAGES_MAX`] messages and [`MAILBOX_BYTES_MAX`]. Beyond that, messages of QoS 0 are dropped, and
//! a message of QoS 1 or 2 ends the connection of a subscriber that is too slow for it. For an absent subscriber with a
//! session the first messages are kept and later ones dropped.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tidemill_engine::source::Note;
use tokio::sync::Notify;

use super::super::packet::QoS;
use super::delivery::Delivery;
use super::saved::{self, Notes, Place, Room, Share};

/// How many messages may wait for one subscriber.
pub(super) const MAILBOX_MESSAGES_MAX: usize = 4_096;
/// How many bytes of messages may wait for one subscriber.
pub(super) const MAILBOX_BYTES_MAX: usize = 4 << 20;
/// How many retained messages may wait for one subscriber. Beyond it a subscription is refused until they are read.
pub(super) const RETAINED_WAITING_MAX: usize = 20_000;

/// See the module.
#[derive(Debug)]
pub(in crate::mqtt) struct Mailbox {
    pub(super) number: u64,
    waiting: Mutex<Waiting>,
    /// Told when there is something, or too much.
    pub(in crate::mqtt) bell: Notify,
}

/// What waits at a place, for the owner of the session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// A message that was never sent.
    New(Delivery),
    /// A message from before a restart: perhaps it was sent.
    PerhapsSent(Delivery),
    /// The client has it from before a restart, and waits for its PUBREL.
    Received,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Published,
    /// It was retained before the subscription; those have a bound of their own.
    Retained,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    waits: Waits,
    origin: Origin,
    /// Not while its note is on its way to the log.
    is_ready: bool,
}

impl Entry {
    fn delivery(&self) -> Option<&Delivery> {
        match &self.waits {
            Waits::New(delivery) | Waits::PerhapsSent(delivery) => Some(delivery),
            Waits::Received => None,
        }
    }

    fn byte_count(&self) -> usize {
        self.delivery().map_or(0, |delivery| delivery.publication.byte_count())
    }
}

#[derive(Debug)]
struct Waiting {
    next_number: u64,
    entries: VecDeque<Entry>,
    published_count: usize,
    published_bytes: usize,
    retained_count: usize,
    is_present: bool,
    overflowed: bool,
    saving: Option<Saving>,
}

/// How the log knows the session, and what it has of its messages: waiting or in flight.
#[derive(Debug)]
struct Saving {
    tag: u64,
    shares: BTreeMap<u64, Share>,
    /// What the log need not know any more, and was not told.
    gone: Vec<u64>,
    /// One of those whose messages are saved, until it is dropped.
    _saver: Saver,
}

/// Counts the mailboxes whose messages are saved: where there are none, nobody looks for them.
#[derive(Clone, Debug, Default)]
pub(super) struct Savers(Arc<AtomicUsize>);

#[derive(Debug)]
struct Saver(Savers);

impl Savers {
    /// Says whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }

    fn add(&self) -> Saver {
        self.0.fetch_add(1, Ordering::AcqRel);
        Saver(self.clone())
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A place in a mailbox whose note is on its way to the log. Dropped before it is ready, it is given up.
#[derive(Debug)]
pub(super) struct Reserved {
    mailbox: Arc<Mailbox>,
    number: Option<u64>,
}

impl Reserved {
    /// Returns the number of the mailbox.
    pub(super) fn mailbox_number(&self) -> u64 {
        self.mailbox.number
    }

    /// Says that the note is durable. Returns the mailbox.
    pub(super) fn ready(mut self) -> Arc<Mailbox> {
        if let Some(number) = self.number.take() {
            self.mailbox.waiting.lock().ready(number);
            self.mailbox.bell.notify_one();
        }
        Arc::clone(&self.mailbox)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(number) = self.number.take() {
            self.mailbox.waiting.lock().give_up(number);
            self.mailbox.bell.notify_one();
        }
    }
}

impl Mailbox {
    /// Makes one whose first message has the number `first`.
    pub(super) fn new(number: u64, first: u64) -> Arc<Mailbox> {
        let waiting = Waiting {
            next_number: first,
            entries: VecDeque::new(),
            published_count: 0,
            published_bytes: 0,
            retained_count: 0,
            is_present: false,
            overflowed: false,
            saving: None,
        };
        Arc::new(Mailbox { number, waiting: Mutex::new(waiting), bell: Notify::new() })
    }

    /// Says that the session outlives its connection: from now on the log is to know its messages, under this tag if it has none
    /// yet. Returns the tag.
    pub(super) fn save(&self, tag: u64, savers: &Savers) -> u64 {
        let mut waiting = self.waiting.lock();
        let begin = || Saving { tag, shares: BTreeMap::new(), gone: Vec::new(), _saver: savers.add() };
        waiting.saving.get_or_insert_with(begin).tag
    }

    /// Returns the tag by which the log knows the session.
    pub(super) fn tag(&self) -> Option<u64> {
        self.waiting.lock().saving.as_ref().map(|saving| saving.tag)
    }

    /// Says that the session ends, or will end with its connection. Returns what the log need not know any more.
    pub(super) fn stop_saving(&self) -> Vec<Note> {
        let Some(saving) = self.waiting.lock().saving.take() else { return Vec::new() };
        let Saving { tag, shares, gone, .. } = saving;
        gone.into_iter().chain(shares.into_keys()).map(|number| Place { tag, number }.done()).collect()
    }

    /// Returns what the log need not know any more, since the last call.
    pub(super) fn take_gone(&self) -> Vec<Note> {
        let mut waiting = self.waiting.lock();
        let Some(Saving { tag, gone, .. }) = &mut waiting.saving else { return Vec::new() };
        let tag = *tag;
        std::mem::take(gone).into_iter().map(|number| Place { tag, number }.done()).collect()
    }

    /// Puts back a message that the log knows; those of one session come in their order, before all others.
    pub(super) fn restore(&self, number: u64, what: saved::Waiting, share: Share) {
        let mut waiting = self.waiting.lock();
        if let Some(saving) = &mut waiting.saving {
            saving.shares.insert(number, share);
        }
        waiting.next_number = number;
        let waits = match what {
            saved::Waiting::Message(delivery) => Waits::PerhapsSent(delivery),
            saved::Waiting::Received => Waits::Received,
        };
        waiting.push(waits, Origin::Published, true);
    }

    /// Says that the subscriber is there, or is gone: then messages of QoS 0 do not wait for it, nor copies of retained ones
    /// that the log does not know.
    pub(super) fn set_present(&self, is_present: bool) {
        let mut waiting = self.waiting.lock();
        waiting.is_present = is_present;
        waiting.overflowed = false;
        if is_present {
            return;
        }
        let Waiting { entries, saving, .. } = &mut *waiting;
        let is_saved = |number| saving.as_ref().is_some_and(|saving| saving.shares.contains_key(&number));
        entries.retain(|entry| {
            let waits = entry.delivery().is_none_or(|delivery| delivery.qos != QoS::AtMostOnce);
            waits && (entry.origin == Origin::Published || is_saved(entry.number))
        });
        waiting.count();
    }

    /// Takes the next message, with its number.
    pub(super) fn take(&self) -> Option<(u64, Waits)> {
        let mut waiting = self.waiting.lock();
        let entry = waiting.entries.pop_front_if(|entry| entry.is_ready)?;
        waiting.uncount(&entry);
        Some((entry.number, entry.waits))
    }

    /// Says whether the subscriber was too slow for a message that it must not miss.
    pub(super) fn has_overflowed(&self) -> bool {
        self.waiting.lock().overflowed
    }

    /// Says whether so many retained messages wait that a subscription must.
    pub(super) fn is_full_of_retained(&self) -> bool {
        self.waiting.lock().retained_count >= RETAINED_WAITING_MAX
    }

    /// Says whether a subscriber that is there has much to read.
    pub(super) fn is_half_full(&self) -> bool {
        let waiting = self.waiting.lock();
        let is_half_full =
            waiting.published_count >= MAILBOX_MESSAGES_MAX / 2 || waiting.published_bytes >= MAILBOX_BYTES_MAX / 2;
        waiting.is_present && is_half_full
    }

    /// Adds what was retained before a subscription. Returns those whose notes are on their way to the log.
    pub(super) fn put_retained(
        self: &Arc<Self>,
        deliveries: impl Iterator<Item = Delivery>,
        notes: &mut Notes,
        room: &Arc<Room>,
    ) -> Vec<Reserved> {
        let mut waiting = self.waiting.lock();
        let mut reserved = Vec::new();
        for delivery in deliveries {
            let has_room = waiting.saving.as_ref().is_some_and(|saving| saving.shares.len() < MAILBOX_MESSAGES_MAX);
            let is_saved = has_room && waiting.save(&delivery, notes, room);
            let number = waiting.push(Waits::New(delivery), Origin::Retained, !is_saved);
            reserved.extend(is_saved.then(|| Reserved { mailbox: Arc::clone(self), number: Some(number) }));
        }
        drop(waiting);
        self.bell.notify_one();
        reserved
    }

    /// Keeps a place for a message that is going to be durable, and notes it; `None` if the log is not to know it, or there is
    /// no room: then it is to be [`put`](Mailbox::put) when it is durable.
    pub(super) fn reserve(
        self: &Arc<Self>,
        delivery: &Delivery,
        notes: &mut Notes,
        room: &Arc<Room>,
    ) -> Option<Reserved> {
        let mut waiting = self.waiting.lock();
        if delivery.qos == QoS::AtMostOnce || !waiting.has_room(delivery) || !waiting.save(delivery, notes, room) {
            return None;
        }
        let number = waiting.push(Waits::New(delivery.clone()), Origin::Published, false);
        Some(Reserved { mailbox: Arc::clone(self), number: Some(number) })
    }

    /// Adds a message in memory; returns whether it was taken.
    pub(super) fn put(&self, delivery: Delivery) -> bool {
        let mut waiting = self.waiting.lock();
        let qos = delivery.qos;
        let taken = waiting.has_room(&delivery);
        if taken {
            waiting.push(Waits::New(delivery), Origin::Published, true);
        } else if waiting.is_present && qos != QoS::AtMostOnce {
            waiting.overflowed = true;
        }
        drop(waiting);
        self.bell.notify_one();
        taken
    }

    /// Says that the client has received a message of QoS 2. Returns what the log must know before the PUBREL; `None` if it
    /// does not know the message.
    pub(super) fn received(&self, number: u64) -> Option<Note> {
        let waiting = self.waiting.lock();
        let saving = waiting.saving.as_ref()?;
        saving.shares.contains_key(&number).then(|| Place { tag: saving.tag, number }.received())
    }

    /// Says that the client is done with a message. Returns what the log need not know any more.
    pub(super) fn done(&self, number: u64) -> Option<Note> {
        let mut waiting = self.waiting.lock();
        let saving = waiting.saving.as_mut()?;
        saving.shares.remove(&number).map(|_| Place { tag: saving.tag, number }.done())
    }

    /// Says that a message is not sent after all; the log is told with the next [`Mailbox::take_gone`].
    pub(super) fn drop_one(&self, number: u64) {
        self.waiting.lock().forget(number);
    }
}

impl Waiting {
    /// Says whether there is room for a message. One large message is taken by an empty mailbox.
    fn has_room(&self, delivery: &Delivery) -> bool {
        let bytes = self.published_bytes + delivery.publication.byte_count();
        let is_full = self.published_count >= MAILBOX_MESSAGES_MAX || bytes > MAILBOX_BYTES_MAX;
        match delivery.qos {
            QoS::AtMostOnce => self.is_present && !is_full,
            _ => !is_full || self.published_count == 0,
        }
    }

    /// Notes the message that is pushed next, if the log is to know it and has room for it; returns whether.
    fn save(&mut self, delivery: &Delivery, notes: &mut Notes, room: &Arc<Room>) -> bool {
        let Some(saving) = self.saving.as_mut().filter(|_| delivery.qos != QoS::AtMostOnce) else { return false };
        let place = Place { tag: saving.tag, number: self.next_number };
        let Some(share) = notes.save(place.waits(delivery), room) else { return false };
        saving.shares.insert(place.number, share);
        true
    }

    fn push(&mut self, waits: Waits, origin: Origin, is_ready: bool) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        let entry = Entry { number, waits, origin, is_ready };
        match origin {
            Origin::Published => {
                self.published_count += 1;
                self.published_bytes += entry.byte_count();
            }
            Origin::Retained => self.retained_count += 1,
        }
        self.entries.push_back(entry);
        number
    }

    fn uncount(&mut self, entry: &Entry) {
        match entry.origin {
            Origin::Published => {
                self.published_count -= 1;
                self.published_bytes -= entry.byte_count();
            }
            Origin::Retained => self.retained_count -= 1,
        }
    }

    fn count(&mut self) {
        let published = self.entries.iter().filter(|entry| entry.origin == Origin::Published);
        self.published_count = published.clone().count();
        self.published_bytes = published.map(Entry::byte_count).sum();
        self.retained_count = self.entries.len() - self.published_count;
    }

    fn ready(&mut self, number: u64) {
        if let Ok(at) = self.entries.binary_search_by_key(&number, |entry| entry.number) {
            self.entries[at].is_ready = true;
        }
    }

    fn give_up(&mut self, number: u64) {
        if let Ok(at) = self.entries.binary_search_by_key(&number, |entry| entry.number) {
            let entry = self.entries.remove(at).expect("just found");
            self.uncount(&entry);
        }
        self.forget(number);
    }

    fn forget(&mut self, number: u64) {
        if let Some(saving) = &mut self.saving
            && saving.shares.remove(&number).is_some()
        {
            saving.gone.push(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::hub::Publication;
    use super::*;

    fn delivery(qos: QoS) -> Delivery {
        Delivery { publication: Arc::new(Publication { qos, ..Publication::default() }), qos, ..Delivery::default() }
    }

    fn numbers(mailbox: &Mailbox) -> Vec<u64> {
        std::iter::from_fn(|| mailbox.take()).map(|(number, _)| number).collect()
    }

    #[test]
    fn what_is_on_its_way_to_the_log_holds_back_what_is_behind_it_until_it_is_there_or_given_up() {
        let (mailbox, room, savers) = (Mailbox::new(1, 7), Arc::new(Room::default()), Savers::default());
        let (mut notes, waits) = (Notes::default(), delivery(QoS::AtLeastOnce));
        assert!(mailbox.reserve(&waits, &mut notes, &room).is_none(), "the session ends with its connection");
        assert_eq!(mailbox.save(9, &savers), 9);
        assert_eq!(mailbox.save(10, &savers), 9, "a session has one tag");
        mailbox.set_present(true);
        let mut reserve = || mailbox.reserve(&waits, &mut notes, &room).expect("there is room");
        let (first, second, third) = (reserve(), reserve(), reserve());
        assert!(mailbox.put(delivery(QoS::AtMostOnce)));
        let _ = second.ready();
        assert_eq!(numbers(&mailbox), [0; 0]);
        let _ = first.ready();
        assert_eq!(numbers(&mailbox), [7, 8]);
        drop(third);
        assert_eq!(numbers(&mailbox), [10]);
        let place = |number| Place { tag: 9, number };
        assert_eq!(mailbox.take_gone(), [place(9).done()], "its note may be in the log all the same");
        assert_eq!(mailbox.done(7), Some(place(7).done()));
        assert_eq!((mailbox.done(7), mailbox.received(10)), (None, None), "the log does not know them");
        assert_eq!((mailbox.stop_saving(), savers.is_empty(), room.bytes()), (vec![place(8).done()], true, 0));
    }

    #[test]
    fn who_leaves_loses_what_may_be_lost_and_copies_that_the_log_does_not_know() {
        let (mailbox, room, savers) = (Mailbox::new(1, 1), Arc::new(Room::default()), Savers::default());
        let mut notes = Notes::default();
        mailbox.set_present(true);
        let copies = [delivery(QoS::AtLeastOnce)].into_iter();
        assert!(mailbox.put_retained(copies.clone(), &mut notes, &room).is_empty());
        mailbox.save(9, &savers);
        let known = mailbox.put_retained(copies, &mut notes, &room);
        known.into_iter().for_each(|reserved| drop(reserved.ready()));
        assert!(mailbox.put(delivery(QoS::AtMostOnce)) && mailbox.put(delivery(QoS::ExactlyOnce)));
        mailbox.set_present(false);
        assert_eq!(numbers(&mailbox), [2, 4]);
    }
}
