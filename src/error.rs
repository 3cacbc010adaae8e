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
    /// The environment refuses: a port in use, a full disk, a folder that belongs to another process.
    #[error("{0}")]
    Environment(String),
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
    /// assert_eq!(tidemill::Error::Environment("the disk is full".into()).exit_code(), 2);
    /// assert_eq!(tidemill::Error::Internal("a bug".into()).exit_code(), 3);
    /// ```
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Input(_) => 1,
            Error::Environment(_) => 2,
            Error::Internal(_) => 3,
        }
    }
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        Error::Environment(with_causes(&error))
    }
}

impl From<SinkError> for Error {
    fn from(error: SinkError) -> Self {
        let text = with_causes(&error);
        match error {
            SinkError::Storage { .. } | SinkError::Refused { .. } => Error::Environment(text),
            SinkError::Encode { .. } => Error::Internal(text),
        }
    }
}

impl From<JobError> for Error {
    fn from(error: JobError) -> Self {
        let text = with_causes(&error);
        match error {
            JobError::Plan(_) => Error::Input(text),
            JobError::Source { .. }
            | JobError::Storage(_)
            | JobError::Log(_)
            | JobError::Environment(_)
            | JobError::Disk { .. } => Error::Environment(text),
            JobError::Sink(error) => error.into(),
            JobError::Operator(_) => Error::Internal(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_full_disk_is_the_environment_and_tells_its_cause_once() {
        let storage = StorageError::Io { action: "write", path: "log/1".into(), source: io::Error::other("disk full") };
        let error = Error::from(JobError::Sink(SinkError::Storage { table: "room_5s".into(), source: storage }));
        assert_eq!(error, Error::Environment("table room_5s: cannot write log/1: disk full".into()));
    }

    #[test]
    fn each_kind_of_job_error_has_its_exit_code() {
        for (error, code) in [
            (JobError::Plan("two views named a".into()), 1),
            (JobError::Log("damaged at byte 7".into()), 2),
            (JobError::Operator("window panicked".into()), 3),
        ] {
            assert_eq!(Error::from(error).exit_code(), code);
        }
    }
}
