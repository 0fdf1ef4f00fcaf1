//! Guests that stand for versions of one policy: each drops with its own mark as the reason, and misbehaves when told to.

use crate::guests::Guest;
use std::sync::Arc;
use waspmq_core::address::Kind;
use waspmq_core::policy::{Message, Outcome, Policies, Route};
use waspmq_policy::{Host, PolicyState};

/// A guest whose verdict is `drop(mark)`, or a bad one for a message with a key, behind a loop of `turns` turns.
pub(crate) fn version(mark: &str, turns: u32) -> Vec<u8> {
    assert_eq!(mark.len(), 1);
    let data = format!(
        r#"(data (i32.const 512) "{mark}")
        (data (i32.const 2048) "\05\00\00\00\00\00\00\00\00\02\00\00\01\00\00\00")
        (data (i32.const 3072) "\02\00\00\00\00\00\00\00\00\02\00\00\00\00\00\00")"#
    );
    let route = format!(
        "(loop $l (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const {turns}))))
        (select (i32.const 3072) (i32.const 2048) (local.get $key_len))"
    );
    Guest { data, route, ..Guest::default() }.build()
}

/// About a millisecond.
pub(crate) const LONG: u32 = 2_000_000;

/// A host with plugin `p` in revisions with the marks `1`, `2`, and so on.
pub(crate) fn host_of(workers: usize, turns: &[u32]) -> Arc<Host> {
    let host = crate::host(workers);
    for (index, turns) in turns.iter().enumerate() {
        host.upload("p", &version(&(index + 1).to_string(), *turns), "test").unwrap();
    }
    host
}

/// The mark of the version that decides a message of `from`; `-` when none does.
pub(crate) fn mark(policies: &mut impl Policies, from: &str, key: &str) -> String {
    let message = Message {
        from,
        session: None,
        to: "topic/a",
        kind: Kind::Topic,
        key,
        payload: b"{}",
        is_json: true,
        headers: &[],
        priority: 4,
        unix_ms: 1_700_000_000_000,
    };
    match crate::route(policies, &message) {
        Outcome::Decided(verdict) => match verdict.route {
            Route::Drop(mark) => mark,
            Route::Continue => "-".to_owned(),
            other => panic!("{other:?}"),
        },
        Outcome::Refused(reason) => reason,
    }
}

pub(crate) fn revision(state: &PolicyState) -> Option<u32> {
    state.current.as_ref().and_then(|current| current.revision)
}
