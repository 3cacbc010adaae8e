//! Sources of the builder, and their columns.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use tidemill_connectors::Metadata;
use tidemill_connectors::format::{JsonFormat, Layout};
use tidemill_engine::decode::Format;
use tidemill_engine::plan::{Operator, SourceNode, timestamp_type};
use tidemill_engine::source::Source;

use super::draft::{Shared, is_name};
use super::stream::Stream;
use crate::Error;

/// A source whose columns are not known yet.
#[must_use = "a source does nothing until its columns are said"]
pub struct SourceBuilder {
    pub(super) draft: Shared,
    pub(super) name: String,
    pub(super) source: Arc<dyn Source>,
}

impl SourceBuilder {
    /// Says which columns the rows have; they come as JSON objects, one or several a message. A row that does not fit
    /// goes to the table `<source>$dead`, with the reason.
    ///
    /// Made with [`text`], [`double`], [`integer`], [`boolean`], [`timestamp`], or any [`Field`]; with [`metadata`] for what
    /// is not in the payload.
    pub fn columns(self, columns: impl IntoIterator<Item = Field>) -> Stream {
        let fields: Vec<Field> = columns.into_iter().collect();
        let mut names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            self.draft.fail(Error::Input(format!("source {}: two columns are called {:?}", self.name, twice[0])));
        }
        // A name and a type do not say what a column of metadata has in it.
        let described = |field: &Field| Some(format!("; {} is {}", field.name(), Metadata::of(field)?.name()));
        let note: String = fields.iter().filter_map(described).collect();
        let layout = Layout::new(&Arc::new(Schema::new(fields)));
        self.stream(Arc::new(JsonFormat::new(layout)), &note)
    }

    /// Says how messages become columns, for what is not JSON.
    pub fn format(self, format: Arc<dyn Format>) -> Stream {
        self.stream(format, "")
    }

    /// `note` is what decides about the rows beside their names and types.
    fn stream(self, format: Arc<dyn Format>, note: &str) -> Stream {
        if !is_name(&self.name) {
            self.draft.fail(Error::Input(format!("source({:?}): a name has letters, digits and _ only", self.name)));
        }
        let schema = format.schema();
        let columns: Vec<String> = schema.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
        let description = format!("source {} ({}{note})", self.name, columns.join(", "));
        let node = SourceNode {
            dead_table: Some(format!("{}$dead", self.name)),
            quarantine_table: None,
            identity: description.clone(),
            name: self.name,
            source: self.source,
            format,
            event_time: None,
        };
        let node = self.draft.lock().plan.push(schema, Operator::Source(node));
        Stream::of_source(self.draft, node, description)
    }
}

/// A column of what is known of a message beside its payload, such as when it arrived.
///
/// What the source does not know is null: a channel knows [`Metadata::ArrivalTime`], [`Metadata::Position`] and
/// [`Metadata::Partition`].
pub fn metadata(name: &str, of: Metadata) -> Field {
    of.column(name)
}

/// A column of text.
pub fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8View, true)
}

/// A column of numbers: 64 bits, floating.
pub fn double(name: &str) -> Field {
    Field::new(name, DataType::Float64, true)
}

/// A column of whole numbers of 64 bits.
pub fn integer(name: &str) -> Field {
    Field::new(name, DataType::Int64, true)
}

/// A column of truth values.
pub fn boolean(name: &str) -> Field {
    Field::new(name, DataType::Boolean, true)
}

/// A column of instants, as RFC 3339 text or a number since 1970; never null, so that it can be the event time.
pub fn timestamp(name: &str) -> Field {
    Field::new(name, timestamp_type(), false)
}
