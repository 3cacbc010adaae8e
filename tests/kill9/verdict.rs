//! The verdict: what DuckDB finds when it compares tables with ledgers.

use std::path::Path;

use super::SENTINEL_US;
use crate::harness::ledger::COLUMNS;
use crate::harness::tables::Judge;

/// Returns what is wrong with the tables of all sources; nothing, if all is right.
pub(super) fn on(tables: &Path, ledgers: &Path) -> Vec<String> {
    let mut judge = Judge::new();
    let mut all = Vec::new();
    for name in ["mq", "web", "hasty"] {
        judge.lines("ledger", &ledgers.join(format!("{name}-*.jsonl")), COLUMNS);
        judge.table("raw_table", &tables.join(format!("raw_{name}")));
        judge.table("w_table", &tables.join(format!("w_{name}")));
        judge.rows("CREATE OR REPLACE TABLE raw AS SELECT who, seq, v, epoch_us(ts) AS ts FROM raw_table");
        judge.rows(
            "CREATE OR REPLACE TABLE w AS SELECT who, epoch_us(window_start) AS ws, epoch_us(window_end) AS we, \
             n, total, least, greatest, mean FROM w_table",
        );
        let late = tables.join(format!("w_{name}$late"));
        if late.join("_delta_log").exists() {
            judge.table("late_table", &late);
            judge.rows("CREATE OR REPLACE TABLE late AS SELECT who, seq, v, epoch_us(ts) AS ts FROM late_table");
        } else {
            judge.rows("CREATE OR REPLACE TABLE late AS SELECT * FROM raw WHERE false");
        }
        let redelivers = name == "mq";
        let (size_us, slide_us) = if name == "web" { (15_000_000, 5_000_000) } else { (10_000_000, 10_000_000) };
        let mut offences = offences_of_readings(&mut judge, redelivers);
        offences.extend(offences_of_windows(&mut judge, size_us, slide_us));

        let [acknowledged, present, windows, late_rows] = [
            "SELECT count(*) FROM ledger WHERE what = 'A'",
            "SELECT count(*) FROM raw",
            "SELECT count(*) FROM w",
            "SELECT count(*) FROM late",
        ]
        .map(|sql| judge.number(sql));
        eprintln!("kill9: {name}: {acknowledged} acknowledged, {present} rows, {windows} windows, {late_rows} late");
        if (late_rows > 0) != (name == "hasty") {
            offences.push(format!("{late_rows} late rows"));
        }
        all.extend(offences.into_iter().map(|offence| format!("{name}: {offence}")));
    }
    all
}

/// Compares the table `raw` with `ledger`.
fn offences_of_readings(judge: &mut Judge, redelivers: bool) -> Vec<String> {
    let mut offences = vec![
        judge.offences(
            "acknowledged, but lost",
            "SELECT who, seq FROM ledger WHERE what = 'A' EXCEPT SELECT who, seq FROM raw",
        ),
        judge.offences(
            "invented or altered",
            "SELECT who, seq, v, ts FROM raw EXCEPT SELECT who, seq, v, ts FROM ledger WHERE what = 'S'",
        ),
        judge.offences(
            "refused, but there",
            "SELECT who, seq FROM ledger WHERE what = 'N' INTERSECT SELECT who, seq FROM raw",
        ),
        // A client that had to deliver again at QoS 1 gave the same message twice: the protocol leaves no way to tell.
        judge.offences(
            "delivered once, but there more than once",
            "SELECT who, seq, count(*) AS times FROM raw \
             WHERE NOT EXISTS (SELECT 1 FROM ledger l WHERE l.who = raw.who AND l.seq = raw.seq AND l.again) \
             GROUP BY who, seq HAVING count(*) > 1",
        ),
    ];
    if !redelivers {
        offences.push(judge.offences(
            "a request that is there in part",
            "SELECT s.who, s.batch, count(*) AS sent, count(r.seq) AS present \
             FROM ledger s LEFT JOIN raw r ON r.who = s.who AND r.seq = s.seq \
             WHERE s.what = 'S' GROUP BY s.who, s.batch HAVING count(r.seq) NOT IN (0, count(*))",
        ));
    }
    offences.into_iter().flatten().collect()
}

/// Compares the tables `w` and `late` with `raw`.
fn offences_of_windows(judge: &mut Judge, size_us: i64, slide_us: i64) -> Vec<String> {
    // Each reading once for each window that it falls in; the sentinel's own window never closed.
    let in_windows = |table: &str| {
        format!(
            "SELECT who, v, ts // {slide_us} * {slide_us} - k * {slide_us} AS ws \
             FROM {table}, range({size_us} // {slide_us}) AS starts(k) WHERE ts < {SENTINEL_US}"
        )
    };
    let (raw, late) = (in_windows("raw"), in_windows("late"));
    let checks = [
        (
            "windows and late rows are not the raw table",
            format!(
                "SELECT who, ws, sum(n) AS n, sum(total) AS total FROM ( \
                     SELECT who, ws, 1 AS n, v AS total FROM ({raw}) \
                     UNION ALL SELECT who, ws, -1, -v FROM ({late}) \
                     UNION ALL SELECT who, ws, -n, -total FROM w) \
                 GROUP BY who, ws HAVING sum(n) <> 0 OR sum(total) <> 0"
            ),
        ),
        (
            "a window that stands there twice, or has another length",
            format!("SELECT who, ws FROM w GROUP BY who, ws HAVING count(*) > 1 OR max(we - ws) <> {size_us}"),
        ),
        (
            "an average that is not the sum by the count",
            "SELECT * FROM w WHERE mean IS NULL OR abs(mean - total / n) > 1e-9".to_owned(),
        ),
        (
            "least and greatest are not those of the rows in the window",
            format!(
                "WITH kept AS (SELECT * FROM ({raw}) EXCEPT ALL SELECT * FROM ({late})), \
                 expected AS (SELECT who, ws, min(v) AS least, max(v) AS greatest FROM kept GROUP BY who, ws) \
                 SELECT who, ws FROM expected FULL JOIN w USING (who, ws) \
                 WHERE expected.least IS DISTINCT FROM w.least OR expected.greatest IS DISTINCT FROM w.greatest"
            ),
        ),
    ];
    checks.iter().filter_map(|(claim, sql)| judge.offences(claim, sql)).collect()
}

#[test]
fn the_verdict_sees_every_kind_of_damage() {
    let mut judge = Judge::new();
    // Four readings of one sender in two requests; the third was late, the fourth request was refused.
    let whole = [
        "CREATE OR REPLACE TABLE ledger AS SELECT * FROM (VALUES \
         ('S', 'a', 0, 5, 1000000, 0, NULL), ('S', 'a', 1, -7, 2000000, 0, NULL), ('S', 'a', 2, 9, 500000, 2, NULL), \
         ('S', 'a', 3, 1, 12000000, 3, NULL), ('A', 'a', 0, NULL, NULL, NULL, false), ('A', 'a', 1, NULL, NULL, NULL, \
         false), ('A', 'a', 2, NULL, NULL, NULL, false), ('N', 'a', 3, NULL, NULL, NULL, NULL)) \
         AS l(what, who, seq, v, ts, batch, again)",
        "CREATE OR REPLACE TABLE raw AS SELECT * FROM (VALUES ('a', 0, 5, 1000000), ('a', 1, -7, 2000000), \
         ('a', 2, 9, 500000)) AS r(who, seq, v, ts)",
        "CREATE OR REPLACE TABLE late AS SELECT * FROM raw WHERE seq = 2",
        "CREATE OR REPLACE TABLE w AS SELECT 'a' AS who, 0 AS ws, 10000000 AS we, 2 AS n, -2 AS total, -7 AS least, \
         5 AS greatest, -1.0::DOUBLE AS mean",
    ];
    let mut verdict_after = |damage: &str| {
        for sql in whole.into_iter().chain((!damage.is_empty()).then_some(damage)) {
            judge.rows(sql);
        }
        let mut offences = offences_of_readings(&mut judge, false);
        offences.extend(offences_of_windows(&mut judge, 10_000_000, 10_000_000));
        offences.join("\n")
    };
    assert_eq!(verdict_after(""), "");
    for (damage, claim) in [
        ("DELETE FROM raw WHERE seq = 0", "acknowledged, but lost"),
        ("DELETE FROM raw WHERE seq = 0", "there in part"),
        ("INSERT INTO raw VALUES ('b', 0, 5, 1000000)", "invented or altered"),
        ("UPDATE raw SET v = 6 WHERE seq = 0", "invented or altered"),
        ("INSERT INTO raw VALUES ('a', 3, 1, 12000000)", "refused, but there"),
        ("INSERT INTO raw SELECT * FROM raw WHERE seq = 1", "more than once"),
        ("DELETE FROM late", "windows and late rows"),
        ("DELETE FROM w", "windows and late rows"),
        ("UPDATE w SET total = -1", "windows and late rows"),
        ("INSERT INTO w SELECT * FROM w", "stands there twice"),
        ("UPDATE w SET we = 20000000", "another length"),
        ("UPDATE w SET mean = -1.1", "not the sum by the count"),
        ("UPDATE w SET mean = NULL", "not the sum by the count"),
        ("UPDATE w SET least = -8", "least and greatest"),
        ("UPDATE w SET greatest = 9", "least and greatest"),
    ] {
        let verdict = verdict_after(damage);
        assert!(verdict.contains(claim), "{damage}: {claim:?} is not in {verdict:?}");
    }
}
