//! Versions, subscriptions and sessions: what the program asks for, what it accepts, and what it says when it cannot.

use std::time::{Duration, Instant};

use super::{ANSWER_MAX, Scene, counted, pipeline};
use crate::harness::mqtt_script::words::Version;
use crate::harness::mqtt_script::{Link, ScriptedBroker};
use crate::harness::program::Serve;
use crate::harness::wait::eventually;

/// A program that has been told to end, in a debug build.
const END_MAX: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_version_5_is_spoken_to_in_3_1_1() {
    for refusal in ["hex 20 02 00 01", "hex 20 03 00 84 00"] {
        let scene = Scene::new(Version::V5, 1).await;
        let program = scene.serve.start();
        let mut link = scene.broker.accept_connect("CONNECT v5 ...").await;
        link.send(refusal).await;
        drop(link);
        let mut link = scene.broker.accept_connect("CONNECT v4 clean=0 ...").await;
        link.play("> CONNACK present=0 \n > PUBLISH q1 id=5 v=1 \n < PUBACK 5").await;
        scene.holds(program, &[1]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_session_of_3_1_1_is_not_subscribed_again_so_retained_messages_do_not_come_twice() {
    let scene = Scene::with(Version::V4, 1, ", retained = 'use'").await;
    let program = scene.serve.start();
    let mut link = scene.broker.session(false).await;
    link.play("> PUBLISH q1 id=1 retain=1 v=1 \n < PUBACK 1").await;
    assert_eq!(link.subscribes, 1);
    link.cut().await;
    let mut link = scene.broker.session(true).await;
    link.play("> PUBLISH q1 id=2 v=2 \n < PUBACK 2").await;
    assert_eq!(link.subscribes, 0, "each SUBSCRIBE of 3.1.1 brings the retained messages again");
    link.cut().await;
    // Also after a restart of the program: that it has subscribed is on disk, as soon as the disk has it.
    let record = scene.serve.data.join("sources/readings/subscribed");
    eventually("the subscription is on the disk", ANSWER_MAX, async || {
        std::fs::read_to_string(&record).ok()?.contains("plant/+").then_some(())
    })
    .await;
    program.kill9();
    let program = scene.serve.start();
    let mut link = scene.broker.session(true).await;
    link.play("> PUBLISH q1 id=3 v=3 \n < PUBACK 3").await;
    assert_eq!(link.subscribes, 0);
    scene.holds(program, &[1, 2, 3]).await;
}

/// A broker says once that it has lost the session, and 3.1.1 does not subscribe one that is present.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_lost_in_a_handshake_that_breaks_is_subscribed_again() {
    for is_killed in [false, true] {
        let scene = Scene::new(Version::V4, 1).await;
        let mut program = scene.serve.start();
        let mut link = scene.broker.session(false).await;
        link.play("> PUBLISH q1 id=1 v=1 \n < PUBACK 1").await;
        link.cut().await;
        // Its answer, that there is none of before, is never heard.
        let mut link = scene.broker.accept_connect("CONNECT ...").await;
        if is_killed {
            program.kill9();
            program = scene.serve.start();
        } else {
            link.cut().await;
        }
        let mut link = scene.broker.session(true).await;
        link.play("> PUBLISH q1 id=2 v=2 \n < PUBACK 2").await;
        assert_eq!(link.subscribes, 1);
        // That is known, and not done again.
        link.cut().await;
        let mut link = scene.broker.session(true).await;
        link.play("> PUBLISH q1 id=3 v=3 \n < PUBACK 3").await;
        assert_eq!(link.subscribes, 0);
        scene.holds(program, &[1, 2, 3]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_broker_has_lost_is_subscribed_again_and_said_aloud() {
    for version in Version::ALL {
        let scene = Scene::new(version, 1).await;
        let program = scene.serve.start();
        let mut link = scene.broker.session(false).await;
        link.play("> PUBLISH q1 id=1 v=1 \n < PUBACK 1").await;
        program.kill9();
        drop(link);
        let program = scene.serve.start();
        let mut link = scene.broker.session(false).await;
        link.play("> PUBLISH q1 id=1 v=2 \n < PUBACK 1").await;
        assert_eq!(link.subscribes, 1);
        counted(&program, "session_lost", 1).await;
        scene.said("the broker has lost our session").await;
        scene.holds(program, &[1, 2]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_is_refused_or_downgraded_stops_the_program_with_the_reason() {
    for (version, answer, words) in [
        (Version::V4, "0x80", "refused the subscription"),
        (Version::V5, "0x97", "refused the subscription"),
        (Version::V5, "0x00", "QoS 0"),
        (Version::V4, "0x00", "QoS 0"),
    ] {
        let scene = Scene::new(version, 1).await;
        let program = scene.serve.start();
        let mut link = scene.broker.session(false).await;
        link.strict();
        link.expect("SUBSCRIBE 1 ...").await;
        link.send(&format!("SUBACK 1 {answer}")).await;
        let log = scene.serve.log.clone();
        let status = program.ended(END_MAX).await;
        let said = std::fs::read_to_string(log).expect("a log");
        assert_eq!(status.code(), Some(2), "{answer}: {said}");
        assert!(said.contains(words), "{answer}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_id_that_another_program_takes_over_stops_this_one_with_the_reason() {
    let scene = Scene::new(Version::V5, 1).await;
    let program = scene.serve.start();
    let mut link = scene.broker.session(false).await;
    link.play("> PUBLISH q1 id=1 v=1 \n < PUBACK 1 \n > DISCONNECT rc=0x8e").await;
    let log = scene.serve.log.clone();
    let status = program.ended(END_MAX).await;
    let said = std::fs::read_to_string(log).expect("a log");
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("two programs use the client id"), "{said}");
    // What it has acknowledged is in its log, and in its table as soon as it runs again.
    let program = scene.serve.start();
    let _link = scene.broker.session(true).await;
    scene.holds(program, &[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_says_good_bye_is_connected_again_and_resends() {
    for good_bye in ["hex e0 00", "hex e0 01 8b", "hex e0 02 8b 00", "hex e0 05 8b 03 1f 00 00"] {
        let scene = Scene::new(Version::V5, 1).await;
        let program = scene.serve.start();
        let mut link = scene.broker.session(false).await;
        link.play("> PUBLISH q1 id=1 v=1 \n < PUBACK 1").await;
        link.send(good_bye).await;
        link.expect_close().await;
        drop(link);
        let mut link = scene.broker.session(true).await;
        link.play("> PUBLISH q1 id=2 dup=1 v=2 \n < PUBACK 2").await;
        scene.holds(program, &[1, 2]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auth_of_the_broker_is_refused_and_the_log_says_what_to_do() {
    const REMEDY: &str = "no extended authentication; use a username and a password, or a client certificate";
    for (version, auth) in [(Version::V5, "AUTH rc=0x18"), (Version::V5, "hex f0 00"), (Version::V4, "hex f0 00")] {
        let scene = Scene::new(version, 1).await;
        let program = scene.serve.start();
        let refused = async |link: &mut Link| {
            if version == Version::V5 {
                let said = link.next(ANSWER_MAX).await.unwrap_or_default();
                assert!(said.starts_with("DISCONNECT rc=0x82"), "{said:?}");
            }
            link.expect_close().await;
        };
        // In place of the CONNACK.
        let mut link = scene.broker.accept_connect("CONNECT ...").await;
        link.send(auth).await;
        refused(&mut link).await;
        scene.said(REMEDY).await;
        // And in the middle of a session, which goes on.
        let mut link = scene.broker.session(false).await;
        link.play("> PUBLISH q1 id=1 v=1 \n < PUBACK 1").await;
        link.send(auth).await;
        if version == Version::V4 {
            // There the type is reserved.
            link.expect_close().await;
        } else {
            refused(&mut link).await;
        }
        let mut link = scene.broker.session(true).await;
        link.play("> PUBLISH q1 id=2 v=2 \n < PUBACK 2").await;
        counted(&program, "protocol", 1).await;
        scene.holds(program, &[1, 2]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_half_dead_is_given_up_after_one_and_a_half_intervals_and_resumed() {
    const INTERVAL: Duration = Duration::from_secs(2);
    // The broker's word counts more than ours.
    for (options, connack) in [(", keep_alive = '2 s'", "CONNACK"), ("", "CONNACK server_keep=2")] {
        let mut scene = Scene::new(Version::V5, 1).await;
        // Beside it a link that is as silent, whose interval is half a minute.
        let patient = ScriptedBroker::start().await;
        let sql = pipeline("readings", &scene.broker.url(), Version::V5, 1, options)
            + &pipeline("patient", &patient.url(), Version::V5, 1, "");
        scene.serve = Serve::new(&scene.folder, &sql);
        let program = scene.serve.start();
        let mut patient = patient.session(false).await;
        patient.play("> PUBLISH q1 id=1 v=1 \n < PUBACK 1").await;
        patient.strict();

        let mut link = scene.broker.accept_connect("CONNECT ...").await;
        link.send(connack).await;
        let begin = Instant::now();
        link.play("> PUBLISH q1 id=1 v=1 \n < PUBACK 1").await;
        link.strict();
        link.expect("PINGREQ").await;
        let mut again = scene.broker.session(true).await;
        let took = begin.elapsed();
        assert!(took >= INTERVAL * 3 / 2, "connected again after {took:?}");
        assert!(!patient.is_closed().await, "connected again after {took:?}, when another interval was over, too");
        again.play("> PUBLISH q1 id=2 dup=1 v=2 \n < PUBACK 2").await;
        scene.holds(program, &[1, 2]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_leaves_without_giving_up_its_session() {
    for version in Version::ALL {
        let scene = Scene::new(version, 1).await;
        let mut program = scene.serve.start();
        let mut link = scene.broker.session(false).await;
        link.play("> PUBLISH q1 id=1 v=1 \n < PUBACK 1").await;
        link.meanwhile(program.ready()).await;
        link.strict();
        // No UNSUBSCRIBE, and no word of the session's expiry: what comes meanwhile waits at the broker.
        tokio::join!(program.stop(), async {
            link.expect("DISCONNECT").await;
            link.expect_close().await;
        });
        assert_eq!(scene.records("readings"), [1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_copy_that_comes_again_after_a_kill_is_not_another_reading() {
    for version in Version::ALL {
        let scene = Scene::with(version, 1, ", retained = 'use'").await;
        let program = scene.serve.start();
        let mut link = scene.broker.session(false).await;
        link.play("> PUBLISH q1 id=1 retain=1 v=1 \n < PUBACK 1").await;
        link.play("> PUBLISH q1 id=2 retain=1 topic=plant/b v=2 \n < PUBACK 2").await;
        program.kill9();
        drop(link);
        // The broker has lost the session: the new subscription brings what it has retained, of which one has changed.
        let program = scene.serve.start();
        let mut link = scene.broker.session(false).await;
        link.play("> PUBLISH q1 id=1 retain=1 v=1 \n < PUBACK 1").await;
        link.play("> PUBLISH q1 id=2 retain=1 topic=plant/b v=3 \n < PUBACK 2").await;
        link.play("> PUBLISH q1 id=3 v=1 \n < PUBACK 3").await;
        scene.holds(program, &[1, 1, 2, 3]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_others_is_thrown_away_on_request_and_a_new_one_is_one_that_brokers_keep() {
    for version in Version::ALL {
        let scene = Scene::with(version, 1, ", on_foreign_session = 'forget'").await;
        let program = scene.serve.start();
        // Somebody has left a session under the client id.
        scene.broker.session(true).await;
        let mut link = scene.broker.accept_connect("CONNECT clean=1 ...").await;
        link.send("CONNACK present=0").await;
        drop(link);
        // Not with a clean start: Mosquitto 2.0.11 does not save such a session, whatever its expiry.
        let mut link = scene.broker.accept_connect("CONNECT clean=0 ...").await;
        link.play("> CONNACK present=0 \n > PUBLISH q1 id=1 v=1 \n < PUBACK 1").await;
        scene.holds(program, &[1]).await;
    }
}
