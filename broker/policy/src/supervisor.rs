//! What the policy thread does about versions that are new: it compares them with the one before, takes back those
//! that are over their budget, and ends the probation of those that are not.
//!
//! Taking back compiles and instantiates nothing: the version before has its instances. Deliberately not here: what a
//! budget is (`budget.rs`).

use crate::archive::Change;
use crate::audited;
use crate::binding::{Binding, lock};
use crate::budget::{self, Breach, Totals};
use crate::limits;
use crate::manifest::TakenBack;
use crate::registry::{Policy, Rollback};
use crate::shared::Shared;
use crate::stats::now;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, TryLockError};
use std::time::{Duration, Instant};

/// What is to be done about one policy.
#[derive(Debug)]
enum Finding {
    /// Its candidate is over the budget.
    Candidate(Breach),
    /// Its active version is.
    Active(Breach),
    /// The probation is over.
    Settled,
}

impl Shared {
    /// Looks at all policies once. While somebody changes policies it does not wait, since spares are made meanwhile, but
    /// leaves it to whoever changes them next, or to the next time.
    pub(crate) fn supervise(&self) {
        let _one_at_a_time = match self.changing.try_lock() {
            Ok(lock) => lock,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.supervision_missed.store(true, Ordering::Relaxed);
                return;
            }
        };
        self.look_at_all();
    }

    /// Waits for the turn of a change. A supervision that was missed comes first, so that it is put off by one change at
    /// most, however closely they follow each other.
    pub(crate) fn turn(&self) -> MutexGuard<'_, ()> {
        let turn = lock(&self.changing);
        if self.supervision_missed.swap(false, Ordering::Relaxed) {
            self.look_at_all();
        }
        turn
    }

    fn look_at_all(&self) {
        if let Err(error) = self.catch_up() {
            tracing::debug!(%error, "automatic rollbacks are not written down yet");
        }
        let now = now();
        let mut found = Vec::new();
        for (name, policy) in &mut self.registry().policies {
            if let Some(finding) = policy.look_after(now) {
                found.push((name.clone(), policy.clone(), finding));
            }
        }
        for (name, policy, finding) in found {
            match finding {
                Finding::Candidate(breach) => self.take_back(&name, policy, (breach, true)),
                Finding::Active(breach) => self.take_back(&name, policy, (breach, false)),
                Finding::Settled => self.settle(&name, policy),
            }
        }
    }

    fn take_back(&self, name: &str, mut policy: Policy, (breach, is_candidate): (Breach, bool)) {
        let why = (breach.as_str(), breach.to_string());
        let generation = self.active.load().number + 1;
        let (back, (from, before)) = if is_candidate {
            policy.drop_candidate(why, generation)
        } else {
            policy.go_back(TakenBack::Broker, why, generation)
        };
        policy.generation = generation;
        let Rollback { reason, detail, to, .. } = back;
        let mut details = audited::details(before.as_ref(), policy.active.as_ref());
        details.extend([("reason", reason.to_owned()), ("detail", detail.clone())]);
        let (who, what) = ("broker", "automatic rollback");
        let change = Change { who, what, name, from, to, generation, details: &details };
        if let Err(error) = self.write_down_policy(&change, &policy) {
            // Messages are what counts: a restart before it is written down, which is tried again and again, brings the
            // worse version back, on probation as it was, and it is taken back again.
            lock(&self.overdue).push(change.entry(self.now_unix_ms()));
            self.not_kept.fetch_add(1, Ordering::Relaxed);
            tracing::error!(policy = name, %error, "an automatic rollback is not written down");
        }
        self.swap(name, Some(&policy));
        let is_missed = policy.is_empty() && before.is_some_and(|version| version.document.required);
        let mut registry = self.registry();
        registry.keep(name, policy);
        if is_missed {
            registry.missing.insert(name.to_owned(), "its only version was taken back".to_owned());
        }
        drop(registry);
        change.log();
        let (from, to) = (&*change.from, &*change.to);
        tracing::warn!(target: "plugin", policy = name, from, to, reason, detail, "taken back");
    }

    /// Frees the instances of the version before. The set of decisions stays what it is, and so does its number. A probation
    /// whose end cannot be written down goes on for another window, or a restart would begin it anew.
    fn settle(&self, name: &str, mut policy: Policy) {
        policy.probation = None;
        policy.give_back_instances();
        if let Err(error) = self.write_down_settled(name, &policy) {
            tracing::warn!(policy = name, %error, "the end of a probation is not written down yet");
            let mut registry = self.registry();
            let goes_on = registry.policies.get_mut(name).and_then(|policy| policy.probation.as_mut());
            goes_on.into_iter().for_each(|probation| probation.windows -= 1);
            return;
        }
        self.swap_in(name, Some(&policy), self.active.load().number);
        self.registry().policies.insert(name.to_owned(), policy);
    }
}

impl Policy {
    fn look_after(&mut self, now: Instant) -> Option<Finding> {
        let active = self.active_binding().map(|binding| lately(binding, now));
        if let Some(tried) = &self.candidate {
            let (seen, _) = lately(&tried.candidate.binding, now);
            let before_ns = active.and_then(|(seen, ever)| seen.mean_ns().or_else(|| ever.mean_ns()));
            let breach = budget::judge(&tried.version.document.budget, seen, before_ns);
            if breach.is_some() {
                return breach.map(Finding::Candidate);
            }
        }
        let (seen, _) = active?;
        let budget = self.active.as_ref()?.document.budget;
        let probation = self.probation.as_mut()?;
        if let Some(breach) = budget::judge(&budget, seen, probation.before_ns) {
            return Some(Finding::Active(breach));
        }
        if now >= probation.window_due && seen.asked() >= u64::from(budget.calls_min) {
            probation.windows += 1;
            probation.window_due = now + Duration::from_secs(u64::from(budget.window_s));
        }
        (probation.windows >= limits::PROBATION_WINDOWS).then_some(Finding::Settled)
    }
}

/// What a version did in its window, and ever.
fn lately(binding: &Binding, now: Instant) -> (Totals, Totals) {
    let totals = binding.totals();
    (lock(&binding.window).advance(now, totals), totals)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Host, HostOptions};
    use crate::hostcalls::Nobody;
    use serde_json::json;
    use std::sync::Arc;

    fn put(host: &Host, name: &str, more: serde_json::Value) {
        let mut document = json!({ "hook": "routing", "match": ["all"], "rules": [{ "then": "continue" }] });
        document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        host.put_policy(name, serde_json::from_value(document).unwrap(), "test").unwrap();
    }

    /// Changes follow each other so closely that the policy thread never has its turn.
    #[test]
    fn the_next_change_makes_up_for_a_supervision_that_was_missed() {
        let host = Host::start(HostOptions::default(), Arc::new(Nobody)).unwrap();
        put(&host, "new", json!({}));
        put(&host, "new", json!({ "order": 1, "budget": { "calls_min": 10 } }));
        let held = lock(&host.shared.changing);
        let binding = host.registry().policies["new"].active_binding().unwrap().clone();
        (0..10).for_each(|_| binding.cells[0].tally.pass_by());
        host.shared.supervise();
        assert!(host.policy("new").unwrap().on_probation, "somebody else is at work");
        drop(held);
        put(&host, "other", json!({}));
        let state = host.policy("new").unwrap();
        let order = state.current.map(|current| current.document.order);
        assert_eq!((order, state.last_rollback.map(|of| of.reason)), (Some(100), Some("failures")));
    }
}
