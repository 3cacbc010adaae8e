//! The files of the log: their names, their headers, and the chain the headers form. Drawn in the module's
//! documentation.

use super::frame::Place;
use super::position::Position;
use super::{LogError, damaged};
use crate::epoch::Epoch;
use crate::source::Offset;
use crate::storage::{AppendFile, Storage};

/// The format version that is written, and the newest that is read.
pub(super) const VERSION: u32 = 2;

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 80;

const MAGIC: [u8; 8] = *b"tidemill";
/// Where the header's own checksum stands.
const CRC_AT: usize = HEADER_BYTES - 4;
/// The number of the segment that a log is made with.
const FIRST_NUMBER: u64 = 1;

/// What a segment says about itself and the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The format version of the segment: the next one keeps a checksum of the header as it was.
    pub(super) version: u32,
    pub(super) log_id: u128,
    pub(super) number: u64,
    /// Where the log stands at the first frame.
    pub(super) start: Position,
    /// How many bytes of the segment before count.
    pub(super) previous_end: u64,
    /// The checksum of the header before.
    pub(super) previous_crc: u32,
    /// How many bytes of this file were made with its header, durably and at once.
    pub(super) made_bytes: u64,
}

impl Header {
    /// Returns the header of an empty log.
    pub(super) fn first(log_id: u128) -> Header {
        Header {
            version: VERSION,
            log_id,
            number: FIRST_NUMBER,
            start: Position::START,
            previous_end: 0,
            previous_crc: 0,
            made_bytes: HEADER_BYTES as u64,
        }
    }

    /// Returns the header of the segment after this one, which ends at `end` with the log standing at `start`.
    pub(super) fn successor(&self, end: u64, start: Position) -> Header {
        Header {
            version: VERSION,
            log_id: self.log_id,
            number: self.number.checked_add(1).expect("fewer segments than there are numbers"),
            start,
            previous_end: end,
            previous_crc: crc_of(&self.encode()),
            made_bytes: HEADER_BYTES as u64,
        }
    }

    /// Returns whether nothing of the log stands before this segment. That need not be the one with the first number: a
    /// recovery may have taken everything over into a later one.
    pub(super) fn is_beginning(&self) -> bool {
        self.start == Position::START
    }

    pub(super) fn place(&self) -> Place {
        Place::new(self.log_id, self.number)
    }

    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.version.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.start.partitions.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.log_id.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.number.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.start.next.0.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.start.epoch.0.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.previous_end.to_le_bytes());
        bytes[64..72].copy_from_slice(&self.made_bytes.to_le_bytes());
        bytes[72..76].copy_from_slice(&self.previous_crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header of the segment at `path`.
    fn decode(bytes: &[u8; HEADER_BYTES], path: &str) -> Result<Header, LogError> {
        if bytes[0..8] != MAGIC {
            return Err(damaged(path, 0, "this is not the header of a segment"));
        }
        // Before the checksum: a newer version may have put it elsewhere.
        let version = u32::from_le_bytes(field(bytes, 8));
        if version > VERSION {
            return Err(LogError::Newer { path: path.to_owned(), version });
        }
        if version == 0 || crc32c::crc32c(&bytes[..CRC_AT]) != crc_of(bytes) {
            return Err(damaged(path, 0, "the checksum of the segment's header does not match"));
        }
        Ok(Header {
            version,
            log_id: u128::from_le_bytes(field(bytes, 16)),
            number: u64::from_le_bytes(field(bytes, 32)),
            start: Position {
                next: Offset(u64::from_le_bytes(field(bytes, 40))),
                epoch: Epoch(u64::from_le_bytes(field(bytes, 48))),
                partitions: u32::from_le_bytes(field(bytes, 12)),
            },
            previous_end: u64::from_le_bytes(field(bytes, 56)),
            made_bytes: u64::from_le_bytes(field(bytes, 64)),
            previous_crc: u32::from_le_bytes(field(bytes, 72)),
        })
    }
}

/// A segment as it was found.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) path: String,
    pub(super) header: Header,
    /// Bytes of the file.
    pub(super) size: u64,
}

/// Returns the path of a segment.
pub(super) fn path(dir: &str, number: u64) -> String {
    format!("{dir}/{number:010}.log")
}

/// Returns the numbers of the segments in `dir`, ascending. Files with other names are not ours, and left alone.
pub(super) fn numbers(storage: &dyn Storage, dir: &str) -> Result<Vec<u64>, LogError> {
    let mut numbers: Vec<u64> = storage
        .list(dir)?
        .iter()
        .filter(|entry| !entry.is_dir)
        .filter_map(|entry| {
            let number = entry.name.strip_suffix(".log")?.parse().ok()?;
            (path(dir, number) == format!("{dir}/{}", entry.name)).then_some(number)
        })
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads the header of one segment.
pub(super) fn read(storage: &dyn Storage, dir: &str, number: u64) -> Result<Segment, LogError> {
    let path = path(dir, number);
    let file = storage.open(&path)?;
    let size = file.size();
    let mut bytes = [0; HEADER_BYTES];
    let found = read_full(&*file, 0, &mut bytes)?;
    if found < HEADER_BYTES {
        // A segment appears with its header or not at all, so this is no crash of ours.
        return Err(damaged(&path, found as u64, "the file ends within the segment's header"));
    }
    let header = Header::decode(&bytes, &path)?;
    if header.number != number {
        return Err(damaged(&path, 32, format!("this is segment {} under another name", header.number)));
    }
    if size < header.made_bytes {
        return Err(damaged(&path, size, format!("the file ended at byte {} or later once", header.made_bytes)));
    }
    Ok(Segment { path, header, size })
}

/// Reads the headers of all segments and checks their chain. Reads no records and changes nothing.
///
/// The first one that is there may have any number: a log that was shrunk begins later.
pub(super) fn load(storage: &dyn Storage, dir: &str) -> Result<Vec<Segment>, LogError> {
    let mut segments: Vec<Segment> = Vec::new();
    for number in numbers(storage, dir)? {
        let segment = match segments.last() {
            None => {
                let segment = read(storage, dir, number)?;
                check_first(&segment)?;
                segment
            }
            Some(previous) => read_successor(storage, dir, previous, number)?,
        };
        segments.push(segment);
    }
    Ok(segments)
}

/// Reads the header of the segment with the next number that is there, and checks that it is the next one.
pub(super) fn read_successor(
    storage: &dyn Storage,
    dir: &str,
    previous: &Segment,
    number: u64,
) -> Result<Segment, LogError> {
    let expected = previous.header.number.saturating_add(1);
    if number != expected {
        let why = format!("the file is missing, though segments {} and {number} are there", previous.header.number);
        return Err(damaged(&path(dir, expected), 0, why));
    }
    let segment = read(storage, dir, number)?;
    check_chain(previous, &segment)?;
    Ok(segment)
}

/// Reads until `buf` is full or the file ends; returns how much it read.
pub(super) fn read_full(file: &dyn AppendFile, offset: u64, buf: &mut [u8]) -> Result<usize, LogError> {
    let mut len = 0;
    while len < buf.len() {
        match file.read_at(offset + len as u64, &mut buf[len..])? {
            0 => break,
            count => len += count,
        }
    }
    Ok(len)
}

/// Checks the first segment that is there. What it says of the one before cannot be checked if that was deleted.
fn check_first(segment: &Segment) -> Result<(), LogError> {
    let Segment { path, header, .. } = segment;
    let beginning = Header { version: header.version, made_bytes: header.made_bytes, ..Header::first(header.log_id) };
    if header.number > FIRST_NUMBER || *header == beginning {
        Ok(())
    } else {
        Err(damaged(path, 0, "the first segment does not start at the beginning of a log"))
    }
}

fn check_chain(previous: &Segment, segment: &Segment) -> Result<(), LogError> {
    let Segment { path, header, .. } = segment;
    if header.log_id != previous.header.log_id {
        return Err(damaged(path, 16, "the segment belongs to another log"));
    }
    if header.previous_crc != crc_of(&previous.header.encode()) {
        return Err(damaged(path, 72, format!("the segment does not follow the one in {}", previous.path)));
    }
    if previous.size < header.previous_end {
        let why = format!("the file ended at byte {} or later once", header.previous_end);
        return Err(damaged(&previous.path, previous.size, why));
    }
    if header.previous_end < HEADER_BYTES as u64 {
        return Err(damaged(path, 56, "the segment before is said to end within its header"));
    }
    Ok(())
}

/// Returns the checksum that a header carries.
fn crc_of(bytes: &[u8; HEADER_BYTES]) -> u32 {
    u32::from_le_bytes(field(bytes, CRC_AT))
}

fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    std::array::from_fn(|idx| bytes[at + idx])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    fn example() -> Header {
        let start = Position { next: Offset(0x0102), epoch: Epoch(9), partitions: 3 };
        Header { made_bytes: 99, ..Header::first(0xabcd).successor(4711, start) }
    }

    #[test]
    fn decode_gives_back_what_encode_took() {
        for header in [Header::first(u128::MAX), example()] {
            assert_eq!(Header::decode(&header.encode(), "x").unwrap(), header);
        }
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_found() {
        let bytes = example().encode();
        for bit in 0..8 * HEADER_BYTES {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            Header::decode(&flipped, "x").unwrap_err();
        }
    }

    #[test]
    fn a_broken_chain_is_found_though_every_checksum_is_right() {
        let first = Header::first(7);
        let second = first.successor(HEADER_BYTES as u64, Position::START);
        let broken = [
            (Header { log_id: 8, ..second }, "belongs to another log"),
            (Header { number: 3, ..second }, "under another name"),
            (Header { previous_crc: !second.previous_crc, ..second }, "does not follow"),
            (Header { previous_end: 81, ..second }, "ended at byte 81 or later once"),
            (Header { previous_end: 79, ..second }, "end within its header"),
            (Header { made_bytes: 81, ..second }, "ended at byte 81 or later once"),
        ];
        let load_with = |header: Header| {
            let storage = MemoryStorage::default();
            storage.put(&path("log", 1), &first.encode()).unwrap();
            storage.put(&path("log", 2), &header.encode()).unwrap();
            load(&storage, "log")
        };
        assert_eq!(load_with(second).unwrap().len(), 2);
        for (header, why) in broken {
            let error = load_with(header).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let storage = MemoryStorage::default();
        storage.put(&path("log", 1), &Header { number: 1, ..second }.encode()).unwrap();
        let error = load(&storage, "log").unwrap_err().to_string();
        assert!(error.contains("the beginning of a log"), "{error}");
    }

    #[test]
    fn other_files_in_the_folder_are_left_alone() {
        let storage = MemoryStorage::default();
        for name in ["1.log", "0000000001.log.bak", "notes.txt", "000000000x.log", "+000000001.log", "0000000003.log"] {
            storage.put(&format!("log/{name}"), b"").unwrap();
        }
        storage.put("log/0000000007.log/folder", b"").unwrap();
        storage.put(&path("log", 12_345_678_901), b"").unwrap();
        assert_eq!(numbers(&storage, "log").unwrap(), [3, 12_345_678_901]);
    }
}
