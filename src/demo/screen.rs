//! What the demo shows: a line for each closed window, and what to try next.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};

use super::freezer::FAILING;
use crate::logging::takes_color;

/// Above this a freezer is too warm, °C.
const TOO_WARM_C: f64 = -15.0;
/// Above this the failing freezer is worth a look, °C.
const WARMING_C: f64 = -18.5;

/// Standard output; colors only where they show, and never a panic when the reader has gone.
pub(super) struct Screen {
    color: bool,
    header_due: bool,
}

/// What is known of one closed window of one view.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Summary {
    devices: usize,
    readings: i64,
    sum_c: f64,
    failing_c: Option<f64>,
}

/// Closed windows by end, start and view: the order in which they are shown.
pub(super) type Closed = BTreeMap<(i64, i64, &'static str), Summary>;

/// Adds the rows of one view to the windows they belong to.
pub(super) fn collect(closed: &mut Closed, view: &'static str, rows: &RecordBatch) {
    let column = |name: &str| rows.column_by_name(name);
    let (Some(device), Some(start), Some(end), Some(n), Some(avg)) =
        (column("device"), column("window_start"), column("window_end"), column("n"), column("avg_c"))
    else {
        return;
    };
    let device = device.as_string_view();
    let (start, end) =
        (start.as_primitive::<TimestampMicrosecondType>(), end.as_primitive::<TimestampMicrosecondType>());
    let (n, avg) = (n.as_primitive::<Int64Type>(), avg.as_primitive::<Float64Type>());
    for row in 0..rows.num_rows() {
        let summary = closed.entry((end.value(row), start.value(row), view)).or_default();
        summary.devices += 1;
        summary.readings += n.value(row);
        summary.sum_c += avg.value(row) * n.value(row) as f64;
        if device.value(row) == FAILING {
            summary.failing_c = Some(avg.value(row));
        }
    }
}

impl Screen {
    pub(super) fn new() -> Self {
        let color = takes_color(&std::io::stdout());
        Screen { color, header_due: true }
    }

    /// Prints a line. A reader that has gone (`demo | head`) is no reason to stop.
    pub(super) fn line(&self, text: &str) {
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    /// Prints closed windows, and forgets them.
    pub(super) fn windows(&mut self, closed: &mut Closed) {
        for ((end, start, view), summary) in std::mem::take(closed) {
            if std::mem::take(&mut self.header_due) {
                self.line(&self.dim("window (UTC)         view     freezers  readings   mean °C   freezer-17"));
            }
            self.line(&self.window(start, end, view, &summary));
        }
    }

    fn window(&self, start: i64, end: i64, view: &str, summary: &Summary) -> String {
        let mean = summary.sum_c / summary.readings as f64;
        let failing = match summary.failing_c {
            Some(c) if c > TOO_WARM_C => self.paint("1;31", &format!("{c:>7.1}  ▲ too warm")),
            Some(c) if c > WARMING_C => self.paint("33", &format!("{c:>7.1}  warming up")),
            Some(c) => format!("{c:>7.1}"),
            None => String::new(),
        };
        let line = format!(
            "{} – {}  {view:<8} {:>8}  {:>8}  {mean:>8.1}   {failing}",
            time_of_day(start),
            time_of_day(end),
            summary.devices,
            summary.readings,
        );
        line.trim_end().to_owned()
    }

    pub(super) fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(super) fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Returns what to try while the demo runs, with the ports and the folder it really has.
pub(super) fn suggestions(
    program: &str,
    mqtt: SocketAddr,
    http: SocketAddr,
    default_http: &str,
    data: &Path,
) -> Vec<String> {
    // "now" is asked from the shell: a reading of yesterday would be late, and rightly so.
    const NOW: &str = r#""'$(date -u +%FT%TZ)'""#;
    let server = if http.to_string() == default_http { String::new() } else { format!(" --server http://{http}") };
    let table = data.join("tables").join("room_5s");
    vec![
        format!(
            "mosquitto_pub -h {} -p {} -q 1 -t plant/lab/mine/telemetry -m '{{\"temperature\": 4.2, \"ts\": {NOW}}}'",
            mqtt.ip(),
            mqtt.port()
        ),
        format!(
            "curl -d '{{\"site\": \"lab\", \"device\": \"web\", \"temperature\": 3.9, \"ts\": {NOW}}}' http://{http}/api/v1/ingest/readings"
        ),
        format!(
            "{program} sql{server} \"SELECT device, max(avg_c) FROM room_5s GROUP BY device ORDER BY 2 DESC LIMIT 5\""
        ),
        format!("python3 -c \"import polars; print(polars.scan_delta('{}').tail(5).collect())\"", table.display()),
    ]
}

/// Returns how this program was called: what a person types to call it again.
pub(super) fn program_name() -> String {
    let Ok(own) = std::env::current_exe().and_then(|path| path.canonicalize()) else { return "tidemill".into() };
    let on_path = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|dir| dir.join("tidemill").canonicalize().is_ok_and(|found| found == own))
    });
    if on_path {
        return "tidemill".into();
    }
    // Cargo tells a program that it started it.
    if std::env::var_os("CARGO_MANIFEST_DIR").is_some() {
        let release = own.components().any(|part| part.as_os_str() == "release");
        return if release { "cargo run --release --" } else { "cargo run --" }.into();
    }
    let shown =
        std::env::current_dir().ok().and_then(|dir| own.strip_prefix(dir).map(|rest| Path::new(".").join(rest)).ok());
    shown.unwrap_or(own).display().to_string()
}

fn time_of_day(us: i64) -> String {
    arrow::temporal_conversions::timestamp_us_to_datetime(us)
        .map_or_else(|| us.to_string(), |time| time.format("%H:%M:%S").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int64Array, StringViewArray, TimestampMicrosecondArray};
    use std::sync::Arc;

    fn rows(devices: &[&str], avg: &[f64]) -> RecordBatch {
        let count = devices.len();
        let at = |us: i64| Arc::new(TimestampMicrosecondArray::from(vec![us; count]).with_timezone("UTC"));
        RecordBatch::try_from_iter([
            ("device", Arc::new(StringViewArray::from_iter_values(devices)) as _),
            ("window_start", at(0) as _),
            ("window_end", at(5_000_000) as _),
            ("n", Arc::new(Int64Array::from(vec![10; count])) as _),
            ("avg_c", Arc::new(Float64Array::from(avg.to_vec())) as _),
        ])
        .expect("columns of one length")
    }

    #[test]
    fn batches_of_one_window_become_one_line() {
        let mut closed = Closed::new();
        collect(&mut closed, "room_5s", &rows(&["freezer-01", "freezer-17"], &[-20.0, -10.0]));
        collect(&mut closed, "room_5s", &rows(&["freezer-02"], &[-21.0]));
        let screen = Screen { color: false, header_due: false };
        let ((end, start, view), summary) = closed.pop_first().expect("a window");
        assert!(closed.is_empty());
        assert_eq!(
            screen.window(start, end, view, &summary),
            "00:00:00 – 00:00:05  room_5s         3        30     -17.0     -10.0  ▲ too warm"
        );
    }

    #[test]
    fn suggestions_name_the_ports_and_the_folder_in_use() {
        let (mqtt, http) = ("127.0.0.1:1884".parse().expect("address"), "127.0.0.1:8434".parse().expect("address"));
        let all = suggestions("tidemill", mqtt, http, "127.0.0.1:8433", Path::new("./demo-data")).join("\n");
        assert!(all.contains("-p 1884 ") && all.contains("http://127.0.0.1:8434/api/v1/ingest/readings"), "{all}");
        assert!(all.contains("tidemill sql --server http://127.0.0.1:8434 "), "{all}");
        assert!(all.contains("'./demo-data/tables/room_5s'"), "{all}");
    }
}
