//! The receipts that a source waits for: in order, and not too many of them.

use std::collections::VecDeque;

use tidemill_engine::source::{IntakeError, Receipt};

/// Chunks whose receipts may be outstanding: enough to keep the log busy, few enough to be small in memory.
const RECEIPTS_MAX: usize = 64;

/// Receipts of chunks that are queued, the oldest first.
#[derive(Default)]
pub(crate) struct Receipts(VecDeque<Receipt>);

impl Receipts {
    /// Takes a receipt; waits for the oldest one while there are too many.
    pub(crate) async fn push(&mut self, receipt: Receipt) -> Result<(), IntakeError> {
        self.0.push_back(receipt);
        while self.0.len() > RECEIPTS_MAX {
            let oldest = self.0.pop_front().expect("there are too many");
            oldest.await?;
        }
        Ok(())
    }

    /// Waits for all that are left.
    pub(crate) async fn all(self) -> Result<(), IntakeError> {
        for receipt in self.0 {
            receipt.await?;
        }
        Ok(())
    }
}
