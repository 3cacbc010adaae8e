//! What is known of the last answer of a target that was appended: a hash of its body, and how the server names that version.
//!
//! ```text
//!   note      value
//!   body      16 bytes, the XXH3 of the body, inflated
//!   etag      as the server wrote it                 only if it is one, and no longer than VALIDATOR_BYTES_MAX
//!   modified  Last-Modified, as the server wrote it  the same
//! ```
//!
//! They are in the log record of the body they are about. A hash that two different bodies share would hide a change: of 128
//! bits, that is less likely than a disk that flips the same bits of both copies of a file.

use std::collections::BTreeMap;

use bytes::Bytes;
use hyper::header::{ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use tidemill_engine::source::Note;
use xxhash_rust::xxh3::xxh3_128;

/// Bytes of an ETag that is kept; a longer one is no name but a burden of every checkpoint.
const VALIDATOR_BYTES_MAX: usize = 1 << 10;

const BODY: &[u8] = b"body";
const ETAG_KEY: &[u8] = b"etag";
const MODIFIED: &[u8] = b"modified";

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    body: Option<[u8; 16]>,
    etag: Option<Bytes>,
    modified: Option<Bytes>,
}

impl Memory {
    /// Returns what is to be known of an answer.
    pub(super) fn of(body: &[u8], headers: &HeaderMap) -> Memory {
        let validator = |name: HeaderName| {
            let value = headers.get(name)?.as_bytes();
            (!value.is_empty() && value.len() <= VALIDATOR_BYTES_MAX).then(|| Bytes::copy_from_slice(value))
        };
        Memory { body: Some(xxh3_128(body).to_be_bytes()), etag: validator(ETAG), modified: validator(LAST_MODIFIED) }
    }

    /// Returns what the log says.
    pub(super) fn recall(notes: Option<&BTreeMap<Bytes, Bytes>>) -> Memory {
        let note = |key: &'static [u8]| notes.and_then(|notes| notes.get(key)).cloned();
        match note(BODY).and_then(|hash| <[u8; 16]>::try_from(&*hash).ok()) {
            // Without the hash the rest would be about nobody knows what.
            None => Memory::default(),
            body => Memory { body, etag: note(ETAG_KEY), modified: note(MODIFIED) },
        }
    }

    /// Whether anything is known.
    pub(super) fn is_some(&self) -> bool {
        self.body.is_some()
    }

    /// Whether another answer had the same body.
    pub(super) fn is_same_body(&self, other: &Memory) -> bool {
        self.body.is_some() && self.body == other.body
    }

    /// Returns the notes that make this of what was noted before.
    pub(super) fn notes(&self, before: &Memory) -> Vec<Note> {
        let hash = |memory: &Memory| memory.body.map(|hash| Bytes::copy_from_slice(&hash));
        let pairs = [
            (BODY, hash(self), hash(before)),
            (ETAG_KEY, self.etag.clone(), before.etag.clone()),
            (MODIFIED, self.modified.clone(), before.modified.clone()),
        ];
        let changed = pairs.into_iter().filter(|(_, now, before)| now != before);
        let note = |(key, now, _): (&'static [u8], Option<Bytes>, _)| Note::new(key, now.unwrap_or_default());
        changed.map(note).collect()
    }

    /// Returns the headers of a request that wants an answer only if there is another one.
    pub(super) fn conditions(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let condition = |name: HeaderName, value: &Option<Bytes>| {
            let value = HeaderValue::from_maybe_shared(value.clone()?).ok()?;
            Some((name, value))
        };
        // A server that knows both goes by the ETag alone (RFC 9110 §13.2.2).
        [condition(IF_NONE_MATCH, &self.etag), condition(IF_MODIFIED_SINCE, &self.modified)].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).expect("a value"))).collect()
    }

    fn applied(notes: &[Note], mut known: BTreeMap<Bytes, Bytes>) -> BTreeMap<Bytes, Bytes> {
        for note in notes {
            known.remove(&note.key);
            if !note.value.is_empty() {
                known.insert(note.key.clone(), note.value.clone());
            }
        }
        known
    }

    #[test]
    fn what_is_noted_is_what_is_recalled_whatever_was_noted_before() {
        let answers = [
            Memory::default(),
            Memory::of(b"a", &headers(&[(ETAG, "\"1\""), (LAST_MODIFIED, "Mon, 30 Nov 2026 10:00:00 GMT")])),
            Memory::of(b"b", &headers(&[(ETAG, "W/\"2\"")])),
            Memory::of(b"b", &headers(&[])),
        ];
        for before in &answers {
            for after in answers.iter().filter(|memory| memory.is_some()) {
                let log = applied(&before.notes(&Memory::default()), BTreeMap::new());
                assert_eq!(Memory::recall(Some(&log)), *before);
                let log = applied(&after.notes(before), log);
                assert_eq!(Memory::recall(Some(&log)), *after, "after {before:?}");
            }
        }
        assert_eq!(Memory::recall(None), Memory::default());
        assert!(!Memory::default().is_same_body(&Memory::default()), "nothing is not the same as nothing");
    }

    #[test]
    fn conditions_repeat_what_the_server_said_and_not_more_than_fits() {
        let long = "x".repeat(VALIDATOR_BYTES_MAX + 1);
        let memory = Memory::of(b"a", &headers(&[(ETAG, &long), (LAST_MODIFIED, "yesterday")]));
        let conditions: Vec<_> = memory.conditions().collect();
        assert_eq!(conditions, [(IF_MODIFIED_SINCE, HeaderValue::from_static("yesterday"))]);
    }
}
