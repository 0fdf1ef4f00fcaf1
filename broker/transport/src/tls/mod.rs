//! TLS for connections of a stream socket: rustls with aws-lc-rs, TLS 1.2 and 1.3, server side.
//!
//! - [`Credentials`]: a certificate chain with its key, checked, as what new connections are accepted with.
//! - [`Session`]: one connection between its socket and the plain bytes. It has no socket: each call is given one.
//! - [`self_signed`]: a certificate of our own making, short-lived enough for a browser's `serverCertificateHashes`.
//!
//! Invariants: whoever holds credentials knows that key and certificate belong together; a session buffers a bounded
//! number of bytes in either direction, whatever its peer does. Deliberately not here: client certificates, early data,
//! and files, of which the caller gives the text.

mod credentials;
mod self_signed;
mod session;
#[cfg(test)]
mod tests;
mod validity;

pub use credentials::{Credentials, CredentialsError};
pub use self_signed::{BACKDATED_SECONDS, SELF_SIGNED_SECONDS, SelfSigned, SelfSignedError, self_signed};
pub use session::Session;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use std::sync::Arc;

/// What is spoken behind the handshake (RFC 7301); a client that offers only other protocols is turned away.
const ALPN: &[u8] = b"http/1.1";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
