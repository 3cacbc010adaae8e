//! Outlets: the threads of a table, and the ways to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use crossbeam_channel::{Sender, bounded};
use tokio::sync::broadcast;

use super::buffer::RowBuffer;
use super::egress::{BATCHES_QUEUED_MAX, Egress, LIVE_BATCHES_MAX, ORDERS_QUEUED_MAX, Order, TableState};
use super::marks::Marks;
use crate::clock::Clock;
use crate::dataflow::{Failure, LogPlace, TableRows};
use crate::epoch::Epoch;
use crate::sink::Sink;

/// What the threads of all tables share.
pub(super) struct Shared<'a> {
    pub(super) marks: &'a Arc<Marks>,
    pub(super) failure: &'a Failure,
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) live: &'a BTreeMap<String, broadcast::Sender<(Epoch, RecordBatch)>>,
}

/// The threads of a table, and the ways to them.
pub(super) struct Outlet {
    pub(super) writers: Vec<Egress>,
    pub(super) rows: Vec<Sender<TableRows>>,
    pub(super) orders: Vec<Sender<Order>>,
    pub(super) state: Arc<TableState>,
    pub(super) live: broadcast::Sender<(Epoch, RecordBatch)>,
}

impl Shared<'_> {
    /// Prepares the threads of a table; what waited in the checkpoint waits on with the first of them.
    pub(super) fn outlet(
        &self,
        name: &str,
        mut sink: Box<dyn Sink>,
        writer_count: usize,
        waiting: Vec<(Epoch, RecordBatch)>,
    ) -> Outlet {
        let state = Arc::new(TableState::new(sink.last_committed(), writer_count));
        let live = self.live.get(name).cloned().unwrap_or_else(|| broadcast::channel(LIVE_BATCHES_MAX).0);
        let mut outlet = Outlet { writers: Vec::new(), rows: Vec::new(), orders: Vec::new(), state, live };
        let writers: Vec<_> = (0..writer_count).map(|index| sink.writer(index)).collect();
        let mut sink = Some(sink);
        for (index, writer) in writers.into_iter().enumerate() {
            let (rows_sender, rows) = bounded(BATCHES_QUEUED_MAX);
            let (orders_sender, orders) = bounded(ORDERS_QUEUED_MAX);
            outlet.rows.push(rows_sender);
            outlet.orders.push(orders_sender);
            outlet.writers.push(Egress {
                name: name.to_owned(),
                index,
                writer,
                sink: sink.take(),
                buffer: RowBuffer::default(),
                rows,
                orders,
                live: outlet.live.clone(),
                state: Arc::clone(&outlet.state),
                marks: Arc::clone(self.marks),
                failure: self.failure.clone(),
                clock: Arc::clone(self.clock),
            });
        }
        // They are of epochs that are complete, and in their order already.
        waiting.into_iter().for_each(|(epoch, rows)| outlet.writers[0].keep(epoch, LogPlace::default(), rows));
        outlet
    }
}
