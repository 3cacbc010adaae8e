//! Keep-alive, decided without a clock of its own.
//!
//! A client sends something at least every interval: a PINGREQ when there is nothing else. If a PINGREQ has no answer within half
//! an interval the link is dead: one and a half intervals after the last sign of life at the latest. A server gives up a client
//! after one and a half intervals of silence. While we do not read, because the log is behind, nothing can be heard and
//! nobody is given up.

use std::time::Duration;

use tokio::time::Instant;

/// The state of one connection's keep-alive.
#[derive(Debug)]
pub(super) struct KeepAlive {
    interval: Duration,
    pings: bool,
    heard: Instant,
    sent: Instant,
    pinged: Option<Instant>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing before this instant.
    At(Instant),
    /// Send a PINGREQ.
    Ping,
    /// The peer is gone.
    Dead,
}

impl KeepAlive {
    /// Watches from our side of a client; an interval of zero switches it off.
    pub(super) fn client(interval: Duration, now: Instant) -> Self {
        KeepAlive { interval, pings: true, heard: now, sent: now, pinged: None }
    }

    /// Watches from the side of a server.
    pub(super) fn server(interval: Duration, now: Instant) -> Self {
        KeepAlive { interval, pings: false, heard: now, sent: now, pinged: None }
    }

    /// Notes that the peer was heard, or that we were not listening.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.pinged = None;
    }

    /// Notes that something was sent.
    pub(super) fn sent(&mut self, now: Instant) {
        self.sent = now;
    }

    /// Decides; a [`Due::Ping`] counts as sent.
    pub(super) fn due(&mut self, now: Instant) -> Due {
        // Far enough to mean never, near enough for the timer.
        const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
        if self.interval.is_zero() {
            return Due::At(now + NEVER);
        }
        if !self.pings {
            let until = self.heard + self.interval * 3 / 2;
            return if now >= until { Due::Dead } else { Due::At(until) };
        }
        if let Some(pinged) = self.pinged {
            let until = pinged + self.interval / 2;
            return if now >= until { Due::Dead } else { Due::At(until) };
        }
        let until = self.heard.min(self.sent) + self.interval;
        if now < until {
            return Due::At(until);
        }
        self.pinged = Some(now);
        self.sent = now;
        Due::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_broker_is_given_up_after_one_and_a_half_intervals() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut keep_alive = KeepAlive::client(Duration::from_secs(10), start);
        assert_eq!(keep_alive.due(at(9)), Due::At(at(10)));
        assert_eq!(keep_alive.due(at(10)), Due::Ping);
        assert_eq!(keep_alive.due(at(14)), Due::At(at(15)));
        keep_alive.heard(at(14));
        assert_eq!(keep_alive.due(at(15)), Due::At(at(20)));
        assert_eq!(keep_alive.due(at(20)), Due::Ping);
        assert_eq!(keep_alive.due(at(25)), Due::Dead);
    }

    #[test]
    fn a_client_that_only_sends_still_listens_for_a_dead_link() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut keep_alive = KeepAlive::client(Duration::from_secs(10), start);
        keep_alive.sent(at(9));
        assert_eq!(keep_alive.due(at(10)), Due::Ping);
    }

    #[test]
    fn a_silent_device_is_given_up_and_zero_means_never() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut keep_alive = KeepAlive::server(Duration::from_secs(10), start);
        assert_eq!(keep_alive.due(at(14)), Due::At(at(15)));
        assert_eq!(keep_alive.due(at(15)), Due::Dead);
        let mut never = KeepAlive::server(Duration::ZERO, start);
        assert!(matches!(never.due(at(1_000_000)), Due::At(_)));
    }
}
