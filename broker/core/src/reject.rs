//! What a peer is told when something is refused: a stable number, a name, whether to try again.
//!
//! Numbers are never reused; a retired one stays in the table as retired. `docs/ERRORS.md` is checked against
//! this table by a test.

/// One row of the table: number, name, and whether the same request may succeed later.
macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal $name:literal $retry:literal $closes:literal,)+) => {
        /// A stable error number (1000-3999) of the client protocol.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Code { $($(#[doc = $doc])+ $variant = $number,)+ }

        impl Code {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable name, as in an error frame's `name`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// Whether the same request may succeed later without a change.
            pub const fn is_retryable(self) -> bool {
                match self { $(Self::$variant => $retry,)+ }
            }

            /// Whether the peer broke the protocol, so that the connection is closed after the error frame.
            pub const fn closes(self) -> bool {
                match self { $(Self::$variant => $closes,)+ }
            }

            /// One sentence for the documentation.
            pub const fn summary(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)+ }
            }

            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

codes! {
    /// The bytes are not a frame: bad JSON, a bad binary header, a missing or ill-typed field.
    InvalidFrame = 1400 "invalid_frame" false false,
    /// The token is missing, expired or not valid.
    Unauthorized = 1401 "unauthorized" false true,
    /// The session's token ended; `refresh` in time, or connect with a new one.
    TokenExpired = 1402 "token_expired" false true,
    /// The session may not do this.
    Forbidden = 1403 "forbidden" false false,
    /// The thing named does not exist, such as a subscription to be removed.
    NotFound = 1404 "not_found" false false,
    /// The frame's type is not known.
    UnknownType = 1405 "unknown_type" false false,
    /// Something other than `connect` was sent before `connect` succeeded.
    NotConnected = 1406 "not_connected" false true,
    /// `connect` was sent twice.
    AlreadyConnected = 1407 "already_connected" false true,
    /// `connect` did not arrive in time.
    ConnectTimeout = 1408 "connect_timeout" true true,
    /// The address or pattern is not valid; the message says why.
    InvalidAddress = 1410 "invalid_address" false false,
    /// A user, device or queue name is not valid; the message says why.
    InvalidName = 1411 "invalid_name" false false,
    /// The payload is not one JSON value of bounded depth in valid UTF-8.
    InvalidPayload = 1412 "invalid_payload" false false,
    /// The frame is larger than `limits.max_message_bytes` of the welcome frame.
    MessageTooLarge = 1413 "message_too_large" false true,
    /// The frame is not in the connection's profile: binary in JSON or text in binary, or bad UTF-8.
    WrongProfile = 1415 "wrong_profile" false true,
    /// The session has as many subscriptions as it may have.
    TooManySubscriptions = 1420 "too_many_subscriptions" false false,
    /// The user has as many sessions as one may have.
    TooManySessions = 1421 "too_many_sessions" true true,
    /// The group has as many members as it may have.
    GroupFull = 1422 "group_full" false false,
    /// The user is in as many groups as one may be in.
    TooManyGroups = 1423 "too_many_groups" false false,
    /// The queue has as many members as it may have, or there are as many queues as there may be.
    QueueFull = 1424 "queue_full" false false,
    /// The session watches as many users as it may watch.
    TooManyWatched = 1425 "too_many_watched" false false,
    /// The user is watched by as many sessions as one may be watched by.
    TooManyWatchers = 1426 "too_many_watchers" true false,
    /// The peer sent more than its rate allows.
    RateLimited = 1429 "rate_limited" true false,
    /// The message that an ack or nack names is not in flight to this session.
    NotInFlight = 1430 "not_in_flight" false false,
    /// More recipients than the delivery of one message may be tracked for.
    TooManyRecipients = 1431 "too_many_recipients" false false,
    /// The address keeps no messages, so none can be stored or read.
    NotStored = 1432 "not_stored" false false,
    /// The frame or the level asked for is part of the protocol but not built in this version.
    NotSupported = 1501 "not_supported" false false,
    /// The broker has no room for the message right now.
    Overloaded = 1503 "overloaded" true false,
    /// The broker is leaving service.
    Draining = 1504 "draining" true false,
    /// The store has no space for the message; nothing of it was kept.
    StorageFull = 1505 "storage_full" true false,
    /// The store failed; whether the message was kept is not known.
    StorageFailed = 1506 "storage_failed" true false,
    /// No recipient, where a level above `accepted` was asked.
    NoRecipients = 1510 "no_recipients" true false,
    /// All attempts to deliver failed; the message text has the cause.
    NotDelivered = 1511 "not_delivered" true false,
    /// The message's time to live ended before it was delivered.
    Expired = 1512 "expired" false false,
    /// A policy dropped the message; the message text is the policy's reason.
    DroppedByPolicy = 1520 "dropped_by_policy" false false,
    /// A policy failed and is configured to refuse messages then.
    PolicyFailed = 1521 "policy_failed" true false,
    /// A policy does not take the message in; the message text is the policy's reason.
    RefusedByPolicy = 1522 "refused_by_policy" true false,
}

impl Code {
    pub const fn number(self) -> u16 {
        self as u16
    }
}

/// A refusal on its way to the peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Reject {
    pub code: Code,
    pub message: String,
    /// Milliseconds to wait before trying again; 0 when [`Code::is_retryable`] is false or the wait is unknown.
    pub retry_ms: u32,
}

impl Reject {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_ms: 0 }
    }

    #[must_use]
    pub const fn retry_after(mut self, retry_ms: u32) -> Self {
        self.retry_ms = retry_ms;
        self
    }
}

impl From<crate::address::AddressError> for Reject {
    fn from(error: crate::address::AddressError) -> Self {
        Self::new(Code::InvalidAddress, error.to_string())
    }
}

/// Why a connection ends, as its WebSocket close code: 4000-4099 do not reconnect, 4100-4199 do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Close {
    /// The peer broke the protocol; the error frame before it says how.
    ProtocolViolation = 4000,
    /// The peer was refused: token, origin or limits.
    Refused = 4001,
    /// An operator ended the session.
    Kicked = 4002,
    /// A newer session of the same user took this one's place.
    Replaced = 4003,
    /// The session's token ended or was not accepted any more.
    TokenExpired = 4004,
    /// The broker is leaving service.
    Draining = 4100,
    /// The peer was silent for longer than twice the heartbeat.
    HeartbeatLost = 4101,
    /// `connect` did not arrive in time.
    ConnectTimeout = 4102,
    /// The broker had no room for this connection at the moment.
    Overloaded = 4103,
    /// The connection did not keep up, and its address closes those that do not.
    SlowConsumer = 4104,
}

impl Close {
    pub const ALL: &'static [Self] = &[
        Self::ProtocolViolation,
        Self::Refused,
        Self::Kicked,
        Self::Replaced,
        Self::TokenExpired,
        Self::Draining,
        Self::HeartbeatLost,
        Self::ConnectTimeout,
        Self::Overloaded,
        Self::SlowConsumer,
    ];

    pub const fn number(self) -> u16 {
        self as u16
    }

    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|close| close.number() == number)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::ProtocolViolation => "protocol_violation",
            Self::Refused => "refused",
            Self::Kicked => "kicked",
            Self::Replaced => "replaced",
            Self::TokenExpired => "token_expired",
            Self::Draining => "draining",
            Self::HeartbeatLost => "heartbeat_lost",
            Self::ConnectTimeout => "connect_timeout",
            Self::Overloaded => "overloaded",
            Self::SlowConsumer => "slow_consumer",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_range_and_found_again() {
        for &code in Code::ALL {
            assert!((1000..4000).contains(&code.number()), "{code:?}");
            assert_eq!(Code::from_number(code.number()), Some(code));
        }
        for close in Close::ALL {
            assert!((4000..4200).contains(&close.number()), "{close:?}");
            assert_eq!(Close::from_number(close.number()), Some(*close));
        }
        assert_eq!(Close::from_number(1000), None);
    }
}
