//! Topics become a pattern: levels that differ are columns, the others stay as they are.

use std::collections::BTreeSet;

use tidemill_connectors::mqtt::TopicPattern;

use super::groups::Group;

/// A topic pattern with what is known of its columns.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Topics {
    /// As it is written in a source.
    pub(super) pattern: String,
    /// The columns it adds, in order.
    pub(super) columns: Vec<String>,
    /// Fields of the payload that say the same as a level: name, and number of the level.
    pub(super) same_as_field: Vec<(String, usize)>,
}

/// Makes the pattern of a group. `asked` is what was listened to: the names in it are kept.
pub(super) fn infer(group: &Group<'_>, asked: &str) -> Topics {
    let topics = group.topics();
    let asked: Vec<&str> = asked.split('/').collect();
    let levels: Vec<BTreeSet<&str>> = (0..group.level_count)
        .map(|level| topics.iter().filter_map(|topic| topic.split('/').nth(level)).collect())
        .collect();
    let literal = |level: usize| levels[level].iter().next().copied().filter(|_| levels[level].len() == 1);
    let mut found = Topics::default();
    let mut written = Vec::with_capacity(levels.len());
    let last_level = (0..levels.len()).rev().find(|level| literal(*level).is_none());
    for (level, values) in levels.iter().enumerate() {
        let given = asked.get(level).and_then(|level| level.strip_prefix('{')?.strip_suffix('}'));
        if given.is_none()
            && let Some(text) = literal(level)
        {
            let is_plain = text.is_empty() || TopicPattern::parse(text).is_ok_and(|level| level.columns().is_empty());
            // A comma, or braces, would mean something else in a pattern.
            written.push(if is_plain { text } else { "+" }.to_owned());
            continue;
        }
        let same = given.is_none().then(|| field_of_level(group, level)).flatten();
        let by_neighbour = || {
            let before = level.checked_sub(1).and_then(literal)?;
            // A word between two that differ is the name of the second: {site}/line/{line}.
            let is_between = level.checked_sub(2).is_some_and(|first| literal(first).is_none());
            name_after(before, is_between)
        };
        let name = given.map(str::to_owned).or_else(|| same.clone()).or_else(by_neighbour);
        let is_taken = |name: &str| {
            found.columns.iter().any(|other| other.eq_ignore_ascii_case(name))
                || group.fields.iter().any(|field| field.eq_ignore_ascii_case(name) && same.as_deref() != Some(field))
        };
        let is_device = || last_level == Some(level) && values.iter().all(is_numbered) && !is_taken("device");
        let name = name.or_else(|| is_device().then(|| "device".to_owned()));
        let mut name = name.unwrap_or_else(|| format!("level{}", level + 1));
        while is_taken(&name) {
            name = format!("topic_{name}");
        }
        found.same_as_field.extend(same.filter(|same| *same == name).map(|same| (same, level + 1)));
        written.push(format!("{{{name}}}"));
        found.columns.push(name);
    }
    found.pattern = written.join("/");
    found
}

/// Finds a field that has the text of a level in every row.
fn field_of_level(group: &Group<'_>, level: usize) -> Option<String> {
    let mut candidates: Vec<&str> =
        group.fields.iter().map(String::as_str).filter(|name| is_level_name(name)).collect();
    for (heard, rows) in &group.messages {
        let topic = String::from_utf8_lossy(&heard.message.topic);
        let value = topic.split('/').nth(level)?;
        candidates.retain(|name| rows.iter().all(|row| row.get(name).and_then(|found| found.as_str()) == Some(value)));
        if candidates.is_empty() {
            return None;
        }
    }
    candidates.first().map(|name| (*name).to_owned())
}

/// Whether a level looks like one of many of a kind, as `freezer-17` does: the last such level mostly is a device.
fn is_numbered(level: &&str) -> bool {
    level.contains(|letter: char| letter.is_ascii_digit())
        && level.contains(|letter: char| letter.is_ascii_alphabetic())
}

/// Names a level by the word before it: `sites/x` is a site, and what stands behind a word between two levels is that.
fn name_after(before: &str, is_between: bool) -> Option<String> {
    let before = before.to_lowercase();
    let singular = match before.as_str() {
        plural if plural.ends_with("ies") && plural.len() > 4 => Some(format!("{}y", &plural[..plural.len() - 3])),
        plural if plural.ends_with('s') && plural.len() > 3 && !plural.ends_with("ss") && !plural.ends_with("us") => {
            Some(plural[..plural.len() - 1].to_owned())
        }
        _ => None,
    };
    let name = singular.or_else(|| is_between.then_some(before))?;
    is_level_name(&name).then_some(name)
}

/// Whether a pattern may have a level of this name.
fn is_level_name(name: &str) -> bool {
    TopicPattern::parse(&format!("{{{name}}}")).is_ok_and(|pattern| pattern.columns().len() == 1)
}
