//! The frame around a record: its length, its group and two checksums. Drawn in the module's documentation.

use super::record::Record;
use super::segment::HEADER_BYTES;

/// Bytes in front of a body.
pub(super) const FRAME_BYTES: usize = 16;

/// The longest body, in bytes. The decoder allocates in proportion to it.
pub const RECORD_BYTES_MAX: usize = 64 << 20;

/// A segment of a log: what the checksums of its frames are bound to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    crc: u32,
}

impl Place {
    pub(super) fn new(log_id: u128, segment: u64) -> Self {
        Place { crc: crc32c::crc32c_append(crc32c::crc32c(&log_id.to_le_bytes()), &segment.to_le_bytes()) }
    }
}

/// What stands in front of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Length of the body.
    pub(super) body_len: usize,
    /// Where the frame's group starts in the segment.
    pub(super) group_start: u64,
    body_crc: u32,
}

impl Frame {
    /// Reads the frame at position `at` of a segment; `None` if there is none.
    pub(super) fn decode(bytes: [u8; FRAME_BYTES], place: Place, at: u64) -> Option<Frame> {
        let [body_len, since, body_crc, crc] = bytes_to_words(bytes);
        let body_len = body_len as usize;
        let group_start = at.checked_sub(u64::from(since))?;
        // The cheap checks first: recovery tries every position of a torn tail.
        if body_len == 0 || body_len > RECORD_BYTES_MAX || group_start < HEADER_BYTES as u64 {
            return None;
        }
        (crc == head_crc(&bytes, place, at)).then_some(Frame { body_len, group_start, body_crc })
    }

    /// Returns whether these are the bytes that were written.
    pub(super) fn matches(&self, body: &[u8]) -> bool {
        body.len() == self.body_len && crc32c::crc32c(body) == self.body_crc
    }
}

/// Appends a frame with `record` to `out`; it will stand at position `at` of the segment, in the group that starts at
/// `group_start`. Returns its size.
pub(super) fn push(out: &mut Vec<u8>, record: &Record, place: Place, at: u64, group_start: u64) -> usize {
    let body_len = record.encoded_len();
    assert!(body_len <= RECORD_BYTES_MAX, "a record of {body_len} bytes is over the limit of {RECORD_BYTES_MAX}");
    out.reserve(FRAME_BYTES + body_len);
    let start = out.len();
    out.resize(start + FRAME_BYTES, 0);
    record.encode(out);
    assert_eq!(out.len(), start + FRAME_BYTES + body_len, "encoded_len and encode must agree");
    seal(&mut out[start..], place, at, group_start);
    FRAME_BYTES + body_len
}

/// Appends a frame with a body that is encoded already.
pub(super) fn push_body(out: &mut Vec<u8>, body: &[u8], place: Place, at: u64, group_start: u64) {
    let start = out.len();
    out.resize(start + FRAME_BYTES, 0);
    out.extend_from_slice(body);
    seal(&mut out[start..], place, at, group_start);
}

/// Fills in the first bytes of a frame whose body is complete.
fn seal(frame: &mut [u8], place: Place, at: u64, group_start: u64) {
    let (head, body) = frame.split_at_mut(FRAME_BYTES);
    let body_len = u32::try_from(body.len()).expect("bodies are limited to 64 MiB");
    let since = u32::try_from(at - group_start).expect("groups are limited to 1 GiB");
    head[0..4].copy_from_slice(&body_len.to_le_bytes());
    head[4..8].copy_from_slice(&since.to_le_bytes());
    head[8..12].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    let crc = head_crc(head, place, at);
    head[12..16].copy_from_slice(&crc.to_le_bytes());
}

fn head_crc(head: &[u8], place: Place, at: u64) -> u32 {
    let mut placed = [0; 20];
    placed[..8].copy_from_slice(&at.to_le_bytes());
    placed[8..].copy_from_slice(&head[..12]);
    crc32c::crc32c_append(place.crc, &placed)
}

fn bytes_to_words(bytes: [u8; FRAME_BYTES]) -> [u32; 4] {
    std::array::from_fn(|word| u32::from_le_bytes(std::array::from_fn(|byte| bytes[4 * word + byte])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::PartitionId;

    #[test]
    fn a_frame_is_valid_at_its_place_only() {
        let place = Place::new(7, 3);
        let at = 1_000;
        let mut bytes = Vec::new();
        let size = push(&mut bytes, &Record::End { partition: PartitionId(1) }, place, at, 900);
        assert_eq!(size, bytes.len());
        let head: [u8; FRAME_BYTES] = bytes[..FRAME_BYTES].try_into().unwrap();
        let frame = Frame::decode(head, place, at).unwrap();
        assert_eq!((frame.body_len, frame.group_start), (5, 900));
        assert!(frame.matches(&bytes[FRAME_BYTES..]));
        assert!(!frame.matches(&[]));
        for (place, at) in [(place, at + 1), (Place::new(7, 4), at), (Place::new(8, 3), at)] {
            assert_eq!(Frame::decode(head, place, at), None);
        }
    }

    #[test]
    fn zeros_are_no_frame() {
        assert_eq!(Frame::decode([0; FRAME_BYTES], Place::new(0, 0), 500), None);
        assert_eq!(Frame::decode([0xff; FRAME_BYTES], Place::new(0, 0), 500), None);
    }
}
