//! MQTT at full speed, with acknowledgements that wait for `fdatasync`.
//!
//! - `drain`: a backlog at a real `mosquitto`, drained by the program and by `mosquitto_sub` in turn: messages a second, and
//!   CPU time for each message of both. The program decodes the messages, too, and keeps a table.
//! - `listener`: one publisher that writes in batches, straight to `mqtt_listener`.
//! - `latency`: the same at 70 % of what it can do: how long a message waits for its acknowledgement.
//!
//! `TIDEMILL_BENCH_PERCENT=1` takes a hundredth of the messages: to try the benchmark itself.

#![expect(clippy::disallowed_methods, reason = "a benchmark writes its own files")]

mod program;
mod publisher;
mod workload;

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use program::{Program, cpu_of_children_s, free_port, until};
use publisher::{Plan, publish};
use workload::{Count, now};

/// Messages of a backlog, by QoS.
const BACKLOGS: [(u8, usize); 3] = [(0, 300_000), (1, 60_000), (2, 60_000)];
/// Messages to the listener, by QoS.
const STREAMS: [(u8, usize); 2] = [(1, 1_000_000), (2, 500_000)];
const ROUNDS: usize = 5;
/// What a publisher has in flight at the listener.
const WINDOW: usize = 8_192;
/// What the broker lets each client have in flight; it throws a publisher out that exceeds it.
const BROKER_WINDOW: usize = 1_000;
/// What latency is measured at.
const SHARE_OF_CAPACITY: f64 = 0.7;
const LATENCY_TIME: Duration = Duration::from_secs(5);

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    println!("fdatasync of 4 kB takes {:.2} ms here", fdatasync_ms(folder.path()));
    if workload::wanted("drain") {
        for (qos, messages) in BACKLOGS {
            drain(qos, part(messages));
        }
    }
    if workload::wanted("listener") || workload::wanted("latency") {
        for (qos, messages) in STREAMS {
            listener(qos, part(messages));
        }
    }
}

fn part(messages: usize) -> usize {
    let percent = std::env::var("TIDEMILL_BENCH_PERCENT").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    (messages * percent / 100).max(100)
}

fn fdatasync_ms(folder: &Path) -> f64 {
    const SYNCS: u32 = 50;
    let mut file = std::fs::File::create(folder.join("sync")).expect("creates");
    let begin = now(Count::Wall);
    for _ in 0..SYNCS {
        file.write_all(&[b'x'; 4096]).expect("writes");
        file.sync_data().expect("syncs");
    }
    (now(Count::Wall) - begin).as_secs_f64() * 1e3 / f64::from(SYNCS)
}

/// What one drain took.
#[derive(Clone, Copy, Debug)]
struct Drained {
    messages_per_s: f64,
    cpu_us_each: f64,
}

impl Drained {
    fn new(messages: usize, wall: Duration, cpu_s: f64) -> Drained {
        Drained { messages_per_s: messages as f64 / wall.as_secs_f64(), cpu_us_each: cpu_s * 1e6 / messages as f64 }
    }
}

fn drain(qos: u8, messages: usize) {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let folder = tempfile::tempdir().expect("a folder");
        let broker = Broker::start(folder.path());
        let connector = format!(
            "connector = 'mqtt', url = 'mqtt://127.0.0.1:{}', topic = 'bench/{{device}}', qos = '{qos}', version = '3.1.1'",
            broker.port
        );
        let program = Program::new(folder.path(), &pipeline(&connector));
        // Both have a session before anything comes.
        program.start().stop();
        assert!(broker.subscriber(qos).arg("-E").status().expect("mosquitto_sub").success());
        publish(Plan { port: broker.port, qos: qos.max(1), messages, window: BROKER_WINDOW / 2, rate: None });
        theirs.push(drain_theirs(&broker, qos, messages));
        ours.push(drain_ours(&program, messages));
    }
    let rate = |all: &[Drained]| median(all.iter().map(|one| one.messages_per_s)) / 1e3;
    let cpu_us = |all: &[Drained]| median(all.iter().map(|one| one.cpu_us_each));
    println!("a backlog of {messages} messages at QoS {qos}");
    for (name, all) in [("tidemill", &ours), ("mosquitto_sub", &theirs)] {
        let (rate, cpu) = (rate(all), cpu_us(all));
        println!("  {name:<14} {rate:>8.1} k messages/s   {cpu:>6.2} us of CPU each");
    }
    let (faster, dearer) = (rate(&ours) / rate(&theirs), cpu_us(&ours) / cpu_us(&theirs));
    println!("  tidemill is {faster:.2}x as fast, for {dearer:.2}x the CPU");
}

fn drain_theirs(broker: &Broker, qos: u8, messages: usize) -> Drained {
    let cpu = cpu_of_children_s();
    let begin = now(Count::Wall);
    let status = broker.subscriber(qos).args(["-C", &messages.to_string()]).status().expect("mosquitto_sub");
    assert!(status.success(), "{status}");
    Drained::new(messages, now(Count::Wall) - begin, cpu_of_children_s() - cpu)
}

fn drain_ours(program: &Program, messages: usize) -> Drained {
    let running = program.start();
    // A start is not what is measured, nor what came in it.
    let before = running.rows();
    let (begin, cpu) = (now(Count::Wall), running.cpu_s());
    until("all messages are through", || running.rows() >= messages);
    let drained = Drained::new(messages.saturating_sub(before).max(1), now(Count::Wall) - begin, running.cpu_s() - cpu);
    running.stop();
    drained
}

fn listener(qos: u8, messages: usize) {
    let mut rates = Vec::new();
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let connector = format!("connector = 'mqtt_listener', bind = '127.0.0.1:{port}', topic = 'bench/{{device}}'");
    let running = Program::new(folder.path(), &pipeline(&connector)).start();
    for _ in 0..ROUNDS {
        let (took, _) = publish(Plan { port, qos, messages, window: WINDOW, rate: None });
        rates.push(messages as f64 / took.as_secs_f64());
    }
    let capacity = median(rates.into_iter());
    println!("the listener takes {:.1} k messages/s at QoS {qos} from one publisher", capacity / 1e3);
    if workload::wanted("latency") {
        let rate = capacity * SHARE_OF_CAPACITY;
        let messages = part((rate * LATENCY_TIME.as_secs_f64()) as usize);
        let (_, mut waits) = publish(Plan { port, qos, messages, window: WINDOW, rate: Some(rate) });
        waits.sort();
        let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!(
            "  at {:.1} k messages/s a message waits for its acknowledgement: p50 {:.1} ms, p99 {:.1} ms, at most {:.1} ms",
            rate / 1e3,
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
    running.stop();
}

fn pipeline(connector: &str) -> String {
    format!(
        "CREATE SOURCE bench (v BIGINT NOT NULL) WITH ({connector});\n\
         CREATE MATERIALIZED VIEW history AS SELECT v FROM bench;\n"
    )
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A real broker that queues whatever comes.
struct Broker {
    child: Child,
    port: u16,
}

impl Broker {
    fn start(folder: &Path) -> Broker {
        let port = free_port();
        let config = folder.join("mosquitto.conf");
        let lines = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\nmax_queued_messages 0\n\
             max_inflight_messages {BROKER_WINDOW}\nqueue_qos0_messages true\n"
        );
        std::fs::write(&config, lines).expect("writes");
        let child = Command::new("mosquitto")
            .arg("-c")
            .arg(&config)
            .env("PATH", path_with_daemons())
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("mosquitto is installed: run `./check tools`");
        until("mosquitto listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Broker { child, port }
    }

    /// A subscriber with a session that is kept.
    fn subscriber(&self, qos: u8) -> Command {
        let mut command = Command::new("mosquitto_sub");
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-V", "311", "-c", "-i", "yardstick"]);
        command.args(["-q", &qos.to_string(), "-t", "bench/+"]).stdout(Stdio::null());
        command
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn path_with_daemons() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/usr/local/sbin");
    path
}
