//! What the tasks of a run share: counts, and what came of every message. Nothing here waits; the time is an argument.

use super::clients::Run;
use super::latency::Recorder;
use super::limits::CAUSES_MAX;
use super::options::Pace;
use super::plan::Plan;
use super::sequence::Sequence;
use super::spread::Spreads;
use super::stamp::{PROBE, Stamp};
use super::window::Window;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use waspmq_client::{Content, Overflow, OverflowAction, Profile};

#[derive(Debug)]
pub(super) struct Running {
    pub(super) plan: Plan,
    pub(super) profile: Profile,
    pub(super) run: Run,
    /// Messages that are due from here on are measured.
    measure_from_ns: AtomicU64,
    /// When the last publisher had ended.
    sent_until_ns: AtomicU64,
    is_stopped: AtomicBool,
    has_lost_receiver: AtomicBool,
    /// For publishers that wait for a client whose connection is lost.
    pub(super) stopped: Notify,
    pub(super) routes: Vec<Route>,
    /// From due to received.
    pub(super) latency: Recorder,
    /// From due to its receipt.
    pub(super) receipts: Recorder,
    /// From due to sent.
    pub(super) delays: Recorder,
    /// From the first receiver to the last.
    pub(super) spread: Recorder,
    pub(super) spreads: Option<Mutex<Spreads>>,
    causes: Mutex<BTreeMap<String, u64>>,
}

/// One publisher, its topic, and who receives it.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) address: String,
    pub(super) window: Window,
    pub(super) sent: AtomicU64,
    /// Of those, the ones that are measured.
    pub(super) measured: AtomicU64,
    pub(super) stalls: AtomicU64,
    /// Deliveries, repeats left out.
    delivered: AtomicU64,
    /// Publishes that were answered, whatever the answer was, those of them that were refused, and those nobody knows of.
    answered: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    /// Deliveries that the broker says it dropped because a receiver was slow.
    overflowed: AtomicU64,
    /// What the members of a queue have together.
    pub(super) together: Mutex<Sequence>,
    pub(super) receivers: Vec<Mutex<Received>>,
}

/// What one receiver has.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub(super) sequence: Sequence,
    /// Repeats left out.
    pub(super) count: u64,
    /// Of those, the ones that are measured, and when the last one of them came.
    pub(super) measured: u64,
    pub(super) last_ns: u64,
    /// To the receiver's address, and not as they were sent.
    pub(super) unreadable: u64,
}

/// One message as a receiver has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival<'a> {
    pub(super) to: &'a str,
    pub(super) content: Content,
    pub(super) payload: &'a [u8],
    pub(super) now_ns: u64,
}

impl Running {
    pub(super) fn new(plan: Plan, profile: Profile, run: Run, threads: usize) -> anyhow::Result<Self> {
        let routes =
            (0..plan.publishers).map(|publisher| Route::new(&plan, run.address(publisher))).collect();
        let spreads = plan.has_spread.then(|| Mutex::new(Spreads::new(plan.receivers)));
        Ok(Self {
            plan,
            profile,
            run,
            measure_from_ns: AtomicU64::new(u64::MAX),
            sent_until_ns: AtomicU64::new(u64::MAX),
            is_stopped: AtomicBool::new(false),
            has_lost_receiver: AtomicBool::new(false),
            stopped: Notify::new(),
            routes,
            latency: Recorder::new(threads)?,
            receipts: Recorder::new(threads)?,
            delays: Recorder::new(1)?,
            spread: Recorder::new(1)?,
            spreads,
            causes: Mutex::default(),
        })
    }

    pub(super) fn begin(&self, measure_from_ns: u64) {
        self.measure_from_ns.store(measure_from_ns, Ordering::Relaxed);
    }

    pub(super) fn measure_from_ns(&self) -> u64 {
        self.measure_from_ns.load(Ordering::Relaxed)
    }

    /// Nothing more is sent.
    pub(super) fn end(&self, now_ns: u64) {
        self.sent_until_ns.store(now_ns, Ordering::Relaxed);
    }

    /// From the end of the warm-up.
    pub(super) fn sending(&self) -> Duration {
        let until_ns = self.sent_until_ns.load(Ordering::Relaxed);
        Duration::from_nanos(until_ns.saturating_sub(self.measure_from_ns()))
    }

    pub(super) fn is_measured(&self, due_ns: u64) -> bool {
        due_ns >= self.measure_from_ns()
    }

    /// Nothing more is published.
    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.stopped.notify_waiters();
        for route in &self.routes {
            route.window.wake();
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    /// A message came; false when it is none of this run's.
    pub(super) fn handle(&self, (publisher, receiver): (usize, usize), arrival: Arrival<'_>) -> bool {
        let Some(route) = self.routes.get(publisher) else { return false };
        let Some(received) = route.receivers.get(receiver) else { return false };
        let stamp = Stamp::read(arrival.content, arrival.payload, self.plan.size);
        let stamp = stamp.filter(|stamp| stamp.run == self.run.tag);
        let Some(stamp) = stamp.filter(|stamp| stamp.publisher as usize == publisher) else {
            if arrival.to != route.address {
                return false;
            }
            received.lock().unwrap().unreadable += 1;
            return true;
        };
        if stamp.number != PROBE {
            self.handle_stamp((route, received), receiver, (stamp, arrival.now_ns));
        }
        true
    }

    fn handle_stamp(
        &self,
        (route, received): (&Route, &Mutex<Received>),
        receiver: usize,
        (stamp, now_ns): (Stamp, u64),
    ) {
        let is_measured = self.is_measured(stamp.due_ns);
        {
            let is_new_to_all = !self.plan.is_queue || route.together.lock().unwrap().handle(stamp.number);
            let mut received = received.lock().unwrap();
            let is_new =
                if self.plan.is_queue { is_new_to_all } else { received.sequence.handle(stamp.number) };
            if !is_new {
                return;
            }
            received.count += 1;
            if is_measured {
                received.measured += 1;
                received.last_ns = now_ns;
            }
        }
        if is_measured {
            self.latency.record(receiver, now_ns.saturating_sub(stamp.due_ns));
        }
        if let Some(spreads) = &self.spreads {
            let spread = spreads.lock().unwrap().handle(stamp.number, now_ns);
            if let Some(ns) = spread.filter(|_| is_measured) {
                self.spread.record(0, ns);
            }
        }
        route.delivered.fetch_add(1, Ordering::Relaxed);
        if !self.plan.has_receipts() {
            route.window.handle_done();
        }
    }

    /// A receipt came.
    pub(super) fn handle_receipt(&self, publisher: usize, due_ns: u64, now_ns: u64) {
        let Some(route) = self.routes.get(publisher) else { return };
        if self.is_measured(due_ns) {
            self.receipts.record(publisher, now_ns.saturating_sub(due_ns));
        }
        route.answered.fetch_add(1, Ordering::Relaxed);
        route.window.handle_done();
    }

    /// The broker refused a message; one that has no receipt was to be delivered to some.
    pub(super) fn handle_refused(&self, publisher: usize, cause: String) {
        let Some(route) = self.routes.get(publisher) else { return };
        self.count_cause(cause);
        route.refused.fetch_add(1, Ordering::Relaxed);
        route.answered.fetch_add(1, Ordering::Relaxed);
        for _ in 0..self.asked_for_each() {
            route.window.handle_done();
        }
    }

    /// It is not known what became of a message, or it could not be sent.
    pub(super) fn handle_failed(&self, publisher: usize, cause: String) {
        let Some(route) = self.routes.get(publisher) else { return };
        self.count_cause(cause);
        route.failed.fetch_add(1, Ordering::Relaxed);
        route.answered.fetch_add(1, Ordering::Relaxed);
        route.window.handle_done();
    }

    /// The broker dropped messages of an address for one of its receivers: they are not waited for. Those that it spilled come later.
    pub(super) fn handle_overflow(&self, publisher: usize, overflow: &Overflow) {
        let Overflow { to, dropped, action } = overflow;
        let route = self.routes.get(publisher).filter(|route| route.address == *to);
        let Some(route) = route.filter(|_| *action != Some(OverflowAction::Spill)) else { return };
        route.overflowed.fetch_add(*dropped, Ordering::Relaxed);
        if !self.plan.has_receipts() {
            route.window.handle_all_done(*dropped);
        }
    }

    /// The client of a receiver has ended, as nobody told it to.
    pub(super) fn handle_receiver_ended(&self, cause: String) {
        self.count_cause(cause);
        self.has_lost_receiver.store(true, Ordering::Relaxed);
        self.stop();
    }

    pub(super) fn has_lost_receiver(&self) -> bool {
        self.has_lost_receiver.load(Ordering::Relaxed)
    }

    pub(super) fn count_cause(&self, cause: String) {
        let mut causes = self.causes.lock().unwrap();
        let has_room = causes.len() < CAUSES_MAX || causes.contains_key(&cause);
        *causes.entry(if has_room { cause } else { "others".to_owned() }).or_default() += 1;
    }

    pub(super) fn causes(&self) -> BTreeMap<String, u64> {
        self.causes.lock().unwrap().clone()
    }

    /// What a publisher's window counts of each message: its receipt, or its deliveries.
    pub(super) const fn asked_for_each(&self) -> u64 {
        asked_for_each(&self.plan)
    }

    /// Everything that came so far, to see whether anything still does.
    pub(super) fn done(&self) -> u64 {
        self.routes.iter().map(|route| route.delivered() + route.answered.load(Ordering::Relaxed)).sum()
    }

    /// Whether nothing is outstanding.
    pub(super) fn is_complete(&self) -> bool {
        self.routes.iter().all(|route| {
            let sent = route.sent();
            let delivered = route.delivered() + route.overflowed() + self.plan.copies() * route.refused();
            let answered = !self.plan.has_receipts() || route.answered.load(Ordering::Relaxed) >= sent;
            answered && delivered >= sent * self.plan.copies()
        })
    }

    pub(super) fn sent(&self) -> u64 {
        self.routes.iter().map(Route::sent).sum()
    }

    pub(super) const fn profile_name(&self) -> &'static str {
        match self.profile {
            Profile::Binary => "binary",
            Profile::Json => "json",
        }
    }

    pub(super) fn delivered(&self) -> u64 {
        self.routes.iter().map(Route::delivered).sum()
    }
}

const fn asked_for_each(plan: &Plan) -> u64 {
    match plan.level {
        waspmq_client::Level::None => plan.copies(),
        _ => 1,
    }
}

impl Route {
    fn new(plan: &Plan, address: String) -> Self {
        let limit = match plan.pace {
            Pace::Rate(_) => None,
            Pace::Window(in_flight) => Some(in_flight as u64 * asked_for_each(plan)),
        };
        Self {
            address,
            window: Window::new(limit),
            sent: AtomicU64::new(0),
            measured: AtomicU64::new(0),
            stalls: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
            together: Mutex::default(),
            receivers: (0..plan.receivers).map(|_| Mutex::default()).collect(),
        }
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(super) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(super) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    pub(super) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    pub(super) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::plan;
    use super::*;
    use waspmq_client::Level;

    fn running(plan: Plan) -> Running {
        let run = Run { name: "0123456789abcdef".to_owned(), tag: 7 };
        let running = Running::new(plan, Profile::Json, run, 2).unwrap();
        running.begin(1_000);
        running
    }

    /// What a receiver gets of a stamp, as JSON and with the size of the plan.
    fn payload(stamp: Stamp) -> Vec<u8> {
        let Stamp { run, publisher, number, due_ns } = stamp;
        format!("\"{run:08x}{publisher:08x}{number:016x}{due_ns:016x}{:x<78}\"", "").into_bytes()
    }

    fn arrive(running: &Running, place: (usize, usize), stamp: Stamp) -> bool {
        let to = running.routes[place.0].address.clone();
        let payload = payload(stamp);
        running.handle(
            place,
            Arrival { to: &to, content: Content::Json, payload: &payload, now_ns: stamp.due_ns + 500 },
        )
    }

    const fn stamp(publisher: u32, number: u64, due_ns: u64) -> Stamp {
        Stamp { run: 7, publisher, number, due_ns }
    }

    #[test]
    fn each_receiver_has_each_message_once_and_the_warm_up_is_not_measured() {
        let running = running(Plan { has_spread: true, ..plan(2, 2, Pace::Window(4)) });
        running.routes[1].sent.store(2, Ordering::Relaxed);
        for receiver in 0..2 {
            assert!(arrive(&running, (1, receiver), stamp(1, PROBE, 0)), "the probe is of this run");
            assert!(arrive(&running, (1, receiver), stamp(1, 0, 900)));
            assert!(arrive(&running, (1, receiver), stamp(1, 0, 900)), "so is a repeat");
        }
        assert!(!running.is_complete());
        for receiver in 0..2 {
            assert!(arrive(&running, (1, receiver), stamp(1, 1, 1_000)));
        }
        assert!(running.is_complete());
        let route = &running.routes[1];
        assert_eq!((running.delivered(), running.done(), route.window.done()), (4, 4, 4));
        for received in &route.receivers {
            let received = received.lock().unwrap();
            assert_eq!((received.count, received.measured, received.sequence.repeated()), (2, 1, 1));
        }
        assert_eq!(running.latency.summary().unwrap().json()["samples"], 2);
        assert_eq!(running.spread.summary().unwrap().json()["samples"], 1);
    }

    #[test]
    fn what_is_not_of_the_run_is_told_apart() {
        let running = running(plan(2, 1, Pace::Window(4)));
        let check = |to: &str, payload: &[u8], is_ours: bool, unreadable: u64| {
            let arrival = Arrival { to, content: Content::Json, payload, now_ns: 1 };
            assert_eq!(running.handle((0, 0), arrival), is_ours, "{to}");
            assert_eq!(running.routes[0].receivers[0].lock().unwrap().unreadable, unreadable, "{to}");
        };
        let address = running.routes[0].address.clone();
        check("all", b"{}", false, 0);
        check(&address, b"{}", true, 1);
        check(&address, &payload(Stamp { run: 8, ..stamp(0, 0, 0) }), true, 2);
        check(&address, &payload(stamp(1, 0, 0)), true, 3);
        check(&address, &[&payload(stamp(0, 0, 0))[..126], b"\""].concat(), true, 4);
        check("topic/elsewhere", &payload(stamp(0, 0, 0)), true, 4);
        assert_eq!(running.delivered(), 1, "a policy may send it under another address");
    }

    #[test]
    fn members_of_a_queue_have_a_message_together() {
        let running = running(Plan { is_queue: true, ..plan(1, 2, Pace::Window(4)) });
        running.routes[0].sent.store(2, Ordering::Relaxed);
        arrive(&running, (0, 1), stamp(0, 1, 2_000));
        arrive(&running, (0, 0), stamp(0, 0, 2_000));
        arrive(&running, (0, 1), stamp(0, 0, 2_000));
        assert!(running.is_complete());
        let together = running.routes[0].together.lock().unwrap();
        assert_eq!((together.received(), together.repeated(), together.missing(2)), (2, 1, 0));
        assert_eq!(running.delivered(), 2);
    }

    #[test]
    fn answers_end_the_waiting() {
        let plain = running(plan(1, 3, Pace::Window(2)));
        plain.routes[0].sent.store(1, Ordering::Relaxed);
        plain.handle_refused(0, "rate_limited (1429)".to_owned());
        assert!(plain.is_complete(), "nobody gets it");
        assert_eq!((plain.routes[0].window.done(), plain.routes[0].refused()), (3, 1));

        let slow = running(plan(1, 3, Pace::Window(2)));
        slow.routes[0].sent.store(1, Ordering::Relaxed);
        arrive(&slow, (0, 0), stamp(0, 0, 1_000));
        let address = slow.routes[0].address.clone();
        let overflow = |to: &str, action| Overflow { to: to.to_owned(), dropped: 2, action };
        slow.handle_overflow(0, &overflow("topic/elsewhere", None));
        slow.handle_overflow(0, &overflow(&address, Some(OverflowAction::Spill)));
        assert!(!slow.is_complete(), "what is spilled comes later");
        slow.handle_overflow(0, &overflow(&address, Some(OverflowAction::DropOldest)));
        assert!(slow.is_complete(), "the others do not get it");
        assert_eq!((slow.routes[0].window.done(), slow.routes[0].overflowed()), (3, 2));

        let acked = running(Plan { level: Level::Stored, ..plan(1, 1, Pace::Window(2)) });
        acked.routes[0].sent.store(3, Ordering::Relaxed);
        acked.handle_receipt(0, 1_000, 1_700);
        acked.handle_refused(0, "a".to_owned());
        acked.handle_failed(0, "b".to_owned());
        assert!(!acked.is_complete(), "two of them may still be delivered");
        assert_eq!((acked.routes[0].window.done(), acked.routes[0].answered()), (3, 3));
        for number in 0..2 {
            arrive(&acked, (0, 0), stamp(0, number, 1_000));
        }
        assert!(acked.is_complete());
        assert_eq!(acked.receipts.summary().unwrap().json()["samples"], 1);
    }

    #[test]
    fn causes_are_bounded() {
        let running = running(plan(1, 1, Pace::Window(1)));
        for number in 0..2 * CAUSES_MAX {
            running.count_cause(format!("cause {number}"));
            running.count_cause("cause 0".to_owned());
        }
        let causes = running.causes();
        assert_eq!((causes.len(), causes["cause 0"]), (CAUSES_MAX + 1, 2 * CAUSES_MAX as u64 + 1));
        assert_eq!(causes["others"], CAUSES_MAX as u64);
    }
}
