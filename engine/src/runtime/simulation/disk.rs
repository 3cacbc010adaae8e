//! A disk whose callers take turns, and that tells a test what happens on it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::turns;
use crate::storage::simulated::Call;
use crate::storage::{Disk, DiskInterposer, InterposedDisk};

/// Something on the disk that a test wants to see, and may make an image of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment<'a> {
    /// A file or a folder is about to be synced.
    BeforeSync(&'a Path),
    /// It was synced, whatever came of it.
    AfterSync(&'a Path),
    /// A file is about to be removed.
    BeforeRemove(&'a Path),
}

/// What looks at each [`Moment`], on the thread that makes the call.
pub type Watch = Arc<dyn Fn(Moment<'_>) + Send + Sync>;

/// Lets the callers of a disk take turns: before some calls the turn is passed, so that the calls of several threads mix.
/// `watch` sees what happens on it.
///
/// Never while a folder is made or listed: [`LocalStorage`](crate::storage::LocalStorage) holds a lock then, and a thread
/// that waits for a lock keeps its turn.
pub fn taking_turns(disk: Arc<dyn Disk>, watch: Option<Watch>) -> Arc<dyn Disk> {
    Arc::new(InterposedDisk::new(disk, Arc::new(Turning { watch })))
}

struct Turning {
    watch: Option<Watch>,
}

impl Turning {
    fn see(&self, moment: Moment<'_>) {
        if let Some(watch) = &self.watch {
            watch(moment);
        }
    }
}

impl DiskInterposer for Turning {
    fn around<T>(&self, call: Call, path: &Path, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match call {
            Call::CreateFolder | Call::List | Call::Metadata | Call::SyncFolder | Call::SetLen | Call::Lock => {}
            Call::Create | Call::Open | Call::Read | Call::Write => turns::pass_sometimes(),
            Call::SyncFile | Call::Link | Call::Rename | Call::Remove => turns::pass_sometimes(),
        }
        match call {
            Call::SyncFile | Call::SyncFolder => {
                self.see(Moment::BeforeSync(path));
                let synced = run();
                self.see(Moment::AfterSync(path));
                synced
            }
            Call::Remove => {
                self.see(Moment::BeforeRemove(path));
                run()
            }
            _ => run(),
        }
    }
}
