//! The domain of the WaspMQ broker.
//!
//! Nothing here does I/O, reads a clock or draws randomness: time and configuration are arguments, results are
//! values. What a word means is fixed in `docs/ARCHITECTURE.md`; the bounds are all in [`limits`].

pub mod access;
pub mod address;
pub mod admission;
pub mod compression;
pub mod dedup;
pub mod delivery;
pub mod id;
pub mod level;
pub mod limits;
pub mod message;
pub mod outbound;
pub mod policy;
pub mod publish;
pub mod queue;
pub mod registry;
pub mod reject;
pub mod session;
pub mod settings;
pub mod trie;

pub use address::{Address, AddressError, Kind, Name, Pattern, is_hidden};
pub use id::{MessageId, Position, SessionId, Stream};
pub use level::Level;
pub use queue::QueueId;
pub use reject::{Close, Code, Reject};
