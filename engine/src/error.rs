//! Errors as text: what every crate says of a chain of causes, or of a panic, when a person is to read it.

use std::any::Any;
use std::error::Error;

/// Writes an error with its causes behind it, each once.
///
/// ```
/// use tidemill_engine::error::with_causes;
/// use tidemill_engine::storage::StorageError;
///
/// let refused = StorageError::Io { action: "write", path: "log/1".into(), source: std::io::Error::other("disk full") };
/// assert_eq!(with_causes(&refused), "cannot write log/1: disk full");
/// ```
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // A transparent error repeats its cause's words.
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// Returns what a panic said.
pub fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
