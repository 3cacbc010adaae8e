//! A request that says who it is, is stored once: through kills, and as long as it is remembered.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{INGEST, NDJSON, PIPELINE, log_holds, post};
use crate::harness::folder::Folder;
use crate::harness::program::Serve;
use crate::harness::strace::Strace;
use crate::harness::wait::eventually;

/// Longer than anything takes that must be done before a sync is over.
const SYNC_TAKES: &str = "fdatasync,fsync:delay_enter=60000000";
/// A debug build on a busy machine.
const WRITTEN_MAX: Duration = Duration::from_secs(60);

fn producer(sequence: &str) -> [(&str, &str); 4] {
    [NDJSON, ("producer-id", "meter-7"), ("producer-epoch", "0"), ("producer-seq", sequence)]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_answer_was_lost_by_a_kill_is_stored_once_if_it_says_who_it_is() {
    let folder = Folder::new();
    let serve = Serve::new(&folder, PIPELINE);
    let program = serve.start_ready().await;
    assert_eq!(post(&program, INGEST, &producer("0"), "{\"v\":1}").await.0, 200);
    program.stop().await;

    let key = [NDJSON, ("idempotency-key", "5f2b")];
    let second = producer("1");
    for (name, headers, first_offset, stored) in
        [("producer", &second[..], 1, 1), ("key", &key[..], 3, 1), ("nobody", &[NDJSON][..], 5, 2)]
    {
        let body = format!("{{\"v\":0,\"note\":\"of-{name}\"}}\n{{\"v\":1,\"note\":\"of-{name}\"}}\n");
        let program = serve.start_ready().await;
        let slow = Strace::attach(program.pid(), &Strace::inject(&[SYNC_TAKES])).await;
        let http = program.http.clone();
        let (given, sent) = (
            headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect::<Vec<_>>(),
            body.clone(),
        );
        let asked = tokio::spawn(async move {
            let headers: Vec<(&str, &str)> = given.iter().map(|(name, value)| (&name[..], &value[..])).collect();
            http.post_with(INGEST, &headers, sent.into_bytes()).await
        });
        eventually("the record is written", WRITTEN_MAX, async || {
            log_holds(&serve.data, &format!("of-{name}")).then_some(())
        })
        .await;
        slow.kill9(program);
        assert!(asked.await.expect("no panic").is_err(), "{name}: no answer came before the sync");

        let program = serve.start_ready().await;
        // A request that says who it is may come as often as it likes.
        for _ in 0..if stored == 1 { 3 } else { 1 } {
            let (status, answer) = post(&program, INGEST, headers, body.clone()).await;
            assert_eq!(status, 200, "{answer}");
            if stored == 1 {
                assert_eq!(answer["duplicate"], true, "{name}: {answer}");
                assert_eq!(answer["first_offset"], first_offset, "{name}: {answer}");
                assert_eq!(answer["position"], format!("readings@{}", first_offset + 2));
                assert_eq!(answer["rows"], 2);
            } else {
                assert_eq!(answer["duplicate"], false);
            }
        }
        let sql = format!("SELECT count(*) AS n FROM history WHERE note = 'of-{name}'");
        program.http.query_until(&sql, 2 * stored).await;
        program.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_stands_for_one_body_and_what_is_remembered_survives_kills_and_checkpoints() {
    let folder = Folder::new();
    let mut serve = Serve::new(&folder, PIPELINE);
    serve.environment = vec![("TIDEMILL__DURABILITY__CHECKPOINT".to_owned(), "100ms".to_owned())];
    let program = serve.start_ready().await;
    let key = [NDJSON, ("idempotency-key", "k-1")];
    let (_, first) = post(&program, INGEST, &key, "{\"v\":1}").await;
    for sequence in ["0", "1"] {
        assert_eq!(post(&program, INGEST, &producer(sequence), "{\"v\":2}").await.0, 200);
    }
    let mut program = program;
    for is_killed in [true, true, false, false] {
        let (status, answer) = post(&program, INGEST, &key, "{\"v\":1}").await;
        assert_eq!((status, &answer["position"], &answer["duplicate"]), (200, &first["position"], &json!(true)));
        let (status, answer) = post(&program, INGEST, &key, "{\"v\":9}").await;
        assert_eq!((status, &answer["code"]), (422, &json!("TM2121")), "{answer}");
        let (status, answer) = post(&program, INGEST, &producer("1"), "{\"v\":2}").await;
        assert_eq!((status, &answer["position"], &answer["duplicate"]), (200, &json!("readings@3"), &json!(true)));
        let (status, answer) = post(&program, INGEST, &producer("3"), "{\"v\":9}").await;
        assert_eq!((status, &answer["expected_seq"]), (409, &json!(2)), "{answer}");
        program.http.query_until("SELECT sum(v) AS total FROM history", 5).await;
        if is_killed {
            program.kill9();
        } else {
            program.stop().await;
        }
        program = serve.start_ready().await;
    }
    // A new epoch begins at 0, and the old one is over.
    let in_epoch =
        |epoch: &'static str| [NDJSON, ("producer-id", "meter-7"), ("producer-epoch", epoch), ("producer-seq", "0")];
    assert_eq!(post(&program, INGEST, &in_epoch("1"), "{\"v\":4}").await.0, 200);
    let (status, answer) = post(&program, INGEST, &producer("2"), "{\"v\":9}").await;
    assert_eq!((status, &answer["code"]), (403, &json!("TM2120")), "{answer}");
    program.http.query_until("SELECT sum(v) AS total FROM history", 9).await;
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_requests_with_one_key_at_the_same_time_one_is_stored_and_the_others_are_told_to_come_again() {
    let folder = Folder::new();
    let serve = Serve::new(&folder, PIPELINE);
    let program = serve.start_ready().await;
    let slow = Strace::attach(program.pid(), &Strace::inject(&[SYNC_TAKES])).await;
    let named =
        async || post(&program, INGEST, &[NDJSON, ("idempotency-key", "k")], "{\"v\":1,\"note\":\"of-eight\"}").await;
    // Eight of them; as long as the one that is written is not synced, the others are told so.
    let all = futures::future::join_all((0..8).map(async |_| {
        let answer = named().await;
        (Instant::now(), answer)
    }));
    let goes_on = async {
        eventually("one of them is written", WRITTEN_MAX, async || log_holds(&serve.data, "of-eight").then_some(()))
            .await;
        let (status, answer) = named().await;
        assert_eq!((status, &answer["code"]), (409, &json!("TM2118")), "{answer}");
        let begin = Instant::now();
        slow.detach().await;
        begin
    };
    let (answers, synced) = tokio::join!(all, goes_on);
    let (early, late): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(at, _)| *at < synced);
    assert!(early.iter().all(|(_, (status, answer))| *status == 409 && answer["code"] == "TM2118"), "{early:?}");
    let (taken, sent_away): (Vec<_>, Vec<_>) = late.into_iter().partition(|(_, (status, _))| *status == 200);
    assert!(
        sent_away.iter().all(|(_, (status, answer))| *status == 409 && answer["code"] == "TM2118"),
        "{sent_away:?}"
    );
    assert_eq!(taken.iter().filter(|(_, (_, answer))| answer["duplicate"] == false).count(), 1, "{taken:?}");
    program.http.query_until("SELECT count(v + 0) AS n FROM history", 1).await;
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_producers_take_little_memory_and_one_more_is_refused() {
    let folder = Folder::new();
    let program = Serve::new(&folder, PIPELINE).start_ready().await;
    let before_kib = program.memory_kib("VmRSS");
    let send = async |number: usize| {
        let id = format!("{number:0>128}");
        post(
            &program,
            INGEST,
            &[NDJSON, ("producer-id", &id), ("producer-epoch", "0"), ("producer-seq", "0")],
            "{\"v\":1}",
        )
        .await
    };
    for from in (0..10_000).step_by(100) {
        let sent = futures::future::join_all((from..from + 100).map(send)).await;
        assert!(sent.iter().all(|(status, _)| *status == 200), "{:?}", sent.iter().find(|(status, _)| *status != 200));
    }
    let (status, answer) = send(10_000).await;
    assert_eq!((status, &answer["code"]), (429, &json!("TM2122")), "{answer}");
    assert_eq!(send(9_999).await.1["duplicate"], true);
    let grown_kib = program.memory_kib("VmRSS").saturating_sub(before_kib);
    assert!(grown_kib < 128 << 10, "{grown_kib} KiB for 10,000 producers and their rows");
    program.http.query_until("SELECT count(v + 0) AS n FROM history", 10_000).await;
    program.stop().await;
}
