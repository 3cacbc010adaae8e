//! The properties of MQTT 5: a block of typed values with its length in front.
//!
//! ```text
//!   length: variable byte integer │ id │ value │ id │ value │ …         exactly `length` bytes
//! ```
//!
//! Read strictly: every value lies inside the block, belongs to the packet, has its type, and stands once (but user
//! properties and subscription identifiers). The codec crate does not check where the block ends, so a wrong length would let
//! it read properties out of the payload; everything of version 5 passes through here first.

use std::fmt;

use super::packet::Violation;

pub(super) const PAYLOAD_FORMAT: u8 = 1;
pub(super) const MESSAGE_EXPIRY: u8 = 2;
pub(super) const CONTENT_TYPE: u8 = 3;
pub(super) const RESPONSE_TOPIC: u8 = 8;
pub(super) const CORRELATION_DATA: u8 = 9;
pub(super) const SUBSCRIPTION_ID: u8 = 11;
pub(super) const SESSION_EXPIRY: u8 = 17;
pub(super) const ASSIGNED_CLIENT_ID: u8 = 18;
pub(super) const SERVER_KEEP_ALIVE: u8 = 19;
pub(super) const REQUEST_PROBLEM_INFO: u8 = 23;
pub(super) const WILL_DELAY: u8 = 24;
pub(super) const REQUEST_RESPONSE_INFO: u8 = 25;
pub(super) const SERVER_REFERENCE: u8 = 28;
pub(super) const REASON_STRING: u8 = 31;
pub(super) const RECEIVE_MAXIMUM: u8 = 33;
pub(super) const TOPIC_ALIAS_MAXIMUM: u8 = 34;
pub(super) const TOPIC_ALIAS: u8 = 35;
pub(super) const MAXIMUM_QOS: u8 = 36;
pub(super) const RETAIN_AVAILABLE: u8 = 37;
pub(super) const USER_PROPERTY: u8 = 38;
pub(super) const MAXIMUM_PACKET_SIZE: u8 = 39;
pub(super) const WILDCARD_AVAILABLE: u8 = 40;
pub(super) const SUBSCRIPTION_IDS_AVAILABLE: u8 = 41;
pub(super) const SHARED_AVAILABLE: u8 = 42;

/// What may stand in which packet (MQTT 5, table 2-4).
pub(super) const IN_CONNECT: &[u8] = &[17, 33, 39, 34, 25, 23, 38, 21, 22];
pub(super) const IN_WILL: &[u8] = &[24, 1, 2, 3, 8, 9, 38];
pub(super) const IN_CONNACK: &[u8] = &[17, 33, 36, 37, 39, 18, 34, 31, 38, 40, 41, 42, 19, 26, 28, 21, 22];
pub(super) const IN_PUBLISH: &[u8] = &[1, 2, 3, 8, 9, 11, 35, 38];
pub(super) const IN_SUBSCRIBE: &[u8] = &[11, 38];
pub(super) const IN_UNSUBSCRIBE: &[u8] = &[38];
pub(super) const IN_ACK: &[u8] = &[31, 38];
pub(super) const IN_DISCONNECT: &[u8] = &[17, 31, 38, 28];

/// One value, borrowed from the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'p> {
    Number(u32),
    Text(&'p str),
    Binary(&'p [u8]),
    Pair(&'p str, &'p str),
}

impl<'p> Value<'p> {
    pub(super) fn number(self) -> u32 {
        match self {
            Value::Number(number) => number,
            _ => 0,
        }
    }

    /// Reads a number that has two bytes on the wire.
    pub(super) fn number16(self) -> Option<u16> {
        u16::try_from(self.number()).ok()
    }

    pub(super) fn flag(self) -> bool {
        self.number() != 0
    }

    pub(super) fn text(self) -> &'p str {
        match self {
            Value::Text(text) => text,
            _ => "",
        }
    }
}

/// Reads a property block at the beginning of `bytes`; returns how many bytes it takes with its length field.
pub(super) fn read<'p>(
    packet: &'static str,
    bytes: &'p [u8],
    allowed: &[u8],
    mut each: impl FnMut(u8, Value<'p>),
) -> Result<usize, Violation> {
    read_raw(packet, bytes, allowed, |id, value, _| each(id, value))
}

/// As [`read`], and gives the bytes of each property too, its id included.
pub(super) fn read_raw<'p>(
    packet: &'static str,
    bytes: &'p [u8],
    allowed: &[u8],
    mut each: impl FnMut(u8, Value<'p>, &'p [u8]),
) -> Result<usize, Violation> {
    let mut rest = Reader { packet, bytes };
    let length = rest.variable_integer()?;
    let header_bytes = bytes.len() - rest.bytes.len();
    read_block(packet, rest.take(length, "property block")?, allowed, &mut each)?;
    Ok(header_bytes + length)
}

/// As [`read_raw`], of a block without its length: exactly `bytes`.
pub(super) fn read_block<'p>(
    packet: &'static str,
    bytes: &'p [u8],
    allowed: &[u8],
    mut each: impl FnMut(u8, Value<'p>, &'p [u8]),
) -> Result<(), Violation> {
    let mut block = Reader { packet, bytes };
    // Ids are below 64, so one word remembers which have been seen.
    let mut seen = 0u64;
    while !block.bytes.is_empty() {
        let before = block.bytes;
        let id = block.u8()?;
        if !allowed.contains(&id) {
            return Err(block.malformed(format_args!("property {id} does not belong here")));
        }
        if seen & (1 << id) != 0 && id != USER_PROPERTY && id != SUBSCRIPTION_ID {
            return Err(Violation::Protocol(format!("property {id} stands twice in a {packet}")));
        }
        seen |= 1 << id;
        let value = block.value(id)?;
        check_range(packet, id, value)?;
        each(id, value, &before[..before.len() - block.bytes.len()]);
    }
    Ok(())
}

fn check_range(packet: &str, id: u8, value: Value<'_>) -> Result<(), Violation> {
    let number = value.number();
    let fits = match id {
        // Flags.
        PAYLOAD_FORMAT
        | REQUEST_PROBLEM_INFO
        | REQUEST_RESPONSE_INFO
        | MAXIMUM_QOS
        | RETAIN_AVAILABLE
        | WILDCARD_AVAILABLE
        | SUBSCRIPTION_IDS_AVAILABLE
        | SHARED_AVAILABLE => number <= 1,
        // Numbers that count from one.
        SUBSCRIPTION_ID | RECEIVE_MAXIMUM | MAXIMUM_PACKET_SIZE => number != 0,
        _ => true,
    };
    if fits { Ok(()) } else { Err(Violation::Protocol(format!("property {id} of a {packet} cannot be {number}"))) }
}

/// A cursor over a packet that never reads past its end.
pub(super) struct Reader<'p> {
    pub(super) packet: &'static str,
    pub(super) bytes: &'p [u8],
}

impl<'p> Reader<'p> {
    pub(super) fn malformed(&self, problem: impl fmt::Display) -> Violation {
        Violation::Malformed { packet: self.packet, problem: problem.to_string() }
    }

    pub(super) fn take(&mut self, count: usize, what: &str) -> Result<&'p [u8], Violation> {
        let (head, tail) =
            self.bytes.split_at_checked(count).ok_or_else(|| self.malformed(format_args!("{what} is cut short")))?;
        self.bytes = tail;
        Ok(head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Violation> {
        Ok(self.take(1, "a byte")?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, Violation> {
        let bytes = self.take(2, "a 16-bit number")?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Reads a packet id, which is never 0.
    pub(super) fn id(&mut self) -> Result<u16, Violation> {
        match self.u16()? {
            0 => Err(Violation::Protocol(format!("a {} has packet id 0", self.packet))),
            id => Ok(id),
        }
    }

    pub(super) fn binary(&mut self) -> Result<&'p [u8], Violation> {
        let count = usize::from(self.u16()?);
        self.take(count, "a field")
    }

    pub(super) fn text(&mut self) -> Result<&'p str, Violation> {
        let bytes = self.binary()?;
        let text =
            std::str::from_utf8(bytes).map_err(|error| self.malformed(format_args!("text is not UTF-8: {error}")))?;
        if text.contains('\0') { Err(self.malformed("text holds a NUL")) } else { Ok(text) }
    }

    pub(super) fn variable_integer(&mut self) -> Result<usize, Violation> {
        let mut value = 0usize;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            value |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed("a length has more than four bytes"))
    }

    fn value(&mut self, id: u8) -> Result<Value<'p>, Violation> {
        Ok(match id {
            1 | 23 | 25 | 36 | 37 | 40 | 41 | 42 => Value::Number(u32::from(self.u8()?)),
            19 | 33 | 34 | 35 => Value::Number(u32::from(self.u16()?)),
            2 | 17 | 24 | 39 => {
                let bytes = self.take(4, "a 32-bit number")?;
                Value::Number(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            }
            11 => Value::Number(u32::try_from(self.variable_integer()?).unwrap_or(u32::MAX)),
            3 | 8 | 18 | 21 | 26 | 28 | 31 => Value::Text(self.text()?),
            9 | 22 => Value::Binary(self.binary()?),
            38 => Value::Pair(self.text()?, self.text()?),
            other => return Err(self.malformed(format_args!("property {other} is not known"))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_publish(bytes: &[u8]) -> Result<(usize, Vec<u8>), Violation> {
        let mut ids = Vec::new();
        read("PUBLISH", bytes, IN_PUBLISH, |id, _| ids.push(id)).map(|taken| (taken, ids))
    }

    #[test]
    fn a_block_ends_where_its_length_says() {
        assert_eq!(read_publish(&[0, 0xFF]), Ok((1, vec![])));
        assert_eq!(read_publish(&[3, 35, 0, 1, 0xFF]), Ok((4, vec![35])));
        // Length 2 cuts the alias in half, although the bytes are there.
        assert!(matches!(read_publish(&[2, 35, 0, 1]), Err(Violation::Malformed { .. })));
        assert!(matches!(read_publish(&[9, 35, 0, 1]), Err(Violation::Malformed { .. })));
    }

    #[test]
    fn what_stands_twice_or_does_not_belong_is_refused() {
        assert!(matches!(read_publish(&[6, 35, 0, 1, 35, 0, 1]), Err(Violation::Protocol(_))));
        assert!(matches!(read_publish(&[3, 33, 0, 1]), Err(Violation::Malformed { .. })));
        assert!(matches!(read_publish(&[1, 200]), Err(Violation::Malformed { .. })));
        assert!(matches!(read_publish(&[2, 1, 2]), Err(Violation::Protocol(_))));
        assert_eq!(read_publish(&[14, 38, 0, 1, b'a', 0, 1, b'b', 38, 0, 1, b'a', 0, 1, b'b']), Ok((15, vec![38, 38])));
    }
}
