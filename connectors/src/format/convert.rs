//! From raw columns to the declared ones: whole numbers, times, and what is declared NOT NULL. Column by column; a
//! value that does not fit names its row and says why.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, BooleanBuilder, PrimitiveArray, PrimitiveBuilder, RecordBatch,
    RecordBatchOptions, StringViewArray,
};
use arrow::compute::{cast_with_options, filter};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Field, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, SchemaRef,
    TimestampMicrosecondType,
};

use super::time::{self, TimeUnit};

/// Columns of the declared types, without the rows that do not fit.
#[derive(Debug)]
pub(super) struct Converted {
    /// One for each field, of equal lengths.
    columns: Vec<ArrayRef>,
    /// The other rows, each with its reason.
    pub(super) bad: BTreeMap<usize, String>,
    /// How many values of the rows that fit are NULL because they did not.
    pub(super) nulled: u64,
}

/// The values that do not fit: one that must be there takes its row with it, any other is NULL.
#[derive(Debug, Default)]
pub(super) struct Misfits {
    bad: BTreeMap<usize, String>,
    /// The row of each value that became NULL.
    nulled: Vec<usize>,
}

impl Converted {
    /// Returns the rows that fit.
    pub(super) fn into_batch(self, fields: &SchemaRef, row_count: usize) -> RecordBatch {
        let options = RecordBatchOptions::new().with_row_count(Some(row_count));
        RecordBatch::try_new_with_options(Arc::clone(fields), self.columns, &options)
            .expect("columns were converted to these fields")
    }
}

/// Converts columns, one for each field, to the types of the fields.
pub(super) fn convert(
    columns: Vec<ArrayRef>,
    row_count: usize,
    fields: &SchemaRef,
    time_unit: Option<TimeUnit>,
    mut misfits: Misfits,
) -> Converted {
    let mut columns: Vec<ArrayRef> = columns
        .into_iter()
        .zip(fields.fields())
        .map(|(column, field)| {
            let column = convert_column(&column, field, time_unit, &mut misfits);
            check_not_null(&column, field, &mut misfits);
            column
        })
        .collect();
    let Misfits { bad, nulled } = misfits;
    let nulled = nulled.iter().filter(|row| !bad.contains_key(row)).count() as u64;
    if bad.is_empty() {
        return Converted { columns, bad, nulled };
    }
    let kept: BooleanArray = (0..row_count).map(|row| Some(!bad.contains_key(&row))).collect();
    for column in &mut columns {
        *column = filter(column, &kept).expect("the mask has one entry for each row");
    }
    Converted { columns, bad, nulled }
}

fn convert_column(column: &ArrayRef, field: &Field, time_unit: Option<TimeUnit>, misfits: &mut Misfits) -> ArrayRef {
    let (from, to) = (column.data_type(), field.data_type());
    if from == to {
        return Arc::clone(column);
    }
    match (from, to) {
        (DataType::Utf8View, _) => convert_text(column, field, time_unit, misfits),
        (DataType::Utf8 | DataType::LargeUtf8, _) if *to != DataType::Utf8View => {
            let text = cast_with_options(column, &DataType::Utf8View, &Default::default()).expect("text is text");
            convert_text(&text, field, time_unit, misfits)
        }
        (_, DataType::Timestamp(_, _)) if from.is_integer() => convert_counts(column, field, time_unit, misfits),
        _ => cast_or_refuse(column, field, misfits),
    }
}

fn convert_text(column: &ArrayRef, field: &Field, time_unit: Option<TimeUnit>, misfits: &mut Misfits) -> ArrayRef {
    let text = column.as_string_view();
    match field.data_type() {
        DataType::Int64 => parse::<Int64Type>(text, field, misfits, whole_number),
        DataType::Int32 => parse::<Int32Type>(text, field, misfits, whole_number),
        DataType::Int16 => parse::<Int16Type>(text, field, misfits, whole_number),
        DataType::Int8 => parse::<Int8Type>(text, field, misfits, whole_number),
        DataType::Float64 => parse::<Float64Type>(text, field, misfits, |text| {
            let number: f64 = text.trim().parse().map_err(|_| "is not a number")?;
            // Only words may say infinity: digits that overflow are damage.
            let overflowed = number.is_infinite() && text.bytes().any(|byte| byte.is_ascii_digit());
            if overflowed { Err("is a number too large for a DOUBLE") } else { Ok(number) }
        }),
        DataType::Timestamp(_, zone) => {
            let times =
                parse_values::<TimestampMicrosecondType>(text, field, misfits, |text| time::parse(text, time_unit));
            Arc::new(times.with_timezone_opt(zone.clone()))
        }
        DataType::Boolean => parse_booleans(text, field, misfits),
        _ => cast_or_refuse(column, field, misfits),
    }
}

fn whole_number<T: TryFrom<i64>>(text: &str) -> Result<T, &'static str> {
    const TOO_LARGE: &str = "is a number too large for this column";
    let number = match text.parse::<i64>() {
        Ok(number) => number,
        // As a float, digits behind the sixteenth would become others.
        Err(_) if let Some((whole, fraction)) = digits(text.trim()) => {
            if fraction.bytes().any(|byte| byte != b'0') {
                return Err("is not a whole number");
            }
            whole.parse().map_err(|_| TOO_LARGE)?
        }
        Err(_) => {
            let number: f64 = text.trim().parse().map_err(|_| "is not a whole number")?;
            if number.fract() != 0.0 || !number.is_finite() {
                return Err("is not a whole number");
            }
            // 2^63 is the first f64 that does not fit.
            if !(-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&number) {
                return Err(TOO_LARGE);
            }
            number as i64
        }
    };
    T::try_from(number).map_err(|_| TOO_LARGE)
}

/// Returns what stands in front of the point, and what stands behind it, of a number without an exponent.
fn digits(text: &str) -> Option<(&str, &str)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = whole.strip_prefix(['-', '+']).unwrap_or(whole);
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    (!digits.is_empty() && are_digits(digits) && are_digits(fraction)).then_some((whole, fraction))
}

fn parse<T: ArrowPrimitiveType>(
    text: &StringViewArray,
    field: &Field,
    misfits: &mut Misfits,
    value: impl Fn(&str) -> Result<T::Native, &'static str>,
) -> ArrayRef {
    Arc::new(parse_values::<T>(text, field, misfits, value))
}

fn parse_values<T: ArrowPrimitiveType>(
    text: &StringViewArray,
    field: &Field,
    misfits: &mut Misfits,
    value: impl Fn(&str) -> Result<T::Native, &'static str>,
) -> PrimitiveArray<T> {
    let mut values = PrimitiveBuilder::<T>::with_capacity(text.len());
    for (row, text) in text.iter().enumerate() {
        match text.map(&value) {
            Some(Ok(parsed)) => values.append_value(parsed),
            None => values.append_null(),
            Some(Err(problem)) => {
                values.append_null();
                refuse(row, field, &quoted(text.unwrap_or_default()), problem, misfits);
            }
        }
    }
    values.finish()
}

fn parse_booleans(text: &StringViewArray, field: &Field, misfits: &mut Misfits) -> ArrayRef {
    let mut values = BooleanBuilder::with_capacity(text.len());
    for (row, text) in text.iter().enumerate() {
        let value = match text {
            None => None,
            Some("true" | "TRUE" | "True" | "1") => Some(true),
            Some("false" | "FALSE" | "False" | "0") => Some(false),
            Some(text) => {
                refuse(row, field, &quoted(text), "is neither true nor false", misfits);
                None
            }
        };
        values.append_option(value);
    }
    Arc::new(values.finish())
}

/// Whole numbers that are times: only the user knows what they count.
fn convert_counts(column: &ArrayRef, field: &Field, time_unit: Option<TimeUnit>, misfits: &mut Misfits) -> ArrayRef {
    let counts = cast_with_options(column, &DataType::Int64, &Default::default()).expect("integers are integers");
    let mut times = PrimitiveBuilder::<TimestampMicrosecondType>::with_capacity(counts.len());
    for (row, count) in counts.as_primitive::<Int64Type>().iter().enumerate() {
        let us = count.and_then(|count| time_unit.and_then(|unit| unit.whole_us(count)));
        if let (Some(count), None) = (count, us) {
            let problem = match time_unit {
                None => "is a number: say what it counts with the option time_unit = 's', 'ms', 'us' or 'ns'",
                Some(_) => "is a number too large for a time in this time_unit",
            };
            refuse(row, field, &count.to_string(), problem, misfits);
        }
        times.append_option(us);
    }
    Arc::new(times.finish().with_data_type(field.data_type().clone()))
}

/// All other types, by Arrow's own cast. A value that the cast makes null did not fit.
fn cast_or_refuse(column: &ArrayRef, field: &Field, misfits: &mut Misfits) -> ArrayRef {
    let Ok(cast) = cast_with_options(column, field.data_type(), &Default::default()) else {
        for row in (0..column.len()).filter(|row| column.is_valid(*row)) {
            refuse(row, field, &format!("a {}", column.data_type()), "cannot be converted", misfits);
        }
        return arrow::array::new_null_array(field.data_type(), column.len());
    };
    let (nulls_before, nulls_after) = (column.logical_null_count(), cast.logical_null_count());
    if nulls_after > nulls_before {
        for row in (0..column.len()).filter(|row| column.is_valid(*row) && cast.is_null(*row)) {
            let value = arrow::util::display::array_value_to_string(column, row).unwrap_or_default();
            refuse(row, field, &quoted(&value), "does not fit", misfits);
        }
    }
    cast
}

fn check_not_null(column: &ArrayRef, field: &Field, misfits: &mut Misfits) {
    if field.is_nullable() || column.null_count() == 0 {
        return;
    }
    for row in (0..column.len()).filter(|row| column.is_null(*row)) {
        misfits.bad.entry(row).or_insert_with(|| missing(field.name()));
    }
}

/// Says that a column which must have a value has none.
pub(super) fn missing(column: &str) -> String {
    format!("column {column}: missing or null, but declared NOT NULL")
}

fn refuse(row: usize, field: &Field, value: &str, problem: &str, misfits: &mut Misfits) {
    misfits.refuse(row, field, || {
        format!("column {}: expected {}, but {value} {problem}", field.name(), expected(field.data_type()))
    });
}

impl Misfits {
    /// Takes a value that does not fit; NULL stands in its place.
    pub(super) fn refuse(&mut self, row: usize, field: &Field, reason: impl FnOnce() -> String) {
        match field.is_nullable() {
            true => self.nulled.push(row),
            false => drop(self.bad.entry(row).or_insert_with(reason)),
        }
    }
}

/// Names a type for people.
pub(crate) fn expected(data_type: &DataType) -> String {
    match data_type {
        DataType::Int64 => "a whole number (BIGINT)".to_owned(),
        DataType::Int32 => "a whole number (INTEGER)".to_owned(),
        DataType::Int16 => "a whole number (SMALLINT)".to_owned(),
        DataType::Int8 => "a whole number (TINYINT)".to_owned(),
        DataType::Float64 => "a number (DOUBLE)".to_owned(),
        DataType::Float32 => "a number (REAL)".to_owned(),
        DataType::Boolean => "true or false (BOOLEAN)".to_owned(),
        DataType::Utf8View | DataType::Utf8 | DataType::LargeUtf8 => "text (TEXT)".to_owned(),
        DataType::Timestamp(_, _) => "a time (TIMESTAMP)".to_owned(),
        DataType::Date32 => "a date (DATE)".to_owned(),
        DataType::Binary => "bytes (BYTES)".to_owned(),
        DataType::Map(..) => "pairs of text (MAP<TEXT, TEXT>)".to_owned(),
        other => format!("{other}"),
    }
}

/// Shortens a value so that a reason stays one line.
pub(super) fn quoted(value: &str) -> String {
    const CHARS_MAX: usize = 60;
    match value.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{:?}…", &value[..end]),
        None => format!("{value:?}"),
    }
}
