//! What a routing decision costs: nanoseconds per message through a worker's hooks, against the same decision
//! by a native trait object, and what a trap costs the message that meets it.
//!
//! `cargo xtask plugins && cargo run --release -p waspmq-policy --example call_cost`; figures are medians.
#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a measuring tool prints what it timed")]

use serde_json::json;
use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use waspmq_core::address::{Address, Kind, Name};
use waspmq_core::policy::{Message, Outcome, Policies, QueueMembers, Route, Routing, Verdict};
use waspmq_policy::{Host, HostOptions, Nobody, PolicyDocument};

const CALLS: u32 = 1_000;
const SAMPLES: usize = 401;

/// Decides what the plugins decide, without a sandbox.
struct Native(fn(&Message<'_>) -> Verdict);

impl Routing for Native {
    fn route(&mut self, message: &Message<'_>) -> Outcome {
        Outcome::Decided((self.0)(message))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mirror = |message: &Message<'_>| Verdict {
        route: Address::parse(message.to)
            .and_then(|to| Ok(Route::FanOut(vec![to, Address::parse("topic/audit")?])))
            .unwrap_or_default(),
        ..Verdict::default()
    };
    let stamp = |_: &Message<'_>| Verdict {
        set_headers: vec![("stamp".to_owned(), "x".to_owned()), ("stamp-build".to_owned(), "1".to_owned())],
        ..Verdict::default()
    };
    println!("{:<44} {:>9} {:>10} {:>7}", "decision", "native ns", "plugin ns", "ratio");
    let no_config = json!({});
    compare("no policy in place", None, no_config.clone(), |_| Verdict::default())?;
    compare(
        "route-mirror, own target: continue",
        Some("route-mirror"),
        json!({ "to": "topic/orders.eu.created" }),
        |_| Verdict::default(),
    )?;
    let hash =
        |_: &Message<'_>| Verdict { route: Route::Pick { version: 1, index: 3 }, ..Verdict::default() };
    compare(
        "route-consistent-hash, 10 members: pick",
        Some("route-consistent-hash"),
        json!({ "queue": "w" }),
        hash,
    )?;
    compare("route-mirror: fan out to 2", Some("route-mirror"), json!({ "to": "topic/audit" }), mirror)?;
    compare("stamp: continue with 2 headers", Some("stamp-a"), json!({ "stamp": "x" }), stamp)?;
    panics()
}

fn compare(
    what: &str,
    plugin: Option<&str>,
    config: serde_json::Value,
    native: fn(&Message<'_>) -> Verdict,
) -> Result<(), Box<dyn Error>> {
    let host = Host::start(HostOptions { workers: 1, policies_max: 1 }, Arc::new(Nobody))?;
    if let Some(plugin) = plugin {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/plugins");
        host.upload("p", &std::fs::read(format!("{file}/{plugin}.wasm"))?, "bench")?;
        host.queue_changed(QueueMembers {
            pattern: "topic/orders.>".to_owned(),
            queue: Name::parse("w")?,
            version: 1,
            members: (0..10).map(|i| format!("user{i}/box/{i}")).collect(),
        });
        put(&host, config)?;
    }
    let (mut hosted, mut plain) = (host.worker(0), Box::new(Native(native)) as Box<dyn Routing>);
    let mut ask_hosted = |message: &Message<'_>| {
        if hosted.bound(message.to).routing {
            black_box(hosted.route(message));
        }
    };
    let mut ask_plain = |message: &Message<'_>| {
        black_box(plain.route(message));
    };
    // Interleaved, so that both meet the same state of the machine.
    let (mut native_ns, mut plugin_ns) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        native_ns.push(sample(&mut ask_plain));
        plugin_ns.push(sample(&mut ask_hosted));
    }
    let (native_ns, plugin_ns) = (median(native_ns), median(plugin_ns));
    println!("{what:<44} {native_ns:>9.1} {plugin_ns:>10.1} {:>7.1}", plugin_ns / native_ns);
    Ok(())
}

fn put(host: &Host, config: serde_json::Value) -> Result<(), Box<dyn Error>> {
    let document = json!({ "hook": "routing", "plugin": "p", "match": ["topic/>"], "config": config });
    host.put_policy("p", serde_json::from_value::<PolicyDocument>(document)?, "bench")?;
    Ok(())
}

fn sample(ask: &mut dyn FnMut(&Message<'_>)) -> f64 {
    let message = Message {
        from: "alice@example.org",
        session: None,
        to: "topic/orders.eu.created",
        kind: Kind::Topic,
        key: "customer-4711",
        payload: &[b'x'; 128],
        is_json: true,
        headers: &[],
        priority: 4,
        unix_ms: 1_700_000_000_000,
    };
    let started = Instant::now();
    for _ in 0..CALLS {
        ask(black_box(&message));
    }
    started.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(0.0)
}

/// One panic on each of many workers, until the message is served without the policy.
fn panics() -> Result<(), Box<dyn Error>> {
    const WORKERS: usize = 64;
    let host = Host::start(HostOptions { workers: WORKERS, policies_max: 1 }, Arc::new(Nobody))?;
    let plugins = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/plugins/stamp-a.wasm");
    host.upload("p", &std::fs::read(plugins)?, "bench")?;
    put(&host, json!({ "stamp": "x" }))?;
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
