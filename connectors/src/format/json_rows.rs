//! Rows as JSON objects, for sinks: the other direction of the formats.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_json::writer::{LineDelimited, WriterBuilder};

use crate::options::{OptionError, Options, nearest};

/// Writes rows as JSON objects, all columns or some: NULL as `null`, instants as RFC 3339 in UTC, numbers that JSON does not
/// have (infinite, not a number) as `null`.
#[derive(Clone, Debug)]
pub(crate) struct JsonRows {
    /// The places of the columns that are written.
    columns: Vec<usize>,
    schema: SchemaRef,
}

/// JSON objects, one for each row.
pub(crate) struct Objects(Vec<u8>);

/// Columns as text.
pub(crate) struct Texts(Vec<(usize, ArrayRef)>);

impl JsonRows {
    /// Takes options `format` (`'json'`) and `columns`, for rows of these columns.
    pub(crate) fn take(schema: &SchemaRef, options: &mut Options) -> Result<JsonRows, OptionError> {
        options.choice("format", &[("json", ())])?;
        JsonRows::take_columns(schema, options)
    }

    /// Takes option `columns`, for rows of these columns.
    pub(crate) fn take_columns(schema: &SchemaRef, options: &mut Options) -> Result<JsonRows, OptionError> {
        let columns = match options.take("columns") {
            None => (0..schema.fields().len()).collect(),
            Some(list) => list.split(',').map(|name| column(name.trim(), schema)).collect::<Result<Vec<_>, _>>()?,
        };
        let fields: Vec<Field> = columns.iter().map(|at| schema.field(*at)).map(printable).collect();
        for (at, field) in fields.iter().enumerate() {
            if fields[..at].iter().any(|before| before.name() == field.name()) {
                return Err(OptionError::new("columns", format!("names {} twice", field.name())));
            }
        }
        Ok(JsonRows { columns, schema: Arc::new(Schema::new(fields)) })
    }

    /// Returns the names of the columns that are written, in their order.
    pub(crate) fn names(&self) -> Vec<String> {
        self.schema.fields().iter().map(|field| field.name().clone()).collect()
    }

    /// Returns the columns that are written, instants in UTC.
    pub(crate) fn project(&self, rows: &RecordBatch) -> Result<RecordBatch, String> {
        let columns = self.columns.iter().zip(self.schema.fields());
        let columns = columns.map(|(at, field)| in_utc(rows.column(*at), field.data_type()));
        let columns = columns.collect::<Result<Vec<ArrayRef>, String>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map_err(|error| error.to_string())
    }

    /// Writes each row.
    pub(crate) fn write(&self, rows: &RecordBatch) -> Result<Objects, String> {
        let rows = self.project(rows)?;
        let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
        writer.write(&rows).and_then(|()| writer.finish()).map_err(|error| error.to_string())?;
        Ok(Objects(writer.into_inner()))
    }

    /// Returns columns as text.
    pub(crate) fn texts(&self, rows: &RecordBatch, columns: impl Iterator<Item = usize>) -> Result<Texts, String> {
        let schema = rows.schema();
        let text = |at: usize| Ok((at, in_utc(rows.column(at), printable(schema.field(at)).data_type())?));
        columns.map(text).collect::<Result<_, String>>().map(Texts)
    }
}

impl Objects {
    /// Returns the object of each row.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &[u8]> {
        // JSON text has no line break but between objects.
        self.0.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
    }
}

impl Texts {
    /// Writes a column of a row; nothing if it is NULL.
    pub(crate) fn write(&self, column: usize, row: usize, text: &mut String) {
        let Some((_, values)) = self.0.iter().find(|(at, _)| *at == column) else { return };
        if values.is_null(row) {
            return;
        }
        let options = FormatOptions::default().with_display_error(true);
        if let Ok(formatter) = ArrayFormatter::try_new(values, &options) {
            // Writing to a string cannot fail, and errors are shown.
            let _ = formatter.value(row).write(text);
        }
    }
}

/// An instant gets a zone that can be printed without a table of zones.
fn printable(field: &Field) -> Field {
    let data_type = match field.data_type() {
        DataType::Timestamp(unit, _) => DataType::Timestamp(*unit, Some("+00:00".into())),
        other => other.clone(),
    };
    Field::new(field.name(), data_type, true)
}

fn in_utc(column: &ArrayRef, data_type: &DataType) -> Result<ArrayRef, String> {
    match column.data_type() == data_type {
        true => Ok(Arc::clone(column)),
        false => cast(column, data_type).map_err(|error| error.to_string()),
    }
}

fn column(name: &str, schema: &Schema) -> Result<usize, OptionError> {
    schema.index_of(name).map_err(|_| {
        let columns = || schema.fields().iter().map(|field| field.name().as_str());
        let problem = match nearest(name, columns()) {
            Some(near) => format!("there is no column {name:?}; did you mean {near}?"),
            None => format!("there is no column {name:?}; there are {}", columns().collect::<Vec<_>>().join(", ")),
        };
        OptionError::new("columns", problem)
    })
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int64Array, StringViewArray, TimestampMicrosecondArray};
    use tidemill_engine::plan::timestamp_type;

    use super::*;

    fn rows() -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("device", DataType::Utf8View, true),
            Field::new("n", DataType::Int64, true),
            Field::new("c", DataType::Float64, true),
            Field::new("at", timestamp_type(), false),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringViewArray::from(vec![Some("a \"b\"\nc"), None])),
            Arc::new(Int64Array::from(vec![Some(7), None])),
            Arc::new(Float64Array::from(vec![Some(-18.5), Some(f64::NAN)])),
            Arc::new(TimestampMicrosecondArray::from(vec![0, 1_500_000]).with_timezone("UTC")),
        ];
        RecordBatch::try_new(Arc::new(schema), columns).expect("columns fit")
    }

    fn objects(options: &[(&str, &str)]) -> Vec<String> {
        let mut options = Options::new(options.iter().map(|(key, value)| (key.to_string(), value.to_string())));
        let json = JsonRows::take(&rows().schema(), &mut options).expect("good options");
        let objects = json.write(&rows()).expect("writable");
        objects.rows().map(|row| String::from_utf8(row.to_vec()).expect("text")).collect()
    }

    #[test]
    fn each_row_is_an_object_with_every_column() {
        assert_eq!(
            objects(&[]),
            [
                "{\"device\":\"a \\\"b\\\"\\nc\",\"n\":7,\"c\":-18.5,\"at\":\"1970-01-01T00:00:00Z\"}",
                "{\"device\":null,\"n\":null,\"c\":null,\"at\":\"1970-01-01T00:00:01.500Z\"}",
            ]
        );
        assert_eq!(objects(&[("columns", "n, device"), ("format", "json")])[1], "{\"n\":null,\"device\":null}");
    }

    #[test]
    fn columns_are_texts_for_a_topic() {
        let rows = rows();
        let json = JsonRows::take(&rows.schema(), &mut Options::default()).expect("good options");
        let texts = json.texts(&rows, [0, 1, 3].into_iter()).expect("printable");
        let text = |column, row| {
            let mut text = String::new();
            texts.write(column, row, &mut text);
            text
        };
        assert_eq!([text(0, 0), text(1, 0), text(3, 1)], ["a \"b\"\nc", "7", "1970-01-01T00:00:01.500Z"]);
        assert_eq!([text(0, 1), text(1, 1)], ["", ""]);
    }

    #[test]
    fn an_unknown_column_names_the_nearest() {
        let problem = |list: &str| {
            let mut options = Options::new([("columns".to_owned(), list.to_owned())]);
            JsonRows::take(&rows().schema(), &mut options).expect_err("refused").to_string()
        };
        assert!(problem("devise").contains("did you mean device?"), "{}", problem("devise"));
        assert!(problem("n,n").contains("names n twice"));
        assert!(problem("").contains("there is no column \"\""));
    }
}
