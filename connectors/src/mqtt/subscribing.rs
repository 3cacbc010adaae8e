//! What a client asks a broker for, and what it thinks of the answer.
//!
//! A QoS below the one asked for would break the promise of the source without a word, so it ends the source unless the
//! options allow it. The broker's own counter of dropped messages may be asked for as well; it is nobody's promise, and a
//! broker that does not give it is only told of.

use std::sync::Arc;

use parking_lot::Mutex;

use super::packet::{FilterAck, QoS, RetainHandling, Subscribe, Subscription, reason};

/// The one packet id we ever use for SUBSCRIBE.
const SUBSCRIBE_ID: u16 = 1;
/// And for UNSUBSCRIBE.
pub(super) const UNSUBSCRIBE_ID: u16 = 2;
/// Where Mosquitto, and brokers that follow it, tell how many messages they have thrown away for slow or absent subscribers.
pub(super) const DROPS_TOPIC: &str = "$SYS/broker/publish/messages/dropped";

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) filters: Vec<String>,
    pub(super) qos: QoS,
    pub(super) on_downgrade: OnDowngrade,
    pub(super) drops: Drops,
}

/// What to do when the broker grants less than was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnDowngrade {
    /// End the source.
    Refuse,
    /// Go on with what is granted.
    Accept,
}

/// Whether the broker's counter of dropped messages is subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drops {
    Ignore,
    Watch,
}

/// How many messages the broker says it has dropped; shared by the connections that follow each other.
#[derive(Clone, Debug, Default)]
pub(super) struct DropCount(Arc<Mutex<Option<u64>>>);

impl DropCount {
    /// Takes what the broker tells, and returns how many more they are.
    pub(super) fn hear(&self, payload: &[u8]) -> u64 {
        let total = std::str::from_utf8(payload).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let Some(total) = total else { return 0 };
        match self.0.lock().replace(total) {
            // What was dropped before we came is nobody's news.
            None => 0,
            Some(before) if total >= before => total - before,
            // The broker has begun anew, and counts from zero.
            Some(_) => total,
        }
    }
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Granted; the filters that got less than asked, with what they got, and whether the counter of drops was refused.
    Granted { downgraded: Vec<(String, u8)>, is_blind: bool },
    /// Not granted, and why.
    Refused(String),
    /// It answers nothing we asked.
    Stray,
}

impl Wanted {
    /// Makes the packet.
    pub(super) fn packet(&self, retain_handling: RetainHandling) -> Subscribe {
        let subscription = |filter: &String| Subscription {
            filter: filter.clone(),
            qos: self.qos,
            retain_handling,
            ..Subscription::default()
        };
        let mut subscriptions: Vec<Subscription> = self.filters.iter().map(subscription).collect();
        if self.drops == Drops::Watch {
            // Retained copies too: the first one says where the counter stands.
            subscriptions.push(Subscription { filter: DROPS_TOPIC.to_owned(), ..Subscription::default() });
        }
        Subscribe { id: SUBSCRIBE_ID, subscriptions, subscription_id: None }
    }

    /// Judges the answer.
    pub(super) fn judge(&self, ack: &FilterAck) -> Answer {
        let FilterAck { id, codes, reason: why } = ack;
        let count = self.filters.len() + usize::from(self.drops == Drops::Watch);
        if *id != SUBSCRIBE_ID || codes.len() != count {
            return Answer::Stray;
        }
        let why = why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let mut downgraded = Vec::new();
        for (filter, code) in self.filters.iter().zip(codes) {
            if *code >= reason::SUBACK_FAILURE {
                return Answer::Refused(format!(
                    "the broker refused the subscription to {filter} ({}, code {code:#04x}{why})",
                    words(*code)
                ));
            }
            if *code < self.qos as u8 {
                downgraded.push((filter.clone(), *code));
            }
        }
        match (downgraded.first(), self.on_downgrade) {
            (Some((filter, code)), OnDowngrade::Refuse) => Answer::Refused(format!(
                "the broker granted QoS {code} for {filter} where QoS {} was asked{why}: say qos = '{code}', or allow_qos_downgrade = \
                 'true' to take what it grants",
                self.qos as u8
            )),
            _ => {
                let is_blind = self.drops == Drops::Watch && codes[count - 1] >= reason::SUBACK_FAILURE;
                Answer::Granted { downgraded, is_blind }
            }
        }
    }
}

/// Says what a refusal means, and what helps.
fn words(code: u8) -> &'static str {
    match code {
        0x80 => "it does not say why: mostly the user may not read this topic",
        0x87 => "the user may not read this topic: ask for the right to it",
        0x8F => "it does not accept the filter",
        0x97 => "its quota is exceeded",
        0x9E => "it has no shared subscriptions: say connections = '1'",
        0xA1 => "it has no subscription identifiers",
        0xA2 => "it has no wildcards",
        _ => "see the reason code",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(on_downgrade: OnDowngrade, drops: Drops) -> Wanted {
        Wanted { filters: vec!["a/+".to_owned(), "b".to_owned()], qos: QoS::AtLeastOnce, on_downgrade, drops }
    }

    fn ack(codes: &[u8]) -> FilterAck {
        FilterAck { id: 1, codes: codes.to_vec(), reason: None }
    }

    #[test]
    fn every_filter_is_judged_by_itself() {
        let granted = |downgraded: &[(&str, u8)]| Answer::Granted {
            downgraded: downgraded.iter().map(|(filter, code)| ((*filter).to_owned(), *code)).collect(),
            is_blind: false,
        };
        let strict = wanted(OnDowngrade::Refuse, Drops::Ignore);
        assert_eq!(strict.judge(&ack(&[1, 1])), granted(&[]));
        assert_eq!(strict.judge(&ack(&[1])), Answer::Stray);
        assert_eq!(strict.judge(&FilterAck { id: 2, ..ack(&[1, 1]) }), Answer::Stray);
        for (codes, expected) in [
            ([1, 0], "granted QoS 0 for b where QoS 1 was asked: say qos = '0', or allow_qos_downgrade = 'true'"),
            ([0x80, 1], "refused the subscription to a/+ (it does not say why"),
            ([1, 0x97], "refused the subscription to b (its quota is exceeded, code 0x97)"),
        ] {
            let Answer::Refused(why) = strict.judge(&ack(&codes)) else { panic!("{expected}") };
            assert!(why.contains(expected), "{why}");
        }
        let lax = wanted(OnDowngrade::Accept, Drops::Ignore);
        assert_eq!(lax.judge(&ack(&[1, 0])), granted(&[("b", 0)]));
        assert!(matches!(lax.judge(&ack(&[1, 0x87])), Answer::Refused(_)));
    }

    #[test]
    fn only_an_increase_of_drops_counts_also_after_the_broker_began_anew() {
        let drops = DropCount::default();
        let heard: Vec<u64> =
            ["7", "7", "9", "what", "2", "2"].iter().map(|text| drops.hear(text.as_bytes())).collect();
        assert_eq!(heard, [0, 0, 2, 0, 2, 0]);
    }

    #[test]
    fn a_broker_without_a_counter_of_drops_is_good_enough() {
        let watching = wanted(OnDowngrade::Refuse, Drops::Watch);
        let packet = watching.packet(RetainHandling::Never);
        let asked = &packet.subscriptions[2];
        assert_eq!((asked.filter.as_str(), asked.qos), (DROPS_TOPIC, QoS::AtMostOnce));
        for (code, blind) in [(0, false), (0x87, true)] {
            let Answer::Granted { is_blind, .. } = watching.judge(&ack(&[1, 1, code])) else { panic!("granted") };
            assert_eq!(is_blind, blind);
        }
    }
}
