//! The operators, one file each. All have the same shape: build the ports, then a closure that runs inside
//! [`Failure::guard`](super::failure::Failure::guard) and does a bounded amount of work.

pub(crate) mod dedup;
mod gated;
pub(crate) mod source;
pub(crate) mod stateless;
pub(crate) mod table;
pub(crate) mod watermark;
pub(crate) mod window;

use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::{OutputBuilder, OutputBuilderSession};

use super::container::Rows;
use crate::epoch::Epoch;

/// A stream of batches.
pub(crate) type RowStream<'scope> = Stream<'scope, Epoch, Rows>;

/// An output that sends whole containers.
pub(crate) type Output<C> = OutputBuilder<Epoch, NoopBuilder<C>>;

/// Sends one batch, unless it is empty.
pub(crate) fn send(
    output: &mut OutputBuilderSession<'_, Epoch, NoopBuilder<Rows>>,
    capability: &Capability<Epoch>,
    batch: arrow::array::RecordBatch,
) {
    if batch.num_rows() > 0 {
        output.session_with_builder(capability).give_container(&mut Rows::new(batch));
    }
}
