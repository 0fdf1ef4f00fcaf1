//! From one version of a policy to the next: put, try, promote, go back.
//!
//! | step | active | candidate | previous |
//! | --- | --- | --- | --- |
//! | put (active, off) | the new one | – | the active one |
//! | put (shadow, canary) | as it was | the new one | as it was |
//! | promote | the candidate | – | the active one |
//! | roll back, with a candidate | as it was | – | as it was; the policy is removed where nothing is left |
//! | roll back, without one | the previous one | – | the active one |
//!
//! A step is prepared as a whole, and then one generation replaces another. What is in its place already is not put again:
//! of the active version beside a candidate, that is dropped. A new active version is on probation
//! while the one before has instances to go back to.

use crate::admin::{PromoteError, PutError, RollbackError};
use crate::archive::{ArchiveError, Change};
use crate::audited::{self, Before};
use crate::binding::{Binding, Making, Parts, lock};
use crate::document::{Mode, OnFailure, PolicyDocument};
use crate::host::Host;
use crate::instance::SetupError;
use crate::lineup::{Candidate, Generation, Trial};
use crate::manifest::TakenBack;
use crate::memory::Memory;
use crate::registry::{Policy, PolicyState, Probation, Rollback, Tried, Version};
use crate::shared::Shared;
use crate::source::Source;
use crate::stats::{PolicyStats, now};
use std::sync::Arc;
use std::time::Duration;

impl Host {
    /// Makes the candidate what decides for everybody. With `seen` only in a policy of that generation, so that the broker
    /// or somebody else did not change meanwhile what is meant.
    pub fn promote(&self, name: &str, seen: Option<u64>, who: &str) -> Result<PolicyState, PromoteError> {
        let _one_at_a_time = self.shared.turn();
        let policy = {
            let registry = self.registry();
            if let Some((_, reason)) = registry.refused.get(name) {
                return Err(PromoteError::Refused { name: name.to_owned(), reason: reason.clone() });
            }
            registry.policies.get(name).cloned()
        };
        let mut policy = policy.ok_or_else(|| PromoteError::UnknownPolicy { name: name.to_owned() })?;
        if let Some((seen, generation)) = policy.differs_from(seen) {
            return Err(PromoteError::OtherGeneration { name: name.to_owned(), seen, generation });
        }
        let tried = policy.candidate.take();
        let tried = tried.ok_or_else(|| PromoteError::NoCandidate { name: name.to_owned() })?;
        let from = audited::before(policy.active.as_ref());
        let mut version = tried.version;
        version.document = version.document.promoted();
        if tried.candidate.trial == Trial::Shadow {
            // What a shadow counted and kept is not the policy's.
            version.binding = self.shared.prepare(name, &version, (&policy.stats, &policy.memory))?;
        }
        policy.activate(version);
        let state = self.shared.commit(name, policy, (who, "policy promote", from));
        Ok(state.map_err(PutError::NotKept)?)
    }

    /// Drops the candidate; without one, or with one that was not brought back, goes back to what the policy was before its
    /// last change. A second time
    /// returns from there, but not to what the broker took back. `seen` is as for [`Host::promote`].
    pub fn rollback(&self, name: &str, seen: Option<u64>, who: &str) -> Result<PolicyState, RollbackError> {
        let _one_at_a_time = self.shared.turn();
        let policy = {
            let registry = self.registry();
            if let Some((_, reason)) = registry.refused.get(name) {
                return Err(RollbackError::Refused { name: name.to_owned(), reason: reason.clone() });
            }
            registry.policies.get(name).cloned()
        };
        let mut policy = policy.ok_or_else(|| RollbackError::UnknownPolicy { name: name.to_owned() })?;
        if let Some((seen, generation)) = policy.differs_from(seen) {
            return Err(RollbackError::OtherGeneration { name: name.to_owned(), seen, generation });
        }
        let (why, generation) = (("operator", String::new()), self.generation() + 1);
        let (_, from) = if policy.drops_candidate() {
            policy.drop_candidate(why, generation)
        } else {
            let previous = policy.previous.as_ref();
            let previous = previous.ok_or_else(|| RollbackError::NoPrevious { name: name.to_owned() })?;
            if previous.taken_back == Some(TakenBack::Broker) {
                return Err(RollbackError::TakenBack { name: name.to_owned(), version: previous.label() });
            }
            if previous.binding.is_none() {
                let binding = self.shared.prepare(name, previous, (&policy.stats, &policy.memory))?;
                policy.previous.iter_mut().for_each(|previous| previous.binding.clone_from(&binding));
            }
            policy.go_back(TakenBack::Operator, why, generation)
        };
        let state = self.shared.commit(name, policy, (who, "policy rollback", from));
        Ok(state.map_err(PutError::NotKept)?)
    }
}

impl Shared {
    /// Puts a version, whose binding is to be made yet, into the place that its document asks for. Where it is there
    /// already, nothing changes.
    pub(crate) fn put(
        &self,
        name: &str,
        (policy, mut version): (Option<Policy>, Version),
        who: &str,
    ) -> Result<PolicyState, PutError> {
        let mut policy = policy.unwrap_or_else(|| Policy::new(self.workers));
        let trial = version.document.trial();
        let is_active = policy.active.as_ref().is_some_and(|active| active.is_like(&version));
        let is_candidate = policy.candidate.as_ref().is_some_and(|tried| tried.version.is_like(&version));
        let is_there = match trial {
            Some(_) => is_candidate,
            None => is_active && !policy.has_candidate(),
        };
        if is_there {
            // The broker may have put it there and could not write that down.
            self.catch_up()?;
            return Ok(policy.show(name));
        }
        check_beside(&policy, &version)?;
        let mut from = audited::before(policy.active.as_ref());
        let Some(trial) = trial else {
            let dropped = policy.take_candidate();
            if is_active {
                from = dropped;
            } else {
                version.binding = self.prepare(name, &version, (&policy.stats, &policy.memory))?;
                policy.activate(version);
            }
            return Ok(self.commit(name, policy, (who, "policy put", from))?);
        };
        policy.candidate = self.try_out(name, &policy, (version, trial))?;
        policy.lost.candidate = None;
        Ok(self.commit(name, policy, (who, "policy put", from))?)
    }

    /// A candidate beside the versions of `policy`.
    pub(crate) fn try_out(
        &self,
        name: &str,
        policy: &Policy,
        (mut version, trial): (Version, Trial),
    ) -> Result<Option<Tried>, PutError> {
        // A shadow counts and keeps apart from the policy it is compared with.
        let own = (Arc::new(PolicyStats::new(self.workers)), Arc::default());
        let lasting = if trial == Trial::Shadow { (&own.0, &own.1) } else { (&policy.stats, &policy.memory) };
        version.binding = self.prepare(name, &version, lasting)?;
        Ok(version.binding.clone().map(|binding| Tried {
            version,
            candidate: Candidate { binding, trial, differences: Arc::default() },
        }))
    }

    /// A binding whose workers may start at once, or none for a version that is off (tried out all the same).
    pub(crate) fn prepare(
        &self,
        name: &str,
        version: &Version,
        (stats, memory): (&Arc<PolicyStats>, &Arc<Memory>),
    ) -> Result<Option<Arc<Binding>>, PutError> {
        let document = &version.document;
        let plan = document.check()?;
        let parts = Parts {
            name: name.into(),
            revision: version.source.label().into(),
            hook: document.hook,
            order: document.order,
            on_failure: document.on_failure,
            limits: document.limits,
            calls_max: self.instance_calls_max,
            budget: document.budget,
            patterns: plan.patterns,
            stats: Arc::clone(stats),
            memory: Arc::clone(memory),
            surroundings: Arc::clone(&self.surroundings),
            making: match &version.source {
                Source::Rules(table) => Making::Rules(Arc::clone(table)),
                Source::Plugin(kept) => {
                    Making::Guest { compiled: self.compiled(kept)?, config: plan.config, lane: document.lane }
                }
            },
        };
        let binding = Binding::new(parts, self.workers);
        let changes = self.queues.all();
        let refused = |error: SetupError| match error.lacks_room() {
            true => self.no_capacity(),
            false => PutError::Guest { reason: error.to_string() },
        };
        let set_up = |worker| self.set_up(&binding, worker, &changes);
        if document.mode == Mode::Off {
            return set_up(0).map(|_| None).map_err(refused);
        }
        binding.warm(set_up).map_err(refused)?;
        Ok(Some(Arc::new(binding)))
    }

    /// Makes `policy` what `name` stands for, in a generation of its own, and says so in the audit log. It is written
    /// down first, and nothing changes where that fails.
    pub(crate) fn commit(
        &self,
        name: &str,
        mut policy: Policy,
        (who, what, (from, before)): (&str, &'static str, Before),
    ) -> Result<PolicyState, ArchiveError> {
        let generation = self.active.load().number + 1;
        policy.generation = generation;
        let to = policy.candidate.as_ref().map(|tried| &tried.version).or(policy.active.as_ref());
        let details = audited::details(before.as_ref(), to);
        let to = audited::label(to);
        let change = Change { who, what, name, from, to, generation, details: &details };
        self.write_down_policy(&change, &policy)?;
        self.swap(name, Some(&policy));
        let state = policy.show(name);
        let mut registry = self.registry();
        if policy.lost.active.is_none() {
            registry.missing.remove(name);
        }
        registry.keep(name, policy);
        drop(registry);
        change.log();
        Ok(state)
    }

    /// Makes the generation in which `policy` is what `name` stands for.
    pub(crate) fn swap(&self, name: &str, policy: Option<&Policy>) {
        self.swap_in(name, policy, self.active.load().number + 1);
    }

    /// Replaces the set of policies by one of this number. Instances of versions that are not in it any more are freed.
    pub(crate) fn swap_in(&self, name: &str, policy: Option<&Policy>, number: u64) {
        let old = self.active.load_full();
        let lineup = policy.map(|policy| Arc::new(policy.lineup(name)));
        let others = old.lineups.iter().filter(|other| *other.name != *name).cloned();
        let generation = Arc::new(Generation::new(number, others.chain(lineup).collect()));
        self.active.store(Arc::clone(&generation));
        let is_kept = |gone: &Arc<Binding>| generation.bindings().any(|kept| Arc::ptr_eq(kept, gone));
        old.bindings().filter(|gone| !is_kept(gone)).for_each(|gone| gone.retire());
        // Members may have changed while instances were made.
        self.wake_keeper();
    }

    pub(crate) const fn no_capacity(&self) -> PutError {
        PutError::NoCapacity { policies_max: self.policies_max }
    }
}

impl Policy {
    /// Whether it was changed since somebody saw it: the generation seen, and that of now.
    fn differs_from(&self, seen: Option<u64>) -> Option<(u64, u64)> {
        seen.filter(|&seen| seen != self.generation).map(|seen| (seen, self.generation))
    }

    /// Makes a version the active one and keeps what it replaces.
    fn activate(&mut self, version: Version) {
        let decided = self.active.take();
        // Where what decided could not be brought back, that is what is gone back to, once it can.
        self.previous = decided.or_else(|| self.previous.take().filter(|_| self.lost.active.is_none()));
        self.lost.activate(self.previous.is_some());
        self.probation = None;
        let before = self.previous.as_ref().and_then(|version| version.binding.as_ref());
        let lately = before.map(|before| {
            let totals = before.totals();
            lock(&before.window).latest(totals).mean_ns().or_else(|| totals.mean_ns())
        });
        self.active = Some(version);
        if let Some(before_ns) = lately {
            self.begin_probation(before_ns);
        }
        self.give_back_instances();
    }

    /// Compares the active version with the one before from now on, where it has one and both are asked.
    pub(crate) fn begin_probation(&mut self, before_ns: Option<u64>) {
        let is_there = |version: &Version| version.binding.is_some();
        let (Some(active), true) = (&self.active, self.previous.as_ref().is_some_and(is_there)) else {
            return;
        };
        let Some(binding) = &active.binding else { return };
        let now = now();
        lock(&binding.window).reset(now, binding.totals());
        let window_due = now + Duration::from_secs(u64::from(active.document.budget.window_s));
        self.probation = Some(Probation { before_ns, windows: 0, window_due });
    }

    /// Checks that a candidate is asked what the version that decides is asked.
    pub(crate) fn check_candidate(&self, document: &PolicyDocument) -> Result<(), PutError> {
        let Some(active) = self.active_binding().filter(|active| active.hook != document.hook) else {
            return Ok(());
        };
        let hook = active.hook.as_str();
        let reason = format!("a candidate has the hook of the active version, which is {hook}");
        Err(PutError::Invalid { field: "hook".into(), reason })
    }

    /// Drops the candidate.
    pub(crate) fn drop_candidate(
        &mut self,
        why: (&'static str, String),
        generation: u64,
    ) -> (Rollback, Before) {
        let from = self.take_candidate();
        (self.note_rollback(why, from.0.clone(), generation), from)
    }

    /// Takes the candidate away, also one that was not brought back.
    fn take_candidate(&mut self) -> Before {
        let lost = self.lost.candidate.take().map(|(candidate, _)| candidate.version.label());
        let tried = self.candidate.take().map(|tried| tried.version);
        (tried.as_ref().map(Version::label).or(lost).unwrap_or_default(), tried)
    }

    /// Exchanges the active version for the one before, and notes who did. A candidate that has not the hook of that one
    /// goes, too: it would be asked what it does not know.
    pub(crate) fn go_back(
        &mut self,
        who: TakenBack,
        (reason, mut detail): (&'static str, String),
        generation: u64,
    ) -> (Rollback, Before) {
        std::mem::swap(&mut self.active, &mut self.previous);
        self.probation = None;
        // Who returns to a version that was taken back has what there was before: the other one was not taken back.
        let returns = self.active.as_mut().is_some_and(|active| active.taken_back.take().is_some());
        if let Some(previous) = self.previous.as_mut() {
            previous.taken_back = (!returns).then_some(who);
        }
        self.give_back_instances();
        let from = audited::before(self.previous.as_ref());
        if let Some(tried) = self.candidate.take_if(|tried| {
            let serving = self.active.as_ref().and_then(|active| active.binding.as_ref());
            serving.is_some_and(|active| active.hook != tried.version.document.hook)
        }) {
            let dropped = tried.version.label();
            detail.push_str(&format!("; {dropped}, the candidate, has another hook and is dropped"));
        }
        (self.note_rollback((reason, detail), from.0.clone(), generation), from)
    }

    fn note_rollback(
        &mut self,
        (reason, detail): (&'static str, String),
        from: String,
        generation: u64,
    ) -> Rollback {
        let to = audited::label(self.active.as_ref());
        let rollback = Rollback { reason, detail, from, to, generation };
        self.rollbacks.note(rollback.clone());
        rollback
    }

    /// Whether the version that decides has the one before asked where it fails.
    pub(crate) fn falls_back(&self) -> bool {
        self.active.as_ref().is_some_and(|active| {
            active.binding.is_some() && active.document.on_failure == OnFailure::Previous
        })
    }

    /// Keeps instances of the version before only while somebody may ask them.
    pub(crate) fn give_back_instances(&mut self) {
        let may_be_asked = self.probation.is_some() || self.falls_back();
        if let Some(previous) = self.previous.as_mut().filter(|of| of.taken_back.is_some() || !may_be_asked) {
            previous.binding = None;
        }
    }
}

/// Checks what a version asks of those that are there.
fn check_beside(policy: &Policy, version: &Version) -> Result<(), PutError> {
    let (document, serving) = (&version.document, policy.active_binding());
    if document.trial().is_some() {
        policy.check_candidate(document)?;
    }
    let has_fallback = serving.is_some_and(|active| active.hook == document.hook);
    if document.on_failure == OnFailure::Previous && document.mode != Mode::Off && !has_fallback {
        let reason = "there is no version before that decides, and could be asked instead".to_owned();
        return Err(PutError::Invalid { field: "on_failure".into(), reason });
    }
    Ok(())
}
