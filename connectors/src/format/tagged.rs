//! Messages that may each say in which encoding they are: see [`PayloadEncoding`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_engine::decode::{DeadLetter, Decoded, Decoder, Format, Place};
use tidemill_engine::source::{Data, Message};

use super::{AvroFormat, Encoding, Layout, PayloadEncoding, ProtobufFormat};
use crate::options::{OptionError, Options};

/// Makes decoders that ask each message for its encoding.
#[derive(Clone)]
pub struct TaggedFormat {
    layout: Layout,
    own: PayloadEncoding,
    /// Reads what is in `own`.
    own_format: Arc<dyn Format>,
}

impl TaggedFormat {
    /// Makes the format of a source whose messages are in `own` where they say nothing else.
    pub fn new(layout: Layout, own: PayloadEncoding) -> Self {
        let own_format = own.format(layout.clone());
        TaggedFormat { layout, own, own_format }
    }

    /// Makes the format of a source that declares an encoding, with the options that belong to it.
    ///
    /// Without a schema `avro` means containers, which bring their own.
    ///
    /// # Errors
    /// If the columns cannot be read from it, or an option is wrong.
    pub fn take(
        encoding: Encoding,
        layout: Layout,
        options: &mut Options,
        base_dir: &Path,
    ) -> Result<Self, OptionError> {
        let has_schema = ["schema", "schema_file", "prefix", "schema_id"].iter().any(|key| options.has(key));
        let (own, own_format): (PayloadEncoding, Arc<dyn Format>) = match encoding {
            Encoding::Avro if has_schema => {
                (PayloadEncoding::Avro, Arc::new(AvroFormat::take(layout.clone(), options, base_dir)?))
            }
            Encoding::Avro => return Ok(TaggedFormat::new(layout, PayloadEncoding::AvroContainer)),
            Encoding::Protobuf => {
                (PayloadEncoding::Protobuf, Arc::new(ProtobufFormat::take(layout.clone(), options, base_dir)?))
            }
            _ => {
                let own = encoding.of_payloads();
                let own =
                    own.ok_or_else(|| OptionError::new("format", "is for files: say 'json', 'csv' or 'arrow'"))?;
                return Ok(TaggedFormat::new(layout, own));
            }
        };
        Ok(TaggedFormat { layout, own, own_format })
    }

    /// Returns the encoding of messages that say nothing.
    pub fn own(&self) -> PayloadEncoding {
        self.own
    }

    /// Returns the columns.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}

impl Format for TaggedFormat {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.layout.schema())
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        let own = self.own_format.decoder();
        Box::new(TaggedDecoder { format: self.clone(), own, others: BTreeMap::new() })
    }
}

struct TaggedDecoder {
    format: TaggedFormat,
    own: Box<dyn Decoder>,
    /// Made when they are needed first; the set of encodings is their bound.
    others: BTreeMap<PayloadEncoding, Box<dyn Decoder>>,
}

impl Decoder for TaggedDecoder {
    fn decode(&mut self, data: &Data, place: &Place<'_>) -> Decoded {
        let messages = match data {
            Data::Messages(messages) if messages.iter().any(|message| !message.attributes.is_empty()) => messages,
            _ => return self.own.decode(data, place),
        };
        let mut whole = Decoded::default();
        let mut start = 0;
        while start < messages.len() {
            let encoding = PayloadEncoding::of(&messages[start]);
            let more = messages[start + 1..].iter().take_while(|next| PayloadEncoding::of(next) == encoding);
            let end = start + 1 + more.count();
            match encoding {
                Ok(encoding) => self.decode_run(encoding, messages, start..end, place, &mut whole),
                Err(reason) => {
                    let dead = (start..end).map(|message| unknown(messages, message, &reason));
                    whole.dead.extend(dead);
                }
            }
            start = end;
        }
        whole
    }
}

impl TaggedDecoder {
    /// Decodes messages of one encoding, which follow each other, as if they were a chunk.
    fn decode_run(
        &mut self,
        encoding: Option<PayloadEncoding>,
        messages: &[Message],
        run: Range<usize>,
        place: &Place<'_>,
        whole: &mut Decoded,
    ) {
        let decoder = match encoding.filter(|encoding| *encoding != self.format.own) {
            None => &mut self.own,
            Some(encoding) => {
                let new = || encoding.format(self.format.layout.clone()).decoder();
                self.others.entry(encoding).or_insert_with(new)
            }
        };
        let first = run.start;
        let runs = place.runs_of(run.clone());
        let mut decoded = decoder.decode(&Data::Messages(messages[run].to_vec()), &Place { runs: &runs, ..*place });
        decoded.dead.iter_mut().for_each(|letter| letter.message += first);
        whole.extend(decoded);
    }
}

fn unknown(messages: &[Message], message: usize, reason: &str) -> DeadLetter {
    let found = &messages[message];
    DeadLetter { message, topic: found.topic.clone(), payload: found.payload.clone(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use bytes::Bytes;
    use tidemill_engine::source::Offset;

    use super::*;
    use crate::Metadata;

    #[test]
    fn each_message_is_read_as_it_says_and_keeps_its_place() {
        let columns = Schema::new(vec![Metadata::Position.column("place"), Field::new("n", DataType::Int64, false)]);
        let format = TaggedFormat::new(Layout::new(&Arc::new(columns)), PayloadEncoding::Json);
        let csv = PayloadEncoding::Csv { delimiter: b';' };
        let tagged = |attributes: Bytes, payload: &'static str| Message { attributes, ..Message::new("", payload) };
        let messages = vec![
            Message::new("", "{\"n\":1}"),
            tagged(csv.attributes(), "m;n\n0;2\n0;x\n"),
            tagged(csv.attributes(), "n\n3\n"),
            tagged(PayloadEncoding::Json.attributes(), "{\"n\":4}\nwarm"),
            tagged(Bytes::from_static(b"\x80\x63\x00"), "?"),
            Message::new("", "{\"n\":5}"),
        ];
        let place = Place { runs: &[(Offset(7), 2), (Offset(20), 4)], ..Place::default() };
        let decoded = format.decoder().decode(&Data::Messages(messages), &place);
        let numbers = |column: usize| -> Vec<i64> {
            let values = decoded.batches.iter().map(|batch| batch.column(column).as_primitive::<Int64Type>().values());
            values.flat_map(|values| values.to_vec()).collect()
        };
        assert_eq!(numbers(1), [1, 2, 3, 4, 5]);
        assert_eq!(numbers(0), [7, 8, 20, 21, 23]);
        let dead: Vec<usize> = decoded.dead.iter().map(|letter| letter.message).collect();
        assert_eq!(dead, [1, 3, 4], "{:?}", decoded.dead);
        assert!(decoded.dead[2].reason.contains("[99, 0]"), "{}", decoded.dead[2].reason);
    }
}
