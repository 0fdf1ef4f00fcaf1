//! The world `routing` of `plugin-sdk/wit/policy.wit`, described for the fast lane.
//!
//! Compared with the types of each component before it takes the lane, so this copy cannot drift from the
//! contract unnoticed: the lane would not be taken, and a test would fail.

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

pub(crate) const CACHE: Type = Type::Enum(&["never", "address", "connection"]);

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

/// What components export; each must be a function of the world itself.
pub(crate) const HOOKS: [&Function; 4] = [&ROUTE, &CONFIGURE, &SELF_TEST, &MEMBERS_CHANGED];

/// What components may import of the interface `host`.
pub(crate) const IMPORTS: [&Function; 5] = [
    &Function { name: "log", params: &[("level", LEVEL), ("text", Type::String)], result: None },
    &Function { name: "counter", params: &[("name", Type::String), ("delta", Type::U64)], result: None },
    &Function {
        name: "header",
        params: &[("name", Type::String)],
        result: Some(Type::Option(&Type::String)),
    },
    &Function { name: "headers", params: &[], result: Some(Type::List(&HEADER)) },
    &Function { name: "payload", params: &[], result: Some(Type::List(&Type::U8)) },
];
