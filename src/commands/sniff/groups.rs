//! Messages that look alike: the same number of topic levels, and mostly the same fields.
//!
//! ```text
//!   plant/a/f1/telemetry {temperature, humidity, ts} ─┐
//!   plant/a/f2/telemetry {temperature, ts}           ─┴─► 2 messages: {temperature, humidity, ts}, 4 levels   taken
//!   plant/a/f1/status    {battery, online}           ───► 1 message:  {battery, online}, 4 levels             named
//!   plant/a/lamp         on                          ───► no JSON                                             named
//! ```
//!
//! A source has one topic pattern and one list of columns, so it takes one group; the largest is taken.

use std::collections::{BTreeMap, BTreeSet};

use super::sample::{Heard, Payload, Row};

/// Groups that are told apart; what looks different still is counted with the last one.
const GROUPS_MAX: usize = 32;

/// Messages of one look.
#[derive(Debug, Default)]
pub(super) struct Group<'h> {
    /// Levels of the topic.
    pub(super) level_count: usize,
    /// Names of fields that some row has.
    pub(super) fields: BTreeSet<String>,
    /// The messages, with their rows.
    pub(super) messages: Vec<(&'h Heard, Vec<Row>)>,
}

/// Messages that hold no JSON objects.
#[derive(Debug, Default)]
pub(super) struct Unreadable<'h> {
    /// For each kind how many there are, and the first of them.
    pub(super) kinds: BTreeMap<&'static str, (usize, &'h Heard)>,
}

/// Sorts messages by their looks; the groups come largest first.
pub(super) fn of<'h>(heard: impl Iterator<Item = &'h Heard>) -> (Vec<Group<'h>>, Unreadable<'h>) {
    let mut unreadable = Unreadable::default();
    let mut looks: BTreeMap<(usize, BTreeSet<String>), Group<'h>> = BTreeMap::new();
    for heard in heard {
        match Payload::read(&heard.message.payload) {
            Payload::Other(kind) => unreadable.kinds.entry(kind).or_insert((0, heard)).0 += 1,
            Payload::Rows(rows) => {
                let level_count = heard.message.topic.split(|byte| *byte == b'/').count();
                let names = rows.iter().flat_map(|row| row.0.iter().map(|(name, _)| name.clone()));
                let fields: BTreeSet<String> = names.collect();
                let look = looks.entry((level_count, fields.clone())).or_default();
                (look.level_count, look.fields) = (level_count, fields);
                look.messages.push((heard, rows));
            }
        }
    }
    let mut looks: Vec<Group<'h>> = looks.into_values().collect();
    looks.sort_by_key(|look| std::cmp::Reverse(look.messages.len()));
    let mut groups: Vec<Group<'h>> = Vec::new();
    for look in looks {
        let is_full = groups.len() >= GROUPS_MAX;
        match groups.iter_mut().find(|group| group.is_like(&look)) {
            Some(group) => group.take(look),
            None if is_full => groups.last_mut().expect("there are some").take(look),
            None => groups.push(look),
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.messages.len()));
    // Rows in the order in which they came: what is inferred depends on it where there are several ways.
    groups.iter_mut().for_each(|group| group.messages.sort_by_key(|(heard, _)| heard.arrival_us));
    (groups, unreadable)
}

impl<'h> Group<'h> {
    /// Whether other messages are of the same look: half of the fields of both are common, or all of the smaller one, if
    /// that has more than one (a time alone is in everything).
    fn is_like(&self, other: &Group<'_>) -> bool {
        let common = self.fields.intersection(&other.fields).count();
        let all = self.fields.len() + other.fields.len() - common;
        let smaller = self.fields.len().min(other.fields.len());
        self.level_count == other.level_count && (common * 2 >= all || (common == smaller && smaller > 1))
    }

    fn take(&mut self, other: Group<'h>) {
        self.fields.extend(other.fields);
        self.messages.extend(other.messages);
    }

    /// Returns the rows, with the arrival of each and its message.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&'h Heard, &Row)> {
        self.messages.iter().flat_map(|(heard, rows)| rows.iter().map(move |row| (*heard, row)))
    }

    /// Returns the topics, each once.
    pub(super) fn topics(&self) -> BTreeSet<String> {
        self.messages.iter().map(|(heard, _)| heard.topic()).collect()
    }
}
