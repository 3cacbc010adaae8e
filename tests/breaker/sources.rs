//! The pipeline under test: three sources, each with a plain view and a windowed one.
//!
//! | source  | comes by | windows | watermark delay, so                              |
//! |---------|----------|---------|--------------------------------------------------|
//! | `mq`    | MQTT     | tumble  | half a minute: state is large, something is late |
//! | `web`   | HTTP     | hop     | half a minute, and each row in three windows     |
//! | `hasty` | HTTP     | tumble  | two seconds: windows close in each epoch         |

use serde_json::{Value, json};

/// 2020-01-01: long before any arrival, so that nothing is from the future by accident.
pub(super) const BEGIN_US: i64 = 1_577_836_800_000_000;
/// The last reading of each sender stands here: it closes all windows before it.
pub(super) const SENTINEL_US: i64 = BEGIN_US + 100 * 86_400_000_000;
/// 2100-01-01: the far future.
pub(super) const FUTURE_US: i64 = 4_102_444_800_000_000;
/// What a live source allows a reading to be ahead of its arrival, unless told otherwise: a day.
const AHEAD_US: i64 = 86_400_000_000;
/// After how much silence a partition of a live source is idle, unless told otherwise.
const IDLE_US: i64 = 60_000_000;

/// How readings come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Mqtt,
    Http,
}

/// A source and its two views, `raw_<name>` and `w_<name>`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    pub(super) name: &'static str,
    pub(super) way: Way,
    pub(super) size_us: i64,
    pub(super) slide_us: i64,
    delay_us: i64,
}

/// All sources.
pub(super) const SOURCES: [Source; 3] = [
    Source { name: "mq", way: Way::Mqtt, size_us: 2_000_000, slide_us: 2_000_000, delay_us: 30_000_000 },
    Source { name: "web", way: Way::Http, size_us: 3_000_000, slide_us: 1_000_000, delay_us: 30_000_000 },
    Source { name: "hasty", way: Way::Http, size_us: 2_000_000, slide_us: 2_000_000, delay_us: 2_000_000 },
];

impl Source {
    fn sql(&self, mqtt: u16) -> String {
        let Source { name, way, size_us, slide_us, delay_us } = self;
        let connector = match way {
            Way::Mqtt => {
                format!("connector = 'mqtt_listener', bind = '127.0.0.1:{mqtt}', topic = 'load/{{device}}'")
            }
            Way::Http => "connector = 'http'".to_owned(),
        };
        let seconds = |us: &i64| format!("INTERVAL '{} seconds'", us / 1_000_000);
        let window = if size_us == slide_us {
            format!("TUMBLE({name}, ts, {})", seconds(size_us))
        } else {
            format!("HOP({name}, ts, {}, {})", seconds(slide_us), seconds(size_us))
        };
        let delay = seconds(delay_us);
        format!(
            "CREATE SOURCE {name} (who TEXT NOT NULL, seq BIGINT NOT NULL, v BIGINT NOT NULL, ts TIMESTAMP NOT NULL, \
             WATERMARK FOR ts AS ts - {delay}) WITH ({connector});\n\
             CREATE MATERIALIZED VIEW raw_{name} AS SELECT who, seq, v, ts FROM {name};\n\
             CREATE MATERIALIZED VIEW w_{name} AS SELECT who, window_start, window_end, count(*) AS n, \
             sum(v) AS total, min(v) AS least, max(v) AS greatest, avg(v) AS mean \
             FROM {window} GROUP BY who, window_start, window_end;\n"
        )
    }

    /// Tables that rows of the source stand in. Which of them exist depends on what came.
    pub(super) fn tables(&self) -> [String; 5] {
        let name = self.name;
        [
            format!("raw_{name}"),
            format!("{name}$dead"),
            format!("{name}$quarantine"),
            format!("w_{name}"),
            format!("w_{name}$late"),
        ]
    }
}

/// Returns the whole pipeline; its MQTT side listens on a port.
pub(super) fn pipeline(mqtt: u16) -> String {
    SOURCES.iter().map(|source| source.sql(mqtt)).collect()
}

/// Returns what the model of windows must know.
pub(super) fn for_the_model() -> Value {
    let case = |source: &Source| {
        let window = if source.size_us == source.slide_us {
            json!(["tumble", source.size_us])
        } else {
            json!(["hop", source.size_us, source.slide_us])
        };
        let case = json!({ "window": window, "delay": source.delay_us, "idle": IDLE_US, "ahead": AHEAD_US });
        (source.name.to_owned(), case)
    };
    Value::Object(SOURCES.iter().map(case).collect())
}
