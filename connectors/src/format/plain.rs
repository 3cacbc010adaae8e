//! Flat JSON objects, the form of most readings, straight to columns of the declared types.
//!
//! A row is taken only if its form leaves no doubt: members separated by one comma, plain text without escapes, numbers as
//! RFC 8259 writes them, `true`, `false`, `null`, each in a column of its own kind, no member twice, nothing nested. Every
//! other row is left to the general reader, which gives the same for those that are taken here; the tests hold them
//! together. One pass over the bytes, without a tape between; devices write their members in the same order, so a key is
//! compared first with the one that stood there in the row before.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Float32Builder, Float64Builder, Int8Builder, Int16Builder, Int32Builder, Int64Builder,
    StringViewBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, Schema};

use super::BATCH_ROWS;
use super::time::{TimeUnit, canonical};

/// Members of a row whose keys are remembered, at most: rows of a device that writes ever new ones take no memory.
const MEMBERS_REMEMBERED_MAX: usize = 256;
/// Bytes of a key that is remembered, at most.
const KEY_BYTES_MAX: usize = 256;
/// When none of so many rows is taken, the rest of a batch is not tried.
const ROWS_TRIED: usize = 32;
/// Digits that fit in an `f64` and in an `i64` whatever they are.
const DIGITS_EXACT: usize = 15;
const DIGITS_WHOLE: usize = 18;

/// Powers of ten that an `f64` holds exactly.
const POWERS_OF_TEN: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// Reads flat objects; made once for a format.
pub(super) struct PlainReader {
    fields: Vec<(String, Kind)>,
    time_unit: Option<TimeUnit>,
    /// The members of the row before, in their order.
    members: Vec<Member>,
}

/// What a column takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Double,
    Real,
    /// A whole number of so many bits.
    Whole(u32),
    Boolean,
    Time,
}

/// A key as it was written, `"name":`, and its column if there is one.
#[derive(Debug)]
struct Member {
    key: Vec<u8>,
    column: Option<usize>,
}

/// A value of a row that is not decided on yet.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cell<'r> {
    Absent,
    Null,
    Text(&'r str),
    Number(f64),
    Whole(i64),
    Boolean(bool),
}

/// The rows of a batch that were taken.
pub(super) struct Taken {
    /// A column for each field of the payload, of its declared type.
    pub(super) columns: Vec<ArrayRef>,
    /// Which rows they are, in order.
    pub(super) rows: Vec<usize>,
}

impl PlainReader {
    /// Makes a reader of these columns; none if it cannot read one of their types.
    pub(super) fn new(payload: &Schema, time_unit: Option<TimeUnit>) -> Option<PlainReader> {
        let kinds = payload.fields().iter().map(|field| Some((field.name().clone(), Kind::of(field)?)));
        Some(PlainReader { fields: kinds.collect::<Option<_>>()?, time_unit, members: Vec::new() })
    }

    /// Reads those of the rows that are plain, and adds the others to `left`; rows are counted from `first`.
    pub(super) fn read<'r>(
        &mut self,
        rows: impl ExactSizeIterator<Item = &'r [u8]>,
        first: usize,
        left: &mut Vec<usize>,
    ) -> Taken {
        let mut columns: Vec<Column> = self.fields.iter().map(|(_, kind)| Column::new(*kind, rows.len())).collect();
        let mut taken = Vec::with_capacity(rows.len());
        let mut cells = vec![Cell::Absent; columns.len()];
        for (row, bytes) in rows.enumerate() {
            let is_tried = row < ROWS_TRIED || !taken.is_empty();
            cells.fill(Cell::Absent);
            if is_tried && self.row(bytes, &mut cells).is_some() {
                columns.iter_mut().zip(&cells).for_each(|(column, cell)| column.push(*cell));
                taken.push(first + row);
            } else {
                left.push(first + row);
            }
        }
        Taken { columns: columns.into_iter().map(Column::finish).collect(), rows: taken }
    }

    /// Reads a row that begins with its brace; nothing if it is not plain.
    fn row<'r>(&mut self, bytes: &'r [u8], cells: &mut [Cell<'r>]) -> Option<()> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut at = behind_space(bytes, 1);
        if bytes.get(at)? == &b'}' {
            return (at + 1 == bytes.len()).then_some(());
        }
        for member in 0.. {
            let column = self.key(member, text, &mut at)?;
            at = behind_space(bytes, at);
            let kind = column.map(|column| self.fields[column].1);
            let cell = self.value(kind, text, &mut at)?;
            if let Some(column) = column {
                if cells[column] != Cell::Absent {
                    return None;
                }
                cells[column] = cell;
            }
            at = behind_space(bytes, at);
            match bytes.get(at)? {
                b',' => at = behind_space(bytes, at + 1),
                b'}' => break,
                _ => return None,
            }
        }
        (at + 1 == bytes.len()).then_some(())
    }

    /// Reads a key and its colon; returns the column.
    fn key(&mut self, number: usize, text: &str, at: &mut usize) -> Option<Option<usize>> {
        let rest = &text.as_bytes()[*at..];
        if let Some(known) = self.members.get(number)
            && rest.starts_with(&known.key)
        {
            *at += known.key.len();
            return Some(known.column);
        }
        if rest.first()? != &b'"' {
            return None;
        }
        let end = *at + 1 + text_length(&rest[1..])?;
        let name = text.get(*at + 1..end)?;
        let column = self.fields.iter().position(|(field, _)| field == name);
        let colon = behind_space(text.as_bytes(), end + 1);
        if text.as_bytes().get(colon)? != &b':' {
            return None;
        }
        let key = &text.as_bytes()[*at..=colon];
        *at = colon + 1;
        let member = || Member { key: key.to_vec(), column };
        if key.len() <= KEY_BYTES_MAX {
            let is_next = number == self.members.len() && number < MEMBERS_REMEMBERED_MAX;
            match self.members.get_mut(number) {
                Some(other) => *other = member(),
                None if is_next => self.members.push(member()),
                None => {}
            }
        }
        Some(column)
    }

    /// Reads a value for a column of this kind, or one that no column takes.
    fn value<'r>(&self, kind: Option<Kind>, text: &'r str, at: &mut usize) -> Option<Cell<'r>> {
        let bytes = text.as_bytes();
        match bytes.get(*at)? {
            b'"' => {
                let start = *at + 1;
                let end = start + text_length(&bytes[start..])?;
                *at = end + 1;
                match kind {
                    None => Some(Cell::Null),
                    Some(Kind::Text) => Some(Cell::Text(text.get(start..end)?)),
                    Some(Kind::Time) => Some(Cell::Whole(canonical(&bytes[start..end])?)),
                    Some(_) => None,
                }
            }
            b'n' => literal(bytes, at, b"null").map(|()| Cell::Null),
            b't' if matches!(kind, None | Some(Kind::Boolean)) => {
                literal(bytes, at, b"true").map(|()| Cell::Boolean(true))
            }
            b'f' if matches!(kind, None | Some(Kind::Boolean)) => {
                literal(bytes, at, b"false").map(|()| Cell::Boolean(false))
            }
            b'-' | b'0'..=b'9' => {
                let number = Number::read(bytes, *at)?;
                let digits = text.get(*at..number.end)?;
                *at = number.end;
                match kind {
                    None => Some(Cell::Null),
                    Some(Kind::Double) => number.double(digits).map(Cell::Number),
                    Some(Kind::Real) => {
                        let value: f32 = digits.parse().ok()?;
                        value.is_finite().then_some(Cell::Number(f64::from(value)))
                    }
                    Some(Kind::Whole(bits)) => {
                        let value = number.whole()?;
                        let spare = i64::BITS - bits;
                        (value << spare >> spare == value).then_some(Cell::Whole(value))
                    }
                    Some(Kind::Time) => self.time_unit?.whole_us(number.whole()?).map(Cell::Whole),
                    Some(Kind::Text | Kind::Boolean) => None,
                }
            }
            _ => None,
        }
    }
}

impl Kind {
    fn of(field: &Field) -> Option<Kind> {
        match field.data_type() {
            DataType::Utf8View => Some(Kind::Text),
            DataType::Float64 => Some(Kind::Double),
            DataType::Float32 => Some(Kind::Real),
            DataType::Int8 => Some(Kind::Whole(8)),
            DataType::Int16 => Some(Kind::Whole(16)),
            DataType::Int32 => Some(Kind::Whole(32)),
            DataType::Int64 => Some(Kind::Whole(64)),
            DataType::Boolean => Some(Kind::Boolean),
            DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some(zone)) if &**zone == "UTC" => {
                Some(Kind::Time)
            }
            _ => None,
        }
    }
}

/// A number as it is written.
struct Number {
    is_negative: bool,
    /// All digits up to an exponent as one number, if they are [`DIGITS_WHOLE`] at most.
    digits: u64,
    digit_count: usize,
    fraction_digits: usize,
    has_fraction: bool,
    has_exponent: bool,
    end: usize,
}

impl Number {
    /// Reads the number at a place: RFC 8259, section 6.
    fn read(bytes: &[u8], start: usize) -> Option<Number> {
        let is_negative = bytes[start] == b'-';
        let first = start + usize::from(is_negative);
        let (mut digits, mut at) = (0u64, first);
        let mut take = |at: &mut usize| {
            let from = *at;
            while let Some(digit) = bytes.get(*at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
                digits = digits.wrapping_mul(10).wrapping_add(u64::from(digit));
                *at += 1;
            }
            *at - from
        };
        let whole_digits = take(&mut at);
        if whole_digits == 0 || (whole_digits > 1 && bytes[first] == b'0') {
            return None;
        }
        let has_fraction = bytes.get(at) == Some(&b'.');
        let mut fraction_digits = 0;
        if has_fraction {
            at += 1;
            fraction_digits = take(&mut at);
            if fraction_digits == 0 {
                return None;
            }
        }
        let has_exponent = matches!(bytes.get(at), Some(b'e' | b'E'));
        if has_exponent {
            at += 1;
            if matches!(bytes.get(at), Some(b'+' | b'-')) {
                at += 1;
            }
            let exponent = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            if exponent == 0 {
                return None;
            }
            at += exponent;
        }
        let digit_count = whole_digits + fraction_digits;
        Some(Number { is_negative, digits, digit_count, fraction_digits, has_fraction, has_exponent, end: at })
    }

    /// The nearest `f64`. Few digits are exact, and so is a division of two exact numbers but for its one rounding (Clinger,
    /// How to read floating point numbers accurately, 1990).
    fn double(&self, text: &str) -> Option<f64> {
        if self.has_exponent || self.digit_count > DIGITS_EXACT {
            return text.parse().ok().filter(|value: &f64| value.is_finite());
        }
        let value = self.digits as f64 / POWERS_OF_TEN[self.fraction_digits];
        Some(if self.is_negative { -value } else { value })
    }

    fn whole(&self) -> Option<i64> {
        if self.has_exponent || self.has_fraction || self.digit_count > DIGITS_WHOLE {
            return None;
        }
        let value = self.digits as i64;
        Some(if self.is_negative { -value } else { value })
    }
}

fn literal(bytes: &[u8], at: &mut usize, word: &[u8]) -> Option<()> {
    let is_there = bytes[*at..].starts_with(word);
    *at += word.len();
    is_there.then_some(())
}

fn behind_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// Returns the length of text up to its quote; nothing if it has escapes or control characters. Eight bytes at a time
/// (Bit Twiddling Hacks, "determine if a word has a byte less than n, or equal to n").
fn text_length(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let zero_in = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let mut at = 0;
    let is_special = |byte: u8| byte == b'"' || byte == b'\\' || byte < b' ';
    while let Some(word) = bytes.get(at..at + 8) {
        let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        let quote = zero_in(word ^ (ONES * u64::from(b'"')));
        let escape = zero_in(word ^ (ONES * u64::from(b'\\')));
        let control = word.wrapping_sub(ONES * u64::from(b' ')) & !word & HIGHS;
        let found = quote | escape | control;
        if found != 0 {
            // The lowest mark is right; those above it may be a borrow's.
            at += found.trailing_zeros() as usize / 8;
            return (bytes[at] == b'"').then_some(at);
        }
        at += 8;
    }
    let length = bytes[at..].iter().position(|byte| is_special(*byte))?;
    (bytes[at + length] == b'"').then_some(at + length)
}

/// A column that grows.
enum Column {
    Text(StringViewBuilder),
    Double(Float64Builder),
    Real(Float32Builder),
    Whole8(Int8Builder),
    Whole16(Int16Builder),
    Whole32(Int32Builder),
    Whole64(Int64Builder),
    Boolean(BooleanBuilder),
    Time(TimestampMicrosecondBuilder),
}

impl Column {
    fn new(kind: Kind, row_count: usize) -> Column {
        let rows = row_count.min(BATCH_ROWS);
        match kind {
            Kind::Text => Column::Text(StringViewBuilder::with_capacity(rows)),
            Kind::Double => Column::Double(Float64Builder::with_capacity(rows)),
            Kind::Real => Column::Real(Float32Builder::with_capacity(rows)),
            Kind::Whole(8) => Column::Whole8(Int8Builder::with_capacity(rows)),
            Kind::Whole(16) => Column::Whole16(Int16Builder::with_capacity(rows)),
            Kind::Whole(32) => Column::Whole32(Int32Builder::with_capacity(rows)),
            Kind::Whole(_) => Column::Whole64(Int64Builder::with_capacity(rows)),
            Kind::Boolean => Column::Boolean(BooleanBuilder::with_capacity(rows)),
            Kind::Time => Column::Time(TimestampMicrosecondBuilder::with_capacity(rows).with_timezone("UTC")),
        }
    }

    /// Adds a cell, which is of the column's kind.
    fn push(&mut self, cell: Cell<'_>) {
        match (self, cell) {
            (Column::Text(column), Cell::Text(text)) => column.append_value(text),
            (Column::Double(column), Cell::Number(value)) => column.append_value(value),
            (Column::Real(column), Cell::Number(value)) => column.append_value(value as f32),
            (Column::Whole8(column), Cell::Whole(value)) => column.append_value(value as i8),
            (Column::Whole16(column), Cell::Whole(value)) => column.append_value(value as i16),
            (Column::Whole32(column), Cell::Whole(value)) => column.append_value(value as i32),
            (Column::Whole64(column), Cell::Whole(value)) => column.append_value(value),
            (Column::Boolean(column), Cell::Boolean(value)) => column.append_value(value),
            (Column::Time(column), Cell::Whole(value)) => column.append_value(value),
            (Column::Text(column), _) => column.append_null(),
            (Column::Double(column), _) => column.append_null(),
            (Column::Real(column), _) => column.append_null(),
            (Column::Whole8(column), _) => column.append_null(),
            (Column::Whole16(column), _) => column.append_null(),
            (Column::Whole32(column), _) => column.append_null(),
            (Column::Whole64(column), _) => column.append_null(),
            (Column::Boolean(column), _) => column.append_null(),
            (Column::Time(column), _) => column.append_null(),
        }
    }

    fn finish(self) -> ArrayRef {
        match self {
            Column::Text(mut column) => Arc::new(column.finish()),
            Column::Double(mut column) => Arc::new(column.finish()),
            Column::Real(mut column) => Arc::new(column.finish()),
            Column::Whole8(mut column) => Arc::new(column.finish()),
            Column::Whole16(mut column) => Arc::new(column.finish()),
            Column::Whole32(mut column) => Arc::new(column.finish()),
            Column::Whole64(mut column) => Arc::new(column.finish()),
            Column::Boolean(mut column) => Arc::new(column.finish()),
            Column::Time(mut column) => Arc::new(column.finish()),
        }
    }
}

#[cfg(test)]
mod tests;
