//! Where a sink meets the subscribers of a listener in the same process.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tidemill_engine::clock::Dice;
use tidemill_engine::source::{BoxFuture, Stop};

use super::packet::QoS;
use crate::outbox::{Courier, DeliveryError, Desk, DeskEvent, Progress, Row};

/// A message for the subscribers of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalMessage {
    /// The number of its row in the outbox; those of one outbox grow.
    pub number: u64,
    /// Its topic; without wildcards.
    pub topic: Bytes,
    /// Its payload.
    pub payload: Bytes,
    /// The QoS of the publisher: a subscriber gets at most this.
    pub qos: QoS,
    /// Whether it is kept for those who subscribe later.
    pub retain: bool,
}

/// A listener, as a publisher in the same process sees it.
pub trait LocalBroker: Send + Sync + 'static {
    /// Takes messages for all who subscribe to their topics, in their order. Resolves when every session has them that has to
    /// get them: those that must not be lost are durable then. With an error none or some of them may be taken, and they come
    /// again, as they do after a crash: then those that it had made durable are known by the name of their outbox and by their
    /// numbers, and not taken twice.
    fn publish(&self, outbox: String, messages: Vec<LocalMessage>) -> BoxFuture<'_, Result<(), String>>;
}

/// The listeners of a process, by the names of their sources. Clones are the same list.
#[derive(Clone, Default)]
pub struct LocalBrokers(Arc<Mutex<BTreeMap<String, Arc<dyn LocalBroker>>>>);

impl LocalBrokers {
    /// Adds a listener, until what is returned is dropped.
    pub fn add(&self, source: &str, broker: Arc<dyn LocalBroker>) -> Listed {
        self.0.lock().insert(source.to_owned(), Arc::clone(&broker));
        Listed { brokers: self.clone(), source: source.to_owned(), broker }
    }

    /// Finds a listener.
    pub fn get(&self, source: &str) -> Option<Arc<dyn LocalBroker>> {
        self.0.lock().get(source).cloned()
    }
}

/// A listener is in the list as long as this is not dropped.
pub struct Listed {
    brokers: LocalBrokers,
    source: String,
    broker: Arc<dyn LocalBroker>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut brokers = self.brokers.0.lock();
        // Another one may have taken its place.
        if brokers.get(&self.source).is_some_and(|listed| Arc::ptr_eq(listed, &self.broker)) {
            brokers.remove(&self.source);
        }
    }
}

/// What the name of an outbox begins with, as listeners know it; a number by chance follows.
const OUTBOX: &str = "listener-";
/// How many rows are handed over at a time.
const ROWS_MAX: usize = 256;

/// Delivers rows to the subscribers of a listener.
pub(super) struct LocalCourier {
    pub(super) brokers: LocalBrokers,
    pub(super) source: String,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) dice: Arc<dyn Dice>,
    /// Rows that were taken from the desk and are not handed over.
    pub(super) waiting: Vec<LocalMessage>,
    /// The number behind the last of them.
    pub(super) end: u64,
}

#[async_trait::async_trait]
impl Courier for LocalCourier {
    async fn deliver(&mut self, desk: &mut Desk, stop: &Stop) -> Result<(), DeliveryError> {
        let Some(broker) = self.brokers.get(&self.source) else {
            return Err(DeliveryError::Failed(format!("the listener of source {} does not run", self.source)));
        };
        if !desk.session().starts_with(OUTBOX) {
            desk.begin_session(&format!("{OUTBOX}{:016x}", self.dice.roll())).await?;
        }
        let outbox = desk.session().to_owned();
        desk.gauges().set_connected(true);
        loop {
            // The first row is waited for; those that are there come with it.
            while self.waiting.len() < ROWS_MAX {
                let next = desk.next(true);
                let event = match self.waiting.is_empty() {
                    true => tokio::select! {
                        event = next => event?,
                        () = stop.cancelled() => return Ok(()),
                    },
                    false => match futures::FutureExt::now_or_never(next) {
                        Some(event) => event?,
                        None => break,
                    },
                };
                if let DeskEvent::Row(row) = event {
                    self.end = row.number + 1;
                    let Row { number, key: topic, payload } = row;
                    let (qos, retain) = (self.qos, self.retain);
                    self.waiting.push(LocalMessage { number, topic, payload, qos, retain });
                }
            }
            tokio::select! {
                published = broker.publish(outbox.clone(), self.waiting.clone()) => published.map_err(DeliveryError::Failed)?,
                () = stop.cancelled() => return Ok(()),
            }
            self.waiting.clear();
            desk.confirm(Progress { delivered: self.end, received: self.end });
        }
    }
}
