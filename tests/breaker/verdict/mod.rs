//! The verdict: what is wrong with tables, told by ledgers, log and model.
//!
//! - [`readings`]: each reading is where it belongs, as often as it should
//! - [`windows`]: each window is what the model says, and what the rows say
//! - [`epochs`]: each version of each table holds whole epochs
//! - [`files`]: each file that a version names is there, whole

mod epochs;
mod files;
mod readings;
#[cfg(test)]
mod tests;
mod windows;

use std::path::Path;

use super::sources::{self, SOURCES, Source};
use crate::harness::tables::Judge;

/// Files that a killed program may leave in one table for nobody, for each of its starts.
const ORPHANS_OF_A_START_MAX: u64 = 8;

/// Offences against files that are told of one table; more of them say the same.
const OFFENCES_SHOWN_MAX: usize = 3;

/// Acknowledged readings of a source among which each kind must occur: the rarest is one of a thousand.
const ROWS_FOR_EACH_KIND: i64 = 20_000;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// A sentence for each kind of offence; empty, if all is right.
    pub(super) offences: Vec<String>,
    /// Rows of plain views, dead letters and quarantine.
    pub(super) rows: u64,
    /// Acknowledged readings that are nowhere.
    pub(super) lost: u64,
    /// Readings that are there too often.
    pub(super) duplicated: u64,
    /// Windows that are missing, wrong, or too many.
    pub(super) wrong_windows: u64,
    /// Versions of tables, each of which was looked at.
    pub(super) versions: u64,
    /// Files that no version names.
    pub(super) orphans: u64,
}

/// What kind of damage a check finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Lost,
    Duplicated,
    Window,
    Other,
}

/// A query that must find nothing.
struct Check {
    class: Class,
    claim: &'static str,
    sql: String,
}

fn check(class: Class, claim: &'static str, sql: impl Into<String>) -> Check {
    Check { class, claim, sql: sql.into() }
}

impl Verdict {
    /// Adds what was found in another round.
    pub(super) fn add(&mut self, other: Verdict) {
        self.offences.extend(other.offences);
        self.rows += other.rows;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.wrong_windows += other.wrong_windows;
        self.versions += other.versions;
        self.orphans += other.orphans;
    }

    fn run(&mut self, judge: &mut Judge, checks: &[Check], about: &str) {
        for Check { class, claim, sql } in checks {
            let Some((count, text)) = judge.offences(claim, sql) else { continue };
            match class {
                Class::Lost => self.lost += count,
                Class::Duplicated => self.duplicated += count,
                Class::Window => self.wrong_windows += count,
                Class::Other => {}
            }
            self.offences.push(format!("{about}: {text}"));
        }
    }

    /// A load that makes no dead letters, or nothing late where much is, proves less than it says.
    fn look_for_what_must_be_there(&mut self, judge: &mut Judge, source: &Source) {
        let acknowledged = judge.number("SELECT count(*) FROM ledger WHERE what = 'A'");
        if acknowledged < ROWS_FOR_EACH_KIND {
            return;
        }
        let kinds = [
            ("dead letter", "SELECT count(*) FROM seen WHERE home = 'dead'"),
            ("row from the future", "SELECT count(*) FROM seen WHERE home = 'future'"),
            ("window", "SELECT count(*) FROM w"),
        ];
        let late = (source.name == "hasty").then_some(("late row", "SELECT count(*) FROM late"));
        for (kind, sql) in kinds.into_iter().chain(late) {
            if judge.number(sql) == 0 {
                self.offences.push(format!("{}: {acknowledged} readings and not one {kind}", source.name));
            }
        }
    }

    fn look_at_files(&mut self, dir: &Path, table: &str, starts: u64) {
        if !dir.exists() {
            return;
        }
        let found = files::look(dir);
        self.versions += found.versions;
        self.orphans += found.orphans;
        let count = found.offences.len();
        let shown = found.offences.into_iter().take(OFFENCES_SHOWN_MAX);
        self.offences.extend(shown.map(|offence| format!("{table}: {offence} (one of {count})")));
        if found.orphans > starts * ORPHANS_OF_A_START_MAX {
            let text = format!("{table}: {} files that nobody names after {starts} starts", found.orphans);
            self.offences.push(text);
        }
    }
}

/// Returns what is wrong with the tables of all sources. The program has ended well.
pub(super) fn on(tables: &Path, ledgers: &Path, log: &Path, starts: u64) -> Verdict {
    let mut judge = Judge::new();
    let mut verdict = Verdict::default();
    judge.log(log, &sources::for_the_model());
    for source in &SOURCES {
        load(&mut judge, source, tables, ledgers);
        for checks in [readings::checks(source.way), windows::checks(source), epochs::checks()] {
            verdict.run(&mut judge, &checks, source.name);
        }
        verdict.rows += judge.number("SELECT count(*) FROM seen").unsigned_abs();

        verdict.look_for_what_must_be_there(&mut judge, source);
        for table in source.tables() {
            verdict.look_at_files(&tables.join(&table), &table, starts);
        }
    }
    verdict
}

/// Makes known what the checks ask: `ledger`, `logged`, `seen` (rows of plain view, dead letters and quarantine, with their
/// home and version), `late`, `w`, `expected_w`, `expected_late`, and the versions of the tables.
fn load(judge: &mut Judge, source: &Source, tables: &Path, ledgers: &Path) {
    let name = source.name;
    judge.ledger("ledger", &ledgers.join(format!("{name}-*.csv")));
    let [raw, dead, future, w, late] = source.tables();
    let none = "SELECT NULL::VARCHAR AS who, NULL::BIGINT AS seq, NULL::BIGINT AS v, NULL::BIGINT AS ts, \
                NULL::BIGINT AS version WHERE false";
    let plain = "SELECT who, seq, v, epoch_us(ts) AS ts, version FROM found";
    // What does not decode is told by its bytes.
    let letters = r#"SELECT regexp_extract(text, '"who":"([^"]+)"', 1) AS who,
        regexp_extract(text, '"seq":(\d+)', 1)::BIGINT AS seq, regexp_extract(text, '"v":"?(-?\d+)', 1)::BIGINT AS v,
        NULL::BIGINT AS ts, version FROM (SELECT decode(payload) AS text, version FROM found)"#;
    for (table, home, sql) in
        [(&raw, "plain", plain), (&dead, "dead", letters), (&future, "future", plain), (&late, "late", plain)]
    {
        let dir = tables.join(table);
        if dir.join("_delta_log").exists() {
            judge.history("found", &dir);
            judge.rows(&format!("CREATE OR REPLACE TABLE {home}_versions AS SELECT * FROM found_versions"));
            judge.rows(&format!("CREATE OR REPLACE TABLE {home}_rows AS {sql}"));
        } else {
            judge.rows(&format!("CREATE OR REPLACE TABLE {home}_versions(version BIGINT, epoch BIGINT)"));
            judge.rows(&format!("CREATE OR REPLACE TABLE {home}_rows AS {none}"));
        }
    }
    judge.history("found", &tables.join(w));
    for sql in [
        "CREATE OR REPLACE TABLE w AS SELECT who, epoch_us(window_start) AS ws, epoch_us(window_end) AS we, n, total, \
         least, greatest, mean FROM found",
        "CREATE OR REPLACE TABLE w_versions AS SELECT * FROM found_versions",
        "CREATE OR REPLACE TABLE seen AS SELECT *, 'plain' AS home FROM plain_rows UNION ALL \
         SELECT *, 'dead' FROM dead_rows UNION ALL SELECT *, 'future' FROM future_rows",
        "CREATE OR REPLACE TABLE late AS SELECT * FROM late_rows",
        &format!("CREATE OR REPLACE TABLE logged AS SELECT * FROM log WHERE source = '{name}'"),
        &format!("CREATE OR REPLACE TABLE expected_w AS SELECT * EXCLUDE source FROM model_w WHERE source = '{name}'"),
        &format!("CREATE OR REPLACE TABLE expected_late AS SELECT who, seq FROM model_late WHERE source = '{name}'"),
    ] {
        judge.rows(sql);
    }
}
