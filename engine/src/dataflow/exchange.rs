//! The exchange: sends each row to the worker that owns its key group.
//!
//! Inside a process a batch is not cut: every worker gets the same columns, by pointer, with the list of rows that are
//! its own. That costs four bytes a row instead of a copy of it.

use timely::communication::Push;
use timely::dataflow::channels::Message;
use timely::dataflow::channels::pushers::exchange::Distributor;

use super::container::Keyed;
use crate::key::KeyGroup;

/// Splits keyed rows by key group.
pub(crate) struct ByKeyGroup;

impl Distributor<Keyed> for ByKeyGroup {
    fn partition<T: Clone, P: Push<Message<T, Keyed>>>(&mut self, container: &mut Keyed, time: &T, pushers: &mut [P]) {
        if let [only] = pushers {
            if container.batch.is_some() {
                Message::push_at(container, time.clone(), only);
            }
            return;
        }
        let Keyed { batch: Some(batch), selection } = std::mem::take(container) else { return };
        let mut parts: Vec<Vec<u32>> =
            pushers.iter().map(|_| Vec::with_capacity(batch.hashes.len() / pushers.len() + 64)).collect();
        let mut put = |row: u32| parts[KeyGroup::of(batch.hashes[row as usize]).worker(pushers.len())].push(row);
        match selection {
            None => (0..batch.hashes.len() as u32).for_each(&mut put),
            Some(rows) => rows.into_iter().for_each(&mut put),
        }
        for (pusher, part) in pushers.iter_mut().zip(parts) {
            if !part.is_empty() {
                let mut part = Keyed { batch: Some(batch.clone()), selection: Some(part) };
                Message::push_at(&mut part, time.clone(), pusher);
            }
        }
    }

    fn flush<T: Clone, P: Push<Message<T, Keyed>>>(&mut self, _time: &T, _pushers: &mut [P]) {
        // Nothing is kept back: `partition` sends all it was given.
    }
}
