//! Answers: WebSocket or events from here on, what became of a request, or a refusal and the end of the connection.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use super::is_token;
use super::{Asker, Deflate, Refusal};

/// RFC 6455, 1.3.
const KEY_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Appends the `101 Switching Protocols` answer to a handshake with `key`; what follows it is WebSocket.
///
/// `subprotocol` must be one the client offered, or absent; `deflate` what it offered, or absent to decline it.
///
/// # Panics
/// When `subprotocol` is not a token: it would break the head apart. One from
/// [`Upgrade::subprotocols`](super::Upgrade::subprotocols) always is.
pub fn accept_response(key: &str, subprotocol: Option<&str>, deflate: Option<Deflate>, out: &mut Vec<u8>) {
    let digest = Sha1::new().chain_update(key).chain_update(KEY_SUFFIX).finalize();
    let accept = STANDARD.encode(digest);
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
    );
    header("Sec-WebSocket-Accept", &accept, out);
    if let Some(subprotocol) = subprotocol {
        assert!(is_token(subprotocol), "a subprotocol is a token");
        header("Sec-WebSocket-Protocol", subprotocol, out);
    }
    if let Some(deflate) = deflate {
        header("Sec-WebSocket-Extensions", deflate.answer(), out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends an answer with a text body, after which the connection is closed. 405 and 426 name what is allowed
/// instead, as HTTP asks for.
pub fn error_response(refusal: &Refusal, asker: Asker<'_>, out: &mut Vec<u8>) {
    let Refusal { status, reason, body } = *refusal;
    out.extend_from_slice(format!("HTTP/1.1 {status} {reason}\r\n").as_bytes());
    match status {
        405 => header("Allow", "GET", out),
        426 => {
            header("Upgrade", "websocket", out);
            header("Sec-WebSocket-Version", "13", out);
        }
        _ => {}
    }
    header("Connection", if status == 426 { "Upgrade, close" } else { "close" }, out);
    header("Content-Type", "text/plain; charset=utf-8", out);
    header("Content-Length", &(body.len() + 1).to_string(), out);
    out.extend_from_slice(b"\r\n");
    if !asker.is_head {
        out.extend_from_slice(format!("{body}\n").as_bytes());
    }
}

/// Appends the head of a stream of events (WHATWG HTML, 9.2), which lasts until the connection ends. `origin`, when the
/// request names one, must be allowed to read it.
pub fn events_response(origin: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n",
    );
    // nginx would gather events before it passes them on.
    header("X-Accel-Buffering", "no", out);
    share_with(origin, out);
    header("Connection", "close", out);
    out.extend_from_slice(b"\r\n");
}

/// An answer with a JSON body.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    pub status: u16,
    pub reason: &'static str,
    /// A JSON value.
    pub body: &'a [u8],
    /// The methods that the path takes, which a 405 names (RFC 9110, 15.5.6); "" says nothing.
    pub allow: &'static str,
    /// Seconds to wait before another try; 0 says nothing.
    pub retry_after_s: u32,
    pub asker: Asker<'a>,
    /// Whether the connection takes another request.
    pub is_kept: bool,
}

impl Answer<'_> {
    /// Appends the answer.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Self { status, reason, body, .. } = self;
        out.extend_from_slice(format!("HTTP/1.1 {status} {reason}\r\n").as_bytes());
        header("Content-Type", "application/json", out);
        header("Content-Length", &body.len().to_string(), out);
        header("Cache-Control", "no-store", out);
        if !self.allow.is_empty() {
            header("Allow", self.allow, out);
        }
        if self.retry_after_s > 0 {
            header("Retry-After", &self.retry_after_s.to_string(), out);
        }
        share_with(self.asker.origin, out);
        header("Connection", if self.is_kept { "keep-alive" } else { "close" }, out);
        out.extend_from_slice(b"\r\n");
        if !self.asker.is_head {
            out.extend_from_slice(body);
        }
    }
}

/// Appends the answer to a browser that asks whether a page may send what it is about to (Fetch, 3.3.2).
pub fn preflight_response(origin: Option<&str>, is_kept: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 204 No Content\r\n");
    share_with(origin, out);
    header("Access-Control-Allow-Methods", "GET, POST", out);
    header("Access-Control-Allow-Headers", "Authorization, Content-Type, Last-Event-ID", out);
    header("Access-Control-Max-Age", "600", out);
    header("Connection", if is_kept { "keep-alive" } else { "close" }, out);
    out.extend_from_slice(b"\r\n");
}

/// What a client waits for that said `Expect: 100-continue` (RFC 9110, 10.1.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Lets the page that asks read the answer.
fn share_with(origin: Option<&str>, out: &mut Vec<u8>) {
    if let Some(origin) = origin {
        header("Access-Control-Allow-Origin", origin, out);
        header("Vary", "Origin", out);
    }
}

fn header(name: &str, value: &str, out: &mut Vec<u8>) {
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}
