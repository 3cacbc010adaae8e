//! CSV: every message begins with a header row, whose names are matched with the declared columns. Columns that are
//! not declared are ignored, an empty field is NULL, and a declared column that the header lacks is NULL throughout.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_engine::decode::{Decoded, Decoder, Format, Place};
use tidemill_engine::source::Data;

use super::BYTE_ORDER_MARK;
use super::convert::missing;
use super::dead::{DeadLetters, joined};
use super::layout::Layout;
use super::messages::Messages;
use super::metadata::Origin;
use super::rows::{Span, csv_fields, split_csv};
use super::salvage::{Failure, salvage};

/// Makes decoders of CSV messages.
#[derive(Clone, Debug)]
pub struct CsvFormat {
    layout: Arc<Layout>,
    delimiter: u8,
}

impl CsvFormat {
    /// Makes the format of a layout.
    pub fn new(layout: Layout, delimiter: u8) -> Self {
        CsvFormat { layout: Arc::new(layout), delimiter }
    }
}

impl Format for CsvFormat {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.layout.schema())
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(CsvDecoder { layout: Arc::clone(&self.layout), delimiter: self.delimiter })
    }
}

struct CsvDecoder {
    layout: Arc<Layout>,
    delimiter: u8,
}

impl Decoder for CsvDecoder {
    fn decode(&mut self, data: &Data, place: &Place<'_>) -> Decoded {
        let mut messages = match Messages::of(data, place, &self.layout) {
            Ok(messages) => messages,
            Err(decoded) => return decoded,
        };
        let spans = messages.accept(&self.layout);
        let Messages { origin, mut dead } = messages;
        let (mut batches, mut nulled) = (Vec::new(), 0);
        for whole in spans {
            nulled += self.decode_message(&origin, whole, &mut dead, &mut batches);
        }
        Decoded { batches: joined(self.layout.schema(), batches), dead: dead.finish(), nulled, ..Decoded::default() }
    }
}

impl CsvDecoder {
    /// Returns how many values did not fit.
    fn decode_message(
        &self,
        origin: &Origin<'_>,
        whole: Span,
        dead: &mut DeadLetters<'_>,
        batches: &mut Vec<RecordBatch>,
    ) -> u64 {
        let payload = &origin.messages[whole.message as usize].payload;
        let mut spans = Vec::new();
        split_csv(payload, self.delimiter, |row| {
            spans.push(Span { start: row.start as u32, end: row.end as u32, ..whole })
        });
        if spans.len() < 2 {
            dead.push(whole, "not CSV with a header row: there is no row below the first".to_owned());
            return 0;
        }
        let header = spans.remove(0);
        let header = match Header::read(&payload[header.start as usize..header.end as usize], self) {
            Ok(header) => header,
            Err(reason) => {
                spans.into_iter().for_each(|span| dead.push(span, reason.clone()));
                return 0;
            }
        };
        spans.retain(|span| {
            let problem = header.problem(&payload[span.start as usize..span.end as usize], self.delimiter);
            if let Some(reason) = &problem {
                dead.push(*span, reason.clone());
            }
            problem.is_none()
        });
        let mut reader = None;
        let salvaged =
            salvage(spans.len(), |rows| header.read_rows(&mut reader, payload, &spans[rows.clone()], rows, self));
        for row in salvaged.bad {
            dead.push(spans[row], "not CSV: the quotes of this row do not fit".to_owned());
        }
        let mut nulled = 0;
        for (rows, raw) in salvaged.good {
            let spans = &spans[rows];
            let columns = header.payload_columns(&raw, self.layout.payload());
            let messages_of_rows = spans.iter().map(|span| span.message as usize);
            let columns = self.layout.complete(columns, origin, messages_of_rows);
            let converted = self.layout.convert(columns, spans.len());
            nulled += converted.nulled;
            for (row, reason) in &converted.bad {
                dead.push(spans[*row], reason.clone());
            }
            let row_count = spans.len() - converted.bad.len();
            if row_count > 0 {
                batches.push(converted.into_batch(self.layout.schema(), row_count));
            }
        }
        nulled
    }
}

/// What the first row says: how many fields there are, and which of them are declared columns.
struct Header {
    raw: SchemaRef,
    /// For each declared column its place among the fields.
    places: Vec<Option<usize>>,
}

impl Header {
    fn read(record: &[u8], decoder: &CsvDecoder) -> Result<Header, String> {
        let record = record.strip_prefix(BYTE_ORDER_MARK).unwrap_or(record);
        let text = std::str::from_utf8(record).map_err(|_| "the header row is not UTF-8".to_owned())?;
        let names: Vec<String> =
            csv_fields(text, decoder.delimiter).iter().map(|name| name.trim().to_owned()).collect();
        let declared = decoder.layout.payload();
        let places: Vec<Option<usize>> =
            declared.fields().iter().map(|field| names.iter().position(|name| name == field.name())).collect();
        if places.iter().all(Option::is_none) {
            return Err(format!("the header row has none of the declared columns, but {}", names.join(", ")));
        }
        for (field, place) in declared.fields().iter().zip(&places) {
            if place.is_none() && !field.is_nullable() {
                return Err(format!("{} (the header row has no such column)", missing(field.name())));
            }
        }
        // Names may repeat in the header, fields are found by place: the raw schema has the places for names.
        let raw = (0..names.len()).map(|place| Field::new(place.to_string(), DataType::Utf8View, true));
        Ok(Header { raw: Arc::new(Schema::new(raw.collect::<Vec<_>>())), places })
    }

    /// Says what is wrong with a row that the reader could not place, before it meets the reader.
    fn problem(&self, record: &[u8], delimiter: u8) -> Option<String> {
        let text = match std::str::from_utf8(record) {
            Ok(text) => text,
            Err(error) => return Some(format!("not CSV: not UTF-8 at byte {}", error.valid_up_to())),
        };
        let expected = self.raw.fields().len();
        let found = if text.contains('"') {
            csv_fields(text, delimiter).len()
        } else {
            memchr::memchr_iter(delimiter, record).count() + 1
        };
        (found != expected).then(|| format!("expected {expected} fields as in the header row, found {found}"))
    }

    fn read_rows(
        &self,
        spare: &mut Option<(usize, arrow_csv::reader::Decoder)>,
        payload: &[u8],
        spans: &[Span],
        rows: Range<usize>,
        decoder: &CsvDecoder,
    ) -> Result<RecordBatch, Failure> {
        let (capacity, mut reader) = match spare.take() {
            Some((capacity, reader)) if capacity >= spans.len() => (capacity, reader),
            _ => {
                let projection = self.places.iter().flatten().copied().collect();
                let reader = arrow_csv::ReaderBuilder::new(Arc::clone(&self.raw))
                    .with_header(false)
                    .with_delimiter(decoder.delimiter)
                    .with_batch_size(spans.len())
                    .with_projection(projection)
                    .build_decoder();
                (spans.len(), reader)
            }
        };
        for (done, span) in spans.iter().enumerate() {
            let record = &payload[span.start as usize..span.end as usize];
            let taken = reader.decode(record).and_then(|taken| Ok(taken + reader.decode(b"\n")?));
            let is_one_record = taken.is_ok() && reader.capacity() + done + 1 == capacity;
            if !is_one_record {
                return Err(Failure::At(rows.start + done));
            }
        }
        let batch = reader.flush().map_err(|_| Failure::Somewhere)?.ok_or(Failure::Somewhere)?;
        *spare = Some((capacity, reader));
        Ok(batch)
    }

    fn payload_columns(&self, raw: &RecordBatch, declared: &SchemaRef) -> Vec<ArrayRef> {
        let mut found = raw.columns().iter();
        self.places
            .iter()
            .zip(declared.fields())
            .map(|(place, field)| match place {
                Some(_) => Arc::clone(found.next().expect("the projection has every place")),
                None => new_null_array(field.data_type(), raw.num_rows()),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{Float64Type, Int64Type};
    use bytes::Bytes;
    use tidemill_engine::source::Message;

    use super::*;

    fn decode(payloads: &[&[u8]]) -> Decoded {
        let columns = Arc::new(Schema::new(vec![
            Field::new("device", DataType::Utf8View, true),
            Field::new("temperature", DataType::Float64, false),
            Field::new("n", DataType::Int64, true),
        ]));
        let messages = payloads.iter().map(|payload| Message::new("", Bytes::copy_from_slice(payload))).collect();
        CsvFormat::new(Layout::new(&columns), b',').decoder().decode(&Data::Messages(messages), &Place::default())
    }

    #[test]
    fn columns_are_matched_by_name() {
        let decoded = decode(&[b"n,other,temperature,device\r\n1,x,20.5,\"a \"\"b\"\", c\"\r\n,,3,\r\n"]);
        assert!(decoded.dead.is_empty(), "{:?}", decoded.dead);
        let batch = &decoded.batches[0];
        assert_eq!(batch.column(0).as_string_view().value(0), "a \"b\", c");
        assert!(batch.column(0).is_null(1));
        assert_eq!(batch.column(1).as_primitive::<Float64Type>().values().as_ref(), [20.5, 3.0]);
        assert_eq!(batch.column(2).as_primitive::<Int64Type>().value(0), 1);
        assert!(batch.column(2).is_null(1));
    }

    #[test]
    fn bad_rows_leave_their_neighbours_alone() {
        let decoded = decode(&[
            b"device,temperature,n\na,1,1\nb,warm,1\nc,,1\nd,2,1.5\ne,3\nf,4,1,9\ng,5,2\n\"h,6,3\n",
            b"device,temperature,n\n\xff,1,1\ni,7,\n",
            b"nothing,here\n1,2\n",
            b"",
        ]);
        let reasons: Vec<&str> = decoded.dead.iter().map(|letter| letter.reason.as_str()).collect();
        assert_eq!(
            reasons,
            [
                "column temperature: expected a number (DOUBLE), but \"warm\" is not a number",
                "column temperature: missing or null, but declared NOT NULL",
                "expected 3 fields as in the header row, found 2",
                "expected 3 fields as in the header row, found 4",
                "expected 3 fields as in the header row, found 1",
                "not CSV: not UTF-8 at byte 0",
                "the header row has none of the declared columns, but nothing, here",
                "not CSV with a header row: there is no row below the first",
            ]
        );
        let devices: Vec<&str> =
            decoded.batches.iter().flat_map(|batch| batch.column(0).as_string_view().iter().flatten()).collect();
        assert_eq!((devices, decoded.nulled), (vec!["a", "d", "g", "i"], 1));
    }

    #[test]
    fn random_csv_rows_decode_as_if_each_were_alone() {
        let records: [&str; 9] =
            ["a,1,1", "\"b\nb\",2,2", "c,x,3", "5\" pipe,4,", "d", "e,1,2,3", ",,", "\"q\"x,1,1", "f,1e3,7.0"];
        for seed in 0..100usize {
            let chosen: Vec<&str> =
                (0..seed).map(|at| records[(at * at + seed * 5 + at / 3) % records.len()]).collect();
            let with_header = |rows: &[&str]| format!("device,temperature,n\n{}\n", rows.join("\n"));
            let together = decode(&[with_header(&chosen).as_bytes()]);
            let mut alone = Decoded::default();
            for record in &chosen {
                let decoded = decode(&[with_header(&[record]).as_bytes()]);
                alone.batches.extend(decoded.batches);
                alone.dead.extend(decoded.dead);
            }
            let rows = |decoded: &Decoded| -> Vec<String> {
                let format = |batch: &RecordBatch| {
                    arrow::util::pretty::pretty_format_batches(std::slice::from_ref(batch)).unwrap()
                };
                let all: Vec<String> = decoded
                    .batches
                    .iter()
                    .flat_map(|batch| (0..batch.num_rows()).map(|row| format(&batch.slice(row, 1)).to_string()))
                    .collect();
                all
            };
            assert_eq!(rows(&together), rows(&alone), "seed {seed}");
            if seed > 0 {
                let reasons = |decoded: &Decoded| -> Vec<(Bytes, String)> {
                    decoded.dead.iter().map(|letter| (letter.payload.clone(), letter.reason.clone())).collect()
                };
                assert_eq!(reasons(&together), reasons(&alone), "seed {seed}");
                assert_eq!(rows(&together).len() + together.dead.len(), chosen.len(), "seed {seed}");
            }
        }
    }
}
