//! Where rows begin and end inside a message, without reading them.

use std::ops::Range;

use memchr::{memchr, memchr2};

/// Levels of nesting that a JSON row may have. Readers downstream may recurse; telemetry has two or three.
pub(super) const JSON_LEVELS_MAX: usize = 64;

/// What some programs write in front of UTF-8; RFC 8259 lets readers of JSON pass it over.
const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// The place of a row: in which message, and between which bytes of its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) message: u32,
    pub(super) start: u32,
    pub(super) end: u32,
}

/// Splits a JSON message in rows: the elements of an array; or a single object, which may span lines; or lines.
/// Blank lines are no rows, and a mark of UTF-8 in front of all, as some editors write it, is no part of one. What has no such structure is one row, and its reader will say what is wrong with it.
pub(crate) fn split_json(payload: &[u8], mut row: impl FnMut(Range<usize>)) {
    let mark = if payload.starts_with(UTF8_MARK) { UTF8_MARK.len() } else { 0 };
    let whole = trim(payload, mark..payload.len());
    let text = &payload[whole.clone()];
    if text.first() == Some(&b'[') {
        // Looked through twice, because a list of millions of tiny elements would take more memory than the message.
        let mut element_count = 0usize;
        if for_each_element(text, |_| element_count += 1) && element_count > 0 {
            for_each_element(text, |element| row(trim(payload, shift(element, whole.start))));
        } else {
            row(whole);
        }
        return;
    }
    let Some(first_line_end) = memchr(b'\n', text) else { return row(whole) };
    let is_pretty_printed = text.first() == Some(&b'{')
        && value_end(&text[..first_line_end]).is_none()
        && value_end(text) == Some(text.len());
    if is_pretty_printed {
        return row(whole);
    }
    let mut start = whole.start;
    while start < whole.end {
        let end = memchr(b'\n', &payload[start..whole.end]).map_or(whole.end, |length| start + length);
        let line = trim(payload, start..end);
        if !line.is_empty() {
            row(line);
        }
        start = end + 1;
    }
}

/// Splits text in lines, without their ends. An empty line is a row; what stands behind the last line end, if anything, is one too.
pub(crate) fn split_lines(payload: &[u8], mut row: impl FnMut(Range<usize>)) {
    let mut start = 0;
    while start < payload.len() {
        let line_end = memchr(b'\n', &payload[start..]).map_or(payload.len(), |length| start + length);
        let is_return = payload[start..line_end].last() == Some(&b'\r');
        row(start..line_end - usize::from(is_return));
        start = line_end + 1;
    }
}

/// Splits CSV in records, the header included. A line end inside quotes is part of a field. Blank lines are no rows.
pub(crate) fn split_csv(payload: &[u8], delimiter: u8, mut row: impl FnMut(Range<usize>)) {
    let mut start = 0;
    while start < payload.len() {
        let end = csv_record_end(&payload[start..], delimiter).map_or(payload.len(), |length| start + length);
        let mut record = start..end;
        if payload[record.clone()].last() == Some(&b'\r') {
            record.end -= 1;
        }
        if !payload[record.clone()].trim_ascii().is_empty() {
            row(record);
        }
        start = end + 1;
    }
}

/// Returns the length of the first record: up to its line end, which is not inside quotes. A quote opens a quoted field
/// only at its beginning: `5" pipe` is a field without quotes.
pub(crate) fn csv_record_end(text: &[u8], delimiter: u8) -> Option<usize> {
    let mut at = 0;
    let mut quoted = false;
    while let Some(found) = memchr2(b'"', b'\n', &text[at..]) {
        at += found;
        match text[at] {
            b'"' if quoted => quoted = false,
            // A quote behind a quote was an escaped one: the field goes on.
            b'"' => quoted = at == 0 || text[at - 1] == delimiter || text[at - 1] == b'"' || text[at - 1] == b'\n',
            _ if !quoted => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Splits a CSV record in fields, with quotes removed.
pub(super) fn csv_fields(record: &str, delimiter: u8) -> Vec<String> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    let mut characters = record.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => field.extend(characters.next()),
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            _ if !quoted && character == char::from(delimiter) => fields.push(std::mem::take(&mut field)),
            _ => field.push(character),
        }
    }
    fields.push(field);
    fields
}

/// Says whether a JSON row nests too deep. Most rows have too few brackets to do so, which is found out quickly.
pub(super) fn is_nested_too_deep(row: &[u8]) -> bool {
    let openings: usize = row.iter().map(|byte| usize::from(byte | 0x20 == b'{')).sum();
    if openings <= JSON_LEVELS_MAX {
        return false;
    }
    let mut levels = 0usize;
    let mut at = 0;
    while at < row.len() {
        match row[at] {
            b'"' => at += string_length(&row[at..]) - 1,
            b'{' | b'[' => levels += 1,
            b'}' | b']' => levels = levels.saturating_sub(1),
            _ => {}
        }
        if levels > JSON_LEVELS_MAX {
            return true;
        }
        at += 1;
    }
    false
}

/// Returns where `part`, which was cut from `whole`, begins in it.
pub(crate) fn offset_in(whole: &[u8], part: &[u8]) -> Option<usize> {
    let offset = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    (offset + part.len() <= whole.len()).then_some(offset)
}

pub(super) fn trim(payload: &[u8], range: Range<usize>) -> Range<usize> {
    let text = &payload[range.clone()];
    let start = range.start + (text.len() - text.trim_ascii_start().len());
    let end = range.end - (text.len() - text.trim_ascii_end().len());
    start..end.max(start)
}

fn shift(range: Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}

/// Visits the elements of an array that begins and ends `text`; returns whether its brackets fit.
fn for_each_element(text: &[u8], mut element: impl FnMut(Range<usize>)) -> bool {
    let mut levels = 0usize;
    let (mut start, mut at) = (1, 1);
    while at < text.len() {
        match text[at] {
            b'"' => at += string_length(&text[at..]) - 1,
            b'{' | b'[' => levels += 1,
            b']' if levels == 0 => {
                let is_empty = start == 1 && text[start..at].trim_ascii().is_empty();
                if !is_empty {
                    element(start..at);
                }
                return at + 1 == text.len();
            }
            b'}' if levels == 0 => return false,
            b'}' | b']' => levels -= 1,
            b',' if levels == 0 => {
                element(start..at);
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    false
}

/// Returns the length of the object that begins `text`, if it is complete.
fn value_end(text: &[u8]) -> Option<usize> {
    let mut levels = 0usize;
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'"' => at += string_length(&text[at..]) - 1,
            b'{' | b'[' => levels += 1,
            b'}' | b']' => {
                levels = levels.checked_sub(1)?;
                if levels == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// Returns the length of the JSON value that begins `text`, of whatever type; all of `text` if it is not complete.
pub(crate) fn value_length(text: &[u8]) -> usize {
    match text.first() {
        Some(b'"') => string_length(text),
        Some(b'{' | b'[') => value_end(text).unwrap_or(text.len()),
        _ => {
            let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace();
            text.iter().position(is_end).unwrap_or(text.len())
        }
    }
}

/// Returns the length of the string that begins `text` with its quotes; all of `text` if it is not complete.
fn string_length(text: &[u8]) -> usize {
    let mut at = 1;
    while let Some(found) = memchr2(b'"', b'\\', text.get(at..).unwrap_or_default()) {
        at += found;
        if text[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(payload: &str) -> Vec<&str> {
        let mut rows = Vec::new();
        split_json(payload.as_bytes(), |range| rows.push(&payload[range]));
        rows
    }

    #[test]
    fn json_rows_are_lines_elements_or_one_object() {
        assert_eq!(json(r#"{"a":1}"#), [r#"{"a":1}"#]);
        assert_eq!(json("{\"a\":1}\r\n\n {\"a\":2}\n"), [r#"{"a":1}"#, r#"{"a":2}"#]);
        assert_eq!(json(" [ {\"a\":\"],\"} , {\"a\":[1,2]} ] "), [r#"{"a":"],"}"#, r#"{"a":[1,2]}"#]);
        assert_eq!(json("{\n \"a\": 1\n}\n"), ["{\n \"a\": 1\n}"]);
        assert_eq!(json(""), [""]);
    }

    #[test]
    fn a_mark_of_utf_8_in_front_of_json_is_passed_over() {
        assert_eq!(json("\u{feff}{\"a\":1}\n{\"a\":2}"), ["{\"a\":1}", "{\"a\":2}"]);
        assert_eq!(json("\u{feff} [{\"a\":1}, {}]"), ["{\"a\":1}", "{}"]);
        assert_eq!(json("{}\n\u{feff}{}"), ["{}", "\u{feff}{}"], "only in front of all");
        assert_eq!(json("\u{feff}"), [""]);
    }

    #[test]
    fn broken_json_is_split_where_damage_is_least() {
        assert_eq!(json("{\"a\":1\n{\"b\":2}\n{\"c\":3}"), ["{\"a\":1", "{\"b\":2}", "{\"c\":3}"]);
        assert_eq!(json("[{\"a\":1},{\"a\""), ["[{\"a\":1},{\"a\""]);
        assert_eq!(json("[]"), ["[]"]);
        assert_eq!(json("[1,]"), ["1", ""]);
        assert_eq!(json("\"\\"), ["\"\\"]);
    }

    #[test]
    fn csv_records_keep_quoted_line_ends() {
        let payload = "a,b\r\n1,\"x\ny\"\n\n2,z";
        let mut rows = Vec::new();
        split_csv(payload.as_bytes(), b',', |range| rows.push(&payload[range]));
        assert_eq!(rows, ["a,b", "1,\"x\ny\"", "2,z"]);
        assert_eq!(csv_record_end(b"5\" pipe,1\n6,2", b','), Some(9));
        assert_eq!(csv_fields("5\" pipe,1", b','), ["5\" pipe", "1"]);
        assert_eq!(csv_fields("1,\"x,\"\"y\"\"\",", b','), ["1", "x,\"y\"", ""]);
    }

    #[test]
    fn nesting_is_counted_outside_of_strings() {
        assert!(!is_nested_too_deep(format!("{{\"a\":\"{}\"}}", "[".repeat(100)).as_bytes()));
        assert!(is_nested_too_deep("[".repeat(65).as_bytes()));
        assert!(!is_nested_too_deep("[]".repeat(100).as_bytes()));
    }
}
