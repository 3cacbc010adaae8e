//! MQTT byte by byte, played from a script: a broker or a client that does exactly what a test says, conforming or not.
//!
//! ```text
//!   < CONNECT v5 ...          the program must send this; "..." stands for further words
//!   > CONNACK present=1       this is sent to it
//!   > hex 62 02 00            so is this, byte by byte
//!   > cut 3 PUBREL 7          three bytes of it, and the connection is gone
//!   < cut 2 PUBREC 7          two bytes of it arrive here, and the connection is gone
//!   = 300 ms                  the program must be silent for so long
//!   > close                   the connection is gone
//!   < close                   the program must close
//! ```
//!
//! Lines are those of [`words`]. Pings and subscriptions are answered by the way, as every broker does, unless the script is
//! about them: see [`Link::strict`].

pub(crate) mod sender;
pub(crate) mod words;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use self::words::{Version, canonical, decode, encode, version_asked};

/// A debug build on a busy machine, with a sync in between.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(60);
/// A program that starts, or waits between two attempts to connect.
const CONNECT_MAX: Duration = Duration::from_secs(90);
/// What is awaited meanwhile has a limit of its own, and a shorter one.
const MEANWHILE_MAX: Duration = Duration::from_secs(3_600);
/// Lines of the transcript that a failed test shows.
const LAST_LINES: usize = 40;

/// A broker that waits for what the script says.
pub(crate) struct ScriptedBroker {
    listener: TcpListener,
    /// Where it listens, also while nobody accepts.
    pub(crate) port: u16,
}

impl ScriptedBroker {
    /// Begins to listen.
    pub(crate) async fn start() -> ScriptedBroker {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        ScriptedBroker { listener, port }
    }

    /// Returns its URL.
    pub(crate) fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Waits for the program to connect.
    pub(crate) async fn accept(&self) -> Link {
        let accepted = timeout(CONNECT_MAX, self.listener.accept()).await.expect("the program connects in time");
        Link::over(accepted.expect("a connection").0, None)
    }

    /// Waits for the program to connect, and answers its CONNECT: with or without the session of before.
    pub(crate) async fn session(&self, present: bool) -> Link {
        let mut link = self.accept_connect("CONNECT ...").await;
        link.send(&format!("CONNACK present={}", u8::from(present))).await;
        link
    }

    /// Waits for the program to connect, with such a CONNECT. A program that was killed, or has not waited, may have left
    /// connections before: they are over.
    pub(crate) async fn accept_connect(&self, connect: &str) -> Link {
        loop {
            let mut link = self.accept().await;
            if link.is_closed().await {
                continue;
            }
            link.expect(connect).await;
            if !link.is_closed().await {
                return link;
            }
        }
    }
}

/// One connection.
pub(crate) struct Link {
    stream: TcpStream,
    /// Known from CONNECT on.
    version: Option<Version>,
    received: Vec<u8>,
    /// What both sides said.
    transcript: VecDeque<String>,
    /// Whether pings and subscriptions are answered by the way.
    polite: bool,
    /// SUBSCRIBE packets so far.
    pub(crate) subscribes: u32,
    /// PINGREQ packets so far.
    pub(crate) pings: u32,
}

impl Link {
    fn over(stream: TcpStream, version: Option<Version>) -> Link {
        stream.set_nodelay(true).expect("a socket");
        let (received, transcript) = (Vec::new(), VecDeque::new());
        Link { stream, version, received, transcript, polite: true, subscribes: 0, pings: 0 }
    }

    /// Connects to a listener, as a client that speaks a version.
    pub(crate) async fn connect(port: u16, version: Version) -> Link {
        Link::over(TcpStream::connect(("127.0.0.1", port)).await.expect("a listener"), Some(version))
    }

    /// From now on pings and subscriptions are told to the script, which answers or does not.
    pub(crate) fn strict(&mut self) {
        self.polite = false;
    }

    /// Plays a script to its end.
    pub(crate) async fn play(&mut self, script: &str) {
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (sign, rest) = line.split_once(' ').unwrap_or_else(|| panic!("{line:?} is no line of a script"));
            match (sign, rest) {
                (">", "close") => self.cut().await,
                ("<", "close") => self.expect_close().await,
                (">", rest) => match cut_of(rest) {
                    Some((count, rest)) => {
                        self.send_bytes(&encode(self.version(), rest)[..count]).await;
                        self.cut().await;
                    }
                    None => self.send(rest).await,
                },
                ("<", rest) => match cut_of(rest) {
                    Some((count, rest)) => {
                        self.expect_bytes(&encode(self.version(), rest)[..count]).await;
                        self.cut().await;
                    }
                    None => self.expect(rest).await,
                },
                ("=", rest) => {
                    let ms = rest.strip_suffix(" ms").and_then(|ms| ms.parse().ok()).expect("milliseconds");
                    self.silent(Duration::from_millis(ms)).await;
                }
                _ => panic!("{line:?} is no line of a script"),
            }
        }
    }

    /// Sends a packet.
    pub(crate) async fn send(&mut self, line: &str) {
        self.note('>', line);
        self.send_bytes(&encode(self.version(), line)).await;
    }

    /// Sends packets in one write.
    pub(crate) async fn send_together(&mut self, lines: &[String]) {
        let version = self.version();
        self.note('>', &format!("{} packets from {}", lines.len(), lines.first().map_or("", String::as_str)));
        let bytes: Vec<u8> = lines.iter().flat_map(|line| encode(version, line)).collect();
        self.send_bytes(&bytes).await;
    }

    /// Sends bytes, whatever they are.
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        let sent = timeout(CONNECT_MAX, self.stream.write_all(bytes)).await;
        if !sent.is_ok_and(|sent| sent.is_ok()) {
            self.fail("the program does not take what is sent");
        }
    }

    /// Waits for a packet, and fails if another one comes.
    pub(crate) async fn expect(&mut self, line: &str) {
        let Some(read) = self.next(ANSWER_MAX).await else {
            self.fail(&format!("the program closed, or was silent: it should send {line}"));
        };
        let is_so = match line.strip_suffix("...") {
            // Each word that is named must be there.
            Some(words) => {
                let read: Vec<&str> = read.split(' ').collect();
                words.split_whitespace().all(|word| read.contains(&word))
            }
            None => read == canonical(self.version(), line),
        };
        if !is_so {
            self.fail(&format!("the program should send {line}"));
        }
    }

    /// Waits for several packets, in their order.
    pub(crate) async fn expect_all(&mut self, lines: impl IntoIterator<Item = String>) {
        for line in lines {
            self.expect(&line).await;
        }
    }

    /// Returns the next packet that is not answered by the way; `None` at the end of the connection, or when time is over.
    pub(crate) async fn next(&mut self, limit: Duration) -> Option<String> {
        let end = tokio::time::Instant::now() + limit;
        loop {
            if self.version.is_none() {
                self.version = version_asked(&self.received);
            }
            if let Some((line, length)) = self.version.and_then(|version| decode(version, &self.received)) {
                self.received.drain(..length);
                self.note('<', &line);
                self.count(&line);
                if self.polite && self.answer(&line).await {
                    continue;
                }
                return Some(line);
            }
            match tokio::time::timeout_at(end, self.stream.read_buf(&mut self.received)).await {
                Ok(Ok(1..)) => {}
                _ => return None,
            }
        }
    }

    fn count(&mut self, line: &str) {
        self.subscribes += u32::from(line.starts_with("SUBSCRIBE "));
        self.pings += u32::from(line == "PINGREQ");
    }

    /// Answers a ping, or a subscription as it is asked for; `false` if the line is something else.
    async fn answer(&mut self, line: &str) -> bool {
        let answer = if line == "PINGREQ" {
            "PINGRESP".to_owned()
        } else if let Some(rest) = line.strip_prefix("SUBSCRIBE ") {
            let mut words = rest.split(' ');
            let id = words.next().expect("an id");
            let options = words.filter_map(|word| u8::from_str_radix(word.rsplit_once("=0x")?.1, 16).ok());
            options.fold(format!("SUBACK {id}"), |line, options| format!("{line} {:#04x}", options & 3))
        } else {
            return false;
        };
        self.send(&answer).await;
        true
    }

    /// Fails if the program says anything but what is answered by the way.
    pub(crate) async fn silent(&mut self, duration: Duration) {
        let begin = tokio::time::Instant::now();
        let said = self.next(duration).await;
        if said.is_some() || begin.elapsed() < duration {
            self.fail(&format!("the program should be silent for {duration:?}, and keep the connection"));
        }
    }

    /// Waits for the program to close the connection; fails if it says something before.
    pub(crate) async fn expect_close(&mut self) {
        let begin = tokio::time::Instant::now();
        let said = self.next(ANSWER_MAX).await;
        if said.is_some() || begin.elapsed() >= ANSWER_MAX {
            self.fail("the program should close");
        }
    }

    /// Answers what is answered by the way while something else is awaited; fails if the program says anything else.
    pub(crate) async fn meanwhile<T>(&mut self, awaited: impl Future<Output = T>) -> T {
        tokio::select! {
            found = awaited => found,
            said = self.next(MEANWHILE_MAX) => {
                let said = said.unwrap_or_else(|| "nothing more, and closes".to_owned());
                self.fail(&format!("the program should wait, and it says {said}"))
            }
        }
    }

    /// Returns whether the program has closed the connection.
    pub(crate) async fn is_closed(&mut self) -> bool {
        let mut byte = [0; 1];
        !matches!(timeout(Duration::from_millis(1), self.stream.peek(&mut byte)).await, Err(_) | Ok(Ok(1..)))
    }

    async fn expect_bytes(&mut self, expected: &[u8]) {
        while self.received.len() < expected.len() {
            // What is answered by the way may come before.
            if self.version.and_then(|version| decode(version, &self.received)).is_some() {
                break;
            }
            match timeout(ANSWER_MAX, self.stream.read_buf(&mut self.received)).await {
                Ok(Ok(1..)) => {}
                _ => self.fail(&format!("the program closed, or was silent: it should send {expected:02x?}")),
            }
        }
        while !self.received.starts_with(expected) {
            let Some((line, length)) = self.version.and_then(|version| decode(version, &self.received)) else {
                self.fail(&format!("it should send {expected:02x?}, not {:02x?}", self.received));
            };
            self.received.drain(..length);
            self.note('<', &line);
            self.count(&line);
            if !self.answer(&line).await {
                self.fail(&format!("the program should send {expected:02x?}"));
            }
            while self.received.len() < expected.len() {
                match timeout(ANSWER_MAX, self.stream.read_buf(&mut self.received)).await {
                    Ok(Ok(1..)) => {}
                    _ => self.fail(&format!("the program closed, or was silent: it should send {expected:02x?}")),
                }
            }
        }
        self.note('<', &format!("{expected:02x?}"));
    }

    /// Breaks the connection: whatever the program has sent and we have not read is lost, and it is told so.
    pub(crate) async fn cut(&mut self) {
        self.note('>', "close");
        let _ = self.stream.shutdown().await;
        // To read on a bit lets the kernel send what it has, where to close at once would take it back.
        let _ = timeout(Duration::from_millis(50), self.stream.read_buf(&mut self.received)).await;
        self.received.clear();
    }

    fn version(&self) -> Version {
        self.version.expect("CONNECT comes first")
    }

    fn note(&mut self, sign: char, line: &str) {
        let short: String = line.chars().take(120).collect();
        self.transcript.push_back(format!("{sign} {short}"));
        if self.transcript.len() > LAST_LINES {
            self.transcript.pop_front();
        }
    }

    fn fail(&self, why: &str) -> ! {
        let lines: Vec<&str> = self.transcript.iter().map(String::as_str).collect();
        panic!("{why}\n--- what was said:\n{}\n---", lines.join("\n"))
    }
}

/// Reads `cut 3 PUBREL 7`.
fn cut_of(line: &str) -> Option<(usize, &str)> {
    let (count, rest) = line.strip_prefix("cut ")?.split_once(' ')?;
    Some((count.parse().ok()?, rest))
}
