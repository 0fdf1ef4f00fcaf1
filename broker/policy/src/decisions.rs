//! Verdicts that a policy said hold for more than one message, as one worker remembers them.
//!
//! A verdict is one policy's answer, so what earlier policies set is not part of it. Everything is forgotten when the
//! set of policies changes, when an instance that knows newer members of a queue takes over, and when there is no more
//! room: forgetting costs a call and nothing else.

use crate::bindings::Cache;
use crate::limits;
use std::collections::HashMap;
use waspmq_core::SessionId;
use waspmq_core::policy::{Message, Route, Verdict};

/// The verdicts of the current set of policies.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    addresses: ByAddress,
    connections: HashMap<SessionId, ByAddress, foldhash::fast::RandomState>,
    count: usize,
}

type ByAddress = HashMap<Box<str>, Vec<(usize, Verdict)>, foldhash::fast::RandomState>;

impl Decisions {
    /// What the policy in this seat said about messages like this one.
    #[inline]
    pub(crate) fn find(&self, seat: usize, message: &Message<'_>) -> Option<&Verdict> {
        if self.count == 0 {
            return None;
        }
        let of_connection = || self.connections.get(&message.session?)?.get(message.to);
        let in_list = |list: &'_ Vec<(usize, Verdict)>| list.iter().position(|(of, _)| *of == seat);
        let lists = [self.addresses.get(message.to), of_connection()];
        let found = lists.into_iter().flatten().find_map(|list| Some((list, in_list(list)?)));
        found.and_then(|(list, index)| list.get(index)).map(|(_, verdict)| verdict)
    }

    /// Remembers a verdict for as much as it holds for.
    pub(crate) fn keep(&mut self, seat: usize, message: &Message<'_>, (verdict, cache): (&Verdict, Cache)) {
        if cache == Cache::Never || matches!(verdict.route, Route::Pick { .. }) {
            return;
        }
        if self.count >= limits::DECISIONS_MAX {
            self.clear();
        }
        let addresses = match (cache, message.session) {
            (Cache::Address, _) => &mut self.addresses,
            (_, Some(session)) => self.connections.entry(session).or_default(),
            // Without a session there is no connection.
            (_, None) => return,
        };
        let list = match addresses.get_mut(message.to) {
            Some(list) => list,
            None => addresses.entry(message.to.into()).or_default(),
        };
        if list.iter().all(|(of, _)| *of != seat) {
            list.push((seat, verdict.clone()));
            self.count += 1;
        }
    }

    pub(crate) fn clear(&mut self) {
        if self.count > 0 {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_core::Kind;

    fn message(to: &str, session: u32) -> Message<'_> {
        Message {
            from: "alice",
            session: (session > 0).then(|| SessionId::new(1, 0, session)),
            to,
            kind: Kind::Topic,
            key: "",
            payload: b"",
            is_json: false,
            headers: &[],
            priority: 0,
            unix_ms: 0,
        }
    }

    #[test]
    fn a_verdict_holds_for_its_seat_and_its_address_or_connection() {
        let mut decisions = Decisions::default();
        let deliver = Verdict { route: Route::Deliver, set_headers: Vec::new() };
        decisions.keep(0, &message("topic/a", 1), (&deliver, Cache::Address));
        decisions.keep(1, &message("topic/a", 1), (&deliver, Cache::Connection));
        decisions.keep(2, &message("topic/a", 1), (&deliver, Cache::Never));
        decisions.keep(3, &message("topic/a", 0), (&deliver, Cache::Connection));
        let pick = Verdict { route: Route::Pick { version: 1, index: 0 }, set_headers: Vec::new() };
        decisions.keep(4, &message("topic/a", 1), (&pick, Cache::Address));
        let found = |to, session| -> Vec<usize> {
            (0..5).filter(|&seat| decisions.find(seat, &message(to, session)).is_some()).collect()
        };
        assert_eq!(found("topic/a", 1), [0, 1]);
        assert_eq!(found("topic/a", 2), [0], "another connection");
        assert_eq!(found("topic/a", 0), [0]);
        assert_eq!(found("topic/b", 1), [0; 0]);
        decisions.clear();
        assert!(decisions.find(0, &message("topic/a", 1)).is_none());
    }

    #[test]
    fn there_is_a_bound() {
        let mut decisions = Decisions::default();
        let deliver = Verdict { route: Route::Deliver, set_headers: Vec::new() };
        for index in 0..=limits::DECISIONS_MAX {
            let cache = if index % 2 == 0 { Cache::Address } else { Cache::Connection };
            decisions.keep(
                0,
                &message(&format!("topic/{index}"), u32::try_from(index).unwrap() + 1),
                (&deliver, cache),
            );
            assert!(decisions.count <= limits::DECISIONS_MAX);
        }
        assert_eq!(decisions.count, 1, "forgotten all at once");
    }
}
