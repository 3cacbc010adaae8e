//! A slow disk slows the socket: memory stays flat, and nothing is lost.

use std::ops::Range;
use std::time::Duration;

use crate::harness::broker::mosquitto_pub_lines;
use crate::harness::folder::Folder;
use crate::harness::program::{Serve, free_port};

/// The delay that is put into every sync.
const SYNC_DELAY: Duration = Duration::from_millis(150);
const PAD_BYTES: usize = 4_000;
/// The first flood fills every buffer there is: 120 MB.
const FIRST: usize = 30_000;
/// The second one is three times as large: 360 MB more. If anything grew with what is sent, it would show.
const SECOND: usize = 90_000;
/// What the second flood may add to the peak of the first: the allocator's play, a quarter of what is sent.
const GROWTH_MAX_KIB: u64 = 90 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_disk_slows_the_socket_and_memory_stays_flat() {
    let folder = Folder::new();
    let port = free_port();
    let sql = format!(
        "CREATE SOURCE readings (v BIGINT NOT NULL) \
         WITH (connector = 'mqtt_listener', bind = '127.0.0.1:{port}', topic = 'flood/{{device}}');\n\
         CREATE MATERIALIZED VIEW history AS SELECT v FROM readings;\n"
    );
    let mut serve = Serve::new(&folder, &sql);
    serve.commit = Duration::from_secs(2);
    serve.delay_syncs(SYNC_DELAY);
    let program = serve.start_ready().await;
    let idle_kib = program.memory_kib("VmRSS");
    flood(port, 0..FIRST).await;
    program.http.settled("readings", FIRST as u64).await;
    let first_kib = program.memory_kib("VmHWM");
    flood(port, FIRST..FIRST + SECOND).await;
    program.http.settled("readings", (FIRST + SECOND) as u64).await;
    let second_kib = program.memory_kib("VmHWM");
    let account = format!("{idle_kib} KiB idle, at most {first_kib} in the first flood, {second_kib} in the second");
    eprintln!("backpressure: {account}");
    assert!(second_kib < first_kib + GROWTH_MAX_KIB, "{account}");
    program.http.query_until("SELECT count(DISTINCT v) AS n FROM history", (FIRST + SECOND) as i64).await;
}

/// Publishes as fast as the socket takes it, and waits for all acknowledgements.
async fn flood(port: u16, numbers: Range<usize>) {
    let publish = move || {
        let pad = "x".repeat(PAD_BYTES);
        let lines: String = numbers.map(|v| format!("{{\"v\":{v},\"pad\":\"{pad}\"}}\n")).collect();
        mosquitto_pub_lines(port, "5", 1, "flood/one", &lines);
    };
    tokio::task::spawn_blocking(publish).await.expect("mosquitto_pub ends well");
}
