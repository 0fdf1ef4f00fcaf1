//! The part of a publish under the address lock: who is reached, whether it is stored, offset, hand-off.
//!
//! Room is looked for in every queue before the offset is taken, so that a message enters all of them or none.

use super::Worker;
use super::batch::Source;
use super::mailbox::{Entry, QueueDelivery};
use hashbrown::HashMap;
use std::sync::Arc;
use waspmq_core::message::Batch;
use waspmq_core::registry::{Locked, Pick, Queue, Recipients, Targets, WorkerSet};
use waspmq_core::settings::{Keep, Settings};
use waspmq_core::{Address, Code, Kind, Level, Name, QueueId, Reject, SessionId};
use waspmq_store::{Ticket, Write};

/// A batch on its way into the mailboxes.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    pub(super) batch: Batch,
    pub(super) picks: &'a [Option<Pick>],
    pub(super) settings: &'a Settings,
    /// The user whose only listening session published and is left out.
    pub(super) excluded: Option<&'a Name>,
    /// The receipt that waits for the disk.
    pub(super) token: Option<u64>,
    /// Whether a receipt has promised already that it is stored: it needs nobody to reach.
    pub(super) is_promised: bool,
}

/// What became of it.
#[derive(Debug)]
pub(super) struct Enqueued {
    /// To be woken when the lock is released.
    pub(super) workers: WorkerSet,
    /// Of one message.
    pub(super) recipients: u32,
    /// What to track, for level `delivered`.
    pub(super) tracked: Option<(Arc<Batch>, Recipients)>,
    /// Of what is tracked, which member of which queue each message went to.
    pub(super) members: Vec<(usize, QueueId, SessionId)>,
}

impl Worker {
    /// Gives a batch its positions and hands it to every worker with recipients, and to the journal.
    pub(super) fn enqueue(&self, outgoing: Outgoing<'_>) -> Result<Enqueued, Reject> {
        let to = outgoing.batch.to.clone();
        let mut locked = self.shared.registry.lock(&to);
        let enqueued = self.enqueue_locked(&mut locked, outgoing)?;
        drop(locked);
        self.wake(enqueued.workers);
        Ok(enqueued)
    }

    /// The part of [`Self::enqueue`] under the lock.
    pub(super) fn enqueue_locked(
        &self,
        locked: &mut Locked<'_>,
        outgoing: Outgoing<'_>,
    ) -> Result<Enqueued, Reject> {
        let Outgoing { mut batch, picks, settings, excluded, token, is_promised } = outgoing;
        let targets = locked.targets(&batch.to);
        let is_kept = is_kept((&batch.to, batch.level), settings.keep, || targets.recipients);
        if batch.level == Level::Stored && !is_kept {
            return Err(not_stored(&batch.to));
        }
        let tracked = if batch.level == Level::Delivered {
            let recipients = locked.recipients(&batch.to, excluded)?;
            self.check_tracker(&batch, recipients.len())?;
            (!recipients.is_empty()).then_some(recipients)
        } else {
            None
        };
        let is_reached = match batch.level {
            Level::Delivered => tracked.is_some(),
            // Sessions that are away are asked for last: all addresses share their table.
            Level::Stored => {
                targets.recipients > 0
                    || !targets.queues.is_empty()
                    || is_kept && self.is_kept_for_someone(locked, &batch, settings)
            }
            Level::Accepted | Level::None => true,
        };
        if !is_reached && !is_promised {
            return Err(Reject::new(Code::NoRecipients, format!("{} reaches nobody", batch.to)));
        }
        let mut queues = self.choose_members(&batch, (picks, is_kept), &targets);
        let of_queue =
            |delivery: &QueueDelivery| (delivery.message, delivery.queue.clone(), delivery.session);
        let members = match &tracked {
            Some(_) => queues.values().flatten().map(of_queue).collect(),
            None => Vec::new(),
        };
        let mut workers = targets.workers;
        queues.keys().for_each(|&worker| workers.insert(worker));
        let homes = if is_kept { homes(&targets) } else { WorkerSet::default() };
        workers = workers.union(homes);
        self.check_room(workers, is_kept)?;
        batch.is_kept = is_kept;
        let excluded = batch.origin.filter(|_| batch.exclude_origin);
        batch.first = locked.take((&batch.to, &targets), batch.messages.len(), (is_kept, excluded));
        let batch = Arc::new(batch);
        if is_kept {
            self.store(&batch, settings, token)?;
        }
        for worker in workers.iter() {
            let (plain, queues) =
                (targets.workers.contains(worker), queues.remove(&worker).unwrap_or_default());
            if plain || !queues.is_empty() {
                self.push(worker, Entry::Deliver { batch: batch.clone(), plain, queues });
            }
        }
        // Behind the deliveries, so that a session has a message by its plain subscription before it has it by a queue.
        for home in homes.iter() {
            let is_there = |queue: &&Arc<Queue>| queue.home == Some(home);
            let queues = targets.queues.iter().filter(is_there).cloned().collect();
            self.push(home, Entry::Queued { batch: batch.clone(), queues, picks: picks.into() });
        }
        let queue_count = u32::try_from(targets.queues.len()).unwrap_or(u32::MAX);
        let listening = targets.recipients.saturating_add(queue_count);
        let recipients = match &tracked {
            Some(recipients) => u32::try_from(recipients.len()).unwrap_or(u32::MAX),
            None if is_kept && batch.to.kind() == Kind::User => listening.max(1),
            None => listening,
        };
        Ok(Enqueued { workers, recipients, tracked: tracked.map(|recipients| (batch, recipients)), members })
    }

    fn push(&self, worker: u8, entry: Entry) {
        if self.shared.mailboxes.of(worker).push(entry).is_err() {
            tracing::error!(worker, "a batch found no room after room was promised");
        }
    }

    /// Whether somebody reads later what nobody hears now.
    fn is_kept_for_someone(&self, locked: &Locked<'_>, batch: &Batch, settings: &Settings) -> bool {
        locked.is_kept_for_someone(&batch.to, settings.keep)
            || matches!(batch.to.kind(), Kind::Topic | Kind::All)
                && (self.shared.queues.reads_later(&batch.to)
                    || self.shared.resumes.reads_later(&batch.to, batch.unix_ms))
    }

    fn check_room(&self, workers: WorkerSet, is_kept: bool) -> Result<(), Reject> {
        let mailboxes = &self.shared.mailboxes;
        if workers.iter().any(|worker| !mailboxes.of(worker).takes_publishes()) {
            let message = "the broker has no room for the message right now";
            return Err(Reject::new(Code::Overloaded, message).retry_after(100));
        }
        if is_kept && !self.shared.journal.has_room() {
            return Err(journal_full());
        }
        Ok(())
    }

    fn check_tracker(&self, batch: &Batch, recipients: usize) -> Result<(), Reject> {
        if self.tracker.has_room(batch.messages.len(), recipients, batch.size_bytes()) {
            return Ok(());
        }
        let message = "as many messages wait for acknowledgements as this worker may track";
        Err(Reject::new(Code::Overloaded, message).retry_after(100))
    }

    /// Hands a batch to the journal. One that has no room after all, or was closed, refuses the publish; the
    /// positions are not used then.
    fn store(&self, batch: &Arc<Batch>, settings: &Settings, token: Option<u64>) -> Result<(), Reject> {
        let ticket = token.map(|token| Ticket { worker: self.number, token });
        let write = Write::Messages { batch: batch.clone(), retention: settings.retention };
        self.shared.kept.insert(&batch.to);
        self.shared.journal.push(write, ticket).map_err(|_| journal_full())
    }

    pub(super) fn wake(&self, workers: WorkerSet) {
        workers.iter().for_each(|worker| self.shared.mailboxes.of(worker).wake());
    }

    /// One member of each queue for each message, by worker. Those of a stored message are chosen by the queue's home,
    /// unless the publisher waits for them.
    fn choose_members(
        &self,
        batch: &Batch,
        (picks, is_kept): (&[Option<Pick>], bool),
        targets: &Targets,
    ) -> HashMap<u8, Vec<QueueDelivery>> {
        let mut chosen: HashMap<u8, Vec<QueueDelivery>> = HashMap::new();
        let excluded = batch.origin.filter(|_| batch.exclude_origin);
        for queue in &targets.queues {
            if is_kept && queue.home.is_some() && batch.level < Level::Delivered {
                continue;
            }
            for (message, envelope) in batch.messages.iter().enumerate() {
                let pick = picks.get(message).copied().flatten();
                let Some(member) = queue.choose(batch.slice(envelope.key), pick, excluded) else {
                    self.counters().dropped_no_member.add(1);
                    continue;
                };
                chosen.entry(member.worker).or_default().push(QueueDelivery {
                    message,
                    session: member.session,
                    queue: queue.id.clone(),
                    attempt: 1,
                    in_flight: member.begin(),
                });
            }
        }
        chosen
    }

    /// The publishing user, where the session that publishes listens itself and is left out.
    pub(super) fn excluded<'a>(&self, source: Source<'a>, to: &Address) -> Option<&'a Name> {
        let origin = source.origin.filter(|_| source.exclude_origin)?;
        let number = *self.numbers.get(&origin)?;
        source.from.filter(|_| self.listens(number, to))
    }

    /// Whether a session of this worker listens to an address. Not yet where a change of membership is under way.
    pub(super) fn listens(&self, number: u32, to: &Address) -> bool {
        self.recipients.of(to).iter().any(|listeners| listeners.contains(&number))
    }
}

/// The refusal where the journal takes nothing more now.
pub(super) fn journal_full() -> Reject {
    let message = "more waits for the disk than the journal may hold";
    Reject::new(Code::Overloaded, message).retry_after(100)
}

/// The refusal of level `stored` by an address that keeps nothing.
pub(super) fn not_stored(to: &Address) -> Reject {
    Reject::new(Code::NotStored, format!("{to} keeps no messages, so level `stored` cannot be reached"))
}

/// The workers that keep the progress of the queues.
fn homes(targets: &Targets) -> WorkerSet {
    let mut homes = WorkerSet::default();
    targets.queues.iter().filter_map(|queue| queue.home).for_each(|home| homes.insert(home));
    homes
}

/// Whether a message is stored; `recipients` counts who listens to its address.
pub(super) fn is_kept((to, level): (&Address, Level), keep: Keep, recipients: impl Fn() -> u32) -> bool {
    match keep {
        Keep::Never => false,
        Keep::Requested => level == Level::Stored,
        Keep::Offline => level == Level::Stored || to.kind() == Kind::User && recipients() == 0,
        Keep::Always => true,
    }
}
