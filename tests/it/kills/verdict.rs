//! What the clients of a crash test noted, and what must hold of it.

use super::actors::END;
use super::rounds::{PICKY, USERS};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;
use waspmq_client::Level;

/// A message by what its publisher called it; each is published once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Message {
    pub(crate) sender: String,
    pub(crate) round: u32,
    pub(crate) n: u64,
}

impl Message {
    pub(crate) fn to_json(&self) -> Value {
        json!({"sender": self.sender, "round": self.round, "n": self.n})
    }

    pub(crate) fn parse(value: &Value) -> Self {
        let round = u32::try_from(value["round"].as_u64().unwrap()).unwrap();
        Self { sender: value["sender"].as_str().unwrap().to_owned(), round, n: value["n"].as_u64().unwrap() }
    }
}

/// A message as one device got it.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) message: Message,
    pub(crate) id: String,
    pub(crate) attempt: Option<u64>,
    /// Which connection of the device, where it knows.
    pub(crate) connection: u64,
    pub(crate) is_acked: bool,
}

/// A receipt.
#[derive(Debug, Clone)]
pub(crate) struct Promise {
    pub(crate) message: Message,
    pub(crate) user: &'static str,
    pub(crate) level: Level,
    pub(crate) id: String,
}

#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) published: u64,
    round: u32,
    promises: Vec<Promise>,
    refusals: BTreeMap<u16, u64>,
    /// By user and device, in the order of arrival.
    arrivals: HashMap<(&'static str, &'static str), Vec<Arrival>>,
}

/// What a run did.
#[derive(Debug)]
#[expect(dead_code, reason = "printed")]
pub(crate) struct Summary {
    pub(crate) published: u64,
    pub(crate) stored: usize,
    pub(crate) delivered: usize,
    pub(crate) accepted: usize,
    pub(crate) unanswered: u64,
    pub(crate) refusals: BTreeMap<u16, u64>,
    pub(crate) arrivals: usize,
    pub(crate) repeats: usize,
    pub(crate) repeats_with_attempt: usize,
    pub(crate) slowest_start: Duration,
}

impl Notes {
    pub(crate) const fn begin_round(&mut self, round: u32) {
        self.round = round;
    }

    /// Every third message of the round that runs is left unacknowledged by the picky recipient.
    pub(crate) const fn is_refused(&self, message: &Message) -> bool {
        message.n.is_multiple_of(3) && message.round == self.round && message.n != END
    }

    pub(crate) fn arrive(&mut self, user: &'static str, device: &'static str, arrival: Arrival) {
        self.arrivals.entry((user, device)).or_default().push(arrival);
    }

    pub(crate) fn promise(&mut self, promise: Promise) {
        self.promises.push(promise);
    }

    pub(crate) fn refuse(&mut self, code: u16) {
        *self.refusals.entry(code).or_default() += 1;
    }

    /// Whether so many devices have the message that ends everything.
    pub(crate) fn have_ended(&self, devices: usize) -> bool {
        let has_end = |arrivals: &&Vec<Arrival>| arrivals.iter().rev().take(64).any(|a| a.message.n == END);
        self.arrivals.values().filter(has_end).count() == devices
    }

    fn promised(&self, level: Level) -> impl Iterator<Item = &Promise> {
        self.promises.iter().filter(move |promise| promise.level == level)
    }
}

/// Who is still without the end.
pub(crate) fn late(notes: &Notes) -> String {
    let state = notes.arrivals.iter().map(|(device, arrivals)| {
        let ended = arrivals.iter().any(|arrival| arrival.message.n == END);
        format!("{device:?}: {} messages, ended: {ended}", arrivals.len())
    });
    state.collect::<Vec<_>>().join("; ")
}

/// Everything that must hold of what the clients saw.
pub(crate) fn check(notes: &Notes, slowest_start: Duration) -> Summary {
    check_ids(notes);
    let mut problems = Vec::new();
    let (mut repeats, mut repeats_with_attempt) = (0, 0);
    for ((user, device), arrivals) in &notes.arrivals {
        let who = format!("{user} on {device}");
        let mut seen: HashMap<&Message, (u64, usize)> = HashMap::new();
        let mut newest: HashMap<&str, u64> = HashMap::new();
        for (index, arrival) in arrivals.iter().enumerate() {
            let Arrival { message, attempt, connection, .. } = arrival;
            if let Some((earlier, before)) = seen.insert(message, (*connection, index)) {
                repeats += 1;
                repeats_with_attempt += usize::from(attempt.is_some());
                if *device == "library" {
                    problems.push(format!("{who} got {message:?} as number {before} and as number {index}"));
                } else if earlier == *connection && attempt.is_none_or(|attempt| attempt < 2) {
                    problems.push(format!(
                        "{who} got {:?} and in the same connection {arrival:?}",
                        arrivals[before]
                    ));
                }
                continue;
            }
            if attempt.is_some() {
                continue; // a repeat comes when it is due, also where the first attempt found no room
            }
            let before = newest.insert(&message.sender, message.n);
            if before.is_some_and(|before| before >= message.n) {
                problems.push(format!("{who} got {arrival:?} behind {before:?}"));
            }
        }
        let missing = notes.promised(Level::Stored).filter(|p| p.user == *user);
        let missing = missing.filter(|promise| !seen.contains_key(&promise.message));
        problems.extend(missing.map(|promise| format!("{who} never got {promise:?}")));
    }
    let acked: HashSet<(&str, &str)> = notes
        .arrivals
        .iter()
        .flat_map(|((user, _), arrivals)| arrivals.iter().map(move |arrival| (*user, arrival)))
        .filter(|(_, arrival)| arrival.is_acked)
        .map(|(user, arrival)| (user, &*arrival.id))
        .collect();
    let unfounded = notes.promised(Level::Delivered).filter(|p| !acked.contains(&(p.user, &*p.id)));
    problems.extend(unfounded.map(|promise| format!("nobody acknowledged {promise:?}")));
    let count = |level| notes.promised(level).count();
    let answered = notes.promises.len() as u64 + notes.refusals.values().sum::<u64>();
    let summary = Summary {
        published: notes.published,
        stored: count(Level::Stored),
        delivered: count(Level::Delivered),
        accepted: count(Level::Accepted),
        unanswered: notes.published - answered,
        refusals: notes.refusals.clone(),
        arrivals: notes.arrivals.values().map(Vec::len).sum(),
        repeats,
        repeats_with_attempt,
        slowest_start,
    };
    eprintln!("{summary:#?}");
    let shown: Vec<_> = problems.iter().take(20).collect();
    assert!(problems.is_empty(), "{} problems, such as {shown:#?}", problems.len());
    assert!(summary.stored > 0 && summary.delivered > 0, "nothing was promised");
    assert!(summary.unanswered > 0 && summary.repeats > 0, "no kill met anything under way");
    summary
}

/// One id for each message, for everybody, and one message for each id.
fn check_ids(notes: &Notes) {
    let promised = notes.promises.iter().map(|promise| (promise.user, &promise.message, &promise.id));
    let arrived = notes.arrivals.iter().flat_map(|((user, _), arrivals)| {
        arrivals.iter().map(|arrival| (*user, &arrival.message, &arrival.id))
    });
    let (mut id_of, mut message_of) = (HashMap::new(), HashMap::new());
    for (user, message, id) in promised.chain(arrived) {
        let other = id_of.insert((user, message), id);
        assert!(other.is_none_or(|other| other == id), "{message:?} for {user} is {id} and {other:?}");
        let other = message_of.insert(id, (user, message));
        assert!(other.is_none_or(|other| other == (user, message)), "{id} is {message:?} and {other:?}");
    }
}

/// What is stored of a user holds every promise once and in order.
pub(crate) fn check_store(notes: &Notes, user: &str, stored: &[(Message, String)]) {
    assert!(USERS.contains(&user) || user == PICKY);
    let mut newest: HashMap<&str, u64> = HashMap::new();
    let mut ids = HashSet::new();
    for (message, id) in stored {
        let before = newest.insert(&message.sender, message.n);
        assert!(before.is_none_or(|before| before < message.n), "{user}: {message:?} behind {before:?}");
        ids.insert(&**id);
    }
    let promised = notes.promised(Level::Stored).filter(|promise| promise.user == user);
    let missing: Vec<_> = promised.filter(|promise| !ids.contains(&*promise.id)).collect();
    assert!(missing.is_empty(), "{user}: {} of {} are not stored: {missing:?}", missing.len(), stored.len());
}
