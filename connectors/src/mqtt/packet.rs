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

/// What a publisher or a subscriber may ask of a delivery. QoS 2 is read, so that it can be refused by name.
#[expect(clippy::enum_variant_names, reason = "MQTT's own names")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum QoS {
    /// At most once: not acknowledged.
    AtMostOnce = 0,
    /// At least once: acknowledged by PUBACK.
    AtLeastOnce = 1,
    /// Exactly once: PUBREC, PUBREL, PUBCOMP.
    ExactlyOnce = 2,
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
    pub(crate) const IMPLEMENTATION_SPECIFIC: u8 = 0x83;
    pub(crate) const UNSUPPORTED_VERSION: u8 = 0x84;
    pub(crate) const CLIENT_ID_INVALID: u8 = 0x85;
    pub(crate) const BAD_CREDENTIALS: u8 = 0x86;
    pub(crate) const NOT_AUTHORIZED: u8 = 0x87;
    pub(crate) const SHUTTING_DOWN: u8 = 0x8B;
    pub(crate) const BAD_AUTH_METHOD: u8 = 0x8C;
    pub(crate) const KEEP_ALIVE_TIMEOUT: u8 = 0x8D;
    pub(crate) const TAKEN_OVER: u8 = 0x8E;
    pub(crate) const RECEIVE_MAXIMUM: u8 = 0x93;
    pub(crate) const ALIAS_INVALID: u8 = 0x94;
    pub(crate) const TOO_LARGE: u8 = 0x95;
    pub(crate) const QOS_NOT_SUPPORTED: u8 = 0x9B;
}

/// The first packet of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Will {
    pub(super) topic: Bytes,
    pub(super) payload: Bytes,
}

/// The answer to a [`Connect`]. In 3.1.1 `code` is the return code, 0 to 5.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ConnAck {
    pub(super) session_present: bool,
    pub(super) code: u8,
    pub(super) server_keep_alive_s: Option<u16>,
    pub(super) session_expiry_s: Option<u32>,
    pub(super) assigned_client_id: Option<String>,
    pub(super) reason: Option<String>,
}

/// A message on its way to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Publish {
    pub(super) topic: Bytes,
    pub(super) payload: Bytes,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// 0 at QoS 0.
    pub(super) id: u16,
    /// Version 5 only; never 0.
    pub(super) alias: Option<u16>,
}

/// Everything that may arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Packet {
    ConnAck(Box<ConnAck>),
    Publish(Publish),
    PubRel {
        id: u16,
    },
    Subscribe {
        id: u16,
        filter_count: usize,
    },
    SubAck {
        id: u16,
        codes: Vec<u8>,
        reason: Option<String>,
    },
    Unsubscribe {
        id: u16,
        filter_count: usize,
    },
    PingReq,
    PingResp,
    Disconnect {
        code: u8,
        reason: Option<String>,
    },
    /// A packet that has no business on a connection of ours; its name.
    Other(&'static str),
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
    #[error("QoS 2 is not supported: publish with QoS 1")]
    QosNotSupported,
    #[error("more than {max} unacknowledged messages in flight")]
    ReceiveMaximum { max: usize },
    #[error("nothing was heard for one and a half keep-alive intervals")]
    KeepAlive,
}

impl Violation {
    /// Returns the reason code for a DISCONNECT of version 5.
    pub(super) fn code(&self) -> u8 {
        match self {
            Violation::Malformed { .. } => reason::MALFORMED,
            Violation::Protocol(_) => reason::PROTOCOL_ERROR,
            Violation::TooLarge { .. } => reason::TOO_LARGE,
            Violation::Alias { .. } => reason::ALIAS_INVALID,
            Violation::QosNotSupported => reason::QOS_NOT_SUPPORTED,
            Violation::ReceiveMaximum { .. } => reason::RECEIVE_MAXIMUM,
            Violation::KeepAlive => reason::KEEP_ALIVE_TIMEOUT,
        }
    }

    /// Returns the kind to count it under.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Violation::TooLarge { .. } => "oversize",
            Violation::QosNotSupported => "qos2",
            Violation::KeepAlive => "keep_alive",
            _ => "protocol",
        }
    }
}
