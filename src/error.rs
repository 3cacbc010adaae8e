//! What can go wrong, sorted by who can do something about it.

use tidemill_engine::error::with_causes;
use tidemill_engine::runtime::JobError;
use tidemill_engine::sink::SinkError;
use tidemill_engine::storage::StorageError;

/// Why something could not be done. Display is for people: what was tried, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The user's input is wrong: SQL, an option, a file name.
    #[error("{0}")]
    Input(String),
    /// The environment refuses: a port in use, a folder that belongs to another process.
    #[error("{0}")]
    Environment(String),
    /// The disk fails or is full: what was acknowledged is safe, and a later start goes on.
    #[error("{reason}")]
    Disk {
        /// What was tried, where, and why it failed.
        reason: String,
        /// Whether there is no room left.
        is_full: bool,
    },
    /// Tidemill is wrong.
    #[error("{0}")]
    Internal(String),
}

/// A result with tidemill's own [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Returns the exit code of a program that ends with this error: 1, 2 or 3.
    ///
    /// ```
    /// assert_eq!(tidemill::Error::Input("no such view".into()).exit_code(), 1);
    /// assert_eq!(tidemill::Error::Environment("the port is in use".into()).exit_code(), 2);
    /// assert_eq!(tidemill::Error::Internal("a bug".into()).exit_code(), 3);
    /// ```
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Input(_) => 1,
            Error::Environment(_) | Error::Disk { .. } => 2,
            Error::Internal(_) => 3,
        }
    }
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        JobError::from(error).into()
    }
}

impl From<SinkError> for Error {
    fn from(error: SinkError) -> Self {
        JobError::from(error).into()
    }
}

impl From<JobError> for Error {
    fn from(error: JobError) -> Self {
        let text = with_causes(&error);
        if error.is_disk_failure() {
            return Error::Disk { reason: text, is_full: error.is_disk_full() };
        }
        match error {
            JobError::Plan(_) => Error::Input(text),
            JobError::Operator(_) | JobError::Sink(SinkError::Encode { .. }) => Error::Internal(text),
            JobError::Source { .. }
            | JobError::Sink(_)
            | JobError::Storage(_)
            | JobError::Log(_)
            | JobError::Environment(_)
            | JobError::Disk { .. } => Error::Environment(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_full_disk_is_told_with_its_cause_once() {
        let full = io::Error::from_raw_os_error(28);
        let storage = StorageError::Io { action: "write", path: "log/1".into(), source: full };
        let error = Error::from(JobError::Sink(SinkError::Storage { table: "room_5s".into(), source: storage }));
        let reason = "table room_5s: cannot write log/1: No space left on device (os error 28)".into();
        assert_eq!((error.exit_code(), error), (2, Error::Disk { reason, is_full: true }));
    }

    #[test]
    fn each_kind_of_job_error_has_its_exit_code() {
        for (error, code) in [
            (JobError::Plan("two views named a".into()), 1),
            (JobError::Log("damaged at byte 7".into()), 2),
            (SinkError::Refused { table: "a".into(), problem: "it is another's".into() }.into(), 2),
            (SinkError::Encode { table: "a".into(), problem: "no such type".into() }.into(), 3),
            (JobError::Operator("window panicked".into()), 3),
        ] {
            assert_eq!(Error::from(error).exit_code(), code);
        }
    }
}
