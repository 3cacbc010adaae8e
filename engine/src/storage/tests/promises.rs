//! The promises of storage, held against every call at which the process can die and every call that can fail.
//!
//! A model notes before each step what may become true and after it what is true. Whatever a kill, a power loss or a
//! fault left is then judged by it, also when the next process died in turn. That the judge sees is tested with disks
//! that swallow syncs: it must find what they lose.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::*;
use crate::storage::simulated::{Call, Failure, Fault, When};

/// Who reports some syncs as done and does not do them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Swallowed {
    Nothing,
    FileSyncs,
    FolderSyncs,
}

impl DiskInterposer for Swallowed {
    fn around<T>(&self, _: Call, _: &Path, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        run()
    }

    fn swallows(&self, sync: Call) -> bool {
        match self {
            Swallowed::Nothing => false,
            Swallowed::FileSyncs => sync == Call::SyncFile,
            Swallowed::FolderSyncs => sync == Call::SyncFolder,
        }
    }
}

/// An object's bytes, or that it is not there.
type Object = Option<Vec<u8>>;

/// What may be found after an accident at this moment.
#[derive(Debug, Default)]
struct Model {
    /// For each object everything that it may be; before the first put it is not there.
    objects: BTreeMap<&'static str, Vec<Object>>,
    logs: BTreeMap<String, LogModel>,
    violations: Vec<String>,
}

#[derive(Debug, Default)]
struct LogModel {
    is_made: bool,
    written: Vec<u8>,
    /// So many bytes of it are durable.
    synced_len: usize,
    len_max: usize,
}

impl Model {
    fn before(&mut self, path: &'static str, object: Object) -> Vec<Object> {
        let allowed = self.objects.entry(path).or_insert_with(|| vec![None]);
        let before = allowed.clone();
        allowed.push(object);
        before
    }

    fn put_new(&mut self, storage: &LocalStorage, path: &'static str, bytes: &[u8]) -> bool {
        let before = self.before(path, Some(bytes.to_vec()));
        match storage.put_new(path, bytes) {
            Ok(()) => {
                if !before.contains(&None) {
                    self.violations.push(format!("{path} was made twice"));
                }
                self.objects.insert(path, vec![Some(bytes.to_vec())]);
                true
            }
            Err(StorageError::Exists { .. }) => {
                if before == [None] {
                    self.violations.push(format!("{path} exists already, and nobody made it"));
                }
                self.objects.insert(path, before);
                true
            }
            Err(_) => false,
        }
    }

    fn put(&mut self, storage: &LocalStorage, path: &'static str, bytes: &[u8]) -> bool {
        self.before(path, Some(bytes.to_vec()));
        let is_done = storage.put(path, bytes).is_ok();
        if is_done {
            self.objects.insert(path, vec![Some(bytes.to_vec())]);
        }
        is_done
    }

    /// What was deleted may come back until its folder is synced.
    fn delete(&mut self, storage: &LocalStorage, path: &'static str) -> bool {
        self.before(path, None);
        storage.delete(path).is_ok()
    }

    /// What a process does that decides by what it sees: only after this is it sure.
    fn trust(&mut self, storage: &LocalStorage, path: &'static str) -> bool {
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        let Ok(seen) = seen(storage, path) else { return false };
        let is_done = storage.sync_dir(dir).is_ok();
        if is_done {
            self.objects.insert(path, vec![seen]);
        }
        is_done
    }

    fn write_log(&mut self, storage: &LocalStorage, path: String, life: u8) -> Result<(), StorageError> {
        let log = self.logs.entry(path.clone()).or_default();
        let mut file = storage.create(&path)?;
        log.is_made = true;
        for (step, len) in [300, 1500, 200, 900].into_iter().enumerate() {
            log.append(&mut *file, &pattern(life, 10 + step as u8, len))?;
            if step != 1 {
                file.sync()?;
                log.synced_len = log.written.len();
            }
        }
        log.append(&mut *file, &pattern(life, 20, 700))?;
        let cut = 1000;
        log.synced_len = cut;
        file.truncate(cut as u64)?;
        log.written.truncate(cut);
        log.len_max = cut;
        log.append(&mut *file, &pattern(life, 21, 1200))?;
        file.sync()?;
        log.synced_len = log.written.len();
        log.append(&mut *file, &pattern(life, 22, 3000))
    }

    /// Goes on with the log of a process that died: what is there counts once it was synced.
    fn continue_logs(&mut self, storage: &LocalStorage, life: u8) {
        for (path, log) in &mut self.logs {
            let (Ok(mut file), Ok(Some(found))) = (storage.open(path), seen(storage, path)) else { continue };
            log.synced_len = log.synced_len.min(found.len());
            log.written = found;
            let done = log.append(&mut *file, &pattern(life, 30, 600)).and_then(|()| file.sync());
            if done.is_ok() {
                log.is_made = true;
                log.synced_len = log.written.len();
            }
        }
    }

    fn judge(&mut self, storage: &LocalStorage) {
        for (path, allowed) in &self.objects {
            match seen(storage, path) {
                Ok(seen) if allowed.contains(&seen) => {}
                found => self.violations.push(format!("{path} holds {}", words(&found))),
            }
        }
        for (path, log) in &self.logs {
            match seen(storage, path) {
                Ok(None) if !log.is_made => {}
                Ok(Some(left)) if left.len() <= log.len_max && left.starts_with(&log.written[..log.synced_len]) => {}
                found => self.violations.push(format!("{path} holds {}, {} synced", words(&found), log.synced_len)),
            }
        }
    }
}

impl LogModel {
    fn append(&mut self, file: &mut dyn AppendFile, bytes: &[u8]) -> Result<(), StorageError> {
        self.written.extend_from_slice(bytes);
        self.len_max = self.len_max.max(self.written.len());
        file.append(bytes)
    }
}

fn seen(storage: &LocalStorage, path: &str) -> Result<Object, StorageError> {
    match storage.get(path) {
        Ok(bytes) => Ok(Some(bytes.to_vec())),
        Err(StorageError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn words(found: &Result<Object, StorageError>) -> String {
    match found {
        Ok(Some(bytes)) => format!("{} bytes that it should not", bytes.len()),
        Ok(None) => "nothing".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// Bytes that are never zero and differ from step to step, life to life and place to place.
fn pattern(life: u8, step: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| 1 + ((at / 7) as u8 ^ step.wrapping_mul(31) ^ life.wrapping_mul(101)) % 255).collect()
}

const OBJECTS: [&str; 3] = ["fence/1", "checkpoint/manifest/1.json", "checkpoint/state/1.pack"];

/// One process: looks at what is there, then changes everything. Goes on after a fault, with other files than that of
/// the log. Returns false if it could not even begin.
fn live(disk: Arc<dyn Disk>, model: &mut Model, life: u8) -> bool {
    let Ok(storage) = LocalStorage::on(disk, "data/folder") else { return false };
    let [fence, manifest, state] = OBJECTS;
    for path in OBJECTS {
        model.trust(&storage, path);
    }
    model.continue_logs(&storage, life);
    model.put_new(&storage, fence, &pattern(life, 1, 700));
    // A fault ends the log and nothing else.
    let _ = model.write_log(&storage, format!("log/{life}"), life);
    model.put(&storage, manifest, &pattern(life, 2, 2000));
    model.put(&storage, manifest, &pattern(life, 3, 100));
    model.put_new(&storage, fence, &pattern(life, 4, 10));
    model.delete(&storage, fence);
    model.trust(&storage, fence);
    model.put_new(&storage, fence, &pattern(life, 5, 513));
    model.put_new(&storage, state, &pattern(life, 6, 3000));
    model.delete(&storage, manifest);
    model.put(&storage, manifest, &pattern(life, 7, 900));
    model.delete(&storage, state);
    true
}

/// Judges what is on a disk, and that the next process can lock it and clean up.
fn judge(disk: &SimulatedDisk, model: &mut Model) {
    let storage = LocalStorage::on(Arc::new(disk.clone()), "data/folder").unwrap();
    model.judge(&storage);
    storage.lock().unwrap();
    let orphan = disk.files().into_iter().find(|(path, _)| path.to_string_lossy().contains(TEMPORARY_PREFIX));
    model.violations.extend(orphan.map(|(path, _)| format!("{} is still there", path.display())));
}

/// Two lives, each with an accident: the first dies at the given call, the second anywhere. Returns what was broken.
fn two_accidents(swallowed: Swallowed, call: u64, when: When, seed: u64) -> Vec<String> {
    let careless = |disk: &SimulatedDisk| Arc::new(InterposedDisk::new(Arc::new(disk.clone()), Arc::new(swallowed)));
    let mut model = Model::default();
    let disk = SimulatedDisk::new(seed);
    disk.stop_at_call(call, when);
    live(careless(&disk), &mut model, 1);

    // Judged on copies: what the judge does must not be part of the story.
    judge(&disk.kill(), &mut model);
    judge(&disk.crash(seed), &mut model);
    let disk = if seed.is_multiple_of(2) { disk.kill() } else { disk.crash(seed) };
    disk.stop_at_call(1 + seed.wrapping_mul(31) % 90, When::After);
    live(careless(&disk), &mut model, 2);
    judge(&disk.kill(), &mut model);
    judge(&disk.crash(seed + 1), &mut model);
    judge(&disk.crash(seed + 2), &mut model);
    model.violations
}

fn calls_of_a_life() -> u64 {
    let disk = SimulatedDisk::new(0);
    let mut model = Model::default();
    assert!(live(Arc::new(disk.clone()), &mut model, 1));
    judge(&disk, &mut model);
    assert_eq!(model.violations, [""; 0]);
    disk.calls()
}

/// Runs two accidents at every call and with several seeds; returns the broken promises, each with how to repeat it.
fn all_accidents(swallowed: Swallowed, seeds: std::ops::Range<u64>) -> Vec<String> {
    let mut broken = Vec::new();
    for call in 1..=calls_of_a_life() {
        for when in [When::Before, When::After] {
            for seed in seeds.clone() {
                let seed = call * 1000 + seed;
                let found = two_accidents(swallowed, call, when, seed);
                broken.extend(found.into_iter().map(|what| format!("call {call} {when:?}, seed {seed}: {what}")));
            }
        }
    }
    broken
}

#[test]
fn promises_hold_when_the_process_dies_at_any_call_and_the_next_one_dies_too() {
    let broken = all_accidents(Swallowed::Nothing, 0..12);
    assert!(broken.is_empty(), "{} broken promises:\n{}", broken.len(), broken[..broken.len().min(20)].join("\n"));
}

#[test]
fn a_file_sync_left_out_is_found() {
    let broken = all_accidents(Swallowed::FileSyncs, 0..1);
    assert!(broken.iter().any(|what| what.contains("log/1 holds")), "a log may end before what was synced");
    assert!(broken.iter().any(|what| what.contains("1.json holds")), "an object may be torn");
}

#[test]
fn a_folder_sync_left_out_is_found() {
    let broken = all_accidents(Swallowed::FolderSyncs, 0..1);
    assert!(broken.iter().any(|what| what.contains("log/1 holds nothing")), "a log may be nowhere");
    assert!(broken.iter().any(|what| what.contains("1.json holds")), "an object may be the one before");
}

#[test]
fn promises_hold_when_any_call_fails_once_or_from_then_on() {
    for call in 1..=calls_of_a_life() {
        for failure in [Failure::Io, Failure::NoSpace] {
            let fault = Fault::at_any(failure).nth(call);
            for (lasting, fault) in [(false, fault.clone()), (true, fault.from_then_on())] {
                let mut model = Model::default();
                let disk = SimulatedDisk::new(call);
                disk.inject(fault);
                live(Arc::new(disk.clone()), &mut model, 1);
                judge(&disk.kill(), &mut model);
                for seed in 0..4 {
                    judge(&disk.crash(seed), &mut model);
                }
                assert_eq!(model.violations, [""; 0], "{failure:?} at call {call}, lasting: {lasting}");
            }
        }
    }
}

#[test]
fn short_writes_and_a_full_disk_break_no_promise() {
    for seed in 0..40 {
        let mut model = Model::default();
        let disk = SimulatedDisk::new(seed);
        disk.inject(Fault::at(Call::Write, Failure::Short).nth(1 + seed % 5).from_then_on());
        if seed >= 5 {
            disk.set_capacity(Some(seed * 250));
        }
        assert!(live(Arc::new(disk.clone()), &mut model, 1));
        judge(&disk.crash(seed), &mut model);
        assert_eq!(model.violations, [""; 0], "seed {seed}");
    }
}

#[test]
fn of_two_racing_put_new_at_most_one_wins_wherever_the_power_is_lost() {
    for call in 1..40 {
        let disk = SimulatedDisk::new(call);
        let Ok(storage) = LocalStorage::on(Arc::new(disk.clone()), "data") else { unreachable!("nothing stops it") };
        disk.stop_at_call(disk.calls() + call, When::After);
        let outcomes = std::thread::scope(|scope| {
            let storage = &storage;
            let racers =
                [1u8, 2].map(|racer| scope.spawn(move || storage.put_new("deep/er/one", &pattern(racer, 0, 2000))));
            racers.map(|racer| racer.join().unwrap())
        });
        let winner = outcomes.iter().position(Result::is_ok);
        assert!(outcomes.iter().filter(|outcome| outcome.is_ok()).count() <= 1);
        for seed in 0..20 {
            let storage = LocalStorage::on(Arc::new(disk.crash(seed)), "data").unwrap();
            let left = seen(&storage, "deep/er/one").unwrap();
            let wrote = |racer: usize| left == Some(pattern(racer as u8 + 1, 0, 2000));
            match winner {
                Some(winner) => assert!(wrote(winner), "call {call}, seed {seed}"),
                None => assert!(left.is_none() || wrote(0) || wrote(1), "call {call}, seed {seed}"),
            }
        }
    }
}

#[test]
fn a_file_that_failed_once_is_never_trusted_again() {
    for call in [Call::Write, Call::SyncFile, Call::SetLen, Call::SyncFolder] {
        let disk = SimulatedDisk::new(1);
        let storage = LocalStorage::on(Arc::new(disk.clone()), "data").unwrap();
        storage.create("log/1").unwrap().append(b"before").unwrap();
        let mut file = storage.open("log/1").unwrap();
        disk.inject(Fault::at(call, Failure::Io));
        let failed = file.append(b"lost").and_then(|()| file.sync()).and_then(|()| file.truncate(2));
        assert!(failed.is_err(), "{call:?}");

        let calls = disk.calls();
        for again in [file.append(b"more"), file.sync(), file.truncate(0)] {
            let error = again.unwrap_err();
            let why = std::error::Error::source(&error).unwrap().to_string();
            assert!(why.contains("earlier write or sync of this file failed"), "{call:?}: {why}");
        }
        assert_eq!(disk.calls(), calls, "{call:?}: nothing is tried again");
    }
}

#[test]
fn a_full_disk_is_told_from_a_broken_one() {
    let disk = SimulatedDisk::new(1);
    let storage = LocalStorage::on(Arc::new(disk.clone()), "data").unwrap();
    for (failure, is_full) in [(Failure::NoSpace, true), (Failure::Io, false)] {
        for call in [Call::Create, Call::Write, Call::SyncFile, Call::Rename, Call::SyncFolder] {
            disk.inject(Fault::at(call, failure));
            let error = storage.put("tables/t/1", b"rows").unwrap_err();
            assert_eq!(error.is_disk_full(), is_full, "{call:?}: {error}");
            assert!(error.to_string().starts_with("cannot ") && error.to_string().contains("data/tables"), "{error}");
        }
    }
    let missing = storage.get("x").unwrap_err();
    assert!(!missing.is_disk_full());
    assert_eq!(missing.to_string(), "cannot open data/x: it does not exist");
}
