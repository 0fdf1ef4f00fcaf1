//! What a connection's bytes come from and go to: a TCP socket, or a stream of QUIC.
//!
//! Nothing here waits but [`Link::readable`] and [`Link::writable`]. Clones are the same link.

use socket2::SockRef;
use std::cell::Cell;
use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use waspmq_transport::quic::Channel;

/// How long a peer of QUIC may take to acknowledge the last it is sent.
const FINISH_WAIT: Duration = Duration::from_secs(3);

thread_local! {
    /// Connections of this worker whose peers do not have everything yet.
    static FINISHING: Cell<usize> = const { Cell::new(0) };
}

/// How many connections of this worker, all of which it has forgotten, are still finishing.
pub(super) fn finishing() -> usize {
    FINISHING.get()
}

/// With what a connection of QUIC is closed; without it, it ends normally.
#[derive(Debug, Clone, Default)]
pub(crate) struct Goodbye {
    pub(crate) code: u32,
    pub(crate) reason: String,
}

/// One connection's way in and out.
#[derive(Debug, Clone)]
pub(crate) enum Link {
    Tcp(Rc<TcpStream>),
    Quic(Rc<Channel>),
}

impl Link {
    /// Whether both are the same connection's.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(one), Self::Tcp(other)) => Rc::ptr_eq(one, other),
            (Self::Quic(one), Self::Quic(other)) => Rc::ptr_eq(one, other),
            _ => false,
        }
    }

    pub(super) const fn is_quic(&self) -> bool {
        matches!(self, Self::Quic(_))
    }

    /// Whether a connection of QUIC ended because its peer fell silent.
    pub(super) fn is_timed_out(&self) -> bool {
        matches!(self, Self::Quic(channel) if channel.is_timed_out())
    }

    /// Waits until reading is worth a try.
    ///
    /// # Errors
    /// The runtime ends.
    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Quic(channel) => {
                channel.readable().await;
                Ok(())
            }
        }
    }

    /// Waits until writing is worth a try, after it would have blocked.
    ///
    /// # Errors
    /// The runtime ends.
    pub(super) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.writable().await,
            Self::Quic(channel) => {
                channel.writable().await;
                Ok(())
            }
        }
    }

    pub(super) fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(into),
            Self::Quic(channel) => channel.try_read(into),
        }
    }

    /// Reads at most `room` bytes, which `into` has reserved, to its end.
    pub(super) fn try_read_buf(&self, into: &mut Vec<u8>, room: usize) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read_buf(into),
            Self::Quic(channel) => {
                let kept = into.len();
                into.resize(kept + room, 0);
                let read = channel.try_read(into.get_mut(kept..).unwrap_or_default());
                into.truncate(kept + read.as_ref().map_or(0, |&count| count));
                read
            }
        }
    }

    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Quic(channel) => channel.try_write(bytes),
        }
    }

    pub(super) fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(pieces),
            // It is handed its queue by [`super::chunks`]; this is for what is written past that.
            Self::Quic(channel) => {
                let first = pieces.iter().find(|piece| !piece.is_empty());
                first.map_or(Ok(0), |piece| channel.try_write(piece))
            }
        }
    }

    /// Has the system give up a socket whose peer acknowledges nothing of what it is sent for so long. QUIC does so itself.
    pub(super) fn give_up_after(&self, silence: Duration) {
        let Self::Tcp(stream) = self else { return };
        if let Err(error) = SockRef::from(&**stream).set_tcp_user_timeout(Some(silence)) {
            tracing::debug!(%error, "a peer that is gone will be noticed late");
        }
    }

    /// After a read that gave less than there was room for: the socket is empty, which tokio learns without another
    /// system call. A stream of QUIC tells by itself.
    pub(super) fn note_empty(&self) {
        let Self::Tcp(stream) = self else { return };
        let empty = stream.try_io(Interest::READABLE, || Err::<(), _>(ErrorKind::WouldBlock.into()));
        debug_assert!(empty.is_err(), "the closure only clears the readiness");
    }

    /// Ends one or both directions of a socket. A connection of QUIC ends as a whole, with what was said about it, as
    /// soon as its peer has everything.
    ///
    /// With `is_cut` it has not been handed everything, and ends at once.
    pub(super) fn shutdown(&self, how: Shutdown, goodbye: Option<&Goodbye>, is_cut: bool) {
        match self {
            Self::Tcp(stream) => {
                if let Err(error) = SockRef::from(&**stream).shutdown(how) {
                    tracing::trace!(%error, "the socket was closed already");
                }
            }
            Self::Quic(channel) => {
                let channel = channel.clone();
                let Goodbye { code, reason } = goodbye.cloned().unwrap_or_default();
                if is_cut {
                    channel.close(code, &reason);
                }
                FINISHING.set(FINISHING.get() + 1);
                spawn_local(async move {
                    if !is_cut {
                        drop(tokio::time::timeout(FINISH_WAIT, channel.finish(code, &reason)).await);
                        channel.close(code, &reason);
                    }
                    channel.closed().await;
                    FINISHING.set(FINISHING.get() - 1);
                });
            }
        }
    }
}
