//! NDJSON to columns: the source's decoder against arrow-json's own reader over the same bytes, and against reading them.
//! Line protocol to columns: the same readings as points of Influx, and only finding the ends of their lines.

mod workload;

use std::fmt::Write as _;
use std::io::Cursor;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use tidemill_connectors::format::{JsonFormat, Layout, Protocol, TelemetryFormat};
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
