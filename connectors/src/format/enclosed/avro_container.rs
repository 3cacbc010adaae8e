//! Avro object container files: bodies, messages and files.
//!
//! ```text
//!   'O' 'b' 'j' 1 │ metadata: a map of bytes │ mark: 16 bytes │ block │ block │ …
//!   a block:  rows: long │ bytes: long │ records, compressed as "avro.codec" says │ mark
//! ```
//!
//! A block is what Avro writes for an array: a count, then the items. So the reader is given each as a datum that is an array of
//! records; it says where such a datum ends, and what stands behind it is found out. The reader for files of the same library
//! takes a file that is cut off for one that ends there, does not compare the marks, waits for ever at a block that says it has
//! fewer records than it holds, and does not find names with a dot again.

use std::io::BufRead;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow_avro::reader::{Decoder, ReaderBuilder};
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};

use super::avro_input::{Input, put_long};
use super::avro_schema::{self, Rows};
use super::inflate::{Codec, Room};
use super::{ENCLOSED_BYTES_MAX, ENCLOSED_ROWS_MAX, Unreadable};
use crate::format::Layout;

/// What a container begins with.
pub(crate) const MAGIC: [u8; 4] = *b"Obj\x01";
/// Bytes of the mark behind the head and each block.
const MARK_BYTES: usize = 16;
/// Entries of the metadata.
const ENTRIES_MAX: usize = 1_000;
/// Bytes of a block of a file, as it lies there and once it is decompressed. Writers make blocks of 16 KiB to a few MiB.
const BLOCK_BYTES_MAX: u64 = 256 << 20;
/// Rows of a block of a file: they are columns in memory all at once.
const BLOCK_ROWS_MAX: usize = 8 << 20;

/// Where a container is, and so what its limits are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Within {
    /// In a payload: they are for all of it.
    Payload,
    /// In a file of any length: they are for each block.
    File,
}

impl Within {
    fn rows_max(self) -> usize {
        match self {
            Within::Payload => ENCLOSED_ROWS_MAX,
            Within::File => BLOCK_ROWS_MAX,
        }
    }

    fn bytes_max(self) -> u64 {
        match self {
            Within::Payload => ENCLOSED_BYTES_MAX,
            Within::File => BLOCK_BYTES_MAX,
        }
    }

    fn room(self) -> Room {
        match self {
            Within::Payload => Room::of_payload(),
            Within::File => Room::of_block(BLOCK_BYTES_MAX),
        }
    }
}

/// The declared columns of a container, block by block. After an error it is not to be asked again.
pub(crate) struct AvroContainer<R> {
    input: Input<R>,
    within: Within,
    codec: Option<Codec>,
    mark: Vec<u8>,
    /// What its schema says of a row.
    of_row: Rows,
    reader: Reader,
    schema: SchemaRef,
    /// What is left of the limits.
    room: Room,
    rows: usize,
    rows_before: u64,
}

impl<R: BufRead> AvroContainer<R> {
    /// Reads what stands in front of the blocks.
    ///
    /// # Errors
    /// It is no container, or its columns cannot become the declared ones.
    pub(crate) fn open(input: R, layout: &Layout, within: Within) -> Result<AvroContainer<R>, Unreadable> {
        let mut input = Input::new(input, within.bytes_max());
        let head = Head::read(&mut input)?;
        let schema = avro_schema::Schema::parse(&head.schema)?;
        let is_wanted = |name: &str| {
            let columns = layout.payload().fields();
            columns.iter().any(|column| column.name().split('.').next() == Some(name) || column.name() == name)
        };
        let of_row = schema.of_rows(is_wanted)?;
        let mut reader = Reader::new(of_row.all.clone(), of_row.all.clone())?;
        let columns = reader.columns();
        layout.check_columns(&columns).map_err(Unreadable::Columns)?;
        // What is not declared is skipped, and takes no memory.
        if columns.fields().iter().any(|field| is_wanted(field.name())) {
            reader = Reader::new(of_row.all.clone(), of_row.wanted.clone())?;
        }
        let schema = Arc::new(reader.columns());
        let (codec, mark, room) = (head.codec, head.mark, within.room());
        Ok(AvroContainer { input, within, codec, mark, of_row, reader, schema, room, rows: 0, rows_before: 0 })
    }

    /// Returns the columns of each batch.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn next_block(&mut self) -> Result<Option<RecordBatch>, Unreadable> {
        let mut packed = Vec::new();
        loop {
            if self.input.is_over()? {
                return Ok(None);
            }
            let at = self.input.at();
            let row_count = self.input.long()?;
            let row_count =
                usize::try_from(row_count).map_err(|_| self.input.damaged("a block of fewer than no rows"))?;
            packed.clear();
            self.input.bytes_into(&mut packed)?;
            if self.input.take(MARK_BYTES)? != self.mark {
                return Err(self.input.damaged("a block does not end with the mark of this container"));
            }
            if let Some(batch) = self.rows_of(at, row_count, &packed)? {
                return Ok(Some(batch));
            }
        }
    }

    /// Reads the rows of a block; `None` if it has none.
    fn rows_of(&mut self, at: u64, row_count: usize, packed: &[u8]) -> Result<Option<RecordBatch>, Unreadable> {
        if self.within == Within::File {
            (self.room, self.rows) = (self.within.room(), 0);
        }
        self.rows = self.rows.saturating_add(row_count);
        let (rows, rows_max) = (self.rows, self.within.rows_max());
        if rows > rows_max {
            let what = if self.within == Within::File { "a block" } else { "a container" };
            return Err(Unreadable::TooLarge(format!("{what} may have {rows_max} rows, this one has {rows}")));
        }
        self.of_row.check(rows, self.within.bytes_max())?;
        let rows_before = self.rows_before;
        let damaged = |what: String| {
            let place = format!("the block at byte {at}, behind {rows_before} rows");
            Unreadable::Damaged(format!("not a whole Avro container: {place}: {what}"))
        };
        let mut datum = Vec::new();
        put_long(row_count as u64, &mut datum);
        let start = datum.len();
        match self.codec {
            None => datum.extend_from_slice(packed),
            Some(Codec::Snappy) => unsnap(packed, &mut self.room, &mut datum, damaged)?,
            Some(codec) => codec.undo(packed, &mut self.room, &mut datum, damaged)?,
        }
        let bytes = datum.len() - start;
        let could_be = if row_count == 0 { bytes == 0 } else { self.of_row.could_be(row_count, bytes) };
        if !could_be {
            return Err(damaged(format!("it has {bytes} bytes, which are not {row_count} records")));
        }
        if row_count == 0 {
            return Ok(None);
        }
        // No more blocks of the array.
        datum.push(0);
        let batch = self.reader.rows(&datum, row_count).map_err(damaged)?;
        self.rows_before += row_count as u64;
        Ok(Some(batch))
    }
}

impl<R: BufRead> Iterator for AvroContainer<R> {
    type Item = Result<RecordBatch, Unreadable>;

    fn next(&mut self) -> Option<Result<RecordBatch, Unreadable>> {
        self.next_block().transpose()
    }
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
struct Head {
    schema: Vec<u8>,
    codec: Option<Codec>,
    mark: Vec<u8>,
}

impl Head {
    fn read(input: &mut Input<impl BufRead>) -> Result<Head, Unreadable> {
        if input.take(MAGIC.len()).ok().is_none_or(|bytes| bytes != MAGIC) {
            return Err(Unreadable::Damaged(
                "not an Avro container, which begins with the bytes 4F 62 6A 01".to_owned(),
            ));
        }
        let (mut schema, mut codec, mut entries) = (None, None, 0);
        loop {
            let count = input.long()?;
            if count == 0 {
                break;
            }
            if count < 0 {
                // Its length in bytes, for those who skip it.
                input.long()?;
            }
            for _ in 0..count.unsigned_abs() {
                entries += 1;
                if entries > ENTRIES_MAX {
                    return Err(input.damaged(&format!("its head has more than {ENTRIES_MAX} entries")));
                }
                let (key, value) = (input.bytes()?, input.bytes()?);
                match key.as_slice() {
                    b"avro.schema" => schema = Some(value),
                    b"avro.codec" => codec = codec_named(&value).map_err(|what| input.damaged(&what))?,
                    _ => {}
                }
            }
        }
        let schema = schema.ok_or_else(|| input.damaged("its head has no avro.schema"))?;
        Ok(Head { schema, codec, mark: input.take(MARK_BYTES)? })
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

/// Reads data that are arrays of records.
struct Reader {
    decoder: Decoder,
    /// What the decoder is given in front of each datum.
    prefix: [u8; 10],
}

impl Reader {
    fn new(writer: String, reader: String) -> Result<Reader, Unreadable> {
        let unusable =
            |error: ArrowError| Unreadable::Damaged(format!("not an Avro container whose schema can be used: {error}"));
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
    fn columns(&self) -> Schema {
        let schema = self.decoder.schema();
        let fields = match schema.field(0).data_type() {
            DataType::List(items) => match items.data_type() {
                DataType::Struct(fields) => fields.clone(),
                _ => Default::default(),
            },
            _ => Default::default(),
        };
        Schema::new(fields)
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

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, TimeUnit};

    use super::*;

    const SCHEMA: &str = r#"{"type": "record", "name": "r", "namespace": "a.b", "fields": [
        {"name": "n", "type": ["null", "long"]},
        {"name": "of", "type": {"type": "map", "values": {"type": "array", "items": "string"}}},
        {"name": "id", "type": {"type": "fixed", "name": "Id", "size": 2}},
        {"name": "same", "type": "a.b.Id"},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["x", "y"]}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "d", "type": "double"}]}"#;

    /// n = 1, of = {"k": ["v", ""]}, id, same, kind, at, d.
    const RECORD: &[u8] = b"\x02\x02\x02\x02k\x04\x02v\0\0\0idid\x02\x80\x01\0\0\0\0\0\0\0\0";

    fn layout() -> Layout {
        let at = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        Layout::new(&Arc::new(Schema::new(vec![
            Field::new("n", DataType::Int64, true),
            Field::new("kind", DataType::Utf8View, true),
            Field::new("at", at, false),
        ])))
    }

    fn file(codec: &str, blocks: &[(u8, &[u8])]) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        let mut pair = |key: &str, value: &str| {
            for text in [key, value] {
                let length = (text.len() as u32) << 1;
                file.extend([(length & 0x7f) as u8 | 0x80, (length >> 7 & 0x7f) as u8 | 0x80, (length >> 14) as u8]);
                file.extend(text.bytes());
            }
        };
        // The number of pairs stands in front of them.
        pair("avro.codec", codec);
        pair("avro.schema", SCHEMA);
        file.insert(MAGIC.len(), 4);
        file.push(0);
        file.extend([7; MARK_BYTES]);
        for (records, data) in blocks {
            assert!(data.len() < 64, "a length of one byte");
            file.extend([records << 1, (data.len() as u8) << 1]);
            file.extend(*data);
            file.extend([7; MARK_BYTES]);
        }
        file
    }

    /// Reads all rows: how many there are, and how they look.
    fn read(bytes: &[u8], within: Within) -> Result<(usize, Vec<String>), String> {
        let told = |unreadable: Unreadable| unreadable.reason();
        let container = AvroContainer::open(bytes, &layout(), within).map_err(told)?;
        let names = container.schema().fields().iter().map(|field| field.name().clone()).collect();
        let batches: Vec<RecordBatch> = container.collect::<Result<_, _>>().map_err(told)?;
        for batch in &batches {
            assert_eq!(batch.column(0).as_primitive::<arrow::datatypes::Int64Type>().value(0), 1);
        }
        Ok((batches.iter().map(RecordBatch::num_rows).sum(), names))
    }

    #[test]
    fn whole_files_give_all_rows_with_the_columns_that_are_declared() {
        let two = [RECORD, RECORD].concat();
        let names: Vec<String> = ["n", "kind", "at"].map(str::to_owned).to_vec();
        for (blocks, rows) in
            [(&[][..], 0), (&[(1, RECORD)], 1), (&[(1, RECORD), (0, b""), (2, &two)], 3), (&[(0, b"")], 0)]
        {
            for within in [Within::Payload, Within::File] {
                assert_eq!(read(&file("null", blocks), within), Ok((rows, names.clone())), "{rows} {within:?}");
            }
        }
    }

    #[test]
    fn what_is_not_whole_is_told_with_its_place() {
        let good = file("null", &[(1, RECORD), (1, RECORD)]);
        let second = good.len() - RECORD.len() - 2 - MARK_BYTES;
        for end in good.len() - 40..good.len() {
            let told = read(&good[..end], Within::File);
            if end == second {
                continue;
            }
            let told = told.expect_err("cut off");
            assert!(told.starts_with("not a whole Avro container: it ends in the middle, at byte "), "{end}: {told}");
        }
        let mut other_mark = good.clone();
        *other_mark.last_mut().unwrap() ^= 1;
        let (longer, shorter) = ([RECORD, b"\0"].concat(), &RECORD[..RECORD.len() - 1]);
        let first = file("null", &[]).len();
        let in_the_first = format!("the block at byte {first}, behind 0 rows: ");
        let in_the_second = format!("the block at byte {second}, behind 1 rows: ");
        for (bytes, expected) in [
            (other_mark, "a block does not end with the mark of this container"),
            (file("null", &[(1, &longer)]), in_the_first.as_str()),
            (file("null", &[(1, &longer)]), "it has more bytes than those of its 1 rows"),
            (file("null", &[(1, shorter)]), &in_the_first),
            (file("null", &[(1, RECORD), (2, RECORD)]), &in_the_second),
            (file("null", &[(63, RECORD)]), "it has 26 bytes, which are not 63 records"),
            (file("null", &[(0, RECORD)]), "it has 26 bytes, which are not 0 records"),
            (file("lzma", &[(1, RECORD)]), "its codec \"lzma\" is not taken"),
            (file("deflate", &[(1, RECORD)]), "behind 0 rows: "),
            (b"PAR1".to_vec(), "not an Avro container, which begins with"),
            (good[..30].to_vec(), "it ends in the middle"),
        ] {
            for within in [Within::Payload, Within::File] {
                let told = read(&bytes, within).expect_err(expected);
                assert!(told.contains(expected), "{told}");
            }
        }
    }
}
