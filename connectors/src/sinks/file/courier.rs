//! The courier of a `file` sink: claims rows when a file is due, makes it, and puts it where it belongs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidemill_engine::error::with_causes;
use tidemill_engine::source::Stop;
use tidemill_engine::storage::{LocalStorage, Storage, StorageError};
use tokio::time::{Instant, sleep_until};

use super::encode::{FileFormat, pieces};
use crate::outbox::{Courier, DeliveryError, Desk, DeskEvent, Progress, Row};

/// Which files a sink makes, and when.
#[derive(Clone, Debug)]
pub(super) struct Filing {
    pub(super) folder: PathBuf,
    pub(super) format: FileFormat,
    pub(super) roll_bytes: u64,
    pub(super) roll_interval: Duration,
}

/// See the module.
pub(super) struct FileCourier {
    filing: Filing,
    /// The folder, once it could be written to; what a crash has left half-written in it is gone then.
    storage: Option<Arc<LocalStorage>>,
    /// When the first row was seen that waits for its file.
    waiting_since: Option<Instant>,
    /// Rows of the claim, as far as they were taken from the desk.
    taken: Vec<Row>,
}

impl FileCourier {
    pub(super) fn new(filing: Filing) -> FileCourier {
        FileCourier { filing, storage: None, waiting_since: None, taken: Vec::new() }
    }

    /// Waits until a file is due; `false` if it is to stop.
    async fn due(&mut self, desk: &mut Desk, stop: &Stop) -> bool {
        let closing = desk.closing();
        loop {
            let waiting = desk.files(self.filing.roll_bytes.saturating_mul(2));
            let now = Instant::now();
            let Some(files) = waiting else {
                self.waiting_since = None;
                tokio::select! {
                    () = desk.changed() => continue,
                    () = stop.cancelled() => return false,
                }
            };
            let due_at = *self.waiting_since.get_or_insert(now) + self.filing.roll_interval;
            if files.bytes >= self.filing.roll_bytes || due_at <= now || closing.is_cancelled() {
                return true;
            }
            tokio::select! {
                () = desk.changed() => {}
                () = sleep_until(due_at) => {}
                () = closing.cancelled() => {}
                () = stop.cancelled() => return false,
            }
        }
    }

    /// Takes the rows up to a number from the desk; `false` if it is to stop.
    async fn take_rows(&mut self, desk: &mut Desk, end: u64, stop: &Stop) -> Result<bool, DeliveryError> {
        while self.taken.last().is_none_or(|last| last.number + 1 < end) {
            tokio::select! {
                event = desk.next(true) => {
                    if let DeskEvent::Row(row) = event? {
                        self.taken.push(row);
                    }
                }
                () = stop.cancelled() => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Makes the files of what was taken, and puts them into the folder. Those that are there already stay.
    async fn put(&mut self, desk: &Desk) -> Result<(), DeliveryError> {
        let (filing, rows, before) = (self.filing.clone(), self.taken.clone(), Note::read(desk.session()));
        let stem = format!("{}-{}", desk.name(), desk.job().get(..8).unwrap_or_default());
        let known = self.storage.take();
        let put = tokio::task::spawn_blocking(move || {
            let storage = match known {
                Some(storage) => storage,
                None => open(&filing.folder)?,
            };
            for piece in pieces(&rows)? {
                let stem = format!("{stem}-{:012}-{:012}", piece.first_row, piece.end_row);
                // A process before may have made it under another extension or in another folder.
                if before.as_ref().is_some_and(|note| note.has_made(&stem, &filing)) {
                    continue;
                }
                let bytes = filing.format.write(&piece.batches)?;
                match storage.put_new(&format!("{stem}.{}", filing.format.extension()), &bytes) {
                    // Its name is that of these rows and of no others.
                    Ok(()) | Err(StorageError::Exists { .. }) => {}
                    Err(error) => return Err(with_causes(&error)),
                }
            }
            Ok(storage)
        });
        let put = put.await.map_err(|error| DeliveryError::Failed(error.to_string()))?;
        self.storage = Some(put.map_err(DeliveryError::Failed)?);
        Ok(())
    }
}

/// Opens the folder, and removes what a crash has left in it.
fn open(folder: &Path) -> Result<Arc<LocalStorage>, String> {
    let storage = LocalStorage::open(folder).map_err(|error| with_causes(&error))?;
    storage.remove_orphans().map_err(|error| with_causes(&error))?;
    Ok(Arc::new(storage))
}

#[async_trait::async_trait]
impl Courier for FileCourier {
    async fn deliver(&mut self, desk: &mut Desk, stop: &Stop) -> Result<(), DeliveryError> {
        loop {
            let end = match desk.claimed() {
                Some(claimed) => claimed.end,
                None => {
                    if !self.due(desk, stop).await {
                        return Ok(());
                    }
                    let Some(files) = desk.hold_files(self.filing.roll_bytes) else { continue };
                    desk.claim(files.end_row, &Note::of(&self.filing).write()).await?;
                    files.end_row
                }
            };
            if !self.take_rows(desk, end, stop).await? {
                return Ok(());
            }
            self.put(desk).await?;
            self.taken.clear();
            self.waiting_since = None;
            desk.gauges().set_connected(true);
            desk.confirm(Progress { delivered: end, received: end });
            desk.flush().await?;
        }
    }
}

/// What was said with a claim: where its file would be, and of which kind.
struct Note {
    extension: String,
    folder: PathBuf,
}

impl Note {
    fn of(filing: &Filing) -> Note {
        Note { extension: filing.format.extension().to_owned(), folder: filing.folder.clone() }
    }

    fn write(&self) -> String {
        format!("file {} {}", self.extension, self.folder.display())
    }

    fn read(text: &str) -> Option<Note> {
        let (extension, folder) = text.strip_prefix("file ")?.split_once(' ')?;
        Some(Note { extension: extension.to_owned(), folder: folder.into() })
    }

    /// Says whether a file of another kind, or elsewhere, has these rows already.
    fn has_made(&self, stem: &str, filing: &Filing) -> bool {
        if self.extension == filing.format.extension() && self.folder == filing.folder {
            return false;
        }
        let name = format!("{stem}.{}", self.extension);
        let listed = LocalStorage::existing(&self.folder).and_then(|storage| storage.list(""));
        listed.is_ok_and(|entries| entries.iter().any(|entry| entry.name == name))
    }
}
