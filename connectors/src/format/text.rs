//! Text and raw bytes: a payload, or each line of one, as the value of one column.
//!
//! `raw` gives a row for each message. `text` gives one for each line, without its line end; the last line need not end. An empty
//! line is a row, so that there are as many rows as lines. The column is TEXT or BYTES; what is not UTF-8 does not fit in TEXT.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder, StringViewBuilder};
use arrow::datatypes::{DataType, SchemaRef};
use tidemill_engine::decode::{Decoded, Decoder, Format, Place};
use tidemill_engine::source::{Data, Message};

use super::BATCH_ROWS;
use super::convert::expected;
use super::dead::joined;
use super::layout::Layout;
use super::messages::Messages;
use super::rows::{Span, split_lines};

/// What of a message is a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// All of it: `format = 'raw'`.
    Message,
    /// Each line: `format = 'text'`.
    Line,
}

/// Makes decoders of messages that are not taken apart.
#[derive(Clone, Debug)]
pub struct TextFormat {
    layout: Arc<Layout>,
    unit: Unit,
}

impl TextFormat {
    /// Makes the format of a layout.
    pub fn new(layout: Layout, unit: Unit) -> Self {
        TextFormat { layout: Arc::new(layout), unit }
    }

    /// Says why a layout does not suit; `Ok` if it has one column for the payload, and that is TEXT or BYTES.
    pub fn check(layout: &Layout) -> Result<(), String> {
        const WANTED: &str = "it gives one column: declare one of type TEXT or BYTES beside those of METADATA";
        match layout.payload().fields().as_ref() {
            [field] if matches!(field.data_type(), DataType::Utf8View | DataType::Binary) => Ok(()),
            [field] => Err(format!("column {} is {}, but {WANTED}", field.name(), expected(field.data_type()))),
            fields => Err(format!("there are {} columns to read from it, but {WANTED}", fields.len())),
        }
    }
}

impl Format for TextFormat {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.layout.schema())
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(TextDecoder { layout: Arc::clone(&self.layout), unit: self.unit })
    }
}

struct TextDecoder {
    layout: Arc<Layout>,
    unit: Unit,
}

impl Decoder for TextDecoder {
    fn decode(&mut self, data: &Data, place: &Place<'_>) -> Decoded {
        let mut taken = match Messages::of(data, place, &self.layout) {
            Ok(taken) => taken,
            Err(decoded) => return decoded,
        };
        let whole_ones = taken.accept(&self.layout);
        let Messages { origin, mut dead } = taken;
        let messages = origin.messages;
        let is_text = *self.layout.payload().field(0).data_type() != DataType::Binary;
        let mut spans = Vec::new();
        for whole in whole_ones {
            let message = &messages[whole.message as usize];
            let is_utf8 = !is_text || std::str::from_utf8(&message.payload).is_ok();
            self.split(message, whole, |span| {
                let problem = if is_utf8 { None } else { utf8_problem(messages, span) };
                match problem {
                    Some(problem) => dead.push(span, problem),
                    None => spans.push(span),
                }
            });
        }
        let batch = |spans: &[Span]| {
            let columns = vec![column(messages, spans, is_text)];
            let messages_of_rows = spans.iter().map(|span| span.message as usize);
            let columns = self.layout.complete(columns, &origin, messages_of_rows);
            self.layout.convert(columns, spans.len()).into_batch(self.layout.schema(), spans.len())
        };
        let batches = spans.chunks(BATCH_ROWS).map(batch).collect();
        Decoded { batches: joined(self.layout.schema(), batches), dead: dead.finish(), ..Decoded::default() }
    }
}

impl TextDecoder {
    fn split(&self, message: &Message, whole: Span, mut row: impl FnMut(Span)) {
        if self.unit == Unit::Message {
            return row(whole);
        }
        split_lines(&message.payload, |line| row(Span { start: line.start as u32, end: line.end as u32, ..whole }));
    }
}

fn bytes(messages: &[Message], span: Span) -> &[u8] {
    &messages[span.message as usize].payload[span.start as usize..span.end as usize]
}

fn utf8_problem(messages: &[Message], span: Span) -> Option<String> {
    let error = std::str::from_utf8(bytes(messages, span)).err()?;
    Some(format!("not UTF-8 at byte {}: declare the column as BYTES to keep it", error.valid_up_to()))
}

fn column(messages: &[Message], spans: &[Span], is_text: bool) -> ArrayRef {
    if !is_text {
        let mut values = BinaryBuilder::with_capacity(spans.len(), 0);
        spans.iter().for_each(|span| values.append_value(bytes(messages, *span)));
        return Arc::new(values.finish());
    }
    let mut values = StringViewBuilder::with_capacity(spans.len());
    for span in spans {
        values.append_value(std::str::from_utf8(bytes(messages, *span)).expect("checked when it was split"));
    }
    Arc::new(values.finish())
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Field, Schema};
    use bytes::Bytes;

    use super::*;
    use crate::mqtt::TopicPattern;

    fn layout(data_type: DataType) -> Layout {
        Layout::new(&Arc::new(Schema::new(vec![Field::new("line", data_type, false)])))
    }

    fn decode(format: &TextFormat, payloads: &[&[u8]]) -> Decoded {
        let messages = payloads.iter().map(|payload| Message::new("a/b", Bytes::copy_from_slice(payload))).collect();
        format.decoder().decode(&Data::Messages(messages), &Place::default())
    }

    #[test]
    fn each_line_is_a_row_and_one_that_is_no_text_is_dead() {
        let format = TextFormat::new(layout(DataType::Utf8View), Unit::Line);
        let decoded = decode(&format, &[b"one\r\n\n\xff two\nthree", b"four\n", b""]);
        let lines: Vec<&str> = decoded.batches[0].column(0).as_string_view().iter().flatten().collect();
        assert_eq!(lines, ["one", "", "three", "four"]);
        assert_eq!((decoded.dead.len(), &decoded.dead[0].payload[..]), (1, &b"\xff two"[..]));
        assert_eq!(decoded.dead[0].reason, "not UTF-8 at byte 0: declare the column as BYTES to keep it");
    }

    #[test]
    fn a_message_is_a_row_beside_the_levels_of_its_topic() {
        let topic = TopicPattern::parse("{site}/{unit}").unwrap();
        let format = TextFormat::new(layout(DataType::Binary).with_topic(topic).unwrap(), Unit::Message);
        let decoded = decode(&format, &[b"one\ntwo\xff", b""]);
        let batch = &decoded.batches[0];
        assert_eq!(
            batch.column(0).as_binary::<i32>().iter().flatten().collect::<Vec<_>>(),
            [&b"one\ntwo\xff"[..], b""]
        );
        assert_eq!((batch.column(2).as_string_view().value(1), batch.column(2).len()), ("b", 2));
        assert!(decoded.dead.is_empty());
    }

    /// What MQTT keeps of a message that is too large is text too, and not what its publisher sent.
    #[test]
    fn what_stands_in_place_of_a_message_that_is_too_large_is_no_row() {
        for (data_type, unit) in [(DataType::Binary, Unit::Message), (DataType::Utf8View, Unit::Line)] {
            let topic = TopicPattern::parse("{site}/{unit}").unwrap();
            let format = TextFormat::new(layout(data_type).with_topic(topic).unwrap(), unit);
            let note = "a message of 20000000 bytes is over the limit of 16777216 bytes: not kept";
            let message = |flags: &'static [u8]| Message {
                attributes: Bytes::from_static(flags),
                ..Message::new("a/b", Bytes::from_static(note.as_bytes()))
            };
            let messages = vec![message(&[0b0_0001]), message(&[0b1_0001])];
            let decoded = format.decoder().decode(&Data::Messages(messages), &Place::default());
            assert_eq!(decoded.batches[0].num_rows(), 1, "who publishes this text has published it");
            assert_eq!((decoded.dead[0].message, decoded.dead[0].reason.as_str()), (1, note));
        }
    }

    #[test]
    fn columns_that_do_not_suit_are_told() {
        assert!(TextFormat::check(&layout(DataType::Utf8View)).is_ok());
        let problem = TextFormat::check(&layout(DataType::Int64)).unwrap_err();
        assert!(problem.starts_with("column line is a whole number (BIGINT), but it gives one column"), "{problem}");
        let problem = TextFormat::check(&Layout::new(&Arc::new(Schema::empty()))).unwrap_err();
        assert!(problem.starts_with("there are 0 columns"), "{problem}");
    }
}
