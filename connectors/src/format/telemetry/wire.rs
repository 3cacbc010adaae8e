//! Protobuf as bytes: the fields of a message, one after the other, without making anything of them.
//!
//! ```text
//!   message = (key varint, value)*      key = field number << 3 | kind
//!   kinds: 0 varint, 1 eight bytes, 2 length varint and as many bytes, 5 four bytes
//! ```
//!
//! A request of remote write has a hundred thousand labels, which are looked at once: reading them in place costs no
//! allocation, and a body cannot become larger in memory than it is.

/// A message, or a part of one, with its place in the whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'m> {
    pub(super) bytes: &'m [u8],
    /// The offset of its first byte.
    pub(super) start: usize,
}

/// A field's value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'m> {
    Varint(u64),
    Fixed64(u64),
    Bytes(Part<'m>),
    Fixed32,
}

impl<'m> Part<'m> {
    /// Makes the part that is a whole message.
    pub(super) fn whole(bytes: &'m [u8]) -> Self {
        Part { bytes, start: 0 }
    }

    /// Returns the fields in their order; after an error there are no more.
    pub(super) fn fields(self) -> Fields<'m> {
        Fields { rest: self }
    }

    /// Reads it as text.
    pub(super) fn text(self) -> Result<&'m str, String> {
        std::str::from_utf8(self.bytes)
            .map_err(|error| format!("text is not UTF-8 at byte {}", self.start + error.valid_up_to()))
    }

    /// Reads numbers that stand one after the other.
    pub(super) fn varints(self) -> impl Iterator<Item = Result<u64, String>> + 'm {
        let mut rest = self;
        std::iter::from_fn(move || (!rest.bytes.is_empty()).then(|| rest.varint()))
    }

    /// Reads floats that stand one after the other.
    pub(super) fn doubles(self) -> Result<impl Iterator<Item = f64> + 'm, String> {
        let (doubles, rest) = self.bytes.as_chunks::<8>();
        match rest {
            [] => Ok(doubles.iter().map(|bytes| f64::from_le_bytes(*bytes))),
            _ => Err(format!("a list of floats has no whole number of them, at byte {}", self.start)),
        }
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0u64;
        for (at, byte) in self.bytes.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7F) << (7 * at);
            if byte & 0x80 == 0 {
                self.skip(at + 1);
                return Ok(value);
            }
        }
        let problem = if self.bytes.len() < 10 { "a number breaks off" } else { "a number has more than 64 bits" };
        Err(format!("{problem}, at byte {}", self.start))
    }

    fn skip(&mut self, count: usize) {
        self.bytes = &self.bytes[count..];
        self.start += count;
    }

    fn take(&mut self, count: u64) -> Result<Part<'m>, String> {
        let Some(count) = usize::try_from(count).ok().filter(|count| *count <= self.bytes.len()) else {
            let there = self.bytes.len();
            return Err(format!("a field of {count} bytes has only {there}, at byte {}", self.start));
        };
        let taken = Part { bytes: &self.bytes[..count], start: self.start };
        self.skip(count);
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u32, Value<'m>), String> {
        let key_at = self.start;
        let key = self.varint()?;
        let number =
            u32::try_from(key >> 3).map_err(|_| format!("there is no field {}, at byte {key_at}", key >> 3))?;
        let value = match key & 7 {
            _ if number == 0 => return Err(format!("there is no field 0, at byte {key_at}")),
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.take(8)?.bytes.try_into().expect("eight bytes"))),
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed32)?,
            kind => return Err(format!("there is no kind {kind} of fields, at byte {key_at}")),
        };
        Ok((number, value))
    }
}

impl Value<'_> {
    /// Returns the float that eight bytes are.
    pub(super) fn double(self) -> f64 {
        match self {
            Value::Fixed64(bits) => f64::from_bits(bits),
            _ => 0.0,
        }
    }

    /// Returns the number that a varint is.
    pub(super) fn int(self) -> i64 {
        match self {
            Value::Varint(value) => value as i64,
            _ => 0,
        }
    }
}

/// Undoes the zigzag of numbers whose sign changes often.
pub(super) fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// See [`Part::fields`].
pub(super) struct Fields<'m> {
    rest: Part<'m>,
}

impl<'m> Iterator for Fields<'m> {
    type Item = Result<(u32, Value<'m>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.bytes.is_empty() {
            return None;
        }
        let field = self.rest.field();
        if field.is_err() {
            self.rest.bytes = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_in_their_order_and_damage_has_its_place() {
        let shown = |bytes: &[u8]| -> Vec<String> {
            let shown = |field| match field {
                Ok((number, Value::Varint(value))) => format!("{number} {value}"),
                Ok((number, Value::Bytes(part))) => format!("{number} {:?} @{}", part.bytes, part.start),
                Ok((number, value)) => format!("{number} {value:?}"),
                Err(problem) => problem,
            };
            Part::whole(bytes).fields().map(shown).collect()
        };
        assert_eq!(
            shown(b"\x08\x96\x01\x12\x02hi\x1d\0\0\0\0\x21\x01\0\0\0\0\0\0\0"),
            ["1 150", "2 [104, 105] @5", "3 Fixed32", "4 Fixed64(1)"]
        );
        for (bytes, problem) in [
            (&b"\x08"[..], "a number breaks off, at byte 1"),
            (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "a number has more than 64 bits, at byte 1"),
            (b"\x12\x05hi", "a field of 5 bytes has only 2, at byte 2"),
            (b"\x0b", "there is no kind 3 of fields, at byte 0"),
            (b"\x00\x01", "there is no field 0, at byte 0"),
            (b"\x09\x01", "a field of 8 bytes has only 1, at byte 1"),
        ] {
            assert_eq!(shown(bytes), [problem]);
        }
        assert_eq!([0, 1, 2, 3, u64::MAX].map(zigzag), [0, -1, 1, -2, i64::MIN]);
    }
}
