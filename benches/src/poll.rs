//! The thinnest layer over epoll, level-triggered, that relay and load generator share.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

pub(crate) use rustix::event::epoll::Event;

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 2048;

#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// Watches `source` for reading, under `key`.
    pub(crate) fn add(&self, source: impl AsFd, key: usize) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, source, EventData::new_u64(key as u64), EventFlags::IN)?)
    }

    /// Watches `source` for writing too, or no longer.
    pub(crate) fn watch_writes(&self, source: impl AsFd, key: usize, on: bool) -> io::Result<()> {
        let flags = if on { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        Ok(epoll::modify(&self.epoll, source, EventData::new_u64(key as u64), flags)?)
    }

    /// Watches `source` no longer.
    pub(crate) fn remove(&self, source: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, source)?)
    }

    /// Fills `events` with what is ready, waiting at most `timeout` (for ever when `None`). An interrupted wait is
    /// an empty one.
    pub(crate) fn wait(&self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        events.clear();
        events.reserve(EVENTS_MAX);
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The key given to [`Poller::add`].
pub(crate) fn key(event: &Event) -> usize {
    usize::try_from(event.data.u64()).unwrap_or(usize::MAX)
}

pub(crate) fn is_writable(event: &Event) -> bool {
    let flags = event.flags;
    flags.contains(EventFlags::OUT)
}

/// Data, the end of the stream or an error: all three are found by reading.
pub(crate) fn is_readable(event: &Event) -> bool {
    let flags = event.flags;
    flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR)
}
