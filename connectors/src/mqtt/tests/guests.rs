//! The listener's clients beyond publishing: subscriptions, sessions, wills, passwords and rules, and crowds of them.

use std::sync::Arc;
use std::time::Duration;

use super::listener::{Running, connect4, connect5};
use super::*;
use crate::mqtt::MqttListener;
use crate::mqtt::listener::HANDSHAKES_MAX;
use crate::stall::Patience;

/// How long a crowd may take that shares two cores with other tests. It is no measure of speed: a client that is forgotten
/// would wait for ever.
const CROWD_PATIENCE: Duration = Duration::from_secs(300);

/// CONNECT of version 5 with Clean Start off and a session of an hour.
pub(super) fn connect5_kept(id: &str) -> Vec<u8> {
    packet(0x10, &[&field(b"MQTT"), &[5, 0, 0, 60, 5, 17, 0, 0, 14, 16], &field(id.as_bytes())])
}

/// CONNECT of 3.1.1 without a clean session.
pub(super) fn connect4_kept(id: &str) -> Vec<u8> {
    packet(0x10, &[&field(b"MQTT"), &[4, 0, 0, 60], &field(id.as_bytes())])
}

pub(super) fn subscribe4(id: u8, filter: &str, qos: u8) -> Vec<u8> {
    packet(0x82, &[&[0, id], &field(filter.as_bytes()), &[qos]])
}

pub(super) fn subscribe5(id: u8, filter: &str, options: u8) -> Vec<u8> {
    packet(0x82, &[&[0, id, 0], &field(filter.as_bytes()), &[options]])
}

async fn subscriber4(running: &Running, id: &str, filter: &str, qos: u8) -> Peer {
    let mut peer = running.device4(id).await;
    peer.send(&subscribe4(1, filter, qos)).await;
    peer.expect(&[0x90, 3, 0, 1, qos]).await;
    peer
}

/// Connects with bytes, and returns whether the session was there.
pub(super) async fn connected(running: &Running, connect: &[u8]) -> (Peer, bool) {
    let mut peer = running.peer().await;
    peer.send(connect).await;
    let connack = peer.packet().await.expect("CONNACK");
    assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:02x?}");
    (peer, connack[2] == 1)
}

#[tokio::test]
async fn a_subscriber_hears_what_is_durable_and_nothing_else() {
    let running = Running::start(HandIntake::by_hand(), &[]).await;
    let mut subscriber = subscriber4(&running, "reader", "plant/+/b", 1).await;
    let mut device = running.device4("device").await;
    device.send(&[publish4("plant/a/b", 1, "1"), publish4("plant/a/c", 2, "2")].concat()).await;
    running.intake.until_messages(2).await;
    subscriber.send(PINGREQ).await;
    subscriber.expect(PINGRESP).await;
    let chunks = running.intake.inner.lock().open.len();
    running.intake.release(chunks);
    let heard = subscriber.packet().await.expect("a message");
    assert_eq!(heard[0], 0x32, "QoS 1");
    assert_eq!(&heard[2..13], [&field(b"plant/a/b")[..]].concat());
    assert_eq!(heard[15..], *b"1");
    subscriber.send(&puback(u16::from_be_bytes([heard[13], heard[14]]))).await;
    subscriber.send(PINGREQ).await;
    subscriber.expect(PINGRESP).await;
}

#[tokio::test]
async fn a_subscription_brings_what_is_retained() {
    let running = Running::start(HandIntake::by_itself(), &[]).await;
    let mut device = running.device4("device").await;
    device.send(&packet(0x33, &[&field(b"plant/a/b"), &[0, 1], b"kept"])).await;
    device.expect(&puback(1)).await;
    let mut subscriber = subscriber4(&running, "reader", "plant/#", 0).await;
    subscriber.expect(&packet(0x31, &[&field(b"plant/a/b"), b"kept"])).await;
    device.send(&packet(0x33, &[&field(b"plant/a/b"), &[0, 2]])).await;
    device.expect(&puback(2)).await;
    // The end of it is heard as a message, and later subscribers hear nothing.
    subscriber.expect(&packet(0x30, &[&field(b"plant/a/b")])).await;
    let mut later = subscriber4(&running, "later", "plant/#", 0).await;
    later.send(PINGREQ).await;
    later.expect(PINGRESP).await;
}

#[tokio::test]
async fn what_cannot_be_subscribed_is_refused_by_its_reason() {
    let running = Running::start(HandIntake::by_itself(), &[]).await;
    let mut five = running.device5("five").await;
    for (filter, code) in [("$share/g/a", 0x9E), ("a/#/b", 0x8F), ("a+", 0x8F), ("a/#", 1)] {
        five.send(&subscribe5(9, filter, 1)).await;
        five.expect(&[0x90, 4, 0, 9, 0, code]).await;
    }
    five.send(&packet(0xA2, &[&[0, 10, 0], &field(b"a/#"), &field(b"other")])).await;
    five.expect(&[0xB0, 5, 0, 10, 0, 0, 0x11]).await;
    let mut four = running.device4("four").await;
    four.send(&subscribe4(9, "$share/g/a", 1)).await;
    four.expect(&[0x90, 3, 0, 9, 0x80]).await;
}

#[tokio::test]
async fn a_session_is_there_after_a_crash_with_its_held_ids_and_subscriptions() {
    let log = HandIntake::by_itself();
    let running = Running::start(Arc::clone(&log), &[]).await;
    let (mut device, present) = connected(&running, &connect4_kept("device")).await;
    assert!(!present);
    device.send(&subscribe4(1, "plant/results", 1)).await;
    device.expect(&[0x90, 3, 0, 1, 1]).await;
    let twice = |first: u8, id: u8| packet(first, &[&field(b"plant/a/b"), &[0, id], &[id]]);
    device.send(&[twice(0x34, 5), twice(0x34, 6)].concat()).await;
    device.expect(&[0x50, 2, 0, 5]).await;
    device.expect(&[0x50, 2, 0, 6]).await;
    drop(device);
    running.crash();

    let running = Running::start(Arc::clone(&log), &[]).await;
    let (mut device, present) = connected(&running, &connect4_kept("device")).await;
    assert!(present, "the log knows the session");
    // One PUBREC was lost, the other arrived.
    device.send(&[twice(0x3C, 5), vec![0x62, 2, 0, 6]].concat()).await;
    device.expect(&[0x50, 2, 0, 5]).await;
    device.expect(&[0x70, 2, 0, 6]).await;
    device.send(&[0x62, 2, 0, 5]).await;
    device.expect(&[0x70, 2, 0, 5]).await;
    assert_eq!(log.messages().len(), 2, "each once");
    let mut other = running.device4("other").await;
    other.send(&publish4("plant/results", 0, "42")).await;
    let heard = device.packet().await.expect("a message");
    assert!(heard.ends_with(b"42"), "{heard:02x?}");
    device.send(&[0xE0, 0]).await;
    device.expect_end().await;

    let (_device, present) = connected(&running, &connect4("device", 60)).await;
    assert!(!present, "a clean session begins anew");
    assert!(log.inner.lock().notes.is_empty(), "{:?}", log.inner.lock().notes);
}

#[tokio::test]
async fn messages_wait_for_an_absent_subscriber_with_a_session() {
    let running = Running::start(HandIntake::by_itself(), &[]).await;
    let (mut reader, _) = connected(&running, &connect5_kept("reader")).await;
    reader.send(&subscribe5(1, "plant/#", 1)).await;
    reader.expect(&[0x90, 4, 0, 1, 0, 1]).await;
    reader.send(&[0xE0, 0]).await;
    reader.expect_end().await;
    let mut device = running.device4("device").await;
    device.send(&[publish4("plant/a/b", 0, "lost"), publish4("plant/a/b", 1, "waits")].concat()).await;
    device.expect(&puback(1)).await;
    let (mut reader, present) = connected(&running, &connect5_kept("reader")).await;
    assert!(present);
    let heard = reader.packet().await.expect("a message");
    assert!(heard.ends_with(b"waits"), "{heard:02x?}");
    // Not acknowledged, so it comes again, marked as a duplicate.
    drop(reader);
    let (mut reader, _) = connected(&running, &connect5_kept("reader")).await;
    let again = reader.packet().await.expect("a message");
    assert_eq!((again[0], &again[1..]), (0x3A, &heard[1..]));
}

#[tokio::test]
async fn a_will_waits_for_its_delay_and_is_taken_back_by_a_return() {
    let running = Running::start(HandIntake::by_itself(), &[]).await;
    // A session of an hour, and a will with a delay of one second.
    let connect = |id: &str, delay_s: u8| {
        let will = [&[5, 24, 0, 0, 0, delay_s][..], &field(b"plant/a/status"), &field(id.as_bytes())].concat();
        packet(0x10, &[&field(b"MQTT"), &[5, 4, 0, 60, 5, 17, 0, 0, 14, 16], &field(id.as_bytes()), &will])
    };
    let (back, _) = connected(&running, &connect("back", 1)).await;
    let (gone, _) = connected(&running, &connect("gone", 1)).await;
    drop((back, gone));
    let (_back, present) = connected(&running, &connect5_kept("back")).await;
    assert!(present);
    running.intake.until_messages(1).await;
    let (late, _) = connected(&running, &connect("late", 1)).await;
    drop(late);
    running.intake.until_messages(2).await;
    assert_eq!(running.intake.payloads(), ["gone", "late"], "and not that of who came back");
}

/// Files for the listener, in a folder of their own.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().expect("a folder"))
    }

    fn write(&self, name: &str, text: &str) -> String {
        use std::io::Write;
        let path = self.0.path().join(name);
        let mut file = std::fs::OpenOptions::new().create(true).write(true).truncate(true).open(&path).expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        path.display().to_string()
    }
}

fn connect_as(version: u8, id: &str, user: &str, password: &str) -> Vec<u8> {
    let properties: &[u8] = if version == 5 { &[0] } else { &[] };
    let fields = [field(id.as_bytes()), field(user.as_bytes()), field(password.as_bytes())].concat();
    packet(0x10, &[&field(b"MQTT"), &[version, 0xC2, 0, 60], properties, &fields])
}

#[tokio::test]
async fn the_password_file_says_who_comes_in_and_the_access_file_what_they_may() {
    let files = Files::new();
    let dice = SeededDice::new(7);
    let line = |user: &str| crate::mqtt::password_line(user, b"secret", &dice).expect("a good name");
    let passwords = files.write("passwords", &format!("{}\n{}\n", line("ada"), line("bob")));
    let rules = "user ada\ntopic write plant/ada/#\nuser bob\ntopic read plant/ada/#\n";
    let acl = files.write("acl", rules);
    let running = Running::start(HandIntake::by_itself(), &[("password_file", &passwords), ("acl_file", &acl)]).await;
    for (user, password) in [("ada", "wrong"), ("nobody", "secret"), ("", "")] {
        let mut peer = running.peer().await;
        peer.send(&connect_as(4, "x", user, password)).await;
        peer.expect(&[0x20, 2, 0, 4]).await;
        peer.expect_end().await;
    }
    let (mut ada, _) = connected(&running, &connect_as(5, "ada", "ada", "secret")).await;
    let (mut bob, _) = connected(&running, &connect_as(4, "bob", "bob", "secret")).await;
    bob.send(&subscribe4(1, "plant/#", 0)).await;
    bob.expect(&[0x90, 3, 0, 1, 0]).await;
    bob.send(&subscribe4(2, "plant/bob/#", 0)).await;
    bob.expect(&[0x90, 3, 0, 2, 0x80]).await;
    ada.send(&publish5("plant/ada/1", 1, NO_PROPERTIES, "may")).await;
    ada.expect(&puback(1)).await;
    ada.send(&publish5("plant/bob/1", 2, NO_PROPERTIES, "may not")).await;
    ada.expect(&packet(0x40, &[&[0, 2, 0x87]])).await;
    // 3.1.1 cannot be told no: acknowledged, and not logged.
    bob.expect(&packet(0x30, &[&field(b"plant/ada/1"), b"may"])).await;
    bob.send(&publish4("plant/ada/1", 3, "may not")).await;
    bob.expect(&puback(3)).await;
    assert_eq!(running.intake.payloads(), ["may"]);

    // The files are read again when they change.
    files.write("acl", &format!("{rules}topic write plant/bob/#\n"));
    soon("the new rules", async {
        while running.intake.payloads().len() < 2 {
            bob.send(&publish4("plant/bob/1", 4, "now")).await;
            bob.expect(&puback(4)).await;
        }
    })
    .await;
    files.write("acl", "user\n");
    running.intake.until_error("file").await;
}

#[tokio::test]
async fn a_bad_file_stops_the_start_with_its_line() {
    let files = Files::new();
    let passwords = files.write("passwords", "# ours\nada:secret\n");
    let mut options = options(&[("bind", "127.0.0.1:0"), ("topic", "#"), ("password_file", &passwords)]);
    let (source, _) = crate::mqtt::listener("devices", &mut options, &context()).expect("good options");
    let error = tidemill_engine::source::Source::prepare(&source).await.expect_err("a bad line").to_string();
    assert!(error.starts_with("source devices: password file ") && error.contains("line 2"), "{error}");
    assert!(!error.contains("secret"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_sends_a_connect_keeps_nobody_out() {
    let running = Running::start(HandIntake::by_itself(), &[]).await;
    let mut slow = Vec::new();
    for _ in 0..600 {
        let mut peer = running.peer().await;
        peer.send(&connect4("slow", 60)[..5]).await;
        slow.push(peer);
    }
    let mut honest = running.device4("honest").await;
    honest.send(&publish4("plant/a/b", 1, "x")).await;
    honest.expect(&puback(1)).await;
    // Whose task begins late has to go late, and on a starved machine the time of some is over before there are too many.
    let gone = |inner: &Inner, kinds: &[&str]| inner.errors.iter().filter(|kind| kinds.contains(kind)).count();
    let all_are_gone = |inner: &Inner| gone(inner, &["handshakes", "connect_timeout"]) >= 600 - HANDSHAKES_MAX;
    running.intake.until("512 wait, and the others had to go", all_are_gone).await;
    let evicted = gone(&running.intake.inner.lock(), &["handshakes"]);
    assert!(evicted <= 601 - HANDSHAKES_MAX, "{evicted}: the honest one made room for itself at the most");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_takeovers_disturbs_nobody_else() {
    let running = Arc::new(Running::start(HandIntake::by_itself(), &[]).await);
    let mut other = running.device4("other").await;
    let storm: Vec<_> = (0..200)
        .map(|_| {
            let running = Arc::clone(&running);
            tokio::spawn(async move {
                let mut peer = running.peer().await;
                peer.send(&connect4_kept("wanted")).await;
                // A CONNACK, or the end: yet another has come.
                let _ = peer.packet().await;
            })
        })
        .collect();
    for id in 1..=100 {
        other.send(&publish4("plant/a/b", id, "x")).await;
        other.expect(&puback(id)).await;
    }
    for task in storm {
        soon("the storm", task).await.expect("no panic");
    }
    let (mut last, _) = connected(&running, &connect4_kept("wanted")).await;
    last.send(PINGREQ).await;
    last.expect(PINGRESP).await;
}

#[tokio::test]
async fn who_says_good_bye_and_comes_back_at_once_is_heard_to_the_end_and_leaves_no_will() {
    let running = Running::start(HandIntake::by_itself(), &[]).await;
    let will = [field(b"plant/a/will"), field(b"gone")].concat();
    let connect = packet(0x10, &[&field(b"MQTT"), &[4, 0x06, 0, 60], &field(b"same"), &will]);
    let mut expected = Vec::new();
    for number in 0..50 {
        let (mut peer, _) = connected(&running, &connect).await;
        let payload = number.to_string();
        peer.send(&[&publish4("plant/a/b", 0, &payload)[..], &[0xE0, 0]].concat()).await;
        // Its end is not waited for.
        expected.push(payload);
    }
    let mut other = running.device4("other").await;
    other.send(&publish4("plant/a/b", 1, "last")).await;
    other.expect(&puback(1)).await;
    expected.push("last".to_owned());
    running.intake.until_messages(expected.len()).await;
    let mut payloads = running.intake.payloads();
    payloads.sort_by_key(|payload| payload.parse().unwrap_or(u32::MAX));
    assert_eq!(payloads, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_busy_clients_are_all_served() {
    let running = Arc::new(Running::start(HandIntake::by_itself(), &[]).await);
    let tasks: Vec<_> = (0..200)
        .map(|number| {
            let running = Arc::clone(&running);
            tokio::spawn(async move {
                let mut peer = running.device4(&format!("busy-{number}")).await;
                for id in 1..=20 {
                    peer.send(&publish4("plant/a/b", id, "x")).await;
                    peer.expect(&puback(id)).await;
                }
            })
        })
        .collect();
    // One after the other on a starved machine: each moves, and only the first waits for all.
    for task in tasks {
        timeout(CROWD_PATIENCE, task).await.expect("a busy client").expect("no panic");
    }
    assert_eq!(running.intake.messages().len(), 4_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_does_not_read_loses_its_connection_and_the_publisher_nothing() {
    let running = Running::start(HandIntake::by_itself(), &[]).await;
    // It never reads: first its socket is full, then its mailbox.
    let _slow = subscriber4(&running, "slow", "plant/#", 1).await;
    let mut device = running.device4("device").await;
    let large = "x".repeat(100_000);
    soon("the end of the slow one", async {
        let mut id = 0;
        while !running.intake.inner.lock().errors.contains(&"subscriber") {
            id = id % 1_000 + 1;
            device.send(&publish4("plant/a/b", id, &large)).await;
            device.expect(&puback(id)).await;
        }
    })
    .await;
    device.send(PINGREQ).await;
    device.expect(PINGRESP).await;
}

/// Its pings would keep it alive, and what it may miss never fills its mailbox.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_of_qos_0_that_never_reads_and_goes_on_pinging_is_given_up() {
    let patience = Patience { time_max: Duration::from_millis(300), bytes_min: 1 };
    let impatient = |source: &mut MqttListener| source.set_patience(patience);
    let running = Running::start_with(HandIntake::by_itself(), &[], &context(), impatient).await;
    let slow = subscriber4(&running, "slow", "plant/#", 0).await;
    let pinging = tokio::spawn(async move {
        let mut slow = slow;
        while slow.0.write_all(PINGREQ).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let mut device = running.device4("device").await;
    let large = "x".repeat(100_000);
    soon("the end of the one that does not read", async {
        let mut id = 0;
        while !running.intake.inner.lock().errors.contains(&"stalled") {
            id = id % 1_000 + 1;
            device.send(&publish4("plant/a/b", id, &large)).await;
            device.expect(&puback(id)).await;
        }
    })
    .await;
    soon("the end of its connection", pinging).await.expect("no panic");
    device.send(PINGREQ).await;
    device.expect(PINGRESP).await;
}

#[tokio::test]
async fn a_version_5_session_ends_when_its_client_says_so() {
    let log = HandIntake::by_itself();
    let running = Running::start(Arc::clone(&log), &[]).await;
    let (mut device, _) = connected(&running, &connect5_kept("device")).await;
    assert_eq!(log.inner.lock().notes.len(), 1);
    // DISCONNECT with a session expiry of 0.
    device.send(&packet(0xE0, &[&[0, 5, 17, 0, 0, 0, 0]])).await;
    device.expect_end().await;
    let (_device, present) = connected(&running, &connect5_kept("device")).await;
    assert!(!present);
    // One that ends with its connection cannot be prolonged.
    let (mut short, _) = connected(&running, &connect5("short", 60)).await;
    short.send(&packet(0xE0, &[&[0, 5, 17, 0, 0, 0, 9]])).await;
    short.expect_disconnect(0x82).await;
}

#[tokio::test]
async fn a_listener_with_tls_takes_who_speaks_it_and_tells_others() {
    use crate::tls::testing::{Authority, NOW_US};
    let authority = Authority::new("plant");
    let pair = authority.issue_until("localhost", 2090);
    let context = Context { clock: Arc::new(ManualClock::at(NOW_US)), ..context() };
    let (cert, key) = (pair.certificates.display().to_string(), pair.key.display().to_string());
    let options = [("tls.cert", cert.as_str()), ("tls.key", key.as_str())];
    let running = Running::start_in(HandIntake::by_itself(), &options, &context).await;
    let mut plain = running.peer().await;
    plain.send(&connect4("plain", 60)).await;
    // An alert of TLS, or the end: never a CONNACK.
    assert!(plain.packet().await.is_none_or(|packet| packet[0] != 0x20));
    running.intake.until_error("tls").await;
    let text = std::process::Command::new("mosquitto_pub")
        .args(["-h", "localhost", "-p", &running.port().to_string(), "-t", "plant/a/b", "-m", "hello", "-q", "2"])
        .args(["--cafile", &authority.certificate().display().to_string()])
        .spawn();
    let mut child = text.expect("mosquitto_pub is installed (./check installs it)");
    let ended = tokio::task::spawn_blocking(move || child.wait());
    let status = soon("mosquitto_pub", ended).await.expect("no panic").expect("it ran");
    assert!(status.success(), "{status}");
    assert_eq!(running.intake.payloads(), ["hello"]);
}
