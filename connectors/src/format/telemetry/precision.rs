//! What the times of a line protocol message count, when the request that brought it has said so.
//!
//! The ingest log keeps the body of a request as it was sent, and beside it the words of `precision`, in the form in which
//! MQTT 5 keeps what a publisher has added: as a user property.

use bytes::Bytes;
use tidemill_engine::source::Message;

use super::super::time::TimeUnit;
use crate::mqtt::Attributes;

/// The name of the property.
const PROPERTY: &str = "precision";

/// What a time counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    /// What is usual.
    Unit(TimeUnit),
    /// Minutes: the first version of Influx has them.
    Minutes,
    /// Hours.
    Hours,
}

impl Precision {
    /// The words of the second version.
    pub(crate) const WORDS: [(&'static str, Precision); 4] = [
        ("ns", Precision::Unit(TimeUnit::Nanoseconds)),
        ("us", Precision::Unit(TimeUnit::Microseconds)),
        ("ms", Precision::Unit(TimeUnit::Milliseconds)),
        ("s", Precision::Unit(TimeUnit::Seconds)),
    ];
    /// The words of the first version, beside those.
    pub(crate) const WORDS_OF_V1: [(&'static str, Precision); 4] = [
        ("n", Precision::Unit(TimeUnit::Nanoseconds)),
        ("u", Precision::Unit(TimeUnit::Microseconds)),
        ("m", Precision::Minutes),
        ("h", Precision::Hours),
    ];

    /// Finds what a word means.
    pub(crate) fn named(word: &str) -> Option<Precision> {
        let known = Precision::WORDS.into_iter().chain(Precision::WORDS_OF_V1);
        known.into_iter().find_map(|(name, precision)| (name == word).then_some(precision))
    }

    /// Makes the attributes of a message whose times count this.
    pub(crate) fn attributes(self) -> Bytes {
        let word = Precision::WORDS.into_iter().chain(Precision::WORDS_OF_V1).find(|(_, known)| *known == self);
        let word = word.expect("every precision has a word").0;
        Attributes::with_user_property(PROPERTY, word)
    }

    /// Returns what the request that brought a message has said.
    pub(super) fn of(message: &Message) -> Option<Precision> {
        // Most messages have none, or no more than the flags of MQTT.
        if message.attributes.len() < PROPERTY.len() {
            return None;
        }
        Precision::named(Attributes::of(message).user_properties().get(PROPERTY)?)
    }

    /// Converts a time to microseconds.
    pub(super) fn us(self, count: i64) -> Result<i64, String> {
        let us = match self {
            Precision::Unit(unit) => unit.whole_us(count),
            Precision::Minutes => count.checked_mul(60_000_000),
            Precision::Hours => count.checked_mul(3_600_000_000),
        };
        us.ok_or_else(|| format!("the time {count} is too large for this precision"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_remembers_its_precision() {
        for (word, precision) in Precision::WORDS.into_iter().chain(Precision::WORDS_OF_V1) {
            assert_eq!(Precision::named(word), Some(precision));
            let message = Message { attributes: precision.attributes(), ..Message::new("", "x") };
            assert_eq!(Precision::of(&message), Some(precision));
        }
        assert_eq!(Precision::of(&Message::new("", "x")), None);
        assert_eq!(Precision::named("minutes"), None);
        assert_eq!(Precision::Hours.us(2), Ok(7_200_000_000));
        assert!(Precision::Hours.us(i64::MAX).is_err());
    }
}
