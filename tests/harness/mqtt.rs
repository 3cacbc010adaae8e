//! A device that publishes over MQTT and knows what was acknowledged, through any number of broken links.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rumqttc_v4::{AsyncClient, MqttOptions, NetworkOptions, PublishNotice, PublishOptions, QoS};
use tokio::task::JoinHandle;

/// Time between two attempts to connect.
const RECONNECT: Duration = Duration::from_millis(50);
/// Neither a pause of the test nor one of the program is a broken link: who is killed is noticed without it.
const KEEP_ALIVE_S: u16 = 60;
/// From connecting to CONNACK.
const HANDSHAKE_S: u64 = 60;
/// Requests that wait for the link.
const QUEUE_MAX: usize = 16;
/// Messages on the wire that wait for their acknowledgement.
const IN_FLIGHT_MAX: u16 = 1_000;

/// A client with a session that survives its links, as a device with a QoS 1 library is.
pub(crate) struct Device {
    client: AsyncClient,
    links: Arc<AtomicU64>,
    link_loop: JoinHandle<()>,
}

impl Device {
    /// Connects, and connects again whenever the link breaks.
    pub(crate) fn connect(port: u16, id: &str) -> Device {
        let mut options = MqttOptions::new(id, ("127.0.0.1", port));
        options.set_clean_session(false).set_keep_alive(KEEP_ALIVE_S).set_inflight(IN_FLIGHT_MAX);
        let (client, mut events) = AsyncClient::builder(options).capacity(QUEUE_MAX).build();
        let mut network = NetworkOptions::new();
        network.set_connection_timeout(HANDSHAKE_S);
        events.set_network_options(network);
        let links = Arc::new(AtomicU64::new(0));
        let broken = Arc::clone(&links);
        let link_loop = tokio::spawn(async move {
            loop {
                if events.poll().await.is_err() {
                    broken.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(RECONNECT).await;
                }
            }
        });
        Device { client, links, link_loop }
    }

    /// Returns how often the link broke.
    pub(crate) fn broken_links(&self) -> u64 {
        self.links.load(Ordering::SeqCst)
    }

    /// Sends a message at QoS 1; the notice resolves when it is acknowledged, or fails when nobody can know.
    pub(crate) async fn send(&self, topic: &str, payload: String) -> PublishNotice {
        let options = PublishOptions::new(QoS::AtLeastOnce);
        self.client.publish_tracked(topic, payload, options).await.expect("the client lives as long as its loop")
    }

    /// Sends a message at QoS 1 until it is acknowledged. Returns whether it may have been delivered more than once.
    pub(crate) async fn send_until_acknowledged(&self, topic: &str, payload: &str) -> bool {
        let before = self.broken_links();
        let mut sends = 0u64;
        loop {
            sends += 1;
            if self.send(topic, payload.to_owned()).await.wait_completion_async().await.is_ok() {
                return sends > 1 || self.broken_links() != before;
            }
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.link_loop.abort();
    }
}
