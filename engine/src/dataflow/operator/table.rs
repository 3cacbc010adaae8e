//! The end of a branch: hands rows to the thread that writes their table.
//!
//! The worker never waits for that thread. What does not fit into its channel is kept, with the capability of its
//! epoch: the epoch is not complete until every row of it has been handed over, and that holds the input back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use crossbeam_channel::{Sender, TrySendError};
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::RowStream;
use crate::dataflow::Context;
use crate::dataflow::container::{LogPlace, TableRows};
use crate::epoch::Epoch;

/// How long a worker leaves a full channel alone.
const RETRY_AFTER: Duration = Duration::from_millis(1);

/// Rows for a table, and where they go.
#[derive(Clone)]
pub(crate) struct TableFeed {
    /// To the thread that writes.
    pub(crate) sender: Sender<TableRows>,
    /// Counts what is sent: up before, so that nobody finds the way empty while a batch is on it.
    pub(crate) queued: Arc<AtomicUsize>,
    /// What the table has already: rows up to this epoch are dropped here.
    pub(crate) last_committed: Epoch,
}

/// Builds the hand-over to one table; the stream that comes back carries nothing but progress.
pub(crate) fn table<'scope>(
    rows: RowStream<'scope>,
    context: &Context,
    feed: TableFeed,
) -> Stream<'scope, Epoch, Vec<()>> {
    let name = "table";
    let mut builder = OperatorBuilder::new(name.to_owned(), rows.scope());
    let again = rows.scope().activator_for(builder.operator_info().address);
    let mut input = builder.new_input(rows, Pipeline);
    let (_output, stream) = builder.new_output::<Vec<()>>();
    let failure = context.failure.clone();
    builder.build(move |capabilities| {
        drop(capabilities);
        let mut waiting: VecDeque<(Capability<Epoch>, LogPlace, RecordBatch)> = VecDeque::new();
        move |_| {
            if failure.is_set() {
                return;
            }
            failure.guard(name, || {
                input.for_each(|time, data| {
                    if let Some(batch) = data.batch.take()
                        && *time.time() > feed.last_committed
                    {
                        waiting.push_back((time.retain(0), data.place, batch));
                    }
                });
                while let Some((capability, place, batch)) = waiting.pop_front() {
                    feed.queued.fetch_add(1, Ordering::SeqCst);
                    match feed.sender.try_send((*capability.time(), place, batch)) {
                        Ok(()) => {}
                        Err(TrySendError::Full((_, place, batch))) => {
                            feed.queued.fetch_sub(1, Ordering::SeqCst);
                            waiting.push_front((capability, place, batch));
                            again.activate_after(RETRY_AFTER);
                            return Ok(());
                        }
                        Err(TrySendError::Disconnected(_)) => {
                            return Err("the thread that writes it has ended".to_owned());
                        }
                    }
                }
                Ok(())
            });
        }
    });
    stream
}
