//! The bytes of a connection: plain TCP, or TLS over it, behind one type.
//!
//! ```text
//!             ready ─► try_read / try_write                        never wait, as a socket's own
//!   Stream ─┬─ plain: the socket
//!           └─ TLS:   socket ⇄ rustls ⇄ plaintext                  what rustls holds back counts as ready, or as unsent
//! ```
//!
//! The loop of a connection wants to know when it could read or write, and then do it without waiting. A TLS stream of
//! tokio's kind would hide both; rustls itself does not, so it is driven here. Two things follow, and the loop minds them:
//! plaintext that rustls has decrypted already is [`Stream::ready`] at once, and what it has encrypted and the socket did not
//! take is unsent ([`Stream::has_unsent`]) although `try_write` has accepted it.
//!
//! The end of TCP without TLS's own good-bye is an ordinary end here: MQTT's packets say their length, so nothing that was
//! cut short passes for whole.

use std::io::{self, BufRead, IoSlice, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use tokio::io::{AsyncWriteExt, Interest, Ready};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::tls::{Side, TlsFailure};

/// How long we wait for the peer to close after us. Closing a socket with unread bytes in it would reset the connection and
/// could take our last answers with it.
const LINGER: Duration = Duration::from_millis(500);

/// One connection's bytes.
#[derive(Debug)]
pub(super) struct Stream {
    tcp: TcpStream,
    /// Boxed: most connections are plain and idle.
    tls: Option<Box<Tls>>,
    /// What the socket has taken without TLS.
    sent_bytes: u64,
}

#[derive(Debug)]
struct Tls {
    rustls: Connection,
    side: Side,
    /// Whether decrypted bytes may wait that the last read had no room for.
    has_plaintext: bool,
    /// An error that came behind bytes: the bytes first.
    failed: Option<io::Error>,
    /// What the socket has taken.
    sent_bytes: u64,
}

impl Stream {
    /// Makes a stream without TLS.
    pub(super) fn plain(tcp: TcpStream) -> io::Result<Stream> {
        // Without it the second acknowledgement waits 40 ms for the first to be confirmed.
        tcp.set_nodelay(true)?;
        Ok(Stream { tcp, tls: None, sent_bytes: 0 })
    }

    /// Does the handshake of a client with the server called `name`.
    pub(super) async fn connect_tls(
        tcp: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Stream> {
        let rustls = ClientConnection::new(config, name);
        Stream::handshake(tcp, rustls.map(Connection::from), Side::Client).await
    }

    /// Does the handshake of a server.
    #[cfg_attr(not(test), allow(dead_code, reason = "the listener calls it"))]
    pub(super) async fn accept_tls(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<Stream> {
        let rustls = ServerConnection::new(config);
        Stream::handshake(tcp, rustls.map(Connection::from), Side::Server).await
    }

    async fn handshake(tcp: TcpStream, rustls: Result<Connection, rustls::Error>, side: Side) -> io::Result<Stream> {
        let mut stream = Stream::plain(tcp)?;
        let rustls = rustls.map_err(|error| TlsFailure::new(side, &error).into_io())?;
        let mut tls = Box::new(Tls { rustls, side, has_plaintext: false, failed: None, sent_bytes: 0 });
        let shaken = tls.shake_hands(&stream.tcp).await;
        stream.tls = Some(tls);
        match shaken {
            Ok(()) => Ok(stream),
            Err(error) => {
                // The peer shall learn why: the alert is on its way already.
                let _ = stream.tcp.shutdown().await;
                stream.linger().await;
                Err(error)
            }
        }
    }

    /// Waits until something of `interest` may be done without waiting.
    pub(super) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match &self.tls {
            Some(tls) if interest.is_readable() && (tls.has_plaintext || tls.failed.is_some()) => Ok(Ready::READABLE),
            _ => self.tcp.ready(interest).await,
        }
    }

    /// Reads what is there, as far as the buffer has room; `Ok(0)` is the end. `WouldBlock` where there is nothing.
    pub(super) fn try_read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match &mut self.tls {
            None => self.tcp.try_read_buf(buffer),
            Some(tls) => {
                // Without room nothing would come, which means the end.
                buffer.reserve(1);
                tls.read(&self.tcp, buffer)
            }
        }
    }

    /// Writes as much as is taken now; `WouldBlock` where nothing is.
    pub(super) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.tcp.try_write(bytes).inspect(|count| self.sent_bytes += *count as u64),
            Some(tls) => tls.write(&self.tcp, bytes),
        }
    }

    /// Returns how many bytes the socket has taken in all, those of TLS included: what grows is read.
    pub(super) fn sent_bytes(&self) -> u64 {
        self.tls.as_ref().map_or(self.sent_bytes, |tls| tls.sent_bytes)
    }

    /// Says whether bytes that [`Stream::try_write`] has taken wait for the socket.
    pub(super) fn has_unsent(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.rustls.wants_write())
    }

    /// Gives the socket what waits for it, as much as it takes now.
    pub(super) fn try_flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            None => Ok(()),
            Some(tls) => match tls.flush(&self.tcp) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
                flushed => flushed,
            },
        }
    }

    /// Writes all, waiting for the peer to take it.
    pub(super) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() || self.has_unsent() {
            let written = match bytes.is_empty() {
                true => self.try_flush().map(|()| 0),
                false => self.try_write(bytes),
            };
            match written {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            if !bytes.is_empty() || self.has_unsent() {
                self.tcp.writable().await?;
            }
        }
        Ok(())
    }

    /// Says good-bye on our side.
    pub(super) async fn shutdown(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.rustls.send_close_notify();
            self.write_all(&[]).await?;
        }
        self.tcp.shutdown().await
    }

    /// Throws away what the peer still sends, until it closes or a short time has passed.
    pub(super) async fn linger(&self) {
        let _ = timeout(LINGER, async {
            let mut bytes = vec![0u8; 4096];
            while self.tcp.readable().await.is_ok() {
                match self.tcp.try_read(&mut bytes) {
                    Ok(0) => return,
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
                    _ => {}
                }
            }
        })
        .await;
    }
}

impl Tls {
    async fn shake_hands(&mut self, tcp: &TcpStream) -> io::Result<()> {
        loop {
            match self.flush(tcp) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tcp.writable().await?;
                    continue;
                }
                flushed => flushed?,
            }
            if !self.rustls.is_handshaking() {
                return Ok(());
            }
            tcp.readable().await?;
            match self.fetch(tcp) {
                Ok(0) => return Err(TlsFailure::closed(self.side).into_io()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Who does not understand us may close with our bytes unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(TlsFailure::closed(self.side).into_io());
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn read(&mut self, tcp: &TcpStream, buffer: &mut BytesMut) -> io::Result<usize> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let before = buffer.len();
        let last = loop {
            match self.take_plaintext(buffer) {
                // No room any more.
                Ok(true) => break Ok(()),
                Ok(false) => match self.fetch(tcp) {
                    // The next look at the plaintext tells of the end.
                    Ok(_) => {}
                    Err(error) => break Err(error),
                },
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let count = buffer.len() - before;
        match last {
            Err(error) if count == 0 => return Err(error),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => self.failed = Some(error),
            _ => {}
        }
        Ok(count)
    }

    /// Moves decrypted bytes; `Ok(true)` when the buffer is full or the stream has ended, `Ok(false)` when more is to be fetched.
    fn take_plaintext(&mut self, buffer: &mut BytesMut) -> io::Result<bool> {
        let mut reader = self.rustls.reader();
        loop {
            let room = buffer.capacity() - buffer.len();
            match reader.fill_buf() {
                Ok([]) => return Ok(true),
                Ok(_) if room == 0 => {
                    self.has_plaintext = true;
                    return Ok(true);
                }
                Ok(chunk) => {
                    let count = chunk.len().min(room);
                    buffer.extend_from_slice(&chunk[..count]);
                    reader.consume(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.has_plaintext = false;
                    // With a full buffer nothing is fetched: rustls holds only so much.
                    return Ok(room == 0);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes encrypted bytes from the socket and decrypts them.
    fn fetch(&mut self, tcp: &TcpStream) -> io::Result<usize> {
        let count = self.rustls.read_tls(&mut Socket(tcp))?;
        if let Err(error) = self.rustls.process_new_packets() {
            // An alert for the peer.
            let _ = self.flush(tcp);
            return Err(TlsFailure::new(self.side, &error).into_io());
        }
        Ok(count)
    }

    fn write(&mut self, tcp: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        // Nothing is encrypted while something waits: what waits is bounded by one write.
        self.flush(tcp)?;
        let count = self.rustls.writer().write(bytes)?;
        match self.flush(tcp) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(count),
        }
    }

    fn flush(&mut self, tcp: &TcpStream) -> io::Result<()> {
        while self.rustls.wants_write() {
            match self.rustls.write_tls(&mut Socket(tcp)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.sent_bytes += count as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A socket as rustls wants it.
struct Socket<'t>(&'t TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(bytes)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
