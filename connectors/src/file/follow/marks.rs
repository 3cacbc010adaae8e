//! How a file is known again: by a few of its bytes, at its beginning and before the place up to which it was read.
//!
//! ```text
//!   │head│            │before│    │last│ what comes next
//!   0                                  next
//! ```
//!
//! An inode number alone is not enough: it is given to another file as soon as the first is gone, and a file that is cut off and
//! written anew keeps it.

use std::io;

use serde::{Deserialize, Serialize};

use crate::file::input::Input;

/// Bytes of a mark.
const MARK_BYTES: usize = 1024;
/// Bytes of the mark at the beginning.
const HEAD_BYTES: usize = 256;

/// A checksum over the bytes `[end - length, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    end: u64,
    length: u32,
    crc: u32,
}

/// What is known of the bytes of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marks {
    #[serde(skip_serializing_if = "Option::is_none")]
    head: Option<Mark>,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Mark>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<Mark>,
}

/// How far a file is a copy of what was read of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Copied {
    /// It holds all that was read, and perhaps more.
    All,
    /// It ends before: all of it was read.
    UpTo(u64, Marks),
}

impl Mark {
    fn over(end: u64, bytes: &[u8]) -> Mark {
        Mark { end, length: bytes.len() as u32, crc: crc32c::crc32c(bytes) }
    }

    /// Whether there can be such bytes.
    fn makes_sense(&self) -> bool {
        u64::from(self.length) <= self.end && self.length as usize <= MARK_BYTES
    }

    fn holds(&self, input: &mut Input) -> io::Result<bool> {
        let bytes = input.read(self.end - u64::from(self.length), self.length as usize)?;
        Ok(bytes.len() == self.length as usize && crc32c::crc32c(&bytes) == self.crc)
    }
}

impl Marks {
    /// Notes that a file was read up to `end`; `block` is what was read last.
    pub(super) fn advance(&mut self, end: u64, block: &[u8], input: &mut Input) -> io::Result<()> {
        if self.head.is_none_or(|head| (head.length as usize) < HEAD_BYTES) {
            let length = usize::try_from(end).unwrap_or(HEAD_BYTES).min(HEAD_BYTES);
            self.head = Some(Mark::over(length as u64, &input.read(0, length)?));
        }
        self.before = self.last;
        self.last = Some(Mark::over(end, &block[block.len().saturating_sub(MARK_BYTES)..]));
        Ok(())
    }

    /// Whether they can be those of a file that was read up to here: they are read from the log.
    pub(super) fn make_sense(&self) -> bool {
        let all = self.head.iter().chain(&self.before).chain(&self.last);
        let ends = |mark: &Option<Mark>| mark.map_or(0, |mark| mark.end);
        all.into_iter().all(Mark::makes_sense) && ends(&self.before) <= ends(&self.last)
    }

    /// Marks a file that is whole by its beginning and its end.
    pub(super) fn of_whole(input: &mut Input) -> io::Result<Marks> {
        let size = input.metadata()?.len();
        let head = input.read(0, HEAD_BYTES)?;
        let start = size.saturating_sub(MARK_BYTES as u64);
        let last = input.read(start, MARK_BYTES)?;
        let head = Mark::over(head.len() as u64, &head);
        Ok(Marks { head: Some(head), before: None, last: Some(Mark::over(start + last.len() as u64, &last)) })
    }

    /// Says whether a file is still the one that was read: what stands before the place in it has not changed.
    pub(super) fn hold(&self, input: &mut Input) -> io::Result<bool> {
        for mark in self.head.iter().chain(&self.last) {
            if !mark.holds(input)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Says whether another file begins with what was read.
    pub(super) fn are_in(&self, input: &mut Input) -> io::Result<Option<Copied>> {
        let (Some(head), Some(last)) = (&self.head, &self.last) else { return Ok(None) };
        if !head.holds(input)? {
            return Ok(None);
        }
        let before = match &self.before {
            Some(before) => before.holds(input)?,
            None => false,
        };
        if last.holds(input)? {
            return Ok(Some(Copied::All));
        }
        let Some(before) = self.before.filter(|_| before) else { return Ok(None) };
        let rest = input.read(before.end, usize::try_from(last.end - before.end).unwrap_or(usize::MAX))?;
        let end = before.end + rest.len() as u64;
        let last =
            if rest.is_empty() { before } else { Mark::over(end, &rest[rest.len().saturating_sub(MARK_BYTES)..]) };
        let marks = Marks { head: self.head, before: Some(before), last: Some(last) };
        Ok((end < self.last.map_or(0, |last| last.end)).then_some(Copied::UpTo(end, marks)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::file::input::Packing;

    fn input(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> Input {
        let path = folder.path().join(name);
        let mut file = std::fs::File::options().write(true).create(true).truncate(true).open(&path).unwrap();
        file.write_all(bytes).unwrap();
        Input::open(&path, Packing::of(name)).unwrap()
    }

    #[test]
    fn a_file_is_known_by_what_was_read_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let text: Vec<u8> = (0..10_000u32).flat_map(|n| n.to_le_bytes()).collect();
        let mut original = input(&folder, "a", &text);
        let mut marks = Marks::default();
        assert!(marks.hold(&mut original).unwrap() && marks.are_in(&mut original).unwrap().is_none());
        for end in [10usize, 5_000, 20_000] {
            marks.advance(end as u64, &text[end.saturating_sub(5_000)..end], &mut original).unwrap();
            assert!(marks.hold(&mut original).unwrap());
        }
        let longer = [&text[..20_000], b"more"].concat();
        let mut changed = text.clone();
        changed[19_990] ^= 1;
        let mut other_head = text.clone();
        other_head[3] ^= 1;
        for (bytes, expected) in [
            (&text[..20_000], Some(20_000)),
            (&longer, Some(20_000)),
            (&text[..19_999], Some(19_999)),
            (&text[..5_000], Some(5_000)),
            (&text[..4_999], None),
            (&changed, None),
            (&other_head, None),
            (b"", None),
        ] {
            let mut copy = input(&folder, "b", bytes);
            let found = marks.are_in(&mut copy).unwrap();
            assert_eq!(marks.hold(&mut copy).unwrap(), found == Some(Copied::All), "{} bytes", bytes.len());
            let end = match found {
                None => None,
                Some(Copied::All) => Some(20_000),
                Some(Copied::UpTo(end, marks)) => {
                    assert!(marks.hold(&mut copy).unwrap(), "the marks of the copy hold in it");
                    Some(end)
                }
            };
            assert_eq!(end, expected, "{} bytes", bytes.len());
        }
    }
}
