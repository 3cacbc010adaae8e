//! Copies: each line of a file is read once, however often somebody copies it.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[test]
fn a_file_that_is_copied_and_cut_off_is_read_on_in_the_copy() {
    for path in ["app.ndjson", "app.ndjson*"] {
        for is_seen_before in [false, true] {
            let mut scene = Scene::new(path, &[("format", "json")]);
            scene.append("app.ndjson", lines(0..1000));
            scene.looks(1);
            scene.append("app.ndjson", lines(1000..1010));
            if is_seen_before {
                scene.looks(1);
            }
            std::fs::copy(scene.path("app.ndjson"), scene.path("app.ndjson.1")).unwrap();
            if is_seen_before {
                // The folder is looked at between the copy and the cut, and something is written meanwhile.
                scene.append("app.ndjson", lines(1010..1011));
                scene.looks(2);
            }
            scene.cut_off("app.ndjson");
            let next = 1010 + i64::from(is_seen_before);
            scene.append("app.ndjson", lines(next..1020));
            scene.looks(6);
            assert_eq!(scene.numbers(), all(0..1020), "{path}, {is_seen_before}");
        }
    }
}

#[test]
fn a_file_that_is_compressed_after_its_rotation_is_not_read_twice() {
    for is_down in [false, true] {
        let mut scene = Scene::new("app.ndjson*", &[("format", "json")]);
        scene.append("app.ndjson", lines(0..500));
        scene.looks(1);
        scene.rename("app.ndjson", "app.ndjson.1");
        scene.append("app.ndjson", lines(600..700));
        if is_down {
            // More was written, and nobody has looked before it was compressed.
            scene.append("app.ndjson.1", lines(500..600));
            scene.crash();
        } else {
            scene.append("app.ndjson.1", lines(500..600));
            scene.looks(1);
        }
        let packed = gzip(&std::fs::read(scene.path("app.ndjson.1")).unwrap());
        scene.append("app.ndjson.1.gz", &packed);
        std::fs::remove_file(scene.path("app.ndjson.1")).unwrap();
        scene.looks(8);
        scene.rename("app.ndjson.1.gz", "app.ndjson.2.gz");
        scene.looks(3);
        let mut numbers = scene.numbers();
        numbers.sort_unstable();
        assert_eq!(numbers, all(0..700), "down: {is_down}");
    }
}

/// Who compresses at once leaves no time for a look: the file is gone, and open, with lines that nobody has read.
#[test]
fn a_file_that_is_compressed_before_it_is_read_to_its_end_is_not_read_twice() {
    for (unread, is_down) in [("", false), ("half", false), ("", true), ("half", true)] {
        let mut scene = Scene::new("app.ndjson*", &[("format", "json")]);
        scene.append("app.ndjson", lines(0..500));
        scene.looks(1);
        let end = if unread.is_empty() { lines(500..600) } else { lines(500..600).trim_end().to_owned() };
        scene.append("app.ndjson", &end);
        scene.rename("app.ndjson", "app.ndjson.1");
        scene.append("app.ndjson", lines(600..700));
        if is_down {
            scene.crash();
        }
        let packed = gzip(&std::fs::read(scene.path("app.ndjson.1")).unwrap());
        scene.append("app.ndjson.1.gz", &packed);
        std::fs::remove_file(scene.path("app.ndjson.1")).unwrap();
        scene.looks(12);
        assert_eq!(scene.sorted(), all(0..700), "{unread}, down: {is_down}");
        if is_down {
            continue;
        }
        scene.crash();
        scene.looks(4);
        assert_eq!(scene.sorted(), all(0..700), "{unread}, and after a crash");
    }
}

/// Compressed files are often written while the next file is read already: so a copy that came later may be one of an earlier file.
#[test]
fn a_copy_of_an_earlier_file_is_not_taken_for_one_of_the_file_that_is_cut_off() {
    for is_down in [false, true] {
        let mut scene = Scene::new("app.ndjson*", &[("format", "json")]);
        let compress = |scene: &Scene, from: &str, to: &str| {
            scene.append(to, gzip(&std::fs::read(scene.path(from)).unwrap()));
            std::fs::remove_file(scene.path(from)).unwrap();
        };
        scene.append("app.ndjson", lines(0..500));
        scene.looks(1);
        scene.rename("app.ndjson", "app.ndjson.1");
        scene.append("app.ndjson", lines(500..600));
        scene.looks(1);
        compress(&scene, "app.ndjson.1", "app.ndjson.2.gz");
        scene.looks(6);
        assert_eq!(scene.numbers(), all(0..600), "down: {is_down}");
        if is_down {
            scene.crash();
        }
        // The file is compressed too, and the new one of its name gets its number, as may happen when nobody has it open.
        scene.append("app.ndjson", lines(600..800));
        scene.rename("app.ndjson.2.gz", "app.ndjson.3.gz");
        scene.append("app.ndjson.2.gz", gzip(&std::fs::read(scene.path("app.ndjson")).unwrap()));
        scene.cut_off("app.ndjson");
        scene.append("app.ndjson", lines(800..1200));
        scene.looks(8);
        let mut numbers = scene.numbers();
        numbers.sort_unstable();
        assert_eq!(numbers, all(0..1200), "down: {is_down}");
        assert!(scene.errors.is_empty(), "down: {is_down}: {:?}", scene.errors);
    }
}

#[test]
fn a_file_that_is_put_in_anothers_place_is_read_on_if_it_has_grown() {
    let mut scene = Scene::new("a.ndjson", &[]);
    scene.append("a.ndjson", lines(0..300));
    scene.looks(1);
    scene.append(".a.tmp", lines(0..320));
    scene.rename(".a.tmp", "a.ndjson");
    scene.looks(6);
    assert_eq!(scene.numbers(), all(0..320));
}

#[test]
fn a_copy_beside_a_file_that_goes_on_is_not_read_again() {
    let mut scene = Scene::new("app.ndjson*", &[("format", "json"), ("poll_interval", "500ms")]);
    scene.append("app.ndjson", lines(0..300));
    scene.looks(1);
    scene.append("app.ndjson", lines(300..310));
    // It is seen while it is being written, and the file grows meanwhile.
    let whole = std::fs::read(scene.path("app.ndjson")).unwrap();
    for (step, part) in whole.chunks(whole.len() / 3 + 1).enumerate() {
        scene.append("app.ndjson.bak", part);
        scene.looks(2);
        let next = 310 + step as i64 * 10;
        scene.append("app.ndjson", lines(next..next + 10));
    }
    scene.looks(6);
    assert_eq!(scene.numbers(), all(0..340));
    scene.append("app.ndjson.bak", lines(340..341));
    scene.looks(2);
    assert_eq!(scene.numbers(), all(0..341), "from here on it is a file of its own");
}

#[test]
fn a_number_that_was_given_to_another_file_loses_nothing() {
    let mut scene = Scene::new("app.ndjson*", &[("format", "json")]);
    scene.append("app.ndjson", lines(0..300));
    scene.looks(1);
    scene.crash();
    // While nobody looks: compressed and removed, and the new file has its number.
    scene.append("app.ndjson", lines(300..310));
    let whole = std::fs::read(scene.path("app.ndjson")).unwrap();
    scene.append("app.ndjson.1.gz", gzip(&whole));
    scene.cut_off("app.ndjson");
    scene.rename("app.ndjson", "app.ndjson-new");
    scene.append("app.ndjson-new", lines(310..400));
    scene.looks(8);
    let mut numbers = scene.numbers();
    numbers.sort_unstable();
    assert_eq!(numbers, all(0..400));
}

/// A backup that was made before is not what was made when the file was cut off.
#[test]
fn a_backup_is_not_taken_for_the_copy_of_a_rotation() {
    for is_down in [false, true] {
        let mut scene = Scene::new("app.ndjson*", &[("format", "json")]);
        scene.append("app.ndjson", lines(0..310));
        scene.looks(1);
        scene.copy("app.ndjson", "app.ndjson.bak");
        scene.looks(6);
        scene.append("app.ndjson", lines(310..315));
        scene.looks(1);
        scene.append("app.ndjson", lines(315..320));
        if is_down {
            scene.crash();
        }
        // The file is longer again than what was read of it before anybody looks.
        scene.copy("app.ndjson", "app.ndjson.1");
        scene.cut_off("app.ndjson");
        scene.append("app.ndjson", lines(320..800));
        scene.looks(8);
        assert_eq!(scene.sorted(), all(0..800), "down: {is_down}");
        assert!(scene.errors.is_empty(), "{:?}", scene.errors);
    }
}

#[test]
fn a_file_that_is_cut_off_and_has_a_backup_only_is_counted() {
    let mut scene = Scene::new("app.ndjson*", &[("format", "json")]);
    scene.append("app.ndjson", lines(0..310));
    scene.looks(1);
    scene.copy("app.ndjson", "app.ndjson.bak");
    scene.looks(6);
    scene.append("app.ndjson", lines(310..315));
    scene.looks(1);
    scene.cut_off("app.ndjson");
    scene.append("app.ndjson", lines(315..320));
    scene.looks(6);
    assert_eq!(scene.sorted(), all(0..320));
    assert_eq!(scene.errors, ["truncated"]);
}

#[test]
fn a_backup_that_was_there_before_anything_was_read_is_not_read_twice() {
    for more in [0, 20_000] {
        let mut scene = Scene::new("app.ndjson*", &[("format", "json")]);
        scene.append("app.ndjson", lines(0..300));
        scene.copy("app.ndjson", "app.ndjson.bak");
        scene.append("app.ndjson", lines(300..300 + more));
        scene.append("app.ndjson.1", lines(-100..0));
        scene.looks(6);
        assert_eq!(scene.sorted(), all(-100..300 + more));
    }
}

/// Backups and rotations, in any order, with looks and crashes between.
#[test]
fn each_line_is_read_once_whatever_is_copied_and_cut_off() {
    for seed in 0..400 {
        let mut scene = Scene::new("app.ndjson*", &[("format", "json"), ("poll_interval", "500ms")]);
        let mut dice = Dice(seed);
        let (mut next, mut backups, mut rotations, mut is_seen, mut story) = (0, 0, 0, false, Vec::new());
        for _ in 0..25 {
            let what = dice.below(10);
            story.push(what);
            match what {
                0..4 => {
                    // From here on what begins a file cannot be equal by chance.
                    let count = 10 + dice.below(300);
                    scene.append("app.ndjson", lines(next..next + count));
                    next += count;
                }
                4..7 => {
                    scene.looks(if what == 6 { 5 } else { 1 });
                    is_seen = std::fs::metadata(scene.path("app.ndjson")).is_ok_and(|file| file.len() > 0);
                }
                7 => {
                    backups += 1;
                    // Of a file that nobody has looked at, two copies and no original are two files.
                    if is_seen {
                        scene.copy("app.ndjson", &format!("app.ndjson.bak{backups}"));
                    }
                }
                8 if next > 0 => {
                    (rotations, is_seen) = (rotations + 1, false);
                    scene.copy("app.ndjson", &format!("app.ndjson.{rotations}"));
                    scene.cut_off("app.ndjson");
                    let count = dice.below(2) * dice.below(700);
                    scene.append("app.ndjson", lines(next..next + count));
                    next += count;
                }
                8 => {}
                _ => scene.crash(),
            }
        }
        scene.looks(20);
        let (found, expected) = (scene.sorted(), all(0..next));
        let odd = found.iter().zip(&expected).find(|(found, expected)| found != expected);
        assert!(found == expected, "seed {seed}: {} of {next}, first {odd:?}: {story:?}", found.len());
    }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, end: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % end as u64) as i64
    }
}

/// The next rotation gives every file another name, the copy of the one before too: a look at the folder may miss it.
#[test]
#[expect(clippy::disallowed_methods, reason = "a writer of logs, not the program")]
fn a_copy_whose_name_changes_while_it_is_looked_for_is_found() {
    for round in 0..150 {
        let mut scene = Scene::new("app.ndjson*", &[("format", "json")]);
        scene.append("app.ndjson", lines(0..200));
        scene.looks(1);
        std::fs::copy(scene.path("app.ndjson"), scene.path("app.ndjson.1")).unwrap();
        scene.cut_off("app.ndjson");
        scene.append("app.ndjson", lines(200..210));
        let (names, is_over) =
            ([scene.path("app.ndjson.1"), scene.path("app.ndjson.2")], Arc::new(AtomicBool::new(false)));
        let ends = Arc::clone(&is_over);
        let (moves, has_moved) = std::sync::mpsc::channel();
        let mover = std::thread::spawn(move || {
            while !ends.load(Ordering::SeqCst) {
                std::fs::rename(&names[0], &names[1]).unwrap();
                std::fs::rename(&names[1], &names[0]).unwrap();
                let _ = moves.send(());
                std::thread::sleep(std::time::Duration::from_micros(30));
            }
        });
        has_moved.recv().unwrap();
        // What a read does that finds the file cut off.
        let file = *scene.folder.files.keys().next().unwrap();
        let is_found = scene.folder.find_copy(file);
        is_over.store(true, Ordering::SeqCst);
        mover.join().unwrap();
        assert!(is_found, "round {round}");
    }
}

#[test]
#[cfg(unix)]
fn a_link_that_leads_nowhere_is_no_move_unless_it_has_led_somewhere() {
    let scene = Scene::new("app.ndjson*", &[("format", "json")]);
    scene.append("app.ndjson", lines(0..10));
    std::os::unix::fs::symlink("nowhere", scene.path("app.ndjson.old")).unwrap();
    let look = || listing::look(&scene.source.shared).unwrap();
    let first = look();
    assert!(look().is_quiet_since(&first), "it was there before");
    std::os::unix::fs::symlink("app.ndjson.1", scene.path("current")).unwrap();
    let dangling = look();
    assert!(!dangling.is_quiet_since(&first), "what it leads to may be on its way");
    scene.append("app.ndjson.1", lines(0..10));
    let whole = look();
    assert!(!whole.is_quiet_since(&dangling), "a file has come");
    assert!(look().is_quiet_since(&whole));
    scene.rename("app.ndjson.1", "app.ndjson.2");
    assert!(!look().is_quiet_since(&whole));
}
