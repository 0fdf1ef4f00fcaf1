//! What one worker takes down: whether an address is captured, and the records of its questions.
//!
//! While no capture runs, all it costs is one relaxed load. While one does, the address asked about last is remembered.

use super::record::{Delivered, Failed, Full, Published, Record};
use super::{Capture, Captures};
use crate::bindings;
use crate::clock;
use std::sync::Arc;
use waspmq_core::address::Address;
use waspmq_core::compression::Audience;
use waspmq_core::policy::{Message, Overflowed};
use waspmq_core::settings::Settings;

/// The capturing side of one worker.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    worker: usize,
    /// The capture that ran when this was asked last.
    capture: Option<Arc<Capture>>,
    /// The address asked about last, and whether it is captured.
    last: (String, bool),
}

impl Recorder {
    pub(crate) fn new(worker: usize) -> Self {
        Self { worker, ..Self::default() }
    }

    /// Whether what policies are asked about `to` is taken down.
    #[inline]
    pub(crate) fn wants(&mut self, captures: &Captures, to: &str) -> bool {
        match captures.running() {
            0 => false,
            number => self.is_matched(captures, (number, to)),
        }
    }

    #[cold]
    fn is_matched(&mut self, captures: &Captures, (number, to): (u64, &str)) -> bool {
        if self.capture.as_ref().is_none_or(|capture| capture.number() != number) {
            self.capture = captures.current().filter(|capture| capture.number() == number);
            self.last.0.clear();
        }
        let Some(capture) = &self.capture else { return false };
        if self.last.0 != to {
            self.last.1 = Address::parse(to).is_ok_and(|address| capture.matches(&address));
            to.clone_into(&mut self.last.0);
        }
        self.last.1
    }

    /// Takes down a message whose address is wanted.
    pub(crate) fn message(&self, captures: &Captures, message: &Message<'_>, settings: &Settings) {
        let Some(capture) = &self.capture else { return };
        let record = Published::new(message, Some(settings), capture.with());
        captures.take(capture, self.worker, &Record::Message(record));
    }

    /// Takes down a message on its way to some recipients.
    pub(crate) fn delivery(&self, captures: &Captures, message: &Message<'_>, audience: Audience) {
        let Some(capture) = &self.capture else { return };
        let record = Delivered::new(message, audience, capture.with());
        captures.take(capture, self.worker, &Record::Compression(record));
    }

    /// Takes down a failed attempt.
    pub(crate) fn failure(&self, captures: &Captures, told: &bindings::Failure<'_>) {
        let Some(capture) = &self.capture else { return };
        let record = Failed::new(told, clock::read_unix_ms());
        captures.take(capture, self.worker, &Record::Failure(record));
    }

    /// Takes down a full queue.
    pub(crate) fn overflow(&self, captures: &Captures, what: &Overflowed<'_>) {
        let Some(capture) = &self.capture else { return };
        let record = Full::new(what, clock::read_unix_ms());
        captures.take(capture, self.worker, &Record::Overflow(record));
    }
}
