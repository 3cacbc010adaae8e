//! The verdict sees every kind of damage, and nothing where there is none.

use std::path::Path;

use super::super::sources::Way;
use super::*;

/// Six readings of one sender in three requests: two in time, one late, one dead, one from the future; the sixth was
/// refused. Three epochs, each in a version of its own.
const WHOLE: [&str; 13] = [
    "CREATE OR REPLACE TABLE ledger AS SELECT * FROM (VALUES \
     ('S', 'a', 0, 5, 1000000, 0, 'plain', NULL), ('S', 'a', 1, -7, 1500000, 0, 'plain', NULL), \
     ('S', 'a', 2, 9, 500000, 2, 'plain', NULL), ('S', 'a', 3, 1, 1200000, 2, 'dead', NULL), \
     ('S', 'a', 4, 2, 9000000000000000, 2, 'future', NULL), ('S', 'a', 5, 3, 1000000, 5, 'plain', NULL), \
     ('A', 'a', 0, NULL, NULL, NULL, NULL, false), ('A', 'a', 1, NULL, NULL, NULL, NULL, false), \
     ('A', 'a', 2, NULL, NULL, NULL, NULL, false), ('A', 'a', 3, NULL, NULL, NULL, NULL, false), \
     ('A', 'a', 4, NULL, NULL, NULL, NULL, false), ('N', 'a', 5, NULL, NULL, NULL, NULL, NULL)) \
     AS l(what, who, seq, v, ts, batch, kind, again)",
    "CREATE OR REPLACE TABLE logged AS SELECT * FROM (VALUES ('a', 0, 1, 'plain'), ('a', 1, 2, 'plain'), \
     ('a', 2, 3, 'plain'), ('a', 3, 3, 'dead'), ('a', 4, 3, 'future')) AS l(who, seq, epoch, home)",
    "CREATE OR REPLACE TABLE plain_rows AS SELECT * FROM (VALUES ('a', 0, 5, 1000000::BIGINT, 1), ('a', 1, -7, 1500000, 2), \
     ('a', 2, 9, 500000, 3)) AS r(who, seq, v, ts, version)",
    "CREATE OR REPLACE TABLE dead_rows AS SELECT 'a' AS who, 3 AS seq, 1 AS v, NULL::BIGINT AS ts, 1 AS version",
    "CREATE OR REPLACE TABLE future_rows AS SELECT 'a' AS who, 4 AS seq, 2 AS v, 9000000000000000 AS ts, 1 AS version",
    "CREATE OR REPLACE TABLE late_rows AS SELECT * REPLACE (1 AS version) FROM plain_rows WHERE seq = 2",
    "CREATE OR REPLACE TABLE plain_versions AS SELECT * FROM (VALUES (0, -1), (1, 1), (2, 2), (3, 3)) AS v(version, epoch)",
    "CREATE OR REPLACE TABLE dead_versions AS SELECT * FROM (VALUES (0, -1), (1, 3)) AS v(version, epoch)",
    "CREATE OR REPLACE TABLE future_versions AS SELECT * FROM dead_versions",
    "CREATE OR REPLACE TABLE late_versions AS SELECT * FROM dead_versions",
    "CREATE OR REPLACE TABLE w_versions AS SELECT * FROM dead_versions",
    "CREATE OR REPLACE TABLE w AS SELECT 'a' AS who, 0 AS ws, 2000000 AS we, 2 AS n, -2 AS total, -7 AS least, \
     5 AS greatest, -1.0::DOUBLE AS mean",
    "CREATE OR REPLACE TABLE expected_w AS SELECT * EXCLUDE mean FROM w",
];

/// What is made of the tables after they were damaged.
const DERIVED: [&str; 3] = [
    "CREATE OR REPLACE TABLE seen AS SELECT *, 'plain' AS home FROM plain_rows UNION ALL \
     SELECT *, 'dead' FROM dead_rows UNION ALL SELECT *, 'future' FROM future_rows",
    "CREATE OR REPLACE TABLE late AS SELECT * FROM late_rows",
    "CREATE OR REPLACE TABLE expected_late AS SELECT 'a' AS who, 2 AS seq",
];

#[test]
fn the_verdict_sees_every_kind_of_damage() {
    let mut judge = Judge::new();
    let source = SOURCES.iter().find(|source| source.size_us == 2_000_000 && source.way == Way::Http).expect("hasty");
    let mut verdict_after = |damage: &str| {
        for sql in WHOLE.into_iter().chain((!damage.is_empty()).then_some(damage)).chain(DERIVED) {
            judge.rows(sql);
        }
        let mut verdict = Verdict::default();
        for checks in [readings::checks(source.way), windows::checks(source), epochs::checks()] {
            verdict.run(&mut judge, &checks, "hasty");
        }
        verdict
    };
    assert_eq!(verdict_after("").offences, Vec::<String>::new());
    for (damage, claim) in [
        ("DELETE FROM plain_rows WHERE seq = 0", "acknowledged, but lost"),
        ("DELETE FROM plain_rows WHERE seq = 0", "there in part"),
        ("DELETE FROM plain_rows WHERE seq = 0", "not as often in the tables as in the log"),
        ("DELETE FROM dead_rows", "acknowledged, but lost"),
        ("DELETE FROM future_rows", "acknowledged, but lost"),
        ("INSERT INTO plain_rows VALUES ('b', 0, 5, 1000000, 1)", "invented or altered"),
        ("UPDATE plain_rows SET v = 6 WHERE seq = 0", "invented or altered"),
        ("UPDATE dead_rows SET v = 6", "invented or altered"),
        ("INSERT INTO plain_rows VALUES ('a', 5, 3, 1000000, 3)", "refused, but there"),
        ("INSERT INTO plain_rows SELECT * FROM plain_rows WHERE seq = 1", "more than once"),
        ("INSERT INTO plain_rows SELECT * FROM plain_rows WHERE seq = 1", "not as often in the tables as in the log"),
        ("INSERT INTO logged VALUES ('a', 1, 3, 'plain')", "not as often in the tables as in the log"),
        ("INSERT INTO plain_rows SELECT 'a', 4, 2, 9000000000000000, 3", "does not belong"),
        ("INSERT INTO late_rows VALUES ('a', 7, 9, 500000, 1)", "late, but not in the plain view"),
        ("DELETE FROM late_rows", "windows and late rows"),
        ("DELETE FROM late_rows", "late here, or in the model"),
        ("INSERT INTO late_rows VALUES ('a', 1, -7, 1500000, 1)", "late here, or in the model"),
        ("DELETE FROM w", "windows and late rows"),
        ("DELETE FROM w", "a window that the model does not have"),
        (
            "INSERT INTO w SELECT * REPLACE (2000000 AS ws, 4000000 AS we) FROM w",
            "a window that the model does not have",
        ),
        ("UPDATE w SET total = -1", "a window that the model does not have"),
        ("UPDATE w SET least = -8", "a window that the model does not have"),
        ("UPDATE w SET greatest = 9", "a window that the model does not have"),
        ("INSERT INTO w SELECT * FROM w", "stands there twice"),
        ("UPDATE w SET we = 3000000", "another length"),
        ("UPDATE w SET mean = -1.1", "not the sum by the count"),
        ("UPDATE w SET mean = NULL", "not the sum by the count"),
        ("UPDATE plain_rows SET version = 2 WHERE seq = 0", "does not hold whole epochs"),
        ("UPDATE plain_rows SET version = 1 WHERE seq = 1", "does not hold whole epochs"),
        ("UPDATE plain_rows SET version = NULL WHERE seq = 1", "does not hold whole epochs"),
        ("DELETE FROM plain_versions WHERE version = 3", "does not hold whole epochs"),
        ("UPDATE dead_versions SET epoch = 2 WHERE version = 1", "does not hold whole epochs"),
        ("UPDATE late_rows SET version = 0", "does not hold whole epochs"),
        ("UPDATE plain_versions SET epoch = 2 WHERE version = 3", "not after the one before"),
        ("INSERT INTO w_versions VALUES (2, 1)", "not after the one before"),
    ] {
        let verdict = verdict_after(damage);
        let text = verdict.offences.join("\n");
        assert!(text.contains(claim), "{damage}: {claim:?} is not in {text:?}");
    }
    let counted = verdict_after("DELETE FROM plain_rows WHERE seq < 2");
    assert_eq!((counted.lost, counted.wrong_windows > 0), (2, true), "{counted:?}");
}

#[test]
fn the_verdict_sees_every_kind_of_damage_to_files() {
    let folder = crate::harness::folder::Folder::new();
    let add = |lo: i64, hi: i64, path: &str, bytes: &str| {
        let (size, crc) = (bytes.len(), crc32c::crc32c(bytes.as_bytes()));
        format!(
            r#"{{"add":{{"path":"{path}","size":{size},"tags":{{"tidemill.lo":"{lo}","tidemill.hi":"{hi}","tidemill.crc32c":"{crc:08x}"}}}}}}"#
        )
    };
    let commit = |version: u64, epoch: i64, add: &str| {
        let path = format!("_delta_log/{version:020}.json");
        folder.write(&path, &format!("{{\"txn\":{{\"appId\":\"a\",\"version\":{epoch}}}}}\n{add}\n"));
    };
    let whole = || {
        commit(0, 2, &add(1, 2, "one.parquet", "abc"));
        commit(1, 4, &add(3, 4, "two.parquet", "abcdef"));
        folder.write("one.parquet", "abc");
        folder.write("two.parquet", "abcdef");
        folder.write("three.parquet", "nobody's");
    };
    whole();
    let found = look(folder.path());
    assert_eq!((found.offences, found.versions, found.orphans), (Vec::new(), 2, 1));
    let damages: [(&str, &dyn Fn()); 9] = [
        ("takes a file away", &|| commit(1, 4, r#"{"remove":{"path":"one.parquet"}}"#)),
        ("named, but", &|| std::fs::remove_file(folder.join("one.parquet")).unwrap()),
        ("2 bytes, not 3", &|| drop(folder.write("one.parquet", "ab"))),
        ("its checksum is", &|| drop(folder.write("one.parquet", "abd"))),
        ("Some(3) to Some(5)", &|| commit(1, 4, &add(3, 5, "two.parquet", "abcdef"))),
        ("Some(2) to Some(4)", &|| commit(1, 4, &add(2, 4, "two.parquet", "abcdef"))),
        ("None to None", &|| commit(1, 4, r#"{"add":{"path":"two.parquet","size":6}}"#)),
        ("there is no version before 3", &|| commit(3, 9, "")),
        ("EOF while parsing", &|| commit(1, 4, r#"{"add":{"#)),
    ];
    for (claim, damage) in damages {
        whole();
        damage();
        let text = look(folder.path()).offences.join("\n");
        assert!(text.contains(claim), "{claim:?} is not in {text:?}");
    }
}

fn look(dir: &Path) -> files::Found {
    files::look(dir)
}
