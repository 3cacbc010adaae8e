//! POST /api/v1/ingest: what is taken, in which shapes, and what is refused with which status.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::harness::folder::Folder;
use crate::harness::program::Serve;

const PIPELINE: &str = "CREATE SOURCE readings (v BIGINT NOT NULL) WITH (connector = 'http');\n\
                        CREATE MATERIALIZED VIEW history AS SELECT v FROM readings;\n";

#[tokio::test(flavor = "multi_thread")]
async fn ndjson_objects_arrays_and_gzip_are_taken_and_the_rest_is_refused_by_status() {
    let folder = Folder::new();
    let program = Serve::new(&folder, PIPELINE).start_ready().await;
    let http = &program.http;
    let path = "/api/v1/ingest/readings";
    for (kind, body) in [
        ("application/x-ndjson", "{\"v\":1}\n{\"v\":2}\n"),
        ("application/json", "{\"v\":4}"),
        ("application/json", "[{\"v\":8},\n {\"v\":16}]"),
    ] {
        let (status, answer) = http.post(path, kind, body).await.expect("an answer");
        assert_eq!(status, 200, "{kind}: {answer}");
        let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
        assert!(answer["position"].is_string() && answer["rows"].is_u64(), "{answer}");
    }
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(b"{\"v\":32}\n{\"v\":64}\n").expect("memory");
    let (status, answer) = http.post_gzip(path, gzip.finish().expect("memory")).await.expect("an answer");
    assert_eq!(status, 200, "gzip: {answer}");
    program.http.query_until("SELECT sum(v) AS total FROM history", 127).await;

    for (path, kind, body, expected) in
        [("/api/v1/ingest/nobody", "application/x-ndjson", "{\"v\":1}", 404), (path, "image/png", "{\"v\":1}", 415)]
    {
        let (status, answer) = http.post(path, kind, body).await.expect("an answer");
        assert_eq!(status, expected, "{path} {kind}: {answer}");
    }
    let (status, answer) = http.ingest("readings", "{\"v\":1}\n{\"v\":\"x\"}\n".to_owned()).await.expect("an answer");
    assert_eq!(status, 400, "one bad row refuses the whole request: {answer}");
    let (status, _) = http.get(path).await.expect("an answer");
    assert_eq!(status, 405, "GET {path}");
    let (status, _) = http.post_gzip(path, b"this is no gzip".to_vec()).await.expect("an answer");
    assert_eq!(status, 400, "gzip that is none");
    // What was refused left nothing behind.
    program.http.query_until("SELECT sum(v) AS total FROM history", 127).await;
    program.stop().await;
}
