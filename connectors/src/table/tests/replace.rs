//! Opening in two steps: a table is created, continued, or its content replaced, in one version.

use super::faulty::{Fault, faulty_storage};
use super::*;
use crate::table::{Begun, Found};

fn changed() -> TableSpec {
    TableSpec { fingerprint: "f2".to_owned(), ..plain() }
}

fn begin(storage: &Arc<dyn Storage>, spec: TableSpec, base: u64) -> (Begun, Process) {
    let mut sink = look(storage, spec).unwrap();
    let begun = sink.begin(Epoch(base)).unwrap();
    (begun, Process::new(sink))
}

#[test]
fn looking_at_a_table_writes_nothing_and_nothing_is_written_before_it_is_begun() {
    let storage = memory();
    let mut job = Process::new(look(&storage, plain()).unwrap());
    assert_eq!(job.sink.found(), &Found::New);
    for error in [refusal(job.prepare(1, &[(1, row(1))])), refusal(job.commit(1, &[])), refusal(job.sink.clean())] {
        assert!(error.contains("before it was begun"), "{error}");
    }
    assert_eq!(storage.list("").unwrap(), []);
    assert_eq!(job.sink.begin(Epoch(7)).unwrap(), Begun::Created);
    // A writer that was made before works from now on.
    job.commit_epoch(8, row(1));
    assert_eq!(sequence_numbers(&storage), [1]);
    let error = refusal(job.sink.begin(Epoch(9)));
    assert!(error.contains("begun behind epoch 7, and then behind epoch 9"), "{error}");
    assert_eq!(snapshot(&storage).version, 1);
}

#[test]
fn a_table_starts_behind_its_base_and_goes_on_where_it_ends() {
    let storage = memory();
    let (begun, job) = begin(&storage, plain(), 7);
    assert_eq!((begun, job.last_committed()), (Begun::Created, 7));
    let (begun, mut job) = begin(&storage, plain(), 7);
    assert_eq!((begun, job.last_committed()), (Begun::Continued { at: Epoch(7) }, 7));
    job.commit_epoch(9, row(1));
    let found = Found::Same { generation: 0, base: Epoch(7), last_committed: Epoch(9) };
    assert_eq!(look(&storage, plain()).unwrap().found(), &found);
    let (begun, _) = begin(&storage, plain(), 7);
    assert_eq!(begun.to_string(), "continued at epoch 9");
    assert_eq!(snapshot(&storage).version, 1, "nothing was written");
}

#[test]
fn a_changed_view_replaces_the_content_in_one_version() {
    let storage = memory();
    let mut job = open(&storage, plain()).unwrap();
    job.commit_epoch(1, row(1));
    job.commit_epoch(2, row(2));
    let mut follower = snapshot(&storage);

    let mut fields = schema().fields().to_vec();
    fields.push(Arc::new(Field::new("more", DataType::Boolean, true)));
    let wider = TableSpec { schema: Arc::new(Schema::new(fields)), ..changed() };
    let daily = spec(Partitioning::Day("ts".to_owned()));
    for (generation, spec, words, columns) in [
        (1, changed(), "the view was changed since this table was written", 5),
        (2, wider, "has other columns (5 columns where the view has 6)", 6),
        (3, daily, "is not partitioned, and the view wants it partitioned by date", 6),
    ] {
        let Found::Changed { what } = look(&storage, spec.clone()).unwrap().found().clone() else {
            panic!("not changed")
        };
        assert!(what.contains(words), "{what}");
        assert!(refusal(open(&storage, spec.clone()).map(|_| ())).contains("name or location"));
        let before = snapshot(&storage);
        let (begun, mut job) = begin(&storage, spec.clone(), 1);
        assert_eq!(begun, Begun::Replaced { version: before.version });
        let said = format!("replaced; version {} still has the rows from before", before.version);
        assert_eq!(begun.to_string(), said);
        assert_eq!((snapshot(&storage).version, snapshot(&storage).files.len()), (before.version + 1, 0));
        assert_eq!(snapshot(&storage).schema.fields().len(), columns);
        let old = Snapshot::load_at(&*storage, DIR, before.version).unwrap().expect("still readable");
        assert_eq!((old.version, &old.files), (before.version, &before.files));
        for file in &old.files {
            read_file(&storage, file);
        }
        let found = Found::Same { generation, base: Epoch(1), last_committed: Epoch(1) };
        assert_eq!(look(&storage, spec.clone()).unwrap().found(), &found);
        assert_eq!(begin(&storage, spec.clone(), 1).0, Begun::Continued { at: Epoch(1) });

        // The log is replayed: epochs keep their numbers.
        if columns == 6 && generation == 2 {
            continue;
        }
        job.commit_epoch(2, row(10 + generation));
        assert_eq!(sequence_numbers(&storage), [i128::from(10 + generation)]);
        assert_eq!(begin(&storage, spec, 1).0, Begun::Continued { at: Epoch(2) });
    }
    assert!(follower.refresh(&*storage, DIR).unwrap());
    assert_eq!((follower.files.len(), follower.partition_columns), (1, vec!["date".to_owned()]));
    let transactions = &snapshot(&storage).transactions;
    assert_eq!(transactions["tidemill/job-1/readings$raw"], 2);
    assert_eq!(transactions["tidemill/job-1/readings$raw@1"], 2);
    assert_eq!(transactions["tidemill/job-1/readings$raw@2"], 1);
    assert_eq!(transactions["tidemill/job-1/readings$raw@3"], 2);
}

#[test]
fn another_base_replaces_the_content_too() {
    let storage = memory();
    open(&storage, plain()).unwrap().commit_epoch(4, row(1));
    let (begun, mut job) = begin(&storage, plain(), 6);
    assert_eq!((begun, job.last_committed()), (Begun::Replaced { version: 1 }, 6));
    job.commit_epoch(7, row(2));
    assert_eq!(sequence_numbers(&storage), [2]);
}

#[test]
fn a_process_of_the_old_content_writes_no_more() {
    let storage = memory();
    let mut zombie = open(&storage, plain()).unwrap();
    zombie.commit_epoch(1, row(1));
    let stale = zombie.write_epoch(2, row(2));
    let (_, mut job) = begin(&storage, plain(), 1);
    let error = refusal(zombie.commit(2, &stale));
    assert!(error.contains("another process has replaced its content"), "{error}");
    // What it prepared is not of this content, and comes again from the log.
    job.commit(2, &stale).unwrap();
    assert_eq!((job.last_committed(), snapshot(&storage).files.len()), (1, 0));
    job.commit_epoch(2, row(2));
    assert_eq!(sequence_numbers(&storage), [2]);
}

#[test]
fn a_table_that_is_older_than_what_was_prepared_for_it_is_refused() {
    let (storage, copy) = (memory(), memory());
    for storage in [&storage, &copy] {
        open(storage, plain()).unwrap();
    }
    let committables = begin(&storage, plain(), 5).1.write_epoch(6, row(1));
    let error = refusal(open(&copy, plain()).unwrap().commit(6, &committables));
    assert!(error.contains("the table's folder is older than the job's checkpoint"), "{error}");
}

#[test]
fn a_fault_while_the_content_is_replaced_leaves_the_old_or_the_new() {
    for fault in [Fault::Before, Fault::After, Fault::Sync, Fault::Lost] {
        for repeated in 1..=3 {
            let faulty = faulty_storage(&MemoryStorage::default());
            let storage: Arc<dyn Storage> = faulty.clone();
            open(&storage, plain()).unwrap().commit_epoch(1, row(1));
            faulty.interposer().fail_writes(&vec![Some(fault); repeated]);
            let mut tries = 0;
            let mut job = loop {
                let mut sink = look(&storage, changed()).unwrap();
                match sink.begin(Epoch::NONE) {
                    Ok(_) => break Process::new(sink),
                    Err(SinkError::Storage { .. }) => tries += 1,
                    Err(other) => panic!("{other}"),
                }
                assert!(tries < 10, "{fault:?} x {repeated}");
                let files = snapshot(&storage).files.len();
                let found = look(&storage, changed()).unwrap().found().clone();
                assert_eq!(
                    files == 0,
                    found != Found::Changed { what: "the view was changed since this table was written".to_owned() }
                );
            };
            faulty.interposer().fail_writes(&[]);
            job.commit_epoch(1, row(5));
            let Found::Same { generation, .. } = look(&storage, changed()).unwrap().found().clone() else { panic!() };
            assert_eq!((generation, sequence_numbers(&storage)), (1, vec![5]), "{fault:?} x {repeated}");
            assert_eq!(snapshot(&storage).version, 3, "it was replaced once");
        }
    }
}
