//! An open connection with its stream: read and written without waiting.

use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::Notify;

/// Told by the connection's work when something may be done again.
#[derive(Debug, Default)]
struct Signal(Notify);

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_one();
    }
}

/// A signal, and how to give it to what is polled.
#[derive(Debug)]
struct Told {
    signal: Arc<Signal>,
    waker: Waker,
}

impl Default for Told {
    fn default() -> Self {
        let signal = Arc::new(Signal::default());
        Self { waker: Waker::from(signal.clone()), signal }
    }
}

#[derive(Clone)]
pub(super) enum Whole {
    Quic(quinn::Connection),
    WebTransport(Box<web_transport_quinn::Session>),
}

enum Receive {
    Quic(quinn::RecvStream),
    WebTransport(web_transport_quinn::RecvStream),
}

enum Send {
    Quic(quinn::SendStream),
    WebTransport(web_transport_quinn::SendStream),
}

/// A connection whose stream is open. What it is asked to do and cannot do yet is answered with
/// [`ErrorKind::WouldBlock`]; [`Self::readable`] and [`Self::writable`] tell when it is worth another try, and are each
/// awaited in one place at a time.
pub struct Channel {
    whole: Whole,
    receive: RefCell<Receive>,
    /// Absent once it is finished.
    send: RefCell<Option<Send>>,
    readable: Told,
    writable: Told,
    is_closed: Cell<bool>,
}

impl Channel {
    pub(super) fn quic(
        connection: quinn::Connection,
        send: quinn::SendStream,
        receive: quinn::RecvStream,
    ) -> Self {
        Self::new(Whole::Quic(connection), Send::Quic(send), Receive::Quic(receive))
    }

    pub(super) fn web_transport(
        session: web_transport_quinn::Session,
        send: web_transport_quinn::SendStream,
        receive: web_transport_quinn::RecvStream,
    ) -> Self {
        Self::new(
            Whole::WebTransport(Box::new(session)),
            Send::WebTransport(send),
            Receive::WebTransport(receive),
        )
    }

    fn new(whole: Whole, send: Send, receive: Receive) -> Self {
        let readable = Told::default();
        // What came with the handshake is there before anyone waits.
        readable.signal.0.notify_one();
        Self {
            whole,
            receive: RefCell::new(receive),
            send: RefCell::new(Some(send)),
            readable,
            writable: Told::default(),
            is_closed: Cell::new(false),
        }
    }

    /// Where the peer is at the moment: it may move.
    pub fn remote(&self) -> SocketAddr {
        self.connection().remote_address()
    }

    /// Reads what is there. Fewer bytes than there is room for: there were no more, or the stream has ended behind them.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; anything else is the end of the connection.
    pub fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut receive = self.receive.borrow_mut();
        let mut context = Context::from_waker(&self.readable.waker);
        let mut buffer = ReadBuf::new(into);
        while buffer.remaining() > 0 {
            let filled = buffer.filled().len();
            let polled = match &mut *receive {
                Receive::Quic(receive) => AsyncRead::poll_read(Pin::new(receive), &mut context, &mut buffer),
                Receive::WebTransport(receive) => {
                    AsyncRead::poll_read(Pin::new(receive), &mut context, &mut buffer)
                }
            };
            let is_over = match polled {
                Poll::Pending if filled == 0 => return Err(ErrorKind::WouldBlock.into()),
                Poll::Pending => return Ok(filled),
                Poll::Ready(Err(error)) if filled == 0 => return Err(error),
                Poll::Ready(Err(_)) => true,
                Poll::Ready(Ok(())) => buffer.filled().len() == filled,
            };
            if is_over {
                // Nobody else tells that the end is to be read, too.
                self.readable.signal.0.notify_one();
                break;
            }
        }
        Ok(buffer.filled().len())
    }

    /// Writes what the connection's window takes of a copy.
    ///
    /// # Errors
    /// As [`Self::try_write_chunks`].
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.try_write_chunks(&mut [Bytes::copy_from_slice(bytes)])
    }

    /// Writes what the connection's window takes, of several chunks in order, and does not copy them: each is held until the
    /// peer has acknowledged all of it. What was taken is gone from the chunks.
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing; anything else is the end of the connection.
    pub fn try_write_chunks(&self, chunks: &mut [Bytes]) -> io::Result<usize> {
        let mut send = self.send.borrow_mut();
        let Some(send) = &mut *send else { return Err(ErrorKind::BrokenPipe.into()) };
        let mut context = Context::from_waker(&self.writable.waker);
        // Either future is on the stack, keeps nothing that a drop would lose, and has told the waker when it is pending.
        let polled = match send {
            Send::Quic(send) => pin!(send.write_chunks(chunks)).poll(&mut context).map_err(io::Error::from),
            Send::WebTransport(send) => {
                pin!(send.write_chunks(chunks)).poll(&mut context).map_err(io::Error::other)
            }
        };
        match polled {
            Poll::Ready(written) => Ok(written?.bytes),
            Poll::Pending => Err(ErrorKind::WouldBlock.into()),
        }
    }

    /// Waits until reading is worth a try. May be so without reason.
    pub async fn readable(&self) {
        self.readable.signal.0.notified().await;
    }

    /// Waits until writing is worth a try, after it would have blocked. May be so without reason.
    pub async fn writable(&self) {
        self.writable.signal.0.notified().await;
    }

    /// Ends the stream, waits until the peer has everything, closes the connection, and waits for that, too. A second call
    /// waits for the first one's end.
    pub async fn finish(&self, code: u32, reason: &str) {
        let send = self.send.borrow_mut().take();
        // Whoever waits to write would wait for ever: what it waits for goes with the stream, without a word.
        self.writable.signal.0.notify_one();
        match send {
            None => return self.closed().await,
            Some(Send::Quic(mut send)) => {
                // What cannot be finished is gone, and so the wait is over at once.
                drop(send.finish());
                drop(send.stopped().await);
            }
            Some(Send::WebTransport(mut send)) => {
                drop(send.finish());
                drop(send.stopped().await);
            }
        }
        self.close(code, reason);
        self.closed().await;
    }

    /// Waits until a connection that was closed is gone, which takes three round trips or a tenth of a second at most. A
    /// browser that is shown the end of HTTP/3's own streams first, as a drop shows it, takes the connection for lost and
    /// its page never learns the code.
    pub async fn closed(&self) {
        // Why it is gone is known: it was closed here, or by the peer at the same time.
        drop(self.connection().closed().await);
    }

    /// Closes the connection at once, with whatever the peer does not have yet. A second call does nothing.
    pub fn close(&self, code: u32, reason: &str) {
        if self.is_closed.replace(true) {
            return;
        }
        self.writable.signal.0.notify_one();
        self.readable.signal.0.notify_one();
        match &self.whole {
            Whole::Quic(connection) => connection.close(code.into(), reason.as_bytes()),
            Whole::WebTransport(session) => session.close(code, reason.as_bytes()),
        }
    }

    /// Whether the peer fell silent: the connection was given up, not ended.
    pub fn is_timed_out(&self) -> bool {
        matches!(self.connection().close_reason(), Some(quinn::ConnectionError::TimedOut))
    }

    pub(super) const fn whole(&self) -> &Whole {
        &self.whole
    }

    fn connection(&self) -> &quinn::Connection {
        self.whole.connection()
    }
}

impl Whole {
    pub(super) fn connection(&self) -> &quinn::Connection {
        match self {
            Self::Quic(connection) => connection,
            Self::WebTransport(session) => session,
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.close(0, "");
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("remote", &self.remote()).finish_non_exhaustive()
    }
}
