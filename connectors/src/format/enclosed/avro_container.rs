//! Avro object container files, whole in memory.
//!
//! ```text
//!   'O' 'b' 'j' 1 │ metadata: a map of bytes │ mark: 16 bytes │ block │ block │ …
//!   a block:  rows: long │ bytes: long │ records, compressed as "avro.codec" says │ mark
//! ```
//!
//! A block is what Avro writes for an array: a count, then the items. So the reader is given each as a datum that is an array of
//! records; it says where such a datum ends, and what stands behind it is found out.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow_avro::reader::{Decoder, ReaderBuilder};
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use bytes::Bytes;

use super::avro_schema::Schema;
use super::inflate::{Codec, Room};
use super::{ENCLOSED_ROWS_MAX, Unreadable};
use crate::format::Layout;

/// What a container begins with.
pub(crate) const MAGIC: [u8; 4] = *b"Obj\x01";
/// Bytes of the mark behind the head and each block.
const MARK_BYTES: usize = 16;
/// Entries of the metadata.
const ENTRIES_MAX: usize = 1_000;

/// Reads the declared columns of a container that is whole.
pub(super) fn read(payload: &Bytes, layout: &Layout) -> Result<Vec<RecordBatch>, Unreadable> {
    let mut rest = Rest { whole: payload, at: 0 };
    let head = Head::read(&mut rest)?;
    let blocks = blocks(&mut rest, head.mark)?;
    let row_count = blocks.iter().fold(0usize, |sum, block| sum.saturating_add(block.row_count));
    if row_count > ENCLOSED_ROWS_MAX {
        return Err(Unreadable::TooLarge(format!(
            "a container may have {ENCLOSED_ROWS_MAX} rows, this one has {row_count}"
        )));
    }
    let schema = Schema::parse(head.schema)?;
    let is_wanted = |name: &str| {
        let columns = layout.payload().fields();
        columns.iter().any(|column| column.name().split('.').next() == Some(name) || column.name() == name)
    };
    let (all, wanted) = schema.of_rows(is_wanted, row_count)?;
    let mut reader = Reader::new(all.clone(), all.clone())?;
    let columns = reader.columns();
    layout.check_columns(&columns).map_err(Unreadable::Columns)?;
    // What is not declared is skipped, and takes no memory.
    if columns.fields().iter().any(|field| is_wanted(field.name())) {
        reader = Reader::new(all, wanted)?;
    }
    let (mut room, mut batches, mut rows_before) = (Room::new(), Vec::new(), 0);
    for block in &blocks {
        if block.row_count > 0 {
            let damaged = |what: String| {
                Unreadable::Damaged(format!(
                    "not a whole Avro container: the block at byte {}, behind {rows_before} rows: {what}",
                    block.at
                ))
            };
            let mut datum = Vec::new();
            put_long(block.row_count as u64, &mut datum);
            match head.codec {
                None => datum.extend_from_slice(block.bytes),
                Some(Codec::Snappy) => unsnap(block.bytes, &mut room, &mut datum, damaged)?,
                Some(codec) => codec.undo(block.bytes, &mut room, &mut datum, damaged)?,
            }
            // No more blocks of the array.
            datum.push(0);
            batches.push(reader.rows(&datum, block.row_count).map_err(damaged)?);
            rows_before += block.row_count;
        }
    }
    Ok(batches)
}

/// Behind a block of snappy stands the checksum of what it becomes.
fn unsnap(
    packed: &[u8],
    room: &mut Room,
    into: &mut Vec<u8>,
    damaged: impl Fn(String) -> Unreadable,
) -> Result<(), Unreadable> {
    let Some((packed, checksum)) = packed.split_last_chunk::<4>() else {
        return Err(damaged("it has no checksum".to_owned()));
    };
    let start = into.len();
    Codec::Snappy.undo(packed, room, into, &damaged)?;
    let mut found = flate2::Crc::new();
    found.update(&into[start..]);
    match found.sum() == u32::from_be_bytes(*checksum) {
        true => Ok(()),
        false => Err(damaged("its checksum does not fit".to_owned())),
    }
}

/// What stands in front of the blocks.
struct Head<'p> {
    schema: &'p [u8],
    codec: Option<Codec>,
    mark: &'p [u8],
}

impl<'p> Head<'p> {
    fn read(rest: &mut Rest<'p>) -> Result<Head<'p>, Unreadable> {
        if !rest.whole.starts_with(&MAGIC) {
            return Err(Unreadable::Damaged(
                "not an Avro container, which begins with the bytes 4F 62 6A 01".to_owned(),
            ));
        }
        rest.at = MAGIC.len();
        let (mut schema, mut codec, mut entries) = (None, None, 0);
        loop {
            let count = rest.long()?;
            if count == 0 {
                break;
            }
            if count < 0 {
                // Its length in bytes, for those who skip it.
                rest.long()?;
            }
            for _ in 0..count.unsigned_abs() {
                entries += 1;
                if entries > ENTRIES_MAX {
                    return Err(rest.damaged(&format!("its head has more than {ENTRIES_MAX} entries")));
                }
                let (key, value) = (rest.bytes()?, rest.bytes()?);
                match key {
                    b"avro.schema" => schema = Some(value),
                    b"avro.codec" => codec = codec_named(value).map_err(|what| rest.damaged(&what))?,
                    _ => {}
                }
            }
        }
        let schema = schema.ok_or_else(|| rest.damaged("its head has no avro.schema"))?;
        Ok(Head { schema, codec, mark: rest.take(MARK_BYTES)? })
    }
}

fn codec_named(name: &[u8]) -> Result<Option<Codec>, String> {
    match name {
        b"" | b"null" => Ok(None),
        b"deflate" => Ok(Some(Codec::Deflate)),
        b"snappy" => Ok(Some(Codec::Snappy)),
        b"zstandard" => Ok(Some(Codec::Zstd)),
        other => Err(format!(
            "its codec {:?} is not taken: null, deflate, snappy and zstandard are",
            String::from_utf8_lossy(&other[..other.len().min(40)])
        )),
    }
}

struct Block<'p> {
    at: usize,
    row_count: usize,
    bytes: &'p [u8],
}

fn blocks<'p>(rest: &mut Rest<'p>, mark: &[u8]) -> Result<Vec<Block<'p>>, Unreadable> {
    let mut blocks = Vec::new();
    while rest.at < rest.whole.len() {
        let at = rest.at;
        let row_count = rest.long()?;
        let row_count = usize::try_from(row_count).map_err(|_| rest.damaged("a block of fewer than no rows"))?;
        let bytes = rest.bytes()?;
        if rest.take(MARK_BYTES)? != mark {
            return Err(rest.damaged("a block does not end with the mark of this container"));
        }
        // Many blocks without rows are many bytes without sense, and take more in memory than on their way.
        if row_count > 0 {
            blocks.push(Block { at, row_count, bytes });
        }
    }
    Ok(blocks)
}

/// The bytes that were not looked at yet.
struct Rest<'p> {
    whole: &'p [u8],
    at: usize,
}

impl<'p> Rest<'p> {
    fn damaged(&self, what: &str) -> Unreadable {
        Unreadable::Damaged(format!("not a whole Avro container: {what}, at byte {}", self.at))
    }

    fn take(&mut self, count: usize) -> Result<&'p [u8], Unreadable> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.whole.get(self.at..end));
        let taken = taken.ok_or_else(|| self.damaged("it ends in the middle"))?;
        self.at += count;
        Ok(taken)
    }

    fn long(&mut self) -> Result<i64, Unreadable> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(self.damaged("a number of more than ten bytes"))
    }

    fn bytes(&mut self) -> Result<&'p [u8], Unreadable> {
        let length = self.long()?;
        let length = usize::try_from(length).map_err(|_| self.damaged("a negative length"))?;
        self.take(length)
    }
}

fn put_long(value: u64, into: &mut Vec<u8>) {
    let mut rest = value << 1;
    while rest >= 0x80 {
        into.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    into.push(rest as u8);
}

/// Reads data that are arrays of records.
struct Reader {
    decoder: Decoder,
    /// What the decoder is given in front of each datum.
    prefix: [u8; 10],
}

impl Reader {
    fn new(writer: String, reader: String) -> Result<Reader, Unreadable> {
        let unusable = |error: arrow::error::ArrowError| {
            Unreadable::Damaged(format!("not an Avro container whose schema can be used: {error}"))
        };
        let writer = AvroSchema::new(writer);
        let mut prefix = [0xC3, 0x01, 0, 0, 0, 0, 0, 0, 0, 0];
        match writer.fingerprint(FingerprintAlgorithm::Rabin).map_err(unusable)? {
            Fingerprint::Rabin(fingerprint) => prefix[2..].copy_from_slice(&fingerprint.to_le_bytes()),
            other => unreachable!("a fingerprint of another kind: {other:?}"),
        }
        let mut schemas = SchemaStore::new();
        schemas.register(writer).map_err(unusable)?;
        let builder = ReaderBuilder::new().with_writer_schema_store(schemas);
        let builder = builder.with_reader_schema(AvroSchema::new(reader)).with_utf8_view(true).with_batch_size(1);
        Ok(Reader { decoder: builder.build_decoder().map_err(unusable)?, prefix })
    }

    /// Returns the columns of the records.
    fn columns(&self) -> arrow::datatypes::Schema {
        let schema = self.decoder.schema();
        let fields = match schema.field(0).data_type() {
            arrow::datatypes::DataType::List(items) => match items.data_type() {
                arrow::datatypes::DataType::Struct(fields) => fields.clone(),
                _ => Default::default(),
            },
            _ => Default::default(),
        };
        arrow::datatypes::Schema::new(fields)
    }

    /// Reads one datum.
    fn rows(&mut self, datum: &[u8], row_count: usize) -> Result<RecordBatch, String> {
        let told = |error: arrow_avro::errors::AvroError| error.to_string();
        self.decoder.decode(&self.prefix).map_err(told)?;
        let taken = self.decoder.decode(datum).map_err(told)?;
        let batch = self.decoder.flush().map_err(told)?.ok_or("it ends in the middle of a record")?;
        let list = batch.column(0).as_list_opt::<i32>().ok_or("it has no records")?;
        let records = list.values().as_struct_opt().ok_or("it has no records")?;
        if taken != datum.len() || records.len() != row_count {
            return Err(format!("it has more bytes than those of its {row_count} rows"));
        }
        Ok(RecordBatch::from(records))
    }
}
