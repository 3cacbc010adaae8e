//! Bytes that are no MQTT: the broker is told what is wrong, the connection ends and begins again, and nothing else does.

use super::{ANSWER_MAX, Scene, pipeline};
use crate::harness::folder::Folder;
use crate::harness::mqtt_script::ScriptedBroker;
use crate::harness::mqtt_script::words::Version;
use crate::harness::program::Serve;

/// What a broker says, and the reason code of the answer in version 5.
const MALFORMED: [(&str, &str, &str); 12] = [
    ("QoS 3", "hex 36 07 00 01 61 00 01 00 78", "0x81"),
    ("packet id 0", "hex 32 07 00 01 61 00 00 00 78", "0x82"),
    ("a length of five bytes", "hex 30 ff ff ff ff 01", "0x81"),
    ("a topic that is not UTF-8", "hex 30 05 00 02 c3 28 00", "0x81"),
    ("a topic beyond the end", "hex 30 04 00 09 61 00", "0x81"),
    ("an unknown property", "hex 30 06 00 01 61 02 7f 00", "0x81"),
    ("a property beyond the end", "hex 30 06 00 01 61 02 02 00", "0x81"),
    ("an alias that is not defined", "hex 30 06 00 00 03 23 00 05", "0x94"),
    ("an alias beyond what we allow", "hex 30 07 00 01 61 03 23 00 ff", "0x94"),
    ("a reserved packet type", "hex 00 00", "0x81"),
    ("flags that must be zero", "hex d1 00", "0x81"),
    ("a second CONNACK", "hex 20 03 00 00 00", "0x82"),
];

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_answered_with_its_reason_and_costs_its_own_connection_only() {
    let folder = Folder::new();
    let mut brokers = Vec::new();
    let mut sql = String::new();
    for at in 0..MALFORMED.len() {
        let broker = ScriptedBroker::start().await;
        sql += &pipeline(&format!("s{at}"), &broker.url(), Version::V5, 1, "");
        brokers.push(broker);
    }
    let serve = Serve::new(&folder, &sql);
    let program = serve.start();
    let mut links = Vec::new();
    for broker in &brokers {
        let mut link = broker.session(false).await;
        link.play("> PUBLISH q1 id=1 v=1 \n < PUBACK 1").await;
        links.push(link);
    }
    for (at, (what, bytes, code)) in MALFORMED.iter().enumerate() {
        let mut link = links.remove(0);
        link.send(bytes).await;
        let said = link.next(ANSWER_MAX).await.unwrap_or_default();
        assert!(said.starts_with(&format!("DISCONNECT rc={code}")), "{what}: {said:?}");
        link.expect_close().await;
        // The others do not notice.
        for other in &mut links {
            other.play("> PUBLISH q1 id=9 v=9 \n < PUBACK 9").await;
        }
        let mut link = brokers[at].session(true).await;
        link.play("> PUBLISH q1 id=2 v=2 \n < PUBACK 2").await;
    }
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_topics_at_their_limits_are_messages_or_dead_letters_and_always_acknowledged() {
    let scene = Scene::new(Version::V4, 1).await;
    let program = scene.serve.start();
    let mut link = scene.broker.session(false).await;
    let long_topic = format!("plant/{}", "t".repeat(65_529));
    link.send(&format!("PUBLISH q1 id=1 topic={long_topic} v=1")).await;
    link.expect("PUBACK 1").await;
    // Nothing in it: it decodes to no reading.
    link.play("> PUBLISH q1 id=2 payload= \n < PUBACK 2").await;
    // More than the program keeps of one message: acknowledged, because it would come again for ever.
    let oversize = format!("PUBLISH q1 id=3 payload={}", "x".repeat(17 << 20));
    link.send(&oversize).await;
    link.play("< PUBACK 3 \n > PUBLISH q1 id=4 v=4 \n < PUBACK 4").await;
    program.http.settled("readings", 4).await;
    program.http.query_until("SELECT count(*) AS n FROM \"readings$dead\"", 2).await;
    program.stop().await;
    assert_eq!(scene.records("readings"), [1, 4]);
}
