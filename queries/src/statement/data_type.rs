//! The types a column of a source can be declared with.

use arrow::datatypes::DataType;
use datafusion::sql::sqlparser::ast::DataType as SqlType;
use datafusion::sql::sqlparser::tokenizer::{Location, Span};
use tidemill_engine::plan::{text_map_type, timestamp_type};

use crate::diagnostic::{Code, Problem};

/// The names to choose from when a type is misspelt.
pub(crate) const TYPE_NAMES: [&str; 14] = [
    "DOUBLE",
    "REAL",
    "BIGINT",
    "INTEGER",
    "SMALLINT",
    "TINYINT",
    "BOOLEAN",
    "TEXT",
    "VARCHAR",
    "TIMESTAMP",
    "TIMESTAMPTZ",
    "DATE",
    "BYTES",
    "MAP<TEXT, TEXT>",
];

/// Returns the type of the columns that a declared type means.
pub(super) fn from_sql(written: &SqlType, start: Span) -> Result<DataType, Problem> {
    if let SqlType::Map(key, value) = written {
        return map_from_sql(key, value, start);
    }
    let text = written.to_string().to_uppercase();
    let name = without_parentheses(&text);
    let data_type = match name.as_str() {
        "DOUBLE" | "DOUBLE PRECISION" | "FLOAT" | "FLOAT8" | "FLOAT64" => DataType::Float64,
        "REAL" | "FLOAT4" | "FLOAT32" => DataType::Float32,
        "BIGINT" | "INT8" | "INT64" => DataType::Int64,
        "INT" | "INTEGER" | "INT4" | "INT32" => DataType::Int32,
        "SMALLINT" | "INT2" | "INT16" => DataType::Int16,
        "TINYINT" => DataType::Int8,
        "BIGINT UNSIGNED" | "UBIGINT" | "UINT64" | "INT8 UNSIGNED" => DataType::UInt64,
        "INT UNSIGNED" | "INTEGER UNSIGNED" | "INT4 UNSIGNED" | "UINT32" => DataType::UInt32,
        "SMALLINT UNSIGNED" | "USMALLINT" | "UINT16" | "INT2 UNSIGNED" => DataType::UInt16,
        "TINYINT UNSIGNED" | "UTINYINT" | "UINT8" => DataType::UInt8,
        "BOOLEAN" | "BOOL" => DataType::Boolean,
        "TEXT" | "STRING" | "VARCHAR" | "CHAR" | "CHARACTER VARYING" | "CHARACTER" | "CHAR VARYING" | "NVARCHAR" => {
            DataType::Utf8View
        }
        "TIMESTAMP" | "TIMESTAMPTZ" | "TIMESTAMP WITH TIME ZONE" | "TIMESTAMP WITHOUT TIME ZONE" | "DATETIME" => {
            timestamp_type()
        }
        "DATE" => DataType::Date32,
        "BYTES" | "BYTEA" | "BINARY" | "VARBINARY" | "BLOB" => DataType::Binary,
        _ => {
            let width = u64::try_from(name.chars().count()).unwrap_or(1);
            let end = Location::new(start.start.line, start.start.column + width);
            let span = Span::new(start.start, end);
            let known_elsewhere = !matches!(written, SqlType::Custom(..));
            let problem = if known_elsewhere {
                Problem::new(Code::NotSupported, span, format!("a column cannot be of type {name} in this version"))
            } else {
                Problem::new(Code::WrongType, span, format!("there is no type {name}"))
            };
            return Err(match name.as_str() {
                "DECIMAL" | "NUMERIC" | "DEC" => problem.hint("write DOUBLE, or BIGINT in the smallest unit"),
                "JSON" | "JSONB" | "UUID" => problem.hint("write TEXT"),
                _ => problem.did_you_mean(&name, TYPE_NAMES),
            });
        }
    };
    Ok(data_type)
}

fn map_from_sql(key: &SqlType, value: &SqlType, span: Span) -> Result<DataType, Problem> {
    let is_text = |written| from_sql(written, span).is_ok_and(|found| found == DataType::Utf8View);
    if is_text(key) && is_text(value) {
        return Ok(text_map_type());
    }
    Err(Problem::new(Code::NotSupported, span, "the keys and values of a map are TEXT in this version")
        .hint("write MAP<TEXT, TEXT>"))
}

/// `VARCHAR(20)` is `VARCHAR`: lengths and precisions are accepted, and mean nothing here.
fn without_parentheses(text: &str) -> String {
    let mut depth = 0usize;
    let kept: String = text
        .chars()
        .filter(|letter| {
            match letter {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                _ => return depth == 0,
            }
            false
        })
        .collect();
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}
