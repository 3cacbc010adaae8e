//! A real broker, and real command line clients.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::folder::Folder;
use super::program::{free_port, installed, signal};
use super::wait::eventually;

/// A broker that starts, or that writes the state it has: a matter of milliseconds, beside other tests of seconds.
const BROKER_MAX: Duration = Duration::from_secs(60);
/// What a broker is told that keeps its state, and saves it after each change.
const SAVES: &str = "persistence true\nautosave_on_changes true\nautosave_interval 1\nmax_queued_messages 100000\n";

/// A `mosquitto` on a free port, with persistence. Dropping it kills it.
pub(crate) struct Broker {
    child: Option<Child>,
    config: PathBuf,
    log: PathBuf,
    /// Where it listens.
    pub(crate) port: u16,
}

impl Broker {
    /// Starts a broker that keeps its state in the folder, and saves it after each change.
    pub(crate) async fn start(folder: &Folder) -> Broker {
        Broker::with(folder, SAVES).await
    }

    /// Starts a broker that saves its state when it ends, and queues whatever comes; `window` messages may be in flight.
    pub(crate) async fn patient(folder: &Folder, window: usize) -> Broker {
        Broker::with(folder, &format!("persistence true\nmax_queued_messages 0\nmax_inflight_messages {window}\n"))
            .await
    }

    /// Starts a broker that keeps its state, with more lines of configuration; what they say again counts.
    pub(crate) async fn start_with(folder: &Folder, more: &str) -> Broker {
        Broker::with(folder, &format!("{SAVES}{more}")).await
    }

    /// Starts a broker with these lines in its configuration.
    pub(crate) async fn with(folder: &Folder, lines: &str) -> Broker {
        let port = free_port();
        let state = folder.join("broker");
        std::fs::create_dir_all(&state).expect("a writable folder");
        // Started as root, mosquitto becomes another user; it stays root here so that it may write its state.
        let config = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\npersistence_location {}/\n{lines}",
            state.display()
        );
        let config = folder.write("mosquitto.conf", &config);
        let mut broker = Broker { child: None, config, log: folder.join("mosquitto.log"), port };
        broker.resume().await;
        broker
    }

    /// Starts it again after [`Broker::stop`].
    pub(crate) async fn resume(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(&self.log).expect("a writable log");
        let child = Command::new(installed("mosquitto"))
            .arg("-c")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("mosquitto starts");
        self.child = Some(child);
        let address = ("127.0.0.1", self.port);
        let child = self.child.as_mut().expect("just started");
        eventually("mosquitto listens", BROKER_MAX, async || {
            assert!(child.try_wait().expect("a child to ask").is_none(), "mosquitto has ended: it says why below");
            tokio::net::TcpStream::connect(address).await.ok()
        })
        .await;
    }

    /// Stops it; it writes its state first.
    pub(crate) async fn stop(&mut self) {
        let mut child = self.child.take().expect("a running broker");
        signal("TERM", child.id());
        eventually("mosquitto ends", BROKER_MAX, async || child.try_wait().expect("a child to ask")).await;
    }

    /// Kills it; it has saved what it has saved.
    pub(crate) fn kill9(&mut self) {
        let mut child = self.child.take().expect("a running broker");
        child.kill().expect("a process to kill");
        child.wait().expect("a child to wait for");
    }

    /// Has it save its state now.
    pub(crate) async fn save(&self) {
        let database = self.config.with_file_name("broker/mosquitto.db");
        let modified = || std::fs::metadata(&database).and_then(|file| file.modified()).ok();
        let before = modified();
        signal("USR1", self.pid());
        eventually("mosquitto saves its state", BROKER_MAX, async || {
            let now = modified();
            (now.is_some() && now != before).then_some(())
        })
        .await;
    }

    /// Returns the id of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running broker").id()
    }

    /// Returns its URL.
    pub(crate) fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- mosquitto said:\n{}---", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// Versions of the protocol, as `mosquitto_pub -V` names them.
pub(crate) const VERSIONS: [&str; 2] = ["311", "5"];

/// Publishes one message with the real `mosquitto_pub`, and waits for its end: at QoS 1 that is the acknowledgement.
pub(crate) fn mosquitto_pub(port: u16, version: &str, qos: u8, topic: &str, message: &str) {
    let output = Command::new(installed("mosquitto_pub"))
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-V", version, "-q", &qos.to_string()])
        .args(["-t", topic, "-m", message])
        .output()
        .expect("mosquitto_pub starts");
    assert!(
        output.status.success(),
        "mosquitto_pub -V {version} -q {qos}: {} {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Publishes a message that the broker keeps for later subscribers.
pub(crate) fn mosquitto_pub_retained(port: u16, topic: &str, message: &str) {
    let status = Command::new(installed("mosquitto_pub"))
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1", "-r", "-t", topic, "-m", message])
        .status()
        .expect("mosquitto_pub starts");
    assert!(status.success(), "mosquitto_pub -r: {status}");
}

/// Publishes each line as a message over one connection (`mosquitto_pub -l`).
pub(crate) fn mosquitto_pub_lines(port: u16, version: &str, qos: u8, topic: &str, lines: &str) {
    use std::io::Write;
    let mut child = Command::new(installed("mosquitto_pub"))
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-V", version, "-q", &qos.to_string()])
        .args(["-t", topic, "-l"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("mosquitto_pub starts");
    child.stdin.take().expect("a piped stdin").write_all(lines.as_bytes()).expect("mosquitto_pub listens");
    let status = child.wait().expect("a child to wait for");
    assert!(status.success(), "mosquitto_pub -l -V {version} -q {qos}: {status}");
}

/// Devices that publish until they are dropped: two of them, some messages a second.
pub(crate) struct Devices {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Devices {
    /// Starts them.
    pub(crate) fn start(port: u16) -> Devices {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for number in 0.. {
                if stopping.load(Ordering::SeqCst) {
                    return;
                }
                let (device, ms) = (["f1", "f2"][number % 2], now_ms() - 300);
                let payload = format!(
                    "{{\"device\":\"{device}\",\"temperature\":{},\"door\":{},\"ts\":{ms}}}",
                    number % 30,
                    number % 3 == 0
                );
                mosquitto_pub(port, "5", 0, &format!("plant/lab/{device}/telemetry"), &payload);
                mosquitto_pub(port, "5", 0, "plant/lab/lamp", "on");
            }
        });
        Devices { stop, thread: Some(thread) }
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a device could not publish");
        }
    }
}

/// Milliseconds since 1970, as devices send them.
pub(crate) fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis()
}
