//! Assignments, with values that a test keeps itself.

use super::*;
use waspmq_plugin_sdk::{Kind, Route};

/// Values of a test; `interloper` is set by somebody else between a look and a change.
#[derive(Default)]
struct Values {
    values: BTreeMap<String, Vec<u8>>,
    interloper: Option<Vec<u8>>,
    is_full: bool,
    writes: u32,
}

impl Kept for Values {
    fn get(&mut self, key: &str) -> Option<Vec<u8>> {
        self.values.get(key).cloned()
    }

    fn compare_and_set(&mut self, key: &str, (expected, value): (Option<&[u8]>, &[u8]), _: u64) -> bool {
        if let Some(other) = self.interloper.take() {
            self.values.insert(key.to_owned(), other);
        }
        let is_set = !self.is_full && self.values.get(key).map(Vec::as_slice) == expected;
        if is_set {
            self.values.insert(key.to_owned(), value.to_owned());
            self.writes += 1;
        }
        is_set
    }
}

const NAMES: [&str; 5] = ["ann/d/s1", "bob/d/s2", "cat/d/s3", "dan/d/s4", "eve/d/s5"];

fn members(version: u64, names: &[&str]) -> QueueMembers {
    QueueMembers {
        pattern: "topic/jobs.>".to_owned(),
        queue: "workers".to_owned(),
        version,
        members: names.iter().map(|&name| name.to_owned()).collect(),
    }
}

fn policy(names: &[&str]) -> StickyUser {
    let mut policy = StickyUser::configure(r#"{"queue":"workers","ttl_s":10}"#).unwrap();
    policy.members_changed(members(1, names));
    policy
}

/// The name of the member that serves a sender.
fn serves(policy: &mut StickyUser, who: &str, ts: u64, names: &[&str], values: &mut Values) -> String {
    let message = Message {
        sender: who.to_owned(),
        address: "topic/jobs.1".to_owned(),
        kind: Kind::Topic,
        key: String::new(),
        size: 2,
        priority: 4,
        ts,
    };
    match policy.decide(&message, who, values).route {
        Route::Pick(pick) => names[pick.index as usize].to_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn senders_stay_when_members_come_and_move_when_theirs_leaves() {
    let (mut policy, mut values) = (policy(&NAMES[..2]), Values::default());
    let senders: Vec<String> = (0..60).map(|i| format!("user{i}")).collect();
    let before: Vec<String> =
        senders.iter().map(|who| serves(&mut policy, who, 1, &NAMES[..2], &mut values)).collect();
    policy.members_changed(members(2, &NAMES));
    for (who, was) in senders.iter().zip(&before) {
        assert_eq!(serves(&mut policy, who, 2, &NAMES, &mut values), *was, "{who} stays");
    }
    policy.members_changed(members(3, &NAMES[1..]));
    let after: Vec<String> =
        senders.iter().map(|who| serves(&mut policy, who, 3, &NAMES[1..], &mut values)).collect();
    for ((who, was), is) in senders.iter().zip(&before).zip(&after) {
        assert!(*is == *was || *was == NAMES[0], "{who} moved from {was} to {is}");
    }
    assert!(
        NAMES[1..].iter().all(|name| after.iter().any(|is| is == name)),
        "those of one that left are spread"
    );
    policy.members_changed(members(4, &NAMES));
    for (who, was) in senders.iter().zip(&after) {
        assert_eq!(serves(&mut policy, who, 4, &NAMES, &mut values), *was, "{who} does not come back");
    }
}

#[test]
fn workers_agree_by_comparison() {
    let (mut policy, mut values) = (policy(&NAMES), Values::default());
    let by_hash = serves(&mut policy, "alice", 1, &NAMES, &mut Values::default());
    let other = NAMES.iter().find(|name| ***name != by_hash).unwrap();
    values.interloper = Some([&[0; 8], other.as_bytes()].concat());
    assert_eq!(serves(&mut policy, "alice", 1, &NAMES, &mut values), **other);
    assert_eq!(serves(&mut policy, "alice", 1, &NAMES, &mut values), **other);
}

#[test]
fn an_assignment_is_written_again_when_a_quarter_of_its_time_is_over() {
    let (mut policy, mut values) = (policy(&NAMES), Values::default());
    for (ts, writes) in [(1_000, 1), (2_000, 1), (3_499, 1), (3_500, 2), (3_501, 2), (500, 2), (6_000, 3)] {
        serves(&mut policy, "alice", ts, &NAMES, &mut values);
        assert_eq!(values.writes, writes, "at {ts}");
    }
}

#[test]
fn where_there_is_no_room_the_hash_serves() {
    let (mut policy, mut values) = (policy(&NAMES), Values { is_full: true, ..Values::default() });
    let first = serves(&mut policy, "alice", 1, &NAMES, &mut values);
    assert_eq!(serves(&mut policy, "alice", 99_000, &NAMES, &mut values), first);
    assert!(values.values.is_empty());
}

#[test]
fn what_is_kept_is_read_with_care() {
    let (mut policy, mut values) = (policy(&NAMES), Values::default());
    let by_hash = serves(&mut policy, "alice", 1, &NAMES, &mut values);
    let key = values.values.keys().next().unwrap().clone();
    for bad in [&b""[..], b"short", b"12345678\xff\xfe", b"12345678nobody/d/s"] {
        values.values.insert(key.clone(), bad.to_owned());
        assert_eq!(serves(&mut policy, "alice", 1, &NAMES, &mut values), by_hash);
    }
}

#[test]
fn nobody_in_particular_is_left_to_the_broker() {
    let message = Message {
        sender: String::new(),
        address: "topic/jobs.1".to_owned(),
        kind: Kind::Topic,
        key: String::new(),
        size: 2,
        priority: 4,
        ts: 1,
    };
    let verdict = policy(&NAMES).decide(&message, "", &mut Values::default());
    assert!(matches!(verdict.route, Route::Continue));
}

#[test]
fn configuration_is_checked() {
    let check = |config: &str, expected: &str| {
        let error = StickyUser::configure(config).unwrap_err();
        assert!(error.contains(expected), "{config}: {error}");
    };
    check("{}", "missing field `queue`");
    check(r#"{"queue":"w","header":""}"#, "header: a text of 1 to 64 bytes");
    check(r#"{"queue":"w","ttl_s":0}"#, "ttl_s: a number from 1 to 604800");
    check(r#"{"queue":"w","ttl":1}"#, "unknown field `ttl`");
}
