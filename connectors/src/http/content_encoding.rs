//! `Content-Encoding`: what was done to a body on its way, and undoing it within limits.
//!
//! | name | |
//! |---|---|
//! | `identity`, or none | |
//! | `gzip`, `x-gzip` | one or more members |
//! | `zstd` | one or more frames, with windows of at most 8 MiB (RFC 9659) |
//! | `snappy` | one block without frames, as remote write sends it |

use std::io::{ErrorKind, Read};

use axum::http::{HeaderMap, header};
use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;

use super::body::Reservation;
use super::problem::{Kind, Problem};

/// Bytes of a body once it is inflated.
pub const INFLATED_BYTES_MAX: usize = 64 << 20;
/// How much larger a body may become once it is inflated; telemetry in JSON reaches 30.
pub const INFLATED_RATIO_MAX: usize = 100;
/// Below this the ratio is not looked at: small bodies of equal rows may be packed tightly.
const INFLATED_RATIO_BYTES_MIN: usize = 1 << 20;
/// A window of 8 MiB: a decoder holds as much, whatever a frame asks for.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// The closed set of content encodings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContentEncoding {
    Identity,
    Gzip,
    Zstd,
    Snappy,
}

impl ContentEncoding {
    /// What each is called.
    pub(super) const NAMES: [(&'static str, ContentEncoding); 5] = [
        ("identity", ContentEncoding::Identity),
        ("gzip", ContentEncoding::Gzip),
        ("x-gzip", ContentEncoding::Gzip),
        ("zstd", ContentEncoding::Zstd),
        ("snappy", ContentEncoding::Snappy),
    ];

    /// Reads the head of a request.
    pub(super) fn of(headers: &HeaderMap) -> Result<ContentEncoding, Problem> {
        let mut found = ContentEncoding::Identity;
        for value in headers.get_all(header::CONTENT_ENCODING) {
            for name in value.to_str().unwrap_or("?").split(',') {
                let name = name.trim().to_ascii_lowercase();
                let known = ContentEncoding::NAMES.iter().find(|(known, _)| *known == name);
                let encoding = match known {
                    Some((_, encoding)) => *encoding,
                    None if name.is_empty() => continue,
                    None => return Err(refused(&format!("the content encoding {name:?} is not known"))),
                };
                if encoding == ContentEncoding::Identity {
                    continue;
                }
                if found != ContentEncoding::Identity {
                    return Err(refused("a body is encoded once, not several times"));
                }
                found = encoding;
            }
        }
        Ok(found)
    }

    /// Undoes it. Blocking: up to 64 MiB of work.
    pub(super) fn undo(self, sent: Bytes, reservation: &mut Reservation) -> Result<Bytes, Problem> {
        match self {
            ContentEncoding::Identity => Ok(sent),
            ContentEncoding::Gzip => inflate(&sent, "gzip", &mut MultiGzDecoder::new(&sent[..]), reservation),
            ContentEncoding::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(&sent[..]).and_then(|mut decoder| {
                    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                    Ok(decoder)
                });
                let mut decoder = decoder.map_err(|error| damaged("zstd", &error.to_string(), 0))?;
                inflate(&sent, "zstd", &mut decoder, reservation)
            }
            ContentEncoding::Snappy => unsnap(&sent, reservation),
        }
    }
}

fn refused(what: &str) -> Problem {
    Problem::new(Kind::ContentEncoding, format!("{what}; nothing was stored")).hint("use gzip, zstd or snappy, or none")
}

fn damaged(name: &str, what: &str, inflated: usize) -> Problem {
    Problem::new(
        Kind::DamagedBody,
        format!("the body is not whole {name}: {what}, behind {inflated} bytes of content; nothing was stored"),
    )
}

fn inflate(sent: &[u8], name: &str, decoder: &mut dyn Read, reservation: &mut Reservation) -> Result<Bytes, Problem> {
    let mut inflated = Vec::new();
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        let count = match decoder.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Err(damaged(name, "it ends in the middle", inflated.len()));
            }
            Err(error) => return Err(damaged(name, &error.to_string(), inflated.len())),
        };
        if count == 0 {
            return Ok(Bytes::from(inflated));
        }
        check_inflated(sent.len(), inflated.len() + count)?;
        reservation.grow_by(count)?;
        inflated.extend_from_slice(&buffer[..count]);
    }
}

fn unsnap(sent: &[u8], reservation: &mut Reservation) -> Result<Bytes, Problem> {
    // A block says at its beginning how long it will be; the decoder writes no more.
    let length = snap::raw::decompress_len(sent).map_err(|error| damaged("snappy", &error.to_string(), 0))?;
    check_inflated(sent.len(), length)?;
    reservation.grow_by(length)?;
    let inflated = snap::raw::Decoder::new().decompress_vec(sent);
    inflated.map(Bytes::from).map_err(|error| damaged("snappy", &error.to_string(), 0))
}

fn check_inflated(sent: usize, inflated: usize) -> Result<(), Problem> {
    let what = if inflated > INFLATED_BYTES_MAX {
        format!("{} MiB", INFLATED_BYTES_MAX >> 20)
    } else if inflated > INFLATED_RATIO_BYTES_MIN && inflated > sent.saturating_mul(INFLATED_RATIO_MAX) {
        format!("{INFLATED_RATIO_MAX} times its size")
    } else {
        return Ok(());
    };
    Err(Problem::new(Kind::TooLarge, format!("the body inflates to more than {what}; nothing was stored"))
        .hint("send fewer rows at once"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidemill_engine::testing::fuzz::fuzz;
    use tokio::sync::Semaphore;

    use super::*;

    /// Whatever is sent, it is undone within the limits, or refused, and what was reserved for it is given back.
    #[test]
    fn fuzz_content_encoding() {
        let memory = Arc::new(Semaphore::new(INFLATED_BYTES_MAX / 1024));
        fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/corpus/content_encoding"), |input| {
            let Some((which, sent)) = input.split_first() else { return false };
            let encoding = match which % 3 {
                0 => ContentEncoding::Gzip,
                1 => ContentEncoding::Zstd,
                _ => ContentEncoding::Snappy,
            };
            let mut reservation = Reservation::new(Arc::clone(&memory));
            let undone = encoding.undo(Bytes::copy_from_slice(sent), &mut reservation);
            drop(reservation);
            assert_eq!(memory.available_permits(), INFLATED_BYTES_MAX / 1024);
            match undone {
                Ok(inflated) => {
                    assert!(inflated.len() <= INFLATED_RATIO_BYTES_MIN.max(sent.len() * INFLATED_RATIO_MAX));
                    true
                }
                Err(problem) => {
                    assert!(matches!(problem.kind, Kind::DamagedBody | Kind::TooLarge | Kind::Busy), "{problem:?}");
                    false
                }
            }
        });
    }
}
