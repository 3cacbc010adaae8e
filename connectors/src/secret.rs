//! Values that nobody may see: passwords, from a text, the environment or a file.
//!
//! A value from the environment or a file is read when a connection begins, each time anew: a changed password needs no
//! restart, and nothing of it lies in the plan. It is never part of an error, a log line or a `Debug` text.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The longest value: MQTT's length field has 16 bits, and no token of HTTP is longer.
const VALUE_BYTES_MAX: u64 = 65_535;

/// Where a secret value is.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// Here.
    Text(String),
    /// In a variable of the environment.
    Environment(String),
    /// In a file, up to its line feed if it ends with one.
    File(PathBuf),
}

/// Why a secret value cannot be had; says where it should be, never what it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The variable is not there.
    #[error("the environment variable {0} is not set: set it for the program that runs the pipeline")]
    NotSet(String),
    /// The file cannot be read.
    #[error("cannot read the secret in {path}: {problem}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system says.
        problem: String,
    },
    /// There is nothing in it.
    #[error("the secret in {0} is empty")]
    Empty(String),
    /// It is no text.
    #[error("the secret in {0} is not a text of UTF-8 without NUL and of at most {VALUE_BYTES_MAX} bytes")]
    NotText(String),
}

impl Secret {
    /// Puts a relative path behind a folder.
    #[must_use]
    pub fn based_at(self, folder: &Path) -> Secret {
        match self {
            Secret::File(path) => Secret::File(folder.join(path)),
            secret => secret,
        }
    }

    /// Returns the value as it is now. Blocks for the time of reading a small file.
    pub fn read(&self) -> Result<String, SecretError> {
        let (value, place) = match self {
            Secret::Text(text) => return Ok(text.clone()),
            Secret::Environment(name) => {
                let value = std::env::var_os(name).ok_or_else(|| SecretError::NotSet(name.clone()))?;
                let place = format!("the environment variable {name}");
                (value.into_string().map_err(|_| SecretError::NotText(place.clone()))?, place)
            }
            Secret::File(path) => (read_file(path)?, path.display().to_string()),
        };
        if value.is_empty() {
            return Err(SecretError::Empty(place));
        }
        if value.contains('\0') || value.len() as u64 > VALUE_BYTES_MAX {
            return Err(SecretError::NotText(place));
        }
        Ok(value)
    }
}

fn read_file(path: &Path) -> Result<String, SecretError> {
    let failed = |problem: std::io::Error| SecretError::Read { path: path.to_owned(), problem: problem.to_string() };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(VALUE_BYTES_MAX + 3).read_to_end(&mut bytes).map_err(failed)?;
    let mut value = String::from_utf8(bytes).map_err(|_| SecretError::NotText(path.display().to_string()))?;
    if value.ends_with('\n') {
        value.pop();
        if value.ends_with('\r') {
            value.pop();
        }
    }
    Ok(value)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::Text(_) => f.write_str("Secret(***)"),
            Secret::Environment(name) => write!(f, "Secret(ENV {name})"),
            Secret::File(path) => write!(f, "Secret(FILE {})", path.display()),
        }
    }
}

/// What `CREATE SECRET name (…)` defines: values by their keys, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedSecret {
    /// Its name.
    pub name: String,
    /// What is in it.
    pub values: BTreeMap<String, Secret>,
}

/// Replaces by asterisks what may stand as a secret in a line of SQL; the line keeps its width.
///
/// For lines that are shown beside a mistake: every text behind `CREATE SECRET`, every text behind a word such as `password`, however
/// it is misspelt, and what stands before the `@` of a URL. A text without its closing quote ends with the line.
pub fn masked(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let words: Vec<&str> = lower.split_whitespace().collect();
    let defines = words.windows(2).any(|pair| pair == ["create", "secret"]);
    let mut letters: Vec<char> = line.chars().collect();
    let mut at = 0;
    while at < letters.len() {
        if letters[at] != '\'' {
            at += 1;
            continue;
        }
        let end = end_of_text(&letters, at);
        if defines || is_secret_key(&letters[..at]) {
            letters[at + 1..end].fill('*');
        }
        at = end + 1;
    }
    mask_url(&mut letters);
    letters.into_iter().collect()
}

/// Returns where the text that begins at a quote ends: at its closing quote, or with the line. A doubled quote is part of it.
fn end_of_text(letters: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < letters.len() {
        match (letters[at], letters.get(at + 1)) {
            ('\'', Some('\'')) => at += 2,
            ('\'', _) => return at,
            _ => at += 1,
        }
    }
    letters.len()
}

/// Says whether what stands before a text ends with the key of a secret: `password =`, `PASSWORD`, `'passwd'=`.
fn is_secret_key(before: &[char]) -> bool {
    let is_sign = |letter: &char| letter.is_whitespace() || ['=', '\'', '"'].contains(letter);
    let end = before.iter().rposition(|letter| !is_sign(letter)).map_or(0, |last| last + 1);
    let is_word = |letter: &char| letter.is_alphanumeric() || ['_', '.', '-'].contains(letter);
    let start = before[..end].iter().rposition(|letter| !is_word(letter)).map_or(0, |last| last + 1);
    let word: String = before[start..end].iter().map(char::to_ascii_lowercase).collect();
    // What names a place may be read.
    let names_place = word.ends_with("_env") || word.ends_with("_file");
    // A header or a parameter may be anything, a key to everything among it.
    word.starts_with("header.")
        || word.starts_with("query.")
        || !names_place && ["pass", "pasw", "pwd", "token"].iter().any(|part| word.contains(part))
}

/// Masks what stands before the `@` of a URL: credentials that do not belong there.
fn mask_url(letters: &mut [char]) {
    let mut start = 0;
    while let Some(at) = letters[start..].windows(3).position(|window| window == [':', '/', '/']) {
        start += at + 3;
        let end = letters[start..].iter().position(|letter| ['\'', '"'].contains(letter) || letter.is_whitespace());
        let end = end.map_or(letters.len(), |end| start + end);
        if let Some(sign) = letters[start..end].iter().rposition(|letter| *letter == '@') {
            letters[start..start + sign].fill('*');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::write_file;

    #[test]
    fn values_come_from_their_place_and_are_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        write_file(&path, "hunter2\r\n");
        let secret = Secret::File("password".into()).based_at(folder.path());
        assert_eq!(secret.read(), Ok("hunter2".to_owned()));
        write_file(&path, "two words \n\n");
        assert_eq!(secret.read(), Ok("two words \n".to_owned()), "changed, and one line feed less");
        assert_eq!(Secret::Text("hunter2".to_owned()).read(), Ok("hunter2".to_owned()));
        assert!(Secret::Environment("PATH".to_owned()).read().is_ok());

        write_file(&path, "\n");
        let missing = folder.path().join("missing");
        for (secret, words) in [
            (secret, "is empty"),
            (Secret::File(missing), "cannot read the secret in"),
            (Secret::Environment("TIDEMILL_NO_SUCH_VARIABLE".to_owned()), "TIDEMILL_NO_SUCH_VARIABLE is not set"),
        ] {
            let problem = secret.read().expect_err(words).to_string();
            assert!(problem.contains(words), "{problem}");
        }
        assert!(!format!("{:?}", Secret::Text("hunter2".to_owned())).contains("hunter2"));
    }

    #[test]
    fn a_shown_line_has_no_password_and_keeps_its_width() {
        for (line, shown) in [
            ("WITH (username = 'u', password = 'p''w', qos = 1)", "WITH (username = 'u', password = '****', qos = 1)"),
            ("'password'='abc',", "'password'='***',"),
            ("'header.x-api-key' = 'abc', 'tls.ca' = 'x'", "'header.x-api-key' = '***', 'tls.ca' = 'x'"),
            ("CREATE SECRET s (TYPE mqtt, PSWRD 'abc' 'de')", "CREATE SECRET s (TYPE mqtt, PSWRD '***' '**')"),
            ("    PASSWRD 'abc',", "    PASSWRD '***',"),
            ("password = 'open", "password = '****"),
            ("password_env = 'VAR', PASSWORD ENV 'VAR'", "password_env = 'VAR', PASSWORD ENV 'VAR'"),
            ("password", "password"),
            ("url = 'mqtt://tide:p@ss@h:1883',", "url = 'mqtt://*********@h:1883',"),
        ] {
            assert_eq!(masked(line), shown);
        }
    }
}
