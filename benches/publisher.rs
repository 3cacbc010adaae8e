//! A publisher that writes whole batches, as fast as its window allows or at a given rate, and knows when each message was
//! acknowledged. Speaks MQTT 3.1.1 with its own bytes.

#![allow(dead_code, reason = "each benchmark uses what it needs")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::workload::{Count, now};

/// Messages in flight, at most.
const WINDOW: usize = 8_192;
/// Messages in one write.
const BATCH: usize = 512;
/// At a given rate, messages are sent so often.
const TICK: Duration = Duration::from_millis(1);
const PAYLOAD_BYTES: usize = 100;

/// What to publish.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Of the listener or broker.
    pub(crate) port: u16,
    /// Of all messages.
    pub(crate) qos: u8,
    /// How many.
    pub(crate) messages: usize,
    /// In a second; `None` is as fast as possible.
    pub(crate) rate: Option<f64>,
}

/// Publishes on one connection; returns how long it took up to the last acknowledgement, and how long each message waited
/// for its own (at QoS 2 for PUBCOMP).
pub(crate) fn publish(plan: Plan) -> (Duration, Vec<Duration>) {
    let writer = connect(plan.port);
    let mut reader = writer.try_clone().expect("a second handle");
    // A write that waits for room could be torn by the other thread's.
    let writer = Mutex::new(writer);
    let sent_ns: Vec<AtomicU64> = (0..plan.messages).map(|_| AtomicU64::new(0)).collect();
    let acknowledged = AtomicUsize::new(0);
    let begin = now(Count::Wall);
    let waits = std::thread::scope(|scope| {
        let hears = scope.spawn(|| {
            let done = if plan.qos == 2 { 0x70 } else { 0x40 };
            let mut waits = Vec::with_capacity(plan.messages);
            let (mut bytes, mut rest) = (vec![0; 64 << 10], Vec::new());
            while plan.qos > 0 && waits.len() < plan.messages {
                let length = reader.read(&mut bytes).expect("acknowledgements");
                assert!(length > 0, "the connection stays");
                rest.extend_from_slice(&bytes[..length]);
                let heard = now(Count::Wall);
                let whole = rest.len() / 4 * 4;
                let mut answers = Vec::new();
                for packet in rest[..whole].chunks(4) {
                    if packet[0] == 0x50 {
                        answers.extend([0x62, 2, packet[2], packet[3]]);
                        continue;
                    }
                    assert_eq!(packet[..2], [done, 2], "an acknowledgement");
                    // Acknowledgements come in the order of their messages.
                    let sent = Duration::from_nanos(sent_ns[waits.len()].load(Ordering::Acquire));
                    waits.push(heard.saturating_sub(sent));
                }
                rest.drain(..whole);
                acknowledged.store(waits.len(), Ordering::Release);
                if !answers.is_empty() {
                    writer.lock().expect("no holder panics").write_all(&answers).expect("a listener");
                }
            }
            waits
        });
        write(plan, &writer, &sent_ns, &acknowledged, begin);
        hears.join().expect("all acknowledgements")
    });
    let took = now(Count::Wall) - begin;
    let mut writer = writer.into_inner().expect("no holder has panicked");
    let _ = writer.write_all(&[0xE0, 0]);
    let _ = writer.shutdown(Shutdown::Write);
    // At QoS 0 nobody tells us more than the end.
    let _ = writer.read(&mut [0; 1]);
    (took, waits)
}

fn write(plan: Plan, writer: &Mutex<TcpStream>, sent_ns: &[AtomicU64], acknowledged: &AtomicUsize, begin: Duration) {
    let mut next = 0;
    let mut bytes = Vec::new();
    while next < plan.messages {
        let in_flight = if plan.qos == 0 { 0 } else { next - acknowledged.load(Ordering::Acquire) };
        let allowed =
            plan.rate.map_or(plan.messages, |rate| ((now(Count::Wall) - begin).as_secs_f64() * rate) as usize);
        let count = (WINDOW - in_flight).min(BATCH).min(allowed.min(plan.messages).saturating_sub(next));
        if count == 0 {
            std::thread::sleep(if plan.rate.is_some() { TICK } else { Duration::from_micros(50) });
            continue;
        }
        bytes.clear();
        let sent = now(Count::Wall).as_nanos() as u64;
        for seq in next..next + count {
            message(plan.qos, seq, &mut bytes);
            sent_ns[seq].store(sent, Ordering::Release);
        }
        writer.lock().expect("no holder panics").write_all(&bytes).expect("a listener");
        next += count;
    }
}

/// Writes a PUBLISH to `bench/one` of 100 bytes of JSON.
fn message(qos: u8, seq: usize, bytes: &mut Vec<u8>) {
    const TOPIC: &[u8] = b"\x00\x09bench/one";
    let id_bytes = if qos > 0 { 2 } else { 0 };
    let length = TOPIC.len() + id_bytes + PAYLOAD_BYTES;
    bytes.extend([0x30 | qos << 1, length as u8]);
    bytes.extend(TOPIC);
    if qos > 0 {
        bytes.extend(((seq % 65_535 + 1) as u16).to_be_bytes());
    }
    let begin = bytes.len();
    write!(bytes, "{{\"v\":{seq},\"pad\":\"").expect("room");
    bytes.resize(begin + PAYLOAD_BYTES - 2, b'x');
    bytes.extend(b"\"}");
}

fn connect(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a listener");
    stream.set_nodelay(true).expect("a socket");
    stream.write_all(b"\x10\x11\x00\x04MQTT\x04\x02\x00\x00\x00\x05bench").expect("a listener");
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).expect("CONNACK");
    assert_eq!(connack, [0x20, 2, 0, 0]);
    stream
}
