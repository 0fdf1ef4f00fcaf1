//! What the host keeps with one instance: its limits, its deadline, and the parts of the message under decision
//! that the guest may pull.
//!
//! Headers and payload are copied in before a call, and only for components that import the functions to read
//! them: a copy into a kept buffer is cheaper than a call's own cost and needs no unsafe borrow.

use crate::clock::Clock;
use crate::exceeded::Limit;
use crate::fast::Lane;
use crate::hostcalls::{Random, Surroundings};
use crate::limits;
use crate::memory::{Memory, Outcome};
use crate::stats::PolicyStats;
use crate::told::Told;
use crate::verdict::Known;
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::time::Duration;
use wasmtime::{ResourceLimiter, UpdateDeadline};
use waspmq_core::policy::Message;

/// Which policy and which worker an instance serves.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) name: Arc<str>,
    pub(crate) worker: usize,
    pub(crate) stats: Arc<PolicyStats>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) surroundings: Arc<dyn Surroundings>,
}

impl Context {
    /// Counts an answer that is missing for want of room.
    pub(crate) fn kept<T>(&self, limit: Limit, answer: Outcome<T>) -> Option<T> {
        if matches!(answer, Outcome::OverBounds) {
            self.exceed(limit);
        }
        self.memory.note(answer)
    }

    /// Counts that a limit was exceeded.
    pub(crate) fn exceed(&self, limit: Limit) {
        self.stats.exceeded.note((&self.name, self.worker), limit);
    }
}

/// What a component imports of the message, and hence has to be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Pulls {
    pub(crate) headers: bool,
    pub(crate) payload: bool,
}

/// The data of one instance's store.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) context: Context,
    pub(crate) headers: Arc<Vec<(String, String)>>,
    pub(crate) payload: Arc<Vec<u8>>,
    /// What of them the guest asked for since this was emptied.
    pub(crate) pulled: Pulls,
    /// What calls on the fast lane keep here.
    pub(crate) lane: Lane,
    pub(crate) known: Known,
    /// The queues that the guest was told of.
    pub(crate) told: Told,
    /// What its linear memory grew to.
    pub(crate) memory_bytes: usize,
    memory_bytes_max: usize,
    growth_denied: bool,
    pub(crate) random: Random,
    hostcalls_left: u32,
    deadline: Deadline,
}

impl State {
    pub(crate) fn new(context: Context, memory_bytes_max: usize) -> Self {
        Self {
            context,
            headers: Arc::default(),
            payload: Arc::default(),
            known: Known::default(),
            told: Told::default(),
            pulled: Pulls::default(),
            lane: Lane::default(),
            memory_bytes: 0,
            memory_bytes_max,
            growth_denied: false,
            random: Random::seeded(),
            hostcalls_left: limits::HOSTCALLS_MAX,
            deadline: Deadline::default(),
        }
    }

    /// Starts the bounds of one call.
    pub(crate) fn arm(&mut self, deadline_ms: u32) {
        self.growth_denied = false;
        self.hostcalls_left = limits::HOSTCALLS_MAX;
        self.deadline = Deadline::new(deadline_ms);
    }

    /// Leaves no message to be pulled, for calls outside of a decision.
    pub(crate) fn hide(&mut self) {
        Arc::make_mut(&mut self.headers).clear();
        Arc::make_mut(&mut self.payload).clear();
    }

    /// Gives the guest the message under decision, with the headers that earlier policies set.
    pub(crate) fn show(&mut self, message: &Message<'_>, set: &[(String, String)], pulls: Pulls) {
        if pulls.headers {
            let headers = Arc::make_mut(&mut self.headers);
            copy_headers(headers, message.headers);
            set.iter().for_each(|(name, value)| set_header(headers, name, value));
        }
        if pulls.payload {
            let payload = Arc::make_mut(&mut self.payload);
            payload.clear();
            payload.shrink_to(limits::PAYLOAD_KEPT_BYTES);
            payload.extend_from_slice(message.payload);
        }
    }

    /// Whether one more call of the host is within the bounds of this call.
    pub(crate) fn spend_hostcall(&mut self) -> bool {
        match self.hostcalls_left.checked_sub(1) {
            Some(left) => {
                self.hostcalls_left = left;
                true
            }
            None => {
                self.context.exceed(Limit::Hostcalls);
                false
            }
        }
    }

    /// Whether one more log line is within the bounds of this call and of the policy.
    pub(crate) fn may_log(&mut self) -> bool {
        if !self.spend_hostcall() {
            return false;
        }
        let allowed = self.context.stats.log_line_allowed();
        if !allowed {
            self.context.exceed(Limit::LogLines);
        }
        allowed
    }

    pub(crate) fn on_epoch(&mut self) -> UpdateDeadline {
        self.deadline.on_epoch(thread_cpu_time())
    }

    pub(crate) const fn deadline_missed(&self) -> bool {
        self.deadline.missed
    }

    /// About the CPU time that the latest call used, where it met an epoch. To be asked on its thread and behind its end at once.
    #[cold]
    pub(crate) fn cpu_time_used(&self) -> Option<Duration> {
        self.deadline.used(thread_cpu_time())
    }

    pub(crate) const fn is_nearly_full(&self) -> bool {
        self.memory_bytes >= self.memory_bytes_max / 100 * limits::INSTANCE_MEMORY_PERCENT
    }

    pub(crate) const fn growth_denied(&self) -> bool {
        self.growth_denied
    }
}

/// Makes one list of headers equal to another and keeps the room its strings have.
fn copy_headers(to: &mut Vec<(String, String)>, from: &[(String, String)]) {
    to.truncate(from.len());
    let (known, more) = from.split_at(to.len());
    for (old, (name, value)) in to.iter_mut().zip(known) {
        name.clone_into(&mut old.0);
        value.clone_into(&mut old.1);
    }
    to.extend_from_slice(more);
}

/// Replaces the header of that name, or adds it.
pub(crate) fn set_header(headers: &mut Vec<(String, String)>, name: &str, value: &str) {
    match headers.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => value.clone_into(old),
        None => headers.push((name.to_owned(), value.to_owned())),
    }
}

impl ResourceLimiter for State {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let allowed = desired <= self.memory_bytes_max;
        self.growth_denied |= !allowed;
        if allowed {
            self.memory_bytes = desired;
        }
        Ok(allowed)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let allowed = desired <= limits::TABLE_ELEMENTS_MAX;
        self.growth_denied |= !allowed;
        Ok(allowed)
    }
}

/// The deadline of one call, in ticks that only count when the thread itself ran.
///
/// The first epoch after the start of a call comes within one tick and starts the measurement; from then on a
/// call is cut once the thread used nine tenths of the remaining ticks. A call that the operating system set
/// aside is thus not cut, and one that loops is cut within about `deadline_ms` of its own CPU time.
///
/// The kernel charges a thread for interrupts that it happens to serve, a burst of network traffic for instance, and a
/// hypervisor for the time that it gave to somebody else. A short call can so be charged for two ticks and more; but
/// then it ends within a few checks, while a guest that loops runs on. The grace tells them apart: the call is asked again at
/// each of its next checks, and cut once both 0.3 ms and 256 checks went by, or 1 ms for one that checks seldom.
#[derive(Debug, Default)]
struct Deadline {
    /// Ticks behind the first epoch.
    ticks: u32,
    cpu_at_first_epoch: Option<Duration>,
    /// When the budget was found used up.
    cpu_at_grace: Option<Duration>,
    checks_in_grace: u32,
    missed: bool,
}

impl Deadline {
    const fn new(deadline_ms: u32) -> Self {
        let ticks = deadline_ms.saturating_sub(1) / limits::TICK_MS;
        Self { ticks, cpu_at_first_epoch: None, cpu_at_grace: None, checks_in_grace: 0, missed: false }
    }

    /// Computed by the few calls that meet an epoch.
    fn budget(&self) -> Duration {
        Duration::from_micros(u64::from(self.ticks) * 900)
    }

    /// What the call used until its thread had used `cpu`: a tick at most until the first epoch, and what was measured since.
    fn used(&self, cpu: Duration) -> Option<Duration> {
        let first = self.cpu_at_first_epoch?;
        Some(Duration::from_millis(u64::from(limits::TICK_MS)) + cpu.saturating_sub(first))
    }

    fn on_epoch(&mut self, cpu: Duration) -> UpdateDeadline {
        let first = *self.cpu_at_first_epoch.get_or_insert(cpu);
        if cpu == first || cpu.saturating_sub(first) < self.budget() {
            return UpdateDeadline::Continue(1);
        }
        let grace_began = *self.cpu_at_grace.get_or_insert(cpu);
        self.checks_in_grace += 1;
        let more = cpu.saturating_sub(grace_began);
        if more < GRACE || (self.checks_in_grace < GRACE_CHECKS && more < GRACE_MAX) {
            return UpdateDeadline::Continue(0);
        }
        self.missed = true;
        UpdateDeadline::Interrupt
    }
}

/// CPU time in which a call whose budget is used up may still end by itself.
const GRACE: Duration = Duration::from_micros(300);

/// Checks that a call meets in its grace before it is cut, unless they come so seldom that [`GRACE_MAX`] went by.
const GRACE_CHECKS: u32 = 256;
const GRACE_MAX: Duration = Duration::from_millis(1);

pub(crate) fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_cut(deadline_ms: u32, cpu_us_at_epochs: &[u64]) -> bool {
        let mut deadline = Deadline::new(deadline_ms);
        for &us in cpu_us_at_epochs {
            if matches!(deadline.on_epoch(Duration::from_micros(us)), UpdateDeadline::Interrupt) {
                return true;
            }
        }
        false
    }

    #[test]
    fn only_own_cpu_time_counts() {
        assert!(!is_cut(2, &[100]), "the first epoch may come at once");
        assert!(!is_cut(2, &[100, 1_000]), "two bursts of interrupts look like this");
        assert!(!is_cut(2, &[100, 1_000, 1_299]));
        let loops: Vec<u64> =
            [100].into_iter().chain((0..=u64::from(GRACE_CHECKS)).map(|n| 1_000 + n * 2)).collect();
        assert!(is_cut(2, &loops), "nine tenths of the tick behind it, and the grace");
        assert!(!is_cut(2, &loops[..100]), "an end within a few checks");
        let checks: Vec<u64> =
            [100].into_iter().chain((0..=u64::from(GRACE_CHECKS)).map(|n| 1_000 + n)).collect();
        assert!(!is_cut(2, &checks), "as many checks in less time");
        assert!(
            !is_cut(2, &[100, 1_000, 1_300, 1_600, 1_900]),
            "charged for others' time, check after check"
        );
        assert!(is_cut(2, &[100, 1_000, 2_000]), "a guest may check as seldom as it likes");
        assert!(!is_cut(2, &[100, 110, 120, 130, 140]), "set aside by the operating system");
        assert!(!is_cut(5, &[0, 900, 1_800, 2_700]), "four ticks at 0.9 ms are not over yet");
        assert!(is_cut(5, &[0, 900, 1_800, 2_700, 3_600, 4_600]));
    }

    #[test]
    fn the_grace_is_used_time_as_well() {
        let mut deadline = Deadline::new(2);
        let used =
            |deadline: &Deadline, us| deadline.used(Duration::from_micros(us)).map(|used| used.as_micros());
        assert_eq!(used(&deadline, 700), None, "nothing was measured");
        for us in [700, 1_600, 2_500] {
            assert!(matches!(deadline.on_epoch(Duration::from_micros(us)), UpdateDeadline::Continue(_)));
        }
        assert_eq!(used(&deadline, 2_700), Some(3_000));
    }

    #[test]
    fn headers_are_copied_whole() {
        let list = |names: &[&str]| -> Vec<(String, String)> {
            names.iter().map(|name| ((*name).to_owned(), name.repeat(3))).collect()
        };
        let mut copy = Vec::new();
        for names in [&["a", "b", "c"][..], &["long name"], &[], &["x", "y"]] {
            copy_headers(&mut copy, &list(names));
            assert_eq!(copy, list(names));
        }
    }

    #[test]
    fn headers_replace_by_name() {
        let mut headers = vec![("a".to_owned(), "1".to_owned())];
        set_header(&mut headers, "a", "2");
        set_header(&mut headers, "b", "3");
        assert_eq!(headers, [("a".to_owned(), "2".to_owned()), ("b".to_owned(), "3".to_owned())]);
    }
}
