//! A full disk: a change of plugins or policies that cannot be kept is refused and not done.

use crate::disk_full::SmallDisk;
use crate::harness::Broker;
use crate::policies::{component, set, upload};
use serde_json::json;
use std::sync::Arc;

#[test]
fn a_change_that_cannot_be_kept_is_refused_and_changes_nothing() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("NOT ROOT: no tmpfs can be mounted, so a full disk is not tested here");
        return;
    };
    let data = Arc::new(tempfile::tempdir_in(&disk.path).unwrap());
    let mut broker = Broker::start_on(&data, &[]);
    upload(&broker, "stamp", "stamp-a");
    set(&broker, "a", "stamp", "topic/a", &json!({"stamp": "1"}));
    let seen = |broker: &Broker| {
        ["/v1/policies", "/v1/plugins", "/v1/plugins/stamp", "/v1/audit"]
            .map(|path| broker.admin("GET", path, None))
    };
    let before = seen(&broker);
    disk.fill_but(0);
    let refused = |(status, problem): (u16, serde_json::Value)| {
        assert_eq!(status, 507, "{problem}");
        assert_eq!(problem["type"], "urn:waspmq:problem:storage_full");
        assert!(
            problem["retry_ms"].as_u64() > Some(0)
                && problem["detail"].as_str().unwrap().contains("nothing was changed"),
            "{problem}"
        );
    };
    let wasm = || Some(("application/wasm", component("stamp-b")));
    refused(broker.admin("POST", "/v1/plugins/stamp/revisions", wasm()));
    refused(broker.admin("POST", "/v1/plugins/other/revisions", wasm()));
    let document = json!({"hook": "routing", "plugin": "stamp", "match": ["topic/a"], "config": {"stamp": "x".repeat(9_000)}});
    refused(broker.put_json("/v1/policies/a", &document));
    assert_eq!(seen(&broker), before);
    // Nothing of it is there after a crash either.
    std::fs::remove_file(disk.ballast()).unwrap();
    broker.restart();
    let after = seen(&broker);
    assert_eq!((&after[1..3], &after[3]), (&before[1..3], &before[3]));
    assert_eq!(after[0].1["policies"][0]["document"], before[0].1["policies"][0]["document"]);
    upload(&broker, "stamp", "stamp-b");
    set(&broker, "a", "stamp", "topic/a", &json!({"stamp": "2"}));
    broker.restart();
    assert_eq!(broker.admin("GET", "/v1/policies/a", None).1["revision"], 2);
}
