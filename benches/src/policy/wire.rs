//! What traffic through a broker notices of policies: users in pairs, with policies and without in turn, a fresh broker
//! each time.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use super::rows::{Bar, Row};
use super::{Arguments, component};
use crate::admin::Admin;
use crate::load;
use crate::plan::{Pace, Plan, Shape};
use crate::report::Journal;
use crate::sample::Sample;
use crate::scrape;
use crate::server::{Server, Site};
use crate::wire::Wire;

/// Bars: microseconds added to the 99th percentile, the percentile beside compiling over that without, and what other
/// messages keep of their throughput.
const ADDED_P99_US: f64 = 2.0;
const COMPILE_P99: f64 = 2.0;
const OTHERS_KEPT: f64 = 0.8;

const COMPONENT_BYTES: usize = 1_500_000;

/// Turns of the loop in `guest-trial` that take about 0.9 ms; how long they took is in the results.
const SLOW_TURNS: u64 = 900_000;

/// Swaps of all four hooks' policies in a second.
const SWAPS_PER_S: u32 = 5;

const HOOKS: [&str; 4] = ["admission", "routing", "ack", "overflow"];

const WARM_UP: Duration = Duration::from_secs(1);
const WINDOW: u32 = 64;

/// A variant of one part: what is put before the load, and what happens beside it.
struct Variant<'a> {
    name: &'static str,
    put: &'a dyn Fn(&Admin) -> Result<()>,
    beside: &'a (dyn Fn(&Admin, Duration) -> Result<u32> + Sync),
    pace: Pace,
}

#[derive(Debug, Serialize)]
struct Taken {
    #[serde(flatten)]
    sample: Sample,
    /// Of whatever was done beside the load.
    actions: u32,
    /// Calls of policies that were answered, and questions that were not put because a breaker was open.
    answered: u64,
    breaker_open: u64,
}

/// Latency at a fixed rate, with a policy that passes everything on.
pub(super) fn added(arguments: &Arguments, journal: &mut Journal, is_clean: &mut bool) -> Result<Vec<Row>> {
    let plugin = read(&arguments.plugins, "guest-echo")?;
    let put = |admin: &Admin| {
        admin.upload("echo", &plugin)?;
        admin.put_policy("pass", &document("routing", "echo", "user/*", &json!({ "how": "pass" })))
    };
    let pace = Pace::Rate(arguments.rate);
    let variants = [
        Variant { name: "without", put: &nothing, beside: &idle, pace },
        Variant { name: "with a policy", put: &put, beside: &idle, pace },
    ];
    let [without, with] = in_turn("added", &variants, arguments, journal, is_clean)?;
    ensure!(
        with.iter().all(|taken| taken.breaker_open == 0 && taken.answered >= taken.sample.deliveries),
        "the policy was not asked about every message"
    );
    let p99 = |taken: &[Taken]| -> Vec<f64> { taken.iter().map(p99_us).collect() };
    let added = with.iter().zip(&without).map(|(with, without)| p99_us(with) - p99_us(without)).collect();
    Ok(vec![
        Row::new("p99 without a policy", "us", p99(&without), Bar::None),
        Row::new("p99 with a policy", "us", p99(&with), Bar::None),
        Row::new("p99 added by a policy", "us", added, Bar::DifferenceAtMost(ADDED_P99_US)),
        Row::new(
            "messages per second",
            "",
            with.iter().map(|t| t.sample.deliveries_per_s).collect(),
            Bar::None,
        ),
    ])
}

/// A component of 1.5 MB that is compiled meanwhile.
pub(super) fn compile(arguments: &Arguments, journal: &mut Journal, is_clean: &mut bool) -> Result<Vec<Row>> {
    let large = component::enlarged(&read(&arguments.plugins, "guest-echo")?, COMPONENT_BYTES);
    let upload = |admin: &Admin, _: Duration| {
        let started = Instant::now();
        admin.upload("large", &large)?;
        Ok(u32::try_from(started.elapsed().as_millis())?)
    };
    let pace = Pace::Rate(arguments.rate / 2.0);
    let variants = [
        Variant { name: "without", put: &nothing, beside: &idle, pace },
        Variant { name: "compiling", put: &nothing, beside: &upload, pace },
    ];
    let [without, with] = in_turn("compile", &variants, arguments, journal, is_clean)?;
    let ratios = with.iter().zip(&without).map(|(with, without)| p99_us(with) / p99_us(without)).collect();
    Ok(vec![
        Row::new("p99 without compiling", "us", without.iter().map(p99_us).collect(), Bar::None),
        Row::new("p99 beside compiling 1.5 MB, of that", "x", ratios, Bar::MedianAtMost(COMPILE_P99)),
        Row::new("time of the upload", "ms", with.iter().map(|t| f64::from(t.actions)).collect(), Bar::None),
    ])
}

/// A policy of 0.9 ms a call for one of the receivers, at full load.
pub(super) fn slow(arguments: &Arguments, journal: &mut Journal, is_clean: &mut bool) -> Result<Vec<Row>> {
    let plugin = read(&arguments.plugins, "guest-trial")?;
    let put = |admin: &Admin| {
        admin.upload("trial", &plugin)?;
        let config = json!({ "mark": "1", "turns": SLOW_TURNS });
        admin.put_policy("slow", &document("routing", "trial", "user/r0", &config))
    };
    let pace = Pace::Window(WINDOW);
    let variants = [
        Variant { name: "without", put: &nothing, beside: &idle, pace },
        Variant { name: "slow policy", put: &put, beside: &idle, pace },
    ];
    let [without, with] = in_turn("slow", &variants, arguments, journal, is_clean)?;
    ensure!(with.iter().all(|taken| taken.breaker_open > 0), "the breaker of the slow policy never opened");
    let rate = |taken: &Taken| taken.sample.deliveries_per_s;
    let kept = with.iter().zip(&without).map(|(with, without)| rate(with) / rate(without)).collect();
    Ok(vec![
        Row::new("messages per second without", "", without.iter().map(rate).collect(), Bar::None),
        Row::new("throughput beside a policy of 0.9 ms", "of 1", kept, Bar::AtLeast(OTHERS_KEPT)),
    ])
}

/// Policies of all hooks, put anew several times a second.
pub(super) fn swap(arguments: &Arguments, journal: &mut Journal, is_clean: &mut bool) -> Result<Vec<Row>> {
    let plugin = read(&arguments.plugins, "guest-decide")?;
    let put = |admin: &Admin| {
        admin.upload("decide", &plugin)?;
        HOOKS
            .iter()
            .try_for_each(|hook| admin.put_policy(hook, &document(hook, "decide", "user/*", &json!({}))))
    };
    let swaps = |admin: &Admin, time: Duration| {
        let (started, mut swaps) = (Instant::now(), 0);
        while started.elapsed() < time {
            for hook in HOOKS {
                admin.put_policy(hook, &document(hook, "decide", "user/*", &json!({})))?;
                swaps += 1;
            }
            thread::sleep(Duration::from_secs(1) / SWAPS_PER_S);
        }
        Ok(swaps)
    };
    let pace = Pace::Rate(arguments.rate / 2.0);
    let variants = [
        Variant { name: "settled", put: &put, beside: &idle, pace },
        Variant { name: "swapping", put: &put, beside: &swaps, pace },
    ];
    let [without, with] = in_turn("swap", &variants, arguments, journal, is_clean)?;
    let lost = |taken: &Taken| (taken.sample.faults.lost + taken.sample.faults.disconnected) as f64;
    let ratios = with.iter().zip(&without).map(|(with, without)| p99_us(with) / p99_us(without)).collect();
    Ok(vec![
        Row::new(
            "messages lost and connections closed by swaps",
            "",
            with.iter().map(lost).collect(),
            Bar::WorstAtMost(0.0),
        ),
        Row::new("swaps", "", with.iter().map(|taken| f64::from(taken.actions)).collect(), Bar::None),
        Row::new("p99 with swaps of all hooks, of that without", "x", ratios, Bar::None),
    ])
}

/// All variants in turn, as often as asked; every second time in the reverse order.
fn in_turn<const N: usize>(
    part: &'static str,
    variants: &[Variant<'_>; N],
    arguments: &Arguments,
    journal: &mut Journal,
    is_clean: &mut bool,
) -> Result<[Vec<Taken>; N]> {
    let mut all = [const { Vec::new() }; N];
    for repetition in 0..arguments.output.repetitions {
        let mut order: Vec<usize> = (0..N).collect();
        if repetition % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let variant = &variants[index];
            let taken = take(variant, arguments).with_context(|| format!("{part}, {}", variant.name))?;
            let parameters = json!({
                "part": part, "variant": variant.name, "repetition": repetition + 1, "pairs": arguments.pairs,
                "seconds": arguments.seconds, "pace": format!("{:?}", variant.pace),
            });
            journal.note("broker", &parameters, &taken)?;
            *is_clean &= taken.sample.is_clean();
            if !taken.sample.is_clean() {
                eprintln!("{part}, {}: not clean: {:?}", variant.name, taken.sample.faults);
            }
            all[index].push(taken);
        }
    }
    Ok(all)
}

fn take(variant: &Variant<'_>, arguments: &Arguments) -> Result<Taken> {
    let dir = std::env::temp_dir();
    let site = Site { broker: &arguments.broker, dir: &dir, data: None, configuration: "" };
    let server = Server::broker(&site)?;
    let admin = Admin::of(server.admin(), &server.data())?;
    (variant.put)(&admin)?;
    let measure = Duration::from_secs_f64(arguments.seconds);
    let plan = Plan {
        wire: Wire::Binary,
        port: server.port(),
        is_secure: false,
        pid: server.pid(),
        batch: false,
        shape: Shape::Direct { pairs: arguments.pairs },
        pace: variant.pace,
        payload_bytes: 128,
        latency: true,
        warm_up: WARM_UP,
        measure,
    };
    thread::scope(|scope| {
        let beside = scope.spawn(|| {
            thread::sleep(WARM_UP);
            (variant.beside)(&admin, measure)
        });
        let sample = load::run(&plan)?;
        let actions = beside.join().map_err(|_| anyhow!("a thread panicked"))??;
        let metrics = scrape::get(server.admin(), "/metrics")?;
        let calls = |outcome: &str| {
            scrape::counter_of(&metrics, "waspmq_policy_calls_total", &format!("outcome=\"{outcome}\""))
        };
        Ok(Taken { sample, actions, answered: calls("ok"), breaker_open: calls("breaker_open") })
    })
}

fn nothing(_: &Admin) -> Result<()> {
    Ok(())
}

fn idle(_: &Admin, _: Duration) -> Result<u32> {
    Ok(0)
}

fn document(hook: &str, plugin: &str, pattern: &str, config: &Value) -> Value {
    json!({ "hook": hook, "plugin": plugin, "match": [pattern], "config": config })
}

fn read(plugins: &Path, name: &str) -> Result<Vec<u8>> {
    let path = plugins.join(format!("{name}.wasm"));
    std::fs::read(&path)
        .with_context(|| format!("reading {} (cargo xtask plugins builds it)", path.display()))
}

fn p99_us(taken: &Taken) -> f64 {
    taken.sample.latency.map_or(f64::NAN, |latency| latency.p99_us)
}
