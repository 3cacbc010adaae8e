//! Influx line protocol: one point is one row.
//!
//! | column | |
//! |---|---|
//! | `measurement` | its name |
//! | `ts` or `time` | the point's time; when it arrived if it has none |
//! | `tags`, `fields` | MAP<TEXT, TEXT>: all of them |
//! | any other | the tag or the field of its name; of equal names the last counts |
//!
//! A time counts what the request says (`precision`), else what option `time_unit` says, else nanoseconds.

use memchr::memchr;
use tidemill_engine::source::Message;

use super::super::rows::Span;
use super::cell::Cell;
use super::line::{Piece, read_line};
use super::precision::Precision;
use super::rows::{Names, Place, Row, Rows};

/// The columns that are parts of every point.
pub(super) const PARTS: [&str; 5] = ["measurement", "ts", "time", "tags", "fields"];

/// Where the parts of a point go.
struct Places {
    measurement: Place,
    time: Place,
    tags: Place,
    fields: Place,
}

/// Reads the points of a message.
pub(super) fn read(message: &Message, whole: Span, precision: Precision, names: &Names, rows: &mut Rows<'_>) {
    let places = Places {
        measurement: names.part("measurement"),
        time: names.either("ts", "time"),
        tags: names.part("tags"),
        fields: names.part("fields"),
    };
    let mut row = Row::new(names);
    let mut start = 0;
    while start < message.payload.len() {
        let rest = &message.payload[start..];
        let (valid, broken) = valid_lines(rest);
        read_valid(valid, Span { start: start as u32, ..whole }, &places, precision, &mut row, rows);
        start += valid.len();
        if let Some((length, at)) = broken {
            let span = Span { start: start as u32, end: (start + length) as u32, ..whole };
            rows.dead.push(span, format!("not line protocol: not UTF-8 at byte {at}"));
            start += length + 1;
        }
    }
}

/// Splits off the lines in front of the first that is not UTF-8; of that one its length, and where it is broken.
fn valid_lines(payload: &[u8]) -> (&str, Option<(usize, usize)>) {
    let error = match std::str::from_utf8(payload) {
        Ok(text) => return (text, None),
        Err(error) => error,
    };
    let bad = error.valid_up_to();
    let line_start = memchr::memrchr(b'\n', &payload[..bad]).map_or(0, |at| at + 1);
    let line_end = memchr(b'\n', &payload[bad..]).map_or(payload.len(), |at| bad + at);
    let valid = std::str::from_utf8(&payload[..line_start]).expect("UTF-8 up to a byte behind");
    (valid, Some((line_end - line_start, bad - line_start)))
}

fn read_valid<'m>(
    text: &'m str,
    span: Span,
    places: &Places,
    precision: Precision,
    row: &mut Row<'m>,
    rows: &mut Rows<'_>,
) {
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let line_start = at + rest.len() - rest.trim_ascii_start().len();
        let rest = &text[line_start..];
        if rest.is_empty() {
            return;
        }
        if rest.starts_with('#') {
            at = line_start + memchr(b'\n', rest.as_bytes()).map_or(rest.len(), |end| end + 1);
            continue;
        }
        row.clear();
        let mut time = Ok(None);
        let read = read_line(rest, |piece| match piece {
            Piece::Measurement(name) => row.set(places.measurement, Cell::Text(name)),
            Piece::Tag(key, value) => row.attribute(places.tags, key, || Cell::Text(value)),
            Piece::Field(key, value) => row.attribute(places.fields, key, || value),
            Piece::Time(count) => time = precision.us(count).map(Some),
        });
        let length = match &read {
            Ok(length) => *length,
            Err((length, ..)) => *length,
        };
        let row_span = |length: usize| {
            let start = span.start + line_start as u32;
            let line = rest[..length].trim_ascii_end();
            Span { start, end: start + line.len() as u32, ..span }
        };
        match (read, time) {
            (Ok(_), Ok(time)) => {
                row.set(places.time, Cell::Time(time.unwrap_or(rows.arrival_us)));
                rows.take(row, row_span(length));
            }
            (Ok(_), Err(problem)) => rows.dead.push(row_span(length), problem),
            (Err((_, at, problem)), _) => {
                rows.dead.push(row_span(length), format!("not line protocol: {problem}, at byte {at}"));
            }
        }
        at = line_start + length + 1;
    }
}
