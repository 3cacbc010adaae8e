//! How a client names its requests, so that it can repeat one whose fate it does not know.

/// One of three ways.
pub(super) enum Naming {
    /// Not at all: what is sent twice is stored twice, so nothing is.
    Nothing,
    /// By numbers: `Producer-Seq`.
    Producer { id: String, next: u64 },
    /// By a key for each: `Idempotency-Key`.
    Key { prefix: String, next: u64 },
}

impl Naming {
    /// Gives each client of a source another way.
    pub(super) fn of(number: usize, who: &str) -> Naming {
        match number % 3 {
            0 => Naming::Nothing,
            1 => Naming::Producer { id: who.to_owned(), next: 0 },
            _ => Naming::Key { prefix: who.to_owned(), next: 0 },
        }
    }

    /// Returns whether a request may be repeated.
    pub(super) fn is_named(&self) -> bool {
        !matches!(self, Naming::Nothing)
    }

    /// Returns the headers of the next request.
    pub(super) fn next(&mut self) -> Vec<(&'static str, String)> {
        match self {
            Naming::Nothing => Vec::new(),
            Naming::Producer { id, next } => {
                *next += 1;
                let sequence = (*next - 1).to_string();
                vec![("producer-id", id.clone()), ("producer-epoch", "0".to_owned()), ("producer-seq", sequence)]
            }
            Naming::Key { prefix, next } => {
                *next += 1;
                vec![("idempotency-key", format!("{prefix}/{next}"))]
            }
        }
    }
}
