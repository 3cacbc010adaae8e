//! Prometheus text exposition (0.0.4) and OpenMetrics 1.0: what `/metrics` answers. One sample is one row.
//!
//! ```text
//!   # TYPE http_requests_total counter
//!   http_requests_total{method="post",code="200"} 1027 1395066363000
//!   └────────┬────────┘ └────────────┬──────────┘ └─┬┘ └─────┬─────┘
//!   metric               labels                     value    time: ms, or seconds in OpenMetrics (may be missing)
//! ```
//!
//! | column | |
//! |---|---|
//! | `metric`, `value` | |
//! | `ts` | the sample's time; when it arrived if it has none |
//! | `labels` | MAP<TEXT, TEXT>: all of them |
//! | `type`, `unit`, `help` | what the comments say about the metric; NULL if they say nothing |
//! | any other | the label of its name |
//!
//! A text that ends with `# EOF` is OpenMetrics. Exemplars, which follow a sample behind a `#`, are left out.

use std::borrow::Cow;

use memchr::{memchr, memchr2};
use tidemill_engine::source::Message;

use super::super::rows::Span;
use super::cell::{Cell, Text, number};
use super::rows::{Names, Place, Row, Rows};

/// The columns that are parts of every point.
pub(super) const PARTS: [&str; 7] = ["metric", "value", "ts", "labels", "type", "unit", "help"];

/// What the samples of a family end with, beside its name.
const SUFFIXES: [&str; 8] = ["", "_total", "_created", "_bucket", "_sum", "_count", "_info", "_gsum"];

/// What the comments have said last.
#[derive(Default)]
struct Family<'m> {
    name: &'m str,
    kind: &'m str,
    unit: &'m str,
    help: &'m str,
}

impl<'m> Family<'m> {
    /// Reads a comment; one that says nothing about a family is only a comment.
    fn read(&mut self, comment: &'m str) {
        let (keyword, rest) = word(comment);
        let (name, value) = word(rest);
        // Quoted where it has characters that names did not have before.
        let name = name.strip_prefix('"').and_then(|name| name.strip_suffix('"')).unwrap_or(name);
        if !matches!(keyword, "TYPE" | "UNIT" | "HELP") {
            return;
        }
        if name != self.name {
            *self = Family { name, ..Family::default() };
        }
        let value = value.trim_ascii();
        match keyword {
            "TYPE" => self.kind = value,
            "UNIT" => self.unit = value,
            _ => self.help = value,
        }
    }

    fn has(&self, metric: &str) -> bool {
        metric.strip_prefix(self.name).is_some_and(|suffix| SUFFIXES.contains(&suffix) || suffix == "_gcount")
    }
}

struct Places {
    metric: Place,
    value: Place,
    time: Place,
    labels: Place,
    kind: Place,
    unit: Place,
    help: Place,
}

/// Reads the samples of a message.
pub(super) fn read(message: &Message, whole: Span, names: &Names, rows: &mut Rows<'_>) {
    let places = Places {
        metric: names.part("metric"),
        value: names.part("value"),
        time: names.part("ts"),
        labels: names.part("labels"),
        kind: names.part("type"),
        unit: names.part("unit"),
        help: names.part("help"),
    };
    let payload = &message.payload;
    let times = match payload.trim_ascii_end().ends_with(b"# EOF") {
        true => Times::Seconds,
        false => Times::Milliseconds,
    };
    let mut family = Family::default();
    let mut row = Row::new(names);
    let mut start = 0;
    while start < payload.len() {
        let end = memchr(b'\n', &payload[start..]).map_or(payload.len(), |length| start + length);
        let line = &payload[start..end];
        let span = Span { start: start as u32, end: (start + line.trim_ascii_end().len()) as u32, ..whole };
        start = end + 1;
        let text = match std::str::from_utf8(line) {
            Ok(text) => text.trim_ascii(),
            Err(error) => {
                let at = error.valid_up_to();
                rows.dead.push(span, format!("not Prometheus text: not UTF-8 at byte {at}"));
                continue;
            }
        };
        if let Some(comment) = text.strip_prefix('#') {
            family.read(comment);
        } else if !text.is_empty() {
            row.clear();
            let mut sample = Sample { text, at: 0 };
            match sample.read(&places, times, &family, rows.arrival_us, &mut row) {
                Ok(()) => rows.take(&mut row, span),
                Err(problem) => {
                    rows.dead.push(span, format!("not Prometheus text: {problem}, at byte {}", sample.at));
                }
            }
        }
    }
}

/// What times count.
#[derive(Clone, Copy)]
enum Times {
    Milliseconds,
    /// OpenMetrics.
    Seconds,
}

struct Sample<'m> {
    text: &'m str,
    at: usize,
}

impl<'m> Sample<'m> {
    fn read(
        &mut self,
        places: &Places,
        times: Times,
        family: &Family<'m>,
        arrival_us: i64,
        row: &mut Row<'m>,
    ) -> Result<(), &'static str> {
        let bare = self.until(|byte| byte == b'{' || byte.is_ascii_whitespace());
        let mut metric = (!bare.is_empty()).then_some(Cow::Borrowed(bare));
        self.skip_spaces();
        if self.next_is(b'{') {
            self.labels(places, &mut metric, row)?;
        }
        let Some(metric) = metric else { return Err("there is no name of a metric") };
        self.skip_spaces();
        let value_at = self.at;
        let value = self.until(|byte| byte.is_ascii_whitespace());
        if value.is_empty() {
            return Err("there is no value");
        }
        let Some(value) = number(value) else {
            self.at = value_at;
            return Err("the value is not a number");
        };
        self.skip_spaces();
        let mut time_us = arrival_us;
        if !self.rest().is_empty() && !self.rest().starts_with('#') {
            let time_at = self.at;
            let time = self.until(|byte| byte.is_ascii_whitespace());
            time_us = time_of(time, times).ok_or("the time is not a number of the format").inspect_err(|_| {
                self.at = time_at;
            })?;
            self.skip_spaces();
        }
        if !self.rest().is_empty() && !self.rest().starts_with('#') {
            return Err("expected the end of the line");
        }
        if family.has(&metric) {
            row.set(places.kind, Cell::text_or_null(family.kind));
            row.set(places.unit, Cell::text_or_null(family.unit));
            row.set(places.help, Cell::text_or_null(family.help));
        }
        row.set(places.metric, Cell::Text(metric));
        row.set(places.value, Cell::Float(value));
        row.set(places.time, Cell::Time(time_us));
        Ok(())
    }

    /// The labels behind the opening brace, with the closing one. A name in quotes alone is that of the metric.
    fn labels(
        &mut self,
        places: &Places,
        metric: &mut Option<Text<'m>>,
        row: &mut Row<'m>,
    ) -> Result<(), &'static str> {
        loop {
            self.skip_spaces();
            if self.next_is(b'}') {
                return Ok(());
            }
            let name = match self.next_is(b'"') {
                true => self.quoted()?,
                false => Cow::Borrowed(self.until(|byte| matches!(byte, b'=' | b',' | b'}' | b'{' | b'"' | b' '))),
            };
            self.skip_spaces();
            if self.next_is(b'=') {
                if name.is_empty() {
                    return Err("a label has no name");
                }
                self.skip_spaces();
                if !self.next_is(b'"') {
                    return Err("the value of a label is text in quotes");
                }
                let value = self.quoted()?;
                row.attribute(places.labels, name, || Cell::Text(value));
            } else if metric.is_none() && !name.is_empty() {
                *metric = Some(name);
            } else {
                return Err("expected name=\"value\" or the end of the labels");
            }
            self.skip_spaces();
            if !self.next_is(b',') && self.peek() != Some(b'}') {
                return Err("expected a comma or the end of the labels");
            }
        }
    }

    /// Text behind its opening quote, with the closing one.
    fn quoted(&mut self) -> Result<Text<'m>, &'static str> {
        let start = self.at;
        let mut has_escapes = false;
        while let Some(found) = memchr2(b'"', b'\\', self.rest().as_bytes()) {
            self.at += found;
            if self.next_is(b'"') {
                let text = &self.text[start..self.at - 1];
                return Ok(if has_escapes { Cow::Owned(unescaped(text)) } else { Cow::Borrowed(text) });
            }
            has_escapes = true;
            // What is escaped is one byte, or the first of a character whose others are no quotes.
            self.at = (self.at + 2).min(self.text.len());
            while !self.text.is_char_boundary(self.at) {
                self.at += 1;
            }
        }
        self.at = start - 1;
        Err("text has no closing quote")
    }

    fn rest(&self) -> &'m str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn next_is(&mut self, byte: u8) -> bool {
        let is = self.peek() == Some(byte);
        self.at += usize::from(is);
        is
    }

    fn skip_spaces(&mut self) {
        while self.peek().is_some_and(|byte| byte == b' ' || byte == b'\t') {
            self.at += 1;
        }
    }

    fn until(&mut self, is_end: impl Fn(u8) -> bool) -> &'m str {
        let rest = self.rest();
        let length = rest.bytes().position(is_end).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }
}

fn time_of(text: &str, times: Times) -> Option<i64> {
    match times {
        Times::Milliseconds => text.parse::<i64>().ok()?.checked_mul(1_000),
        Times::Seconds => {
            let us = (text.parse::<f64>().ok()? * 1e6).round();
            // The bound keeps the conversion exact in range: i64::MAX itself is no f64.
            (us.abs() < 9.2e18).then_some(us as i64)
        }
    }
}

/// Splits off the first word.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_ascii_start();
    text.split_once([' ', '\t']).unwrap_or((text, ""))
}

fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, characters.as_str().chars().next()) {
            ('\\', Some(escaped @ ('\\' | '"' | 'n'))) => {
                characters.next();
                plain.push(if escaped == 'n' { '\n' } else { escaped });
            }
            (character, _) => plain.push(character),
        }
    }
    plain
}
