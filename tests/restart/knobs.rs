//! The two knobs: how often there is a checkpoint, and how often a table commits. Whichever is ahead, a kill loses
//! nothing and repeats nothing.

use super::scene::{BATCH, Scene, TABLES, VIEWS, line};
use crate::harness::tables::Judge;

/// Readings of a batch that are rows.
const ROWS: i64 = BATCH - 1;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_wait_for_a_file_survive_a_kill_as_part_of_the_checkpoint() {
    let mut scene = Scene::new(VIEWS);
    scene.set("TABLES__COMMIT", "1h");
    scene.set("DURABILITY__CHECKPOINT", "200ms");
    let program = scene.start_ready().await;
    scene.send(&program, 6).await;
    scene.checkpointed(&program).await;
    scene.send(&program, 2).await;
    scene.checkpointed(&program).await;
    program.kill9();
    let mut judge = Judge::new();
    assert!(scene.tables(&mut judge, &["raw"])["raw"].is_empty(), "nothing was committed");

    // The log behind the checkpoint is empty: so they can only come out of the checkpoint.
    let said = scene.started_and_stopped().await;
    let replay = line(&said, "the log is replayed behind a checkpoint");
    assert_eq!(replay["messages"], 0, "{replay}");
    assert_eq!(scene.tables(&mut judge, &["raw"])["raw"].len() as i64, 8 * ROWS);
    scene.assert_as_uninterrupted(&TABLES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_are_ahead_of_the_checkpoint_stay_right_after_a_kill() {
    let mut scene = Scene::new(VIEWS);
    scene.set("DURABILITY__CHECKPOINT", "1h");
    for run in 1..=3 {
        let program = scene.start_ready().await;
        scene.send(&program, 4).await;
        program.http.query_until("SELECT count(*) AS n FROM raw", 4 * run * ROWS).await;
        // Who asks what a start would do takes no lock.
        let foretold = scene.foretold();
        assert!(foretold.contains("raw: unchanged: goes on behind epoch"), "{foretold}");
        program.kill9();
    }
    let said = scene.started_and_stopped().await;
    let replay = line(&said, "the log is replayed behind its beginning");
    assert_eq!(replay["messages"], scene.batches * BATCH, "there is no checkpoint: {replay}");
    scene.assert_as_uninterrupted(&TABLES).await;
}
