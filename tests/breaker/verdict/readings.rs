//! Readings: `seen` against `ledger` and `logged`.

use super::super::sources::Way;
use super::{Check, Class, check};

/// Returns the checks of one source.
pub(super) fn checks(way: Way) -> Vec<Check> {
    let mut checks = vec![
        check(
            Class::Lost,
            "acknowledged, but lost",
            "SELECT who, seq FROM ledger WHERE what = 'A' EXCEPT SELECT who, seq FROM seen",
        ),
        check(
            Class::Other,
            "invented or altered",
            "SELECT who, seq, v, ts FROM seen EXCEPT SELECT who, seq, v, CASE kind WHEN 'dead' THEN NULL ELSE ts END \
             FROM ledger WHERE what = 'S'",
        ),
        check(
            Class::Other,
            "refused, but there",
            "SELECT who, seq FROM ledger WHERE what = 'N' INTERSECT SELECT who, seq FROM seen",
        ),
        // A client that had to deliver again at QoS 1 gave the same message twice: the protocol leaves no way to tell.
        check(
            Class::Duplicated,
            "delivered once, but there more than once",
            "SELECT who, seq, count(*) AS times FROM seen \
             ANTI JOIN (SELECT who, seq FROM ledger WHERE again) USING (who, seq) \
             GROUP BY who, seq HAVING count(*) > 1",
        ),
        check(
            Class::Duplicated,
            "not as often in the tables as in the log",
            "SELECT who, seq, coalesce(l.times, 0) AS in_log, coalesce(s.times, 0) AS in_tables \
             FROM (SELECT who, seq, count(*) AS times FROM logged GROUP BY ALL) l \
             FULL JOIN (SELECT who, seq, count(*) AS times FROM seen GROUP BY ALL) s USING (who, seq) \
             WHERE l.times IS DISTINCT FROM s.times",
        ),
        check(
            Class::Other,
            "in a table where it does not belong",
            "SELECT s.who, s.seq, l.kind, s.home FROM seen s JOIN ledger l USING (who, seq) \
             WHERE l.what = 'S' AND l.kind <> s.home",
        ),
        check(
            Class::Other,
            "late, but not in the plain view",
            "SELECT who, seq, v, ts, count(*) AS times FROM late GROUP BY ALL \
             EXCEPT SELECT who, seq, v, ts, t FROM (SELECT who, seq, v, ts, count(*) AS n FROM plain_rows GROUP BY ALL), \
             range(1, n + 1) AS times(t)",
        ),
    ];
    if way == Way::Http {
        checks.push(check(
            Class::Other,
            "a request that is there in part",
            "SELECT s.who, s.batch, count(*) AS sent, count(r.seq) AS present \
             FROM ledger s LEFT JOIN seen r USING (who, seq) \
             WHERE s.what = 'S' GROUP BY s.who, s.batch HAVING count(r.seq) NOT IN (0, count(*))",
        ));
    }
    checks
}
