//! A disk that fails while the program runs: it is full, or the kernel refuses system calls. The program must say so, go on
//! answering questions, acknowledge nothing, and go on by itself when the disk does.
//!
//! The kernel's refusals are injected by `strace`, which is attached to the running program and leaves it again: as long as
//! it is there, the disk is broken. A short write is not among them, since `strace` can only lie about one; a full disk
//! makes them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::round::Scene;
use crate::harness::program::Program;
use crate::harness::strace::Strace;
use crate::harness::wait::eventually;

/// Until a disk that fails is noticed: a commit comes every second at most, and a checkpoint every ten.
const NOTICED_MAX: Duration = Duration::from_secs(90);
/// Until a disk that works again is noticed: the program tries again after 1, 2, 4, ... seconds.
const GOES_ON_MAX: Duration = Duration::from_secs(120);
/// Answers that were under way when the disk failed have come after so long: on a busy machine they are heard later.
const UNDER_WAY_MAX: Duration = Duration::from_secs(30);
/// So long it is watched that nothing is acknowledged, however much is sent meanwhile.
const WATCHED: Duration = Duration::from_millis(700);

/// System calls that are refused, on all files or on the log's last segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// As `strace -e inject=` takes them.
    injections: &'static [&'static str],
    on: On,
}

/// Which files it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    AllFiles,
    /// The next job begins another one, so that this disk heals by itself.
    LastSegment,
}

impl Refused {
    /// Each call site of storage: syncing the log, writing it, writing, syncing and naming any other file.
    pub(super) const ALL: [Refused; 6] = [
        Refused { injections: &["fdatasync:error=EIO"], on: On::AllFiles },
        Refused { injections: &["fsync:error=EIO"], on: On::AllFiles },
        Refused { injections: &["fsync:error=ENOSPC"], on: On::AllFiles },
        Refused { injections: &["?link,linkat:error=ENOSPC"], on: On::AllFiles },
        Refused {
            injections: &["fdatasync:error=EIO:when=3+", "?rename,?renameat,?renameat2:error=EIO"],
            on: On::AllFiles,
        },
        Refused { injections: &["write:error=ENOSPC"], on: On::LastSegment },
    ];
}

/// Refuses system calls of a program under load until it has noticed.
pub(super) async fn refuse(scene: &mut Scene, refused: Refused) {
    let program = scene.start_ready().await;
    scene.serve_a_while().await;
    let words = Strace::inject(refused.injections);
    let strace = match refused.on {
        On::AllFiles => {
            let strace = Strace::attach(program.pid(), &words).await;
            becomes_read_only(&program).await;
            is_read_only(scene, &program).await;
            strace
        }
        On::LastSegment => refuse_last_segment(scene, &program, &words).await,
    };
    strace.detach().await;
    goes_on(scene, &program).await;
    scene.stop_after_disk_failure(program).await;
}

/// Fills the disk of a program under load until it has noticed.
pub(super) async fn fill(scene: &mut Scene) {
    let program = scene.start_ready().await;
    scene.serve_a_while().await;
    let ballast = scene.disk().fill();
    becomes_read_only(&program).await;
    is_read_only(scene, &program).await;
    eventually("the last checkpoint is made with the room of the reserve", NOTICED_MAX, async || {
        program.log().contains("settled: a checkpoint is made").then_some(())
    })
    .await;
    assert!(!scene.data().join("reserve").exists(), "the reserve is not made while there is no room");
    drop(ballast);
    goes_on(scene, &program).await;
    assert!(scene.data().join("reserve").exists(), "the reserve is made again");
    scene.stop_after_disk_failure(program).await;
}

async fn status(program: &Program) -> Option<Value> {
    let (_, text) = program.http.get("/api/v1/status").await.ok()?;
    serde_json::from_str(&text).ok()
}

async fn becomes_read_only(program: &Program) {
    eventually("the program is read only", NOTICED_MAX, async || {
        (status(program).await?["state"] == "read_only").then_some(())
    })
    .await;
}

/// Refuses calls on the segment that is written, until the program has noticed. While the tracer attaches, the log may
/// have gone on to another segment; then it is that one's turn.
async fn refuse_last_segment(scene: &Scene, program: &Program, words: &[String]) -> Strace {
    loop {
        let segment = last_segment(scene.data());
        let words = [words, &["-P".to_owned(), segment.display().to_string()]].concat();
        let strace = Strace::attach(program.pid(), &words).await;
        let has_failed = eventually("the disk has failed, or the log went on", NOTICED_MAX, async || {
            let has_failed = status(program).await?["disk_failures"].as_u64()? > 0;
            (has_failed || last_segment(scene.data()) != segment).then_some(has_failed)
        })
        .await;
        if has_failed {
            return strace;
        }
        strace.detach().await;
    }
}

/// Looks at everything that a program says and does while it is read only.
async fn is_read_only(scene: &Scene, program: &Program) {
    let told = status(program).await.expect("a status");
    let reason = told["read_only"]["reason"].as_str().expect("a reason");
    assert!(reason.contains("os error") && told["read_only"]["since"].is_string(), "{told}");
    assert_eq!(program.http.get("/healthz").await.expect("an answer").0, 200);
    let (code, ready) = program.http.get("/readyz").await.expect("an answer");
    assert!(code == 503 && ready.contains("read only since"), "{code} {ready}");
    let (_, metrics) = program.http.get("/metrics").await.expect("an answer");
    assert!(metrics.lines().any(|line| line == "tidemill_read_only 1"), "{metrics}");
    let (code, retry_after, problem) = program.http.ingest_refused("web", "{}").await;
    assert!(code == 503 && retry_after.is_some() && problem.contains("TM2115"), "{code} {retry_after:?} {problem}");
    let rows = program.http.query("SELECT count(*) AS n FROM raw_web WHERE seq >= 0").await;
    assert!(rows.as_ref().is_ok_and(|rows| rows.len() == 1), "{rows:?}");
    eventually("nothing is acknowledged any more", UNDER_WAY_MAX, async || {
        let before = scene.acknowledged();
        tokio::time::sleep(WATCHED).await;
        (scene.acknowledged() == before).then_some(())
    })
    .await;
}

async fn goes_on(scene: &Scene, program: &Program) {
    let before = scene.acknowledged();
    eventually("the program goes on by itself", GOES_ON_MAX, async || {
        (status(program).await?["state"] == "running" && program.http.get("/readyz").await.ok()?.0 == 200).then_some(())
    })
    .await;
    eventually("readings are acknowledged again", GOES_ON_MAX, async || (scene.acknowledged() > before).then_some(()))
        .await;
}

fn last_segment(data: &Path) -> PathBuf {
    let entries = std::fs::read_dir(data.join("log")).expect("a log");
    let segments = entries.map(|entry| entry.expect("a readable folder").path());
    segments.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().expect("a segment")
}
