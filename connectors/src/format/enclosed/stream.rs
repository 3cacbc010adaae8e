//! Streams of Arrow IPC.
//!
//! ```text
//!   ff ff ff ff │ length: u32 │ metadata: a flatbuffer │ body     … once for the schema, each dictionary, each batch
//!   ff ff ff ff │ 0                                                the end mark
//! ```
//!
//! Buffers may be compressed: see `buffers`.

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::{self, Message, MessageHeader};
use bytes::Bytes;

use super::buffers::{self, Part, batch_of};
use super::{ENCLOSED_ROWS_MAX, Unreadable};
use crate::format::Layout;

/// What stands in front of a message.
pub(super) const CONTINUATION: [u8; 4] = [0xff; 4];

/// Reads all batches of a stream that is whole.
pub(super) fn read(payload: &Bytes, layout: &Layout) -> Result<Vec<RecordBatch>, Unreadable> {
    let (row_count, parts) = check(payload).map_err(|(at, what)| damaged(at, &what))?;
    if row_count > ENCLOSED_ROWS_MAX as u64 {
        return Err(Unreadable::TooLarge(format!(
            "a stream may have {ENCLOSED_ROWS_MAX} rows, this one has {row_count}"
        )));
    }
    let is_compressed = |part: &Part<'_>| batch_of(&part.message).is_some_and(|batch| batch.compression().is_some());
    let plain = match parts.iter().any(is_compressed) {
        true => buffers::inflated(&parts)?,
        false => payload.clone(),
    };
    let reader = StreamReader::try_new(&plain[..], None);
    let reader = reader.map_err(|error| damaged(0, &error.to_string()))?;
    layout.check_columns(&reader.schema()).map_err(Unreadable::Columns)?;
    let mut batches = Vec::new();
    for batch in reader {
        batches.push(batch.map_err(|error| damaged(0, &format!("batch {}: {error}", batches.len() + 1)))?);
    }
    Ok(batches)
}

fn damaged(at: usize, what: &str) -> Unreadable {
    let place = if at > 0 { format!(" at byte {at}") } else { String::new() };
    Unreadable::Damaged(format!("not a whole Arrow stream: {what}{place}"))
}

/// Walks over a stream without reading it: every message is whole, every buffer lies in its body, and the end mark is
/// there. Returns how many rows its batches claim, and its messages.
fn check(stream: &[u8]) -> Result<(u64, Vec<Part<'_>>), (usize, String)> {
    let (mut at, mut rows, mut is_first, mut parts) = (0, 0u64, true, Vec::new());
    loop {
        let cut_off = || (at, "it ends in the middle; a writer that is closed writes an end mark".to_owned());
        let head = stream.get(at..at + 8).ok_or_else(cut_off)?;
        if head[..4] != CONTINUATION {
            return Err((at, "there is no message".to_owned()));
        }
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if length == 0 {
            return if is_first { Err((at, "it has no schema".to_owned())) } else { Ok((rows, parts)) };
        }
        let metadata = stream.get(at + 8..(at + 8).saturating_add(length)).ok_or_else(cut_off)?;
        let message = ipc::root_as_message(metadata).map_err(|error| (at, error.to_string()))?;
        if is_first != (message.header_type() == MessageHeader::Schema) {
            return Err((at, "a schema stands first, and only there".to_owned()));
        }
        let body_bytes = usize::try_from(message.bodyLength()).map_err(|_| (at, "a negative length".to_owned()))?;
        let body_at = at + 8 + length;
        let body = stream.get(body_at..body_at.saturating_add(body_bytes)).ok_or_else(cut_off)?;
        rows = rows.saturating_add(check_message(&message, body_bytes).map_err(|what| (at, what))?);
        parts.push(Part { message, head: &stream[at..body_at], body });
        at = body_at + body_bytes;
        is_first = false;
    }
}

/// Returns the rows of a message, once it is known that its buffers lie in its body.
pub(super) fn check_message(message: &Message<'_>, body_bytes: usize) -> Result<u64, String> {
    let missing = || "a header that is not what it says".to_owned();
    match message.header_type() {
        MessageHeader::Schema => Ok(0),
        MessageHeader::DictionaryBatch => {
            let dictionary = message.header_as_dictionary_batch().ok_or_else(missing)?;
            check_batch(&dictionary.data().ok_or_else(missing)?, body_bytes)?;
            Ok(0)
        }
        MessageHeader::RecordBatch => {
            let batch = message.header_as_record_batch().ok_or_else(missing)?;
            check_batch(&batch, body_bytes)?;
            Ok(batch.length() as u64)
        }
        other => Err(format!("a message of kind {}", other.0)),
    }
}

fn check_batch(batch: &ipc::RecordBatch<'_>, body_bytes: usize) -> Result<(), String> {
    let buffers = batch.buffers().map(|buffers| buffers.iter().collect::<Vec<_>>()).unwrap_or_default();
    let lies_inside = |buffer: &&ipc::Buffer| {
        let end = buffer.offset().checked_add(buffer.length());
        buffer.offset() >= 0 && buffer.length() >= 0 && end.is_some_and(|end| end as u64 <= body_bytes as u64)
    };
    if !buffers.iter().all(lies_inside) {
        return Err("a buffer lies outside of its message".to_owned());
    }
    let nodes = batch.nodes().into_iter().flat_map(|nodes| nodes.iter());
    let is_sound = |node: &ipc::FieldNode| (0..=node.length()).contains(&node.null_count());
    if batch.length() < 0 || !nodes.clone().all(is_sound) {
        return Err("a column of a negative length".to_owned());
    }
    let mut variadic = batch.variadicBufferCounts().into_iter().flat_map(|counts| counts.iter());
    if variadic.any(|count| count < 0 || count as usize > buffers.len()) {
        return Err("a column of more buffers than there are".to_owned());
    }
    Ok(())
}
