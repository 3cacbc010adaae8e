//! Another pipeline over the same folder: what is unchanged goes on, what is changed is filled again from the log, and
//! both are said before anything begins.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use super::scene::{SOURCE, Scene, assert_same, fate, files, line};
use crate::harness::tables::Judge;

const RAW: &str = "CREATE MATERIALIZED VIEW raw AS SELECT device, seq, v, ts FROM readings;\n";

/// A windowed view whose aggregate and window may be another.
fn windowed(aggregate: &str, seconds: u32) -> String {
    format!(
        "CREATE MATERIALIZED VIEW w AS SELECT device, window_start, window_end, {aggregate} AS x \
         FROM TUMBLE(readings, ts, INTERVAL '{seconds} seconds') GROUP BY device, window_start, window_end;\n"
    )
}

/// Returns how often a table's content was begun: each time has its metadata in the table's log.
fn contents(data: &Path, table: &str) -> usize {
    let log = data.join("tables").join(table).join("_delta_log");
    let commits = files(&log, "");
    commits.values().filter(|bytes| String::from_utf8_lossy(bytes).contains("\"metaData\"")).count()
}

fn newest_version(data: &Path, table: &str) -> u64 {
    let log = data.join("tables").join(table).join("_delta_log");
    let versions = files(&log, "").into_keys().filter_map(|path| path.file_stem()?.to_str()?.parse().ok());
    versions.max().expect("a version")
}

/// A first pipeline with some input, stopped.
async fn ran(views: &str) -> Scene {
    let mut scene = Scene::new(views);
    // The only checkpoint of a run is the last one, so that the log stays whole for a while.
    scene.set("DURABILITY__CHECKPOINT", "1h");
    run(&mut scene, 8).await;
    scene
}

/// Starts the pipeline as it is, sends batches, and stops; returns what the start has said.
async fn run(scene: &mut Scene, batches: i64) -> Vec<Value> {
    let before = fs::read_to_string(&scene.serve.log).unwrap_or_default().len();
    let program = scene.start_ready().await;
    scene.send(&program, batches - 2).await;
    scene.settled(&program).await;
    scene.send(&program, 2).await;
    scene.settled(&program).await;
    let log = program.log()[before..].to_owned();
    program.stop().await;
    super::scene::lines(&log)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_view_is_filled_again_and_the_others_go_on_and_both_are_said_before() {
    let gone = "CREATE MATERIALIZED VIEW gone AS SELECT device, v FROM readings WHERE v > 50;\n";
    let third = "CREATE MATERIALIZED VIEW third AS SELECT device, v * 2 AS twice FROM readings;\n";
    let mut scene = ran(&[RAW, &windowed("sum(v)", 3), gone].concat()).await;
    let data = scene.serve.data.clone();
    let mut judge = Judge::new();
    let before = scene.tables(&mut judge, &["raw", "w", "gone"]);
    let old_version = newest_version(&data, "w");

    scene.change(&[SOURCE, RAW, &windowed("max(v)", 3), third].concat());
    let untouched = files(&data, "");
    let foretold = scene.foretold();
    assert_eq!(files(&data, ""), untouched, "who only asks changes nothing");

    // Readers see the old rows or the new ones, at every instant.
    let end = Arc::<AtomicBool>::default();
    let reader = {
        let (end, table) = (Arc::clone(&end), data.join("tables/w"));
        std::thread::spawn(move || {
            let (mut judge, mut seen) = (Judge::new(), Vec::new());
            while !end.load(Ordering::SeqCst) {
                judge.table("t", &table);
                let rows = judge.rows("SELECT * FROM t ORDER BY ALL");
                seen.push(rows.into_iter().map(|row| Value::Object(row).to_string()).collect::<Vec<_>>());
            }
            seen
        })
    };
    let said = run(&mut scene, 4).await;
    end.store(true, Ordering::SeqCst);
    let seen = reader.join().expect("a reader that ends well");

    let at = |words: &str| {
        let says = |line: &Value| line["message"].as_str().is_some_and(|message| message.contains(words));
        said.iter().position(says).expect("it is said")
    };
    for (table, sentence) in [
        ("raw", "unchanged: goes on behind epoch"),
        ("w", "the view was changed since this table was written: filled again from the beginning of the log (20"),
        ("third", "new: filled from the beginning of the log (20"),
        ("gone", "in the pipeline no more: its rows stay, and no more come"),
    ] {
        let fate = fate(&said, table);
        assert!(fate.starts_with(sentence), "{fate}");
        assert!(foretold.contains(&format!("{table}: {fate}\n")), "{fate} is not in {foretold}");
        assert!(at(fate) < at("running"), "said before it is ready");
    }

    let after = scene.tables(&mut judge, &["raw", "w", "gone"]);
    assert_eq!(contents(&data, "raw"), 1, "it has no new generation");
    assert_eq!(contents(&data, "w"), 2);
    assert_eq!(after["gone"], before["gone"]);
    scene.assert_as_uninterrupted(&["raw", "w", "third", "w$late"]).await;
    judge.table_at("old", &data.join("tables/w"), old_version);
    let old = judge.rows("SELECT * FROM old ORDER BY ALL");
    let old: Vec<String> = old.into_iter().map(|row| Value::Object(row).to_string()).collect();
    assert_eq!(old, before["w"], "the version before has the old rows");
    assert!(!seen.is_empty());
    for rows in seen {
        let is_new = rows.iter().all(|row| after["w"].contains(row));
        assert!(rows == before["w"] || is_new, "neither the old rows nor the new ones: {rows:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_window_another_filter_and_a_view_over_a_changed_view_are_filled_again() {
    let inner = |limit: u32| {
        format!("CREATE MATERIALIZED VIEW inner_view AS SELECT device, v, ts FROM readings WHERE v < {limit};\n")
    };
    let outer = "CREATE MATERIALIZED VIEW outer_view AS SELECT device, window_start, window_end, count(*) AS n \
                 FROM TUMBLE(inner_view, ts, INTERVAL '2 seconds') GROUP BY device, window_start, window_end;\n";
    let mut scene = ran(&[&windowed("sum(v)", 3), &inner(50), outer].concat()).await;
    scene.change(&[SOURCE, &windowed("sum(v)", 2), &inner(60), outer].concat());
    let said = run(&mut scene, 4).await;
    for table in ["w", "inner_view", "outer_view"] {
        assert!(fate(&said, table).contains("filled again from the beginning of the log"), "{}", fate(&said, table));
    }
    assert!(fate(&said, "readings$dead").contains("goes on"));
    scene.assert_as_uninterrupted(&["w", "inner_view", "outer_view", "outer_view$late", "readings$dead"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_is_changed_and_killed_while_it_is_filled_is_filled_to_its_end_and_can_be_changed_back() {
    let with = |aggregate: &str| [SOURCE, RAW, &windowed(aggregate, 3)].concat();
    for (then, generations) in [("min(v)", 2), ("sum(v)", 3)] {
        let mut scene = ran(&[RAW, &windowed("sum(v)", 3)].concat()).await;
        scene.change(&with("min(v)"));
        scene.start_ready().await.kill9();
        scene.change(&with(then));
        let said = run(&mut scene, 4).await;
        assert!(fate(&said, "raw").contains("goes on"), "{}", fate(&said, "raw"));
        assert_eq!(contents(&scene.serve.data, "w"), generations, "one more for each change, and none for the kill");
        scene.assert_as_uninterrupted(&["raw", "w", "w$late"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_was_away_for_a_run_goes_on_with_all_its_rows() {
    let both = [RAW, &windowed("sum(v)", 3)].concat();
    let mut scene = ran(&both).await;
    for left in [RAW.to_owned(), windowed("sum(v)", 3)] {
        scene.change(&[SOURCE, &left].concat());
        run(&mut scene, 4).await;
        scene.change(&[SOURCE, &both].concat());
        let said = run(&mut scene, 4).await;
        for table in ["raw", "w"] {
            assert!(fate(&said, table).contains("goes on"), "{}", fate(&said, table));
            assert_eq!(contents(&scene.serve.data, table), 1);
        }
    }
    scene.assert_as_uninterrupted(&["raw", "w", "w$late"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_with_another_column_has_its_views_filled_again() {
    let views = [RAW, &windowed("sum(v)", 3)].concat();
    let mut scene = ran(&views).await;
    let wider = SOURCE.replace("pad TEXT,", "pad TEXT, place TEXT,");
    let views = views.replace("seq, v, ts FROM", "seq, v, ts, place FROM");
    scene.change(&[&wider, views.as_str()].concat());
    let said = run(&mut scene, 4).await;
    for table in ["raw", "w"] {
        assert!(fate(&said, table).contains("filled again from the beginning of the log"), "{}", fate(&said, table));
    }
    scene.assert_as_uninterrupted(&["raw", "w", "w$late", "readings$dead"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renamed_source_is_a_new_one_and_the_readings_of_the_old_name_are_told_of() {
    let scene = ran(RAW).await;
    let mut judge = Judge::new();
    let (before, version) = (scene.tables(&mut judge, &["raw"]), newest_version(&scene.serve.data, "raw"));
    scene.change(&[SOURCE, RAW].concat().replace("readings", "measurements"));
    let foretold = scene.foretold();
    let said_before = fs::read_to_string(&scene.serve.log).expect("a log").len();
    let program = scene.start_ready().await;
    let said = super::scene::lines(&program.log()[said_before..]);
    program.kill9();
    let told =
        "the log has readings of source readings, and the pipeline has no source of this name: no table gets them";
    assert!(line(&said, told)["level"] == "WARN" && foretold.contains(told), "{foretold}");
    assert!(fate(&said, "raw").contains("filled again"), "{}", fate(&said, "raw"));
    assert!(scene.tables(&mut judge, &["raw"])["raw"].is_empty(), "there are no readings of the new name yet");
    judge.table_at("old", &scene.serve.data.join("tables/raw"), version);
    assert_eq!(judge.number("SELECT count(*) FROM old"), before["raw"].len() as i64);

    // The old name again: all of its readings are in the log.
    scene.change(&[SOURCE, RAW].concat());
    scene.started_and_stopped().await;
    assert_same("raw", &scene.tables(&mut judge, &["raw"])["raw"], &before["raw"]);
}
