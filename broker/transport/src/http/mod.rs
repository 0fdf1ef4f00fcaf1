//! HTTP/1.1 as far as a broker needs it: one request head in, one answer out (RFC 9112; RFC 6455, 4.2).
//!
//! A request makes a connection one of WebSocket or a stream of events, or is answered. Bodies, routing
//! and the decision which web pages may connect ([`crate::origin`]) belong to the caller.

mod deflate;
mod request;
mod response;
mod upgrade;

pub use deflate::Deflate;
pub use request::{Asker, Refusal, Request, parse};
pub use response::{Answer, CONTINUE, accept_response, error_response, events_response, preflight_response};
pub use upgrade::Upgrade;

use upgrade::is_token;
