//! The syntax of line protocol: where a line ends, and what stands in it.
//!
//! ```text
//!   cpu,host=web\ 1,region=eu usage=0.5,cores=8i,ok=t,note="a \"b\"" 1700000000000000000
//!   └┬┘ └────────┬──────────┘ └──────────────┬─────────────────────┘ └───────┬─────────┘
//!   measurement  tags (may be none)          fields                          time (may be missing)
//! ```
//!
//! A backslash takes the meaning from a comma, a space or an equals sign in names and tags, and from a quote or a backslash
//! in text; in front of anything else it is a backslash. Text may hold line ends. Lines that begin with `#` are comments.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use super::cell::{Cell, Text};

/// What a line says, piece by piece.
pub(super) enum Piece<'m> {
    Measurement(Text<'m>),
    Tag(Text<'m>, Text<'m>),
    Field(Text<'m>, Cell<'m>),
    /// In the unit that was agreed upon.
    Time(i64),
}

/// Reads the line at the beginning of a text and returns its length, without the line end; a line that is wrong ends at the
/// first line end, and the error says at which byte of it and why.
pub(super) fn read_line<'m>(
    text: &'m str,
    piece: impl FnMut(Piece<'m>),
) -> Result<usize, (usize, usize, &'static str)> {
    let mut line = Line { text, at: 0 };
    match line.read(piece) {
        Ok(()) => Ok(line.at),
        Err(problem) => {
            let end = memchr(b'\n', text.as_bytes()).unwrap_or(text.len());
            Err((end, line.at.min(end), problem))
        }
    }
}

struct Line<'m> {
    text: &'m str,
    at: usize,
}

impl<'m> Line<'m> {
    fn read(&mut self, mut piece: impl FnMut(Piece<'m>)) -> Result<(), &'static str> {
        let measurement = self.name(b", ")?;
        if measurement.is_empty() {
            return Err("there is no measurement");
        }
        piece(Piece::Measurement(measurement));
        while self.next_is(b',') {
            let key = self.name(b"=, ")?;
            if key.is_empty() {
                return Err("a tag has no name");
            }
            if !self.next_is(b'=') {
                return Err("a tag has no value");
            }
            let value = self.name(b"=, ")?;
            if value.is_empty() {
                return Err("a tag has no value");
            }
            if self.peek() == Some(b'=') {
                return Err("an equals sign in the value of a tag needs a backslash");
            }
            piece(Piece::Tag(key, value));
        }
        self.skip_spaces();
        if self.is_at_end() {
            return Err("there are no fields: expected name=value behind a space");
        }
        loop {
            let key = self.name(b"=, ")?;
            if key.is_empty() {
                return Err("a field has no name");
            }
            if !self.next_is(b'=') {
                return Err("a field has no value");
            }
            let value = self.value()?;
            piece(Piece::Field(key, value));
            if !self.next_is(b',') {
                break;
            }
        }
        self.skip_spaces();
        if !self.is_at_end() {
            piece(Piece::Time(self.time()?));
            self.skip_spaces();
        }
        if self.is_at_end() { Ok(()) } else { Err("expected the end of the line") }
    }

    fn bytes(&self) -> &'m [u8] {
        self.text.as_bytes()
    }

    fn peek(&self) -> Option<u8> {
        self.bytes().get(self.at).copied()
    }

    fn next_is(&mut self, byte: u8) -> bool {
        let is = self.peek() == Some(byte);
        self.at += usize::from(is);
        is
    }

    fn skip_spaces(&mut self) {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
    }

    fn is_at_end(&self) -> bool {
        match self.peek() {
            None | Some(b'\n') => true,
            Some(b'\r') => matches!(self.bytes().get(self.at + 1), None | Some(b'\n')),
            _ => false,
        }
    }

    /// A name or the value of a tag: up to one of the ends, or the end of the line.
    fn name(&mut self, ends: &[u8]) -> Result<Text<'m>, &'static str> {
        let start = self.at;
        let mut has_escapes = false;
        loop {
            match self.peek() {
                None | Some(b'\n') => break,
                Some(b'\r') if self.is_at_end() => break,
                Some(b'\\') if matches!(self.bytes().get(self.at + 1), Some(b',' | b'=' | b' ')) => {
                    has_escapes = true;
                    self.at += 2;
                }
                Some(byte) if ends.contains(&byte) => break,
                Some(_) => self.at += 1,
            }
        }
        let text = &self.text[start..self.at];
        Ok(if has_escapes { Cow::Owned(unescaped(text, b",= ")) } else { Cow::Borrowed(text) })
    }

    fn value(&mut self) -> Result<Cell<'m>, &'static str> {
        if self.next_is(b'"') {
            return self.quoted().map(Cell::Text);
        }
        let start = self.at;
        while self.peek().is_some_and(|byte| byte != b',' && byte != b' ') && !self.is_at_end() {
            self.at += 1;
        }
        let text = &self.text[start..self.at];
        let value = simple_value(text);
        if value.is_err() {
            self.at = start;
        }
        value
    }

    fn quoted(&mut self) -> Result<Text<'m>, &'static str> {
        let start = self.at;
        let mut has_escapes = false;
        while let Some(found) = memchr2(b'"', b'\\', &self.bytes()[self.at..]) {
            self.at += found;
            if self.peek() == Some(b'"') {
                let text = &self.text[start..self.at];
                self.at += 1;
                return match self.peek() {
                    _ if self.is_at_end() => Ok(()),
                    Some(b',' | b' ') => Ok(()),
                    _ => Err("text ends in the middle of a value: a quote inside needs a backslash"),
                }
                .map(|()| if has_escapes { Cow::Owned(unescaped(text, b"\"\\")) } else { Cow::Borrowed(text) });
            }
            let next = self.bytes().get(self.at + 1);
            let is_escape = matches!(next, Some(b'"' | b'\\'));
            has_escapes |= is_escape;
            self.at += if is_escape { 2 } else { 1 };
        }
        self.at = start - 1;
        Err("text has no closing quote")
    }

    fn time(&mut self) -> Result<i64, &'static str> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit() || byte == b'-' || byte == b'+') {
            self.at += 1;
        }
        self.text[start..self.at].parse().map_err(|_| {
            self.at = start;
            "the time is not a whole number of 64 bits"
        })
    }
}

fn simple_value(text: &str) -> Result<Cell<'static>, &'static str> {
    let bytes = text.as_bytes();
    match bytes {
        [] => return Err("a field has no value"),
        b"t" | b"T" | b"true" | b"True" | b"TRUE" => return Ok(Cell::Bool(true)),
        b"f" | b"F" | b"false" | b"False" | b"FALSE" => return Ok(Cell::Bool(false)),
        _ => {}
    }
    if let Some(digits) = text.strip_suffix('i') {
        return digits.parse().map(Cell::Int).map_err(|_| "the value is not a whole number of 64 bits");
    }
    if let Some(digits) = text.strip_suffix('u') {
        return digits.parse().map(Cell::Uint).map_err(|_| "the value is not a whole number of 64 bits without a sign");
    }
    // Rust also knows words such as "inf" and "nan", the protocol does not.
    let has_words = bytes.iter().any(|byte| byte.is_ascii_alphabetic() && !matches!(byte, b'e' | b'E'));
    match text.parse::<f64>() {
        Ok(value) if !has_words && value.is_finite() => Ok(Cell::Float(value)),
        Ok(_) if !has_words => Err("the value is a number too large for a float"),
        _ => Err("the value is neither a number, nor true or false, nor text in quotes"),
    }
}

/// Removes the backslashes in front of some characters.
fn unescaped(text: &str, escapable: &[u8]) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(found) = memchr(b'\\', rest.as_bytes()) {
        let is_escape = rest.as_bytes().get(found + 1).is_some_and(|byte| escapable.contains(byte));
        plain.push_str(&rest[..found]);
        if is_escape {
            plain.push_str(&rest[found + 1..found + 2]);
            rest = &rest[found + 2..];
        } else {
            plain.push('\\');
            rest = &rest[found + 1..];
        }
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str) -> Result<Vec<String>, (usize, &'static str)> {
        let mut all = Vec::new();
        let read = read_line(text, |piece| {
            all.push(match piece {
                Piece::Measurement(name) => format!("m {name}"),
                Piece::Tag(key, value) => format!("t {key}|{value}"),
                Piece::Field(key, value) => format!("f {key}|{value:?}"),
                Piece::Time(time) => format!("@ {time}"),
            });
        });
        read.map(|_| all).map_err(|(_, at, problem)| (at, problem))
    }

    #[test]
    fn a_line_is_measurement_tags_fields_and_time() {
        assert_eq!(
            pieces("cpu,host=a,dc=x usage=0.5,n=-8i,u=7u,ok=t,no=FALSE,s=\"x y\" 17\nnext"),
            Ok([
                "m cpu",
                "t host|a",
                "t dc|x",
                "f usage|Float(0.5)",
                "f n|Int(-8)",
                "f u|Uint(7)",
                "f ok|Bool(true)",
                "f no|Bool(false)",
                "f s|Text(\"x y\")",
                "@ 17"
            ]
            .map(str::to_owned)
            .to_vec())
        );
        for (line, last) in [
            ("m f=1", "f f|Float(1.0)"),
            ("m f=1\r\n", "f f|Float(1.0)"),
            ("m f=1 5\r\n", "@ 5"),
            ("m f=1e3  -5 ", "@ -5"),
            ("m  f=.5", "f f|Float(0.5)"),
            ("m f=\"\"", "f f|Text(\"\")"),
            ("m f=\"a\nb,c=1 \" 3", "@ 3"),
        ] {
            assert_eq!(pieces(line).expect(line).last().map(String::as_str), Some(last), "{line}");
        }
    }

    #[test]
    fn backslashes_take_the_meaning_from_what_follows_them() {
        assert_eq!(
            pieces(r#"we\ a\,th\er,lo\=c\ a=x\,y\z f\,1="a\"b\\c\d" 1"#).expect("a line"),
            ["m we a,th\\er", "t lo=c a|x,y\\z", "f f,1|Text(\"a\\\"b\\\\c\\\\d\")", "@ 1"]
        );
    }

    #[test]
    fn a_mistake_has_its_place() {
        for (line, at, problem) in [
            ("cpu", 3, "no fields"),
            (",host=a f=1", 0, "no measurement"),
            ("cpu,host f=1", 8, "a tag has no value"),
            ("cpu,host= f=1", 9, "a tag has no value"),
            ("cpu,=a f=1", 4, "a tag has no name"),
            ("cpu,a=b=c f=1", 7, "needs a backslash"),
            ("cpu f", 5, "a field has no value"),
            ("cpu f=", 6, "a field has no value"),
            ("cpu f=1,", 8, "a field has no name"),
            ("cpu f=warm", 6, "neither a number"),
            ("cpu f=nan", 6, "neither a number"),
            ("cpu f=1e999", 6, "too large"),
            ("cpu f=1.5i", 6, "not a whole number"),
            ("cpu f=-1u", 6, "without a sign"),
            ("cpu f=\"open", 6, "no closing quote"),
            ("cpu f=\"a\"b", 9, "a quote inside"),
            ("cpu f=1 now", 8, "the time is not"),
            ("cpu f=1 99999999999999999999", 8, "the time is not"),
            ("cpu f=1 5 6", 10, "expected the end"),
        ] {
            let (found_at, found) = pieces(line).expect_err(line);
            assert!(found_at == at && found.contains(problem), "{line}: {found_at} {found}");
        }
    }
}
