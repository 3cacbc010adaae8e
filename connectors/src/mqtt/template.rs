//! Topic templates: the topic of each row of a view.
//!
//! ```text
//!   alerts/{site}/{device}     site = 'lab', device = 'cold+room/2'     alerts/lab/cold%2Broom%2F2
//! ```
//! A value is one level, or a part of one. What would make a topic something else is written as in a URL: `/`, `+`, `#`, `%`,
//! NUL and other control characters, and a `$` at the beginning of the topic. NULL, and a text without letters, are `_`: an
//! empty level would be easy to overlook, and an empty topic is forbidden. The payload has the values as they are.

use std::fmt::Write as _;

use arrow::datatypes::Schema;

use super::topic::TOPIC_BYTES_MAX;
use crate::options::nearest;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TopicTemplate(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// A column, by its place.
    Column(usize),
}

impl TopicTemplate {
    /// Reads a template over the columns of a view; says what is wrong with it.
    pub(super) fn parse(text: &str, schema: &Schema) -> Result<TopicTemplate, String> {
        if text.is_empty() {
            return Err("is empty: say for example 'alerts/{device}'".to_owned());
        }
        if text.len() > TOPIC_BYTES_MAX {
            return Err(format!("has {} bytes, more than the {TOPIC_BYTES_MAX} that MQTT can carry", text.len()));
        }
        if let Some(wildcard) = text.chars().find(|letter| matches!(letter, '+' | '#')) {
            return Err(format!("holds {wildcard}: nobody can publish to a wildcard; a column is written {{name}}"));
        }
        if text.contains(char::is_control) {
            return Err("holds a control character".to_owned());
        }
        if text.starts_with('$') {
            return Err("begins with $: such topics are the broker's own".to_owned());
        }
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let Some((name, after)) = from.strip_prefix('{').and_then(|from| from.split_once('}')) else {
                return Err("has a brace without the other: a column is written {name}".to_owned());
            };
            let column = schema.index_of(name).map_err(|_| {
                let columns = || schema.fields().iter().map(|field| field.name().as_str());
                match nearest(name, columns()) {
                    Some(near) => format!("there is no column {name:?}; did you mean {near}?"),
                    None => {
                        format!("there is no column {name:?}; there are {}", columns().collect::<Vec<_>>().join(", "))
                    }
                }
            })?;
            pieces.push(Piece::Column(column));
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(TopicTemplate(pieces))
    }

    /// Returns the places of the columns it names.
    pub(super) fn columns(&self) -> impl Iterator<Item = usize> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Text(_) => None,
            Piece::Column(column) => Some(*column),
        })
    }

    /// Writes the topic of a row; `value` writes a column of it as text, nothing if it is NULL.
    pub(super) fn render(&self, topic: &mut String, mut value: impl FnMut(usize, &mut String)) {
        topic.clear();
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(piece) => topic.push_str(piece),
                Piece::Column(column) => {
                    text.clear();
                    value(*column, &mut text);
                    escape(&text, topic);
                }
            }
        }
    }
}

fn escape(value: &str, topic: &mut String) {
    if value.is_empty() {
        topic.push('_');
    }
    for letter in value.chars() {
        let is_first = topic.is_empty();
        match letter {
            '/' | '+' | '#' | '%' => drop(write!(topic, "%{:02X}", u32::from(letter))),
            '$' if is_first => topic.push_str("%24"),
            letter if letter.is_control() => {
                for byte in letter.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(topic, "%{byte:02X}");
                }
            }
            letter => topic.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};

    use super::*;

    fn schema() -> Schema {
        Schema::new(vec![Field::new("site", DataType::Utf8, true), Field::new("device", DataType::Utf8, true)])
    }

    fn rendered(template: &str, values: [&str; 2]) -> String {
        let template = TopicTemplate::parse(template, &schema()).expect("valid");
        let mut topic = String::new();
        template.render(&mut topic, |column, text| text.push_str(values[column]));
        topic
    }

    #[test]
    fn fuzz_topic_template() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/src/mqtt/corpus/template");
        tidemill_engine::testing::fuzz::fuzz(corpus, |input| {
            let text = String::from_utf8_lossy(input);
            let Ok(template) = TopicTemplate::parse(&text, &schema()) else { return false };
            for value in ["", "a/b", "+#\0$", &text] {
                let mut topic = String::new();
                template.render(&mut topic, |_, text| text.push_str(value));
                let is_topic = !topic.is_empty() && !topic.starts_with('$') && !topic.contains(['+', '#', '\0']);
                assert!(is_topic, "{text:?} with {value:?} is {topic:?}");
                assert_eq!(topic.matches('/').count(), text.matches('/').count(), "{text:?} with {value:?}");
            }
            true
        });
    }

    #[test]
    fn columns_become_levels_and_cannot_make_further_ones() {
        assert_eq!(rendered("alerts/{site}/{device}", ["lab", "freezer"]), "alerts/lab/freezer");
        assert_eq!(rendered("a/{device}-{site}/x", ["lab", "freezer"]), "a/freezer-lab/x");
        assert_eq!(rendered("alerts/{site}/{device}", ["a/b+c#d%", "\0x\u{85}"]), "alerts/a%2Fb%2Bc%23d%25/%00x%C2%85");
        assert_eq!(rendered("{site}/{device}", ["$SYS", "$x"]), "%24SYS/$x");
        assert_eq!(rendered("{site}", ["", ""]), "_", "no topic is empty");
        assert_eq!(rendered("alerts/all", ["", ""]), "alerts/all");
    }

    #[test]
    fn mistakes_say_what_would_be_right() {
        for (template, words) in [
            ("", "is empty"),
            ("alerts/+/x", "holds +"),
            ("alerts/#", "holds #"),
            ("$SYS/x", "begins with $"),
            ("a\0b", "control character"),
            ("a/{site", "a brace without the other"),
            ("a/site}", "a brace without the other"),
            ("a/{}", "there is no column \"\""),
            ("a/{devize}", "did you mean device?"),
            ("a/{room}", "there are site, device"),
        ] {
            let problem = TopicTemplate::parse(template, &schema()).expect_err(template);
            assert!(problem.contains(words), "{template}: {problem}");
        }
    }
}
