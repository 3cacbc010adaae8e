//! Bodies of every kind, made by the libraries that people use, and damaged in every way.

use std::process::Command;

use super::{INGEST, NDJSON, PIPELINE, log_at_rest, post};
use crate::harness::folder::Folder;
use crate::harness::program::Serve;
use crate::harness::python::{interpreter, script};

#[tokio::test(flavor = "multi_thread")]
async fn what_python_writes_is_taken_and_any_cut_of_it_is_refused_without_a_trace() {
    let folder = Folder::new();
    let mut made = Command::new(interpreter());
    let made = made.arg(script("http/bodies.py")).arg(folder.path()).output().expect("Python starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut serve = Serve::new(&folder, PIPELINE);
    serve.environment = vec![("TIDEMILL__DURABILITY__CHECKPOINT".to_owned(), "1h".to_owned())];
    let program = serve.start_ready().await;
    let (mut rows, mut cut) = (0, Vec::new());
    for (file, kind, encoding) in [
        ("rows.ndjson", "application/x-ndjson", "identity"),
        ("rows.json", "application/json", "identity"),
        ("rows.csv", "text/csv; charset=utf-8", "identity"),
        ("rows.arrows", "application/vnd.apache.arrow.stream", "identity"),
        ("polars.arrows", "application/vnd.apache.arrow.stream", "identity"),
        ("snappy.parquet", "application/vnd.apache.parquet", "identity"),
        ("zstd.parquet", "application/vnd.apache.parquet", "identity"),
        ("rows.ndjson.gz", "application/x-ndjson", "gzip"),
        ("rows.csv.zst", "text/csv", "zstd"),
    ] {
        let body = std::fs::read(folder.join(file)).expect("made above");
        let headers = [("content-type", kind), ("content-encoding", encoding)];
        let (status, answer) = post(&program, INGEST, &headers, body.clone()).await;
        assert_eq!((status, answer["rows"].as_i64()), (200, Some(100)), "{file}: {answer}");
        rows += 100;
        let is_text = encoding == "identity" && !kind.contains("vnd");
        let ends = [1, body.len() / 2, body.len() - 1].into_iter().filter(|_| !is_text);
        cut.extend(ends.map(|end| (file, headers, body[..end].to_vec())));
    }
    program.http.query_until("SELECT count(v + 0) AS n FROM history", rows).await;
    program.http.query_until("SELECT sum(v) AS total FROM history", rows / 100 * 4_950).await;
    program.http.query_until("SELECT count(note) AS n FROM history", rows / 100 * 50).await;

    // Damage, all or nothing, a bomb: refused, and what the refusal says. None of it leaves a trace.
    let before = log_at_rest(&program, &serve.data).await;
    for (file, headers, body) in cut {
        let (status, answer) = post(&program, INGEST, &headers, &body[..]).await;
        let end = body.len();
        assert_eq!((status, answer["code"].as_str()), (400, Some("TM2108")), "{file} cut at {end}: {answer}");
    }
    let (status, answer) = post(&program, INGEST, &[NDJSON], "{\"v\":1}\n{\"v\":1.5}\n{\"v\":2}\n").await;
    assert_eq!((status, &answer["errors"][0]["row"], &answer["errors"][0]["column"]), (400, &2.into(), &"v".into()));
    let bomb = std::fs::read(folder.join("bomb.zst")).expect("made above");
    let (status, answer) = post(&program, INGEST, &[NDJSON, ("content-encoding", "zstd")], bomb).await;
    assert_eq!(status, 413, "{answer}");
    assert!(log_at_rest(&program, &serve.data).await == before, "the log has changed");

    let partial = format!("{INGEST}?on_error=dead_letter");
    for _ in 0..2 {
        let (status, answer) = post(&program, &partial, &[NDJSON], "{\"v\":0}\n{\"v\":1.5}\n{\"v\":0}\n").await;
        assert_eq!((status, &answer["rows"], &answer["rejected"][0]["row"]), (200, &2.into(), &2.into()), "{answer}");
    }
    program.http.query_until("SELECT count(v + 0) AS n FROM history", rows + 4).await;

    // What stands in the log is read the same again.
    program.kill9();
    let program = serve.start_ready().await;
    program.http.query_until("SELECT sum(v) AS total FROM history", rows / 100 * 4_950).await;
    program.stop().await;
}
