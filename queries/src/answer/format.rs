//! The formats of answers, by the names that people and HTTP have for them.

use std::fmt;

/// How an answer is written. See the module for the shapes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnswerFormat {
    /// For eyes.
    Table,
    /// One document.
    #[default]
    Json,
    /// One object a line.
    Ndjson,
    /// Comma separated.
    Csv,
    /// Arrow IPC stream.
    Arrow,
}

impl AnswerFormat {
    /// All of them.
    pub(crate) const ALL: [AnswerFormat; 5] =
        [AnswerFormat::Table, AnswerFormat::Json, AnswerFormat::Ndjson, AnswerFormat::Csv, AnswerFormat::Arrow];

    /// Returns the word a person types.
    pub fn name(self) -> &'static str {
        match self {
            AnswerFormat::Table => "table",
            AnswerFormat::Json => "json",
            AnswerFormat::Ndjson => "ndjson",
            AnswerFormat::Csv => "csv",
            AnswerFormat::Arrow => "arrow",
        }
    }

    /// Returns what stands in `Accept`.
    pub fn media_type(self) -> &'static str {
        match self {
            AnswerFormat::Table => "text/plain",
            AnswerFormat::Json => "application/json",
            AnswerFormat::Ndjson => "application/x-ndjson",
            AnswerFormat::Csv => "text/csv",
            AnswerFormat::Arrow => "application/vnd.apache.arrow.stream",
        }
    }

    /// Returns what stands in `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            AnswerFormat::Table => "text/plain; charset=utf-8",
            AnswerFormat::Csv => "text/csv; charset=utf-8; header=present",
            other => other.media_type(),
        }
    }

    /// Returns the first format an `Accept` header names that can be written; JSON if it accepts anything.
    pub fn from_accept(accept: &str) -> Option<AnswerFormat> {
        if accept.trim().is_empty() {
            return Some(AnswerFormat::Json);
        }
        let mut wanted: Vec<(f32, AnswerFormat)> = accept.split(',').filter_map(AnswerFormat::wanted).collect();
        // Stable: of equal wishes the first one counts.
        wanted.sort_by(|a, b| b.0.total_cmp(&a.0));
        wanted.first().map(|(_, format)| *format)
    }

    /// Reads one part of an `Accept` header: its weight and format, `None` if there is no such format or it is not wanted.
    fn wanted(part: &str) -> Option<(f32, AnswerFormat)> {
        let mut pieces = part.split(';').map(|piece| piece.trim().to_ascii_lowercase());
        let media_type = pieces.next().unwrap_or_default();
        let format = match media_type.as_str() {
            "*/*" | "application/*" => AnswerFormat::Json,
            "application/ndjson" | "application/jsonl" => AnswerFormat::Ndjson,
            "text/*" => AnswerFormat::Csv,
            _ => AnswerFormat::ALL.into_iter().find(|format| format.media_type() == media_type)?,
        };
        let weight = pieces.find_map(|piece| piece.strip_prefix("q=")?.parse::<f32>().ok()).unwrap_or(1.0);
        (weight > 0.0).then_some((weight, format))
    }
}

impl fmt::Display for AnswerFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_headers_choose_the_format_that_is_wanted_most() {
        for (accept, format) in [
            ("", Some(AnswerFormat::Json)),
            ("*/*", Some(AnswerFormat::Json)),
            ("text/html, application/x-ndjson;q=0.9", Some(AnswerFormat::Ndjson)),
            ("Text/CSV; charset=utf-8", Some(AnswerFormat::Csv)),
            ("application/vnd.apache.arrow.stream", Some(AnswerFormat::Arrow)),
            ("image/png", None),
            ("text/csv;q=0.5, application/json", Some(AnswerFormat::Json)),
            ("text/csv; q=0.5, application/x-ndjson; q=0.5", Some(AnswerFormat::Csv)),
            ("text/csv;q=0", None),
        ] {
            assert_eq!(AnswerFormat::from_accept(accept), format, "{accept}");
        }
    }
}
