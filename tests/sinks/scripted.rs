//! A sink at QoS 2 and a broker that is a script: what happens to rows that the broker has received and not confirmed.
//!
//! Subscriptions are answered by the way: those to marks too, if nothing else is said.

use super::{lines, pipeline, sink_until};
use crate::harness::folder::Folder;
use crate::harness::mqtt_script::{ANSWER_MAX, Link, ScriptedBroker};
use crate::harness::program::{Program, Serve};

/// What the broker says to subscriptions of a sink.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Marks {
    Granted,
    Refused,
}

/// Two rows, each with its packet id.
struct InFlight {
    broker: ScriptedBroker,
    serve: Serve,
    ids: [String; 2],
    _folder: Folder,
}

impl InFlight {
    /// Has the sink publish two rows, and the broker receive and release them without a PUBCOMP; then kills the program.
    async fn begin(marks: Marks) -> InFlight {
        let folder = Folder::new();
        let broker = ScriptedBroker::start().await;
        let options = format!("url = '{}', qos = 2, client_id = 'sink', commit_interval = '20 ms'", broker.url());
        let serve = Serve::new(&folder, &pipeline(&options));
        let program = serve.start_ready().await;
        let mut link = broker.accept_connect("CONNECT clean=1 ...").await;
        link.play("> CONNACK present=0 \n < DISCONNECT \n < close").await;
        let mut link = broker.accept_connect("CONNECT clean=0 ...").await;
        link.strict();
        link.send("CONNACK present=1").await;
        let said = link.next(ANSWER_MAX).await.unwrap_or_default();
        assert!(said.starts_with("SUBSCRIBE 65535 tidemill/sessions/sink/0=0x20 tidemill/sessions/sink/1="), "{said}");
        let code = if marks == Marks::Granted { " 0x00" } else { " 0x87" };
        link.send(&format!("SUBACK 65535{}", code.repeat(8))).await;
        program.http.ingest_durably("readings", &lines(0, 2)).await;
        let mut ids = [String::new(), String::new()];
        for id in &mut ids {
            *id = published(&mut link).await;
            link.send(&format!("PUBREC {id}")).await;
        }
        // A PUBREL leaves when it is durable that its row was received.
        for id in &ids {
            link.expect(&format!("PUBREL {id}")).await;
        }
        program.kill9();
        InFlight { broker, serve, ids, _folder: folder }
    }

    /// Waits until everything counts as delivered, and looks for both rows in the view's table.
    async fn end(self, program: Program) {
        sink_until(&program.http, "everything is delivered", |sink| sink["outbox_rows"] == 0).await;
        program.http.query_until("SELECT count(*) AS n FROM hot WHERE n IN (0, 1)", 2).await;
        program.stop().await;
    }
}

/// Waits for a PUBLISH, and returns its packet id.
async fn published(link: &mut Link) -> String {
    let said = link.next(ANSWER_MAX).await.unwrap_or_default();
    let id = said.strip_prefix("PUBLISH q2 id=").and_then(|rest| rest.split(' ').next());
    let id = id.unwrap_or_else(|| panic!("{said:?} is no PUBLISH of a row"));
    assert!(said.contains("dup=0"), "{said}");
    id.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broker_has_received_is_released_and_what_it_has_forgotten_is_published_again() {
    for has_kept in [true, false] {
        let scene = InFlight::begin(Marks::Granted).await;
        let program = scene.serve.start();
        let mut link = scene.broker.accept_connect("CONNECT clean=0 ...").await;
        link.send(&format!("CONNACK present={}", u8::from(has_kept))).await;
        for id in &scene.ids {
            if !has_kept {
                assert_eq!(published(&mut link).await, *id);
                link.send(&format!("PUBREC {id}")).await;
            }
        }
        for id in &scene.ids {
            link.play(&format!("< PUBREL {id} \n > PUBCOMP {id}")).await;
        }
        scene.end(program).await;
    }
}

/// Has the program die in its handshakes: the broker gets its CONNECT, and its answer is never heard.
async fn die_while_it_asks(scene: &InFlight, times: usize) {
    for _ in 0..times {
        let program = scene.serve.start();
        let _link = scene.broker.accept_connect("CONNECT clean=0 ...").await;
        program.kill9();
    }
}

/// A broker says once that it has lost the session, in the CONNACK of the connection that begins another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_lost_while_the_program_dies_in_its_handshake_is_known_by_its_marks() {
    let scene = InFlight::begin(Marks::Granted).await;
    die_while_it_asks(&scene, 2).await;
    let program = scene.serve.start();
    let mut link = scene.broker.accept_connect("CONNECT clean=0 ...").await;
    link.send("CONNACK present=1").await;
    link.play("< UNSUBSCRIBE 65535 tidemill/sessions/sink/0 \n > UNSUBACK 65535 0x11").await;
    for id in &scene.ids {
        assert_eq!(published(&mut link).await, *id);
        link.send(&format!("PUBREC {id}")).await;
    }
    assert_eq!(link.subscribes, 1, "the new session has its marks");
    for id in &scene.ids {
        link.play(&format!("< PUBREL {id} \n > PUBCOMP {id}")).await;
    }
    scene.end(program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_kept_is_known_by_its_marks_whoever_dies_while_asking() {
    let scene = InFlight::begin(Marks::Granted).await;
    die_while_it_asks(&scene, 1).await;
    // Again in the middle of the question, at each of its steps.
    for (mark, hears_it) in [(0, false), (1, true)] {
        let program = scene.serve.start();
        let mut link = scene.broker.accept_connect("CONNECT clean=0 ...").await;
        link.strict();
        link.send("CONNACK present=1").await;
        link.expect(&format!("UNSUBSCRIBE 65535 tidemill/sessions/sink/{mark}")).await;
        if hears_it {
            link.play("> UNSUBACK 65535 0x00 \n < SUBSCRIBE 65535 ...").await;
        }
        program.kill9();
    }
    let program = scene.serve.start();
    let mut link = scene.broker.accept_connect("CONNECT clean=0 ...").await;
    link.send("CONNACK present=1").await;
    link.play("< UNSUBSCRIBE 65535 tidemill/sessions/sink/2 \n > UNSUBACK 65535 0x00").await;
    for id in &scene.ids {
        link.play(&format!("< PUBREL {id} \n > PUBCOMP {id} rc=0x92")).await;
    }
    assert_eq!(link.subscribes, 1, "what was spent is set again");
    scene.end(program).await;
}

/// Wrong, and known: see docs/mqtt.md. Here nobody can be asked.
#[tokio::test(flavor = "multi_thread")]
async fn where_a_broker_takes_no_marks_a_session_that_is_lost_in_a_handshake_goes_unnoticed() {
    let scene = InFlight::begin(Marks::Refused).await;
    die_while_it_asks(&scene, 1).await;
    let program = scene.serve.start();
    let mut link = scene.broker.accept_connect("CONNECT clean=0 ...").await;
    link.send("CONNACK present=1").await;
    for id in &scene.ids {
        link.play(&format!("< PUBREL {id} \n > PUBCOMP {id} rc=0x92")).await;
    }
    assert_eq!(link.subscribes, 0);
    scene.end(program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auth_of_the_broker_is_refused_and_the_status_says_what_to_do() {
    let folder = Folder::new();
    let broker = ScriptedBroker::start().await;
    let serve = Serve::new(&folder, &pipeline(&format!("url = '{}', qos = 1", broker.url())));
    let program = serve.start_ready().await;
    let mut link = broker.accept_connect("CONNECT ...").await;
    link.send("AUTH rc=0x18").await;
    let said = link.next(ANSWER_MAX).await.unwrap_or_default();
    assert!(said.starts_with("DISCONNECT rc=0x82"), "{said:?}");
    let is_told =
        |sink: &serde_json::Value| sink["error"].as_str().is_some_and(|error| error.contains("use a username"));
    sink_until(&program.http, "why there is no connection", is_told).await;
    program.stop().await;
}
