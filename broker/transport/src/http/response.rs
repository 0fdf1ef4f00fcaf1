//! The two answers to a handshake: WebSocket from here on, or a refusal and the end of the connection.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use super::is_token;
use super::{Deflate, Refusal};

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
pub fn error_response(status: u16, reason: &str, body: &str, out: &mut Vec<u8>) {
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
    out.extend_from_slice(format!("\r\n{body}\n").as_bytes());
}

impl Refusal {
    /// Appends the answer that tells the peer.
    pub fn write(&self, out: &mut Vec<u8>) {
        error_response(self.status, self.reason, self.body, out);
    }
}

fn header(name: &str, value: &str, out: &mut Vec<u8>) {
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}
