//! Rows in the making: a row is filled by name, made to fit, and appended to the columns or refused as a whole.

use std::borrow::Cow;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use tidemill_engine::decode::Decoded;

use super::super::BATCH_ROWS;
use super::super::convert::convert;
use super::super::dead::DeadLetters;
use super::super::layout::Layout;
use super::super::metadata::Origin;
use super::super::rows::Span;
use super::cell::{Cell, Column, Text};

/// Which declared column is for what: some names mean a part of every point, the others one of its tags, labels, fields or
/// attributes.
#[derive(Debug)]
pub(super) struct Names {
    /// The declared columns of the payload.
    columns: SchemaRef,
    /// For each of them whether a tag, a label, a field or an attribute of its name goes there.
    is_open: Vec<bool>,
}

impl Names {
    /// Takes the names that mean a part of every point.
    pub(super) fn new(columns: &SchemaRef, parts: &[&str]) -> Self {
        let is_open = columns.fields().iter().map(|field| !parts.contains(&field.name().as_str())).collect();
        Names { columns: SchemaRef::clone(columns), is_open }
    }

    /// Returns the place of a part, if it is declared.
    pub(super) fn part(&self, name: &str) -> Place {
        let place = self.columns.fields().iter().position(|field| field.name() == name);
        Place(place.filter(|place| !self.is_open[*place]))
    }

    /// Returns the place of the first of two parts that is declared.
    pub(super) fn either(&self, name: &str, other: &str) -> Place {
        Place(self.part(name).0.or(self.part(other).0))
    }

    /// Whether a column is declared that a tag, a label or an attribute of this name goes to.
    pub(super) fn has(&self, key: &str) -> bool {
        self.open(key).is_some()
    }

    fn open(&self, key: &str) -> Option<usize> {
        let fields = self.columns.fields();
        (0..fields.len()).find(|place| self.is_open[*place] && is_called(key, fields[*place].name()))
    }
}

/// Whether a column is for what is called so: names of columns have letters, digits, `_` and `-`, and what else stands in a
/// name, such as the dot of `service.name`, is `_` there.
fn is_called(key: &str, column: &str) -> bool {
    let fits = |(sent, declared): (u8, u8)| {
        let is_kept = sent.is_ascii_alphanumeric() || matches!(sent, b'_' | b'-');
        sent == declared || (!is_kept && declared == b'_')
    };
    key.len() == column.len() && key.bytes().zip(column.bytes()).all(fits)
}

/// Where a part of a point goes; nowhere if its column is not declared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place(Option<usize>);

impl Place {
    /// That of what no format has a column for.
    pub(super) const NOWHERE: Place = Place(None);

    /// Whether the part is asked for.
    pub(super) fn is_declared(self) -> bool {
        self.0.is_some()
    }
}

/// A row that is being filled. Used again for the next, so that rows cost no allocation.
pub(super) struct Row<'m> {
    names: &'m Names,
    cells: Vec<Cell<'m>>,
    /// Pairs for the columns of maps, by column.
    pairs: Vec<Vec<(Text<'m>, Text<'m>)>>,
    /// What had a name and found neither a column nor a map.
    dropped_attributes: u64,
}

impl<'m> Row<'m> {
    pub(super) fn new(names: &'m Names) -> Self {
        let count = names.columns.fields().len();
        Row { names, cells: vec![Cell::Null; count], pairs: vec![Vec::new(); count], dropped_attributes: 0 }
    }

    /// Begins the next row.
    pub(super) fn clear(&mut self) {
        self.cells.fill(Cell::Null);
        self.pairs.iter_mut().for_each(Vec::clear);
        self.dropped_attributes = 0;
    }

    /// Fills a part of the point.
    pub(super) fn set(&mut self, place: Place, cell: impl Into<Cell<'m>>) {
        if let Some(place) = place.0 {
            self.cells[place] = cell.into();
        }
    }

    /// Takes a tag, a label, a field or an attribute: to the column of its name, of equal names the last, and to the map of
    /// all of them. What finds neither is counted.
    pub(super) fn attribute(&mut self, map: Place, key: Text<'m>, cell: impl FnOnce() -> Cell<'m>) {
        match (self.names.open(&key), map.0) {
            (None, None) => self.dropped_attributes += 1,
            (Some(place), None) => self.cells[place] = cell(),
            (None, Some(map)) => self.pairs[map].push((key, cell().into_text())),
            (Some(place), Some(map)) => {
                let cell = cell();
                self.pairs[map].push((key, cell.clone().into_text()));
                self.cells[place] = cell;
            }
        }
    }

    /// Fills the column of this name, if there is one.
    pub(super) fn set_named(&mut self, key: &str, cell: Cell<'m>) {
        if let Some(place) = self.names.open(key) {
            self.cells[place] = cell;
        }
    }
}

/// The rows of a chunk.
pub(super) struct Rows<'d> {
    layout: &'d Layout,
    origin: &'d Origin<'d>,
    pub(super) dead: DeadLetters<'d>,
    /// When the chunk arrived, microseconds: the time of points that have none.
    pub(super) arrival_us: i64,
    columns: Vec<Column>,
    /// The bytes that each row was read from.
    spans: Vec<Span>,
    batches: Vec<RecordBatch>,
    nulled: u64,
    dropped_attributes: u64,
}

impl<'d> Rows<'d> {
    pub(super) fn new(layout: &'d Layout, origin: &'d Origin<'d>, arrival_us: i64) -> Self {
        let columns = layout.payload().fields().iter().map(|field| Column::new(field.data_type())).collect();
        Rows {
            layout,
            origin,
            dead: DeadLetters::new(origin.messages),
            arrival_us,
            columns,
            spans: Vec::new(),
            batches: Vec::new(),
            nulled: 0,
            dropped_attributes: 0,
        }
    }

    /// Appends a row, or makes a dead letter of the bytes it was read from.
    pub(super) fn take(&mut self, row: &mut Row<'_>, span: Span) {
        if let Err(reason) = self.try_take(row, span) {
            self.dead.push(span, reason);
        }
    }

    /// Appends a row that was read from these bytes. A value that does not fit is NULL; where it must be there this is said,
    /// and nothing is appended.
    pub(super) fn try_take(&mut self, row: &mut Row<'_>, span: Span) -> Result<(), String> {
        self.push(row)?;
        self.spans.push(span);
        if self.spans.len() == BATCH_ROWS {
            self.flush();
        }
        Ok(())
    }

    fn push(&mut self, row: &mut Row<'_>) -> Result<(), String> {
        let mut nulled = 0;
        for (cell, field) in row.cells.iter_mut().zip(self.layout.payload().fields()) {
            if !matches!(field.data_type(), DataType::Map(..)) {
                let taken = std::mem::replace(cell, Cell::Null);
                match taken.fit(field, self.layout.time_unit()) {
                    Ok(fitted) => *cell = fitted,
                    Err(_) if field.is_nullable() => nulled += 1,
                    Err(misfit) => return Err(misfit.reason(field)),
                }
            }
        }
        self.nulled += nulled;
        self.dropped_attributes += row.dropped_attributes;
        for ((column, cell), pairs) in self.columns.iter_mut().zip(&row.cells).zip(&mut row.pairs) {
            match column {
                Column::Map(_) => column.append_pairs(pairs),
                _ => column.append(cell),
            }
        }
        Ok(())
    }

    fn flush(&mut self) {
        let spans = std::mem::take(&mut self.spans);
        if spans.is_empty() {
            return;
        }
        let columns: Vec<ArrayRef> = self.columns.iter_mut().map(Column::finish).collect();
        let messages_of_rows = spans.iter().map(|span| span.message as usize);
        let columns = self.layout.complete(columns, self.origin, messages_of_rows);
        // Only metadata is left to be converted.
        let converted = convert(columns, spans.len(), self.layout.schema(), None, Default::default());
        for (row, reason) in &converted.bad {
            self.dead.push(spans[*row], reason.clone());
        }
        self.nulled += converted.nulled;
        let row_count = spans.len() - converted.bad.len();
        if row_count > 0 {
            self.batches.push(converted.into_batch(self.layout.schema(), row_count));
        }
    }

    /// Returns the batches, and what is not in them.
    pub(super) fn finish(mut self) -> Decoded {
        self.flush();
        let Rows { batches, dead, nulled, dropped_attributes, .. } = self;
        Decoded { batches, dead: dead.finish(), nulled, dropped_attributes }
    }
}

/// Borrows text.
pub(super) fn borrowed(text: &str) -> Text<'_> {
    Cow::Borrowed(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_column_can_be_called_is_an_underscore_in_its_name() {
        for (key, column, expected) in [
            ("host", "host", true),
            ("service.name", "service_name", true),
            ("service.name", "service.name", true),
            ("a/b c", "a_b_c", true),
            ("a-b", "a_b", false),
            ("a_b", "a.b", false),
            ("hosts", "host", false),
            ("Host", "host", false),
        ] {
            assert_eq!(is_called(key, column), expected, "{key} {column}");
        }
    }
}
