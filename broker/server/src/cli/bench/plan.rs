//! The shape of a run with messages: what the scenarios differ in.

use super::limits::CLIENTS_MAX;
use super::options::{Load, Pace};
use super::schedule::{Schedule, Until};
use super::stamp;
use crate::cli::failure::Failure;
use serde_json::{Value, json};
use std::time::Duration;
use waspmq_client::{Level, Profile};

#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) scenario: &'static str,
    /// Each has a topic of its own.
    pub(super) publishers: usize,
    /// Of each topic.
    pub(super) receivers: usize,
    /// Whether the receivers of a topic share its messages.
    pub(super) is_queue: bool,
    /// Whether first and last receiver of each message are looked for.
    pub(super) has_spread: bool,
    pub(super) pace: Pace,
    /// `None`: without receipts.
    pub(super) level: Level,
    pub(super) size: usize,
    pub(super) warmup: Duration,
    /// Messages are those of each publisher.
    pub(super) until: Until,
}

impl Plan {
    pub(super) fn new(
        scenario: &'static str,
        (publishers, receivers): (usize, usize),
        pace: Pace,
        load: &Load,
    ) -> Self {
        Self {
            scenario,
            publishers,
            receivers,
            is_queue: false,
            has_spread: false,
            pace,
            level: Level::None,
            size: load.size,
            warmup: load.warmup(),
            until: load.until(),
        }
    }

    /// What clap cannot see.
    pub(super) fn check(&self, profile: Profile) -> Result<(), Failure> {
        let least = stamp::size_min(profile);
        if self.size < least {
            return Err(Failure::Usage(format!("--size: each message carries {least} bytes of its own")));
        }
        if self.clients() > CLIENTS_MAX {
            let text = format!("{} clients are more than {CLIENTS_MAX}, the most of one run", self.clients());
            return Err(Failure::Usage(text));
        }
        Ok(())
    }

    pub(super) const fn clients(&self) -> usize {
        self.publishers.saturating_add(self.publishers.saturating_mul(self.receivers))
    }

    /// How many receive each message.
    pub(super) const fn copies(&self) -> u64 {
        if self.is_queue { 1 } else { self.receivers as u64 }
    }

    pub(super) fn has_receipts(&self) -> bool {
        self.level != Level::None
    }

    /// When the messages of all publishers are due, where there is a rate.
    pub(super) fn schedule(&self) -> Option<Schedule> {
        let Pace::Rate(rate) = self.pace else { return None };
        let until = match self.until {
            Until::Messages(count) => Until::Messages(count.saturating_mul(self.publishers as u64)),
            until @ Until::Time(_) => until,
        };
        Some(Schedule::new(rate, self.warmup, until))
    }

    pub(super) fn json(&self) -> Value {
        let (rate, in_flight) = match self.pace {
            Pace::Rate(rate) => (Some(rate), None),
            Pace::Window(in_flight) => (None, Some(in_flight)),
        };
        let (duration_s, messages) = match self.until {
            Until::Time(time) => (Some(time.as_secs_f64()), None),
            Until::Messages(count) => (None, Some(count)),
        };
        json!({
            "publishers": self.publishers,
            "receivers": self.receivers,
            "rate": rate,
            "in_flight": in_flight,
            "ack": self.level.as_str(),
            "size": self.size,
            "warmup_s": self.warmup.as_secs_f64(),
            "duration_s": duration_s,
            "messages": messages,
        })
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let some = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let receivers = some(self.receivers, if self.is_queue { "member" } else { "receiver" });
        let each = if self.publishers > 1 { " each" } else { "" };
        let pace = match self.pace {
            Pace::Rate(rate) => format!("{rate} messages/s"),
            Pace::Window(count) => format!("{count} in flight"),
        };
        let level =
            if self.has_receipts() { format!(", ack {}", self.level.as_str()) } else { String::new() };
        format!("{}, {receivers}{each}, {pace}, {} B{level}", some(self.publishers, "publisher"), self.size)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn plan(publishers: usize, receivers: usize, pace: Pace) -> Plan {
        Plan {
            scenario: "latency",
            publishers,
            receivers,
            is_queue: false,
            has_spread: false,
            pace,
            level: Level::None,
            size: 128,
            warmup: Duration::from_secs(1),
            until: Until::Messages(10),
        }
    }

    #[test]
    fn what_does_not_fit_is_wrong_usage() {
        let check = |plan: &Plan, profile, expected: Option<&str>| match (plan.check(profile), expected) {
            (Ok(()), None) => {}
            (Err(Failure::Usage(text)), Some(expected)) => assert!(text.contains(expected), "{text}"),
            (found, _) => panic!("{plan:?}: {found:?}"),
        };
        let good = plan(1, 1, Pace::Window(1));
        check(&good, Profile::Binary, None);
        check(&Plan { size: 24, ..good.clone() }, Profile::Binary, None);
        check(&Plan { size: 23, ..good.clone() }, Profile::Binary, Some("24 bytes"));
        check(&Plan { size: 24, ..good }, Profile::Json, Some("50 bytes"));
        check(&plan(1, CLIENTS_MAX, Pace::Window(1)), Profile::Binary, Some("60001 clients"));
        check(&plan(usize::MAX, usize::MAX, Pace::Window(1)), Profile::Binary, Some("the most of one run"));
    }

    #[test]
    fn the_shape_says_who_receives_what() {
        let window = plan(3, 4, Pace::Window(8));
        assert_eq!((window.clients(), window.copies(), window.schedule()), (15, 4, None));
        assert_eq!(window.text(), "3 publishers, 4 receivers each, 8 in flight, 128 B");
        let queue = Plan { is_queue: true, level: Level::Stored, ..plan(1, 4, Pace::Rate(10.0)) };
        assert_eq!((queue.clients(), queue.copies()), (5, 1));
        assert_eq!(queue.text(), "1 publisher, 4 members, 10 messages/s, 128 B, ack stored");
        let schedule = plan(3, 1, Pace::Rate(10.0)).schedule().unwrap();
        assert_eq!(schedule.count(), 10 + 3 * 10);
    }
}
