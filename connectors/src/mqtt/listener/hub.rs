//! Where what is published meets those who subscribed: bounded, and never waiting for anybody.
//!
//! ```text
//!   a device's message      ─┐            (durable)           ┌─► Mailbox ─► its connection, or nobody for a while
//!   a will                  ─┼─► announce ─────────► publish ─┼─► Mailbox
//!   a row of an `mqtt` sink ─┘      │                   │     └─► …
//!                                   └► notes            └─► Retained: the last message of each topic that asked for it
//! ```
//!
//! One copy for each subscriber, whatever of its filters match: at the highest QoS granted, with all subscription ids.
//!
//! What a session must not miss that outlives its connection is announced before it is published: the record of the message has
//! a note for each such subscriber (`saved.rs`), and its mailbox a place for it. Where there is no such session, nothing of that
//! is done. All that is dropped is counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tidemill_engine::source::Note;
use tokio::time::Instant;

use super::super::packet::QoS;
use super::delivery::{Delivery, Grant};
use super::mailbox::{Mailbox, Reserved, Savers};
use super::retained::Retained;
use super::saved::{Notes, Room};
use super::tree::Tree;

/// A message for whoever subscribes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Publication {
    pub(super) topic: Bytes,
    pub(super) payload: Bytes,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// Properties of MQTT 5 as on the wire, without topic alias and subscription ids.
    pub(super) properties: Bytes,
    /// The mailbox of its publisher, if that is a client of the listener.
    pub(super) publisher: Option<u64>,
    /// When it is of no more use.
    pub(super) expires_at: Option<Instant>,
}

impl Publication {
    /// Returns its topic.
    pub(super) fn topic(&self) -> &str {
        std::str::from_utf8(&self.topic).unwrap_or_default()
    }

    /// Says whether it is of no more use.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Copies it: one that waits must not hold the buffer that it was read into.
    pub(super) fn detached(&self) -> Publication {
        Publication {
            topic: Bytes::copy_from_slice(&self.topic),
            payload: Bytes::copy_from_slice(&self.payload),
            properties: Bytes::copy_from_slice(&self.properties),
            ..*self
        }
    }

    pub(super) fn byte_count(&self) -> usize {
        // With what an entry takes by itself.
        64 + self.topic.len() + self.payload.len() + self.properties.len()
    }
}

/// A message whose record is made: published when that is durable.
#[derive(Debug)]
pub(super) struct Announced {
    publication: Announcement,
    /// The places it has in mailboxes.
    reserved: Vec<Reserved>,
}

#[derive(Debug)]
enum Announcement {
    /// It may hold the buffer that it was read into, for the moment.
    AsRead(Publication),
    /// It waits already.
    Detached(Arc<Publication>),
}

/// Where publishers and subscribers of one listener meet.
#[derive(Default)]
pub(super) struct Hub {
    /// How many filters are subscribed: who publishes to nobody should not pay for it.
    filter_count: AtomicUsize,
    tree: RwLock<Tree<Arc<Mailbox>, Grant>>,
    retained: Mutex<Retained>,
    dropped: AtomicUsize,
    savers: Savers,
    room: Arc<Room>,
}

/// Who gets a message, by the numbers of their mailboxes, so that the order is the same each time.
type Receivers = BTreeMap<u64, (Arc<Mailbox>, Delivery)>;

impl Hub {
    /// Says whether a message that is not retained would reach nobody.
    pub(super) fn is_idle(&self) -> bool {
        self.filter_count.load(Ordering::Acquire) == 0
    }

    /// Returns the room for what the log holds of sessions.
    pub(super) fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// Says that a session outlives its connection: see [`Mailbox::save`].
    pub(super) fn save(&self, mailbox: &Mailbox, tag: u64) -> u64 {
        mailbox.save(tag, &self.savers)
    }

    /// Takes a message whose record is being made, and adds what the log must know of it.
    pub(super) fn announce(&self, publication: Publication, notes: &mut Notes) -> Announced {
        if publication.retain {
            notes.list.extend(self.retained.lock().notes_of(&publication));
        }
        if publication.qos == QoS::AtMostOnce || self.savers.is_empty() || self.is_idle() {
            return Announced { publication: Announcement::AsRead(publication), reserved: Vec::new() };
        }
        let publication = Arc::new(publication.detached());
        let receivers = self.receivers(&publication).into_values();
        let reserved =
            receivers.filter_map(|(mailbox, delivery)| mailbox.reserve(&delivery, notes, &self.room)).collect();
        Announced { publication: Announcement::Detached(publication), reserved }
    }

    /// Begins with the retained messages that the log knows; returns what it need not know any more.
    pub(super) fn restore_retained(&self, notes: &BTreeMap<Bytes, Bytes>) -> Vec<Note> {
        self.retained.lock().restore(notes, Instant::now())
    }

    /// Gives a message, which is durable now, to all who subscribed, and returns them. Does not wait.
    pub(super) fn publish(&self, announced: Announced) -> Vec<Arc<Mailbox>> {
        let Announced { publication, reserved } = announced;
        let publication = match publication {
            Announcement::AsRead(publication) => {
                self.keep_retained(&publication);
                if self.is_idle() {
                    return Vec::new();
                }
                Arc::new(publication.detached())
            }
            Announcement::Detached(publication) => {
                self.keep_retained(&publication);
                publication
            }
        };
        let mut receivers = self.receivers(&publication);
        let mut given = Vec::with_capacity(receivers.len());
        for reserved in reserved {
            receivers.remove(&reserved.mailbox_number());
            given.push(reserved.ready());
        }
        for (mailbox, delivery) in receivers.into_values() {
            if !mailbox.put(delivery) {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            given.push(mailbox);
        }
        given
    }

    fn keep_retained(&self, publication: &Publication) {
        if publication.retain && !self.retained.lock().keep(publication, Instant::now()) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn receivers(&self, publication: &Arc<Publication>) -> Receivers {
        let mut receivers = Receivers::new();
        self.tree.read().matches(publication.topic(), &mut |mailbox, grant| {
            if grant.no_local && publication.publisher == Some(mailbox.number) {
                return;
            }
            let (_, delivery) = receivers.entry(mailbox.number).or_insert_with(|| {
                let publication = Arc::clone(publication);
                (Arc::clone(mailbox), Delivery { publication, ..Delivery::default() })
            });
            delivery.qos = delivery.qos.max(grant.qos.min(publication.qos));
            delivery.retain |= grant.retain_as_published && publication.retain;
            delivery.subscription_ids.extend(grant.subscription_id);
        });
        receivers
    }

    /// Adds or replaces a subscription.
    pub(super) fn subscribe(&self, mailbox: &Arc<Mailbox>, filter: &str, grant: Grant) {
        let is_new = self.tree.write().insert(filter, mailbox.number, Arc::clone(mailbox), grant);
        self.filter_count.fetch_add(usize::from(is_new), Ordering::AcqRel);
    }

    /// Adds or replaces a subscription, and sends what is retained for its filter. Returns what waits for its notes.
    pub(super) fn subscribe_with_retained(
        &self,
        mailbox: &Arc<Mailbox>,
        filter: &str,
        grant: &Grant,
        notes: &mut Notes,
    ) -> Vec<Reserved> {
        // Held over both: a message that is announced meanwhile comes behind the retained one of its topic.
        let mut tree = self.tree.write();
        let is_new = tree.insert(filter, mailbox.number, Arc::clone(mailbox), grant.clone());
        self.filter_count.fetch_add(usize::from(is_new), Ordering::AcqRel);
        let found = self.retained.lock().find(filter, Instant::now());
        let wanted =
            found.into_iter().filter(|publication| !(grant.no_local && publication.publisher == Some(mailbox.number)));
        mailbox.put_retained(wanted.map(|publication| grant.retained(publication)), notes, &self.room)
    }

    /// Removes a subscription; returns whether there was one.
    pub(super) fn unsubscribe(&self, number: u64, filter: &str) -> bool {
        let was_there = self.tree.write().remove(filter, number);
        self.filter_count.fetch_sub(usize::from(was_there), Ordering::AcqRel);
        was_there
    }

    /// Removes all subscriptions: the clients that made them are gone.
    pub(super) fn forget_subscribers(&self) {
        let mut tree = self.tree.write();
        *tree = Tree::default();
        self.filter_count.store(0, Ordering::Release);
    }

    /// Returns how many messages were dropped since the last call.
    pub(super) fn take_dropped(&self) -> usize {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

/// Returns when a message with these properties expires.
pub(super) fn expiry_of(expiry_s: Option<u32>, now: Instant) -> Option<Instant> {
    expiry_s.map(|seconds| now + Duration::from_secs(u64::from(seconds)))
}

#[cfg(test)]
mod tests {
    use super::super::mailbox::{MAILBOX_MESSAGES_MAX, Waits};
    use super::*;

    fn publish(hub: &Hub, publication: Publication) -> Vec<Arc<Mailbox>> {
        let announced = hub.announce(publication, &mut Notes::default());
        hub.publish(announced)
    }

    fn take(mailbox: &Mailbox) -> Option<Delivery> {
        mailbox.take().map(|(_, waits)| match waits {
            Waits::New(delivery) => delivery,
            other => panic!("never saved: {other:?}"),
        })
    }

    fn publication(topic: &str, qos: QoS) -> Publication {
        Publication {
            topic: Bytes::copy_from_slice(topic.as_bytes()),
            payload: Bytes::from_static(b"x"),
            qos,
            retain: false,
            properties: Bytes::new(),
            publisher: None,
            expires_at: None,
        }
    }

    fn grant(qos: QoS) -> Grant {
        Grant { qos, no_local: false, retain_as_published: false, subscription_id: None }
    }

    fn present(hub: &Hub, number: u64, filters: &[(&str, Grant)]) -> Arc<Mailbox> {
        let mailbox = Mailbox::new(number, 1);
        mailbox.set_present(true);
        for (filter, grant) in filters {
            hub.subscribe(&mailbox, filter, grant.clone());
        }
        mailbox
    }

    #[test]
    fn overlapping_filters_bring_one_copy_at_the_highest_qos_with_all_ids() {
        let hub = Hub::default();
        let with_id = |qos, id| Grant { subscription_id: Some(id), ..grant(qos) };
        let mailbox = present(
            &hub,
            1,
            &[
                ("a/#", with_id(QoS::ExactlyOnce, 7)),
                ("a/+", with_id(QoS::AtMostOnce, 9)),
                ("b", with_id(QoS::AtLeastOnce, 3)),
            ],
        );
        assert_eq!(publish(&hub, publication("a/b", QoS::ExactlyOnce)).len(), 1);
        let delivery = take(&mailbox).expect("one copy");
        assert_eq!(delivery.qos, QoS::ExactlyOnce);
        let mut ids = delivery.subscription_ids;
        ids.sort_unstable();
        assert_eq!(ids, [7, 9]);
        assert!(take(&mailbox).is_none());
        assert!(publish(&hub, publication("c", QoS::AtMostOnce)).is_empty());
    }

    #[test]
    fn a_publisher_that_said_no_local_does_not_hear_itself() {
        let hub = Hub::default();
        let own = present(&hub, 1, &[("a", Grant { no_local: true, ..grant(QoS::AtLeastOnce) })]);
        let other = present(&hub, 2, &[("a", grant(QoS::AtLeastOnce))]);
        publish(&hub, Publication { publisher: Some(1), ..publication("a", QoS::AtLeastOnce) });
        assert!(take(&own).is_none());
        assert!(take(&other).is_some());
    }

    #[test]
    fn a_slow_subscriber_loses_qos_0_and_then_its_connection() {
        let hub = Hub::default();
        let mailbox = present(&hub, 1, &[("a", grant(QoS::AtLeastOnce))]);
        for _ in 0..MAILBOX_MESSAGES_MAX + 10 {
            publish(&hub, publication("a", QoS::AtMostOnce));
        }
        assert!(!mailbox.has_overflowed(), "QoS 0 may be lost");
        assert_eq!(hub.take_dropped(), 10);
        publish(&hub, publication("a", QoS::AtLeastOnce));
        assert!(mailbox.has_overflowed());
        let mut count = 0;
        while take(&mailbox).is_some() {
            count += 1;
        }
        assert_eq!(count, MAILBOX_MESSAGES_MAX);
    }

    #[test]
    fn an_absent_subscriber_keeps_the_first_messages_within_both_bounds() {
        let hub = Hub::default();
        let mailbox = present(&hub, 1, &[("a", grant(QoS::AtLeastOnce))]);
        publish(&hub, publication("a", QoS::AtMostOnce));
        mailbox.set_present(false);
        publish(&hub, publication("a", QoS::AtMostOnce));
        let large = Publication { payload: vec![0; 1 << 20].into(), ..publication("a", QoS::AtLeastOnce) };
        for _ in 0..10 {
            publish(&hub, large.clone());
        }
        assert!(!mailbox.has_overflowed());
        assert_eq!(hub.take_dropped(), 1 + 7, "one of QoS 0, and what is beyond four mebibytes");
        assert_eq!(take(&mailbox).expect("kept").qos, QoS::AtLeastOnce);
    }

    #[test]
    fn nobody_hears_anything_after_unsubscribing() {
        let hub = Hub::default();
        let mailbox = present(&hub, 1, &[("a/+", grant(QoS::AtLeastOnce))]);
        assert!(!hub.is_idle());
        assert!(!hub.unsubscribe(1, "a/b"));
        assert!(hub.unsubscribe(1, "a/+"));
        assert!(hub.is_idle());
        publish(&hub, publication("a/b", QoS::AtLeastOnce));
        assert!(take(&mailbox).is_none());
    }
}
