//! An acknowledgement means "on disk": it leaves after the sync, not with it, and never after a sync that failed.

use std::time::{Duration, Instant};

use super::{ANSWER_MAX, Scene};
use crate::harness::mqtt_script::words::Version;
use crate::harness::strace::Strace;
use crate::harness::wait::eventually;

/// How long the disk is made to take; longer than two intervals of keep-alive.
const SYNC: Duration = Duration::from_secs(13);
/// Within so much of a sync nothing may leave.
const NOTHING_WITHIN: Duration = Duration::from_secs(11);

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledgement_leaves_before_the_sync_while_pings_do() {
    tokio::join!(leaves_after_the_sync(Version::V5, 1), leaves_after_the_sync(Version::V4, 2));
}

async fn leaves_after_the_sync(version: Version, qos: u8) {
    let mut scene = Scene::with(version, qos, ", keep_alive = '6 s'").await;
    // Commits sync as well; here only the log is to be waited for.
    scene.serve.commit = Duration::from_secs(600);
    let mut program = scene.serve.start();
    let mut link = scene.broker.session(false).await;
    let (first, last, held) = if qos == 1 { ("PUBACK 1", "PUBACK 2", 0) } else { ("PUBREC 1", "PUBREC 2", 2) };
    link.meanwhile(program.ready()).await;

    let words = Strace::inject(&[&format!("fdatasync,fsync:delay_enter={}", SYNC.as_micros())]);
    let strace = link.meanwhile(Strace::attach(program.pid(), &words)).await;
    let begin = Instant::now();
    link.send(&format!("PUBLISH q{qos} id=1 v=1")).await;
    link.send(&format!("PUBLISH q{qos} id=2 v=2")).await;
    let pings = link.pings;
    link.silent(NOTHING_WITHIN).await;
    assert!(link.pings > pings, "pings go on");
    link.expect(first).await;
    assert!(begin.elapsed() >= SYNC, "{first} after {:?}", begin.elapsed());
    strace.detach().await;
    link.expect(last).await;
    if held > 0 {
        // PUBCOMP is a promise to have forgotten the id: it waits for the disk as well.
        let strace = link.meanwhile(Strace::attach(program.pid(), &words)).await;
        let begin = Instant::now();
        link.send("PUBREL 1").await;
        link.send("PUBREL 2").await;
        link.silent(NOTHING_WITHIN).await;
        link.expect("PUBCOMP 1").await;
        assert!(begin.elapsed() >= SYNC, "PUBCOMP after {:?}", begin.elapsed());
        strace.detach().await;
        link.expect("PUBCOMP 2").await;
    }
    scene.holds(program, &[1, 2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_sync_that_fails_nothing_is_acknowledged_until_the_message_comes_again() {
    for (version, qos) in [(Version::V4, 1), (Version::V5, 2)] {
        let scene = Scene::new(version, qos).await;
        let program = scene.serve.start();
        let mut link = scene.broker.session(false).await;
        let answer = if qos == 1 { "PUBACK" } else { "PUBREC" };
        link.send(&format!("PUBLISH q{qos} id=1 v=1")).await;
        link.expect(&format!("{answer} 1")).await;
        let strace = Strace::attach(program.pid(), &Strace::inject(&["fdatasync:error=EIO"])).await;
        link.send(&format!("PUBLISH q{qos} id=2 v=2")).await;
        // It may close, and it may say why; it may not acknowledge.
        let said = link.next(Duration::from_secs(2)).await;
        assert!(said.as_deref().is_none_or(|said| said.starts_with("DISCONNECT")), "it says {said:?}");
        eventually("the program says that its disk fails", ANSWER_MAX, async || {
            let (_, text) = program.http.get("/api/v1/status").await.ok()?;
            text.contains("\"read_only\"").then_some(())
        })
        .await;
        link.cut().await;
        strace.detach().await;
        let mut link = scene.broker.session(true).await;
        if qos == 2 {
            link.play("> PUBREL 1 \n < PUBCOMP 1").await;
        }
        link.send(&format!("PUBLISH q{qos} id=2 dup=1 v=2")).await;
        link.expect(&format!("{answer} 2")).await;
        // At QoS 1 the first copy may have reached the disk all the same: nobody can tell, and nobody has acknowledged it.
        program.http.settled("readings", 2).await;
        program.stop().await;
        let mut records = scene.records("readings");
        if qos == 1 {
            records.dedup();
        }
        assert_eq!(records, [1, 2]);
    }
}
