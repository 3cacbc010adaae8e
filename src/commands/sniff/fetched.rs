//! What is fetched: a URL is looked at once, to find out how to read it, and then the source itself runs for a while.
//!
//! ```text
//!   ws, wss ─────────────────────────────────────────────► websocket ─┐
//!   http, https ─► look ─┬─ text/event-stream ───────────► sse ───────┤ JSON: columns, lateness ─► source and view
//!                        ├─ looks like Prometheus' text ─► http_poll ─┼ samples ─────────────────► `samples.rs`
//!                        ├─ looks like JSON ─────────────► http_poll ─┤
//!                        └─ has a line of names ─────────► http_poll ─┘ CSV: its rows as JSON
//! ```
//!
//! Polls are made several times apart: what differs between them is what changes.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tidemill::assemble::checking_context;
use tidemill::{Error, Result};
use tidemill_connectors::Options;
use tidemill_connectors::pull::poll::Wanted;
use tidemill_connectors::pull::{self, Look, LookError};

use super::columns;
use super::groups;
use super::infer::{READINGS_FEW, describe_lateness, describe_unreadable, rounded, seconds};
use super::lateness::Lateness;
use super::listen::listen_to;
use super::pipeline::{Draft, text_in_sql};
use super::sample::{Heard, Listening};
use super::table::csv_as_json;
use super::{Reach, nested, samples};
use crate::cli::SniffArgs;
use crate::commands::words::count;

/// Polls while we listen.
const POLLS: u32 = 3;
/// The least time between two of them.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// What was understood.
#[derive(Debug)]
pub(super) struct Fetched {
    /// The pipeline.
    pub(super) sql: String,
    /// The same for programs, but for its SQL.
    pub(super) facts: Value,
}

/// How a URL is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Websocket,
    Stream,
    Json,
    Csv { delimiter: u8 },
    Prometheus,
}

impl Kind {
    fn connector(self) -> &'static str {
        match self {
            Kind::Websocket => "websocket",
            Kind::Stream => "sse",
            Kind::Json | Kind::Csv { .. } | Kind::Prometheus => "http_poll",
        }
    }

    /// Tells what an answer is by what it looks like; the type that the server gives it is often wrong, or none.
    fn of(content_type: &str, body: &[u8]) -> Option<Kind> {
        let text = std::str::from_utf8(body).ok()?.trim_start_matches('\u{feff}').trim();
        if text.starts_with(['{', '[']) {
            return Some(Kind::Json);
        }
        if content_type == "application/openmetrics-text" || samples::looks_like(text) {
            return Some(Kind::Prometheus);
        }
        let header = text.lines().next().filter(|line| !line.starts_with('<'))?;
        let delimiter =
            [b',', b';', b'\t'].into_iter().max_by_key(|delimiter| header.split(char::from(*delimiter)).count())?;
        let has_columns = header.contains(char::from(delimiter)) && text.lines().nth(1).is_some();
        (has_columns || content_type == "text/csv").then_some(Kind::Csv { delimiter })
    }
}

/// Fetches for so long, and understands it.
pub(super) async fn fetch(args: &SniffArgs) -> Result<Fetched> {
    let context = checking_context()?;
    let reach = Reach::of(args);
    let options = |more: &[(&str, String)]| {
        let more = more.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
        Options::new(reach.options.iter().cloned().chain(more))
    };
    let refused = |error: tidemill_connectors::OptionError| Error::Input(error.to_string());
    let duration = Duration::from_secs(args.seconds);
    let is_websocket = args.url.starts_with("ws://") || args.url.starts_with("wss://");
    let kind = match is_websocket {
        true => Kind::Websocket,
        false => match pull::look(options(&[]), &context).await {
            Ok(Look::Stream) => Kind::Stream,
            Ok(Look::Answer { content_type, body }) => {
                Kind::of(&content_type, &body).ok_or_else(|| unreadable(&args.url, &content_type, &body))?
            }
            Err(LookError::Option(error)) => return Err(refused(error)),
            Err(error @ LookError::NoAnswer(_)) => {
                return Err(Error::Environment(format!("{} cannot be read: {error}", args.url)));
            }
        },
    };
    eprintln!("listening to {} for {} s (Ctrl-C ends it earlier)", args.url, args.seconds);
    let listening = match kind {
        Kind::Websocket => {
            let subscribe = args.subscribe.iter().map(|text| ("subscribe", text.clone())).collect::<Vec<_>>();
            let source = pull::websocket("sniff", &mut options(&subscribe), &context).map_err(refused)?;
            listen_to(source, duration).await?
        }
        Kind::Stream => {
            let source = pull::sse("sniff", &mut options(&[]), &context).map_err(refused)?;
            listen_to(source, duration).await?
        }
        Kind::Json | Kind::Csv { .. } | Kind::Prometheus => {
            let interval = (duration / POLLS).max(INTERVAL_MIN);
            let interval = [("interval", format!("{} ms", interval.as_millis()))];
            let source = pull::http_poll("sniff", &mut options(&interval), Wanted::Text, &context).map_err(refused)?;
            listen_to(source, duration).await?
        }
    };
    if listening.heard.is_empty() {
        return Err(Error::Environment(format!(
            "nothing came from {} in {} s\n  - is there something to send? --seconds 300 listens for five minutes\n  \
             - does it wait for a message first? --subscribe '{{…}}' sends one to a WebSocket",
            args.url, args.seconds
        )));
    }
    understand(kind, listening, args, reach.in_sql)
}

fn unreadable(url: &str, content_type: &str, body: &[u8]) -> Error {
    let shown: String = String::from_utf8_lossy(body).chars().take(60).collect();
    Error::Environment(format!(
        "what {url} answers ({content_type}) is nothing that a source reads: JSON, CSV with a line of names, Prometheus' text, \
         or an event stream\n  - it begins with {shown:?}"
    ))
}

type Written = Vec<(&'static str, String, Option<String>)>;

fn understand(kind: Kind, mut listening: Listening, args: &SniffArgs, in_sql: Written) -> Result<Fetched> {
    let mut options: Written = vec![("connector", text_in_sql(kind.connector()), None)];
    options.extend(in_sql.into_iter().skip(1));
    if let Some(text) = args.subscribe.as_ref().filter(|_| kind == Kind::Websocket) {
        options.push(("subscribe", text_in_sql(text), None));
    }
    let answers: Vec<&[u8]> = listening.heard.iter().map(|heard| &heard.message.payload[..]).collect();
    let is_polled = kind.connector() == "http_poll";
    let mut notes = vec![asked(&listening, is_polled, &answers, &args.url)];
    if kind == Kind::Prometheus {
        options.push(("format", text_in_sql("prometheus"), None));
        options.push(("interval", text_in_sql("10 seconds"), None));
        return Ok(samples::understand(&listening, notes, &options));
    }
    let is_same = answers.windows(2).all(|pair| pair[0] == pair[1]);
    if is_polled {
        options.push(("interval", text_in_sql("10 seconds"), None));
        if is_same && answers.len() > 1 {
            let remark = "it was the same each time".to_owned();
            options.push(("emit", text_in_sql("changed"), Some(remark)));
        }
    }
    match kind {
        Kind::Csv { delimiter } => {
            options.push(("format", text_in_sql("csv"), None));
            if delimiter != b',' {
                let letter = if delimiter == b'\t' { "\\t".to_owned() } else { char::from(delimiter).to_string() };
                options.push(("delimiter", text_in_sql(&letter), None));
            }
            for heard in &mut listening.heard {
                heard.message.payload = csv_as_json(&heard.message.payload, delimiter).into();
            }
        }
        _ => {
            if let Some(path) = nested::rows_at(listening.heard.iter().map(|heard| &heard.message.payload[..])) {
                for heard in &mut listening.heard {
                    heard.message.payload = nested::part(&heard.message.payload, &path).into();
                }
                options.push(("rows_at", text_in_sql(&path.join(".")), None));
            }
        }
    }
    // What all messages of a source have in common would be found in their topics.
    for heard in &mut listening.heard {
        heard.message.topic = Default::default();
    }
    draft(&listening, &mut notes, options, args)
}

/// Says how often we asked, or what came.
fn asked(listening: &Listening, is_polled: bool, answers: &[&[u8]], url: &str) -> String {
    let took = seconds(listening.duration_us);
    match is_polled {
        true => {
            let different: BTreeSet<&&[u8]> = answers.iter().collect();
            format!("Asked {url} {} in {took}: {} of the answers differ.", times(answers.len()), different.len())
        }
        false => {
            let rate = rounded(answers.len() as f64 * 1e6 / listening.duration_us.max(1) as f64);
            format!("Heard in {took} from {url}: {} ({rate} a second).", count(answers.len(), "message"))
        }
    }
}

fn times(count: usize) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

fn draft(listening: &Listening, notes: &mut Vec<String>, options: Written, args: &SniffArgs) -> Result<Fetched> {
    let all: Vec<&Heard> = listening.heard.iter().collect();
    let (groups, unreadable) = groups::of(all.iter().copied());
    let Some((group, others)) = groups.split_first() else {
        let kinds: Vec<String> =
            describe_unreadable(&unreadable).iter().map(|kind| super::pipeline::in_comment(kind)).collect();
        return Err(Error::Environment(format!(
            "what came from {} holds no readings: a source reads JSON objects, such as {{\"temperature\": 4.2}}\n  - {}",
            args.url,
            kinds.join("\n  - ")
        )));
    };
    let columns = columns::infer(group, &[]);
    let lateness = Lateness::measure(&columns.times);
    if columns.row_count < READINGS_FEW {
        let readings = count(columns.row_count, "reading");
        notes.push(format!("Only {readings}: look at types and NOT NULL before you rely on them."));
    }
    notes.extend(describe_lateness(columns.time.as_deref(), lateness));
    for group in others {
        let fields: Vec<&str> = group.fields.iter().take(5).map(String::as_str).collect();
        let messages = count(group.messages.len(), "message");
        notes.push(format!("Not in this source: {messages} with other fields ({}).", fields.join(", ")));
    }
    notes.extend(describe_unreadable(&unreadable).into_iter().map(|note| format!("Not in this source: {note}.")));
    let delay = if columns.time.is_none() { "1 second" } else { lateness.map_or("10 seconds", |known| known.delay) };
    let (rows, time) = (columns.row_count, columns.time.clone());
    let facts = json!({
        "messages": listening.heard.len(), "rows": rows, "event_time": time, "watermark_delay": delay, "notes": notes,
        "columns": columns.columns.iter().map(|column| {
            json!({"name": column.name, "type": column.data_type, "nullable": !column.is_never_null, "remark": column.remark})
        }).collect::<Vec<_>>(),
    });
    let draft = Draft { notes: std::mem::take(notes), columns, levels: Vec::new(), delay, options };
    Ok(Fetched { sql: draft.to_sql(), facts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_known_by_its_look() {
        for (content_type, body, expected) in [
            ("text/html", " [{\"a\":1}]", Some(Kind::Json)),
            ("text/plain", "# HELP up x\nup 1\n", Some(Kind::Prometheus)),
            ("", "node_load1{cpu=\"a,b\"} 0.21\n", Some(Kind::Prometheus)),
            ("application/openmetrics-text", "x_total 1\n# EOF\n", Some(Kind::Prometheus)),
            ("", "a,b\n1,2\n", Some(Kind::Csv { delimiter: b',' })),
            ("text/plain", "a;b,c;d\n1;2;3\n", Some(Kind::Csv { delimiter: b';' })),
            ("text/csv", "a\n1\n", Some(Kind::Csv { delimiter: b'\t' })),
            ("text/html", "<!doctype html>, x\n<p>", None),
            ("text/plain", "hello\nworld", None),
            ("", "", None),
        ] {
            assert_eq!(Kind::of(content_type, body.as_bytes()), expected, "{body}");
        }
        assert_eq!(Kind::of("", &[0xff, b'{']), None);
    }
}
