//! `/metrics`: what the job is doing, in Prometheus' text format. [`METRICS`] lists every metric once.

use std::fmt::Write as _;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tidemill_engine::runtime::JobStatus;
use tidemill_engine::time::Watermark;

use super::ServiceState;

/// What a metric counts, with its unit in its name. Labels never hold devices or topics: their number has no bound.
struct Metric {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    read: fn(&JobStatus, i64, &mut Samples),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

/// The samples of one metric: labels and value.
type Samples = Vec<(Vec<(&'static str, String)>, f64)>;

const METRICS: &[Metric] = &[
    Metric {
        name: "tidemill_ready",
        kind: Kind::Gauge,
        help: "1 once every source has been able to receive, and the job has not failed.",
        read: |job, _, out| out.push((vec![], truth(job.ready && job.failure.is_none()))),
    },
    Metric {
        name: "tidemill_source_records_total",
        kind: Kind::Counter,
        help: "Messages in the log, replayed ones included.",
        read: |job, _, out| each_source(job, out, |source| source.messages as f64),
    },
    Metric {
        name: "tidemill_source_bytes_total",
        kind: Kind::Counter,
        help: "Payload bytes in the log.",
        read: |job, _, out| each_source(job, out, |source| source.bytes as f64),
    },
    Metric {
        name: "tidemill_source_rows_total",
        kind: Kind::Counter,
        help: "Rows that decoded and are not quarantined.",
        read: |job, _, out| each_source(job, out, |source| source.rows as f64),
    },
    Metric {
        name: "tidemill_source_errors_total",
        kind: Kind::Counter,
        help: "What was bad, by kind: decode (a dead letter), future (quarantined), and what was refused before the log.",
        read: |job, _, out| {
            for source in &job.sources {
                let own = [("decode", source.dead), ("future", source.quarantined)];
                for (kind, count) in own.into_iter().chain(source.errors.iter().copied()) {
                    out.push((vec![("source", source.name.clone()), ("kind", kind.to_owned())], count as f64));
                }
            }
        },
    },
    Metric {
        name: "tidemill_source_connected",
        kind: Kind::Gauge,
        help: "1 if the source can receive now.",
        read: |job, _, out| each_source(job, out, |source| truth(source.connected)),
    },
    Metric {
        name: "tidemill_watermark_lag_seconds",
        kind: Kind::Gauge,
        help: "Now minus the source's watermark; absent before the first row and after the end.",
        read: |job, now_us, out| {
            for source in &job.sources {
                let Some(watermark) = source.watermark else { continue };
                if watermark != Watermark::UNKNOWN && watermark != Watermark::END {
                    let lag = now_us.saturating_sub(watermark.0) as f64 / 1e6;
                    out.push((vec![("source", source.name.clone())], lag));
                }
            }
        },
    },
    Metric {
        name: "tidemill_log_bytes",
        kind: Kind::Gauge,
        help: "Bytes of the ingest log.",
        read: |job, _, out| out.push((vec![], job.log_bytes as f64)),
    },
    Metric {
        name: "tidemill_rows_in_flight",
        kind: Kind::Gauge,
        help: "Rows handed to the dataflow whose epoch is not completed.",
        read: |job, _, out| out.push((vec![], job.rows_in_flight as f64)),
    },
    Metric {
        name: "tidemill_epoch_sealed",
        kind: Kind::Gauge,
        help: "Number of the last epoch that was sealed in the log.",
        read: |job, _, out| out.push((vec![], job.sealed.0 as f64)),
    },
    Metric {
        name: "tidemill_epoch_completed",
        kind: Kind::Gauge,
        help: "Number of the last epoch whose results have all left the dataflow.",
        read: |job, _, out| out.push((vec![], job.completed.0 as f64)),
    },
    Metric {
        name: "tidemill_view_rows_total",
        kind: Kind::Counter,
        help: "Rows that fell into at least one window.",
        read: |job, _, out| each_window(job, out, |window| window.rows),
    },
    Metric {
        name: "tidemill_view_late_rows_total",
        kind: Kind::Counter,
        help: "Rows that came too late for any window.",
        read: |job, _, out| each_window(job, out, |window| window.late),
    },
    Metric {
        name: "tidemill_view_results_total",
        kind: Kind::Counter,
        help: "Result rows of closed windows.",
        read: |job, _, out| each_window(job, out, |window| window.results),
    },
    Metric {
        name: "tidemill_sink_rows_total",
        kind: Kind::Counter,
        help: "Rows handed to the table since the start.",
        read: |job, _, out| each_table(job, out, |table| table.rows),
    },
    Metric {
        name: "tidemill_sink_committed_epoch",
        kind: Kind::Gauge,
        help: "Number of the last epoch that is committed to the table.",
        read: |job, _, out| each_table(job, out, |table| table.committed.0),
    },
];

pub(super) async fn metrics(State(state): State<ServiceState>) -> Response {
    let text = render((state.status)().as_ref(), state.clock.now_us(), state.version);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

fn truth(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn each_source(job: &JobStatus, out: &mut Samples, value: impl Fn(&tidemill_engine::runtime::SourceStatus) -> f64) {
    out.extend(job.sources.iter().map(|source| (vec![("source", source.name.clone())], value(source))));
}

fn each_window(job: &JobStatus, out: &mut Samples, value: impl Fn(&tidemill_engine::runtime::WindowStatus) -> u64) {
    out.extend(job.windows.iter().map(|window| (vec![("view", window.name.clone())], value(window) as f64)));
}

fn each_table(job: &JobStatus, out: &mut Samples, value: impl Fn(&tidemill_engine::runtime::TableStatus) -> u64) {
    out.extend(job.tables.iter().map(|table| (vec![("sink", table.name.clone())], value(table) as f64)));
}

/// Writes all metrics. Without a job only what the process itself is.
fn render(job: Option<&JobStatus>, now_us: i64, version: &str) -> String {
    let mut text = String::new();
    let build = vec![(vec![("version", version.to_owned())], 1.0)];
    write_metric(&mut text, "tidemill_build_info", Kind::Gauge, "The version of the program, as a label.", &build);
    for metric in job.into_iter().flat_map(|_| METRICS) {
        let mut samples = Samples::new();
        if let Some(job) = job {
            (metric.read)(job, now_us, &mut samples);
        }
        write_metric(&mut text, metric.name, metric.kind, metric.help, &samples);
    }
    text
}

fn write_metric(text: &mut String, name: &str, kind: Kind, help: &str, samples: &Samples) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
    };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in samples {
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(text, "{name}{labels} {value}");
    }
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tidemill_engine::runtime::{SourceStatus, TableStatus, WindowStatus};

    use super::*;

    #[test]
    fn every_metric_is_listed_once_and_named_by_the_rules() {
        let names: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
        for metric in METRICS {
            assert!(metric.name.starts_with("tidemill_"), "{}", metric.name);
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
        }
    }

    #[test]
    fn a_job_is_rendered_with_its_labels() {
        let job = JobStatus {
            ready: true,
            log_bytes: 4_096,
            sources: vec![SourceStatus {
                name: "a\"b".into(),
                messages: 3,
                dead: 1,
                errors: vec![("auth", 2)],
                watermark: Some(Watermark(1_000_000)),
                ..SourceStatus::default()
            }],
            windows: vec![WindowStatus { name: "room".into(), late: 5, ..WindowStatus::default() }],
            tables: vec![TableStatus { name: "room".into(), rows: 9, ..TableStatus::default() }],
            ..JobStatus::default()
        };
        let text = render(Some(&job), 3_500_000, "1.2.3");
        for line in [
            "tidemill_build_info{version=\"1.2.3\"} 1",
            "tidemill_ready 1",
            "# TYPE tidemill_source_records_total counter",
            "tidemill_source_records_total{source=\"a\\\"b\"} 3",
            "tidemill_source_errors_total{source=\"a\\\"b\",kind=\"decode\"} 1",
            "tidemill_source_errors_total{source=\"a\\\"b\",kind=\"auth\"} 2",
            "tidemill_watermark_lag_seconds{source=\"a\\\"b\"} 2.5",
            "tidemill_log_bytes 4096",
            "tidemill_view_late_rows_total{view=\"room\"} 5",
            "tidemill_sink_rows_total{sink=\"room\"} 9",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        assert_eq!(render(None, 0, "1").lines().count(), 3);
    }
}
