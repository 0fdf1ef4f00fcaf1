//! The phases with policies: one is put live, changed, rolled back and removed while messages flow.

use super::super::api::Api;
use super::super::plugin;
use super::Plugins;
use super::crowd::{Arrival, Crowd, Effect, Member, Phase, Wanted};
use super::report::Row;
use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use waspmq_client::PublishOptions;

/// Messages in flight while the policy changes.
const WINDOW: usize = 32;

/// Messages that must show an effect before the next change.
const SHOWN: usize = 200;

/// How long an effect may take to show.
const PATIENCE: Duration = Duration::from_secs(10);

/// Messages without a key, which only a policy keeps together.
const STICKY: usize = 400;

const FIRST: &str = "topic/audit.first";
const SECOND: &str = "topic/audit.second";

pub(super) async fn play(crowd: &mut Crowd, api: Api, plugins: Plugins) -> anyhow::Result<Vec<Row>> {
    let operator = Operator { api: Arc::new(api) };
    Ok(vec![live_swap(crowd, &operator, &plugins).await?, sticky_queue(crowd, &operator, &plugins).await?])
}

/// Someone at the admin API, off the clients' thread as an operator would be.
#[derive(Debug, Clone)]
struct Operator {
    api: Arc<Api>,
}

impl Operator {
    async fn ask(
        &self,
        work: impl FnOnce(&Api) -> anyhow::Result<Value> + Send + 'static,
    ) -> anyhow::Result<Value> {
        let api = self.api.clone();
        tokio::task::spawn_blocking(move || work(&api)).await.context("an admin request panicked")?
    }

    async fn push(&self, file: &std::path::Path, name: &'static str) -> anyhow::Result<Value> {
        let file = file.to_owned();
        self.ask(move |api| plugin::push(api, &file, name)).await
    }

    async fn set(&self, name: &'static str, document: Value) -> anyhow::Result<Value> {
        self.ask(move |api| api.put(&["policies", name], Some(&document))).await
    }

    async fn mirror_to(&self, address: &'static str) -> anyhow::Result<Value> {
        let document = json!({
            "hook": "routing", "plugin": "route-mirror@1", "match": ["topic/live"],
            "config": { "to": address }, "on_failure": "closed",
        });
        self.set("mirror", document).await
    }
}

/// A stream of numbered messages runs through four changes of the active policies. The stream itself must
/// arrive whole; where the copies went shows which policy decided each message.
async fn live_swap(crowd: &mut Crowd, operator: &Operator, plugins: &Plugins) -> anyhow::Result<Row> {
    let phase = crowd.begin("policy swap");
    let Crowd { alice, bob, carol, .. } = &*crowd;
    bob.client.subscribe("topic/live", None).await?;
    carol.client.subscribe("topic/audit.*", None).await?;
    operator.push(&plugins.mirror, "route-mirror").await?;

    let is_over = Cell::new(false);
    let changes = async {
        let changed = change(operator, &phase, bob, carol).await;
        is_over.set(true);
        changed
    };
    let (sent, changed) = tokio::join!(stream(alice, &phase, &is_over), changes);
    let sent = sent?;
    changed?;
    phase.wait(&[bob], sent).await;
    let copies = carol.arrivals(&phase);
    let runs = runs(&copies);
    let gaps = gaps(&copies);
    let expected_runs = [FIRST, SECOND, FIRST];
    let effect = Effect::new(
        runs == expected_runs && gaps == 0,
        format!("4 changes under load; {} copies went first, second, first", copies.len()),
    );
    let row = phase.row(sent, &[Wanted::all(&[bob], sent)], effect);
    Ok(row)
}

/// On, changed, rolled back, off; each once enough messages showed the one before.
async fn change(operator: &Operator, phase: &Phase, stream: &Member, copies: &Member) -> anyhow::Result<()> {
    shown(phase, stream, |_| true, "the stream").await?;
    operator.mirror_to(FIRST).await?;
    shown(phase, copies, |arrival| arrival.to == FIRST, "the policy").await?;
    operator.mirror_to(SECOND).await?;
    shown(phase, copies, |arrival| arrival.to == SECOND, "the changed policy").await?;
    let before = copies.arrivals(phase).len();
    operator.ask(|api| api.post_empty(&["policies", "mirror", "rollback"])).await?;
    let is_back =
        |arrivals: &[Arrival]| arrivals.iter().skip(before).filter(|a| a.to == FIRST).count() >= SHOWN;
    until(|| is_back(&copies.arrivals(phase)), "the rollback").await?;
    operator.ask(|api| api.delete(&["policies", "mirror"])).await?;
    let (seen, mirrored) = (stream.count(phase), copies.count(phase));
    until(|| stream.count(phase) >= seen + SHOWN, "the stream without a policy").await?;
    // At most the messages that were on their way when the policy was removed have been copied.
    if copies.count(phase) > mirrored + SHOWN {
        bail!("a removed policy still decides");
    }
    Ok(())
}

async fn shown(
    phase: &Phase,
    member: &Member,
    is_it: impl Fn(&Arrival) -> bool,
    what: &str,
) -> anyhow::Result<()> {
    until(|| member.arrivals(phase).iter().filter(|arrival| is_it(arrival)).count() >= SHOWN, what).await
}

async fn until(is_true: impl Fn() -> bool, what: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !is_true() {
        if begun.elapsed() > PATIENCE {
            bail!("{what} did not show within {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Publishes until told to stop; the number of messages sent, each with its receipt.
async fn stream(from: &Member, phase: &Phase, is_over: &Cell<bool>) -> anyhow::Result<usize> {
    let mut sent = 0;
    while !is_over.get() {
        let mut receipts = Vec::with_capacity(WINDOW);
        for _ in 0..WINDOW {
            let payload = phase.payload(sent)?;
            receipts.push(from.client.publish("topic/live", payload, PublishOptions::default()).await?);
            sent += 1;
        }
        for receipt in receipts {
            receipt.await.context("a message was refused during the swap")?;
        }
        // A few thousand messages a second are enough to be caught by every change.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(sent)
}

/// The addresses that copies went to, each run of the same one once.
fn runs(copies: &[Arrival]) -> Vec<&str> {
    let mut sorted: Vec<_> = copies.iter().map(|copy| (copy.mark, copy.to.as_str())).collect();
    sorted.sort_unstable();
    let mut runs: Vec<&str> = sorted.into_iter().map(|(_, to)| to).collect();
    runs.dedup();
    runs
}

/// Messages between the first and the last copy that have no copy or more than one: a message that passed
/// while one policy took over from the other would be seen here.
fn gaps(copies: &[Arrival]) -> usize {
    let mut numbers: Vec<_> = copies.iter().map(|copy| copy.mark.number).collect();
    numbers.sort_unstable();
    numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).count()
}

/// Messages without a key spread over a queue's members; a policy sends them all to the same one.
async fn sticky_queue(crowd: &mut Crowd, operator: &Operator, plugins: &Plugins) -> anyhow::Result<Row> {
    operator.push(&plugins.hash, "route-consistent-hash").await?;
    let document = json!({
        "hook": "routing", "plugin": "route-consistent-hash@1", "match": ["topic/jobs"],
        "config": { "queue": "workers" }, "on_failure": "closed",
    });
    operator.set("sticky", document).await?;
    // The policy learns a queue's members a moment after they came; until then the broker chooses.
    let begun = Instant::now();
    loop {
        let phase = crowd.begin("sticky queue");
        let Crowd { alice, carol, dave, .. } = &*crowd;
        phase.publish(alice, STICKY, |_| "topic/jobs", &PublishOptions::default()).await?;
        phase.wait(&[carol, dave], STICKY).await;
        let shares = [carol, dave].map(|member| member.count(&phase));
        let is_sticky = shares.contains(&STICKY);
        if is_sticky || begun.elapsed() > PATIENCE {
            let effect =
                Effect::new(is_sticky, format!("the policy kept them together {}:{}", shares[0], shares[1]));
            let row = phase.row(STICKY, &[Wanted::all(&[carol, dave], STICKY)], effect);
            operator.ask(|api| api.delete(&["policies", "sticky"])).await?;
            return Ok(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::crowd::Mark;
    use super::*;

    fn copies(list: &[(usize, &str)]) -> Vec<Arrival> {
        let copy = |(number, to): &(usize, &str)| Arrival {
            mark: Mark { phase: 1, number: *number },
            to: (*to).to_owned(),
        };
        list.iter().map(copy).collect()
    }

    #[test]
    fn a_message_between_two_policies_is_seen() {
        let whole = copies(&[(5, FIRST), (6, FIRST), (8, FIRST), (7, SECOND)]);
        assert_eq!((runs(&whole), gaps(&whole)), (vec![FIRST, SECOND, FIRST], 0));
        assert_eq!(gaps(&copies(&[(5, FIRST), (7, SECOND)])), 1);
        assert_eq!(gaps(&copies(&[(5, FIRST), (5, SECOND), (6, SECOND)])), 1);
        assert_eq!((runs(&[]).len(), gaps(&[])), (0, 0));
    }
}
