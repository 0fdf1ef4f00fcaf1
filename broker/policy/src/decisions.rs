//! Verdicts that a policy ruling hold for more than one message, as one worker remembers them.
//!
//! A verdict is one policy's answer, so what earlier policies set is not part of it. Everything is forgotten when the
//! set of policies changes, when an instance that knows newer members of a queue takes over, and when there is no more
//! room: forgetting costs a call and nothing else.

use crate::bindings::Cache;
use crate::limits;
use crate::verdict::Ruling;
use std::collections::HashMap;
use waspmq_core::SessionId;
use waspmq_core::policy::{Message, Route};

/// The verdicts of the current set of policies.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    /// The place in `kept` of the verdicts that hold for all messages to an address.
    addresses: HashMap<Box<str>, usize, foldhash::fast::RandomState>,
    kept: Vec<List>,
    connections: HashMap<SessionId, ByAddress, foldhash::fast::RandomState>,
    /// The address looked for last, with its place: most messages follow one to the same address.
    last: (String, Option<usize>),
    count: usize,
}

/// Verdicts by the numbers of the policies.
type List = Vec<(usize, Ruling)>;

type ByAddress = HashMap<Box<str>, List, foldhash::fast::RandomState>;

impl Decisions {
    /// What the policy in this seat ruling about messages like this one.
    #[inline]
    pub(crate) fn find(&mut self, seat: usize, message: &Message<'_>) -> Option<&Ruling> {
        if self.count == 0 {
            return None;
        }
        if self.last.0 != message.to {
            message.to.clone_into(&mut self.last.0);
            self.last.1 = self.addresses.get(message.to).copied();
        }
        let of_seat = |list: &'_ List| list.iter().position(|(of, _)| *of == seat);
        let of_address = self.last.1.and_then(|place| self.kept.get(place));
        let of_connection = || self.connections.get(&message.session?)?.get(message.to);
        let found = of_address.and_then(|list| Some((list, of_seat(list)?)));
        let (list, index) = match found {
            Some(found) => found,
            None => of_connection().and_then(|list| Some((list, of_seat(list)?)))?,
        };
        list.get(index).map(|(_, ruling)| ruling)
    }

    /// Remembers a verdict for as much as it holds for.
    pub(crate) fn keep(&mut self, seat: usize, message: &Message<'_>, (ruling, cache): (&Ruling, Cache)) {
        let is_pick = match ruling {
            Ruling::More(verdict) => matches!(verdict.route, Route::Pick { .. }),
            ruling => matches!(ruling, Ruling::Pick { .. }),
        };
        if cache == Cache::Never || is_pick {
            return;
        }
        if self.count >= limits::DECISIONS_MAX {
            self.clear();
        }
        let list = match (cache, message.session) {
            (Cache::Address, _) => self.list_of_address(message.to),
            (_, Some(session)) => {
                let addresses = self.connections.entry(session).or_default();
                if addresses.contains_key(message.to) {
                    addresses.get_mut(message.to)
                } else {
                    Some(addresses.entry(message.to.into()).or_default())
                }
            }
            // Without a session there is no connection.
            (_, None) => None,
        };
        let Some(list) = list else { return };
        if list.iter().all(|(of, _)| *of != seat) {
            list.push((seat, ruling.clone()));
            self.count += 1;
        }
    }

    fn list_of_address(&mut self, to: &str) -> Option<&mut List> {
        let place = match self.addresses.get(to) {
            Some(&place) => place,
            None => {
                // It may be the one that was looked for last, and not found.
                self.last.0.clear();
                self.last.1 = None;
                self.kept.push(Vec::new());
                self.addresses.insert(to.into(), self.kept.len() - 1);
                self.kept.len() - 1
            }
        };
        self.kept.get_mut(place)
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
    use waspmq_core::policy::Verdict;

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
        let deliver = Ruling::Deliver;
        decisions.keep(0, &message("topic/a", 1), (&deliver, Cache::Address));
        decisions.keep(1, &message("topic/a", 1), (&deliver, Cache::Connection));
        decisions.keep(2, &message("topic/a", 1), (&deliver, Cache::Never));
        decisions.keep(3, &message("topic/a", 0), (&deliver, Cache::Connection));
        let route = Route::Pick { version: 1, index: 0 };
        let pick = Ruling::from(Verdict { route, set_headers: Vec::new() });
        decisions.keep(4, &message("topic/a", 1), (&pick, Cache::Address));
        let mut found = |to, session| -> Vec<usize> {
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
        let deliver = Ruling::Deliver;
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
