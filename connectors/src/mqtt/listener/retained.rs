//! The last message of each topic whose publisher asked for it to be kept. In memory: a restart begins without.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::filter;
use super::hub::Publication;

/// How many topics may have a retained message.
pub(super) const RETAINED_MAX: usize = 10_000;
/// How many bytes all of them may have.
pub(super) const RETAINED_BYTES_MAX: usize = 32 << 20;

/// Retained messages by topic.
#[derive(Debug, Default)]
pub(super) struct Retained {
    messages: BTreeMap<String, Arc<Publication>>,
    bytes: usize,
}

impl Retained {
    /// Keeps a message in place of an older one; an empty one only removes. Returns `false` if there is no room.
    pub(super) fn keep(&mut self, publication: &Publication, now: Instant) -> bool {
        let topic = publication.topic();
        if let Some(older) = self.messages.remove(topic) {
            self.bytes -= byte_count(&older);
        }
        if publication.payload.is_empty() {
            return true;
        }
        if self.messages.len() >= RETAINED_MAX || self.bytes + byte_count(publication) > RETAINED_BYTES_MAX {
            self.drop_expired(now);
        }
        if self.messages.len() >= RETAINED_MAX || self.bytes + byte_count(publication) > RETAINED_BYTES_MAX {
            return false;
        }
        self.bytes += byte_count(publication);
        self.messages.insert(topic.to_owned(), Arc::new(publication.detached()));
        true
    }

    /// Returns what a filter takes, in the order of topics.
    pub(super) fn find(&self, wanted: &str, now: Instant) -> Vec<Arc<Publication>> {
        // All that match begin with what stands before the first wildcard; without one there is one topic at most. The
        // slash before '#' is left out, since 'a/#' takes 'a'.
        let literal = wanted.split(['+', '#']).next().unwrap_or_default();
        if literal.len() == wanted.len() {
            return self.messages.get(wanted).filter(|p| !p.is_expired(now)).cloned().into_iter().collect();
        }
        let prefix = literal.strip_suffix('/').unwrap_or(literal);
        self.messages
            .range(prefix.to_owned()..)
            .take_while(|(topic, _)| topic.starts_with(prefix))
            .filter(|(topic, publication)| filter::matches(wanted, topic) && !publication.is_expired(now))
            .map(|(_, publication)| Arc::clone(publication))
            .collect()
    }

    fn drop_expired(&mut self, now: Instant) {
        self.messages.retain(|_, publication| !publication.is_expired(now));
        self.bytes = self.messages.values().map(|publication| byte_count(publication)).sum();
    }
}

fn byte_count(publication: &Publication) -> usize {
    128 + 2 * publication.topic.len() + publication.payload.len() + publication.properties.len()
}

#[cfg(test)]
mod tests {
    use ::bytes::Bytes;

    use super::super::super::packet::QoS;
    use super::*;

    fn message(topic: &str, payload: &str) -> Publication {
        Publication {
            topic: Bytes::copy_from_slice(topic.as_bytes()),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            qos: QoS::AtLeastOnce,
            retain: true,
            properties: Bytes::new(),
            publisher: None,
            expires_at: None,
        }
    }

    #[test]
    fn the_last_message_of_a_topic_is_found_by_any_filter_that_takes_it() {
        let now = Instant::now();
        let mut retained = Retained::default();
        for (topic, payload) in
            [("a", "1"), ("a/b", "2"), ("a/b/c", "3"), ("ab", "4"), ("a/b", "5"), ("x", "6"), ("x", "")]
        {
            assert!(retained.keep(&message(topic, payload), now));
        }
        let found = |filter: &str| -> Vec<String> {
            let found = retained.find(filter, now);
            found.iter().map(|p| String::from_utf8_lossy(&p.payload).into_owned()).collect()
        };
        assert_eq!(found("a/b"), ["5"]);
        assert_eq!(found("a/#"), ["1", "5", "3"]);
        assert_eq!(found("a/+"), ["5"]);
        assert_eq!(found("+"), ["1", "4"]);
        assert_eq!(found("#"), ["1", "5", "3", "4"]);
        assert!(found("x").is_empty(), "an empty message removes");
    }

    #[test]
    fn there_is_a_bound_and_what_has_expired_makes_room() {
        let now = Instant::now();
        let later = now + std::time::Duration::from_secs(60);
        let mut retained = Retained::default();
        for idx in 0..RETAINED_MAX {
            let expires_at = (idx == 0).then_some(now + std::time::Duration::from_secs(5));
            assert!(retained.keep(&Publication { expires_at, ..message(&format!("t/{idx}"), "x") }, now));
        }
        assert!(!retained.keep(&message("one/more", "x"), now));
        assert!(retained.keep(&message("t/1", "y"), now), "a topic that is there may change");
        assert!(retained.keep(&message("one/more", "x"), later));
        let large = "x".repeat(RETAINED_BYTES_MAX);
        assert!(!retained.keep(&message("t/2", &large), later));
    }
}
