//! A request head, parsed from whatever part has arrived.
//!
//! Invariants:
//! - What is accepted has one meaning: a header that decides something (`Host`, `Origin`, `Content-Length`, the
//!   handshake's) stands at most once and is text, so nobody in front of the broker can have read another one.
//! - Bytes behind the head are not looked at.

use super::upgrade::{self, Upgrade};
use crate::limits::{HEAD_BYTES_MAX, HEADERS_MAX};

/// A request without its body; slices of the caller's buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'b> {
    pub method: &'b str,
    /// The target up to its `?`, not decoded: `/ws`.
    pub path: &'b str,
    /// The target behind its `?`, not decoded.
    pub query: Option<&'b str>,
    /// The authority asked for: `example.com:9470`. Absent only in HTTP/1.0.
    pub host: Option<&'b str>,
    pub origin: Option<&'b str>,
    /// Bytes of the body, which starts behind the head; `None` when there is no body.
    pub content_length: Option<u64>,
    /// What a WebSocket handshake asks for; `None` for any other request.
    pub upgrade: Option<Upgrade<'b>>,
    /// Bytes of the head. What follows in the buffer belongs to the body, or to WebSocket after an upgrade.
    pub head_bytes: usize,
    /// Whether the client speaks HTTP/1.0.
    is_old: bool,
    headers: Vec<httparse::Header<'b>>,
}

/// For whom an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asker<'a> {
    /// The page that asks, which must be allowed to read the answer.
    pub origin: Option<&'a str>,
    /// Whether only the head was asked for: there is no body behind it (RFC 9110, 9.3.2).
    pub is_head: bool,
}

impl Asker<'_> {
    /// Who sent bytes that are no request.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self { origin: None, is_head: bytes.starts_with(b"HEAD ") }
    }
}

/// Why a request is not served: what [`error_response`](super::error_response) takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{status} {reason}: {body}")]
pub struct Refusal {
    pub status: u16,
    pub reason: &'static str,
    /// One sentence for the person who sees it.
    pub body: &'static str,
}

impl<'b> Request<'b> {
    /// Whom the answer is for.
    pub fn asker(&self) -> Asker<'b> {
        Asker { origin: self.origin, is_head: self.method == "HEAD" }
    }

    /// A header by name, in any case: the first one of that name, when it is text.
    pub fn header(&self, name: &str) -> Option<&'b str> {
        let value = self.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?.value;
        std::str::from_utf8(value).ok().map(str::trim_ascii)
    }

    /// As [`Self::header`]; `None` where it is repeated, too, since somebody in front may have gone by another one.
    pub fn sole_header(&self, name: &str) -> Option<&'b str> {
        Headers(&self.headers).single(name).ok().flatten()
    }

    /// The secret of `Authorization: Bearer` (RFC 6750, 2.1); the scheme in any case.
    pub fn bearer(&self) -> Option<&'b str> {
        let (scheme, secret) = self.sole_header("authorization")?.split_once(' ')?;
        Some(secret.trim_ascii()).filter(|secret| scheme.eq_ignore_ascii_case("bearer") && !secret.is_empty())
    }

    /// Whether the client waits to be told before it sends the body.
    pub fn expects_continue(&self) -> bool {
        self.header("expect").is_some_and(|expect| expect.eq_ignore_ascii_case("100-continue"))
    }

    /// Whether the client ends the connection behind the answer.
    pub fn is_last(&self) -> bool {
        let options =
            Headers(&self.headers).list("connection").any(|option| option.eq_ignore_ascii_case("close"));
        self.is_old || options
    }

    /// Whether a page of somewhere else had a browser ask this without saying who it is (Fetch Metadata, 2.4), as for an
    /// image: browsers name the origin only of requests whose answers a page may read.
    pub fn is_foreign(&self) -> bool {
        let site = self.header("sec-fetch-site");
        self.origin.is_none() && site.is_some_and(|site| site != "same-origin" && site != "none")
    }
}

/// Parses the request head at the start of `bytes`, all that has been received; `None` when it has not ended yet.
///
/// # Errors
/// The request cannot be served, whatever follows: bad syntax, more than [`HEAD_BYTES_MAX`] bytes or
/// [`HEADERS_MAX`] headers, a contradiction, or a WebSocket handshake that misses something of RFC 6455, 4.2.1.
pub fn parse(bytes: &[u8]) -> Result<Option<Request<'_>>, Refusal> {
    if bytes.first() == Some(&TLS_HANDSHAKE) {
        return Err(bad_request(
            "This port speaks plain HTTP, and the client began TLS: use ws:// or http://.",
        ));
    }
    let head = bytes.get(..HEAD_BYTES_MAX).unwrap_or(bytes);
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let head_bytes = match parsed.parse(head).map_err(syntax)? {
        httparse::Status::Complete(head_bytes) => head_bytes,
        httparse::Status::Partial if head.len() == HEAD_BYTES_MAX => {
            return Err(too_large("The request's headers are longer than 8 KiB."));
        }
        httparse::Status::Partial => return Ok(None),
    };
    // All three are there in a complete head.
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(bad_request("The request is not valid HTTP/1.1."));
    };
    let headers = Headers(parsed.headers);
    let (authority, path) = split_target(target);
    // The authority of an absolute target counts, not the header (RFC 9112, 3.2.2).
    let host = authority.or(headers.single("host")?);
    if host.is_none() && minor == 1 {
        return Err(bad_request("The request has no Host header."));
    }
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    // An absolute target may leave the path out.
    let path = if path.is_empty() { "/" } else { path };
    let origin = headers.single("origin")?;
    let content_length = content_length(&headers)?;
    let upgrade = upgrade::check(method, minor, content_length, &headers)?;
    let headers = headers.0.to_vec();
    Ok(Some(Request {
        method,
        path,
        query,
        host,
        origin,
        content_length,
        upgrade,
        head_bytes,
        is_old: minor == 0,
        headers,
    }))
}

/// The first byte of a TLS client hello, which people send when they confuse two ports.
const TLS_HANDSHAKE: u8 = 0x16;

/// The headers of one head.
pub(super) struct Headers<'h, 'b>(&'h [httparse::Header<'b>]);

impl<'b> Headers<'_, 'b> {
    /// Every value of a header that may be repeated.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }

    /// The value of a header that may not be repeated.
    pub(super) fn single(&self, name: &str) -> Result<Option<&'b str>, Refusal> {
        let mut values = self.all(name);
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(bad_request("A header that may stand once is repeated."));
        }
        let value = std::str::from_utf8(value).map_err(|_| bad_request("A header is not text."))?;
        Ok(Some(value.trim_ascii()))
    }

    /// The elements of a comma-separated list, over all its lines.
    pub(super) fn list(&self, name: &str) -> impl Iterator<Item = &'b str> {
        self.all(name)
            .filter_map(|value| std::str::from_utf8(value).ok())
            .flat_map(|value| value.split(','))
            .map(str::trim_ascii)
            .filter(|element| !element.is_empty())
    }
}

/// The authority of an absolute target, and the path with its query.
fn split_target(target: &str) -> (Option<&str>, &str) {
    if target.starts_with('/') {
        return (None, target);
    }
    let Some((_, rest)) = target.split_once("://") else { return (None, target) };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    (Some(authority), path)
}

fn content_length(headers: &Headers<'_, '_>) -> Result<Option<u64>, Refusal> {
    if headers.all("transfer-encoding").next().is_some() {
        return Err(Refusal {
            status: 411,
            reason: "Length Required",
            body: "A body needs a Content-Length; transfer encodings are not supported.",
        });
    }
    let Some(length) = headers.single("content-length")? else { return Ok(None) };
    // `parse` alone would take a sign.
    if !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad_request("The Content-Length is not a number."));
    }
    let length = length.parse().map_err(|_| bad_request("The Content-Length is not a number."))?;
    Ok(Some(length))
}

fn syntax(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => too_large("The request has more than 64 headers."),
        httparse::Error::Version => {
            Refusal { status: 505, reason: "HTTP Version Not Supported", body: "This port speaks HTTP/1.1." }
        }
        _ => bad_request("The request is not valid HTTP/1.1."),
    }
}

pub(super) const fn bad_request(body: &'static str) -> Refusal {
    Refusal { status: 400, reason: "Bad Request", body }
}

const fn too_large(body: &'static str) -> Refusal {
    Refusal { status: 431, reason: "Request Header Fields Too Large", body }
}
