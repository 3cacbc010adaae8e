//! Publishing: the loop that an outbox's courier and a [`Publisher`] share, and the publisher for everybody else.
//!
//! ```text
//!   supply ──message──► Sender ──packet──► Link ──► broker
//!     ▲                  │  ▲                │
//!     └─ how far it came ┘  └─── answer ─────┘
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemill_engine::clock::Dice;
use tidemill_engine::source::Stop;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::link::{Broker, Link, Message, Session};
use super::packet::{Packet, QoS, Version};
use super::reach::NoLink;
use super::sender::{Answer, Release, Sender, Told};
use crate::backoff::Backoff;

/// What is published and not acknowledged takes at most so many bytes; a larger message goes alone.
const HELD_BYTES_MAX: usize = 8 << 20;
/// And it is at most so many messages.
const HELD_COUNT_MAX: usize = 2_048;
/// How long a broker may take to answer the oldest message that it has; then it is asked on another connection.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// How often it is looked in that time whether it has.
const LOOKS: u32 = 4;
/// Messages that wait for a [`Publisher`]'s task.
const QUEUE_MAX: usize = 256;

/// Codes that say that a message will never be taken: its topic or its payload is what is wrong.
const NEVER: [u8; 3] = [0x90, 0x95, 0x99];

/// What a supply gives.
pub(super) enum Supplied {
    /// A message, with its number.
    Message(u64, Message, Before),
    /// PUBRELs may leave for what is below.
    Release(u64),
    /// There is nothing more to come, and everything that came is delivered.
    End,
}

/// What may have happened to a message in a process before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    Nothing,
    Sent,
    Received,
}

/// Where messages come from.
pub(super) trait Supply: Send {
    /// Why nothing more can come.
    type Error: Send;
    /// Waits for the next thing; for a message only if one is wanted. May be dropped and called again.
    fn next(&mut self, wants_message: bool) -> impl Future<Output = Result<Supplied, Self::Error>> + Send;
    /// Hears how far it came: everything below is delivered, and received.
    fn note(&mut self, delivered: u64, received: u64);
    /// Hears that a message is given up: the broker will never take it.
    fn given_up(&mut self, number: u64, why: &str);
}

/// Why the loop ended.
pub(super) enum Ended<E> {
    /// As it was asked to, or at the end of the supply.
    Done,
    /// The connection is of no more use.
    Lost(String),
    /// The supply failed.
    Supply(E),
}

/// Messages on their way, through any number of connections.
pub(super) struct Outbound {
    sender: Sender<Message>,
    qos: QoS,
    /// The bytes of each message that is held, by number.
    held: VecDeque<(u64, usize)>,
    held_bytes: usize,
    /// How long a broker may take to answer.
    answer_time_max: Duration,
}

/// What the broker has to answer first, and since when that is known.
type Owed = Option<((u64, bool), Instant)>;

impl Outbound {
    /// Begins with a message of this number.
    pub(super) fn new(first: u64, qos: QoS, release: Release) -> Self {
        Outbound {
            sender: Sender::new(first, release),
            qos,
            held: VecDeque::new(),
            held_bytes: 0,
            answer_time_max: ANSWER_TIME_MAX,
        }
    }

    /// Publishes on a connection until it is lost, or `stop` is cancelled.
    pub(super) async fn run<S: Supply>(
        &mut self,
        mut link: Link,
        session: Session,
        supply: &mut S,
        stop: &Stop,
    ) -> Ended<S::Error> {
        let window = link.window().min(u16::try_from(HELD_COUNT_MAX).unwrap_or(u16::MAX));
        match session {
            Session::Kept => self.sender.resume(window),
            Session::Clean => self.sender.restart(window),
        }
        let ended = self.serve(&mut link, supply, stop).await;
        // Before the next connection, everything that was heard on this one is known.
        self.note(&link, supply);
        if matches!(ended, Ended::Done | Ended::Supply(_)) {
            link.close().await;
        }
        ended
    }

    async fn serve<S: Supply>(&mut self, link: &mut Link, supply: &mut S, stop: &Stop) -> Ended<S::Error> {
        let stopped = stop.cancelled();
        let alarm = sleep_until(Instant::now());
        let mut owed: Owed = None;
        tokio::pin!(stopped, alarm);
        loop {
            loop {
                while link.has_room()
                    && let Some(outgoing) = self.sender.next()
                {
                    if let Err(violation) = link.put(outgoing) {
                        return Ended::Lost(violation.to_string());
                    }
                }
                if let Err(error) = link.flush() {
                    return Ended::Lost(error.to_string());
                }
                if !link.is_flushed() || !link.has_room() || !self.sender.has_next() {
                    break;
                }
            }
            self.note(link, supply);
            let has_room = self.held_bytes < HELD_BYTES_MAX && self.sender.kept_count() < HELD_COUNT_MAX;
            tokio::select! {
                biased;
                () = &mut stopped => return Ended::Done,
                turned = link.turn() => {
                    let answered = match turned {
                        Ok(()) => self.answers(link, supply),
                        Err(error) => Err(error.to_string()),
                    };
                    if let Err(why) = answered {
                        return Ended::Lost(why);
                    }
                }
                supplied = supply.next(has_room) => match supplied {
                    Ok(Supplied::Message(number, message, before)) => self.take(link, supply, number, message, before),
                    Ok(Supplied::Release(below)) => self.sender.release(below),
                    Ok(Supplied::End) => return Ended::Done,
                    Err(error) => return Ended::Supply(error),
                },
                () = &mut alarm => match self.look_at_the_clock(link, &mut owed) {
                    Ok(again_at) => alarm.as_mut().reset(again_at),
                    Err(why) => return Ended::Lost(why),
                },
            }
        }
    }

    /// Pings or gives the broker up if it is time; returns when to look again.
    fn look_at_the_clock(&self, link: &mut Link, owed: &mut Owed) -> Result<Instant, String> {
        let now = Instant::now();
        let is_same = |first: (u64, bool)| owed.filter(|(before, _)| *before == first);
        *owed = self.sender.owed().map(|first| is_same(first).unwrap_or((first, now)));
        if let Some((_, since)) = owed
            && now.duration_since(*since) >= self.answer_time_max
        {
            return Err(format!("the broker has not answered a message within {:?}", self.answer_time_max));
        }
        // Only here it is seen that nothing happens.
        Ok(link.look_at_the_clock()?.min(now + self.answer_time_max / LOOKS))
    }

    fn take<S: Supply>(&mut self, link: &Link, supply: &mut S, number: u64, message: Message, before: Before) {
        if link.is_too_large(&message) {
            supply.given_up(number, "it is larger than the broker takes");
            return self.sender.skip(number);
        }
        let bytes = message.topic.len() + message.payload.len();
        self.held.push_back((number, bytes));
        self.held_bytes += bytes;
        match before {
            Before::Received if self.qos == QoS::ExactlyOnce => self.sender.restore_received(number, message),
            Before::Sent | Before::Received if self.qos != QoS::AtMostOnce => {
                self.sender.restore_sent(number, message, self.qos);
            }
            _ => drop(self.sender.offer_at(number, message, self.qos)),
        }
    }

    /// Tells how far it came.
    fn note<S: Supply>(&mut self, link: &Link, supply: &mut S) {
        // A message of QoS 0 is delivered when it has left.
        if self.qos == QoS::AtMostOnce && !link.is_flushed() {
            return;
        }
        let delivered = self.sender.delivered();
        while let Some((number, bytes)) = self.held.front().copied()
            && number < delivered
        {
            self.held.pop_front();
            self.held_bytes -= bytes;
        }
        supply.note(delivered, self.sender.received());
    }

    fn answers<S: Supply>(&mut self, link: &mut Link, supply: &mut S) -> Result<(), String> {
        while let Some(packet) = link.packet().map_err(|violation| violation.to_string())? {
            let answer = match packet {
                Packet::PubAck(ack) => Answer::Ack { id: ack.id, code: ack.code },
                Packet::PubRec(ack) => Answer::Received { id: ack.id, code: ack.code },
                Packet::PubComp(ack) => Answer::Complete { id: ack.id },
                Packet::PingResp => continue,
                // Somebody publishes to the topic of a mark.
                Packet::Publish(publish) if publish.qos == QoS::AtMostOnce => continue,
                Packet::Disconnect { code, reason, .. } => {
                    let why = reason.map(|why| format!(": {why}")).unwrap_or_default();
                    return Err(format!("the broker disconnected us (reason {code:#04x}{why})"));
                }
                other => return Err(format!("the broker broke the protocol: a {} for a publisher", other.name())),
            };
            match self
                .sender
                .receive(answer)
                .map_err(|violation| format!("the broker broke the protocol: {violation}"))?
            {
                Told::Refused { number, code } if NEVER.contains(&code) => {
                    supply.given_up(number, &format!("the broker will not take it (reason {code:#04x})"));
                    self.sender.give_up(number);
                }
                Told::Refused { code, .. } => {
                    return Err(format!("the broker refuses to take a message (reason {code:#04x}{})", meaning(code)));
                }
                Told::Nothing | Told::Received { .. } | Told::Delivered { .. } => {}
            }
        }
        Ok(())
    }
}

fn meaning(code: u8) -> &'static str {
    match code {
        0x87 => ": we may not publish to its topic",
        0x97 => ": a quota is exceeded",
        _ => "",
    }
}

/// A client that publishes: it connects, connects again when the connection is lost, and resends what was not acknowledged.
///
/// Its messages are in memory: what is not acknowledged is lost with the process.
pub struct Publisher {
    queue: mpsc::Sender<(Message, oneshot::Sender<()>)>,
    stop: Stop,
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Publisher {
    /// Begins to connect. Everything is published at this QoS.
    pub fn start(broker: Broker, qos: QoS, dice: Arc<dyn Dice>) -> Publisher {
        let (queue, messages) = mpsc::channel(QUEUE_MAX);
        let stop = Stop::new();
        tokio::spawn(publish(broker, qos, messages, dice, stop.clone()));
        Publisher { queue, stop }
    }

    /// Publishes a message behind those before it; waits while too many are on their way. What is returned resolves when the
    /// message is acknowledged (at QoS 0: sent), in the order of the messages, and fails if that will never be known.
    pub async fn publish(&self, topic: &str, payload: impl Into<Bytes>) -> oneshot::Receiver<()> {
        let message =
            Message { topic: Bytes::copy_from_slice(topic.as_bytes()), payload: payload.into(), retain: false };
        let (sender, acknowledged) = oneshot::channel();
        // An error drops the sender: the receiver says so.
        let _ = self.queue.send((message, sender)).await;
        acknowledged
    }
}

/// What a [`Publisher`] is asked to publish.
struct Asked {
    messages: mpsc::Receiver<(Message, oneshot::Sender<()>)>,
    next: u64,
    waiting: VecDeque<(u64, oneshot::Sender<()>)>,
}

impl Supply for Asked {
    type Error = std::convert::Infallible;

    async fn next(&mut self, wants_message: bool) -> Result<Supplied, Self::Error> {
        if !wants_message {
            return std::future::pending().await;
        }
        let Some((message, sender)) = self.messages.recv().await else {
            if self.waiting.is_empty() {
                return Ok(Supplied::End);
            }
            return std::future::pending().await;
        };
        let number = self.next;
        self.next += 1;
        self.waiting.push_back((number, sender));
        Ok(Supplied::Message(number, message, Before::Nothing))
    }

    fn note(&mut self, delivered: u64, _received: u64) {
        while self.waiting.front().is_some_and(|(number, _)| *number < delivered) {
            if let Some((_, sender)) = self.waiting.pop_front() {
                let _ = sender.send(()); // Nobody may be waiting.
            }
        }
    }

    fn given_up(&mut self, number: u64, why: &str) {
        tracing::warn!(number, why, "a message is not published");
        self.waiting.retain(|(waiting, _)| *waiting != number);
    }
}

async fn publish(
    broker: Broker,
    qos: QoS,
    messages: mpsc::Receiver<(Message, oneshot::Sender<()>)>,
    dice: Arc<dyn Dice>,
    stop: Stop,
) {
    let mut asked = Asked { messages, next: 0, waiting: VecDeque::new() };
    let mut outbound = Outbound::new(0, qos, Release::AtOnce);
    let (mut version, mut backoff, mut session) = (Version::V5, Backoff::default(), Session::Clean);
    while !stop.is_cancelled() {
        let link = tokio::select! {
            link = Link::connect(&broker, version, session) => link,
            () = stop.cancelled() => return,
        };
        let why = match link {
            Ok(link) => {
                let kept = if link.connack.session_present { Session::Kept } else { Session::Clean };
                session = Session::Kept;
                let before = outbound.sender.delivered();
                let ended = outbound.run(link, kept, &mut asked, &stop).await;
                if outbound.sender.delivered() > before {
                    backoff = Backoff::default();
                }
                match ended {
                    Ended::Done => return,
                    Ended::Lost(why) => why,
                    Ended::Supply(never) => match never {},
                }
            }
            Err(NoLink::Older) => {
                version = Version::V311;
                continue;
            }
            Err(NoLink::Failed(why)) => why,
        };
        let wait = backoff.next(&*dice);
        tracing::debug!(why, ?wait, "not connected");
        let _ = timeout(wait, stop.cancelled()).await;
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::stall::{Patience, Stall};

    const SOON: Duration = Duration::from_secs(20);
    const CONNACK: &[u8] = &[0x20, 2, 0, 0];
    const PINGRESP: &[u8] = &[0xD0, 0];

    /// The same message as often as it is wanted.
    struct Endless(u64);

    impl Supply for Endless {
        type Error = Infallible;

        async fn next(&mut self, wants_message: bool) -> Result<Supplied, Infallible> {
            if !wants_message {
                return std::future::pending().await;
            }
            self.0 += 1;
            let (topic, payload) = (Bytes::from_static(b"a/b"), Bytes::from(vec![b'x'; 10_000]));
            Ok(Supplied::Message(self.0 - 1, Message { topic, payload, retain: false }, Before::Nothing))
        }

        fn note(&mut self, _: u64, _: u64) {}

        fn given_up(&mut self, _: u64, _: &str) {}
    }

    /// Connects to a broker that accepts us.
    async fn connected(qos: QoS) -> (Outbound, Link, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let broker = Broker {
            host: "127.0.0.1".to_owned(),
            port: listener.local_addr().expect("bound").port(),
            tls: None,
            client_id: "me".to_owned(),
            username: None,
            password: None,
            keep_alive_s: 0,
            session_expiry_s: 0,
        };
        let accepting = async {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            let mut connect = [0; 64];
            assert!(socket.read(&mut connect).await.expect("a CONNECT") > 0);
            socket.write_all(CONNACK).await.expect("it listens");
            socket
        };
        let (link, socket) = tokio::join!(Link::connect(&broker, Version::V311, Session::Kept), accepting);
        (Outbound::new(0, qos, Release::AtOnce), link.expect("accepted"), socket)
    }

    async fn lost(outbound: &mut Outbound, link: Link) -> String {
        let stop = Stop::new();
        let mut supply = Endless(0);
        let ended = outbound.run(link, Session::Clean, &mut supply, &stop);
        match tokio::time::timeout(SOON, ended).await.expect("it ends") {
            Ended::Lost(why) => why,
            Ended::Done | Ended::Supply(_) => panic!("nobody has stopped it"),
        }
    }

    #[tokio::test]
    async fn a_broker_that_takes_messages_and_answers_none_is_given_up() {
        let (mut outbound, link, mut socket) = connected(QoS::AtLeastOnce).await;
        outbound.answer_time_max = Duration::from_millis(200);
        // It reads everything, and says again and again that it is alive.
        let broker = tokio::spawn(async move {
            let mut bytes = vec![0; 64 << 10];
            while socket.read(&mut bytes).await.is_ok_and(|count| count > 0) {
                if socket.write_all(PINGRESP).await.is_err() {
                    return;
                }
            }
        });
        let why = lost(&mut outbound, link).await;
        assert!(why.contains("has not answered a message within 200ms"), "{why}");
        broker.await.expect("no panic");
    }

    #[tokio::test]
    async fn a_broker_that_reads_nothing_is_given_up() {
        let (mut outbound, mut link, _socket) = connected(QoS::AtMostOnce).await;
        outbound.answer_time_max = Duration::from_millis(200);
        link.set_stall(Stall::new(Patience { time_max: Duration::from_millis(200), bytes_min: 1 }));
        let why = lost(&mut outbound, link).await;
        assert!(why.contains("has not read"), "{why}");
    }
}
