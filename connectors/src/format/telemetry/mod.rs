//! What programs already send elsewhere: Influx line protocol, Prometheus text and remote write, OTLP metrics and logs.
//!
//! The formats differ in their bytes only. Each finds points in a message and fills one row for each: what every point has
//! goes to columns of fixed names, its tags, labels, fields and attributes go to the columns of their names, and to a map of
//! all of them where one is declared. What neither takes is left out and counted, so that whoever sends more than is kept
//! can see it.
//!
//! ```text
//!   message ─► line_protocol, exposition, remote_write, otlp ─► row: cells by name ─► fit ─► columns
//!              syntax: line, wire                               │                     │
//!                                                               └─ does not parse      └─ does not fit: NULL and counted;
//!                                                                  └─► dead letter ◄───────────── where it is NOT NULL
//! ```

mod cell;
mod rows;

mod line;
mod line_protocol;
mod precision;

mod exposition;

mod buckets;
mod native_histogram;
mod remote_write;
mod wire;

mod otlp;
mod otlp_logs;
mod otlp_metrics;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef};
use tidemill_engine::decode::{Decoded, Decoder, Format, Place};
use tidemill_engine::plan::{text_map_type, timestamp_type};
use tidemill_engine::source::Data;

use super::columns::decode_columns;
use super::convert::expected;
use super::layout::Layout;
use super::metadata::Origin;
use super::time::TimeUnit;
use cell::Column;
pub use precision::Precision;
pub(crate) use remote_write::Tally;
use rows::{Names, Rows};

/// The closed set of these formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// `format = 'line_protocol'`: Influx.
    LineProtocol {
        /// What its times count, if a request has said so; else the source's `time_unit`, or nanoseconds.
        precision: Option<Precision>,
    },
    /// `format = 'prometheus'`: the text that `/metrics` answers, also OpenMetrics.
    Exposition,
    /// `format = 'prometheus_remote_write'`: what Prometheus sends to other stores, versions 1 and 2, without its snappy.
    RemoteWrite,
    /// `format = 'otlp_metrics'`: OpenTelemetry, as protobuf or JSON.
    OtlpMetrics,
    /// `format = 'otlp_logs'`: OpenTelemetry, as protobuf or JSON.
    OtlpLogs,
}

impl Protocol {
    /// Influx, with times as its source says.
    pub const LINE_PROTOCOL: Protocol = Protocol::LineProtocol { precision: None };

    /// The words of option `format`.
    pub(crate) const WORDS: [(&'static str, Protocol); 5] = [
        ("line_protocol", Protocol::LINE_PROTOCOL),
        ("prometheus", Protocol::Exposition),
        ("prometheus_remote_write", Protocol::RemoteWrite),
        ("otlp_metrics", Protocol::OtlpMetrics),
        ("otlp_logs", Protocol::OtlpLogs),
    ];

    /// Returns its word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Protocol::LineProtocol { .. } => "line_protocol",
            Protocol::Exposition => "prometheus",
            Protocol::RemoteWrite => "prometheus_remote_write",
            Protocol::OtlpMetrics => "otlp_metrics",
            Protocol::OtlpLogs => "otlp_logs",
        }
    }

    /// Whether it is text, in lines.
    pub(crate) fn is_text(self) -> bool {
        matches!(self, Protocol::LineProtocol { .. } | Protocol::Exposition)
    }

    /// Returns the number that stands for it in the log, and its parameter.
    pub(crate) fn code(self) -> (u8, u8) {
        match self {
            Protocol::LineProtocol { precision } => (16, precision.map_or(0, Precision::code)),
            Protocol::Exposition => (17, 0),
            Protocol::RemoteWrite => (18, 0),
            Protocol::OtlpMetrics => (19, 0),
            Protocol::OtlpLogs => (20, 0),
        }
    }

    /// Finds what a number and a parameter in the log stand for.
    pub(crate) fn coded(code: u8, parameter: u8) -> Option<Protocol> {
        match (code, parameter) {
            (16, 0) => Some(Protocol::LINE_PROTOCOL),
            (16, precision) => Some(Protocol::LineProtocol { precision: Some(Precision::coded(precision)?) }),
            (17, 0) => Some(Protocol::Exposition),
            (18, 0) => Some(Protocol::RemoteWrite),
            (19, 0) => Some(Protocol::OtlpMetrics),
            (20, 0) => Some(Protocol::OtlpLogs),
            _ => None,
        }
    }

    /// Says how many rows a body gives at most, if that can be told without making any.
    pub(crate) fn rows_at_most(self, body: &[u8]) -> Option<usize> {
        match self {
            Protocol::LineProtocol { .. } | Protocol::Exposition => Some(memchr::memchr_iter(b'\n', body).count() + 1),
            Protocol::RemoteWrite => Some(remote_write::rows_at_most(body)),
            Protocol::OtlpMetrics | Protocol::OtlpLogs => None,
        }
    }

    /// Says why a body is not of this protocol at all; `Ok` if its points can be told apart.
    pub(crate) fn check_body(self, body: &[u8]) -> Result<(), String> {
        match self {
            Protocol::LineProtocol { .. } | Protocol::Exposition => Ok(()),
            Protocol::RemoteWrite => remote_write::check(body),
            Protocol::OtlpMetrics => otlp_metrics::check(body),
            Protocol::OtlpLogs => otlp_logs::check(body),
        }
    }

    /// Returns the columns that are parts of every point.
    fn parts(self) -> &'static [&'static str] {
        match self {
            Protocol::LineProtocol { .. } => &line_protocol::PARTS,
            Protocol::Exposition => &exposition::PARTS,
            Protocol::RemoteWrite => &remote_write::PARTS,
            Protocol::OtlpMetrics => &otlp_metrics::PARTS,
            Protocol::OtlpLogs => &otlp_logs::PARTS,
        }
    }

    /// Says why a column cannot be read from it; `None` if it can.
    pub(crate) fn refuses(self, field: &Field) -> Option<String> {
        let name = field.name().as_str();
        let is_part = self.parts().contains(&name);
        let is_time = *field.data_type() == timestamp_type();
        match (name, field.data_type()) {
            ("ts" | "time" | "start_ts" | "observed_ts", _) if is_part && !is_time => {
                Some(format!("column {name} is the time of a point: declare it TIMESTAMP"))
            }
            ("tags" | "fields" | "labels" | "attributes" | "resource", found)
                if is_part && *found != text_map_type() =>
            {
                Some(format!("column {name} holds pairs: declare it MAP<TEXT, TEXT>"))
            }
            (_, DataType::Map(..)) if !is_part => {
                let maps = ["tags", "fields", "labels", "attributes", "resource"];
                let known: Vec<&str> = maps.into_iter().filter(|name| self.parts().contains(name)).collect();
                Some(format!("column {name} is no map of this format: it has {}", known.join(", ")))
            }
            (_, found) if !Column::is_known(found) => {
                Some(format!("column {name} cannot be read from it: it is {}", expected(found)))
            }
            _ => None,
        }
    }
}

/// Makes decoders of one of these formats.
#[derive(Debug)]
pub struct TelemetryFormat {
    protocol: Protocol,
    layout: Arc<Layout>,
    names: Arc<Names>,
}

impl TelemetryFormat {
    /// Makes the format of a layout.
    pub fn new(protocol: Protocol, layout: Layout) -> Self {
        let names = Names::new(layout.payload(), protocol.parts());
        TelemetryFormat { protocol, layout: Arc::new(layout), names: Arc::new(names) }
    }
}

impl Format for TelemetryFormat {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.layout.schema())
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        let (layout, names) = (Arc::clone(&self.layout), Arc::clone(&self.names));
        Box::new(TelemetryDecoder { protocol: self.protocol, layout, names })
    }
}

struct TelemetryDecoder {
    protocol: Protocol,
    layout: Arc<Layout>,
    names: Arc<Names>,
}

impl Decoder for TelemetryDecoder {
    fn decode(&mut self, data: &Data, place: &Place<'_>) -> Decoded {
        let messages = match data {
            Data::Messages(messages) => messages,
            Data::Columns(columns) => return decode_columns(&self.layout, columns, place),
        };
        let origin = Origin::new(place, messages);
        let mut rows = Rows::new(&self.layout, &origin, place.arrival_us);
        for (index, message) in messages.iter().enumerate() {
            let Some(whole) = rows.dead.accept(index, &self.layout) else { continue };
            match self.protocol {
                Protocol::LineProtocol { precision } => {
                    let agreed = self.layout.time_unit().unwrap_or(TimeUnit::Nanoseconds);
                    let precision = precision.unwrap_or(agreed.into());
                    line_protocol::read(message, whole, precision, &self.names, &mut rows);
                }
                Protocol::Exposition => exposition::read(message, whole, &self.names, &mut rows),
                Protocol::RemoteWrite => remote_write::read(message, whole, &self.names, &mut rows),
                Protocol::OtlpMetrics => otlp_metrics::read(message, whole, &self.names, &mut rows),
                Protocol::OtlpLogs => otlp_logs::read(message, whole, &self.names, &mut rows),
            }
        }
        rows.finish()
    }
}

#[cfg(test)]
mod tests;
