//! Fields become columns: their types, which of them is the event time, and which can be none.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use serde_json::Value;
use tidemill_queries::is_column_name;

use super::groups::Group;
use super::instants::{self, Written};

/// Beyond it a DOUBLE has no room for every whole number.
const WHOLE_IN_DOUBLE_MAX: u64 = 1 << 53;
/// The event time must be in so many of 100 rows; the others become dead letters.
const TIME_IN_PERCENT_MIN: usize = 90;
/// Fields that become columns; nobody declares more by hand.
const COLUMNS_MAX: usize = 100;
/// Members of an object that are named.
const MEMBERS_NAMED_MAX: usize = 8;

/// A column of the source.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Column {
    /// As the field is called.
    pub(super) name: String,
    /// As SQL has it.
    pub(super) data_type: &'static str,
    /// Whether every row had it.
    pub(super) is_never_null: bool,
    /// What else is to be said.
    pub(super) remark: Option<String>,
    /// How many different values it had.
    pub(super) distinct: usize,
}

/// The columns of a source.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Columns {
    /// In the order of the fields.
    pub(super) columns: Vec<Column>,
    /// Fields that are no columns, and why.
    pub(super) left: Vec<(String, String)>,
    /// The column of the event time; `None`: no field is one.
    pub(super) time: Option<String>,
    /// What numbers in time columns count.
    pub(super) time_unit: Option<&'static str>,
    /// Event time and arrival of each row that has one, microseconds.
    pub(super) times: Vec<(i64, i64)>,
    /// Rows that were looked at.
    pub(super) row_count: usize,
}

/// A field with its values.
struct Field<'r> {
    name: &'r str,
    /// Those that are not null, with their arrival.
    values: Vec<(&'r Value, i64)>,
    instants: Option<(Written, Vec<i64>)>,
}

/// Makes the columns of a group. `in_topic` are fields that a level of the topic repeats.
pub(super) fn infer(group: &Group<'_>, in_topic: &[(String, usize)]) -> Columns {
    let (fields, row_count) = fields_of(group);
    let mut found = Columns { row_count, ..Columns::default() };
    let mut usable: Vec<Field<'_>> = Vec::new();
    for field in fields {
        let level = in_topic.iter().find(|(name, _)| name == field.name).map(|(_, level)| level);
        let is_twice = usable.iter().any(|other| other.name.eq_ignore_ascii_case(field.name));
        let why = match level {
            Some(level) => format!("level {level} of the topic says the same"),
            None if field.values.is_empty() => "always null".to_owned(),
            None if !is_column_name(field.name) => "no column can be called so".to_owned(),
            None if is_twice => "another field differs from it in capital letters only".to_owned(),
            None if usable.len() >= COLUMNS_MAX => format!("only the first {COLUMNS_MAX} fields are declared"),
            None => {
                usable.push(field);
                continue;
            }
        };
        found.left.push((field.name.to_owned(), why));
    }
    let time = event_time(&usable, row_count).map(|at| usable[at].name);
    let written = |field: &Field<'_>| field.instants.as_ref().map(|(written, _)| *written);
    let chosen = usable.iter().find(|field| Some(field.name) == time);
    let counts = chosen.into_iter().chain(usable.iter().filter(|field| instants::name_rank(field.name).is_some()));
    found.time_unit = counts.filter_map(written).find_map(|written| match written {
        Written::Count(unit) => Some(unit),
        Written::Text => None,
    });
    if let Some((_, instants)) = chosen.and_then(|field| field.instants.as_ref()) {
        let arrivals = chosen.into_iter().flat_map(|field| field.values.iter().map(|(_, arrival_us)| *arrival_us));
        found.times = instants.iter().copied().zip(arrivals).collect();
    }
    found.time = time.map(str::to_owned);
    for field in &usable {
        match column(field, &found) {
            Ok(column) => found.columns.push(column),
            Err(why) => found.left.push((field.name.to_owned(), why)),
        }
    }
    found
}

/// Collects the fields in the order in which they first came, and counts the rows.
fn fields_of<'r>(group: &'r Group<'_>) -> (Vec<Field<'r>>, usize) {
    let mut fields: Vec<Field<'r>> = Vec::new();
    let mut places = std::collections::HashMap::new();
    let mut row_count = 0;
    for (heard, row) in group.rows() {
        row_count += 1;
        for (name, value) in &row.0 {
            let place = *places.entry(name.as_str()).or_insert_with(|| {
                fields.push(Field { name, values: Vec::new(), instants: None });
                fields.len() - 1
            });
            if !value.is_null() {
                fields[place].values.push((value, heard.arrival_us));
            }
        }
    }
    for field in &mut fields {
        field.instants = instants::read(field.name, field.values.iter().copied());
    }
    (fields, row_count)
}

/// Chooses the event time: what is there in every row, is called so, is written out, and is nearest to its arrival.
fn event_time(fields: &[Field<'_>], row_count: usize) -> Option<usize> {
    let candidates = fields.iter().enumerate().filter_map(|(at, field)| {
        let (written, instants) = field.instants.as_ref()?;
        let apart = |(instant, (_, arrival)): (&i64, &(&Value, i64))| (instant - arrival).abs();
        let mut apart_us: Vec<i64> = instants.iter().zip(&field.values).map(apart).collect();
        apart_us.sort_unstable();
        let is_enough = field.values.len() * 100 >= row_count * TIME_IN_PERCENT_MIN;
        let rank = (
            Reverse(field.values.len() == row_count),
            instants::name_rank(field.name).unwrap_or(usize::MAX),
            *written != Written::Text,
            apart_us[apart_us.len() / 2],
        );
        is_enough.then_some((rank, at))
    });
    candidates.min().map(|(_, at)| at)
}

/// Decides what a field becomes, or why it is no column.
fn column(field: &Field<'_>, found: &Columns) -> Result<Column, String> {
    let is_time = found.time.as_deref() == Some(field.name);
    let is_never_null = field.values.len() == found.row_count;
    let (data_type, mut remark) = match &field.instants {
        Some((Written::Text, _)) => ("TIMESTAMP", None),
        Some((Written::Count(_), _)) if is_time => ("TIMESTAMP", None),
        Some((Written::Count(unit), _)) if instants::name_rank(field.name).is_some() => match found.time_unit {
            Some(known) if known == *unit => ("TIMESTAMP", None),
            _ => ("BIGINT", Some(format!("looks like a time in {unit}; a source has one time_unit"))),
        },
        _ => type_of(field)?,
    };
    if !is_never_null && remark.is_none() {
        let percent = (field.values.len() * 100 / found.row_count).max(1);
        let otherwise = if is_time { "; readings without it are dead letters" } else { "" };
        remark = Some(format!("in {percent} % of the readings{otherwise}"));
    }
    let distinct: BTreeSet<String> = match data_type {
        "TEXT" => field.values.iter().filter_map(|(value, _)| value.as_str().map(str::to_owned)).collect(),
        _ => BTreeSet::new(),
    };
    let is_never_null = is_never_null || is_time;
    Ok(Column { name: field.name.to_owned(), data_type, is_never_null, remark, distinct: distinct.len() })
}

fn type_of(field: &Field<'_>) -> Result<(&'static str, Option<String>), String> {
    let values = || field.values.iter().map(|(value, _)| *value);
    let count = |is: fn(&Value) -> bool| values().filter(|value| is(value)).count();
    let all = field.values.len();
    let (numbers, texts) = (count(Value::is_number), count(Value::is_string));
    let (objects, arrays) = (count(Value::is_object), count(Value::is_array));
    let is_numeric_text = |value: &Value| value.as_str().is_none_or(|text| text.parse::<f64>().is_ok());
    Ok(match () {
        () if objects == all => return Err(described_object(field.name, values())),
        () if arrays == all => return Err("an array".to_owned()),
        () if objects + arrays > 0 => return Err("sometimes an object or an array, sometimes not".to_owned()),
        () if count(Value::is_boolean) == all => ("BOOLEAN", None),
        () if texts == all => ("TEXT", None),
        () if numbers == all && count(Value::is_i64) == all && values().any(is_beyond_double) => {
            ("BIGINT", Some("a DOUBLE would lose digits".to_owned()))
        }
        () if numbers == all => ("DOUBLE", None),
        () if numbers + texts == all && values().all(is_numeric_text) => {
            ("DOUBLE", Some("sometimes written as text".to_owned()))
        }
        () => ("TEXT", Some("values of several types".to_owned())),
    })
}

fn is_beyond_double(value: &Value) -> bool {
    value.as_i64().is_some_and(|whole| whole.unsigned_abs() > WHOLE_IN_DOUBLE_MAX)
}

fn described_object<'v>(name: &str, objects: impl Iterator<Item = &'v Value> + Clone) -> String {
    let members = || objects.clone().filter_map(Value::as_object).flatten();
    let names: BTreeSet<&str> = members().map(|(name, _)| name.as_str()).collect();
    let more = if names.len() > MEMBERS_NAMED_MAX { ", …" } else { "" };
    let listed = names.iter().take(MEMBERS_NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
    let is_flat = members().all(|(_, value)| !value.is_object() && !value.is_array());
    let remedy = match is_flat {
        true => format!("; {} MAP<TEXT, TEXT> would take its members as text", tidemill_queries::name_in_sql(name)),
        false => String::new(),
    };
    format!("an object with {listed}{more}{remedy}")
}
