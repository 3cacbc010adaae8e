//! The bytes that have arrived and are not yet packets.
//!
//! A buffer grows with what is sent, never with what is announced, and is given back while a connection is silent: ten thousand
//! idle devices hold no buffers. Payloads are slices of it, not copies, as long as they fill most of it.

use std::io;

use bytes::{Buf, Bytes, BytesMut};

use super::codec::{self, Header, Stopped};
use super::packet::{Packet, Version, Violation, unexpected_auth};
use super::session::{Heard, Session};
use super::transport::Stream;

/// The first read of a silent connection.
const READ_BYTES_MIN: usize = 4 << 10;
/// One read takes at most this much, or what is missing of a larger packet.
const READ_BYTES_MAX: usize = 256 << 10;
/// What must be there of an oversize PUBLISH to know its topic and id: both length fields, topic, id and properties.
const OVERSIZE_HEAD_BYTES: usize = 128 << 10;
/// A first packet is read before the peer has shown any credentials, so it may not be large. The longest legal fields of a
/// CONNECT (id, will, username, password) fit.
const FIRST_PACKET_BYTES_MAX: usize = 512 << 10;

/// What a read brought.
#[derive(Debug)]
pub(super) enum Read {
    Some,
    Nothing,
    End,
}

#[derive(Debug)]
pub(super) struct Inbox {
    buffer: BytesMut,
    /// Whole packets, cut off the buffer and not yet decoded.
    run: Bytes,
    /// How long the buffer must become before there can be another packet.
    wanted: usize,
    /// How much room the next read makes.
    room: usize,
    /// How many bytes of an oversize packet are still to be thrown away.
    skipping: usize,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Inbox { buffer: BytesMut::new(), run: Bytes::new(), wanted: 0, room: READ_BYTES_MIN, skipping: 0 }
    }

    /// Reads what is there, without waiting.
    pub(super) fn fill(&mut self, stream: &mut Stream) -> io::Result<Read> {
        if self.buffer.capacity() - self.buffer.len() < self.room / 2 {
            let missing = self.wanted.saturating_sub(self.buffer.len());
            // At most as much again as has been sent: an announced length alone gets no memory.
            let room = missing.min(self.buffer.len()).max(self.room);
            self.buffer.reserve(room);
        }
        match stream.try_read(&mut self.buffer) {
            Ok(0) => Ok(Read::End),
            Ok(count) => {
                if self.buffer.len() == self.buffer.capacity() {
                    self.room = (self.room * 2).min(READ_BYTES_MAX);
                } else if count < self.room / 4 {
                    self.room = (self.room / 2).max(READ_BYTES_MIN);
                }
                Ok(Read::Some)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if self.buffer.is_empty() {
                    self.buffer = BytesMut::new();
                }
                Ok(Read::Nothing)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Read::Some),
            Err(error) => Err(error),
        }
    }

    /// Takes the first packet of a connection if it is all there; its first byte must be `expected`.
    pub(super) fn first_packet(&mut self, expected: u8) -> Result<Option<(Header, Bytes)>, Violation> {
        // Seen at the first byte: what speaks another protocol may never send as much as its "length" says.
        if let Some(first) = self.buffer.first().filter(|first| **first != expected) {
            if *first == codec::AUTH {
                return Err(unexpected_auth());
            }
            return Err(Violation::Protocol("the first packet is not what begins a connection of MQTT".to_owned()));
        }
        let Some(header) = Header::read(&self.buffer)? else { return Ok(None) };
        let bytes = header.frame_bytes();
        if bytes > FIRST_PACKET_BYTES_MAX {
            return Err(Violation::TooLarge { bytes, max: FIRST_PACKET_BYTES_MAX });
        }
        self.wanted = bytes;
        if self.buffer.len() < bytes {
            return Ok(None);
        }
        Ok(Some((header, Bytes::from(self.buffer.split_to(bytes)))))
    }

    /// Says whether whole packets wait for [`Inbox::decode`], because a batch was full before them.
    pub(super) fn has_packets(&self) -> bool {
        !self.run.is_empty()
    }

    /// Gives whole packets to the session, up to a full batch or to the first packet that ends the connection.
    pub(super) fn decode(&mut self, session: &mut Session) -> Result<Heard, Violation> {
        let mut heard = Heard::Nothing;
        loop {
            while let Some(header) = Header::read(&self.run)? {
                // Asked for each packet: an alias of six bytes may stand for a topic of sixty thousand.
                if session.batch_is_full() {
                    return Ok(heard);
                }
                let frame = self.run.split_to(header.frame_bytes());
                match session.receive(codec::read(session.version(), header, frame)?)? {
                    Heard::Nothing => {}
                    // Nothing may follow; it would not be ours to take.
                    last @ (Heard::Disconnected { .. } | Heard::Refused(_)) => return Ok(last),
                    Heard::Subscribed => heard = Heard::Subscribed,
                }
            }
            let skipped = self.skipping.min(self.buffer.len());
            self.buffer.advance(skipped);
            self.skipping -= skipped;
            if self.skipping > 0 {
                return Ok(heard);
            }
            let (bytes, stopped) = codec::whole_packets(&self.buffer);
            if bytes > 0 {
                self.run = self.take(bytes);
                continue;
            }
            match stopped {
                Stopped::Violation(violation) => return Err(violation),
                Stopped::NeedsMore(wanted) => {
                    self.wanted = wanted;
                    return Ok(heard);
                }
                Stopped::Oversize(header) => {
                    if !self.skip_oversize(header, session)? {
                        return Ok(heard);
                    }
                }
            }
        }
    }

    /// Cuts off whole packets. A few bytes in a large buffer are copied, so that they do not hold all of it.
    fn take(&mut self, bytes: usize) -> Bytes {
        if bytes * 2 >= self.buffer.capacity() {
            return self.buffer.split_to(bytes).freeze();
        }
        let run = Bytes::copy_from_slice(&self.buffer[..bytes]);
        self.buffer.advance(bytes);
        run
    }

    /// Replaces an oversize PUBLISH of a broker by a note in its place, so that it is acknowledged and found among the dead
    /// letters: refused, the broker would send it again after every reconnect. Returns `false` if its head is not all there.
    fn skip_oversize(&mut self, header: Header, session: &mut Session) -> Result<bool, Violation> {
        let bytes = header.frame_bytes();
        let max = codec::PACKET_BYTES_MAX;
        if !session.is_client() || !header.is_publish() {
            return Err(Violation::TooLarge { bytes, max });
        }
        if self.buffer.len() < OVERSIZE_HEAD_BYTES {
            self.wanted = OVERSIZE_HEAD_BYTES;
            return Ok(false);
        }
        let head = Bytes::copy_from_slice(&self.buffer[..OVERSIZE_HEAD_BYTES]);
        let Packet::Publish(mut publish) = codec::read(session.version(), header, head)? else {
            return Err(Violation::TooLarge { bytes, max });
        };
        publish.topic = Bytes::copy_from_slice(&publish.topic);
        publish.payload = Bytes::from(format!("a message of {bytes} bytes is over the limit of {max} bytes: not kept"));
        publish.is_oversize = true;
        session.errors.push("oversize");
        session.receive(Packet::Publish(publish))?;
        self.skipping = bytes;
        Ok(true)
    }
}

/// Reads a CONNACK; `None` if the first packet is something else.
pub(super) fn connack(version: Version, header: Header, frame: Bytes) -> Result<super::packet::ConnAck, Violation> {
    match codec::read(version, header, frame)? {
        Packet::ConnAck(connack) => Ok(*connack),
        _ => Err(Violation::Protocol("the first packet is no CONNACK".to_owned())),
    }
}
