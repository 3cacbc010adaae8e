//! What a decoder collects: the dead letters of a chunk, and its batches.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use tidemill_engine::decode::DeadLetter;
use tidemill_engine::source::Message;

use super::layout::Layout;
use super::rows::Span;

/// The dead letters of a chunk, put in the order of their messages at the end.
pub(super) struct DeadLetters<'m> {
    messages: &'m [Message],
    /// Where, the bytes if they are none of the message's own, and why.
    letters: Vec<(Span, Option<Bytes>, String)>,
}

impl<'m> DeadLetters<'m> {
    pub(super) fn new(messages: &'m [Message]) -> Self {
        DeadLetters { messages, letters: Vec::new() }
    }

    /// Returns the span of a whole message, unless its topic or its size make it a dead letter.
    pub(super) fn accept(&mut self, index: usize, layout: &Layout) -> Option<Span> {
        let message = &self.messages[index];
        let fits = u32::try_from(message.payload.len()).ok();
        let span = Span { message: index as u32, start: 0, end: fits.unwrap_or(u32::MAX) };
        let checked = match fits {
            None => Err("the message is larger than 4 GiB".to_owned()),
            Some(_) => layout.check_message(message),
        };
        match checked {
            Ok(()) => Some(span),
            Err(reason) => {
                self.push(span, reason);
                None
            }
        }
    }

    pub(super) fn push(&mut self, span: Span, reason: String) {
        self.letters.push((span, None, reason));
    }

    /// Adds a letter whose bytes were made from a message, because its own cannot be told apart.
    pub(super) fn push_made(&mut self, span: Span, payload: Bytes, reason: String) {
        self.letters.push((span, Some(payload), reason));
    }

    pub(super) fn finish(mut self) -> Vec<DeadLetter> {
        self.letters.sort_by_key(|(span, ..)| (span.message, span.start));
        let letter = |(span, made, reason): (Span, Option<Bytes>, String)| {
            let message = &self.messages[span.message as usize];
            let payload = made.unwrap_or_else(|| message.payload.slice(span.start as usize..span.end as usize));
            DeadLetter { message: span.message as usize, topic: message.topic.clone(), payload, reason }
        };
        self.letters.into_iter().map(letter).collect()
    }
}

/// Joins small batches, which come from salvage, in one.
pub(super) fn joined(schema: &SchemaRef, batches: Vec<RecordBatch>) -> Vec<RecordBatch> {
    const ROWS_SMALL: usize = super::BATCH_ROWS / 2;
    let row_count: usize = batches.iter().map(RecordBatch::num_rows).sum();
    if batches.len() < 2 || row_count >= batches.len() * ROWS_SMALL {
        return batches;
    }
    vec![concat_batches(schema, &batches).expect("all batches have the format's schema")]
}
