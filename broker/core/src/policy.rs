//! What policies are asked and what they may answer, and the built-ins that serve without plugins.
//!
//! The traits are the seam to the host of sandboxed policies; nothing here knows WebAssembly. Decisions are
//! data: the publish pass carries them out.

use crate::address::{Address, Kind, Name};
use crate::compression::{Audience, Codec};
use crate::delivery::{AckPlan, Cause, Recipient};
use crate::id::{MessageId, SessionId};
use crate::level::Level;
use crate::limits;
use crate::registry::Loads;
use crate::settings::{Overflow, Settings};

/// The hooks that have a policy for an address. Those that have none need not be asked, and answer as the built-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bound {
    pub admission: bool,
    pub routing: bool,
    pub acking: bool,
    pub overflow: bool,
    pub compression: bool,
    /// No hook: messages to the address are taken down for an operator, see [`Policies::capture`].
    pub captured: bool,
}

impl Bound {
    /// Whether a policy is asked on the way of a message's publish, or the message taken down there.
    #[inline]
    pub const fn on_publish(self) -> bool {
        self.admission || self.routing || self.acking || self.captured
    }
}

/// What the record of one message's pass is called until the message has an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(pub u64);

/// The policies of one worker. Owned by the worker, so it takes `&mut self` and no lock.
pub trait Policies: Admission + Routing + Acking {
    /// Looks up an address and settles by which set of policies the message of this pass is decided.
    fn bound(&mut self, to: &str) -> Bound;

    /// Takes down what policies are asked about a message as it was published, once for each whose address is
    /// [`Bound::captured`]. Decides nothing.
    fn capture(&mut self, _message: &Message<'_>, _settings: &Settings) {}

    /// Ends the pass of a message that is taken in, and gives what its record is called, where there is one. The record
    /// of a message that is refused is dropped with the next pass.
    fn trace(&mut self) -> Option<TraceId> {
        None
    }
}

/// A message as a policy sees it. Headers and payload are pulled by the policy, not pushed.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// The publishing user.
    pub from: &'a str,
    /// The publishing session; none for the admin API.
    pub session: Option<SessionId>,
    pub to: &'a str,
    pub kind: Kind,
    /// The partition key, empty when there is none.
    pub key: &'a str,
    pub payload: &'a [u8],
    /// Whether `payload` is JSON.
    pub is_json: bool,
    pub headers: &'a [(String, String)],
    pub priority: u8,
    /// Publish time, milliseconds since 1970.
    pub unix_ms: u64,
}

/// A routing decision. Policies run by their order; `Continue` passes on, the first other verdict is final,
/// and headers set on the way are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    pub route: Route,
    /// Headers to set on the message, replacing those of the same name.
    pub set_headers: Vec<(String, String)>,
}

/// Where the message goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Route {
    /// Ask the next policy; behind the last one, deliver as addressed.
    #[default]
    Continue,
    /// Deliver as addressed and ask no further policy.
    Deliver,
    /// Deliver to this address instead.
    Redirect(Address),
    /// Deliver to these addresses, at most [`crate::limits::FANOUT_MAX`]; the original counts only when named.
    FanOut(Vec<Address>),
    /// As addressed, and of the queue whose members have this version take the member at this index.
    Pick { version: u64, index: u32 },
    /// Deliver to nobody; the publisher is told the reason.
    Drop(String),
}

/// The members of one queue, as told to policies whenever they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueMembers {
    pub pattern: String,
    pub queue: Name,
    /// Unique over all queues of the broker and ascending: it names this queue and this state of it.
    pub version: u64,
    /// One entry per member session, in the order that an index means; text is `user/device/session`.
    pub members: Vec<String>,
    /// What each of them has in flight; nothing where that is not known.
    pub loads: Loads,
}

/// What the pass of one message does when policies were asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Decided(Verdict),
    /// A policy failed and is set to refuse messages then; the text says which, for the publisher.
    Refused(String),
}

/// The routing hooks of one worker, in order.
pub trait Routing {
    fn route(&mut self, message: &Message<'_>) -> Outcome;
}

/// Whether a message is taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admittance {
    Admitted,
    /// A policy does not want the message. `retry_ms` says when it may be tried again, 0 that it is final.
    Refused {
        reason: String,
        retry_ms: u32,
    },
    /// A policy failed and is set to refuse messages then; the text says which, for the publisher.
    Failed(String),
}

/// The admission hooks of one worker, in order. They are asked before routing, and a message they refuse is not routed.
pub trait Admission {
    fn admit(&mut self, message: &Message<'_>) -> Admittance;
}

/// What an ack policy asks for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The least level: a publisher that asks for less is raised to it.
    pub level: Level,
    pub plan: AckPlan,
}

/// An attempt that failed, for consecutive messages of one batch.
#[derive(Debug, Clone, Copy)]
pub struct Failure<'a> {
    pub to: &'a Address,
    /// The publishing user, `None` for the admin API.
    pub from: Option<&'a Name>,
    /// The first message, and how many there are.
    pub id: MessageId,
    pub messages: u16,
    pub recipient: &'a Recipient,
    pub cause: Cause,
    /// Deliveries made so far. One that found the recipient offline is not among them.
    pub attempt: u16,
    /// Time since the publish was taken over for delivery, restarts included.
    pub waited_ms: u64,
    /// The wait the recipient asked for when it refused.
    pub retry_ms: Option<u32>,
    pub plan: &'a AckPlan,
    /// The same for the same failure; for jitter.
    pub random: u64,
}

/// What is done about a failure. Waits are at most [`crate::limits::RETRY_WAIT_MS_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Deliver again after this wait.
    Retry { after_ms: u64 },
    /// Deliver again as soon as the recipient has a session, and look for one after this time at the latest.
    Wait { at_most_ms: u64 },
    /// The plan is exhausted.
    GiveUp,
}

impl Decision {
    /// What is done of it, within the bounds of every delivery.
    pub(crate) fn within(self, failure: &Failure<'_>) -> Self {
        let Failure { cause, attempt, waited_ms, plan, .. } = *failure;
        // To find nobody is no attempt: that ends with time, not with a number.
        let decision = match self {
            Self::Retry { .. } if cause == Cause::Offline && waited_ms >= plan.longest_ms() => Self::GiveUp,
            Self::Wait { at_most_ms } if cause == Cause::Offline => {
                // The last look is made at the longest time that this may take.
                match limits::OFFLINE_WAIT_MS_MAX.max(plan.longest_ms()).saturating_sub(waited_ms) {
                    0 => Self::GiveUp,
                    left_ms => Self::Wait { at_most_ms: at_most_ms.min(left_ms) },
                }
            }
            decision => decision,
        };
        if attempt >= limits::ATTEMPTS_MAX || decision.is_too_late(waited_ms) {
            Self::GiveUp
        } else {
            decision
        }
    }

    /// Whether it would be done when a delivery that has taken so long may take no longer.
    fn is_too_late(self, waited_ms: u64) -> bool {
        let (Self::Retry { after_ms: ms } | Self::Wait { at_most_ms: ms }) = self else { return false };
        waited_ms + ms.min(limits::RETRY_WAIT_MS_MAX) >= limits::DELIVERY_MS_MAX
    }
}

/// The ack hooks of one worker, in order.
pub trait Acking {
    /// Asked once for each message, behind routing; the level is the least one, which a publisher may exceed. `None`: no
    /// policy decided, and the settings of each address that the message goes to hold there.
    fn plan(&mut self, message: &Message<'_>, settings: &Settings) -> Option<Acknowledgement>;

    /// Asked once for each run of messages with the same fate, never on the way of messages that are acknowledged.
    fn failed(&mut self, failure: &Failure<'_>) -> Decision;
}

/// Messages that do not fit a recipient's outbound queue: those of one address that are written together.
#[derive(Debug, Clone, Copy)]
pub struct Overflowed<'a> {
    pub to: &'a Address,
    /// `user/device/session`, an empty device when it has none.
    pub recipient: &'a str,
    /// The highest priority among the messages.
    pub priority: u8,
    pub size_bytes: usize,
    pub queued_bytes: usize,
    pub queued_bytes_max: usize,
    /// What the settings of the address ask for.
    pub configured: Overflow,
}

/// The overflow hooks of one worker, in order.
pub trait Overflowing {
    /// Whether any policy is bound to `to`; when false, what is configured is done without asking.
    fn has_overflow(&mut self, to: &str) -> bool;

    fn overflow(&mut self, what: &Overflowed<'_>) -> Overflow;
}

/// The compression hooks of one worker, in order. They are asked once per message and audience, on the worker that
/// delivers, and what they choose is shared by the audience.
pub trait Compressing {
    /// Whether any policy is bound to `to`; when false, the broker chooses by itself without asking.
    fn has_compression(&mut self, to: &str) -> bool;

    /// `None`: no policy decided, and the broker chooses by itself. A codec that the audience does not take is
    /// replaced by [`Codec::for_audience`]. The message has no session, and a repeat is asked about anew.
    fn choose(&mut self, message: &Message<'_>, id: MessageId, audience: Audience) -> Option<Chosen>;

    /// What came of a choice, told before the next question is put: later, it may count for nobody.
    fn compressed(&mut self, _policy: PolicyIndex, _work: &Work<'_>) {}
}

/// What a message is sent with, and by whose choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    pub codec: Codec,
    pub policy: PolicyIndex,
}

/// What the policies of a worker call one of them in [`Chosen`]. It means nothing to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PolicyIndex(pub u64);

/// The compression of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work<'a> {
    /// What was done, which is not what was chosen where recipients do not take that.
    pub codec: &'a Codec,
    pub plain_bytes: usize,
    /// What is sent instead; as many as `plain_bytes` where compressing made nothing less.
    pub packed_bytes: usize,
    pub spent_ns: u64,
}

/// What serves where no policy is bound: every message is taken in and delivered as addressed, and the settings say
/// how it is acknowledged and what is done about a queue that is full.
///
/// An offline recipient is waited for as long as the plan would take if all its attempts timed out.
#[derive(Debug, Clone, Copy, Default)]
pub struct BySettings;

impl Policies for BySettings {
    fn bound(&mut self, _to: &str) -> Bound {
        Bound::default()
    }
}

impl Admission for BySettings {
    fn admit(&mut self, _message: &Message<'_>) -> Admittance {
        Admittance::Admitted
    }
}

impl Routing for BySettings {
    fn route(&mut self, _message: &Message<'_>) -> Outcome {
        Outcome::Decided(Verdict::default())
    }
}

impl Overflowing for BySettings {
    fn has_overflow(&mut self, _to: &str) -> bool {
        false
    }

    fn overflow(&mut self, what: &Overflowed<'_>) -> Overflow {
        what.configured
    }
}

impl Compressing for BySettings {
    fn has_compression(&mut self, _to: &str) -> bool {
        false
    }

    fn choose(&mut self, _: &Message<'_>, _: MessageId, _: Audience) -> Option<Chosen> {
        None
    }
}

impl Acking for BySettings {
    fn plan(&mut self, _message: &Message<'_>, _settings: &Settings) -> Option<Acknowledgement> {
        None
    }

    fn failed(&mut self, failure: &Failure<'_>) -> Decision {
        let plan = failure.plan;
        match failure.cause {
            Cause::Expired | Cause::Stopped => Decision::GiveUp,
            Cause::Offline => match plan.longest_ms().saturating_sub(failure.waited_ms) {
                0 => Decision::GiveUp,
                left_ms => Decision::Wait { at_most_ms: left_ms.min(u64::from(plan.backoff.max_ms.max(1))) },
            },
            _ if failure.attempt >= plan.attempts => Decision::GiveUp,
            _ => {
                let wait_ms = || plan.backoff.wait_ms(failure.attempt, failure.random);
                Decision::Retry { after_ms: u64::from(failure.retry_ms.unwrap_or_else(wait_ms)) }
            }
        }
    }
}
