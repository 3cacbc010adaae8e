//! Encoded rows, and the files they lie in.
//!
//! ```text
//!   "tmrows1\n" │ row count u32 │ key bytes u32 │ payload bytes u32 │ key │ payload │ … │ crc32c of all before u32
//! ```
//! Numbers are little-endian. A key is what a destination needs beside the payload: the topic of a message.

use bytes::{Buf, BufMut, Bytes};

const MAGIC: &[u8; 8] = b"tmrows1\n";
const HEAD_BYTES: usize = MAGIC.len() + 4;
const CHECKSUM_BYTES: usize = 4;

/// A file gets no further rows when it has so many bytes: a courier holds one file at a time. A small outbox has smaller
/// ones, since whole files are left out when it is full.
const FILE_BYTES_MAX: usize = 2 << 20;
const FILE_BYTES_MIN: usize = 16 << 10;
/// An outbox has room for so many files at least.
const FILES_MIN: u64 = 32;

/// A row to be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its number in the outbox: it keeps it for ever.
    pub number: u64,
    /// What the destination needs beside the payload.
    pub key: Bytes,
    /// What is delivered.
    pub payload: Bytes,
}

/// Encoded rows, cut into files.
#[derive(Debug)]
pub struct Encoded {
    file_bytes: usize,
    files: Vec<(Vec<u8>, u32)>,
    rejected: u64,
    why_rejected: Option<String>,
}

impl Encoded {
    /// Begins, for an outbox of so many bytes.
    pub(super) fn new(outbox_bytes_max: u64) -> Encoded {
        let file_bytes = usize::try_from(outbox_bytes_max / FILES_MIN).unwrap_or(usize::MAX);
        let file_bytes = file_bytes.clamp(FILE_BYTES_MIN, FILE_BYTES_MAX);
        Encoded { file_bytes, files: Vec::new(), rejected: 0, why_rejected: None }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// If a key or a payload has 4 GiB.
    pub fn push(&mut self, key: &[u8], payload: &[u8]) {
        if self.files.last().is_none_or(|(bytes, _)| bytes.len() >= self.file_bytes) {
            let mut bytes = Vec::new();
            bytes.put_slice(MAGIC);
            bytes.put_u32_le(0);
            self.files.push((bytes, 0));
        }
        let (bytes, count) = self.files.last_mut().expect("made above if there was none");
        let length = |part: &[u8]| u32::try_from(part.len()).expect("a row of less than 4 GiB");
        bytes.put_u32_le(length(key));
        bytes.put_u32_le(length(payload));
        bytes.put_slice(key);
        bytes.put_slice(payload);
        *count += 1;
    }

    /// Adds rows that are one piece: the first one carries it, the others are empty and lie in the same file.
    ///
    /// # Panics
    /// If the piece has 4 GiB.
    pub fn push_group(&mut self, payload: &[u8], rows: usize) {
        if rows == 0 {
            return;
        }
        self.push(b"", payload);
        let (bytes, count) = self.files.last_mut().expect("a row was added");
        for _ in 1..rows {
            bytes.put_u64_le(0);
            *count += 1;
        }
    }

    /// Leaves a row out that cannot be delivered at all.
    pub fn reject(&mut self, why: impl FnOnce() -> String) {
        self.rejected += 1;
        self.why_rejected.get_or_insert_with(why);
    }

    /// Returns how many rows were rejected, and why the first one.
    pub(super) fn rejected(&self) -> Option<(u64, &str)> {
        self.why_rejected.as_deref().map(|why| (self.rejected, why))
    }

    /// Returns whole files, with the number of rows in each.
    pub(super) fn into_files(self) -> impl Iterator<Item = (Vec<u8>, u32)> {
        self.files.into_iter().map(|(mut bytes, count)| {
            bytes[MAGIC.len()..HEAD_BYTES].copy_from_slice(&count.to_le_bytes());
            let checksum = crc32c::crc32c(&bytes);
            bytes.put_u32_le(checksum);
            (bytes, count)
        })
    }
}

/// Reads a file whose first row has the number `first`.
pub(super) fn read(mut bytes: Bytes, first: u64) -> Result<Vec<Row>, String> {
    if bytes.len() < HEAD_BYTES + CHECKSUM_BYTES || !bytes.starts_with(MAGIC) {
        return Err("it is no file of rows".to_owned());
    }
    let mut checksum = bytes.split_off(bytes.len() - CHECKSUM_BYTES);
    let (expected, found) = (checksum.get_u32_le(), crc32c::crc32c(&bytes));
    if expected != found {
        return Err(format!("its checksum is {found:08x}, not {expected:08x}"));
    }
    bytes.advance(MAGIC.len());
    let count = bytes.get_u32_le();
    let mut rows = Vec::new();
    for number in (first..).take(count as usize) {
        let cut = || format!("it ends within row {}", number - first);
        if bytes.len() < 8 {
            return Err(cut());
        }
        let (key_bytes, payload_bytes) = (bytes.get_u32_le() as usize, bytes.get_u32_le() as usize);
        if bytes.len() < key_bytes.saturating_add(payload_bytes) {
            return Err(cut());
        }
        rows.push(Row { number, key: bytes.split_to(key_bytes), payload: bytes.split_to(payload_bytes) });
    }
    if bytes.is_empty() { Ok(rows) } else { Err("it has bytes behind its last row".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_were_and_files_are_cut_between_them() {
        let mut encoded = Encoded::new(1 << 30);
        let large = vec![b'x'; FILE_BYTES_MAX / 2];
        for key in ["", "b", "c", "d"] {
            encoded.push(key.as_bytes(), &large);
        }
        let files: Vec<(Vec<u8>, u32)> = encoded.into_files().collect();
        assert_eq!(files.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [2, 2]);
        let rows = read(Bytes::from(files[1].0.clone()), 7).expect("whole");
        assert_eq!(rows.iter().map(|row| (row.number, &row.key[..])).collect::<Vec<_>>(), [(7, &b"c"[..]), (8, b"d")]);
        assert!(rows.iter().all(|row| row.payload[..] == large));
    }

    #[test]
    fn a_group_lies_in_one_file_and_counts_all_its_rows() {
        let mut encoded = Encoded::new(0);
        let large = vec![b'x'; FILE_BYTES_MIN];
        encoded.push_group(&large, 5_000);
        encoded.push_group(b"", 0);
        encoded.push_group(b"next", 2);
        let files: Vec<(Vec<u8>, u32)> = encoded.into_files().collect();
        assert_eq!(files.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [5_000, 2]);
        let rows = read(Bytes::from(files[0].0.clone()), 7).expect("whole");
        assert_eq!((rows.len(), rows[4_999].number), (5_000, 5_006));
        assert!(rows[0].payload[..] == large && rows[1..].iter().all(|row| row.payload.is_empty()));
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_noticed() {
        let mut encoded = Encoded::new(0);
        encoded.push(b"a/topic", b"{\"v\":1}");
        encoded.push(b"another", b"");
        let (whole, _) = encoded.into_files().next().expect("one file");
        assert_eq!(read(Bytes::from(whole.clone()), 0).expect("whole").len(), 2);
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(read(Bytes::from(bytes), 0).is_err(), "bit {bit}");
        }
        for end in 0..whole.len() {
            assert!(read(Bytes::copy_from_slice(&whole[..end]), 0).is_err(), "{end} bytes");
        }
    }
}
