//! What is noted while policies are asked: of each version that was asked, what it answered or how it failed.
//!
//! Nothing is noted about a question whose message is in no trace, such as one about a full queue, where only the address
//! is known.

use super::{Asked, Facts, Instead, NOT_TIMED, Said, Traces, Writing};
use crate::document::OnFailure;
use crate::question::Question;
use crate::seat::Seat;
use crate::stats::CallOutcome;

impl Traces {
    /// What the question is called, if its answers are noted.
    #[inline]
    fn noted<Q: Question>(&self) -> Option<Asked> {
        Q::ASKED.filter(|_| self.writing != Writing::Nothing)
    }

    /// Notes the answer of a version that is not a shadow.
    #[inline]
    pub(crate) fn answered<Q: Question>(&mut self, seat: &Seat, answer: &Q::Answer, is_cached: bool) {
        let Some(asked) = self.noted::<Q>() else { return };
        let said = Q::say(answer, &mut self.at_hand().texts);
        let ns = if is_cached { NOT_TIMED } else { seat.took_ns() };
        self.note(seat, Facts { is_cached, ns, ..self.facts(seat, (asked, said)) });
    }

    /// Notes the failure of such a version, and what follows from what its document says about failures. `second` is the
    /// version that is asked instead where it says that, if there is one.
    pub(crate) fn failed<Q: Question>(&mut self, seat: &Seat, outcome: CallOutcome, second: Option<&Seat>) {
        let instead = match (seat.binding.on_failure, second) {
            (OnFailure::Open, _) | (OnFailure::Previous, None) => Instead::Next,
            (OnFailure::Builtin, _) => Instead::BuiltIn,
            (OnFailure::Closed, _) => Instead::Closed,
            (OnFailure::Previous, Some(second)) => Instead::Version(second.role()),
        };
        self.note_failed::<Q>(seat, (outcome, instead));
    }

    /// Notes the failure of the version that was asked because another one had failed.
    pub(crate) fn failed_too<Q: Question>(&mut self, seat: &Seat, outcome: CallOutcome) {
        self.note_failed::<Q>(seat, (outcome, Instead::Next));
    }

    /// Notes what a shadow answered.
    pub(crate) fn shadowed<Q: Question>(&mut self, seat: &Seat, answer: Result<&Q::Answer, CallOutcome>) {
        let Some(asked) = self.noted::<Q>() else { return };
        let said = answer.map_or(Said::Nothing, |answer| Q::say(answer, &mut self.at_hand().texts));
        let failed = answer.err().map(|outcome| (outcome, Instead::Nothing));
        self.note(seat, Facts { is_shadow: true, failed, ..self.facts(seat, (asked, said)) });
    }

    fn note_failed<Q: Question>(&mut self, seat: &Seat, failed: (CallOutcome, Instead)) {
        let Some(asked) = self.noted::<Q>() else { return };
        self.note(seat, Facts { failed: Some(failed), ..self.facts(seat, (asked, Said::Nothing)) });
    }

    #[inline]
    fn facts(&self, seat: &Seat, (asked, said): (Asked, Said)) -> Facts {
        let attempt = match self.writing {
            Writing::Failure(cause, attempt) => Some((cause, attempt)),
            Writing::Message | Writing::Delivery(..) | Writing::Nothing => None,
        };
        let audience = match self.writing {
            Writing::Delivery(_, audience) => Some(audience),
            _ => None,
        };
        Facts {
            said,
            generation: self.generation,
            ns: seat.took_ns(),
            failed: None,
            attempt,
            audience,
            asked,
            role: seat.role(),
            is_shadow: false,
            is_cached: false,
        }
    }

    #[inline]
    fn note(&mut self, seat: &Seat, facts: Facts) {
        self.at_hand().push(seat.label(), facts);
    }
}
