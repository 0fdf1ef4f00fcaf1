//! Compression policies through the admin API: what they choose is what clients get, and what it came to is told.

use crate::compression::{Raw, orders};
use crate::harness::{Broker, Peer};
use crate::policies::{set_hook, upload};
use serde_json::{Value, json};

const ADDRESS: &str = "topic/orders.eu";

fn choose(broker: &Broker, codec: &Value) {
    let config = json!({"compression": {"codec": codec}});
    set_hook(broker, "compression", ("codecs", "decide"), "topic/orders.>", &config);
}

async fn publish(peer: &mut Peer, number: u32) -> String {
    let payload = orders(number);
    let frame =
        json!({"type": "publish", "ref": number, "to": ADDRESS, "payload": payload, "ack": "accepted"});
    let receipt = peer.ask(frame).await;
    receipt["id"].as_str().unwrap_or_else(|| panic!("{receipt}")).to_owned()
}

/// The codec of the next message that comes.
async fn codec(raw: &mut Raw) -> Option<&'static str> {
    raw.message().await.packed.map(|packed| packed.codec.name())
}

#[tokio::test]
async fn a_policy_chooses_for_each_set_of_codecs_and_is_swapped_under_way() {
    let broker = Broker::start();
    upload(&broker, "decide", "guest-decide");
    choose(&broker, &json!("lz4"));
    let mut both = Raw::connect(&broker, "both", &["zstd", "lz4"]).await;
    let mut zstd = Raw::connect(&broker, "zstd", &["zstd"]).await;
    let mut plain = Raw::connect(&broker, "plain", &[]).await;
    for raw in [&mut both, &mut zstd, &mut plain] {
        raw.subscribe("topic/orders.>").await;
    }
    let mut alice = broker.connect("alice").await;
    for (choice, expected) in [
        (json!("lz4"), [Some("lz4"), None]),
        (json!({"zstd": 9}), [Some("zstd"), Some("zstd")]),
        (json!("none"), [None, None]),
        // There is no such dictionary, so what stands in for one is done.
        (json!({"dictionary": "nobody"}), [Some("zstd"), Some("zstd")]),
        // A failure is passed by, and the broker chooses.
        (json!({"zstd": 100}), [Some("zstd"), Some("zstd")]),
    ] {
        choose(&broker, &choice);
        publish(&mut alice, 1).await;
        assert_eq!([codec(&mut both).await, codec(&mut zstd).await], expected, "{choice}");
        assert_eq!(codec(&mut plain).await, None, "{choice}");
    }
    let (_, state) = broker.admin("GET", "/v1/policies/codecs", None);
    let lz4 = &state["compressed"]["lz4"];
    assert!(
        lz4["messages"] == json!(1) && lz4["plain_bytes"].as_u64() > lz4["packed_bytes"].as_u64(),
        "{state}"
    );
    assert!(state["outcomes"]["bad_verdict"].as_u64().is_some_and(|count| count >= 1), "{state}");
    let of = |side: &str| {
        let series = format!("{{policy=\"codecs\",codec=\"lz4\",side=\"{side}\"}}");
        broker.metric(&format!("waspmq_policy_compression_bytes_total{series}")).unwrap()
    };
    assert_eq!(Some(of("plain_out")), lz4["plain_bytes"].as_f64());
    assert_eq!(Some(of("wire_out")), lz4["packed_bytes"].as_f64());
    let spent = "waspmq_policy_compression_seconds_total{policy=\"codecs\",codec=\"lz4\"}";
    assert!(broker.metric(spent).unwrap() > 0.0);
}

#[tokio::test]
async fn rules_and_the_shipped_policy_choose_and_choices_are_explained() {
    let broker = Broker::start_with(&[("WASPMQ_WORKERS", "1")]);
    let rules = json!([{"when": {"size_min": 100}, "then": {"codec": "lz4"}}]);
    let document = json!({"hook": "compression", "match": ["topic/orders.>"], "rules": rules});
    let (status, body) = broker.put_json("/v1/policies/codecs", &document);
    assert!(status < 300, "{status} {body}");
    let mut raw = Raw::connect(&broker, "raw", &["zstd", "lz4"]).await;
    raw.subscribe("topic/orders.>").await;
    let mut alice = broker.connect("alice").await;
    let id = publish(&mut alice, 1).await;
    assert_eq!(codec(&mut raw).await, Some("lz4"));
    let (status, explanation) = broker.admin("GET", &format!("/v1/explain/{id}"), None);
    let decision = &explanation["decisions"][0];
    assert_eq!(
        (status, &decision["question"], &decision["decision"]),
        (200, &json!("choose"), &json!("lz4"))
    );
    assert_eq!(decision["audience"], json!({"codecs": ["lz4", "zstd"], "dictionary": false}));
    assert_eq!(explanation["outcome"]["compression"], json!({"by": "codecs", "decision": "lz4"}));

    upload(&broker, "compress-adaptive", "compress-adaptive");
    let config = json!({"min_bytes": 64, "levels": {"zstd": 5}});
    set_hook(&broker, "compression", ("codecs", "compress-adaptive@1"), "topic/orders.>", &config);
    publish(&mut alice, 2).await;
    assert_eq!(codec(&mut raw).await, Some("zstd"));
    let document = json!({"hook": "compression", "match": ["all"], "rules": [{"then": {"codec": "br"}}]});
    let (status, refused) = broker.put_json("/v1/policies/other", &document);
    assert_eq!(
        (status, refused["detail"].as_str().unwrap().contains("rules[0].then.codec")),
        (422, true),
        "{refused}"
    );
}
