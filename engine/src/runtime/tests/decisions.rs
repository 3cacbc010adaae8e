//! The order of a checkpoint, seen from its storage and from its table: decided, then committed, then removed.

use super::*;
use crate::storage::{InterposedStorage, StorageCall, StorageError, StorageInterposer};

/// Who looks at every removal from the log.
struct Watched {
    inner: MemoryStorage,
    offences: Offences,
}

type Offences = Arc<Mutex<Vec<String>>>;

impl Watched {
    /// Every checkpoint that is there can be replayed from.
    fn look_at_the_log(&self) {
        let storage: Arc<dyn Storage> = Arc::new(self.inner.clone());
        let store = Store::new(Arc::clone(&storage));
        let manifests = store.numbers().expect("listed").into_iter().map(|number| store.read(number).expect("whole"));
        let log = Log::open(storage, LOG_FOLDER, &SeededDice::new(3), LogOptions::default()).expect("opened");
        let first = log.reach().first;
        let epochs: Vec<Epoch> = manifests.filter_map(|manifest| Some(manifest.checkpoint()?.epoch)).collect();
        if epochs.len() < CHECKPOINTS_KEPT || epochs.iter().any(|epoch| epoch.next() < first) {
            self.offences.lock().push(format!("the log begins with {first}, and checkpoints are of {epochs:?}"));
        }
    }
}

impl StorageInterposer for Watched {
    fn around<T>(
        &self,
        call: StorageCall,
        path: &str,
        run: impl FnOnce() -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let done = run()?;
        if call == StorageCall::Delete && path.starts_with(LOG_FOLDER) {
            self.look_at_the_log();
        }
        Ok(done)
    }
}

/// A table that looks at every commit whether it is decided.
struct Decided {
    store: Store,
    inner: CollectingSink,
    offences: Offences,
}

impl Sink for Decided {
    fn name(&self) -> &str {
        "table"
    }

    fn found(&self) -> Found {
        match self.inner.last_committed() {
            Epoch::NONE => Found::New,
            committed => Found::Same { base: Epoch::NONE, committed },
        }
    }

    fn begin(&mut self, base: Epoch) -> Result<String, SinkError> {
        self.inner.begin(base)
    }

    fn last_committed(&self) -> Epoch {
        self.inner.last_committed()
    }

    fn writer(&mut self, index: usize) -> Box<dyn SinkWriter> {
        self.inner.writer(index)
    }

    fn commit(&mut self, epoch: Epoch, committables: &[Committable]) -> Result<(), SinkError> {
        let newest = self.store.numbers().expect("listed").pop();
        let is_decided = newest.is_some_and(|number| {
            let manifest = self.store.read(number).expect("whole");
            manifest.epoch == epoch && manifest.tables["table"].pending == committables
        });
        if !is_decided {
            self.offences
                .lock()
                .push(format!("epoch {epoch} is committed, and the manifest {newest:?} does not say so"));
        }
        self.inner.commit(epoch, committables)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_decides_before_it_commits_and_goes_on_where_it_stood_with_the_log_it_needs() {
    let offences = Offences::default();
    let memory = MemoryStorage::default();
    let watched = Arc::new(Watched { inner: memory.clone(), offences: Arc::clone(&offences) });
    let storage: Arc<dyn Storage> = Arc::new(InterposedStorage::new(Arc::new(memory.clone()), watched));
    let mut last = Epoch::NONE;
    for life in 0..3 {
        let collected = Collected::default();
        let committed = Arc::clone(&collected.committed);
        let inner = CollectingSink { name: "table".to_owned(), collected, last };
        let store = Store::new(Arc::clone(&storage));
        let sink = Decided { store: store.clone(), inner, offences: Arc::clone(&offences) };
        let log = LogOptions { segment_bytes_max: 2_000, checkpoint_segment_bytes_min: 500 };
        let job = start_with(Arc::clone(&storage), Does::Sends, Box::new(sink), Duration::from_millis(5), log);
        let job = job.await.expect("starts");
        let checkpoints = || store.numbers().map_or(0, |numbers| numbers.last().copied().unwrap_or(0));
        let oldest_segment = || memory.list(LOG_FOLDER).expect("listed").remove(0).name;
        let (before, oldest) = (checkpoints(), oldest_segment());
        let enough = async {
            while checkpoints() < before + 12 || oldest_segment() == oldest {
                tokio::time::sleep(Duration::from_millis(2)).await;
                assert_eq!(job.status().failure, None, "life {life}");
            }
        };
        tokio::time::timeout(HANGS_AFTER, enough).await.expect("checkpoints are made, and the log shrinks");
        job.stop().await.expect("stops");
        let status = job.status();
        assert_eq!(status.tables[0].rows, rows(&committed) as u64, "life {life}: all rows are counted once");
        last = status.tables[0].committed;
        assert_eq!(*offences.lock(), [""; 0], "life {life}");
    }
}
