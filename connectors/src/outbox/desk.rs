//! The desk: hands rows to a courier, in order, and remembers what the courier confirms.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use tidemill_engine::seeded_bugs::{SeededBug, is_planted};
use tidemill_engine::source::Stop;
use tidemill_engine::storage::StorageError;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::papers::{About, Cursor, VERSION};
use super::rows::Row;
use super::shelf::{Files, Shelf};
use super::{DeliveryError, Gauges};

/// How far delivery came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Everything below is delivered.
    pub delivered: u64,
    /// Everything below is delivered, or the other side has received it and waits for a word that it may pass it on.
    pub received: u64,
}

/// What a courier hears from its desk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeskEvent {
    /// The next row to deliver.
    Row(Row),
    /// What was confirmed is durable, up to here.
    Durable(Progress),
}

/// Where a courier gets its rows.
pub struct Desk {
    shelf: Arc<Shelf>,
    about: About,
    changed: watch::Receiver<()>,
    /// The number of the next row to hand out, or a smaller one.
    next: u64,
    rows: VecDeque<Row>,
    reading: Option<JoinHandle<Result<Vec<Row>, DeliveryError>>>,
    /// What is to be written.
    confirmed: Cursor,
    writing: Option<JoinHandle<Result<Cursor, StorageError>>>,
    durable: Cursor,
    is_told: bool,
    closing: Stop,
}

impl Desk {
    pub(super) fn new(shelf: Arc<Shelf>, about: About, closing: Stop) -> Desk {
        let (cursor, changed) = (shelf.cursor(), shelf.watch());
        Desk {
            about,
            changed,
            next: cursor.delivered,
            rows: VecDeque::new(),
            reading: None,
            confirmed: cursor.clone(),
            writing: None,
            durable: cursor,
            is_told: true,
            closing,
            shelf,
        }
    }

    /// Returns what is durable: rows from `delivered` on may have been sent by a process before.
    pub fn durable(&self) -> Progress {
        Progress { delivered: self.durable.delivered, received: self.durable.received }
    }

    /// Rows from this number on have not been sent yet: [`WINDOW_ROWS`](super::WINDOW_ROWS) behind the first row that is not
    /// delivered, as far as the cursor is durable.
    pub fn window_end(&self) -> u64 {
        self.shelf.window_end()
    }

    /// Returns the session that the durable progress belongs to, as the courier has noted it; empty if none was begun.
    pub fn session(&self) -> &str {
        &self.durable.session
    }

    /// Returns how often the content of the outbox was replaced: rows of another content are no part of a session.
    pub fn generation(&self) -> u64 {
        self.about.generation
    }

    /// Returns a name for rows `[first, end)` that no other rows ever have, the same after a crash: a receiver that
    /// remembers names takes them once.
    pub fn batch_id(&self, first: u64, end: u64) -> String {
        format!("{}-{}-{first}-{end}", self.about.job, self.about.name)
    }

    /// Returns the log that the rows come from.
    pub fn job(&self) -> &str {
        &self.about.job
    }

    /// Returns the name of the sink.
    pub fn name(&self) -> &str {
        &self.about.name
    }

    /// Resolves when the sink is being closed: what waits for more rows should wait no longer.
    pub fn closing(&self) -> Stop {
        self.closing.clone()
    }

    /// Returns the numbers of the rows that were claimed, by this process or one before, and are not delivered.
    pub fn claimed(&self) -> Option<Range<u64>> {
        if is_planted(SeededBug::ClaimForgotten) {
            return None;
        }
        // Durable as a claim, and not confirmed: what is confirmed needs no second delivery in this process.
        let rows = self.confirmed.delivered..self.durable.claimed;
        (!rows.is_empty()).then_some(rows)
    }

    /// Claims the rows up to `end`, durably: from now on they are delivered in the same pieces, whoever dies. What was
    /// confirmed is durable with it. `session` is the courier's own note, found again by [`Desk::session`].
    pub async fn claim(&mut self, end: u64, session: &str) -> Result<(), DeliveryError> {
        self.confirmed.claimed = end;
        self.note_session(session).await
    }

    /// Changes the courier's note; durable when this returns, with what was confirmed.
    pub async fn note_session(&mut self, session: &str) -> Result<(), DeliveryError> {
        session.clone_into(&mut self.confirmed.session);
        self.flush().await
    }

    /// Returns the whole files that wait behind what is confirmed, up to so many bytes, the first one in any case.
    pub fn files(&self, bytes_max: u64) -> Option<Files> {
        self.shelf.files_from(self.confirmed.delivered, bytes_max)
    }

    /// Does the same as [`Desk::files`] for files that are claimed next.
    pub fn hold_files(&self, bytes_max: u64) -> Option<Files> {
        self.shelf.hold_files(self.confirmed.delivered, bytes_max)
    }

    /// Says whether there is no row to hand out now.
    pub fn is_idle(&self) -> bool {
        let window_end = self.shelf.window_end();
        match self.rows.front() {
            Some(row) => row.number >= window_end,
            None if self.reading.is_some() => false,
            None => self.shelf.part_from(self.next).is_none_or(|(first_row, _)| first_row.max(self.next) >= window_end),
        }
    }

    /// Waits until rows come or go.
    pub async fn changed(&mut self) {
        if self.changed.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Where the courier says how it goes.
    pub fn gauges(&self) -> &Gauges {
        &self.shelf.gauges
    }

    /// Begins a session on which the other side has received nothing: durable when this returns.
    pub async fn begin_session(&mut self, session: &str) -> Result<(), DeliveryError> {
        self.confirmed.received = self.confirmed.delivered;
        self.note_session(session).await
    }

    /// Notes how far the courier came. [`DeskEvent::Durable`] says when it is durable.
    pub fn confirm(&mut self, progress: Progress) {
        self.confirmed.delivered = self.confirmed.delivered.max(progress.delivered);
        self.confirmed.received = self.confirmed.received.max(progress.received).max(self.confirmed.delivered);
    }

    /// Waits for the next thing to happen; rows only if they are wanted. May be dropped and called again.
    pub async fn next(&mut self, wants_row: bool) -> Result<DeskEvent, DeliveryError> {
        loop {
            self.write();
            if !self.is_told {
                self.is_told = true;
                return Ok(DeskEvent::Durable(self.durable()));
            }
            if wants_row && let Some(row) = self.take_row() {
                return Ok(DeskEvent::Row(row));
            }
            if wants_row {
                self.read();
            }
            tokio::select! {
                biased;
                written = finished(&mut self.writing) => {
                    self.writing = None;
                    self.note_written(written?);
                }
                read = finished(&mut self.reading) => {
                    self.reading = None;
                    self.rows = read?.into_iter().filter(|row| row.number >= self.next).collect();
                }
                changed = self.changed.changed() => {
                    if changed.is_err() {
                        return std::future::pending().await;
                    }
                }
            }
        }
    }

    /// Makes everything durable that was confirmed.
    pub async fn flush(&mut self) -> Result<(), DeliveryError> {
        while self.writing.is_some() || self.confirmed != self.durable {
            self.write();
            let written = finished(&mut self.writing).await;
            self.writing = None;
            self.note_written(written?);
        }
        Ok(())
    }

    fn note_written(&mut self, cursor: Cursor) {
        if cursor.delivered > self.durable.delivered {
            self.shelf.gauges.close_breaker();
        }
        self.durable = cursor;
        self.is_told = false;
    }

    fn take_row(&mut self) -> Option<Row> {
        let first = self.rows.front()?;
        if first.number >= self.shelf.window_end() {
            return None;
        }
        let row = self.rows.pop_front()?;
        self.next = row.number + 1;
        Some(row)
    }

    fn read(&mut self) {
        if !self.rows.is_empty() || self.reading.is_some() {
            return;
        }
        // Before the look: what changes after it wakes us.
        self.changed.mark_unchanged();
        if let Some((first_row, part)) = self.shelf.part_from(self.next) {
            let shelf = Arc::clone(&self.shelf);
            self.reading = Some(tokio::task::spawn_blocking(move || shelf.read(first_row, &part)));
        }
    }

    fn write(&mut self) {
        if self.writing.is_some() || self.confirmed == self.durable {
            return;
        }
        let cursor = Cursor { version: VERSION, ..self.confirmed.clone() };
        let shelf = Arc::clone(&self.shelf);
        self.writing = Some(tokio::task::spawn_blocking(move || shelf.write_cursor(&cursor).map(|()| cursor)));
    }
}

/// Waits for blocking work if there is some, otherwise for ever.
async fn finished<T, E>(work: &mut Option<JoinHandle<Result<T, E>>>) -> Result<T, DeliveryError>
where
    DeliveryError: From<E>,
{
    match work {
        None => std::future::pending().await,
        Some(work) => match work.await {
            Ok(outcome) => Ok(outcome?),
            Err(error) => Err(DeliveryError::Failed(format!("the outbox ended by an internal error: {error}"))),
        },
    }
}
