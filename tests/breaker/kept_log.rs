//! Keeps what the program deletes: a copy of each segment of its log, for the verdict to read.
//!
//! A thread looks into the log's folder all the time. A segment that has a successor changes no more, and is copied; the
//! last one is copied when the program is down. Checkpoints keep a segment for much longer than a look takes.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks. Three checkpoints, which keep a segment, take several times as long.
const LOOK: Duration = Duration::from_millis(10);

/// A log folder whose segments are kept. Dropping it ends the thread.
pub(super) struct KeptLog {
    copies: Arc<Mutex<Copies>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The copies, and of which file each one is.
struct Copies {
    log: PathBuf,
    kept: PathBuf,
    of: HashMap<String, (u64, u64)>,
    is_held: bool,
}

impl KeptLog {
    /// Begins to keep the segments of `log` in `kept`.
    pub(super) fn begin(log: PathBuf, kept: PathBuf) -> KeptLog {
        fs::create_dir_all(&kept).expect("a writable folder");
        let copies = Arc::new(Mutex::new(Copies { log, kept, of: HashMap::new(), is_held: false }));
        let stop = Arc::new(AtomicBool::new(false));
        let (looking, stopped) = (Arc::clone(&copies), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                looking.lock().expect("no look panics").look(false);
                std::thread::sleep(LOOK);
            }
        });
        KeptLog { copies, stop, thread: Some(thread) }
    }

    /// Keeps the thread away from the folder, or lets it look again: a disk that is taken away may not be in use.
    pub(super) fn hold(&self, is_held: bool) {
        self.copies.lock().expect("no look panics").is_held = is_held;
    }

    /// Copies the last segment too; the program is down. Returns where the copies are.
    pub(super) fn keep(&self) -> PathBuf {
        let mut copies = self.copies.lock().expect("no look panics");
        copies.look(true);
        copies.kept.clone()
    }
}

impl Drop for KeptLog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // A look that has panicked has failed the test already.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Copies {
    /// Copies what is new. What goes away meanwhile was copied before, or is looked for again.
    fn look(&mut self, is_down: bool) {
        if self.is_held {
            return;
        }
        // Killed before it made its log, there is none.
        let Ok(entries) = fs::read_dir(&self.log) else { return };
        let mut segments: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        segments.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        segments.sort();
        if !is_down {
            segments.pop();
        }
        for segment in segments {
            let Ok(found) = fs::metadata(&segment) else { continue };
            let name = segment.file_name().and_then(|name| name.to_str()).expect("a plain name").to_owned();
            // After a loss of power another file may have the same name: the old one was never durable.
            let now = (found.ino(), found.len());
            if self.of.get(&name) != Some(&now) && copy(&segment, &self.kept.join(&name)) {
                self.of.insert(name, now);
            }
        }
    }
}

fn copy(from: &Path, to: &Path) -> bool {
    fs::read(from).is_ok_and(|bytes| fs::write(to, bytes).is_ok())
}
