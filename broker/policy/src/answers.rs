//! What ack, admission and overflow policies are told and what they answer, between the domain and the WIT types.
//!
//! An answer outside of its bounds is the guest's failure, never a smaller decision; only texts for people are cut.
//! Deliberately not here: verdicts of routing policies.

use crate::bindings::{self, cut};
use crate::limits::REASON_BYTES_MAX;
use waspmq_core::Level;
use waspmq_core::address::{AddressError, Kind};
use waspmq_core::delivery::{AckPlan, Backoff, Cause, Exhausted, Quorum, Recipient};
use waspmq_core::limits::{ATTEMPTS_MAX, RETRY_WAIT_MS_MAX};
use waspmq_core::policy::{Acknowledgement, Admittance, Decision, Failure, Message, Overflowed};
use waspmq_core::settings::{Keep, Overflow, Settings};

/// What is wrong with an answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadAnswer {
    #[error("{what} is {value}, allowed are {least} to {most}")]
    Number { what: &'static str, value: u64, least: u64, most: u64 },
    #[error("level `stored` for an address that keeps no messages")]
    NotKept,
    #[error("level {level} of {codec}, allowed are {least} to {most}")]
    Level { codec: &'static str, level: i16, least: i8, most: i8 },
    #[error("{name:?} names no dictionary: {source}")]
    Dictionary { name: String, source: AddressError },
}

pub(crate) fn message<'a>(message: &Message<'a>) -> bindings::Message<'a> {
    bindings::Message {
        sender: message.from,
        address: message.to,
        kind: kind(message.kind),
        key: message.key,
        size: u32::try_from(message.payload.len()).unwrap_or(u32::MAX),
        priority: message.priority,
        ts: message.unix_ms,
    }
}

const fn kind(kind: Kind) -> bindings::Kind {
    match kind {
        Kind::User => bindings::Kind::User,
        Kind::Group => bindings::Kind::Group,
        Kind::Topic => bindings::Kind::Topic,
        Kind::All => bindings::Kind::All,
    }
}

/// The plan that holds without a policy.
pub(crate) const fn configured(settings: &Settings) -> bindings::AckPlan {
    let AckPlan { quorum, timeout_ms, attempts, backoff, exhausted } = settings.ack;
    bindings::AckPlan {
        level: match settings.level {
            Level::None => bindings::AckLevel::None,
            Level::Accepted => bindings::AckLevel::Accepted,
            Level::Stored => bindings::AckLevel::Stored,
            Level::Delivered => bindings::AckLevel::Delivered,
        },
        quorum: match quorum {
            Quorum::Any => bindings::Quorum::Any,
            Quorum::Count(count) => bindings::Quorum::Count(count),
            Quorum::All => bindings::Quorum::All,
        },
        timeout_ms,
        attempts,
        initial_ms: backoff.initial_ms,
        max_ms: backoff.max_ms,
        jitter_percent: backoff.jitter_percent,
        exhausted: match exhausted {
            Exhausted::DeadLetter => bindings::Exhausted::DeadLetter,
            Exhausted::Drop => bindings::Exhausted::Drop,
        },
    }
}

/// Checks a plan for messages of an address that keeps what `keep` says.
pub(crate) fn ack_plan(plan: bindings::AckPlan, keep: Keep) -> Result<Acknowledgement, BadAnswer> {
    let level = match plan.level {
        bindings::AckLevel::None => Level::None,
        bindings::AckLevel::Accepted => Level::Accepted,
        bindings::AckLevel::Stored if keep == Keep::Never => return Err(BadAnswer::NotKept),
        bindings::AckLevel::Stored => Level::Stored,
        bindings::AckLevel::Delivered => Level::Delivered,
    };
    let quorum = match plan.quorum {
        bindings::Quorum::Any => Quorum::Any,
        bindings::Quorum::Count(count) => {
            check("quorum", count.into(), 1, u32::MAX.into())?;
            Quorum::Count(count)
        }
        bindings::Quorum::All => Quorum::All,
    };
    check("timeout-ms", plan.timeout_ms.into(), 1, RETRY_WAIT_MS_MAX)?;
    check("attempts", plan.attempts.into(), 1, ATTEMPTS_MAX.into())?;
    check("max-ms", plan.max_ms.into(), 0, RETRY_WAIT_MS_MAX)?;
    check("initial-ms", plan.initial_ms.into(), 0, plan.max_ms.into())?;
    check("jitter-percent", plan.jitter_percent.into(), 0, 100)?;
    let backoff =
        Backoff { initial_ms: plan.initial_ms, max_ms: plan.max_ms, jitter_percent: plan.jitter_percent };
    let exhausted = match plan.exhausted {
        bindings::Exhausted::DeadLetter => Exhausted::DeadLetter,
        bindings::Exhausted::Drop => Exhausted::Drop,
    };
    let plan = AckPlan { quorum, timeout_ms: plan.timeout_ms, attempts: plan.attempts, backoff, exhausted };
    Ok(Acknowledgement { level, plan })
}

/// The recipient of a failed delivery, in words.
pub(crate) fn recipient(recipient: &Recipient) -> String {
    match recipient {
        Recipient::User(user) => format!("user/{user}"),
        Recipient::Queue(queue) => format!("queue/{queue}"),
    }
}

/// A failure as policies are told it; none for a message whose time to live ended or whose broker leaves service, about
/// which nothing is asked.
pub(crate) fn told<'a>(failure: &Failure<'a>, recipient: &'a str) -> Option<bindings::Failure<'a>> {
    let cause = match failure.cause {
        Cause::Timeout => bindings::Cause::Timeout,
        Cause::Nack => bindings::Cause::Nack,
        Cause::QueueFull => bindings::Cause::QueueFull,
        Cause::Offline => bindings::Cause::Offline,
        Cause::ConnectionLost => bindings::Cause::ConnectionLost,
        Cause::Expired | Cause::Stopped => return None,
    };
    Some(bindings::Failure {
        address: failure.to.as_str(),
        sender: failure.from.map_or("", |from| from.as_str()),
        recipient,
        cause,
        attempt: failure.attempt,
        messages: failure.messages,
        waited_ms: failure.waited_ms,
        retry_ms: failure.retry_ms,
        attempts: failure.plan.attempts,
        random: failure.random,
    })
}

pub(crate) fn decision(decision: bindings::Decision) -> Result<Option<Decision>, BadAnswer> {
    Ok(match decision {
        bindings::Decision::Continue => None,
        bindings::Decision::Retry(ms) => Some(Decision::Retry { after_ms: wait("retry", ms)? }),
        bindings::Decision::Wait(ms) => Some(Decision::Wait { at_most_ms: wait("wait", ms)? }),
        bindings::Decision::GiveUp => Some(Decision::GiveUp),
    })
}

fn wait(what: &'static str, ms: u32) -> Result<u64, BadAnswer> {
    check(what, ms.into(), 1, RETRY_WAIT_MS_MAX)?;
    Ok(ms.into())
}

pub(crate) fn admittance(answer: bindings::Admission) -> Result<Option<Admittance>, BadAnswer> {
    Ok(match answer {
        bindings::Admission::Continue => None,
        bindings::Admission::Accept => Some(Admittance::Admitted),
        bindings::Admission::Refuse(refusal) => {
            let retry_ms = refusal.retry_ms;
            check("retry-ms", retry_ms.into(), 0, RETRY_WAIT_MS_MAX)?;
            let mut reason = refusal.reason;
            reason.truncate(cut(&reason, REASON_BYTES_MAX).len());
            Some(Admittance::Refused { reason, retry_ms })
        }
    })
}

pub(crate) fn overflowing<'a>(what: &Overflowed<'a>) -> bindings::Overflowing<'a> {
    let bytes = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    bindings::Overflowing {
        address: what.to.as_str(),
        recipient: what.recipient,
        kind: kind(what.to.kind()),
        priority: what.priority,
        size: bytes(what.size_bytes),
        queued_bytes: bytes(what.queued_bytes),
        queued_bytes_max: bytes(what.queued_bytes_max),
        configured: match what.configured {
            Overflow::DropOldest => bindings::Action::DropOldest,
            Overflow::DropNewest => bindings::Action::DropNewest,
            Overflow::Conflate => bindings::Action::Conflate,
            Overflow::Spill => bindings::Action::Spill,
            Overflow::Close => bindings::Action::Close,
        },
    }
}

pub(crate) const fn action(action: bindings::Action) -> Option<Overflow> {
    Some(match action {
        bindings::Action::Continue => return None,
        bindings::Action::DropOldest => Overflow::DropOldest,
        bindings::Action::DropNewest => Overflow::DropNewest,
        bindings::Action::Conflate => Overflow::Conflate,
        bindings::Action::Spill => Overflow::Spill,
        bindings::Action::Close => Overflow::Close,
    })
}

/// An action for people, as settings name it.
pub(crate) const fn word(action: Overflow) -> &'static str {
    match action {
        Overflow::DropOldest => "drop-oldest",
        Overflow::DropNewest => "drop-newest",
        Overflow::Conflate => "conflate",
        Overflow::Spill => "spill",
        Overflow::Close => "close",
    }
}

const fn check(what: &'static str, value: u64, least: u64, most: u64) -> Result<(), BadAnswer> {
    if value < least || value > most {
        return Err(BadAnswer::Number { what, value, least, most });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_core::Kind;

    fn plan() -> bindings::AckPlan {
        configured(&Settings::of_kind(Kind::Topic))
    }

    #[test]
    fn the_configured_plan_is_a_good_answer() {
        let settings = Settings { level: Level::Delivered, ..Settings::of_kind(Kind::Topic) };
        let same = Acknowledgement { level: settings.level, plan: settings.ack };
        assert_eq!(ack_plan(configured(&settings), settings.keep), Ok(same));
    }

    #[test]
    fn plans_outside_of_the_bounds_are_bad() {
        let bad = |plan| ack_plan(plan, Keep::Requested).unwrap_err().to_string();
        let day = 24 * 3_600_000;
        assert_eq!(bad(bindings::AckPlan { attempts: 0, ..plan() }), "attempts is 0, allowed are 1 to 1000");
        assert_eq!(
            bad(bindings::AckPlan { attempts: 1_001, ..plan() }),
            "attempts is 1001, allowed are 1 to 1000"
        );
        assert!(bad(bindings::AckPlan { timeout_ms: 0, ..plan() }).starts_with("timeout-ms is 0"));
        assert!(bad(bindings::AckPlan { timeout_ms: day + 1, ..plan() }).starts_with("timeout-ms"));
        assert!(bad(bindings::AckPlan { max_ms: day + 1, ..plan() }).starts_with("max-ms"));
        assert!(bad(bindings::AckPlan { initial_ms: 9, max_ms: 8, ..plan() }).starts_with("initial-ms is 9"));
        assert!(bad(bindings::AckPlan { jitter_percent: 101, ..plan() }).starts_with("jitter-percent"));
        let nobody = bindings::AckPlan { quorum: bindings::Quorum::Count(0), ..plan() };
        assert!(bad(nobody).starts_with("quorum is 0"));
        let stored = bindings::AckPlan { level: bindings::AckLevel::Stored, ..plan() };
        assert_eq!(ack_plan(stored, Keep::Never), Err(BadAnswer::NotKept));
        assert_eq!(ack_plan(stored, Keep::Requested).map(|asked| asked.level), Ok(Level::Stored));
    }

    #[test]
    fn waits_are_bounded_and_reasons_cut() {
        assert_eq!(decision(bindings::Decision::Continue), Ok(None));
        assert_eq!(decision(bindings::Decision::Retry(7)), Ok(Some(Decision::Retry { after_ms: 7 })));
        assert!(decision(bindings::Decision::Retry(0)).is_err());
        assert!(decision(bindings::Decision::Wait(86_400_001)).is_err());
        let refuse = |reason: String, retry_ms| {
            admittance(bindings::Admission::Refuse(bindings::Refusal { reason, retry_ms }))
        };
        assert!(refuse("no".to_owned(), 86_400_001).is_err());
        let Ok(Some(Admittance::Refused { reason, retry_ms: 3 })) = refuse("ä".repeat(1_000), 3) else {
            panic!("a long reason is no mistake")
        };
        assert_eq!(reason, "ä".repeat(REASON_BYTES_MAX / 2));
    }
}
