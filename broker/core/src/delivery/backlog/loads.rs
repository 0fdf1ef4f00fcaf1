//! What the members of a queue have in their hands.

use crate::id::SessionId;
use crate::limits;
use hashbrown::HashMap;

/// One member.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Load {
    messages: usize,
    bytes: usize,
    /// When it acknowledged last, or was given something after it had nothing.
    pub(super) heard_ms: u64,
    /// Whether an attempt timed out since it was heard last: it is given one message at a time.
    pub(super) is_silent: bool,
    /// Whether its session had no room: it is given nothing until it is heard, or for a moment.
    is_full: bool,
}

impl Load {
    fn has_room(&self) -> bool {
        self.messages == 0 && !self.is_full
            || !self.is_silent
                && !self.is_full
                && self.messages < limits::QUEUE_MEMBER_MESSAGES_MAX
                && self.bytes < limits::QUEUE_MEMBER_BYTES_MAX
    }
}

/// All members of which something is to be known.
#[derive(Debug, Default)]
pub(super) struct Loads(HashMap<SessionId, Load, foldhash::fast::RandomState>);

impl Loads {
    pub(super) fn of(&self, session: SessionId) -> Load {
        self.0.get(&session).copied().unwrap_or_default()
    }

    pub(super) fn has_room(&self, session: SessionId) -> bool {
        self.0.get(&session).is_none_or(Load::has_room)
    }

    pub(super) fn add(&mut self, session: SessionId, bytes: usize, now_ms: u64) {
        let load = self.0.entry(session).or_default();
        if load.messages == 0 {
            load.heard_ms = load.heard_ms.max(now_ms);
        }
        load.messages += 1;
        load.bytes += bytes;
    }

    pub(super) fn remove(&mut self, session: SessionId, bytes: usize) {
        if let Some(load) = self.0.get_mut(&session) {
            load.messages = load.messages.saturating_sub(1);
            load.bytes = load.bytes.saturating_sub(bytes);
        }
    }

    pub(super) fn handle_heard(&mut self, session: SessionId, now_ms: u64) {
        if let Some(load) = self.0.get_mut(&session) {
            (load.heard_ms, load.is_silent, load.is_full) = (now_ms, false, false);
        }
    }

    pub(super) fn handle_silent(&mut self, session: SessionId) {
        if let Some(load) = self.0.get_mut(&session) {
            load.is_silent = true;
        }
    }

    pub(super) fn handle_full(&mut self, session: SessionId) {
        self.0.entry(session).or_default().is_full = true;
    }

    /// Once a second: who was full may have room, and nothing has to be known of who has nothing.
    pub(super) fn handle_tick(&mut self, is_member: impl Fn(SessionId) -> bool) {
        self.0.retain(|session, load| {
            load.is_full = false;
            load.messages > 0 || load.is_silent && is_member(*session)
        });
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
