//! An intake for the tests of sources: it keeps what it is given, and fails when told to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tidemill_engine::source::{
    Appended, BoxFuture, Chunk, Data, Intake, IntakeError, Message, Note, Offset, Receipt, Resume, Stage,
};

/// Keeps everything in memory, in order.
#[derive(Default)]
pub(crate) struct TestIntake {
    /// Calls in order: `open p`, `append p`, `end p`.
    pub(crate) calls: Mutex<Vec<String>>,
    pub(crate) chunks: Mutex<Vec<(String, Chunk)>>,
    pub(crate) errors: Mutex<BTreeMap<&'static str, u64>>,
    pub(crate) connected: AtomicBool,
    /// `try_append` gives `None`.
    pub(crate) full: AtomicBool,
    /// Receipts fail.
    pub(crate) failed: AtomicBool,
    /// Receipts wait.
    pub(crate) waits: Arc<AtomicBool>,
    /// What is said of every offset that there is.
    pub(crate) stage: Mutex<Option<Stage>>,
    noted: Mutex<BTreeMap<Bytes, (Bytes, Appended)>>,
    next: AtomicU64,
}

impl TestIntake {
    pub(crate) fn take(&self, partition: &str, chunk: Chunk) -> Result<Receipt, IntakeError> {
        let count = match &chunk {
            Chunk::Messages(messages) | Chunk::Noted(messages, _) | Chunk::Decoded { messages, .. } => messages.len(),
            Chunk::Range { data: Data::Messages(messages), .. } => messages.len(),
            Chunk::Range { data: Data::Columns(columns), .. } => columns.num_rows(),
        } as u64;
        let first = self.next.fetch_add(count, Ordering::SeqCst);
        let at = Appended { first: Offset(first), next: Offset(first + count) };
        if let Chunk::Noted(_, notes) | Chunk::Decoded { notes, .. } = &chunk {
            let mut noted = self.noted.lock();
            for Note { key, value } in notes.iter().cloned() {
                if value.is_empty() {
                    noted.remove(&key)
                } else {
                    noted.insert(key, (value, at))
                };
            }
        }
        self.calls.lock().push(format!("append {partition}"));
        self.chunks.lock().push((partition.to_owned(), chunk));
        let result = match self.failed.load(Ordering::SeqCst) {
            true => Err(IntakeError::LogFailed("disk on fire".to_owned())),
            false => Ok(at),
        };
        let waits = Arc::clone(&self.waits);
        Ok(Box::pin(async move {
            while waits.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            result
        }))
    }

    /// What the source is told when it begins again.
    pub(crate) fn resume(&self, partition: &str) -> Resume {
        let noted = self.noted.lock();
        Resume {
            partition: partition.to_owned(),
            notes: noted.iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect(),
            places: noted.iter().map(|(key, (_, at))| (key.clone(), *at)).collect(),
            ..Resume::default()
        }
    }

    /// An intake of the same log, for the next run.
    pub(crate) fn begin_again(&self) -> TestIntake {
        TestIntake {
            noted: Mutex::new(self.noted.lock().clone()),
            next: AtomicU64::new(self.next.load(Ordering::SeqCst)),
            ..TestIntake::default()
        }
    }

    /// All messages, in order.
    pub(crate) fn messages(&self) -> Vec<Message> {
        let chunks = self.chunks.lock();
        let messages = chunks.iter().flat_map(|(_, chunk)| match chunk {
            Chunk::Messages(messages)
            | Chunk::Noted(messages, _)
            | Chunk::Decoded { messages, .. }
            | Chunk::Range { data: Data::Messages(messages), .. } => messages.clone(),
            Chunk::Range { .. } => Vec::new(),
        });
        messages.collect()
    }

    pub(crate) async fn wait_until_connected(&self) {
        while !self.connected.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Intake for TestIntake {
    fn open(&self, partition: &str) -> BoxFuture<'_, Result<(), IntakeError>> {
        self.calls.lock().push(format!("open {partition}"));
        Box::pin(std::future::ready(Ok(())))
    }

    fn append(&self, partition: &str, chunk: Chunk) -> BoxFuture<'_, Result<Receipt, IntakeError>> {
        let taken = self.take(partition, chunk);
        Box::pin(async {
            tokio::task::yield_now().await;
            taken
        })
    }

    fn try_append(&self, partition: &str, chunk: Chunk) -> Option<Result<Receipt, IntakeError>> {
        (!self.full.load(Ordering::SeqCst)).then(|| self.take(partition, chunk))
    }

    fn end(&self, partition: &str) -> BoxFuture<'_, Result<(), IntakeError>> {
        self.calls.lock().push(format!("end {partition}"));
        Box::pin(std::future::ready(Ok(())))
    }

    fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::SeqCst);
    }

    fn count_error(&self, kind: &'static str) {
        *self.errors.lock().entry(kind).or_default() += 1;
    }

    fn stage(&self, before: Offset) -> Option<Stage> {
        let is_there = before.0 <= self.next.load(Ordering::SeqCst);
        is_there.then(|| self.stage.lock().unwrap_or(Stage::Durable))
    }
}
