//! Samples of Prometheus' text: which labels are worth a column, and what changes from scrape to scrape.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::json;
use tidemill_queries::{is_column_name, name_in_sql};

use super::fetched::Fetched;
use super::pipeline::{comment, in_comment};
use super::sample::Listening;
use crate::commands::words::{count, grouped};

/// Labels that become columns; all of them are in the map.
const LABELS_MAX: usize = 4;
/// A label that so many of 100 series have is worth a column.
const LABEL_PERCENT_MIN: usize = 20;
/// Metrics that are named in a comment.
const METRICS_NAMED_MAX: usize = 12;
/// Names that are columns already.
const TAKEN: [&str; 10] =
    ["metric", "labels", "value", "ts", "target", "type", "unit", "help", "window_start", "window_end"];

/// A series and its value, as a scrape has it.
struct Sample<'t> {
    metric: &'t str,
    labels: Vec<(&'t str, &'t str)>,
    value: &'t str,
}

/// Says whether a text is of samples: some, and nothing else.
pub(super) fn looks_like(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).peekable();
    let is_described = text.lines().any(|line| line.starts_with("# TYPE ") || line.starts_with("# HELP "));
    (lines.peek().is_some() || is_described) && lines.all(|line| sample(line).is_some())
}

/// Reads a line, roughly: the source itself decides what a sample is.
fn sample(line: &str) -> Option<Sample<'_>> {
    let name_end = line.find(|letter: char| letter == '{' || letter.is_whitespace())?;
    let (metric, rest) = line.split_at(name_end);
    let is_name = |name: &str| {
        let mut letters = name.chars();
        letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_' || first == ':')
            && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':')
    };
    if !is_name(metric) {
        return None;
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => labels(inside)?,
        None => (Vec::new(), rest),
    };
    let value = rest.split_whitespace().next()?;
    let is_number = value.parse::<f64>().is_ok() || ["+Inf", "-Inf", "NaN"].contains(&value);
    is_number.then_some(Sample { metric, labels, value })
}

/// Reads labels up to the closing brace; returns what is behind it.
fn labels(mut rest: &str) -> Option<(Vec<(&str, &str)>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if let Some(behind) = rest.strip_prefix('}') {
            return Some((labels, behind));
        }
        let (name, behind) = rest.split_once('=')?;
        let behind = behind.trim_start().strip_prefix('"')?;
        let mut is_escaped = false;
        let end = behind.char_indices().find(|(_, letter)| {
            let is_end = *letter == '"' && !is_escaped;
            is_escaped = *letter == '\\' && !is_escaped;
            is_end
        });
        let (end, _) = end?;
        labels.push((name.trim(), &behind[..end]));
        rest = &behind[end + 1..];
    }
}

/// A metric and its labels.
type Series<'a> = (&'a str, Vec<(&'a str, &'a str)>);

/// Makes a pipeline of scrapes.
pub(super) fn understand(
    listening: &Listening,
    mut notes: Vec<String>,
    options: &[(&'static str, String, Option<String>)],
) -> Fetched {
    let scrapes: Vec<String> =
        listening.heard.iter().map(|heard| String::from_utf8_lossy(&heard.message.payload).into_owned()).collect();
    let mut values: BTreeMap<Series<'_>, BTreeSet<&str>> = BTreeMap::new();
    for line in scrapes.iter().flat_map(|scrape| scrape.lines()) {
        if let Some(Sample { metric, labels, value }) = sample(line.trim()).filter(|_| !line.starts_with('#')) {
            values.entry((metric, labels)).or_default().insert(value);
        }
    }
    let metrics: BTreeSet<&str> = values.keys().map(|(metric, _)| *metric).collect();
    let changing: BTreeSet<&str> =
        values.iter().filter(|(_, values)| values.len() > 1).map(|((metric, _), _)| *metric).collect();
    notes.push(format!("{} series of {}.", grouped(values.len() as u64), count(metrics.len(), "metric")));
    if scrapes.len() > 1 {
        let named: Vec<&str> = changing.iter().take(METRICS_NAMED_MAX).copied().collect();
        let more = if changing.len() > named.len() { ", …" } else { "" };
        notes.push(match named.is_empty() {
            true => "None of them has changed meanwhile.".to_owned(),
            false => format!("{} changed meanwhile: {}{more}.", count(changing.len(), "metric"), named.join(", ")),
        });
    }
    let columns = label_columns(values.keys().map(|(_, labels)| labels.as_slice()), values.len());
    let sql = write(&notes, &columns, options);
    let facts = json!({
        "messages": scrapes.len(), "series": values.len(), "metrics": metrics.len(), "changing": changing,
        "labels": columns, "notes": notes,
    });
    Fetched { sql, facts }
}

/// Chooses the labels that many series have; most of them first.
fn label_columns<'t>(series: impl Iterator<Item = &'t [(&'t str, &'t str)]>, series_count: usize) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for &(name, _) in series.flatten() {
        *counts.entry(name).or_default() += 1;
    }
    let is_free = |name: &str| is_column_name(name) && !TAKEN.iter().any(|taken| taken.eq_ignore_ascii_case(name));
    let mut often: Vec<(usize, &str)> = counts
        .into_iter()
        .filter(|(name, count)| count * 100 >= series_count * LABEL_PERCENT_MIN && is_free(name))
        .map(|(name, count)| (count, name))
        .collect();
    often.sort_by_key(|(count, name)| (std::cmp::Reverse(*count), *name));
    let mut columns: Vec<String> = Vec::new();
    for (_, name) in often {
        if columns.len() < LABELS_MAX && !columns.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            columns.push(name.to_owned());
        }
    }
    columns
}

fn write(notes: &[String], labels: &[String], options: &[(&'static str, String, Option<String>)]) -> String {
    let mut sql: String = notes.iter().map(|note| comment(note)).collect();
    sql.push_str("\nCREATE SOURCE metrics (\n");
    let label_lines: String =
        labels.iter().map(|label| format!("    {:6} TEXT,\n", name_in_sql(&in_comment(label)))).collect();
    sql.push_str(
        "    metric TEXT NOT NULL,\n    labels MAP<TEXT, TEXT>,\n    value  DOUBLE,\n    ts     TIMESTAMP NOT NULL,\n",
    );
    sql.push_str(&label_lines);
    sql.push_str("    target TEXT METADATA FROM 'url',\n    WATERMARK FOR ts AS ts - INTERVAL '1 second'\n) WITH (\n");
    let width = options.iter().map(|(key, ..)| key.len()).max().unwrap_or(0);
    let lines: Vec<String> = options.iter().map(|(key, value, _)| format!("    {key:width$} = {value}")).collect();
    let _ = write!(sql, "{}\n);\n\n", lines.join(",\n"));
    let keys: String = labels.iter().map(|label| format!(", {}", name_in_sql(label))).collect();
    let _ = write!(
        sql,
        "CREATE MATERIALIZED VIEW metrics_1m AS\n\
         SELECT target, metric{keys}, window_start, window_end,\n\
         \x20      count(*)                AS n,\n\
         \x20      avg(value)              AS value_avg,\n\
         \x20      min(value)              AS value_min,\n\
         \x20      max(value)              AS value_max\n\
         FROM   TUMBLE(metrics, ts, INTERVAL '1 minute')\n\
         GROUP  BY target, metric{keys}, window_start, window_end;\n"
    );
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_told_from_other_text() {
        for text in
            ["up 1", "# TYPE a counter\na_total{x=\"}\",y=\"\\\"\"} 1 1395066363000\n\na_sum +Inf", "# HELP a b"]
        {
            assert!(looks_like(text), "{text}");
        }
        for text in ["", "hello world", "a,b\n1,2", "up 1\nup", "up{x=1} 1", "1up 1", "# a comment"] {
            assert!(!looks_like(text), "{text}");
        }
    }

    #[test]
    fn labels_that_many_series_have_become_columns() {
        let series = [
            vec![("device", "a"), ("le", "1")],
            vec![("device", "b"), ("type", "x")],
            vec![("device", "c"), ("Device", "c")],
            vec![("device", "c"), ("rare", "1")],
            vec![],
        ];
        let columns = label_columns(series.iter().map(Vec::as_slice), 5);
        assert_eq!(
            columns,
            ["device", "le", "rare"],
            "type is a column of the format, Device differs in capitals only"
        );
    }
}
