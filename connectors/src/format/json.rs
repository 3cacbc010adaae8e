//! JSON: an object is a row; a message holds one, several on lines of their own, or an array of them.
//!
//! The work is done by arrow-json's tape decoder, which takes any bytes as one long stream. Two consequences are dealt
//! with here. It would join a cut-off record with the message behind it: so after every row it must have exactly one
//! record more, and none half read. And it keeps what it choked on, so that all later input fails: so after a failure
//! a new one is made, and [`salvage`](super::salvage) finds the rows to blame.
//!
//! Unknown keys are ignored; of equal keys the last counts. A number or a boolean in a text column becomes its text;
//! text that is a number is one in a number column. Commas may be missing or too many between members. A value of the wrong type
//! is NULL, and counted, unless its column is declared NOT NULL.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Field, Float32Type, Float64Type, Schema, SchemaRef};
use tidemill_engine::decode::{Decoded, Decoder, Format, Place};
use tidemill_engine::source::{Data, Message};

use super::columns::decode_columns;
use super::convert::{Misfits, convert, expected};
use super::dead::{DeadLetters, joined};
use super::explain::{Explained, explain_json, not_an_object};
use super::layout::Layout;
use super::metadata::Origin;
use super::rows::{Span, is_nested_too_deep, split_json};
use super::salvage::{Failure, salvage};

/// Makes decoders of JSON messages.
#[derive(Clone, Debug)]
pub struct JsonFormat {
    layout: Arc<Layout>,
}

impl JsonFormat {
    /// Makes the format of a layout.
    pub fn new(layout: Layout) -> Self {
        JsonFormat { layout: Arc::new(layout) }
    }
}

impl Format for JsonFormat {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.layout.schema())
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        let raw = self.layout.payload().fields().iter().map(|field| raw_field(field)).collect::<Vec<_>>();
        Box::new(JsonDecoder { layout: Arc::clone(&self.layout), raw: Arc::new(Schema::new(raw)), reader: None })
    }
}

/// Whole numbers and times are read as text: arrow-json would cut 1.5 to 1 and take any number for a time. Nothing is
/// declared NOT NULL: it would fail without saying where.
fn raw_field(field: &Field) -> Field {
    let data_type = match field.data_type() {
        integer if integer.is_integer() => DataType::Utf8View,
        DataType::Timestamp(_, _) => DataType::Utf8View,
        other => other.clone(),
    };
    Field::new(field.name(), data_type, true)
}

struct JsonDecoder {
    layout: Arc<Layout>,
    raw: SchemaRef,
    /// The reader of the last success, which is empty and sound, with the number of rows it can take.
    reader: Option<(Mode, usize, arrow_json::reader::Decoder)>,
}

/// What a value of the wrong type does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// It fails.
    Strict,
    /// It is NULL.
    Lenient,
}

/// What was read so far.
#[derive(Default)]
struct Rows {
    batches: Vec<RecordBatch>,
    nulled: u64,
}

impl Decoder for JsonDecoder {
    fn decode(&mut self, data: &Data, place: &Place<'_>) -> Decoded {
        match data {
            Data::Messages(messages) => self.decode_messages(messages, place),
            Data::Columns(columns) => decode_columns(&self.layout, columns, place),
        }
    }
}

impl JsonDecoder {
    fn decode_messages(&mut self, messages: &[Message], place: &Place<'_>) -> Decoded {
        let origin = Origin::new(place, messages);
        let mut dead = DeadLetters::new(messages);
        let spans = self.split(messages, &mut dead);
        let mut rows = Rows::default();
        let salvaged = salvage(spans.len(), |rows| self.read(messages, &spans[rows.clone()], rows, Mode::Strict));
        for (range, raw) in salvaged.good {
            self.take(&raw, &spans[range], &origin, &mut dead, &mut rows);
        }
        // What is of the wrong type where nothing has to be is NULL. Those rows come behind the others.
        let (mut lenient, mut present) = (Vec::new(), Vec::new());
        for row in salvaged.bad {
            match explain_json(span_bytes(messages, spans[row]), self.layout.payload()) {
                Explained::Unusable(reason) => dead.push(spans[row], reason),
                Explained::Lenient { values } => {
                    lenient.push(spans[row]);
                    present.push(values);
                }
            }
        }
        let salvaged = salvage(lenient.len(), |rows| self.read(messages, &lenient[rows.clone()], rows, Mode::Lenient));
        for row in salvaged.bad {
            dead.push(lenient[row], "cannot be read with the declared columns".to_owned());
        }
        for (range, raw) in salvaged.good {
            let found: usize = raw.columns().iter().map(|column| raw.num_rows() - column.null_count()).sum();
            let values: usize = present[range.clone()].iter().sum();
            // One at least in each row: it may be inside of a map.
            rows.nulled += values.saturating_sub(found).max(raw.num_rows()) as u64;
            self.take(&raw, &lenient[range], &origin, &mut dead, &mut rows);
        }
        let batches = joined(self.layout.schema(), rows.batches);
        Decoded { batches, dead: dead.finish(), nulled: rows.nulled, ..Decoded::default() }
    }

    /// Converts rows that were read.
    fn take(
        &self,
        raw: &RecordBatch,
        spans: &[Span],
        origin: &Origin<'_>,
        dead: &mut DeadLetters<'_>,
        rows: &mut Rows,
    ) {
        let mut misfits = Misfits::default();
        let columns = raw.columns().iter().zip(self.layout.payload().fields());
        let columns = columns.map(|(column, field)| without_overflow(column, field, &mut misfits)).collect();
        let columns = self.layout.complete(columns, origin, spans.iter().map(|span| span.message as usize));
        let fields = self.layout.schema();
        let converted = convert(columns, spans.len(), fields, self.layout.time_unit(), misfits);
        for (row, reason) in &converted.bad {
            dead.push(spans[*row], reason.clone());
        }
        rows.nulled += converted.nulled;
        let row_count = spans.len() - converted.bad.len();
        if row_count > 0 {
            rows.batches.push(converted.into_batch(fields, row_count));
        }
    }

    /// Finds the rows; those that are no objects by their look alone go to the dead letters at once.
    fn split(&self, messages: &[Message], dead: &mut DeadLetters<'_>) -> Vec<Span> {
        let mut spans = Vec::with_capacity(messages.len());
        for (index, message) in messages.iter().enumerate() {
            let Some(whole) = dead.accept(index, &self.layout) else { continue };
            split_json(&message.payload, |row| {
                let span = Span { start: row.start as u32, end: row.end as u32, ..whole };
                let bytes = &message.payload[row];
                let is_object = bytes.first() == Some(&b'{') && bytes.last() == Some(&b'}');
                if is_object && !is_nested_too_deep(bytes) {
                    spans.push(span);
                } else {
                    dead.push(span, not_an_object(bytes));
                }
            });
        }
        spans
    }

    fn read(
        &mut self,
        messages: &[Message],
        spans: &[Span],
        rows: Range<usize>,
        mode: Mode,
    ) -> Result<RecordBatch, Failure> {
        let (capacity, mut reader) = match self.reader.take() {
            Some((of, capacity, reader)) if of == mode && capacity >= spans.len() => (capacity, reader),
            _ => (spans.len(), self.new_reader(spans.len(), mode)),
        };
        for (done, span) in spans.iter().enumerate() {
            let bytes = span_bytes(messages, *span);
            let taken = reader.decode(bytes);
            let is_one_record = taken.is_ok_and(|taken| taken == bytes.len())
                && reader.len() == done + 1
                && !reader.has_partial_record();
            if !is_one_record {
                return Err(Failure::At(rows.start + done));
            }
        }
        let batch = reader.flush().map_err(|_| Failure::Somewhere)?.ok_or(Failure::Somewhere)?;
        self.reader = Some((mode, capacity, reader));
        Ok(batch)
    }

    fn new_reader(&self, row_count: usize, mode: Mode) -> arrow_json::reader::Decoder {
        arrow_json::ReaderBuilder::new(Arc::clone(&self.raw))
            .with_batch_size(row_count)
            .with_coerce_primitive(true)
            .with_ignore_type_conflicts(mode == Mode::Lenient)
            .build_decoder()
            .expect("declared types can be read from JSON: connect has checked it")
    }
}

/// Says whether arrow-json can read a type at all.
pub(crate) fn can_read(field: &Field) -> bool {
    let schema = Arc::new(Schema::new(vec![raw_field(field)]));
    arrow_json::ReaderBuilder::new(schema).with_batch_size(1).build_decoder().is_ok()
}

fn span_bytes(messages: &[Message], span: Span) -> &[u8] {
    &messages[span.message as usize].payload[span.start as usize..span.end as usize]
}

/// Digits that overflow a float become infinite. That is damage, and one infinite value ruins every average.
fn without_overflow(column: &ArrayRef, field: &Field, misfits: &mut Misfits) -> ArrayRef {
    match column.data_type() {
        DataType::Float64 => finite::<Float64Type>(column, field, misfits, |value| value.is_infinite()),
        DataType::Float32 => finite::<Float32Type>(column, field, misfits, |value| value.is_infinite()),
        _ => Arc::clone(column),
    }
}

fn finite<T: ArrowPrimitiveType>(
    column: &ArrayRef,
    field: &Field,
    misfits: &mut Misfits,
    is_infinite: impl Fn(T::Native) -> bool,
) -> ArrayRef {
    let values = column.as_primitive::<T>();
    if !values.values().iter().any(|value| is_infinite(*value)) {
        return Arc::clone(column);
    }
    for row in (0..values.len()).filter(|row| values.is_valid(*row) && is_infinite(values.value(*row))) {
        let expected = expected(field.data_type());
        misfits.refuse(row, field, || {
            format!("column {}: expected {expected}, but the number is too large", field.name())
        });
    }
    Arc::new(values.unary_opt::<_, T>(|value| (!is_infinite(value)).then_some(value)))
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;
    use bytes::Bytes;
    use rand::rngs::StdRng;
    use rand::seq::IndexedRandom;
    use rand::{Rng, SeedableRng};
    use tidemill_engine::decode::DeadLetter;

    use super::super::TimeUnit;
    use super::*;
    use crate::mqtt::TopicPattern;

    fn columns() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("device", DataType::Utf8View, true),
            Field::new("temperature", DataType::Float64, false),
            Field::new("n", DataType::Int64, true),
            Field::new("ok", DataType::Boolean, true),
            Field::new("ts", DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into())), true),
        ]))
    }

    fn format() -> JsonFormat {
        JsonFormat::new(Layout::new(&columns()))
    }

    fn messages(payloads: &[&[u8]]) -> Data {
        Data::Messages(payloads.iter().map(|payload| Message::new("", Bytes::copy_from_slice(payload))).collect())
    }

    fn reasons(payloads: &[&[u8]]) -> Vec<(usize, String)> {
        let decoded = format().decoder().decode(&messages(payloads), &Place::default());
        decoded.dead.into_iter().map(|letter| (letter.message, letter.reason)).collect()
    }

    /// The columns with one of them declared NOT NULL as well.
    fn format_with(must_be: &str) -> JsonFormat {
        let columns = columns();
        let fields = columns.fields().iter().map(|field| {
            let field = Field::clone(field);
            if field.name() == must_be { field.with_nullable(false) } else { field }
        });
        JsonFormat::new(Layout::new(&Arc::new(Schema::new(fields.collect::<Vec<_>>()))))
    }

    fn only_reason(payload: &str, must_be: &str) -> String {
        let decoded = format_with(must_be).decoder().decode(&messages(&[payload.as_bytes()]), &Place::default());
        assert!(decoded.batches.is_empty(), "{payload} gave rows: {:?}", decoded.batches);
        assert_eq!(decoded.dead.len(), 1, "{payload}: {:?}", decoded.dead);
        decoded.dead[0].reason.clone()
    }

    fn rows(decoded: &Decoded) -> usize {
        decoded.batches.iter().map(RecordBatch::num_rows).sum()
    }

    #[test]
    fn objects_lines_and_arrays_give_the_same_rows() {
        let (a, b) = (r#"{"device":"a","temperature":1.5}"#, r#"{"temperature":2,"device":"b","unknown":[{}]}"#);
        let apart = format().decoder().decode(&messages(&[a.as_bytes(), b.as_bytes()]), &Place::default());
        let lines = format().decoder().decode(&messages(&[format!("{a}\n{b}\n").as_bytes()]), &Place::default());
        let array = format().decoder().decode(&messages(&[format!("[{a},\n {b}]").as_bytes()]), &Place::default());
        assert_eq!(rows(&apart), 2);
        assert_eq!(apart.batches, lines.batches);
        assert_eq!(apart.batches, array.batches);
        assert!(apart.dead.is_empty() && lines.dead.is_empty() && array.dead.is_empty());
    }

    #[test]
    fn topic_levels_repeat_for_every_row_of_their_message() {
        let topic = TopicPattern::parse("plant/{site}/{unit}/telemetry").unwrap();
        let format = JsonFormat::new(Layout::new(&columns()).with_topic(topic).unwrap());
        let message = |topic: &str, payload: &str| Message::new(topic.to_owned(), payload.to_owned());
        let decoded = format.decoder().decode(
            &Data::Messages(vec![
                message("plant/a/1/telemetry", "{\"temperature\":1}\n{\"temperature\":\"x\"}\n{\"temperature\":2}"),
                message("other", "{\"temperature\":3}"),
                message("plant/b/2/telemetry", "{\"temperature\":4}"),
            ]),
            &Place::default(),
        );
        let table = pretty_format_batches(&decoded.batches).unwrap().to_string();
        let values: Vec<String> = table.lines().skip(3).map(|line| line.replace([' ', '|'], "")).collect();
        assert_eq!(values[..3], ["1.0a1", "2.0a1", "4.0b2"], "{table}");
        assert_eq!(decoded.dead.len(), 2);
        assert!(decoded.dead[1].reason.contains("does not match"), "{:?}", decoded.dead[1]);
    }

    #[test]
    fn a_topic_level_may_not_hide_a_declared_column() {
        let topic = TopicPattern::parse("plant/{device}").unwrap();
        let error = Layout::new(&columns()).with_topic(topic).expect_err("device is declared");
        assert!(error.to_string().contains("device"), "{error}");
    }

    #[test]
    fn a_cut_off_message_does_not_join_its_neighbour() {
        let found = reasons(&[br#"{"temperature":1"#, br#","device":"b"}"#, br#"{"temperature":2}"#]);
        assert_eq!(found.iter().map(|(message, _)| *message).collect::<Vec<_>>(), [0, 1]);
        let found = reasons(&[b"{\"temperature\":1\n,\"device\":\"b\"}\n{\"temperature\":2}"]);
        assert_eq!(found.len(), 2, "{found:?}");
        let found = reasons(&[br#"{"temperature":1,"a":{"x":1}"#, br#"}"#, br#"{"temperature":1,"a":"{}"#, br#""}"#]);
        assert_eq!(found.len(), 4, "{found:?}");
    }

    #[test]
    fn reasons_are_for_people() {
        for (payload, reason) in [
            ("", "not JSON: the message is empty"),
            ("17", "expected a JSON object, found the number 17"),
            ("null", "expected a JSON object, found null"),
            ("\"x\"", "expected a JSON object, found the text \"x\""),
            ("hello", "not JSON: expected value at byte 0"),
            ("[]", "an array without rows"),
            ("{\"device\":\"a\"}", "column temperature: missing or null, but declared NOT NULL"),
            ("{\"temperature\":null}", "column temperature: missing or null, but declared NOT NULL"),
            ("{\"temperature\":\"warm\"}", "column temperature: expected a number (DOUBLE), found the text \"warm\""),
            ("{\"temperature\":[1]}", "column temperature: expected a number (DOUBLE), found an array"),
            ("{\"temperature\":1e999}", "column temperature: expected a number (DOUBLE), but the number is too large"),
            (
                "{\"temperature\":1,\"n\":1.5}",
                "column n: expected a whole number (BIGINT), but \"1.5\" is not a whole number",
            ),
            ("{\"temperature\":1,\"n\":{}}", "column n: expected a whole number (BIGINT), found an object"),
            ("{\"temperature\":1,\"ok\":3}", "column ok: expected true or false (BOOLEAN), found the number 3"),
            (
                "{\"temperature\":1,\"ts\":1700000000}",
                "column ts: expected a time (TIMESTAMP), but \"1700000000\" is a number: say what it counts with the \
                 option time_unit = 's', 'ms', 'us' or 'ns'",
            ),
            (
                "{\"temperature\":1,\"ts\":\"soon\"}",
                "column ts: expected a time (TIMESTAMP), but \"soon\" is not a time such as 2026-11-20T09:00:00Z",
            ),
            ("{\"temperature\":NaN}", "not JSON: expected value at byte 15"),
            ("{\"temperature\":1} {\"temperature\":2}", "not JSON: trailing characters at byte 18"),
        ] {
            let column = reason.strip_prefix("column ").and_then(|rest| rest.split(':').next()).unwrap_or_default();
            assert_eq!(only_reason(payload, column), reason, "{payload}");
        }
        let (_, reason) = &reasons(&[b"{\"device\":\"\xff\",\"temperature\":1}"])[0];
        assert_eq!(reason, "not JSON: not UTF-8 at byte 11");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_null_and_counted_where_null_may_be() {
        let payload = br#"{"temperature":1,"device":"a","n":1.5,"ok":3,"ts":"soon"}
            {"temperature":2,"device":{},"n":[1],"ok":"x","ts":7}
            {"temperature":3,"device":"c","n":1e30,"ok":true,"ts":null}
            {"temperature":"warm","n":0.5}
            {"temperature":1e999,"n":0.5}
            {"temperature":4,"device":"d","n":"8"}"#;
        let decoded = format().decoder().decode(&messages(&[payload]), &Place::default());
        assert_eq!((rows(&decoded), decoded.dead.len(), decoded.nulled), (4, 2, 8), "{:?}", decoded.dead);
        let batch = arrow::compute::concat_batches(&columns(), &decoded.batches).unwrap();
        let temperatures = batch.column(1).as_primitive::<Float64Type>().values();
        let row = |temperature: f64| temperatures.iter().position(|found| *found == temperature).unwrap();
        assert!((2..5).all(|column| batch.column(column).is_null(row(1.0))));
        assert!([0, 2, 3, 4].iter().all(|column| batch.column(*column).is_null(row(2.0))));
        assert_eq!(batch.column(0).as_string_view().value(row(3.0)), "c");
        assert_eq!(batch.column(2).as_primitive::<arrow::datatypes::Int64Type>().value(row(4.0)), 8);
        let float = Arc::new(Schema::new(vec![Field::new("x", DataType::Float64, true)]));
        let decoded =
            JsonFormat::new(Layout::new(&float)).decoder().decode(&messages(&[b"{\"x\":1e999}"]), &Place::default());
        assert_eq!(
            (decoded.nulled, decoded.batches[0].column(0).null_count()),
            (1, 1),
            "digits that overflow are damage"
        );
    }

    #[test]
    fn a_megabyte_of_brackets_is_refused_without_recursion() {
        let deep = format!("{{\"temperature\":{}1{}}}", "[".repeat(1 << 20), "]".repeat(1 << 20));
        assert_eq!(only_reason(&deep, ""), "nested more than 64 levels deep");
        let unknown = format!("{{\"temperature\":1,\"x\":{}{}}}", "[".repeat(40), "]".repeat(40));
        assert_eq!(rows(&format().decoder().decode(&messages(&[unknown.as_bytes()]), &Place::default())), 1);
    }

    #[test]
    fn harmless_variants_are_understood() {
        let payload = r#"{"temperature":"20.5","n":5.0,"device":17,"ok":true,"ts":"2026-11-20 09:00:00","n":7e3}"#;
        let decoded = format().decoder().decode(&messages(&[payload.as_bytes()]), &Place::default());
        assert!(decoded.dead.is_empty(), "{:?}", decoded.dead);
        let batch = &decoded.batches[0];
        assert_eq!(batch.schema(), columns());
        assert_eq!(batch.column(0).as_string_view().value(0), "17");
        assert_eq!(batch.column(1).as_primitive::<Float64Type>().value(0), 20.5);
        assert_eq!(batch.column(2).as_primitive::<arrow::datatypes::Int64Type>().value(0), 7000);
        let times = batch.column(4).as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
        assert_eq!(times.value(0), 1_795_165_200_000_000);
    }

    #[test]
    fn numbers_are_times_when_the_unit_is_said() {
        let layout = Layout::new(&columns()).with_time_unit(Some(TimeUnit::Milliseconds));
        let payload = "{\"temperature\":1,\"ts\":1700000000123}\n{\"temperature\":1,\"ts\":\"1970-01-01T00:00:01Z\"}";
        let decoded = JsonFormat::new(layout).decoder().decode(&messages(&[payload.as_bytes()]), &Place::default());
        let times = decoded.batches[0].column(4).as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
        assert_eq!(times.values().as_ref(), [1_700_000_000_123_000, 1_000_000]);
    }

    #[test]
    fn a_source_may_have_topic_columns_only() {
        let topic = TopicPattern::parse("plant/{site}").unwrap();
        let none: SchemaRef = Arc::new(Schema::empty());
        let format = JsonFormat::new(Layout::new(&none).with_topic(topic).unwrap());
        let message = Message::new("plant/a", "{\"x\":1}\n{}\n7");
        let decoded = format.decoder().decode(&Data::Messages(vec![message]), &Place::default());
        assert_eq!((rows(&decoded), decoded.dead.len()), (2, 1));
    }

    /// The law of all decoders: together or alone, a message gives the same, and no row is lost or counted twice.
    #[test]
    fn random_mixes_decode_as_if_each_message_were_alone() {
        let good: [&[u8]; 7] = [
            br#"{"temperature":1.25,"device":"a","n":3}"#,
            br#"{"temperature":-0.0,"ts":"2026-11-20T09:00:00.5Z","ok":false}"#,
            b"{\"temperature\":1}\n{\"temperature\":2}\n",
            br#"[{"temperature":4},{"temperature":5,"n":null}]"#,
            b"{\n  \"temperature\": 9\n}",
            "{\"temperature\":6,\"device\":\"\u{20ac}\\u20ac a long name that is not inlined\"}".as_bytes(),
            br#"{"temperature":8,"x":{"y":[1,2,{"z":"}"}]}}"#,
        ];
        let bad: [&[u8]; 18] = [
            b"",
            b"{",
            b"}",
            br#"{"temperature":1"#,
            br#","device":"b"}"#,
            br#"{"temperature":"#,
            b"12",
            b"nul",
            br#"{"temperature":"x"}"#,
            br#"{"temperature":1,"n":0.5}"#,
            br#"{"temperature":1,"ok":[],"n":{},"device":"x"}"#,
            br#"{"temperature":1,"ts":5}"#,
            br#"{"device":"no temperature"}"#,
            b"{\"temperature\":1}\n{\"temperature\":[}\n{\"temperature\":2}",
            br#"[{"temperature":1},{"temperature":null},7]"#,
            b"\xff\xfe",
            b"{\"device\":\"\xe2\x82",
            b"\xac\",\"temperature\":1}",
        ];
        for seed in 0..300 {
            let mut random = StdRng::seed_from_u64(seed);
            let bad_share = [0.0, 0.02, 0.3, 1.0][seed as usize % 4];
            let payloads: Vec<&[u8]> = (0..random.random_range(0..200))
                .map(|_| match random.random_bool(bad_share) {
                    true => *bad.choose(&mut random).unwrap(),
                    false => *good.choose(&mut random).unwrap(),
                })
                .collect();
            let mut together_decoder = format().decoder();
            let together = together_decoder.decode(&messages(&payloads), &Place::default());
            let again = together_decoder.decode(&messages(&payloads), &Place::default());
            assert_eq!(together.dead, again.dead, "seed {seed}: a decoder must not remember");

            let mut alone = Decoded::default();
            for (index, payload) in payloads.iter().enumerate() {
                let decoded = format().decoder().decode(&messages(&[payload]), &Place::default());
                alone.batches.extend(decoded.batches);
                alone.nulled += decoded.nulled;
                alone.dead.extend(decoded.dead.into_iter().map(|letter| DeadLetter { message: index, ..letter }));
            }
            assert_eq!(together.dead, alone.dead, "seed {seed}");
            // Rows with values of the wrong type come last.
            let whole = |batches: &[RecordBatch]| {
                let text = pretty_format_batches(batches).unwrap().to_string();
                let mut lines: Vec<String> =
                    text.lines().map(|line| line.replace(' ', "")).filter(|line| !line.starts_with('+')).collect();
                lines.sort();
                lines
            };
            assert_eq!(whole(&together.batches), whole(&alone.batches), "seed {seed}");
            assert_eq!(together.nulled, alone.nulled, "seed {seed}");
            let mut rows_in = 0;
            payloads.iter().for_each(|payload| split_json(payload, |_| rows_in += 1));
            assert_eq!(rows_in, rows(&together) + together.dead.len(), "seed {seed}");
        }
    }

    /// No bytes panic the decoder, and none of them make it lose a row or invent one.
    #[test]
    fn damaged_bytes_neither_panic_nor_spread() {
        let sound = br#"{"device":"\u20ac\ud83d\ude00\\","temperature":-1.5e3,"n":12,"ok":true,"ts":"2026-11-20T09:00:00.123456Z","x":[1,{"y":null}]}"#;
        let neighbour = br#"{"temperature":1}"#;
        let mut decoder = format().decoder();
        for seed in 0..3_000 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut damaged = sound.to_vec();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..damaged.len());
                match random.random_range(0..4) {
                    0 => damaged[at] = random.random(),
                    1 => damaged.truncate(at.max(1)),
                    2 => damaged.insert(at, *b"{}[]\",:\\\n0e-.".choose(&mut random).unwrap()),
                    _ => drop(damaged.remove(at)),
                }
                if damaged.is_empty() {
                    break;
                }
            }
            let decoded = decoder.decode(&messages(&[neighbour, &damaged, neighbour]), &Place::default());
            let mut rows_in = 2;
            split_json(&damaged, |_| rows_in += 1);
            assert_eq!(rows(&decoded) + decoded.dead.len(), rows_in, "seed {seed}");
            assert!(decoded.dead.iter().all(|letter| letter.message == 1), "seed {seed}");
        }
    }
}
