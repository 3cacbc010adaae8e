//! A session over a log in memory, without sockets or time: every byte, every append, every sync and every crash happens when
//! the test says so.
//!
//! ```text
//!   feed(bytes) ─► Session ─► append ─► waiting records ─► sync ─► durable records, and answers in `out`
//!                     ▲                        │ crash: gone
//!                     └──── Remembered ◄───────┴── the fold of the notes of durable records
//! ```

use std::collections::{BTreeMap, VecDeque};

use ::bytes::{Bytes, BytesMut};
use tidemill_engine::source::{Chunk, Message, Note};

use crate::mqtt::codec::{self, Header};
use crate::mqtt::listener::Guest;
use crate::mqtt::packet::{Version, Violation};
use crate::mqtt::remembered::{Lasts, Remembered, session_name};
use crate::mqtt::session::{Heard, Retained, Session};

pub(super) const BOTH: [Version; 2] = [Version::V311, Version::V5];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client(Retained),
    Server,
}

/// One record of the log.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) messages: Vec<Message>,
    pub(super) notes: Vec<Note>,
}

pub(super) struct Lab {
    version: Version,
    side: Side,
    session: Option<Session>,
    unread: BytesMut,
    pub(super) durable: Vec<Record>,
    pub(super) waiting: VecDeque<Record>,
    pub(super) errors: Vec<&'static str>,
}

impl Lab {
    pub(super) fn new(version: Version, side: Side) -> Lab {
        let mut lab = Lab {
            version,
            side,
            session: None,
            unread: BytesMut::new(),
            durable: Vec::new(),
            waiting: VecDeque::new(),
            errors: Vec::new(),
        };
        lab.connect(Remembered::new("lab", Lasts::InLog));
        lab
    }

    /// Begins a connection of a session.
    pub(super) fn connect(&mut self, remembered: Remembered) {
        self.unread.clear();
        self.session = Some(match self.side {
            Side::Client(retained) => Session::client(self.version, retained, remembered),
            Side::Server => Session::server(self.version, Guest::anybody(self.version), remembered),
        });
    }

    pub(super) fn session(&mut self) -> &mut Session {
        self.session.as_mut().expect("there is a connection")
    }

    /// Takes bytes as they arrive, cut anywhere.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        self.unread.extend_from_slice(bytes);
        let (whole, stopped) = codec::whole_packets(&self.unread);
        if let codec::Stopped::Violation(violation) = stopped {
            assert_eq!(whole, 0, "the lab is given no garbage behind packets");
            return Err(violation);
        }
        let mut run = self.unread.split_to(whole).freeze();
        while let Some(header) = Header::read(&run)? {
            let frame = run.split_to(header.frame_bytes());
            let packet = codec::read(self.version, header, frame)?;
            let session = self.session.as_mut().expect("there is a connection");
            let heard = session.receive(packet)?;
            assert!(matches!(heard, Heard::Nothing | Heard::Subscribed), "{heard:?}");
            self.errors.append(&mut session.errors);
        }
        Ok(())
    }

    /// Hands over what was received; says whether that is a record.
    pub(super) fn append(&mut self) -> bool {
        let (messages, notes) = match self.session().take_batch() {
            None => return false,
            Some(Chunk::Messages(messages)) => (messages, Vec::new()),
            Some(Chunk::Noted(messages, notes)) => (messages, notes),
            Some(Chunk::Range { .. } | Chunk::Decoded { .. }) => panic!("MQTT cannot be read again"),
        };
        assert!(!messages.is_empty() || !notes.is_empty(), "an empty record is a wasted sync");
        self.waiting.push_back(Record { messages, notes });
        true
    }

    /// Makes the oldest record durable; says whether there was one.
    pub(super) fn sync(&mut self) -> bool {
        let Some(record) = self.waiting.pop_front() else { return false };
        self.durable.push(record);
        self.session().durable();
        true
    }

    /// Appends and syncs everything, and returns what is answered.
    pub(super) fn settle(&mut self) -> Vec<u8> {
        self.append();
        while self.sync() {}
        self.answers()
    }

    pub(super) fn answers(&mut self) -> Vec<u8> {
        self.session().out.split().to_vec()
    }

    /// The connection breaks: what was received is logged, what is answered goes nowhere.
    pub(super) fn cut(&mut self) {
        self.settle();
        let remembered = self.session.take().expect("there is a connection").take_remembered();
        self.connect(remembered);
    }

    /// The program dies when `synced` of the waiting records are on disk, and starts again.
    pub(super) fn crash(&mut self, synced: usize) {
        self.append();
        self.durable.extend(self.waiting.drain(..synced));
        self.waiting.clear();
        let remembered = self.recall();
        self.connect(remembered);
    }

    /// What the log knows of the session now.
    pub(super) fn recall(&self) -> Remembered {
        let session = Remembered::recall(&self.notes()).remove(&session_name("lab"));
        session.unwrap_or_else(|| Remembered::new("lab", Lasts::InLog))
    }

    /// The fold of the durable notes.
    pub(super) fn notes(&self) -> BTreeMap<Bytes, Bytes> {
        let mut notes = BTreeMap::new();
        for Note { key, value } in self.durable.iter().flat_map(|record| &record.notes) {
            if value.is_empty() {
                notes.remove(key)
            } else {
                notes.insert(key.clone(), value.clone())
            };
        }
        notes
    }

    /// The payloads in the log.
    pub(super) fn payloads(&self) -> Vec<String> {
        let messages = self.durable.iter().flat_map(|record| &record.messages);
        messages.map(|message| String::from_utf8_lossy(&message.payload).into_owned()).collect()
    }
}
