//! A vector's question, ready to be put as often as is wanted.

use super::Vector;
use super::asked::{self, ReadyMessage};
use crate::bindings::Cache;
use crate::capture::{Failed, Full};
use crate::hook::Hook;
use crate::question::{self, Question};
use crate::serving::Serving;
use waspmq_core::address::Address;
use waspmq_core::compression::Audience;
use waspmq_core::settings::Overflow;

/// A question that has everything it needs.
pub(crate) struct Prepared {
    name: String,
    hook: Hook,
    asks: Asks,
}

enum Asks {
    Message(ReadyMessage),
    Delivered(ReadyMessage, Audience),
    Failure(Failed<'static>),
    Overflow(Full<'static>, Address, Overflow),
}

/// Who puts questions.
pub(crate) trait Asker {
    type Out;

    fn ask<Q: Question>(&mut self, question: &Q) -> Self::Out;
}

impl Prepared {
    /// Reads what a vector asks a hook, at a time.
    pub(super) fn new(vector: &Vector, hook: Hook, now: u64) -> Result<Self, String> {
        let asks = if let Some(failure) = &vector.failure {
            let failed = asked::failed(failure, now)?;
            Asks::Failure(asked::read::<Failed<'_>>(&failed, "failure")?.into_owned())
        } else if let Some(overflow) = &vector.overflow {
            let full = asked::full(overflow, now)?;
            let full = asked::read::<Full<'_>>(&full, "overflow")?.into_owned();
            let to = Address::parse(&full.address).map_err(|error| format!("overflow.to: {error}"))?;
            let configured = full.configured().ok_or("overflow.configured: there is no such action")?;
            Asks::Overflow(full, to, configured)
        } else {
            let ready = vector.message.as_ref().ok_or("message: there is none")?.ready()?;
            match hook {
                Hook::Compression => Asks::Delivered(ready, vector.audience.ready()?),
                _ => Asks::Message(ready),
            }
        };
        Ok(Self { name: vector.name.clone(), hook, asks })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) const fn hook(&self) -> Hook {
        self.hook
    }

    /// Has the question put; for a verdict also says what it holds for.
    pub(crate) fn ask<A: Asker>(&self, asker: &mut A, now: u64) -> (A::Out, Option<Cache>) {
        match &self.asks {
            Asks::Failure(failed) => (asker.ask(&question::Missed { told: failed.told(), id: None }), None),
            Asks::Overflow(full, to, configured) => {
                (asker.ask(&question::Full(&asked::overflowed(full, to, *configured))), None)
            }
            Asks::Delivered(ready, audience) => {
                let message = ready.message(now);
                (asker.ask(&question::Delivered::new(&message, None, *audience)), None)
            }
            Asks::Message(ready) => {
                let message = ready.message(now);
                match self.hook {
                    Hook::Admission => (asker.ask(&question::Admitted(&message)), None),
                    Hook::Ack => {
                        let question = question::Planned { message: &message, settings: &ready.settings };
                        (asker.ask(&question), None)
                    }
                    Hook::Routing | Hook::Overflow | Hook::Compression => {
                        let question = question::Routed::new(&message);
                        (asker.ask(&question), Some(question.cache()))
                    }
                }
            }
        }
    }

    /// Puts the question to one that serves, and drops the answer; the error says how it failed.
    pub(crate) fn put(&self, serving: &mut Serving, deadline_ms: u32, now: u64) -> Result<(), String> {
        self.ask(&mut Once { serving, deadline_ms }, now).0
    }
}

struct Once<'a> {
    serving: &'a mut Serving,
    deadline_ms: u32,
}

impl Asker for Once<'_> {
    type Out = Result<(), String>;

    fn ask<Q: Question>(&mut self, question: &Q) -> Self::Out {
        match question.put(self.serving, self.deadline_ms) {
            Ok(answer) => {
                std::hint::black_box(&answer);
                Ok(())
            }
            Err(failure) => Err(format!("{}: {failure}", failure.outcome.as_str())),
        }
    }
}
