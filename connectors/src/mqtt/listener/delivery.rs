//! A message on its way to one subscriber, and the packet that it becomes.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::time::Instant;

use super::super::packet::{Publish, QoS, Subscription, Version};
use super::super::properties;
use super::super::write;
use super::hub::Publication;

/// A message on its way to one subscriber.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

    /// Makes of a retained message what a new subscription of this grant brings.
    pub(super) fn retained(&self, publication: Arc<Publication>) -> Delivery {
        let qos = self.qos.min(publication.qos);
        Delivery { publication, qos, retain: true, subscription_ids: self.subscription_id.into_iter().collect() }
    }
}

impl Delivery {
    /// Writes its PUBLISH.
    pub(super) fn write(&self, version: Version, id: u16, dup: bool, now: Instant, out: &mut BytesMut) {
        let publish = Publish {
            topic: self.publication.topic.clone(),
            payload: self.publication.payload.clone(),
            qos: self.qos,
            retain: self.retain,
            duplicate: dup,
            id,
            alias: None,
            properties: if version == Version::V5 { self.properties(now) } else { Bytes::new() },
            is_oversize: false,
        };
        // It came through the codec, or from a sink that keeps to the same lengths; the ids add some bytes only.
        let written = write::publish(version, &publish, out);
        debug_assert!(written.is_ok(), "{written:?}");
    }

    /// Returns how many bytes its PUBLISH has.
    pub(super) fn packet_bytes(&self, version: Version, now: Instant) -> usize {
        let mut packet = BytesMut::new();
        self.write(version, 1, false, now, &mut packet);
        packet.len()
    }

    /// Returns the properties for this subscriber: with its subscription ids, and the time that is left.
    fn properties(&self, now: Instant) -> Bytes {
        let Publication { properties, expires_at, .. } = &*self.publication;
        if self.subscription_ids.is_empty() && expires_at.is_none() {
            return properties.clone();
        }
        let mut block = BytesMut::with_capacity(properties.len() + 5 * self.subscription_ids.len());
        let _ = properties::read_block("PUBLISH", properties, properties::IN_PUBLISH, |id, _, raw| {
            match (id, expires_at) {
                (properties::MESSAGE_EXPIRY, Some(at)) => {
                    let left_s = (at.saturating_duration_since(now)).as_secs_f64().ceil();
                    block.put_u8(properties::MESSAGE_EXPIRY);
                    // At most what came, which had 32 bits.
                    block.put_u32(left_s as u32);
                }
                _ => block.extend_from_slice(raw),
            }
        });
        for subscription_id in &self.subscription_ids {
            block.put_u8(properties::SUBSCRIPTION_ID);
            write::put_variable_integer(&mut block, usize::try_from(*subscription_id).unwrap_or(usize::MAX));
        }
        block.freeze()
    }
}
