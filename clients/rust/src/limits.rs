//! The bounds of one client, and what happens when they are reached.

use std::time::Duration;

/// Messages that wait for the program. More: the socket is not read.
pub(crate) const MESSAGES_MAX: usize = 1_024;

/// Requests that wait to be written. More: the caller waits.
pub(crate) const COMMANDS_MAX: usize = 256;

/// Requests that wait for an answer. More: the caller waits.
pub(crate) const IN_FLIGHT_MAX: usize = 4_096;

/// Messages whose ids are remembered to drop repeats. More: the oldest is forgotten. A broker that was killed repeats
/// what was acknowledged while its last commits ran, which at full speed is thousands.
pub(crate) const SEEN_MAX: usize = 32_768;

/// Acknowledgements that are written at once. Fewer wait for [`ACK_DELAY`].
pub(crate) const ACK_BATCH: usize = 64;

/// How long an acknowledgement waits for others. Longer: it is written alone.
pub(crate) const ACK_DELAY: Duration = Duration::from_millis(5);

/// Acknowledgements that wait to be written. More: they are forgotten, the broker sends the messages again, and the
/// repeats are acknowledged. Also bounds the addresses among them.
pub(crate) const ACKS_MAX: usize = 16_384;

/// Messages that the program passed over, and their bytes, which take room in the session's window at the broker. More: the oldest is
/// given back.
pub(crate) const PASSED_MAX: usize = 1_024;
pub(crate) const PASSED_BYTES_MAX: usize = 1024 * 1024;

/// Requests that wait for a reply of another client. More: the caller waits.
pub(crate) const REPLIES_MAX: usize = 1_024;

/// How often something that a new session is asked for again may be refused for the moment, each time with more time before the next: some
/// minutes in all. More: it is lost, as what is refused for good.
pub(crate) const RESTORE_ATTEMPTS_MAX: u32 = 16;

/// Events that wait for the program. More: the oldest are lost, and the program is told how many.
pub(crate) const EVENTS_MAX: usize = 1_024;

/// Refusals of a fresh token in a row. More: the client ends.
pub(crate) const TOKEN_ATTEMPTS_MAX: u32 = 2;

/// Signs of life that the broker has not answered. More: none is added until it answers.
pub(crate) const PINGS_MAX: usize = 1_024;

/// Certificates that were not accepted, until it is said why: one for each address that is tried. More: the oldest is described as TLS
/// does.
pub(crate) const REFUSALS_MAX: usize = 8;

/// Bytes of one message from the broker. More: the connection is given up. A message of the largest
/// size is a third longer as base64; escapes and headers come on top.
pub(crate) const INBOUND_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes that are read of a connection to which nothing can be written any more, for why it ended; longer than [`CLOSE_TIMEOUT`] it is not
/// looked for either. More: it is lost without a reason. A socket holds fewer, unless it was told otherwise.
pub(crate) const REST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of requests that are put into one message. A larger request gets one of its own.
pub(crate) const BATCH_BYTES_MAX: usize = 16 * 1024;

/// From the start of connecting to the broker's welcome. Longer: the attempt failed.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection that is being closed may take to finish. Longer: it is dropped.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// QUIC attempts of [`crate::Transport::Auto`] that are left out once one was of no use. More: QUIC is tried again.
#[cfg(feature = "quic")]
pub(crate) const QUIC_SKIPS: u32 = 9;

/// How long [`crate::Transport::Auto`] begins with WebSocket once a connection of QUIC ended before anything came over it. Longer: QUIC
/// begins again.
#[cfg(feature = "quic")]
pub(crate) const QUIC_DISTRUST: Duration = Duration::from_mins(1);

/// How long WebSocket is alone with [`crate::Transport::Auto`] where it begins. Longer: QUIC is tried beside it.
#[cfg(feature = "quic")]
pub(crate) const WEBSOCKET_HEAD_START: Duration = Duration::from_secs(5);

/// How long QUIC is alone with [`crate::Transport::Auto`]. Longer: WebSocket is tried beside it.
#[cfg(feature = "quic")]
pub(crate) const QUIC_HEAD_START: Duration = Duration::from_secs(1);

/// Addresses of a host that are tried over QUIC. More: the first ones only.
#[cfg(feature = "quic")]
pub(crate) const QUIC_ADDRESSES_MAX: usize = 8;

/// How long one address of a host is tried alone over QUIC. Longer: the next one is tried beside it (RFC 8305, 5).
#[cfg(feature = "quic")]
pub(crate) const QUIC_NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// How long one address may take to shake hands over QUIC. Longer: nobody answers there.
#[cfg(feature = "quic")]
pub(crate) const QUIC_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the broker may take to acknowledge what was written to a QUIC connection that is being closed: there is no
/// kernel that goes on to send it. Longer: the rest is lost.
pub(crate) const QUIC_ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Silence of the other side of a QUIC connection, which answers a sign of life every third of that. Longer: it is lost.
#[cfg(feature = "quic")]
pub(crate) const QUIC_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of a QUIC connection that were received and not read, or written and not acknowledged. More: the side that writes
/// waits.
#[cfg(feature = "quic")]
pub(crate) const QUIC_WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// Bytes of datagrams of a QUIC connection that wait, in each direction. More: what is sent goes on the stream, and of what
/// was received the oldest are dropped.
#[cfg(feature = "quic")]
pub(crate) const QUIC_DATAGRAM_BYTES: usize = 256 * 1024;

/// Streams of the broker with one message each that are read at a time, each of at most [`INBOUND_BYTES_MAX`]. More: it has to wait,
/// by the protocol.
#[cfg(feature = "quic")]
pub(crate) const OWN_STREAMS_MAX: u8 = 16;

/// Publishes on streams of their own that the broker has not acknowledged. More: they go on the main stream.
#[cfg(feature = "quic")]
pub(crate) const OWN_STREAMS_SENT_MAX: u8 = 4;

/// Bytes beyond [`QUIC_WINDOW_BYTES`] where there are such streams: received and not read, and written and not acknowledged. More: the
/// side that writes waits, on the main stream, too.
#[cfg(feature = "quic")]
pub(crate) const OWN_STREAMS_TAKEN_BYTES: u32 = 16 * 1024 * 1024;
#[cfg(feature = "quic")]
pub(crate) const OWN_STREAMS_SENT_BYTES: u32 = 5 * 1024 * 1024;

/// Bytes of a publish that is worth a stream of its own. Fewer: it goes on the main stream.
#[cfg(feature = "quic")]
pub(crate) const OWN_STREAM_BYTES_MIN: usize = 16 * 1024;

/// A connection that lasted this long counts as good: the next backoff begins anew.
pub(crate) const STABLE_AFTER: Duration = Duration::from_secs(5);

const _: () = assert!(INBOUND_BYTES_MAX > 2 * waspmq_core::limits::MESSAGE_BYTES_MAX, "any message must fit");
const _: () = assert!(
    INBOUND_BYTES_MAX
        > waspmq_protocol::limits::HISTORY_BYTES_MAX + 2 * waspmq_core::limits::MESSAGE_BYTES_MAX,
    "a page is longer than its bound by at most one message"
);
#[cfg(feature = "quic")]
const _: () = assert!(
    WEBSOCKET_HEAD_START.as_secs() < CONNECT_TIMEOUT.as_secs(),
    "an attempt has time for the other transport"
);
#[cfg(feature = "quic")]
const _: () = assert!(
    OWN_STREAMS_SENT_BYTES as usize > OWN_STREAMS_SENT_MAX as usize * waspmq_core::limits::MESSAGE_BYTES_MAX,
    "as many publishes as may be under way leave the main stream its window"
);
const _: () = assert!(ACK_BATCH <= ACKS_MAX, "a batch must fit");
const _: () = assert!(
    PASSED_MAX <= waspmq_core::limits::WINDOW_MESSAGES_MAX / 4
        && PASSED_BYTES_MAX <= waspmq_core::limits::WINDOW_BYTES_MAX / 4,
    "what is passed over leaves the window to the others"
);
