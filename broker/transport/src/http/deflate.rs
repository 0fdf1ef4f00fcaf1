//! The negotiation of permessage-deflate: the offers in `Sec-WebSocket-Extensions` (RFC 6455, 9.1; RFC 7692, 5 and 7.1).
//!
//! Both sides are always told to take no context over: a compressed frame is then the same for all its receivers,
//! and no connection needs memory for what it received. An offer that has a parameter this module does not know, one
//! twice, or one with a bad value, is declined, and so is one with a window shorter than the frames need.

use std::borrow::Cow;

use super::request::{Headers, bad_request};
use super::upgrade::is_token_byte;
use super::{Refusal, is_token};
use crate::limits::DEFLATE_WINDOW_BITS;

/// An offer of permessage-deflate that can be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deflate {
    /// Whether the client asked for the window of what it receives.
    names_window: bool,
}

const _: () = assert!(DEFLATE_WINDOW_BITS == 12, "the answer says so");

impl Deflate {
    /// The first offer that can be taken, in the client's order of preference.
    pub(super) fn choose(headers: &Headers<'_, '_>) -> Result<Option<Self>, Refusal> {
        let mut chosen = None;
        for line in headers.all("sec-websocket-extensions") {
            let line = std::str::from_utf8(line).map_err(|_| MALFORMED)?;
            let mut offers = Offers { rest: line };
            while let Some(offer) = offers.next()? {
                chosen = chosen.or_else(|| offer.finish());
            }
        }
        Ok(chosen)
    }

    /// The value of the header that accepts the offer.
    pub(super) const fn answer(self) -> &'static str {
        if self.names_window {
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=12"
        } else {
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        }
    }
}

const MALFORMED: Refusal = bad_request("The Sec-WebSocket-Extensions header is malformed.");

/// What is left of a line of offers.
struct Offers<'h> {
    rest: &'h str,
}

impl<'h> Offers<'h> {
    /// The next offer of the line, if there is one.
    fn next(&mut self) -> Result<Option<Offer>, Refusal> {
        while self.eat(',') {}
        if self.rest.is_empty() {
            return Ok(None);
        }
        let mut offer = Offer::new(self.token().ok_or(MALFORMED)?);
        while self.eat(';') {
            let name = self.token().ok_or(MALFORMED)?;
            let value = if self.eat('=') { Some(self.value().ok_or(MALFORMED)?) } else { None };
            offer.take(name, value.as_deref());
        }
        if !self.rest.is_empty() && !self.eat(',') {
            return Err(MALFORMED);
        }
        Ok(Some(offer))
    }

    /// Skips blanks, a character if it is the next one, and blanks again.
    fn eat(&mut self, wanted: char) -> bool {
        let rest = self.rest.trim_ascii_start();
        let eaten = rest.strip_prefix(wanted);
        self.rest = eaten.unwrap_or(rest).trim_ascii_start();
        eaten.is_some()
    }

    fn token(&mut self) -> Option<&'h str> {
        let end = self.rest.bytes().position(|byte| !is_token_byte(byte)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        Some(token).filter(|token| !token.is_empty())
    }

    /// A token, or a string in quotes that is one.
    fn value(&mut self) -> Option<Cow<'h, str>> {
        let Some(quoted) = self.rest.strip_prefix('"') else { return self.token().map(Cow::Borrowed) };
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        loop {
            match characters.next()? {
                (end, '"') => {
                    self.rest = quoted.get(end + 1..)?;
                    return Some(Cow::Owned(value)).filter(|value| is_token(value));
                }
                (_, '\\') => value.push(characters.next()?.1),
                (_, character) => value.push(character),
            }
        }
    }
}

/// One offer while its parameters are read.
struct Offer {
    is_acceptable: bool,
    /// The parameters that were there, as bits.
    seen: u8,
    names_window: bool,
}

impl Offer {
    const fn new(extension: &str) -> Self {
        let is_acceptable = extension.eq_ignore_ascii_case("permessage-deflate");
        Self { is_acceptable, seen: 0, names_window: false }
    }

    fn take(&mut self, name: &str, value: Option<&str>) {
        let (bit, is_valid) = match name {
            "server_no_context_takeover" => (1, value.is_none()),
            "client_no_context_takeover" => (2, value.is_none()),
            "server_max_window_bits" => {
                self.names_window = true;
                (4, value.and_then(window_bits).is_some_and(|bits| bits >= DEFLATE_WINDOW_BITS))
            }
            // A hint that it could be limited. Without an answer the client may use any window, which is inflated.
            "client_max_window_bits" => (8, value.is_none_or(|value| window_bits(value).is_some())),
            _ => (0, false),
        };
        self.is_acceptable &= is_valid && self.seen & bit == 0;
        self.seen |= bit;
    }

    fn finish(self) -> Option<Deflate> {
        self.is_acceptable.then_some(Deflate { names_window: self.names_window })
    }
}

/// 8 to 15, without a leading zero.
fn window_bits(value: &str) -> Option<u8> {
    let bits = value.parse().ok().filter(|bits| (8..=15).contains(bits))?;
    (!value.starts_with(['0', '+'])).then_some(bits)
}
