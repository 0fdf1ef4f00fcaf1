//! One policy on one worker: which of its versions is asked, and what serves when that one fails.

use crate::decisions::Decisions;
use crate::document::OnFailure;
use crate::hook::Hook;
use crate::lineup::{Lineup, Trial};
use crate::question::Question;
use crate::seat::{Desk, Seat};
use crate::stats::{CallOutcome, PolicyStats};
use crate::trace::{Role, Traces};
use std::sync::Arc;

/// A policy of the current generation with this worker's seats of its versions.
#[derive(Debug)]
pub(crate) struct Place {
    lineup: Arc<Lineup>,
    active: Option<Seat>,
    candidate: Option<Seat>,
    previous: Option<Seat>,
}

/// Of which versions the patterns match; no other one is asked, not even instead of one that failed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Concerned {
    pub(crate) active: bool,
    pub(crate) candidate: bool,
    pub(crate) previous: bool,
}

/// What came of asking one policy.
#[derive(Debug)]
pub(crate) enum Answered<T> {
    /// It answered, perhaps that it leaves the matter to the next one.
    With(T),
    /// It has nothing to say, or failed and is set to be passed by then.
    Nothing,
    /// It failed and is set to leave the matter to what is built in.
    BuiltIn,
    /// It failed and is set to end the matter then.
    Failed(Box<Ended>),
}

/// Which policy ended the matter by failing, and how; the text is for the publisher.
#[derive(Debug, thiserror::Error)]
#[error("policy {policy} failed ({})", outcome.as_str())]
pub(crate) struct Ended {
    policy: Arc<str>,
    outcome: CallOutcome,
}

impl Place {
    /// `seat` finds or makes the seat of a version.
    pub(crate) fn new(
        lineup: &Arc<Lineup>,
        mut seat: impl FnMut(&Arc<crate::binding::Binding>) -> Seat,
    ) -> Self {
        let mut seat_as = |role: Role, binding: &Arc<_>| seat(binding).with_role(role);
        Self {
            active: lineup.active.as_ref().map(|binding| seat_as(Role::Active, binding)),
            candidate: lineup.candidate.as_ref().map(|of| seat_as(Role::Candidate, &of.binding)),
            previous: lineup.previous.as_ref().map(|binding| seat_as(Role::Previous, binding)),
            lineup: Arc::clone(lineup),
        }
    }

    pub(crate) fn into_seats(self) -> impl Iterator<Item = Seat> {
        [self.active, self.candidate, self.previous].into_iter().flatten()
    }

    /// What the versions that decide are counted in.
    pub(crate) fn stats(&self) -> Option<&PolicyStats> {
        let mut seats = [&self.active, &self.previous, &self.candidate].into_iter().flatten();
        seats.next().map(|seat| &*seat.binding.stats)
    }

    /// Whether a version lost its instances to a newer generation.
    pub(crate) fn is_overtaken(&self) -> bool {
        let mut seats = [&self.active, &self.candidate, &self.previous].into_iter().flatten();
        seats.any(|seat| seat.serving.is_none() && seat.binding.is_retired())
    }

    /// Puts a question to the policy, which has this number, or takes what it said before where that holds.
    ///
    /// Nothing is remembered beside a candidate, so that each of its messages is compared or decided by its sender; nor
    /// of a version that fell back on the one before.
    pub(crate) fn decide<Q: Question>(
        &mut self,
        desk: Desk<'_>,
        (number, concerned): (usize, Concerned),
        (question, decisions): (&Q, &mut Decisions),
        traces: &mut Traces,
    ) -> Answered<Q::Answer> {
        if self.lineup.candidate.is_some() {
            return self.ask(desk, concerned, question, traces);
        }
        let Some(active) = self.active.as_mut() else { return Answered::Nothing };
        active.renew(desk);
        if active.has_changed() {
            decisions.clear();
        } else if let Some(answer) = question.known(number, decisions) {
            active.note_cached(desk);
            traces.answered::<Q>(active, &answer, true);
            return Answered::With(answer);
        }
        let outcome = match active.ask_seated(desk, question) {
            Ok(answer) => {
                if active.has_changed() {
                    decisions.clear();
                }
                question.remember(number, &answer, decisions);
                traces.answered::<Q>(active, &answer, false);
                return Answered::With(answer);
            }
            Err(outcome) => outcome,
        };
        if active.has_changed() {
            decisions.clear();
        }
        let previous = self.previous.as_mut().filter(|_| concerned.previous);
        fall_back(desk, (active, outcome), previous, question, traces)
    }

    /// Puts a question to the version that decides for its sender, and to a shadow behind that.
    fn ask<Q: Question>(
        &mut self,
        desk: Desk<'_>,
        concerned: Concerned,
        question: &Q,
        traces: &mut Traces,
    ) -> Answered<Q::Answer> {
        let active = self.active.as_mut().filter(|_| concerned.active);
        if self.lineup.is_canary_for(question.sender()) {
            // Its patterns are part of what is tried.
            let asked = self.candidate.as_mut().filter(|_| concerned.candidate);
            return decide(desk, [asked, active], question, traces);
        }
        let previous = self.previous.as_mut().filter(|_| concerned.previous);
        let answered = decide(desk, [active, previous], question, traces);
        self.compare(desk, concerned, (question, &answered), traces);
        answered
    }

    /// Asks a shadow the same; a question that the active version failed to answer is not compared.
    fn compare<Q: Question>(
        &mut self,
        desk: Desk<'_>,
        concerned: Concerned,
        (question, answered): (&Q, &Answered<Q::Answer>),
        traces: &mut Traces,
    ) {
        let Some(candidate) = self.lineup.candidate.as_ref() else { return };
        let Some(seat) = self.candidate.as_mut() else { return };
        if candidate.trial != Trial::Shadow || !concerned.candidate {
            return;
        }
        let passed = Q::PASSED;
        let active = match answered {
            Answered::With(answer) => answer,
            Answered::Nothing if self.active.is_none() || !concerned.active => &passed,
            Answered::Nothing | Answered::BuiltIn | Answered::Failed(_) => return,
        };
        let shadow = seat.ask(desk, question);
        traces.shadowed::<Q>(seat, shadow.as_ref().map_err(|outcome| *outcome));
        if let Some(sample) = candidate.differences.compare(question, active, shadow) {
            traces.sampled(&candidate.differences, sample);
        }
    }
}

/// Asks the first version; the second one instead when the first failed and is set to fall back on it.
fn decide<Q: Question>(
    desk: Desk<'_>,
    [first, second]: [Option<&mut Seat>; 2],
    question: &Q,
    traces: &mut Traces,
) -> Answered<Q::Answer> {
    let Some(seat) = first else { return Answered::Nothing };
    match seat.ask(desk, question) {
        Ok(answer) => {
            traces.answered::<Q>(seat, &answer, false);
            Answered::With(answer)
        }
        Err(outcome) => fall_back(desk, (seat, outcome), second, question, traces),
    }
}

/// What is done about the failure of a version.
fn fall_back<Q: Question>(
    desk: Desk<'_>,
    (seat, outcome): (&Seat, CallOutcome),
    second: Option<&mut Seat>,
    question: &Q,
    traces: &mut Traces,
) -> Answered<Q::Answer> {
    let hook: Hook = seat.binding.hook;
    let before = second.filter(|before| before.binding.hook == hook);
    traces.failed::<Q>(seat, outcome, before.as_deref());
    match seat.binding.on_failure {
        OnFailure::Open => Answered::Nothing,
        OnFailure::Builtin => Answered::BuiltIn,
        OnFailure::Closed => {
            Answered::Failed(Box::new(Ended { policy: Arc::clone(&seat.binding.name), outcome }))
        }
        OnFailure::Previous => {
            let Some(before) = before else { return Answered::Nothing };
            match before.ask(desk, question) {
                Ok(answer) => {
                    traces.answered::<Q>(before, &answer, false);
                    Answered::With(answer)
                }
                Err(outcome) => {
                    traces.failed_too::<Q>(before, outcome);
                    Answered::Nothing
                }
            }
        }
    }
}
