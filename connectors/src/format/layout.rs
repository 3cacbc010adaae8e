//! The columns of a source: those that are declared, then those that the topic gives.
//!
//! ```text
//!   temperature DOUBLE, heard TIMESTAMP METADATA FROM 'arrival_time', ts TIMESTAMP        topic = 'plant/{site}/+'
//!   └─ payload                └─ the message and its place                └─ payload       └─ site: a level of the topic
//! ```

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringViewBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_engine::source::Message;

use super::columns::{check_columns, column_of};
use super::convert::{Converted, convert};
use super::metadata::{Origin, column, paths};
use super::time::TimeUnit;
use crate::metadata::Metadata;
use crate::mqtt::{TopicPatterns, is_oversize};
use crate::options::OptionError;

/// Which columns a source has, and what its numbers in time columns mean.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The columns that are read from the payload.
    payload: SchemaRef,
    /// All columns: those that are declared, in their order, then the levels of the topic.
    schema: SchemaRef,
    /// For each declared column what it is, if it is not read from the payload.
    metadata: Vec<Option<Metadata>>,
    topic: Option<TopicPatterns>,
    time_unit: Option<TimeUnit>,
    /// Whether topics say which line of which file a message begins with.
    has_paths: bool,
}

impl Layout {
    /// Makes a layout of the declared columns alone. Text becomes `Utf8View`, times become microseconds in UTC; fields made
    /// by [`Metadata::column`] say what else is known of a message.
    pub fn new(columns: &SchemaRef) -> Self {
        let metadata: Vec<Option<Metadata>> = columns.fields().iter().map(|field| Metadata::of(field)).collect();
        let declared: Vec<Field> = columns.fields().iter().map(|field| normal(field)).collect();
        let in_payload = declared.iter().zip(&metadata).filter(|(_, metadata)| metadata.is_none());
        let payload = Arc::new(Schema::new(in_payload.map(|(field, _)| field.clone()).collect::<Vec<_>>()));
        Layout {
            payload,
            schema: Arc::new(Schema::new(declared)),
            metadata,
            topic: None,
            time_unit: None,
            has_paths: false,
        }
    }

    /// Adds a column for each named level of the topic, after the declared ones.
    ///
    /// # Errors
    /// If a declared column has the name of a topic level.
    pub fn with_topic(mut self, topic: impl Into<TopicPatterns>) -> Result<Self, OptionError> {
        let topic = topic.into();
        let mut fields: Vec<Field> = self.schema.fields().iter().map(|field| field.as_ref().clone()).collect();
        for name in topic.columns() {
            if self.schema.column_with_name(name).is_some() {
                return Err(OptionError::new(
                    "topic",
                    format!(
                        "the level {{{name}}} adds a column {name}, which is declared already: remove the \
                         declaration, or write + instead of {{{name}}}"
                    ),
                ));
            }
            fields.push(Field::new(name, DataType::Utf8View, false));
        }
        self.schema = Arc::new(Schema::new(fields));
        self.topic = Some(topic);
        Ok(self)
    }

    /// Says what a number in a time column counts.
    pub fn with_time_unit(mut self, time_unit: Option<TimeUnit>) -> Self {
        self.time_unit = time_unit;
        self
    }

    /// Says that the topic of a message is the place in a file where it begins, `path:line` or `path`.
    pub fn with_paths(mut self) -> Self {
        self.has_paths = true;
        self
    }

    /// Converts columns, one for each of the schema's, to their declared types.
    pub(super) fn convert(&self, columns: Vec<ArrayRef>, row_count: usize) -> Converted {
        convert(columns, row_count, &self.schema, self.time_unit, Default::default())
    }

    /// Returns all columns: declared, then topic levels.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Returns the columns that are read from the payload.
    pub fn payload(&self) -> &SchemaRef {
        &self.payload
    }

    /// Whether some columns are not read from the payload, and are no levels of the topic.
    pub fn has_metadata(&self) -> bool {
        self.metadata.iter().any(Option::is_some)
    }

    /// Returns what a number in a time column counts.
    pub fn time_unit(&self) -> Option<TimeUnit> {
        self.time_unit
    }

    /// Says why columns that are columns already cannot become the declared ones; `Ok` if they can.
    ///
    /// # Errors
    /// Names the column, and what it is.
    pub(crate) fn check_columns(&self, found: &Schema) -> Result<(), String> {
        check_columns(found, self)
    }

    /// Says why a message's topic cannot give the topic columns, or why its payload is none; `Ok` if it can be read.
    pub(super) fn check_message(&self, message: &Message) -> Result<(), String> {
        let Some(pattern) = &self.topic else { return Ok(()) };
        if is_oversize(message) {
            return Err(String::from_utf8_lossy(&message.payload).into_owned());
        }
        match std::str::from_utf8(&message.topic) {
            Ok(topic) if pattern.accepts(topic) => Ok(()),
            Ok(topic) => Err(format!("topic {topic:?} does not match the source's topic pattern")),
            Err(error) => Err(format!("the topic is not UTF-8 at byte {}", error.valid_up_to())),
        }
    }

    /// Completes columns of the payload with those that come from the message and its topic; `messages_of_rows` names the
    /// message of each row, in order. Integers among them still have to be converted to their declared width.
    ///
    /// # Panics
    /// If a topic was not checked with [`Layout::check_message`].
    pub(super) fn complete(
        &self,
        payload: Vec<ArrayRef>,
        origin: &Origin<'_>,
        messages_of_rows: impl Iterator<Item = usize>,
    ) -> Vec<ArrayRef> {
        if !self.has_metadata() && self.topic.is_none() {
            return payload;
        }
        let messages_of_rows: Vec<usize> = messages_of_rows.collect();
        let rows = origin.rows(&messages_of_rows);
        let mut payload = payload.into_iter();
        let declared = self.metadata.iter().map(|metadata| match metadata {
            None => payload.next().expect("a column for each field of the payload"),
            Some(Metadata::Path) if self.has_paths => paths(&rows),
            Some(metadata) => column(*metadata, &rows),
        });
        let mut columns: Vec<ArrayRef> = declared.collect();
        columns.extend(self.topic.iter().flat_map(|pattern| levels(pattern, origin.messages, &messages_of_rows)));
        columns
    }

    /// The same for rows that came as columns: what is not metadata, and no level of a topic, is found by its name, or null.
    pub(super) fn complete_columns(
        &self,
        batch: &RecordBatch,
        origin: &Origin<'_>,
        message_of_row: impl Fn(usize) -> usize,
    ) -> Vec<ArrayRef> {
        // A row that is no part of a message has no topic: then the columns that a topic would give are its own.
        let (fields, topic) = match origin.messages.is_empty() {
            true => (self.schema.fields(), None),
            false => (self.payload.fields(), self.topic.as_ref()),
        };
        if topic.is_none() && !self.has_metadata() {
            return fields.iter().map(|field| column_of(batch, field)).collect();
        }
        let messages_of_rows = (0..batch.num_rows()).map(message_of_row);
        if !origin.messages.is_empty() {
            let payload = fields.iter().map(|field| column_of(batch, field)).collect();
            return self.complete(payload, origin, messages_of_rows);
        }
        let every_row: Vec<usize> = messages_of_rows.collect();
        let rows = origin.rows(&every_row);
        let metadata = self.metadata.iter().copied().chain(std::iter::repeat(None));
        let fields = fields.iter().zip(metadata);
        fields
            .map(|(field, metadata)| match metadata {
                Some(metadata) => column(metadata, &rows),
                None => column_of(batch, field),
            })
            .collect()
    }
}

/// Makes the columns of the topic's levels.
fn levels(pattern: &TopicPatterns, messages: &[Message], messages_of_rows: &[usize]) -> Vec<ArrayRef> {
    let new_builder = |_| StringViewBuilder::with_capacity(messages_of_rows.len());
    let mut builders: Vec<StringViewBuilder> = pattern.columns().iter().map(new_builder).collect();
    let mut values = Vec::with_capacity(builders.len());
    let mut current = None;
    for message in messages_of_rows {
        if current != Some(message) {
            let topic = std::str::from_utf8(&messages[*message].topic).expect("the topic was checked");
            assert!(pattern.matches_into(topic, &mut values), "the topic was checked");
            current = Some(message);
        }
        for (builder, value) in builders.iter_mut().zip(&values) {
            builder.append_value(value);
        }
    }
    builders.into_iter().map(|mut builder| Arc::new(builder.finish()) as ArrayRef).collect()
}

fn normal(field: &Field) -> Field {
    let data_type = match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Timestamp(_, _) => DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into())),
        other => other.clone(),
    };
    Field::new(field.name(), data_type, field.is_nullable())
}
