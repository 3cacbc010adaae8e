//! The columns of a source: those that are declared, then those that the topic gives.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringViewBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_engine::source::Message;

use super::time::TimeUnit;
use crate::mqtt::TopicPattern;
use crate::options::OptionError;

/// Which columns a source has, and what its numbers in time columns mean.
#[derive(Clone, Debug)]
pub struct Layout {
    declared: SchemaRef,
    schema: SchemaRef,
    topic: Option<TopicPattern>,
    time_unit: Option<TimeUnit>,
}

impl Layout {
    /// Makes a layout of the declared columns alone. Text becomes `Utf8View`, times become microseconds in UTC.
    pub fn new(columns: &SchemaRef) -> Self {
        let declared = Arc::new(Schema::new(columns.fields().iter().map(|field| normal(field)).collect::<Vec<_>>()));
        Layout { schema: Arc::clone(&declared), declared, topic: None, time_unit: None }
    }

    /// Adds a column for each named level of the topic, after the declared ones.
    ///
    /// # Errors
    /// If a declared column has the name of a topic level.
    pub fn with_topic(mut self, topic: TopicPattern) -> Result<Self, OptionError> {
        let mut fields: Vec<Field> = self.declared.fields().iter().map(|field| field.as_ref().clone()).collect();
        for name in topic.columns() {
            if self.declared.column_with_name(name).is_some() {
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

    /// Returns all columns: declared, then topic levels.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Returns the declared columns.
    pub fn declared(&self) -> &SchemaRef {
        &self.declared
    }

    /// Returns what a number in a time column counts.
    pub fn time_unit(&self) -> Option<TimeUnit> {
        self.time_unit
    }

    /// Says why a message's topic cannot give the topic columns; `Ok` if it can.
    pub(super) fn check_topic(&self, message: &Message) -> Result<(), String> {
        let Some(pattern) = &self.topic else { return Ok(()) };
        match std::str::from_utf8(&message.topic) {
            Ok(topic) if pattern.accepts(topic) => Ok(()),
            Ok(topic) => Err(format!("topic {topic:?} does not match the source's topic pattern")),
            Err(error) => Err(format!("the topic is not UTF-8 at byte {}", error.valid_up_to())),
        }
    }

    /// Completes a batch with the topic columns; `messages_of_rows` names the message that each row came from.
    ///
    /// # Panics
    /// If a topic was not checked with [`Layout::check_topic`], or the columns are not the declared ones.
    pub(super) fn complete(
        &self,
        mut columns: Vec<ArrayRef>,
        row_count: usize,
        messages: &[Message],
        messages_of_rows: impl Iterator<Item = usize>,
    ) -> RecordBatch {
        if let Some(pattern) = &self.topic {
            let mut builders: Vec<StringViewBuilder> =
                pattern.columns().iter().map(|_| StringViewBuilder::with_capacity(row_count)).collect();
            let mut values = Vec::with_capacity(builders.len());
            let mut current = None;
            for message in messages_of_rows {
                if current != Some(message) {
                    let topic = std::str::from_utf8(&messages[message].topic).expect("the topic was checked");
                    assert!(pattern.matches_into(topic, &mut values), "the topic was checked");
                    current = Some(message);
                }
                for (builder, value) in builders.iter_mut().zip(&values) {
                    builder.append_value(value);
                }
            }
            columns.extend(builders.into_iter().map(|mut builder| Arc::new(builder.finish()) as ArrayRef));
        }
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(row_count));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .expect("columns were converted to the layout")
    }
}

fn normal(field: &Field) -> Field {
    let data_type = match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Timestamp(_, _) => DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into())),
        other => other.clone(),
    };
    Field::new(field.name(), data_type, field.is_nullable())
}
