//! The broker's configuration: one typed value, made from defaults, a TOML file, the environment and flags.
//!
//! Invariant: a [`Config`] that [`load`] returned is valid as a whole, so nothing behind it checks a key again. After [`reload`]
//! that goes for everything but `access` and the files of `tls`.
//! Every key is optional; what it means, its range and what happens when it is reached is in `docs/CONFIG.md`.
//! Deliberately not here: bounds that nobody may change, which are in `waspmq_core::limits`.

mod access;
pub mod address;
mod bounds;
mod check;
mod environment;
mod error;
mod layers;
mod preset;
mod print;
mod quic;
#[cfg(test)]
mod tests;
mod tls;

pub use access::{AccessConfig, Algorithm, KeyConfig, Login, RuleConfig};
pub use address::AddressRule;
pub use bounds::{BOUNDS, Bound};
pub(crate) use check::Problem;
pub use environment::environment;
pub use error::{ConfigError, Finding, Origin};
pub use layers::{Flags, Loaded, Sources, load, reload};
pub use quic::QuicConfig;
pub use tls::TlsConfig;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A set of defaults for a kind of work. Keys that are set win over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    #[default]
    Default,
    /// Small messages and short queues: a reader that falls behind loses old messages early instead of getting
    /// them late.
    LowLatency,
    /// Room for many messages of the largest size.
    LargeMessages,
    /// Little memory and few signs of life per connection.
    ManyConnections,
}

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub profile: Profile,
    /// The broker's own directory: lock, epoch, node id, admin token.
    pub data_dir: PathBuf,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// I/O threads; 0 means one per core.
    pub workers: usize,
    /// Whether the kernel may back memory by huge pages.
    pub huge_pages: bool,
    /// How long a stop may take until connections are cut.
    pub drain_ms: u32,
    pub admin: AdminConfig,
    pub access: AccessConfig,
    pub tls: TlsConfig,
    pub quic: QuicConfig,
    pub limits: LimitsConfig,
    pub compression: CompressionConfig,
    pub policy: PolicyConfig,
    pub store: StoreConfig,
    pub log: LogConfig,
    /// What holds for the messages of an address; the first rule that matches counts.
    pub address: Vec<AddressRule>,
}

/// The admin listener.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    pub listen: SocketAddr,
    /// Web origins that may call the admin API, besides its own.
    pub allowed_origins: Vec<String>,
    /// `Host` names it answers to, besides those of loopback.
    pub allowed_hosts: Vec<String>,
    /// Whether probes of other machines need no token.
    pub open_probes: bool,
    /// The bearer token; without one, the file `admin-token` in the data directory holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl fmt::Debug for AdminConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminConfig")
            .field("listen", &self.listen)
            .field("allowed_origins", &self.allowed_origins)
            .field("allowed_hosts", &self.allowed_hosts)
            .field("open_probes", &self.open_probes)
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .finish()
    }
}

/// What clients may cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsConfig {
    pub max_message_bytes: usize,
    /// Outbound bytes one connection may pin.
    pub outbound_bytes_max: usize,
    /// Outbound bytes all connections of one worker may pin.
    pub worker_outbound_bytes_max: usize,
    /// Bytes of unfinished inbound frames that one worker may hold.
    pub worker_inbound_bytes_max: usize,
    /// Bytes the kernel may hold for a connection behind what the broker wrote.
    pub send_buffer_bytes: usize,
    /// Connections of the whole broker.
    pub connections_max: usize,
    /// Publishes of one session; 0 means unlimited.
    pub publishes_per_second: u32,
    /// Publishes one session may send at once before the rate applies.
    pub publish_burst: u32,
    /// Time from the TCP connection to an accepted `connect`.
    pub connect_timeout_ms: u32,
    /// Time between signs of life; twice that in silence closes the connection.
    pub heartbeat_ms: u32,
}

/// How messages are made smaller for those that take compressed ones, where no policy says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompressionConfig {
    /// Whether messages are compressed without a policy, where that was worth it so far.
    pub adaptive: bool,
    /// The part of a worker's time, in percent, that this may take.
    pub cpu_percent: u32,
    /// Bytes of a payload below which it is not tried.
    pub min_bytes: usize,
    /// Whether WebSocket clients that offer permessage-deflate get it.
    pub permessage_deflate: bool,
}

/// The policy host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// Policies that may be bound at the same time.
    pub max_policies: usize,
}

/// What is kept on disk and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// Bytes of the whole store.
    pub bytes_max: u64,
    /// Free bytes of the disk that are left to others.
    pub reserve_bytes: u64,
    /// How long a lost session can be resumed.
    pub resume_window_ms: u32,
    /// How long the ledger keeps what became of a stored message.
    pub ledger_age_ms: u64,
}

/// What the broker writes to standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    pub format: LogFormat,
    /// Directives of `tracing-subscriber`, such as `info,waspmq=debug`.
    pub filter: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    Text,
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self::preset(Profile::Default)
    }
}
