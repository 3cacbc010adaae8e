//! CSV as the inference knows rows: as JSON objects, a value being a number or a truth if it is written as one.

use std::fmt::Write as _;

use serde_json::Value;

/// Rows that are looked at.
const ROWS_MAX: usize = 10_000;

/// Turns CSV with a line of names into lines of JSON.
pub(super) fn csv_as_json(body: &[u8], delimiter: u8) -> String {
    let text = String::from_utf8_lossy(body);
    let mut records = records(text.trim_start_matches('\u{feff}'), char::from(delimiter));
    let names = records.next().unwrap_or_default();
    let mut lines = String::new();
    for record in records.filter(|record| record.iter().any(|field| !field.is_empty())).take(ROWS_MAX) {
        let members: serde_json::Map<String, Value> =
            names.iter().cloned().zip(record.into_iter().map(value)).collect();
        let _ = writeln!(lines, "{}", Value::Object(members));
    }
    lines
}

fn value(field: String) -> Value {
    match field.as_str() {
        "" => Value::Null,
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        text => match serde_json::from_str::<Value>(text) {
            Ok(number @ Value::Number(_)) => number,
            _ => Value::String(field),
        },
    }
}

/// Splits in records and fields, as RFC 4180 has it.
fn records(text: &str, delimiter: char) -> impl Iterator<Item = Vec<String>> + '_ {
    let mut letters = text.chars().peekable();
    std::iter::from_fn(move || {
        letters.peek()?;
        let (mut record, mut field, mut is_quoted) = (Vec::new(), String::new(), false);
        while let Some(letter) = letters.next() {
            match letter {
                '"' if is_quoted && letters.peek() == Some(&'"') => field.extend(letters.next()),
                '"' if is_quoted => is_quoted = false,
                '"' if field.is_empty() => is_quoted = true,
                '\n' if !is_quoted => break,
                '\r' if !is_quoted && letters.peek() == Some(&'\n') => {}
                _ if letter == delimiter && !is_quoted => record.push(std::mem::take(&mut field)),
                _ => field.push(letter),
            }
        }
        record.push(field);
        Some(record)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_become_what_they_are_written_as() {
        let csv = "a;b;\"c;d\"\r\n1.50;true;\"x \"\"y\"\"\nz\"\r\n;;\r\n-2;no;007\n";
        let expected = "{\"a\":1.5,\"b\":true,\"c;d\":\"x \\\"y\\\"\\nz\"}\n{\"a\":-2,\"b\":\"no\",\"c;d\":\"007\"}\n";
        assert_eq!(csv_as_json(csv.as_bytes(), b';'), expected);
        assert_eq!(csv_as_json(b"a,b\n", b','), "");
        assert_eq!(csv_as_json(b"", b','), "");
    }
}
