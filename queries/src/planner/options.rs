//! The `WITH` options of a view: how its table is stored.

use arrow::datatypes::{DataType, Schema};

use crate::catalog::{Partitioning, Storage};
use crate::diagnostic::{Code, Problem};
use crate::statement::{Name, OptionList};

/// The options of this version.
const KNOWN: [&str; 4] = ["storage", "location", "partition_by", "late"];
/// Those of later ones.
const LATER: [&str; 2] = ["retain", "compact"];

/// How a view's table is stored.
pub(super) struct TableOptions {
    pub(super) storage: Storage,
    pub(super) location: Option<String>,
    pub(super) partition_by: Partitioning,
}

impl TableOptions {
    /// Reads the options of a view with these columns.
    pub(super) fn read(list: &OptionList, schema: &Schema) -> Result<Self, Problem> {
        let mut options = TableOptions { storage: Storage::Delta, location: None, partition_by: Partitioning::None };
        for entry in &list.entries {
            let value = &entry.value;
            match entry.key.value.as_str() {
                "storage" => options.storage = storage(value)?,
                "location" if value.value.is_empty() => return Err(bad(value, "a location is a folder or a bucket")),
                "location" => options.location = Some(value.value.clone()),
                "partition_by" => options.partition_by = partitioning(value, schema)?,
                "late" if value.value.eq_ignore_ascii_case("keep") => {}
                "late" => {
                    return Err(Problem::new(
                        Code::NotSupported,
                        value.span,
                        "late rows are kept; nothing else is in this version",
                    )
                    .hint("write late = 'keep'"));
                }
                key if LATER.contains(&key) => {
                    let message = format!("option {key} is not in this version");
                    return Err(Problem::new(Code::NotSupported, entry.key.span, message).hint("leave it out"));
                }
                key => {
                    let message = format!("a view has no option {key}");
                    return Err(Problem::new(Code::BadOption, entry.key.span, message).did_you_mean(key, KNOWN));
                }
            }
        }
        Ok(options)
    }
}

fn bad(value: &Name, message: &str) -> Problem {
    Problem::new(Code::BadOption, value.span, message)
}

fn storage(value: &Name) -> Result<Storage, Problem> {
    match value.value.to_lowercase().as_str() {
        "delta" => Ok(Storage::Delta),
        "parquet" => Ok(Storage::Parquet),
        other => Err(bad(value, &format!("there is no storage '{other}'")).did_you_mean(other, ["delta", "parquet"])),
    }
}

/// `'column'`, or `'day(column)'` for a column of instants.
fn partitioning(value: &Name, schema: &Schema) -> Result<Partitioning, Problem> {
    let text = value.value.trim();
    let (function, column) = match text.split_once('(') {
        Some((function, rest)) => match rest.strip_suffix(')') {
            Some(column) => (Some(function.trim().to_lowercase()), column.trim()),
            None => return Err(bad(value, "a ) is missing").hint("write partition_by = 'day(window_start)'")),
        },
        None => (None, text),
    };
    let Ok(field) = schema.field_with_name(column) else {
        let columns = schema.fields().iter().map(|field| field.name().as_str());
        let message = format!("there is no column \"{column}\" in this view");
        return Err(Problem::new(Code::UnknownColumn, value.span, message).did_you_mean(column, columns));
    };
    match (function.as_deref(), field.data_type()) {
        (Some("day"), DataType::Timestamp(..)) => Ok(Partitioning::Day(column.to_owned())),
        (Some("day"), _) => {
            Err(bad(value, "a day is that of a TIMESTAMP").hint(format!("write partition_by = '{column}'")))
        }
        (Some(other), _) => {
            Err(bad(value, &format!("there is no {other}() here")).hint(format!("write 'day({column})' or '{column}'")))
        }
        (None, DataType::Timestamp(..)) => Err(bad(value, "every instant would have a folder of its own")
            .hint(format!("write partition_by = 'day({column})'"))),
        (None, DataType::Float32 | DataType::Float64 | DataType::Binary) => {
            Err(bad(value, "every value would have a folder of its own")
                .hint("partition by text, a whole number or a date"))
        }
        (None, _) => Ok(Partitioning::Column(column.to_owned())),
    }
}
