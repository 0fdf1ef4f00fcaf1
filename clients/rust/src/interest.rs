//! What a client has asked for and keeps across connections.

use std::borrow::Cow;
use waspmq_protocol::client::Frame;
use waspmq_protocol::{From, Secret};

/// Something to be asked for again when a session does not go on.
#[derive(Debug, Clone)]
pub(crate) enum Interest {
    Subscription {
        to: String,
        queue: Option<String>,
        from: Option<From>,
    },
    Group(String),
    /// The watched users; there is one list, and each replaces the one before it.
    Watch(Vec<String>),
}

impl Interest {
    /// The request for it.
    pub(crate) fn frame(&self, reference: u64) -> Frame<'_> {
        let reference = Some(reference);
        match self {
            Self::Subscription { to, queue, from } => Frame::Subscribe {
                reference,
                to: to.as_str().into(),
                queue: queue.as_deref().map(Into::into),
                from: from.map(|from| from.to_string().into()),
            },
            Self::Group(group) => Frame::Join { reference, group: group.as_str().into() },
            Self::Watch(users) => {
                Frame::Watch { reference, users: users.iter().map(|user| user.as_str().into()).collect() }
            }
        }
    }

    /// The request to end it.
    pub(crate) fn end_frame(&self, reference: u64) -> Frame<'_> {
        let reference = Some(reference);
        match self {
            Self::Subscription { to, queue, .. } => Frame::Unsubscribe {
                reference,
                to: to.as_str().into(),
                queue: queue.as_deref().map(Into::into),
            },
            Self::Group(group) => Frame::Leave { reference, group: group.as_str().into() },
            Self::Watch(_) => Frame::Watch { reference, users: Vec::new() },
        }
    }

    /// The address it is about; a list of watched users has none.
    pub(crate) fn address(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Subscription { to, .. } => Some(to.as_str().into()),
            Self::Group(group) => Some(format!("group/{group}").into()),
            Self::Watch(_) => None,
        }
    }

    /// Whether both are about the same thing: one takes the other's place.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Subscription { to, queue, .. },
                Self::Subscription { to: other_to, queue: other_queue, .. },
            ) => to == other_to && queue == other_queue,
            (Self::Group(group), Self::Group(other)) => group == other,
            (Self::Watch(_), Self::Watch(_)) => true,
            _ => false,
        }
    }
}

/// What an `ok` changes.
#[derive(Debug)]
pub(crate) enum Change {
    Nothing,
    Add(Interest),
    Remove(Interest),
    /// The token of the next connect.
    Token(Secret<'static>),
}
