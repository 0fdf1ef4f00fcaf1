//! What a routing decision costs: nanoseconds per message through a worker's hooks on each lane, against the same
//! decision by a native trait object and a bare call of a core function; and what a trap costs the message
//! that meets it.
//!
//! `cargo xtask plugins && cargo run --release -p waspmq-policy --example call_cost`; figures are medians of
//! samples taken in turns, so that all columns meet the same state of the machine.
#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a measuring tool prints what it timed")]

use serde_json::json;
use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime::{Config, Engine, Instance, Module, Store, TypedFunc};
use waspmq_core::MessageId;
use waspmq_core::address::{Address, Kind, Name};
use waspmq_core::policy::{Message, Outcome, Policies, QueueMembers, Route, Routing, Verdict};
use waspmq_policy::{Host, HostOptions, Nobody, PolicyDocument, WorkerPolicies};

const CALLS: u32 = 1_000;
const SAMPLES: usize = 401;

/// Decides what the plugins decide, without a sandbox.
struct Native(fn(&Message<'_>) -> Verdict);

impl Routing for Native {
    fn route(&mut self, message: &Message<'_>) -> Outcome {
        Outcome::Decided((self.0)(message))
    }
}

/// A core function that is called with the scalars of a message and nothing else.
struct Bare {
    store: Store<()>,
    function: TypedFunc<(u32, u32, u32, u64), u32>,
}

impl Bare {
    fn new() -> Result<Self, Box<dyn Error>> {
        let mut config = Config::new();
        config.epoch_interruption(true).concurrency_support(false);
        let engine = Engine::new(&config)?;
        let text = "(module (func (export \"f\") (param i32 i32 i32 i64) (result i32)
            (i32.xor (local.get 0) (i32.wrap_i64 (local.get 3)))))";
        let module = Module::new(&engine, wat::parse_str(text)?)?;
        let mut store = Store::new(&engine, ());
        store.set_epoch_deadline(1);
        let function = Instance::new(&mut store, &module, &[])?.get_typed_func(&mut store, "f")?;
        Ok(Self { store, function })
    }

    fn sample(&mut self) -> f64 {
        let started = Instant::now();
        for call in 0..CALLS {
            self.store.set_epoch_deadline(1);
            let called = self.function.call(&mut self.store, black_box((2, call, 4, 1_700_000_000_000)));
            black_box(called.unwrap_or_default());
        }
        per_call(started)
    }
}

/// A decision by a plugin, and the same one natively.
struct Decision {
    what: &'static str,
    plugin: &'static str,
    config: serde_json::Value,
    native: fn(&Message<'_>) -> Verdict,
}

fn decisions() -> Vec<Decision> {
    let decision = |what, plugin, config, native| Decision { what, plugin, config, native };
    vec![
        decision("no strings: continue", "guest-echo", json!({ "how": "pass" }), |_| Verdict::default()),
        decision(
            "strings: redirect",
            "guest-echo",
            json!({ "how": "redirect", "to": "topic/orders.us" }),
            |_| Verdict {
                route: Address::parse("topic/orders.us").map_or(Route::Continue, Route::Redirect),
                ..Verdict::default()
            },
        ),
        decision(
            "a header pulled: continue",
            "guest-echo",
            json!({ "how": "header", "to": "region" }),
            |message| match message.headers.iter().find(|(name, _)| name == "region") {
                Some((_, value)) if value == "drop" => {
                    Verdict { route: Route::Drop("asked to".to_owned()), ..Verdict::default() }
                }
                _ => Verdict::default(),
            },
        ),
        decision(
            "route-consistent-hash, 10 members: pick",
            "route-consistent-hash",
            json!({ "queue": "w" }),
            |_| Verdict { route: Route::Pick { version: 1, index: 3 }, ..Verdict::default() },
        ),
        decision("route-mirror: fan out to 2", "route-mirror", json!({ "to": "topic/audit" }), |message| {
            let route = Address::parse(message.to)
                .and_then(|to| Ok(Route::FanOut(vec![to, Address::parse("topic/audit")?])))
                .unwrap_or_default();
            Verdict { route, ..Verdict::default() }
        }),
        decision("stamp: continue with 2 headers", "stamp-a", json!({ "stamp": "x" }), |_| Verdict {
            set_headers: vec![
                ("stamp".to_owned(), "x".to_owned()),
                ("stamp-build".to_owned(), "1".to_owned()),
            ],
            ..Verdict::default()
        }),
    ]
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("ns per message; in parentheses, as a multiple of the bare call of a core function");
    println!("{:<41} {:>7} {:>7} {:>17} {:>17}", "decision", "bare", "native", "lane component", "lane core");
    decisions().iter().try_for_each(compare)?;
    panics()
}

fn compare(decision: &Decision) -> Result<(), Box<dyn Error>> {
    let hosts = [host(decision, "component")?, host(decision, "auto")?];
    let [mut component, mut core] = hosts.each_ref().map(|host| (host.worker(0), 0));
    let mut native = Native(decision.native);
    let mut bare = Bare::new()?;
    let mut columns = [const { Vec::new() }; 4];
    for _ in 0..SAMPLES {
        let mut ask_native = |message: &Message<'_>| {
            black_box(native.route(message));
        };
        let samples = [
            bare.sample(),
            sample(&mut ask_native),
            sample(&mut |message| ask(&mut component, message)),
            sample(&mut |message| ask(&mut core, message)),
        ];
        columns.iter_mut().zip(samples).for_each(|(column, sample)| column.push(sample));
    }
    let [bare, native, component, core] = columns.map(median);
    println!(
        "{:<41} {bare:>7.1} {native:>7.1} {component:>9.1} ({:>4.1}x) {core:>9.1} ({:>4.1}x)",
        decision.what,
        component / bare,
        core / bare
    );
    Ok(())
}

/// As a broker asks: which hooks are bound, then the one; and what was decided is remembered under the message's id.
fn ask((policies, count): &mut (WorkerPolicies, u64), message: &Message<'_>) {
    if policies.bound(message.to).routing {
        black_box(policies.route(message));
    }
    let trace = policies.trace();
    *count += 1;
    policies.name(trace, MessageId::new(message.unix_ms, 1, 0, *count));
}

/// A host with the policy of one decision on one lane.
fn host(decision: &Decision, lane: &str) -> Result<Arc<Host>, Box<dyn Error>> {
    let host =
        Host::start(HostOptions { workers: 1, policies_max: 1, ..HostOptions::default() }, Arc::new(Nobody))?;
    upload(&host, decision.plugin)?;
    host.queue_changed(QueueMembers {
        pattern: "topic/orders.>".to_owned(),
        queue: Name::parse("w")?,
        version: 1,
        members: (0..10).map(|i| format!("user{i}/box/{i}")).collect(),
    });
    put(&host, &decision.config, lane)?;
    Ok(host)
}

fn upload(host: &Host, plugin: &str) -> Result<(), Box<dyn Error>> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/plugins");
    let revision = host.upload("p", &std::fs::read(format!("{file}/{plugin}.wasm"))?, "bench")?;
    match revision.lane_reason {
        Some(reason) => Err(format!("{plugin} does not take the lane core: the component {reason}").into()),
        None => Ok(()),
    }
}

fn put(host: &Host, config: &serde_json::Value, lane: &str) -> Result<(), Box<dyn Error>> {
    // All of a worker: nothing else is done here than calling.
    let limits = json!({ "cpu_share": 1.0 });
    let document = json!({
        "hook": "routing", "plugin": "p", "match": ["topic/>"], "config": config, "lane": lane, "limits": limits
    });
    host.put_policy("p", serde_json::from_value::<PolicyDocument>(document)?, "bench")?;
    Ok(())
}

fn sample(ask: &mut dyn FnMut(&Message<'_>)) -> f64 {
    let headers = [("region".to_owned(), "eu-central".to_owned())];
    let message = Message {
        from: "alice@example.org",
        session: None,
        to: "topic/orders.eu.created",
        kind: Kind::Topic,
        key: "customer-4711",
        payload: &[b'x'; 128],
        is_json: true,
        headers: &headers,
        priority: 4,
        unix_ms: 1_700_000_000_000,
    };
    let started = Instant::now();
    for _ in 0..CALLS {
        ask(black_box(&message));
    }
    per_call(started)
}

fn per_call(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(0.0)
}

/// One panic on each of many workers, until the message is served without the policy.
fn panics() -> Result<(), Box<dyn Error>> {
    const WORKERS: usize = 64;
    let host = Host::start(
        HostOptions { workers: WORKERS, policies_max: 1, ..HostOptions::default() },
        Arc::new(Nobody),
    )?;
    upload(&host, "stamp-a")?;
    put(&host, &json!({ "stamp": "x" }), "auto")?;
    let mut traps = Vec::new();
    for worker in 0..WORKERS {
        let mut policies = host.worker(worker);
        let message = Message {
            from: "a",
            session: None,
            to: "topic/a",
            kind: Kind::Topic,
            key: "",
            payload: b"panic",
            is_json: false,
            headers: &[],
            priority: 0,
            unix_ms: 0,
        };
        policies.bound(message.to);
        let started = Instant::now();
        black_box(policies.route(&message));
        traps.push(started.elapsed());
    }
    traps.sort_unstable();
    let at = |share: usize| traps.get(share).copied().unwrap_or(Duration::ZERO);
    println!(
        "a panic, until its message is served without it: p50 {:?} max {:?}",
        at(WORKERS / 2),
        at(WORKERS - 1)
    );
    Ok(())
}
