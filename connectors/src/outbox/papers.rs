//! The small files of an outbox: who it belongs to, what is committed, and how far it is delivered.
//!
//! ```text
//!   sinks/<name>/about                        whose it is, and which content it has
//!                ready/000001-00…0042         epoch 42 of content 1: files, and the number of its first row
//!                cursor                       delivered and received up to here, on which session
//! ```
//! Each is a line of JSON, and a line with its crc32c: a cursor with a flipped bit could skip rows.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidemill_engine::epoch::Epoch;

/// The version of all of them.
pub(super) const VERSION: u32 = 1;

/// Whose outbox it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    pub(super) version: u32,
    /// The log that it is filled from.
    pub(super) job: String,
    pub(super) name: String,
    /// What the view computes.
    pub(super) fingerprint: String,
    /// How often the content was replaced, and the epoch that this one begins behind.
    pub(super) generation: u64,
    pub(super) base: Epoch,
    /// The number of the content's first row: no number is used twice.
    pub(super) first_row: u64,
}

/// An epoch that is committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ready {
    pub(super) version: u32,
    pub(super) generation: u64,
    pub(super) epoch: Epoch,
    pub(super) first_row: u64,
    pub(super) parts: Vec<Part>,
    /// Rows that were left out for want of room, in all the life of the outbox.
    pub(super) dropped: u64,
    /// Rows of earlier epochs that this commit has left out: `[from, to)`.
    pub(super) left_out: Option<(u64, u64)>,
}

/// A file of rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    /// Its name in the folder of rows.
    pub(super) file: String,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    /// The content it was made for.
    pub(super) generation: u64,
}

/// How far the outbox is delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    pub(super) version: u32,
    /// Everything below is delivered.
    pub(super) delivered: u64,
    /// Everything below was received by the other side, as far as it says so.
    pub(super) received: u64,
    /// With whom and how: numbers mean nothing on another session.
    pub(super) session: String,
    /// From the first row that is not delivered up to here, rows are delivered as one: in the same pieces again after a crash.
    #[serde(default)]
    pub(super) claimed: u64,
}

impl Ready {
    /// The number behind its last row.
    pub(super) fn end_row(&self) -> u64 {
        self.first_row + self.parts.iter().map(|part| part.rows).sum::<u64>()
    }

    /// Its name in the folder of what is committed.
    pub(super) fn file_name(&self) -> String {
        format!("{:06}-{:020}", self.generation, self.epoch.0)
    }
}

/// Writes a paper.
pub(super) fn seal(paper: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(paper).expect("numbers and texts can be written");
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(format!("\n{checksum:08x}\n").as_bytes());
    bytes
}

/// Reads a paper.
pub(super) fn unseal<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let torn = || "it is cut off".to_owned();
    let line_end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(torn)?;
    let (line, seal) = bytes.split_at(line_end);
    let found = crc32c::crc32c(line);
    if seal != format!("\n{found:08x}\n").as_bytes() {
        return Err(format!("its checksum is not {found:08x}"));
    }
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("it is of version {version}, and this program reads version {VERSION}"));
    }
    serde_json::from_slice(line).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paper_comes_back_and_a_flipped_bit_is_noticed() {
        let cursor =
            Cursor { version: VERSION, delivered: 7, received: 9, session: "broker \n of mine".into(), claimed: 11 };
        let bytes = seal(&cursor);
        assert_eq!(unseal::<Cursor>(&bytes), Ok(cursor));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal::<Cursor>(&bad).is_err(), "bit {bit}");
        }
        let newer = seal(&Cursor { version: 2, ..Cursor::default() });
        assert_eq!(unseal::<Cursor>(&newer), Err("it is of version 2, and this program reads version 1".to_owned()));
    }
}
