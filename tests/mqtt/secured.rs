//! The `mqtt` source and a real broker that asks who we are: TLS, client certificates, passwords; and several connections
//! to one broker.

use std::process::Command;
use std::time::Duration;

use crate::harness::broker::{Broker, mosquitto_pub, mosquitto_pub_lines};
use crate::harness::certificates::{Authority, Pair};
use crate::harness::folder::Folder;
use crate::harness::program::{Serve, free_port, installed, tidemill};
use crate::harness::wait::eventually;

const TOPIC: &str = "plant/lab/freezer/telemetry";
const COUNT: &str = "SELECT count(DISTINCT v) AS n FROM history";
const PASSWORD: &str = "correct horse battery";

/// How long a program may take to say what is wrong with a broker.
const SAID_MAX: Duration = Duration::from_secs(60);

/// Lines of readings `[from, to)`.
fn lines(from: i64, to: i64) -> String {
    (from..to).map(|v| format!("{{\"v\":{v}}}\n")).collect()
}

/// A broker that speaks TLS, and a second port of it, in the clear, for publishers of the test.
struct Secured {
    broker: Broker,
    plain: u16,
}

impl Secured {
    async fn start(folder: &Folder, pair: &Pair, lines: &str) -> Secured {
        let plain = free_port();
        let (certificate, key) = (pair.certificate.display(), pair.key.display());
        let config = format!("certfile {certificate}\nkeyfile {key}\n{lines}\nlistener {plain} 127.0.0.1\n");
        Secured { broker: Broker::with(folder, &config).await, plain }
    }
}

fn source(name: &str, url: &str, options: &str) -> String {
    format!(
        "CREATE SOURCE {name} (v BIGINT NOT NULL) WITH (connector = 'mqtt', url = '{url}', \
         topic = 'plant/{{site}}/{{device}}/telemetry'{options});\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_come_by_tls_to_who_shows_a_certificate_and_knows_the_password() {
    let folder = Folder::new();
    let authority = Authority::new(&folder.join("."), "own");
    let passwords = folder.join("passwords");
    let made = Command::new(installed("mosquitto_passwd"))
        .args(["-c", "-b", passwords.to_str().expect("a plain name"), "tide", PASSWORD])
        .output()
        .expect("mosquitto_passwd starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let ca = authority.certificate();
    let demands = format!("cafile {}\nrequire_certificate true\npassword_file {}", ca.display(), passwords.display());
    let secured = Secured::start(&folder, &authority.issue("127.0.0.1", 2100), &demands).await;
    let pair = authority.issue("engine", 2100);

    let options = format!(
        ", secret = 'broker', 'tls.ca' = '{}', tls.cert = '{}', 'tls.key' = '{}'",
        ca.display(),
        pair.certificate.display(),
        pair.key.display()
    );
    let url = format!("mqtts://127.0.0.1:{}", secured.broker.port);
    let sql = format!(
        "{}CREATE MATERIALIZED VIEW history AS SELECT site, v FROM readings;\n\
         CREATE SECRET broker (TYPE mqtt, USERNAME 'tide', PASSWORD ENV 'BROKER_PASSWORD');\n",
        source("readings", &url, &options)
    );
    let mut serve = Serve::new(&folder, &sql);
    serve.environment.push(("BROKER_PASSWORD".to_owned(), PASSWORD.to_owned()));
    let program = serve.start_ready().await;
    mosquitto_pub_lines(secured.plain, "5", 1, TOPIC, &lines(0, 500));
    program.http.query_until(COUNT, 500).await;
    program.kill9();
    mosquitto_pub_lines(secured.plain, "5", 1, TOPIC, &lines(500, 600));
    // A message that fills many records of TLS.
    let long = format!("{{\"v\":600,\"note\":\"{}\"}}", "x".repeat(100_000));
    mosquitto_pub_lines(secured.plain, "5", 1, TOPIC, &format!("{long}\n"));
    let program = serve.start_ready().await;
    program.http.query_until(COUNT, 601).await;
    assert!(!program.log().contains(PASSWORD), "a password in the log");
    program.stop().await;

    // With another password, and with none, the broker refuses, and the program says so.
    for password in [Some("wrong"), None] {
        let folder = Folder::new();
        let mut serve = Serve::new(&folder, &sql);
        serve.environment.extend(password.map(|password| ("BROKER_PASSWORD".to_owned(), password.to_owned())));
        let program = serve.start();
        let words = match password {
            Some(_) => "not authorized",
            None => "the environment variable BROKER_PASSWORD is not set",
        };
        eventually(words, SAID_MAX, async || program.log().contains(words).then_some(())).await;
        assert!(!program.log().contains("\"connected\""), "{}", program.log());
        program.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_verified_is_not_connected_and_the_log_says_what_to_do() {
    let folder = Folder::new();
    let (own, other) = (Authority::new(&folder.join("."), "own"), Authority::new(&folder.join("."), "other"));
    let good = Secured::start(&folder, &own.issue("127.0.0.1", 2100), "").await;
    let (old_folder, strict_folder) = (Folder::new(), Folder::new());
    let old = Secured::start(&old_folder, &own.issue("127.0.0.1", 2022), "").await;
    let demands = format!("cafile {}\nrequire_certificate true", own.certificate().display());
    let strict = Secured::start(&strict_folder, &own.issue("127.0.0.1", 2100), &demands).await;
    let foreign = other.issue("engine", 2100);

    let trusting = |authority: &Authority| format!(", 'tls.ca' = '{}'", authority.certificate().display());
    let named = format!("{}, 'tls.server_name' = 'elsewhere.plant'", trusting(&own));
    let shown = format!(
        "{}, 'tls.cert' = '{}', 'tls.key' = '{}'",
        trusting(&own),
        foreign.certificate.display(),
        foreign.key.display()
    );
    let tls = |port: u16| format!("mqtts://127.0.0.1:{port}");
    let cases = [
        ("unknown", tls(good.broker.port), trusting(&other), "issued by nobody we trust"),
        ("system", tls(good.broker.port), String::new(), "name its PEM file by 'tls.ca'"),
        ("named", tls(good.broker.port), named, "is for 127.0.0.1, not for elsewhere.plant"),
        ("expired", tls(old.broker.port), trusting(&own), "days ago: renew it"),
        ("shy", tls(strict.broker.port), trusting(&own), "demands a client certificate"),
        ("foreign", tls(strict.broker.port), shown, "does not accept our client certificate"),
        ("clear", tls(good.plain), trusting(&own), "during the TLS handshake: is TLS switched on at this port"),
        ("missing", tls(good.broker.port), ", 'tls.ca' = 'no_such.pem'".to_owned(), "no_such.pem for TLS"),
        ("plain", format!("mqtt://127.0.0.1:{}", good.broker.port), String::new(), "say mqtts:// in the url"),
    ];
    let mut sql: String = cases.iter().map(|(name, url, options, _)| source(name, url, options)).collect();
    sql.push_str("CREATE MATERIALIZED VIEW history AS SELECT v FROM unknown;\n");
    let program = Serve::new(&folder, &sql).start();
    for (name, _, _, words) in &cases {
        let said =
            || program.log().lines().any(|line| line.contains(&format!("source={name}")) && line.contains(words));
        let said_json =
            || program.log().lines().any(|line| line.contains(&format!("\"{name}\"")) && line.contains(words));
        eventually(&format!("{name}: {words}"), SAID_MAX, async || (said() || said_json()).then_some(())).await;
    }
    assert_ne!(program.http.get("/readyz").await.expect("an answer").0, 200);
    let log = program.log();
    let connected = log.lines().find(|line| line.contains("resumed") || line.contains("\"new\""));
    assert_eq!(connected, None, "nothing connects");
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_connections_share_the_readings_and_lose_none_through_a_kill() {
    let folder = Folder::new();
    let broker = Broker::start(&folder).await;
    let sql = format!(
        "{}CREATE MATERIALIZED VIEW history AS SELECT v FROM readings;\n",
        source("readings", &broker.url(), ", connections = 4, qos = 1")
    );
    let serve = Serve::new(&folder, &sql);
    let program = serve.start_ready().await;
    mosquitto_pub_lines(broker.port, "5", 1, TOPIC, &lines(0, 400));
    program.http.query_until(COUNT, 400).await;
    // Once each, as long as nobody dies.
    program.http.query_until("SELECT count(*) AS n FROM history", 400).await;
    program.kill9();
    // The broker gives each absent member its share to wait for it.
    mosquitto_pub_lines(broker.port, "311", 1, TOPIC, &lines(400, 800));
    let program = serve.start_ready().await;
    program.http.query_until(COUNT, 800).await;
    mosquitto_pub(broker.port, "5", 1, TOPIC, "{\"v\":800}");
    program.http.query_until(COUNT, 801).await;
    for member in 0..4 {
        assert!(serve.data.join(format!("sources/readings/subscribed-{member}")).exists());
    }
    program.stop().await;
}

#[test]
fn a_password_in_the_file_is_shown_in_no_mistake() {
    let folder = Folder::new();
    let sql = "CREATE SECRET broker (TYPE mqtt, PASSWORD 'hunter2', PASWORD 'hunter2');\n\
               CREATE SOURCE s (v BIGINT) WITH (connector = 'mqtt', url = 'mqtt://u:hunter2@h', topic = 'a');\n\
               CREATE SOURCE t (v BIGINT) WITH (connector = 'mqtt', url = 'mqtt://h', topic = 'a', password = 'hunter2');\n";
    let pipeline = folder.write("pipeline.sql", sql);
    let output = tidemill(["check", pipeline.to_str().expect("a plain name")]);
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("credentials do not belong in the URL") && said.contains("needs a username"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}
