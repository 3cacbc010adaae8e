//! Typed options from text: the `WITH (…)` list of a statement.
//!
//! A connector takes the keys it knows; [`Options::finish`] then refuses what is left, with the nearest known key.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use crate::secret::{NamedSecret, Secret};

/// What is wrong with an option, and with which.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("option {key}: {problem}")]
pub struct OptionError {
    /// The key, as written.
    pub key: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl OptionError {
    /// Makes an error about one key.
    pub fn new(key: &str, problem: impl Into<String>) -> Self {
        OptionError { key: key.to_owned(), problem: problem.into() }
    }
}

/// A list of options that empties as a connector takes from it.
#[derive(Clone, Debug, Default)]
pub struct Options {
    values: BTreeMap<String, String>,
    known: BTreeSet<&'static str>,
    secret: Option<NamedSecret>,
}

impl Options {
    /// Makes a list from pairs of key and value.
    pub fn new(values: impl IntoIterator<Item = (String, String)>) -> Self {
        Options { values: values.into_iter().collect(), known: BTreeSet::new(), secret: None }
    }

    /// Takes a value.
    pub fn take(&mut self, key: &'static str) -> Option<String> {
        self.known.insert(key);
        self.values.remove(key)
    }

    /// Takes all values whose keys begin with a prefix such as `header.`: each with its key, what stands behind the prefix, and
    /// the value.
    pub fn take_prefixed(&mut self, prefix: &'static str) -> Vec<(String, String, String)> {
        self.known.insert(prefix);
        let keys: Vec<String> = self.values.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
        keys.into_iter()
            .filter_map(|key| {
                let value = self.values.remove(&key)?;
                Some((key.clone(), key[prefix.len()..].to_owned(), value))
            })
            .collect()
    }

    /// Puts beside the list what its option `secret` names.
    #[must_use]
    pub fn with_secret(mut self, secret: NamedSecret) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Takes a value that may be secret: from the option itself (`password`), as `password_env` or `password_file`, or from
    /// what `secret` names; from one of them only. The keys are those three. Relative paths begin at `base_dir`.
    pub fn secret(&mut self, keys: [&'static str; 3], base_dir: &Path) -> Result<Option<Secret>, OptionError> {
        let [key, env_key, file_key] = keys;
        let name = self.take("secret");
        let named = match (&name, &mut self.secret) {
            (Some(name), Some(secret)) if secret.name == *name => secret.values.remove(key),
            (Some(name), _) => {
                let remedy = format!("write CREATE SECRET {name} (TYPE mqtt, USERNAME '…', PASSWORD ENV '…')");
                return Err(OptionError::new("secret", format!("there is no secret {name:?}: {remedy}")));
            }
            (None, _) => None,
        };
        // Asked for again by the next key.
        self.values.extend(name.map(|name| ("secret".to_owned(), name)));
        self.known.insert("secret");
        let given = [
            (key, self.take(key).map(Secret::Text)),
            (env_key, self.take(env_key).map(Secret::Environment)),
            (file_key, self.take(file_key).map(|path| Secret::File(path.into()))),
            ("secret", named),
        ];
        let mut given = given.into_iter().filter_map(|(key, secret)| secret.map(|secret| (key, secret)));
        let Some((first, secret)) = given.next() else { return Ok(None) };
        if let Some((second, _)) = given.next() {
            return Err(OptionError::new(second, format!("says what {first} says already: keep one of them")));
        }
        match &secret {
            Secret::Environment(name) if name.is_empty() || name.contains(['=', '\0']) => {
                Err(OptionError::new(first, "must be the name of a variable, such as 'MQTT_PASSWORD'"))
            }
            Secret::File(path) if path.as_os_str().is_empty() => {
                Err(OptionError::new(first, "must be the path of a file"))
            }
            _ => Ok(Some(secret.based_at(base_dir))),
        }
    }

    /// Says whether there is an option, and leaves it.
    pub fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Says whether a value is there and is this word; it is not taken.
    pub fn is(&self, key: &str, word: &str) -> bool {
        self.values.get(key).is_some_and(|value| value.eq_ignore_ascii_case(word))
    }

    /// Takes a value that must be there.
    pub fn require(&mut self, key: &'static str) -> Result<String, OptionError> {
        self.take(key).ok_or_else(|| OptionError::new(key, format!("is missing: say {key} = '…'")))
    }

    /// Takes a value of a type that parses from text.
    pub fn parse<T: std::str::FromStr>(&mut self, key: &'static str, expected: &str) -> Result<Option<T>, OptionError> {
        self.take(key)
            .map(|text| text.parse().map_err(|_| OptionError::new(key, format!("{text:?} is not {expected}"))))
            .transpose()
    }

    /// Takes a duration such as `'10 seconds'`, `'5s'`, `'250 ms'`, `'1 minute'`, `'2 hours'`, `'1 day'`.
    pub fn duration(&mut self, key: &'static str) -> Result<Option<Duration>, OptionError> {
        self.take(key)
            .map(|text| {
                parse_duration(&text).ok_or_else(|| {
                    OptionError::new(
                        key,
                        format!("{text:?} is not a duration such as '10 seconds', '250 ms' or '1 hour'"),
                    )
                })
            })
            .transpose()
    }

    /// Takes a duration, or `'none'`: `Some(None)`.
    pub fn duration_or_none(&mut self, key: &'static str) -> Result<Option<Option<Duration>>, OptionError> {
        if self.values.get(key).is_some_and(|text| text.eq_ignore_ascii_case("none")) {
            self.take(key);
            return Ok(Some(None));
        }
        Ok(self.duration(key)?.map(Some))
    }

    /// Takes a number of bytes such as `'64 MiB'` or `'1 GiB'`.
    pub fn bytes(&mut self, key: &'static str) -> Result<Option<u64>, OptionError> {
        self.take(key)
            .map(|text| {
                parse_bytes(&text)
                    .ok_or_else(|| OptionError::new(key, format!("{text:?} is not a size such as '64 MiB' or '1 GiB'")))
            })
            .transpose()
    }

    /// Takes one of a closed set of words.
    pub fn choice<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Result<Option<T>, OptionError> {
        self.take(key)
            .map(|text| {
                words.iter().find(|(word, _)| word.eq_ignore_ascii_case(&text)).map(|(_, value)| *value).ok_or_else(
                    || {
                        let known: Vec<String> = words.iter().map(|(word, _)| format!("'{word}'")).collect();
                        OptionError::new(key, format!("{text:?} is not one of {}", known.join(", ")))
                    },
                )
            })
            .transpose()
    }

    /// Refuses what nobody took, and names the nearest known key.
    pub fn finish(mut self) -> Result<(), OptionError> {
        if self.known.contains("secret") {
            let name = self.values.remove("secret").unwrap_or_default();
            let left = self.secret.iter().flat_map(|secret| secret.values.keys().next());
            if let Some(key) = left.into_iter().next() {
                let problem = format!("{name:?} holds {}, which is not used here", key.to_uppercase());
                return Err(OptionError::new("secret", problem));
            }
        }
        let Some(key) = self.values.keys().next() else { return Ok(()) };
        let problem = match nearest(key, self.known.iter().copied()) {
            Some(known) => format!("is not known here; did you mean {known}?"),
            None => {
                format!("is not known here; known are {}", self.known.iter().copied().collect::<Vec<_>>().join(", "))
            }
        };
        Err(OptionError::new(key, problem))
    }
}

/// Returns the candidate nearest to a misspelt name, if one is near: at most a third of its letters differ.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let length = name.chars().count();
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let candidate_length = candidate.chars().count();
            let most = candidate_length.max(3) / 3;
            // So many differ at least: a name of any length costs nothing.
            let is_possible = candidate_length.abs_diff(length) <= most;
            let distance = is_possible.then(|| edit_distance(&name, &candidate.to_lowercase()))?;
            (distance <= most).then_some((distance, candidate))
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbours.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, distance) in rows[0].iter_mut().enumerate() {
        *distance = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            rows[i][j] = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                rows[i][j] = rows[i][j].min(rows[i - 2][j - 2] + 1);
            }
        }
    }
    rows[a.len()][b.len()]
}

/// Reads a duration such as `5s` or `250 ms`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let count: u64 = text[..split].parse().ok()?;
    let unit_us: u64 = match text[split..].trim().to_lowercase().as_str() {
        "us" | "microsecond" | "microseconds" => 1,
        "ms" | "millisecond" | "milliseconds" => 1_000,
        "s" | "sec" | "second" | "seconds" => 1_000_000,
        "m" | "min" | "minute" | "minutes" => 60_000_000,
        "h" | "hour" | "hours" => 3_600_000_000,
        "d" | "day" | "days" => 86_400_000_000,
        _ => return None,
    };
    Some(Duration::from_micros(count.checked_mul(unit_us)?))
}

fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let count: u64 = text[..split].parse().ok()?;
    let unit: u64 = match text[split..].trim() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    count.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
    use tidemill_engine::clock::{ManualClock, SeededDice};
    use tidemill_engine::storage::MemoryStorage;

    use super::*;
    use crate::mqtt::LocalBrokers;
    use crate::{Context, HttpIngest, connect, connect_sink};

    /// Lists of every connector, sources and sinks: one `key=value` on each line.
    #[test]
    fn fuzz_options() {
        let columns = Arc::new(Schema::new(vec![
            Field::new("device", DataType::Utf8, true),
            Field::new("ts", DataType::Timestamp(TimeUnit::Nanosecond, None), false),
        ]));
        let context = Context {
            storage: Arc::new(MemoryStorage::default()),
            base_dir: "/nowhere".into(),
            clock: Arc::new(ManualClock::default()),
            dice: Arc::new(SeededDice::new(1)),
            http: HttpIngest::new(),
            local_brokers: LocalBrokers::default(),
            network: Default::default(),
        };
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/src/corpus/options");
        tidemill_engine::testing::fuzz::fuzz(corpus, |input| {
            let text = String::from_utf8_lossy(input);
            let pairs =
                || text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned()));
            let secret = NamedSecret {
                name: "vault".to_owned(),
                values: BTreeMap::from([("username".to_owned(), Secret::Text("ada".to_owned()))]),
            };
            let is_named = pairs().any(|(key, value)| key == "secret" && value == secret.name);
            let options = || match is_named {
                true => Options::new(pairs()).with_secret(secret.clone()),
                false => Options::new(pairs()),
            };
            let source = connect("s", &columns, options(), &context).map(drop);
            let sink = connect_sink("s", &columns, options(), &context).map(drop);
            let is_taken = source.is_ok() || sink.is_ok();
            let is_secret = pairs().all(|(key, value)| key == "password" || !(key + &value).contains("hunter2"));
            for error in [source.err(), sink.err()].into_iter().flatten() {
                assert!(!(is_secret && error.problem.contains("hunter2")), "{error}");
                // `password` stands for `password_file` too.
                let is_given = pairs().any(|(key, _)| key.starts_with(&error.key));
                assert!(is_given || error.problem.contains("is missing"), "{error} of {text:?}");
            }
            is_taken
        });
    }

    #[test]
    fn sizes_have_binary_units() {
        for (text, bytes) in [("1 GiB", 1 << 30), ("64MiB", 64 << 20), ("7 B", 7)] {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
        for text in ["", "10", "GiB", "-1 GiB", "1 GB", "99999999999 TiB"] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn a_misspelt_key_names_the_nearest_known_one() {
        let mut options = Options::new([("tpic".to_owned(), "x".to_owned())]);
        assert_eq!(options.take("topic"), None);
        let error = options.finish().expect_err("unknown key");
        assert_eq!(error.to_string(), "option tpic: is not known here; did you mean topic?");
    }

    #[test]
    fn durations_parse_with_and_without_a_space() {
        for (text, us) in
            [("10 seconds", 10_000_000), ("5s", 5_000_000), ("250 ms", 250_000), ("1 day", 86_400_000_000)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_micros(us)), "{text}");
        }
        for text in ["", "10", "s", "-1s", "1 fortnight"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
