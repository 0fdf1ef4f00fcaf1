//! What has waited for its time: publishing it, and waiting again where what was promised cannot be kept yet.

use super::PutOff;
use crate::worker::Worker;
use crate::worker::enqueue::{Outgoing, not_stored};
use crate::worker::receipts::{Asker, Pending};
use crate::worker::storage_error;
use waspmq_core::delivery::AckPlan;
use waspmq_core::message::Batch;
use waspmq_core::{Level, Reject};
use waspmq_store::Write;

impl Worker {
    /// Publishes what has waited for its time.
    pub(in crate::worker) fn publish_due(&mut self, now_ms: u64) {
        while let Some(PutOff { batches, due_unix_ms, ack, token, is_stored }) = self.delays.pop_due(now_ms) {
            for mut batch in batches {
                // To its address it is as old as its arrival there; its time to live began with the publish.
                let now = self.shared.clock.now();
                (batch.unix_ms, batch.published_us) = (now.unix_ms, now.us);
                if is_stored {
                    self.publish_promised(batch, (due_unix_ms, ack), now_ms);
                } else {
                    self.publish_put_off(batch, ack, token);
                }
            }
        }
        self.read_delayed();
    }

    fn publish_put_off(&mut self, batch: Batch, ack: Option<AckPlan>, token: Option<u64>) {
        let (to, level) = (batch.to.clone(), batch.level);
        let settings = self.settled.of(&to).clone();
        match self.send_out(batch, (&[], &settings, ack), (token, None), (None, &[])) {
            Ok(sent) => {
                if let Some(pending) = token.and_then(|token| self.receipts.get_mut(token)) {
                    pending.recipients = pending.recipients.saturating_add(sent.recipients);
                }
            }
            Err(reject) => {
                self.count_refused(&to, &reject);
                if let Some(token) = token.filter(|_| level == Level::Delivered) {
                    self.handle_reached(token, Err(reject));
                }
            }
        }
    }

    /// Publishes a message whose receipt said that it is stored: it enters the history of its address whoever
    /// listens, in place of what waited in the store. Where it does not, it is tried again with the same id.
    fn publish_promised(&mut self, batch: Batch, (due_unix_ms, ack): (u64, Option<AckPlan>), now_ms: u64) {
        // Listeners would have it with each try.
        if let Err(error) = self.shared.journal.check_room() {
            let again = PutOff { ack, ..PutOff::stored(due_unix_ms, batch) };
            return self.wait_again(again, (now_ms, storage_error(&error).retry_ms));
        }
        let to = batch.to.clone();
        let settings = self.settled.of(&to).clone();
        let again = PutOff { ack, ..PutOff::stored(due_unix_ms, batch.clone()) };
        let token = self.receipts.insert(Pending::of_store(Asker::Promised(Box::new(again))));
        let (settings, due_unix_ms, key) = (&*settings, Some(due_unix_ms), None);
        let outgoing = Outgoing { batch, picks: &[], settings, ack, token: Some(token), due_unix_ms, key };
        match self.enqueue(outgoing) {
            // The journal answers.
            Ok(enqueued) if enqueued.is_kept => {}
            Ok(_) => self.handle_reached(token, Err(not_stored(&to))),
            Err(reject) => self.handle_reached(token, Err(reject)),
        }
    }

    /// A message whose receipt said that it is stored did not enter the history of its address.
    pub(in crate::worker) fn handle_unkept(&mut self, again: PutOff, reject: &Reject) {
        if reject.code.is_retryable() {
            return self.wait_again(again, (self.shared.clock.now_us() / 1_000, reject.retry_ms));
        }
        if let Some(batch) = again.batches.first() {
            self.count_refused(&batch.to, reject);
        }
        for (to, id) in again.batches.iter().filter_map(|batch| Some((&batch.to, batch.messages.first()?.id)))
        {
            let write = Write::NoDelayed { due_unix_ms: again.due_unix_ms, id };
            if self.shared.journal.push(write, None).is_err() {
                // It is published again after a restart, with the same id.
                tracing::warn!(%to, "the journal has no room to forget a delayed message");
            }
        }
    }

    fn wait_again(&mut self, again: PutOff, (now_ms, wait_ms): (u64, u32)) {
        let bytes = again.batches.iter().map(Batch::size_bytes).sum();
        self.delays.put_back(now_ms + u64::from(wait_ms.max(1)), bytes, again);
        self.timers.notify_one();
    }
}
