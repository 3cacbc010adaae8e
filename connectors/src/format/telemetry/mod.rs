//! What programs already send elsewhere: Influx line protocol, Prometheus text and remote write, OTLP metrics and logs.
//!
//! The formats differ in their bytes only. Each finds points in a message and fills one row for each: what every point has
//! goes to columns of fixed names, its tags, labels, fields and attributes go to the columns of their names, and to a map of
//! all of them where one is declared. What is not declared is left out.
//!
//! ```text
//!   message ─► line_protocol, exposition, remote_write, otlp ─► row: cells by name ─► fit ─► columns
//!              syntax: line, wire                               │                     │
//!                                                               └─ does not parse ────┴─ does not fit ─► dead letter
//! ```
//!
//! A value that does not fit its column makes a dead letter of its whole row, as in the other formats: the letter keeps the
//! bytes and the reason, where a NULL would keep neither.

mod cell;
mod exposition;
mod line;
mod line_protocol;
mod precision;
mod rows;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef};
use tidemill_engine::decode::{Decoded, Decoder, Format, Place};
use tidemill_engine::plan::{text_map_type, timestamp_type};
use tidemill_engine::source::Data;

use super::columns::decode_columns;
use super::convert::{expected, missing};
use super::layout::Layout;
use super::metadata::Origin;
use cell::Column;
pub(crate) use precision::Precision;
use rows::{Names, Rows};

/// The closed set of these formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `format = 'line_protocol'`: Influx.
    LineProtocol,
    /// `format = 'prometheus'`: the text that `/metrics` answers, also OpenMetrics.
    Exposition,
}

impl Protocol {
    /// The words of option `format`.
    pub(crate) const WORDS: [(&'static str, Protocol); 2] =
        [("line_protocol", Protocol::LineProtocol), ("prometheus", Protocol::Exposition)];

    /// Returns its word.
    pub(crate) fn word(self) -> &'static str {
        let word = Protocol::WORDS.into_iter().find(|(_, protocol)| *protocol == self);
        word.expect("every protocol has a word").0
    }

    /// Returns the columns that are parts of every point.
    fn parts(self) -> &'static [&'static str] {
        match self {
            Protocol::LineProtocol => &line_protocol::PARTS,
            Protocol::Exposition => &exposition::PARTS,
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
                Protocol::LineProtocol => line_protocol::read(message, whole, &self.layout, &self.names, &mut rows),
                Protocol::Exposition => exposition::read(message, whole, &self.names, &mut rows),
            }
        }
        let (batches, dead) = rows.finish();
        Decoded { batches, dead: dead.finish() }
    }
}

#[cfg(test)]
mod tests;
