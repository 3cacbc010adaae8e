//! What a deduplicated source has seen is known after a stop and after a kill, on any number of threads.

use super::scene::{BATCH, SOURCE, Scene, TABLES, VIEWS, status};
use crate::harness::program::Program;
use crate::harness::tables::Judge;

/// Counts what was sent: batches that are sent again have their number of before.
struct Sender {
    sent: i64,
}

impl Sender {
    /// Sends this many batches, of which the first ones are the last that were sent before.
    async fn send(&mut self, scene: &mut Scene, program: &Program, again: i64, count: i64) {
        scene.batches -= again;
        scene.send(program, count).await;
        self.sent += count;
        program.http.settled("readings", (self.sent * BATCH).unsigned_abs()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_again_after_a_stop_or_a_kill_counts_once_with_any_number_of_threads() {
    let mut scene = Scene::new(VIEWS);
    let dedup = "DEDUP KEY (device, seq) WITHIN INTERVAL '10 seconds', WATERMARK FOR";
    scene.change(&format!("{}{VIEWS}", SOURCE.replace("WATERMARK FOR", dedup)));
    let mut sender = Sender { sent: 0 };
    let mut repeats = 0;
    for (run, workers) in [2, 1, 4, 3].into_iter().enumerate() {
        scene.serve.workers = workers;
        let program = scene.start_ready().await;
        // A broker that has not heard our acknowledgements sends the last messages again.
        sender.send(&mut scene, &program, if run == 0 { 0 } else { 3 }, 8).await;
        let sealed = status(&program).await["sealed_epoch"].as_u64().expect("a number");
        scene.checkpointed_up_to(sealed).await;
        // Behind the checkpoint: the replay has to judge these as they were judged.
        sender.send(&mut scene, &program, 2, 4).await;
        let found = &status(&program).await["dedups"][0];
        assert_eq!(found["source"], "readings");
        let counted = found["repeats"].as_i64().expect("a number");
        assert!(counted >= repeats + BATCH, "{counted} repeats, {repeats} before");
        repeats = counted;
        if run % 2 == 0 {
            assert_eq!(program.kill9().code(), None, "it was killed");
        } else {
            program.stop().await;
        }
    }
    let mut judge = Judge::new();
    judge.table("raw", &scene.serve.data.join("tables/raw"));
    assert_eq!(judge.number("SELECT count(*) - count(DISTINCT seq) FROM raw"), 0);
    let (least, missing) = (BATCH * 4, "SELECT count(*) FROM range(0, 160) r(seq) WHERE seq % 40 <> 39 AND seq NOT IN");
    assert_eq!(judge.number(&format!("{missing} (SELECT seq FROM raw)")), 0, "of the first {least} none is missing");
    let all: Vec<&str> = TABLES.into_iter().chain(["readings$late"]).collect();
    scene.assert_as_uninterrupted(&all).await;
}
