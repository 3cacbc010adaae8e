//! The pipeline under test: the user's views over sources that this command feeds.
//!
//! ```text
//!   theirs    CREATE SOURCE r (…) WITH (connector = 'mqtt', …)        CREATE MATERIALIZED VIEW v WITH (location = …) AS …
//!   ours      CREATE SOURCE r (…) WITH (connector = 'mqtt_listener')  CREATE MATERIALIZED VIEW v AS …
//!             CREATE MATERIALIZED VIEW verify_all_r  AS SELECT * FROM r                       counted
//!             CREATE MATERIALIZED VIEW verify_rows_r AS SELECT * FROM r WHERE ts < the end    asked again
//! ```
//! After the last row each source gets one with a time far ahead, which closes all windows but its own.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

use tidemill::assemble::{self, SqlFile};
use tidemill::{Error, Result};
use tidemill_connectors::Metadata;
use tidemill_engine::plan::Operator;
use tidemill_engine::window::WindowAssigner;
use tidemill_queries::{Parts, Pipeline, SourceParts, quoted};

use super::rows::{Encoding, Rows, Shape};
use crate::commands::explain;

/// Options of a source that say how bytes are read, and stay as they are.
const KEPT_OPTIONS: [&str; 4] = ["format", "delimiter", "time_unit", "bad_data"];

/// Ports below those that the kernel chooses from, for whoever connects or lets it choose.
const PORTS: std::ops::Range<u32> = 10_000..32_000;

/// How many sums of all windows and delays the closing row is ahead: views over views wait for each other.
const AHEAD: i64 = 4;

/// How a source is fed.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// By an own listener on this port.
    Mqtt(u16),
    /// By the program's own port.
    Http,
}

/// A source, and the rows for it.
#[derive(Clone, Debug)]
pub(super) struct Fed {
    pub(super) name: String,
    pub(super) way: Way,
    pub(super) rows: Rows,
    /// Rows to send.
    pub(super) count: u64,
    /// The time of the row that closes all windows.
    pub(super) closing_us: i64,
}

/// A view of the user.
#[derive(Clone, Debug)]
pub(super) struct Compared {
    pub(super) name: String,
    pub(super) query: String,
    /// Its columns; the table may have more, which say where its files lie.
    pub(super) columns: Vec<String>,
    /// Whether a window stands somewhere before its rows.
    pub(super) windowed: bool,
}

/// What is run.
pub(super) struct UnderTest {
    pub(super) sql: String,
    pub(super) sources: Vec<Fed>,
    pub(super) views: Vec<Compared>,
}

impl Fed {
    /// The hidden view with all rows.
    pub(super) fn all(&self) -> String {
        format!("verify_all_{}", self.name)
    }

    /// The hidden view without the closing row.
    pub(super) fn before_end(&self) -> String {
        if self.rows.has_time() { format!("verify_rows_{}", self.name) } else { self.all() }
    }
}

/// Puts sources that this command feeds under the views of a file. `rows` is how many to send in all.
pub(super) fn under_test(file: &SqlFile, checked: &Pipeline, seed: u64, rows: u64) -> Result<UnderTest> {
    let wrong = |why: String| Error::Input(format!("{} cannot be verified: {why}", file.name));
    let parts = Parts::of(&file.name, &file.text).map_err(|mistake| wrong(mistake.to_string()))?;
    if parts.sources.is_empty() || parts.views.is_empty() {
        return Err(wrong("it needs a source and a view".to_owned()));
    }
    let windows_us: Vec<i64> = checked
        .plan
        .nodes
        .iter()
        .filter_map(|node| match &node.operator {
            Operator::Window(window) => Some(match window.assigner {
                WindowAssigner::Tumbling { size_us } | WindowAssigner::Hopping { size_us, .. } => size_us,
            }),
            _ => None,
        })
        .collect();
    let texts: Vec<String> = parts.views.iter().flat_map(|view| view.texts.clone()).collect();
    let numbers: Vec<f64> = parts.views.iter().flat_map(|view| &view.numbers).filter_map(|n| n.parse().ok()).collect();
    let mut sql = String::new();
    let mut sources = Vec::new();
    for source in &parts.sources {
        let (way, topic, options) = feed(source)?;
        let source = &with_metadata_in_rows(source, &way);
        let delay_us = delay_of(checked, &source.name);
        let count = (rows / parts.sources.len() as u64).max(1);
        let shape = Shape {
            seed: seed ^ (sources.len() as u64) << 56,
            rows: count,
            window_us: windows_us.iter().copied().max().unwrap_or(0),
            delay_us,
            texts: &texts,
            numbers: &numbers,
        };
        let rows = Rows::of(source, encoding(source), topic.as_deref(), &shape).map_err(wrong)?;
        let ahead_us = windows_us.iter().fold(delay_us.saturating_add(1_000_000), |sum, us| sum.saturating_add(*us));
        let closing_us = rows.end_us(count).saturating_add(ahead_us.saturating_mul(AHEAD));
        let fed = Fed { name: source.name.clone(), way, rows, count, closing_us };
        sql += &source.to_sql(&options);
        sql += &hidden(&fed, source, checked);
        sources.push(fed);
    }
    for view in &parts.views {
        // The user's own folders are not touched.
        let options: Vec<_> = view.options.iter().filter(|(key, _)| key != "location").cloned().collect();
        sql += &view.to_sql(&options);
    }
    let compiled = assemble::compile(
        &[SqlFile { name: "pipeline under test".to_owned(), text: sql.clone() }],
        &assemble::checking_context()?,
    );
    compiled.map_err(explain)?;
    let views = parts.views.iter().map(|view| Compared {
        name: view.name.clone(),
        query: view.query.clone(),
        columns: (checked.views.iter().filter(|known| known.name == view.name))
            .flat_map(|known| known.schema.fields().iter().map(|field| field.name().clone()))
            .collect(),
        windowed: !checked.plan.windows_of(&view.name).is_empty(),
    });
    Ok(UnderTest { sources, views: views.collect(), sql })
}

fn hidden(fed: &Fed, source: &SourceParts, checked: &Pipeline) -> String {
    let known = checked.sources.iter().find(|known| known.name == source.name);
    let columns: Vec<String> =
        known.iter().flat_map(|known| known.schema.fields()).map(|field| quoted(field.name())).collect();
    let (columns, from) = (columns.join(", "), quoted(&source.name));
    let mut sql = format!("CREATE MATERIALIZED VIEW {} AS SELECT {columns} FROM {from};\n", quoted(&fed.all()));
    if let Some(watermark) = source.watermark.as_ref().filter(|_| fed.rows.has_time()) {
        let end = assemble::instant(fed.rows.end_us(fed.count));
        sql += &format!(
            "CREATE MATERIALIZED VIEW {} AS SELECT {columns} FROM {from} WHERE {} < TIMESTAMP '{end}';\n",
            quoted(&fed.before_end()),
            quoted(&watermark.column)
        );
    }
    sql
}

fn delay_of(checked: &Pipeline, source: &str) -> i64 {
    let delay = checked.plan.nodes.iter().find_map(|node| match &node.operator {
        Operator::Source(found) if found.name == source => found.event_time.map(|time| time.delay_us),
        _ => None,
    });
    delay.unwrap_or(0)
}

type Options = Vec<(String, String)>;

/// Decides how a source is fed: the way, its topic, and the options that it gets.
fn feed(source: &SourceParts) -> Result<(Way, Option<String>, Options)> {
    let option = |key: &str| source.options.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone());
    let mut options: Options =
        source.options.iter().filter(|(key, _)| KEPT_OPTIONS.contains(&key.as_str())).cloned().collect();
    // Parquet comes in files only.
    options.retain(|(key, value)| key != "format" || ["json", "csv"].contains(&value.as_str()));
    if let (Encoding::Csv(_), false) = (encoding(source), options.iter().any(|(key, _)| key == "format")) {
        options.push(("format".to_owned(), "csv".to_owned()));
    }
    let topic = option("topic");
    let way = match (option("connector").as_deref(), &topic) {
        (Some("mqtt" | "mqtt_listener"), Some(topic)) => {
            let port = free_port()?;
            options.push(("connector".to_owned(), "mqtt_listener".to_owned()));
            options.push(("bind".to_owned(), format!("127.0.0.1:{port}")));
            options.push(("topic".to_owned(), topic.clone()));
            Way::Mqtt(port)
        }
        _ => {
            options.push(("connector".to_owned(), "http".to_owned()));
            Way::Http
        }
    };
    // A source that has to wait for the next start is not idle, and the rows are not of today.
    for key in ["idle_after", "future_limit"] {
        options.push((key.to_owned(), "none".to_owned()));
    }
    Ok((way, topic, options))
}

/// Puts into the rows what the messages of the user's connector bring along, and those of ours do not: a URL, a path, the id of
/// an event. Views see the same columns.
fn with_metadata_in_rows(source: &SourceParts, way: &Way) -> SourceParts {
    let connector = match way {
        Way::Mqtt(_) => "mqtt_listener",
        Way::Http => "http",
    };
    let mut source = source.clone();
    for column in &mut source.columns {
        let metadata = column.metadata.as_deref().and_then(Metadata::named);
        if let Some(metadata) = metadata.filter(|metadata| !metadata.is_known_to(connector)) {
            column.metadata = None;
            column.nullable &= !metadata.is_always_there();
        }
    }
    source
}

fn encoding(source: &SourceParts) -> Encoding {
    let option = |key: &str| source.options.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str());
    let is_csv = match (option("format"), option("path")) {
        (Some(format), _) => format == "csv",
        (None, Some(path)) => path.ends_with(".csv") || path.ends_with(".csv.gz"),
        (None, None) => false,
    };
    if is_csv {
        Encoding::Csv(option("delimiter").and_then(|text| text.chars().next()).unwrap_or(','))
    } else {
        Encoding::Json
    }
}

/// Returns a port of this machine that nothing listens on now. It stays free between two lives of the program, too: the kernel
/// gives it to nobody by itself.
pub(super) fn free_port() -> Result<u16> {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Another process begins elsewhere.
    let begin = std::process::id().wrapping_mul(104_729);
    let mut ports = PORTS.map(|_| {
        let given = begin.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        u16::try_from(PORTS.start + given % (PORTS.end - PORTS.start)).expect("a port")
    });
    let free = ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.ok_or_else(|| Error::Environment(format!("no port is free in {PORTS:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(text: &str) -> Result<UnderTest> {
        let file = SqlFile { name: "a.sql".to_owned(), text: text.to_owned() };
        let checked =
            assemble::compile(std::slice::from_ref(&file), &assemble::checking_context()?).map_err(explain)?;
        under_test(&file, &checked, 7, 1_000)
    }

    #[test]
    fn sources_are_fed_here_and_views_stay_as_they_are_but_for_their_place() {
        let under_test = put(
            "CREATE SOURCE m (v DOUBLE, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '5 seconds')
               WITH (connector = 'mqtt', url = 'mqtt://broker:1883', topic = 'plant/{site}/+', username = 'them', password = 'secret', time_unit = 'ms');
             CREATE SOURCE f (id BIGINT, what TEXT) WITH (connector = 'file', path = '/var/*.csv', delimiter = ';');
             CREATE MATERIALIZED VIEW a WITH (location = '/var/lib/theirs', partition_by = 'site') AS SELECT site, v, ts FROM m WHERE site = 'north';
             CREATE MATERIALIZED VIEW w AS SELECT site, window_start, avg(v) AS v FROM TUMBLE(m, ts, INTERVAL '1 minute') GROUP BY site, window_start;
             CREATE MATERIALIZED VIEW b AS SELECT id FROM f;",
        )
        .unwrap_or_else(|error| panic!("{error}"));
        for words in [
            "mqtt_listener",
            "plant/{site}/+",
            "time_unit = 'ms'",
            "partition_by",
            "format = 'csv'",
            "WHERE site = 'north'",
        ] {
            assert!(under_test.sql.contains(words), "{words} is not in\n{}", under_test.sql);
        }
        for words in ["broker", "secret", "/var"] {
            assert!(!under_test.sql.contains(words), "{words} is in\n{}", under_test.sql);
        }
        let [m, f] = under_test.sources.as_slice() else { panic!("two sources") };
        assert!(matches!(m.way, Way::Mqtt(_)) && matches!(f.way, Way::Http));
        assert_eq!((m.before_end().as_str(), f.before_end().as_str()), ("verify_rows_m", "verify_all_f"));
        assert_eq!(f.rows.encoding, Encoding::Csv(';'));
        assert_eq!(under_test.views.iter().map(|view| view.windowed).collect::<Vec<_>>(), [false, true, false]);
    }

    #[test]
    fn what_only_the_users_connector_brings_along_is_in_the_rows() {
        let under_test = put(
            "CREATE SOURCE feed (n BIGINT NOT NULL, place TEXT METADATA FROM 'url', id TEXT METADATA FROM 'event_id',
               heard TIMESTAMP METADATA FROM 'arrival_time') WITH (connector = 'sse', url = 'https://feed.example.com/events', event = 'price');
             CREATE SOURCE lines (line TEXT, file TEXT METADATA FROM 'path') WITH (connector = 'file', path = 'logs/*.log', follow = 'true');
             CREATE MATERIALIZED VIEW a AS SELECT n, place, id, heard FROM feed;
             CREATE MATERIALIZED VIEW b AS SELECT line, file FROM lines;",
        )
        .unwrap_or_else(|error| panic!("{error}"));
        for words in
            ["\"place\" TEXT NOT NULL", "\"id\" TEXT", "METADATA FROM 'arrival_time'", "\"file\" TEXT NOT NULL"]
        {
            assert!(under_test.sql.contains(words), "{words} is not in\n{}", under_test.sql);
        }
        for words in ["'url'", "event_id", "'path'", "example.com", "follow"] {
            assert!(!under_test.sql.contains(words), "{words} is in\n{}", under_test.sql);
        }
        let rows = under_test.sources[0].rows.encode(0..1);
        assert!(rows.contains("place") && rows.contains("\"id\"") && !rows.contains("heard"), "{rows}");
    }

    #[test]
    fn a_file_without_a_view_has_nothing_to_verify() {
        let error = put("CREATE SOURCE f (id BIGINT) WITH (connector = 'http');").err().expect("no view");
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().contains("it needs a source and a view"), "{error}");
    }
}
