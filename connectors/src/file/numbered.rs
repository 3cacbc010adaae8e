//! Dead letters of files that name their file and line.
//!
//! A text chunk is one message of many lines, and a decoder knows only the message. So the reader writes into the
//! message's topic where it begins, `path:line`, and this format turns it into the place of each dead letter.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use tidemill_engine::decode::{DeadLetter, Decoded, Decoder, Format, Place};
use tidemill_engine::source::{Data, Message};

use crate::format::offset_in;

/// A format whose dead letters say which line of which file they were.
pub struct NumberedFormat {
    inner: Arc<dyn Format>,
}

impl NumberedFormat {
    /// Wraps the format of the files.
    pub fn new(inner: Arc<dyn Format>) -> Self {
        NumberedFormat { inner }
    }
}

impl Format for NumberedFormat {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(NumberedDecoder { inner: self.inner.decoder() })
    }
}

struct NumberedDecoder {
    inner: Box<dyn Decoder>,
}

impl Decoder for NumberedDecoder {
    fn decode(&mut self, data: &Data, place: &Place<'_>) -> Decoded {
        let mut decoded = self.inner.decode(data, place);
        if let Data::Messages(messages) = data {
            for letter in &mut decoded.dead {
                number(letter, &messages[letter.message]);
            }
        }
        decoded
    }
}

/// Makes the topic of a chunk that begins with a line, counted from 1.
pub(super) fn line_topic(partition: &str, line: u64) -> Bytes {
    Bytes::from(format!("{partition}:{line}"))
}

fn number(letter: &mut DeadLetter, message: &Message) {
    let Some((path, first_line)) = std::str::from_utf8(&message.topic).ok().and_then(|topic| topic.rsplit_once(':'))
    else {
        return;
    };
    let (Ok(first_line), Some(offset)) = (first_line.parse::<u64>(), offset_in(&message.payload, &letter.payload))
    else {
        return;
    };
    let line = first_line + memchr::memchr_iter(b'\n', &message.payload[..offset]).count() as u64;
    letter.reason = format!("{path} line {line}: {}", letter.reason);
    letter.topic = message.topic.slice(..path.len());
}
