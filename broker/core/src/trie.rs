//! A trie of topic patterns: from a topic to the values of every pattern that matches it.
//!
//! Used for wildcard subscriptions, once for the whole broker and once in each worker. A look-up visits at
//! most one node per stored token; patterns without wildcards are legal but belong into a hash map.

use crate::address::{Address, Pattern};
use hashbrown::HashMap;
use smallvec::SmallVec;

/// Values by pattern. `T` is whatever a pattern carries.
#[derive(Debug, Clone)]
pub struct Trie<T> {
    root: Node<T>,
    len: usize,
}

#[derive(Debug, Clone)]
struct Node<T> {
    literals: HashMap<Box<str>, Self, foldhash::fast::RandomState>,
    any: Option<Box<Self>>,
    /// The value of a pattern that ends here.
    here: Option<T>,
    /// The value of a pattern that ends here with `>`.
    rest: Option<T>,
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self { root: Node::default(), len: 0 }
    }
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { literals: HashMap::default(), any: None, here: None, rest: None }
    }
}

/// The values that matched a topic; few patterns match most topics.
pub type Matches<'a, T> = SmallVec<[&'a T; 8]>;

impl<T> Trie<T> {
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Patterns stored.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// The value of `pattern`, made with its default when it is new.
    pub fn entry(&mut self, pattern: &Pattern) -> &mut T
    where
        T: Default,
    {
        let mut node = &mut self.root;
        let mut is_rest = false;
        for token in tokens(pattern.as_str()) {
            match token {
                ">" => is_rest = true,
                "*" => node = node.any.get_or_insert_default(),
                literal => node = node.literals.entry(literal.into()).or_default(),
            }
        }
        let slot = if is_rest { &mut node.rest } else { &mut node.here };
        if slot.is_none() {
            self.len += 1;
        }
        slot.get_or_insert_default()
    }

    pub fn get(&self, pattern: &Pattern) -> Option<&T> {
        let mut node = &self.root;
        for token in tokens(pattern.as_str()) {
            match token {
                ">" => return node.rest.as_ref(),
                "*" => node = node.any.as_deref()?,
                literal => node = node.literals.get(literal)?,
            }
        }
        node.here.as_ref()
    }

    pub fn get_mut(&mut self, pattern: &Pattern) -> Option<&mut T> {
        let mut node = &mut self.root;
        for token in tokens(pattern.as_str()) {
            match token {
                ">" => return node.rest.as_mut(),
                "*" => node = node.any.as_deref_mut()?,
                literal => node = node.literals.get_mut(literal)?,
            }
        }
        node.here.as_mut()
    }

    /// Takes `pattern` out and frees the nodes that only it needed.
    pub fn remove(&mut self, pattern: &Pattern) -> Option<T> {
        let removed = self.root.remove(&mut tokens(pattern.as_str()));
        self.len -= usize::from(removed.is_some());
        removed
    }

    /// The values of all patterns that match `topic`; none for an address of another kind.
    pub fn matches(&self, topic: &Address) -> Matches<'_, T> {
        let mut found = Matches::new();
        if self.len > 0 && topic.kind() == crate::address::Kind::Topic {
            self.root.collect(topic.name().split('.'), &mut found);
        }
        found
    }
}

impl<T> Node<T> {
    fn is_unused(&self) -> bool {
        self.literals.is_empty() && self.any.is_none() && self.here.is_none() && self.rest.is_none()
    }

    fn remove<'a>(&mut self, tokens: &mut impl Iterator<Item = &'a str>) -> Option<T> {
        match tokens.next() {
            None => self.here.take(),
            Some(">") => self.rest.take(),
            Some("*") => {
                let child = self.any.as_mut()?;
                let removed = child.remove(tokens);
                if child.is_unused() {
                    self.any = None;
                }
                removed
            }
            Some(literal) => {
                let child = self.literals.get_mut(literal)?;
                let removed = child.remove(tokens);
                if child.is_unused() {
                    self.literals.remove(literal);
                }
                removed
            }
        }
    }

    fn collect<'a>(&'a self, mut tokens: std::str::Split<'_, char>, found: &mut Matches<'a, T>) {
        let Some(token) = tokens.next() else {
            found.extend(&self.here);
            return;
        };
        found.extend(&self.rest);
        if let Some(child) = self.literals.get(token) {
            child.collect(tokens.clone(), found);
        }
        if let Some(child) = &self.any {
            child.collect(tokens, found);
        }
    }
}

fn tokens(pattern: &str) -> std::str::Split<'_, char> {
    pattern.strip_prefix("topic/").unwrap_or(pattern).split('.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern_text() -> impl Strategy<Value = String> {
        (prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("*")], 0..4), any::<bool>()).prop_map(
            |(mut tokens, rest)| {
                if rest || tokens.is_empty() {
                    tokens.push(">");
                }
                format!("topic/{}", tokens.join("."))
            },
        )
    }

    fn topic_text() -> impl Strategy<Value = String> {
        prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c")], 1..5)
            .prop_map(|tokens| format!("topic/{}", tokens.join(".")))
    }

    proptest! {
        #[test]
        fn agrees_with_matching_each_pattern(
            changes in prop::collection::vec((pattern_text(), any::<bool>()), 0..40),
            topics in prop::collection::vec(topic_text(), 1..20),
        ) {
            let mut trie: Trie<String> = Trie::default();
            let mut model = std::collections::BTreeSet::new();
            for (text, add) in changes {
                let pattern = Pattern::parse(&text).unwrap();
                if add {
                    *trie.entry(&pattern) = text.clone();
                    model.insert(text);
                } else {
                    prop_assert_eq!(trie.remove(&pattern).is_some(), model.remove(&text));
                }
                prop_assert_eq!(trie.len(), model.len());
            }
            if model.is_empty() {
                prop_assert!(trie.root.is_unused(), "empty trie keeps no nodes");
            }
            for topic in topics {
                let topic = Address::parse(&topic).unwrap();
                let mut found: Vec<_> = trie.matches(&topic).into_iter().cloned().collect();
                found.sort();
                let expected: Vec<_> = model
                    .iter()
                    .filter(|text| Pattern::parse(text).unwrap().matches(&topic))
                    .cloned()
                    .collect();
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn other_kinds_match_nothing() {
        let mut trie: Trie<u8> = Trie::default();
        *trie.entry(&Pattern::parse("topic/>").unwrap()) = 1;
        assert!(trie.matches(&Address::parse("user/a").unwrap()).is_empty());
        assert!(trie.matches(&Address::parse("all").unwrap()).is_empty());
        assert_eq!(trie.matches(&Address::parse("topic/a").unwrap()).as_slice(), [&1]);
    }
}
