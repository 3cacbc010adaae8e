//! Who a client is: nobody asked, one user and password from the options, or a password file.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::passwords::{self, Known, Passwords};
use super::watched::Watched;
use crate::options::{OptionError, Options};

/// How many passwords are checked at a time: each takes a thread, and some 19 MiB.
const CHECKS_MAX: usize = 2;

/// The door: what is asked of a client.
pub(super) struct Door {
    asks: Asks,
    checks: Semaphore,
}

enum Asks {
    Nothing,
    OnePair { username: String, password: String },
    File(Arc<Watched<Passwords>>),
}

/// Who came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// Nobody was asked: a name that was given proves nothing.
    Anybody,
    /// This user, verified.
    User(Arc<str>),
}

impl Who {
    /// Returns the verified name.
    pub(super) fn user(&self) -> Option<&str> {
        match self {
            Who::Anybody => None,
            Who::User(name) => Some(name),
        }
    }
}

impl Door {
    /// Takes `username` and `password`, or `password_file`.
    pub(super) fn take(options: &mut Options, file: impl Fn(&str) -> PathBuf) -> Result<Door, OptionError> {
        let username = options.take("username");
        let password = options.take("password");
        let asks = match (username, password, options.take("password_file")) {
            (None, None, None) => Asks::Nothing,
            (Some(username), Some(password), None) => Asks::OnePair { username, password },
            (Some(_), None, None) => return Err(OptionError::new("username", "needs a password beside it")),
            (None, Some(_), None) => return Err(OptionError::new("password", "needs a username beside it")),
            (None, None, Some(path)) => {
                Asks::File(Arc::new(Watched::new("password file", file(&path), Passwords::read)))
            }
            (_, _, Some(_)) => {
                let problem = "stands beside username or password: put that user into the file";
                return Err(OptionError::new("password_file", problem));
            }
        };
        Ok(Door { asks, checks: Semaphore::new(CHECKS_MAX) })
    }

    /// Says whether anybody may come in.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.asks, Asks::Nothing)
    }

    /// Returns the password file, if there is one.
    pub(super) fn file(&self) -> Option<&Arc<Watched<Passwords>>> {
        match &self.asks {
            Asks::File(file) => Some(file),
            _ => None,
        }
    }

    /// Checks a name and a password; `None`: wrong, without saying which.
    pub(super) async fn check(&self, username: Option<&str>, password: Option<&[u8]>) -> Option<Who> {
        let given = username.unwrap_or_default();
        match &self.asks {
            Asks::Nothing => Some(Who::Anybody),
            Asks::OnePair { username, password: secret } => {
                // Both are compared, whatever the first says: the time must not tell which was wrong.
                let good = equal_in_constant_time(username.as_bytes(), given.as_bytes())
                    & equal_in_constant_time(secret.as_bytes(), password.unwrap_or_default());
                good.then(|| Who::User(Arc::from(given)))
            }
            Asks::File(file) => {
                let (hash, known) = file.current().hash_of(given)?;
                let password = password?.to_vec();
                let _permit = self.checks.acquire().await.ok()?;
                let checked = tokio::task::spawn_blocking(move || passwords::verify(&password, &hash));
                let good = checked.await.unwrap_or(false) && known == Known::Yes;
                good.then(|| Who::User(Arc::from(given)))
            }
        }
    }
}

/// Compares without stopping at the first difference. The time depends on the length of what was given only.
fn equal_in_constant_time(secret: &[u8], given: &[u8]) -> bool {
    let mut difference = u8::from(secret.len() != given.len());
    for (idx, byte) in given.iter().enumerate() {
        difference |= byte ^ secret.get(idx).copied().unwrap_or(!byte);
    }
    difference == 0
}
