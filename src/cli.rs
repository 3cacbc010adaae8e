//! The command line: what can be typed, and what its help says.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::parse_workers;

const EXAMPLES: &str = "\
Start here:
  tidemill demo                                  simulated freezers over MQTT and HTTP; nothing to install
  tidemill sniff mqtt://HOST 'plant/#'           what does this broker publish? prints a pipeline for it
  tidemill check pipeline.sql                    is this pipeline right?
  tidemill serve --data ./data pipeline.sql      run it
  tidemill sql \"SELECT * FROM room_5s LIMIT 5\"   ask it
  tidemill verify pipeline.sql                   kill it again and again: is anything lost or doubled?

Exit codes: 0 ok, 1 your input, 2 the environment (a port, a disk), 3 our fault: please report it.";

const INSPECT_HELP: &str = "\
Examples:
  tidemill inspect log --data ./data
  tidemill inspect checkpoint                     all that are there, and which one a start would use
  tidemill inspect table room_1m --verify         reads every file and compares its checksum
  tidemill inspect table --format json

Takes no lock and changes nothing, so it may be asked while the program runs, and after it has died. What is damaged is
shown with its file and place; the exit code is then 2.";

const RESTORE_HELP: &str = "\
Examples:
  tidemill inspect checkpoint --data ./data       shows the epochs that one can go back to
  tidemill restore --data ./data --to 812

Stop the program first. Files with rows behind that epoch are taken out of every table, as one new version each; they stay
on disk for 24 hours, for readers of older versions. The next start continues from that checkpoint and replays the log
behind it, so nothing that was acknowledged is lost: the rows that were taken out are computed again, by a view that was
repaired or by another version of the program. Epoch 0 is the beginning of the log, as long as the log is whole.

If it dies on the way, the next start finishes it. An epoch that is not possible is refused, with those that are.";

const SNIFF_HELP: &str = "\
Examples:
  tidemill sniff mqtt://localhost 'plant/#' > plant.sql
  tidemill check plant.sql
  tidemill sniff mqtt://broker.example.com 'plant/{site}/+/telemetry' --seconds 60 --username me --password-env MQTT_PASSWORD
  tidemill sniff http://localhost:9100/metrics > node.sql
  tidemill sniff wss://feed.example.com --subscribe '{\"op\":\"subscribe\"}'

Prints a CREATE SOURCE with typed columns, topic levels that differ as columns, and a watermark by the lateness it has
measured; and a first view. What it saw stands in comments above: messages a second, retained copies (old readings that
the broker sends again), payloads that are no JSON objects, and messages with other fields than the most common ones.

It listens at QoS 0 and leaves no session at the broker. Numbers become DOUBLE; what was in every reading becomes NOT NULL.

A URL of HTTP is asked several times: what differs between the answers is what changes. JSON, CSV, Prometheus' text and event
streams are told apart by their look.
Exit code 2: nothing was heard, or no readings.";

const VERIFY_HELP: &str = "\
Examples:
  tidemill verify pipeline.sql
  tidemill verify --kills 100 --seconds 300 --rate 5000 pipeline.sql
  tidemill verify --seed 42 --keep pipeline.sql   the same rows and the same kills again

Your views run as they are, in a temporary folder, with short intervals. Each source is fed by this command, with rows that
fit its columns: mqtt and mqtt_listener by MQTT at QoS 1 on a free port, all others by HTTP. The program is killed with
SIGKILL at random instants and started again. At the end every row that was acknowledged must be there once, and each
view's table must equal the same SELECT over the raw rows. A message that was sent again because its acknowledgement was
lost may be there twice: MQTT QoS 1 says so, and it is counted by itself.

The summary goes to stderr, one line of JSON to stdout. Exit code 0: nothing is missing, doubled or wrong; 1: the pipeline
cannot be verified, and why; 2: the environment; 3: something is, which is our fault. The folder is kept to look at then.";

/// Stream processing for sensors: MQTT and HTTP in, windows in SQL, Parquet tables out, SQL over history.
#[derive(Debug, Parser)]
#[command(name = "tidemill", version, after_help = EXAMPLES, after_long_help = long_help())]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Read this configuration file instead of ./tidemill.toml
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// How answers on stdout look
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value_t = OutputFormat::Table)]
    pub(crate) format: OutputFormat,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How answers look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people
    Table,
    /// For programs
    Json,
    /// For spreadsheets
    Csv,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run pipeline files as a daemon, until Ctrl-C or SIGTERM
    #[command(after_help = "\
Examples:
  tidemill serve --data /var/lib/tidemill cold_chain.sql
  TIDEMILL__SERVER__HTTP=127.0.0.1:9433 tidemill serve cold_chain.sql

Tables are written to DIR/tables/<view>, unless the view says `location`. GET /readyz answers 200 once all sources run.
What was acknowledged is in DIR/log: after a stop, a kill -9 or a power loss, start it again and nothing is lost.")]
    Serve(ServeArgs),

    /// Run one pipeline file over bounded sources (files, `generate`) to its end
    #[command(after_help = "\
Example:
  tidemill run --data ./backfill backfill.sql

Doing it again continues where it stopped; a run that is complete changes nothing.")]
    Run(RunArgs),

    /// Listen to a broker or a URL for some seconds, and print a pipeline for what it says
    #[command(after_help = SNIFF_HELP)]
    Sniff(SniffArgs),

    /// Check pipeline files without running them: no network, nothing is written
    #[command(after_help = "\
Examples:
  tidemill check cold_chain.sql
  tidemill check --format json pipelines/*.sql
  tidemill check --data ./data cold_chain.sql    before a changed pipeline is started

Mistakes are shown with file, line, column and the nearest known name; the exit code is then 1. With --data it also says
which tables go on, which are filled again, and how far back the log reaches; a server may run meanwhile.")]
    Check(CheckArgs),

    /// Ask a question in SQL: of a running server, or with --data of the tables alone
    #[command(after_help = "\
Examples:
  tidemill sql \"SELECT device, max(avg_c) FROM room_5s GROUP BY device ORDER BY 2 DESC LIMIT 5\"
  tidemill sql --data ./data --format csv \"SELECT * FROM room_5s\" > room.csv
  tidemill sql - < question.sql")]
    Sql(SqlArgs),

    /// Say what is in a data folder: the ingest log, the checkpoints, or the tables
    #[command(after_help = INSPECT_HELP)]
    Inspect(InspectArgs),

    /// Go back to an older checkpoint: what the tables got after it is taken out, and computed again
    #[command(after_help = RESTORE_HELP)]
    Restore(RestoreArgs),

    /// Kill your pipeline again and again under load, and count what is lost or doubled
    #[command(after_help = VERIFY_HELP)]
    Verify(VerifyArgs),

    /// Make a line for the password file of an mqtt_listener; the password is read from the terminal or stdin
    #[command(after_help = "\
Examples:
  tidemill password press-7 >> passwords
  printf '%s\\n' \"$SECRET\" | tidemill password press-7 >> passwords

  CREATE SOURCE devices (...) WITH (connector = 'mqtt_listener', password_file = 'passwords', ...)

The line holds the name and an Argon2id hash of the password. A listener reads the file again when it changes.")]
    Password(PasswordArgs),

    /// Show what it does: 50 simulated freezers over MQTT and HTTP, one of them failing
    #[command(after_help = "\
Needs no broker, no database and no configuration; everything stays on this machine. It ends with Ctrl-C.
A port in use is replaced by the next free one.")]
    Demo(DemoArgs),
}

/// `--help` shows the configuration too; `-h` is for those in a hurry.
fn long_help() -> String {
    format!("{EXAMPLES}\n\n{}", crate::config::reference().trim_end())
}

#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// Pipeline files; their statements may stand in any order and see each other
    #[arg(required = true, value_name = "FILE.sql")]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) folder: FolderArgs,
    /// Where HTTP listens [default: server.http of the configuration, 127.0.0.1:8433]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) http: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// The pipeline file; all its sources must have an end
    #[arg(value_name = "FILE.sql")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) folder: FolderArgs,
}

#[derive(Args, Debug)]
pub(crate) struct SniffArgs {
    /// The broker, or what is to be fetched: http, https, ws, wss
    #[arg(value_name = "URL")]
    pub(crate) url: String,
    /// MQTT: what to listen to: + is one level of the topic, {name} one that becomes a column, # at the end all that follow
    #[arg(default_value = "#")]
    pub(crate) pattern: String,
    /// How long to listen
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) seconds: u64,
    /// Who we are
    #[arg(long, value_name = "NAME")]
    pub(crate) username: Option<String>,
    /// The environment variable with the password
    #[arg(long, value_name = "VARIABLE", requires = "username", conflicts_with = "password_file")]
    pub(crate) password_env: Option<String>,
    /// The file with the password
    #[arg(long, value_name = "FILE", requires = "username")]
    pub(crate) password_file: Option<PathBuf>,
    /// HTTP: the environment variable with a bearer token
    #[arg(long, value_name = "VARIABLE", conflicts_with = "username")]
    pub(crate) token_env: Option<String>,
    /// WebSocket: what to send after connecting
    #[arg(long, value_name = "TEXT")]
    pub(crate) subscribe: Option<String>,
    /// The authority that the server's certificate is from, as PEM; without it those that this machine trusts
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// Pipeline files, checked together
    #[arg(required = true, value_name = "FILE.sql")]
    pub(crate) files: Vec<PathBuf>,
    /// Say what a start would do with the tables in this data folder; nothing is locked or written
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct SqlArgs {
    /// The question; `-` or nothing reads it from stdin
    pub(crate) question: Option<String>,
    /// The server to ask [default: http://<server.http of the configuration>]
    #[arg(long, value_name = "URL", conflicts_with = "data")]
    pub(crate) server: Option<String>,
    /// Read the tables in this data folder; no server is needed
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// What to look at
    #[arg(value_enum)]
    pub(crate) part: InspectPart,
    /// A table's name, or a checkpoint's number; without it all are shown
    pub(crate) name: Option<String>,
    /// The data folder [default: data of the configuration, ./data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Read every file of a table and compare its checksum
    #[arg(long)]
    pub(crate) verify: bool,
}

/// A part of a data folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum InspectPart {
    /// The ingest log: segments, epochs, messages, how it ends
    Log,
    /// The checkpoints: what each holds, whether it is whole
    Checkpoint,
    /// The tables: versions, files, rows, what is left over
    Table,
}

#[derive(Args, Debug)]
pub(crate) struct RestoreArgs {
    /// The data folder [default: data of the configuration, ./data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// The epoch of the checkpoint to go back to
    #[arg(long, value_name = "EPOCH")]
    pub(crate) to: u64,
}

#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// The pipeline file
    #[arg(value_name = "FILE.sql")]
    pub(crate) file: PathBuf,
    /// How often the program is killed
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(crate) kills: u32,
    /// How long rows are sent
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub(crate) seconds: u64,
    /// Rows in a second, over all sources
    #[arg(long, value_name = "R", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) rate: u64,
    /// Decides the rows and the instants of the kills [default: another one each time]
    #[arg(long, value_name = "X")]
    pub(crate) seed: Option<u64>,
    /// Keep the folder also if all is well
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Args, Debug)]
pub(crate) struct PasswordArgs {
    /// The name that the client gives in its CONNECT
    #[arg(value_name = "USER")]
    pub(crate) user: String,
}

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Where log and tables go; begun afresh each time [default: ./demo-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Threads that compute: a number or auto
    #[arg(long, value_name = "N", value_parser = parse_workers_flag)]
    pub(crate) workers: Option<Workers>,
}

#[derive(Args, Debug)]
pub(crate) struct FolderArgs {
    /// The data folder: ingest log and tables [default: data of the configuration, ./data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Threads that compute: a number or auto [default: limits.workers of the configuration, auto]
    #[arg(long, value_name = "N", value_parser = parse_workers_flag)]
    pub(crate) workers: Option<Workers>,
}

/// A number of worker threads as a flag; `None` inside: one for each core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Workers(pub(crate) Option<usize>);

fn parse_workers_flag(text: &str) -> Result<Workers, String> {
    parse_workers(text).map(Workers).map_err(|expected| format!("not {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_before_or_after_the_command() {
        for line in ["tidemill --format json check a.sql b.sql", "tidemill check a.sql --format json b.sql"] {
            let cli = parse(line).expect(line);
            assert_eq!(cli.format, OutputFormat::Json);
            let Command::Check(check) = cli.command else { panic!("{line}") };
            assert_eq!(check.files, [PathBuf::from("a.sql"), PathBuf::from("b.sql")]);
        }
    }

    #[test]
    fn workers_are_a_number_or_auto() {
        for (text, expected) in [("4", Some(4)), ("auto", None)] {
            let cli = parse(&format!("tidemill serve --workers {text} a.sql")).expect(text);
            let Command::Serve(serve) = cli.command else { panic!("{text}") };
            assert_eq!(serve.folder.workers, Some(Workers(expected)));
        }
        for text in ["0", "x", "100000"] {
            assert!(parse(&format!("tidemill serve --workers {text} a.sql")).is_err(), "{text}");
        }
    }

    #[test]
    fn sql_asks_a_server_or_reads_a_folder_not_both() {
        assert!(parse("tidemill sql --data d --server http://h:1 q").is_err());
        let cli = parse("tidemill sql --data d -").expect("stdin");
        let Command::Sql(sql) = cli.command else { panic!("sql") };
        assert_eq!(sql.question.as_deref(), Some("-"));
    }

    #[test]
    fn a_pipeline_file_is_required() {
        for line in ["tidemill serve", "tidemill run", "tidemill check"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn every_command_explains_itself() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            assert!(command.get_after_help().is_some(), "{}", command.get_name());
        }
    }
}
