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

/// The highest priority of a message. Higher: `invalid_frame`.
pub const PRIORITY_MAX: u8 = 9;

/// Bytes of a dedup key or a partition key. Longer: `invalid_frame`.
pub const KEY_BYTES_MAX: usize = 256;

/// Subscriptions of one session, queues included. More: `too_many_subscriptions`.
pub const SUBSCRIPTIONS_PER_SESSION_MAX: usize = 1_000;

/// Sessions of one user. More: `too_many_sessions` at connect.
pub const SESSIONS_PER_USER_MAX: usize = 64;

/// Bytes of a token. Longer: `unauthorized`, before anything of it is decoded.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Access rules of a configuration or of a token, and patterns of all rules of one. More: the configuration or the
/// token is refused. Bounds what the first message to an address costs.
pub const ACCESS_RULES_MAX: usize = 256;
pub const ACCESS_PATTERNS_MAX: usize = 1_024;

/// Keys that tokens may be signed with. More: the configuration is refused.
pub const ACCESS_KEYS_MAX: usize = 32;

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

/// Queues whose progress is kept, with members or without. More: a subscription that would make one is refused with
/// `queue_full`. About 300 bytes each, and 1 KiB for a pattern with wildcards.
pub const KEPT_QUEUES_MAX: usize = 16_384;

/// How long a queue without members is known. Longer: it is forgotten, and its messages are in the history only.
pub const QUEUE_UNATTENDED_MS_MAX: u64 = 30 * 24 * 3_600_000;

/// Stored messages that one queue has given to members or holds for them, and their memory. More: the others stay in the
/// store until some are acknowledged.
pub const QUEUE_OPEN_MAX: usize = 16_384;
pub const QUEUE_OPEN_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The memory of such messages of all queues of one worker. More: as above.
pub const QUEUES_OPEN_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Of these, the messages that wait for a member with room. More: those that come stay in the store.
pub const QUEUE_READY_MAX: usize = 1_024;

/// Stored messages that one queue reads from the store at once. More: the next page.
pub const QUEUE_PAGE_MAX: usize = 512;

/// Stored messages that one member of a queue has and has not acknowledged, and their bytes, longer by at most one
/// message. More: others are given them, or they wait.
pub const QUEUE_MEMBER_MESSAGES_MAX: usize = 1_024;
pub const QUEUE_MEMBER_BYTES_MAX: usize = 1024 * 1024;

/// Addresses of which one queue knows that there is something to read. More: they are looked for in the store when these
/// are read.
pub const QUEUE_ADDRESSES_MAX: usize = 4_096;

/// Stretches of acknowledged messages behind one that is not, per queue and address, in memory. More: the last ones are
/// forgotten, and when their messages are read again they are repeated.
pub const QUEUE_DONE_MAX: usize = 1_024;

/// Such stretches in the record of a queue's cursor. More: the last ones are left out, so that the cursor says less than
/// was acknowledged: after a crash their messages are repeated, and none is lost.
pub const QUEUE_STRETCHES_MAX: usize = 256;

/// Users that one shard of the directory knows: those with a session or a membership. More: `overloaded`.
pub const USERS_PER_SHARD_MAX: usize = 16_384;

/// Dictionaries that one connection is sent. More: its messages are compressed without any, until it connects again. Clients
/// keep as many, with all their bytes.
pub const DICTIONARIES_PER_CONNECTION_MAX: usize = 16;

/// Of these, those that messages delivered together may name. More: the others are compressed without any.
pub const DICTIONARIES_PER_RUN_MAX: usize = 4;

/// Dictionaries that a client may say it has. More: not looked at, and sent again.
pub const DICTIONARIES_HELD_MAX: usize = 16;

/// Users one session may watch. More: `too_many_watched`.
pub const WATCHED_PER_SESSION_MAX: usize = 1_000;

/// Sessions that may watch one user. More: `too_many_watchers`. Bounds the work of a change of presence.
pub const WATCHERS_PER_USER_MAX: usize = 10_000;

/// Watched users of one shard of the directory, whether they exist or not. More: `overloaded`.
pub const WATCHED_PER_SHARD_MAX: usize = 16_384;

/// Users without a session whose last seen time one shard of the directory remembers. More: that of the user who
/// left first is forgotten.
pub const LEFT_USERS_PER_SHARD_MAX: usize = 4_096;

/// Addresses without a listener of which one registry shard remembers what was published last. More: that of the one
/// left first is forgotten, and a session that comes back to it is told that something may be missing as soon as
/// anything was published unstored in the shard. About 150 bytes each.
pub const LEFT_ADDRESSES_PER_SHARD_MAX: usize = 4_096;

/// Patterns with wildcards without a subscriber that are remembered in the same way. More: as above. About 500 bytes
/// each, and 80 for each shard in which something was published that matches.
pub const LEFT_PATTERNS_MAX: usize = 4_096;

/// Patterns that the per-shard cache of wildcard matches remembers. More: the cache is emptied and refilled.
pub const MATCH_CACHE_MAX: usize = 1_024;

/// Idempotency keys remembered per shard, and for how long. More: the oldest is forgotten early and counted.
pub const DEDUP_KEYS_PER_SHARD: usize = 4_096;
pub const DEDUP_WINDOW_MS: u64 = 120_000;

/// Topics of which one worker remembers what the settings by address say, where those have wildcards. More: all are
/// forgotten and asked for again. About 100 bytes each.
pub const SETTLED_TOPICS_MAX: usize = 4_096;

/// Addresses to which one session was allowed to publish and that it need not be judged for again. More: all are
/// forgotten and judged again.
pub const ALLOWED_ADDRESSES_MAX: usize = 64;

/// Addresses one policy verdict may fan out to. More: the verdict counts as a failure of the policy.
pub const FANOUT_MAX: usize = 64;

/// How long a connection waits, unread, for room in the journal with a publish that is to be kept, in milliseconds.
/// Longer: its publishes are refused with `overloaded` until there is room.
pub const JOURNAL_WAIT_MS: u64 = 5_000;

/// Recipients whose acks one message may wait for. More: `too_many_recipients`.
pub const ACKED_RECIPIENTS_MAX: usize = 1_000;

/// Bytes of a nack's reason that are kept. More: cut.
pub const NACK_REASON_BYTES_MAX: usize = 256;

/// Runs of consecutive stored messages whose single acks one session can still give, per address, and single acks
/// out of order. More: the oldest is forgotten, and only a cumulative ack moves over it.
pub const CURSOR_RUNS_MAX: usize = 1_024;

/// Addresses whose acknowledgements one session has noted. More: those without anything unacknowledged are
/// forgotten; beyond that, an address is not noted, so that its cursor stays and what is sent of it is sent again
/// later.
pub const CURSOR_ADDRESSES_MAX: usize = 16_384;

/// How long a delivery may be put off. More: `invalid_frame`.
pub const DELAY_MS_MAX: u64 = 7 * 24 * 3_600_000;

/// Messages in one batch: how many consecutive messages cross to a worker as one entry.
pub const BATCH_MESSAGES_MAX: usize = 512;

/// Bytes at which a shared segment of encoded frames is closed; it is longer by at most one frame.
pub const SEGMENT_BYTES: usize = 16 * 1024;

/// Bytes one connection's outbound queue may pin. More: what the settings of the address say, and counted.
pub const OUTBOUND_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Messages one session may have in flight, and the memory of batches they may keep alive. More: nothing is sent to
/// it, and the attempt fails with `queue_full`; what is read from the store for it waits until half of the window is free.
pub const WINDOW_MESSAGES_MAX: usize = 4_096;
pub const WINDOW_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Memory of what a session may still acknowledge of the messages that were in flight to it when it lost a connection, without
/// their payloads: some 1,000 of batches of one, 4,000 of longer ones; and of how many connections. More: the last ones of each
/// address, or the earliest connection, are left out, and their acks are `not_in_flight` until they are sent again.
pub const WINDOW_LEFT_BYTES_MAX: usize = 256 * 1024;
pub const WINDOW_LEFT_CONNECTIONS_MAX: usize = 8;

/// Memory of that of all sessions that are away. More: the next one that leaves keeps nothing of it, and its acks are
/// `not_in_flight` until the messages are sent again.
pub const WINDOWS_LEFT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Addresses a window remembers without anything in flight, or as many as have something in flight. More: they are
/// forgotten, and a repeated ack for one is `not_in_flight`.
pub const WINDOW_IDLE_LANES_MAX: usize = 1_024;

/// Stretches of refused or passed over messages per address that hold a session's cursor back. More: the last ones
/// become one, so that the cursor stays further behind.
pub const WINDOW_HELD_MAX: usize = 64;

/// Deliveries (messages times recipients) one worker tracks until they are acknowledged, and the memory of their
/// batches and of the reasons of nacks about them. More: a publish of level `delivered` is refused with `overloaded`, and a
/// nack counts without its reason.
pub const TRACKED_DELIVERIES_MAX: usize = 1_048_576;
pub const TRACKED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Ended messages whose ledger one worker keeps; one with several recipients or many acks counts once for each, and the reason of
/// a nack for as many as its bytes would be. More: the oldest is forgotten.
pub const LEDGER_MESSAGES_MAX: usize = 65_536;

/// Reports about one recipient of a batch that the ledger keeps. More: the oldest is forgotten.
pub const LEDGER_REPORTS_MAX: usize = 1_024;

/// Flights whose timers one turn of a worker handles. More: the next turn goes on.
pub const FLIGHTS_PER_TURN_MAX: usize = 256;

/// The longest wait between two attempts, whatever a recipient or a policy asks for. Longer: this long.
pub const RETRY_WAIT_MS_MAX: u64 = 24 * 3_600_000;

/// How long the delivery of a message may take, 49 days and 17 hours, whatever a plan or a policy says: its times are kept as
/// 32 bits. What would be done later is given up, and what is waited for then fails.
pub const DELIVERY_MS_MAX: u64 = u32::MAX as u64;

/// How long a message waits for a recipient without a session, whatever policies say, unless its plan would take longer. Then the
/// plan is exhausted.
pub const OFFLINE_WAIT_MS_MAX: u64 = 7 * 24 * 3_600_000;

/// Deliveries of one message to one recipient, whatever a plan or a policy says. More: the plan is exhausted.
pub const ATTEMPTS_MAX: u16 = 1_000;

/// Publishes one worker holds back for their time, and their bytes. More: `overloaded`. Those stored by an earlier run
/// are read as room becomes free, and beyond this by a page when they are due.
pub const DELAYED_MESSAGES_MAX: usize = 10_000;
pub const DELAYED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Pairs of address and action that one connection's client is told of apart when messages were dropped. More:
/// told together, under `*`.
pub const OVERFLOW_REPORTS_MAX: usize = 64;

/// Addresses of one connection whose messages are left in the store at a time. More: the connection is closed,
/// and its client may come back and read all of them from the store.
pub const SPILLED_ADDRESSES_MAX: usize = 64;

/// Addresses of wildcards that one session reads from the store at a time, and half as many before the next ones are looked
/// up. More: they wait for their turn in the store. About 500 bytes each.
pub const CATCH_UP_ADDRESSES_MAX: usize = 4_096;

/// Bytes of live messages that are not stored and that one session holds while it reads what is stored of their
/// addresses. More: dropped, counted, and told with `overflow`.
pub const CATCH_UP_HELD_BYTES_MAX: usize = 1024 * 1024;

/// Addresses with stored messages at which one reading for a wildcard, or for a queue on one, looks. More: the next
/// reading goes on behind them.
pub const ADDRESSES_LOOKED_AT_MAX: usize = 16_384;

/// How much later than the time of its publish a message may take its position: workers take the time first. More: a reading
/// that begins at a time may pass over it.
pub const PUBLISH_SKEW_MS: u64 = 1_000;

/// Sessions that can be resumed, live or left. More: those that left first are forgotten; when all are live, one more
/// session gets no resume token. About 500 bytes each, 1 KiB for each subscription with wildcards, and
/// what the session may still acknowledge ([`WINDOW_LEFT_BYTES_MAX`], [`WINDOWS_LEFT_BYTES_MAX`]).
pub const RESUMABLE_SESSIONS_MAX: usize = 100_000;

/// Lost sessions whose resume window has ended that one look at their table forgets, under its lock. More: the next looks do, of
/// which there is at least one a second.
pub const RESUMES_FORGOTTEN_PER_LOOK_MAX: usize = 128;

/// Bytes that a QUIC client may send ahead of what is read of it. More: it waits, by the protocol.
pub const QUIC_RECEIVE_BYTES: usize = 256 * 1024;

const _: () = assert!(SHARD_COUNT.is_power_of_two(), "the shard is a mask of the address's hash");
const _: () = assert!(WORKERS_MAX <= 64, "target workers are a 64-bit set");
const _: () = assert!(
    OUTBOUND_BYTES_MAX >= MESSAGE_BYTES_MAX + MESSAGE_BYTES_MAX / 2,
    "one message of the largest size, base64 in JSON, must fit an empty queue"
);
const _: () =
    assert!(HANDSHAKE_FRAME_BYTES_MAX <= MESSAGE_BYTES_MAX, "a stranger may not send more than a session");
const _: () = assert!(TOKEN_BYTES_MAX < HANDSHAKE_FRAME_BYTES_MAX, "a stranger's `connect` holds a token");
const _: () = assert!(NAME_BYTES_MAX <= u16::MAX as usize, "names have 16-bit lengths on the wire");
const _: () = assert!(
    TRACKED_DELIVERIES_MAX >= 1_000 * BATCH_MESSAGES_MAX,
    "the largest batch to the most recipients that may be asked to acknowledge can be tracked"
);
const _: () = assert!(
    QUEUE_MEMBER_MESSAGES_MAX < WINDOW_MESSAGES_MAX && QUEUE_MEMBER_BYTES_MAX < WINDOW_BYTES_MAX,
    "a session's window has room for what one queue gives it"
);
const _: () = assert!(QUEUE_STRETCHES_MAX <= QUEUE_DONE_MAX, "a record says no more than is known");
const _: () = assert!(QUEUE_OPEN_BYTES_MAX <= QUEUES_OPEN_BYTES_MAX, "one queue alone may use its bound");
const _: () = assert!(WINDOW_MESSAGES_MAX >= BATCH_MESSAGES_MAX, "a whole batch fits an empty window");
