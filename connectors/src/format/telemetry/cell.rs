//! One value of a row, and how it fits the column that it is for.

use std::borrow::Cow;

use arrow::array::{
    ArrayRef, BooleanBuilder, Float32Builder, Float64Builder, Int8Builder, Int16Builder, Int32Builder, Int64Builder,
    MapBuilder, StringBuilder, StringViewBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field};
use tidemill_engine::plan::text_map_type;

use super::super::convert::{expected, missing, quoted};
use super::super::metadata::text_maps;
use super::super::time::{self, TimeUnit};

/// Text that a row borrows from its message, unless something in it was escaped.
pub(super) type Text<'m> = Cow<'m, str>;

/// A value as it was sent.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell<'m> {
    Null,
    Text(Text<'m>),
    Float(f64),
    Int(i64),
    Uint(u64),
    Bool(bool),
    /// Microseconds since 1970, UTC.
    Time(i64),
}

impl<'m> From<&'m str> for Cell<'m> {
    fn from(text: &'m str) -> Self {
        Cell::Text(Cow::Borrowed(text))
    }
}

impl<'m> Cell<'m> {
    /// Text, or nothing where it is empty: what protobuf does not tell apart.
    pub(super) fn text_or_null(text: &'m str) -> Self {
        if text.is_empty() { Cell::Null } else { Cell::from(text) }
    }

    /// Says how it is written; as pairs of text have it.
    pub(super) fn into_text(self) -> Text<'m> {
        match self {
            Cell::Null => Cow::Borrowed(""),
            Cell::Text(text) => text,
            Cell::Float(value) => Cow::Owned(float_text(value)),
            Cell::Int(value) => Cow::Owned(value.to_string()),
            Cell::Uint(value) => Cow::Owned(value.to_string()),
            Cell::Bool(value) => Cow::Borrowed(if value { "true" } else { "false" }),
            Cell::Time(value) => Cow::Owned(value.to_string()),
        }
    }

    /// Turns it into the very kind that a column of this type takes, or says why it does not fit.
    pub(super) fn fit(self, field: &Field, unit: Option<TimeUnit>) -> Result<Cell<'m>, Misfit<'m>> {
        let fitted = match (field.data_type(), &self) {
            (_, Cell::Null) if field.is_nullable() => return Ok(self),
            (_, Cell::Null) => Err("is missing"),
            (DataType::Float64 | DataType::Float32, Cell::Float(_))
            | (DataType::Utf8View, Cell::Text(_))
            | (DataType::Boolean, Cell::Bool(_))
            | (DataType::Int64, Cell::Int(_))
            | (DataType::Timestamp(..), Cell::Time(_)) => return Ok(self),
            (DataType::Utf8View, _) => return Ok(Cell::Text(self.into_text())),
            (DataType::Float64 | DataType::Float32, _) => self.as_float(),
            (DataType::Int64, _) => self.as_whole(i64::MIN, i64::MAX),
            (DataType::Int32, _) => self.as_whole(i32::MIN.into(), i32::MAX.into()),
            (DataType::Int16, _) => self.as_whole(i16::MIN.into(), i16::MAX.into()),
            (DataType::Int8, _) => self.as_whole(i8::MIN.into(), i8::MAX.into()),
            (DataType::Boolean, Cell::Text(text)) => match text.as_ref() {
                "true" | "True" | "TRUE" => Ok(Cell::Bool(true)),
                "false" | "False" | "FALSE" => Ok(Cell::Bool(false)),
                _ => Err("is neither true nor false"),
            },
            (DataType::Boolean, _) => Err("is neither true nor false"),
            (DataType::Timestamp(..), Cell::Text(text)) => time::parse(text, unit).map(Cell::Time),
            (DataType::Timestamp(..), _) => match (&self, unit) {
                (Cell::Int(count), Some(unit)) => {
                    unit.whole_us(*count).map(Cell::Time).ok_or("is a number too large for a time in this time_unit")
                }
                (_, Some(_)) => Err("is not a time"),
                (_, None) => Err("is a number: say what it counts with the option time_unit = 's', 'ms', 'us' or 'ns'"),
            },
            _ => Err("cannot be converted"),
        };
        fitted.map_err(|problem| Misfit { value: self, problem })
    }

    fn as_float(&self) -> Result<Cell<'m>, &'static str> {
        match self {
            Cell::Int(value) => Ok(Cell::Float(*value as f64)),
            Cell::Uint(value) => Ok(Cell::Float(*value as f64)),
            Cell::Text(text) => number(text).map(Cell::Float).ok_or("is not a number"),
            _ => Err("is not a number"),
        }
    }

    fn as_whole(&self, min: i64, max: i64) -> Result<Cell<'m>, &'static str> {
        let whole = match self {
            Cell::Int(value) => *value,
            Cell::Uint(value) => i64::try_from(*value).map_err(|_| "is a number too large for this column")?,
            // 2^63 is the first f64 that does not fit.
            Cell::Float(value) if value.fract() == 0.0 => {
                if !(-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(value) {
                    return Err("is a number too large for this column");
                }
                *value as i64
            }
            Cell::Text(text) => text.parse().map_err(|_| "is not a whole number")?,
            _ => return Err("is not a whole number"),
        };
        if (min..=max).contains(&whole) { Ok(Cell::Int(whole)) } else { Err("is a number too large for this column") }
    }
}

/// Parses a number as Prometheus writes it: also `+Inf`, `-Inf` and `NaN`. Digits that overflow are no number.
pub(super) fn number(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_word = unsigned.eq_ignore_ascii_case("inf")
        || unsigned.eq_ignore_ascii_case("infinity")
        || text.eq_ignore_ascii_case("nan");
    let number: f64 = text.parse().ok()?;
    (is_word || number.is_finite()).then_some(number)
}

/// Writes a number as Prometheus does in `le`: `0.5`, `1`, `+Inf`.
pub(super) fn float_text(value: f64) -> String {
    if value == f64::INFINITY {
        "+Inf".to_owned()
    } else if value == f64::NEG_INFINITY {
        "-Inf".to_owned()
    } else {
        value.to_string()
    }
}

/// A value that does not fit. Says why only when it is asked: most are just NULL.
#[derive(Debug)]
pub(super) struct Misfit<'m> {
    value: Cell<'m>,
    problem: &'static str,
}

impl Misfit<'_> {
    /// Says why it does not fit in a column.
    pub(super) fn reason(self, field: &Field) -> String {
        let value = match self.value {
            Cell::Null => return missing(field.name()),
            Cell::Text(text) => quoted(&text),
            other => other.into_text().into_owned(),
        };
        format!("column {}: expected {}, but {value} {}", field.name(), expected(field.data_type()), self.problem)
    }
}

/// A column that grows.
pub(super) enum Column {
    Text(StringViewBuilder),
    Float(Float64Builder),
    Real(Float32Builder),
    Int64(Int64Builder),
    Int32(Int32Builder),
    Int16(Int16Builder),
    Int8(Int8Builder),
    Bool(BooleanBuilder),
    Time(TimestampMicrosecondBuilder),
    Map(Box<MapBuilder<StringBuilder, StringViewBuilder>>),
}

impl Column {
    /// Says whether there are columns of this type here.
    pub(super) fn is_known(data_type: &DataType) -> bool {
        use DataType::{Boolean, Float32, Float64, Int8, Int16, Int32, Int64, Timestamp, Utf8View};
        matches!(data_type, Utf8View | Float64 | Float32 | Int64 | Int32 | Int16 | Int8 | Boolean | Timestamp(..))
            || *data_type == text_map_type()
    }

    /// Makes an empty column.
    ///
    /// # Panics
    /// If the type is not known.
    pub(super) fn new(data_type: &DataType) -> Self {
        match data_type {
            DataType::Utf8View => Column::Text(StringViewBuilder::new()),
            DataType::Float64 => Column::Float(Float64Builder::new()),
            DataType::Float32 => Column::Real(Float32Builder::new()),
            DataType::Int64 => Column::Int64(Int64Builder::new()),
            DataType::Int32 => Column::Int32(Int32Builder::new()),
            DataType::Int16 => Column::Int16(Int16Builder::new()),
            DataType::Int8 => Column::Int8(Int8Builder::new()),
            DataType::Boolean => Column::Bool(BooleanBuilder::new()),
            DataType::Timestamp(..) => Column::Time(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
            DataType::Map(..) => Column::Map(Box::new(text_maps())),
            other => unreachable!("connect has refused columns of {other}"),
        }
    }

    /// Appends a value that was made to fit.
    pub(super) fn append(&mut self, cell: &Cell<'_>) {
        match (self, cell) {
            (Column::Text(column), Cell::Text(text)) => column.append_value(text),
            (Column::Float(column), Cell::Float(value)) => column.append_value(*value),
            (Column::Real(column), Cell::Float(value)) => column.append_value(*value as f32),
            (Column::Int64(column), Cell::Int(value)) => column.append_value(*value),
            (Column::Int32(column), Cell::Int(value)) => column.append_value(fitted(*value)),
            (Column::Int16(column), Cell::Int(value)) => column.append_value(fitted(*value)),
            (Column::Int8(column), Cell::Int(value)) => column.append_value(fitted(*value)),
            (Column::Bool(column), Cell::Bool(value)) => column.append_value(*value),
            (Column::Time(column), Cell::Time(value)) => column.append_value(*value),
            (column, Cell::Null) => column.append_null(),
            (_, cell) => unreachable!("{cell:?} was made to fit"),
        }
    }

    fn append_null(&mut self) {
        match self {
            Column::Text(column) => column.append_null(),
            Column::Float(column) => column.append_null(),
            Column::Real(column) => column.append_null(),
            Column::Int64(column) => column.append_null(),
            Column::Int32(column) => column.append_null(),
            Column::Int16(column) => column.append_null(),
            Column::Int8(column) => column.append_null(),
            Column::Bool(column) => column.append_null(),
            Column::Time(column) => column.append_null(),
            Column::Map(column) => column.append(false).expect("a value for each key"),
        }
    }

    /// Appends pairs, by key; of equal keys the last counts.
    ///
    /// # Panics
    /// If it is no column of maps.
    pub(super) fn append_pairs(&mut self, pairs: &mut Vec<(Text<'_>, Text<'_>)>) {
        let Column::Map(maps) = self else { unreachable!("connect has checked the type of maps") };
        // The same set of pairs is the same map, in whatever order it was sent.
        pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (at, (key, value)) in pairs.iter().enumerate() {
            if pairs.get(at + 1).is_none_or(|(next, _)| next != key) {
                maps.keys().append_value(key);
                maps.values().append_value(value);
            }
        }
        maps.append(true).expect("a value for each key");
    }

    /// Returns what has been appended, and begins anew.
    pub(super) fn finish(&mut self) -> ArrayRef {
        use std::sync::Arc;
        match self {
            Column::Text(column) => Arc::new(column.finish()),
            Column::Float(column) => Arc::new(column.finish()),
            Column::Real(column) => Arc::new(column.finish()),
            Column::Int64(column) => Arc::new(column.finish()),
            Column::Int32(column) => Arc::new(column.finish()),
            Column::Int16(column) => Arc::new(column.finish()),
            Column::Int8(column) => Arc::new(column.finish()),
            Column::Bool(column) => Arc::new(column.finish()),
            Column::Time(column) => Arc::new(column.finish()),
            Column::Map(column) => Arc::new(column.finish()),
        }
    }
}

fn fitted<T: TryFrom<i64>>(value: i64) -> T {
    T::try_from(value).unwrap_or_else(|_| unreachable!("{value} was made to fit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_fits_where_nothing_of_it_is_lost() {
        let column = |data_type: &DataType| Field::new("c", data_type.clone(), true);
        let text = |text: &'static str| Cell::from(text);
        for (cell, data_type, expected) in [
            (Cell::Int(3), DataType::Float64, Cell::Float(3.0)),
            (Cell::Uint(3), DataType::Int8, Cell::Int(3)),
            (Cell::Float(-4.0), DataType::Int16, Cell::Int(-4)),
            (text("4"), DataType::Int32, Cell::Int(4)),
            (text("+Inf"), DataType::Float64, Cell::Float(f64::INFINITY)),
            (text("0.5"), DataType::Float64, Cell::Float(0.5)),
            (Cell::Float(0.5), DataType::Utf8View, text("0.5")),
            (Cell::Bool(true), DataType::Utf8View, text("true")),
            (text("true"), DataType::Boolean, Cell::Bool(true)),
            (Cell::Null, DataType::Boolean, Cell::Null),
        ] {
            assert_eq!(cell.clone().fit(&column(&data_type), None).ok(), Some(expected), "{cell:?}");
        }
        let seconds = Some(TimeUnit::Seconds);
        let time = column(&tidemill_engine::plan::timestamp_type());
        assert_eq!(Cell::Int(2).fit(&time, seconds).ok(), Some(Cell::Time(2_000_000)));
        assert_eq!(text("1970-01-01T00:00:01Z").fit(&time, None).ok(), Some(Cell::Time(1_000_000)));
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_column() {
        for (cell, data_type, nullable, expected) in [
            (Cell::Float(1.5), DataType::Int64, true, "column c: expected a whole number (BIGINT), but 1.5 is not"),
            (Cell::Int(128), DataType::Int8, true, "but 128 is a number too large for this column"),
            (Cell::Uint(u64::MAX), DataType::Int64, true, "is a number too large for this column"),
            (Cell::Float(1e19), DataType::Int64, true, "is a number too large for this column"),
            (Cell::from("warm"), DataType::Float64, true, "a number (DOUBLE), but \"warm\" is not a number"),
            (Cell::from("1e999"), DataType::Float64, true, "is not a number"),
            (Cell::Bool(true), DataType::Float64, true, "but true is not a number"),
            (Cell::Int(1), DataType::Boolean, true, "is neither true nor false"),
            (Cell::Int(1), tidemill_engine::plan::timestamp_type(), true, "option time_unit"),
            (Cell::Null, DataType::Float64, false, "column c: missing or null, but declared NOT NULL"),
        ] {
            let field = Field::new("c", data_type, nullable);
            let problem = cell.clone().fit(&field, None).expect_err("does not fit").reason(&field);
            assert!(problem.contains(expected), "{cell:?}: {problem}");
        }
    }
}
