//! Statistics: what the log says about a file's columns, so that readers can leave the file closed.
//!
//! Two forms, because the format's own is coarse:
//! - `add.stats`, for every engine: times to the millisecond (the maximum rounded up, so that it is a bound), text cut
//!   to 32 characters (the maximum counted up by one), no bound at all where NaN or an infinity is in the way;
//! - the tag `tidemill.bounds`, for this program: exact microseconds, and the exact bits of floating point numbers.
//!   `{"ts":[min,max],…}`. Only exact bounds can answer `max(ts)` without opening a file.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, max, max_string_view, min, min_string_view};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int64Type, SchemaRef, TimestampMicrosecondType,
};
use serde::Deserialize;

use super::value::date_text;
use super::value::{Value, decimal_text, parse_date, parse_decimal, parse_timestamp, timestamp_ms_text};

/// Columns with statistics; the default of other writers too. Each costs about 60 bytes a file, in every reader.
const COLUMNS_MAX: usize = 32;
/// Characters of text in a bound.
const TEXT_CHARS_MAX: usize = 32;
/// Decimal digits that a number in JSON keeps in every parser.
const DECIMAL_DIGITS_SAFE: u8 = 15;

/// What is known of one column in one file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ColumnBounds {
    /// No value is less; `None`: unknown, or all are null.
    pub min: Option<Value>,
    /// No value is greater; `None`: unknown, or all are null.
    pub max: Option<Value>,
    /// Whether both bounds are values that are there.
    pub exact: bool,
    /// How many are null, if known.
    pub null_count: Option<u64>,
}

/// The statistics of a file about to be added.
pub(super) struct FileStats {
    /// For `add.stats`.
    pub(super) json: String,
    /// For the tag.
    pub(super) exact: String,
}

/// Computes the statistics of a file's rows.
pub(super) fn file_stats(rows: &RecordBatch) -> FileStats {
    let schema = rows.schema();
    let (mut mins, mut maxs, mut nulls) = (Object::new(), Object::new(), Object::new());
    let mut exact: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    for (field, column) in schema.fields().iter().zip(rows.columns()).take(COLUMNS_MAX) {
        if field.data_type().is_nested() {
            continue;
        }
        nulls.push(field.name(), &column.null_count().to_string());
        let Some((least, greatest)) = extremes(column) else { continue };
        if let (Some(least), Some(greatest)) =
            (exact_bits(field.data_type(), &least), exact_bits(field.data_type(), &greatest))
        {
            exact.insert(field.name(), (least, greatest));
        }
        if let Some(bound) = lower_json(field.data_type(), &least) {
            mins.push(field.name(), &bound);
        }
        if let Some(bound) = upper_json(field.data_type(), &greatest) {
            maxs.push(field.name(), &bound);
        }
    }
    let json = format!(
        r#"{{"numRecords":{},"minValues":{},"maxValues":{},"nullCount":{}}}"#,
        rows.num_rows(),
        mins.finish(),
        maxs.finish(),
        nulls.finish()
    );
    FileStats { json, exact: serde_json::to_string(&exact).expect("text keys, to memory") }
}

/// An object whose values are JSON already: a decimal of 38 digits must not pass through a float.
struct Object(String);

impl Object {
    fn new() -> Object {
        Object("{".to_owned())
    }

    fn push(&mut self, name: &str, json: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&json_text(name));
        self.0.push(':');
        self.0.push_str(json);
    }

    fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

fn json_text(text: &str) -> String {
    serde_json::to_string(text).expect("text goes to memory")
}

/// Returns the least and the greatest value; `None` if all are null, if NaN is among them, or if the type has none.
fn extremes(column: &ArrayRef) -> Option<(Value, Value)> {
    fn both<T>(least: Option<T>, greatest: Option<T>, value: impl Fn(T) -> Value) -> Option<(Value, Value)> {
        Some((value(least?), value(greatest?)))
    }
    match column.data_type() {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
            let wide = cast(column, &DataType::Int64).ok()?;
            let wide = wide.as_primitive::<Int64Type>();
            both(min(wide), max(wide), Value::Integer)
        }
        DataType::Date32 => {
            let days = column.as_primitive::<Date32Type>();
            both(min(days), max(days), |day| Value::Integer(day.into()))
        }
        DataType::Timestamp(..) => {
            let instants = column.as_primitive::<TimestampMicrosecondType>();
            both(min(instants), max(instants), Value::Integer)
        }
        DataType::Decimal128(..) => {
            let decimals = column.as_primitive::<Decimal128Type>();
            both(min(decimals), max(decimals), Value::Decimal)
        }
        DataType::Float32 | DataType::Float64 => {
            let wide = cast(column, &DataType::Float64).ok()?;
            let wide = wide.as_primitive::<Float64Type>();
            if wide.iter().flatten().any(f64::is_nan) {
                // NaN counts as greater than everything in some engines: no bound is one for all of them.
                return None;
            }
            let least = wide.iter().flatten().min_by(f64::total_cmp);
            let greatest = wide.iter().flatten().max_by(f64::total_cmp);
            both(least, greatest, Value::Float)
        }
        DataType::Utf8View => {
            let texts = column.as_string_view();
            both(min_string_view(texts), max_string_view(texts), |text| Value::Text(text.into()))
        }
        _ => None,
    }
}

/// The tag has what `add.stats` blurs: times and floating point numbers.
fn exact_bits(data_type: &DataType, value: &Value) -> Option<i64> {
    match (data_type, value) {
        (DataType::Timestamp(..), Value::Integer(instant_us)) => Some(*instant_us),
        (_, Value::Float(float)) => Some(float.to_bits().cast_signed()),
        _ => None,
    }
}

fn lower_json(data_type: &DataType, least: &Value) -> Option<String> {
    match least {
        Value::Integer(us) if matches!(data_type, DataType::Timestamp(..)) => {
            timestamp_ms_text(us.div_euclid(1_000)).map(|text| json_text(&text))
        }
        // As in Parquet: 0.0 might stand for -0.0, which is less in some engines.
        Value::Float(float) => float_json(if *float == 0.0 { -0.0 } else { *float }),
        Value::Text(text) => Some(json_text(&text.chars().take(TEXT_CHARS_MAX).collect::<String>())),
        other => plain_json(data_type, other),
    }
}

fn upper_json(data_type: &DataType, greatest: &Value) -> Option<String> {
    match greatest {
        Value::Integer(us) if matches!(data_type, DataType::Timestamp(..)) => {
            let up_ms = us.div_euclid(1_000) + i64::from(us.rem_euclid(1_000) != 0);
            timestamp_ms_text(up_ms).map(|text| json_text(&text))
        }
        Value::Float(float) => float_json(if *float == 0.0 { 0.0 } else { *float }),
        Value::Text(text) => upper_text(text).map(|text| json_text(&text)),
        other => plain_json(data_type, other),
    }
}

fn plain_json(data_type: &DataType, value: &Value) -> Option<String> {
    match (data_type, value) {
        (DataType::Date32, Value::Integer(days)) => date_text(*days).map(|text| json_text(&text)),
        (_, Value::Integer(integer)) => Some(integer.to_string()),
        (DataType::Decimal128(_, scale), Value::Decimal(unscaled)) => Some(decimal_text(*unscaled, *scale)),
        _ => None,
    }
}

/// JSON has no infinities.
fn float_json(float: f64) -> Option<String> {
    float.is_finite().then(|| serde_json::to_string(&float).expect("a finite number goes to memory"))
}

/// Cuts text so that the result is not less than it; `None` if there is no such text.
fn upper_text(text: &str) -> Option<String> {
    let mut chars: Vec<char> = text.chars().take(TEXT_CHARS_MAX + 1).collect();
    if chars.len() <= TEXT_CHARS_MAX {
        return Some(text.to_owned());
    }
    chars.truncate(TEXT_CHARS_MAX);
    let at = chars.iter().rposition(|c| *c != char::MAX)?;
    // The next code point; the surrogates between are no characters.
    let next = char::from_u32(u32::from(chars[at]) + 1).unwrap_or('\u{E000}');
    chars.truncate(at);
    Some(chars.into_iter().chain([next]).collect())
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Stats {
    num_records: Option<u64>,
    min_values: BTreeMap<String, serde_json::Value>,
    max_values: BTreeMap<String, serde_json::Value>,
    null_count: BTreeMap<String, serde_json::Value>,
}

/// Reads the statistics of a file: its rows if known, and bounds for each column of `schema`. `exact` is the tag; a
/// file without it is of another writer, whose bounds are not taken as exact.
pub(super) fn read_stats(
    schema: &SchemaRef,
    stats: Option<&str>,
    exact: Option<&str>,
) -> Result<(Option<u64>, Vec<ColumnBounds>), serde_json::Error> {
    let stats: Stats = stats.filter(|text| !text.is_empty()).map(serde_json::from_str).transpose()?.unwrap_or_default();
    let tag: Option<BTreeMap<String, (i64, i64)>> = exact.map(serde_json::from_str).transpose()?;
    let bounds = schema.fields().iter().map(|field| {
        let name = field.name();
        let null_count = stats.null_count.get(name).and_then(serde_json::Value::as_u64);
        if let Some(bounds) = tag.as_ref().and_then(|tag| tag.get(name)) {
            let (min, max) = (tagged(field.data_type(), bounds.0), tagged(field.data_type(), bounds.1));
            return ColumnBounds { min, max, exact: true, null_count };
        }
        let min = stats.min_values.get(name).and_then(|json| read_bound(field.data_type(), json));
        let max = stats.max_values.get(name).and_then(|json| read_bound(field.data_type(), json));
        // Another writer cuts times to the millisecond in both bounds.
        let max = match (field.data_type(), max) {
            (DataType::Timestamp(..), Some(Value::Integer(us))) => Some(Value::Integer(us.saturating_add(999))),
            (_, max) => max,
        };
        let whole = |bound: &Option<Value>| match bound {
            Some(Value::Text(text)) => text.chars().count() < TEXT_CHARS_MAX,
            Some(Value::Float(_)) | None => false,
            Some(_) => !matches!(field.data_type(), DataType::Timestamp(..)),
        };
        let exact = tag.is_some() && whole(&min) && whole(&max);
        ColumnBounds { min, max, exact, null_count }
    });
    Ok((stats.num_records, bounds.collect()))
}

fn tagged(data_type: &DataType, bits: i64) -> Option<Value> {
    match data_type {
        DataType::Timestamp(..) => Some(Value::Integer(bits)),
        DataType::Float32 | DataType::Float64 => Some(Value::Float(f64::from_bits(bits.cast_unsigned()))),
        _ => None,
    }
}

fn read_bound(data_type: &DataType, json: &serde_json::Value) -> Option<Value> {
    match data_type {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => json.as_i64().map(Value::Integer),
        DataType::Float32 | DataType::Float64 => json.as_f64().map(Value::Float),
        DataType::Utf8View => json.as_str().map(|text| Value::Text(text.into())),
        DataType::Date32 => parse_date(json.as_str()?).map(Value::Integer),
        DataType::Timestamp(..) => parse_timestamp(json.as_str()?).map(Value::Integer),
        // More digits came through a float and are no bound any more.
        DataType::Decimal128(precision, scale)
            if json.is_i64() || json.is_u64() || *precision <= DECIMAL_DIGITS_SAFE =>
        {
            parse_decimal(&json.to_string(), *scale).map(Value::Decimal)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use arrow::array::{
        BinaryArray, Decimal128Array, Float64Array, Int32Array, StringViewArray, TimestampMicrosecondArray,
    };
    use arrow::datatypes::{Field, Schema};

    fn column(array: ArrayRef) -> (RecordBatch, SchemaRef) {
        let schema = Arc::new(Schema::new(vec![Field::new("x", array.data_type().clone(), true)]));
        (RecordBatch::try_new(Arc::clone(&schema), vec![array]).unwrap(), schema)
    }

    fn round_trip(array: ArrayRef) -> (String, ColumnBounds) {
        let (rows, schema) = column(array);
        let stats = file_stats(&rows);
        let (count, mut bounds) = read_stats(&schema, Some(&stats.json), Some(&stats.exact)).unwrap();
        assert_eq!(count, Some(rows.num_rows() as u64));
        (stats.json, bounds.remove(0))
    }

    #[test]
    fn times_are_widened_for_others_and_exact_for_us() {
        let times = TimestampMicrosecondArray::from(vec![Some(-1_501), None, Some(1_001)]).with_timezone("UTC");
        let (json, bounds) = round_trip(Arc::new(times));
        assert!(json.contains(r#""minValues":{"x":"1969-12-31T23:59:59.998Z"}"#), "{json}");
        assert!(json.contains(r#""maxValues":{"x":"1970-01-01T00:00:00.002Z"}"#), "{json}");
        let expected = ColumnBounds {
            min: Some(Value::Integer(-1_501)),
            max: Some(Value::Integer(1_001)),
            exact: true,
            null_count: Some(1),
        };
        assert_eq!(bounds, expected);
    }

    #[test]
    fn nan_and_infinities_take_the_bounds_away_that_would_lie() {
        let (json, bounds) = round_trip(Arc::new(Float64Array::from(vec![1.0, f64::NAN])));
        assert!(json.contains(r#""minValues":{},"maxValues":{}"#), "{json}");
        assert_eq!((bounds.min, bounds.max, bounds.exact), (None, None, false));
        let (json, bounds) = round_trip(Arc::new(Float64Array::from(vec![-0.0, f64::INFINITY])));
        assert!(json.contains(r#""minValues":{"x":-0.0},"maxValues":{}"#), "{json}");
        assert_eq!(bounds.max, Some(Value::Float(f64::INFINITY)));
        assert!(bounds.exact);
    }

    #[test]
    fn long_text_is_cut_to_bounds_that_hold() {
        let long = "ü".repeat(40);
        let (json, bounds) = round_trip(Arc::new(StringViewArray::from(vec!["", &long])));
        assert_eq!(bounds.min, Some(Value::Text("".into())));
        let Some(Value::Text(upper)) = bounds.max else { panic!("no upper bound in {json}") };
        assert!(*upper > *long, "{upper}");
        assert!(!bounds.exact);
        assert_eq!(upper_text(&"\u{10FFFF}".repeat(33)), None);
        assert_eq!(upper_text(&"\u{D7FF}".repeat(33)).unwrap().chars().last(), Some('\u{E000}'));
        let (_, bounds) = round_trip(Arc::new(StringViewArray::from(vec!["a", "b"])));
        assert!(bounds.exact);
    }

    #[test]
    fn big_decimals_are_written_digit_for_digit() {
        let big = Decimal128Array::from(vec![0, 18_446_744_073_709_551_615]).with_precision_and_scale(20, 0).unwrap();
        let (json, bounds) = round_trip(Arc::new(big));
        assert!(json.contains(r#""maxValues":{"x":18446744073709551615}"#), "{json}");
        assert_eq!(bounds.max, Some(Value::Decimal(18_446_744_073_709_551_615)));
        let fine = Decimal128Array::from(vec![-5, 12_345]).with_precision_and_scale(30, 2).unwrap();
        let (json, bounds) = round_trip(Arc::new(fine));
        assert!(json.contains(r#""minValues":{"x":-0.05},"maxValues":{"x":123.45}"#), "{json}");
        assert_eq!(bounds.max, None, "a fraction of 30 digits cannot be trusted after JSON");
    }

    #[test]
    fn nulls_are_counted_and_binary_has_no_bounds() {
        let (json, bounds) = round_trip(Arc::new(Int32Array::from(vec![None, None])));
        assert!(json.ends_with(r#""minValues":{},"maxValues":{},"nullCount":{"x":2}}"#), "{json}");
        assert_eq!(bounds, ColumnBounds { null_count: Some(2), ..ColumnBounds::default() });
        let (_, bounds) = round_trip(Arc::new(BinaryArray::from_vec(vec![b"x"])));
        assert_eq!(bounds, ColumnBounds { null_count: Some(0), ..ColumnBounds::default() });
    }

    #[test]
    fn bounds_of_another_writer_are_never_exact() {
        let (rows, schema) = column(Arc::new(Int32Array::from(vec![1, 2])));
        let (_, bounds) = read_stats(&schema, Some(&file_stats(&rows).json), None).unwrap();
        assert_eq!(bounds[0].max, Some(Value::Integer(2)));
        assert!(!bounds[0].exact);
    }
}
