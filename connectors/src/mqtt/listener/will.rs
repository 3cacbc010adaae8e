//! What a client wants published when it vanishes.
//!
//! ```text
//!   the connection ends without a good-bye, or with reason 0x04 ──(delay)──► published: logged, and sent to subscribers
//!                                                 │
//!                  the client comes back into its session: taken back
//! ```
//!
//! The delay ends early when the session ends. A good-bye takes the will back, and so does our own stop, which is no
//! misfortune of the device. A will that waits is in memory: it is lost with the process.

use std::time::Duration;

use tokio::time::Instant;

use super::super::connection::End;
use super::super::packet::{Will, reason};

/// A will whose client has vanished, with what is needed to publish it.
#[derive(Clone, Debug)]
pub(super) struct Bequest {
    pub(super) will: Will,
    /// The mailbox of the client, for those who said no-local.
    pub(super) publisher: u64,
}

/// Says whether the end of a connection is one that a will is for.
pub(super) fn is_due_after(end: &End) -> bool {
    match end {
        End::Disconnected { code, .. } => *code == reason::DISCONNECT_WITH_WILL,
        End::Stopped | End::Intake(_) => false,
        End::TakenOver | End::Closed | End::Violation(_) | End::Refused(_) | End::Io(_) => true,
    }
}

/// Returns when a will is to be published: after its delay, but not after its session.
pub(super) fn due_at(will: &Will, session_expiry_s: u32, now: Instant) -> Instant {
    now + Duration::from_secs(u64::from(will.delay_s.min(session_expiry_s)))
}
