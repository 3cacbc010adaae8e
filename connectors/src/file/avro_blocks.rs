//! The blocks of an Avro object container file, checked before the library that decodes them sees them.
//!
//! ```text
//!   "Obj" 1 │ metadata: codec, schema │ sync │ { records: long │ bytes: long │ the records, packed │ sync } …
//! ```
//!
//! The library takes a file that is cut off for one that ends there, does not compare the sync marks, and waits for ever at a block
//! that says it has fewer records than it holds. So each block is looked at here: it is whole, ends with the mark of the file,
//! is not a bomb, and its records are as long as it is.

use std::collections::HashMap;
use std::io::{self, BufRead, Read};

use flate2::read::DeflateDecoder;
use serde_json::Value;

/// Bytes of the header, and of a block once it is unpacked. Writers make blocks of 16 KiB to a few MiB.
const BYTES_MAX: usize = 256 << 20;
/// Types inside of types.
const LEVELS_MAX: usize = 64;
const MAGIC: [u8; 4] = *b"Obj\x01";
const SYNC_BYTES: usize = 16;

/// Reads a file and gives the same bytes, a checked block at a time.
pub(super) struct AvroBlocks<R> {
    input: R,
    sync: [u8; SYNC_BYTES],
    codec: String,
    schema: Schema,
    /// What was checked and is not handed out.
    ready: Vec<u8>,
    at: usize,
    block: usize,
}

impl<R: BufRead> AvroBlocks<R> {
    /// Reads the header of a file.
    ///
    /// # Errors
    /// If it is none.
    pub(super) fn open(mut input: R) -> io::Result<AvroBlocks<R>> {
        let mut ready = Vec::new();
        let mut head = Taker { input: &mut input, taken: &mut ready, what: "the header".to_owned() };
        if head.take(MAGIC.len())? != MAGIC {
            return Err(damaged("it does not begin as an Avro file does".to_owned()));
        }
        let (mut codec, mut schema) = ("null".to_owned(), None);
        loop {
            let mut count = head.long()?;
            if count == 0 {
                break;
            }
            if count < 0 {
                head.long()?;
                count = count.saturating_neg();
            }
            for _ in 0..count {
                let key = head.bytes()?;
                let value = head.bytes()?;
                match key.as_slice() {
                    b"avro.codec" => codec = String::from_utf8_lossy(&value).into_owned(),
                    b"avro.schema" => {
                        let json: Value = serde_json::from_slice(&value)
                            .map_err(|error| damaged(format!("its schema is no JSON ({error})")))?;
                        schema = Some(Schema::of(&json).map_err(damaged)?);
                    }
                    _ => {}
                }
            }
        }
        let sync = head.take(SYNC_BYTES)?.try_into().expect("so many were taken");
        let schema = schema.ok_or_else(|| damaged("its header has no schema".to_owned()))?;
        Ok(AvroBlocks { input, sync, codec, schema, ready, at: 0, block: 0 })
    }

    /// Reads the next block; `false` at the end of the file.
    fn next_block(&mut self) -> io::Result<bool> {
        self.ready.clear();
        self.at = 0;
        if self.input.fill_buf()?.is_empty() {
            return Ok(false);
        }
        self.block += 1;
        let what = format!("block {}", self.block);
        let mut block = Taker { input: &mut self.input, taken: &mut self.ready, what: what.clone() };
        let (records, length) = (block.long()?, block.long()?);
        let (Ok(records), Ok(length)) = (usize::try_from(records), usize::try_from(length)) else {
            return Err(damaged(format!("{what} says that it has {records} records and {length} bytes")));
        };
        let packed = block.take(length)?.to_vec();
        if block.take(SYNC_BYTES)? != self.sync {
            return Err(damaged(format!("{what} does not end with the mark of the file")));
        }
        let plain = unpack(&self.codec, packed).map_err(|error| damaged(format!("{what}: {error}")))?;
        // A record of no bytes says nothing, and there could be any number of them.
        let measured = if records <= plain.len() { self.schema.measure(&plain, records) } else { None };
        if measured != Some(plain.len()) {
            return Err(damaged(format!("{what} has {} bytes, which are not {records} records", plain.len())));
        }
        Ok(true)
    }
}

impl<R: BufRead> Read for AvroBlocks<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for AvroBlocks<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.ready.len() {
            self.next_block()?;
        }
        Ok(&self.ready[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at = (self.at + count).min(self.ready.len());
    }
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Takes bytes, and keeps them.
struct Taker<'r, R> {
    input: &'r mut R,
    taken: &'r mut Vec<u8>,
    what: String,
}

impl<R: Read> Taker<'_, R> {
    fn take(&mut self, count: usize) -> io::Result<&[u8]> {
        let start = self.taken.len();
        if count > BYTES_MAX - start.min(BYTES_MAX) {
            return Err(damaged(format!("{} has more than {} MiB", self.what, BYTES_MAX >> 20)));
        }
        // As much as there is, and not as much as the file says.
        let found = (&mut *self.input).take(count as u64).read_to_end(self.taken)?;
        if found < count {
            return Err(damaged(format!("it is cut off in {}", self.what)));
        }
        Ok(&self.taken[start..])
    }

    fn long(&mut self) -> io::Result<i64> {
        let start = self.taken.len();
        loop {
            let byte = self.take(1)?[0];
            if byte < 0x80 || self.taken.len() - start > 10 {
                break;
            }
        }
        let mut at = 0;
        long(&self.taken[start..], &mut at).ok_or_else(|| damaged(format!("{} has a number that is none", self.what)))
    }

    fn bytes(&mut self) -> io::Result<Vec<u8>> {
        let length = self.long()?;
        let length = usize::try_from(length).map_err(|_| damaged(format!("{} has a negative length", self.what)))?;
        Ok(self.take(length)?.to_vec())
    }
}

fn unpack(codec: &str, packed: Vec<u8>) -> io::Result<Vec<u8>> {
    let read = |reader: &mut dyn Read| {
        let mut plain = Vec::new();
        reader.take(BYTES_MAX as u64 + 1).read_to_end(&mut plain)?;
        if plain.len() > BYTES_MAX {
            return Err(damaged(format!("it has more than {} MiB", BYTES_MAX >> 20)));
        }
        Ok(plain)
    };
    match codec {
        "null" => Ok(packed),
        "deflate" => read(&mut DeflateDecoder::new(&packed[..])),
        "zstandard" => read(&mut zstd::stream::read::Decoder::new(&packed[..])?),
        "snappy" => {
            // A checksum stands behind it, which the library looks at.
            let block = packed.get(..packed.len().saturating_sub(4)).unwrap_or_default();
            let length = snap::raw::decompress_len(block).map_err(io::Error::other)?;
            if length > BYTES_MAX {
                return Err(damaged(format!("it has more than {} MiB", BYTES_MAX >> 20)));
            }
            snap::raw::Decoder::new().decompress_vec(block).map_err(io::Error::other)
        }
        other => Err(damaged(format!("the codec {other:?} is not known"))),
    }
}

/// How long what a schema describes is.
enum Shape {
    Fixed(usize),
    Number,
    /// A length, and so many bytes.
    Bytes,
    Record(Vec<Shape>),
    /// Blocks of items; of a map each has a key.
    Items(Box<Shape>, Keys),
    Union(Vec<Shape>),
    Named(String),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    None,
    Text,
}

struct Schema {
    whole: Shape,
    named: HashMap<String, Shape>,
}

impl Schema {
    fn of(json: &Value) -> Result<Schema, String> {
        let mut named = HashMap::new();
        let whole = shape(json, "", &mut named, 0)?;
        Ok(Schema { whole, named })
    }

    /// Returns how many bytes so many records take at the beginning of these; `None` if there are fewer.
    fn measure(&self, data: &[u8], records: usize) -> Option<usize> {
        let mut at = 0;
        for _ in 0..records {
            self.skip(&self.whole, data, &mut at, 0)?;
        }
        Some(at)
    }

    fn skip(&self, shape: &Shape, data: &[u8], at: &mut usize, level: usize) -> Option<()> {
        if level > LEVELS_MAX {
            return None;
        }
        let bytes = |count: usize, at: &mut usize| {
            *at = at.checked_add(count).filter(|end| *end <= data.len())?;
            Some(())
        };
        match shape {
            Shape::Fixed(count) => bytes(*count, at),
            Shape::Number => long(data, at).map(drop),
            Shape::Bytes => {
                let length = usize::try_from(long(data, at)?).ok()?;
                bytes(length, at)
            }
            Shape::Record(fields) => fields.iter().try_for_each(|field| self.skip(field, data, at, level + 1)),
            Shape::Union(branches) => {
                let branch = usize::try_from(long(data, at)?).ok()?;
                self.skip(branches.get(branch)?, data, at, level + 1)
            }
            Shape::Named(name) => self.skip(self.named.get(name)?, data, at, level + 1),
            Shape::Items(item, keys) => loop {
                let mut count = long(data, at)?;
                if count == 0 {
                    return Some(());
                }
                if count < 0 {
                    long(data, at)?;
                    count = count.checked_neg()?;
                }
                // Items of no bytes could be any number.
                let count = usize::try_from(count).ok().filter(|count| *count <= data.len())?;
                for _ in 0..count {
                    if *keys == Keys::Text {
                        self.skip(&Shape::Bytes, data, at, level + 1)?;
                    }
                    self.skip(item, data, at, level + 1)?;
                }
            },
        }
    }
}

fn shape(json: &Value, space: &str, named: &mut HashMap<String, Shape>, level: usize) -> Result<Shape, String> {
    if level > LEVELS_MAX {
        return Err(format!("its schema has more than {LEVELS_MAX} levels"));
    }
    let mut of = |json: &Value, space: &str| shape(json, space, named, level + 1);
    match json {
        Value::String(word) => Ok(primitive(word).unwrap_or_else(|| Shape::Named(full_name(word, space)))),
        Value::Array(branches) => {
            branches.iter().map(|branch| of(branch, space)).collect::<Result<_, _>>().map(Shape::Union)
        }
        Value::Object(object) => {
            let missing = |what: &str| format!("its schema has a type without {what}");
            let name = object.get("name").and_then(Value::as_str).unwrap_or_default();
            let space = object.get("namespace").and_then(Value::as_str).unwrap_or(space);
            let full = full_name(name, space);
            let space = full.rsplit_once('.').map_or("", |(space, _)| space).to_owned();
            let found = match object.get("type").ok_or_else(|| missing("a type"))? {
                Value::String(word) => match word.as_str() {
                    "record" | "error" => {
                        let fields = object.get("fields").and_then(Value::as_array).ok_or_else(|| missing("fields"))?;
                        let field = |field: &Value| of(field.get("type").ok_or_else(|| missing("a type"))?, &space);
                        Shape::Record(fields.iter().map(field).collect::<Result<_, _>>()?)
                    }
                    "enum" => Shape::Number,
                    "fixed" => {
                        let size = object.get("size").and_then(Value::as_u64).ok_or_else(|| missing("a size"))?;
                        Shape::Fixed(usize::try_from(size).map_err(|error| error.to_string())?)
                    }
                    "array" => {
                        let items = object.get("items").ok_or_else(|| missing("items"))?;
                        return Ok(Shape::Items(Box::new(of(items, &space)?), Keys::None));
                    }
                    "map" => {
                        let values = object.get("values").ok_or_else(|| missing("values"))?;
                        return Ok(Shape::Items(Box::new(of(values, &space)?), Keys::Text));
                    }
                    _ => return of(&Value::String(word.clone()), &space),
                },
                inner => return of(inner, &space),
            };
            named.insert(full.clone(), found);
            Ok(Shape::Named(full))
        }
        other => Err(format!("its schema has {other} in place of a type")),
    }
}

fn primitive(word: &str) -> Option<Shape> {
    Some(match word {
        "null" => Shape::Fixed(0),
        "boolean" => Shape::Fixed(1),
        "int" | "long" => Shape::Number,
        "float" => Shape::Fixed(4),
        "double" => Shape::Fixed(8),
        "bytes" | "string" => Shape::Bytes,
        _ => return None,
    })
}

fn full_name(name: &str, space: &str) -> String {
    if name.contains('.') || space.is_empty() { name.to_owned() } else { format!("{space}.{name}") }
}

/// Reads a number: seven bits in each byte, the lowest first, the sign in the lowest of all.
fn long(data: &[u8], at: &mut usize) -> Option<i64> {
    let mut number = 0u64;
    for place in 0..10 {
        let byte = *data.get(*at)?;
        *at += 1;
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            return Some((number >> 1) as i64 ^ -((number & 1) as i64));
        }
    }
    None
}

#[cfg(test)]
mod tests {
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
        file.extend([7; SYNC_BYTES]);
        for (records, data) in blocks {
            assert!(data.len() < 64, "a length of one byte");
            file.extend([records << 1, (data.len() as u8) << 1]);
            file.extend(*data);
            file.extend([7; SYNC_BYTES]);
        }
        file
    }

    fn read(bytes: &[u8]) -> Result<Vec<u8>, String> {
        let mut all = Vec::new();
        let whole = AvroBlocks::open(bytes).and_then(|mut blocks| blocks.read_to_end(&mut all));
        whole.map(|_| all).map_err(|error| error.to_string())
    }

    #[test]
    fn whole_files_come_as_they_are() {
        let two = [RECORD, RECORD].concat();
        for blocks in [&[][..], &[(1, RECORD)], &[(1, RECORD), (2, &two)], &[(0, b"")]] {
            let file = file("null", blocks);
            assert_eq!(read(&file).as_ref(), Ok(&file));
        }
    }

    #[test]
    fn what_is_not_whole_is_told_with_its_place() {
        let good = file("null", &[(1, RECORD), (1, RECORD)]);
        for end in good.len() - 40..good.len() {
            let told = read(&good[..end]);
            if end == good.len() - RECORD.len() - 2 - SYNC_BYTES {
                continue;
            }
            assert_eq!(told, Err("it is cut off in block 2".to_owned()), "{end}");
        }
        let mut other_mark = good.clone();
        *other_mark.last_mut().unwrap() ^= 1;
        let (longer, shorter) = ([RECORD, b"x"].concat(), &RECORD[..RECORD.len() - 1]);
        for (bytes, expected) in [
            (other_mark, "block 2 does not end with the mark of the file"),
            (file("null", &[(1, &longer)]), "block 1 has 27 bytes, which are not 1 records"),
            (file("null", &[(1, shorter)]), "which are not 1 records"),
            (file("null", &[(2, RECORD)]), "which are not 2 records"),
            (file("null", &[(0, RECORD)]), "which are not 0 records"),
            (file("lzma", &[(1, RECORD)]), "the codec \"lzma\" is not known"),
            (file("deflate", &[(1, RECORD)]), "block 1: "),
            (b"PAR1".to_vec(), "does not begin as an Avro file does"),
            (good[..30].to_vec(), "it is cut off in the header"),
        ] {
            let told = read(&bytes).expect_err(expected);
            assert!(told.contains(expected), "{told}");
        }
    }
}
