//! What the program costs when nothing arrives.

use std::time::Duration;

use crate::harness::folder::Folder;
use crate::harness::program::{Serve, free_port};
use crate::harness::wait::eventually;

/// How long it is watched: longer than any interval that it was given.
const WATCHED: Duration = Duration::from_secs(6);
/// What is due when it is watched first is done soon.
const RESTS_MAX: Duration = Duration::from_secs(90);
/// The unit of the kernel's account: USER_HZ is 100 on every Linux we know.
const TICK: Duration = Duration::from_millis(10);
/// Less than 0.7 % of a core: timers may fire, nothing may spin.
const BUSY_MAX: Duration = Duration::from_millis(40);

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_program_uses_no_processor() {
    let folder = Folder::new();
    let sql = format!(
        "CREATE SOURCE readings (v BIGINT NOT NULL, ts TIMESTAMP NOT NULL, WATERMARK FOR ts AS ts - INTERVAL '1 second') \
         WITH (connector = 'http', idle_after = '1 second');\n\
         CREATE SOURCE devices (v BIGINT NOT NULL) \
         WITH (connector = 'mqtt_listener', bind = '127.0.0.1:{}', topic = 'a/{{b}}');\n\
         CREATE MATERIALIZED VIEW history AS SELECT v, b FROM devices;\n\
         CREATE MATERIALIZED VIEW w AS SELECT window_start, count(*) AS n \
         FROM TUMBLE(readings, ts, INTERVAL '10 seconds') GROUP BY window_start, window_end;\n",
        free_port()
    );
    let mut serve = Serve::new(&folder, &sql);
    serve.commit = Duration::from_secs(5);
    let program = serve.start_ready().await;
    // A window stays open, as it does in a program that was just busy.
    program.http.ingest_durably("readings", "{\"v\":1,\"ts\":\"2026-01-01T00:00:00Z\"}\n").await;
    program.http.settled("readings", 1).await;
    assert!(busy(program.pid()) > Duration::ZERO, "who has started has used the processor: the account is blind");
    // What is still due is done: the connection of this client goes, and a commit is made. Then it is idle.
    let mut watched = Vec::new();
    eventually("it comes to rest", RESTS_MAX, async || {
        let before = busy(program.pid());
        tokio::time::sleep(WATCHED).await;
        let busy = busy(program.pid()) - before;
        watched.push(busy);
        eprintln!("idle: {watched:?} of {WATCHED:?} busy, {} KiB of memory", program.memory_kib("VmRSS"));
        (busy < BUSY_MAX).then_some(())
    })
    .await;
    program.stop().await;
}

/// Returns the processor time of all threads, in user code and in the kernel, as the kernel counts it in ticks.
fn busy(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("Linux's /proc");
    // The name of the program stands in brackets and may hold anything; after it every field is one word.
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a last part").split_whitespace().collect();
    let ticks: u64 = [fields[11], fields[12]].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    TICK * u32::try_from(ticks).expect("not that long")
}
