//! Fuzzing: a parser gets what a corpus holds, then mutations of it, and must not panic.
//!
//! ```text
//!   corpus/<target>/*  ──►  pool  ──►  cut, flip, repeat, splice, lie about a length  ──►  parser
//!                            ▲                                                              │
//!                            └──────────────────── what it takes ◄──────────────────────────┘
//! ```
//!
//! In `cargo test` each target gets its corpus and [`MUTATIONS`], fewer where a parser is slow; with
//! `TIDEMILL_FUZZ_SECONDS` it goes on for so long, from another seed each time. An input that panics is printed as a file of the corpus, to be added there: then it is
//! tried for ever.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::clock::{Clock, SystemClock};

/// Mutated inputs of each target in a test run without further wishes.
pub const MUTATIONS: u64 = 3_000;

/// What they may take together.
const MUTATIONS_TAKE: Duration = Duration::from_secs(3);

/// Inputs that mutations begin with, at most.
const POOL_INPUTS_MAX: usize = 1_000;
/// An input grows no longer than this: the rest of a long one tells little.
const INPUT_BYTES_MAX: usize = 8 << 10;
/// What lengths and counts are likely to be compared with.
const BOUNDARIES: [u64; 10] = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, u64::MAX];

/// Runs a target: `parse` returns whether it took the input, and panics if it must not.
///
/// `corpus` is a folder with one file for each input.
///
/// # Panics
/// If `parse` has, or if the corpus is missing or nothing of it is taken: then the target tests too little.
pub fn fuzz(corpus: impl AsRef<Path>, mut parse: impl FnMut(&[u8]) -> bool) {
    let corpus = corpus.as_ref();
    let mut pool = read(corpus);
    let whole: usize = pool.iter().map(|input| usize::from(survives(corpus, input, &mut parse))).sum();
    assert!(whole > 0, "{}: the parser takes nothing of the corpus", corpus.display());
    let seconds = std::env::var("TIDEMILL_FUZZ_SECONDS").ok().and_then(|text| text.parse::<f64>().ok());
    let clock = SystemClock;
    let seed = seconds.map_or(1, |_| clock.now_us() as u64);
    let takes = seconds.map_or(MUTATIONS_TAKE, Duration::from_secs_f64);
    let until_us = clock.monotonic_us().saturating_add(crate::time::micros(takes));
    let mut random = SmallRng::seed_from_u64(seed);
    let mut count = 0;
    while clock.monotonic_us() < until_us && (seconds.is_some() || count < MUTATIONS) {
        count += 1;
        let input = mutated(&pool, &mut random);
        if survives(corpus, &input, &mut parse) {
            if pool.len() < POOL_INPUTS_MAX {
                pool.push(input);
            } else {
                let place = random.random_range(0..pool.len());
                pool[place] = input;
            }
        }
    }
    println!("{}: {count} mutations, seed {seed}", corpus.display());
}

/// Returns the files of a folder in the order of their names.
fn read(corpus: &Path) -> Vec<Vec<u8>> {
    let complain = |error: std::io::Error| -> ! { panic!("corpus {}: {error}", corpus.display()) };
    let entries = std::fs::read_dir(corpus).unwrap_or_else(|error| complain(error));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap_or_else(|error| complain(error)).path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap_or_else(|error| complain(error))).collect()
}

fn survives(corpus: &Path, input: &[u8], mut parse: impl FnMut(&[u8]) -> bool) -> bool {
    catch_unwind(AssertUnwindSafe(|| parse(input))).unwrap_or_else(|_| {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!(
            "an input of {} bytes panics: {}\nto keep it: echo {hex} | xxd -r -p > {}/found-{:08x}",
            input.len(),
            String::from_utf8_lossy(input),
            corpus.display(),
            crc32c::crc32c(input)
        )
    })
}

/// Returns an input of the pool with a few changes.
fn mutated(pool: &[Vec<u8>], random: &mut SmallRng) -> Vec<u8> {
    let mut input = pool[random.random_range(0..pool.len())].clone();
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..=input.len());
        let len = random.random_range(0..=16).min(input.len() - at);
        match random.random_range(0..8) {
            0 => drop(input.drain(at..at + len)),
            1 => input.truncate(at),
            2 if len > 0 => input[at] ^= 1 << random.random_range(0..8),
            3 if len > 0 => input[at] = random.random(),
            4 => {
                let again = input[at..at + len].repeat(random.random_range(1..=8));
                input.splice(at..at, again);
            }
            5 => {
                let other = &pool[random.random_range(0..pool.len())];
                let from = random.random_range(0..=other.len());
                let to = random.random_range(from..=other.len());
                input.splice(at..at + len, other[from..to].iter().copied());
            }
            6 => {
                let bytes = BOUNDARIES[random.random_range(0..BOUNDARIES.len())].to_le_bytes();
                let width = [1, 2, 4, 8][random.random_range(0..4)];
                let mut number = bytes[..width].to_vec();
                if random.random() {
                    number.reverse();
                }
                let end = (at + width).min(input.len());
                input.splice(at..end, number);
            }
            _ => {
                let text = BOUNDARIES[random.random_range(0..BOUNDARIES.len())].to_string();
                input.splice(at..at + len, text.into_bytes());
            }
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus(inputs: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (number, input) in inputs.iter().enumerate() {
            #[expect(clippy::disallowed_methods, reason = "a file of the test, that no crash may harm")]
            std::fs::write(folder.path().join(number.to_string()), input).expect("writable");
        }
        folder
    }

    #[test]
    fn a_parser_that_panics_is_found_and_its_input_told() {
        let corpus = corpus(&["{\"length\": 1}", "\"\""]);
        let refuses = |input: &[u8]| {
            assert!(!input.windows(2).any(|pair| pair == b"11"), "two in a row");
            true
        };
        let panic = catch_unwind(AssertUnwindSafe(|| fuzz(corpus.path(), refuses))).expect_err("found");
        let said = panic.downcast_ref::<String>().expect("words");
        assert!(said.contains("xxd -r -p") && said.contains("11"), "{said}");
    }

    #[test]
    fn a_target_whose_corpus_is_refused_fails() {
        let corpus = corpus(&["x"]);
        catch_unwind(AssertUnwindSafe(|| fuzz(corpus.path(), |_| false))).expect_err("tests nothing");
        catch_unwind(AssertUnwindSafe(|| fuzz("no/such/folder", |_| true))).expect_err("tests nothing");
    }
}
