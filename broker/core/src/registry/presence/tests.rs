//! Presence against its promises: numbers ascend, only those who watch are told, bounds hold.

use super::*;
use crate::registry::tests::{Recorder, connect, entry, name, session};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const ALICE: &str = "alice";

fn told(workers: &Recorder) -> Vec<(u8, bool, Option<u64>)> {
    let changes = workers.presence.take();
    changes.into_iter().map(|(worker, c)| (worker, c.online, c.last_seen_unix_ms)).collect()
}

/// Names of users that are all in the shard of the first.
fn neighbours(registry: &Registry) -> impl Iterator<Item = Name> {
    let shard = registry.index("user-0");
    let names = (0..).map(|i| format!("user-{i}"));
    let near: Vec<_> = names
        .filter(|text| registry.index(text) == shard)
        .take(limits::WATCHED_PER_SHARD_MAX.max(limits::LEFT_USERS_PER_SHARD_MAX) + 2)
        .collect();
    near.into_iter().map(|text| name(&text))
}

#[test]
fn the_first_session_and_the_last_end_are_changes() {
    let (registry, workers) = (Registry::new(3, 0), Recorder::default());
    let (phone, laptop) = (session(1, 0, ALICE), session(2, 1, ALICE));
    assert!(!registry.presence(&phone.user).is_known);
    for worker in [0, 5, 5] {
        registry.watch(worker, &[name(ALICE), name("bob")]).unwrap();
    }
    registry.connect(entry(&phone), &workers).unwrap();
    assert_eq!(told(&workers), [(0, true, None), (5, true, None)], "once per worker");
    registry.connect(entry(&laptop), &workers).unwrap();
    registry.disconnect(&phone, 70, &workers);
    assert_eq!(told(&workers), []);
    let now = registry.presence(&phone.user);
    assert_eq!((now.online, now.sessions, now.last_seen_unix_ms, now.is_known), (true, 1, None, true));
    registry.disconnect(&laptop, 80, &workers);
    registry.disconnect(&laptop, 90, &workers);
    assert_eq!(told(&workers), [(0, false, Some(80)), (5, false, Some(80))]);
    let gone = registry.presence(&phone.user);
    assert_eq!((gone.online, gone.sessions, gone.last_seen_unix_ms), (false, 0, Some(80)));
    assert!(gone.seq > now.seq && now.seq > 3 << CHANGE_BITS);
    assert!(registry.directory.iter().all(|d| d.lock().unwrap().users.is_empty()));
}

#[test]
fn who_is_not_watched_any_more_costs_nothing() {
    let (registry, workers) = (Registry::new(1, 0), Recorder::default());
    let users = [name(ALICE), name("bob")];
    registry.watch(2, &users).unwrap();
    registry.watch(2, &users).unwrap();
    registry.unwatch(2, &users);
    assert_eq!(registry.watched_count(), 2);
    registry.connect(entry(&session(1, 0, ALICE)), &workers).unwrap();
    assert_eq!(told(&workers).len(), 1, "the other watcher is left");
    registry.unwatch(2, &users);
    assert_eq!(registry.watched_count(), 0);
    registry.disconnect(&session(1, 0, ALICE), 7, &workers);
    assert_eq!(told(&workers), []);
}

#[test]
fn a_refused_watch_counts_for_none_of_its_users() {
    let registry = Registry::new(1, 0);
    let busy = name("busy");
    for count in 0..limits::WATCHERS_PER_USER_MAX {
        let worker = u8::try_from(count % 3).unwrap();
        registry.watch(worker, std::slice::from_ref(&busy)).unwrap();
    }
    let error = registry.watch(0, &[name(ALICE), busy.clone(), name("bob")]).unwrap_err();
    assert_eq!(error.code, Code::TooManyWatchers);
    assert_eq!(registry.watched_count(), 1);
    registry.unwatch(1, [&busy]);
    registry.watch(0, &[busy]).unwrap();
}

#[test]
fn strangers_that_are_watched_take_no_room_from_users() {
    let registry = Registry::new(1, 0);
    let names: Vec<_> = neighbours(&registry).take(limits::WATCHED_PER_SHARD_MAX + 1).collect();
    let (last, most) = names.split_last().unwrap();
    registry.watch(0, most).unwrap();
    let error = registry.watch(0, std::slice::from_ref(last)).unwrap_err();
    assert_eq!((error.code, error.retry_ms > 0), (Code::Overloaded, true));
    connect(&registry, &session(1, 0, last.as_str())).unwrap();
    registry.unwatch(0, most);
    assert_eq!(registry.watched_count(), 0);
}

#[test]
fn the_time_of_the_user_who_left_first_is_forgotten_and_numbers_still_ascend() {
    let (registry, workers) = (Registry::new(1, 0), Recorder::default());
    let names: Vec<_> = neighbours(&registry).take(limits::LEFT_USERS_PER_SHARD_MAX + 1).collect();
    let visit = |user: &Name, now| {
        let session = session(1, 0, user.as_str());
        registry.connect(entry(&session), &workers).unwrap();
        registry.disconnect(&session, now, &workers);
        registry.presence(user)
    };
    let first = visit(&names[0], 1);
    assert_eq!(first.last_seen_unix_ms, Some(1));
    (0..2 * limits::LEFT_USERS_PER_SHARD_MAX).for_each(|_| _ = visit(&names[1], 2));
    let flapping = visit(&names[1], 2);
    assert_eq!(registry.presence(&names[0]), first, "one user who comes and goes pushes nobody out");
    names.iter().skip(2).for_each(|user| _ = visit(user, 3));
    let forgotten = registry.presence(&names[0]);
    assert!(!forgotten.is_known && forgotten.last_seen_unix_ms.is_none());
    assert!(forgotten.seq >= first.seq);
    assert_eq!(registry.presence(&names[1]), flapping);
    assert!(visit(&names[0], 4).seq > forgotten.seq);
    let left = &registry.directory(&names[0]).left;
    assert!(left.users.len() <= limits::LEFT_USERS_PER_SHARD_MAX);
    assert!(left.order.len() <= 2 * limits::LEFT_USERS_PER_SHARD_MAX);
}

#[test]
fn a_later_run_numbers_above_an_earlier_one() {
    let last_of = |epoch| {
        let registry = Registry::new(epoch, 0);
        (0..1_000).for_each(|_| {
            connect(&registry, &session(1, 0, ALICE)).unwrap();
            registry.disconnect(&session(1, 0, ALICE), 1, &Recorder::default());
        });
        registry.presence(&name(ALICE)).seq
    };
    assert!(last_of(1) < Registry::new(2, 0).presence(&name(ALICE)).seq);
    assert!(last_of(0x00ff_fffe) < last_of(0x00ff_ffff));
    assert!(last_of(0x00ff_ffff) < 1 << 53, "whole in every reader of JSON");
}

#[test]
fn a_group_is_read_page_by_page() {
    let (registry, workers) = (Registry::new(1, 0), Recorder::default());
    for user in ["c", "a", "e", "b", "d"] {
        registry.join(&name(user), &name("eng"), &workers).unwrap();
    }
    connect(&registry, &session(1, 0, "b")).unwrap();
    let page = |after: Option<&str>, most| {
        let page = registry.group_presence(&name("eng"), after.map(name).as_ref(), most).unwrap();
        let users: Vec<_> = page.users.iter().map(|(user, p)| (user.to_string(), p.online)).collect();
        (users, page.more)
    };
    let row = |user: &str| (user.to_owned(), user == "b");
    assert_eq!(page(None, 2), (vec![row("a"), row("b")], true));
    assert_eq!(page(Some("b"), 3), (vec![row("c"), row("d"), row("e")], false));
    assert_eq!(page(Some("bb"), 9).0.len(), 3, "behind somebody who left the group");
    assert_eq!(page(Some("e"), 9), (vec![], false));
    assert!(registry.group_presence(&name("ops"), None, 9).is_none());
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Connect { user: usize, count: u32 },
    Disconnect { user: usize, count: u32 },
    Watch { user: usize, worker: u8 },
    Unwatch { user: usize, worker: u8 },
}

const USERS: [&str; 3] = ["a", "b", "c"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..4, 0..USERS.len(), 0_u8..3).prop_map(|(what, user, n)| match what {
        0 => Step::Connect { user, count: n.into() },
        1 => Step::Disconnect { user, count: n.into() },
        2 => Step::Watch { user, worker: n },
        _ => Step::Unwatch { user, worker: n },
    });
    prop::collection::vec(step, 1..80)
}

proptest! {
    /// Each change reaches exactly the workers with a watcher, with ascending numbers, and what is read lies
    /// between the changes around it.
    #[test]
    fn changes_agree_with_a_naive_model(steps in steps()) {
        let (registry, workers) = (Registry::new(1, 0), Recorder::default());
        let mut sessions: BTreeSet<(usize, u32)> = BTreeSet::new();
        let mut watchers: BTreeMap<(usize, u8), u32> = BTreeMap::new();
        let mut highest = [0_u64; USERS.len()];
        for (step, now) in steps.into_iter().zip(1_u64..) {
            let online = |sessions: &BTreeSet<(usize, u32)>, user| sessions.iter().any(|s| s.0 == user);
            let (Step::Connect { user, .. } | Step::Disconnect { user, .. } | Step::Watch { user, .. }
                | Step::Unwatch { user, .. }) = step;
            let before = online(&sessions, user);
            match step {
                Step::Connect { count, .. } if sessions.insert((user, count)) => {
                    registry.connect(entry(&session(count, 0, USERS[user])), &workers).unwrap();
                }
                Step::Disconnect { count, .. } if sessions.remove(&(user, count)) => {
                    registry.disconnect(&session(count, 0, USERS[user]), now, &workers);
                }
                Step::Watch { worker, .. } => {
                    registry.watch(worker, &[name(USERS[user])]).unwrap();
                    *watchers.entry((user, worker)).or_default() += 1;
                }
                Step::Unwatch { worker, .. } if watchers.contains_key(&(user, worker)) => {
                    registry.unwatch(worker, &[name(USERS[user])]);
                    let count = watchers.get_mut(&(user, worker)).unwrap();
                    *count -= 1;
                    if *count == 0 {
                        watchers.remove(&(user, worker));
                    }
                }
                _ => {}
            }
            let after = online(&sessions, user);
            let changes = workers.presence.take();
            let mut told: Vec<u8> = changes.iter().map(|(worker, _)| *worker).collect();
            told.sort_unstable();
            let expected: Vec<u8> = watchers.keys().filter(|key| key.0 == user).map(|key| key.1).collect();
            prop_assert_eq!(told, if before == after { vec![] } else { expected });
            for (_, change) in &changes {
                prop_assert_eq!((change.user.as_str(), change.online), (USERS[user], after));
                prop_assert_eq!(change.last_seen_unix_ms, (!after).then_some(now));
                prop_assert!(change.seq > highest[user]);
                prop_assert_eq!(registry.presence(&change.user).seq, change.seq);
            }
            for (user, highest) in highest.iter_mut().enumerate() {
                let presence = registry.presence(&name(USERS[user]));
                prop_assert_eq!(presence.online, online(&sessions, user));
                prop_assert_eq!(presence.sessions as usize, sessions.iter().filter(|s| s.0 == user).count());
                prop_assert!(presence.seq >= *highest);
                *highest = presence.seq;
            }
        }
        let left: BTreeSet<_> = watchers.keys().map(|key| key.0).collect();
        prop_assert_eq!(registry.watched_count(), left.len());
    }
}
