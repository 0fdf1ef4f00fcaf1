//! How the delivery of a message is acknowledged, retried and given up.

/// How many recipients must acknowledge before a message counts as delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Quorum {
    /// One of them.
    Any,
    /// This many, or all when there are fewer.
    Count(u32),
    #[default]
    All,
}

impl Quorum {
    /// Acks needed of `recipients`.
    pub fn of(self, recipients: u32) -> u32 {
        match self {
            Self::Any => recipients.min(1),
            Self::Count(count) => recipients.min(count.max(1)),
            Self::All => recipients,
        }
    }
}

/// The wait before a repeat: it doubles with every attempt up to a cap, and a part of it is random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Backoff {
    pub initial_ms: u32,
    pub max_ms: u32,
    /// The part that is random, 0 to 100.
    pub jitter_percent: u8,
}

/// What becomes of a message for a recipient that all attempts failed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Exhausted {
    /// It is kept as a dead letter.
    #[default]
    DeadLetter,
    Drop,
}

/// How one message is acknowledged and retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AckPlan {
    pub quorum: Quorum,
    /// What an attempt may take until it counts as failed.
    pub timeout_ms: u32,
    /// Deliveries to one recipient, the first included; at least 1.
    pub attempts: u16,
    pub backoff: Backoff,
    pub exhausted: Exhausted,
}

impl Default for AckPlan {
    fn default() -> Self {
        Self {
            quorum: Quorum::All,
            timeout_ms: 10_000,
            attempts: 5,
            backoff: Backoff { initial_ms: 500, max_ms: 30_000, jitter_percent: 20 },
            exhausted: Exhausted::DeadLetter,
        }
    }
}

/// Why an attempt failed; a closed set, used as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// No answer in time.
    Timeout,
    /// The recipient refused it for now.
    Nack,
    /// The recipient has as many unacknowledged messages, or as many waiting, as it may have.
    QueueFull,
    /// The recipient has no session.
    Offline,
    /// The connection ended before the ack.
    ConnectionLost,
    /// The message's time to live ended.
    Expired,
    /// The broker left service. Nothing is decided about it: the attempts were not used up.
    Stopped,
}

impl Cause {
    pub const ALL: [Self; 7] = [
        Self::Timeout,
        Self::Nack,
        Self::QueueFull,
        Self::Offline,
        Self::ConnectionLost,
        Self::Expired,
        Self::Stopped,
    ];

    /// Those that a message can be kept as a dead letter for: one that has expired is of no more use to anybody.
    pub const OF_DEAD_LETTERS: [Self; 6] =
        [Self::Timeout, Self::Nack, Self::QueueFull, Self::Offline, Self::ConnectionLost, Self::Stopped];

    /// The word in ledgers, errors and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Nack => "nack",
            Self::QueueFull => "queue_full",
            Self::Offline => "offline",
            Self::ConnectionLost => "connection_lost",
            Self::Expired => "expired",
            Self::Stopped => "stopped",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == text)
    }
}
