//! Storage that is not sure: now and then an object is made and the maker hears of an error, or of an error and nothing
//! is made. As a network does it, where an answer is lost.

use std::io;
use std::sync::Arc;

use tidemill_engine::clock::{Dice, SeededDice};
use tidemill_engine::storage::{
    InterposedStorage, LocalStorage, Storage, StorageCall, StorageError, StorageInterposer,
};

/// One of so many answers to a commit is lost.
const ANSWERS_PER_LOSS: u64 = 24;

/// Makes storage unsure, by a seed.
pub(crate) fn unsure(inner: LocalStorage, seed: u64) -> Arc<dyn Storage> {
    Arc::new(InterposedStorage::new(Arc::new(inner), Arc::new(Unsure { dice: SeededDice::new(seed) })))
}

struct Unsure {
    dice: SeededDice,
}

impl StorageInterposer for Unsure {
    fn around<T>(
        &self,
        call: StorageCall,
        path: &str,
        run: impl FnOnce() -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        // Only where it is tried again: elsewhere an error ends the process, which happens often enough.
        if call != StorageCall::PutNew || !path.contains("_delta_log") {
            return run();
        }
        let lost = || StorageError::Io {
            action: "put",
            path: path.to_owned(),
            source: io::Error::other("the answer is lost"),
        };
        match self.dice.roll() % ANSWERS_PER_LOSS {
            0 => Err(lost()),
            1 => run().and(Err(lost())),
            _ => run(),
        }
    }
}
