//! `connector = 'mqtt'`: reads from an outside broker.
//!
//! ```text
//!   MqttSource ─┬─ Member 0 ── connect, subscribe, receive, again and again       client id        partition `broker`
//!               ├─ Member 1    with connections = n: '$share/<group>/<filter>'    <id>-0 … <id>-n-1  `broker-0` … `broker-n-1`
//!               └─ …           each has a session of its own
//! ```
//!
//! The session at the broker is persistent and is never given up: the client id is stable, there is no UNSUBSCRIBE, and
//! DISCONNECT leaves the session's expiry alone. So what is published while we are away waits at the broker. A life of one
//! connection is drawn in `member.rs`; what is kept of its session in `record.rs`; the options are in `settings.rs`.
//!
//! **Several connections** share one subscription: the broker gives each message to one of them. A member is a partition of
//! the source. That matters to the watermark: it is the least over the partitions, so messages that wait at the broker for a
//! member that is away hold it back, and are not late when the member comes back before `idle_after`. The group's name holds
//! the client id, which is another for each data folder: two programs of one pipeline both get everything, as with one connection.
//! There is no order between members. Another number of connections leaves sessions behind; `retired.rs` empties and ends them.
//!
//! `retained` says what to do with messages that the broker keeps as the last value of a topic. The default is `'skip'`: such
//! a message is a copy of an old reading, sent anew with each new subscription. With `'use'` it is a reading, once: the last
//! copy of each topic is remembered, and one that comes again after a lost session does not count again. Messages published while we are subscribed are never of that kind, whether the publisher sets the flag or not.

mod member;

mod handshake;
mod record;
mod retired;
mod settings;

use std::sync::Arc;

use parking_lot::Mutex;
use tidemill_engine::source::{Intake, Resume, Source, SourceError, Stop};
use tidemill_engine::storage::{Storage, StorageError};
use tokio::task::JoinSet;

use super::topics::TopicPatterns;
use crate::Context;
use crate::options::{OptionError, Options};
use member::{Member, Shared};
use retired::left_behind;
use settings::Settings;

pub(super) use settings::{Address, keep_alive_s, session_expiry_s};

/// The partition of a source with one connection: a broker's topics have no order among each other that a partition could keep.
const PARTITION: &str = "broker";

/// A source that subscribes at a broker.
pub struct MqttSource {
    shared: Arc<Shared>,
    /// From the options, or from storage once prepared.
    client_id: Mutex<Option<String>>,
}

/// Makes the source from its options; does no I/O.
pub fn client(
    name: &str,
    options: &mut Options,
    context: &Context,
) -> Result<(MqttSource, TopicPatterns), OptionError> {
    let (settings, client_id) = Settings::take(options, context)?;
    let topics = settings.topics.clone();
    let shared = Shared {
        name: name.to_owned(),
        settings,
        storage: Arc::clone(&context.storage),
        dice: Arc::clone(&context.dice),
    };
    Ok((MqttSource { shared: Arc::new(shared), client_id: Mutex::new(client_id) }, topics))
}

#[async_trait::async_trait]
impl Source for MqttSource {
    fn bounded(&self) -> bool {
        false
    }

    /// Finds the client id, or makes one that stays.
    async fn prepare(&self) -> Result<(), SourceError> {
        if self.client_id.lock().is_some() {
            return Ok(());
        }
        let path = format!("sources/{}/client_id", self.shared.name);
        let storage = Arc::clone(&self.shared.storage);
        // 23 letters and digits: what every server must accept by MQTT-3.1.3-5.
        let fresh = format!("tidemill{:015x}", self.shared.dice.roll() >> 4);
        let id = tokio::task::spawn_blocking(move || stored_or_new(&*storage, &path, &fresh))
            .await
            .map_err(|error| SourceError::Environment(format!("cannot keep the MQTT client id: {error}")))??;
        *self.client_id.lock() = Some(id);
        Ok(())
    }

    async fn run(&self, intake: Arc<dyn Intake>, resume: Vec<Resume>, stop: Stop) -> Result<(), SourceError> {
        let client_id = self.client_id().expect("a source is prepared before it runs");
        let members = Member::all(&self.shared, &client_id, self.shared.settings.connections);
        for member in &members {
            intake.open(member.partition()).await?;
        }
        let recalled = |member: &Member| resume.iter().find(|resume| resume.partition == member.partition()).cloned();
        let readiness =
            Arc::new(Readiness { intake: Arc::clone(&intake), ready: Mutex::new(vec![false; members.len()]) });
        // The end of one is the end of all: a source without one of its members would lose what the broker gives it.
        let ending = stop.child_token();
        let mut tasks = JoinSet::new();
        for (number, member) in members.into_iter().enumerate() {
            let resume = recalled(&member);
            let (readiness, ending) = (Arc::clone(&readiness), ending.clone());
            tasks.spawn(async move {
                let ended =
                    member.run(resume, &ending, |is_ready| readiness.set(number, is_ready), &*readiness.intake).await;
                ending.cancel();
                ended
            });
        }
        let mut retiring = JoinSet::new();
        for member in left_behind(&self.shared, &client_id).await {
            intake.open(member.partition()).await?;
            let (resume, intake, ending) = (recalled(&member), Arc::clone(&intake), ending.clone());
            retiring.spawn(async move { member.retire(resume, intake, &ending).await });
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
        while retiring.join_next().await.is_some() {}
        outcome
    }
}

impl MqttSource {
    /// Returns the client id, once the source is prepared. With several connections it is what their ids begin with.
    pub fn client_id(&self) -> Option<String> {
        self.client_id.lock().clone()
    }
}

/// Which members can receive: the source can when all of them can.
struct Readiness {
    intake: Arc<dyn Intake>,
    ready: Mutex<Vec<bool>>,
}

impl Readiness {
    fn set(&self, number: usize, is_ready: bool) {
        let mut ready = self.ready.lock();
        ready[number] = is_ready;
        self.intake.set_connected(ready.iter().all(|is_ready| *is_ready));
    }
}

pub(super) fn stored_or_new(storage: &dyn Storage, path: &str, fresh: &str) -> Result<String, StorageError> {
    match storage.put_new(path, fresh.as_bytes()) {
        Ok(()) => Ok(fresh.to_owned()),
        Err(StorageError::Exists { .. }) => Ok(String::from_utf8_lossy(&storage.get(path)?).into_owned()),
        Err(error) => Err(error),
    }
}
