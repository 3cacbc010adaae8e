//! Connections that break after each byte, and kills between any two packets: one message is one record.

use std::time::Duration;

use futures::future::join_all;

use super::{ANSWER_MAX, Scene, pipeline};
use crate::harness::folder::Folder;
use crate::harness::mqtt_script::words::{Version, encode};
use crate::harness::mqtt_script::{Link, ScriptedBroker};
use crate::harness::program::{Serve, command};
use crate::harness::strace::Strace;

/// Where the first connection breaks.
#[derive(Clone, Debug)]
struct Cut {
    /// What is said before on the first connection.
    before: &'static str,
    /// The line that is cut: `>` ours, `<` that of the program.
    cut: String,
    /// What a conforming broker says on the next connection.
    again: &'static str,
    /// Whether the message may be there twice: nobody can know at QoS 1 whether the acknowledgement arrived.
    twice: bool,
}

const PUBLISH_1: &str = "PUBLISH q1 id=1 v=1";
const PUBLISH_2: &str = "PUBLISH q2 id=1 v=1";
const AGAIN_1: &str = "> PUBLISH q1 id=1 dup=1 v=1 \n < PUBACK 1";
const AGAIN_2: &str = "> PUBLISH q2 id=1 dup=1 v=1 \n < PUBREC 1 \n > PUBREL 1 \n < PUBCOMP 1";
const RELEASE_AGAIN: &str = "> PUBREL 1 \n < PUBCOMP 1";

/// Every byte of every packet of a version, at a QoS.
fn cuts(version: Version, qos: u8) -> Vec<Cut> {
    let bytes = |line: &str| 1..encode(version, line).len();
    let mut cuts = Vec::new();
    let mut cut = |before, sign, line: &str, again, twice: bool| {
        for count in bytes(line) {
            cuts.push(Cut { before, cut: format!("{sign} cut {count} {line}"), again, twice });
        }
    };
    if qos == 1 {
        cut("", '>', PUBLISH_1, AGAIN_1, false);
        cut("> PUBLISH q1 id=1 v=1", '<', "PUBACK 1", AGAIN_1, true);
    } else {
        cut("", '>', PUBLISH_2, AGAIN_2, false);
        cut("> PUBLISH q2 id=1 v=1", '<', "PUBREC 1", AGAIN_2, false);
        // The release was not understood: it comes again. It was: so does it, because its answer did not arrive.
        cut("> PUBLISH q2 id=1 v=1 \n < PUBREC 1", '>', "PUBREL 1", RELEASE_AGAIN, false);
        cut("> PUBLISH q2 id=1 v=1 \n < PUBREC 1 \n > PUBREL 1", '<', "PUBCOMP 1", RELEASE_AGAIN, false);
    }
    cuts
}

/// One program with a source for each cut, so that all of them are tried at once.
async fn cut_everywhere(version: Version, qos: u8) {
    let cuts = cuts(version, qos);
    let folder = Folder::new();
    let brokers = join_all(cuts.iter().map(|_| ScriptedBroker::start())).await;
    let source = |at: usize| format!("s{at}");
    let sql: String = (brokers.iter().enumerate())
        .map(|(at, broker)| pipeline(&source(at), &broker.url(), version, qos, ""))
        .collect();
    let serve = Serve::new(&folder, &sql);
    let program = serve.start();
    join_all(cuts.iter().zip(&brokers).map(async |(cut, broker)| {
        let mut link = broker.session(false).await;
        link.play(cut.before).await;
        link.play(&cut.cut).await;
        drop(link);
        let mut link = broker.session(true).await;
        link.play(cut.again).await;
        // The id is free again: the next message with it is a new one.
        link.play(if qos == 1 { "> PUBLISH q1 id=1 v=2 \n < PUBACK 1" } else { "> PUBLISH q2 id=1 v=2 \n < PUBREC 1" })
            .await;
    }))
    .await;
    program.stop().await;
    let unions: Vec<String> = (0..cuts.len())
        .map(|at| format!("SELECT {at} AS at, v, count(*) AS n FROM h_{} GROUP BY v", source(at)))
        .collect();
    let sql = format!("{} ORDER BY at, v", unions.join(" UNION ALL "));
    let data = serve.data.to_str().expect("a plain name");
    let output = command(["sql", "--data", data, "--format", "csv", &sql], folder.path()).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let rows: Vec<Vec<usize>> = text
        .lines()
        .skip(1)
        .map(|line| line.split(',').map(|n| n.trim().parse().expect("a number")).collect())
        .collect();
    assert_eq!(rows.len(), 2 * cuts.len(), "{text}");
    for row in rows {
        let [at, v, n] = row[..] else { panic!("{row:?}") };
        let cut = &cuts[at];
        let most = if cut.twice && v == 1 { 2 } else { 1 };
        assert!((1..=most).contains(&n), "{n} records of message {v} after {cut:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_after_any_byte_loses_nothing_at_qos_1() {
    cut_everywhere(Version::V4, 1).await;
    cut_everywhere(Version::V5, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_after_any_byte_is_one_record_at_qos_2() {
    cut_everywhere(Version::V4, 2).await;
    cut_everywhere(Version::V5, 2).await;
}

/// Where the program is killed, and what a conforming broker says afterwards.
const KILLS: [(&str, &str, &str); 5] = [
    ("after PUBREC", "> PUBLISH q2 id=1 v=1 \n < PUBREC 1", "> PUBREL 1 \n < PUBCOMP 1"),
    (
        "after a PUBREC that did not arrive",
        "> PUBLISH q2 id=1 v=1 \n < cut 2 PUBREC 1",
        "> PUBLISH q2 id=1 dup=1 v=1 \n < PUBREC 1 \n > PUBREL 1 \n < PUBCOMP 1",
    ),
    ("after PUBCOMP", "> PUBLISH q2 id=1 v=1 \n < PUBREC 1 \n > PUBREL 1 \n < PUBCOMP 1", "> PUBREL 1 \n < PUBCOMP 1"),
    (
        "after a PUBCOMP that did not arrive",
        "> PUBLISH q2 id=1 v=1 \n < PUBREC 1 \n > PUBREL 1 \n < cut 3 PUBCOMP 1",
        "> PUBREL 1 \n < PUBCOMP 1",
    ),
    ("after PUBREL, before its sync", "> PUBLISH q2 id=1 v=1 \n < PUBREC 1 \n > PUBREL 1", "> PUBREL 1 \n < PUBCOMP 1"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_any_two_packets_of_qos_2_is_one_record() {
    for (at, (when, before, after)) in KILLS.iter().enumerate() {
        let version = Version::ALL[at % 2];
        let scene = Scene::new(version, 2).await;
        let program = scene.serve.start();
        let mut link = scene.broker.session(false).await;
        link.play(before).await;
        program.kill9();
        drop(link);
        let program = scene.serve.start();
        let mut link = scene.broker.session(true).await;
        link.play(after).await;
        // Forgotten for good: this is another message, even though every byte is the same.
        link.play("> PUBLISH q2 id=1 v=1 \n < PUBREC 1").await;
        eprintln!("killed {when}");
        scene.holds(program, &[1, 1]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_the_sync_has_acknowledged_nothing() {
    for (version, qos) in [(Version::V5, 1), (Version::V5, 2)] {
        let mut scene = Scene::new(version, qos).await;
        scene.serve.commit = Duration::from_secs(600);
        let mut program = scene.serve.start();
        let mut link = scene.broker.session(false).await;
        link.meanwhile(program.ready()).await;
        let words = Strace::inject(&["fdatasync:delay_enter=60000000"]);
        let strace = link.meanwhile(Strace::attach(program.pid(), &words)).await;
        let lines: Vec<String> = (1..=50).map(|id| format!("PUBLISH q{qos} id={id} v={id}")).collect();
        link.send_together(&lines).await;
        link.silent(Duration::from_millis(700)).await;
        strace.kill9(program);
        let program = scene.serve.start();
        let mut link = scene.broker.session(true).await;
        let lines: Vec<String> = lines.iter().map(|line| line.replace(" v=", " dup=1 v=")).collect();
        link.send_together(&lines).await;
        let answer = if qos == 1 { "PUBACK" } else { "PUBREC" };
        link.expect_all((1..=50).map(|id| format!("{answer} {id}"))).await;
        drop(link);
        program.http.settled("readings", 50).await;
        program.stop().await;
        let mut records = scene.records("readings");
        if qos == 1 {
            // Written and not synced is not lost by a kill, only by a loss of power: it may be there twice.
            records.dedup();
        }
        assert_eq!(records, (1..=50).collect::<Vec<i64>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_after_half_of_the_acknowledgements_is_one_record_each_at_qos_2() {
    let scene = Scene::new(Version::V5, 2).await;
    let program = scene.serve.start();
    let mut link = scene.broker.session(false).await;
    let lines: Vec<String> = (1..=100).map(|id| format!("PUBLISH q2 id={id} v={id}")).collect();
    link.send_together(&lines).await;
    link.expect_all((1..=50).map(|id| format!("PUBREC {id}"))).await;
    // Fifty were heard, and twenty of those are released; the answers to the others are lost with the connection.
    let releases: Vec<String> = (1..=20).map(|id| format!("PUBREL {id}")).collect();
    link.send_together(&releases).await;
    program.kill9();
    drop(link);
    let program = scene.serve.start();
    let mut link = scene.broker.session(true).await;
    let resent: Vec<String> = (1..=50)
        .map(|id| format!("PUBREL {id}"))
        .chain((51..=100).map(|id| format!("PUBLISH q2 id={id} dup=1 v={id}")))
        .collect();
    link.send_together(&resent).await;
    answers(&mut link, (1..=50).map(|id| format!("PUBCOMP {id}")), (51..=100).map(|id| format!("PUBREC {id}"))).await;
    scene.holds(program, &(1..=100).collect::<Vec<i64>>()).await;
}

/// Waits for two rows of answers, each in its order.
async fn answers(link: &mut Link, a: impl Iterator<Item = String>, b: impl Iterator<Item = String>) {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    while a.peek().is_some() || b.peek().is_some() {
        let line = link.next(ANSWER_MAX).await.expect("an answer");
        let is_next = a.next_if_eq(&line).is_some() || b.next_if_eq(&line).is_some();
        assert!(is_next, "{line} comes before {:?} or {:?}", a.peek(), b.peek());
    }
}
