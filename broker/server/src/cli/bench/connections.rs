//! `waspmq bench connections`: many clients, opened at a rate and held.

use super::clients::{Failed, Origin, Run, close_all};
use super::figures::{Figures, Reader, bytes_per_connection};
use super::latency::{Recorder, Summary};
use super::limits::{ALIVE_TIMEOUT, BEHIND_TOLD_PERCENT, CAUSES_MAX, CONNECTING_MAX, FIGURES_TIMEOUT};
use super::options::{Admin, Common};
use super::outcome::Ended;
use super::progress::Progress;
use super::publisher::nanoseconds;
use super::report::ended;
use super::schedule::{Schedule, Until, behind_percent};
use super::{Connections, files};
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::serve::Signals;
use crate::clock::Clock;
use anyhow::{Context, anyhow};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};
use waspmq_client::Client;

/// How often the bar moves and figures are read.
const TICK: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Outcome {
    ended: Ended,
    transport: &'static str,
    /// Until the last one was begun.
    opening: Duration,
    behind_percent: f64,
    begun: u64,
    opened: u64,
    failures: BTreeMap<String, u64>,
    /// Of those that were opened, the ones whose connection broke, whether it was made again or not.
    lost: u64,
    /// The ones that answered at the end.
    alive: u64,
    connect: Summary,
    /// Before, after, and for each.
    memory: Result<(Figures, Figures, u64), String>,
}

/// What opening is about.
#[derive(Debug, Clone)]
struct Opening {
    origin: Origin,
    clock: Clock,
    recorder: Arc<Recorder>,
    places: Arc<Semaphore>,
}

pub(super) fn run(arguments: &Connections) -> Result<(), Failure> {
    files::check(arguments.clients)?;
    let threads = arguments.common.threads();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let origin = Origin::new(&arguments.common, &Run::new()?, Clock::new().now().unix_ms / 1_000)?;
    let outcome = runtime.block_on(drive(arguments, origin));
    runtime.shutdown_background();
    let outcome = outcome?;
    if arguments.common.json {
        output::line(format_args!("{}", document(arguments, &outcome)))?;
    } else {
        output::lines(&text(arguments, &outcome))?;
    }
    let problems = problems(&outcome);
    if problems.is_empty() { Ok(()) } else { Err(anyhow!("{}", problems.join(", ")).into()) }
}

async fn drive(arguments: &Connections, origin: Origin) -> anyhow::Result<Outcome> {
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let begin = async {
        // Before anybody connects: the broker publishes its figures a while after they have changed.
        let before = read(&arguments.admin).await;
        // Where nobody can connect, one refusal says it.
        (before, origin.connect(arguments.clients).await)
    };
    let (before, first) = tokio::select! {
        biased;
        () = signals.next() => return Err(anyhow!("interrupted before anything was opened")),
        begun = begin => begun,
    };
    let (first, _) = first.map_err(|error| error.explained("the first client"))?;
    let transport = super::flow::name(first.transport());
    drop(first.close().await);
    let opening = Opening {
        origin,
        clock: Clock::new(),
        recorder: Arc::new(Recorder::new(arguments.common.threads())?),
        places: Arc::new(Semaphore::new(CONNECTING_MAX)),
    };
    let mut outcome = Outcome {
        ended: Ended::Done,
        transport,
        opening: Duration::ZERO,
        behind_percent: 0.0,
        begun: 0,
        opened: 0,
        failures: BTreeMap::new(),
        lost: 0,
        alive: 0,
        connect: opening.recorder.summary()?,
        memory: Err("not read".to_owned()),
    };
    let clients = open(arguments, &opening, (&mut outcome, &mut signals)).await;
    outcome.opened = clients.len() as u64;
    outcome.connect = opening.recorder.summary()?;
    outcome.memory = match before {
        Ok(before) => tokio::select! {
            biased;
            () = signals.next() => {
                outcome.ended = Ended::Interrupted;
                Err("a signal came first".to_owned())
            }
            memory = memory(&arguments.admin, before, outcome.opened) => memory,
        },
        Err(why) => Err(why),
    };
    if outcome.ended == Ended::Done {
        hold(arguments.hold, (&mut outcome, &mut signals)).await;
    }
    look(&clients, (&mut outcome, &mut signals)).await;
    tokio::select! {
        biased;
        () = signals.next() => {}
        () = close_all(clients) => {}
    }
    Ok(outcome)
}

/// Opens them at their times, until all are open or a signal comes.
async fn open(
    arguments: &Connections,
    opening: &Opening,
    (outcome, signals): (&mut Outcome, &mut Signals),
) -> Vec<Arc<Client>> {
    let schedule = Schedule::new(arguments.rate, Duration::ZERO, Until::Messages(arguments.clients as u64));
    let bar = Progress::new("connections", schedule.count());
    let start_ns = opening.clock.now_ns();
    let mut making = JoinSet::new();
    let mut clients = Vec::with_capacity(arguments.clients);
    let mut ticks = tokio::time::interval(TICK);
    while outcome.begun < schedule.count() || !making.is_empty() {
        let is_open = outcome.begun < schedule.count() && outcome.ended == Ended::Done;
        let due_ns = start_ns.saturating_add(nanoseconds(schedule.due(outcome.begun)));
        let wait = Duration::from_nanos(due_ns.saturating_sub(opening.clock.now_ns()));
        // Biased, so that a flood of connects hides no signal. All are cancel safe.
        tokio::select! {
            biased;
            () = signals.next(), if outcome.ended == Ended::Done => {
                outcome.ended = Ended::Interrupted;
                making.abort_all();
            }
            () = sleep(wait), if is_open => {
                let number = usize::try_from(outcome.begun).unwrap_or(usize::MAX);
                making.spawn(connect(opening.clone(), number, due_ns));
                outcome.begun += 1;
                outcome.opening = Duration::from_nanos(opening.clock.now_ns().saturating_sub(start_ns));
            }
            Some(made) = making.join_next() => match made {
                Ok(Ok(client)) => clients.push(client),
                Ok(Err(error)) => count(&mut outcome.failures, error.cause()),
                // What was begun when the signal came has neither failed nor succeeded.
                Err(_) => {}
            },
            _ = ticks.tick() => bar.set(clients.len() as u64, || {
                let failed: u64 = outcome.failures.values().sum();
                format!("{} open, {failed} failed", clients.len())
            }),
        }
        if outcome.ended == Ended::Interrupted && making.is_empty() {
            break;
        }
    }
    outcome.behind_percent = behind_percent(arguments.rate, outcome.begun, outcome.opening);
    clients
}

/// One client, measured from when it was due.
async fn connect(opening: Opening, number: usize, due_ns: u64) -> Result<Arc<Client>, Failed> {
    // The semaphore is never closed.
    let _place = opening.places.acquire().await;
    let (client, messages) = opening.origin.connect(number).await?;
    // What comes to this user is for other programs.
    drop(messages);
    opening.recorder.record(number, opening.clock.now_ns().saturating_sub(due_ns));
    Ok(Arc::new(client))
}

fn count(causes: &mut BTreeMap<String, u64>, cause: String) {
    let has_room = causes.len() < CAUSES_MAX || causes.contains_key(&cause);
    *causes.entry(if has_room { cause } else { "others".to_owned() }).or_default() += 1;
}

async fn hold(time: Duration, (outcome, signals): (&mut Outcome, &mut Signals)) {
    let bar = Progress::new("holding", u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let mut ticks = tokio::time::interval(TICK);
    let started = tokio::time::Instant::now();
    let end = sleep(time);
    tokio::pin!(end);
    loop {
        tokio::select! {
            biased;
            () = signals.next() => {
                outcome.ended = Ended::Interrupted;
                return;
            }
            () = &mut end => return,
            _ = ticks.tick() => {
                let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                bar.set(ms, || format!("{} connections", outcome.opened));
            }
        }
    }
}

/// How many answer, and how many lost their connection: a client makes it again by itself. A signal ends the asking.
async fn look(clients: &[Arc<Client>], (outcome, signals): (&mut Outcome, &mut Signals)) {
    let mut asking = JoinSet::new();
    for client in clients {
        let client = client.clone();
        asking.spawn(async move {
            let is_alive = matches!(timeout(ALIVE_TIMEOUT, client.ping()).await, Ok(Ok(_)));
            (is_alive, is_alive && client.stats().reconnects == 0)
        });
    }
    let mut unbroken = 0;
    loop {
        let asked = tokio::select! {
            biased;
            () = signals.next() => {
                outcome.ended = Ended::Interrupted;
                break;
            }
            asked = asking.join_next() => asked,
        };
        // One that panicked has found no sign of life.
        let Some(asked) = asked else { break };
        let (is_alive, is_unbroken) = asked.unwrap_or_default();
        outcome.alive += u64::from(is_alive);
        unbroken += u64::from(is_unbroken);
    }
    outcome.lost = outcome.opened - unbroken;
    // They have clients that are to be closed.
    asking.shutdown().await;
}

async fn read(admin: &Admin) -> Result<Figures, String> {
    let reader = Reader::new(admin);
    // A task that panicked has no figures.
    spawn_blocking(move || reader.read()).await.unwrap_or_else(|error| Err(error.to_string()))
}

/// The broker publishes its figures now and then: they are read until they have seen all.
async fn memory(admin: &Admin, before: Figures, opened: u64) -> Result<(Figures, Figures, u64), String> {
    let started = tokio::time::Instant::now();
    loop {
        sleep(2 * TICK).await;
        let after = read(admin).await?;
        match bytes_per_connection(before, after, opened) {
            Ok(each) => return Ok((before, after, each)),
            Err(why) if started.elapsed() >= FIGURES_TIMEOUT => return Err(why),
            Err(_) => {}
        }
    }
}

fn problems(outcome: &Outcome) -> Vec<String> {
    let failed: u64 = outcome.failures.values().sum();
    let some = [(failed, "connects failed"), (outcome.lost, "connections were lost")];
    let mut problems: Vec<_> =
        some.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if outcome.opened == 0 && failed == 0 {
        problems.push("nothing was opened".to_owned());
    }
    problems
}

fn document(arguments: &Connections, outcome: &Outcome) -> Value {
    let Common { url, .. } = &arguments.common;
    let memory = outcome.memory.as_ref().ok().map(|(before, after, each)| {
        json!({
            "before_bytes": before.memory_bytes,
            "after_bytes": after.memory_bytes,
            "sessions_before": before.sessions,
            "sessions_after": after.sessions,
            "per_connection_bytes": each,
        })
    });
    json!({
        "scenario": "connections",
        "version": env!("CARGO_PKG_VERSION"),
        "url": url,
        "transport": outcome.transport,
        "threads": arguments.common.threads(),
        "asked": {
            "clients": arguments.clients,
            "rate": arguments.rate,
            "hold_s": arguments.hold.as_secs_f64(),
        },
        "ended": ended(outcome.ended),
        "begun": outcome.begun,
        "opened": outcome.opened,
        "failed": outcome.failures.values().sum::<u64>(),
        "failures": outcome.failures,
        "lost": outcome.lost,
        "alive": outcome.alive,
        "opening_s": outcome.opening.as_secs_f64(),
        "behind_percent": outcome.behind_percent,
        "connect": outcome.connect.json(),
        "memory": memory,
        "no_memory": outcome.memory.as_ref().err(),
        "problems": problems(outcome),
    })
}

fn text(arguments: &Connections, outcome: &Outcome) -> String {
    let row = |name: &str, text: &str| format!("{name:10}  {text}");
    let failed: u64 = outcome.failures.values().sum();
    let threads = arguments.common.threads();
    let mut lines = vec![
        format!("connections: {} clients, {}/s", arguments.clients, arguments.rate),
        row(
            "on",
            &format!(
                "{} ({}), {threads} threads",
                output::printable(&arguments.common.url),
                outcome.transport
            ),
        ),
        row(
            "opened",
            &format!(
                "{} of {} in {:.1} s, {failed} failed",
                outcome.opened,
                outcome.begun,
                outcome.opening.as_secs_f64()
            ),
        ),
        row("connect", &outcome.connect.text()),
        row("held", &format!("{} answered at the end, {} were lost", outcome.alive, outcome.lost)),
    ];
    lines.push(match &outcome.memory {
        Ok((_, after, each)) => {
            let kib = *each as f64 / 1024.0;
            let mib = after.memory_bytes as f64 / 1024.0 / 1024.0;
            row("memory", &format!("{kib:.1} KiB of the broker's for each connection, {mib:.1} MiB in all"))
        }
        Err(why) => row("memory", &format!("not known: {}", output::printable(why))),
    });
    if outcome.ended == Ended::Interrupted {
        lines.push(row("note", "ended early by a signal"));
    }
    if outcome.behind_percent >= BEHIND_TOLD_PERCENT {
        lines.push(row("note", &format!("the generator fell behind by {:.1} %", outcome.behind_percent)));
    }
    for (cause, count) in &outcome.failures {
        lines.push(row("cause", &format!("{count} x {}", output::printable(cause))));
    }
    lines.join("\n") + "\n"
}
