//! The ledger of a sender: what it is about to send, on disk before the send; and what came of it.
//!
//! ```text
//!   S 40 60     about to send the rows 40 to 59; synced before the first byte leaves
//!   A 40 60     acknowledged
//!   R 40 60     acknowledged, after some were sent again: they may be there more often
//!   U 40 60     nobody knows: the connection broke. They may be there, once
//! ```
//! The verdict reads it back from the disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

/// What is known of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fate {
    /// Never sent.
    #[default]
    Unsent,
    /// Sent, and nobody knows.
    Unknown,
    /// Acknowledged after one send.
    Acknowledged,
    /// Acknowledged after more than one.
    Repeated,
}

/// See the module.
pub(super) struct Ledger(File);

impl Ledger {
    /// Begins a ledger.
    pub(super) fn create(path: &Path) -> io::Result<Ledger> {
        OpenOptions::new().create_new(true).append(true).open(path).map(Ledger)
    }

    /// Writes down that rows are about to be sent, durably. Blocking.
    pub(super) fn sending(&mut self, rows: &Range<u64>) -> io::Result<()> {
        self.write('S', rows)?;
        self.0.sync_data()
    }

    /// Writes down what came of rows.
    pub(super) fn ended(&mut self, rows: &Range<u64>, fate: Fate) -> io::Result<()> {
        match fate {
            Fate::Unsent => Ok(()),
            Fate::Unknown => self.write('U', rows),
            Fate::Acknowledged => self.write('A', rows),
            Fate::Repeated => self.write('R', rows),
        }
    }

    fn write(&mut self, what: char, rows: &Range<u64>) -> io::Result<()> {
        self.0.write_all(format!("{what} {} {}\n", rows.start, rows.end).as_bytes())
    }
}

/// Reads a ledger: the fate of each row, by its number.
pub(super) fn read(path: &Path, rows: u64) -> io::Result<Vec<Fate>> {
    let mut fates = vec![Fate::Unsent; usize::try_from(rows).unwrap_or(usize::MAX)];
    for line in std::fs::read_to_string(path)?.lines() {
        let mut words = line.split(' ');
        let fate = match words.next() {
            Some("S" | "U") => Fate::Unknown,
            Some("A") => Fate::Acknowledged,
            Some("R") => Fate::Repeated,
            _ => return Err(io::Error::other(format!("{line:?} is no line of a ledger"))),
        };
        let mut number = || words.next()?.parse::<usize>().ok();
        let (Some(first), Some(end)) = (number(), number()) else {
            return Err(io::Error::other(format!("{line:?} is no line of a ledger")));
        };
        fates.get_mut(first..end).ok_or_else(|| io::Error::other(format!("{line:?} is beyond the rows")))?.fill(fate);
    }
    Ok(fates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_about_a_row_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger");
        let mut ledger = Ledger::create(&path).expect("written");
        for (rows, fate) in
            [(0..2, Fate::Acknowledged), (2..3, Fate::Unknown), (3..4, Fate::Repeated), (4..5, Fate::Unsent)]
        {
            ledger.sending(&rows).expect("written");
            ledger.ended(&rows, fate).expect("written");
        }
        use Fate::{Acknowledged, Repeated, Unknown, Unsent};
        let fates = read(&path, 6).expect("read");
        assert_eq!(fates, [Acknowledged, Acknowledged, Unknown, Repeated, Unknown, Unsent]);
    }
}
