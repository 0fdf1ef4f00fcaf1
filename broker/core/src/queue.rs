//! Which queue: the name under which sessions share the messages of a pattern.
//!
//! Queues of one name on two patterns are two. Frames say the name only, so an ack or a nack with a name is about
//! every delivery of the message under it. Not here: members, see [`crate::registry::Queue`].

use crate::address::{Name, Pattern};
use std::fmt;
use std::sync::Arc;

/// What tells a queue from all others. Cheap to clone. Text form: `<name>/<pattern>`, which is unambiguous, as names
/// have no slash.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(Arc<(Name, Pattern)>);

impl QueueId {
    pub fn new(pattern: Pattern, name: Name) -> Self {
        Self(Arc::new((name, pattern)))
    }

    pub fn pattern(&self) -> &Pattern {
        &self.0.1
    }

    pub fn name(&self) -> &Name {
        &self.0.0
    }
}

impl fmt::Debug for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name(), self.pattern())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_on_two_patterns_is_two_queues() {
        let queue =
            |pattern, name| QueueId::new(Pattern::parse(pattern).unwrap(), Name::parse(name).unwrap());
        assert_eq!(queue("topic/a.*", "w"), queue("topic/a.*", "w"));
        assert_ne!(queue("topic/a.*", "w"), queue("topic/a.>", "w"));
        assert_ne!(queue("topic/a.*", "w"), queue("topic/a.*", "v"));
        assert_eq!(queue("topic/a.*", "w").to_string(), "w/topic/a.*");
    }
}
