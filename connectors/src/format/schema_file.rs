//! Files that describe a format: read when a source is connected, so that `tidemill check` finds the mistakes.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::options::OptionError;

/// Bytes of a file that describes a format.
const BYTES_MAX: u64 = 4 << 20;

/// Reads a file that an option names.
pub(super) fn read_file(key: &'static str, path: &Path) -> Result<Vec<u8>, OptionError> {
    let refuse = |error: std::io::Error| OptionError::new(key, format!("cannot read {}: {error}", path.display()));
    let file = File::open(path).map_err(refuse)?;
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(refuse)?;
    match bytes.len() as u64 > BYTES_MAX {
        true => Err(OptionError::new(key, format!("{} has more than {BYTES_MAX} bytes", path.display()))),
        false => Ok(bytes),
    }
}

/// The same, as text.
pub(super) fn read_text(key: &'static str, path: &Path) -> Result<String, OptionError> {
    String::from_utf8(read_file(key, path)?)
        .map_err(|_| OptionError::new(key, format!("{} is not UTF-8", path.display())))
}
