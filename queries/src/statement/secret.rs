//! `CREATE SECRET name (TYPE mqtt, USERNAME 'x', PASSWORD ENV 'VARIABLE' | FILE 'path' | 'text')`; with `TYPE http` a `TOKEN`
//! as well.
//!
//! No mistake in it repeats what was written: a password that lost its quote must not be read in a log.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::tokenizer::Token;
use tidemill_connectors::Secret;

use super::reader::Reader;
use super::{CreateSecret, Name};
use crate::diagnostic::{Code, Problem};

/// The kinds of secrets, and what each may hold.
const KINDS: [(&str, &[&str]); 2] = [("mqtt", &["username", "password"]), ("http", &["token", "username", "password"])];
/// What a value may be.
const VALUES: &str = "write 'text', ENV 'VARIABLE' or FILE 'path'";

impl Reader<'_> {
    pub(super) fn create_secret(&mut self) -> Result<CreateSecret, Problem> {
        self.skip_to_kind();
        let name = self.created_name()?;
        let form = format!("write CREATE SECRET {} (TYPE mqtt, USERNAME 'x', PASSWORD ENV 'VARIABLE')", name.value);
        let unfinished = |reader: &Self, expected: &str| {
            Problem::new(Code::Syntax, reader.here(), format!("expected {expected}")).hint(form.clone())
        };
        if !self.take(&Token::LParen) {
            return Err(unfinished(self, "( after the name of the secret"));
        }
        let (mut kind, mut values): (Option<Name>, Vec<(Name, Secret)>) = (None, Vec::new());
        loop {
            let key = match self.word() {
                Some(key) => key,
                None => return Err(unfinished(self, "TYPE, USERNAME, PASSWORD or TOKEN")),
            };
            if key.value == "type" {
                let Some(value) = self.word() else {
                    return Err(unfinished(self, "the type of the secret: mqtt or http"));
                };
                kind = Some(value);
            } else if values.iter().any(|(other, _)| other.value == key.value) {
                let message = format!("{} is given twice", key.value.to_uppercase());
                return Err(Problem::new(Code::DuplicateName, key.span, message));
            } else {
                let value = self.secret_value(&key)?;
                values.push((key, value));
            }
            if self.take(&Token::RParen) {
                break;
            }
            if !self.take(&Token::Comma) {
                return Err(unfinished(self, ", or ) after the value"));
            }
        }
        self.end_of_secret()?;
        let Some(kind) = kind else {
            return Err(Problem::new(Code::Syntax, name.span, "a secret needs its TYPE").hint(form));
        };
        let known = KINDS.iter().find(|(known, _)| *known == kind.value).map(|(_, keys)| *keys);
        let Some(known) = known else {
            let message = "there is no such type of secret";
            return Err(Problem::new(Code::Syntax, kind.span, message)
                .did_you_mean(&kind.value, KINDS.iter().map(|(name, _)| *name)));
        };
        if let Some((key, _)) = values.iter().find(|(key, _)| !known.contains(&key.value.as_str())) {
            let message = format!("a secret of type {} holds no such thing", kind.value);
            return Err(
                Problem::new(Code::BadOption, key.span, message).did_you_mean(&key.value, known.iter().copied())
            );
        }
        let values: BTreeMap<String, Secret> = values.into_iter().map(|(key, value)| (key.value, value)).collect();
        Ok(CreateSecret { name, values })
    }

    fn secret_value(&mut self, key: &Name) -> Result<Secret, Problem> {
        let span = self.here();
        let make = match self.word() {
            None => Secret::Text as fn(String) -> Secret,
            Some(word) if word.value == "env" => Secret::Environment,
            Some(word) if word.value == "file" => |path: String| Secret::File(path.into()),
            Some(_) => {
                let message = format!("the value of {} must be a text", key.value.to_uppercase());
                return Err(Problem::new(Code::Syntax, span, message).hint(VALUES));
            }
        };
        let span = self.here();
        match self.single_quoted() {
            Some(text) if text.is_empty() => {
                Err(Problem::new(Code::BadOption, span, format!("the value of {} is empty", key.value.to_uppercase())))
            }
            Some(text) => Ok(make(text)),
            None => {
                let message = format!("the value of {} must be a text", key.value.to_uppercase());
                Err(Problem::new(Code::Syntax, span, message).hint(VALUES))
            }
        }
    }

    fn end_of_secret(&mut self) -> Result<(), Problem> {
        match self.is_at_end() {
            true => Ok(()),
            false => {
                let problem = Problem::new(Code::Syntax, self.here(), "expected the end of the statement after )");
                Err(problem.hint("statements end with ;"))
            }
        }
    }
}
