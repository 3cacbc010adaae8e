//! Programs that write numbered lines into log files, and rotate them in every way that is usual.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Rotations of one writer.
const ROTATIONS_MAX: usize = 300;

/// How a writer rotates its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rotation {
    /// It is renamed, and a new one is begun. The writer holds on to the old one for some lines.
    Rename,
    /// It is copied and cut off.
    CopyAndCutOff,
    /// It is renamed, and the one before is compressed.
    Compress,
    /// A new file of another name is begun.
    NewName,
}

/// One writer; its lines have the numbers from 0 up.
pub(super) struct Writer {
    pub(super) name: &'static str,
    rotation: Rotation,
    folder: PathBuf,
    file: File,
    /// A new file, that the old one is held on to before.
    waiting: Option<(File, usize)>,
    pub(super) next: i64,
    rotated: usize,
    half: Option<String>,
}

impl Writer {
    pub(super) fn new(folder: &Path, name: &'static str, rotation: Rotation) -> Writer {
        let path = folder.join(format!("{name}.ndjson"));
        let file = append_to(&path);
        Writer { name, rotation, folder: folder.to_owned(), file, waiting: None, next: 0, rotated: 0, half: None }
    }

    /// Writes a number of lines, the last of them perhaps by half: the rest comes with the next call.
    pub(super) fn write(&mut self, count: i64, is_half: bool) {
        let mut text = self.half.take().unwrap_or_default();
        for _ in 0..count {
            text.push_str(&format!("{{\"who\":\"{}\",\"seq\":{}}}\n", self.name, self.next));
            self.next += 1;
        }
        if is_half && self.waiting.is_none() && text.len() > 8 {
            self.half = Some(text.split_off(text.len() - 8));
        }
        self.file.write_all(text.as_bytes()).expect("a writable file");
        match &mut self.waiting {
            Some((_, 0)) => self.file = self.waiting.take().expect("it is there").0,
            Some((_, left)) => *left -= 1,
            None => {}
        }
    }

    /// Ends the line that is begun.
    pub(super) fn end_line(&mut self) {
        self.write(0, false);
    }

    pub(super) fn rotate(&mut self) {
        if self.waiting.is_some() {
            return;
        }
        self.rotated += 1;
        let (folder, name) = (self.folder.clone(), self.name);
        let path = |number: usize| match number {
            0 => folder.join(format!("{name}.ndjson")),
            number => folder.join(format!("{name}.ndjson.{number}")),
        };
        match self.rotation {
            Rotation::NewName => {
                // A line that is begun here would be ended in the new file.
                self.end_line();
                self.file = append_to(&self.folder.join(format!("{}-{}.ndjson", self.name, self.rotated)));
            }
            Rotation::Rename => {
                shift(&path, "");
                fs::rename(path(0), path(1)).expect("a file to rename");
                self.waiting = Some((append_to(&path(0)), 1));
                if self.half.is_some() {
                    self.end_line();
                }
            }
            Rotation::CopyAndCutOff => {
                self.end_line();
                shift(&path, "");
                fs::copy(path(0), path(1)).expect("a file to copy");
                self.file.set_len(0).expect("a file to cut off");
            }
            Rotation::Compress => {
                self.end_line();
                shift(&path, ".gz");
                if path(1).exists() {
                    let packed = PathBuf::from(format!("{}.gz", path(2).display()));
                    let mut gzip = flate2::write::GzEncoder::new(
                        File::create(packed).expect("a new file"),
                        flate2::Compression::fast(),
                    );
                    gzip.write_all(&fs::read(path(1)).expect("a file to compress")).expect("room");
                    gzip.finish().expect("room");
                    fs::remove_file(path(1)).expect("a file to remove");
                }
                fs::rename(path(0), path(1)).expect("a file to rename");
                self.file = append_to(&path(0));
            }
        }
    }
}

/// Renames `NAME.1` to `NAME.2` and so on. None is removed: what was not read when it goes is lost, and nobody promises more.
fn shift(path: &impl Fn(usize) -> PathBuf, ending: &str) {
    let with_ending = |number: usize| PathBuf::from(format!("{}{ending}", path(number).display()));
    let first = if ending.is_empty() { 1 } else { 2 };
    let last = (first..).find(|number| !with_ending(*number).exists()).expect("an end");
    assert!(last < ROTATIONS_MAX, "a test does not rotate so often");
    for number in (first..last).rev() {
        fs::rename(with_ending(number), with_ending(number + 1)).expect("a file to rename");
    }
}

fn append_to(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).expect("a writable folder")
}
