//! Following a folder: new files, files that grow, files that are rotated.
//!
//! What is read goes into the log itself, and with it, in the same record, how far the file was read: so a replay needs no file,
//! and after a crash each line is there once.
//!
//! ```text
//!   look at the folder ─► read what is new, a piece of each file in turn ─► wait for `poll_interval` ─► look …
//!                                     │
//!                                     └─► one record of the log: lines, and the note { file, place, marks }
//! ```
//!
//! The folder is looked at, not watched: that works on every file system, also over a network. A partition is the name by which
//! a file was found; after a rotation the new file goes on with it.
//!
//! - [`folder`]: which files are known, and whose turn it is
//! - [`listing`]: what a look at the folder shows
//! - [`copies`]: files that hold what was read of another one
//! - [`followed`]: one file, and its next piece
//! - [`marks`]: by which bytes a file is known again

mod folder;
mod listing;

mod copies;
mod followed;
mod marks;

use std::sync::Arc;
use std::time::Duration;

use tidemill_engine::source::{Chunk, Intake, IntakeError, Resume, SourceError, Stop};
use tokio::time::Instant;

use self::folder::{Folder, Taken};
use super::{Shared, blocking};
use crate::options::{OptionError, Options};
use crate::receipts::Receipts;

/// How often the folder is looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest and the longest interval.
const POLL_INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);

/// Nobody has written to a file for so long that may be a copy: then it is a whole one.
const SETTLE: Duration = Duration::from_secs(1);

/// What becomes of a file that does not hold any more what was read of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnTruncation {
    Read,
    Fail,
}

/// How a folder is followed.
#[derive(Clone, Copy, Debug)]
pub struct Following {
    poll_interval: Duration,
    on_truncation: OnTruncation,
    /// Looks without a change after which a file that may be a copy is whole.
    settle_scans: u32,
    /// Looks without a change after which a line without an end is taken; never without.
    line_scans: Option<u32>,
}

impl Following {
    /// Takes option `follow`, and if it is `'true'` those that belong to it: `poll_interval`, `truncated` (`'read'` or `'fail'`)
    /// and `line_timeout`.
    pub fn take(options: &mut Options) -> Result<Option<Following>, OptionError> {
        if options.choice("follow", &[("true", true), ("false", false)])? != Some(true) {
            return Ok(None);
        }
        let poll_interval = options.duration("poll_interval")?.unwrap_or(POLL_INTERVAL);
        if !POLL_INTERVALS.contains(&poll_interval) {
            return Err(OptionError::new("poll_interval", "is not between '10 ms' and '1 hour'"));
        }
        let on_truncation =
            options.choice("truncated", &[("read", OnTruncation::Read), ("fail", OnTruncation::Fail)])?;
        let line_timeout = options.duration_or_none("line_timeout")?.flatten();
        let scans = |time: Duration| {
            u32::try_from(time.as_millis().div_ceil(poll_interval.as_millis().max(1))).unwrap_or(u32::MAX)
        };
        let on_truncation = on_truncation.unwrap_or(OnTruncation::Read);
        let (settle_scans, line_scans) = (scans(SETTLE), line_timeout.map(scans));
        Ok(Some(Following { poll_interval, on_truncation, settle_scans, line_scans }))
    }

    fn takes_truncated(&self) -> bool {
        self.on_truncation == OnTruncation::Read
    }
}

/// Follows until `stop`.
pub(super) async fn run(
    shared: Arc<Shared>,
    following: Following,
    intake: Arc<dyn Intake>,
    resume: Vec<Resume>,
    stop: Stop,
) -> Result<(), SourceError> {
    let mut folder = Folder::new(shared, following, &resume)?;
    let mut receipts = Receipts::default();
    intake.set_connected(true);
    'job: while !stop.is_cancelled() {
        let look_again = Instant::now() + following.poll_interval;
        folder = blocking(move || {
            folder.scan();
            Ok(folder)
        })
        .await?;
        loop {
            let (still, read) = blocking(move || {
                let mut folder = folder;
                let read = folder.read();
                Ok((folder, read))
            })
            .await?;
            folder = still;
            folder.take_errors().into_iter().for_each(|kind| intake.count_error(kind));
            // Notes first: a file that begins anew must not look as if what is read of it now stood behind what it held.
            let notes = folder.take_notes();
            let read = read?;
            let is_all = read.is_none();
            for taken in notes.into_iter().chain(read) {
                match append(&*intake, taken, &stop).await {
                    Some(Ok(receipt)) => receipts.push(receipt).await?,
                    Some(Err(IntakeError::Stopping)) | None => break 'job,
                    Some(Err(error)) => return Err(error.into()),
                }
            }
            if is_all || Instant::now() >= look_again {
                break;
            }
        }
        tokio::select! {
            () = tokio::time::sleep_until(look_again) => {}
            () = stop.cancelled() => {}
        }
    }
    Ok(receipts.all().await?)
}

async fn append(
    intake: &dyn Intake,
    taken: Taken,
    stop: &Stop,
) -> Option<Result<tidemill_engine::source::Receipt, IntakeError>> {
    let chunk = Chunk::Noted(taken.messages, taken.notes);
    tokio::select! {
        queued = intake.append(&taken.partition, chunk) => Some(queued),
        () = stop.cancelled() => None,
    }
}

#[cfg(test)]
mod tests;
