//! The text of an event stream, as the WHATWG's HTML standard reads it (§9.2.6).
//!
//! ```text
//!   : a comment, which keeps the connection alive
//!   event: price          the type; `message` without it
//!   id: 4711              what a client names when it comes back, until another id
//!   data: {"a":1,         several lines are joined by line feeds
//!   data:  "b":2}
//!                         a blank line ends the event; without data it is none, but its id counts
//! ```
//!
//! Lines end with CR, LF or both; a byte order mark in front is no part of the first. What the stream ends in the middle of is dropped.
//! An event of more than [`EVENT_BYTES_MAX`] bytes is left out and told, its id counts.

use std::time::Duration;

use bytes::Bytes;
use memchr::{memchr, memchr2};

use crate::format::BYTE_ORDER_MARK;

/// Bytes of one event's data, and of one line.
pub const EVENT_BYTES_MAX: usize = 1 << 20;
/// Bytes of an id: it must fit into a header of a request.
pub(super) const ID_BYTES_MAX: usize = 2 << 10;
/// Bytes of an event's type.
const KIND_BYTES_MAX: usize = 1 << 10;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Its type; `message` where the stream names none.
    pub(super) kind: Bytes,
    /// Its data, lines joined by line feeds.
    pub(super) data: Bytes,
    /// The id that counts from here on; empty: none.
    pub(super) id: Bytes,
}

/// What a stream says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// An event.
    Event(Event),
    /// An event without data has changed the id.
    Id(Bytes),
    /// How long to wait before coming back.
    Retry(Duration),
    /// An event was too big, and is left out; this id counts from here on.
    TooBig(Bytes),
    /// An id that no header can carry, or that is too long; the one before goes on to count.
    BadId,
}

/// Reads a stream piece by piece.
pub(super) struct Parser {
    /// What may stand before the first line: the mark, as far as it was seen.
    mark: Option<usize>,
    /// The line that is not at its end.
    line: Vec<u8>,
    /// Whether that line is too long: what has come of it is thrown away.
    line_is_too_long: bool,
    /// Whether the last byte was a CR: a LF behind it is of the same line end.
    after_return: bool,
    kind: Vec<u8>,
    data: Vec<u8>,
    is_too_big: bool,
    /// The id of the block that is read.
    id: Bytes,
    /// The id of the last block that ended.
    last_id: Bytes,
}

impl Parser {
    /// Begins a stream; until it says otherwise, `id` counts.
    pub(super) fn new(id: Bytes) -> Parser {
        Parser {
            mark: Some(0),
            line: Vec::new(),
            line_is_too_long: false,
            after_return: false,
            kind: Vec::new(),
            data: Vec::new(),
            is_too_big: false,
            id: id.clone(),
            last_id: id,
        }
    }

    /// Reads on.
    pub(super) fn read(&mut self, bytes: &[u8], said: &mut Vec<Said>) {
        let mut rest = self.without_mark(bytes);
        while !rest.is_empty() {
            if std::mem::take(&mut self.after_return) && rest[0] == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let Some(end) = memchr2(b'\r', b'\n', rest) else {
                self.keep(rest);
                return;
            };
            self.after_return = rest[end] == b'\r';
            if self.line.is_empty() && !self.line_is_too_long && end <= EVENT_BYTES_MAX {
                self.take_line(&rest[..end], said);
            } else {
                self.keep(&rest[..end]);
                let mut line = std::mem::take(&mut self.line);
                match std::mem::take(&mut self.line_is_too_long) {
                    true => self.is_too_big = true,
                    false => self.take_line(&line, said),
                }
                // One allocation serves all lines that come in pieces.
                line.clear();
                self.line = line;
            }
            rest = &rest[end + 1..];
        }
    }

    /// Skips the byte order mark. What only begins like one is put back: it is the first line's.
    fn without_mark<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let Some(seen) = self.mark else { return bytes };
        let expected = &BYTE_ORDER_MARK[seen..];
        let same = bytes.iter().zip(expected).take_while(|(byte, expected)| byte == expected).count();
        if same == expected.len() {
            self.mark = None;
            &bytes[same..]
        } else if same == bytes.len() {
            self.mark = Some(seen + same);
            &[]
        } else {
            self.mark = None;
            self.line.extend_from_slice(&BYTE_ORDER_MARK[..seen]);
            bytes
        }
    }

    /// Keeps a part of a line.
    fn keep(&mut self, part: &[u8]) {
        if self.line.len() + part.len() > EVENT_BYTES_MAX {
            self.line_is_too_long = true;
        }
        match self.line_is_too_long {
            true => self.line.clear(),
            false => self.line.extend_from_slice(part),
        }
    }

    fn take_line(&mut self, line: &[u8], said: &mut Vec<Said>) {
        if line.is_empty() {
            return self.end_event(said);
        }
        let (field, value) = match memchr(b':', line) {
            Some(0) => return,
            Some(colon) => (&line[..colon], line[colon + 1..].strip_prefix(b" ").unwrap_or(&line[colon + 1..])),
            None => (line, &b""[..]),
        };
        match field {
            b"data" if self.data.len() + value.len() + 1 > EVENT_BYTES_MAX => {
                self.is_too_big = true;
                self.data = Vec::new();
            }
            b"data" if !self.is_too_big => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"event" if value.len() <= KIND_BYTES_MAX => {
                self.kind.clear();
                self.kind.extend_from_slice(value);
            }
            b"event" => self.is_too_big = true,
            // The standard: an id with a NUL is not one.
            b"id" if value.contains(&0) => {}
            b"id" if value.len() > ID_BYTES_MAX || value.iter().any(|byte| is_control(*byte)) => said.push(Said::BadId),
            b"id" => self.id = Bytes::copy_from_slice(value),
            b"retry" => said.extend(parse_retry(value).map(Said::Retry)),
            _ => {}
        }
    }

    fn end_event(&mut self, said: &mut Vec<Said>) {
        let id_has_changed = self.id != self.last_id;
        self.last_id = self.id.clone();
        let mut data = std::mem::take(&mut self.data);
        let kind = std::mem::take(&mut self.kind);
        if std::mem::take(&mut self.is_too_big) {
            said.push(Said::TooBig(self.id.clone()));
        } else if data.pop().is_some() {
            let kind = if kind.is_empty() { Bytes::from_static(b"message") } else { Bytes::from(kind) };
            said.push(Said::Event(Event { kind, data: Bytes::from(data), id: self.id.clone() }));
        } else if id_has_changed {
            said.push(Said::Id(self.id.clone()));
        }
    }
}

/// What no value of a header may hold.
fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

fn parse_retry(value: &[u8]) -> Option<Duration> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| is_number)?;
    // More digits than a number holds are longer than anybody waits.
    Some(Duration::from_millis(text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use tidemill_engine::testing::fuzz::fuzz;

    use super::*;

    fn parse_in(pieces: &[&[u8]]) -> Vec<Said> {
        let (mut parser, mut said) = (Parser::new(Bytes::new()), Vec::new());
        pieces.iter().for_each(|piece| parser.read(piece, &mut said));
        said
    }

    /// Each item as one line: type, data, id.
    fn parse(text: &str) -> Vec<String> {
        let shown = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let words = |said| match said {
            Said::Event(Event { kind, data, id }) => format!("{:?} {:?} {:?}", shown(&kind), shown(&data), shown(&id)),
            Said::Id(id) => format!("Id({:?})", shown(&id)),
            Said::TooBig(id) => format!("TooBig({:?})", shown(&id)),
            other => format!("{other:?}"),
        };
        parse_in(&[text.as_bytes()]).into_iter().map(words).collect()
    }

    #[test]
    fn the_examples_of_the_standard_are_read_as_it_says() {
        let stocks = "data: YHOO\ndata: +2\ndata: 10\n\n";
        assert_eq!(parse(stocks), [r#""message" "YHOO\n+2\n10" """#]);
        let four = ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n";
        assert_eq!(
            parse(four),
            [r#""message" "first event" "1""#, r#""message" "second event" """#, r#""message" " third event" """#]
        );
        assert_eq!(parse("data\n\ndata\ndata\n\ndata:"), [r#""message" "" """#, r#""message" "\n" """#]);
        assert_eq!(parse("data:test\n\ndata: test\n\n").len(), 2);
        let typed = "event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\ndata: 113411\n\n";
        assert_eq!(parse(typed), [r#""add" "73857293" """#, r#""remove" "2153" """#, r#""message" "113411" """#]);
    }

    #[test]
    fn lines_end_in_three_ways_also_between_two_pieces() {
        for end in ["\n", "\r", "\r\n"] {
            let text = ["id: 7", "data: a", "data: b", "", "data: c", "", ""].join(end);
            let said = parse(&text);
            assert_eq!(said, [r#""message" "a\nb" "7""#, r#""message" "c" "7""#], "{end:?}");
            for at in 0..text.len() {
                let (left, right) = text.as_bytes().split_at(at);
                assert_eq!(parse_in(&[left, right]), parse_in(&[text.as_bytes()]), "{end:?} cut at {at}");
            }
        }
    }

    #[test]
    fn a_mark_in_front_is_skipped_once_and_what_only_looks_like_one_is_not() {
        let whole = "\u{feff}data: a\n\n";
        assert_eq!(parse(whole), [r#""message" "a" """#]);
        let (left, right) = whole.as_bytes().split_at(2);
        assert_eq!(parse_in(&[left, right]).len(), 1);
        assert_eq!(parse("\u{feff}\u{feff}data: a\n\n"), [""; 0], "the second is part of a field's name");
        assert_eq!(parse_in(&[b"\xef\xbb", b"data: a\n\ndata: b\n\n"]).len(), 1);
    }

    #[test]
    fn ids_and_retries_count_only_if_they_are_some() {
        assert_eq!(parse("id: 1\n\nid: 1\n\n"), [r#"Id("1")"#]);
        assert_eq!(parse("id: 1\n\nid: a\0b\ndata: x\n\n"), [r#"Id("1")"#, r#""message" "x" "1""#]);
        assert_eq!(parse("id: a\x01b\ndata: x\n\n"), ["BadId", r#""message" "x" """#]);
        assert_eq!(parse(&format!("id: {}\n\n", "9".repeat(ID_BYTES_MAX + 1))), ["BadId"]);
        assert_eq!(parse("retry: 250\nretry: 1s\nretry:\nretry: -1\n"), ["Retry(250ms)"]);
        assert_eq!(parse("id: 1\ndata: cut off"), [""; 0], "neither the event nor its id has come");
    }

    #[test]
    fn an_event_that_is_too_big_is_left_out_alone_and_its_id_counts() {
        let big = "x".repeat(EVENT_BYTES_MAX);
        let half = "x".repeat(EVENT_BYTES_MAX / 2);
        for (too_big, what) in [
            (format!("id: 2\ndata: {big}\n\n"), "one line"),
            (format!("data: {half}\ndata: {half}\nid: 2\ndata: y\n\n"), "its lines together"),
            (format!("id: 2\nevent: {}\ndata: y\n\n", "x".repeat(KIND_BYTES_MAX + 1)), "its type"),
        ] {
            let text = format!("id: 1\ndata: a\n\n{too_big}data: b\n\n");
            let expected = [r#""message" "a" "1""#, r#"TooBig("2")"#, r#""message" "b" "2""#];
            assert_eq!(parse(&text), expected, "{what}");
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(1_000).collect();
            assert_eq!(parse_in(&pieces), parse_in(&[text.as_bytes()]), "{what}, in pieces");
        }
    }

    #[test]
    fn fuzz_event_stream() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/pull/sse/corpus");
        fuzz(path, |input| {
            let whole = parse_in(&[input]);
            let (left, right) = input.split_at(input.len() / 3);
            assert_eq!(parse_in(&[left, right]), whole, "where a piece ends changes nothing");
            let bytes: Vec<&[u8]> = input.chunks(1).collect();
            assert_eq!(parse_in(&bytes), whole);
            whole.iter().any(|said| matches!(said, Said::Event(_)))
        });
    }
}
