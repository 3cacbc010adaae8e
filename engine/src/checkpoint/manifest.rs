//! The manifest: the one atomic decision. Written once, never changed.
//!
//! Two lines of text: the manifest as JSON, and the checksum of the first line.
//!
//! ```text
//!   {"version":1,"number":42,...}
//!   {"crc32c":"0a1b2c3d"}
//! ```

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::CheckpointError;
use super::pack::Part;
use crate::epoch::Epoch;
use crate::key::KeyGroups;
use crate::sink::Committable;
use crate::time::Watermark;
use crate::watermark::WatermarkFold;

/// The format version that is written, and the newest that is read.
pub(super) const VERSION: u64 = 2;

/// What was decided, and where to start from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format version.
    pub version: u64,
    /// Its place in the sequence: greater than that of the manifest before.
    pub number: u64,
    /// The process that wrote it: see [`Incarnation`](crate::fence::Incarnation).
    pub incarnation: u64,
    /// The manifest it follows.
    pub parent: Option<u64>,
    /// The log that its epochs are of, in hexadecimal.
    pub log_id: String,
    /// When it was made, microseconds since 1970, UTC.
    pub made_us: i64,
    /// The epoch that tables commit.
    pub epoch: Epoch,
    /// The checkpoint to start from.
    pub holds: Holds,
    /// What each table of the job does.
    pub tables: BTreeMap<String, TableState>,
    /// Set if somebody went back: everything after this epoch was abandoned, in all tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewound_to: Option<Epoch>,
}

/// Where the state of a manifest is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    /// Here: a whole checkpoint, of the manifest's own epoch.
    Checkpoint(Box<Checkpoint>),
    /// In the manifest of this number; 0 is the beginning of the log, with no state at all.
    Refers(u64),
}

/// What a manifest says of a table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TableState {
    /// The epoch behind which the table's content begins.
    pub base: Epoch,
    /// What was committed when the manifest was made.
    pub committed: Epoch,
    /// What is to be committed for the manifest's epoch; with nothing here the table stays as it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<Committable>,
    /// The generation of the content that this is about; for a manifest that goes back, the one afterwards. Absent: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

/// Everything that a job knows at the end of an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Which epoch.
    pub epoch: Epoch,
    /// The time in its Seal.
    pub sealed_us: i64,
    /// Offset of the next message of the log.
    pub next_offset: u64,
    /// All partitions that the log has declared, in the order of their numbers.
    pub partitions: Vec<PartitionState>,
    /// Sources, by the key of their state in the plan.
    pub sources: BTreeMap<String, SourceState>,
    /// Windows, by the key of their state in the plan.
    pub windows: BTreeMap<String, WindowSaved>,
    /// Deduplicated sources, by the key of their state in the plan.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dedups: BTreeMap<String, DedupSaved>,
    /// For each table the rows that no file has, in the order of their epochs.
    pub buffers: BTreeMap<String, Vec<BufferState>>,
}

/// A partition of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartitionState {
    /// The source's name.
    pub source: String,
    /// Its own name.
    pub name: String,
    /// Where its next range begins.
    pub next: u64,
    /// Its last arrival, microseconds.
    pub arrival_us: Option<i64>,
    /// Whether it has ended.
    pub ended: bool,
    /// What its source has noted: the rows of a part. Absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<Part>,
}

/// A source: its watermark, and what it has counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceState {
    /// Its name, for people.
    pub name: String,
    /// The fold of its partitions; none without an event time.
    pub fold: Option<WatermarkFold>,
    /// Messages in the log.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Rows that decoded and are not quarantined.
    pub rows: u64,
    /// Dead letters.
    pub dead: u64,
    /// Rows from the future.
    pub quarantined: u64,
    /// Values that did not fit in their column, and are NULL.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub nulled: u64,
    /// Tags, labels, fields and attributes that are in no column, since none is declared for them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped_attributes: u64,
}

/// A window: its watermark, its open panes, and what it has counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowSaved {
    /// Its name, for people.
    pub name: String,
    /// What its windows were last closed by.
    pub watermark: Watermark,
    /// Rows that fell into a window.
    pub rows: u64,
    /// Rows too late for any.
    pub late: u64,
    /// Results.
    pub results: u64,
    /// Its open panes.
    pub panes: Vec<PaneState>,
}

/// A deduplicated source: what it remembers, and what it has counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DedupSaved {
    /// The source's name, for people.
    pub name: String,
    /// What it last forgot by.
    pub watermark: Watermark,
    /// Rows that went on.
    pub taken: u64,
    /// Rows that were dropped, since they had come before.
    pub repeats: u64,
    /// Rows that were too old to tell.
    pub late: u64,
    /// The keys that it remembers: pieces of stretches of time, those of one stretch in order.
    pub stretches: Vec<PaneState>,
}

/// A piece of a pane, or of a stretch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PaneState {
    /// Where the pane begins, microseconds.
    pub start_us: i64,
    /// The key groups that are taken from the part.
    pub groups: KeyGroups,
    /// Where its rows are.
    pub part: Part,
}

/// Rows of a table that no file has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BufferState {
    /// The last epoch of the rows.
    pub epoch: Epoch,
    /// Where they are.
    pub part: Part,
}

impl Manifest {
    /// Returns the checkpoint that it holds, if it holds one.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        match &self.holds {
            Holds::Checkpoint(checkpoint) => Some(checkpoint),
            Holds::Refers(_) => None,
        }
    }

    /// Returns the number of the manifest whose checkpoint it builds on; 0 is the beginning of the log.
    pub fn base(&self) -> u64 {
        match self.holds {
            Holds::Checkpoint(_) => self.number,
            Holds::Refers(number) => number,
        }
    }

    /// The format version that is written.
    pub const VERSION: u64 = VERSION;

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut text = serde_json::to_string(self).expect("text keys, to memory");
        let crc = crc32c::crc32c(text.as_bytes());
        text += &format!("\n{{\"crc32c\":\"{crc:08x}\"}}\n");
        text.into_bytes()
    }

    /// Reads the manifest at `path`.
    pub(super) fn decode(path: &str, bytes: &[u8]) -> Result<Manifest, CheckpointError> {
        let damaged = |at: usize, why: String| CheckpointError::Damaged { path: path.to_owned(), at: at as u64, why };
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        let (body, rest) = bytes.split_at(end);
        // Before the checksum: a newer version may keep it elsewhere.
        #[derive(Deserialize)]
        struct Versioned {
            version: u64,
        }
        if let Ok(Versioned { version }) = serde_json::from_slice(body)
            && version > VERSION
        {
            return Err(CheckpointError::Newer { path: path.to_owned(), version });
        }
        let expected = format!("\n{{\"crc32c\":\"{:08x}\"}}\n", crc32c::crc32c(body));
        if rest != expected.as_bytes() {
            return Err(damaged(end, "the checksum does not match".to_owned()));
        }
        serde_json::from_slice(body).map_err(|error| damaged(error.column(), error.to_string()))
    }
}

impl Checkpoint {
    /// Returns every part that it names.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        let panes = self.windows.values().flat_map(|window| &window.panes).map(|pane| &pane.part);
        let notes = self.partitions.iter().filter_map(|partition| partition.notes.as_ref());
        let stretches = self.dedups.values().flat_map(|dedup| &dedup.stretches).map(|piece| &piece.part);
        let panes = panes.chain(stretches);
        panes.chain(self.buffers.values().flatten().map(|buffer| &buffer.part)).chain(notes)
    }

    /// Returns every pack that it names.
    pub fn packs(&self) -> BTreeSet<&str> {
        self.parts().map(|part| part.file.as_str()).collect()
    }
}

/// Whether a number need not be written.
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Manifest {
        let committable = Committable { version: 1, body: "{\"path\":\"x\"}".to_owned(), summary: "x".to_owned() };
        let table = TableState { committed: Epoch(7), pending: vec![committable], ..TableState::default() };
        Manifest {
            version: VERSION,
            number: 3,
            incarnation: 2,
            parent: Some(2),
            log_id: "ab".repeat(16),
            made_us: 5,
            epoch: Epoch(9),
            holds: Holds::Refers(1),
            tables: BTreeMap::from([("room".to_owned(), table)]),
            rewound_to: None,
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let bytes = example().encode();
        assert_eq!(Manifest::decode("m", &bytes).expect("whole"), example());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            Manifest::decode("m", &flipped).expect_err("damaged");
        }
        for length in 0..bytes.len() {
            Manifest::decode("m", &bytes[..length]).expect_err("cut");
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let newer = VERSION + 1;
        let text = format!("{{\"version\":{newer},\"what\":\"nobody knows\"}}\n");
        let error = Manifest::decode("m", text.as_bytes()).expect_err("newer").to_string();
        assert!(
            error.contains(&format!("format version {newer}")) && error.contains("newer version of the program"),
            "{error}"
        );
    }
}
