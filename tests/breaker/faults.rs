//! What happens to the program. A new fault is one arm of [`Fault`] and one function.

use std::time::Duration;

use rand::Rng;

use super::failing_disk::{self, Refused};
use super::round::Scene;
use crate::harness::program::signal;

/// Longest time that a program serves before it is struck.
const SERVES_MS_MAX: u64 = 1_500;
/// Recoveries that die one after the other, at most.
const CHAIN_MAX: u32 = 5;
/// Longest time that a recovery lives: about as long as one takes.
const RECOVERS_MS_MAX: u64 = 700;
/// After SIGTERM, the last commits take about as long.
const ENDS_MS_MAX: u64 = 300;

/// One way to break the program; it is down afterwards, and its disk is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// SIGKILL while it serves.
    Kill,
    /// SIGKILL while it serves, then of one to five recoveries in a row.
    KillInRecovery,
    /// SIGTERM, and SIGKILL while it ends.
    KillAfterTerm,
    /// Power loss while it serves.
    PowerLoss,
    /// SIGKILL, then power loss while it recovers: what it replays may never have reached the disk.
    PowerLossInRecovery,
    /// The disk is full for a while.
    FullDisk,
    /// The kernel refuses to write, to sync or to name files for a while.
    Refusal(Refused),
}

impl Fault {
    /// Faults that need no disk of their own, in the order in which a round has them.
    pub(super) const KILLS: [Fault; 3] = [Fault::Kill, Fault::KillInRecovery, Fault::KillAfterTerm];
    /// Faults of a [`Disk`](crate::harness::disk::Disk).
    pub(super) const POWER_LOSSES: [Fault; 2] = [Fault::PowerLoss, Fault::PowerLossInRecovery];

    /// Disks that are full, on a [`Disk`](crate::harness::disk::Disk).
    pub(super) const FULL_DISKS: [Fault; 1] = [Fault::FullDisk];
    /// Disks that refuse; they need no disk of their own.
    pub(super) const REFUSALS: [Fault; 6] = {
        let [a, b, c, d, e, f] = Refused::ALL;
        [
            Fault::Refusal(a),
            Fault::Refusal(b),
            Fault::Refusal(c),
            Fault::Refusal(d),
            Fault::Refusal(e),
            Fault::Refusal(f),
        ]
    };

    /// Whether it needs a [`Disk`](crate::harness::disk::Disk), and how large a one.
    pub(super) fn disk_bytes(self) -> Option<&'static str> {
        match self {
            Fault::PowerLoss | Fault::PowerLossInRecovery => Some("1500M"),
            // So small that it is filled in a moment.
            Fault::FullDisk => Some("160M"),
            Fault::Kill | Fault::KillInRecovery | Fault::KillAfterTerm | Fault::Refusal(_) => None,
        }
    }

    /// Starts the program and breaks it.
    pub(super) async fn strike(self, scene: &mut Scene) {
        match self {
            Fault::Kill => kill(scene).await,
            Fault::KillInRecovery => kill_in_recovery(scene).await,
            Fault::KillAfterTerm => kill_after_term(scene).await,
            Fault::PowerLoss => power_loss(scene).await,
            Fault::PowerLossInRecovery => power_loss_in_recovery(scene).await,
            Fault::FullDisk => failing_disk::fill(scene).await,
            Fault::Refusal(refused) => failing_disk::refuse(scene, refused).await,
        }
    }
}

async fn kill(scene: &mut Scene) {
    let program = scene.start_ready().await;
    scene.within_ms(SERVES_MS_MAX).await;
    scene.kill(program);
}

async fn kill_in_recovery(scene: &mut Scene) {
    kill(scene).await;
    for _ in 0..scene.dice.random_range(1..=CHAIN_MAX) {
        let program = scene.start();
        scene.within_ms(RECOVERS_MS_MAX).await;
        scene.kill(program);
    }
}

async fn kill_after_term(scene: &mut Scene) {
    let program = scene.start_ready().await;
    scene.within_ms(SERVES_MS_MAX).await;
    signal("TERM", program.pid());
    scene.within_ms(ENDS_MS_MAX).await;
    scene.kill(program);
}

async fn power_loss(scene: &mut Scene) {
    let program = scene.start_ready().await;
    scene.within_ms(SERVES_MS_MAX).await;
    scene.lose_power(program).await;
}

async fn power_loss_in_recovery(scene: &mut Scene) {
    kill(scene).await;
    let program = scene.start();
    scene.within_ms(RECOVERS_MS_MAX).await;
    scene.lose_power(program).await;
}

impl Scene {
    /// Lets the program serve for a random time.
    pub(super) async fn serve_a_while(&mut self) {
        self.within_ms(SERVES_MS_MAX).await;
    }

    /// Waits for a random time.
    async fn within_ms(&mut self, max: u64) {
        tokio::time::sleep(Duration::from_millis(self.dice.random_range(1..max))).await;
    }
}
