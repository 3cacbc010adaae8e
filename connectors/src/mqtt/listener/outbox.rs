//! What one client is being sent: taken from its mailbox, and not yet confirmed.
//!
//! A message leaves the mailbox when the client's window has room for it, and is kept here until it is confirmed. So both are
//! bounded: the mailbox by itself, this by the window and by [`IN_FLIGHT_BYTES_MAX`].
//!
//! Its messages keep the numbers that the mailbox has given them, and so their packet ids, through a restart.

use std::collections::HashMap;

use super::super::packet::{QoS, Violation};
use super::super::sender::{Answer, Outgoing, Release, Sender, Told};
use super::delivery::Delivery;
use super::mailbox::Waits;

/// The largest window we use: who says nothing would take 65,535 messages, and more in flight than this is no faster.
const WINDOW_MAX: u16 = 1_024;
/// So many bytes may be unconfirmed, and one message more.
const IN_FLIGHT_BYTES_MAX: usize = 4 << 20;

/// What an answer of the client told of a message, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Nothing,
    /// The client has it; its PUBREL waits for [`Outbox::release`].
    Received(u64),
    Done(u64),
}

#[derive(Debug)]
pub(super) struct Outbox {
    sender: Sender<Delivery>,
    /// The message that waits for room in the window, by its number.
    waiting: Option<u64>,
    /// How many bytes each unconfirmed message has.
    sizes: HashMap<u64, usize>,
    in_flight_bytes: usize,
}

impl Outbox {
    /// Begins with the number `first`.
    pub(super) fn new(first: u64) -> Outbox {
        let sender = Sender::new(first, Release::Each);
        Outbox { sender, waiting: None, sizes: HashMap::new(), in_flight_bytes: 0 }
    }

    /// Begins a connection on which the client has kept its session.
    pub(super) fn resume(&mut self, receive_maximum: Option<u16>) {
        self.sender.resume(receive_maximum.unwrap_or(u16::MAX).min(WINDOW_MAX));
    }

    /// Says whether a message may be taken from the mailbox.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.is_none() && self.in_flight_bytes < IN_FLIGHT_BYTES_MAX
    }

    /// Takes what waits under a number above those before; there is room for it.
    pub(super) fn offer(&mut self, number: u64, waits: Waits) {
        let (Waits::New(delivery) | Waits::PerhapsSent(delivery)) = &waits else {
            return self.sender.restore_received(number, Delivery::default());
        };
        let (qos, bytes) = (delivery.qos, delivery.publication.byte_count());
        match waits {
            Waits::New(delivery) => drop(self.sender.offer_at(number, delivery, qos)),
            Waits::PerhapsSent(delivery) => self.sender.restore_sent(number, delivery, qos),
            Waits::Received => {}
        }
        self.waiting = Some(number);
        if qos != QoS::AtMostOnce {
            self.in_flight_bytes += bytes;
            self.sizes.insert(number, bytes);
        }
    }

    /// Returns what is to be sent next.
    pub(super) fn next(&mut self) -> Option<Outgoing<'_, Delivery>> {
        let next = self.sender.next()?;
        if let Outgoing::Publish { number, .. } = next
            && self.waiting == Some(number)
        {
            self.waiting = None;
        }
        Some(next)
    }

    /// Takes an answer of the client. After an error the connection must end.
    pub(super) fn answered(&mut self, answer: Answer) -> Result<Progress, Violation> {
        let number = match self.sender.receive(answer)? {
            Told::Nothing => return Ok(Progress::Nothing),
            Told::Received { number } => return Ok(Progress::Received(number)),
            Told::Delivered { number } => number,
            Told::Refused { number, .. } => {
                // By the standard it is done: what a subscriber refuses is not sent again.
                self.sender.give_up(number);
                number
            }
        };
        self.in_flight_bytes -= self.sizes.remove(&number).unwrap_or(0);
        Ok(Progress::Done(number))
    }

    /// Lets the PUBREL of a message leave: a restart will know that the client has it.
    pub(super) fn release(&mut self, number: u64) {
        self.sender.release_one(number);
    }
}
