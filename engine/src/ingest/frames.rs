//! Reads the frames of one segment, in windows, and checks each.

use bytes::Bytes;

use super::LogError;
use super::frame::{FRAME_BYTES, Frame, Place};
use super::segment::read_full;
use crate::seeded_bugs::{SeededBug, is_planted};
use crate::storage::{AppendFile, StorageError};

/// Bytes that are read at once, unless a record is longer. Messages are slices of what was read: who keeps one keeps
/// this much.
const READ_BYTES: usize = 1 << 20;

/// What stands at a position of a segment.
pub(super) enum Next {
    /// A frame and its body; the reader stands behind it.
    Frame(Frame, Bytes),
    /// The end of what is to be read.
    End,
    /// Something else, and what is wrong with it; the reader does not move.
    Invalid(&'static str),
}

/// Reads the frames of one segment, in windows.
pub(super) struct FrameReader {
    pub(super) file: Box<dyn AppendFile>,
    path: String,
    pub(super) place: Place,
    /// Where the next frame is.
    pub(super) at: u64,
    /// Where to stop.
    end: u64,
    window: Bytes,
    /// Where the window starts.
    window_at: u64,
}

impl FrameReader {
    pub(super) fn new(file: Box<dyn AppendFile>, path: &str, place: Place, at: u64, end: u64) -> Self {
        FrameReader { file, path: path.to_owned(), place, at, end, window: Bytes::new(), window_at: at }
    }

    pub(super) fn next(&mut self) -> Result<Next, LogError> {
        if self.at == self.end {
            return Ok(Next::End);
        }
        let Some(head) = self.peek(FRAME_BYTES)? else {
            return Ok(Next::Invalid("the file ends within the head of a record"));
        };
        let Some(frame) = Frame::decode(std::array::from_fn(|idx| head[idx]), self.place, self.at) else {
            return Ok(Next::Invalid("the checksum of a record's head does not match"));
        };
        let Some(bytes) = self.peek(FRAME_BYTES + frame.body_len)? else {
            return Ok(Next::Invalid("the file ends within a record"));
        };
        let body = bytes.slice(FRAME_BYTES..);
        if !frame.matches(&body) && !is_planted(SeededBug::ChecksumNotCompared) {
            return Ok(Next::Invalid("the checksum of a record does not match"));
        }
        self.at += bytes.len() as u64;
        Ok(Next::Frame(frame, body))
    }

    /// Returns the next `len` bytes, without moving; `None` if there are fewer.
    fn peek(&mut self, len: usize) -> Result<Option<Bytes>, LogError> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        if left < len {
            return Ok(None);
        }
        let mut start = usize::try_from(self.at - self.window_at).expect("the window was read into memory");
        if self.window.len() - start < len {
            // Keeps what is there already: a record that is longer than a window is not read twice.
            let kept = self.window.slice(start..);
            let mut window = Vec::with_capacity(len.max(READ_BYTES).min(left));
            window.extend_from_slice(&kept);
            window.resize(len.max(READ_BYTES).min(left), 0);
            let found = read_full(&*self.file, self.at + kept.len() as u64, &mut window[kept.len()..])?;
            if kept.len() + found < window.len() {
                let source = std::io::ErrorKind::UnexpectedEof.into();
                return Err(StorageError::Io { action: "read to the end of", path: self.path.clone(), source }.into());
            }
            self.window = window.into();
            self.window_at = self.at;
            start = 0;
        }
        Ok(Some(self.window.slice(start..start + len)))
    }
}
