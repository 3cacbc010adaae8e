//! Single values: bounds of a column in a file, and partition values, in the forms the Delta log has for them.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array, Int16Array,
    Int32Array, Int64Array, StringArray, StringViewArray, TimestampMicrosecondArray, new_null_array,
};
use arrow::compute::kernels::cast_utils::Parser;
use arrow::datatypes::{DataType, Date32Type, TimestampMicrosecondType};
use arrow::temporal_conversions::{date32_to_datetime, timestamp_us_to_datetime};

/// Years the text forms of dates and times can hold so that every reader parses them.
const YEARS: std::ops::RangeInclusive<i64> = 1..=9999;
const DAY_US: i64 = 86_400_000_000;

/// One value of a column. Instants are microseconds since 1970, dates are days.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A boolean.
    Boolean(bool),
    /// An integer, a date in days, or an instant in microseconds.
    Integer(i64),
    /// A floating point number; never NaN.
    Float(f64),
    /// A decimal without its point: the column's type knows the scale.
    Decimal(i128),
    /// Text.
    Text(Box<str>),
}

impl Value {
    /// Returns an array of one element with this value, of a column's type; null if the type does not fit.
    pub fn to_array(&self, data_type: &DataType) -> ArrayRef {
        self.try_to_array(data_type).unwrap_or_else(|| new_null_array(data_type, 1))
    }

    fn try_to_array(&self, data_type: &DataType) -> Option<ArrayRef> {
        Some(match (self, data_type) {
            (Value::Boolean(it), DataType::Boolean) => Arc::new(BooleanArray::from(vec![*it])),
            (Value::Integer(it), DataType::Int8) => Arc::new(Int8Array::from(vec![i8::try_from(*it).ok()?])),
            (Value::Integer(it), DataType::Int16) => Arc::new(Int16Array::from(vec![i16::try_from(*it).ok()?])),
            (Value::Integer(it), DataType::Int32) => Arc::new(Int32Array::from(vec![i32::try_from(*it).ok()?])),
            (Value::Integer(it), DataType::Int64) => Arc::new(Int64Array::from(vec![*it])),
            (Value::Integer(it), DataType::Date32) => Arc::new(Date32Array::from(vec![i32::try_from(*it).ok()?])),
            (Value::Integer(it), DataType::Timestamp(_, zone)) => {
                Arc::new(TimestampMicrosecondArray::from(vec![*it]).with_timezone_opt(zone.clone()))
            }
            #[expect(clippy::cast_possible_truncation, reason = "it was an f32 before")]
            (Value::Float(it), DataType::Float32) => Arc::new(Float32Array::from(vec![*it as f32])),
            (Value::Float(it), DataType::Float64) => Arc::new(Float64Array::from(vec![*it])),
            (Value::Decimal(it), DataType::Decimal128(precision, scale)) => {
                Arc::new(Decimal128Array::from(vec![*it]).with_precision_and_scale(*precision, *scale).ok()?)
            }
            (Value::Text(it), DataType::Utf8View) => Arc::new(StringViewArray::from(vec![&**it])),
            (Value::Text(it), DataType::Utf8) => Arc::new(StringArray::from(vec![&**it])),
            _ => return None,
        })
    }

    /// Parses a partition value as the log has it.
    pub(super) fn parse_partition(text: &str, data_type: &DataType) -> Option<Value> {
        match data_type {
            DataType::Utf8View => Some(Value::Text(text.into())),
            DataType::Boolean => text.parse().ok().map(Value::Boolean),
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
                text.parse().ok().map(Value::Integer)
            }
            DataType::Date32 => parse_date(text).map(Value::Integer),
            DataType::Timestamp(..) => parse_timestamp(text).map(Value::Integer),
            DataType::Float32 | DataType::Float64 => {
                text.parse().ok().filter(|it: &f64| !it.is_nan()).map(Value::Float)
            }
            DataType::Decimal128(_, scale) => parse_decimal(text, *scale).map(Value::Decimal),
            _ => None,
        }
    }

    /// Writes a partition value as the log has it.
    pub(super) fn partition_text(&self, data_type: &DataType) -> Option<String> {
        match self {
            Value::Text(it) => Some(it.to_string()),
            Value::Boolean(it) => Some(it.to_string()),
            Value::Integer(days) if *data_type == DataType::Date32 => date_text(*days),
            Value::Integer(it) => Some(it.to_string()),
            Value::Float(_) | Value::Decimal(_) => None,
        }
    }
}

/// Returns the UTC day of an instant, if it has a name of four digits for its year.
pub(super) fn day_of(instant_us: i64) -> Option<i32> {
    let day = instant_us.div_euclid(DAY_US);
    date_text(day)?;
    i32::try_from(day).ok()
}

/// Writes a date as `2026-11-20`.
pub(super) fn date_text(days: i64) -> Option<String> {
    let date = date32_to_datetime(i32::try_from(days).ok()?)?.date();
    year_fits(&date.format("%Y").to_string()).then(|| date.format("%Y-%m-%d").to_string())
}

/// Writes an instant as `2026-11-20T09:00:00.000Z`.
pub(super) fn timestamp_ms_text(instant_ms: i64) -> Option<String> {
    let time = timestamp_us_to_datetime(instant_ms.checked_mul(1_000)?)?;
    year_fits(&time.format("%Y").to_string()).then(|| time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

/// Parses a date.
pub(super) fn parse_date(text: &str) -> Option<i64> {
    Date32Type::parse(text).map(i64::from)
}

/// Parses an instant.
pub(super) fn parse_timestamp(text: &str) -> Option<i64> {
    TimestampMicrosecondType::parse(text)
}

/// Parses a decimal number without an exponent into its digits at `scale`.
pub(super) fn parse_decimal(text: &str, scale: i8) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let scale = usize::try_from(scale).ok()?;
    let fraction = fraction.trim_end_matches('0');
    if whole.is_empty() || fraction.len() > scale || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let unscaled: i128 = format!("{whole}{fraction:0<scale$}").parse().ok()?;
    Some(if negative { -unscaled } else { unscaled })
}

/// Writes the digits of a decimal with its point.
pub(super) fn decimal_text(unscaled: i128, scale: i8) -> String {
    let scale = usize::try_from(scale).unwrap_or(0);
    let sign = if unscaled < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

fn year_fits(year: &str) -> bool {
    year.parse().is_ok_and(|year: i64| YEARS.contains(&year))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_before_1970_and_beyond_four_digits() {
        assert_eq!(date_text(day_of(-1).unwrap().into()).unwrap(), "1969-12-31");
        assert_eq!(date_text(day_of(0).unwrap().into()).unwrap(), "1970-01-01");
        assert_eq!(day_of(i64::MAX), None);
        assert_eq!(day_of(i64::MIN), None);
        assert_eq!(parse_date("1969-12-31"), Some(-1));
    }

    #[test]
    fn instants_are_written_to_the_millisecond() {
        let text = timestamp_ms_text(-1).unwrap();
        assert_eq!(text, "1969-12-31T23:59:59.999Z");
        assert_eq!(parse_timestamp(&text), Some(-1_000));
        assert_eq!(timestamp_ms_text(i64::MAX), None);
    }

    #[test]
    fn decimals_keep_every_digit() {
        for (unscaled, scale, text) in [
            (0, 0, "0"),
            (-5, 2, "-0.05"),
            (12_345, 2, "123.45"),
            (18_446_744_073_709_551_615, 0, "18446744073709551615"),
        ] {
            assert_eq!(decimal_text(unscaled, scale), text);
            assert_eq!(parse_decimal(text, scale), Some(unscaled));
        }
        assert_eq!(parse_decimal("1e3", 0), None);
        assert_eq!(parse_decimal("1.234", 2), None);
    }
}
