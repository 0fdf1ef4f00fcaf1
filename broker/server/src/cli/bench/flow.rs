//! A run with messages, from the first connect to the last goodbye.
//!
//! | state | event | next |
//! | --- | --- | --- |
//! | connecting | all are connected, subscribed and may publish | sending |
//! | connecting | one is refused, a signal | failed |
//! | sending | all is sent, a client has ended, a signal | draining |
//! | draining | nothing is outstanding, nothing came for a while, another signal | done |

use super::clients::{self, Origin, Run, explained, make_all};
use super::files;
use super::limits::QUIET;
use super::options::{Common, Pace};
use super::outcome::{Ended, Outcome};
use super::plan::Plan;
use super::progress::Progress;
use super::publisher::{self, Publisher, count_refusals, keep_rate, nanoseconds, wait_for_receipts};
use super::receiver::{Receiver, count_overflows};
use super::run::Running;
use super::schedule::Until;
use super::stamp::{PROBE, Stamp};
use crate::cli::failure::Failure;
use crate::cli::serve::Signals;
use crate::clock::Clock;
use anyhow::{Context, anyhow};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::sleep;
use waspmq_client::{Client, Messages, PublishOptions};

/// How often the bar moves, and how often it is looked whether all has come.
const TICK: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(5);

/// How long a publisher may take to see that its time is over.
const GRACE: Duration = Duration::from_secs(1);

/// The name of the queue in its scenario.
const QUEUE: &str = "bench";

/// The clients of a run; a publisher's number is that of its topic.
struct Crew {
    publishers: Vec<Arc<Client>>,
    /// By topic.
    receivers: Vec<(Arc<Client>, Messages)>,
}

pub(super) fn run(plan: &Plan, common: &Common) -> Result<(), Failure> {
    plan.check(common.profile())?;
    files::check(plan.clients())?;
    let threads = common.threads();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let run = Run::new()?;
    let origin = Origin::new(common, &run, Clock::new().now().unix_ms / 1_000)?;
    let outcome = runtime.block_on(drive(plan, common, (run, origin)));
    // Connections that do not end are not waited for.
    runtime.shutdown_background();
    Ok(super::report::show(&outcome?, common.json)?)
}

async fn drive(plan: &Plan, common: &Common, (run, origin): (Run, Origin)) -> anyhow::Result<Outcome> {
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let running = Arc::new(Running::new(plan.clone(), common.profile(), run, common.threads())?);
    let clock = Clock::new();
    // Biased, here and below: a signal ends the run whatever its clients do. What is dropped with the other branch is not needed then.
    let crew = tokio::select! {
        biased;
        () = signals.next() => return Err(anyhow!("interrupted before anything was sent")),
        crew = gather(&running, &origin) => crew?,
    };
    let transport = crew.publishers.first().map_or("none", |client| name(client.transport()));
    let (publishers, mut everybody) = (crew.publishers, Vec::new());
    everybody.extend(publishers.iter().cloned());
    everybody.extend(crew.receivers.iter().map(|(client, _)| client.clone()));
    let mut listening = JoinSet::new();
    for (index, (client, messages)) in crew.receivers.into_iter().enumerate() {
        let place = (index / plan.receivers, index % plan.receivers);
        listening.spawn(count_overflows(running.clone(), place.0, client.events()));
        let receiver = Receiver { running: running.clone(), clock, place, client, messages };
        listening.spawn(receiver.run());
    }
    for (number, client) in publishers.iter().enumerate() {
        listening.spawn(count_refusals(running.clone(), number, client.events()));
    }

    let start_ns = clock.now_ns();
    running.begin(start_ns.saturating_add(nanoseconds(plan.warmup)));
    let ended = send(&running, clock, start_ns, (publishers, &mut listening, &mut signals)).await?;
    running.end(clock.now_ns());
    running.stop();
    drain(&running, &mut signals).await;
    let ended = if ended == Ended::Done && running.has_lost_receiver() { Ended::Failed } else { ended };
    listening.shutdown().await;
    let stats: Vec<_> = everybody.iter().map(|client| client.stats()).collect();
    tokio::select! {
        biased;
        () = signals.next() => {}
        () = clients::close_all(everybody) => {}
    }
    Outcome::new(&running, (transport, common), ended, &stats)
}

pub(super) const fn name(transport: waspmq_client::Transport) -> &'static str {
    match transport {
        waspmq_client::Transport::Auto => "auto",
        waspmq_client::Transport::WebSocket => "websocket",
        waspmq_client::Transport::Quic => "quic",
        waspmq_client::Transport::WebTransport => "webtransport",
    }
}

/// Connects and subscribes everybody, and sees that each publisher may publish.
async fn gather(running: &Arc<Running>, origin: &Origin) -> anyhow::Result<Crew> {
    let plan = &running.plan;
    let bar = Progress::new("connecting", plan.clients() as u64);
    let shown = |count: usize| bar.set(count as u64, || format!("{count} of {} clients", plan.clients()));
    let make_receiver = |index: usize| subscribe_first(running.clone(), origin.clone(), index);
    let make_publisher = |number: usize| publish_first(running.clone(), origin.clone(), number);
    let receivers = make_all(plan.publishers * plan.receivers, make_receiver, shown).await?;
    let publishers =
        make_all(plan.publishers, make_publisher, |count| shown(receivers.len() + count)).await?;
    Ok(Crew { publishers, receivers })
}

async fn publish_first(running: Arc<Running>, origin: Origin, number: usize) -> anyhow::Result<Arc<Client>> {
    let connected = origin.connect(number).await;
    let (client, messages) = connected.map_err(|error| error.explained(&format!("client {number}")))?;
    // What comes to this user is for other programs.
    drop(messages);
    let address = running.run.address(number);
    let publisher = u32::try_from(number).unwrap_or(u32::MAX);
    let stamp = Stamp { run: running.run.tag, publisher, number: PROBE, due_ns: 0 };
    let payload = stamp.payload(running.profile, running.plan.size);
    let published = async { client.publish(&address, payload, PublishOptions::default()).await?.await };
    published.await.map_err(|error| explained(error, &format!("cannot publish to {address}")))?;
    Ok(Arc::new(client))
}

async fn subscribe_first(
    running: Arc<Running>,
    origin: Origin,
    index: usize,
) -> anyhow::Result<(Arc<Client>, Messages)> {
    let plan = &running.plan;
    let number = plan.publishers + index;
    let connected = origin.connect(number).await;
    let (client, messages) = connected.map_err(|error| error.explained(&format!("client {number}")))?;
    let address = running.run.address(index / plan.receivers);
    let queue = plan.is_queue.then_some(QUEUE);
    let subscribed = client.subscribe(&address, queue).await;
    subscribed.map_err(|error| explained(error, &format!("cannot subscribe to {address}")))?;
    Ok((Arc::new(client), messages))
}

/// Sends everything, or until a signal or the end of a client.
async fn send(
    running: &Arc<Running>,
    clock: Clock,
    start_ns: u64,
    (clients, listening, signals): (Vec<Arc<Client>>, &mut JoinSet<()>, &mut Signals),
) -> anyhow::Result<Ended> {
    let plan = &running.plan;
    let mut publishers = Vec::with_capacity(clients.len());
    for (number, client) in clients.into_iter().enumerate() {
        let (sender, asked) = publisher::receipts();
        listening.spawn(wait_for_receipts((running.clone(), clock), number, asked));
        let receipts = plan.has_receipts().then_some(sender);
        publishers.push(Publisher { running: running.clone(), clock, number, client, receipts });
    }
    let mut sending = JoinSet::new();
    if let Some(schedule) = plan.schedule() {
        let (done, is_done) = oneshot::channel();
        let handle = Handle::current();
        let keep = move || {
            let sent = keep_rate(&publishers, schedule, start_ns, &handle);
            // Whoever is told may close their clients.
            drop(publishers);
            done.send(sent).unwrap_or_default();
        };
        std::thread::Builder::new().name("bench-rate".to_owned()).spawn(keep)?;
        sending.spawn(async move { is_done.await.unwrap_or_default() });
    } else {
        for publisher in publishers {
            sending.spawn(publisher.fill_window());
        }
    }
    let bar = Progress::new(plan.scenario, length(plan));
    let mut ticks = tokio::time::interval(TICK);
    let mut ended = Ended::Done;
    let mut idle = pin!(idle(running));
    let mut over = pin!(sleep(longest(plan)));
    // Each is cancel safe, or kept.
    loop {
        tokio::select! {
            biased;
            () = signals.next(), if !running.is_stopped() => {
                ended = Ended::Interrupted;
                running.stop();
            }
            () = &mut over, if !running.is_stopped() => running.stop(),
            () = &mut idle, if !running.is_stopped() => {
                ended = Ended::Failed;
                running.count_cause("nothing could be sent, and nothing came".to_owned());
                running.stop();
            }
            sent = sending.join_next() => match sent {
                None => return Ok(ended),
                Some(Ok(true)) => {}
                Some(Ok(false) | Err(_)) => {
                    if ended == Ended::Done {
                        ended = Ended::Failed;
                    }
                    running.stop();
                }
            },
            _ = ticks.tick() => show(&bar, running, clock.now_ns().saturating_sub(start_ns)),
        }
    }
}

/// How long sending may take: who cannot send any more does not see that its time is over.
fn longest(plan: &Plan) -> Duration {
    match plan.until {
        Until::Time(time) => plan.warmup + time + GRACE,
        Until::Messages(_) => Duration::MAX,
    }
}

/// Ends when nothing was sent and nothing came for longer than that may be.
async fn idle(running: &Running) {
    let interval = match running.plan.pace {
        Pace::Rate(rate) => Duration::try_from_secs_f64(2.0 / rate).unwrap_or(QUIET),
        Pace::Window(_) => Duration::ZERO,
    };
    let progress = || running.sent() + running.done();
    let (mut seen, mut quiet) = (progress(), Duration::ZERO);
    while quiet < QUIET + interval {
        sleep(TICK).await;
        let now = progress();
        quiet = if now == seen { quiet + TICK } else { Duration::ZERO };
        seen = now;
    }
}

/// What the bar counts to: milliseconds, or messages.
fn length(plan: &Plan) -> u64 {
    match plan.until {
        Until::Time(time) => u64::try_from((plan.warmup + time).as_millis()).unwrap_or(u64::MAX),
        Until::Messages(count) => count.saturating_mul(plan.publishers as u64),
    }
}

fn show(bar: &Progress, running: &Running, elapsed_ns: u64) {
    let position = match running.plan.until {
        Until::Time(_) => elapsed_ns / 1_000_000,
        Until::Messages(_) => running.sent(),
    };
    bar.set(position, || {
        let seconds = Duration::from_nanos(elapsed_ns).as_secs_f64().max(0.001);
        let (sent, delivered) = (running.sent(), running.delivered());
        format!("{sent} sent, {delivered} received, {:.0}/s", delivered as f64 / seconds)
    });
}

/// Waits for what is outstanding, as long as something comes.
async fn drain(running: &Running, signals: &mut Signals) {
    let looking = async {
        let (mut done, mut quiet) = (running.done(), Duration::ZERO);
        while !running.is_complete() && quiet < QUIET {
            sleep(LOOK).await;
            let now = running.done();
            quiet = if now == done { quiet + LOOK } else { Duration::ZERO };
            done = now;
        }
    };
    tokio::select! {
        biased;
        () = signals.next() => {}
        () = looking => {}
    }
}
