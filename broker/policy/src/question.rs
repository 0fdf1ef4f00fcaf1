//! The questions of the hooks, each with what its answers mean.
//!
//! Who is asked, and what is done when that fails, is the same for all (`place.rs`); here is what differs.

use crate::answers;
use crate::bindings::{self, Cache};
use crate::codecs::{Choice, Coded};
use crate::decisions::Decisions;
use crate::instance::Failure;
use crate::serving::Serving;
use crate::state::set_header;
use crate::trace::{self, Asked, Said, Texts};
use crate::verdict::{self, Ruling};
use serde_json::{Value, json};
use std::cell::Cell;
use std::fmt::Debug;
use waspmq_core::MessageId;
use waspmq_core::compression::{Audience, Codec};
use waspmq_core::policy::{Acknowledgement, Admittance, Decision, Message, Overflowed, Route};
use waspmq_core::settings::{Overflow, Settings};

/// One question to the policies of one hook.
pub(crate) trait Question {
    /// What a policy answers, that it leaves the matter to the next one included.
    type Answer: PartialEq + Debug;

    /// The answer of a policy that leaves the matter to the next one.
    const PASSED: Self::Answer;

    /// What traces call the question; none where it is not known about which message it is.
    const ASKED: Option<Asked>;

    /// The address the question is about.
    fn to(&self) -> &str;

    /// Whose question it is; what of a canary's share is decided by.
    fn sender(&self) -> &str;

    /// The message it is about, where that has an id yet: one that is being published has none.
    fn id(&self) -> Option<MessageId> {
        None
    }

    /// Puts the question to one that serves. Changes nothing, so that several may be asked.
    fn put(&self, serving: &mut Serving, deadline_ms: u32) -> Result<Self::Answer, Box<Failure>>;

    /// Takes over the answer of a policy that decides; gives it back when it is final.
    fn take(&mut self, answer: Self::Answer) -> Option<Self::Answer>;

    /// What the policy with this number said before, where that holds for this question, too.
    fn known(&self, _: usize, _: &mut Decisions) -> Option<Self::Answer> {
        None
    }

    /// Remembers what the policy with this number answered last, for as much as it said that holds for.
    fn remember(&self, _: usize, _: &Self::Answer, _: &mut Decisions) {}

    /// An answer as traces keep it.
    fn say(answer: &Self::Answer, texts: &mut Texts) -> Said;

    /// An answer for people.
    fn show(answer: &Self::Answer) -> Value;
}

/// Where a message goes, with the headers that policies set so far.
#[derive(Debug)]
pub(crate) struct Routed<'a> {
    pub(crate) message: &'a Message<'a>,
    pub(crate) set_headers: Vec<(String, String)>,
    /// What the last answer holds for.
    cache: Cell<Cache>,
}

impl<'a> Routed<'a> {
    pub(crate) const fn new(message: &'a Message<'a>) -> Self {
        Self { message, set_headers: Vec::new(), cache: Cell::new(Cache::Never) }
    }

    /// What the last answer holds for.
    pub(crate) const fn cache(&self) -> Cache {
        self.cache.get()
    }

    /// Checks that the message can have all headers, with those that this verdict sets.
    fn check_headers(&self, ruling: &Ruling) -> Result<(), verdict::BadVerdict> {
        let Ruling::More(verdict) = ruling else { return Ok(()) };
        let so_far = &self.set_headers;
        if verdict.set_headers.is_empty()
            || verdict::fit_together([self.message.headers, so_far, &verdict.set_headers])
        {
            return Ok(());
        }
        // Some may replace others, so only the list as it would be tells.
        let mut all = self.message.headers.to_vec();
        let set = so_far.iter().chain(&verdict.set_headers);
        set.for_each(|(name, value)| set_header(&mut all, name, value));
        verdict::check_headers(&all)
    }
}

impl Question for Routed<'_> {
    type Answer = Ruling;
    const PASSED: Ruling = Ruling::Continue;
    const ASKED: Option<Asked> = Some(Asked::Route);

    fn to(&self) -> &str {
        self.message.to
    }

    fn sender(&self) -> &str {
        self.message.from
    }

    fn put(&self, serving: &mut Serving, deadline_ms: u32) -> Result<Ruling, Box<Failure>> {
        let verdict::Routed { ruling, cache } =
            serving.route(self.message, &self.set_headers, deadline_ms)?;
        self.check_headers(&ruling).map_err(|bad| Failure::bad_verdict(&bad))?;
        self.cache.set(cache);
        Ok(ruling)
    }

    fn known(&self, policy: usize, decisions: &mut Decisions) -> Option<Ruling> {
        let ruling = decisions.find(policy, self.message)?;
        self.check_headers(ruling).ok().map(|()| ruling.clone())
    }

    fn remember(&self, policy: usize, answer: &Ruling, decisions: &mut Decisions) {
        decisions.keep(policy, self.message, (answer, self.cache.get()));
    }

    /// Keeps the headers, whatever the route is.
    fn take(&mut self, answer: Ruling) -> Option<Ruling> {
        let mut verdict = match answer {
            Ruling::Continue => return None,
            Ruling::More(verdict) => verdict,
            decided => return Some(decided),
        };
        let set_headers = std::mem::take(&mut verdict.set_headers);
        if self.set_headers.is_empty() {
            self.set_headers = set_headers;
        } else {
            set_headers.iter().for_each(|(name, value)| set_header(&mut self.set_headers, name, value));
        }
        (verdict.route != Route::Continue).then_some(Ruling::More(verdict))
    }

    fn say(answer: &Ruling, texts: &mut Texts) -> Said {
        Said::ruling(answer, texts)
    }

    fn show(answer: &Ruling) -> Value {
        trace::show(answer)
    }
}

/// Whether a message is taken in.
#[derive(Debug)]
pub(crate) struct Admitted<'a>(pub(crate) &'a Message<'a>);

impl Question for Admitted<'_> {
    type Answer = Option<Admittance>;
    const PASSED: Option<Admittance> = None;
    const ASKED: Option<Asked> = Some(Asked::Admit);

    fn to(&self) -> &str {
        self.0.to
    }

    fn sender(&self) -> &str {
        self.0.from
    }

    fn put(&self, serving: &mut Serving, deadline_ms: u32) -> Result<Self::Answer, Box<Failure>> {
        serving.admit(self.0, deadline_ms)
    }

    fn take(&mut self, answer: Self::Answer) -> Option<Self::Answer> {
        answer.is_some().then_some(answer)
    }

    fn say(answer: &Self::Answer, texts: &mut Texts) -> Said {
        Said::admittance(answer.as_ref(), texts)
    }

    fn show(answer: &Self::Answer) -> Value {
        match answer {
            None => json!("continue"),
            Some(Admittance::Admitted) => json!("accept"),
            Some(Admittance::Refused { reason, retry_ms }) => {
                json!({ "refuse": { "reason": reason, "retry_ms": retry_ms } })
            }
            Some(Admittance::Failed(reason)) => json!({ "failed": reason }),
        }
    }
}

/// How a message is acknowledged.
#[derive(Debug)]
pub(crate) struct Planned<'a> {
    pub(crate) message: &'a Message<'a>,
    pub(crate) settings: &'a Settings,
}

impl Question for Planned<'_> {
    type Answer = Option<Acknowledgement>;
    const PASSED: Option<Acknowledgement> = None;
    const ASKED: Option<Asked> = Some(Asked::Plan);

    fn to(&self) -> &str {
        self.message.to
    }

    fn sender(&self) -> &str {
        self.message.from
    }

    fn put(&self, serving: &mut Serving, deadline_ms: u32) -> Result<Self::Answer, Box<Failure>> {
        serving.plan(self.message, self.settings, deadline_ms)
    }

    fn take(&mut self, answer: Self::Answer) -> Option<Self::Answer> {
        answer.is_some().then_some(answer)
    }

    fn say(answer: &Self::Answer, _: &mut Texts) -> Said {
        answer.map_or(Said::Continue, Said::Planned)
    }

    fn show(answer: &Self::Answer) -> Value {
        let Some(Acknowledgement { level, plan }) = answer else { return json!("continue") };
        json!({
            "level": format!("{level:?}").to_lowercase(),
            "quorum": format!("{:?}", plan.quorum).to_lowercase(),
            "timeout_ms": plan.timeout_ms,
            "attempts": plan.attempts,
            "initial_ms": plan.backoff.initial_ms,
            "max_ms": plan.backoff.max_ms,
            "jitter_percent": plan.backoff.jitter_percent,
            "exhausted": format!("{:?}", plan.exhausted).to_lowercase(),
        })
    }
}

/// What is done about a failed attempt.
#[derive(Debug)]
pub(crate) struct Missed<'a> {
    pub(crate) told: bindings::Failure<'a>,
    /// The first of the messages that share this fate; none in a replay.
    pub(crate) id: Option<MessageId>,
}

impl Question for Missed<'_> {
    type Answer = Option<Decision>;
    const PASSED: Option<Decision> = None;
    const ASKED: Option<Asked> = Some(Asked::Failed);

    fn to(&self) -> &str {
        self.told.address
    }

    fn sender(&self) -> &str {
        self.told.sender
    }

    fn id(&self) -> Option<MessageId> {
        self.id
    }

    fn put(&self, serving: &mut Serving, deadline_ms: u32) -> Result<Self::Answer, Box<Failure>> {
        serving.failed(self.told.clone(), deadline_ms)
    }

    fn take(&mut self, answer: Self::Answer) -> Option<Self::Answer> {
        answer.is_some().then_some(answer)
    }

    fn say(answer: &Self::Answer, _: &mut Texts) -> Said {
        answer.map_or(Said::Continue, Said::Decided)
    }

    fn show(answer: &Self::Answer) -> Value {
        match answer {
            None => json!("continue"),
            Some(Decision::Retry { after_ms }) => json!({ "retry_ms": after_ms }),
            Some(Decision::Wait { at_most_ms }) => json!({ "wait_ms": at_most_ms }),
            Some(Decision::GiveUp) => json!("give-up"),
        }
    }
}

/// What a message is sent with to some of its recipients.
#[derive(Debug)]
pub(crate) struct Delivered<'a> {
    pub(crate) message: &'a Message<'a>,
    pub(crate) audience: Audience,
    /// None in a replay.
    id: Option<MessageId>,
    /// What the last answer holds for.
    cache: Cell<Cache>,
}

impl<'a> Delivered<'a> {
    pub(crate) const fn new(message: &'a Message<'a>, id: Option<MessageId>, audience: Audience) -> Self {
        Self { message, audience, id, cache: Cell::new(Cache::Never) }
    }
}

impl Question for Delivered<'_> {
    type Answer = Option<Codec>;
    const PASSED: Option<Codec> = None;
    const ASKED: Option<Asked> = Some(Asked::Choose);

    fn to(&self) -> &str {
        self.message.to
    }

    fn sender(&self) -> &str {
        self.message.from
    }

    fn id(&self) -> Option<MessageId> {
        self.id
    }

    fn put(&self, serving: &mut Serving, deadline_ms: u32) -> Result<Self::Answer, Box<Failure>> {
        let Choice { codec, cache } = serving.choose(self.message, self.audience, deadline_ms)?;
        self.cache.set(cache);
        Ok(codec)
    }

    fn take(&mut self, answer: Self::Answer) -> Option<Self::Answer> {
        answer.is_some().then_some(answer)
    }

    fn known(&self, policy: usize, decisions: &mut Decisions) -> Option<Self::Answer> {
        decisions.find_choice(policy, (self.message.to, self.audience)).cloned()
    }

    fn remember(&self, policy: usize, answer: &Self::Answer, decisions: &mut Decisions) {
        // There is no publisher's connection to hold it for.
        if self.cache.get() == Cache::Address {
            decisions.keep_choice(policy, (self.message.to, self.audience), answer);
        }
    }

    fn say(answer: &Self::Answer, texts: &mut Texts) -> Said {
        answer.as_ref().map_or(Said::Continue, |codec| Said::codec(codec, texts))
    }

    fn show(answer: &Self::Answer) -> Value {
        answer.as_ref().map_or_else(
            || json!("continue"),
            |codec| {
                let (coded, dictionary) = Coded::of(codec);
                coded.show(dictionary)
            },
        )
    }
}

/// What is done about a full queue.
#[derive(Debug)]
pub(crate) struct Full<'a>(pub(crate) &'a Overflowed<'a>);

impl Question for Full<'_> {
    type Answer = Option<Overflow>;
    const PASSED: Option<Overflow> = None;
    const ASKED: Option<Asked> = None;

    fn to(&self) -> &str {
        self.0.to.as_str()
    }

    /// The recipient's user: who published is not known where queues are filled.
    fn sender(&self) -> &str {
        self.0.recipient.split('/').next().unwrap_or("")
    }

    fn put(&self, serving: &mut Serving, deadline_ms: u32) -> Result<Self::Answer, Box<Failure>> {
        serving.overflow(self.0, deadline_ms)
    }

    fn take(&mut self, answer: Self::Answer) -> Option<Self::Answer> {
        answer.is_some().then_some(answer)
    }

    /// Traces have nothing of it.
    fn say(_: &Self::Answer, _: &mut Texts) -> Said {
        Said::Nothing
    }

    fn show(answer: &Self::Answer) -> Value {
        answer.map_or_else(|| json!("continue"), |action| json!(answers::word(action)))
    }
}
