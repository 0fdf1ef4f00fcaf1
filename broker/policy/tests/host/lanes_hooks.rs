//! Both lanes ask alike about acks, admission, overflows and compression, and do alike what a guest asks of the host.

use crate::guests::built;
use crate::lanes::{Numbers, lanes, lanes_of};
use crate::{message, route};
use serde_json::json;
use std::collections::BTreeSet;
use std::fmt::Debug;
use waspmq_core::address::{Address, Kind, Name, Pattern};
use waspmq_core::compression::{Audience, Codecs};
use waspmq_core::delivery::{AckPlan, Backoff, Cause, Exhausted, Quorum, Recipient};
use waspmq_core::level::Level;
use waspmq_core::policy::{
    Acking, Admission, Compressing, Failure, Message, Overflowed, Overflowing, Policies,
};
use waspmq_core::settings::{Keep, Overflow, Settings};
use waspmq_core::{MessageId, QueueId};
use waspmq_policy::WorkerPolicies;

/// Questions for each hook.
const QUESTIONS: u32 = 5_000;

/// Asks the policies of both lanes the same questions; answers how many different answers there were.
fn agree<T: Debug + PartialEq>(
    hook: &str,
    mut ask: impl FnMut(&mut Numbers, &mut [WorkerPolicies; 2]) -> [T; 2],
) -> usize {
    let hosts = lanes_of(hook, &built("guest-echo"), &json!({ "how": "echo" }));
    let mut policies = hosts.each_ref().map(|host| host.worker(0));
    let mut numbers = Numbers(4_711);
    let mut different = BTreeSet::new();
    for question in 0..QUESTIONS {
        let [core, component] = ask(&mut numbers, &mut policies);
        assert_eq!(core, component, "question {question}");
        different.insert(format!("{core:?}"));
    }
    let [core, component] = hosts.each_ref().map(|host| host.policy("p").unwrap());
    assert_eq!((core.outcomes, &core.counters), (component.outcomes, &component.counters));
    assert_eq!((core.calls, core.instances.replaced), (u64::from(QUESTIONS), 0));
    assert_eq!(core.counters.values().filter(|&&sum| sum == 0).count(), 0, "{:?}", core.counters);
    different.len()
}

/// Hands `ask` one message for both lanes.
fn about<T>(numbers: &mut Numbers, ask: impl FnOnce(&mut Numbers, &Message<'_>) -> T) -> T {
    let (kind, to) = numbers.address();
    let (from, key, payload) = (numbers.text(), numbers.text(), vec![b'p'; numbers.below(300)]);
    let message = Message {
        from: &from,
        session: None,
        to: &to,
        kind,
        key: &key,
        payload: &payload,
        priority: u8::try_from(numbers.below(256)).unwrap(),
        unix_ms: numbers.next(),
        ..message("all", &[])
    };
    ask(numbers, &message)
}

fn settings(numbers: &mut Numbers) -> Settings {
    let max_ms = u32::try_from(numbers.below(86_400_000)).unwrap();
    Settings {
        level: [Level::None, Level::Accepted, Level::Stored, Level::Delivered][numbers.below(4)],
        keep: Keep::Requested,
        ack: AckPlan {
            quorum: match numbers.below(3) {
                0 => Quorum::Any,
                1 => Quorum::All,
                _ => Quorum::Count(u32::try_from(numbers.next()).unwrap_or(u32::MAX).max(1)),
            },
            timeout_ms: 1 + u32::try_from(numbers.below(86_400_000)).unwrap(),
            attempts: 1 + u16::try_from(numbers.below(1_000)).unwrap(),
            backoff: Backoff {
                initial_ms: max_ms / 2,
                max_ms,
                jitter_percent: u8::try_from(numbers.below(101)).unwrap(),
            },
            exhausted: [Exhausted::DeadLetter, Exhausted::Drop][numbers.below(2)],
        },
        ..Settings::of_kind(Kind::Topic)
    }
}

#[test]
fn plans() {
    let different = agree("ack", |numbers, policies| {
        about(numbers, |numbers, message| {
            let settings = settings(numbers);
            policies.each_mut().map(|policies| {
                policies.bound(message.to);
                policies.plan(message, &settings)
            })
        })
    });
    assert!(different > 4_000, "{different}");
}

#[test]
fn failures() {
    let different = agree("ack", |numbers, policies| {
        let to = Address::parse(&numbers.address().1).unwrap();
        let from = Name::parse(&format!("größe{}", numbers.below(50))).unwrap();
        let plan = settings(numbers).ack;
        let recipient = match numbers.below(2) {
            0 => Recipient::User(from.clone()),
            _ => Recipient::Queue(QueueId::new(Pattern::parse("topic/>").unwrap(), from.clone())),
        };
        let failure = Failure {
            to: &to,
            from: (numbers.below(3) > 0).then_some(&from),
            id: MessageId::new(1, 1, 0, 1),
            messages: u16::try_from(numbers.below(65_536)).unwrap(),
            recipient: &recipient,
            cause: [Cause::Timeout, Cause::Nack, Cause::QueueFull, Cause::Offline, Cause::ConnectionLost]
                [numbers.below(5)],
            attempt: u16::try_from(numbers.below(65_536)).unwrap(),
            waited_ms: numbers.next(),
            retry_ms: (numbers.below(3) > 0).then(|| 1 + u32::try_from(numbers.below(86_400_000)).unwrap()),
            plan: &plan,
            random: numbers.next() << 20 | numbers.next(),
        };
        policies.each_mut().map(|policies| policies.failed(&failure))
    });
    assert!(different > 1_000, "{different}");
}

#[test]
fn admission() {
    let different = agree("admission", |numbers, policies| {
        about(numbers, |_, message| {
            policies.each_mut().map(|policies| {
                policies.bound(message.to);
                policies.admit(message)
            })
        })
    });
    assert!(different > 2_000, "{different}");
}

#[test]
fn overflows() {
    let different = agree("overflow", |numbers, policies| {
        let to = Address::parse(&numbers.address().1).unwrap();
        let recipient = numbers.text();
        let configured = [
            Overflow::DropOldest,
            Overflow::DropNewest,
            Overflow::Conflate,
            Overflow::Spill,
            Overflow::Close,
        ];
        let what = Overflowed {
            to: &to,
            recipient: &recipient,
            priority: u8::try_from(numbers.below(256)).unwrap(),
            size_bytes: numbers.below(1 << 30),
            queued_bytes: numbers.below(1 << 30),
            queued_bytes_max: numbers.below(1 << 30),
            configured: configured[numbers.below(5)],
        };
        policies.each_mut().map(|policies| {
            assert!(policies.has_overflow(to.as_str()));
            policies.overflow(&what)
        })
    });
    assert_eq!(different, 5);
}

/// Any of the audiences there are.
fn audience(numbers: &mut Numbers) -> Audience {
    let all = [Codecs::LZ4, Codecs::ZSTD, Codecs::DICTIONARY, Codecs::DEFLATE];
    let codecs = all.into_iter().filter(|_| numbers.below(2) == 0).fold(Codecs::NONE, Codecs::with);
    Audience { codecs, has_dictionary: numbers.below(2) == 0 }
}

#[test]
fn choices() {
    let different = agree("compression", |numbers, policies| {
        about(numbers, |numbers, message| {
            let (audience, id) = (audience(numbers), MessageId::new(1, 1, 0, numbers.next()));
            policies.each_mut().map(|policies| {
                assert!(policies.has_compression(message.to));
                policies.choose(message, id, audience).map(|chosen| chosen.codec)
            })
        })
    });
    // Those of each level, none, and a few dictionaries.
    assert!(different > 30, "{different}");
}

/// A few commands for the guest `decide`, now and then more than it has calls for.
fn commands(numbers: &mut Numbers) -> String {
    let count = if numbers.below(50) == 0 { 70 } else { 1 + numbers.below(6) };
    let mut one = || {
        let key = ["k", "größe", "", "n", "a-longer-key"][numbers.below(5)];
        let value = ["v", "", "漢字", "12345678", "another-value"][numbers.below(5)];
        match numbers.below(10) {
            0 | 1 => format!("get {key}"),
            2 => format!("set {key} {value} {}", ["0", "90000000"][numbers.below(2)]),
            3 => format!("delete {key}"),
            4 => format!("cas {key} {} {value} 0", ["-", "v", "漢字", ""][numbers.below(4)]),
            5 => format!("add {key} {} 0", [5, -7, i64::MAX, i64::MIN][numbers.below(4)]),
            6 => format!("take {key} {} 1 3000", [1_000, 1, 4_000][numbers.below(3)]),
            8 => format!("loads {}", numbers.below(5)),
            7 => format!("online {}", ["alice", "bob", ""][numbers.below(3)]),
            _ => format!(
                "group {}; observe h{} {}",
                ["eng", "x"][numbers.below(2)],
                numbers.below(10),
                numbers.below(9_999)
            ),
        }
    };
    (0..count).map(|_| one()).collect::<Vec<_>>().join("; ")
}

#[test]
fn what_is_asked_of_the_host_is_done_alike() {
    let hosts = lanes(&built("guest-decide"), &json!({}));
    let mut policies = hosts.each_ref().map(|host| host.worker(0));
    let mut numbers = Numbers(4_711);
    let mut different = BTreeSet::new();
    for _ in 0..QUESTIONS {
        let headers = [("do".to_owned(), commands(&mut numbers))];
        let message = message("topic/a", &headers);
        let [core, component] = policies.each_mut().map(|policies| route(policies, &message));
        assert_eq!(core, component, "{headers:?}");
        different.insert(format!("{core:?}"));
    }
    let [core, component] = hosts.each_ref().map(|host| host.policy("p").unwrap());
    assert_eq!((core.outcomes, core.kept), (component.outcomes, component.kept));
    assert_eq!((core.calls, core.instances.replaced), (u64::from(QUESTIONS), 0));
    let histograms = |histograms: &std::collections::BTreeMap<String, waspmq_policy::Distribution>| {
        format!("{histograms:?}")
    };
    assert_eq!(histograms(&core.histograms), histograms(&component.histograms));
    assert_eq!(core.histograms.len(), 8);
    assert!(core.kept.values > 0 && core.kept.refused > 0, "{:?}", core.kept);
    assert!(different.len() > 1_000, "{}", different.len());
    let loads = [host_loads(1), host_loads(2), host_loads(3)];
    assert!(loads.iter().all(|loads| different.iter().any(|outcome| outcome.contains(loads))), "{loads:?}");
}

/// What the members of the queue with this version have in flight, as the guest writes it.
fn host_loads(version: u32) -> String {
    (0..version * 5).map(|i| (i * 100_003).to_string()).collect::<Vec<_>>().join(",")
}

#[test]
fn time_and_chance_reach_a_guest_on_the_fast_lane() {
    let [core, _] = lanes(&built("guest-decide"), &json!({}));
    let headers = [("do".to_owned(), "now; random; random".to_owned())];
    let outcome = format!("{:?}", route(&mut core.worker(0), &message("topic/a", &headers)));
    let numbers: BTreeSet<&str> =
        outcome.split(|c: char| !c.is_ascii_digit()).filter(|number| number.len() > 11).collect();
    assert_eq!(numbers.len(), 3, "{outcome}");
}
