//! One worker's counters and histograms: written by that worker alone, read by whoever scrapes.
//!
//! A single writer needs no read-modify-write: it stores what it loaded plus one, relaxed, which costs as much
//! as a plain number. Readers may see one figure a moment before another.

use std::sync::atomic::{AtomicU64, Ordering};
use waspmq_core::compression::Codec;
use waspmq_core::delivery::Cause;
use waspmq_core::settings::Overflow;
use waspmq_core::{Code, Kind};
use waspmq_protocol::codec::PackedCodec;

/// A count that only its owner changes.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// For figures that go up and down.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One count, or another figure, per kind of address.
#[derive(Debug, Default)]
pub struct ByKind<T = Count>([T; 4]);

impl<T> ByKind<T> {
    pub const fn of(&self, kind: Kind) -> &T {
        let [user, group, topic, all] = &self.0;
        match kind {
            Kind::User => user,
            Kind::Group => group,
            Kind::Topic => topic,
            Kind::All => all,
        }
    }
}

/// What a connection comes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    WebSocket,
    Quic,
    WebTransport,
    /// Server-sent events, and the requests of those who get them.
    Sse,
}

impl Transport {
    pub const ALL: [Self; 4] = [Self::WebSocket, Self::Quic, Self::WebTransport, Self::Sse];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Quic => "quic",
            Self::WebTransport => "webtransport",
            Self::Sse => "sse",
        }
    }
}

/// One count, or several, per transport.
#[derive(Debug, Default)]
pub struct ByTransport<T = Count>([T; 4]);

impl<T> ByTransport<T> {
    pub const fn of(&self, transport: Transport) -> &T {
        let [websocket, quic, webtransport, sse] = &self.0;
        match transport {
            Transport::WebSocket => websocket,
            Transport::Quic => quic,
            Transport::WebTransport => webtransport,
            Transport::Sse => sse,
        }
    }
}

/// Messages by what was done with them because a connection's outbound queue was full.
#[derive(Debug, Default)]
pub struct ByAction([Count; Overflow::ALL.len()]);

impl ByAction {
    pub const fn of(&self, action: Overflow) -> &Count {
        let [drop_oldest, drop_newest, conflate, spill, close] = &self.0;
        match action {
            Overflow::DropOldest => drop_oldest,
            Overflow::DropNewest => drop_newest,
            Overflow::Conflate => conflate,
            Overflow::Spill => spill,
            Overflow::Close => close,
        }
    }

    /// Messages that were dropped: all but the spilled ones.
    pub fn dropped(&self) -> u64 {
        let dropped = Overflow::ALL.into_iter().filter(|&action| action != Overflow::Spill);
        dropped.map(|action| self.of(action).load()).sum()
    }
}

/// What was compressed with one codec, in both directions.
#[derive(Debug, Default)]
pub struct Compressed {
    /// Messages, or WebSocket messages, that were compressed, whether it made them smaller or not.
    pub messages: Count,
    /// Bytes that were to be sent, and those that are sent instead, each counted once however many get them.
    pub plain_out: Count,
    pub wire_out: Count,
    pub spent_ns: Count,
    /// Bytes that came, and what they were unpacked to.
    pub wire_in: Count,
    pub plain_in: Count,
}

/// What was compressed, by codec.
#[derive(Debug, Default)]
pub struct ByCodec([Compressed; 4]);

impl ByCodec {
    /// Their names, in the order of [`Self::each`].
    pub const NAMES: [&'static str; 4] = ["lz4", "zstd", "zstd-dict", "deflate"];

    /// That of a codec; what goes plain is not counted, and asking for it gives the first.
    pub const fn of(&self, codec: &Codec) -> &Compressed {
        let [lz4, zstd, dictionary, deflate] = &self.0;
        match codec {
            Codec::Plain | Codec::Lz4 => lz4,
            Codec::Zstd { .. } => zstd,
            Codec::Dictionary { .. } => dictionary,
            Codec::Deflate { .. } => deflate,
        }
    }

    pub const fn of_packed(&self, codec: PackedCodec) -> &Compressed {
        let [lz4, zstd, dictionary, _] = &self.0;
        match codec {
            PackedCodec::Lz4 => lz4,
            PackedCodec::Zstd => zstd,
            PackedCodec::Dictionary { .. } => dictionary,
        }
    }

    /// That of permessage-deflate.
    pub const fn deflate(&self) -> &Compressed {
        let [.., deflate] = &self.0;
        deflate
    }

    pub const fn each(&self) -> &[Compressed; 4] {
        &self.0
    }
}

/// Upper bounds in microseconds: from one turn of a quiet worker to a client that is as good as gone.
pub const LATENCY_BOUNDS_US: [u64; 14] =
    [50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000];

/// A latency histogram with fixed bounds; the last bucket is everything above them.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [Count; LATENCY_BOUNDS_US.len() + 1],
    sum_us: Count,
}

impl Latency {
    /// Adds `n` observations of the same duration.
    pub fn observe(&self, us: u64, n: u64) {
        let index = LATENCY_BOUNDS_US.partition_point(|&bound| bound < us);
        if let Some(bucket) = self.buckets.get(index) {
            bucket.add(n);
        }
        self.sum_us.add(us.saturating_mul(n));
    }

    /// Observations per bucket, not cumulated, in the order of [`LATENCY_BOUNDS_US`].
    pub fn buckets(&self) -> [u64; LATENCY_BOUNDS_US.len() + 1] {
        std::array::from_fn(|i| self.buckets.get(i).map_or(0, Count::load))
    }

    pub fn sum_us(&self) -> u64 {
        self.sum_us.load()
    }
}

/// Why a connection ended; a closed set, used as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The peer closed, or its network did.
    ByPeer,
    /// The peer broke HTTP, WebSocket or the frame protocol.
    Protocol,
    /// Refused before it had a session.
    Refused,
    Kicked,
    Drained,
    Timeout,
    Overloaded,
}

impl Ended {
    pub const ALL: [Self; 7] = [
        Self::ByPeer,
        Self::Protocol,
        Self::Refused,
        Self::Kicked,
        Self::Drained,
        Self::Timeout,
        Self::Overloaded,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ByPeer => "peer",
            Self::Protocol => "protocol",
            Self::Refused => "refused",
            Self::Kicked => "kicked",
            Self::Drained => "drained",
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
        }
    }
}

/// What became of a publish; a closed set, used as a metric label and by tails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Accepted,
    /// Refused before routing: bad address, rate, level, drain.
    Rejected,
    DroppedByPolicy,
    PolicyFailed,
    RefusedByPolicy,
    Duplicate,
    Overloaded,
}

impl Outcome {
    pub const ALL: [Self; 7] = [
        Self::Accepted,
        Self::Rejected,
        Self::DroppedByPolicy,
        Self::PolicyFailed,
        Self::RefusedByPolicy,
        Self::Duplicate,
        Self::Overloaded,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::DroppedByPolicy => "dropped_by_policy",
            Self::PolicyFailed => "policy_failed",
            Self::RefusedByPolicy => "refused_by_policy",
            Self::Duplicate => "duplicate",
            Self::Overloaded => "overloaded",
        }
    }

    /// Of a publish that was refused.
    pub const fn of_refusal(code: Code) -> Self {
        match code {
            Code::DroppedByPolicy => Self::DroppedByPolicy,
            Code::PolicyFailed => Self::PolicyFailed,
            Code::RefusedByPolicy => Self::RefusedByPolicy,
            Code::Overloaded => Self::Overloaded,
            _ => Self::Rejected,
        }
    }
}

/// Publishes by what became of them.
#[derive(Debug, Default)]
pub struct Published {
    pub accepted: ByKind,
    pub rejected: ByKind,
    pub dropped_by_policy: ByKind,
    pub policy_failed: ByKind,
    pub refused_by_policy: ByKind,
    pub duplicate: ByKind,
    pub overloaded: ByKind,
}

impl Published {
    pub const fn of(&self, outcome: Outcome) -> &ByKind {
        match outcome {
            Outcome::Accepted => &self.accepted,
            Outcome::Rejected => &self.rejected,
            Outcome::DroppedByPolicy => &self.dropped_by_policy,
            Outcome::PolicyFailed => &self.policy_failed,
            Outcome::RefusedByPolicy => &self.refused_by_policy,
            Outcome::Duplicate => &self.duplicate,
            Outcome::Overloaded => &self.overloaded,
        }
    }
}

/// Datagrams of QUIC by what became of them; a closed set, used as a metric label.
#[derive(Debug, Default)]
pub struct Datagrams {
    pub sent: Count,
    /// Messages that would have been one, and were longer than the path takes.
    pub large: Count,
    /// The same, when as many waited as may.
    pub full: Count,
    pub taken: Count,
    /// Those of clients with something that may not come in one.
    pub refused: Count,
    /// Those of clients that do not read their answers, or are closing.
    pub dropped: Count,
}

/// Streams of QUIC with long messages by what became of them; a closed set, used as a metric label.
#[derive(Debug, Default)]
pub struct Streams {
    pub sent: Count,
    /// Messages that would have had one, when as many were under way as may, or as much waited.
    pub full: Count,
    /// Those that the client did not want to have any more.
    pub stopped: Count,
    pub taken: Count,
    /// Those of clients with something that may not come on one, or that ended within a message.
    pub refused: Count,
    /// Those that clients gave up, or whose connection ended.
    pub reset: Count,
}

/// Everything one worker counts.
#[derive(Debug, Default)]
pub struct Counters {
    pub connections: Count,
    /// The same, by what they come over.
    pub connections_by: ByTransport,
    pub sessions: Count,
    pub connections_opened: Count,
    connections_closed: [Count; Ended::ALL.len()],
    pub connection_duration_us: Latency,
    pub handshakes_refused: Count,
    /// TLS handshakes that were completed, and those of connections that ended before.
    pub tls_completed: Count,
    pub tls_failed: Count,
    pub published: Published,
    /// Connections that began to wait, unread, for room in the journal.
    pub journal_waits: Count,
    /// Messages completely written to a connection.
    pub delivered: ByTransport<ByKind>,
    pub datagrams: Datagrams,
    pub streams: Streams,
    /// Messages that met a full outbound queue, or made room in one.
    pub slow_consumers: ByAction,
    /// Messages whose time to live ended before they were written, per connection.
    pub dropped_expired: Count,
    /// Messages in the queue of a connection that ended before they were written.
    pub dropped_connection_lost: Count,
    /// Live messages dropped because a session that catches up holds too many.
    pub dropped_catching_up: Count,
    /// Acks and nacks for messages that were not in flight to the session.
    pub acks_not_in_flight: Count,
    /// From sending a message to its ack.
    pub ack_latency: Latency,
    pub redeliveries: Count,
    dead_letters: [Count; Cause::ALL.len()],
    given_up: [Count; Cause::ALL.len()],
    /// Recipients without a session that deliveries wait for.
    pub waiting_offline: Count,
    /// Deliveries that wait for an ack: messages times recipients.
    pub tracked_deliveries: Count,
    /// Memory of the messages they are of.
    pub tracked_bytes: Count,
    /// Messages for a queue without a member to take them.
    pub dropped_no_member: Count,
    /// From publish to the write that finished the message.
    pub delivery_latency: ByKind<Latency>,
    /// Bytes that outbound queues pin.
    pub outbound_queue_bytes: Count,
    /// Changes of presence queued for a connection that watches the user.
    pub presence_told: Count,
    /// Changes of presence left out because a watching connection owed too much; it catches up.
    pub presence_deferred: Count,
    /// Error frames sent.
    pub errors_sent: Count,
    pub bytes_read: Count,
    pub bytes_written: Count,
    pub compression: ByCodec,
    /// Dictionaries sent to connections, and messages that came and could not be unpacked.
    pub dictionaries_sent: Count,
    pub unpack_failures: Count,
}

impl Counters {
    /// Messages kept as dead letters.
    pub fn dead_letters(&self, cause: Cause) -> &Count {
        by_cause(&self.dead_letters, cause)
    }

    /// Messages given up and not kept.
    pub fn given_up(&self, cause: Cause) -> &Count {
        by_cause(&self.given_up, cause)
    }

    /// All of them ended with the worker.
    pub(super) fn forget_connections(&self) {
        self.connections.set(0);
        Transport::ALL.iter().for_each(|&transport| self.connections_by.of(transport).set(0));
    }

    pub fn closed(&self, reason: Ended) -> &Count {
        let index = Ended::ALL.iter().position(|&other| other == reason).unwrap_or_default();
        let [first, ..] = &self.connections_closed;
        self.connections_closed.get(index).unwrap_or(first)
    }
}

fn by_cause(counts: &[Count; Cause::ALL.len()], cause: Cause) -> &Count {
    let index = Cause::ALL.iter().position(|&other| other == cause).unwrap_or_default();
    let [first, ..] = counts;
    counts.get(index).unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_fall_into_their_bucket() {
        let latency = Latency::default();
        latency.observe(50, 2);
        latency.observe(51, 1);
        latency.observe(u64::MAX / 2, 1);
        let buckets = latency.buckets();
        assert_eq!((buckets[0], buckets[1], buckets[14]), (2, 1, 1));
        assert_eq!(buckets.iter().sum::<u64>(), 4);
    }

    #[test]
    fn every_end_has_its_own_count() {
        let counters = Counters::default();
        for reason in Ended::ALL {
            counters.closed(reason).add(1);
        }
        assert!(Ended::ALL.iter().all(|&reason| counters.closed(reason).load() == 1));
    }
}
