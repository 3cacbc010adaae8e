//! The beginning of decoding, where each message is taken apart by itself.

use tidemill_engine::decode::{Decoded, Place};
use tidemill_engine::source::Data;

use super::columns::decode_columns;
use super::dead::DeadLetters;
use super::layout::Layout;
use super::metadata::Origin;
use super::rows::Span;

/// The messages of a chunk, and those of them that cannot be used.
pub(super) struct Messages<'d> {
    pub(super) origin: Origin<'d>,
    pub(super) dead: DeadLetters<'d>,
}

impl<'d> Messages<'d> {
    /// Takes the messages of a chunk; one of columns is decoded already.
    pub(super) fn of(data: &'d Data, place: &'d Place<'d>, layout: &Layout) -> Result<Messages<'d>, Decoded> {
        match data {
            Data::Messages(messages) => {
                Ok(Messages { origin: Origin::new(place, messages), dead: DeadLetters::new(messages) })
            }
            Data::Columns(columns) => Err(decode_columns(layout, columns, place)),
        }
    }

    /// Returns the spans of those whose topic and size can be; the others are dead letters.
    pub(super) fn accept(&mut self, layout: &Layout) -> Vec<Span> {
        (0..self.origin.messages.len()).filter_map(|index| self.dead.accept(index, layout)).collect()
    }
}
