//! The part of a publish under the address lock: who is reached, whether it is stored, offset, hand-off.
//!
//! Room is looked for in every queue before the offset is taken, so that a message enters all of them or none. Members of
//! queues are chosen beside the lock where that is more than a few looks: what was chosen counts for the state of the queue
//! it was chosen from, and is chosen again where that has changed meanwhile.

use super::Worker;
use super::mailbox::{Entry, QueueDelivery};
use super::storage_error;
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::sync::Arc;
use waspmq_core::dedup::{Key, Remembered};
use waspmq_core::delivery::AckPlan;
use waspmq_core::message::Batch;
use waspmq_core::registry::{Excluded, Locked, Pick, Queue, Recipients, Targets, WorkerSet};
use waspmq_core::settings::{Keep, Settings};
use waspmq_core::{Address, Code, Kind, Level, Position, QueueId, Reject, SessionId};
use waspmq_store::{Ticket, Write};

/// Members that are looked at under the lock, over all messages and queues: taking it twice costs about as much.
const LOCKED_LOOKS_MAX: usize = 64;

/// A batch on its way into the mailboxes.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    pub(super) batch: Batch,
    pub(super) picks: &'a [Option<Pick>],
    pub(super) settings: &'a Settings,
    /// What a policy planned instead of what they say.
    pub(super) ack: Option<AckPlan>,
    /// The receipt that waits for the disk.
    pub(super) token: Option<u64>,
    /// When it was due, where a receipt has promised already that it is stored: it needs nobody to reach, and takes the place
    /// of what waited in the store.
    pub(super) due_unix_ms: Option<u64>,
    /// The dedup key that is stored together with it, with the recipients of what was published before.
    pub(super) key: Option<&'a Key>,
}

/// What became of it.
#[derive(Debug)]
pub(super) struct Enqueued {
    /// To be woken when the lock is released.
    pub(super) workers: WorkerSet,
    /// The position of the first message.
    pub(super) first: Position,
    /// Of one message.
    pub(super) recipients: u32,
    /// Whether it goes to the store.
    pub(super) is_kept: bool,
    /// What to track, for level `delivered`.
    pub(super) tracked: Option<(Arc<Batch>, Recipients)>,
    /// Of what is tracked, which member of which queue each message went to.
    pub(super) members: Vec<(usize, QueueId, SessionId)>,
}

/// Members that were chosen for the messages of a batch, by the state of the queue they were chosen from.
#[derive(Debug, Default)]
struct Choice(SmallVec<[(Arc<Queue>, Chosen); 1]>);

#[derive(Debug, Default)]
struct Chosen {
    /// By worker.
    deliveries: HashMap<u8, Vec<QueueDelivery>>,
    /// The same for whoever tracks them.
    members: Vec<(usize, QueueId, SessionId)>,
    /// Messages that no member may have.
    nobody: u64,
}

impl Worker {
    /// Gives a batch its positions and hands it to every worker with recipients, and to the journal.
    pub(super) fn enqueue(&self, outgoing: Outgoing<'_>) -> Result<Enqueued, Reject> {
        let to = outgoing.batch.to.clone();
        let (locked, enqueued) = self.enqueue_locked(self.shared.registry.lock(&to), outgoing);
        drop(locked);
        let enqueued = enqueued?;
        self.wake(enqueued.workers);
        Ok(enqueued)
    }

    /// [`Self::enqueue`] by who has the lock already. Where choosing members is more than a few looks, the lock is given
    /// back meanwhile: the one that is returned is another then.
    pub(super) fn enqueue_locked<'a>(
        &'a self,
        mut locked: Locked<'a>,
        outgoing: Outgoing<'_>,
    ) -> (Locked<'a>, Result<Enqueued, Reject>) {
        let to = outgoing.batch.to.clone();
        let mut targets = locked.targets(&to);
        let mut choice = Choice::default();
        if looks(&outgoing, &targets) > LOCKED_LOOKS_MAX {
            // What is refused anyway is not chosen for.
            if let Err(reject) = self.check_early(&outgoing, &targets) {
                return (locked, Err(reject));
            }
            drop(locked);
            choice = choose(&outgoing, &targets);
            locked = self.shared.registry.lock(&to);
            targets = locked.targets(&to);
        }
        let enqueued = self.enqueue_chosen(&mut locked, outgoing, (targets, choice));
        (locked, enqueued)
    }

    /// The part under the lock. Of a queue that changed since its members were chosen, or of which none were, they are
    /// chosen here.
    fn enqueue_chosen(
        &self,
        locked: &mut Locked<'_>,
        outgoing: Outgoing<'_>,
        (targets, choice): (Targets, Choice),
    ) -> Result<Enqueued, Reject> {
        let Outgoing { batch, settings, due_unix_ms, .. } = &outgoing;
        let excluded = self.excluded(batch);
        let is_kept = goes_to_store(batch, settings, &targets);
        check_kept(batch, is_kept)?;
        let tracked = if batch.level == Level::Delivered {
            let recipients = locked.recipients(&batch.to, excluded.as_ref())?;
            self.check_tracker(batch, recipients.len())?;
            (!recipients.is_empty()).then_some(recipients)
        } else {
            None
        };
        let listening = locked.reached(&batch.to, &targets, excluded.as_ref());
        let is_reached = match batch.level {
            Level::Delivered => tracked.is_some(),
            // A queue keeps what its only member is not to have. Sessions that are away are asked for last: all addresses share
            // their table.
            Level::Stored => {
                listening > 0
                    || is_kept
                        && (targets.queues.iter().any(|queue| queue.home.is_some())
                            || self.is_kept_for_someone(locked, batch, settings))
            }
            Level::Accepted | Level::None => true,
        };
        if !is_reached && due_unix_ms.is_none() {
            return Err(Reject::new(Code::NoRecipients, format!("{} reaches nobody", batch.to)));
        }
        let Chosen { deliveries: mut queues, members, nobody } = chosen(choice, &outgoing, &targets);
        if nobody > 0 {
            self.counters().dropped_no_member.add(nobody);
        }
        let Outgoing { mut batch, picks, settings, ack, token, due_unix_ms, key } = outgoing;
        let mut workers = targets.workers;
        queues.keys().for_each(|&worker| workers.insert(worker));
        let homes = if is_kept { homes(&targets) } else { WorkerSet::default() };
        workers = workers.union(homes);
        self.check_room(workers, is_kept)?;
        if is_kept && listening == 0 {
            self.check_inbox(&batch)?;
        }
        batch.is_kept = is_kept;
        let left_out = batch.origin.filter(|_| batch.exclude_origin);
        batch.first = locked.take((&batch.to, &targets), batch.messages.len(), (is_kept, left_out));
        let first = batch.first;
        let batch = Arc::new(batch);
        let recipients = match &tracked {
            Some(recipients) => u32::try_from(recipients.len()).unwrap_or(u32::MAX),
            None if is_kept && batch.to.kind() == Kind::User => listening.max(1),
            None => listening,
        };
        if is_kept {
            let write = written(&batch, settings, due_unix_ms);
            self.store(&batch.to, write.with_key(key.map(|key| reaching(key, recipients))), token)?;
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
            let (batch, plan) = (batch.clone(), ack.map(Box::new));
            self.push(home, Entry::Queued { batch, queues, picks: picks.into(), plan });
        }
        let tracked = tracked.map(|recipients| (batch, recipients));
        Ok(Enqueued { workers, first, recipients, is_kept, tracked, members })
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

    /// What of a publish's checks needs no members.
    fn check_early(&self, outgoing: &Outgoing<'_>, targets: &Targets) -> Result<(), Reject> {
        let is_kept = goes_to_store(&outgoing.batch, outgoing.settings, targets);
        check_kept(&outgoing.batch, is_kept)?;
        self.check_room(targets.workers, is_kept)
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

    /// A user who is away has the store only: what that is known not to keep reaches nobody.
    fn check_inbox(&self, batch: &Batch) -> Result<(), Reject> {
        if batch.to.kind() != Kind::User {
            return Ok(());
        }
        self.shared.journal.check_room().map_err(|error| storage_error(&error))
    }

    fn check_tracker(&self, batch: &Batch, recipients: usize) -> Result<(), Reject> {
        if self.tracker.has_room(batch.messages.len(), recipients, batch.size_bytes()) {
            return Ok(());
        }
        let message = "as many messages wait for acknowledgements as this worker may track";
        Err(Reject::new(Code::Overloaded, message).retry_after(100))
    }

    /// Hands messages to the journal. One that has no room after all, or was closed, refuses the publish; the
    /// positions are not used then.
    pub(super) fn store(&self, to: &Address, write: Write, token: Option<u64>) -> Result<(), Reject> {
        let ticket = token.map(|token| Ticket { worker: self.number, token });
        self.shared.kept.insert(to);
        self.shared.journal.push(write, ticket).map_err(|_| journal_full())
    }

    pub(super) fn wake(&self, workers: WorkerSet) {
        workers.iter().for_each(|worker| self.shared.mailboxes.of(worker).wake());
    }

    /// The session that published a batch, where it is left out and is here.
    fn excluded<'a>(&self, batch: &'a Batch) -> Option<Excluded<'a>> {
        let session = batch.origin.filter(|_| batch.exclude_origin)?;
        let (user, number) = (batch.from.as_ref()?, *self.numbers.get(&session)?);
        let lists = self.recipients.of(&batch.to);
        let listens = lists.iter().map(|listeners| u32::from(listeners.contains(&number))).sum();
        Some(Excluded { user, session, listens })
    }

    /// Whether a session of this worker listens to an address. Not yet where a change of membership is under way.
    pub(super) fn listens(&self, number: u32, to: &Address) -> bool {
        self.recipients.of(to).iter().any(|listeners| listeners.contains(&number))
    }
}

/// A batch as the store is to know it.
pub(super) fn written(batch: &Arc<Batch>, settings: &Settings, due_unix_ms: Option<u64>) -> Write {
    let (batch, retention) = (batch.clone(), settings.retention);
    match due_unix_ms {
        Some(due_unix_ms) => Write::Due { due_unix_ms, batch, retention },
        None => Write::Messages { batch, retention },
    }
}

/// The key of a publish that has so many recipients more.
fn reaching(key: &Key, more: u32) -> Key {
    let recipients = key.answer.recipients.saturating_add(more);
    Key { answer: Remembered { recipients, ..key.answer }, ..key.clone() }
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

/// The queues of which the publisher's worker chooses members. Those of a stored message are chosen by the queue's home,
/// unless the publisher waits for them.
fn to_choose_from<'a>(
    outgoing: &Outgoing<'_>,
    targets: &'a Targets,
) -> impl Iterator<Item = &'a Arc<Queue>> + use<'a> {
    let goes_home = !targets.queues.is_empty()
        && outgoing.batch.level < Level::Delivered
        && goes_to_store(&outgoing.batch, outgoing.settings, targets);
    targets.queues.iter().filter(move |queue| !goes_home || queue.home.is_none())
}

/// How many members have to be looked at.
fn looks(outgoing: &Outgoing<'_>, targets: &Targets) -> usize {
    let members: usize = to_choose_from(outgoing, targets).map(|queue| queue.members.len()).sum();
    members * outgoing.batch.messages.len()
}

fn choose(outgoing: &Outgoing<'_>, targets: &Targets) -> Choice {
    let of = |queue: &Arc<Queue>| (queue.clone(), choose_from(queue, outgoing));
    Choice(to_choose_from(outgoing, targets).map(of).collect())
}

/// One member of each queue for each message.
fn chosen(mut choice: Choice, outgoing: &Outgoing<'_>, targets: &Targets) -> Chosen {
    let mut all = Chosen::default();
    for queue in to_choose_from(outgoing, targets) {
        let known = choice.0.iter_mut().find(|(of, _)| Arc::ptr_eq(of, queue));
        let of = known.map_or_else(|| choose_from(queue, outgoing), |(_, chosen)| std::mem::take(chosen));
        if all.deliveries.is_empty() {
            all.deliveries = of.deliveries;
        } else {
            for (worker, more) in of.deliveries {
                all.deliveries.entry(worker).or_default().extend(more);
            }
        }
        all.members.extend(of.members);
        all.nobody += of.nobody;
    }
    all
}

fn choose_from(queue: &Queue, outgoing: &Outgoing<'_>) -> Chosen {
    let Outgoing { batch, picks, .. } = outgoing;
    let mut chosen = Chosen::default();
    let mut choosing = queue.choosing(batch.origin.filter(|_| batch.exclude_origin));
    for (message, envelope) in batch.messages.iter().enumerate() {
        let pick = picks.get(message).copied().flatten();
        let Some(member) = choosing.choose(batch.slice(envelope.key), pick) else {
            chosen.nobody += 1;
            continue;
        };
        let (session, in_flight) = (member.session, member.begin());
        let delivery = QueueDelivery { message, session, queue: queue.id.clone(), attempt: 1, in_flight };
        chosen.deliveries.entry(member.worker).or_default().push(delivery);
        if batch.level == Level::Delivered {
            chosen.members.push((message, queue.id.clone(), session));
        }
    }
    chosen
}

/// The workers that keep the progress of the queues.
fn homes(targets: &Targets) -> WorkerSet {
    let mut homes = WorkerSet::default();
    targets.queues.iter().filter_map(|queue| queue.home).for_each(|home| homes.insert(home));
    homes
}

fn check_kept(batch: &Batch, is_kept: bool) -> Result<(), Reject> {
    if batch.level == Level::Stored && !is_kept { Err(not_stored(&batch.to)) } else { Ok(()) }
}

fn goes_to_store(batch: &Batch, settings: &Settings, targets: &Targets) -> bool {
    is_kept((&batch.to, batch.level), settings.keep, || targets.recipients)
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

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_core::message::{Envelope, Slice};
    use waspmq_core::registry::{Registry, Session};
    use waspmq_core::{MessageId, Name, Pattern, Stream};

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn session(number: u32, worker: u8) -> Session {
        Session { id: SessionId::new(1, worker, number), worker, user: name("u"), device: None }
    }

    fn batch(level: Level, messages: u64) -> Batch {
        let envelope = |count| Envelope {
            id: MessageId::new(1, 1, 0, count),
            is_json: true,
            priority: 0,
            expires_unix_ms: 0,
            payload: Slice::default(),
            headers: Slice::default(),
            key: Slice::default(),
            reply_to: Slice::default(),
        };
        Batch {
            to: Address::parse("topic/a.b").unwrap(),
            from: None,
            origin: None,
            exclude_origin: false,
            level,
            is_kept: false,
            unix_ms: 1,
            published_us: 1,
            first: Position { stream: Stream { shard: 0, epoch: 1 }, offset: 0 },
            messages: (1..=messages).map(envelope).collect(),
            bytes: Vec::new(),
        }
    }

    fn outgoing(batch: Batch, settings: &Settings) -> Outgoing<'_> {
        Outgoing { batch, picks: &[], settings, ack: None, token: None, due_unix_ms: None, key: None }
    }

    #[test]
    fn members_are_chosen_again_where_a_queue_has_changed_meanwhile() {
        let (registry, settings) = (Registry::new(1, 0), Settings::of_kind(Kind::Topic));
        let to = Address::parse("topic/a.b").unwrap();
        let queue = |pattern| QueueId::new(Pattern::parse(pattern).unwrap(), name("w"));
        let [changes, stays] = ["topic/a.*", "topic/a.b"].map(queue);
        let (leaver, other) = (session(1, 0), session(2, 3));
        registry.join_queue(&changes, &leaver, None).unwrap();
        let (kept, _) = registry.join_queue(&stays, &other, None).unwrap();
        let outgoing = outgoing(batch(Level::Delivered, 40), &settings);
        let before = registry.lock(&to).targets(&to);
        assert_eq!(looks(&outgoing, &before), 80);
        let choice = choose(&outgoing, &before);
        assert_eq!(kept.members[0].in_flight(), 40);
        let left = before.queues.iter().find(|queue| queue.id == changes).unwrap().members[0].clone();
        assert_eq!(left.in_flight(), 40);
        registry.leave_queue(&changes, &leaver).unwrap();
        registry.join_queue(&changes, &session(3, 5), None).unwrap();
        let now = registry.lock(&to).targets(&to);
        let Chosen { deliveries, members, nobody } = chosen(choice, &outgoing, &now);
        let counts = |worker: u8| deliveries.get(&worker).map_or(0, Vec::len);
        assert_eq!((counts(0), counts(3), counts(5), members.len(), nobody), (0, 40, 40, 80, 0));
        assert_eq!((left.in_flight(), kept.members[0].in_flight()), (0, 40), "once");
        assert!(deliveries[&5].iter().all(|delivery| delivery.queue == changes));
    }

    #[test]
    fn stored_messages_are_left_to_the_home_unless_they_are_waited_for() {
        let (registry, settings) = (Registry::new(1, 0), Settings::of_kind(Kind::Topic));
        let to = Address::parse("topic/a.b").unwrap();
        let queue = QueueId::new(Pattern::from(&to), name("w"));
        registry.join_queue(&queue, &session(1, 0), Some(4)).unwrap();
        let targets = registry.lock(&to).targets(&to);
        let always = Settings { keep: Keep::Always, ..settings.clone() };
        for (level, settings, expected) in [
            (Level::Accepted, &settings, 1),
            (Level::Stored, &settings, 0),
            (Level::None, &always, 0),
            (Level::Delivered, &always, 1),
        ] {
            assert_eq!(looks(&outgoing(batch(level, 1), settings), &targets), expected, "{level:?}");
        }
        assert!(homes(&targets).contains(4) && homes(&targets).iter().count() == 1);
    }
}
