//! A connection's bytes, as they are or inside TLS, of either side.
//!
//! One read of a secure stream takes what one read of its socket brought, and leaves nothing behind that an epoll
//! instance would not tell of, if there is room for [`READ_BYTES_MIN`]. What a write could not bring to the socket
//! stays inside: [`Stream::is_blocked`], until [`Stream::push_out`] has done it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, LazyLock};

use anyhow::{Context as _, Result, anyhow};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

/// What is spoken inside TLS.
pub(crate) const ALPN: &[u8] = b"http/1.1";

/// Bytes of one read of a socket inside TLS.
const SOCKET_BYTES: usize = 64 * 1024;

/// Room that holds all of one read: those, and the start of a record from before.
pub(crate) const READ_BYTES_MIN: usize = SOCKET_BYTES + 32 * 1024;

/// Bytes that TLS takes before the socket has those from before.
const UNWRITTEN_BYTES_MAX: usize = 256 * 1024;

#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Secure(Box<Secure>),
}

/// TLS and its socket.
#[derive(Debug)]
pub(crate) struct Secure {
    tls: Connection,
    socket: TcpStream,
    /// Of the socket; empty between two reads that had room for it.
    read: Vec<u8>,
    taken: usize,
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Self::Plain(socket)
    }
}

impl Stream {
    /// The client's side, after the handshake, on a blocking socket.
    ///
    /// # Errors
    /// When the handshake fails.
    pub(crate) fn client(mut socket: TcpStream) -> Result<Self> {
        static CONFIG: LazyLock<Result<Arc<ClientConfig>, String>> =
            LazyLock::new(|| crate::tls::client(ALPN).map(Arc::new).map_err(|error| error.to_string()));
        let config = CONFIG.as_ref().map_err(|error| anyhow!("TLS: {error}"))?;
        let mut tls = ClientConnection::new(config.clone(), ServerName::try_from("localhost")?)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket).context("shaking hands")?;
        }
        Ok(Self::secure(tls.into(), socket))
    }

    /// The server's side; the handshake is done by reading.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub(crate) fn server(socket: TcpStream, config: &Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        Ok(Self::secure(ServerConnection::new(config.clone())?.into(), socket))
    }

    fn secure(mut tls: Connection, socket: TcpStream) -> Self {
        tls.set_buffer_limit(Some(UNWRITTEN_BYTES_MAX));
        Self::Secure(Box::new(Secure { tls, socket, read: Vec::new(), taken: 0 }))
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Secure(secure) => &secure.socket,
        }
    }

    /// The socket alone.
    pub(crate) fn into_socket(self) -> TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Secure(secure) => secure.socket,
        }
    }

    /// Whether bytes that were taken are not in the socket yet.
    pub(crate) fn is_blocked(&self) -> bool {
        matches!(self, Self::Secure(secure) if secure.tls.wants_write())
    }

    /// Brings to the socket what it takes of bytes from before.
    ///
    /// # Errors
    /// When the connection is over.
    pub(crate) fn push_out(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Secure(secure) => secure.push_out(),
        }
    }
}

impl Secure {
    fn push_out(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes one piece of what the socket brought. False when all of it was taken.
    fn open_records(&mut self) -> io::Result<bool> {
        let Some(mut rest) = self.read.get(self.taken..).filter(|rest| !rest.is_empty()) else {
            self.read.clear();
            self.taken = 0;
            return Ok(false);
        };
        self.taken += self.tls.read_tls(&mut rest)?;
        if let Err(error) = self.tls.process_new_packets() {
            return Err(io::Error::new(ErrorKind::InvalidData, error));
        }
        // Of the handshake; data has its own way.
        self.push_out()?;
        Ok(true)
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let secure = match self {
            Self::Plain(socket) => return socket.read(into),
            Self::Secure(secure) => secure,
        };
        let mut count = 0;
        while count < into.len() {
            match secure.tls.reader().read(&mut into[count..]) {
                Ok(0) => return Ok(count),
                Ok(more) => {
                    count += more;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if secure.open_records()? {
                continue;
            }
            if count > 0 {
                break;
            }
            secure.read.resize(SOCKET_BYTES, 0);
            let outcome = secure.socket.read(&mut secure.read);
            secure.read.truncate(*outcome.as_ref().unwrap_or(&0));
            if outcome? == 0 {
                return Ok(0);
            }
        }
        Ok(count)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let secure = match self {
            Self::Plain(socket) => return socket.write(bytes),
            Self::Secure(secure) => secure,
        };
        secure.push_out()?;
        if secure.tls.wants_write() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = secure.tls.writer().write(bytes)?;
        secure.push_out()?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.push_out()
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}
