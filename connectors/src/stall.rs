//! Peers that do not take what is written for them.
//!
//! ```text
//!   write ─► kernel's buffer ─► network ─► peer           taken: the buffer has room again
//!              full: the clock of the stall begins ──────► enough is taken in time: it is forgotten
//!                                                     └──► too little is: the connection ends
//! ```
//!
//! A peer that reads nothing, or one byte a minute, would hold its connection for ever, and with it whatever the connection has
//! in its hands: a slot, memory, a question that computes rows for nobody. Who writes asks here how long that goes on.
//! Nothing is said of a peer for which nothing waits.

use std::time::Duration;

use tokio::time::Instant;

/// Time in which a peer has to take something of what waits for it. As patient as other servers are.
pub const STALL_TIME_MAX: Duration = Duration::from_secs(60);
/// Bytes that the system holds for a connection that is not read. Also what shows progress: the system tells of room once
/// about a third of it is free, and with its own size, megabytes, a slow reader would look like none.
pub const SEND_BUFFER_BYTES: u32 = 256 << 10;

/// How long, and for how much, a peer that does not read is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// The time.
    pub time_max: Duration,
    /// Bytes to be taken within it.
    pub bytes_min: usize,
}

impl Patience {
    /// Makes the patience for a peer that has to take at least so many bytes every [`STALL_TIME_MAX`].
    pub const fn for_bytes(bytes_min: usize) -> Patience {
        Patience { time_max: STALL_TIME_MAX, bytes_min }
    }
}

/// Says when a peer has stopped reading. See the module.
#[derive(Debug)]
pub struct Stall {
    patience: Patience,
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    bytes: usize,
}

/// The peer has taken too little in too long a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer has not read {} bytes of what is sent to it within {:?}", .0.bytes_min, .0.time_max)]
pub struct Stalled(Patience);

impl Stall {
    /// Begins with nothing that waits.
    pub fn new(patience: Patience) -> Stall {
        Stall { patience, waiting: None }
    }

    /// Notes that the socket takes nothing of what is to be written. Returns until when to wait.
    ///
    /// # Errors
    /// That has gone on for too long: the connection must end.
    pub fn full(&mut self, now: Instant) -> Result<Instant, Stalled> {
        let waiting = self.waiting.get_or_insert(Waiting { since: now, bytes: 0 });
        let until = waiting.since + self.patience.time_max;
        if now >= until { Err(Stalled(self.patience)) } else { Ok(until) }
    }

    /// Notes that the socket has taken bytes.
    pub fn taken(&mut self, bytes: usize) {
        if let Some(waiting) = &mut self.waiting {
            waiting.bytes += bytes;
            if waiting.bytes >= self.patience.bytes_min {
                self.waiting = None;
            }
        }
    }

    /// Notes what came of a try to write: how many bytes the socket has taken, and whether some still wait. Returns until when to
    /// wait for those.
    ///
    /// # Errors
    /// As of [`Stall::full`].
    pub fn tried(&mut self, taken: usize, has_unsent: bool, now: Instant) -> Result<Option<Instant>, Stalled> {
        self.taken(taken);
        if has_unsent {
            return self.full(now).map(Some);
        }
        self.empty();
        Ok(None)
    }

    /// Notes that nothing waits any more.
    pub fn empty(&mut self) {
        self.waiting = None;
    }
}

impl From<Stalled> for std::io::Error {
    fn from(stalled: Stalled) -> Self {
        std::io::Error::new(std::io::ErrorKind::TimedOut, stalled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { time_max: Duration::from_secs(10), bytes_min: 100 };

    #[test]
    fn who_takes_too_little_in_too_long_a_time_has_stalled() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut stall = Stall::new(PATIENCE);
        assert_eq!(stall.full(at(0)), Ok(at(10)));
        // One byte now and then is not reading.
        for seconds in 1..10 {
            stall.taken(1);
            assert_eq!(stall.full(at(seconds)), Ok(at(10)));
        }
        let stalled = stall.full(at(10)).expect_err("stalled");
        assert!(stalled.to_string().contains("100 bytes of what is sent to it within 10s"), "{stalled}");
    }

    #[test]
    fn who_takes_enough_or_has_everything_is_waited_for_anew() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut stall = Stall::new(PATIENCE);
        assert_eq!(stall.full(at(0)), Ok(at(10)));
        stall.taken(60);
        stall.taken(40);
        assert_eq!(stall.full(at(9)), Ok(at(19)), "enough is taken");
        stall.empty();
        // Nothing waited for an hour: that is no stall.
        assert_eq!(stall.full(at(3_600)), Ok(at(3_610)));
    }
}
