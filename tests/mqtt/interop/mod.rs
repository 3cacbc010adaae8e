//! The listener and the client library that most devices use, `paho-mqtt`: what its own interoperability suite asks of a
//! server, asked here. The checks are Python, one function each: `both.py` for both versions, `five.py` for MQTT 5.

use std::process::Command;

use crate::harness::folder::Folder;
use crate::harness::program::{Serve, free_port};
use crate::harness::python::{interpreter, script};

/// Fewer would mean that a list was lost.
const CHECKS_MIN: usize = 46;

#[tokio::test(flavor = "multi_thread")]
async fn paho_finds_at_the_listener_what_a_server_of_mqtt_has() {
    let (folder, port) = (Folder::new(), free_port());
    let rules = folder.write("rules", "topic write in/#\ntopic read in/#\ntopic readwrite $own/#\n");
    let sql = format!(
        "CREATE SOURCE readings (v BIGINT) WITH (connector = 'mqtt_listener', bind = '127.0.0.1:{port}', topic = '#', \
         acl_file = '{}');\n\
         CREATE MATERIALIZED VIEW history AS SELECT v FROM readings;\n",
        rules.display()
    );
    let program = Serve::new(&folder, &sql).start_ready().await;
    let mut checks = Command::new(interpreter());
    checks.arg(script("mqtt/interop/all.py")).arg(port.to_string()).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = tokio::task::spawn_blocking(move || checks.output().expect("Python starts")).await.expect("no panic");
    let (said, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complaints}");
    let held = said.lines().filter(|line| line.starts_with("held ")).count();
    assert!(held >= CHECKS_MIN, "only {held} checks:\n{said}");
    program.stop().await;
}
