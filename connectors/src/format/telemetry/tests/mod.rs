//! The formats as a whole: what comes in, and exactly which rows and dead letters come out.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Schema, TimestampMicrosecondType};
use arrow::util::display::array_value_to_string;
use bytes::Bytes;
use tidemill_engine::source::{Message, Offset};
use tidemill_engine::testing::fuzz::fuzz;

use super::super::time::TimeUnit;
use super::*;

mod otlp;
mod remote_write;

/// When everything arrives here.
const ARRIVAL_US: i64 = 1_000;

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8View, true)
}

fn double(name: &str) -> Field {
    Field::new(name, DataType::Float64, true)
}

fn time(name: &str) -> Field {
    Field::new(name, timestamp_type(), true)
}

fn map(name: &str) -> Field {
    Field::new(name, text_map_type(), true)
}

fn decode(protocol: Protocol, columns: &[Field], messages: Vec<Message>) -> Decoded {
    for column in columns {
        assert_eq!(protocol.refuses(column), None);
    }
    let layout = Layout::new(&Arc::new(Schema::new(columns.to_vec())));
    let runs = [(Offset(0), messages.len())];
    let place = Place { partition: "http", arrival_us: ARRIVAL_US, runs: &runs };
    TelemetryFormat::new(protocol, layout).decoder().decode(&Data::Messages(messages), &place)
}

/// One text for each row: the values of its columns; times as microseconds.
fn shown(decoded: &Decoded) -> Vec<String> {
    let value = |column: &dyn Array, row: usize| match column.data_type() {
        _ if column.is_null(row) => "-".to_owned(),
        DataType::Timestamp(..) => column.as_primitive::<TimestampMicrosecondType>().value(row).to_string(),
        _ => array_value_to_string(column, row).expect("printable"),
    };
    let rows = |batch: &RecordBatch| -> Vec<String> {
        let row = |row: usize| batch.columns().iter().map(|column| value(column, row)).collect::<Vec<_>>().join(" ");
        (0..batch.num_rows()).map(row).collect()
    };
    decoded.batches.iter().flat_map(rows).collect()
}

fn rows(protocol: Protocol, columns: &[Field], payload: impl Into<Bytes>) -> Vec<String> {
    let decoded = decode(protocol, columns, vec![Message::new("", payload)]);
    assert!(decoded.dead.is_empty(), "{:?}", decoded.dead);
    shown(&decoded)
}

fn dead(decoded: &Decoded) -> Vec<(String, &str)> {
    let letter = |letter: &tidemill_engine::decode::DeadLetter| String::from_utf8_lossy(&letter.payload).into_owned();
    decoded.dead.iter().map(|dead| (letter(dead), dead.reason.as_str())).collect()
}

mod influx {
    use super::*;

    fn columns() -> Vec<Field> {
        vec![text("measurement"), text("host"), double("usage"), Field::new("cores", DataType::Int32, true), time("ts")]
    }

    #[test]
    fn a_point_is_a_row_and_what_is_not_declared_is_left_out() {
        let body = "cpu,host=a,dc=x usage=0.5,cores=8i 1700000000000000999\n\
                    # a comment\n\n  cpu,host=b usage=7u\r\n\
                    mem,host=\"c\" free=1i,used=2i 1000\n\
                    cpu usage=3i,cores=2,host=\"from a field\" -1001\n";
        assert_eq!(
            rows(Protocol::LINE_PROTOCOL, &columns(), body),
            ["cpu a 0.5 8 1700000000000000", "cpu b 7.0 - 1000", "mem \"c\" - - 1", "cpu from a field 3.0 2 -2",]
        );
    }

    #[test]
    fn all_tags_and_all_fields_are_maps_where_they_are_declared() {
        let columns = [map("tags"), map("fields"), time("time")];
        let body = "cpu,z=1,a=2,a=3 f=0.5,i=-3i,t=t,s=\"x y\" 5000\ncpu f=1\n";
        assert_eq!(
            rows(Protocol::LINE_PROTOCOL, &columns, body),
            ["{a: 3, z: 1} {f: 0.5, i: -3, s: x y, t: true} 5", "{} {f: 1} 1000"]
        );
    }

    #[test]
    fn bad_lines_are_dead_letters_and_leave_their_neighbours_alone() {
        let mut body = b"cpu usage=1\ncpu usage=\ncpu,host=\xffx usage=2\ncpu usage=3\n".to_vec();
        body.extend(b"cpu usage=\"open\ncpu usage=4\ncpu usage=5 9223372036854775808\n");
        let decoded = decode(Protocol::LINE_PROTOCOL, &columns(), vec![Message::new("", body)]);
        assert_eq!(shown(&decoded), ["cpu - 1.0 - 1000", "cpu - 3.0 - 1000", "cpu - 4.0 - 1000"]);
        assert_eq!(
            dead(&decoded),
            [
                ("cpu usage=".to_owned(), "not line protocol: a field has no value, at byte 10"),
                ("cpu,host=\u{fffd}x usage=2".to_owned(), "not line protocol: not UTF-8 at byte 9"),
                ("cpu usage=\"open".to_owned(), "not line protocol: text has no closing quote, at byte 10"),
                (
                    "cpu usage=5 9223372036854775808".to_owned(),
                    "not line protocol: the time is not a whole number of 64 bits, at byte 12"
                ),
            ]
        );
    }

    #[test]
    fn a_value_of_the_wrong_type_is_null_and_counted_or_a_dead_letter_where_it_must_be_there() {
        let body = "cpu usage=\"warm\",cores=2 1000\ncpu cores=1.5,usage=3\ncpu cores=3000000000,usage=t\n";
        let message = || vec![Message::new("", body)];
        let decoded = decode(Protocol::LINE_PROTOCOL, &columns(), message());
        assert_eq!(shown(&decoded), ["cpu - - 2 1", "cpu - 3.0 - 1000", "cpu - - - 1000"]);
        assert_eq!((decoded.dead.len(), decoded.nulled), (0, 4));
        let mut columns = columns();
        columns[2] = double("usage").with_nullable(false);
        let decoded = decode(Protocol::LINE_PROTOCOL, &columns, message());
        assert_eq!(shown(&decoded), ["cpu - 3.0 - 1000"]);
        assert_eq!(
            dead(&decoded),
            [
                (
                    "cpu usage=\"warm\",cores=2 1000".to_owned(),
                    "column usage: expected a number (DOUBLE), but \"warm\" is not a number"
                ),
                (
                    "cpu cores=3000000000,usage=t".to_owned(),
                    "column usage: expected a number (DOUBLE), but true is not a number"
                ),
            ]
        );
        assert_eq!(decoded.nulled, 1, "of the row that is kept");
    }

    #[test]
    fn what_must_have_a_value_and_has_none_is_a_dead_letter() {
        let columns = [text("measurement"), double("usage").with_nullable(false)];
        let decoded = decode(
            Protocol::LINE_PROTOCOL,
            &columns,
            vec![Message::new("", "mem free=1"), Message::new("", "cpu usage=1")],
        );
        assert_eq!(shown(&decoded), ["cpu 1.0"]);
        assert_eq!(decoded.dead[0].reason, "column usage: missing or null, but declared NOT NULL");
        assert_eq!(decoded.dead[0].message, 0);
    }

    #[test]
    fn a_time_counts_what_its_request_says_else_what_the_source_says() {
        for (word, us) in [
            ("ns", 3_i64),
            ("n", 3),
            ("u", 3_000),
            ("us", 3_000),
            ("ms", 3_000_000),
            ("s", 3_000_000_000),
            ("m", 180_000_000_000),
            ("h", 10_800_000_000_000),
        ] {
            let layout = Layout::new(&Arc::new(Schema::new(vec![time("ts")]))).with_time_unit(Some(TimeUnit::Seconds));
            let decode = |protocol, payload: &'static str| {
                let format = TelemetryFormat::new(protocol, layout.clone());
                shown(&format.decoder().decode(&Data::Messages(vec![Message::new("", payload)]), &Place::default()))
            };
            let precision = Precision::WORDS.iter().find(|(known, _)| *known == word);
            let precision = Some(precision.expect(word).1);
            assert_eq!(decode(Protocol::LineProtocol { precision }, "m f=1 3000"), [us.to_string()], "{word}");
            assert_eq!(decode(Protocol::LINE_PROTOCOL, "m f=1 7"), ["7000000"], "the source's own unit");
        }
        let hours = Protocol::LineProtocol { precision: Some(Precision::Hours) };
        let decoded = decode(hours, &[time("ts")], vec![Message::new("", "m f=1 9223372036854775807")]);
        assert_eq!(decoded.dead[0].reason, "the time 9223372036854775807 is too large for this precision");
    }

    #[test]
    fn many_points_are_cut_into_batches_and_each_comes_out_once() {
        let body: String = (0..20_000).map(|n| format!("m,host=h{n} usage={n} {}\n", n * 1000)).collect();
        let decoded = decode(Protocol::LINE_PROTOCOL, &columns(), vec![Message::new("", body)]);
        let sizes: Vec<usize> = decoded.batches.iter().map(RecordBatch::num_rows).collect();
        assert_eq!(sizes, [8192, 8192, 3616]);
        let all = shown(&decoded);
        assert!((0..20_000).all(|n| all[n] == format!("m h{n} {n}.0 - {n}")));
    }

    /// Whatever the lines are, each is a row or a dead letter, as if it had been alone.
    #[test]
    fn random_lines_decode_as_if_each_were_alone() {
        let lines =
            ["a f=1", "b,host=x f=1i 5", "c", "d usage=t", "e usage=1,f=2 x", "", "# f=1", "g,=1 f=2", "h usage=1e5 7"];
        for seed in 0..60usize {
            let chosen: Vec<&str> = (0..seed).map(|at| lines[(at * at + seed * 5 + at / 3) % lines.len()]).collect();
            let together = decode(Protocol::LINE_PROTOCOL, &columns(), vec![Message::new("", chosen.join("\n"))]);
            let alone: Vec<Message> = chosen.iter().map(|line| Message::new("", line.to_string())).collect();
            let alone = decode(Protocol::LINE_PROTOCOL, &columns(), alone);
            assert_eq!((shown(&together), dead(&together)), (shown(&alone), dead(&alone)), "seed {seed}");
            let blank = chosen.iter().filter(|line| line.is_empty() || line.starts_with('#')).count();
            assert_eq!(shown(&together).len() + together.dead.len() + blank, chosen.len(), "seed {seed}");
        }
    }
}

mod prometheus {
    use super::*;

    fn columns() -> Vec<Field> {
        vec![text("metric"), double("value"), time("ts"), text("type"), text("unit"), map("labels"), text("code")]
    }

    #[test]
    fn the_example_of_the_format_gives_these_rows() {
        let body = r#"# HELP http_requests_total The total number of HTTP requests.
# TYPE http_requests_total counter
http_requests_total{method="post",code="200"} 1027 1395066363000
http_requests_total{method="post",code="400"}    3 1395066363000

# Escaping in label values:
msdos_file_access_time_seconds{path="C:\\DIR\\FILE.TXT",error="Cannot find file:\n\"FILE.TXT\""} 1.458255915e9

# Minimalistic line:
metric_without_timestamp_and_labels 12.47

# A weird metric from before the epoch:
something_weird{problem="division by zero"} +Inf -3982045

# TYPE rpc_duration_seconds summary
rpc_duration_seconds{ quantile = "0.99" , } 76656
rpc_duration_seconds_sum 1.7560473e+07
# TYPE h histogram
h_bucket{le="+Inf"} NaN
"#;
        assert_eq!(
            rows(Protocol::Exposition, &columns(), body),
            [
                "http_requests_total 1027.0 1395066363000000 counter - {code: 200, method: post} 200",
                "http_requests_total 3.0 1395066363000000 counter - {code: 400, method: post} 400",
                "msdos_file_access_time_seconds 1458255915.0 1000 - - \
                 {error: Cannot find file:\n\"FILE.TXT\", path: C:\\DIR\\FILE.TXT} -",
                "metric_without_timestamp_and_labels 12.47 1000 - - {} -",
                "something_weird inf -3982045000 - - {problem: division by zero} -",
                "rpc_duration_seconds 76656.0 1000 summary - {quantile: 0.99} -",
                "rpc_duration_seconds_sum 17560473.0 1000 summary - {} -",
                "h_bucket NaN 1000 histogram - {le: +Inf} -",
            ]
        );
    }

    #[test]
    fn open_metrics_counts_seconds_and_has_units_and_exemplars() {
        let body = "# TYPE foo_seconds counter\n# UNIT foo_seconds seconds\n\
                    foo_seconds_total{code=\"a\"} 17.0 1520879607.789 # {trace_id=\"x}\"} 0.67 1520879606.1\n\
                    foo_seconds_created 1520430000.123\n\
                    foo_seconds_total 1 # {} 1\n\
                    {\"a.b\",\"c d\"=\"e\"} 2\n# EOF\n";
        assert_eq!(
            rows(Protocol::Exposition, &columns(), body),
            [
                "foo_seconds_total 17.0 1520879607789000 counter seconds {code: a} a",
                "foo_seconds_created 1520430000.123 1000 counter seconds {} -",
                "foo_seconds_total 1.0 1000 counter seconds {} -",
                "a.b 2.0 1000 - - {c d: e} -",
            ]
        );
    }

    #[test]
    fn bad_samples_are_dead_letters_and_leave_their_neighbours_alone() {
        let body = b"a 1\nb\nc warm\n{x=\"1\"} 1\nd{x=1} 1\ne{x=\"1} 1\nf{x=\"1\" y=\"2\"} 1\ng 1 soon\nh 1 2 3\n\xff 1\ni 1e999\nj 2";
        let decoded = decode(Protocol::Exposition, &[text("metric")], vec![Message::new("", body.to_vec())]);
        assert_eq!(shown(&decoded), ["a", "j"]);
        let reasons: Vec<&str> = decoded.dead.iter().map(|dead| dead.reason.as_str()).collect();
        assert_eq!(
            reasons,
            [
                "not Prometheus text: there is no value, at byte 1",
                "not Prometheus text: the value is not a number, at byte 2",
                "not Prometheus text: there is no name of a metric, at byte 7",
                "not Prometheus text: the value of a label is text in quotes, at byte 4",
                "not Prometheus text: text has no closing quote, at byte 4",
                "not Prometheus text: expected a comma or the end of the labels, at byte 8",
                "not Prometheus text: the time is not a number of the format, at byte 4",
                "not Prometheus text: expected the end of the line, at byte 6",
                "not Prometheus text: not UTF-8 at byte 0",
                "not Prometheus text: the value is not a number, at byte 2",
            ]
        );
    }
}

/// What is sent and not kept can be seen: in rows, not in dead letters, which keep their bytes.
#[test]
fn tags_labels_and_fields_without_a_column_are_counted() {
    let dropped = |protocol, columns: &[Field], payload: &str| {
        let decoded = decode(protocol, columns, vec![Message::new("", payload.to_owned())]);
        (decoded.batches.iter().map(RecordBatch::num_rows).sum::<usize>(), decoded.dropped_attributes)
    };
    let points = "cpu,host=a,dc=x usage=1,free=2i\ncpu,host=b usage=1\ncpu,dc=x,rack=3 usage=\n";
    for (columns, expected) in [
        (vec![text("host"), double("usage")], (2, 2)),
        (vec![text("host"), double("usage"), map("tags")], (2, 1)),
        (vec![map("tags"), map("fields")], (2, 0)),
        (vec![text("measurement")], (2, 6)),
    ] {
        assert_eq!(dropped(Protocol::LINE_PROTOCOL, &columns, points), expected, "{columns:?}");
    }
    let page = "# TYPE a counter\na{x=\"1\",y=\"2\"} 1\na{x=\"1\"} 2\n";
    assert_eq!(dropped(Protocol::Exposition, &[text("x"), double("value")], page), (2, 1));
    assert_eq!(dropped(Protocol::Exposition, &[text("x"), map("labels")], page), (2, 0));
    let logs = r#"{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"s"}}]},
        "scopeLogs":[{"scope":{"name":"l","attributes":[{"key":"v","value":{"intValue":"1"}}]},
        "logRecords":[{"attributes":[{"key":"room","value":{"stringValue":"hall"}}]}]}]}]}"#;
    assert_eq!(dropped(Protocol::OtlpLogs, &[text("body")], logs), (1, 3));
    assert_eq!(dropped(Protocol::OtlpLogs, &[text("service_name"), text("v"), map("attributes")], logs), (1, 0));
}

#[test]
fn columns_that_a_format_cannot_fill_are_refused() {
    for (protocol, column, expected) in [
        (Protocol::LINE_PROTOCOL, double("ts"), "column ts is the time of a point: declare it TIMESTAMP"),
        (Protocol::LINE_PROTOCOL, text("tags"), "column tags holds pairs: declare it MAP<TEXT, TEXT>"),
        (Protocol::LINE_PROTOCOL, map("labels"), "column labels is no map of this format: it has tags, fields"),
        (Protocol::Exposition, map("tags"), "it has labels"),
        (Protocol::Exposition, Field::new("x", DataType::Binary, true), "it is bytes (BYTES)"),
    ] {
        let found = protocol.refuses(&column).expect("refused");
        assert!(found.contains(expected), "{found}");
    }
    assert_eq!(Protocol::LINE_PROTOCOL.refuses(&text("labels")), None, "a tag may be called so");
}

/// Whatever a message holds, its rows come out or are dead letters, and it takes no others with it.
fn decodes_anything(protocol: Protocol, columns: &[Field], good: &'static [u8], corpus: &str) {
    let layout = Layout::new(&Arc::new(Schema::new(columns.to_vec())));
    let mut decoder = TelemetryFormat::new(protocol, layout).decoder();
    fuzz(format!("{}/src/format/corpus/{corpus}", env!("CARGO_MANIFEST_DIR")), |input| {
        let messages = vec![Message::new("", good), Message::new("", Bytes::copy_from_slice(input))];
        let decoded = decoder.decode(&Data::Messages(messages), &Place::default());
        let rows: usize = decoded.batches.iter().map(RecordBatch::num_rows).sum();
        assert!(rows > 0 && decoded.dead.iter().all(|dead| dead.message == 1), "the good message has come out");
        rows > 1
    });
}

#[test]
fn fuzz_line_protocol() {
    let columns = [text("measurement"), map("tags"), map("fields"), time("ts"), double("usage"), text("host")];
    decodes_anything(Protocol::LINE_PROTOCOL, &columns, b"m f=1", "line_protocol");
}

#[test]
fn fuzz_prometheus() {
    let columns = [text("metric"), double("value"), time("ts"), map("labels"), text("type"), double("le")];
    decodes_anything(Protocol::Exposition, &columns, b"m 1", "prometheus");
}
