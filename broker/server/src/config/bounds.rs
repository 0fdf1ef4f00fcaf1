//! The range of every numeric key.

use super::Config;
use waspmq_core::limits;

/// The smallest and the largest value of a key, both legal.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    pub key: &'static str,
    pub min: u64,
    pub max: u64,
    pub(super) value: fn(&Config) -> u64,
}

/// One row per numeric key; `docs/CONFIG.md` shows the same numbers.
pub const BOUNDS: [Bound; 21] = [
    bound("workers", 0, limits::WORKERS_MAX as u64, |c| c.workers as u64),
    bound("drain_ms", 0, 600_000, |c| u64::from(c.drain_ms)),
    bound("access.token_leeway_ms", 0, 300_000, |c| u64::from(c.access.token_leeway_ms)),
    bound("access.sessions_per_user", 1, limits::SESSIONS_PER_USER_MAX as u64, |c| {
        c.access.sessions_per_user as u64
    }),
    bound("limits.max_message_bytes", KIB, limits::MESSAGE_BYTES_MAX as u64, |c| {
        c.limits.max_message_bytes as u64
    }),
    bound("limits.outbound_bytes_max", 64 * KIB, 64 * MIB, |c| c.limits.outbound_bytes_max as u64),
    bound("limits.worker_outbound_bytes_max", MIB, TIB, |c| c.limits.worker_outbound_bytes_max as u64),
    bound("limits.worker_inbound_bytes_max", MIB, TIB, |c| c.limits.worker_inbound_bytes_max as u64),
    bound("limits.send_buffer_bytes", 16 * KIB, 64 * MIB, |c| c.limits.send_buffer_bytes as u64),
    bound("limits.connections_max", 1, 10_000_000, |c| c.limits.connections_max as u64),
    bound("limits.publishes_per_second", 0, 1_000_000, |c| u64::from(c.limits.publishes_per_second)),
    bound("limits.publish_burst", 1, 1_000_000, |c| u64::from(c.limits.publish_burst)),
    bound("limits.connect_timeout_ms", 100, 600_000, |c| u64::from(c.limits.connect_timeout_ms)),
    bound("limits.heartbeat_ms", 1_000, 600_000, |c| u64::from(c.limits.heartbeat_ms)),
    bound("store.bytes_max", 16 * MIB, 1024 * TIB, |c| c.store.bytes_max),
    bound("store.reserve_bytes", 0, TIB, |c| c.store.reserve_bytes),
    bound("store.resume_window_ms", 0, 86_400_000, |c| u64::from(c.store.resume_window_ms)),
    bound("store.ledger_age_ms", 0, 365 * 86_400_000, |c| c.store.ledger_age_ms),
    bound("compression.cpu_percent", 0, 100, |c| u64::from(c.compression.cpu_percent)),
    bound("compression.min_bytes", 0, limits::MESSAGE_BYTES_MAX as u64, |c| c.compression.min_bytes as u64),
    bound("policy.max_policies", 1, waspmq_policy::limits::POLICIES_MAX as u64, |c| {
        c.policy.max_policies as u64
    }),
];

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const TIB: u64 = 1024 * 1024 * MIB;

const fn bound(key: &'static str, min: u64, max: u64, value: fn(&Config) -> u64) -> Bound {
    Bound { key, min, max, value }
}
