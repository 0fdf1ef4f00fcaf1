//! What a client counts.

/// What happened to a client so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    pub reconnects: u64,
    /// Compressed messages and dictionaries that could not be read; the client then connects again without compression.
    pub unreadable: u64,
    /// Repeats of messages, dropped here.
    pub duplicates: u64,
    /// Messages the broker dropped because this client did not keep up. Those that it spilled to its store come later and are not
    /// counted; of a connection that it closed for that, a resume brings those that were stored, too.
    pub overflowed: u64,
    /// Errors that answer no request, such as a refused [`crate::Client::send`], and subscriptions or groups the
    /// broker has taken away or did not give back after a reconnect; [`crate::Event::Refused`] tells each.
    pub refused: u64,
    /// Acknowledgements of messages that were not in flight any more. Harmless: the broker had sent the message again.
    pub late_acks: u64,
    /// Replies that came when nobody waited for them any more, dropped here.
    pub late_replies: u64,
}
