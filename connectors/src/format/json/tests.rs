//! Decoding JSON: what gives rows, what is a dead letter and why, and that the straight way and the general one agree.

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
    assert_eq!((decoded.nulled, decoded.batches[0].column(0).null_count()), (1, 1), "digits that overflow are damage");
}

/// A float has room for sixteen digits: read as one, a long number would become another.
#[test]
fn the_digits_of_a_whole_number_are_taken_as_they_stand_or_not_at_all() {
    let long = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
    let cases = [
        ("9223372036854775807", Some(i64::MAX)),
        ("9223372036854775808", None),
        ("-9223372036854775808", Some(i64::MIN)),
        ("-9223372036854775809", None),
        ("-9223372036854775808.0", Some(i64::MIN)),
        ("9007199254740993.0", Some(9_007_199_254_740_993)),
        ("\" 9007199254740993 \"", Some(9_007_199_254_740_993)),
        ("\"-9223372036854775809\"", None),
        ("9007199254740993.5", None),
        ("-0", Some(0)),
        ("-0.0", Some(0)),
        ("1e3", Some(1_000)),
        ("1.0e3", Some(1_000)),
        ("1e19", None),
    ];
    for (text, expected) in cases {
        let payload = format!("{{\"n\":{text}}}");
        let decoded =
            JsonFormat::new(Layout::new(&long)).decoder().decode(&messages(&[payload.as_bytes()]), &Place::default());
        let column = decoded.batches[0].column(0).as_primitive::<arrow::datatypes::Int64Type>();
        assert_eq!(column.iter().next().unwrap(), expected, "{text}");
        assert_eq!(decoded.nulled, u64::from(expected.is_none()), "{text}");
    }
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
        let whole = |batches: &[RecordBatch]| {
            let text = pretty_format_batches(batches).unwrap().to_string();
            let lines = text.lines().map(|line| line.replace(' ', "")).filter(|line| !line.starts_with('+'));
            lines.collect::<Vec<String>>()
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

/// Writes an object with members that fit, and such that do not, in any form that JSON allows and some that it does not.
fn random_row(random: &mut StdRng) -> String {
    const VALUES: [&str; 34] = [
        "1",
        "-1",
        "0",
        "-0",
        "1.5",
        "-0.0",
        "1e3",
        "1E-7",
        "123456789012345678",
        "9223372036854775807",
        "1e308",
        "1e309",
        "0.1234567890123456789",
        "12345678901234567890",
        "70000",
        "300",
        "null",
        "true",
        "false",
        r#""""#,
        r#""plain""#,
        r#""longer than twelve bytes""#,
        "\"\u{20ac}\"",
        r#""a\nb""#,
        r#""\u20ac""#,
        r#""17""#,
        r#""true""#,
        r#""2026-11-20T09:00:00Z""#,
        r#""2026-11-20T09:00:00.123456789Z""#,
        r#""2026-11-20 09:00:00""#,
        "[1]",
        r#"{"a":2}"#,
        "01",
        "tru",
    ];
    const KEYS: [&str; 9] = ["device", "temperature", "n", "ok", "ts", "small", "real", "x", r"de\u0076ice"];
    let space = |random: &mut StdRng| ["", "", "", "", " ", "\t ", "\r"][random.random_range(0..7)];
    let mut row = String::from("{");
    for member in 0..random.random_range(0..7) {
        if member > 0 {
            row += if random.random_bool(0.99) { "," } else { "" };
        }
        let key = KEYS.choose(random).unwrap();
        let value = match (*key, random.random_bool(0.8)) {
            ("device", true) => VALUES[random.random_range(19..23)],
            ("temperature" | "real", true) => VALUES[random.random_range(0..11)],
            ("n" | "small", true) => VALUES[random.random_range(0..4)],
            ("ok", true) => VALUES[random.random_range(16..19)],
            ("ts", true) => VALUES[random.random_range(27..30)],
            _ => VALUES.choose(random).unwrap(),
        };
        let spaces = [space(random), space(random), space(random), space(random)];
        row += &format!("{}\"{key}\"{}:{}{value}{}", spaces[0], spaces[1], spaces[2], spaces[3]);
    }
    row + if random.random_bool(0.99) { "}" } else { "" }
}

/// What is read straight to columns is what the general reader gives, in each column, to the bit, and in the same order.
#[test]
fn plain_rows_are_what_the_general_reader_gives() {
    let mut columns: Vec<Field> = columns().fields().iter().map(|field| Field::clone(field)).collect();
    columns.push(Field::new("small", DataType::Int8, true));
    columns.push(Field::new("real", DataType::Float32, true));
    let mut taken = 0;
    for seed in 0..1_000 {
        let mut random = StdRng::seed_from_u64(seed);
        let columns = columns.iter().map(|field| field.clone().with_nullable(random.random_bool(0.7)));
        let columns = Arc::new(Schema::new(columns.collect::<Vec<_>>()));
        let unit = [None, Some(TimeUnit::Milliseconds)][seed as usize % 2];
        let format = JsonFormat::new(Layout::new(&columns).with_time_unit(unit));
        let payload = (0..random.random_range(0..60)).map(|_| random_row(&mut random) + "\n").collect::<String>();
        let data = messages(&[payload.as_bytes()]);
        let mut decoder = format.new_decoder();
        if seed % 3 == 0 {
            // It remembers members in another order.
            decoder.decode(&messages(&[random_row(&mut random).as_bytes()]), &Place::default());
        }
        let both = decoder.decode(&data, &Place::default());
        let general = JsonDecoder { plain: None, ..decoder }.decode(&data, &Place::default());
        assert_eq!(both.dead, general.dead, "seed {seed}:\n{payload}");
        assert_eq!(both.nulled, general.nulled, "seed {seed}:\n{payload}");
        let whole = |decoded: &Decoded| {
            arrow::compute::concat_batches(&format.schema(), &decoded.batches).expect("batches of one schema")
        };
        assert_eq!(whole(&both), whole(&general), "seed {seed}:\n{payload}");
        let mut plain = PlainReader::new(format.layout.payload(), unit).expect("simple types");
        taken += plain
            .read(payload.lines().map(str::as_bytes).collect::<Vec<_>>().into_iter(), 0, &mut Vec::new())
            .rows
            .len();
    }
    assert!(taken > 2_000, "{taken} rows were plain");
}
