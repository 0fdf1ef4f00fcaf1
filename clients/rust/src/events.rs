//! What happens besides messages.

use tokio::sync::broadcast;
use waspmq_protocol::server::{Overflow, PresenceChange, Read, Refusal};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A watched user came or went, see [`crate::Client::watch`].
    Presence(PresenceChange),
    /// Another session of this user has read.
    Read(Read),
    /// The broker dropped messages because this client did not keep up; with [`crate::OverflowAction::Spill`] it reads them from its
    /// store later.
    Overflow(Overflow),
    /// The connection was lost and made again.
    Reconnected {
        /// Whether the session goes on; if not, what was subscribed has been asked for again.
        resumed: bool,
        /// Whether nothing was missed.
        recovered: bool,
    },
    /// The broker refused what no call waits for: a subscription or a membership, then it says which, that it has taken away or did not
    /// give back after a reconnect, and that is not asked for any more; or a message of [`crate::Client::send`], or a watch.
    Refused {
        /// The address of the subscription or the group.
        of: Option<String>,
        refusal: Refusal,
    },
    /// So many events were lost because nobody took them.
    Missed(u64),
}

/// Events from the moment this was made. Never holds up the connection: of events that nobody takes, the oldest are
/// lost.
#[derive(Debug)]
pub struct Events {
    pub(crate) queue: broadcast::Receiver<Event>,
}

impl Events {
    /// The next event; `None` when the client has ended. Cancel safe.
    pub async fn recv(&mut self) -> Option<Event> {
        match self.queue.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(count)) => Some(Event::Missed(count)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// An event that is here already.
    pub fn try_recv(&mut self) -> Option<Event> {
        match self.queue.try_recv() {
            Ok(event) => Some(event),
            Err(broadcast::error::TryRecvError::Lagged(count)) => Some(Event::Missed(count)),
            Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed) => None,
        }
    }
}
