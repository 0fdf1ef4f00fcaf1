//! HTTP/1.1 as far as a broker needs it: one request head in, one answer out (RFC 9112; RFC 6455, 4.2).
//!
//! A connection carries one request: it becomes a WebSocket connection, or is answered and closed. Bodies, routing
//! and the decision which web pages may connect ([`crate::origin`]) belong to the caller.

mod deflate;
mod request;
mod response;
mod upgrade;

pub use deflate::Deflate;
pub use request::{Refusal, Request, parse};
pub use response::{accept_response, error_response};
pub use upgrade::Upgrade;

use upgrade::is_token;
