//! A program that is held while another takes its folder, and then goes on: it must neither commit, nor acknowledge what its
//! successor does not have.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::kept_log::KeptLog;
use super::load::Load;
use super::{sources, verdict};
use crate::harness::folder::Folder;
use crate::harness::http::Client;
use crate::harness::ledger::{Kind, Ledger, Reading};
use crate::harness::program::{Serve, free_port, signal};
use crate::harness::wait::while_it_moves;

/// How long the owner before may need to see that it is not the owner any more.
const NOTICE_MAX: Duration = Duration::from_secs(60);
/// How long no more readings may be acknowledged while some should be.
const STILL_MAX: Duration = Duration::from_secs(60);
/// Readings that each owner takes at least.
const ROWS: u64 = 5_000;
/// Readings in a request of the faithful client.
const BATCH: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_was_held_while_a_successor_took_over_acknowledges_nothing_and_ends() {
    let folder = Folder::new();
    let (mqtt, successors_mqtt) = (free_port(), free_port());
    let serve = Serve::new(&folder, &sources::pipeline(mqtt));
    let mut successor = serve.clone();
    successor.http = free_port();
    successor.pipeline = folder.write("successor.sql", &sources::pipeline(successors_mqtt));
    successor.log = folder.join("successor.stderr");

    // Load for the successor, which is not there yet, and one client that stays with the owner whatever happens.
    let kept_log = KeptLog::begin(serve.data.join("log"), folder.join("kept-log"));
    let old = serve.start_ready().await;
    let ledgers = folder.join("ledgers");
    let load = Load::begin(successors_mqtt, successor.http, &ledgers, 1);
    let faithful = Faithful::begin(serve.http, &ledgers);
    reached(ROWS, || faithful.acknowledged()).await;
    signal("STOP", old.pid());

    // Its lock stands, so nobody else may begin.
    let refused = successor.start().ended(NOTICE_MAX).await;
    let said = std::fs::read_to_string(&successor.log).expect("a readable log");
    assert_eq!(refused.code(), Some(2), "{said}");
    assert!(said.contains("another process uses this folder"), "it should say who has the folder: {said}");

    // What an operator does who is sure that the owner is dead, and is wrong.
    std::fs::remove_file(serve.data.join("lock")).expect("a lock to remove");
    let new = successor.start_ready().await;
    reached(ROWS, || load.shared().acknowledged().iter().sum()).await;
    // An answer that the owner gave before it was held has been heard by now.
    let before = faithful.acknowledged();
    signal("CONT", old.pid());
    let ended = old.ended(NOTICE_MAX).await;
    assert!(!ended.success(), "who has lost the folder has not ended well: {ended}");
    // It may have been held with an answer in its hands, of what its log held before the successor read it: of the one request
    // that was under way. That this was not lost, the verdict says.
    let given = faithful.end().await - before;
    assert!(given <= BATCH as u64, "the old owner has acknowledged {given} readings");

    reached(2 * ROWS, || load.shared().acknowledged().iter().sum()).await;
    load.end().await;
    new.stop().await;
    let kept_log = kept_log.keep();
    let verdict = verdict::on(&serve.data.join("tables"), &ledgers, &kept_log, 2);
    assert!(verdict.offences.is_empty(), "{}", verdict.offences.join("\n"));
}

async fn reached(rows: u64, acknowledged: impl Fn() -> u64) {
    let what = format!("{rows} readings are acknowledged");
    while_it_moves(&what, STILL_MAX, async || {
        let so_far = acknowledged();
        if so_far >= rows { Ok(()) } else { Err(so_far) }
    })
    .await;
}

/// A client that knows one server only.
struct Faithful {
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    running: JoinHandle<()>,
}

impl Faithful {
    fn begin(http: u16, ledgers: &Path) -> Faithful {
        let who = "hasty-faithful";
        let mut ledger = Ledger::create(&ledgers.join(format!("{who}.csv")), who);
        let (acknowledged, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (counter, stopped) = (Arc::clone(&acknowledged), Arc::clone(&stop));
        let running = tokio::spawn(async move {
            let client = Client::new(http);
            let mut seq = 0;
            while !stopped.load(Ordering::SeqCst) {
                let reading = |seq| {
                    let ts_us = sources::BEGIN_US + 60_000_000 + seq * 1_000;
                    Reading { seq, v: seq % 100, ts_us, kind: Kind::Plain }
                };
                let readings: Vec<Reading> = (seq..).take(BATCH).map(reading).collect();
                seq += BATCH as i64;
                ledger.sending(&readings);
                let lines = readings.iter().map(|reading| reading.json(who) + "\n").collect();
                match client.ingest("hasty", lines).await {
                    Ok((200, _)) => {
                        ledger.acknowledged(&readings, false);
                        counter.fetch_add(BATCH as u64, Ordering::SeqCst);
                    }
                    // Refused, or nobody knows. To be asked again too often would hide what is looked for.
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        Faithful { acknowledged, stop, running }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Lets it end, and returns how many readings were acknowledged.
    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.running.await.expect("a client that ends well");
        self.acknowledged.load(Ordering::SeqCst)
    }
}
