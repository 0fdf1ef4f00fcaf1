//! What a broker keeps on disk: its data directory.
//!
//! [`DataDir`] is the directory of one running broker. It holds a lock, so that two brokers never share it, and
//! the few values that must outlive the process: the epoch, the node's id and the admin token.
//! Deliberately not here: messages. Nothing that a client publishes is stored.

mod data_dir;
mod error;
mod file;
mod token;

pub use data_dir::DataDir;
pub use error::OpenError;
pub use token::{AdminToken, read_admin_token};
