//! A `file` sink of the real program, judged by DuckDB; and a `stdout` sink in a pipe.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::{DELIVERY_MAX, deliver_all, kill_while_rows_come, lines, sink_until};
use crate::harness::disk::Disk;
use crate::harness::folder::Folder;
use crate::harness::program::{Serve, command};
use crate::harness::tables::Judge;
use crate::harness::wait::eventually;

fn pipeline(path: &Path, options: &str) -> String {
    format!(
        "CREATE SOURCE readings (n BIGINT NOT NULL, site TEXT, device TEXT) WITH (connector = 'http');\n\
         CREATE MATERIALIZED VIEW hot AS SELECT n, site, device FROM readings WHERE n >= 0;\n\
         CREATE MATERIALIZED VIEW beside AS SELECT n FROM readings;\n\
         CREATE SINK alerts FROM hot WITH (connector = 'file', path = '{}', {options});\n",
        path.display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn each_row_is_in_one_file_through_kills() {
    const KILLS: usize = 12;
    for (format, read) in [
        ("parquet", "read_parquet('{}/*.parquet')"),
        ("csv", "read_csv('{}/*.csv')"),
        ("ndjson", "read_json('{}/*.ndjson')"),
    ] {
        let folder = Folder::new();
        let path = folder.join("out");
        let options = format!("format = '{format}', commit_interval = '20 ms', roll_interval = '80 ms'");
        let serve = Serve::new(&folder, &pipeline(&path, &options));
        let mut random = rand::rngs::StdRng::seed_from_u64(9);
        let kills = if format == "parquet" { KILLS } else { 4 };
        let files = || std::fs::read_dir(&path).map_or(0, Iterator::count);
        let mut life = 0;
        let next = kill_while_rows_come(&serve, kills, Duration::ZERO, async || {
            let before = files();
            tokio::time::sleep(Duration::from_millis(random.random_range(50..600))).await;
            // A starved machine might never come so far.
            if life % 2 == 0 {
                eventually("another file", DELIVERY_MAX, async || (files() > before).then_some(())).await;
            }
            life += 1;
        })
        .await;
        let (program, stored) = deliver_all(&serve, next).await;
        let files = read.replace("{}", &path.display().to_string());
        let mut judge = Judge::new();
        eventually("all rows are in files", DELIVERY_MAX, async || {
            let count = judge.try_rows(&format!("SELECT count(*) AS n FROM {files}")).ok()?;
            (count[0]["n"].as_u64()? >= stored.len() as u64).then_some(())
        })
        .await;
        program.stop().await;
        let found = judge.rows(&format!(
            "SELECT count(*) AS n, sum(n)::BIGINT AS s, count(DISTINCT n) AS d, count(device) AS named FROM {files}"
        ));
        let (count, rows) = (std::fs::read_dir(&path).expect("a folder").count(), stored.len());
        let sum: u64 = stored.iter().sum();
        eprintln!("file sink: {rows} rows in {count} {format} files, {kills} kills");
        assert!(rows > 200 && count > kills / 2, "{rows} rows in {count} files");
        for (key, expected) in [("n", rows as u64), ("s", sum), ("d", rows as u64), ("named", rows as u64)] {
            assert_eq!(found[0][key].as_u64(), Some(expected), "{format} {key}");
        }
        let hidden = std::fs::read_dir(&path).expect("a folder").flatten();
        let hidden: Vec<_> =
            hidden.map(|entry| entry.file_name()).filter(|name| name.to_string_lossy().starts_with('.')).collect();
        assert!(hidden.is_empty(), "{hidden:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_a_file_sink_fails_that_sink_alone_and_it_goes_on_when_there_is_space() {
    let folder = Folder::new();
    let Some(disk) = Disk::to_fill(&folder, "20M") else { return };
    let path = disk.mounted_at.join("out");
    let serve = Serve::new(&folder, &pipeline(&path, "format = 'ndjson', roll_interval = '100 ms'"));
    let program = serve.start_ready().await;
    program.http.ingest_durably("readings", &lines(0, 100)).await;
    sink_until(&program.http, "the first rows are in files", |sink| sink["delivered"] == 100).await;
    let ballast = disk.fill();
    for from in (100..20_100).step_by(2_000) {
        program.http.ingest_durably("readings", &lines(from, from + 2_000)).await;
    }
    program.http.query_until("SELECT count(*) AS n FROM beside", 20_100).await;
    let says = |sink: &Value| sink["error"].as_str().is_some_and(|error| error.contains("No space left"));
    sink_until(&program.http, "the breaker opens, and says why", |sink| sink["breaker"] == "open" && says(sink)).await;
    let (code, _) = program.http.get("/readyz").await.expect("an answer");
    assert_eq!(code, 200, "only the sink has failed");
    drop(ballast);
    sink_until(&program.http, "everything is in files", |sink| sink["outbox_rows"] == 0 && sink["breaker"] == "closed")
        .await;
    program.stop().await;
    let found = Judge::new()
        .rows(&format!("SELECT count(*) AS n, count(DISTINCT n) AS d FROM read_json('{}/*.ndjson')", path.display()));
    assert_eq!((&found[0]["n"], &found[0]["d"]), (&20_100.into(), &20_100.into()));
}

/// A file of rows, and a pipeline that prints them.
fn printing(folder: &Folder, rows: u64, options: &str) -> std::path::PathBuf {
    let input = folder.write("readings.ndjson", &lines(0, rows));
    folder.write(
        "print.sql",
        &format!(
            "CREATE SOURCE readings (n BIGINT NOT NULL, site TEXT, device TEXT) WITH (connector = 'file', path = '{}', format = 'json');\n\
             CREATE MATERIALIZED VIEW hot AS SELECT n, device FROM readings WHERE n % 2 = 0;\n\
             CREATE SINK printed FROM hot WITH (connector = 'stdout'{options});\n",
            input.display()
        ),
    )
}

#[test]
fn rows_are_lines_on_stdout_and_logs_are_not() {
    for (options, head) in [("", None), (", format = 'csv'", Some("n,device"))] {
        let folder = Folder::new();
        let file = printing(&folder, 5_000, options);
        let output = command(
            ["run".as_ref(), "--data".as_ref(), folder.join("data").as_os_str(), file.as_os_str()],
            folder.path(),
        )
        .output();
        let output = output.expect("the program starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        assert!(errors.contains("sink printed  2,500 rows delivered"), "{errors}");
        let text = String::from_utf8(output.stdout).expect("text");
        let mut lines = text.lines();
        assert_eq!(head.map(|_| lines.next()), head.map(Some));
        let numbers: Vec<i64> = match head {
            None => lines
                .map(|line| serde_json::from_str::<Value>(line).expect(line)["n"].as_i64().expect("a number"))
                .collect(),
            Some(_) => lines.map(|line| line.split(',').next().and_then(|n| n.parse().ok()).expect(line)).collect(),
        };
        let mut sorted = numbers.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..5_000).step_by(2).collect::<Vec<_>>());
    }
}

#[test]
fn a_reader_that_goes_is_a_target_that_fails_and_the_next_run_prints_the_rest() {
    let folder = Folder::new();
    let file = printing(&folder, 200_000, "");
    let data = folder.join("data");
    let words = ["run".as_ref(), "--data".as_ref(), data.as_os_str(), file.as_os_str()];
    let mut child = command(words, folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut seen = std::collections::BTreeSet::new();
    let number = |line: &str| serde_json::from_str::<Value>(line).expect(line)["n"].as_i64().expect("a number");
    let reader = BufReader::new(child.stdout.take().expect("a pipe"));
    seen.extend(reader.lines().take(10).map(|line| number(&line.expect("a line"))));
    let output = child.wait_with_output().expect("it ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("wait in the outbox for the next run: cannot write to stdout"), "{errors}");
    let output = command(words, folder.path()).output().expect("the program starts");
    let text = String::from_utf8(output.stdout).expect("text");
    let rest: Vec<i64> = text.lines().map(number).collect();
    assert!(rest.len() <= 100_000, "{}", rest.len());
    // What was written into the pipe and not read by anybody is the reader's loss: nobody else has it.
    let printed: std::collections::BTreeSet<i64> = rest.iter().copied().collect();
    assert_eq!(printed.len(), rest.len(), "none of them twice in one run");
    let missing = (0..200_000).step_by(2).filter(|n| !printed.contains(n) && !seen.contains(n)).count();
    // A pipe holds 64 KiB, and the reader's buffer 8.
    assert!(missing <= 80 * 1024 / 20, "{missing}");
}
