//! kill -9, twenty times under load: what was acknowledged is in the tables, once, and every window is right.
//!
//! Devices publish at QoS 1 and clients post over HTTP, each with a ledger that is on disk before the message leaves. The
//! program is killed at random instants, also while it starts and replays. In the end DuckDB, over the files that the
//! `deltalake` package lists, compares tables and ledgers:
//!
//! | source  | watermark delay | so |
//! |---------|-----------------|----|
//! | `mq`    | a day           | nothing is late: windows = GROUP BY over the raw table |
//! | `web`   | a day           | the same, with hopping windows |
//! | `hasty` | two seconds     | much is late: windows + late table = raw table, window by window |

mod power_loss;
mod verdict;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::harness::folder::Folder;
use crate::harness::http::Client;
use crate::harness::ledger::{Ledger, Reading};
use crate::harness::mqtt::Device;
use crate::harness::program::{Serve, free_port};

const KILLS: u32 = 20;
const DEVICES: usize = 4;
const CLIENTS: usize = 2;
/// Messages of a device that wait for their acknowledgement together.
const IN_FLIGHT: usize = 8;
/// Readings in one request, at most.
const BATCH_MAX: usize = 20;
/// 2020-01-01: long before any arrival, so that nothing is from the future.
const BEGIN_US: i64 = 1_577_836_800_000_000;
/// Event time between two readings of a sender.
const STEP_US: i64 = 137_000;
/// The last reading of each sender stands here: it closes all windows before it.
const SENTINEL_US: i64 = BEGIN_US + 10 * 86_400_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_kills_under_load_lose_nothing_double_nothing_and_every_window_is_right() {
    let seed = std::env::var("TIDEMILL_SEED").map_or(1, |seed| seed.parse().expect("TIDEMILL_SEED is a number"));
    eprintln!("kill9: TIDEMILL_SEED={seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let folder = Folder::new();
    let load = Load::begin(&folder, None, seed);

    for kill in 0..KILLS {
        let mut program = load.serve.start();
        // Two of three kills hit a program that serves; the others hit its start and its replay.
        if kill % 3 != 2 {
            program.ready().await;
        }
        tokio::time::sleep(Duration::from_millis(dice.random_range(10..1_500))).await;
        program.kill9();
    }

    let offences = load.end().await;
    assert!(offences.is_empty(), "TIDEMILL_SEED={seed}:\n{}", offences.join("\n"));
}

/// A program to be killed, and its senders.
struct Load {
    serve: Serve,
    ledgers: PathBuf,
    stop: Arc<AtomicBool>,
    running: tokio::task::JoinHandle<Sent>,
}

impl Load {
    /// Lets the senders begin; `data` is the data folder, if it is not to lie in the test's own.
    fn begin(folder: &Folder, data: Option<PathBuf>, seed: u64) -> Load {
        let mqtt = free_port();
        let mut serve = Serve::new(folder, &pipeline(mqtt));
        serve.data = data.unwrap_or(serve.data);
        let ledgers = folder.join("ledgers");
        std::fs::create_dir_all(&ledgers).expect("a writable folder");
        let stop = Arc::new(AtomicBool::new(false));
        let senders =
            Senders { mqtt, http: Client::new(serve.http), ledgers: ledgers.clone(), stop: Arc::clone(&stop), seed };
        Load { serve, ledgers, stop, running: tokio::spawn(senders.run()) }
    }

    /// Starts the program a last time, lets the senders end, and returns what is wrong with the tables.
    async fn end(self) -> Vec<String> {
        let program = self.serve.start_ready().await;
        self.stop.store(true, Ordering::SeqCst);
        let sent = self.running.await.expect("the senders end well");
        for (source, acknowledged) in ["mq", "web", "hasty"].into_iter().zip(sent.acknowledged) {
            assert!(acknowledged > 200, "{source}: only {acknowledged} readings got through, which proves little");
            program.http.settled(source, acknowledged).await;
        }
        program.stop().await;
        verdict::on(&self.serve.data.join("tables"), &self.ledgers)
    }
}

fn pipeline(mqtt: u16) -> String {
    let columns = "who TEXT NOT NULL, seq BIGINT NOT NULL, v BIGINT NOT NULL, ts TIMESTAMP NOT NULL";
    let source = |name: &str, delay: &str, options: &str| {
        format!("CREATE SOURCE {name} ({columns}, WATERMARK FOR ts AS ts - INTERVAL '{delay}') WITH ({options});\n")
    };
    let listener = format!("connector = 'mqtt_listener', bind = '127.0.0.1:{mqtt}', topic = 'load/{{device}}'");
    let mut sql = source("mq", "1 day", &listener)
        + &source("web", "1 day", "connector = 'http'")
        + &source("hasty", "2 seconds", "connector = 'http'");
    for (name, window) in [
        ("mq", "TUMBLE(mq, ts, INTERVAL '10 seconds')"),
        ("web", "HOP(web, ts, INTERVAL '5 seconds', INTERVAL '15 seconds')"),
        ("hasty", "TUMBLE(hasty, ts, INTERVAL '10 seconds')"),
    ] {
        sql += &format!("CREATE MATERIALIZED VIEW raw_{name} AS SELECT who, seq, v, ts FROM {name};\n");
        sql += &format!(
            "CREATE MATERIALIZED VIEW w_{name} AS SELECT who, window_start, window_end, count(*) AS n, sum(v) AS total, \
             min(v) AS least, max(v) AS greatest, avg(v) AS mean FROM {window} GROUP BY who, window_start, window_end;\n"
        );
    }
    sql
}

/// All that is on the other side of the wire.
struct Senders {
    mqtt: u16,
    http: Client,
    ledgers: PathBuf,
    stop: Arc<AtomicBool>,
    seed: u64,
}

/// Acknowledged readings of `mq`, `web` and `hasty`.
struct Sent {
    acknowledged: [u64; 3],
}

impl Senders {
    /// Sends until told to stop and all that is open is settled; then each sender sends its sentinel.
    async fn run(self) -> Sent {
        let senders = &self;
        let devices = join_all((0..DEVICES).map(|device| senders.device(device)));
        let web = join_all((0..CLIENTS).map(|client| senders.client("web", client)));
        let hasty = join_all((0..CLIENTS).map(|client| senders.client("hasty", client)));
        let (mut devices, mut web, mut hasty) = tokio::join!(devices, web, hasty);
        // Only when nobody sends any more may the watermark jump.
        for (device, ledger, stream, acknowledged) in &mut devices {
            let reading = stream.sentinel();
            ledger.sending(&[reading]);
            let again = device.send_until_acknowledged("load/sentinel", &reading.json(&stream.who)).await;
            ledger.acknowledged(&[reading], again);
            *acknowledged += 1;
        }
        for (source, clients) in [("web", &mut web), ("hasty", &mut hasty)] {
            for (ledger, stream, acknowledged) in clients {
                let reading = stream.sentinel();
                ledger.sending(&[reading]);
                self.http.ingest_durably(source, &reading.json(&stream.who)).await;
                ledger.acknowledged(&[reading], false);
                *acknowledged += 1;
            }
        }
        let clients = |clients: &[(Ledger, Stream, u64)]| clients.iter().map(|client| client.2).sum();
        Sent { acknowledged: [devices.iter().map(|device| device.3).sum(), clients(&web), clients(&hasty)] }
    }

    async fn device(&self, number: usize) -> (Device, Ledger, Stream, u64) {
        let who = format!("device-{number}");
        let mut ledger = Ledger::create(&self.ledgers.join(format!("mq-{number}.jsonl")), &who);
        let mut stream = Stream::new(&who, self.seed + number as u64, 3);
        let device = Device::connect(self.mqtt, &who);
        let topic = format!("load/{who}");
        let mut acknowledged = 0;
        while !self.stop.load(Ordering::SeqCst) {
            let readings: Vec<Reading> = (0..IN_FLIGHT).map(|_| stream.next()).collect();
            ledger.sending(&readings);
            let sends = readings.iter().map(|reading| {
                let (device, topic, payload) = (&device, &topic, reading.json(&who));
                async move { device.send_until_acknowledged(topic, &payload).await }
            });
            for (reading, again) in readings.iter().zip(join_all(sends).await) {
                ledger.acknowledged(&[*reading], again);
                acknowledged += 1;
            }
        }
        (device, ledger, stream, acknowledged)
    }

    async fn client(&self, source: &str, number: usize) -> (Ledger, Stream, u64) {
        let who = format!("client-{number}");
        let mut ledger = Ledger::create(&self.ledgers.join(format!("{source}-{number}.jsonl")), &who);
        // Up to eight seconds out of order, so that many readings miss a watermark that is two seconds behind.
        let mut stream = Stream::new(&who, self.seed + 100 + number as u64, 8);
        let mut acknowledged = 0;
        while !self.stop.load(Ordering::SeqCst) {
            let count = stream.dice.random_range(1..=BATCH_MAX);
            let readings: Vec<Reading> = (0..count).map(|_| stream.next()).collect();
            ledger.sending(&readings);
            let lines = readings.iter().map(|reading| reading.json(&who) + "\n").collect();
            match self.http.ingest(source, lines).await {
                Ok((200, _)) => {
                    ledger.acknowledged(&readings, false);
                    acknowledged += readings.len() as u64;
                }
                Ok((429 | 503, _)) => ledger.refused(&readings),
                Ok((status, body)) => panic!("{source}: {status} {body}"),
                // The program is down, or died before it could answer: nobody can know, and nobody asks again.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        (ledger, stream, acknowledged)
    }
}

/// The readings of one sender.
struct Stream {
    who: String,
    seq: i64,
    jitter_us: i64,
    dice: StdRng,
}

impl Stream {
    fn new(who: &str, seed: u64, jitter_secs: i64) -> Stream {
        Stream { who: who.to_owned(), seq: 0, jitter_us: jitter_secs * 1_000_000, dice: StdRng::seed_from_u64(seed) }
    }

    fn next(&mut self) -> Reading {
        let (seq, jitter_us) = (self.seq, self.dice.random_range(0..=self.jitter_us));
        self.seq += 1;
        let ts_us = BEGIN_US + 60_000_000 + seq * STEP_US - jitter_us;
        Reading { seq, v: self.dice.random_range(-100..=100), ts_us }
    }

    fn sentinel(&mut self) -> Reading {
        self.seq += 1;
        Reading { seq: self.seq - 1, v: 0, ts_us: SENTINEL_US }
    }
}
