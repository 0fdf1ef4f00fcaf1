//! The documents that are made from the code, or checked against it.

use crate::vectors::check_file;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use waspmq_core::{Close, Code};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

const fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

fn errors_page() -> String {
    let mut page = String::from(
        "# Errors and close codes\n\n\
         This page is made from the tables in `broker/core/src/reject.rs`; a test compares the two\n\
         (`BLESS=1 cargo test -p waspmq-protocol` writes it anew). Numbers and names are stable and never reused.\n\n\
         ## Errors\n\n\
         Sent as `{\"type\":\"error\",\"ref\":…,\"code\":…,\"name\":…,\"message\":…,\"retry_ms\":…}`. *Retry*: the same request may succeed\n\
         later. *Closes*: the peer broke the protocol, so the connection is closed behind the error frame.\n\n\
         | code | name | retry | closes | means |\n| --- | --- | --- | --- | --- |\n",
    );
    for code in Code::ALL {
        let (number, name, summary) = (code.number(), code.name(), code.summary().trim());
        let (retry, closes) = (yes(code.is_retryable()), yes(code.closes()));
        writeln!(page, "| {number} | `{name}` | {retry} | {closes} | {summary} |").unwrap();
    }
    page.push_str(
        "\n## Close codes\n\n\
         The status of a WebSocket close frame, the `code` of the frame `close`, the application error code of a QUIC\n\
         connection, the close code of a WebTransport session. 4000-4099: do not reconnect, the same would happen again. 4100-4199: reconnect, after the\n\
         wait that `goaway` named if there was one.\n\n\
         | code | name | reconnect |\n| --- | --- | --- |\n",
    );
    for close in Close::ALL {
        let (number, name) = (close.number(), close.name());
        writeln!(page, "| {number} | `{name}` | {} |", yes(number >= 4100)).unwrap();
    }
    page
}

#[test]
fn errors_page_is_the_table() {
    check_file(&docs().join("ERRORS.md"), &errors_page());
}

/// Every example frame of the vectors is one that PROTOCOL.md speaks of, by its type.
#[test]
fn protocol_page_names_every_frame() {
    let page = std::fs::read_to_string(docs().join("PROTOCOL.md")).unwrap();
    let mut kinds = Vec::new();
    for (frame, _, binary) in crate::vectors::client_frames() {
        kinds.push((frame.type_name().to_owned(), binary[0]));
    }
    for (_, json, binary) in crate::vectors::server_frames() {
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        kinds.push((json["type"].as_str().unwrap().to_owned(), binary[0]));
    }
    for (name, number) in kinds {
        assert!(page.contains(&format!("| `{name}` | {number:#04x} |")), "{name} {number:#04x}");
    }
}

#[test]
fn protocol_page_states_the_bounds() {
    use waspmq_core::limits as core;
    use waspmq_protocol::limits as own;
    let page = std::fs::read_to_string(docs().join("PROTOCOL.md")).unwrap();
    for (name, value) in [
        ("names", core::NAME_BYTES_MAX),
        ("topic tokens", core::TOPIC_TOKENS_MAX),
        ("message", core::MESSAGE_BYTES_MAX),
        ("frame before `connect`", core::HANDSHAKE_FRAME_BYTES_MAX),
        ("JSON depth", core::JSON_DEPTH_MAX),
        ("headers", core::HEADERS_MAX),
        ("header bytes", core::HEADER_BYTES_MAX),
        ("`key`, `dedup`", core::KEY_BYTES_MAX),
        ("binary control body", own::CONTROL_BYTES_MAX),
        ("list entries", own::LIST_ITEMS_MAX),
        ("history messages", own::HISTORY_MESSAGES_MAX),
        ("history bytes", own::HISTORY_BYTES_MAX),
        ("presence users", own::PRESENCE_USERS_MAX),
        ("unread", own::UNREAD_MAX as usize),
        ("bad frames", own::BAD_FRAMES_MAX),
    ] {
        assert!(page.contains(&format!("| {name} | {value} |")), "| {name} | {value} |");
    }
}
