//! Packet ids of QoS 2: held until they are released, and what happens when a broker does not do as it should.

use super::{Scene, counted};
use crate::harness::mqtt_script::words::Version;

#[tokio::test(flavor = "multi_thread")]
async fn a_release_of_an_unknown_id_is_answered_and_the_connection_stays() {
    for version in Version::ALL {
        let scene = Scene::new(version, 2).await;
        let program = scene.serve.start();
        let mut link = scene.broker.session(true).await;
        link.play(
            "> PUBREL 77
             < PUBCOMP 77
             > PUBREL 77
             < PUBCOMP 77
             > PUBLISH q2 id=77 v=1
             > PUBREL 77
             < PUBREC 77
             < PUBCOMP 77
             > PUBREL 77
             < PUBCOMP 77
             = 200 ms",
        )
        .await;
        if version == Version::V5 {
            link.play("> PUBREL 78 rc=0x92 \n < PUBCOMP 78").await;
        }
        scene.holds(program, &[1]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn held_and_same_is_a_duplicate_and_held_and_other_is_a_new_message() {
    let scene = Scene::new(Version::V5, 2).await;
    let program = scene.serve.start();
    let mut link = scene.broker.session(false).await;
    link.play(
        "> PUBLISH q2 id=1 message_expiry=100 v=1
         > PUBLISH q2 id=2 v=2
         > PUBLISH q2 id=3 v=3
         < PUBREC 1
         < PUBREC 2
         < PUBREC 3",
    )
    .await;
    program.kill9();
    drop(link);
    // The broker has come back from an old copy of its state: what it says of 1 is the same, less its age; 2 is used for
    // another message, with and without DUP; 3 has the same bytes and no DUP.
    let program = scene.serve.start();
    let mut link = scene.broker.session(true).await;
    link.play(
        "> PUBLISH q2 id=1 dup=1 message_expiry=7 v=1
         < PUBREC 1
         > PUBLISH q2 id=2 dup=0 v=4
         < PUBREC 2
         > PUBREL 1
         < PUBCOMP 1
         > PUBREL 2
         < PUBCOMP 2
         > PUBLISH q2 id=1 message_expiry=7 v=1
         < PUBREC 1",
    )
    .await;
    counted(&program, "broker_id_reuse", 1).await;
    scene.holds(program, &[1, 1, 2, 3, 4]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_messages_in_flight_under_one_id_are_two_records() {
    let scene = Scene::new(Version::V4, 2).await;
    let program = scene.serve.start();
    let mut link = scene.broker.session(false).await;
    link.play("> PUBLISH q2 id=9 v=1 \n > PUBLISH q2 id=9 v=2 \n < PUBREC 9 \n > PUBREL 9").await;
    // The second PUBREC waits for the release of the first.
    let mut answers = [link.next(super::ANSWER_MAX).await, link.next(super::ANSWER_MAX).await];
    answers.sort();
    assert_eq!(answers.map(Option::unwrap_or_default), ["PUBCOMP 9", "PUBREC 9"]);
    link.play("> PUBREL 9 \n < PUBCOMP 9").await;
    scene.holds(program, &[1, 2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_before_garbage_is_recorded_and_never_acknowledged_later() {
    let scene = Scene::new(Version::V5, 2).await;
    let program = scene.serve.start();
    let mut link = scene.broker.session(false).await;
    let mut lines: Vec<String> = (1..=5).map(|id| format!("PUBLISH q2 id={id} v={id}")).collect();
    lines.push("hex 36 07 00 01 61 00 06 00 78".to_owned());
    link.send_together(&lines).await;
    // Acknowledged on this connection or not at all.
    let mut heard = Vec::new();
    while let Some(line) = link.next(super::ANSWER_MAX).await {
        heard.push(line);
    }
    assert!(heard.iter().any(|line| line.starts_with("DISCONNECT rc=0x81")), "{heard:?}");
    drop(link);
    let mut link = scene.broker.session(true).await;
    link.silent(std::time::Duration::from_millis(300)).await;
    let acknowledged = heard.iter().filter(|line| line.starts_with("PUBREC")).count();
    for id in 1..=5 {
        match id <= acknowledged {
            true => link.play(&format!("> PUBREL {id} \n < PUBCOMP {id}")).await,
            false => link.play(&format!("> PUBLISH q2 id={id} dup=1 v={id} \n < PUBREC {id}")).await,
        }
    }
    scene.holds(program, &[1, 2, 3, 4, 5]).await;
}
