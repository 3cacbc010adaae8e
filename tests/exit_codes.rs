//! Exit codes: 0 ok, 1 the user's input, 2 the environment; each with a sentence that says what and where.

use std::io::Write;
use std::net::TcpListener;
use std::process::Output;

use crate::harness::folder::Folder;
use crate::harness::program::{Serve, command, free_port, tidemill};

const PIPELINE: &str = "CREATE SOURCE readings (v BIGINT) WITH (connector = 'http');\n\
                        CREATE MATERIALIZED VIEW history AS SELECT v FROM readings;\n";

/// Runs `tidemill serve` on a pipeline that cannot start.
fn serve(folder: &Folder, sql: &str, data: &str, http: u16) -> (Option<i32>, String) {
    folder.write("pipeline.sql", sql);
    let mut serve = command(["serve", "--data", data, "pipeline.sql"], folder.path());
    ended(serve.env("TIDEMILL__SERVER__HTTP", format!("127.0.0.1:{http}")).output().expect("the program starts"))
}

fn ended(output: Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_port_in_use_is_exit_code_2_and_names_the_port() {
    let folder = Folder::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let (code, said) = serve(&folder, PIPELINE, "data", port);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains(&port.to_string()), "{said}");

    let listener = format!("connector = 'mqtt_listener', bind = '127.0.0.1:{port}', topic = 'a/{{b}}'");
    let (code, said) = serve(&folder, &PIPELINE.replace("connector = 'http'", &listener), "data", free_port());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains(&port.to_string()), "{said}");
}

#[test]
fn a_folder_that_cannot_be_written_is_exit_code_2_and_names_the_folder() {
    let folder = Folder::new();
    // Below a file nobody can make a folder, not even root.
    folder.write("file", "");
    let (code, said) = serve(&folder, PIPELINE, "file/data", free_port());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("file/data"), "{said}");
}

#[tokio::test]
async fn a_client_that_never_ends_its_request_does_not_change_how_the_program_stops() {
    let folder = Folder::new();
    let serve = Serve::new(&folder, PIPELINE);
    let program = serve.start_ready().await;
    let mut client = std::net::TcpStream::connect(("127.0.0.1", serve.http)).expect("a connection");
    let head = "POST /api/v1/ingest/readings HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{\"v\"";
    client.write_all(head.as_bytes()).expect("sent");
    program.http.ingest_durably("readings", "{\"v\": 1}").await;
    program.stop().await;
}

#[test]
fn wrong_sql_is_exit_code_1_for_serve_run_and_check() {
    let folder = Folder::new();
    let wrong = PIPELINE.replace("SELECT v", "SELECT w");
    let (code, said) = serve(&folder, &wrong, "data", free_port());
    assert_eq!(code, Some(1), "{said}");
    for name in ["run", "check"] {
        let (code, said) = ended(command([name, "pipeline.sql"], folder.path()).output().expect("the program starts"));
        assert_eq!(code, Some(1), "{name}: {said}");
    }
    assert!(!folder.join("data/log").exists(), "a pipeline that is wrong writes nothing");
}

#[test]
fn a_right_pipeline_checks_with_exit_code_0_and_writes_nothing() {
    let folder = Folder::new();
    folder.write("pipeline.sql", PIPELINE);
    let (code, said) = ended(command(["check", "pipeline.sql"], folder.path()).output().expect("the program starts"));
    assert_eq!(code, Some(0), "{said}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("a readable folder").collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_question_that_cannot_be_answered_is_exit_code_1_and_a_server_that_is_not_there_2() {
    let folder = Folder::new();
    let data = folder.path().to_str().expect("a plain name");
    let (code, said) = ended(tidemill(["sql", "--data", data, "SELECT nonsense FROM nowhere"]));
    assert_eq!(code, Some(1), "{said}");
    let server = format!("http://127.0.0.1:{}", free_port());
    let (code, said) = ended(tidemill(["sql", "--server", &server, "SELECT 1"]));
    assert_eq!(code, Some(2), "{said}");
}

#[test]
fn every_command_explains_itself() {
    for arguments in [
        vec!["--help"],
        vec!["--version"],
        vec!["serve", "--help"],
        vec!["run", "--help"],
        vec!["check", "--help"],
        vec!["sql", "--help"],
        vec!["inspect", "--help"],
        vec!["restore", "--help"],
        vec!["verify", "--help"],
        vec!["demo", "--help"],
    ] {
        let output = tidemill(&arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_run_that_made_values_null_ends_with_exit_code_0_and_says_how_many() {
    let folder = Folder::new();
    folder.write("readings.csv", "device;v\na;1,5\nb;2.5\nc;warm\n");
    let sql = PIPELINE.replace("v BIGINT", "device TEXT, v DOUBLE");
    folder.write("pipeline.sql", &sql.replace("'http'", "'file', path = 'readings.csv', delimiter = ';'"));
    let run = command(["run", "--data", "data", "pipeline.sql"], folder.path()).output().expect("the program starts");
    let (code, said) = ended(run);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("source readings  3 rows in, 0 dead, 2 values NULL for their type\n"), "{said}");
}
