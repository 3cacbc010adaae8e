//! The bytes of Avro, as they are read: from memory, or from a file of any length.

use std::io::{BufRead, Read};

use super::Unreadable;

/// The bytes of a container, counted.
pub(super) struct Input<R> {
    from: R,
    at: u64,
    bytes_max: u64,
}

impl<R: BufRead> Input<R> {
    /// Begins with the first byte; at most so many are taken at once.
    pub(super) fn new(from: R, bytes_max: u64) -> Input<R> {
        Input { from, at: 0, bytes_max }
    }

    /// Returns how many bytes were taken.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Says what is wrong with what was taken last.
    pub(super) fn damaged(&self, what: &str) -> Unreadable {
        Unreadable::Damaged(format!("not a whole Avro container: {what}, at byte {}", self.at))
    }

    fn failed(&self, error: &std::io::Error) -> Unreadable {
        self.damaged(&format!("it cannot be read ({error})"))
    }

    /// Says whether there are no more.
    pub(super) fn is_over(&mut self) -> Result<bool, Unreadable> {
        let is_over = self.from.fill_buf().map(<[u8]>::is_empty);
        is_over.map_err(|error| self.failed(&error))
    }

    fn take_into(&mut self, count: u64, into: &mut Vec<u8>) -> Result<(), Unreadable> {
        // As much as there is, and not as much as it says.
        let wanted = count.min(self.bytes_max);
        let found = (&mut self.from).take(wanted).read_to_end(into).map_err(|error| self.failed(&error))? as u64;
        if found < wanted {
            return Err(self.damaged("it ends in the middle"));
        }
        if wanted < count {
            let max = self.bytes_max >> 20;
            return Err(Unreadable::TooLarge(format!(
                "a part of a container may have {max} MiB, one has {count} bytes"
            )));
        }
        self.at += found;
        Ok(())
    }

    pub(super) fn take(&mut self, count: usize) -> Result<Vec<u8>, Unreadable> {
        let mut taken = Vec::new();
        self.take_into(count as u64, &mut taken)?;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Unreadable> {
        let first = self.from.fill_buf().map(|bytes| bytes.first().copied());
        let byte = first.map_err(|error| self.failed(&error))?;
        let byte = byte.ok_or_else(|| self.damaged("it ends in the middle"))?;
        self.from.consume(1);
        self.at += 1;
        Ok(byte)
    }

    /// Takes a number: seven bits in each byte, the lowest first, the sign in the lowest of all.
    pub(super) fn long(&mut self) -> Result<i64, Unreadable> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(self.damaged("a number of more than ten bytes"))
    }

    /// Takes a length, and so many bytes.
    pub(super) fn bytes_into(&mut self, into: &mut Vec<u8>) -> Result<(), Unreadable> {
        let length = self.long()?;
        let length = u64::try_from(length).map_err(|_| self.damaged("a negative length"))?;
        self.take_into(length, into)
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, Unreadable> {
        let mut taken = Vec::new();
        self.bytes_into(&mut taken)?;
        Ok(taken)
    }
}

/// Writes a number.
pub(super) fn put_long(value: u64, into: &mut Vec<u8>) {
    let mut rest = value << 1;
    while rest >= 0x80 {
        into.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    into.push(rest as u8);
}
