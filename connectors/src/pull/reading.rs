//! How a target is read for as long as the source runs, whatever is read: connected to, listened to, and connected to again.

use std::time::Duration;

use tidemill_engine::source::{IntakeError, SourceError, Stop};
use tokio::time::timeout;

use super::target::{Failure, Health};
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

/// What reads from one target, over one connection after the other.
pub(super) trait Reading: Send {
    /// What a connection is.
    type Connection: Send;

    /// How the target is doing.
    fn health(&mut self) -> &mut Health;

    /// How long connecting may take.
    fn connect_max(&self) -> Duration;

    /// How long the other side wants us to wait between two connections.
    fn pause(&self) -> Duration {
        Duration::ZERO
    }

    /// Connects, up to where the first thing can come.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, Failure>> + Send;

    /// Reads as long as there is something to read.
    fn read(
        &mut self,
        connection: Self::Connection,
        receipts: &mut Receipts,
        stop: &Stop,
    ) -> impl Future<Output = End> + Send;
}

/// Reads until `stop`, or until the log fails.
pub(super) async fn run(mut reading: impl Reading, stop: Stop) -> Result<(), SourceError> {
    let mut receipts = Receipts::default();
    let ended = loop {
        match once(&mut reading, &mut receipts, &stop).await {
            End::Stopped => break Ok(()),
            End::Failed(error) => break Err(error),
            End::Lost(failure) => {
                let wait = reading.health().failed(&failure).max(reading.pause());
                let _ = timeout(wait, stop.cancelled()).await;
            }
        }
    };
    // What ended the reading comes before what became of what was appended.
    match (ended, receipts.all().await) {
        (Ok(()), Err(IntakeError::Stopping)) => Ok(()),
        (Ok(()), receipts) => Ok(receipts?),
        (failed, _) => failed,
    }
}

/// Reads over one connection.
async fn once(reading: &mut impl Reading, receipts: &mut Receipts, stop: &Stop) -> End {
    if stop.is_cancelled() {
        return End::Stopped;
    }
    reading.health().attempt();
    let limit = reading.connect_max();
    let connected = tokio::select! {
        biased;
        () = stop.cancelled() => return End::Stopped,
        connected = timeout(limit, reading.connect()) => connected,
    };
    match connected {
        Ok(Ok(connection)) => {
            reading.health().connected();
            reading.read(connection, receipts, stop).await
        }
        Ok(Err(failure)) => End::Lost(failure),
        Err(_) => End::Lost(Failure::new("timeout", format!("no answer within {limit:?}"))),
    }
}
