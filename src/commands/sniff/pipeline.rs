//! What was inferred, as a pipeline file.

use std::fmt::Write as _;

use tidemill_queries::name_in_sql;

use super::columns::{Column, Columns};

/// Columns whose average, least and greatest value the first view has: more than these is for its reader to say.
const MEASURES_MAX: usize = 8;
/// Text columns of the payload that the first view groups by, where the topic says nothing.
const KEYS_MAX: usize = 2;
/// Letters of a line of comments.
const COMMENT_CHARS_MAX: usize = 110;
/// Names of what readings are of.
const KEY_NAMES: [&str; 14] = [
    "device",
    "device_id",
    "deviceid",
    "sensor",
    "sensor_id",
    "sensorid",
    "machine",
    "machine_id",
    "node",
    "host",
    "station",
    "site",
    "id",
    "name",
];

/// A source and its first view, before they are written.
#[derive(Clone, Debug, Default)]
pub(super) struct Draft {
    /// What the reader should know, a comment each.
    pub(super) notes: Vec<String>,
    /// The columns of the payload.
    pub(super) columns: Columns,
    /// The columns that the topic adds.
    pub(super) levels: Vec<String>,
    /// The delay of the watermark.
    pub(super) delay: &'static str,
    /// Keys, values as SQL has them, and remarks of `WITH`.
    pub(super) options: Vec<(&'static str, String, Option<String>)>,
}

/// Writes text as SQL has it.
pub(super) fn text_in_sql(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Makes of any text one that cannot end a comment.
pub(super) fn in_comment(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

/// Writes a note as a comment of one or more lines.
pub(super) fn comment(note: &str) -> String {
    let (mut text, mut line) = (String::new(), "--".to_owned());
    for word in in_comment(note).split(' ') {
        if line.chars().count() + word.chars().count() >= COMMENT_CHARS_MAX {
            text += &(line + "\n");
            line = "--  ".to_owned();
        }
        line.push(' ');
        line += word;
    }
    text + &line + "\n"
}

impl Draft {
    /// Writes the pipeline.
    pub(super) fn to_sql(&self) -> String {
        let mut sql: String = self.notes.iter().map(|note| comment(note)).collect();
        sql.push('\n');
        self.write_source(&mut sql);
        sql.push('\n');
        self.write_view(&mut sql);
        sql
    }

    /// Returns a name that no column has.
    fn free_name(&self, wanted: &str) -> String {
        let is_taken = |name: &str| {
            let mut names = self.columns.columns.iter().map(|column| &column.name).chain(&self.levels);
            names.any(|known| known.eq_ignore_ascii_case(name))
        };
        let mut name = wanted.to_owned();
        while is_taken(&name) {
            name = format!("{name}_");
        }
        name
    }

    /// Returns the name of the event time, which is the arrival where no field is one.
    fn time(&self) -> String {
        name_in_sql(&self.columns.time.clone().unwrap_or_else(|| self.free_name("arrival_time")))
    }

    fn write_source(&self, sql: &mut String) {
        let mut lines: Vec<(String, String, Option<String>)> = Vec::new();
        for Column { name, data_type, is_never_null, remark, .. } in &self.columns.columns {
            let null = if *is_never_null { " NOT NULL" } else { "" };
            lines.push((name_in_sql(name), format!("{data_type}{null}"), remark.clone()));
        }
        let time = self.time();
        if self.columns.time.is_none() {
            let remark = "no field is a time in every reading".to_owned();
            lines.push((time.clone(), "TIMESTAMP METADATA FROM 'arrival_time'".to_owned(), Some(remark)));
        }
        let width = width_of(lines.iter().map(|(name, ..)| name));
        let mut written: Vec<(String, Option<String>)> =
            lines.into_iter().map(|(name, data_type, remark)| (format!("{name:width$} {data_type}"), remark)).collect();
        written.push((format!("WATERMARK FOR {time} AS {time} - INTERVAL '{}'", self.delay), None));
        sql.push_str("CREATE SOURCE readings (\n");
        for (name, why) in &self.columns.left {
            let _ = writeln!(sql, "    -- {}: {}", in_comment(name), in_comment(why));
        }
        write_list(sql, &written);
        sql.push_str(") WITH (\n");
        let width = width_of(self.options.iter().map(|(key, ..)| key));
        let unit = self.columns.time_unit.map(|unit| ("time_unit", text_in_sql(unit), None));
        let options = self.options.iter().cloned().chain(unit);
        let written: Vec<(String, Option<String>)> =
            options.map(|(key, value, remark)| (format!("{key:width$} = {value}"), remark)).collect();
        write_list(sql, &written);
        sql.push_str(");\n");
    }

    fn write_view(&self, sql: &mut String) {
        let is_window = |name: &str| ["window_start", "window_end"].contains(&name.to_lowercase().as_str());
        let keys = self.keys();
        let measures = self.columns.columns.iter().filter(|column| {
            // What a DOUBLE could not hold is a number of something, and no measurement.
            column.data_type == "DOUBLE" && !is_id(&column.name) && !is_window(&column.name)
        });
        let mut names: Vec<String> = keys.to_vec();
        let mut named = |wanted: String| {
            let mut name = wanted;
            while is_window(&name) || names.iter().any(|known| known.eq_ignore_ascii_case(&name)) {
                name.push('_');
            }
            names.push(name.clone());
            name_in_sql(&name)
        };
        let mut items = vec![("count(*)".to_owned(), named("n".to_owned()))];
        for column in measures.take(MEASURES_MAX) {
            let name = name_in_sql(&column.name);
            for call in ["avg", "min", "max"] {
                items.push((format!("{call}({name})"), named(format!("{}_{call}", column.name))));
            }
        }
        let width = width_of(items.iter().map(|(call, _)| call));
        let items: Vec<String> = items.iter().map(|(call, name)| format!("       {call:width$} AS {name}")).collect();
        let keys: Vec<String> = keys.iter().map(|key| name_in_sql(key)).collect();
        let group: Vec<String> = keys.into_iter().chain(["window_start", "window_end"].map(str::to_owned)).collect();
        let group = group.join(", ");
        let _ = write!(
            sql,
            "CREATE MATERIALIZED VIEW readings_1m AS\nSELECT {group},\n{}\n\
             FROM   TUMBLE(readings, {}, INTERVAL '1 minute')\nGROUP  BY {group};\n",
            items.join(",\n"),
            self.time(),
        );
    }

    /// Chooses what the first view groups by: the levels of the topic, or what looks like the name of a device.
    fn keys(&self) -> Vec<String> {
        if !self.levels.is_empty() {
            return self.levels.clone();
        }
        let columns = &self.columns;
        let is_text = |column: &&Column| {
            let is_window = ["window_start", "window_end"].contains(&column.name.to_lowercase().as_str());
            column.data_type == "TEXT" && column.is_never_null && !is_window
        };
        let texts: Vec<&Column> = columns.columns.iter().filter(is_text).collect();
        let known = |name: &&&str| texts.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        let named: Vec<&Column> = KEY_NAMES
            .iter()
            .filter(known)
            .filter_map(|name| texts.iter().find(|column| column.name.eq_ignore_ascii_case(name)).copied())
            .collect();
        let few =
            texts.iter().copied().filter(|column| column.distinct > 1 && column.distinct * 2 <= columns.row_count);
        let chosen: Vec<&Column> = if named.is_empty() { few.take(1).collect() } else { named };
        chosen.into_iter().take(KEYS_MAX).map(|column| column.name.clone()).collect()
    }
}

/// Whether a number names something rather than measures it.
fn is_id(name: &str) -> bool {
    name.eq_ignore_ascii_case("id") || ["_id", "-id", "Id", "ID"].iter().any(|end| name.ends_with(end))
}

fn width_of(names: impl Iterator<Item = impl AsRef<str>>) -> usize {
    /// A longer name stands out of its column rather than push all others away.
    const WIDTH_MAX: usize = 32;
    names.map(|name| name.as_ref().chars().count()).filter(|width| *width <= WIDTH_MAX).max().unwrap_or(0)
}

/// Writes lines with commas between them, and remarks in a column of their own.
fn write_list(sql: &mut String, lines: &[(String, Option<String>)]) {
    let width = lines.iter().filter(|(_, remark)| remark.is_some()).map(|(line, _)| line.chars().count() + 1);
    let width = width.max().unwrap_or(0);
    for (place, (line, remark)) in lines.iter().enumerate() {
        let line = format!("{line}{}", if place + 1 < lines.len() { "," } else { "" });
        let _ = match remark {
            Some(remark) => writeln!(sql, "    {line:width$}  -- {}", in_comment(remark)),
            None => writeln!(sql, "    {line}"),
        };
    }
}
