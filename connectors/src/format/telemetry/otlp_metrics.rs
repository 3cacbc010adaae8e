//! OTLP metrics: one data point is one row.
//!
//! | column | |
//! |---|---|
//! | `metric`, `description`, `unit` | |
//! | `type` | `gauge`, `sum`, `histogram`, `exponential_histogram` or `summary` |
//! | `temporality`, `monotonic` | `delta` or `cumulative`; BOOLEAN: of sums and histograms |
//! | `value` | of gauges and sums; NULL where no value was recorded |
//! | `count`, `sum`, `min`, `max` | of histograms and summaries |
//! | `ts`, `start_ts` | the time of the point (when it arrived if it has none), and since when it counts |
//! | `attributes`, `resource` | MAP<TEXT, TEXT>: those of the point, and of what sent it |
//! | `scope` | the name of the library that measured |
//! | `le`, `quantile` | where they are declared, a histogram has a row `NAME_bucket` more for each bucket, whose `value` counts all values up to `le`, and a summary a row for each quantile |
//! | any other | the attribute of its name: of the point, else of its resource |
//!
//! Exemplars are not taken.

use std::borrow::Cow;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, DataPointFlags, ExponentialHistogramDataPoint, HistogramDataPoint, Metric, NumberDataPoint,
    SummaryDataPoint,
};
use serde::Serialize;
use tidemill_engine::source::Message;

use super::super::rows::Span;
use super::buckets::{Bucket, Exponential};
use super::cell::Cell;
use super::otlp::{self, CommonPlaces, Shared};
use super::rows::{Names, Place, Row, Rows};

/// The columns that are parts of every point.
pub(super) const PARTS: [&str; 16] = [
    "metric",
    "description",
    "unit",
    "type",
    "temporality",
    "monotonic",
    "value",
    "count",
    "sum",
    "min",
    "max",
    "ts",
    "start_ts",
    "attributes",
    "resource",
    "scope",
];

/// Reads the points of a message.
pub(super) fn read(message: &Message, whole: Span, names: &Names, rows: &mut Rows<'_>) {
    let request: ExportMetricsServiceRequest = match otlp::parse(&message.payload) {
        Ok(request) => request,
        Err(problem) => return rows.dead.push(whole, problem),
    };
    let mut writer = Writer { places: Places::new(names), row: Row::new(names), rows, whole };
    for of_resource in &request.resource_metrics {
        for of_scope in &of_resource.scope_metrics {
            let shared = Shared { resource: of_resource.resource.as_ref(), scope: of_scope.scope.as_ref() };
            of_scope.metrics.iter().for_each(|metric| writer.metric(metric, shared));
        }
    }
}

/// Says why a body is no request.
pub(super) fn check(body: &[u8]) -> Result<(), String> {
    otlp::parse::<ExportMetricsServiceRequest>(body).map(drop)
}

struct Places {
    metric: Place,
    description: Place,
    unit: Place,
    kind: Place,
    temporality: Place,
    monotonic: Place,
    value: Place,
    count: Place,
    sum: Place,
    min: Place,
    max: Place,
    time: Place,
    start: Place,
    common: CommonPlaces,
    has_le: bool,
    has_quantile: bool,
}

impl Places {
    fn new(names: &Names) -> Self {
        Places {
            metric: names.part("metric"),
            description: names.part("description"),
            unit: names.part("unit"),
            kind: names.part("type"),
            temporality: names.part("temporality"),
            monotonic: names.part("monotonic"),
            value: names.part("value"),
            count: names.part("count"),
            sum: names.part("sum"),
            min: names.part("min"),
            max: names.part("max"),
            time: names.part("ts"),
            start: names.part("start_ts"),
            common: CommonPlaces::new(names),
            has_le: names.has("le"),
            has_quantile: names.has("quantile"),
        }
    }
}

struct Writer<'w, 'm, 'd> {
    places: Places,
    row: Row<'m>,
    rows: &'w mut Rows<'d>,
    whole: Span,
}

/// What every kind of points has.
struct Point<'m> {
    metric: &'m Metric,
    shared: Shared<'m>,
    kind: &'static str,
    temporality: i32,
    monotonic: Option<bool>,
    attributes: &'m [KeyValue],
    time_ns: u64,
    start_ns: u64,
}

/// What histograms and summaries have.
struct Summed {
    count: u64,
    sum: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
}

impl<'m> Writer<'_, 'm, '_> {
    fn metric(&mut self, metric: &'m Metric, shared: Shared<'m>) {
        let of = |kind, temporality, monotonic| Point {
            metric,
            shared,
            kind,
            temporality,
            monotonic,
            attributes: &[],
            time_ns: 0,
            start_ns: 0,
        };
        match &metric.data {
            None => {}
            Some(Data::Gauge(gauge)) => {
                gauge.data_points.iter().for_each(|point| self.number(of("gauge", 0, None), point));
            }
            Some(Data::Sum(sum)) => {
                let (temporality, monotonic) = (sum.aggregation_temporality, Some(sum.is_monotonic));
                sum.data_points.iter().for_each(|point| self.number(of("sum", temporality, monotonic), point));
            }
            Some(Data::Histogram(histogram)) => {
                let of = || of("histogram", histogram.aggregation_temporality, None);
                histogram.data_points.iter().for_each(|point| self.histogram(of(), point));
            }
            Some(Data::ExponentialHistogram(histogram)) => {
                let of = || of("exponential_histogram", histogram.aggregation_temporality, None);
                histogram.data_points.iter().for_each(|point| self.exponential(of(), point));
            }
            Some(Data::Summary(summary)) => {
                summary.data_points.iter().for_each(|point| self.summary(of("summary", 0, None), point));
            }
        }
    }

    fn number(&mut self, of: Point<'m>, sent: &'m NumberDataPoint) {
        let point = Point {
            attributes: &sent.attributes,
            time_ns: sent.time_unix_nano,
            start_ns: sent.start_time_unix_nano,
            ..of
        };
        let value = match sent.value {
            _ if is_missing(sent.flags) => Cell::Null,
            None => Cell::Null,
            Some(Value::AsDouble(value)) => Cell::Float(value),
            Some(Value::AsInt(value)) => Cell::Int(value),
        };
        self.begin(&point);
        self.row.set(self.places.value, value);
        self.take(sent);
    }

    fn histogram(&mut self, of: Point<'m>, sent: &'m HistogramDataPoint) {
        let point = Point {
            attributes: &sent.attributes,
            time_ns: sent.time_unix_nano,
            start_ns: sent.start_time_unix_nano,
            ..of
        };
        let (bounds, counts) = (&sent.explicit_bounds, &sent.bucket_counts);
        if !counts.is_empty() && counts.len() != bounds.len() + 1 {
            let reason = format!("a histogram has {} boundaries and {} counts", bounds.len(), counts.len());
            return otlp::refuse(self.rows, self.whole, sent, reason);
        }
        let mut sum = 0.0;
        let up_to = |(bound, count): (&f64, &u64)| {
            sum += *count as f64;
            (*bound, sum)
        };
        let buckets: Vec<(f64, f64)> = bounds.iter().zip(counts).map(up_to).collect();
        let summed = Summed { count: sent.count, sum: sent.sum, min: sent.min, max: sent.max };
        self.summed(&point, &summed, sent.flags, if counts.is_empty() { None } else { Some(buckets) }, sent);
    }

    fn exponential(&mut self, of: Point<'m>, sent: &'m ExponentialHistogramDataPoint) {
        let point = Point {
            attributes: &sent.attributes,
            time_ns: sent.time_unix_nano,
            start_ns: sent.start_time_unix_nano,
            ..of
        };
        if !(-10..=20).contains(&sent.scale) {
            let reason = format!("a histogram of scale {} is not known: there are -10 to 20", sent.scale);
            return otlp::refuse(self.rows, self.whole, sent, reason);
        }
        let histogram = Exponential {
            scale: sent.scale,
            zero_threshold: sent.zero_threshold,
            zero_count: sent.zero_count as f64,
            negative: buckets_of(sent.negative.as_ref()),
            positive: buckets_of(sent.positive.as_ref()),
        };
        let summed = Summed { count: sent.count, sum: sent.sum, min: sent.min, max: sent.max };
        self.summed(&point, &summed, sent.flags, Some(histogram.cumulative()), sent);
    }

    fn summary(&mut self, of: Point<'m>, sent: &'m SummaryDataPoint) {
        let point = Point {
            attributes: &sent.attributes,
            time_ns: sent.time_unix_nano,
            start_ns: sent.start_time_unix_nano,
            ..of
        };
        let summed = Summed { count: sent.count, sum: Some(sent.sum), min: None, max: None };
        self.summed(&point, &summed, sent.flags, None, sent);
        if !self.places.has_quantile || is_missing(sent.flags) {
            return;
        }
        for quantile in &sent.quantile_values {
            self.begin(&point);
            self.row.set(self.places.value, Cell::Float(quantile.value));
            self.row.set_named("quantile", Cell::Float(quantile.quantile));
            if !self.take(sent) {
                return;
            }
        }
    }

    /// A row for the point, and then one for each bucket.
    fn summed(
        &mut self,
        point: &Point<'m>,
        summed: &Summed,
        flags: u32,
        buckets: Option<Vec<(f64, f64)>>,
        sent: &impl Serialize,
    ) {
        let float = |value: Option<f64>| value.map_or(Cell::Null, Cell::Float);
        self.begin(point);
        if !is_missing(flags) {
            self.row.set(self.places.count, Cell::Uint(summed.count));
            self.row.set(self.places.sum, float(summed.sum));
            self.row.set(self.places.min, float(summed.min));
            self.row.set(self.places.max, float(summed.max));
        }
        if !self.take(sent) || !self.places.has_le || is_missing(flags) {
            return;
        }
        let Some(buckets) = buckets else { return };
        for (le, count) in buckets.into_iter().chain([(f64::INFINITY, summed.count as f64)]) {
            self.begin(point);
            if self.places.metric.is_declared() {
                self.row.set(self.places.metric, Cell::Text(Cow::Owned(format!("{}_bucket", point.metric.name))));
            }
            self.row.set(self.places.value, Cell::Float(count));
            self.row.set_named("le", Cell::Float(le));
            if !self.take(sent) {
                return;
            }
        }
    }

    /// Begins a row with what every point has.
    fn begin(&mut self, point: &Point<'m>) {
        let (row, places, metric) = (&mut self.row, &self.places, point.metric);
        row.clear();
        places.common.set(row, point.shared, point.attributes);
        row.set(places.metric, Cell::text_or_null(&metric.name));
        row.set(places.description, Cell::text_or_null(&metric.description));
        row.set(places.unit, Cell::text_or_null(&metric.unit));
        row.set(places.kind, point.kind);
        let temporality = match AggregationTemporality::try_from(point.temporality) {
            Ok(AggregationTemporality::Delta) => "delta",
            Ok(AggregationTemporality::Cumulative) => "cumulative",
            _ => "",
        };
        row.set(places.temporality, Cell::text_or_null(temporality));
        row.set(places.monotonic, point.monotonic.map_or(Cell::Null, Cell::Bool));
        row.set(places.time, Cell::Time(otlp::time(point.time_ns).unwrap_or(self.rows.arrival_us)));
        row.set(places.start, otlp::time_or_null(point.start_ns));
    }

    fn take(&mut self, sent: &impl Serialize) -> bool {
        otlp::take(self.rows, &mut self.row, self.whole, sent)
    }
}

/// Whether the point only says that there is no value.
fn is_missing(flags: u32) -> bool {
    flags & DataPointFlags::NoRecordedValueMask as u32 != 0
}

/// The buckets that hold something, in the index of Prometheus.
fn buckets_of(buckets: Option<&Buckets>) -> Vec<Bucket> {
    let Some(buckets) = buckets else { return Vec::new() };
    let indexes = i64::from(buckets.offset) + 1..;
    let counted = indexes.zip(&buckets.bucket_counts).filter(|(_, count)| **count != 0);
    counted.map(|(index, count)| (index, *count as f64)).collect()
}
