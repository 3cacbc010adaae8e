//! The courier of an `mqtt` sink: delivers rows of an outbox to a broker, on a session that the broker keeps.
//!
//! ```text
//!   cursor of the outbox:   delivered ──► received ──────────► delivered + WINDOW_ROWS
//!   at QoS 2, a row of it      PUBCOMP       PUBREC is durable,     may have been published
//!                                            PUBREL may have left
//!   after a crash              not sent      PUBREL                 PUBLISH with DUP, same packet id
//! ```
//! A packet id is the row's number, so the cursor says everything that a resumed session needs: at QoS 2 a broker that has
//! kept the session takes each row once. On a session that it has lost, whatever is not delivered is published anew.

use std::sync::Arc;

use tidemill_engine::clock::Dice;
use tidemill_engine::source::Stop;
use tidemill_engine::storage::Storage;

use super::client::stored_or_new;
use super::credentials::{Credentials, Known};
use super::link::{Broker, Link, Message, NoLink, Session};
use super::packet::{QoS, Version};
use super::publisher::{Before, Ended, Outbound, Supplied, Supply};
use super::sender::Release;
use crate::outbox::{Courier, DeliveryError, Desk, DeskEvent, Progress, Row};

/// How a sink publishes.
#[derive(Clone, Debug)]
pub(super) struct Publishing {
    /// Without a client id if one is to be made and kept.
    pub(super) broker: Broker,
    /// Read anew for each connection.
    pub(super) credentials: Credentials,
    pub(super) version: Version,
    pub(super) qos: QoS,
    pub(super) retain: bool,
}

/// See the module.
pub(super) struct MqttCourier {
    pub(super) publishing: Publishing,
    pub(super) storage: Arc<dyn Storage>,
    /// Where the client id is kept.
    pub(super) client_id_path: String,
    pub(super) dice: Arc<dyn Dice>,
    /// What is on its way; nothing before the first connection.
    pub(super) outbound: Option<Outbound>,
}

impl MqttCourier {
    /// Finds the client id, or makes one that stays.
    async fn find_client_id(&mut self) -> Result<(), DeliveryError> {
        if !self.publishing.broker.client_id.is_empty() {
            return Ok(());
        }
        let (storage, path) = (Arc::clone(&self.storage), self.client_id_path.clone());
        // 23 letters and digits: what every server must accept by MQTT-3.1.3-5.
        let fresh = format!("tidemill{:015x}", self.dice.roll() >> 4);
        let found = tokio::task::spawn_blocking(move || stored_or_new(&*storage, &path, &fresh)).await;
        self.publishing.broker.client_id =
            found.map_err(|error| DeliveryError::Failed(format!("cannot keep the MQTT client id: {error}")))??;
        Ok(())
    }

    async fn connect(&mut self, session: Session, stop: &Stop) -> Result<Option<Link>, DeliveryError> {
        let known = self.publishing.credentials.read().await;
        let Known { username, password } = known.map_err(|error| DeliveryError::Failed(error.to_string()))?;
        let broker = Broker { username, password, ..self.publishing.broker.clone() };
        loop {
            let link = tokio::select! {
                link = Link::connect(&broker, self.publishing.version, session) => link,
                () = stop.cancelled() => return Ok(None),
            };
            match link {
                Ok(link) => return Ok(Some(link)),
                Err(NoLink::Older) => self.publishing.version = Version::V311,
                Err(NoLink::Failed(why)) => return Err(DeliveryError::Failed(why)),
            }
        }
    }
}

#[async_trait::async_trait]
impl Courier for MqttCourier {
    async fn deliver(&mut self, desk: &mut Desk, stop: &Stop) -> Result<(), DeliveryError> {
        self.find_client_id().await?;
        let Publishing { broker, qos, retain, .. } = self.publishing.clone();
        let name = format!(
            "{}:{} {} qos {} content {}",
            broker.host,
            broker.port,
            broker.client_id,
            qos as u8,
            desk.generation()
        );
        let wanted = if desk.session() == name { Session::Kept } else { Session::Clean };
        let Some(link) = self.connect(wanted, stop).await? else { return Ok(()) };
        if let Some(lack) = link.lacks(qos, retain) {
            return Err(DeliveryError::Failed(lack));
        }
        let session = if link.connack.session_present { wanted } else { Session::Clean };
        if session == Session::Clean {
            if wanted == Session::Kept {
                tracing::warn!(broker = %format_args!("{}:{}", broker.host, broker.port), "the broker has lost our session: what it had not confirmed is published again");
            }
            desk.begin_session(&name).await?;
        }
        let durable = desk.durable();
        let release = if qos == QoS::ExactlyOnce { Release::WhenTold } else { Release::AtOnce };
        let sent_before = match (&self.outbound, session) {
            // A process before may have sent these.
            (None, Session::Kept) => desk.window_end(),
            _ => 0,
        };
        let received_before = if sent_before > 0 { durable.received } else { 0 };
        let outbound = self.outbound.get_or_insert_with(|| Outbound::new(durable.delivered, qos, release));
        desk.gauges().set_connected(true);
        let mut supply = Rows { desk, retain, sent_before, received_before };
        match outbound.run(link, session, &mut supply, stop).await {
            Ended::Done => Ok(()),
            Ended::Lost(why) => Err(DeliveryError::Failed(why)),
            Ended::Supply(error) => Err(error),
        }
    }
}

/// Rows of an outbox as messages.
struct Rows<'d> {
    desk: &'d mut Desk,
    retain: bool,
    /// Rows below may have been sent, or received, in a process before.
    sent_before: u64,
    received_before: u64,
}

impl Supply for Rows<'_> {
    type Error = DeliveryError;

    async fn next(&mut self, wants_message: bool) -> Result<Supplied, DeliveryError> {
        match self.desk.next(wants_message).await? {
            DeskEvent::Durable(Progress { received, .. }) => Ok(Supplied::Release(received)),
            DeskEvent::Row(Row { number, key, payload }) => {
                let before = match number {
                    _ if number < self.received_before => Before::Received,
                    _ if number < self.sent_before => Before::Sent,
                    _ => Before::Nothing,
                };
                Ok(Supplied::Message(number, Message { topic: key, payload, retain: self.retain }, before))
            }
        }
    }

    fn note(&mut self, delivered: u64, received: u64) {
        self.desk.confirm(Progress { delivered, received });
    }

    fn given_up(&mut self, number: u64, why: &str) {
        self.desk.gauges().count_rejected(1);
        tracing::error!(row = number, why, "a row cannot be delivered; the view's table has it");
    }
}
