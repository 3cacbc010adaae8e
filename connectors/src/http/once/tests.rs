//! Numbers and keys: what comes again, what is refused, what is forgotten.

use tidemill_engine::source::Offset;
use tidemill_engine::time::micros;

use super::*;
use crate::http::problem::Kind;

const NOW_US: i64 = 1_700_000_000_000_000;

fn hash(of: &str) -> ContentHash {
    ContentHash::of(of.as_bytes(), PayloadEncoding::Json, OnError::Reject)
}

fn producer(epoch: u64, sequence: u64) -> Once {
    Once::Producer { id: "meter".to_owned(), epoch, sequence }
}

fn key(key: &str) -> Once {
    Once::Key(key.to_owned())
}

/// A ledger, and the log it writes to.
#[derive(Default)]
struct Desk {
    ledger: Ledger,
    log: Resume,
    next: u64,
}

impl Desk {
    /// Takes a request to the end: where it stands, and whether it had come before.
    fn take(&mut self, once: &Once, body: &str, now_us: i64) -> Result<(Option<Appended>, bool), Problem> {
        match self.ledger.begin(once, hash(body), now_us)? {
            Begun::Again(at) => Ok((at, true)),
            Begun::New(pass, notes) => {
                let at = Appended { first: Offset(self.next), next: Offset(self.next + 2) };
                self.next += 2;
                for Note { key, value } in notes {
                    if value.is_empty() {
                        self.log.notes.remove(&key);
                        self.log.places.remove(&key);
                    } else {
                        self.log.notes.insert(key.clone(), value);
                        self.log.places.insert(key, at);
                    }
                }
                self.ledger.done(pass, at);
                Ok((Some(at), false))
            }
        }
    }

    fn kind(&mut self, once: &Once, body: &str, now_us: i64) -> Kind {
        self.take(once, body, now_us).expect_err("refused").kind
    }

    fn restart(&mut self) {
        self.ledger = Ledger::recall(Some(&self.log));
    }
}

fn at(first: u64) -> Option<Appended> {
    Some(Appended { first: Offset(first), next: Offset(first + 2) })
}

#[test]
fn a_producer_counts_by_one_and_a_repeat_is_told_where_it_stands() {
    let mut desk = Desk::default();
    let gap = desk.take(&producer(0, 3), "a", NOW_US).expect_err("a new one begins at 0");
    assert_eq!((gap.kind, gap.expected_seq), (Kind::SequenceGap, Some(0)));
    for round in 0..2 {
        if round == 0 {
            assert_eq!(desk.take(&producer(0, 0), "a", NOW_US).expect("taken"), (at(0), false));
            assert_eq!(desk.take(&producer(0, 1), "b", NOW_US).expect("taken"), (at(2), false));
        }
        // The same before and after a restart.
        assert_eq!(desk.take(&producer(0, 1), "b", NOW_US).expect("known"), (at(2), true));
        assert_eq!(desk.take(&producer(0, 0), "a", NOW_US).expect("known"), (None, true), "only the last has a place");
        assert_eq!(desk.kind(&producer(0, 1), "other", NOW_US), Kind::Reused);
        let gap = desk.take(&producer(0, 3), "d", NOW_US).expect_err("2 is missing");
        assert_eq!((gap.kind, gap.expected_seq), (Kind::SequenceGap, Some(2)));
        desk.restart();
    }
    assert_eq!(desk.take(&producer(0, 2), "c", NOW_US).expect("taken"), (at(4), false));
}

#[test]
fn a_greater_epoch_begins_anew_and_an_older_one_is_over() {
    let mut desk = Desk::default();
    desk.take(&producer(4, 0), "a", NOW_US).expect("taken");
    assert_eq!(desk.kind(&producer(5, 1), "b", NOW_US), Kind::SequenceGap);
    assert_eq!(desk.take(&producer(5, 0), "b", NOW_US).expect("taken"), (at(2), false));
    for _ in 0..2 {
        assert_eq!(desk.kind(&producer(4, 1), "c", NOW_US), Kind::StaleEpoch);
        assert_eq!(desk.kind(&producer(4, 0), "a", NOW_US), Kind::StaleEpoch);
        desk.restart();
    }
}

#[test]
fn one_request_of_a_producer_or_a_key_is_in_flight_and_one_that_failed_never_was() {
    let mut desk = Desk::default();
    for once in [producer(0, 0), key("k")] {
        let Ok(Begun::New(pass, notes)) = desk.ledger.begin(&once, hash("a"), NOW_US) else { panic!("new") };
        assert_eq!(notes.len(), 1);
        assert_eq!(desk.kind(&once, "a", NOW_US), Kind::InFlight);
        desk.ledger.never(pass);
        assert!(!desk.take(&once, "b", NOW_US).expect("as if never begun").1);
    }
    assert!(!desk.take(&producer(0, 1), "c", NOW_US).expect("taken").1);
}

#[test]
fn a_key_stands_for_one_body_for_a_day() {
    let mut desk = Desk::default();
    let day_us = micros(KEY_KEPT);
    assert_eq!(desk.take(&key("a"), "1", NOW_US).expect("taken"), (at(0), false));
    for _ in 0..2 {
        assert_eq!(desk.take(&key("a"), "1", NOW_US + day_us).expect("known"), (at(0), true));
        assert_eq!(desk.kind(&key("a"), "2", NOW_US), Kind::Reused);
        desk.restart();
    }
    assert_eq!(desk.take(&key("a"), "2", NOW_US + day_us + 1).expect("another day"), (at(2), false));
    assert!(!desk.take(&key("b"), "2", NOW_US + 3 * day_us).expect("taken").1);
    assert_eq!(desk.log.notes.len(), 1, "the log need not know of a any more");
    let other = ContentHash::of(b"1", PayloadEncoding::Csv { delimiter: b',' }, OnError::Reject);
    assert_ne!(other, hash("1"), "the same bytes, but not the same request");
}

#[test]
fn keys_over_the_limit_are_refused_and_never_forgotten_for_others() {
    let mut desk = Desk::default();
    for number in 0..KEYS_MAX {
        desk.take(&key(&number.to_string()), "x", NOW_US).expect("room");
    }
    assert_eq!(desk.kind(&key("one more"), "x", NOW_US), Kind::KeysFull);
    assert!(desk.take(&key("0"), "x", NOW_US).expect("known").1);
    desk.restart();
    assert_eq!(desk.kind(&key("one more"), "x", NOW_US), Kind::KeysFull);
    let later_us = NOW_US + micros(KEY_KEPT) + 1;
    assert!(!desk.take(&key("one more"), "x", later_us).expect("room for what is new").1);
    assert_eq!(desk.log.notes.len(), KEYS_MAX - FORGOTTEN_AT_ONCE_MAX + 1);
}

#[test]
fn ten_thousand_producers_are_remembered_and_no_more_until_some_are_silent_for_a_week() {
    let mut desk = Desk::default();
    let id = |number: usize| Once::Producer { id: format!("meter-{number}"), epoch: 0, sequence: 0 };
    for number in 0..PRODUCERS_MAX {
        desk.take(&id(number), "x", NOW_US).expect("room");
    }
    assert_eq!(desk.kind(&id(PRODUCERS_MAX), "x", NOW_US), Kind::TooManyProducers);
    let bytes: usize = desk.log.notes.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert!(bytes <= PRODUCERS_MAX * (1 + PRODUCER_ID_BYTES_MAX + 32), "{bytes}");
    desk.restart();
    let week_us = micros(PRODUCER_KEPT);
    assert!(desk.take(&id(7), "x", NOW_US + week_us).expect("known").1, "exactly a week");
    let next = Once::Producer { id: "meter-7".to_owned(), epoch: 0, sequence: 1 };
    desk.take(&next, "y", NOW_US + week_us).expect("taken");
    assert!(!desk.take(&id(PRODUCERS_MAX), "x", NOW_US + week_us + 1).expect("room").1);
    assert!(desk.take(&next, "y", NOW_US + week_us + 1).expect("heard of since").1);
    // Who was silent for longer is new, whether or not that was written down yet.
    assert!(!desk.take(&id(9_999), "x", NOW_US + week_us + 1).expect("a new life").1);
}

/// Whatever the log says, the ledger goes on from it, and no number overflows.
#[test]
fn fuzz_notes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/corpus/notes");
    tidemill_engine::testing::fuzz::fuzz(path, |input| {
        // A length, a key, and the rest is its value: again and again.
        let (mut log, mut rest) = (Resume::default(), input);
        while let Some((length, more)) = rest.split_first() {
            let (key, more) = more.split_at(more.len().min(usize::from(*length & 0x1f)));
            let (value, more) = more.split_at(more.len().min(usize::from(*length >> 2)));
            log.notes.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            rest = more;
        }
        let mut ledger = Ledger::recall(Some(&log));
        for once in [producer(0, 0), producer(1, 0), producer(u64::MAX - 1, u64::MAX - 1), key("k")] {
            match ledger.begin(&once, hash("body"), NOW_US) {
                Ok(Begun::New(pass, _)) => ledger.done(pass, Appended { first: Offset(0), next: Offset(1) }),
                Ok(Begun::Again(_)) | Err(_) => {}
            }
        }
        !log.notes.is_empty()
    });
}
