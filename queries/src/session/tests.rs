//! Questions: what they answer, what they refuse, and what they may use.

use arrow::datatypes::DataType;
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::{Volatility, create_udf};

use super::*;
use crate::answer::AnswerFormat;
use crate::problem::Span;

fn session(limits: Limits) -> Session {
    Session::new(Arc::new(History::default()), limits)
}

async fn text(session: &Session, sql: &str) -> Result<String, Problem> {
    let mut encoded = session.query(sql).await?.encode(AnswerFormat::Csv);
    let mut text = Vec::new();
    while let Some(bytes) = encoded.next().await {
        text.extend_from_slice(&bytes?);
    }
    Ok(String::from_utf8(text).expect("text"))
}

#[tokio::test]
async fn a_question_without_tables_is_answered() {
    let session = session(Limits::default());
    assert_eq!(text(&session, "SELECT 1 + 1 AS two, 'a' AS a;").await.expect("answer"), "two,a\n2,a\n");
    assert_eq!(
        text(&session, "SELECT TIMESTAMP '2026-11-20 09:00:00' AS t").await.expect("answer"),
        "t\n2026-11-20T09:00:00Z\n"
    );
    assert_eq!(text(&session, "\u{feff}SELECT 1 AS one\r\n").await.expect("a file with a mark"), "one\n1\n");
}

#[tokio::test]
async fn now_is_one_instant_and_compares_with_any_stored_time() {
    let session = session(Limits::default());
    let sql = "SELECT now() = current_timestamp AS one, now() > TIMESTAMP '2020-01-01' AS past,
        current_date >= DATE '2020-01-01' AS day, current_time IS NOT NULL AS clock, arrow_typeof(now()) AS type";
    let shown = "one,past,day,clock,type\ntrue,true,true,true,\"Timestamp(µs, \"\"UTC\"\")\"\n";
    assert_eq!(text(&session, sql).await.expect("answer"), shown);
    // The years 1 and 9999, as the microseconds of a table: neither fits in nanoseconds.
    let sql = "SELECT count(*) AS n FROM (VALUES (-62135596800000000), (0), (253402300799000000)) AS t(us)
        WHERE arrow_cast(us, 'Timestamp(Microsecond, Some(\"UTC\"))') < now() - INTERVAL '1 hour'";
    assert_eq!(text(&session, sql).await.expect("answer"), "n\n2\n");
}

#[tokio::test]
async fn values_are_taken_for_their_numbers() {
    let session = session(Limits::default());
    let parameters = vec![Parameter::Integer(2), Parameter::Text("b'; DROP".into()), Parameter::Null];
    let answer = session.query_with("SELECT $1 + 1 AS n, $2 AS t, $3 IS NULL AS x", parameters).await.expect("answer");
    let batches = answer.collect().await.expect("rows");
    let shown = arrow::util::pretty::pretty_format_batches(&batches).expect("table").to_string();
    assert!(shown.contains("| 3 | b'; DROP | true |"), "{shown}");
    let missing = session.query("SELECT $1 + 1 AS n").await.err().expect("no value");
    assert!(missing.to_string().contains("$1"), "{missing}");
}

#[tokio::test]
async fn mistakes_are_named_with_their_place_and_the_nearest_name() {
    let session = session(Limits::default());
    for (sql, kind, detail, hint, span) in [
        ("SELEC 1", ProblemKind::Syntax, "SELEC", None, Some((1, 1))),
        ("", ProblemKind::InvalidQuery, "No SQL statements", None, None),
        ("SELECT 1; SELECT 2", ProblemKind::NotSupported, "one statement at a time", None, None),
        (
            "SELECT\n  temprature FROM (VALUES (1)) AS t(temperature)",
            ProblemKind::UnknownColumn,
            "no column \"temprature\"",
            Some("did you mean \"temperature\"?"),
            Some((2, 3)),
        ),
        ("SELECT uper('a')", ProblemKind::UnknownFunction, "no function \"uper\"", Some("\"upper\"?"), Some((1, 8))),
        (
            "SELECT * FROM nowhere",
            ProblemKind::UnknownTable,
            "no table \"nowhere\"",
            Some("no tables yet"),
            Some((1, 15)),
        ),
        ("SELECT 1 / 0", ProblemKind::Failed, "ivide by zero", None, None),
        ("SELECT CAST('x' AS INT)", ProblemKind::Failed, "'x'", None, None),
        (
            "SELECT a FROM (VALUES (1)) t(a), (VALUES (2)) u(a)",
            ProblemKind::AmbiguousColumn,
            "\"a\"",
            Some("table.column"),
            None,
        ),
    ] {
        let problem = text(&session, sql).await.expect_err(sql);
        assert_eq!(problem.kind, kind, "{sql}: {problem}");
        assert!(problem.detail.contains(detail), "{sql}: {problem}");
        if let Some(hint) = hint {
            assert!(problem.hint.as_deref().unwrap_or_default().contains(hint), "{sql}: {problem}");
        }
        if let Some((line, column)) = span {
            let Span { line: found_line, column: found_column, .. } =
                problem.span.unwrap_or_else(|| panic!("no place in {problem}"));
            assert_eq!((found_line, found_column), (line, column), "{sql}: {problem}");
        }
    }
}

#[tokio::test]
async fn nothing_is_written_and_no_outer_file_is_read() {
    let folder = tempfile::tempdir().expect("folder");
    let session = session(Limits::default());
    let file = folder.path().join("out.csv");
    for sql in [
        format!("COPY (SELECT 1) TO '{}'", file.display()),
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'".to_owned(),
        "CREATE TABLE t AS SELECT 1".to_owned(),
        "CREATE VIEW v AS SELECT 1".to_owned(),
        "INSERT INTO t VALUES (1)".to_owned(),
        "SET datafusion.execution.target_partitions = 1000".to_owned(),
        "EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1".to_owned(),
    ] {
        let problem = text(&session, &sql).await.expect_err(&sql);
        assert_eq!(problem.kind, ProblemKind::ReadOnly, "{sql}: {problem}");
    }
    for sql in ["SELECT * FROM '/etc/passwd'", "SELECT * FROM \"/etc/hosts.csv\""] {
        assert_eq!(text(&session, sql).await.expect_err(sql).kind, ProblemKind::UnknownTable, "{sql}");
    }
    for sql in ["SELECT * FROM read_csv('/etc/passwd')", "SELECT * FROM read_parquet('/etc/passwd')"] {
        assert_eq!(text(&session, sql).await.expect_err(sql).kind, ProblemKind::UnknownFunction, "{sql}");
    }
    assert!(!file.exists());
}

#[tokio::test]
async fn a_panic_ends_one_question_and_no_other() {
    let limits = Limits::default();
    let session = session(limits);
    let mut shared = Shared::new(&limits).expect("threads");
    let explode = create_udf(
        "explode",
        vec![DataType::Int64],
        DataType::Int64,
        Volatility::Volatile,
        Arc::new(|_| panic!("boom")),
    );
    shared.base.register_udf(Arc::new(explode)).expect("register");
    assert!(session.shared.set(Arc::new(shared)).is_ok());
    let problem = text(&session, "SELECT explode(value) FROM generate_series(1, 100000)").await.expect_err("panics");
    assert_eq!(problem.kind, ProblemKind::Internal, "{problem}");
    assert!(problem.detail.contains("boom"), "{problem}");
    assert_eq!(text(&session, "SELECT 1 AS x").await.expect("the next one"), "x\n1\n");
}

#[tokio::test]
async fn statements_as_deep_as_the_guard_allows_do_not_overflow_the_stack() {
    let session = session(Limits::default());
    let deep = OPERATORS_MAX - 10;
    let sum = format!("SELECT x{} AS x FROM (VALUES (1)) AS t(x)", " + 1".repeat(deep));
    assert_eq!(text(&session, &sum).await.expect("a long sum"), format!("x\n{}\n", deep + 1));
    let any = format!("SELECT x FROM (VALUES (1)) AS t(x) WHERE x = 1{}", " OR x = 2".repeat(deep / 2));
    assert_eq!(text(&session, &any).await.expect("a long OR"), "x\n1\n");
    let brackets = format!("SELECT {}1{} AS x", "(".repeat(100_000), ")".repeat(100_000));
    assert_eq!(text(&session, &brackets).await.expect_err("too deep").kind, ProblemKind::Syntax);
    let union = format!("SELECT 1 AS x{}", " UNION ALL SELECT 1".repeat(100));
    assert_eq!(text(&session, &union).await.expect("a long union").lines().count(), 102);
}

#[tokio::test]
async fn a_question_over_its_memory_is_refused_and_the_next_one_runs() {
    // Alone, one thread would find them in order, and forget each at once.
    let session = session(Limits { memory_bytes: 2 << 20, spill_bytes: 1 << 20, threads: 2, ..Limits::default() });
    let hungry = "SELECT count(*) FROM (SELECT DISTINCT value, value || 'a long text to fill memory' FROM generate_series(1, 3000000))";
    let problem = text(&session, hungry).await.expect_err("too much");
    assert_eq!(problem.kind, ProblemKind::OutOfMemory, "{problem}");
    assert_eq!(text(&session, "SELECT 1 AS x").await.expect("the next one"), "x\n1\n");
}

#[tokio::test]
async fn functions_that_make_much_out_of_little_are_bounded() {
    let session = session(Limits::default());
    for sql in [
        "SELECT length(repeat('x', 2000000000))",
        "SELECT sum(length(repeat('x', value + 1000000))) FROM generate_series(1, 100000)",
        "SELECT lpad('x', 2000000000)",
        "SELECT rpad(a, 2000000000, 'y') FROM (VALUES ('x')) t(a)",
        "SELECT array_repeat(1, 2000000000)",
        "SELECT array_resize([1], 2000000000, 0)",
        "SELECT range(0, 100000000000)",
        "SELECT range(n) FROM (VALUES (100000000000)) t(n)",
        "SELECT generate_series(DATE '2000-01-01', DATE '2200-01-01', INTERVAL '1' MICROSECOND)",
        "SELECT generate_series(TIMESTAMP '2000-01-01', TIMESTAMP '2200-01-01', INTERVAL '1' MICROSECOND)",
    ] {
        let problem = text(&session, sql).await.expect_err(sql);
        assert_eq!(problem.kind, ProblemKind::OutOfMemory, "{sql}: {problem}");
    }
    for (sql, answer) in [
        ("SELECT repeat('ab', 3) AS x", "x\nababab\n"),
        ("SELECT lpad('a', 3) || rpad('b', 3, 'x') AS x", "x\n  abxx\n"),
        ("SELECT range(1, 6, 2) AS x", "x\n\"[1, 3, 5]\"\n"),
        ("SELECT array_repeat('a', 2) AS x", "x\n\"[a, a]\"\n"),
        ("SELECT count(*) AS x FROM generate_series(1, 1000000)", "x\n1000000\n"),
    ] {
        assert_eq!(text(&session, sql).await.expect(sql), answer, "{sql}");
    }
}

#[tokio::test]
async fn an_endless_question_ends_at_its_time() {
    let session = session(Limits { time: Duration::from_secs(2), ..Limits::default() });
    let endless = "SELECT count(*) FROM generate_series(1, 1000000000) a, generate_series(1, 1000000000) b";
    assert_eq!(text(&session, endless).await.expect_err("time").kind, ProblemKind::TimedOut);
    assert_eq!(text(&session, "SELECT 1 AS x").await.expect("the next one"), "x\n1\n");
}

/// A batch of one side meets hundreds of thousands of rows of the other: with one thread, who does not give way is alone.
#[tokio::test]
async fn a_join_that_makes_much_out_of_little_ends_at_its_time_and_others_are_answered() {
    let session = session(Limits { time: Duration::from_secs(5), threads: 1, ..Limits::default() });
    for endless in [
        "SELECT count(*) FROM generate_series(1, 300000) a, generate_series(1, 1000000000) b WHERE a.value % 7 = b.value % 5",
        "SELECT count(*) FROM generate_series(1, 300000) a, generate_series(1, 1000000000) b WHERE a.value % 7 < b.value % 5",
        "SELECT count(x) FROM (SELECT unnest(range(1, 200)) AS x FROM generate_series(1, 1000000000))",
    ] {
        let (first, second) = tokio::join!(text(&session, endless), text(&session, "SELECT 1 AS x"));
        assert_eq!(first.expect_err(endless).kind, ProblemKind::TimedOut, "{endless}");
        assert_eq!(second.expect(endless), "x\n1\n", "{endless}");
    }
}

#[tokio::test]
async fn a_question_that_nobody_reads_frees_its_turn() {
    let session = session(Limits { queries_max: 1, ..Limits::default() });
    let mut first = session.query("SELECT * FROM generate_series(1, 1000000000000)").await.expect("starts");
    assert!(first.next().await.expect("rows").is_ok());
    drop(first);
    assert_eq!(text(&session, "SELECT 1 AS x").await.expect("the next one"), "x\n1\n");
}
