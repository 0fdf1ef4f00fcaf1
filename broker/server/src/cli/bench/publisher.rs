//! Sending: in a window, as a task of the runtime, or at a rate, from one thread that does nothing else.
//!
//! A timer of the runtime is good for a millisecond; a message that is due between two would be late by half of one on average. So the
//! rate is kept by a thread that sleeps as exactly as the system lets it, and hands each message to its client by itself.

use super::clients::cause;
use super::limits::RECEIPTS_MAX;
use super::options::Pace;
use super::run::{Route, Running};
use super::schedule::{Schedule, Until};
use super::stamp::Stamp;
use super::window::Waiting;
use crate::clock::Clock;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::futures::Notified;
use tokio::sync::mpsc;
use waspmq_client::{Client, Error, Event, Events, PendingReceipt, PublishOptions, Receipt};

/// How long the thread of the rate sleeps before it looks whether it is to stop.
const NAP: Duration = Duration::from_millis(20);

/// How late the last messages of a run may still be sent: their time is up, and nobody waits for the next ones.
const GRACE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Publisher {
    pub(super) running: Arc<Running>,
    pub(super) clock: Clock,
    pub(super) number: usize,
    pub(super) client: Arc<Client>,
    /// Where receipts are waited for, if there are any.
    pub(super) receipts: Option<mpsc::Sender<Asked>>,
}

/// A message whose receipt is on its way.
#[derive(Debug)]
pub(super) struct Asked {
    due_ns: u64,
    receipt: PendingReceipt,
}

pub(super) fn receipts() -> (mpsc::Sender<Asked>, mpsc::Receiver<Asked>) {
    mpsc::channel(RECEIPTS_MAX)
}

impl Publisher {
    fn route(&self) -> Option<&Route> {
        self.running.routes.get(self.number)
    }

    /// Sends the next message. An error is the end of this client.
    async fn publish(&self, route: &Route, due_ns: u64) -> Result<(), Error> {
        let (running, number) = (&self.running, route.sent());
        let publisher = u32::try_from(self.number).unwrap_or(u32::MAX);
        let stamp = Stamp { run: running.run.tag, publisher, number, due_ns };
        let payload = stamp.payload(running.profile, running.plan.size);
        let options = PublishOptions { ack: running.plan.level, ..PublishOptions::default() };
        let now_ns = self.clock.now_ns();
        let receipt = match &self.receipts {
            None => {
                self.client.send(&route.address, payload, options).await?;
                None
            }
            Some(_) => Some(self.client.publish(&route.address, payload, options).await?),
        };
        if running.is_measured(due_ns) {
            route.measured.fetch_add(1, Ordering::Relaxed);
            // In a window, a message is due when it is sent.
            if matches!(running.plan.pace, Pace::Rate(_)) {
                running.delays.record(0, now_ns.saturating_sub(due_ns));
            }
        }
        // Who looks whether all is done must not see it before it is.
        route.sent.fetch_add(1, Ordering::Relaxed);
        if let (Some(receipts), Some(receipt)) = (&self.receipts, receipt) {
            // Who waits for receipts ends behind the last publisher.
            drop(receipts.send(Asked { due_ns, receipt }).await);
        }
        Ok(())
    }

    /// Sends the next message, or none when the run is stopped meanwhile: a client whose connection is lost may take none for ever.
    /// False when the client has ended.
    async fn publish_unless(&self, stopped: Pin<&mut Notified<'_>>, route: &Route, due_ns: u64) -> bool {
        // A message that is not taken yet is dropped with the other branch, and counts as not sent.
        tokio::select! {
            biased;
            published = self.publish(route, due_ns) => match published {
                Ok(()) => true,
                Err(error) => {
                    self.running.handle_failed(self.number, cause(&error));
                    false
                }
            },
            () = stopped => true,
        }
    }

    /// Sends as the window allows, until the time is over or all are sent. False when the client has ended.
    pub(super) async fn fill_window(self) -> bool {
        let Some(route) = self.route() else { return true };
        let (running, mut waiting) = (&self.running, Waiting::default());
        let mut stopped = pin!(running.stopped.notified());
        let each = running.asked_for_each();
        let is_over = |now_ns: u64| match running.plan.until {
            Until::Time(time) => now_ns >= running.measure_from_ns().saturating_add(nanoseconds(time)),
            Until::Messages(count) => route.measured.load(Ordering::Relaxed) >= count,
        };
        while !running.is_stopped() {
            let has_room = route.window.has_room(route.sent() * each, each, &mut waiting).await;
            route.stalls.store(waiting.stalls, Ordering::Relaxed);
            let now_ns = self.clock.now_ns();
            if is_over(now_ns) {
                break;
            }
            if has_room && !self.publish_unless(stopped.as_mut(), route, now_ns).await {
                return false;
            }
        }
        true
    }
}

/// Sends the messages of a schedule, in turn by all publishers, each at its time or as soon as possible behind it. For a thread of its own.
/// False when a client has ended.
pub(super) fn keep_rate(
    publishers: &[Publisher],
    schedule: Schedule,
    start_ns: u64,
    handle: &Handle,
) -> bool {
    sleep_exactly();
    let Some(Publisher { running, clock, .. }) = publishers.first() else { return true };
    let end_ns = match running.plan.until {
        Until::Time(time) => running.measure_from_ns().saturating_add(nanoseconds(time + GRACE)),
        Until::Messages(_) => u64::MAX,
    };
    let mut stopped = pin!(running.stopped.notified());
    for (number, publisher) in (0..schedule.count()).zip(publishers.iter().cycle()) {
        let due_ns = start_ns.saturating_add(nanoseconds(schedule.due(number)));
        let now_ns = loop {
            let now_ns = clock.now_ns();
            if now_ns >= due_ns || running.is_stopped() {
                break now_ns;
            }
            std::thread::sleep(Duration::from_nanos(due_ns - now_ns).min(NAP));
        };
        if running.is_stopped() || now_ns >= end_ns {
            break;
        }
        let Some(route) = publisher.route() else { break };
        if !handle.block_on(publisher.publish_unless(stopped.as_mut(), route, due_ns)) {
            return false;
        }
    }
    true
}

/// The kernel may let a thread sleep 50 us longer than it asked, to wake up several at once.
fn sleep_exactly() {
    #[cfg(target_os = "linux")]
    {
        let least = std::num::NonZeroU64::MIN;
        // Where that is not to be had, send delays say so.
        rustix::thread::set_current_timer_slack(Some(least)).unwrap_or_default();
    }
}

/// Waits for receipts, in whichever order they come.
pub(super) async fn wait_for_receipts(
    (running, clock): (Arc<Running>, Clock),
    publisher: usize,
    mut asked: mpsc::Receiver<Asked>,
) {
    let answered = |due_ns: u64, answer: Result<Receipt, Error>| match answer {
        Ok(_) => running.handle_receipt(publisher, due_ns, clock.now_ns()),
        Err(error @ Error::Refused(_)) => running.handle_refused(publisher, cause(&error)),
        Err(error) => running.handle_failed(publisher, cause(&error)),
    };
    let mut waiting = FuturesUnordered::new();
    let mut is_open = true;
    while is_open || !waiting.is_empty() {
        // Both are cancel safe. The client itself bounds how many receipts it waits for.
        tokio::select! {
            Some((due_ns, answer)) = waiting.next(), if !waiting.is_empty() => answered(due_ns, answer),
            next = asked.recv(), if is_open => match next {
                Some(Asked { due_ns, receipt }) => waiting.push(async move { (due_ns, receipt.await) }),
                None => is_open = false,
            },
        }
    }
}

/// Counts what is refused without anybody waiting for it.
pub(super) async fn count_refusals(running: Arc<Running>, publisher: usize, mut events: Events) {
    if running.plan.has_receipts() {
        return;
    }
    while let Some(event) = events.recv().await {
        match event {
            Event::Refused { refusal, .. } => {
                running.handle_refused(publisher, cause(&Error::Refused(refusal)));
            }
            Event::Missed(count) => {
                (0..count).for_each(|_| {
                    running.handle_refused(publisher, "refused too fast to be told".to_owned())
                });
            }
            _ => {}
        }
    }
}

pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
