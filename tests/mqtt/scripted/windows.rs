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
    const SYNC: Duration = Duration::from_millis(25);
    let mut scene = Scene::new(Version::V5, 1).await;
    scene.serve.commit = Duration::from_secs(600);
    let program = scene.serve.start();
    let mut link = scene.broker.session(false).await;
    link.play("> PUBLISH q1 id=1 v=0 \n < PUBACK 1").await;
    let mut words = Strace::inject(&[&format!("fdatasync:delay_exit={}", SYNC.as_micros())]);
    let traced = scene.folder.join("syncs");
    words.extend(["-e", "trace=fdatasync", "-o", traced.to_str().expect("a plain name")].map(str::to_owned));
    let strace = Strace::attach(program.pid(), &words).await;
    let begin = Instant::now();
    for round in 0..ROUNDS {
        let lines: Vec<String> =
            (1..=WINDOW).map(|id| format!("PUBLISH q1 id={id} v={}", round * WINDOW + id)).collect();
        link.send_together(&lines).await;
        link.expect_all((1..=WINDOW).map(|id| format!("PUBACK {id}"))).await;
    }
    let took = begin.elapsed();
    strace.detach().await;
    let traced = std::fs::read_to_string(&traced).expect("what strace has seen");
    let syncs = traced.lines().filter(|line| line.contains("fdatasync") && !line.contains("resumed")).count();
    eprintln!("{ROUNDS} windows of {WINDOW}: {syncs} syncs of {SYNC:?} in {took:?}");
    // The epochs that end meanwhile, one in 50 ms, are sealed with them.
    assert!(syncs <= ROUNDS + ROUNDS / 10, "{ROUNDS} windows of {WINDOW} took {syncs} syncs");
    // A timer anywhere would add to each round.
    let limit = SYNC * 2 * u32::try_from(ROUNDS).expect("few") + Duration::from_secs(1);
    assert!(took < limit, "{ROUNDS} windows of {WINDOW} took {took:?} with a sync of {SYNC:?}");
    let all = i64::try_from(WINDOW * ROUNDS).expect("few");
    scene.holds(program, &(0..=all).collect::<Vec<i64>>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_over_a_slow_disk_keeps_memory_bounded_and_the_link_alive() {
    const MESSAGES: usize = 12_500;
    const PAD_BYTES: usize = 4_000;
    let mut scene = Scene::with(Version::V5, 1, ", keep_alive = '1 s'").await;
    scene.serve.commit = Duration::from_secs(600);
    let program = scene.serve.start();
    let mut link = scene.broker.session(false).await;
    link.play("> PUBLISH q1 id=60000 v=0 \n < PUBACK 60000").await;
    let idle_kib = program.memory_kib("VmRSS");
    let strace = Strace::attach(program.pid(), &Strace::inject(&["fdatasync:delay_exit=200000"])).await;
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
