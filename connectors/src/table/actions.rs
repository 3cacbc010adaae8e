//! Actions: the lines of a Delta commit, and the check that a commit is whole.
//!
//! ```text
//!   {"commitInfo":{…,"tidemill":{"lines":2,"crc32c":"1a2b3c4d","version":7}}}      counts and covers what follows
//!   {"txn":{"appId":"tidemill/…","version":42,"lastUpdated":…}}
//!   {"add":{"path":"date=2026-11-20/e….parquet",…}}
//! ```
//! The format has no checksum of its own: a commit cut at a line's end would read as a smaller commit, one of zero
//! bytes as an empty one, and one that was copied over another as what it is not. Ours carry a checksum and their version in
//! `commitInfo`, which other engines ignore. A commit of another writer has none; there every line must be whole JSON, and
//! there must be one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::TableError;

/// Which readers and writers may touch the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Protocol {
    pub(super) min_reader_version: i32,
    pub(super) min_writer_version: i32,
}

/// The schema and the settings of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MetaData {
    pub(super) id: String,
    #[serde(default)]
    pub(super) name: Option<String>,
    pub(super) format: Format,
    pub(super) schema_string: String,
    pub(super) partition_columns: Vec<String>,
    #[serde(default)]
    pub(super) created_time: Option<i64>,
    #[serde(default)]
    pub(super) configuration: BTreeMap<String, Option<String>>,
}

/// The format of data files; always Parquet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Format {
    pub(super) provider: String,
    #[serde(default)]
    pub(super) options: BTreeMap<String, Option<String>>,
}

/// How far an application has come in this table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Txn {
    pub(super) app_id: String,
    pub(super) version: i64,
    #[serde(default)]
    pub(super) last_updated: Option<i64>,
}

/// A data file that belongs to the table from this version on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Add {
    /// Relative to the table's folder, percent-encoded.
    pub(super) path: String,
    pub(super) partition_values: BTreeMap<String, Option<String>>,
    pub(super) size: i64,
    pub(super) modification_time: i64,
    pub(super) data_change: bool,
    #[serde(default)]
    pub(super) stats: Option<String>,
    #[serde(default)]
    pub(super) tags: Option<BTreeMap<String, Option<String>>>,
}

/// A data file that belongs to the table no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Remove {
    pub(super) path: String,
    #[serde(default)]
    pub(super) deletion_timestamp: Option<i64>,
    pub(super) data_change: bool,
    #[serde(default)]
    pub(super) extended_file_metadata: Option<bool>,
    #[serde(default)]
    pub(super) partition_values: Option<BTreeMap<String, Option<String>>>,
    #[serde(default)]
    pub(super) size: Option<i64>,
}

/// What a line of a commit, or a row of a checkpoint, says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Protocol(Protocol),
    MetaData(MetaData),
    Txn(Txn),
    Add(Add),
    Remove(Remove),
}

/// The form on disk: one column for each kind, one of them filled. Kinds that are not known are skipped, as the
/// protocol asks.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    commit_info: Option<CommitInfo>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protocol: Option<Protocol>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    meta_data: Option<MetaData>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    txn: Option<Txn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    add: Option<Add>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remove: Option<Remove>,
}

/// Who wrote a commit, for people and for `DESCRIBE HISTORY`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct CommitInfo {
    pub(super) timestamp: Option<i64>,
    pub(super) operation: Option<String>,
    pub(super) operation_parameters: Option<serde_json::Map<String, serde_json::Value>>,
    pub(super) engine_info: Option<String>,
    pub(super) is_blind_append: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tidemill: Option<Seal>,
}

/// Covers the lines after the first.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Seal {
    lines: usize,
    crc32c: String,
    /// Which version it was written as; those of earlier programs do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
}

/// A commit whose version is not known yet.
pub(super) struct Commit {
    info: CommitInfo,
    lines: usize,
    body: Vec<u8>,
}

impl From<Action> for Row {
    fn from(action: Action) -> Row {
        match action {
            Action::Protocol(it) => Row { protocol: Some(it), ..Row::default() },
            Action::MetaData(it) => Row { meta_data: Some(it), ..Row::default() },
            Action::Txn(it) => Row { txn: Some(it), ..Row::default() },
            Action::Add(it) => Row { add: Some(it), ..Row::default() },
            Action::Remove(it) => Row { remove: Some(it), ..Row::default() },
        }
    }
}

impl Row {
    /// Returns what the row says, if it is of a kind that matters here.
    pub(super) fn into_action(self) -> Option<Action> {
        self.protocol
            .map(Action::Protocol)
            .or(self.meta_data.map(Action::MetaData))
            .or(self.txn.map(Action::Txn))
            .or(self.add.map(Action::Add))
            .or(self.remove.map(Action::Remove))
    }
}

impl CommitInfo {
    /// Describes an operation of this program.
    pub(super) fn new(now_ms: i64, operation: &str, parameters: &[(&str, String)]) -> CommitInfo {
        let parameters = parameters.iter().map(|(key, value)| ((*key).to_owned(), value.as_str().into())).collect();
        CommitInfo {
            timestamp: Some(now_ms),
            operation: Some(operation.to_owned()),
            operation_parameters: Some(parameters),
            engine_info: Some(concat!("tidemill/", env!("CARGO_PKG_VERSION")).to_owned()),
            is_blind_append: Some(true),
            tidemill: None,
        }
    }
}

impl Commit {
    /// Makes a commit of actions.
    pub(super) fn new(info: CommitInfo, actions: Vec<Action>) -> Commit {
        let lines = actions.len();
        let mut body = Vec::new();
        for action in actions {
            write_line(&mut body, &Row::from(action));
        }
        Commit { info, lines, body }
    }

    /// Returns its bytes, sealed, as they stand under a version.
    pub(super) fn encode(&self, version: u64) -> Vec<u8> {
        let crc32c = format!("{:08x}", crc32c::crc32c(&self.body));
        let seal = Seal { lines: self.lines, crc32c, version: Some(version) };
        let info = CommitInfo { tidemill: Some(seal), ..self.info.clone() };
        let mut bytes = Vec::with_capacity(self.body.len() + 512);
        write_line(&mut bytes, &Row { commit_info: Some(info), ..Row::default() });
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// Reads the commit of a version, which `path` names, and refuses one that is not whole, or another's.
pub(super) fn decode_commit(path: &str, version: u64, bytes: &[u8]) -> Result<Vec<Action>, TableError> {
    let damaged = |problem: String| TableError::Damaged { path: path.to_owned(), problem };
    if bytes.is_empty() {
        return Err(damaged("it has 0 bytes, as after a power loss without fsync".to_owned()));
    }
    let mut seal = None;
    let mut rest = bytes;
    let mut actions = Vec::new();
    let mut lines = 0;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let line = &rest[..end];
        rest = &rest[(end + 1).min(rest.len())..];
        if line.trim_ascii().is_empty() {
            continue;
        }
        lines += 1;
        let row: Row = serde_json::from_slice(line).map_err(|error| damaged(format!("line {lines}: {error}")))?;
        if let Some(found) = row.commit_info.as_ref().and_then(|info| info.tidemill.clone()) {
            seal = Some((found, crc32c::crc32c(rest), lines));
        }
        actions.extend(row.into_action());
    }
    match seal {
        Some((seal, _, at)) if seal.lines != lines - at => {
            Err(damaged(format!("it has {} actions of {}", lines - at, seal.lines)))
        }
        Some((seal, crc32c, _)) if seal.crc32c != format!("{crc32c:08x}") => {
            Err(damaged(format!("its checksum is {crc32c:08x}, not {} as written", seal.crc32c)))
        }
        Some((Seal { version: Some(other), .. }, ..)) if other != version => {
            Err(damaged(format!("this is version {other} under another name")))
        }
        _ if lines == 0 => Err(damaged("it holds nothing but white space".to_owned())),
        _ => Ok(actions),
    }
}

/// Returns when a commit was written, if its writer said so.
pub(super) fn commit_time_ms(bytes: &[u8]) -> Option<i64> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    lines.find_map(|line| serde_json::from_slice::<Row>(line).ok()?.commit_info?.timestamp)
}

/// Returns one line for each row: the form in which rows are compared.
pub(super) fn lines(rows: &[Row]) -> Vec<u8> {
    let mut bytes = Vec::new();
    rows.iter().for_each(|row| write_line(&mut bytes, row));
    bytes
}

fn write_line(bytes: &mut Vec<u8>, row: &Row) {
    serde_json::to_writer(&mut *bytes, row).expect("actions have text keys and go to memory");
    bytes.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit() -> (Vec<Action>, Vec<u8>) {
        let add = Add {
            path: "e1.parquet".to_owned(),
            partition_values: BTreeMap::from([("date".to_owned(), None)]),
            size: 7,
            modification_time: 1,
            data_change: true,
            stats: Some("{}".to_owned()),
            tags: None,
        };
        let txn = Txn { app_id: "tidemill/a/b".to_owned(), version: 3, last_updated: Some(1) };
        let actions = vec![Action::Txn(txn), Action::Add(add)];
        (actions.clone(), Commit::new(CommitInfo::new(1, "WRITE", &[]), actions).encode(7))
    }

    #[test]
    fn a_commit_is_read_as_it_was_written() {
        let (actions, bytes) = commit();
        assert_eq!(decode_commit("7.json", 7, &bytes).unwrap(), actions);
    }

    #[test]
    fn a_commit_cut_anywhere_is_refused() {
        let (_, bytes) = commit();
        // Without its last newline a commit is still whole.
        for len in 0..bytes.len() - 1 {
            let error = decode_commit("t/_delta_log/7.json", 7, &bytes[..len]).expect_err("a torn commit").to_string();
            assert!(error.starts_with("t/_delta_log/7.json is damaged"), "{len}: {error}");
        }
    }

    #[test]
    fn a_flipped_bit_in_an_action_is_found() {
        let (_, bytes) = commit();
        let first = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for at in first..bytes.len() - 1 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(decode_commit("7.json", 7, &flipped).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_commit_under_the_name_of_another_is_refused_and_one_that_does_not_say_is_not() {
        let (actions, bytes) = commit();
        let error = decode_commit("t/_delta_log/8.json", 8, &bytes).expect_err("a copy of version 7").to_string();
        assert!(error.starts_with("t/_delta_log/8.json is damaged: this is version 7"), "{error}");
        let old = String::from_utf8(bytes).unwrap().replace(",\"version\":7}", "}");
        assert_eq!(decode_commit("8.json", 8, old.as_bytes()).unwrap(), actions);
    }

    #[test]
    fn a_commit_of_another_writer_needs_no_seal_and_no_known_kinds() {
        let bytes = b"{\"commitInfo\":{\"operation\":\"OPTIMIZE\"}}\n{\"domainMetadata\":{\"domain\":\"x\"}}";
        assert_eq!(decode_commit("7.json", 7, bytes).unwrap(), Vec::new());
    }
}
