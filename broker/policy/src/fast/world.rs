//! The functions of `plugin-sdk/wit/policy.wit`, described for the fast lane.
//!
//! Compared with the types of each component before it takes the lane, so this copy cannot drift from the
//! contract unnoticed: the lane would not be taken, and a test would fail.

use super::brief::Brief;
use super::types::{Function, Type};

pub(crate) const KIND: Type = Type::Enum(&["user", "group", "topic", "all"]);
pub(crate) const LEVEL: Type = Type::Enum(&["debug", "info", "warn", "error"]);

pub(crate) const MESSAGE: Type = Type::Record(&[
    ("sender", Type::String),
    ("address", Type::String),
    ("kind", KIND),
    ("key", Type::String),
    ("size", Type::U32),
    ("priority", Type::U8),
    ("ts", Type::U64),
]);

pub(crate) const QUEUE_MEMBERS: Type = Type::Record(&[
    ("pattern", Type::String),
    ("queue", Type::String),
    ("version", Type::U64),
    ("members", Type::List(&Type::String)),
]);

pub(crate) const PICK: Type = Type::Record(&[("version", Type::U64), ("index", Type::U32)]);

pub(crate) const ROUTES: Type = Type::Variant(&[
    ("continue", None),
    ("deliver", None),
    ("redirect", Some(Type::String)),
    ("fan-out", Some(Type::List(&Type::String))),
    ("pick", Some(PICK)),
    ("drop", Some(Type::String)),
]);

pub(crate) const HEADER: Type = Type::Tuple(&[Type::String, Type::String]);

const CACHES: [&str; 3] = ["never", "address", "connection"];
pub(crate) const CACHE: Type = Type::Enum(&CACHES);

pub(crate) const VERDICT: Type =
    Type::Record(&[("route", ROUTES), ("set-headers", Type::List(&HEADER)), ("cache", CACHE)]);

pub(crate) const ANSWER: Type = Type::Fallible(&Type::String);

pub(crate) const ROUTE: Function =
    Function { name: "route", params: &[("message", MESSAGE)], result: Some(VERDICT) };
pub(crate) const CONFIGURE: Function =
    Function { name: "configure", params: &[("config", Type::String)], result: Some(ANSWER) };
pub(crate) const SELF_TEST: Function = Function { name: "self-test", params: &[], result: Some(ANSWER) };
pub(crate) const MEMBERS_CHANGED: Function =
    Function { name: "members-changed", params: &[("members", QUEUE_MEMBERS)], result: None };

pub(crate) const ACK_LEVEL: Type = Type::Enum(&["none", "accepted", "stored", "delivered"]);
pub(crate) const QUORUM: Type = Type::Variant(&[("any", None), ("count", Some(Type::U32)), ("all", None)]);
pub(crate) const EXHAUSTED: Type = Type::Enum(&["dead-letter", "drop"]);

pub(crate) const ACK_PLAN: Type = Type::Record(&[
    ("level", ACK_LEVEL),
    ("quorum", QUORUM),
    ("timeout-ms", Type::U32),
    ("attempts", Type::U16),
    ("initial-ms", Type::U32),
    ("max-ms", Type::U32),
    ("jitter-percent", Type::U8),
    ("exhausted", EXHAUSTED),
]);

const CAUSE: Type = Type::Enum(&["timeout", "nack", "queue-full", "offline", "connection-lost"]);

const FAILURE: Type = Type::Record(&[
    ("address", Type::String),
    ("sender", Type::String),
    ("recipient", Type::String),
    ("cause", CAUSE),
    ("attempt", Type::U16),
    ("messages", Type::U16),
    ("waited-ms", Type::U64),
    ("retry-ms", Type::Option(&Type::U32)),
    ("attempts", Type::U16),
    ("random", Type::U64),
]);

pub(crate) const DECISION: Type = Type::Variant(&[
    ("continue", None),
    ("retry", Some(Type::U32)),
    ("wait", Some(Type::U32)),
    ("give-up", None),
]);

pub(crate) const REFUSAL: Type = Type::Record(&[("reason", Type::String), ("retry-ms", Type::U32)]);

pub(crate) const ADMISSION: Type =
    Type::Variant(&[("continue", None), ("accept", None), ("refuse", Some(REFUSAL))]);

const ACTION: Type = Type::Enum(&["continue", "drop-oldest", "drop-newest", "conflate", "spill", "close"]);

const OVERFLOWING: Type = Type::Record(&[
    ("address", Type::String),
    ("recipient", Type::String),
    ("kind", KIND),
    ("priority", Type::U8),
    ("size", Type::U32),
    ("queued-bytes", Type::U32),
    ("queued-bytes-max", Type::U32),
    ("configured", ACTION),
]);

const CODECS: Type = Type::Flags(&["lz4", "zstd", "zstd-dictionary", "deflate"]);

const AUDIENCE: Type = Type::Record(&[("codecs", CODECS), ("dictionary", Type::Bool)]);

pub(crate) const CODEC: Type = Type::Variant(&[
    ("continue", None),
    ("none", None),
    ("lz4", None),
    ("zstd", Some(Type::S8)),
    ("zstd-dictionary", Some(Type::String)),
    ("deflate", Some(Type::U8)),
]);

pub(crate) const CHOICE: Type = Type::Record(&[("codec", CODEC), ("cache", CACHE)]);

pub(crate) const PLAN: Function = Function {
    name: "plan",
    params: &[("message", MESSAGE), ("configured", ACK_PLAN)],
    result: Some(Type::Option(&ACK_PLAN)),
};
pub(crate) const FAILED: Function =
    Function { name: "failed", params: &[("failure", FAILURE)], result: Some(DECISION) };
pub(crate) const ADMIT: Function =
    Function { name: "admit", params: &[("message", MESSAGE)], result: Some(ADMISSION) };
pub(crate) const OVERFLOW: Function =
    Function { name: "overflow", params: &[("what", OVERFLOWING)], result: Some(ACTION) };
pub(crate) const CHOOSE: Function = Function {
    name: "choose",
    params: &[("message", MESSAGE), ("audience", AUDIENCE)],
    result: Some(CHOICE),
};

/// What components export, all of it functions of the world itself: these always, ...
pub(crate) const LIFECYCLE: [&Function; 2] = [&CONFIGURE, &SELF_TEST];
/// ... this on the way to no message, ...
pub(crate) const COLD: [&Function; 1] = [&MEMBERS_CHANGED];
/// ... and these on the way of each. They have adapters.
pub(crate) const HOT: [&Function; 6] = [&ROUTE, &PLAN, &FAILED, &ADMIT, &OVERFLOW, &CHOOSE];

/// All of them.
pub(crate) fn exports() -> impl Iterator<Item = &'static Function> {
    LIFECYCLE.into_iter().chain(COLD).chain(HOT)
}

/// Where the result of a hook shows that it is brief.
pub(crate) fn brief(function: &Function) -> Option<Brief> {
    const ROUTES_AND_NOTHING_ELSE: Brief = Brief {
        size: VERDICT.size(),
        align: VERDICT.align(),
        case: (VERDICT.field_at("route"), ROUTES.first_plain_cases()),
        empty: Some((VERDICT.field_at("set-headers"), HEADER.align())),
        more: Some((VERDICT.field_at("cache"), CACHES.len())),
    };
    const CODEC_OF_NO_LEVEL: Brief = Brief {
        size: CHOICE.size(),
        align: CHOICE.align(),
        case: (CHOICE.field_at("codec"), CODEC.first_plain_cases()),
        empty: None,
        more: Some((CHOICE.field_at("cache"), CACHES.len())),
    };
    match function.name {
        name if name == ROUTE.name => Some(ROUTES_AND_NOTHING_ELSE),
        name if name == CHOOSE.name => Some(CODEC_OF_NO_LEVEL),
        _ => function.result.as_ref().and_then(Brief::of),
    }
}

const BYTES: Type = Type::List(&Type::U8);
const KEY: (&str, Type) = ("key", Type::String);
const TTL: (&str, Type) = ("ttl-ms", Type::U64);

/// What components may import of the interface `host`.
pub(crate) const IMPORTS: [&Function; 17] = [
    &Function { name: "log", params: &[("level", LEVEL), ("text", Type::String)], result: None },
    &Function { name: "counter", params: &[("name", Type::String), ("delta", Type::U64)], result: None },
    &Function { name: "histogram", params: &[("name", Type::String), ("value", Type::U64)], result: None },
    &Function {
        name: "header",
        params: &[("name", Type::String)],
        result: Some(Type::Option(&Type::String)),
    },
    &Function { name: "headers", params: &[], result: Some(Type::List(&HEADER)) },
    &Function { name: "payload", params: &[], result: Some(BYTES) },
    &Function { name: "kv-get", params: &[KEY], result: Some(Type::Option(&BYTES)) },
    &Function { name: "kv-set", params: &[KEY, ("value", BYTES), TTL], result: Some(Type::Bool) },
    &Function { name: "kv-delete", params: &[KEY], result: None },
    &Function {
        name: "kv-compare-and-set",
        params: &[KEY, ("expected", Type::Option(&BYTES)), ("value", BYTES), TTL],
        result: Some(Type::Bool),
    },
    &Function {
        name: "kv-add",
        params: &[KEY, ("delta", Type::S64), TTL],
        result: Some(Type::Option(&Type::S64)),
    },
    &Function {
        name: "take",
        params: &[
            ("bucket", Type::String),
            ("amount", Type::U32),
            ("per-second", Type::U32),
            ("burst", Type::U32),
        ],
        result: Some(Type::Bool),
    },
    &Function { name: "now", params: &[], result: Some(Type::U64) },
    &Function { name: "random", params: &[], result: Some(Type::U64) },
    &Function { name: "is-online", params: &[("user", Type::String)], result: Some(Type::Bool) },
    &Function { name: "group-size", params: &[("group", Type::String)], result: Some(Type::U32) },
    &Function { name: "in-flight", params: &[("version", Type::U64)], result: Some(Type::List(&Type::U32)) },
];

/// Whether the guest has to make room for the result of an import.
pub(crate) fn has_blocks(import: &str) -> bool {
    IMPORTS.iter().any(|known| known.name == import && known.result_has_blocks())
}

/// Whether strings cross with an import.
pub(crate) fn passes_strings(import: &str) -> bool {
    IMPORTS.iter().any(|known| known.name == import && known.passes_strings())
}
