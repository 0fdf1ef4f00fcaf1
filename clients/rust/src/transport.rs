//! What carries the frames.

use std::fmt;

/// What lies below the frames. Without [`crate::Builder::transport`] the URL says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// QUIC where it works, otherwise WebSocket: QUIC begins, WebSocket joins in after a second or as soon as QUIC has
    /// failed, and who is connected first is used. A client that had to do without QUIC tries it again at the tenth
    /// reconnect. Where QUIC connects and then nothing comes over it, WebSocket begins for a minute: some networks lose
    /// all but the smallest datagrams. WebSocket is with TLS unless the URL begins with `ws://`; QUIC always is, and asks for the same
    /// certificates. Where those were named ([`crate::Builder::tls_ca`], [`crate::Builder::tls_fingerprint`]), a `ws://` URL means
    /// QUIC alone: to go on without TLS is refused, with an error that says so. With [`crate::Profile::Json`], WebSocket alone.
    Auto,
    /// `ws://` and `wss://`.
    WebSocket,
    /// `quic://`: one stream of a QUIC connection. The binary profile only.
    Quic,
    /// `wt://`: WebTransport over HTTP/3, which is what browsers have of QUIC. The binary profile only.
    WebTransport,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::WebSocket => "WebSocket",
            Self::Quic => "QUIC",
            Self::WebTransport => "WebTransport",
        })
    }
}
