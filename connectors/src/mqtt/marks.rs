//! Marks in a session: how a broker is asked again whether it has lost the session that we know.
//!
//! A broker says so once, in the CONNACK of the connection that begins another session; who dies before the answer is
//! durable does not hear it again. So a session of version 5 gets marks when it begins: subscriptions to topics that nobody
//! publishes to. An UNSUBSCRIBE takes one off, and the UNSUBACK says whether it was there.
//!
//! ```text
//!   begun ──SUBSCRIBE──► marked ──► asking is durable ──CONNECT──► CONNACK ──► its answer is durable ──► PUBREL, PUBLISH
//!                                        │ died, or the connection did: was it a lost session?
//!                                        └──► CONNACK ──► a mark is spent, durably ──UNSUBSCRIBE──► 0x00: ours, 0x11: another
//! ```
//! A mark answers once. There are several, for whoever dies again while it asks; when the answer is durable, those that were
//! spent are set again. Version 3.1.1 has no codes in its UNSUBACK, and a broker may refuse the subscription: there nobody
//! can be asked, and a session that is present is taken for ours.

use std::fmt;

use super::link::Link;
use super::packet::{QoS, RetainHandling, Subscribe, Subscription, Unsubscribe};

/// How many marks a session has.
const MARKS: u8 = 8;

/// The UNSUBACK of a filter that was not subscribed to.
const NO_SUBSCRIPTION_EXISTED: u8 = 0x11;
/// From here on a code says no.
const NEGATIVE: u8 = 0x80;

/// What is known of a session, beside what was delivered on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Noted {
    /// With whom, and how.
    pub(super) name: String,
    pub(super) marks: Marks,
    /// A CONNECT may have left whose answer is not known.
    pub(super) is_asking: bool,
}

/// The marks of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marks {
    /// Nobody has tried to set any.
    Untried,
    /// The broker does not let us set any.
    Refused,
    /// Those below the number are spent.
    SpentBelow(u8),
}

const ASKING: &str = " asking";
const MARKED: &str = " marks ";
const REFUSED: &str = "refused";

impl Noted {
    /// A session that has just begun.
    pub(super) fn begun(name: &str) -> Noted {
        Noted { name: name.to_owned(), marks: Marks::Untried, is_asking: false }
    }

    /// Reads what [`Noted`] displays; a bare name too, as older programs wrote it.
    pub(super) fn read(text: &str) -> Noted {
        let (text, is_asking) = text.strip_suffix(ASKING).map_or((text, false), |text| (text, true));
        let marked = text.rsplit_once(MARKED).and_then(|(name, marks)| match marks {
            REFUSED => Some((name, Marks::Refused)),
            spent => Some((name, Marks::SpentBelow(spent.parse().ok()?))),
        });
        let (name, marks) = marked.unwrap_or((text, Marks::Untried));
        Noted { name: name.to_owned(), marks, is_asking }
    }
}

impl fmt::Display for Noted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.marks {
            Marks::Untried => {}
            Marks::Refused => write!(f, "{MARKED}{REFUSED}")?,
            Marks::SpentBelow(spent) => write!(f, "{MARKED}{spent}")?,
        }
        f.write_str(if self.is_asking { ASKING } else { "" })
    }
}

impl Marks {
    /// Returns the next mark that can be asked for, if there is one, and what is left when it is spent.
    pub(super) fn spend(self) -> Option<(u8, Marks)> {
        match self {
            Marks::SpentBelow(mark) if mark < MARKS => Some((mark, Marks::SpentBelow(mark + 1))),
            _ => None,
        }
    }
}

/// Sets all marks; `id` is a packet id that is not in use. Setting one that is set changes nothing.
pub(super) async fn set(link: &mut Link, client_id: &str, id: u16) -> Result<Marks, String> {
    let subscription = |mark| Subscription {
        filter: filter(client_id, mark),
        // What somebody publishes there all the same needs no answer.
        qos: QoS::AtMostOnce,
        retain_handling: RetainHandling::Never,
        ..Subscription::default()
    };
    let subscriptions = (0..MARKS).map(subscription).collect();
    let answer = link.subscribe(&Subscribe { id, subscriptions, subscription_id: None }).await?;
    let is_granted = answer.codes.len() == usize::from(MARKS) && answer.codes.iter().all(|code| *code < NEGATIVE);
    Ok(if is_granted { Marks::SpentBelow(0) } else { Marks::Refused })
}

/// Takes a mark off, and says whether it was there; `None` if the broker does not tell.
pub(super) async fn ask(link: &mut Link, client_id: &str, mark: u8, id: u16) -> Result<Option<bool>, String> {
    let answer = link.unsubscribe(&Unsubscribe { id, filters: vec![filter(client_id, mark)] }).await?;
    Ok(match answer.codes[..] {
        [NO_SUBSCRIPTION_EXISTED] => Some(false),
        [code] if code < NEGATIVE => Some(true),
        _ => None,
    })
}

/// Nothing of a client id may be a wildcard, or a level of its own.
fn filter(client_id: &str, mark: u8) -> String {
    let name: String = client_id.chars().map(|c| if matches!(c, '/' | '+' | '#') { '_' } else { c }).collect();
    format!("tidemill/sessions/{name}/{mark}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_comes_back() {
        let name = "h:1 sink marks 3 asking qos 2 content 7";
        for marks in [Marks::Untried, Marks::Refused, Marks::SpentBelow(0), Marks::SpentBelow(8)] {
            for is_asking in [false, true] {
                let noted = Noted { name: name.to_owned(), marks, is_asking };
                assert_eq!(Noted::read(&noted.to_string()), noted, "{noted}");
            }
        }
        assert_eq!(Noted::read(name), Noted::begun(name), "of an older program");
    }

    #[test]
    fn each_mark_answers_once() {
        let mut marks = Marks::SpentBelow(0);
        let mut asked = Vec::new();
        while let Some((mark, left)) = marks.spend() {
            asked.push(mark);
            marks = left;
        }
        assert_eq!(asked, (0..MARKS).collect::<Vec<u8>>());
        assert_eq!((Marks::Untried.spend(), Marks::Refused.spend()), (None, None));
    }
}
