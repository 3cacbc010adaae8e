//! Which files a path names.

use std::path::{Path, PathBuf};

use tidemill_engine::source::SourceError;

use super::unreadable;
use crate::format::Encoding;

/// Says what a file holds by the ending of its name.
pub(super) fn encoding_of(path: &str) -> Option<Encoding> {
    let extension = Path::new(path).extension()?.to_str()?.to_ascii_lowercase();
    match extension.as_str() {
        "json" | "ndjson" | "jsonl" => Some(Encoding::Json),
        "csv" => Some(Encoding::Csv { delimiter: b',' }),
        "tsv" => Some(Encoding::Csv { delimiter: b'\t' }),
        "parquet" => Some(Encoding::Parquet),
        _ => None,
    }
}

/// Returns the ending of a path that says the file is compressed.
pub(super) fn packed_ending(path: &str) -> Option<&'static str> {
    let extension = Path::new(path).extension()?.to_str()?.to_ascii_lowercase();
    ["gz", "bz2", "xz", "zst", "zip"].into_iter().find(|ending| *ending == extension)
}

/// Finds the files, by name, relative to the base folder where they lie in it.
pub(super) fn find(path: &str, base_dir: &Path, encoding: Encoding) -> Result<Vec<String>, SourceError> {
    let whole = base_dir.join(path);
    let last = whole.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let found = if last.contains('*') {
        let folder = whole.parent().unwrap_or(base_dir);
        list(folder, |name| matches(&last, name))?
    } else if whole.is_dir() {
        list(&whole, |name| encoding_of(name).is_some_and(|found| is_same_kind(found, encoding)))?
    } else {
        vec![whole.clone()]
    };
    if found.is_empty() {
        return Err(SourceError::Environment(format!("no file matches {}", whole.display())));
    }
    found.iter().map(|file| partition(file, base_dir)).collect()
}

fn list(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, SourceError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| unreadable(folder, &error))? {
        let path = entry.map_err(|error| unreadable(folder, &error))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !name.starts_with('.') && wanted(name) && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn partition(file: &Path, base_dir: &Path) -> Result<String, SourceError> {
    let relative = file.strip_prefix(base_dir).unwrap_or(file);
    match relative.to_str() {
        Some(name) => Ok(name.to_owned()),
        None => Err(SourceError::Environment(format!("the name of {} is not UTF-8", file.display()))),
    }
}

fn is_same_kind(a: Encoding, b: Encoding) -> bool {
    std::mem::discriminant(&a) == std::mem::discriminant(&b)
}

/// Matches a name with a pattern in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name, expected) in [
            ("*.csv", "a.csv", true),
            ("*.csv", "a.json", false),
            ("day-*-of-*.csv", "day-1-of-7.csv", true),
            ("day-*-of-*.csv", "day-1.csv", false),
            ("a*a", "a", false),
            ("a", "ab", false),
            ("*", "anything", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
