//! Compressed buffers of Arrow IPC, undone: a stream comes in and the same goes out, with its buffers as they are in memory.
//!
//! ```text
//!   a buffer:  length once decompressed: i64 │ a frame of LZ4 or zstd         length -1: the rest is not compressed
//! ```
//!
//! The reader of Arrow would allocate what a buffer says it becomes; here all of them together have a limit, and each is
//! held to what it says.

use arrow::ipc::{self, CompressionType, MessageHeader};
use bytes::Bytes;
use flatbuffers::FlatBufferBuilder;

use super::Unreadable;
use super::inflate::{Codec, Room};

/// Buffers begin at multiples of it, in bytes.
const ALIGNMENT: usize = 8;
/// Says of a buffer that it is not compressed.
const PLAIN: i64 = -1;

/// Where a message stands, which was found to be whole.
pub(super) struct Part<'s> {
    pub(super) message: ipc::Message<'s>,
    /// Continuation, length and metadata.
    pub(super) head: &'s [u8],
    pub(super) body: &'s [u8],
}

/// Returns the batch of a message, if it has one.
pub(super) fn batch_of<'s>(message: &ipc::Message<'s>) -> Option<ipc::RecordBatch<'s>> {
    match message.header_type() {
        MessageHeader::RecordBatch => message.header_as_record_batch(),
        MessageHeader::DictionaryBatch => message.header_as_dictionary_batch()?.data(),
        _ => None,
    }
}

/// Writes a stream anew, without compression.
pub(super) fn inflated(parts: &[Part<'_>]) -> Result<Bytes, Unreadable> {
    let (mut stream, mut room) = (Vec::new(), Room::of_payload());
    for (place, part) in parts.iter().enumerate() {
        let damaged =
            |what: String| Unreadable::Damaged(format!("not a whole Arrow stream: message {}: {what}", place + 1));
        if !inflate(part, &mut room, &mut stream, damaged)? {
            stream.extend_from_slice(part.head);
            stream.extend_from_slice(part.body);
        }
    }
    // The end mark.
    stream.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    Ok(Bytes::from(stream))
}

/// Writes a message anew, without compression; `false` if it has none, and nothing is written.
pub(super) fn inflate(
    part: &Part<'_>,
    room: &mut Room,
    into: &mut Vec<u8>,
    damaged: impl Fn(String) -> Unreadable + Copy,
) -> Result<bool, Unreadable> {
    let compressed = batch_of(&part.message).and_then(|batch| Some((batch, batch.compression()?)));
    let Some((batch, compression)) = compressed else { return Ok(false) };
    let codec = match compression.codec() {
        CompressionType::LZ4_FRAME => Codec::Lz4,
        CompressionType::ZSTD => Codec::Zstd,
        other => {
            return Err(damaged(format!("its buffers are compressed by a codec {} that is not known", other.0)));
        }
    };
    let (mut buffers, mut body) = (Vec::new(), Vec::new());
    for buffer in batch.buffers().into_iter().flat_map(|buffers| buffers.iter()) {
        let offset = body.len();
        let packed = &part.body[buffer.offset() as usize..(buffer.offset() + buffer.length()) as usize];
        undo(codec, packed, room, &mut body, damaged)?;
        buffers.push(ipc::Buffer::new(offset as i64, (body.len() - offset) as i64));
        body.resize(body.len().next_multiple_of(ALIGNMENT), 0);
    }
    write(&part.message, &batch, &buffers, &body, into);
    Ok(true)
}

fn undo(
    codec: Codec,
    packed: &[u8],
    room: &mut Room,
    body: &mut Vec<u8>,
    damaged: impl Fn(String) -> Unreadable + Copy,
) -> Result<(), Unreadable> {
    if packed.is_empty() {
        return Ok(());
    }
    let Some((length, packed)) = packed.split_first_chunk::<8>() else {
        return Err(damaged("a compressed buffer does not say what it becomes".to_owned()));
    };
    let (length, start) = (i64::from_le_bytes(*length), body.len());
    match length {
        PLAIN => {
            room.take(packed.len())?;
            body.extend_from_slice(packed);
            return Ok(());
        }
        0 if packed.is_empty() => return Ok(()),
        _ => codec.undo(packed, room, body, |what| damaged(format!("a compressed buffer: {what}")))?,
    }
    let found = (body.len() - start) as i64;
    if found == length {
        return Ok(());
    }
    Err(damaged(format!("a compressed buffer becomes {found} bytes, and says {length}")))
}

/// Writes the message of a batch with other buffers.
fn write(
    message: &ipc::Message<'_>,
    batch: &ipc::RecordBatch<'_>,
    buffers: &[ipc::Buffer],
    body: &[u8],
    stream: &mut Vec<u8>,
) {
    let mut builder = FlatBufferBuilder::new();
    let buffers = Some(builder.create_vector(buffers));
    let nodes: Option<Vec<ipc::FieldNode>> = batch.nodes().map(|nodes| nodes.iter().copied().collect());
    let nodes = nodes.map(|nodes| builder.create_vector(&nodes));
    let counts: Option<Vec<i64>> = batch.variadicBufferCounts().map(|counts| counts.iter().collect());
    let counts = counts.map(|counts| builder.create_vector(&counts));
    let rows = ipc::RecordBatch::create(
        &mut builder,
        &ipc::RecordBatchArgs {
            length: batch.length(),
            nodes,
            buffers,
            compression: None,
            variadicBufferCounts: counts,
        },
    );
    let header = match message.header_as_dictionary_batch() {
        None => rows.as_union_value(),
        Some(dictionary) => ipc::DictionaryBatch::create(
            &mut builder,
            &ipc::DictionaryBatchArgs { id: dictionary.id(), data: Some(rows), isDelta: dictionary.isDelta() },
        )
        .as_union_value(),
    };
    let plain = ipc::Message::create(
        &mut builder,
        &ipc::MessageArgs {
            version: message.version(),
            header_type: message.header_type(),
            header: Some(header),
            bodyLength: body.len() as i64,
            custom_metadata: None,
        },
    );
    builder.finish(plain, None);
    let metadata = builder.finished_data();
    let padded = metadata.len().next_multiple_of(ALIGNMENT);
    stream.extend_from_slice(&[0xff; 4]);
    stream.extend_from_slice(&(padded as u32).to_le_bytes());
    stream.extend_from_slice(metadata);
    stream.resize(stream.len() + (padded - metadata.len()), 0);
    stream.extend_from_slice(body);
}
