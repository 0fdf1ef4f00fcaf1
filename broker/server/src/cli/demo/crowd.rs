//! The demo's clients, and what each of them received.

use super::report::Row;
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use waspmq_client::{Client, Error, Messages, Payload, Profile, PublishOptions};

/// How long nothing may arrive before what is missing counts as lost.
const QUIET: Duration = Duration::from_secs(5);

/// How long a moment is in which something that must not come would have come.
const MOMENT: Duration = Duration::from_millis(50);

/// What every message of the demo carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) phase: u32,
    pub(super) number: usize,
}

/// One message that came.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    pub(super) mark: Mark,
    pub(super) to: String,
}

/// What one client received, filled by a task of its own: a client that waits for receipts must not stop reading.
#[derive(Debug)]
struct Inbox {
    arrivals: Mutex<Vec<Arrival>>,
    /// One for all inboxes.
    arrived: Arc<Notify>,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Vec<Arrival>> {
        self.arrivals.lock().unwrap()
    }

    async fn fill(&self, mut messages: Messages) {
        while let Some(message) = messages.recv().await {
            // A message of somebody else is none of the demo's.
            let Ok(mark) = serde_json::from_slice(&message.payload) else { continue };
            self.lock().push(Arrival { mark, to: message.to });
            self.arrived.notify_one();
        }
    }
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) client: Client,
    inbox: Arc<Inbox>,
}

#[derive(Debug)]
pub(super) struct Crowd {
    pub(super) alice: Member,
    pub(super) bob: Member,
    pub(super) carol: Member,
    pub(super) dave: Member,
    readers: JoinSet<()>,
    arrived: Arc<Notify>,
    phase: u32,
}

impl Crowd {
    /// Connects everyone: two in each profile.
    pub(super) async fn gather(url: &str) -> anyhow::Result<Self> {
        let mut readers = JoinSet::new();
        let arrived = Arc::new(Notify::new());
        let mut connect = async |user: &str, profile: Profile| {
            let connecting = Client::builder(url).user(user).device("demo").profile(profile).connect();
            let (client, messages) = connecting.await.with_context(|| format!("{user} cannot connect"))?;
            let inbox = Arc::new(Inbox { arrivals: Mutex::default(), arrived: arrived.clone() });
            let filled = inbox.clone();
            readers.spawn(async move { filled.fill(messages).await });
            anyhow::Ok(Member { client, inbox })
        };
        let alice = connect("alice", Profile::Binary).await?;
        let bob = connect("bob", Profile::Json).await?;
        let carol = connect("carol", Profile::Binary).await?;
        let dave = connect("dave", Profile::Json).await?;
        Ok(Self { alice, bob, carol, dave, readers, arrived, phase: 0 })
    }

    /// Begins a phase: forgets what was received.
    pub(super) fn begin(&mut self, name: &'static str) -> Phase {
        self.phase += 1;
        for member in [&self.alice, &self.bob, &self.carol, &self.dave] {
            member.inbox.lock().clear();
        }
        Phase { name, number: self.phase, begun: Instant::now(), arrived: self.arrived.clone() }
    }

    pub(super) async fn leave(mut self) -> anyhow::Result<()> {
        for member in [self.alice, self.bob, self.carol, self.dave] {
            let stats = member.client.stats();
            if stats.reconnects + stats.overflowed + stats.refused > 0 {
                bail!("a client was disturbed: {stats:?}");
            }
            member.client.close().await?;
        }
        self.readers.shutdown().await;
        Ok(())
    }
}

impl Member {
    /// What came in this phase so far.
    pub(super) fn arrivals(&self, phase: &Phase) -> Vec<Arrival> {
        self.inbox.lock().iter().filter(|arrival| arrival.mark.phase == phase.number).cloned().collect()
    }

    pub(super) fn count(&self, phase: &Phase) -> usize {
        self.inbox.lock().iter().filter(|arrival| arrival.mark.phase == phase.number).count()
    }
}

/// One phase of the demo.
#[derive(Debug)]
pub(super) struct Phase {
    name: &'static str,
    number: u32,
    begun: Instant,
    /// Told of every message that any member received.
    arrived: Arc<Notify>,
}

impl Phase {
    pub(super) fn payload(&self, number: usize) -> anyhow::Result<Payload> {
        Ok(Payload::json(&Mark { phase: self.number, number })?)
    }

    /// Publishes `count` messages, many in flight, and waits for every receipt.
    pub(super) async fn publish(
        &self,
        from: &Member,
        count: usize,
        to: impl Fn(usize) -> &'static str,
        options: &PublishOptions,
    ) -> anyhow::Result<()> {
        let mut receipts = Vec::with_capacity(count);
        for number in 0..count {
            let payload = self.payload(number)?;
            receipts.push(from.client.publish(to(number), payload, options.clone()).await?);
        }
        for receipt in receipts {
            receipt.await.with_context(|| format!("a message of phase {} was refused", self.name))?;
        }
        Ok(())
    }

    /// Waits until the members have so many messages between them, or nothing comes any more; then a moment
    /// longer, for what must not come.
    pub(super) async fn wait(&self, members: &[&Member], expected: usize) {
        let count = || members.iter().map(|member| member.count(self)).sum::<usize>();
        let mut last = (count(), Instant::now());
        while count() < expected && last.1.elapsed() < QUIET {
            drop(tokio::time::timeout(MOMENT, self.arrived.notified()).await);
            if count() != last.0 {
                last = (count(), Instant::now());
            }
        }
        tokio::time::sleep(MOMENT).await;
    }

    /// Compares what each member had to get with what it got.
    pub(super) fn row(&self, sent: usize, wanted: &[Wanted<'_>], effect: Effect) -> Row {
        let mut row = Row {
            phase: self.name,
            sent,
            expected: 0,
            received: 0,
            lost: 0,
            repeated: 0,
            seen: effect.seen,
            effect: effect.text,
            elapsed: self.begun.elapsed().saturating_sub(MOMENT),
        };
        for Wanted { members, numbers } in wanted {
            let arrivals = members.iter().flat_map(|member| member.arrivals(self));
            let tally = tally(numbers, arrivals.map(|arrival| arrival.mark.number));
            row.expected += numbers.len();
            row.received += tally.received;
            row.lost += tally.lost;
            row.repeated += tally.repeated;
        }
        row
    }
}

/// These members, between them, must get each of these messages once.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) members: Vec<&'a Member>,
    pub(super) numbers: Vec<usize>,
}

impl<'a> Wanted<'a> {
    pub(super) fn all(members: &[&'a Member], count: usize) -> Self {
        Self { members: members.to_vec(), numbers: (0..count).collect() }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    received: usize,
    lost: usize,
    /// Messages that came more often than wanted, or were not wanted at all.
    repeated: usize,
}

/// Each wanted message must have come once, and no other.
fn tally(wanted: &[usize], arrived: impl Iterator<Item = usize>) -> Tally {
    let mut balance: BTreeMap<usize, i64> = wanted.iter().map(|number| (*number, -1)).collect();
    let mut received = 0;
    for number in arrived {
        *balance.entry(number).or_insert(0) += 1;
        received += 1;
    }
    let count = |is_it: fn(i64) -> bool| balance.values().filter(|balance| is_it(**balance)).count();
    Tally { received, lost: count(|balance| balance < 0), repeated: count(|balance| balance > 0) }
}

/// What a phase is for.
#[derive(Debug)]
pub(super) struct Effect {
    pub(super) seen: bool,
    pub(super) text: String,
}

impl Effect {
    pub(super) fn new(seen: bool, text: impl Into<String>) -> Self {
        Self { seen, text: text.into() }
    }
}

/// For phases in which a refusal is no reason to go on.
pub(super) async fn all_ok<const N: usize>(
    requests: [impl Future<Output = Result<(), Error>>; N],
) -> anyhow::Result<()> {
    for request in requests {
        request.await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_counts() {
        let check = |arrived: &[usize], received, lost, repeated| {
            let expected = Tally { received, lost, repeated };
            assert_eq!(tally(&[0, 1, 2], arrived.iter().copied()), expected, "{arrived:?}");
        };
        check(&[2, 0, 1], 3, 0, 0);
        check(&[0, 2], 2, 1, 0);
        check(&[0, 0, 2], 3, 1, 1);
        check(&[0, 1, 2, 3], 4, 0, 1);
        check(&[], 0, 3, 0);
    }
}
