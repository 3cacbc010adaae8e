//! Arrow files of any length: with a footer, or as streams. Read a message at a time, with buffers that are plain or compressed.
//!
//! ```text
//!   file:    "ARROW1" 0 0 │ schema │ dictionaries and batches │ end mark │ footer: where they are │ its length: i32 │ "ARROW1"
//!   stream:  schema │ dictionaries and batches │ end mark, or the end
//! ```
//!
//! The readers of Arrow know of compression what they were built with, and allocate what a message says. So messages are looked at
//! and decompressed here, as those of payloads are, and the readers are given the plain ones.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::{Buffer, MutableBuffer};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::reader::{FileDecoder, StreamReader};
use arrow::ipc::{self, Block};

use super::Unreadable;
use super::buffers::{self, Part};
use super::inflate::Room;
use super::stream::{CONTINUATION, check_message};

/// What a file with a footer begins and ends with.
const MAGIC: &[u8; 6] = b"ARROW1";
/// The length of the footer, and the magic behind it.
const TAIL_BYTES: usize = 10;
/// Bytes of the buffers of one message once they are decompressed.
const MESSAGE_BYTES_MAX: u64 = 1 << 30;

/// The batches of a file. After an error it is not to be asked again.
pub(crate) struct ArrowFile<R> {
    schema: SchemaRef,
    batches: Batches<R>,
}

enum Batches<R> {
    Footed(Footed<R>),
    Stream(Box<StreamReader<Plain<R>>>),
}

impl<R: Read + Seek> ArrowFile<R> {
    /// Reads what says which columns there are.
    ///
    /// # Errors
    /// It is no file of Arrow.
    pub(crate) fn open(mut input: R) -> Result<ArrowFile<R>, Unreadable> {
        let mut head = Vec::new();
        let read = (&mut input).take(MAGIC.len() as u64).read_to_end(&mut head);
        read.and_then(|_| input.rewind()).map_err(|error| damaged(&error))?;
        if head == MAGIC {
            let footed = Footed::open(input)?;
            return Ok(ArrowFile { schema: Arc::clone(&footed.schema), batches: Batches::Footed(footed) });
        }
        let plain = Plain { input, messages: 0, ready: Vec::new(), at: 0 };
        let reader = StreamReader::try_new(plain, None).map_err(|error| damaged_stream(&error))?;
        Ok(ArrowFile { schema: reader.schema(), batches: Batches::Stream(Box::new(reader)) })
    }

    /// Returns the columns of each batch.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }
}

impl<R: Read + Seek> Iterator for ArrowFile<R> {
    type Item = Result<RecordBatch, Unreadable>;

    fn next(&mut self) -> Option<Result<RecordBatch, Unreadable>> {
        match &mut self.batches {
            Batches::Footed(footed) => footed.next_batch().transpose(),
            Batches::Stream(reader) => reader.next().map(|batch| batch.map_err(|error| damaged_stream(&error))),
        }
    }
}

fn damaged(what: &dyn std::fmt::Display) -> Unreadable {
    Unreadable::Damaged(format!("not a whole Arrow file: {what}"))
}

fn damaged_stream(error: &ArrowError) -> Unreadable {
    match error {
        // What was found before the reader saw it.
        ArrowError::IoError(what, _) => damaged(what),
        other => damaged(other),
    }
}

/// A file whose footer says where its messages are.
struct Footed<R> {
    input: R,
    bytes: u64,
    schema: SchemaRef,
    decoder: FileDecoder,
    blocks: std::vec::IntoIter<Block>,
}

impl<R: Read + Seek> Footed<R> {
    fn open(mut input: R) -> Result<Footed<R>, Unreadable> {
        let (bytes, footer) = footer(&mut input).map_err(|error| damaged(&error))?;
        let footer = ipc::root_as_footer(&footer).map_err(|error| damaged(&format!("its footer: {error}")))?;
        let schema = footer.schema().ok_or_else(|| damaged(&"its footer has no schema"))?;
        if !schema.endianness().equals_to_target_endianness() {
            return Err(damaged(&"its numbers are written the other way round (big-endian)"));
        }
        let schema = Arc::new(fb_to_schema(schema));
        let decoder = FileDecoder::new(Arc::clone(&schema), footer.version());
        let blocks: Vec<Block> = footer.recordBatches().into_iter().flatten().copied().collect();
        let dictionaries: Vec<Block> = footer.dictionaries().into_iter().flatten().copied().collect();
        let mut footed = Footed { input, bytes, schema, decoder, blocks: blocks.into_iter() };
        for block in dictionaries {
            let (block, message) = footed.message(&block)?;
            footed.decoder.read_dictionary(&block, &message).map_err(|error| damaged(&error))?;
        }
        Ok(footed)
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>, Unreadable> {
        loop {
            let Some(block) = self.blocks.next() else { return Ok(None) };
            let (block, message) = self.message(&block)?;
            let batch = self.decoder.read_record_batch(&block, &message).map_err(|error| damaged(&error))?;
            if batch.is_some() {
                return Ok(batch);
            }
        }
    }

    /// Reads a message, and says how its parts are once its buffers are plain.
    fn message(&mut self, block: &Block) -> Result<(Block, Buffer), Unreadable> {
        let place = format!("the message at byte {}", block.offset());
        let lies_outside = || damaged(&format!("{place} lies outside of it"));
        let part = |bytes: i64| u64::try_from(bytes).map_err(|_| lies_outside());
        let (offset, head_bytes) = (part(block.offset())?, part(i64::from(block.metaDataLength()))?);
        let length = head_bytes.checked_add(part(block.bodyLength())?).ok_or_else(lies_outside)?;
        if offset.checked_add(length).is_none_or(|end| end > self.bytes) || head_bytes < 8 {
            return Err(lies_outside());
        }
        let mut message = MutableBuffer::from_len_zeroed(usize::try_from(length).map_err(|_| lies_outside())?);
        let read = self.input.seek(SeekFrom::Start(offset)).and_then(|_| self.input.read_exact(&mut message));
        read.map_err(|error| damaged(&error))?;
        let (head, body) = message.split_at(head_bytes as usize);
        match plain(head, body).map_err(|what| damaged(&format!("{place}: {what}")))? {
            None => Ok((*block, message.into())),
            Some(inflated) => {
                let head_bytes = 8 + i32::from_le_bytes([inflated[4], inflated[5], inflated[6], inflated[7]]);
                let body_bytes = inflated.len() as i64 - i64::from(head_bytes);
                Ok((Block::new(block.offset(), head_bytes, body_bytes), Buffer::from_vec(inflated)))
            }
        }
    }
}

/// Reads the footer of a file, and how long the file is.
fn footer(input: &mut (impl Read + Seek)) -> io::Result<(u64, Vec<u8>)> {
    let none = || io::Error::new(io::ErrorKind::UnexpectedEof, "it has no footer: it is cut off, or still written");
    let bytes = input.seek(SeekFrom::End(0))?;
    let tail_at = bytes.checked_sub(TAIL_BYTES as u64).ok_or_else(none)?;
    let mut tail = [0; TAIL_BYTES];
    input.seek(SeekFrom::Start(tail_at))?;
    input.read_exact(&mut tail)?;
    let (length, magic) = tail.split_at(4);
    let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
    let footer_at = tail_at.checked_sub(u64::from(length)).filter(|_| magic == MAGIC).ok_or_else(none)?;
    input.seek(SeekFrom::Start(footer_at))?;
    let mut footer = vec![0; length as usize];
    input.read_exact(&mut footer)?;
    Ok((bytes, footer))
}

/// Looks at a message, and writes it anew if its buffers are compressed.
fn plain(head: &[u8], body: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let metadata = if head.starts_with(&CONTINUATION) { &head[8..] } else { &head[4..] };
    let message = ipc::root_as_message(metadata).map_err(|error| error.to_string())?;
    check_message(&message, body.len())?;
    let (mut inflated, mut room) = (Vec::new(), Room::of_block(MESSAGE_BYTES_MAX));
    let inflating = buffers::inflate(&Part { message, head, body }, &mut room, &mut inflated, Unreadable::Damaged);
    let is_compressed = inflating.map_err(Unreadable::reason)?;
    Ok(is_compressed.then_some(inflated))
}

/// A stream, with its messages made plain.
struct Plain<R> {
    input: R,
    messages: usize,
    /// What is not handed out yet.
    ready: Vec<u8>,
    at: usize,
}

impl<R: Read> Plain<R> {
    /// Reads the next message; nothing is ready at the end.
    fn next_message(&mut self) -> io::Result<()> {
        self.messages += 1;
        (self.at, self.ready) = (0, Vec::new());
        let mut message = Vec::new();
        self.take(4, &mut message)?;
        if message == CONTINUATION {
            self.take(4, &mut message)?;
        }
        // The end may be there without its mark.
        let Some(length) = message.last_chunk::<4>().map(|length| u32::from_le_bytes(*length)) else { return Ok(()) };
        let (metadata_at, length) = (message.len(), length as usize);
        self.take(length as u64, &mut message)?;
        let head_bytes = metadata_at + length;
        if length == 0 || message.len() < head_bytes {
            // The mark, or an end in the middle, which the reader tells.
            self.ready = message;
            return Ok(());
        }
        let place = format!("message {}", self.messages);
        let wrong =
            |what: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, format!("{place}: {what}"));
        let body_bytes = ipc::root_as_message(&message[metadata_at..]).map_err(|error| wrong(&error))?.bodyLength();
        let body_bytes = usize::try_from(body_bytes).map_err(|_| wrong(&"a negative length"))?;
        self.take(body_bytes as u64, &mut message)?;
        let (head, body) = message.split_at(head_bytes);
        if body.len() < body_bytes {
            return Err(wrong(&"it ends in the middle"));
        }
        let inflated = plain(head, body).map_err(|what| wrong(&what))?;
        self.ready = inflated.unwrap_or(message);
        Ok(())
    }

    /// As much as there is, and not as much as it says.
    fn take(&mut self, count: u64, into: &mut Vec<u8>) -> io::Result<()> {
        (&mut self.input).take(count).read_to_end(into).map(drop)
    }
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.ready.len() {
            self.next_message()?;
        }
        let count = (&self.ready[self.at..]).read(into)?;
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use arrow::array::{Array, ArrayRef, AsArray, Float64Array, StringDictionaryBuilder};
    use arrow::datatypes::{Float64Type, Int32Type};
    use arrow::ipc::CompressionType;
    use arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};

    use super::*;

    fn corpus(name: &str) -> Vec<u8> {
        std::fs::read(format!("{}/src/format/corpus/{name}", env!("CARGO_MANIFEST_DIR"))).expect("a file of the corpus")
    }

    fn batch(rows: usize) -> RecordBatch {
        let mut names = StringDictionaryBuilder::<Int32Type>::new();
        (0..rows).for_each(|row| names.append_value(["a", "b"][row % 2]));
        let values: ArrayRef = Arc::new(Float64Array::from_iter_values((0..rows).map(|row| row as f64)));
        RecordBatch::try_from_iter([("device", Arc::new(names.finish()) as ArrayRef), ("v", values)]).expect("columns")
    }

    fn written(compression: Option<CompressionType>) -> [Vec<u8>; 2] {
        let options = || IpcWriteOptions::default().try_with_compression(compression).expect("a codec");
        let (first, second) = (batch(1_000), batch(10));
        let mut file = FileWriter::try_new_with_options(Vec::new(), &first.schema(), options()).expect("a file");
        let mut stream = StreamWriter::try_new_with_options(Vec::new(), &first.schema(), options()).expect("a stream");
        file.write(&first).expect("written");
        file.finish().expect("finished");
        for batch in [&first, &second] {
            stream.write(batch).expect("written");
        }
        stream.finish().expect("finished");
        [file.into_inner().expect("finished"), stream.into_inner().expect("finished")]
    }

    fn read(bytes: &[u8]) -> Result<(usize, f64), String> {
        let file = ArrowFile::open(Cursor::new(bytes)).map_err(Unreadable::reason)?;
        let schema = Arc::clone(file.schema());
        let (mut rows, mut sum) = (0, 0.0);
        for batch in file {
            let batch = batch.map_err(Unreadable::reason)?;
            assert_eq!(batch.schema(), schema);
            let values = batch.column_by_name("v").or(batch.column_by_name("temperature")).expect("a number");
            sum += values.as_primitive::<Float64Type>().iter().flatten().sum::<f64>();
            rows += values.len();
        }
        Ok((rows, sum))
    }

    #[test]
    fn files_and_streams_are_read_plain_and_compressed() {
        for compression in [None, Some(CompressionType::LZ4_FRAME)] {
            let [file, stream] = written(compression);
            assert_eq!(read(&file), Ok((1_000, 499_500.0)), "{compression:?}");
            assert_eq!(read(&stream), Ok((1_010, 499_545.0)), "{compression:?}");
            // The end mark is not needed.
            assert_eq!(read(&stream[..stream.len() - 8]), Ok((1_010, 499_545.0)));
        }
    }

    #[test]
    fn what_is_cut_off_or_lies_is_refused() {
        for compression in [None, Some(CompressionType::LZ4_FRAME)] {
            let [file, stream] = written(compression);
            for end in (0..file.len()).step_by(7) {
                let told = read(&file[..end]).expect_err("cut off");
                assert!(told.starts_with("not a whole Arrow file: "), "{end}: {told}");
            }
            for end in (0..stream.len() - 8).step_by(7) {
                match read(&stream[..end]) {
                    Err(told) => {
                        assert!(told.starts_with("not a whole Arrow file: "), "{end}: {told}");
                        assert!(!told.contains("Io error"), "{end}: {told}");
                    }
                    Ok((rows, _)) => assert!(rows <= 1_000, "it may end behind a message"),
                }
            }
            for place in (8..file.len() - TAIL_BYTES).step_by(3) {
                let mut lying = file.clone();
                lying[place] ^= 0x55;
                let read = std::panic::catch_unwind(|| read(&lying));
                // A value may be another one, a length may not: and what panics is caught by whoever asks.
                assert!(!matches!(read, Ok(Ok((rows, _))) if rows > 1_000_000), "{place}");
            }
        }
    }

    #[test]
    fn what_other_libraries_compress_is_read_whatever_the_codec() {
        for name in ["arrow_stream/lz4", "arrow_stream/zstd"] {
            let (rows, _) = read(&corpus(name)).expect(name);
            assert!(rows > 0, "{name}");
        }
    }

    #[test]
    fn a_stream_of_a_reader_that_fails_says_so() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("a broken disk"))
            }
        }
        let mut plain = Plain { input: Failing, messages: 0, ready: Vec::new(), at: 0 };
        assert!(plain.read(&mut [0; 8]).expect_err("fails").to_string().contains("a broken disk"));
        let refused: Result<_, ArrowError> = StreamReader::try_new(plain, None).map(drop);
        assert!(refused.is_err());
    }
}
