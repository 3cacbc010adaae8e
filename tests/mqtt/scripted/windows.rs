//! Many messages at once: small windows keep their pace, large bursts stay within memory.

use std::time::{Duration, Instant};

use super::{ANSWER_MAX, Scene};
use crate::harness::mqtt_script::words::Version;
use crate::harness::strace::Strace;

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_exceeds_our_receive_maximum_is_tolerated() {
    // The program announces 16,384.
    const MESSAGES: i64 = 20_000;
    let scene = Scene::new(Version::V5, 1).await;
    let program = scene.serve.start();
    let mut link = scene.broker.session(false).await;
    let lines: Vec<String> = (1..=MESSAGES).map(|id| format!("PUBLISH q1 id={id} v={id}")).collect();
    link.send_together(&lines).await;
    link.expect_all((1..=MESSAGES).map(|id| format!("PUBACK {id}"))).await;
    drop(link);
    scene.holds(program, &(1..=MESSAGES).collect::<Vec<i64>>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_of_20_is_limited_by_the_disk_alone() {
    const WINDOW: usize = 20;
    const ROUNDS: usize = 60;
    const ROUNDS_MAX: usize = 1_000;
    const SYNC: Duration = Duration::from_millis(25);
    const EPOCH: Duration = Duration::from_secs(1);
    let mut scene = Scene::new(Version::V5, 1).await;
    scene.serve.commit = Duration::from_secs(600);
    scene.serve.environment.push(("TIDEMILL__DURABILITY__EPOCH".to_owned(), format!("{}ms", EPOCH.as_millis())));
    let program = scene.serve.start();
    let mut link = scene.broker.session(false).await;
    link.play("> PUBLISH q1 id=1 v=0 \n < PUBACK 1").await;
    let mut words = Strace::inject(&[&format!("fdatasync:delay_exit={}", SYNC.as_micros())]);
    let traced = scene.folder.join("syncs");
    words.extend(["-e", "trace=fdatasync", "-o", traced.to_str().expect("a plain name")].map(str::to_owned));
    let strace = link.meanwhile(Strace::attach(program.pid(), &words)).await;
    let begin = Instant::now();
    let (mut rounds, mut fastest) = (0, Duration::MAX);
    // On a machine with other tests one round in many is as fast as it can be.
    while rounds < ROUNDS || (fastest >= SYNC * 2 && rounds < ROUNDS_MAX) {
        let round = Instant::now();
        let lines: Vec<String> =
            (1..=WINDOW).map(|id| format!("PUBLISH q1 id={id} v={}", rounds * WINDOW + id)).collect();
        link.send_together(&lines).await;
        link.expect_all((1..=WINDOW).map(|id| format!("PUBACK {id}"))).await;
        fastest = fastest.min(round.elapsed());
        rounds += 1;
    }
    let took = begin.elapsed();
    strace.detach().await;
    let traced = std::fs::read_to_string(&traced).expect("what strace has seen");
    let syncs = traced.lines().filter(|line| line.contains("fdatasync") && !line.contains("resumed")).count();
    eprintln!("{rounds} windows of {WINDOW}: {syncs} syncs of {SYNC:?} in {took:?}, one in {fastest:?}");
    // The epochs that end meanwhile are sealed with them, or alone.
    let epochs = usize::try_from(took.as_micros() / EPOCH.as_micros()).expect("few") + 1;
    assert!(syncs <= rounds + rounds / 10 + epochs, "{rounds} windows of {WINDOW} took {syncs} syncs in {took:?}");
    // A timer anywhere would add to each round.
    assert!(fastest < SYNC * 2, "a window of {WINDOW} took {fastest:?} at least, with a sync of {SYNC:?}");
    let all = i64::try_from(WINDOW * rounds).expect("few");
    scene.holds(program, &(0..=all).collect::<Vec<i64>>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_over_a_slow_disk_keeps_memory_bounded_and_the_link_alive() {
    const MESSAGES: usize = 12_500;
    const PAD_BYTES: usize = 4_000;
    let mut scene = Scene::with(Version::V5, 1, ", keep_alive = '4 s'").await;
    scene.serve.commit = Duration::from_secs(600);
    let program = scene.serve.start();
    let mut link = scene.broker.session(false).await;
    link.play("> PUBLISH q1 id=60000 v=0 \n < PUBACK 60000").await;
    let idle_kib = program.memory_kib("VmRSS");
    let words = Strace::inject(&["fdatasync:delay_exit=200000"]);
    let strace = link.meanwhile(Strace::attach(program.pid(), &words)).await;
    let pad = "x".repeat(PAD_BYTES);
    let mut heard = 0;
    for id in 1..=MESSAGES {
        link.send(&format!("PUBLISH q1 id={id} payload={{\"v\":{id},\"pad\":\"{pad}\"}}")).await;
        while let Some(line) = link.next(Duration::ZERO).await {
            heard += 1;
            assert_eq!(line, format!("PUBACK {heard}"));
        }
    }
    while heard < MESSAGES {
        let line = link.next(ANSWER_MAX).await.expect("the link lives");
        heard += 1;
        assert_eq!(line, format!("PUBACK {heard}"));
    }
    strace.detach().await;
    let most_kib = program.memory_kib("VmHWM");
    eprintln!("burst: {idle_kib} KiB idle, at most {most_kib}");
    // 32 MiB may be on their way to the disk; the rest waits at the broker. A debug build decodes and aggregates the same
    // bytes a few times.
    assert!(most_kib < idle_kib + 400 * 1024, "{idle_kib} KiB idle, {most_kib} at most");
    drop(link);
    scene.holds(program, &(0..=MESSAGES as i64).collect::<Vec<i64>>()).await;
}
