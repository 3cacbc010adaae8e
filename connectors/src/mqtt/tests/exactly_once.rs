//! QoS 2 byte by byte: what a broker or a device sends, what we answer, and what is in the log then.

use super::lab::{BOTH, Lab, Side};
use super::{field, packet};
use crate::mqtt::packet::Version;
use crate::mqtt::session::Retained;

const CLIENT: Side = Side::Client(Retained::Skip);
const SIDES: [Side; 2] = [CLIENT, Side::Server];

/// A PUBLISH at QoS 2.
fn publish(version: Version, id: u16, payload: &str) -> Vec<u8> {
    publish_with(version, 0x34, id, &[], payload)
}

fn publish_with(version: Version, first: u8, id: u16, properties: &[u8], payload: &str) -> Vec<u8> {
    let length = [u8::try_from(properties.len()).expect("short")];
    let block = if version == Version::V5 { [&length[..], properties].concat() } else { Vec::new() };
    packet(first, &[&field(b"plant/a"), &id.to_be_bytes(), &block, payload.as_bytes()])
}

const DUP: u8 = 0x3C;

fn pubrec(id: u16) -> Vec<u8> {
    packet(0x50, &[&id.to_be_bytes()])
}

fn pubrel(id: u16) -> Vec<u8> {
    packet(0x62, &[&id.to_be_bytes()])
}

fn pubcomp(id: u16) -> Vec<u8> {
    packet(0x70, &[&id.to_be_bytes()])
}

fn each(test: impl Fn(Version, Lab)) {
    for version in BOTH {
        for side in SIDES {
            test(version, Lab::new(version, side));
        }
    }
}

#[test]
fn a_release_of_an_unknown_id_is_confirmed_and_the_connection_goes_on() {
    each(|version, mut lab| {
        lab.feed(&pubrel(77)).expect("never an error");
        assert_eq!(lab.settle(), pubcomp(77));
        assert!(lab.durable.is_empty(), "there is nothing to log");
        lab.feed(&publish(version, 77, "1")).expect("good");
        assert_eq!(lab.settle(), pubrec(77));
        assert_eq!(lab.payloads(), ["1"]);
    });
}

#[test]
fn a_release_is_confirmed_once_for_each_time_whatever_its_reason_and_only_after_the_sync() {
    let mut lab = Lab::new(Version::V5, CLIENT);
    lab.feed(&packet(0x62, &[&[0, 9, 0x92]])).expect("never an error");
    assert_eq!(lab.settle(), pubcomp(9));
    lab.feed(&publish(Version::V5, 9, "1")).expect("good");
    lab.append();
    // Its PUBLISH is not durable yet, and it comes twice.
    lab.feed(&[packet(0x62, &[&[0, 9, 0x92]]), pubrel(9)].concat()).expect("never an error");
    lab.append();
    assert!(lab.answers().is_empty());
    lab.sync();
    assert_eq!(lab.answers(), pubrec(9));
    lab.sync();
    assert_eq!(lab.answers(), [pubcomp(9), pubcomp(9)].concat());
    assert_eq!(lab.payloads(), ["1"]);
    assert!(lab.notes().is_empty(), "nothing is held: {:?}", lab.notes());
}

#[test]
fn many_releases_of_one_read_are_one_record_without_messages() {
    each(|version, mut lab| {
        let publishes: Vec<u8> = (1..=300).flat_map(|id| publish(version, id, "x")).collect();
        lab.feed(&publishes).expect("good");
        lab.settle();
        lab.feed(&(1..=300).flat_map(pubrel).collect::<Vec<u8>>()).expect("good");
        assert_eq!(lab.settle(), (1..=300).flat_map(pubcomp).collect::<Vec<u8>>());
        assert_eq!(lab.durable.len(), 2);
        assert_eq!((lab.durable[1].messages.len(), lab.durable[1].notes.len()), (0, 300));
        assert!(lab.notes().is_empty());
    });
}

#[test]
fn nothing_is_answered_before_the_sync_but_pings() {
    for version in BOTH {
        let mut lab = Lab::new(version, Side::Server);
        lab.feed(&[publish(version, 1, "1"), pubrel(2), super::PINGREQ.to_vec()].concat()).expect("good");
        lab.append();
        assert_eq!(lab.answers(), super::PINGRESP);
        lab.sync();
        assert_eq!(lab.answers(), [pubrec(1), pubcomp(2)].concat());
    }
}

#[test]
fn held_and_same_is_a_duplicate_and_held_and_other_is_a_new_message() {
    // (first byte, payload) of what comes under the held id 1 of "a", and what is in the log then.
    for (first, payload, log, errors) in [
        (DUP, "a", vec!["a"], vec!["duplicate"]),
        (0x34, "a", vec!["a"], vec!["duplicate"]),
        (DUP, "b", vec!["a", "b"], vec!["broker_id_reuse"]),
        (0x34, "b", vec!["a", "b"], vec!["broker_id_reuse"]),
    ] {
        each(|version, mut lab| {
            lab.feed(&publish(version, 1, "a")).expect("good");
            assert_eq!(lab.settle(), pubrec(1));
            for crashes in [true, false] {
                if crashes {
                    lab.crash(0)
                } else {
                    lab.cut()
                }
                lab.feed(&publish_with(version, first, 1, &[], payload)).expect("good");
                assert_eq!(lab.settle(), pubrec(1));
                assert_eq!(lab.payloads(), log, "{first:#x} {payload} {crashes}");
                if crashes {
                    assert_eq!(lab.errors, errors);
                }
            }
            lab.feed(&pubrel(1)).expect("good");
            assert_eq!(lab.settle(), pubcomp(1));
            assert!(lab.notes().is_empty(), "{:?}", lab.notes());
        });
    }
}

#[test]
fn an_expiry_that_is_counted_down_makes_no_new_message_and_a_user_property_does() {
    let mut lab = Lab::new(Version::V5, CLIENT);
    let with = |expiry: u8, value: u8| {
        publish_with(Version::V5, 0x34, 1, &[2, 0, 0, 0, expiry, 38, 0, 1, b'k', 0, 1, value], "a")
    };
    lab.feed(&with(100, b'v')).expect("good");
    lab.settle();
    lab.crash(0);
    lab.feed(&with(7, b'v')).expect("good");
    assert_eq!(lab.settle(), pubrec(1));
    assert_eq!(lab.payloads(), ["a"]);
    lab.crash(0);
    lab.feed(&with(7, b'w')).expect("good");
    assert_eq!(lab.settle(), pubrec(1));
    assert_eq!(lab.payloads(), ["a", "a"]);
    // What is logged is what the sender said, with its flags in front.
    let attributes = &lab.durable[0].messages[0].attributes;
    assert_eq!(attributes[..], [&[2, 2, 0, 0, 0, 100][..], &[38, 0, 1, b'k', 0, 1, b'v']].concat());
}

#[test]
fn an_id_that_is_free_again_takes_the_same_reading_again() {
    each(|version, mut lab| {
        for round in 1..=3 {
            lab.feed(&publish(version, 1, "same")).expect("good");
            assert_eq!(lab.settle(), pubrec(1));
            lab.feed(&pubrel(1)).expect("good");
            assert_eq!(lab.settle(), pubcomp(1));
            assert_eq!(lab.payloads().len(), round);
            lab.crash(0);
        }
        assert!(lab.errors.is_empty());
    });
}

#[test]
fn of_two_messages_under_one_id_the_second_is_answered_when_the_first_is_released() {
    each(|version, mut lab| {
        lab.feed(&[publish(version, 9, "a"), publish(version, 9, "b")].concat()).expect("tolerated");
        assert_eq!(lab.settle(), pubrec(9), "one of them");
        lab.feed(&pubrel(9)).expect("good");
        assert_eq!(lab.settle(), [pubcomp(9), pubrec(9)].concat());
        lab.crash(0);
        lab.feed(&pubrel(9)).expect("good");
        assert_eq!(lab.settle(), pubcomp(9));
        assert_eq!(lab.payloads(), ["a", "b"]);
        assert_eq!(lab.errors, ["broker_id_reuse"]);
        assert!(lab.notes().is_empty());
    });
}

#[test]
fn what_came_before_garbage_is_logged_once_and_acknowledged_on_its_own_connection_only() {
    each(|version, mut lab| {
        let five: Vec<u8> = (1..=5).flat_map(|id| publish(version, id, &id.to_string())).collect();
        lab.feed(&five).expect("good");
        assert!(lab.feed(&[0x36, 3, 0, 1, b'a']).is_err(), "QoS 3");
        lab.append();
        lab.cut();
        assert!(lab.answers().is_empty(), "the old five are of the old connection");
        let again: Vec<u8> = (1..=5).flat_map(|id| publish_with(version, DUP, id, &[], &id.to_string())).collect();
        lab.feed(&again).expect("good");
        assert_eq!(lab.settle(), (1..=5).flat_map(pubrec).collect::<Vec<u8>>());
        assert_eq!(lab.payloads(), ["1", "2", "3", "4", "5"]);
    });
}

#[test]
fn after_a_lost_session_old_ids_are_forgotten_and_the_epoch_is_in_the_log() {
    for version in BOTH {
        let mut lab = Lab::new(version, CLIENT);
        lab.feed(&publish(version, 1, "same")).expect("good");
        lab.settle();
        lab.crash(0);
        lab.session().lose_session();
        lab.feed(&publish(version, 1, "same")).expect("good");
        assert_eq!(lab.settle(), pubrec(1));
        assert_eq!(lab.payloads(), ["same", "same"], "the ids of another session say nothing");
        lab.crash(0);
        assert_eq!(lab.recall().epoch(), 1);
        lab.feed(&pubrel(1)).expect("good");
        assert_eq!(lab.settle(), pubcomp(1));
        assert_eq!(lab.notes().len(), 1, "the epoch is left: {:?}", lab.notes());
    }
}

#[test]
fn answers_of_both_qualities_leave_in_the_order_of_what_they_answer() {
    each(|version, mut lab| {
        let one = |id| publish_with(version, 0x32, id, &[], "x");
        lab.feed(&[one(1), publish(version, 2, "x"), one(3), pubrel(8), publish(version, 4, "x")].concat())
            .expect("good");
        let puback = super::puback;
        assert_eq!(lab.settle(), [puback(1), pubrec(2), puback(3), pubcomp(8), pubrec(4)].concat());
    });
}

#[test]
fn a_session_of_one_connection_is_exact_while_it_lasts_and_leaves_no_notes() {
    use crate::mqtt::remembered::{Lasts, Remembered};
    for version in BOTH {
        let mut lab = Lab::new(version, Side::Server);
        lab.connect(Remembered::new("lab", Lasts::Connection));
        lab.feed(&[publish(version, 1, "a"), publish_with(version, DUP, 1, &[], "a")].concat()).expect("good");
        assert_eq!(lab.settle(), [pubrec(1), pubrec(1)].concat());
        lab.feed(&pubrel(1)).expect("good");
        assert_eq!(lab.settle(), pubcomp(1));
        assert_eq!(lab.payloads(), ["a"]);
        assert!(lab.durable.iter().all(|record| record.notes.is_empty()));
    }
}

#[test]
fn a_client_beyond_the_window_is_told_and_an_acknowledged_message_frees_its_place() {
    let mut lab = Lab::new(Version::V5, Side::Server);
    for id in 1..=16_384 {
        let qos_1 = publish_with(Version::V5, 0x32, id, &[], "x");
        lab.feed(&if id % 2 == 0 { publish(Version::V5, id, "x") } else { qos_1 }).expect("within the window");
    }
    lab.settle();
    // The odd ones are acknowledged; of the even ones, one.
    lab.feed(&pubrel(2)).expect("good");
    lab.settle();
    lab.feed(&publish_with(Version::V5, DUP, 4, &[], "x")).expect("a repeat takes no place");
    for id in 20_001..=20_000 + 8_193 {
        lab.feed(&publish(Version::V5, id, "x")).expect("within the window");
    }
    assert_eq!(lab.feed(&publish(Version::V5, 60_000, "x")).expect_err("beyond").code(), 0x93);
    let mut broker = Lab::new(Version::V5, CLIENT);
    for id in 1..=17_000 {
        broker.feed(&publish(Version::V5, id, "x")).expect("a broker is tolerated");
    }
}

#[test]
fn a_retained_copy_that_comes_again_is_no_new_reading() {
    for version in BOTH {
        let mut lab = Lab::new(version, Side::Client(Retained::Use));
        let retained = |id, payload| publish_with(version, 0x35, id, &[], payload);
        lab.feed(&retained(1, "10")).expect("good");
        assert_eq!(lab.settle(), pubrec(1));
        lab.crash(0);
        // The session is lost, and the broker sends its copy anew: once the same, then another.
        lab.session().lose_session();
        lab.feed(&retained(1, "10")).expect("good");
        assert_eq!(lab.settle(), pubrec(1));
        lab.feed(&[pubrel(1), retained(2, "11"), pubrel(2)].concat()).expect("good");
        assert_eq!(lab.settle(), [pubcomp(1), pubrec(2), pubcomp(2)].concat());
        assert_eq!(lab.payloads(), ["10", "11"]);
        // A live message of the topic, twice the same, is two readings, and the broker's next copy.
        lab.feed(&[publish(version, 3, "12"), pubrel(3), publish(version, 3, "12"), pubrel(3)].concat()).expect("good");
        lab.settle();
        lab.crash(0);
        lab.session().lose_session();
        lab.feed(&retained(1, "12")).expect("good");
        lab.settle();
        assert_eq!(lab.payloads(), ["10", "11", "12", "12"]);
    }
}
