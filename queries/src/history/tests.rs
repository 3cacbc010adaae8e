//! Questions over real tables in a temporary folder, made by the sink that jobs write with.

use std::path::Path;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema};
use tidemill_connectors::table::{Partitioning, TableSink, TableSpec};
use tidemill_engine::clock::{ManualClock, SeededDice};
use tidemill_engine::epoch::Epoch;
use tidemill_engine::plan::{dead_letter_schema, timestamp_type};
use tidemill_engine::sink::{Committable, Sink, SinkWriter};

use super::*;
use crate::answer::AnswerFormat;
use crate::problem::{Problem, ProblemKind};
use crate::session::{Limits, Session};

const HOUR_US: i64 = 3_600_000_000;
/// 2026-11-20T00:00:00Z.
const DAY_US: i64 = 1_795_132_800_000_000;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("ts", timestamp_type(), false),
        Field::new("device", DataType::Utf8View, true),
        Field::new("temp", DataType::Float64, true),
        Field::new("n", DataType::Int64, false),
    ]))
}

/// Rows of one hour, one a minute: device `d<minute % 3>`, temp = minute / 2, n counts on from `hour * 60`.
fn hour(hour: i64) -> RecordBatch {
    let minutes = 0..60_i64;
    let devices: Vec<String> = minutes.clone().map(|minute| format!("d{}", minute % 3)).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(
            TimestampMicrosecondArray::from_iter_values(
                minutes.clone().map(|minute| DAY_US + hour * HOUR_US + minute * 60_000_000),
            )
            .with_timezone("UTC"),
        ),
        Arc::new(StringViewArray::from_iter_values(devices)),
        Arc::new(Float64Array::from_iter_values(minutes.clone().map(|minute| minute as f64 / 2.0))),
        Arc::new(Int64Array::from_iter_values(minutes.map(|minute| hour * 60 + minute))),
    ];
    RecordBatch::try_new(schema(), columns).expect("a batch")
}

struct Table {
    sink: TableSink,
    writer: Box<dyn SinkWriter>,
    location: TableLocation,
    epoch: u64,
}

impl Table {
    fn new(data: &Path, name: &str, partition_by: Partitioning, schema: SchemaRef) -> Table {
        let dir = data.join(TABLES_FOLDER);
        let storage: Arc<dyn Storage> = Arc::new(LocalStorage::open(&dir).expect("storage"));
        let spec = TableSpec {
            name: name.to_owned(),
            schema: Arc::clone(&schema),
            partition_by,
            sort: vec![],
            time_column: schema.index_of("ts").ok().map(|_| "ts".to_owned()),
            job: "test".to_owned(),
            fingerprint: "test".to_owned(),
        };
        let clock = Arc::new(ManualClock::at(DAY_US));
        let mut sink =
            TableSink::create_or_open(storage, name, spec, clock, Arc::new(SeededDice::new(7))).expect("a table");
        let writer = sink.writer(0);
        let location = TableLocation { name: name.to_owned(), schema: Some(schema), dir: dir.join(name) };
        Table { sink, writer, location, epoch: 0 }
    }

    fn readings(data: &Path) -> Table {
        Table::new(data, "readings", Partitioning::None, schema())
    }

    fn prepare(&mut self, rows: RecordBatch) -> Vec<Committable> {
        self.epoch += 1;
        self.writer.prepare(Epoch(self.epoch), &[(Epoch(self.epoch), rows)]).expect("prepare")
    }

    fn commit(&mut self, rows: RecordBatch) {
        let committables = self.prepare(rows);
        self.sink.commit(Epoch(self.epoch), &committables).expect("commit");
    }

    /// The Parquet files on disk, oldest epoch first.
    fn files(&self) -> Vec<PathBuf> {
        fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(dir).expect("folder").map(|entry| entry.expect("entry").path()) {
                if entry.is_dir() && !entry.ends_with("_delta_log") {
                    walk(&entry, found);
                } else if entry.extension().is_some_and(|extension| extension == "parquet") {
                    found.push(entry);
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.location.dir, &mut found);
        found.sort_by_key(|path| path.file_name().map(ToOwned::to_owned));
        found
    }

    fn session(&self) -> Session {
        Session::new(Arc::new(History::new([self.location.clone()])), Limits::default())
    }
}

async fn csv(session: &Session, sql: &str) -> Result<String, Problem> {
    let mut encoded = session.query(sql).await?.encode(AnswerFormat::Csv);
    let mut text = Vec::new();
    while let Some(bytes) = encoded.next().await {
        text.extend_from_slice(&bytes?);
    }
    Ok(String::from_utf8(text).expect("text"))
}

/// Counts the files that a question's plan opens.
async fn files_opened(session: &Session, sql: &str) -> usize {
    let plan = csv(session, &format!("EXPLAIN {sql}")).await.expect("a plan");
    let physical = &plan[plan.find("physical_plan").expect("a physical plan")..];
    assert!(!physical.contains("..."), "the list of files is cut: {physical}");
    physical.matches(".parquet").count()
}

#[tokio::test]
async fn rows_are_read_from_every_committed_file() {
    let data = tempfile::tempdir().expect("folder");
    let mut table = Table::readings(data.path());
    let session = table.session();
    assert_eq!(csv(&session, "SELECT count(*) AS n FROM readings").await.expect("empty"), "n\n0\n");
    table.commit(hour(0));
    table.commit(hour(1));
    assert_eq!(
        csv(&session, "SELECT count(*) AS n, sum(n) AS s FROM readings").await.expect("rows"),
        "n,s\n120,7140\n"
    );
    let groups =
        "SELECT device, count(*) AS n, max(temp) AS top FROM readings WHERE n >= 30 GROUP BY device ORDER BY device";
    assert_eq!(csv(&session, groups).await.expect("groups"), "device,n,top\nd0,30,28.5\nd1,30,29.0\nd2,30,29.5\n");
    assert_eq!(
        csv(&session, "SELECT n, ts FROM readings ORDER BY ts DESC LIMIT 2").await.expect("latest"),
        "n,ts\n119,2026-11-20T01:59:00Z\n118,2026-11-20T01:58:00Z\n"
    );
    assert_eq!(
        csv(&session, "SELECT temp, temp FROM readings r JOIN (SELECT 3 AS n) x ON r.n = x.n")
            .await
            .err()
            .map(|p| p.kind),
        Some(ProblemKind::InvalidQuery)
    );
    let answer = session.query("SELECT 1 FROM readings").await.expect("answer");
    assert_eq!(answer.versions()[0].table, "readings");
    assert_eq!(answer.versions()[0].version, table.sink.version());
}

#[tokio::test]
async fn a_folder_may_be_given_by_a_path_that_goes_up_again() {
    let data = tempfile::tempdir().expect("folder");
    let mut table = Table::readings(data.path());
    table.commit(hour(0));
    table.location.dir = table.location.dir.join("../readings");
    assert_eq!(
        csv(&table.session(), "SELECT max(n) AS n FROM readings WHERE temp >= 0").await.expect("rows"),
        "n\n59\n"
    );
}

#[tokio::test]
async fn prepared_rows_are_invisible_until_their_commit() {
    let data = tempfile::tempdir().expect("folder");
    let mut table = Table::readings(data.path());
    let session = table.session();
    table.commit(hour(0));
    let committables = table.prepare(hour(1));
    assert_eq!(table.files().len(), 2, "the file is there, and nobody lists the folder");
    assert_eq!(csv(&session, "SELECT max(n) AS n FROM readings WHERE temp >= 0").await.expect("rows"), "n\n59\n");
    table.sink.commit(Epoch(2), &committables).expect("commit");
    assert_eq!(csv(&session, "SELECT max(n) AS n FROM readings WHERE temp >= 0").await.expect("rows"), "n\n119\n");
}

#[tokio::test]
async fn files_whose_bounds_rule_them_out_are_never_opened() {
    let data = tempfile::tempdir().expect("folder");
    let mut table = Table::readings(data.path());
    for n in 0..4 {
        table.commit(hour(n));
    }
    let session = table.session();
    for (filter, files) in [
        ("ts >= '2026-11-20T02:59:00Z'", 2),
        ("ts > '2026-11-20T02:59:00Z'", 1),
        ("ts BETWEEN '2026-11-20T01:10:00Z' AND '2026-11-20T01:20:00Z'", 1),
        ("ts = '2026-11-20T00:00:30Z' OR n = 200", 2),
        ("n IN (5, 6, 70)", 2),
        ("device = 'd1'", 4),
        ("device > 'd2'", 0),
        ("temp > 1000", 0),
        ("n % 2 = 0", 4),
    ] {
        let sql = format!("SELECT n, temp FROM readings WHERE {filter}");
        assert_eq!(files_opened(&session, &sql).await, files, "{filter}");
    }
    // The proof: without the other files on disk the answer is the same.
    let sql = "SELECT count(*) AS n, min(temp) AS low FROM readings WHERE ts >= '2026-11-20T03:30:00Z'";
    let before = csv(&session, sql).await.expect("rows");
    for file in &table.files()[..3] {
        std::fs::remove_file(file).expect("removed");
    }
    assert_eq!((csv(&session, sql).await.expect("rows"), before.as_str()), (before.clone(), "n,low\n30,15.0\n"));
    let problem = csv(&session, "SELECT sum(n) FROM readings").await.expect_err("files are gone");
    assert_eq!(problem.kind, ProblemKind::Unreadable, "{problem}");
    assert!(problem.detail.contains(".parquet"), "{problem}");
}

#[tokio::test]
async fn counts_and_bounds_are_answered_without_opening_a_file() {
    let data = tempfile::tempdir().expect("folder");
    let mut table = Table::readings(data.path());
    table.commit(hour(0));
    table.commit(hour(1));
    for file in table.files() {
        std::fs::remove_file(file).expect("removed");
    }
    let sql = "SELECT count(*) AS c, count(device) AS d, min(ts) AS a, max(n) AS z FROM readings";
    assert_eq!(csv(&table.session(), sql).await.expect("statistics"), "c,d,a,z\n120,120,2026-11-20T00:00:00Z,119\n");
}

#[tokio::test]
async fn a_damaged_file_is_an_error_with_its_name() {
    let data = tempfile::tempdir().expect("folder");
    let mut table = Table::readings(data.path());
    table.commit(hour(0));
    let file = table.files().remove(0);
    let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
    let size = std::fs::metadata(&file).expect("metadata").len();
    LocalStorage::open(&table.location.dir).expect("storage").put(name, &vec![7; size as usize]).expect("damage");
    let problem = csv(&table.session(), "SELECT sum(n) FROM readings").await.expect_err("damaged");
    assert_eq!(problem.kind, ProblemKind::Unreadable, "{problem}");
    assert!(problem.to_string().contains(name), "{problem}");
}

#[tokio::test]
async fn a_flipped_bit_anywhere_in_a_file_is_found_before_it_changes_an_answer() {
    let data = tempfile::tempdir().expect("folder");
    let mut table = Table::readings(data.path());
    table.commit(hour(0));
    let file = table.files().remove(0);
    let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
    let storage = LocalStorage::open(&table.location.dir).expect("storage");
    let whole = storage.get(name).expect("the file");
    // Around every place of a page, and in the footer.
    for at in (0..whole.len()).step_by(whole.len() / 60) {
        let mut flipped = whole.to_vec();
        flipped[at] ^= 1 << (at % 8);
        storage.put(name, &flipped).expect("damage");
        let session = table.session();
        let problem = csv(&session, "SELECT sum(n) FROM readings").await.expect_err("damaged");
        assert_eq!(problem.kind, ProblemKind::Unreadable, "byte {at}: {problem}");
        let told = problem.to_string();
        assert!(told.contains(name) && told.contains("its checksum is"), "byte {at}: {told}");
        storage.put(name, &whole).expect("restored");
        let answer = csv(&session, "SELECT sum(n) AS s FROM readings").await.expect("whole again");
        assert_eq!(answer, "s\n1770\n", "byte {at}");
    }
}

#[tokio::test]
async fn questions_that_begin_at_once_and_split_a_file_all_get_whole_answers() {
    let data = tempfile::tempdir().expect("folder");
    let mut table = Table::readings(data.path());
    (0..4).for_each(|number| table.commit(hour(number)));
    let session = table.session();
    let questions = (0..8).map(|_| csv(&session, "SELECT sum(n) AS s FROM readings WHERE temp >= 0"));
    for answer in futures::future::join_all(questions).await {
        assert_eq!(answer.expect("rows"), "s\n28680\n");
    }
}

#[tokio::test]
async fn days_are_partitions_that_prune_and_can_be_selected() {
    let data = tempfile::tempdir().expect("folder");
    let mut table = Table::new(data.path(), "readings", Partitioning::Day("ts".into()), schema());
    table.commit(hour(0));
    table.commit(hour(24));
    table.commit(hour(48));
    let session = table.session();
    assert_eq!(
        csv(&session, "SELECT date, count(*) AS n, min(n) AS low FROM readings GROUP BY date ORDER BY date")
            .await
            .expect("days"),
        "date,n,low\n2026-11-20,60,0\n2026-11-21,60,1440\n2026-11-22,60,2880\n"
    );
    assert_eq!(
        csv(&session, "SELECT * FROM readings WHERE date = '2026-11-21' ORDER BY n LIMIT 1").await.expect("a row"),
        "ts,device,temp,n,date\n2026-11-21T00:00:00Z,d0,0.0,1440,2026-11-21\n"
    );
    assert_eq!(files_opened(&session, "SELECT n FROM readings WHERE date > '2026-11-20'").await, 2);
    assert_eq!(files_opened(&session, "SELECT n FROM readings WHERE date = '2026-11-21' AND n > 1450").await, 1);
    assert_eq!(
        csv(&session, "SELECT max(n) AS n FROM readings WHERE date < '2026-11-22' AND n % 7 = 3").await.expect("max"),
        "n\n1494\n"
    );
}

#[tokio::test]
async fn partition_values_may_be_any_text_and_null() {
    let data = tempfile::tempdir().expect("folder");
    let schema = Arc::new(Schema::new(vec![
        Field::new("n", DataType::Int64, false),
        Field::new("site", DataType::Utf8View, true),
        Field::new("x", DataType::Int64, true),
    ]));
    let mut table = Table::new(data.path(), "t", Partitioning::Column("site".into()), Arc::clone(&schema) as SchemaRef);
    let sites = [Some("a/b"), Some("100% ü"), None, Some("a b=c"), Some("../..")];
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(0..5)),
        Arc::new(StringViewArray::from_iter(sites)),
        Arc::new(Int64Array::from_iter_values(10..15)),
    ];
    table.commit(RecordBatch::try_new(schema, columns).expect("a batch"));
    let session = table.session();
    // The partition's column stands in the middle of the table and in none of its files.
    assert_eq!(
        csv(&session, "SELECT * FROM t ORDER BY n").await.expect("rows"),
        "n,site,x\n0,a/b,10\n1,100% ü,11\n2,,12\n3,a b=c,13\n4,../..,14\n"
    );
    assert_eq!(csv(&session, "SELECT x FROM t WHERE site IS NULL").await.expect("null"), "x\n12\n");
    assert_eq!(files_opened(&session, "SELECT x FROM t WHERE site IS NULL").await, 1);
    assert_eq!(csv(&session, "SELECT count(site) AS s, count(*) AS c FROM t").await.expect("counts"), "s,c\n4,5\n");
    assert_eq!(csv(&session, "SELECT x FROM t WHERE site = 'a/b'").await.expect("text"), "x\n10\n");
    assert_eq!(files_opened(&session, "SELECT x FROM t WHERE site = 'a/b'").await, 1);
}

#[tokio::test]
async fn nan_and_null_are_found_whatever_the_bounds_say() {
    let data = tempfile::tempdir().expect("folder");
    let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Float64, true)]));
    let mut table = Table::new(data.path(), "t", Partitioning::None, Arc::clone(&schema) as SchemaRef);
    for values in [
        vec![Some(1.0), Some(f64::NAN)],
        vec![Some(2.0), None],
        vec![None, None],
        vec![Some(-0.0), Some(f64::INFINITY)],
    ] {
        let column: ArrayRef = Arc::new(Float64Array::from(values));
        table.commit(RecordBatch::try_new(Arc::clone(&schema) as SchemaRef, vec![column]).expect("a batch"));
    }
    let session = table.session();
    // Two files have bounds; those with NaN, or without any value, stay where they may matter.
    assert_eq!(files_opened(&session, "SELECT x FROM t WHERE x > 1000").await, 2);
    for (filter, rows) in [("isnan(x)", 1), ("x IS NULL", 3), ("x = 0", 1), ("x <= 0", 1), ("x = 2", 1), ("x < 0", 0)] {
        let sql = format!("SELECT count(*) AS n FROM t WHERE {filter}");
        assert_eq!(csv(&session, &sql).await.expect("count"), format!("n\n{rows}\n"), "{filter}");
    }
}

#[tokio::test]
async fn tables_with_a_dollar_need_no_quotes_and_tables_without_a_commit_are_empty() {
    let data = tempfile::tempdir().expect("folder");
    let dead = TableLocation {
        name: "readings$dead".into(),
        schema: Some(dead_letter_schema()),
        dir: data.path().join(TABLES_FOLDER).join("readings$dead"),
    };
    let session = Session::new(Arc::new(History::new([dead])), Limits::default());
    assert_eq!(csv(&session, "SELECT count(*) AS n FROM readings$dead").await.expect("empty"), "n\n0\n");
    let columns = csv(&session, "SELECT * FROM readings$dead").await.expect("columns");
    let names: Vec<String> = dead_letter_schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(columns.trim_end(), names.join(","));
    assert_eq!(
        csv(&session, "SELECT d.reason FROM readings$dead AS d WHERE d.reason LIKE 'x%'").await.expect("no rows"),
        "reason\n"
    );
    assert!(csv(&session, "SHOW TABLES").await.expect("tables").contains("readings$dead"));
    assert!(csv(&session, "DESCRIBE readings$dead").await.expect("columns").contains("reason"));
    // Its first commit appears to a session that was there before.
    let mut table = Table::new(data.path(), "readings$dead", Partitioning::None, schema());
    table.commit(hour(0));
    assert_eq!(csv(&session, "SELECT count(*) AS n FROM readings$dead").await.expect("rows"), "n\n60\n");
}

#[tokio::test]
async fn mistakes_name_the_nearest_table_and_column() {
    let data = tempfile::tempdir().expect("folder");
    let table = Table::readings(data.path());
    let session = table.session();
    let problem = csv(&session, "SELECT * FROM reedings").await.expect_err("no table");
    assert_eq!(problem.to_string(), "there is no table \"reedings\" (line 1, column 15); did you mean \"readings\"?");
    let problem = csv(&session, "SELECT devise FROM readings").await.expect_err("no column");
    assert_eq!(problem.to_string(), "there is no column \"devise\" (line 1, column 8); did you mean \"device\"?");
    assert_eq!(
        csv(&session, "SELECT device + 1 FROM readings WHERE ts = 5").await.expect_err("types").kind.status(),
        422
    );
    for sql in
        ["INSERT INTO readings VALUES (1)", "DROP TABLE readings", "TRUNCATE TABLE readings", "DELETE FROM readings"]
    {
        assert_eq!(csv(&session, sql).await.expect_err(sql).kind, ProblemKind::ReadOnly, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_sees_one_version_while_commits_go_on() {
    const COMMITS: i64 = 30;
    let data = tempfile::tempdir().expect("folder");
    let mut table = Table::readings(data.path());
    table.commit(hour(0));
    let session = table.session();
    let writer = tokio::task::spawn_blocking(move || {
        for n in 1..COMMITS {
            table.commit(hour(n));
        }
    });
    let (mut last, mut looked) = (0, 0);
    loop {
        let done = writer.is_finished();
        // The filters differ, so that the counts come from the files and not from statistics.
        let sql = "SELECT (SELECT count(*) FROM readings WHERE temp >= 0) AS a, (SELECT sum(1) FROM readings WHERE temp > -1) AS b";
        let text = csv(&session, sql).await.expect("counts");
        let counts: Vec<i64> =
            text.lines().nth(1).expect("a row").split(',').map(|count| count.parse().expect("a count")).collect();
        assert_eq!(counts[0], counts[1], "one question, two versions");
        assert_eq!(counts[0] % 60, 0, "part of an epoch");
        assert!(counts[0] >= last, "a version went back");
        last = counts[0];
        looked += 1;
        if done {
            break;
        }
    }
    writer.await.expect("writer");
    assert_eq!(last, 60 * COMMITS, "after {looked} questions");
}

#[tokio::test]
async fn tables_are_found_without_a_server() {
    let data = tempfile::tempdir().expect("folder");
    let mut table = Table::readings(data.path());
    table.commit(hour(0));
    let mut outside = Table::new(&data.path().join("elsewhere"), "outside", Partitioning::None, schema());
    outside.commit(hour(1));
    let ask = |history: History| {
        let session = Session::new(Arc::new(history), Limits::default());
        async move { csv(&session, "SELECT count(*) AS n FROM readings").await.expect("rows") }
    };
    // By looking into tables/.
    let found = History::discover(data.path()).expect("history");
    assert_eq!(found.names(), ["readings"]);
    assert_eq!(ask(found).await, "n\n60\n");
    // By the catalog, which also knows tables elsewhere and tables without a commit.
    let empty = TableLocation {
        name: "readings$late".into(),
        schema: Some(schema()),
        dir: data.path().join(TABLES_FOLDER).join("readings$late"),
    };
    let known = History::new([table.location.clone(), outside.location.clone(), empty]);
    let storage = LocalStorage::open(data.path()).expect("storage");
    known.catalog(data.path()).write(&storage).expect("catalog");
    let found = History::discover(data.path()).expect("history");
    assert_eq!(found.names(), ["outside", "readings", "readings$late"]);
    let session = Session::new(Arc::new(found), Limits::default());
    assert_eq!(csv(&session, "SELECT min(n) AS n FROM outside").await.expect("rows"), "n\n60\n");
    assert_eq!(csv(&session, "SELECT device FROM readings$late").await.expect("none"), "device\n");

    let error = History::discover(&data.path().join("nowhere")).err().expect("no folder");
    assert!(error.to_string().contains("nowhere"), "{error}");
}

#[tokio::test]
async fn windows_mean_the_same_over_stored_rows() {
    let data = tempfile::tempdir().expect("folder");
    let mut table = Table::readings(data.path());
    table.commit(hour(0));
    let session = table.session();
    let tumbling = "SELECT window_start, window_end, count(*) AS n, max(n) AS top \
                    FROM TUMBLE(readings, ts, INTERVAL '30 minutes') GROUP BY window_start, window_end \
                    ORDER BY window_start EMIT ON WINDOW CLOSE";
    assert_eq!(
        csv(&session, tumbling).await.expect("windows"),
        "window_start,window_end,n,top\n\
         2026-11-20T00:00:00Z,2026-11-20T00:30:00Z,30,29\n2026-11-20T00:30:00Z,2026-11-20T01:00:00Z,30,59\n"
            .replace("         ", "")
    );
    let hopping = "SELECT window_start, count(*) AS n FROM HOP(readings, ts, INTERVAL '30 minutes', INTERVAL '1 hour') \
                   WHERE device = 'd0' GROUP BY window_start ORDER BY window_start";
    assert_eq!(
        csv(&session, hopping).await.expect("windows"),
        "window_start,n\n2026-11-19T23:30:00Z,10\n2026-11-20T00:00:00Z,20\n2026-11-20T00:30:00Z,10\n"
    );
    let problem = csv(&session, "SELECT count(*) FROM TUMBLE(readings, tz, INTERVAL '1 minute') GROUP BY window_start")
        .await
        .expect_err("no column tz");
    assert!(problem.kind.status() == 422 && problem.to_string().contains("tz"), "{problem}");
    let endless =
        "SELECT count(*) FROM HOP(readings, ts, INTERVAL '1' MICROSECOND, INTERVAL '10 days') GROUP BY window_start";
    assert_eq!(csv(&session, endless).await.expect_err("too many windows for each row").kind.status(), 422);
}
