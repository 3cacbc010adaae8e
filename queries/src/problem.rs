//! Problems: what went wrong with a request, for people and for programs (RFC 9457).
//!
//! Every problem has a stable code, a sentence about this very case, and where there is one a hint what to do and the
//! place in the statement. The HTTP service answers with it as `application/problem+json`; the command line prints it.
//!
//! ```text
//! {"type":"urn:tidemill:error:TM1107","title":"Unknown column","status":422,"code":"TM1107",
//!  "detail":"there is no column \"temprature\"","hint":"did you mean \"temperature\"?",
//!  "span":{"line":1,"column":8,"length":10}}
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};
use tidemill_connectors::describe;

/// The kinds of problems: a closed set, each with a code that never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProblemKind {
    /// The statement means nothing that can be run.
    InvalidQuery,
    /// The statement does not parse.
    Syntax,
    /// The statement would change something; questions only read.
    ReadOnly,
    /// The statement is right, and we cannot do it.
    NotSupported,
    /// A table that is not there.
    UnknownTable,
    /// A column that is not there.
    UnknownColumn,
    /// A column name that more than one table has.
    AmbiguousColumn,
    /// A function that is not there.
    UnknownFunction,
    /// The statement is too long or too deep to be planned safely.
    TooComplex,
    /// An expression failed on a row: a division by zero, a cast.
    Failed,
    /// The memory for questions is used up.
    OutOfMemory,
    /// The question took too long.
    TimedOut,
    /// Too many questions run at once.
    Busy,
    /// A table's files cannot be read.
    Unreadable,
    /// The request's body is not what this path takes.
    BadRequest,
    /// The request's body is too big.
    TooBig,
    /// The request's body did not come in time.
    TooSlow,
    /// None of the accepted formats can be produced.
    NotAcceptable,
    /// The request's content type is not the one this path takes.
    UnsupportedMediaType,
    /// A path that is not there.
    UnknownPath,
    /// A path that does not take this method.
    MethodNotAllowed,
    /// The service has not started what is asked for, or is stopping.
    NotReady,
    /// A bug of ours.
    Internal,
}

impl ProblemKind {
    /// All kinds.
    pub const ALL: &[ProblemKind] = &[
        ProblemKind::InvalidQuery,
        ProblemKind::Syntax,
        ProblemKind::ReadOnly,
        ProblemKind::NotSupported,
        ProblemKind::UnknownTable,
        ProblemKind::UnknownColumn,
        ProblemKind::AmbiguousColumn,
        ProblemKind::UnknownFunction,
        ProblemKind::TooComplex,
        ProblemKind::Failed,
        ProblemKind::OutOfMemory,
        ProblemKind::TimedOut,
        ProblemKind::Busy,
        ProblemKind::Unreadable,
        ProblemKind::BadRequest,
        ProblemKind::TooBig,
        ProblemKind::TooSlow,
        ProblemKind::NotAcceptable,
        ProblemKind::UnsupportedMediaType,
        ProblemKind::UnknownPath,
        ProblemKind::MethodNotAllowed,
        ProblemKind::NotReady,
        ProblemKind::Internal,
    ];

    /// Returns the code, the title and the HTTP status. Mistakes that a pipeline file may have too share its codes
    /// (TM1xxx); TM3xxx are questions, TM4xxx requests, TM9xxx bugs.
    fn facts(self) -> (&'static str, &'static str, u16) {
        match self {
            ProblemKind::InvalidQuery => ("TM3001", "Invalid statement", 422),
            ProblemKind::Syntax => ("TM1001", "Syntax error", 422),
            ProblemKind::ReadOnly => ("TM3002", "Questions only read", 422),
            ProblemKind::NotSupported => ("TM1002", "Not supported", 422),
            ProblemKind::UnknownTable => ("TM1101", "Unknown table", 422),
            ProblemKind::UnknownColumn => ("TM1107", "Unknown column", 422),
            ProblemKind::AmbiguousColumn => ("TM3003", "Ambiguous column", 422),
            ProblemKind::UnknownFunction => ("TM1108", "Unknown function", 422),
            ProblemKind::TooComplex => ("TM3004", "Statement too complex", 422),
            ProblemKind::Failed => ("TM3101", "The question failed on a row", 422),
            ProblemKind::OutOfMemory => ("TM3102", "Out of memory for questions", 503),
            ProblemKind::TimedOut => ("TM3103", "The question took too long", 504),
            ProblemKind::Busy => ("TM3104", "Too many questions at once", 503),
            ProblemKind::Unreadable => ("TM3105", "Table unreadable", 500),
            ProblemKind::BadRequest => ("TM4001", "Bad request", 400),
            ProblemKind::TooBig => ("TM4002", "Request too big", 413),
            ProblemKind::NotAcceptable => ("TM4003", "No such format", 406),
            ProblemKind::UnsupportedMediaType => ("TM4004", "Unsupported content type", 415),
            ProblemKind::UnknownPath => ("TM4005", "Unknown path", 404),
            ProblemKind::MethodNotAllowed => ("TM4006", "Method not allowed", 405),
            ProblemKind::NotReady => ("TM4007", "Not ready", 503),
            ProblemKind::TooSlow => ("TM4008", "Request too slow", 408),
            ProblemKind::Internal => ("TM9001", "A bug in tidemill", 500),
        }
    }

    /// Returns the stable code, such as `TM1107`.
    pub fn code(self) -> &'static str {
        self.facts().0
    }

    /// Returns the title: the same for every problem of this kind.
    pub fn title(self) -> &'static str {
        self.facts().1
    }

    /// Returns the HTTP status.
    pub fn status(self) -> u16 {
        self.facts().2
    }

    /// Returns the kind that has a code.
    pub fn from_code(code: &str) -> Option<ProblemKind> {
        ProblemKind::ALL.iter().copied().find(|kind| kind.code() == code)
    }
}

/// A place in the statement, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The line.
    pub line: u64,
    /// The character in the line.
    pub column: u64,
    /// How many characters, at least 1; to the end of the line where it goes further.
    pub length: u64,
}

/// What went wrong. Display is the sentence for people, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which kind.
    pub kind: ProblemKind,
    /// What is wrong in this very case.
    pub detail: String,
    /// What to do.
    pub hint: Option<String>,
    /// Where in the statement.
    pub span: Option<Span>,
}

impl Problem {
    /// Makes a problem.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Problem { kind, detail: detail.into(), hint: None, span: None }
    }

    /// Adds what to do.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds where.
    pub fn with_span(mut self, span: Option<Span>) -> Self {
        self.span = span;
        self
    }

    /// Returns the problem as the JSON document of RFC 9457.
    pub fn to_json(&self) -> String {
        let document = Document {
            kind: format!("urn:tidemill:error:{}", self.kind.code()),
            title: self.kind.title().to_owned(),
            status: self.kind.status(),
            code: self.kind.code().to_owned(),
            detail: self.detail.clone(),
            hint: self.hint.clone(),
            span: self.span,
        };
        serde_json::to_string(&document).expect("a document of strings and numbers is JSON")
    }

    /// Reads the JSON document of RFC 9457, as another tidemill sent it.
    pub fn from_json(bytes: &[u8]) -> Option<Problem> {
        let document: Document = serde_json::from_slice(bytes).ok()?;
        let kind = ProblemKind::from_code(&document.code)?;
        Some(Problem { kind, detail: document.detail, hint: document.hint, span: document.span })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        if let Some(span) = self.span {
            write!(f, " (line {}, column {})", span.line, span.column)?;
        }
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}

/// A problem as it is written (RFC 9457).
#[derive(Serialize, Deserialize)]
pub(crate) struct Document {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    title: String,
    status: u16,
    code: String,
    #[serde(default)]
    detail: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    span: Option<Span>,
}

describe!(Document as "Problem" {
    kind = "type": "urn:tidemill:error: and the code",
    title: "what kind of problem it is",
    status: "the status again",
    code: "a code that never changes its meaning, such as TM1107",
    detail: "what is wrong in this very case";
    hint: "what to do about it",
    span: "the place in the statement",
});

describe!(Span { line: "from 1", column: "the character in the line, from 1", length: "how many characters" });

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_has_its_own_code_and_an_error_status() {
        let codes: BTreeSet<&str> = ProblemKind::ALL.iter().map(|kind| kind.code()).collect();
        assert_eq!(codes.len(), ProblemKind::ALL.len());
        assert!(ProblemKind::ALL.iter().all(|kind| (400..600).contains(&kind.status())));
    }

    #[test]
    fn a_problem_survives_its_json() {
        let problem = Problem::new(ProblemKind::UnknownColumn, "there is no column \"x\"")
            .with_hint("did you mean \"y\"?")
            .with_span(Some(Span { line: 2, column: 8, length: 1 }));
        let json = problem.to_json();
        assert!(json.contains("\"code\":\"TM1107\""), "{json}");
        assert!(json.contains("\"status\":422"), "{json}");
        assert_eq!(Problem::from_json(json.as_bytes()), Some(problem));
    }
}
