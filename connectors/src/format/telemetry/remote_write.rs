//! Prometheus remote write, versions 1 and 2, with snappy undone. One sample is one row.
//!
//! ```text
//!   version 1: WriteRequest { 1 timeseries { 1 label { 1 name, 2 value }, 2 sample, 3 exemplar, 4 histogram }, 3 metadata }
//!   version 2: Request { 4 symbol, 5 timeseries { 1 references, 2 sample, 3 histogram, 4 exemplar, 5 metadata, 6 created } }
//!              sample { 1 value, 2 time in ms }
//! ```
//!
//! | column | |
//! |---|---|
//! | `metric` | the label `__name__` |
//! | `value`, `ts` | |
//! | `stale` | BOOLEAN: whether the sample says that its series has ended; its value is NULL then |
//! | `labels` | MAP<TEXT, TEXT>: all but `__name__` |
//! | `type`, `unit`, `help`, `start_ts` | version 2: what comes with the series |
//! | any other | the label of its name |
//!
//! A native histogram becomes what the same histogram would be without it: rows `NAME_count` and `NAME_sum`, and a row
//! `NAME_bucket` for each of its buckets, with the label `le` and the count of all values up to it. Exemplars are not taken,
//! and neither is the metadata of version 1, which is sent apart from its samples.

use std::borrow::Cow;

use tidemill_engine::source::Message;

use super::super::rows::Span;
use super::cell::Cell;
use super::native_histogram::Histogram;
use super::rows::{Names, Place, Row, Rows, borrowed};
use super::wire::{Part, Value};

/// The columns that are parts of every point.
pub(super) const PARTS: [&str; 9] = ["metric", "value", "ts", "labels", "stale", "type", "unit", "help", "start_ts"];

/// The value of a sample that says that its series has ended.
const STALE: u64 = 0x7ff0_0000_0000_0002;
/// The types of version 2.
const TYPES: [&str; 8] = ["", "counter", "gauge", "histogram", "gaugehistogram", "summary", "info", "stateset"];

/// How much of each kind a request brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) samples: usize,
    pub(crate) histograms: usize,
    pub(crate) exemplars: usize,
}

impl Tally {
    /// Counts what a request brings; what cannot be read is not counted.
    pub(crate) fn of(payload: &[u8]) -> Tally {
        let mut tally = Tally::default();
        for (number, value) in Part::whole(payload).fields().flatten() {
            let (Value::Bytes(series), 1 | 5) = (value, number) else { continue };
            for (field, _) in series.fields().flatten() {
                match (number, field) {
                    (_, 2) => tally.samples += 1,
                    (1, 4) | (5, 3) => tally.histograms += 1,
                    (1, 3) | (5, 4) => tally.exemplars += 1,
                    _ => {}
                }
            }
        }
        tally
    }
}

/// Says how many rows a request gives at most, without making any.
pub(super) fn rows_at_most(payload: &[u8]) -> usize {
    let tally = Tally::of(payload);
    // A sum, a count, the bucket around zero and the last one.
    let mut rows = tally.samples + 4 * tally.histograms;
    for (number, value) in Part::whole(payload).fields().flatten() {
        let (Value::Bytes(series), 1 | 5) = (value, number) else { continue };
        let histograms_in = histogram_field(number);
        for (field, value) in series.fields().flatten() {
            let (Value::Bytes(histogram), true) = (value, field == histograms_in) else { continue };
            for (field, value) in histogram.fields().flatten() {
                // A delta takes a byte at least, and a count eight.
                match (field, value) {
                    (9 | 12, Value::Bytes(deltas)) => rows += deltas.bytes.len(),
                    (10 | 13, Value::Bytes(counts)) => rows += counts.bytes.len() / 8,
                    _ => {}
                }
            }
        }
    }
    rows
}

/// The field of a series that has its histograms; the field of the request that has the series tells the version.
fn histogram_field(series_in: u32) -> u32 {
    if series_in == 1 { 4 } else { 3 }
}

/// Says why a body is no request.
pub(super) fn check(body: &[u8]) -> Result<(), String> {
    Request::read(Part::whole(body)).map(drop).map_err(|problem| format!("not remote write: {problem}"))
}

/// Reads the samples of a message.
pub(super) fn read(message: &Message, whole: Span, names: &Names, rows: &mut Rows<'_>) {
    let request = match Request::read(Part::whole(&message.payload)) {
        Ok(request) => request,
        Err(problem) => return rows.dead.push(whole, format!("not remote write: {problem}")),
    };
    let places = Places {
        metric: names.part("metric"),
        value: names.part("value"),
        time: names.part("ts"),
        labels: names.part("labels"),
        stale: names.part("stale"),
        kind: names.part("type"),
        unit: names.part("unit"),
        help: names.part("help"),
        start: names.part("start_ts"),
    };
    let mut writer = Writer { places, row: Row::new(names), rows };
    let mut number = 0;
    for (field, value) in Part::whole(&message.payload).fields().flatten() {
        let (Value::Bytes(part), 1 | 5) = (value, field) else { continue };
        number += 1;
        let (start, end) = (part.start as u32, (part.start + part.bytes.len()) as u32);
        let span = Span { start, end, ..whole };
        let series = request.series(part, field);
        if let Err(problem) = series.and_then(|series| writer.write(&series, part, span)) {
            writer.rows.dead.push(span, format!("not remote write: series {number}: {problem}"));
        }
    }
}

/// What belongs to all series of a request.
struct Request<'m> {
    symbols: Vec<&'m str>,
}

/// A series without its samples.
#[derive(Default)]
struct Series<'m> {
    labels: Vec<(&'m str, &'m str)>,
    name: &'m str,
    kind: &'static str,
    unit: &'m str,
    help: &'m str,
    start_ms: i64,
    /// The field that histograms are in.
    histograms_in: u32,
}

impl<'m> Request<'m> {
    /// Looks at all of a request, so that one that is broken off gives no rows at all.
    fn read(whole: Part<'m>) -> Result<Self, String> {
        let mut symbols = Vec::new();
        let mut versions = [false; 2];
        for field in whole.fields() {
            match field? {
                (1 | 3, Value::Bytes(_)) => versions[0] = true,
                (4, Value::Bytes(symbol)) => {
                    versions[1] = true;
                    symbols.push(symbol.text()?);
                }
                (5, Value::Bytes(_)) => versions[1] = true,
                (1 | 3..=5, _) => return Err("its fields are of other kinds: is it another message?".to_owned()),
                _ => {}
            }
        }
        if versions == [true, true] {
            return Err("it has fields of both versions".to_owned());
        }
        Ok(Request { symbols })
    }

    fn symbol(&self, reference: u64) -> Result<&'m str, String> {
        let symbol = usize::try_from(reference).ok().and_then(|reference| self.symbols.get(reference));
        symbol.copied().ok_or_else(|| format!("there is no symbol {reference}, but {}", self.symbols.len()))
    }

    fn series(&self, part: Part<'m>, field: u32) -> Result<Series<'m>, String> {
        let mut series = Series { histograms_in: histogram_field(field), ..Series::default() };
        let mut references = Vec::new();
        for inner in part.fields() {
            match (field, inner?) {
                (1, (1, Value::Bytes(label))) => series.add(label_of(label)?),
                (5, (1, Value::Bytes(packed))) => {
                    for reference in packed.varints() {
                        references.push(self.symbol(reference?)?);
                    }
                }
                (5, (1, Value::Varint(reference))) => references.push(self.symbol(reference)?),
                (5, (5, Value::Bytes(metadata))) => self.metadata(metadata, &mut series)?,
                (5, (6, created)) => series.start_ms = created.int(),
                _ => {}
            }
        }
        let (pairs, rest) = references.as_chunks::<2>();
        if !rest.is_empty() {
            return Err("a label has a name and no value".to_owned());
        }
        for &[name, value] in pairs {
            series.add((name, value));
        }
        Ok(series)
    }

    fn metadata(&self, part: Part<'m>, series: &mut Series<'m>) -> Result<(), String> {
        for field in part.fields() {
            match field? {
                (1, kind) => series.kind = TYPES.get(kind.int() as usize).copied().unwrap_or_default(),
                (3, Value::Varint(reference)) => series.help = self.symbol(reference)?,
                (4, Value::Varint(reference)) => series.unit = self.symbol(reference)?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl<'m> Series<'m> {
    fn add(&mut self, (name, value): (&'m str, &'m str)) {
        if name == "__name__" {
            self.name = value;
        } else {
            self.labels.push((name, value));
        }
    }
}

fn label_of(part: Part<'_>) -> Result<(&str, &str), String> {
    let (mut name, mut value) = ("", "");
    for field in part.fields() {
        match field? {
            (1, Value::Bytes(text)) => name = text.text()?,
            (2, Value::Bytes(text)) => value = text.text()?,
            _ => {}
        }
    }
    Ok((name, value))
}

struct Places {
    metric: Place,
    value: Place,
    time: Place,
    labels: Place,
    stale: Place,
    kind: Place,
    unit: Place,
    help: Place,
    start: Place,
}

struct Writer<'w, 'm, 'd> {
    places: Places,
    row: Row<'m>,
    rows: &'w mut Rows<'d>,
}

impl<'m> Writer<'_, 'm, '_> {
    fn write(&mut self, series: &Series<'m>, part: Part<'m>, span: Span) -> Result<(), String> {
        for field in part.fields() {
            match field? {
                (2, Value::Bytes(sample)) => {
                    let (mut value, mut time_ms) = (0.0, 0);
                    for field in sample.fields() {
                        match field? {
                            (1, found) => value = found.double(),
                            (2, found) => time_ms = found.int(),
                            _ => {}
                        }
                    }
                    self.point(series, "", value, None, time_ms, span)?;
                }
                (number, Value::Bytes(histogram)) if number == series.histograms_in => {
                    self.histogram(series, &Histogram::read(histogram)?, span)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn histogram(&mut self, series: &Series<'m>, histogram: &Histogram, span: Span) -> Result<(), String> {
        let time_ms = histogram.time_ms;
        // First of all: a histogram that makes no sense gives no rows.
        let buckets = histogram.cumulative()?;
        self.point(series, "_sum", histogram.sum, None, time_ms, span)?;
        if histogram.sum.to_bits() == STALE {
            return self.point(series, "_count", histogram.sum, None, time_ms, span);
        }
        self.point(series, "_count", histogram.count, None, time_ms, span)?;
        for (le, count) in buckets {
            self.point(series, "_bucket", count, Some(le), time_ms, span)?;
        }
        self.point(series, "_bucket", histogram.count, Some(f64::INFINITY), time_ms, span)
    }

    fn point(
        &mut self,
        series: &Series<'m>,
        suffix: &'static str,
        value: f64,
        le: Option<f64>,
        time_ms: i64,
        span: Span,
    ) -> Result<(), String> {
        let (row, places) = (&mut self.row, &self.places);
        row.clear();
        let is_stale = value.to_bits() == STALE;
        let us = |ms: i64| ms.checked_mul(1_000).ok_or_else(|| format!("the time {ms} ms is too large"));
        row.set(places.time, Cell::Time(us(time_ms)?));
        row.set(places.value, if is_stale { Cell::Null } else { Cell::Float(value) });
        row.set(places.stale, Cell::Bool(is_stale));
        match suffix {
            "" => row.set(places.metric, Cell::text_or_null(series.name)),
            _ if places.metric.is_declared() => {
                row.set(places.metric, Cell::Text(Cow::Owned(format!("{}{suffix}", series.name))));
            }
            _ => {}
        }
        row.set(places.kind, Cell::text_or_null(series.kind));
        row.set(places.unit, Cell::text_or_null(series.unit));
        row.set(places.help, Cell::text_or_null(series.help));
        if series.start_ms != 0 {
            row.set(places.start, Cell::Time(us(series.start_ms)?));
        }
        for &(name, value) in &series.labels {
            row.attribute(places.labels, borrowed(name), || Cell::from(value));
        }
        if let Some(le) = le {
            row.attribute(places.labels, borrowed("le"), || Cell::Float(le));
        }
        self.rows.take(row, span);
        Ok(())
    }
}
