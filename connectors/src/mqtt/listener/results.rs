//! The listener as the sinks of this process see it: rows come in, and go to all who subscribed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemill_engine::source::BoxFuture;
use tokio::time::{Instant, sleep};

use super::super::local::{LocalBroker, LocalMessage};
use super::house::Log;
use super::hub::{Announced, Hub, Publication};
use super::mailbox::Mailbox;
use super::saved::Notes;

/// How long a sink waits for subscribers that are behind, with each few hundred rows.
const SLOW_SUBSCRIBER_PATIENCE: Duration = Duration::from_secs(1);
/// How often it looks whether they are still.
const SLOW_SUBSCRIBER_LOOK: Duration = Duration::from_millis(5);

/// See the module.
pub(super) struct Results {
    pub(super) hub: Arc<Hub>,
    pub(super) log: Log,
}

impl LocalBroker for Results {
    /// Gives rows of a sink to all who subscribed, when the log has what is retained of them, and what is for sessions that
    /// outlive their connections. A window that closes for many keys brings more rows at once than a mailbox holds,
    /// so a subscriber that reads gets time for it.
    fn publish(&self, messages: Vec<LocalMessage>) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let mut notes = Notes::default();
            let announce = |message| self.hub.announce(publication(message), &mut notes);
            let announced: Vec<Announced> = messages.into_iter().map(announce).collect();
            let notes = notes.take();
            if !notes.is_empty() {
                self.log.append(Vec::new(), notes).await.map_err(|error| error.to_string())?;
            }
            let mut slow: BTreeMap<u64, Arc<Mailbox>> = BTreeMap::new();
            for announced in announced {
                let heard_by = self.hub.publish(announced);
                slow.extend(heard_by.into_iter().filter(|m| m.is_half_full()).map(|mailbox| (mailbox.number, mailbox)));
            }
            let until = Instant::now() + SLOW_SUBSCRIBER_PATIENCE;
            while slow.values().any(|mailbox| mailbox.is_half_full()) && Instant::now() < until {
                sleep(SLOW_SUBSCRIBER_LOOK).await;
            }
            Ok(())
        })
    }
}

fn publication(message: LocalMessage) -> Publication {
    let LocalMessage { topic, payload, qos, retain } = message;
    Publication { topic, payload, qos, retain, properties: Bytes::new(), publisher: None, expires_at: None }
}
