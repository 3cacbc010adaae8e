//! The load: all that is on the other side of the wire, and goes on whatever happens to the program.

mod naming;
mod stream;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::join_all;
use rand::Rng;
use tokio::task::JoinHandle;

use self::naming::Naming;
use self::stream::{EventClock, Stream};
use super::sources::{SOURCES, Source, Way};
use crate::harness::http::Client;
use crate::harness::ledger::Ledger;
use crate::harness::mqtt::Device;

const DEVICES: usize = 3;
/// Clients of each HTTP source: one for each way to name requests.
const CLIENTS: usize = 3;
/// Messages of a device that wait for their acknowledgement together, at most.
const IN_FLIGHT_MAX: usize = 400;
/// Readings in one request, at most.
const BATCH_MAX: usize = 800;
/// How long a phase of the load lasts, before the next begins.
const PHASE: Duration = Duration::from_millis(700);
/// Between two attempts to reach a program that is not there.
const RETRY: Duration = Duration::from_millis(20);

/// Running senders.
pub(super) struct Load {
    shared: Arc<Shared>,
    running: JoinHandle<()>,
}

/// What the senders share with who watches them.
#[derive(Default)]
pub(super) struct Shared {
    stop: AtomicBool,
    /// Acknowledged readings, by source.
    acknowledged: [AtomicU64; SOURCES.len()],
    /// When the program was started, until the first acknowledgement after it.
    started: Mutex<Option<Instant>>,
    first_acknowledgement_ms_max: AtomicU64,
    /// Requests that were told to have been stored before.
    repeats: AtomicU64,
}

impl Shared {
    /// Returns how many requests came again that were stored already.
    pub(super) fn repeats(&self) -> u64 {
        self.repeats.load(Ordering::Relaxed)
    }

    /// Says that the program is being started: the first acknowledgement after it is timed.
    pub(super) fn starting(&self) {
        *self.started.lock().expect("no holder panics") = Some(Instant::now());
    }

    /// Says that the program is dead.
    pub(super) fn died(&self) {
        *self.started.lock().expect("no holder panics") = None;
    }

    /// Returns the longest time from a start to its first acknowledgement.
    pub(super) fn first_acknowledgement_ms_max(&self) -> u64 {
        self.first_acknowledgement_ms_max.load(Ordering::Relaxed)
    }

    /// Returns how many readings were acknowledged, by source.
    pub(super) fn acknowledged(&self) -> [u64; SOURCES.len()] {
        std::array::from_fn(|at| self.acknowledged[at].load(Ordering::Relaxed))
    }

    fn acknowledge(&self, source: usize, count: usize) {
        self.acknowledged[source].fetch_add(count as u64, Ordering::Relaxed);
        if let Some(started) = self.started.lock().expect("no holder panics").take() {
            let ms = started.elapsed().as_millis() as u64;
            self.first_acknowledgement_ms_max.fetch_max(ms, Ordering::Relaxed);
        }
    }
}

impl Load {
    /// Lets the senders begin, at a program that may not be there yet.
    pub(super) fn begin(mqtt: u16, http: u16, ledgers: &Path, seed: u64) -> Load {
        std::fs::create_dir_all(ledgers).expect("a writable folder");
        let shared = Arc::new(Shared::default());
        let http = Client::new(http);
        let begin = Instant::now();
        let senders = Senders { mqtt, http, ledgers: ledgers.to_owned(), seed, begin, shared: Arc::clone(&shared) };
        Load { shared, running: tokio::spawn(senders.run()) }
    }

    /// Returns what the senders say of themselves.
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Returns whether all senders go on.
    pub(super) fn is_running(&self) -> bool {
        !self.running.is_finished()
    }

    /// Lets the senders end: what is open is settled, then each sends its sentinel.
    pub(super) async fn end(self) -> Arc<Shared> {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.running.await.expect("the senders end well");
        self.shared
    }
}

struct Senders {
    mqtt: u16,
    http: Client,
    ledgers: PathBuf,
    seed: u64,
    begin: Instant,
    shared: Arc<Shared>,
}

/// A sender that has ended, but for its sentinel.
struct Ended {
    source: usize,
    ledger: Ledger,
    stream: Stream,
    device: Option<Device>,
}

impl Senders {
    async fn run(self) {
        let clocks: [EventClock; SOURCES.len()] = std::array::from_fn(|_| EventClock::new());
        let mut devices = Vec::new();
        let mut clients = Vec::new();
        for (at, source) in SOURCES.iter().enumerate() {
            match source.way {
                Way::Mqtt => devices.extend((0..DEVICES).map(|number| self.device(at, number, clocks[at].clone()))),
                Way::Http => clients.extend((0..CLIENTS).map(|number| self.client(at, number, clocks[at].clone()))),
            }
        }
        let (devices, clients) = tokio::join!(join_all(devices), join_all(clients));
        // Only when nobody sends any more may the watermark jump.
        for mut ended in devices.into_iter().chain(clients) {
            let sentinel = [ended.stream.sentinel()];
            ended.ledger.sending(&sentinel);
            let json = sentinel[0].json(&ended.stream.who);
            let again = match &ended.device {
                Some(device) => device.send_until_acknowledged("load/sentinel", &json).await,
                None => {
                    self.http.ingest_durably(SOURCES[ended.source].name, &json).await;
                    false
                }
            };
            ended.ledger.acknowledged(&sentinel, again);
            self.shared.acknowledge(ended.source, 1);
        }
    }

    fn sender(&self, source: usize, number: usize, clock: EventClock) -> (Ledger, Stream) {
        let Source { name, .. } = SOURCES[source];
        let who = format!("{name}-{number}");
        let ledger = Ledger::create(&self.ledgers.join(format!("{who}.csv")), &who);
        let seed = self.seed.wrapping_mul(1_000).wrapping_add((source * 100 + number) as u64);
        (ledger, Stream::new(&who, seed, clock))
    }

    async fn device(&self, source: usize, number: usize, clock: EventClock) -> Ended {
        let (mut ledger, mut stream) = self.sender(source, number, clock);
        let device = Device::connect(self.mqtt, &stream.who);
        let topic = format!("load/{}", stream.who);
        while let Some(count) = self.next_batch(&mut stream, IN_FLIGHT_MAX).await {
            let readings = stream.batch(count);
            ledger.sending(&readings);
            let sends = readings.iter().map(|reading| {
                let (device, topic, payload) = (&device, &topic, reading.json(&stream.who));
                async move { device.send_until_acknowledged(topic, &payload).await }
            });
            let again = join_all(sends).await;
            for delivered_again in [false, true] {
                let answered = readings.iter().zip(&again).filter(|(_, again)| **again == delivered_again);
                let answered: Vec<_> = answered.map(|(reading, _)| *reading).collect();
                ledger.acknowledged(&answered, delivered_again);
            }
            self.shared.acknowledge(source, readings.len());
        }
        Ended { source, ledger, stream, device: Some(device) }
    }

    async fn client(&self, source: usize, number: usize, clock: EventClock) -> Ended {
        let (mut ledger, mut stream) = self.sender(source, number, clock);
        let mut naming = Naming::of(number, &stream.who);
        let path = format!("/api/v1/ingest/{}?on_error=dead_letter", SOURCES[source].name);
        while let Some(count) = self.next_batch(&mut stream, BATCH_MAX).await {
            let readings = stream.batch(count);
            ledger.sending(&readings);
            let lines: String = readings.iter().map(|reading| reading.json(&stream.who) + "\n").collect();
            if naming.is_named() {
                self.send_until_acknowledged(&path, &mut naming, lines).await;
                ledger.acknowledged(&readings, false);
                self.shared.acknowledge(source, readings.len());
                continue;
            }
            match self.http.post(&path, "application/x-ndjson", lines).await {
                Ok((200, _)) => {
                    ledger.acknowledged(&readings, false);
                    self.shared.acknowledge(source, readings.len());
                }
                Ok((429 | 503, _)) => {
                    ledger.refused(&readings);
                    tokio::time::sleep(RETRY).await;
                }
                // The log failed under it: nobody can know, and nobody asks again.
                Ok((500, body)) if body.contains("TM2114") => tokio::time::sleep(RETRY).await,
                Ok((status, body)) => panic!("{path}: {status} {body}"),
                // The program is down, or died before it could answer: nobody can know, and nobody asks again.
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
        Ended { source, ledger, stream, device: None }
    }

    /// Sends a request that says who it is, again and again, whatever became of it before: it is stored once.
    async fn send_until_acknowledged(&self, path: &str, naming: &mut Naming, lines: String) {
        let headers = naming.next();
        let mut headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        headers.push(("content-type", "application/x-ndjson"));
        loop {
            match self.http.post_with(path, &headers, lines.clone().into_bytes()).await {
                Ok((200, body)) => {
                    let is_repeat = body.contains("\"duplicate\":true");
                    self.shared.repeats.fetch_add(u64::from(is_repeat), Ordering::Relaxed);
                    return;
                }
                // Not stored, on its way, or nobody knows: to be asked again.
                Ok((429 | 503, _)) | Err(_) => {}
                Ok((409, body)) if body.contains("TM2118") => {}
                Ok((500, body)) if body.contains("TM2114") => {}
                Ok((status, body)) => panic!("{path}: {status} {body}"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Waits as the phase of the load says, and returns how many readings come next; `None` at the end.
    async fn next_batch(&self, stream: &mut Stream, max: usize) -> Option<usize> {
        let phase = self.begin.elapsed().as_millis() / PHASE.as_millis() + u128::from(self.seed);
        let (pause_ms, count) = match phase % 4 {
            0 => (100, stream.dice.random_range(1..=10)),
            1 => (10, stream.dice.random_range(1..=max / 4)),
            _ => (0, stream.dice.random_range(max / 2..=max)),
        };
        if pause_ms > 0 {
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
        (!self.shared.stop.load(Ordering::SeqCst)).then_some(count)
    }
}
