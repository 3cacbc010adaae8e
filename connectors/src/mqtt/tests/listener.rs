//! The listener against raw bytes, and against the publishers of the rumqttc family.

use std::net::SocketAddr;
use std::sync::Arc;

use tidemill_engine::source::{Resume, Source, SourceError, Stop};
use tokio::task::JoinHandle;

use super::*;
use crate::mqtt::{MqttListener, listener};

pub(super) struct Running {
    address: SocketAddr,
    task: JoinHandle<Result<(), SourceError>>,
    stop: Stop,
    pub(super) intake: Arc<HandIntake>,
}

impl Running {
    pub(super) async fn start(intake: Arc<HandIntake>, extra: &[(&str, &str)]) -> Running {
        Running::start_in(intake, extra, &context()).await
    }

    pub(super) async fn start_in(intake: Arc<HandIntake>, extra: &[(&str, &str)], context: &Context) -> Running {
        Running::start_with(intake, extra, context, |_| ()).await
    }

    /// Starts one that is changed before it runs.
    pub(super) async fn start_with(
        intake: Arc<HandIntake>,
        extra: &[(&str, &str)],
        context: &Context,
        change: impl FnOnce(&mut MqttListener),
    ) -> Running {
        let mut pairs = vec![("bind", "127.0.0.1:0"), ("topic", "plant/{site}/#")];
        pairs.extend_from_slice(extra);
        let mut options = options(&pairs);
        let (mut source, pattern) = listener("devices", &mut options, context).expect("good options");
        options.finish().expect("every option is taken");
        assert_eq!(pattern.columns(), ["site"]);
        change(&mut source);
        source.prepare().await.expect("a free port");
        let address = source.local_addr().expect("prepared");
        let stop = Stop::new();
        let notes = intake.inner.lock().notes.clone();
        let resume = vec![Resume { partition: "listener".to_owned(), notes, ..Resume::default() }];
        let task = tokio::spawn({
            let (intake, stop) = (Arc::clone(&intake), stop.clone());
            async move { source.run(intake, resume, stop).await }
        });
        Running { address, task, stop, intake }
    }

    /// Ends it as a crash does: nothing is said, and nothing more is written.
    pub(super) fn crash(self) {
        self.task.abort();
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(super) async fn peer(&self) -> Peer {
        Peer(TcpStream::connect(self.address).await.expect("connect"))
    }

    /// Connects with 3.1.1.
    pub(super) async fn device4(&self, id: &str) -> Peer {
        let mut peer = self.peer().await;
        peer.send(&connect4(id, 60)).await;
        peer.expect(&[0x20, 2, 0, 0]).await;
        peer
    }

    /// Connects with version 5.
    pub(super) async fn device5(&self, id: &str) -> Peer {
        let mut peer = self.peer().await;
        peer.send(&connect5(id, 60)).await;
        let connack = peer.packet().await.expect("CONNACK");
        assert_eq!((connack[0], connack[2], connack[3]), (0x20, 0, 0));
        peer
    }

    pub(super) async fn end(self) -> Result<(), SourceError> {
        soon("the end of the source", self.task).await.expect("no panic")
    }
}

pub(super) fn connect4(id: &str, keep_alive: u8) -> Vec<u8> {
    packet(0x10, &[&field(b"MQTT"), &[4, 2, 0, keep_alive], &field(id.as_bytes())])
}

pub(super) fn connect5(id: &str, keep_alive: u8) -> Vec<u8> {
    packet(0x10, &[&field(b"MQTT"), &[5, 2, 0, keep_alive], NO_PROPERTIES, &field(id.as_bytes())])
}

#[tokio::test]
async fn puback_waits_for_the_receipt_in_both_versions() {
    let running = Running::start(HandIntake::by_hand(), &[]).await;
    let mut four = running.device4("four").await;
    four.send(&[publish4("plant/a/b", 7, "1"), publish4("plant/a/b", 0, "2"), PINGREQ.to_vec()].concat()).await;
    four.expect(PINGRESP).await;
    running.intake.until_messages(2).await;
    let chunks = running.intake.inner.lock().open.len();
    running.intake.release(chunks);
    four.expect(&puback(7)).await;

    let mut five = running.device5("five").await;
    five.send(&[publish5("plant/a/b", 8, NO_PROPERTIES, "3"), PINGREQ.to_vec()].concat()).await;
    five.expect(PINGRESP).await;
    running.intake.until_messages(3).await;
    running.intake.release(1);
    five.expect(&puback(8)).await;
    assert_eq!(running.intake.payloads(), ["1", "2", "3"]);
    assert_eq!(running.intake.inner.lock().partitions, ["listener"]);
    assert!(running.intake.inner.lock().connected);
}

#[tokio::test]
async fn what_one_read_brings_is_one_chunk() {
    let running = Running::start(HandIntake::by_itself(), &[]).await;
    let mut peer = running.peer().await;
    let many: Vec<u8> = (1..=100).flat_map(|id| publish4("plant/a/b", id, "x")).collect();
    peer.send(&[connect4("device", 60), many].concat()).await;
    peer.expect(&[0x20, 2, 0, 0]).await;
    for id in 1..=100 {
        peer.expect(&puback(id)).await;
    }
    // One segment over loopback; two reads at the most.
    assert!(running.intake.inner.lock().chunks.len() <= 2, "{}", running.intake.inner.lock().chunks.len());
}

#[tokio::test]
async fn the_connack_of_version_5_says_what_we_can() {
    let running = Running::start(HandIntake::by_itself(), &[]).await;
    let mut peer = running.peer().await;
    // A session of an hour is asked for, and no client id given.
    let asked = packet(0x10, &[&field(b"MQTT"), &[5, 0, 0, 60, 5, 17, 0, 0, 14, 16], &field(b"")]);
    peer.send(&asked).await;
    let connack = peer.packet().await.expect("CONNACK");
    // The hour is granted. Receive Maximum 16,384; 16 MiB; an id; 64 aliases; no shared subscriptions.
    let before_id = [33, 0x40, 0, 39, 1, 0, 0, 0, 18, 0, 23];
    assert_eq!(connack[..5], [0x20, 42, 0, 0, 39]);
    assert_eq!(connack[5..16], before_id);
    assert_eq!(&connack[16..24], b"tidemill");
    assert_eq!(connack[39..], [34, 0, 64, 42, 0]);
}

#[tokio::test]
async fn short_aliases_of_a_long_topic_do_not_make_a_huge_chunk() {
    let running = Running::start(HandIntake::by_itself(), &[]).await;
    let mut peer = running.device5("five").await;
    let topic = format!("plant/{}", "t".repeat(60_000));
    let defined = publish5(&topic, 0, &[3, 35, 0, 1], "");
    let used = publish5("", 0, &[3, 35, 0, 1], "");
    peer.send(&[defined, used.repeat(2_000), publish5("", 1, &[3, 35, 0, 1], "last")].concat()).await;
    peer.expect(&puback(1)).await;
    let inner = running.intake.inner.lock();
    assert_eq!(inner.chunks.iter().map(Vec::len).sum::<usize>(), 2_002);
    for chunk in &inner.chunks {
        let bytes: usize = chunk.iter().map(|message| message.topic.len() + message.payload.len()).sum();
        assert!(bytes <= (1 << 20) + topic.len(), "{bytes}");
    }
}

#[tokio::test]
async fn qos_2_is_logged_once_and_completed_when_its_release_is_durable() {
    let running = Running::start(HandIntake::by_hand(), &[]).await;
    let twice = |first: u8, properties: &[u8]| packet(first, &[&field(b"plant/a/b"), &[0, 2], properties, b"2"]);
    for (mut device, properties) in
        [(running.device5("five").await, NO_PROPERTIES), (running.device4("four").await, &[][..])]
    {
        let chunks = running.intake.inner.lock().chunks.len();
        device.send(&[twice(0x34, properties), twice(0x3C, properties)].concat()).await;
        running.intake.until_chunks(chunks + 1).await;
        running.intake.release(1);
        device.expect(&[0x50, 2, 0, 2]).await;
        device.expect(&[0x50, 2, 0, 2]).await;
        device.send(&[0x62, 2, 0, 2]).await;
        device.expect(&[0x70, 2, 0, 2]).await;
    }
    assert_eq!(running.intake.payloads(), ["2", "2"], "once for each device");
}

#[tokio::test]
async fn a_topic_outside_the_pattern_is_kept_and_counted() {
    let running = Running::start(HandIntake::by_itself(), &[]).await;
    let mut five = running.device5("five").await;
    five.send(&publish5("elsewhere", 1, NO_PROPERTIES, "x")).await;
    five.expect(&packet(0x40, &[&[0, 1, 0x10]])).await;
    let mut four = running.device4("four").await;
    four.send(&publish4("elsewhere", 1, "y")).await;
    four.expect(&puback(1)).await;
    let kept = [("elsewhere", "x"), ("elsewhere", "y")].map(|(t, p)| (t.to_owned(), p.to_owned()));
    assert_eq!(running.intake.messages(), kept);
    assert_eq!(running.intake.inner.lock().errors, ["topic", "topic"]);
}

#[tokio::test]
async fn what_breaks_the_protocol_is_told_why() {
    let running = Running::start(HandIntake::by_itself(), &[]).await;
    for (what, bytes, code) in [
        ("QoS 3", packet(0x36, &[&field(b"a"), &[0, 1, 0]]), 0x81),
        ("a second CONNECT", connect5("five", 60), 0x82),
        ("an undefined alias", publish5("", 1, &[3, 35, 0, 9], "x"), 0x94),
        ("an alias over the maximum", publish5("plant/a/b", 1, &[3, 35, 0, 65], "x"), 0x94),
        ("an oversize packet", vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F], 0x95),
        ("a SUBACK", packet(0x90, &[&[0, 1, 0, 0]]), 0x82),
        ("AUTH", vec![0xF0, 0], 0x82),
    ] {
        let mut peer = running.device5("five").await;
        peer.send(&bytes).await;
        let got = peer.packet().await.expect(what);
        assert_eq!((got[0], got[2]), (0xE0, code), "{what}: {got:02x?}");
        peer.expect_end().await;
    }
    assert!(running.intake.messages().is_empty());
    assert_eq!(running.intake.inner.lock().errors.len(), 7);
}

#[tokio::test]
async fn the_first_packet_must_be_a_connect_we_understand() {
    let running = Running::start(HandIntake::by_itself(), &[("username", "u"), ("password", "p")]).await;
    let old = packet(0x10, &[&field(b"MQIsdp"), &[3, 2, 0, 60], &field(b"old")]);
    let new = packet(0x10, &[&field(b"MQTT"), &[6, 2, 0, 60, 0], &field(b"new")]);
    let wrong4 = packet(0x10, &[&field(b"MQTT"), &[4, 0xC2, 0, 60], &field(b"a"), &field(b"u"), &field(b"no")]);
    let wrong5 = packet(0x10, &[&field(b"MQTT"), &[5, 0xC2, 0, 60, 0], &field(b"a"), &field(b"u"), &field(b"no")]);
    let right = packet(0x10, &[&field(b"MQTT"), &[4, 0xC2, 0, 60], &field(b"a"), &field(b"u"), &field(b"p")]);
    for (bytes, answer) in [
        (old, Some(vec![0x20, 2, 0, 1])),
        (new, Some(vec![0x20, 3, 0, 0x84, 0])),
        (wrong4, Some(vec![0x20, 2, 0, 4])),
        (connect4("nobody", 60), Some(vec![0x20, 2, 0, 4])),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), None),
        (publish4("plant/a/b", 1, "x"), None),
        (packet(0x10, &[&field(b"HTTP"), &[4, 2, 0, 60]]), None),
        (right, Some(vec![0x20, 2, 0, 0])),
    ] {
        let mut peer = running.peer().await;
        peer.send(&bytes).await;
        assert_eq!(peer.packet().await, answer, "{bytes:02x?}");
    }
    let mut peer = running.peer().await;
    peer.send(&wrong5).await;
    assert_eq!(peer.packet().await.expect("CONNACK")[..4], [0x20, 30, 0, 0x86]);
}

#[tokio::test]
async fn an_empty_client_id_of_3_1_1_needs_a_clean_session() {
    let running = Running::start(HandIntake::by_itself(), &[]).await;
    let mut one = running.device4("").await;
    let mut two = running.device4("").await;
    for peer in [&mut one, &mut two] {
        peer.send(PINGREQ).await;
        peer.expect(PINGRESP).await;
    }
    let mut peer = running.peer().await;
    peer.send(&packet(0x10, &[&field(b"MQTT"), &[4, 0, 0, 60], &field(b"")])).await;
    peer.expect(&[0x20, 2, 0, 2]).await;
    peer.expect_end().await;
}

#[tokio::test]
async fn the_younger_connection_takes_a_client_id_over() {
    let running = Running::start(HandIntake::by_itself(), &[]).await;
    let mut older = running.device5("same").await;
    let mut younger = running.device5("same").await;
    older.expect_disconnect(0x8E).await;
    younger.send(&publish5("plant/a/b", 1, NO_PROPERTIES, "x")).await;
    younger.expect(&puback(1)).await;
    // The end of the older one did not free the id of the younger one.
    let _youngest = running.device5("same").await;
    younger.expect_disconnect(0x8E).await;
}

#[tokio::test]
async fn a_silent_device_is_disconnected_and_its_will_published() {
    let running = Running::start(HandIntake::by_itself(), &[]).await;
    let mut peer = running.peer().await;
    let will = [field(b"plant/a/status"), field(b"gone")].concat();
    peer.send(&packet(0x10, &[&field(b"MQTT"), &[5, 6, 0, 1], NO_PROPERTIES, &field(b"d"), NO_PROPERTIES, &will]))
        .await;
    peer.packet().await.expect("CONNACK");
    peer.expect_disconnect(0x8D).await;
    running.intake.until_messages(1).await;
    assert_eq!(running.intake.messages(), [("plant/a/status".to_owned(), "gone".to_owned())]);

    // A good-bye takes the will back.
    let mut peer = running.peer().await;
    peer.send(&packet(0x10, &[&field(b"MQTT"), &[4, 6, 0, 1], &field(b"e"), &will, &[]])).await;
    peer.expect(&[0x20, 2, 0, 0]).await;
    peer.send(&[publish4("plant/a/b", 1, "last"), vec![0xE0, 0]].concat()).await;
    peer.expect(&puback(1)).await;
    peer.expect_end().await;
    assert_eq!(running.intake.payloads(), ["gone", "last"]);
    assert_eq!(running.intake.inner.lock().errors, ["keep_alive"]);
}

#[tokio::test]
async fn a_stop_acknowledges_what_is_in_hand() {
    let running = Running::start(HandIntake::by_hand(), &[]).await;
    let mut five = running.device5("five").await;
    let mut four = running.device4("four").await;
    five.send(&publish5("plant/a/b", 1, NO_PROPERTIES, "1")).await;
    running.intake.until_chunks(1).await;
    four.send(&publish4("plant/a/b", 2, "2")).await;
    running.intake.until_chunks(2).await;
    running.stop.cancel();
    running.intake.release(2);
    five.expect(&puback(1)).await;
    five.expect_disconnect(0x8B).await;
    four.expect(&puback(2)).await;
    four.expect_end().await;
    drop((four, five));
    running.end().await.expect("a clean stop");
}

#[tokio::test]
async fn a_failed_log_ends_every_connection_unacknowledged() {
    let running = Running::start(HandIntake::by_hand(), &[]).await;
    let mut one = running.device4("one").await;
    let mut two = running.device4("two").await;
    one.send(&publish4("plant/a/b", 1, "1")).await;
    running.intake.until_chunks(1).await;
    running.intake.fail();
    one.expect_end().await;
    two.expect_end().await;
    drop((one, two));
    let error = running.end().await.expect_err("failed").to_string();
    assert!(error.contains("no space"), "{error}");
}

#[tokio::test]
async fn a_port_in_use_is_a_clear_sentence() {
    let running = Running::start(HandIntake::by_itself(), &[]).await;
    let bind = running.address.to_string();
    let mut options = options(&[("bind", &bind), ("topic", "a")]);
    let (source, _) = listener("second", &mut options, &context()).expect("good options");
    let Err(SourceError::Environment(text)) = source.prepare().await else { panic!("the port is taken") };
    assert!(text.starts_with(&format!("source second: {bind} is in use by another program")), "{text}");
}

#[tokio::test]
async fn connections_beyond_the_maximum_are_turned_away() {
    let running = Running::start(HandIntake::by_itself(), &[("max_connections", "1")]).await;
    let mut first = running.device4("first").await;
    running.peer().await.expect_end().await;
    running.intake.until_error("connections").await;
    first.send(PINGREQ).await;
    first.expect(PINGRESP).await;
    drop(first);
    // The place is free again, as soon as its task has ended.
    soon("a free place", async {
        loop {
            let mut peer = running.peer().await;
            peer.send(&connect4("second", 60)).await;
            if peer.packet().await.is_some() {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn bad_options_say_what_would_be_right() {
    for (pairs, words) in [
        (&[("topic", "a"), ("bind", "1883")][..], "option bind: \"1883\" is not an address"),
        (&[("topic", "a"), ("bind", ":1883")], "option bind:"),
        (&[("topic", "a"), ("username", "u")], "needs a password"),
        (&[("topic", "a"), ("max_connections", "0")], "must be at least 1"),
        (&[("bind", "127.0.0.1:0")], "option topic: is missing"),
    ] {
        let Err(error) = listener("s", &mut options(pairs), &context()) else { panic!("{words}") };
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_publisher_of_rumqttc_3_1_1_is_acknowledged() {
    use rumqttc_v4::{AsyncClient, Event, MqttOptions, Packet, PublishOptions};
    let running = Running::start(HandIntake::by_itself(), &[]).await;
    let options = MqttOptions::new("rumqttc-4", ("127.0.0.1", running.address.port()));
    let (client, mut events) = AsyncClient::builder(options).capacity(200).build();
    for number in 0..100 {
        client.publish("plant/lab/x", number.to_string(), PublishOptions::at_least_once()).await.expect("queued");
    }
    let mut acknowledged = 0;
    while acknowledged < 100 {
        if let Event::Incoming(Packet::PubAck(_)) = soon("an event", events.poll()).await.expect("connected") {
            acknowledged += 1;
        }
    }
    let expected: Vec<String> = (0..100).map(|number: u32| number.to_string()).collect();
    assert_eq!(running.intake.payloads(), expected);
}

#[tokio::test]
async fn a_publisher_of_rumqttc_5_is_acknowledged() {
    use rumqttc_v5::mqttbytes::v5::Packet;
    use rumqttc_v5::{AsyncClient, Event, MqttOptions, PublishOptions};
    let running = Running::start(HandIntake::by_itself(), &[]).await;
    let options = MqttOptions::new("rumqttc-5", ("127.0.0.1", running.address.port()));
    let (client, mut events) = AsyncClient::builder(options).capacity(200).build();
    for number in 0..100 {
        client.publish("plant/lab/x", number.to_string(), PublishOptions::at_least_once()).await.expect("queued");
    }
    let mut acknowledged = 0;
    while acknowledged < 100 {
        if let Event::Incoming(Packet::PubAck(_)) = soon("an event", events.poll()).await.expect("connected") {
            acknowledged += 1;
        }
    }
    let expected: Vec<String> = (0..100).map(|number: u32| number.to_string()).collect();
    assert_eq!(running.intake.payloads(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_idle_devices_and_one_that_publishes() {
    let running = Running::start(HandIntake::by_itself(), &[]).await;
    let mut idle = Vec::new();
    for number in 0..1_000 {
        idle.push(running.device4(&format!("idle-{number}")).await);
    }
    let mut busy = running.device4("busy").await;
    for id in 1..=50 {
        busy.send(&publish4("plant/a/b", id, "x")).await;
        busy.expect(&puback(id)).await;
    }
    for peer in &mut idle {
        peer.send(PINGREQ).await;
        peer.expect(PINGRESP).await;
    }
    assert_eq!(running.intake.payloads().len(), 50);
    drop((idle, busy));
    running.stop.cancel();
    timeout(PATIENCE, running.end()).await.expect("in time").expect("a clean stop");
}

#[tokio::test]
async fn it_listens_at_the_same_port_again_after_its_log_has_failed_and_after_a_start_that_was_given_up() {
    let (source, _) =
        listener("devices", &mut options(&[("bind", "127.0.0.1:0"), ("topic", "plant/{site}/#")]), &context())
            .expect("good options");
    let source = Arc::new(source);
    source.prepare().await.expect("a free port");
    let address = source.local_addr().expect("prepared");
    // A start that was given up leaves nobody waiting at the port.
    source.release();
    TcpStream::connect(address).await.expect_err("nobody listens");

    for run in 0..3 {
        source.prepare().await.expect("the port is free again");
        assert_eq!(source.local_addr(), Some(address));
        let (intake, stop) = (HandIntake::by_hand(), Stop::new());
        let task = tokio::spawn({
            let (source, intake, stop) = (Arc::clone(&source), Arc::clone(&intake), stop.clone());
            async move { source.run(intake, Vec::new(), stop).await }
        });
        let mut peer = Peer(TcpStream::connect(address).await.expect("connect"));
        peer.send(&connect4("device", 60)).await;
        peer.expect(&[0x20, 2, 0, 0]).await;
        peer.send(&publish4("plant/a/b", 7, "1")).await;
        intake.until_messages(1).await;
        if run < 2 {
            intake.fail();
            peer.expect_end().await;
            let ended = soon("the end of the source", task).await.expect("no panic");
            assert!(matches!(ended, Err(SourceError::Intake(IntakeError::LogFailed(_)))), "{ended:?}");
        } else {
            intake.release(1);
            peer.expect(&puback(7)).await;
            stop.cancel();
            soon("the end of the source", task).await.expect("no panic").expect("a good end");
        }
    }
}
