//! The verdict: the ledgers against the rows in the tables, and each view's table against its own question over them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType};
use serde_json::Value;
use tidemill::{Error, Result};
use tidemill_queries::answer::AnswerFormat;
use tidemill_queries::history::{History, TABLES_FOLDER, TableLocation};
use tidemill_queries::problem::Problem;
use tidemill_queries::quoted;
use tidemill_queries::session::{Limits, Session};

use super::ledger::{self, Fate};
use super::pipeline::{Compared, Fed, UnderTest};
use super::rows::Carrier;

/// Sums of the same numbers in another order differ in their last digits.
const TOLERANCE: f64 = 1e-9;

/// What was found of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) acknowledged: u64,
    /// Sent without an answer, and there.
    pub(super) unknown: u64,
    pub(super) unknown_there: u64,
    /// Acknowledged, and not there.
    pub(super) missing: u64,
    /// There more often than it was sent.
    pub(super) duplicate: u64,
    /// There more often than once, after it was sent more often.
    pub(super) redelivered: u64,
    /// There, and never sent.
    pub(super) invented: u64,
}

/// What was found of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ViewCounts {
    pub(super) name: String,
    pub(super) windowed: bool,
    /// Rows that the question gives.
    pub(super) rows: u64,
    /// Rows that the table lacks, or has too many.
    pub(super) wrong: u64,
    /// One of them.
    pub(super) example: Option<String>,
}

/// What was found.
pub(super) struct Verdict {
    pub(super) counts: Counts,
    pub(super) views: Vec<ViewCounts>,
    /// Rows in the tables of what could not be used, by table.
    pub(super) aside: BTreeMap<String, u64>,
}

impl Verdict {
    pub(super) fn wrong(&self) -> u64 {
        self.views.iter().map(|view| view.wrong).sum()
    }

    pub(super) fn is_good(&self) -> bool {
        let Counts { missing, duplicate, invented, .. } = self.counts;
        missing + duplicate + invented + self.wrong() == 0 && self.aside.is_empty()
    }
}

/// Compares everything. `ledgers` is the folder with a ledger for each source.
pub(super) async fn judge(under_test: &UnderTest, data: &Path, ledgers: &Path) -> Result<Verdict> {
    let tables = Tables(data);
    let mut verdict = Verdict { counts: Counts::default(), views: Vec::new(), aside: BTreeMap::new() };
    for fed in &under_test.sources {
        let path = ledgers.join(&fed.name);
        let fates = ledger::read(&path, fed.count)
            .map_err(|error| Error::Environment(format!("cannot read {}: {error}", path.display())))?;
        count(&mut verdict.counts, fed, &fates, &tables).await?;
        for role in ["dead", "quarantine", "late"] {
            tables.count_aside(&mut verdict.aside, &format!("{}${role}", fed.name)).await?;
        }
    }
    for view in &under_test.views {
        verdict.views.push(compare(view, under_test, &tables).await?);
        if view.windowed {
            tables.count_aside(&mut verdict.aside, &format!("{}$late", view.name)).await?;
        }
    }
    Ok(verdict)
}

/// Counts how often each row is there.
async fn count(counts: &mut Counts, fed: &Fed, fates: &[Fate], tables: &Tables<'_>) -> Result<()> {
    let carrier = quoted(fed.rows.carrier_name());
    let (from, all) = (fed.before_end(), tables.known([(fed.before_end(), fed.before_end())]));
    let answer = all.query(&format!("SELECT {carrier} FROM {}", quoted(&from))).await.map_err(refused)?;
    let mut there = vec![0u32; fates.len()];
    for batch in answer.collect().await.map_err(refused)? {
        for row in carried(fed, &batch)? {
            match row.and_then(|row| there.get_mut(usize::try_from(row).ok()?)) {
                Some(times) => *times += 1,
                None => counts.invented += 1,
            }
        }
    }
    for (fate, times) in fates.iter().zip(there) {
        counts.sent += u64::from(*fate != Fate::Unsent);
        let more = u64::from(times.saturating_sub(1));
        match fate {
            Fate::Unsent => counts.invented += u64::from(times),
            Fate::Unknown => {
                counts.unknown += 1;
                counts.unknown_there += u64::from(times > 0);
                counts.duplicate += more;
            }
            Fate::Acknowledged | Fate::Repeated => {
                counts.acknowledged += 1;
                counts.missing += u64::from(times == 0);
                *(if *fate == Fate::Repeated { &mut counts.redelivered } else { &mut counts.duplicate }) += more;
            }
        }
    }
    Ok(())
}

/// Returns the numbers of the rows in a batch; `None` for a value that no row has.
fn carried(fed: &Fed, batch: &RecordBatch) -> Result<Vec<Option<u64>>> {
    let unexpected =
        || Error::Internal(format!("source {}: its rows have another type than they were sent with", fed.name));
    let as_type = |data_type: &DataType| arrow::compute::cast(batch.column(0), data_type).map_err(|_| unexpected());
    Ok(match fed.rows.carried {
        Carrier::Time => {
            let times = as_type(&tidemill_engine::plan::timestamp_type())?;
            let times = times.as_primitive::<TimestampMicrosecondType>();
            times.iter().map(|time| fed.rows.row_of_time(time?)).collect()
        }
        Carrier::Integer => {
            let numbers = as_type(&DataType::Int64)?;
            numbers.as_primitive::<Int64Type>().iter().map(|number| u64::try_from(number?).ok()).collect()
        }
        Carrier::Number => {
            let numbers = as_type(&DataType::Float64)?;
            let whole = |number: f64| (number >= 0.0 && number.fract() == 0.0).then_some(number as u64);
            numbers.as_primitive::<Float64Type>().iter().map(|number| whole(number?)).collect()
        }
        Carrier::Text => {
            let texts = as_type(&DataType::Utf8)?;
            let texts = texts.as_string::<i32>();
            texts.iter().map(|text| text?.rsplit_once('-')?.1.parse().ok()).collect()
        }
    })
}

/// Asks the view's own question over the rows that are there, and compares the answer with its table.
async fn compare(view: &Compared, under_test: &UnderTest, tables: &Tables<'_>) -> Result<ViewCounts> {
    // The closing row is in no window that has closed, and in every history.
    let raw = |fed: &Fed| (fed.name.clone(), if view.windowed { fed.before_end() } else { fed.all() });
    let others = under_test.views.iter().filter(|other| other.name != view.name);
    let names = under_test.sources.iter().map(raw).chain(others.map(|other| (other.name.clone(), other.name.clone())));
    let (expected, floats) = tables.rows(&tables.known(names), &view.query).await?;
    let columns = view.columns.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(", ");
    let stored = tables.known([(view.name.clone(), view.name.clone())]);
    let (found, stored_floats) = tables.rows(&stored, &format!("SELECT {columns} FROM {}", quoted(&view.name))).await?;
    let floats: BTreeSet<String> = floats.union(&stored_floats).cloned().collect();
    let rows = expected.len() as u64;
    let (wrong, example) = differences(&grouped(expected, &floats), &grouped(found, &floats));
    Ok(ViewCounts { name: view.name.clone(), windowed: view.windowed, rows, wrong, example })
}

/// Rows without their floating point columns, and what is in those.
type Groups = BTreeMap<String, Vec<Vec<f64>>>;

fn grouped(rows: Vec<serde_json::Map<String, Value>>, floats: &BTreeSet<String>) -> Groups {
    let mut groups = Groups::new();
    for row in rows {
        let (mut exact, mut near) = (Vec::new(), Vec::new());
        for (name, value) in row {
            match value.as_f64().filter(|_| floats.contains(&name)) {
                Some(number) => near.push(number),
                None => exact.push(value),
            }
        }
        groups.entry(Value::Array(exact).to_string()).or_default().push(near);
    }
    for numbers in groups.values_mut() {
        numbers.sort_by(|left, right| {
            let order = left.iter().zip(right).map(|(left, right)| left.total_cmp(right));
            order.fold(left.len().cmp(&right.len()), std::cmp::Ordering::then)
        });
    }
    groups
}

/// Counts what one side has and the other has not; of a row that differs only once.
fn differences(expected: &Groups, found: &Groups) -> (u64, Option<String>) {
    let near = |left: &Vec<f64>, right: &Vec<f64>| {
        left.len() == right.len()
            && left
                .iter()
                .zip(right)
                .all(|(left, right)| (left - right).abs() <= TOLERANCE * left.abs().max(right.abs()).max(1.0))
    };
    let (mut wrong, mut example) = (0, None);
    let nothing = Vec::new();
    let keys: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    for key in keys {
        let (expected, found) = (expected.get(key).unwrap_or(&nothing), found.get(key).unwrap_or(&nothing));
        let same = expected.iter().zip(found).filter(|(expected, found)| near(expected, found)).count();
        let differ = (expected.len().max(found.len()) - same) as u64;
        if differ > 0 {
            wrong += differ;
            example.get_or_insert_with(|| format!("{key}: {expected:?} was to be there, and {found:?} is"));
        }
    }
    (wrong, example)
}

/// The tables of the folder.
struct Tables<'a>(&'a Path);

impl Tables<'_> {
    /// Makes a session in which tables have these names: each is a name, and the table that it stands for.
    fn known(&self, names: impl IntoIterator<Item = (String, String)>) -> Session {
        let place = |(name, table): (String, String)| TableLocation {
            name,
            schema: None,
            dir: self.0.join(TABLES_FOLDER).join(table),
        };
        Session::new(Arc::new(History::new(names.into_iter().map(place))), Limits::default())
    }

    /// Returns the rows of a question, and the names of the columns that are floating point.
    async fn rows(
        &self,
        session: &Session,
        sql: &str,
    ) -> Result<(Vec<serde_json::Map<String, Value>>, BTreeSet<String>)> {
        let answer = session.query(sql).await.map_err(refused)?;
        let fields = answer.schema().fields().iter().filter(|field| field.data_type().is_floating());
        let floats = fields.map(|field| field.name().clone()).collect();
        let mut encoded = answer.encode(AnswerFormat::Json);
        let mut text = Vec::new();
        while let Some(bytes) = encoded.next().await {
            text.extend_from_slice(&bytes.map_err(refused)?);
        }
        let unreadable = |error: &dyn std::fmt::Display| Error::Internal(format!("cannot read an answer: {error}"));
        let mut answer: Value = serde_json::from_slice(&text).map_err(|error| unreadable(&error))?;
        let Value::Array(rows) = answer["rows"].take() else { return Err(unreadable(&"it has no rows")) };
        let objects = rows.into_iter().map(|row| match row {
            Value::Object(row) => Ok(row),
            _ => Err(unreadable(&"a row is no object")),
        });
        Ok((objects.collect::<Result<_>>()?, floats))
    }

    /// Counts the rows of a table that should have none.
    async fn count_aside(&self, aside: &mut BTreeMap<String, u64>, table: &str) -> Result<()> {
        if !self.0.join(TABLES_FOLDER).join(table).is_dir() {
            return Ok(());
        }
        let session = self.known([("aside".to_owned(), table.to_owned())]);
        let (rows, _) = self.rows(&session, "SELECT count(*) AS n FROM aside").await?;
        let count = rows.first().and_then(|row| row.get("n")?.as_u64()).unwrap_or(0);
        if count > 0 {
            aside.insert(table.to_owned(), count);
        }
        Ok(())
    }
}

fn refused(problem: Problem) -> Error {
    Error::Internal(format!("cannot ask over the rows that are there: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn groups(rows: &[Value]) -> Groups {
        let rows = rows.iter().map(|row| row.as_object().expect("an object").clone()).collect();
        grouped(rows, &BTreeSet::from(["b".to_owned()]))
    }

    #[test]
    fn rows_are_compared_as_often_as_they_are_there_and_floats_nearly() {
        let expected = groups(&[json!({"a": 1, "b": 0.3}), json!({"a": 1, "b": 2.0}), json!({"a": 2, "b": null})]);
        assert_eq!(
            differences(
                &expected,
                &groups(&[json!({"a": 2, "b": null}), json!({"a": 1, "b": 2.0}), json!({"a": 1, "b": 0.1 + 0.2})])
            )
            .0,
            0
        );
        for (found, wrong) in [
            (vec![], 3),
            (vec![json!({"a": 1, "b": 0.3}), json!({"a": 2, "b": null})], 1),
            (vec![json!({"a": 1, "b": 0.3}), json!({"a": 1, "b": 2.1}), json!({"a": 2, "b": null})], 1),
            (
                vec![
                    json!({"a": 1, "b": 0.3}),
                    json!({"a": 1, "b": 2.0}),
                    json!({"a": 2, "b": null}),
                    json!({"a": 2, "b": null}),
                ],
                1,
            ),
        ] {
            let (count, example) = differences(&expected, &groups(&found));
            assert!(count >= wrong && example.is_some(), "{found:?}: {count}");
        }
    }
}
