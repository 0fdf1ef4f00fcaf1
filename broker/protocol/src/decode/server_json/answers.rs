//! Broker frames that hold lists: history and presence.

use super::super::fields::{Raw, maybe_bool, maybe_number, need, parse, raw_list};
use super::{Fields, message, number, owned};
use crate::decode::json::is_object;
use crate::error::Problem;
use crate::limits::{HISTORY_MESSAGES_MAX, PRESENCE_USERS_MAX};
use crate::server::{History, Message, Presence, PresenceChange, UserPresence};
use serde::Deserialize;
use serde_json::value::RawValue;

pub(super) fn history(fields: &Fields<'_>) -> Result<History, Problem> {
    let messages = raw_list(fields.messages, "messages", HISTORY_MESSAGES_MAX)?;
    Ok(History {
        reference: maybe_number(fields.reference, "ref")?,
        of: owned(fields.of, "of")?,
        messages: messages.into_iter().map(one_message).collect::<Result<_, _>>()?,
        more: bool(fields.more, "more")?,
        gap: bool(fields.gap, "gap")?,
        unread: maybe_number(fields.unread, "unread")?,
    })
}

fn one_message(raw: &RawValue) -> Result<Message, Problem> {
    let fields: Fields<'_> = object(raw, "messages")?;
    message(&fields)
}

pub(super) fn presence(fields: &Fields<'_>) -> Result<Presence, Problem> {
    let users = raw_list(fields.users, "users", PRESENCE_USERS_MAX)?;
    Ok(Presence {
        reference: maybe_number(fields.reference, "ref")?,
        of: owned(fields.of, "of")?,
        users: users.into_iter().map(one_user).collect::<Result<_, _>>()?,
        more: bool(fields.more, "more")?,
    })
}

#[derive(Deserialize)]
struct UserFields<'a> {
    #[serde(borrow)]
    user: Raw<'a>,
    #[serde(borrow)]
    online: Raw<'a>,
    #[serde(borrow)]
    sessions: Raw<'a>,
    #[serde(borrow)]
    last_seen: Raw<'a>,
    #[serde(borrow)]
    seq: Raw<'a>,
}

fn one_user(raw: &RawValue) -> Result<UserPresence, Problem> {
    let fields: UserFields<'_> = object(raw, "users")?;
    Ok(UserPresence {
        user: owned(fields.user, "user")?,
        online: bool(fields.online, "online")?,
        sessions: number(fields.sessions, "sessions")?,
        last_seen_unix_ms: maybe_number(fields.last_seen, "last_seen")?,
        seq: number(fields.seq, "seq")?,
    })
}

pub(super) fn presence_change(fields: &Fields<'_>) -> Result<PresenceChange, Problem> {
    Ok(PresenceChange {
        user: owned(fields.user, "user")?,
        online: bool(fields.online, "online")?,
        last_seen_unix_ms: maybe_number(fields.last_seen, "last_seen")?,
        seq: number(fields.seq, "seq")?,
    })
}

fn bool(field: Raw<'_>, name: &str) -> Result<bool, Problem> {
    need(maybe_bool(field, name)?, name)
}

/// An entry of a list; serde also takes an array of all fields for a struct.
fn object<'a, T: Deserialize<'a>>(raw: &'a RawValue, name: &str) -> Result<T, Problem> {
    if !is_object(raw.get()) {
        return Err(Problem::invalid(format!("`{name}` holds something else than an object")));
    }
    parse(raw, name)
}
