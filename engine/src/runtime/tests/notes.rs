//! What a source has noted is there again after a stop, after a crash, and after both.

use super::*;
use crate::source::Note;

/// Notes how often it has sent, and forgets a note of the time before; says what it was told at its start.
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
        self.told.send(notes).expect("the test listens");
        stop.cancelled().await;
        Ok(())
    }
}

/// Starts a job, and returns it with what its source was told, once that has sent.
async fn run(storage: &Arc<MemoryStorage>, sends: u64) -> (Job, BTreeMap<String, String>) {
    let (told, heard) = crossbeam_channel::bounded(1);
    let (plan, options) = one_table(Arc::clone(storage) as Arc<dyn Storage>, Counting { told, sends });
    let job = Job::start(plan, vec![Box::new(collecting().0)], options).await.expect("starts");
    let notes = tokio::task::spawn_blocking(move || heard.recv_timeout(HANGS_AFTER)).await.expect("no panic");
    let text = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect::<String>();
    let notes = notes.expect("the source sends").iter().map(|(key, value)| (text(key), text(value))).collect();
    (job, notes)
}

fn expected(sent: u8) -> BTreeMap<String, String> {
    let mut count = String::from(char::from(sent));
    count.push_str(&"\0".repeat(7));
    BTreeMap::from([("sent".to_owned(), count), (format!("passing {sent}"), "here".to_owned())])
}

#[tokio::test(flavor = "multi_thread")]
async fn notes_are_there_again_from_the_log_from_a_checkpoint_and_from_both() {
    let storage = Arc::new(MemoryStorage::default());
    let (first, told) = run(&storage, 3).await;
    assert!(told.is_empty(), "{told:?}");
    let crashed = Arc::new(storage.copy());
    assert_eq!(run(&crashed, 0).await.1, expected(3), "from the log");
    first.stop().await.expect("stops");
    let (second, told) = run(&storage, 5).await;
    assert_eq!(told, expected(3), "from the checkpoint of the stop");
    let crashed = Arc::new(storage.copy());
    assert_eq!(run(&crashed, 0).await.1, expected(8), "from a checkpoint and the log behind it");
    second.stop().await.expect("stops");
    let (third, told) = run(&storage, 0).await;
    assert_eq!(told, expected(8));
    third.stop().await.expect("stops");
    assert_eq!(run(&storage, 1).await.1, expected(8), "a checkpoint names what has not changed");
}
