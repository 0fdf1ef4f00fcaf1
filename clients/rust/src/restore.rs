//! What a session is to be asked for again: a new one because the one before it had it, and any where the broker has said that something
//! was taken away.
//!
//! Each interest is owed until the broker has answered for it, over as many connections as that takes: a connection that breaks
//! first leaves a session that can be resumed and has only a part of them. No IO, and no clock of its own.
//!
//! | state | event | next |
//! | --- | --- | --- |
//! | due | written | asked |
//! | asked | the connection is gone | due |
//! | asked | ok | done |
//! | asked | refused, may succeed later, fewer than [`RESTORE_ATTEMPTS_MAX`] times | due after a while |
//! | asked | refused, and asked with a beginning | due, without a beginning |
//! | asked | refused otherwise | lost |

use crate::backoff::Backoff;
use crate::interest::Interest;
use crate::limits::RESTORE_ATTEMPTS_MAX;
use std::time::Duration;
use tokio::time::Instant;
use waspmq_core::Code;
use waspmq_protocol::server::Refusal;

/// At most one entry for each interest of the client.
#[derive(Debug, Default)]
pub(crate) struct Restore {
    owed: Vec<Owed>,
}

#[derive(Debug)]
struct Owed {
    interest: Interest,
    /// When to ask for it; `None` while an answer is awaited.
    due: Option<Instant>,
    /// How often it was refused for the moment.
    refusals: u32,
}

impl Restore {
    /// A new session has none of these.
    pub(crate) fn handle_new_session(&mut self, interests: Vec<Interest>, now: Instant) {
        let owed = |interest| Owed { interest, due: Some(now), refusals: 0 };
        self.owed = interests.into_iter().map(owed).collect();
    }

    /// The session may not have it any more.
    pub(crate) fn handle_doubt(&mut self, interest: Interest, now: Instant) {
        if self.owed(&interest).is_none() {
            self.owed.push(Owed { interest, due: Some(now), refusals: 0 });
        }
    }

    /// The session goes on with another connection: what was asked for over the one before is not answered any more.
    pub(crate) fn handle_resumed(&mut self, now: Instant) {
        for owed in &mut self.owed {
            owed.due.get_or_insert(now);
        }
    }

    /// The broker has it, or the program does not want it any more.
    pub(crate) fn handle_done(&mut self, interest: &Interest) {
        self.owed.retain(|owed| !owed.interest.is_same(interest));
    }

    /// The broker refused it; true when it is lost. `random` is any number, each equally likely.
    pub(crate) fn handle_refused(
        &mut self,
        interest: &Interest,
        refusal: &Refusal,
        (now, random): (Instant, u64),
    ) -> bool {
        let is_refused = |owed: &Owed| owed.due.is_none() && owed.interest.is_same(interest);
        let Some(index) = self.owed.iter().position(is_refused) else { return false };
        let owed = &mut self.owed[index];
        if refusal.code().is_none_or(Code::is_retryable) {
            if owed.refusals < RESTORE_ATTEMPTS_MAX {
                let asked = Duration::from_millis(u64::from(refusal.retry_ms));
                owed.due = Some(now + asked + Backoff::default().wait(owed.refusals, random));
                owed.refusals += 1;
                return false;
            }
        } else if let Interest::Subscription { from: from @ Some(_), .. } = &mut owed.interest {
            // An address that keeps nothing has no place to go on from.
            *from = None;
            owed.due = Some(now);
            return false;
        }
        self.owed.remove(index);
        true
    }

    /// What is to be asked for by now. It is asked for once this is called.
    pub(crate) fn poll_due(&mut self, now: Instant) -> Vec<Interest> {
        let is_due = |owed: &&mut Owed| owed.due.is_some_and(|due| due <= now);
        let take = |owed: &mut Owed| {
            owed.due = None;
            owed.interest.clone()
        };
        self.owed.iter_mut().filter(is_due).map(take).collect()
    }

    /// When something is to be asked for next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.owed.iter().filter_map(|owed| owed.due).min()
    }

    /// How an interest is asked for that the session does not have yet.
    pub(crate) fn owed(&self, interest: &Interest) -> Option<&Interest> {
        self.owed.iter().map(|owed| &owed.interest).find(|owed| owed.is_same(interest))
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_core::Reject;
    use waspmq_protocol::From;

    fn topic(name: &str, from: Option<From>) -> Interest {
        Interest::Subscription { to: format!("topic/{name}"), queue: None, from }
    }

    fn asked(restore: &mut Restore, now: Instant) -> Vec<String> {
        restore.poll_due(now).iter().map(|interest| format!("{:?}", interest.frame(1))).collect()
    }

    fn owing(interest: Interest, now: Instant) -> Restore {
        let mut restore = Restore::default();
        restore.handle_new_session(vec![interest], now);
        restore
    }

    #[test]
    fn what_was_not_answered_is_asked_for_over_the_next_connection() {
        let now = Instant::now();
        let mut restore = Restore::default();
        restore.handle_new_session(vec![topic("a", None), topic("b", Some(From::Earliest))], now);
        assert_eq!(asked(&mut restore, now).len(), 2);
        assert!(asked(&mut restore, now).is_empty());
        restore.handle_done(&topic("a", None));
        restore.handle_resumed(now);
        let again = asked(&mut restore, now);
        assert!(
            again.len() == 1 && again[0].contains("topic/b") && again[0].contains("earliest"),
            "{again:?}"
        );
        restore.handle_done(&topic("b", None));
        assert!(restore.is_empty());
        restore.handle_resumed(now);
        assert!(asked(&mut restore, now).is_empty());
    }

    #[test]
    fn what_is_refused_for_the_moment_is_asked_for_later_and_not_for_ever() {
        let mut now = Instant::now();
        let interest = topic("a", Some(From::Earliest));
        let mut restore = owing(interest.clone(), now);
        let refusal = Refusal::from(Reject::new(Code::Overloaded, "because").retry_after(500));
        for _ in 0..RESTORE_ATTEMPTS_MAX {
            let frames = asked(&mut restore, now);
            assert!(frames.len() == 1 && frames[0].contains("earliest"), "{frames:?}");
            assert!(!restore.handle_refused(&interest, &refusal, (now, 0)));
            let due = restore.next_due().unwrap();
            assert_eq!(due, now + Duration::from_millis(500));
            assert!(asked(&mut restore, now).is_empty());
            now = due;
        }
        assert_eq!(asked(&mut restore, now).len(), 1);
        assert!(restore.handle_refused(&interest, &refusal, (now, 0)));
        assert!(restore.is_empty());
    }

    #[test]
    fn what_is_refused_is_asked_for_without_a_beginning_and_then_lost() {
        let now = Instant::now();
        let interest = topic("a", Some(From::Earliest));
        let mut restore = owing(interest.clone(), now);
        let refusal = Refusal::from(Reject::new(Code::NotStored, "because"));
        asked(&mut restore, now);
        assert!(!restore.handle_refused(&interest, &refusal, (now, 0)));
        assert!(asked(&mut restore, now)[0].contains("from: None"));
        assert!(restore.handle_refused(&interest, &refusal, (now, 0)));
        // An answer that comes when it is not owed any more says nothing.
        assert!(!restore.handle_refused(&interest, &refusal, (now, 0)));
    }
}
