//! Flat objects: which are taken, what is remembered of them, and that numbers and text are what is written.

use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int64Type};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

fn reader() -> PlainReader {
    let fields = [("d", DataType::Float64), ("n", DataType::Int64), ("t", DataType::Utf8View)];
    let fields = fields.map(|(name, data_type)| Field::new(name, data_type, true));
    PlainReader::new(&Schema::new(fields.to_vec()), None).expect("simple types")
}

/// Which rows are taken, and which are left.
fn taken(rows: &[&str]) -> (Vec<usize>, Vec<usize>) {
    let mut left = Vec::new();
    let taken = reader().read(rows.iter().map(|row| row.as_bytes()), 100, &mut left);
    assert!(taken.columns.iter().all(|column| column.len() == taken.rows.len()));
    (taken.rows, left)
}

#[test]
fn flat_objects_are_taken_and_all_else_is_left() {
    for row in [
        "{}",
        "{ }",
        r#"{"d":1}"#,
        r#"{"n":-0,"d":-0.0,"t":"eight by"}"#,
        "{ \"t\" : \"\u{20ac} and more than eight bytes\" ,\t\"x\":null, \"y\": \"z\", \"d\" : 1.5e-3\r\n}",
        r#"{"other":true,"another":-12.5E+7,"d":null}"#,
    ] {
        assert_eq!(taken(&[row]).0, [100], "{row}");
    }
    for row in [
        r#"{"d":1,"d":2}"#,
        r#"{"d":01}"#,
        r#"{"d":1.}"#,
        r#"{"d":.5}"#,
        r#"{"d":+1}"#,
        r#"{"d":1e}"#,
        r#"{"d":-}"#,
        r#"{"d":1e400}"#,
        r#"{"d":"1"}"#,
        r#"{"d":nul}"#,
        r#"{"d":1,}"#,
        r#"{"d":1 "n":2}"#,
        r#"{,"d":1}"#,
        r#"{"n":1.0}"#,
        r#"{"n":9223372036854775807}"#,
        r#"{"t":"a\\n"}"#,
        "{\"t\":\"a\tb\"}",
        r#"{"t":5}"#,
        r#"{"x":[1]}"#,
        r#"{"x":{}}"#,
        r#"{"d":1"#,
        r#"{"d":1}}"#,
        r#"{"d"}"#,
        r#"{d:1}"#,
    ] {
        assert_eq!(taken(&[row]).1, [100], "{row}");
    }
    let mixed = [r#"{"d":1}"#, r#"{"d":[]}"#, r#"{"n":2}"#];
    assert_eq!(taken(&mixed), (vec![100, 102], vec![101]));
}

#[test]
fn a_batch_that_is_not_plain_is_not_tried_to_its_end() {
    let mut rows = vec![r#"{"x":[]}"#; ROWS_TRIED];
    rows.push("{}");
    assert_eq!(taken(&rows).0.len(), 0);
    assert_eq!(taken(&rows[1..]).0, [100 + ROWS_TRIED - 1]);
}

#[test]
fn what_is_remembered_of_keys_is_bounded() {
    let mut reader = reader();
    for row in 0..20 {
        let members: Vec<String> = (0..400).map(|member| format!("\"key{row}-{member}\":0")).collect();
        let row = format!("{{{},\"{}\":1}}", members.join(","), "k".repeat(1_000));
        reader.read(std::iter::once(row.as_bytes()), 0, &mut Vec::new());
        let row = format!("{{\"{}\":1}}", "k".repeat(1_000));
        reader.read(std::iter::once(row.as_bytes()), 0, &mut Vec::new());
    }
    assert_eq!(reader.members.len(), MEMBERS_REMEMBERED_MAX);
    assert!(reader.members.iter().all(|member| member.key.len() <= KEY_BYTES_MAX));
}

#[test]
fn numbers_are_the_nearest_ones() {
    let mut random = StdRng::seed_from_u64(1);
    for _ in 0..20_000 {
        let text = match random.random_range(0..4) {
            0 => format!("{}", random.random::<i64>() >> random.random_range(0..64)),
            1 => format!("{}", f64::from_bits(random.random())),
            2 => format!("{:e}", f64::from_bits(random.random())),
            _ => format!("-{}.{:07}", random.random_range(0..100_000_000), random.random_range(0..10_000_000)),
        };
        let expected = text.parse::<f64>().expect("a number");
        if !expected.is_finite() {
            continue;
        }
        let row = format!("{{\"d\":{text},\"x\":1}}");
        let mut left = Vec::new();
        let taken = reader().read(std::iter::once(row.as_bytes()), 0, &mut left);
        assert_eq!(taken.columns[0].as_primitive::<Float64Type>().value(0).to_bits(), expected.to_bits(), "{text}");
        let row = format!("{{\"n\":{text}}}");
        let taken = reader().read(std::iter::once(row.as_bytes()), 0, &mut left);
        if !taken.rows.is_empty() {
            assert_eq!(Ok(taken.columns[1].as_primitive::<Int64Type>().value(0)), text.parse(), "{text}");
        }
    }
}

#[test]
fn the_end_of_text_is_found_wherever_it_is() {
    for length in 0..40 {
        for special in [b'"', b'\\', b'\n', 0x1F, 0x7F, 0x80, b'!', b' ', b'['] {
            let mut bytes = vec![0xC3; length];
            bytes.push(special);
            bytes.extend_from_slice(b"abcdefghijk\"\\\0");
            let expected = match special {
                b'"' => Some(length),
                b'\\' | b'\n' | 0x1F => None,
                _ => Some(length + 12),
            };
            assert_eq!(text_length(&bytes), expected, "{special} behind {length}");
            assert_eq!(text_length(&bytes[..length]), None);
        }
    }
}
