//! `CREATE SINK … WITH (connector = 'http')`: rows leave as requests, in the order of the outbox.
//!
//! ```text
//!   outbox ─► claim rows [first, end) ─► requests ─► 2xx ────────────► confirm, and the next claim
//!              durable: the same pieces   one, or     4xx of its own ─► kept in sinks/<name>/refused/, or as on_refused says
//!              after a crash              one for     everything else ─► the breaker waits, and the same request again
//!                                         each url
//! ```
//! A request has an `Idempotency-Key` that no other rows ever have, and the same one when it is repeated, by whichever
//! process: so a receiver that remembers keys takes each row once. Which answers count as what is decided in `judge.rs`.

mod courier;
mod judge;
mod refused;
mod url;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use hyper::Method;

use self::courier::{HttpCourier, Posting};
use self::judge::OnRefused;
use self::url::UrlTemplate;
use crate::Context;
use crate::format::JsonRows;
use crate::options::{OptionError, Options};
use crate::outbox::{Courier, Destination, Encoded, Encoder};
use crate::outgoing::{Endpoint, parse_url};

/// Rows of one request, unless the options say otherwise.
const BATCH_ROWS_DEFAULT: usize = 500;
/// And at most: fewer than an outbox hands out ahead of its cursor.
const BATCH_ROWS_MAX: usize = 1_000;
/// Bytes of one request, unless the options say otherwise.
const BATCH_BYTES_DEFAULT: u64 = 1 << 20;
const BATCH_BYTES_MAX: u64 = 64 << 20;

/// What the body of a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFormat {
    /// One JSON array of objects.
    Array,
    /// An object on each line.
    NdJson,
    /// A line of names, then one for each row.
    Csv,
    /// One object: each row is a request.
    Object,
}

impl BodyFormat {
    const WORDS: [(&str, BodyFormat); 4] = [
        ("json", BodyFormat::Array),
        ("ndjson", BodyFormat::NdJson),
        ("csv", BodyFormat::Csv),
        ("object", BodyFormat::Object),
    ];

    fn content_type(self) -> &'static str {
        match self {
            BodyFormat::Array | BodyFormat::Object => "application/json",
            BodyFormat::NdJson => "application/x-ndjson",
            BodyFormat::Csv => "text/csv",
        }
    }
}

/// Where an `http` sink delivers to.
struct HttpDestination {
    encoder: Arc<HttpEncoder>,
    posting: Posting,
}

/// A path and a JSON object for each row.
struct HttpEncoder {
    template: UrlTemplate,
    rows: JsonRows,
}

/// Makes the destination from its options; does no I/O. `dir` is the folder of the sink.
pub(crate) fn destination(
    dir: &str,
    schema: &SchemaRef,
    options: &mut Options,
    context: &Context,
) -> Result<Arc<dyn Destination>, OptionError> {
    let text = options.require("url")?;
    let template = UrlTemplate::parse(&text, schema).map_err(|problem| OptionError::new("url", problem))?;
    let url = parse_url(template.example(), context)?;
    let endpoint = Endpoint::take(&url, options, context)?;
    let method = [("post", Method::POST), ("put", Method::PUT)];
    let words: Vec<(&str, usize)> = method.iter().enumerate().map(|(at, (word, _))| (*word, at)).collect();
    let method = method[options.choice("method", &words)?.unwrap_or(0)].1.clone();
    let format = options.choice("format", &BodyFormat::WORDS)?.unwrap_or(BodyFormat::Array);
    let rows = JsonRows::take_columns(schema, options)?;
    let batch_rows = options.parse("batch_rows", "a number of rows")?.unwrap_or(BATCH_ROWS_DEFAULT);
    if !(1..=BATCH_ROWS_MAX).contains(&batch_rows) {
        return Err(OptionError::new("batch_rows", format!("must be from 1 to {BATCH_ROWS_MAX}")));
    }
    let batch_bytes = options.bytes("batch_bytes")?.unwrap_or(BATCH_BYTES_DEFAULT);
    if !(1..=BATCH_BYTES_MAX).contains(&batch_bytes) {
        return Err(OptionError::new("batch_bytes", "must be from '1 B' to '64 MiB'"));
    }
    let on_refused = options.choice("on_refused", &OnRefused::WORDS)?.unwrap_or(OnRefused::Keep);
    let posting = Posting {
        endpoint,
        base: url,
        has_columns: template.columns().next().is_some(),
        method,
        format,
        columns: rows.names(),
        batch_rows,
        batch_bytes: usize::try_from(batch_bytes).expect("at most 64 MiB"),
        on_refused,
        storage: Arc::clone(&context.storage),
        refused_dir: format!("{dir}/refused"),
        clock: Arc::clone(&context.clock),
    };
    Ok(Arc::new(HttpDestination { encoder: Arc::new(HttpEncoder { template, rows }), posting }))
}

impl Destination for HttpDestination {
    fn encoder(&self) -> Arc<dyn Encoder> {
        Arc::clone(&self.encoder) as Arc<dyn Encoder>
    }

    fn courier(&self) -> Box<dyn Courier> {
        Box::new(HttpCourier::new(self.posting.clone()))
    }
}

impl Encoder for HttpEncoder {
    fn encode(&self, rows: &RecordBatch, out: &mut Encoded) -> Result<(), String> {
        let texts = self.rows.texts(rows, self.template.columns())?;
        let payloads = self.rows.write(rows)?;
        let mut path = String::new();
        for (row, payload) in payloads.rows().enumerate() {
            match self.template.render(&mut path, |column, text| texts.write(column, row, text)) {
                Ok(()) => out.push(path.as_bytes(), payload),
                Err(why) => out.reject(|| why),
            }
        }
        Ok(())
    }
}
