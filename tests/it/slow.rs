//! A reader that does not read loses old messages, is told how many, and slows nobody.

use crate::harness::Broker;
use serde_json::json;

over_every_transport!(a_stalled_reader_drops_its_oldest_and_the_publisher_goes_on,);

async fn a_stalled_reader_drops_its_oldest_and_the_publisher_goes_on(profile: &'static str) {
    let broker = Broker::start().speaking(profile);
    let mut stalled = broker.connect("stalled").await;
    let mut healthy = broker.connect("healthy").await;
    for peer in [&mut stalled, &mut healthy] {
        peer.ask(json!({"type": "subscribe", "ref": 1, "to": "topic/t"})).await;
    }
    let mut publisher = broker.connect("publisher").await;
    let body = "x".repeat(60_000);
    let count = 400; // 24 MB: more than the kernel and the outbound queue hold
    for i in 0..count {
        publisher.send(&json!({"type": "publish", "ref": i, "to": "topic/t", "payload": [i, body]})).await;
        assert_eq!(publisher.receive().await["type"], "receipt");
        assert_eq!(healthy.receive().await["payload"][0], json!(i));
    }
    broker.eventually("the drop is counted", |broker| {
        broker
            .metric("waspmq_messages_dropped_total{reason=\"slow_consumer\"}")
            .is_some_and(|dropped| dropped > 0.0)
    });
    let frames = stalled.receive_until_marker("stalled", &mut publisher).await;
    let (overflows, messages): (Vec<_>, Vec<_>) =
        frames.iter().partition(|frame| frame["type"] == "overflow");
    let received: Vec<_> = messages.iter().map(|frame| frame["payload"][0].as_u64().unwrap()).collect();
    assert!(received.windows(2).all(|pair| pair[0] < pair[1]), "order holds");
    assert_eq!(received.last(), Some(&(count - 1)), "the newest are kept");
    let told: u64 = overflows.iter().map(|frame| frame["dropped"].as_u64().unwrap()).sum();
    assert!(overflows.iter().all(|frame| frame["to"] == "topic/t"));
    assert!(told > 0, "something was dropped");
    assert_eq!(told + received.len() as u64, count, "what is missing is told");
    let first_told = frames.iter().position(|frame| frame["type"] == "overflow").unwrap();
    let gap = received.windows(2).position(|pair| pair[0] + 1 < pair[1]).unwrap();
    assert!(first_told <= gap + 1, "told before what follows the gap");
    broker.eventually("every drop is counted by its action", |broker| {
        broker.metric("waspmq_slow_consumers_total{action=\"drop_oldest\"}").is_some_and(|n| n == told as f64)
    });
}
