//! The words of MQTT 3.1.1 and 5 that a receiver needs, independent of the version on the wire.

use bytes::Bytes;

/// The version of the protocol, as a connection speaks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// MQTT 3.1.1, protocol level 4.
    V311,
    /// MQTT 5, protocol level 5.
    V5,
}

/// What a publisher or a subscriber may ask of a delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum QoS {
    /// At most once: not acknowledged.
    #[default]
    AtMostOnce = 0,
    /// At least once: acknowledged by PUBACK.
    AtLeastOnce = 1,
    /// Exactly once: PUBREC, PUBREL, PUBCOMP.
    ExactlyOnce = 2,
}

impl QoS {
    /// Reads the two bits of a packet; `None` for 3, which MQTT forbids.
    pub(super) fn from_bits(bits: u8) -> Option<QoS> {
        match bits {
            0 => Some(QoS::AtMostOnce),
            1 => Some(QoS::AtLeastOnce),
            2 => Some(QoS::ExactlyOnce),
            _ => None,
        }
    }
}

/// Reason codes of MQTT 5 that are sent or understood by name; 3.1.1 knows few of them.
pub(super) mod reason {
    pub(crate) const SUCCESS: u8 = 0x00;
    pub(crate) const DISCONNECT_WITH_WILL: u8 = 0x04;
    pub(crate) const NO_MATCHING_SUBSCRIBERS: u8 = 0x10;
    pub(crate) const NO_SUBSCRIPTION_EXISTED: u8 = 0x11;
    pub(crate) const SUBACK_FAILURE: u8 = 0x80;
    pub(crate) const MALFORMED: u8 = 0x81;
    pub(crate) const PROTOCOL_ERROR: u8 = 0x82;
    pub(crate) const UNSUPPORTED_VERSION: u8 = 0x84;
    pub(crate) const CLIENT_ID_INVALID: u8 = 0x85;
    pub(crate) const BAD_CREDENTIALS: u8 = 0x86;
    pub(crate) const NOT_AUTHORIZED: u8 = 0x87;
    pub(crate) const SHUTTING_DOWN: u8 = 0x8B;
    pub(crate) const BAD_AUTH_METHOD: u8 = 0x8C;
    pub(crate) const KEEP_ALIVE_TIMEOUT: u8 = 0x8D;
    pub(crate) const TAKEN_OVER: u8 = 0x8E;
    pub(crate) const TOPIC_FILTER_INVALID: u8 = 0x8F;
    pub(crate) const TOPIC_NAME_INVALID: u8 = 0x90;
    pub(crate) const RECEIVE_MAXIMUM: u8 = 0x93;
    pub(crate) const ALIAS_INVALID: u8 = 0x94;
    pub(crate) const TOO_LARGE: u8 = 0x95;
    pub(crate) const PACKET_ID_NOT_FOUND: u8 = 0x92;
    pub(crate) const QUOTA_EXCEEDED: u8 = 0x97;
    pub(crate) const SHARED_NOT_SUPPORTED: u8 = 0x9E;
}

/// The first packet of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Connect {
    pub(super) client_id: String,
    pub(super) clean: bool,
    pub(super) keep_alive_s: u16,
    pub(super) username: Option<String>,
    pub(super) password: Option<Bytes>,
    pub(super) will: Option<Will>,
    /// Version 5 only.
    pub(super) session_expiry_s: Option<u32>,
    /// Version 5 only: the largest packet the peer takes.
    pub(super) packet_bytes_max: Option<u32>,
    /// Version 5 only.
    pub(super) receive_maximum: Option<u16>,
    /// Version 5 only.
    pub(super) topic_alias_max: Option<u16>,
    /// Version 5 only: an extended authentication method, which we do not have.
    pub(super) auth_method: Option<String>,
}

/// What a client wants published when it vanishes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Will {
    pub(super) topic: Bytes,
    pub(super) payload: Bytes,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// Version 5 only: how long after the end of the connection it is due, unless the client is back by then.
    pub(super) delay_s: u32,
    /// Version 5 only: the properties to publish it with, as on the wire.
    pub(super) properties: Bytes,
}

/// The answer to a [`Connect`]. In 3.1.1 `code` is the return code, 0 to 5, and there is nothing else but `session_present`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ConnAck {
    pub(super) session_present: bool,
    pub(super) code: u8,
    pub(super) session_expiry_s: Option<u32>,
    /// How many unacknowledged messages of QoS 1 and 2 the server takes; absent: 65,535.
    pub(super) receive_maximum: Option<u16>,
    /// The highest QoS the server takes; absent: 2.
    pub(super) qos_max: Option<QoS>,
    /// Absent: it keeps retained messages.
    pub(super) retain_available: Option<bool>,
    /// The largest packet the server takes.
    pub(super) packet_bytes_max: Option<u32>,
    pub(super) assigned_client_id: Option<String>,
    /// How many topic aliases the server takes; absent: none.
    pub(super) topic_alias_max: Option<u16>,
    pub(super) reason: Option<String>,
    /// Absent: yes.
    pub(super) wildcards_available: Option<bool>,
    /// Absent: yes.
    pub(super) subscription_ids_available: Option<bool>,
    /// Absent: yes.
    pub(super) shared_available: Option<bool>,
    pub(super) server_keep_alive_s: Option<u16>,
    /// Another server to use.
    pub(super) server_reference: Option<String>,
}

/// A message on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Publish {
    pub(super) topic: Bytes,
    pub(super) payload: Bytes,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// The sender believes that it has sent this before. It may be wrong either way.
    pub(super) duplicate: bool,
    /// 0 at QoS 0.
    pub(super) id: u16,
    /// Version 5 only; never 0.
    pub(super) alias: Option<u16>,
    /// Version 5 only: the properties as on the wire, without the topic alias and subscription ids.
    pub(super) properties: Bytes,
    /// It was larger than we take: in place of its payload stands what it was.
    pub(super) is_oversize: bool,
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP. In 3.1.1 there is only the id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) id: u16,
    pub(super) code: u8,
    pub(super) reason: Option<String>,
}

/// When a subscription sends what the server has retained (version 5; 3.1.1 always does).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum RetainHandling {
    /// With each SUBSCRIBE.
    #[default]
    Always = 0,
    /// Only if the subscription is new.
    IfNew = 1,
    /// Never.
    Never = 2,
}

/// One wish of a [`Subscribe`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Subscription {
    /// As it came: not yet known to be a valid filter.
    pub(super) filter: String,
    pub(super) qos: QoS,
    /// Version 5 only: do not send me what I publish.
    pub(super) no_local: bool,
    /// Version 5 only: send the RETAIN flag as the publisher set it.
    pub(super) retain_as_published: bool,
    /// Version 5 only.
    pub(super) retain_handling: RetainHandling,
}

/// A SUBSCRIBE: at least one subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Subscribe {
    pub(super) id: u16,
    pub(super) subscriptions: Vec<Subscription>,
    /// Version 5 only; never 0.
    pub(super) subscription_id: Option<u32>,
}

/// An UNSUBSCRIBE: at least one filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unsubscribe {
    pub(super) id: u16,
    pub(super) filters: Vec<String>,
}

/// SUBACK or UNSUBACK: one code for each filter; an UNSUBACK of 3.1.1 has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FilterAck {
    pub(super) id: u16,
    pub(super) codes: Vec<u8>,
    pub(super) reason: Option<String>,
}

/// Everything that may arrive after the first packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Packet {
    ConnAck(Box<ConnAck>),
    Publish(Publish),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    Subscribe(Subscribe),
    SubAck(FilterAck),
    Unsubscribe(Unsubscribe),
    UnsubAck(FilterAck),
    PingReq,
    PingResp,
    Disconnect {
        code: u8,
        reason: Option<String>,
        /// Version 5 only: replaces that of the CONNECT.
        session_expiry_s: Option<u32>,
    },
    /// A packet that has no business on a connection of ours; its name.
    Other(&'static str),
}

impl Packet {
    /// Returns its name in the standard.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Packet::ConnAck(_) => "CONNACK",
            Packet::Publish(_) => "PUBLISH",
            Packet::PubAck(_) => "PUBACK",
            Packet::PubRec(_) => "PUBREC",
            Packet::PubRel(_) => "PUBREL",
            Packet::PubComp(_) => "PUBCOMP",
            Packet::Subscribe(_) => "SUBSCRIBE",
            Packet::SubAck(_) => "SUBACK",
            Packet::Unsubscribe(_) => "UNSUBSCRIBE",
            Packet::UnsubAck(_) => "UNSUBACK",
            Packet::PingReq => "PINGREQ",
            Packet::PingResp => "PINGRESP",
            Packet::Disconnect { .. } => "DISCONNECT",
            Packet::Other(name) => name,
        }
    }

    /// Makes the violation that it is where it has nothing to answer.
    pub(super) fn unexpected(&self) -> Violation {
        match self.name() {
            "AUTH" => unexpected_auth(),
            name => Violation::Protocol(format!("an unexpected {name}")),
        }
    }
}

/// Makes the violation that an AUTH is: we never ask for it in CONNECT, so nobody may send one.
pub(super) fn unexpected_auth() -> Violation {
    let problem =
        "an AUTH: tidemill has no extended authentication; use a username and a password, or a client certificate";
    Violation::Protocol(problem.to_owned())
}

/// The bytes or the order of packets break the protocol; the connection ends with the reason code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("malformed {packet}: {problem}")]
    Malformed { packet: &'static str, problem: String },
    #[error("protocol error: {0}")]
    Protocol(String),
    #[error("a packet of {bytes} bytes is over the limit of {max} bytes")]
    TooLarge { bytes: usize, max: usize },
    #[error("topic alias {alias} is not defined on this connection, or over {max}")]
    Alias { alias: u16, max: u16 },
    #[error("more than {max} unacknowledged messages in flight")]
    ReceiveMaximum { max: usize },
    #[error("nothing was heard for one and a half keep-alive intervals")]
    KeepAlive,
    #[error("more messages wait for this subscriber than may")]
    TooSlow,
}

impl Violation {
    /// Returns the reason code for a DISCONNECT of version 5.
    pub(super) fn code(&self) -> u8 {
        match self {
            Violation::Malformed { .. } => reason::MALFORMED,
            Violation::Protocol(_) => reason::PROTOCOL_ERROR,
            Violation::TooLarge { .. } => reason::TOO_LARGE,
            Violation::Alias { .. } => reason::ALIAS_INVALID,
            Violation::ReceiveMaximum { .. } => reason::RECEIVE_MAXIMUM,
            Violation::KeepAlive => reason::KEEP_ALIVE_TIMEOUT,
            Violation::TooSlow => reason::QUOTA_EXCEEDED,
        }
    }

    /// Returns the kind to count it under.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Violation::TooLarge { .. } => "oversize",
            Violation::KeepAlive => "keep_alive",
            Violation::TooSlow => "subscriber",
            _ => "protocol",
        }
    }
}
