//! Files that are damaged, lost, of another folder or of a newer version: the start falls back to what is whole, or
//! refuses with the file's name and changes nothing.

use std::fs;
use std::path::{Path, PathBuf};

use tidemill_engine::checkpoint::Manifest;

use super::scene::{BATCH, Scene, TABLES, VIEWS, assert_same, checkpoints, copy_folder, fate, files, line};
use crate::harness::program::tidemill;
use crate::harness::tables::Judge;

const MANIFESTS: &str = "checkpoint/manifest";
const PACKS: &str = "checkpoint/state";

/// Killed with several checkpoints, a log that is whole, and tables that have not committed for a while.
async fn killed() -> Scene {
    let mut scene = Scene::new(VIEWS);
    let program = scene.start_ready().await;
    for _ in 0..4 {
        scene.send(&program, 3).await;
        scene.checkpointed(&program).await;
    }
    scene.send(&program, 2).await;
    program.kill9();
    assert!(checkpoints(&scene.serve.data).len() >= 3);
    scene
}

/// Returns the path of the newest manifest with a checkpoint, below the data folder.
fn newest_manifest(data: &Path) -> PathBuf {
    let (number, _) = checkpoints(data).pop_last().expect("a checkpoint");
    PathBuf::from(format!("{MANIFESTS}/{number:020}.json"))
}

/// Returns the path of a pack that only the newest checkpoint names.
fn newest_pack(data: &Path) -> PathBuf {
    let mut all = checkpoints(data);
    let (_, newest) = all.pop_last().expect("a checkpoint");
    let older: Vec<_> = all.values().flat_map(|manifest| manifest.checkpoint().expect("one").packs()).collect();
    let packs = newest.checkpoint().expect("one").packs();
    let pack = packs.into_iter().rfind(|pack| !older.contains(pack)).expect("something has changed since");
    PathBuf::from(PACKS).join(pack)
}

fn segments(data: &Path) -> Vec<PathBuf> {
    files(data, "log").into_keys().collect()
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("a readable file");
    change(&mut bytes);
    fs::write(path, bytes).expect("a writable file");
}

fn flip_in_the_middle(path: &Path) {
    edit(path, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_is_told_of_and_what_it_left_is_not_touched() {
    let original = killed().await;
    let scene = original.copy();
    fs::remove_dir_all(scene.serve.data.join("log")).expect("removed");
    assert_refused_untouched(&scene, &["the ingest log is gone", "move the data folder away to start anew"]).await;

    let scene = original.copy();
    fs::remove_dir_all(scene.serve.data.join("tables/raw/_delta_log")).expect("removed");
    let words = [
        "tables/raw/_delta_log/00000000000000000000.json",
        "files of the table are there",
        "move the table's folder away",
    ];
    assert_refused_untouched(&scene, &words).await;
    assert_unreadable(&scene, "_delta_log/00000000000000000000.json");
    fs::remove_dir_all(scene.serve.data.join("tables/raw")).expect("removed");
    let said = scene.started_and_stopped().await;
    let sentence = fate(&said, "raw");
    assert!(sentence.contains("is gone: filled again from the beginning of the log"), "{sentence}");

    let scene = original.copy();
    fs::remove_file(scene.serve.data.join("tables/raw/_delta_log/00000000000000000001.json")).expect("removed");
    assert_refused_untouched(&scene, &["_delta_log/00000000000000000001.json", "it is missing"]).await;
    assert_unreadable(&scene, "_delta_log/00000000000000000001.json");
}

/// The table `raw` gives no answer either, and is not well, where no server runs.
fn assert_unreadable(scene: &Scene, file: &str) {
    let data = scene.serve.data.to_str().expect("a plain name");
    for question in [&["sql", "SELECT count(*) FROM raw"][..], &["inspect", "table", "raw"]] {
        let output = tidemill([question, &["--data", data]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(file), "{question:?}: {said}");
    }
}

/// Everything but `fence/`, where a start is counted whatever becomes of it.
fn state(data: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let mut found = files(data, "");
    found.retain(|path, _| !path.starts_with("fence"));
    found
}

async fn assert_refused_untouched(scene: &Scene, words: &[&str]) {
    let before = state(&scene.serve.data);
    let said = scene.refused().await;
    for words in words {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    let after = state(&scene.serve.data);
    let changed: Vec<&PathBuf> = after.keys().filter(|path| before.get(*path) != after.get(*path)).collect();
    assert_eq!(changed, Vec::<&PathBuf>::new(), "a refusal changes nothing");
    assert_eq!(after.len(), before.len(), "a refusal removes nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_falls_back_to_what_is_whole_and_gives_the_same_tables() {
    let original = killed().await;
    let fresh = original.log_alone();
    fresh.started_and_stopped().await;
    let mut judge = Judge::new();
    let expected = fresh.tables(&mut judge, &TABLES);
    type Damage = fn(&Path);
    let cases: [(&str, Damage, &[&str]); 5] = [
        (
            "the newest manifest is damaged",
            |data| flip_in_the_middle(&data.join(newest_manifest(data))),
            &[MANIFESTS, ".json is damaged at byte ", "starting from the checkpoint of epoch"],
        ),
        (
            "the newest manifest is cut",
            |data| edit(&data.join(newest_manifest(data)), |bytes| bytes.truncate(100)),
            &[MANIFESTS, ".json is damaged at byte 100", "starting from the checkpoint of epoch"],
        ),
        (
            "a pack of the newest checkpoint is damaged",
            |data| flip_in_the_middle(&data.join(newest_pack(data))),
            &[PACKS, ".pack is damaged at byte ", "starting from the checkpoint of epoch"],
        ),
        (
            "a pack of the newest checkpoint is missing",
            |data| fs::remove_file(data.join(newest_pack(data))).expect("removed"),
            &[PACKS, ".pack is damaged at byte 0: the file is missing", "starting from the checkpoint of epoch"],
        ),
        (
            "all manifests are damaged, and the log is whole",
            |data| files(data, MANIFESTS).keys().for_each(|path| flip_in_the_middle(&data.join(path))),
            &[MANIFESTS, ".json is damaged at byte ", "starting from the beginning of the log"],
        ),
    ];
    for (case, damage, words) in cases {
        let scene = original.copy();
        damage(&scene.serve.data);
        let said = scene.started_and_stopped().await;
        let warning = line(&said, words[1]);
        assert_eq!(warning["level"], "WARN", "{case}: {warning}");
        for words in words {
            assert!(warning["message"].as_str().is_some_and(|said| said.contains(words)), "{case}: {warning}");
        }
        for (name, rows) in scene.tables(&mut judge, &TABLES) {
            assert_same(&format!("{case}: {name}"), &rows, &expected[&name]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_newer_version_has_written_is_refused_and_stays_byte_for_byte() {
    let original = killed().await;
    let newer = "newer version of the program that wrote it";
    let manifest = newest_manifest(&original.serve.data);
    let pack = newest_pack(&original.serve.data);
    let segment = segments(&original.serve.data).pop().expect("a segment");
    for path in [&manifest, &pack, &segment] {
        let scene = original.copy();
        let mut version = 0;
        edit(&scene.serve.data.join(path), |bytes| match path.extension().and_then(|kind| kind.to_str()) {
            Some("json") => {
                version = Manifest::VERSION + 1;
                let text = String::from_utf8(bytes.clone()).expect("text");
                let (own, newer) = (format!("{{\"version\":{}", version - 1), format!("{{\"version\":{version}"));
                assert!(text.starts_with(&own), "{text}");
                *bytes = text.replacen(&own, &newer, 1).into_bytes();
            }
            // Log and packs: a magic of 8 bytes, then the version.
            _ => {
                let own = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes"));
                version = u64::from(own) + 1;
                bytes[8..12].copy_from_slice(&(own + 1).to_le_bytes());
            }
        });
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        assert_refused_untouched(&scene, &[name, &format!("format version {version}"), newer]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_of_another_folder_and_a_log_without_its_end_are_refused() {
    let (original, other) = (killed().await, killed().await);
    let scene = original.copy();
    for folder in ["checkpoint", "tables"] {
        fs::remove_dir_all(scene.serve.data.join(folder)).expect("removed");
    }
    copy_folder(&other.serve.data.join("checkpoint"), &scene.serve.data.join("checkpoint"));
    assert_refused_untouched(&scene, &["the checkpoints belong to the log", "restore the folder as a whole"]).await;

    // A second start begins a second segment; both that one and the checkpoints in it come later than the first.
    let mut longer = original.copy();
    // So few of them that the first segment is still needed.
    longer.set("DURABILITY__CHECKPOINT", "1s");
    let program = longer.start_ready().await;
    longer.send(&program, 3).await;
    longer.checkpointed(&program).await;
    program.http.query_until("SELECT count(*) AS n FROM raw", longer.batches * (BATCH - 1)).await;
    program.kill9();
    let last = segments(&longer.serve.data).pop().expect("a segment");
    assert!(segments(&longer.serve.data).len() > 1);
    fs::remove_file(longer.serve.data.join(last)).expect("removed");
    assert_refused_untouched(&longer, &["The log has lost its end", "log/0000"]).await;

    // Without any checkpoint the tables know.
    fs::remove_dir_all(longer.serve.data.join("checkpoint")).expect("removed");
    let said = longer.refused().await;
    assert!(said.contains("has committed epoch") && said.contains("the log has lost its end"), "{said}");
}
