//! Paths of data files: the folder of a partition, and the form a path has in the log.
//!
//! Two escapes lie over each other, as the formats ask: a partition's value is percent-encoded to be a folder's name
//! (`site=a%2Fb`), and the whole path is percent-encoded once more in the log (`site=a%252Fb/…`). The value that
//! counts is in the log; the folder is for people, so a long one is simply cut.

use std::fmt;
use std::fmt::Write;

use tidemill_engine::epoch::Epoch;

use super::TableError;

/// The folder of rows whose partition value is null.
const NULL_FOLDER: &str = "__HIVE_DEFAULT_PARTITION__";
/// Below the 255 bytes of common file systems; a cut folder may hold several values.
const FOLDER_BYTES_MAX: usize = 200;

/// Returns the folder of a partition.
pub(super) fn folder(column: &str, value: Option<&str>) -> String {
    let mut folder = percent_encode(column, b"_-.~");
    if folder.starts_with('.') {
        // A folder that begins with a dot is hidden from globs.
        folder.replace_range(..1, "%2E");
    }
    folder.push('=');
    folder.push_str(&value.map_or_else(|| NULL_FOLDER.to_owned(), |value| percent_encode(value, b"_-.~")));
    if folder.len() > FOLDER_BYTES_MAX {
        let cut = folder.len().min(FOLDER_BYTES_MAX);
        // Not in the middle of an escape.
        let cut = (cut - 2..cut).find(|at| folder.as_bytes()[*at] == b'%').unwrap_or(cut);
        folder.truncate(cut);
    }
    folder
}

/// The name of a data file: unique for each attempt to write one, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileName {
    /// The commit that it was prepared for.
    pub(super) epoch: Epoch,
    /// The process that prepared it.
    pub(super) incarnation: u64,
    /// The writer in that process.
    pub(super) writer: usize,
    /// Counts the files of one writer for one epoch.
    pub(super) sequence: u32,
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FileName { epoch, incarnation, writer, sequence } = self;
        write!(f, "e{:012}-{incarnation:016x}-w{writer:05}-{sequence:04}.parquet", epoch.0)
    }
}

impl FileName {
    /// Reads the name of a file in a table's folder; `None` if it is not one that this program gives.
    pub(super) fn parse(path: &str) -> Option<FileName> {
        let name = path.rsplit('/').next().unwrap_or(path);
        let mut parts = name.strip_suffix(".parquet")?.split('-');
        let found = FileName {
            epoch: Epoch(parts.next()?.strip_prefix('e')?.parse().ok()?),
            incarnation: u64::from_str_radix(parts.next()?, 16).ok()?,
            writer: parts.next()?.strip_prefix('w')?.parse().ok()?,
            sequence: parts.next()?.parse().ok()?,
        };
        // Only what would be written the same: anything else is somebody else's.
        (found.to_string() == name).then_some(found)
    }
}

/// Writes a path as the log has it.
pub(super) fn encode_path(path: &str) -> String {
    percent_encode(path, b"_-.~/=")
}

/// Reads a path as the log has it, and refuses one that leaves the table's folder.
pub(super) fn decode_path(dir: &str, encoded: &str) -> Result<String, TableError> {
    let refused = |problem: &str| TableError::Unsupported {
        dir: dir.to_owned(),
        problem: format!("the log names the file {encoded:?}, {problem}"),
    };
    let path = percent_decode(encoded).ok_or_else(|| refused("whose name is not percent-encoded UTF-8"))?;
    let outside = path.contains(['\\', '\0'])
        || encoded.contains("://")
        || path.split('/').any(|part| part.is_empty() || part == "." || part == "..");
    if outside { Err(refused("which is not in the table's folder")) } else { Ok(path) }
}

fn percent_encode(text: &str, plain: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || plain.contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a string takes all text");
        }
    }
    encoded
}

fn percent_decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let hex = std::str::from_utf8(after.get(..2)?).ok()?;
            decoded.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &after[2..];
        } else {
            decoded.push(*first);
            rest = after;
        }
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_value_never_makes_another_folder() {
        for (value, expected) in [
            (Some("2026-11-20"), "site=2026-11-20"),
            (Some("../../etc"), "site=..%2F..%2Fetc"),
            (Some("a b%ü"), "site=a%20b%25%C3%BC"),
            (None, "site=__HIVE_DEFAULT_PARTITION__"),
        ] {
            assert_eq!(folder("site", value), expected);
        }
        assert_eq!(folder(".a/b", Some("x")), "%2Ea%2Fb=x");
    }

    #[test]
    fn a_file_name_is_known_again_and_others_are_not() {
        let name = FileName { epoch: Epoch(42), incarnation: 0x9f2c_61d0_a4b8_e357, writer: 3, sequence: 7 };
        assert_eq!(name.to_string(), "e000000000042-9f2c61d0a4b8e357-w00003-0007.parquet");
        assert_eq!(FileName::parse(&format!("date=2026-11-20/{name}")), Some(name));
        let large = FileName { epoch: Epoch(u64::MAX), incarnation: 0, writer: 1_000_000, sequence: 1_000_000 };
        assert_eq!(FileName::parse(&large.to_string()), Some(large));
        for other in ["part-00000-c000.snappy.parquet", "e42-9f2c61d0a4b8e357-w00003-0007.parquet", "e.parquet", ""] {
            assert_eq!(FileName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_long_value_is_cut_between_escapes() {
        for pad in 0..4 {
            let value = format!("{}{}", "x".repeat(pad), "/".repeat(300));
            let folder = folder("site", Some(&value));
            assert!(folder.len() <= FOLDER_BYTES_MAX && percent_decode(&folder).is_some(), "{folder}");
        }
    }

    #[test]
    fn paths_survive_the_log_and_stay_inside() {
        let path = "site=a%2Fb $ü/e1.parquet";
        assert_eq!(encode_path(path), "site=a%252Fb%20%24%C3%BC/e1.parquet");
        assert_eq!(decode_path("t", &encode_path(path)).unwrap(), path);
        for bad in ["../x", "a/../../x", "/etc/passwd", "s3://b/x", "a%2F..%2Fx", "a%zz", "a%2", "%FF", "a\\b", "%00"] {
            assert!(decode_path("t", bad).is_err(), "{bad}");
        }
    }
}
