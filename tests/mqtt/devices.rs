//! Devices of our own at the listener, byte by byte: they keep a session, are cut off and come back, before and after the
//! program was killed. A message that they have sent until its PUBCOMP is one record.

use std::time::Duration;

use futures::future::join_all;

use crate::harness::folder::Folder;
use crate::harness::http::rows_of;
use crate::harness::mqtt_script::words::{Version, encode};
use crate::harness::mqtt_script::{ANSWER_MAX, Link};
use crate::harness::program::{Program, Serve, command, free_port};
use crate::harness::wait::eventually;

/// A listener, and how to start the program that has it.
struct Scene {
    serve: Serve,
    port: u16,
    folder: Folder,
}

impl Scene {
    fn new() -> Scene {
        let folder = Folder::new();
        let port = free_port();
        let sql = format!(
            "CREATE SOURCE readings (v BIGINT NOT NULL) WITH (connector = 'mqtt_listener', \
             bind = '127.0.0.1:{port}', topic = 'plant/{{device}}');\n\
             CREATE MATERIALIZED VIEW history AS SELECT v FROM readings;\n"
        );
        Scene { serve: Serve::new(&folder, &sql), port, folder }
    }

    /// Connects as a device with a session that is kept.
    async fn device(&self, version: Version, id: &str, present: bool) -> Link {
        let mut link = Link::connect(self.port, version).await;
        link.send(&connect(version, id)).await;
        link.expect(&format!("CONNACK present={} rc=0x00 ...", u8::from(present))).await;
        link
    }

    /// Stops the program, and returns its records, sorted.
    async fn records(&self, program: Program) -> Vec<i64> {
        program.stop().await;
        let data = self.serve.data.to_str().expect("a plain name");
        let sql = "SELECT v FROM history ORDER BY v";
        let output = command(["sql", "--data", data, "--format", "json", sql], self.folder.path()).output();
        let output = output.expect("the program starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        let rows = rows_of(&text)
            .unwrap_or_else(|_| text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect());
        rows.iter().map(|row| row["v"].as_i64().expect("a number")).collect()
    }
}

fn connect(version: Version, id: &str) -> String {
    match version {
        Version::V4 => format!("CONNECT v4 id={id} clean=0"),
        Version::V5 => format!("CONNECT v5 id={id} clean=0 session_expiry=3600"),
    }
}

/// What happens before the program is killed, what a conforming device says afterwards.
const KILLS: [(&str, &str); 4] = [
    ("> PUBLISH q2 id=1 v=1", "> PUBLISH q2 id=1 dup=1 v=1 \n < PUBREC 1 \n > PUBREL 1 \n < PUBCOMP 1"),
    ("> PUBLISH q2 id=1 v=1 \n < PUBREC 1", "> PUBREL 1 \n < PUBCOMP 1"),
    ("> PUBLISH q2 id=1 v=1 \n < PUBREC 1 \n > PUBREL 1", "> PUBREL 1 \n < PUBCOMP 1"),
    ("> PUBLISH q2 id=1 v=1 \n < PUBREC 1 \n > PUBREL 1 \n < PUBCOMP 1", "> PUBREL 1 \n < PUBCOMP 1"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_goes_on_after_a_kill_has_each_message_recorded_once() {
    for (at, (before, after)) in KILLS.iter().enumerate() {
        let version = Version::ALL[at % 2];
        let scene = Scene::new();
        let program = scene.serve.start_ready().await;
        let mut link = scene.device(version, "a", false).await;
        // That the session is kept is durable with its first acknowledgement.
        link.play("> PUBLISH q2 id=9 v=0 \n < PUBREC 9 \n > PUBREL 9 \n < PUBCOMP 9").await;
        link.play(before).await;
        program.kill9();
        drop(link);
        let program = scene.serve.start_ready().await;
        let mut link = scene.device(version, "a", true).await;
        link.play(after).await;
        link.play("> PUBLISH q2 id=1 v=1 \n < PUBREC 1 \n > PUBREL 1 \n < PUBCOMP 1").await;
        assert_eq!(scene.records(program).await, [0, 1, 1], "after {before:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_cut_off_after_any_byte_has_each_message_recorded_once() {
    const BEGIN: &str = "> PUBLISH q2 id=1 topic=plant/x payload={\"v\":#}";
    let scene = Scene::new();
    let program = scene.serve.start_ready().await;
    let mut cuts: Vec<(String, String, &str)> = Vec::new();
    let release = "> PUBREL 1 \n < PUBCOMP 1";
    let again = "> PUBLISH q2 id=1 dup=1 topic=plant/x payload={\"v\":#} \n < PUBREC 1 \n > PUBREL 1 \n < PUBCOMP 1";
    for count in 1..encode(Version::V5, &BEGIN[2..]).len() {
        cuts.push((String::new(), format!("> cut {count} {}", &BEGIN[2..]), again));
    }
    for count in 1..4 {
        cuts.push((BEGIN.to_owned(), format!("< cut {count} PUBREC 1"), again));
        cuts.push((format!("{BEGIN} \n < PUBREC 1"), format!("> cut {count} PUBREL 1"), release));
        cuts.push((format!("{BEGIN} \n < PUBREC 1 \n > PUBREL 1"), format!("< cut {count} PUBCOMP 1"), release));
    }
    join_all(cuts.iter().enumerate().map(async |(at, (before, cut, after))| {
        let version = Version::ALL[at % 2];
        let (id, number) = (format!("device-{at}"), (at + 1_000).to_string());
        let played = |script: &str| script.replace('#', &number);
        let mut link = scene.device(version, &id, false).await;
        link.play(&played(before)).await;
        link.play(&played(cut)).await;
        drop(link);
        let mut link = Link::connect(scene.port, version).await;
        link.send(&connect(version, &id)).await;
        link.expect("CONNACK rc=0x00 ...").await;
        link.play(&played(after)).await;
    }))
    .await;
    let expected: Vec<i64> = (1_000..).take(cuts.len()).collect();
    assert_eq!(scene.records(program).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_begins_anew_is_believed_and_one_that_takes_over_ends_the_other() {
    let scene = Scene::new();
    let program = scene.serve.start_ready().await;
    let mut first = scene.device(Version::V5, "a", false).await;
    first.play("> PUBLISH q2 id=1 v=1 \n < PUBREC 1").await;
    let mut second = scene.device(Version::V5, "a", true).await;
    let said = first.next(ANSWER_MAX).await.unwrap_or_default();
    assert!(said.starts_with("DISCONNECT rc=0x8e"), "{said:?}");
    first.expect_close().await;
    second.play("> PUBLISH q2 id=1 dup=1 v=1 \n < PUBREC 1").await;
    drop(second);
    // A clean start gives the held id up: the same bytes are another message.
    let mut third = Link::connect(scene.port, Version::V5).await;
    third.play("> CONNECT v5 id=a clean=1 \n < CONNACK present=0 rc=0x00 ...").await;
    third.play("> PUBLISH q2 id=1 v=1 \n < PUBREC 1 \n > PUBREL 1 \n < PUBCOMP 1").await;
    drop(third);
    assert_eq!(scene.records(program).await, [1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_only_trickles_its_connect_is_thrown_out_and_disturbs_nobody() {
    let scene = Scene::new();
    let program = scene.serve.start_ready().await;
    let bytes = encode(Version::V5, "CONNECT v5 id=slow");
    let mut slow: Vec<Link> = join_all((0..50).map(async |_| {
        let mut link = Link::connect(scene.port, Version::V5).await;
        link.send_bytes(&bytes[..5]).await;
        link
    }))
    .await;
    let mut link = scene.device(Version::V5, "quick", false).await;
    for id in 1..=100 {
        link.play(&format!("> PUBLISH q1 id={id} v={id} \n < PUBACK {id}")).await;
    }
    join_all(slow.iter_mut().map(async |link| {
        eventually("a slow CONNECT is given up", Duration::from_secs(60), async || {
            // Nothing but the end can come.
            let said = link.next(Duration::from_millis(200)).await;
            assert_eq!(said, None);
            link.is_closed().await.then_some(())
        })
        .await;
    }))
    .await;
    assert_eq!(scene.records(program).await, (1..=100).collect::<Vec<i64>>());
}
