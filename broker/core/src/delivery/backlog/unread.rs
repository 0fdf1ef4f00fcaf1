//! Questions to the store that it did not answer: it fails for a while, cannot read what is there, or was not asked.

use super::{Asked, Backlog};
use crate::address::Address;
use hashbrown::HashSet;

/// A question to the store has no answer after this time: it is asked again.
pub(super) const ANSWER_WAIT_MS: u64 = 10_000;
/// The time between two questions for what the store cannot read.
pub(super) const HELD_WAIT_MS: u64 = 60_000;

impl Backlog {
    /// The store gave no page. `passes`: it may soon; otherwise something is damaged, which a repair or a start may mend. Until
    /// then the address stays where it is, and the queue goes on with what is published.
    pub fn handle_unread(&mut self, number: u64, passes: bool) {
        let Some(asked) = self.asked.take_if(|asked| asked.number == number) else { return };
        self.is_stalled |= passes;
        let due_ms = asked.asked_ms.saturating_add(HELD_WAIT_MS);
        match asked.to {
            Some(to) if passes => self.turns.push_back(to),
            Some(to) => {
                if let Some(progress) = self.addresses.get_mut(&to) {
                    progress.held_ms = Some(asked.asked_ms);
                    self.held_due_ms = self.held_due_ms.min(due_ms);
                }
            }
            None if passes => {}
            None => self.list_due_ms = due_ms,
        }
    }

    /// The question could not be asked: it is asked again by the next tick.
    pub fn handle_unasked(&mut self, number: u64) {
        self.is_stalled = true;
        if let Some(Asked { to: Some(to), .. }) = self.asked.take_if(|asked| asked.number == number) {
            self.turns.push_back(to);
        }
    }

    /// Once a second.
    pub fn handle_tick(&mut self, now_ms: u64) {
        self.is_stalled = false;
        let members = self.members.as_ref();
        self.loads.handle_tick(|session| {
            members.is_some_and(|queue| queue.members.iter().any(|member| member.session == session))
        });
        if self.asked.as_ref().is_some_and(|asked| now_ms >= asked.asked_ms + ANSWER_WAIT_MS)
            && let Some(Asked { to: Some(to), .. }) = self.asked.take()
        {
            self.turns.push_back(to);
        }
        if now_ms >= self.held_due_ms {
            self.ask_held(now_ms);
        }
        if self.members.is_none() {
            self.addresses.retain(|_, progress| !progress.is_settled());
        }
    }

    /// Asks again for what the store could not read.
    fn ask_held(&mut self, now_ms: u64) {
        self.held_due_ms = u64::MAX;
        // Those that were not read since they were last asked for.
        let waiting: HashSet<Address, foldhash::fast::RandomState> = self.turns.iter().cloned().collect();
        for (to, progress) in &mut self.addresses {
            let Some(held_ms) = progress.held_ms else { continue };
            let mut due_ms = held_ms.saturating_add(HELD_WAIT_MS);
            if now_ms >= due_ms {
                if self.members.is_some() {
                    if !waiting.contains(to) {
                        self.turns.push_back(to.clone());
                    }
                    progress.held_ms = Some(now_ms);
                } else {
                    progress.held_ms = None;
                }
                due_ms = now_ms.saturating_add(HELD_WAIT_MS);
            }
            self.held_due_ms = self.held_due_ms.min(due_ms);
        }
    }
}
