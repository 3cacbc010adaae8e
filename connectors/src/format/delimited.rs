//! Messages behind each other, each behind its length: how Protobuf is written where there are many.
//!
//! ```text
//!   length: varint │ message │ length: varint │ message │ …
//! ```

use std::ops::Range;

/// Why a stream of messages ends in the middle of one, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CutOff {
    /// The message, from 1.
    pub(crate) message: usize,
    /// The byte where it begins with its length.
    pub(crate) at: usize,
    /// What is wrong.
    pub(crate) what: String,
}

/// Visits each message.
pub(crate) fn split_delimited(stream: &[u8], mut message: impl FnMut(Range<usize>)) -> Result<(), CutOff> {
    let (mut at, mut count) = (0, 0);
    while at < stream.len() {
        count += 1;
        let cut_off = |what: String| CutOff { message: count, at, what };
        let (length, start) = length(stream, at).map_err(|what| cut_off(what.to_owned()))?;
        let end = usize::try_from(length).ok().and_then(|length| start.checked_add(length));
        match end.filter(|end| *end <= stream.len()) {
            Some(end) => {
                message(start..end);
                at = end;
            }
            None => {
                let left = stream.len() - start;
                return Err(cut_off(format!("it is {length} bytes long, and {left} are left")));
            }
        }
    }
    Ok(())
}

/// Returns a length, and where what is so long begins.
fn length(stream: &[u8], at: usize) -> Result<(u64, usize), &'static str> {
    let mut value = 0u64;
    for (place, byte) in stream[at..].iter().take(10).enumerate() {
        let part = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit.
        if place == 9 && part > 1 {
            break;
        }
        value |= part << (7 * place);
        if byte & 0x80 == 0 {
            return Ok((value, at + place + 1));
        }
    }
    Err(if stream.len() - at < 10 { "its length is cut off" } else { "its length is no number" })
}

#[cfg(test)]
mod tests {
    use tidemill_engine::testing::fuzz::fuzz;

    use super::*;

    fn split(stream: &[u8]) -> Result<Vec<Range<usize>>, CutOff> {
        let mut found = Vec::new();
        split_delimited(stream, |message| found.push(message)).map(|()| found)
    }

    #[test]
    fn messages_stand_behind_their_lengths() {
        assert_eq!(split(b""), Ok(vec![]));
        assert_eq!(split(b"\x02ab\x00\x01c"), Ok(vec![1..3, 4..4, 5..6]));
        let long = [&[0xac, 0x02][..], &[7; 300]].concat();
        assert_eq!(split(&long), Ok(vec![2..302]));
        for (stream, expected) in [
            (&b"\x01a\x05b"[..], CutOff { message: 2, at: 2, what: "it is 5 bytes long, and 1 are left".to_owned() }),
            (b"\x80", CutOff { message: 1, at: 0, what: "its length is cut off".to_owned() }),
            (&[0xff; 12], CutOff { message: 1, at: 0, what: "its length is no number".to_owned() }),
        ] {
            assert_eq!(split(stream), Err(expected));
        }
    }

    #[test]
    fn fuzz_delimited() {
        fuzz(format!("{}/src/format/corpus/delimited", env!("CARGO_MANIFEST_DIR")), |input| {
            let mut end = 0;
            let whole = split_delimited(input, |message| {
                assert!(message.start > end || end == 0 && message.start > 0, "a length stands in front");
                end = message.end;
            });
            match whole {
                Ok(()) => assert_eq!(end, input.len(), "nothing is left over"),
                Err(cut_off) => assert!(cut_off.at >= end && cut_off.at < input.len()),
            }
            end > 0
        });
    }
}
