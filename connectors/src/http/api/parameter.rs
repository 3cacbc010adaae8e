//! Parameters and headers: how they are read, how wrong ones are refused, and how they are described, each in one place.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::HeaderMap;
use serde_json::{Value, json};

use crate::http::problem::{Kind, Problem};
use crate::options::parse_duration;

/// What a request can say beside its body.
pub trait Parameter: Sync {
    /// Returns its name.
    fn name(&self) -> &'static str;
    /// Describes it for OpenAPI.
    fn describe(&self) -> Value;
}

/// A query parameter that is one of some words; the first of them is the default.
pub struct Words<T: 'static> {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub description: &'static str,
    /// The words, and what each means.
    pub words: &'static [(&'static str, T)],
}

impl<T: Copy> Words<T> {
    /// Reads a value.
    pub fn read(&self, value: &str) -> Result<T, Problem> {
        let found = self.words.iter().find(|(word, _)| *word == value);
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let word = |(place, (word, _)): (usize, &(&str, T))| match place {
                0 => format!("{}={word} (the default)", self.name),
                _ => format!("{}={word}", self.name),
            };
            let words: Vec<String> = self.words.iter().enumerate().map(word).collect();
            let (last, others) = words.split_last().expect("there are words");
            wrong(self.name, value).hint(format!("{} or {last}", others.join(", ")))
        })
    }
}

impl<T: Sync> Parameter for Words<T> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn describe(&self) -> Value {
        let words: Vec<&str> = self.words.iter().map(|(word, _)| *word).collect();
        let schema = json!({"type": "string", "enum": words, "default": words[0]});
        json!({"in": "query", "name": self.name, "description": self.description, "schema": schema})
    }
}

/// A query parameter that is a time to wait.
pub struct Wait {
    /// Its name.
    pub name: &'static str,
    /// What waits.
    pub description: &'static str,
    /// The longest.
    pub max: Duration,
}

impl Wait {
    /// Reads a value.
    pub fn read(&self, value: &str) -> Result<Duration, Problem> {
        match parse_duration(value) {
            Some(wait) if wait <= self.max => Ok(wait),
            Some(_) => Err(wrong(self.name, value).hint(format!("at most {}={}s", self.name, self.max.as_secs()))),
            None => Err(wrong(self.name, value).hint(format!("a duration such as {0}=5s or {0}=250ms", self.name))),
        }
    }
}

impl Parameter for Wait {
    fn name(&self) -> &'static str {
        self.name
    }

    fn describe(&self) -> Value {
        // What is sure to be taken, and all that anybody needs; words such as `1 minute` are taken too.
        let seconds: Vec<String> = (0..=self.max.as_secs()).map(|seconds| seconds.to_string()).collect();
        let pattern = format!("^([0-9]{{1,4}} ?ms|({}) ?s)$", seconds.join("|"));
        let description = format!("{}, such as 250ms or 5s; at most {} s", self.description, self.max.as_secs());
        let schema = json!({"type": "string", "pattern": pattern});
        json!({"in": "query", "name": self.name, "description": description, "schema": schema})
    }
}

/// A part of the path, or a query parameter that is any text.
pub struct Text {
    /// Where it stands: `path` or `query`.
    pub place: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub description: &'static str,
    /// Whether a request without it is refused.
    pub is_required: bool,
}

impl Parameter for Text {
    fn name(&self) -> &'static str {
        self.name
    }

    fn describe(&self) -> Value {
        json!({
            "in": self.place, "name": self.name, "description": self.description, "required": self.is_required,
            "schema": {"type": "string", "minLength": 1},
        })
    }
}

/// A header that is text.
pub struct TextHeader {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub description: &'static str,
    /// Bytes of it.
    pub bytes_max: usize,
}

impl TextHeader {
    /// Reads it, if it is there.
    pub fn read(&self, headers: &HeaderMap) -> Result<Option<String>, Problem> {
        match single(headers, self.name)? {
            None => Ok(None),
            Some(text) if (1..=self.bytes_max).contains(&text.len()) => Ok(Some(text.to_owned())),
            Some(text) => {
                let (name, length, max) = (self.name, text.len(), self.bytes_max);
                Err(wrong_header(&format!("the header {name} has {length} bytes, and may have 1 to {max}")))
            }
        }
    }
}

impl Parameter for TextHeader {
    fn name(&self) -> &'static str {
        self.name
    }

    fn describe(&self) -> Value {
        json!({
            "in": "header", "name": self.name, "description": self.description,
            "schema": {"type": "string", "pattern": format!("^[!-~]{{1,{}}}$", self.bytes_max)},
        })
    }
}

/// A header that is a whole number from 0 on.
pub struct NumberHeader {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub description: &'static str,
}

impl NumberHeader {
    /// The greatest: the next must have a number too.
    const MAX: u64 = u64::MAX - 1;

    /// Reads it, if it is there.
    pub fn read(&self, headers: &HeaderMap) -> Result<Option<u64>, Problem> {
        let Some(text) = single(headers, self.name)? else { return Ok(None) };
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse::<u64>() {
            Ok(number) if is_number && number <= NumberHeader::MAX => Ok(Some(number)),
            _ => Err(wrong_header(&format!("the header {} is not a whole number from 0 on", self.name))),
        }
    }
}

impl Parameter for NumberHeader {
    fn name(&self) -> &'static str {
        self.name
    }

    fn describe(&self) -> Value {
        json!({
            "in": "header", "name": self.name, "description": self.description,
            "schema": {"type": "integer", "minimum": 0, "maximum": NumberHeader::MAX},
        })
    }
}

/// Refuses query parameters that an operation does not have.
pub fn check_known(given: &BTreeMap<String, String>, known: &[&dyn Parameter]) -> Result<(), Problem> {
    let Some(key) = given.keys().find(|key| !known.iter().any(|parameter| parameter.name() == key.as_str())) else {
        return Ok(());
    };
    let names: Vec<&str> = known.iter().map(|parameter| parameter.name()).collect();
    Err(unknown(key, &format!("known are {}", names.join(", "))))
}

/// Returns the refusal of a name.
pub fn unknown(key: &str, hint: &str) -> Problem {
    Problem::new(Kind::Parameter, format!("the parameter {key} is not known; nothing was stored")).hint(hint)
}

/// Returns the refusal of what headers say.
pub fn wrong_header(what: &str) -> Problem {
    Problem::new(Kind::Header, format!("{what}; nothing was stored"))
}

fn wrong(key: &str, value: &str) -> Problem {
    Problem::new(Kind::Parameter, format!("{key}={value} is not known; nothing was stored"))
}

/// The only value of a header.
fn single<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<Option<&'h str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(wrong_header(&format!("the header {name} stands twice")));
    }
    let text = value.to_str().map_err(|_| wrong_header(&format!("the header {name} is not plain ASCII")))?;
    Ok(Some(text.trim()))
}
