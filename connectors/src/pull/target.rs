//! A task for each target, how it is doing, and when it is tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidemill_engine::clock::{Clock, Dice};
use tidemill_engine::source::{Intake, Resume, SourceError, Stop, TargetStatus};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::site::Target;
use crate::breaker::{Attempt, Breaker, BreakerGauge, BreakerState};

/// Why an attempt came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// What is counted, in the metrics: one of a few words.
    pub(super) kind: &'static str,
    /// What happened and what to do, for people.
    pub(super) why: String,
    /// How long the other side asks us to stay away.
    pub(super) asked: Option<Duration>,
}

impl Failure {
    pub(super) fn new(kind: &'static str, why: impl Into<String>) -> Failure {
        Failure { kind, why: why.into(), asked: None }
    }
}

/// What a source has beside its options.
pub(super) struct Own {
    pub(super) name: String,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) dice: Arc<dyn Dice>,
    /// One for each target.
    gauges: Vec<Arc<Gauges>>,
}

/// How a target is doing, for those who show it.
#[derive(Debug, Default)]
struct Gauges {
    is_connected: AtomicBool,
    breaker: BreakerGauge,
    failures: AtomicU64,
    error: Mutex<Option<String>>,
}

impl Own {
    pub(super) fn new(name: &str, context: &crate::Context, target_count: usize) -> Own {
        Own {
            name: name.to_owned(),
            clock: Arc::clone(&context.clock),
            dice: Arc::clone(&context.dice),
            gauges: (0..target_count).map(|_| Arc::default()).collect(),
        }
    }

    /// Says how the targets are doing.
    pub(super) fn status(&self, targets: &[Target]) -> Vec<TargetStatus> {
        let told = |(target, gauges): (&Target, &Arc<Gauges>)| TargetStatus {
            target: target.name.clone(),
            connected: gauges.is_connected.load(Ordering::Relaxed),
            breaker: gauges.breaker.state().word(),
            breaker_level: gauges.breaker.state().level(),
            failures: gauges.failures.load(Ordering::Relaxed),
            error: gauges.error.lock().clone(),
        };
        targets.iter().zip(&self.gauges).map(told).collect()
    }

    /// Runs a task for each target until all have ended, which they do after `stop`, or because one has failed.
    pub(super) async fn run<T>(
        &self,
        targets: &[Target],
        intake: Arc<dyn Intake>,
        resume: Vec<Resume>,
        stop: &Stop,
        task: impl Fn(usize, Health, Option<Resume>, Stop) -> T,
    ) -> Result<(), SourceError>
    where
        T: Future<Output = Result<(), SourceError>> + Send + 'static,
    {
        for target in targets {
            intake.open(&target.name).await?;
        }
        let _unplugged = Unplugged(&self.gauges);
        let reachable = Arc::new(Reachable { intake, targets: Mutex::new(vec![false; targets.len()]) });
        let ending = stop.child_token();
        let mut tasks = JoinSet::new();
        for (number, target) in targets.iter().enumerate() {
            let health = Health {
                source: self.name.clone(),
                target: target.name.clone(),
                number,
                gauges: Arc::clone(&self.gauges[number]),
                reachable: Arc::clone(&reachable),
                breaker: Breaker::default(),
                clock: Arc::clone(&self.clock),
                dice: Arc::clone(&self.dice),
            };
            let resume = resume.iter().find(|resume| resume.partition == target.name).cloned();
            let (running, ending) = (task(number, health, resume, ending.clone()), ending.clone());
            tasks.spawn(async move {
                let ended = running.await;
                ending.cancel();
                ended
            });
        }
        let mut outcome = Ok(());
        while let Some(ended) = tasks.join_next().await {
            let ended = ended.unwrap_or_else(|error| match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Ok(()),
            });
            // The first error is the cause of the others' ends.
            outcome = outcome.and(ended);
        }
        outcome
    }
}

/// However a run ends, nothing is connected any more.
struct Unplugged<'g>(&'g [Arc<Gauges>]);

impl Drop for Unplugged<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|gauges| gauges.is_connected.store(false, Ordering::Relaxed));
    }
}

/// Which targets can be reached. The source counts as connected when one of them can: of a hundred machines that are
/// watched one may be down for good, and that is no reason not to be ready.
struct Reachable {
    intake: Arc<dyn Intake>,
    targets: Mutex<Vec<bool>>,
}

impl Reachable {
    fn set(&self, number: usize, is_reachable: bool) {
        let mut targets = self.targets.lock();
        targets[number] = is_reachable;
        self.intake.set_connected(targets.iter().any(|is_reachable| *is_reachable));
    }
}

/// How one target is doing, and when to try it again.
pub(super) struct Health {
    source: String,
    pub(super) target: String,
    number: usize,
    gauges: Arc<Gauges>,
    reachable: Arc<Reachable>,
    breaker: Breaker,
    clock: Arc<dyn Clock>,
    dice: Arc<dyn Dice>,
}

impl Health {
    /// Returns where its rows go.
    pub(super) fn intake(&self) -> &dyn Intake {
        &*self.reachable.intake
    }

    /// Says that an attempt begins.
    pub(super) fn attempt(&mut self) {
        let attempt = self.breaker.attempt(self.clock.monotonic_us());
        debug_assert_eq!(attempt, Attempt::Now, "whoever has failed waits as long as it is told");
        self.show();
    }

    /// Says that it answers: it can be received from now.
    pub(super) fn connected(&self) {
        self.gauges.is_connected.store(true, Ordering::Relaxed);
        *self.gauges.error.lock() = None;
        self.reachable.set(self.number, true);
    }

    /// Says that it works: what failed before is forgotten.
    pub(super) fn succeeded(&mut self) {
        self.breaker.succeeded();
        self.show();
    }

    /// Says that an attempt has failed. Returns how long to wait for the next one.
    pub(super) fn failed(&mut self, failure: &Failure) -> Duration {
        self.gauges.is_connected.store(false, Ordering::Relaxed);
        self.gauges.failures.fetch_add(1, Ordering::Relaxed);
        *self.gauges.error.lock() = Some(failure.why.clone());
        self.reachable.set(self.number, false);
        self.intake().count_error(failure.kind);
        let wait = self.breaker.failed(self.clock.monotonic_us(), failure.asked, &*self.dice);
        warn!(source = %self.source, target = %self.target, why = %failure.why, ?wait, "not connected");
        self.show();
        wait
    }

    /// Counts something bad that is no reason to connect again.
    pub(super) fn count(&self, kind: &'static str, why: &str) {
        self.intake().count_error(kind);
        warn!(source = %self.source, target = %self.target, why, "left out");
    }

    /// Returns a part of a duration, by chance.
    pub(super) fn part_of(&self, whole: Duration) -> Duration {
        let whole_us = u64::try_from(whole.as_micros()).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(self.dice.roll() % whole_us)
    }

    /// Returns the time of a clock that never jumps, microseconds.
    pub(super) fn now_us(&self) -> i64 {
        self.clock.monotonic_us()
    }

    fn show(&self) {
        let state = self.breaker.state();
        let before = self.gauges.breaker.show(state);
        let (source, target) = (&self.source, &self.target);
        match (before, state) {
            (BreakerState::Closed, BreakerState::Open) => {
                warn!(%source, %target, "the breaker is open: it fails again and again, and is tried now and then");
            }
            (BreakerState::Open | BreakerState::HalfOpen, BreakerState::Closed) => {
                info!(%source, %target, "the breaker is closed: it answers again");
            }
            _ => {}
        }
    }
}
