//! What the simulated disk keeps, loses and refuses.

use std::collections::BTreeSet;

use super::*;

fn path(path: &str) -> &Path {
    Path::new(path)
}

/// A file `a` with 1,000 durable bytes of `1` and a durable name.
fn disk_with_a_file() -> (SimulatedDisk, Box<dyn DiskFile>) {
    let disk = SimulatedDisk::new(1);
    let mut file = disk.create_new(path("a")).unwrap();
    file.write(&[1; 1000]).unwrap();
    file.sync_all().unwrap();
    disk.sync_dir(path("")).unwrap();
    (disk, file)
}

/// Returns the names at the root after each of many power losses.
fn names_after_crashes(disk: &SimulatedDisk) -> BTreeSet<String> {
    let names = |disk: SimulatedDisk| -> Vec<String> {
        disk.files().into_iter().map(|(path, _)| path.to_string_lossy().into_owned()).collect()
    };
    (0..200).map(|seed| names(disk.crash(seed)).join(" ")).collect()
}

fn set(items: &[&str]) -> BTreeSet<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

#[test]
fn synced_bytes_survive_and_of_the_others_any_part_may() {
    let (disk, mut file) = disk_with_a_file();
    file.write(&[2; 3000]).unwrap();
    let (mut none, mut all, mut prefix, mut zeros, mut garbage, mut hole) = (0, 0, 0, 0, 0, 0);
    for seed in 0..300 {
        let left = disk.crash(seed).read(path("a")).unwrap();
        assert!(left.len() <= 4000 && left.starts_with(&[1; 1000]));
        let tail = &left[1000..];
        none += usize::from(tail.is_empty());
        all += usize::from(tail == [2; 3000]);
        prefix += usize::from(!tail.is_empty() && tail.len() < 3000 && tail.iter().all(|byte| *byte == 2));
        zeros += usize::from(tail.contains(&0));
        garbage += usize::from(tail.iter().any(|byte| *byte > 2));
        let lost = tail.iter().position(|byte| *byte != 2);
        hole += usize::from(lost.is_some_and(|lost| tail[lost..].contains(&2)));
    }
    for (what, count) in
        [("none", none), ("prefix", prefix), ("zeros", zeros), ("garbage", garbage), ("a hole", hole), ("all", all)]
    {
        assert!(count > 0 && count < 300, "{what}: {count} of 300");
    }
}

#[test]
fn a_truncation_that_was_not_synced_may_be_undone() {
    let (disk, mut file) = disk_with_a_file();
    file.set_len(100).unwrap();
    file.write(&[2; 50]).unwrap();
    let lengths: BTreeSet<usize> = (0..200).map(|seed| disk.crash(seed).read(path("a")).unwrap().len()).collect();
    assert!(lengths.contains(&1000) && lengths.contains(&100) && lengths.contains(&150), "{lengths:?}");
    file.sync_data().unwrap();
    assert!((0..50).all(|seed| disk.crash(seed).read(path("a")).unwrap().len() == 150));
}

#[test]
fn unsynced_names_are_there_or_not_in_any_combination() {
    let (disk, _file) = disk_with_a_file();
    disk.create_new(path("t")).unwrap();
    disk.hard_link(path("t"), path("new")).unwrap();
    disk.remove_file(path("t")).unwrap();
    assert_eq!(names_after_crashes(&disk), set(&["a", "a new", "a new t", "a t"]));
    disk.sync_dir(path("")).unwrap();
    assert_eq!(names_after_crashes(&disk), set(&["a new"]));
}

#[test]
fn an_unlink_may_be_undone_and_brings_the_content_back() {
    let (disk, file) = disk_with_a_file();
    disk.remove_file(path("a")).unwrap();
    drop(file);
    assert_eq!(disk.used_bytes(), 0);
    assert_eq!(names_after_crashes(&disk), set(&["", "a"]));
    let undone = (0..).map(|seed| disk.crash(seed)).find(|disk| !disk.files().is_empty()).unwrap();
    assert_eq!(undone.read(path("a")).unwrap(), [1; 1000]);
    assert_eq!(undone.used_bytes(), 1000);
}

#[test]
fn a_rename_never_loses_both_names() {
    let (disk, _file) = disk_with_a_file();
    disk.rename(path("a"), path("b")).unwrap();
    assert_eq!(names_after_crashes(&disk), set(&["a", "a b", "b"]));

    // One that replaces a durable file: the old or the new content is there, never none.
    let (disk, _file) = disk_with_a_file();
    let mut file = disk.create_new(path("t")).unwrap();
    file.write(b"new").unwrap();
    file.sync_all().unwrap();
    disk.rename(path("t"), path("a")).unwrap();
    let contents: BTreeSet<Vec<u8>> = (0..200).map(|seed| disk.crash(seed).read(path("a")).unwrap()).collect();
    assert_eq!(contents, BTreeSet::from([vec![1; 1000], b"new".to_vec()]));
    assert!(disk.rename(path("a"), path("nowhere/a")).is_err());
}

#[test]
fn a_folder_whose_name_was_not_synced_takes_its_files_with_it() {
    let disk = SimulatedDisk::new(1);
    disk.create_dir(path("d")).unwrap();
    disk.create_new(path("d/file")).unwrap().sync_all().unwrap();
    disk.sync_dir(path("d")).unwrap();
    assert_eq!(names_after_crashes(&disk), set(&["", "d/file"]));
    disk.sync_dir(path("")).unwrap();
    assert_eq!(names_after_crashes(&disk), set(&["d/file"]));
}

#[test]
fn a_kill_loses_nothing_and_what_was_not_synced_can_still_be_lost() {
    let (disk, mut file) = disk_with_a_file();
    file.write(&[2; 10]).unwrap();
    disk.create_new(path("new")).unwrap();
    let killed = disk.kill();
    assert_eq!(killed.files(), [("a".into(), 1010), ("new".into(), 0)]);
    assert_eq!(names_after_crashes(&killed), set(&["a", "a new"]));
    assert!((0..50).any(|seed| killed.crash(seed).read(path("a")).unwrap().len() == 1000));

    file.write(&[3; 10]).unwrap();
    assert_eq!(killed.read(path("a")).unwrap().len(), 1010, "the dead process reaches the old disk only");
}

#[test]
fn what_a_failed_sync_dropped_is_readable_until_the_power_is_lost() {
    let (disk, mut file) = disk_with_a_file();
    file.write(&[2; 600]).unwrap();
    disk.inject(Fault::at(Call::SyncFile, Failure::Io));
    file.sync_data().unwrap_err();
    file.write(&[3; 600]).unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.read(path("a")).unwrap().len(), 2200);
    for seed in 0..50 {
        let left = disk.crash(seed).read(path("a")).unwrap();
        assert_eq!(left.len(), 2200);
        assert!(left[..1000] == [1; 1000] && left[1600..] == [3; 600], "what was synced is there");
        assert_ne!(left[1000..1600], [2; 600], "what was dropped is not");
        assert_ne!(disk.kill().crash(seed).read(path("a")).unwrap()[1000..1600], [2; 600], "nor after a kill");
    }
}

#[test]
fn a_stopped_disk_changes_nothing_more() {
    for (when, len) in [(When::Before, 1000), (When::After, 1010)] {
        let (disk, mut file) = disk_with_a_file();
        assert_eq!((disk.calls(), disk.syncs()), (4, 2));
        disk.stop_at_call(6, when);
        file.write(&[]).unwrap();
        assert!(!disk.is_stopped());
        file.write(&[2; 10]).unwrap_err();
        assert!(disk.is_stopped());
        file.write(&[2; 10]).unwrap_err();
        disk.create_new(path("b")).unwrap_err();
        disk.read(path("a")).unwrap_err();
        assert_eq!(disk.calls(), 6);
        assert_eq!(disk.kill().files(), [("a".into(), len)]);
        assert!(disk.kill().read(path("a")).is_ok(), "the next process is alive");
    }
}

#[test]
fn a_disk_stops_at_the_nth_sync_before_or_after_it_took_effect() {
    for (when, lengths) in [(When::Before, 2..=3), (When::After, 1..=1)] {
        let (disk, mut file) = disk_with_a_file();
        disk.stop_at_sync(3, when);
        file.write(&[2; 1000]).unwrap();
        file.sync_all().unwrap_err();
        let left: BTreeSet<Vec<u8>> = (0..100).map(|seed| disk.crash(seed).read(path("a")).unwrap()).collect();
        assert!(left.contains(&[[1; 1000], [2; 1000]].concat()));
        assert!(left.len() >= *lengths.start() && (when == When::Before || left.len() == 1), "{}", left.len());
    }
}

#[test]
fn faults_strike_where_and_when_they_were_told() {
    let (disk, mut file) = disk_with_a_file();
    disk.create_dir(path("d")).unwrap();
    let mut inner = disk.create_new(path("d/b")).unwrap();
    disk.inject(Fault::at(Call::Write, Failure::NoSpace).below("/d").nth(2));
    inner.write(b"x").unwrap();
    file.write(b"x").unwrap();
    assert_eq!(inner.write(b"x").unwrap_err().kind(), ErrorKind::StorageFull);
    inner.write(b"x").unwrap();

    disk.inject(Fault::at(Call::Read, Failure::Io).nth(2).from_then_on());
    disk.read(path("a")).unwrap();
    for _ in 0..3 {
        assert_eq!(disk.read(path("a")).unwrap_err().raw_os_error(), Some(5));
    }
    disk.heal();
    disk.read(path("a")).unwrap();

    disk.inject(Fault::at(Call::Write, Failure::Short));
    assert_eq!(file.write(&[9; 7]).unwrap(), 4);
    assert_eq!(file.write(&[9; 7]).unwrap(), 7);
}

#[test]
fn a_full_disk_takes_what_fits_until_space_is_freed_or_added() {
    let (disk, mut file) = disk_with_a_file();
    disk.set_capacity(Some(1500));
    assert_eq!(file.write(&[2; 800]).unwrap(), 500);
    let full = |error: io::Error| error.kind() == ErrorKind::StorageFull;
    assert!(full(file.write(&[2; 800]).unwrap_err()));
    disk.set_capacity(Some(1600));
    assert_eq!(file.write(&[2; 800]).unwrap(), 100);
    disk.remove_file(path("a")).unwrap();
    let mut other = disk.create_new(path("b")).unwrap();
    assert!(full(other.write(b"x").unwrap_err()), "a file that is open keeps its space");
    drop(file);
    assert_eq!(other.write(&[3; 1600]).unwrap(), 1600);
    assert!(full(other.write(b"x").unwrap_err()));
    other.set_len(10).unwrap();
    assert_eq!((disk.used_bytes(), other.write(b"x").unwrap()), (10, 1));
    assert_eq!(disk.kill().used_bytes(), 11);
}

#[test]
fn a_flipped_bit_is_read_and_stays() {
    let (disk, _file) = disk_with_a_file();
    disk.flip("a", 8 * 999 + 7).unwrap();
    for disk in [disk.clone(), disk.kill(), disk.crash(1)] {
        assert_eq!(disk.read(path("a")).unwrap()[998..], [1, 129]);
    }
    assert!(disk.flip("a", 8000).is_err());
    assert_eq!(disk.flip("b", 0).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn the_lock_dies_with_its_holder() {
    let disk = SimulatedDisk::new(1);
    let mut holder = disk.open_or_create(path("lock")).unwrap();
    holder.try_lock().unwrap();
    let mut second = disk.open_or_create(path("lock")).unwrap();
    assert_eq!(second.try_lock().unwrap_err().kind(), ErrorKind::WouldBlock);
    disk.kill().open(path("lock")).unwrap().try_lock().unwrap();
    drop(holder);
    second.try_lock().unwrap();
}

#[test]
fn equal_runs_have_equal_traces_and_equal_remains() {
    let run = |seed: u64, byte: u8| {
        let disk = SimulatedDisk::new(seed);
        let storage = crate::storage::LocalStorage::on(Arc::new(disk.clone()), "data").unwrap();
        use crate::storage::Storage;
        storage.put("a/b", &[byte; 2000]).unwrap();
        let mut log = storage.create("log").unwrap();
        log.append(&[7; 5000]).unwrap();
        let traces = [disk.trace_hash(), disk.kill().trace_hash(), disk.crash(5).trace_hash()];
        (traces, disk.files(), disk.crash(5).read(path("data/log")).unwrap())
    };
    assert_eq!(run(1, 1), run(1, 1));
    for (seed, byte) in [(1, 2), (2, 1)] {
        let (traces, others) = (run(1, 1).0, run(seed, byte).0);
        assert!(traces.iter().zip(others).all(|(left, right)| *left != right), "seed {seed}, byte {byte}");
    }
}

/// Makes one call, chosen by the dice, and says in words what came of it.
fn any_call(disk: &dyn Disk, root: &Path, dice: &SeededDice) -> String {
    let pick = |of: &[&str]| root.join(of[dice.roll() as usize % of.len()]);
    let any = || pick(&["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "a/b", "no/a"]);
    let kind = |result: io::Result<String>| result.unwrap_or_else(|error| format!("{:?}", error.kind()));
    let done = |result: io::Result<()>| kind(result.map(|()| "done".to_owned()));
    match dice.roll() % 11 {
        0 => done(disk.create_new(&any()).map(drop)),
        1 => done(disk.open_or_create(&any()).map(drop)),
        2 => kind(disk.read(&any()).map(|bytes| format!("{bytes:?}"))),
        3 => done(disk.hard_link(&any(), &any())),
        4 => done(disk.rename(&pick(&["a", "b", "no"]), &pick(&["a", "b", "d"]))),
        5 => done(disk.rename(&pick(&["d/a", "d/b"]), &pick(&["d/a", "d/b", "d/e"]))),
        6 => done(disk.remove_file(&any())),
        7 => done(disk.create_dir(&pick(&["d", "d/e", "no/d", "a/d"]))),
        8 => kind(disk.list(&any()).map(|mut found| {
            found.sort_by(|left, right| left.name.cmp(&right.name));
            format!("{found:?}")
        })),
        9 => kind(disk.metadata(&any()).map(|found| match found.kind {
            FileKind::Folder => "a folder".to_owned(),
            _ => format!("{found:?}"),
        })),
        _ => kind(disk.open(&any()).and_then(|mut file| {
            let written = file.write(&[dice.roll() as u8; 9])?;
            if dice.roll().is_multiple_of(3) {
                file.set_len(dice.roll() % 30)?;
            }
            let mut buf = [0; 5];
            let read = file.read_at(dice.roll() % 20, &mut buf)?;
            file.sync_data()?;
            Ok(format!("{written} {read} {buf:?} {}", file.size()?))
        })),
    }
}

#[test]
fn the_simulated_disk_answers_as_the_machine_does() {
    for seed in 0..40 {
        let folder = tempfile::tempdir().unwrap();
        let disk = SimulatedDisk::new(seed);
        let (dice, same_dice) = (SeededDice::new(seed), SeededDice::new(seed));
        for step in 0..150 {
            let simulated = any_call(&disk, path(""), &dice);
            let real = any_call(&crate::storage::SystemDisk, folder.path(), &same_dice);
            assert_eq!(simulated, real, "seed {seed}, step {step}");
        }
    }
}
