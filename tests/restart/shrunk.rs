//! A log that has been shrunk: it reaches back to the oldest checkpoint that is kept, and no further.

use std::collections::BTreeMap;
use std::fs;

use super::scene::{BATCH, SOURCE, Scene, checkpoints, fate, files, line, lines};
use crate::harness::tables::Judge;

/// More than a segment needs to end at the next checkpoint.
pub(super) const BATCH_BYTES: usize = 1_300_000;
/// So many checkpoints that the first ones are not kept.
pub(super) const BATCHES: i64 = 7;

const RAW: &str = "CREATE MATERIALIZED VIEW raw AS SELECT device, seq, v, ts FROM readings;\n";

fn changing(filter: &str, aggregate: &str) -> String {
    format!(
        "CREATE MATERIALIZED VIEW plain AS SELECT seq, v FROM readings WHERE {filter};\n\
         CREATE MATERIALIZED VIEW w AS SELECT device, window_start, {aggregate} AS x, count(*) AS n \
         FROM TUMBLE(readings, ts, INTERVAL '2 seconds') GROUP BY device, window_start, window_end;\n"
    )
}

/// Runs until the log has lost its beginning, and stops. Returns the scene, and for each batch the epoch that a checkpoint
/// was made of when it had come.
async fn shrunk() -> (Scene, BTreeMap<i64, u64>) {
    let mut scene = Scene::new(&[RAW, &changing("v >= 0", "sum(v)")].concat());
    let program = scene.start_ready().await;
    let mut epochs = BTreeMap::new();
    for number in 0..BATCHES {
        scene.send_large(&program, BATCH_BYTES).await;
        epochs.insert(number, scene.checkpointed(&program).await);
    }
    program.stop().await;
    let first = files(&scene.serve.data, "log").into_keys().next().expect("a segment");
    assert!(!first.ends_with("0000000001.log"), "the log was not shrunk");
    (scene, epochs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_view_holds_what_the_log_still_has_and_an_unchanged_one_keeps_older_rows() {
    let (mut scene, epochs) = shrunk().await;
    let mut judge = Judge::new();
    let before = scene.tables(&mut judge, &["raw", "plain", "w"]);
    scene.change(&[SOURCE, RAW, &changing("v > -1", "max(v)")].concat());
    let oldest = checkpoints(&scene.serve.data).values().map(|manifest| manifest.epoch.0).min().expect("checkpoints");
    let foretold = scene.foretold();
    // Killed while it fills them: what the log still has must not become less by it.
    for wait in [false, true] {
        let said_before = fs::read_to_string(&scene.serve.log).expect("a log").len();
        let program = scene.start_ready().await;
        let said = lines(&program.log()[said_before..]);
        assert!(fate(&said, "raw").contains("goes on"), "{}", fate(&said, "raw"));
        if !wait {
            for table in ["plain", "w"] {
                let fate = fate(&said, table);
                let reach = format!("filled again from epoch {} on (20", oldest + 1);
                assert!(fate.contains(&reach) && fate.contains("as far as the log reaches back"), "{fate}");
                assert!(foretold.contains(fate), "{foretold}");
            }
            program.kill9();
        } else {
            scene.send(&program, 3).await;
            scene.checkpointed(&program).await;
            program.stop().await;
        }
    }

    let rows = |name: &str| scene.serve.data.join("tables").join(name);
    for name in ["raw", "plain", "w"] {
        judge.table(name, &rows(name));
    }
    let after = scene.tables(&mut judge, &["raw"]);
    assert!(before["raw"].iter().all(|row| after["raw"].contains(row)), "the rows of before are all there");
    assert_eq!(after["raw"].len() as i64, (BATCHES + 3) * (BATCH - 1));
    // From here on the log was there.
    let first = judge.number("SELECT min(seq) FROM plain");
    let batch = epochs.iter().find(|(_, epoch)| **epoch > oldest).map(|(batch, _)| *batch).expect("a later batch");
    assert!(batch > 0 && (batch * BATCH..(batch + 1) * BATCH).contains(&first), "{first} of batch {batch}: {epochs:?}");
    for (claim, sql) in [
        (
            "the plain view has exactly these rows",
            format!(
                "(SELECT seq, v FROM raw WHERE seq >= {first} EXCEPT ALL SELECT seq, v FROM plain) UNION ALL \
                 (SELECT seq, v FROM plain EXCEPT ALL SELECT seq, v FROM raw WHERE seq >= {first})"
            ),
        ),
        (
            "a window has the aggregate of these rows",
            format!(
                "SELECT w.* FROM w LEFT JOIN (SELECT device, time_bucket(INTERVAL '2 seconds', ts) AS start, max(v) AS x, \
                 count(*) AS n FROM raw WHERE seq >= {first} GROUP BY ALL) m \
                 ON m.device = w.device AND m.start = w.window_start \
                 WHERE (w.x, w.n) IS DISTINCT FROM (m.x, m.n)"
            ),
        ),
    ] {
        assert_eq!(judge.offences(claim, &sql), None);
    }
    assert!(judge.number("SELECT count(*) FROM w") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shrunk_log_without_any_whole_checkpoint_is_refused_and_stays_byte_for_byte() {
    let (scene, _) = shrunk().await;
    for path in files(&scene.serve.data, "checkpoint/manifest").into_keys() {
        let path = scene.serve.data.join(path);
        let bytes = fs::read(&path).expect("a readable file");
        fs::write(path, &bytes[..bytes.len() - 3]).expect("a writable file");
    }
    let state = || {
        let mut found = files(&scene.serve.data, "");
        // A start is counted there, whatever becomes of it.
        found.retain(|path, _| !path.starts_with("fence"));
        found
    };
    let before = state();
    let said = scene.refused().await;
    for words in [
        "cannot start from any checkpoint",
        "checkpoint/manifest/0000",
        "is damaged at byte",
        "The log reaches back only to epoch",
        "Nothing was changed",
    ] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    assert!(state() == before, "a refusal changes nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_was_away_too_long_is_filled_again_and_says_so() {
    let (mut scene, _) = shrunk().await;
    scene.change(&[SOURCE, &changing("v >= 0", "sum(v)")].concat());
    let program = scene.start_ready().await;
    for _ in 0..5 {
        scene.send_large(&program, BATCH_BYTES).await;
        scene.checkpointed(&program).await;
    }
    program.stop().await;
    scene.change(&[SOURCE, RAW, &changing("v >= 0", "sum(v)")].concat());
    let said = scene.started_and_stopped().await;
    let sentence = fate(&said, "raw");
    assert!(sentence.contains("does not know it: filled again from epoch"), "{sentence}");
    for table in ["plain", "w"] {
        assert!(fate(&said, table).contains("goes on"), "{}", fate(&said, table));
    }
    line(&said, "running");
}
