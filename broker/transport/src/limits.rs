//! The bounds of this crate: what one connection may make the broker hold or do before it is a session.
//!
//! The size of a message is a bound of the domain and comes from `waspmq_core::limits`.

/// Bytes of a request head, from the method to the empty line. Longer: 431 and the connection is closed.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;

/// Header lines of a request. More: 431 and the connection is closed.
pub const HEADERS_MAX: usize = 64;

/// Fragments of one WebSocket message. More: close code 1008. Bounds the work that one message can cost when its
/// fragments are empty, which the limit of its bytes does not.
pub const FRAGMENTS_MAX: u32 = 1_024;

/// Control frames between the first and the last fragment of one message. More: close code 1008. Outside a
/// fragmented message, control frames are events like any other and fall under the session's rate.
pub const CONTROL_FRAMES_MAX: u32 = 1_024;

/// Bytes of a control frame's payload (RFC 6455, 5.5). More: close code 1002.
pub const CONTROL_BYTES_MAX: usize = 125;

/// The binary logarithm of the window that compressed frames need, which all of them share: a client that offers less
/// room is answered without compression. Messages of one frame are mostly alike within the 4 KiB of 12 bits: batches of
/// them come out 1 to 5 percent longer than with 15 bits, documents of 100 KB by up to a quarter, and clients with
/// little memory are served, too.
pub const DEFLATE_WINDOW_BITS: u8 = 12;

/// Bytes that a compressed message may have in addition to the most of a plain one: what stored blocks and flushes
/// cost one that does not compress. More: the message is too long, as a plain one is.
pub const DEFLATE_OVERHEAD_BYTES: usize = 4 * 1024;

/// Bytes of an inflated message for which memory is kept. A larger one's is given back at the next.
pub const INFLATED_KEPT_BYTES: usize = 256 * 1024;

/// Bytes of a compressed message for which memory is kept. A larger one's is given back at the next.
pub const DEFLATED_KEPT_BYTES: usize = 256 * 1024;

/// Plain bytes that are sealed for a TLS connection ahead of its socket: four records. While the socket has not taken
/// them, nothing else is sealed and the connection's queue waits.
pub const TLS_CHUNK_BYTES: usize = 64 * 1024;

/// Reads of a TLS connection's socket in one turn. rustls asks for 4 KiB at a time, for more only while a record or a
/// handshake message is not complete. Records that carry no data of ours could otherwise be read for ever.
pub const TLS_READS_PER_TURN: usize = 32;

/// Bidirectional streams that a QUIC client may have open: the session's. More: it has to wait, by the protocol.
pub const QUIC_STREAMS_MAX: u32 = 1;

/// As [`QUIC_STREAMS_MAX`] with WebTransport, where the request for the session has one, too.
pub const QUIC_STREAMS_MAX_H3: u32 = 2;

/// Unidirectional streams that a client may have open: HTTP/3 has three, and browsers open one of a reserved type.
pub const QUIC_UNI_STREAMS_MAX: u32 = 5;

/// As [`QUIC_UNI_STREAMS_MAX`], in addition for a client that asked for streams of its own.
pub const QUIC_SIDE_STREAMS_MAX: u32 = 4;

/// Connections of which the first datagram was received and that no worker has begun to serve. More are refused.
pub const QUIC_INCOMING_MAX: usize = 1_024;

/// Bytes that are kept of such a connection while it waits. More are dropped; the peer sends them again.
pub const QUIC_INCOMING_BYTES: u64 = 16 * 1024;

/// Bytes of a handshake that came out of order. More: the connection is closed.
pub const QUIC_CRYPTO_BYTES: usize = 16 * 1024;

/// Bytes of datagrams of one connection, in each direction. What there is no room for is sent on the stream; of what is
/// received, the oldest are dropped for new ones.
pub const QUIC_DATAGRAM_BYTES: usize = 16 * 1024;

/// Bytes of the longest datagram that any path is tried with (RFC 8899), with all that is around a message. What is longer
/// goes on the stream.
pub const QUIC_DATAGRAM_BYTES_MAX: usize = 1_452;

const _: () = assert!(CONTROL_BYTES_MAX < 126, "a control frame's length has no extended form");

const _: () = assert!(
    DEFLATE_WINDOW_BITS > 8 && DEFLATE_WINDOW_BITS < 15,
    "zlib has no raw window of 8 bits, and one of 15 would turn away who offers less"
);
