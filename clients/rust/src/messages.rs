//! The receiving end of a client.

use crate::shared::Shared;
use std::sync::Arc;
use tokio::sync::mpsc;
use waspmq_protocol::server::Message;

/// Messages in the order they came. While nobody takes them and the queue is full, the connection is not read,
/// answers to requests included: receive in one task and publish in another. Dropping this discards messages.
///
/// Taking a message acknowledges it, unless the client was built with [`crate::Builder::manual_acks`].
#[derive(Debug)]
pub struct Messages {
    pub(crate) queue: mpsc::Receiver<Message>,
    pub(crate) shared: Arc<Shared>,
}

impl Messages {
    /// The next message; waits through reconnects. `None` when the client has ended: [`crate::Client::close`]
    /// tells why. Cancel safe: a message is not lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<Message> {
        self.queue.recv().await.inspect(|message| self.shared.inbox.handle_taken(message))
    }

    /// A message that is here already.
    pub fn try_recv(&mut self) -> Option<Message> {
        self.queue.try_recv().ok().inspect(|message| self.shared.inbox.handle_taken(message))
    }
}
