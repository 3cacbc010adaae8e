//! Identity: whose table it is, and which of its contents.
//!
//! ```text
//!   metaData.configuration   tidemill.appId        tidemill/<job>/<name>      who fills it, for ever
//!                            tidemill.fingerprint  9f2c…                      what the view computes
//!                            tidemill.generation   2                          how often the content was replaced
//!                            tidemill.base         1200                       the epoch that the content starts behind
//!   txn.appId                tidemill/<job>/<name>      generation 0
//!                            tidemill/<job>/<name>@2    generation 2
//! ```
//! A changed view, or a restore, replaces the content and counts the generation up. Each generation has a `txn` of its
//! own, so the epochs of the log keep their numbers, and an old commit that arrives late is known as such.

use std::collections::BTreeMap;

use tidemill_engine::epoch::Epoch;
use tidemill_engine::seeded_bugs::{SeededBug, is_planted};

use super::actions::{MetaData, Txn};

/// Who fills the table, the same in all generations.
pub(super) const APP_ID_KEY: &str = "tidemill.appId";
/// Identifies what the view computed when the content was made.
pub(super) const FINGERPRINT_KEY: &str = "tidemill.fingerprint";
/// See [`Content::generation`]; absent is 0.
pub(super) const GENERATION_KEY: &str = "tidemill.generation";
/// See [`Content::base`]; absent is 0.
pub(super) const BASE_KEY: &str = "tidemill.base";

/// Which content a table has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// How often the content was replaced.
    pub(super) generation: u64,
    /// The epoch that the content starts behind.
    pub(super) base: Epoch,
}

impl Content {
    /// Reads which content a table has.
    pub(super) fn of(metadata: &MetaData) -> Result<Content, String> {
        let number = |key: &str| match setting(metadata, key) {
            None => Ok(0),
            Some(text) => text.parse::<u64>().map_err(|_| format!("its setting {key} is {text:?}, not a number")),
        };
        Ok(Content { generation: number(GENERATION_KEY)?, base: Epoch(number(BASE_KEY)?) })
    }

    /// Writes it into a table's settings.
    pub(super) fn describe_in(self, configuration: &mut BTreeMap<String, Option<String>>) {
        for (key, number) in [(GENERATION_KEY, self.generation), (BASE_KEY, self.base.0)] {
            match number {
                0 => configuration.remove(key),
                number => configuration.insert(key.to_owned(), Some(number.to_string())),
            };
        }
    }

    /// Returns the last epoch that is in the table.
    pub(super) fn last_committed(self, base_id: &str, transactions: &BTreeMap<String, Txn>) -> Epoch {
        let found = transactions.get(&app_id(base_id, self.generation));
        found.filter(|_| !is_planted(SeededBug::TransactionNotRead)).map_or(self.base, epoch_of)
    }
}

/// A setting of a table.
pub(super) fn setting<'a>(metadata: &'a MetaData, key: &str) -> Option<&'a str> {
    metadata.configuration.get(key).and_then(Option::as_deref)
}

/// Who fills a table.
pub(super) fn base_id(job: &str, name: &str) -> String {
    format!("tidemill/{job}/{name}")
}

/// The name under which a generation's commits count.
pub(super) fn app_id(base_id: &str, generation: u64) -> String {
    if generation == 0 { base_id.to_owned() } else { format!("{base_id}@{generation}") }
}

/// Finds a transaction of another job: the epochs of another mean something else.
pub(super) fn foreign_job<'a>(base_id: &str, transactions: &'a BTreeMap<String, Txn>) -> Option<&'a str> {
    let is_ours = |app_id: &str| {
        app_id.strip_prefix(base_id).is_some_and(|rest| {
            rest.is_empty() || rest.strip_prefix('@').is_some_and(|number| number.parse::<u64>().is_ok())
        })
    };
    transactions.keys().map(String::as_str).find(|app_id| app_id.starts_with("tidemill/") && !is_ours(app_id))
}

/// The epoch of a transaction.
pub(super) fn epoch_of(txn: &Txn) -> Epoch {
    Epoch(u64::try_from(txn.version).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transactions(app_ids: &[&str]) -> BTreeMap<String, Txn> {
        let txn = |app_id: &str| Txn { app_id: app_id.to_owned(), version: 7, last_updated: None };
        app_ids.iter().map(|app_id| ((*app_id).to_owned(), txn(app_id))).collect()
    }

    #[test]
    fn own_generations_are_no_foreign_job() {
        let ours = base_id("job", "t");
        for app_ids in
            [&["tidemill/job/t"][..], &["tidemill/job/t", "tidemill/job/t@1", "tidemill/job/t@12"], &["spark"]]
        {
            assert_eq!(foreign_job(&ours, &transactions(app_ids)), None);
        }
        for other in ["tidemill/job2/t", "tidemill/job/t2", "tidemill/job/t@x", "tidemill/job/t@"] {
            assert_eq!(foreign_job(&ours, &transactions(&["tidemill/job/t", other])), Some(other));
        }
    }

    #[test]
    fn each_generation_counts_its_own_epochs() {
        let transactions = transactions(&["tidemill/job/t"]);
        let at = |generation| Content { generation, base: Epoch(3) }.last_committed("tidemill/job/t", &transactions);
        assert_eq!((at(0), at(1)), (Epoch(7), Epoch(3)), "without a commit the content ends where it starts");
    }
}
