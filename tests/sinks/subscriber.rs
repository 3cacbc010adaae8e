//! The real `mosquitto_sub`, and what it has seen.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::DELIVERY_MAX;
use crate::harness::folder::Folder;
use crate::harness::program::{installed, signal};
use crate::harness::wait::{eventually, while_it_moves};

/// A subscriber with a session that the broker keeps. Dropping it kills it.
pub(crate) struct Subscriber {
    child: Child,
    seen: PathBuf,
}

impl Subscriber {
    /// Subscribes, and waits until the broker knows it.
    pub(crate) async fn start(folder: &Folder, port: u16, filter: &str) -> Subscriber {
        let seen = folder.join("seen");
        let out = std::fs::File::create(&seen).expect("a writable file");
        let errors = folder.join("subscriber.stderr");
        let child = Command::new("stdbuf")
            .arg("-oL")
            .arg(installed("mosquitto_sub"))
            .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-V", "311", "-q", "2", "-c", "-i", "subscriber"])
            // In version 5 the mosquitto_sub of many distributions ends with a protocol error when its window is full.
            .args(["-F", "%r %t %p", "-t", filter, "-t", "hello"])
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(std::fs::File::create(errors).expect("a writable file"))
            .spawn()
            .expect("stdbuf starts mosquitto_sub");
        let subscriber = Subscriber { child, seen };
        eventually("mosquitto_sub has subscribed", DELIVERY_MAX, async || {
            crate::harness::broker::mosquitto_pub(port, "5", 1, "hello", "you");
            (!std::fs::read_to_string(&subscriber.seen).ok()?.is_empty()).then_some(())
        })
        .await;
        subscriber
    }

    /// Lets it stand still, as a device that is overloaded.
    pub(crate) fn stand_still(&self) {
        signal("STOP", self.child.id());
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) {
        signal("CONT", self.child.id());
    }

    /// Returns what it has seen: retained or not, topic, payload.
    pub(crate) fn messages(&self) -> Vec<(bool, String, Value)> {
        let text = std::fs::read_to_string(&self.seen).expect("a readable file");
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let message = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let (retained, topic, payload) = (words.next()?, words.next()?, words.next()?);
            (topic != "hello").then(|| {
                let payload = serde_json::from_str(payload).unwrap_or_else(|error| panic!("{error}: {line}"));
                (retained == "1", topic.to_owned(), payload)
            })
        };
        whole.lines().filter_map(message).collect()
    }

    /// Returns the numbers it has seen, in the order they came.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.messages().iter().map(|(_, _, payload)| payload["n"].as_u64().expect("a number")).collect()
    }

    /// Waits until it has seen so many messages.
    pub(crate) async fn saw(&self, count: usize) {
        while_it_moves(&format!("the subscriber sees {count} messages"), DELIVERY_MAX, async || {
            let so_far = self.messages().len();
            if so_far >= count { Ok(()) } else { Err(so_far) }
        })
        .await;
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
