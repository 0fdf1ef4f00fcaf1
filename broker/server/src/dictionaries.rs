//! Compression dictionaries: which one belongs to an address, or has a name.
//!
//! [`Dictionaries`] is one immutable set. [`Library`] keeps it, writes changes down and then puts the next set in its
//! place, so that a reader sees all of a change or nothing of it. Invariants: an id is given out once in the life of a
//! data directory; what is in a set has been checked and is prepared for both directions. Deliberately not here: when
//! a message is compressed, and how a client gets its dictionary.

mod index;
mod library;
pub mod limits;

pub use library::{By, Library, Push, PushError, Pushed, RemoveError, Revision};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use std::sync::Arc;
use waspmq_core::trie::Trie;
use waspmq_core::{Address, Kind, Name, Pattern};
use waspmq_protocol::codec;

/// One revision of a dictionary, ready for use.
#[derive(Debug)]
pub struct Dictionary {
    /// Never 0, and never given to another one in this data directory.
    pub id: u32,
    pub name: Name,
    /// The n-th push under this name, from 1.
    pub revision: u32,
    /// BLAKE3 of the bytes.
    pub digest: [u8; 32],
    /// The addresses it is for.
    pub patterns: Vec<Pattern>,
    pub bytes: Arc<[u8]>,
    pub prepared: codec::Dictionary,
}

/// A whole set.
///
/// An address gets the dictionary with the most specific pattern: one without wildcards before all others, then token
/// by token from the left a literal before `*` before `>`. Of the same pattern under two names, the first name has it.
#[derive(Debug, Default)]
pub struct Dictionaries {
    generation: u64,
    by_name: HashMap<Box<str>, Arc<Dictionary>, RandomState>,
    /// By the text of patterns without wildcards.
    plain: HashMap<Box<str>, Arc<Dictionary>, RandomState>,
    /// With the place of the pattern among all, the most specific one first.
    topics: Trie<Option<(usize, Arc<Dictionary>)>>,
    users: Option<Arc<Dictionary>>,
    groups: Option<Arc<Dictionary>>,
}

impl Dictionaries {
    /// `serving` is the one of each name that its patterns lead to.
    fn new(generation: u64, serving: &[Arc<Dictionary>]) -> Self {
        let mut set = Self { generation, ..Self::default() };
        let named = |dictionary: &Arc<Dictionary>| (dictionary.name.as_str().into(), Arc::clone(dictionary));
        set.by_name.extend(serving.iter().map(named));
        let mut bound: Vec<(&Pattern, &Arc<Dictionary>)> = serving
            .iter()
            .flat_map(|dictionary| dictionary.patterns.iter().map(move |pattern| (pattern, dictionary)))
            .collect();
        bound.sort_by(|(one, of_one), (other, of_other)| {
            let by_shape = one.name().split('.').map(rank).cmp(other.name().split('.').map(rank));
            by_shape.then_with(|| of_one.name.cmp(&of_other.name))
        });
        for (place, (pattern, dictionary)) in bound.into_iter().enumerate() {
            set.bind(place, pattern, dictionary);
        }
        set
    }

    /// The first one to come has the pattern.
    fn bind(&mut self, place: usize, pattern: &Pattern, dictionary: &Arc<Dictionary>) {
        match (pattern.is_wildcard(), pattern.kind()) {
            (false, _) => {
                self.plain.entry(pattern.as_str().into()).or_insert_with(|| Arc::clone(dictionary));
            }
            (true, Kind::Topic) => {
                self.topics.entry(pattern).get_or_insert_with(|| (place, Arc::clone(dictionary)));
            }
            (true, Kind::User) => {
                self.users.get_or_insert_with(|| Arc::clone(dictionary));
            }
            (true, _) => {
                self.groups.get_or_insert_with(|| Arc::clone(dictionary));
            }
        }
    }

    /// The dictionary for messages to this address.
    pub fn for_address(&self, address: &Address) -> Option<&Arc<Dictionary>> {
        if let Some(dictionary) = self.plain.get(address.as_str()) {
            return Some(dictionary);
        }
        match address.kind() {
            Kind::User => self.users.as_ref(),
            Kind::Group => self.groups.as_ref(),
            Kind::All => None,
            Kind::Topic => {
                let bound = self.topics.matches(address).into_iter().filter_map(Option::as_ref);
                bound.min_by_key(|(place, _)| *place).map(|(_, dictionary)| dictionary)
            }
        }
    }

    /// The latest revision that can be used.
    pub fn by_name(&self, name: &str) -> Option<&Arc<Dictionary>> {
        self.by_name.get(name)
    }

    /// Names with a revision that can be used.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The number of this set; a later one has a greater number, also after a restart.
    pub const fn generation(&self) -> u64 {
        self.generation
    }
}

/// How specific a token of a pattern is, the most specific first.
fn rank(token: &str) -> u8 {
    match token {
        ">" => 2,
        "*" => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
