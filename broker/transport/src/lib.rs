//! How bytes of a TCP connection become WebSocket messages, and back.
//!
//! - [`http`]: one HTTP/1.1 request head, the checks of the WebSocket handshake (RFC 6455, 4.2) and the answers.
//! - [`websocket`]: server side framing (RFC 6455, 5 to 8): a [`websocket::Decoder`] per connection and free
//!   functions that write frames. A written frame is a plain byte string that any number of connections share.
//! - [`tls`]: what lies between the socket and these bytes where the listener has a certificate.
//! - [`quic`]: QUIC and WebTransport on a UDP socket.
//! - [`origin`]: which web pages may connect, and which host names the admin listener answers to.
//!
//! Apart from [`quic`], nothing here does I/O or reads a clock: bytes come in as slices of the caller's buffer and go out
//! into the caller's `Vec`; TLS, which buffers by itself, is handed whatever reads and writes. QUIC has its own sockets
//! and timers in quinn. Time limits belong to whoever owns a connection. There is no client side. The one extension is permessage-deflate (RFC 7692), without context takeover, where the caller negotiates it.

pub mod http;
pub mod limits;
pub mod origin;
pub mod quic;
pub mod tls;
pub mod websocket;
