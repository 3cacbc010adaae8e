//! URL templates: where each row goes.
//!
//! ```text
//!   https://example.com/devices/{device}/readings     device = 'cold room/2'     …/devices/cold%20room%2F2/readings
//! ```
//! Columns stand in the path and in the query, never before: which server is spoken to is decided by whoever writes the
//! pipeline, not by what is in the data. A value is written as in a URL, every sign but letters, digits and `-._~` by its
//! bytes, so it cannot become two levels or another parameter. NULL, and a text without letters, are `_`. A row whose path
//! would have a level `.` or `..` cannot be delivered: every server takes these as a way to somewhere else.

use std::fmt::Write as _;

use arrow::datatypes::Schema;

use crate::options::nearest;

/// Servers commonly take URLs of 8,000 bytes.
const PATH_BYTES_MAX: usize = 8_000;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UrlTemplate {
    /// With `x` in place of each column.
    example: String,
    /// Path and query. Empty without columns: then rows go where the sink points now.
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// A column, by its place.
    Column(usize),
}

impl UrlTemplate {
    /// Reads a template over the columns of a view; says what is wrong with it. Whether it is a URL is not looked at.
    pub(super) fn parse(text: &str, schema: &Schema) -> Result<UrlTemplate, String> {
        if text.contains(|letter: char| letter.is_control() || letter.is_whitespace() || letter == '\\') {
            return Err(
                "holds a blank, a backslash or a control character: write them as in a URL, such as %20".to_owned()
            );
        }
        // Behind the server: the first / or ? after ://.
        let host = text.find("://").map_or(0, |at| at + 3);
        let path = text[host..].find(['/', '?', '#']).map_or(text.len(), |at| host + at);
        if text[..path].contains(['{', '}']) {
            return Err("has a column before its path: the server must be the same for all rows".to_owned());
        }
        let (mut pieces, mut rest, mut example) = (Vec::new(), &text[path..], text[..path].to_owned());
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            let Some((name, after)) = from.strip_prefix('{').and_then(|from| from.split_once('}')) else {
                return Err("has a brace without the other: a column is written {name}".to_owned());
            };
            let column = schema.index_of(name).map_err(|_| unknown(name, schema))?;
            example.push_str(before);
            example.push('x');
            pieces.extend([Piece::Text(before.to_owned()), Piece::Column(column)]);
            rest = after;
        }
        example.push_str(rest);
        if !pieces.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
            if !text[path..].starts_with('/') {
                // So that what is rendered always begins with a slash.
                pieces.insert(0, Piece::Text("/".to_owned()));
            }
        }
        Ok(UrlTemplate { example, pieces })
    }

    /// Returns a URL as rows have it.
    pub(super) fn example(&self) -> &str {
        &self.example
    }

    /// Returns the places of the columns it names.
    pub(super) fn columns(&self) -> impl Iterator<Item = usize> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Text(_) => None,
            Piece::Column(column) => Some(*column),
        })
    }

    /// Writes the path and query of a row; `value` writes a column of it as text, nothing if it is NULL. Nothing is written
    /// for a template without columns.
    ///
    /// # Errors
    /// If the row cannot be delivered.
    pub(super) fn render(&self, path: &mut String, mut value: impl FnMut(usize, &mut String)) -> Result<(), String> {
        path.clear();
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(piece) => path.push_str(piece),
                Piece::Column(column) => {
                    text.clear();
                    value(*column, &mut text);
                    escape(&text, path);
                }
            }
        }
        let levels = path.split('?').next().unwrap_or_default().split('/');
        if let Some(level) = levels.into_iter().find(|level| is_a_way(level)) {
            return Err(format!("its path would have the level {level}, which leads somewhere else"));
        }
        match path.len() <= PATH_BYTES_MAX {
            true => Ok(()),
            false => Err(format!("its URL would have {} bytes, and servers take {PATH_BYTES_MAX}", path.len())),
        }
    }
}

/// `.`, `..`, and what a URL parser takes for them.
fn is_a_way(level: &str) -> bool {
    matches!(level.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..")
}

fn escape(value: &str, path: &mut String) {
    if value.is_empty() {
        path.push('_');
    }
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => path.push(char::from(byte)),
            // Writing to a string cannot fail.
            byte => drop(write!(path, "%{byte:02X}")),
        }
    }
}

fn unknown(name: &str, schema: &Schema) -> String {
    let columns = || schema.fields().iter().map(|field| field.name().as_str());
    match nearest(name, columns()) {
        Some(near) => format!("there is no column {name:?}; did you mean {near}?"),
        None => format!("there is no column {name:?}; there are {}", columns().collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};
    use url::Url;

    use super::super::courier::at_path;
    use super::*;

    fn schema() -> Schema {
        Schema::new(vec![Field::new("site", DataType::Utf8, true), Field::new("device", DataType::Utf8, true)])
    }

    fn rendered(template: &str, values: [&str; 2]) -> Result<String, String> {
        let template = UrlTemplate::parse(template, &schema()).expect("valid");
        let mut path = String::new();
        template.render(&mut path, |column, text| text.push_str(values[column]))?;
        Ok(path)
    }

    #[test]
    fn columns_become_levels_and_parameters_and_nothing_more() {
        for (template, values, path) in [
            ("https://h/{site}/{device}", ["lab", "freezer"], "/lab/freezer"),
            ("https://h/a?at={site}&of={device}", ["a&b=c", "d#e?f"], "/a?at=a%26b%3Dc&of=d%23e%3Ff"),
            ("https://h/x/{device}", ["", "cold room/2\r\nHost: x"], "/x/cold%20room%2F2%0D%0AHost%3A%20x"),
            ("https://h/{site}-{device}.json", ["", "é"], "/_-%C3%A9.json"),
            ("https://h?d={device}", ["", "1"], "/?d=1"),
            ("https://h//{device}", ["", "evil.example"], "//evil.example"),
            ("https://h/all", ["", ""], ""),
        ] {
            assert_eq!(rendered(template, values).as_deref(), Ok(path), "{template}");
            let url = at_path(&Url::parse("https://h:8443/all").expect("a URL"), path);
            assert_eq!((url.host_str(), url.port(), url.scheme()), (Some("h"), Some(8443), "https"), "{url}");
        }
        for values in [["a", ".."], ["a", "."]] {
            let problem = rendered("https://h/{site}/{device}", values).expect_err("a way");
            assert!(problem.contains("leads somewhere else"), "{problem}");
        }
        assert!(rendered("https://h/.{device}", ["", "."]).is_err());
        assert!(rendered("https://h/%2e{device}", ["", "."]).is_err());
        assert!(rendered("https://h/{device}", ["", &"x".repeat(9_000)]).expect_err("long").contains("9001 bytes"));
    }

    #[test]
    fn mistakes_say_what_would_be_right() {
        for (template, words) in [
            ("https://{site}/x", "the server must be the same for all rows"),
            ("https://h:{device}/x", "the server must be the same"),
            ("{site}", "the server must be the same"),
            ("https://h/{site", "a brace without the other"),
            ("https://h/site}", "a brace without the other"),
            ("https://h/{devize}", "did you mean device?"),
            ("https://h/{room}", "there are site, device"),
            ("https://h/a b", "holds a blank"),
            ("https://h\\x/{site}", "a backslash"),
        ] {
            let problem = UrlTemplate::parse(template, &schema()).expect_err(template);
            assert!(problem.contains(words), "{template}: {problem}");
        }
    }

    #[test]
    fn fuzz_no_template_and_no_value_leads_to_another_server() {
        const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/sinks/http/corpus/url");
        let base = Url::parse("https://host.example:8443/base").expect("a URL");
        tidemill_engine::testing::fuzz::fuzz(CORPUS, |input| {
            let Ok(text) = std::str::from_utf8(input) else { return false };
            let (template, value) = text.split_once('\n').unwrap_or((text, text));
            let Ok(template) = UrlTemplate::parse(template, &schema()) else { return false };
            let (mut path, parsed) = (String::new(), Url::parse(template.example()));
            if template.render(&mut path, |_, text| text.push_str(value)).is_err() {
                return false;
            }
            let url = at_path(&base, &path);
            assert_eq!((url.host_str(), url.port()), (Some("host.example"), Some(8443)), "{text:?}: {url}");
            assert!(url.username().is_empty() && url.fragment().is_none(), "{text:?}: {url}");
            assert!(!path.bytes().any(|byte| byte.is_ascii_control() || byte == b' '), "{text:?}: {path:?}");
            parsed.is_ok()
        });
    }
}
