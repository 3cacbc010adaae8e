//! Compressed parts of a payload, undone while what they become is counted: a few bytes can become gigabytes.

use std::io::Read;

use super::{ENCLOSED_BYTES_MAX, Unreadable};

/// A window of 8 MiB: a decoder holds as much, whatever a frame of a payload asks for.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// What writers of files may ask for at most: 128 MiB.
const ZSTD_WINDOW_LOG_MAX_OF_BLOCK: u32 = 27;
/// Bytes that are decompressed before they are counted.
const STEP_BYTES: usize = 64 << 10;

/// How a part is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    /// Deflate without a header, as Avro has it.
    Deflate,
    /// One block of snappy.
    Snappy,
    /// Frames of zstd.
    Zstd,
    /// Frames of LZ4.
    Lz4,
}

/// What all parts of one payload, or of one block of a file, may still become.
pub(super) struct Room {
    left: u64,
    max: u64,
    zstd_window_log_max: u32,
}

impl Room {
    pub(super) fn of_payload() -> Self {
        Room { left: ENCLOSED_BYTES_MAX, max: ENCLOSED_BYTES_MAX, zstd_window_log_max: ZSTD_WINDOW_LOG_MAX }
    }

    pub(super) fn of_block(bytes_max: u64) -> Self {
        Room { left: bytes_max, max: bytes_max, zstd_window_log_max: ZSTD_WINDOW_LOG_MAX_OF_BLOCK }
    }

    /// Takes room for bytes that are there, or will be.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Unreadable> {
        let left = self.left.checked_sub(bytes as u64);
        self.left = left.ok_or_else(|| {
            let max = self.max >> 20;
            Unreadable::TooLarge(format!("what is compressed may become {max} MiB, this becomes more"))
        })?;
        Ok(())
    }
}

impl Codec {
    /// Decompresses a part to the end of `into`. What is damaged is told by `damaged`.
    pub(super) fn undo(
        self,
        packed: &[u8],
        room: &mut Room,
        into: &mut Vec<u8>,
        damaged: impl Fn(String) -> Unreadable,
    ) -> Result<(), Unreadable> {
        match self {
            Codec::Deflate => read(&mut flate2::bufread::DeflateDecoder::new(packed), room, into, damaged),
            Codec::Lz4 => read(&mut lz4_flex::frame::FrameDecoder::new(packed), room, into, damaged),
            Codec::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(packed).and_then(|mut decoder| {
                    decoder.window_log_max(room.zstd_window_log_max)?;
                    Ok(decoder)
                });
                read(&mut decoder.map_err(|error| damaged(error.to_string()))?, room, into, damaged)
            }
            Codec::Snappy => {
                // A block says at its beginning how long it will be; the decoder writes no more.
                let length = snap::raw::decompress_len(packed).map_err(|error| damaged(error.to_string()))?;
                room.take(length)?;
                let start = into.len();
                into.resize(start + length, 0);
                let written = snap::raw::Decoder::new().decompress(packed, &mut into[start..]);
                match written.map_err(|error| damaged(error.to_string()))? {
                    whole if whole == length => Ok(()),
                    _ => Err(damaged("it is shorter than it says".to_owned())),
                }
            }
        }
    }
}

fn read(
    decoder: &mut dyn Read,
    room: &mut Room,
    into: &mut Vec<u8>,
    damaged: impl Fn(String) -> Unreadable,
) -> Result<(), Unreadable> {
    let mut step = vec![0u8; STEP_BYTES];
    loop {
        let count = decoder.read(&mut step).map_err(|error| damaged(error.to_string()))?;
        if count == 0 {
            return Ok(());
        }
        room.take(count)?;
        into.extend_from_slice(&step[..count]);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn packed(codec: Codec, bytes: &[u8]) -> Vec<u8> {
        match codec {
            Codec::Deflate => {
                let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Codec::Snappy => snap::raw::Encoder::new().compress_vec(bytes).unwrap(),
            Codec::Zstd => zstd::stream::encode_all(bytes, 3).unwrap(),
            Codec::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
        }
    }

    #[test]
    fn each_codec_gives_its_bytes_back_and_bombs_and_cuts_are_told_apart() {
        let damaged = |what: String| Unreadable::Damaged(what);
        let text = b"warm, warmer, warm".repeat(9_000);
        for codec in [Codec::Deflate, Codec::Snappy, Codec::Zstd, Codec::Lz4] {
            let (mut room, mut into) = (Room::of_payload(), b"before ".to_vec());
            let whole = packed(codec, &text);
            codec.undo(&whole, &mut room, &mut into, damaged).expect("whole");
            assert_eq!(into, [&b"before "[..], &text].concat(), "{codec:?}");
            assert_eq!(room.left, ENCLOSED_BYTES_MAX - text.len() as u64, "{codec:?}");
            let cut = codec.undo(&whole[..whole.len() / 2], &mut Room::of_payload(), &mut Vec::new(), damaged);
            assert!(matches!(cut, Err(Unreadable::Damaged(_))), "{codec:?}: {cut:?}");
            let bomb = packed(codec, &vec![0; (1 << 20) + 1]);
            let mut into = Vec::new();
            let refused = codec.undo(&bomb, &mut Room { left: 1 << 20, ..Room::of_payload() }, &mut into, damaged);
            let Err(Unreadable::TooLarge(reason)) = refused else { panic!("{codec:?}: {refused:?}") };
            assert!(reason.contains("64 MiB") && into.len() <= 1 << 20, "{reason}");
        }
    }
}
