//! `tidemill verify`: the crash test, for pipelines of users.
//!
//! ```text
//!   FILE.sql ─► their views over our sources ─► serve ◄─ kill -9, start, kill -9, start, …
//!                                                 ▲ │
//!      senders, each with a ledger on disk ───────┘ └─► tables ─► the verdict: ledger against rows, view against SELECT
//! ```
//! Everything happens in a temporary folder, with a copy of this very program. The seed decides the rows and the instants
//! of the kills, as far as the machine lets it.

mod ledger;
mod pipeline;
mod report;
mod rows;
mod senders;
mod verdict;
mod victim;

#[cfg(debug_assertions)]
mod sabotage;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemill::{Error, Result};
use tidemill_engine::clock::{Dice, SeededDice, SystemDice};
use tidemill_engine::source::Stop;
use tidemill_engine::storage::{LocalStorage, Storage};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::pipeline::UnderTest;
use self::report::Report;
use self::senders::Sender;
use self::victim::Victim;
use crate::cli::VerifyArgs;
use crate::commands::{answer, read_and_check, stop_requested};
use crate::config::Config;

/// Seeds that are easy to type again.
const SEEDS: u64 = 1_000_000_000;
/// The part of the time, in percent, that has kills in it: before it rows have to come in, after it the last ones.
const KILLS_FROM_TO_PERCENT: std::ops::Range<u64> = 3..95;

/// Runs the crash test, and says what it has found.
pub(crate) async fn verify(args: VerifyArgs, config: &Config) -> Result<()> {
    let (files, checked) = read_and_check(std::slice::from_ref(&args.file), config)?;
    let seed = args.seed.unwrap_or_else(|| SystemDice.roll() % SEEDS);
    let rows = args.rate.saturating_mul(args.seconds);
    let under_test = pipeline::under_test(&files[0], &checked, seed, rows)?;
    let folder = make_folder(seed, &under_test)?;
    let again = format!(
        "tidemill verify --seed {seed} --kills {} --seconds {} --rate {} {}",
        args.kills,
        args.seconds,
        args.rate,
        args.file.display()
    );
    eprintln!(
        "{}: {} s, {} kills, {} rows/s, seed {seed}, in {}",
        files[0].name,
        args.seconds,
        args.kills,
        args.rate,
        folder.display()
    );
    // The program ends with this one, however it ends.
    let tried = tokio::select! {
        tried = try_all(&args, seed, &under_test, &folder) => tried,
        requested = stop_requested() => requested.and(Err(Error::Environment("stopped before the verdict".to_owned()))),
    };
    let kept = |what: String| format!("{what}\nThe folder is kept: {}. Again: {again}", folder.display());
    let report = tried.map_err(|error| match error {
        Error::Input(what) => Error::Input(kept(what)),
        Error::Environment(what) => Error::Environment(kept(what)),
        Error::Disk { reason, is_full } => Error::Disk { reason: kept(reason), is_full },
        Error::Internal(what) => Error::Internal(kept(what)),
    })?;
    eprint!("{}", report.summary(&files[0].name));
    answer(format!("{}\n", report.to_json()).as_bytes())?;
    if !report.is_good() {
        let what = if report.verdict.is_good() {
            return Err(Error::Environment(kept("nothing was verified".to_owned())));
        } else {
            "tidemill has broken its promise; please report it"
        };
        return Err(Error::Internal(kept(what.to_owned())));
    }
    if args.keep {
        eprintln!("  kept: {}", folder.display());
        return Ok(());
    }
    std::fs::remove_dir_all(&folder)
        .map_err(|error| Error::Environment(format!("cannot remove {}: {error}", folder.display())))
}

/// Makes the folder, with the pipeline in it.
fn make_folder(seed: u64, under_test: &UnderTest) -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("tidemill-verify-{seed}-{}", std::process::id()));
    let problem = |error: std::io::Error| Error::Environment(format!("cannot make {}: {error}", folder.display()));
    std::fs::create_dir(&folder).map_err(problem)?;
    std::fs::create_dir(folder.join("ledgers")).map_err(problem)?;
    LocalStorage::open(&folder)?.put_new("pipeline.sql", under_test.sql.as_bytes())?;
    Ok(folder)
}

async fn try_all(args: &VerifyArgs, seed: u64, under_test: &UnderTest, folder: &Path) -> Result<Report> {
    let dice = SeededDice::new(seed);
    let http = pipeline::free_port()?;
    let mut victim = Victim::new(folder, http)?;
    victim.start(dice.roll())?;
    victim.ready().await?;

    let begin = Instant::now();
    let until = begin + Duration::from_secs(args.seconds);
    let stop = Stop::new();
    let mut senders = JoinSet::new();
    let rate = (args.rate / under_test.sources.len() as u64).max(1);
    for fed in &under_test.sources {
        let sender = Sender::new(fed.clone(), http, &folder.join("ledgers").join(&fed.name))?;
        senders.spawn(sender.run(until, rate, stop.clone()));
    }
    let broken = break_it(args, &dice, &mut victim, begin, folder, under_test);
    let feeding = async {
        let mut fed = Vec::new();
        while let Some(sender) = senders.join_next().await {
            fed.push(sender.map_err(|error| Error::Internal(error.to_string()))??);
        }
        Ok::<_, Error>(fed)
    };
    // What fails first is what is told; the other one ends with it.
    let ((), mut fed) = tokio::try_join!(broken, feeding)?;

    victim.ready().await?;
    victim.settled().await?;
    for sender in &mut fed {
        sender.close().await?;
    }
    victim.settled().await?;
    victim.stop().await?;
    drop(fed);
    let verdict = verdict::judge(under_test, &folder.join("data"), &folder.join("ledgers")).await?;
    Ok(Report { seed, kills: args.kills, ready_max: victim.ready_max, verdict })
}

/// Kills and starts it at instants that the dice decide, then lets it live until the time is over.
#[cfg_attr(not(debug_assertions), expect(unused_variables, reason = "only a debug build can be sabotaged"))]
async fn break_it(
    args: &VerifyArgs,
    dice: &SeededDice,
    victim: &mut Victim,
    begin: Instant,
    folder: &Path,
    under_test: &UnderTest,
) -> Result<()> {
    let millis = args.seconds.saturating_mul(1_000);
    let (from, to) = (millis * KILLS_FROM_TO_PERCENT.start / 100, millis * KILLS_FROM_TO_PERCENT.end / 100);
    let mut instants: Vec<u64> = (0..args.kills).map(|_| from + dice.roll() % (to - from).max(1)).collect();
    instants.sort_unstable();
    for (nth, instant) in instants.iter().enumerate() {
        victim.until(begin + Duration::from_millis(*instant)).await?;
        victim.kill()?;
        #[cfg(debug_assertions)]
        if nth + 1 == instants.len() {
            sabotage::lose_a_commit_if_asked(&folder.join("data"), under_test)?;
        }
        victim.start(dice.roll())?;
    }
    victim.until(begin + Duration::from_millis(millis)).await?;
    victim.ready().await
}
