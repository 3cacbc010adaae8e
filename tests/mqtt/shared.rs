//! Several connections that share a subscription at a real broker, and programs that share a client id by mistake.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::mosquitto::{NUMBERS, acknowledged, device, numbers, rows_and_numbers};
use crate::harness::broker::{Broker, mosquitto_pub};
use crate::harness::folder::Folder;
use crate::harness::program::{Serve, free_port};

#[tokio::test(flavor = "multi_thread")]
async fn four_connections_that_share_a_subscription_are_exactly_once_through_kills() {
    let folder = Folder::new();
    let broker = Broker::patient(&folder, 100).await;
    let serve = Serve::new(&folder, &numbers(&broker.url(), 2, ", connections = 4"));
    let program = serve.start_ready().await;
    let device = device(&broker, &folder, 2);
    let mut program = Some(program);
    for kill in 1..=5 {
        device.send_until(kill * 800);
        tokio::time::sleep(Duration::from_millis(37 * kill.unsigned_abs())).await;
        program.take().expect("a program").kill9();
        program = Some(serve.start_ready().await);
    }
    let program = program.expect("a program");
    acknowledged(&device, 4_000).await;
    program.http.query_until(NUMBERS, 4_000).await;
    let (_, text) = program.http.get("/api/v1/status").await.expect("a status");
    let status: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(status["sources"][0]["name"], "readings", "{text}");
    program.stop().await;
    assert_eq!(rows_and_numbers(&serve), (4_000, 4_000));
    device.end().await;
}

/// A way to a broker that some of its clients cannot take for a while. Dropping it closes the way.
struct Bridge {
    port: u16,
    /// The ends of client ids that are cut off.
    cut_off: Arc<Mutex<BTreeSet<&'static str>>>,
    accepting: JoinHandle<()>,
}

impl Bridge {
    async fn to(broker: u16) -> Bridge {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let cut_off: Arc<Mutex<BTreeSet<&'static str>>> = Arc::default();
        let shut = Arc::clone(&cut_off);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(cross(client, broker, Arc::clone(&shut)));
            }
        });
        Bridge { port, cut_off, accepting }
    }

    fn set_cut_off(&self, ids: &[&'static str]) {
        *self.cut_off.lock().expect("no holder panics") = ids.iter().copied().collect();
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Carries bytes both ways until an end closes, or the client is cut off.
async fn cross(mut client: TcpStream, broker: u16, cut_off: Arc<Mutex<BTreeSet<&'static str>>>) {
    let mut connect = vec![0; 4 << 10];
    let Ok(count @ 1..) = client.read(&mut connect).await else { return };
    connect.truncate(count);
    let is_cut_off = || {
        let ends = cut_off.lock().expect("no holder panics");
        ends.iter().any(|end| connect.windows(end.len()).any(|window| window == end.as_bytes()))
    };
    if is_cut_off() {
        return;
    }
    let mut server = TcpStream::connect(("127.0.0.1", broker)).await.expect("the broker");
    server.write_all(&connect).await.expect("the broker");
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        () = async {
            while !is_cut_off() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        } => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_four_connections_several_are_cut_off_for_a_while_and_what_waits_for_them_comes() {
    let folder = Folder::new();
    let broker = Broker::patient(&folder, 100).await;
    let bridge = Bridge::to(broker.port).await;
    let url = format!("mqtt://127.0.0.1:{}", bridge.port);
    let options = ", connections = 4, client_id = 'member'";
    let serve = Serve::new(&folder, &numbers(&url, 2, options));
    let mut program = serve.start_ready().await;
    let device = device(&broker, &folder, 2);
    let rounds: [&[&str]; 4] = [&["member-1"], &["member-0", "member-2"], &["member-1", "member-2", "member-3"], &[]];
    for (sent, cut_off) in (1..).map(|round| round * 600).zip(rounds) {
        bridge.set_cut_off(cut_off);
        device.send_until(sent);
        acknowledged(&device, sent - 100).await;
        if cut_off.len() == 2 {
            program.kill9();
            program = serve.start();
        }
    }
    acknowledged(&device, 2_400).await;
    program.ready().await;
    program.http.query_until(NUMBERS, 2_400).await;
    program.stop().await;
    assert_eq!(rows_and_numbers(&serve), (2_400, 2_400));
    device.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_programs_with_one_client_id_the_first_stops_and_says_so() {
    // The broker is a third program: Mosquitto 2.0.11 does not tell a client that it was taken over.
    let (folder, port) = (Folder::new(), free_port());
    let listener = format!(
        "CREATE SOURCE readings (v BIGINT NOT NULL) WITH (connector = 'mqtt_listener', bind = '127.0.0.1:{port}', \
         topic = 'plant/{{device}}');\n\
         CREATE MATERIALIZED VIEW history AS SELECT v FROM readings;\n"
    );
    let broker = Serve::new(&folder, &listener).start_ready().await;
    let reader = |folder: &Folder| {
        let sql = format!(
            "CREATE SOURCE copies (v BIGINT NOT NULL) WITH (connector = 'mqtt', url = 'mqtt://127.0.0.1:{port}', \
             topic = 'plant/{{device}}', qos = '2', client_id = 'one');\n\
             CREATE MATERIALIZED VIEW copied AS SELECT v FROM copies;\n"
        );
        Serve::new(folder, &sql)
    };
    let (first_folder, second_folder) = (Folder::new(), Folder::new());
    let first = reader(&first_folder).start_ready().await;
    mosquitto_pub(port, "5", 2, "plant/a", "{\"v\":1}");
    first.http.query_until("SELECT count(*) AS n FROM copied", 1).await;
    let second = reader(&second_folder).start_ready().await;
    let log = first_folder.join("program.stderr");
    let status = first.ended(Duration::from_secs(60)).await;
    assert_eq!(status.code(), Some(2));
    let said = std::fs::read_to_string(log).expect("a readable log");
    assert!(said.contains("two programs use the client id \"one\""), "{said}");
    // The second has the session, and what comes.
    mosquitto_pub(port, "5", 2, "plant/a", "{\"v\":2}");
    second.http.query_until("SELECT count(*) AS n FROM copied WHERE v = 2", 1).await;
    second.stop().await;
    broker.stop().await;
}
