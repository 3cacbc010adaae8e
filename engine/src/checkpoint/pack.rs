//! Packs: files of parts. A part is a batch as an Arrow IPC stream whose buffers are compressed with LZ4, with a checksum in
//! the manifest.
//!
//! ```text
//!   pack    0  8  magic "tidepack"
//!           8  4  format version, 2, little-endian
//!          12  …  parts, one after the other; a manifest says where each begins
//! ```
//! In version 1 a part was a stream without compression, and the whole of it was compressed with zstd. Such a part is told by
//! zstd's magic number, also where it was moved into a newer pack.

use std::collections::HashMap;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::error::ArrowError;
use arrow_ipc::CompressionType;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::CheckpointError;
use super::store::pack_path;
use crate::storage::{Storage, StorageError};

const MAGIC: [u8; 8] = *b"tidepack";
const VERSION: u32 = 2;
const HEADER_BYTES: usize = 12;

/// A pack is written when it has this many bytes; the next one goes on.
const PACK_BYTES: usize = 64 << 20;

/// The state of a million keys with four accumulators becomes 25 MB; zstd at level 1 made it 15 MB.
const COMPRESSION: CompressionType = CompressionType::LZ4_FRAME;

/// What a part of version 1 begins with. A stream begins with 0xFFFFFFFF.
const ZSTD_MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

/// Where a batch is, and how to know that it is the one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Part {
    /// The pack's name in its folder.
    pub file: String,
    /// Where the part begins.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
    /// CRC32C over them.
    pub crc32c: u32,
    /// Rows of the batch.
    pub rows: u64,
}

/// Writes the parts of one checkpoint.
pub struct PackWriter<'a> {
    storage: &'a dyn Storage,
    /// Names the pack of a number.
    name: Box<dyn Fn(u32) -> String + 'a>,
    number: u32,
    bytes: Vec<u8>,
    written: u64,
}

impl<'a> PackWriter<'a> {
    pub(super) fn new(storage: &'a dyn Storage, name: impl Fn(u32) -> String + 'a) -> PackWriter<'a> {
        PackWriter { storage, name: Box::new(name), number: 0, bytes: Vec::new(), written: 0 }
    }

    /// Adds a batch. Its part may be named once [`PackWriter::finish`] has returned.
    pub fn add(&mut self, rows: &RecordBatch) -> Result<Part, CheckpointError> {
        let mut stream = Vec::new();
        let options = IpcWriteOptions::default().try_with_compression(Some(COMPRESSION))?;
        let mut writer = StreamWriter::try_new_with_options(&mut stream, &rows.schema(), options)?;
        writer.write(rows)?;
        writer.finish()?;
        drop(writer);
        self.add_encoded(&stream, rows.num_rows() as u64)
    }

    /// Adds the bytes of a part of another pack.
    pub(super) fn add_encoded(&mut self, encoded: &[u8], rows: u64) -> Result<Part, CheckpointError> {
        if self.bytes.is_empty() {
            self.bytes.extend_from_slice(&MAGIC);
            self.bytes.extend_from_slice(&VERSION.to_le_bytes());
        }
        let part = Part {
            file: (self.name)(self.number),
            offset: self.bytes.len() as u64,
            length: encoded.len() as u64,
            crc32c: crc32c::crc32c(encoded),
            rows,
        };
        self.bytes.extend_from_slice(encoded);
        if self.bytes.len() >= PACK_BYTES {
            self.flush()?;
        }
        Ok(part)
    }

    /// Returns whether a part was added to one of these packs.
    pub(super) fn is_own(&self, part: &Part) -> bool {
        (0..=self.number).any(|number| (self.name)(number) == part.file)
    }

    /// Lets the next part begin a pack of its own: a pack lives as long as its longest-lived part.
    pub fn next_pack(&mut self) -> Result<(), CheckpointError> {
        self.flush()
    }

    /// Makes all parts durable; returns the bytes of all packs.
    pub fn finish(mut self) -> Result<u64, CheckpointError> {
        self.flush()?;
        Ok(self.written)
    }

    fn flush(&mut self) -> Result<(), CheckpointError> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        self.storage.put_new(&pack_path(&(self.name)(self.number)), &self.bytes)?;
        self.number += 1;
        self.written += self.bytes.len() as u64;
        self.bytes.clear();
        Ok(())
    }
}

/// Reads parts; keeps the packs it has read.
pub(super) struct PackReader<'a> {
    storage: &'a dyn Storage,
    packs: HashMap<String, Bytes>,
}

impl<'a> PackReader<'a> {
    pub(super) fn new(storage: &'a dyn Storage) -> PackReader<'a> {
        PackReader { storage, packs: HashMap::new() }
    }

    /// Reads a part and checks it.
    pub(super) fn read(&mut self, part: &Part) -> Result<RecordBatch, CheckpointError> {
        let bytes = self.encoded(part)?;
        let damaged =
            |why: &str| CheckpointError::Damaged { path: pack_path(&part.file), at: part.offset, why: why.to_owned() };
        // The bytes are what was written: what does not fit now is a mistake of ours.
        let decoded = decode(&bytes).map_err(|error| damaged(&error.to_string()))?;
        if decoded.num_rows() as u64 != part.rows {
            return Err(damaged("a part has another number of rows than the manifest says"));
        }
        Ok(decoded)
    }

    /// Reads the bytes of a part and compares their checksum.
    pub(super) fn encoded(&mut self, part: &Part) -> Result<Bytes, CheckpointError> {
        let path = pack_path(&part.file);
        let damaged = |at: u64, why: &str| CheckpointError::Damaged { path: path.clone(), at, why: why.to_owned() };
        let pack = match self.packs.get(&part.file) {
            Some(pack) => pack,
            None => {
                let pack = match self.storage.get(&path) {
                    Ok(pack) => pack,
                    Err(StorageError::Missing { .. }) => return Err(damaged(0, "the file is missing")),
                    Err(error) => return Err(error.into()),
                };
                check_header(&path, &pack)?;
                self.packs.entry(part.file.clone()).or_insert(pack)
            }
        };
        let end = part.offset.checked_add(part.length).filter(|end| *end <= pack.len() as u64);
        let Some(end) = end else { return Err(damaged(pack.len() as u64, "the file ends within a part")) };
        let bytes = pack.slice(part.offset as usize..end as usize);
        if crc32c::crc32c(&bytes) != part.crc32c {
            return Err(damaged(part.offset, "the checksum of a part does not match"));
        }
        Ok(bytes)
    }
}

fn check_header(path: &str, pack: &[u8]) -> Result<(), CheckpointError> {
    let damaged =
        |at: u64| CheckpointError::Damaged { path: path.to_owned(), at, why: "this is no header of a pack".to_owned() };
    let header: &[u8; HEADER_BYTES] = pack.first_chunk().ok_or_else(|| damaged(pack.len() as u64))?;
    let (magic, version) = header.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(damaged(0));
    }
    match u32::from_le_bytes(version.try_into().expect("four bytes")) {
        1..=VERSION => Ok(()),
        version if version > VERSION => {
            Err(CheckpointError::Newer { path: path.to_owned(), version: u64::from(version) })
        }
        _ => Err(damaged(MAGIC.len() as u64)),
    }
}

fn decode(bytes: &[u8]) -> Result<RecordBatch, ArrowError> {
    let unpacked = match bytes.starts_with(&ZSTD_MAGIC) {
        true => Some(zstd::stream::decode_all(bytes).map_err(ArrowError::from)?),
        false => None,
    };
    let reader = StreamReader::try_new(unpacked.as_deref().unwrap_or(bytes), None)?;
    let schema = reader.schema();
    let batches: Vec<RecordBatch> = reader.collect::<Result<_, _>>()?;
    concat_batches(&schema, &batches)
}
