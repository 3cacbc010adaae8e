//! Which files a path names.

use std::path::{Path, PathBuf};

use tidemill_engine::source::SourceError;

use super::input::Packing;
use super::unreadable;
use crate::format::Encoding;

/// Says what a file holds by the ending of its name, that of its compression aside.
pub(super) fn encoding_of(path: &str) -> Option<Encoding> {
    let path = match Packing::of(path) {
        Packing::Plain => path,
        Packing::Gzip | Packing::Zstd => Path::new(path).file_stem()?.to_str()?,
    };
    let extension = Path::new(path).extension()?.to_str()?.to_ascii_lowercase();
    match extension.as_str() {
        "json" | "ndjson" | "jsonl" => Some(Encoding::Json),
        "csv" => Some(Encoding::Csv { delimiter: b',' }),
        "tsv" => Some(Encoding::Csv { delimiter: b'\t' }),
        "parquet" => Some(Encoding::Parquet),
        "avro" => Some(Encoding::Avro),
        "log" | "txt" => Some(Encoding::Text),
        "arrow" | "arrows" | "feather" => Some(Encoding::Arrow),
        _ => None,
    }
}

/// Returns the ending of a path that says the file is compressed in a way that cannot be read.
pub(super) fn packed_ending(path: &str) -> Option<&'static str> {
    let extension = Path::new(path).extension()?.to_str()?.to_ascii_lowercase();
    ["bz2", "xz", "zip", "lz4"].into_iter().find(|ending| *ending == extension)
}

/// Finds the files, by name, relative to the base folder where they lie in it.
pub(super) fn find(path: &str, base_dir: &Path, encoding: Encoding) -> Result<Vec<String>, SourceError> {
    let whole = base_dir.join(path);
    let found = match is_single(&whole) {
        true => vec![whole.clone()],
        false => {
            let (folder, is_wanted) = followed(path, base_dir, encoding)?;
            list(&folder, is_wanted)?
        }
    };
    if found.is_empty() {
        return Err(SourceError::Environment(format!("no file matches {}", whole.display())));
    }
    found.iter().map(|file| partition(file, base_dir)).collect()
}

/// Says whether the name of a file is asked for.
pub(super) type Wanted = Box<dyn Fn(&str) -> bool>;

/// Returns the folder that a path names files of, and which of them it names.
pub(super) fn followed(path: &str, base_dir: &Path, encoding: Encoding) -> Result<(PathBuf, Wanted), SourceError> {
    let whole = base_dir.join(path);
    let is_folder = path.ends_with('/') || !is_single(&whole) && !pattern(&whole).contains('*');
    if is_folder {
        let is_wanted =
            move |name: &str| !is_hidden(name) && encoding_of(name).is_some_and(|found| is_same_kind(found, encoding));
        return Ok((whole, Box::new(is_wanted)));
    }
    let last = pattern(&whole);
    let is_wanted: Wanted = match last.contains('*') {
        true => Box::new(move |name| !is_hidden(name) && matches(&last, name)),
        false => Box::new(move |name| name == last),
    };
    match whole.parent() {
        Some(folder) => Ok((folder.to_owned(), is_wanted)),
        None => Err(SourceError::Environment(format!("{} names no file", whole.display()))),
    }
}

/// Lists the names in a folder, in no order.
pub(super) fn names(folder: &Path) -> Result<impl Iterator<Item = std::io::Result<(PathBuf, String)>>, SourceError> {
    let entries = std::fs::read_dir(folder).map_err(|error| unreadable(folder, &error))?;
    Ok(entries.map(|entry| {
        let entry = entry?;
        Ok((entry.path(), entry.file_name().to_string_lossy().into_owned()))
    }))
}

fn is_single(whole: &Path) -> bool {
    !pattern(whole).contains('*') && !whole.is_dir()
}

fn pattern(whole: &Path) -> String {
    whole.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned()
}

fn is_hidden(name: &str) -> bool {
    name.starts_with('.')
}

fn list(folder: &Path, is_wanted: Wanted) -> Result<Vec<PathBuf>, SourceError> {
    let mut found = Vec::new();
    for entry in names(folder)? {
        let (path, name) = entry.map_err(|error| unreadable(folder, &error))?;
        if is_wanted(&name) && path.is_file() {
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
