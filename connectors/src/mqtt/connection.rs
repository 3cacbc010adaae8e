//! The life of a connection after its handshake: one task, one loop, the same for both ends.
//!
//! ```text
//!                 ┌────────────── not reading while: an append waits, too many receipts are open, or the peer takes no answers
//!   socket ─read─►│ Inbox ─► Session ─► Intake::append ─► receipts (in order) ─► Session ─write─► socket
//!                 └────────────── acknowledgements and pings go on all the while
//!
//!   open ──(stop, good-bye, end of stream, takeover, violation, silence)──► draining ──(receipts in hand acknowledged)──► closed
//! ```
//!
//! Whatever ends a connection, what was received before is appended, and acknowledged if the peer still listens. It ends when
//! the last receipt is there, also if nobody listens any more: the next connection of the session takes for durable what it
//! finds in [`Remembered`].

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::FutureExt;
use futures::stream::{FuturesOrdered, StreamExt};
use tidemill_engine::source::{Appended, BoxFuture, Intake, IntakeError, Receipt, Stop};
use tokio::io::Interest;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

use super::codec::Header;
use super::inbox::{Inbox, Read};
use super::keep_alive::{Due, KeepAlive};
use super::listener::Mailbox;
use super::packet::{Violation, reason};
use super::remembered::Remembered;
use super::session::{Heard, Session};
use super::transport::Stream;
use super::write;
use crate::stall::{Patience, Stall};

/// Who takes one byte in [`STALL_TIME_MAX`](crate::stall::STALL_TIME_MAX) is slow, and not gone: radio may carry few.
pub(super) const PATIENCE: Patience = Patience::for_bytes(1);
/// How many chunks of one connection may wait to be durable. Reached when the disk is slower than the peer; then the socket's
/// own buffer fills, and the next read brings a larger chunk.
const RECEIPTS_MAX: usize = 256;
/// How many reads may follow each other. A peer that sends without a pause must not keep what it has sent from the log, nor
/// the task from others.
const READS_MAX: usize = 16;
/// How many bytes of answers may wait for a peer that does not read them.
const OUT_BYTES_MAX: usize = 256 << 10;
/// How long the last bytes may take, for a peer that does not read.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// The program stops.
    Stopped,
    /// Another connection took the client id over.
    TakenOver,
    /// The peer closed without a word.
    Closed,
    /// The peer said good-bye.
    Disconnected { code: u8, reason: Option<String> },
    /// The peer broke the protocol.
    Violation(Violation),
    /// The broker did not grant the subscription.
    Refused(String),
    /// The network failed.
    Io(io::Error),
    /// The log takes no more.
    Intake(IntakeError),
}

/// A connection in its loop.
pub(super) struct Connection<'c> {
    pub(super) stream: Stream,
    pub(super) inbox: Inbox,
    pub(super) session: Session,
    pub(super) keep_alive: KeepAlive,
    /// What becomes of a peer that reads nothing.
    pub(super) stall: Stall,
    /// When a SUBSCRIBE that waits for its answer has waited too long.
    pub(super) suback_by: Instant,
    pub(super) intake: &'c dyn Intake,
    pub(super) partition: &'c str,
}

impl Connection<'_> {
    /// Runs until the end; then [`Connection::take_remembered`], and [`Connection::close`]. `taken_over` ends it too;
    /// `subscribed` is called when a subscription is granted.
    pub(super) async fn run(&mut self, stop: &Stop, taken_over: &Stop, mut subscribed: impl FnMut()) -> End {
        let intake = self.intake;
        let stopped = stop.cancelled();
        let taken = taken_over.cancelled();
        let alarm = sleep_until(Instant::now());
        tokio::pin!(stopped, taken, alarm);
        let mut appending: Option<BoxFuture<'_, Result<Receipt, IntakeError>>> = None;
        let mut receipts: FuturesOrdered<Receipt> = FuturesOrdered::new();
        let mailbox = self.session.guest().map(|guest| Arc::clone(guest.mailbox()));
        // The handshake may have left packets behind.
        let mut end = self.decode(&mut subscribed);
        let mut broken = false;
        loop {
            if appending.is_none() {
                if self.inbox.has_packets() && end.is_none() && self.has_room(&receipts) {
                    end = self.decode(&mut subscribed);
                }
                if let Some(chunk) = self.session.take_batch() {
                    appending = Some(intake.append(self.partition, chunk));
                }
            }
            let mut has_more = false;
            if end.is_none() {
                match self.session.pump(Instant::now()) {
                    Ok(more) => has_more = more,
                    Err(violation) => end = Some(self.violated(violation)),
                }
            }
            let mut unread_until = None;
            if !broken {
                match self.flush() {
                    Ok(until) => unread_until = until,
                    Err(error) => {
                        broken = true;
                        end.get_or_insert(End::Io(error));
                    }
                }
            }
            broken |= matches!(end, Some(End::Io(_)));
            if end.is_some() && appending.is_none() && receipts.is_empty() {
                break;
            }
            if has_more
                && self.session.out.is_empty()
                && let Some(mailbox) = &mailbox
            {
                mailbox.bell.notify_one();
            }
            let reading = end.is_none() && appending.is_none() && !self.inbox.has_packets() && self.has_room(&receipts);
            let interest = match (reading, !broken && (!self.session.out.is_empty() || self.stream.has_unsent())) {
                (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
                (true, false) => Some(Interest::READABLE),
                (false, true) => Some(Interest::WRITABLE),
                (false, false) => None,
            };
            tokio::select! {
                biased;
                () = &mut taken, if end.is_none() => {
                    // Its last messages and its good-bye may be here already: a client that ends and comes back at once
                    // is not two, and leaves no will.
                    let last = if reading { self.read(&mut subscribed) } else { None };
                    end = Some(last.unwrap_or(End::TakenOver));
                }
                () = &mut stopped, if end.is_none() => end = Some(End::Stopped),
                Some(receipt) = receipts.next(), if !receipts.is_empty() => {
                    if let Err(error) = self.acknowledge(receipt, &mut receipts) {
                        let _ = self.flush();
                        return End::Intake(error);
                    }
                }
                appended = poll_option(&mut appending) => {
                    appending = None;
                    match appended {
                        Ok(receipt) => receipts.push_back(receipt),
                        // What was appended before is still answered, and acknowledged.
                        Err(IntakeError::Stopping) => end = Some(End::Intake(IntakeError::Stopping)),
                        Err(error) => return End::Intake(error),
                    }
                }
                ready = self.stream.ready(interest.unwrap_or(Interest::READABLE)), if interest.is_some() => {
                    match ready {
                        Ok(ready) if reading && (ready.is_readable() || ready.is_read_closed()) => {
                            end = self.read(&mut subscribed);
                        }
                        Ok(_) => {}
                        Err(error) => end = Some(End::Io(error)),
                    }
                }
                () = rung(mailbox.as_deref()), if end.is_none() => {}
                // The next try to write says that it has waited long enough.
                () = sleep_until(unread_until.unwrap_or_else(Instant::now)), if unread_until.is_some() => {}
                () = &mut alarm, if end.is_none() => match self.look_at_the_clock(reading) {
                    Ok(again_at) => alarm.as_mut().reset(again_at),
                    Err(last) => end = Some(last),
                },
            }
            self.count_errors();
        }
        self.count_errors();
        end.unwrap_or(End::Closed)
    }

    /// Returns what outlives the connection, which has ended so; nothing if the log has failed: then it is ahead of the log,
    /// and nothing may go on from it.
    pub(super) fn take_remembered(&mut self, end: &End) -> Option<Remembered> {
        let is_whole = !matches!(end, End::Intake(_));
        is_whole.then(|| self.session.take_remembered())
    }

    /// Writes the acknowledgements of a receipt, and of those that came with it: the receipts of one sync come together, and
    /// so do their acknowledgements, in one write.
    fn acknowledge(
        &mut self,
        first: Result<Appended, IntakeError>,
        receipts: &mut FuturesOrdered<Receipt>,
    ) -> Result<(), IntakeError> {
        let mut next = Some(first);
        while let Some(receipt) = next {
            receipt?;
            self.session.durable();
            next = receipts.next().now_or_never().flatten();
        }
        Ok(())
    }

    /// Sends a PINGREQ or gives the peer up if it is time; returns when to look again.
    fn look_at_the_clock(&mut self, reading: bool) -> Result<Instant, End> {
        let timed_out = |what: &str| End::Io(io::Error::new(io::ErrorKind::TimedOut, what));
        let now = Instant::now();
        if !reading {
            // Who is not listened to is not silent.
            self.keep_alive.heard(now);
        }
        let mut due = self.keep_alive.due(now);
        if due == Due::Ping {
            write::pingreq(&mut self.session.out);
            due = self.keep_alive.due(now);
        }
        let subscribing = self.session.is_subscribing();
        match due {
            Due::At(_) if subscribing && now >= self.suback_by => {
                Err(timed_out("the broker did not answer our SUBSCRIBE"))
            }
            Due::At(until) if subscribing => Ok(until.min(self.suback_by)),
            Due::At(until) => Ok(until),
            Due::Ping => Ok(now),
            Due::Dead if self.session.is_client() => Err(timed_out("the broker did not answer a PINGREQ")),
            Due::Dead => {
                self.session.errors.push(Violation::KeepAlive.kind());
                Err(End::Violation(Violation::KeepAlive))
            }
        }
    }

    /// Says whether more may be taken from the peer.
    fn has_room(&self, receipts: &FuturesOrdered<Receipt>) -> bool {
        receipts.len() < RECEIPTS_MAX && self.session.out.len() < OUT_BYTES_MAX && !self.session.is_behind()
    }

    /// Reads all there is, up to a full batch or [`READS_MAX`].
    fn read(&mut self, subscribed: &mut impl FnMut()) -> Option<End> {
        let now = Instant::now();
        for _ in 0..READS_MAX {
            match self.inbox.fill(&mut self.stream) {
                Ok(Read::Nothing) => return None,
                Ok(Read::End) => return Some(End::Closed),
                Ok(Read::Some) => self.keep_alive.heard(now),
                Err(error) => return Some(End::Io(error)),
            }
            let end = self.decode(subscribed);
            if end.is_some() || self.session.batch_is_full() || self.session.out.len() >= OUT_BYTES_MAX {
                return end;
            }
        }
        None
    }

    fn decode(&mut self, subscribed: &mut impl FnMut()) -> Option<End> {
        match self.inbox.decode(&mut self.session) {
            Ok(Heard::Nothing) => None,
            Ok(Heard::Subscribed) => {
                subscribed();
                None
            }
            Ok(Heard::Refused(why)) => Some(End::Refused(why)),
            Ok(Heard::Disconnected { code, reason }) => Some(End::Disconnected { code, reason }),
            Err(violation) => Some(self.violated(violation)),
        }
    }

    fn violated(&mut self, violation: Violation) -> End {
        self.session.errors.push(violation.kind());
        End::Violation(violation)
    }

    /// Writes as much as the socket takes now; returns until when to wait for the peer to read the rest, if there is one.
    fn flush(&mut self) -> io::Result<Option<Instant>> {
        let before = self.stream.sent_bytes();
        self.write()?;
        let taken = usize::try_from(self.stream.sent_bytes() - before).unwrap_or(usize::MAX);
        let has_unsent = !self.session.out.is_empty() || self.stream.has_unsent();
        if taken == 0 && !has_unsent {
            return Ok(None);
        }
        self.stall.tried(taken, has_unsent, Instant::now()).map_err(|stalled| {
            self.session.errors.push("stalled");
            stalled.into()
        })
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.session.out.is_empty() {
            match self.stream.try_write(&self.session.out) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.session.out.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.session.is_client() {
                self.keep_alive.sent(Instant::now());
            }
        }
        // The capacity goes with it: an idle connection holds nothing.
        self.session.out = bytes::BytesMut::new();
        self.stream.try_flush()
    }

    fn count_errors(&mut self) {
        for kind in self.session.errors.drain(..) {
            self.intake.count_error(kind);
        }
        for what in self.session.told.drain(..) {
            warn!(partition = self.partition, "{what}");
        }
    }

    /// Says good-bye where the peer still listens, and waits a little for it to close.
    pub(super) async fn close(mut self, end: &End) {
        let listens = match end {
            End::Io(_) => return,
            // When the log has failed nothing is said that could be taken for an answer.
            End::Intake(error) if !matches!(error, IntakeError::Stopping) => return,
            End::Stopped if self.session.is_client() => {
                self.session.farewell(reason::SUCCESS, "");
                true
            }
            End::Stopped => {
                self.session.farewell(reason::SHUTTING_DOWN, "tidemill is shutting down");
                true
            }
            End::TakenOver => {
                self.session.farewell(reason::TAKEN_OVER, "another connection has this client id");
                true
            }
            End::Violation(violation) => {
                self.session.farewell(violation.code(), &violation.to_string());
                true
            }
            End::Intake(_) | End::Refused(_) => {
                self.session.farewell(reason::SUCCESS, "");
                true
            }
            _ => false,
        };
        let _ = timeout(CLOSE_TIMEOUT, async {
            self.stream.write_all(&self.session.out).await?;
            self.stream.shutdown().await
        })
        .await;
        if listens {
            self.stream.linger().await;
        }
    }
}

/// Why the first packet of a connection did not come.
#[derive(Debug)]
pub(super) enum NoPacket {
    Closed,
    Io(io::Error),
    Violation(Violation),
}

/// Waits for the first packet of a connection, which begins with the byte `expected`.
pub(super) async fn first_packet(
    stream: &mut Stream,
    inbox: &mut Inbox,
    expected: u8,
) -> Result<(Header, Bytes), NoPacket> {
    loop {
        if let Some(packet) = inbox.first_packet(expected).map_err(NoPacket::Violation)? {
            return Ok(packet);
        }
        stream.ready(Interest::READABLE).await.map_err(NoPacket::Io)?;
        if let Read::End = inbox.fill(stream).map_err(NoPacket::Io)? {
            return Err(NoPacket::Closed);
        }
    }
}

/// Waits until something has come for a subscriber; for ever where there is none.
async fn rung(mailbox: Option<&Mailbox>) {
    match mailbox {
        Some(mailbox) => mailbox.bell.notified().await,
        None => std::future::pending().await,
    }
}

/// Resolves with the future if there is one, otherwise never.
async fn poll_option<T>(future: &mut Option<BoxFuture<'_, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
