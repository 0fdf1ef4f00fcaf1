//! The phases without policies: direct, group, topic, queue and broadcast messages.

use super::crowd::{Crowd, Effect, Member, Wanted, all_ok};
use super::report::Row;
use waspmq_client::PublishOptions;

const DIRECT: usize = 2_000;
const GROUP: usize = 500;
const TOPIC: usize = 1_000;
const QUEUE: usize = 1_000;
const EVERYONE: usize = 300;

pub(super) async fn play(crowd: &mut Crowd) -> anyhow::Result<Vec<Row>> {
    Ok(vec![
        direct(crowd).await?,
        group(crowd).await?,
        topic(crowd).await?,
        queue(crowd).await?,
        everyone(crowd).await?,
    ])
}

async fn direct(crowd: &mut Crowd) -> anyhow::Result<Row> {
    let phase = crowd.begin("direct");
    phase.publish(&crowd.alice, DIRECT, |_| "user/bob", &PublishOptions::default()).await?;
    phase.wait(&[&crowd.bob], DIRECT).await;
    let is_ordered = crowd.bob.arrivals(&phase).is_sorted_by_key(|arrival| arrival.mark);
    let effect = Effect::new(is_ordered, "binary sender, JSON receiver, in order");
    Ok(phase.row(DIRECT, &[Wanted::all(&[&crowd.bob], DIRECT)], effect))
}

async fn group(crowd: &mut Crowd) -> anyhow::Result<Row> {
    let phase = crowd.begin("group");
    let Crowd { alice, bob, carol, dave, .. } = &*crowd;
    all_ok([bob, carol, dave].map(|member| member.client.join("team"))).await?;
    phase.publish(alice, GROUP, |_| "group/team", &PublishOptions::default()).await?;
    phase.wait(&[bob, carol, dave], 3 * GROUP).await;
    let each = [bob, carol, dave].map(|member| Wanted::all(&[member], GROUP));
    let effect = Effect::new(alice.count(&phase) == 0, "three members, and nobody else");
    Ok(phase.row(GROUP, &each, effect))
}

/// Of two alternating topics, `*` matches one and `>` both.
async fn topic(crowd: &mut Crowd) -> anyhow::Result<Row> {
    let phase = crowd.begin("topic");
    let Crowd { alice, bob, carol, .. } = &*crowd;
    bob.client.subscribe("topic/orders.*", None).await?;
    carol.client.subscribe("topic/orders.>", None).await?;
    let topics = |number| if number % 2 == 0 { "topic/orders.eu" } else { "topic/orders.eu.created" };
    phase.publish(alice, TOPIC, topics, &PublishOptions::default()).await?;
    phase.wait(&[bob, carol], TOPIC / 2 + TOPIC).await;
    let one_token = Wanted { members: vec![bob], numbers: (0..TOPIC).step_by(2).collect() };
    let effect = Effect::new(true, "orders.* gets half of what orders.> gets");
    let row = phase.row(TOPIC, &[one_token, Wanted::all(&[carol], TOPIC)], effect);
    bob.client.unsubscribe("topic/orders.*", None).await?;
    carol.client.unsubscribe("topic/orders.>", None).await?;
    Ok(row)
}

async fn queue(crowd: &mut Crowd) -> anyhow::Result<Row> {
    let phase = crowd.begin("queue");
    let Crowd { alice, carol, dave, .. } = &*crowd;
    all_ok([carol, dave].map(|member| member.client.subscribe("topic/jobs", Some("workers")))).await?;
    phase.publish(alice, QUEUE, |_| "topic/jobs", &PublishOptions::default()).await?;
    phase.wait(&[carol, dave], QUEUE).await;
    let shares = [carol, dave].map(|member: &Member| member.count(&phase));
    let effect =
        Effect::new(!shares.contains(&0), format!("two members shared them {}:{}", shares[0], shares[1]));
    Ok(phase.row(QUEUE, &[Wanted::all(&[carol, dave], QUEUE)], effect))
}

async fn everyone(crowd: &mut Crowd) -> anyhow::Result<Row> {
    let phase = crowd.begin("broadcast");
    let Crowd { alice, bob, carol, dave, .. } = &*crowd;
    let options = PublishOptions { exclude_self: true, ..PublishOptions::default() };
    phase.publish(alice, EVERYONE, |_| "all", &options).await?;
    phase.wait(&[bob, carol, dave], 3 * EVERYONE).await;
    let each = [bob, carol, dave].map(|member| Wanted::all(&[member], EVERYONE));
    let effect = Effect::new(alice.count(&phase) == 0, "everyone but the sender");
    Ok(phase.row(EVERYONE, &each, effect))
}
