//! Plans and decisions of tiers.

use super::*;
use waspmq_plugin_sdk::{Cause, Exhausted, Kind, Level, Quorum};

const CONFIG: &str = r#"{"tiers":[
    {"match":["topic/paid.>"],"priority_min":7,"level":"delivered","quorum":"all","timeout_ms":500,"attempts":6,
     "waits_ms":[100,1000,5000],"offline_ms":60000,"give_up_on":["nack"],"exhausted":"dead_letter"},
    {"match":["topic/paid.>","user/*"],"level":"delivered","quorum":2,"attempts":3,"waits_ms":[1000],"jitter_percent":50},
    {"level":"accepted","attempts":1,"exhausted":"drop"}]}"#;

fn policy(config: &str) -> AckTiers {
    AckTiers::configure(config).unwrap()
}

fn message(address: &str, priority: u8) -> Message {
    Message {
        sender: "alice".to_owned(),
        address: address.to_owned(),
        kind: Kind::Topic,
        key: String::new(),
        size: 2,
        priority,
        ts: 1,
    }
}

const CONFIGURED: AckPlan = AckPlan {
    level: Level::Stored,
    quorum: Quorum::Any,
    timeout_ms: 9_000,
    attempts: 8,
    initial_ms: 70,
    max_ms: 700,
    jitter_percent: 7,
    exhausted: Exhausted::DeadLetter,
};

fn failure(address: &str, cause: Cause, (attempt, attempts): (u16, u16)) -> Failure {
    Failure {
        address: address.to_owned(),
        sender: "alice".to_owned(),
        recipient: "user/bob".to_owned(),
        cause,
        attempt,
        messages: 1,
        waited_ms: 1_000,
        retry_ms: None,
        attempts,
        random: 0,
    }
}

#[test]
fn the_first_tier_that_takes_a_message_plans_it() {
    let mut policy = policy(CONFIG);
    let mut plan = |address, priority| policy.plan(&message(address, priority), &CONFIGURED).unwrap();
    let urgent = plan("topic/paid.a", 7);
    assert!(matches!((urgent.level, urgent.quorum), (Level::Delivered, Quorum::All)));
    let times = (urgent.timeout_ms, urgent.attempts, urgent.initial_ms, urgent.max_ms, urgent.jitter_percent);
    assert_eq!(times, (500, 6, 100, 5_000, 7), "what is not said stays as configured");
    let paid = plan("topic/paid.a", 6);
    assert!(matches!(paid.quorum, Quorum::Count(2)));
    assert_eq!((paid.timeout_ms, paid.attempts, paid.jitter_percent), (9_000, 3, 50));
    assert_eq!(plan("user/bob", 9).attempts, 3);
    let free = plan("topic/free", 9);
    assert!(matches!((free.level, free.exhausted), (Level::Accepted, Exhausted::Drop)));
    let mut one = self::policy(r#"{"tiers":[{"match":["all"],"level":"none"}]}"#);
    assert!(one.plan(&message("topic/a", 1), &CONFIGURED).is_none(), "left to the next policy");
}

#[test]
fn waits_grow_as_the_tier_says_and_end_with_the_plan() {
    let mut policy = policy(CONFIG);
    let mut decide = |attempt| policy.failed(&failure("topic/paid.a", Cause::Timeout, (attempt, 6)));
    for (attempt, wait) in [(0, 100), (1, 100), (2, 1_000), (3, 5_000), (5, 5_000)] {
        assert!(matches!(decide(attempt), Decision::Retry(ms) if ms == wait), "{attempt}");
    }
    assert!(matches!(decide(6), Decision::GiveUp));
}

#[test]
fn the_recipient_may_ask_for_longer_and_chance_makes_shorter() {
    let mut policy = policy(CONFIG);
    let mut decide = |retry_ms, random| {
        let failure = Failure { retry_ms, random, ..failure("user/bob", Cause::Nack, (1, 3)) };
        match policy.failed(&failure) {
            Decision::Retry(ms) => ms,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        [None, Some(10), Some(5_000), Some(u32::MAX)].map(|asked| decide(asked, 0)),
        [1_000, 1_000, 5_000, 86_400_000]
    );
    let waits: Vec<u32> = (0..1_000).map(|random| decide(None, random * 7)).collect();
    assert!(waits.iter().all(|ms| (500..=1_000).contains(ms)));
    assert!(waits.iter().any(|ms| *ms < 550) && waits.iter().any(|ms| *ms > 950));
}

#[test]
fn causes_differ() {
    let mut policy = policy(CONFIG);
    let mut decide = |cause, waited_ms, attempts| {
        policy.failed(&Failure { waited_ms, ..failure("topic/paid.a", cause, (1, attempts)) })
    };
    assert!(matches!(decide(Cause::Nack, 0, 6), Decision::GiveUp));
    assert!(matches!(decide(Cause::Offline, 20_000, 6), Decision::Wait(40_000)));
    assert!(matches!(decide(Cause::Offline, 60_000, 6), Decision::GiveUp));
    assert!(matches!(decide(Cause::Offline, 0, 3), Decision::Continue), "the other tier says nothing of it");
    assert!(matches!(decide(Cause::Nack, 0, 3), Decision::Retry(1_000)));
    assert!(matches!(decide(Cause::Timeout, 0, 1), Decision::Continue));
    assert!(matches!(decide(Cause::Timeout, 0, 4), Decision::Continue), "no tier has this plan");
}

#[test]
fn without_priorities_the_address_says_the_tier() {
    let config = r#"{"tiers":[{"match":["topic/a"],"waits_ms":[5]},{"waits_ms":[9]}]}"#;
    let mut policy = policy(config);
    for (address, wait) in [("topic/a", 5), ("topic/b", 9)] {
        let decision = policy.failed(&failure(address, Cause::ConnectionLost, (1, 8)));
        assert!(matches!(decision, Decision::Retry(ms) if ms == wait));
    }
}

#[test]
fn configuration_is_checked() {
    let check = |tiers: &str, expected: &str| {
        let error = AckTiers::configure(&format!(r#"{{"tiers":[{tiers}]}}"#)).unwrap_err();
        assert!(error.contains(expected), "{tiers}: {error}");
    };
    check("", "tiers: a list of 1 to 32");
    check(r#"{"match":["orders"]}"#, "tiers[0].match[0]: a pattern such as");
    check(r#"{"level":"sent"}"#, "tiers[0].level: unknown variant `sent`");
    check(r#"{"quorum":0}"#, "tiers[0].quorum: invalid value");
    check(r#"{"quorum":"some"}"#, "tiers[0].quorum: invalid value");
    check(r#"{"timeout_ms":0}"#, "tiers[0].timeout_ms: a number from 1 to 86400000");
    check(r#"{"attempts":1001}"#, "tiers[0].attempts: a number from 1 to 1000");
    check(r#"{"waits_ms":[]}"#, "tiers[0].waits_ms: a list of 1 to 16");
    check(r#"{"jitter_percent":5}"#, "tiers[0].jitter_percent: of which");
    check(r#"{"give_up_on":["bored"]}"#, "tiers[0].give_up_on[0]: unknown variant `bored`");
    check(r#"{"offline_ms":5,"give_up_on":["offline"]}"#, "tiers[0].offline_ms: the tier gives up");
    check(r#"{"priority_min":5,"attempts":2},{"waits_ms":[5]}"#, "tiers[1].attempts: where tiers differ");
    check(r#"{"priority_min":5,"attempts":2},{"waits_ms":[5],"attempts":2}"#, "tiers[1].attempts: where");
    check(r#"{"retries":5}"#, "unknown field `retries`");
}
