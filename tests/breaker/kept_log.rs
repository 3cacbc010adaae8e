//! Keeps what the program deletes: each segment of its log, for the verdict to read.
//!
//! A thread looks into the log's folder all the time, and gives each segment a second name as soon as it is there: whatever
//! the program does with its own, the bytes stay. On a disk that can lose its power, which is another file system, a segment
//! is copied: one that has a successor changes no more, and the last one waits until the program is down. Checkpoints keep
//! a segment for much longer than a look takes.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks. A segment fills for longer, and three checkpoints keep it.
const LOOK: Duration = Duration::from_millis(10);

/// A log folder whose segments are kept. Dropping it ends the thread.
pub(super) struct KeptLog {
    copies: Arc<Mutex<Copies>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What is kept; for copies, of which file each one is.
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
        let last = segments.len().saturating_sub(1);
        for (at, segment) in segments.iter().enumerate() {
            let Ok(found) = fs::metadata(segment) else { continue };
            let name = segment.file_name().and_then(|name| name.to_str()).expect("a plain name").to_owned();
            let kept = self.kept.join(&name);
            if is_linked(&kept, found.ino(), found.dev()) || link(segment, &kept) {
                continue;
            }
            // After a loss of power another file may have the same name: the old one was never durable.
            let now = (found.ino(), found.len());
            let is_due = is_down || at < last;
            if is_due && self.of.get(&name) != Some(&now) && copy(segment, &kept) {
                self.of.insert(name, now);
            }
        }
    }
}

/// Says whether a name that is kept is one of this very file.
fn is_linked(kept: &Path, ino: u64, dev: u64) -> bool {
    fs::metadata(kept).is_ok_and(|kept| kept.ino() == ino && kept.dev() == dev)
}

/// Gives a file a second name, in place of another file that had it before; `false` where that cannot be.
fn link(from: &Path, to: &Path) -> bool {
    match fs::hard_link(from, to) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let beside = to.with_extension("link");
            fs::hard_link(from, &beside).and_then(|()| fs::rename(&beside, to)).is_ok()
        }
        linked => linked.is_ok(),
    }
}

fn copy(from: &Path, to: &Path) -> bool {
    fs::read(from).is_ok_and(|bytes| fs::write(to, bytes).is_ok())
}
