//! The server's side of the opening handshake: the checks of RFC 6455, 4.2.1.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::request::{Headers, bad_request};
use super::{Deflate, Refusal};

/// What a client offers when it opens a WebSocket connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade<'b> {
    /// `Sec-WebSocket-Key` as sent: the base64 of 16 bytes.
    pub key: &'b str,
    /// In the client's order of preference.
    pub subprotocols: Vec<&'b str>,
    /// What of permessage-deflate it offers and can be answered. Other extensions are left unanswered, which
    /// declines them.
    pub deflate: Option<Deflate>,
}

/// `None` when the request does not ask for WebSocket.
pub(super) fn check<'b>(
    method: &str,
    minor: u8,
    content_length: Option<u64>,
    headers: &Headers<'_, 'b>,
) -> Result<Option<Upgrade<'b>>, Refusal> {
    if !headers.list("upgrade").any(|protocol| protocol.eq_ignore_ascii_case("websocket")) {
        return Ok(None);
    }
    if method != "GET" {
        return Err(Refusal {
            status: 405,
            reason: "Method Not Allowed",
            body: "A WebSocket connection is opened with GET.",
        });
    }
    if minor != 1 {
        return Err(bad_request("A WebSocket connection needs HTTP/1.1; a proxy in front may speak 1.0."));
    }
    if !headers.list("connection").any(|option| option.eq_ignore_ascii_case("upgrade")) {
        return Err(bad_request("The Connection header does not say Upgrade; a proxy may have removed it."));
    }
    if headers.single("sec-websocket-version")? != Some("13") {
        return Err(Refusal {
            status: 426,
            reason: "Upgrade Required",
            body: "Only version 13 of the WebSocket protocol is spoken here.",
        });
    }
    if content_length.is_some_and(|length| length > 0) {
        return Err(bad_request("A WebSocket handshake has no body."));
    }
    let key = headers.single("sec-websocket-key")?.filter(|key| is_key(key));
    let key = key.ok_or(bad_request("The Sec-WebSocket-Key is missing or not the base64 of 16 bytes."))?;
    let subprotocols: Vec<_> = headers.list("sec-websocket-protocol").collect();
    if !subprotocols.iter().all(|name| is_token(name)) {
        return Err(bad_request("A name in Sec-WebSocket-Protocol is not a token."));
    }
    let deflate = Deflate::choose(headers)?;
    Ok(Some(Upgrade { key, subprotocols, deflate }))
}

fn is_key(key: &str) -> bool {
    let mut decoded = [0; 18];
    STANDARD.decode_slice(key, &mut decoded) == Ok(16)
}

/// RFC 9110, 5.6.2.
pub(super) fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(is_token_byte)
}

pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
