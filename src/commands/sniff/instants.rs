//! Which values are instants: text as RFC 3339 has it, or a number that counts since 1970 and lies near its arrival.

use serde_json::Value;
use tidemill_connectors::format::parse_time;

/// What a number counts: the words of option `time_unit`, with how many microseconds one is, and the numbers of our time.
const UNITS: [(&str, f64, std::ops::Range<f64>); 4] =
    [("s", 1e6, 1e9..1e10), ("ms", 1e3, 1e12..1e13), ("us", 1.0, 1e15..1e16), ("ns", 1e-3, 1e18..1e19)];

/// A field with the name of a time may be so far from its arrival: history that is played again.
const NAMED_APART_US: f64 = 20.0 * 366.0 * 86_400e6;
/// Any other number is taken for a time only if it is nearer than this: it might count something else.
const UNNAMED_APART_US: f64 = 3_600e6;

/// Names of times, the usual ones first.
const NAMES: [&str; 12] = [
    "ts",
    "timestamp",
    "time",
    "event_time",
    "eventtime",
    "datetime",
    "date_time",
    "measured_at",
    "measuredat",
    "date",
    "t",
    "at",
];

/// How a field writes its instants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// As text.
    Text,
    /// As a number of this unit.
    Count(&'static str),
}

/// Returns how far a field's name is from that of a time, 0 being the best; `None` if it is none.
pub(super) fn name_rank(name: &str) -> Option<usize> {
    let name = name.to_lowercase();
    let found = NAMES.iter().position(|known| *known == name);
    let is_like = || {
        ["time", "date", "created"].iter().any(|part| name.contains(part))
            || name.ends_with("_at")
            || name.ends_with("_ts")
    };
    found.or_else(|| is_like().then_some(NAMES.len()))
}

/// Reads the values of a field as instants, in microseconds, if all of them are; each comes with its arrival.
pub(super) fn read<'v>(
    name: &str,
    values: impl Iterator<Item = (&'v Value, i64)> + Clone,
) -> Option<(Written, Vec<i64>)> {
    let (first, _) = values.clone().next()?;
    match first {
        Value::String(_) => {
            let instants = values.map(|(value, _)| written_out(value.as_str()?)).collect::<Option<_>>()?;
            Some((Written::Text, instants))
        }
        Value::Number(_) => UNITS.iter().find_map(|(unit, us, range)| {
            let apart_us = if name_rank(name).is_some() { NAMED_APART_US } else { UNNAMED_APART_US };
            let instant = |(value, arrival_us): (&Value, i64)| {
                let count = value.as_f64().filter(|count| range.contains(count))?;
                // Whole numbers keep their digits; a fraction of a second has few enough.
                let us = match value.as_i64() {
                    Some(whole) if *us >= 1.0 => whole.checked_mul(*us as i64)?,
                    Some(whole) => whole / 1_000,
                    None => (count * us) as i64,
                };
                ((us - arrival_us) as f64).abs().le(&apart_us).then_some(us)
            };
            Some((Written::Count(unit), values.clone().map(instant).collect::<Option<_>>()?))
        }),
        _ => None,
    }
}

/// A date alone is no instant: it says nothing about when in the day.
fn written_out(text: &str) -> Option<i64> {
    parse_time(text).filter(|_| text.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ARRIVAL_US: i64 = 1_795_165_200_000_000;

    fn one(name: &str, value: Value) -> Option<(Written, i64)> {
        let (written, instants) = read(name, [(&value, ARRIVAL_US)].into_iter())?;
        Some((written, instants[0] - ARRIVAL_US))
    }

    #[test]
    fn instants_are_recognised_in_every_usual_form() {
        for (value, expected) in [
            (json!("2026-11-20T09:00:00Z"), (Written::Text, 0)),
            (json!("2026-11-20 09:00:00.5"), (Written::Text, 500_000)),
            (json!("2026-11-20T10:00:00+01:00"), (Written::Text, 0)),
            (json!(1_795_165_199), (Written::Count("s"), -1_000_000)),
            (json!(1_795_165_200.25), (Written::Count("s"), 250_000)),
            (json!(1_795_165_200_001_i64), (Written::Count("ms"), 1_000)),
            (json!(1_795_165_200_000_001_i64), (Written::Count("us"), 1)),
            (json!(1_795_165_200_000_007_000_i64), (Written::Count("ns"), 7)),
        ] {
            assert_eq!(one("ts", value.clone()), Some(expected), "{value}");
        }
    }

    #[test]
    fn what_only_looks_like_a_time_is_none() {
        for (name, value) in [
            ("ts", json!("2026-11-20")),
            ("ts", json!("soon")),
            ("ts", json!(42)),
            ("ts", json!(true)),
            ("serial", json!(1_700_000_000)),
            ("ts", json!(9_999_999_999_i64)),
        ] {
            assert_eq!(one(name, value.clone()), None, "{name} {value}");
        }
        assert!(one("counter", json!(1_795_165_300)).is_some(), "a number that runs with the clock");
        let mixed = [(json!(1_795_165_200), ARRIVAL_US), (json!(7), ARRIVAL_US)];
        assert_eq!(read("ts", mixed.iter().map(|(value, arrival)| (value, *arrival))), None);
    }

    #[test]
    fn names_of_times_are_ranked() {
        assert!(name_rank("ts") < name_rank("created_at"));
        assert!(name_rank("Timestamp").is_some() && name_rank("sampleTime").is_some());
        assert_eq!(name_rank("temperature"), None);
        assert_eq!(name_rank("heat"), None);
    }
}
