//! The defaults of every profile, as differences from those of `default`.

use super::{
    AccessConfig, AdminConfig, CompressionConfig, Config, LimitsConfig, LogConfig, LogFormat, Login,
    PolicyConfig, Profile, QuicConfig, StoreConfig, TlsConfig,
};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use waspmq_core::limits;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

impl Config {
    /// What applies when nothing but the profile is set.
    pub fn preset(profile: Profile) -> Self {
        let mut config = Self { profile, ..base() };
        let limits = &mut config.limits;
        match profile {
            Profile::Default => {}
            Profile::LowLatency => {
                limits.max_message_bytes = 64 * KIB;
                limits.outbound_bytes_max = 256 * KIB;
                limits.send_buffer_bytes = 64 * KIB;
                limits.connect_timeout_ms = 5_000;
                limits.heartbeat_ms = 10_000;
            }
            Profile::LargeMessages => {
                limits.outbound_bytes_max = 16 * MIB;
                limits.worker_outbound_bytes_max = 2_048 * MIB;
                limits.send_buffer_bytes = 2 * MIB;
                limits.worker_inbound_bytes_max = 1_024 * MIB;
                limits.connections_max = 10_000;
                config.drain_ms = 30_000;
            }
            Profile::ManyConnections => {
                limits.max_message_bytes = 64 * KIB;
                limits.outbound_bytes_max = 256 * KIB;
                limits.send_buffer_bytes = 64 * KIB;
                limits.connections_max = 1_000_000;
                limits.connect_timeout_ms = 30_000;
                limits.heartbeat_ms = 60_000;
                config.drain_ms = 60_000;
            }
        }
        config
    }
}

fn base() -> Config {
    Config {
        profile: Profile::Default,
        data_dir: PathBuf::from("waspmq-data"),
        listen: loopback(9470),
        workers: 0,
        huge_pages: false,
        drain_ms: 10_000,
        admin: AdminConfig {
            listen: loopback(9471),
            allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            open_probes: false,
            token: None,
        },
        access: AccessConfig {
            allow_anonymous: false,
            allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            issuer: None,
            audience: None,
            token_leeway_ms: 5_000,
            require_expiry: true,
            login: Login::Coexist,
            sessions_per_user: limits::SESSIONS_PER_USER_MAX,
            keys: Vec::new(),
            rules: Vec::new(),
        },
        tls: TlsConfig::default(),
        quic: QuicConfig::default(),
        limits: LimitsConfig {
            max_message_bytes: limits::MESSAGE_BYTES_MAX,
            outbound_bytes_max: limits::OUTBOUND_BYTES_MAX,
            worker_outbound_bytes_max: 512 * MIB,
            worker_inbound_bytes_max: 256 * MIB,
            send_buffer_bytes: 256 * KIB,
            connections_max: 100_000,
            publishes_per_second: 0,
            publish_burst: 100,
            connect_timeout_ms: 10_000,
            heartbeat_ms: 25_000,
        },
        compression: CompressionConfig {
            adaptive: true,
            cpu_percent: 10,
            min_bytes: 128,
            permessage_deflate: true,
        },
        policy: PolicyConfig { max_policies: 16 },
        store: StoreConfig {
            bytes_max: 16 * 1024 * MIB as u64,
            reserve_bytes: 64 * MIB as u64,
            resume_window_ms: 60_000,
            ledger_age_ms: 24 * 3_600_000,
        },
        address: Vec::new(),
        log: LogConfig { format: LogFormat::Text, filter: "info,web_transport_quinn=error".to_owned() },
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
