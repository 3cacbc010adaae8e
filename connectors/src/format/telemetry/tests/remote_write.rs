//! Remote write, from bytes that are put together here as the specifications say; other tests have them from real clients.

use super::*;

/// A message in protobuf, field by field.
#[derive(Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn int(mut self, field: u32, value: i64) -> Self {
        self.varint(u64::from(field) << 3);
        self.varint(value as u64);
        self
    }

    fn zigzag(self, field: u32, value: i64) -> Self {
        self.int(field, (value << 1) ^ (value >> 63))
    }

    fn double(mut self, field: u32, value: f64) -> Self {
        self.varint(u64::from(field) << 3 | 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn bytes(mut self, field: u32, bytes: impl AsRef<[u8]>) -> Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.as_ref().len() as u64);
        self.0.extend(bytes.as_ref());
        self
    }

    fn deltas(self, field: u32, deltas: &[i64]) -> Self {
        let mut packed = Message::default();
        deltas.iter().for_each(|value| packed.varint(((value << 1) ^ (value >> 63)) as u64));
        self.bytes(field, packed.0)
    }

    fn doubles(self, field: u32, values: &[f64]) -> Self {
        let packed: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.bytes(field, packed)
    }
}

fn new() -> Message {
    Message::default()
}

fn label(name: &str, value: &str) -> Vec<u8> {
    new().bytes(1, name).bytes(2, value).0
}

fn sample(value: f64, time_ms: i64) -> Vec<u8> {
    new().double(1, value).int(2, time_ms).0
}

fn columns() -> Vec<Field> {
    vec![
        text("metric"),
        double("value"),
        time("ts"),
        text("job"),
        map("labels"),
        Field::new("stale", DataType::Boolean, true),
    ]
}

fn stale() -> f64 {
    f64::from_bits(0x7ff0_0000_0000_0002)
}

#[test]
fn a_sample_of_version_1_is_a_row() {
    // The samples stand in front of the labels: the order of fields means nothing.
    let up = new().bytes(2, sample(1.0, 1_700_000_000_123)).bytes(2, sample(stale(), 1_700_000_001_000));
    let up = up.bytes(1, label("__name__", "up")).bytes(1, label("job", "node")).bytes(1, label("zone", "é")).0;
    let nan = new().bytes(1, label("__name__", "x")).bytes(2, sample(f64::NAN, -5)).bytes(3, new().double(2, 1.0).0).0;
    let metadata = new().int(1, 1).bytes(2, "up").bytes(4, "Whether it is.").0;
    let body = new().bytes(1, up).bytes(3, metadata).bytes(1, nan).0;
    assert_eq!(
        rows(Protocol::RemoteWrite, &columns(), body.clone()),
        [
            "up 1.0 1700000000123000 node {job: node, zone: é} false",
            "up - 1700000001000000 node {job: node, zone: é} true",
            "x NaN -5000 - {} false",
        ]
    );
    assert_eq!(Tally::of(&body), Tally { samples: 3, histograms: 0, exemplars: 1 });
}

#[test]
fn a_sample_of_version_2_is_a_row_with_its_metadata() {
    let columns = [
        text("metric"),
        double("value"),
        time("ts"),
        text("job"),
        text("type"),
        text("unit"),
        text("help"),
        time("start_ts"),
    ];
    let series =
        new().bytes(1, [1, 2, 3, 4]).bytes(2, sample(3.5, 7)).bytes(5, new().int(1, 1).int(3, 5).int(4, 6).0).int(6, 2);
    // Not packed, which the specification allows as well.
    let other = new().int(1, 1).int(1, 4).bytes(2, sample(0.0, 8));
    let body = ["", "__name__", "requests_total", "job", "node", "How many.", "requests"]
        .iter()
        .fold(new().bytes(5, series.0), |body, symbol| body.bytes(4, symbol))
        .bytes(5, other.0)
        .0;
    assert_eq!(
        rows(Protocol::RemoteWrite, &columns, body),
        ["requests_total 3.5 7000 node counter requests How many. 2000", "node 0.0 8000 - - - - -"]
    );
}

#[test]
fn a_native_histogram_becomes_the_rows_of_a_classic_one() {
    let columns = [text("metric"), double("value"), double("le"), time("ts")];
    let span = |gap: i64, length: i64| new().zigzag(1, gap).int(2, length).0;
    // Buckets (0.5, 1] 1, (1, 2] 3, (4, 8] 2; zero 4; [-1, -0.5) 5.
    let histogram = new()
        .int(1, 15)
        .double(3, 21.5)
        .zigzag(4, 0)
        .double(5, 0.001)
        .int(6, 4)
        .bytes(8, span(0, 1))
        .deltas(9, &[5])
        .bytes(11, span(0, 2))
        .bytes(11, span(1, 1))
        .deltas(12, &[1, 2, -1])
        .int(15, 9);
    let series = new().bytes(1, label("__name__", "rtt")).bytes(4, histogram.0).0;
    let body = new().bytes(1, series).0;
    let shown = rows(Protocol::RemoteWrite, &columns, body.clone());
    assert_eq!(
        shown,
        [
            "rtt_sum 21.5 - 9000",
            "rtt_count 15.0 - 9000",
            "rtt_bucket 5.0 -0.5 9000",
            "rtt_bucket 9.0 0.001 9000",
            "rtt_bucket 10.0 1.0 9000",
            "rtt_bucket 13.0 2.0 9000",
            "rtt_bucket 15.0 8.0 9000",
            "rtt_bucket 15.0 inf 9000",
        ]
    );
    assert!(Protocol::RemoteWrite.rows_at_most(&body).is_some_and(|most| most >= shown.len()));
    // Boundaries that are listed, and counts that are no whole numbers.
    let custom = new().double(2, 4.5).double(3, 1.0).zigzag(4, -53).bytes(11, span(0, 3)).doubles(13, &[1.0, 2.5, 1.0]);
    let custom = custom.doubles(16, &[0.1, 0.5]).int(15, 1);
    let series = new().bytes(1, label("__name__", "c")).bytes(4, custom.0).0;
    let shown = rows(Protocol::RemoteWrite, &columns, new().bytes(1, series).0);
    assert_eq!(
        shown,
        [
            "c_sum 1.0 - 1000",
            "c_count 4.5 - 1000",
            "c_bucket 1.0 0.1 1000",
            "c_bucket 3.5 0.5 1000",
            "c_bucket 4.5 inf 1000"
        ]
    );
    // The end of a series.
    let ended = new().bytes(1, label("__name__", "e")).bytes(4, new().double(3, stale()).int(15, 2).0).0;
    assert_eq!(rows(Protocol::RemoteWrite, &columns, new().bytes(1, ended).0), ["e_sum - - 2000", "e_count - - 2000"]);
}

#[test]
fn a_bad_series_is_a_dead_letter_and_a_bad_request_gives_no_rows() {
    let good = new().bytes(1, label("__name__", "up")).bytes(2, sample(1.0, 1)).0;
    let bad = |series: Vec<u8>| new().bytes(1, &good).bytes(1, series).bytes(1, &good).0;
    let span = |length: i64| new().int(2, length).0;
    for (series, reason) in [
        (b"\x0a\x7f".to_vec(), "not remote write: series 2: a field of 127 bytes has only 0, at byte 35"),
        (new().bytes(1, b"\x0a\x01\xff").0, "not remote write: series 2: text is not UTF-8 at byte 37"),
        (new().bytes(2, sample(1.0, i64::MAX)).0, "series 2: the time 9223372036854775807 ms is too large"),
        (new().bytes(4, new().bytes(11, span(i64::MAX)).deltas(12, &[1]).0).0, "fewer counts than buckets"),
        (new().bytes(4, new().deltas(12, &[1]).0).0, "more counts than buckets"),
        (new().bytes(4, new().zigzag(4, 99).0).0, "a histogram of schema 99 is not known"),
    ] {
        let decoded =
            decode(Protocol::RemoteWrite, &[text("metric")], vec![super::Message::new("", bad(series.clone()))]);
        assert_eq!(decoded.dead.len(), 1, "{:?}", decoded.dead);
        assert!(decoded.dead[0].reason.contains(reason), "{}", decoded.dead[0].reason);
        assert_eq!(decoded.dead[0].payload, series);
        assert_eq!(shown(&decoded).iter().filter(|row| *row == "up").count(), 2);
    }
    for (body, reason) in [
        (new().bytes(1, &good).0[..20].to_vec(), "not remote write: a field of 29 bytes has only 18, at byte 2"),
        (new().int(1, 5).0, "is it another message?"),
        (new().bytes(1, &good).bytes(4, "").0, "it has fields of both versions"),
        (b"{}".to_vec(), "there is no kind 3 of fields"),
    ] {
        let decoded = decode(Protocol::RemoteWrite, &columns(), vec![super::Message::new("", body.clone())]);
        assert!(decoded.batches.is_empty() && decoded.dead.len() == 1);
        assert!(decoded.dead[0].reason.contains(reason), "{}", decoded.dead[0].reason);
        assert_eq!(Protocol::RemoteWrite.check_body(&body).expect_err("refused"), decoded.dead[0].reason);
    }
    let unknown_symbol = new().bytes(4, "").bytes(5, new().bytes(1, [0, 9]).0).0;
    let decoded = decode(Protocol::RemoteWrite, &columns(), vec![super::Message::new("", unknown_symbol)]);
    assert_eq!(decoded.dead[0].reason, "not remote write: series 1: there is no symbol 9, but 1");
}

#[test]
fn fuzz_remote_write() {
    let columns = [text("metric"), double("value"), time("ts"), map("labels"), text("type"), double("le"), text("job")];
    decodes_anything(Protocol::RemoteWrite, &columns, b"\x0a\x0b\x12\x09\x09\0\0\0\0\0\0\0\0", "remote_write");
}

/// What a Prometheus 2.42 has sent, as it was recorded: a page with two metrics, and the scrape that missed them.
#[test]
fn what_a_real_prometheus_has_sent_gives_these_rows() {
    let columns = [
        text("metric"),
        text("job"),
        text("le"),
        text("path"),
        double("value"),
        Field::new("stale", DataType::Boolean, true),
    ];
    let sent = include_bytes!("../../corpus/remote_write/prometheus_2_42");
    let mut shown = rows(Protocol::RemoteWrite, &columns, &sent[..]);
    shown.retain(|row| !row.starts_with("scrape_"));
    shown.sort();
    assert_eq!(
        shown,
        [
            "requests_total a - /é 7.0 false",
            "rtt_bucket a +Inf - 2.0 false",
            "rtt_bucket a 0.5 - 1.0 false",
            "rtt_count a - - 2.0 false",
            "rtt_sum a - - 3.5 false",
            "up a - - 1.0 false",
        ]
    );
    let sent = include_bytes!("../../corpus/remote_write/prometheus_2_42_stale");
    let mut shown = rows(Protocol::RemoteWrite, &columns, &sent[..]);
    shown.retain(|row| !row.starts_with("scrape_"));
    shown.sort();
    assert_eq!(
        shown,
        [
            "requests_total a - /é - true",
            "rtt_bucket a +Inf - - true",
            "rtt_bucket a 0.5 - - true",
            "rtt_count a - - - true",
            "rtt_sum a - - - true",
            "up a - - 1.0 false",
            "x a - - 1.0 false",
        ]
    );
}
