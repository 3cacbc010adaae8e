//! The fence: a process that was stopped, and replaced meanwhile, must notice before it promises anything.
//!
//! The lock on the data folder keeps a second process out as long as the file system and the people play along. Where
//! they do not (a network file system, a copied volume, a lock file that somebody removed) the fence holds. Every start
//! claims a number, its *incarnation*, by one file that it alone can make:
//!
//! ```text
//!   fence/00000000000000000006   {"pid":4711,"started_us":1763640000000000}     kept for a while: see below
//!   fence/00000000000000000007   {"pid":4802,"started_us":1763640007000000}     the newest is the one in charge
//! ```
//!
//! # Why nothing that was acknowledged is lost
//!
//! ```text
//!   old process    write ─► sync ─► check: is 7 claimed? ── no ─► acknowledge
//!   new process                       claim 7 ─► read the log ─► go on writing
//! ```
//!
//! The old process checks *after* its data is durable, and the new one claims *before* it reads. If the check finds
//! nothing, the claim came after it, and the reading later still: what was acknowledged is in what was read. If the
//! check finds the claim, nothing is acknowledged, and it does not matter whether the new process read the data or not.
//!
//! Nor can the old process harm what the new one writes: a process appends only to files that it made, and makes
//! them with `put_new`, of which one wins. What the old one adds to its last segment after the new one has read it lies
//! behind the end that the new one's segment states, and is not part of the log.
//!
//! # Why old claims can be removed
//!
//! A claim n removes those long before it, the oldest first. A process k looks for k + 1 first and for its own claim
//! second. If it finds no k + 1 because that was removed already, k was removed before it, and the second look tells.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::seeded_bugs::{SeededBug, is_planted};
use crate::storage::{Storage, StorageError};

/// The folder of the claims.
const DIR: &str = "fence";

/// How many claims are kept: more than start at the same instant. One that listed the folder a while ago must not find a
/// number free again that was claimed since.
pub const CLAIMS_KEPT: u64 = 2 * CLAIM_ATTEMPTS_MAX;

/// How many numbers are tried: as many processes may start at the same instant.
const CLAIM_ATTEMPTS_MAX: u64 = 64;

/// The number of a start of the program on a data folder. Clones are the same incarnation.
#[derive(Clone)]
pub struct Incarnation {
    storage: Arc<dyn Storage>,
    number: u64,
}

/// Why a process may not promise anything any more.
#[derive(Debug, thiserror::Error)]
pub enum Fenced {
    /// Another process has claimed the folder.
    #[error(
        "another process{by} has taken over the data folder, as {path} shows. This process, start {number} on it, \
         acknowledges nothing more; nothing that it acknowledged is lost. Find out why two processes were started on one \
         folder"
    )]
    TakenOver {
        /// The incarnation that is over.
        number: u64,
        /// The claim of the successor; the own one, if that is gone.
        path: String,
        /// Its process id, in words; empty if nobody knows.
        by: String,
    },
    /// Nobody can tell, so nothing may be promised.
    #[error("cannot find out whether another process has taken over the data folder, so nothing more is acknowledged")]
    Unknown {
        /// Why.
        #[source]
        source: StorageError,
    },
}

/// What a claim says of who made it. For people only.
#[derive(Debug, Serialize, Deserialize)]
struct Claim {
    pid: u32,
    started_us: i64,
}

impl Incarnation {
    /// Claims the next number. To be called before anything of the folder is read that an earlier process may still
    /// write.
    pub fn claim(storage: &Arc<dyn Storage>, clock: &dyn Clock) -> Result<Incarnation, StorageError> {
        let claim = Claim { pid: std::process::id(), started_us: clock.now_us() };
        let claim = serde_json::to_vec(&claim).expect("two numbers are JSON");
        let found = numbers(&**storage)?;
        let next = found.last().map_or(1, |newest| newest.saturating_add(1));
        let mut attempt = next;
        let number = loop {
            match storage.put_new(&path(attempt), &claim) {
                Ok(()) => break attempt,
                // Another one started at the same time and was faster.
                Err(StorageError::Exists { .. }) if attempt - next < CLAIM_ATTEMPTS_MAX => attempt += 1,
                Err(error) => return Err(error),
            }
        };
        for old in found.iter().filter(|old| old.saturating_add(CLAIMS_KEPT) < number) {
            storage.delete(&path(*old))?;
        }
        Ok(Incarnation { storage: Arc::clone(storage), number })
    }

    /// Returns the number: greater than that of every earlier start on this folder.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Looks whether a later start has claimed the folder: opens two small files, of which one should not be there.
    ///
    /// `Ok` says that all that was durable before the call is read by every later start.
    pub fn check(&self) -> Result<(), Fenced> {
        if is_planted(SeededBug::ZombieGoesOn) {
            return Ok(());
        }
        // The successor first: see the module about removal.
        let successor = path(self.number.saturating_add(1));
        if self.exists(&successor)? {
            return Err(self.taken_over(successor));
        }
        if !self.exists(&path(self.number))? {
            return Err(self.taken_over(path(self.number)));
        }
        Ok(())
    }

    fn exists(&self, path: &str) -> Result<bool, Fenced> {
        match self.storage.open(path) {
            Ok(_) => Ok(true),
            Err(StorageError::Missing { .. }) => Ok(false),
            Err(source) => Err(Fenced::Unknown { source }),
        }
    }

    fn taken_over(&self, path: String) -> Fenced {
        let claim = self.storage.get(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let by = claim.map_or_else(String::new, |claim: Claim| format!(" (process {})", claim.pid));
        Fenced::TakenOver { number: self.number, path, by }
    }
}

impl std::fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Incarnation").field(&self.number).finish()
    }
}

fn path(number: u64) -> String {
    format!("{DIR}/{number:020}")
}

/// Returns the numbers that are claimed, ascending. Files with other names are not ours, and left alone.
fn numbers(storage: &dyn Storage) -> Result<Vec<u64>, StorageError> {
    let number = |name: &str| name.parse().ok().filter(|number| path(*number) == format!("{DIR}/{name}"));
    let mut numbers: Vec<u64> = storage.list(DIR)?.iter().filter_map(|entry| number(&entry.name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::storage::{LocalStorage, MemoryStorage};

    fn claim(storage: &Arc<dyn Storage>) -> Incarnation {
        Incarnation::claim(storage, &ManualClock::at(77)).unwrap()
    }

    fn memory() -> Arc<dyn Storage> {
        Arc::new(MemoryStorage::default())
    }

    #[test]
    fn every_start_gets_a_greater_number_and_ends_those_before() {
        let folder = tempfile::tempdir().unwrap();
        for storage in [memory(), Arc::new(LocalStorage::open(folder.path()).unwrap())] {
            let mut before: Vec<Incarnation> = Vec::new();
            for number in 1..=6 {
                let incarnation = claim(&storage);
                assert_eq!(incarnation.number(), number);
                incarnation.check().unwrap();
                incarnation.clone().check().unwrap();
                // Also those whose successors' claims are removed already.
                for old in &before {
                    let error = old.check().unwrap_err();
                    assert!(matches!(error, Fenced::TakenOver { .. }), "{error}");
                }
                before.push(incarnation);
            }
            assert_eq!(numbers(&*storage).unwrap(), [1, 2, 3, 4, 5, 6]);
        }
    }

    #[test]
    fn the_error_names_the_process_that_took_over_and_says_that_nothing_is_acknowledged() {
        let storage = memory();
        let first = claim(&storage);
        claim(&storage);
        let error = first.check().unwrap_err().to_string();
        let process = format!("another process (process {})", std::process::id());
        assert!(error.starts_with(&process) && error.contains("acknowledges nothing more"), "{error}");
        assert!(error.contains("fence/00000000000000000002"), "{error}");
    }

    #[test]
    fn of_racing_starts_the_one_with_the_greatest_number_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(LocalStorage::open(folder.path()).unwrap());
        let mut claimed: Vec<Incarnation> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8).map(|_| scope.spawn(|| claim(&storage))).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        claimed.sort_by_key(Incarnation::number);
        assert!(claimed.windows(2).all(|pair| pair[0].number() < pair[1].number()));
        let newest = claimed.pop().unwrap();
        newest.check().unwrap();
        assert!(claimed.iter().all(|old| old.check().is_err()));
    }

    #[test]
    fn a_folder_that_cannot_be_read_is_no_permission() {
        let folder = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(LocalStorage::open(folder.path()).unwrap());
        let incarnation = claim(&storage);
        // A folder where the successor's claim would be cannot be opened as a file.
        storage.put(&format!("{}/x", path(2)), b"").unwrap();
        let error = incarnation.check().unwrap_err();
        assert!(matches!(error, Fenced::Unknown { .. }), "{error}");
    }

    #[test]
    fn files_with_other_names_are_left_alone() {
        let storage = memory();
        for name in ["9", "000000000000000000x1", "notes.txt"] {
            storage.put(&format!("{DIR}/{name}"), b"").unwrap();
        }
        assert_eq!((1..=4).map(|_| claim(&storage).number()).max(), Some(4));
        assert_eq!(storage.list(DIR).unwrap().len(), 3 + 4);
    }

    #[test]
    fn claims_do_not_grow_for_ever() {
        let storage = memory();
        (1..2 * CLAIMS_KEPT).for_each(|_| drop(claim(&storage)));
        let last = claim(&storage);
        assert_eq!(numbers(&*storage).unwrap().len() as u64, CLAIMS_KEPT + 1);
        last.check().unwrap();
    }
}
