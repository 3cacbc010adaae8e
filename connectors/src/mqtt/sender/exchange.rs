//! What a sender and its owner say to each other: packets to be sent, answers of the peer, and what they told.

use crate::mqtt::packet::QoS;

/// From here on a reason code says that a packet was not accepted.
pub(super) const NEGATIVE: u8 = 0x80;

/// What is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mqtt) enum Outgoing<'m, M> {
    /// A PUBLISH; `id` is 0 at QoS 0.
    Publish { number: u64, id: u16, qos: QoS, dup: bool, message: &'m M },
    /// A PUBREL.
    Release { id: u16 },
    /// A PUBREL for a PUBREC that belongs to nothing: in version 5 with the reason that the id is not known.
    Unknown { id: u16 },
}

/// An answer of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mqtt) enum Answer {
    /// A PUBACK.
    Ack { id: u16, code: u8 },
    /// A PUBREC.
    Received { id: u16, code: u8 },
    /// A PUBCOMP. Whatever its reason code: the peer holds nothing under this id any more.
    Complete { id: u16 },
}

impl Answer {
    /// Returns its packet id.
    pub(super) fn id(self) -> u16 {
        let (Answer::Ack { id, .. } | Answer::Received { id, .. } | Answer::Complete { id }) = self;
        id
    }

    /// Says whether it is a PUBREC that a PUBREL must answer.
    pub(super) fn wants_release(self) -> bool {
        matches!(self, Answer::Received { code, .. } if code < NEGATIVE)
    }

    /// Returns the name of its packet.
    pub(super) fn name(self) -> &'static str {
        match self {
            Answer::Ack { .. } => "PUBACK",
            Answer::Received { .. } => "PUBREC",
            Answer::Complete { .. } => "PUBCOMP",
        }
    }
}

/// What an answer told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mqtt) enum Told {
    /// Nothing that was not known.
    Nothing,
    /// The peer has a message, and it is not delivered yet.
    Received { number: u64 },
    /// A message is delivered.
    Delivered { number: u64 },
    /// The peer does not take a message: [`Sender::give_up`](super::Sender::give_up) on it, or it is sent again on the next connection.
    Refused { number: u64, code: u8 },
}
