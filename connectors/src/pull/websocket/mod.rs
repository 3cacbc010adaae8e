//! `connector = 'websocket'`: the messages of a WebSocket (RFC 6455).
//!
//! ```text
//!        ┌───────── again after 100 ms … 30 s, half of it by chance ◄─────────────┐
//!        ▼                                                                        │
//!   GET, Upgrade ─► 101 ─► our messages ─► messages ─► append                     │
//!                    │                       │ silence ─► ping ─► silence ────────┤
//!                    └─ anything else ───────┴─ closed, lost ─────────────────────┘
//! ```
//!
//! **At most once.** The protocol has no acknowledgement and no numbers: what is sent while we are away is missed, and what was
//! received and not yet durable when the power fails is lost. A text or binary message is one payload.
//!
//! `subscribe` is sent after each connect: a message for each line.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, SinkExt, StreamExt};
use hyper::HeaderMap;
use tidemill_engine::error::with_causes;
use tidemill_engine::source::{Chunk, Intake, Message, Resume, Source, SourceError, Stop, TargetStatus};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message as Frame};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::dial::Reach;
use super::poll::{take_between, take_timeout};
use super::reading::{self, End, Reading};
use super::site::{Scheme, Site, Target};
use super::target::{Failure, Health, Own};
use crate::Context;
use crate::options::{OptionError, Options};
use crate::outgoing::Stream;
use crate::receipts::Receipts;
use crate::secret::Secret;

/// Bytes of one message.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// Bytes of one frame: a message may come in several.
const FRAME_BYTES_MAX: usize = MESSAGE_BYTES_MAX;
/// Messages of one chunk, and bytes beyond which no further one is added.
const CHUNK_MESSAGES_MAX: usize = 1024;
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Messages that are sent after a connect.
const SUBSCRIBE_MESSAGES_MAX: usize = 256;
/// Bytes that wait to be sent: pongs, and what `subscribe` says.
const WRITE_BYTES_MAX: usize = 1 << 20;

/// A connection that lived so long was healthy, also if it said nothing.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// After so long without a word we ask for one; after the same time again the connection is lost.
const SILENCE_DEFAULT: Duration = Duration::from_secs(30);
const SILENCE_MIN: Duration = Duration::from_secs(1);
const SILENCE_MAX: Duration = Duration::from_secs(3600);
/// How long a good-bye may take.
const CLOSE_MAX: Duration = Duration::from_millis(500);

/// A source of WebSocket messages.
pub struct WebsocketSource {
    shared: Arc<Shared>,
}

struct Shared {
    own: Own,
    site: Site,
    timeout: Duration,
    silence: Duration,
    subscribe: Option<Secret>,
}

/// Makes the source from its options; does no I/O.
pub fn websocket(name: &str, options: &mut Options, context: &Context) -> Result<WebsocketSource, OptionError> {
    let site = Site::take(options, Scheme::Websocket, context)?;
    let subscribe = options.secret(["subscribe", "subscribe_env", "subscribe_file"], &context.base_dir)?;
    if let Some(Secret::Text(text)) = &subscribe {
        lines(text).map_err(|problem| OptionError::new("subscribe", problem))?;
    }
    let shared = Shared {
        own: Own::new(name, context, site.targets.len()),
        site,
        timeout: take_timeout(options)?,
        silence: take_between(options, "silence", SILENCE_MIN, SILENCE_MAX)?.unwrap_or(SILENCE_DEFAULT),
        subscribe,
    };
    Ok(WebsocketSource { shared: Arc::new(shared) })
}

/// Returns the messages that are to be sent.
fn lines(text: &str) -> Result<Vec<String>, String> {
    let lines: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    match lines.len() {
        0 => Err("holds no message".to_owned()),
        1..=SUBSCRIBE_MESSAGES_MAX => Ok(lines),
        count => Err(format!("holds {count} messages, a line each: {SUBSCRIBE_MESSAGES_MAX} may be sent")),
    }
}

#[async_trait::async_trait]
impl Source for WebsocketSource {
    fn bounded(&self) -> bool {
        false
    }

    async fn run(&self, intake: Arc<dyn Intake>, resume: Vec<Resume>, stop: Stop) -> Result<(), SourceError> {
        let shared = &self.shared;
        let task = |number: usize, health: Health, _: Option<Resume>, stop: Stop| {
            let target = shared.site.targets[number].clone();
            reading::run(Conversation { shared: Arc::clone(shared), target, health }, stop)
        };
        shared.own.run(&shared.site.targets, intake, resume, &stop, task).await
    }

    fn targets(&self) -> Vec<TargetStatus> {
        self.shared.own.status(&self.shared.site.targets)
    }
}

/// Talks with one target.
struct Conversation {
    shared: Arc<Shared>,
    target: Target,
    health: Health,
}

type Socket = WebSocketStream<Stream>;

impl Reading for Conversation {
    type Connection = Socket;

    fn health(&mut self) -> &mut Health {
        &mut self.health
    }

    fn connect_max(&self) -> Duration {
        self.shared.timeout
    }

    async fn read(&mut self, mut socket: Socket, receipts: &mut Receipts, stop: &Stop) -> End {
        let end = self.receive(&mut socket, receipts, stop).await;
        if matches!(end, End::Stopped) {
            let _ = timeout(CLOSE_MAX, socket.close(None)).await;
        }
        end
    }

    /// Connects, shakes hands and sends what is to be sent.
    async fn connect(&self) -> Result<Socket, Failure> {
        let url = &self.target.url;
        let credentials = self.shared.site.credentials().await.map_err(|why| Failure::new("secret", why))?;
        let mut asked = url.clone();
        if !credentials.parameters.is_empty() {
            asked.query_pairs_mut().extend_pairs(&credentials.parameters);
        }
        let request = asked.as_str().into_client_request();
        let mut request = request.map_err(|error| Failure::new("http", with_causes(&error)))?;
        add(request.headers_mut(), &credentials.headers);
        let (stream, _) = self.shared.site.dialers.dial(url, Reach::Anywhere).await?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(FRAME_BYTES_MAX))
            .max_write_buffer_size(WRITE_BYTES_MAX);
        let (mut socket, _) = client_async_with_config(request, stream, Some(config)).await.map_err(refused)?;
        if let Some(subscribe) = &self.shared.subscribe {
            for line in read_lines(subscribe.clone()).await.map_err(|why| Failure::new("secret", why))? {
                socket.send(Frame::text(line)).await.map_err(lost)?;
            }
        }
        Ok(socket)
    }
}

impl Conversation {
    async fn receive(&mut self, socket: &mut Socket, receipts: &mut Receipts, stop: &Stop) -> End {
        let silence = self.shared.silence;
        let healthy_at = Instant::now() + HEALTHY_AFTER;
        let mut is_proved = false;
        let (mut silent_at, mut has_asked) = (Instant::now() + silence, false);
        loop {
            let first = tokio::select! {
                biased;
                () = stop.cancelled() => return End::Stopped,
                first = socket.next() => first,
                () = sleep_until(silent_at) => {
                    if has_asked {
                        let why = format!("nothing was sent for {:?}, and a ping was not answered", silence * 2);
                        return End::Lost(Failure::new("silence", why));
                    }
                    // A socket that takes nothing any more is lost as well.
                    match timeout(silence, socket.send(Frame::Ping(Bytes::new()))).await {
                        Ok(Ok(())) => (silent_at, has_asked) = (Instant::now() + silence, true),
                        Ok(Err(error)) => return End::Lost(lost(error)),
                        Err(_) => return End::Lost(Failure::new("silence", "nothing can be sent")),
                    }
                    continue;
                }
                () = sleep_until(healthy_at), if !is_proved => {
                    is_proved = true;
                    self.health.succeeded();
                    continue;
                }
            };
            (silent_at, has_asked) = (Instant::now() + silence, false);
            let (messages, ended) = gather(first, socket);
            if !messages.is_empty() {
                if !is_proved {
                    is_proved = true;
                    self.health.succeeded();
                }
                if let Err(end) = self.append(messages, receipts, stop).await {
                    return end;
                }
            }
            if let Some(failure) = ended {
                return End::Lost(failure);
            }
        }
    }

    async fn append(&self, messages: Vec<Message>, receipts: &mut Receipts, stop: &Stop) -> Result<(), End> {
        let queued = tokio::select! {
            queued = self.health.intake().append(&self.target.name, Chunk::Messages(messages)) => queued,
            () = stop.cancelled() => return Err(End::Stopped),
        };
        receipts.push(queued.map_err(End::from)?).await.map_err(End::from)
    }
}

/// Takes a message and those that are there already; and why there will be no more, if so.
fn gather(first: Option<Result<Frame, WsError>>, socket: &mut Socket) -> (Vec<Message>, Option<Failure>) {
    let (mut messages, mut bytes, mut next) = (Vec::new(), 0, Some(first));
    while let Some(frame) = next {
        let payload = match frame {
            None => return (messages, Some(Failure::new("disconnected", "the server has ended the connection"))),
            Some(Err(error)) => return (messages, Some(lost(error))),
            Some(Ok(Frame::Text(text))) => Bytes::from(text),
            Some(Ok(Frame::Binary(bytes))) => bytes,
            Some(Ok(Frame::Close(close))) => {
                let why = close.map_or_else(String::new, |close| format!(" ({} {})", close.code, close.reason));
                let why = format!("the server says good-bye{why}");
                return (messages, Some(Failure::new("disconnected", why)));
            }
            // Pings are answered by the library, with the next thing that is read or written.
            Some(Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_))) => Bytes::new(),
        };
        if !payload.is_empty() {
            bytes += payload.len();
            messages.push(Message::new("", payload));
        }
        let is_full = messages.len() >= CHUNK_MESSAGES_MAX || bytes >= CHUNK_BYTES_MAX;
        next = if is_full { None } else { socket.next().now_or_never() };
    }
    (messages, None)
}

fn add(headers: &mut HeaderMap, more: &HeaderMap) {
    for (name, value) in more {
        headers.insert(name.clone(), value.clone());
    }
}

async fn read_lines(subscribe: Secret) -> Result<Vec<String>, String> {
    let read = tokio::task::spawn_blocking(move || subscribe.read()).await.map_err(|error| error.to_string())?;
    lines(&read.map_err(|error| error.to_string())?)
}

/// Says why there was no handshake.
fn refused(error: WsError) -> Failure {
    match error {
        WsError::Http(answer) => {
            let code = answer.status().as_u16();
            let hint = match code {
                301..=308 => ": a redirect is not followed here: write the URL it leads to",
                401 | 403 => ": say who we are with username and password, or with a token",
                _ => "",
            };
            Failure::new("status", format!("the server answers {code} in place of 101{hint}"))
        }
        error => Failure::new("http", format!("no WebSocket handshake: {}", with_causes(&error))),
    }
}

/// Says why a conversation has broken off.
fn lost(error: WsError) -> Failure {
    let kind = match &error {
        WsError::Capacity(CapacityError::MessageTooLong { .. }) => "too_big",
        // The connection has gone without a good-bye: the library calls that a violation.
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => "disconnected",
        WsError::Protocol(_) | WsError::Utf8(_) => "protocol",
        _ => "disconnected",
    };
    Failure::new(kind, with_causes(&error))
}
