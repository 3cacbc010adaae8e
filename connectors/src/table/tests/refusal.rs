//! Tables that are not touched: those of others, those that are damaged, those that this program would break.

use super::*;

#[test]
fn a_table_that_others_change_is_written_no_more() {
    let storage = memory();
    let mut job = open(&storage, plain()).unwrap();
    let upgrade = br#"{"protocol":{"minReaderVersion":3,"minWriterVersion":7}}"#;
    storage.put_new(&version_path(1), upgrade).unwrap();
    let committables = job.write_epoch(1, row(1));
    let error = job.commit(1, &committables).expect_err("an upgraded table").to_string();
    assert!(error.contains("reader protocol 3 and writer protocol 7"), "{error}");
    assert!(storage.get(&version_path(2)).is_err(), "nothing was written");
}

#[test]
fn a_table_that_is_not_this_one_is_refused_with_what_to_do() {
    let storage = memory();
    drop(open(&storage, spec(Partitioning::Day("ts".to_owned()))).unwrap());
    let day = || spec(Partitioning::Day("ts".to_owned()));
    let mut fields = schema().fields().to_vec();
    fields[2] = Arc::new(Field::new("temp", DataType::Int64, true));
    let other_type = TableSpec { schema: Arc::new(Schema::new(fields.clone())), ..day() };
    fields.pop();
    let fewer = TableSpec { schema: Arc::new(Schema::new(fields)), ..day() };
    for (spec, words) in [
        (other_type, "temp Float64 where the view has temp Int64"),
        (fewer, "temp Float64 where the view has temp Int64"),
        (plain(), "is partitioned by date, and the view wants it not partitioned"),
        (spec(Partitioning::Column("device".to_owned())), "and the view wants it partitioned by device"),
        (TableSpec { fingerprint: "f2".to_owned(), ..day() }, "the view was changed since this table was written"),
        (TableSpec { job: "job-2".to_owned(), ..day() }, "is filled by tidemill/job-1/readings$raw"),
    ] {
        let problem = refusal(open(&storage, spec));
        assert!(problem.contains(words), "{problem}");
        assert!(problem.contains("name or location"), "{problem}");
    }
    assert!(open(&storage, day()).is_ok());
}

#[test]
fn a_table_of_another_program_is_refused() {
    let storage = memory();
    let foreign = concat!(
        r#"{"protocol":{"minReaderVersion":1,"minWriterVersion":2}}"#,
        "\n",
        r#"{"metaData":{"id":"1","format":{"provider":"parquet","options":{}},"schemaString":"{\"type\":\"struct\",\"fields\":[]}","partitionColumns":[],"configuration":{}}}"#
    );
    storage.put_new(&version_path(0), foreign.as_bytes()).unwrap();
    assert!(refusal(open(&storage, plain())).contains("a table of another program"));
}

#[test]
fn a_damaged_log_is_named_and_never_read_as_a_smaller_table() {
    for damage in [&b""[..], b"{\"txn\":{\"appId\"", b"\0\0\0\0"] {
        let storage = memory();
        let mut job = open(&storage, plain()).unwrap();
        job.commit_epoch(1, row(1));
        storage.put(&version_path(1), damage).unwrap();
        let problem = refusal(open(&storage, plain()));
        assert!(problem.contains(&version_path(1)) && problem.contains("is damaged"), "{problem}");
        assert!(Snapshot::load(&*storage, DIR).is_err());
    }
    for missing in [0, 1] {
        let storage = memory();
        let mut job = open(&storage, plain()).unwrap();
        job.commit_epoch(1, row(1));
        job.commit_epoch(2, row(2));
        storage.delete(&version_path(missing)).unwrap();
        let problem = refusal(open(&storage, plain()));
        assert!(problem.contains(&version_path(missing)) && problem.contains("is missing"), "{problem}");
    }
}
