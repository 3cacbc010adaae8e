//! A program that is held while another takes its folder, and then goes on: it must neither acknowledge nor commit.

use std::time::Duration;

use super::load::Load;
use super::{HAS_CHECKPOINTS, kept_log, sources, verdict};
use crate::harness::folder::Folder;
use crate::harness::http::Client;
use crate::harness::ledger::{Kind, Ledger, Reading};
use crate::harness::program::{Serve, free_port, signal};
use crate::harness::wait::eventually;

/// How long the one before may need to see that it is not the owner any more.
const NOTICE_MAX: Duration = Duration::from_secs(15);
/// Readings that each owner takes at least.
const ROWS: u64 = 5_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_was_held_while_a_successor_took_over_acknowledges_nothing_and_ends() {
    let folder = Folder::new();
    let (mqtt, successors_mqtt) = (free_port(), free_port());
    let serve = Serve::new(&folder, &sources::pipeline(mqtt));
    let mut successor = serve.clone();
    successor.http = free_port();
    successor.pipeline = folder.write("successor.sql", &sources::pipeline(successors_mqtt));
    successor.log = folder.join("successor.stderr");

    let old = serve.start_ready().await;
    let ledgers = folder.join("ledgers");
    let load = Load::begin(successors_mqtt, successor.http, &ledgers, 1);
    signal("STOP", old.pid());

    // Its lock stands, so nobody else may begin.
    let refused = successor.start().ended(NOTICE_MAX).await;
    let said = std::fs::read_to_string(&successor.log).expect("a readable log");
    assert_eq!(refused.code(), Some(2), "{said}");
    assert!(said.contains("another process uses this folder"), "it should say who has the folder: {said}");
    if !HAS_CHECKPOINTS {
        signal("CONT", old.pid());
        return;
    }

    // What an operator does who is sure that the owner is dead, and is wrong.
    std::fs::remove_file(serve.data.join("lock")).expect("a lock to remove");
    let new = successor.start_ready().await;
    taken(&load, ROWS).await;

    // A client of the old one goes on as well; whatever it was told before, it is not acknowledged now.
    let zombie = Client::new(serve.http);
    let mut ledger = Ledger::create(&ledgers.join("hasty-zombie.csv"), "hasty-zombie");
    let reading = |seq| Reading { seq, v: 1, ts_us: sources::BEGIN_US + 60_000_000, kind: Kind::Plain };
    ledger.sending(&[reading(0)]);
    let first = tokio::spawn({
        let (zombie, line) = (zombie.clone(), reading(0).json("hasty-zombie"));
        async move { zombie.ingest("hasty", line).await }
    });
    tokio::task::yield_now().await;
    signal("CONT", old.pid());
    let first = first.await.expect("a client that ends");
    assert!(!matches!(first, Ok((200, _))), "the old owner has acknowledged: {first:?}");
    for seq in 1..100 {
        ledger.sending(&[reading(seq)]);
        let answer = zombie.ingest("hasty", reading(seq).json("hasty-zombie")).await;
        assert!(!matches!(answer, Ok((200, _))), "the old owner has acknowledged: {answer:?}");
    }
    let ended = old.ended(NOTICE_MAX).await;
    assert!(!ended.success(), "who has lost the folder has not ended well: {ended}");

    taken(&load, 2 * ROWS).await;
    load.end().await;
    new.stop().await;
    let kept_log = folder.join("kept-log");
    kept_log::keep(&serve.data.join("log"), &kept_log);
    let verdict = verdict::on(&serve.data.join("tables"), &ledgers, &kept_log, 2);
    assert!(verdict.offences.is_empty(), "{}", verdict.offences.join("\n"));
}

async fn taken(load: &Load, rows: u64) {
    eventually(&format!("{rows} readings are acknowledged"), Duration::from_secs(60), async || {
        (load.shared().acknowledged().iter().sum::<u64>() >= rows).then_some(())
    })
    .await;
}
