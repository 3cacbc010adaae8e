//! A write that takes only half, at each place where the program writes, and then a full disk: nothing is acknowledged that
//! does not hold, the service is read only and goes on answering, and resumes by itself when there is room.
//!
//! The files are those of the machine; only how much of a write it takes is decided here.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use tidemill::assemble::{self, Folder as DataFolder, Service, Settings, SqlFile};
use tidemill::engine::storage::simulated::Call;
use tidemill::engine::storage::{DiskInterposer, InterposedDisk, SystemDisk};
use tidemill::queries::server::Exposure;

use crate::harness::folder::Folder;
use crate::harness::http::Client;
use crate::harness::wait::eventually;

const PIPELINE: &str = "\
    CREATE SOURCE readings (v BIGINT NOT NULL, ts TIMESTAMP NOT NULL, WATERMARK FOR ts AS ts - INTERVAL '1 day') \
        WITH (connector = 'http');\n\
    CREATE MATERIALIZED VIEW history AS SELECT v, ts FROM readings;\n\
    CREATE MATERIALIZED VIEW minutes AS SELECT window_start, count(*) AS n \
        FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY window_start, window_end;\n";

/// While the program starts: the folder, and which write in it. In the first one lie the reserve and the catalog.
const AT_START: [(&str, u32); 6] =
    [("", 1), ("", 2), ("fence", 1), ("log", 1), ("checkpoint/manifest", 1), ("tables/history/_delta_log", 1)];

/// While it runs.
const RUNNING: [&str; 5] =
    ["log", "checkpoint/manifest", "checkpoint/state", "tables/history", "tables/history/_delta_log"];

/// Checkpoints and commits come several times within this.
const NOTICED_MAX: Duration = Duration::from_secs(60);
/// The program tries again after 1, 2, 4, ... seconds.
const GOES_ON_MAX: Duration = Duration::from_secs(90);

/// What a disk does with the next write.
#[derive(Clone, Copy, Debug)]
enum State {
    Works,
    /// Takes half of the n-th write in the folder from now on, and is full then.
    Strikes(u32),
    Full,
}

/// A disk that can be made to take half a write in one folder.
struct HalfAWrite {
    dir: PathBuf,
    state: Mutex<State>,
}

impl HalfAWrite {
    fn set(&self, state: State) {
        *self.state.lock().expect("nobody panics with it") = state;
    }
}

impl DiskInterposer for HalfAWrite {
    fn around<T>(&self, _: Call, _: &Path, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        run()
    }

    fn around_write(
        &self,
        path: &Path,
        byte_count: usize,
        write: impl FnOnce(usize) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut state = self.state.lock().expect("nobody panics with it");
        match *state {
            State::Full => Err(io::ErrorKind::StorageFull.into()),
            State::Strikes(nth) if path.parent() == Some(&self.dir) => {
                *state = if nth > 1 { State::Strikes(nth - 1) } else { State::Full };
                write(if nth > 1 { byte_count } else { byte_count / 2 })
            }
            State::Works | State::Strikes(_) => write(byte_count),
        }
    }
}

/// A service on such a disk, and who sends to it.
struct Scene {
    folder: Folder,
    disk: Arc<HalfAWrite>,
    service: Service,
    http: Client,
    sent: i64,
    acknowledged: BTreeSet<i64>,
}

impl Scene {
    async fn start(dir: &str, state: State) -> Scene {
        let folder = Folder::new();
        let data = folder.join("data");
        let dir = if dir.is_empty() { data.clone() } else { data.join(dir) };
        let disk = Arc::new(HalfAWrite { dir, state: Mutex::new(state) });
        let interposed = Arc::new(InterposedDisk::new(Arc::new(SystemDisk), Arc::clone(&disk)));
        let settings = Settings {
            workers: 1,
            checkpoint_interval: Duration::from_millis(200),
            commit_interval: Duration::from_millis(100),
            epoch_interval: Duration::from_millis(10),
            ..Settings::default()
        };
        let bound = assemble::bind("127.0.0.1:0", Exposure::LoopbackOnly).await.expect("a free port");
        let data = DataFolder::on(interposed, &data).expect("a writable folder");
        let context = assemble::context(data.storage(), &settings).expect("a current folder");
        let files = [SqlFile { name: "pipeline.sql".to_owned(), text: PIPELINE.to_owned() }];
        let pipeline = assemble::compile(&files, &context).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
        let service = Service::start(data, pipeline, &context.http, bound, &settings).await;
        let service = service.expect("it starts, though perhaps read only");
        let http = Client::new(service.address().port());
        Scene { folder, disk, service, http, sent: 0, acknowledged: BTreeSet::new() }
    }

    /// Sends a reading that nobody has sent before; returns the answer's status.
    async fn send(&mut self) -> u16 {
        self.sent += 1;
        let row = format!("{{\"v\":{},\"ts\":\"2026-01-01T00:00:00Z\"}}", self.sent);
        let (status, _) = self.http.ingest("readings", row).await.expect("an answer");
        if status == 200 {
            self.acknowledged.insert(self.sent);
        }
        status
    }

    /// Sends until the service is read only.
    async fn send_until_read_only(&mut self) {
        let begun = std::time::Instant::now();
        while !self.service.is_read_only() {
            assert!(begun.elapsed() < NOTICED_MAX, "half a write in {} and nobody notices", self.disk.dir.display());
            self.send().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn is_read_only(&mut self) {
        let (_, status) = self.http.get("/api/v1/status").await.expect("an answer");
        let status: Value = serde_json::from_str(&status).expect("JSON");
        assert_eq!(status["state"], "read_only", "{status}");
        let before = self.acknowledged.len();
        for _ in 0..3 {
            assert_eq!(self.send().await, 503);
        }
        let (code, retry_after, problem) = self.http.ingest_refused("readings", "{}").await;
        assert!(code == 503 && retry_after.is_some() && problem.contains("TM2115"), "{code} {problem}");
        if before > 0 {
            self.http.query("SELECT count(v + 1) AS n FROM history").await.expect("questions are answered");
        }
    }

    async fn resumes(&mut self) {
        self.disk.set(State::Works);
        let http = self.http.clone();
        eventually("it goes on by itself", GOES_ON_MAX, async || {
            (http.get("/readyz").await.ok()?.0 == 200).then_some(())
        })
        .await;
        assert_eq!(self.send().await, 200);
    }

    /// What was acknowledged is there, nothing is there twice, and nothing that was not sent.
    async fn holds(self) {
        let http = self.http.clone();
        let mut found = Vec::new();
        eventually("everything that was acknowledged is in the table", NOTICED_MAX, async || {
            found.clear();
            found.extend(http.query("SELECT v FROM history").await.ok()?.iter().filter_map(|row| row["v"].as_i64()));
            self.acknowledged.iter().all(|v| found.contains(v)).then_some(())
        })
        .await;
        let different: BTreeSet<i64> = found.iter().copied().collect();
        assert_eq!(different.len(), found.len(), "something is there twice: {found:?}");
        assert!(different.iter().all(|v| (1..=self.sent).contains(v)), "{found:?}");
        self.service.stop(GOES_ON_MAX).await.expect("it stops");
        drop(self.folder);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn half_a_write_at_the_start_is_read_only_until_there_is_room() {
    join_all(AT_START.map(async |(dir, nth)| {
        let mut scene = Scene::start(dir, State::Strikes(nth)).await;
        assert!(scene.service.is_read_only(), "half of write {nth} in {dir:?} and nobody notices");
        scene.is_read_only().await;
        scene.resumes().await;
        scene.holds().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn half_a_write_while_it_runs_acknowledges_nothing_after_it_and_goes_on_when_there_is_room() {
    join_all(RUNNING.map(async |dir| {
        let mut scene = Scene::start(dir, State::Works).await;
        for _ in 0..20 {
            assert_eq!(scene.send().await, 200);
        }
        scene.disk.set(State::Strikes(1));
        scene.send_until_read_only().await;
        scene.is_read_only().await;
        scene.resumes().await;
        scene.holds().await;
    }))
    .await;
}
