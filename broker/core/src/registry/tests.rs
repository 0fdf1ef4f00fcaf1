//! The registry against its invariants: nothing is left behind, and a naive model agrees on who is reached.

use super::*;
use crate::address::Name;
use crate::delivery::Recipient;
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

#[derive(Default)]
pub(super) struct Recorder {
    pub(super) changes: RefCell<Vec<(u8, Change)>>,
    pub(super) presence: RefCell<Vec<(u8, PresenceChange)>>,
    pub(super) full: bool,
}

impl Workers for Recorder {
    fn has_room(&self, _worker: u8) -> bool {
        !self.full
    }

    fn notify(&self, worker: u8, change: Change) {
        self.changes.borrow_mut().push((worker, change));
    }

    fn presence(&self, worker: u8, change: PresenceChange) {
        self.presence.borrow_mut().push((worker, change));
    }
}

pub(super) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

pub(super) fn session(count: u32, worker: u8, user: &str) -> Session {
    Session { id: SessionId::new(1, worker, count), worker, user: name(user), device: None }
}

pub(super) fn entry(session: &Session) -> SessionEntry {
    SessionEntry {
        session: session.clone(),
        transport: "test",
        remote: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
        connected_unix_ms: 0,
        is_generated: false,
    }
}

pub(super) fn connect(registry: &Registry, session: &Session) -> Result<Connected, Reject> {
    registry.connect(entry(session), &Recorder::default())
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
    connect(&registry, &phone).unwrap();
    connect(&registry, &laptop).unwrap();
    assert_eq!(reach(&registry, "user/alice"), (vec![0, 3], 1));
    assert_eq!(reach(&registry, "all"), (vec![0, 3], 1));
    registry.disconnect(&phone, 7, &Recorder::default());
    assert_eq!(reach(&registry, "user/alice"), (vec![3], 1));
    registry.disconnect(&laptop, 7, &Recorder::default());
    assert_eq!(reach(&registry, "all"), (vec![], 0));
    assert_eq!(registry.audience_count(), 0);
    assert!(registry.directory.iter().all(|d| d.lock().unwrap().users.is_empty()));
}

#[test]
fn membership_outlives_sessions_and_reaches_every_device() {
    let (registry, workers) = (Registry::new(1, 0), Recorder::default());
    let phone = session(1, 0, "alice");
    connect(&registry, &phone).unwrap();
    registry.join(&name("alice"), &name("eng"), &workers).unwrap();
    registry.join(&name("alice"), &name("eng"), &workers).unwrap();
    assert_eq!(workers.changes.borrow().len(), 1, "joining twice changes nothing");
    assert_eq!(reach(&registry, "group/eng"), (vec![0], 1));
    registry.disconnect(&phone, 7, &Recorder::default());
    assert_eq!(reach(&registry, "group/eng"), (vec![], 0));
    let laptop = session(2, 5, "alice");
    assert_eq!(connect(&registry, &laptop).unwrap().addresses.len(), 3);
    assert_eq!(reach(&registry, "group/eng"), (vec![5], 1));
    registry.leave(&name("alice"), &name("eng"), &workers).unwrap();
    assert_eq!(reach(&registry, "group/eng"), (vec![], 0));
    let error = registry.leave(&name("alice"), &name("eng"), &workers).unwrap_err();
    assert_eq!(error.code, Code::NotFound);
}

#[test]
fn a_membership_is_of_the_user_or_of_an_operator() {
    let (registry, workers) = (Registry::new(1, 0), Recorder::default());
    let (alice, eng, ops) = (name("alice"), name("eng"), name("ops"));
    registry.join(&alice, &eng, &workers).unwrap();
    assert!(matches!(registry.add_member(&alice, &ops, &workers), Ok(Some(Added::New(_)))));
    assert_eq!(registry.joined_by(&alice), std::slice::from_ref(&eng));
    assert_eq!(registry.join(&alice, &ops, &workers), Ok(None), "it stays the operator's");
    assert_eq!(registry.joined_by(&alice), std::slice::from_ref(&eng));
    assert_eq!(registry.add_member(&alice, &eng, &workers), Ok(Some(Added::TakenOver)));
    assert_eq!(registry.add_member(&alice, &eng, &workers), Ok(None));
    assert_eq!(registry.joined_by(&alice), []);
    let error = registry.forbid(&alice, &eng, &workers).unwrap_err();
    assert_eq!((error.code, registry.is_member(&alice, &eng)), (Code::NotFound, true), "the operator's");
    registry.leave(&alice, &eng, &workers).unwrap();
    registry.join(&alice, &eng, &workers).unwrap();
    assert_eq!(registry.joined_by(&alice), std::slice::from_ref(&eng));
    connect(&registry, &session(1, 0, "alice")).unwrap();
    registry.forbid(&alice, &eng, &workers).unwrap();
    assert_eq!(workers.changes.borrow().last().unwrap().1.step, Step::Forbid);
    assert_eq!(registry.groups_of(&alice), [ops]);
}

#[test]
fn a_full_worker_refuses_the_join_and_nothing_changes() {
    let (registry, full) = (Registry::new(1, 0), Recorder { full: true, ..Recorder::default() });
    connect(&registry, &session(1, 0, "alice")).unwrap();
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
    let registry = Registry::new(9, 0).beginning_behind(100);
    let to = Address::parse("topic/a").unwrap();
    assert!(registry.stream_ends().iter().all(|end| end.offset == 100));
    let take = |count, is_stored| {
        let mut locked = registry.lock(&to);
        let targets = locked.targets(&to);
        locked.take((&to, &targets), count, (is_stored, None))
    };
    let (first, second) = (take(3, false), take(1, true));
    assert_eq!((first.offset, second.offset), (101, 104));
    assert_eq!(first.stream, second.stream);
    assert_eq!(first.stream.epoch, 9);
}

#[test]
fn queue_versions_are_unique_and_end_with_the_last_member() {
    let registry = Registry::new(1, 0);
    let (a, b) = (session(1, 0, "a"), session(2, 1, "b"));
    for text in ["topic/jobs", "topic/jobs.*"] {
        let queue = QueueId::new(Pattern::parse(text).unwrap(), name("q"));
        let (one, _) = registry.join_queue(&queue, &a, Some(3)).unwrap();
        let (two, _) = registry.join_queue(&queue, &b, Some(3)).unwrap();
        assert_eq!((one.members.len(), two.members.len()), (1, 2));
        assert!(one.version < two.version);
        assert_eq!((registry.queue(&queue).unwrap().version, two.home), (two.version, Some(3)));
        let three = registry.leave_queue(&queue, &a).unwrap();
        let four = registry.leave_queue(&queue, &b).unwrap();
        assert_eq!((three.members.len(), four.members.len()), (1, 0));
        assert!(two.version < three.version && three.version < four.version);
        assert!(registry.leave_queue(&queue, &b).is_none() && registry.queue(&queue).is_none());
    }
    assert_eq!((registry.audience_count(), registry.wildcard_count()), (0, 0));
}

#[test]
fn queues_of_one_name_on_two_patterns_are_two_recipients() {
    let registry = Registry::new(1, 0);
    let to = Address::parse("topic/jobs.x").unwrap();
    let queues = ["topic/jobs.*", "topic/jobs.>", "topic/jobs.x"]
        .map(|text| QueueId::new(Pattern::parse(text).unwrap(), name("q")));
    for (queue, count) in queues.iter().zip(1..) {
        registry.join_queue(queue, &session(count, 0, "a"), None).unwrap();
    }
    let mut locked = registry.lock(&to);
    assert_eq!(locked.targets(&to).queues.len(), 3);
    let mut found = locked.recipients(&to, None).unwrap().online;
    found.sort();
    assert_eq!(*found, queues.map(Recipient::Queue));
}

#[test]
fn a_user_is_left_out_who_listens_with_the_excluded_session_alone() {
    let to = Address::parse("topic/a.b").unwrap();
    let (publisher, device, other) = (session(1, 0, "ann"), session(2, 1, "ann"), session(3, 0, "bob"));
    let queue = QueueId::new(Pattern::parse("topic/a.*").unwrap(), name("q"));
    let patterns =
        |texts: &[&str]| texts.iter().map(|text| Pattern::parse(text).unwrap()).collect::<Vec<_>>();
    // What the publishing session and the user's other device listen to; whom it reaches, and as how many.
    for (own, others, reached, count) in [
        (&["topic/a.b"][..], &[][..], false, 0),
        (&["topic/a.b", "topic/a.*", "topic/>"], &[], false, 0),
        (&["topic/a.b"], &["topic/a.b"], true, 1),
        (&["topic/a.b"], &["topic/a.*"], true, 1),
        (&["topic/a.b", "topic/a.*"], &["topic/a.*"], true, 1),
        (&[], &["topic/a.*"], true, 1),
        (&[], &[], false, 0),
    ] {
        let registry = Registry::new(1, 0);
        patterns(own).iter().for_each(|pattern| _ = registry.subscribe(pattern, &publisher));
        patterns(others).iter().for_each(|pattern| _ = registry.subscribe(pattern, &device));
        registry.join_queue(&queue, &publisher, None).unwrap();
        let listens = u32::try_from(own.len()).unwrap();
        let excluded = Excluded { user: &publisher.user, session: publisher.id, listens };
        let counted = || {
            let mut locked = registry.lock(&to);
            let targets = locked.targets(&to);
            let found = locked.recipients(&to, Some(&excluded)).unwrap();
            (found.online, locked.reached(&to, &targets, Some(&excluded)))
        };
        let user = |name: &Name| Recipient::User(name.clone());
        let expected = reached.then(|| user(&publisher.user));
        assert_eq!(counted(), (expected.iter().cloned().collect(), count), "{own:?} {others:?}");
        registry.join_queue(&queue, &device, None).unwrap();
        registry.subscribe(&Pattern::from(&to), &other);
        let (mut online, more) = counted();
        online.sort();
        let expected = expected.into_iter().chain([user(&other.user), Recipient::Queue(queue.clone())]);
        assert_eq!((online, more), (expected.collect(), count + 2), "{own:?} {others:?}");
    }
}

#[test]
fn memberships_of_a_generated_name_end_with_its_last_session() {
    let (registry, workers) = (Registry::new(1, 0), Recorder::default());
    let (one, two) = (session(1, 0, "anonymous-1"), session(2, 1, "anonymous-1"));
    for session in [&one, &two] {
        let entry = SessionEntry { is_generated: true, ..entry(session) };
        registry.connect(entry, &workers).unwrap();
    }
    registry.create_group(&name("kept")).unwrap();
    for group in ["eng", "kept"] {
        registry.join(&one.user, &name(group), &workers).unwrap();
    }
    registry.disconnect(&one, 7, &workers);
    assert_eq!(registry.groups_of(&one.user), [name("eng"), name("kept")]);
    registry.disconnect(&two, 8, &workers);
    assert_eq!(registry.groups(), [(name("kept"), 0)]);
    assert_eq!(registry.audience_count(), 0);
    assert!(registry.directory.iter().all(|d| d.lock().unwrap().users.is_empty()));
    assert!(!registry.presence(&one.user).is_known, "nobody comes back under a generated name");
}

#[test]
fn who_takes_a_session_over_is_counted_once_and_was_never_away() {
    let most = u32::try_from(limits::SESSIONS_PER_USER_MAX).unwrap();
    for (login, most) in
        [(LoginPolicy::Coexist, most), (LoginPolicy::Limit(2), 2), (LoginPolicy::ReplaceOldest(2), 2)]
    {
        let registry = Registry::new(1, 0).with_login_policy(login);
        let workers = Recorder::default();
        let sessions: Vec<_> = (0..most).map(|count| session(count, 0, "anonymous-1")).collect();
        for session in &sessions {
            registry.connect(SessionEntry { is_generated: true, ..entry(session) }, &workers).unwrap();
        }
        registry.join(&name("anonymous-1"), &name("eng"), &workers).unwrap();
        registry.watch(5, &[name("anonymous-1")]).unwrap();
        let full = Recorder { full: true, ..Recorder::default() };
        let mut old = sessions[1].clone();
        let refused = registry.take_over(entry(&session(100, 1, "anonymous-1")), &old, &full).unwrap_err();
        assert_eq!((refused.code, registry.sessions().len()), (Code::Overloaded, most as usize));
        for count in 101..104 {
            let new = session(count, 1, "anonymous-1");
            let taken = SessionEntry { is_generated: true, ..entry(&new) };
            let connected = registry.take_over(taken, &old, &workers).unwrap();
            assert_eq!((connected.addresses.len(), connected.is_first), (3, false), "{login:?}");
            assert!(connected.replaced.is_empty(), "{login:?}");
            let ids: Vec<_> = registry.sessions().into_iter().map(|entry| entry.session.id).collect();
            assert!(ids.len() == most as usize && ids.contains(&new.id) && !ids.contains(&old.id));
            // Its connection ends later.
            registry.disconnect(&old, 7, &workers);
            assert_eq!(registry.groups_of(&new.user), [name("eng")], "{login:?}");
            old = new;
        }
        assert_eq!(reach(&registry, "group/eng"), (vec![0, 1], 1));
        for session in sessions.iter().chain([&old]) {
            registry.disconnect(session, 8, &workers);
        }
        let told: Vec<_> = workers.presence.borrow().iter().map(|(_, change)| change.online).collect();
        assert_eq!(told, [false], "{login:?}");
        assert_eq!((registry.audience_count(), registry.groups().len()), (0, 0));
    }
}

#[test]
fn memberships_of_a_generated_name_wait_for_whoever_may_come_back() {
    let (registry, workers) = (Registry::new(1, 0), Recorder::default());
    let connect = |session: &Session| {
        let entry = SessionEntry { is_generated: true, ..entry(session) };
        registry.connect(entry, &workers).unwrap()
    };
    let lost = session(1, 0, "anonymous-1");
    connect(&lost);
    registry.join(&lost.user, &name("eng"), &workers).unwrap();
    registry.lose(&lost, 7, &workers);
    assert_eq!(registry.groups(), [(name("eng"), 1)]);
    assert!(registry.is_generated(&lost.user));
    let back = session(2, 3, "anonymous-1");
    assert_eq!(connect(&back).addresses.len(), 3);
    assert_eq!(reach(&registry, "group/eng"), (vec![3], 1));
    registry.end_generated(&back.user);
    assert_eq!(registry.groups_of(&back.user), [name("eng")], "not while there is a session");
    registry.lose(&back, 8, &workers);
    registry.end_generated(&back.user);
    assert_eq!((registry.groups(), registry.audience_count()), (vec![], 0));
    assert!(registry.directory.iter().all(|d| d.lock().unwrap().users.is_empty()));
    // A name that was not generated keeps what it has.
    let alice = session(3, 0, "alice");
    registry.connect(entry(&alice), &workers).unwrap();
    registry.join(&alice.user, &name("eng"), &workers).unwrap();
    registry.lose(&alice, 9, &workers);
    registry.end_generated(&alice.user);
    assert_eq!(registry.groups_of(&alice.user), [name("eng")]);
}

fn ids(sessions: &[Session]) -> Vec<SessionId> {
    sessions.iter().map(|session| session.id).collect()
}

#[test]
fn the_oldest_sessions_give_way() {
    let registry = Registry::new(1, 0).with_login_policy(LoginPolicy::ReplaceOldest(2));
    let [one, two, three, four] = [1, 2, 3, 4].map(|count| session(count, 0, "alice"));
    assert!(connect(&registry, &one).unwrap().replaced.is_empty());
    assert!(connect(&registry, &two).unwrap().replaced.is_empty());
    assert_eq!(ids(&connect(&registry, &three).unwrap().replaced), ids(std::slice::from_ref(&one)));
    assert_eq!(
        ids(&connect(&registry, &four).unwrap().replaced),
        ids(&[one.clone(), two.clone()]),
        "a session that is not closed yet is named again"
    );
    registry.disconnect(&one, 7, &Recorder::default());
    registry.disconnect(&two, 7, &Recorder::default());
    let left: Vec<_> = registry.sessions().into_iter().map(|entry| entry.session).collect();
    assert_eq!(ids(&left), ids(&[three, four]));
    assert!(connect(&registry, &session(5, 0, "bob")).unwrap().replaced.is_empty(), "users are apart");
}

#[test]
fn replaced_sessions_are_bounded_and_need_room_on_their_worker() {
    let registry = Registry::new(1, 0).with_login_policy(LoginPolicy::ReplaceOldest(1));
    connect(&registry, &session(0, 0, "alice")).unwrap();
    let full = Recorder { full: true, ..Recorder::default() };
    let refused = registry.connect(entry(&session(1, 0, "alice")), &full).unwrap_err();
    assert_eq!((refused.code, registry.sessions().len()), (Code::Overloaded, 1));
    let most = u32::try_from(limits::SESSIONS_PER_USER_MAX).unwrap() + 1;
    (1..most).for_each(|count| assert!(connect(&registry, &session(count, 0, "alice")).is_ok()));
    let error = connect(&registry, &session(most, 0, "alice")).unwrap_err();
    assert_eq!(error.code, Code::TooManySessions);
}

#[test]
fn a_limit_of_sessions_refuses() {
    for (limit, most) in [(0, 1), (1, 1), (3, 3), (u32::MAX, limits::SESSIONS_PER_USER_MAX)] {
        let registry = Registry::new(1, 0).with_login_policy(LoginPolicy::Limit(limit));
        let most = u32::try_from(most).unwrap();
        (0..most).for_each(|count| assert!(connect(&registry, &session(count, 0, "alice")).is_ok()));
        let error = connect(&registry, &session(most, 0, "alice")).unwrap_err();
        assert_eq!(error.code, Code::TooManySessions, "{limit}");
    }
}

#[test]
fn too_many_sessions_of_a_user() {
    let registry = Registry::new(1, 0);
    for count in 0..u32::try_from(limits::SESSIONS_PER_USER_MAX).unwrap() {
        connect(&registry, &session(count, 0, "bot")).unwrap();
    }
    let error = connect(&registry, &session(9999, 0, "bot")).unwrap_err();
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
