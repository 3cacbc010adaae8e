//! What a source has noted is there again: from the log, from a checkpoint, from both, and whichever checkpoint it is.

use super::*;
use crate::checkpoint::Part;
use crate::runtime::foresee;
use crate::source::Note;
use crate::storage::StorageError;

/// Notes how often it has sent, and forgets a note of the time before; with nothing to send it sends something plain. Says
/// what it was told at its start.
struct Counting {
    told: Sender<BTreeMap<bytes::Bytes, bytes::Bytes>>,
    sends: u64,
}

#[async_trait::async_trait]
impl Source for Counting {
    fn bounded(&self) -> bool {
        false
    }

    async fn run(&self, intake: Arc<dyn Intake>, resume: Vec<Resume>, stop: Stop) -> Result<(), SourceError> {
        let notes = resume.into_iter().next().unwrap_or_default().notes;
        let sent =
            notes.get(&b"sent"[..]).map_or(0, |value| u64::from_le_bytes(value[..].try_into().expect("8 bytes")));
        for number in sent + 1..=sent + self.sends {
            let passing = format!("passing {number}");
            let notes = vec![
                Note::new("sent", number.to_le_bytes().to_vec()),
                Note::new(passing.clone(), "here"),
                Note::forget(format!("passing {}", number - 1)),
            ];
            // Each second time there are notes alone.
            let messages = if number % 2 == 0 { vec![event(1)] } else { Vec::new() };
            intake.append("", Chunk::Noted(messages, notes)).await?.await?;
        }
        if self.sends == 0 {
            intake.append("", Chunk::Messages(vec![event(1)])).await?.await?;
        }
        self.told.send(notes).expect("the test listens");
        stop.cancelled().await;
        Ok(())
    }
}

/// A table that says what it has.
struct Says(Found, CollectingSink);

impl Sink for Says {
    fn name(&self) -> &str {
        "table"
    }

    fn found(&self) -> Found {
        self.0.clone()
    }

    fn begin(&mut self, base: Epoch) -> Result<String, SinkError> {
        self.1.begin(base)
    }

    fn last_committed(&self) -> Epoch {
        self.1.last
    }

    fn writer(&mut self, index: usize) -> Box<dyn SinkWriter> {
        self.1.writer(index)
    }

    fn commit(&mut self, epoch: Epoch, committables: &[Committable]) -> Result<(), SinkError> {
        self.1.commit(epoch, committables)
    }
}

/// A job that sends, and what there was when it began.
struct Run {
    job: Job,
    /// Where it began; 0 is the beginning of the log.
    from: u64,
    told: BTreeMap<String, String>,
}

/// Starts a job whose only checkpoint is that of its stop; returns when its source has sent.
async fn run_with(storage: &Arc<MemoryStorage>, sends: u64, found: Found, workers: usize) -> Run {
    let (told, heard) = crossbeam_channel::bounded(1);
    let storage = Arc::clone(storage) as Arc<dyn Storage>;
    let (plan, options) = one_table(Arc::clone(&storage), Counting { told, sends });
    let options = JobOptions { checkpoint_interval: Duration::from_secs(3_600), workers, ..options };
    let sink = CollectingSink { name: "table".to_owned(), collected: Collected::default(), last: Epoch::NONE };
    let sinks: Vec<Box<dyn Sink>> = vec![Box::new(Says(found, sink))];
    let outlook = foresee(&plan, &sinks, &storage).expect("it can be foreseen");
    let job = Job::start(plan, sinks, options).await.expect("starts");
    let notes = tokio::task::spawn_blocking(move || heard.recv_timeout(HANGS_AFTER)).await.expect("no panic");
    let text = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect::<String>();
    let told = notes.expect("the source sends").iter().map(|(key, value)| (text(key), text(value))).collect();
    Run { job, from: outlook.map_or(0, |outlook| outlook.reach.from.number()), told }
}

/// The same with a table that keeps nothing, and so fits every checkpoint.
async fn run(storage: &Arc<MemoryStorage>, sends: u64) -> Run {
    run_with(storage, sends, Found::Unkept, 2).await
}

/// Runs and stops; returns the number of the manifest with the checkpoint of the stop.
async fn run_and_stop(storage: &Arc<MemoryStorage>, sends: u64) -> u64 {
    run(storage, sends).await.job.stop().await.expect("stops");
    newest_checkpoint(storage)
}

fn newest_checkpoint(storage: &Arc<MemoryStorage>) -> u64 {
    let manifests = store(storage).read_all().expect("readable");
    let whole = manifests.values().rev().filter_map(|found| found.whole());
    whole
        .filter(|manifest| manifest.checkpoint().is_some())
        .map(|manifest| manifest.number)
        .next()
        .expect("one is made")
}

fn store(storage: &Arc<MemoryStorage>) -> Store {
    Store::new(Arc::clone(storage) as Arc<dyn Storage>)
}

/// Where a checkpoint has its notes.
fn part_of(storage: &Arc<MemoryStorage>, number: u64) -> Part {
    let manifest = store(storage).read(number).expect("readable");
    manifest.checkpoint().expect("a checkpoint").partitions[0].notes.clone().expect("it has notes")
}

fn expected(sent: u8) -> BTreeMap<String, String> {
    let mut count = String::from(char::from(sent));
    count.push_str(&"\0".repeat(7));
    BTreeMap::from([("sent".to_owned(), count), (format!("passing {sent}"), "here".to_owned())])
}

#[tokio::test(flavor = "multi_thread")]
async fn notes_are_there_again_from_the_log_from_a_checkpoint_and_from_both() {
    let storage = Arc::new(MemoryStorage::default());
    let first = run(&storage, 3).await;
    assert!(first.told.is_empty(), "{:?}", first.told);
    let again = run(&Arc::new(storage.copy()), 0).await;
    assert_eq!((again.from, again.told), (0, expected(3)), "from the log");
    first.job.stop().await.expect("stops");
    let one = newest_checkpoint(&storage);
    let second = run(&storage, 5).await;
    assert_eq!((second.from, second.told), (one, expected(3)), "from the checkpoint of the stop");
    let again = run(&Arc::new(storage.copy()), 0).await;
    assert_eq!((again.from, again.told), (one, expected(8)), "from a checkpoint and the log behind it");
    second.job.stop().await.expect("stops");
    let two = newest_checkpoint(&storage);
    let three = run_and_stop(&storage, 0).await;
    assert!(one < two && two < three);
    assert_eq!(part_of(&storage, two), part_of(&storage, three), "what has not changed is named, not written again");
    let last = run(&storage, 0).await;
    assert_eq!((last.from, last.told), (three, expected(8)));
}

#[tokio::test(flavor = "multi_thread")]
async fn notes_are_the_same_whichever_checkpoint_a_start_can_use_and_however_many_workers() {
    let storage = Arc::new(MemoryStorage::default());
    let one = run_and_stop(&storage, 3).await;
    let two = run_and_stop(&storage, 5).await;
    let _killed = run(&storage, 2).await;
    let damage = |storage: &MemoryStorage, number: u64, permille: u64| -> Result<(), StorageError> {
        let Part { file, offset, length, .. } = part_of(&Arc::new(storage.copy()), number);
        let path = format!("checkpoint/state/{file}");
        let mut bytes = storage.get(&path)?.to_vec();
        let at = (offset + length * permille / 1_000) as usize;
        bytes[at] ^= 1 << (at % 8);
        storage.put(&path, &bytes)
    };
    for (permille, workers) in [(0, 1), (140, 2), (333, 3), (500, 4), (750, 1), (999, 2)] {
        let copy = Arc::new(storage.copy());
        damage(&copy, two, permille).expect("memory");
        let again = run_with(&copy, 0, Found::Unkept, workers).await;
        assert_eq!((again.from, again.told), (one, expected(10)), "damaged at {permille} ‰, {workers} workers");
        let copy = Arc::new(storage.copy());
        damage(&copy, one, permille).expect("memory");
        damage(&copy, two, permille).expect("memory");
        let again = run_with(&copy, 0, Found::Unkept, workers).await;
        assert_eq!((again.from, again.told), (0, expected(10)), "both damaged at {permille} ‰, {workers} workers");
    }
    let rebuilt = Found::Changed { what: "the view was changed".to_owned() };
    let again = run_with(&Arc::new(storage.copy()), 0, rebuilt, 3).await;
    assert_eq!((again.from, again.told), (0, expected(10)), "a table is filled again");
    let copy = Arc::new(storage.copy());
    go_back(&copy, one);
    let again = run(&copy, 0).await;
    assert_eq!((again.from, again.told), (one, expected(10)), "somebody went back");
}

/// Decides what `tidemill restore` does: to go on from an older checkpoint.
fn go_back(storage: &Arc<MemoryStorage>, number: u64) {
    let store = store(storage);
    let newest = store.numbers().expect("listed").pop().expect("one is there");
    let (target, newest) = (store.read(number).expect("readable"), store.read(newest).expect("readable"));
    let manifest = Manifest {
        number: newest.number + 1,
        parent: Some(newest.number),
        epoch: target.epoch,
        holds: Holds::Refers(number),
        tables: BTreeMap::new(),
        rewound_to: Some(target.epoch),
        ..newest
    };
    store.write(manifest).expect("written");
}
