//! A data folder of format version 1: it lies in `golden/v1/` and must start for ever.
//!
//! It holds the pipeline, the log, checkpoints with open windows and with rows that wait for a file, and the tables.
//! `a_golden_folder_can_be_made_again` made it, run with `TIDEMILL_GOLDEN_OUT` set to the full path of a folder that is not there yet.
//!
//! When a version 2 of a format comes: leave `v1` as it is, and add `v2` beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidemill_engine::checkpoint::Store;
use tidemill_engine::storage::{LocalStorage, MemoryStorage, Storage};

use super::scene::{BATCH, Scene, TABLES, VIEWS, checkpoints, copy_folder, files, line};
use crate::harness::tables::Judge;

/// Batches in the golden folder.
const BATCHES: i64 = 7;
/// What belongs to it; all else is made anew by each start.
const FOLDERS: [&str; 3] = ["log", "checkpoint", "tables"];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/restart/golden/v1")
}

/// Makes a folder like the golden one.
async fn make() -> Scene {
    let mut scene = Scene::new(VIEWS);
    scene.set("TABLES__COMMIT", "1h");
    let program = scene.start_ready().await;
    scene.send(&program, 3).await;
    scene.checkpointed(&program).await;
    // Commits everything: the tables have rows, and files.
    program.stop().await;
    let program = scene.start_ready().await;
    scene.send(&program, BATCHES - 4).await;
    scene.checkpointed(&program).await;
    scene.send(&program, 1).await;
    scene.settled(&program).await;
    program.kill9();
    if let Some(out) = std::env::var_os("TIDEMILL_GOLDEN_OUT") {
        for folder in FOLDERS {
            copy_folder(&scene.serve.data.join(folder), &Path::new(&out).join(folder));
        }
        fs::copy(&scene.serve.pipeline, Path::new(&out).join("pipeline.sql")).expect("a writable folder");
    }
    scene
}

/// Returns a scene with a copy of the golden folder.
fn copy() -> Scene {
    let mut scene = Scene::new(VIEWS);
    FOLDERS.iter().for_each(|folder| copy_folder(&golden().join(folder), &scene.serve.data.join(folder)));
    scene.change(&fs::read_to_string(golden().join("pipeline.sql")).expect("a readable file"));
    scene.batches = BATCHES;
    scene
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_of_version_1_starts_goes_on_and_gives_the_right_tables() {
    let mut scene = copy();
    let newest = checkpoints(&scene.serve.data).pop_last().expect("a checkpoint").1;
    let state = newest.checkpoint().expect("one");
    assert!(state.windows.values().any(|window| !window.panes.is_empty()), "it has open windows");
    assert!(!state.buffers.is_empty(), "and rows that wait for a file");
    let program = scene.start_ready().await;
    let said = super::scene::lines(&program.log());
    assert_eq!(line(&said, "the log is replayed behind a checkpoint")["behind"], newest.epoch.0);
    scene.send(&program, 3).await;
    program.stop().await;
    let mut judge = Judge::new();
    assert_eq!(scene.tables(&mut judge, &["raw"])["raw"].len() as i64, scene.batches * (BATCH - 1));
    scene.assert_as_uninterrupted(&TABLES).await;
}

#[test]
fn manifests_of_version_1_are_written_as_they_are_read_and_their_packs_are_whole() {
    let stored = Arc::new(LocalStorage::existing(golden()).expect("a folder"));
    let store = Store::new(Arc::<LocalStorage>::clone(&stored));
    let all = checkpoints(&golden());
    assert!(!all.is_empty());
    for (number, manifest) in all {
        let parts = manifest.checkpoint().expect("one").parts().cloned().collect::<Vec<_>>();
        let batches = store.read_parts(&parts).expect("whole");
        assert!(batches.iter().zip(&parts).all(|(batch, part)| batch.num_rows() as u64 == part.rows));
        let written = Arc::new(MemoryStorage::default());
        Store::new(Arc::<MemoryStorage>::clone(&written)).write(manifest).expect("memory");
        let path = format!("checkpoint/manifest/{number:020}.json");
        let (written, stored) = (written.get(&path).expect("written"), stored.get(&path).expect("there"));
        assert_eq!(written, stored, "who changes the format gives it a new version");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_golden_folder_can_be_made_again() {
    let (made, golden) = (make().await, copy());
    let kinds = |data: &Path| {
        let paths = FOLDERS.iter().flat_map(|folder| files(data, folder).into_keys());
        let kind = |path: PathBuf| path.extension().map(|kind| kind.to_owned());
        paths.filter_map(kind).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(kinds(&made.serve.data), kinds(&golden.serve.data), "the same kinds of files");
    let bytes: u64 = files(&golden.serve.data, "")
        .keys()
        .map(|path| fs::metadata(golden.serve.data.join(path)).expect("there").len())
        .sum();
    assert!(bytes < 150_000, "a golden folder is small: {bytes}");
}
