//! The decision in rows of a table, and in a model of what comes before and after it.

mod decisions;
mod model;

use std::collections::BTreeMap;

use crate::checkpoint::{Checkpoint, WindowSaved};
use crate::epoch::Epoch;
use crate::time::Watermark;

/// A checkpoint in short: its epoch, and the keys of the windows whose state it holds.
fn checkpoint(epoch: u64, windows: impl IntoIterator<Item = impl ToString>) -> Checkpoint {
    let window = WindowSaved {
        name: String::new(),
        watermark: Watermark::UNKNOWN,
        rows: 0,
        late: 0,
        results: 0,
        panes: Vec::new(),
    };
    Checkpoint {
        epoch: Epoch(epoch),
        sealed_us: 0,
        next_offset: 0,
        partitions: Vec::new(),
        sources: BTreeMap::new(),
        windows: windows.into_iter().map(|key| (key.to_string(), window.clone())).collect(),
        dedups: BTreeMap::new(),
        buffers: BTreeMap::new(),
    }
}
