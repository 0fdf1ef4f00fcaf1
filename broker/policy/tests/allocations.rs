//! Rules allocate nothing while they look for the one that decides: counted by the allocator, on the thread that asks.
#![expect(clippy::unwrap_used, reason = "a surprise fails the test")]
#![expect(unsafe_code, reason = "an allocator that counts is one")]

use serde_json::{Value, json};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use waspmq_core::address::{Address, Kind};
use waspmq_core::compression::{Audience, Codec, Codecs};
use waspmq_core::level::Level;
use waspmq_core::policy::{
    Acking, Admission, Admittance, Compressing, Message, Outcome, Overflowed, Overflowing, Policies, Route,
    Routing, Work,
};
use waspmq_core::settings::{Overflow, Settings};
use waspmq_core::{MessageId, SessionId};
use waspmq_policy::{Host, HostOptions, Nobody, WorkerPolicies};

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, which counts what each thread asks for.
struct Counting;

// SAFETY: every call is handed on as it is; counting touches no memory that is allocated.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of this function, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; all that this allocator gives out is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Allocations of this thread in one of these calls; the first ones may make room that is kept.
fn allocations(mut ask: impl FnMut()) -> u64 {
    (0..3).for_each(|_| ask());
    let before = COUNT.with(Cell::get);
    ask();
    COUNT.with(Cell::get) - before
}

/// A worker whose policy has many rules that do not match in front of these.
fn worker(hook: &str, last: Value) -> (Arc<Host>, WorkerPolicies) {
    let mut rules: Vec<_> = (0..40).map(|n| miss(hook, n)).collect();
    rules.push(last);
    let host =
        Host::start(HostOptions { workers: 1, policies_max: 1, ..HostOptions::default() }, Arc::new(Nobody))
            .unwrap();
    let document = json!({ "hook": hook, "match": ["topic/>"], "rules": rules });
    host.put_policy("p", serde_json::from_value(document).unwrap(), "test").unwrap();
    let policies = host.worker(0);
    (host, policies)
}

fn miss(hook: &str, number: u64) -> Value {
    let when = match (hook, number % 4) {
        ("overflow", _) => json!({"address": "topic/orders.>", "recipient": "some*body"}),
        (_, 0) => json!({"address": "topic/orders.*.x"}),
        (_, 1) => json!({"sender": ["a*b*c", "bob"]}),
        (_, 2) => json!({"header": {"tenant": "other*", "absent": false}}),
        _ => json!({"key": "x*", "size_min": 1, "priority_min": 1}),
    };
    json!({"when": when, "then": "continue"})
}

#[test]
fn looking_for_a_rule_allocates_nothing() {
    let headers = [("tenant".to_owned(), "acme".to_owned())];
    let message = Message {
        from: "alice",
        session: Some(SessionId::new(1, 0, 1)),
        to: "topic/orders.eu",
        kind: Kind::Topic,
        key: "k",
        payload: b"{}",
        is_json: true,
        headers: &headers,
        priority: 4,
        unix_ms: 1_700_000_000_000,
    };
    let settings = Settings::of_kind(Kind::Topic);
    let (_host, mut routing) = worker("routing", json!({"then": {"to": "topic/other"}}));
    let routed = allocations(|| {
        routing.bound(message.to);
        let Outcome::Decided(verdict) = routing.route(&message) else { panic!() };
        assert!(matches!(verdict.route, Route::Redirect(_)));
    });
    let (_host, mut admission) =
        worker("admission", json!({"then": {"limit": {"per_second": 1_000, "by": "sender"}}}));
    let admitted = allocations(|| {
        admission.bound(message.to);
        assert_eq!(admission.admit(&message), Admittance::Admitted);
    });
    let (_host, mut acking) = worker("ack", json!({"then": {"level": "stored", "attempts": 2}}));
    let planned = allocations(|| {
        acking.bound(message.to);
        assert_eq!(acking.plan(&message, &settings).map(|of| of.level), Some(Level::Stored));
    });
    let (_host, mut overflowing) = worker("overflow", json!({"then": "conflate"}));
    let to = Address::parse(message.to).unwrap();
    let decided = allocations(|| {
        assert!(overflowing.has_overflow(message.to));
        let what = Overflowed {
            to: &to,
            recipient: "bob//1",
            priority: 1,
            size_bytes: 1,
            queued_bytes: 1,
            queued_bytes_max: 1,
            configured: Overflow::Close,
        };
        assert_eq!(overflowing.overflow(&what), Overflow::Conflate);
    });
    let (_host, mut compressing) =
        worker("compression", json!({"then": {"codec": {"dictionary": "orders"}}}));
    let audience = Audience { codecs: Codecs::DICTIONARY, has_dictionary: true };
    let chosen = allocations(|| {
        assert!(compressing.has_compression(message.to));
        let Some(chosen) = compressing.choose(&message, MessageId::new(1, 1, 0, 1), audience) else {
            panic!()
        };
        let Codec::Dictionary { name: Some(_) } = &chosen.codec else { panic!() };
        let work = Work { codec: &chosen.codec, plain_bytes: 2, packed_bytes: 1, spent_ns: 1 };
        compressing.compressed(chosen.policy, &work);
    });
    assert_eq!([routed, admitted, planned, decided, chosen], [0; 5]);
    let counted = allocations(|| drop(std::hint::black_box(vec![1_u8])));
    assert_eq!(counted, 1, "what allocates is counted");
}
