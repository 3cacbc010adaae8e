//! The bytes of a file by their place, also of a file that is compressed: then the places are those of what it holds.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::read::MultiGzDecoder;

/// Bytes that are decompressed at once.
const STEP_BYTES: usize = 64 << 10;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// It is not.
    Plain,
    /// `.gz`
    Gzip,
    /// `.zst`
    Zstd,
}

impl Packing {
    /// Says it by the ending of a name.
    pub(super) fn of(path: &str) -> Packing {
        let extension = Path::new(path).extension().and_then(|extension| extension.to_str());
        match extension.map(str::to_ascii_lowercase).as_deref() {
            Some("gz") => Packing::Gzip,
            Some("zst") => Packing::Zstd,
            _ => Packing::Plain,
        }
    }
}

/// An open file.
pub(super) struct Input {
    file: File,
    packing: Packing,
    stream: Option<Stream>,
}

/// A compressed file, unpacked up to some place. What was handed out last is kept, because readers ask for it again.
struct Stream {
    unpacked: Box<dyn Read + Send>,
    start: u64,
    kept: Vec<u8>,
    has_ended: bool,
}

impl Input {
    pub(super) fn open(path: &Path, packing: Packing) -> io::Result<Input> {
        Ok(Input { file: File::open(path)?, packing, stream: None })
    }

    /// Returns what the file system knows of the open file, whatever its name is by now.
    pub(super) fn metadata(&self) -> io::Result<std::fs::Metadata> {
        self.file.metadata()
    }

    pub(super) fn packing(&self) -> Packing {
        self.packing
    }

    /// Reads `length` bytes from `start` on, fewer only where the file ends. Going back in a compressed file begins it anew.
    pub(super) fn read(&mut self, start: u64, length: usize) -> io::Result<Vec<u8>> {
        if self.packing == Packing::Plain {
            let mut block = Vec::with_capacity(length.min(1 << 20));
            self.file.seek(SeekFrom::Start(start))?;
            (&self.file).take(length as u64).read_to_end(&mut block)?;
            return Ok(block);
        }
        let stream = match self.stream.take().filter(|stream| stream.start <= start) {
            Some(stream) => stream,
            None => self.begin()?,
        };
        let stream = self.stream.insert(stream);
        let read = stream.read(start, length);
        if read.is_err() {
            self.stream = None;
        }
        read
    }

    fn begin(&self) -> io::Result<Stream> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(0))?;
        let unpacked: Box<dyn Read + Send> = match self.packing {
            Packing::Plain => Box::new(file),
            Packing::Gzip => Box::new(MultiGzDecoder::new(BufReader::new(file))),
            Packing::Zstd => Box::new(zstd::stream::read::Decoder::new(file)?),
        };
        Ok(Stream { unpacked, start: 0, kept: Vec::new(), has_ended: false })
    }
}

impl Stream {
    fn read(&mut self, start: u64, length: usize) -> io::Result<Vec<u8>> {
        loop {
            let behind = usize::try_from(start - self.start).unwrap_or(usize::MAX).min(self.kept.len());
            self.kept.drain(..behind);
            self.start += behind as u64;
            let is_there = self.start == start && self.kept.len() >= length;
            if is_there || self.has_ended {
                break;
            }
            let before = self.kept.len();
            self.kept.resize(before + STEP_BYTES, 0);
            let count = self.unpacked.read(&mut self.kept[before..]);
            self.kept.truncate(before + *count.as_ref().unwrap_or(&0));
            self.has_ended = count? == 0;
        }
        let found = if self.start == start { &self.kept[..length.min(self.kept.len())] } else { &[] };
        Ok(found.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn packed(packing: Packing, text: &[u8]) -> Vec<u8> {
        match packing {
            Packing::Plain => text.to_vec(),
            Packing::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(text).unwrap();
                encoder.finish().unwrap()
            }
            Packing::Zstd => zstd::stream::encode_all(text, 1).unwrap(),
        }
    }

    #[test]
    fn places_are_those_of_the_text_however_it_is_packed() {
        let text: Vec<u8> = (0..300_000u32).flat_map(|n| n.to_le_bytes()).collect();
        let folder = tempfile::tempdir().unwrap();
        for (name, packing) in [("a", Packing::Plain), ("a.gz", Packing::Gzip), ("a.zst", Packing::Zstd)] {
            assert_eq!(Packing::of(name), packing);
            // Two members, as `cat a.gz b.gz` makes them.
            let (one, two) = text.split_at(500_000);
            let path = folder.path().join(name);
            let mut file = File::options().write(true).create_new(true).open(&path).unwrap();
            file.write_all(&[packed(packing, one), packed(packing, two)].concat()).unwrap();
            let mut input = Input::open(&path, packing).unwrap();
            for (start, length) in [(0, 10), (5, 100_000), (5, 200_000), (900_000, 7), (3, 3), (1_199_998, 10)] {
                let end = (start + length).min(text.len());
                assert_eq!(input.read(start as u64, length).unwrap(), text[start..end], "{name} {start}");
            }
            assert!(input.read(2_000_000, 5).unwrap().is_empty());
        }
    }

    #[test]
    fn a_compressed_file_that_is_cut_off_says_so() {
        let folder = tempfile::tempdir().unwrap();
        for (name, packing) in [("a.gz", Packing::Gzip), ("a.zst", Packing::Zstd)] {
            let whole = packed(packing, &(0..100_000u32).flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>());
            let path = folder.path().join(name);
            let mut file = File::options().write(true).create_new(true).open(&path).unwrap();
            file.write_all(&whole[..whole.len() / 2]).unwrap();
            let mut input = Input::open(&path, packing).unwrap();
            let error = input.read(0, 1 << 20).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{name}: {error}");
        }
    }
}
