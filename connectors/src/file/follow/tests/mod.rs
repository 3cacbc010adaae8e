//! Following: growth, rotation of every kind, half lines, and going on from the log.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use bytes::Bytes;
use tidemill_engine::decode::Place;
use tidemill_engine::source::{Data, Message, Resume, Source};

use super::*;
use crate::Metadata;
use crate::file::FileSource;
use crate::format::{Encoding, Layout};

mod copies;

/// A folder that is followed, step by step, and what the log has of it.
struct Scene {
    dir: tempfile::TempDir,
    source: FileSource,
    folder: Folder,
    messages: Vec<(String, Message)>,
    notes: BTreeMap<String, BTreeMap<Bytes, Bytes>>,
    errors: Vec<&'static str>,
}

impl Scene {
    fn new(path: &str, options: &[(&str, &str)]) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let source = source(&dir, path, options);
        let folder = Folder::new(Arc::clone(&source.shared), source.following.unwrap(), &[]).unwrap();
        Scene { dir, source, folder, messages: Vec::new(), notes: BTreeMap::new(), errors: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn append(&self, name: &str, text: impl AsRef<[u8]>) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.path(name)).unwrap();
        file.write_all(text.as_ref()).unwrap();
    }

    #[expect(clippy::disallowed_methods, reason = "a writer of logs, not the program")]
    fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.path(from), self.path(to)).unwrap();
    }

    fn cut_off(&self, name: &str) {
        OpenOptions::new().write(true).truncate(true).open(self.path(name)).unwrap();
    }

    fn keep(&mut self, taken: Taken) {
        let notes = self.notes.entry(taken.partition.clone()).or_default();
        for note in taken.notes {
            match note.value.is_empty() {
                true => drop(notes.remove(&note.key)),
                false => drop(notes.insert(note.key, note.value)),
            }
        }
        self.messages.extend(taken.messages.into_iter().map(|message| (taken.partition.clone(), message)));
    }

    /// Looks once and reads what there is.
    fn look(&mut self) -> Result<(), SourceError> {
        self.folder.scan();
        loop {
            let read = self.folder.read();
            self.folder.take_notes().into_iter().for_each(|taken| self.keep(taken));
            self.errors.extend(self.folder.take_errors());
            match read? {
                Some(taken) => self.keep(taken),
                None => return Ok(()),
            }
        }
    }

    fn looks(&mut self, count: usize) {
        (0..count).for_each(|_| self.look().unwrap());
    }

    fn resume(&self) -> Vec<Resume> {
        let resume = |(partition, notes): (&String, &BTreeMap<Bytes, Bytes>)| Resume {
            partition: partition.clone(),
            notes: notes.clone(),
            ..Resume::default()
        };
        self.notes.iter().map(resume).collect()
    }

    /// Begins again, as after a crash, with what the log knows.
    fn crash(&mut self) {
        let resume = self.resume();
        self.folder = Folder::new(Arc::clone(&self.source.shared), self.source.following.unwrap(), &resume).unwrap();
    }

    /// The numbers that have come, and from where.
    fn rows(&self) -> (Vec<i64>, Vec<String>) {
        let format = self.source.format();
        let mut decoder = format.decoder();
        let (mut numbers, mut paths) = (Vec::new(), Vec::new());
        for (partition, message) in &self.messages {
            let place = Place { partition, ..Place::default() };
            let decoded = decoder.decode(&Data::Messages(vec![message.clone()]), &place);
            assert!(decoded.dead.is_empty(), "{:?}", decoded.dead);
            for batch in decoded.batches {
                numbers.extend(batch.column(0).as_primitive::<Int64Type>().values().iter());
                paths.extend(batch.column(1).as_string_view().iter().map(|path| path.unwrap().to_owned()));
            }
        }
        (numbers, paths)
    }

    fn numbers(&self) -> Vec<i64> {
        self.rows().0
    }

    fn sorted(&self) -> Vec<i64> {
        let mut numbers = self.numbers();
        numbers.sort_unstable();
        numbers
    }

    fn copy(&self, from: &str, to: &str) {
        std::fs::copy(self.path(from), self.path(to)).unwrap();
    }
}

fn source(dir: &tempfile::TempDir, path: &str, options: &[(&str, &str)]) -> FileSource {
    let columns = Schema::new(vec![Field::new("n", DataType::Int64, false), Metadata::Path.column("path")]);
    let options = [("follow", "true")].iter().chain(options).map(|(key, value)| (key.to_string(), value.to_string()));
    let mut options = Options::new(options);
    let encoding = FileSource::take_encoding(path, &mut options).unwrap();
    let following = Following::take(&mut options).unwrap();
    options.finish().unwrap();
    FileSource::new(path, dir.path(), encoding, Layout::new(&Arc::new(columns)).with_paths()).following(following)
}

fn lines(numbers: std::ops::Range<i64>) -> String {
    numbers.map(|n| format!("{{\"n\":{n}}}\n")).collect()
}

fn all(numbers: std::ops::Range<i64>) -> Vec<i64> {
    numbers.collect()
}

#[test]
fn a_file_is_read_on_where_it_ended_and_a_half_line_waits() {
    let mut scene = Scene::new("*.ndjson", &[]);
    scene.looks(2);
    scene.append("a.ndjson", lines(0..3));
    scene.append("a.ndjson", "{\"n\":");
    scene.append("b.txt", "nothing for us");
    scene.looks(3);
    assert_eq!(scene.numbers(), [0, 1, 2]);
    scene.append("a.ndjson", "3}\n{\"n\":4}");
    scene.looks(10);
    assert_eq!(scene.numbers(), [0, 1, 2, 3]);
    scene.crash();
    scene.append("a.ndjson", "\n");
    scene.append("b.ndjson", lines(5..6));
    scene.looks(1);
    let (numbers, paths) = scene.rows();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
    assert_eq!(paths[3..], ["a.ndjson", "a.ndjson", "b.ndjson"]);
    assert!(scene.errors.is_empty(), "{:?}", scene.errors);
}

#[test]
fn a_line_without_an_end_is_taken_after_a_time_if_one_is_said() {
    let mut scene = Scene::new("*.ndjson", &[("poll_interval", "1s"), ("line_timeout", "3s")]);
    scene.append("a.ndjson", "{\"n\":1}");
    scene.looks(3);
    assert!(scene.numbers().is_empty());
    scene.looks(2);
    assert_eq!(scene.numbers(), [1]);
}

#[test]
fn a_file_that_is_renamed_is_read_to_its_end_before_the_new_one() {
    for path in ["app.ndjson", "app.ndjson*"] {
        let mut scene = Scene::new(path, &[("format", "json")]);
        scene.append("app.ndjson", lines(0..10));
        scene.looks(1);
        for round in 1..4i64 {
            scene.append("app.ndjson", lines(round * 10..round * 10 + 4));
            if scene.path("app.ndjson.1").exists() {
                scene.rename("app.ndjson.1", "app.ndjson.2");
            }
            scene.rename("app.ndjson", "app.ndjson.1");
            scene.append("app.ndjson", lines(round * 10 + 5..round * 10 + 10));
            // What writes still has the old file open.
            scene.append("app.ndjson.1", lines(round * 10 + 4..round * 10 + 5));
            if round == 2 {
                scene.crash();
            }
            scene.looks(1);
        }
        assert_eq!(scene.numbers(), all(0..40), "{path}");
        assert!(scene.errors.is_empty(), "{path}: {:?}", scene.errors);
        assert!(scene.messages.iter().all(|(partition, _)| partition == "app.ndjson"));
    }
}

#[test]
fn the_last_line_of_a_file_that_was_renamed_counts_when_it_is_quiet() {
    let mut scene = Scene::new("app.ndjson", &[]);
    scene.append("app.ndjson", "{\"n\":1}");
    scene.looks(5);
    scene.rename("app.ndjson", "app.ndjson.1");
    scene.looks(2);
    assert!(scene.numbers().is_empty());
    scene.looks(3);
    assert_eq!(scene.numbers(), [1]);
}

#[test]
fn a_file_that_is_cut_off_is_counted_and_read_anew_or_an_error() {
    for is_longer in [false, true] {
        let mut scene = Scene::new("app.ndjson", &[]);
        scene.append("app.ndjson", lines(100..110));
        scene.looks(1);
        scene.cut_off("app.ndjson");
        let end = if is_longer { 400 } else { 203 };
        scene.append("app.ndjson", lines(200..end));
        scene.looks(2);
        assert_eq!(scene.numbers(), [all(100..110), all(200..end)].concat());
        assert_eq!(scene.errors, ["truncated"]);
    }
    let mut scene = Scene::new("app.ndjson", &[("truncated", "fail")]);
    scene.append("app.ndjson", lines(0..10));
    scene.looks(1);
    scene.cut_off("app.ndjson");
    let error = scene.look().unwrap_err();
    assert!(matches!(&error, SourceError::Changed(text) if text.contains("truncated = 'read'")), "{error:?}");
}

#[test]
fn a_file_that_is_moved_away_or_removed_is_read_to_its_end() {
    let mut scene = Scene::new("*.ndjson", &[]);
    let mut writer = File::create_new(scene.path("a.ndjson")).unwrap();
    writer.write_all(lines(0..5).as_bytes()).unwrap();
    scene.looks(1);
    std::fs::remove_file(scene.path("a.ndjson")).unwrap();
    writer.write_all(lines(5..8).as_bytes()).unwrap();
    writer.write_all(b"{\"n\":8}").unwrap();
    scene.append("a.ndjson", lines(9..12));
    scene.looks(6);
    let mut numbers = scene.numbers();
    numbers.sort_unstable();
    assert_eq!(numbers, all(0..12));
    assert!(scene.errors.is_empty(), "{:?}", scene.errors);
}

#[test]
fn a_file_that_is_removed_while_nobody_looks_is_told() {
    let mut scene = Scene::new("*.ndjson", &[]);
    scene.append("a.ndjson", lines(0..5));
    scene.looks(1);
    scene.crash();
    scene.append("a.ndjson", lines(5..6));
    std::fs::remove_file(scene.path("a.ndjson")).unwrap();
    scene.looks(2);
    assert_eq!(scene.errors, ["gone"]);
    scene.crash();
    scene.looks(2);
    assert_eq!(scene.errors, ["gone"], "it is told once");
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn compressed_files_are_read_when_they_are_whole() {
    let mut scene = Scene::new("*.ndjson*", &[("format", "json")]);
    let packed = gzip(lines(0..50_000).as_bytes());
    scene.append("a.ndjson.gz", &packed[..packed.len() - 100]);
    scene.look().unwrap();
    assert!(scene.numbers().is_empty());
    scene.append("a.ndjson.gz", &packed[packed.len() - 100..]);
    scene.append("b.ndjson.zst", zstd::encode_all(lines(50_000..50_010).as_bytes(), 1).unwrap());
    scene.looks(3);
    scene.crash();
    scene.looks(3);
    let mut numbers = scene.numbers();
    numbers.sort_unstable();
    assert_eq!(numbers, all(0..50_010));
    assert!(scene.errors.is_empty(), "{:?}", scene.errors);
}

#[test]
fn csv_waits_for_its_header_and_every_piece_has_it() {
    let mut scene = Scene::new("*.csv", &[]);
    scene.append("a.csv", "other,");
    scene.looks(2);
    scene.append("a.csv", "n\nx,1\nx,\"2\"\n\"y\ny");
    scene.looks(2);
    scene.append("a.csv", "\",3\n");
    scene.crash();
    scene.looks(1);
    scene.cut_off("a.csv");
    scene.append("a.csv", "n,other\n4,z\n");
    scene.looks(2);
    assert_eq!(scene.numbers(), [1, 2, 3, 4]);
}

fn parquet(numbers: std::ops::Range<i64>) -> Vec<u8> {
    let columns = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
    let numbers = Arc::new(Int64Array::from_iter_values(numbers));
    let batch = RecordBatch::try_new(Arc::clone(&columns), vec![numbers]).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ::parquet::arrow::ArrowWriter::try_new(&mut bytes, columns, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

#[test]
fn parquet_files_are_read_when_they_are_whole() {
    let mut scene = Scene::new("*.parquet", &[]);
    let bytes = parquet(0..40_000);
    scene.append("a.parquet", &bytes[..bytes.len() / 2]);
    scene.looks(3);
    assert_eq!(scene.errors, ["unreadable"]);
    scene.append("a.parquet", &bytes[bytes.len() / 2..]);
    scene.folder.scan();
    scene.folder.scan();
    let first = scene.folder.read().unwrap().expect("a part of it");
    scene.keep(first);
    scene.crash();
    scene.append("b.parquet", parquet(40_000..40_010));
    scene.looks(3);
    let (mut numbers, paths) = scene.rows();
    numbers.sort_unstable();
    assert_eq!(numbers, all(0..40_010));
    assert_eq!(paths.last().unwrap(), "b.parquet");
}

#[test]
fn an_unreadable_file_and_a_folder_that_is_gone_stop_nobody() {
    let mut scene = Scene::new("logs/*.ndjson", &[]);
    scene.looks(2);
    assert_eq!(scene.errors, ["unreadable"], "told once");
    std::fs::create_dir(scene.path("logs")).unwrap();
    scene.append("logs/array.ndjson", "[{\"n\":1}]\n");
    scene.append("logs/good.ndjson", lines(0..2));
    scene.looks(3);
    assert_eq!(scene.numbers(), [0, 1]);
    assert_eq!(scene.errors, ["unreadable", "unreadable"]);
    std::fs::remove_file(scene.path("logs/array.ndjson")).unwrap();
    scene.append("logs/good.ndjson", lines(2..3));
    scene.looks(1);
    assert_eq!(scene.numbers(), [0, 1, 2]);
}

#[test]
fn two_files_of_the_same_lines_are_two_files() {
    let mut scene = Scene::new("*.ndjson", &[]);
    scene.append("a.ndjson", lines(0..2));
    scene.looks(1);
    scene.append("b.ndjson", lines(0..2));
    scene.rename("a.ndjson", "a.ndjson.1");
    scene.append("a.ndjson", lines(0..2));
    scene.looks(2);
    assert_eq!(scene.numbers(), [0, 1, 0, 1, 0, 1]);
}

#[test]
fn what_was_read_once_is_not_followed_and_the_other_way_round() {
    let scene = Scene::new("*.ndjson", &[]);
    let ended = Resume { partition: "a.ndjson".to_owned(), ended: true, ..Resume::default() };
    let shared = Arc::clone(&scene.source.shared);
    let error = Folder::new(shared, scene.source.following.unwrap(), &[ended]).err().expect("refused");
    assert!(error.to_string().contains("without follow = 'true'"), "{error}");
}

#[test]
fn options_that_do_not_fit_are_told() {
    let problem = |options: &[(&str, &str)]| {
        let mut options = Options::new(options.iter().map(|(key, value)| (key.to_string(), value.to_string())));
        let taken = Following::take(&mut options);
        taken.and_then(|_| options.finish()).unwrap_err().to_string()
    };
    for (options, expected) in [
        (vec![("follow", "yes")], "option follow: \"yes\" is not one of 'true', 'false'"),
        (
            vec![("follow", "true"), ("poll_interval", "1 us")],
            "option poll_interval: is not between '10 ms' and '1 hour'",
        ),
        (
            vec![("follow", "true"), ("truncated", "ignore")],
            "option truncated: \"ignore\" is not one of 'read', 'fail'",
        ),
        (vec![("poll_interval", "1s")], "option poll_interval: is not known here"),
    ] {
        assert!(problem(&options).starts_with(expected), "{}", problem(&options));
    }
}

#[tokio::test]
async fn the_source_runs_until_it_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(&dir, "*.ndjson", &[("poll_interval", "10ms")]);
    assert!(!source.bounded() && source.shared.encoding == Encoding::Json);
    source.prepare().await.unwrap();
    let intake = Arc::new(crate::testing::TestIntake::default());
    let (stop, running) = (Stop::new(), Arc::clone(&intake));
    let until = stop.clone();
    let run = tokio::spawn(async move { source.run(running, Vec::new(), until).await });
    intake.wait_until_connected().await;
    let mut file = File::create_new(dir.path().join("a.ndjson")).unwrap();
    file.write_all(lines(0..3).as_bytes()).unwrap();
    while intake.messages().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stop.cancel();
    run.await.unwrap().unwrap();
    assert_eq!(intake.messages()[0].topic, "a.ndjson:1");
    assert!(
        !intake.calls.lock().iter().any(|call| call.starts_with("end")),
        "a partition that is followed does not end"
    );
}
