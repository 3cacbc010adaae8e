//! Delivery: the task that keeps a courier going, through failures of the other side.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidemill_engine::clock::Dice;
use tidemill_engine::error::with_causes;
use tidemill_engine::source::Stop;
use tidemill_engine::time::micros;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};

use super::desk::Desk;
use super::papers::About;
use super::shelf::Shelf;
use super::{Courier, DeliveryError, Gauges};
use crate::breaker::{Attempt, Breaker, BreakerState};

/// How long a sink that is closed goes on delivering what it has, while the other side takes it.
const DRAIN_MAX: Duration = Duration::from_secs(3);
/// How often a closing sink looks whether it is empty.
const DRAIN_CHECK: Duration = Duration::from_millis(10);

/// A courier at work. Dropping it lets it deliver what it has, if that goes quickly, and waits for its end.
pub(super) struct Delivery {
    closing: Stop,
    ended: std::sync::mpsc::Receiver<()>,
}

/// How long a closing sink may still deliver.
pub(super) type Patience = Arc<std::sync::atomic::AtomicU64>;

/// Starts a courier.
pub(super) fn start(
    runtime: &Handle,
    shelf: Arc<Shelf>,
    about: About,
    courier: Box<dyn Courier>,
    dice: Arc<dyn Dice>,
    patience: Patience,
) -> Delivery {
    let (closing, stop) = (Stop::new(), Stop::new());
    // What failed before a restart says nothing about now.
    shelf.gauges.close_breaker();
    let (ended_sender, ended) = std::sync::mpsc::sync_channel(1);
    let closing_of_desk = closing.clone();
    let closer = close(closing.clone(), stop.clone(), Arc::clone(&shelf), patience);
    runtime.spawn(async move {
        let name = about.name.clone();
        let desk = Desk::new(Arc::clone(&shelf), about, closing_of_desk);
        tokio::join!(closer, async {
            run(&name, &shelf.gauges, desk, courier, &*dice, &stop).await;
            // So that nobody waits for a task that has ended by itself.
            stop.cancel();
        });
        shelf.gauges.set_connected(false);
        let _ = ended_sender.send(()); // Nobody may be waiting.
    });
    Delivery { closing, ended }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.closing.cancel();
        // Whoever comes next works on the same files. An error: the task has ended with its runtime.
        let _ = self.ended.recv();
    }
}

/// Stops a courier once its sink is closed: when everything is delivered, when the other side does not take it, or when it
/// takes too long.
async fn close(closing: Stop, stop: Stop, shelf: Arc<Shelf>, patience: Patience) {
    tokio::select! {
        () = closing.cancelled() => {}
        () = stop.cancelled() => return,
    }
    let mut waited = Duration::ZERO;
    let longest = || DRAIN_MAX.max(Duration::from_millis(patience.load(Ordering::Relaxed)));
    while !shelf.is_empty() && shelf.gauges.error.lock().is_none() && waited < longest() && !stop.is_cancelled() {
        sleep(DRAIN_CHECK).await;
        waited += DRAIN_CHECK;
    }
    stop.cancel();
}

async fn run(name: &str, gauges: &Gauges, mut desk: Desk, mut courier: Box<dyn Courier>, dice: &dyn Dice, stop: &Stop) {
    let began = Instant::now();
    let now_us = || micros(began.elapsed());
    let mut breaker = Breaker::default();
    while !stop.is_cancelled() {
        if let Attempt::After(wait) = breaker.attempt(now_us()) {
            let _ = timeout(wait, stop.cancelled()).await;
            continue;
        }
        gauges.breaker.show(breaker.state());
        let before = desk.durable().delivered;
        let outcome = courier.deliver(&mut desk, stop).await;
        gauges.set_connected(false);
        let flushed = desk.flush().await;
        // A connection that had nothing to deliver closes it too.
        if desk.durable().delivered > before || gauges.breaker.state() == BreakerState::Closed && outcome.is_ok() {
            breaker.succeeded();
        }
        let Err(error) = outcome.and(flushed) else { continue };
        if stop.is_cancelled() {
            break;
        }
        let why = with_causes(&error);
        gauges.failures.fetch_add(1, Ordering::Relaxed);
        *gauges.error.lock() = Some(why.clone());
        let asked = match &error {
            DeliveryError::Busy { after, .. } => Some(*after),
            _ => None,
        };
        let wait = breaker.failed(now_us(), asked, dice);
        if gauges.breaker.show(breaker.state()) == BreakerState::Closed && breaker.state() == BreakerState::Open {
            tracing::error!(
                sink = name,
                why,
                "the breaker is open: rows wait in the outbox, and one attempt is made now and then"
            );
        }
        tracing::warn!(sink = name, why, ?wait, "not delivered");
    }
}
