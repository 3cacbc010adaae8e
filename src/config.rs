//! The configuration: every key once, with its unit, its default and what it is for.
//!
//! Later wins: defaults, then `tidemill.toml` (optional), then `TIDEMILL__SECTION__KEY` from the environment, then flags.
//! The file `tidemill.toml` of the repository is [`reference`]'s output; a test holds the two together.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemill_connectors::AddressPolicy;
use tidemill_connectors::options::{Options, nearest};
use tracing::level_filters::LevelFilter;

/// The file that is read if `--config` names no other and it is there.
pub(crate) const FILE: &str = "tidemill.toml";

/// What begins the name of every environment variable of ours.
const ENVIRONMENT_PREFIX: &str = "TIDEMILL__";

/// More timely workers than this help on no machine we know; a typing error should not start 40,000 threads.
const WORKERS_MAX: usize = 256;

/// How the program runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// The data folder.
    pub(crate) data: PathBuf,
    /// Where HTTP listens.
    pub(crate) server_http: String,
    /// Whether an address beyond this machine is allowed.
    pub(crate) server_insecure: bool,
    /// Timely worker threads; `None`: one for each core.
    pub(crate) workers: Option<usize>,
    /// Longest time an epoch stays open.
    pub(crate) epoch_interval: Duration,
    /// Time between two checkpoints.
    pub(crate) checkpoint_interval: Duration,
    /// Time between two commits of a table.
    pub(crate) commit_interval: Duration,
    /// Threads that write the files of a table.
    pub(crate) table_writers: usize,
    /// Which addresses a pipeline's URLs may lead to, beside the public ones.
    pub(crate) network: AddressPolicy,
    /// The log filter.
    pub(crate) log_level: String,
    /// The log's form.
    pub(crate) log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// Text on a terminal, JSON else.
    Auto,
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A key: defined here and nowhere else.
struct Key {
    /// `section.key`, or `key` at the top.
    name: &'static str,
    /// What it is counted in, for the file's comment.
    unit: &'static str,
    /// As written in TOML.
    default: &'static str,
    /// One or two lines.
    doc: &'static str,
    /// Takes the value as text.
    set: fn(&mut Config, &str) -> Result<(), String>,
}

const KEYS: &[Key] = &[
    Key {
        name: "data",
        unit: "folder",
        default: r#""./data""#,
        doc: "The ingest log lies in log/, the tables in tables/. One process at a time.",
        set: |config, text| {
            config.data = PathBuf::from(text);
            require(!text.is_empty(), "the name of a folder")
        },
    },
    Key {
        name: "server.http",
        unit: "address:port",
        default: r#""127.0.0.1:8433""#,
        doc: "Where HTTP listens: ingest, queries, /readyz. `tidemill sql` asks there too. Port 0 takes any free one.",
        set: |config, text| {
            config.server_http = text.to_owned();
            let port =
                text.rsplit_once(':').and_then(|(host, port)| port.parse::<u16>().ok().filter(|_| !host.is_empty()));
            require(port.is_some(), "an address with a port, such as 127.0.0.1:8433")
        },
    },
    Key {
        name: "server.insecure",
        unit: "true or false",
        default: "false",
        doc: "Allows addresses that other machines can reach. There is no authentication and no TLS yet, so say it only\nin a network you trust.",
        set: |config, text| {
            config.server_insecure = text.parse().map_err(|_| "true or false".to_owned())?;
            Ok(())
        },
    },
    Key {
        name: "limits.workers",
        unit: "threads",
        default: r#""auto""#,
        doc: "Threads that compute. \"auto\": one for each core. Changes no result.",
        set: |config, text| {
            config.workers = parse_workers(text)?;
            Ok(())
        },
    },
    Key {
        name: "durability.epoch",
        unit: "duration",
        default: r#""50ms""#,
        doc: "Longest time an epoch stays open once it has rows. Longer: fewer, larger steps; results come that much later.",
        set: |config, text| {
            config.epoch_interval =
                parse_duration("durability.epoch", text, Duration::from_millis(1), Duration::from_secs(10))?;
            Ok(())
        },
    },
    Key {
        name: "durability.checkpoint",
        unit: "duration",
        default: r#""10s""#,
        doc: "Time between two checkpoints: how much of the log a restart reads again. Changes no result.",
        set: |config, text| {
            config.checkpoint_interval =
                parse_duration("durability.checkpoint", text, Duration::from_millis(10), Duration::from_secs(3600))?;
            Ok(())
        },
    },
    Key {
        name: "tables.commit",
        unit: "duration",
        default: r#""5s""#,
        doc: "Time between two commits of a table: how soon other programs see new rows, and how large its files are.",
        set: |config, text| {
            config.commit_interval =
                parse_duration("tables.commit", text, Duration::from_millis(10), Duration::from_secs(3600))?;
            Ok(())
        },
    },
    Key {
        name: "tables.writers",
        unit: "threads",
        default: "1",
        doc: "Threads that write the files of one table, at most as many as there are workers. Each commit makes a file for each.",
        set: |config, text| {
            let count = text.parse().ok().filter(|count| (1..=WORKERS_MAX).contains(count));
            config.table_writers = count.ok_or_else(|| format!("a number from 1 to {WORKERS_MAX}"))?;
            Ok(())
        },
    },
    Key {
        name: "network.allow",
        unit: "addresses and networks",
        default: "[]",
        doc: "Where HTTP sinks and sources that ask may connect to, beside public addresses: this machine [\"127.0.0.0/8\", \"::1\"],\na network of one's own [\"10.0.0.0/8\"]. In the environment with commas: 127.0.0.0/8,10.0.0.0/8.",
        set: |config, text| {
            let policy = AddressPolicy::parse(text);
            config.network =
                policy.map_err(|problem| format!("a list such as [\"127.0.0.0/8\", \"10.1.2.3\"]: {problem}"))?;
            Ok(())
        },
    },
    Key {
        name: "log.level",
        unit: "filter",
        default: r#""info""#,
        doc: "error, warn, info, debug or trace; also by module: \"info,tidemill_engine=debug\". RUST_LOG overrides it.\nOnly `serve` and `run` log at info: the other commands show warnings and errors.",
        set: |config, text| {
            config.log_level = text.to_owned();
            // A word alone would be the name of a module, and all others would be silent.
            let is_level = |text: &str| !text.trim().is_empty() && text.trim().parse::<LevelFilter>().is_ok();
            let names_levels =
                text.split(',').all(|part| is_level(part.rsplit_once('=').map_or(part, |(_, level)| level)));
            let known = names_levels && tracing_subscriber::EnvFilter::try_new(text).is_ok();
            require(known, "error, warn, info, debug or trace, also by module: \"info,tidemill_engine=debug\"")
        },
    },
    Key {
        name: "log.format",
        unit: "auto, text or json",
        default: r#""auto""#,
        doc: "How log lines on stderr look. \"auto\": text on a terminal, json else.",
        set: |config, text| {
            config.log_format = match text {
                "auto" => LogFormat::Auto,
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return Err("auto, text or json".to_owned()),
            };
            Ok(())
        },
    },
];

/// What is wrong with the configuration, and where.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {problem}")]
    Unreadable { path: String, problem: String },
    /// The file is not TOML.
    #[error("{path} is not valid TOML: {problem}")]
    NotToml { path: String, problem: String },
    /// Nobody knows this key.
    #[error("{origin}: there is no key {key}{hint}")]
    Unknown { origin: String, key: String, hint: String },
    /// The value does not fit.
    #[error("{origin}: {key} = {value:?} is not {expected}")]
    BadValue { origin: String, key: String, value: String, expected: String },
}

impl Default for Config {
    fn default() -> Self {
        let mut config = Config {
            data: PathBuf::new(),
            server_http: String::new(),
            server_insecure: false,
            workers: None,
            epoch_interval: Duration::ZERO,
            checkpoint_interval: Duration::ZERO,
            commit_interval: Duration::ZERO,
            table_writers: 0,
            network: AddressPolicy::default(),
            log_level: String::new(),
            log_format: LogFormat::Auto,
        };
        for key in KEYS {
            let default = key.default.parse().ok().and_then(|value| text_of(&value));
            (key.set)(&mut config, &default.expect("every default is TOML")).expect("every default fits its own key");
        }
        config
    }
}

impl Config {
    /// Reads the file (the one named, or [`FILE`] if it is there) and the environment over the defaults.
    pub(crate) fn load(
        named: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        if let Some((path, text)) = read_file(named)? {
            config.apply_toml(&path, &text)?;
        }
        config.apply_environment(environment)?;
        Ok(config)
    }

    fn apply_toml(&mut self, path: &str, text: &str) -> Result<(), ConfigError> {
        let table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| ConfigError::NotToml { path: path.into(), problem: error.to_string() })?;
        let mut entries = Vec::new();
        flatten("", &table, &mut entries);
        for (name, value) in entries {
            self.set(path, &name, &name, &value)?;
        }
        Ok(())
    }

    fn apply_environment(
        &mut self,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        // Sorted, so that of several mistakes the same one is always told.
        let ours: std::collections::BTreeMap<String, String> = environment.into_iter().collect();
        for (variable, value) in ours {
            let Some(name) = variable.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
            self.set("environment", &variable, &name.to_lowercase().replace("__", "."), &value)?;
        }
        Ok(())
    }

    /// Sets a key by name; `shown` is how the user wrote it.
    fn set(&mut self, origin: &str, shown: &str, name: &str, value: &str) -> Result<(), ConfigError> {
        let Some(key) = KEYS.iter().find(|key| key.name == name) else {
            return Err(unknown(origin, shown, name));
        };
        (key.set)(self, value).map_err(|expected| ConfigError::BadValue {
            origin: origin.to_owned(),
            key: shown.to_owned(),
            value: value.to_owned(),
            expected,
        })
    }

    /// Returns the number of worker threads: as told, or one for each core.
    pub(crate) fn worker_count(&self) -> usize {
        self.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX))
    }
}

/// Parses a number of workers; `auto` is `None`.
pub(crate) fn parse_workers(text: &str) -> Result<Option<usize>, String> {
    match text.parse() {
        Ok(count) if (1..=WORKERS_MAX).contains(&count) => Ok(Some(count)),
        _ if text == "auto" => Ok(None),
        _ => Err(format!("\"auto\" or a number from 1 to {WORKERS_MAX}")),
    }
}

/// Writes the configuration file that shows every key with its default.
pub(crate) fn reference() -> String {
    let mut text = String::from(
        "# The configuration of tidemill: all of it is optional, and what stands here is the default.\n\
         # It is read from ./tidemill.toml, or from the file that --config names. A key can be set from the environment\n\
         # too: TIDEMILL__SERVER__HTTP=127.0.0.1:9433 overrides server.http. Flags override both.\n",
    );
    let mut section = "";
    for key in KEYS {
        let (key_section, short) = key.name.rsplit_once('.').unwrap_or(("", key.name));
        if key_section != section {
            text += &format!("\n[{key_section}]\n");
            section = key_section;
        } else {
            text += if text.ends_with("]\n") { "" } else { "\n" };
        }
        for line in key.doc.lines() {
            text += &format!("# {line}\n");
        }
        text += &format!("{short} = {}  # {}\n", key.default, key.unit);
    }
    text
}

fn read_file(named: Option<&Path>) -> Result<Option<(String, String)>, ConfigError> {
    let path = named.unwrap_or(Path::new(FILE));
    let shown = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some((shown, text))),
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ConfigError::Unreadable { path: shown, problem: error.to_string() }),
    }
}

/// Turns nested tables into `section.key` with the value as text.
fn flatten(prefix: &str, table: &toml::Table, into: &mut Vec<(String, String)>) {
    for (key, value) in table {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            // Kept, so that a mistyped section is not passed over because all its keys are commented out.
            toml::Value::Table(inner) if inner.is_empty() && !is_section(&name) => into.push((name, String::new())),
            toml::Value::Table(inner) => flatten(&name, inner, into),
            value => into.push((name, text_of(value).unwrap_or_else(|| "a list of lists or tables".to_owned()))),
        }
    }
}

/// Returns a value as text, as the environment would give it: a list with commas.
fn text_of(value: &toml::Value) -> Option<String> {
    Some(match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) => number.to_string(),
        toml::Value::Boolean(flag) => flag.to_string(),
        toml::Value::Datetime(time) => time.to_string(),
        toml::Value::Array(values) => {
            values.iter().map(|value| value.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()?.join(",")
        }
        toml::Value::Table(_) => return None,
    })
}

fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

fn unknown(origin: &str, shown: &str, name: &str) -> ConfigError {
    let hint = match nearest(name, KEYS.iter().map(|key| key.name)) {
        Some(near) if shown.starts_with(ENVIRONMENT_PREFIX) => {
            format!("; did you mean {ENVIRONMENT_PREFIX}{}?", near.to_uppercase().replace('.', "__"))
        }
        Some(near) => format!("; did you mean {near}?"),
        None => format!("; known are {}", KEYS.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")),
    };
    ConfigError::Unknown { origin: origin.to_owned(), key: shown.to_owned(), hint }
}

fn parse_duration(key: &'static str, text: &str, least: Duration, greatest: Duration) -> Result<Duration, String> {
    let expected = || format!("a duration from {least:?} to {greatest:?}, such as \"50ms\" or \"5 seconds\"");
    let parsed = Options::new([(key.to_owned(), text.to_owned())]).duration(key).map_err(|_| expected())?;
    parsed.filter(|duration| (least..=greatest).contains(duration)).ok_or_else(expected)
}

fn require(holds: bool, expected: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(expected.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_shipped_file_shows_every_key_with_its_default() {
        let shipped = include_str!("../tidemill.toml");
        assert_eq!(shipped, reference(), "write this into tidemill.toml:\n{}", reference());
        let mut config = Config { data: "elsewhere".into(), workers: Some(7), ..Config::default() };
        config.apply_toml("tidemill.toml", shipped).expect("the shipped file is valid");
        assert_eq!(config, Config::default());
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let mut config = Config::default();
        config.apply_toml("t.toml", "[server]\nhttp = \"127.0.0.1:1\"\n[limits]\nworkers = 3\n").expect("valid");
        config
            .apply_environment(env(&[("TIDEMILL__SERVER__HTTP", "127.0.0.1:9433"), ("HOME", "/root")]))
            .expect("valid");
        assert_eq!(config.server_http, "127.0.0.1:9433");
        assert_eq!(config.workers, Some(3));
    }

    #[test]
    fn networks_are_a_list_in_the_file_and_have_commas_in_the_environment() {
        let expected = AddressPolicy::parse("127.0.0.0/8,::1").expect("good");
        let mut config = Config::default();
        assert_eq!(config.network, AddressPolicy::default());
        config.apply_toml("t.toml", "[network]\nallow = [\"127.0.0.0/8\", \"::1\"]").expect("valid");
        assert_eq!(config.network, expected);
        let mut config = Config::default();
        config.apply_environment(env(&[("TIDEMILL__NETWORK__ALLOW", "127.0.0.0/8, ::1")])).expect("valid");
        assert_eq!(config.network, expected);
        let error = Config::default().apply_toml("t.toml", "[network]\nallow = [7]").expect_err("no text");
        assert!(
            error.to_string().contains("network.allow = \"a list of lists or tables\" is not a list such as"),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_key_names_the_nearest_known_one() {
        let error = Config::default().apply_toml("t.toml", "[server]\nhtpp = \"x\"").expect_err("unknown");
        assert_eq!(error.to_string(), "t.toml: there is no key server.htpp; did you mean server.http?");
        let error = Config::default().apply_toml("t.toml", "[servr]\n# http = \"x\"").expect_err("unknown");
        assert!(error.to_string().starts_with("t.toml: there is no key servr"), "{error}");
        assert_eq!(Config::default().apply_toml("t.toml", "[server]\n# http = \"x\""), Ok(()));
        let error = Config::default().apply_environment(env(&[("TIDEMILL__LOG__LEVL", "x")])).expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "environment: there is no key TIDEMILL__LOG__LEVL; did you mean TIDEMILL__LOG__LEVEL?"
        );
    }

    #[test]
    fn values_that_do_not_fit_are_refused_with_what_would() {
        for (name, value) in [
            ("TIDEMILL__LIMITS__WORKERS", "0"),
            ("TIDEMILL__LIMITS__WORKERS", "many"),
            ("TIDEMILL__DURABILITY__EPOCH", "0ms"),
            ("TIDEMILL__TABLES__COMMIT", "5 fortnights"),
            ("TIDEMILL__SERVER__HTTP", "8433"),
            ("TIDEMILL__SERVER__INSECURE", "maybe"),
            ("TIDEMILL__NETWORK__ALLOW", "localhost"),
            ("TIDEMILL__LOG__LEVEL", "info,=,"),
            ("TIDEMILL__LOG__LEVEL", "loud"),
            ("TIDEMILL__LOG__LEVEL", "info,tidemill_engine"),
            ("TIDEMILL__LOG__LEVEL", ""),
            ("TIDEMILL__LOG__FORMAT", "xml"),
            ("TIDEMILL__DATA", ""),
        ] {
            let error = Config::default().apply_environment(env(&[(name, value)])).expect_err(value);
            assert!(matches!(error, ConfigError::BadValue { .. }), "{name}={value}: {error}");
        }
    }

    #[test]
    fn a_level_of_the_log_may_be_said_for_each_module() {
        for level in ["off", "WARN", "info,tidemill_engine=debug", "tidemill_engine::runtime=trace, warn"] {
            let mut config = Config::default();
            config.apply_environment(env(&[("TIDEMILL__LOG__LEVEL", level)])).expect(level);
            assert_eq!(config.log_level, level);
        }
    }

    #[test]
    fn a_named_file_must_be_there() {
        let error = Config::load(Some(Path::new("no/such/file.toml")), env(&[])).expect_err("missing");
        assert!(error.to_string().starts_with("cannot read the configuration file no/such/file.toml"), "{error}");
    }
}
