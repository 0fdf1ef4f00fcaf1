//! A broker that is killed again and again under load, and what its clients must have seen in the end.
//!
//! Recipients live as long as the run and reach the broker through a [`Gate`], which stays where it is when the
//! broker's port changes and is shut in rounds in which they are to be offline. Publishers live for one round.
//! Everybody notes what they saw; [`super::verdict`] looks at the notes.

use super::actors::{self, Gate};
use super::dice::Dice;
use super::verdict::{self, Notes};
use crate::harness::Broker;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Users with a client of the library and, except for the last, a raw peer as a second device.
pub(crate) const USERS: [&str; 3] = ["r0", "r1", "r2"];
/// A user with a raw peer only, which leaves some messages unacknowledged.
pub(crate) const PICKY: &str = "picky";

const RULES: &str =
    "[[address]]\nmatch = \"user/picky\"\nack_timeout_ms = 60\nbackoff_ms = 10\nattempts = 4\n";

/// Runs the rounds and checks what must hold.
pub(crate) async fn run(rounds: u32, seed: u64) -> verdict::Summary {
    eprintln!("crash: {rounds} rounds, seed {seed} (CRASH_SEED, CRASH_ROUNDS)");
    let mut dice = Dice::new(seed);
    let data = Arc::new(tempfile::tempdir().unwrap());
    let rules = data.path().join("rules.toml");
    std::fs::write(&rules, RULES).unwrap();
    let environment = [("WASPMQ_CONFIG", rules.to_str().unwrap())];
    let notes = Arc::new(Mutex::new(Notes::default()));
    let gate = Gate::open().await;
    let mut recipients = Vec::new();
    let mut slowest_start = Duration::ZERO;
    for round in 0..rounds {
        let started = Instant::now();
        let mut broker = Broker::start_on(&data, &environment);
        slowest_start = slowest_start.max(started.elapsed());
        // The first round is one in which they are online, so that every client exists.
        gate.lead_to((round % 2 == 0).then(|| broker.address.clone()));
        if round == 0 {
            recipients = actors::recipients(&gate, &notes).await;
        }
        let (kill, killed) = tokio::sync::watch::channel(false);
        let publishers = actors::publishers(&broker, (round, &mut dice), (&notes, &killed)).await;
        tokio::time::sleep(Duration::from_millis(40 + dice.below(260))).await;
        broker.signal("KILL");
        broker.wait();
        gate.lead_to(None);
        kill.send(true).unwrap();
        for publisher in publishers {
            publisher.await.unwrap();
        }
    }
    let broker = Broker::start_on(&data, &environment);
    gate.lead_to(Some(broker.address.clone()));
    actors::publish_end(&broker).await;
    let ended = Instant::now();
    while !notes.lock().unwrap().have_ended(recipients.len()) {
        assert!(ended.elapsed() < 3 * crate::harness::PATIENCE, "{}", verdict::late(&notes.lock().unwrap()));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for user in USERS.into_iter().chain([PICKY]) {
        let stored = actors::read_again(&broker, user).await;
        verdict::check_store(&notes.lock().unwrap(), user, &stored);
    }
    recipients.into_iter().for_each(|recipient| recipient.abort());
    let notes = notes.lock().unwrap();
    verdict::check(&notes, slowest_start)
}
