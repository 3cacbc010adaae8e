//! The folder does not grow for ever: the log and old checkpoints shrink under load, and never what is still needed.

use std::sync::Arc;
use std::time::Duration;

use tidemill_engine::checkpoint::Store;
use tidemill_engine::clock::SystemDice;
use tidemill_engine::ingest::{Log, LogOptions};
use tidemill_engine::runtime::LOG_FOLDER;
use tidemill_engine::storage::LocalStorage;

use super::scene::{Scene, VIEWS, checkpoints, files, status};
use crate::harness::wait::eventually;

const BATCH_BYTES: usize = 400_000;
/// Checkpoints that are made, in rounds that each end with a kill.
const CHECKPOINTS: u64 = 30;
const ROUNDS: u64 = 3;
/// What is kept: the log of three checkpoints in segments of 1 MiB, one that is filled, and what came since.
const LOG_BYTES_MAX: usize = 6 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_and_checkpoints_shrink_under_load_and_never_what_a_kept_checkpoint_needs() {
    let mut scene = Scene::new(VIEWS);
    let mut written = 0;
    for _ in 0..ROUNDS {
        let program = scene.start_ready().await;
        let mut number = checkpoints(&scene.serve.data).keys().next_back().copied().unwrap_or(0);
        for _ in 0..CHECKPOINTS / ROUNDS {
            scene.send_large(&program, BATCH_BYTES).await;
            written += BATCH_BYTES;
            let after = number;
            number = eventually("there is another checkpoint", Duration::from_secs(60), async || {
                checkpoints(&scene.serve.data).keys().next_back().copied().filter(|number| *number > after)
            })
            .await;
        }
        let told = status(&program).await["log_bytes"].as_u64().expect("a number");
        program.kill9();

        let data = &scene.serve.data;
        let log: usize = files(data, "log").values().map(Vec::len).sum();
        assert!(log < LOG_BYTES_MAX, "the log has {log} bytes of {written}");
        assert!((told as usize) < LOG_BYTES_MAX, "and says so: {told}");
        // One more than is kept: it was killed before it cleaned up.
        let kept = checkpoints(data);
        assert!((1..=4).contains(&kept.len()), "{:?}", kept.keys());
        let (manifests, packs) = (files(data, "checkpoint/manifest").len(), files(data, "checkpoint/state").len());
        assert!(manifests < 20 && packs < 60, "{manifests} manifests and {packs} packs");

        let storage = Arc::new(LocalStorage::existing(data).expect("a folder"));
        let store = Store::new(Arc::<LocalStorage>::clone(&storage));
        for (number, manifest) in kept.iter().rev().take(3) {
            let checkpoint = manifest.checkpoint().expect("one");
            store.read_parts(checkpoint.parts()).unwrap_or_else(|error| panic!("checkpoint {number}: {error}"));
            let log = Arc::<LocalStorage>::clone(&storage);
            let mut replay = Log::open(log, LOG_FOLDER, &SystemDice, LogOptions::default()).expect("whole");
            replay.skip_to(checkpoint.epoch).unwrap_or_else(|error| panic!("checkpoint {number}: {error}"));
        }
    }
    assert!(written > LOG_BYTES_MAX, "{written} bytes prove nothing");
}
