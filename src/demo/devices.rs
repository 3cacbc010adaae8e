//! The freezers on the wire: real MQTT and HTTP connections to our own ports, two messages a second from each freezer.
//!
//! The freezers of a site share one connection, as behind a gateway; half of the gateways speak MQTT 3.1.1, half 5.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidemill_engine::clock::Clock;
use tidemill_engine::source::Stop;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::freezer::{self, Fate, Freezer, Link, Message};

/// Time between two readings of one freezer.
const PERIOD: Duration = Duration::from_millis(500);
/// Late messages that one site holds at most; more are sent at once.
const HELD_MAX: usize = 64;
/// Messages that wait in a client at most, before its site waits too.
const CLIENT_QUEUE: usize = 64;
/// Pause before a lost connection is tried again.
const RECONNECT: Duration = Duration::from_secs(1);
/// How long a site waits for its last acknowledgements when the demo ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// What was sent so far.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Messages, repeated ones included.
    pub(super) messages: AtomicU64,
    /// Of these: held back first.
    pub(super) late: AtomicU64,
    /// Of these: the second of two equal ones.
    pub(super) twice: AtomicU64,
    /// Of these: not JSON.
    pub(super) garbled: AtomicU64,
    /// Posts that were refused, or got no answer.
    pub(super) refused: AtomicU64,
}

/// All sites, running.
pub(super) struct Devices {
    tasks: JoinSet<()>,
    pub(super) sent: Arc<Sent>,
}

impl Devices {
    /// Connects every site and begins to send, until `stop`.
    pub(super) fn start(mqtt: SocketAddr, http: SocketAddr, clock: Arc<dyn Clock>, stop: &Stop) -> Self {
        let sent = Arc::new(Sent::default());
        let mut tasks = JoinSet::new();
        for (idx, freezers) in freezer::fleet().into_iter().enumerate() {
            let uplink = match freezers[0].link {
                Link::Http => Uplink::Http(reqwest::Client::new(), format!("http://{http}/api/v1/ingest/readings")),
                Link::Mqtt if idx % 2 == 0 => connect_v4(&freezers[0].site, mqtt, &mut tasks, stop),
                Link::Mqtt => connect_v5(&freezers[0].site, mqtt, &mut tasks, stop),
            };
            let site = Site { freezers, uplink, clock: Arc::clone(&clock), sent: Arc::clone(&sent) };
            tasks.spawn(site.run(stop.clone()));
        }
        Devices { tasks, sent }
    }

    /// Waits until every site has said goodbye; `stop` must be cancelled before.
    pub(super) async fn ended(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

struct Site {
    freezers: Vec<Freezer>,
    uplink: Uplink,
    clock: Arc<dyn Clock>,
    sent: Arc<Sent>,
}

impl Site {
    async fn run(mut self, stop: Stop) {
        // The freezers take turns, so that a site sends evenly instead of in bursts.
        let count = self.freezers.len();
        let mut turns = interval(PERIOD / u32::try_from(count).expect("a handful of freezers"));
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let started = Instant::now();
        let mut held: VecDeque<(Instant, usize, String)> = VecDeque::new();
        for turn in 0_usize.. {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = turns.tick() => {}
            }
            let freezer_idx = turn % count;
            let message = self.freezers[freezer_idx].measure(self.clock.now_us(), started.elapsed().as_secs_f64());
            let due = release_due(&mut held);
            let sending = async {
                for (idx, payload) in due {
                    self.send(idx, payload, &self.sent.late).await;
                }
                self.dispatch(freezer_idx, message, &mut held).await;
            };
            // A full client must not keep the demo from ending.
            tokio::select! {
                () = stop.cancelled() => break,
                () = sending => {}
            }
        }
        self.uplink.close().await;
    }

    async fn dispatch(&self, freezer_idx: usize, message: Message, held: &mut VecDeque<(Instant, usize, String)>) {
        let no_kind = AtomicU64::new(0);
        match message.fate {
            Fate::Late(by) if held.len() < HELD_MAX => {
                held.push_back((Instant::now() + by, freezer_idx, message.payload));
            }
            Fate::Late(_) | Fate::Prompt => self.send(freezer_idx, message.payload, &no_kind).await,
            Fate::Garbled => self.send(freezer_idx, message.payload, &self.sent.garbled).await,
            Fate::Twice => {
                self.send(freezer_idx, message.payload.clone(), &no_kind).await;
                self.send(freezer_idx, message.payload, &self.sent.twice).await;
            }
        }
    }

    async fn send(&self, freezer_idx: usize, payload: String, kind: &AtomicU64) {
        let freezer = &self.freezers[freezer_idx];
        let topic = format!("plant/{}/{}/telemetry", freezer.site, freezer.name);
        if self.uplink.send(topic, payload).await {
            self.sent.messages.fetch_add(1, Ordering::Relaxed);
            kind.fetch_add(1, Ordering::Relaxed);
        } else {
            self.sent.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Takes out what is due; late messages overtake each other, as in life.
fn release_due(held: &mut VecDeque<(Instant, usize, String)>) -> Vec<(usize, String)> {
    let now = Instant::now();
    let mut due = Vec::new();
    held.retain_mut(|(at, idx, payload)| {
        let is_due = *at <= now;
        if is_due {
            due.push((*idx, std::mem::take(payload)));
        }
        !is_due
    });
    due
}

enum Uplink {
    V4(rumqttc_v4::AsyncClient),
    V5(rumqttc_v5::AsyncClient),
    Http(reqwest::Client, String),
}

impl Uplink {
    /// Sends one message; says whether it was taken (HTTP: acknowledged as durable).
    async fn send(&self, topic: String, payload: String) -> bool {
        match self {
            Uplink::V4(client) => {
                client.publish(topic, payload, rumqttc_v4::PublishOptions::at_least_once()).await.is_ok()
            }
            Uplink::V5(client) => {
                client.publish(topic, payload, rumqttc_v5::PublishOptions::at_least_once()).await.is_ok()
            }
            Uplink::Http(client, url) => match client.post(url).body(payload).send().await {
                Ok(answer) => answer.status().is_success(),
                Err(error) => {
                    tracing::debug!(%error, "post");
                    false
                }
            },
        }
    }

    /// Waits for the acknowledgements that are still out, then disconnects.
    async fn close(&self) {
        let _ = match self {
            Uplink::V4(client) => client.disconnect_with_timeout(FAREWELL).await.is_ok(),
            Uplink::V5(client) => client.disconnect_with_timeout(FAREWELL).await.is_ok(),
            Uplink::Http(..) => true,
        };
    }
}

fn connect_v4(site: &str, to: SocketAddr, tasks: &mut JoinSet<()>, stop: &Stop) -> Uplink {
    let mut options = rumqttc_v4::MqttOptions::new(format!("demo-{site}"), (to.ip().to_string(), to.port()));
    options.set_keep_alive(30);
    let (client, mut events) = rumqttc_v4::AsyncClient::builder(options).capacity(CLIENT_QUEUE).build();
    tasks.spawn(drive(stop.clone(), async move || match events.poll().await {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }));
    Uplink::V4(client)
}

fn connect_v5(site: &str, to: SocketAddr, tasks: &mut JoinSet<()>, stop: &Stop) -> Uplink {
    let mut options = rumqttc_v5::MqttOptions::new(format!("demo-{site}"), (to.ip().to_string(), to.port()));
    options.set_keep_alive(30);
    let (client, mut events) = rumqttc_v5::AsyncClient::builder(options).capacity(CLIENT_QUEUE).build();
    tasks.spawn(drive(stop.clone(), async move || match events.poll().await {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }));
    Uplink::V5(client)
}

/// Keeps a connection going, and after `stop` only as long as its farewell takes.
async fn drive(stop: Stop, mut poll: impl AsyncFnMut() -> Result<(), String>) {
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => break,
            polled = poll() => if let Err(error) = polled {
                tracing::debug!(error, "MQTT connection lost; trying again");
                sleep(RECONNECT).await;
            }
        }
    }
    let farewell = async { while poll().await.is_ok() {} };
    let _ = timeout(FAREWELL + RECONNECT, farewell).await;
}
