//! The outlook: what a start makes of each table, said before anything of it is done.
//!
//! ```text
//!   the table on disk is …          and the start                            then it
//!   ───────────────────────────────────────────────────────────────────────────────────────────────────
//!   of the very same view           has all the state that it needs          goes on
//!   of the very same view           lacks it                                 is filled again
//!   of another form of the view     —                                        is filled again
//!   not there                       —                                        is new
//!   not there, and it was           —                                        is filled again, as far as that goes
//!   there, and in no pipeline       —                                        is left alone
//! ```

use std::collections::BTreeSet;
use std::fmt;

use crate::checkpoint::{Checkpoint, FoundTable, From, Manifest, Start};
use crate::epoch::Epoch;
use crate::sink::Found;

/// What a start would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// Where the replay begins.
    pub reach: Reach,
    /// What a person should know beside it, in sentences.
    pub notes: Vec<String>,
    /// Each table of the pipeline, in its order, then those that are not in it any more.
    pub tables: Vec<(String, Fate)>,
}

/// What becomes of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its rows stand, and more come.
    GoesOn {
        /// The last epoch in it.
        committed: Epoch,
    },
    /// It keeps no rows: it gets those of the replay.
    Unkept,
    /// There is none yet.
    New(Reach),
    /// There was one, and somebody has removed it.
    Gone {
        /// The last epoch that was in it.
        committed: Epoch,
        /// What it is filled with.
        reach: Reach,
    },
    /// Its content starts anew.
    FilledAgain {
        /// Why.
        why: String,
        /// With what.
        reach: Reach,
    },
    /// No view fills it.
    Left,
}

/// How far back a table can be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Where from.
    pub from: From,
    /// When that was, in microseconds since 1970, UTC; none if there is nothing to replay.
    pub since_us: Option<i64>,
}

impl Outlook {
    /// Foretells what `start` makes of the tables found. `newest` is the newest manifest that can be read, and `known` the
    /// newest checkpoint.
    pub(super) fn of(
        start: &Start,
        reach: Reach,
        newest: Option<&Manifest>,
        known: Option<&Checkpoint>,
        tables: &[FoundTable],
        sources: &BTreeSet<&str>,
    ) -> Outlook {
        let fate = |table: &FoundTable| match (&table.found, start.rebuilt.get(&table.name)) {
            (Found::New, _) => match newest.and_then(|newest| had(newest, &table.name)) {
                Some(committed) => Fate::Gone { committed, reach },
                None => Fate::New(reach),
            },
            (Found::Unkept, _) => Fate::Unkept,
            (Found::Same { committed, .. }, None) => Fate::GoesOn { committed: *committed },
            (Found::Same { .. }, Some(why)) => Fate::FilledAgain { why: why.clone(), reach },
            (Found::Changed { what }, _) => Fate::FilledAgain { why: what.clone(), reach },
        };
        let mut fates: Vec<(String, Fate)> = tables.iter().map(|table| (table.name.clone(), fate(table))).collect();
        let left = newest.into_iter().flat_map(|newest| newest.tables.keys());
        let left = left.filter(|name| tables.iter().all(|table| table.name != **name));
        fates.extend(left.map(|name| (name.clone(), Fate::Left)));
        let mut notes = start.notes.clone();
        let recorded = known.into_iter().flat_map(|known| &known.partitions);
        let gone: BTreeSet<&str> =
            recorded.map(|partition| partition.source.as_str()).filter(|source| !sources.contains(source)).collect();
        notes.extend(gone.iter().map(|source| {
            format!(
                "the log has readings of source {source}, and the pipeline has no source of this name: no table gets them"
            )
        }));
        Outlook { reach, notes, tables: fates }
    }
}

/// Returns the last epoch whose rows a manifest counts on in a table, if there is any.
fn had(manifest: &Manifest, table: &str) -> Option<Epoch> {
    let known = manifest.tables.get(table)?;
    (known.committed > known.base).then_some(known.committed)
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.from {
            From::Beginning => write!(f, "the beginning of the log")?,
            From::Checkpoint { epoch, .. } => write!(f, "epoch {} on", epoch.next())?,
        }
        self.since_us.map_or(Ok(()), |us| write!(f, " ({})", Instant(us)))
    }
}

impl Reach {
    /// The end of a sentence about a table that would rather have had more.
    fn limit(self) -> &'static str {
        match self.from {
            From::Beginning => "",
            From::Checkpoint { .. } => ", as far as the log reaches back",
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fate::GoesOn { committed } => write!(f, "unchanged: goes on behind epoch {committed}, with all its rows"),
            Fate::Unkept => write!(f, "keeps no rows: begins with what is replayed"),
            Fate::New(reach) => write!(f, "new: filled from {reach}{}", reach.limit()),
            Fate::Gone { committed, reach } => {
                write!(f, "what it had, up to epoch {committed}, is gone: filled again from {reach}{}", reach.limit())
            }
            Fate::FilledAgain { why, reach } => {
                write!(f, "{why}: filled again from {reach}{}; its version before keeps the old rows", reach.limit())
            }
            Fate::Left => write!(f, "in the pipeline no more: its rows stay, and no more come"),
        }
    }
}

/// An instant as people read it.
struct Instant(i64);

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match arrow::temporal_conversions::timestamp_us_to_datetime(self.0) {
            Some(instant) => write!(f, "{}", instant.format("%Y-%m-%dT%H:%M:%SZ")),
            None => write!(f, "{} us", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fate_is_a_sentence_that_says_how_far_back_it_goes() {
        let beginning = Reach { from: From::Beginning, since_us: Some(1_767_225_600_000_000) };
        let later = Reach { from: From::Checkpoint { number: 3, epoch: Epoch(80) }, ..beginning };
        let fates = [
            Fate::GoesOn { committed: Epoch(100) },
            Fate::New(beginning),
            Fate::Gone { committed: Epoch(100), reach: later },
            Fate::FilledAgain { why: "the view was changed since this table was written".to_owned(), reach: later },
            Fate::Left,
        ];
        assert_eq!(
            fates.map(|fate| fate.to_string()),
            [
                "unchanged: goes on behind epoch 100, with all its rows",
                "new: filled from the beginning of the log (2026-01-01T00:00:00Z)",
                "what it had, up to epoch 100, is gone: filled again from epoch 81 on (2026-01-01T00:00:00Z), as far as the log \
                 reaches back",
                "the view was changed since this table was written: filled again from epoch 81 on (2026-01-01T00:00:00Z), \
                 as far as the log reaches back; its version before keeps the old rows",
                "in the pipeline no more: its rows stay, and no more come",
            ]
        );
    }
}
