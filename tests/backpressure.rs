//! A slow disk slows the socket: memory stays flat, and nothing is lost.

use std::ops::Range;
use std::time::Duration;

use crate::harness::broker::mosquitto_pub_lines;
use crate::harness::folder::Folder;
use crate::harness::program::{Serve, free_port};

/// The delay that is put into every sync.
const SYNC_DELAY: Duration = Duration::from_millis(150);
const PAD_BYTES: usize = 4_000;
/// The first flood is to fill every buffer there is: 120 MB.
const FIRST: usize = 30_000;
/// Each one after it is three times as large: 360 MB more. If anything grew with what is sent, each would show it.
const LATER: usize = 90_000;
/// What a later flood may add to the peak: the allocator's play, a quarter of what is sent.
const GROWTH_MAX_KIB: u64 = 90 * 1024;
/// On a starved machine a flood is too slow to fill the buffers, and the next one does: so many may still raise the peak.
const FILLING_MAX: usize = 2;

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
    let mut sent = 0;
    let mut peaks_kib = Vec::new();
    for count in std::iter::once(FIRST).chain([LATER; FILLING_MAX + 1]) {
        flood(port, sent..sent + count).await;
        sent += count;
        program.http.settled("readings", sent as u64).await;
        peaks_kib.push(program.memory_kib("VmHWM"));
        if is_flat(&peaks_kib) {
            break;
        }
    }
    let account = format!("{idle_kib} KiB idle, at most {peaks_kib:?} after each flood");
    eprintln!("backpressure: {account}");
    assert!(is_flat(&peaks_kib), "{account}");
    program.http.query_until("SELECT count(DISTINCT v) AS n FROM history", sent as i64).await;
}

/// Says whether the last flood has not raised the peak.
fn is_flat(peaks_kib: &[u64]) -> bool {
    matches!(peaks_kib, [.., before, last] if *last < before + GROWTH_MAX_KIB)
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
