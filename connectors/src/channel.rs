//! A source for programs that embed tidemill: values sent into a tokio channel.
//!
//! A value is written as JSON and kept in the log, so a restart replays it; what is still in the channel when the
//! program dies is lost, as the program itself is, and so is what was on its way to a log that failed. When all senders
//! are dropped, the input has ended.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use tidemill_engine::source::{Chunk, Intake, IntakeError, Message, Resume, Source, SourceError, Stop};
use tokio::sync::Mutex;
use tokio::sync::mpsc::Receiver;

use crate::receipts::Receipts;

/// Values of one chunk.
const CHUNK_VALUES_MAX: usize = 8192;

/// A source of the values that come out of a channel. Decode it with [`JsonFormat`](crate::format::JsonFormat).
///
/// Its partition is `channel-0`. A channel that has closed has ended for good in the log; a later run in the same data
/// folder brings a new channel, and so a new partition, `channel-1`.
pub struct Channel<T> {
    receiver: Mutex<Receiver<T>>,
}

impl<T: Serialize + Send + 'static> Channel<T> {
    /// Makes a source of all values that are sent to `receiver`.
    pub fn new(receiver: Receiver<T>) -> Self {
        Channel { receiver: Mutex::new(receiver) }
    }
}

#[async_trait::async_trait]
impl<T: Serialize + Send + 'static> Source for Channel<T> {
    fn bounded(&self) -> bool {
        true
    }

    async fn run(&self, intake: Arc<dyn Intake>, resume: Vec<Resume>, stop: Stop) -> Result<(), SourceError> {
        let mut receiver = self.receiver.lock().await;
        let partition = match resume.iter().find(|resume| !resume.ended) {
            Some(open) => open.partition.clone(),
            None => format!("channel-{}", resume.len()),
        };
        intake.open(&partition).await?;
        intake.set_connected(true);
        let mut receipts = Receipts::default();
        let mut values = Vec::new();
        let has_ended = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break false,
                count = receiver.recv_many(&mut values, CHUNK_VALUES_MAX) => if count == 0 { break true },
            }
            let messages = values.drain(..).map(|value| message(&value)).collect::<Result<Vec<_>, _>>()?;
            // Not given up on `stop`: these values are out of the channel already.
            match intake.append(&partition, Chunk::Messages(messages)).await {
                Err(IntakeError::Stopping) => break false,
                queued => receipts.push(queued?).await?,
            }
        };
        receipts.all().await?;
        if has_ended {
            intake.end(&partition).await?;
        }
        Ok(())
    }
}

fn message<T: Serialize>(value: &T) -> Result<Message, SourceError> {
    let payload = serde_json::to_vec(value).map_err(|error| {
        SourceError::Environment(format!(
            "a value of type {} cannot be written as JSON: {error}",
            std::any::type_name::<T>()
        ))
    })?;
    Ok(Message::new("", Bytes::from(payload)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestIntake;

    #[derive(Serialize)]
    struct Reading {
        device: &'static str,
        temperature: f64,
    }

    #[tokio::test]
    async fn values_become_messages_and_closing_ends_the_source() {
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        let source = Channel::new(receiver);
        let intake = Arc::new(TestIntake::default());
        let send = async move {
            for n in 0..100 {
                sender.send(Reading { device: "a", temperature: f64::from(n) }).await.ok().unwrap();
            }
        };
        let (ran, ()) = tokio::join!(source.run(Arc::clone(&intake) as Arc<dyn Intake>, Vec::new(), Stop::new()), send);
        ran.unwrap();
        let messages = intake.messages();
        assert_eq!(messages.len(), 100);
        assert_eq!(messages[99].payload, r#"{"device":"a","temperature":99.0}"#);
        let calls = intake.calls.lock();
        assert_eq!(
            (calls.first().unwrap().as_str(), calls.last().unwrap().as_str()),
            ("open channel-0", "end channel-0")
        );
    }

    #[tokio::test]
    async fn a_new_run_goes_on_in_a_partition_that_has_not_ended() {
        for (ended, partition) in [(true, "open channel-1"), (false, "open channel-0")] {
            let (sender, receiver) = tokio::sync::mpsc::channel::<Reading>(1);
            drop(sender);
            let intake = Arc::new(TestIntake::default());
            let resume = vec![Resume { partition: "channel-0".to_owned(), next: 0, ended, ..Resume::default() }];
            Channel::new(receiver).run(Arc::clone(&intake) as Arc<dyn Intake>, resume, Stop::new()).await.unwrap();
            assert_eq!(intake.calls.lock()[0], partition);
        }
    }

    #[tokio::test]
    async fn the_same_source_goes_on_in_its_partition_after_its_log_has_failed() {
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        let source = Channel::new(receiver);
        for _ in 0..2 {
            sender.send(Reading { device: "a", temperature: 1.0 }).await.ok().unwrap();
        }
        let failing = Arc::new(TestIntake::default());
        failing.failed.store(true, std::sync::atomic::Ordering::SeqCst);
        let stop = Stop::new();
        let (ended, ()) =
            tokio::join!(source.run(Arc::clone(&failing) as Arc<dyn Intake>, Vec::new(), stop.clone()), async {
                while failing.messages().is_empty() {
                    tokio::task::yield_now().await;
                }
                stop.cancel();
            });
        assert!(matches!(ended, Err(SourceError::Intake(IntakeError::LogFailed(_)))), "{ended:?}");

        sender.send(Reading { device: "b", temperature: 2.0 }).await.ok().unwrap();
        drop(sender);
        let intake = Arc::new(TestIntake::default());
        let resume = vec![Resume { partition: "channel-0".to_owned(), next: 0, ended: false, ..Resume::default() }];
        source.run(Arc::clone(&intake) as Arc<dyn Intake>, resume, Stop::new()).await.unwrap();
        assert_eq!(intake.messages()[0].payload, r#"{"device":"b","temperature":2.0}"#);
        assert_eq!(intake.calls.lock().last().unwrap(), "end channel-0");
    }

    #[tokio::test]
    async fn a_stop_leaves_the_channel_open() {
        let (_sender, receiver) = tokio::sync::mpsc::channel::<Reading>(1);
        let (intake, stop) = (Arc::new(TestIntake::default()), Stop::new());
        stop.cancel();
        Channel::new(receiver).run(Arc::clone(&intake) as Arc<dyn Intake>, Vec::new(), stop).await.unwrap();
        assert_eq!(intake.calls.lock().as_slice(), ["open channel-0"]);
    }
}
