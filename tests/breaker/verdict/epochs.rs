//! Epochs: what a version holds is what the log has up to the version's epoch, no row more and no row less.
//!
//! The log tells the epoch of each row; the table tells the version that brought it. A version of epoch `e` must have
//! brought the rows of the epochs behind the version before, up to `e`. If that is so for each row, then each version
//! held a prefix of the log, in whole epochs.

use super::{Check, Class, check};

/// Tables whose rows the log tells one by one, with their rows in the log.
const TOLD: [(&str, &str); 4] = [
    ("plain", "SELECT * FROM logged WHERE home = 'plain'"),
    ("dead", "SELECT * FROM logged WHERE home = 'dead'"),
    ("future", "SELECT * FROM logged WHERE home = 'future'"),
    // Delivered again, one may be late and the other not: then the log does not tell which is which.
    ("late", "SELECT * FROM logged SEMI JOIN late_rows USING (who, seq) WHERE home = 'plain'"),
];

/// Returns the checks of one source.
pub(super) fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    for (table, logged) in TOLD {
        let once = if table == "late" {
            "WHERE (who, seq) NOT IN (SELECT (who, seq) FROM logged GROUP BY who, seq HAVING count(*) > 1)"
        } else {
            ""
        };
        checks.push(check(
            Class::Other,
            "a version that does not hold whole epochs",
            // The n-th delivery in the log is the n-th row in the table.
            format!(
                "WITH found AS (SELECT who, seq, version, \
                         row_number() OVER (PARTITION BY who, seq ORDER BY version) AS nth FROM {table}_rows {once}), \
                     due AS (SELECT l.who, l.seq, l.epoch, v.version, \
                         row_number() OVER (PARTITION BY l.who, l.seq ORDER BY l.epoch) AS nth \
                         FROM (SELECT * FROM ({logged}) {once}) l ASOF LEFT JOIN {table}_versions v ON l.epoch <= v.epoch) \
                 SELECT '{table}' AS rows_of, who, seq, due.epoch, due.version AS due, found.version \
                 FROM found FULL JOIN due USING (who, seq, nth) WHERE found.version IS DISTINCT FROM due.version"
            ),
        ));
    }
    for table in ["plain", "dead", "future", "late", "w"] {
        checks.push(check(
            Class::Other,
            "a version whose epoch is not after the one before",
            format!(
                "SELECT '{table}' AS versions_of, * FROM \
                     (SELECT *, lag(epoch) OVER (ORDER BY version) AS before FROM {table}_versions) \
                 WHERE epoch <= before AND epoch >= 0"
            ),
        ));
    }
    checks
}
