//! One run: senders, a program that is killed again and again, and the verdict over its tables.

use std::io::Write;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::Fault;
use super::input::{BROKER_WINDOW, Input, Running};
use super::size::Size;
use crate::harness::broker::Broker;
use crate::harness::disk::Disk;
use crate::harness::folder::Folder;
use crate::harness::program::{Program, Serve};
use crate::harness::tables::Judge;
use crate::harness::wait::while_it_moves;

/// The program lives so long before it is killed.
const LIFE_MS: std::ops::Range<u64> = 20..250;
/// Messages come so often.
const TICK: Duration = Duration::from_millis(4);
/// Of so many kills one strikes before the program is ready.
const EARLY_OF: u64 = 4;
/// A disk that can lose its power.
const DISK_BYTES: &str = "800M";
/// A debug build that gets on with the rest; and a broker that still reads the acknowledgements of a connection that has ended, before
/// it takes the next one: Mosquitto 2.0.11 searches its whole backlog for each (a minute beside other tests).
const REST_MAX: Duration = Duration::from_secs(300);

/// Sends, kills, and judges.
pub(super) async fn run(what: &str, inputs: &[Input], size: Size) {
    let begin = Instant::now();
    let folder = Folder::new();
    let disk = match size.fault {
        Fault::Kill => None,
        Fault::PowerLoss => match Disk::make(&folder, DISK_BYTES) {
            Ok(disk) => Some(disk),
            Err(why) => return publish(&format!("*** NOT PROVEN HERE: it needs root, loop devices and xfs_io: {why}")),
        },
    };
    let mosquitto = Broker::patient(&folder, BROKER_WINDOW).await;
    let ledgers = folder.join("ledgers");
    let mut running = Vec::new();
    for input in inputs {
        running.push(input.begin(&mosquitto, &ledgers).await);
    }
    let mut serve = Serve::new(&folder, &running.iter().map(Running::sql).collect::<String>());
    if let Some(disk) = &disk {
        serve.data = disk.mounted_at.join("data");
    }
    let mut dice = StdRng::seed_from_u64(size.seed);
    // A broker must know its subscribers before it keeps anything for them.
    serve.start_ready().await.stop().await;
    if size.waiting {
        send_until(&running, size.messages);
        all_are_done(&running, size.messages).await;
    }
    for kill in 1..=size.kills {
        let mut program = serve.start();
        // The messages come in equal parts, so that each life of the program has its own: one half waits when it comes, the
        // other keeps coming, so that some are under way whenever it dies.
        let part =
            |kill: u64| size.messages * i64::try_from(kill).expect("few") / i64::try_from(size.kills).expect("few");
        let (before, after) = (part(kill - 1), part(kill));
        let half = before + (after - before) / 2;
        send_until(&running, half);
        if dice.random_range(0..EARLY_OF) > 0 {
            program.ready_within(REST_MAX).await;
        }
        let life_ms = dice.random_range(LIFE_MS);
        let mut tick = tokio::time::interval(TICK);
        for ms in (0..life_ms).step_by(TICK.as_millis() as usize) {
            tick.tick().await;
            let share = (after - half) * i64::try_from(ms).expect("short") / i64::try_from(life_ms).expect("short");
            send_until(&running, half + share);
        }
        strike(program, disk.as_ref()).await;
    }
    let killed = begin.elapsed();
    send_until(&running, size.messages);
    let mut program = serve.start();
    program.ready_within(REST_MAX).await;
    all_are_done(&running, size.messages).await;
    all_are_there(&program, &running, size.messages).await;
    program.stop().await;
    // What a broker believes to be unfinished would come now.
    let mut program = serve.start();
    program.ready_within(REST_MAX).await;
    all_are_there(&program, &running, size.messages).await;
    program.stop().await;

    let mut judge = Judge::new();
    judge.ledger("ledger", &ledgers.join("*.csv"));
    let mut report = json!({
        "test": what, "seed": size.seed, "kills": size.kills, "messages": size.messages,
        "seconds": begin.elapsed().as_secs(), "seconds_of_kills": killed.as_secs(), "duplicates": {},
    });
    let mut offences = Vec::new();
    for input in &running {
        let (found, doubled) = input.verdict(&mut judge, &serve.data.join("tables"), size.messages);
        offences.extend(found);
        report["duplicates"][input.name()] = json!(doubled);
    }
    publish(&report.to_string());
    assert!(offences.is_empty(), "seed {}:\n{}", size.seed, offences.join("\n"));
    for input in running {
        input.peer.end().await;
    }
}

/// Kills the program, or takes the power from its disk and gives it back once the program is dead.
async fn strike(program: Program, disk: Option<&Disk>) {
    match disk {
        Some(disk) => disk.strike(program).await,
        None => {
            let ended = program.kill9();
            assert!(ended.code().is_none(), "the program ended by itself: {ended}");
        }
    }
}

fn send_until(running: &[Running], number: i64) {
    running.iter().for_each(|input| input.peer.send_until(number));
}

/// Waits until the senders know that everything has arrived.
async fn all_are_done(running: &[Running], messages: i64) {
    for input in running {
        while_it_moves(&format!("{} is acknowledged", input.name()), REST_MAX, async || {
            let so_far = input.peer.done();
            if so_far >= messages { Ok(()) } else { Err(so_far) }
        })
        .await;
    }
}

/// Waits until each number can be seen.
async fn all_are_there(program: &Program, running: &[Running], messages: i64) {
    for input in running.iter().filter(|input| input.is_kept()) {
        let sql = format!("SELECT count(DISTINCT seq) AS n FROM t_{}", input.name());
        let mut last = None;
        while_it_moves(&format!("{sql} gives {messages}"), REST_MAX, async || {
            let rows = program.http.query(&sql).await;
            let found = rows.ok().and_then(|rows| rows.first()?["n"].as_i64());
            if last != found {
                last = found;
                eprintln!("{}: {found:?}", input.name());
            }
            if found == Some(messages) { Ok(()) } else { Err(found) }
        })
        .await;
    }
}

/// Prints the line, and adds it to the report of `./check`.
fn publish(line: &str) {
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("TIDEMILL_BREAKER_REPORT") {
        let file = std::fs::File::options().create(true).append(true).open(path);
        file.and_then(|mut file| writeln!(file, "{line}")).expect("a writable report");
    }
}
