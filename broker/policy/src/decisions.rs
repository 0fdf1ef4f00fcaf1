//! Answers that policies said hold for more than one message, as one worker remembers them: verdicts, and choices of a
//! codec.
//!
//! An answer is one policy's, so what earlier policies set is not part of it. Everything is forgotten when the
//! set of policies changes, when another instance of a policy takes over, because it knows newer members of a queue or because the
//! one before failed or is worn, and when there is no more room: forgetting costs a call and nothing else.

use crate::bindings::Cache;
use crate::limits;
use crate::verdict::Ruling;
use std::collections::HashMap;
use waspmq_core::SessionId;
use waspmq_core::compression::{Audience, Codec};
use waspmq_core::policy::{Message, Route};

/// The answers of the current set of policies.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    /// Verdicts that hold for all messages to an address, by the numbers of the policies.
    addresses: ByAddress<usize, Ruling>,
    connections: HashMap<SessionId, Connection, foldhash::fast::RandomState>,
    /// Choices hold for one audience.
    choices: ByAddress<(usize, Audience), Option<Codec>>,
    count: usize,
}

/// Verdicts by the numbers of the policies, for each address.
type Connection = HashMap<Box<str>, Vec<(usize, Ruling)>, foldhash::fast::RandomState>;

/// A few answers for each address.
#[derive(Debug)]
struct ByAddress<K, T> {
    /// The place in `kept` of the answers for an address.
    places: HashMap<Box<str>, usize, foldhash::fast::RandomState>,
    kept: Vec<Vec<(K, T)>>,
    /// The address looked for last, with its place: most messages follow one to the same address.
    last: (String, Option<usize>),
}

impl<K, T> Default for ByAddress<K, T> {
    fn default() -> Self {
        Self { places: HashMap::default(), kept: Vec::new(), last: (String::new(), None) }
    }
}

impl<K: PartialEq, T> ByAddress<K, T> {
    #[inline]
    fn find(&mut self, to: &str, key: &K) -> Option<&T> {
        if self.kept.is_empty() {
            return None;
        }
        if self.last.0 != to {
            to.clone_into(&mut self.last.0);
            self.last.1 = self.places.get(to).copied();
        }
        let list = self.kept.get(self.last.1?)?;
        list.iter().find(|(of, _)| of == key).map(|(_, answer)| answer)
    }

    fn list(&mut self, to: &str) -> Option<&mut Vec<(K, T)>> {
        let place = match self.places.get(to) {
            Some(&place) => place,
            None => {
                // It may be the one that was looked for last, and not found.
                self.last.0.clear();
                self.last.1 = None;
                self.kept.push(Vec::new());
                self.places.insert(to.into(), self.kept.len() - 1);
                self.kept.len() - 1
            }
        };
        self.kept.get_mut(place)
    }
}

/// Adds an answer unless there is one; answers how many were added.
fn add<K: PartialEq, T: Clone>(list: Option<&mut Vec<(K, T)>>, key: K, answer: &T) -> usize {
    match list {
        Some(list) if list.iter().all(|(of, _)| *of != key) => {
            list.push((key, answer.clone()));
            1
        }
        _ => 0,
    }
}

impl Decisions {
    /// What the policy in this seat ruling about messages like this one.
    #[inline]
    pub(crate) fn find(&mut self, seat: usize, message: &Message<'_>) -> Option<&Ruling> {
        if self.count == 0 {
            return None;
        }
        let Self { addresses, connections, .. } = self;
        if let Some(ruling) = addresses.find(message.to, &seat) {
            return Some(ruling);
        }
        let list = connections.get(&message.session?)?.get(message.to)?;
        list.iter().find(|(of, _)| *of == seat).map(|(_, ruling)| ruling)
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
        self.make_room();
        let list = match (cache, message.session) {
            (Cache::Address, _) => self.addresses.list(message.to),
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
        self.count += add(list, seat, ruling);
    }

    /// What the policy in this seat chose for messages to this address for this audience.
    #[inline]
    pub(crate) fn find_choice(
        &mut self,
        seat: usize,
        (to, audience): (&str, Audience),
    ) -> Option<&Option<Codec>> {
        self.choices.find(to, &(seat, audience))
    }

    /// Remembers such a choice.
    pub(crate) fn keep_choice(
        &mut self,
        seat: usize,
        (to, audience): (&str, Audience),
        codec: &Option<Codec>,
    ) {
        self.make_room();
        self.count += add(self.choices.list(to), (seat, audience), codec);
    }

    fn make_room(&mut self) {
        if self.count >= limits::DECISIONS_MAX {
            self.clear();
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
    use waspmq_core::compression::Codecs;
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

    #[test]
    fn a_choice_holds_for_its_seat_its_address_and_its_audience() {
        let mut decisions = Decisions::default();
        let audience = |codecs, has_dictionary| Audience { codecs, has_dictionary };
        let (lz4, zstd) = (audience(Codecs::LZ4, false), audience(Codecs::ZSTD, false));
        decisions.keep_choice(0, ("topic/a", lz4), &Some(Codec::Lz4));
        decisions.keep_choice(1, ("topic/a", zstd), &None);
        decisions.keep_choice(0, ("topic/a", lz4), &Some(Codec::Plain));
        assert_eq!(decisions.count, 2, "the first one stays");
        let mut find = |seat, about| decisions.find_choice(seat, about).cloned();
        assert_eq!(find(0, ("topic/a", lz4)), Some(Some(Codec::Lz4)));
        assert_eq!(find(1, ("topic/a", zstd)), Some(None), "leaving it to others holds, too");
        for about in [("topic/a", zstd), ("topic/a", audience(Codecs::LZ4, true)), ("topic/b", lz4)] {
            assert_eq!(find(0, about), None, "{about:?}");
        }
        assert_eq!(find(0, ("topic/a", lz4)), Some(Some(Codec::Lz4)));
        for index in 0..limits::DECISIONS_MAX {
            decisions.keep_choice(0, (&format!("topic/{index}"), lz4), &None);
            assert!(decisions.count <= limits::DECISIONS_MAX);
        }
        assert!(decisions.find_choice(0, ("topic/a", lz4)).is_none(), "forgotten all at once");
    }
}
