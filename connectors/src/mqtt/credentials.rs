//! Who we are to a broker, from the options of a source or of a sink.

use std::path::Path;

use crate::options::{OptionError, Options};
use crate::secret::{Secret, SecretError};

/// MQTT's length field has 16 bits.
pub(super) const FIELD_BYTES_MAX: usize = u16::MAX as usize;

/// Where a name and a password stand: read anew for each connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Credentials {
    username: Option<Secret>,
    password: Option<Secret>,
}

/// A name and a password, as they are now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
}

impl Credentials {
    /// Takes `username` and `password`, with `_env` and `_file`, or `secret`.
    pub(super) fn take(options: &mut Options, base_dir: &Path) -> Result<Credentials, OptionError> {
        let username = options.secret(["username", "username_env", "username_file"], base_dir)?;
        let password = options.secret(["password", "password_env", "password_file"], base_dir)?;
        if password.is_some() && username.is_none() {
            return Err(OptionError::new("password", "needs a username beside it"));
        }
        for (key, secret) in [("username", &username), ("password", &password)] {
            if matches!(secret, Some(Secret::Text(text)) if text.len() > FIELD_BYTES_MAX || text.contains('\0')) {
                return Err(OptionError::new(key, format!("must have at most {FIELD_BYTES_MAX} bytes and no NUL")));
            }
        }
        Ok(Credentials { username, password })
    }

    /// Reads who we are, as it is now.
    pub(super) async fn read(&self) -> Result<Known, SecretError> {
        let Credentials { username, password } = self.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let read = |secret: Option<Secret>| secret.map(|secret| secret.read()).transpose();
            Ok(Known { username: read(username)?, password: read(password)? })
        });
        match reading.await {
            Ok(known) => known,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going down; so is the connection.
                Err(_) => Ok(Known::default()),
            },
        }
    }
}
