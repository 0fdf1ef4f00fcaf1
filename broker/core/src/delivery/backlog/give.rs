//! Giving: which message goes to which member next.

use super::loads::Loads;
use super::progress::{Open, State};
use super::{Backlog, Key};
use crate::id::SessionId;
use crate::message::Batch;
use crate::registry::{Member, Queue};
use std::sync::Arc;

/// Waiting messages that are looked at for one that can be given: behind those whose key belongs to a member without
/// room. More wait behind these.
const GIVE_WALK: usize = 64;
/// How long a message waits when the session that published it, and is to be left out, is the only member.
const NOBODY_WAIT_MS: u64 = 1_000;

/// A message for a member.
#[derive(Debug)]
pub struct Give {
    pub worker: u8,
    pub session: SessionId,
    /// Holds the one message.
    pub batch: Arc<Batch>,
    /// 1 for the first delivery.
    pub attempt: u16,
}

enum Choice<'a> {
    Member(&'a Member),
    /// Those who may have it have no room.
    Busy,
    Nobody,
}

impl Backlog {
    /// The next message that a member has room for. It counts as given from now on.
    pub fn poll_give(&mut self, now_ms: u64) -> Option<Give> {
        let queue = self.members.clone()?;
        let mut index = 0;
        while index < GIVE_WALK {
            let key = self.ready.get(index)?.clone();
            let Some(open) =
                self.addresses.get_mut(&key.0).and_then(|progress| progress.open.get_mut(&key.1))
            else {
                self.ready.remove(index);
                continue;
            };
            if !matches!(open.state, State::Ready) {
                // Was acknowledged, or put here a second time, meanwhile.
                self.ready.remove(index);
                continue;
            }
            match choose(&queue, &self.loads, open) {
                Choice::Busy => index += 1,
                Choice::Nobody => {
                    self.ready.remove(index);
                    self.rest(&key, now_ms + NOBODY_WAIT_MS);
                }
                Choice::Member(member) => {
                    self.ready.remove(index);
                    return Some(self.give(&key, member, now_ms)).flatten();
                }
            }
        }
        None
    }

    fn give(&mut self, key: &Key, member: &Member, now_ms: u64) -> Option<Give> {
        let open = self.addresses.get_mut(&key.0)?.open.get_mut(&key.1)?;
        let (session, worker) = (member.session, member.worker);
        open.attempt = open.attempt.saturating_add(1);
        open.state = State::Given { session, sent_ms: now_ms, _in_flight: member.begin() };
        // Its state of the members is over when it is given again.
        open.pick = None;
        let give = Give { worker, session, batch: open.batch.clone(), attempt: open.attempt };
        self.due_ms = self.due_ms.min(now_ms.saturating_add(open.plan.timeout_ms.max(1).into()));
        self.loads.add(session, give.batch.size_bytes(), now_ms);
        Some(give)
    }

    /// Puts an open message aside until a moment.
    pub(super) fn rest(&mut self, key: &Key, due_ms: u64) {
        if let Some(open) = self.addresses.get_mut(&key.0).and_then(|progress| progress.open.get_mut(&key.1))
        {
            open.state = State::Resting { due_ms };
            self.resting.insert((due_ms, key.clone()));
        }
    }

    /// Whether a member has room.
    pub(super) fn has_room_somewhere(&self) -> bool {
        let members = self.members.iter().flat_map(|queue| &queue.members);
        members.into_iter().any(|member| self.loads.has_room(member.session))
    }
}

/// The member for one message, as [`Queue::choose`] says it, of those with room. A key's member is waited for, unless it
/// is silent; who failed last is passed over when there is another.
fn choose<'a>(queue: &'a Queue, loads: &Loads, open: &Open) -> Choice<'a> {
    let excluded = open.batch.origin.filter(|_| open.batch.exclude_origin);
    let (key, pick) = (open.key(), open.pick);
    let is_out = |session: SessionId| Some(session) == excluded;
    if key.is_empty() && pick.is_none_or(|pick| pick.version != queue.version) {
        let is_busy = |session| is_out(session) || !loads.has_room(session);
        let other = queue.choose_but(key, None, |session| is_busy(session) || Some(session) == open.avoid);
        return match other.or_else(|| queue.choose_but(key, None, is_busy)) {
            Some(member) => Choice::Member(member),
            None if queue.members.iter().all(|member| is_out(member.session)) => Choice::Nobody,
            None => Choice::Busy,
        };
    }
    let is_silent = |session| is_out(session) || loads.of(session).is_silent;
    let member = queue
        .choose_but(key, pick, |session| is_silent(session) || Some(session) == open.avoid)
        .or_else(|| queue.choose_but(key, pick, is_silent))
        .or_else(|| queue.choose_but(key, pick, is_out));
    match member {
        Some(member) if loads.has_room(member.session) => Choice::Member(member),
        Some(_) => Choice::Busy,
        None => Choice::Nobody,
    }
}
