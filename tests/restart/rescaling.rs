//! The same tables at any number of threads, however often and however the program ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::scene::{Scene, TABLES, VIEWS, checkpoints, line, lines};
use crate::harness::tables::Judge;

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stop,
    /// While epochs, commits and checkpoints are under way.
    Kill,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_and_killed_and_started_with_other_numbers_of_threads_the_tables_are_the_same() {
    let mut scene = Scene::new(VIEWS);
    // Workers, writers of each table, and the end.
    let runs = [(1, 1, End::Kill), (3, 2, End::Stop), (2, 1, End::Kill), (4, 2, End::Kill), (1, 1, End::Stop)];
    let (mut newest, mut stopped) = (None, false);
    for (workers, writers, end) in runs {
        scene.serve.workers = workers;
        scene.set("TABLES__WRITERS", &writers.to_string());
        let said_before = std::fs::read_to_string(&scene.serve.log).unwrap_or_default().len();
        let program = scene.start_ready().await;
        // What is replayed is what stands behind the newest checkpoint, and nothing else.
        let said = lines(&program.log()[said_before..]);
        let replay = line(&said, "the log is replayed behind");
        assert_eq!(replay["behind"].as_u64(), Some(newest.unwrap_or(0)), "{replay}");
        if stopped {
            assert_eq!(replay["messages"], 0, "SIGTERM makes a last checkpoint: {replay}");
            assert_eq!(replay["behind"], replay["up_to"], "{replay}");
        }
        scene.send(&program, 6).await;
        scene.checkpointed(&program).await;
        scene.send(&program, 2).await;
        match end {
            End::Stop => program.stop().await,
            End::Kill => assert_eq!(program.kill9().code(), None, "it was killed"),
        }
        stopped = end == End::Stop;
        newest = checkpoints(&scene.serve.data).values().map(|manifest| manifest.epoch.0).next_back();
        assert!(newest.is_some());
    }
    scene.assert_as_uninterrupted(&TABLES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_a_loaded_program_in_time_and_the_next_start_replays_nothing() {
    let mut scene = Scene::new(VIEWS);
    // Without a checkpoint of its own the whole log would be replayed.
    scene.set("DURABILITY__CHECKPOINT", "1h");
    let program = scene.start_ready().await;
    scene.send(&program, 5).await;
    let end = Arc::<AtomicBool>::default();
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            let (http, end) = (program.http.clone(), Arc::clone(&end));
            tokio::spawn(async move {
                let mut acknowledged = 0_i64;
                while !end.load(Ordering::SeqCst) {
                    let reading = |idx| {
                        format!(
                            r#"{{"device":"s{sender}","seq":{},"v":1,"ts":"2020-01-01T00:00:05Z"}}"#,
                            acknowledged + idx
                        )
                    };
                    let lines: Vec<String> = (0..100).map(reading).collect();
                    match http.ingest("readings", lines.join("\n")).await {
                        Ok((200, _)) => acknowledged += 100,
                        // It stops: whether this one counts is not known.
                        _ => break,
                    }
                }
                (sender, acknowledged)
            })
        })
        .collect();
    program.http.query_until("SELECT CASE WHEN count(*) >= 1000 THEN 1 ELSE 0 END AS n FROM raw", 1).await;
    program.stop().await;
    end.store(true, Ordering::SeqCst);
    let said = scene.started_and_stopped().await;
    let replay = line(&said, "the log is replayed behind a checkpoint");
    assert_eq!((&replay["messages"], &replay["behind"]), (&0.into(), &replay["up_to"]), "{replay}");
    let mut judge = Judge::new();
    judge.table("raw", &scene.serve.data.join("tables/raw"));
    for sender in senders {
        let (sender, acknowledged) = sender.await.expect("a sender that ends well");
        let found = judge.number(&format!("SELECT count(DISTINCT seq) FROM raw WHERE device = 's{sender}'"));
        assert!(found >= acknowledged && acknowledged > 0, "{found} of {acknowledged} acknowledged readings");
    }
    scene.assert_as_uninterrupted(&TABLES[..3]).await;
}
