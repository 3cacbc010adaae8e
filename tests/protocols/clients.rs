//! Client libraries of others write to us, and exactly their rows are in the tables.

use serde_json::json;

use super::{block, block_for, python, rows_are, start};
use crate::harness::folder::Folder;
use crate::harness::program::command;

#[test]
fn every_block_of_the_page_is_run_or_looked_at() {
    let marked = super::PAGE.matches("<!-- test: ").count();
    assert_eq!(super::PAGE.matches("```").count(), 2 * marked, "a block without a mark");
    let known =
        ["file protocols.sql", "telegraf", "python influxdb-client", "python influxdb", "prometheus", "shell text"];
    let known = known.into_iter().chain(["collector", "python opentelemetry"]);
    assert_eq!(known.map(block).filter(|text| !text.is_empty()).count(), marked);
}

#[tokio::test(flavor = "multi_thread")]
async fn influx_clients_of_both_versions_write_points() {
    let folder = Folder::new();
    let (serve, program) = start(&folder).await;
    // Its own patience of ten seconds is not much beside other tests.
    let patient =
        block_for("python influxdb-client", &serve).replace("InfluxDBClient(", "InfluxDBClient(timeout=60_000, ");
    python(&patient, &[]);
    python(&block_for("python influxdb", &serve), &[]);
    let expected = json!([
        {"host": "a b", "usage": 0.5, "dc": "x", "ts": "2023-11-14T22:13:20.123Z"},
        {"host": "c", "usage": 0.25, "dc": null, "ts": "2023-11-14T22:13:21Z"},
    ]);
    rows_are(&program, "SELECT host, usage, tags['dc'] AS dc, ts FROM cpu_history ORDER BY ts", expected).await;

    // Batches of the library, compressed; and what it says of a bad line.
    let many = r#"
import sys
from influxdb_client import InfluxDBClient, WriteOptions
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException
url = f"http://127.0.0.1:{sys.argv[1]}/influx"
with InfluxDBClient(url=url, token="any", org="any", enable_gzip=True, timeout=60_000) as client:
    with client.write_api(write_options=WriteOptions(batch_size=500)) as api:
        for n in range(5_000):
            api.write(bucket="cpu", record=f"many,host=h{n % 10} usage={n} {1_700_000_100_000_000_000 + n}")
    try:
        client.write_api(write_options=SYNCHRONOUS).write(bucket="cpu", record="bad usage=1\nbad usage=\nbad usage=2")
    except ApiException as error:
        print(error.status, error.body)
    try:
        client.write_api(write_options=SYNCHRONOUS).write(bucket="nobody", record="m f=1")
    except ApiException as error:
        print(error.status)
"#;
    let printed = python(many, &[&serve.http.to_string()]);
    assert!(printed.contains("400") && printed.contains("line 2: not line protocol"), "{printed}");
    assert!(printed.ends_with("404\n"), "{printed}");
    let sums = "SELECT measurement, count(*) AS n, sum(usage) AS s FROM cpu_history WHERE measurement <> 'cpu' GROUP BY 1 ORDER BY 1";
    let expected =
        json!([{"measurement": "bad", "n": 2, "s": 3.0}, {"measurement": "many", "n": 5000, "s": 12_497_500.0}]);
    rows_are(&program, sums, expected).await;
    rows_are(&program, "SELECT count(*) AS n FROM \"cpu$dead\"", json!([{"n": 1}])).await;
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_of_telegraf_names_a_url_that_takes_what_it_sends() {
    let folder = Folder::new();
    let (serve, program) = start(&folder).await;
    let config: toml::Table = block_for("telegraf", &serve).parse().expect("TOML");
    let output = &config["outputs"]["influxdb_v2"][0];
    // What its output makes of the configuration: its documentation and its source say so.
    let (url, bucket) = (output["urls"][0].as_str().expect("a URL"), output["bucket"].as_str().expect("a name"));
    let org = output["organization"].as_str().expect("a name");
    let url = format!("{url}/api/v2/write?bucket={bucket}&org={org}&precision=ns");
    let script = r#"
import gzip, sys, urllib.request
lines = b"cpu,cpu=cpu0,host=t1 usage=12.5,usage_idle=87.5 1700000000000000000\nmem,host=t1 used=1024i,usage=50i 1700000001000000000\n"
request = urllib.request.Request(sys.argv[1], gzip.compress(lines), method="POST")
for name, value in {"Content-Type": "text/plain; charset=utf-8", "Content-Encoding": "gzip", "Authorization": "Token any", "User-Agent": "Telegraf/1.36"}.items():
    request.add_header(name, value)
print(urllib.request.urlopen(request).status)
"#;
    assert_eq!(python(script, &[&url]), "204\n");
    let expected = json!([{"measurement": "cpu", "usage": 12.5}, {"measurement": "mem", "usage": 50.0}]);
    rows_are(&program, "SELECT measurement, usage FROM cpu_history WHERE host = 't1' ORDER BY ts", expected).await;
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_of_opentelemetry_exports_metrics_and_logs() {
    let folder = Folder::new();
    let (serve, program) = start(&folder).await;
    assert!(block_for("collector", &serve).contains(&format!("endpoint: http://127.0.0.1:{}/otlp\n", serve.http)));
    python(&block_for("python opentelemetry", &serve), &[]);
    let expected = json!([
        {"metric": "requests", "value": 3.0, "count": null, "sum": null, "service_name": "pump", "room": "hall"},
        {"metric": "rtt", "value": null, "count": 1, "sum": 0.25, "service_name": "pump", "room": "hall"},
    ]);
    rows_are(&program, "SELECT * FROM otel_history ORDER BY metric", expected).await;
    let expected = json!([{"severity": "WARN", "body": "valve 7 is open", "service_name": "pump"}]);
    rows_are(&program, "SELECT * FROM log_history WHERE body LIKE 'valve%'", expected).await;
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_metrics_as_text_is_posted_with_curl() {
    let folder = Folder::new();
    let (serve, program) = start(&folder).await;
    let script = block_for("shell text", &serve);
    let status =
        std::process::Command::new("bash").args(["-euo", "pipefail", "-c", &script]).output().expect("a shell");
    assert!(status.status.success(), "{status:?}");
    let expected = json!([{"metric": "bytes", "type": "gauge", "path": "/", "value": 7.0}]);
    rows_are(&program, "SELECT * FROM page_history", expected).await;
    // Our own page is one too.
    let (_, page) = program.http.get("/metrics").await.expect("an answer");
    let (status, answer) = program.http.post("/api/v1/ingest/page", "", page).await.expect("an answer");
    assert!(status == 200 && answer.contains("\"rejected_count\":0"), "{answer}");
    program.stop().await;
}

#[test]
fn line_protocol_comes_from_files_too() {
    let folder = Folder::new();
    folder.write("points.lp", "cpu,host=a usage=1 1700000000\ncpu,host=b usage=warm\ncpu,host=c usage=2i 1700000001\n");
    let pipeline = "CREATE SOURCE cpu (host TEXT, usage DOUBLE, ts TIMESTAMP) \
                    WITH (connector = 'file', path = 'points.lp', format = 'line_protocol', time_unit = 's');\n\
                    CREATE MATERIALIZED VIEW history AS SELECT host, usage, ts FROM cpu;\n";
    folder.write("pipeline.sql", pipeline);
    let run = command(["run", "--data", "data", "pipeline.sql"], folder.path()).output().expect("the program starts");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let ask = |sql: &str| {
        let words = ["sql", "--data", "data", "--format", "csv", sql];
        let output = command(words, folder.path()).output().expect("the program starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let rows = ask("SELECT * FROM history ORDER BY ts");
    assert_eq!(rows.trim_end(), "host,usage,ts\na,1.0,2023-11-14T22:13:20Z\nc,2.0,2023-11-14T22:13:21Z");
    let reason = ask("SELECT reason FROM \"cpu$dead\"");
    assert!(reason.contains("not line protocol: the value is neither a number"), "{reason}");
}
