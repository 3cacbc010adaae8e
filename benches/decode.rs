//! NDJSON to columns: the source's decoder against arrow-json's own reader over the same bytes, and against reading them.
//! Line protocol to columns: the same readings as points of Influx, and only finding the ends of their lines.
//! The same readings in every format of messages.

mod workload;

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::ipc::writer::StreamWriter;
use tidemill_connectors::format::{Encoding, JsonFormat, Layout, Protocol, TelemetryFormat, TimeUnit};
use tidemill_connectors::options::Options;
use tidemill_engine::decode::{Format, Place};
use tidemill_engine::source::{Data, Message};
use workload::Count;

/// Bytes of one chunk, as the file source cuts them.
const CHUNK_BYTES: usize = 1 << 20;

const ROWS: usize = 1_000_000;

fn main() {
    if workload::wanted("json") {
        json();
    }
    if workload::wanted("line_protocol") {
        line_protocol();
    }
    if workload::wanted("formats") {
        formats();
    }
}

fn line_protocol() {
    let mut text = String::new();
    for row in 0..ROWS {
        let (device, celsius, humidity) =
            (row % 10_000, (row % 4_001) as f64 / 100.0, 30.0 + (row % 300) as f64 / 10.0);
        let ts = 1_767_225_600_000_000_000 + row as u64 * 1_000_000;
        writeln!(text, "reading,device=dev-{device:05} temperature={celsius},humidity={humidity} {ts}")
            .expect("writing to memory");
    }
    let text = bytes::Bytes::from(text);
    let chunks = chunks(text.clone());
    let format = TelemetryFormat::new(Protocol::LINE_PROTOCOL, Layout::new(&workload::schema()));
    let (mut ours, mut lines) = (0, 0);
    let times = workload::interleaved(
        Count::Thread,
        5,
        &mut [&mut || ours = decode(&format, &chunks), &mut || lines = count(&text)],
    );
    assert_eq!((ours, lines), (ROWS, ROWS), "every variant sees every point");
    println!("{ROWS} points, {:.0} MB of line protocol", text.len() as f64 / 1e6);
    let names = ["tidemill decoder", "finding the line ends"];
    workload::report("line protocol to columns, one thread", "M points/s", ROWS as f64 / 1e6, &names, &times);
}

fn json() {
    let mut text = String::new();
    for row in 0..ROWS {
        let (device, celsius, humidity) =
            (row % 10_000, (row % 4_001) as f64 / 100.0, 30.0 + (row % 300) as f64 / 10.0);
        let (minute, second, ms) = (row / 60_000 % 60, row / 1_000 % 60, row % 1_000);
        let ts = format!("2026-01-01T00:{minute:02}:{second:02}.{ms:03}Z");
        writeln!(text, r#"{{"device":"dev-{device:05}","ts":"{ts}","temperature":{celsius},"humidity":{humidity}}}"#)
            .expect("writing to memory");
    }
    let text = bytes::Bytes::from(text);
    let chunks = chunks(text.clone());
    let format = JsonFormat::new(Layout::new(&workload::schema()));
    let (mut ours, mut theirs, mut lines) = (0, 0, 0);
    let times = workload::interleaved(
        Count::Thread,
        5,
        &mut [&mut || ours = decode(&format, &chunks), &mut || theirs = read(&text), &mut || lines = count(&text)],
    );
    assert_eq!((ours, theirs, lines), (ROWS, ROWS, ROWS), "every variant sees every row");
    let megabytes = text.len() as f64 / 1e6;
    println!("{ROWS} rows, {megabytes:.0} MB of NDJSON: {:.2} M rows/s", ROWS as f64 / 1e6 / times[0].as_secs_f64());
    let names = ["tidemill decoder", "arrow-json reader, times as text", "finding the line ends"];
    workload::report("NDJSON to columns, one thread", "MB/s", megabytes, &names, &times);
}

/// Rows of each format, a message each; of text formats and Arrow many in a message, as they are sent.
const FORMAT_ROWS: usize = 200_000;
const ROWS_OF_MESSAGE: usize = 1_000;

fn formats() {
    let layout = || Layout::new(&workload::schema()).with_time_unit(Some(TimeUnit::Milliseconds));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("connectors/src/format/testdata");
    let taken = |encoding: Encoding, layout: Layout, options: &[(&str, &str)]| {
        let mut options = Options::new(options.iter().map(|(key, value)| (key.to_string(), value.to_string())));
        encoding.take_format(layout, &mut options, &folder).expect("good options")
    };
    let lines = Layout::new(&Arc::new(Schema::new(vec![Field::new("line", DataType::Utf8View, false)])));
    let protobuf = [("descriptor_file", "readings.desc"), ("message", "plant.Reading")];
    let formats: [(&str, Arc<dyn Format>, Vec<Message>); 6] = [
        ("json", taken(Encoding::Json, layout(), &[]), many(json_line, "")),
        (
            "csv",
            taken(Encoding::Csv { delimiter: b',' }, layout(), &[]),
            many(csv_line, "device,ts,temperature,humidity\n"),
        ),
        ("text", taken(Encoding::Text, lines, &[]), many(json_line, "")),
        ("avro", taken(Encoding::Avro, layout(), &[("schema", AVRO_SCHEMA)]), each(avro)),
        ("protobuf", taken(Encoding::Protobuf, layout(), &protobuf), each(protobuf_message)),
        ("arrow", taken(Encoding::Arrow, layout(), &[]), arrow_messages()),
    ];
    let formats = formats.map(|(name, format, messages)| (name, format, Data::Messages(messages)));
    let counts: [Cell<usize>; 6] = Default::default();
    let mut variants: Vec<_> = (formats.iter().zip(&counts))
        .map(|((_, format, data), count)| move || count.set(decode(&**format, std::slice::from_ref(data))))
        .collect();
    let mut variants: Vec<&mut dyn FnMut()> = variants.iter_mut().map(|variant| variant as &mut dyn FnMut()).collect();
    let times = workload::interleaved(Count::Thread, 5, &mut variants);
    assert!(counts.iter().all(|count| count.get() == FORMAT_ROWS), "every format gives every row: {counts:?}");
    let names = formats.each_ref().map(|(name, _, _)| *name);
    workload::report(
        "readings in messages to columns, one thread",
        "k rows/s",
        FORMAT_ROWS as f64 / 1e3,
        &names,
        &times,
    );
}

const AVRO_SCHEMA: &str = r#"{"type": "record", "name": "Reading", "fields": [{"name": "device", "type": "string"},
    {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "temperature", "type": "double"}, {"name": "humidity", "type": "double"}]}"#;

/// Device, time in milliseconds, temperature, humidity.
fn reading(row: usize) -> (String, i64, f64, f64) {
    let (celsius, humidity) = ((row % 4_001) as f64 / 100.0, 30.0 + (row % 300) as f64 / 10.0);
    (format!("dev-{:05}", row % 10_000), 1_767_225_600_000 + row as i64, celsius, humidity)
}

fn many(row: fn(usize) -> String, head: &str) -> Vec<Message> {
    let message = |start: usize| {
        Message::new("", head.to_owned() + &(start..start + ROWS_OF_MESSAGE).map(row).collect::<String>())
    };
    (0..FORMAT_ROWS).step_by(ROWS_OF_MESSAGE).map(message).collect()
}

fn each(row: fn(usize) -> Vec<u8>) -> Vec<Message> {
    (0..FORMAT_ROWS).map(|number| Message::new("", row(number))).collect()
}

fn json_line(row: usize) -> String {
    let (device, ms, celsius, humidity) = reading(row);
    format!("{{\"device\":\"{device}\",\"ts\":{ms},\"temperature\":{celsius},\"humidity\":{humidity}}}\n")
}

fn csv_line(row: usize) -> String {
    let (device, ms, celsius, humidity) = reading(row);
    format!("{device},{ms},{celsius},{humidity}\n")
}

fn varint(mut value: u64, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn avro(row: usize) -> Vec<u8> {
    let (device, ms, celsius, humidity) = reading(row);
    let mut bytes = Vec::new();
    varint(device.len() as u64 * 2, &mut bytes);
    bytes.extend_from_slice(device.as_bytes());
    varint(ms as u64 * 2, &mut bytes);
    [celsius, humidity].iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
    bytes
}

fn protobuf_message(row: usize) -> Vec<u8> {
    let (device, ms, celsius, humidity) = reading(row);
    let mut time = vec![0x08];
    varint(ms as u64 / 1_000, &mut time);
    time.push(0x10);
    varint(ms as u64 % 1_000 * 1_000_000, &mut time);
    let mut bytes = vec![0x0A, device.len() as u8];
    bytes.extend_from_slice(device.as_bytes());
    bytes.push(0x11);
    bytes.extend_from_slice(&celsius.to_le_bytes());
    bytes.extend_from_slice(&[0x22, time.len() as u8]);
    bytes.extend_from_slice(&time);
    bytes.extend_from_slice(&[0x42, 9, 0x09]);
    bytes.extend_from_slice(&humidity.to_le_bytes());
    bytes
}

fn arrow_messages() -> Vec<Message> {
    let batches = workload::readings(FORMAT_ROWS, 10_000, 1_000);
    let parts = batches.iter().flat_map(|batch| {
        let starts = (0..batch.num_rows()).step_by(ROWS_OF_MESSAGE);
        starts.map(move |start| batch.slice(start, ROWS_OF_MESSAGE.min(batch.num_rows() - start)))
    });
    let message = |part: RecordBatch| {
        let mut writer = StreamWriter::try_new(Vec::new(), part.schema_ref()).expect("writing to memory");
        writer.write(&part).and_then(|()| writer.finish()).expect("writing to memory");
        Message::new("", writer.into_inner().expect("writing to memory"))
    };
    parts.map(message).collect()
}

/// Cuts text at line ends.
fn chunks(text: bytes::Bytes) -> Vec<Data> {
    let mut chunks = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let cut = rest.len().min(CHUNK_BYTES);
        let end = rest[..cut].iter().rposition(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
        let payload = rest.split_to(end);
        chunks.push(Data::Messages(vec![Message::new("", payload)]));
    }
    chunks
}

fn decode(format: &dyn Format, chunks: &[Data]) -> usize {
    let mut decoder = format.decoder();
    let mut rows = 0;
    for chunk in chunks {
        let decoded = decoder.decode(chunk, &Place::default());
        assert!(decoded.dead.is_empty(), "{:?}", decoded.dead.first());
        rows += decoded.batches.iter().map(RecordBatch::num_rows).sum::<usize>();
    }
    rows
}

fn read(text: &bytes::Bytes) -> usize {
    let columns = workload::schema();
    let fields = columns.fields().iter().map(|field| match field.data_type() {
        DataType::Timestamp(..) => Field::new(field.name(), DataType::Utf8View, false),
        _ => field.as_ref().clone(),
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let reader =
        arrow_json::ReaderBuilder::new(schema).with_batch_size(8_192).build(Cursor::new(text)).expect("a reader");
    reader.map(|batch| batch.expect("decodes").num_rows()).sum()
}

fn count(text: &bytes::Bytes) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}
