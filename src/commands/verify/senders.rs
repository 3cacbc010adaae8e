//! The senders: one for each source, each with a ledger. They go on through any number of kills.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rumqttc_v4::{AsyncClient, MqttOptions, PublishOptions, QoS};
use tidemill::{Error, Result};
use tidemill_engine::source::Stop;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::ledger::{Fate, Ledger};
use super::pipeline::{Fed, Way};
use super::rows::Encoding;

/// Time between two groups of rows.
const PACE: Duration = Duration::from_millis(20);
/// Pause before a lost connection is tried again.
const RECONNECT: Duration = Duration::from_millis(30);
/// A request that takes longer is given up, and nobody knows.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// An acknowledgement that takes longer is an error: the program is there again much earlier.
const ACKNOWLEDGED_MAX: Duration = Duration::from_secs(120);
/// Requests that wait in the MQTT client.
const QUEUE_MAX: usize = 64;

/// Feeds one source.
pub(super) struct Sender {
    fed: Fed,
    ledger: Arc<parking_lot::Mutex<Ledger>>,
    link: Link,
    /// The next row.
    next: u64,
}

/// The connection to a source.
enum Link {
    Http { client: reqwest::Client, url: String, content_type: &'static str },
    Mqtt { client: AsyncClient, broken: Arc<AtomicU64>, link_loop: JoinHandle<()> },
}

/// What came of a request.
enum Sent {
    Acknowledged(Fate),
    /// Nothing of it was stored, and it may be sent again.
    Refused,
    /// The connection broke: nobody knows.
    Unknown,
}

impl Sender {
    /// Begins a ledger; the connection is made once there is something to send.
    pub(super) fn new(fed: Fed, http: u16, ledger: &Path) -> Result<Sender> {
        let ledger = Ledger::create(ledger).map_err(|error| unwritable(&error))?;
        let link = match fed.way {
            Way::Http => Link::Http {
                client: reqwest::Client::builder()
                    .timeout(ANSWER_MAX)
                    .no_proxy()
                    .build()
                    .map_err(|error| Error::Environment(format!("cannot send over HTTP: {error}")))?,
                url: format!("http://127.0.0.1:{http}/api/v1/ingest/{}", fed.name),
                content_type: match fed.rows.encoding {
                    Encoding::Json => "application/x-ndjson",
                    Encoding::Csv(_) => "text/csv",
                },
            },
            Way::Mqtt(port) => connect(&format!("verify-{}", fed.name), port),
        };
        Ok(Sender { fed, ledger: Arc::new(parking_lot::Mutex::new(ledger)), link, next: 0 })
    }

    /// Sends rows until the deadline, or until all are sent.
    pub(super) async fn run(mut self, until: Instant, rows_each_second: u64, stop: Stop) -> Result<Sender> {
        let mut turns = interval(PACE);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let began = Instant::now();
        while self.next < self.fed.count && Instant::now() < until {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = turns.tick() => {}
            }
            // What was missed while the program was down is made up for.
            let due = (began.elapsed().as_secs_f64() * rows_each_second as f64) as u64;
            let due = due.saturating_add(1).min(self.fed.count);
            let most = match self.link {
                Link::Http { .. } => HTTP_ROWS_MAX,
                Link::Mqtt { .. } => self.fed.rows.group,
            };
            while self.next < due && Instant::now() < until && !stop.is_cancelled() {
                let rows = self.next..due.min(self.next + most);
                self.send(rows.clone(), until).await?;
                self.next = rows.end;
            }
        }
        Ok(self)
    }

    /// Sends the row that closes all windows. The program must be there.
    pub(super) async fn close(&mut self) -> Result<()> {
        if !self.fed.rows.has_time() {
            return Ok(());
        }
        let (row, time_us) = (self.fed.count, self.fed.closing_us);
        let body = self.fed.rows.encode_at(row, time_us);
        let deadline = Instant::now() + ACKNOWLEDGED_MAX;
        while Instant::now() < deadline {
            let sent = match &self.link {
                Link::Http { client, url, content_type } => post(client, url, content_type, body.clone()).await?,
                Link::Mqtt { client, broken, .. } => {
                    let message = (self.fed.rows.topic(row), body.clone());
                    publish(client, broken, vec![message]).await?
                }
            };
            match sent {
                Sent::Acknowledged(_) => return Ok(()),
                Sent::Refused => sleep(RECONNECT).await,
                Sent::Unknown => {
                    return Err(Error::Environment(format!("source {}: the last row got no answer", self.fed.name)));
                }
            }
        }
        Err(Error::Environment(format!("source {}: the last row is not acknowledged", self.fed.name)))
    }

    async fn send(&self, rows: Range<u64>, until: Instant) -> Result<()> {
        let (ledger, about) = (Arc::clone(&self.ledger), rows.clone());
        // Durable before the first byte leaves.
        tokio::task::spawn_blocking(move || ledger.lock().sending(&about))
            .await
            .map_err(|error| Error::Internal(error.to_string()))?
            .map_err(|error| unwritable(&error))?;
        let fate = match &self.link {
            Link::Http { client, url, content_type } => {
                let body = self.fed.rows.encode(rows.clone());
                loop {
                    match post(client, url, content_type, body.clone()).await? {
                        Sent::Acknowledged(fate) => break fate,
                        Sent::Unknown => break Fate::Unknown,
                        // Never stored, and nobody waits for it any more.
                        Sent::Refused if Instant::now() >= until => break Fate::Unknown,
                        Sent::Refused => sleep(RECONNECT).await,
                    }
                }
            }
            Link::Mqtt { client, broken, .. } => {
                let one = |row: u64| (self.fed.rows.topic(row), self.fed.rows.encode(row..row + 1));
                match publish(client, broken, rows.clone().map(one).collect()).await? {
                    Sent::Acknowledged(fate) => fate,
                    Sent::Refused | Sent::Unknown => Fate::Unknown,
                }
            }
        };
        self.ledger.lock().ended(&rows, fate).map_err(|error| unwritable(&error))
    }
}

/// Rows of a request.
const HTTP_ROWS_MAX: u64 = 500;

impl Drop for Link {
    fn drop(&mut self) {
        if let Link::Mqtt { link_loop, .. } = self {
            link_loop.abort();
        }
    }
}

fn unwritable(error: &std::io::Error) -> Error {
    Error::Environment(format!("cannot write the ledger: {error}"))
}

async fn post(client: &reqwest::Client, url: &str, content_type: &str, body: String) -> Result<Sent> {
    match client.post(url).header("content-type", content_type).body(body).send().await {
        Ok(answer) => {
            let status = answer.status();
            if status.is_success() {
                return Ok(Sent::Acknowledged(Fate::Acknowledged));
            }
            if status.is_server_error() || status.as_u16() == 429 || status.as_u16() == 404 {
                return Ok(Sent::Refused);
            }
            let why = answer.text().await.unwrap_or_default();
            Err(Error::Internal(format!(
                "the program refuses rows that verify has made for it, with {status}: {}; please report it",
                why.trim()
            )))
        }
        // Nobody was there to hear it.
        Err(error) if error.is_connect() => Ok(Sent::Refused),
        Err(error) => {
            tracing::debug!(%error, "post");
            Ok(Sent::Unknown)
        }
    }
}

/// Connects, and connects again whenever the link breaks. The session survives the links, as a device's does.
fn connect(id: &str, port: u16) -> Link {
    let mut options = MqttOptions::new(id, ("127.0.0.1", port));
    options.set_clean_session(false).set_keep_alive(5);
    let (client, mut events) = AsyncClient::builder(options).capacity(QUEUE_MAX).build();
    let broken = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&broken);
    let link_loop = tokio::spawn(async move {
        loop {
            if let Err(error) = events.poll().await {
                tracing::debug!(%error, "MQTT connection lost; trying again");
                counted.fetch_add(1, Ordering::SeqCst);
                sleep(RECONNECT).await;
            }
        }
    });
    Link::Mqtt { client, broken, link_loop }
}

/// Publishes messages at QoS 1 until all are acknowledged. What was on the way when a link broke may be there twice.
async fn publish(client: &AsyncClient, broken: &AtomicU64, messages: Vec<(String, String)>) -> Result<Sent> {
    let gone = |error: String| Error::Internal(format!("the MQTT client has ended: {error}"));
    let before = broken.load(Ordering::SeqCst);
    let sending = async {
        let mut waiting = messages;
        let mut sends = 0;
        while !waiting.is_empty() {
            sends += 1;
            let mut notices = Vec::with_capacity(waiting.len());
            for (topic, payload) in waiting {
                let options = PublishOptions::new(QoS::AtLeastOnce);
                let notice = client.publish_tracked(topic.clone(), payload.clone(), options).await;
                notices.push((topic, payload, notice.map_err(|error| gone(error.to_string()))?));
            }
            waiting = Vec::new();
            for (topic, payload, notice) in notices {
                if notice.wait_completion_async().await.is_err() {
                    waiting.push((topic, payload));
                }
            }
        }
        let repeated = sends > 1 || broken.load(Ordering::SeqCst) != before;
        Ok(Sent::Acknowledged(if repeated { Fate::Repeated } else { Fate::Acknowledged }))
    };
    timeout(ACKNOWLEDGED_MAX, sending).await.unwrap_or(Ok(Sent::Unknown))
}
