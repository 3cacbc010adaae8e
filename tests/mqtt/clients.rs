//! The real `mosquitto_sub` and `mosquitto_pub` at the listener: they see what an `mqtt` sink of the program gives, as they
//! would at any broker.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rand::{Rng, SeedableRng};

use crate::harness::broker::{VERSIONS, mosquitto_pub, mosquitto_pub_lines, mosquitto_pub_retained};
use crate::harness::disk::Disk;
use crate::harness::folder::Folder;
use crate::harness::program::{Program, Serve, free_port, installed};
use crate::harness::wait::eventually;

/// A debug build on a busy machine, with a commit and a sync in between.
const ARRIVAL_MAX: Duration = Duration::from_secs(60);

/// A program whose results go to the subscribers of its own listener.
struct Scene {
    folder: Folder,
    serve: Serve,
    port: u16,
}

impl Scene {
    fn new(retain: bool) -> Scene {
        let (folder, port) = (Folder::new(), free_port());
        let sql = format!(
            "CREATE SOURCE readings (n BIGINT NOT NULL) WITH (connector = 'mqtt_listener', \
             bind = '127.0.0.1:{port}', topic = 'plant/{{site}}/{{device}}');\n\
             CREATE MATERIALIZED VIEW hot AS SELECT n, site, device FROM readings WHERE n >= 0;\n\
             CREATE SINK alerts FROM hot WITH (connector = 'mqtt', url = 'listener:readings', \
             topic = 'alerts/{{site}}/{{device}}', qos = 2, retain = {retain}, columns = 'n', commit_interval = '20 ms');\n"
        );
        Scene { serve: Serve::new(&folder, &sql), folder, port }
    }

    fn publish(&self, version: &str, qos: u8, device: &str, n: u64) {
        mosquitto_pub(self.port, version, qos, &format!("plant/lab/{device}"), &format!("{{\"n\":{n}}}"));
    }

    /// Starts a `mosquitto_sub` with these words in its command, and waits until it has subscribed.
    async fn subscriber(&self, name: &str, version: &str, words: &[&str]) -> Subscriber {
        let subscriber = self.run_subscriber(name, version, words);
        subscriber.has("Subscribed (mid: 1)").await;
        subscriber
    }

    fn run_subscriber(&self, name: &str, version: &str, words: &[&str]) -> Subscriber {
        let seen = self.folder.join(name);
        let out = std::fs::File::options().create(true).append(true).open(&seen).expect("a writable file");
        let skip = std::fs::metadata(&seen).expect("just made").len();
        let child = Command::new("stdbuf")
            .arg("-oL")
            .arg(installed("mosquitto_sub"))
            // With -d it says what it sends and receives, SUBACK among it.
            .args(["-d", "-h", "127.0.0.1", "-p", &self.port.to_string(), "-V", version, "-F", "GOT %t %q %r %p"])
            .args(words)
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a second handle"))
            .stderr(out)
            .spawn()
            .expect("stdbuf starts mosquitto_sub");
        Subscriber { child, seen, skip }
    }
}

/// A `mosquitto_sub`. Dropping it kills it, as a device that loses its power.
struct Subscriber {
    child: Child,
    seen: PathBuf,
    /// What one before it has written into the same file.
    skip: u64,
}

impl Subscriber {
    fn said(&self) -> String {
        let bytes = std::fs::read(&self.seen).expect("a readable file");
        String::from_utf8_lossy(&bytes[usize::try_from(self.skip).expect("small")..]).into_owned()
    }

    /// Returns the messages it got: topic, QoS, retained or not, payload.
    fn got(&self) -> Vec<String> {
        self.said().lines().filter_map(|line| line.strip_prefix("GOT ")).map(str::to_owned).collect()
    }

    async fn has(&self, words: &str) {
        eventually(&format!("mosquitto_sub says {words:?}"), ARRIVAL_MAX, async || {
            self.said().contains(words).then_some(())
        })
        .await;
    }

    /// Waits until it has got so many messages, and returns them.
    async fn got_until(&self, count: usize) -> Vec<String> {
        let what = format!("mosquitto_sub gets {count} messages in {}", self.seen.display());
        eventually(&what, ARRIVAL_MAX, async || (self.got().len() >= count).then(|| self.got())).await
    }

    /// Returns how often it was let in.
    fn let_in(&self) -> usize {
        self.said().matches("received CONNACK (0)").count()
    }

    async fn ended(mut self) -> (ExitStatus, String) {
        let child = &mut self.child;
        let status = eventually("mosquitto_sub ends", ARRIVAL_MAX, async || child.try_wait().expect("a child to ask"));
        (status.await, self.said())
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a sink's results look like to a subscriber.
fn results(device: &str, qos: u8, retained: u8, numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(|n| format!("alerts/lab/{device} {qos} {retained} {{\"n\":{n}}}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_sub_sees_the_results_of_a_sink_in_every_version_and_qos() {
    let scene = Scene::new(false);
    let program = scene.serve.start_ready().await;
    let mut subscribers = Vec::new();
    for version in VERSIONS {
        for qos in 0..=2u8 {
            for (at, filter) in ["alerts/lab/freezer", "alerts/+/freezer", "alerts/#", "#"].into_iter().enumerate() {
                let (name, qos_word) = (format!("{version}-{qos}-{at}"), qos.to_string());
                let subscriber = scene.subscriber(&name, version, &["-q", &qos_word, "-t", filter]).await;
                subscribers.push((subscriber, qos, filter));
            }
        }
    }
    let mut n = 0;
    for version in VERSIONS {
        for qos in 0..=2 {
            scene.publish(version, qos, "freezer", n);
            program.http.query_until("SELECT count(*) AS n FROM hot", i64::try_from(n).expect("small") + 1).await;
            n += 1;
        }
    }
    mosquitto_pub_lines(
        scene.port,
        "5",
        2,
        "plant/lab/freezer",
        &(n..200).map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>(),
    );
    for (subscriber, qos, filter) in &subscribers {
        let own = |line: &String| line.starts_with("alerts/");
        eventually(&format!("{filter} at QoS {qos} brings everything"), ARRIVAL_MAX, async || {
            (subscriber.got().iter().filter(|line| own(line)).count() >= 200).then_some(())
        })
        .await;
        let got = subscriber.got();
        let alerts: Vec<String> = got.iter().filter(|line| own(line)).cloned().collect();
        assert_eq!(alerts, results("freezer", *qos, 0, 0..200), "{filter} at QoS {qos}");
        // Who asks for everything sees the devices too.
        assert_eq!(got.len() - alerts.len(), if *filter == "#" { 200 } else { 0 }, "{filter} at QoS {qos}");
    }
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_subscribes_later_gets_what_was_retained_also_after_a_kill() {
    let scene = Scene::new(true);
    let program = scene.serve.start_ready().await;
    for (device, numbers) in [("freezer", 0..5), ("oven", 5..8)] {
        for n in numbers {
            scene.publish("5", 1, device, n);
            // Rows of one epoch have no order, and the last one is what is retained.
            program.http.query_until("SELECT count(*) AS n FROM hot", i64::try_from(n).expect("small") + 1).await;
        }
    }
    let live = scene.subscriber("live", "5", &["-q", "1", "-t", "alerts/#"]).await;
    scene.publish("311", 2, "freezer", 9);
    eventually("the last result", ARRIVAL_MAX, async || {
        live.got().iter().any(|line| line.contains("{\"n\":9}")).then_some(())
    })
    .await;
    for version in VERSIONS {
        let later = scene
            .subscriber(
                &format!("later-{version}"),
                version,
                &["-q", "1", "-t", "alerts/+/freezer", "-t", "alerts/+/oven"],
            )
            .await;
        let got = later.got_until(2).await;
        assert_eq!(got, [results("freezer", 1, 1, [9]), results("oven", 1, 1, [7])].concat());
        let only_live = ["-q", "1", "-R", "-t", "alerts/+/+"];
        let deaf = scene.subscriber(&format!("deaf-{version}"), version, &only_live).await;
        scene.publish("5", 1, &format!("new-{version}"), 20);
        assert_eq!(deaf.got_until(1).await, results(&format!("new-{version}"), 1, 0, [20]), "with -R");
    }
    // A kill changes nothing: what is retained is in the log.
    program.kill9();
    let program = scene.serve.start_ready().await;
    let after = scene.subscriber("after", "5", &["-q", "1", "-t", "alerts/lab/freezer", "-t", "alerts/lab/oven"]).await;
    assert_eq!(after.got_until(2).await, [results("freezer", 1, 1, [9]), results("oven", 1, 1, [7])].concat());
    // An empty message takes what is retained away.
    mosquitto_pub_retained(scene.port, "notes/a", "kept");
    let with = scene.subscriber("with", "5", &["-t", "notes/#"]).await;
    assert_eq!(with.got_until(1).await, ["notes/a 0 1 kept"]);
    mosquitto_pub_retained(scene.port, "notes/a", "");
    with.got_until(2).await;
    let without = scene.subscriber("without", "5", &["-t", "notes/#"]).await;
    mosquitto_pub(scene.port, "5", 1, "notes/b", "live");
    assert_eq!(without.got_until(1).await, ["notes/b 0 0 live"]);
    mosquitto_pub_retained(scene.port, "notes/c", "of a device");
    program.kill9();
    let program = scene.serve.start_ready().await;
    let after = scene.subscriber("after-2", "311", &["-q", "1", "-t", "notes/#"]).await;
    assert_eq!(after.got_until(1).await, ["notes/c 1 1 of a device"]);
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_will_of_a_subscriber_that_dies_is_a_reading_and_seen_by_the_others() {
    let scene = Scene::new(false);
    let program = scene.serve.start_ready().await;
    for (n, version) in (1..).zip(VERSIONS) {
        let witness = scene.subscriber(&format!("witness-{version}"), version, &["-q", "2", "-t", "plant/#"]).await;
        let payload = format!("{{\"n\":{n}}}");
        let will = ["--will-topic", "plant/lab/gone", "--will-qos", "1", "--will-payload", &payload, "-t", "x"];
        let mortal = scene.subscriber(&format!("mortal-{version}"), version, &will).await;
        drop(mortal);
        assert_eq!(witness.got_until(1).await, [format!("plant/lab/gone 1 0 {payload}")]);
        program.http.query_until(&format!("SELECT count(*) AS n FROM hot WHERE device = 'gone' AND n = {n}"), 1).await;
        // Who says good-bye leaves no will.
        let words = [&will[..], &["-C", "1"]].concat();
        let polite = scene.subscriber(&format!("polite-{version}"), version, &words).await;
        mosquitto_pub(scene.port, version, 1, "x", "the last word");
        polite.ended().await;
        scene.publish(version, 1, "alive", 50);
        assert_eq!(witness.got_until(2).await[1], "plant/lab/alive 1 0 {\"n\":50}");
    }
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_kept_gets_what_it_missed_and_its_subscription_outlives_a_kill_of_the_program() {
    for (version, expiry) in [("311", &[][..]), ("5", &["-x", "3600"][..])] {
        let scene = Scene::new(false);
        let program = scene.serve.start_ready().await;
        let kept = [&["-c", "-i", "keeps", "-q", "2", "-t", "alerts/#"][..], expiry].concat();
        let subscriber = scene.subscriber("kept", version, &kept).await;
        scene.publish(version, 2, "freezer", 0);
        subscriber.got_until(1).await;
        drop(subscriber);
        for n in 1..20 {
            scene.publish(version, 1, "freezer", n);
            // Rows of one epoch have no order.
            program.http.query_until("SELECT count(*) AS n FROM hot", i64::try_from(n).expect("small") + 1).await;
        }
        let program = delivered(program, 20).await;
        let subscriber = scene.run_subscriber("kept", version, &kept);
        assert_eq!(subscriber.got_until(19).await, results("freezer", 2, 0, 1..20), "{version}");
        drop(subscriber);
        program.kill9();
        let program = scene.serve.start_ready().await;
        // Nobody has subscribed in this process: the log knows who did.
        scene.publish(version, 1, "freezer", 20);
        let program = delivered(program, 21).await;
        let subscriber = scene.run_subscriber("kept", version, &kept);
        let got = subscriber.got_until(1).await;
        assert_eq!(got.last(), results("freezer", 2, 0, [20]).last(), "{version}: {got:?}");
        program.stop().await;
    }
}

/// A subscriber that keeps its session, and is away as often as the program is: of devices' messages and of a sink's rows it
/// gets each once.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_session_outlives_kills_and_arrives_once_at_qos_2() {
    const ROUNDS: u64 = 8;
    const EACH: u64 = 10;
    let seed = std::env::var("TIDEMILL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(4);
    println!("TIDEMILL_SEED={seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let scene = Scene::new(false);
    let mut program = scene.serve.start_ready().await;
    // It lives through all kills of the program, and connects again by itself.
    let words = ["-c", "-i", "keeps", "-q", "2", "-t", "plant/#", "-t", "alerts/#"];
    let subscriber = scene.subscriber("keeps", "311", &words).await;
    for round in 0..ROUNDS {
        let lines: String = (round * EACH..(round + 1) * EACH).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        // Acknowledged when this returns.
        mosquitto_pub_lines(scene.port, "5", 2, "plant/lab/freezer", &lines);
        tokio::time::sleep(Duration::from_millis(random.random_range(0..200))).await;
        program.kill9();
        let before = subscriber.let_in();
        program = scene.serve.start_ready().await;
        if random.random_range(0..2) == 0 {
            // Otherwise it is still away when the next messages come.
            let is_back = async || (subscriber.let_in() > before).then_some(());
            eventually("mosquitto_sub connects again", ARRIVAL_MAX, is_back).await;
        }
    }
    let all = ROUNDS * EACH;
    program.http.query_until("SELECT count(*) AS n FROM hot", i64::try_from(all).expect("small")).await;
    subscriber.got_until(usize::try_from(2 * all).expect("small")).await;
    // What would come twice comes before this.
    let program = delivered(program, i64::try_from(all).expect("small")).await;
    scene.publish("5", 2, "oven", all);
    subscriber.has(&format!("alerts/lab/oven 2 0 {{\"n\":{all}}}")).await;
    let got = subscriber.got();
    for topic in ["plant/lab/freezer", "alerts/lab/freezer"] {
        let begin = format!("{topic} 2 0 ");
        let number =
            |line: &String| line.strip_prefix(&begin)?.strip_prefix("{\"n\":")?.strip_suffix('}')?.parse().ok();
        let mut numbers: Vec<u64> = got.iter().filter_map(number).collect();
        if topic.starts_with("alerts") {
            // Rows of one epoch have no order.
            numbers.sort_unstable();
        }
        assert_eq!(numbers, (0..all).collect::<Vec<_>>(), "{topic}, each once");
    }
    program.stop().await;
}

/// What was acknowledged to a device is kept for the subscribers that are away, also by a disk that loses its power.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_session_outlives_losses_of_power() {
    const ROUNDS: u64 = 4;
    const EACH: u64 = 10;
    let mut scene = Scene::new(false);
    let Some(disk) = Disk::to_lose_power(&scene.folder, "400M") else { return };
    scene.serve.data = disk.mounted_at.join("data");
    let mut program = scene.serve.start_ready().await;
    let words = ["-c", "-i", "keeps", "-q", "2", "-t", "plant/#"];
    drop(scene.subscriber("keeps", "311", &words).await);
    for round in 0..ROUNDS {
        let lines: String = (round * EACH..(round + 1) * EACH).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        // Acknowledged when this returns.
        mosquitto_pub_lines(scene.port, "5", 2, "plant/lab/freezer", &lines);
        disk.strike(program).await;
        program = scene.serve.start_ready().await;
    }
    let all = ROUNDS * EACH;
    let subscriber = scene.run_subscriber("keeps", "311", &words);
    subscriber.got_until(usize::try_from(all).expect("small")).await;
    // What would come twice comes before this.
    scene.publish("5", 2, "oven", all);
    subscriber.has(&format!("plant/lab/oven 2 0 {{\"n\":{all}}}")).await;
    let expected = (0..all).map(|n| format!("plant/lab/freezer 2 0 {{\"n\":{n}}}"));
    let expected: Vec<String> = expected.chain([format!("plant/lab/oven 2 0 {{\"n\":{all}}}")]).collect();
    assert_eq!(subscriber.got(), expected);
    program.stop().await;
}

/// Waits until the sink has delivered everything of so many rows.
async fn delivered(program: Program, rows: i64) -> Program {
    program.http.query_until("SELECT count(*) AS n FROM hot", rows).await;
    eventually("the outbox is empty", ARRIVAL_MAX, async || {
        let (_, text) = program.http.get("/metrics").await.ok()?;
        text.contains("tidemill_sink_outbox_rows{sink=\"alerts\"} 0").then_some(())
    })
    .await;
    program
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_listener_refuses_is_told_to_the_client() {
    let scene = Scene::new(false);
    let program = scene.serve.start_ready().await;
    for version in VERSIONS {
        let shared = scene.run_subscriber(&format!("shared-{version}"), version, &["-t", "$share/group/alerts/#"]);
        let (_, said) = shared.ended().await;
        assert!(said.contains("All subscription requests were denied"), "{said}");
    }
    let method = ["-D", "CONNECT", "authentication-method", "SCRAM-SHA-1", "-t", "alerts/#"];
    let (status, said) = scene.run_subscriber("method", "5", &method).ended().await;
    assert!(!status.success() && said.to_lowercase().contains("bad authentication method"), "{said}");
    // A version that nobody speaks any more, and garbage.
    let old = scene.run_subscriber("old", "mqttv31", &["-t", "alerts/#"]);
    let (status, said) = old.ended().await;
    assert!(!status.success(), "{said}");
    let mut garbage = std::net::TcpStream::connect(("127.0.0.1", scene.port)).expect("a listener");
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("a socket");
    scene.publish("5", 2, "freezer", 1);
    program.http.query_until("SELECT count(*) AS n FROM hot", 1).await;
    program.stop().await;
}
