//! Rows of an outbox as lines: JSON objects as they are, or CSV made of them.
//!
//! What lies in an outbox of text is always a JSON object for each row, whatever the option `format` says: so rows that wait
//! can still be delivered when the option has changed.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::de::{DeserializeOwned, IgnoredAny};

use crate::outbox::Row;

/// Writes rows one behind the other, each with a line break.
pub(super) fn ndjson<'a>(rows: impl IntoIterator<Item = &'a Row>, out: &mut Vec<u8>) {
    for row in rows {
        out.extend_from_slice(&row.payload);
        out.push(b'\n');
    }
}

/// Writes rows as one JSON array.
pub(super) fn array<'a>(rows: impl IntoIterator<Item = &'a Row>, out: &mut Vec<u8>) {
    out.push(b'[');
    for (at, row) in rows.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&row.payload);
    }
    out.push(b']');
}

/// Writes the line of the names of columns.
pub(super) fn csv_head(columns: &[String], out: &mut Vec<u8>) {
    let names = columns.iter().map(|name| Some(Cow::Borrowed(name.as_str())));
    csv_line(names, out);
}

/// Writes rows as lines of CSV (RFC 4180): NULL is nothing, a text without letters is `""`.
///
/// # Errors
/// If a row is no JSON object.
pub(super) fn csv<'a>(
    rows: impl IntoIterator<Item = &'a Row>,
    columns: &[String],
    out: &mut Vec<u8>,
) -> Result<(), String> {
    for row in rows {
        let values =
            values_of(&row.payload).map_err(|error| format!("row {} is no JSON object: {error}", row.number))?;
        csv_line(columns.iter().map(|name| values.get(name.as_str()).and_then(|value| text(value))), out);
    }
    Ok(())
}

/// Returns the values of a JSON object by their names, each as it is written: a number keeps its digits. (The type that
/// `serde_json` has for this is a feature of it, with which all of Arrow and DataFusion would be built once more.)
fn values_of(object: &[u8]) -> Result<BTreeMap<String, &str>, String> {
    let object = std::str::from_utf8(object).map_err(|error| error.to_string())?;
    let mut rest = object.trim().strip_prefix('{').ok_or("it does not begin with {")?.trim_start();
    let mut values = BTreeMap::new();
    while !rest.starts_with('}') {
        let (name, behind) = first::<String>(rest)?;
        let value = behind.trim_start().strip_prefix(':').ok_or("a name without a value")?.trim_start();
        let (_, behind) = first::<IgnoredAny>(value)?;
        values.insert(name, &value[..value.len() - behind.len()]);
        rest = behind.trim_start();
        rest = match rest.strip_prefix(',') {
            Some(next) => next.trim_start(),
            None if rest.starts_with('}') => rest,
            None => return Err("it does not end with }".to_owned()),
        };
    }
    Ok(values)
}

/// Reads the first JSON value of a text; returns it and what stands behind it.
fn first<T: DeserializeOwned>(text: &str) -> Result<(T, &str), String> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<T>();
    let value = values.next().ok_or("it ends too early")?.map_err(|error| error.to_string())?;
    Ok((value, &text[values.byte_offset()..]))
}

/// Returns a value as text; `None` for `null`.
fn text(raw: &str) -> Option<Cow<'_, str>> {
    match raw.as_bytes().first() {
        Some(b'n') => None,
        // The text itself; numbers, truths, lists and objects as JSON has them.
        Some(b'"') => Some(serde_json::from_str::<String>(raw).map_or(Cow::Borrowed(raw), Cow::Owned)),
        _ => Some(Cow::Borrowed(raw)),
    }
}

fn csv_line<'a>(fields: impl Iterator<Item = Option<Cow<'a, str>>>, out: &mut Vec<u8>) {
    for (at, field) in fields.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        let Some(field) = field else { continue };
        if field.is_empty() || field.contains([',', '"', '\n', '\r']) {
            out.push(b'"');
            out.extend_from_slice(field.replace('"', "\"\"").as_bytes());
            out.push(b'"');
        } else {
            out.extend_from_slice(field.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(payloads: &[&str]) -> Vec<Row> {
        let row = |(number, payload): (u64, &&str)| Row { number, key: "".into(), payload: payload.to_string().into() };
        (0..).zip(payloads).map(row).collect()
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn objects_stay_as_they_are_on_lines_and_in_an_array() {
        let rows = rows(&[r#"{"n":1}"#, r#"{"n":null}"#]);
        assert_eq!(written(|out| ndjson(&rows, out)), "{\"n\":1}\n{\"n\":null}\n");
        assert_eq!(written(|out| array(&rows, out)), r#"[{"n":1},{"n":null}]"#);
        assert_eq!(written(|out| array([], out)), "[]");
    }

    #[test]
    fn csv_has_a_field_for_each_column_and_quotes_what_must_be() {
        let columns = ["n".to_owned(), "a,b".to_owned(), "list".to_owned()];
        let rows = rows(&[
            r#"{"n":12345678901234567890,"a,b":"x \"y\"\nz","list":[1,{"q":"r"}]}"#,
            r#"{"list":null,"a,b":"","n":-1.5e300}"#,
            r#"{"unknown":1}"#,
        ]);
        assert_eq!(written(|out| csv_head(&columns, out)), "n,\"a,b\",list\r\n");
        assert_eq!(
            written(|out| csv(&rows, &columns, out).expect("objects")),
            "12345678901234567890,\"x \"\"y\"\"\nz\",\"[1,{\"\"q\"\":\"\"r\"\"}]\"\r\n-1.5e300,\"\",\r\n,,\r\n"
        );
        let problem = csv(&self::rows(&["[1]"]), &columns, &mut Vec::new()).expect_err("no object");
        assert!(problem.starts_with("row 0 is no JSON object"), "{problem}");
    }
}
