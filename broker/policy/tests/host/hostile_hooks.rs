//! The hooks beside routing with guests that misbehave: on both lanes each failure is counted under its name, the next
//! policy serves, the instance is replaced where it is broken, and a healthy policy of the same worker goes on.

use crate::deciding::Deciding;
use crate::hooks::fail;
use crate::{document, eventually, host, message, outcome};
use serde_json::json;
use std::sync::{Arc, OnceLock};
use waspmq_core::address::{Address, Kind};
use waspmq_core::compression::{Audience, Codec, Codecs};
use waspmq_core::delivery::Cause;
use waspmq_core::policy::{Acking, Admission, Admittance, Compressing, Overflowed, Overflowing, Policies};
use waspmq_core::settings::{Overflow, Settings};
use waspmq_core::{MessageId, SessionId};
use waspmq_policy::{Decided, Host, WorkerPolicies, limits};

/// The functions that are asked, with the hook of each.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Plan,
    Failed,
    Admit,
    Overflow,
    Choose,
}

const ALL: [Asked; 5] = [Asked::Plan, Asked::Failed, Asked::Admit, Asked::Overflow, Asked::Choose];

impl Asked {
    const fn hook(self) -> &'static str {
        match self {
            Self::Plan | Self::Failed => "ack",
            Self::Admit => "admission",
            Self::Overflow => "overflow",
            Self::Choose => "compression",
        }
    }

    /// What is answered by a guest whose function does `body` and leaves the matter to the next policy.
    fn doing(self, body: &str) -> Deciding {
        let passing = match self {
            Self::Overflow => "(i32.const 0)",
            Self::Plan | Self::Failed | Self::Admit | Self::Choose => "(i32.const 1024)",
        };
        self.answering(&format!("{body} {passing}"))
    }

    fn answering(self, body: &str) -> Deciding {
        let (mut guest, body) = (Deciding::default(), body.to_owned());
        match self {
            Self::Plan => guest.plan = body,
            Self::Failed => guest.failed = body,
            Self::Admit => guest.admit = body,
            Self::Overflow => guest.overflow = body,
            Self::Choose => guest.choose = body,
        }
        guest
    }

    /// A guest whose function answers with these numbers of so many bytes at these places.
    fn storing(self, fields: &[(u32, u8, u32)]) -> Deciding {
        let store = |&(at, bytes, value): &(u32, u8, u32)| {
            let store = ["i32.store8", "i32.store16", "i32.store"][usize::from(bytes / 2)];
            format!("({store} (i32.const {}) (i32.const {value}))", 2048 + at)
        };
        self.answering(&format!("{} (i32.const 2048)", fields.iter().map(store).collect::<String>()))
    }

    /// Puts the question; the answer as text.
    fn ask(self, policies: &mut WorkerPolicies) -> String {
        let to = Address::parse("topic/a").unwrap();
        let recipient = format!("bob/phone/{}", SessionId::new(1, 0, 1));
        policies.bound("topic/a");
        match self {
            Self::Plan => {
                format!("{:?}", policies.plan(&message("topic/a", &[]), &Settings::of_kind(Kind::Topic)))
            }
            Self::Failed => format!("{:?}", fail(Cause::Nack, |failure| policies.failed(failure))),
            Self::Admit => format!("{:?}", policies.admit(&message("topic/a", &[]))),
            Self::Overflow => {
                policies.has_overflow("topic/a");
                let what = Overflowed {
                    to: &to,
                    recipient: &recipient,
                    priority: 3,
                    size_bytes: 100,
                    queued_bytes: 1_000,
                    queued_bytes_max: 1_050,
                    configured: Overflow::DropNewest,
                };
                format!("{:?}", policies.overflow(&what))
            }
            Self::Choose => {
                let audience = Audience { codecs: Codecs::LZ4.with(Codecs::ZSTD), has_dictionary: false };
                policies.has_compression("topic/a");
                let chosen = policies.choose(&message("topic/a", &[]), DELIVERED, audience);
                format!("{:?}", chosen.map(|chosen| chosen.codec))
            }
        }
    }
}

/// A guest that decides, in a way that nothing else does.
fn healthy() -> Deciding {
    let plan = [(0, 1, 1), (4, 1, 3), (8, 1, 2), (16, 4, 77), (20, 2, 7), (24, 4, 5), (28, 4, 6)];
    Deciding {
        plan: Asked::Plan.storing(&plan).plan,
        failed: Asked::Failed.storing(&[(0, 1, 1), (4, 4, 4_242)]).failed,
        admit: Asked::Admit.storing(&[(0, 1, 2), (4, 4, 512), (8, 4, 5), (12, 4, 4_242)]).admit,
        overflow: "(i32.const 5)".to_owned(),
        choose: Asked::Choose.storing(&[(0, 1, 4), (4, 4, 512), (8, 4, 5)]).choose,
        ..Deciding::default()
    }
}

/// A host with the policies `bad` and, behind it, `good`, each of one function's hook.
fn beside(asked: Asked, bad: &Deciding, lane: &str, on_failure: &str) -> Arc<Host> {
    let host = host(1);
    let revision = host.upload("bad", &bad.build(), "test").unwrap();
    assert_eq!((revision.lane, revision.lane_reason), ("core", None));
    host.upload("good", &healthy().build(), "test").unwrap();
    for (order, name) in [(1, "bad"), (2, "good")] {
        let more = json!({
            "hook": asked.hook(), "order": order, "lane": lane, "on_failure": if order == 1 { on_failure } else { "open" },
            "limits": { "deadline_ms": 20, "cpu_share": 1.0 }
        });
        host.put_policy(name, document(name, &["topic/>"], more), "test").unwrap();
    }
    host
}

/// Whether a failure costs the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instance {
    Kept,
    Replaced,
}

use Instance::{Kept, Replaced};

/// What the healthy policy decides behind one that passes.
fn served(asked: Asked) -> &'static str {
    static SERVED: OnceLock<[String; 5]> = OnceLock::new();
    let served = SERVED.get_or_init(|| {
        ALL.map(|asked| {
            let served = asked.ask(&mut beside(asked, &Deciding::default(), "auto", "open").worker(0));
            assert_ne!(served, asked.ask(&mut host(1).worker(0)), "in a way that nothing else does");
            served
        })
    });
    &served[asked as usize]
}

/// The message that was decided last has the id with this count.
fn name(policies: &mut WorkerPolicies, count: u64) {
    let trace = policies.trace();
    policies.name(trace, MessageId::new(1, 1, 0, count));
}

/// What is told about a message afterwards; nothing about overflows, which are not of one message.
fn explained(asked: Asked, policies: &mut WorkerPolicies, calls: u64) -> Option<[Decided; 2]> {
    let count = match asked {
        Asked::Overflow => return None,
        // All attempts and deliveries are of the same message.
        Asked::Failed | Asked::Choose => 1,
        Asked::Plan | Asked::Admit => calls,
    };
    if matches!(asked, Asked::Plan | Asked::Admit) {
        name(policies, count);
    }
    let explanation = policies.explain(MessageId::new(1, 1, 0, count)).found.unwrap().explain();
    Some(explanation.decisions.last_chunk().unwrap().clone())
}

/// Asks three times on each lane: the instance, the spare, and the spare that was made instead of the first one.
#[track_caller]
fn check(asked: Asked, bad: &Deciding, (expected, instance): (&str, Instance)) {
    let served = served(asked);
    for lane in ["auto", "component"] {
        let host = beside(asked, bad, lane, "open");
        let mut policies = host.worker(0);
        let about = format!("{asked:?} {lane} {expected}");
        if matches!(asked, Asked::Failed | Asked::Choose) {
            policies.bound("topic/a");
            name(&mut policies, 1);
        }
        for calls in 1..=3 {
            assert_eq!(asked.ask(&mut policies), served, "{about}");
            let state = host.policy("bad").unwrap();
            assert_eq!(outcome(&host, "bad", expected), calls, "{about}: {:?}", state.outcomes);
            assert_eq!(outcome(&host, "good", "ok"), calls, "{about}");
            if let Some([bad, good]) = explained(asked, &mut policies, calls) {
                let failed = bad.failed.unwrap();
                assert_eq!(
                    (bad.policy.as_str(), failed.outcome, failed.instead),
                    ("bad", expected, Some("next"))
                );
                assert!(good.policy == "good" && good.decision.is_some() && good.failed.is_none(), "{about}");
            }
            if instance == Replaced && calls == 1 {
                eventually("the spare is replaced", || {
                    let now = host.policy("bad")?.instances;
                    (now.serving == 1 && now.spare == 1 && now.replaced == 1).then_some(())
                });
            }
        }
        let state = host.policy("bad").unwrap();
        assert_eq!((state.calls, state.instances.replaced > 0), (3, instance == Replaced), "{about}");
        assert_eq!(host.policy("good").unwrap().calls, 3, "{about}");
    }
}

/// The message that is delivered.
const DELIVERED: MessageId = MessageId::new(1, 1, 0, 1);

const GROW: &str = "(if (i32.eq (memory.grow (i32.const 256)) (i32.const -1)) (then unreachable))";

#[test]
fn guests_that_do_not_come_back() {
    for asked in ALL {
        check(asked, &asked.doing("(loop $l (br $l))"), ("deadline", Replaced));
        check(asked, &asked.doing("unreachable"), ("trap", Replaced));
        check(asked, &asked.doing("(drop (i32.load (i32.const 0x7ffffff0)))"), ("trap", Replaced));
        check(asked, &asked.doing(GROW), ("memory", Replaced));
        check(asked, &asked.doing("(drop (call $deep (i32.const 0)))"), ("trap", Replaced));
    }
}

#[test]
fn guests_that_are_busy_in_the_host() {
    let fill = "(loop $l (memory.fill (i32.const 8192) (i32.const 7) (i32.const 122880)) (br $l))";
    for asked in ALL {
        check(asked, &asked.doing("(loop $l (call $count) (br $l))"), ("deadline", Replaced));
        check(asked, &asked.doing(fill), ("deadline", Replaced));
    }
}

/// Calls beyond the bound do nothing, and the guest's answer counts.
#[test]
fn calls_of_the_host_are_bounded_for_every_hook() {
    let storm = "(loop $l (call $count)
        (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000))))";
    for asked in ALL {
        for lane in ["auto", "component"] {
            let host = beside(asked, &asked.doing(storm), lane, "open");
            let mut policies = host.worker(0);
            (0..3).for_each(|_| drop(asked.ask(&mut policies)));
            assert_eq!(outcome(&host, "bad", "ok"), 3, "{asked:?} {lane}");
            let counted = host.policy("bad").unwrap().counters["calls"];
            assert_eq!(counted, 3 * u64::from(limits::HOSTCALLS_MAX), "{asked:?} {lane}");
        }
    }
}

const DAY_MS: u32 = 24 * 3_600_000;

#[test]
fn answers_out_of_range() {
    let plan = |more: &[(u32, u8, u32)]| {
        let good = [(0, 1, 1), (4, 1, 3), (8, 1, 2), (16, 4, 77), (20, 2, 7), (24, 4, 5), (28, 4, 6)];
        Asked::Plan.storing(&[&good, more].concat())
    };
    for (field, at, bytes, value) in [
        ("quorum", 8, 1, 1),
        ("timeout", 16, 4, 0),
        ("timeout", 16, 4, DAY_MS + 1),
        ("attempts", 20, 2, 0),
        ("attempts", 20, 2, 1_001),
        ("initial", 24, 4, 7),
        ("max", 28, 4, DAY_MS + 1),
        ("jitter", 32, 1, 101),
    ] {
        println!("{field} {value}");
        check(Asked::Plan, &plan(&[(at, bytes, value)]), ("bad_verdict", Kept));
    }
    for (case, ms) in [(1, 0), (1, DAY_MS + 1), (2, 0), (2, u32::MAX)] {
        check(Asked::Failed, &Asked::Failed.storing(&[(0, 1, case), (4, 4, ms)]), ("bad_verdict", Kept));
    }
    for level in [-8_i8, 10, i8::MIN, i8::MAX] {
        let zstd = Asked::Choose.storing(&[(0, 1, 3), (4, 1, u32::from(level.cast_unsigned()))]);
        check(Asked::Choose, &zstd, ("bad_verdict", Kept));
    }
    for level in [0, 10, 255] {
        check(Asked::Choose, &Asked::Choose.storing(&[(0, 1, 5), (4, 1, level)]), ("bad_verdict", Kept));
    }
    // A name with a byte that names have not, and one that is too long.
    for (at, len) in [(1024, 1), (512, 1_000)] {
        let named = Asked::Choose.storing(&[(0, 1, 4), (4, 4, at), (8, 4, len)]);
        check(Asked::Choose, &named, ("bad_verdict", Kept));
    }
    let refusing = [(0, 1, 2), (4, 4, 512), (8, 4, 5), (12, 4, DAY_MS + 1)];
    check(Asked::Admit, &Asked::Admit.storing(&refusing), ("bad_verdict", Kept));
}

#[test]
fn answers_that_cannot_be_read() {
    for asked in [Asked::Plan, Asked::Failed, Asked::Admit, Asked::Choose] {
        for nowhere in ["(i32.const 0x7ffffff0)", "(i32.const -4)", "(i32.const 1025)", "(i32.const 131068)"]
        {
            // A decision of eight bytes ends where the memory does.
            let nowhere = if matches!(asked, Asked::Failed) {
                nowhere.replace("131068", "131072")
            } else {
                nowhere.to_owned()
            };
            check(asked, &asked.answering(&nowhere), ("bad_verdict", Replaced));
        }
    }
    for action in ["6", "255", "-1"] {
        let answer = format!("(i32.const {action})");
        check(Asked::Overflow, &Asked::Overflow.answering(&answer), ("bad_verdict", Replaced));
    }
    let check = |asked: Asked, fields: &[(u32, u8, u32)]| {
        check(asked, &asked.storing(fields), ("bad_verdict", Replaced));
    };
    check(Asked::Plan, &[(0, 1, 2)]);
    check(Asked::Plan, &[(0, 1, 1), (4, 1, 4)]);
    check(Asked::Plan, &[(0, 1, 1), (8, 1, 3)]);
    check(Asked::Plan, &[(0, 1, 1), (33, 1, 2)]);
    check(Asked::Failed, &[(0, 1, 4)]);
    check(Asked::Admit, &[(0, 1, 3)]);
    check(Asked::Admit, &[(0, 1, 2), (4, 4, 0x7fff_fff0), (8, 4, 5)]);
    check(Asked::Admit, &[(0, 1, 2), (4, 4, 512), (8, 4, u32::MAX)]);
    check(Asked::Choose, &[(0, 1, 6)]);
    check(Asked::Choose, &[(0, 1, 2), (12, 1, 3)]);
    check(Asked::Choose, &[(0, 1, 3), (4, 1, 1), (12, 1, 3)]);
    check(Asked::Choose, &[(0, 1, 4), (4, 4, 0x7fff_fff0), (8, 4, 5)]);
    check(Asked::Choose, &[(0, 1, 4), (4, 4, 512), (8, 4, u32::MAX)]);
    check(Asked::Choose, &[(0, 1, 4), (4, 4, 2_048 + 4), (8, 4, 12), (12, 1, 0xff)]);
}

/// What a failure means for the message, by `on_failure`: the next policy, what is built in, or the end of it.
#[test]
fn each_hook_has_its_fallbacks() {
    for asked in ALL {
        let built_in = asked.ask(&mut host(1).worker(0));
        for on_failure in ["builtin", "closed"] {
            let host = beside(asked, &asked.doing("unreachable"), "auto", on_failure);
            let answer = asked.ask(&mut host.worker(0));
            let expected = match (asked, on_failure) {
                (Asked::Admit, "closed") => {
                    format!("{:?}", Admittance::Failed("policy bad failed (trap)".to_owned()))
                }
                (Asked::Choose, "closed") => format!("{:?}", Some(Codec::Plain)),
                _ => built_in.clone(),
            };
            assert_eq!(answer, expected, "{asked:?} {on_failure}");
            assert_eq!((outcome(&host, "bad", "trap"), outcome(&host, "good", "ok")), (1, 0));
        }
    }
}

/// One policy of each hook fails at every message; the hooks beside it do not notice.
#[test]
fn hooks_of_one_worker_fail_apart() {
    for broken in ALL {
        let host = host(1);
        host.upload("bad", &broken.doing("unreachable").build(), "test").unwrap();
        host.upload("good", &healthy().build(), "test").unwrap();
        for hook in ["ack", "admission", "overflow", "compression"] {
            let plugin = if hook == broken.hook() { "bad" } else { "good" };
            let more = json!({ "hook": hook, "limits": { "cpu_share": 1.0 } });
            host.put_policy(hook, document(plugin, &["topic/>"], more), "test").unwrap();
        }
        let mut policies = host.worker(0);
        let others: Vec<Asked> = ALL.into_iter().filter(|asked| asked.hook() != broken.hook()).collect();
        for calls in 1..=20 {
            broken.ask(&mut policies);
            for asked in &others {
                asked.ask(&mut policies);
                assert!(outcome(&host, asked.hook(), "ok") >= calls, "{asked:?} beside {broken:?}");
            }
        }
        assert!(outcome(&host, broken.hook(), "trap") > 0);
    }
}
