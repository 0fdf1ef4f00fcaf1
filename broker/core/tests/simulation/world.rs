//! The broker around the delivery domain, as small as it can be: two workers, sessions, a store, and the ways
//! between them. Whatever is in memory is lost in a crash; what the store committed stays.

use crate::checks::{Checks, Counts, Promise, check_end};
use crate::client::{Answer, Device, Frame, devices, queue_name};
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use waspmq_core::delivery::{
    AckPlan, Acked, Backoff, Bounds, Cause, Cursors, Event, Exhausted, Failed, Flight, Quorum, Recipient,
    References, Report, Sending, Tracker, Turn, Window, window,
};
use waspmq_core::message::{Batch, Envelope, Slice};
use waspmq_core::policy::BySettings;
use waspmq_core::{Address, Level, MessageId, Name, Position, QueueId, SessionId, Stream};

pub(crate) const USERS: usize = 3;
/// Three users, a group of all of them, and a topic with a queue.
pub(crate) const ADDRESSES: [&str; 5] = ["user/u0", "user/u1", "user/u2", "group/g", "topic/jobs"];
const JOBS: usize = 4;
pub(crate) const QUEUE: &str = "jobs";
const WORKERS: usize = 2;
/// Unix time when the monotonic clock is 0.
const EPOCH_MS: u64 = 1_000_000;

pub(crate) fn user(index: usize) -> Recipient {
    Recipient::User(Name::parse(&format!("u{index}")).unwrap())
}

/// splitmix64.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn permille(&mut self, part: u64) -> bool {
        self.below(1_000) < part
    }
}

/// What survives.
#[derive(Debug, Default)]
pub(crate) struct Store {
    /// Per address, in order: a batch and the message in it.
    pub(crate) messages: [Vec<(Arc<Batch>, u16)>; ADDRESSES.len()],
    /// Per device and address.
    cursors: BTreeMap<(usize, usize), Position>,
}

pub(crate) struct Session {
    id: SessionId,
    device: usize,
    pub(crate) window: Window,
    cursors: Cursors,
    /// Per address that is read from the store, the index of the next message.
    reading: BTreeMap<usize, usize>,
    down: VecDeque<(u64, Frame)>,
    up: VecDeque<(u64, Answer)>,
    /// Per address, the position of the last first delivery.
    last: BTreeMap<usize, Position>,
}

/// What a lost connection leaves to the device's next one, which goes on with the session.
#[derive(Default)]
struct Left {
    windows: Vec<Window>,
    /// What was not said any more, or did not arrive.
    up: VecDeque<(u64, Answer)>,
}

/// What crosses from worker to worker.
enum Mail {
    Report {
        acked: Acked,
        recipient: Recipient,
        device: Option<Name>,
        session: Option<SessionId>,
        failed: Option<Failed>,
    },
    Online(Recipient),
}

pub(crate) struct World {
    seed: u64,
    random: Random,
    now_ms: u64,
    pub(crate) epoch: u32,
    counts: [u64; WORKERS],
    offsets: [u64; ADDRESSES.len()],
    publishers: [u32; WORKERS],
    references: u64,
    next_session: u32,
    pub(crate) store: Store,
    pub(crate) trackers: Vec<Tracker>,
    pub(crate) sessions: Vec<Session>,
    /// By device.
    left: BTreeMap<usize, Left>,
    pub(crate) devices: Vec<Device>,
    mailbox: VecDeque<(u64, usize, Mail)>,
    crash_permille: u64,
    is_calm: bool,
    pub(crate) checks: Checks,
}

/// The broker is gone; what was being done ends here.
struct Crashed;

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("seed {} at {} ms", self.seed, self.now_ms);
        }
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let devices = devices(&mut random);
        let crash_permille = [0, 2, 10][random.below(3) as usize];
        let mut world = Self {
            seed,
            random,
            now_ms: 1_000,
            epoch: 0,
            counts: [0; WORKERS],
            offsets: [0; ADDRESSES.len()],
            publishers: [0; WORKERS],
            references: 0,
            next_session: 0,
            store: Store::default(),
            trackers: Vec::new(),
            sessions: Vec::new(),
            left: BTreeMap::new(),
            devices,
            mailbox: VecDeque::new(),
            crash_permille,
            is_calm: false,
            checks: Checks::default(),
        };
        world.start();
        world
    }

    /// Runs some steps of trouble, then lets everything come to its end.
    pub(crate) fn run(mut self, steps: u32) -> Counts {
        for _ in 0..steps {
            let jump = if self.random.permille(20) { self.random.below(100_000) } else { 0 };
            self.now_ms += self.random.below(30) + jump;
            let step = match self.random.below(1_000) {
                0..400 => self.publish(),
                400..470 => self.connect_one(),
                470..500 => self.disconnect_one(),
                500..505 => self.publisher_gone(),
                _ => Ok(()),
            };
            if step.and_then(|()| self.turn()).is_err() {
                self.crash();
            }
        }
        self.calm();
        check_end(&self);
        self.checks.counts
    }

    fn calm(&mut self) {
        (self.is_calm, self.crash_permille) = (true, 0);
        for device in &mut self.devices {
            device.habits =
                crate::client::Habits { silent: 0, nacks: 0, loses: 0, delay_ms: 5, ..device.habits };
        }
        while let Some(session) = self.sessions.pop() {
            self.disconnect(session);
        }
        for device in 0..self.devices.len() {
            self.connect(device);
        }
        for _ in 0..5_000 {
            assert!(self.turn().is_ok(), "no crash in calm weather");
            let is_quiet = self.mailbox.is_empty()
                && self.trackers.iter().all(|tracker| tracker.stats().flights == 0)
                && self.sessions.iter().all(|session| {
                    session.down.is_empty() && session.up.is_empty() && session.reading.is_empty()
                });
            if is_quiet {
                return;
            }
            let due = self.trackers.iter().filter_map(Tracker::next_due_ms).min().unwrap_or(0);
            let is_busy =
                !self.mailbox.is_empty() || self.sessions.iter().any(|session| !session.down.is_empty());
            self.now_ms = if is_busy { self.now_ms + 5 } else { due.max(self.now_ms + 5) };
        }
        panic!("it does not come to an end");
    }

    /// A point where the broker may die.
    fn survive(&mut self) -> Result<(), Crashed> {
        if self.random.permille(self.crash_permille) { Err(Crashed) } else { Ok(()) }
    }

    fn start(&mut self) {
        self.epoch += 1;
        (self.counts, self.offsets) = ([0; WORKERS], [0; ADDRESSES.len()]);
        let bounds = Bounds { ledger_max: 50, ..Bounds::default() };
        self.trackers = (0..WORKERS as u64).map(|worker| Tracker::new(bounds, worker)).collect();
    }

    fn crash(&mut self) {
        self.sessions.clear();
        self.left.clear();
        self.mailbox.clear();
        self.publishers = self.publishers.map(|count| count + 1);
        self.checks.counts.crashes += 1;
        self.checks.counts.note(&[9, self.now_ms]);
        self.start();
    }

    fn publisher(&self, worker: usize) -> SessionId {
        SessionId::new(self.epoch, worker as u8, 1_000 + self.publishers[worker])
    }

    fn publisher_gone(&mut self) -> Result<(), Crashed> {
        let worker = self.random.below(WORKERS as u64) as usize;
        let publisher = self.publisher(worker);
        self.trackers[worker].handle_publisher_gone(publisher);
        self.checks.gone.insert(publisher);
        self.publishers[worker] += 1;
        Ok(())
    }

    fn connect_one(&mut self) -> Result<(), Crashed> {
        let device = self.random.below(self.devices.len() as u64) as usize;
        if self.sessions.iter().all(|session| session.device != device) {
            self.connect(device);
        }
        Ok(())
    }

    fn disconnect_one(&mut self) -> Result<(), Crashed> {
        if !self.sessions.is_empty() {
            let index = self.random.below(self.sessions.len() as u64) as usize;
            let session = self.sessions.remove(index);
            self.disconnect(session);
        }
        Ok(())
    }

    /// A device comes back and reads what is behind its cursors.
    fn connect(&mut self, device: usize) {
        self.next_session += 1;
        let mut reading = BTreeMap::new();
        for address in self.devices[device].addresses() {
            let cursor = self.store.cursors.get(&(device, address)).copied();
            let messages = &self.store.messages[address];
            let next = messages
                .partition_point(|(batch, index)| Some(batch.position(usize::from(*index))) <= cursor);
            reading.insert(address, next);
        }
        let left = self.left.remove(&device).unwrap_or_default();
        let mut window = Window::new(window::Bounds { messages_max: 8, bytes_max: usize::MAX / 2 });
        window.go_on(left.windows);
        self.sessions.push(Session {
            id: SessionId::new(self.epoch, 0, self.next_session),
            device,
            window,
            cursors: Cursors::default(),
            reading,
            down: VecDeque::new(),
            up: left.up,
            last: BTreeMap::new(),
        });
        for worker in 0..WORKERS {
            self.mail(worker, Mail::Online(user(self.devices[device].user)));
            if Device::is_member(device) {
                self.mail(worker, Mail::Online(Recipient::Queue(queue_name())));
            }
        }
    }

    fn disconnect(&mut self, mut session: Session) {
        let lost: Vec<_> = session.window.drain().collect();
        for acked in lost {
            let failed = Failed::by(Cause::ConnectionLost);
            self.report((session.device, session.id), acked, Some(failed));
        }
        let late = session.up.into_iter().filter_map(|(due, answer)| match answer {
            Answer::Upto(address, position) => Some((due, Answer::LateUpto(address, position))),
            Answer::Nack(..) => None,
            answer => Some((due, answer)),
        });
        self.left.insert(session.device, Left { windows: session.window.left(), up: late.collect() });
    }

    fn mail(&mut self, worker: usize, mail: Mail) {
        let delay = if self.is_calm { 1 } else { self.random.below(40) };
        self.mailbox.push_back((self.now_ms + delay, worker, mail));
    }

    /// Tells the origin worker what became of messages that a session had.
    fn report(&mut self, (device, session): (usize, SessionId), acked: Acked, failed: Option<Failed>) {
        let first = acked.first().expect("never empty");
        if first.epoch() != self.epoch {
            return;
        }
        let recipient = acked.queue.clone().map_or_else(|| user(self.devices[device].user), Recipient::Queue);
        if failed.is_none() {
            let range = usize::from(acked.range.start)..usize::from(acked.range.end);
            for id in acked.batch.messages[range].iter().map(|envelope| envelope.id) {
                assert!(self.devices[device].processed.contains(&id), "acknowledged by who never got it");
                self.checks.acked.insert((id, recipient.clone()));
            }
        }
        let device = Some(self.devices[device].name.clone());
        let mail = Mail::Report { acked, recipient, device, session: Some(session), failed };
        self.mail(usize::from(first.worker()), mail);
    }

    /// Tells the origin worker that nobody could be sent to.
    fn report_unsent(
        &mut self,
        batch: &Arc<Batch>,
        range: Range<u16>,
        recipient: &Recipient,
        of: (Cause, u16),
    ) {
        let acked = Acked { batch: batch.clone(), range, queue: None, attempt: of.1, sent_ms: self.now_ms };
        let failed = Some(Failed::by(of.0));
        let worker = usize::from(acked.first().expect("never empty").worker());
        let mail = Mail::Report { acked, recipient: recipient.clone(), device: None, session: None, failed };
        self.mail(worker, mail);
    }

    fn publish(&mut self) -> Result<(), Crashed> {
        let worker = self.random.below(WORKERS as u64) as usize;
        let address = self.random.below(ADDRESSES.len() as u64) as usize;
        let batch = self.batch(worker, address);
        let messages = batch.messages.len() as u16;
        self.survive()?;
        if address != JOBS {
            self.store.messages[address].extend((0..messages).map(|index| (batch.clone(), index)));
        }
        self.survive()?;
        let all = match address {
            JOBS => vec![Recipient::Queue(queue_name())],
            USERS => (0..USERS).map(user).collect(),
            _ => vec![user(address)],
        };
        let plan = self.plan();
        let publisher = self.publisher(worker);
        let mut references = References::default();
        for (index, envelope) in batch.messages.iter().enumerate() {
            self.references += 1 + u64::from(self.random.permille(100));
            references.push(self.references, index as u16);
            let recipients = all.iter().cloned().collect();
            let promise = Promise { publisher, reference: self.references, plan, recipients };
            self.checks.promises.insert(envelope.id, promise);
        }
        let (recipients, offline): (Vec<_>, Vec<_>) = all.into_iter().partition(|by| self.is_online(by));
        let online: SmallVec<[Recipient; 1]> = recipients.iter().cloned().collect();
        let flight = Flight {
            batch: batch.clone(),
            recipients: online,
            offline,
            plan,
            publisher: Some(publisher),
            references,
        };
        self.checks.counts.published += u64::from(messages);
        self.ask(worker, |tracker, turn| tracker.begin(flight, turn))?;
        for recipient in recipients {
            self.survive()?;
            self.deliver(&batch, 0..messages, &recipient, (1, None));
        }
        Ok(())
    }

    fn batch(&mut self, worker: usize, address: usize) -> Arc<Batch> {
        let (messages, unix_ms) = (1 + self.random.below(6), EPOCH_MS + self.now_ms);
        let (count, offset) = (self.counts[worker], self.offsets[address]);
        self.counts[worker] += messages;
        self.offsets[address] += messages + self.random.below(3);
        let envelopes = (0..messages).map(|index| {
            let expires = self.random.permille(80).then(|| unix_ms + self.random.below(3_000));
            Envelope {
                id: MessageId::new(unix_ms, self.epoch, worker as u8, count + index),
                is_json: true,
                priority: 0,
                expires_unix_ms: expires.unwrap_or(0),
                payload: Slice::default(),
                headers: Slice::default(),
                key: Slice::default(),
                reply_to: Slice::default(),
            }
        });
        let messages = envelopes.collect();
        Arc::new(Batch {
            to: Address::parse(ADDRESSES[address]).unwrap(),
            from: None,
            origin: None,
            exclude_origin: false,
            level: Level::Delivered,
            is_kept: true,
            unix_ms,
            published_us: self.now_ms * 1_000,
            first: Position { stream: Stream { shard: address as u16, epoch: self.epoch }, offset },
            messages,
            bytes: Vec::new(),
        })
    }

    fn plan(&mut self) -> AckPlan {
        let quorums = [Quorum::All, Quorum::Any, Quorum::Count(2)];
        AckPlan {
            quorum: quorums[self.random.below(3) as usize],
            timeout_ms: 50 + self.random.below(400) as u32,
            attempts: 1 + self.random.below(5) as u16,
            backoff: Backoff { initial_ms: 10, max_ms: 200, jitter_percent: 50 },
            exhausted: [Exhausted::DeadLetter, Exhausted::Drop][self.random.below(2) as usize],
        }
    }

    fn listens(&self, session: &Session, recipient: &Recipient) -> bool {
        match recipient {
            Recipient::User(_) => user(self.devices[session.device].user) == *recipient,
            Recipient::Queue(_) => Device::is_member(session.device),
        }
    }

    fn is_online(&self, recipient: &Recipient) -> bool {
        self.sessions.iter().any(|session| self.listens(session, recipient))
    }

    /// Sends to the sessions of a user, or to one of a queue, and reports when there is none.
    fn deliver(
        &mut self,
        batch: &Arc<Batch>,
        range: Range<u16>,
        recipient: &Recipient,
        (attempt, avoid): (u16, Option<SessionId>),
    ) {
        let mut candidates: Vec<_> = (0..self.sessions.len())
            .filter(|index| self.listens(&self.sessions[*index], recipient))
            .collect();
        if candidates.is_empty() {
            self.report_unsent(batch, range, recipient, (Cause::Offline, attempt));
            return;
        }
        let queue = match recipient {
            Recipient::User(_) => None,
            Recipient::Queue(name) => Some(name.clone()),
        };
        if queue.is_some() {
            let turn = self.random.below(candidates.len() as u64) as usize;
            candidates.rotate_left(turn);
            candidates.sort_by_key(|index| Some(self.sessions[*index].id) == avoid);
            candidates.truncate(1);
        }
        let (mut taken, delay) = (false, self.random.below(20));
        for index in candidates {
            taken |= self.send(index, (batch, range.clone()), queue.as_ref(), (attempt, delay));
        }
        if !taken {
            self.report_unsent(batch, range, recipient, (Cause::QueueFull, attempt));
        }
    }

    /// Whether the session has the messages or will read them.
    fn send(
        &mut self,
        index: usize,
        (batch, range): (&Arc<Batch>, Range<u16>),
        queue: Option<&QueueId>,
        (attempt, delay): (u16, u64),
    ) -> bool {
        let now_ms = self.now_ms;
        let session = &mut self.sessions[index];
        let address = usize::from(batch.first.stream.shard);
        if queue.is_none()
            && let Some(next) = session.reading.get(&address)
            && let Some((unread, message)) = self.store.messages[address].get(*next)
            && unread.position(usize::from(*message)) <= batch.position(usize::from(range.start))
        {
            return true;
        }
        if !session.window.has_room(range.len(), batch.size_bytes()) {
            if queue.is_none() {
                session.cursors.pass_over(batch, indexes(&range));
            }
            return false;
        }
        session.window.sent(batch, range.clone(), Sending { queue, attempt, now_ms });
        if queue.is_none() {
            session.cursors.sent(batch, indexes(&range));
        }
        // What is in the order of the address: the first time, and nothing of it is read from the store.
        let is_first = queue.is_none() && attempt == 1 && !session.reading.contains_key(&address) && {
            let start = batch.position(usize::from(range.start));
            session.last_sent(address).is_none_or(|last| last < start)
        };
        let frame = Frame { batch: batch.clone(), range, queue: queue.is_some(), is_first };
        session.push(now_ms + delay, frame);
        true
    }

    /// Everything that is due, with a point to crash at behind each.
    fn turn(&mut self) -> Result<(), Crashed> {
        for index in 0..self.sessions.len() {
            self.read_store(index);
            self.receive(index);
        }
        for index in 0..self.sessions.len() {
            while let Some((_, answer)) = self.sessions[index].up.pop_front_if(|(due, _)| *due <= self.now_ms)
            {
                self.handle_answer(index, answer)?;
                self.survive()?;
            }
        }
        let (due, later): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.mailbox).into_iter().partition(|(due, ..)| *due <= self.now_ms);
        self.mailbox = later;
        for (_, worker, mail) in due {
            self.handle_mail(worker, mail)?;
            self.survive()?;
        }
        for worker in 0..WORKERS {
            self.ask(worker, |tracker, turn| tracker.advance(turn))?;
        }
        Ok(())
    }

    /// Sends a session what it reads from the store, as far as there is room.
    fn read_store(&mut self, index: usize) {
        let (now_ms, session) = (self.now_ms, &mut self.sessions[index]);
        session.reading.retain(|address, next| {
            let messages = &self.store.messages[*address];
            while let Some((batch, message)) = messages.get(*next) {
                let expires = batch.messages[usize::from(*message)].expires_unix_ms;
                if expires > 0 && expires <= EPOCH_MS + now_ms {
                    *next += 1;
                    continue;
                }
                if !session.window.has_room(1, batch.size_bytes()) {
                    return true;
                }
                let range = *message..*message + 1;
                session.window.sent(batch, range.clone(), Sending { queue: None, attempt: 1, now_ms });
                session.cursors.sent(batch, indexes(&range));
                let frame = Frame { batch: batch.clone(), range, queue: false, is_first: true };
                session.down.push_back((session.down.back().map_or(now_ms, |last| last.0), frame));
                *next += 1;
            }
            false
        });
    }

    fn receive(&mut self, index: usize) {
        let session = &mut self.sessions[index];
        while let Some((_, frame)) = session.down.pop_front_if(|(due, _)| *due <= self.now_ms) {
            let device = &mut self.devices[session.device];
            for answer in device.receive(&frame, &mut session.last, &mut self.random) {
                let due = self.now_ms + self.random.below(device.habits.delay_ms);
                // One connection keeps the order.
                let due = session.up.back().map_or(due, |last| last.0.max(due));
                session.up.push_back((due, answer));
            }
        }
    }

    fn handle_answer(&mut self, index: usize, answer: Answer) -> Result<(), Crashed> {
        let session = &mut self.sessions[index];
        let of = (session.device, session.id);
        let mut acked = Vec::new();
        let mut failed = None;
        match answer {
            Answer::Upto(address, position) => {
                let to = Address::parse(ADDRESSES[address]).unwrap();
                assert_eq!(session.window.ack_upto(&to, position, &mut acked), Ok(()), "it was sent");
                assert_eq!(session.cursors.ack_upto(&to, position), Ok(()), "it is stored");
            }
            Answer::LateUpto(address, position) => {
                let to = Address::parse(ADDRESSES[address]).unwrap();
                let answered = session.window.ack_upto(&to, position, &mut acked);
                self.checks.counts.late += acked.len() as u64;
                self.checks.counts.not_in_flight += u64::from(answered.is_err());
            }
            Answer::Ids(ids, queue) => {
                let queue = queue.then(queue_name);
                let queue = queue.as_ref().map(QueueId::name);
                if queue.is_none() {
                    ids.iter().for_each(|id| _ = session.cursors.ack_id(*id));
                }
                let missing = session.window.ack_ids(&ids, queue, &mut acked);
                self.checks.counts.not_in_flight += missing as u64;
            }
            Answer::Nack(id, queue, retry_ms) => {
                let queue = queue.then(queue_name);
                session.window.nack(id, queue.as_ref().map(QueueId::name), &mut acked);
                failed = Some(Failed { retry_ms, ..Failed::by(Cause::Nack) });
            }
        }
        for (to, cursor) in session.cursors.take_moved() {
            let address = ADDRESSES.iter().position(|address| *address == to.as_str()).unwrap();
            let kept = self.store.cursors.entry((of.0, address)).or_insert(cursor);
            *kept = cursor.max(*kept);
        }
        self.survive()?;
        for acked in acked {
            self.checks.counts.note(&[
                5,
                acked.first().expect("never empty").count(),
                acked.range.len() as u64,
            ]);
            self.report(of, acked, failed.clone());
        }
        Ok(())
    }

    fn handle_mail(&mut self, worker: usize, mail: Mail) -> Result<(), Crashed> {
        let (acked, recipient, device, session, failed) = match mail {
            Mail::Online(recipient) => {
                return self.ask(worker, |tracker, turn| tracker.handle_online(&recipient, turn));
            }
            Mail::Report { acked, recipient, device, session, failed } => {
                (acked, recipient, device, session, failed)
            }
        };
        let report = Report {
            first: acked.first().expect("never empty"),
            messages: acked.messages(),
            to: &acked.batch.to,
            recipient: &recipient,
            device: device.as_ref(),
            session,
            attempt: acked.attempt,
            sent_ms: acked.sent_ms,
        };
        self.ask(worker, |tracker, turn| match failed {
            None => tracker.handle_acked(&report, turn.now_ms, turn.out),
            Some(failed) => tracker.handle_failed(&report, failed, turn),
        })
    }

    /// Calls a tracker and does what it asks for.
    fn ask(&mut self, worker: usize, call: impl FnOnce(&mut Tracker, &mut Turn<'_>)) -> Result<(), Crashed> {
        let mut out = Vec::new();
        let tracker = &mut self.trackers[worker];
        call(tracker, &mut Turn { now_ms: self.now_ms, acking: &mut BySettings, out: &mut out });
        assert_eq!(tracker.stats().flights, tracker.stats().timers, "one timer each");
        for event in out {
            self.survive()?;
            self.checks.note(&event);
            match event {
                Event::Redeliver { batch, range, recipient, attempt, avoid } => {
                    self.deliver(&batch, range, &recipient, (attempt, avoid));
                }
                Event::DeadLetter { .. }
                | Event::Dropped { .. }
                | Event::Reached { .. }
                | Event::NotDelivered { .. }
                | Event::Store { .. } => {}
            }
        }
        Ok(())
    }
}

impl Session {
    fn push(&mut self, due: u64, frame: Frame) {
        // One connection keeps the order.
        let due = self.down.back().map_or(due, |last| last.0.max(due));
        self.down.push_back((due, frame));
    }

    /// Up to where first deliveries of an address were sent, received or not.
    fn last_sent(&self, address: usize) -> Option<Position> {
        let of_address = |frame: &&Frame| frame.is_first && frame.batch.to.as_str() == ADDRESSES[address];
        let under_way = self.down.iter().map(|(_, frame)| frame).rfind(of_address);
        let position = under_way.map(|frame| frame.batch.position(usize::from(frame.range.end) - 1));
        position.or_else(|| self.last.get(&address).copied())
    }
}

fn indexes(range: &Range<u16>) -> Range<usize> {
    usize::from(range.start)..usize::from(range.end)
}
