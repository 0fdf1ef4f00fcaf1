//! The shipped policy `compress-adaptive`, as a component: by size, by content type, and by what is in messages.

use crate::guests::built;
use crate::lanes::{Numbers, lanes_of};
use crate::{document, host, message, outcome};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use waspmq_core::MessageId;
use waspmq_core::compression::{Audience, Codec, Codecs};
use waspmq_core::policy::{Compressing, Message};
use waspmq_policy::{Host, PutError, WorkerPolicies};

const BOTH: Audience = Audience { codecs: Codecs::LZ4.with(Codecs::ZSTD), has_dictionary: false };

fn put(host: &Host, config: &Value) -> Result<(), PutError> {
    let more = json!({ "hook": "compression", "config": config });
    host.put_policy("p", document("p", &["topic/>"], more), "test").map(|_| ())
}

fn adaptive(config: &Value) -> (Arc<Host>, WorkerPolicies) {
    let host = host(1);
    let revision = host.upload("p", &built("compress-adaptive"), "test").unwrap();
    assert_eq!((revision.lane, revision.lane_reason), ("core", None));
    put(&host, config).unwrap();
    let policies = host.worker(0);
    (host, policies)
}

/// Records, of which each is like the one before.
fn records(len: usize) -> Vec<u8> {
    let line = |n: usize| format!("{{\"order\":{n},\"state\":\"paid\",\"price\":{}}}\n", n * 37).into_bytes();
    (0..).flat_map(line).take(len).collect()
}

fn noise(len: usize) -> Vec<u8> {
    let mut numbers = Numbers(4_711);
    (0..len).map(|_| u8::try_from(numbers.below(256)).unwrap()).collect()
}

fn choose(policies: &mut WorkerPolicies, message: &Message<'_>, audience: Audience) -> Codec {
    assert!(policies.has_compression(message.to));
    policies.choose(message, MessageId::new(1, 1, 0, 1), audience).unwrap().codec
}

#[test]
fn what_is_worth_it_is_compressed() {
    let (host, mut policies) = adaptive(&json!({}));
    let (records, noise) = (records(100_000), noise(100_000));
    let mut chosen =
        |to, payload, audience| choose(&mut policies, &Message { payload, ..message(to, &[]) }, audience);
    assert_eq!(chosen("topic/records", &records[..255], BOTH), Codec::Plain);
    assert_eq!(chosen("topic/records", &records[..1_000], BOTH), Codec::Zstd { level: 3 });
    assert_eq!(chosen("topic/records", &records, BOTH), Codec::Lz4, "large ones by the quickest");
    let everything = Codecs::LZ4.with(Codecs::ZSTD).with(Codecs::DICTIONARY);
    let dictionary = Audience { codecs: everything, has_dictionary: true };
    assert_eq!(chosen("topic/records", &records[..1_000], dictionary), Codec::Dictionary { name: None });
    let nobody = Audience { codecs: Codecs::NONE, has_dictionary: true };
    assert_eq!(chosen("topic/records", &records[..1_000], nobody), Codec::Plain);
    for payload in [&noise[..1_000], &noise] {
        assert_eq!(chosen("topic/noise", payload, BOTH), Codec::Plain);
    }
    let state = host.policy("p").unwrap();
    assert_eq!((outcome(&host, "p", "ok"), state.calls), (7, 7));
    assert_eq!(state.histograms["kept_percent"].count, 2, "one of each kind was looked into");
}

#[test]
fn content_types_say_more_than_samples() {
    let config = json!({ "header": "kind", "types": { "text/*": "always", "x/packed": "none" } });
    let (host, mut policies) = adaptive(&config);
    let (records, noise) = (records(1_000), noise(1_000));
    let mut chosen = |kind: &str, payload| {
        let headers = [("kind".to_owned(), kind.to_owned())];
        choose(&mut policies, &Message { payload, ..message("topic/a", &headers) }, BOTH)
    };
    assert_eq!(chosen("text/plain; charset=utf-8", &noise), Codec::Zstd { level: 3 });
    assert_eq!(chosen("x/packed", &records), Codec::Plain);
    assert_eq!(chosen("x/other", &records), Codec::Zstd { level: 3 });
    assert_eq!(chosen("image/png", &noise), Codec::Plain);
    assert_eq!(host.policy("p").unwrap().histograms["kept_percent"].count, 2);
}

#[test]
fn a_bad_configuration_is_refused_by_its_key() {
    let (host, _) = adaptive(&json!({}));
    for (config, expected) in [
        (json!({"worth": 2}), "worth: must be above 0 and at most 1"),
        (json!({"levels": {"zstd": 12}}), "levels.zstd: must be -7 to 9"),
        (json!({"speed": 1}), "unknown field `speed`"),
    ] {
        let refused = put(&host, &config).unwrap_err().to_string();
        assert!(refused.contains(expected), "{config}: {refused}");
    }
}

#[test]
fn both_lanes_choose_alike() {
    let hosts = lanes_of("compression", &built("compress-adaptive"), &json!({ "rate": 3, "min_bytes": 100 }));
    let mut policies = hosts.each_ref().map(|host| host.worker(0));
    let mut numbers = Numbers(4_711);
    let mut different = BTreeSet::new();
    for _ in 0..5_000 {
        let len = numbers.below(2_000);
        let random = 1 + numbers.below(255);
        let payload: Vec<u8> = (0..len)
            .map(|_| u8::try_from(numbers.below(1 + u32::try_from(random).unwrap())).unwrap())
            .collect();
        let to = format!("topic/{}", random / 16);
        let headers = [("content-type".to_owned(), ["a/b", "image/png"][numbers.below(20) / 19].to_owned())];
        let all = [Codecs::LZ4, Codecs::ZSTD, Codecs::DICTIONARY, Codecs::DEFLATE];
        let codecs = all.into_iter().filter(|_| numbers.below(2) == 0).fold(Codecs::NONE, Codecs::with);
        let audience = Audience { codecs, has_dictionary: numbers.below(4) == 0 };
        let message = Message { payload: &payload, ..message(&to, &headers) };
        let [core, component] = policies.each_mut().map(|policies| choose(policies, &message, audience));
        assert_eq!(core, component, "{len} bytes of {random} values for {audience:?}");
        different.insert(format!("{core:?}"));
    }
    assert_eq!(different.len(), 5, "{different:?}");
    let [core, component] = hosts.map(|host| host.policy("p").unwrap());
    assert_eq!((&core.outcomes, &core.counters), (&component.outcomes, &component.counters));
    let [core, component] = [core, component].map(|state| state.histograms["kept_percent"]);
    assert_eq!(core, component);
    assert!(core.count > 100, "{}", core.count);
}
