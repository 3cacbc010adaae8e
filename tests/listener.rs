//! Devices that connect straight to the program, and clients that post to it: an acknowledgement means "on disk".

use std::time::{Duration, Instant};

use crate::harness::broker::{VERSIONS, mosquitto_pub, mosquitto_pub_lines};
use crate::harness::folder::Folder;
use crate::harness::mqtt::Device;
use crate::harness::program::{Serve, free_port};
use crate::harness::wait::eventually;

fn pipeline(port: u16) -> String {
    format!(
        "CREATE SOURCE readings (v BIGINT NOT NULL) WITH (connector = 'mqtt_listener', bind = '127.0.0.1:{port}', \
         topic = 'plant/{{site}}/{{device}}/telemetry');\n\
         CREATE SOURCE posts (v BIGINT NOT NULL) WITH (connector = 'http');\n\
         CREATE MATERIALIZED VIEW history AS SELECT site, device, v FROM readings;\n\
         CREATE MATERIALIZED VIEW posted AS SELECT v FROM posts;\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_pub_talks_straight_to_the_listener_in_every_version_and_qos() {
    let folder = Folder::new();
    let port = free_port();
    let program = Serve::new(&folder, &pipeline(port)).start_ready().await;
    for version in VERSIONS {
        for qos in [0, 1] {
            mosquitto_pub(port, version, qos, &format!("plant/v{version}/q{qos}/telemetry"), "{\"v\":1}");
            let lines: String = (0..100).map(|v| format!("{{\"v\":{v}}}\n")).collect();
            mosquitto_pub_lines(port, version, qos, &format!("plant/v{version}/many{qos}/telemetry"), &lines);
        }
    }
    program.http.query_until("SELECT count(*) AS n FROM history", 404).await;
    program.http.query_until("SELECT count(*) AS n FROM history WHERE site = 'v5' AND device = 'q1'", 1).await;
    program.stop().await;
}

/// The delay that is put into every sync.
const SYNC_DELAY: Duration = Duration::from_millis(400);

#[tokio::test(flavor = "multi_thread")]
async fn puback_and_http_200_leave_only_after_the_disk_has_synced() {
    let folder = Folder::new();
    let port = free_port();
    let mut serve = Serve::new(&folder, &pipeline(port));
    // No commit in between: its own syncs would delay as well, and prove nothing.
    serve.commit = Duration::from_secs(600);
    serve.delay_syncs(SYNC_DELAY);
    let program = serve.start_ready().await;

    let device = Device::connect(port, "slow-disk");
    for v in 0..3 {
        let begin = Instant::now();
        let again = device.send_until_acknowledged("plant/lab/a/telemetry", &format!("{{\"v\":{v}}}")).await;
        assert!(!again, "the link broke");
        assert!(begin.elapsed() >= SYNC_DELAY, "PUBACK after {:?}, before the sync was over", begin.elapsed());

        let begin = Instant::now();
        program.http.ingest_durably("posts", &format!("{{\"v\":{v}}}")).await;
        assert!(begin.elapsed() >= SYNC_DELAY, "200 after {:?}, before the sync was over", begin.elapsed());
    }
    // What needs no disk is fast on the same machine: the acknowledgements waited for the disk and for nothing else. Once is
    // enough: with a sync in it, it never could be.
    eventually("/readyz answers in less than half a sync", Duration::from_secs(60), async || {
        let begin = Instant::now();
        assert_eq!(program.http.get("/readyz").await.expect("an answer").0, 200);
        (begin.elapsed() < SYNC_DELAY / 2).then_some(())
    })
    .await;
}
