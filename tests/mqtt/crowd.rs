//! Many clients at the listener of the real program, of all kinds at once: none is disturbed by the others, and memory stays
//! bounded.

use std::time::{Duration, Instant};

use futures::future::join_all;
use tidemill_connectors::descriptors::raise_limit;

use crate::harness::folder::Folder;
use crate::harness::mqtt_script::Link;
use crate::harness::mqtt_script::words::{Version, encode};
use crate::harness::program::{Serve, free_port};
use crate::harness::wait::eventually;

const IDLE: usize = 1_000;
const BUSY: usize = 200;
/// Messages of each busy client; every third is of QoS 2, QoS 1 and QoS 0.
const MESSAGES: usize = 30;
/// Connections that come with one and the same client id.
const TAKEOVERS: usize = 200;
/// Connections that do not finish their CONNECT.
const TRICKLES: usize = 100;

/// What an idle client with a session may take, all of it: socket, task, session, buffers. A debug build takes more than
/// a release; what is to be seen is that it is not a buffer of many KiB.
const IDLE_KIB_MAX: u64 = 32;
/// What the storm may add at its peak, in KiB: each of some 500 connections has a read buffer meanwhile.
const STORM_KIB_MAX: u64 = 64 << 10;
/// How long a message may take to be acknowledged, with a sync in between, on a machine with other tests.
const ACKNOWLEDGED_MAX: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_every_kind_disturbs_nobody_and_memory_stays_bounded() {
    raise_limit();
    let (folder, port) = (Folder::new(), free_port());
    let sql = format!(
        "CREATE SOURCE readings (v BIGINT NOT NULL) WITH (connector = 'mqtt_listener', \
         bind = '127.0.0.1:{port}', topic = 'plant/{{device}}', max_connections = '2000');\n\
         CREATE MATERIALIZED VIEW history AS SELECT device, v FROM readings;\n"
    );
    let program = Serve::new(&folder, &sql).start_ready().await;
    // What a first client brings with it is not the crowd's.
    drop(client(port, "first", 0).await);
    let before_kib = program.memory_kib("VmRSS");

    let mut idle = Vec::with_capacity(IDLE);
    for from in (0..IDLE).step_by(100) {
        idle.extend(
            join_all((from..from + 100).map(async |at| client(port, &format!("idle-{at}"), 3_600).await)).await,
        );
    }
    let idle_kib = program.memory_kib("VmRSS").saturating_sub(before_kib);
    eprintln!("{IDLE} idle clients take {idle_kib} KiB of {before_kib}");
    assert!(idle_kib < IDLE as u64 * IDLE_KIB_MAX, "{IDLE} idle clients take {idle_kib} KiB");

    let begin = Instant::now();
    let (longest, (), ()) = tokio::join!(busy(port), takeover_storm(port), trickle(port));
    let longest = longest.into_iter().max().expect("some");
    let peak_kib = program.memory_kib("VmHWM").saturating_sub(before_kib);
    eprintln!("the storm took {:?}, an acknowledgement {longest:?} at most, and {peak_kib} KiB", begin.elapsed());
    assert!(longest < ACKNOWLEDGED_MAX, "an acknowledgement took {longest:?}");
    assert!(peak_kib < idle_kib + STORM_KIB_MAX, "{peak_kib} KiB");

    // The idle ones are all there still.
    join_all(idle.iter_mut().map(async |link| {
        link.strict();
        link.play("> PINGREQ \n < PINGRESP").await;
    }))
    .await;
    let rows = i64::try_from(BUSY * MESSAGES).expect("small");
    program.http.query_until("SELECT count(*) AS n FROM history WHERE device LIKE 'busy%'", rows).await;
    program
        .http
        .query_until("SELECT count(DISTINCT device) AS n FROM history WHERE device LIKE 'busy%'", BUSY as i64)
        .await;
    // Each connection of the storm that was let in has published once.
    program.http.query_until("SELECT count(DISTINCT v) AS n FROM history WHERE device = 'one'", TAKEOVERS as i64).await;
    program.stop().await;
}

async fn client(port: u16, id: &str, session_expiry: u32) -> Link {
    let mut link = Link::connect(port, Version::V5).await;
    link.send(&format!("CONNECT v5 id={id} clean=0 session_expiry={session_expiry}")).await;
    link.expect("CONNACK present=0 rc=0x00 ...").await;
    link
}

/// Clients that publish at every QoS. Returns the longest that each waited for an acknowledgement.
async fn busy(port: u16) -> Vec<Duration> {
    join_all((0..BUSY).map(async |at| {
        let mut link = client(port, &format!("busy-{at}"), 0).await;
        let mut longest = Duration::ZERO;
        for number in 0..MESSAGES {
            let (topic, begin) = (format!("topic=plant/busy-{at}"), Instant::now());
            match number % 3 {
                0 => link.play(&format!("> PUBLISH q0 {topic} v={number}")).await,
                1 => link.play(&format!("> PUBLISH q1 id=1 {topic} v={number} \n < PUBACK 1")).await,
                _ => {
                    let exactly_once = "< PUBREC 2 \n > PUBREL 2 \n < PUBCOMP 2";
                    link.play(&format!("> PUBLISH q2 id=2 {topic} v={number} \n {exactly_once}")).await;
                }
            }
            longest = longest.max(begin.elapsed());
        }
        link.play("> PINGREQ \n < PINGRESP").await;
        longest
    }))
    .await
}

/// One client id, again and again at once: each ends the one before it, until the last. All send their message until it is
/// acknowledged.
async fn takeover_storm(port: u16) {
    join_all((0..TAKEOVERS).map(async |number| {
        eventually("a message of the storm is acknowledged", Duration::from_secs(120), async || {
            let mut link = Link::connect(port, Version::V5).await;
            // In one write: the next connection may have ended this one before a second.
            let publish = format!("PUBLISH q1 id=1 topic=plant/one v={number}");
            link.send_together(&["CONNECT v5 id=one clean=1".to_owned(), publish]).await;
            while let Some(said) = link.next(ACKNOWLEDGED_MAX).await {
                if said.starts_with("PUBACK 1") {
                    return Some(());
                }
                assert!(said.starts_with("CONNACK") || said.starts_with("DISCONNECT rc=0x8e"), "{said}");
            }
            None
        })
        .await;
    }))
    .await;
}

/// Connections that send half a CONNECT, and stay until they are thrown out.
async fn trickle(port: u16) {
    let bytes = encode(Version::V5, "CONNECT v5 id=slow");
    join_all((0..TRICKLES).map(async |_| {
        let mut link = Link::connect(port, Version::V5).await;
        link.send_bytes(&bytes[..5]).await;
        eventually("half a CONNECT is given up", Duration::from_secs(90), async || {
            assert_eq!(link.next(Duration::from_millis(500)).await, None);
            link.is_closed().await.then_some(())
        })
        .await;
    }))
    .await;
}
