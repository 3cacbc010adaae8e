//! Generated rows: each follows from the seed and its number, so the ledger keeps numbers only, and a row that is found
//! again tells its number.
//!
//! ```text
//!   event time   start + place * step       rows of a block change places, by less than half the watermark's delay:
//!                ├─ 2 0 3 1 ─┼─ 6 4 7 5 ─┤  out of order, and never late
//! ```

use arrow::datatypes::DataType;
use tidemill::Result;
use tidemill_engine::clock::{Dice, SeededDice};
use tidemill_queries::{ColumnParts, DedupInfo, SourceParts};

/// 2020-01-01: before any arrival, so no row is from the future. Microseconds.
const START_US: i64 = 1_577_836_800_000_000;
/// Windows that the rows of a run fill, at least.
const WINDOWS_MIN: i64 = 20;
/// Event time between two rows where no window says how fast it should go.
const STEP_US: i64 = 1_000;
/// Rows that change places with each other.
const BLOCK_ROWS_MAX: u64 = 64;
/// Rows that are on the way at once over MQTT, at most.
const GROUP_ROWS_MAX: u64 = 32;
/// Different values of a column that has no other reason to be what it is.
const VARIETY: u64 = 8;
/// One value in so many is null where a column allows it.
const NULLS_ONE_IN: u64 = 16;
/// An odd factor shuffles a block whose length is a power of two, each place once.
const SHUFFLE: u64 = 5;

/// How the columns of a source look to its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// An object for each row.
    Json,
    /// A line for each row below a header.
    Csv(char),
}

/// Which column tells a row's number, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    /// Its time.
    Time,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// A text that ends with it.
    Text,
}

/// Makes the rows of one source.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    columns: Vec<ColumnParts>,
    time: Option<usize>,
    carrier: usize,
    /// Columns that tell events apart, and so tell rows apart.
    key: Vec<usize>,
    pub(super) carried: Carrier,
    pub(super) encoding: Encoding,
    /// The levels of the topic, for MQTT.
    topic: Vec<String>,
    seed: u64,
    step_us: i64,
    block: u64,
    /// Rows that may be sent again together, without one of them being late.
    pub(super) group: u64,
    texts: Vec<String>,
    numbers: Vec<f64>,
}

/// What the rows of all sources have to do with each other.
pub(super) struct Shape<'a> {
    pub(super) seed: u64,
    /// Rows to make.
    pub(super) rows: u64,
    /// The longest window of the pipeline; 0 without one.
    pub(super) window_us: i64,
    /// The source's delay.
    pub(super) delay_us: i64,
    /// What conditions in the views look for.
    pub(super) texts: &'a [String],
    pub(super) numbers: &'a [f64],
}

impl Rows {
    /// Plans the rows of a source; says why it cannot have rows that differ.
    pub(super) fn of(
        source: &SourceParts,
        encoding: Encoding,
        topic: Option<&str>,
        shape: &Shape<'_>,
    ) -> Result<Rows, String> {
        let columns: Vec<ColumnParts> =
            source.columns.iter().filter(|column| column.metadata.is_none()).cloned().collect();
        let time = source.watermark.as_ref().map(|time| &time.column);
        let time = match time.map(|name| columns.iter().position(|column| column.name == *name)) {
            Some(None) => {
                return Err(format!(
                    "source {} has the arrival of a row for its event time, which no sender decides: verify needs an event \
                     time that is in the rows",
                    source.name
                ));
            }
            found => found.flatten(),
        };
        let carrier = |fits: fn(&DataType) -> bool, carried| {
            columns.iter().position(|column| fits(&column.data_type)).map(|at| (at, carried))
        };
        let found = (time.map(|at| (at, Carrier::Time)))
            .or_else(|| carrier(|of| matches!(of, DataType::Timestamp(..)), Carrier::Time))
            .or_else(|| carrier(|of| matches!(of, DataType::Int64 | DataType::UInt64), Carrier::Integer))
            .or_else(|| carrier(|of| matches!(of, DataType::Int32 | DataType::UInt32), Carrier::Integer))
            .or_else(|| carrier(|of| matches!(of, DataType::Float64), Carrier::Number))
            .or_else(|| carrier(|of| matches!(of, DataType::Utf8 | DataType::Utf8View), Carrier::Text));
        let Some((carrier, carried)) = found else {
            return Err(format!(
                "source {} has no column whose values can all differ, so a lost row could not be told from another one: \
                 verify needs a column of type TIMESTAMP, BIGINT, INTEGER, DOUBLE or TEXT in it",
                source.name
            ));
        };
        let key = match &source.dedup {
            None => Vec::new(),
            Some(dedup) => key_columns(source, dedup, carrier)?,
        };
        let rows = i64::try_from(shape.rows.max(1)).unwrap_or(i64::MAX);
        let step_us = if shape.window_us > 0 { WINDOWS_MIN.saturating_mul(shape.window_us) / rows } else { STEP_US };
        let step_us = step_us.max(1);
        let disorder = u64::try_from(shape.delay_us / 2 / step_us).unwrap_or(0);
        let block = disorder.clamp(1, BLOCK_ROWS_MAX);
        Ok(Rows {
            columns,
            time,
            carrier,
            key,
            carried,
            encoding,
            topic: topic.map_or_else(Vec::new, |topic| topic.split('/').map(str::to_owned).collect()),
            seed: shape.seed,
            step_us,
            block: 1 << block.ilog2(),
            group: disorder.clamp(1, GROUP_ROWS_MAX),
            texts: shape.texts.to_vec(),
            numbers: shape.numbers.to_vec(),
        })
    }

    /// Whether rows have an event time.
    pub(super) fn has_time(&self) -> bool {
        self.time.is_some()
    }

    /// Returns the name of the column that tells a row's number.
    pub(super) fn carrier_name(&self) -> &str {
        &self.columns[self.carrier].name
    }

    /// Returns a time behind that of all `rows` rows.
    pub(super) fn end_us(&self, rows: u64) -> i64 {
        let places = i64::try_from(rows.saturating_add(BLOCK_ROWS_MAX)).unwrap_or(i64::MAX);
        let end_us = START_US.saturating_add(self.step_us.saturating_mul(places));
        // In whole milliseconds, as it is written into a view.
        end_us.saturating_add(1_000) / 1_000 * 1_000
    }

    /// Encodes rows as one message or body.
    pub(super) fn encode(&self, rows: std::ops::Range<u64>) -> String {
        self.encode_with(rows.map(|row| (row, self.time_us(row))))
    }

    /// Encodes a row of this number with another time: one that lets all windows close.
    pub(super) fn encode_at(&self, row: u64, time_us: i64) -> String {
        self.encode_with(std::iter::once((row, time_us)))
    }

    fn encode_with(&self, rows: impl Iterator<Item = (u64, i64)>) -> String {
        let mut text = String::new();
        if let Encoding::Csv(delimiter) = self.encoding {
            let names: Vec<String> = self.columns.iter().map(|column| csv_field(&column.name)).collect();
            text += &(names.join(&delimiter.to_string()) + "\n");
        }
        for (row, time_us) in rows {
            let values = self.values(row, time_us);
            match self.encoding {
                Encoding::Json => {
                    let names = self.columns.iter().map(|column| column.name.clone());
                    let object: serde_json::Map<String, serde_json::Value> = names.zip(values).collect();
                    text += &serde_json::Value::Object(object).to_string();
                }
                Encoding::Csv(delimiter) => {
                    let fields: Vec<String> = values.iter().map(|value| csv_field(&plain(value))).collect();
                    text += &fields.join(&delimiter.to_string());
                }
            }
            text.push('\n');
        }
        text
    }

    /// Returns the topic of a row.
    pub(super) fn topic(&self, row: u64) -> String {
        let dice = self.dice(row ^ 0x7091C);
        let levels = self.topic.iter().map(|level| match level.strip_prefix('{') {
            Some(name) => format!("{}-{}", name.trim_end_matches('}'), dice.roll() % VARIETY),
            None if level == "+" => "any".to_owned(),
            None if level == "#" => "rest".to_owned(),
            None => level.clone(),
        });
        levels.collect::<Vec<_>>().join("/")
    }

    /// Returns the event time of a row.
    fn time_us(&self, row: u64) -> i64 {
        let place = row / self.block * self.block + row.wrapping_mul(SHUFFLE) % self.block;
        START_US + i64::try_from(place).unwrap_or(i64::MAX).saturating_mul(self.step_us)
    }

    /// Returns the number of the row with this time; `None` for one that was never made.
    pub(super) fn row_of_time(&self, time_us: i64) -> Option<u64> {
        let since_us = time_us.checked_sub(START_US).filter(|since_us| since_us % self.step_us == 0)?;
        let place = u64::try_from(since_us / self.step_us).ok()?;
        let first = place / self.block * self.block;
        (first..first + self.block).find(|row| self.time_us(*row) == time_us)
    }

    fn dice(&self, row: u64) -> SeededDice {
        SeededDice::new(self.seed ^ row.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn values(&self, row: u64, time_us: i64) -> Vec<serde_json::Value> {
        let dice = self.dice(row);
        let columns = self.columns.iter().enumerate();
        columns.map(|(at, column)| self.value(at, column, row, time_us, &dice)).collect()
    }

    fn value(&self, at: usize, column: &ColumnParts, row: u64, time_us: i64, dice: &SeededDice) -> serde_json::Value {
        if Some(at) == self.time {
            return rfc3339(time_us).into();
        }
        if at == self.carrier {
            return match self.carried {
                Carrier::Time => rfc3339(self.time_us(row)).into(),
                Carrier::Integer => row.into(),
                Carrier::Number => (row as f64).into(),
                Carrier::Text => format!("{}-{row}", column.name).into(),
            };
        }
        if self.key.contains(&at) {
            return match &column.data_type {
                DataType::Utf8 | DataType::Utf8View => format!("{}-{row}", column.name).into(),
                _ => row.into(),
            };
        }
        if column.nullable && dice.roll().is_multiple_of(NULLS_ONE_IN) {
            return serde_json::Value::Null;
        }
        let (roll, choice) = (dice.roll(), dice.roll());
        let known =
            |count: usize| (count > 0 && choice.is_multiple_of(2)).then(|| (choice / 2) as usize % count.max(1));
        match &column.data_type {
            DataType::Boolean => roll.is_multiple_of(2).into(),
            DataType::Utf8 | DataType::Utf8View => match known(self.texts.len()) {
                Some(at) => self.texts[at].clone().into(),
                None => format!("{}-{}", column.name, roll % VARIETY).into(),
            },
            DataType::Float32 | DataType::Float64 => {
                // Quarters: sums of them are exact, in any order.
                let near = known(self.numbers.len()).map_or(0.0, |at| (self.numbers[at] * 4.0).round() / 4.0);
                (near + (roll % 400) as f64 * 0.25 - 50.0).into()
            }
            whole if whole.is_integer() => {
                let near = known(self.numbers.len()).map_or(0.0, |at| self.numbers[at].round());
                let near = if (0.0..=100.0).contains(&near) { near as u64 } else { 0 };
                (near + roll % 20).into()
            }
            DataType::Date32 => rfc3339(time_us)[..10].into(),
            DataType::Map(..) => serde_json::json!({"key": format!("{}-{}", column.name, roll % VARIETY)}),
            _ => rfc3339(time_us).into(),
        }
    }
}

/// Returns the columns of the key that can hold a row's number; says why rows would be repeats of each other if none can.
fn key_columns(source: &SourceParts, dedup: &DedupInfo, carrier: usize) -> Result<Vec<usize>, String> {
    let can = |data_type: &DataType| {
        use DataType::{Float64, Int32, Int64, UInt32, UInt64, Utf8, Utf8View};
        matches!(data_type, Float64 | Int32 | Int64 | UInt32 | UInt64 | Utf8 | Utf8View)
    };
    let columns = source.columns.iter().enumerate();
    let in_key = columns.filter(|(_, column)| dedup.key.contains(&column.name));
    let fits = in_key.filter(|(at, column)| *at == carrier || can(&column.data_type));
    let key: Vec<usize> = fits.map(|(at, _)| at).collect();
    if key.is_empty() {
        return Err(format!(
            "the DEDUP KEY of source {} has no column whose values can all differ, so rows would be repeats of each other: \
             verify needs a column of type BIGINT, INTEGER, DOUBLE or TEXT in it",
            source.name
        ));
    }
    Ok(key)
}

fn rfc3339(us: i64) -> String {
    let known = arrow::temporal_conversions::timestamp_us_to_datetime(us);
    known.map_or_else(String::new, |instant| instant.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
}

fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn csv_field(text: &str) -> String {
    let plain = text.chars().all(|letter| letter.is_alphanumeric() || "-_:.".contains(letter));
    if plain { text.to_owned() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_queries::Parts;

    fn rows(columns: &str, delay_us: i64, window_us: i64) -> Result<Rows, String> {
        let text = format!("CREATE SOURCE r ({columns}) WITH (connector = 'http');");
        let source = Parts::of("r.sql", &text).expect("right").sources.remove(0);
        let texts = ["north".to_owned()];
        let shape = Shape { seed: 7, rows: 10_000, window_us, delay_us, texts: &texts, numbers: &[20.0] };
        Rows::of(&source, Encoding::Json, Some("plant/{site}/+/#"), &shape)
    }

    #[test]
    fn times_differ_are_out_of_order_and_never_late() {
        let columns =
            "heard BIGINT METADATA FROM 'position', d TEXT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '1 second'";
        for (delay_us, window_us) in [(0, 60_000_000), (1_000_000, 5_000_000), (10_000_000, 60_000_000), (9, 0)] {
            let rows = rows(columns, delay_us, window_us).expect("a time");
            let (mut greatest_us, mut disorder) = (i64::MIN, 0);
            for row in 0..10_000 {
                let time_us = rows.time_us(row);
                assert_eq!(rows.row_of_time(time_us), Some(row));
                assert!(time_us >= greatest_us.saturating_sub(delay_us), "late");
                disorder += u64::from(time_us < greatest_us);
                greatest_us = greatest_us.max(time_us);
            }
            assert!(greatest_us < rows.end_us(10_000));
            assert_eq!(disorder > 0, delay_us > 9, "out of order where the delay allows it");
            assert_eq!(rows.row_of_time(rows.time_us(5) + 1).filter(|_| rows.step_us > 1), None);
        }
    }

    #[test]
    fn a_row_follows_from_its_number_and_fits_its_columns() {
        let made = rows("d TEXT NOT NULL, v DOUBLE, n TINYINT, seq BIGINT, ok BOOLEAN, day DATE", 0, 0).expect("fits");
        assert_eq!((made.carrier_name(), made.carried), ("seq", Carrier::Integer));
        assert_eq!(made.encode(3..5), made.encode(3..5));
        let text = made.encode(0..200);
        assert!(text.contains("north") && text.contains("null"), "{text}");
        for (row, line) in text.lines().enumerate() {
            let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(value["seq"], row);
            assert!(value["d"].is_string() && value["n"].as_i64().is_none_or(|n| n <= 127), "{line}");
        }
        assert!(made.topic(4).starts_with("plant/site-") && made.topic(4).ends_with("/any/rest"));
    }

    #[test]
    fn rows_of_a_deduplicated_source_are_no_repeats_of_each_other() {
        let within = "WITHIN INTERVAL '1 hour'";
        let made = rows(&format!("id TEXT, n INTEGER, v DOUBLE, ts TIMESTAMP, DEDUP KEY (id) {within}"), 0, 0);
        let text = made.expect("fits").encode(0..500);
        let ids: std::collections::BTreeSet<&str> = text.split("\"id\":").skip(1).map(|rest| &rest[..9]).collect();
        assert_eq!(ids.len(), 500, "{text}");
        let why =
            rows(&format!("ok BOOLEAN, ts TIMESTAMP, DEDUP KEY (ok) {within}"), 0, 0).expect_err("all are repeats");
        assert!(why.contains("DEDUP KEY of source r"), "{why}");
    }

    #[test]
    fn a_source_whose_rows_cannot_differ_is_refused_with_what_it_needs() {
        let why = rows("ok BOOLEAN, n SMALLINT", 0, 0).expect_err("all rows look alike");
        assert!(why.contains("source r has no column") && why.contains("BIGINT"), "{why}");
        let arrival = "v BIGINT, heard TIMESTAMP METADATA FROM 'arrival_time', WATERMARK FOR heard AS heard";
        let why = rows(arrival, 0, 0).expect_err("nobody can send a time of arrival");
        assert!(why.contains("source r has the arrival"), "{why}");
    }
}
