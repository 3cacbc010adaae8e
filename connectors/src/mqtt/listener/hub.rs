//! Where what is published meets those who subscribed: in memory, bounded, and never waiting for anybody.
//!
//! ```text
//!   a device's message, once durable ─┐             ┌─► Mailbox ─► its connection, or nobody for a while
//!   a will                           ─┼─► publish ──┼─► Mailbox
//!   a row of an `mqtt` sink          ─┘      │      └─► …
//!                                            └─► Retained: the last message of each topic that asked for it
//! ```
//!
//! One copy for each subscriber, whatever of its filters match: at the highest QoS granted, with all subscription ids.
//!
//! A mailbox takes [`MAILBOX_MESSAGES_MAX`] messages and [`MAILBOX_BYTES_MAX`]. Beyond that, messages of QoS 0 are dropped, and
//! a message of QoS 1 or 2 ends the connection of a subscriber that is too slow for it. For an absent subscriber with a
//! session the first messages are kept and later ones dropped. All that is dropped is counted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tidemill_engine::source::Note;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::packet::{QoS, Subscription};
use super::retained::Retained;
use super::tree::Tree;

/// How many messages may wait for one subscriber.
pub(super) const MAILBOX_MESSAGES_MAX: usize = 4_096;
/// How many bytes of messages may wait for one subscriber.
pub(super) const MAILBOX_BYTES_MAX: usize = 4 << 20;
/// How many retained messages may wait for one subscriber. Beyond it a subscription is refused until they are read.
pub(super) const RETAINED_WAITING_MAX: usize = 20_000;

/// A message for whoever subscribes.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// A message on its way to one subscriber.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    pub(super) publication: Arc<Publication>,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) subscription_ids: Vec<u32>,
}

/// What a subscriber was granted for one filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) qos: QoS,
    pub(super) no_local: bool,
    pub(super) retain_as_published: bool,
    pub(super) subscription_id: Option<u32>,
}

impl Grant {
    pub(super) fn new(subscription: &Subscription, subscription_id: Option<u32>) -> Grant {
        let Subscription { qos, no_local, retain_as_published, .. } = subscription;
        Grant { qos: *qos, no_local: *no_local, retain_as_published: *retain_as_published, subscription_id }
    }
}

/// The messages that wait for one subscriber.
#[derive(Debug)]
pub(in crate::mqtt) struct Mailbox {
    pub(super) number: u64,
    waiting: Mutex<Waiting>,
    /// Told when there is something, or too much.
    pub(in crate::mqtt) bell: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Delivery>,
    bytes: usize,
    /// What was retained before the subscription; it has a bound of its own.
    retained: VecDeque<Delivery>,
    is_present: bool,
    overflowed: bool,
}

impl Mailbox {
    pub(super) fn new(number: u64) -> Arc<Mailbox> {
        Arc::new(Mailbox { number, waiting: Mutex::default(), bell: Notify::new() })
    }

    /// Says that the subscriber is there, or is gone: then messages of QoS 0 do not wait for it.
    pub(super) fn set_present(&self, is_present: bool) {
        let mut waiting = self.waiting.lock();
        waiting.is_present = is_present;
        waiting.overflowed = false;
        if !is_present {
            let Waiting { messages, bytes, retained, .. } = &mut *waiting;
            retained.clear();
            messages.retain(|delivery| delivery.qos != QoS::AtMostOnce);
            *bytes = messages.iter().map(|delivery| delivery.publication.byte_count()).sum();
        }
    }

    /// Takes the next message.
    pub(super) fn take(&self) -> Option<Delivery> {
        let mut waiting = self.waiting.lock();
        if let Some(delivery) = waiting.retained.pop_front() {
            return Some(delivery);
        }
        let delivery = waiting.messages.pop_front()?;
        waiting.bytes -= delivery.publication.byte_count();
        Some(delivery)
    }

    /// Says whether the subscriber was too slow for a message that it must not miss.
    pub(super) fn has_overflowed(&self) -> bool {
        self.waiting.lock().overflowed
    }

    /// Says whether so many retained messages wait that a subscription must.
    pub(super) fn is_full_of_retained(&self) -> bool {
        self.waiting.lock().retained.len() >= RETAINED_WAITING_MAX
    }

    /// Says whether a subscriber that is there has much to read.
    pub(super) fn is_half_full(&self) -> bool {
        let waiting = self.waiting.lock();
        let is_half_full = waiting.messages.len() >= MAILBOX_MESSAGES_MAX / 2 || waiting.bytes >= MAILBOX_BYTES_MAX / 2;
        waiting.is_present && is_half_full
    }

    fn put_retained(&self, deliveries: impl Iterator<Item = Delivery>) {
        self.waiting.lock().retained.extend(deliveries);
        self.bell.notify_one();
    }

    /// Returns whether it was taken.
    fn put(&self, delivery: Delivery) -> bool {
        let mut waiting = self.waiting.lock();
        let bytes = delivery.publication.byte_count();
        let is_full = waiting.messages.len() >= MAILBOX_MESSAGES_MAX || waiting.bytes + bytes > MAILBOX_BYTES_MAX;
        // One large message is taken by an empty mailbox.
        let taken = match delivery.qos {
            QoS::AtMostOnce => waiting.is_present && !is_full,
            _ => !is_full || waiting.messages.is_empty(),
        };
        if taken {
            waiting.bytes += bytes;
            waiting.messages.push_back(delivery);
        } else if waiting.is_present && delivery.qos != QoS::AtMostOnce {
            waiting.overflowed = true;
        }
        drop(waiting);
        self.bell.notify_one();
        taken
    }
}

/// Where publishers and subscribers of one listener meet.
#[derive(Default)]
pub(super) struct Hub {
    /// How many filters are subscribed: who publishes to nobody should not pay for it.
    filter_count: AtomicUsize,
    tree: RwLock<Tree<Arc<Mailbox>, Grant>>,
    retained: Mutex<Retained>,
    dropped: AtomicUsize,
}

impl Hub {
    /// Says whether a message that is not retained would reach nobody.
    pub(super) fn is_idle(&self) -> bool {
        self.filter_count.load(Ordering::Acquire) == 0
    }

    /// Returns what the log must know before a message is published.
    pub(super) fn notes_of(&self, publication: &Publication) -> Vec<Note> {
        if publication.retain { self.retained.lock().notes_of(publication).collect() } else { Vec::new() }
    }

    /// Begins with the retained messages that the log knows; returns what it need not know any more.
    pub(super) fn restore_retained(&self, notes: &BTreeMap<Bytes, Bytes>) -> Vec<Note> {
        self.retained.lock().restore(notes, Instant::now())
    }

    /// Gives a message to all who subscribed, and returns them. Does not wait.
    pub(super) fn publish(&self, publication: Publication) -> Vec<Arc<Mailbox>> {
        if publication.retain && !self.retained.lock().keep(&publication, Instant::now()) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        if self.is_idle() {
            return Vec::new();
        }
        let publication = Arc::new(publication.detached());
        // By number, so that the order is the same each time.
        let mut receivers: BTreeMap<u64, (Arc<Mailbox>, Delivery)> = BTreeMap::new();
        self.tree.read().matches(publication.topic(), &mut |mailbox, grant| {
            if grant.no_local && publication.publisher == Some(mailbox.number) {
                return;
            }
            let (_, delivery) = receivers.entry(mailbox.number).or_insert_with(|| {
                let publication = Arc::clone(&publication);
                let delivery =
                    Delivery { publication, qos: QoS::AtMostOnce, retain: false, subscription_ids: Vec::new() };
                (Arc::clone(mailbox), delivery)
            });
            delivery.qos = delivery.qos.max(grant.qos.min(publication.qos));
            delivery.retain |= grant.retain_as_published && publication.retain;
            delivery.subscription_ids.extend(grant.subscription_id);
        });
        let put = |(mailbox, delivery): (Arc<Mailbox>, Delivery)| {
            if !mailbox.put(delivery) {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            mailbox
        };
        receivers.into_values().map(put).collect()
    }

    /// Adds or replaces a subscription; returns whether it is new.
    pub(super) fn subscribe(&self, mailbox: &Arc<Mailbox>, filter: &str, grant: Grant) -> bool {
        let is_new = self.tree.write().insert(filter, mailbox.number, Arc::clone(mailbox), grant);
        self.filter_count.fetch_add(usize::from(is_new), Ordering::AcqRel);
        is_new
    }

    /// Sends what is retained for a filter.
    pub(super) fn send_retained(&self, mailbox: &Mailbox, filter: &str, grant: &Grant) {
        let found = self.retained.lock().find(filter, Instant::now());
        let deliveries =
            found.into_iter().filter(|publication| !(grant.no_local && publication.publisher == Some(mailbox.number)));
        mailbox.put_retained(deliveries.map(|publication| Delivery {
            qos: grant.qos.min(publication.qos),
            publication,
            retain: true,
            subscription_ids: grant.subscription_id.into_iter().collect(),
        }));
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
    use super::*;

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
        let mailbox = Mailbox::new(number);
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
        assert_eq!(hub.publish(publication("a/b", QoS::ExactlyOnce)).len(), 1);
        let delivery = mailbox.take().expect("one copy");
        assert_eq!(delivery.qos, QoS::ExactlyOnce);
        let mut ids = delivery.subscription_ids;
        ids.sort_unstable();
        assert_eq!(ids, [7, 9]);
        assert!(mailbox.take().is_none());
        assert!(hub.publish(publication("c", QoS::AtMostOnce)).is_empty());
    }

    #[test]
    fn a_publisher_that_said_no_local_does_not_hear_itself() {
        let hub = Hub::default();
        let own = present(&hub, 1, &[("a", Grant { no_local: true, ..grant(QoS::AtLeastOnce) })]);
        let other = present(&hub, 2, &[("a", grant(QoS::AtLeastOnce))]);
        hub.publish(Publication { publisher: Some(1), ..publication("a", QoS::AtLeastOnce) });
        assert!(own.take().is_none());
        assert!(other.take().is_some());
    }

    #[test]
    fn a_slow_subscriber_loses_qos_0_and_then_its_connection() {
        let hub = Hub::default();
        let mailbox = present(&hub, 1, &[("a", grant(QoS::AtLeastOnce))]);
        for _ in 0..MAILBOX_MESSAGES_MAX + 10 {
            hub.publish(publication("a", QoS::AtMostOnce));
        }
        assert!(!mailbox.has_overflowed(), "QoS 0 may be lost");
        assert_eq!(hub.take_dropped(), 10);
        hub.publish(publication("a", QoS::AtLeastOnce));
        assert!(mailbox.has_overflowed());
        let mut count = 0;
        while mailbox.take().is_some() {
            count += 1;
        }
        assert_eq!(count, MAILBOX_MESSAGES_MAX);
    }

    #[test]
    fn an_absent_subscriber_keeps_the_first_messages_within_both_bounds() {
        let hub = Hub::default();
        let mailbox = present(&hub, 1, &[("a", grant(QoS::AtLeastOnce))]);
        hub.publish(publication("a", QoS::AtMostOnce));
        mailbox.set_present(false);
        hub.publish(publication("a", QoS::AtMostOnce));
        let large = Publication { payload: vec![0; 1 << 20].into(), ..publication("a", QoS::AtLeastOnce) };
        for _ in 0..10 {
            hub.publish(large.clone());
        }
        assert!(!mailbox.has_overflowed());
        assert_eq!(hub.take_dropped(), 1 + 7, "one of QoS 0, and what is beyond four mebibytes");
        assert_eq!(mailbox.take().expect("kept").qos, QoS::AtLeastOnce);
    }

    #[test]
    fn nobody_hears_anything_after_unsubscribing() {
        let hub = Hub::default();
        let mailbox = present(&hub, 1, &[("a/+", grant(QoS::AtLeastOnce))]);
        assert!(!hub.is_idle());
        assert!(!hub.unsubscribe(1, "a/b"));
        assert!(hub.unsubscribe(1, "a/+"));
        assert!(hub.is_idle());
        hub.publish(publication("a/b", QoS::AtLeastOnce));
        assert!(mailbox.take().is_none());
    }
}
