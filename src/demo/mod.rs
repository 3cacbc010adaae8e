//! `tidemill demo`: the whole program on one machine, with simulated freezers that connect to it for real.
//!
//! ```text
//!   freezers ─ MQTT ─► mqtt_listener ┐                          ┌─► tables in ./demo-data
//!            ─ HTTP ─► /api/v1/ingest┴─► log ─► 5 s windows ────┤
//!                                                               └─► the terminal
//! ```

mod devices;
mod freezer;
mod screen;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidemill::assemble::{self, BindFailure, Folder, Service, SqlFile};
use tidemill::{Error, Result};
use tidemill_engine::runtime::Live;
use tidemill_engine::source::Stop;
use tidemill_queries::server::{Bound, Exposure};

use crate::cli::DemoArgs;
use crate::commands::{STOP_MAX, explain, settings, stop_requested};
use crate::config::Config;
use devices::Devices;
use screen::{Closed, Screen};

const DEMO_SQL: &str = include_str!("demo.sql");
/// Where the listener of `demo.sql` is.
const MQTT_PORT: u16 = 1883;
/// The folder, unless `--data` names another.
const DEMO_DATA: &str = "./demo-data";
/// Says that a folder was made by the demo, and may be emptied by the next.
const MARKER: &str = "made-by-tidemill-demo";
/// The file that keeps the folder for one process: it must stay the same file.
const LOCK_FILE: &str = "lock";
/// Ports that are tried, one after the other.
const PORTS_MAX: u16 = 50;
/// Tables are committed this often, so that the questions that the demo suggests find something at once.
const COMMIT: Duration = Duration::from_secs(1);
/// Windows of one moment come in several batches; after so long without one they are shown.
const QUIET: Duration = Duration::from_millis(250);

/// Runs the demo until somebody asks it to stop.
pub(crate) async fn run(args: DemoArgs, config: Config) -> Result<()> {
    let mut screen = Screen::new();
    let data = args.data.unwrap_or_else(|| PathBuf::from(DEMO_DATA));
    let mut settings = settings(&config);
    if let Some(workers) = args.workers {
        settings.workers = Config { workers: workers.0, ..config.clone() }.worker_count();
    }
    settings.commit_interval = settings.commit_interval.min(COMMIT);

    let folder = fresh_folder(&data)?;
    let bound = bind_http(&config.server_http, &screen).await?;
    let mqtt = free_mqtt_port(&screen)?;
    let file =
        SqlFile { name: "demo.sql".into(), text: DEMO_SQL.replace(&listener(MQTT_PORT), &listener(mqtt.port())) };
    let context = assemble::context(folder.storage(), &settings)?;
    let pipeline = assemble::compile(&[file], &context).map_err(explain)?;
    let service = Service::start(folder, pipeline, &context.http, bound, &settings).await?;

    let http = service.address();
    let stop = Stop::new();
    let devices = Devices::start(mqtt, http, settings.clock.clone(), &stop);
    screen.line(&screen.bold("tidemill demo: 50 freezers, averaged over 5 seconds; freezer-17 is failing"));
    screen.line(&format!(
        "MQTT on {mqtt}, HTTP on http://{http}, tables in {}/tables; the first windows close in a few seconds\n",
        data.display()
    ));
    let suggestions = screen::suggestions(&screen::program_name(), mqtt, http, &Config::default().server_http, &data);

    let ended = tokio::select! {
        requested = stop_requested() => requested,
        ended = service.finished() => ended,
        () = show(&service, &mut screen, &suggestions) => Ok(()),
    };
    screen.line("\nstopping");
    stop.cancel();
    let sent = devices.sent.clone();
    devices.ended().await;
    let status = service.status().unwrap_or_default();
    let stopped = service.stop(STOP_MAX).await;
    ended.and(stopped)?;
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    screen.line(&format!(
        "the freezers sent {} messages: {} late, {} twice, {} no JSON, {} not taken",
        count(&sent.messages),
        count(&sent.late),
        count(&sent.twice),
        count(&sent.garbled),
        count(&sent.refused)
    ));
    for source in status.sources {
        screen.line(&format!(
            "{:<9} received {} messages: {} rows, {} dead letters",
            source.name, source.messages, source.rows, source.dead
        ));
    }
    let late: u64 = status.windows.iter().map(|window| window.late).sum();
    screen.line(&format!("{late} rows came after their window had closed: they are in room_5s$late and web_5s$late"));
    Ok(())
}

/// Shows windows as they close; with the first ones, what to try.
async fn show(service: &Service, screen: &mut Screen, suggestions: &[String]) {
    let mut suggestions = Some(suggestions);
    let (Some(mut room), Some(mut web)) = (service.subscribe("room_5s"), service.subscribe("web_5s")) else {
        return;
    };
    let mut closed = Closed::new();
    loop {
        tokio::select! {
            rows = room.next() => if !take(&mut closed, "room_5s", rows, screen) { return },
            rows = web.next() => if !take(&mut closed, "web_5s", rows, screen) { return },
            () = tokio::time::sleep(QUIET), if !closed.is_empty() => {
                screen.windows(&mut closed);
                if let Some(suggestions) = suggestions.take() {
                    try_this(screen, suggestions);
                }
            }
        }
    }
}

/// Takes what a subscription gave; says whether there can be more.
fn take(closed: &mut Closed, view: &'static str, rows: Option<Live>, screen: &Screen) -> bool {
    match rows {
        Some(Live::Rows(_, rows)) => screen::collect(closed, view, &rows),
        Some(Live::Missed(count)) => screen.line(&format!("(the terminal was too slow for {count} batches)")),
        None => return false,
    }
    true
}

fn try_this(screen: &Screen, suggestions: &[String]) {
    screen.line(&screen.bold("\nTry in another terminal, while this runs:"));
    for suggestion in suggestions {
        screen.line(&format!("  {suggestion}"));
    }
    screen.line(&screen.dim("Ctrl-C ends the demo.\n"));
}

/// Opens the demo's folder without what an earlier demo left in it. Removes nothing that the demo has not made.
fn fresh_folder(path: &Path) -> Result<Folder> {
    let problem = |action: &str, error: std::io::Error| {
        Error::Environment(format!("cannot {action} {}: {error}", path.display()))
    };
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries.collect::<Result<Vec<_>, _>>().map_err(|error| problem("list", error))?,
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(problem("list", error)),
    };
    let ours = entries.iter().any(|entry| entry.file_name() == MARKER);
    if !entries.is_empty() && !ours {
        return Err(Error::Input(format!(
            "{} has something in it that the demo has not made; choose another folder with --data",
            path.display()
        )));
    }
    // Locked first: what a demo that still runs is writing must stay.
    let folder = Folder::open(path)?;
    for entry in entries {
        let name = entry.file_name();
        if name == MARKER || name == LOCK_FILE {
            continue;
        }
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_dir { std::fs::remove_dir_all(entry.path()) } else { std::fs::remove_file(entry.path()) };
        removed.map_err(|error| problem("empty", error))?;
    }
    folder.storage().put(MARKER, b"tidemill demo made this folder, and empties it when it starts.\n")?;
    Ok(folder)
}

/// Takes the HTTP port, or the next free one.
async fn bind_http(address: &str, screen: &Screen) -> Result<Bound> {
    let (host, port) = address
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)))
        .ok_or_else(|| Error::Input(format!("server.http = {address:?} is no address")))?;
    for candidate in candidates(port) {
        match assemble::bind(&format!("{host}:{candidate}"), Exposure::LoopbackOnly).await {
            Ok(bound) => {
                say_if_moved(screen, "HTTP", port, bound.local_addr().port());
                return Ok(bound);
            }
            Err(BindFailure::InUse(_)) => {}
            Err(BindFailure::Other(error)) => return Err(error),
        }
    }
    Err(no_free_port("HTTP", port))
}

/// Finds a free port for the listener. It is bound again in a moment, by the source.
fn free_mqtt_port(screen: &Screen) -> Result<SocketAddr> {
    for candidate in candidates(MQTT_PORT) {
        let address = SocketAddr::from(([127, 0, 0, 1], candidate));
        match std::net::TcpListener::bind(address) {
            Ok(_) => {
                say_if_moved(screen, "MQTT", MQTT_PORT, candidate);
                return Ok(address);
            }
            Err(error) if matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::PermissionDenied) => {}
            Err(error) => return Err(Error::Environment(format!("cannot listen on {address}: {error}"))),
        }
    }
    Err(no_free_port("MQTT", MQTT_PORT))
}

/// The port, and those after it. Port 0 is any free one.
fn candidates(port: u16) -> impl Iterator<Item = u16> {
    (0..if port == 0 { 1 } else { PORTS_MAX }).filter_map(move |further| port.checked_add(further))
}

fn say_if_moved(screen: &Screen, what: &str, wanted: u16, got: u16) {
    if wanted != got && wanted != 0 {
        screen.line(&format!("port {wanted} is in use, so {what} is on {got}"));
    }
}

fn no_free_port(what: &str, first: u16) -> Error {
    Error::Environment(format!("no port from {first} on is free for {what}: {PORTS_MAX} were tried"))
}

/// How `demo.sql` says where its listener is.
fn listener(port: u16) -> String {
    format!("'127.0.0.1:{port}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demos_pipeline_is_right() {
        assert!(DEMO_SQL.contains(&listener(MQTT_PORT)), "the port can be replaced");
        let file = SqlFile { name: "demo.sql".into(), text: DEMO_SQL.into() };
        let context = assemble::checking_context().expect("a folder to be in");
        let pipeline = assemble::compile(&[file], &context)
            .map_err(|mistakes| mistakes.iter().map(|m| m.render(false)).collect::<String>())
            .unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let names: Vec<&str> = pipeline.views.iter().map(|view| view.name.as_str()).collect();
        assert_eq!(names, ["raw", "room_5s", "web_5s"]);
    }

    #[test]
    fn a_folder_that_the_demo_has_not_made_is_left_alone() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("mine");
        std::fs::create_dir_all(path.join("photos")).expect("folder");
        let Err(error) = fresh_folder(&path) else { panic!("took somebody's folder") };
        assert_eq!(error.exit_code(), 1);
        assert!(path.join("photos").is_dir());
    }

    #[test]
    fn the_demos_own_folder_is_emptied_unless_a_demo_runs_in_it() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("demo-data");
        let running = fresh_folder(&path).expect("made");
        running.storage().put("tables/room_5s/x", b"x").expect("written");
        assert!(fresh_folder(&path).is_err(), "another demo runs there");
        assert!(path.join("tables/room_5s/x").exists());
        drop(running);
        let again = fresh_folder(&path).expect("made again");
        assert!(!path.join("tables").exists());
        drop(again);
        fresh_folder(&path).expect("still the demo's own");
    }

    #[test]
    fn a_port_in_use_is_replaced_by_the_next() {
        assert_eq!(candidates(1883).take(3).collect::<Vec<_>>(), [1883, 1884, 1885]);
        assert_eq!(candidates(0).collect::<Vec<_>>(), [0]);
        assert_eq!(candidates(u16::MAX).collect::<Vec<_>>(), [u16::MAX]);
    }
}
