//! A folder that is followed while programs write into it and rotate their files, and while tidemill is killed again and again:
//! each numbered line is in the table once.
//!
//! - [`writers`]: who writes, and how the files are rotated

mod writers;

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use self::writers::{Rotation, Writer};
use crate::harness::folder::Folder;
use crate::harness::program::Serve;
use crate::harness::tables::Judge;
use crate::harness::wait::eventually;

const KILLS: u64 = 25;
/// The program lives so long before it is killed.
const LIFE_MS: std::ops::Range<u64> = 50..700;
/// Of so many kills one strikes before the program is ready.
const EARLY_OF: u64 = 4;
const TICK: Duration = Duration::from_millis(10);
/// A debug build that reads the rest.
const REST_MAX: Duration = Duration::from_secs(120);

fn sql(folder: &Folder) -> String {
    let path = folder.join("logs/*.ndjson*");
    format!(
        "CREATE SOURCE lines (who TEXT NOT NULL, seq BIGINT NOT NULL, file TEXT METADATA FROM 'path') WITH (\
         connector = 'file', path = '{}', format = 'json', follow = 'true', poll_interval = '50 ms');\n\
         CREATE MATERIALIZED VIEW seen AS SELECT who, seq, file FROM lines;\n",
        path.display()
    )
}

fn seed() -> u64 {
    std::env::var("TIDEMILL_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_line_is_there_once_through_rotations_and_kills() {
    let begin = Instant::now();
    let folder = Folder::new();
    let logs = folder.join("logs");
    std::fs::create_dir(&logs).expect("a new folder");
    let serve = Serve::new(&folder, &sql(&folder));
    let mut dice = StdRng::seed_from_u64(seed());
    let mut writers = [
        Writer::new(&logs, "renamed", Rotation::Rename),
        Writer::new(&logs, "copied", Rotation::CopyAndCutOff),
        Writer::new(&logs, "packed", Rotation::Compress),
        Writer::new(&logs, "new", Rotation::NewName),
    ];
    let mut work = |dice: &mut StdRng| {
        for writer in &mut writers {
            writer.write(dice.random_range(0..20), dice.random_bool(0.3));
            if dice.random_bool(0.02) {
                writer.rotate();
            }
        }
    };
    for _ in 0..KILLS {
        let mut program = serve.start();
        (0..10).for_each(|_| work(&mut dice));
        if dice.random_range(0..EARLY_OF) > 0 {
            program.ready().await;
        }
        let life = Duration::from_millis(dice.random_range(LIFE_MS));
        let born = Instant::now();
        let mut tick = tokio::time::interval(TICK);
        while born.elapsed() < life {
            tick.tick().await;
            work(&mut dice);
        }
        let ended = program.kill9();
        assert!(ended.code().is_none(), "the program ended by itself: {ended}");
        // Nobody looks, and the files go on.
        (0..20).for_each(|_| work(&mut dice));
    }
    let killed = begin.elapsed();
    writers.iter_mut().for_each(Writer::end_line);
    let program = serve.start_ready().await;
    for writer in &writers {
        let sql = format!("SELECT count(DISTINCT seq) AS n FROM seen WHERE who = '{}'", writer.name);
        program.http.query_until(&sql, writer.next).await;
    }
    // What would come twice would come now.
    tokio::time::sleep(Duration::from_secs(3)).await;
    program.stop().await;
    let mut judge = Judge::new();
    judge.table("seen", &serve.data.join("tables/seen"));
    let doubled = judge.offences(
        "lines that are there twice",
        "SELECT who, seq, count(*) FROM seen GROUP BY who, seq HAVING count(*) > 1",
    );
    assert!(doubled.is_none(), "seed {}: {doubled:?}", seed());
    for writer in &writers {
        let found =
            judge.number(&format!("SELECT count(*) FROM seen WHERE who = '{}' AND seq < {}", writer.name, writer.next));
        assert_eq!(found, writer.next, "seed {}: {}", seed(), writer.name);
    }
    let dead = judge_dead(&mut judge, &serve);
    assert_eq!(dead, 0, "seed {}: a half line was taken for a whole one", seed());
    let lines: i64 = writers.iter().map(|writer| writer.next).sum();
    let report =
        json!({"test": "follow", "seed": seed(), "kills": KILLS, "lines": lines, "seconds_of_kills": killed.as_secs()});
    eprintln!("{report}");
}

fn judge_dead(judge: &mut Judge, serve: &Serve) -> i64 {
    let path = serve.data.join("tables/lines$dead");
    if !path.join("_delta_log").exists() {
        return 0;
    }
    judge.table("dead", &path);
    judge.number("SELECT count(*) FROM dead")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_is_followed_and_what_happens_to_it_is_counted() {
    let folder = Folder::new();
    std::fs::create_dir(folder.join("logs")).expect("a new folder");
    let serve = Serve::new(&folder, &sql(&folder));
    let program = serve.start_ready().await;
    let line = |seq: i64| format!("{{\"who\":\"a\",\"seq\":{seq}}}\n");
    folder.write("logs/a.ndjson", &(line(1) + "{\"who\":\"a\",\"se"));
    folder.write("logs/array.ndjson", "[1]");
    let count = async |expected: i64| {
        eventually(&format!("{expected} lines are seen"), REST_MAX, async || {
            let rows = program.http.query("SELECT count(*) AS n FROM seen").await.ok()?;
            (rows.first()?["n"].as_i64()? == expected).then_some(())
        })
        .await;
    };
    count(1).await;
    folder.write("logs/a.ndjson", &(line(2) + &line(3)));
    count(3).await;
    eventually("both are counted", REST_MAX, async || {
        let (_, text) = program.http.get("/metrics").await.ok()?;
        let is_there =
            |kind: &str| text.contains(&format!("tidemill_source_errors_total{{source=\"lines\",kind=\"{kind}\"}} 1"));
        (is_there("truncated") && is_there("unreadable")).then_some(())
    })
    .await;
    program.stop().await;
}
