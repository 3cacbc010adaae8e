//! Topic patterns: an MQTT topic filter whose levels may become columns.
//!
//! ```text
//!   plant/{site}/{device}/telemetry      what the user writes
//!   plant/+/+/telemetry                  what is subscribed to            filter()
//!   site, device                         the columns it adds              columns()
//!   plant/lab/web/telemetry              → ["lab", "web"]                 matches(topic)
//! ```
//!
//! `+` takes any one level, `{name}` takes any one level and keeps it, `#` at the end takes the rest (also nothing). As MQTT
//! demands, a wildcard at the first level takes no topic that begins with `$`.

use std::fmt;
use std::str::FromStr;

/// The longest topic or filter that MQTT can carry, in bytes.
pub const TOPIC_BYTES_MAX: usize = u16::MAX as usize;

/// A topic filter with named levels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPattern {
    text: String,
    levels: Vec<Level>,
    columns: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    /// Exactly this text.
    Literal(String),
    /// `+`: any one level.
    Any,
    /// `{name}`: any one level, kept as a column.
    Column,
    /// `#`: all that follows; the last one.
    Rest,
}

/// Why a text is not a topic pattern, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicPatternError {
    /// Nothing was written.
    #[error("the topic is empty: say for example 'plant/{{site}}/{{device}}/telemetry'")]
    Empty,
    /// MQTT's length field has 16 bits.
    #[error("the topic has {bytes} bytes, more than the {TOPIC_BYTES_MAX} that MQTT can carry")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A NUL is forbidden by MQTT.
    #[error("the topic holds a NUL character, which MQTT forbids")]
    Nul,
    /// Several patterns in one source.
    #[error("{text:?} holds a comma, and one topic is wanted here")]
    Several {
        /// The whole text.
        text: String,
    },
    /// `$share/group/…`.
    #[error("{text:?} is a shared subscription, which is not supported: write the topic without $share/<group>/")]
    Shared {
        /// The whole text.
        text: String,
    },
    /// `#` stands before the end.
    #[error("# takes all levels that follow, so it must be the last level, not level {at}")]
    RestNotLast {
        /// The level, counted from 1.
        at: usize,
    },
    /// `a+`, `x{name}`, `{`, …
    #[error("level {at} is {level:?}: +, # and {{name}} take a whole level, with nothing beside them")]
    PartOfLevel {
        /// The level, counted from 1.
        at: usize,
        /// Its text.
        level: String,
    },
    /// What stands between the braces cannot be a column.
    #[error("level {at}: {name:?} cannot name a column: use letters, digits and _, beginning with a letter or _")]
    BadName {
        /// The level, counted from 1.
        at: usize,
        /// The name.
        name: String,
    },
    /// Two levels have one name.
    #[error("{{{name}}} stands twice: every level needs its own name")]
    Twice {
        /// The name.
        name: String,
    },
}

impl TopicPattern {
    /// Reads a pattern such as `plant/{site}/{device}/telemetry`.
    pub fn parse(text: &str) -> Result<Self, TopicPatternError> {
        if text.is_empty() {
            return Err(TopicPatternError::Empty);
        }
        if text.len() > TOPIC_BYTES_MAX {
            return Err(TopicPatternError::TooLong { bytes: text.len() });
        }
        if text.contains('\0') {
            return Err(TopicPatternError::Nul);
        }
        if text.contains(',') {
            return Err(TopicPatternError::Several { text: text.to_owned() });
        }
        if text.starts_with("$share/") {
            return Err(TopicPatternError::Shared { text: text.to_owned() });
        }
        let count = text.split('/').count();
        let mut columns = Vec::new();
        let levels = text
            .split('/')
            .enumerate()
            .map(|(idx, level)| parse_level(level, idx + 1, count, &mut columns))
            .collect::<Result<_, _>>()?;
        Ok(TopicPattern { text: text.to_owned(), levels, columns })
    }

    /// Returns the filter to subscribe to: every named level as `+`.
    pub fn filter(&self) -> String {
        let levels: Vec<&str> = self
            .levels
            .iter()
            .map(|level| match level {
                Level::Literal(text) => text.as_str(),
                Level::Any | Level::Column => "+",
                Level::Rest => "#",
            })
            .collect();
        levels.join("/")
    }

    /// Returns the names of the columns that the topic adds, in the order of its levels.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Returns the value for each column if the topic matches.
    pub fn matches<'t>(&self, topic: &'t str) -> Option<Vec<&'t str>> {
        let mut values = Vec::with_capacity(self.columns.len());
        self.walk(topic, |value| values.push(value)).then_some(values)
    }

    /// Puts the value for each column into `values`, which is emptied first; returns whether the topic matches.
    /// For loops over many topics: nothing is allocated. What is in `values` after `false` means nothing.
    pub fn matches_into<'t>(&self, topic: &'t str, values: &mut Vec<&'t str>) -> bool {
        values.clear();
        self.walk(topic, |value| values.push(value))
    }

    /// Says whether there is a topic that both match.
    pub fn overlaps(&self, other: &TopicPattern) -> bool {
        // MQTT-4.7.2-1: a wildcard at the first level takes no topic that begins with `$`.
        let is_hidden = |level: &Level| matches!(level, Level::Literal(text) if text.starts_with('$'));
        let is_wild = |level: &Level| !matches!(level, Level::Literal(_));
        let (first, other_first) = (&self.levels[0], &other.levels[0]);
        if (is_hidden(first) && is_wild(other_first)) || (is_wild(first) && is_hidden(other_first)) {
            return false;
        }
        let (mut levels, mut other_levels) = (self.levels.iter(), other.levels.iter());
        loop {
            match (levels.next(), other_levels.next()) {
                (None, None) | (Some(Level::Rest), _) | (_, Some(Level::Rest)) => return true,
                (None, Some(_)) | (Some(_), None) => return false,
                (Some(Level::Literal(text)), Some(Level::Literal(other))) if text != other => return false,
                (Some(_), Some(_)) => {}
            }
        }
    }

    /// Says whether a topic matches.
    pub fn accepts(&self, topic: &str) -> bool {
        self.walk(topic, |_| ())
    }

    fn walk<'t>(&self, topic: &'t str, mut column: impl FnMut(&'t str)) -> bool {
        // MQTT-4.7.2-1: otherwise '#' would read the broker's own $SYS topics.
        if topic.starts_with('$') && !matches!(self.levels[0], Level::Literal(_)) {
            return false;
        }
        let mut rest = topic.split('/');
        for level in &self.levels {
            if *level == Level::Rest {
                return true;
            }
            let Some(part) = rest.next() else { return false };
            match level {
                Level::Literal(text) if text != part => return false,
                Level::Column => column(part),
                Level::Literal(_) | Level::Any | Level::Rest => {}
            }
        }
        rest.next().is_none()
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for TopicPattern {
    type Err = TopicPatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        TopicPattern::parse(text)
    }
}

fn parse_level(level: &str, at: usize, count: usize, columns: &mut Vec<String>) -> Result<Level, TopicPatternError> {
    match level {
        "+" => return Ok(Level::Any),
        "#" if at == count => return Ok(Level::Rest),
        "#" => return Err(TopicPatternError::RestNotLast { at }),
        _ if !level.contains(['+', '#', '{', '}']) => return Ok(Level::Literal(level.to_owned())),
        _ => {}
    }
    let name = level
        .strip_prefix('{')
        .and_then(|inner| inner.strip_suffix('}'))
        .filter(|name| !name.contains(['{', '}', '+', '#']))
        .ok_or_else(|| TopicPatternError::PartOfLevel { at, level: level.to_owned() })?;
    let mut letters = name.chars();
    let first_fits = letters.next().is_some_and(|c| c.is_alphabetic() || c == '_');
    if !first_fits || !letters.all(|c| c.is_alphanumeric() || c == '_') {
        return Err(TopicPatternError::BadName { at, name: name.to_owned() });
    }
    if columns.iter().any(|column| column.eq_ignore_ascii_case(name)) {
        return Err(TopicPatternError::Twice { name: name.to_owned() });
    }
    columns.push(name.to_owned());
    Ok(Level::Column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_topic_pattern() {
        tidemill_engine::testing::fuzz::fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/src/mqtt/corpus/topic"), |input| {
            let Ok(pattern) = TopicPattern::parse(&String::from_utf8_lossy(input)) else { return false };
            let topic = pattern.filter().replace(['+', '#'], "x");
            assert!(pattern.accepts(&topic), "{pattern} matches {topic:?}");
            assert_eq!(pattern.matches(&topic).map(|values| values.len()), Some(pattern.columns().len()));
            true
        });
    }

    #[test]
    fn named_levels_become_columns() {
        let pattern = TopicPattern::parse("plant/{site}/{device}/telemetry").expect("valid");
        assert_eq!(pattern.filter(), "plant/+/+/telemetry");
        assert_eq!(pattern.columns(), ["site", "device"]);
        assert_eq!(pattern.matches("plant/lab/web/telemetry"), Some(vec!["lab", "web"]));
        assert_eq!(pattern.to_string(), "plant/{site}/{device}/telemetry");
    }

    #[test]
    fn wildcards_match_as_mqtt_says() {
        for (pattern, topic, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/", false),
            ("a/b", "a", false),
            ("a/+", "a/", true),
            ("a/+", "a", false),
            ("a/+/c", "a/b/c", true),
            ("#", "a/b", true),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("{first}/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/#", "ab", false),
            ("/a", "/a", true),
            ("/a", "a", false),
            ("+/+", "/x", true),
            ("ä/{ö}", "ä/ü", true),
        ] {
            let parsed = TopicPattern::parse(pattern).expect("valid");
            assert_eq!(parsed.accepts(topic), expected, "{pattern} {topic}");
            assert_eq!(parsed.matches(topic).is_some(), expected, "{pattern} {topic}");
        }
    }

    #[test]
    fn bad_patterns_say_what_would_be_right() {
        for (text, words) in [
            ("", "is empty"),
            ("a/#/b", "must be the last level, not level 2"),
            ("a/b#", "take a whole level"),
            ("a/b+", "take a whole level"),
            ("dev-{id}", "take a whole level"),
            ("a/{}", "cannot name a column"),
            ("a/{1x}", "cannot name a column"),
            ("a/{x y}", "cannot name a column"),
            ("a/{", "take a whole level"),
            ("a/{x}/{X}", "stands twice"),
            ("a/{x}/{x}", "stands twice"),
            ("a,b", "one topic is wanted here"),
            ("$share/g/a", "shared subscription"),
            ("a\0", "NUL"),
        ] {
            let error = TopicPattern::parse(text).expect_err(text).to_string();
            assert!(error.contains(words), "{text:?}: {error}");
        }
        assert_eq!(
            TopicPattern::parse(&"a".repeat(TOPIC_BYTES_MAX + 1)),
            Err(TopicPatternError::TooLong { bytes: TOPIC_BYTES_MAX + 1 })
        );
    }

    #[test]
    fn one_buffer_serves_many_topics() {
        let pattern = TopicPattern::parse("{site}/{device}/#").expect("valid");
        let mut values = Vec::new();
        assert!(pattern.matches_into("a/b/c/d", &mut values));
        assert_eq!(values, ["a", "b"]);
        assert!(pattern.matches_into("c/d", &mut values));
        assert_eq!(values, ["c", "d"]);
        assert!(!pattern.matches_into("c", &mut values));
    }
}
