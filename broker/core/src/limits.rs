//! Every bound of the domain, with what happens when it is reached. Defaults that an operator may change are
//! fields of the server's configuration and start from the values here; `docs/CONFIG.md` lists them all.

/// Registry shards, each with one mutex. A power of two: the shard is taken from an address's hash.
pub const SHARD_COUNT: usize = 64;

/// I/O workers in one broker; more cores than this stay unused.
pub const WORKERS_MAX: usize = 64;

/// Bytes of a user, group, device or queue name or of the part of a topic behind `topic/`. Longer: `invalid_address`.
pub const NAME_BYTES_MAX: usize = 256;

/// Tokens in a topic. More: `invalid_address`.
pub const TOPIC_TOKENS_MAX: usize = 32;

/// Bytes of a publish frame. Larger: `message_too_large` and the connection is closed, because the rest of the
/// frame cannot be skipped without reading it.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a frame before `connect` succeeded. Larger: as above. Costs at most this much per stranger.
pub const HANDSHAKE_FRAME_BYTES_MAX: usize = 16 * 1024;

/// Nesting of a JSON payload. Deeper: `invalid_payload`.
pub const JSON_DEPTH_MAX: usize = 64;

/// Headers of a message, and the bytes of all their names and values. More: `invalid_frame`.
pub const HEADERS_MAX: usize = 64;
pub const HEADER_BYTES_MAX: usize = 8 * 1024;

/// Bytes of a dedup key or a partition key. Longer: `invalid_frame`.
pub const KEY_BYTES_MAX: usize = 256;

/// Subscriptions of one session, queues included. More: `too_many_subscriptions`.
pub const SUBSCRIPTIONS_PER_SESSION_MAX: usize = 1_000;

/// Sessions of one user. More: `too_many_sessions` at connect.
pub const SESSIONS_PER_USER_MAX: usize = 64;

/// Members of one group. More: `group_full`.
pub const GROUP_MEMBERS_MAX: usize = 100_000;

/// Groups of one registry shard. More: `overloaded`.
pub const GROUPS_PER_SHARD_MAX: usize = 16_384;

/// Groups one user may be in. More: `too_many_groups`. Bounds the work of a connect.
pub const GROUPS_PER_USER_MAX: usize = 1_000;

/// Members of one queue. More: `queue_full`. Choosing the least loaded member looks at each.
pub const QUEUE_MEMBERS_MAX: usize = 1_000;

/// Queues on one pattern. More: `queue_full`. Each message of the pattern is encoded once per queue.
pub const QUEUES_PER_ADDRESS_MAX: usize = 64;

/// Users that one shard of the directory knows: those with a session or a membership. More: `overloaded`.
pub const USERS_PER_SHARD_MAX: usize = 16_384;

/// Patterns that the per-shard cache of wildcard matches remembers. More: the cache is emptied and refilled.
pub const MATCH_CACHE_MAX: usize = 1_024;

/// Idempotency keys remembered per shard, and for how long. More: the oldest is forgotten early and counted.
pub const DEDUP_KEYS_PER_SHARD: usize = 4_096;
pub const DEDUP_WINDOW_MS: u64 = 120_000;

/// Addresses one policy verdict may fan out to. More: the verdict counts as a failure of the policy.
pub const FANOUT_MAX: usize = 64;

/// Messages in one batch: how many consecutive messages cross to a worker as one entry.
pub const BATCH_MESSAGES_MAX: usize = 512;

/// Bytes at which a shared segment of encoded frames is closed; it is longer by at most one frame.
pub const SEGMENT_BYTES: usize = 16 * 1024;

/// Bytes one connection's outbound queue may pin. More: the oldest unwritten segments are dropped and counted.
pub const OUTBOUND_BYTES_MAX: usize = 2 * 1024 * 1024;

const _: () = assert!(SHARD_COUNT.is_power_of_two(), "the shard is a mask of the address's hash");
const _: () = assert!(WORKERS_MAX <= 64, "target workers are a 64-bit set");
const _: () = assert!(
    OUTBOUND_BYTES_MAX >= MESSAGE_BYTES_MAX + MESSAGE_BYTES_MAX / 2,
    "one message of the largest size, base64 in JSON, must fit an empty queue"
);
const _: () =
    assert!(HANDSHAKE_FRAME_BYTES_MAX <= MESSAGE_BYTES_MAX, "a stranger may not send more than a session");
const _: () = assert!(NAME_BYTES_MAX <= u16::MAX as usize, "names have 16-bit lengths on the wire");
