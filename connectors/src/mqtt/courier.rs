//! The courier of an `mqtt` sink: delivers rows of an outbox to a broker, on a session that the broker keeps.
//!
//! ```text
//!   cursor of the outbox:   delivered ──► received ──────────► delivered + WINDOW_ROWS
//!   at QoS 2, a row of it      PUBCOMP       PUBREC is durable,     may have been published
//!                                            PUBREL may have left
//!   after a crash              not sent      PUBREL                 PUBLISH with DUP, same packet id
//! ```
//! A packet id is the row's number, so the cursor says everything that a resumed session needs: at QoS 2 a broker that has
//! kept the session takes each row once. On a session that it has lost, whatever is not delivered is published anew. What it
//! was asked, and whether its answer is known, is durable with the cursor: see `marks.rs`.

use std::sync::Arc;

use tidemill_engine::clock::Dice;
use tidemill_engine::source::Stop;
use tidemill_engine::storage::Storage;

use super::client::stored_or_new;
use super::credentials::{Credentials, Known};
use super::link::{Broker, Link, Message, Session};
use super::marks::{self, Marks, Noted};
use super::packet::{QoS, Version};
use super::publisher::{Before, Ended, Outbound, Supplied, Supply};
use super::reach::NoLink;
use super::sender::{Release, free_id};
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
    /// How often in a row the connection ended when marks were to be set.
    pub(super) marks_failed: u8,
}

/// A broker that ends the connection so often instead of refusing a mark gets none.
const MARKS_FAILED_MAX: u8 = 3;

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

    /// Connects on the session that is noted; what is asked is noted before it is.
    async fn connect(
        &mut self,
        desk: &mut Desk,
        noted: &mut Noted,
        session: Session,
        stop: &Stop,
    ) -> Result<Option<Link>, DeliveryError> {
        let known = self.publishing.credentials.read().await;
        let Known { username, password } = known.map_err(|error| DeliveryError::Failed(error.to_string()))?;
        let broker = Broker { username, password, ..self.publishing.broker.clone() };
        loop {
            let version = self.publishing.version;
            let link = async {
                let stream = Link::reach(&broker).await?;
                if session == Session::Kept && version == Version::V5 {
                    note_asking(desk, noted).await.map_err(|error| NoLink::Failed(error.to_string()))?;
                }
                Link::greet(stream, &broker, version, session).await
            };
            let link = tokio::select! {
                link = link => link,
                () = stop.cancelled() => return Ok(None),
            };
            match link {
                Ok(link) => return Ok(Some(link)),
                Err(NoLink::Older) => self.publishing.version = Version::V311,
                Err(NoLink::Failed(why)) => return Err(DeliveryError::Failed(why)),
            }
        }
    }

    /// Finds out whether the session that the broker has is the one that is noted; makes that durable.
    async fn recognize(
        &mut self,
        desk: &mut Desk,
        link: &mut Link,
        noted: &mut Noted,
        was_asking: bool,
    ) -> Result<Session, DeliveryError> {
        if was_asking {
            match noted.marks.spend() {
                Some((mark, left)) => {
                    noted.marks = left;
                    desk.note_session(&noted.to_string()).await?;
                    let id = free_id(desk.durable().delivered);
                    let asked = marks::ask(link, &self.publishing.broker.client_id, mark, id).await;
                    match asked.map_err(DeliveryError::Failed)? {
                        Some(true) => self.mark(desk, link, noted).await?,
                        Some(false) => return Ok(Session::Clean),
                        None => {}
                    }
                }
                None => tracing::warn!(
                    "the broker has a session of ours, and cannot be asked whether it has lost one since this program was stopped: it is taken for the one we know"
                ),
            }
        }
        if std::mem::take(&mut noted.is_asking) {
            desk.note_session(&noted.to_string()).await?;
        }
        Ok(Session::Kept)
    }

    /// Sets the marks of a session.
    async fn mark(&mut self, desk: &mut Desk, link: &mut Link, noted: &mut Noted) -> Result<(), DeliveryError> {
        let id = free_id(desk.durable().delivered);
        let set = marks::set(link, &self.publishing.broker.client_id, id).await;
        self.marks_failed = if set.is_ok() { 0 } else { self.marks_failed + 1 };
        noted.marks = match set {
            Err(why) if self.marks_failed < MARKS_FAILED_MAX => return Err(DeliveryError::Failed(why)),
            Err(_) => Marks::Refused,
            Ok(marks) => marks,
        };
        if noted.marks == Marks::Refused {
            tracing::info!("the broker takes no subscription of a sink; see docs/mqtt.md for what that costs");
        }
        desk.note_session(&noted.to_string()).await
    }
}

/// Makes durable that a CONNECT may leave, if its answer matters.
async fn note_asking(desk: &mut Desk, noted: &mut Noted) -> Result<(), DeliveryError> {
    desk.flush().await?;
    let Progress { delivered, received } = desk.durable();
    // What the broker has received and not confirmed is lost with its session.
    if received > delivered {
        noted.is_asking = true;
        desk.note_session(&noted.to_string()).await?;
    }
    Ok(())
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
        let mut noted = Noted::read(desk.session());
        let was_asking = noted.is_asking;
        let wanted = if noted.name == name { Session::Kept } else { Session::Clean };
        let Some(mut link) = self.connect(desk, &mut noted, wanted, stop).await? else { return Ok(()) };
        if let Some(lack) = link.lacks(qos, retain) {
            return Err(DeliveryError::Failed(lack));
        }
        let session = match link.connack.session_present && wanted == Session::Kept {
            true => self.recognize(desk, &mut link, &mut noted, was_asking).await?,
            false => Session::Clean,
        };
        if session == Session::Clean {
            if wanted == Session::Kept {
                tracing::warn!(broker = %format_args!("{}:{}", broker.host, broker.port), "the broker has lost our session: what it had not confirmed is published again");
            }
            noted = Noted::begun(&name);
            desk.begin_session(&noted.to_string()).await?;
        }
        if qos == QoS::ExactlyOnce && self.publishing.version == Version::V5 && noted.marks == Marks::Untried {
            self.mark(desk, &mut link, &mut noted).await?;
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
