//! How reading from a target ends, whatever is read.

use tidemill_engine::source::{IntakeError, SourceError};

use super::target::Failure;
use crate::receipts::Receipts;

/// Why a target is not read any more.
pub(super) enum End {
    /// The source is to stop.
    Stopped,
    /// It has to be connected to again.
    Lost(Failure),
    /// The log has failed.
    Failed(SourceError),
}

impl From<IntakeError> for End {
    fn from(error: IntakeError) -> End {
        match error {
            IntakeError::Stopping => End::Stopped,
            error => End::Failed(error.into()),
        }
    }
}

/// Waits for what was appended; what ended the reading comes before what became of that.
pub(super) async fn settle(ended: Result<(), SourceError>, receipts: Receipts) -> Result<(), SourceError> {
    match (ended, receipts.all().await) {
        (Ok(()), Err(IntakeError::Stopping)) => Ok(()),
        (Ok(()), receipts) => Ok(receipts?),
        (failed, _) => failed,
    }
}
