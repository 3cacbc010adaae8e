//! `tidemill sniff`: listens to a broker or a URL for some seconds, and prints a pipeline for what it has heard.
//!
//! ```text
//!   listen ──► sample ──► groups ──► topics ───┐
//!   a source   rows       the most   columns ──┼─► infer ──► pipeline: SQL, which is checked before it is printed
//!     ▲                   common     lateness ─┘
//!   fetched: http, ws: which connector, which format        samples, nested, table: what MQTT does not have
//! ```
//! Only `listen` and `fetched` know where messages come from.

mod columns;
mod fetched;
mod groups;
mod infer;
mod instants;
mod lateness;
mod listen;
mod nested;
mod pipeline;
mod sample;
mod samples;
mod table;
mod topics;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tidemill::assemble::{self, SqlFile};
use tidemill::{Error, Result};
use tidemill_connectors::mqtt::TopicPattern;

use self::infer::{Nothing, Sniffed};
use self::pipeline::text_in_sql;
use crate::cli::{OutputFormat, SniffArgs};
use crate::commands::answer;

/// Listens, and prints what it understood.
pub(crate) async fn sniff(args: SniffArgs, format: OutputFormat) -> Result<()> {
    // Before anything is said of the URL: a password must not be.
    if has_credentials(&args.url) {
        return Err(Error::Input(
            "credentials do not belong in the URL: use --username and --password-env or --password-file, or --token-env"
                .to_owned(),
        ));
    }
    if ["http://", "https://", "ws://", "wss://"].iter().any(|scheme| args.url.starts_with(scheme)) {
        let mut found = fetched::fetch(&args).await?;
        check(&found.sql)?;
        return match format {
            OutputFormat::Json => {
                found.facts["ok"] = json!(true);
                found.facts["sql"] = json!(found.sql);
                answer(format!("{:#}\n", found.facts).as_bytes())
            }
            OutputFormat::Table | OutputFormat::Csv => answer(found.sql.as_bytes()),
        };
    }
    let pattern = TopicPattern::parse(&args.pattern).map_err(|error| Error::Input(error.to_string()))?;
    let reach = Reach::of(&args);
    eprintln!("listening to {} on {} for {} s (Ctrl-C ends it earlier)", pattern.filter(), args.url, args.seconds);
    let listening = listen::listen(&reach.options, &args.pattern, Duration::from_secs(args.seconds)).await?;
    let sniffed = infer::infer(&listening, &args.pattern, reach.in_sql).map_err(|nothing| explain(&nothing, &args))?;
    let sql = checked(&sniffed)?;
    match format {
        OutputFormat::Json => answer(format!("{:#}\n", to_json(&sniffed, &sql)).as_bytes()),
        OutputFormat::Table | OutputFormat::Csv => answer(sql.as_bytes()),
    }
}

/// Whether a URL names a user: what stands before its host ends with `@`.
fn has_credentials(url: &str) -> bool {
    let behind_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    behind_scheme.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@'))
}

/// How the broker is reached: as options for us, and as they are written into the pipeline.
struct Reach {
    options: Vec<(String, String)>,
    in_sql: Vec<(&'static str, String, Option<String>)>,
}

impl Reach {
    fn of(args: &SniffArgs) -> Reach {
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        let given = [
            ("url", Some(args.url.clone())),
            ("tls.ca", args.ca.as_ref().map(path)),
            ("username", args.username.clone()),
            ("password_env", args.password_env.clone()),
            ("password_file", args.password_file.as_ref().map(path)),
            ("token_env", args.token_env.clone()),
        ];
        let given: Vec<(&str, String)> = given.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        let mut in_sql = vec![("connector", text_in_sql("mqtt"), None)];
        // A key with a dot has quotes. What is secret stays where it is: only its place is printed.
        let key_in_sql = |key| if key == "tls.ca" { "'tls.ca'" } else { key };
        in_sql.extend(given.iter().map(|(key, value)| (key_in_sql(*key), text_in_sql(value), None)));
        Reach { options: given.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(), in_sql }
    }
}

/// Writes the pipeline, and makes sure that `tidemill check` accepts it.
fn checked(sniffed: &Sniffed) -> Result<String> {
    let sql = sniffed.draft.to_sql();
    check(&sql)?;
    Ok(sql)
}

fn check(sql: &str) -> Result<()> {
    let file = SqlFile { name: "sniffed.sql".to_owned(), text: sql.to_owned() };
    let compiled = assemble::compile(&[file], &assemble::checking_context()?);
    let found = compiled.map(|pipeline| assemble::check_locations(&pipeline));
    match found {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Error::Internal(format!("what was inferred cannot be a pipeline: {error}\n{sql}"))),
        Err(mistakes) => {
            let said: String = mistakes.iter().map(|mistake| mistake.render(false)).collect();
            Err(Error::Internal(format!("what was inferred is no pipeline:\n{said}")))
        }
    }
}

/// Says why there is nothing to print, and what to look at.
fn explain(nothing: &Nothing, args: &SniffArgs) -> Error {
    let SniffArgs { url, pattern, seconds, .. } = args;
    match nothing {
        Nothing::Silence => Error::Environment(format!(
            "nothing was heard on {pattern} at {url} in {seconds} s\n  \
             - is anything published there? mosquitto_sub -t '#' -v shows all topics\n  \
             - does the pattern fit? + is one level, # at the end is all that follow; topics are told apart by capital letters\n  \
             - may this user read it? many brokers leave out silently what an ACL forbids\n  \
             - is it published rarely? --seconds 300 listens for five minutes"
        )),
        Nothing::Unreadable(kinds) => Error::Environment(format!(
            "what was heard on {pattern} holds no readings that tell their columns: JSON objects, such as {{\"temperature\": 4.2}}\n  \
             - {}\n  \
             - CSV, text, line protocol, Avro, Protobuf and others are read by a source that says format = '…'",
            kinds.iter().map(|kind| pipeline::in_comment(kind)).collect::<Vec<_>>().join("\n  - ")
        )),
    }
}

fn to_json(sniffed: &Sniffed, sql: &str) -> Value {
    let draft = &sniffed.draft;
    let columns = draft.columns.columns.iter().map(|column| {
        json!({"name": column.name, "type": column.data_type, "nullable": !column.is_never_null, "remark": column.remark})
    });
    let left = draft.columns.left.iter().map(|(name, why)| json!({"field": name, "why": why}));
    let lateness = sniffed.lateness.map(|lateness| {
        let s = |us: i64| us as f64 / 1e6;
        json!({
            "p50_seconds": s(lateness.p50_us), "p99_seconds": s(lateness.p99_us), "max_seconds": s(lateness.max_us),
            "ahead_seconds": s(lateness.ahead_us), "is_history": lateness.is_history,
        })
    });
    json!({
        "ok": true,
        "sql": sql,
        "notes": draft.notes,
        "messages": sniffed.live_count,
        "messages_per_second": sniffed.rate,
        "retained": sniffed.retained_count,
        "topics": sniffed.topic_count,
        "columns": columns.collect::<Vec<_>>(),
        "topic_columns": draft.levels,
        "not_columns": left.collect::<Vec<_>>(),
        "event_time": draft.columns.time,
        "lateness": lateness,
        "watermark_delay": draft.delay,
    })
}
