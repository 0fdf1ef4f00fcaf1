//! The registry against its invariants: nothing is left behind, and a naive model agrees on who is reached.

use super::*;
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

#[derive(Default)]
struct Recorder {
    changes: RefCell<Vec<(u8, Change)>>,
    full: bool,
}

impl Workers for Recorder {
    fn has_room(&self, _worker: u8) -> bool {
        !self.full
    }

    fn notify(&self, worker: u8, change: Change) {
        self.changes.borrow_mut().push((worker, change));
    }
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn session(count: u32, worker: u8, user: &str) -> Session {
    Session { id: SessionId::new(1, worker, count), worker, user: name(user), device: None }
}

fn entry(session: &Session) -> SessionEntry {
    SessionEntry {
        session: session.clone(),
        transport: "test",
        remote: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
        connected_unix_ms: 0,
    }
}

fn reach(registry: &Registry, to: &str) -> (Vec<u8>, u32) {
    let to = Address::parse(to).unwrap();
    let targets = registry.lock(&to).targets(&to);
    (targets.workers.iter().collect(), targets.recipients)
}

#[test]
fn several_sessions_of_one_user_are_one_recipient() {
    let registry = Registry::new(1, 0);
    let (phone, laptop) = (session(1, 0, "alice"), session(2, 3, "alice"));
    registry.connect(entry(&phone)).unwrap();
    registry.connect(entry(&laptop)).unwrap();
    assert_eq!(reach(&registry, "user/alice"), (vec![0, 3], 1));
    assert_eq!(reach(&registry, "all"), (vec![0, 3], 1));
    registry.disconnect(&phone);
    assert_eq!(reach(&registry, "user/alice"), (vec![3], 1));
    registry.disconnect(&laptop);
    assert_eq!(reach(&registry, "all"), (vec![], 0));
    assert_eq!(registry.audience_count(), 0);
    assert!(registry.directory.iter().all(|d| d.lock().unwrap().users.is_empty()));
}

#[test]
fn membership_outlives_sessions_and_reaches_every_device() {
    let (registry, workers) = (Registry::new(1, 0), Recorder::default());
    let phone = session(1, 0, "alice");
    registry.connect(entry(&phone)).unwrap();
    registry.join(&name("alice"), &name("eng"), &workers).unwrap();
    registry.join(&name("alice"), &name("eng"), &workers).unwrap();
    assert_eq!(workers.changes.borrow().len(), 1, "joining twice changes nothing");
    assert_eq!(reach(&registry, "group/eng"), (vec![0], 1));
    registry.disconnect(&phone);
    assert_eq!(reach(&registry, "group/eng"), (vec![], 0));
    let laptop = session(2, 5, "alice");
    assert_eq!(registry.connect(entry(&laptop)).unwrap().len(), 3);
    assert_eq!(reach(&registry, "group/eng"), (vec![5], 1));
    registry.leave(&name("alice"), &name("eng"), &workers).unwrap();
    assert_eq!(reach(&registry, "group/eng"), (vec![], 0));
    let error = registry.leave(&name("alice"), &name("eng"), &workers).unwrap_err();
    assert_eq!(error.code, Code::NotFound);
}

#[test]
fn a_full_worker_refuses_the_join_and_nothing_changes() {
    let (registry, full) = (Registry::new(1, 0), Recorder { full: true, ..Recorder::default() });
    registry.connect(entry(&session(1, 0, "alice"))).unwrap();
    let error = registry.join(&name("alice"), &name("eng"), &full).unwrap_err();
    assert_eq!(error.code, Code::Overloaded);
    assert_eq!(reach(&registry, "group/eng"), (vec![], 0));
    assert!(!registry.is_member(&name("alice"), &name("eng")));
    assert_eq!(registry.groups(), []);
}

#[test]
fn groups_can_be_made_listed_and_removed() {
    let (registry, workers) = (Registry::new(1, 0), Recorder::default());
    registry.create_group(&name("empty")).unwrap();
    for user in ["a", "b"] {
        registry.join(&name(user), &name("eng"), &workers).unwrap();
    }
    assert_eq!(registry.groups(), [(name("empty"), 0), (name("eng"), 2)]);
    assert_eq!(registry.group_members(&name("eng")), Some(vec![name("a"), name("b")]));
    registry.remove_group(&name("eng"), &workers).unwrap();
    assert_eq!(registry.group_members(&name("eng")), None);
    assert!(!registry.is_member(&name("a"), &name("eng")));
    assert_eq!(registry.remove_group(&name("eng"), &workers).unwrap_err().code, Code::NotFound);
}

#[test]
fn offsets_of_an_address_strictly_increase() {
    let registry = Registry::new(9, 0);
    let to = Address::parse("topic/a").unwrap();
    let first = registry.lock(&to).take(3);
    let second = registry.lock(&to).take(1);
    assert_eq!((first.offset, second.offset), (1, 4));
    assert_eq!(first.stream, second.stream);
    assert_eq!(first.stream.epoch, 9);
}

#[test]
fn queue_versions_are_unique_and_end_with_the_last_member() {
    let registry = Registry::new(1, 0);
    let (a, b) = (session(1, 0, "a"), session(2, 1, "b"));
    for text in ["topic/jobs", "topic/jobs.*"] {
        let pattern = Pattern::parse(text).unwrap();
        let one = registry.join_queue(&pattern, &name("q"), &a).unwrap();
        let two = registry.join_queue(&pattern, &name("q"), &b).unwrap();
        assert_eq!((one.members.len(), two.members.len()), (1, 2));
        assert!(one.version < two.version);
        let three = registry.leave_queue(&pattern, &name("q"), &a).unwrap();
        let four = registry.leave_queue(&pattern, &name("q"), &b).unwrap();
        assert_eq!((three.members.len(), four.members.len()), (1, 0));
        assert!(two.version < three.version && three.version < four.version);
        assert!(registry.leave_queue(&pattern, &name("q"), &b).is_none());
    }
    assert_eq!((registry.audience_count(), registry.wildcard_count()), (0, 0));
}

#[test]
fn too_many_sessions_of_a_user() {
    let registry = Registry::new(1, 0);
    for count in 0..u32::try_from(limits::SESSIONS_PER_USER_MAX).unwrap() {
        registry.connect(entry(&session(count, 0, "bot"))).unwrap();
    }
    let error = registry.connect(entry(&session(9999, 0, "bot"))).unwrap_err();
    assert_eq!(error.code, Code::TooManySessions);
}

fn pattern_strategy() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "topic/a",
        "topic/a.b",
        "topic/a.*",
        "topic/a.>",
        "topic/*.b",
        "topic/>",
        "topic/c",
    ])
}

proptest! {
    /// Interleaves (un)subscriptions with look-ups, so that stale matches in the cache would show.
    #[test]
    fn topic_targets_agree_with_a_naive_model(
        steps in prop::collection::vec((0u32..4, pattern_strategy(), any::<bool>()), 1..60)
    ) {
        let registry = Registry::new(1, 0);
        let mut model: BTreeSet<(u32, &str)> = BTreeSet::new();
        for (who, text, add) in steps {
            let pattern = Pattern::parse(text).unwrap();
            let session = session(who, u8::try_from(who % 3).unwrap(), &format!("u{who}"));
            match (add, model.contains(&(who, text))) {
                (true, false) => { registry.subscribe(&pattern, &session); model.insert((who, text)); }
                (false, true) => { registry.unsubscribe(&pattern, &session); model.remove(&(who, text)); }
                _ => {}
            }
            for topic in ["topic/a", "topic/a.b", "topic/a.b.c", "topic/x.b"] {
                let address = Address::parse(topic).unwrap();
                let hits: Vec<_> =
                    model.iter().filter(|(_, text)| Pattern::parse(text).unwrap().matches(&address)).collect();
                let workers: BTreeSet<_> = hits.iter().map(|(who, _)| u8::try_from(who % 3).unwrap()).collect();
                let found = reach(&registry, topic);
                prop_assert_eq!(found.0, workers.into_iter().collect::<Vec<_>>());
                prop_assert_eq!(found.1 as usize, hits.len());
            }
        }
        for (who, text) in model {
            let session = session(who, u8::try_from(who % 3).unwrap(), &format!("u{who}"));
            registry.unsubscribe(&Pattern::parse(text).unwrap(), &session);
        }
        prop_assert_eq!((registry.audience_count(), registry.wildcard_count()), (0, 0));
    }
}
