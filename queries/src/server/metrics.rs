//! `/metrics`: what the service and its job are doing, in Prometheus' text format. [`OF_SERVICE`] and [`OF_JOB`] list every
//! metric once.

use std::fmt::Write as _;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tidemill_connectors::http::api::{Api, Media, Operation, Verb};
use tidemill_connectors::outbox::OutboxStatus;
use tidemill_engine::runtime::{DedupStatus, JobStatus};
use tidemill_engine::source::TargetStatus;
use tidemill_engine::time::Watermark;

use super::{ServiceState, ServiceStatus, refusal};
use crate::problem::ProblemKind;

/// What a metric counts, with its unit in its name. Labels never hold devices or topics: their number has no bound.
struct Metric<Status> {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    read: fn(&Status, i64, &mut Samples),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

/// The samples of one metric: labels and value.
type Samples = Vec<(Vec<(&'static str, String)>, f64)>;

/// What is there without a job, too.
const OF_SERVICE: &[Metric<ServiceStatus>] = &[
    Metric {
        name: "tidemill_read_only",
        kind: Kind::Gauge,
        help: "1 while the disk fails or is full: nothing is taken, and questions are answered.",
        read: |service, _, out| out.push((vec![], truth(service.read_only.is_some()))),
    },
    Metric {
        name: "tidemill_read_only_seconds",
        kind: Kind::Gauge,
        help: "How long the service has been read only; absent while it is not.",
        read: |service, now_us, out| {
            let since_us = service.read_only.as_ref().map(|read_only| read_only.since_us);
            out.extend(since_us.map(|since_us| (vec![], seconds(now_us.saturating_sub(since_us)))));
        },
    },
    Metric {
        name: "tidemill_disk_failures_total",
        kind: Kind::Counter,
        help: "How often the disk has stopped the job.",
        read: |service, _, out| out.push((vec![], service.disk_failures as f64)),
    },
    Metric {
        name: "tidemill_sink_outbox_rows",
        kind: Kind::Gauge,
        help: "Rows in the outbox that are not delivered yet.",
        read: |service, _, out| each_sink(service, out, |sink| sink.rows as f64),
    },
    Metric {
        name: "tidemill_sink_outbox_bytes",
        kind: Kind::Gauge,
        help: "Bytes of the files they lie in.",
        read: |service, _, out| each_sink(service, out, |sink| sink.bytes as f64),
    },
    Metric {
        name: "tidemill_sink_delivered_rows_total",
        kind: Kind::Counter,
        help: "Rows that the other side has taken, as it has confirmed.",
        read: |service, _, out| each_sink(service, out, |sink| sink.delivered as f64),
    },
    Metric {
        name: "tidemill_sink_failures_total",
        kind: Kind::Counter,
        help: "Attempts to deliver that failed.",
        read: |service, _, out| each_sink(service, out, |sink| sink.failures as f64),
    },
    Metric {
        name: "tidemill_sink_dropped_rows_total",
        kind: Kind::Counter,
        help: "Rows left out because the outbox was full, in all its life; the view's table has them.",
        read: |service, _, out| each_sink(service, out, |sink| sink.dropped as f64),
    },
    Metric {
        name: "tidemill_sink_rejected_rows_total",
        kind: Kind::Counter,
        help: "Rows that cannot be delivered at all; the view's table has them.",
        read: |service, _, out| each_sink(service, out, |sink| sink.rejected as f64),
    },
    Metric {
        name: "tidemill_sink_connected",
        kind: Kind::Gauge,
        help: "1 if the other side takes rows now.",
        read: |service, _, out| each_sink(service, out, |sink| truth(sink.connected)),
    },
    Metric {
        name: "tidemill_circuit_breaker_state",
        kind: Kind::Gauge,
        help: "How the breaker before another system (a sink, a target of a source) stands: 0 closed, 1 half-open (one attempt is being made), 2 open.",
        read: |service, _, out| {
            each_sink(service, out, |sink| f64::from(sink.breaker.level()));
            service.job.iter().for_each(|job| each_target(job, out, |target| f64::from(target.breaker_level)));
        },
    },
];

const OF_JOB: &[Metric<JobStatus>] = &[
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
        name: "tidemill_source_dropped_attributes_total",
        kind: Kind::Counter,
        help: "Tags, labels, fields and attributes that are in no column: none is declared for them, nor a map of all.",
        read: |job, _, out| each_source(job, out, |source| source.dropped_attributes as f64),
    },
    Metric {
        name: "tidemill_source_errors_total",
        kind: Kind::Counter,
        help: "What was bad, by kind: decode (a dead letter), type (a value that does not fit in its column, and is NULL), future (quarantined), duplicate (a repeat, dropped), late (too old to tell a repeat), and what was refused before the log.",
        read: |job, _, out| {
            for source in &job.sources {
                let own = [("decode", source.dead), ("type", source.nulled), ("future", source.quarantined)];
                for (kind, count) in own.into_iter().chain(source.errors.iter().copied()) {
                    out.push((vec![("source", source.name.clone()), ("kind", kind.to_owned())], count as f64));
                }
            }
            for dedup in &job.dedups {
                for (kind, count) in [("duplicate", dedup.repeats), ("late", dedup.late)] {
                    out.push((vec![("source", dedup.source.clone()), ("kind", kind.to_owned())], count as f64));
                }
            }
        },
    },
    Metric {
        name: "tidemill_dedup_state_bytes",
        kind: Kind::Gauge,
        help: "Bytes of the keys that are remembered to tell repeats.",
        read: |job, _, out| {
            let sample = |dedup: &DedupStatus| (vec![("source", dedup.source.clone())], dedup.state_bytes as f64);
            out.extend(job.dedups.iter().map(sample));
        },
    },
    Metric {
        name: "tidemill_source_connected",
        kind: Kind::Gauge,
        help: "1 if the source can receive now.",
        read: |job, _, out| each_source(job, out, |source| truth(source.connected)),
    },
    Metric {
        name: "tidemill_source_target_up",
        kind: Kind::Gauge,
        help: "1 if the target answered when it was last asked. Targets are what the options of a source name.",
        read: |job, _, out| each_target(job, out, |target| truth(target.connected)),
    },
    Metric {
        name: "tidemill_source_target_failures_total",
        kind: Kind::Counter,
        help: "Attempts to fetch from a target that failed.",
        read: |job, _, out| each_target(job, out, |target| target.failures as f64),
    },
    Metric {
        name: "tidemill_watermark_lag_seconds",
        kind: Kind::Gauge,
        help: "Now minus the source's watermark; absent before the first row and after the end.",
        read: |job, now_us, out| {
            for source in &job.sources {
                let Some(watermark) = source.watermark else { continue };
                if watermark != Watermark::UNKNOWN && watermark != Watermark::END {
                    let lag = seconds(now_us.saturating_sub(watermark.0));
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
        name: "tidemill_checkpoints_total",
        kind: Kind::Counter,
        help: "Checkpoints made since the job began.",
        read: |job, _, out| out.push((vec![], job.checkpoint.count as f64)),
    },
    Metric {
        name: "tidemill_checkpoint_epoch",
        kind: Kind::Gauge,
        help: "Number of the epoch behind which a restart would begin.",
        read: |job, _, out| out.push((vec![], job.checkpoint.epoch.0 as f64)),
    },
    Metric {
        name: "tidemill_checkpoint_age_seconds",
        kind: Kind::Gauge,
        help: "Time since the last checkpoint was made; absent before the first of the job.",
        read: |job, now_us, out| {
            each_checkpoint(job, out, seconds(now_us.saturating_sub(job.checkpoint.made_us)));
        },
    },
    Metric {
        name: "tidemill_checkpoint_seconds",
        kind: Kind::Gauge,
        help: "How long the last checkpoint took, from its mark on.",
        read: |job, _, out| each_checkpoint(job, out, seconds(job.checkpoint.duration_us)),
    },
    Metric {
        name: "tidemill_checkpoint_bytes",
        kind: Kind::Gauge,
        help: "Bytes that the last checkpoint has written; what it names of earlier ones is not among them.",
        read: |job, _, out| each_checkpoint(job, out, job.checkpoint.bytes as f64),
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

pub(super) fn api() -> Api<ServiceState> {
    Api::new([Operation::new(Verb::Get, "/metrics", "metrics", metrics)
        .summary("health", "Tells counters and gauges for Prometheus")
        .answer(200, "every metric", [Media::bytes("text/plain", "the text format of Prometheus, 0.0.4")])
        .refusals([refusal(ProblemKind::TimedOut)])])
}

/// Tells counters and gauges for Prometheus.
async fn metrics(State(state): State<ServiceState>) -> Response {
    let text = render(&(state.status)(), state.clock.now_us(), state.version);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

fn truth(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn seconds(us: i64) -> f64 {
    us as f64 / 1e6
}

/// A value of the last checkpoint, if the job has made one.
fn each_checkpoint(job: &JobStatus, out: &mut Samples, value: f64) {
    if job.checkpoint.count > 0 {
        out.push((vec![], value));
    }
}

fn each_sink(service: &ServiceStatus, out: &mut Samples, value: impl Fn(&OutboxStatus) -> f64) {
    out.extend(service.sinks.iter().map(|sink| (vec![("sink", sink.name.clone())], value(sink))));
}

fn each_source(job: &JobStatus, out: &mut Samples, value: impl Fn(&tidemill_engine::runtime::SourceStatus) -> f64) {
    out.extend(job.sources.iter().map(|source| (vec![("source", source.name.clone())], value(source))));
}

fn each_target(job: &JobStatus, out: &mut Samples, value: impl Fn(&TargetStatus) -> f64) {
    for source in &job.sources {
        let labels = |target: &TargetStatus| vec![("source", source.name.clone()), ("target", target.target.clone())];
        out.extend(source.targets.iter().map(|target| (labels(target), value(target))));
    }
}

fn each_window(job: &JobStatus, out: &mut Samples, value: impl Fn(&tidemill_engine::runtime::WindowStatus) -> u64) {
    out.extend(job.windows.iter().map(|window| (vec![("view", window.name.clone())], value(window) as f64)));
}

fn each_table(job: &JobStatus, out: &mut Samples, value: impl Fn(&tidemill_engine::runtime::TableStatus) -> u64) {
    out.extend(job.tables.iter().map(|table| (vec![("sink", table.name.clone())], value(table) as f64)));
}

/// Writes all metrics. Without a job only what the service itself is.
fn render(service: &ServiceStatus, now_us: i64, version: &str) -> String {
    let mut text = String::new();
    let build = vec![(vec![("version", version.to_owned())], 1.0)];
    write_metric(&mut text, "tidemill_build_info", Kind::Gauge, "The version of the program, as a label.", &build);
    write_all(&mut text, OF_SERVICE, service, now_us);
    if let Some(job) = &service.job {
        write_all(&mut text, OF_JOB, job, now_us);
    }
    text
}

fn write_all<Status>(text: &mut String, metrics: &[Metric<Status>], status: &Status, now_us: i64) {
    for metric in metrics {
        let mut samples = Samples::new();
        (metric.read)(status, now_us, &mut samples);
        write_metric(text, metric.name, metric.kind, metric.help, &samples);
    }
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
    use tidemill_connectors::breaker::BreakerState;

    use tidemill_engine::epoch::Epoch;
    use tidemill_engine::runtime::{CheckpointStatus, SourceStatus, TableStatus, WindowStatus};

    use super::super::ReadOnly;
    use super::*;

    #[test]
    fn every_metric_is_listed_once_and_named_by_the_rules() {
        let of_service = OF_SERVICE.iter().map(|metric| (metric.name, metric.kind, metric.help));
        let of_job = OF_JOB.iter().map(|metric| (metric.name, metric.kind, metric.help));
        let all: Vec<_> = of_service.chain(of_job).collect();
        let names: BTreeSet<&str> = all.iter().map(|(name, ..)| *name).collect();
        assert_eq!(names.len(), all.len());
        for (name, kind, help) in all {
            assert!(name.starts_with("tidemill_"), "{name}");
            assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
            assert!(help.ends_with('.'), "{name}");
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
                targets: vec![TargetStatus {
                    target: "http://a/m".into(),
                    breaker: "open",
                    breaker_level: 2,
                    failures: 9,
                    ..TargetStatus::default()
                }],
                ..SourceStatus::default()
            }],
            checkpoint: CheckpointStatus {
                epoch: Epoch(7),
                made_us: 1_500_000,
                duration_us: 250_000,
                bytes: 512,
                count: 2,
            },
            dedups: vec![DedupStatus { source: "a".into(), repeats: 6, late: 1, state_bytes: 640, taken: 3 }],
            windows: vec![WindowStatus { name: "room".into(), late: 5, ..WindowStatus::default() }],
            tables: vec![TableStatus { name: "room".into(), rows: 9, ..TableStatus::default() }],
            ..JobStatus::default()
        };
        let read_only = Some(ReadOnly { reason: "disk full".into(), since_us: 500_000 });
        let sink =
            OutboxStatus { name: "alerts".into(), rows: 7, breaker: BreakerState::Open, ..OutboxStatus::default() };
        let service = ServiceStatus { job: Some(job), read_only, disk_failures: 4, sinks: vec![sink] };
        let text = render(&service, 3_500_000, "1.2.3");
        for line in [
            "tidemill_build_info{version=\"1.2.3\"} 1",
            "tidemill_ready 1",
            "tidemill_read_only 1",
            "tidemill_read_only_seconds 3",
            "tidemill_disk_failures_total 4",
            "tidemill_checkpoints_total 2",
            "tidemill_checkpoint_epoch 7",
            "tidemill_checkpoint_age_seconds 2",
            "tidemill_checkpoint_seconds 0.25",
            "tidemill_checkpoint_bytes 512",
            "# TYPE tidemill_source_records_total counter",
            "tidemill_source_records_total{source=\"a\\\"b\"} 3",
            "tidemill_source_errors_total{source=\"a\\\"b\",kind=\"decode\"} 1",
            "tidemill_source_errors_total{source=\"a\\\"b\",kind=\"auth\"} 2",
            "tidemill_source_errors_total{source=\"a\",kind=\"duplicate\"} 6",
            "tidemill_source_errors_total{source=\"a\",kind=\"late\"} 1",
            "tidemill_dedup_state_bytes{source=\"a\"} 640",
            "tidemill_watermark_lag_seconds{source=\"a\\\"b\"} 2.5",
            "tidemill_source_target_up{source=\"a\\\"b\",target=\"http://a/m\"} 0",
            "tidemill_circuit_breaker_state{source=\"a\\\"b\",target=\"http://a/m\"} 2",
            "tidemill_source_target_failures_total{source=\"a\\\"b\",target=\"http://a/m\"} 9",
            "tidemill_log_bytes 4096",
            "tidemill_view_late_rows_total{view=\"room\"} 5",
            "tidemill_sink_rows_total{sink=\"room\"} 9",
            "tidemill_sink_outbox_rows{sink=\"alerts\"} 7",
            "tidemill_circuit_breaker_state{sink=\"alerts\"} 2",
            "tidemill_sink_connected{sink=\"alerts\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        let without = render(&ServiceStatus::default(), 0, "1");
        let samples: Vec<&str> = without.lines().filter(|line| !line.starts_with('#')).collect();
        let expected =
            ["tidemill_build_info{version=\"1\"} 1", "tidemill_read_only 0", "tidemill_disk_failures_total 0"];
        assert_eq!(samples, expected);
    }
}
