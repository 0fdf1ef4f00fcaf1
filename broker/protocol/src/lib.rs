//! Bytes to frames and back, for both profiles of the client protocol.
//!
//! One set of frames has two encodings: JSON text and binary. [`client`] holds what a client sends, [`server`]
//! what the broker sends; [`decode`] and [`encode`] are the two directions. `docs/PROTOCOL.md` is the page for
//! people. What [`decode`] returns is complete and within bounds, so nothing behind it checks a frame again;
//! only addresses and names are left to the caller, who usually holds the checked value already.
//!
//! Nothing here does I/O, keeps state between calls or panics on input.

#![warn(clippy::indexing_slicing)]

pub mod client;
pub mod codec;
pub mod decode;
pub mod encode;
pub mod limits;
pub mod payload;
pub mod server;
pub mod stream;

mod error;
mod from;
mod headers;
mod meta;
mod profile;
mod scan;
mod secret;
mod wire;

pub use error::{DecodeError, EncodeError, Problem};
pub use from::{From, FromError};
pub use headers::{HeaderBlock, HeaderError, Pairs};
pub use profile::{Content, Level, Profile, SUBPROTOCOL_BINARY, SUBPROTOCOL_JSON};
pub use secret::Secret;
