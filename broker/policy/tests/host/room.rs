//! Room for instances: what a change finds does not depend on when given up instances are freed.

use crate::guests::Guest;
use crate::versions::{mark, version};
use crate::{audit, document};
use serde_json::json;
use std::sync::{Arc, Condvar, Mutex};
use waspmq_core::address::Name;
use waspmq_core::policy::QueueMembers;
use waspmq_core::registry::Loads;
use waspmq_policy::{Host, HostOptions, PutError, Surroundings};

/// Surroundings that hold whoever asks for a user, until the gate is opened.
#[derive(Debug, Default)]
struct Gate {
    /// Whether somebody asked, and whether it is open.
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Gate {
    fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }

    fn wait_for_somebody(&self) {
        drop(self.changed.wait_while(self.state.lock().unwrap(), |(asked, _)| !*asked).unwrap());
    }
}

impl Surroundings for Gate {
    fn is_online(&self, _user: &str) -> bool {
        let mut state = self.state.lock().unwrap();
        state.0 = true;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |(_, open)| !*open).unwrap());
        true
    }

    fn group_size(&self, _group: &str) -> u32 {
        0
    }
}

/// Opens the gate at the end, so that a test that fails ends as well.
struct Opening(Arc<Gate>);

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// A guest that asks for a user when it is told of members.
fn asking() -> Vec<u8> {
    let edits = vec![
        (
            "(export \"counter\" (func (param \"name\" string) (param \"delta\" u64)))",
            "(export \"counter\" (func (param \"name\" string) (param \"delta\" u64)))
             (export \"is-online\" (func (param \"user\" string) (result bool)))",
        ),
        (
            "  (core func $counter (canon lower",
            "  (core func $online (canon lower (func $host \"is-online\") (memory (core memory $libc \"memory\"))))
             (core func $counter (canon lower",
        ),
        (
            "(import \"host\" \"log\" (func $log (param i32 i32 i32)))",
            "(import \"host\" \"log\" (func $log (param i32 i32 i32)))
             (import \"host\" \"online\" (func $online (param i32 i32) (result i32)))",
        ),
        ("(with \"host\" (instance ", "(with \"host\" (instance (export \"online\" (func $online)) "),
    ];
    let members_changed = "(drop (call $online (i32.const 0) (i32.const 1)))";
    Guest { edits, members_changed, ..Guest::default() }.build()
}

/// The policy thread, which frees what workers give up, is held; operators go on, and so do two workers.
#[test]
fn changes_find_room_while_the_policy_thread_is_busy() {
    const WORKERS: usize = 2;
    // Far more than there is room for at once.
    const SWAPS: u32 = 200;
    audit::record();
    let gate = Arc::new(Gate::default());
    let options = HostOptions { workers: WORKERS, policies_max: 2, ..HostOptions::default() };
    let host = Host::start(options, Arc::<Gate>::clone(&gate)).unwrap();
    let _opening = Opening(Arc::clone(&gate));
    host.upload("asking", &asking(), "test").unwrap();
    host.upload("p", &version("1", 0), "test").unwrap();
    host.upload("p", &version("2", 0), "test").unwrap();
    host.put_policy("asking", document("asking", &["user/*"], json!({})), "test").unwrap();
    host.queue_changed(QueueMembers {
        pattern: "topic/a".to_owned(),
        queue: Name::parse("w").unwrap(),
        version: 1,
        members: vec!["bob/phone/1".to_owned()],
        loads: Loads::default(),
    });
    gate.wait_for_somebody();
    let mut workers: Vec<_> = (0..WORKERS).map(|worker| host.worker(worker)).collect();
    for swap in 0..SWAPS {
        let (plugin, expected) = if swap % 2 == 0 { ("p@1", "1") } else { ("p@2", "2") };
        host.put_policy("p", document(plugin, &["topic/>"], json!({})), "test")
            .unwrap_or_else(|error| panic!("swap {swap}: {error}"));
        for worker in &mut workers {
            assert_eq!(mark(worker, "a", ""), expected);
        }
    }
    // An upload needs room to test the component.
    host.upload("p", &version("3", 0), "test").unwrap();
    let full = host.put_policy("r", document("p", &["topic/>"], json!({})), "test").unwrap_err();
    assert_eq!(full, PutError::NoCapacity { policies_max: 2 }, "more policies than there may be");
}
