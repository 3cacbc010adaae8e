//! One topic pattern, or several of one source.
//!
//! ```text
//!   'plant/{site}/{device}/telemetry, lab/{device}/{site}'       split at commas; every pattern names the same levels
//!   plant/+/+/telemetry    lab/+/+                               one subscription, two filters
//! ```
//!
//! No topic may match two of them: a broker may send such a message once for each filter, under different packet ids, and
//! nothing on the wire would say that it is one.

use std::fmt;

use super::topic::{TopicPattern, TopicPatternError};
use crate::options::OptionError;

/// How many patterns a source may have: all of them go into one SUBSCRIBE, and every message is matched against them.
pub const PATTERNS_MAX: usize = 64;

/// The patterns of a source, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPatterns {
    first: TopicPattern,
    others: Vec<Other>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Other {
    pattern: TopicPattern,
    /// For each column of the first pattern, which of this one's it is.
    places: Vec<usize>,
}

impl TopicPatterns {
    /// Reads patterns with commas between them.
    pub fn parse(text: &str) -> Result<TopicPatterns, OptionError> {
        let error = |problem: String| OptionError::new("topic", problem);
        let parts: Vec<&str> = match text.contains(',') {
            true => text.split(',').map(str::trim).collect(),
            false => vec![text],
        };
        if parts.len() > PATTERNS_MAX {
            return Err(error(format!(
                "{} patterns are more than the {PATTERNS_MAX} that one source may have",
                parts.len()
            )));
        }
        let mut patterns = Vec::with_capacity(parts.len());
        for part in &parts {
            patterns.push(TopicPattern::parse(part).map_err(|problem| match problem {
                TopicPatternError::Empty if parts.len() > 1 => {
                    error(format!("{text:?} holds a comma with no topic on one side: write one between two topics"))
                }
                problem if parts.len() > 1 => error(format!("in {part:?}: {problem}")),
                problem => error(problem.to_string()),
            })?);
        }
        for (at, pattern) in patterns.iter().enumerate() {
            if let Some(other) = patterns[..at].iter().find(|other| other.overlaps(pattern)) {
                return Err(error(format!(
                    "{:?} and {:?} overlap: a message that both match would come twice; leave out one, or make a source for each",
                    other.to_string(),
                    pattern.to_string()
                )));
            }
        }
        let mut patterns = patterns.into_iter();
        let first = patterns.next().expect("a text has at least one part");
        let others = patterns.map(|pattern| Other::beside(&first, pattern)).collect::<Result<_, _>>()?;
        Ok(TopicPatterns { first, others })
    }

    /// Returns the patterns.
    pub fn patterns(&self) -> impl Iterator<Item = &TopicPattern> {
        std::iter::once(&self.first).chain(self.others.iter().map(|other| &other.pattern))
    }

    /// Returns the filters to subscribe to.
    pub fn filters(&self) -> Vec<String> {
        self.patterns().map(TopicPattern::filter).collect()
    }

    /// Returns the names of the columns that the topic adds.
    pub fn columns(&self) -> &[String] {
        self.first.columns()
    }

    /// Says whether a topic matches one of them.
    pub fn accepts(&self, topic: &str) -> bool {
        self.patterns().any(|pattern| pattern.accepts(topic))
    }

    /// Puts the value for each column into `values`, which is emptied first; returns whether the topic matches. What is in
    /// `values` after `false` means nothing.
    pub fn matches_into<'t>(&self, topic: &'t str, values: &mut Vec<&'t str>) -> bool {
        if self.first.matches_into(topic, values) {
            return true;
        }
        for other in &self.others {
            if other.pattern.matches_into(topic, values) {
                // In its own order behind, then in the order of the columns in front.
                let count = other.places.len();
                values.extend_from_within(..);
                for (column, place) in other.places.iter().enumerate() {
                    values[column] = values[count + place];
                }
                values.truncate(count);
                return true;
            }
        }
        false
    }
}

impl Other {
    fn beside(first: &TopicPattern, pattern: TopicPattern) -> Result<Other, OptionError> {
        let place = |column: &String| pattern.columns().iter().position(|own| own == column);
        let places: Option<Vec<usize>> = first.columns().iter().map(place).collect();
        match places {
            Some(places) if places.len() == pattern.columns().len() => Ok(Other { pattern, places }),
            _ => {
                let named = |pattern: &TopicPattern| match pattern.columns() {
                    [] => "no level".to_owned(),
                    columns => columns.join(", "),
                };
                let problem = format!(
                    "{:?} names {}, {:?} names {}: every topic of a list must name the same levels",
                    first.to_string(),
                    named(first),
                    pattern.to_string(),
                    named(&pattern)
                );
                Err(OptionError::new("topic", problem))
            }
        }
    }
}

impl From<TopicPattern> for TopicPatterns {
    fn from(first: TopicPattern) -> Self {
        TopicPatterns { first, others: Vec::new() }
    }
}

impl fmt::Display for TopicPatterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, pattern) in self.patterns().enumerate() {
            write!(f, "{}{pattern}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_fills_the_columns_of_its_first_pattern() {
        let patterns = TopicPatterns::parse("plant/{site}/{device}/telemetry, lab/{device}/in/{site}").unwrap();
        assert_eq!(patterns.filters(), ["plant/+/+/telemetry", "lab/+/in/+"]);
        assert_eq!(patterns.columns(), ["site", "device"]);
        let mut values = Vec::new();
        assert!(patterns.matches_into("plant/a/b/telemetry", &mut values));
        assert_eq!(values, ["a", "b"]);
        assert!(patterns.matches_into("lab/b/in/a", &mut values));
        assert_eq!(values, ["a", "b"]);
        assert!(!patterns.matches_into("lab/b/out/a", &mut values));
        assert!(patterns.accepts("lab/x/in/y") && !patterns.accepts("plant/a"));
    }

    #[test]
    fn what_overlaps_is_refused_and_both_are_named() {
        for (text, overlaps) in [
            ("a/b, a/b", true),
            ("a/+, a/b", true),
            ("a/#, a", true),
            ("a/#, a/b/c/d", true),
            ("+/b, a/+", true),
            ("#, a/b", true),
            ("+/+/c, a/#", true),
            ("a/{x}/c, a/b/{x}", true),
            ("a/b, a/c", false),
            ("a/+, a/b/c", false),
            ("a/+, a", false),
            ("a/+/c, a/b/d", false),
            ("#, $SYS/x", false),
            ("+/x, $SYS/x", false),
            ("a/b/#, a/c/#", false),
        ] {
            match TopicPatterns::parse(text) {
                Ok(_) => assert!(!overlaps, "{text}"),
                Err(error) => {
                    let (first, second) = text.split_once(", ").unwrap();
                    let words = format!("option topic: {first:?} and {second:?} overlap");
                    assert!(overlaps && error.to_string().starts_with(&words), "{text}: {error}");
                }
            }
        }
    }

    #[test]
    fn bad_lists_say_what_would_be_right() {
        let many: Vec<String> = (0..65).map(|n| format!("a/{n}")).collect();
        for (text, words) in [
            ("a,", "a comma with no topic on one side"),
            ("a, b/#/c", "in \"b/#/c\": # takes all levels"),
            ("a/{x}, b", "names x, \"b\" names no level: every topic of a list must name the same levels"),
            ("a/{x}, b/{y}", "must name the same levels"),
            ("", "is empty"),
            (&many.join(","), "65 patterns are more than the 64"),
        ] {
            let error = TopicPatterns::parse(text).expect_err(text).to_string();
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }
}
