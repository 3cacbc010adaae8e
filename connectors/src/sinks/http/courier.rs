//! The courier of an `http` sink: claims rows, makes requests of them, and sends each until it is taken or refused.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tidemill_engine::clock::Clock;
use tidemill_engine::source::Stop;
use tidemill_engine::storage::Storage;
use url::Url;

use super::BodyFormat;
use super::judge::{OnRefused, UrlIs, Verdict, judge};
use super::refused::{Refused, keep};
use crate::outbox::{Courier, DeliveryError, Desk, DeskEvent, Progress, Row};
use crate::outgoing::{Endpoint, read_body, shown};
use crate::sinks::lines;

/// What stands in an answer is read so that its connection can be used again, and shown to nobody.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// How a sink posts.
#[derive(Clone)]
pub(super) struct Posting {
    pub(super) endpoint: Endpoint,
    /// The server; and the path of rows that have none of their own.
    pub(super) base: Url,
    pub(super) has_columns: bool,
    pub(super) method: Method,
    pub(super) format: BodyFormat,
    /// The names of what rows have, for CSV.
    pub(super) columns: Vec<String>,
    pub(super) batch_rows: usize,
    pub(super) batch_bytes: usize,
    pub(super) on_refused: OnRefused,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) refused_dir: String,
    pub(super) clock: Arc<dyn Clock>,
}

/// Rows that leave as one, and the name that they have at the receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Parcel {
    path: Bytes,
    rows: Vec<Row>,
    key: String,
    /// Everything below is delivered once this is, and those before it.
    confirms: Option<u64>,
}

/// See the module.
pub(super) struct HttpCourier {
    posting: Posting,
    /// What is claimed and not delivered, in order.
    parcels: VecDeque<Parcel>,
    /// What was taken from the desk and is not claimed, and its bytes.
    taken: Vec<Row>,
    taken_bytes: usize,
    /// A row behind that: of the next claim.
    ahead: Option<Row>,
}

impl HttpCourier {
    pub(super) fn new(posting: Posting) -> HttpCourier {
        HttpCourier { posting, parcels: VecDeque::new(), taken: Vec::new(), taken_bytes: 0, ahead: None }
    }

    /// Takes rows from the desk and claims them; `false` if it is to stop.
    async fn claim(&mut self, desk: &mut Desk, stop: &Stop) -> Result<bool, DeliveryError> {
        // A process before may have sent these: in the same pieces, or the receiver would take some of them twice.
        let claimed = desk.claimed();
        if !self.take_rows(desk, claimed.as_ref(), stop).await? {
            return Ok(false);
        }
        let (Some(first), Some(last)) = (self.taken.first(), self.taken.last()) else { return Ok(true) };
        if claimed != Some(first.number..last.number + 1) {
            desk.claim(last.number + 1, "http").await?;
        }
        let rows = std::mem::take(&mut self.taken);
        self.taken_bytes = 0;
        self.parcels = parcels(rows, &self.posting, |range| ascii(&desk.batch_id(range.start, range.end)));
        Ok(true)
    }

    /// Takes the rows of a claim, or as many as there are and a request may have; `false` if it is to stop. Waits for the first
    /// one only.
    async fn take_rows(
        &mut self,
        desk: &mut Desk,
        claimed: Option<&Range<u64>>,
        stop: &Stop,
    ) -> Result<bool, DeliveryError> {
        loop {
            let is_whole = |end: u64| claimed.is_some_and(|claimed| end >= claimed.end);
            if self.taken.last().is_some_and(|last| is_whole(last.number + 1)) {
                return Ok(true);
            }
            let row = match self.ahead.take() {
                Some(row) => row,
                None if !self.taken.is_empty() && desk.is_idle() => return Ok(true),
                None => tokio::select! {
                    event = desk.next(true) => match event? {
                        DeskEvent::Row(row) => row,
                        DeskEvent::Durable(_) => continue,
                    },
                    () = stop.cancelled() => return Ok(false),
                },
            };
            if self.fits(&row, claimed) {
                self.taken_bytes += row.payload.len() + 1;
                self.taken.push(row);
            } else {
                self.ahead = Some(row);
                return Ok(true);
            }
        }
    }

    /// Says whether a row is of the same claim as those that were taken.
    fn fits(&self, row: &Row, claimed: Option<&Range<u64>>) -> bool {
        let Some(last) = self.taken.last() else { return true };
        // Numbers that are missing were left out, and after a crash some may be there again: in a claim of their own.
        let follows = last.number + 1 == row.number;
        let bytes = self.taken_bytes + row.payload.len();
        let has_room = self.taken.len() < self.posting.batch_rows && bytes < self.posting.batch_bytes;
        follows && claimed.map_or(has_room, |claimed| row.number < claimed.end)
    }

    /// Sends the first parcel. What it becomes is decided here, and nothing of it is lost on the way.
    async fn send(&mut self, desk: &mut Desk) -> Result<(), DeliveryError> {
        let Some(parcel) = self.parcels.front() else { return Ok(()) };
        let posting = &self.posting;
        let url = at_path(&posting.base, std::str::from_utf8(&parcel.path).unwrap_or_default());
        let body = body(&parcel.rows, posting).map_err(DeliveryError::Failed)?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(posting.format.content_type()));
        let key = HeaderValue::from_str(&parcel.key).map_err(|error| DeliveryError::Failed(error.to_string()))?;
        headers.insert(HeaderName::from_static("idempotency-key"), key);
        let answer = posting.endpoint.send(posting.method.clone(), url.clone(), headers, body).await;
        let (answer, until) = answer.map_err(|error| DeliveryError::Failed(error.to_string()))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        // If this fails the answer counts all the same.
        let _ = read_body(answer.into_body(), ANSWER_BYTES_MAX, until).await;
        let (row_count, on_refused) = (parcel.rows.len(), posting.on_refused);
        let url_is = if posting.has_columns { UrlIs::OfItsRows } else { UrlIs::TheSameForAll };
        let says = format!("{} answers {status}", shown(&url));
        match judge(status, &headers, url_is, posting.clock.now_us()) {
            Verdict::Taken => self.done(desk),
            Verdict::NotNow { asked } => {
                return Err(match asked {
                    Some(after) => DeliveryError::Busy { problem: says, after },
                    None => DeliveryError::Failed(says),
                });
            }
            Verdict::TooLarge if row_count > 1 => self.halve(desk),
            Verdict::TooLarge | Verdict::Refused => match on_refused {
                OnRefused::Wait => {
                    let problem = "these rows; on_refused = 'wait' holds up all behind them";
                    return Err(DeliveryError::Failed(format!("{says} to {problem}")));
                }
                OnRefused::Keep => {
                    self.keep(status.as_u16(), shown(&url)).await?;
                    self.refused(desk, &says);
                }
                OnRefused::Drop => self.refused(desk, &says),
            },
            Verdict::Misdirected => {
                let remedy =
                    "the url or the credentials are wrong: correct the sink, and the rows that wait are delivered";
                return Err(DeliveryError::Failed(format!("{says}: {remedy}")));
            }
        }
        desk.gauges().set_connected(true);
        Ok(())
    }

    fn done(&mut self, desk: &mut Desk) {
        if let Some(Parcel { confirms: Some(end), .. }) = self.parcels.pop_front() {
            desk.confirm(Progress { delivered: end, received: end });
        }
    }

    fn refused(&mut self, desk: &mut Desk, says: &str) {
        let rows = self.parcels.front().map_or(0, |parcel| parcel.rows.len());
        desk.gauges().count_refused(rows as u64);
        tracing::error!(sink = desk.name(), rows, says, on_refused = ?self.posting.on_refused, "rows are refused; the view's table has them");
        self.done(desk);
    }

    /// Makes two parcels of one, with names of their own: the same ones each time.
    fn halve(&mut self, desk: &Desk) {
        let Some(Parcel { path, mut rows, key, confirms }) = self.parcels.pop_front() else { return };
        let second = rows.split_off(rows.len() / 2);
        tracing::warn!(
            sink = desk.name(),
            rows = rows.len() + second.len(),
            "too large for the receiver: it gets two halves; batch_bytes or batch_rows would do it"
        );
        let (first_key, second_key) = (format!("{key}.1"), format!("{key}.2"));
        self.parcels.push_front(Parcel { path: path.clone(), rows: second, key: second_key, confirms });
        self.parcels.push_front(Parcel { path, rows, key: first_key, confirms: None });
    }

    async fn keep(&self, status: u16, url: String) -> Result<(), DeliveryError> {
        let Some(Parcel { rows, key, .. }) = self.parcels.front().cloned() else { return Ok(()) };
        let (storage, dir) = (Arc::clone(&self.posting.storage), self.posting.refused_dir.clone());
        let kept = tokio::task::spawn_blocking(move || {
            keep(&*storage, &dir, &Refused { status, url: &url, key: &key, rows: &rows })
        });
        Ok(kept.await.map_err(|error| DeliveryError::Failed(error.to_string()))??)
    }
}

#[async_trait::async_trait]
impl Courier for HttpCourier {
    async fn deliver(&mut self, desk: &mut Desk, stop: &Stop) -> Result<(), DeliveryError> {
        loop {
            if self.parcels.is_empty() && !self.claim(desk, stop).await? {
                return Ok(());
            }
            tokio::select! {
                sent = self.send(desk) => sent?,
                // Whether it arrived nobody knows: the next process repeats it under the same key.
                () = stop.cancelled() => return Ok(()),
            }
        }
    }
}

/// Cuts claimed rows into requests.
///
/// Without columns in the URL all rows are one request, or each is one; then the rows before one that was taken are delivered.
/// With columns each URL gets one with its rows in their order, and the rows are delivered when all are.
fn parcels(rows: Vec<Row>, posting: &Posting, id: impl Fn(Range<u64>) -> String) -> VecDeque<Parcel> {
    let range = |rows: &[Row]| rows.first().map_or(0, |row| row.number)..rows.last().map_or(0, |row| row.number + 1);
    if posting.format == BodyFormat::Object {
        let one = |row: Row| {
            let range = row.number..row.number + 1;
            Parcel { path: row.key.clone(), key: id(range.clone()), confirms: Some(range.end), rows: vec![row] }
        };
        return rows.into_iter().map(one).collect();
    }
    let all = range(&rows);
    let mut parcels: Vec<Parcel> = Vec::new();
    for row in rows {
        match parcels.iter_mut().find(|parcel| parcel.path == row.key) {
            Some(parcel) => parcel.rows.push(row),
            None => parcels.push(Parcel { path: row.key.clone(), rows: vec![row], key: String::new(), confirms: None }),
        }
    }
    let is_one = parcels.len() == 1;
    for (at, parcel) in parcels.iter_mut().enumerate() {
        parcel.key = id(all.clone());
        if !is_one {
            parcel.key += &format!("-{at}");
        }
    }
    if let Some(last) = parcels.last_mut() {
        last.confirms = Some(all.end);
    }
    parcels.into()
}

fn body(rows: &[Row], posting: &Posting) -> Result<Bytes, String> {
    let mut out = Vec::new();
    match posting.format {
        BodyFormat::Array => lines::array(rows, &mut out),
        BodyFormat::NdJson => lines::ndjson(rows, &mut out),
        BodyFormat::Csv => {
            lines::csv_head(&posting.columns, &mut out);
            lines::csv(rows, &posting.columns, &mut out)?;
        }
        BodyFormat::Object => rows.iter().for_each(|row| out.extend_from_slice(&row.payload)),
    }
    Ok(out.into())
}

/// Returns a URL with another path and query; with an empty one it is the same. The server stays, whatever the path is.
pub(super) fn at_path(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    if !path.is_empty() {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        url.set_path(path);
        url.set_query(query);
    }
    url
}

/// Writes a name so that a header and a file can carry it.
fn ascii(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => text.push(char::from(byte)),
            // Writing to a string cannot fail.
            byte => drop(write!(text, "%{byte:02X}")),
        }
    }
    text
}
