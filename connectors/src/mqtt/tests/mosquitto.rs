//! Both sources with the programs people have: the mosquitto broker and `mosquitto_pub`.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use tidemill_engine::source::{Source, SourceError, Stop};
use tokio::task::JoinHandle;

use super::*;
use crate::mqtt::link::{Broker, Link, Session};
use crate::mqtt::marks::{self, Marks};
use crate::mqtt::packet::Version;
use crate::mqtt::{Publisher, QoS, client, listener};

/// A broker of its own, on a free port; it ends with the value.
struct Mosquitto {
    port: u16,
    dir: tempfile::TempDir,
    child: Killed,
}

/// Returns a port that is free now, and stays so while its broker is being started, again and again: the kernel gives ports of
/// this range to nobody by itself.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = u16::try_from(std::process::id() % 10_000).expect("small");
    let mut ports = std::iter::repeat_with(|| 20_000 + (begin + NEXT.fetch_add(1, Ordering::SeqCst)) % 12_000);
    ports.find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("it has no end")
}

/// A process that does not outlive its value.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Mosquitto {
    async fn start() -> Mosquitto {
        let dir = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let child = Mosquitto::spawn(dir.path(), port).await;
        Mosquitto { port, dir, child }
    }

    async fn spawn(dir: &Path, port: u16) -> Killed {
        let mut config = tempfile::NamedTempFile::new_in(dir).expect("a file");
        writeln!(config, "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_queued_messages 0")
            .expect("written");
        let (_, path) = config.keep().expect("kept");
        let program = if Path::new("/usr/sbin/mosquitto").exists() { "/usr/sbin/mosquitto" } else { "mosquitto" };
        let mut command = Command::new(program);
        command.arg("-c").arg(path).stdout(Stdio::null()).stderr(Stdio::null());
        let child = Killed(command.spawn().expect("mosquitto is installed (./check installs it)"));
        soon("mosquitto", async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        child
    }

    /// Ends the broker as a power cut would, and starts another in its place: every session is gone.
    async fn restart(&mut self) {
        self.child.0.kill().expect("killed");
        self.child.0.wait().expect("waited for");
        self.child = Mosquitto::spawn(self.dir.path(), self.port).await;
    }
}

/// Publishes with `mosquitto_pub`; returns whether it says that all went well.
async fn publish(port: u16, version: &str, qos: &str, payload: &str) -> bool {
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", "127.0.0.1", "-t", "plant/lab/web", "-p", &port.to_string()]);
    command.args(["-V", version, "-q", qos, "-m", payload]).stdout(Stdio::null()).stderr(Stdio::null());
    let status = tokio::task::spawn_blocking(move || command.status());
    let status = soon("mosquitto_pub", status).await.expect("no panic");
    status.expect("mosquitto_pub is installed (./check installs it)").success()
}

fn run(source: impl Source, intake: &Arc<HandIntake>) -> (Stop, JoinHandle<Result<(), SourceError>>) {
    let stop = Stop::new();
    let task = tokio::spawn({
        let (intake, stop) = (Arc::clone(intake), stop.clone());
        async move {
            source.prepare().await?;
            source.run(intake, Vec::new(), stop).await
        }
    });
    (stop, task)
}

#[tokio::test]
async fn what_mosquitto_kept_while_we_were_away_arrives() {
    for version in ["3.1.1", "5"] {
        let mut broker = Mosquitto::start().await;
        let context = context();
        let source = || {
            let url = format!("mqtt://127.0.0.1:{}", broker.port);
            let mut options = options(&[("url", &url), ("topic", "plant/{site}/{device}"), ("version", version)]);
            client("readings", &mut options, &context).expect("good options").0
        };

        let intake = HandIntake::by_itself();
        let (stop, task) = run(source(), &intake);
        intake.until_connected().await;
        for (pub_version, qos) in [("311", "0"), ("311", "1"), ("5", "0"), ("5", "1")] {
            assert!(publish(broker.port, pub_version, qos, &format!("{pub_version} {qos}")).await);
        }
        intake.until_messages(4).await;
        let mut payloads = intake.payloads();
        payloads.sort();
        assert_eq!(payloads, ["311 0", "311 1", "5 0", "5 1"]);
        stop.cancel();
        soon("the end", task).await.expect("no panic").expect("a clean stop");

        for number in 0..5 {
            assert!(publish(broker.port, "5", "1", &number.to_string()).await);
        }
        let intake = HandIntake::by_itself();
        let (stop, task) = run(source(), &intake);
        intake.until_messages(5).await;
        assert_eq!(intake.payloads(), ["0", "1", "2", "3", "4"]);
        assert!(intake.inner.lock().errors.is_empty());

        // A broker that forgets everything is noticed, and subscribed to again.
        broker.restart().await;
        intake.until_error("session_lost").await;
        intake.until_connected().await;
        assert!(publish(broker.port, "5", "1", "after").await);
        intake.until_messages(6).await;
        stop.cancel();
        soon("the end", task).await.expect("no panic").expect("a clean stop");
    }
}

#[tokio::test]
async fn unacknowledged_messages_come_again() {
    let broker = Mosquitto::start().await;
    let context = context();
    let source = || {
        let url = format!("mqtt://127.0.0.1:{}", broker.port);
        client("readings", &mut options(&[("url", &url), ("topic", "plant/#")]), &context).expect("good options").0
    };
    // The log never answers: the program dies before the receipt.
    let intake = HandIntake::by_hand();
    let (_, task) = run(source(), &intake);
    intake.until_connected().await;
    assert!(publish(broker.port, "5", "1", "precious").await);
    intake.until_messages(1).await;
    task.abort();
    let _ = task.await;

    let intake = HandIntake::by_itself();
    let (stop, task) = run(source(), &intake);
    intake.until_messages(1).await;
    assert_eq!(intake.payloads(), ["precious"]);
    stop.cancel();
    soon("the end", task).await.expect("no panic").expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_crashes_in_a_stream_lose_nothing() {
    const MESSAGES: usize = 5_000;
    for version in ["3.1.1", "5"] {
        let broker = Mosquitto::start().await;
        let context = context();
        let source = || {
            let url = format!("mqtt://127.0.0.1:{}", broker.port);
            let mut options = options(&[("url", &url), ("topic", "plant/#"), ("version", version)]);
            client("readings", &mut options, &context).expect("good options").0
        };
        // The subscription must be there before the stream begins.
        let intake = HandIntake::by_itself();
        let (stop, task) = run(source(), &intake);
        intake.until_connected().await;
        stop.cancel();
        soon("the end", task).await.expect("no panic").expect("a clean stop");

        let mut publisher = Command::new("mosquitto_pub");
        publisher.args([
            "-h",
            "127.0.0.1",
            "-p",
            &broker.port.to_string(),
            "-V",
            "5",
            "-q",
            "1",
            "-t",
            "plant/x",
            "-l",
        ]);
        let mut publisher = Killed(publisher.stdin(Stdio::piped()).spawn().expect("mosquitto_pub is installed"));
        let mut lines = publisher.0.stdin.take().expect("piped");
        let writing = tokio::task::spawn_blocking(move || {
            for number in 0..MESSAGES {
                writeln!(lines, "{number}").expect("written");
            }
        });

        let mut seen = std::collections::BTreeMap::<String, usize>::new();
        let mut crashes = 0;
        while seen.len() < MESSAGES {
            let intake = HandIntake::by_itself();
            let (_, task) = run(source(), &intake);
            let enough = (137 + 61 * crashes).min(MESSAGES - seen.len());
            intake.until_messages(enough).await;
            // As kill -9: nothing in hand is acknowledged, nothing is said to the broker.
            task.abort();
            let _ = task.await;
            // A connection is a task of its own, which may be at work until it waits next.
            soon("its end", async {
                while Arc::strong_count(&intake) > 1 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
            .await;
            for payload in intake.payloads() {
                *seen.entry(payload).or_default() += 1;
            }
            assert!(!intake.inner.lock().errors.contains(&"session_lost"));
            crashes += 1;
        }
        soon("the publisher", writing).await.expect("no panic");
        assert!(crashes > 5, "{crashes}");
        assert!((0..MESSAGES).all(|number| seen.contains_key(&number.to_string())));
    }
}

#[tokio::test]
async fn a_broker_that_is_not_there_yet_is_waited_for() {
    let dir = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let url = format!("mqtt://127.0.0.1:{port}");
    let (source, _) =
        client("readings", &mut options(&[("url", &url), ("topic", "#")]), &context()).expect("good options");
    let intake = HandIntake::by_itself();
    let (stop, task) = run(source, &intake);
    tokio::task::yield_now().await;
    assert!(!intake.inner.lock().connected);
    let _broker = Mosquitto::spawn(dir.path(), port).await;
    intake.until_connected().await;
    stop.cancel();
    soon("the end", task).await.expect("no panic").expect("a clean stop");
}

#[tokio::test]
async fn mosquitto_pub_publishes_straight_to_the_listener() {
    let mut options = options(&[("bind", "127.0.0.1:0"), ("topic", "plant/{site}/{device}")]);
    let (source, _) = listener("devices", &mut options, &context()).expect("good options");
    source.prepare().await.expect("a free port");
    let port = source.local_addr().expect("prepared").port();
    let intake = HandIntake::by_itself();
    let stop = Stop::new();
    let task = tokio::spawn({
        let (intake, stop) = (Arc::clone(&intake), stop.clone());
        async move { source.run(intake, Vec::new(), stop).await }
    });
    for version in ["311", "5"] {
        for qos in ["0", "1", "2"] {
            assert!(publish(port, version, qos, &format!("{version} {qos}")).await, "{version} {qos}");
        }
    }
    intake.until_messages(6).await;
    let mut payloads = intake.payloads();
    payloads.sort();
    assert_eq!(payloads, ["311 0", "311 1", "311 2", "5 0", "5 1", "5 2"]);
    assert!(intake.inner.lock().errors.is_empty());
    stop.cancel();
    soon("the end", task).await.expect("no panic").expect("a clean stop");
}

#[tokio::test]
async fn a_publisher_is_acknowledged_at_every_qos_and_goes_on_after_a_broker_that_lost_everything() {
    let mut broker = Mosquitto::start().await;
    for (qos, of) in [(QoS::AtMostOnce, "0"), (QoS::AtLeastOnce, "1"), (QoS::ExactlyOnce, "2")] {
        let context = context();
        let url = format!("mqtt://127.0.0.1:{}", broker.port);
        let mut options = options(&[("url", &url), ("topic", "plant/{site}/{device}")]);
        let intake = HandIntake::by_itself();
        let (stop, task) = run(client("readings", &mut options, &context).expect("good options").0, &intake);
        intake.until_connected().await;
        let address = crate::mqtt::Broker {
            host: "127.0.0.1".to_owned(),
            port: broker.port,
            tls: None,
            client_id: format!("publisher-{of}"),
            username: None,
            password: None,
            keep_alive_s: 5,
            session_expiry_s: 60,
        };
        let publisher = Publisher::start(address, qos, Arc::clone(&context.dice));
        let mut acknowledged = Vec::new();
        for n in 0..500 {
            acknowledged.push(publisher.publish("plant/lab/web", n.to_string()).await);
        }
        for acknowledged in acknowledged {
            soon("an acknowledgement", acknowledged).await.expect("the publisher lives");
        }
        intake.until_messages(500).await;
        assert_eq!(intake.payloads(), (0..500).map(|n| n.to_string()).collect::<Vec<_>>(), "QoS {of}");
        stop.cancel();
        task.await.expect("no panic").expect("stopped");
        if qos != QoS::AtMostOnce {
            broker.restart().await;
            let again = publisher.publish("plant/lab/web", "again").await;
            soon("an acknowledgement after the restart", again).await.expect("the publisher lives");
        }
    }
}

#[tokio::test]
async fn a_mark_says_whether_the_session_is_still_ours() {
    let mut mosquitto = Mosquitto::start().await;
    let broker = Broker {
        host: "127.0.0.1".to_owned(),
        port: mosquitto.port,
        tls: None,
        client_id: "a/sink+".to_owned(),
        username: None,
        password: None,
        keep_alive_s: 30,
        session_expiry_s: 60,
    };
    let connect = async |session| Link::connect(&broker, Version::V5, session).await.expect("a connection");
    let mut link = connect(Session::Clean).await;
    assert_eq!(marks::set(&mut link, &broker.client_id, 7).await, Ok(Marks::SpentBelow(0)));
    drop(link);
    let mut link = connect(Session::Kept).await;
    assert!(link.connack.session_present);
    assert_eq!(marks::ask(&mut link, &broker.client_id, 0, 7).await, Ok(Some(true)));
    assert_eq!(marks::ask(&mut link, &broker.client_id, 0, 7).await, Ok(Some(false)), "each answers once");
    assert_eq!(marks::set(&mut link, &broker.client_id, 7).await, Ok(Marks::SpentBelow(0)));
    mosquitto.restart().await;
    // The answer that nobody heard.
    drop(connect(Session::Kept).await);
    let mut link = connect(Session::Kept).await;
    assert!(link.connack.session_present);
    assert_eq!(marks::ask(&mut link, &broker.client_id, 0, 7).await, Ok(Some(false)));
}
