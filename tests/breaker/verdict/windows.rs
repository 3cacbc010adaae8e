//! Windows: `w` and `late` against the model, which has read the log, and against the rows of the plain view.

use super::super::sources::{SENTINEL_US, Source};
use super::{Check, Class, check};

/// Returns the checks of one source.
pub(super) fn checks(source: &Source) -> Vec<Check> {
    let Source { size_us, slide_us, .. } = source;
    // Each reading once for each window that it falls in; the sentinel's own windows never closed.
    let in_windows = |table: &str| {
        format!(
            "SELECT who, v, ts // {slide_us} * {slide_us} - k * {slide_us} AS ws \
             FROM {table}, range({size_us} // {slide_us}) AS starts(k) WHERE ts < {SENTINEL_US}"
        )
    };
    let (raw, late) = (in_windows("plain_rows"), in_windows("late"));
    let mut checks = vec![
        check(
            Class::Window,
            "a window that the model does not have, or has otherwise",
            "SELECT who, ws, w.n, w.total, m.n AS model_n, m.total AS model_total \
             FROM w FULL JOIN expected_w m USING (who, ws) \
             WHERE (w.we, w.n, w.total, w.least, w.greatest) IS DISTINCT FROM (m.we, m.n, m.total, m.least, m.greatest)",
        ),
        check(
            Class::Other,
            "late here, or in the model, and not in the other",
            "(SELECT who, seq FROM late EXCEPT ALL SELECT who, seq FROM expected_late) UNION ALL \
             (SELECT who, seq FROM expected_late EXCEPT ALL SELECT who, seq FROM late)",
        ),
        check(
            Class::Window,
            "a window that stands there twice, or has another length",
            format!("SELECT who, ws FROM w GROUP BY who, ws HAVING count(*) > 1 OR max(we - ws) <> {size_us}"),
        ),
        check(
            Class::Window,
            "an average that is not the sum by the count",
            "SELECT * FROM w WHERE mean IS NULL OR abs(mean - total / n) > 1e-9",
        ),
    ];
    // In hopping windows a row can be late for one window and in time for the next: only the model can tell.
    if size_us == slide_us {
        checks.push(check(
            Class::Window,
            "windows and late rows are not the plain view",
            format!(
                "SELECT who, ws, sum(n) AS n, sum(total) AS total FROM ( \
                     SELECT who, ws, 1 AS n, v AS total FROM ({raw}) \
                     UNION ALL SELECT who, ws, -1, -v FROM ({late}) \
                     UNION ALL SELECT who, ws, -n, -total FROM w) \
                 GROUP BY who, ws HAVING sum(n) <> 0 OR sum(total) <> 0"
            ),
        ));
    }
    checks
}
