//! One simulated freezer: what it measures, and what goes wrong on the way. Pure: the same seed gives the same story.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// The seed of the demo: everyone sees the same fifty freezers.
const SEED: u64 = 0x7EA0_F2EE;
/// How many there are, numbered from 1.
const FREEZER_COUNT: usize = 50;
/// Freezers from this number on have no MQTT and post over HTTP.
const FIRST_HTTP: usize = 46;
/// Freezers of one site, which share a connection.
const SITE_SIZE: usize = 9;
/// The one whose compressor fails.
pub(super) const FAILING: &str = "freezer-17";
/// It warms by this much in a second: past -15 °C within half a minute.
const WARMING_C_PER_S: f64 = 0.2;
/// It warms up to the room, and no further.
const ROOM_C: f64 = 8.0;
/// This one sends a payload that is not JSON, once, as its reading of this number.
const GARBLED: (usize, u64) = (23, 6);
/// Of so many messages one is late, and one is sent twice.
const ONE_IN: u32 = 200;

/// How a freezer reaches the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// It publishes to the built-in listener.
    Mqtt,
    /// It posts.
    Http,
}

/// What becomes of a message on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It arrives at once.
    Prompt,
    /// It arrives so much later.
    Late(Duration),
    /// It is sent twice.
    Twice,
    /// It is not JSON.
    Garbled,
}

/// A message, ready to be sent.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Message {
    /// What is published or posted.
    pub(super) payload: String,
    /// What becomes of it.
    pub(super) fate: Fate,
}

/// A freezer and its memory.
pub(super) struct Freezer {
    pub(super) site: String,
    pub(super) name: String,
    pub(super) link: Link,
    number: usize,
    seq: u64,
    drift_c: f64,
    random: SmallRng,
}

/// Makes all freezers, by site.
pub(super) fn fleet() -> Vec<Vec<Freezer>> {
    let mut sites: Vec<Vec<Freezer>> = Vec::new();
    for number in 1..=FREEZER_COUNT {
        let freezer = Freezer::new(number);
        match sites.last_mut() {
            Some(site) if site[0].site == freezer.site => site.push(freezer),
            _ => sites.push(vec![freezer]),
        }
    }
    sites
}

impl Freezer {
    fn new(number: usize) -> Self {
        let letter = char::from(b'a' + u8::try_from((number - 1) / SITE_SIZE).expect("six sites"));
        Freezer {
            site: format!("site-{letter}"),
            name: format!("freezer-{number:02}"),
            link: if number < FIRST_HTTP { Link::Mqtt } else { Link::Http },
            number,
            seq: 0,
            drift_c: 0.0,
            random: SmallRng::seed_from_u64(SEED + number as u64),
        }
    }

    /// Measures: `now_us` is the event time, `running_s` how long the demo has run.
    pub(super) fn measure(&mut self, now_us: i64, running_s: f64) -> Message {
        self.seq += 1;
        self.drift_c = 0.9 * self.drift_c + self.random.random_range(-0.15..0.15);
        let base_c = -20.0 + (self.number % 7) as f64 * 0.1;
        let warmed_c = if self.name == FAILING { (WARMING_C_PER_S * running_s).min(ROOM_C - base_c) } else { 0.0 };
        let temperature = base_c + self.drift_c + warmed_c;
        let humidity = self.random.random_range(38.0..46.0);
        let fate = self.fate();
        Message { payload: self.payload(fate, temperature, humidity, &rfc3339(now_us)), fate }
    }

    fn fate(&mut self) -> Fate {
        // Both are drawn whatever comes of it, so that a change of one rule leaves the rest of the story as it was.
        let (roll, delay_ms) = (self.random.random_range(0..ONE_IN), self.random.random_range(6_000..12_000));
        match roll {
            _ if (self.number, self.seq) == GARBLED => Fate::Garbled,
            0 => Fate::Late(Duration::from_millis(delay_ms)),
            1 => Fate::Twice,
            _ => Fate::Prompt,
        }
    }

    fn payload(&self, fate: Fate, temperature: f64, humidity: f64, ts: &str) -> String {
        let (seq, site, device) = (self.seq, &self.site, &self.name);
        let measured =
            format!(r#""seq": {seq}, "temperature": {temperature:.2}, "humidity": {humidity:.1}, "ts": "{ts}""#);
        match (fate, self.link) {
            (Fate::Garbled, _) => format!("!! sensor bus error 0x1f at {ts}"),
            (_, Link::Mqtt) => format!("{{{measured}}}"),
            (_, Link::Http) => format!(r#"{{"site": "{site}", "device": "{device}", {measured}}}"#),
        }
    }
}

/// Writes an instant as RFC 3339 in UTC, to the millisecond.
fn rfc3339(us: i64) -> String {
    arrow::temporal_conversions::timestamp_us_to_datetime(us)
        .map_or_else(|| us.to_string(), |time| time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story(number: usize) -> Vec<Message> {
        let mut freezer = Freezer::new(number);
        (0..1_000).map(|i| freezer.measure(1_700_000_000_000_000 + i * 500_000, i as f64 / 2.0)).collect()
    }

    fn temperature(message: &Message) -> f64 {
        let value: serde_json::Value = serde_json::from_str(&message.payload).expect("JSON");
        value["temperature"].as_f64().expect("a number")
    }

    #[test]
    fn the_same_seed_tells_the_same_story() {
        assert_eq!(story(5), story(5));
        assert_ne!(story(5), story(6));
    }

    #[test]
    fn only_the_failing_freezer_warms_past_the_alarm() {
        for number in 1..=FREEZER_COUNT {
            let warm = story(number).iter().filter(|m| m.fate != Fate::Garbled).any(|m| temperature(m) > -15.0);
            assert_eq!(warm, number == 17, "freezer {number}");
        }
        assert!(temperature(&story(17)[80]) > -15.0, "forty seconds in, it is past -15 °C");
    }

    #[test]
    fn some_messages_are_late_some_twice_and_one_is_no_json() {
        let all: Vec<Message> = (1..=FREEZER_COUNT).flat_map(story).collect();
        assert!(all.iter().filter(|m| matches!(m.fate, Fate::Late(_))).count() > 50);
        assert!(all.iter().filter(|m| m.fate == Fate::Twice).count() > 50);
        let garbled: Vec<&Message> = all.iter().filter(|m| m.fate == Fate::Garbled).collect();
        assert_eq!(garbled.len(), 1);
        assert!(serde_json::from_str::<serde_json::Value>(&garbled[0].payload).is_err());
    }

    #[test]
    fn fifty_freezers_in_six_sites_five_of_them_without_mqtt() {
        let sites = fleet();
        assert_eq!(sites.iter().map(Vec::len).collect::<Vec<_>>(), [9, 9, 9, 9, 9, 5]);
        assert!(sites.iter().all(|site| site.iter().all(|freezer| freezer.link == site[0].link)));
        assert_eq!(sites.iter().flatten().filter(|freezer| freezer.link == Link::Http).count(), 5);
    }
}
