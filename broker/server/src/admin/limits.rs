//! Every bound of the admin listener, with what happens when it is reached.

use std::time::Duration;
use waspmq_core::limits::{HEADER_BYTES_MAX, MESSAGE_BYTES_MAX};

/// Connections at once. More: they wait in the kernel's backlog. Each costs its buffers and one request body.
pub const CONNECTIONS_MAX: usize = 64;

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
/// does not hold a place for ever.
pub const CONNECTION_AGE_MAX: Duration = Duration::from_secs(600);

/// How long open requests may take once the listener stops. Longer: cut off.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after the operating system refused to accept, so that a full descriptor table is not polled in a loop.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Calls at once that take long: compiling, or walking all sessions. More: they wait within their request's time.
pub const BLOCKING_CALLS_MAX: usize = 2;

/// Bytes of a JSON document. More: 413.
pub const DOCUMENT_BYTES_MAX: usize = 128 * 1024;

/// Bytes of a publish document: the largest payload in base64, its headers escaped, and the rest. More: 413.
pub const PUBLISH_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 3 * 4 + HEADER_BYTES_MAX * 6 + 16 * 1024;

/// Items of one page of a list, asked for or not. More asked: 400.
pub const PAGE_ITEMS_MAX: usize = 1_000;
pub const PAGE_ITEMS_DEFAULT: usize = 100;

/// Bytes of a refusal's text that is taken over into its problem document. More: left out.
pub const REFUSAL_BYTES_MAX: usize = 4 * 1024;

/// The highest priority of a message.
pub const PRIORITY_MAX: u8 = 9;

const _: () = assert!(
    waspmq_policy::limits::CONFIG_BYTES_MAX < DOCUMENT_BYTES_MAX,
    "a policy document with the largest configuration must fit"
);
const _: () = assert!(
    BODY_TIMEOUT.as_secs() < REQUEST_TIMEOUT.as_secs(),
    "a slow body is told apart from a slow request"
);
