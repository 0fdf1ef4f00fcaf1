//! Hosts with one plugin and one policy, and messages to ask it about.

use crate::Fallible;
use serde_json::{Value, json};
use std::sync::Arc;
use waspmq_core::SessionId;
use waspmq_core::address::{Kind, Name};
use waspmq_core::policy::{Message, QueueMembers};
use waspmq_policy::{Host, HostOptions, Nobody, PolicyDocument};

/// The name of every plugin, and of the policy where there is one.
pub(crate) const NAME: &str = "p";

/// A host with a plugin out of `target/plugins` and no policy.
pub(crate) fn with_plugin(options: HostOptions, plugin: &str) -> Fallible<Arc<Host>> {
    let host = Host::start(options, Arc::new(Nobody))?;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/plugins");
    let path = format!("{file}/{plugin}.wasm");
    let component = std::fs::read(&path).map_err(|error| format!("{path}: {error}"))?;
    let revision = host.upload(NAME, &component, "bench")?;
    match revision.lane_reason {
        Some(reason) => Err(format!("{plugin} does not take the lane core: the component {reason}").into()),
        None => Ok(host),
    }
}

/// The same with a policy; `more` is what its document has besides plugin and patterns.
pub(crate) fn with_policy(workers: usize, plugin: &str, more: &Value) -> Fallible<Arc<Host>> {
    let host = with_plugin(HostOptions { workers, policies_max: 1, ..HostOptions::default() }, plugin)?;
    host.queue_changed(QueueMembers {
        pattern: "topic/orders.>".to_owned(),
        queue: Name::parse("w")?,
        version: 1,
        members: (0..10).map(|i| format!("user{i}/box/{i}")).collect(),
        loads: (0..10).collect(),
    });
    host.put_policy(NAME, document(more)?, "bench")?;
    Ok(host)
}

/// A document for all topics.
pub(crate) fn document(more: &Value) -> Fallible<PolicyDocument> {
    let mut document = json!({ "hook": "routing", "plugin": NAME, "match": ["topic/>"] });
    if let (Some(fields), Some(more)) = (document.as_object_mut(), more.as_object()) {
        more.iter().for_each(|(key, value)| {
            fields.insert(key.clone(), value.clone());
        });
    }
    Ok(serde_json::from_value(document)?)
}

/// How often calls of the policy ended in this way.
pub(crate) fn outcome(host: &Host, name: &str) -> u64 {
    let counted = host.policy(NAME).map(|state| state.outcomes).unwrap_or_default();
    counted.iter().find(|(outcome, _)| *outcome == name).map_or(0, |(_, count)| *count)
}

/// A message with a sender, an address of 23 bytes, a key, one header and 128 bytes of payload.
pub(crate) fn message(headers: &[(String, String)]) -> Message<'_> {
    Message {
        from: "alice@example.org",
        session: Some(SessionId::new(1, 0, 1)),
        to: "topic/orders.eu.created",
        kind: Kind::Topic,
        key: "customer-4711",
        payload: &[b'x'; 128],
        is_json: true,
        headers,
        priority: 4,
        unix_ms: 1_700_000_000_000,
    }
}
