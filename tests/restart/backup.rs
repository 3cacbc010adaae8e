//! An old copy of one table's folder is put back: the rows that it lacks come again from the log, or, if the log does not
//! reach back so far, the start is refused and names the table. No row is missing silently.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::scene::{Scene, TABLES, VIEWS, copy_folder, files, line};
use super::shrunk::{BATCH_BYTES, BATCHES};

/// Three lives, each with commits and a checkpoint only at its stop. Behind the first one the table `raw` is copied.
async fn three_lives() -> Scene {
    let mut scene = Scene::new(VIEWS);
    scene.set("DURABILITY__CHECKPOINT", "1h");
    scene.serve.commit = Duration::from_secs(3_600);
    for life in 0..3 {
        let program = scene.start_ready().await;
        scene.send(&program, 4).await;
        scene.settled(&program).await;
        program.stop().await;
        if life == 0 {
            copy_folder(&raw(&scene), &scene.folder.join("backup"));
        }
    }
    scene
}

fn raw(scene: &Scene) -> PathBuf {
    scene.serve.data.join("tables/raw")
}

/// Puts the copy of the table's log back; of the data files all are there.
fn put_log_back(scene: &Scene, backup: &Path) {
    fs::remove_dir_all(raw(scene).join("_delta_log")).expect("a writable folder");
    copy_folder(&backup.join("_delta_log"), &raw(scene).join("_delta_log"));
}

/// Puts the copy of the whole folder back.
fn put_folder_back(scene: &Scene, backup: &Path) {
    fs::remove_dir_all(raw(scene)).expect("a writable folder");
    copy_folder(backup, &raw(scene));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_of_a_table_gets_its_rows_again_from_the_log() {
    let original = three_lives().await;
    let backup = original.folder.join("backup");
    let (old, new) = (files(&backup, "_delta_log").len(), files(&raw(&original), "_delta_log").len());
    assert!(old + 2 <= new, "two commits are not in the copy: {old} {new}");
    for put_back in [put_log_back, put_folder_back] {
        let scene = original.copy();
        put_back(&scene, &backup);
        let said = scene.started_and_stopped().await;
        line(&said, "table raw has rows up to epoch");
        scene.assert_as_uninterrupted(&TABLES).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_of_a_table_is_refused_by_name_where_the_log_does_not_reach_back() {
    let mut scene = three_lives().await;
    let backup = scene.folder.join("backup");
    scene.set("DURABILITY__CHECKPOINT", "100ms");
    let program = scene.start_ready().await;
    for _ in 0..BATCHES {
        scene.send_large(&program, BATCH_BYTES).await;
        scene.checkpointed(&program).await;
    }
    program.stop().await;
    put_folder_back(&scene, &backup);
    let before = files(&scene.serve.data, "tables");
    let said = scene.refused().await;
    for words in ["table raw has rows up to epoch", "older than the checkpoints", "Nothing was changed"] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    assert!(files(&scene.serve.data, "tables") == before, "a refusal changes nothing");
}
