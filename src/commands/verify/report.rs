//! What came out: a summary for people on stderr, a line of JSON for programs on stdout.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::verdict::{Verdict, ViewCounts};
use crate::commands::words::{count, grouped};

/// What was done, and what was found.
pub(super) struct Report {
    pub(super) seed: u64,
    pub(super) kills: u32,
    pub(super) ready_max: Duration,
    pub(super) verdict: Verdict,
}

impl Report {
    /// Returns the one word.
    fn word(&self) -> &'static str {
        match (self.verdict.is_good(), self.verdict.counts.acknowledged) {
            (true, 0) => "nothing was acknowledged",
            (true, _) => "ok",
            (false, _) => "failed",
        }
    }

    /// Whether everything is as it was promised.
    pub(super) fn is_good(&self) -> bool {
        self.word() == "ok"
    }

    /// Returns the line for programs.
    pub(super) fn to_json(&self) -> Value {
        let Verdict { counts, views, aside } = &self.verdict;
        json!({
            "seed": self.seed,
            "kills": self.kills,
            "rows": counts.sent,
            "acknowledged": counts.acknowledged,
            "missing": counts.missing,
            "duplicate": counts.duplicate,
            "redelivered": counts.redelivered,
            "invented": counts.invented,
            "unanswered": counts.unknown,
            "windows": views.iter().filter(|view| view.windowed).map(|view| view.rows).sum::<u64>(),
            "wrong_windows": self.verdict.wrong(),
            "aside": aside,
            "ms_to_ready_max": u64::try_from(self.ready_max.as_millis()).unwrap_or(u64::MAX),
            "verdict": self.word(),
        })
    }

    /// Returns the summary for people.
    pub(super) fn summary(&self, file: &str) -> String {
        let Verdict { counts, views, aside } = &self.verdict;
        let rows = |number: u64| count(usize::try_from(number).unwrap_or(usize::MAX), "row");
        let mut text = format!("{file}: {}, with seed {}\n", self.word(), self.seed);
        let kills = count(self.kills as usize, "kill");
        let ready_ms = self.ready_max.as_millis();
        let _ = writeln!(text, "  {kills}; ready again after {ready_ms} ms at most");
        let _ = writeln!(text, "  {} sent, {} acknowledged", rows(counts.sent), grouped(counts.acknowledged));
        let _ = writeln!(
            text,
            "  of these {} missing and {} doubled; {} that were never sent are there",
            grouped(counts.missing),
            grouped(counts.duplicate),
            grouped(counts.invented)
        );
        if counts.unknown > 0 {
            let _ = writeln!(
                text,
                "  {} got no answer before a kill; {} of them are there, which is allowed",
                rows(counts.unknown),
                grouped(counts.unknown_there)
            );
        }
        if counts.redelivered > 0 {
            let _ = writeln!(
                text,
                "  {} twice because MQTT QoS 1 sent them again after a kill, which is allowed",
                rows(counts.redelivered)
            );
        }
        for ViewCounts { name, windowed, rows: expected, wrong, example } in views {
            let what = if *windowed { "of closed windows" } else { "of history" };
            let rows = rows(*expected);
            let _ = match example {
                None if *expected == 0 => {
                    writeln!(
                        text,
                        "  view {name}  empty, as it should be: its conditions keep none of the generated rows"
                    )
                }
                None => writeln!(text, "  view {name}  {rows} {what} as the same SELECT over the raw rows gives them"),
                Some(example) => {
                    writeln!(text, "  view {name}  {} WRONG, of {rows} {what}; such as {example}", grouped(*wrong))
                }
            };
        }
        for (table, count) in aside {
            let _ = writeln!(text, "  table {table}  {} that should be in the views", rows(*count));
        }
        if counts.acknowledged == 0 {
            text += "  It was killed too often to receive anything: say fewer --kills, or more --seconds\n";
        }
        text
    }
}
