//! Every bound of the admin listener, with what happens when it is reached.

use std::time::Duration;
use waspmq_core::limits::{HEADER_BYTES_MAX, MESSAGE_BYTES_MAX};

/// Connections at once. More: the one that has waited longest for its next request is closed. Each costs its buffers and one request
/// body.
pub const CONNECTIONS_MAX: usize = 64;

/// Requests at once that the token let in, each until its answer is written; those to the open paths are not counted. More: 503.
pub const REQUESTS_MAX: usize = 48;

/// Publishes at once that wait for a level beyond `accepted`. More: 503, and the message is not published.
pub const PUBLISHES_WAITING_MAX: usize = 32;

/// Bytes of a request's head, and its header lines. More: 431 without a body and the connection is closed.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
pub const HEADERS_MAX: usize = 64;

/// Time for a request's head to arrive, which also bounds how long a connection may idle. Longer: closed.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for a request's body to arrive. Longer: 408.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Time for a whole request, compiling a plugin included. Longer: 503; work that was begun goes on.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// Age of a connection from which it takes no further request, so that a client which never reads its answers
/// does not hold a place for ever. An answer that is read no further within [`REQUEST_TIMEOUT`] is cut off then.
pub const CONNECTION_AGE_MAX: Duration = Duration::from_secs(600);

/// How long open requests may take once the listener stops. Longer: cut off.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after the operating system refused to accept, so that a full descriptor table is not polled in a loop.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Calls at once that take long: compiling, or walking all sessions. More: they wait within their request's time.
pub const BLOCKING_CALLS_MAX: usize = 2;

/// Requests at once that read the records of a capture, of which each may hold 128 MiB that is removed meanwhile. More:
/// they wait within their request's time.
pub const CAPTURE_READERS_MAX: usize = 2;

/// Seconds of a profile, asked for or not. More asked: 400.
pub const PROFILE_SECONDS_MAX: u64 = 60;
pub const CPU_PROFILE_SECONDS_DEFAULT: u64 = 10;
pub const HEAP_PROFILE_SECONDS_DEFAULT: u64 = 30;

/// How often a profile looks whether the broker drains, which ends it.
pub const PROFILE_DRAIN_POLL: Duration = Duration::from_millis(100);

/// Bytes of a JSON document. More: 413.
pub const DOCUMENT_BYTES_MAX: usize = 128 * 1024;

/// Bytes of a publish document: the largest payload in base64, its headers escaped, and the rest. More: 413.
pub const PUBLISH_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 3 * 4 + HEADER_BYTES_MAX * 6 + 16 * 1024;

/// Items of one page of a list, asked for or not. More asked: 400.
pub const PAGE_ITEMS_MAX: usize = 1_000;
pub const PAGE_ITEMS_DEFAULT: usize = 100;

/// Bytes of stored messages from which a page of them ends. More: the rest is on the next page. An answer may hold
/// a third more, as base64, and one message beyond.
pub const STORED_PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Dead letters read from the store at once; each may have a payload.
pub const LETTERS_READ: usize = 32;

/// Dead letters that one request passes over. More: the page ends, and its `next` goes on.
pub const LETTERS_SCANNED_MAX: usize = 10_000;

/// Dead letters that one request publishes anew or removes. More: they stay, and the answer says `more`.
pub const LETTERS_CHANGED_MAX: usize = 1_000;

/// Letters that were not accepted anew and are told one by one. More: only counted.
pub const FAILURES_TOLD_MAX: usize = 10;

/// How long before an id's time its message is looked for in a history: messages that were read together have the
/// time of the first.
pub const HISTORY_SEARCH_BEFORE_MS: u64 = 100;

/// Pages of a history that are looked through for one message. More: it is not found.
pub const HISTORY_SEARCH_PAGES_MAX: usize = 8;

/// Records of the store that are looked at for one message of which the address is not named: a few for each address
/// that has messages. More: it is not found, and the answer says why. Takes seconds.
pub const SEARCH_LOOKS_MAX: usize = 1_000_000;

/// Devices of a user whose cursors are looked at for one message. More: left out.
pub const CURSORS_MAX: usize = 64;

/// Time for a published message to reach its level. Longer: 504, and the delivery goes on.
pub const PUBLISH_TIMEOUT: Duration = Duration::from_secs(110);

/// Bytes of a refusal's text that is taken over into its problem document. More: left out.
pub const REFUSAL_BYTES_MAX: usize = 4 * 1024;

const _: () = assert!(
    waspmq_policy::limits::CONFIG_BYTES_MAX < DOCUMENT_BYTES_MAX,
    "a policy document with the largest configuration must fit"
);
const _: () = assert!(
    waspmq_policy::limits::RULES_BYTES_MAX < DOCUMENT_BYTES_MAX,
    "a policy document with the largest rules must fit"
);
const _: () =
    assert!(REQUESTS_MAX < CONNECTIONS_MAX, "there always is a connection that can be closed for a probe");
const _: () = assert!(
    PUBLISHES_WAITING_MAX < REQUESTS_MAX,
    "whoever waits for recipients leaves others their requests"
);
const _: () = assert!(
    PUBLISH_TIMEOUT.as_secs() < REQUEST_TIMEOUT.as_secs(),
    "a slow recipient is told apart from a slow broker"
);
const _: () = assert!(
    PROFILE_SECONDS_MAX * 3 / 2 < REQUEST_TIMEOUT.as_secs(),
    "the longest profile is written within its request's time"
);
const _: () = assert!(
    BODY_TIMEOUT.as_secs() < REQUEST_TIMEOUT.as_secs(),
    "a slow body is told apart from a slow request"
);
