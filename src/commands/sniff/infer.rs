//! From what was heard to a pipeline: each question has its own module, and here their answers meet.

use super::columns;
use super::groups::{self, Group, Unreadable};
use super::lateness::Lateness;
use super::pipeline::{Draft, text_in_sql};
use super::sample::Listening;
use super::topics;
use crate::commands::words::count;
use tidemill_connectors::mqtt::TopicPattern;

/// Readings below which types and NOT NULL are guesses.
pub(super) const READINGS_FEW: usize = 10;
/// Groups that are named beside the one that is taken.
const GROUPS_NAMED_MAX: usize = 5;
/// Letters of a payload that are shown.
const EXAMPLE_CHARS_MAX: usize = 60;
/// A clock that runs ahead by more than this is worth a word.
const AHEAD_US: i64 = 1_000_000;

/// What was understood.
#[derive(Debug)]
pub(super) struct Sniffed {
    /// The source and its first view.
    pub(super) draft: Draft,
    /// Messages that were published while we listened.
    pub(super) live_count: u64,
    /// Old messages that the broker sent again.
    pub(super) retained_count: usize,
    /// Topics of live messages, or of retained ones if there were no others.
    pub(super) topic_count: usize,
    /// Live messages in a second.
    pub(super) rate: f64,
    /// Of the event times, if there are any in live messages.
    pub(super) lateness: Option<Lateness>,
}

/// Why there is no pipeline.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Nothing {
    /// Nothing came.
    Silence,
    /// What came holds no readings, and what it is.
    Unreadable(Vec<String>),
}

/// Understands what was heard on `asked`. `options` lead to the broker: keys, values as SQL has them, and remarks.
pub(super) fn infer(
    listening: &Listening,
    asked: &str,
    mut options: Vec<(&'static str, String, Option<String>)>,
) -> Result<Sniffed, Nothing> {
    let live: Vec<_> = listening.heard.iter().filter(|heard| !heard.retained).collect();
    let retained_count = listening.heard.len() - live.len();
    let is_retained_only = live.is_empty();
    let looked_at = if is_retained_only { listening.heard.iter().collect() } else { live };
    if looked_at.is_empty() {
        return Err(Nothing::Silence);
    }
    let (groups, unreadable) = groups::of(looked_at.iter().copied());
    let Some((group, others)) = groups.split_first() else {
        return Err(Nothing::Unreadable(describe_unreadable(&unreadable)));
    };
    let topics = topics::infer(group, asked);
    let columns = columns::infer(group, &topics.same_as_field);
    let lateness = Lateness::measure(&columns.times).filter(|_| !is_retained_only);

    let live_count = if is_retained_only { 0 } else { looked_at.len() as u64 + listening.not_kept };
    let rate = live_count as f64 * 1e6 / listening.duration_us.max(1) as f64;
    let topic_count = {
        let all: std::collections::BTreeSet<String> = looked_at.iter().map(|heard| heard.topic()).collect();
        all.len()
    };
    let listened = format!("Heard in {} on {asked}:", seconds(listening.duration_us));
    let mut notes = vec![match is_retained_only {
        true => format!("{listened} nothing that was published meanwhile."),
        false => {
            let (messages, on) = (count(live_count as usize, "message"), count(topic_count, "topic"));
            format!("{listened} {messages} ({} a second) on {on}.", rounded(rate))
        }
    }];
    notes.extend(describe_retained(retained_count, is_retained_only));
    if listening.not_kept > 0 {
        notes.push(format!("The last {} were counted only.", count(listening.not_kept as usize, "message")));
    }
    if columns.row_count < READINGS_FEW {
        let readings = count(columns.row_count, "reading");
        notes.push(format!("Only {readings}: look at types and NOT NULL before you rely on them."));
    }
    notes.extend(describe_lateness(columns.time.as_deref(), lateness));
    let pattern = TopicPattern::parse(&topics.pattern).ok();
    let accepts = |topic: &str| pattern.as_ref().is_some_and(|pattern| pattern.accepts(topic));
    notes.extend(describe_others(others, &unreadable, accepts));

    options.push(("topic", text_in_sql(&topics.pattern), None));
    // What was heard at QoS 0 says nothing about how it is published.
    options.push(("qos", "1".to_owned(), Some("acknowledged after it is on the disk".to_owned())));
    let delay = lateness.map_or("10 seconds", |lateness| lateness.delay);
    // Arrivals are in order but for what is written together.
    let delay = if columns.time.is_none() { "1 second" } else { delay };
    let draft = Draft { notes, columns, levels: topics.columns, delay, options };
    Ok(Sniffed { draft, live_count, retained_count, topic_count, rate, lateness })
}

fn describe_retained(retained: usize, only: bool) -> Option<String> {
    let copies = format!("{} {}", retained, if retained == 1 { "retained copy" } else { "retained copies" });
    match (retained, only) {
        (0, _) => None,
        (_, true) => Some(format!(
            "There were {copies}: old readings that the broker sends again. They show the fields, but say nothing about \
             rate and lateness, and the source skips them (retained = 'skip'). Listen longer with --seconds."
        )),
        (_, false) => Some(format!(
            "Beside them {copies}: old readings that the broker sends again, which the source skips (retained = 'skip')."
        )),
    }
}

pub(super) fn describe_lateness(time: Option<&str>, lateness: Option<Lateness>) -> Vec<String> {
    let Some(time) = time else {
        return vec!["No field is a time in every reading: a reading counts for when it arrives.".to_owned()];
    };
    let Some(lateness) = lateness else {
        return vec![format!("How late {time} is could not be measured; ten seconds is a guess.")];
    };
    let Lateness { p50_us, p99_us, max_us, ahead_us, is_history, delay } = lateness;
    let [p50, p99, max] = [p50_us, p99_us, max_us].map(|late_us| seconds(late_us.max(0)));
    let measured =
        format!("{time} is behind the arrival by {p50} mostly, {p99} for 99 % of the readings, {max} at most.");
    let mut notes = vec![match is_history {
        true => format!("{measured} They are history: the watermark's {delay} are their disorder."),
        false => measured,
    }];
    if ahead_us > AHEAD_US {
        notes.push(format!(
            "Some readings are up to {} ahead of their arrival: a clock is wrong. Option future_limit keeps such rows apart.",
            seconds(ahead_us)
        ));
    }
    notes
}

/// Names what the source does not take, and whether it comes to it all the same.
fn describe_others(others: &[Group<'_>], unreadable: &Unreadable<'_>, accepts: impl Fn(&str) -> bool) -> Vec<String> {
    let mut notes = Vec::new();
    for group in others.iter().take(GROUPS_NAMED_MAX) {
        let fields: Vec<&str> = group.fields.iter().take(GROUPS_NAMED_MAX).map(String::as_str).collect();
        let more = if group.fields.len() > fields.len() { ", …" } else { "" };
        let (messages, pattern) = (count(group.messages.len(), "message"), topics::infer(group, "").pattern);
        let come = group.messages.iter().filter(|(heard, _)| accepts(&heard.topic())).count();
        let too = match come {
            0 => String::new(),
            _ => " The source gets them too: what lacks a NOT NULL column becomes a dead letter.".to_owned(),
        };
        notes.push(format!(
            "Not in this source: {messages} with other fields ({}{more}) on {pattern}.{too}",
            fields.join(", ")
        ));
    }
    if others.len() > GROUPS_NAMED_MAX {
        notes.push(format!("And messages of {} more kinds.", others.len() - GROUPS_NAMED_MAX));
    }
    for note in describe_unreadable(unreadable) {
        notes.push(format!("Not in this source: {note}."));
    }
    notes
}

pub(super) fn describe_unreadable(unreadable: &Unreadable<'_>) -> Vec<String> {
    let described = |(kind, (many, first)): (&&str, &(usize, &super::sample::Heard))| {
        let payload = String::from_utf8_lossy(&first.message.payload);
        let cut = payload.chars().count() > EXAMPLE_CHARS_MAX;
        let shown: String = payload.chars().take(EXAMPLE_CHARS_MAX).collect();
        let example = match *kind {
            "empty" | "binary" => String::new(),
            _ => format!(", such as {shown:?}{}", if cut { "…" } else { "" }),
        };
        let are = if *many == 1 { "is" } else { "are" };
        let kind = match *kind {
            "a plain number" if *many != 1 => "plain numbers",
            "a plain value" if *many != 1 => "plain values",
            kind => kind,
        };
        format!("{} that {are} {kind}{example} on {}", count(*many, "message"), first.topic())
    };
    unreadable.kinds.iter().map(described).collect()
}

/// Says a time in the unit that suits it.
pub(super) fn seconds(us: i64) -> String {
    let s = us as f64 / 1e6;
    match s.abs() {
        small if small < 0.1 => format!("{:.0} ms", s * 1e3),
        some if some < 120.0 => format!("{} s", rounded(s)),
        some if some < 7_200.0 => format!("{:.0} minutes", s / 60.0),
        some if some < 172_800.0 => format!("{:.0} hours", s / 3_600.0),
        _ => format!("{:.0} days", s / 86_400.0),
    }
}

pub(super) fn rounded(number: f64) -> String {
    let digits = if number.abs() < 10.0 { 1 } else { 0 };
    let text = format!("{number:.digits$}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}
