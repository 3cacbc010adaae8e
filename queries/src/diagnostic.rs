//! What is wrong with a text, for people and for machines: a message, a place, and what to write instead.
//!
//! ```text
//! error[TM1107]: there is no column "temprature" in readings
//!  --> cold_chain.sql:27:16
//!    |
//! 27 |            avg(temprature) AS avg_c,
//!    |                ^^^^^^^^^^ did you mean "temperature"?
//! ```

use std::fmt;
use std::fmt::Write as _;

use datafusion::sql::sqlparser::tokenizer::Span;
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};
use tidemill_connectors::secret::masked;

/// What kind of mistake it is. The number is a name that other programs may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The text does not parse.
    Syntax,
    /// It parses, and is not in this version.
    NotSupported,
    /// A source or view that nobody defines.
    UnknownRelation,
    /// Two things of one name.
    DuplicateName,
    /// Views that read each other.
    Cycle,
    /// A name that cannot be used.
    BadName,
    /// A column that is not there.
    UnknownColumn,
    /// A function that is not there.
    UnknownFunction,
    /// A value of a type that does not fit.
    WrongType,
    /// A `WITH` option that is unknown, missing, or has a bad value.
    BadOption,
    /// A query that gives no answer on an endless input.
    NotStreamable,
    /// Rows are grouped without a window, or the window is not grouped by.
    WindowNeeded,
    /// The result would not be a function of the input alone.
    NotPure,
    /// A column that is neither grouped by nor aggregated.
    NotGrouped,
    /// The event time is missing, or is another column.
    BadTimeColumn,
}

impl Code {
    /// Returns the code as it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Code::Syntax => "TM1001",
            Code::NotSupported => "TM1002",
            Code::UnknownRelation => "TM1101",
            Code::DuplicateName => "TM1102",
            Code::Cycle => "TM1103",
            Code::BadName => "TM1104",
            Code::UnknownColumn => "TM1107",
            Code::UnknownFunction => "TM1108",
            Code::WrongType => "TM1109",
            Code::BadOption => "TM1201",
            Code::NotStreamable => "TM1301",
            Code::WindowNeeded => "TM1302",
            Code::NotPure => "TM1303",
            Code::NotGrouped => "TM1304",
            Code::BadTimeColumn => "TM1305",
        }
    }

    /// Returns the kind of mistake in two or three words.
    pub fn title(self) -> &'static str {
        match self {
            Code::Syntax => "Syntax error",
            Code::NotSupported => "Not in this version",
            Code::UnknownRelation => "Unknown source or view",
            Code::DuplicateName => "Duplicate name",
            Code::Cycle => "Views read each other",
            Code::BadName => "Bad name",
            Code::UnknownColumn => "Unknown column",
            Code::UnknownFunction => "Unknown function",
            Code::WrongType => "Wrong type",
            Code::BadOption => "Bad option",
            Code::NotStreamable => "Query cannot stream",
            Code::WindowNeeded => "Window needed",
            Code::NotPure => "Result depends on more than the input",
            Code::NotGrouped => "Column not grouped",
            Code::BadTimeColumn => "Wrong time column",
        }
    }
}

/// One mistake, with its place in the file. Lines and columns count from 1, columns and lengths in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file, as it was named.
    pub file: String,
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
    /// How many characters of the line are meant; at least 1.
    pub length: usize,
    /// Which kind of mistake.
    pub code: Code,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

/// Terminal styles: bold red for the mistake, bold blue for the frame around it, bold for the message.
const RED: &str = "1;31";
const BLUE: &str = "1;34";
const BOLD: &str = "1";

impl Diagnostic {
    /// Returns the mistake with its line and carets below, as rustc does. `text` is the text of the file.
    pub fn render(&self, text: &str, color: bool) -> String {
        let paint = |style: &str, text: &str| {
            if color { format!("\u{1b}[{style}m{text}\u{1b}[0m") } else { text.to_owned() }
        };
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        // A password that stands in the line does not stand in a log.
        let line = masked(text.lines().nth(self.line.saturating_sub(1)).unwrap_or(""));
        // Tabs stay tabs below the line, so that the carets stand right whatever width a terminal gives them.
        let mut indent: String =
            line.chars().take(self.column - 1).map(|letter| if letter == '\t' { '\t' } else { ' ' }).collect();
        let missing = (self.column - 1).saturating_sub(indent.chars().count());
        indent.extend(std::iter::repeat_n(' ', missing));

        let title = format!("error[{}]", self.code.name());
        let place = format!("{}:{}:{}", self.file, self.line, self.column);
        let carets = "^".repeat(self.length);
        let hint = self.hint.as_deref().unwrap_or("");
        let bar = paint(BLUE, "|");
        let mut out = format!("{}{}\n", paint(RED, &title), paint(BOLD, &format!(": {}", self.message)));
        let _ = writeln!(out, "{margin}{} {place}", paint(BLUE, "-->"));
        let _ = writeln!(out, "{margin} {bar}");
        let _ = writeln!(out, "{} {bar} {}", paint(BLUE, &number), line.trim_end());
        // A hint of one short line stands beside the carets; a longer one, such as a rewritten statement, below.
        if hint.contains('\n') || hint.chars().count() > HINT_BESIDE_MAX {
            let _ = writeln!(out, "{margin} {bar} {indent}{}", paint(RED, &carets));
            for (number, line) in hint.lines().enumerate() {
                let lead = if number == 0 { paint(BLUE, "= help:") } else { "       ".to_owned() };
                let _ = writeln!(out, "{margin} {lead} {line}");
            }
        } else {
            let marked = format!("{carets} {hint}");
            let _ = writeln!(out, "{margin} {bar} {indent}{}", paint(RED, marked.trim_end()));
        }
        out
    }
}

/// Characters of a hint that still stand beside the carets.
const HINT_BESIDE_MAX: usize = 60;

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Diagnostic {}

/// Where a mistake is, as JSON.
#[derive(Serialize)]
struct Place<'a> {
    file: &'a str,
    line: usize,
    column: usize,
    length: usize,
}

impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Diagnostic", 5)?;
        fields.serialize_field("code", self.code.name())?;
        fields.serialize_field("title", self.code.title())?;
        fields.serialize_field("detail", &self.message)?;
        fields.serialize_field("hint", &self.hint)?;
        let span = Place { file: &self.file, line: self.line, column: self.column, length: self.length };
        fields.serialize_field("span", &span)?;
        fields.end()
    }
}

/// A mistake before it knows the name of its file: what the parser and the planner return.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) code: Code,
    pub(crate) span: Span,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Problem {
    pub(crate) fn new(code: Code, span: Span, message: impl Into<String>) -> Self {
        Problem { code, span, message: message.into(), hint: None }
    }

    /// Says what to write instead.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Names the nearest known name, if one is near; else lists what there is.
    pub(crate) fn did_you_mean<'a>(self, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        match tidemill_connectors::options::nearest(name, known.iter().copied()) {
            Some(near) => self.hint(format!("did you mean \"{near}\"?")),
            None if known.is_empty() || known.len() > KNOWN_LISTED_MAX => self,
            None => self.hint(format!("known are {}", known.join(", "))),
        }
    }

    /// Places the mistake in its file. A span over several lines is marked to the end of its first.
    pub(crate) fn into_diagnostic(self, file: &str, text: &str) -> Diagnostic {
        let (line, column) = (self.span.start.line.max(1) as usize, self.span.start.column.max(1) as usize);
        let line_length = text.lines().nth(line - 1).unwrap_or("").trim_end().chars().count();
        let end = if self.span.end.line as usize > line { line_length + 1 } else { self.span.end.column as usize };
        let length = end.saturating_sub(column).max(1);
        Diagnostic {
            file: file.to_owned(),
            line,
            column,
            length,
            code: self.code,
            message: self.message,
            hint: self.hint,
        }
    }
}

/// More known names than this are not listed.
const KNOWN_LISTED_MAX: usize = 14;

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::tokenizer::Location;

    use super::*;

    fn sample() -> (Diagnostic, &'static str) {
        let text = "SELECT\n\tavg(temprature)\nFROM readings";
        let span = Span::new(Location::new(2, 6), Location::new(2, 16));
        let problem = Problem::new(Code::UnknownColumn, span, "there is no column \"temprature\" in readings");
        (problem.did_you_mean("temprature", ["device", "temperature"]).into_diagnostic("cold.sql", text), text)
    }

    #[test]
    fn carets_stand_below_the_mistake() {
        let (diagnostic, text) = sample();
        let expected = "error[TM1107]: there is no column \"temprature\" in readings\n --> cold.sql:2:6\n  |\n\
                        2 | \tavg(temprature)\n  | \t    ^^^^^^^^^^ did you mean \"temperature\"?\n";
        assert_eq!(diagnostic.render(text, false), expected);
        assert!(diagnostic.render(text, true).contains("\u{1b}[1;31merror[TM1107]\u{1b}[0m"));
    }

    #[test]
    fn machines_get_code_detail_hint_and_span() {
        let json = serde_json::to_value(sample().0).expect("a diagnostic is JSON");
        assert_eq!(
            json,
            serde_json::json!({
                "code": "TM1107", "title": "Unknown column",
                "detail": "there is no column \"temprature\" in readings",
                "hint": "did you mean \"temperature\"?",
                "span": {"file": "cold.sql", "line": 2, "column": 6, "length": 10}
            })
        );
    }
}
