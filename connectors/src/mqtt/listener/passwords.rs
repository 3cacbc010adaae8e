//! The password file: one line `user:$argon2id$…` for each user, as `tidemill password USER` prints them.
//!
//! Argon2 is slow and takes memory on purpose, so that a stolen file is of little use. The same makes each CONNECT with a
//! password cost some milliseconds and [`MEMORY_KIB_MAX`] at most; `auth.rs` lets only a few be checked at a time.

use std::collections::HashMap;

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use tidemill_engine::clock::Dice;

use super::watched::Mistake;

/// The longest user name.
const USER_BYTES_MAX: usize = 1_024;
/// The longest password, as MQTT can carry it.
const PASSWORD_BYTES_MAX: usize = u16::MAX as usize;
/// The most memory that a line of the file may ask of a check, in KiB. `tidemill password` asks for 19 MiB, as OWASP advises.
const MEMORY_KIB_MAX: u32 = 256 << 10;
/// The most work that a line may ask for: passes times memory, in KiB.
const WORK_KIB_MAX: u64 = 1 << 20;

/// Why there is no line for a user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// The name cannot stand in a line.
    #[error(
        "{0:?} cannot be a user: a name has 1 to {USER_BYTES_MAX} bytes, no colon and no line break, and does not begin with '#'"
    )]
    User(String),
    /// Nothing, or more than MQTT can carry.
    #[error("a password has 1 to {PASSWORD_BYTES_MAX} bytes")]
    Length,
    /// The hash could not be computed.
    #[error("cannot hash the password: {0}")]
    Hash(String),
}

/// Makes the line of a password file for a user.
///
/// # Errors
/// Says what is wrong with the name or the password.
pub fn password_line(user: &str, password: &[u8], dice: &dyn Dice) -> Result<String, PasswordError> {
    check_user(user)?;
    if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
        return Err(PasswordError::Length);
    }
    let failed = |error: argon2::password_hash::Error| PasswordError::Hash(error.to_string());
    let salt = [dice.roll().to_be_bytes(), dice.roll().to_be_bytes()].concat();
    let salt = SaltString::encode_b64(&salt).map_err(failed)?;
    let hash = hasher().hash_password(password, &salt).map_err(failed)?;
    Ok(format!("{user}:{hash}"))
}

fn check_user(user: &str) -> Result<(), PasswordError> {
    let good = !user.is_empty()
        && user.len() <= USER_BYTES_MAX
        && !user.starts_with('#')
        && !user.contains([':', '\n', '\r', '\0'])
        && user.trim() == user;
    if good { Ok(()) } else { Err(PasswordError::User(user.to_owned())) }
}

fn hasher() -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::default())
}

/// A password file as it was read.
#[derive(Debug, Default)]
pub(super) struct Passwords {
    hashes: HashMap<String, String>,
}

impl Passwords {
    /// Reads a file.
    pub(super) fn read(text: &str) -> Result<Passwords, Mistake> {
        let mut hashes = HashMap::new();
        for (idx, line) in text.lines().enumerate() {
            let mistake = |problem: String| Mistake { line: idx + 1, problem };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((user, hash)) = line.split_once(':') else {
                return Err(mistake("it is not user:hash; `tidemill password USER` prints such a line".to_owned()));
            };
            check_user(user).map_err(|error| mistake(error.to_string()))?;
            check_hash(hash).map_err(|problem| mistake(format!("the hash of user {user:?} {problem}")))?;
            if hashes.insert(user.to_owned(), hash.to_owned()).is_some() {
                return Err(mistake(format!("user {user:?} stands here a second time")));
            }
        }
        Ok(Passwords { hashes })
    }

    /// Returns the hash to check a password against, and whether it is the user's own. An unknown user gets some other hash,
    /// so that the time tells nobody who exists.
    pub(super) fn hash_of(&self, user: &str) -> Option<(String, Known)> {
        match self.hashes.get(user) {
            Some(hash) => Some((hash.clone(), Known::Yes)),
            None => self.hashes.values().next().map(|hash| (hash.clone(), Known::No)),
        }
    }
}

/// Whether a user stands in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Yes,
    No,
}

/// Checks a password against a hash; takes its time, and memory.
pub(super) fn verify(password: &[u8], hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| hasher().verify_password(password, &hash).is_ok())
}

fn check_hash(text: &str) -> Result<(), String> {
    const MAKE: &str = "make the line with `tidemill password USER`";
    if text.starts_with("$6$") || text.starts_with("$7$") {
        return Err(format!("is one of mosquitto_passwd, which is not Argon2: {MAKE}"));
    }
    if !text.starts_with("$argon2id$") {
        // Not shown: it may be the password itself.
        return Err(format!("does not begin with $argon2id$: {MAKE}"));
    }
    let hash = PasswordHash::new(text).map_err(|error| format!("cannot be read ({error}): {MAKE}"))?;
    let params = Params::try_from(&hash).map_err(|error| format!("cannot be read ({error}): {MAKE}"))?;
    if hash.hash.is_none() || hash.salt.is_none() {
        return Err(format!("is cut short: {MAKE}"));
    }
    let work = u64::from(params.m_cost()) * u64::from(params.t_cost());
    if params.m_cost() > MEMORY_KIB_MAX || work > WORK_KIB_MAX {
        return Err(format!(
            "asks for {} KiB and {} passes for each check, more than {MEMORY_KIB_MAX} KiB or {WORK_KIB_MAX} KiB in all",
            params.m_cost(),
            params.t_cost()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tidemill_engine::clock::SeededDice;

    use super::*;

    #[test]
    fn a_line_lets_in_who_knows_the_password_and_nobody_else() {
        let dice = SeededDice::new(1);
        let line = password_line("press-7", b"correct horse", &dice).expect("a good name");
        assert!(line.starts_with("press-7:$argon2id$v=19$m=19456,t=2,p=1$"), "{line}");
        let file = Passwords::read(&format!("# ours\n\n{line}\n")).expect("a good file");
        let (hash, known) = file.hash_of("press-7").expect("it is there");
        assert_eq!(known, Known::Yes);
        assert!(verify(b"correct horse", &hash));
        assert!(!verify(b"correct hors", &hash));
        assert_eq!(file.hash_of("press-8").expect("another's").1, Known::No);
    }

    #[test]
    fn fuzz_password_file() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/src/mqtt/corpus/password_file");
        tidemill_engine::testing::fuzz::fuzz(corpus, |input| {
            let text = String::from_utf8_lossy(input);
            match Passwords::read(&text) {
                Ok(file) => {
                    for hash in file.hashes.values() {
                        let params = Params::try_from(&PasswordHash::new(hash).expect("checked")).expect("checked");
                        // What costs little is tried.
                        if u64::from(params.m_cost()) * u64::from(params.t_cost()) <= 256 {
                            assert!(!verify(b"not it", hash), "{hash}");
                        }
                    }
                    !file.hashes.is_empty()
                }
                Err(Mistake { line, problem }) => {
                    assert!((1..=text.lines().count()).contains(&line), "line {line}: {text:?}");
                    let secret = text.lines().nth(line - 1).and_then(|line| line.split_once(':'));
                    let is_secret = secret.is_some_and(|(user, _)| !user.contains("hunter2"));
                    assert!(!(is_secret && problem.contains("hunter2")), "{problem}");
                    false
                }
            }
        });
    }

    #[test]
    fn two_lines_of_one_password_differ() {
        let dice = SeededDice::new(1);
        let line = || password_line("a", b"x", &dice).expect("a good name");
        assert_ne!(line(), line());
    }

    #[test]
    fn names_and_passwords_that_cannot_be_are_refused() {
        let dice = SeededDice::new(1);
        for user in ["", "a:b", "a\nb", "#a", " a"] {
            assert!(matches!(password_line(user, b"x", &dice), Err(PasswordError::User(_))), "{user:?}");
        }
        assert_eq!(password_line("a", b"", &dice), Err(PasswordError::Length));
    }

    #[test]
    fn a_mistake_is_told_with_its_line_and_never_shows_a_secret() {
        let good = "a:$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$R1V6ZyB3aGF0ZXZlciBoYXNoIGl0IGlz";
        for (text, line, words) in [
            ("\nada\n", 2, "it is not user:hash"),
            ("ada:secret\n", 1, "does not begin with $argon2id$"),
            ("ada:$7$101$abc$def\n", 1, "mosquitto_passwd"),
            ("ada:$argon2id$v=19$m=8,t=1,p=1\n", 1, "cut short"),
            ("ada:$argon2id$v=19$m=4000000,t=1,p=1$c29tZXNhbHQ$R1V6ZyB3aGF0ZXZlciBoYXNo\n", 1, "asks for"),
            (&format!("{good}\n{good}\n"), 2, "a second time"),
        ] {
            let mistake = Passwords::read(text).expect_err(text);
            assert_eq!(mistake.line, line, "{text:?}");
            assert!(mistake.problem.contains(words), "{text:?}: {}", mistake.problem);
            assert!(!mistake.problem.contains("secret"));
        }
    }
}
