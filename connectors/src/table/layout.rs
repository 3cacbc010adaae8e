//! Layout: what a table looks like, decided from its specification before anything is written.
//!
//! ```text
//!   rows as they come          ts, device, site, temp (u16)
//!   stored                     ts, device, site, temp (integer)               types widened
//!   table (the log's schema)   ts, device, site, temp, date                   day(ts) adds `date` at the end
//!   file (the Parquet schema)  ts, device, site, temp                         without the partition column
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Date32Array, RecordBatch};
use arrow::compute::{cast, nullif};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType};

use super::actions::MetaData;
use super::checkpoint::INTERVAL_VERSIONS;
use super::identity::{APP_ID_KEY, Content, FINGERPRINT_KEY, base_id, setting};
use super::types::{parse_schema, schema_string, stored_field};
use super::value::day_of;

/// The partition column that `day(…)` adds.
pub(super) const DATE_COLUMN: &str = "date";
/// Characters that Delta's own writers refuse in a column's name; readers may too.
const COLUMN_NAME_FORBIDDEN: &[char] = &[' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '='];
/// A folder's name on common file systems has at most 255 bytes; a table's name may still get a suffix.
const NAME_BYTES_MAX: usize = 200;

/// How a table's files are split in folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Partitioning {
    /// Not at all.
    None,
    /// By the UTC day of a time column; adds the partition column `date`. Rows without a time, or with one outside
    /// the years 1 to 9999, have no date.
    Day(String),
    /// By a column's value: text, an integer, a date or a boolean. The format cannot tell an empty text from a missing
    /// one: it is read back as null.
    Column(String),
}

/// What a table is, as the job that fills it says.
#[derive(Clone, Debug)]
pub struct TableSpec {
    /// Its name, for people and for its folder: `room_1m`, `room_1m$late`.
    pub name: String,
    /// The columns of the rows that will be written.
    pub schema: SchemaRef,
    /// How files are split in folders.
    pub partition_by: Partitioning,
    /// What rows are sorted by inside a file: key columns, then time.
    pub sort: Vec<String>,
    /// The column that says when a row happened, if there is one.
    pub time_column: Option<String>,
    /// The job that fills it, by the id of its log. Stable for ever.
    pub job: String,
    /// Identifies what the view computes: a table is filled by one computation only.
    pub fingerprint: String,
}

impl TableSpec {
    /// Who fills the table, in all generations of its content.
    pub(super) fn base_id(&self) -> String {
        base_id(&self.job, &self.name)
    }
}

/// See the module.
pub(super) struct Layout {
    pub(super) rows: SchemaRef,
    pub(super) stored: SchemaRef,
    pub(super) table: SchemaRef,
    pub(super) file: SchemaRef,
    pub(super) partition: Partition,
    /// Columns of `stored` to sort by.
    pub(super) sort: Vec<usize>,
}

/// Where a row's partition comes from, by index in `stored`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Partition {
    None,
    Day(usize),
    Column(usize),
}

impl Layout {
    /// Decides the layout, or says what cannot be a table, and what to do.
    pub(super) fn of(spec: &TableSpec) -> Result<Layout, String> {
        check_name(&spec.name)?;
        check_columns(&spec.schema)?;
        if spec.job.is_empty() || spec.job.contains('/') {
            return Err(format!("{:?} cannot be the id of the job that fills it", spec.job));
        }
        let find = |column: &str| {
            spec.schema.index_of(column).map_err(|_| {
                let known: Vec<&str> = spec.schema.fields().iter().map(|field| field.name().as_str()).collect();
                format!("there is no column {column:?}; there are {}", known.join(", "))
            })
        };
        let mut stored: Vec<Field> =
            spec.schema.fields().iter().map(|field| stored_field(field)).collect::<Result<_, String>>()?;
        let partition = match &spec.partition_by {
            Partitioning::None => Partition::None,
            Partitioning::Day(column) => Partition::Day(find(column)?),
            Partitioning::Column(column) => Partition::Column(find(column)?),
        };
        let mut table = stored.clone();
        match partition {
            Partition::None => {}
            Partition::Day(source) => {
                check_day_source(&stored[source])?;
                if spec.schema.fields().iter().any(|field| field.name().eq_ignore_ascii_case(DATE_COLUMN)) {
                    return Err(format!(
                        "partition_by day(…) adds a column {DATE_COLUMN}, and the view has one already: give that another name with AS"
                    ));
                }
                table.push(Field::new(DATE_COLUMN, DataType::Date32, true));
            }
            Partition::Column(column) => {
                check_partition_column(&stored[column], stored.len())?;
                if stored[column].data_type() == &DataType::Utf8View {
                    // An empty text comes back as null, so the column may have nulls whatever the view says.
                    stored[column] = stored[column].clone().with_nullable(true);
                    table[column] = stored[column].clone();
                }
            }
        }
        let partition_column = match partition {
            Partition::Column(column) => Some(column),
            Partition::None | Partition::Day(_) => None,
        };
        let mut file = stored.clone();
        if let Some(column) = partition_column {
            file.remove(column);
        }
        let mut sort = spec.sort.iter().map(|column| find(column)).collect::<Result<Vec<usize>, String>>()?;
        if let Some(column) = &spec.time_column {
            find(column)?;
        }
        // A nested column has no order, and the partition's column is the same in all rows of a file.
        sort.retain(|column| !stored[*column].data_type().is_nested() && partition_column != Some(*column));
        Ok(Layout {
            rows: Arc::clone(&spec.schema),
            stored: Arc::new(Schema::new(stored)),
            table: Arc::new(Schema::new(table)),
            file: Arc::new(Schema::new(file)),
            partition,
            sort,
        })
    }

    /// Returns the name of the partition column.
    pub(super) fn partition_column(&self) -> Option<&str> {
        match self.partition {
            Partition::None => None,
            Partition::Day(_) => Some(DATE_COLUMN),
            Partition::Column(column) => Some(self.stored.field(column).name()),
        }
    }

    /// Returns what partitioning was asked for, in the words of SQL.
    fn partition_words(&self) -> String {
        match self.partition_column() {
            None => "not partitioned".to_owned(),
            Some(column) => format!("partitioned by {column}"),
        }
    }

    /// Converts rows to the stored types.
    pub(super) fn store(&self, rows: &RecordBatch) -> Result<RecordBatch, String> {
        let same =
            rows.num_columns() == self.rows.fields().len()
                && rows.schema().fields().iter().zip(self.rows.fields()).all(|(found, expected)| {
                    found.name() == expected.name() && found.data_type() == expected.data_type()
                });
        if !same {
            return Err(format!("rows have the columns {}, not {}", describe(&rows.schema()), describe(&self.rows)));
        }
        let columns = rows.columns().iter().zip(self.stored.fields());
        let columns = columns
            .map(|(column, field)| {
                cast(column, field.data_type()).map_err(|error| format!("{}: {error}", field.name()))
            })
            .collect::<Result<Vec<ArrayRef>, String>>()?;
        RecordBatch::try_new(Arc::clone(&self.stored), columns).map_err(|error| error.to_string())
    }

    /// Returns the partition of each row of stored types; `None` without partitions.
    pub(super) fn partition_of(&self, rows: &RecordBatch) -> Option<ArrayRef> {
        match self.partition {
            Partition::None => None,
            Partition::Day(source) if rows.column(source).data_type() == &DataType::Date32 => {
                Some(Arc::clone(rows.column(source)))
            }
            Partition::Day(source) => {
                let times = rows.column(source).as_primitive::<TimestampMicrosecondType>();
                let days: Date32Array = times.iter().map(|time| time.and_then(day_of)).collect();
                Some(Arc::new(days))
            }
            Partition::Column(column) => {
                let values = rows.column(column);
                let Some(texts) = values.as_string_view_opt() else { return Some(Arc::clone(values)) };
                let empty = texts.iter().map(|text| Some(text == Some(""))).collect();
                Some(nullif(values, &empty).expect("the mask has a value for each row"))
            }
        }
    }

    /// Returns the columns of rows that go to the file.
    pub(super) fn file_rows(&self, rows: &RecordBatch) -> RecordBatch {
        let mut columns = rows.columns().to_vec();
        if let Partition::Column(column) = self.partition {
            columns.remove(column);
        }
        RecordBatch::try_new(Arc::clone(&self.file), columns).expect("stored rows less the partition column")
    }

    /// Compares a table's metadata with this layout: `None` if all fits, a sentence that says what was changed, or why
    /// the table must not be touched.
    pub(super) fn compare(&self, spec: &TableSpec, found: &MetaData) -> Result<Option<String>, String> {
        check_owner(&spec.base_id(), found)?;
        let schema = parse_schema(&found.schema_string)
            .map_err(|problem| format!("the table on disk cannot be read: {problem}"))?;
        let partition_columns: Vec<&str> = found.partition_columns.iter().map(String::as_str).collect();
        if partition_columns != Vec::from_iter(self.partition_column()) {
            let on_disk = match partition_columns.as_slice() {
                [] => "not partitioned".to_owned(),
                columns => format!("partitioned by {}", columns.join(", ")),
            };
            let wanted = self.partition_words();
            return Ok(Some(format!("the table on disk is {on_disk}, and the view wants it {wanted}")));
        }
        if let Some(difference) = difference(&schema, &self.table) {
            return Ok(Some(format!("the table on disk has other columns ({difference})")));
        }
        let same = setting(found, FINGERPRINT_KEY) == Some(&spec.fingerprint);
        Ok((!same).then(|| "the view was changed since this table was written".to_owned()))
    }

    /// Returns the metadata of a table with this content. `id` and `created_ms` never change.
    pub(super) fn metadata(&self, spec: &TableSpec, id: String, created_ms: Option<i64>, content: Content) -> MetaData {
        let base_id = spec.base_id();
        let interval = INTERVAL_VERSIONS.to_string();
        let settings = [
            // Checkpoints are made, and old versions will be removed, by this program alone: no other writer should
            // list the whole log at each of its commits.
            ("delta.checkpointInterval", interval.as_str()),
            ("delta.enableExpiredLogCleanup", "false"),
            ("delta.logRetentionDuration", "interval 1 days"),
            ("delta.deletedFileRetentionDuration", "interval 1 days"),
            (APP_ID_KEY, base_id.as_str()),
            (FINGERPRINT_KEY, spec.fingerprint.as_str()),
        ];
        let mut configuration = settings.map(|(key, value)| (key.to_owned(), Some(value.to_owned()))).into();
        content.describe_in(&mut configuration);
        MetaData {
            id,
            name: Some(spec.name.clone()),
            format: super::actions::Format { provider: "parquet".to_owned(), options: BTreeMap::new() },
            schema_string: schema_string(&self.table),
            partition_columns: self.partition_column().map(str::to_owned).into_iter().collect(),
            created_time: created_ms,
            configuration,
        }
    }
}

/// Refuses a table that another program or another job fills.
pub(super) fn check_owner(base_id: &str, found: &MetaData) -> Result<(), String> {
    match setting(found, APP_ID_KEY) {
        None => Err("the folder holds a table of another program: choose another name or location".to_owned()),
        Some(app_id) if app_id != base_id => Err(format!(
            "the table on disk is filled by {app_id}, and this is {base_id}: choose another name or location, or move the folder away"
        )),
        Some(_) => Ok(()),
    }
}

/// Refuses a name that could not be one folder's name, or would be hidden.
fn check_name(name: &str) -> Result<(), String> {
    let fits = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.starts_with(['.', '_'])
        && !name.contains(|c: char| c == '/' || c == '\\' || c.is_control());
    if fits {
        return Ok(());
    }
    Err(format!(
        "{name:?} cannot be a table's name: use 1 to {NAME_BYTES_MAX} bytes without / or \\ that do not begin with . or _"
    ))
}

fn check_columns(schema: &Schema) -> Result<(), String> {
    if schema.fields().is_empty() {
        return Err("it has no columns".to_owned());
    }
    let mut seen = BTreeMap::new();
    for field in schema.fields() {
        let name = field.name();
        if name.is_empty() || name.contains(COLUMN_NAME_FORBIDDEN) {
            return Err(format!("{name:?} cannot be a column's name in a table: name it with AS, such as \"AS n\""));
        }
        if let Some(other) = seen.insert(name.to_lowercase(), name) {
            return Err(format!(
                "columns {other} and {name} differ in case only, and many readers do not see that: name one with AS"
            ));
        }
    }
    Ok(())
}

fn check_day_source(field: &Field) -> Result<(), String> {
    match field.data_type() {
        DataType::Timestamp(..) | DataType::Date32 => Ok(()),
        other => Err(format!("partition_by day({}): it is {other}, not a time", field.name())),
    }
}

fn check_partition_column(field: &Field, columns: usize) -> Result<(), String> {
    let name = field.name();
    if columns == 1 {
        return Err(format!("it is partitioned by its only column {name}: there is nothing left for the files"));
    }
    match field.data_type() {
        DataType::Utf8View
        | DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Date32 => Ok(()),
        DataType::Timestamp(..) => Err(format!("it cannot be partitioned by the time {name}: write day({name})")),
        other => Err(format!("it cannot be partitioned by {name}, which is {other}")),
    }
}

/// Says how two schemas differ, for people.
fn difference(on_disk: &Schema, wanted: &Schema) -> Option<String> {
    let pairs = on_disk.fields().iter().zip(wanted.fields());
    for (disk, want) in pairs {
        if disk.name() != want.name() {
            return Some(format!("{} where the view has {}", disk.name(), want.name()));
        }
        if disk.data_type() != want.data_type() || disk.is_nullable() != want.is_nullable() {
            return Some(format!("{} where the view has {}", describe_field(disk), describe_field(want)));
        }
    }
    let (disk, want) = (on_disk.fields().len(), wanted.fields().len());
    (disk != want).then(|| format!("{disk} columns where the view has {want}"))
}

fn describe(schema: &Schema) -> String {
    schema.fields().iter().map(|field| describe_field(field)).collect::<Vec<_>>().join(", ")
}

fn describe_field(field: &Field) -> String {
    format!("{} {}{}", field.name(), field.data_type(), if field.is_nullable() { "" } else { " NOT NULL" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::TimeUnit;

    fn spec(columns: Vec<Field>, partition_by: Partitioning) -> TableSpec {
        TableSpec {
            name: "t".to_owned(),
            schema: Arc::new(Schema::new(columns)),
            partition_by,
            sort: Vec::new(),
            time_column: None,
            job: "job".to_owned(),
            fingerprint: "1".to_owned(),
        }
    }

    fn problem(columns: Vec<Field>, partition_by: Partitioning) -> String {
        Layout::of(&spec(columns, partition_by)).err().expect("a layout that cannot be")
    }

    fn ts() -> Field {
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false)
    }

    #[test]
    fn names_that_leave_the_folder_or_hide_are_refused() {
        for name in ["", "..", "../x", "a/b", "a\\b", "/etc", ".hidden", "_delta_log", "a\0b", "a\nb"] {
            let error = Layout::of(&TableSpec { name: name.to_owned(), ..spec(vec![ts()], Partitioning::None) });
            assert!(error.err().unwrap_or_default().contains("cannot be a table's name"), "{name:?}");
        }
        for name in ["readings$dead", "room_1m$late", "Größe 1", "a..b"] {
            assert_eq!(check_name(name), Ok(()));
        }
    }

    #[test]
    fn partitioning_that_cannot_be_says_what_to_write() {
        let value = || Field::new("v", DataType::Float64, true);
        let date = || Field::new("Date", DataType::Date32, true);
        for (columns, partition_by, words) in [
            (vec![ts(), value()], Partitioning::Column("ts".to_owned()), "write day(ts)"),
            (vec![ts(), value()], Partitioning::Column("v".to_owned()), "which is Float64"),
            (vec![ts(), value()], Partitioning::Day("v".to_owned()), "not a time"),
            (vec![ts(), value()], Partitioning::Day("x".to_owned()), "there is no column \"x\"; there are ts, v"),
            (vec![ts(), date()], Partitioning::Day("ts".to_owned()), "another name with AS"),
            (vec![date()], Partitioning::Column("Date".to_owned()), "only column"),
        ] {
            let problem = problem(columns, partition_by);
            assert!(problem.contains(words), "{problem}");
        }
    }

    #[test]
    fn column_names_that_other_engines_refuse_are_refused() {
        let error = problem(vec![ts(), Field::new("count(*)", DataType::Int64, false)], Partitioning::None);
        assert_eq!(error, "\"count(*)\" cannot be a column's name in a table: name it with AS, such as \"AS n\"");
        let twice = vec![Field::new("a", DataType::Int64, false), Field::new("A", DataType::Int64, false)];
        assert!(problem(twice, Partitioning::None).contains("differ in case only"));
    }
}
