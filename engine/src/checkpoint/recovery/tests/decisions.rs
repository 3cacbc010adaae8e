//! The table of decisions.

use super::super::*;
use super::checkpoint;
use crate::checkpoint::Holds;
use crate::sink::{Committable, Found};

/// A manifest in short: its number, the epoch of its checkpoint, and the windows in it. Tables are `t` (which needs
/// `w`) and `raw`, both from the beginning.
fn manifest(number: u64, epoch: u64, windows: &[&str]) -> (u64, FoundManifest) {
    let manifest = Manifest {
        version: 1,
        number,
        incarnation: 1,
        parent: None,
        log_id: "log".to_owned(),
        made_us: 0,
        epoch: Epoch(epoch),
        holds: Holds::Checkpoint(Box::new(checkpoint(epoch, windows.iter().copied()))),
        tables: ["t", "raw"].map(|name| (name.to_owned(), TableState::default())).into(),
        rewound_to: None,
    };
    (number, FoundManifest::Whole(Box::new(manifest)))
}

fn edit(found: (u64, FoundManifest), change: impl FnOnce(&mut Manifest)) -> (u64, FoundManifest) {
    let (number, FoundManifest::Whole(mut manifest)) = found else { panic!("whole") };
    change(&mut manifest);
    (number, FoundManifest::Whole(manifest))
}

fn same(name: &str, base: u64) -> FoundTable {
    let needs = if name == "raw" { BTreeSet::new() } else { BTreeSet::from(["w".to_owned()]) };
    FoundTable {
        name: name.to_owned(),
        found: Found::Same { base: Epoch(base), committed: Epoch(5) },
        generation: 0,
        needs,
    }
}

fn on(name: &str, found: Found) -> FoundTable {
    FoundTable { found, ..same(name, 0) }
}

/// The decision in one line.
fn decided(first: u64, manifests: Vec<(u64, FoundManifest)>, damaged: &[(u64, &str)], tables: &[FoundTable]) -> String {
    let log = FoundLog { id: "log".to_owned(), first: Epoch(first) };
    let damaged = damaged.iter().map(|(number, what)| (*number, (*what).to_owned())).collect();
    match decide(&log, &manifests.into_iter().collect(), &damaged, tables) {
        Decision::Refuse(why) => format!("refuse: {why}"),
        Decision::Start(start) => {
            let from = match start.from {
                From::Beginning => "beginning".to_owned(),
                From::Checkpoint { number, epoch } => format!("{number}@{epoch}"),
            };
            let rebuilt: Vec<&str> = start.rebuilt.keys().map(String::as_str).collect();
            let newest = start.newest.map_or("-".to_owned(), |newest| newest.to_string());
            format!("{from} newest {newest} next {} rebuild [{}]", start.next_number, rebuilt.join(" "))
        }
    }
}

#[test]
fn a_commit_is_rolled_forward_only_where_the_table_stands_just_before_it() {
    let (_, found) = edit(manifest(2, 20, &["w"]), |manifest| {
        let pending = vec![Committable { version: 1, body: String::new(), summary: String::new() }];
        let state = TableState { committed: Epoch(7), pending, ..TableState::default() };
        manifest.tables.insert("t".to_owned(), state);
    });
    let newest = found.whole().expect("whole");
    let cases = [(5, 0, false), (7, 0, true), (8, 0, false), (20, 0, false), (7, 1, false)];
    for (committed, generation, expected) in cases {
        assert_eq!(rolls_forward(newest, "t", Epoch(committed), generation), expected, "{committed} {generation}");
    }
}

#[test]
fn every_row_of_the_table_of_decisions() {
    let both = || [same("t", 0), same("raw", 0)];
    let damage = |number| (number, FoundManifest::Damaged(format!("manifest {number} is damaged")));
    let newer = (9, FoundManifest::Newer("a newer program wrote it".to_owned()));
    let three = || vec![manifest(1, 10, &["w"]), manifest(2, 20, &["w"]), manifest(3, 30, &["w"])];
    let counts_on = |number, epoch, committed| {
        edit(manifest(number, epoch, &["w"]), |manifest| {
            manifest.tables.get_mut("t").expect("known").committed = Epoch(committed);
        })
    };
    let decides = |number, epoch| {
        edit(manifest(number, epoch, &["w"]), |manifest| {
            let committable = Committable { version: 1, body: String::new(), summary: String::new() };
            let table = manifest.tables.get_mut("t").expect("known");
            table.committed = Epoch(5);
            table.pending.push(committable);
        })
    };
    let refers_to = |number, to| edit(manifest(number, 35, &[]), |manifest| manifest.holds = Holds::Refers(to));
    let refers = edit(manifest(4, 35, &[]), |manifest| manifest.holds = Holds::Refers(3));
    let changed = on("t", Found::Changed { what: "the view was changed".to_owned() });
    let back = edit(manifest(4, 31, &["w"]), |manifest| {
        manifest.holds = Holds::Refers(1);
        manifest.rewound_to = Some(Epoch(10));
    });
    let later = edit(manifest(5, 15, &["w"]), |_| {});
    let without_t = |number, epoch| edit(manifest(number, epoch, &[]), |manifest| drop(manifest.tables.remove("t")));
    let with_late_t = |number, epoch, base| {
        edit(manifest(number, epoch, &["w"]), |manifest| {
            manifest.tables.get_mut("t").expect("known").base = Epoch(base);
        })
    };
    // `t` has epoch 5; a manifest that counts on more, or is about to commit more.
    let counting = |number, epoch, committed, pending: bool| {
        edit(manifest(number, epoch, &["w"]), |manifest| {
            let committable = Committable { version: 1, body: String::new(), summary: String::new() };
            let pending = if pending { vec![committable] } else { Vec::new() };
            let state = TableState { committed: Epoch(committed), pending, ..TableState::default() };
            manifest.tables.insert("t".to_owned(), state);
        })
    };
    let commits_only = |number, base, epoch, committed| {
        edit(counting(number, epoch, committed, true), |manifest| manifest.holds = Holds::Refers(base))
    };
    let stepped_over = edit(manifest(3, 30, &["w"]), |manifest| manifest.parent = Some(1));
    let cases: Vec<(&str, String, &str)> = vec![
        (
            "the newest manifest is about to commit: rolled forward, and started from",
            decided(11, vec![manifest(1, 10, &["w"]), counting(2, 20, 5, true)], &[], &both()),
            "2@20 newest 2 next 3 rebuild []",
        ),
        (
            "the newest manifest is about to commit files of a content that was taken back: not rolled forward",
            decided(
                11,
                vec![manifest(1, 10, &["w"]), counting(2, 20, 5, true)],
                &[],
                &[FoundTable { generation: 1, ..same("t", 0) }, same("raw", 0)],
            ),
            "1@10 newest 2 next 3 rebuild []",
        ),
        (
            "a replaced process committed a part of it, late: what is left comes again from the log",
            decided(11, vec![manifest(1, 10, &["w"]), counting(2, 20, 4, true)], &[], &both()),
            "1@10 newest 2 next 3 rebuild []",
        ),
        (
            "an old copy of a table was put back: what was decided since would leave a hole, and is computed again",
            decided(11, vec![manifest(1, 10, &["w"]), counting(2, 20, 7, true)], &[], &both()),
            "1@10 newest 2 next 3 rebuild []",
        ),
        (
            "the same, and a manifest that only commits is the newest",
            decided(11, vec![manifest(1, 10, &["w"]), commits_only(2, 1, 20, 7)], &[], &both()),
            "1@10 newest 2 next 3 rebuild []",
        ),
        (
            "a manifest that only commits, behind what is there: rolled forward",
            decided(11, vec![manifest(1, 10, &["w"]), commits_only(2, 1, 20, 5)], &[], &both()),
            "1@10 newest 2 next 3 rebuild []",
        ),
        (
            "a table that lost a commit is filled from the checkpoint before",
            decided(11, vec![manifest(1, 10, &["w"]), counting(2, 20, 15, false)], &[], &both()),
            "1@10 newest 2 next 3 rebuild []",
        ),
        (
            "a manifest that was stepped over, and then the newest is damaged",
            decided(
                11,
                vec![manifest(1, 10, &["w"]), manifest(2, 20, &["w"]), stepped_over],
                &[(3, "damaged")],
                &both(),
            ),
            "1@10 newest 3 next 4 rebuild []",
        ),
        ("a fresh folder", decided(1, vec![], &[], &[on("t", Found::New)]), "beginning newest - next 1 rebuild [t]"),
        (
            "killed before the first checkpoint",
            decided(1, vec![], &[], &both()),
            "beginning newest - next 1 rebuild []",
        ),
        ("the newest checkpoint", decided(11, three(), &[], &both()), "3@30 newest 3 next 4 rebuild []"),
        (
            "a manifest that only commits builds on a checkpoint",
            decided(11, [three(), vec![refers]].concat(), &[], &both()),
            "3@30 newest 4 next 5 rebuild []",
        ),
        (
            "a damaged newest manifest: the one before",
            decided(11, vec![manifest(1, 10, &["w"]), manifest(2, 20, &["w"]), damage(3)], &[], &both()),
            "2@20 newest 2 next 4 rebuild []",
        ),
        (
            "damaged state of the newest: the one before",
            decided(11, three(), &[(3, "pack damaged")], &both()),
            "2@20 newest 3 next 4 rebuild []",
        ),
        (
            "all damaged, the log whole: all of it",
            decided(1, vec![damage(1), damage(2)], &[], &both()),
            "beginning newest - next 3 rebuild []",
        ),
        (
            "the log does not reach behind an older checkpoint",
            decided(21, three(), &[(3, "pack damaged")], &both()),
            "2@20 newest 3 next 4 rebuild []",
        ),
        (
            "a changed view is rebuilt from the oldest start, and the other goes on",
            decided(11, three(), &[], &[changed.clone(), same("raw", 0)]),
            "1@10 newest 3 next 4 rebuild [t]",
        ),
        (
            "a plain view that was away for a while goes on if the log reaches where it ended",
            decided(
                4,
                [manifest(1, 3, &["w"]), manifest(2, 20, &["w"])]
                    .map(|found| edit(found, |manifest| drop(manifest.tables.remove("raw"))))
                    .into(),
                &[],
                &both(),
            ),
            "1@3 newest 2 next 3 rebuild []",
        ),
        (
            "and is filled again if it does not",
            decided(
                11,
                three().into_iter().map(|found| edit(found, |manifest| drop(manifest.tables.remove("raw")))).collect(),
                &[],
                &both(),
            ),
            "1@10 newest 3 next 4 rebuild [raw]",
        ),
        (
            "a changed view, the log whole: from the beginning",
            decided(1, three(), &[], &[changed.clone(), same("raw", 0)]),
            "beginning newest 3 next 4 rebuild [t]",
        ),
        (
            "a new view, where the other began later: only as far back as the other can go on",
            decided(
                1,
                vec![without_t(1, 10), with_late_t(2, 20, 10), with_late_t(3, 30, 10)],
                &[],
                &[same("t", 10), on("raw", Found::New)],
            ),
            // At 10 it begins with nothing, as it did the first time.
            "1@10 newest 3 next 4 rebuild [raw]",
        ),
        (
            "killed while a view was rebuilt: the same rebuild goes on",
            decided(11, vec![without_t(1, 10)], &[], &[same("t", 10), same("raw", 0)]),
            "1@10 newest 1 next 2 rebuild []",
        ),
        (
            "a view that was away for a while goes on where it ended",
            decided(11, vec![manifest(1, 10, &["w"]), without_t(2, 20)], &[], &both()),
            "1@10 newest 2 next 3 rebuild []",
        ),
        (
            "but not if it still lacks what was decided for it there",
            decided(
                11,
                vec![
                    edit(manifest(1, 10, &["w"]), |manifest| {
                        let committable = Committable { version: 1, body: String::new(), summary: String::new() };
                        manifest.tables.get_mut("t").expect("known").pending.push(committable);
                    }),
                    without_t(2, 20),
                ],
                &[],
                &both(),
            ),
            "1@10 newest 2 next 3 rebuild [t]",
        ),
        (
            "state that a checkpoint does not have",
            decided(11, vec![manifest(1, 10, &["other"])], &[], &both()),
            "1@10 newest 1 next 2 rebuild [t]",
        ),
        (
            "a table that has lost what the newest checkpoints count on: the one before, if it does not",
            decided(11, vec![manifest(1, 10, &["w"]), counts_on(2, 20, 6), counts_on(3, 30, 19)], &[], &both()),
            "1@10 newest 3 next 4 rebuild []",
        ),
        (
            "a commit that is decided in the newest manifest counts once it is rolled forward",
            decided(11, vec![manifest(1, 10, &["w"]), decides(2, 20)], &[], &both()),
            "2@20 newest 2 next 3 rebuild []",
        ),
        (
            "and one that was decided earlier has been made since",
            decided(11, vec![manifest(1, 10, &["w"]), decides(2, 20), refers_to(3, 2)], &[], &both()),
            "1@10 newest 3 next 4 rebuild []",
        ),
        (
            "somebody went back to epoch 10",
            decided(11, [three(), vec![back.clone()]].concat(), &[], &both()),
            "1@10 newest 4 next 5 rebuild []",
        ),
        (
            "and went on from there",
            decided(11, [three(), vec![back, later]].concat(), &[(5, "pack damaged")], &both()),
            "1@10 newest 5 next 6 rebuild []",
        ),
    ];
    for (case, found, expected) in cases {
        assert_eq!(found, expected, "{case}");
    }
    let refusals: Vec<(&str, String, &[&str])> = vec![
        ("a newer version", decided(1, [three(), vec![newer]].concat(), &[], &both()), &["a newer program"]),
        (
            "all damaged, the log shrunk",
            decided(11, vec![damage(1), damage(2)], &[], &both()),
            &["manifest 1 is damaged; manifest 2 is damaged", "reaches back only to epoch 11", "Nothing was changed"],
        ),
        (
            "a table older than all checkpoints",
            decided(11, vec![counts_on(1, 10, 9), counts_on(2, 20, 19)], &[], &both()),
            &[
                "table t has rows up to epoch 5 only",
                "the checkpoint of epoch 10 counts on epoch 9",
                "Nothing was changed",
            ],
        ),
        (
            "an old copy of a table, and the log reaches back only to where more is counted on",
            decided(11, vec![counts_on(1, 10, 9), counting(2, 20, 9, true)], &[], &both()),
            &["table t has rows up to epoch 5 only", "Nothing was changed"],
        ),
        (
            "the log has lost its first segments",
            decided(33, three(), &[], &both()),
            &["the newest is of epoch 30, and the segments of the log behind it are missing", "Nothing was changed"],
        ),
        ("no checkpoints, the log shrunk", decided(11, vec![], &[], &both()), &["no checkpoint is there"]),
        (
            "another log",
            decided(1, vec![edit(manifest(1, 1, &[]), |m| m.log_id = "other".to_owned())], &[], &both()),
            &["belong to the log other"],
        ),
    ];
    for (case, found, expected) in refusals {
        for words in expected {
            assert!(found.starts_with("refuse: ") && found.contains(words), "{case}: {found}");
        }
    }
}
