//! The stored form of a record: JSON, so that a later version reads what an earlier one wrote. Fields that are not
//! known are skipped.

use super::{Begin, Implied, Record, Replay, Subscribed};
use serde::de::Error;
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use waspmq_core::session::Subscription;
use waspmq_core::{Address, Name, Pattern, Position, SessionId};

/// When the broker was alive last, milliseconds since 1970.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Alive {
    pub(crate) unix_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct Body {
    session: String,
    #[serde(default)]
    former: Vec<String>,
    worker: u8,
    user: String,
    device: Option<String>,
    is_generated: bool,
    subscriptions: Vec<SubscribedBody>,
    implied: Vec<(String, String)>,
    watched: Vec<String>,
    replays: Vec<ReplayBody>,
    left_unix_ms: Option<u64>,
    has_missed: bool,
    saved_unix_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct SubscribedBody {
    to: String,
    queue: Option<String>,
    since: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct ReplayBody {
    of: String,
    begin: BeginBody,
    until: Option<(String, String)>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum BeginBody {
    Cursor,
    Earliest,
    Last,
    Time(u64),
    After(String),
}

pub(super) fn to_json(record: &Record, now_unix_ms: u64) -> Vec<u8> {
    let body = Body {
        session: record.session.to_string(),
        former: record.former.iter().map(SessionId::to_string).collect(),
        worker: record.worker,
        user: record.user.to_string(),
        device: record.device.as_ref().map(Name::to_string),
        is_generated: record.is_generated,
        subscriptions: record.subscriptions.iter().map(subscribed_body).collect(),
        implied: record.implied.iter().map(|had| (had.to.to_string(), had.since.to_string())).collect(),
        watched: record.watched.iter().map(Name::to_string).collect(),
        replays: record.replays.iter().map(replay_body).collect(),
        left_unix_ms: record.left_unix_ms,
        has_missed: record.has_missed,
        saved_unix_ms: now_unix_ms,
    };
    // Only maps with keys that are no text, and foreign serializers, fail.
    serde_json::to_vec(&body).unwrap_or_default()
}

/// A record, and when it was written.
pub(super) fn parse(body: &[u8]) -> Result<(Record, u64), serde_json::Error> {
    let body: Body = serde_json::from_slice(body)?;
    let implied = body
        .implied
        .iter()
        .map(|(to, since)| Ok(Implied::new(Address::parse(to).map_err(Error::custom)?, from_text(since)?)));
    let record = Record {
        session: from_text(&body.session)?,
        former: body.former.iter().map(|id| from_text(id)).collect::<Result<_, _>>()?,
        worker: body.worker,
        user: name(&body.user)?,
        device: body.device.as_deref().map(name).transpose()?,
        is_generated: body.is_generated,
        subscriptions: body.subscriptions.iter().map(subscribed).collect::<Result<_, _>>()?,
        implied: implied.collect::<Result<_, serde_json::Error>>()?,
        watched: body.watched.iter().map(|user| name(user)).collect::<Result<_, _>>()?,
        replays: body.replays.iter().map(replay).collect::<Result<_, _>>()?,
        window: Vec::new(),
        cursors: None,
        has_cursors: false,
        left_unix_ms: body.left_unix_ms,
        has_missed: body.has_missed,
        is_saved: false,
    };
    Ok((record, body.saved_unix_ms))
}

fn subscribed_body(subscribed: &Subscribed) -> SubscribedBody {
    let Subscription { pattern, queue } = &subscribed.subscription;
    SubscribedBody {
        to: pattern.to_string(),
        queue: queue.as_ref().map(Name::to_string),
        since: subscribed.since.iter().map(Position::to_string).collect(),
    }
}

fn subscribed(body: &SubscribedBody) -> Result<Subscribed, serde_json::Error> {
    let pattern = Pattern::parse(&body.to).map_err(Error::custom)?;
    let queue = body.queue.as_deref().map(name).transpose()?;
    let since: Arc<[_]> = body.since.iter().map(|since| from_text(since)).collect::<Result<_, _>>()?;
    // The streams of an earlier run say nothing about what was missed in this one.
    let (told, number) = (since.clone(), None);
    Ok(Subscribed { subscription: Subscription { pattern, queue }, since, told, number })
}

fn replay_body(replay: &Replay) -> ReplayBody {
    let begin = match replay.begin {
        Begin::Cursor => BeginBody::Cursor,
        Begin::Earliest => BeginBody::Earliest,
        Begin::Last => BeginBody::Last,
        Begin::Time(unix_ms) => BeginBody::Time(unix_ms),
        Begin::After(position) => BeginBody::After(position.to_string()),
    };
    let until = replay.until.map(|(last, end)| (last.to_string(), end.to_string()));
    ReplayBody { of: replay.of.to_string(), begin, until }
}

fn replay(body: &ReplayBody) -> Result<Replay, serde_json::Error> {
    let begin = match &body.begin {
        BeginBody::Cursor => Begin::Cursor,
        BeginBody::Earliest => Begin::Earliest,
        BeginBody::Last => Begin::Last,
        BeginBody::Time(unix_ms) => Begin::Time(*unix_ms),
        BeginBody::After(position) => Begin::After(from_text(position)?),
    };
    let of = Pattern::parse(&body.of).map_err(Error::custom)?;
    let until = body
        .until
        .as_ref()
        .map(|(last, end)| Ok::<_, serde_json::Error>((from_text(last)?, from_text(end)?)));
    Ok(Replay { of, begin, until: until.transpose()? })
}

fn name(text: &str) -> Result<Name, serde_json::Error> {
    Name::parse(text).map_err(Error::custom)
}

fn from_text<T: FromStr<Err: Display>>(text: &str) -> Result<T, serde_json::Error> {
    text.parse().map_err(Error::custom)
}
