//! Crash at every sync: one life is watched, and before and after each of its syncs an image of the disk is taken. Of each
//! image two things are made: what a killed process leaves, and what a power loss leaves of it. Both must go on, to the
//! end of the script, and be right.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidemill::engine::runtime::simulation::{Moment, Watch};
use tidemill::engine::storage::SimulatedDisk;

use super::judge::{garbage, verdict};
use super::life::{Settings, live};
use super::report::{Failures, chosen};
use super::scenario::Script;
use super::world::{Past, World};

/// Images that wait for a judge.
const IMAGES_QUEUED_MAX: usize = 8;

/// Judges that work side by side.
const JUDGES: usize = 2;

/// One image in so many also has its recovery crashed, at each of its syncs.
const RECOVERIES_ONE_IN: usize = 150;

/// One image in so many is looked through for garbage, after one more start.
const GARBAGE_ONE_IN: usize = 5;

/// The disk and the world as a crash finds them.
#[derive(Clone)]
struct Image {
    number: usize,
    /// `before sync 7 of data/log/0000000001.log`.
    place: String,
    disk: SimulatedDisk,
    past: Past,
}

/// Returns what takes images of a life's syncs, and hands them on.
fn camera(disk: &SimulatedDisk, world: &World, take: impl Fn(Image) + Send + Sync + 'static) -> Watch {
    let (disk, world, count) = (disk.clone(), world.clone(), AtomicUsize::new(0));
    Arc::new(move |moment| {
        let (word, path): (&str, &Path) = match moment {
            Moment::BeforeSync(path) => ("before", path),
            Moment::AfterSync(path) => ("after", path),
            Moment::BeforeRemove(_) => return,
        };
        let number = count.fetch_add(1, Ordering::Relaxed);
        let place = format!("{word} sync {} of {}", number / 2 + 1, path.display());
        take(Image { number, place, disk: disk.kill(), past: world.past() });
    })
}

#[test]
fn every_sync_may_be_the_last() {
    let (seed, chunk_count) = (3, 14);
    let script = Script::new(seed, chunk_count);
    let failures = Failures::new("simulation::crash");
    let (sender, images) = sync_channel::<Image>(IMAGES_QUEUED_MAX);
    let images = Mutex::new(images);
    let judged = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..JUDGES {
            scope.spawn(|| judge_all(&images, &script, seed, &failures, &judged));
        }
        let (disk, world) = (SimulatedDisk::new(seed), World::new());
        let watch = camera(&disk, &world, move |image| {
            if chosen("TIDEMILL_IMAGE").is_none_or(|number| number == image.number as u64) {
                sender.send(image).expect("a judge waits");
            }
        });
        let life = live(&disk, &world, &script, &watched(seed), Some(watch));
        life.end.stopped().expect("nothing happens to it");
        verdict(&disk, &world.past(), &script).expect("without a crash it is right");
        assert!(!world.past().archive.is_empty(), "the log has shrunk");
    });
    println!("{} restarts", judged.load(Ordering::Relaxed));
    failures.none();
}

/// How the watched life runs: with checkpoints so often that the log shrinks.
fn watched(seed: u64) -> Settings {
    Settings { checkpoint_interval: Duration::from_millis(1_500), segment_bytes: 500, ..Settings::small(seed, 2) }
}

fn judge_all(images: &Mutex<Receiver<Image>>, script: &Script, seed: u64, failures: &Failures, judged: &AtomicUsize) {
    loop {
        let Ok(image) = images.lock().expect("nobody panics with it").recv() else { return };
        for (kind, disk) in
            [("killed", image.disk.kill()), ("powered off", image.disk.crash(seed ^ image.number as u64))]
        {
            let fault = format!("{kind} {}", image.place);
            let variables = [("TIDEMILL_IMAGE", image.number as u64)];
            failures.check(seed, &fault, &variables, || go_on(&disk.kill(), &image, script));
            judged.fetch_add(1, Ordering::Relaxed);
            if image.number % RECOVERIES_ONE_IN == RECOVERIES_ONE_IN / 2 {
                let count = crash_recovery(&disk, &image, script, &fault, seed, failures);
                judged.fetch_add(count, Ordering::Relaxed);
            }
        }
    }
}

/// Starts on what a crash left, goes on to the end of the script, and judges.
fn go_on(disk: &SimulatedDisk, image: &Image, script: &Script) -> Result<usize, String> {
    let world = World::after(image.past.clone());
    // Another number of workers each time.
    let settings = Settings::small(image.number as u64, 1 + image.number % 3);
    let life = live(disk, &world, script, &settings, None);
    life.end.stopped()?;
    let seen = verdict(disk, &world.past(), script)?;
    if image.number.is_multiple_of(GARBAGE_ONE_IN) {
        let (before, script) = (disk.kill(), &script.and_one_more());
        let again = live(disk, &world, script, &settings, None);
        again.end.stopped().map_err(|end| format!("started once more: {end}"))?;
        garbage(disk, &before)?;
        verdict(disk, &world.past(), script)?;
    }
    Ok(seen.rows)
}

/// Crashes the recovery itself, before and after each of its syncs; returns how many starts that were.
fn crash_recovery(
    disk: &SimulatedDisk,
    image: &Image,
    script: &Script,
    fault: &str,
    seed: u64,
    failures: &Failures,
) -> usize {
    // Nothing more arrives: what is there is recovered, and committed.
    let world = World::after(Past { next_act: script.acts.len(), ..image.past.clone() });
    let images = Arc::<Mutex<Vec<Image>>>::default();
    let album = Arc::clone(&images);
    let watch = camera(disk, &world, move |image| album.lock().expect("nobody panics with it").push(image));
    let life = live(disk, &world, script, &Settings::small(seed, 2), Some(watch));
    failures.check(seed, fault, &[], || life.end.stopped().map(|()| 0));
    let images = std::mem::take(&mut *images.lock().expect("nobody panics with it"));
    let count = images.len();
    for again in images {
        let (kind, disk) = match again.number % 2 {
            0 => ("killed", again.disk.kill()),
            _ => ("powered off", again.disk.crash(seed + again.number as u64)),
        };
        let fault = format!("{fault}, then {kind} {}", again.place);
        failures.check(seed, &fault, &[("TIDEMILL_IMAGE", image.number as u64)], || go_on(&disk, &again, script));
    }
    count
}
